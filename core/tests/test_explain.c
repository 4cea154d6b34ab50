/* SPDX-License-Identifier: MIT */
/*
** Why a job is not running: each reason, as a word and as a sentence.
*/
#include "harness.h"

static void set(fixture *f, const char *queue, const char *name,
                const char *value) {
  expect_ok(f->db, dibs_queue_set(f->db, queue, &name, &value, 1));
}

/* The first reason of a job has that word, and its text that part. */
static dibs_reason expect_reason(fixture *f, int64_t id, const char *reason,
                                 const char *part) {
  dibs_reason_list *list;
  expect_ok(f->db, dibs_explain(f->db, id, &list));
  expect_true(list->count > 0);
  dibs_reason first = list->reasons[0];
  expect_text(first.reason, reason);
  expect_says(first.text, part);
  first.reason = first.text = NULL;
  dibs_reason_list_free(list);
  return first;
}

static void expect_queue_reason(fixture *f, const char *queue,
                                const char *reason) {
  dibs_reason_list *list;
  expect_ok(f->db, dibs_explain_queue(f->db, queue, &list));
  expect_text(list->reasons[0].reason, reason);
  dibs_reason_list_free(list);
}

static void a_paused_queue(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  int64_t id = put(f, "q", "1");
  expect_ok(f->db, dibs_pause(f->db, &queue, 1, NULL));
  expect_reason(f, id, "paused", "resume");
  expect_queue_reason(f, "q", "paused");
}

static void a_limit_and_a_rate(void **state) {
  fixture *f = *state;
  set(f, "q", "limit", "1");
  put(f, "q", "1");
  int64_t id = put(f, "q", "2");
  held job = take_for(f, "q", DAY);
  expect_nothing(f, "q");
  expect_reason(f, id, "limit", "1 of at most 1");
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  set(f, "q", "limit", "none");
  set(f, "q", "rate", "1/1m");
  put(f, "q", "3");
  take_for(f, "q", DAY);
  expect_nothing(f, "q");
  dibs_reason reason =
      expect_reason(f, id + 1, "rate", "lets the next job start in 1m");
  expect_int(reason.at, f->now + MINUTE);
}

static void a_limit_key(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.limit_key = "user-7";
  set(f, "q", "limit_per_key", "1");
  put_with(f, "q", "1", &options);
  int64_t id = put_with(f, "q", "2", &options);
  take_for(f, "q", DAY);
  expect_nothing(f, "q");
  expect_reason(f, id, "limit_key", "user-7");
}

static void its_time_has_not_come(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.delay = 3 * MINUTE;
  int64_t id = put_with(f, "q", "1", &options);
  expect_int(expect_reason(f, id, "scheduled", "due in 3m").at,
             START + 3 * MINUTE);
  f->now += 3 * MINUTE;
  held job = take(f, "q");
  expect_ok(f->db, dibs_retry(f->db, job.receipt, MINUTE, NULL, NULL));
  expect_reason(f, id, "retrying", "in 1m, after attempt 1");
}

static void the_job_before_it_in_its_lane(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.key = "k";
  int64_t first = put_with(f, "q", "1", &options);
  int64_t second = put_with(f, "q", "2", &options);
  take_for(f, "q", DAY);
  expect_int(expect_reason(f, second, "behind", "which is running").id, first);
}

static void a_dead_job_that_holds_its_lane(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.key = "k";
  set(f, "q", "dead_head", "block");
  int64_t head = put_with(f, "q", "1", &options);
  int64_t second = put_with(f, "q", "1", &options);
  held job = take(f, "q");
  expect_int(expect_reason(f, second, "behind", "which is running").id, head);
  expect_ok(f->db, dibs_fail(f->db, job.receipt, "x"));
  expect_int(expect_reason(f, second, "dead_head", "dead_head to skip").id,
             head);
  expect_reason(f, head, "dead", "of its key wait for that");
  set(f, "q", "dead_head", "skip");
  expect_reason(f, head, "dead", "is mended");
}

static void states_speak_for_themselves(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.stage = MINUTE;
  int64_t staged = put_with(f, "staged", "1", &options);
  expect_reason(f, staged, "staged", "committed within 1m");
  int64_t id = put(f, "q", "1");
  held job = take_for(f, "q", MINUTE);
  expect_reason(f, id, "running", "another 1m");
  expect_ok(f->db, dibs_fail(f->db, job.receipt, "why"));
  expect_reason(f, id, "dead", "requeue");
  expect_status(f->db, dibs_explain(f->db, 999, &(dibs_reason_list *){NULL}),
                DIBS_NOT_FOUND);
  expect_queue_reason(f, "nobody/uses/it", "empty");
}

/* Nobody waits in this process: there is no worker. */
static void nobody_waits_for_it(void **state) {
  fixture *f = *state;
  int64_t first = put(f, "q", "1"), second = put(f, "q", "2");
  expect_reason(f, first, "no_worker", "nobody is waiting");
  dibs_reason_list *list;
  expect_ok(f->db, dibs_explain(f->db, second, &list));
  expect_int(list->count, 2);
  expect_text(list->reasons[1].reason, "queued");
  expect_says(list->reasons[1].text, "1 jobs");
  dibs_reason_list_free(list);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_paused_queue),
      TEST(a_limit_and_a_rate),
      TEST(a_limit_key),
      TEST(its_time_has_not_come),
      TEST(the_job_before_it_in_its_lane),
      TEST(a_dead_job_that_holds_its_lane),
      TEST(states_speak_for_themselves),
      TEST(nobody_waits_for_it),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
