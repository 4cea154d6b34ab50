/* SPDX-License-Identifier: MIT */
/*
** test_extension_hostile.c: SQL functions on files and connections that mean no
** good: triggers on our tables that break off in every way, tables that are views,
** authorizers that let parts of statements vanish. A call may be refused, with a
** status; it must not crash, leave a transaction of its own open, or make the
** connection useless. (What is in the tables is core/fuzz's part.)
*/
#include "host.h"

#include <stdlib.h>

/* One of each kind. `held` has the receipts of three running jobs. */
static const char *const deeds[] = {
    "SELECT dibs_enqueue('q', '1', '{\"key\":\"k\",\"unique\":\"u\"}')",
    "SELECT dibs_enqueue_many('q', '[1,2]', '{\"delay\":5,\"expires\":9}')",
    "SELECT * FROM dibs_claim('*', '{\"n\":3}')",
    "SELECT dibs_ack((SELECT receipt FROM held WHERE n = 1), '{}')",
    "SELECT dibs_retry((SELECT receipt FROM held WHERE n = 2))",
    "SELECT dibs_fail((SELECT receipt FROM held WHERE n = 3))",
    "SELECT dibs_checkpoint((SELECT receipt FROM held WHERE n = 1), '9')",
    "SELECT dibs_extend((SELECT receipt FROM held WHERE n = 1), 900)",
    "SELECT dibs_cancel(1)",
    "SELECT dibs_change(1, '{\"priority\":5}')",
    "SELECT dibs_redrive('*')",
    "SELECT dibs_purge('*')",
    "SELECT dibs_clear('*')",
    "SELECT dibs_prune()",
    "SELECT dibs_pause('*'), dibs_resume('*')",
    "SELECT dibs_queue_set('q', '{\"limit\":1}'), dibs_queue_show('q')",
    "SELECT dibs_stats(), dibs_explain_queue('q')",
    "SELECT dibs_explain(1)",
    "SELECT dibs_init()",
};

/* As a statement, in a transaction, and in a statement that writes. */
static const char *const frames[] = {"%s",
                                     "BEGIN; INSERT INTO t VALUES (1); %s",
                                     "INSERT INTO t SELECT 1 FROM (%s)"};

static void template_make(fixture *f, char template[160]) {
  sqlite3 *sqlite = host_open(f);
  run(sqlite,
      "SELECT dibs_enqueue('q', value) FROM json_each('[\"1\",\"2\",\"3\"]');"
      "SELECT dibs_enqueue('r', '1', '{\"key\":\"k\"}'),"
      " dibs_enqueue('r', '2', '{\"key\":\"k\",\"unique\":\"v\"}'),"
      " dibs_enqueue('r', '3', '{\"delay\":99}'),"
      " dibs_enqueue('r', '4', '{\"stage\":99}');"
      "CREATE TABLE held(n, id, receipt);"
      "SELECT dibs_enqueue_many('h', '[1,2,3,4,5]', '{\"keep\":\"1d\"}');"
      "INSERT INTO held SELECT row_number() OVER (), id, receipt"
      " FROM dibs_claim('h', '{\"n\":5,\"lease\":\"1d\"}');"
      "SELECT dibs_fail(receipt) FROM held WHERE n = 4;"
      "SELECT dibs_ack(receipt) FROM held WHERE n = 5;"
      "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=DELETE");
  host_close(sqlite);
  snprintf(template, 160, "%s/template.db", f->folder);
  file_copy(f->path, template);
}

static void file_restore(fixture *f, const char *template) {
  file_remove(f->path);
  file_copy(template, f->path);
}

/* A connection to a copy of it. */
static sqlite3 *file_open(fixture *f, const char *template) {
  file_restore(f, template);
  sqlite3 *sqlite = host_bare(f);
  run(sqlite, "PRAGMA synchronous=OFF");
  return sqlite;
}

/* The text is a status of ours with a sentence. */
static void expect_status_text(const char *sql, const char *text) {
  const char *colon = strstr(text, ": ");
  if (strncmp(text, "DIBS_", 5) != 0 || !colon || !colon[2]) {
    fail_msg("%s: %s", sql, text);
  }
}

/* Do it; whatever it gives, the connection goes on. Nonzero when it failed. */
static int deed_do(sqlite3 *sqlite, const char *frame, const char *deed) {
  char sql[512];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  snprintf(sql, sizeof sql, frame, deed);
#pragma GCC diagnostic pop
  char *message = NULL;
  int code = sqlite3_exec(sqlite, sql, NULL, NULL, &message);
  if (code) expect_status_text(sql, message);
  sqlite3_free(message);
  int transaction = !sqlite3_get_autocommit(sqlite);
  if (transaction && frame != frames[1]) fail_msg("%s: left open", sql);
  if (transaction) run(sqlite, "COMMIT");
  return code;
}

/* ---- Triggers ---------------------------------------------------------------- */

static const char *const tables[] = {
    "dibs_queue",   "dibs_job",     "dibs_ready",  "dibs_scheduled",
    "dibs_blocked", "dibs_staged",  "dibs_leased", "dibs_done",
    "dibs_dead",    "dibs_lane",    "dibs_unique", "dibs_expiry",
    "dibs_error",   "dibs_setting", "dibs_cursor"};
static const char *const events[] = {"INSERT", "UPDATE", "DELETE"};
static const char *const bodies[] = {
    "SELECT raise(ABORT, 'abort')",
    "SELECT raise(FAIL, 'fail')",
    "SELECT raise(ROLLBACK, 'rollback')",
    "SELECT dibs_enqueue('q', '1')",
    "SELECT raise(IGNORE)", /* from here on our tables are not as we think */
    "DELETE FROM dibs_job; DELETE FROM dibs_leased",
};
#define BODIES_HARMLESS 4

/* The connection is useful again once the trigger is gone. */
static void trigger_drop(sqlite3 *sqlite, const char *sql, int harmless) {
  static const char *const again[] = {
      "SELECT dibs_enqueue('last', '1')",
      "SELECT dibs_ack(receipt) FROM dibs_claim('last')"};
  run(sqlite, "DROP TRIGGER bad");
  for (size_t i = 0; i < COUNT(again); i++) {
    if (deed_do(sqlite, "%s", again[i]) && harmless) {
      fail_msg("%s: %s: %s", sql, again[i], sqlite3_errmsg(sqlite));
    }
  }
}

static void triggers_that_break_off(void **state) {
  fixture *f = *state;
  char template[160], sql[256];
  int failed = 0, done = 0;
  template_make(f, template);
  for (size_t i = 0; i < COUNT(tables) * COUNT(events) * COUNT(bodies); i++) {
    if (i % (slowness() > 1 ? 7 : 2)) continue;
    size_t body = i / COUNT(tables) / COUNT(events);
    snprintf(sql, sizeof sql,
             "CREATE TRIGGER bad BEFORE %s ON %s BEGIN %s; END",
             events[i / COUNT(tables) % COUNT(events)],
             tables[i % COUNT(tables)], bodies[body]);
    sqlite3 *sqlite = file_open(f, template);
    run(sqlite, sql);
    for (size_t deed = 0; deed < COUNT(deeds); deed++) {
      int code = deed_do(sqlite, frames[deed % COUNT(frames)], deeds[deed]);
      failed += code != 0;
      done += code == 0;
    }
    trigger_drop(sqlite, sql, body < BODIES_HARMLESS);
    host_close(sqlite);
    if (body < BODIES_HARMLESS && !file_is_sound(f->path)) fail_msg("%s", sql);
  }
  print_message("%d refused, %d done\n", failed, done);
  expect_true(failed > 100 / slowness() && done > 500 / slowness());
  file_restore(f, template);
}

/* ---- Tables that are something else ---------------------------------------------- */

static void tables_that_are_views(void **state) {
  fixture *f = *state;
  char template[160], sql[512];
  int failed = 0;
  template_make(f, template);
  for (size_t i = 0; i < COUNT(tables); i++) {
    sqlite3 *sqlite = file_open(f, template);
    snprintf(sql, sizeof sql,
             "PRAGMA legacy_alter_table=ON; ALTER TABLE %s RENAME TO moved;"
             "CREATE VIEW %s AS SELECT * FROM moved",
             tables[i], tables[i]);
    run(sqlite, sql);
    for (size_t deed = 0; deed < COUNT(deeds); deed++)
      failed += deed_do(sqlite, frames[deed % COUNT(frames)], deeds[deed]) != 0;
    host_close(sqlite);
  }
  expect_true(failed > (int)COUNT(tables));
  file_restore(f, template);
}

/* ---- Authorizers ------------------------------------------------------------------ */

static int asked, ignored_from;

/* Have what is asked for vanish, once or from then on. But not whole SELECTs:
** SQLite itself (3.40) crashes when one is a subquery. */
static int ignore_in_time(void *context, int what, const char *a, const char *b,
                          const char *c, const char *d) {
  (void)a;
  (void)b;
  (void)c;
  (void)d;
  asked++;
  if (what == SQLITE_TRANSACTION || what == SQLITE_SAVEPOINT ||
      what == SQLITE_SELECT)
    return SQLITE_OK;
  int now = context ? asked >= ignored_from : asked == ignored_from;
  return ignored_from && now ? SQLITE_IGNORE : SQLITE_OK;
}

/* Nonzero when less was asked for. */
static int deed_ignored(fixture *f, const char *template, const char *frame,
                        const char *deed, int from) {
  sqlite3 *sqlite = file_open(f, template);
  asked = 0;
  ignored_from = from;
  sqlite3_set_authorizer(sqlite, ignore_in_time, from % 2 ? f : NULL);
  deed_do(sqlite, frame, deed);
  int over = asked < from;
  sqlite3_set_authorizer(sqlite, NULL, NULL);
  deed_do(sqlite, "%s", deed);
  run(sqlite, "PRAGMA quick_check");
  host_close(sqlite);
  return over;
}

/* What vanishes is the host's own wish, and what becomes of the jobs, too. */
static void authorizers_that_ignore(void **state) {
  fixture *f = *state;
  char template[160];
  int times = 0, step = 19 * slowness();
  template_make(f, template);
  for (size_t i = 0; i < COUNT(deeds) * COUNT(frames); i++) {
    int from = 1;
    while (!deed_ignored(f, template, frames[i % COUNT(frames)],
                         deeds[i / COUNT(frames)], from)) {
      from += from < 16 ? 1 : step;
      times++;
    }
  }
  print_message("%d times\n", times);
  expect_true(times > 600 / slowness());
  file_restore(f, template);
}

/* All but the host's own, which is the first. */
static int ignore_selects(void *context, int what, const char *a, const char *b,
                          const char *c, const char *d) {
  int *count = context;
  (void)a;
  (void)b;
  (void)c;
  (void)d;
  if (what != SQLITE_SELECT) return SQLITE_OK;
  return ++*count > 1 ? SQLITE_IGNORE : SQLITE_OK;
}

/* Statements of ours could not be left behind for the host's close then. */
static void an_authorizer_that_ignores_all(void **state) {
  fixture *f = *state;
  int count = 0;
  sqlite3 *sqlite = host_open(f);
  host_close(sqlite);
  sqlite = host_bare(f);
  sqlite3_set_authorizer(sqlite, ignore_selects, &count);
  char *message = NULL;
  expect_int(
      sqlite3_exec(sqlite, "SELECT dibs_cancel(1)", NULL, NULL, &message),
      SQLITE_ERROR);
  expect_says(message, "DIBS_MISUSE: ");
  expect_says(message, "authorizer");
  sqlite3_free(message);
  host_close(sqlite);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(triggers_that_break_off),
      TEST_CLOSED(tables_that_are_views),
      TEST_CLOSED(authorizers_that_ignore),
      TEST_CLOSED(an_authorizer_that_ignores_all),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
