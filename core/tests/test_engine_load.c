/* SPDX-License-Identifier: MIT */
/*
** test_engine_load.c: engines under load: hundreds of threads with outcomes at
** random, producers, cancels and interrupts beside them; a worker process that
** stands still for longer than its lease; memory that runs out at each
** allocation of an engine's life. What went in is done, dead or present, and
** none of it twice.
**
** The seed of what is random is printed; DIBS_TEST_SEED sets it. Called with
** arguments the executable is a helper process.
*/
#include "engines.h"
#include "faults.h"

#include <signal.h>
#include <sys/wait.h>

/* ---- Many threads ------------------------------------------------------------ */

#define ENGINES   2
#define WORKERS   200
#define PRODUCERS 4

typedef struct load {
  fixture *f;
  int wake;
  int jobs; /* to be enqueued */
  uint64_t seed;
  dibs_engine *engines[ENGINES];
  _Atomic int threads;  /* numbers given to them */
  _Atomic int produced; /* jobs enqueued */
  _Atomic int over;     /* interrupters and cancellers may go */
  _Atomic int stopping; /* runs may be lost by it */
  _Atomic int wrong;
  _Atomic int interrupted;        /* calls of next */
  _Atomic int cancelled;          /* jobs */
  _Atomic int lost;               /* runs */
  _Atomic int ends;               /* jobs that are done */
  _Atomic unsigned char *at;      /* by id: whether a handler is at it */
  _Atomic unsigned char *ended;   /* by id: how often it was done */
  _Atomic unsigned char *cancels; /* by id */
} load;

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t random_next(uint64_t *state) {
  uint64_t x = *state += 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

static int random_below(uint64_t *state, int limit) {
  return (int)(random_next(state) % (uint64_t)limit);
}

/* A sequence of its own for each thread. */
static uint64_t random_start(load *l) {
  return l->seed * 1000003u + (uint64_t)l->threads++;
}

static int wrong(load *l, const char *what, int status) {
  fprintf(stderr, "%s: %s\n", what, dibs_status_name(status));
  l->wrong++;
  return 0;
}

static dibs_db *load_open(load *l) {
  dibs_open_options options = system_options();
  dibs_db *db = NULL;
  options.wake = l->wake;
  int status = dibs_open(l->f->path, &options, &db);
  if (status != DIBS_OK) wrong(l, "open", status);
  return db;
}

static void *produce(void *context) {
  load *l = context;
  uint64_t random = random_start(l);
  dibs_db *db = load_open(l);
  for (int i = 0; i < l->jobs / PRODUCERS; i++) {
    dibs_job_options options = no_options();
    char key[8];
    int64_t id;
    options.max_attempts = 3;
    options.backoff = 5;
    options.priority = random_below(&random, 3);
    if (random_below(&random, 4) == 0) options.delay = random_below(&random, 9);
    snprintf(key, sizeof key, "%d", random_below(&random, 20));
    if (random_below(&random, 3) == 0) options.key = key;
    int status = dibs_enqueue(db, "q", dibs_json("1"), &options, &id);
    if (status != DIBS_OK) wrong(l, "enqueue", status);
    l->produced++;
  }
  dibs_close(db);
  return NULL;
}

/* What became of a run. */
static void note(load *l, int64_t id, const dibs_settlement *outcome) {
  if (outcome->status == DIBS_LOST) {
    l->lost++;
    if (l->stopping) return;
    /* Nobody but a canceller takes a job away. It may be about to note it. */
    for (int i = 0; i < 10000 && !l->cancels[id]; i++) usleep(1000);
    if (!l->cancels[id]) wrong(l, outcome->message, DIBS_LOST);
  } else if (outcome->status != DIBS_OK) {
    wrong(l, outcome->message, outcome->status);
  } else if (outcome->state == DIBS_DONE) {
    l->ended[id]++;
    l->ends++;
  }
}

static void on_settled(void *context, const dibs_run *run,
                       const dibs_settlement *outcome) {
  note(context, run->job->id, outcome);
}

/* At random, but most of them are done. */
static dibs_settlement outcome_choose(uint64_t *random) {
  static const struct {
    int parts;
    dibs_settlement outcome;
  } choices[] = {
      {60, {.action = DIBS_ACK, .delay = DIBS_UNSET}},
      {10, {.action = DIBS_RETRY, .delay = 0, .error = "at once"}},
      {8, {.action = DIBS_RETRY, .delay = DIBS_UNSET, .error = "later"}},
      {2, {.action = DIBS_FAIL, .error = "for good"}},
      {8, {.action = DIBS_RELEASE}},
      {6, {.action = DIBS_SNOOZE, .delay = 3}},
      {6, {.action = DIBS_DISCARD, .error = "not wanted"}},
  };
  size_t i = 0;
  for (int part = random_below(random, 100); part >= choices[i].parts; i++) {
    part -= choices[i].parts;
  }
  return choices[i].outcome;
}

static void work_on(load *l, dibs_engine *engine, dibs_run *run,
                    uint64_t *random) {
  int64_t id = run->job->id;
  dibs_settlement outcome = outcome_choose(random);
  if (l->at[id]++ && !l->stopping) wrong(l, "two are at one job", DIBS_OK);
  if (random_below(random, 8) == 0) {
    usleep((useconds_t)random_below(random, 500));
  }
  l->at[id]--;
  if (random_below(random, 4)) {
    int status = dibs_engine_finish(engine, run, &outcome);
    if (status == DIBS_LOST && l->stopping) l->lost++;
    if (status != DIBS_OK && !l->stopping) wrong(l, "finish", status);
  } else {
    dibs_engine_settle(engine, run, &outcome);
    note(l, id, &outcome);
  }
}

static void *work(void *context) {
  load *l = context;
  uint64_t random = random_start(l);
  dibs_engine *engine = l->engines[random % ENGINES];
  for (;;) {
    static const int64_t waits[] = {0, 1, 20, DIBS_FOREVER, DIBS_FOREVER};
    dibs_run *run;
    int status =
        dibs_engine_next(engine, waits[random_below(&random, 5)], &run);
    if (status == DIBS_OK) work_on(l, engine, run, &random);
    if (status == DIBS_INTERRUPTED) l->interrupted++;
    if (status == DIBS_EMPTY) usleep(200);
    if (status == DIBS_CLOSED) return NULL;
    if (status != DIBS_OK && status != DIBS_INTERRUPTED &&
        status != DIBS_EMPTY) {
      wrong(l, dibs_engine_error(engine), status);
      return NULL;
    }
  }
}

static void *interrupt(void *context) {
  load *l = context;
  uint64_t random = random_start(l);
  while (!l->over) {
    dibs_engine_interrupt(l->engines[random_below(&random, ENGINES)]);
    usleep((useconds_t)random_below(&random, 5000));
  }
  return NULL;
}

static void *cancel(void *context) {
  load *l = context;
  uint64_t random = random_start(l);
  dibs_db *db = load_open(l);
  while (!l->over) {
    int64_t id = 1 + random_below(&random, l->jobs);
    int status = dibs_cancel(db, &id, 1, NULL, NULL);
    if (status == DIBS_OK) {
      l->cancels[id]++;
      l->cancelled++;
      l->ended[id]++;
      l->ends++;
    } else if (status != DIBS_NOT_FOUND && status != DIBS_STATE) {
      wrong(l, dibs_error(db), status);
    }
    usleep((useconds_t)random_below(&random, 4000));
  }
  dibs_close(db);
  return NULL;
}

static load *load_new(fixture *f, int wake) {
  load *l = calloc(1, sizeof *l);
  expect_true(l != NULL);
  l->f = f;
  l->wake = wake;
  l->jobs = 8000 / slowness() / PRODUCERS * PRODUCERS;
  l->seed = (uint64_t)environment_number("DIBS_TEST_SEED", milliseconds());
  print_message("seed %llu\n", (unsigned long long)l->seed);
  l->at = calloc((size_t)l->jobs + 1, 1);
  l->ended = calloc((size_t)l->jobs + 1, 1);
  l->cancels = calloc((size_t)l->jobs + 1, 1);
  expect_true(l->at && l->ended && l->cancels);
  for (int i = 0; i < ENGINES; i++) {
    dibs_open_options open = system_options();
    dibs_engine_options options = engine_options(40);
    open.wake = wake;
    options.lease = 5 * MINUTE; /* not what this is about */
    options.context = l;
    options.settled = on_settled;
    l->engines[i] = start_with(f, &open, &options);
  }
  return l;
}

static void load_free(load *l) {
  free(l->at);
  free(l->ended);
  free(l->cancels);
  free(l);
}

/* Each job is in the file, or was done once. */
static void expect_all_accounted_for(load *l) {
  sqlite3 *db = plain_open(l->f->path);
  sqlite3_stmt *rows = NULL;
  sqlite3_prepare_v2(db, "SELECT id FROM dibs_job", -1, &rows, NULL);
  while (sqlite3_step(rows) == SQLITE_ROW) {
    int64_t id = sqlite3_column_int64(rows, 0);
    expect_true(id >= 1 && id <= l->jobs);
    l->ended[id]++;
  }
  sqlite3_finalize(rows);
  sqlite3_close(db);
  for (int id = 1; id <= l->jobs; id++) {
    if (l->ended[id] != 1) {
      fail_msg("job %d was done, or is there, %d times", id, l->ended[id]);
    }
  }
}

static int64_t unfinished(fixture *f) {
  return raw_int(f, "SELECT (SELECT count(*) FROM dibs_job)"
                    " - (SELECT count(*) FROM dibs_dead)");
}

/* Wait until nothing is left, or, `sudden`, stop in the midst of it. */
static void load_stop(load *l, int sudden) {
  size_t released = 0;
  if (!sudden) eventually(unfinished(l->f) == 0);
  if (sudden) eventually(l->ends > l->jobs / 4);
  l->stopping = sudden;
  for (int i = 0; i < ENGINES; i++) {
    dibs_engine *engine = l->engines[i];
    expect_engine(engine,
                  dibs_engine_stop(engine, sudden ? 0 : LONG, &released),
                  DIBS_OK);
    if (!sudden) expect_int(released, 0);
  }
}

static void run_load(fixture *f, int wake, int sudden) {
  load *l = load_new(f, wake);
  pthread_t workers[WORKERS], producers[PRODUCERS], others[2];
  for (int i = 0; i < WORKERS; i++) {
    expect_int(pthread_create(&workers[i], NULL, work, l), 0);
  }
  for (int i = 0; i < PRODUCERS; i++) {
    expect_int(pthread_create(&producers[i], NULL, produce, l), 0);
  }
  expect_int(pthread_create(&others[0], NULL, interrupt, l), 0);
  expect_int(pthread_create(&others[1], NULL, cancel, l), 0);
  if (sudden) load_stop(l, 1);
  for (int i = 0; i < PRODUCERS; i++) pthread_join(producers[i], NULL);
  if (!sudden) load_stop(l, 0);
  for (int i = 0; i < WORKERS; i++) pthread_join(workers[i], NULL);
  l->over = 1;
  for (int i = 0; i < 2; i++) pthread_join(others[i], NULL);
  for (int i = 0; i < ENGINES; i++) stop_and_close(l->engines[i]);
  int64_t dead = raw_int(f, "SELECT count(*) FROM dibs_dead");
  int64_t present = unfinished(f);
  print_message("%d in = %d done (%d cancelled) + %d dead + %d present; "
                "%d lost, %d interrupted\n",
                (int)l->produced, (int)l->ends, (int)l->cancelled, (int)dead,
                (int)present, (int)l->lost, (int)l->interrupted);
  expect_int(l->wrong, 0);
  expect_int(l->produced, l->jobs);
  expect_int(l->ends + dead + present, l->jobs);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_leased"), 0);
  expect_all_accounted_for(l);
  load_free(l);
}

static void in_is_done_dead_and_present(void **state) {
  run_load(*state, DIBS_WAKE_AUTO, 0);
}

static void in_is_done_dead_and_present_without_a_sidecar(void **state) {
  run_load(*state, DIBS_WAKE_PORTABLE, 0);
}

static void a_sudden_stop_loses_nothing(void **state) {
  run_load(*state, DIBS_WAKE_AUTO, 1);
}

/* ---- A process that stands still --------------------------------------------- */

/* Long enough for a loaded machine, short enough for a test. */
static int64_t sleeper_lease(void) {
  return 300 * (slowness() > 1 ? 4 : 1);
}

/* Take two jobs, begin one, stand still, and go on as if nothing had been. */
static int help_sleep(const char *path, int wake) {
  dibs_open_options open = system_options();
  dibs_engine_options options = engine_options(2);
  dibs_settlement outcome = {.action = DIBS_ACK};
  dibs_engine *engine = NULL;
  dibs_run *run = NULL, *stale = NULL;
  open.wake = wake;
  options.lease = sleeper_lease();
  if (dibs_engine_open(path, &open, &options, &engine) != DIBS_OK) return 10;
  if (dibs_engine_next(engine, LONG, &run) != DIBS_OK) return 11;
  raise(SIGSTOP);
  /* The other was claimed, but is not to be begun. */
  if (dibs_engine_next(engine, 0, &stale) != DIBS_EMPTY) return 12;
  if (dibs_engine_settle(engine, run, &outcome) != DIBS_LOST) return 13;
  if (!outcome.message[0]) return 14;
  if (dibs_engine_next(engine, 0, &stale) != DIBS_EMPTY) return 15;
  return dibs_engine_close(engine);
}

static void outlast_a_sleeper(fixture *f, int wake) {
  dibs_open_options open = system_options();
  dibs_engine_options options = engine_options(2);
  int status = 0;
  open.wake = wake;
  fill(f, 2);
  pid_t child = helper_start("sleep", f->path, wake ? "1" : "0");
  expect_int(waitpid(child, &status, WUNTRACED), child);
  if (!WIFSTOPPED(status)) fail_msg("it ended with %x", (unsigned)status);
  expect_int(counts(f, "q").running, 2);
  dibs_engine *engine = start_with(f, &open, &options);
  for (int i = 0; i < 2; i++) {
    dibs_run *run = take_run(engine);
    expect_int(run->job->attempt, 2);
    expect_says(run->job->last_error, "the lease ran out");
    expect_int(settle(engine, run, DIBS_ACK), DIBS_OK);
  }
  expect_int(kill(child, SIGCONT), 0);
  helper_end(child);
  expect_no_job(engine);
  stop_and_close(engine);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

static void who_stands_still_loses_its_jobs(void **state) {
  outlast_a_sleeper(*state, DIBS_WAKE_AUTO);
}

static void who_stands_still_loses_its_jobs_without_a_sidecar(void **state) {
  outlast_a_sleeper(*state, DIBS_WAKE_PORTABLE);
}

/* ---- Memory that runs out ----------------------------------------------------- */

/* Open an engine, let it do two jobs, and close it, while memory fails once. What
** fails is tried again. */
static void live_without_memory(fixture *f, int64_t n) {
  dibs_open_options open = system_options();
  dibs_engine_options options = engine_options(2);
  dibs_engine *engine = NULL;
  dibs_settlement outcome = {.action = DIBS_FAIL, .error = "as it should be"};
  options.worker = "w";
  faults_memory_arm(n, 0);
  int status = dibs_engine_open(f->path, &open, &options, &engine);
  if (status == DIBS_OK) {
    dibs_run *one = NULL, *two = NULL;
    int first = dibs_engine_next(engine, LONG, &one);
    int second = dibs_engine_next(engine, LONG, &two);
    int finished = first ? first : dibs_engine_finish(engine, one, &outcome);
    if (finished == DIBS_NOMEM) {
      finished = dibs_engine_finish(engine, one, &outcome);
    }
    int settled = second ? second : settle(engine, two, DIBS_ACK);
    int stopped = dibs_engine_stop(engine, LONG, NULL);
    int failed = faults_memory_disarm(NULL);
    if (first || second || finished || settled ||
        (stopped && (stopped != DIBS_NOMEM || !failed))) {
      fail_msg("allocation %d: %d %d %d %d %d", (int)n, first, second, finished,
               settled, stopped);
    }
  } else {
    faults_memory_disarm(NULL);
    expect_int(status, DIBS_NOMEM);
    if (engine) {
      dibs_run *run = NULL;
      expect_int(dibs_engine_next(engine, 0, &run), DIBS_NOMEM);
      expect_int(dibs_engine_stop(engine, 0, NULL), DIBS_NOMEM);
    }
  }
  expect_true(*dibs_engine_error(engine) != '\0' || status == DIBS_OK);
  int closed = dibs_engine_close(engine);
  expect_true(closed == DIBS_OK || closed == DIBS_NOMEM);
}

static void memory_runs_out_anywhere(void **state) {
  fixture *f = *state;
  int64_t stride = environment_number("DIBS_TEST_STRIDE", 37 * slowness());
  int runs = 0;
  int64_t calls = 0;
  /* How many there are. */
  fill(f, 2);
  live_without_memory(f, 1000000000);
  faults_memory_disarm(&calls);
  expect_int(counts(f, "q").dead, 1);
  for (int64_t n = 1; n <= calls + 10; n += n < 40 ? 1 : stride, runs++) {
    raw_run(f, "DELETE FROM dibs_dead; DELETE FROM dibs_job;"
               "DELETE FROM dibs_error; DELETE FROM dibs_ready");
    fill(f, 2);
    live_without_memory(f, n);
    dibs_queue_stats q = counts(f, "q");
    expect_int(q.running, 0);
    expect_true((q.dead == 1 && q.ready == 0) || (q.dead == 0 && q.ready == 2));
  }
  print_message("%d failures of %d allocations\n", runs, (int)calls);
}

int main(int count, char **arguments) {
  const struct CMUnitTest tests[] = {
      TEST_SYSTEM(in_is_done_dead_and_present),
      TEST_SYSTEM(in_is_done_dead_and_present_without_a_sidecar),
      TEST_SYSTEM(a_sudden_stop_loses_nothing),
      TEST_SYSTEM(who_stands_still_loses_its_jobs),
      TEST_SYSTEM(who_stands_still_loses_its_jobs_without_a_sidecar),
      TEST_SYSTEM(memory_runs_out_anywhere),
  };
  if (count == 4) return help_sleep(arguments[2], arguments[3][0] == '1');
  faults_memory_install();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
