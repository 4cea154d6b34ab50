/* SPDX-License-Identifier: MIT */
/*
** transaction.c: how an operation becomes one transaction, or a part of one.
**
** On a connection of the library's own it is BEGIN IMMEDIATE and COMMIT. On a
** host's connection there are three cases:
**
**     MODE_OWN        no transaction is open and no statement is writing, be
**                     it to another file: the same as on our own
**     MODE_SAVEPOINT  the host's transaction is open: a savepoint in it
**     MODE_BARE       a statement is under way that itself writes, as in a
**                     trigger or INSERT ... SELECT: neither COMMIT nor SAVEPOINT
**                     is possible. The operation's statements run bare; if one
**                     fails, the error is that of the outer statement, which
**                     SQLite rolls back whole, nested rows included
**
** The last is not so in one case: SQLite does not prepare a statement that
** writes a single row, in a transaction of the host's, for being rolled back by
** itself. When an operation within such a statement fails behind its first
** write, the whole transaction is rolled back, as SQLite does it itself when
** the disk is full. Nothing else is left to do then that leaves nothing half
** done, and nobody can tell that case from the others.
**
** SQLite waits for the write lock only on behalf of a connection that does not
** read yet. So an operation that is to write in a transaction of the host's takes
** the lock before it reads anything.
**
** What is to be told of a commit is told behind it: in MODE_OWN at once,
** otherwise by the signal table (attach.c), when the host commits.
*/
#include "internal.h"

#include <sqlite3ext.h>
#include <string.h>

#define ROLLBACK_TRIES 10

/* The host has interrupted its connection: no statement runs until the host's
** have ended, no rollback either. But one that writes, when it is interrupted,
** makes SQLite roll everything back. It must be one that has just run, which need
** not be prepared anew. Should the interrupt be over, what it does is rolled back
** next; what was bound to it may be gone. */
static void interrupted_abort(dibs_db *db) {
  SQLITE_LIBRARY(db);
  if (!db->writer) return;
  sqlite3_clear_bindings(db->writer);
  sqlite3_step(db->writer);
  sqlite3_reset(db->writer);
}

/* These statements were prepared at the opening: without memory they could not
** be. */
static void rollback_run(dibs_db *db, enum sql sql) {
  SQLITE_LIBRARY(db);
  for (int i = 0; i < ROLLBACK_TRIES; i++) {
    if (sqlite3_get_autocommit(db->sqlite)) return;
    int code = sqlite3_step(db->statements[sql]);
    sqlite3_reset(db->statements[sql]);
    if (code != SQLITE_INTERRUPT || !db->attached) return;
    interrupted_abort(db);
  }
}

/* Some failures (a full disk, an I/O error) have rolled back by themselves. */
static void rollback_own(dibs_db *db) {
  rollback_run(db, SQL_ROLLBACK);
}

/* Such a failure may have ended the host's transaction. */
static void rollback_savepoint(dibs_db *db) {
  rollback_run(db, SQL_ROLLBACK_TO);
  rollback_run(db, SQL_RELEASE);
}

/* Without a transaction of the host's, the outer statement is one. */
static void rollback_bare(dibs_db *db) {
  SQLITE_LIBRARY(db);
  if (sqlite3_total_changes(db->sqlite) != db->changes)
    rollback_run(db, SQL_ROLLBACK);
}

static void rollback(dibs_db *db) {
  sql_reset_all(db);
  switch (db->mode) {
  case MODE_NONE: return;
  case MODE_OWN: rollback_own(db); return;
  case MODE_SAVEPOINT: rollback_savepoint(db); return;
  case MODE_BARE: rollback_bare(db); return;
  }
}

static void cache_forget(dibs_db *db) {
  db->cache = (struct cache){.next_event = DIBS_UNSET};
}

/* It changes with every commit, of this connection and of others. */
static unsigned file_version(dibs_db *db) {
  SQLITE_LIBRARY(db);
  unsigned version = 0;
  sqlite3_file_control(db->sqlite, "main", SQLITE_FCNTL_DATA_VERSION, &version);
  return version;
}

/* ---------------------------------------------------- the host's connection */

/* SQLite refuses a savepoint within a statement that writes, as being busy; a
** savepoint waits for no lock. */
static void savepoint_begin(dibs_db *db) {
  sql_run(db, SQL_SAVEPOINT, SQL_NONE);
  if (db->status && db->status != DIBS_BUSY && db->status != DIBS_SNAPSHOT)
    return;
  db->mode = db->status ? MODE_BARE : MODE_SAVEPOINT;
  handle_clear(db);
}

/* Within a transaction the host may have changed anything since. */
static void attached_begin(dibs_db *db, enum sql begin) {
  SQLITE_LIBRARY(db);
  cache_forget(db);
  db->writer = NULL;
  if (!sqlite3_get_autocommit(db->sqlite)) {
    savepoint_begin(db);
  } else if (sqlite3_txn_state(db->sqlite, NULL) == SQLITE_TXN_WRITE) {
    db->mode = MODE_BARE;
  } else {
    db->mode = MODE_OWN;
    sql_run(db, begin, SQL_NONE);
  }
  db->changes = sqlite3_total_changes(db->sqlite);
}

/* The host's busy handler might wait for long, and in vain. */
static void host_blocks_itself(dibs_db *db) {
  if (!db->status && attached_blocks(db)) sql_fail(db, SQLITE_BUSY);
}

/* Unless it is held: by a statement that writes, and finds no row. */
static void host_lock_take(dibs_db *db) {
  SQLITE_LIBRARY(db);
  if (db->status || db->mode == MODE_OWN || !db->schema) return;
  if (sqlite3_txn_state(db->sqlite, "main") != SQLITE_TXN_WRITE)
    sql_run(db, SQL_LOCK, SQL_NONE);
}

/* When the tables have just been made, all statements are to be prepared anew but
** this one. */
static void attached_commit(dibs_db *db) {
  if (db->writing && !db->schema) sql_run(db, SQL_LOCK, SQL_NONE);
  if (db->mode != MODE_OWN) attached_signal(db);
  if (db->mode == MODE_OWN)
    sql_run(db, SQL_COMMIT, SQL_NONE);
  else if (db->mode == MODE_SAVEPOINT)
    sql_run(db, SQL_RELEASE, SQL_NONE);
}

/* --------------------------------------------------------------- operations */

/* On our own, behind a rollback that may have failed for want of memory. What
** fails before it begins anything has nothing to roll back: a transaction that
** is open then is the host's. */
static void transaction_begin(dibs_db *db, enum sql begin) {
  SQLITE_LIBRARY(db);
  db->mode = MODE_NONE;
  if (db->status) return;
  if (db->attached) {
    attached_begin(db, begin);
    return;
  }
  db->mode = MODE_OWN;
  if (!sqlite3_get_autocommit(db->sqlite)) rollback(db);
  sql_run(db, begin, SQL_NONE);
}

void sql_begin_write(dibs_db *db) {
  bool good = !db->status;
  if (db->whole) return;
  if (db->attached) host_blocks_itself(db);
  transaction_begin(db, SQL_BEGIN_IMMEDIATE);
  if (db->attached && good) host_lock_take(db);
  if (db->status) return;
  if (!db->attached && db->cache.version != file_version(db)) cache_forget(db);
  db->now = dibs_now(db);
  db->writing = true;
}

void sql_begin_read(dibs_db *db) {
  if (db->whole) return;
  transaction_begin(db, SQL_BEGIN);
}

static void own_commit(dibs_db *db) {
  if (db->writing) gather_begin(db);
  sql_run(db, SQL_COMMIT, SQL_NONE);
  if (db->writing) gather_end(db);
}

static void transaction_commit(dibs_db *db) {
  if (db->attached)
    attached_commit(db);
  else
    own_commit(db);
}

void sql_end(dibs_db *db) {
  if (db->whole) return;
  transaction_commit(db);
  if (db->status) {
    rollback(db);
    cache_forget(db);
    log_forget(db);
    db->wakes = (struct wakes){.mask = 0};
  } else if (db->writing) {
    if (!db->attached) db->cache.version = file_version(db);
    db->commits++;
    wake_send(db->sidecar, &db->wakes);
  }
  if (db->writing && db->mode == MODE_OWN) turn_end(db->sidecar);
  db->mode = MODE_NONE;
  db->writing = false;
  if (!db->status && !db->attached) wal_committed(db);
  if (db->status == DIBS_FULL && !db->attached) wal_make_room(db);
}

/* ------------------------------------------------------ several operations */

int sql_whole_begin(dibs_db *db) {
  int status;
  if (!handle_enter(db, &status)) return status;
  sql_begin_write(db);
  if (db->status)
    sql_end(db);
  else
    db->whole = true;
  return handle_leave(db);
}

/* The handle is entered whatever became of the operations, be it that the tables
** are gone. */
int sql_whole_end(dibs_db *db, bool good) {
  int status = DIBS_OK;
  if (db->attached && !attached_enter(db, &status)) return status;
  if (!db->attached) pthread_mutex_lock(&db->mutex);
  handle_clear(db);
  db->whole = false;
  if (!good) handle_fail(db, DIBS_INTERRUPTED, "an operation failed");
  sql_end(db);
  status = handle_leave(db);
  return good ? status : DIBS_OK;
}
