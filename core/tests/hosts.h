/* SPDX-License-Identifier: MIT */
/*
** hosts.h: an application's connection with a handle attached to it, and the
** places in its transactions and statements where it may call us. The SQL
** function operate() of that connection does an operation of operations.h.
*/
#ifndef DIBS_HOSTS_H
#define DIBS_HOSTS_H

#include "operations.h"

typedef struct host {
  sqlite3 *sqlite;
  dibs_db *db;
  const operation *op; /* what operate() does */
  int status;          /* what that gave */
  sqlite3_stmt *part;  /* whose part it is; NULL: none */
} host;

/* Where an operation is done. */
typedef struct place {
  const char *name;
  const char *begin;     /* SQL before it; NULL: none */
  const char *statement; /* whose part it is; NULL: none */
  const char *broken;    /* the same, failing behind the operation */
  const char *commit;    /* SQL behind it, and to take it back; NULL: none */
  const char *rollback;
} place;

extern const place places[];
extern const size_t place_count;

/* The tables that the places need. */
#define HOST_TABLES                                                            \
  "CREATE TABLE IF NOT EXISTS host(x);"                                        \
  "CREATE TABLE IF NOT EXISTS hosted(x);"                                      \
  "CREATE TRIGGER IF NOT EXISTS hosted_by AFTER INSERT ON hosted"              \
  " BEGIN SELECT operate(); END;"

/* Whether what the operation does there is all that the transaction does. */
int place_is_quiet(const place *where);

/* As stage_prepare(), with those tables. */
void host_stage(stage *s, fixture *f, int delete_mode);

/* Whether the operation is one that a host does; the environment's
** DIBS_TEST_OPERATION names the only one. */
int host_tries(const operation *op);

/* Open a connection on the fixture's file and attach to it, making nothing; by
** that VFS. */
host host_open(fixture *f);
host host_open_by(fixture *f, const char *vfs);

/* Close the connection, which must succeed, and the handle. */
void host_close(host *h);

/* Run SQL on it, and fail the test unless that worked. */
void host_run(host *h, const char *sql);

/* Make operate(), which does that operation. `h` must stay where it is. */
void host_prepare(host *h, const operation *op);

/* Begin what the place is in, and do the operation there; what it gave. `broken`:
** the statement that it is part of fails in the end. */
int host_do(host *h, const place *where, const operation *op, int broken);

/* The same in steps, for what is to fail: begin what the place is in; then the
** operation, or the statement that it is part of, whether both succeeded; then
** what is left of that. */
void host_begin(host *h, const place *where, const operation *op);
int host_run_part(host *h);
void host_end_part(host *h);

#endif
