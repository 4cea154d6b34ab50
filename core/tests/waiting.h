/* SPDX-License-Identifier: MIT */
/*
** waiting.h: what the tests of waking, of the sidecar and of dying processes
** share: calls that wait on threads of their own, helpers that are processes
** of their own, and a look into the sidecar's map.
**
** Time is real here, for a clock that a test drives makes every wait look
** every 50 ms, and nobody could tell a wake from a look. Nothing is measured
** against a limit either. Whether a waiter was woken is seen in the kernel: who
** has signalled returns after the waiters are off the futex, so whoever still
** sleeps on it then was not woken.
**
** Some tests run three times: with the sidecar, and in both ways without.
** Where there is none, only what comes of it can be seen.
*/
#ifndef DIBS_WAITING_H
#define DIBS_WAITING_H

#include "harness.h"

#include <pthread.h>
#include <sys/types.h>

/* ---- Handles ------------------------------------------------------------- */

enum way { WITH_SIDECAR, PORTABLE_BY_OPTION, PORTABLE_BY_ENVIRONMENT };

/* How handles are opened from now on. */
void go_way(enum way way);
int is_portable(void);

/* The options of that way, with the system's clock. */
dibs_open_options waiting_options(void);

/* A handle on the file; the test closes it. */
dibs_db *waiting_open(const char *path);

/* Setup of a test: the fixture's handle is of that way and of the system's
** clock. */
int waiting_setup(void **state);

#define WAITING_TEST(name)                                                     \
  cmocka_unit_test_setup_teardown(name, waiting_setup, fixture_teardown)

/* Milliseconds of a clock that does not jump. */
int64_t steady_now(void);

/* ---- The sidecar's map --------------------------------------------------- */

/* Offsets, as the head of sidecar.c has them. */
enum {
  MAP_VERSION = 8,
  MAP_SEQ = 64,
  MAP_WAITERS = 128,
  MAP_PROBED = 144,
  MAP_SIGNALS = 256,
  MAP_WAKES = 264,
  MAP_CHANNELS = 512,
  MAP_CHANNEL_SIZE = 16,
  MAP_CHANNEL_COUNT = 28, /* of queues */
  MAP_SLOTS = 4096,
  MAP_SLOT_SIZE = 64,
  MAP_SLOT_COUNT = 512,
  MAP_SIZE = 4096 + 512 * 64
};

/* Map the sidecar of the database at that path; NULL when there is none of
** that size. Unmap it with map_close(). */
unsigned char *map_open(const char *path);
void map_close(unsigned char *map);

uint32_t map_u32(const unsigned char *map, size_t offset);
uint64_t map_u64(const unsigned char *map, size_t offset);
void map_set_u64(unsigned char *map, size_t offset, uint64_t value);

/* The name of the sidecar, in a buffer that lives until the next call. */
const char *map_name(const char *path);

/* Keep every process from watching for foreign writers and for deaths, which
** wakes waiters too: take the locks that make a process do so. Gives a
** descriptor; close it. */
int monitors_prevent(const char *path);

/* ---- Waiters ------------------------------------------------------------- */

/* A claim, or with `join` a dibs_join(), on a thread. */
typedef struct waiter {
  const char *path;        /* where to open a handle of its own; or */
  dibs_db *db;             /* a handle to share */
  const char *patterns[4]; /* up to the first NULL */
  int64_t wait;            /* ms */
  int64_t lease;           /* ms */
  int hasty;               /* nonzero: its own handle has no busy timeout */
  int polls;               /* nonzero: it has no sidecar */
  int join;
  int status; /* from here on what became of it */
  int64_t id;
  int64_t attempt;
  int64_t crashes;
  int64_t due_at;
  int64_t claimed_at;
  char receipt[64];
  char queue[256];
  _Atomic int tid;
  _Atomic int over;
  _Atomic int gate; /* enum gate */
  pthread_t thread;
} waiter;

/* A waiter for one pattern, with a handle of its own and 30 s of patience. */
waiter waiter_for(fixture *f, const char *pattern);

/* Start it; and go on once it sleeps. */
void waiter_begin(waiter *w);
void waiter_start(waiter *w);

/* Nonzero while it sleeps and nobody has woken it. */
int waiter_sleeps(const waiter *w);

/* For how many more ms it is going to sleep; -1 when it does not sleep, or polls.
** That is what it asked the kernel for, however busy the machine is. */
int64_t waiter_sleeps_for(const waiter *w);

/* Wait until it is back. */
void waiter_join(waiter *w);

/* It was woken by what was done just now (unless it polls), and is back with the
** job; 0: with none, and the status is DIBS_OK. */
void expect_woken(waiter *w, int64_t id);

/*
** A gate stops a waiter at the next statement that it runs: at its next look.
** on_statement(at_gate) before its handle is opened.
*/
enum gate { GATE_OPEN, GATE_CLOSED, GATE_REACHED };
void at_gate(const char *sql);

/* Wait until somebody stands before the gate of one of the waiters: which. */
size_t gate_wait(waiter *waiters, size_t count);

/* ---- Helpers ------------------------------------------------------------- */

/*
** A process that does what it is told, a line a command, and answers with a
** line (helper.c lists them). It dies with the test.
*/
typedef struct helper {
  pid_t pid;
  pid_t child; /* ours, to be waited for: the helper or who started it */
  int in;      /* what it is told */
  int out;     /* what it says */
  int polls;   /* nonzero: it has no sidecar */
  char answer[512];
} helper;

helper helper_start(void);

/* The same where others are seen differently. A pid of 0 when that is not
** permitted. */
enum apart {
  APART_PIDS,      /* a pid namespace of its own, the /proc of all */
  APART_PIDS_PROC, /* the same with its own /proc */
  APART_HIDDEN,    /* a /proc that hides other users' processes */
  APART_TIME /* a time namespace: another time since the machine's start */
};
helper helper_start_apart(enum apart apart);

/* Tell it to do something; then hear what it says. */
void helper_tell(helper *h, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
const char *helper_hear(helper *h);

/* Both. */
const char *helper_ask(helper *h, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Ask, and fail the test unless it says that. */
void helper_do(helper *h, const char *wanted, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Wait until it sleeps in a claim. */
void helper_await_sleep(const helper *h);

/* Nonzero while it does; 0, too, where that cannot be seen. */
int helper_sleeps(const helper *h);

/* Nonzero where the kernel lets that be seen. */
int helper_is_visible(const helper *h);

/* A signal to it; SIGKILL also waits for its end. */
void helper_signal(helper *h, int number);

/* Let it go, and wait for its end. */
void helper_end(helper *h);

/* Leave it alone and free what this side has of it. */
void helper_forget(helper *h);

/* What main() of a test calls first: in a helper it does not return. */
void helper_main(int count, char **arguments);

#endif
