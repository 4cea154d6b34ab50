/* SPDX-License-Identifier: MIT */
/*
** test_engine_trouble.c: what may befall an engine: leases that are kept or
** lost, flags, stopping, forks, and a database that goes away and comes back.
**
** Called with arguments the executable is a helper process.
*/
#include "engines.h"
#include "faults.h"

#include <fcntl.h>
#include <sys/wait.h>

/* ---- Leases ---------------------------------------------------------------- */

static int64_t short_lease(void) {
  return 100 * (slowness() > 1 ? 4 : 1);
}

/* Notes how long threads of this machine have to wait for their turn. A lease
** ends, and rightly so, while the machine stands still for longer. */
typedef struct stall {
  _Atomic int stop;
  _Atomic int64_t longest;
  pthread_t thread;
} stall;

static void *stall_main(void *context) {
  stall *s = context;
  int64_t last = milliseconds();
  while (!s->stop) {
    usleep(2000);
    int64_t now = milliseconds();
    if (now - last > s->longest) s->longest = now - last;
    last = now;
  }
  return NULL;
}

static void stall_start(stall *s) {
  s->stop = 0;
  s->longest = 0;
  expect_int(pthread_create(&s->thread, NULL, stall_main, s), 0);
}

static int64_t stall_end(stall *s) {
  s->stop = 1;
  pthread_join(s->thread, NULL);
  return s->longest;
}

/* A handler that works for ten leases, a second engine that waits for its job,
** and perhaps somebody who holds the write lock for so many leases. True when the
** job stayed where it was. */
static int keep_job(fixture *f, const dibs_open_options *open, int64_t locked) {
  int64_t lease = short_lease();
  dibs_open_options open_other = system_options();
  dibs_engine_options options = engine_options(1);
  options.lease = lease;
  dibs_engine *engine = start_with(f, open, &options);
  int64_t id = put(f, "q", "1");
  dibs_run *run = take_run(engine);
  expect_int(run->job->id, id);
  open_other.wake = open->wake;
  dibs_engine *other = start_with(f, &open_other, &options);
  call waiter = {.run = NULL};
  call_start(&waiter, call_next, other, DIBS_FOREVER);
  int64_t end = milliseconds() + 10 * lease;
  if (locked) {
    sqlite3 *locker = lock_writes(f);
    usleep((useconds_t)(locked * lease * 1000));
    unlock_writes(locker);
    end = milliseconds() + 5 * lease;
  }
  while (milliseconds() < end && !waiter.done) usleep(1000);
  int kept = !waiter.done && dibs_run_flags(run) == 0;
  int status = settle(engine, run, DIBS_ACK);
  if (status != DIBS_OK) kept = 0;
  /* The other gets the next, so it was waiting. */
  if (!waiter.done) id = put(f, "q", "1");
  expect_int(call_end(&waiter), DIBS_OK);
  expect_int(waiter.id, id);
  settle(other, waiter.run, DIBS_ACK);
  stop_and_close(engine);
  stop_and_close(other);
  return kept;
}

static int keep_simply(fixture *f) {
  dibs_open_options open = system_options();
  return keep_job(f, &open, 0);
}

static int keep_portably(fixture *f) {
  dibs_open_options open = system_options();
  open.wake = DIBS_WAKE_PORTABLE;
  return keep_job(f, &open, 0);
}

static int keep_locked(fixture *f) {
  dibs_open_options open = system_options();
  return keep_job(f, &open, 5);
}

/* It tries again and again, and rests in between. */
static int keep_resting(fixture *f) {
  dibs_open_options open = system_options();
  open.busy_timeout = 20;
  return keep_job(f, &open, 10);
}

/* A machine under load may let a thread stand still for the length of a lease,
** and then the job is rightly another's: try again. An engine that does not keep
** its leases fails every time. */
static void keep_trying(fixture *f, int (*keep)(fixture *)) {
  for (int tries = 0; tries < 20; tries++) {
    stall s;
    stall_start(&s);
    int kept = keep(f);
    int64_t stood = stall_end(&s);
    if (kept) return;
    print_message("not kept; this thread stood still for %d ms\n", (int)stood);
  }
  fail_msg("not kept, twenty times");
}

static void a_handler_that_blocks_keeps_its_job(void **state) {
  keep_trying(*state, keep_simply);
}

static void a_handler_keeps_its_job_without_a_sidecar(void **state) {
  keep_trying(*state, keep_portably);
}

static void a_locked_database_takes_no_job_away(void **state) {
  keep_trying(*state, keep_locked);
}

static void a_lock_beyond_the_timeout_takes_no_job_away(void **state) {
  keep_trying(*state, keep_resting);
}

/* The clock of all is set an hour forward and back. Real leases are long, so that
** only the clock can end them. */
static void a_clock_that_jumps_takes_no_job_away(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(3);
  dibs_engine *engine = start_driven(f, &options);
  int64_t id = put(f, "q", "1");
  dibs_run *run = take_run(engine);
  options.slots = 1;
  dibs_engine *other = start_driven(f, &options);
  call waiter = {.run = NULL};
  call_start(&waiter, call_next, other, DIBS_FOREVER);
  for (int i = 0; i < 6; i++) {
    f->now += i % 2 ? -HOUR : HOUR;
    /* Everybody looks: the other claims, this one extends. */
    int before = begins;
    int64_t end = milliseconds() + 120;
    while (milliseconds() < end && begins < before + 6) usleep(1000);
    expect_int(try_take(f, "q"), 0);
    expect_int(waiter.done, 0);
    expect_int(dibs_run_flags(run), 0);
  }
  f->now += HOUR;
  expect_int(settle(engine, run, DIBS_ACK), DIBS_OK);
  expect_gone(f, id);
  f->now -= 2 * HOUR;
  id = put(f, "q", "1");
  expect_int(call_end(&waiter), DIBS_OK);
  expect_int(waiter.id, id);
  expect_int(waiter.run->job->attempt, 1);
  expect_int(settle(other, waiter.run, DIBS_ACK), DIBS_OK);
  stop_and_close(engine);
  stop_and_close(other);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

/* Its heart beats, so the job is its own, though its lease is over. */
static void a_lease_that_ended_by_the_clock_can_be_settled(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  dibs_engine *engine = start_driven(f, &options);
  int64_t id = put(f, "q", "1");
  dibs_run *run = take_run(engine);
  sqlite3 *locker = lock_writes(f);
  f->now += HOUR;
  call c = {.run = run, .action = DIBS_ACK};
  call_start(&c, call_settle, engine, 0);
  usleep(2000);
  unlock_writes(locker);
  expect_int(call_end(&c), DIBS_OK);
  expect_gone(f, id);
  stop_and_close(engine);
}

/* Nothing is to be extended: the engine must not try without pause. */
static void a_lost_run_costs_nothing(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(1, &t);
  dibs_engine *engine = start_driven(f, &options);
  int64_t id = put(f, "q", "1");
  dibs_run *run = take_run(engine);
  expect_ok(f->db, dibs_cancel(f->db, &id, 1, NULL, NULL));
  eventually(dibs_run_flags(run) & DIBS_RUN_CANCELLED);
  int before = begins;
  f->now += MINUTE;
  eventually(begins > before);
  usleep(100000);
  expect_true(begins - before < 5);
  expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  eventually(t.settled == 1);
  expect_int(t.last_status, DIBS_LOST);
  expect_int(t.last_flags, DIBS_RUN_LOST | DIBS_RUN_CANCELLED);
  stop_and_close(engine);
}

/* The engine's clock, and how often it is asked. */
static _Atomic int asked;

static int64_t counting_clock(void *context) {
  asked++;
  return fixture_clock(context);
}

/* A lease is to be extended and cannot be, and it is not yet time to try again:
** the keeper sleeps. */
static void an_engine_that_rests_sleeps(void **state) {
  fixture *f = *state;
  dibs_open_options open = fixture_options(f);
  dibs_engine_options options = engine_options(1);
  open.busy_timeout = 0;
  open.clock = counting_clock;
  dibs_engine *engine = start_with(f, &open, &options);
  put(f, "q", "1");
  dibs_run *run = take_run(engine);
  sqlite3 *locker = lock_writes(f);
  int before = begins;
  f->now += MINUTE;
  eventually(begins > before);
  usleep(10000);
  int64_t began = milliseconds();
  before = asked;
  usleep(200000);
  /* Each 50 ms it looks whether the clock was set. */
  expect_true(asked - before < milliseconds() - began);
  unlock_writes(locker);
  f->now += MINUTE;
  expect_int(settle(engine, run, DIBS_ACK), DIBS_OK);
  stop_and_close(engine);
}

/* Another process, whose clock is years ahead, so that the lease is over for it,
** and which wants the job. Only the heart speaks for the engine: its clock stands
** still, so it does not extend. True when the other did not get it. */
static int keep_by_heart(fixture *f) {
  dibs_engine_options options = engine_options(1);
  int status = -1;
  options.lease = 6 * short_lease();
  dibs_engine *engine = start_driven(f, &options);
  int64_t id = put(f, "q", "1");
  dibs_run *run = take_run(engine);
  expect_int(run->job->id, id);
  /* What it was when the job was claimed is forgotten. */
  usleep((useconds_t)(options.lease + options.lease / 4) * 1000);
  pid_t thief = helper_start("steal", f->path, "200");
  expect_int(waitpid(thief, &status, 0), thief);
  expect_true(WIFEXITED(status));
  if (WEXITSTATUS(status) > 1) fail_msg("thief: %d", WEXITSTATUS(status));
  int kept = WEXITSTATUS(status) == 0;
  expect_int(settle(engine, run, DIBS_ACK), kept ? DIBS_OK : DIBS_LOST);
  stop_and_close(engine);
  return kept;
}

static void a_beating_heart_speaks_for_a_lease_that_ended(void **state) {
  keep_trying(*state, keep_by_heart);
}

/* ---- Flags ----------------------------------------------------------------- */

/* The engine's clock stands still: no extension finds out, only the mail. */
static void a_cancel_is_told_at_once(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(2, &t);
  dibs_engine *engine = start_driven(f, &options);
  for (int i = 0; i < 10; i++) {
    int64_t id = put(f, "q", "1");
    int64_t other = put(f, "q", "1");
    dibs_run *run = take_run(engine);
    dibs_run *second = take_run(engine);
    expect_int(second->job->id, other);
    call waiter = {.run = run, .known = 0};
    call_start(&waiter, call_run_wait, engine, DIBS_FOREVER);
    expect_ok(f->db, dibs_cancel(f->db, &id, 1, NULL, NULL));
    expect_int(call_end(&waiter), DIBS_OK);
    expect_int(dibs_run_flags(run), DIBS_RUN_LOST | DIBS_RUN_CANCELLED);
    expect_int(dibs_run_flags(second), 0);
    eventually(t.flagged == i + 1);
    expect_int(settle(engine, run, DIBS_ACK), DIBS_LOST);
    expect_int(settle(engine, second, DIBS_ACK), DIBS_OK);
  }
  stop_and_close(engine);
}

/* However late the engine's thread comes to run. */
static void a_cancel_at_the_start_is_told(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  for (int i = 0; i < 60; i++) {
    int64_t id = put(f, "q", "1");
    dibs_engine *engine = start_driven(f, &options);
    dibs_run *run = take_run(engine);
    expect_ok(f->db, dibs_cancel(f->db, &id, 1, NULL, NULL));
    eventually(dibs_run_flags(run) & DIBS_RUN_CANCELLED);
    stop_and_close(engine);
  }
}

static void another_process_can_cancel(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  dibs_engine *engine = start_driven(f, &options);
  char number[32];
  int64_t id = put(f, "q", "1");
  dibs_run *run = take_run(engine);
  snprintf(number, sizeof number, "%lld", (long long)id);
  helper_end(helper_start("cancel", f->path, number));
  eventually(dibs_run_flags(run) == (DIBS_RUN_LOST | DIBS_RUN_CANCELLED));
  expect_int(settle(engine, run, DIBS_ACK), DIBS_LOST);
  stop_and_close(engine);
}

/* Two engines of a process have one mail box. */
static void a_cancel_reaches_the_right_engine(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  dibs_engine *engines[2];
  dibs_run *runs[2];
  int64_t ids[2];
  for (int i = 0; i < 2; i++) {
    engines[i] = start_driven(f, &options);
    ids[i] = put(f, "q", "1");
    runs[i] = take_run(engines[i]);
    expect_int(runs[i]->job->id, ids[i]);
  }
  for (int i = 1; i >= 0; i--) {
    expect_ok(f->db, dibs_cancel(f->db, &ids[i], 1, NULL, NULL));
    eventually(dibs_run_flags(runs[i]) == (DIBS_RUN_LOST | DIBS_RUN_CANCELLED));
    if (i) expect_int(dibs_run_flags(runs[0]), 0);
  }
  for (int i = 0; i < 2; i++) stop_and_close(engines[i]);
}

static void a_lease_that_is_anothers_is_told(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(1, &t);
  options.lease = 60;
  dibs_engine *engine = start(f, &options);
  int64_t id = put(f, "q", "1");
  dibs_run *run = take_run(engine);
  /* As if it had been claimed anew. */
  raw_run(f, "UPDATE dibs_leased SET token = token + 1, until = until + %lld",
          (long long)DAY);
  expect_int(dibs_run_wait(run, 0, LONG), DIBS_OK);
  expect_int(dibs_run_flags(run), DIBS_RUN_LOST);
  eventually(t.flagged == 1);
  expect_int(settle(engine, run, DIBS_ACK), DIBS_LOST);
  expect_state(f, id, DIBS_RUNNING);
  stop_and_close(engine);
}

static void a_job_out_of_time_is_told(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(2, &t);
  dibs_job_options job = no_options();
  dibs_engine *engine = start(f, &options);
  job.timeout = 20;
  int64_t id = put_with(f, "q", "1", &job);
  put(f, "q", "1");
  dibs_run *run = take_run(engine);
  dibs_run *other = take_run(engine);
  int64_t before = milliseconds();
  expect_int(dibs_run_wait(run, 0, LONG), DIBS_OK);
  expect_true(milliseconds() - before >= 15);
  expect_int(dibs_run_flags(run), DIBS_RUN_TIMED_OUT);
  expect_int(dibs_run_flags(other), 0);
  eventually(t.flagged == 1);
  /* That is all: what follows from it is the handler's affair. */
  expect_state(f, id, DIBS_RUNNING);
  expect_int(settle(engine, run, DIBS_ACK), DIBS_OK);
  expect_int(settle(engine, other, DIBS_ACK), DIBS_OK);
  expect_int(t.flagged, 1);
  stop_and_close(engine);
}

/* Another thread waits for the write lock to settle something, and there is more
** to settle behind it. */
static void a_job_out_of_time_is_told_under_a_lock(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(3);
  dibs_job_options job = no_options();
  dibs_engine *engine = start(f, &options);
  fill(f, 2);
  job.timeout = 100;
  put_with(f, "q", "1", &job);
  call settler = {.run = take_run(engine), .action = DIBS_ACK};
  dibs_run *other = take_run(engine);
  sqlite3 *locker = lock_writes(f);
  int before = begins;
  call_start(&settler, call_settle, engine, 0);
  eventually(begins > before);
  dibs_run *timed = take_run(engine);
  expect_int(finish(engine, other, DIBS_ACK), DIBS_OK);
  expect_int(dibs_run_wait(timed, 0, LONG / 4), DIBS_OK);
  expect_int(dibs_run_flags(timed), DIBS_RUN_TIMED_OUT);
  expect_int(settler.done, 0);
  unlock_writes(locker);
  expect_int(call_end(&settler), DIBS_OK);
  stop_and_close(engine);
  expect_int(counts(f, "q").ready, 1);
}

static void a_wait_for_flags_knows_what_is_known(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  dibs_job_options job = no_options();
  dibs_engine *engine = start(f, &options);
  job.timeout = 1;
  int64_t id = put_with(f, "q", "1", &job);
  dibs_run *run = take_run(engine);
  expect_int(dibs_run_wait(run, 0, LONG), DIBS_OK);
  expect_int(dibs_run_wait(run, 0, 0), DIBS_OK);
  expect_int(dibs_run_wait(run, DIBS_RUN_TIMED_OUT, 0), DIBS_EMPTY);
  int64_t before = milliseconds();
  expect_int(dibs_run_wait(run, DIBS_RUN_TIMED_OUT, 20), DIBS_EMPTY);
  expect_true(milliseconds() - before >= 20);
  expect_ok(f->db, dibs_cancel(f->db, &id, 1, NULL, NULL));
  expect_int(dibs_run_wait(run, DIBS_RUN_TIMED_OUT, LONG), DIBS_OK);
  expect_int(dibs_run_flags(run),
             DIBS_RUN_TIMED_OUT | DIBS_RUN_LOST | DIBS_RUN_CANCELLED);
  stop_and_close(engine);
}

/* What was lost before anybody began it is not begun. */
static void a_cancelled_job_is_not_given_out(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(3, &t);
  dibs_engine *engine = start_driven(f, &options);
  fill(f, 3);
  dibs_run *first = take_run(engine);
  const int64_t ids[] = {1, 2};
  expect_int(first->job->id, 1);
  expect_int(counts(f, "q").running, 3);
  expect_ok(f->db, dibs_cancel(f->db, ids, 2, NULL, NULL));
  /* Both were looked at when one is flagged. */
  eventually(dibs_run_flags(first) & DIBS_RUN_LOST);
  dibs_run *second = take_run(engine);
  expect_int(second->job->id, 3);
  expect_no_job(engine);
  expect_int(settle(engine, second, DIBS_ACK), DIBS_OK);
  expect_int(settle(engine, first, DIBS_ACK), DIBS_LOST);
  stop_and_close(engine);
  expect_int(t.settled, 0);
}

/* ---- Stopping -------------------------------------------------------------- */

static void running_jobs_finish_within_the_grace(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(2, &t);
  dibs_engine *engine = start(f, &options);
  fill(f, 3);
  dibs_run *one = take_run(engine);
  dibs_run *two = take_run(engine);
  call stopper = {.run = NULL};
  call_start(&stopper, call_stop, engine, DIBS_FOREVER);
  expect_int(dibs_run_wait(one, 0, LONG), DIBS_OK);
  expect_int(dibs_run_flags(one), DIBS_RUN_STOPPING);
  expect_int(dibs_run_flags(two), DIBS_RUN_STOPPING);
  eventually(t.flagged == 1);
  expect_int(finish(engine, one, DIBS_ACK), DIBS_OK);
  eventually(t.settled == 1);
  expect_int(stopper.done, 0);
  expect_int(settle(engine, two, DIBS_FAIL), DIBS_OK);
  expect_int(call_end(&stopper), DIBS_OK);
  expect_int(stopper.released, 0);
  expect_gone(f, 1);
  expect_state(f, 2, DIBS_DEAD);
  expect_state(f, 3, DIBS_READY);
  stop_and_close(engine);
}

static void what_does_not_finish_is_given_back(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(4, &t);
  dibs_settlement outcome = {.action = DIBS_ACK};
  dibs_engine *engine = start(f, &options);
  size_t released = 0;
  fill(f, 6);
  dibs_run *one = take_run(engine);
  dibs_run *two = take_run(engine);
  /* Two were claimed and not begun, two were not claimed. */
  expect_int(counts(f, "q").running, 4);
  expect_engine(engine, dibs_engine_stop(engine, 5, &released), DIBS_OK);
  expect_int(released, 2);
  for (int id = 1; id <= 6; id++) {
    expect_state(f, id, DIBS_READY);
    expect_int(look(f, id).attempt, 0);
    expect_int(look(f, id).error_count, 0);
  }
  expect_int(dibs_run_flags(one), DIBS_RUN_STOPPING | DIBS_RUN_LOST);
  expect_int(t.flagged, 2);
  /* The handlers find out when they are done. */
  expect_int(dibs_engine_finish(engine, one, &outcome), DIBS_LOST);
  expect_int(dibs_engine_settle(engine, two, &outcome), DIBS_LOST);
  expect_says(outcome.message, "given back");
  expect_engine(engine, dibs_engine_stop(engine, 0, &released), DIBS_OK);
  expect_int(released, 0);
  stop_and_close(engine);
  expect_int(t.settled, 0);
  expect_int(counts(f, "q").ready, 6);
}

static void a_close_gives_everything_back(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(4);
  dibs_engine *engine = start(f, &options);
  fill(f, 6);
  take_run(engine);
  dibs_run *run = take_run(engine);
  expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  take_run(engine);
  stop_and_close(engine);
  expect_gone(f, 2);
  expect_int(counts(f, "q").ready, 5);
  expect_int(raw_int(f, "SELECT max(attempt) FROM dibs_ready"), 0);
  /* One that did nothing, and one that was stopped. */
  stop_and_close(start(f, &options));
  engine = start(f, &options);
  expect_engine(engine, dibs_engine_stop(engine, 0, NULL), DIBS_OK);
  stop_and_close(engine);
}

/* A claim was under way when the engine was stopped. */
static void a_job_that_comes_behind_a_stop_is_given_back(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(3);
  dibs_engine *engine = start(f, &options);
  fill(f, 2);
  sqlite3 *locker = lock_writes(f);
  int before = begins;
  call waiters[2], stopper = {.run = NULL};
  for (int i = 0; i < 2; i++) {
    waiters[i].run = NULL;
    call_start(&waiters[i], call_next, engine, DIBS_FOREVER);
  }
  eventually(begins > before);
  call_start(&stopper, call_stop, engine, DIBS_FOREVER);
  dibs_run *run = NULL;
  eventually(dibs_engine_next(engine, 0, &run) == DIBS_CLOSED);
  unlock_writes(locker);
  for (int i = 0; i < 2; i++) expect_int(call_end(&waiters[i]), DIBS_CLOSED);
  expect_int(call_end(&stopper), DIBS_OK);
  expect_int(stopper.released, 0);
  expect_int(counts(f, "q").ready, 2);
  expect_int(raw_int(f, "SELECT max(attempt) FROM dibs_ready"), 0);
  stop_and_close(engine);
}

/* A handler finishes while its job is being given back. */
static void a_run_may_end_while_it_is_given_back(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(2);
  dibs_engine *engine = start(f, &options);
  fill(f, 2);
  dibs_run *one = take_run(engine);
  dibs_run *two = take_run(engine);
  sqlite3 *locker = lock_writes(f);
  int before = begins;
  call stopper = {.run = NULL};
  call_start(&stopper, call_stop, engine, 0);
  eventually(begins > before);
  expect_int(finish(engine, one, DIBS_ACK), DIBS_LOST);
  expect_int(settle(engine, two, DIBS_ACK), DIBS_LOST);
  unlock_writes(locker);
  expect_int(call_end(&stopper), DIBS_OK);
  expect_int(stopper.released, 2);
  expect_int(counts(f, "q").ready, 2);
  stop_and_close(engine);
}

/* Each commit of the engine finishes one more. */
static struct {
  dibs_engine *engine;
  dibs_run *runs[20];
  _Atomic int finished;
  _Atomic int wrong;
} chain;

static void chain_go_on(void) {
  int next = chain.finished++;
  if (next >= (int)COUNT(chain.runs)) return;
  int status = finish(chain.engine, chain.runs[next], DIBS_ACK);
  if (status != DIBS_OK && status != DIBS_LOST) chain.wrong++;
}

static void a_stop_settles_what_is_finished_meanwhile(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(COUNT(chain.runs) + 2);
  size_t released = 0;
  chain.engine = start(f, &options);
  chain.finished = 0;
  fill(f, COUNT(chain.runs) + 2);
  dibs_run *last = take_run(chain.engine);
  for (size_t i = 0; i < COUNT(chain.runs); i++) {
    chain.runs[i] = take_run(chain.engine);
  }
  /* One that nobody began is settled first. */
  at_commit = chain_go_on;
  int status = dibs_engine_stop(chain.engine, 0, &released);
  at_commit = (void (*)(void))0;
  expect_engine(chain.engine, status, DIBS_OK);
  expect_int(chain.wrong, 0);
  expect_true(chain.finished > (int)COUNT(chain.runs));
  expect_int(released, 1);
  expect_int(finish(chain.engine, last, DIBS_ACK), DIBS_LOST);
  stop_and_close(chain.engine);
  expect_int(counts(f, "q").ready, 2);
}

/* What could not be given back is still ours, and can be at another try. */
static void a_stop_that_fails_can_be_repeated(void **state) {
  fixture *f = *state;
  dibs_open_options open = system_options();
  dibs_engine_options options = engine_options(3);
  size_t released = 7;
  open.busy_timeout = 20;
  dibs_engine *engine = start_with(f, &open, &options);
  fill(f, 2);
  dibs_run *one = take_run(engine);
  dibs_run *two = take_run(engine);
  sqlite3 *locker = lock_writes(f);
  expect_int(dibs_engine_stop(engine, 0, &released), DIBS_BUSY);
  expect_int(released, 0);
  expect_says(dibs_engine_error(engine), "20ms");
  expect_int(dibs_run_flags(one), DIBS_RUN_STOPPING);
  unlock_writes(locker);
  expect_state(f, 1, DIBS_RUNNING);
  expect_int(settle(engine, one, DIBS_ACK), DIBS_OK);
  expect_engine(engine, dibs_engine_stop(engine, 0, &released), DIBS_OK);
  expect_int(released, 1);
  expect_int(finish(engine, two, DIBS_ACK), DIBS_LOST);
  expect_state(f, 2, DIBS_READY);
  stop_and_close(engine);
}

/* The lock was held for longer than a lease, by the clock. Nobody could take the
** job, for the heart beats: it is given back, and no attempt is counted. */
static void a_stop_gives_back_whatever_the_clock_says(void **state) {
  fixture *f = *state;
  dibs_open_options open = fixture_options(f);
  dibs_engine_options options = engine_options(1);
  size_t released = 0;
  open.busy_timeout = 20;
  dibs_engine *engine = start_with(f, &open, &options);
  int64_t id = put(f, "q", "1");
  take_run(engine);
  sqlite3 *locker = lock_writes(f);
  int before = begins;
  f->now += HOUR;
  eventually(begins > before); /* to extend the lease, which fails */
  expect_int(dibs_engine_stop(engine, 0, &released), DIBS_BUSY);
  unlock_writes(locker);
  expect_engine(engine, dibs_engine_stop(engine, 0, &released), DIBS_OK);
  expect_int(released, 1);
  expect_state(f, id, DIBS_READY);
  expect_int(look(f, id).attempt, 0);
  stop_and_close(engine);
}

/* Those that were lost before are not given back. */
static void a_stop_counts_what_it_gave_back(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(2);
  dibs_engine *engine = start_driven(f, &options);
  size_t released = 0;
  fill(f, 2);
  dibs_run *one = take_run(engine);
  take_run(engine);
  expect_ok(f->db, dibs_ack(f->db, one->job->receipt, NULL));
  expect_engine(engine, dibs_engine_stop(engine, 0, &released), DIBS_OK);
  expect_int(released, 1);
  stop_and_close(engine);
}

/* While the keeper looks who was cancelled. */
static void a_stop_meets_a_cancel(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  int rounds = 200 / slowness();
  dibs_engine *holder = start(f, &options);
  for (int i = 0; i < rounds; i++) {
    int64_t id = put(f, "q", "1");
    dibs_run *run = take_run(holder);
    dibs_engine *engine = start(f, &options);
    expect_no_job(engine);
    call stopper = {.run = NULL};
    /* The mail is for all engines of the process. */
    expect_ok(f->db, dibs_cancel(f->db, &id, 1, NULL, NULL));
    call_start(&stopper, call_stop, engine, DIBS_FOREVER);
    expect_int(call_end(&stopper), DIBS_OK);
    stop_and_close(engine);
    expect_int(settle(holder, run, DIBS_ACK), DIBS_LOST);
  }
  stop_and_close(holder);
}

/* ---- Several engines, and forks -------------------------------------------- */

static void several_engines_share_a_file(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(2);
  dibs_engine *engines[3];
  crew crews[3];
  pthread_t threads[9];
  int jobs = 600 / slowness();
  _Atomic int *begun = calloc((size_t)jobs + 1, sizeof *begun);
  memset(crews, 0, sizeof crews);
  for (int i = 0; i < 3; i++) {
    engines[i] = start(f, &options);
    crews[i].engine = engines[i];
    crews[i].jobs = jobs;
    crews[i].begun = begun;
  }
  for (int i = 0; i < 9; i++) {
    pthread_create(&threads[i], NULL, crew_member, &crews[i % 3]);
  }
  for (int i = 0; i < jobs; i++) put(f, "q", "1");
  eventually(crews[0].finished + crews[1].finished + crews[2].finished == jobs);
  for (int i = 0; i < 3; i++) {
    expect_engine(engines[i], dibs_engine_stop(engines[i], 0, NULL), DIBS_OK);
  }
  for (int i = 0; i < 9; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < 3; i++) {
    expect_int(crews[i].wrong, 0);
    expect_true(crews[i].most <= 2);
    stop_and_close(engines[i]);
  }
  free(begun);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

static void engines_of_several_files_are_apart(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  dibs_open_options open = system_options();
  char path[160];
  dibs_db *db = NULL;
  dibs_engine *other = NULL;
  int64_t id = 0;
  snprintf(path, sizeof path, "%s/other.db", f->folder);
  expect_ok(db, dibs_open(path, &open, &db));
  dibs_engine *engine = start(f, &options);
  expect_int(dibs_engine_open(path, &open, &options, &other), DIBS_OK);
  expect_ok(db, dibs_enqueue(db, "q", dibs_json("\"other\""), NULL, &id));
  expect_no_job(engine);
  int64_t ours = put(f, "q", "\"ours\"");
  dibs_run *run = take_run(engine);
  dibs_run *theirs = take_run(other);
  expect_text((const char *)run->job->payload.data, "\"ours\"");
  expect_text((const char *)theirs->job->payload.data, "\"other\"");
  expect_int(run->job->id, theirs->job->id);
  expect_ok(db, dibs_cancel(db, &id, 1, NULL, NULL));
  expect_int(dibs_run_wait(theirs, 0, LONG), DIBS_OK);
  expect_int(dibs_run_flags(run), 0);
  expect_int(settle(engine, run, DIBS_ACK), DIBS_OK);
  expect_int(settle(other, theirs, DIBS_ACK), DIBS_LOST);
  expect_gone(f, ours);
  stop_and_close(engine);
  stop_and_close(other);
  expect_int(dibs_close(db), DIBS_OK);
}

/* In the child: which call was not refused; 0 when all were. */
static int try_everything(dibs_engine *engine, dibs_run *run) {
  dibs_settlement outcome = {.action = DIBS_ACK};
  dibs_run *another = NULL;
  if (dibs_engine_next(engine, 0, &another) != DIBS_FORKED) return 1;
  if (dibs_engine_next(engine, DIBS_FOREVER, &another) != DIBS_FORKED) return 2;
  if (dibs_engine_finish(engine, run, &outcome) != DIBS_FORKED) return 3;
  if (dibs_engine_settle(engine, run, &outcome) != DIBS_FORKED) return 4;
  if (outcome.status != DIBS_FORKED || !outcome.message[0]) return 5;
  if (dibs_run_wait(run, 0, DIBS_FOREVER) != DIBS_FORKED) return 6;
  if (dibs_engine_stop(engine, DIBS_FOREVER, NULL) != DIBS_FORKED) return 7;
  dibs_engine_interrupt(engine);
  if (dibs_run_flags(run) != 0) return 8;
  if (dibs_engine_close(engine) != DIBS_FORKED) return 9;
  return 0;
}

static void a_forked_child_is_refused(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(2);
  dibs_engine *engine = start(f, &options);
  call waiter = {.run = NULL};
  put(f, "q", "1");
  dibs_run *run = take_run(engine);
  call_start(&waiter, call_next, engine, DIBS_FOREVER);
  for (int i = 0; i < 5; i++) {
    pid_t child = fork();
    if (child == 0) _exit(try_everything(engine, run));
    helper_end(child);
  }
  /* The parent goes on as if nothing had been. */
  expect_int(waiter.done, 0);
  expect_int(dibs_run_flags(run), 0);
  int64_t id = put(f, "q", "1");
  expect_int(call_end(&waiter), DIBS_OK);
  expect_int(waiter.id, id);
  expect_int(settle(engine, run, DIBS_ACK), DIBS_OK);
  expect_int(settle(engine, waiter.run, DIBS_ACK), DIBS_OK);
  stop_and_close(engine);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

/* ---- Trouble --------------------------------------------------------------- */

static void a_lock_beyond_the_timeout_is_told_once(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine *engine = start_troubled(f, 2, &t);
  int64_t id = put(f, "q", "1");
  dibs_run *run = take_run(engine);
  expect_no_job(engine);
  call waiter = {.run = NULL};
  call_start(&waiter, call_next_often, engine, 10);
  sqlite3 *locker = lock_writes(f);
  int before = begins;
  expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  eventually(t.trouble == 1);
  eventually(begins >= before + 4); /* it tries again and again */
  expect_int(t.trouble, 1);
  expect_int(t.recovered, 0);
  expect_int(t.settled, 0);
  expect_int(waiter.done, 0);
  /* It can go on. */
  expect_text(dibs_engine_error(engine), "");
  unlock_writes(locker);
  eventually(t.recovered == 1);
  eventually(t.settled == 1);
  expect_int(t.last_status, DIBS_OK);
  expect_gone(f, id);
  id = put(f, "q", "1");
  expect_int(call_end(&waiter), DIBS_OK);
  expect_int(waiter.id, id);
  expect_int(settle(engine, waiter.run, DIBS_ACK), DIBS_OK);
  stop_and_close(engine);
  expect_int(t.trouble, 1);
  expect_int(t.recovered, 1);
  expect_int(t.attempts_lost, 0);
}

/* After the commit under way, whoever begins the next transaction finds the
** database locked. */
static const char *lock_path;
static sqlite3 *_Atomic lock_of_next;

static void lock_now(void) {
  at_begin = (void (*)(void))0;
  sqlite3 *db = plain_open(lock_path);
  sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
  lock_of_next = db;
}

static void lock_next(void) {
  at_commit = (void (*)(void))0;
  at_begin = lock_now;
}

/* Let no process have a monitor, which would tell of a write once more. */
static int keep_monitors_away(fixture *f) {
  char name[160];
  struct flock roles = {.l_type = F_WRLCK,
                        .l_whence = SEEK_SET,
                        .l_start = ((off_t)1 << 30) + 65536,
                        .l_len = 2};
  snprintf(name, sizeof name, "%s-dibs", f->path);
  int fd = open(name, O_RDWR | O_CLOEXEC);
  expect_int(fcntl(fd, F_OFD_SETLK, &roles), 0);
  return fd;
}

/* One engine is woken and cannot claim. The other must not sleep on, for a second
** at most, beside a job. */
static void a_claim_that_fails_passes_its_signal_on(void **state) {
  fixture *f = *state;
  dibs_open_options open = system_options();
  dibs_engine_options options = engine_options(1);
  call first = {.run = NULL}, second = {.run = NULL};
  open.busy_timeout = 0;
  int roles = keep_monitors_away(f);
  dibs_engine *engine = start_with(f, &open, &options);
  dibs_engine *other = start(f, &options);
  expect_no_job(engine);
  expect_no_job(other);
  call_start(&first, call_next, engine, DIBS_FOREVER);
  eventually(sidecar_waiters(f) == 1);
  usleep(5000);
  call_start(&second, call_next, other, DIBS_FOREVER);
  eventually(sidecar_waiters(f) == 2);
  usleep(5000);
  lock_path = f->path;
  lock_of_next = NULL;
  at_commit = lock_next;
  put(f, "q", "1");
  eventually(lock_of_next);
  usleep(1500000);
  unlock_writes(lock_of_next);
  eventually(first.done || second.done);
  expect_int(sidecar_rescues(f), 0);
  put(f, "q", "1");
  expect_int(call_end(&first), DIBS_OK);
  expect_int(call_end(&second), DIBS_OK);
  stop_and_close(engine);
  stop_and_close(other);
  close(roles);
}

/* Finish, settle and next of many, while the disk fails; then it does not. */
static void pass_trouble(fixture *f, enum disk_fault fault) {
  told t;
  dibs_engine *engine = start_troubled(f, 4, &t);
  fill(f, 6);
  dibs_run *one = take_run(engine);
  call settler = {.run = take_run(engine), .action = DIBS_ACK};
  dibs_run *three = take_run(engine);
  dibs_run *four = take_run(engine);
  faults_disk_arm(fault, 1, 1);
  int before = begins;
  expect_int(finish(engine, one, DIBS_ACK), DIBS_OK);
  call_start(&settler, call_settle, engine, 0);
  eventually(t.trouble == 1);
  expect_int(finish(engine, three, DIBS_RETRY), DIBS_OK);
  eventually(begins >= before + 3);
  expect_int(settler.done, 0);
  expect_int(t.trouble, 1);
  expect_int(t.recovered, 0);
  expect_int(t.settled, 0);
  expect_true(faults_disk_disarm());
  expect_int(call_end(&settler), DIBS_OK);
  eventually(t.recovered == 1);
  eventually(t.settled == 2);
  expect_gone(f, 1);
  expect_gone(f, 2);
  expect_state(f, 3, DIBS_SCHEDULED);
  expect_int(settle(engine, four, DIBS_ACK), DIBS_OK);
  for (int id = 5; id <= 6; id++) {
    dibs_run *run = take_run(engine);
    expect_int(run->job->id, id);
    expect_int(run->job->attempt, 1);
    expect_int(settle(engine, run, DIBS_ACK), DIBS_OK);
  }
  stop_and_close(engine);
  expect_int(t.trouble, 1);
  expect_int(t.recovered, 1);
  expect_int(t.attempts_lost, 0);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 1);
}

static void a_full_disk_is_waited_for(void **state) {
  pass_trouble(*state, DISK_FULL);
}

static void a_disk_that_fails_is_waited_for(void **state) {
  pass_trouble(*state, DISK_ERROR);
}

/* The tables go; only a person can help. */
static void what_cannot_pass_ends_the_engine(void **state) {
  fixture *f = *state;
  told t;
  dibs_settlement outcome = {.action = DIBS_ACK};
  dibs_run *run = NULL;
  dibs_engine *engine = start_troubled(f, 3, &t);
  fill(f, 2);
  dibs_run *one = take_run(engine);
  dibs_run *two = take_run(engine);
  expect_no_job(engine);
  call waiter = {.run = NULL};
  call_start(&waiter, call_next, engine, DIBS_FOREVER);
  raw_run(f, "DROP TABLE dibs_leased");
  expect_int(dibs_engine_settle(engine, one, &outcome), DIBS_SCHEMA);
  expect_int(outcome.status, DIBS_SCHEMA);
  expect_says(outcome.message, "dibs_leased");
  expect_says(dibs_engine_error(engine), "dibs_leased");
  expect_int(call_end(&waiter), DIBS_SCHEMA);
  expect_int(dibs_engine_next(engine, LONG, &run), DIBS_SCHEMA);
  expect_int(settle(engine, two, DIBS_ACK), DIBS_SCHEMA);
  expect_int(dibs_engine_stop(engine, LONG, NULL), DIBS_SCHEMA);
  expect_int(t.trouble, 1);
  expect_int(t.recovered, 0);
  expect_int(dibs_engine_close(engine), DIBS_OK);
  file_remove(f->path);
}

/* While the engine rests between two tries, a look finds that all is over. */
static void who_waits_for_a_settlement_is_told_of_the_end(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine *engine = start_troubled(f, 2, &t);
  call waiter = {.run = NULL}, settler = {.action = DIBS_ACK};
  fill(f, 1);
  settler.run = take_run(engine);
  expect_no_job(engine);
  call_start(&waiter, call_next, engine, DIBS_FOREVER);
  sqlite3 *locker = lock_writes(f);
  int before = begins;
  call_start(&settler, call_settle, engine, 0);
  eventually(begins >= before + 3);
  eventually(t.trouble == 1);
  expect_int(sqlite3_exec(locker, "DROP TABLE dibs_leased", NULL, NULL, NULL),
             SQLITE_OK);
  unlock_writes(locker);
  expect_int(call_end(&settler), DIBS_SCHEMA);
  expect_int(call_end(&waiter), DIBS_SCHEMA);
  expect_int(dibs_engine_close(engine), DIBS_OK);
  file_remove(f->path);
}

/* Fill the pages of the file behind the first with nonsense. */
static void damage(fixture *f) {
  char nonsense[4096];
  memset(nonsense, 0x5A, sizeof nonsense);
  raw_run(f, "PRAGMA wal_checkpoint(TRUNCATE)");
  int fd = open(f->path, O_WRONLY | O_CLOEXEC);
  expect_true(fd >= 0);
  off_t size = lseek(fd, 0, SEEK_END);
  for (off_t at = 4096; at < size; at += (off_t)sizeof nonsense) {
    expect_int(pwrite(fd, nonsense, sizeof nonsense, at), sizeof nonsense);
  }
  close(fd);
  /* A commit, so that nobody trusts what he has read. */
  raw_run(f, "PRAGMA user_version = 0");
}

static void a_damaged_file_ends_the_engine(void **state) {
  fixture *f = *state;
  told t;
  dibs_run *run = NULL;
  dibs_engine *engine = start_troubled(f, 3, &t);
  fill(f, 1);
  dibs_run *one = take_run(engine);
  expect_no_job(engine);
  expect_int(dibs_close(f->db), DIBS_OK);
  f->db = NULL;
  damage(f);
  int status = settle(engine, one, DIBS_ACK);
  expect_true(status == DIBS_CORRUPT);
  expect_int(dibs_engine_next(engine, DIBS_FOREVER, &run), status);
  expect_int(t.trouble, 1);
  expect_says(dibs_engine_error(engine), "damaged");
  expect_int(dibs_engine_close(engine), DIBS_OK);
  file_remove(f->path);
}

/* ---- Helper processes ------------------------------------------------------ */

static int help_cancel(const char *path, int64_t id) {
  dibs_open_options open = system_options();
  dibs_db *db = NULL;
  if (dibs_open(path, &open, &db) != DIBS_OK) return 3;
  if (dibs_cancel(db, &id, 1, NULL, NULL) != DIBS_OK) return 4;
  return dibs_close(db);
}

/* Whether there is a job to be had within the time: 0 when there is none. */
static int help_steal(const char *path, int64_t wait) {
  dibs_open_options open = system_options();
  dibs_engine_options options = engine_options(1);
  dibs_engine *engine = NULL;
  dibs_run *run = NULL;
  if (dibs_engine_open(path, &open, &options, &engine) != DIBS_OK) return 3;
  int status = dibs_engine_next(engine, wait, &run);
  if (run && settle(engine, run, DIBS_ACK) != DIBS_OK) return 4;
  if (dibs_engine_close(engine) != DIBS_OK) return 5;
  return status == DIBS_EMPTY ? 0 : status == DIBS_OK ? 1 : 6;
}

static int help(char **arguments) {
  int64_t number = strtoll(arguments[3], NULL, 10);
  if (!strcmp(arguments[1], "cancel")) return help_cancel(arguments[2], number);
  if (!strcmp(arguments[1], "steal")) return help_steal(arguments[2], number);
  return 2;
}

int main(int count, char **arguments) {
  const struct CMUnitTest tests[] = {
      TEST_SYSTEM(a_handler_that_blocks_keeps_its_job),
      TEST_SYSTEM(a_handler_keeps_its_job_without_a_sidecar),
      TEST_SYSTEM(a_locked_database_takes_no_job_away),
      TEST_SYSTEM(a_lock_beyond_the_timeout_takes_no_job_away),
      TEST(a_clock_that_jumps_takes_no_job_away),
      TEST(a_lease_that_ended_by_the_clock_can_be_settled),
      TEST(a_lost_run_costs_nothing),
      TEST(an_engine_that_rests_sleeps),
      TEST(a_beating_heart_speaks_for_a_lease_that_ended),
      TEST(a_cancel_is_told_at_once),
      TEST(a_cancel_at_the_start_is_told),
      TEST(another_process_can_cancel),
      TEST(a_cancel_reaches_the_right_engine),
      TEST_SYSTEM(a_lease_that_is_anothers_is_told),
      TEST_SYSTEM(a_job_out_of_time_is_told),
      TEST_SYSTEM(a_job_out_of_time_is_told_under_a_lock),
      TEST_SYSTEM(a_wait_for_flags_knows_what_is_known),
      TEST(a_cancelled_job_is_not_given_out),
      TEST_SYSTEM(running_jobs_finish_within_the_grace),
      TEST_SYSTEM(what_does_not_finish_is_given_back),
      TEST_SYSTEM(a_close_gives_everything_back),
      TEST_SYSTEM(a_job_that_comes_behind_a_stop_is_given_back),
      TEST_SYSTEM(a_run_may_end_while_it_is_given_back),
      TEST_SYSTEM(a_stop_settles_what_is_finished_meanwhile),
      TEST_SYSTEM(a_stop_that_fails_can_be_repeated),
      TEST(a_stop_gives_back_whatever_the_clock_says),
      TEST(a_stop_counts_what_it_gave_back),
      TEST_SYSTEM(a_stop_meets_a_cancel),
      TEST_SYSTEM(several_engines_share_a_file),
      TEST_SYSTEM(engines_of_several_files_are_apart),
      TEST_SYSTEM(a_forked_child_is_refused),
      TEST_SYSTEM(a_lock_beyond_the_timeout_is_told_once),
      TEST_SYSTEM(a_claim_that_fails_passes_its_signal_on),
      TEST_SYSTEM(a_full_disk_is_waited_for),
      TEST_SYSTEM(a_disk_that_fails_is_waited_for),
      TEST_SYSTEM(what_cannot_pass_ends_the_engine),
      TEST_SYSTEM(who_waits_for_a_settlement_is_told_of_the_end),
      TEST_SYSTEM(a_damaged_file_ends_the_engine),
  };
  if (count == 4) return help(arguments);
  faults_disk_install();
  watch_statements();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
