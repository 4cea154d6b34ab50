/* SPDX-License-Identifier: MIT */
/*
** test_host_wake.c: whoever waits is woken when a host commits, wherever in its
** transaction the job was enqueued, and not by what it takes back. That a wake
** was missing shows in a counter: then a waiter found the job by itself, after
** the fallback.
*/
#include "hosts.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define QUEUES   3
#define PATIENCE 20000 /* ms that nothing takes */

static const char *const queues[QUEUES] = {"a", "b", "c/1"};

static void nap(int milliseconds) {
  struct timespec moment = {.tv_nsec = milliseconds * 1000000L};
  nanosleep(&moment, NULL);
}

/* How many wait: a word of the map (sidecar.c). */
static uint32_t waiters(fixture *f) {
  char name[160];
  uint32_t count = 0;
  snprintf(name, sizeof name, "%s-dibs", f->path);
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  expect_int(pread(fd, &count, sizeof count, 128), sizeof count);
  close(fd);
  return count;
}

static void expect_waiters(fixture *f, uint32_t count) {
  for (int i = 0; waiters(f) != count; i++) {
    if (i == PATIENCE) fail_msg("%u wait, not %u", waiters(f), count);
    nap(1);
  }
}

/* ---- Who waits ----------------------------------------------------------- */

/* A thread with a handle of its own, which takes what comes. */
typedef struct waiter {
  dibs_db *db;
  const char *queue;
  _Atomic int got;
  int status; /* with which it ended */
  pthread_t thread;
} waiter;

static int wait_and_take(dibs_db *db, const char *queue) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  options.wait = DIBS_FOREVER;
  int status = dibs_claim(db, &queue, 1, &options, &jobs);
  if (!status) status = dibs_ack(db, jobs->jobs[0].receipt, NULL);
  dibs_job_list_free(jobs);
  return status;
}

static void *waiter_main(void *context) {
  waiter *w = context;
  while ((w->status = wait_and_take(w->db, w->queue)) == DIBS_OK) w->got++;
  return NULL;
}

/* By the real clock: with the test's they would look often. */
static dibs_db *open_really(const char *path) {
  dibs_open_options options = DIBS_OPEN_OPTIONS_INIT;
  dibs_db *db = NULL;
  options.synchronous = DIBS_SYNCHRONOUS_NORMAL;
  expect_ok(db, dibs_open(path, &options, &db));
  return db;
}

static void waiter_run(waiter *w, const char *queue) {
  w->queue = queue;
  w->got = 0;
  expect_int(pthread_create(&w->thread, NULL, waiter_main, w), 0);
}

static void waiter_start(waiter *w, const char *path, const char *queue) {
  w->db = open_really(path);
  waiter_run(w, queue);
}

static void waiter_end(waiter *w) {
  dibs_interrupt(w->db);
  pthread_join(w->thread, NULL);
  expect_int(w->status, DIBS_INTERRUPTED);
  expect_int(dibs_close(w->db), DIBS_OK);
}

static void expect_got(waiter *w, int count) {
  for (int i = 0; w->got < count; i++) {
    if (i == PATIENCE) fail_msg("%s: %d came of %d", w->queue, w->got, count);
    nap(1);
  }
  expect_int(w->got, count);
}

/* ---- The host ------------------------------------------------------------ */

static int put_in(host *h, const char *queue) {
  return dibs_enqueue(h->db, queue, dibs_json("1"), NULL, NULL);
}

static void put_function(sqlite3_context *context, int count,
                         sqlite3_value **values) {
  host *h = sqlite3_user_data(context);
  (void)count;
  h->status = put_in(h, (const char *)sqlite3_value_text(values[0]));
  if (h->status) sqlite3_result_error(context, dibs_error(h->db), -1);
  sqlite3_result_int(context, 1);
}

static void put_make(host *h) {
  expect_int(sqlite3_create_function(h->sqlite, "put", 1, SQLITE_UTF8, h,
                                     put_function, NULL, NULL),
             SQLITE_OK);
  host_run(h, "CREATE TABLE t(x NOT NULL)");
}

/* ---- Woken, or not ------------------------------------------------------- */

static void a_thread_is_woken_by_the_commit(void **state) {
  static const char *const ways[][2] = {
      {"BEGIN", "COMMIT"},
      {"SAVEPOINT s", "RELEASE s"},
      {"BEGIN; SAVEPOINT s", "RELEASE s; COMMIT"},
      {"BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s", "COMMIT"},
  };
  fixture *f = *state;
  waiter w;
  host h = host_open(f);
  put_make(&h);
  int monitors = monitors_stop(f);
  waiter_start(&w, f->path, "a");
  for (int i = 0; i < (int)COUNT(ways); i++) {
    expect_waiters(f, 1);
    uint64_t signals = sidecar_counter(f, SIGNALS);
    uint64_t wakes = sidecar_counter(f, WAKES);
    host_run(&h, ways[i][0]);
    expect_ok(h.db, put_in(&h, "a"));
    expect_int(sidecar_counter(f, SIGNALS), signals);
    host_run(&h, "ROLLBACK; BEGIN; COMMIT");
    expect_int(sidecar_counter(f, SIGNALS), signals);
    expect_int(sidecar_counter(f, WAKES), wakes);
    expect_int(w.got, i);
    host_run(&h, ways[i][0]);
    expect_ok(h.db, put_in(&h, "a"));
    host_run(&h, ways[i][1]);
    expect_got(&w, i + 1);
  }
  expect_int(sidecar_counter(f, RESCUES), 0);
  waiter_end(&w);
  close(monitors);
  host_close(&h);
}

static void and_by_a_statement(void **state) {
  static const char *const ways[] = {
      "SELECT put('a')",
      "INSERT INTO t SELECT put('a')",
      "BEGIN; INSERT INTO t SELECT put('a'); COMMIT",
      "CREATE TEMP TABLE u AS SELECT put('a') AS x",
      "INSERT INTO v VALUES (1)",
  };
  fixture *f = *state;
  waiter w;
  host h = host_open(f);
  put_make(&h);
  host_run(&h, "CREATE TABLE v(x); CREATE TEMP TRIGGER r AFTER INSERT ON v"
               " BEGIN SELECT put('a'); END");
  int monitors = monitors_stop(f);
  waiter_start(&w, f->path, "a");
  for (int i = 0; i < (int)COUNT(ways); i++) {
    expect_waiters(f, 1);
    host_run(&h, ways[i]);
    expect_got(&w, i + 1);
  }
  expect_int(sidecar_counter(f, RESCUES), 0);
  waiter_end(&w);
  close(monitors);
  host_close(&h);
}

static void a_process_is_woken_by_the_commit(void **state) {
  fixture *f = *state;
  int status = -1;
  int monitors = monitors_stop(f);
  pid_t child = fork();
  if (child == 0) {
    dibs_db *db = open_really(f->path);
    status = wait_and_take(db, "a");
    _exit(dibs_close(db) || status);
  }
  host h = host_open(f);
  expect_waiters(f, 1);
  host_run(&h, "BEGIN");
  expect_ok(h.db, put_in(&h, "a"));
  host_run(&h, "COMMIT");
  expect_int(waitpid(child, &status, 0), child);
  expect_int(status, 0);
  expect_int(sidecar_counter(f, RESCUES), 0);
  close(monitors);
  host_close(&h);
}

static void a_handle_that_is_closed_has_told(void **state) {
  fixture *f = *state;
  waiter w;
  host h = host_open(f);
  int monitors = monitors_stop(f);
  waiter_start(&w, f->path, "a");
  expect_waiters(f, 1);
  host_run(&h, "BEGIN");
  expect_ok(h.db, put_in(&h, "a"));
  expect_int(dibs_close(h.db), DIBS_OK);
  host_run(&h, "COMMIT");
  expect_got(&w, 1);
  expect_int(sidecar_counter(f, RESCUES), 0);
  waiter_end(&w);
  close(monitors);
  expect_int(sqlite3_close(h.sqlite), SQLITE_OK);
}

/* With a rollback journal a reader keeps the host from its commit. */
static void a_commit_that_succeeds_later_tells_then(void **state) {
  fixture *f = *state;
  waiter w;
  close_checked(f);
  raw_run(f, "PRAGMA journal_mode=DELETE");
  int monitors = monitors_stop(f);
  host h = host_open(f);
  sqlite3 *reader = plain_open(f->path);
  host reads = {.sqlite = reader};
  dibs_open_options options = DIBS_OPEN_OPTIONS_INIT;
  options.keep_journal_mode = 1;
  expect_ok(w.db, dibs_open(f->path, &options, &w.db));
  waiter_run(&w, "a");
  expect_waiters(f, 1);
  sqlite3_busy_timeout(h.sqlite, 0);
  host_run(&h, "BEGIN IMMEDIATE");
  expect_ok(h.db, put_in(&h, "a"));
  host_run(&reads, "BEGIN; SELECT count(*) FROM dibs_job");
  uint64_t signals = sidecar_counter(f, SIGNALS);
  expect_int(sqlite3_exec(h.sqlite, "COMMIT", NULL, NULL, NULL), SQLITE_BUSY);
  expect_int(sidecar_counter(f, SIGNALS), signals);
  host_run(&reads, "COMMIT");
  expect_int(sqlite3_close(reader), SQLITE_OK);
  host_run(&h, "COMMIT");
  expect_got(&w, 1);
  expect_true(sidecar_counter(f, SIGNALS) > signals);
  expect_int(sidecar_counter(f, RESCUES), 0);
  waiter_end(&w);
  close(monitors);
  host_close(&h);
}

/* In memory, shared by the connections of the process. */
static void a_shared_database_in_memory(void **state) {
  static const char *const uri = "file:/host-wake?vfs=memdb";
  waiter w;
  host h;
  (void)state;
  waiter_start(&w, uri, "a");
  memset(&h, 0, sizeof h);
  h.sqlite = plain_open_as(uri, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE |
                                    SQLITE_OPEN_URI);
  expect_ok(h.db, dibs_attach(h.sqlite, NULL, NULL, &h.db));
  for (int i = 0; i < 20; i++) {
    host_run(&h, "BEGIN");
    expect_ok(h.db, put_in(&h, "a"));
    host_run(&h, i % 2 ? "COMMIT" : "ROLLBACK");
    expect_got(&w, (i + 1) / 2);
  }
  waiter_end(&w);
  host_close(&h);
}

/* ---- Savepoints, in any order -------------------------------------------- */

/* What is enqueued in a transaction, and what was when each savepoint was
** set. */
struct plan {
  int jobs[QUEUES];
  int then[16][QUEUES];
  int depth;
};

static void plan_savepoint(host *h, struct plan *p) {
  char sql[32];
  if (p->depth == (int)COUNT(p->then)) return;
  memcpy(p->then[p->depth++], p->jobs, sizeof p->jobs);
  snprintf(sql, sizeof sql, "SAVEPOINT s%d", p->depth);
  host_run(h, sql);
}

static void plan_release(host *h, struct plan *p) {
  char sql[32];
  if (!p->depth) return;
  int level = rand() % p->depth;
  snprintf(sql, sizeof sql, "RELEASE s%d", level + 1);
  host_run(h, sql);
  p->depth = level;
}

static void plan_rollback(host *h, struct plan *p) {
  char sql[32];
  if (!p->depth) return;
  int level = rand() % p->depth;
  snprintf(sql, sizeof sql, "ROLLBACK TO s%d", level + 1);
  host_run(h, sql);
  memcpy(p->jobs, p->then[level], sizeof p->jobs);
  p->depth = level + 1;
}

/* By a call, as part of a statement, or of one that SQLite takes back when its
** second row fails. */
static void plan_enqueue(host *h, struct plan *p) {
  char sql[96];
  int queue = rand() % QUEUES;
  switch (rand() % 4) {
  case 0:
    snprintf(sql, sizeof sql, "INSERT INTO t SELECT put('%s')", queues[queue]);
    host_run(h, sql);
    break;
  case 1:
    snprintf(sql, sizeof sql,
             "INSERT INTO t SELECT put('%s') UNION ALL SELECT NULL",
             queues[queue]);
    expect_int(sqlite3_exec(h->sqlite, sql, NULL, NULL, NULL),
               SQLITE_CONSTRAINT);
    return;
  default: expect_ok(h->db, put_in(h, queues[queue]));
  }
  p->jobs[queue]++;
}

static void plan_step(host *h, struct plan *p) {
  switch (rand() % 6) {
  case 0: plan_savepoint(h, p); break;
  case 1: plan_release(h, p); break;
  case 2: plan_rollback(h, p); break;
  case 3: host_run(h, "INSERT INTO t VALUES (0)"); break;
  default: plan_enqueue(h, p);
  }
}

static void in_any_order(void **state) {
  fixture *f = *state;
  waiter w[QUEUES];
  int expected[QUEUES] = {0}, all = 0;
  unsigned seed = (unsigned)environment_number("DIBS_TEST_SEED", 1);
  host h = host_open(f);
  put_make(&h);
  int monitors = monitors_stop(f);
  srand(seed);
  for (int i = 0; i < QUEUES; i++) waiter_start(&w[i], f->path, queues[i]);
  for (int round = 0; round < 400 / slowness(); round++) {
    struct plan p = {.depth = 0};
    expect_waiters(f, QUEUES);
    uint64_t signals = sidecar_counter(f, SIGNALS);
    host_run(&h, rand() % 2 ? "BEGIN IMMEDIATE"
                            : "SAVEPOINT s; INSERT INTO t VALUES (1)");
    for (int steps = 1 + rand() % 12; steps; steps--) plan_step(&h, &p);
    if (rand() % 8 == 0) {
      host_run(&h, "ROLLBACK");
      memset(p.jobs, 0, sizeof p.jobs);
    } else {
      host_run(&h, "COMMIT");
    }
    int any = 0;
    for (int i = 0; i < QUEUES; i++) {
      any += p.jobs[i];
      expected[i] += p.jobs[i];
      expect_got(&w[i], expected[i]);
    }
    all += any;
    if (sidecar_counter(f, SIGNALS) != signals + (any != 0))
      fail_msg("seed %u, round %d: %d jobs, %d signals", seed, round, any,
               (int)(sidecar_counter(f, SIGNALS) - signals));
  }
  print_message("seed %u: %d jobs\n", seed, all);
  expect_true(all > 100 / slowness());
  expect_int(sidecar_counter(f, RESCUES), 0);
  for (int i = 0; i < QUEUES; i++) waiter_end(&w[i]);
  close(monitors);
  host_close(&h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_thread_is_woken_by_the_commit),
      TEST(and_by_a_statement),
      TEST(a_process_is_woken_by_the_commit),
      TEST(a_handle_that_is_closed_has_told),
      TEST(a_commit_that_succeeds_later_tells_then),
      TEST_CLOSED(a_shared_database_in_memory),
      TEST(in_any_order),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
