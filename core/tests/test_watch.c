/* SPDX-License-Identifier: MIT */
/*
** Watches: blocking, by callback, by a descriptor to poll.
*/
#include "harness.h"

#include <poll.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 10000 /* ms that nothing takes */

static dibs_watch *watch_open(fixture *f, const char *queue,
                              const dibs_watch_options *options) {
  dibs_watch *watch;
  dibs_open_options open = fixture_options(f);
  int status = dibs_watch_open(f->path, &open, &queue, 1, options, &watch);
  if (status) fprintf(stderr, "watch: %s\n", dibs_watch_error(watch));
  expect_int(status, DIBS_OK);
  return watch;
}

/* Enqueue, a moment later, by another thread with a handle of its own. */
struct later {
  dibs_db *db;
  const char *queue;
  pthread_t thread;
};

static void *later_main(void *context) {
  struct later *later = context;
  struct timespec moment = {.tv_nsec = 20000000};
  nanosleep(&moment, NULL);
  dibs_enqueue(later->db, later->queue, dibs_none(), NULL, NULL);
  return NULL;
}

static void later_start(fixture *f, struct later *later, const char *queue) {
  later->db = open_another(f);
  later->queue = queue;
  expect_int(pthread_create(&later->thread, NULL, later_main, later), 0);
}

static void later_end(struct later *later) {
  pthread_join(later->thread, NULL);
  dibs_close(later->db);
}

static void waiting_ends_with_an_enqueue(void **state) {
  fixture *f = *state;
  struct later later;
  dibs_watch *watch = watch_open(f, "a/*", NULL);
  later_start(f, &later, "a/1");
  expect_int(dibs_watch_wait(watch, PATIENCE), DIBS_OK);
  later_end(&later);
  /* It is there still: nobody has claimed it. */
  expect_int(dibs_watch_wait(watch, 0), DIBS_OK);
  take(f, "a/1");
  expect_int(dibs_watch_wait(watch, 0), DIBS_EMPTY);
  expect_int(dibs_watch_close(watch), DIBS_OK);
}

static void other_queues_do_not_end_it(void **state) {
  fixture *f = *state;
  dibs_watch *watch = watch_open(f, "a", NULL);
  put(f, "b", "1");
  expect_int(dibs_watch_wait(watch, 30), DIBS_EMPTY);
  expect_int(dibs_watch_close(watch), DIBS_OK);
}

static void a_due_time_ends_it(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  dibs_watch *watch = watch_open(f, "q", NULL);
  options.delay = MINUTE;
  put_with(f, "q", "1", &options);
  expect_int(dibs_watch_wait(watch, 30), DIBS_EMPTY);
  f->now += MINUTE;
  expect_int(dibs_watch_wait(watch, PATIENCE), DIBS_OK);
  expect_int(dibs_watch_close(watch), DIBS_OK);
}

static void *interrupt_main(void *context) {
  struct timespec moment = {.tv_nsec = 20000000};
  nanosleep(&moment, NULL);
  dibs_watch_interrupt(context);
  return NULL;
}

static void an_interrupt_ends_it(void **state) {
  fixture *f = *state;
  pthread_t thread;
  dibs_watch *watch = watch_open(f, "q", NULL);
  expect_int(pthread_create(&thread, NULL, interrupt_main, watch), 0);
  expect_int(dibs_watch_wait(watch, DIBS_FOREVER), DIBS_INTERRUPTED);
  pthread_join(thread, NULL);
  expect_int(dibs_watch_close(watch), DIBS_OK);
}

/* Whether the descriptor becomes readable within so many ms. */
static int readable(dibs_watch *watch, int milliseconds) {
  struct pollfd polled = {dibs_watch_descriptor(watch), POLLIN, 0};
  return poll(&polled, 1, milliseconds) == 1;
}

static void a_descriptor_tells_once_until_armed(void **state) {
  fixture *f = *state;
  dibs_watch_options options = DIBS_WATCH_OPTIONS_INIT;
  options.descriptor = 1;
  dibs_watch *watch = watch_open(f, "q", &options);
  expect_true(dibs_watch_descriptor(watch) >= 0);
  expect_true(!readable(watch, 30));
  put(f, "q", "1");
  expect_true(readable(watch, PATIENCE));
  take(f, "q");
  expect_int(dibs_watch_arm(watch), DIBS_OK);
  expect_true(!readable(watch, 30));
  put(f, "q", "2");
  expect_true(readable(watch, PATIENCE));
  /* Nobody took it: it tells again at once. */
  expect_int(dibs_watch_arm(watch), DIBS_OK);
  expect_true(readable(watch, PATIENCE));
  expect_int(dibs_watch_close(watch), DIBS_OK);
}

struct calls {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  int count;
  int status;
};

static void called(void *context, int status) {
  struct calls *calls = context;
  pthread_mutex_lock(&calls->mutex);
  calls->count++;
  calls->status = status;
  pthread_cond_signal(&calls->changed);
  pthread_mutex_unlock(&calls->mutex);
}

static int calls_await(struct calls *calls, int count) {
  struct timespec end;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += PATIENCE / 1000;
  pthread_mutex_lock(&calls->mutex);
  while (calls->count < count &&
         !pthread_cond_timedwait(&calls->changed, &calls->mutex, &end)) {
  }
  int so_many = calls->count;
  pthread_mutex_unlock(&calls->mutex);
  return so_many;
}

static void a_callback_is_called_once_until_armed(void **state) {
  fixture *f = *state;
  struct calls calls = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0,
                        -1};
  dibs_watch_options options = DIBS_WATCH_OPTIONS_INIT;
  options.callback = called;
  options.context = &calls;
  dibs_watch *watch = watch_open(f, "q", &options);
  expect_int(dibs_watch_descriptor(watch), -1);
  for (int i = 1; i <= 3; i++) {
    put(f, "q", "1");
    expect_int(calls_await(&calls, i), i);
    expect_int(calls.status, DIBS_OK);
    put(f, "q", "2");
    take(f, "q");
    take(f, "q");
    expect_int(dibs_watch_arm(watch), DIBS_OK);
  }
  expect_int(dibs_watch_close(watch), DIBS_OK);
  expect_int(calls.count, 3);
}

/* Whoever only looks must not take the wake of one who claims. */
static void a_watch_takes_no_wake_from_a_claim(void **state) {
  fixture *f = *state;
  struct later later;
  dibs_job_list *jobs;
  const char *queue = "q";
  dibs_claim_options claim = DIBS_CLAIM_OPTIONS_INIT;
  dibs_watch_options options = DIBS_WATCH_OPTIONS_INIT;
  claim.wait = PATIENCE;
  options.descriptor = 1;
  dibs_watch *watch = watch_open(f, queue, &options);
  for (int i = 0; i < 5; i++) {
    later_start(f, &later, queue);
    expect_ok(f->db, dibs_claim(f->db, &queue, 1, &claim, &jobs));
    dibs_job_list_free(jobs);
    later_end(&later);
    expect_int(dibs_watch_arm(watch), DIBS_OK);
  }
  expect_int(dibs_watch_close(watch), DIBS_OK);
}

static void wrong_calls_are_refused(void **state) {
  fixture *f = *state;
  dibs_watch *watch;
  const char *queue = "a*b";
  dibs_open_options open = fixture_options(f);
  dibs_watch_options options = DIBS_WATCH_OPTIONS_INIT;
  expect_int(dibs_watch_open(f->path, &open, &queue, 1, NULL, &watch),
             DIBS_INVALID);
  expect_says(dibs_watch_error(watch), "a*b");
  expect_int(dibs_watch_close(watch), DIBS_OK);
  queue = "q";
  options.size = 1;
  expect_int(dibs_watch_open(f->path, &open, &queue, 1, &options, &watch),
             DIBS_MISUSE);
  expect_int(dibs_watch_close(watch), DIBS_OK);
  expect_int(
      dibs_watch_open("/nowhere/at/all.db", NULL, &queue, 1, NULL, &watch),
      DIBS_IO);
  expect_int(dibs_watch_close(watch), DIBS_OK);
  watch = watch_open(f, "q", NULL);
  expect_int(dibs_watch_arm(watch), DIBS_MISUSE);
  expect_int(dibs_watch_wait(watch, -5), DIBS_INVALID);
  expect_int(dibs_watch_close(watch), DIBS_OK);
  expect_int(dibs_watch_close(NULL), DIBS_OK);
  expect_int(dibs_watch_wait(NULL, 0), DIBS_MISUSE);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(waiting_ends_with_an_enqueue),
      TEST(other_queues_do_not_end_it),
      TEST(a_due_time_ends_it),
      TEST(an_interrupt_ends_it),
      TEST(a_descriptor_tells_once_until_armed),
      TEST(a_callback_is_called_once_until_armed),
      TEST(a_watch_takes_no_wake_from_a_claim),
      TEST(wrong_calls_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
