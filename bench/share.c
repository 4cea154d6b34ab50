/* SPDX-License-Identifier: MIT */
/*
** share.c: what threads that enqueue at the same time get from sharing commits.
**
**     bench/run share [--folder F] [--threads N] [--milliseconds N]
**                     [--rounds N] [--synchronous normal|full]
**
** Jobs of 100 bytes, one at a time, each durable when the call returns:
**
** - bare transaction: SQLite alone, one row in a transaction
** - one thread: dibs_enqueue(), one commit each
** - handles: so many threads, each with a handle of its own: one commit each
** - shared: as many threads, on one handle
** - begun: one thread, dibs_enqueue_begin(), as many under way at a time
** - batch: one thread, dibs_enqueue_many() with as many at a time: what sharing
**   could be at best
**
** They take turns, each with a new database for each round. Times are of single
** calls, in the last round; ratios are to the handles, and to the one thread,
** of the same round.
*/
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "measure.h"
#include "plain.h"

#define THREADS_MAX 1000
#define ROUNDS_MAX  100
#define TIMES_MAX   2000000

static const char HELP[] =
    "bench/run share: what threads that enqueue get from sharing commits\n"
    "  --folder F              where, default .\n"
    "  --threads N             default 64\n"
    "  --milliseconds N        of each way in each round, default 1000\n"
    "  --rounds N              default 9\n"
    "  --synchronous S         normal or full, the default here\n";

enum way { BARE, ONE, HANDLES, SHARED, BEGUN, BATCH, WAYS };

static const char *const WAY[WAYS] = {
    "bare transaction", "one thread", "handles", "shared", "begun", "batch"};

struct enqueuers {
  const char *path;
  const char *payload;
  int synchronous;
  size_t threads;
  double length;
  struct gate gate;
  double until;
  dibs_db *db; /* the shared one */
};

struct enqueuer {
  struct enqueuers *all;
  dibs_db *db;
  double *times; /* of calls, in seconds */
  size_t count;
  size_t room;
  pthread_t thread;
};

/* What a way gave in a round. */
struct result {
  double rate;
  double processor; /* seconds for a job */
  double p50;
  double p99;
};

/* ------------------------------------------------------------------------ */
/* Enqueuing                                                                */
/* ------------------------------------------------------------------------ */

static void *thread_main(void *context) {
  struct enqueuer *mine = context;
  struct enqueuers *all = mine->all;
  dibs_payload payload = dibs_json(all->payload);
  gate_wait(&all->gate);
  double began = seconds();
  while (began < all->until) {
    must(mine->db, dibs_enqueue(mine->db, "bench", payload, NULL, NULL));
    double ended = seconds();
    if (mine->count < mine->room) mine->times[mine->count] = ended - began;
    mine->count++;
    began = ended;
  }
  return NULL;
}

static void result_take(struct result *result, double *times, size_t count,
                        size_t jobs, double took) {
  values_sort(times, count);
  result->p50 = value_at(times, count, 0.5);
  result->p99 = value_at(times, count, 0.99);
  result->rate = (double)jobs / took;
}

static void threads_measure(struct enqueuers *all, size_t count, int own,
                            struct result *result) {
  struct enqueuer *each = calloc(count, sizeof *each);
  size_t jobs = 0, kept = 0, room = TIMES_MAX / count;
  double *times = calloc(TIMES_MAX, sizeof *times);
  if (!each || !times) give_up("no memory");
  for (size_t i = 0; i < count; i++) {
    each[i] = (struct enqueuer){
        .all = all, .db = all->db, .times = times + i * room, .room = room};
    if (own) each[i].db = db_open(all->path, all->synchronous);
    if (pthread_create(&each[i].thread, NULL, thread_main, &each[i]) != 0)
      give_up("no thread %zu", i);
  }
  while (atomic_load(&all->gate.arrived) < count) sleep_microseconds(1000);
  double began = seconds();
  all->until = began + all->length;
  gate_open(&all->gate, (uint32_t)count);
  for (size_t i = 0; i < count; i++) pthread_join(each[i].thread, NULL);
  double took = seconds() - began;
  for (size_t i = 0; i < count; i++) {
    size_t had = each[i].count < room ? each[i].count : room;
    memmove(times + kept, each[i].times, had * sizeof *times);
    kept += had;
    jobs += each[i].count;
    if (own) dibs_close(each[i].db);
  }
  result_take(result, times, kept, jobs, took);
  free(times);
  free(each);
}

/* What is under way of dibs_enqueue_begin(). */
struct begun {
  pthread_mutex_t mutex;
  pthread_cond_t room;
  size_t under_way;
};

struct begun_job {
  struct begun *begun;
  dibs_new_job job;
  double at;
  double took;
};

static void begun_done(void *context, int status, const char *message,
                       int64_t error_id) {
  struct begun_job *job = context;
  (void)error_id;
  if (status != DIBS_OK) give_up("%s", message);
  job->took = seconds() - job->at;
  pthread_mutex_lock(&job->begun->mutex);
  job->begun->under_way--;
  pthread_cond_signal(&job->begun->room);
  pthread_mutex_unlock(&job->begun->mutex);
}

static void begun_measure(struct enqueuers *all, struct result *result) {
  struct begun begun = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
  struct begun_job *jobs = calloc(TIMES_MAX, sizeof *jobs);
  double *times = calloc(TIMES_MAX, sizeof *times);
  size_t count = 0;
  if (!jobs || !times) give_up("no memory");
  double began = seconds();
  while (seconds() < began + all->length && count < TIMES_MAX) {
    pthread_mutex_lock(&begun.mutex);
    while (begun.under_way == all->threads)
      pthread_cond_wait(&begun.room, &begun.mutex);
    begun.under_way++;
    pthread_mutex_unlock(&begun.mutex);
    struct begun_job *job = &jobs[count++];
    job->begun = &begun;
    job->job = (dibs_new_job){"bench", dibs_json(all->payload), NULL};
    job->at = seconds();
    must(all->db,
         dibs_enqueue_begin(all->db, &job->job, 1, NULL, begun_done, job));
  }
  pthread_mutex_lock(&begun.mutex);
  while (begun.under_way) pthread_cond_wait(&begun.room, &begun.mutex);
  pthread_mutex_unlock(&begun.mutex);
  double took = seconds() - began;
  for (size_t i = 0; i < count; i++) times[i] = jobs[i].took;
  result_take(result, times, count, count, took);
  free(times);
  free(jobs);
}

static void batch_measure(struct enqueuers *all, struct result *result) {
  static dibs_new_job jobs[THREADS_MAX];
  double *times = calloc(TIMES_MAX, sizeof *times);
  size_t count = 0;
  if (!times) give_up("no memory");
  for (size_t i = 0; i < all->threads; i++)
    jobs[i] = (dibs_new_job){"bench", dibs_json(all->payload), NULL};
  double began = seconds(), ended = began;
  while (ended < began + all->length && count < TIMES_MAX) {
    double before = ended;
    must(all->db, dibs_enqueue_many(all->db, jobs, all->threads, NULL));
    ended = seconds();
    times[count++] = ended - before;
  }
  result_take(result, times, count, count * all->threads, ended - began);
  free(times);
}

static double processor_time(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void way_measure(const struct enqueuers *options, enum way way,
                        struct result *result) {
  struct enqueuers all = *options;
  double processor = processor_time();
  if (way == BARE) {
    result->rate =
        plain_rate(scratch_path("plain.db"), all.synchronous, all.length);
    result->processor =
        (processor_time() - processor) / (result->rate * all.length);
    return;
  }
  all.db = db_open(all.path, all.synchronous);
  if (way == BEGUN)
    begun_measure(&all, result);
  else if (way == BATCH)
    batch_measure(&all, result);
  else
    threads_measure(&all, way == ONE ? 1 : all.threads, way == HANDLES, result);
  result->processor =
      (processor_time() - processor) / (result->rate * all.length);
  dibs_close(all.db);
  database_remove(all.path);
}

/* ------------------------------------------------------------------------ */
/* Figures                                                                  */
/* ------------------------------------------------------------------------ */

static struct result results[WAYS][ROUNDS_MAX];

static struct spread ratio_of(enum way way, enum way to, size_t rounds) {
  double ratios[ROUNDS_MAX];
  for (size_t i = 0; i < rounds; i++)
    ratios[i] = results[way][i].rate / results[to][i].rate;
  return spread_of(ratios, rounds);
}

static void print_row(enum way way, size_t rounds) {
  double rates[ROUNDS_MAX], processor[ROUNDS_MAX];
  const struct result *last = &results[way][rounds - 1];
  for (size_t i = 0; i < rounds; i++) {
    rates[i] = results[way][i].rate;
    processor[i] = results[way][i].processor;
  }
  struct spread rate = spread_of(rates, rounds);
  printf("%-16s %8.0f %8.0f %8.0f", WAY[way], rate.median, rate.least,
         rate.most);
  print_ratio(ratio_of(way, HANDLES, rounds));
  print_ratio(ratio_of(way, ONE, rounds));
  printf(" %7.1f", median(processor, rounds) * 1e6);
  if (last->p50 > 0) printf("  %8.3f %8.3f", last->p50 * 1e3, last->p99 * 1e3);
  printf("\n");
}

static void print_rows(size_t rounds) {
  printf(
      "                 jobs a second              ratio to handles        "
      "   to one thread             processor  a call, ms\n"
      "                   median    least     most   median (least to most)  "
      "    median (least to most)  µs a job       p50      p99\n");
  for (int way = 0; way < WAYS; way++) print_row((enum way)way, rounds);
}

int main(int argc, char **argv) {
  options_check(argc, argv, HELP);
  size_t rounds = (size_t)option_number(argc, argv, "rounds", 9);
  struct enqueuers options = {
      .threads = (size_t)option_number(argc, argv, "threads", 64),
      .length = (double)option_number(argc, argv, "milliseconds", 1000) / 1e3,
      .synchronous = option_synchronous(argc, argv, "full"),
      .payload = json_of(100)};
  if (options.threads > THREADS_MAX || rounds > ROUNDS_MAX)
    give_up("at most %d threads and %d rounds", THREADS_MAX, ROUNDS_MAX);
  scratch_folder(option_text(argc, argv, "folder", "."));
  options.path = scratch_path("jobs.db");
  for (size_t round = 0; round < rounds; round++)
    for (size_t i = 0; i < WAYS; i++) {
      size_t way = (round + i) % WAYS;
      way_measure(&options, (enum way)way, &results[way][round]);
    }
  print_machine();
  printf("%zu threads that enqueue, synchronous %s, %.1f s each way, %zu "
         "rounds\n\n",
         options.threads, synchronous_name(options.synchronous), options.length,
         rounds);
  print_rows(rounds);
  return 0;
}
