/* SPDX-License-Identifier: MIT */
/*
** Limits and rates of queues and of limit keys.
*/
#include "harness.h"

#include <stdbool.h>

static void set(fixture *f, const char *queue, const char *name,
                const char *value) {
  expect_ok(f->db, dibs_queue_set(f->db, queue, &name, &value, 1));
}

static int64_t put_key(fixture *f, const char *queue, const char *key) {
  dibs_job_options options = no_options();
  options.limit_key = key;
  return put_with(f, queue, "1", &options);
}

static void ack(fixture *f, const held *job) {
  expect_ok(f->db, dibs_ack(f->db, job->receipt, NULL));
}

/* How many one claim for ten gives. */
static size_t claim_ten(fixture *f, const char *queue) {
  dibs_job_list *jobs;
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  options.n = 10;
  int status = dibs_claim(f->db, &queue, 1, &options, &jobs);
  if (status == DIBS_EMPTY) return 0;
  expect_ok(f->db, status);
  size_t count = jobs->count;
  dibs_job_list_free(jobs);
  return count;
}

static void a_limit_holds_the_queue_until_one_ends(void **state) {
  fixture *f = *state;
  set(f, "q", "limit", "2");
  for (int i = 0; i < 5; i++) put(f, "q", "1");
  held first = take(f, "q"), second = take(f, "q");
  expect_nothing(f, "q");
  expect_int(counts(f, "q").ready, 3);
  ack(f, &first);
  held third = take(f, "q");
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_release(f->db, second.receipt));
  expect_int(take(f, "q").id, second.id);
  expect_ok(f->db, dibs_fail(f->db, third.receipt, NULL));
  expect_true(try_take(f, "q") > 0);
}

static void a_batch_is_cut_at_the_limit(void **state) {
  fixture *f = *state;
  set(f, "q", "limit", "3");
  for (int i = 0; i < 12; i++) put(f, "q", "1");
  expect_int(claim_ten(f, "q"), 3);
  expect_int(claim_ten(f, "q"), 0);
  set(f, "q", "limit", "8");
  expect_int(claim_ten(f, "q"), 5);
  set(f, "q", "limit", "none");
  expect_int(claim_ten(f, "q"), 4);
}

static void a_limit_of_0_starts_nothing(void **state) {
  fixture *f = *state;
  set(f, "q", "limit", "0");
  put(f, "q", "1");
  expect_nothing(f, "q");
  set(f, "q", "limit", "1");
  take(f, "q");
}

/* A held queue is no reason for others to wait, nor is it looked at. */
static void a_held_queue_leaves_turns_to_others(void **state) {
  fixture *f = *state;
  set(f, "a/held", "limit", "1");
  put(f, "a/held", "1");
  put(f, "a/held", "1");
  take(f, "a/held");
  expect_nothing(f, "a/held");
  expect_int(raw_int(f, "SELECT claimable FROM dibs_queue WHERE held"), 0);
  put(f, "a/held", "1");
  expect_int(raw_int(f, "SELECT claimable FROM dibs_queue WHERE held"), 0);
  int64_t other = put(f, "a/other", "1");
  expect_int(take(f, "a/*").id, other);
  expect_nothing(f, "a/*");
}

static void a_limit_counts_what_ran_before_it_was_set(void **state) {
  fixture *f = *state;
  for (int i = 0; i < 4; i++) put(f, "q", "1");
  held first = take(f, "q"), second = take(f, "q");
  set(f, "q", "limit", "2");
  expect_nothing(f, "q");
  ack(f, &first);
  take(f, "q");
  expect_nothing(f, "q");
  ack(f, &second);
  take(f, "q");
}

static void a_lease_that_runs_out_frees_its_place(void **state) {
  fixture *f = *state;
  set(f, "q", "limit", "1");
  int64_t id = put(f, "q", "1");
  put(f, "q", "2");
  take_for(f, "q", MINUTE);
  expect_nothing(f, "q");
  f->now += MINUTE;
  expect_int(take(f, "q").id, id);
  expect_nothing(f, "q");
}

static void a_cancelled_job_frees_its_place(void **state) {
  fixture *f = *state;
  set(f, "q", "limit", "1");
  int64_t id = put(f, "q", "1");
  put(f, "q", "2");
  take(f, "q");
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_cancel(f->db, &id, 1, NULL, NULL));
  take(f, "q");
}

static void a_key_holds_back_its_own_only(void **state) {
  fixture *f = *state;
  set(f, "q", "limit_per_key", "1");
  int64_t a1 = put_key(f, "q", "a"), a2 = put_key(f, "q", "a");
  int64_t a3 = put_key(f, "q", "a"), b1 = put_key(f, "q", "b");
  int64_t none = put(f, "q", "1");
  held first = take(f, "q");
  expect_int(first.id, a1);
  expect_int(take(f, "q").id, b1);
  expect_int(take(f, "q").id, none);
  expect_nothing(f, "q");
  expect_state(f, a2, DIBS_BLOCKED);
  expect_state(f, a3, DIBS_BLOCKED);
  ack(f, &first);
  expect_state(f, a2, DIBS_READY);
  expect_state(f, a3, DIBS_BLOCKED);
  held second = take(f, "q");
  expect_int(second.id, a2);
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_cancel(f->db, &a3, 1, NULL, NULL));
  ack(f, &second);
  expect_nothing(f, "q");
}

static void a_blocked_job_comes_back_by_priority(void **state) {
  fixture *f = *state;
  set(f, "q", "limit_per_key", "1");
  put_key(f, "q", "a");
  held first = take(f, "q");
  int64_t low = put_key(f, "q", "a");
  dibs_job_options options = no_options();
  options.limit_key = "a";
  options.priority = 5;
  int64_t high = put_with(f, "q", "1", &options);
  expect_nothing(f, "q");
  expect_state(f, low, DIBS_BLOCKED);
  ack(f, &first);
  held second = take(f, "q");
  expect_int(second.id, high);
  ack(f, &second);
  expect_int(take(f, "q").id, low);
}

static void what_keys_held_back_goes_on_when_the_limit_goes(void **state) {
  fixture *f = *state;
  set(f, "q", "limit_per_key", "1");
  for (int i = 0; i < 200; i++) put_key(f, "q", "a");
  take(f, "q");
  expect_nothing(f, "q");
  expect_int(counts(f, "q").blocked, 199);
  set(f, "q", "limit_per_key", "none");
  size_t taken = 0, more;
  while ((more = claim_ten(f, "q"))) taken += more;
  expect_int(taken, 199);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_limit"), 0);
}

static void a_rate_gives_so_many_per_period(void **state) {
  fixture *f = *state;
  set(f, "q", "rate", "2/1s");
  for (int i = 0; i < 10; i++) put(f, "q", "1");
  expect_int(claim_ten(f, "q"), 2);
  expect_nothing(f, "q");
  f->now += 499;
  expect_nothing(f, "q");
  f->now += 1;
  expect_int(claim_ten(f, "q"), 1);
  f->now += 10 * SECOND;
  expect_int(claim_ten(f, "q"), 2);
  /* A waiter sleeps until then. */
  int64_t at;
  expect_ok(f->db, dibs_next_event(f->db, &at));
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_next_event(f->db, &at));
  expect_int(at, f->now + 500);
}

static void a_burst_may_be_more_than_the_rate(void **state) {
  fixture *f = *state;
  set(f, "q", "burst", "5");
  set(f, "q", "rate", "1/1s");
  for (int i = 0; i < 10; i++) put(f, "q", "1");
  expect_int(claim_ten(f, "q"), 5);
  f->now += SECOND;
  expect_int(claim_ten(f, "q"), 1);
}

static void a_released_start_gives_no_token_back(void **state) {
  fixture *f = *state;
  set(f, "q", "rate", "1/1s");
  put(f, "q", "1");
  held job = take(f, "q");
  expect_ok(f->db, dibs_release(f->db, job.receipt));
  expect_nothing(f, "q");
  f->now += SECOND;
  take(f, "q");
}

static void a_clock_that_jumps_brings_the_burst_at_most(void **state) {
  fixture *f = *state;
  set(f, "q", "rate", "1/1s");
  for (int i = 0; i < 9; i++) put(f, "q", "1");
  expect_int(claim_ten(f, "q"), 1);
  f->now -= HOUR;
  expect_nothing(f, "q");
  f->now += 2 * HOUR;
  expect_int(claim_ten(f, "q"), 1);
}

static void a_rate_per_key_holds_back_its_key(void **state) {
  fixture *f = *state;
  set(f, "q", "rate_per_key", "1/1m");
  int64_t a1 = put_key(f, "q", "a"), a2 = put_key(f, "q", "a");
  int64_t a3 = put_key(f, "q", "a"), b1 = put_key(f, "q", "b");
  expect_int(take_for(f, "q", DAY).id, a1);
  expect_int(take_for(f, "q", DAY).id, b1);
  expect_nothing(f, "q");
  expect_state(f, a2, DIBS_BLOCKED);
  f->now += MINUTE;
  expect_int(take_for(f, "q", DAY).id, a2);
  expect_nothing(f, "q");
  f->now += MINUTE;
  expect_int(take_for(f, "q", DAY).id, a3);
}

static void limits_hold_together(void **state) {
  fixture *f = *state;
  const char *names[] = {"limit", "limit_per_key", "rate"};
  const char *values[] = {"3", "2", "100/1s"};
  expect_ok(f->db, dibs_queue_set(f->db, "q", names, values, 3));
  for (int i = 0; i < 5; i++) put_key(f, "q", "a");
  expect_int(claim_ten(f, "q"), 2);
  put_key(f, "q", "b");
  put_key(f, "q", "b");
  expect_int(claim_ten(f, "q"), 1);
  expect_int(counts(f, "q").running, 3);
}

/* ---- What goes on when ----------------------------------------------------- */

/* a1 runs, a2 is back from being blocked, a3 is blocked. */
static int64_t free_one(fixture *f, int64_t ids[3]) {
  set(f, "q", "limit_per_key", "1");
  for (int i = 0; i < 3; i++) ids[i] = put_key(f, "q", "a");
  held first = take(f, "q");
  expect_nothing(f, "q");
  ack(f, &first);
  expect_state(f, ids[1], DIBS_READY);
  expect_state(f, ids[2], DIBS_BLOCKED);
  return ids[1];
}

static void one_that_is_cancelled_leaves_its_turn(void **state) {
  fixture *f = *state;
  int64_t ids[3], freed = free_one(f, ids);
  expect_ok(f->db, dibs_cancel(f->db, &freed, 1, NULL, NULL));
  expect_int(try_take(f, "q"), ids[2]);
}

static void one_that_is_put_off_leaves_its_turn(void **state) {
  fixture *f = *state;
  dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;
  int64_t ids[3], freed = free_one(f, ids);
  change.delay = DAY;
  expect_ok(f->db, dibs_change(f->db, freed, &change));
  expect_int(try_take(f, "q"), ids[2]);
}

static void one_that_is_postponed_leaves_its_turn(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  set(f, "q", "limit_per_key", "1");
  put_key(f, "q", "a");
  options.limit_key = "a";
  options.unique = "u";
  options.on_conflict = DIBS_CONFLICT_POSTPONE;
  put_with(f, "q", "1", &options);
  int64_t last = put_key(f, "q", "a");
  held first = take(f, "q");
  expect_nothing(f, "q");
  ack(f, &first);
  options.delay = DAY;
  put_with(f, "q", "1", &options);
  expect_int(try_take(f, "q"), last);
}

static void one_that_expires_leaves_its_turn(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  set(f, "q", "limit_per_key", "1");
  put_key(f, "q", "a");
  options.limit_key = "a";
  options.expires = MINUTE;
  put_with(f, "q", "1", &options);
  int64_t last = put_key(f, "q", "a");
  held first = take(f, "q");
  expect_nothing(f, "q");
  ack(f, &first);
  f->now += MINUTE;
  expect_int(try_take(f, "q"), last);
}

/* Met by a claim before it was tidied: others have expired before it. */
static void one_that_is_found_expired_leaves_its_turn(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  set(f, "q", "limit_per_key", "1");
  put_key(f, "q", "a");
  options.limit_key = "a";
  options.expires = MINUTE;
  put_with(f, "q", "1", &options);
  int64_t last = put_key(f, "q", "a");
  held first = take(f, "q");
  expect_nothing(f, "q");
  ack(f, &first);
  options.limit_key = NULL;
  options.expires = SECOND;
  for (int i = 0; i < 200; i++) put_with(f, "other", "1", &options);
  f->now += MINUTE;
  expect_int(try_take(f, "q"), last);
}

/* The same behind a rate: time let one go on, which ends without starting. */
static void so_it_is_with_tokens(void **state) {
  fixture *f = *state;
  set(f, "q", "rate_per_key", "1/1m");
  int64_t ids[3];
  for (int i = 0; i < 3; i++) ids[i] = put_key(f, "q", "a");
  take_for(f, "q", DAY);
  expect_nothing(f, "q");
  f->now += MINUTE;
  expect_nothing(f, "other"); /* tidies */
  expect_state(f, ids[1], DIBS_READY);
  expect_ok(f->db, dibs_cancel(f->db, &ids[1], 1, NULL, NULL));
  expect_int(try_take(f, "q"), ids[2]);
}

static void a_blocked_job_can_be_changed(void **state) {
  fixture *f = *state;
  dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;
  set(f, "q", "limit_per_key", "1");
  put_key(f, "q", "a");
  int64_t low = put_key(f, "q", "a"), high = put_key(f, "q", "a");
  held first = take(f, "q");
  expect_nothing(f, "q");
  change.priority = 5;
  expect_ok(f->db, dibs_change(f->db, high, &change));
  expect_nothing(f, "q");
  ack(f, &first);
  expect_int(try_take(f, "q"), high);
  expect_nothing(f, "q");
  expect_state(f, low, DIBS_BLOCKED);
}

/* A lane and a limit key together: the lane waits for its head, which waits for
** the limit. */
static void a_lane_waits_for_a_head_that_is_held(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  set(f, "q", "limit_per_key", "1");
  put_key(f, "q", "a");
  options.key = "lane";
  options.limit_key = "a";
  int64_t head = put_with(f, "q", "1", &options);
  options.limit_key = NULL;
  int64_t second = put_with(f, "q", "1", &options);
  held first = take(f, "q");
  expect_nothing(f, "q");
  expect_state(f, head, DIBS_BLOCKED);
  ack(f, &first);
  held job = take(f, "q");
  expect_int(job.id, head);
  expect_nothing(f, "q");
  ack(f, &job);
  expect_int(try_take(f, "q"), second);
}

static void no_state_strands_an_expired_job_that_is_held(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  set(f, "q", "limit_per_key", "1");
  put_key(f, "q", "a");
  options.limit_key = "a";
  options.expires = MINUTE;
  int64_t held_back = put_with(f, "q", "1", &options);
  take_for(f, "q", DAY);
  expect_nothing(f, "q");
  expect_state(f, held_back, DIBS_BLOCKED);
  f->now += MINUTE;
  expect_nothing(f, "q");
  expect_gone(f, held_back);
  expect_int(counts(f, "q").expired, 1);
}

/* ---- What it costs --------------------------------------------------------- */

static void put_keys(fixture *f, const char *queue, const char *key,
                     size_t count) {
  dibs_job_options options = no_options();
  dibs_new_job *jobs = calloc(count, sizeof *jobs);
  expect_true(jobs != NULL);
  options.limit_key = key;
  for (size_t i = 0; i < count; i++)
    jobs[i] = (dibs_new_job){queue, dibs_json("1"), &options};
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, count, NULL));
  free(jobs);
}

/* In one call, however much has to be put aside. */
static void what_lies_behind_much_that_is_held_is_found(void **state) {
  fixture *f = *state;
  set(f, "q", "limit_per_key", "1");
  put_keys(f, "q", "a", 7000);
  int64_t other = put_key(f, "q", "b");
  take_for(f, "q", DAY);
  expect_int(try_take(f, "q"), other);
  expect_int(counts(f, "q").blocked, 6999);
}

static int64_t claim_steps(fixture *f) {
  steps_taken();
  expect_nothing(f, "q");
  return steps_taken();
}

/* A claim's work with so many jobs held back is that with one. */
static void what_is_held_back_is_looked_at_once(void **state) {
  static const char *const limits[][2] = {
      {"limit_per_key", "1"}, {"rate_per_key", "1/1h"}, {"limit", "1"}};
  fixture *f = *state;
  const char *queue = "q";
  steps_watch(f);
  for (size_t i = 0; i < COUNT(limits); i++) {
    set(f, "q", limits[i][0], limits[i][1]);
    put_keys(f, "q", "a", 2);
    held first = take_for(f, "q", DAY);
    expect_nothing(f, "q");
    int64_t few = claim_steps(f);
    put_keys(f, "q", "a", 5000);
    expect_nothing(f, "q");
    int64_t many = claim_steps(f);
    if (many > few + few / 10)
      fail_msg("%s: %lld steps beside 1 held back, %lld beside 5,001",
               limits[i][0], (long long)few, (long long)many);
    expect_ok(f->db, dibs_clear(f->db, &queue, 1, 1, NULL));
    ack(f, &first);
    set(f, "q", limits[i][0], "none");
  }
}

/* Nothing is left behind by keys that were used once. */
static void a_key_leaves_no_bucket_behind(void **state) {
  fixture *f = *state;
  char key[16];
  set(f, "q", "limit_per_key", "3");
  for (int way = 0; way < 2; way++) {
    for (int i = 0; i < 200; i++) {
      snprintf(key, sizeof key, "key %d", i);
      put_key(f, "q", key);
      held job = take(f, "q");
      ack(f, &job);
    }
    if (way) f->now += HOUR;
    for (int i = 0; way && i < 30; i++) expect_nothing(f, "q");
    expect_int(raw_int(f, "SELECT count(*) FROM dibs_limit WHERE key <> ''"),
               0);
    set(f, "q", "rate_per_key", "5/1m");
  }
}

/* Its bucket is kept for as long as it says something. */
static void a_key_that_rests_gets_no_tokens_for_it(void **state) {
  fixture *f = *state;
  set(f, "q", "rate_per_key", "3/1m");
  for (int i = 0; i < 5; i++) put_key(f, "q", "a");
  for (int i = 0; i < 3; i++) {
    held job = take(f, "q");
    ack(f, &job);
    f->now++;
  }
  expect_nothing(f, "q");
  f->now += 20 * SECOND;
  take(f, "q");
  expect_nothing(f, "q");
}

/* As a program does that sets its queues up each time it starts. */
static void setting_a_rate_again_brings_no_tokens(void **state) {
  fixture *f = *state;
  set(f, "q", "rate", "2/1m");
  set(f, "q", "rate_per_key", "2/1m");
  put_keys(f, "q", "a", 10);
  expect_int(claim_ten(f, "q"), 2);
  set(f, "q", "rate", "2/1m");
  set(f, "q", "keep", "1h");
  expect_int(claim_ten(f, "q"), 0);
  set(f, "q", "rate", "none");
  set(f, "q", "rate_per_key", "2/1m");
  expect_int(claim_ten(f, "q"), 0);
  f->now += 30 * SECOND;
  expect_int(claim_ten(f, "q"), 1);
}

/* ---- At random --------------------------------------------------------------- */

/* Counted anew from what is there, the buckets say the same. */
static void random_ends_leave_the_counts_right(void **state) {
  fixture *f = *state;
  unsigned seed = 7;
  set(f, "q", "limit", "20");
  set(f, "q", "limit_per_key", "3");
  char receipts[2000][64];
  int count = 0, next = 0;
  for (int i = 0; i < 1500; i++) {
    static const char *const keys[] = {"a", "b", "c", "d", NULL};
    put_key(f, "q", keys[rand_r(&seed) % 5]);
    dibs_job_list *jobs;
    const char *queue = "q";
    if (!dibs_claim(f->db, &queue, 1, NULL, &jobs)) {
      strcpy(receipts[count++], jobs->jobs[0].receipt);
      dibs_job_list_free(jobs);
    }
    f->now += 50;
    if (next == count || rand_r(&seed) % 3 == 0) continue;
    const char *receipt = receipts[next++];
    switch (rand_r(&seed) % 4) {
    case 0: dibs_release(f->db, receipt); break;
    case 1: dibs_retry(f->db, receipt, 100, NULL, NULL); break;
    case 2: dibs_fail(f->db, receipt, NULL); break;
    default: dibs_ack(f->db, receipt, NULL);
    }
    expect_int(raw_int(f, "SELECT running FROM dibs_limit WHERE key = ''"),
               raw_int(f, "SELECT count(*) FROM dibs_leased"));
    expect_int(raw_int(f, "SELECT coalesce(sum(running), 0) FROM dibs_limit"
                          " WHERE key <> ''"),
               raw_int(f, "SELECT count(*) FROM dibs_leased JOIN dibs_job"
                          " USING (id) WHERE limit_key IS NOT NULL"));
    expect_true(raw_int(f, "SELECT max(running) FROM dibs_limit"
                           " WHERE key <> ''") <= 3);
  }
}

static void a_bad_setting_is_refused_by_name(void **state) {
  fixture *f = *state;
  const char *name = "limits", *value = "5";
  expect_status(f->db, dibs_queue_set(f->db, "q", &name, &value, 1),
                DIBS_INVALID);
  expect_says(dibs_error(f->db), "limits");
  static const char *const bad[][2] = {
      {"limit", "-1"},       {"limit", "many"}, {"rate", "10"},
      {"rate", "0/1s"},      {"rate", "1/0s"},  {"keep", "long"},
      {"max_attempts", "x"}, {"lease", ""},     {"backoff_factor", "two"}};
  for (size_t i = 0; i < COUNT(bad); i++) {
    expect_status(f->db, dibs_queue_set(f->db, "q", &bad[i][0], &bad[i][1], 1),
                  DIBS_INVALID);
    expect_says(dibs_error(f->db), bad[i][0]);
  }
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_setting"), 0);
}

static void settings_are_shown_as_they_were_typed(void **state) {
  fixture *f = *state;
  const char *names[] = {"limit", "rate", "keep", "max_attempts",
                         "backoff_factor"};
  const char *values[] = {"5", "10/1s", "7d", "3", "1.5"};
  char *json;
  expect_ok(f->db, dibs_queue_set(f->db, "q", names, values, 5));
  expect_ok(f->db, dibs_queue_show(f->db, "q", &json));
  expect_text(json, "{\"queue\":\"q\",\"paused\":false,\"limit\":5,"
                    "\"rate\":\"10/1s\",\"max_attempts\":3,"
                    "\"backoff_factor\":1.5,\"keep\":\"7d\"}");
  dibs_free(json);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_limit_holds_the_queue_until_one_ends),
      TEST(a_batch_is_cut_at_the_limit),
      TEST(a_limit_of_0_starts_nothing),
      TEST(a_held_queue_leaves_turns_to_others),
      TEST(a_limit_counts_what_ran_before_it_was_set),
      TEST(a_lease_that_runs_out_frees_its_place),
      TEST(a_cancelled_job_frees_its_place),
      TEST(a_key_holds_back_its_own_only),
      TEST(a_blocked_job_comes_back_by_priority),
      TEST(what_keys_held_back_goes_on_when_the_limit_goes),
      TEST(a_rate_gives_so_many_per_period),
      TEST(a_burst_may_be_more_than_the_rate),
      TEST(a_released_start_gives_no_token_back),
      TEST(a_clock_that_jumps_brings_the_burst_at_most),
      TEST(a_rate_per_key_holds_back_its_key),
      TEST(limits_hold_together),
      TEST(one_that_is_cancelled_leaves_its_turn),
      TEST(one_that_is_put_off_leaves_its_turn),
      TEST(one_that_is_postponed_leaves_its_turn),
      TEST(one_that_expires_leaves_its_turn),
      TEST(one_that_is_found_expired_leaves_its_turn),
      TEST(so_it_is_with_tokens),
      TEST(a_blocked_job_can_be_changed),
      TEST(a_lane_waits_for_a_head_that_is_held),
      TEST(no_state_strands_an_expired_job_that_is_held),
      TEST(what_lies_behind_much_that_is_held_is_found),
      TEST(what_is_held_back_is_looked_at_once),
      TEST(a_key_leaves_no_bucket_behind),
      TEST(a_key_that_rests_gets_no_tokens_for_it),
      TEST(setting_a_rate_again_brings_no_tokens),
      TEST(random_ends_leave_the_counts_right),
      TEST(a_bad_setting_is_refused_by_name),
      TEST(settings_are_shown_as_they_were_typed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
