/* SPDX-License-Identifier: MIT */
/*
** test_checkpoint.c: on SQLite libraries with the WAL-reset bug, checkpoints of
** ours run only while nobody can write.
**
** A VFS in front of the "unix" one sees the locks, and when a checkpoint begins
** and ends. Which version a library is can be made up, so every case runs on
** whatever library is there.
*/
#include "harness.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SQLITE_CORE /* the struct of the API table alone, not its macros */
#include <sqlite3ext.h>

#define LOCK_WRITER     0 /* sqlite.org/walformat.html#locks */
#define LOCK_CHECKPOINT 1
#define AFFECTED        3040001
#define REPAIRED        3051003

/* ---- The locks under watch ------------------------------------------------- */

static struct {
  sqlite3_file *exclusive;     /* a database file that is locked as a whole */
  int writers;                 /* connections that hold the lock for writing */
  int moving;                  /* a checkpoint writes to the file */
  int checkpoints;             /* that wrote to it */
  int unguarded;               /* of which beside a possible writer */
  int full;                    /* nothing more can be written to a WAL */
  void (*on_open)(void);       /* a database file is opened */
  void (*on_checkpoint)(void); /* the lock for checkpoints was taken */
  void (*on_fetch)(void);      /* a changed WAL was noticed */
} seen_locks;

static const sqlite3_io_methods *real_methods, *real_wal_methods;
static sqlite3_vfs *real_vfs;

/* Call once what was asked for, and nothing while it runs. */
static void call_once(void (**callback)(void)) {
  void (*function)(void) = *callback;
  *callback = NULL;
  if (function) function();
}

static int watch_lock(sqlite3_file *file, int level) {
  int code = real_methods->xLock(file, level);
  if (!code && level == SQLITE_LOCK_EXCLUSIVE) seen_locks.exclusive = file;
  return code;
}

static int watch_unlock(sqlite3_file *file, int level) {
  if (seen_locks.exclusive == file) seen_locks.exclusive = NULL;
  return real_methods->xUnlock(file, level);
}

static int watch_close(sqlite3_file *file) {
  if (seen_locks.exclusive == file) seen_locks.exclusive = NULL;
  return real_methods->xClose(file);
}

static int watch_shm_lock(sqlite3_file *file, int at, int count, int flags) {
  int code = real_methods->xShmLock(file, at, count, flags);
  if (code || !(flags & SQLITE_SHM_EXCLUSIVE)) return code;
  if (at == LOCK_WRITER) seen_locks.writers += flags & SQLITE_SHM_LOCK ? 1 : -1;
  if (at == LOCK_CHECKPOINT && flags & SQLITE_SHM_LOCK)
    call_once(&seen_locks.on_checkpoint);
  return code;
}

static int watch_write(sqlite3_file *file, const void *data, int size,
                       sqlite3_int64 at) {
  if (seen_locks.moving && !seen_locks.writers && !seen_locks.exclusive)
    seen_locks.unguarded++;
  return real_methods->xWrite(file, data, size, at);
}

static int watch_control(sqlite3_file *file, int what, void *argument) {
  if (what == SQLITE_FCNTL_CKPT_START) {
    seen_locks.moving = 1;
    seen_locks.checkpoints++;
  }
  if (what == SQLITE_FCNTL_CKPT_DONE) seen_locks.moving = 0;
  return real_methods->xFileControl(file, what, argument);
}

static int watch_unfetch(sqlite3_file *file, sqlite3_int64 at, void *page) {
  if (!page) call_once(&seen_locks.on_fetch);
  return real_methods->xUnfetch(file, at, page);
}

static int watch_write_wal(sqlite3_file *file, const void *data, int size,
                           sqlite3_int64 at) {
  if (seen_locks.full) return SQLITE_FULL;
  return real_wal_methods->xWrite(file, data, size, at);
}

static void watch_wal(sqlite3_file *file) {
  static sqlite3_io_methods methods;
  real_wal_methods = file->pMethods;
  methods = *real_wal_methods;
  methods.xWrite = watch_write_wal;
  file->pMethods = &methods;
}

/* The file is the real one, but for some of its methods. */
static int watch_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file,
                      int flags, int *flags_out) {
  static sqlite3_io_methods methods;
  (void)vfs;
  if (flags & SQLITE_OPEN_MAIN_DB) call_once(&seen_locks.on_open);
  int code = real_vfs->xOpen(real_vfs, name, file, flags, flags_out);
  if (!code && flags & SQLITE_OPEN_WAL) watch_wal(file);
  if (code || !(flags & SQLITE_OPEN_MAIN_DB)) return code;
  real_methods = file->pMethods;
  methods = *real_methods;
  methods.xClose = watch_close;
  methods.xLock = watch_lock;
  methods.xUnlock = watch_unlock;
  methods.xShmLock = watch_shm_lock;
  methods.xWrite = watch_write;
  methods.xFileControl = watch_control;
  methods.xUnfetch = watch_unfetch;
  file->pMethods = &methods;
  return code;
}

/* Under the name of the real one, which the harness asks for. */
static void watch_install(void) {
  static sqlite3_vfs watch;
  sqlite3_initialize();
  real_vfs = sqlite3_vfs_find("unix");
  watch = *real_vfs;
  watch.pNext = NULL;
  watch.xOpen = watch_open;
  sqlite3_vfs_register(&watch, 1);
}

static void watch_reset(void) {
  memset(&seen_locks, 0, sizeof seen_locks);
}

/* ---- A library of any version ---------------------------------------------- */

static const sqlite3_api_routines *real_table;
static sqlite3_api_routines made_table;
static int made_version;

static int table_entry(sqlite3 *db, char **message,
                       const sqlite3_api_routines *api) {
  (void)db;
  (void)message;
  real_table = api;
  return SQLITE_OK;
}

static int made_number(void) {
  return made_version;
}

static const char *made_text(void) {
  static char text[24];
  snprintf(text, sizeof text, "%d.%d.%d", made_version / 1000000,
           made_version / 1000 % 1000, made_version % 1000);
  return text;
}

static void table_make(void) {
  union {
    int (*typed)(sqlite3 *, char **, const sqlite3_api_routines *);
    void (*plain)(void);
  } entry = {table_entry};
  sqlite3 *db = NULL;
  sqlite3_auto_extension(entry.plain);
  sqlite3_open(":memory:", &db);
  sqlite3_close(db);
  sqlite3_cancel_auto_extension(entry.plain);
  made_table = *real_table;
  made_table.libversion_number = made_number;
  made_table.libversion = made_text;
}

/* Open the fixture's file with a library that says it is of that version. */
static dibs_db *open_with(fixture *f, int version) {
  dibs_open_options options = fixture_options(f);
  dibs_db *db = NULL;
  made_version = version;
  expect_ok(NULL, dibs_provider_get(&made_table, &options.provider, NULL));
  expect_ok(db, dibs_open(f->path, &options, &db));
  return db;
}

/* ---- Many pages -------------------------------------------------------------- */

/* Enqueue until about so many pages have been written to the WAL. */
static void write_pages(dibs_db *db, int pages) {
  static const char bytes[32 * 4096];
  for (int i = 0; i < pages; i += 32)
    expect_ok(
        db, dibs_enqueue(db, "q", dibs_bytes(bytes, sizeof bytes), NULL, NULL));
}

static int64_t wal_bytes(const fixture *f) {
  struct stat status;
  char name[160];
  snprintf(name, sizeof name, "%s-wal", f->path);
  return stat(name, &status) ? -1 : (int64_t)status.st_size;
}

/* The plain connection that tries to write in the middle of things. */
static sqlite3 *intruder;
static int intrusions, intruded;

static void intrude(void) {
  intrusions++;
  int code =
      sqlite3_exec(intruder, "INSERT INTO others VALUES (randomblob(100))",
                   NULL, NULL, NULL);
  if (!code) intruded++;
}

static void intruder_open(const fixture *f) {
  intrusions = intruded = 0;
  intruder = plain_open(f->path);
  if (!intruder) fail_msg("no intruder");
  sqlite3_busy_timeout(intruder, 0);
  sqlite3_wal_autocheckpoint(intruder, 0);
  expect_int(sqlite3_exec(intruder, "CREATE TABLE IF NOT EXISTS others(x)",
                          NULL, NULL, NULL),
             SQLITE_OK);
}

static void intruder_close(void) {
  expect_int(sqlite3_close(intruder), SQLITE_OK);
  intruder = NULL;
}

/* ---- The locks ----------------------------------------------------------------- */

static void checkpoints_hold_the_write_lock(void **state) {
  fixture *f = *state;
  f->db = open_with(f, AFFECTED);
  watch_reset();
  write_pages(f->db, 4000);
  expect_true(seen_locks.checkpoints >= 3);
  expect_int(seen_locks.unguarded, 0);
  expect_int(seen_locks.writers, 0);
  expect_true(wal_bytes(f) < 1500 * 4096);
}

static void a_repaired_library_checkpoints_by_itself(void **state) {
  fixture *f = *state;
  f->db = open_with(f, REPAIRED);
  watch_reset();
  write_pages(f->db, 4000);
  expect_true(seen_locks.checkpoints >= 3);
  expect_true(seen_locks.unguarded > 0);
}

static void the_last_close_has_the_file_to_itself(void **state) {
  fixture *f = *state;
  f->db = open_with(f, AFFECTED);
  write_pages(f->db, 200);
  watch_reset();
  close_checked(f);
  expect_int(seen_locks.checkpoints, 1);
  expect_int(seen_locks.unguarded, 0);
  expect_int(wal_bytes(f), -1);
}

static void nobody_writes_while_a_checkpoint_runs(void **state) {
  fixture *f = *state;
  f->db = open_with(f, AFFECTED);
  intruder_open(f);
  seen_locks.on_checkpoint = intrude;
  write_pages(f->db, 1100);
  expect_int(intrusions, 1);
  expect_int(intruded, 0);
  intrude();
  expect_int(intruded, 1);
  intruder_close();
}

/* What the test before would see of SQLite's own. */
/* One behind an operation that found the disk full, whatever the library is. */
static void so_it_is_where_the_disk_is_full(void **state) {
  static const int versions[] = {AFFECTED, REPAIRED};
  fixture *f = *state;
  for (size_t i = 0; i < COUNT(versions); i++) {
    f->db = open_with(f, versions[i]);
    intruder_open(f);
    write_pages(f->db, 64);
    watch_reset();
    seen_locks.on_checkpoint = intrude;
    seen_locks.full = 1;
    expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), NULL, NULL),
                  DIBS_FULL);
    seen_locks.full = 0;
    expect_int(seen_locks.checkpoints, 1);
    expect_int(seen_locks.unguarded, 0);
    expect_int(seen_locks.writers, 0);
    expect_int(intrusions, 1);
    expect_int(intruded, 0);
    expect_ok(f->db, dibs_enqueue(f->db, "q", dibs_none(), NULL, NULL));
    intruder_close();
    close_checked(f);
  }
}

static void somebody_may_write_while_an_automatic_one_runs(void **state) {
  fixture *f = *state;
  f->db = open_with(f, REPAIRED);
  intruder_open(f);
  seen_locks.on_checkpoint = intrude;
  write_pages(f->db, 1100);
  expect_int(intrusions, 1);
  expect_int(intruded, 1);
  intruder_close();
}

/* ---- Hindrances ---------------------------------------------------------------- */

static void open_lock(void) {
  expect_int(sqlite3_exec(intruder, "BEGIN IMMEDIATE", NULL, NULL, NULL),
             SQLITE_OK);
  intrusions++;
}

/* Between the commit and the checkpoint another takes the lock and keeps it. */
static void a_writer_only_puts_it_off(void **state) {
  fixture *f = *state;
  f->db = open_with(f, AFFECTED);
  intruder_open(f);
  watch_reset();
  seen_locks.on_open = open_lock;
  for (int i = 0; i < 100 && !intrusions; i++) write_pages(f->db, 32);
  expect_int(intrusions, 1);
  expect_int(seen_locks.checkpoints, 0);
  expect_text(dibs_error(f->db), "");
  expect_int(sqlite3_exec(intruder, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
  write_pages(f->db, 1100);
  expect_int(seen_locks.checkpoints, 1);
  expect_int(seen_locks.unguarded, 0);
  intruder_close();
}

/* The WAL grows while somebody reads an old state, and each thousand pages see one
** attempt; when the reader is gone all is moved and the WAL begins anew. */
static void a_reader_keeps_nobody_waiting(void **state) {
  fixture *f = *state;
  f->db = open_with(f, AFFECTED);
  intruder_open(f);
  write_pages(f->db, 100);
  expect_int(sqlite3_exec(intruder, "BEGIN; SELECT count(*) FROM others", NULL,
                          NULL, NULL),
             SQLITE_OK);
  watch_reset();
  write_pages(f->db, 3500);
  expect_true(seen_locks.checkpoints <= 4);
  expect_int(seen_locks.unguarded, 0);
  int64_t grown = wal_bytes(f);
  expect_true(grown > 3500 * 4096);
  expect_int(sqlite3_exec(intruder, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
  write_pages(f->db, 4500);
  expect_true(wal_bytes(f) < grown + 1500 * 4096);
  intruder_close();
}

/* Several processes that write without pause, each with eyes for its own locks. */
static void so_it_is_with_several_processes(void **state) {
  fixture *f = *state;
  pid_t children[3];
  f->db = open_with(f, AFFECTED);
  close_checked(f);
  for (size_t i = 0; i < COUNT(children); i++) {
    children[i] = fork();
    if (children[i]) continue;
    dibs_db *db = open_with(f, AFFECTED);
    watch_reset();
    write_pages(db, 4000);
    dibs_close(db);
    _exit(seen_locks.checkpoints > 0 && !seen_locks.unguarded ? 0 : 1);
  }
  for (size_t i = 0; i < COUNT(children); i++) {
    int status = -1;
    expect_int(waitpid(children[i], &status, 0), children[i]);
    expect_int(status, 0);
  }
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 3 * 4000 / 32);
}

/* ---- The bug ------------------------------------------------------------------- */

static void raw_exec(sqlite3 *db, const char *sql) {
  char *message = NULL;
  if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
    fail_msg("%s: %s", sql, message);
}

static const char *const insert_many =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
    " WHERE i < 400) INSERT INTO others SELECT randomblob(1000) FROM n";

/* What a query of one number says; -1 when the file cannot be read. */
static int64_t ask(const char *path, const char *sql) {
  sqlite3 *db = plain_open(path);
  sqlite3_stmt *statement = NULL;
  int64_t number = -1;
  sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
  if (statement && sqlite3_step(statement) == SQLITE_ROW)
    number = sqlite3_column_int64(statement, 0);
  sqlite3_finalize(statement);
  sqlite3_close(db);
  return number;
}

/* As its finders describe it: all has been moved; a second checkpoint has just
** read the WAL's header when a writer begins the WAL anew; then the WAL grows,
** and is moved from where the second checkpoint took it to be. Nonzero when
** that has damaged the file. */
static int is_damaged_by(fixture *f, void (*second)(fixture *f, sqlite3 *db)) {
  sqlite3 *other = plain_open(f->path);
  int64_t rows, wrong;
  intruder_open(f);
  raw_exec(intruder, insert_many);
  if (!other) fail_msg("no connection");
  sqlite3_wal_autocheckpoint(other, 0);
  raw_exec(other, "SELECT count(*) FROM others");
  raw_exec(intruder, insert_many);
  raw_exec(intruder, "PRAGMA wal_checkpoint");
  seen_locks.on_fetch = intrude;
  second(f, other);
  expect_int(intrusions, 1);
  raw_exec(intruder, insert_many);
  raw_exec(intruder, insert_many);
  raw_exec(intruder, "PRAGMA wal_checkpoint");
  raw_exec(intruder, "PRAGMA wal_checkpoint(TRUNCATE)");
  intruder_close();
  sqlite3_close(other);
  rows = ask(f->path, "SELECT count(*) FROM others");
  wrong = ask(f->path, "SELECT count(*) FROM pragma_integrity_check"
                       " WHERE integrity_check <> 'ok'");
  return rows != 1600 + intruded || wrong != 0;
}

static void by_sqlite(fixture *f, sqlite3 *db) {
  (void)f;
  raw_exec(db, "PRAGMA wal_checkpoint");
  expect_int(intruded, 1);
}

/* It does not meet a changed WAL, so the writer comes as soon as it can. */
static void by_dibs(fixture *f, sqlite3 *db) {
  dibs_finding_list *findings = NULL;
  (void)db;
  seen_locks.on_fetch = NULL;
  seen_locks.on_checkpoint = intrude;
  expect_ok(f->db, dibs_doctor(f->db, 0, &findings));
  dibs_finding_list_free(findings);
  expect_int(intruded, 0);
}

static int library_is_affected(fixture *f) {
  dibs_finding_list *findings = NULL;
  expect_ok(f->db, dibs_doctor(f->db, 0, &findings));
  expect_text(findings->findings[0].check, "library");
  int affected = findings->findings[0].level == DIBS_LEVEL_WARNING;
  expect_int(findings->findings[0].advice != NULL, affected);
  dibs_finding_list_free(findings);
  return affected;
}

static void the_library_is_what_its_version_says(void **state) {
  fixture *f = *state;
  f->db = open_another(f);
  int affected = library_is_affected(f);
  close_checked(f);
  expect_int(is_damaged_by(f, by_sqlite), affected);
  file_remove(f->path);
}

static void a_checkpoint_of_ours_does_no_damage(void **state) {
  fixture *f = *state;
  f->db = open_with(f, AFFECTED);
  expect_int(is_damaged_by(f, by_dibs), 0);
}

/* ---- What is said of it ---------------------------------------------------------- */

static void which_versions_are_affected(void **state) {
  static const struct {
    int version, affected;
  } versions[] = {
      {3038000, 1}, {3044005, 1}, {3044006, 0}, {3045000, 1}, {3050006, 1},
      {3050007, 0}, {3051000, 1}, {3051002, 1}, {3051003, 0}, {3053000, 0},
  };
  fixture *f = *state;
  for (size_t i = 0; i < COUNT(versions); i++) {
    f->db = open_with(f, versions[i].version);
    if (library_is_affected(f) != versions[i].affected)
      fail_msg("%s", made_text());
    close_checked(f);
  }
}

/* On a connection of the host's there is no way to be sure. */
static void the_doctor_of_a_host_runs_no_checkpoint(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  dibs_finding_list *findings = NULL;
  dibs_db *attached = NULL;
  f->db = open_with(f, AFFECTED);
  write_pages(f->db, 64);
  intruder_open(f);
  expect_ok(NULL, dibs_provider_get(&made_table, &options.provider, NULL));
  expect_ok(attached,
            dibs_attach(intruder, options.provider, &options, &attached));
  watch_reset();
  expect_ok(attached, dibs_doctor(attached, 0, &findings));
  dibs_finding_list_free(findings);
  expect_int(seen_locks.checkpoints, 0);
  expect_ok(f->db, dibs_doctor(f->db, 0, &findings));
  dibs_finding_list_free(findings);
  expect_int(seen_locks.checkpoints, 1);
  expect_int(seen_locks.unguarded, 0);
  dibs_close(attached);
  intruder_close();
}

static int warnings;
static char warning[240];

static void listen_in(void *context, const dibs_log_event *event) {
  (void)context;
  if (strcmp(event->event, "library") != 0) return;
  expect_int(event->level, DIBS_LEVEL_WARNING);
  snprintf(warning, sizeof warning, "%s", event->message);
  warnings++;
}

static int warnings_of(fixture *f, int version, const char *path) {
  dibs_open_options options = fixture_options(f);
  dibs_db *db = NULL;
  made_version = version;
  expect_ok(NULL, dibs_provider_get(&made_table, &options.provider, NULL));
  options.log = listen_in;
  warnings = 0;
  expect_ok(db, dibs_open(path, &options, &db));
  expect_int(dibs_close(db), DIBS_OK);
  return warnings;
}

static void the_log_is_told_once(void **state) {
  fixture *f = *state;
  expect_int(warnings_of(f, REPAIRED, f->path), 0);
  expect_int(warnings_of(f, 3050001, ":memory:"), 0);
  expect_int(warnings_of(f, 3050001, f->path), 1);
  expect_says(warning, "3.50.1");
  expect_says(warning, "3.51.3");
  expect_int(warnings_of(f, 3050001, f->path), 0);
}

/* The library's own log. */
static void listen_to_library(int code, const char *format, ...) {
  va_list arguments;
  if (code != SQLITE_WARNING || !strstr(format, "WAL-reset")) return;
  va_start(arguments, format);
  vsnprintf(warning, sizeof warning, format, arguments);
  va_end(arguments);
  warnings++;
}

static int warnings_of_attaching(fixture *f, int version, int with_log) {
  dibs_open_options options = fixture_options(f);
  dibs_db *db = NULL;
  sqlite3 *sqlite = plain_open(f->path);
  made_version = version;
  expect_ok(NULL, dibs_provider_get(&made_table, &options.provider, NULL));
  if (with_log) options.log = listen_in;
  warnings = 0;
  expect_ok(db, dibs_attach(sqlite, options.provider, &options, &db));
  expect_text(dibs_error(db), "");
  expect_int(sqlite3_close(sqlite), SQLITE_OK);
  expect_int(dibs_close(db), DIBS_OK);
  return warnings;
}

static int refuse_pragmas(void *context, int what, const char *a, const char *b,
                          const char *c, const char *d) {
  (void)context;
  (void)a;
  (void)b;
  (void)c;
  (void)d;
  return what == SQLITE_PRAGMA ? SQLITE_DENY : SQLITE_OK;
}

static void so_is_that_of_a_host(void **state) {
  fixture *f = *state;
  f->db = open_another(f);
  close_checked(f);
  expect_int(warnings_of_attaching(f, REPAIRED, 1), 0);
  expect_int(warnings_of_attaching(f, 3050002, 1), 1);
  expect_says(warning, "3.50.2");
  expect_int(warnings_of_attaching(f, 3050002, 1), 0);
}

/* As where the handle is that of the SQL functions. */
static void without_a_log_the_librarys_is_told(void **state) {
  fixture *f = *state;
  dibs_db *db = NULL;
  f->db = open_another(f);
  close_checked(f);
  made_table.log = listen_to_library;
  expect_int(warnings_of_attaching(f, REPAIRED, 0), 0);
  expect_int(warnings_of_attaching(f, 3050003, 0), 1);
  expect_says(warning, "3.50.3");
  expect_int(warnings_of_attaching(f, 3050003, 0), 0);
  expect_int(warnings_of(f, 3050004, f->path), 1);
  /* Whoever may not ask for the journal mode is told nothing. */
  sqlite3 *sqlite = plain_open(f->path);
  sqlite3_set_authorizer(sqlite, refuse_pragmas, NULL);
  dibs_open_options options = fixture_options(f);
  made_version = 3050005;
  warnings = 0;
  expect_ok(NULL, dibs_provider_get(&made_table, &options.provider, NULL));
  expect_ok(db, dibs_attach(sqlite, options.provider, &options, &db));
  expect_int(warnings, 0);
  expect_int(sqlite3_close(sqlite), SQLITE_OK);
  expect_int(dibs_close(db), DIBS_OK);
  made_table.log = real_table->log;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(checkpoints_hold_the_write_lock),
      TEST_CLOSED(a_repaired_library_checkpoints_by_itself),
      TEST_CLOSED(the_last_close_has_the_file_to_itself),
      TEST_CLOSED(nobody_writes_while_a_checkpoint_runs),
      TEST_CLOSED(so_it_is_where_the_disk_is_full),
      TEST_CLOSED(somebody_may_write_while_an_automatic_one_runs),
      TEST_CLOSED(a_writer_only_puts_it_off),
      TEST_CLOSED(a_reader_keeps_nobody_waiting),
      TEST_CLOSED(so_it_is_with_several_processes),
      TEST_CLOSED(the_library_is_what_its_version_says),
      TEST_CLOSED(a_checkpoint_of_ours_does_no_damage),
      TEST_CLOSED(which_versions_are_affected),
      TEST_CLOSED(the_doctor_of_a_host_runs_no_checkpoint),
      TEST_CLOSED(the_log_is_told_once),
      TEST_CLOSED(so_is_that_of_a_host),
      TEST_CLOSED(without_a_log_the_librarys_is_told),
  };
  watch_install();
  table_make();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
