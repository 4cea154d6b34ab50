/* SPDX-License-Identifier: MIT */
/*
** test_stage.c: what time does to jobs that have not started: staged ones that
** must be committed, and jobs that expire.
*/
#include "harness.h"

static dibs_job_options staged(int64_t ms) {
  dibs_job_options options = no_options();
  options.stage = ms;
  return options;
}

static int64_t put_staged(fixture *f, const char *queue, int64_t ms) {
  dibs_job_options options = staged(ms);
  return put_with(f, queue, "1", &options);
}

/* ---- Staging -------------------------------------------------------------- */

static void a_staged_job_waits_for_its_commit(void **state) {
  fixture *f = *state;
  int64_t id = put_staged(f, "q", MINUTE);
  expect_state(f, id, DIBS_STAGED);
  expect_nothing(f, "q");
  expect_int(counts(f, "q").staged, 1);
  expect_ok(f->db, dibs_commit(f->db, id));
  expect_state(f, id, DIBS_READY);
  expect_int(try_take(f, "q"), id);
}

static void a_staged_job_can_be_aborted(void **state) {
  fixture *f = *state;
  int64_t id = put_staged(f, "q", MINUTE);
  expect_ok(f->db, dibs_abort(f->db, id));
  expect_gone(f, id);
  expect_status(f->db, dibs_commit(f->db, id), DIBS_NOT_FOUND);
  expect_status(f->db, dibs_abort(f->db, id), DIBS_NOT_FOUND);
}

static void a_late_commit_is_told_so(void **state) {
  fixture *f = *state;
  int64_t tidied = put_staged(f, "q", MINUTE);
  int64_t untouched = put_staged(f, "q", 2 * MINUTE);
  f->now += MINUTE;
  expect_nothing(f, "q");
  expect_gone(f, tidied);
  expect_status(f->db, dibs_commit(f->db, tidied), DIBS_LATE);
  expect_true(*dibs_error(f->db) != '\0');
  f->now += MINUTE;
  /* Nobody has tidied since. */
  expect_status(f->db, dibs_commit(f->db, untouched), DIBS_LATE);
  expect_nothing(f, "q");
  expect_status(f->db, dibs_commit(f->db, untouched), DIBS_LATE);
}

static void a_commit_just_in_time_works(void **state) {
  fixture *f = *state;
  int64_t id = put_staged(f, "q", MINUTE);
  f->now += MINUTE - 1;
  expect_ok(f->db, dibs_commit(f->db, id));
  f->now += DAY;
  expect_int(try_take(f, "q"), id);
}

/* Whoever needs longer than it thought says so in time. */
static void a_stage_can_be_kept_alive(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;
  options.stage = MINUTE;
  int64_t id = put_with(f, "q", "1", &options);
  f->now += MINUTE - 1;
  change.stage = MINUTE;
  expect_ok(f->db, dibs_change(f->db, id, &change));
  change.stage = 1; /* never shortens */
  expect_ok(f->db, dibs_change(f->db, id, &change));
  f->now += MINUTE - 1;
  expect_nothing(f, "q");
  expect_state(f, id, DIBS_STAGED);
  f->now += 1;
  expect_status(f->db, dibs_change(f->db, id, &change), DIBS_LATE);
  expect_nothing(f, "q");
  expect_status(f->db, dibs_change(f->db, id, &change), DIBS_LATE);
  expect_status(f->db, dibs_commit(f->db, id), DIBS_LATE);
  id = put_with(f, "q", "1", &options);
  change.stage = 0;
  expect_status(f->db, dibs_change(f->db, id, &change), DIBS_INVALID);
  expect_ok(f->db, dibs_commit(f->db, id));
  change.stage = MINUTE;
  expect_status(f->db, dibs_change(f->db, id, &change), DIBS_STATE);
}

static void only_staged_jobs_can_be_committed(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "1");
  expect_status(f->db, dibs_commit(f->db, id), DIBS_STATE);
  expect_says(dibs_error(f->db), "ready");
  expect_status(f->db, dibs_abort(f->db, id), DIBS_STATE);
  expect_state(f, id, DIBS_READY);
  int64_t twice = put_staged(f, "q", MINUTE);
  expect_ok(f->db, dibs_commit(f->db, twice));
  expect_status(f->db, dibs_commit(f->db, twice), DIBS_STATE);
  expect_status(f->db, dibs_commit(f->db, 999), DIBS_NOT_FOUND);
  expect_status(f->db, dibs_abort(f->db, -1), DIBS_NOT_FOUND);
}

static void the_delay_of_a_staged_job_counts_from_its_enqueue(void **state) {
  fixture *f = *state;
  dibs_job_options options = staged(HOUR);
  options.delay = 10 * MINUTE;
  int64_t early = put_with(f, "q", "1", &options);
  int64_t late = put_with(f, "q", "1", &options);
  f->now += MINUTE;
  expect_ok(f->db, dibs_commit(f->db, early));
  expect_state(f, early, DIBS_SCHEDULED);
  expect_int(look(f, early).due_at, START + 10 * MINUTE);
  f->now += 20 * MINUTE;
  expect_ok(f->db, dibs_commit(f->db, late));
  expect_state(f, late, DIBS_READY);
}

static void a_staged_job_keeps_its_place_in_its_lane(void **state) {
  fixture *f = *state;
  dibs_job_options options = staged(HOUR);
  options.key = "k";
  int64_t first = put_with(f, "q", "1", &options);
  options.stage = DIBS_UNSET;
  int64_t second = put_with(f, "q", "1", &options);
  expect_state(f, second, DIBS_BLOCKED);
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_commit(f->db, first));
  held job = take(f, "q");
  expect_int(job.id, first);
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_int(try_take(f, "q"), second);
}

static void an_aborted_head_lets_the_lane_go(void **state) {
  fixture *f = *state;
  dibs_job_options options = staged(HOUR);
  options.key = "k";
  int64_t first = put_with(f, "q", "1", &options);
  int64_t middle = put_with(f, "q", "1", &options);
  options.stage = DIBS_UNSET;
  int64_t last = put_with(f, "q", "1", &options);
  expect_ok(f->db, dibs_abort(f->db, first));
  expect_nothing(f, "q");
  /* The next of the lane is staged too; the lane waits for it. */
  f->now += HOUR;
  expect_int(try_take(f, "q"), last);
  expect_status(f->db, dibs_commit(f->db, middle), DIBS_LATE);
}

static void a_staged_job_behind_others_waits_for_both(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.key = "k";
  put_with(f, "q", "1", &options);
  options.stage = HOUR;
  int64_t second = put_with(f, "q", "1", &options);
  held job = take(f, "q");
  expect_ok(f->db, dibs_commit(f->db, second));
  expect_state(f, second, DIBS_BLOCKED);
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_int(try_take(f, "q"), second);
}

static void a_staged_job_holds_its_unique_key(void **state) {
  fixture *f = *state;
  dibs_job_options options = staged(MINUTE);
  options.unique = "u";
  int64_t first = put_with(f, "q", "1", &options);
  expect_int(put_with(f, "q", "1", &options), first);
  f->now += MINUTE;
  expect_nothing(f, "q");
  expect_true(put_with(f, "q", "1", &options) > first);
}

static void a_staged_job_can_be_cancelled_and_changed(void **state) {
  fixture *f = *state;
  dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;
  int64_t id = put_staged(f, "q", HOUR);
  change.delay = MINUTE;
  change.priority = 4;
  expect_ok(f->db, dibs_change(f->db, id, &change));
  expect_state(f, id, DIBS_STAGED);
  expect_ok(f->db, dibs_commit(f->db, id));
  expect_state(f, id, DIBS_SCHEDULED);
  expect_int(look(f, id).priority, 4);
  int64_t other = put_staged(f, "q", HOUR);
  expect_ok(f->db, dibs_cancel(f->db, &other, 1, NULL, NULL));
  expect_gone(f, other);
}

static void clear_takes_staged_jobs(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  int64_t removed = 0;
  int64_t id = put_staged(f, "q", HOUR);
  expect_ok(f->db, dibs_clear(f->db, &queue, 1, 0, &removed));
  expect_int(removed, 1);
  expect_status(f->db, dibs_commit(f->db, id), DIBS_NOT_FOUND);
}

static void many_stages_run_out(void **state) {
  fixture *f = *state;
  for (int i = 0; i < 500; i++) put_staged(f, "q", MINUTE);
  int64_t last = put(f, "q", "1");
  f->now += MINUTE;
  expect_int(try_take(f, "q"), last);
  for (int i = 0; i < 20; i++) expect_nothing(f, "q");
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 1);
}

/* ---- Expiry ---------------------------------------------------------------- */

static void an_expired_job_is_not_started(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.expires = MINUTE;
  int64_t id = put_with(f, "q", "1", &options);
  f->now += MINUTE - 1;
  held job = take(f, "q");
  expect_ok(f->db, dibs_release(f->db, job.receipt));
  f->now += 1;
  expect_nothing(f, "q");
  expect_gone(f, id);
  expect_int(counts(f, "q").expired, 1);
  expect_int(counts(f, "q").ready, 0);
}

static void an_expired_job_may_be_kept(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.expires = MINUTE;
  options.keep = DIBS_FOREVER;
  int64_t id = put_with(f, "q", "1", &options);
  f->now += MINUTE;
  expect_nothing(f, "q");
  seen job = look(f, id);
  expect_int(job.state, DIBS_DONE);
  expect_int(job.outcome, DIBS_EXPIRED);
  expect_int(job.finished_at, START + MINUTE);
  expect_int(job.claimed_at, DIBS_UNSET);
}

static void a_running_job_is_not_touched_by_its_expiry(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.expires = MINUTE;
  int64_t id = put_with(f, "q", "1", &options);
  held job = take_for(f, "q", DAY);
  f->now += HOUR;
  expect_nothing(f, "q");
  expect_state(f, id, DIBS_RUNNING);
  expect_ok(f->db, dibs_extend(f->db, job.receipt, DAY, NULL));
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_int(counts(f, "q").expired, 0);
}

/* One that comes back after its expiry is not started again. */
static void an_expired_job_is_not_started_again(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.expires = MINUTE;
  for (int i = 0; i < 4; i++) {
    int64_t id = put_with(f, "q", "1", &options);
    held job = take_for(f, "q", DAY);
    f->now += HOUR;
    if (i == 0) expect_ok(f->db, dibs_release(f->db, job.receipt));
    if (i == 1) {
      expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "x", NULL));
    }
    if (i == 2) expect_ok(f->db, dibs_snooze(f->db, job.receipt, 0));
    if (i == 3) f->now += DAY;
    expect_nothing(f, "q");
    expect_gone(f, id);
    expect_int(counts(f, "q").expired, i + 1);
  }
}

/* Whatever state it waits in, an expired job goes. */
static void no_state_strands_an_expired_job(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.expires = MINUTE;
  int64_t ready = put_with(f, "q", "1", &options);
  options.delay = HOUR;
  int64_t scheduled = put_with(f, "q", "1", &options);
  options.delay = DIBS_UNSET;
  options.stage = HOUR;
  int64_t stage = put_with(f, "q", "1", &options);
  options.stage = DIBS_UNSET;
  options.key = "k";
  int64_t head = put_with(f, "q", "1", &options);
  int64_t blocked = put_with(f, "q", "1", &options);
  f->now += MINUTE;
  expect_nothing(f, "q");
  expect_gone(f, ready);
  expect_gone(f, scheduled);
  expect_gone(f, stage);
  expect_gone(f, head);
  expect_gone(f, blocked);
  expect_int(counts(f, "q").expired, 5);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_expiry"), 0);
}

static void many_expired_jobs_hide_no_good_one(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  dibs_new_job jobs[1000];
  options.expires = MINUTE;
  options.priority = 1;
  memset(jobs, 0, sizeof jobs);
  for (size_t i = 0; i < COUNT(jobs); i++) {
    jobs[i].queue = "q";
    jobs[i].options = &options;
  }
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, COUNT(jobs), NULL));
  int64_t good = put(f, "q", "1");
  f->now += MINUTE;
  expect_int(try_take(f, "q"), good);
}

static void a_dead_job_does_not_expire(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.expires = MINUTE;
  int64_t id = put_with(f, "q", "1", &options);
  expect_ok(f->db, dibs_fail(f->db, take(f, "q").receipt, "x"));
  f->now += HOUR;
  expect_nothing(f, "q");
  expect_state(f, id, DIBS_DEAD);
  /* Whoever asks for it again gets it. */
  expect_ok(f->db, dibs_requeue(f->db, &id, 1, NULL, NULL));
  expect_int(try_take(f, "q"), id);
}

static void peek_leaves_expired_jobs_out(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  dibs_job_options options = no_options();
  dibs_job_list *jobs = NULL;
  options.expires = MINUTE;
  put_with(f, "q", "1", &options);
  int64_t good = put(f, "q", "1");
  f->now += MINUTE;
  expect_ok(f->db, dibs_peek(f->db, &queue, 1, 5, &jobs));
  expect_int(jobs->count, 1);
  expect_int(jobs->jobs[0].id, good);
  dibs_job_list_free(jobs);
  expect_ok(f->db, dibs_peek(f->db, &queue, 1, 1, &jobs));
  expect_int(jobs->jobs[0].id, good);
  dibs_job_list_free(jobs);
}

/* Nobody claims, but whoever waits for the end sees to what time alone ends. */
static void a_join_ends_with_what_time_ends(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  dibs_job_options options = no_options();
  options.expires = MINUTE;
  put_with(f, "q", "1", &options);
  options = no_options();
  options.stage = MINUTE;
  put_with(f, "q", "2", &options);
  expect_status(f->db, dibs_join(f->db, &queue, 1, 0), DIBS_EMPTY);
  f->now += MINUTE;
  expect_ok(f->db, dibs_join(f->db, &queue, 1, 5000));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_join_ends_with_what_time_ends),
      TEST(a_staged_job_waits_for_its_commit),
      TEST(a_staged_job_can_be_aborted),
      TEST(a_late_commit_is_told_so),
      TEST(a_commit_just_in_time_works),
      TEST(a_stage_can_be_kept_alive),
      TEST(only_staged_jobs_can_be_committed),
      TEST(the_delay_of_a_staged_job_counts_from_its_enqueue),
      TEST(a_staged_job_keeps_its_place_in_its_lane),
      TEST(an_aborted_head_lets_the_lane_go),
      TEST(a_staged_job_behind_others_waits_for_both),
      TEST(a_staged_job_holds_its_unique_key),
      TEST(a_staged_job_can_be_cancelled_and_changed),
      TEST(clear_takes_staged_jobs),
      TEST(many_stages_run_out),
      TEST(an_expired_job_is_not_started),
      TEST(an_expired_job_may_be_kept),
      TEST(a_running_job_is_not_touched_by_its_expiry),
      TEST(an_expired_job_is_not_started_again),
      TEST(no_state_strands_an_expired_job),
      TEST(many_expired_jobs_hide_no_good_one),
      TEST(a_dead_job_does_not_expire),
      TEST(peek_leaves_expired_jobs_out),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
