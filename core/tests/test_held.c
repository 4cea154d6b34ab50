/* SPDX-License-Identifier: MIT */
/*
** test_held.c: who waits gets what was held back, as soon as it may go: behind a
** dead head, over a limit, over a rate, in a paused queue.
*/
#include "waiting.h"

#include <unistd.h>

static void set(fixture *f, const char *name, const char *value) {
  expect_ok(f->db, dibs_queue_set(f->db, "q", &name, &value, 1));
}

static int64_t put_keyed(fixture *f, const char *key, const char *limit_key) {
  dibs_job_options options = no_options();
  options.key = key;
  options.limit_key = limit_key;
  return put_with(f, "q", "1", &options);
}

/* ---- A dead head ----------------------------------------------------------- */

/* ids[0] is dead and holds ids[1]; somebody waits. */
static waiter wait_behind_dead(fixture *f, int64_t ids[2]) {
  waiter w = waiter_for(f, "q");
  set(f, "dead_head", "block");
  for (int i = 0; i < 2; i++) ids[i] = put_keyed(f, "k", NULL);
  expect_ok(f->db, dibs_fail(f->db, take(f, "q").receipt, "x"));
  return w;
}

static void the_requeue_of_a_dead_head(void **state) {
  fixture *f = *state;
  int64_t ids[2];
  waiter w = wait_behind_dead(f, ids);
  waiter_start(&w);
  expect_ok(f->db, dibs_requeue(f->db, ids, 1, NULL, NULL));
  expect_woken(&w, ids[0]);
}

static void the_cancel_of_a_dead_head(void **state) {
  fixture *f = *state;
  int64_t ids[2];
  waiter w = wait_behind_dead(f, ids);
  waiter_start(&w);
  expect_ok(f->db, dibs_cancel(f->db, ids, 1, NULL, NULL));
  expect_woken(&w, ids[1]);
}

static void the_purge_of_a_dead_head(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  int64_t ids[2];
  waiter w = wait_behind_dead(f, ids);
  waiter_start(&w);
  expect_ok(f->db, dibs_purge(f->db, &queue, 1, NULL));
  expect_woken(&w, ids[1]);
}

static void dead_heads_that_are_to_be_skipped(void **state) {
  fixture *f = *state;
  int64_t ids[2];
  waiter w = wait_behind_dead(f, ids);
  waiter_start(&w);
  set(f, "dead_head", "skip");
  expect_woken(&w, ids[1]);
}

/* ---- Limits ------------------------------------------------------------------ */

static void the_end_of_one_of_its_key(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  set(f, "limit_per_key", "1");
  put_keyed(f, NULL, "a");
  int64_t next = put_keyed(f, NULL, "a");
  held first = take(f, "q");
  expect_nothing(f, "q");
  waiter_start(&w);
  expect_ok(f->db, dibs_ack(f->db, first.receipt, NULL));
  expect_woken(&w, next);
}

static void the_end_of_one_of_its_queue(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  set(f, "limit", "1");
  put(f, "q", "1");
  int64_t next = put(f, "q", "1");
  held first = take(f, "q");
  expect_nothing(f, "q");
  waiter_start(&w);
  expect_ok(f->db, dibs_fail(f->db, first.receipt, NULL));
  expect_woken(&w, next);
}

/* Over the limit of the queue, then of the key. */
static void limits_that_are_taken_back(void **state) {
  static const char *const limits[] = {"limit", "limit_per_key", "rate",
                                       "rate_per_key"};
  fixture *f = *state;
  int monitors = is_portable() ? -1 : monitors_prevent(f->path);
  for (size_t i = 0; i < COUNT(limits); i++) {
    waiter w[2] = {waiter_for(f, "q"), waiter_for(f, "q")};
    set(f, limits[i], i < 2 ? "1" : "1/1h");
    for (int j = 0; j < 3; j++) put_keyed(f, NULL, "a");
    held first = take_for(f, "q", DAY);
    expect_nothing(f, "q");
    waiter_start(&w[0]);
    waiter_start(&w[1]);
    set(f, limits[i], "none");
    for (int j = 0; j < 2; j++) {
      waiter_join(&w[j]);
      expect_int(w[j].status, DIBS_OK);
      expect_ok(f->db, dibs_ack(f->db, w[j].receipt, NULL));
    }
    expect_ok(f->db, dibs_ack(f->db, first.receipt, NULL));
  }
  if (monitors < 0) return;
  expect_int(sidecar_counter(f, RESCUES), 0);
  close(monitors);
}

/* A waiter sleeps until the next token is there, no shorter and no longer. */
static void expect_sleep_to_the_token(fixture *f, const char *rate) {
  waiter w = waiter_for(f, "q");
  set(f, rate, "2/1s");
  for (int i = 0; i < 4; i++) put_keyed(f, NULL, "a");
  for (int i = 0; i < 2; i++) take_for(f, "q", DAY);
  int64_t start = dibs_now(f->db), next = 0;
  waiter_start(&w);
  expect_ok(f->db, dibs_next_event(f->db, &next));
  waiter_join(&w);
  expect_int(w.status, DIBS_OK);
  expect_true(next > start && next <= start + 500);
  expect_true(w.claimed_at >= next);
  if (!w.polls) expect_int(sidecar_counter(f, RESCUES), 0);
}

static void the_next_token_of_its_queue(void **state) {
  expect_sleep_to_the_token(*state, "rate");
}

static void the_next_token_of_its_key(void **state) {
  expect_sleep_to_the_token(*state, "rate_per_key");
}

/* One that was to go on does not: the next may. */
static void the_cancel_of_one_that_was_let_go(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  waiter w = waiter_for(f, "q");
  int64_t ids[3];
  set(f, "limit_per_key", "1");
  for (int i = 0; i < 3; i++) ids[i] = put_keyed(f, NULL, "a");
  held first = take(f, "q");
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_pause(f->db, &queue, 1, NULL));
  expect_ok(f->db, dibs_ack(f->db, first.receipt, NULL));
  waiter_start(&w);
  expect_ok(f->db, dibs_cancel(f->db, &ids[1], 1, NULL, NULL));
  expect_ok(f->db, dibs_resume(f->db, &queue, 1, NULL));
  expect_woken(&w, ids[2]);
}

/* ---- In memory ------------------------------------------------------------- */

/* A queue that the handles of a process share (test_shared.c) has no file that
** tells others of a write. */
static void a_job_in_shared_memory(void **state) {
  static const char name[] = "file:/held?vfs=memdb";
  fixture *f = *state;
  close_checked(f);
  f->db = waiting_open(name);
  waiter w = waiter_for(f, "q");
  w.path = name;
  waiter_start(&w);
  expect_woken(&w, put(f, "q", "1"));
}

int main(int count, char **arguments) {
  helper_main(count, arguments);
  const struct CMUnitTest tests[] = {
      WAITING_TEST(the_requeue_of_a_dead_head),
      WAITING_TEST(the_cancel_of_a_dead_head),
      WAITING_TEST(the_purge_of_a_dead_head),
      WAITING_TEST(dead_heads_that_are_to_be_skipped),
      WAITING_TEST(the_end_of_one_of_its_key),
      WAITING_TEST(the_end_of_one_of_its_queue),
      WAITING_TEST(limits_that_are_taken_back),
      WAITING_TEST(the_next_token_of_its_queue),
      WAITING_TEST(the_next_token_of_its_key),
      WAITING_TEST(the_cancel_of_one_that_was_let_go),
      WAITING_TEST(a_job_in_shared_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
