/* SPDX-License-Identifier: MIT */
/*
** test_memory.c: each operation while memory runs out: at the first allocation,
** the second, and so on until it needs no more; for one allocation, and for all
** from then on. It gives DIBS_NOMEM and has done nothing, or it succeeds.
**
** DIBS_TEST_STRIDE=1 tries every allocation; by default, of the thousands that
** SQLite makes for one operation, the first are all tried and then every
** third.
*/
#include "faults.h"
#include "operations.h"

/* ---- One operation ----------------------------------------------------------- */

/* After a failure the handle works: do it again. */
static void do_again(stage *s, const operation *op, dibs_db *db,
                     const char *when) {
  int status = stage_run(s, op, db);
  if (status != DIBS_OK) {
    fail_msg("%s, %s, then again: %s (%s)", op->name, when,
             dibs_status_name(status), dibs_error(db));
  }
  expect_int(dibs_close(db), DIBS_OK);
  stage_expect(s, op, s->after, when);
}

/* Run with the n-th allocation failing. False when none was left to fail. */
static int run_without_memory(stage *s, const operation *op, int64_t n,
                              int forever) {
  char when[96];
  sqlite3 *watch = plain_open(s->f->path);
  int64_t version = data_version(watch);
  dibs_db *db = stage_open(s, op);
  snprintf(when, sizeof when, "%s allocation %lld failing",
           forever ? "from" : "at", (long long)n);
  faults_memory_arm(n, forever);
  int status = stage_run(s, op, db);
  int failed = faults_memory_disarm(NULL);
  int changed = data_version(watch) != version;
  sqlite3_close(watch);
  if (status != DIBS_OK && status != DIBS_NOMEM) {
    fail_msg("%s, %s: %s (%s)", op->name, when, dibs_status_name(status),
             dibs_error(db));
  }
  if (status == DIBS_NOMEM && !failed) {
    fail_msg("%s: DIBS_NOMEM, and there was memory", op->name);
  }
  if (status == DIBS_NOMEM && changed && !op->stepwise && !op->open) {
    fail_msg("%s, %s: DIBS_NOMEM, and it was committed", op->name, when);
  }
  if (status == DIBS_OK) {
    expect_int(dibs_close(db), DIBS_OK);
    stage_expect(s, op, s->after, when);
    stage_restore(s, op);
  } else if (changed || n % 16 == 0) {
    do_again(s, op, db, when);
    stage_restore(s, op);
  } else {
    expect_int(dibs_close(db), DIBS_OK);
  }
  if (connections_open() != 0) fail_msg("%s: connection left", op->name);
  return failed;
}

static int64_t next(int64_t n, int64_t stride) {
  return n < 100 ? n + 1 : n + stride;
}

static int64_t starve(stage *s, const operation *op, int forever) {
  int64_t stride = environment_number("DIBS_TEST_STRIDE", forever ? 7 : 3);
  int64_t runs = 0;
  stage_restore(s, op);
  stride *= slowness();
  for (int64_t n = 1; run_without_memory(s, op, n, forever);
       n = next(n, stride)) {
    runs++;
  }
  return runs;
}

static void starve_every_operation(fixture *f, int forever) {
  const char *only = getenv("DIBS_TEST_OPERATION");
  int64_t runs = 0;
  stage s;
  stage_prepare(&s, f, 0);
  for (size_t i = 0; i < operation_count; i++) {
    if (only && strcmp(only, operations[i].name) != 0) continue;
    stage_rehearse(&s, &operations[i]);
    runs += starve(&s, &operations[i], forever);
  }
  print_message("%lld failures\n", (long long)runs);
  expect_true(runs > (only ? 0 : 1000));
  stage_end(&s);
}

static void one_allocation_fails(void **state) {
  starve_every_operation(*state, 0);
}

static void all_allocations_fail_from_then_on(void **state) {
  starve_every_operation(*state, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(one_allocation_fails),
      TEST_CLOSED(all_allocations_fail_from_then_on),
  };
  faults_memory_install();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
