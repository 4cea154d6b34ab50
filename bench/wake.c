/* SPDX-License-Identifier: MIT */
/*
** wake.c: how soon a job is claimed by a process that waits for it.
**
**     bench/run wake [--folder F] [--count N] [--rounds N]
**                    [--synchronous normal|full]
**
** A process enqueues one job at a time, 0.3 to 1.5 ms after the other one has
** begun to wait. Told is the time until the other one's call has returned with
** the job, which holds the transaction that claims it: from the return of the
** enqueue (the commit was a wake-up call before that, some microseconds), and
** from its beginning.
**
** The ways of waiting take turns, in as many rounds:
**
** - bare futex: no database; a word in shared memory, and FUTEX_WAKE. What a
**   wake-up costs at least
** - futex, claim: an enqueue, then such a futex; the woken process claims. What
**   a wake-up and a claim cost at least
** - dibs_watch_wait: is told that there is something, having looked. The claim
**   comes behind it, and is not in the time
** - dibs_claim: waits in the claim
** - dibs_engine_next: waits in an engine of one slot
** - inotify: a watch on the -wal file; what happened there leads to a claim,
**   and as the commit comes behind the event, to others in 1 ms if there is
**   nothing. All who wait that way look at all that is written
** - poll 1 ms: PRAGMA data_version each millisecond; a change leads to a claim
** - dibs_inbox: a plain SQLite connection inserts into the view; the other
**   waits in dibs_claim. A fiftieth of the jobs, each after 0.2 to 0.3 s in
**   which nobody wrote; "busy" are as many without such a pause
**
** Ratios are of medians of the same round: to the bare futex from its
** beginning, as there is no commit in it; and to a futex with a claim.
*/
#include <poll.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "measure.h"
#include "step.h"

#define ROUNDS_MAX   100
#define FOREIGN_PART 50
#define QUIET_LEAST  200000.0 /* microseconds */
#define QUIET_MOST   300000.0

static const char HELP[] =
    "bench/run wake: how soon a job is claimed by a process that waits for it\n"
    "  --folder F              where, default .\n"
    "  --count N               jobs for each way of waiting, default 10000\n"
    "  --rounds N              in which they take turns, default 5\n"
    "  --synchronous S         normal, the default, or full\n";

static const char *const QUEUE[] = {"bench"};

enum way {
  WAY_FUTEX,
  WAY_FUTEX_CLAIM,
  WAY_WATCH,
  WAY_CLAIM,
  WAY_NEXT,
  WAY_INOTIFY,
  WAY_POLL,
  WAY_FOREIGN,
  WAY_FOREIGN_BUSY,
  WAYS
};

static const char *const WAY[WAYS] = {[WAY_FUTEX] = "bare futex",
                                      [WAY_FUTEX_CLAIM] = "futex, claim",
                                      [WAY_WATCH] = "dibs_watch_wait",
                                      [WAY_CLAIM] = "dibs_claim",
                                      [WAY_NEXT] = "dibs_engine_next",
                                      [WAY_INOTIFY] = "inotify",
                                      [WAY_POLL] = "poll 1 ms",
                                      [WAY_FOREIGN] = "dibs_inbox",
                                      [WAY_FOREIGN_BUSY] = "dibs_inbox, busy"};

/* What a process of a pair has. */
struct side {
  enum way way;
  struct steps *steps;
  const char *path;
  dibs_db *db;
  dibs_watch *watch;
  dibs_engine *engine;
  dibs_run *run;
  dibs_job_list *list;
  sqlite3 *plain;
  sqlite3_stmt *statement; /* of the plain connection */
  int64_t version;         /* of the data, as it was seen last */
  int inotify;
};

static int way_is_foreign(enum way way) {
  return way == WAY_FOREIGN || way == WAY_FOREIGN_BUSY;
}

static void plain_prepare(struct side *side, int synchronous, const char *sql) {
  const char *pragma = synchronous == DIBS_SYNCHRONOUS_FULL
                           ? "PRAGMA synchronous=FULL"
                           : "PRAGMA synchronous=NORMAL";
  if (sqlite3_open(side->path, &side->plain) ||
      sqlite3_busy_timeout(side->plain, 10000) ||
      sqlite3_exec(side->plain, pragma, NULL, NULL, NULL) ||
      sqlite3_prepare_v2(side->plain, sql, -1, &side->statement, NULL))
    give_up("plain SQLite: %s", sqlite3_errmsg(side->plain));
}

/* ------------------------------------------------------------------------ */
/* Sending                                                                  */
/* ------------------------------------------------------------------------ */

static void send_foreign(struct side *side, const char *payload) {
  sqlite3_bind_text(side->statement, 1, payload, -1, SQLITE_STATIC);
  if (sqlite3_step(side->statement) != SQLITE_DONE)
    give_up("plain SQLite: %s", sqlite3_errmsg(side->plain));
  sqlite3_reset(side->statement);
}

static void send_one(void *context, int64_t number) {
  struct side *side = context;
  char text[STEP_PAYLOAD];
  const char *payload = step_payload(text, number);
  if (way_is_foreign(side->way))
    send_foreign(side, payload);
  else if (side->way != WAY_FUTEX)
    must(side->db,
         dibs_enqueue(side->db, QUEUE[0], dibs_json(payload), NULL, NULL));
  if (side->way == WAY_FUTEX || side->way == WAY_FUTEX_CLAIM) {
    atomic_fetch_add(&side->steps->word, 1);
    futex_wake(&side->steps->word);
  }
}

_Noreturn static void sender_run(struct side *side, int synchronous) {
  if (way_is_foreign(side->way))
    plain_prepare(side, synchronous,
                  "INSERT INTO dibs_inbox(queue, payload)"
                  " VALUES ('bench', ?1)");
  else
    side->db = db_open(side->path, synchronous);
  gate_wait(&side->steps->gate);
  steps_send(side->steps, send_one, side);
  _exit(0);
}

/* ------------------------------------------------------------------------ */
/* Receiving                                                                */
/* ------------------------------------------------------------------------ */

static void claim(struct side *side, int64_t wait) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  int status;
  options.wait = wait;
  status = dibs_claim(side->db, QUEUE, 1, &options, &side->list);
  if (status != DIBS_EMPTY) must(side->db, status);
}

static void wait_for_inotify(struct side *side) {
  struct pollfd polled = {side->inotify, POLLIN, 0};
  char events[4096];
  int patience = -1;
  while (!side->list) {
    if (poll(&polled, 1, patience) > 0 &&
        read(side->inotify, events, sizeof events) < 0)
      give_up("inotify ended");
    claim(side, 0);
    patience = 1;
  }
}

static int64_t data_version(struct side *side) {
  int64_t version;
  if (sqlite3_step(side->statement) != SQLITE_ROW)
    give_up("plain SQLite: %s", sqlite3_errmsg(side->plain));
  version = sqlite3_column_int64(side->statement, 0);
  sqlite3_reset(side->statement);
  return version;
}

static void wait_by_polling(struct side *side) {
  while (!side->list) {
    int64_t version = data_version(side);
    if (version != side->version) claim(side, 0);
    side->version = version;
    if (!side->list) sleep_microseconds(1000);
  }
}

static void wait_for(struct side *side, int64_t number) {
  switch (side->way) {
  case WAY_FUTEX:
  case WAY_FUTEX_CLAIM:
    while (atomic_load(&side->steps->word) == number)
      futex_wait(&side->steps->word, (uint32_t)number);
    if (side->way == WAY_FUTEX_CLAIM) claim(side, 0);
    break;
  case WAY_WATCH:
    if (dibs_watch_wait(side->watch, DIBS_FOREVER) != DIBS_OK)
      give_up("%s", dibs_watch_error(side->watch));
    break;
  case WAY_CLAIM:
  case WAY_FOREIGN:
  case WAY_FOREIGN_BUSY: claim(side, DIBS_FOREVER); break;
  case WAY_NEXT:
    if (dibs_engine_next(side->engine, DIBS_FOREVER, &side->run) != DIBS_OK)
      give_up("%s", dibs_engine_error(side->engine));
    break;
  case WAY_INOTIFY: wait_for_inotify(side); break;
  case WAY_POLL: wait_by_polling(side); break;
  case WAYS: break;
  }
}

static void settle(struct side *side, int64_t number) {
  if (side->watch) claim(side, 0);
  if (side->run) {
    dibs_settlement outcome = {.action = DIBS_ACK};
    step_expect(side->run->job, number);
    if (dibs_engine_settle(side->engine, side->run, &outcome) != DIBS_OK)
      give_up("%s", outcome.message);
    side->run = NULL;
  } else if (side->list) {
    step_expect(&side->list->jobs[0], number);
    must(side->db, dibs_ack(side->db, side->list->jobs[0].receipt, NULL));
    dibs_job_list_free(side->list);
    side->list = NULL;
  } else if (side->way != WAY_FUTEX) {
    give_up("job %lld did not come", (long long)number);
  }
}

static void engine_open(struct side *side, int synchronous) {
  dibs_open_options open = DIBS_OPEN_OPTIONS_INIT;
  dibs_engine_options options = DIBS_ENGINE_OPTIONS_INIT;
  open.synchronous = synchronous;
  options.queues = QUEUE;
  options.queue_count = 1;
  if (dibs_engine_open(side->path, &open, &options, &side->engine) != DIBS_OK)
    give_up("%s", dibs_engine_error(side->engine));
}

static void watch_open(struct side *side, int synchronous) {
  dibs_open_options open = DIBS_OPEN_OPTIONS_INIT;
  open.synchronous = synchronous;
  if (dibs_watch_open(side->path, &open, QUEUE, 1, NULL, &side->watch))
    give_up("%s", dibs_watch_error(side->watch));
}

static void inotify_open(struct side *side) {
  char name[4200];
  snprintf(name, sizeof name, "%s-wal", side->path);
  side->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (inotify_add_watch(side->inotify, name, IN_MODIFY) < 0)
    give_up("%s cannot be watched", name);
}

_Noreturn static void receiver_run(struct side *side, int synchronous) {
  if (side->way == WAY_NEXT)
    engine_open(side, synchronous);
  else
    side->db = db_open(side->path, synchronous);
  if (side->db) claim(side, 0);
  if (side->way == WAY_WATCH) watch_open(side, synchronous);
  if (side->way == WAY_INOTIFY) inotify_open(side);
  if (side->way == WAY_POLL)
    plain_prepare(side, synchronous, "PRAGMA data_version");
  gate_wait(&side->steps->gate);
  for (int64_t i = 0; i < side->steps->count; i++) {
    step_wait(side->steps);
    wait_for(side, i);
    side->steps->times[i].got = nanoseconds();
    settle(side, i);
  }
  _exit(0);
}

/* ------------------------------------------------------------------------ */
/* Figures                                                                  */
/* ------------------------------------------------------------------------ */

enum part { FROM_RETURN, FROM_BEGIN, CALL, PARTS };

struct figures {
  double *times[PARTS]; /* microseconds, of all rounds */
  size_t count;
  double medians[PARTS][ROUNDS_MAX];
};

/* A round's times, behind those of the rounds before. */
static void take(struct figures *figures, enum part part, int64_t round,
                 const struct steps *steps, size_t from, size_t to) {
  double *mine = figures->times[part] + figures->count;
  double *copy = malloc((size_t)steps->count * sizeof *copy);
  if (!copy) give_up("no memory");
  steps_differences(steps, from, to, mine);
  memcpy(copy, mine, (size_t)steps->count * sizeof *copy);
  figures->medians[part][round] = median(copy, (size_t)steps->count);
  free(copy);
}

static void measure(enum way way, struct figures *figures, int64_t round,
                    int64_t count, int synchronous) {
  struct steps *steps = steps_new(count);
  struct side side = {
      .way = way, .steps = steps, .path = scratch_path("jobs.db")};
  if (way == WAY_FOREIGN) {
    steps->gap_least = QUIET_LEAST;
    steps->gap_most = QUIET_MOST;
  }
  dibs_close(db_open(side.path, synchronous));
  if (child_start() == 0) receiver_run(&side, synchronous);
  if (child_start() == 0) sender_run(&side, synchronous);
  gate_open(&steps->gate, 2);
  children_end(2);
  take(figures, FROM_RETURN, round, steps, STEP_TIME(returned), STEP_TIME(got));
  take(figures, FROM_BEGIN, round, steps, STEP_TIME(begun), STEP_TIME(got));
  take(figures, CALL, round, steps, STEP_TIME(begun), STEP_TIME(returned));
  figures->count += (size_t)count;
  steps_free(steps);
  database_remove(side.path);
}

/* Of the times from the return, to those of another way. */
static void print_ratio_to(const struct figures *figures,
                           const struct figures *to, enum part part,
                           int64_t rounds) {
  double ratios[ROUNDS_MAX];
  for (int64_t i = 0; i < rounds; i++)
    ratios[i] = figures->medians[FROM_RETURN][i] / to->medians[part][i];
  print_ratio(spread_of(ratios, (size_t)rounds));
}

static void print_row(struct figures *all, enum way way, int64_t rounds) {
  struct figures *figures = &all[way];
  size_t count = figures->count;
  printf("%-17s", WAY[way]);
  for (int part = 0; part < PARTS; part++)
    values_sort(figures->times[part], count);
  const double shares[] = {0.5, 0.9, 0.99, 0.999};
  for (int i = 0; i < 4; i++)
    printf(" %8.1f", value_at(figures->times[FROM_RETURN], count, shares[i]));
  printf("  %8.1f %8.1f", value_at(figures->times[FROM_BEGIN], count, 0.5),
         value_at(figures->times[CALL], count, 0.5));
  if (way != WAY_FUTEX) {
    print_ratio_to(figures, &all[WAY_FUTEX], FROM_BEGIN, rounds);
    print_ratio_to(figures, &all[WAY_FUTEX_CLAIM], FROM_RETURN, rounds);
  }
  printf("\n");
}

static void print_rows(struct figures *figures, int64_t rounds) {
  printf("microseconds           from the call's return             begin     "
         "call   to bare futex                 to futex, claim\n"
         "                       p50      p90      p99    p99.9       p50      "
         "p50    median (least to most)        median (least to most)\n");
  for (int way = 0; way < WAYS; way++)
    print_row(figures, (enum way)way, rounds);
}

int main(int argc, char **argv) {
  static struct figures figures[WAYS];
  options_check(argc, argv, HELP);
  int64_t rounds = option_number(argc, argv, "rounds", 5);
  int64_t count = option_number(argc, argv, "count", 10000) / rounds;
  int synchronous = option_synchronous(argc, argv, "normal");
  if (rounds > ROUNDS_MAX || count < FOREIGN_PART)
    give_up("at most %d rounds of at least %d", ROUNDS_MAX, FOREIGN_PART);
  scratch_folder(option_text(argc, argv, "folder", "."));
  for (int way = 0; way < WAYS; way++)
    for (int part = 0; part < PARTS; part++) {
      figures[way].times[part] =
          calloc((size_t)(count * rounds), sizeof(double));
      if (!figures[way].times[part]) give_up("no memory");
    }
  for (int64_t round = 0; round < rounds; round++)
    for (int i = 0; i < WAYS; i++) {
      enum way way = (enum way)((round + i) % WAYS);
      int64_t part = way_is_foreign(way) ? FOREIGN_PART : 1;
      measure(way, &figures[way], round, count / part, synchronous);
    }
  print_machine();
  printf("From an enqueue to the claim in another process; synchronous %s; "
         "%lld rounds of %lld,\nof %lld by dibs_inbox; times of all rounds, "
         "ratios of each round\n\n",
         synchronous_name(synchronous), (long long)rounds, (long long)count,
         (long long)(count / FOREIGN_PART));
  print_rows(figures, rounds);
  return 0;
}
