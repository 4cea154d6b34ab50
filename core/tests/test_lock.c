/* SPDX-License-Identifier: MIT */
/*
** test_lock.c: an operation that has to wait for the write lock. What it counts
** it counts from when it got it; what it was asked in time it does.
*/
#include "harness.h"

#define WAIT (10 * SECOND) /* for the lock */

static fixture *waiting; /* NULL: the lock is had at once */

/* Time passes between a call and its transaction. */
static void wait_for_lock(const char *sql) {
  if (!waiting || strcmp(sql, "BEGIN IMMEDIATE") != 0) return;
  waiting->now += WAIT;
  waiting = NULL;
}

static fixture *opened(void **state) {
  fixture *f = *state;
  waiting = NULL;
  on_statement(wait_for_lock);
  f->db = open_another(f);
  return f;
}

/* The next operation waits for it. */
static void lock_is_held(fixture *f) {
  waiting = f;
}

static void expect_waited(void) {
  expect_true(waiting == NULL);
}

/* ---- From when it got it --------------------------------------------------- */

static void a_lease(void **state) {
  fixture *f = opened(state);
  put(f, "q", "1");
  lock_is_held(f);
  held job = take_for(f, "q", SECOND);
  expect_waited();
  expect_int(job.lease_until, START + WAIT + SECOND);
  expect_int(look(f, job.id).claimed_at, START + WAIT);
  f->now += SECOND / 2;
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
}

static void its_extension(void **state) {
  fixture *f = opened(state);
  int64_t until = 0;
  put(f, "q", "1");
  held job = take_for(f, "q", MINUTE);
  lock_is_held(f);
  expect_ok(f->db, dibs_extend(f->db, job.receipt, MINUTE, &until));
  expect_waited();
  expect_int(until, START + WAIT + MINUTE);
  expect_int(look(f, job.id).lease_until, START + WAIT + MINUTE);
}

static void a_delay(void **state) {
  fixture *f = opened(state);
  dibs_job_options options = no_options();
  options.delay = SECOND;
  options.expires = MINUTE;
  lock_is_held(f);
  int64_t id = put_with(f, "q", "1", &options);
  expect_waited();
  expect_int(look(f, id).created_at, START + WAIT);
  expect_int(look(f, id).due_at, START + WAIT + SECOND);
  expect_int(look(f, id).expires_at, START + WAIT + MINUTE);
}

static void the_delay_of_a_retry(void **state) {
  fixture *f = opened(state);
  put(f, "q", "1");
  held job = take(f, "q");
  lock_is_held(f);
  expect_ok(f->db, dibs_retry(f->db, job.receipt, SECOND, "no", NULL));
  expect_waited();
  expect_int(look(f, job.id).due_at, START + WAIT + SECOND);
}

static int wait_in_host(unsigned what, void *context, void *statement,
                        void *sql) {
  (void)what;
  (void)context;
  (void)statement;
  wait_for_lock(sql);
  return 0;
}

static void in_a_host_it_is_the_same(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  dibs_job_options delayed = no_options();
  dibs_db *attached = NULL;
  int64_t id = 0;
  f->db = open_another(f);
  sqlite3 *host = plain_open(f->path);
  sqlite3_trace_v2(host, SQLITE_TRACE_STMT, wait_in_host, NULL);
  expect_ok(attached, dibs_attach(host, NULL, &options, &attached));
  delayed.delay = SECOND;
  lock_is_held(f);
  expect_ok(attached, dibs_enqueue(attached, "q", dibs_none(), &delayed, &id));
  expect_waited();
  expect_int(look(f, id).due_at, START + WAIT + SECOND);
  expect_int(dibs_close(attached), DIBS_OK);
  expect_int(sqlite3_close(host), SQLITE_OK);
}

/* ---- In time --------------------------------------------------------------- */

/* Nobody can have taken the job but by the lock. */
static void a_receipt_that_held_when_it_was_given(void **state) {
  fixture *f = opened(state);
  for (int i = 0; i < 3; i++) {
    int64_t id = put(f, "q", "1");
    held job = take_for(f, "q", SECOND);
    lock_is_held(f);
    switch (i) {
    case 0: expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL)); break;
    case 1:
      expect_ok(f->db, dibs_extend(f->db, job.receipt, MINUTE, NULL));
      break;
    default:
      expect_ok(f->db,
                dibs_checkpoint(f->db, job.receipt, dibs_json("2"), MINUTE));
    }
    expect_waited();
    if (i) expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
    expect_gone(f, id);
  }
}

static void one_that_did_not_is_lost(void **state) {
  fixture *f = opened(state);
  put(f, "q", "1");
  held job = take_for(f, "q", SECOND);
  f->now += SECOND;
  lock_is_held(f);
  expect_status(f->db, dibs_ack(f->db, job.receipt, NULL), DIBS_LOST);
  expect_waited();
}

static void a_stage_that_was_committed_in_time(void **state) {
  fixture *f = opened(state);
  dibs_job_options options = no_options();
  options.stage = SECOND;
  int64_t id = put_with(f, "q", "1", &options);
  lock_is_held(f);
  expect_ok(f->db, dibs_commit(f->db, id));
  expect_waited();
  expect_state(f, id, DIBS_READY);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(a_lease),
      TEST_CLOSED(its_extension),
      TEST_CLOSED(a_delay),
      TEST_CLOSED(the_delay_of_a_retry),
      TEST_CLOSED(in_a_host_it_is_the_same),
      TEST_CLOSED(a_receipt_that_held_when_it_was_given),
      TEST_CLOSED(one_that_did_not_is_lost),
      TEST_CLOSED(a_stage_that_was_committed_in_time),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
