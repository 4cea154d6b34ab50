/* SPDX-License-Identifier: MIT */
/*
** test_engine.c: the engine as a worker sees it: waiting, slots, wrong calls,
** outcomes, callbacks, and commits that are shared.
**
** Most tests run by the system's clock, as programs do. The others (TEST(),
** start_driven()) have one that stands still: what must come by itself, without
** any time being over, is shown with it.
*/
#include "engines.h"

#include <poll.h>
#include <sys/eventfd.h>

/* ---- Waiting --------------------------------------------------------------- */

static void next_waits_for_an_enqueue(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  dibs_engine *engine = start(f, &options);
  for (int i = 0; i < 20; i++) {
    call waiter = {.run = NULL};
    call_start(&waiter, call_next, engine, DIBS_FOREVER);
    if (i % 2) usleep(3000);
    int64_t id = put(f, "q", "1");
    expect_int(call_end(&waiter), DIBS_OK);
    expect_int(waiter.id, id);
    expect_int(finish(engine, waiter.run, DIBS_ACK), DIBS_OK);
  }
  stop_and_close(engine);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

static void a_wait_runs_out(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  dibs_engine *engine = start(f, &options);
  dibs_run *run = (dibs_run *)f;
  int64_t before = milliseconds();
  expect_engine(engine, dibs_engine_next(engine, 40, &run), DIBS_EMPTY);
  expect_true(milliseconds() - before >= 40);
  expect_true(run == NULL);
  expect_engine(engine, dibs_engine_next(engine, -5, &run), DIBS_EMPTY);
  expect_engine(engine, dibs_engine_next(engine, DIBS_UNSET, &run), DIBS_EMPTY);
  stop_and_close(engine);
}

/* A timeout of 0 looks, whatever the last look saw. */
static void no_timeout_finds_what_is_there(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(4);
  dibs_engine *engine = start(f, &options);
  for (int i = 0; i < 3; i++) {
    dibs_run *run = NULL;
    expect_no_job(engine);
    expect_no_job(engine);
    put(f, "q", "1");
    expect_engine(engine, dibs_engine_next(engine, 0, &run), DIBS_OK);
    expect_int(settle(engine, run, DIBS_ACK), DIBS_OK);
  }
  stop_and_close(engine);
}

static void an_interrupt_ends_every_wait(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(4);
  dibs_engine *engine = start(f, &options);
  call waiters[4];
  for (int i = 0; i < 4; i++) {
    call_start(&waiters[i], call_next, engine, DIBS_FOREVER);
  }
  /* Only those that wait by then are meant. */
  for (int i = 0; i < 4; i++) {
    while (!waiters[i].done) {
      dibs_engine_interrupt(engine);
      usleep(1000);
    }
    expect_int(call_end(&waiters[i]), DIBS_INTERRUPTED);
  }
  /* A later one is not. */
  put(f, "q", "1");
  expect_int(settle(engine, take_run(engine), DIBS_ACK), DIBS_OK);
  expect_no_job(engine);
  dibs_engine_interrupt(NULL);
  stop_and_close(engine);
}

static void a_stop_ends_every_wait(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(4);
  dibs_engine *engine = start(f, &options);
  call waiters[4];
  dibs_run *run = NULL;
  size_t released = 7;
  for (int i = 0; i < 4; i++) {
    call_start(&waiters[i], call_next, engine, DIBS_FOREVER);
  }
  expect_engine(engine, dibs_engine_stop(engine, LONG, &released), DIBS_OK);
  expect_int(released, 0);
  for (int i = 0; i < 4; i++) expect_int(call_end(&waiters[i]), DIBS_CLOSED);
  int64_t id = put(f, "q", "1");
  expect_engine(engine, dibs_engine_next(engine, 0, &run), DIBS_CLOSED);
  expect_engine(engine, dibs_engine_next(engine, LONG, &run), DIBS_CLOSED);
  expect_true(run == NULL);
  expect_engine(engine, dibs_engine_stop(engine, 0, NULL), DIBS_OK);
  stop_and_close(engine);
  expect_state(f, id, DIBS_READY);
}

/* With one thread that waits and one that works, all that comes is taken at
** once, by signals alone: the fixture's clock never gets anywhere. */
static void a_stream_is_worked_off(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(2);
  dibs_engine *engine = start_driven(f, &options);
  int jobs = 300 / slowness();
  for (int i = 0; i < jobs; i++) {
    int64_t id = put(f, "q", "1");
    dibs_run *run = take_run(engine);
    expect_int(run->job->id, id);
    expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  }
  stop_and_close(engine);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

static void patterns_and_order_are_those_of_claim(void **state) {
  fixture *f = *state;
  static const char *const two[] = {"a/*", "b"};
  dibs_engine_options options = engine_options(1);
  options.queues = two;
  options.queue_count = 2;
  options.in_order = 1;
  put(f, "c", "1");
  put(f, "b", "1");
  int64_t second = put(f, "a/2", "1");
  int64_t first = put(f, "a/1", "1");
  dibs_engine *engine = start(f, &options);
  const int64_t wanted[] = {first, second, 2};
  for (size_t i = 0; i < COUNT(wanted); i++) {
    dibs_run *run = take_run(engine);
    expect_int(run->job->id, wanted[i]);
    expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  }
  expect_no_job(engine);
  stop_and_close(engine);
  /* None given: "default". */
  options = (dibs_engine_options)DIBS_ENGINE_OPTIONS_INIT;
  int64_t id = put(f, NULL, "1");
  engine = start(f, &options);
  expect_int(take_run(engine)->job->id, id);
  stop_and_close(engine);
  engine = start(f, NULL);
  expect_int(take_run(engine)->job->id, id);
  stop_and_close(engine);
}

static void a_run_has_its_job(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  dibs_job_options job = no_options();
  job.name = "thumbnail";
  job.headers = "{\"trace\":\"7\"}";
  job.key = "k";
  job.max_attempts = 2;
  job.backoff = 0;
  job.timeout = HOUR;
  options.worker = "w1";
  options.lease = MINUTE;
  int64_t id = put_with(f, "q", "{\"a\": [1, 2]}", &job);
  dibs_engine *engine = start(f, &options);
  dibs_run *run = take_run(engine);
  expect_int(run->job->id, id);
  expect_text(run->job->queue, "q");
  expect_text(run->job->name, "thumbnail");
  expect_text(run->job->headers, "{\"trace\":\"7\"}");
  expect_text(run->job->key, "k");
  expect_text(run->job->worker, "w1");
  expect_text((const char *)run->job->payload.data, "{\"a\": [1, 2]}");
  expect_int(run->job->payload.size, 13);
  expect_int(run->job->attempt, 1);
  expect_int(run->job->timeout, HOUR);
  expect_int(run->job->lease, MINUTE);
  expect_int(run->final, 0);
  expect_true(run->context == NULL);
  expect_int(dibs_run_flags(run), 0);
  expect_text(look(f, id).worker, "w1");
  dibs_settlement outcome = {
      .action = DIBS_RETRY, .delay = DIBS_UNSET, .error = "no luck"};
  expect_int(dibs_engine_finish(engine, run, &outcome), DIBS_OK);
  run = take_run(engine);
  expect_int(run->job->attempt, 2);
  expect_text(run->job->last_error, "no luck");
  expect_int(run->final, 1);
  expect_int(finish(engine, run, DIBS_RETRY), DIBS_OK);
  stop_and_close(engine);
  expect_state(f, id, DIBS_DEAD);
}

/* ---- Slots ----------------------------------------------------------------- */

static void no_more_are_held_than_there_are_slots(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(3);
  dibs_engine *engine = start(f, &options);
  dibs_run *runs[3];
  for (int i = 0; i < 10; i++) put(f, "q", "1");
  for (int i = 0; i < 3; i++) runs[i] = take_run(engine);
  expect_no_job(engine);
  expect_int(counts(f, "q").running, 3);
  expect_int(counts(f, "q").ready, 7);
  /* A slot that gets free is filled, also for one who waits already. */
  call waiter = {.run = NULL};
  call_start(&waiter, call_next, engine, DIBS_FOREVER);
  usleep(2000);
  expect_int(settle(engine, runs[1], DIBS_ACK), DIBS_OK);
  expect_int(call_end(&waiter), DIBS_OK);
  expect_int(waiter.id, 4);
  expect_no_job(engine);
  expect_int(counts(f, "q").running, 3);
  stop_and_close(engine);
  expect_int(counts(f, "q").ready, 9);
}

static void many_threads_stay_within_the_slots(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(5);
  dibs_engine *engine = start(f, &options);
  crew c;
  fill(f, 1000 / slowness());
  crew_work(&c, engine, 1000 / slowness(), 24);
  expect_true(c.most <= 5);
  stop_and_close(engine);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

/* ---- Wrong calls ----------------------------------------------------------- */

static void refuse(fixture *f, const dibs_engine_options *options, int wanted,
                   const char *says) {
  dibs_open_options open = system_options();
  dibs_engine *engine = NULL;
  dibs_run *run = NULL;
  size_t released = 7;
  expect_int(dibs_engine_open(f->path, &open, options, &engine), wanted);
  expect_true(engine != NULL);
  expect_says(dibs_engine_error(engine), says);
  expect_int(dibs_engine_next(engine, 0, &run), wanted);
  expect_int(dibs_engine_next(engine, DIBS_FOREVER, &run), wanted);
  expect_int(dibs_engine_stop(engine, 0, &released), wanted);
  expect_int(released, 0);
  dibs_engine_interrupt(engine);
  expect_int(dibs_engine_close(engine), DIBS_OK);
}

static void wrong_options_are_refused(void **state) {
  fixture *f = *state;
  static const char *const bad[] = {"q", "bad*name"};
  static const char *const null[] = {NULL};
  static const int64_t slots[] = {0, -1, DIBS_CLAIM_MAX + 1, DIBS_FOREVER};
  static const int64_t leases[] = {0, -1};
  static const char *const workers[] = {"", "a\nb", "w*", "\xff"};
  dibs_engine_options options = engine_options(1);
  options.size--;
  refuse(f, &options, DIBS_MISUSE, "DIBS_ENGINE_OPTIONS_INIT");
  for (size_t i = 0; i < COUNT(slots); i++) {
    options = engine_options(slots[i]);
    refuse(f, &options, DIBS_INVALID, "slots");
  }
  for (size_t i = 0; i < COUNT(leases); i++) {
    options = engine_options(1);
    options.lease = leases[i];
    refuse(f, &options, DIBS_INVALID, "lease");
  }
  for (size_t i = 0; i < COUNT(workers); i++) {
    options = engine_options(1);
    options.worker = workers[i];
    refuse(f, &options, DIBS_INVALID, "worker");
  }
  options = engine_options(1);
  options.queues = bad;
  options.queue_count = 2;
  refuse(f, &options, DIBS_INVALID, "bad*name");
  options.queues = null;
  options.queue_count = 1;
  refuse(f, &options, DIBS_INVALID, "queue is NULL");
  options.queues = NULL;
  refuse(f, &options, DIBS_MISUSE, "queues is NULL");
}

static void an_open_that_fails_says_why(void **state) {
  fixture *f = *state;
  dibs_open_options open = system_options();
  dibs_engine *engine = NULL;
  dibs_run *run = NULL;
  char path[160];
  snprintf(path, sizeof path, "%s/no/such.db", f->folder);
  expect_int(dibs_engine_open(path, &open, NULL, &engine), DIBS_IO);
  expect_says(dibs_engine_error(engine), "folder");
  expect_int(dibs_engine_next(engine, 0, &run), DIBS_IO);
  expect_int(dibs_engine_close(engine), DIBS_OK);
  open.busy_timeout = -1;
  expect_int(dibs_engine_open(f->path, &open, NULL, &engine), DIBS_INVALID);
  expect_says(dibs_engine_error(engine), "busy_timeout");
  expect_int(dibs_engine_close(engine), DIBS_OK);
}

static void nothing_is_misuse(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  dibs_settlement outcome = {.action = DIBS_ACK};
  dibs_run *run = NULL;
  expect_int(dibs_engine_open(f->path, NULL, NULL, NULL), DIBS_MISUSE);
  put(f, "q", "1");
  dibs_engine *engine = start(f, &options);
  expect_int(dibs_engine_next(NULL, 0, &run), DIBS_MISUSE);
  expect_int(dibs_engine_next(engine, 0, NULL), DIBS_MISUSE);
  run = take_run(engine);
  expect_int(dibs_engine_finish(NULL, run, &outcome), DIBS_MISUSE);
  expect_int(dibs_engine_finish(engine, NULL, &outcome), DIBS_MISUSE);
  expect_int(dibs_engine_finish(engine, run, NULL), DIBS_MISUSE);
  expect_int(dibs_engine_settle(NULL, run, &outcome), DIBS_MISUSE);
  expect_int(dibs_engine_settle(engine, NULL, &outcome), DIBS_MISUSE);
  expect_int(dibs_engine_settle(engine, run, NULL), DIBS_MISUSE);
  expect_int(dibs_run_wait(NULL, 0, 0), DIBS_MISUSE);
  expect_int(dibs_run_flags(NULL), 0);
  expect_int(dibs_engine_stop(NULL, 0, NULL), DIBS_MISUSE);
  expect_int(dibs_engine_close(NULL), DIBS_OK);
  expect_true(*dibs_engine_error(NULL) != '\0');
  expect_int(settle(engine, run, DIBS_ACK), DIBS_OK);
  stop_and_close(engine);
}

static void a_run_belongs_to_its_engine(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  dibs_settlement outcome = {.action = DIBS_ACK};
  dibs_engine *one = start(f, &options);
  dibs_engine *other = start(f, &options);
  put(f, "q", "1");
  dibs_run *run = take_run(one);
  expect_int(dibs_engine_finish(other, run, &outcome), DIBS_MISUSE);
  expect_int(dibs_engine_settle(other, run, &outcome), DIBS_MISUSE);
  expect_int(settle(one, run, DIBS_ACK), DIBS_OK);
  stop_and_close(one);
  stop_and_close(other);
}

static void wrong_outcomes_leave_the_run_going_on(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(1, &t);
  static const dibs_settlement wrong[] = {
      {.action = 0},
      {.action = -1},
      {.action = DIBS_EXTEND, .lease = 1000},
      {.action = DIBS_EXTEND + 1},
      {.action = DIBS_SNOOZE, .delay = DIBS_UNSET},
      {.action = DIBS_SNOOZE, .delay = -1},
      {.action = DIBS_RETRY, .delay = -1},
      {.action = DIBS_FAIL, .error = "\xff"},
      {.action = DIBS_ACK,
       .result = {.kind = DIBS_PAYLOAD_JSON, .data = "{", .size = 1}},
      {.action = DIBS_ACK, .result = {.kind = DIBS_PAYLOAD_JSON}},
      {.action = DIBS_ACK,
       .result = {.kind = DIBS_PAYLOAD_BYTES, .data = "1", .size = 1}},
  };
  int64_t id = put(f, "q", "1");
  dibs_engine *engine = start(f, &options);
  dibs_run *run = take_run(engine);
  for (size_t i = 0; i < COUNT(wrong); i++) {
    dibs_settlement outcome = wrong[i];
    expect_int(dibs_engine_finish(engine, run, &outcome), DIBS_INVALID);
    expect_int(dibs_engine_settle(engine, run, &outcome), DIBS_INVALID);
    expect_int(outcome.status, DIBS_INVALID);
    expect_true(outcome.message[0] != '\0');
    expect_int(dibs_run_flags(run), 0);
    expect_state(f, id, DIBS_RUNNING);
  }
  expect_no_job(engine);
  expect_int(settle(engine, run, DIBS_ACK), DIBS_OK);
  expect_gone(f, id);
  expect_int(t.settled, 0);
  stop_and_close(engine);
}

/* ---- Outcomes -------------------------------------------------------------- */

/* What is to become of a job, and what did. */
static const struct ending {
  dibs_settlement outcome;
  int state;
  int outcome_kept;
  int64_t attempt;
  int64_t due; /* from now; -1: whatever */
  const char *last_error;
  const char *result;
} endings[] = {
    {{.action = DIBS_ACK,
      .result = {.kind = DIBS_PAYLOAD_JSON, .data = "{\"n\":1}", .size = 7}},
     DIBS_DONE,
     DIBS_ACKED,
     1,
     -1,
     "",
     "{\"n\":1}"},
    {{.action = DIBS_ACK, .error = "unheeded"},
     DIBS_DONE,
     DIBS_ACKED,
     1,
     -1,
     "",
     ""},
    {{.action = DIBS_RETRY, .delay = HOUR, .error = "e 1"},
     DIBS_SCHEDULED,
     0,
     1,
     HOUR,
     "e 1",
     ""},
    {{.action = DIBS_RETRY, .delay = 0, .error = "e 2"},
     DIBS_READY,
     0,
     1,
     0,
     "e 2",
     ""},
    {{.action = DIBS_FAIL,
      .error = "e 3",
      .result = {.kind = DIBS_PAYLOAD_JSON, .data = "1", .size = 1}},
     DIBS_DEAD,
     0,
     1,
     -1,
     "e 3",
     ""},
    {{.action = DIBS_RELEASE}, DIBS_READY, 0, 0, -1, "", ""},
    {{.action = DIBS_SNOOZE, .delay = MINUTE},
     DIBS_SCHEDULED,
     0,
     0,
     MINUTE,
     "",
     ""},
    {{.action = DIBS_DISCARD, .error = "e 4"},
     DIBS_DONE,
     DIBS_DISCARDED,
     1,
     -1,
     "e 4",
     ""},
};

static void expect_ended(fixture *f, int64_t id, const struct ending *e) {
  seen s = look(f, id);
  expect_int(s.state, e->state);
  expect_int(s.outcome, e->outcome_kept);
  expect_int(s.attempt, e->attempt);
  if (e->due >= 0) expect_int(s.due_at - f->now, e->due);
  expect_text(s.last_error, e->last_error);
  expect_text(s.result, e->result);
}

/* A queue for each, lest they come in each other's way. */
static int64_t put_kept(fixture *f, dibs_engine_options *options, size_t i,
                        char name[16], const char *names[1]) {
  dibs_job_options job = no_options();
  job.keep = DIBS_FOREVER;
  snprintf(name, 16, "q%d", (int)i);
  names[0] = name;
  options->queues = names;
  return put_with(f, name, "1", &job);
}

static void finish_does_as_it_is_told(void **state) {
  fixture *f = *state;
  for (size_t i = 0; i < COUNT(endings); i++) {
    told t;
    char name[16];
    const char *names[1];
    dibs_engine_options options = telling_options(1, &t);
    int64_t id = put_kept(f, &options, i, name, names);
    dibs_engine *engine = start_driven(f, &options);
    t.path = f->path;
    dibs_run *run = take_run(engine);
    /* The strings are copied. */
    dibs_settlement outcome = endings[i].outcome;
    char result[16] = "", error[16] = "";
    if (outcome.result.data) {
      memcpy(result, outcome.result.data, outcome.result.size);
      outcome.result.data = result;
    }
    if (outcome.error) {
      snprintf(error, sizeof error, "%s", outcome.error);
      outcome.error = error;
    }
    outcome.receipt = "unheeded";
    expect_int(dibs_engine_finish(engine, run, &outcome), DIBS_OK);
    memset(result, '!', sizeof result);
    memset(error, '!', sizeof error - 1);
    eventually(t.settled == 1);
    expect_int(t.last_id, id);
    expect_int(t.last_status, DIBS_OK);
    expect_int(t.last_state, endings[i].state);
    expect_int(t.uncommitted, 0);
    expect_ended(f, id, &endings[i]);
    stop_and_close(engine);
    expect_int(t.settled, 1);
  }
}

static void settle_does_as_it_is_told(void **state) {
  fixture *f = *state;
  for (size_t i = 0; i < COUNT(endings); i++) {
    told t;
    char name[16];
    const char *names[1];
    dibs_engine_options options = telling_options(1, &t);
    int64_t id = put_kept(f, &options, i, name, names);
    dibs_engine *engine = start_driven(f, &options);
    dibs_settlement outcome = endings[i].outcome;
    outcome.status = -1;
    outcome.message[0] = '!';
    expect_int(dibs_engine_settle(engine, take_run(engine), &outcome), DIBS_OK);
    expect_ended(f, id, &endings[i]);
    expect_int(outcome.status, DIBS_OK);
    expect_text(outcome.message, "");
    expect_int(outcome.id, id);
    expect_int(outcome.state, endings[i].state);
    if (endings[i].due > 0) expect_int(outcome.until, f->now + endings[i].due);
    expect_int(t.settled, 0);
    stop_and_close(engine);
  }
}

static void settle_says_that_the_job_was_lost(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  dibs_engine *engine = start_driven(f, &options);
  dibs_settlement outcome = {.action = DIBS_ACK};
  int64_t id = put(f, "q", "1");
  dibs_run *run = take_run(engine);
  expect_ok(f->db, dibs_cancel(f->db, &id, 1, NULL, NULL));
  expect_int(dibs_engine_settle(engine, run, &outcome), DIBS_LOST);
  expect_int(outcome.status, DIBS_LOST);
  expect_says(outcome.message, "gone");
  expect_int(outcome.id, id);
  /* By its receipt. */
  id = put(f, "q", "1");
  run = take_run(engine);
  expect_ok(f->db, dibs_fail(f->db, run->job->receipt, "said by another"));
  expect_int(settle(engine, run, DIBS_ACK), DIBS_LOST);
  expect_state(f, id, DIBS_DEAD);
  /* It came back and is another run of the same engine. */
  id = put(f, "q", "1");
  run = take_run(engine);
  expect_ok(f->db, dibs_release(f->db, run->job->receipt));
  expect_int(settle(engine, run, DIBS_FAIL), DIBS_LOST);
  run = take_run(engine);
  expect_int(run->job->id, id);
  expect_int(run->job->attempt, 1);
  expect_int(settle(engine, run, DIBS_ACK), DIBS_OK);
  expect_gone(f, id);
  stop_and_close(engine);
}

/* One that is refused does not spoil the others of its transaction. */
static void a_lost_one_spoils_no_other(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(3, &t);
  dibs_engine *engine = start_driven(f, &options);
  call calls[3];
  for (int i = 0; i < 3; i++) put(f, "q", "1");
  for (int i = 0; i < 3; i++) {
    calls[i].run = take_run(engine);
    calls[i].action = DIBS_ACK;
  }
  expect_ok(f->db, dibs_ack(f->db, calls[1].run->job->receipt, NULL));
  sqlite3 *locker = lock_writes(f);
  for (int i = 0; i < 3; i++) call_start(&calls[i], call_settle, engine, 0);
  usleep(5000);
  unlock_writes(locker);
  expect_int(call_end(&calls[0]), DIBS_OK);
  expect_int(call_end(&calls[1]), DIBS_LOST);
  expect_int(call_end(&calls[2]), DIBS_OK);
  stop_and_close(engine);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

static void settle_waits_until_it_is_committed(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  int64_t id = put(f, "q", "1");
  dibs_engine *engine = start(f, &options);
  call c = {.run = take_run(engine), .action = DIBS_ACK};
  sqlite3 *locker = lock_writes(f);
  int before = begins;
  call_start(&c, call_settle, engine, 0);
  eventually(begins > before);
  usleep(10000);
  expect_int(c.done, 0);
  expect_state(f, id, DIBS_RUNNING);
  unlock_writes(locker);
  expect_int(call_end(&c), DIBS_OK);
  expect_gone(f, id);
  stop_and_close(engine);
}

static void finish_does_not_wait(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(1, &t);
  int64_t id = put(f, "q", "1");
  dibs_engine *engine = start(f, &options);
  dibs_run *run = take_run(engine);
  sqlite3 *locker = lock_writes(f);
  int before = begins;
  expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  eventually(begins > before);
  expect_int(t.settled, 0);
  expect_state(f, id, DIBS_RUNNING);
  unlock_writes(locker);
  eventually(t.settled == 1);
  expect_gone(f, id);
  stop_and_close(engine);
}

/* ---- Callbacks ------------------------------------------------------------- */

static void settled_tells_of_what_was_refused(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(2, &t);
  dibs_engine *engine = start_driven(f, &options);
  int64_t id = put(f, "q", "1");
  dibs_run *run = take_run(engine);
  expect_ok(f->db, dibs_ack(f->db, run->job->receipt, NULL));
  expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  eventually(t.settled == 1);
  expect_int(t.last_id, id);
  expect_int(t.last_status, DIBS_LOST);
  /* Not of what settle answers, nor of what no handler had. */
  put(f, "q", "1");
  put(f, "q", "1");
  expect_int(settle(engine, take_run(engine), DIBS_ACK), DIBS_OK);
  stop_and_close(engine);
  expect_int(t.settled, 1);
  expect_int(counts(f, "q").ready, 1);
}

static void ready_is_told_once_until_all_are_taken(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(2, &t);
  dibs_run *runs[2];
  tell_ready(&options);
  dibs_engine *engine = start(f, &options);
  fill(f, 5);
  eventually(t.ready == 1);
  expect_engine(engine, dibs_engine_next(engine, 0, &runs[0]), DIBS_OK);
  usleep(5000);
  expect_int(t.ready, 1);
  expect_engine(engine, dibs_engine_next(engine, 0, &runs[1]), DIBS_OK);
  expect_no_job(engine);
  expect_int(finish(engine, runs[0], DIBS_ACK), DIBS_OK);
  eventually(t.ready == 2);
  expect_int(finish(engine, runs[1], DIBS_ACK), DIBS_OK);
  eventually(t.settled == 2);
  usleep(5000);
  expect_int(t.ready, 2);
  for (int i = 0; i < 3; i++) {
    expect_int(settle(engine, take_run(engine), DIBS_ACK), DIBS_OK);
  }
  expect_no_job(engine);
  stop_and_close(engine);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

/* One thread that sleeps on a descriptor only, as an event loop does. */
static void an_event_loop_polls_one_descriptor(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(3, &t);
  int jobs = 300 / slowness();
  int finished = 0;
  tell_ready(&options);
  t.descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  dibs_engine *engine = start(f, &options);
  for (int put_so_far = 0; finished < jobs;) {
    struct pollfd polled = {t.descriptor, POLLIN, 0};
    eventfd_t count;
    for (int i = 0; i < 7 && put_so_far < jobs; i++, put_so_far++) {
      put(f, "q", "1");
    }
    if (poll(&polled, 1, (int)LONG) != 1) fail_msg("nobody told the loop");
    eventfd_read(t.descriptor, &count);
    dibs_run *run;
    int status;
    while ((status = dibs_engine_next(engine, 0, &run)) == DIBS_OK) {
      expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
      finished++;
    }
    expect_engine(engine, status, DIBS_EMPTY);
  }
  eventually(t.settled == jobs);
  expect_int(t.most_inside, 1);
  stop_and_close(engine);
  close(t.descriptor);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

/* Where `ready` is told, next() may wait all the same, and must not take the
** waiter's wake-ups. */
static void next_may_wait_beside_the_waiter(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(2, &t);
  tell_ready(&options);
  dibs_engine *engine = start(f, &options);
  for (int i = 0; i < 30; i++) {
    call waiter = {.run = NULL};
    dibs_run *run;
    put(f, "q", "1");
    eventually(t.ready > i);
    call_start(&waiter, call_next, engine, DIBS_FOREVER);
    put(f, "q", "1");
    /* One of the two is for it. */
    run = take_run(engine);
    expect_int(call_end(&waiter), DIBS_OK);
    expect_true(run != waiter.run);
    t.ready = i + 1;
    expect_int(settle(engine, run, DIBS_ACK), DIBS_OK);
    expect_int(settle(engine, waiter.run, DIBS_ACK), DIBS_OK);
  }
  stop_and_close(engine);
}

/* While a thread is in `settled`, the keeper has a flag to tell of. */
static void callbacks_are_never_two_at_a_time(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(3, &t);
  dibs_job_options job = no_options();
  dibs_engine *engine = start(f, &options);
  int64_t first = put(f, "q", "1");
  int64_t second = put(f, "q", "1");
  job.timeout = 30;
  put_with(f, "q", "1", &job);
  dibs_run *one = take_run(engine);
  expect_int(one->job->id, first);
  call settler = {.run = take_run(engine), .action = DIBS_ACK};
  expect_int(settler.run->job->id, second);
  /* A caller of settle takes the turn of what is finished, so that the keeper
  ** is free. Once in a while the keeper is faster. */
  dibs_run *timed = take_run(engine);
  t.hold = 1;
  expect_int(finish(engine, one, DIBS_ACK), DIBS_OK);
  call_start(&settler, call_settle, engine, 0);
  eventually(t.held_up);
  call stopper = {.run = NULL};
  call_start(&stopper, call_stop, engine, 0);
  int64_t end = milliseconds() + 100;
  while (t.most_inside < 2 && milliseconds() < end) usleep(500);
  t.hold = 0;
  expect_int(call_end(&settler), DIBS_OK);
  expect_int(call_end(&stopper), DIBS_OK);
  expect_int(dibs_run_wait(timed, DIBS_RUN_STOPPING | DIBS_RUN_LOST, LONG),
             DIBS_OK);
  expect_int(t.most_inside, 1);
  expect_true(t.flagged > 0);
  stop_and_close(engine);
}

/* ---- Shared commits -------------------------------------------------------- */

/* On a disk where a commit takes its time. */
static void finished_jobs_share_transactions(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(64);
  int jobs = 1000 / slowness();
  dibs_engine *engine = start(f, &options);
  crew c;
  fill(f, jobs);
  commit_takes = 1000;
  int before = commits;
  crew_work(&c, engine, jobs, 32);
  stop_and_close(engine);
  commit_takes = 0;
  int transactions = commits - before;
  print_message("%d jobs in %d transactions\n", jobs, transactions);
  expect_true(transactions < jobs / 4);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

/* Nothing else is under way, and nothing else has to come. */
static void a_single_job_waits_for_no_other(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(4, &t);
  dibs_engine *engine = start_driven(f, &options);
  dibs_run *runs[4];
  fill(f, 4);
  for (int i = 0; i < 4; i++) runs[i] = take_run(engine);
  int before = commits;
  expect_int(settle(engine, runs[0], DIBS_ACK), DIBS_OK);
  expect_int(commits - before, 1);
  expect_int(finish(engine, runs[1], DIBS_ACK), DIBS_OK);
  eventually(t.settled == 1);
  expect_int(commits - before, 2);
  expect_int(counts(f, "q").running, 2);
  stop_and_close(engine);
}

/* By itself the engine would look every five seconds: thirty of these are more
** than the time that there is for all. */
static void finish_wakes_the_engine(void **state) {
  fixture *f = *state;
  told t;
  dibs_engine_options options = telling_options(31, &t);
  dibs_engine *engine = start(f, &options);
  dibs_run *runs[31];
  fill(f, 31);
  for (int i = 0; i < 31; i++) runs[i] = take_run(engine);
  int64_t end = milliseconds() + LONG;
  for (int i = 0; i < 30; i++) {
    expect_int(finish(engine, runs[i], DIBS_ACK), DIBS_OK);
    while (t.settled <= i && milliseconds() < end) usleep(200);
    expect_int(t.settled, i + 1);
  }
  stop_and_close(engine);
  expect_int(counts(f, "q").ready, 1);
}

/* One thread settles its last job and claims the next in one transaction. */
static void a_single_handler_needs_a_transaction_a_job(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  int jobs = 100;
  dibs_engine *engine = start_driven(f, &options);
  fill(f, jobs);
  int before = commits;
  for (int i = 0; i < jobs; i++) {
    expect_int(finish(engine, take_run(engine), DIBS_ACK), DIBS_OK);
  }
  stop_and_close(engine);
  int transactions = commits - before;
  print_message("%d jobs in %d transactions\n", jobs, transactions);
  expect_true(transactions <= 2 * jobs + 1);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

static dibs_job_options named(const char *name) {
  dibs_job_options options = no_options();
  options.name = name;
  return options;
}

static void an_unknown_name_is_given_back(void **state) {
  fixture *f = *state;
  told t = {.ready = 0};
  dibs_open_options open = fixture_options(f);
  dibs_engine_options options = engine_options(4);
  dibs_job_options odd = named("odd"), strange = named("strange");
  tell_log(&open, &t);
  int64_t first = put_with(f, "q", "1", &odd);
  put_with(f, "q", "2", &odd);
  put_with(f, "q", "3", &strange);
  put(f, "q", "4");
  dibs_engine *engine = start_with(f, &open, &options);
  for (int i = 0; i < 4; i++) {
    dibs_run *run = take_run(engine);
    expect_engine(engine, dibs_engine_unknown(engine, run, DIBS_UNSET),
                  DIBS_OK);
  }
  expect_int(t.unknown, 3); /* odd, strange, and none */
  expect_no_job(engine);
  eventually(counts(f, "q").scheduled == 4);
  expect_int(look(f, first).attempt, 0);
  expect_int(look(f, first).due_at, START + 5 * SECOND);
  f->now += 5 * SECOND;
  dibs_run *run = take_run(engine);
  expect_int(run->job->id, first);
  expect_int(run->job->attempt, 1);
  expect_engine(engine, dibs_engine_unknown(engine, run, HOUR), DIBS_OK);
  eventually(look(f, first).due_at == START + 5 * SECOND + HOUR);
  expect_int(t.unknown, 3);
  expect_int(dibs_engine_unknown(engine, NULL, 0), DIBS_MISUSE);
  stop_and_close(engine);
}

static void a_run_knows_its_deadline(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(2);
  dibs_job_options timed = no_options();
  timed.timeout = MINUTE;
  put(f, "q", "1");
  put_with(f, "q", "2", &timed);
  dibs_engine *engine = start_driven(f, &options);
  dibs_run *run = take_run(engine);
  expect_int(run->deadline, DIBS_UNSET);
  expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  run = take_run(engine);
  expect_int(run->deadline, START + MINUTE);
  expect_int(finish(engine, run, DIBS_ACK), DIBS_OK);
  stop_and_close(engine);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(an_unknown_name_is_given_back),
      TEST(a_run_knows_its_deadline),
      TEST_SYSTEM(next_waits_for_an_enqueue),
      TEST_SYSTEM(a_wait_runs_out),
      TEST_SYSTEM(no_timeout_finds_what_is_there),
      TEST_SYSTEM(an_interrupt_ends_every_wait),
      TEST_SYSTEM(a_stop_ends_every_wait),
      TEST(a_stream_is_worked_off),
      TEST_SYSTEM(patterns_and_order_are_those_of_claim),
      TEST_SYSTEM(a_run_has_its_job),
      TEST_SYSTEM(no_more_are_held_than_there_are_slots),
      TEST_SYSTEM(many_threads_stay_within_the_slots),
      TEST_SYSTEM(wrong_options_are_refused),
      TEST_SYSTEM(an_open_that_fails_says_why),
      TEST_SYSTEM(nothing_is_misuse),
      TEST_SYSTEM(a_run_belongs_to_its_engine),
      TEST_SYSTEM(wrong_outcomes_leave_the_run_going_on),
      TEST(finish_does_as_it_is_told),
      TEST(settle_does_as_it_is_told),
      TEST(settle_says_that_the_job_was_lost),
      TEST(a_lost_one_spoils_no_other),
      TEST_SYSTEM(settle_waits_until_it_is_committed),
      TEST_SYSTEM(finish_does_not_wait),
      TEST(settled_tells_of_what_was_refused),
      TEST_SYSTEM(ready_is_told_once_until_all_are_taken),
      TEST_SYSTEM(an_event_loop_polls_one_descriptor),
      TEST_SYSTEM(next_may_wait_beside_the_waiter),
      TEST_SYSTEM(callbacks_are_never_two_at_a_time),
      TEST_SYSTEM(finished_jobs_share_transactions),
      TEST(a_single_job_waits_for_no_other),
      TEST_SYSTEM(finish_wakes_the_engine),
      TEST(a_single_handler_needs_a_transaction_a_job),
  };
  watch_statements();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
