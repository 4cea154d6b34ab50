/* SPDX-License-Identifier: MIT */
/*
** plain.h: what dibs is measured beside: SQLite alone, with statements written
** by hand.
*/
#ifndef DIBS_BENCH_PLAIN_H
#define DIBS_BENCH_PLAIN_H

#include <sqlite3.h>
#include <stdint.h>

/* The steps of the prototype (plain.c). */
enum plain_step {
  PLAIN_BEGIN,
  PLAIN_COMMIT,
  PLAIN_PUT_JOB,
  PLAIN_PUT_READY,
  PLAIN_FIRST,
  PLAIN_TAKE,
  PLAIN_LEASE,
  PLAIN_READ,
  PLAIN_UNLEASE,
  PLAIN_DONE,
  PLAIN_ROW,
  PLAIN_STEPS
};

struct plain {
  sqlite3 *db;
  sqlite3_stmt *steps[PLAIN_STEPS];
  char *payload; /* the one read last */
  int64_t busy;  /* transactions that ended with "busy" */
};

/* Open a database with the prototype's tables, in WAL mode, with SQLite's own
** busy handler. */
void plain_open(struct plain *plain, const char *path, int synchronous);
void plain_close(struct plain *plain);

/* Begin and commit. The first is false when the database stayed busy. */
int plain_begin(struct plain *plain);
void plain_commit(struct plain *plain);

/* In a transaction: enqueue a job. */
void plain_put(struct plain *plain, int64_t now, const char *payload);
/* In a transaction: claim one, its payload read. 0: there is none. */
int64_t plain_claim(struct plain *plain, int64_t token);
/* In a transaction: acknowledge one. */
void plain_acknowledge(struct plain *plain, int64_t id, int64_t token);

/* A transaction of one row of that payload: the least that a commit can be. */
void plain_row(struct plain *plain, const char *payload);

/* Such transactions a second, in a database of its own, for about so long. */
double plain_rate(const char *path, int synchronous, double length);

#endif
