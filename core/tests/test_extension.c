/* SPDX-License-Identifier: MIT */
/*
** test_extension.c: the SQL functions from within a C host: what they leave of
** the host's connection, other libraries, other writers, closing, forking, and
** failures half-way. What each function means is tested from outside, in
** core/extension/tests.
*/
#include "host.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

/* The first column of the first row; "" without one. Lives until the next. */
static const char *ask(sqlite3 *sqlite, const char *sql) {
  static char answer[4096];
  sqlite3_stmt *statement = NULL;
  const char *text = NULL;
  if (sqlite3_prepare_v2(sqlite, sql, -1, &statement, NULL) != SQLITE_OK) {
    fail_msg("%s: %s", sql, sqlite3_errmsg(sqlite));
  }
  int code = sqlite3_step(statement);
  if (code == SQLITE_ROW) {
    text = (const char *)sqlite3_column_text(statement, 0);
  }
  snprintf(answer, sizeof answer, "%s", text ? text : "");
  while (code == SQLITE_ROW) code = sqlite3_step(statement);
  if (code != SQLITE_DONE) fail_msg("%s: %s", sql, sqlite3_errmsg(sqlite));
  sqlite3_finalize(statement);
  return answer;
}

/* The SQL fails, with that in the text; its code. */
static int refused(sqlite3 *sqlite, const char *sql, const char *part) {
  int code = sqlite3_exec(sqlite, sql, NULL, NULL, NULL);
  if (code == SQLITE_OK) fail_msg("%s succeeded", sql);
  expect_says(sqlite3_errmsg(sqlite), part);
  return sqlite3_extended_errcode(sqlite);
}

static int64_t jobs(fixture *f) {
  return raw_int(f, "SELECT count(*) FROM dibs_job");
}

/* ---- What is the host's ------------------------------------------------------ */

static int statements(sqlite3 *sqlite) {
  int count = 0;
  sqlite3_stmt *at = NULL;
  while ((at = sqlite3_next_stmt(sqlite, at)) != NULL) count++;
  return count;
}

static void registering_is_all_until_the_first_call(void **state) {
  fixture *f = *state;
  char name[160];
  sqlite3 *sqlite = host_bare(f);
  run(sqlite, "CREATE TABLE t(x)");
  expect_says(ask(sqlite, "SELECT dibs_version()"), sqlite3_libversion());
  expect_int(statements(sqlite), 0);
  expect_text(ask(sqlite, "SELECT group_concat(name) FROM pragma_module_list"
                          " WHERE name LIKE 'dibs%'"),
              "dibs_claim");
  expect_text(ask(sqlite, "SELECT group_concat(name) FROM sqlite_schema"), "t");
  refused(sqlite, "SELECT dibs_enqueue('q', '1')", "DIBS_SCHEMA: ");
  snprintf(name, sizeof name, "%s-dibs", f->path);
  expect_int(access(name, F_OK), -1);
  expect_text(ask(sqlite, "SELECT group_concat(name) FROM sqlite_schema"), "t");
  host_close(sqlite);
}

static int hook_commit(void *context) {
  ++*(int *)context;
  return 0;
}

static void hook_rollback(void *context) {
  ++*(int *)context;
}

static void hook_update(void *context, int what, const char *database,
                        const char *table, sqlite3_int64 rowid) {
  (void)what;
  (void)database;
  (void)table;
  (void)rowid;
  ++*(int *)context;
}

static int hook_wal(void *context, sqlite3 *sqlite, const char *name,
                    int pages) {
  (void)sqlite;
  (void)name;
  (void)pages;
  ++*(int *)context;
  return SQLITE_OK;
}

static int hook_authorize(void *context, int what, const char *a, const char *b,
                          const char *c, const char *d) {
  (void)what;
  (void)a;
  (void)b;
  (void)c;
  (void)d;
  ++*(int *)context;
  return SQLITE_OK;
}

static const char settings[] =
    "SELECT (SELECT timeout FROM pragma_busy_timeout) || ' ' ||"
    " (SELECT foreign_keys FROM pragma_foreign_keys) || ' ' ||"
    " (SELECT synchronous FROM pragma_synchronous) || ' ' ||"
    " (SELECT recursive_triggers FROM pragma_recursive_triggers) || ' ' ||"
    " (SELECT journal_mode FROM pragma_journal_mode)";

static void hooks_and_settings_stay(void **state) {
  fixture *f = *state;
  int commits = 0, rollbacks = 0, updates = 0, wals = 0, asked = 0;
  char before[128];
  sqlite3 *sqlite = host_open(f);
  run(sqlite, "PRAGMA foreign_keys=ON; PRAGMA recursive_triggers=ON");
  snprintf(before, sizeof before, "%s", ask(sqlite, settings));
  sqlite3_commit_hook(sqlite, hook_commit, &commits);
  sqlite3_rollback_hook(sqlite, hook_rollback, &rollbacks);
  sqlite3_update_hook(sqlite, hook_update, &updates);
  sqlite3_wal_hook(sqlite, hook_wal, &wals);
  sqlite3_set_authorizer(sqlite, hook_authorize, &asked);
  run(sqlite, "SELECT dibs_enqueue('q', '1'); SELECT * FROM dibs_claim('q');"
              "BEGIN; SELECT dibs_enqueue('q', '2'); ROLLBACK;"
              "BEGIN; SELECT dibs_enqueue('q', '2'); COMMIT");
  expect_true(commits >= 3 && rollbacks >= 1 && updates && wals >= 3 && asked);
  int until_now = asked;
  run(sqlite, "SELECT x FROM t");
  expect_true(asked > until_now);
  expect_true(sqlite3_commit_hook(sqlite, NULL, NULL) == &commits);
  expect_true(sqlite3_rollback_hook(sqlite, NULL, NULL) == &rollbacks);
  expect_true(sqlite3_update_hook(sqlite, NULL, NULL) == &updates);
  expect_true(sqlite3_wal_hook(sqlite, NULL, NULL) == &wals);
  sqlite3_set_authorizer(sqlite, NULL, NULL);
  sqlite3_wal_autocheckpoint(sqlite, 1000);
  expect_text(ask(sqlite, settings), before);
  host_close(sqlite);
}

static void last_insert_rowid_is_as_without_dibs(void **state) {
  fixture *f = *state;
  static const char *const calls[] = {
      "SELECT dibs_enqueue('q', '1')",
      "SELECT dibs_enqueue_many('r', '[1,2,3]')",
      "SELECT * FROM dibs_claim('q')",
      "BEGIN; SELECT dibs_enqueue('q', '1'); COMMIT",
      "SELECT dibs_ack(receipt) FROM dibs_claim('r', '{\"n\":3}')",
  };
  sqlite3 *sqlite = host_open(f);
  run(sqlite, "INSERT INTO t(rowid, x) VALUES (77, 1)");
  for (size_t i = 0; i < COUNT(calls); i++) {
    run(sqlite, calls[i]);
    expect_int(sqlite3_last_insert_rowid(sqlite), 77);
  }
  run(sqlite, "INSERT INTO t(rowid, x) VALUES (78, dibs_enqueue('q', '1'))");
  expect_int(sqlite3_last_insert_rowid(sqlite), 78);
  run(sqlite, "CREATE TRIGGER r AFTER INSERT ON t BEGIN"
              " SELECT dibs_enqueue('q', '1'); END;"
              "INSERT INTO t(rowid, x) VALUES (79, 1)");
  expect_int(sqlite3_last_insert_rowid(sqlite), 79);
  host_close(sqlite);
}

/* ---- Triggers ---------------------------------------------------------------- */

static void a_trigger_enqueues_and_tells_at_the_commit(void **state) {
  fixture *f = *state;
  sqlite3 *sqlite = host_open(f);
  run(sqlite, "CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT"
              " dibs_enqueue('q', json_object('x', new.x)); END");
  uint64_t before = sidecar_counter(f, SIGNALS);
  run(sqlite, "INSERT INTO t VALUES (1), (2)");
  expect_int(sidecar_counter(f, SIGNALS), before + 1);
  expect_int(jobs(f), 2);
  run(sqlite, "BEGIN; INSERT INTO t VALUES (3)");
  expect_int(sidecar_counter(f, SIGNALS), before + 1);
  run(sqlite, "ROLLBACK");
  expect_int(sidecar_counter(f, SIGNALS), before + 1);
  run(sqlite, "BEGIN; SAVEPOINT s; INSERT INTO t VALUES (3); ROLLBACK TO s;"
              "COMMIT");
  expect_int(sidecar_counter(f, SIGNALS), before + 1);
  run(sqlite, "BEGIN; SAVEPOINT s; INSERT INTO t VALUES (3); RELEASE s;"
              "COMMIT");
  expect_int(sidecar_counter(f, SIGNALS), before + 2);
  expect_int(jobs(f), 3);
  host_close(sqlite);
}

/* What is refused by a constraint behind the trigger takes the jobs with it. */
static void a_statement_that_fails_takes_its_jobs_with_it(void **state) {
  fixture *f = *state;
  sqlite3 *sqlite = host_open(f);
  run(sqlite, "CREATE TABLE u(x UNIQUE); INSERT INTO u VALUES (3);"
              "CREATE TRIGGER r BEFORE INSERT ON u BEGIN"
              " SELECT dibs_enqueue('q', '1'); END");
  uint64_t before = sidecar_counter(f, SIGNALS);
  refused(sqlite, "INSERT INTO u VALUES (1), (2), (3)", "UNIQUE");
  expect_int(jobs(f), 0);
  run(sqlite, "BEGIN; INSERT INTO t VALUES (1)");
  refused(sqlite, "INSERT INTO u VALUES (1), (2), (3)", "UNIQUE");
  run(sqlite, "COMMIT");
  expect_int(jobs(f), 0);
  expect_int(sidecar_counter(f, SIGNALS), before);
  run(sqlite, "INSERT OR IGNORE INTO u VALUES (3), (4)");
  expect_int(sidecar_counter(f, SIGNALS), before + 1);
  host_close(sqlite);
}

static void a_trigger_on_our_tables_may_not_call_us(void **state) {
  fixture *f = *state;
  sqlite3 *sqlite = host_open(f);
  run(sqlite, "CREATE TRIGGER r AFTER INSERT ON dibs_job BEGIN"
              " SELECT dibs_enqueue('q', '1'); END");
  refused(sqlite, "SELECT dibs_enqueue('q', '1')", "DIBS_MISUSE: ");
  expect_int(jobs(f), 0);
  run(sqlite, "DROP TRIGGER r; SELECT dibs_enqueue('q', '1')");
  expect_int(jobs(f), 1);
  host_close(sqlite);
}

/* ---- A schema that is not trusted --------------------------------------------- */

/* SQLite 3.40 refuses JSON functions in views then: ours are not read. */
static void a_host_that_does_not_trust_its_schema(void **state) {
  fixture *f = *state;
  static const char *const queues[] = {"q"};
  dibs_db *db = NULL;
  dibs_job_list *list = NULL;
  dibs_stats_list *stats = NULL;
  char receipt[64], ack[96];
  sqlite3 *sqlite = host_bare(f);
  run(sqlite, "PRAGMA trusted_schema=OFF; SELECT dibs_init()");
  run(sqlite, "SELECT dibs_enqueue('q', '1', '{\"key\":\"k\"}'),"
              " dibs_enqueue_many('q', '[2,3]', '{\"keep\":\"1d\"}')");
  snprintf(receipt, sizeof receipt, "%s",
           ask(sqlite, "SELECT receipt FROM dibs_claim('q')"));
  expect_ok(db, dibs_attach(sqlite, NULL, NULL, &db));
  expect_ok(db, dibs_progress(db, receipt, 0.5, "half"));
  expect_ok(db, dibs_get(db, 1, &list));
  expect_int(list->jobs[0].state, DIBS_RUNNING);
  expect_text(list->jobs[0].progress_text, "half");
  dibs_job_list_free(list);
  expect_ok(db, dibs_list(db, NULL, 0, NULL, &list));
  expect_int(list->count, 3);
  dibs_job_list_free(list);
  expect_ok(db, dibs_peek(db, queues, 1, 5, &list));
  expect_int(list->count, 2);
  dibs_job_list_free(list);
  expect_ok(db, dibs_stats(db, NULL, 0, &stats));
  expect_int(stats->queues[0].ready, 2);
  dibs_stats_list_free(stats);
  run(sqlite, "SELECT dibs_explain(2), dibs_stats(), dibs_cancel(2),"
              " dibs_pause('q'), dibs_resume('q'), dibs_clear('q')");
  snprintf(ack, sizeof ack, "SELECT dibs_ack('%s')", receipt);
  run(sqlite, ack);
  expect_int(jobs(f), 1); /* the cancelled one, kept */
  host_close(sqlite);
  expect_int(dibs_close(db), DIBS_OK);
}

/* ---- Limits that are low ------------------------------------------------------- */

/* What sqlite.org/security.html advises whoever runs the SQL of strangers. */
static const struct {
  int which;
  int most;
} advised[] = {{SQLITE_LIMIT_LENGTH, 1000000},
               {SQLITE_LIMIT_SQL_LENGTH, 100000},
               {SQLITE_LIMIT_COLUMN, 100},
               {SQLITE_LIMIT_EXPR_DEPTH, 10},
               {SQLITE_LIMIT_COMPOUND_SELECT, 3},
               {SQLITE_LIMIT_VDBE_OP, 25000},
               {SQLITE_LIMIT_FUNCTION_ARG, 8},
               {SQLITE_LIMIT_ATTACHED, 0},
               {SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50},
               {SQLITE_LIMIT_VARIABLE_NUMBER, 10},
               {SQLITE_LIMIT_TRIGGER_DEPTH, 10}};

static void limits_that_are_low(void **state) {
  fixture *f = *state;
  static const char *const deeds[] = {
      "SELECT dibs_init()",
      "SELECT dibs_enqueue('q', '1', '{\"key\":\"k\",\"unique\":\"u\","
      "\"headers\":{\"a\":\"b\"},\"expires\":99,\"keep\":\"1d\"}')",
      "SELECT dibs_enqueue_many('q', '[2,3,4]')",
      "SELECT dibs_enqueue('q', '5', '{\"stage\":\"5m\"}')",
      "CREATE TEMP TABLE held AS"
      " SELECT * FROM dibs_claim('*', '{\"n\":4}')",
      "SELECT dibs_ack(receipt) FROM held WHERE id = 1",
      "SELECT dibs_retry(receipt) FROM held WHERE id = 2",
      "SELECT dibs_checkpoint(receipt, '3') FROM held WHERE id = 3",
      "SELECT dibs_progress(receipt, 0.5, 'x') FROM held WHERE id = 3",
      "SELECT dibs_fail(receipt) FROM held WHERE id = 3",
      "SELECT dibs_queue_set('q', '{\"limit\":5,\"rate\":\"10/1s\"}')",
      "SELECT dibs_queue_show('q'), dibs_stats(), dibs_explain_queue('q')",
      "SELECT dibs_explain(2), dibs_change(2, '{\"priority\":5}')",
      "SELECT dibs_pause('*'), dibs_resume('*'), dibs_redrive('*')",
      "SELECT dibs_commit(5), dibs_cancel(2), dibs_purge('*'), dibs_prune()",
      "BEGIN; SELECT dibs_clear('*'); ROLLBACK",
      "SELECT dibs_clear('*')",
  };
  sqlite3 *sqlite = host_bare(f);
  for (size_t i = 0; i < COUNT(advised); i++)
    sqlite3_limit(sqlite, advised[i].which, advised[i].most);
  for (size_t i = 0; i < COUNT(deeds); i++) {
    run(sqlite, deeds[i]);
    for (size_t j = 0; j < COUNT(advised); j++)
      expect_int(sqlite3_limit(sqlite, advised[j].which, -1), advised[j].most);
  }
  expect_int(refused(sqlite, "SELECT dibs_enqueue('q', zeroblob(1000000))",
                     "DIBS_TOO_BIG: "),
             SQLITE_ERROR);
  refused(sqlite, "SELECT dibs_ack('1:0000000000000000')", "DIBS_LOST: ");
  for (size_t j = 0; j < COUNT(advised); j++)
    expect_int(sqlite3_limit(sqlite, advised[j].which, -1), advised[j].most);
  host_close(sqlite);
}

/* ---- Failures half-way -------------------------------------------------------- */

/* A clear of many jobs goes in steps, but not so the function. */
static void what_goes_in_steps_is_whole(void **state) {
  fixture *f = *state;
  static const char *const ways[] = {
      "SELECT dibs_clear('q')",
      "BEGIN; SELECT dibs_clear('q')",
      "INSERT INTO t VALUES (dibs_clear('q'))",
      "BEGIN; INSERT INTO t VALUES (dibs_clear('q'))",
      "BEGIN; INSERT INTO t SELECT dibs_clear('q')",
  };
  sqlite3 *sqlite = host_open(f);
  run(sqlite,
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE"
      " i < 1200) SELECT dibs_enqueue_many('q', json_group_array(i)) FROM n;"
      "CREATE TRIGGER r BEFORE DELETE ON dibs_job WHEN old.id = 1100 BEGIN"
      " SELECT raise(ABORT, 'not this one'); END");
  for (size_t i = 0; i < COUNT(ways); i++) {
    refused(sqlite, ways[i], "not this one");
    if (!sqlite3_get_autocommit(sqlite)) run(sqlite, "COMMIT");
    expect_int(jobs(f), 1200);
  }
  run(sqlite, "DROP TRIGGER r; BEGIN");
  expect_text(ask(sqlite, "SELECT dibs_clear('q')"), "1200");
  run(sqlite, "ROLLBACK");
  expect_int(jobs(f), 1200);
  expect_text(ask(sqlite, "SELECT dibs_clear('q')"), "1200");
  expect_int(jobs(f), 0);
  host_close(sqlite);
}

/* ---- Others who write ---------------------------------------------------------- */

/* Another connection, and what it does while the host's statement runs. */
typedef struct rival {
  sqlite3 *sqlite;
  pthread_t thread;
  int waits; /* nonzero: it commits a little later */
} rival;

static void *rival_commit(void *context) {
  rival *r = context;
  usleep(50000);
  run(r->sqlite, "COMMIT");
  return NULL;
}

/* SELECT meanwhile(x): the rival writes; gives x. */
static void meanwhile(sqlite3_context *context, int count,
                      sqlite3_value **values) {
  rival *r = sqlite3_user_data(context);
  (void)count;
  run(r->sqlite, "BEGIN IMMEDIATE; INSERT INTO t VALUES (1)");
  if (r->waits) {
    if (pthread_create(&r->thread, NULL, rival_commit, r)) abort();
  } else {
    run(r->sqlite, "COMMIT");
  }
  sqlite3_result_value(context, values[0]);
}

static void rival_start(fixture *f, sqlite3 *sqlite, rival *r, int waits) {
  r->sqlite = plain_open(f->path);
  r->waits = waits;
  expect_int(sqlite3_create_function(sqlite, "meanwhile", 1, SQLITE_UTF8, r,
                                     meanwhile, NULL, NULL),
             SQLITE_OK);
}

static void rival_end(rival *r) {
  expect_int(sqlite3_close(r->sqlite), SQLITE_OK);
}

static void a_claim_whose_statement_is_overtaken(void **state) {
  fixture *f = *state;
  rival r;
  sqlite3 *sqlite = host_open(f);
  run(sqlite, "SELECT dibs_enqueue_many('q', '[1,2,3]')");
  for (int waits = 0; waits < 2; waits++) {
    rival_start(f, sqlite, &r, waits);
    expect_text(ask(sqlite, "SELECT payload FROM dibs_claim(meanwhile('q'))"),
                waits ? "2" : "1");
    if (waits) pthread_join(r.thread, NULL);
    rival_end(&r);
  }
  expect_int(connections_open(), 1); /* the spare one */
  expect_text(ask(sqlite, "SELECT payload FROM dibs_claim('q')"), "3");
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_leased"), 3);
  host_close(sqlite);
}

/* Each row's function is a transaction, whoever writes in between. */
static void functions_of_a_statement_that_is_overtaken(void **state) {
  fixture *f = *state;
  rival r;
  sqlite3 *sqlite = host_open(f);
  run(sqlite, "CREATE TABLE u(x); INSERT INTO u VALUES (1), (2), (3);"
              "SELECT dibs_enqueue('z', '1')");
  rival_start(f, sqlite, &r, 0);
  uint64_t before = sidecar_counter(f, SIGNALS);
  expect_text(ask(sqlite,
                  "SELECT sum(dibs_enqueue('q', json(meanwhile(x))) > 0)"
                  " FROM u"),
              "3");
  expect_int(jobs(f), 4);
  expect_int(sidecar_counter(f, SIGNALS), before + 3);
  expect_text(ask(sqlite, "SELECT sum(dibs_clear(meanwhile('q'))) FROM u"),
              "3");
  expect_int(jobs(f), 1);
  refused(sqlite, "SELECT dibs_ack(meanwhile('1:0000000000000000')) FROM u",
          "DIBS_LOST: ");
  rival_end(&r);
  host_close(sqlite);
}

/* Where the spare connection could do nothing, or something else. */
static void a_statement_that_is_overtaken_and_cannot_be_helped(void **state) {
  fixture *f = *state;
  rival r;
  sqlite3 *sqlite = host_open(f);
  run(sqlite, "SELECT dibs_enqueue_many('q', '[1,2]')");
  rival_start(f, sqlite, &r, 0);
  run(sqlite, "BEGIN");
  int code = refused(sqlite, "SELECT * FROM dibs_claim(meanwhile('q'))",
                     "DIBS_SNAPSHOT: ");
  expect_int(code, SQLITE_BUSY_SNAPSHOT);
  expect_says(sqlite3_errmsg(sqlite), "BEGIN IMMEDIATE");
  run(sqlite, "ROLLBACK; CREATE TEMP TABLE u(x)");
  refused(sqlite, "INSERT INTO u SELECT id FROM dibs_claim(meanwhile('q'))",
          "DIBS_SNAPSHOT: ");
  expect_text(ask(sqlite, "SELECT count(*) FROM u"), "0");
  rival_end(&r);
  run(sqlite, "PRAGMA journal_mode=DELETE");
  r.sqlite = plain_open(f->path);
  run(r.sqlite, "BEGIN IMMEDIATE");
  sqlite3_busy_timeout(sqlite, 0);
  refused(sqlite, "SELECT dibs_enqueue('q', '1') FROM t", "DIBS_SNAPSHOT: ");
  code = refused(sqlite, "SELECT dibs_enqueue('q', '1')", "DIBS_BUSY: ");
  expect_int(code, SQLITE_BUSY);
  run(r.sqlite, "COMMIT");
  rival_end(&r);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_leased"), 0);
  host_close(sqlite);
}

/* ---- Libraries ------------------------------------------------------------------ */

/* Another SQLite: a copy of the file, which the loader takes for another, and
** which calls its own functions (RTLD_DEEPBIND). */
typedef struct library {
  void *handle;
  int (*open)(const char *, sqlite3 **);
  int (*exec)(sqlite3 *, const char *, int (*)(void *, int, char **, char **),
              void *, char **);
  int (*close)(sqlite3 *);
  int (*add)(void (*)(void));
} library;

static void *symbol(void *handle, const char *name) {
  void *found = dlsym(handle, name);
  if (!found) fail_msg("no %s", name);
  return found;
}

static library library_load(fixture *f, int number) {
  Dl_info info;
  char path[192];
  library l;
  void *own = symbol(RTLD_DEFAULT, "sqlite3_libversion");
  if (!dladdr(own, &info)) fail_msg("where is SQLite?");
  snprintf(path, sizeof path, "%s/sqlite%d.so", f->folder, number);
  file_copy(info.dli_fname, path);
  l.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (!l.handle) fail_msg("%s", dlerror());
  if (dlsym(l.handle, "sqlite3_libversion") == own) fail_msg("the same");
  *(void **)&l.open = symbol(l.handle, "sqlite3_open");
  *(void **)&l.exec = symbol(l.handle, "sqlite3_exec");
  *(void **)&l.close = symbol(l.handle, "sqlite3_close");
  *(void **)&l.add = symbol(l.handle, "sqlite3_auto_extension");
  expect_int(l.add(host_entry(dibs_extension_init)), SQLITE_OK);
  return l;
}

static int row_keep(void *context, int count, char **values, char **names) {
  (void)count;
  (void)names;
  snprintf(context, 64, "%s", values[0] ? values[0] : "");
  return 0;
}

/* Each library gets its own table, in turns; a ninth is refused. */
static void several_libraries_on_different_files(void **state) {
  fixture *f = *state;
  library libraries[8];
  sqlite3 *others[8];
  char path[192], answer[64];
  sqlite3 *sqlite = host_open(f);
  for (int i = 0; i < 8; i++) {
    libraries[i] = library_load(f, i);
    snprintf(path, sizeof path, "%s/other%d.db", f->folder, i);
    expect_int(libraries[i].open(path, &others[i]),
               i < 7 ? SQLITE_OK : SQLITE_ERROR);
  }
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < 7; i++) {
      expect_int(libraries[i].exec(others[i],
                                   "SELECT dibs_init();"
                                   "SELECT dibs_enqueue('q', '1');"
                                   "SELECT dibs_ack(receipt)"
                                   " FROM dibs_claim('q')",
                                   row_keep, answer, NULL),
                 SQLITE_OK);
      expect_text(answer, "1");
    }
    run(sqlite, "SELECT dibs_enqueue('q', '1')");
  }
  expect_int(jobs(f), 2);
  for (int i = 0; i < 8; i++) {
    libraries[i].close(others[i]);
    dlclose(libraries[i].handle);
  }
  host_close(sqlite);
}

/* Where the other library has a file open that has no tables, none are made. */
static void none_are_made(fixture *f, const library *second) {
  char path[192], *message = NULL;
  sqlite3 *other = NULL;
  snprintf(path, sizeof path, "%s/none.db", f->folder);
  sqlite3 *sqlite = plain_open(path);
  run(sqlite, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
  expect_int(second->open(path, &other), SQLITE_OK);
  expect_int(second->exec(other, "SELECT dibs_init()", NULL, NULL, &message),
             SQLITE_ERROR);
  expect_says(message, "DIBS_LIBRARY: this process has ");
  expect_text(ask(sqlite, "SELECT group_concat(name) FROM sqlite_schema"), "t");
  second->close(other);
  expect_int(sqlite3_close(sqlite), SQLITE_OK);
}

/* Which would lose rows when one of them closes it (core.libraries shows how). */
static void two_libraries_on_one_file(void **state) {
  fixture *f = *state;
  char answer[64] = "", *message = NULL;
  sqlite3 *sqlite = host_open(f), *other = NULL;
  run(sqlite, "SELECT dibs_enqueue('q', '1')");
  library second = library_load(f, 0);
  expect_int(second.open(f->path, &other), SQLITE_OK);
  static const char *const calls[] = {
      "SELECT dibs_enqueue('q', '2')",
      "SELECT * FROM dibs_claim('q')",
      "SELECT dibs_init()",
      "SELECT dibs_stats()",
  };
  for (size_t i = 0; i < COUNT(calls); i++) {
    expect_int(second.exec(other, calls[i], NULL, NULL, &message),
               SQLITE_ERROR);
    expect_says(message, "DIBS_LIBRARY: this process has ");
  }
  expect_int(jobs(f), 1);
  none_are_made(f, &second);
  expect_int(second.exec(other,
                         "SELECT dibs_init('{\"two_libraries\":true}');"
                         "SELECT dibs_enqueue('q', '2')",
                         row_keep, answer, NULL),
             SQLITE_OK);
  expect_text(answer, "2");
  run(sqlite,
      "SELECT dibs_enqueue('q', '3')"); /* it knew nothing of a second */
  host_close(sqlite);
  second.close(other);
  dlclose(second.handle);
}

/* ---- Again and again -------------------------------------------------------------- */

/* SELECT again(): register while a statement runs. */
static void again(sqlite3_context *context, int count, sqlite3_value **values) {
  (void)count;
  (void)values;
  sqlite3_result_int(context,
                     dibs_extension_init(sqlite3_context_db_handle(context),
                                         NULL, host_api()));
}

static void registering_twice_is_harmless(void **state) {
  fixture *f = *state;
  sqlite3_stmt *claim = NULL;
  dibs_db *db = NULL;
  sqlite3 *sqlite = host_open(f);
  sqlite3_create_function(sqlite, "again", 0, SQLITE_UTF8, NULL, again, NULL,
                          NULL);
  run(sqlite, "SELECT dibs_enqueue_many('q', '[1,2,3,4,5]')");
  expect_int(dibs_extension_init(sqlite, NULL, host_api()), SQLITE_OK);
  run(sqlite, "SELECT dibs_enqueue('q', '6')");
  expect_text(ask(sqlite, "SELECT again() || (SELECT payload"
                          " FROM dibs_claim('q'))"),
              "01");
  expect_int(sqlite3_prepare_v2(sqlite,
                                "SELECT payload FROM dibs_claim('q',"
                                " '{\"n\":2}')",
                                -1, &claim, NULL),
             SQLITE_OK);
  expect_int(sqlite3_step(claim), SQLITE_ROW);
  expect_int(dibs_extension_init(sqlite, NULL, host_api()), SQLITE_OK);
  expect_int(sqlite3_step(claim), SQLITE_ROW);
  expect_int(sqlite3_column_int(claim, 0), 3);
  expect_int(sqlite3_step(claim), SQLITE_DONE);
  expect_int(dibs_extension_init(sqlite, NULL, host_api()), SQLITE_OK);
  expect_int(sqlite3_step(claim), SQLITE_ROW);
  expect_int(sqlite3_column_int(claim, 0), 4);
  sqlite3_finalize(claim);
  expect_ok(db, dibs_attach(sqlite, NULL, NULL, &db));
  expect_ok(db, dibs_enqueue(db, "q", dibs_none(), NULL, NULL));
  expect_int(dibs_extension_init(sqlite, NULL, host_api()), SQLITE_OK);
  expect_ok(db, dibs_enqueue(db, "q", dibs_none(), NULL, NULL));
  host_close(sqlite);
  expect_int(dibs_enqueue(db, "q", dibs_none(), NULL, NULL), DIBS_CLOSED);
  expect_int(dibs_close(db), DIBS_OK);
}

#ifdef DIBS_EXTENSION

/* The program has the functions, and loads a file that has them, too. Both are
** in use in one transaction. */
static void a_second_copy_in_the_connection(void **state) {
  fixture *f = *state;
  dibs_db *db = NULL;
  char *message = NULL;
  sqlite3 *sqlite = host_open(f);
  run(sqlite, "SELECT dibs_enqueue('q', '1')");
  expect_ok(db, dibs_attach(sqlite, NULL, NULL, &db));
  sqlite3_enable_load_extension(sqlite, 1);
  if (sqlite3_load_extension(sqlite, DIBS_EXTENSION, NULL, &message)) {
    fail_msg("%s", message);
  }
  uint64_t before = sidecar_counter(f, SIGNALS);
  run(sqlite, "BEGIN; SELECT dibs_enqueue('q', '2')");
  expect_ok(db, dibs_enqueue(db, "q", dibs_json("3"), NULL, NULL));
  run(sqlite, "SELECT dibs_enqueue('q', '4'); SAVEPOINT s");
  expect_ok(db, dibs_enqueue(db, "q", dibs_json("5"), NULL, NULL));
  run(sqlite, "SELECT dibs_enqueue('q', '6'); ROLLBACK TO s");
  expect_int(sidecar_counter(f, SIGNALS), before);
  run(sqlite, "COMMIT");
  expect_int(sidecar_counter(f, SIGNALS), before + 2); /* one each */
  expect_text(ask(sqlite, "SELECT group_concat(payload) FROM"
                          " dibs_claim('q', '{\"n\":9}')"),
              "1,2,3,4");
  expect_int(dibs_extension_init(sqlite, NULL, host_api()), SQLITE_OK);
  run(sqlite, "SELECT dibs_enqueue('q', '7')");
  expect_int(jobs(f), 5);
  host_close(sqlite);
  expect_int(dibs_close(db), DIBS_OK);
}

#endif

static void many_connections(void **state) {
  fixture *f = *state;
  enum { MANY = 100 };
  sqlite3 *hosts[MANY];
  host_close(host_open(f));
  for (int i = 0; i < MANY; i++) hosts[i] = host_bare(f);
  for (int i = 0; i < MANY; i++) {
    if (i % 3) run(hosts[i], "SELECT dibs_enqueue('q', '1')");
  }
  for (int i = 0; i < MANY; i++) host_close(hosts[i * 37 % MANY]);
  expect_int(jobs(f), 66);
}

/* ---- Threads ------------------------------------------------------------------------ */

/* A thread that uses a connection, and what it saw. */
typedef struct user {
  pthread_t thread;
  sqlite3 *sqlite;
  int closes;
  int failures;
  char message[128];
} user;

static void user_does(user *u, const char *sql) {
  char *message = NULL;
  if (sqlite3_exec(u->sqlite, sql, NULL, NULL, &message)) {
    u->failures++;
    snprintf(u->message, sizeof u->message, "%s", message);
    sqlite3_free(message);
  }
}

static void *user_main(void *context) {
  user *u = context;
  for (int i = 0; i < 40; i++) {
    user_does(u, "SELECT dibs_enqueue('q', '1')");
    user_does(u, "INSERT INTO t VALUES (dibs_enqueue('q', '2'))");
    user_does(u, "SELECT dibs_ack(receipt) FROM dibs_claim('q')");
  }
  if (u->closes && sqlite3_close(u->sqlite)) u->failures++;
  return NULL;
}

static void user_start(user *u, sqlite3 *sqlite, int closes) {
  *u = (user){.sqlite = sqlite, .closes = closes};
  expect_int(pthread_create(&u->thread, NULL, user_main, u), 0);
}

static void user_end(user *u) {
  pthread_join(u->thread, NULL);
  if (u->failures) fail_msg("%d failed: %s", u->failures, u->message);
}

/* The connection's mutex is taken by SQLite and by us. */
static void threads_share_a_serialized_connection(void **state) {
  fixture *f = *state;
  user users[4];
  sqlite3 *sqlite = host_open(f);
  expect_true(sqlite3_db_mutex(sqlite) != NULL);
  for (size_t i = 0; i < COUNT(users); i++) user_start(&users[i], sqlite, 0);
  for (size_t i = 0; i < COUNT(users); i++) user_end(&users[i]);
  expect_int(raw_int(f, "SELECT count(*) FROM t"), 4 * 40);
  expect_int(jobs(f), 4 * 40);
  host_close(sqlite);
}

/* One without a mutex goes from thread to thread, to its end in another. */
static void threads_hand_on_a_connection_without_a_mutex(void **state) {
  fixture *f = *state;
  user users[3];
  host_close(host_open(f));
  sqlite3 *sqlite =
      plain_open_as(f->path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX);
  expect_true(sqlite3_db_mutex(sqlite) == NULL);
  expect_int(dibs_extension_init(sqlite, NULL, host_api()), SQLITE_OK);
  for (size_t i = 0; i < COUNT(users); i++) {
    user_start(&users[i], sqlite, i + 1 == COUNT(users));
    user_end(&users[i]);
  }
  expect_int(jobs(f), 3 * 40);
}

/* ---- Closing and forking ------------------------------------------------------------ */

static void the_host_closes_as_it_likes(void **state) {
  fixture *f = *state;
  sqlite3_stmt *statement = NULL;
  sqlite3 *sqlite = host_open(f);
  run(sqlite, "SELECT dibs_enqueue_many('q', '[1,2]')");
  sqlite3_prepare_v2(sqlite, "SELECT id FROM dibs_claim('q')", -1, &statement,
                     NULL);
  expect_int(sqlite3_step(statement), SQLITE_ROW);
  expect_int(sqlite3_close(sqlite), SQLITE_BUSY);
  run(sqlite, "SELECT dibs_enqueue('q', '3')");
  expect_int(sqlite3_step(statement), SQLITE_DONE);
  expect_int(sqlite3_step(statement), SQLITE_ROW);
  expect_int(sqlite3_column_int(statement, 0), 2);
  sqlite3_reset(statement);
  expect_int(sqlite3_close_v2(sqlite), SQLITE_OK);
  expect_int(sqlite3_finalize(statement), SQLITE_OK);
  expect_int(connections_open(), 0);
  expect_int(jobs(f), 3);
  /* A transaction that is open at the close. */
  sqlite = host_open(f);
  run(sqlite, "BEGIN; SELECT dibs_enqueue('q', '4')");
  host_close(sqlite);
  expect_int(jobs(f), 3);
}

static void a_forked_child_is_refused(void **state) {
  fixture *f = *state;
  int code = -1;
  sqlite3 *used = host_open(f), *unused = host_bare(f);
  run(used, "SELECT dibs_enqueue('q', '1')");
  pid_t pid = fork();
  if (pid == 0) {
    sqlite3 *const inherited[] = {used, unused};
    for (int i = 0; i < 2; i++) {
      if (!sqlite3_exec(inherited[i], "SELECT dibs_enqueue('q', '2')", NULL,
                        NULL, NULL) ||
          strncmp(sqlite3_errmsg(inherited[i]), "DIBS_FORKED: ", 13) ||
          !sqlite3_exec(inherited[i], "SELECT * FROM dibs_claim('q')", NULL,
                        NULL, NULL) ||
          strncmp(sqlite3_errmsg(inherited[i]), "DIBS_FORKED: ", 13)) {
        _exit(1 + i);
      }
    }
    sqlite3 *own = host_bare(f);
    if (sqlite3_exec(own, "SELECT dibs_enqueue('q', '3')", NULL, NULL, NULL) ||
        sqlite3_close(own)) {
      _exit(3);
    }
    _exit(0);
  }
  expect_int(waitpid(pid, &code, 0), pid);
  expect_int(code, 0);
  run(used, "SELECT dibs_enqueue('q', '4')");
  expect_int(jobs(f), 3);
  host_close(used);
  host_close(unused);
}

int main(void) {
  /* Sanitizers refuse RTLD_DEEPBIND: the other presets run these. */
  (void)several_libraries_on_different_files;
  (void)two_libraries_on_one_file;
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(registering_is_all_until_the_first_call),
      TEST_CLOSED(hooks_and_settings_stay),
      TEST_CLOSED(last_insert_rowid_is_as_without_dibs),
      TEST_CLOSED(a_trigger_enqueues_and_tells_at_the_commit),
      TEST_CLOSED(a_statement_that_fails_takes_its_jobs_with_it),
      TEST_CLOSED(a_trigger_on_our_tables_may_not_call_us),
      TEST_CLOSED(a_host_that_does_not_trust_its_schema),
      TEST_CLOSED(limits_that_are_low),
      TEST_CLOSED(what_goes_in_steps_is_whole),
      TEST_CLOSED(a_claim_whose_statement_is_overtaken),
      TEST_CLOSED(functions_of_a_statement_that_is_overtaken),
      TEST_CLOSED(a_statement_that_is_overtaken_and_cannot_be_helped),
#ifndef DIBS_SANITIZED
      TEST_CLOSED(several_libraries_on_different_files),
      TEST_CLOSED(two_libraries_on_one_file),
#endif
      TEST_CLOSED(registering_twice_is_harmless),
#ifdef DIBS_EXTENSION
      TEST_CLOSED(a_second_copy_in_the_connection),
#endif
      TEST_CLOSED(many_connections),
      TEST_CLOSED(threads_share_a_serialized_connection),
      TEST_CLOSED(threads_hand_on_a_connection_without_a_mutex),
      TEST_CLOSED(the_host_closes_as_it_likes),
      TEST_CLOSED(a_forked_child_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
