/* SPDX-License-Identifier: MIT */
/*
** host.h: connections of a host that has the SQL functions, for the tests of
** the extension. The harness does not count them: at their closing there are
** statements of ours, which are finalized a moment later.
*/
#ifndef DIBS_HOST_H
#define DIBS_HOST_H

#include "harness.h"

typedef int entry_point(sqlite3 *, char **, const sqlite3_api_routines *);

/* An entry point as sqlite3_auto_extension() takes it. */
void (*host_entry(entry_point *typed))(void);

/* The library's API table, from its own hand. */
const sqlite3_api_routines *host_api(void);

/* Run SQL, and fail the test unless that worked. */
void run(sqlite3 *sqlite, const char *sql);

/* A connection to the fixture's file with the functions, and nothing more. */
sqlite3 *host_bare(fixture *f);

/* The same in WAL mode, with our tables, and a table t(x) of the host's. */
sqlite3 *host_open(fixture *f);
void host_close(sqlite3 *sqlite);

#endif
