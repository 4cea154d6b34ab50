/* SPDX-License-Identifier: MIT */
/*
** test_host_disk.c: operations within a host's transactions and statements on a
** disk that fails, at the first call of the VFS from the operation to the host's
** COMMIT, the second, and so on. What the host was told to be done is there,
** anything else is not; the handle can be used when the disk can.
*/
#include "faults.h"
#include "hosts.h"

/* What may be said of a failing disk. */
static int is_disk_status(enum disk_fault fault, int status) {
  return status == DIBS_OK || status == DIBS_IO ||
         (status == DIBS_FULL && fault == DISK_FULL);
}

/* The operation, and the host's COMMIT, where there is a transaction left. */
static int work(host *h, const place *where) {
  int done = host_run_part(h);
  if (!where->commit) return done;
  if (sqlite3_get_autocommit(h->sqlite)) return 0;
  return sqlite3_exec(h->sqlite, where->commit, NULL, NULL, NULL) ==
             SQLITE_OK &&
         done;
}

static void expect_disk_status(const host *h, enum disk_fault fault,
                               const char *when) {
  if (h->status < 0 || is_disk_status(fault, h->status)) return;
  fail_msg("%s, %s: %s (%s)", h->op->name, when, dibs_status_name(h->status),
           dibs_error(h->db));
}

/* Again, on a disk that works. */
static void expect_works(host *h, const place *where, const char *when) {
  h->status = -1;
  host_begin(h, where, h->op);
  int done = work(h, where);
  host_end_part(h);
  if (!done)
    fail_msg("%s, %s, then again: %s (%s; %s)", h->op->name, when,
             h->status < 0 ? "not called" : dibs_status_name(h->status),
             dibs_error(h->db), sqlite3_errmsg(h->sqlite));
}

/* Run with the n-th call failing. False when none was left to fail. */
static int run_on_bad_disk(stage *s, const operation *op, const place *where,
                           enum disk_fault fault, int64_t n, int forever) {
  char when[128];
  host h = host_open_by(s->f, "faults");
  snprintf(when, sizeof when, "%s, %s call %lld failing (fault %d)",
           where->name, forever ? "from" : "at", (long long)n, (int)fault);
  host_begin(&h, where, op);
  faults_disk_arm(fault, n, forever);
  int done = work(&h, where);
  int failed = faults_disk_disarm();
  host_end_part(&h);
  expect_disk_status(&h, fault, when);
  if (!done && !failed) fail_msg("%s, %s: failed, why?", op->name, when);
  if (!sqlite3_get_autocommit(h.sqlite)) host_run(&h, "ROLLBACK");
  if (!done && !op->stepwise) {
    stage_expect(s, op, s->before, when);
    expect_works(&h, where, when);
  }
  host_close(&h);
  if (done || !op->stepwise)
    stage_expect(s, op, s->after, when);
  else if (!file_is_sound(s->f->path))
    fail_msg("%s, %s", op->name, when);
  stage_restore(s, op);
  return failed;
}

static int fail_each_call(stage *s, const operation *op, const place *where,
                          enum disk_fault fault, int forever) {
  int64_t stride = environment_number("DIBS_TEST_STRIDE", 7);
  int runs = 0;
  stage_restore(s, op);
  for (int64_t n = 1; run_on_bad_disk(s, op, where, fault, n, forever);
       n += n < 6 ? 1 : stride * slowness())
    runs++;
  return runs;
}

/* Each operation at one of the places, the next one at the next. */
static void fail_every_operation(fixture *f, int delete_mode) {
  int runs = 0;
  size_t at = 0;
  stage s;
  host_stage(&s, f, delete_mode);
  for (size_t i = 0; i < operation_count; i++) {
    const operation *op = &operations[i];
    if (!host_tries(op)) continue;
    stage_rehearse(&s, op);
    do at = (at + 1) % place_count;
    while (!place_is_quiet(&places[at]));
    for (int fault = DISK_ERROR; fault <= DISK_NO_SYNC; fault++)
      for (int forever = 0; forever <= 1; forever++)
        runs += fail_each_call(&s, op, &places[at], (enum disk_fault)fault,
                               forever);
  }
  print_message("%d failures\n", runs);
  expect_true(runs > (getenv("DIBS_TEST_OPERATION") ? 0 : 300));
  stage_end(&s);
}

static void calls_fail_with_a_wal(void **state) {
  fail_every_operation(*state, 0);
}

static void calls_fail_with_a_rollback_journal(void **state) {
  fail_every_operation(*state, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(calls_fail_with_a_wal),
      TEST_CLOSED(calls_fail_with_a_rollback_journal),
  };
  faults_disk_install();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
