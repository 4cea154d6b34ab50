/* SPDX-License-Identifier: MIT */
/*
** No wake is lost: producers and waiters in several processes, with random
** pauses, and with processes that are stopped and go on. Each waiter claims one
** job at a time and waits for the next. A producer has a queue of its own, and
** mostly waits until its jobs are done before it goes on, lest the wake of a
** later job make up for a lost one.
**
** A waiter looks by itself after the fallback interval, and monitors let one look
** when the file was written, which would hide a lost wake. So this process holds
** the monitors' parts. The sidecar counts the waits that found something that way only
** ("rescues"): there must be none as long as no process is stopped, for a
** stopped one may take a wake with it. Every job is done once in any case.
**
** DIBS_TEST_JOBS jobs in each of the two parts.
*/
#include "harness.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PRODUCERS 3
#define WAITERS   6

/* What the processes of a part share. */
struct board_of_test {
  _Atomic int64_t done;
  _Atomic int64_t done_of[PRODUCERS];
  _Atomic int64_t longest; /* ms from enqueue to claim */
  _Atomic int failures;
};

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void pause_for(long microseconds) {
  struct timespec pause = {.tv_nsec = microseconds * 1000};
  nanosleep(&pause, NULL);
}

static dibs_db *process_open(const char *path) {
  dibs_db *db;
  dibs_open_options options = DIBS_OPEN_OPTIONS_INIT;
  options.synchronous = DIBS_SYNCHRONOUS_NORMAL;
  if (dibs_open(path, &options, &db)) {
    fprintf(stderr, "open: %s\n", dibs_error(db));
    _exit(1);
  }
  return db;
}

static const char *const queues[PRODUCERS] = {"a", "b", "c/d"};

/* Single jobs with pauses, and now and then some at once. */
static void produce(const char *path, struct board_of_test *board, int number,
                    int64_t jobs, unsigned seed) {
  dibs_db *db = process_open(path);
  int64_t made = 0;
  while (jobs > 0) {
    dibs_new_job batch[5];
    char payload[32];
    size_t count = rand_r(&seed) % 8 ? 1 : 1 + (size_t)rand_r(&seed) % 5;
    if ((int64_t)count > jobs) count = (size_t)jobs;
    snprintf(payload, sizeof payload, "%lld", (long long)now_ms());
    for (size_t i = 0; i < count; i++)
      batch[i] = (dibs_new_job){queues[number], dibs_json(payload), NULL};
    if (dibs_enqueue_many(db, batch, count, NULL)) {
      fprintf(stderr, "enqueue: %s\n", dibs_error(db));
      _exit(1);
    }
    jobs -= (int64_t)count;
    made += (int64_t)count;
    bool follows = rand_r(&seed) % 16 != 0;
    while (follows && atomic_load(&board->done_of[number]) < made)
      pause_for(20);
    if (rand_r(&seed) % 4)
      pause_for(rand_r(&seed) % (rand_r(&seed) % 8 ? 300 : 5000));
  }
  dibs_close(db);
  _exit(0);
}

static void job_note(struct board_of_test *board, int number,
                     const dibs_job *job) {
  int64_t waited = now_ms() - strtoll(job->payload.data, NULL, 10);
  int64_t longest = atomic_load(&board->longest);
  while (waited > longest &&
         !atomic_compare_exchange_weak(&board->longest, &longest, waited)) {
  }
  atomic_fetch_add(&board->done_of[number], 1);
  atomic_fetch_add(&board->done, 1);
}

static void consume(const char *path, struct board_of_test *board, int number,
                    int64_t jobs, unsigned seed) {
  dibs_db *db = process_open(path);
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  options.wait = 200;
  options.lease = DAY;
  while (atomic_load(&board->done) < jobs) {
    dibs_job_list *list;
    /* Mostly as long as it takes; now and then shorter than the fallback. */
    options.wait = rand_r(&seed) % 50 ? 5000 : 20;
    int status = dibs_claim(db, &queues[number], 1, &options, &list);
    if (status == DIBS_EMPTY) continue;
    if (status || dibs_ack(db, list->jobs[0].receipt, NULL)) {
      fprintf(stderr, "consume: %s\n", dibs_error(db));
      _exit(1);
    }
    job_note(board, number, &list->jobs[0]);
    dibs_job_list_free(list);
    if (!(rand_r(&seed) % 16)) pause_for(rand_r(&seed) % 1000);
  }
  dibs_close(db);
  _exit(0);
}

/* Stop and continue random waiters until the producers have ended and the jobs
** are done. */
static void stop_some(const pid_t *waiters, struct board_of_test *board,
                      int64_t jobs, unsigned seed) {
  while (atomic_load(&board->done) < jobs) {
    pid_t pid = waiters[(size_t)rand_r(&seed) % WAITERS];
    kill(pid, SIGSTOP);
    pause_for(1000 + rand_r(&seed) % 30000);
    kill(pid, SIGCONT);
    pause_for(rand_r(&seed) % 20000);
  }
}

static void stress(fixture *f, bool stops) {
  unsigned seed = (unsigned)environment_number("DIBS_TEST_SEED", time(NULL));
  int64_t jobs = environment_number("DIBS_TEST_JOBS", 60000) / slowness();
  jobs -= jobs % PRODUCERS;
  struct board_of_test *board =
      mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE,
           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t waiters[WAITERS], producers[PRODUCERS];
  expect_true(board != MAP_FAILED);
  int locks = monitors_stop(f);
  printf("seed %u, %lld jobs%s\n", seed, (long long)jobs,
         stops ? ", waiters are stopped at random" : "");
  fflush(stdout);
  for (unsigned i = 0; i < WAITERS; i++)
    if (!(waiters[i] = fork()))
      consume(f->path, board, (int)i % PRODUCERS, jobs, seed + i);
  for (unsigned i = 0; i < PRODUCERS; i++)
    if (!(producers[i] = fork()))
      produce(f->path, board, (int)i, jobs / PRODUCERS, seed + 100 + i);
  if (stops) stop_some(waiters, board, jobs, seed);
  for (int i = 0; i < WAITERS + PRODUCERS; i++) {
    int status;
    waitpid(i < WAITERS ? waiters[i] : producers[i - WAITERS], &status, 0);
    expect_int(status, 0);
  }
  uint64_t rescues = sidecar_counter(f, RESCUES);
  printf("%llu signals, %llu wakes, %llu rescued by the fallback, "
         "the longest wait %lld ms\n",
         (unsigned long long)sidecar_counter(f, SIGNALS),
         (unsigned long long)sidecar_counter(f, WAKES),
         (unsigned long long)rescues, (long long)atomic_load(&board->longest));
  expect_int(atomic_load(&board->done), jobs);
  for (int i = 0; i < PRODUCERS; i++) {
    dibs_queue_stats stats = counts(f, queues[i]);
    expect_int(stats.ready + stats.running + stats.dead, 0);
  }
  if (!stops) expect_int(rescues, 0);
  munmap(board, sizeof *board);
  close(locks);
}

static void no_wake_is_lost(void **state) {
  stress(*state, false);
}

static void stopped_waiters_delay_a_job_by_the_fallback_at_most(void **state) {
  stress(*state, true);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(no_wake_is_lost),
      TEST(stopped_waiters_delay_a_job_by_the_fallback_at_most),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
