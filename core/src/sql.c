/* SPDX-License-Identifier: MIT */
/*
** sql.c: every call of SQLite that an operation makes. Statements are numbers
** (statements.h), prepared on first use and kept with the handle; values are
** bound by arrays of tagged values; result codes become statuses.
*/
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <sqlite3ext.h>
#include <stdio.h>
#include <string.h>

static const char *const sql_texts[] = {
#define SQL_TEXT_ROW(name, text) text,
    DIBS_SQL_MAP(SQL_TEXT_ROW)
#undef SQL_TEXT_ROW
};
_Static_assert(sizeof sql_texts / sizeof *sql_texts == SQL_COUNT,
               "a text for each statement");

/* ------------------------------------------------------------------ errors */

/* Whether the host's transaction, or a statement of its, reads: then SQLite does
** not wait for the write lock. */
static bool host_reads(const dibs_db *db) {
  SQLITE_LIBRARY(db);
  return db->attached &&
         sqlite3_txn_state(db->sqlite, "main") == SQLITE_TXN_READ;
}

static void snapshot_fail(dibs_db *db) {
  SQLITE_LIBRARY(db);
  if (sqlite3_get_autocommit(db->sqlite))
    handle_fail(db, DIBS_SNAPSHOT,
                "another connection has written to %s since this statement "
                "began to read: put it between BEGIN IMMEDIATE and COMMIT",
                db->path);
  else
    handle_fail(db, DIBS_SNAPSHOT,
                "this read transaction cannot become a write transaction: "
                "begin it with BEGIN IMMEDIATE");
}

static void busy_fail(dibs_db *db) {
  char timeout[DURATION_SIZE];
  if (db->attached && attached_blocks(db)) {
    handle_fail(db, DIBS_BUSY,
                "this thread's own transaction, on another connection that "
                "dibs is attached to, has %s locked: use that one's handle "
                "within it, or end it first",
                db->path);
    return;
  }
  if (host_reads(db)) {
    snapshot_fail(db);
    return;
  }
  if (db->attached) {
    handle_fail(db, DIBS_BUSY,
                "another connection is writing to %s: raise this connection's "
                "busy timeout, or end the other's transaction sooner",
                db->path);
    return;
  }
  if (db->self_blocked) {
    handle_fail(db, DIBS_BUSY,
                "this thread's own transaction, on a connection that dibs is "
                "attached to, has %s locked: use the attached handle within "
                "it, or end it first",
                db->path);
    return;
  }
  duration_format(db->busy_timeout, timeout);
  handle_fail(db, DIBS_BUSY,
              "another connection has been writing to %s for longer than the "
              "busy timeout of %s: end its transaction, or raise the timeout; "
              "if it is this program's own, enqueue through it (attach)",
              db->path, timeout);
}

static void io_fail(dibs_db *db, const char *text) {
  SQLITE_LIBRARY(db);
  int number = db->sqlite ? sqlite3_system_errno(db->sqlite) : 0;
  if (number == ENOSPC || number == EDQUOT)
    handle_fail(db, DIBS_FULL, "no space left for %s: free some and try again",
                db->path);
  else
    handle_fail(db, DIBS_IO,
                "reading or writing %s failed (%s%s%s): check the "
                "disk and the permissions of the file and its folder",
                db->path, text, number ? ", " : "",
                number ? strerror(number) : "");
}

static void readonly_fail(dibs_db *db) {
  handle_fail(db, DIBS_READONLY, "%s cannot be written: check %s", db->path,
              db->attached ? "whether the application's connection may write "
                             "(PRAGMA query_only), and the permissions of the "
                             "file and its folder"
                           : "the permissions of the file and its folder");
}

/* Primary result codes whose text says it all. */
static bool fixed_fail(dibs_db *db, int primary) {
  switch (primary) {
  case SQLITE_FULL:
    handle_fail(db, DIBS_FULL,
                "no space left for %s, or its max_page_count is reached: free "
                "some and try again",
                db->path);
    return true;
  case SQLITE_READONLY: readonly_fail(db); return true;
  case SQLITE_CORRUPT:
    handle_fail(db, DIBS_CORRUPT,
                "%s is damaged: stop all writers, keep a "
                "copy, and restore a backup or use the sqlite3 shell's "
                ".recover",
                db->path);
    return true;
  case SQLITE_NOTADB:
    handle_fail(db, DIBS_SCHEMA,
                "%s is not an SQLite database: name another "
                "file",
                db->path);
    return true;
  case SQLITE_TOOBIG:
    handle_fail(db, DIBS_TOO_BIG, "over the length that this SQLite allows");
    return true;
  case SQLITE_NOMEM: handle_nomem(db); return true;
  case SQLITE_BUSY:
  case SQLITE_LOCKED:
  case SQLITE_PROTOCOL: busy_fail(db); return true;
  }
  return false;
}

void sql_fail(dibs_db *db, int code) {
  SQLITE_LIBRARY(db);
  if (db->status) return;
  const char *text = db->sqlite ? sqlite3_errmsg(db->sqlite) : "";
  int primary = code & 0xFF;
  if (code == SQLITE_BUSY_SNAPSHOT)
    snapshot_fail(db);
  else if (code == SQLITE_IOERR_NOMEM)
    handle_nomem(db);
  else if (code == SQLITE_CONSTRAINT_COMMITHOOK)
    handle_fail(db, DIBS_MISUSE,
                "the application's commit hook refused this: let it pass what "
                "dibs commits");
  else if (fixed_fail(db, primary))
    return;
  else if (primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN)
    io_fail(db, text);
  else if (primary == SQLITE_CONSTRAINT || primary == SQLITE_MISMATCH)
    handle_fail(db, DIBS_CORRUPT,
                "the dibs tables of %s contradict each other "
                "(%s): restore a backup",
                db->path, text);
  else if (primary == SQLITE_AUTH || !strncmp(text, "not authorized", 14))
    handle_fail(db, DIBS_MISUSE,
                "the connection's authorizer forbids what dibs does (%s): "
                "allow it for tables whose names begin with dibs_",
                text);
  else if (primary == SQLITE_INTERRUPT)
    handle_fail(db, DIBS_INTERRUPTED, "interrupted");
  else if (primary == SQLITE_ERROR)
    handle_fail(db, DIBS_SCHEMA,
                "the dibs tables of %s cannot be used (%s): "
                "run dibs doctor",
                db->path, text);
  else
    handle_fail(db, DIBS_MISUSE, "SQLite: %s", text);
}

/* ------------------------------------------------------------------ values */

struct sql_value sql_int(int64_t value) {
  return (struct sql_value){.type = SQL_INT, .integer = value};
}

struct sql_value sql_real(double value) {
  return (struct sql_value){.type = SQL_REAL, .real = value};
}

struct sql_value sql_sized(const char *data, size_t size) {
  return (struct sql_value){.type = SQL_TEXT, .data = data, .size = size};
}

struct sql_value sql_text(const char *value) {
  return sql_sized(value, value ? strlen(value) : 0);
}

struct sql_value sql_payload(const dibs_payload *payload) {
  return (struct sql_value){.type = SQL_PAYLOAD,
                            .data = payload->data,
                            .size = payload->size,
                            .kind = payload->kind};
}

static int value_bind(dibs_db *db, sqlite3_stmt *statement, int at,
                      const struct sql_value *value) {
  SQLITE_LIBRARY(db);
  switch (value->type) {
  case SQL_INT:
    if (value->integer == DIBS_UNSET) return sqlite3_bind_null(statement, at);
    return sqlite3_bind_int64(statement, at, value->integer);
  case SQL_REAL: return sqlite3_bind_double(statement, at, value->real);
  case SQL_PAYLOAD:
    if (value->kind == DIBS_PAYLOAD_NONE)
      return sqlite3_bind_null(statement, at);
    if (value->kind == DIBS_PAYLOAD_BYTES)
      return sqlite3_bind_blob64(statement, at, value->size ? value->data : "",
                                 value->size, SQLITE_STATIC);
    break;
  case SQL_TEXT:
  case SQL_END: break;
  }
  if (!value->data) return sqlite3_bind_null(statement, at);
  return sqlite3_bind_text64(statement, at, value->data, value->size,
                             SQLITE_STATIC, SQLITE_UTF8);
}

/* -------------------------------------------------------------- statements */

static sqlite3_stmt *statement_get(dibs_db *db, enum sql sql) {
  SQLITE_LIBRARY(db);
  if (db->status) return NULL;
  if (!db->statements[sql]) {
    int code = sqlite3_prepare_v3(db->sqlite, sql_texts[sql], -1,
                                  SQLITE_PREPARE_PERSISTENT,
                                  &db->statements[sql], NULL);
    if (code) sql_fail(db, code);
  }
  return db->statements[sql];
}

/* The statement with its values bound, before its first step. */
static sqlite3_stmt *statement_start(dibs_db *db, enum sql sql,
                                     const struct sql_value *values) {
  sqlite3_stmt *statement = statement_get(db, sql);
  if (!statement) return NULL;
  for (int at = 1; values->type != SQL_END; values++, at++) {
    int code = value_bind(db, statement, at, values);
    if (code) {
      sql_fail(db, code);
      return NULL;
    }
  }
  return statement;
}

void sql_reset(dibs_db *db, sqlite3_stmt *statement) {
  SQLITE_LIBRARY(db);
  sqlite3_reset(statement);
}

bool sql_next(dibs_db *db, sqlite3_stmt *statement) {
  SQLITE_LIBRARY(db);
  int code = sqlite3_step(statement);
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE)
    sql_fail(db, sqlite3_extended_errcode(db->sqlite));
  else if (db->attached && !sqlite3_stmt_readonly(statement))
    db->writer = statement;
  sqlite3_reset(statement);
  return false;
}

sqlite3_stmt *sql_first(dibs_db *db, enum sql sql,
                        const struct sql_value *values) {
  sqlite3_stmt *statement = statement_start(db, sql, values);
  if (!statement || !sql_next(db, statement)) return NULL;
  return statement;
}

void sql_run(dibs_db *db, enum sql sql, const struct sql_value *values) {
  sqlite3_stmt *statement = sql_first(db, sql, values);
  if (statement) sql_reset(db, statement);
}

int64_t sql_get(dibs_db *db, enum sql sql, const struct sql_value *values,
                int64_t absent) {
  sqlite3_stmt *statement = sql_first(db, sql, values);
  if (!statement) return absent;
  int64_t value = sql_column_int(db, statement, 0);
  sql_reset(db, statement);
  return value == DIBS_UNSET ? absent : value;
}

int64_t sql_column_int(dibs_db *db, sqlite3_stmt *statement, int column) {
  SQLITE_LIBRARY(db);
  if (sqlite3_column_type(statement, column) == SQLITE_NULL) return DIBS_UNSET;
  return sqlite3_column_int64(statement, column);
}

/* Infinity is written by nobody: it is damage. */
double sql_column_real(dibs_db *db, sqlite3_stmt *statement, int column) {
  SQLITE_LIBRARY(db);
  if (sqlite3_column_type(statement, column) == SQLITE_NULL) return (double)NAN;
  double value = sqlite3_column_double(statement, column);
  return isinf(value) ? (double)NAN : value;
}

const char *sql_column_text(dibs_db *db, sqlite3_stmt *statement, int column) {
  SQLITE_LIBRARY(db);
  if (sqlite3_column_type(statement, column) == SQLITE_NULL) return NULL;
  const char *text = (const char *)sqlite3_column_text(statement, column);
  if (!text) handle_nomem(db);
  return text;
}

dibs_payload sql_column_payload(dibs_db *db, sqlite3_stmt *statement,
                                int column) {
  SQLITE_LIBRARY(db);
  dibs_payload payload = {.kind = DIBS_PAYLOAD_NONE};
  int type = sqlite3_column_type(statement, column);
  if (type == SQLITE_NULL) return payload;
  payload.kind = type == SQLITE_BLOB ? DIBS_PAYLOAD_BYTES : DIBS_PAYLOAD_JSON;
  payload.data = type == SQLITE_BLOB
                     ? sqlite3_column_blob(statement, column)
                     : (const void *)sqlite3_column_text(statement, column);
  payload.size = (size_t)sqlite3_column_bytes(statement, column);
  if (!payload.data && (payload.size || type != SQLITE_BLOB)) handle_nomem(db);
  return payload;
}

int64_t sql_changes(dibs_db *db) {
  SQLITE_LIBRARY(db);
  return db->status ? 0 : sqlite3_changes(db->sqlite);
}

int64_t sql_column_count(dibs_db *db, sqlite3_stmt *statement, int column) {
  int64_t count = sql_column_int(db, statement, column);
  if (count < 0) return 0;
  return count > INT32_MAX ? INT32_MAX : count;
}

int64_t sql_column_time(dibs_db *db, sqlite3_stmt *statement, int column) {
  int64_t time = sql_column_int(db, statement, column);
  if (time == DIBS_UNSET) return DIBS_UNSET;
  if (time < 0) return 0;
  return time > TIME_MAX ? TIME_MAX : time;
}

void sql_column_key(dibs_db *db, sqlite3_stmt *statement, int column,
                    char key[KEY_SIZE]) {
  dibs_payload text = sql_column_payload(db, statement, column);
  key[0] = 0;
  if (text.kind == DIBS_PAYLOAD_NONE || db->status) return;
  if (text.size >= KEY_SIZE || memchr(text.data, 0, text.size)) {
    handle_fail(db, DIBS_CORRUPT,
                "a name in %s is longer than 255 bytes or "
                "has a NUL in it: the row was not written by dibs",
                db->path);
    return;
  }
  memcpy(key, text.data, text.size);
  key[text.size] = 0;
}

void sql_script(dibs_db *db, const char *script) {
  SQLITE_LIBRARY(db);
  if (db->status) return;
  if (sqlite3_exec(db->sqlite, script, NULL, NULL, NULL))
    sql_fail(db, sqlite3_extended_errcode(db->sqlite));
}

/* ---------------------------------------------------------------- the rest */

void sql_prepare(dibs_db *db) {
  statement_get(db, SQL_ROLLBACK);
  if (!db->attached) return;
  statement_get(db, SQL_ROLLBACK_TO);
  statement_get(db, SQL_RELEASE);
}

void sql_reset_all(dibs_db *db) {
  SQLITE_LIBRARY(db);
  for (int sql = 0; sql < SQL_COUNT; sql++)
    if (db->statements[sql]) sqlite3_reset(db->statements[sql]);
}

void sql_finalize(dibs_db *db) {
  SQLITE_LIBRARY(db);
  for (int sql = 0; sql < SQL_COUNT; sql++) {
    sqlite3_finalize(db->statements[sql]);
    db->statements[sql] = NULL;
  }
}
