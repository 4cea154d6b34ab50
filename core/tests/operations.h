/* SPDX-License-Identifier: MIT */
/*
** operations.h: every public operation, in one table, on one prepared database.
** The fault suites run each of them while memory runs out, the disk fails, or
** the process is killed, and compare what is in the database afterwards with
** what was there before and what ought to be there.
*/
#ifndef DIBS_OPERATIONS_H
#define DIBS_OPERATIONS_H

#include "harness.h"

typedef struct operation {
  const char *name;
  /* Do it: on an open handle, or, when `opens`, on the path alone. */
  int (*run)(dibs_db *db);
  int (*open)(fixture *f);
  int64_t later; /* ms after START */
  int fresh;     /* nonzero: there is no file yet */
  int stepwise;  /* nonzero: several transactions, so it may happen in part,
                 ** and is whole when it is run again */
} operation;

extern const operation operations[];
extern const size_t operation_count;

/* A prepared database, and how it looks before and after one operation. */
typedef struct stage {
  fixture *f;
  char template[160]; /* the prepared file */
  int delete_mode;    /* nonzero: rollback journal instead of WAL */
  char *before;
  char *after;
  int64_t expected; /* how often stage_expect() was asked */
} stage;

/* Make the prepared database: jobs in every state, receipts known to the
** operations. `delete_mode` is its journal mode. */
void stage_prepare(stage *s, fixture *f, int delete_mode);

/* Put a fresh copy of it in the fixture's place, and set the clock for the
** operation. */
void stage_restore(stage *s, const operation *op);

/* Find out how the database looks before and after the operation. */
void stage_rehearse(stage *s, const operation *op);
void stage_end(stage *s);

/* Open a handle on the fixture's file as the operation needs it; NULL for one
** that opens the file itself. */
dibs_db *stage_open(stage *s, const operation *op);

/* Run the operation. */
int stage_run(stage *s, const operation *op, dibs_db *db);

/* Fail the test unless the database is sound and looks as `wanted`. */
void stage_expect(stage *s, const operation *op, const char *wanted,
                  const char *when);

/* A number that changes when, and only when, another connection commits.
** `watch` must stay open meanwhile, and the file be in WAL mode. */
int64_t data_version(sqlite3 *watch);

/* The same when either is good. */
void stage_expect_either(stage *s, const operation *op, const char *when);

#endif
