/* SPDX-License-Identifier: MIT */
/*
** test_engine_end.c: engines that come to an end by themselves (`drain`,
** `max_jobs`), and the part of a stop that does not wait.
*/
#include "engines.h"

#include <time.h>

static void expect_closed(dibs_engine *engine) {
  dibs_run *run = NULL;
  expect_engine(engine, dibs_engine_next(engine, LONG, &run), DIBS_CLOSED);
  expect_true(!run);
}

/* ---- Draining ------------------------------------------------------------- */

static void draining_ends_when_nothing_can_be_claimed(void **state) {
  fixture *f = *state;
  dibs_job_options later = no_options();
  dibs_engine_options options = engine_options(2);
  later.at = (int64_t)time(NULL) * 1000 + HOUR;
  int64_t scheduled = put_with(f, "q", "1", &later);
  fill(f, 5);
  options.drain = 1;
  dibs_engine *engine = start(f, &options);
  for (int i = 0; i < 5; i++)
    expect_int(finish(engine, take_run(engine), DIBS_ACK), DIBS_OK);
  expect_closed(engine);
  expect_closed(engine);
  put(f, "q", "1");
  expect_closed(engine);
  stop_and_close(engine);
  expect_state(f, scheduled, DIBS_SCHEDULED);
  expect_int(counts(f, "q").ready, 1);
}

static void draining_goes_on_with_what_a_run_leaves(void **state) {
  fixture *f = *state;
  dibs_job_options lane = no_options();
  dibs_engine_options options = engine_options(4);
  lane.key = "k";
  int64_t ids[2] = {put_with(f, "q", "1", &lane), put_with(f, "q", "2", &lane)};
  const struct {
    int64_t id;
    int action;
  } steps[] = {{ids[0], DIBS_RELEASE}, {ids[0], DIBS_ACK}, {ids[1], DIBS_ACK}};
  options.drain = 1;
  dibs_engine *engine = start(f, &options);
  for (size_t i = 0; i < COUNT(steps); i++) {
    dibs_run *run = take_run(engine);
    expect_int(run->job->id, steps[i].id);
    expect_int(finish(engine, run, steps[i].action), DIBS_OK);
  }
  expect_closed(engine);
  stop_and_close(engine);
}

/* Who sleeps meanwhile is told of the end. */
static void draining_waits_for_its_runs(void **state) {
  fixture *f = *state;
  call waiters[2];
  dibs_engine_options options = engine_options(4);
  options.drain = 1;
  fill(f, 1);
  dibs_engine *engine = start(f, &options);
  dibs_run *run = take_run(engine);
  for (int i = 0; i < 2; i++)
    call_start(&waiters[i], call_next, engine, DIBS_FOREVER);
  eventually(sidecar_waiters(f) == 1);
  expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  for (int i = 0; i < 2; i++) expect_int(call_end(&waiters[i]), DIBS_CLOSED);
  stop_and_close(engine);
}

static void event_loops_are_told_of_the_end(void **state) {
  fixture *f = *state;
  told t;
  dibs_run *run;
  dibs_engine_options options = telling_options(2, &t);
  tell_ready(&options);
  options.drain = 1;
  fill(f, 1);
  dibs_engine *engine = start(f, &options);
  eventually(t.ready == 1);
  expect_engine(engine, dibs_engine_next(engine, 0, &run), DIBS_OK);
  expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  eventually(t.ready == 2);
  expect_engine(engine, dibs_engine_next(engine, 0, &run), DIBS_CLOSED);
  expect_int(t.settled, 1);
  stop_and_close(engine);
}

/* ---- So many jobs ---------------------------------------------------------- */

static void no_more_jobs_are_claimed_than_asked_for(void **state) {
  fixture *f = *state;
  dibs_run *runs[3];
  dibs_engine_options options = engine_options(4);
  fill(f, 6);
  options.max_jobs = 3;
  dibs_engine *engine = start(f, &options);
  for (int i = 0; i < 3; i++) runs[i] = take_run(engine);
  expect_closed(engine);
  expect_int(counts(f, "q").running, 3);
  expect_int(finish(engine, runs[0], DIBS_ACK), DIBS_OK);
  expect_int(settle(engine, runs[1], DIBS_RELEASE), DIBS_OK);
  expect_int(settle(engine, runs[2], DIBS_RELEASE), DIBS_OK);
  expect_closed(engine);
  stop_and_close(engine);
  expect_int(counts(f, "q").ready, 5);
}

/* Who sleeps until there is a free slot is told that no job will come. */
static void the_last_job_ends_every_wait(void **state) {
  fixture *f = *state;
  call waiters[5];
  dibs_run *last = NULL;
  int closed = 0;
  dibs_engine_options options = engine_options(1);
  fill(f, 3);
  options.max_jobs = 2;
  dibs_engine *engine = start(f, &options);
  dibs_run *run = take_run(engine);
  for (int i = 0; i < 5; i++)
    call_start(&waiters[i], call_next, engine, DIBS_FOREVER);
  expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  for (int i = 0; i < 5; i++) {
    closed += call_end(&waiters[i]) == DIBS_CLOSED;
    if (waiters[i].run) last = waiters[i].run;
  }
  expect_int(closed, 4);
  expect_int(finish(engine, last, DIBS_ACK), DIBS_OK);
  stop_and_close(engine);
  expect_int(counts(f, "q").ready, 1);
}

static void a_wrong_number_of_jobs_is_refused(void **state) {
  fixture *f = *state;
  dibs_engine *engine;
  dibs_open_options open = system_options();
  dibs_engine_options options = engine_options(1);
  options.max_jobs = 0;
  expect_int(dibs_engine_open(f->path, &open, &options, &engine), DIBS_INVALID);
  expect_says(dibs_engine_error(engine), "max_jobs is 0");
  expect_int(dibs_engine_close(engine), DIBS_OK);
}

/* ---- Beginning to stop ------------------------------------------------------ */

static void a_stop_that_begins_waits_for_nobody(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(3);
  fill(f, 5);
  dibs_engine *engine = start(f, &options);
  dibs_run *run = take_run(engine);
  int64_t id = run->job->id;
  dibs_engine_stop_begin(engine);
  dibs_engine_stop_begin(engine);
  expect_true(dibs_run_flags(run) & DIBS_RUN_STOPPING);
  expect_closed(engine);
  /* What nobody had begun goes back while the run goes on. */
  eventually(counts(f, "q").ready == 4);
  expect_state(f, id, DIBS_RUNNING);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_jobs WHERE attempt > 0"), 1);
  expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  expect_engine(engine, dibs_engine_stop(engine, LONG, NULL), DIBS_OK);
  expect_gone(f, id);
  stop_and_close(engine);
  dibs_engine_stop_begin(NULL);
}

/* However long the handle would wait by itself. */
static void a_stop_does_not_wait_for_a_writer_for_ever(void **state) {
  fixture *f = *state;
  dibs_open_options open = system_options();
  dibs_engine_options options = engine_options(1);
  open.busy_timeout = HOUR;
  int64_t id = put(f, "q", "1");
  dibs_engine *engine = start_with(f, &open, &options);
  dibs_run *run = take_run(engine);
  sqlite3 *locker = lock_writes(f);
  expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  expect_engine(engine, dibs_engine_stop(engine, 0, NULL), DIBS_BUSY);
  unlock_writes(locker);
  expect_state(f, id, DIBS_RUNNING);
  expect_int(dibs_engine_close(engine), DIBS_OK);
  expect_gone(f, id);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_SYSTEM(draining_ends_when_nothing_can_be_claimed),
      TEST_SYSTEM(draining_goes_on_with_what_a_run_leaves),
      TEST_SYSTEM(draining_waits_for_its_runs),
      TEST_SYSTEM(event_loops_are_told_of_the_end),
      TEST_SYSTEM(no_more_jobs_are_claimed_than_asked_for),
      TEST_SYSTEM(the_last_job_ends_every_wait),
      TEST_SYSTEM(a_wrong_number_of_jobs_is_refused),
      TEST_SYSTEM(a_stop_that_begins_waits_for_nobody),
      TEST_SYSTEM(a_stop_does_not_wait_for_a_writer_for_ever),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
