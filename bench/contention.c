/* SPDX-License-Identifier: MIT */
/*
** contention.c: what processes that all write get from one database.
**
**     bench/run contention [--folder F] [--processes N] [--seconds N]
**                          [--synchronous normal|full]
**
** Each process enqueues a job, claims one and acknowledges it, again and
** again. Printed are the turns of the slowest process as a share of the
** fastest one's, how long single operations took, the longest of all, and how
** many ended with "busy": there should be none.
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

#define PROCESSES_MAX 64
#define TIMES_MAX     4000000 /* operations of which the time is kept */

/* What a process has seen; shared with the one that prints. */
struct seen {
  int64_t turns;
  int64_t busy;
  int64_t others; /* failures of other kinds */
  int64_t count;  /* of times */
  double times[TIMES_MAX / PROCESSES_MAX * 2];
};

struct start {
  int ready; /* processes that have opened the database */
  int go;    /* they may begin */
  double until;
};

static void note(struct seen *seen, double began, int status) {
  double took = seconds() - began;
  size_t room = sizeof seen->times / sizeof *seen->times;
  if (status == DIBS_BUSY) seen->busy++;
  if (status != DIBS_OK && status != DIBS_BUSY && status != DIBS_EMPTY)
    seen->others++;
  /* When there is no more room, the longest is what must not be missed. */
  if ((size_t)seen->count < room)
    seen->times[seen->count++] = took;
  else if (took > seen->times[room - 1])
    seen->times[room - 1] = took;
}

static void take_turn(dibs_db *db, struct seen *seen) {
  const char *queue = "bench";
  dibs_job_list *list = NULL;
  double began = seconds();
  int status = dibs_enqueue(db, queue, dibs_json("{\"n\":1}"), NULL, NULL);
  note(seen, began, status);
  began = seconds();
  status = dibs_claim(db, &queue, 1, NULL, &list);
  note(seen, began, status);
  if (!list) return;
  began = seconds();
  note(seen, began, dibs_ack(db, list->jobs[0].receipt, NULL));
  dibs_job_list_free(list);
  seen->turns++;
}

_Noreturn static void run(struct seen *seen, struct start *start,
                          const char *path, int synchronous) {
  dibs_db *db = db_open(path, synchronous);
  __atomic_add_fetch(&start->ready, 1, __ATOMIC_SEQ_CST);
  while (!__atomic_load_n(&start->go, __ATOMIC_SEQ_CST)) usleep(1000);
  while (seconds() < start->until) take_turn(db, seen);
  dibs_close(db);
  _exit(0);
}

static void *shared(size_t size) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) give_up("no memory");
  return memory;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a;
  double y = *(const double *)b;
  return (x > y) - (x < y);
}

static void print_times(const struct seen *seen, int64_t processes) {
  double *all = malloc(sizeof(double) * TIMES_MAX * 2);
  size_t count = 0;
  if (!all) give_up("no memory");
  for (int64_t i = 0; i < processes; i++) {
    memcpy(all + count, seen[i].times, (size_t)seen[i].count * sizeof(double));
    count += (size_t)seen[i].count;
  }
  qsort(all, count, sizeof *all, compare);
  if (!count) give_up("nothing was done");
  printf("an operation took   p50 %.3f ms, p99 %.3f ms, p99.9 %.3f ms, longest "
         "%.1f ms\n",
         all[count / 2] * 1e3, all[count * 99 / 100] * 1e3,
         all[count * 999 / 1000] * 1e3, all[count - 1] * 1e3);
  free(all);
}

static void print_all(const struct seen *seen, int64_t processes,
                      int64_t length) {
  int64_t least = seen[0].turns, most = seen[0].turns;
  int64_t turns = 0, busy = 0, others = 0;
  for (int64_t i = 0; i < processes; i++) {
    if (seen[i].turns < least) least = seen[i].turns;
    if (seen[i].turns > most) most = seen[i].turns;
    turns += seen[i].turns;
    busy += seen[i].busy;
    others += seen[i].others;
  }
  printf(
      "turns per second    %.0f in all; slowest process %.1f, fastest %.1f\n",
      (double)turns / (double)length, (double)least / (double)length,
      (double)most / (double)length);
  printf("slowest / fastest   %.2f\n", (double)least / (double)most);
  print_times(seen, processes);
  printf("busy errors         %lld\nother errors        %lld\n",
         (long long)busy, (long long)others);
}

int main(int argc, char **argv) {
  int64_t processes = option_number(argc, argv, "processes", 8);
  int64_t length = option_number(argc, argv, "seconds", 10);
  int full =
      strcmp(option_text(argc, argv, "synchronous", "normal"), "full") == 0;
  int synchronous = full ? DIBS_SYNCHRONOUS_FULL : DIBS_SYNCHRONOUS_NORMAL;
  struct seen *seen;
  struct start *start = shared(sizeof *start);
  const char *path;
  if (processes > PROCESSES_MAX) give_up("at most %d", PROCESSES_MAX);
  seen = shared(sizeof *seen * (size_t)processes);
  scratch_folder(option_text(argc, argv, "folder", "."));
  path = scratch_path("jobs.db");
  dibs_close(db_open(path, synchronous));
  for (int64_t i = 0; i < processes; i++)
    if (fork() == 0) run(&seen[i], start, path, synchronous);
  while (__atomic_load_n(&start->ready, __ATOMIC_SEQ_CST) < processes)
    usleep(1000);
  start->until = seconds() + (double)length;
  __atomic_store_n(&start->go, 1, __ATOMIC_SEQ_CST);
  for (int64_t i = 0; i < processes; i++) {
    int status;
    if (wait(&status) < 0 || status != 0) give_up("a process failed");
  }
  print_machine();
  printf("%lld processes, each enqueue + claim + ack for %lld s, synchronous "
         "%s\n",
         (long long)processes, (long long)length, full ? "FULL" : "NORMAL");
  print_all(seen, processes, length);
  return 0;
}
