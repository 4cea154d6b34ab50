/* SPDX-License-Identifier: MIT */
/*
** test_host_life.c: what a host may do with its connection while we live in it,
** and what we leave of it: settings and hooks, closing in any order, tables
** that come and go, other kinds of databases, backups, threads, recursion,
** receipts that are settled in its transactions, and what is logged of them.
*/
#include "hosts.h"

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int enqueue_one(dibs_db *db) {
  return dibs_enqueue(db, "q", dibs_json("1"), NULL, NULL);
}

static int64_t host_int(host *h, const char *sql) {
  sqlite3_stmt *statement = NULL;
  int64_t value = -1;
  sqlite3_prepare_v2(h->sqlite, sql, -1, &statement, NULL);
  if (statement && sqlite3_step(statement) == SQLITE_ROW)
    value = sqlite3_column_int64(statement, 0);
  sqlite3_finalize(statement);
  return value;
}

/* Claim a job of the queue by the attached handle. */
static held host_take(host *h, const char *queue) {
  held job = {0, 0, 0, "", ""};
  dibs_job_list *jobs = NULL;
  expect_ok(h->db, dibs_claim(h->db, &queue, 1, NULL, &jobs));
  job.id = jobs->jobs[0].id;
  snprintf(job.receipt, sizeof job.receipt, "%s", jobs->jobs[0].receipt);
  dibs_job_list_free(jobs);
  return job;
}

static void nap(int milliseconds) {
  struct timespec moment = {.tv_nsec = milliseconds * 1000000L};
  nanosleep(&moment, NULL);
}

/* ---- Settling ------------------------------------------------------------ */

static void an_ack_that_is_rolled_back_can_be_made_again(void **state) {
  fixture *f = *state;
  host h = host_open(f);
  int64_t id = put(f, "q", "1");
  held job = take(f, "q");
  host_run(&h, "BEGIN");
  expect_ok(h.db, dibs_ack(h.db, job.receipt, NULL));
  expect_state(f, id, DIBS_RUNNING);
  host_run(&h, "ROLLBACK");
  expect_state(f, id, DIBS_RUNNING);
  host_run(&h, "BEGIN");
  expect_ok(h.db, dibs_ack(h.db, job.receipt, NULL));
  host_run(&h, "COMMIT");
  expect_gone(f, id);
  host_close(&h);
}

/* The error alone undoes nothing: the host decides. */
static void a_lost_receipt_leaves_the_transaction_usable(void **state) {
  fixture *f = *state;
  host h = host_open(f);
  int64_t id = put(f, "q", "1");
  held job = take(f, "q");
  host_run(&h, "CREATE TABLE t(x); BEGIN; INSERT INTO t VALUES (1)");
  f->now += HOUR;
  expect_status(h.db, dibs_ack(h.db, job.receipt, NULL), DIBS_LOST);
  expect_status(h.db, dibs_extend(h.db, job.receipt, HOUR, NULL), DIBS_LOST);
  expect_status(h.db, dibs_retry(h.db, "x", 0, NULL, NULL), DIBS_INVALID);
  expect_ok(h.db, enqueue_one(h.db));
  host_run(&h, "INSERT INTO t VALUES (2); COMMIT");
  expect_int(host_int(&h, "SELECT count(*) FROM t"), 2);
  expect_int(counts(f, "q").ready + counts(f, "q").running, 2);
  expect_state(f, id, DIBS_RUNNING);
  host_close(&h);
}

static void a_claim_that_is_rolled_back_leaves_the_job(void **state) {
  fixture *f = *state;
  host h = host_open(f);
  int64_t id = put(f, "q", "1");
  host_run(&h, "BEGIN");
  held job = host_take(&h, "q");
  expect_int(job.id, id);
  host_run(&h, "ROLLBACK");
  expect_status(h.db, dibs_ack(h.db, job.receipt, NULL), DIBS_LOST);
  expect_int(try_take(f, "q"), id);
  host_close(&h);
}

static void waiting_is_refused(void **state) {
  fixture *f = *state;
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  host h = host_open(f);
  options.wait = SECOND;
  expect_status(h.db, dibs_claim(h.db, NULL, 0, &options, &jobs), DIBS_MISUSE);
  expect_says(dibs_error(h.db), "dibs_open()");
  expect_status(h.db, dibs_join(h.db, NULL, 0, SECOND), DIBS_MISUSE);
  expect_int(dibs_enqueue_begin(h.db, NULL, 0, NULL, NULL, NULL), DIBS_MISUSE);
  host_close(&h);
}

/* ---- What is the host's -------------------------------------------------- */

static int hooks_called[6];

static int on_commit(void *context) {
  hooks_called[0]++;
  return context == NULL;
}

static void on_rollback(void *context) {
  (void)context;
  hooks_called[1]++;
}

static void on_update(void *context, int what, const char *db,
                      const char *table, sqlite3_int64 rowid) {
  (void)context;
  (void)what;
  (void)db;
  (void)table;
  (void)rowid;
  hooks_called[2]++;
}

static int on_wal(void *context, sqlite3 *db, const char *name, int pages) {
  (void)context;
  (void)db;
  (void)name;
  (void)pages;
  hooks_called[3]++;
  return SQLITE_OK;
}

static int on_progress(void *context) {
  (void)context;
  hooks_called[4]++;
  return 0;
}

static int on_busy(void *context, int count) {
  sqlite3 *other = context;
  hooks_called[5]++;
  if (count) return 0;
  return sqlite3_exec(other, "COMMIT", NULL, NULL, NULL) == SQLITE_OK;
}

static void pragmas_read(host *h, char text[512]) {
  static const char *const names[] = {
      "journal_mode",       "synchronous", "busy_timeout",       "foreign_keys",
      "wal_autocheckpoint", "cache_size",  "temp_store",         "locking_mode",
      "recursive_triggers", "query_only",  "case_sensitive_like"};
  char sql[64];
  text[0] = '\0';
  for (size_t i = 0; i < COUNT(names); i++) {
    sqlite3_stmt *statement = NULL;
    snprintf(sql, sizeof sql, "PRAGMA %s", names[i]);
    sqlite3_prepare_v2(h->sqlite, sql, -1, &statement, NULL);
    const char *value = "";
    if (statement && sqlite3_step(statement) == SQLITE_ROW)
      value = (const char *)sqlite3_column_text(statement, 0);
    size_t size = strlen(text);
    snprintf(text + size, 512 - size, "%s=%s ", names[i], value);
    sqlite3_finalize(statement);
  }
}

/* Enqueue, claim and ack, in a transaction and alone, and fail once. */
static void host_work(host *h) {
  static const char *const ends[] = {NULL, "COMMIT", "ROLLBACK"};
  for (size_t i = 0; i < COUNT(ends); i++) {
    if (ends[i]) host_run(h, "BEGIN");
    expect_ok(h->db, enqueue_one(h->db));
    expect_ok(h->db, dibs_ack(h->db, host_take(h, "q").receipt, NULL));
    expect_status(h->db, dibs_ack(h->db, "1:00000000000000ff", NULL),
                  DIBS_LOST);
    if (ends[i]) host_run(h, ends[i]);
  }
}

static void hooks_and_settings_stay(void **state) {
  fixture *f = *state;
  char before[512], after[512];
  host h = host_open(f);
  sqlite3 *other = plain_open(f->path);
  memset(hooks_called, 0, sizeof hooks_called);
  host_run(&h, "PRAGMA foreign_keys=1; PRAGMA cache_size=77;"
               "PRAGMA synchronous=1; CREATE TABLE t(x)");
  sqlite3_commit_hook(h.sqlite, on_commit, f);
  sqlite3_rollback_hook(h.sqlite, on_rollback, f);
  sqlite3_update_hook(h.sqlite, on_update, f);
  sqlite3_wal_hook(h.sqlite, on_wal, f);
  sqlite3_progress_handler(h.sqlite, 10, on_progress, f);
  sqlite3_busy_handler(h.sqlite, on_busy, other);
  pragmas_read(&h, before);
  host_work(&h);
  pragmas_read(&h, after);
  expect_text(after, before);
  expect_true(sqlite3_commit_hook(h.sqlite, NULL, NULL) == f);
  expect_true(sqlite3_rollback_hook(h.sqlite, NULL, NULL) == f);
  expect_true(sqlite3_update_hook(h.sqlite, NULL, NULL) == f);
  expect_true(sqlite3_wal_hook(h.sqlite, NULL, NULL) != NULL);
  for (int i = 0; i < 5; i++)
    if (!hooks_called[i]) fail_msg("hook %d was not called", i);
  expect_int(hooks_called[5], 0);
  expect_int(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), 0);
  expect_ok(h.db, enqueue_one(h.db));
  expect_int(hooks_called[5], 1);
  sqlite3_close(other);
  host_close(&h);
}

static int veto(void *context) {
  (void)context;
  return 1;
}

static void a_commit_hook_that_refuses_is_named(void **state) {
  fixture *f = *state;
  host h = host_open(f);
  uint64_t before = sidecar_counter(f, SIGNALS);
  sqlite3_commit_hook(h.sqlite, veto, NULL);
  expect_status(h.db, enqueue_one(h.db), DIBS_MISUSE);
  expect_says(dibs_error(h.db), "commit hook");
  expect_int(sqlite3_get_autocommit(h.sqlite), 1);
  host_run(&h, "BEGIN");
  expect_ok(h.db, enqueue_one(h.db));
  expect_int(sqlite3_exec(h.sqlite, "COMMIT", NULL, NULL, NULL),
             SQLITE_CONSTRAINT);
  if (!sqlite3_get_autocommit(h.sqlite)) host_run(&h, "ROLLBACK");
  expect_int(counts(f, "q").ready, 0);
  expect_int(sidecar_counter(f, SIGNALS), before);
  sqlite3_commit_hook(h.sqlite, NULL, NULL);
  expect_ok(h.db, enqueue_one(h.db));
  expect_int(counts(f, "q").ready, 1);
  host_close(&h);
}

static void the_last_rowid_stays(void **state) {
  fixture *f = *state;
  host h = host_open(f);
  host_run(&h, "CREATE TABLE t(x); INSERT INTO t(rowid) VALUES (4711)");
  host_work(&h);
  expect_int(sqlite3_last_insert_rowid(h.sqlite), 4711);
  host_close(&h);
}

/* ---- An authorizer ------------------------------------------------------- */

static int questions, refuse_at;

static int on_question(void *context, int what, const char *a, const char *b,
                       const char *c, const char *d) {
  (void)context;
  (void)what;
  (void)a;
  (void)b;
  (void)c;
  (void)d;
  return ++questions == refuse_at ? SQLITE_DENY : SQLITE_OK;
}

/* Refuse the first thing asked for, then the second, and so on. */
static void an_authorizer_that_refuses_is_named(void **state) {
  fixture *f = *state;
  int refused = 0;
  for (refuse_at = 1;; refuse_at++) {
    host h = host_open(f);
    host_run(&h, "CREATE TABLE IF NOT EXISTS t(x); BEGIN;"
                 "INSERT INTO t VALUES (1)");
    questions = 0;
    sqlite3_set_authorizer(h.sqlite, on_question, NULL);
    int status = enqueue_one(h.db);
    int asked = questions;
    sqlite3_set_authorizer(h.sqlite, NULL, NULL);
    if (asked < refuse_at) {
      expect_ok(h.db, status);
      host_run(&h, "ROLLBACK");
      host_close(&h);
      break;
    }
    if (status != DIBS_MISUSE || !strstr(dibs_error(h.db), "authorizer"))
      fail_msg("question %d: %s (%s)", refuse_at, dibs_status_name(status),
               dibs_error(h.db));
    expect_int(sqlite3_get_autocommit(h.sqlite), 0);
    host_run(&h, "COMMIT");
    expect_int(counts(f, "q").ready, 0);
    expect_int(host_int(&h, "SELECT count(*) FROM t"), ++refused);
    expect_ok(h.db, enqueue_one(h.db));
    expect_int(try_take(f, "q") != 0, 1);
    host_close(&h);
  }
  expect_true(refused > 10);
}

/* ---- Closing ------------------------------------------------------------- */

static void the_handle_may_be_closed_first(void **state) {
  fixture *f = *state;
  host h = host_open(f);
  host_run(&h, "BEGIN");
  expect_ok(h.db, enqueue_one(h.db));
  expect_int(dibs_close(h.db), DIBS_OK);
  host_run(&h, "COMMIT");
  expect_int(counts(f, "q").ready, 1);
  host_run(&h, "BEGIN; CREATE TABLE t(x); COMMIT");
  expect_int(sqlite3_close(h.sqlite), SQLITE_OK);
}

static void attached_again_after_a_close(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  host h = host_open(f);
  expect_int(dibs_close(h.db), DIBS_OK);
  expect_ok(h.db, dibs_attach(h.sqlite, NULL, &options, &h.db));
  expect_ok(h.db, enqueue_one(h.db));
  host_close(&h);
}

static void closed_in_the_middle_of_a_transaction(void **state) {
  fixture *f = *state;
  uint64_t before = sidecar_counter(f, SIGNALS);
  host h = host_open(f);
  host_run(&h, "BEGIN");
  expect_ok(h.db, enqueue_one(h.db));
  expect_int(sqlite3_close(h.sqlite), SQLITE_OK);
  expect_status(h.db, enqueue_one(h.db), DIBS_CLOSED);
  expect_says(dibs_error(h.db), "closed its connection");
  expect_says(dibs_error(h.db), f->path);
  expect_int(dibs_error_status(h.db), DIBS_CLOSED);
  dibs_interrupt(h.db);
  expect_int(dibs_close(h.db), DIBS_OK);
  expect_int(counts(f, "q").ready, 0);
  expect_int(sidecar_counter(f, SIGNALS), before);
}

/* A connection that waits for the host's last statement is closed for us. */
static void closed_with_a_statement_left(void **state) {
  fixture *f = *state;
  sqlite3_stmt *statement = NULL;
  host h = host_open(f);
  expect_ok(h.db, enqueue_one(h.db));
  sqlite3_prepare_v2(h.sqlite, "SELECT 1", -1, &statement, NULL);
  expect_int(sqlite3_step(statement), SQLITE_ROW);
  expect_int(sqlite3_close_v2(h.sqlite), SQLITE_OK);
  expect_status(h.db, enqueue_one(h.db), DIBS_CLOSED);
  expect_says(dibs_error(h.db), "closed its connection");
  expect_int(sqlite3_finalize(statement), SQLITE_OK);
  expect_status(h.db, enqueue_one(h.db), DIBS_CLOSED);
  expect_int(dibs_close(h.db), DIBS_OK);
  h = host_open(f);
  sqlite3_prepare_v2(h.sqlite, "SELECT 1", -1, &statement, NULL);
  expect_int(sqlite3_close_v2(h.sqlite), SQLITE_OK);
  expect_int(dibs_close(h.db), DIBS_OK);
  expect_int(sqlite3_finalize(statement), SQLITE_OK);
  expect_int(counts(f, "q").ready, 1);
}

/* ---- Tables -------------------------------------------------------------- */

static void tables_may_be_made_later(void **state) {
  fixture *f = *state;
  host h = {.sqlite = plain_open(f->path)};
  expect_status(h.db, dibs_attach(h.sqlite, NULL, NULL, &h.db), DIBS_SCHEMA);
  expect_status(h.db, enqueue_one(h.db), DIBS_SCHEMA);
  f->db = open_another(f);
  expect_ok(h.db, enqueue_one(h.db));
  expect_int(counts(f, "q").ready, 1);
  host_close(&h);
}

static void tables_may_be_dropped(void **state) {
  fixture *f = *state;
  char sql[200];
  host h = host_open(f);
  expect_ok(h.db, enqueue_one(h.db));
  expect_int(dibs_close(f->db), DIBS_OK);
  for (;;) {
    const char *name =
        raw_text(f, "SELECT type || ' ' || name FROM sqlite_schema WHERE name"
                    " GLOB 'dibs_*' AND type IN ('table', 'view') LIMIT 1");
    if (!*name) break;
    snprintf(sql, sizeof sql, "DROP %s", name);
    host_run(&h, sql);
  }
  expect_status(h.db, enqueue_one(h.db), DIBS_SCHEMA);
  expect_status(h.db, enqueue_one(h.db), DIBS_SCHEMA);
  expect_says(dibs_error(h.db), "init");
  f->db = open_another(f);
  expect_ok(h.db, enqueue_one(h.db));
  expect_int(counts(f, "q").ready, 1);
  host_close(&h);
}

static void the_hosts_schema_may_change(void **state) {
  fixture *f = *state;
  host h = host_open(f);
  for (int i = 0; i < 5; i++) {
    char sql[64];
    snprintf(sql, sizeof sql, "CREATE TABLE t%d(x)", i);
    host_run(&h, sql);
    expect_ok(h.db, enqueue_one(h.db));
    snprintf(sql, sizeof sql, "BEGIN; DROP TABLE t%d", i);
    host_run(&h, sql);
    expect_ok(h.db, enqueue_one(h.db));
    host_run(&h, i % 2 ? "COMMIT" : "ROLLBACK");
  }
  expect_int(counts(f, "q").ready, 7);
  host_close(&h);
}

/* ---- Kinds of databases -------------------------------------------------- */

static void a_connection_that_only_reads(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  dibs_job_list *jobs = NULL;
  sqlite3 *sqlite = plain_open_as(f->path, SQLITE_OPEN_READONLY);
  dibs_db *db = NULL;
  int64_t id = put(f, "q", "1");
  options.create = DIBS_CREATE_NONE;
  expect_ok(db, dibs_attach(sqlite, NULL, &options, &db));
  expect_ok(db, dibs_get(db, id, &jobs));
  dibs_job_list_free(jobs);
  expect_status(db, enqueue_one(db), DIBS_READONLY);
  expect_int(sqlite3_exec(sqlite, "BEGIN", NULL, NULL, NULL), SQLITE_OK);
  expect_status(db, enqueue_one(db), DIBS_READONLY);
  expect_int(sqlite3_exec(sqlite, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
  expect_int(dibs_close(db), DIBS_OK);
  expect_int(sqlite3_close(sqlite), SQLITE_OK);
}

static void a_connection_that_only_asks(void **state) {
  fixture *f = *state;
  host h = host_open(f);
  for (int i = 0; i < 2; i++) {
    host_run(&h, i ? "PRAGMA query_only=ON; BEGIN" : "PRAGMA query_only=ON");
    expect_status(h.db, enqueue_one(h.db), DIBS_READONLY);
    expect_says(dibs_error(h.db), "query_only");
    expect_says(dibs_error(h.db), f->path);
    host_run(&h, i ? "COMMIT; PRAGMA query_only=OFF" : "PRAGMA query_only=OFF");
    expect_ok(h.db, enqueue_one(h.db));
  }
  host_close(&h);
}

static void a_database_in_memory(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  host h = {.sqlite = plain_open(":memory:")};
  expect_ok(h.db, dibs_attach(h.sqlite, NULL, &options, &h.db));
  expect_true(dibs_created(h.db));
  host_run(&h, "BEGIN");
  expect_ok(h.db, enqueue_one(h.db));
  host_run(&h, "ROLLBACK");
  host_work(&h);
  expect_int(host_int(&h, "SELECT count(*) FROM dibs_job"), 0);
  expect_true(database_is_sound(h.sqlite));
  host_close(&h);
}

static void a_database_in_utf16(void **state) {
  static const char *const pattern = "k\xC3\xA4se/*";
  static const char queue[] = "k\xC3\xA4se/\xF0\x9F\xA7\x80";
  static const char json[] = "{\"\xC3\xBC\":\"\xF0\x9F\xA7\x80\"}";
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  dibs_job_options job = no_options();
  dibs_job_list *jobs = NULL;
  int64_t id = 0, same = 0;
  host h = {.sqlite = plain_open(f->path)};
  host_run(&h, "PRAGMA encoding='UTF-16le'; CREATE TABLE t(x)");
  expect_ok(h.db, dibs_attach(h.sqlite, NULL, &options, &h.db));
  job.unique = queue;
  expect_ok(h.db, dibs_enqueue(h.db, queue, dibs_json(json), &job, &id));
  expect_ok(h.db, dibs_enqueue(h.db, queue, dibs_none(), &job, &same));
  expect_int(same, id);
  expect_ok(h.db, dibs_claim(h.db, &pattern, 1, NULL, &jobs));
  expect_text(jobs->jobs[0].queue, queue);
  expect_int(jobs->jobs[0].payload.size, sizeof json - 1);
  expect_true(!memcmp(jobs->jobs[0].payload.data, json, sizeof json - 1));
  expect_ok(h.db, dibs_fail(h.db, jobs->jobs[0].receipt, queue));
  dibs_job_list_free(jobs);
  expect_ok(h.db, dibs_get(h.db, id, &jobs));
  expect_text(jobs->jobs[0].last_error, queue);
  dibs_job_list_free(jobs);
  host_work(&h);
  host_close(&h);
}

static void a_rollback_journal(void **state) {
  fixture *f = *state;
  char mode[16];
  close_checked(f);
  raw_run(f, "PRAGMA journal_mode=DELETE");
  host h = host_open(f);
  uint64_t before = sidecar_counter(f, SIGNALS);
  host_work(&h);
  expect_true(sidecar_counter(f, SIGNALS) > before);
  snprintf(mode, sizeof mode, "%s", raw_text(f, "PRAGMA journal_mode"));
  expect_text(mode, "delete");
  host_close(&h);
}

/* Ours is "main", whatever else there is, even tables of our names. */
static void a_connection_with_other_files(void **state) {
  fixture *f = *state;
  char sql[300];
  dibs_db *other = NULL;
  snprintf(sql, sizeof sql, "%s/other.db", f->folder);
  expect_ok(other, dibs_open(sql, NULL, &other));
  host h = host_open(f);
  snprintf(sql, sizeof sql,
           "ATTACH '%s/other.db' AS other; CREATE TABLE other.t(x);"
           "BEGIN; INSERT INTO other.t VALUES (1)",
           f->folder);
  host_run(&h, sql);
  expect_ok(h.db, enqueue_one(h.db));
  host_run(&h, "ROLLBACK");
  expect_int(counts(f, "q").ready, 0);
  host_run(&h, "BEGIN; INSERT INTO other.t VALUES (1)");
  expect_ok(h.db, enqueue_one(h.db));
  host_run(&h, "COMMIT");
  expect_int(counts(f, "q").ready, 1);
  expect_int(host_int(&h, "SELECT count(*) FROM other.t"), 1);
  expect_int(host_int(&h, "SELECT count(*) FROM other.dibs_job"), 0);
  expect_int(dibs_close(other), DIBS_OK);
  host_close(&h);
}

/* ---- Copies -------------------------------------------------------------- */

static void vacuum_and_copies(void **state) {
  fixture *f = *state;
  char path[160], sql[200];
  host h = host_open(f);
  expect_ok(h.db, enqueue_one(h.db));
  held job = host_take(&h, "q");
  host_run(&h, "VACUUM");
  expect_ok(h.db, enqueue_one(h.db));
  snprintf(path, sizeof path, "%s/copy.db", f->folder);
  snprintf(sql, sizeof sql, "VACUUM INTO '%s'", path);
  host_run(&h, sql);
  expect_true(file_is_sound(path));
  expect_ok(h.db, dibs_ack(h.db, job.receipt, NULL));
  host_close(&h);
}

/* From the connection, in steps, and back into it. */
static void backups_of_a_connection_and_into_it(void **state) {
  fixture *f = *state;
  char path[160];
  snprintf(path, sizeof path, "%s/copy.db", f->folder);
  host h = host_open(f);
  sqlite3 *copy = plain_open(path);
  expect_ok(h.db, enqueue_one(h.db));
  sqlite3_backup *backup = sqlite3_backup_init(copy, "main", h.sqlite, "main");
  expect_true(backup != NULL);
  expect_int(sqlite3_backup_step(backup, 5), SQLITE_OK);
  expect_ok(h.db, enqueue_one(h.db));
  while (sqlite3_backup_step(backup, 5) == SQLITE_OK) continue;
  expect_int(sqlite3_backup_finish(backup), SQLITE_OK);
  expect_int(sqlite3_close(copy), SQLITE_OK);
  expect_true(file_is_sound(path));
  expect_ok(h.db, enqueue_one(h.db));
  expect_int(dibs_close(f->db), DIBS_OK);
  f->db = NULL;
  copy = plain_open(path);
  backup = sqlite3_backup_init(h.sqlite, "main", copy, "main");
  expect_true(backup != NULL);
  expect_int(sqlite3_backup_step(backup, -1), SQLITE_DONE);
  expect_int(sqlite3_backup_finish(backup), SQLITE_OK);
  expect_int(host_int(&h, "SELECT count(*) FROM dibs_ready"), 2);
  expect_ok(h.db, enqueue_one(h.db));
  expect_int(host_int(&h, "SELECT count(*) FROM dibs_ready"), 3);
  expect_int(sqlite3_close(copy), SQLITE_OK);
  host_close(&h);
}

/* ---- Recursion ----------------------------------------------------------- */

static struct {
  dibs_db *db;
  int calls;
  int status;
} recursion;

static void recur(sqlite3_context *context, int count, sqlite3_value **values) {
  (void)count;
  (void)values;
  recursion.calls++;
  recursion.status = enqueue_one(recursion.db);
  if (recursion.status) sqlite3_result_error(context, "recursion", -1);
}

/* A trigger of the application on a table of ours. */
static void a_trigger_of_ours_that_calls_us(void **state) {
  fixture *f = *state;
  host h = host_open(f);
  recursion.db = h.db;
  recursion.calls = 0;
  sqlite3_create_function(h.sqlite, "recur", 0, SQLITE_UTF8, NULL, recur, NULL,
                          NULL);
  host_run(&h, "CREATE TEMP TRIGGER t AFTER INSERT ON main.dibs_job"
               " BEGIN SELECT recur(); END");
  for (int i = 0; i < 2; i++) {
    if (i) host_run(&h, "BEGIN");
    expect_true(enqueue_one(h.db) != DIBS_OK);
    expect_says(dibs_error(h.db), "recursion");
    expect_int(recursion.status, DIBS_MISUSE);
    if (i && !sqlite3_get_autocommit(h.sqlite)) host_run(&h, "COMMIT");
    expect_int(counts(f, "q").ready, 0);
  }
  expect_int(recursion.calls, 2);
  host_run(&h, "DROP TRIGGER t");
  expect_ok(h.db, enqueue_one(h.db));
  expect_int(counts(f, "q").ready, 1);
  host_close(&h);
}

/* ---- Threads ------------------------------------------------------------- */

#define ROUNDS 100

static void *work_along(void *context) {
  dibs_db *db = context;
  const char *queue = "q";
  for (int i = 0; i < ROUNDS; i++) {
    dibs_job_list *jobs = NULL;
    int status = enqueue_one(db);
    if (!status) status = dibs_claim(db, &queue, 1, NULL, &jobs);
    if (!status) status = dibs_ack(db, jobs->jobs[0].receipt, NULL);
    dibs_job_list_free(jobs);
    if (status) return (void *)dibs_status_name(status);
  }
  return NULL;
}

/* While the host uses the connection, too: each takes its turns. */
static void several_threads_on_one_connection(void **state) {
  fixture *f = *state;
  pthread_t threads[3];
  void *failure = NULL;
  host h = host_open(f);
  if (!sqlite3_threadsafe()) skip();
  host_run(&h, "CREATE TABLE t(x)");
  for (size_t i = 0; i < COUNT(threads); i++)
    expect_int(pthread_create(&threads[i], NULL, work_along, h.db), 0);
  for (int i = 0; i < ROUNDS; i++) host_run(&h, "INSERT INTO t VALUES (1)");
  for (size_t i = 0; i < COUNT(threads); i++) {
    pthread_join(threads[i], &failure);
    if (failure) fail_msg("a thread: %s", (char *)failure);
  }
  expect_int(host_int(&h, "SELECT count(*) FROM t"), ROUNDS);
  expect_int(host_int(&h, "SELECT count(*) FROM dibs_job"), 0);
  host_close(&h);
}

/* Then it is the host that sees to it that one has it at a time. */
static void one_without_a_mutex_goes_from_thread_to_thread(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  void *failure = NULL;
  host h = {.sqlite = plain_open_as(f->path, SQLITE_OPEN_READWRITE |
                                                 SQLITE_OPEN_NOMUTEX)};
  expect_true(sqlite3_db_mutex(h.sqlite) == NULL);
  expect_ok(h.db, dibs_attach(h.sqlite, NULL, &options, &h.db));
  for (int i = 0; i < 4; i++) {
    pthread_t thread;
    host_run(&h, "BEGIN");
    expect_ok(h.db, enqueue_one(h.db));
    expect_int(pthread_create(&thread, NULL, work_along, h.db), 0);
    pthread_join(thread, &failure);
    if (failure) fail_msg("a thread: %s", (char *)failure);
    expect_ok(h.db, dibs_ack(h.db, host_take(&h, "q").receipt, NULL));
    host_run(&h, i % 2 ? "COMMIT" : "ROLLBACK");
  }
  expect_int(host_int(&h, "SELECT count(*) FROM dibs_job"), 0);
  host_close(&h);
}

static void *attach_along(void *context) {
  dibs_db *db = NULL;
  dibs_attach(context, NULL, NULL, &db);
  return db;
}

static void several_threads_attach_at_once(void **state) {
  fixture *f = *state;
  pthread_t threads[4];
  void *db = NULL;
  host h = {.sqlite = plain_open(f->path)};
  for (size_t i = 0; i < COUNT(threads); i++)
    expect_int(pthread_create(&threads[i], NULL, attach_along, h.sqlite), 0);
  for (size_t i = 0; i < COUNT(threads); i++) {
    pthread_join(threads[i], &db);
    if (i) expect_true(db == h.db);
    h.db = db;
    if (i) expect_int(dibs_close(db), DIBS_OK);
  }
  expect_ok(h.db, enqueue_one(h.db));
  host_close(&h);
}

/* ---- Waiting for oneself ------------------------------------------------- */

/* A thread that has used the host's connection, and one that has not. */
struct other {
  dibs_db *own;      /* of dibs_open() */
  dibs_db *attached; /* NULL: leave that alone */
  pthread_barrier_t *barrier;
  int status;
};

static void *enqueue_beside(void *context) {
  struct other *other = context;
  if (other->attached) enqueue_one(other->attached);
  pthread_barrier_wait(other->barrier);
  pthread_barrier_wait(other->barrier);
  other->status = enqueue_one(other->own);
  return NULL;
}

/* The connection is in a transaction of this thread's: who has used it before
** waits for its end as anybody else does. */
static void another_thread_waits(void **state) {
  fixture *f = *state;
  pthread_t thread;
  pthread_barrier_t barrier;
  for (int used = 0; used < 2; used++) {
    host h = host_open(f);
    struct other other = {f->db, used ? h.db : NULL, &barrier, -1};
    pthread_barrier_init(&barrier, NULL, 2);
    expect_ok(h.db, enqueue_one(h.db));
    expect_int(pthread_create(&thread, NULL, enqueue_beside, &other), 0);
    pthread_barrier_wait(&barrier);
    host_run(&h, "BEGIN IMMEDIATE");
    pthread_barrier_wait(&barrier);
    nap(50);
    host_run(&h, "COMMIT");
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&barrier);
    expect_int(other.status, DIBS_OK);
    host_close(&h);
  }
}

#define CLOSED_BESIDE 200

/* Closing holds a connection's mutex while it asks for that of the list. */
static void *close_beside(void *context) {
  host *hosts = context;
  for (int i = 0; i < CLOSED_BESIDE; i++) {
    sqlite3_close(hosts[i].sqlite);
    dibs_close(hosts[i].db);
  }
  return NULL;
}

/* Who is blocked looks whether it is by one of the connections that it was the
** last to use, which another thread closes meanwhile. */
static void a_blocked_thread_and_one_that_closes(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  pthread_t thread;
  dibs_db *impatient = NULL;
  static host hosts[CLOSED_BESIDE];
  host h = host_open(f);
  options.busy_timeout = 0;
  expect_ok(impatient, dibs_open(f->path, &options, &impatient));
  for (int i = 0; i < CLOSED_BESIDE; i++) hosts[i] = host_open(f);
  host_run(&h, "BEGIN IMMEDIATE");
  expect_int(pthread_create(&thread, NULL, close_beside, hosts), 0);
  for (int i = 0; i < 20 * CLOSED_BESIDE; i++)
    expect_status(impatient, enqueue_one(impatient), DIBS_BUSY);
  pthread_join(thread, NULL);
  host_run(&h, "COMMIT");
  expect_int(dibs_close(impatient), DIBS_OK);
  host_close(&h);
}

/* ---- The dead ------------------------------------------------------------ */

/* Claim a job for an hour in a process that is killed. */
static void claim_and_die(fixture *f) {
  int status = -1;
  pid_t child = fork();
  if (child == 0) {
    dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
    dibs_job_list *jobs = NULL;
    const char *queue = "q";
    dibs_db *db = NULL;
    dibs_open(f->path, NULL, &db);
    options.lease = HOUR;
    options.attached = 1;
    if (dibs_claim(db, &queue, 1, &options, &jobs)) _exit(1);
    kill(getpid(), SIGKILL);
  }
  expect_int(waitpid(child, &status, 0), child);
  expect_true(WIFSIGNALED(status));
}

/* What was taken back from the dead in a transaction that is rolled back is
** taken back again, though nobody probes twice at once. */
static void the_dead_are_not_buried_in_vain(void **state) {
  fixture *f = *state;
  dibs_job_list *jobs = NULL;
  const char *queue = "q";
  close_checked(f);
  expect_ok(NULL, dibs_open(f->path, NULL, &f->db));
  int64_t id = put(f, "q", "1"), got = 0;
  claim_and_die(f);
  host h = host_open(f);
  for (int i = 0; i < 15; i++) {
    host_run(&h, "BEGIN IMMEDIATE");
    dibs_claim(h.db, &queue, 1, NULL, &jobs);
    dibs_job_list_free(jobs);
    host_run(&h, "ROLLBACK");
    nap(100);
  }
  for (int i = 0; i < 300 && !got; i++) {
    got = try_take(f, "q");
    if (!got) nap(20);
  }
  expect_int(got, id);
  host_close(&h);
}

/* ---- The log ------------------------------------------------------------- */

static struct {
  int count;
  int misuse;
  int64_t id;
  char event[32];
  dibs_db *db;
} told;

static void listen_in(void *context, const dibs_log_event *event) {
  (void)context;
  told.count++;
  told.id = event->id;
  snprintf(told.event, sizeof told.event, "%s", event->event);
  told.misuse += enqueue_one(told.db) == DIBS_MISUSE;
}

static host host_listen(fixture *f) {
  dibs_open_options options = fixture_options(f);
  dibs_db *again = NULL;
  host h = host_open(f);
  options.log = listen_in;
  options.create = DIBS_CREATE_NONE;
  expect_ok(again, dibs_attach(h.sqlite, NULL, &options, &again));
  expect_int(dibs_close(again), DIBS_OK);
  memset(&told, 0, sizeof told);
  told.db = h.db;
  return h;
}

static int64_t host_kill_job(fixture *f, host *h) {
  int64_t id = 0;
  (void)f;
  expect_ok(h->db, dibs_enqueue(h->db, "q", dibs_none(), NULL, &id));
  expect_ok(h->db, dibs_fail(h->db, host_take(h, "q").receipt, "no"));
  return id;
}

static void the_log_is_told_when_the_host_commits(void **state) {
  fixture *f = *state;
  host h = host_listen(f);
  int64_t id = host_kill_job(f, &h);
  expect_int(told.count, 1);
  host_run(&h, "BEGIN");
  id = host_kill_job(f, &h);
  expect_int(told.count, 1);
  host_run(&h, "COMMIT");
  expect_int(told.count, 2);
  expect_int(told.id, id);
  expect_text(told.event, "dead");
  expect_int(told.misuse, 2);
  host_run(&h, "BEGIN");
  host_kill_job(f, &h);
  host_run(&h, "ROLLBACK; BEGIN; COMMIT");
  expect_int(told.count, 2);
  host_close(&h);
}

static void what_a_savepoint_takes_back_is_not_logged(void **state) {
  fixture *f = *state;
  host h = host_listen(f);
  host_run(&h, "BEGIN; SAVEPOINT a");
  host_kill_job(f, &h);
  host_run(&h, "ROLLBACK TO a");
  int64_t first = host_kill_job(f, &h);
  host_run(&h, "SAVEPOINT b");
  host_kill_job(f, &h);
  host_run(&h, "SAVEPOINT c");
  host_kill_job(f, &h);
  host_run(&h, "RELEASE c; ROLLBACK TO b; COMMIT");
  expect_int(told.count, 1);
  expect_int(told.id, first);
  host_close(&h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(an_ack_that_is_rolled_back_can_be_made_again),
      TEST(a_lost_receipt_leaves_the_transaction_usable),
      TEST(a_claim_that_is_rolled_back_leaves_the_job),
      TEST(waiting_is_refused),
      TEST(hooks_and_settings_stay),
      TEST(a_commit_hook_that_refuses_is_named),
      TEST(the_last_rowid_stays),
      TEST(an_authorizer_that_refuses_is_named),
      TEST(the_handle_may_be_closed_first),
      TEST(attached_again_after_a_close),
      TEST(closed_in_the_middle_of_a_transaction),
      TEST(closed_with_a_statement_left),
      TEST_CLOSED(tables_may_be_made_later),
      TEST(tables_may_be_dropped),
      TEST(the_hosts_schema_may_change),
      TEST(a_connection_that_only_reads),
      TEST(a_connection_that_only_asks),
      TEST_CLOSED(a_database_in_memory),
      TEST_CLOSED(a_database_in_utf16),
      TEST(a_rollback_journal),
      TEST(a_connection_with_other_files),
      TEST(vacuum_and_copies),
      TEST(backups_of_a_connection_and_into_it),
      TEST(a_trigger_of_ours_that_calls_us),
      TEST(several_threads_on_one_connection),
      TEST(one_without_a_mutex_goes_from_thread_to_thread),
      TEST(several_threads_attach_at_once),
      TEST(another_thread_waits),
      TEST(a_blocked_thread_and_one_that_closes),
      TEST(the_dead_are_not_buried_in_vain),
      TEST(the_log_is_told_when_the_host_commits),
      TEST(what_a_savepoint_takes_back_is_not_logged),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
