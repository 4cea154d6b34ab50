/* SPDX-License-Identifier: MIT */
/*
** held.c: what limits, keys and lanes cost, and whether all get their turn.
**
**     bench/run held [--folder F] [--rounds N] [--samples N] [--scale N]
**
** First a count, which is the same on every machine: of 1,000 queues beneath a
** prefix one holds a million jobs; how many claims of one job it takes until each
** of the others has had the one that it got served.
**
** Then microseconds a claim and acknowledgement, of a queue with limits and keys
** in use, beside the same queue without any of them. In turns: databases in which
** nothing else waits; a million jobs wait behind one limit key; a million behind the
** limit of another queue; a million in one lane; a hundred thousand limit keys have
** ten jobs each; a hundred thousand lanes have ten. Each claimed job has a key of
** its own kind, and finds its bucket or its lane. Ratios are to the first database,
** in the same round.
**
** And an enqueue, a claim and an acknowledgement of such jobs when a thousand, a
** hundred thousand and a million of them are ready, each with keys of its own: the
** rows of claim_cost with keys and limits in use.
**
** --scale 10 makes all of it ten times smaller, for a quick look.
*/
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "measure.h"

#define ROUNDS_MAX 1000
#define BATCH      10000
#define LANES      1000
#define DEPTHS     3

static const char HELP[] =
    "bench/run held: what is held back, and whether all get their turn\n"
    "  --folder F              where, default .\n"
    "  --rounds N              default 15\n"
    "  --samples N             claims a round, default 300\n"
    "  --scale N               so many times fewer jobs, default 1\n";

static const char *const WORK[] = {"work"};

/* ------------------------------------------------------------------------ */
/* Jobs                                                                     */
/* ------------------------------------------------------------------------ */

static void set(dibs_db *db, const char *queue, const char *name,
                const char *value) {
  must(db, dibs_queue_set(db, queue, &name, &value, 1));
}

/* How the jobs of a batch differ. */
enum kind { PLAIN, LIMIT_KEY, LANE, BOTH };

/* Enqueue so many jobs: of a kind, with so many keys in turn. */
static void enqueue(dibs_db *db, const char *queue, int64_t count,
                    enum kind kind, int64_t keys) {
  static dibs_new_job jobs[BATCH];
  static dibs_job_options options[BATCH];
  static char names[BATCH][32];
  for (int64_t done = 0; done < count;) {
    size_t size = 0;
    for (; size < BATCH && done < count; size++, done++) {
      dibs_job_options_init(&options[size]);
      snprintf(names[size], sizeof names[size], "key %lld",
               (long long)(done % keys));
      if (kind == LIMIT_KEY || kind == BOTH)
        options[size].limit_key = names[size];
      if (kind == LANE || kind == BOTH) options[size].key = names[size];
      jobs[size] = (dibs_new_job){queue, dibs_json("{\"n\":1}"),
                                  kind == PLAIN ? NULL : &options[size]};
    }
    must(db, dibs_enqueue_many(db, jobs, size, NULL));
  }
}

/* The job that a claim gives, or NULL. */
static dibs_job_list *claim(dibs_db *db, const char *const *queues,
                            int64_t lease) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *list = NULL;
  options.lease = lease;
  int status = dibs_claim(db, queues, 1, &options, &list);
  if (status != DIBS_EMPTY) must(db, status);
  return list;
}

/* ------------------------------------------------------------------------ */
/* Turns                                                                    */
/* ------------------------------------------------------------------------ */

static void count_turns(int64_t many) {
  static const char *const beneath[] = {"lanes/*"};
  dibs_db *db = db_open(scratch_path("turns.db"), DIBS_SYNCHRONOUS_NORMAL);
  int64_t claims = 0;
  int served = 0;
  char name[32];
  enqueue(db, "lanes/500", many, PLAIN, 1);
  for (int i = 0; i < 10; i++) dibs_job_list_free(claim(db, beneath, 86400000));
  for (int i = 0; i < LANES; i++) {
    snprintf(name, sizeof name, "lanes/%03d", i);
    if (i != 500) enqueue(db, name, 1, PLAIN, 1);
  }
  for (; served < LANES - 1 && claims < 10 * LANES; claims++) {
    dibs_job_list *list = claim(db, beneath, 86400000);
    if (!list) give_up("there was nothing to claim");
    served += strcmp(list->jobs[0].queue, "lanes/500") != 0;
    dibs_job_list_free(list);
  }
  printf("%d queues with a job each, beside one with %lld: all served after "
         "%lld claims%s.\n\n",
         LANES - 1, (long long)many, (long long)claims,
         served == LANES - 1 ? "" : ", or not yet");
  if (served < LANES - 1 || claims > LANES)
    give_up("that is more than there are queues");
  dibs_close(db);
}

/* ------------------------------------------------------------------------ */
/* What is held back                                                        */
/* ------------------------------------------------------------------------ */

/* A job of the queue `work` runs, and all that it holds back has been met. */
static void hold_back(dibs_db *db, const char *const *queue) {
  dibs_job_list_free(claim(db, queue, 864000000));
  dibs_job_list *list = claim(db, queue, 864000000);
  if (list) give_up("a job that is to be held back was claimed");
}

static void behind_a_key(dibs_db *db, int64_t million) {
  enqueue(db, "work", million, LIMIT_KEY, 1);
  hold_back(db, WORK);
}

static void behind_a_limit(dibs_db *db, int64_t million) {
  static const char *const other[] = {"other"};
  set(db, "other", "limit", "1");
  enqueue(db, "other", million, PLAIN, 1);
  hold_back(db, other);
}

static void in_one_lane(dibs_db *db, int64_t million) {
  enqueue(db, "work", million, LANE, 1);
  hold_back(db, WORK);
}

/* One of each key runs, and nine are put aside. */
static void behind_many_keys(dibs_db *db, int64_t million) {
  enqueue(db, "work", million, LIMIT_KEY, million / 10);
  for (int64_t i = 0; i < million / 10; i++)
    dibs_job_list_free(claim(db, WORK, 864000000));
  if (claim(db, WORK, 864000000)) give_up("a job too many was claimed");
}

static void in_many_lanes(dibs_db *db, int64_t million) {
  enqueue(db, "work", million, LANE, million / 10);
  for (int64_t i = 0; i < million / 10; i++)
    dibs_job_list_free(claim(db, WORK, 864000000));
  if (claim(db, WORK, 864000000)) give_up("a job too many was claimed");
}

static const struct database {
  const char *name;
  void (*fill)(dibs_db *, int64_t);
} DATABASES[] = {
    {"nothing else", NULL},
    {"behind one limit key", behind_a_key},
    {"behind another queue's limit", behind_a_limit},
    {"in one lane", in_one_lane},
    {"behind as many limit keys / 10", behind_many_keys},
    {"in as many lanes / 10", in_many_lanes},
};
#define COUNT (sizeof DATABASES / sizeof *DATABASES)

/* ------------------------------------------------------------------------ */
/* Measuring                                                                */
/* ------------------------------------------------------------------------ */

enum what { ENQUEUE, CLAIM, ACK, WHATS };
static const char *const WHAT[WHATS] = {"enqueue", "claim", "ack"};

/* Microseconds an operation, and of both the last together. */
struct cost {
  double of[WHATS];
};
static struct cost held[COUNT][ROUNDS_MAX];
static struct cost deep[DEPTHS][ROUNDS_MAX];
static struct cost bare[ROUNDS_MAX];

static double work_time(const struct cost *cost) {
  return cost->of[CLAIM] + cost->of[ACK];
}

/* So many jobs that have a lane and a limit key each, or that have nothing, one by
** one. */
static struct cost measure(dibs_db *db, const char *const *queue, bool keyed,
                           int64_t round, int64_t samples) {
  static dibs_job_list *lists[BATCH];
  struct cost cost;
  dibs_job_options options;
  char key[64];
  double times[WHATS + 1];
  dibs_job_options_init(&options);
  options.key = options.limit_key = key;
  options.priority = 1;
  times[ENQUEUE] = seconds();
  for (int64_t i = 0; i < samples; i++) {
    snprintf(key, sizeof key, "sample %lld %lld", (long long)round,
             (long long)i);
    must(db, dibs_enqueue(db, queue[0], dibs_json("1"), keyed ? &options : NULL,
                          NULL));
  }
  times[CLAIM] = seconds();
  for (int64_t i = 0; i < samples; i++)
    if (!(lists[i] = claim(db, queue, DIBS_UNSET)))
      give_up("there was nothing to claim");
  times[ACK] = seconds();
  for (int64_t i = 0; i < samples; i++)
    must(db, dibs_ack(db, lists[i]->jobs[0].receipt, NULL));
  times[WHATS] = seconds();
  for (int64_t i = 0; i < samples; i++) dibs_job_list_free(lists[i]);
  for (int what = 0; what < WHATS; what++)
    cost.of[what] = (times[what + 1] - times[what]) * 1e6 / (double)samples;
  return cost;
}

static dibs_db *open_limited(const char *name) {
  static const char *const names[] = {"limit", "limit_per_key", "rate"};
  static const char *const values[] = {"1000000", "1", "1000000/1s"};
  dibs_db *db = db_open(scratch_path(name), DIBS_SYNCHRONOUS_NORMAL);
  must(db, dibs_queue_set(db, WORK[0], names, values, 3));
  return db;
}

static dibs_db *fill(const struct database *database, size_t at,
                     int64_t million) {
  char name[32];
  snprintf(name, sizeof name, "held %zu.db", at);
  dibs_db *db = open_limited(name);
  fprintf(stderr, "filling: %lld jobs %s\n",
          (long long)(database->fill ? million : 0), database->name);
  double began = seconds();
  if (database->fill) database->fill(db, million);
  fprintf(stderr, "  in %.1f s\n", seconds() - began);
  return db;
}

/* All ready: each has a lane and a limit key of its own. */
static dibs_db *fill_deep(size_t at, int64_t ready) {
  char name[32];
  snprintf(name, sizeof name, "deep %zu.db", at);
  dibs_db *db = open_limited(name);
  fprintf(stderr, "filling: %lld jobs ready, each with its keys\n",
          (long long)ready);
  enqueue(db, WORK[0], ready, BOTH, ready);
  return db;
}

static void print_held(int64_t rounds) {
  double costs[ROUNDS_MAX];
  double ratios[ROUNDS_MAX];
  printf("%-34s  us/job   ratio to the first\n", "");
  for (size_t i = 0; i < COUNT; i++) {
    for (int64_t n = 0; n < rounds; n++) {
      costs[n] = work_time(&held[i][n]);
      ratios[n] = costs[n] / work_time(&held[0][n]);
    }
    printf("%-34s  %6.1f  ", DATABASES[i].name, median(costs, (size_t)rounds));
    print_ratio(spread_of(ratios, (size_t)rounds));
    printf("\n");
  }
  for (int64_t n = 0; n < rounds; n++) costs[n] = work_time(&bare[n]);
  printf("%-34s  %6.1f\n\n", "no limits, no keys, nothing else",
         median(costs, (size_t)rounds));
}

static void print_deep(int64_t rounds, const int64_t *depths) {
  double costs[ROUNDS_MAX];
  double ratios[ROUNDS_MAX];
  for (int what = 0; what < WHATS; what++)
    for (int i = 0; i < DEPTHS; i++) {
      for (int64_t n = 0; n < rounds; n++) {
        costs[n] = deep[i][n].of[what];
        ratios[n] = costs[n] / deep[0][n].of[what];
      }
      printf("%-8s  %9lld ready  %6.1f  ", WHAT[what], (long long)depths[i],
             median(costs, (size_t)rounds));
      print_ratio(spread_of(ratios, (size_t)rounds));
      printf("\n");
    }
}

int main(int argc, char **argv) {
  options_check(argc, argv, HELP);
  int64_t rounds = option_number(argc, argv, "rounds", 15);
  int64_t samples = option_number(argc, argv, "samples", 300);
  int64_t million = 1000000 / option_number(argc, argv, "scale", 1);
  static const char *const plain[] = {"plain"};
  dibs_db *dbs[COUNT];
  dibs_db *depths[DEPTHS];
  int64_t ready[DEPTHS] = {million / 1000, million / 10, million};
  if (rounds > ROUNDS_MAX || rounds < 1 || samples > BATCH || million < 1000)
    give_up("at most 1000 rounds of 10000, and a scale of 1 to 1000");
  scratch_folder(option_text(argc, argv, "folder", "."));
  print_machine();
  count_turns(million);
  for (size_t i = 0; i < COUNT; i++) dbs[i] = fill(&DATABASES[i], i, million);
  for (size_t i = 0; i < DEPTHS; i++) depths[i] = fill_deep(i, ready[i]);
  for (int64_t round = 0; round < rounds; round++) {
    bare[round] = measure(dbs[0], plain, false, round, samples);
    for (size_t i = 0; i < COUNT; i++) {
      size_t at = ((size_t)round + i) % COUNT;
      held[at][round] = measure(dbs[at], WORK, true, round, samples);
    }
    for (size_t i = 0; i < DEPTHS; i++) {
      size_t at = ((size_t)round + i) % DEPTHS;
      deep[at][round] = measure(depths[at], WORK, true, round, samples);
    }
  }
  printf(
      "Microseconds of a claim and an acknowledgement, a transaction each, of "
      "jobs with a lane and a\nlimit key in a queue with limits and a rate, "
      "beside %lld jobs that are held back; synchronous\nNORMAL, median of "
      "%lld rounds.\n\n",
      (long long)million, (long long)rounds);
  print_held(rounds);
  printf("The same by how many such jobs are ready.\n\n");
  print_deep(rounds, ready);
  for (size_t i = 0; i < COUNT; i++) dibs_close(dbs[i]);
  for (size_t i = 0; i < DEPTHS; i++) dibs_close(depths[i]);
  return 0;
}
