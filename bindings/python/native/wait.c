/* SPDX-License-Identifier: MIT */
/*
** wait.c: what ends a wait of the main thread.
**
** When a signal comes, Python runs its handler in the main thread and nowhere
** else. So for the length of a wait in that thread, the handlers that Python has
** installed are called through one of ours, which then interrupts the wait. If
** Python's handler raises nothing, the wait goes on.
**
** An engine may not be interrupted by a signal handler. A thread does that in its
** place, the poker, which sleeps until a handler pokes it. It is started by the
** first wait of the main thread for an engine.
*/
#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

/* ----------------------------------------------------------------- signals */

/* What the main thread waits on, and the handlers in whose place ours is. */
static dibs_db *volatile waiting;
static int pokes[2] = {-1, -1}; /* a pipe to the poker */
static volatile sig_atomic_t signalled;
static struct sigaction replaced[NSIG];
static bool is_replaced[NSIG];

static void signal_pass(int number) {
  int error = errno;
  replaced[number].sa_handler(number);
  signalled = 1;
  if (waiting) dibs_interrupt(waiting);
  if (pokes[1] >= 0) {
    ssize_t written = write(pokes[1], "", 1);
    (void)written; /* a full pipe pokes as well */
  }
  errno = error;
}

/* Signals that are no events from outside, or that cannot be handled. */
static bool signal_is_fault(int number) {
  return number == SIGSEGV || number == SIGBUS || number == SIGFPE ||
         number == SIGILL || number == SIGABRT || number == SIGTRAP ||
         number == SIGKILL || number == SIGSTOP;
}

static void signals_replace(void) {
  for (int number = 1; number < NSIG; number++) {
    struct sigaction *old = &replaced[number];
    is_replaced[number] = false;
    if (signal_is_fault(number) || sigaction(number, NULL, old) ||
        old->sa_flags & SA_SIGINFO || old->sa_handler == SIG_DFL ||
        old->sa_handler == SIG_IGN)
      continue;
    struct sigaction ours = *old;
    ours.sa_handler = signal_pass;
    is_replaced[number] = !sigaction(number, &ours, NULL);
  }
}

static void signals_restore(void) {
  for (int number = 1; number < NSIG; number++)
    if (is_replaced[number]) sigaction(number, &replaced[number], NULL);
}

/* Whether this is the thread that runs signal handlers; -1 with an error. */
int thread_is_main(void) {
  PyObject *threading = PyImport_ImportModule("threading");
  PyObject *thread =
      threading ? PyObject_CallMethod(threading, "main_thread", NULL) : NULL;
  PyObject *ident = thread ? PyObject_GetAttrString(thread, "ident") : NULL;
  unsigned long main = ident ? PyLong_AsUnsignedLong(ident) : 0;
  Py_XDECREF(ident);
  Py_XDECREF(thread);
  Py_XDECREF(threading);
  if (PyErr_Occurred()) return -1;
  return main == PyThread_get_thread_ident();
}

/* ------------------------------------------------------------------ poker */

#define POKE_AGAIN 5 /* ms: the wait may only be about to begin */

static pthread_mutex_t poker_mutex = PTHREAD_MUTEX_INITIALIZER;
static dibs_engine *poked; /* what the main thread waits for */
static pid_t poker_pid;    /* the process that has the thread */

static bool poke(void) {
  pthread_mutex_lock(&poker_mutex);
  dibs_engine *engine = signalled ? poked : NULL;
  if (engine) dibs_engine_interrupt(engine);
  pthread_mutex_unlock(&poker_mutex);
  return engine != NULL;
}

static void *poker_main(void *context) {
  char byte;
  int end = *(int *)context;
  const struct timespec pause = {.tv_nsec = POKE_AGAIN * 1000000};
  for (;;) {
    ssize_t count = read(end, &byte, 1);
    if (count == 0 || (count < 0 && errno != EINTR)) return NULL;
    while (poke()) nanosleep(&pause, NULL);
  }
}

/* Without it, a signal is noticed at the end of the wait only. */
static void poker_start(void) {
  pthread_t thread;
  sigset_t all, before;
  if (poker_pid == getpid()) return;
  if (pokes[0] >= 0) close(pokes[0]);
  if (pokes[1] >= 0) close(pokes[1]);
  if (pipe2(pokes, O_CLOEXEC | O_NONBLOCK)) return;
  fcntl(pokes[0], F_SETFL, 0);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (!pthread_create(&thread, NULL, poker_main, &pokes[0])) {
    pthread_detach(thread);
    poker_pid = getpid();
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void poked_set(dibs_engine *engine) {
  pthread_mutex_lock(&poker_mutex);
  poked = engine;
  pthread_mutex_unlock(&poker_mutex);
}

/* ------------------------------------------------------------------- waits */

void signals_begin(dibs_db *db, dibs_engine *engine) {
  signalled = 0;
  waiting = db;
  if (engine) {
    poker_start();
    poked_set(engine);
  }
  signals_replace();
}

void signals_end(void) {
  signals_restore();
  waiting = NULL;
  if (poked) poked_set(NULL);
}

int64_t wait_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t wait_left(int64_t timeout, int64_t begin) {
  if (timeout == DIBS_FOREVER) return timeout;
  int64_t left = timeout - (wait_clock() - begin);
  return left > 0 ? left : 0;
}
