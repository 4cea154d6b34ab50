/* SPDX-License-Identifier: MIT */
/*
** prototype.c: dibs's claim and acknowledgement beside the least that could do
** the same: two transactions of SQL written by hand.
**
**     bench/run prototype [--folder F] [--jobs N] [--payload BYTES]
**                         [--rounds N] [--synchronous normal|full]
**
** The prototype is that of plain.c. Both work in one process, round by round,
** in turns.
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "measure.h"
#include "plain.h"

#define ROUNDS_MAX 1000

static const char HELP[] =
    "bench/run prototype: claim + ack beside the least SQL that could do the "
    "same\n"
    "  --folder F              where, default .\n"
    "  --jobs N                in a round, default 20000\n"
    "  --payload BYTES         of each, default 100\n"
    "  --rounds N              default 9\n"
    "  --synchronous S         normal, the default, or full\n";

static void prototype_fill(struct plain *plain, int64_t jobs,
                           const char *payload) {
  plain_begin(plain);
  for (int64_t i = 0; i < jobs; i++) plain_put(plain, i, payload);
  plain_commit(plain);
}

static void prototype_work(struct plain *plain, int64_t token) {
  int64_t id;
  plain_begin(plain);
  id = plain_claim(plain, token);
  plain_commit(plain);
  plain_begin(plain);
  plain_acknowledge(plain, id, token);
  plain_commit(plain);
}

static double prototype_round(struct plain *plain, int64_t jobs,
                              const char *payload) {
  double began;
  prototype_fill(plain, jobs, payload);
  began = seconds();
  for (int64_t i = 0; i < jobs; i++) prototype_work(plain, i);
  return (double)jobs / (seconds() - began);
}

static void dibs_fill(dibs_db *db, int64_t jobs, const char *payload) {
  dibs_new_job job = {"bench", dibs_json(payload), NULL};
  dibs_new_job batch[100];
  for (int i = 0; i < 100; i++) batch[i] = job;
  for (int64_t i = 0; i < jobs; i += 100)
    must(db, dibs_enqueue_many(db, batch, 100, NULL));
}

static double dibs_round(dibs_db *db, int64_t jobs, const char *payload) {
  const char *queue = "bench";
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  double began;
  options.worker = "worker";
  dibs_fill(db, jobs, payload);
  began = seconds();
  for (int64_t i = 0; i < jobs; i++) {
    dibs_job_list *list;
    must(db, dibs_claim(db, &queue, 1, &options, &list));
    must(db, dibs_ack(db, list->jobs[0].receipt, NULL));
    dibs_job_list_free(list);
  }
  return (double)jobs / (seconds() - began);
}

int main(int argc, char **argv) {
  options_check(argc, argv, HELP);
  int64_t jobs = option_number(argc, argv, "jobs", 20000) / 100 * 100;
  int64_t rounds = option_number(argc, argv, "rounds", 9);
  int synchronous = option_synchronous(argc, argv, "normal");
  char *payload = json_of((size_t)option_number(argc, argv, "payload", 100));
  double theirs[ROUNDS_MAX], ours[ROUNDS_MAX], ratios[ROUNDS_MAX];
  struct plain plain;
  dibs_db *db;
  if (rounds > ROUNDS_MAX || jobs < 100) give_up("at most 1000 rounds of 100");
  scratch_folder(option_text(argc, argv, "folder", "."));
  plain_open(&plain, scratch_path("prototype.db"), synchronous);
  db = db_open(scratch_path("jobs.db"), synchronous);
  for (int64_t i = 0; i < rounds; i++) {
    if (i % 2) ours[i] = dibs_round(db, jobs, payload);
    theirs[i] = prototype_round(&plain, jobs, payload);
    if (i % 2 == 0) ours[i] = dibs_round(db, jobs, payload);
    ratios[i] = ours[i] / theirs[i];
  }
  print_machine();
  printf("claim + ack, payload %zu bytes, synchronous %s, median of %lld "
         "rounds of %lld\n",
         strlen(payload), synchronous_name(synchronous), (long long)rounds,
         (long long)jobs);
  printf("prototype  %8.0f per second\n", median(theirs, (size_t)rounds));
  printf("dibs       %8.0f per second\n", median(ours, (size_t)rounds));
  printf("ratio      %8.2f", median(ratios, (size_t)rounds));
  printf("  (%.2f to %.2f)\n", ratios[0], ratios[rounds - 1]);
  dibs_close(db);
  plain_close(&plain);
  free(payload);
  return 0;
}
