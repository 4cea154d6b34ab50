/* SPDX-License-Identifier: MIT */
/*
** test_settle.c: what becomes of a claimed job: ack, retry, fail, release,
** snooze, discard, extend; receipts that hold no longer; leases that run out;
** backoff, the last attempt, the error history; what is kept.
*/
#include "harness.h"

/* A job of queue "q", claimed. */
static held claimed(fixture *f, const dibs_job_options *options) {
  put_with(f, "q", "[1]", options);
  return take(f, "q");
}

static dibs_job_options attempts(int64_t most) {
  dibs_job_options options = no_options();
  options.max_attempts = most;
  options.backoff_jitter = 0;
  return options;
}

/* ---- Ack ----------------------------------------------------------------- */

static void ack_removes_the_job(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_gone(f, job.id);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
  expect_nothing(f, "q");
}

static void ack_keeps_a_job_that_says_keep(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.keep = HOUR;
  held job = claimed(f, &options);
  f->now += 5;
  expect_ok(f->db, dibs_ack(f->db, job.receipt, "{\"ok\": true}"));
  seen kept = look(f, job.id);
  expect_int(kept.state, DIBS_DONE);
  expect_int(kept.outcome, DIBS_ACKED);
  expect_int(kept.finished_at, START + 5);
  expect_int(kept.claimed_at, START);
  expect_int(kept.attempt, 1);
  expect_text(kept.result, "{\"ok\": true}");
  expect_text(kept.payload, "[1]");
  expect_int(kept.lease_until, DIBS_UNSET);
  expect_int(counts(f, "q").done, 1);
  expect_nothing(f, "q");
}

static void a_result_must_be_json(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.keep = DIBS_FOREVER;
  held job = claimed(f, &options);
  expect_status(f->db, dibs_ack(f->db, job.receipt, "{"), DIBS_INVALID);
  expect_says(dibs_error(f->db), "result");
  expect_status(f->db, dibs_ack(f->db, job.receipt, ""), DIBS_INVALID);
  expect_state(f, job.id, DIBS_RUNNING);
  dibs_settlement bytes = {.receipt = job.receipt, .action = DIBS_ACK};
  bytes.result = dibs_bytes("x", 1);
  expect_ok(f->db, dibs_settle(f->db, &bytes, 1));
  expect_int(bytes.status, DIBS_INVALID);
  expect_ok(f->db, dibs_ack(f->db, job.receipt, "null"));
  expect_text(look(f, job.id).result, "null");
}

/* ---- Retry and backoff ---------------------------------------------------- */

static void retry_at_once_keeps_its_age(void **state) {
  fixture *f = *state;
  held first = claimed(f, NULL);
  int64_t second = put(f, "q", "1");
  int where = 0;
  expect_ok(f->db, dibs_retry(f->db, first.receipt, 0, "again", &where));
  expect_int(where, DIBS_READY);
  expect_int(look(f, first.id).attempt, 1);
  held again = take(f, "q");
  expect_int(again.id, first.id);
  expect_int(again.attempt, 2);
  expect_int(try_take(f, "q"), second);
}

static void retry_after_a_delay(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  int where = 0;
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 1500, NULL, &where));
  expect_int(where, DIBS_SCHEDULED);
  expect_int(look(f, job.id).due_at, START + 1500);
  f->now += 1499;
  expect_nothing(f, "q");
  f->now += 1;
  expect_int(try_take(f, "q"), job.id);
}

static void retry_state_may_go_unasked(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_ok(f->db, dibs_retry(f->db, job.receipt, DIBS_UNSET, NULL, NULL));
  expect_state(f, job.id, DIBS_SCHEDULED);
}

static void backoff_grows_up_to_its_cap(void **state) {
  fixture *f = *state;
  static const int64_t delays[] = {1000, 3000, 9000, 20000, 20000};
  dibs_job_options options = attempts(0);
  options.backoff = 1000;
  options.backoff_factor = 3;
  options.backoff_cap = 20000;
  int64_t id = put_with(f, "q", "1", &options);
  for (size_t i = 0; i < COUNT(delays); i++) {
    held job = take(f, "q");
    int64_t now = f->now;
    expect_ok(f->db, dibs_retry(f->db, job.receipt, DIBS_UNSET, "x", NULL));
    expect_int(look(f, id).due_at - now, delays[i]);
    f->now = now + delays[i];
  }
}

static void default_backoff_is_as_documented(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "1");
  int64_t expected = DIBS_DEFAULT_BACKOFF;
  for (int i = 1; i < DIBS_DEFAULT_MAX_ATTEMPTS; i++) {
    held job = take(f, "q");
    int64_t now = f->now;
    int where = 0;
    expect_ok(f->db, dibs_retry(f->db, job.receipt, DIBS_UNSET, "x", &where));
    expect_int(where, DIBS_SCHEDULED);
    int64_t delay = look(f, id).due_at - now;
    expect_true(delay >= expected);
    expect_true(delay <= expected + expected / 10 + 1);
    f->now = now + delay;
    expected *= 2;
    if (expected > DIBS_DEFAULT_BACKOFF_CAP) {
      expected = DIBS_DEFAULT_BACKOFF_CAP;
    }
  }
}

static void jitter_spreads_the_retries(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  int64_t least = INT64_MAX;
  int64_t most = 0;
  options.backoff = 10000;
  options.backoff_jitter = 1;
  for (int i = 0; i < 60; i++) {
    held job = claimed(f, &options);
    expect_ok(f->db, dibs_retry(f->db, job.receipt, DIBS_UNSET, "x", NULL));
    int64_t delay = look(f, job.id).due_at - f->now;
    if (delay < least) least = delay;
    if (delay > most) most = delay;
  }
  expect_true(least >= 10000 && least < 13000);
  expect_true(most <= 20000 && most > 17000);
}

static void a_backoff_of_zero_is_at_once(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.backoff = 0;
  held job = claimed(f, &options);
  expect_ok(f->db, dibs_retry(f->db, job.receipt, DIBS_UNSET, "x", NULL));
  expect_state(f, job.id, DIBS_READY);
}

static void a_huge_backoff_stays_in_time(void **state) {
  fixture *f = *state;
  dibs_job_options options = attempts(0);
  options.backoff = INT64_C(253402300799999);
  options.backoff_cap = INT64_C(253402300799999);
  options.backoff_factor = 1000;
  held job = claimed(f, &options);
  expect_ok(f->db, dibs_retry(f->db, job.receipt, DIBS_UNSET, "x", NULL));
  expect_state(f, job.id, DIBS_SCHEDULED);
  expect_int(look(f, job.id).due_at, INT64_C(253402300799999));
}

/* ---- The last attempt ------------------------------------------------------ */

static void the_last_attempt_is_the_last(void **state) {
  fixture *f = *state;
  dibs_job_options options = attempts(2);
  held job = claimed(f, &options);
  int where = 0;
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "first", &where));
  expect_int(where, DIBS_READY);
  job = take(f, "q");
  f->now += 7;
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "second", &where));
  expect_int(where, DIBS_DEAD);
  seen dead = look(f, job.id);
  expect_int(dead.state, DIBS_DEAD);
  expect_int(dead.attempt, 2);
  expect_int(dead.finished_at, START + 7);
  expect_text(dead.last_error, "second");
  expect_int(dead.error_count, 2);
  expect_nothing(f, "q");
  expect_int(counts(f, "q").dead, 1);
}

static void unlimited_attempts_never_end(void **state) {
  fixture *f = *state;
  dibs_job_options options = attempts(0);
  options.backoff = 0;
  put_with(f, "q", "1", &options);
  for (int i = 1; i <= 50; i++) {
    held job = take(f, "q");
    expect_int(job.attempt, i);
    expect_ok(f->db, dibs_retry(f->db, job.receipt, DIBS_UNSET, "x", NULL));
  }
  expect_int(counts(f, "q").ready, 1);
}

static void fail_is_for_good(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_ok(f->db, dibs_fail(f->db, job.receipt, "no such user"));
  seen dead = look(f, job.id);
  expect_int(dead.state, DIBS_DEAD);
  expect_int(dead.attempt, 1);
  expect_text(dead.last_error, "no such user");
  expect_text(dead.payload, "[1]");
  expect_int(dead.error_count, 1);
  f->now += 365 * DAY;
  expect_nothing(f, "q");
}

/* ---- No attempt ------------------------------------------------------------ */

static void release_counts_no_attempt(void **state) {
  fixture *f = *state;
  dibs_job_options options = attempts(1);
  held job = claimed(f, &options);
  for (int i = 0; i < 5; i++) {
    expect_int(job.attempt, 1);
    expect_ok(f->db, dibs_release(f->db, job.receipt));
    expect_state(f, job.id, DIBS_READY);
    expect_int(look(f, job.id).attempt, 0);
    expect_int(look(f, job.id).error_count, 0);
    job = take(f, "q");
  }
}

static void snooze_counts_no_attempt(void **state) {
  fixture *f = *state;
  dibs_job_options options = attempts(1);
  held job = claimed(f, &options);
  expect_ok(f->db, dibs_snooze(f->db, job.receipt, 5000));
  expect_state(f, job.id, DIBS_SCHEDULED);
  expect_int(look(f, job.id).due_at, START + 5000);
  expect_int(look(f, job.id).error_count, 0);
  f->now += 5000;
  held again = take(f, "q");
  expect_int(again.id, job.id);
  expect_int(again.attempt, 1);
  expect_ok(f->db, dibs_snooze(f->db, again.receipt, 0));
  expect_state(f, job.id, DIBS_READY);
}

static void discard_is_done_but_not_acked(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.keep = HOUR;
  held job = claimed(f, &options);
  expect_ok(f->db, dibs_discard(f->db, job.receipt, "user left"));
  seen done = look(f, job.id);
  expect_int(done.state, DIBS_DONE);
  expect_int(done.outcome, DIBS_DISCARDED);
  expect_text(done.last_error, "user left");
  job = claimed(f, NULL);
  expect_ok(f->db, dibs_discard(f->db, job.receipt, NULL));
  expect_gone(f, job.id);
}

/* ---- Extend ---------------------------------------------------------------- */

static void extend_moves_the_end_forward_only(void **state) {
  fixture *f = *state;
  int64_t until = 0;
  put(f, "q", "1");
  held job = take_for(f, "q", 10000);
  f->now += 5000;
  expect_ok(f->db, dibs_extend(f->db, job.receipt, 10000, &until));
  expect_int(until, START + 15000);
  expect_ok(f->db, dibs_extend(f->db, job.receipt, 1, &until));
  expect_int(until, START + 15000);
  expect_int(look(f, job.id).lease_until, START + 15000);
  expect_ok(f->db, dibs_extend(f->db, job.receipt, 20000, NULL));
  expect_int(look(f, job.id).lease_until, START + 25000);
  f->now = START + 24999;
  expect_nothing(f, "q");
  f->now = START + 25000;
  expect_int(try_take(f, "q"), job.id);
}

static void a_lease_of_zero_is_refused(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_status(f->db, dibs_extend(f->db, job.receipt, 0, NULL), DIBS_INVALID);
  expect_says(dibs_error(f->db), "lease");
  expect_status(f->db, dibs_extend(f->db, job.receipt, -1, NULL), DIBS_INVALID);
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
}

static void negative_delays_are_refused(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_status(f->db, dibs_retry(f->db, job.receipt, -1, "x", NULL),
                DIBS_INVALID);
  expect_says(dibs_error(f->db), "delay");
  expect_status(f->db, dibs_snooze(f->db, job.receipt, -1), DIBS_INVALID);
  expect_state(f, job.id, DIBS_RUNNING);
}

/* ---- Lost receipts --------------------------------------------------------- */

/* Try every action with a receipt; each must be LOST. */
static void expect_lost(fixture *f, const char *receipt) {
  expect_status(f->db, dibs_ack(f->db, receipt, NULL), DIBS_LOST);
  expect_true(*dibs_error(f->db) != '\0');
  expect_status(f->db, dibs_retry(f->db, receipt, 0, "x", NULL), DIBS_LOST);
  expect_status(f->db, dibs_fail(f->db, receipt, "x"), DIBS_LOST);
  expect_status(f->db, dibs_release(f->db, receipt), DIBS_LOST);
  expect_status(f->db, dibs_snooze(f->db, receipt, 0), DIBS_LOST);
  expect_status(f->db, dibs_discard(f->db, receipt, "x"), DIBS_LOST);
  expect_status(f->db, dibs_extend(f->db, receipt, 1000, NULL), DIBS_LOST);
}

static void a_receipt_settles_once(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.keep = DIBS_FOREVER;
  held acked = claimed(f, &options);
  expect_ok(f->db, dibs_ack(f->db, acked.receipt, NULL));
  expect_lost(f, acked.receipt);
  held failed = claimed(f, NULL);
  expect_ok(f->db, dibs_fail(f->db, failed.receipt, "x"));
  expect_lost(f, failed.receipt);
  held released = claimed(f, NULL);
  expect_ok(f->db, dibs_release(f->db, released.receipt));
  expect_lost(f, released.receipt);
  held removed = take(f, "q");
  expect_ok(f->db, dibs_ack(f->db, removed.receipt, NULL));
  expect_lost(f, removed.receipt);
  expect_state(f, acked.id, DIBS_DONE);
  expect_state(f, failed.id, DIBS_DEAD);
}

/* Two workers of one name: the token tells them apart. */
static void a_stale_receipt_of_the_same_worker_is_lost(void **state) {
  fixture *f = *state;
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *old = NULL;
  dibs_job_list *new = NULL;
  const char *queue = "q";
  options.worker = "twin";
  options.lease = 1000;
  int64_t id = put(f, "q", "1");
  expect_ok(f->db, dibs_claim(f->db, &queue, 1, &options, &old));
  f->now += 1000;
  expect_ok(f->db, dibs_claim(f->db, &queue, 1, &options, &new));
  expect_int(new->jobs[0].id, id);
  expect_int(new->jobs[0].attempt, 2);
  expect_lost(f, old->jobs[0].receipt);
  expect_state(f, id, DIBS_RUNNING);
  expect_ok(f->db, dibs_ack(f->db, new->jobs[0].receipt, NULL));
  dibs_job_list_free(old);
  dibs_job_list_free(new);
}

static void a_lapsed_receipt_is_lost_before_anyone_claims(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "1");
  held job = take_for(f, "q", 1000);
  f->now += 999;
  expect_ok(f->db, dibs_extend(f->db, job.receipt, 1000, NULL));
  f->now += 1000;
  expect_lost(f, job.receipt);
  expect_int(try_take(f, "q"), id);
}

static void a_cancelled_receipt_is_lost(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_ok(f->db, dibs_cancel(f->db, &job.id, 1, NULL, NULL));
  expect_lost(f, job.receipt);
}

static void what_is_no_receipt_is_invalid(void **state) {
  fixture *f = *state;
  static const char *const wrong[] = {"",
                                      "x",
                                      "1",
                                      ":",
                                      "1:",
                                      ":1",
                                      "-1:1",
                                      "1:1 ",
                                      " 1:1",
                                      "1:1:1",
                                      "0x1:1",
                                      "1;1",
                                      "99999999999999999999:1",
                                      "0:1",
                                      "9007199254740993:1",
                                      "1:zz",
                                      "1.5:1"};
  held job = claimed(f, NULL);
  for (size_t i = 0; i < COUNT(wrong); i++) {
    int status = dibs_ack(f->db, wrong[i], NULL);
    if (status != DIBS_INVALID) {
      fail_msg("\"%s\": %s", wrong[i], dibs_status_name(status));
    }
    expect_says(dibs_error(f->db), "receipt");
  }
  expect_true(dibs_ack(f->db, NULL, NULL) != DIBS_OK);
  expect_state(f, job.id, DIBS_RUNNING);
}

static void a_receipt_of_another_job_is_lost(void **state) {
  fixture *f = *state;
  char mixed[80];
  held first = claimed(f, NULL);
  held second = claimed(f, NULL);
  snprintf(mixed, sizeof mixed, "%lld%s", (long long)second.id,
           strchr(first.receipt, ':'));
  expect_status(f->db, dibs_ack(f->db, mixed, NULL), DIBS_LOST);
  expect_state(f, second.id, DIBS_RUNNING);
}

/* ---- Many at once ----------------------------------------------------------- */

static void each_settlement_has_its_outcome(void **state) {
  fixture *f = *state;
  held jobs[7];
  dibs_settlement s[10];
  memset(s, 0, sizeof s);
  for (size_t i = 0; i < COUNT(jobs); i++) {
    jobs[i] = claimed(f, NULL);
    s[i].receipt = jobs[i].receipt;
    s[i].action = (int)i + 1;
    s[i].error = "why";
    s[i].delay = 1000;
    s[i].lease = HOUR;
  }
  s[7].receipt = "12345:00000000000000ff";
  s[7].action = DIBS_ACK;
  s[8].receipt = "nonsense";
  s[8].action = DIBS_ACK;
  s[9].receipt = jobs[0].receipt; /* settled a moment ago */
  s[9].action = DIBS_ACK;
  expect_ok(f->db, dibs_settle(f->db, s, COUNT(s)));
  static const int states[] = {DIBS_DONE,   DIBS_SCHEDULED, DIBS_DEAD,
                               DIBS_READY,  DIBS_SCHEDULED, DIBS_DONE,
                               DIBS_RUNNING};
  for (size_t i = 0; i < COUNT(jobs); i++) {
    expect_int(s[i].status, DIBS_OK);
    expect_int(s[i].id, jobs[i].id);
    expect_int(s[i].state, states[i]);
    expect_text(s[i].message, "");
  }
  expect_int(s[1].until, START + 1000);
  expect_int(s[4].until, START + 1000);
  expect_int(s[6].until, START + HOUR);
  expect_int(s[7].status, DIBS_LOST);
  expect_int(s[7].id, 12345);
  expect_true(*s[7].message != '\0');
  expect_int(s[8].status, DIBS_INVALID);
  expect_int(s[8].id, 0);
  expect_true(*s[8].message != '\0');
  expect_int(s[9].status, DIBS_LOST);
  expect_int(counts(f, "q").ready, 1);
  expect_int(counts(f, "q").scheduled, 2);
  expect_int(counts(f, "q").dead, 1);
  expect_int(counts(f, "q").running, 1);
}

static void an_unknown_action_is_invalid(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  dibs_settlement s[2] = {{.receipt = job.receipt, .action = 0},
                          {.receipt = job.receipt, .action = 8}};
  expect_ok(f->db, dibs_settle(f->db, s, 2));
  expect_int(s[0].status, DIBS_INVALID);
  expect_int(s[1].status, DIBS_INVALID);
  expect_ok(f->db, dibs_settle(f->db, NULL, 0));
  expect_status(f->db, dibs_settle(f->db, NULL, 1), DIBS_MISUSE);
  expect_state(f, job.id, DIBS_RUNNING);
}

static void when_nothing_is_settled_every_status_says_why(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  options.busy_timeout = 0;
  expect_int(dibs_close(f->db), DIBS_OK);
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  held first = claimed(f, NULL);
  held second = claimed(f, NULL);
  dibs_settlement s[2] = {{.receipt = first.receipt, .action = DIBS_ACK},
                          {.receipt = second.receipt, .action = DIBS_ACK}};
  sqlite3 *locker = plain_open(f->path);
  sqlite3_exec(locker, "BEGIN IMMEDIATE", NULL, NULL, NULL);
  expect_status(f->db, dibs_settle(f->db, s, 2), DIBS_BUSY);
  sqlite3_close(locker);
  for (int i = 0; i < 2; i++) {
    expect_int(s[i].status, DIBS_BUSY);
    expect_true(*s[i].message != '\0');
  }
  expect_ok(f->db, dibs_settle(f->db, s, 2));
  expect_int(s[0].status, DIBS_OK);
  expect_text(s[0].message, "");
}

/* ---- Leases that run out ---------------------------------------------------- */

static void a_lapsed_job_is_claimable_at_once_the_first_time(void **state) {
  fixture *f = *state;
  put(f, "q", "1");
  held first = take_for(f, "q", 1000);
  f->now += 999;
  expect_nothing(f, "q");
  f->now += 1;
  held second = take_for(f, "q", 1000);
  expect_int(second.id, first.id);
  expect_int(second.attempt, 2);
  seen job = look(f, first.id);
  expect_int(job.error_count, 1);
  expect_says(job.last_error, "lease");
  expect_int(job.errors[0].attempt, 1);
  expect_int(job.crashes, 0);
}

static void a_second_lapse_waits_for_its_backoff(void **state) {
  fixture *f = *state;
  dibs_job_options options = attempts(20);
  options.backoff = 10000;
  options.backoff_factor = 2;
  int64_t id = put_with(f, "q", "1", &options);
  take_for(f, "q", 1000);
  f->now += 1000;
  take_for(f, "q", 1000);
  f->now += 1000;
  expect_nothing(f, "q");
  expect_state(f, id, DIBS_SCHEDULED);
  /* The delay after the second attempt: 10 s times 2. */
  expect_int(look(f, id).due_at, f->now + 20000);
  f->now += 20000;
  expect_int(take(f, "q").attempt, 3);
}

static void a_lapse_of_the_last_attempt_is_death(void **state) {
  fixture *f = *state;
  dibs_job_options options = attempts(2);
  int64_t id = put_with(f, "q", "1", &options);
  take_for(f, "q", 1000);
  f->now += 1000;
  take_for(f, "q", 1000);
  f->now += 1000;
  expect_nothing(f, "q");
  seen job = look(f, id);
  expect_int(job.state, DIBS_DEAD);
  expect_int(job.error_count, 2);
  expect_says(job.last_error, "lease");
}

static void lapses_and_retries_count_together(void **state) {
  fixture *f = *state;
  dibs_job_options options = attempts(3);
  options.backoff = 0;
  int64_t id = put_with(f, "q", "1", &options);
  held job = take_for(f, "q", 1000);
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "a", NULL));
  take_for(f, "q", 1000);
  f->now += 1000;
  job = take_for(f, "q", 1000);
  expect_int(job.attempt, 3);
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "c", NULL));
  expect_state(f, id, DIBS_DEAD);
  seen dead = look(f, id);
  expect_text(dead.error_texts[0], "a");
  expect_says(dead.error_texts[1], "lease");
  expect_text(dead.error_texts[2], "c");
}

/* ---- The error history ------------------------------------------------------ */

static void errors_say_when_who_and_how_long(void **state) {
  fixture *f = *state;
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  const char *queue = "q";
  int64_t id = put(f, "q", "1");
  options.worker = "anna";
  f->now += 100;
  expect_ok(f->db, dibs_claim(f->db, &queue, 1, &options, &jobs));
  f->now += 40;
  expect_ok(f->db, dibs_retry(f->db, jobs->jobs[0].receipt, 0, "why", NULL));
  dibs_job_list_free(jobs);
  expect_ok(f->db, dibs_get(f->db, id, &jobs));
  const dibs_job_error *error = &jobs->jobs[0].errors[0];
  expect_int(jobs->jobs[0].error_count, 1);
  expect_int(error->attempt, 1);
  expect_int(error->at, START + 140);
  expect_int(error->ms, 40);
  expect_text(error->worker, "anna");
  expect_text(error->text, "why");
  dibs_job_list_free(jobs);
}

static void the_last_twenty_errors_are_kept(void **state) {
  fixture *f = *state;
  dibs_job_options options = attempts(0);
  char text[16];
  int64_t id = put_with(f, "q", "1", &options);
  for (int i = 1; i <= 25; i++) {
    held job = take(f, "q");
    snprintf(text, sizeof text, "error %d", i);
    expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, text, NULL));
    expect_int(raw_int(f, "SELECT count(*) FROM dibs_error"),
               i < DIBS_ERRORS_KEPT ? i : DIBS_ERRORS_KEPT);
  }
  seen job = look(f, id);
  expect_int(job.error_count, DIBS_ERRORS_KEPT);
  expect_text(job.error_texts[0], "error 6");
  expect_text(job.error_texts[19], "error 25");
  expect_int(job.errors[19].attempt, 25);
  expect_text(job.last_error, "error 25");
}

static void a_long_error_is_cut_between_characters(void **state) {
  fixture *f = *state;
  size_t size = DIBS_ERROR_MAX + 100;
  char *text = malloc(size + 1);
  expect_true(text != NULL);
  /* Three-byte characters: the limit falls into one. */
  for (size_t i = 0; i < size; i++) text[i] = "\xE2\x82\xAC"[i % 3];
  text[size / 3 * 3] = '\0';
  held job = claimed(f, NULL);
  expect_ok(f->db, dibs_fail(f->db, job.receipt, text));
  expect_int(raw_int(f, "SELECT length(CAST(text AS BLOB)) FROM dibs_error"),
             DIBS_ERROR_MAX / 3 * 3);
  expect_text(raw_text(f, "SELECT substr(text, -1) FROM dibs_error"),
              "\xE2\x82\xAC");
  free(text);
}

static void an_error_may_go_unsaid(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_ok(f->db, dibs_fail(f->db, job.receipt, NULL));
  seen dead = look(f, job.id);
  expect_int(dead.state, DIBS_DEAD);
  expect_int(dead.error_count, 1);
}

/* What is no UTF-8 must not spoil the table, or whoever reads it as JSON. */
static void an_error_that_is_no_utf8_can_be_shown(void **state) {
  fixture *f = *state;
  dibs_job_list *list = NULL;
  char *json = NULL;
  held job = claimed(f, NULL);
  int status = dibs_fail(f->db, job.receipt, "caf\xE9 \xFF");
  if (status == DIBS_INVALID) return;
  expect_status(f->db, status, DIBS_OK);
  expect_ok(f->db, dibs_get(f->db, job.id, &list));
  expect_int(dibs_job_json(&list->jobs[0], &json), DIBS_OK);
  expect_says(json, "caf");
  expect_int(raw_int(f, "SELECT json_valid('%s')", json), 1);
  expect_true(strchr(json, '\xFF') == NULL && strchr(json, '\xE9') == NULL);
  dibs_free(json);
  dibs_job_list_free(list);
}

/* ---- Keeping ---------------------------------------------------------------- */

static void kept_jobs_are_pruned_when_their_time_is_over(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  int64_t removed = -1;
  options.keep = HOUR;
  held hour = claimed(f, &options);
  expect_ok(f->db, dibs_ack(f->db, hour.receipt, NULL));
  options.keep = DIBS_FOREVER;
  held ever = claimed(f, &options);
  expect_ok(f->db, dibs_ack(f->db, ever.receipt, NULL));
  f->now += HOUR - 1;
  expect_ok(f->db, dibs_prune(f->db, &removed));
  expect_int(removed, 0);
  expect_state(f, hour.id, DIBS_DONE);
  f->now += 1;
  expect_ok(f->db, dibs_prune(f->db, &removed));
  expect_int(removed, 1);
  expect_gone(f, hour.id);
  f->now += 1000 * DAY;
  expect_ok(f->db, dibs_prune(f->db, NULL));
  expect_state(f, ever.id, DIBS_DONE);
}

static void many_kept_jobs_are_pruned(void **state) {
  enum { MANY = 1000 };
  fixture *f = *state;
  dibs_job_options options = no_options();
  int64_t removed = 0;
  options.keep = 1;
  options.max_attempts = 0;
  for (int i = 0; i < MANY; i++) {
    held job = claimed(f, &options);
    if (i % 2) {
      expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "x", NULL));
      job = take(f, "q");
    }
    expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  }
  f->now += 10;
  expect_ok(f->db, dibs_prune(f->db, &removed));
  expect_int(removed, MANY);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_error"), 0);
}

static void dead_jobs_are_not_pruned(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.keep = 1;
  held job = claimed(f, &options);
  expect_ok(f->db, dibs_fail(f->db, job.receipt, "x"));
  f->now += 365 * DAY;
  expect_ok(f->db, dibs_prune(f->db, NULL));
  expect_state(f, job.id, DIBS_DEAD);
}

/* ---- Clock jumps ------------------------------------------------------------ */

static void a_clock_that_jumps_back_loses_nothing(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  f->now += HOUR;
  held job = claimed(f, NULL);
  options.delay = 1000;
  int64_t later = put_with(f, "q", "1", &options);
  f->now -= HOUR;
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "back", NULL));
  expect_true(look(f, job.id).errors[0].ms >= 0);
  expect_int(try_take(f, "q"), job.id);
  f->now += 2 * HOUR;
  expect_true(try_take(f, "q") > 0);
  expect_true(try_take(f, "q") > 0);
  expect_state(f, later, DIBS_RUNNING);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(ack_removes_the_job),
      TEST(ack_keeps_a_job_that_says_keep),
      TEST(a_result_must_be_json),
      TEST(retry_at_once_keeps_its_age),
      TEST(retry_after_a_delay),
      TEST(retry_state_may_go_unasked),
      TEST(backoff_grows_up_to_its_cap),
      TEST(default_backoff_is_as_documented),
      TEST(jitter_spreads_the_retries),
      TEST(a_backoff_of_zero_is_at_once),
      TEST(a_huge_backoff_stays_in_time),
      TEST(the_last_attempt_is_the_last),
      TEST(unlimited_attempts_never_end),
      TEST(fail_is_for_good),
      TEST(release_counts_no_attempt),
      TEST(snooze_counts_no_attempt),
      TEST(discard_is_done_but_not_acked),
      TEST(extend_moves_the_end_forward_only),
      TEST(a_lease_of_zero_is_refused),
      TEST(negative_delays_are_refused),
      TEST(a_receipt_settles_once),
      TEST(a_stale_receipt_of_the_same_worker_is_lost),
      TEST(a_lapsed_receipt_is_lost_before_anyone_claims),
      TEST(a_cancelled_receipt_is_lost),
      TEST(what_is_no_receipt_is_invalid),
      TEST(a_receipt_of_another_job_is_lost),
      TEST(each_settlement_has_its_outcome),
      TEST(an_unknown_action_is_invalid),
      TEST(when_nothing_is_settled_every_status_says_why),
      TEST(a_lapsed_job_is_claimable_at_once_the_first_time),
      TEST(a_second_lapse_waits_for_its_backoff),
      TEST(a_lapse_of_the_last_attempt_is_death),
      TEST(lapses_and_retries_count_together),
      TEST(errors_say_when_who_and_how_long),
      TEST(the_last_twenty_errors_are_kept),
      TEST(a_long_error_is_cut_between_characters),
      TEST(an_error_may_go_unsaid),
      TEST(an_error_that_is_no_utf8_can_be_shown),
      TEST(kept_jobs_are_pruned_when_their_time_is_over),
      TEST(many_kept_jobs_are_pruned),
      TEST(dead_jobs_are_not_pruned),
      TEST(a_clock_that_jumps_back_loses_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
