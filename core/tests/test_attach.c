/* SPDX-License-Identifier: MIT */
/*
** test_attach.c: living inside a connection of the host: what its transactions,
** savepoints, locks and its closing do to ours, and who is woken.
*/
#include "harness.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

/* The host: a plain connection, and a handle on it. */
typedef struct host {
  sqlite3 *sqlite;
  dibs_db *db;
} host;

static void run(sqlite3 *sqlite, const char *sql) {
  char *message = NULL;
  if (sqlite3_exec(sqlite, sql, NULL, NULL, &message) != SQLITE_OK) {
    fail_msg("%s: %s", sql, message);
  }
}

static host host_open(fixture *f, int create) {
  dibs_open_options options = fixture_options(f);
  host h = {.sqlite = plain_open(f->path)};
  options.create = create;
  if (!h.sqlite) fail_msg("no connection");
  run(h.sqlite, "PRAGMA journal_mode=WAL");
  expect_ok(h.db, dibs_attach(h.sqlite, NULL, &options, &h.db));
  return h;
}

static void host_close(host *h) {
  expect_int(sqlite3_close(h->sqlite), SQLITE_OK);
  expect_int(dibs_close(h->db), DIBS_OK);
}

static int put_in(host *h) {
  return dibs_enqueue(h->db, "q", dibs_json("1"), NULL, NULL);
}

/* How many signals were sent through the sidecar, ever. */
static int64_t signals(fixture *f) {
  char name[160];
  uint64_t count = 0;
  snprintf(name, sizeof name, "%s-dibs", f->path);
  int fd = open(name, O_RDONLY);
  if (fd < 0) return 0;
  if (pread(fd, &count, sizeof count, 256) != sizeof count) {
    fail_msg("%s is short", name);
  }
  close(fd);
  return (int64_t)count;
}

static int64_t jobs(fixture *f) {
  return raw_int(f, "SELECT count(*) FROM dibs_job");
}

/* ---- Transactions ---------------------------------------------------------- */

static void a_commit_tells_and_a_rollback_does_not(void **state) {
  fixture *f = *state;
  host h = host_open(f, DIBS_CREATE);
  int64_t before = signals(f);
  run(h.sqlite, "BEGIN");
  expect_ok(h.db, put_in(&h));
  expect_int(signals(f), before);
  run(h.sqlite, "ROLLBACK");
  expect_int(signals(f), before);
  expect_int(jobs(f), 0);
  run(h.sqlite, "BEGIN");
  expect_ok(h.db, put_in(&h));
  run(h.sqlite, "COMMIT");
  expect_int(signals(f), before + 1);
  expect_int(jobs(f), 1);
  expect_ok(h.db, put_in(&h));
  expect_int(signals(f), before + 2);
  host_close(&h);
}

static void what_a_savepoint_takes_back_is_not_told(void **state) {
  fixture *f = *state;
  host h = host_open(f, DIBS_CREATE);
  int64_t before = signals(f);
  run(h.sqlite, "BEGIN; SAVEPOINT a");
  expect_ok(h.db, put_in(&h));
  run(h.sqlite, "ROLLBACK TO a; COMMIT");
  expect_int(signals(f), before);
  run(h.sqlite, "BEGIN; SAVEPOINT a");
  expect_ok(h.db, put_in(&h));
  run(h.sqlite, "SAVEPOINT b");
  expect_ok(h.db, put_in(&h));
  run(h.sqlite, "ROLLBACK TO a; COMMIT");
  expect_int(signals(f), before);
  run(h.sqlite, "BEGIN");
  expect_ok(h.db, put_in(&h));
  run(h.sqlite, "SAVEPOINT b");
  expect_ok(h.db, put_in(&h));
  run(h.sqlite, "ROLLBACK TO b; RELEASE b; COMMIT");
  expect_int(signals(f), before + 1);
  expect_int(jobs(f), 1);
  host_close(&h);
}

/* Savepoints, releases, rollbacks and enqueues in any order: who waits is told
** if, and only if, a job is there behind the commit that was not before. */
static void savepoints_in_any_order(void **state) {
  fixture *f = *state;
  char sql[64];
  host h = host_open(f, DIBS_CREATE);
  int told = 0, untold = 0;
  srand((unsigned)environment_number("DIBS_TEST_SEED", 1));
  for (int round = 0; round < 300 / slowness(); round++) {
    int64_t before = signals(f), there = jobs(f);
    int depth = 0;
    run(h.sqlite, rand() % 2 ? "BEGIN" : "SAVEPOINT s0");
    if (sqlite3_get_autocommit(h.sqlite)) fail_msg("no transaction");
    for (int step = 0; step < 8; step++) {
      int level = depth ? 1 + rand() % depth : 0;
      switch (rand() % 4) {
      case 0:
        snprintf(sql, sizeof sql, "SAVEPOINT s%d", ++depth);
        run(h.sqlite, sql);
        break;
      case 1:
        if (!level) break;
        snprintf(sql, sizeof sql, "RELEASE s%d", level);
        run(h.sqlite, sql);
        depth = level - 1;
        break;
      case 2:
        if (!level) break;
        snprintf(sql, sizeof sql, "ROLLBACK TO s%d", level);
        run(h.sqlite, sql);
        depth = level;
        break;
      default: expect_ok(h.db, put_in(&h));
      }
    }
    run(h.sqlite, "COMMIT");
    int more = jobs(f) > there;
    expect_int(signals(f) - before, more);
    told += more;
    untold += !more;
  }
  print_message("%d told, %d not\n", told, untold);
  expect_true(told && untold);
  host_close(&h);
}

/* Whatever the call before did. */
static void a_refused_call_leaves_the_transaction_alone(void **state) {
  fixture *f = *state;
  dibs_change_options options = DIBS_CHANGE_OPTIONS_INIT;
  host h = host_open(f, DIBS_CREATE);
  options.delay = -5;
  run(h.sqlite, "CREATE TABLE t(x)");
  expect_ok(h.db, put_in(&h));
  run(h.sqlite, "BEGIN; INSERT INTO t VALUES (1)");
  expect_status(h.db, dibs_change(h.db, 1, &options), DIBS_INVALID);
  expect_status(h.db, dibs_cancel(h.db, NULL, 1, NULL, NULL), DIBS_MISUSE);
  expect_int(sqlite3_get_autocommit(h.sqlite), 0);
  run(h.sqlite, "COMMIT");
  expect_int(raw_int(f, "SELECT count(*) FROM t"), 1);
  host_close(&h);
}

/* ---- Locks ----------------------------------------------------------------- */

typedef struct blocker {
  sqlite3 *sqlite;
  int calls;
} blocker;

/* The host's busy handler: the other transaction ends meanwhile. */
static int let_go(void *context, int count) {
  blocker *b = context;
  b->calls++;
  if (count) return 0;
  run(b->sqlite, "COMMIT");
  return 1;
}

static void a_transaction_that_has_not_read_waits_for_the_lock(void **state) {
  fixture *f = *state;
  host h = host_open(f, DIBS_CREATE);
  blocker b = {.sqlite = plain_open(f->path)};
  sqlite3_busy_handler(h.sqlite, let_go, &b);
  run(b.sqlite, "CREATE TABLE t(x); BEGIN; INSERT INTO t VALUES (1)");
  run(h.sqlite, "BEGIN");
  expect_ok(h.db, put_in(&h));
  run(h.sqlite, "COMMIT");
  expect_int(b.calls, 1);
  expect_int(jobs(f), 1);
  expect_int(sqlite3_close(b.sqlite), SQLITE_OK);
  host_close(&h);
}

static void a_transaction_that_has_read_must_have_been_immediate(void **state) {
  fixture *f = *state;
  host h = host_open(f, DIBS_CREATE);
  blocker b = {.sqlite = plain_open(f->path)};
  run(b.sqlite, "CREATE TABLE t(x)");
  run(h.sqlite, "BEGIN; SELECT count(*) FROM t");
  run(b.sqlite, "BEGIN; INSERT INTO t VALUES (1)");
  expect_status(h.db, put_in(&h), DIBS_SNAPSHOT);
  expect_says(dibs_error(h.db), "BEGIN IMMEDIATE");
  run(b.sqlite, "COMMIT");
  expect_status(h.db, put_in(&h), DIBS_SNAPSHOT);
  expect_says(dibs_error(h.db), "BEGIN IMMEDIATE");
  run(h.sqlite, "ROLLBACK; BEGIN IMMEDIATE; SELECT count(*) FROM t");
  expect_ok(h.db, put_in(&h));
  run(h.sqlite, "COMMIT");
  expect_int(sqlite3_close(b.sqlite), SQLITE_OK);
  host_close(&h);
}

/* At once, though it would wait for days, and however the path was written. */
static void a_thread_that_blocks_itself_is_told_so(void **state) {
  static const int64_t timeouts[] = {0, DAY};
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  host h = host_open(f, DIBS_CREATE);
  for (size_t i = 0; i < COUNT(timeouts); i++) {
    dibs_db *own = NULL;
    options.busy_timeout = timeouts[i];
    expect_int(chdir(f->folder), 0);
    expect_ok(own, dibs_open("test.db", &options, &own));
    expect_int(chdir("/"), 0);
    run(h.sqlite, "BEGIN IMMEDIATE");
    expect_status(own, dibs_enqueue(own, "q", dibs_none(), NULL, NULL),
                  DIBS_BUSY);
    expect_says(dibs_error(own), "this thread's own transaction");
    run(h.sqlite, "COMMIT");
    expect_ok(own, dibs_enqueue(own, "q", dibs_none(), NULL, NULL));
    expect_int(dibs_close(own), DIBS_OK);
  }
  host_close(&h);
}

/* Whatever the second one's timeout; alone, or in a transaction. */
static void so_is_one_with_two_connections(void **state) {
  fixture *f = *state;
  host h = host_open(f, DIBS_CREATE), other = host_open(f, DIBS_CREATE_NONE);
  sqlite3_busy_timeout(other.sqlite, INT32_MAX);
  for (int i = 0; i < 2; i++) {
    run(h.sqlite, "BEGIN IMMEDIATE");
    if (i) run(other.sqlite, "BEGIN; SELECT count(*) FROM dibs_job");
    expect_status(other.db, put_in(&other), DIBS_BUSY);
    expect_says(dibs_error(other.db), "this thread's own transaction");
    expect_says(dibs_error(other.db), f->path);
    if (i) run(other.sqlite, "COMMIT");
    run(h.sqlite, "COMMIT");
    expect_ok(other.db, put_in(&other));
  }
  host_close(&h);
  host_close(&other);
}

/* Where the holder is not known, the likely one is named. */
static void who_is_blocked_by_another_is_told_of_attach(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  sqlite3 *other = plain_open(f->path);
  options.busy_timeout = 1;
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  run(other, "BEGIN IMMEDIATE");
  expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), NULL, NULL),
                DIBS_BUSY);
  expect_says(dibs_error(f->db), "this program's own");
  expect_says(dibs_error(f->db), "attach");
  run(other, "COMMIT");
  expect_int(sqlite3_close(other), SQLITE_OK);
}

/* ---- Statements ------------------------------------------------------------ */

/* An SQL function of the host that enqueues, and one that does so in vain: the
** second job's key is the first one's. */
static void enqueue_function(sqlite3_context *context, int count,
                             sqlite3_value **values) {
  dibs_db *db = sqlite3_user_data(context);
  dibs_job_options options = no_options();
  dibs_new_job two[2] = {{"q", {0, 0, NULL, 0}, &options},
                         {"q", {0, 0, NULL, 0}, &options}};
  (void)values;
  options.unique = "k";
  options.on_conflict = DIBS_CONFLICT_REJECT;
  int status = count ? dibs_enqueue_many(db, two, 2, NULL)
                     : dibs_enqueue(db, "q", dibs_json("1"), NULL, NULL);
  if (status) sqlite3_result_error(context, dibs_error(db), -1);
}

static void functions_make(host *h) {
  for (int count = 0; count < 2; count++) {
    expect_int(sqlite3_create_function(h->sqlite, "put", count, SQLITE_UTF8,
                                       h->db, enqueue_function, NULL, NULL),
               SQLITE_OK);
  }
}

/* The statement writes, though not to our file. */
static void within_a_statement_that_writes_elsewhere(void **state) {
  fixture *f = *state;
  host h = host_open(f, DIBS_CREATE);
  functions_make(&h);
  run(h.sqlite, "CREATE TEMP TABLE t(x); CREATE TABLE v(x);"
                "INSERT INTO v VALUES (1)");
  run(h.sqlite, "INSERT INTO t VALUES (put())");
  run(h.sqlite, "INSERT INTO t SELECT put() FROM v");
  run(h.sqlite, "CREATE TEMP TABLE u AS SELECT put() AS x FROM t");
  expect_int(jobs(f), 4);
  expect_int(sqlite3_get_autocommit(h.sqlite), 1);
  run(h.sqlite, "BEGIN; INSERT INTO t SELECT put() FROM v; COMMIT");
  expect_int(jobs(f), 5);
  host_close(&h);
}

/* SQLite prepares a statement of one row for no failure behind its first write,
** but the first write is ours. */
static void a_failure_within_a_statement_leaves_nothing(void **state) {
  fixture *f = *state;
  static const char *const statements[] = {
      "INSERT INTO t VALUES (put(1))",
      "INSERT INTO t SELECT put(1)",
      "UPDATE t SET x = put(1) WHERE rowid = 1",
      "DELETE FROM t WHERE rowid = 1 RETURNING put(1)",
      "INSERT INTO u VALUES (1)",
  };
  host h = host_open(f, DIBS_CREATE);
  functions_make(&h);
  run(h.sqlite, "CREATE TABLE t(x); CREATE TABLE u(x);"
                "INSERT INTO t VALUES (1);"
                "CREATE TRIGGER r AFTER INSERT ON u BEGIN SELECT put(1); END");
  for (size_t i = 0; i < COUNT(statements); i++) {
    expect_int(sqlite3_exec(h.sqlite, statements[i], NULL, NULL, NULL),
               SQLITE_ERROR);
    expect_says(sqlite3_errmsg(h.sqlite), "unique key");
    expect_int(jobs(f), 0);
    run(h.sqlite, "BEGIN");
    expect_int(sqlite3_exec(h.sqlite, statements[i], NULL, NULL, NULL),
               SQLITE_ERROR);
    expect_says(sqlite3_errmsg(h.sqlite), "unique key");
    if (!sqlite3_get_autocommit(h.sqlite)) run(h.sqlite, "COMMIT");
    expect_int(jobs(f), 0);
    expect_int(raw_int(f, "SELECT sum(x) FROM t"), 1);
    expect_int(raw_int(f, "SELECT count(*) FROM u"), 0);
  }
  run(h.sqlite, "BEGIN; INSERT INTO t VALUES (put()); COMMIT");
  expect_int(jobs(f), 1);
  host_close(&h);
}

static int left; /* until the interrupt; 0: none */

static int interrupt_in_time(unsigned what, void *context, void *statement,
                             void *text) {
  (void)what;
  (void)statement;
  (void)text;
  if (left && --left == 0) sqlite3_interrupt(context);
  return 0;
}

static int stop_in_time(void *context) {
  (void)context;
  return left && --left == 0;
}

static const char *const interrupted[] = {
    "SELECT put()", "BEGIN; INSERT INTO t VALUES (1); SELECT put(); COMMIT",
    "INSERT INTO t VALUES (put())"};

/* Whole or not at all, with an interrupt at each n-th step. How many there
** were. */
static int interrupt_each(fixture *f, host *h, const char *sql, int stride) {
  for (int n = 1, count = 0;; n += stride, count++) {
    left = n;
    sqlite3_exec(h->sqlite, sql, NULL, NULL, NULL);
    int over = left != 0;
    left = 0;
    if (over) return count;
    if (!sqlite3_get_autocommit(h->sqlite)) run(h->sqlite, "COMMIT");
    expect_int(raw_int(f, "SELECT count(*) - (SELECT count(*) FROM dibs_ready)"
                          " FROM dibs_job"),
               0);
    expect_int(raw_int(f, "SELECT count(*) - (SELECT max(id) > 0 FROM dibs_job)"
                          " FROM dibs_queue HAVING count(*)"),
               jobs(f) ? 0 : -1);
    raw_run(f, "DELETE FROM dibs_job; DELETE FROM dibs_ready;"
               "DELETE FROM dibs_queue; DELETE FROM t");
  }
}

/* The rollback is interrupted, too. */
static void an_interrupt_leaves_nothing_half_done(void **state) {
  fixture *f = *state;
  int count = 0;
  host h = host_open(f, DIBS_CREATE);
  functions_make(&h);
  run(h.sqlite, "CREATE TABLE t(x)");
  sqlite3_trace_v2(h.sqlite, SQLITE_TRACE_STMT, interrupt_in_time, h.sqlite);
  for (size_t i = 0; i < COUNT(interrupted); i++)
    count += interrupt_each(f, &h, interrupted[i], 1);
  expect_true(count > 15);
  host_close(&h);
}

/* The statement under way only, wherever it is. */
static void a_progress_handler_leaves_nothing_half_done(void **state) {
  fixture *f = *state;
  int count = 0;
  host h = host_open(f, DIBS_CREATE);
  functions_make(&h);
  run(h.sqlite, "CREATE TABLE t(x)");
  sqlite3_progress_handler(h.sqlite, 1, stop_in_time, NULL);
  for (size_t i = 0; i < COUNT(interrupted); i++)
    count += interrupt_each(f, &h, interrupted[i], 1 + slowness());
  expect_true(count > 100 / slowness());
  host_close(&h);
}

/* ---- Tables that come and go ------------------------------------------------ */

static void tables_that_were_rolled_back_are_made_again(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  dibs_db *again = NULL;
  host h = {.sqlite = plain_open(f->path)};
  run(h.sqlite, "CREATE TABLE t(x); BEGIN");
  expect_ok(h.db, dibs_attach(h.sqlite, NULL, &options, &h.db));
  expect_ok(h.db, put_in(&h));
  run(h.sqlite, "ROLLBACK");
  expect_status(h.db, put_in(&h), DIBS_SCHEMA);
  expect_status(h.db, put_in(&h), DIBS_SCHEMA);
  expect_says(dibs_error(h.db), "init");
  expect_ok(h.db, dibs_attach(h.sqlite, NULL, &options, &again));
  expect_ok(h.db, put_in(&h));
  expect_int(jobs(f), 1);
  expect_int(dibs_close(again), DIBS_OK);
  host_close(&h);
}

static void no_sidecar_is_made_beside_a_file_without_tables(void **state) {
  fixture *f = *state;
  char name[160];
  host h = {.sqlite = plain_open(f->path)};
  run(h.sqlite, "CREATE TABLE t(x)");
  expect_status(h.db, dibs_attach(h.sqlite, NULL, NULL, &h.db), DIBS_SCHEMA);
  expect_status(h.db, put_in(&h), DIBS_SCHEMA);
  snprintf(name, sizeof name, "%s-dibs", f->path);
  expect_int(access(name, F_OK), -1);
  host_close(&h);
}

/* ---- Closing and forking ----------------------------------------------------- */

static void a_close_that_is_refused_does_no_harm(void **state) {
  fixture *f = *state;
  sqlite3_stmt *statement = NULL;
  host h = host_open(f, DIBS_CREATE);
  expect_ok(h.db, put_in(&h));
  sqlite3_prepare_v2(h.sqlite, "SELECT 1", -1, &statement, NULL);
  expect_int(sqlite3_close(h.sqlite), SQLITE_BUSY);
  expect_ok(h.db, put_in(&h));
  sqlite3_finalize(statement);
  expect_int(sqlite3_close(h.sqlite), SQLITE_OK);
  expect_int(put_in(&h), DIBS_CLOSED);
  expect_int(dibs_close(h.db), DIBS_OK);
  expect_int(jobs(f), 2);
}

static void handles_on_a_connection_are_one(void **state) {
  fixture *f = *state;
  dibs_db *other = NULL;
  host h = host_open(f, DIBS_CREATE);
  expect_ok(other, dibs_attach(h.sqlite, NULL, NULL, &other));
  expect_true(other == h.db);
  expect_int(dibs_close(other), DIBS_OK);
  expect_ok(h.db, put_in(&h));
  host_close(&h);
}

static void a_forked_child_is_refused(void **state) {
  fixture *f = *state;
  int code = -1;
  host h = host_open(f, DIBS_CREATE);
  pid_t pid = fork();
  if (pid == 0) {
    dibs_db *db = NULL;
    if (put_in(&h) != DIBS_FORKED) _exit(1);
    if (dibs_attach(h.sqlite, NULL, NULL, &db) != DIBS_FORKED) _exit(2);
    if (dibs_close(h.db) != DIBS_FORKED) _exit(3);
    sqlite3 *own = plain_open(f->path);
    if (dibs_attach(own, NULL, NULL, &db) != DIBS_OK) _exit(4);
    if (dibs_enqueue(db, "q", dibs_none(), NULL, NULL) != DIBS_OK) _exit(5);
    if (sqlite3_close(own) != SQLITE_OK || dibs_close(db)) _exit(6);
    _exit(0);
  }
  expect_int(waitpid(pid, &code, 0), pid);
  expect_int(code, 0);
  expect_ok(h.db, put_in(&h));
  expect_int(jobs(f), 2);
  host_close(&h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(a_commit_tells_and_a_rollback_does_not),
      TEST_CLOSED(what_a_savepoint_takes_back_is_not_told),
      TEST_CLOSED(savepoints_in_any_order),
      TEST_CLOSED(a_refused_call_leaves_the_transaction_alone),
      TEST_CLOSED(a_transaction_that_has_not_read_waits_for_the_lock),
      TEST_CLOSED(a_transaction_that_has_read_must_have_been_immediate),
      TEST_CLOSED(a_thread_that_blocks_itself_is_told_so),
      TEST_CLOSED(so_is_one_with_two_connections),
      TEST_CLOSED(who_is_blocked_by_another_is_told_of_attach),
      TEST_CLOSED(within_a_statement_that_writes_elsewhere),
      TEST_CLOSED(a_failure_within_a_statement_leaves_nothing),
      TEST_CLOSED(an_interrupt_leaves_nothing_half_done),
      TEST_CLOSED(a_progress_handler_leaves_nothing_half_done),
      TEST_CLOSED(tables_that_were_rolled_back_are_made_again),
      TEST_CLOSED(no_sidecar_is_made_beside_a_file_without_tables),
      TEST_CLOSED(a_close_that_is_refused_does_no_harm),
      TEST_CLOSED(handles_on_a_connection_are_one),
      TEST_CLOSED(a_forked_child_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
