/* SPDX-License-Identifier: MIT */
/*
** engines.c: what the tests of the engine share. engines.h says what each does.
*/
#include "engines.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>

int64_t milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- Statements of the library ------------------------------------------- */

_Atomic int begins;
_Atomic int commits;
_Atomic int commit_takes;
void (*_Atomic at_begin)(void);
void (*_Atomic at_commit)(void);

static void call_it(void (*function)(void)) {
  if (function) function();
}

static void statement_begun(const char *sql) {
  if (strcmp(sql, "BEGIN IMMEDIATE") == 0) {
    begins++;
    call_it(at_begin);
  }
  if (strcmp(sql, "COMMIT") != 0) return;
  commits++;
  if (commit_takes) usleep((useconds_t)commit_takes);
  call_it(at_commit);
}

void watch_statements(void) {
  on_statement(statement_begun);
}

/* ---- Callbacks ----------------------------------------------------------- */

static void callback_begin(told *t) {
  int inside = ++t->inside;
  if (inside > t->most_inside) t->most_inside = inside;
}

static void on_ready(void *context) {
  told *t = context;
  callback_begin(t);
  t->ready++;
  if (t->descriptor) eventfd_write(t->descriptor, 1);
  t->inside--;
}

static void on_flagged(void *context) {
  told *t = context;
  callback_begin(t);
  t->flagged++;
  t->inside--;
}

/* Whether a lease is in the file, as another connection sees it. */
static int lease_is_there(const char *path, int64_t id) {
  sqlite3 *db = plain_open(path);
  sqlite3_stmt *row = NULL;
  sqlite3_prepare_v2(db, "SELECT 1 FROM dibs_leased WHERE id = ?", -1, &row,
                     NULL);
  sqlite3_bind_int64(row, 1, id);
  int there = sqlite3_step(row) == SQLITE_ROW;
  sqlite3_finalize(row);
  sqlite3_close(db);
  return there;
}

/* The id that both speak of, if what is said makes sense. */
static int64_t sensible_id(const dibs_run *run,
                           const dibs_settlement *outcome) {
  if (run->job->id != outcome->id) return -1;
  if (outcome->action != DIBS_ACK &&
      outcome->result.kind != DIBS_PAYLOAD_NONE) {
    return -2;
  }
  return outcome->id;
}

static void on_settled(void *context, const dibs_run *run,
                       const dibs_settlement *outcome) {
  told *t = context;
  callback_begin(t);
  if (t->path && lease_is_there(t->path, run->job->id)) t->uncommitted++;
  t->last_id = sensible_id(run, outcome);
  t->last_status = outcome->status;
  t->last_state = outcome->state;
  t->last_flags = dibs_run_flags(run);
  t->settled++;
  while (t->hold) {
    t->held_up = 1;
    usleep(500);
  }
  t->inside--;
}

static void on_log(void *context, const dibs_log_event *event) {
  told *t = context;
  const char *what = event->event;
  t->said++;
  if (strcmp(what, "trouble") == 0) t->trouble++;
  if (strcmp(what, "recovered") == 0) t->recovered++;
  if (strcmp(what, "unknown") == 0) t->unknown++;
  if (strcmp(what, "lapsed") == 0 || strcmp(what, "crashed") == 0 ||
      strcmp(what, "dead") == 0) {
    t->attempts_lost++;
  }
}

void tell_log(dibs_open_options *open, told *t) {
  open->log = on_log;
  open->log_context = t;
}

dibs_engine_options engine_options(int64_t slots) {
  static const char *const queues[] = {"q"};
  dibs_engine_options options = DIBS_ENGINE_OPTIONS_INIT;
  options.queues = queues;
  options.queue_count = 1;
  options.slots = slots;
  return options;
}

dibs_engine_options telling_options(int64_t slots, told *t) {
  dibs_engine_options options = engine_options(slots);
  memset(t, 0, sizeof *t);
  options.context = t;
  options.flagged = on_flagged;
  options.settled = on_settled;
  return options;
}

void tell_ready(dibs_engine_options *options) {
  options->ready = on_ready;
}

/* ---- Engines ------------------------------------------------------------- */

dibs_open_options system_options(void) {
  dibs_open_options options = DIBS_OPEN_OPTIONS_INIT;
  options.synchronous = DIBS_SYNCHRONOUS_NORMAL;
  return options;
}

int setup_system(void **state) {
  if (fixture_setup_closed(state) != 0) return -1;
  fixture *f = *state;
  dibs_open_options options = system_options();
  return dibs_open(f->path, &options, &f->db) == DIBS_OK ? 0 : -1;
}

dibs_engine *start_with(fixture *f, const dibs_open_options *open,
                        const dibs_engine_options *options) {
  dibs_engine *engine = NULL;
  int status = dibs_engine_open(f->path, open, options, &engine);
  expect_engine(engine, status, DIBS_OK);
  expect_text(dibs_engine_error(engine), "");
  return engine;
}

dibs_engine *start(fixture *f, const dibs_engine_options *options) {
  dibs_open_options open = system_options();
  return start_with(f, &open, options);
}

dibs_engine *start_driven(fixture *f, const dibs_engine_options *options) {
  dibs_open_options open = fixture_options(f);
  return start_with(f, &open, options);
}

dibs_engine *start_troubled(fixture *f, int64_t slots, told *t) {
  dibs_open_options open = system_options();
  dibs_engine_options options = telling_options(slots, t);
  open.busy_timeout = 50;
  tell_log(&open, t);
  return start_with(f, &open, &options);
}

void stop_and_close(dibs_engine *engine) {
  expect_int(dibs_engine_close(engine), DIBS_OK);
}

dibs_run *take_run(dibs_engine *engine) {
  dibs_run *run = NULL;
  expect_engine(engine, dibs_engine_next(engine, LONG, &run), DIBS_OK);
  return run;
}

void expect_no_job(dibs_engine *engine) {
  dibs_run *run = (dibs_run *)(void *)engine;
  expect_engine(engine, dibs_engine_next(engine, 0, &run), DIBS_EMPTY);
  expect_true(run == NULL);
}

int finish(dibs_engine *engine, dibs_run *run, int action) {
  dibs_settlement outcome = {.action = action, .delay = DIBS_UNSET};
  return dibs_engine_finish(engine, run, &outcome);
}

int settle(dibs_engine *engine, dibs_run *run, int action) {
  dibs_settlement outcome = {.action = action, .delay = DIBS_UNSET};
  int status = dibs_engine_settle(engine, run, &outcome);
  if (status != outcome.status) return -1;
  if ((status != DIBS_OK) != (outcome.message[0] != '\0')) return -2;
  return status;
}

void check_engine(dibs_engine *engine, int status, int wanted, const char *text,
                  const char *file, int line) {
  if (status == wanted) return;
  print_error("%s: %s (%s), expected %s\n", text, dibs_status_name(status),
              dibs_engine_error(engine), dibs_status_name(wanted));
  _fail(file, line);
}

void fill(fixture *f, int jobs) {
  dibs_new_job *all = calloc((size_t)jobs, sizeof *all);
  expect_true(all != NULL);
  for (int i = 0; i < jobs; i++) all[i].queue = "q";
  expect_ok(f->db, dibs_enqueue_many(f->db, all, (size_t)jobs, NULL));
  free(all);
}

static void sidecar_read(fixture *f, off_t at, void *number, size_t size) {
  char name[160];
  snprintf(name, sizeof name, "%s-dibs", f->path);
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  ssize_t got = pread(fd, number, size, at);
  close(fd);
  expect_int(got, size);
}

int64_t sidecar_waiters(fixture *f) {
  uint32_t waiters;
  sidecar_read(f, 128, &waiters, sizeof waiters);
  return waiters;
}

int64_t sidecar_rescues(fixture *f) {
  uint64_t rescues;
  sidecar_read(f, 280, &rescues, sizeof rescues);
  return (int64_t)rescues;
}

sqlite3 *lock_writes(fixture *f) {
  sqlite3 *db = plain_open(f->path);
  expect_int(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
  return db;
}

void unlock_writes(sqlite3 *locker) {
  expect_int(sqlite3_exec(locker, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
  expect_int(sqlite3_close(locker), SQLITE_OK);
}

/* ---- Calls in threads of their own --------------------------------------- */

void *call_next(void *context) {
  call *c = context;
  c->status = dibs_engine_next(c->engine, c->wait, &c->run);
  c->id = c->run ? c->run->job->id : 0;
  c->done = 1;
  return NULL;
}

void *call_next_often(void *context) {
  call *c = context;
  do c->status = dibs_engine_next(c->engine, c->wait, &c->run);
  while (c->status == DIBS_EMPTY);
  c->id = c->run ? c->run->job->id : 0;
  c->done = 1;
  return NULL;
}

void *call_settle(void *context) {
  call *c = context;
  c->status = settle(c->engine, c->run, c->action);
  c->done = 1;
  return NULL;
}

void *call_stop(void *context) {
  call *c = context;
  c->status = dibs_engine_stop(c->engine, c->wait, &c->released);
  c->done = 1;
  return NULL;
}

void *call_run_wait(void *context) {
  call *c = context;
  c->status = dibs_run_wait(c->run, c->known, c->wait);
  c->done = 1;
  return NULL;
}

void call_start(call *c, void *(*function)(void *), dibs_engine *engine,
                int64_t wait) {
  c->engine = engine;
  c->wait = wait;
  c->done = 0;
  expect_int(pthread_create(&c->thread, NULL, function, c), 0);
}

int call_end(call *c) {
  pthread_join(c->thread, NULL);
  return c->status;
}

void *crew_member(void *context) {
  crew *c = context;
  dibs_run *run;
  int status;
  while ((status = dibs_engine_next(c->engine, DIBS_FOREVER, &run)) ==
         DIBS_OK) {
    int64_t id = run->job->id;
    int holding = ++c->holding;
    if (holding > c->most) c->most = holding;
    if (id > c->jobs || c->begun[id]++) c->wrong++;
    if (id % 16 == 0) usleep(100);
    c->holding--;
    if (finish(c->engine, run, DIBS_ACK) != DIBS_OK) c->wrong++;
    if (++c->finished == c->jobs) dibs_engine_stop(c->engine, 0, NULL);
  }
  if (status != DIBS_CLOSED) c->wrong++;
  return NULL;
}

void crew_work(crew *c, dibs_engine *engine, int jobs, int threads) {
  pthread_t all[64];
  memset(c, 0, sizeof *c);
  c->engine = engine;
  c->jobs = jobs;
  c->begun = calloc((size_t)jobs + 1, sizeof *c->begun);
  for (int i = 0; i < threads; i++) {
    expect_int(pthread_create(&all[i], NULL, crew_member, c), 0);
  }
  for (int i = 0; i < threads; i++) pthread_join(all[i], NULL);
  free(c->begun);
  expect_int(c->wrong, 0);
  expect_int(c->finished, jobs);
}

/* ---- Helper processes ---------------------------------------------------- */

pid_t helper_start(const char *what, const char *path, const char *argument) {
  char self[512];
  ssize_t size = readlink("/proc/self/exe", self, sizeof self - 1);
  expect_true(size > 0);
  self[size] = '\0';
  pid_t child = fork();
  if (child == 0) {
    execl(self, self, what, path, argument, (char *)NULL);
    _exit(99);
  }
  expect_true(child > 0);
  return child;
}

void helper_end(pid_t child) {
  int status = -1;
  expect_int(waitpid(child, &status, 0), child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  fail_msg("the helper ended with %x", (unsigned)status);
}
