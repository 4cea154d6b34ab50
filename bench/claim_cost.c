/* SPDX-License-Identifier: MIT */
/*
** claim_cost.c: whether a claim, an acknowledgement and an enqueue cost more
** when more jobs wait.
**
**     bench/run claim_cost [--folder F] [--rounds N] [--samples N]
**                          [--scale N]
**
** Three databases have 1,000, 100,000 and 1,000,000 ready jobs, and each
** beside them 1,000,000 scheduled, 100,000 leased and 1,000,000 done ones, all
** of 100 bytes, in the same queue. In each round, for each size of payload,
** each database gets so many jobs of that size (timed), which are claimed one
** by one (timed) and acknowledged one by one (timed); jobs of 100 bytes are
** claimed from the depth of the waiting ones, larger ones pass them by their
** priority. The databases take turns. Ratios are to the database of 1,000, of
** the same round.
**
** --scale 10 makes all of it ten times smaller, for a quick look.
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "measure.h"

#define DEPTHS     3
#define SIZES      3
#define ROUNDS_MAX 1000
#define BATCH      10000

static const int64_t DEPTH[DEPTHS] = {1000, 100000, 1000000};
static const size_t SIZE[SIZES] = {100, 20000, 1000000};
static const char *const QUEUE[] = {"bench"};

static const char HELP[] =
    "bench/run claim_cost: whether operations cost more when more jobs wait\n"
    "  --folder F              where, default .\n"
    "  --rounds N              default 15\n"
    "  --samples N             operations a round, default 300\n"
    "  --scale N               so many times smaller databases, default 1\n";

enum what { ENQUEUE, CLAIM, ACK, WHATS };
static const char *const WHAT[WHATS] = {"enqueue", "claim", "ack"};

/* Microseconds an operation. */
static double costs[SIZES][WHATS][DEPTHS][ROUNDS_MAX];

/* ------------------------------------------------------------------------ */
/* Filling                                                                  */
/* ------------------------------------------------------------------------ */

static void enqueue(dibs_db *db, int64_t count, const char *payload,
                    const dibs_job_options *options) {
  static dibs_new_job jobs[BATCH];
  for (int64_t i = 0; i < BATCH; i++)
    jobs[i] = (dibs_new_job){QUEUE[0], dibs_json(payload), options};
  for (int64_t left = count; left > 0; left -= BATCH)
    must(db, dibs_enqueue_many(db, jobs, (size_t)(left < BATCH ? left : BATCH),
                               NULL));
}

static dibs_job_list *claim(dibs_db *db, int64_t n, int64_t lease) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *list;
  options.n = n;
  options.lease = lease;
  options.worker = "bench";
  must(db, dibs_claim(db, QUEUE, 1, &options, &list));
  return list;
}

static void acknowledge_all(dibs_db *db, const dibs_job_list *list) {
  static dibs_settlement settlements[BATCH];
  for (size_t i = 0; i < list->count; i++) {
    memset(&settlements[i], 0, sizeof settlements[i]);
    settlements[i].receipt = list->jobs[i].receipt;
    settlements[i].action = DIBS_ACK;
    settlements[i].delay = settlements[i].lease = DIBS_UNSET;
  }
  must(db, dibs_settle(db, settlements, list->count));
}

/* Claim that many, and finish them or leave them running. */
static void work_off(dibs_db *db, int64_t count, int finish) {
  while (count > 0) {
    dibs_job_list *list = claim(db, count < BATCH ? count : BATCH, 86400000);
    if (finish) acknowledge_all(db, list);
    count -= (int64_t)list->count;
    dibs_job_list_free(list);
  }
}

static void fill(dibs_db *db, int64_t ready, int64_t percent,
                 const char *payload) {
  dibs_job_options options;
  dibs_job_options_init(&options);
  options.keep = DIBS_FOREVER;
  enqueue(db, 1000000 * percent / 100, payload, &options);
  work_off(db, 1000000 * percent / 100, 1);
  dibs_job_options_init(&options);
  enqueue(db, 100000 * percent / 100, payload, &options);
  work_off(db, 100000 * percent / 100, 0);
  options.delay = 86400000;
  enqueue(db, 1000000 * percent / 100, payload, &options);
  enqueue(db, ready, payload, NULL);
}

/* ------------------------------------------------------------------------ */
/* Measuring                                                                */
/* ------------------------------------------------------------------------ */

static double time_enqueues(dibs_db *db, int64_t count, const char *payload,
                            const dibs_job_options *options) {
  double began = seconds();
  for (int64_t i = 0; i < count; i++)
    must(db, dibs_enqueue(db, QUEUE[0], dibs_json(payload), options, NULL));
  return (seconds() - began) * 1e6 / (double)count;
}

static double time_claims(dibs_db *db, int64_t count, size_t size,
                          dibs_job_list **lists) {
  double began = seconds();
  double ended;
  for (int64_t i = 0; i < count; i++) lists[i] = claim(db, 1, DIBS_UNSET);
  ended = seconds();
  for (int64_t i = 0; i < count; i++)
    if (lists[i]->jobs[0].payload.size != size) give_up("another job came");
  return (ended - began) * 1e6 / (double)count;
}

static double time_acks(dibs_db *db, int64_t count, dibs_job_list **lists) {
  double began = seconds();
  for (int64_t i = 0; i < count; i++)
    must(db, dibs_ack(db, lists[i]->jobs[0].receipt, NULL));
  return (seconds() - began) * 1e6 / (double)count;
}

/* Large payloads are few: what is held in memory stays under 100 MB. */
static int64_t samples_of(int64_t samples, size_t size) {
  int64_t most = 100000000 / (int64_t)size;
  return samples < most ? samples : most;
}

static void measure(dibs_db *db, int size, int depth, int64_t round,
                    int64_t samples) {
  static dibs_job_list *lists[BATCH];
  dibs_job_options options;
  int64_t count = samples_of(samples, SIZE[size]);
  char *payload = json_of(SIZE[size]);
  dibs_job_options_init(&options);
  if (size > 0) options.priority = 1;
  costs[size][ENQUEUE][depth][round] =
      time_enqueues(db, count, payload, &options);
  costs[size][CLAIM][depth][round] = time_claims(db, count, SIZE[size], lists);
  costs[size][ACK][depth][round] = time_acks(db, count, lists);
  for (int64_t i = 0; i < count; i++) dibs_job_list_free(lists[i]);
  free(payload);
}

static void print_row(int size, int what, int64_t rounds) {
  double ratios[DEPTHS][ROUNDS_MAX];
  printf("%9zu  %-8s", SIZE[size], WHAT[what]);
  for (int i = 0; i < DEPTHS; i++)
    for (int64_t n = 0; n < rounds; n++)
      ratios[i][n] = costs[size][what][i][n] / costs[size][what][0][n];
  for (int i = 0; i < DEPTHS; i++)
    printf("  %9.1f", median(costs[size][what][i], (size_t)rounds));
  for (int i = 1; i < DEPTHS; i++)
    printf("  %8.2f", median(ratios[i], (size_t)rounds));
  printf("\n");
}

static void print_rows(int64_t rounds, const int64_t *depths) {
  printf("payload    operation");
  for (int i = 0; i < DEPTHS; i++) printf("  %9lld", (long long)depths[i]);
  printf("    ratios to the first\n");
  for (int size = 0; size < SIZES; size++)
    for (int what = 0; what < WHATS; what++) print_row(size, what, rounds);
}

int main(int argc, char **argv) {
  options_check(argc, argv, HELP);
  int64_t rounds = option_number(argc, argv, "rounds", 15);
  int64_t samples = option_number(argc, argv, "samples", 300);
  int64_t percent = option_number(argc, argv, "scale", 1);
  dibs_db *dbs[DEPTHS];
  int64_t depths[DEPTHS];
  char *payload = json_of(SIZE[0]);
  percent = 100 / percent;
  if (rounds > ROUNDS_MAX || samples > BATCH || percent < 1)
    give_up("at most 1000 rounds of 10000, and a scale of 1 to 100");
  scratch_folder(option_text(argc, argv, "folder", "."));
  for (int i = 0; i < DEPTHS; i++) {
    char name[32];
    snprintf(name, sizeof name, "%d.db", i);
    depths[i] = DEPTH[i] * percent / 100;
    fprintf(stderr, "filling a database with %lld ready jobs\n",
            (long long)depths[i]);
    dbs[i] = db_open(scratch_path(name), DIBS_SYNCHRONOUS_NORMAL);
    fill(dbs[i], depths[i], percent, payload);
  }
  for (int64_t round = 0; round < rounds; round++)
    for (int size = 0; size < SIZES; size++)
      for (int i = 0; i < DEPTHS; i++) {
        int depth = (int)((round + i) % DEPTHS);
        measure(dbs[depth], size, depth, round, samples);
      }
  print_machine();
  printf("Microseconds an operation by how many jobs are ready, beside %lld "
         "scheduled, %lld leased, %lld done;\nsynchronous NORMAL, one a "
         "transaction, median of %lld rounds.\n\n",
         (long long)(1000000 * percent / 100),
         (long long)(100000 * percent / 100),
         (long long)(1000000 * percent / 100), (long long)rounds);
  print_rows(rounds, depths);
  for (int i = 0; i < DEPTHS; i++) dibs_close(dbs[i]);
  free(payload);
  return 0;
}
