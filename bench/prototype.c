/* SPDX-License-Identifier: MIT */
/*
** prototype.c: dibs's claim and acknowledgement beside the least that could do
** the same: two transactions of SQL written by hand.
**
**     bench/run prototype [--folder F] [--jobs N] [--payload BYTES]
**                         [--rounds N] [--synchronous normal|full]
**
** The prototype has a job table and two placement tables. Its claim deletes
** the first row of `ready`, inserts one into `leased` and reads the job; its
** acknowledgement deletes the row of `leased`, by its token, and the job. It
** checks nothing, and knows no schedule, no attempts, no keys, no retention.
** Both work in one process, round by round, in turns.
*/
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "measure.h"

#define ROUNDS_MAX 1000

static const char SCHEMA[] =
    "CREATE TABLE job(id INTEGER PRIMARY KEY, queue_id INTEGER NOT NULL,"
    "  created_at INTEGER NOT NULL, payload ANY) STRICT;"
    "CREATE TABLE ready(queue_id INTEGER NOT NULL, priority INTEGER NOT NULL,"
    "  id INTEGER NOT NULL, PRIMARY KEY (queue_id, priority DESC, id))"
    "  STRICT, WITHOUT ROWID;"
    "CREATE TABLE leased(id INTEGER PRIMARY KEY, queue_id INTEGER NOT NULL,"
    "  token INTEGER NOT NULL, until INTEGER NOT NULL, worker TEXT) STRICT;"
    "CREATE INDEX leased_until ON leased(until);";

enum step {
  BEGIN,
  COMMIT,
  PUT_JOB,
  PUT_READY,
  FIRST,
  TAKE,
  LEASE,
  READ,
  UNLEASE,
  DONE,
  STEPS
};

static const char *const SQL[STEPS] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [PUT_JOB] = "INSERT INTO job(queue_id, created_at, payload)"
                " VALUES (1, ?1, ?2)",
    [PUT_READY] = "INSERT INTO ready VALUES (1, 0, ?1)",
    [FIRST] = "SELECT priority, id FROM ready WHERE queue_id = 1"
              " ORDER BY priority DESC, id LIMIT 1",
    [TAKE] = "DELETE FROM ready WHERE queue_id = 1 AND priority = ?1"
             " AND id = ?2",
    [LEASE] = "INSERT INTO leased VALUES (?1, 1, ?2, ?3, 'worker')",
    [READ] = "SELECT created_at, payload FROM job WHERE id = ?1",
    [UNLEASE] = "DELETE FROM leased WHERE id = ?1 AND token = ?2",
    [DONE] = "DELETE FROM job WHERE id = ?1"};

struct prototype {
  sqlite3 *db;
  sqlite3_stmt *steps[STEPS];
  char *payload; /* the one read last */
};

static void expect(struct prototype *prototype, int wanted, int got) {
  if (got != wanted) give_up("prototype: %s", sqlite3_errmsg(prototype->db));
}

static void step(struct prototype *prototype, enum step which) {
  expect(prototype, SQLITE_DONE, sqlite3_step(prototype->steps[which]));
  sqlite3_reset(prototype->steps[which]);
}

static void bind(struct prototype *prototype, enum step which, int at,
                 int64_t value) {
  sqlite3_bind_int64(prototype->steps[which], at, value);
}

static void prototype_open(struct prototype *prototype, const char *path,
                           int full) {
  memset(prototype, 0, sizeof *prototype);
  if (sqlite3_open(path, &prototype->db)) give_up("cannot open %s", path);
  sqlite3_exec(prototype->db, "PRAGMA journal_mode=WAL", NULL, NULL, NULL);
  sqlite3_exec(prototype->db,
               full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL",
               NULL, NULL, NULL);
  expect(prototype, SQLITE_OK,
         sqlite3_exec(prototype->db, SCHEMA, NULL, NULL, NULL));
  for (int i = 0; i < STEPS; i++)
    expect(prototype, SQLITE_OK,
           sqlite3_prepare_v3(prototype->db, SQL[i], -1,
                              SQLITE_PREPARE_PERSISTENT, &prototype->steps[i],
                              NULL));
}

static void prototype_close(struct prototype *prototype) {
  for (int i = 0; i < STEPS; i++) sqlite3_finalize(prototype->steps[i]);
  sqlite3_close(prototype->db);
  free(prototype->payload);
}

static void prototype_fill(struct prototype *prototype, int64_t jobs,
                           const char *payload) {
  step(prototype, BEGIN);
  for (int64_t i = 0; i < jobs; i++) {
    bind(prototype, PUT_JOB, 1, i);
    sqlite3_bind_text(prototype->steps[PUT_JOB], 2, payload, -1, SQLITE_STATIC);
    step(prototype, PUT_JOB);
    bind(prototype, PUT_READY, 1, sqlite3_last_insert_rowid(prototype->db));
    step(prototype, PUT_READY);
  }
  step(prototype, COMMIT);
}

static void read_payload(struct prototype *prototype, int64_t id) {
  sqlite3_stmt *read = prototype->steps[READ];
  bind(prototype, READ, 1, id);
  expect(prototype, SQLITE_ROW, sqlite3_step(read));
  free(prototype->payload);
  prototype->payload = strdup((const char *)sqlite3_column_text(read, 1));
  sqlite3_reset(read);
}

static int64_t claim(struct prototype *prototype, int64_t token) {
  sqlite3_stmt *first = prototype->steps[FIRST];
  int64_t priority, id;
  step(prototype, BEGIN);
  expect(prototype, SQLITE_ROW, sqlite3_step(first));
  priority = sqlite3_column_int64(first, 0);
  id = sqlite3_column_int64(first, 1);
  sqlite3_reset(first);
  bind(prototype, TAKE, 1, priority);
  bind(prototype, TAKE, 2, id);
  step(prototype, TAKE);
  bind(prototype, LEASE, 1, id);
  bind(prototype, LEASE, 2, token);
  bind(prototype, LEASE, 3, token + 60000);
  step(prototype, LEASE);
  read_payload(prototype, id);
  step(prototype, COMMIT);
  return id;
}

static void acknowledge(struct prototype *prototype, int64_t id,
                        int64_t token) {
  step(prototype, BEGIN);
  bind(prototype, UNLEASE, 1, id);
  bind(prototype, UNLEASE, 2, token);
  step(prototype, UNLEASE);
  bind(prototype, DONE, 1, id);
  step(prototype, DONE);
  step(prototype, COMMIT);
}

static double prototype_round(struct prototype *prototype, int64_t jobs,
                              const char *payload) {
  double began;
  prototype_fill(prototype, jobs, payload);
  began = seconds();
  for (int64_t i = 0; i < jobs; i++)
    acknowledge(prototype, claim(prototype, i), i);
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
  int64_t jobs = option_number(argc, argv, "jobs", 20000) / 100 * 100;
  int64_t rounds = option_number(argc, argv, "rounds", 9);
  char *payload = json_of((size_t)option_number(argc, argv, "payload", 100));
  int full =
      strcmp(option_text(argc, argv, "synchronous", "normal"), "full") == 0;
  double theirs[ROUNDS_MAX], ours[ROUNDS_MAX], ratios[ROUNDS_MAX];
  struct prototype prototype;
  dibs_db *db;
  if (rounds > ROUNDS_MAX || jobs < 100) give_up("at most 1000 rounds of 100");
  scratch_folder(option_text(argc, argv, "folder", "."));
  prototype_open(&prototype, scratch_path("prototype.db"), full);
  db = db_open(scratch_path("jobs.db"),
               full ? DIBS_SYNCHRONOUS_FULL : DIBS_SYNCHRONOUS_NORMAL);
  for (int64_t i = 0; i < rounds; i++) {
    if (i % 2) ours[i] = dibs_round(db, jobs, payload);
    theirs[i] = prototype_round(&prototype, jobs, payload);
    if (i % 2 == 0) ours[i] = dibs_round(db, jobs, payload);
    ratios[i] = ours[i] / theirs[i];
  }
  print_machine();
  printf("claim + ack, payload %zu bytes, synchronous %s, median of %lld "
         "rounds of %lld\n",
         strlen(payload), full ? "FULL" : "NORMAL", (long long)rounds,
         (long long)jobs);
  printf("prototype  %8.0f per second\n", median(theirs, (size_t)rounds));
  printf("dibs       %8.0f per second\n", median(ours, (size_t)rounds));
  printf("ratio      %8.2f", median(ratios, (size_t)rounds));
  printf("  (%.2f to %.2f)\n", ratios[0], ratios[rounds - 1]);
  dibs_close(db);
  prototype_close(&prototype);
  free(payload);
  return 0;
}
