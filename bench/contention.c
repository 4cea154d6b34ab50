/* SPDX-License-Identifier: MIT */
/*
** contention.c: what processes that all write get from one database.
**
**     bench/run contention [--folder F] [--processes N,N,...] [--seconds N]
**                          [--rounds N] [--synchronous normal|full]
**
** Each process enqueues a job, claims one and acknowledges it, again and again:
** three transactions a turn. Beside dibs, the same by the prototype of plain.c,
** whose statements do less, behind SQLite's own busy handler
** (sqlite3_busy_timeout, 30 s). They take turns, for each number of processes.
** As their statements cost differently, throughput is also given as a share of
** what one process alone gets of the same.
**
** Printed are the turns of the slowest process as a share of the fastest one's,
** how long single operations took, the longest of all, and how many ended with
** "busy": there should be none. Of several rounds, rates and shares are
** medians, and the times are those of all operations.
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "measure.h"
#include "plain.h"

#define PROCESSES_MAX 64
#define LIST_MAX      16
#define ROUNDS_MAX    100
#define TIMES_MAX     4000000 /* operations of a round that are timed */

static const char HELP[] =
    "bench/run contention: what processes that all write get from one "
    "database\n"
    "  --folder F              where, default .\n"
    "  --processes N,N,...     default 2,4,8,16\n"
    "  --seconds N             of each, in each round, default 5\n"
    "  --rounds N              default 3\n"
    "  --synchronous S         normal, the default, or full\n";

enum contestant { DIBS, PLAIN, CONTESTANTS };

static const char *const CONTESTANT[CONTESTANTS] = {"dibs", "SQLite's handler"};

/* What a process has seen. In shared memory. */
struct seen {
  int64_t turns;
  int64_t busy;
  int64_t others; /* failures of other kinds */
  size_t count;   /* of times */
  size_t room;
  double *times;
};

struct arena {
  struct gate gate;
  double until;
  struct seen seen[PROCESSES_MAX];
};

struct setting {
  enum contestant contestant;
  const char *path;
  int synchronous;
  int64_t processes;
  double length; /* seconds */
  double *times; /* in shared memory; TIMES_MAX */
};

/* ------------------------------------------------------------------------ */
/* Turns                                                                    */
/* ------------------------------------------------------------------------ */

static void note(struct seen *seen, double began, int status) {
  double took = seconds() - began;
  if (status == DIBS_BUSY) seen->busy++;
  if (status != DIBS_OK && status != DIBS_BUSY && status != DIBS_EMPTY)
    seen->others++;
  /* When there is no more room, the longest is what must not be missed. */
  if (seen->count < seen->room)
    seen->times[seen->count++] = took;
  else if (took > seen->times[seen->room - 1])
    seen->times[seen->room - 1] = took;
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

static void take_plain_turn(struct plain *plain, struct seen *seen) {
  int64_t token = (int64_t)getpid() << 32 | (seen->turns & 0xFFFFFFFF);
  int64_t id = 0;
  double began = seconds();
  int begun = plain_begin(plain);
  if (begun) plain_put(plain, seen->turns, "{\"n\":1}");
  if (begun) plain_commit(plain);
  note(seen, began, begun ? DIBS_OK : DIBS_BUSY);
  began = seconds();
  begun = plain_begin(plain);
  if (begun) id = plain_claim(plain, token);
  if (begun) plain_commit(plain);
  note(seen, began, begun ? DIBS_OK : DIBS_BUSY);
  if (!id) return;
  began = seconds();
  begun = plain_begin(plain);
  if (begun) plain_acknowledge(plain, id, token);
  if (begun) plain_commit(plain);
  note(seen, began, begun ? DIBS_OK : DIBS_BUSY);
  seen->turns += begun;
}

_Noreturn static void run(const struct setting *setting, struct arena *arena,
                          struct seen *seen) {
  if (setting->contestant == DIBS) {
    dibs_db *db = db_open(setting->path, setting->synchronous);
    gate_wait(&arena->gate);
    while (seconds() < arena->until) take_turn(db, seen);
    dibs_close(db);
  } else {
    struct plain plain;
    plain_open(&plain, setting->path, setting->synchronous);
    gate_wait(&arena->gate);
    while (seconds() < arena->until) take_plain_turn(&plain, seen);
    plain_close(&plain);
  }
  _exit(0);
}

/* ------------------------------------------------------------------------ */
/* Figures                                                                  */
/* ------------------------------------------------------------------------ */

struct figures {
  double rates[ROUNDS_MAX];
  double shares[ROUNDS_MAX]; /* slowest of fastest */
  double part[ROUNDS_MAX];   /* of what one alone gets */
  int64_t busy;
  int64_t others;
  double *times; /* of all rounds; owned */
  size_t count;
};

static void take(struct figures *figures, size_t round,
                 const struct setting *setting, const struct arena *arena) {
  const struct seen *seen = arena->seen;
  int64_t least = seen[0].turns, most = seen[0].turns, turns = 0;
  size_t count = figures->count;
  for (int64_t i = 0; i < setting->processes; i++) {
    if (seen[i].turns < least) least = seen[i].turns;
    if (seen[i].turns > most) most = seen[i].turns;
    turns += seen[i].turns;
    figures->busy += seen[i].busy;
    figures->others += seen[i].others;
    count += seen[i].count;
  }
  if (!turns) give_up("nothing was done");
  figures->rates[round] = (double)turns / setting->length;
  figures->shares[round] = (double)least / (double)most;
  figures->times = realloc(figures->times, count * sizeof *figures->times);
  if (!figures->times) give_up("no memory");
  for (int64_t i = 0; i < setting->processes; i++) {
    memcpy(figures->times + figures->count, seen[i].times,
           seen[i].count * sizeof *figures->times);
    figures->count += seen[i].count;
  }
}

static void measure(const struct setting *setting, struct figures *figures,
                    size_t round) {
  struct arena *arena = shared_memory(sizeof *arena);
  size_t room = TIMES_MAX / (size_t)setting->processes;
  if (setting->contestant == DIBS) {
    dibs_close(db_open(setting->path, setting->synchronous));
  } else {
    struct plain plain;
    plain_open(&plain, setting->path, setting->synchronous);
    plain_close(&plain);
  }
  for (int64_t i = 0; i < setting->processes; i++) {
    arena->seen[i].room = room;
    arena->seen[i].times = setting->times + (size_t)i * room;
    if (child_start() == 0) run(setting, arena, &arena->seen[i]);
  }
  while (atomic_load(&arena->gate.arrived) < setting->processes)
    sleep_microseconds(1000);
  arena->until = seconds() + setting->length;
  gate_open(&arena->gate, (uint32_t)setting->processes);
  children_end((size_t)setting->processes);
  take(figures, round, setting, arena);
  shared_free(arena, sizeof *arena);
  database_remove(setting->path);
}

static void print_row(int64_t processes, enum contestant contestant,
                      struct figures *figures, size_t rounds) {
  double *times = figures->times;
  size_t count = figures->count;
  values_sort(times, count);
  printf("%9lld  %-16s %8.0f  %5.2f  %7.2f", (long long)processes,
         CONTESTANT[contestant], median(figures->rates, rounds),
         median(figures->part, rounds), median(figures->shares, rounds));
  printf("  %8.3f %8.2f %8.2f %8.1f", value_at(times, count, 0.5) * 1e3,
         value_at(times, count, 0.99) * 1e3,
         value_at(times, count, 0.999) * 1e3, value_at(times, count, 1) * 1e3);
  printf("  %5lld %6lld\n", (long long)figures->busy,
         (long long)figures->others);
  fflush(stdout);
  free(times);
}

static void print_head(void) {
  printf("                              turns  of one  slowest/  an operation, "
         "ms\n"
         "processes                  a second   alone  fastest        p50      "
         "p99    p99.9  longest   busy  other\n");
}

int main(int argc, char **argv) {
  static struct figures figures[LIST_MAX + 1][CONTESTANTS];
  options_check(argc, argv, HELP);
  /* One alone comes first: the others are related to it. */
  int64_t processes[LIST_MAX + 1] = {1};
  size_t counts = 1 + option_numbers(argc, argv, "processes", "2,4,8,16",
                                     processes + 1, LIST_MAX);
  size_t rounds = (size_t)option_number(argc, argv, "rounds", 3);
  struct setting setting = {
      .synchronous = option_synchronous(argc, argv, "normal"),
      .length = (double)option_number(argc, argv, "seconds", 5),
      .times = shared_memory(TIMES_MAX * sizeof(double))};
  for (size_t i = 0; i < counts; i++)
    if (processes[i] > PROCESSES_MAX)
      give_up("at most %d processes", PROCESSES_MAX);
  if (rounds > ROUNDS_MAX) give_up("at most %d rounds", ROUNDS_MAX);
  scratch_folder(option_text(argc, argv, "folder", "."));
  setting.path = scratch_path("jobs.db");
  for (size_t round = 0; round < rounds; round++)
    for (size_t i = 0; i < counts; i++)
      for (size_t j = 0; j < CONTESTANTS; j++) {
        size_t which = (round + j) % CONTESTANTS;
        setting.contestant = (enum contestant)which;
        setting.processes = processes[i];
        measure(&setting, &figures[i][which], round);
        figures[i][which].part[round] =
            figures[i][which].rates[round] / figures[0][which].rates[round];
      }
  print_machine();
  printf("Each process enqueue + claim + ack; synchronous %s, %zu rounds of "
         "%.0f s\n\n",
         synchronous_name(setting.synchronous), rounds, setting.length);
  print_head();
  for (size_t i = 0; i < counts; i++)
    for (int which = 0; which < CONTESTANTS; which++)
      print_row(processes[i], (enum contestant)which, &figures[i][which],
                rounds);
  return 0;
}
