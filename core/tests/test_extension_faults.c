/* SPDX-License-Identifier: MIT */
/*
** test_extension_faults.c: SQL functions that fail half-way: an authorizer that
** denies the n-th thing that is asked for, an interrupt or a kill -9 before the
** n-th statement, nested ones included; in autocommit, in a transaction, and
** within statements that write. Whatever happened, the deed is done whole or not
** at all. (With a sanitizer, which is slow, some are skipped.)
*/
#include "host.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What the host does. */
static const char *const deeds[] = {
    "SELECT dibs_enqueue('new', '1', '{\"key\":\"k\",\"unique\":\"u\"}')",
    "SELECT dibs_enqueue('new', '1', '{\"delay\":5,\"expires\":9}')",
    "SELECT dibs_enqueue_many('new', '[1,2,3]')",
    "SELECT dibs_enqueue_many('q', '[1,2,3]', '{\"priority\":2}')",
    "SELECT id FROM dibs_claim('q', '{\"n\":3}') LIMIT 1",
    "SELECT id FROM dibs_claim(NULL, '{\"queues\":[\"q\",\"r\"],\"n\":3}')"
    " LIMIT 1",
    "SELECT dibs_ack((SELECT receipt FROM held WHERE n = 1))",
    "SELECT dibs_retry((SELECT receipt FROM held WHERE n = 1),"
    " '{\"delay\":\"5m\"}')",
    "SELECT dibs_fail((SELECT receipt FROM held WHERE n = 1), 'no')",
    "SELECT dibs_cancel((SELECT id FROM held WHERE n = 2))",
    "SELECT dibs_requeue((SELECT id FROM held WHERE n = 3))",
    "SELECT dibs_redrive('*')",
    "SELECT dibs_clear('*')",
    "SELECT dibs_checkpoint((SELECT receipt FROM held WHERE n = 1), '9')",
    "SELECT dibs_progress((SELECT receipt FROM held WHERE n = 1), 0.5, 'half')",
    "SELECT dibs_commit((SELECT id FROM dibs_staged))",
    "SELECT dibs_change((SELECT min(id) FROM dibs_job),"
    " '{\"priority\":5,\"delay\":9}')",
    "SELECT dibs_purge('*')",
    "SELECT dibs_pause('*')",
    "SELECT dibs_queue_set('q', '{\"limit\":1,\"rate\":\"5/1s\"}')",
};

/* In what: as a statement, in a transaction, and in statements that write one
** row, or several. */
static const char *const frames[] = {
    "%s",
    "BEGIN; INSERT INTO t VALUES (1); %s; COMMIT",
    "INSERT INTO t VALUES ((%s))",
    "BEGIN; INSERT INTO t VALUES ((%s)); COMMIT",
    "INSERT INTO t SELECT * FROM (%s)",
    "BEGIN; INSERT INTO t SELECT * FROM (%s); COMMIT",
};

/* The file that each deed is done on: waiting, held and dead jobs. */
static void template_make(fixture *f, const char *template,
                          const char *journal) {
  char pragma[64];
  sqlite3 *sqlite = host_open(f);
  run(sqlite,
      "SELECT dibs_enqueue('q', value) FROM json_each('[\"1\",\"2\",\"3\"]');"
      "SELECT dibs_enqueue('r', '1', '{\"key\":\"k\"}'),"
      " dibs_enqueue('r', '2', '{\"key\":\"k\",\"unique\":\"v\"}'),"
      " dibs_enqueue('r', '3', '{\"delay\":99}'),"
      " dibs_enqueue('r', '4', '{\"stage\":99}');"
      "CREATE TABLE held(n, id, receipt);"
      "SELECT dibs_enqueue_many('h', '[1,2,3]');"
      "INSERT INTO held SELECT row_number() OVER (), id, receipt"
      " FROM dibs_claim('h', '{\"n\":3,\"lease\":\"1d\"}');"
      "SELECT dibs_fail(receipt) FROM held WHERE n = 3");
  snprintf(pragma, sizeof pragma, "PRAGMA journal_mode=%s", journal);
  run(sqlite, pragma);
  host_close(sqlite);
  file_copy(f->path, template);
}

enum fault { DENIED, INTERRUPTED, KILLED };

static int faults_left; /* until one; 0: none */

/* Deny what is asked for by a nested statement. */
static int deny_in_time(void *context, int what, const char *a, const char *b,
                        const char *c, const char *d) {
  (void)context;
  (void)what;
  (void)a;
  (void)b;
  (void)c;
  (void)d;
  return faults_left && --faults_left == 0 ? SQLITE_DENY : SQLITE_OK;
}

static int interrupt_in_time(unsigned what, void *context, void *statement,
                             void *text) {
  (void)what;
  (void)statement;
  (void)text;
  if (faults_left && --faults_left == 0) sqlite3_interrupt(context);
  return 0;
}

static int kill_in_time(unsigned what, void *context, void *statement,
                        void *text) {
  (void)what;
  (void)context;
  (void)statement;
  (void)text;
  if (faults_left && --faults_left == 0) kill(getpid(), SIGKILL);
  return 0;
}

/* How the file looks before a deed and after it. */
typedef struct looks {
  char template[160];
  char *before;
  char *after;
} looks;

static void fault_prepare(sqlite3 *sqlite, enum fault fault) {
  switch (fault) {
  case DENIED: sqlite3_set_authorizer(sqlite, deny_in_time, NULL); return;
  case INTERRUPTED:
    sqlite3_trace_v2(sqlite, SQLITE_TRACE_STMT, interrupt_in_time, sqlite);
    return;
  case KILLED:
    sqlite3_trace_v2(sqlite, SQLITE_TRACE_STMT, kill_in_time, NULL);
    return;
  }
}

/* Do it with the n-th fault, 0 for none. Nonzero when there were fewer. */
static int deed_do(fixture *f, const char *sql, int n, enum fault fault) {
  dibs_db *db = NULL;
  dibs_open_options options = fixture_options(f);
  options.create = DIBS_CREATE_NONE;
  sqlite3 *sqlite = host_bare(f);
  expect_ok(db, dibs_attach(sqlite, NULL, &options, &db));
  fault_prepare(sqlite, fault);
  faults_left = n;
  int code = sqlite3_exec(sqlite, sql, NULL, NULL, NULL);
  int over = !n || faults_left;
  faults_left = 0;
  if (over && code) fail_msg("%s: %s", sql, sqlite3_errmsg(sqlite));
  if (!sqlite3_get_autocommit(sqlite)) run(sqlite, "COMMIT");
  host_close(sqlite);
  dibs_close(db);
  return over;
}

/* The same in a child, which is killed. */
static int deed_do_and_die(fixture *f, const char *sql, int n) {
  int status = -1;
  pid_t pid = fork();
  if (pid == 0) {
    deed_do(f, sql, n, KILLED);
    _exit(0);
  }
  expect_int(waitpid(pid, &status, 0), pid);
  if (WIFSIGNALED(status)) expect_int(WTERMSIG(status), SIGKILL);
  if (WIFEXITED(status)) expect_int(WEXITSTATUS(status), 0);
  return WIFEXITED(status);
}

static void file_restore(fixture *f, const looks *l) {
  file_remove(f->path);
  file_copy(l->template, f->path);
}

/* With a fault, it has happened whole or not at all. How many faults there
** were. */
static int deed_with_every_fault(fixture *f, const looks *l, const char *sql,
                                 enum fault fault) {
  int faults = 0;
  int stride = fault == DENIED ? 3 * slowness() : slowness();
  for (int n = 1;; n += n < 8 ? 1 : stride) {
    file_restore(f, l);
    int over = fault == KILLED ? deed_do_and_die(f, sql, n)
                               : deed_do(f, sql, n, fault);
    if (over) return faults;
    char *now = database_dump(f->path);
    if (!file_is_sound(f->path) ||
        (strcmp(now, l->before) != 0 && strcmp(now, l->after) != 0)) {
      print_error("%s, fault %d: before, now, after:\n%s\n", sql, n, l->before);
      print_error("%s\n", now);
      fail_msg("%s", l->after);
    }
    free(now);
    faults++;
  }
}

static void every_deed_with_every_fault(fixture *f, enum fault fault,
                                        const char *journal) {
  looks l;
  char sql[512];
  int faults = 0;
  snprintf(l.template, sizeof l.template, "%s/template.db", f->folder);
  template_make(f, l.template, journal);
  f->now = (int64_t)time(NULL) * 1000 + SECOND;
  l.before = database_dump(f->path);
  for (size_t i = 0; i < COUNT(deeds); i++) {
    file_restore(f, &l);
    deed_do(f, deeds[i], 0, INTERRUPTED);
    l.after = database_dump(f->path);
    if (strcmp(l.before, l.after) == 0) fail_msg("%s: nothing", deeds[i]);
    for (size_t j = 0; j < COUNT(frames); j++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
      snprintf(sql, sizeof sql, frames[j], deeds[i]);
#pragma GCC diagnostic pop
      faults += deed_with_every_fault(f, &l, sql, fault);
    }
    free(l.after);
  }
  free(l.before);
  print_message("%d faults\n", faults);
  expect_true(faults > 500 / slowness());
}

static void an_authorizer_that_denies_leaves_nothing_half_done(void **state) {
  every_deed_with_every_fault(*state, DENIED, "WAL");
}

/* From the very first call of a connection on, which makes what it needs. */
static void an_authorizer_that_denies_the_first_call(void **state) {
  fixture *f = *state;
  int over = 0;
  host_close(host_open(f));
  for (int n = 1; !over; n++) {
    sqlite3 *sqlite = host_bare(f);
    sqlite3_set_authorizer(sqlite, deny_in_time, NULL);
    faults_left = n;
    int code =
        sqlite3_exec(sqlite, "SELECT dibs_enqueue('q', '1')", NULL, NULL, NULL);
    over = faults_left != 0;
    faults_left = 0;
    expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), !code);
    if (code && n > 2) expect_says(sqlite3_errmsg(sqlite), "DIBS_MISUSE: ");
    if (code) run(sqlite, "SELECT dibs_enqueue('q', '1')");
    run(sqlite, "SELECT dibs_clear('q')");
    host_close(sqlite);
  }
}

static void an_interrupt_leaves_nothing_half_done(void **state) {
  every_deed_with_every_fault(*state, INTERRUPTED, "WAL");
}

static void a_kill_leaves_nothing_half_done(void **state) {
  every_deed_with_every_fault(*state, KILLED, "WAL");
}

static void nor_does_it_with_a_rollback_journal(void **state) {
  every_deed_with_every_fault(*state, KILLED, "DELETE");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(an_authorizer_that_denies_leaves_nothing_half_done),
      TEST_CLOSED(an_authorizer_that_denies_the_first_call),
      TEST_CLOSED(an_interrupt_leaves_nothing_half_done),
      TEST_CLOSED(a_kill_leaves_nothing_half_done),
      TEST_CLOSED(nor_does_it_with_a_rollback_journal),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
