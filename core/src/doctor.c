/* SPDX-License-Identifier: MIT */
/*
** doctor.c: what may be wrong, each finding with what to do. It reads, and asks
** for a checkpoint, which waits for no reader.
*/
#include "internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FINDINGS_MAX 64
#define QUEUES_SHOWN 40           /* lines about waiting jobs */
#define WAITING_LONG 3600000      /* ms that a ready job may wait unremarked */
#define WAL_LARGE    (64LL << 20) /* bytes */

struct findings {
  dibs_finding_list list;
  dibs_finding items[FINDINGS_MAX];
  struct arena arena;
};

static void finding_add(dibs_db *db, struct findings *findings,
                        const char *check, int level, const char *advice,
                        const char *format, ...) DIBS_PRINTF(6, 7);

static void finding_add(dibs_db *db, struct findings *findings,
                        const char *check, int level, const char *advice,
                        const char *format, ...) {
  char message[640];
  va_list arguments;
  if (findings->list.count == FINDINGS_MAX) return;
  va_start(arguments, format);
  message_format(message, sizeof message, format, arguments);
  va_end(arguments);
  dibs_finding *finding = &findings->items[findings->list.count];
  finding->check = check;
  finding->level = level;
  finding->message = arena_copy(&findings->arena, message, strlen(message));
  finding->advice = advice;
  if (finding->message)
    findings->list.count++;
  else
    handle_nomem(db);
}

/* ----------------------------------------------------------------- library */

static void library_look(dibs_db *db, struct findings *findings) {
  const char *version = dibs_sqlite_version(db);
  if (!library_has_reset_bug(db))
    finding_add(db, findings, "library", DIBS_LEVEL_OK, NULL, "SQLite %s",
                version);
  else
    finding_add(
        db, findings, "library", DIBS_LEVEL_WARNING,
        "upgrade to SQLite 3.51.3 or newer when you can; until then let "
        "the application's connections run no checkpoints (PRAGMA "
        "wal_autocheckpoint=0): dibs runs them, and safely",
        "SQLite %s has the WAL-reset bug: in a rare race of a "
        "checkpoint with a writer it can damage the file "
        "(sqlite.org/wal.html#walresetbug)",
        version);
}

/* ---------------------------------------------------------------- settings */

static void journal_look(dibs_db *db, struct findings *findings) {
  sqlite3_stmt *row = sql_first(db, SQL_DOCTOR_JOURNAL, SQL_NONE);
  if (!row) return;
  const char *mode = sql_column_text(db, row, 0);
  bool good = mode && (!strcmp(mode, "wal") || db->in_memory);
  finding_add(db, findings, "journal_mode",
              good ? DIBS_LEVEL_OK : DIBS_LEVEL_WARNING,
              good ? NULL
                   : "run dibs init, which switches the file to WAL, so that "
                     "readers and a writer do not wait for each other",
              "journal mode is %s", mode ? mode : "unknown");
  sql_reset(db, row);
}

static void synchronous_look(dibs_db *db, struct findings *findings) {
  int64_t level = sql_get(db, SQL_DOCTOR_SYNCHRONOUS, SQL_NONE, 0);
  bool full = level >= 2;
  finding_add(db, findings, "synchronous", DIBS_LEVEL_OK, NULL,
              "synchronous is %s: a power cut %s", full ? "FULL" : "NORMAL",
              full ? "loses nothing that was committed"
                   : "may lose the last commits");
}

/* -------------------------------------------------------------------- file */

static void permissions_look(dibs_db *db, struct findings *findings) {
  struct stat status;
  if (db->in_memory) return;
  if (stat(db->path, &status)) {
    finding_add(db, findings, "file", DIBS_LEVEL_ERROR,
                "look whether somebody moved or deleted it",
                "%s cannot be reached: %s", db->path, strerror(errno));
    return;
  }
  if (access(db->path, W_OK))
    finding_add(db, findings, "permissions", DIBS_LEVEL_ERROR,
                "give this user the right to write to the file and its folder",
                "%s cannot be written by this user", db->path);
  else if (status.st_mode & S_IWOTH)
    finding_add(db, findings, "permissions", DIBS_LEVEL_WARNING,
                "take the right away (chmod o-w) unless it is meant",
                "%s can be written by every user", db->path);
  else
    finding_add(db, findings, "permissions", DIBS_LEVEL_OK, NULL,
                "%s can be written, %lld bytes", db->path,
                (long long)status.st_size);
}

static int64_t wal_size(const dibs_db *db) {
  struct stat status;
  struct text path = {.data = NULL};
  text_string(&path, db->path);
  text_string(&path, "-wal");
  bool there = !path.failed && !stat(path.data, &status);
  text_free(&path);
  return there ? (int64_t)status.st_size : 0;
}

/* Have the WAL moved: how many pages it has, and how many of them are in the file.
** What the host's connection does is the host's, and it may be in a transaction,
** where it cannot be. */
static void wal_ask(dibs_db *db, int64_t *pages, int64_t *moved) {
  if (db->attached) return;
  if (library_has_reset_bug(db)) {
    wal_move(db, pages, moved);
    return;
  }
  sqlite3_stmt *row = sql_first(db, SQL_DOCTOR_CHECKPOINT, SQL_NONE);
  if (!row) return;
  *pages = sql_column_int(db, row, 1);
  *moved = sql_column_int(db, row, 2);
  sql_reset(db, row);
}

/* Pages that a checkpoint cannot move are held by a reader. */
static void wal_look(dibs_db *db, struct findings *findings) {
  int64_t pages = 0, moved = 0;
  if (db->in_memory) return;
  wal_ask(db, &pages, &moved);
  int64_t size = wal_size(db);
  if (pages > moved && size > WAL_LARGE)
    finding_add(db, findings, "wal", DIBS_LEVEL_WARNING,
                "find the connection with a long read transaction and end it",
                "the WAL has %lld bytes, and a reader keeps %lld of its %lld "
                "pages from being checkpointed",
                (long long)size, (long long)(pages - moved), (long long)pages);
  else
    finding_add(db, findings, "wal", DIBS_LEVEL_OK, NULL,
                "the WAL has %lld bytes", (long long)size);
}

/* ------------------------------------------------------------------- queue */

static void version_look(dibs_db *db, struct findings *findings) {
  finding_add(db, findings, "schema", DIBS_LEVEL_OK, NULL, "schema version %d",
              db->schema);
}

static void leases_look(dibs_db *db, struct findings *findings) {
  int64_t lapsed =
      sql_get(db, SQL_DOCTOR_LAPSED, SQL_ARGS(sql_int(db->now)), 0);
  if (lapsed)
    finding_add(db, findings, "leases", DIBS_LEVEL_WARNING,
                "start a worker: whoever claims next takes them back",
                "%lld%s running jobs have a lease that ran out, and nobody has "
                "claimed since",
                (long long)lapsed, lapsed >= 1000 ? "+" : "");
  else
    finding_add(db, findings, "leases", DIBS_LEVEL_OK, NULL,
                "no lease has run out");
}

static void waiting_look(dibs_db *db, struct findings *findings) {
  sqlite3_stmt *row = sql_first(db, SQL_STATS, SQL_NONE);
  int shown = 0;
  while (row) {
    char age[DURATION_SIZE];
    int64_t since = sql_column_time(db, row, 8);
    int64_t waited = time_between(since, db->now);
    const char *queue = sql_column_text(db, row, 0);
    bool paused = sql_column_int(db, row, 9) == 1;
    bool late = waited > WAITING_LONG;
    if (since != DIBS_UNSET && queue && shown++ < QUEUES_SHOWN)
      finding_add(db, findings, "waiting",
                  late ? DIBS_LEVEL_WARNING : DIBS_LEVEL_OK,
                  !late    ? NULL
                  : paused ? "resume the queue when it is time"
                           : "start workers for the queue, or more of them",
                  "the oldest ready job of queue %s has waited %s%s", queue,
                  duration_format(waited / 1000 * 1000, age),
                  paused ? "; the queue is paused" : "");
    if (!sql_next(db, row)) break;
  }
}

/* --------------------------------------------------------------- integrity */

static void integrity_look(dibs_db *db, struct findings *findings) {
  sqlite3_stmt *row = sql_first(db, SQL_DOCTOR_INTEGRITY, SQL_NONE);
  if (!row) return;
  const char *text = sql_column_text(db, row, 0);
  bool good = text && !strcmp(text, "ok");
  finding_add(db, findings, "integrity",
              good ? DIBS_LEVEL_OK : DIBS_LEVEL_ERROR,
              good ? NULL
                   : "stop all writers, keep a copy, and restore a backup or "
                     "use the sqlite3 shell's .recover",
              "SQLite's integrity check says: %s", text ? text : "nothing");
  sql_reset(db, row);
  int64_t wrong = sql_get(db, SQL_DOCTOR_PLACEMENTS, SQL_NONE, 0);
  if (wrong)
    finding_add(db, findings, "placements", DIBS_LEVEL_ERROR,
                "somebody else wrote to the dibs tables: restore a backup",
                "%lld jobs are in no state, or in several", (long long)wrong);
}

static void findings_free(struct findings *findings) {
  if (!findings) return;
  arena_free(&findings->arena);
  free(findings);
}

int dibs_doctor(dibs_db *db, int thorough, dibs_finding_list **out) {
  int status;
  if (!out) return DIBS_MISUSE;
  *out = NULL;
  if (!handle_enter(db, &status)) return status;
  struct findings *findings = calloc(1, sizeof *findings);
  if (!findings) {
    handle_nomem(db);
    return handle_leave(db);
  }
  library_look(db, findings);
  version_look(db, findings);
  journal_look(db, findings);
  synchronous_look(db, findings);
  permissions_look(db, findings);
  wal_look(db, findings);
  leases_look(db, findings);
  waiting_look(db, findings);
  if (thorough) integrity_look(db, findings);
  findings->list.findings = findings->items;
  if (db->status)
    findings_free(findings);
  else
    *out = &findings->list;
  return handle_leave(db);
}

void dibs_finding_list_free(dibs_finding_list *findings) {
  findings_free((struct findings *)findings);
}
