/* SPDX-License-Identifier: MIT */
/*
** test_lane.c: ordering keys: the jobs of a queue and key run one at a time, in
** strict order, whatever becomes of the one at the head.
*/
#include "harness.h"

static int64_t put_key(fixture *f, const char *queue, const char *key) {
  dibs_job_options options = no_options();
  options.key = key;
  return put_with(f, queue, "1", &options);
}

static void a_lane_runs_one_at_a_time_in_order(void **state) {
  fixture *f = *state;
  int64_t ids[3];
  for (int i = 0; i < 3; i++) ids[i] = put_key(f, "q", "k");
  expect_state(f, ids[0], DIBS_READY);
  expect_state(f, ids[1], DIBS_BLOCKED);
  expect_state(f, ids[2], DIBS_BLOCKED);
  for (int i = 0; i < 3; i++) {
    held job = take(f, "q");
    expect_int(job.id, ids[i]);
    expect_nothing(f, "q");
    expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  }
  expect_nothing(f, "q");
}

static void priority_does_not_overtake_in_a_lane(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  int64_t first = put_key(f, "q", "k");
  options.key = "k";
  options.priority = 100;
  int64_t second = put_with(f, "q", "1", &options);
  held job = take(f, "q");
  expect_int(job.id, first);
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_int(try_take(f, "q"), second);
}

static void jobs_without_the_key_are_not_held_back(void **state) {
  fixture *f = *state;
  put_key(f, "q", "k");
  put_key(f, "q", "k");
  int64_t plain = put(f, "q", "1");
  int64_t other = put_key(f, "q", "other");
  int64_t elsewhere = put_key(f, "r", "k");
  take(f, "q");
  expect_int(try_take(f, "q"), plain);
  expect_int(try_take(f, "q"), other);
  expect_int(try_take(f, "r"), elsewhere);
  expect_nothing(f, "q");
}

static void a_retrying_head_holds_the_lane(void **state) {
  fixture *f = *state;
  int64_t first = put_key(f, "q", "k");
  int64_t second = put_key(f, "q", "k");
  held job = take(f, "q");
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 1000, "x", NULL));
  expect_nothing(f, "q");
  expect_state(f, second, DIBS_BLOCKED);
  f->now += 1000;
  job = take(f, "q");
  expect_int(job.id, first);
  expect_ok(f->db, dibs_snooze(f->db, job.receipt, 1000));
  expect_nothing(f, "q");
  f->now += 1000;
  job = take(f, "q");
  expect_int(job.id, first);
  expect_ok(f->db, dibs_release(f->db, job.receipt));
  job = take(f, "q");
  expect_int(job.id, first);
  expect_ok(f->db, dibs_discard(f->db, job.receipt, NULL));
  expect_int(try_take(f, "q"), second);
}

static void a_scheduled_head_holds_the_lane(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.key = "k";
  options.delay = HOUR;
  int64_t first = put_with(f, "q", "1", &options);
  int64_t second = put_key(f, "q", "k");
  expect_state(f, first, DIBS_SCHEDULED);
  expect_state(f, second, DIBS_BLOCKED);
  expect_nothing(f, "q");
  f->now += HOUR;
  held job = take(f, "q");
  expect_int(job.id, first);
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_int(try_take(f, "q"), second);
}

/* A blocked job keeps its own time: it waits on once it is its turn. */
static void a_blocked_job_keeps_its_delay(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  put_key(f, "q", "k");
  options.key = "k";
  options.delay = HOUR;
  int64_t second = put_with(f, "q", "1", &options);
  held job = take(f, "q");
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_state(f, second, DIBS_SCHEDULED);
  expect_int(look(f, second).due_at, START + HOUR);
  f->now += HOUR;
  expect_int(try_take(f, "q"), second);
}

static void a_dead_head_lets_the_next_go(void **state) {
  fixture *f = *state;
  int64_t first = put_key(f, "q", "k");
  int64_t second = put_key(f, "q", "k");
  held job = take(f, "q");
  expect_ok(f->db, dibs_fail(f->db, job.receipt, "x"));
  expect_state(f, first, DIBS_DEAD);
  expect_int(try_take(f, "q"), second);
}

/* ---- dead_head: block ---------------------------------------------------- */

static void set(fixture *f, const char *queue, const char *name,
                const char *value) {
  expect_ok(f->db, dibs_queue_set(f->db, queue, &name, &value, 1));
}

static void fail_next(fixture *f, const char *queue, int64_t id) {
  held job = take(f, queue);
  expect_int(job.id, id);
  expect_ok(f->db, dibs_fail(f->db, job.receipt, "x"));
  expect_state(f, id, DIBS_DEAD);
}

/* A lane of `count` jobs of q whose head is dead and holds it. */
static void dead_lane(fixture *f, const char *key, int64_t *ids, int count) {
  set(f, "q", "dead_head", "block");
  for (int i = 0; i < count; i++) ids[i] = put_key(f, "q", key);
  fail_next(f, "q", ids[0]);
  for (int i = 1; i < count; i++) expect_state(f, ids[i], DIBS_BLOCKED);
  expect_nothing(f, "q");
}

static void a_dead_head_may_hold_its_lane(void **state) {
  fixture *f = *state;
  int64_t ids[3];
  dead_lane(f, "k", ids, 3);
  int64_t late = put_key(f, "q", "k"), other = put_key(f, "q", "other");
  int64_t plain = put(f, "q", "1");
  expect_state(f, late, DIBS_BLOCKED);
  expect_int(try_take(f, "q"), other);
  expect_int(try_take(f, "q"), plain);
  f->now += DAY;
  expect_int(try_take(f, "q"), other); /* its lease is over, no more */
  expect_int(try_take(f, "q"), plain);
  expect_nothing(f, "q");
}

/* Out of attempts, by a retry and by a lease that ran out: dead is dead. */
static void each_way_to_die_holds_the_lane(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.key = "k";
  options.max_attempts = 1;
  set(f, "q", "dead_head", "block");
  int64_t first = put_with(f, "q", "1", &options);
  int64_t next = put_key(f, "q", "k");
  held job = take(f, "q");
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "x", NULL));
  expect_state(f, first, DIBS_DEAD);
  expect_nothing(f, "q");
  options.key = "other";
  int64_t lapses = put_with(f, "q", "1", &options);
  int64_t behind = put_key(f, "q", "other");
  take_for(f, "q", SECOND);
  f->now += SECOND;
  expect_nothing(f, "q");
  expect_state(f, lapses, DIBS_DEAD);
  expect_state(f, behind, DIBS_BLOCKED);
  expect_state(f, next, DIBS_BLOCKED);
}

static void a_requeued_head_goes_on_with_its_lane(void **state) {
  fixture *f = *state;
  int64_t ids[2];
  dead_lane(f, "k", ids, 2);
  expect_ok(f->db, dibs_requeue(f->db, ids, 1, NULL, NULL));
  expect_state(f, ids[0], DIBS_READY);
  held job = take(f, "q");
  expect_int(job.id, ids[0]);
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_int(try_take(f, "q"), ids[1]);
}

static void a_redriven_head_goes_on_with_its_lane(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  int64_t ids[2], moved, others[2];
  dead_lane(f, "k", ids, 2);
  dead_lane(f, "l", others, 2);
  expect_ok(f->db, dibs_redrive(f->db, &queue, 1, &moved, NULL, NULL));
  expect_int(moved, 2);
  fail_next(f, "q", ids[0]);
  expect_state(f, ids[1], DIBS_BLOCKED);
  expect_int(try_take(f, "q"), others[0]);
}

static void a_cancelled_dead_head_lets_the_next_go(void **state) {
  fixture *f = *state;
  int64_t ids[3];
  dead_lane(f, "k", ids, 3);
  expect_ok(f->db, dibs_cancel(f->db, ids, 1, NULL, NULL));
  expect_int(try_take(f, "q"), ids[1]);
  expect_nothing(f, "q");
}

static void purged_dead_heads_let_the_next_go(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  int64_t ids[2], others[2], removed;
  dead_lane(f, "k", ids, 2);
  dead_lane(f, "l", others, 2);
  expect_ok(f->db, dibs_purge(f->db, &queue, 1, &removed));
  expect_int(removed, 2);
  expect_int(try_take(f, "q"), ids[1]);
  expect_int(try_take(f, "q"), others[1]);
}

/* What waits goes; the dead one stays, and holds what comes, unless it is to go
** as well. */
static void clear_takes_a_held_lane(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  int64_t ids[3], removed;
  dead_lane(f, "k", ids, 3);
  expect_ok(f->db, dibs_clear(f->db, &queue, 1, 0, &removed));
  expect_int(removed, 2);
  int64_t late = put_key(f, "q", "k");
  expect_state(f, late, DIBS_BLOCKED);
  expect_ok(f->db, dibs_clear(f->db, &queue, 1, 1, &removed));
  expect_int(removed, 2);
  int64_t next = put_key(f, "q", "k");
  expect_int(try_take(f, "q"), next);
}

static void a_setting_that_changes_lets_the_lanes_go(void **state) {
  static const char *const ways[] = {"skip", "none"};
  fixture *f = *state;
  for (size_t way = 0; way < COUNT(ways); way++) {
    int64_t ids[2], others[2];
    dead_lane(f, "k", ids, 2);
    dead_lane(f, "l", others, 2);
    set(f, "q", "limit", "7"); /* another setting is none of its business */
    expect_nothing(f, "q");
    set(f, "q", "dead_head", ways[way]);
    fail_next(f, "q", ids[1]);
    fail_next(f, "q", others[1]);
    /* Who is dead by then is in nobody's way afterwards. */
    set(f, "q", "dead_head", "block");
    held job = (put_key(f, "q", "k"), take(f, "q"));
    expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  }
}

/* A file that contradicts itself ends no call but with an error. */
static void a_lane_that_is_not_the_dead_ones_is_told(void **state) {
  fixture *f = *state;
  const char *name = "dead_head", *value = "skip";
  int64_t ids[2];
  dead_lane(f, "k", ids, 2);
  raw_run(f, "UPDATE dibs_job SET key = 'other' WHERE id = %lld",
          (long long)ids[0]);
  expect_status(f->db, dibs_queue_set(f->db, "q", &name, &value, 1),
                DIBS_CORRUPT);
  raw_run(f, "UPDATE dibs_job SET key = 'k' WHERE id = %lld",
          (long long)ids[0]);
  set(f, "q", "dead_head", "skip");
  expect_int(try_take(f, "q"), ids[1]);
}

static void a_bad_dead_head_is_refused(void **state) {
  fixture *f = *state;
  char *json;
  const char *name = "dead_head", *value = "hold";
  expect_status(f->db, dibs_queue_set(f->db, "q", &name, &value, 1),
                DIBS_INVALID);
  expect_says(dibs_error(f->db), "give skip, block, or none");
  set(f, "q", "dead_head", "block");
  expect_ok(f->db, dibs_queue_show(f->db, "q", &json));
  expect_text(json,
              "{\"queue\":\"q\",\"paused\":false,\"dead_head\":\"block\"}");
  dibs_free(json);
}

/* ---- The rest -------------------------------------------------------------- */

static void a_head_whose_lease_lapses_stays_the_head(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.key = "k";
  options.max_attempts = 2;
  int64_t first = put_with(f, "q", "1", &options);
  int64_t second = put_key(f, "q", "k");
  take_for(f, "q", 1000);
  f->now += 1000;
  expect_int(take_for(f, "q", 1000).id, first);
  f->now += 1000;
  expect_int(try_take(f, "q"), second);
  expect_state(f, first, DIBS_DEAD);
}

static void any_member_can_be_cancelled(void **state) {
  fixture *f = *state;
  int64_t ids[4];
  for (int i = 0; i < 4; i++) ids[i] = put_key(f, "q", "k");
  expect_ok(f->db, dibs_cancel(f->db, &ids[1], 1, NULL, NULL));
  expect_state(f, ids[0], DIBS_READY);
  expect_state(f, ids[2], DIBS_BLOCKED);
  expect_ok(f->db, dibs_cancel(f->db, &ids[0], 1, NULL, NULL));
  expect_state(f, ids[2], DIBS_READY);
  held job = take(f, "q");
  expect_int(job.id, ids[2]);
  expect_ok(f->db, dibs_cancel(f->db, &ids[2], 1, NULL, NULL));
  expect_int(try_take(f, "q"), ids[3]);
}

static void a_whole_lane_can_be_cancelled_at_once(void **state) {
  fixture *f = *state;
  int64_t ids[5];
  int64_t cancelled = 0;
  for (int i = 0; i < 5; i++) ids[i] = put_key(f, "q", "k");
  expect_ok(f->db, dibs_cancel(f->db, ids, 5, NULL, &cancelled));
  expect_int(cancelled, 5);
  int64_t next = put_key(f, "q", "k");
  expect_int(try_take(f, "q"), next);
}

static void clear_leaves_a_running_head(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  int64_t removed = 0;
  put_key(f, "q", "k");
  held job = take(f, "q");
  for (int i = 0; i < 3; i++) put_key(f, "q", "k");
  expect_ok(f->db, dibs_clear(f->db, &queue, 1, 0, &removed));
  expect_int(removed, 3);
  int64_t next = put_key(f, "q", "k");
  expect_state(f, next, DIBS_BLOCKED);
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_int(try_take(f, "q"), next);
}

static void clear_takes_a_long_lane(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  dibs_job_options options = no_options();
  dibs_new_job jobs[1500];
  int64_t removed = 0;
  options.key = "k";
  memset(jobs, 0, sizeof jobs);
  for (size_t i = 0; i < COUNT(jobs); i++) {
    jobs[i].queue = "q";
    jobs[i].options = &options;
  }
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, COUNT(jobs), NULL));
  expect_int(counts(f, "q").blocked, COUNT(jobs) - 1);
  expect_ok(f->db, dibs_clear(f->db, &queue, 1, 0, &removed));
  expect_int(removed, COUNT(jobs));
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_lane"), 0);
}

static void a_batch_keeps_its_order_in_a_lane(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  dibs_new_job jobs[4];
  options.key = "k";
  memset(jobs, 0, sizeof jobs);
  for (size_t i = 0; i < COUNT(jobs); i++) {
    jobs[i].queue = "q";
    jobs[i].options = &options;
  }
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, COUNT(jobs), NULL));
  for (int64_t id = 1; id <= 4; id++) {
    held job = take(f, "q");
    expect_int(job.id, id);
    expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  }
}

/* A batch claim takes the head of a lane, and no second of it. */
static void put_lane(fixture *f, const char *key, size_t count) {
  dibs_job_options options = no_options();
  dibs_new_job *jobs = calloc(count, sizeof *jobs);
  expect_true(jobs != NULL);
  options.key = key;
  for (size_t i = 0; i < count; i++)
    jobs[i] = (dibs_new_job){"q", dibs_json("1"), &options};
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, count, NULL));
  free(jobs);
}

/* Ten thousand of a lane in one batch: each costs what it costs when there are
** few, to enqueue and to take. */
static void a_long_lane_costs_no_more_than_a_short_one(void **state) {
  enum { MANY = 10000, SOME = 100 };
  fixture *f = *state;
  steps_watch(f);
  int64_t steps[2][2];
  put_lane(f, "k", 1);
  for (int i = 0; i < 2; i++) {
    if (i) put_lane(f, "k", MANY);
    steps_taken();
    put_lane(f, "k", SOME);
    steps[i][0] = steps_taken();
    for (int j = 0; j < SOME; j++)
      expect_ok(f->db, dibs_ack(f->db, take(f, "q").receipt, NULL));
    steps[i][1] = steps_taken();
  }
  for (int what = 0; what < 2; what++)
    if (steps[1][what] > steps[0][what] + steps[0][what] / 10)
      fail_msg("%s: %lld steps in a short lane, %lld in a long one",
               what ? "take" : "enqueue", (long long)steps[0][what],
               (long long)steps[1][what]);
  expect_int(counts(f, "q").blocked + counts(f, "q").ready, MANY + 1);
}

static void an_expired_job_behind_a_dead_one_goes(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  int64_t ids[2];
  dead_lane(f, "k", ids, 2);
  options.key = "k";
  options.expires = MINUTE;
  int64_t expires = put_with(f, "q", "1", &options);
  f->now += MINUTE;
  expect_nothing(f, "q");
  expect_gone(f, expires);
  expect_int(counts(f, "q").expired, 1);
}

static void a_batch_claim_takes_one_of_a_lane(void **state) {
  fixture *f = *state;
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  const char *queue = "q";
  options.n = 100;
  for (int i = 0; i < 5; i++) put_key(f, "q", "k");
  for (int i = 0; i < 5; i++) put_key(f, "q", "l");
  put(f, "q", "1");
  expect_ok(f->db, dibs_claim(f->db, &queue, 1, &options, &jobs));
  expect_int(jobs->count, 3);
  dibs_job_list_free(jobs);
}

static void a_requeued_job_joins_its_lane_again(void **state) {
  fixture *f = *state;
  int64_t first = put_key(f, "q", "k");
  int64_t second = put_key(f, "q", "k");
  int64_t third = put_key(f, "q", "k");
  held job = take(f, "q");
  expect_ok(f->db, dibs_fail(f->db, job.receipt, "x"));
  job = take(f, "q");
  expect_int(job.id, second);
  expect_ok(f->db, dibs_requeue(f->db, &first, 1, NULL, NULL));
  expect_state(f, first, DIBS_BLOCKED);
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  /* It is the oldest of those that wait. */
  job = take(f, "q");
  expect_int(job.id, first);
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_int(try_take(f, "q"), third);
}

static void a_requeued_job_runs_at_once_in_an_empty_lane(void **state) {
  fixture *f = *state;
  int64_t first = put_key(f, "q", "k");
  held job = take(f, "q");
  expect_ok(f->db, dibs_fail(f->db, job.receipt, "x"));
  expect_ok(f->db, dibs_requeue(f->db, &first, 1, NULL, NULL));
  int64_t second = put_key(f, "q", "k");
  expect_state(f, second, DIBS_BLOCKED);
  expect_int(try_take(f, "q"), first);
}

static void an_expired_head_lets_the_next_go(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.key = "k";
  options.expires = HOUR;
  options.delay = 2 * HOUR;
  int64_t first = put_with(f, "q", "1", &options);
  int64_t second = put_key(f, "q", "k");
  f->now += HOUR;
  expect_int(try_take(f, "q"), second);
  expect_gone(f, first);
}

static void an_expired_blocked_job_is_skipped(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  put_key(f, "q", "k");
  options.key = "k";
  options.expires = HOUR;
  int64_t second = put_with(f, "q", "1", &options);
  int64_t third = put_key(f, "q", "k");
  held job = take_for(f, "q", DAY);
  f->now += HOUR;
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_int(try_take(f, "q"), third);
  expect_gone(f, second);
  expect_int(counts(f, "q").expired, 1);
}

static void changing_a_blocked_job_leaves_it_blocked(void **state) {
  fixture *f = *state;
  dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;
  put_key(f, "q", "k");
  int64_t second = put_key(f, "q", "k");
  change.delay = HOUR;
  change.priority = 5;
  expect_ok(f->db, dibs_change(f->db, second, &change));
  expect_state(f, second, DIBS_BLOCKED);
  held job = take(f, "q");
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_state(f, second, DIBS_SCHEDULED);
  f->now += HOUR;
  expect_int(try_take(f, "q"), second);
  expect_int(look(f, second).priority, 5);
}

static void concurrent_enqueuers_of_a_lane_get_in_line(void **state) {
  fixture *f = *state;
  dibs_db *other = open_another(f);
  dibs_job_options options = no_options();
  int64_t ids[6];
  options.key = "k";
  for (int i = 0; i < 6; i++) {
    dibs_db *db = i % 2 ? other : f->db;
    expect_ok(db, dibs_enqueue(db, "q", dibs_none(), &options, &ids[i]));
  }
  for (int i = 0; i < 6; i++) {
    held job = take(f, "q");
    expect_int(job.id, ids[i]);
    expect_ok(other, dibs_ack(other, job.receipt, NULL));
  }
  dibs_close(other);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_lane_runs_one_at_a_time_in_order),
      TEST(priority_does_not_overtake_in_a_lane),
      TEST(jobs_without_the_key_are_not_held_back),
      TEST(a_retrying_head_holds_the_lane),
      TEST(a_scheduled_head_holds_the_lane),
      TEST(a_blocked_job_keeps_its_delay),
      TEST(a_dead_head_lets_the_next_go),
      TEST(a_dead_head_may_hold_its_lane),
      TEST(each_way_to_die_holds_the_lane),
      TEST(a_requeued_head_goes_on_with_its_lane),
      TEST(a_redriven_head_goes_on_with_its_lane),
      TEST(a_cancelled_dead_head_lets_the_next_go),
      TEST(purged_dead_heads_let_the_next_go),
      TEST(clear_takes_a_held_lane),
      TEST(a_setting_that_changes_lets_the_lanes_go),
      TEST(a_lane_that_is_not_the_dead_ones_is_told),
      TEST(a_bad_dead_head_is_refused),
      TEST(a_head_whose_lease_lapses_stays_the_head),
      TEST(any_member_can_be_cancelled),
      TEST(a_whole_lane_can_be_cancelled_at_once),
      TEST(clear_leaves_a_running_head),
      TEST(clear_takes_a_long_lane),
      TEST(a_batch_keeps_its_order_in_a_lane),
      TEST(a_long_lane_costs_no_more_than_a_short_one),
      TEST(an_expired_job_behind_a_dead_one_goes),
      TEST(a_batch_claim_takes_one_of_a_lane),
      TEST(a_requeued_job_joins_its_lane_again),
      TEST(a_requeued_job_runs_at_once_in_an_empty_lane),
      TEST(an_expired_head_lets_the_next_go),
      TEST(an_expired_blocked_job_is_skipped),
      TEST(changing_a_blocked_job_leaves_it_blocked),
      TEST(concurrent_enqueuers_of_a_lane_get_in_line),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
