/* SPDX-License-Identifier: MIT */
/*
** test_libraries.c: two SQLite libraries in one process: the one that the tests
** are linked with, and another that ci/newest builds. Without that these tests
** are skipped.
**
** What is refused leaves a connection open for as long as the process lives, and
** what is not refused loses rows. So most of this happens in children; they say
** on stderr what was not so.
*/
#include "harness.h"

#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SQLITE_CORE /* the struct of the API table alone, not its macros */
#include <sqlite3ext.h>

#define SKIPPED 77 /* what ctest takes for that */

/* ---- The other library --------------------------------------------------------- */

static const sqlite3_api_routines *other;
static const dibs_provider *other_provider;

static int other_entry(sqlite3 *db, char **message,
                       const sqlite3_api_routines *api) {
  (void)db;
  (void)message;
  other = api;
  return SQLITE_OK;
}

/* A function of a library. ISO C has no cast between the two kinds of pointer. */
static void *find(void *library, const char *name, void *function,
                  size_t size) {
  void *symbol = dlsym(library, name);
  memcpy(function, &symbol, size);
  return symbol;
}
#define FIND(library, name, function)                                          \
  find(library, name, &(function), sizeof(function))

/* Load it and ask for its table, as a language's package does. */
static int other_load(const char *path) {
  int (*extend)(void (*)(void));
  int (*open)(const char *, sqlite3 **);
  union {
    int (*typed)(sqlite3 *, char **, const sqlite3_api_routines *);
    void (*plain)(void);
  } entry = {other_entry};
  sqlite3 *db = NULL;
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library || !FIND(library, "sqlite3_auto_extension", extend) ||
      !FIND(library, "sqlite3_open", open))
    return 0;
  extend(entry.plain);
  open(":memory:", &db);
  if (!other) return 0;
  other->close(db);
  other->cancel_auto_extension(entry.plain);
  return dibs_provider_get(other, &other_provider, NULL) == DIBS_OK;
}

static sqlite3 *other_open(const char *path) {
  sqlite3 *db = NULL;
  int code = other->open_v2(path, &db,
                            SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
  if (code) return NULL;
  other->busy_timeout(db, 10000);
  return db;
}

static int other_run(sqlite3 *db, const char *sql) {
  int code = other->exec(db, sql, NULL, NULL, NULL);
  if (code) print_error("%s: %s\n", sql, other->errmsg(db));
  return code == SQLITE_OK;
}

/* An application of the other library: a table and a row in WAL mode. */
static sqlite3 *application_open(const char *path) {
  sqlite3 *db = other_open(path);
  if (!db || !other_run(db, "PRAGMA journal_mode=WAL;"
                            "CREATE TABLE IF NOT EXISTS rows(x);"
                            "INSERT INTO rows VALUES (0)"))
    return NULL;
  return db;
}

/* As the application would wish: rows that have been acknowledged are there. */
static int application_writes(sqlite3 *db) {
  return other_run(db, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL"
                       " SELECT i + 1 FROM n WHERE i < 100)"
                       " INSERT INTO rows SELECT i FROM n");
}

static int open_by(fixture *f, const dibs_provider *provider, dibs_db **db) {
  dibs_open_options options = fixture_options(f);
  options.provider = provider;
  return dibs_open(f->path, &options, db);
}

/* ---- Children ------------------------------------------------------------------- */

/* In a child: what must be so, or it ends badly. */
#define must(condition)                                                        \
  do {                                                                         \
    if (!(condition)) {                                                        \
      print_error("line %d, not so: %s\n", __LINE__, #condition);              \
      return 1;                                                                \
    }                                                                          \
  } while (0)

/* A child and its parent take turns. */
static int channel;

static int turn_give(void) {
  return write(channel, "x", 1) == 1;
}

static int turn_take(void) {
  char byte;
  return read(channel, &byte, 1) == 1;
}

static pid_t child_start(fixture *f, int (*run)(fixture *)) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
    fail_msg("no socket");
  pid_t child = fork();
  if (child == 0) {
    channel = ends[0];
    close(ends[1]);
    _exit(run(f));
  }
  channel = ends[1];
  close(ends[0]);
  return child;
}

static void child_end(pid_t child) {
  int status = -1;
  close(channel);
  expect_int(waitpid(child, &status, 0), child);
  expect_int(status, 0);
}

static void in_a_child(fixture *f, int (*run)(fixture *)) {
  child_end(child_start(f, run));
}

/* ---- Side by side ------------------------------------------------------------------ */

static int one_round(dibs_db *db, const char *queue) {
  dibs_job_list *jobs = NULL;
  int64_t id = 0;
  must(dibs_enqueue(db, queue, dibs_json("[1]"), NULL, &id) == DIBS_OK);
  must(dibs_claim(db, &queue, 1, NULL, &jobs) == DIBS_OK);
  must(jobs->jobs[0].id == id);
  must(dibs_ack(db, jobs->jobs[0].receipt, NULL) == DIBS_OK);
  dibs_job_list_free(jobs);
  return 0;
}

static void the_other_library_is_used(void **state) {
  fixture *f = *state;
  expect_ok(f->db, open_by(f, other_provider, &f->db));
  expect_text(dibs_sqlite_version(f->db), other->libversion());
  expect_true(strcmp(dibs_sqlite_version(f->db), sqlite3_libversion()) != 0);
  expect_int(connections_open(), 0); /* of the linked library */
  expect_int(one_round(f->db, "q"), 0);
  expect_int(counts(f, "q").ready, 0);
}

/* On a thread each, so that whoever calls the wrong one calls it soon. */
struct worker {
  const dibs_provider *provider;
  char path[160];
  int64_t (*clock)(void *);
  void *context;
  int failed;
};

static int work(struct worker *worker) {
  dibs_open_options options = DIBS_OPEN_OPTIONS_INIT;
  dibs_db *db = NULL;
  options.provider = worker->provider;
  options.synchronous = DIBS_SYNCHRONOUS_NORMAL;
  must(dibs_open(worker->path, &options, &db) == DIBS_OK);
  for (int i = 0; i < 500; i++) must(!one_round(db, "q"));
  must(dibs_close(db) == DIBS_OK);
  return 0;
}

static void *work_main(void *context) {
  struct worker *worker = context;
  worker->failed = work(worker);
  return NULL;
}

static void two_libraries_on_two_files(void **state) {
  fixture *f = *state;
  struct worker workers[2] = {{.provider = NULL}, {.provider = other_provider}};
  pthread_t threads[2];
  for (size_t i = 0; i < COUNT(workers); i++) {
    snprintf(workers[i].path, sizeof workers[i].path, "%s/%zu.db", f->folder,
             i);
    expect_int(pthread_create(&threads[i], NULL, work_main, &workers[i]), 0);
  }
  for (size_t i = 0; i < COUNT(workers); i++) {
    pthread_join(threads[i], NULL);
    expect_int(workers[i].failed, 0);
    expect_true(file_is_sound(workers[i].path));
  }
}

static void attached_to_a_connection_of_the_other(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  sqlite3 *host = application_open(f->path);
  expect_true(host != NULL);
  expect_ok(f->db, open_by(f, other_provider, &f->db));
  dibs_db *attached = NULL;
  expect_ok(attached, dibs_attach(host, other_provider, &options, &attached));
  expect_true(other_run(host, "BEGIN; INSERT INTO rows VALUES (1)"));
  expect_ok(attached, dibs_enqueue(attached, "q", dibs_json("1"), NULL, NULL));
  expect_int(counts(f, "q").ready, 0);
  expect_true(other_run(host, "COMMIT"));
  expect_int(counts(f, "q").ready, 1);
  expect_true(other_run(host, "BEGIN"));
  expect_int(one_round(attached, "q2"), 0);
  expect_true(other_run(host, "ROLLBACK"));
  expect_int(other->close(host), SQLITE_OK);
  expect_int(dibs_close(attached), DIBS_OK);
}

/* ---- On one file ------------------------------------------------------------------- */

static int refused(fixture *f) {
  dibs_db *db = NULL;
  sqlite3 *host = application_open(f->path);
  must(host);
  must(open_by(f, NULL, &db) == DIBS_LIBRARY);
  must(strstr(dibs_error(db), f->path));
  must(strstr(dibs_error(db), "another SQLite library"));
  must(strstr(dibs_error(db), "dibs_provider_get()"));
  must(dibs_enqueue(db, "q", dibs_none(), NULL, NULL) == DIBS_CLOSED);
  must(dibs_close(db) == DIBS_OK);
  must(open_by(f, other_provider, &db) == DIBS_OK);
  must(dibs_close(db) == DIBS_OK);
  return 0;
}

static void a_file_that_another_library_has_is_refused(void **state) {
  fixture *f = *state;
  in_a_child(f, refused);
  expect_int(raw_int(f, "SELECT count(*) FROM rows"), 1);
}

static int descriptors_open(void) {
  int count = 0;
  DIR *folder = opendir("/proc/self/fd");
  while (folder && readdir(folder)) count++;
  if (folder) closedir(folder);
  return count;
}

static int refused_often(fixture *f) {
  dibs_db *db = NULL;
  char uri[200];
  sqlite3 *host = application_open(f->path);
  dibs_open_options options = fixture_options(f);
  int before = 0;
  must(host);
  snprintf(uri, sizeof uri, "file:%s", f->path);
  for (int i = 0; i < 20; i++) {
    must(dibs_open(i % 2 ? f->path : uri, &options, &db) == DIBS_LIBRARY);
    must(dibs_close(db) == DIBS_OK);
    if (i == 2) before = descriptors_open();
  }
  must(descriptors_open() == before);
  return 0;
}

static void a_refusal_costs_descriptors_once(void **state) {
  fixture *f = *state;
  in_a_child(f, refused_often);
}

/* The other library removes WAL and -shm when it closes. What was kept open must
** not make us go on with those, unseen by other processes. */
static int let_in_again(fixture *f) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  dibs_db *db = NULL;
  sqlite3 *host = application_open(f->path);
  must(host);
  must(open_by(f, NULL, &db) == DIBS_LIBRARY);
  must(dibs_close(db) == DIBS_OK);
  must(other->close(host) == SQLITE_OK);
  must(open_by(f, NULL, &db) == DIBS_OK);
  must(dibs_enqueue(db, "default", dibs_json("1"), NULL, NULL) == DIBS_OK);
  must(turn_give() && turn_take());
  options.n = 2;
  must(dibs_claim(db, NULL, 0, &options, &jobs) == DIBS_OK);
  must(jobs->count == 2);
  dibs_job_list_free(jobs);
  must(dibs_close(db) == DIBS_OK);
  return 0;
}

static void once_the_other_is_gone_it_may_be_opened(void **state) {
  fixture *f = *state;
  pid_t child = child_start(f, let_in_again);
  expect_true(turn_take());
  f->db = open_another(f);
  expect_int(counts(f, "default").ready, 1);
  put(f, "default", "2");
  expect_true(turn_give());
  child_end(child);
  expect_int(counts(f, "default").running, 2);
}

/* ---- What is lost ------------------------------------------------------------------- */

/* The application has the file open, dibs opens and closes it by another library,
** and the application writes. Meanwhile and afterwards another process, the
** parent, looks. */
static int open_and_close(fixture *f, int create, int two, int wanted) {
  dibs_open_options options = fixture_options(f);
  dibs_db *db = NULL;
  sqlite3 *host = application_open(f->path);
  must(host);
  options.create = create;
  options.two_libraries = two;
  must(dibs_open(f->path, &options, &db) == wanted);
  must(dibs_close(db) == DIBS_OK);
  must(application_writes(host));
  must(turn_give() && turn_take());
  must(other->close(host) == SQLITE_OK);
  return 0;
}

static int with_two_libraries(fixture *f) {
  return open_and_close(f, DIBS_CREATE, 1, DIBS_OK);
}

static int without_leave(fixture *f) {
  return open_and_close(f, DIBS_CREATE, 0, DIBS_LIBRARY);
}

static int without_tables(fixture *f) {
  return open_and_close(f, DIBS_CREATE_NONE, 0, DIBS_SCHEMA);
}

/* The same where dibs was there first. */
static int opened_before(fixture *f) {
  dibs_db *db = NULL;
  must(open_by(f, NULL, &db) == DIBS_OK);
  must(!one_round(db, "q"));
  sqlite3 *host = application_open(f->path);
  must(host);
  must(dibs_close(db) == DIBS_OK);
  must(application_writes(host));
  must(turn_give() && turn_take());
  must(other->close(host) == SQLITE_OK);
  return 0;
}

/* Rows of the hundred that another process sees in the end; it has the file open
** when the application closes it. */
static int64_t rows_left(fixture *f, int (*run)(fixture *)) {
  pid_t child = child_start(f, run);
  expect_true(turn_take());
  sqlite3 *witness = plain_open(f->path);
  expect_int(
      sqlite3_exec(witness, "INSERT INTO rows VALUES (-1)", NULL, NULL, NULL),
      SQLITE_OK);
  expect_true(turn_give());
  child_end(child);
  sqlite3_close(witness);
  expect_int(raw_int(f, "SELECT count(*) FROM rows WHERE x < 0"), 1);
  return raw_int(f, "SELECT count(*) FROM rows WHERE x > 0");
}

static void two_libraries_on_one_file_lose_rows(void **state) {
  fixture *f = *state;
  expect_int(rows_left(f, with_two_libraries), 0);
}

static void a_refusal_loses_none(void **state) {
  fixture *f = *state;
  expect_int(rows_left(f, without_leave), 100);
}

static void nor_does_another_reason_to_refuse(void **state) {
  fixture *f = *state;
  expect_int(rows_left(f, without_tables), 100);
}

static void nor_does_closing_what_was_open_before(void **state) {
  fixture *f = *state;
  expect_int(rows_left(f, opened_before), 100);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(the_other_library_is_used),
      TEST_CLOSED(two_libraries_on_two_files),
      TEST_CLOSED(attached_to_a_connection_of_the_other),
      TEST_CLOSED(a_file_that_another_library_has_is_refused),
      TEST_CLOSED(a_refusal_costs_descriptors_once),
      TEST_CLOSED(once_the_other_is_gone_it_may_be_opened),
      TEST_CLOSED(two_libraries_on_one_file_lose_rows),
      TEST_CLOSED(a_refusal_loses_none),
      TEST_CLOSED(nor_does_another_reason_to_refuse),
      TEST_CLOSED(nor_does_closing_what_was_open_before),
  };
  if (access(NEWEST_SQLITE, R_OK)) {
    print_message("there is no %s: make it with ci/newest\n", NEWEST_SQLITE);
    return SKIPPED;
  }
  if (!other_load(NEWEST_SQLITE)) {
    print_error("%s cannot be used\n", NEWEST_SQLITE);
    return 1;
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
