/* SPDX-License-Identifier: MIT */
/*
** death.c: how soon a job runs again whose worker was killed.
**
**     bench/run death [--folder F] [--count N]
**
** A worker holds a job with a lease of an hour. Another waits for jobs; then
** the first is killed by kill -9. Told is the time from the kill until the
** other has the job. Again and again, at random moments, each time with a new
** worker:
**
** - pidfd: both see each other's process, so the kernel tells of the end
** - locks: the workers that are killed are in a pid namespace of their own
**   each, as those of other containers are: all that can be seen of them is
**   that their lock is free. Takes the right to make namespaces
** - engine: as pidfd, but both have an engine in place of dibs_claim()
**
** Beside each stands when the parent saw the end of that process by a pidfd:
** how long the kernel takes to end it, which is the least that there can be.
*/
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

#define LEASE     3600000 /* ms */
#define COUNT_MAX 100000
#define PATIENCE  60 /* seconds */

static const char HELP[] =
    "bench/run death: how soon a job runs again whose worker was killed\n"
    "  --folder F              where, default .\n"
    "  --count N               kills of each kind, default 100\n";

static const char *const QUEUE[] = {"bench"};

enum kind { PIDFD, LOCKS, ENGINE, KINDS };

static const char *const KIND[KINDS] = {"pidfd", "locks only",
                                        "pidfd, engines"};

/* In shared memory. */
struct stage {
  struct gate gate;       /* the waiting worker is there */
  _Atomic uint32_t held;  /* jobs that a worker held */
  _Atomic uint32_t go;    /* jobs for which the other is to wait */
  _Atomic uint32_t rerun; /* jobs that it got */
  _Atomic int32_t pid;    /* of the worker to be killed, as we see it */
  _Atomic int64_t got;    /* when, in nanoseconds */
};

/* A worker with what it holds. */
struct worker {
  enum kind kind;
  const char *path;
  struct stage *stage;
  dibs_db *db;
  dibs_engine *engine;
};

static void worker_open(struct worker *worker) {
  dibs_open_options open = DIBS_OPEN_OPTIONS_INIT;
  dibs_engine_options options = DIBS_ENGINE_OPTIONS_INIT;
  open.synchronous = DIBS_SYNCHRONOUS_NORMAL;
  options.queues = QUEUE;
  options.queue_count = 1;
  options.lease = LEASE;
  if (worker->kind != ENGINE)
    worker->db = db_open(worker->path, DIBS_SYNCHRONOUS_NORMAL);
  else if (dibs_engine_open(worker->path, &open, &options, &worker->engine))
    give_up("%s", dibs_engine_error(worker->engine));
}

/* Wait for a job, and finish it. Gives when it came. */
static int64_t worker_take(struct worker *worker, int finish) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_settlement outcome = {.action = DIBS_ACK};
  dibs_job_list *list;
  dibs_run *run;
  options.lease = LEASE;
  options.wait = DIBS_FOREVER;
  options.attached = 1;
  if (worker->engine) {
    if (dibs_engine_next(worker->engine, DIBS_FOREVER, &run))
      give_up("%s", dibs_engine_error(worker->engine));
  } else {
    must(worker->db, dibs_claim(worker->db, QUEUE, 1, &options, &list));
  }
  int64_t got = nanoseconds();
  if (!finish) return got;
  if (worker->engine) {
    if (dibs_engine_settle(worker->engine, run, &outcome))
      give_up("%s", outcome.message);
  } else {
    must(worker->db, dibs_ack(worker->db, list->jobs[0].receipt, NULL));
    dibs_job_list_free(list);
  }
  return got;
}

/* The one that is killed. */
_Noreturn static void holder_run(struct worker *worker) {
  worker_open(worker);
  worker_take(worker, 0);
  atomic_fetch_add(&worker->stage->held, 1);
  for (;;) pause();
}

/* The one that goes on. */
_Noreturn static void heir_run(struct worker *worker) {
  struct stage *stage = worker->stage;
  worker_open(worker);
  gate_wait(&stage->gate);
  for (uint32_t i = 0;; i++) {
    while (atomic_load(&stage->go) == i) futex_wait(&stage->go, i);
    atomic_store(&stage->got, worker_take(worker, 1));
    atomic_fetch_add(&stage->rerun, 1);
  }
}

/* The parent of one in a namespace of its own. */
_Noreturn static void namespace_run(struct worker *worker) {
  pid_t pid;
  if (unshare(CLONE_NEWPID)) _exit(1);
  pid = child_start();
  if (pid == 0) holder_run(worker);
  atomic_store(&worker->stage->pid, pid);
  waitpid(pid, NULL, 0);
  _exit(0);
}

static int namespaces_are_allowed(void) {
  int status;
  pid_t pid = child_start();
  if (pid == 0) _exit(unshare(CLONE_NEWPID) ? 1 : 0);
  return waitpid(pid, &status, 0) == pid && status == 0;
}

static void wait_until(const _Atomic uint32_t *number, int64_t least) {
  double began = seconds();
  while (atomic_load(number) < least) {
    sleep_microseconds(200);
    if (seconds() > began + PATIENCE)
      give_up("nothing happened for %d s", PATIENCE);
  }
}

/* How long until that process has ended, as a pidfd tells it; with a kill. */
static double kill_and_see(pid_t pid, int64_t *began) {
  struct pollfd polled = {(int)syscall(SYS_pidfd_open, pid, 0), POLLIN, 0};
  if (polled.fd < 0) give_up("no pidfd: %s", strerror(errno));
  *began = nanoseconds();
  kill(pid, SIGKILL);
  if (poll(&polled, 1, 10000) != 1) give_up("process %d stays", (int)pid);
  int64_t ended = nanoseconds();
  close(polled.fd);
  return (double)(ended - *began) / 1e6;
}

static void death_measure(struct worker *worker, dibs_db *db, int64_t number,
                          const void *board, double *rerun, double *end) {
  struct stage *stage = worker->stage;
  int64_t began;
  must(db, dibs_enqueue(db, QUEUE[0], dibs_json("1"), NULL, NULL));
  atomic_store(&stage->pid, 0);
  pid_t child = child_start();
  if (child == 0 && worker->kind == LOCKS) namespace_run(worker);
  if (child == 0) holder_run(worker);
  wait_until(&stage->held, number + 1);
  pid_t pid = worker->kind == LOCKS ? atomic_load(&stage->pid) : child;
  atomic_fetch_add(&stage->go, 1);
  futex_wake(&stage->go);
  while (board_waiters(board) == 0) sleep_microseconds(1000);
  /* As long as the longest lap of a waiter. */
  sleep_microseconds(random_between(10e3, 1010e3));
  *end = kill_and_see(pid, &began);
  wait_until(&stage->rerun, number + 1);
  *rerun = (double)(atomic_load(&stage->got) - began) / 1e6;
  waitpid(child, NULL, 0);
}

static void kind_measure(enum kind kind, int64_t count, double *reruns,
                         double *ends) {
  struct worker worker = {.kind = kind,
                          .path = scratch_path("jobs.db"),
                          .stage = shared_memory(sizeof(struct stage))};
  dibs_close(db_open(worker.path, DIBS_SYNCHRONOUS_NORMAL));
  const void *board = board_open(worker.path);
  pid_t heir = child_start();
  if (heir == 0) heir_run(&worker);
  gate_open(&worker.stage->gate, 1);
  dibs_db *db = db_open(worker.path, DIBS_SYNCHRONOUS_NORMAL);
  for (int64_t i = 0; i < count; i++)
    death_measure(&worker, db, i, board, &reruns[i], &ends[i]);
  dibs_close(db);
  child_kill(heir);
  database_remove(worker.path);
}

static void print_row(enum kind kind, double *reruns, double *ends,
                      size_t count) {
  const double shares[] = {0.5, 0.9, 0.99, 1};
  values_sort(reruns, count);
  values_sort(ends, count);
  printf("%-15s", KIND[kind]);
  for (int i = 0; i < 4; i++)
    printf(" %8.2f", value_at(reruns, count, shares[i]));
  printf("   %8.2f %8.2f", value_at(ends, count, 0.5),
         value_at(ends, count, 1));
  printf("   %8.2f\n",
         value_at(reruns, count, 0.5) / value_at(ends, count, 0.5));
  fflush(stdout);
}

int main(int argc, char **argv) {
  options_check(argc, argv, HELP);
  int64_t count = option_number(argc, argv, "count", 100);
  if (count > COUNT_MAX) give_up("at most %d", COUNT_MAX);
  double *reruns = calloc((size_t)count, sizeof *reruns);
  double *ends = calloc((size_t)count, sizeof *ends);
  if (!reruns || !ends) give_up("no memory");
  scratch_folder(option_text(argc, argv, "folder", "."));
  print_machine();
  printf("From kill -9 to the rerun, milliseconds, %lld kills each\n\n",
         (long long)count);
  printf("                     p50      p90      p99      max    process ends: "
         "p50, max   ratio of p50\n");
  for (int kind = 0; kind < KINDS; kind++) {
    if (kind == LOCKS && !namespaces_are_allowed()) {
      printf("%-15s left out: a pid namespace cannot be made here\n",
             KIND[kind]);
      continue;
    }
    kind_measure((enum kind)kind, count, reruns, ends);
    print_row((enum kind)kind, reruns, ends, (size_t)count);
  }
  free(reruns);
  free(ends);
  return 0;
}
