/* SPDX-License-Identifier: MIT */
/*
** test_held.c: who waits gets what was held back, as soon as it may go: behind a
** dead head, over a limit, over a rate, in a paused queue.
*/
#include "waiting.h"

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
      WAITING_TEST(a_job_in_shared_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
