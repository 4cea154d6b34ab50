/* SPDX-License-Identifier: MIT */
/*
** test_disk.c: each operation on a disk that fails: at the first call of the
** VFS, the second, and so on; once, and from then on; by I/O errors, by a full
** disk, in reading, in syncing; with WAL and with a rollback journal. What
** fails has not happened, and works when the disk does.
*/
#include "faults.h"
#include "operations.h"

#include <sys/mount.h>
#include <unistd.h>

/* ---- One operation ----------------------------------------------------------- */

/* What an operation may give on a failing disk. */
static int is_disk_status(enum disk_fault fault, int status) {
  if (status == DIBS_OK || status == DIBS_IO) return 1;
  return fault == DISK_FULL && status == DIBS_FULL;
}

/* Run with the n-th call failing. False when none was left to fail. */
static int run_on_bad_disk(stage *s, const operation *op, enum disk_fault fault,
                           int64_t n, int forever) {
  char when[96];
  sqlite3 *watch = s->delete_mode ? NULL : plain_open(s->f->path);
  int64_t version = watch ? data_version(watch) : 0;
  dibs_db *db = stage_open(s, op);
  snprintf(when, sizeof when, "%s call %lld failing (fault %d)",
           forever ? "from" : "at", (long long)n, (int)fault);
  faults_disk_arm(fault, n, forever);
  int status = stage_run(s, op, db);
  int failed = faults_disk_disarm();
  int untouched = watch && data_version(watch) == version;
  sqlite3_close(watch);
  if (!is_disk_status(fault, status)) {
    fail_msg("%s, %s: %s (%s)", op->name, when, dibs_status_name(status),
             dibs_error(db));
  }
  if (status != DIBS_OK) {
    expect_true(failed);
    if (!op->stepwise && !op->open && !untouched) {
      stage_expect(s, op, s->before, when);
    }
    int again = stage_run(s, op, db);
    if (again != DIBS_OK) {
      fail_msg("%s, %s, then again: %s (%s)", op->name, when,
               dibs_status_name(again), dibs_error(db));
    }
  }
  expect_int(dibs_close(db), DIBS_OK);
  stage_expect(s, op, s->after, when);
  if (connections_open() != 0) fail_msg("%s: connection left", op->name);
  stage_restore(s, op);
  return failed;
}

static int fail_every_call(stage *s, const operation *op, enum disk_fault fault,
                           int forever) {
  int runs = 0;
  stage_restore(s, op);
  for (int64_t n = 1; run_on_bad_disk(s, op, fault, n, forever);
       n += n < 60 ? 1 : 3 * slowness()) {
    runs++;
  }
  return runs;
}

static void fail_every_operation(fixture *f, int delete_mode, int least) {
  const char *only = getenv("DIBS_TEST_OPERATION");
  int runs = 0;
  stage s;
  stage_prepare(&s, f, delete_mode);
  for (size_t i = 0; i < operation_count; i++) {
    if (only && strcmp(only, operations[i].name) != 0) continue;
    stage_rehearse(&s, &operations[i]);
    for (int fault = DISK_ERROR; fault <= DISK_NO_SYNC; fault++) {
      for (int forever = 0; forever <= 1; forever++) {
        runs += fail_every_call(&s, &operations[i], (enum disk_fault)fault,
                                forever);
      }
    }
  }
  print_message("%d failures\n", runs);
  expect_true(runs > (only ? 0 : least));
  stage_end(&s);
}

static void calls_fail_with_a_wal(void **state) {
  fail_every_operation(*state, 0, 1000);
}

static void calls_fail_with_a_rollback_journal(void **state) {
  fail_every_operation(*state, 1, 1000);
}

/* ---- A full disk ---------------------------------------------------------------- */

/* Enqueue until the disk is full; how many were taken. */
static int64_t enqueue_until_full(fixture *f) {
  char bytes[4000];
  memset(bytes, 'x', sizeof bytes);
  for (int64_t taken = 0; taken < 100000; taken++) {
    int status =
        dibs_enqueue(f->db, "q", dibs_bytes(bytes, sizeof bytes), NULL, NULL);
    if (status == DIBS_OK) continue;
    expect_status(f->db, status, DIBS_FULL);
    expect_says(dibs_error(f->db), "space");
    return taken;
  }
  fail_msg("the disk never got full");
  return 0;
}

static void a_full_disk_loses_nothing(void **state) {
  fixture *f = *state;
  faults_disk_quota(2000000);
  f->db = open_another(f);
  int64_t taken = enqueue_until_full(f);
  expect_true(taken > 50);
  expect_int(counts(f, "q").ready, taken);
  expect_true(file_is_sound(f->path));
  /* Room again: all of it works. */
  faults_disk_quota(-1);
  put(f, "q", "1");
  for (int64_t i = 0; i <= taken; i++) {
    expect_ok(f->db, dibs_ack(f->db, take(f, "q").receipt, NULL));
  }
  expect_nothing(f, "q");
}

/* A call that found the disk full works the next time; how often that was. */
static int full;

static int is_full(fixture *f, int status) {
  if (status != DIBS_FULL) return 0;
  expect_says(dibs_error(f->db), "space");
  full++;
  return 1;
}

static void take_and_ack(fixture *f) {
  const char *queue = "q";
  dibs_job_list *jobs = NULL;
  int status = dibs_claim(f->db, &queue, 1, NULL, &jobs);
  if (is_full(f, status)) status = dibs_claim(f->db, &queue, 1, NULL, &jobs);
  expect_ok(f->db, status);
  status = dibs_ack(f->db, jobs->jobs[0].receipt, NULL);
  if (is_full(f, status)) status = dibs_ack(f->db, jobs->jobs[0].receipt, NULL);
  expect_ok(f->db, status);
  dibs_job_list_free(jobs);
}

/* The WAL is what fills it, and the file itself has room for all that comes. */
static void a_wal_that_fills_the_disk_makes_room(void **state) {
  fixture *f = *state;
  char bytes[1000];
  memset(bytes, 'x', sizeof bytes);
  f->db = open_another(f);
  for (int i = 0; i < 100; i++)
    expect_ok(f->db, dibs_enqueue(f->db, "q", dibs_bytes(bytes, sizeof bytes),
                                  NULL, NULL));
  close_checked(f);
  full = 0;
  faults_disk_quota(300000);
  f->db = open_another(f);
  for (int i = 0; i < 100; i++) take_and_ack(f);
  faults_disk_quota(-1);
  expect_nothing(f, "q");
  expect_true(full > 1);
}

/* Claim and ack up to so many jobs. How many calls found the disk full; negative
** when one failed otherwise, or twice for that. */
static int work_off(dibs_db *db, int jobs) {
  static const char *const queue = "q";
  int status = DIBS_OK, tries = 0, found = 0;
  while (jobs && status != DIBS_EMPTY) {
    dibs_job_list *list = NULL;
    status = dibs_claim(db, &queue, 1, NULL, &list);
    if (!status) status = dibs_ack(db, list->jobs[0].receipt, NULL);
    dibs_job_list_free(list);
    jobs -= status == DIBS_OK;
    tries = status == DIBS_FULL ? tries + 1 : 0;
    found += tries;
    if (tries < 2 && (!status || tries || status == DIBS_EMPTY)) continue;
    print_error("%s\n", dibs_error(db));
    return -1;
  }
  return found;
}

/* The same on a file system that is that small, in a child that has one of its
** own. What has been worked off once needs no more room in the file. */
static int drain_on_small_disk(const char *folder) {
  char path[160], bytes[1000] = "";
  dibs_db *db = NULL;
  if (mount("tmpfs", folder, "tmpfs", 0, "size=1m")) return MOUNTS_REFUSED;
  snprintf(path, sizeof path, "%s/small.db", folder);
  for (int i = 0; i < 100; i++) {
    /* A close moves the WAL. */
    if (i % 20 == 0 && (dibs_close(db) || dibs_open(path, NULL, &db))) return 1;
    if (dibs_enqueue(db, "q", dibs_bytes(bytes, sizeof bytes), NULL, NULL))
      return 1;
  }
  if (work_off(db, 10) || dibs_close(db) || dibs_open(path, NULL, &db))
    return 2;
  int found = work_off(db, INT32_MAX);
  if (dibs_close(db) || !file_is_sound(path)) return 3;
  return found > 0 ? 0 : 4;
}

static void so_it_does_on_a_real_one(void **state) {
  run_with_mounts(*state, drain_on_small_disk);
}

/* What was claimed when the disk got full can be settled later. */
static void a_claim_outlives_a_full_disk(void **state) {
  fixture *f = *state;
  f->db = open_another(f);
  put(f, "q", "1");
  held job = take(f, "q");
  faults_disk_quota(0);
  expect_status(f->db, dibs_ack(f->db, job.receipt, NULL), DIBS_FULL);
  expect_state(f, job.id, DIBS_RUNNING);
  faults_disk_quota(-1);
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_gone(f, job.id);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(calls_fail_with_a_wal),
      TEST_CLOSED(calls_fail_with_a_rollback_journal),
      TEST_CLOSED(a_full_disk_loses_nothing),
      TEST_CLOSED(a_wal_that_fills_the_disk_makes_room),
      TEST_CLOSED(so_it_does_on_a_real_one),
      TEST_CLOSED(a_claim_outlives_a_full_disk),
  };
  faults_disk_install();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
