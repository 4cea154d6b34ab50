/* SPDX-License-Identifier: MIT */
/*
** checkpoint.c: moving the WAL into the file without the WAL-reset bug.
**
** SQLite 3.7.0 to 3.51.2 can damage a file when a checkpoint runs beside a writer
** (sqlite.org/wal.html#walresetbug): the checkpoint reads how long the WAL is,
** the writer begins the WAL anew, and then the checkpoint notes as moved what the
** WAL held before. Pages that are written there later are never moved. SQLite's
** automatic checkpoints, and those that are asked for without waiting for the
** write lock, run beside writers. So on such a library a connection of ours has
** none of them. When the WAL has grown by CHECKPOINT_PAGES, it takes the write
** lock with an empty transaction, and a second connection, the mover, runs a
** passive checkpoint: nobody can write until that is over, and it waits for no
** reader. The mover is opened when it is needed first, and stays open: opening it
** takes as long as some ten commits. decisions/checkpoints.md has the reasoning.
**
** When the disk is full, the WAL may be what fills it, and the commit at which it
** would be moved never comes. So behind an operation that found no room, with any
** library, one try is made in the same way: once all is in the file, the WAL
** begins anew in the place that it has.
**
** The last connection to close moves the WAL, too. It holds an exclusive lock on
** the file then, so there is nobody who could write.
*/
#include "internal.h"

#include <sqlite3ext.h>
#include <stdlib.h>
#include <string.h>

#define CHECKPOINT_PAGES 1000 /* as SQLite's automatic ones */
#define CHECKPOINT_WAIT  100  /* ms at most for the write lock */

/* ----------------------------------------------------------------- library */

/* Repaired in 3.51.3, and in two lines of older releases. */
bool library_has_reset_bug(const dibs_db *db) {
  SQLITE_LIBRARY(db);
  int version = sqlite3_libversion_number();
  if (version >= 3051003) return false;
  if (version >= 3050007 && version < 3051000) return false;
  return version < 3044006 || version >= 3045000;
}

/* ---------------------------------------------------------------- checking */

static int wal_grown(void *context, sqlite3 *sqlite, const char *name,
                     int pages) {
  dibs_db *db = context;
  (void)sqlite;
  (void)name; /* nothing is attached to a connection of ours */
  db->wal_pages = pages;
  return SQLITE_OK;
}

/* The automatic checkpoint is a WAL hook, which ours replaces. */
void wal_start(dibs_db *db) {
  SQLITE_LIBRARY(db);
  if (library_has_reset_bug(db)) sqlite3_wal_hook(db->sqlite, wal_grown, db);
}

/* ------------------------------------------------------------------ moving */

static void mover_close(dibs_db *db) {
  SQLITE_LIBRARY(db);
  sqlite3_close_v2(db->mover);
  db->mover = NULL;
}

/* It has read from the file: a connection that has not knows of no WAL. False
** when it cannot be had. */
static bool mover_open(dibs_db *db) {
  SQLITE_LIBRARY(db);
  sqlite3_vfs *vfs = NULL;
  if (db->mover) return true;
  const char *file = sqlite3_db_filename(db->sqlite, "main");
  sqlite3_file_control(db->sqlite, "main", SQLITE_FCNTL_VFS_POINTER, &vfs);
  int code = sqlite3_open_v2(file, &db->mover,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX,
                             vfs ? vfs->zName : NULL);
  if (!code)
    code = sqlite3_exec(db->mover,
                        "PRAGMA synchronous=FULL; PRAGMA schema_version", NULL,
                        NULL, NULL);
  if (code) mover_close(db);
  return !code;
}

struct moved {
  int64_t pages;
  int64_t moved;
  bool done;
};

/* The row that the PRAGMA gives: whether it was hindered, and two numbers. */
static int moved_read(void *context, int count, char **values, char **names) {
  struct moved *moved = context;
  (void)names;
  if (count < 3 || !values[1] || !values[2]) return 0;
  moved->pages = strtoll(values[1], NULL, 10);
  moved->moved = strtoll(values[2], NULL, 10);
  moved->done = true;
  return 0;
}

/* One that fails begins anew the next time. */
static void mover_run(dibs_db *db, struct moved *moved) {
  SQLITE_LIBRARY(db);
  if (sqlite3_exec(db->mover, "PRAGMA wal_checkpoint(PASSIVE)", moved_read,
                   moved, NULL))
    mover_close(db);
}

/* As an operation does it, but for a shorter wait. */
static void writer_lock(dibs_db *db) {
  int64_t timeout = db->busy_timeout;
  if (timeout > CHECKPOINT_WAIT) db->busy_timeout = CHECKPOINT_WAIT;
  sql_run(db, SQL_BEGIN_IMMEDIATE, SQL_NONE);
  db->busy_timeout = timeout;
}

/* The operation before this has succeeded, whatever becomes of this. */
bool wal_move(dibs_db *db, int64_t *pages, int64_t *moved) {
  struct moved result = {0};
  if (!mover_open(db)) return false;
  writer_lock(db);
  if (!db->status) {
    mover_run(db, &result);
    sql_run(db, SQL_ROLLBACK, SQL_NONE);
  }
  handle_clear(db);
  *pages = result.pages;
  *moved = result.moved;
  return result.done;
}

/* The operation's error stays what it is. */
void wal_make_room(dibs_db *db) {
  int64_t pages, moved;
  char message[sizeof db->message];
  int status = db->status;
  int64_t id = db->error_id, index = db->error_index;
  if (!db->has_wal) return;
  memcpy(message, db->message, sizeof message);
  handle_clear(db);
  wal_move(db, &pages, &moved);
  handle_fail(db, status, "%s", message);
  db->error_id = id;
  db->error_index = index;
}

void wal_end(dibs_db *db) {
  mover_close(db);
}

/* Once per so many pages: a reader may keep some from being moved, and tell
** every commit to try again. */
void wal_committed(dibs_db *db) {
  int64_t pages, moved;
  if (db->wal_pages < db->wal_tried) db->wal_tried = 0; /* begun anew */
  if (db->wal_pages - db->wal_tried < CHECKPOINT_PAGES) return;
  db->wal_tried = db->wal_pages;
  wal_move(db, &pages, &moved);
}
