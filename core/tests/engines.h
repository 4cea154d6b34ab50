/* SPDX-License-Identifier: MIT */
/*
** engines.h: what the tests of the engine share: engines in few words, what
** their callbacks were told, calls in threads of their own, and the statements
** that the library makes.
**
** Nothing here depends on how fast anything is: what has to come is waited for,
** long. The expectations are for the main thread only, as the harness's.
*/
#ifndef DIBS_ENGINES_H
#define DIBS_ENGINES_H

#include "harness.h"

#include <pthread.h>
#include <unistd.h>

/* ---- Waiting for what has to come ---------------------------------------- */

#define LONG (60 * SECOND)

/* Of a clock that does not jump. */
int64_t milliseconds(void);

/* Wait until it is so. */
#define eventually(condition)                                                  \
  do {                                                                         \
    int64_t eventually_end = milliseconds() + LONG;                            \
    while (!(condition) && milliseconds() < eventually_end) usleep(500);       \
    check_true(!!(condition), "eventually " #condition, __FILE__, __LINE__);   \
  } while (0)

/* ---- Statements of the library ------------------------------------------- */

extern _Atomic int begins;              /* write transactions begun */
extern _Atomic int commits;             /* and about to be committed */
extern _Atomic int commit_takes;        /* microseconds, as on a slow disk */
extern void (*_Atomic at_begin)(void);  /* called by who begins; NULL */
extern void (*_Atomic at_commit)(void); /* called by who commits; NULL */

/* Count them, for connections that are opened from now on. */
void watch_statements(void);

/* ---- Callbacks ----------------------------------------------------------- */

/* What callbacks were told, and how they behave: their context. */
typedef struct told {
  _Atomic int ready;
  _Atomic int flagged;
  _Atomic int settled;
  _Atomic int64_t last_id;   /* of `settled`; below 0: it was told nonsense */
  _Atomic int last_status;   /* of `settled` */
  _Atomic int last_state;    /* of `settled` */
  _Atomic int last_flags;    /* of the run that was settled */
  _Atomic int inside;        /* callbacks under way */
  _Atomic int most_inside;   /* ever */
  _Atomic int hold;          /* `settled` waits while this is set */
  _Atomic int held_up;       /* it waits, or has waited */
  _Atomic int trouble;       /* log events */
  _Atomic int recovered;     /* log events */
  _Atomic int unknown;       /* log events */
  _Atomic int attempts_lost; /* log events: lapsed, crashed, dead */
  int said;         /* log events; not atomic, for they come one at a time */
  int descriptor;   /* an eventfd for `ready`; 0: none */
  const char *path; /* `settled` looks into this database; NULL: nowhere */
  _Atomic int uncommitted; /* `settled` was called before it was so */
} told;

/* Options of an engine on the queue q, and of one that tells of flags and of
** what is settled, to a `t` that is emptied. */
dibs_engine_options engine_options(int64_t slots);
dibs_engine_options telling_options(int64_t slots, told *t);

/* Tell `t` when there is something to take, too. */
void tell_ready(dibs_engine_options *options);

/* Tell `t` what the log is told. */
void tell_log(dibs_open_options *open, told *t);

/* ---- Engines ------------------------------------------------------------- */

/* A test whose fixture has the system's clock, as programs do. */
int setup_system(void **state);
#define TEST_SYSTEM(name)                                                      \
  cmocka_unit_test_setup_teardown(name, setup_system, fixture_teardown)

/* The options of opening that go with it. */
dibs_open_options system_options(void);

/* Open an engine on the fixture's file: by the system's clock; by the fixture's;
** with a busy timeout of 50 ms, and a log to `t`. */
dibs_engine *start_with(fixture *f, const dibs_open_options *open,
                        const dibs_engine_options *options);
dibs_engine *start(fixture *f, const dibs_engine_options *options);
dibs_engine *start_driven(fixture *f, const dibs_engine_options *options);
dibs_engine *start_troubled(fixture *f, int64_t slots, told *t);
void stop_and_close(dibs_engine *engine);

/* The next job, which has to come; none, now. */
dibs_run *take_run(dibs_engine *engine);
void expect_no_job(dibs_engine *engine);

/* Finish a run, in the way of both functions. The second checks that what is
** said of the outcome is true: -1 or -2 when it is not. In any thread. */
int finish(dibs_engine *engine, dibs_run *run, int action);
int settle(dibs_engine *engine, dibs_run *run, int action);

/* A call of an engine returns this status. The message has its words. */
void check_engine(dibs_engine *engine, int status, int wanted, const char *text,
                  const char *file, int line);
#define expect_engine(engine, call, wanted)                                    \
  check_engine((engine), (call), (wanted), #call, __FILE__, __LINE__)

/* Enqueue so many jobs into q, in one transaction. */
void fill(fixture *f, int jobs);

/* Numbers of the sidecar (sidecar.c): how many are waiting; how often somebody
** found something by the fallback only. */
int64_t sidecar_waiters(fixture *f);
int64_t sidecar_rescues(fixture *f);

/* Hold the write lock from a plain connection. */
sqlite3 *lock_writes(fixture *f);
void unlock_writes(sqlite3 *locker);

/* ---- Calls in threads of their own --------------------------------------- */

/* A call that may wait. What it takes and gives stands in the others. */
typedef struct call {
  dibs_engine *engine;
  dibs_run *run;   /* next: OUT */
  int64_t wait;    /* of next, stop and run_wait */
  int action;      /* of settle */
  int known;       /* of run_wait */
  size_t released; /* of stop: OUT */
  int64_t id;      /* of next: OUT, its job's */
  _Atomic int status;
  _Atomic int done;
  pthread_t thread;
} call;

void *call_next(void *context);
void *call_next_often(void *context); /* again and again, until there is one */
void *call_settle(void *context);
void *call_stop(void *context);
void *call_run_wait(void *context);

void call_start(call *c, void *(*function)(void *), dibs_engine *engine,
                int64_t wait);

/* Wait until it has returned; its status. */
int call_end(call *c);

/* Threads that take and finish jobs, until so many are finished. */
typedef struct crew {
  dibs_engine *engine;
  int jobs;
  _Atomic int *begun; /* how often, by id */
  _Atomic int finished;
  _Atomic int holding; /* handlers at work */
  _Atomic int most;    /* ever */
  _Atomic int wrong;
} crew;

void *crew_member(void *context); /* until the engine is stopped */

/* Let threads work off the `jobs` jobs that there are. They stop the engine. */
void crew_work(crew *c, dibs_engine *engine, int jobs, int threads);

/* ---- Helper processes ---------------------------------------------------- */

/* Run this executable with three arguments; wait for one that has to end with
** 0. */
pid_t helper_start(const char *what, const char *path, const char *argument);
void helper_end(pid_t child);

#endif
