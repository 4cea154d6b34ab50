/* SPDX-License-Identifier: MIT */
/*
** test_keep.c: how long and how many finished jobs are kept, by their queue's
** keep and keep_count, and that pruning is done in small steps, without a scan.
*/
#include "harness.h"

static void set(fixture *f, const char *name, const char *value) {
  expect_ok(f->db, dibs_queue_set(f->db, "q", &name, &value, 1));
}

/* A job of q that was acked at the clock's time. */
static int64_t finish(fixture *f, const dibs_job_options *options) {
  int64_t id = put_with(f, "q", "1", options);
  held job = take(f, "q");
  expect_int(job.id, id);
  expect_ok(f->db, dibs_ack(f->db, job.receipt, "{\"r\":1}"));
  return id;
}

static int64_t done(fixture *f) {
  return counts(f, "q").done;
}

static void a_count_alone_keeps_that_many_whatever_their_age(void **state) {
  fixture *f = *state;
  int64_t ids[5];
  set(f, "keep_count", "3");
  for (int i = 0; i < 5; i++) {
    ids[i] = finish(f, NULL);
    f->now += DAY;
  }
  expect_gone(f, ids[0]);
  expect_gone(f, ids[1]);
  for (int i = 2; i < 5; i++) expect_text(look(f, ids[i]).result, "{\"r\":1}");
  f->now += 1000 * DAY;
  expect_ok(f->db, dibs_prune(f->db, NULL));
  expect_int(done(f), 3);
}

static void a_count_is_of_its_queue(void **state) {
  fixture *f = *state;
  set(f, "keep_count", "1");
  finish(f, NULL);
  int64_t other = put(f, "other", "1");
  expect_ok(f->db, dibs_ack(f->db, take(f, "other").receipt, NULL));
  expect_gone(f, other);
  expect_int(done(f), 1);
}

static void each_outcome_is_counted(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  set(f, "keep_count", "3");
  int64_t acked = finish(f, NULL);
  int64_t cancelled = put(f, "q", "1");
  f->now++;
  expect_ok(f->db, dibs_cancel(f->db, &cancelled, 1, NULL, NULL));
  int64_t discarded = put(f, "q", "1");
  f->now++;
  expect_ok(f->db, dibs_discard(f->db, take(f, "q").receipt, "why"));
  expect_int(done(f), 3);
  options.expires = 5;
  int64_t expired = put_with(f, "q", "1", &options);
  f->now += 5;
  expect_nothing(f, "q");
  expect_int(look(f, expired).outcome, DIBS_EXPIRED);
  expect_int(look(f, discarded).outcome, DIBS_DISCARDED);
  expect_int(look(f, cancelled).outcome, DIBS_CANCELLED);
  expect_gone(f, acked);
}

static void a_dead_job_is_not_counted(void **state) {
  fixture *f = *state;
  set(f, "keep_count", "1");
  int64_t first = finish(f, NULL);
  int64_t dead = put(f, "q", "1");
  expect_ok(f->db, dibs_fail(f->db, take(f, "q").receipt, NULL));
  expect_state(f, first, DIBS_DONE);
  expect_state(f, dead, DIBS_DEAD);
}

static void age_and_count_both_end_it(void **state) {
  fixture *f = *state;
  set(f, "keep_count", "2");
  set(f, "keep", "1h");
  int64_t first = finish(f, NULL);
  f->now += SECOND;
  int64_t second = finish(f, NULL);
  f->now += SECOND;
  finish(f, NULL);
  expect_gone(f, first);
  expect_state(f, second, DIBS_DONE);
  f->now += HOUR - SECOND;
  expect_nothing(f, "q");
  expect_gone(f, second);
  expect_int(done(f), 1);
}

/* Its own keep is how long; the queue's count is how many all the same. */
static void a_jobs_own_keep_is_heard(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  set(f, "keep_count", "2");
  options.keep = 0;
  expect_gone(f, finish(f, &options));
  options.keep = MINUTE;
  int64_t minute = finish(f, &options);
  f->now += MINUTE;
  expect_nothing(f, "q");
  expect_gone(f, minute);
  options.keep = DIBS_FOREVER;
  int64_t ever = finish(f, &options);
  f->now++;
  finish(f, NULL);
  expect_state(f, ever, DIBS_DONE);
  f->now++;
  finish(f, NULL);
  expect_gone(f, ever);
}

static void a_count_of_0_keeps_none(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  set(f, "keep_count", "0");
  options.keep = HOUR;
  expect_gone(f, finish(f, &options));
  expect_gone(f, finish(f, NULL));
}

/* Of those that finish at the same time the younger stays. */
static void the_newest_are_kept(void **state) {
  fixture *f = *state;
  held jobs[3];
  set(f, "keep_count", "2");
  for (int i = 0; i < 3; i++) {
    put(f, "q", "1");
    jobs[i] = take_for(f, "q", DAY);
  }
  expect_ok(f->db, dibs_ack(f->db, jobs[2].receipt, NULL));
  expect_ok(f->db, dibs_ack(f->db, jobs[1].receipt, NULL));
  f->now++;
  expect_ok(f->db, dibs_ack(f->db, jobs[0].receipt, NULL));
  expect_gone(f, jobs[1].id);
  expect_state(f, jobs[0].id, DIBS_DONE);
  expect_state(f, jobs[2].id, DIBS_DONE);
}

static void it_counts_for_what_was_enqueued_or_claimed_before(void **state) {
  fixture *f = *state;
  put(f, "q", "1");
  put(f, "q", "2");
  held running = take(f, "q");
  set(f, "keep_count", "5");
  expect_ok(f->db, dibs_ack(f->db, running.receipt, NULL));
  expect_state(f, running.id, DIBS_DONE);
  expect_ok(f->db, dibs_ack(f->db, take(f, "q").receipt, NULL));
  expect_int(done(f), 2);
}

static void put_many_done(fixture *f, int count) {
  for (int i = 0; i < count; i++) finish(f, NULL);
}

/* 64 for each transaction of a claim, of which one may need two. */
static void a_smaller_count_prunes_in_small_steps(void **state) {
  enum { MANY = 300 };
  fixture *f = *state;
  int64_t left = MANY;
  set(f, "keep_count", "300");
  put_many_done(f, MANY);
  set(f, "keep_count", "10");
  expect_int(done(f), MANY);
  while (left > 10) {
    expect_nothing(f, "q");
    int64_t now = done(f);
    expect_true(now < left && left - now <= 128);
    left = now;
  }
  expect_int(left, 10);
}

static void who_only_finishes_prunes_too(void **state) {
  fixture *f = *state;
  char receipts[20][64];
  set(f, "keep_count", "30");
  put_many_done(f, 30);
  for (int i = 0; i < 20; i++) {
    put(f, "q", "1");
    memcpy(receipts[i], take_for(f, "q", DAY).receipt, sizeof receipts[i]);
  }
  set(f, "keep_count", "10");
  for (int i = 0; i < 20; i++) {
    int64_t before = done(f);
    expect_ok(f->db, dibs_ack(f->db, receipts[i], NULL));
    expect_true(before - done(f) <= 1);
  }
  expect_int(done(f), 10);
}

static void prune_does_all_of_it(void **state) {
  fixture *f = *state;
  int64_t removed = 0;
  set(f, "keep_count", "200");
  put_many_done(f, 200);
  set(f, "keep_count", "20");
  expect_ok(f->db, dibs_prune(f->db, &removed));
  expect_int(removed, 180);
  expect_int(done(f), 20);
}

/* What nothing else keeps goes with the count. */
static void a_count_that_is_taken_back(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  set(f, "keep_count", "10");
  int64_t counted = finish(f, NULL);
  options.keep = HOUR;
  int64_t hour = finish(f, &options);
  options.keep = DIBS_FOREVER;
  int64_t ever = finish(f, &options);
  set(f, "keep_count", "none");
  expect_nothing(f, "q");
  expect_gone(f, counted);
  expect_state(f, hour, DIBS_DONE);
  expect_state(f, ever, DIBS_DONE);
  expect_gone(f, finish(f, NULL));
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_kept"), 0);
}

static void a_count_counts_what_is_there(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.keep = DIBS_FOREVER;
  for (int i = 0; i < 5; i++) finish(f, &options);
  set(f, "keep_count", "3");
  expect_nothing(f, "q");
  expect_int(done(f), 3);
}

/* The steps of one more job when so many are kept already. */
static int64_t steps_with(fixture *f, int kept) {
  char count[16];
  snprintf(count, sizeof count, "%d", kept);
  set(f, "keep_count", count);
  dibs_job_options options = no_options();
  options.keep = DIBS_FOREVER;
  for (int i = 0; i < kept; i++) finish(f, &options);
  expect_int(done(f), kept);
  finish(f, NULL);
  steps_taken();
  for (int i = 0; i < 10; i++) finish(f, NULL);
  int64_t steps = steps_taken();
  expect_int(done(f), kept);
  return steps;
}

static void pruning_costs_the_same_however_many_are_kept(void **state) {
  fixture *f = *state;
  steps_watch(f);
  int64_t few = steps_with(f, 10), many = steps_with(f, 2000 / slowness());
  if (many > few + few / 10)
    fail_msg("%lld steps beside 10 kept jobs, %lld beside many", (long long)few,
             (long long)many);
}

static void a_count_that_the_file_has_wrong_is_mended(void **state) {
  fixture *f = *state;
  set(f, "keep_count", "2");
  put_many_done(f, 2);
  raw_run(f, "UPDATE dibs_kept SET kept = 1000");
  expect_nothing(f, "q");
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_prune(f->db, NULL));
  expect_int(raw_int(f, "SELECT kept FROM dibs_kept"), done(f));
}

/* Less than none is none, and nobody looks for it for ever. */
static void a_count_that_cannot_be_is_none(void **state) {
  fixture *f = *state;
  set(f, "keep_count", "2");
  put_many_done(f, 2);
  raw_run(f, "UPDATE dibs_kept SET most = -5");
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_prune(f->db, NULL));
  expect_int(done(f), 0);
}

static void settings_say_what_is_kept(void **state) {
  fixture *f = *state;
  char *json;
  set(f, "keep_count", "100");
  set(f, "keep", "7d");
  expect_ok(f->db, dibs_queue_show(f->db, "q", &json));
  expect_text(json, "{\"queue\":\"q\",\"paused\":false,\"keep_count\":100,"
                    "\"keep\":\"7d\"}");
  dibs_free(json);
  const char *name = "keep_count", *value = "-1";
  expect_status(f->db, dibs_queue_set(f->db, "q", &name, &value, 1),
                DIBS_INVALID);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_count_alone_keeps_that_many_whatever_their_age),
      TEST(a_count_is_of_its_queue),
      TEST(each_outcome_is_counted),
      TEST(a_dead_job_is_not_counted),
      TEST(age_and_count_both_end_it),
      TEST(a_jobs_own_keep_is_heard),
      TEST(a_count_of_0_keeps_none),
      TEST(the_newest_are_kept),
      TEST(it_counts_for_what_was_enqueued_or_claimed_before),
      TEST(a_smaller_count_prunes_in_small_steps),
      TEST(who_only_finishes_prunes_too),
      TEST(prune_does_all_of_it),
      TEST(a_count_that_is_taken_back),
      TEST(a_count_counts_what_is_there),
      TEST(pruning_costs_the_same_however_many_are_kept),
      TEST(a_count_that_the_file_has_wrong_is_mended),
      TEST(a_count_that_cannot_be_is_none),
      TEST(settings_say_what_is_kept),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
