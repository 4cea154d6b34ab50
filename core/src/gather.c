/* SPDX-License-Identifier: MIT */
/*
** gather.c: the frames of a commit in one write.
**
** SQLite writes each page of a commit to the WAL in two calls, 24 bytes that
** describe it and the page: four system calls for an enqueue, some twelve for a
** claim with its acknowledgement. While a connection of the library's own runs COMMIT,
** the methods of its WAL file (a public part of sqlite3_file, see
** sqlite.org/c3ref/file.html) are replaced by those here, which put the pieces
** together, and write them when the last page has come. They reach the file in
** the same order, before anything else is done with it, and before SQLite tells
** other connections of them. decisions/gather.md has the reasoning.
**
** SQLite marks the last frame of a commit (sqlite.org/fileformat2.html#walformat:
** a size of the database other than 0), and an error must reach the call that
** writes it: nothing is kept beyond that. Nothing is kept either once something
** else is done than writing one frame behind the other: a page that had been
** written before its transaction ended, because the cache was full, is written
** again in its place, and then the checksums of all frames behind it, which are
** headers without pages. What is kept when a COMMIT has failed must never be
** written, for the lock is gone: gather_end() forgets it.
*/
#include "internal.h"

#include <sqlite3ext.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define WAL_HEADER   32
#define FRAME_HEADER 24
#define PAGE_LEAST   512
/* Bytes. SQLite's VFS for Unix takes 131,071 in a call: it never writes more
** than a page itself. */
#define ROOM ((size_t)120 * 1024)

struct gather {
  sqlite3_io_methods methods; /* first: what the file points to is this, too */
  const sqlite3_io_methods *real;
  sqlite3_file *file; /* NULL: the methods have not been put in place */
  sqlite3_int64 offset;
  size_t size;
  bool framed;  /* what comes next is a page */
  bool last;    /* and the last of the commit */
  bool stopped; /* whatever comes is written as it comes */
  char data[ROOM];
};

static struct gather *gather_of(sqlite3_file *file) {
  return (struct gather *)(uintptr_t)(const void *)file->pMethods;
}

static int gather_flush(struct gather *gather) {
  size_t size = gather->size;
  gather->size = 0;
  if (!size) return SQLITE_OK;
  return gather->real->xWrite(gather->file, gather->data, (int)size,
                              gather->offset);
}

/* The header of the WAL or of a frame, or the page of one. */
static bool piece_is_known(struct gather *gather, const unsigned char *data,
                           size_t size, sqlite3_int64 offset) {
  if (gather->framed) {
    gather->framed = false;
    return size >= PAGE_LEAST && size <= ROOM;
  }
  gather->last = false;
  if (size == WAL_HEADER && !offset) return true;
  gather->framed = size == FRAME_HEADER && offset >= WAL_HEADER;
  gather->last = gather->framed && (data[4] | data[5] | data[6] | data[7]);
  return gather->framed;
}

/* Write what there is, and from now on whatever comes, as it comes. */
static int gather_stop(struct gather *gather) {
  gather->stopped = true;
  return gather_flush(gather);
}

static bool piece_fits(const struct gather *gather, size_t size,
                       sqlite3_int64 offset) {
  return !gather->size ||
         (offset == gather->offset + (sqlite3_int64)gather->size &&
          size <= ROOM - gather->size);
}

static int piece_add(struct gather *gather, const void *data, size_t size,
                     sqlite3_int64 offset) {
  int code =
      piece_fits(gather, size, offset) ? SQLITE_OK : gather_flush(gather);
  if (code) return code;
  if (!gather->size) gather->offset = offset;
  memcpy(gather->data + gather->size, data, size);
  gather->size += size;
  return gather->last && !gather->framed ? gather_stop(gather) : SQLITE_OK;
}

static int gather_write(sqlite3_file *file, const void *data, int amount,
                        sqlite3_int64 offset) {
  struct gather *gather = gather_of(file);
  size_t size = (size_t)amount;
  if (!gather->stopped && piece_is_known(gather, data, size, offset))
    return piece_add(gather, data, size, offset);
  int code = gather_stop(gather);
  return code ? code : gather->real->xWrite(file, data, amount, offset);
}

static int gather_read(sqlite3_file *file, void *data, int amount,
                       sqlite3_int64 offset) {
  struct gather *gather = gather_of(file);
  int code = gather_stop(gather);
  return code ? code : gather->real->xRead(file, data, amount, offset);
}

static int gather_truncate(sqlite3_file *file, sqlite3_int64 size) {
  struct gather *gather = gather_of(file);
  int code = gather_stop(gather);
  return code ? code : gather->real->xTruncate(file, size);
}

static int gather_sync(sqlite3_file *file, int flags) {
  struct gather *gather = gather_of(file);
  int code = gather_flush(gather);
  return code ? code : gather->real->xSync(file, flags);
}

static int gather_size(sqlite3_file *file, sqlite3_int64 *size) {
  struct gather *gather = gather_of(file);
  int code = gather_stop(gather);
  return code ? code : gather->real->xFileSize(file, size);
}

/* How much of the methods there is depends on their version. */
static void gather_set(struct gather *gather, const sqlite3_io_methods *real) {
  size_t size = sizeof *real;
  if (real->iVersion < 3) size = offsetof(sqlite3_io_methods, xFetch);
  if (real->iVersion < 2) size = offsetof(sqlite3_io_methods, xShmMap);
  memset(&gather->methods, 0, sizeof gather->methods);
  memcpy(&gather->methods, real, size);
  if (real->iVersion > 3) gather->methods.iVersion = 3;
  gather->methods.xRead = gather_read;
  gather->methods.xWrite = gather_write;
  gather->methods.xTruncate = gather_truncate;
  gather->methods.xSync = gather_sync;
  gather->methods.xFileSize = gather_size;
  gather->real = real;
}

void gather_begin(dibs_db *db) {
  SQLITE_LIBRARY(db);
  sqlite3_file *file = NULL;
  if (!db->has_wal) return;
  if (!db->gather) db->gather = calloc(1, sizeof *db->gather);
  struct gather *gather = db->gather;
  if (!gather) return;
  sqlite3_file_control(db->sqlite, "main", SQLITE_FCNTL_JOURNAL_POINTER, &file);
  if (!file || !file->pMethods) return;
  if (gather->real != file->pMethods) gather_set(gather, file->pMethods);
  gather->file = file;
  gather->framed = gather->stopped = false;
  file->pMethods = &gather->methods;
}

void gather_end(dibs_db *db) {
  struct gather *gather = db->gather;
  if (!gather || !gather->file) return;
  gather->file->pMethods = gather->real;
  gather->file = NULL;
  gather->size = 0;
}

void gather_free(dibs_db *db) {
  free(db->gather);
  db->gather = NULL;
}
