/* SPDX-License-Identifier: MIT */
/*
** test_unique.c: unique jobs: which job holds a key, for how long, in which
** scope, and what a second one with it does.
*/
#include "harness.h"

static dibs_job_options unique(const char *key) {
  dibs_job_options options = no_options();
  options.unique = key;
  return options;
}

static int64_t put_unique(fixture *f, const char *queue, const char *key) {
  dibs_job_options options = unique(key);
  return put_with(f, queue, "1", &options);
}

/* ---- How long ------------------------------------------------------------- */

static void a_second_job_is_the_first_one(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  dibs_new_job jobs[3] = {{"q", dibs_json("1"), &options},
                          {"q", dibs_json("2"), &options},
                          {"q", dibs_json("3"), NULL}};
  dibs_enqueued results[3];
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, 3, results));
  expect_int(results[0].existing, 0);
  expect_int(results[1].id, results[0].id);
  expect_int(results[1].existing, 1);
  expect_int(results[2].existing, 0);
  expect_int(put_unique(f, "q", "u"), results[0].id);
  expect_text(look(f, results[0].id).payload, "1");
  expect_int(counts(f, "q").ready, 2);
}

static void a_key_is_held_until_the_job_is_finished(void **state) {
  fixture *f = *state;
  int64_t first = put_unique(f, "q", "u");
  held job = take(f, "q");
  expect_int(put_unique(f, "q", "u"), first);
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 1000, "x", NULL));
  expect_int(put_unique(f, "q", "u"), first);
  f->now += 1000;
  job = take(f, "q");
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  int64_t second = put_unique(f, "q", "u");
  expect_true(second > first);
}

static void a_kept_job_does_not_hold_its_key(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  options.keep = DIBS_FOREVER;
  int64_t first = put_with(f, "q", "1", &options);
  expect_ok(f->db, dibs_ack(f->db, take(f, "q").receipt, NULL));
  expect_state(f, first, DIBS_DONE);
  expect_true(put_unique(f, "q", "u") > first);
}

static void a_cancelled_job_lets_its_key_go(void **state) {
  fixture *f = *state;
  int64_t first = put_unique(f, "q", "u");
  expect_ok(f->db, dibs_cancel(f->db, &first, 1, NULL, NULL));
  expect_true(put_unique(f, "q", "u") > first);
}

static void a_cleared_job_lets_its_key_go(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  int64_t first = put_unique(f, "q", "u");
  expect_ok(f->db, dibs_clear(f->db, &queue, 1, 0, NULL));
  expect_true(put_unique(f, "q", "u") > first);
}

static void a_dead_job_does_not_hold_its_key(void **state) {
  fixture *f = *state;
  int64_t first = put_unique(f, "q", "u");
  expect_ok(f->db, dibs_fail(f->db, take(f, "q").receipt, "x"));
  int64_t second = put_unique(f, "q", "u");
  expect_true(second > first);
  expect_state(f, first, DIBS_DEAD);
}

static void until_start_lets_go_at_the_claim(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  options.unique_for = DIBS_UNIQUE_UNTIL_START;
  int64_t first = put_with(f, "q", "1", &options);
  expect_int(put_with(f, "q", "1", &options), first);
  held job = take(f, "q");
  int64_t second = put_with(f, "q", "1", &options);
  expect_true(second > first);
  /* A retried job goes on beside the new one. */
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "x", NULL));
  expect_int(put_with(f, "q", "1", &options), second);
  expect_int(try_take(f, "q"), first);
  expect_int(put_with(f, "q", "1", &options), second);
  expect_int(try_take(f, "q"), second);
}

static void a_duration_outlives_the_job(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  options.unique_for = HOUR;
  int64_t first = put_with(f, "q", "1", &options);
  expect_ok(f->db, dibs_ack(f->db, take(f, "q").receipt, NULL));
  f->now += HOUR - 1;
  expect_int(put_with(f, "q", "1", &options), first);
  f->now += 1;
  expect_true(put_with(f, "q", "1", &options) > first);
}

static void a_duration_holds_as_long_as_the_job_is_unfinished(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  options.unique_for = HOUR;
  int64_t first = put_with(f, "q", "1", &options);
  f->now += 2 * HOUR;
  expect_int(put_with(f, "q", "1", &options), first);
  expect_ok(f->db, dibs_ack(f->db, take(f, "q").receipt, NULL));
  expect_true(put_with(f, "q", "1", &options) > first);
}

static void an_expired_job_lets_its_key_go(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  options.expires = HOUR;
  int64_t first = put_with(f, "q", "1", &options);
  f->now += HOUR;
  expect_nothing(f, "q");
  expect_true(put_unique(f, "q", "u") > first);
}

static void held_keys_are_tidied_away(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  options.unique_for = HOUR;
  put_with(f, "q", "1", &options);
  expect_ok(f->db, dibs_ack(f->db, take(f, "q").receipt, NULL));
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_unique"), 1);
  f->now += HOUR;
  expect_ok(f->db, dibs_prune(f->db, NULL));
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_unique"), 0);
}

/* ---- Scope ---------------------------------------------------------------- */

static void a_key_is_of_its_queue(void **state) {
  fixture *f = *state;
  int64_t first = put_unique(f, "a", "u");
  int64_t second = put_unique(f, "b", "u");
  int64_t third = put_unique(f, "a", "v");
  expect_true(first != second && first != third);
  expect_int(put_unique(f, "b", "u"), second);
}

static void scope_all_is_over_all_queues(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  options.unique_scope = DIBS_UNIQUE_ALL;
  int64_t first = put_with(f, "a", "1", &options);
  expect_int(put_with(f, "b", "1", &options), first);
  expect_int(put_with(f, "a", "1", &options), first);
  expect_ok(f->db, dibs_ack(f->db, take(f, "a").receipt, NULL));
  expect_true(put_with(f, "b", "1", &options) > first);
}

/* Scope all sees keys of either scope. */
static void scope_all_sees_both_scopes(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  int64_t first = put_unique(f, "a", "u");
  options.unique_scope = DIBS_UNIQUE_ALL;
  expect_int(put_with(f, "b", "1", &options), first);
  expect_ok(f->db, dibs_ack(f->db, take(f, "a").receipt, NULL));
  int64_t second = put_with(f, "b", "1", &options);
  expect_true(second > first);
}

/* ---- What a second one does -------------------------------------------------- */

static void replace_gives_it_the_new_payload(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  options.priority = 3;
  int64_t first = put_with(f, "q", "1", &options);
  options.on_conflict = DIBS_CONFLICT_REPLACE;
  options.headers = "{\"a\":\"b\"}";
  options.priority = 9;
  expect_int(put_with(f, "q", "[2]", &options), first);
  seen job = look(f, first);
  expect_text(job.payload, "[2]");
  expect_text(job.headers, "{\"a\":\"b\"}");
  expect_int(job.priority, 3);
  expect_int(counts(f, "q").ready, 1);
}

static void replace_leaves_a_running_job_alone(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  int64_t first = put_with(f, "q", "1", &options);
  take(f, "q");
  options.on_conflict = DIBS_CONFLICT_REPLACE;
  expect_int(put_with(f, "q", "[2]", &options), first);
  expect_text(look(f, first).payload, "1");
}

static void postpone_moves_it_to_the_new_time(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  options.delay = 1000;
  int64_t first = put_with(f, "q", "1", &options);
  options.on_conflict = DIBS_CONFLICT_POSTPONE;
  f->now += 900;
  expect_int(put_with(f, "q", "2", &options), first);
  expect_int(look(f, first).due_at, START + 1900);
  expect_text(look(f, first).payload, "1");
  f->now = START + 1899;
  expect_nothing(f, "q");
  f->now = START + 1900;
  expect_int(try_take(f, "q"), first);
}

static void postpone_moves_a_ready_job_too(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  int64_t first = put_with(f, "q", "1", &options);
  options.on_conflict = DIBS_CONFLICT_POSTPONE;
  options.delay = 1000;
  expect_int(put_with(f, "q", "2", &options), first);
  expect_state(f, first, DIBS_SCHEDULED);
  options.delay = DIBS_UNSET;
  expect_int(put_with(f, "q", "2", &options), first);
  expect_state(f, first, DIBS_READY);
}

static void reject_names_the_job_that_is_there(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  int64_t first = put_with(f, "q", "1", &options);
  int64_t id = -5;
  options.on_conflict = DIBS_CONFLICT_REJECT;
  expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), &options, &id),
                DIBS_EXISTS);
  expect_int(dibs_error_id(f->db), first);
  expect_says(dibs_error(f->db), "u");
  expect_int(id, -5);
  put(f, "q", "1");
  expect_int(dibs_error_id(f->db), 0);
}

static void reject_spoils_its_batch(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  options.on_conflict = DIBS_CONFLICT_REJECT;
  dibs_new_job jobs[3] = {{"q", dibs_json("1"), NULL},
                          {"q", dibs_json("2"), &options},
                          {"q", dibs_json("3"), &options}};
  expect_status(f->db, dibs_enqueue_many(f->db, jobs, 3, NULL), DIBS_EXISTS);
  expect_int(dibs_error_index(f->db), 2);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

/* ---- Dead letters ------------------------------------------------------------ */

static void redrive_leaves_a_job_whose_key_is_in_use(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  int64_t moved = 0;
  int64_t *skipped = NULL;
  size_t skipped_count = 0;
  int64_t first = put_unique(f, "q", "u");
  expect_ok(f->db, dibs_fail(f->db, take(f, "q").receipt, "x"));
  int64_t plain = put(f, "q", "1");
  expect_ok(f->db, dibs_fail(f->db, take(f, "q").receipt, "x"));
  put_unique(f, "q", "u");
  expect_ok(f->db,
            dibs_redrive(f->db, &queue, 1, &moved, &skipped, &skipped_count));
  expect_int(moved, 1);
  expect_int(skipped_count, 1);
  expect_int(skipped[0], first);
  dibs_free(skipped);
  expect_state(f, first, DIBS_DEAD);
  expect_state(f, plain, DIBS_READY);
}

static void requeue_of_a_job_whose_key_is_in_use_says_so(void **state) {
  fixture *f = *state;
  dibs_id_outcome outcome;
  int64_t moved = -1;
  int64_t first = put_unique(f, "q", "u");
  expect_ok(f->db, dibs_fail(f->db, take(f, "q").receipt, "x"));
  put_unique(f, "q", "u");
  expect_ok(f->db, dibs_requeue(f->db, &first, 1, &outcome, &moved));
  expect_int(outcome.status, DIBS_EXISTS);
  expect_int(outcome.state, DIBS_DEAD);
  expect_true(*outcome.message != '\0');
  expect_int(moved, 0);
}

static void a_requeued_job_holds_its_key_again(void **state) {
  fixture *f = *state;
  int64_t first = put_unique(f, "q", "u");
  expect_ok(f->db, dibs_fail(f->db, take(f, "q").receipt, "x"));
  expect_ok(f->db, dibs_requeue(f->db, &first, 1, NULL, NULL));
  expect_int(put_unique(f, "q", "u"), first);
}

/* Two dead jobs of one key: only one of them goes back. */
static void redrive_of_two_with_one_key_moves_one(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  int64_t moved = 0;
  int64_t *skipped = NULL;
  size_t count = 0;
  int64_t first = put_unique(f, "q", "u");
  expect_ok(f->db, dibs_fail(f->db, take(f, "q").receipt, "x"));
  int64_t second = put_unique(f, "q", "u");
  expect_ok(f->db, dibs_fail(f->db, take(f, "q").receipt, "x"));
  expect_ok(f->db, dibs_redrive(f->db, &queue, 1, &moved, &skipped, &count));
  expect_int(moved, 1);
  expect_int(count, 1);
  expect_int(skipped[0], second);
  dibs_free(skipped);
  expect_state(f, first, DIBS_READY);
  expect_ok(f->db, dibs_redrive(f->db, &queue, 1, NULL, NULL, NULL));
}

/* A key that two jobs may hold after another: "start", then a retry. */
static void a_requeued_start_unique_job_holds_until_its_start(void **state) {
  fixture *f = *state;
  dibs_job_options options = unique("u");
  options.unique_for = DIBS_UNIQUE_UNTIL_START;
  int64_t first = put_with(f, "q", "1", &options);
  expect_ok(f->db, dibs_fail(f->db, take(f, "q").receipt, "x"));
  expect_ok(f->db, dibs_requeue(f->db, &first, 1, NULL, NULL));
  expect_int(put_with(f, "q", "1", &options), first);
  take(f, "q");
  expect_true(put_with(f, "q", "1", &options) > first);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_second_job_is_the_first_one),
      TEST(a_key_is_held_until_the_job_is_finished),
      TEST(a_kept_job_does_not_hold_its_key),
      TEST(a_cancelled_job_lets_its_key_go),
      TEST(a_cleared_job_lets_its_key_go),
      TEST(a_dead_job_does_not_hold_its_key),
      TEST(until_start_lets_go_at_the_claim),
      TEST(a_duration_outlives_the_job),
      TEST(a_duration_holds_as_long_as_the_job_is_unfinished),
      TEST(an_expired_job_lets_its_key_go),
      TEST(held_keys_are_tidied_away),
      TEST(a_key_is_of_its_queue),
      TEST(scope_all_is_over_all_queues),
      TEST(scope_all_sees_both_scopes),
      TEST(replace_gives_it_the_new_payload),
      TEST(replace_leaves_a_running_job_alone),
      TEST(postpone_moves_it_to_the_new_time),
      TEST(postpone_moves_a_ready_job_too),
      TEST(reject_names_the_job_that_is_there),
      TEST(reject_spoils_its_batch),
      TEST(redrive_leaves_a_job_whose_key_is_in_use),
      TEST(requeue_of_a_job_whose_key_is_in_use_says_so),
      TEST(a_requeued_job_holds_its_key_again),
      TEST(redrive_of_two_with_one_key_moves_one),
      TEST(a_requeued_start_unique_job_holds_until_its_start),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
