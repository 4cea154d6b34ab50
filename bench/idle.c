/* SPDX-License-Identifier: MIT */
/*
** idle.c: what workers cost that have nothing to do, and how many of them a job
** wakes.
**
**     bench/run idle [--folder F] [--workers N] [--seconds N] [--jobs N]
**
** Workers wait, 64 unless told otherwise, for the jobs of one queue:
**
** - processes, dibs_claim: each waits in a claim
** - processes, engine: each waits in the engine of its own
** - threads, dibs_claim: of one process, each with a handle of its own
** - threads, one engine: of one process, in dibs_engine_next()
**
** They are left alone for so many seconds, and the processor time, voluntary
** context switches, wake-ups by signals and write transactions of all of them
** are told. Then so many jobs are enqueued, one at a time: how many workers
** woke and how many write transactions there were until it was done (the
** enqueue, the claim, the acknowledgement, and a claim that finds no other
** one), and what followed within 0.15 s, when the monitors, which cannot know
** who wrote, let a worker look. What there is without a job is taken off. In
** the end, how many of these jobs were found by the fallback interval only:
** none should be. Switches are the kernel's, of all threads, the others are
** counters of the sidecar.
**
** Then the same beside an application that commits a row of its own to the same
** file 1,000 times a second, by plain SQLite. What processor time it takes
** stands at the end of each line, and without workers above them.
*/
#include <ctype.h>
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "measure.h"
#include "plain.h"

#define WORKERS_MAX 400 /* the sidecar has 512 slots */
#define JOBS_MAX    1000
#define RATE        1000 /* rows a second, of the application */
#define SETTLE      3.0  /* seconds until all is quiet */
#define AFTER       0.15 /* seconds after a job is done */

static const char HELP[] =
    "bench/run idle: what workers cost that have nothing to do, and how many\n"
    "of them a job wakes\n"
    "  --folder F              where, default .\n"
    "  --workers N             default 64\n"
    "  --seconds N             of each measurement, default 60\n"
    "  --jobs N                enqueued one at a time after it, default 20\n";

static const char *const QUEUE[] = {"bench"};

enum form {
  CLAIM_PROCESSES,
  ENGINE_PROCESSES,
  CLAIM_THREADS,
  ONE_ENGINE,
  FORMS
};

static const char *const FORM[FORMS] = {
    "processes, dibs_claim", "processes, engine", "threads, dibs_claim",
    "threads, one engine"};

/* In shared memory. */
struct stage {
  struct gate gate;         /* arrived are the workers that are about to wait */
  _Atomic uint32_t done;    /* jobs */
  _Atomic uint64_t commits; /* of the application */
};

struct workers {
  enum form form;
  const char *path;
  struct stage *stage;
  size_t count;
  pid_t pids[WORKERS_MAX];
  size_t processes;
  const void *board;
  dibs_engine *engine; /* that all threads share */
};

/* ------------------------------------------------------------------------ */
/* Workers                                                                  */
/* ------------------------------------------------------------------------ */

static void work_claiming(struct workers *workers) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_db *db = db_open(workers->path, DIBS_SYNCHRONOUS_NORMAL);
  options.wait = DIBS_FOREVER;
  options.attached = 1;
  gate_wait(&workers->stage->gate);
  for (;;) {
    dibs_job_list *list;
    must(db, dibs_claim(db, QUEUE, 1, &options, &list));
    must(db, dibs_ack(db, list->jobs[0].receipt, NULL));
    dibs_job_list_free(list);
    atomic_fetch_add(&workers->stage->done, 1);
  }
}

static dibs_engine *engine_open(const char *path, int64_t slots) {
  dibs_open_options open = DIBS_OPEN_OPTIONS_INIT;
  dibs_engine_options options = DIBS_ENGINE_OPTIONS_INIT;
  dibs_engine *engine;
  open.synchronous = DIBS_SYNCHRONOUS_NORMAL;
  options.queues = QUEUE;
  options.queue_count = 1;
  options.slots = slots;
  if (dibs_engine_open(path, &open, &options, &engine) != DIBS_OK)
    give_up("%s", dibs_engine_error(engine));
  return engine;
}

static void work_engine(struct workers *workers, dibs_engine *engine) {
  gate_wait(&workers->stage->gate);
  for (;;) {
    dibs_run *run;
    dibs_settlement outcome = {.action = DIBS_ACK};
    if (dibs_engine_next(engine, DIBS_FOREVER, &run) != DIBS_OK)
      give_up("%s", dibs_engine_error(engine));
    if (dibs_engine_settle(engine, run, &outcome) != DIBS_OK)
      give_up("%s", outcome.message);
    atomic_fetch_add(&workers->stage->done, 1);
  }
}

static void *thread_main(void *context) {
  struct workers *workers = context;
  if (workers->engine)
    work_engine(workers, workers->engine);
  else
    work_claiming(workers);
  return NULL;
}

_Noreturn static void threads_run(struct workers *workers) {
  if (workers->form == ONE_ENGINE)
    workers->engine = engine_open(workers->path, (int64_t)workers->count);
  for (size_t i = 0; i < workers->count; i++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, thread_main, workers) != 0)
      give_up("no thread %zu", i);
  }
  for (;;) pause();
}

_Noreturn static void process_run(struct workers *workers) {
  if (workers->form == CLAIM_PROCESSES) work_claiming(workers);
  if (workers->form == ENGINE_PROCESSES)
    work_engine(workers, engine_open(workers->path, 1));
  threads_run(workers);
}

static void workers_start(struct workers *workers) {
  int threads = workers->form == CLAIM_THREADS || workers->form == ONE_ENGINE;
  workers->processes = threads ? 1 : workers->count;
  for (size_t i = 0; i < workers->processes; i++) {
    workers->pids[i] = child_start();
    if (workers->pids[i] == 0) process_run(workers);
  }
  gate_open(&workers->stage->gate, (uint32_t)workers->count);
}

/* ------------------------------------------------------------------------ */
/* The application                                                          */
/* ------------------------------------------------------------------------ */

_Noreturn static void application_run(const char *path, struct stage *stage) {
  struct plain plain;
  double next = seconds();
  plain_open(&plain, path, DIBS_SYNCHRONOUS_NORMAL);
  for (;;) {
    plain_row(&plain, "{\"application\":\"its own\"}");
    atomic_fetch_add(&stage->commits, 1);
    next += 1.0 / RATE;
    double left = next - seconds();
    if (left > 0) sleep_microseconds(left * 1e6);
  }
}

/* ------------------------------------------------------------------------ */
/* What has been used up                                                    */
/* ------------------------------------------------------------------------ */

/* Since the processes began. */
struct used {
  double at;        /* seconds() */
  double processor; /* seconds */
  double switches;  /* voluntary */
  struct counters counters;
};

static double processor_time(pid_t pid) {
  clockid_t clock;
  struct timespec time;
  if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &time))
    give_up("process %d is gone", (int)pid);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double thread_switches(const char *path) {
  char line[256];
  double switches = 0;
  FILE *file = fopen(path, "r");
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "voluntary_ctxt_switches: %lf", &switches) == 1) break;
  if (file) fclose(file);
  return switches;
}

static double process_switches(pid_t pid) {
  char path[400];
  double switches = 0;
  struct dirent *entry;
  snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
  DIR *tasks = opendir(path);
  while (tasks && (entry = readdir(tasks))) {
    if (!isdigit((unsigned char)entry->d_name[0])) continue;
    snprintf(path, sizeof path, "/proc/%d/task/%s/status", (int)pid,
             entry->d_name);
    switches += thread_switches(path);
  }
  if (tasks) closedir(tasks);
  return switches;
}

static struct used workers_used(const struct workers *workers) {
  struct used used = {.at = seconds()};
  for (size_t i = 0; i < workers->processes; i++) {
    used.processor += processor_time(workers->pids[i]);
    used.switches += process_switches(workers->pids[i]);
  }
  used.counters = board_counters(workers->board);
  return used;
}

/* ------------------------------------------------------------------------ */
/* Measuring                                                                */
/* ------------------------------------------------------------------------ */

/* A second, of all workers. */
struct rates {
  double processor;
  double switches;
  double wakes;
  double writes;
};

static struct rates rates_between(const struct used *from,
                                  const struct used *to) {
  double passed = to->at - from->at;
  return (struct rates){
      (to->processor - from->processor) / passed,
      (to->switches - from->switches) / passed,
      (double)(to->counters.wakes - from->counters.wakes) / passed,
      (double)(to->counters.writes - from->counters.writes) / passed};
}

/* What a job led to, beyond what goes on in any case. */
struct effects {
  double wakes[JOBS_MAX]; /* until it was done */
  double writes[JOBS_MAX];
  double wakes_after[JOBS_MAX];
  double writes_after[JOBS_MAX];
  double switches[JOBS_MAX]; /* in all */
  int64_t rescues;           /* of all jobs */
};

static void job_measure(struct workers *workers, dibs_db *db,
                        const struct rates *rates, struct effects *effects,
                        int64_t number) {
  struct used begun = workers_used(workers), after;
  must(db, dibs_enqueue(db, QUEUE[0], dibs_json("1"), NULL, NULL));
  while (atomic_load(&workers->stage->done) <= number) sleep_microseconds(100);
  struct counters done = board_counters(workers->board);
  double took = seconds() - begun.at;
  sleep_microseconds(AFTER * 1e6);
  after = workers_used(workers);
  double rest = after.at - begun.at - took;
  effects->wakes[number] =
      (double)(done.wakes - begun.counters.wakes) - rates->wakes * took;
  effects->writes[number] =
      (double)(done.writes - begun.counters.writes) - rates->writes * took;
  effects->wakes_after[number] =
      (double)(after.counters.wakes - done.wakes) - rates->wakes * rest;
  effects->writes_after[number] =
      (double)(after.counters.writes - done.writes) - rates->writes * rest;
  effects->rescues += after.counters.rescues - begun.counters.rescues;
  effects->switches[number] =
      after.switches - begun.switches - rates->switches * (took + rest);
}

static void print_row(const struct workers *workers, const struct rates *rates,
                      struct effects *effects, size_t jobs,
                      double application) {
  double each = 1 / (double)workers->count;
  struct spread wakes = spread_of(effects->wakes, jobs);
  printf("%-21s %6.1f %6.3f %8.2f %6.1f %6.1f | %5.1f %5.1f %6.1f | %5.1f "
         "%6.1f | %8.1f %7lld",
         FORM[workers->form], rates->processor * 1e3,
         rates->processor * 1e3 * each, rates->switches * each, rates->wakes,
         rates->writes, wakes.median, wakes.most, median(effects->writes, jobs),
         median(effects->wakes_after, jobs),
         median(effects->writes_after, jobs), median(effects->switches, jobs),
         (long long)effects->rescues);
  if (application > 0) printf(" | %5.1f", application * 1e3);
  printf("\n");
  fflush(stdout);
}

static void print_head(void) {
  printf("                     |  idle, a second                       | one "
         "job, until done | 0.15 s after | in all\n"
         "                     |  ms of processor                      | "
         "wakes             |              |         by fall-\n"
         "                         all   each switches  wakes writes | "
         "median  most writes | wakes writes | switches  back\n");
}

/* The processor time that a process takes, a second. */
static double application_measure(pid_t pid, double length) {
  double began = seconds(), before = pid ? processor_time(pid) : 0;
  sleep_microseconds(length * 1e6);
  double took = pid ? processor_time(pid) - before : 0;
  return took / (seconds() - began);
}

static void form_measure(enum form form, size_t count, double length,
                         int64_t jobs, int with_application) {
  static struct effects effects;
  struct workers workers = {.form = form,
                            .path = scratch_path("jobs.db"),
                            .stage = shared_memory(sizeof(struct stage)),
                            .count = count};
  dibs_db *db;
  pid_t application = 0;
  dibs_close(db_open(workers.path, DIBS_SYNCHRONOUS_NORMAL));
  workers.board = board_open(workers.path);
  workers_start(&workers);
  if (with_application && (application = child_start()) == 0)
    application_run(workers.path, workers.stage);
  sleep_microseconds(SETTLE * 1e6);
  struct used before = workers_used(&workers), after;
  double application_took = application_measure(application, length);
  after = workers_used(&workers);
  struct rates rates = rates_between(&before, &after);
  db = db_open(workers.path, DIBS_SYNCHRONOUS_NORMAL);
  effects.rescues = 0;
  for (int64_t i = 0; i < jobs; i++)
    job_measure(&workers, db, &rates, &effects, i);
  dibs_close(db);
  print_row(&workers, &rates, &effects, (size_t)jobs, application_took);
  if (application) child_kill(application);
  for (size_t i = 0; i < workers.processes; i++) child_kill(workers.pids[i]);
  database_remove(workers.path);
}

static void application_alone(double length) {
  const char *path = scratch_path("jobs.db");
  struct stage *stage = shared_memory(sizeof *stage);
  dibs_close(db_open(path, DIBS_SYNCHRONOUS_NORMAL));
  pid_t application = child_start();
  if (application == 0) application_run(path, stage);
  sleep_microseconds(SETTLE * 1e6);
  uint64_t commits = atomic_load(&stage->commits);
  double took = application_measure(application, length);
  commits = atomic_load(&stage->commits) - commits;
  printf("\nBeside an application that commits %.0f times a second; without "
         "workers that takes it %.1f ms\nof processor a second, with them what "
         "stands at the end:\n",
         (double)commits / length, took * 1e3);
  child_kill(application);
  database_remove(path);
}

int main(int argc, char **argv) {
  options_check(argc, argv, HELP);
  int64_t count = option_number(argc, argv, "workers", 64);
  int64_t jobs = option_number(argc, argv, "jobs", 20);
  double length = (double)option_number(argc, argv, "seconds", 60);
  if (count > WORKERS_MAX || jobs > JOBS_MAX)
    give_up("at most %d workers and %d jobs", WORKERS_MAX, JOBS_MAX);
  scratch_folder(option_text(argc, argv, "folder", "."));
  print_machine();
  printf("%lld workers wait for %.0f s; then %lld jobs come, one at a time\n\n",
         (long long)count, length, (long long)jobs);
  print_head();
  for (int form = 0; form < FORMS; form++)
    form_measure((enum form)form, (size_t)count, length, jobs, 0);
  application_alone(length);
  for (int form = 0; form < FORMS; form++)
    form_measure((enum form)form, (size_t)count, length, jobs, 1);
  return 0;
}
