/* SPDX-License-Identifier: MIT */
/*
** test_gather.c: the frames of a commit reach the WAL in one write, all of them,
** and nothing of a commit that failed is written later.
*/
#include "faults.h"
#include "harness.h"

/* ---- Counting --------------------------------------------------------------- */

/* From now on: calls that write, none of which fails. */
static void writes_count(void) {
  faults_disk_arm(DISK_FULL, INT64_MAX, 0);
}

static int64_t writes_counted(void) {
  faults_disk_disarm();
  return faults_disk_calls();
}

/* ---- Keeping ---------------------------------------------------------------- */

/* The files as they are now, in which no connection has part: what a process
** leaves that is killed. */
static void files_keep(fixture *f, char kept[256]) {
  char from[160], to[272];
  snprintf(kept, 256, "%s/kept.db", f->folder);
  file_remove(kept);
  file_copy(f->path, kept);
  snprintf(from, sizeof from, "%s-wal", f->path);
  snprintf(to, sizeof to, "%s-wal", kept);
  file_copy(from, to);
}

static int64_t kept_count(const char *kept) {
  sqlite3_stmt *statement;
  sqlite3 *db = plain_open(kept);
  expect_true(database_is_sound(db));
  expect_int(sqlite3_prepare_v2(db, "SELECT count(*) FROM dibs_job", -1,
                                &statement, NULL),
             SQLITE_OK);
  expect_int(sqlite3_step(statement), SQLITE_ROW);
  int64_t count = sqlite3_column_int64(statement, 0);
  sqlite3_finalize(statement);
  sqlite3_close(db);
  return count;
}

/* Enqueue, and look whether the files have it. */
static void put_and_keep(fixture *f, size_t size, int64_t count) {
  static int64_t unique;
  char kept[256], *bytes = calloc(1, size);
  dibs_job_options *options = calloc((size_t)count, sizeof *options);
  char(*keys)[200] = calloc((size_t)count, sizeof *keys);
  dibs_new_job *jobs = calloc((size_t)count, sizeof *jobs);
  dibs_enqueued *ids = calloc((size_t)count, sizeof *ids);
  assert_non_null(bytes);
  assert_non_null(options);
  assert_non_null(keys);
  assert_non_null(jobs);
  assert_non_null(ids);
  int64_t before = raw_int(f, "SELECT count(*) FROM dibs_job");
  for (int64_t i = 0; i < count; i++) {
    /* In no order, so that the index is written here and there. */
    uint64_t number = (uint64_t)++unique * UINT64_C(0x9E3779B97F4A7C15);
    snprintf(keys[i], sizeof keys[i], "%020llu%0150d",
             (unsigned long long)number, 0);
    options[i] = no_options();
    options[i].unique = keys[i];
    jobs[i] = (dibs_new_job){"q", dibs_bytes(bytes, size), &options[i]};
  }
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, (size_t)count, ids));
  files_keep(f, kept);
  expect_int(kept_count(kept), before + count);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), before + count);
  free(ids);
  free(jobs);
  free(keys);
  free(options);
  free(bytes);
}

/* ---- Cases ------------------------------------------------------------------ */

static void a_commit_is_one_write(void **state) {
  fixture *f = *state;
  put(f, "q", "1"); /* the WAL has been begun */
  writes_count();
  put(f, "q", "2");
  expect_int(writes_counted(), 1);
  writes_count();
  held job = take(f, "q");
  expect_int(writes_counted(), 1);
  writes_count();
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_int(writes_counted(), 1);
}

static void a_large_one_is_a_few(void **state) {
  fixture *f = *state;
  put(f, "q", "1");
  writes_count();
  put_and_keep(f, 1000, 1000);
  int64_t writes = writes_counted();
  expect_true(writes >= 1000 * 1000 / (128 * 1024));
  expect_true(writes < 40);
}

/* More than the cache holds: pages that were written early are written again in
** their place, and all checksums behind them anew, which reads the WAL. */
static void what_was_spilled_is_written_again(void **state) {
  fixture *f = *state;
  for (int i = 0; i < 3; i++) put_and_keep(f, 4000, 5000);
}

static void pages_of_any_size(void **state) {
  fixture *f = *state;
  static const int sizes[] = {512, 1024, 4096, 65536};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    close_checked(f);
    file_remove(f->path);
    raw_run(f, "PRAGMA page_size=%d; CREATE TABLE mine(x)", sizes[i]);
    f->db = open_another(f);
    expect_int(raw_int(f, "PRAGMA page_size"), sizes[i]);
    put_and_keep(f, 10, 1);
    put_and_keep(f, 100000, 5);
    put_and_keep(f, 10, 200);
    expect_int(raw_int(f, "PRAGMA wal_checkpoint(TRUNCATE)"), 0);
    put_and_keep(f, 10, 1); /* the WAL is begun anew */
  }
}

static void a_journal_is_left_alone(void **state) {
  fixture *f = *state;
  close_checked(f);
  raw_run(f, "PRAGMA journal_mode=DELETE");
  dibs_open_options options = fixture_options(f);
  options.keep_journal_mode = 1;
  expect_int(dibs_open(f->path, &options, &f->db), DIBS_OK);
  put(f, "q", "1");
  expect_int(counts(f, "q").ready, 1);
  expect_true(file_is_sound(f->path));
}

/* The lock is gone with the failed commit, and another writes where its frames
** would have been. */
static void what_failed_is_never_written(void **state) {
  fixture *f = *state;
  dibs_db *other = open_another(f);
  int64_t taken = 0;
  for (int64_t n = 1; n <= 20; n++) {
    char kept[256];
    dibs_new_job jobs[100];
    dibs_enqueued ids[100];
    static char bytes[4000];
    for (int i = 0; i < 100; i++)
      jobs[i] = (dibs_new_job){"q", dibs_bytes(bytes, sizeof bytes), NULL};
    faults_disk_arm(DISK_FULL, n, 1);
    int status = dibs_enqueue_many(f->db, jobs, 100, ids);
    int failed = faults_disk_disarm();
    /* What fails behind the commit is the move of the WAL only. */
    if (status == DIBS_OK)
      taken += 100;
    else
      expect_int(status, DIBS_FULL);
    expect_true(failed || status == DIBS_OK);
    expect_ok(other, dibs_enqueue(other, "q", dibs_json("1"), NULL, NULL));
    expect_ok(f->db, dibs_enqueue(f->db, "q", dibs_json("2"), NULL, NULL));
    expect_ok(other, dibs_enqueue(other, "q", dibs_json("3"), NULL, NULL));
    taken += 3;
    files_keep(f, kept);
    expect_int(kept_count(kept), taken);
  }
  expect_true(taken > 60); /* the last went through */
  expect_int(dibs_close(other), DIBS_OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_commit_is_one_write),
      TEST(a_large_one_is_a_few),
      TEST(what_was_spilled_is_written_again),
      TEST(pages_of_any_size),
      TEST(a_journal_is_left_alone),
      TEST(what_failed_is_never_written),
  };
  faults_disk_install();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
