/* SPDX-License-Identifier: MIT */
/*
** plain.c: SQLite alone.
**
** The prototype has a job table and two placement tables. Its claim deletes
** the first row of `ready`, inserts one into `leased` and reads the job; its
** acknowledgement deletes the row of `leased`, by its token, and the job. It
** checks nothing, and knows no schedule, no attempts, no keys, no retention.
*/
#include "plain.h"

#include <stdlib.h>
#include <string.h>

#include "measure.h"

static const char SCHEMA[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE IF NOT EXISTS job(id INTEGER PRIMARY KEY,"
    "  queue_id INTEGER NOT NULL, created_at INTEGER NOT NULL, payload ANY)"
    "  STRICT;"
    "CREATE TABLE IF NOT EXISTS ready(queue_id INTEGER NOT NULL,"
    "  priority INTEGER NOT NULL, id INTEGER NOT NULL,"
    "  PRIMARY KEY (queue_id, priority DESC, id)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS leased(id INTEGER PRIMARY KEY,"
    "  queue_id INTEGER NOT NULL, token INTEGER NOT NULL,"
    "  until INTEGER NOT NULL, worker TEXT) STRICT;"
    "CREATE INDEX IF NOT EXISTS leased_until ON leased(until);"
    "CREATE TABLE IF NOT EXISTS bare(id INTEGER PRIMARY KEY, payload ANY)"
    "  STRICT;"
    "COMMIT";

static const char *const SQL[PLAIN_STEPS] = {
    [PLAIN_BEGIN] = "BEGIN IMMEDIATE",
    [PLAIN_COMMIT] = "COMMIT",
    [PLAIN_PUT_JOB] = "INSERT INTO job(queue_id, created_at, payload)"
                      " VALUES (1, ?1, ?2)",
    [PLAIN_PUT_READY] = "INSERT INTO ready VALUES (1, 0, ?1)",
    [PLAIN_FIRST] = "SELECT priority, id FROM ready WHERE queue_id = 1"
                    " ORDER BY priority DESC, id LIMIT 1",
    [PLAIN_TAKE] = "DELETE FROM ready WHERE queue_id = 1 AND priority = ?1"
                   " AND id = ?2",
    [PLAIN_LEASE] = "INSERT INTO leased VALUES (?1, 1, ?2, ?3, 'worker')",
    [PLAIN_READ] = "SELECT created_at, payload FROM job WHERE id = ?1",
    [PLAIN_UNLEASE] = "DELETE FROM leased WHERE id = ?1 AND token = ?2",
    [PLAIN_DONE] = "DELETE FROM job WHERE id = ?1",
    [PLAIN_ROW] = "INSERT INTO bare(payload) VALUES (?1)"};

static void expect(struct plain *plain, int wanted, int got) {
  if (got != wanted) give_up("plain SQLite: %s", sqlite3_errmsg(plain->db));
}

static void step(struct plain *plain, enum plain_step which) {
  expect(plain, SQLITE_DONE, sqlite3_step(plain->steps[which]));
  sqlite3_reset(plain->steps[which]);
}

static void bind(struct plain *plain, enum plain_step which, int at,
                 int64_t value) {
  sqlite3_bind_int64(plain->steps[which], at, value);
}

static void execute(struct plain *plain, const char *sql) {
  expect(plain, SQLITE_OK, sqlite3_exec(plain->db, sql, NULL, NULL, NULL));
}

void plain_open(struct plain *plain, const char *path, int synchronous) {
  int full = synchronous == DIBS_SYNCHRONOUS_FULL;
  memset(plain, 0, sizeof *plain);
  if (sqlite3_open(path, &plain->db)) give_up("cannot open %s", path);
  sqlite3_busy_timeout(plain->db, DIBS_DEFAULT_BUSY_TIMEOUT);
  execute(plain, "PRAGMA journal_mode=WAL");
  execute(plain,
          full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL");
  execute(plain, SCHEMA);
  for (int i = 0; i < PLAIN_STEPS; i++)
    expect(plain, SQLITE_OK,
           sqlite3_prepare_v3(plain->db, SQL[i], -1, SQLITE_PREPARE_PERSISTENT,
                              &plain->steps[i], NULL));
}

void plain_close(struct plain *plain) {
  for (int i = 0; i < PLAIN_STEPS; i++) sqlite3_finalize(plain->steps[i]);
  sqlite3_close(plain->db);
  free(plain->payload);
}

int plain_begin(struct plain *plain) {
  int code = sqlite3_step(plain->steps[PLAIN_BEGIN]);
  sqlite3_reset(plain->steps[PLAIN_BEGIN]);
  if (code == SQLITE_BUSY) {
    plain->busy++;
    return 0;
  }
  expect(plain, SQLITE_DONE, code);
  return 1;
}

void plain_commit(struct plain *plain) {
  step(plain, PLAIN_COMMIT);
}

void plain_put(struct plain *plain, int64_t now, const char *payload) {
  bind(plain, PLAIN_PUT_JOB, 1, now);
  sqlite3_bind_text(plain->steps[PLAIN_PUT_JOB], 2, payload, -1, SQLITE_STATIC);
  step(plain, PLAIN_PUT_JOB);
  bind(plain, PLAIN_PUT_READY, 1, sqlite3_last_insert_rowid(plain->db));
  step(plain, PLAIN_PUT_READY);
}

static void read_payload(struct plain *plain, int64_t id) {
  sqlite3_stmt *read = plain->steps[PLAIN_READ];
  bind(plain, PLAIN_READ, 1, id);
  expect(plain, SQLITE_ROW, sqlite3_step(read));
  free(plain->payload);
  plain->payload = strdup((const char *)sqlite3_column_text(read, 1));
  sqlite3_reset(read);
}

int64_t plain_claim(struct plain *plain, int64_t token) {
  sqlite3_stmt *first = plain->steps[PLAIN_FIRST];
  int64_t priority, id;
  int code = sqlite3_step(first);
  if (code == SQLITE_DONE) {
    sqlite3_reset(first);
    return 0;
  }
  expect(plain, SQLITE_ROW, code);
  priority = sqlite3_column_int64(first, 0);
  id = sqlite3_column_int64(first, 1);
  sqlite3_reset(first);
  bind(plain, PLAIN_TAKE, 1, priority);
  bind(plain, PLAIN_TAKE, 2, id);
  step(plain, PLAIN_TAKE);
  bind(plain, PLAIN_LEASE, 1, id);
  bind(plain, PLAIN_LEASE, 2, token);
  bind(plain, PLAIN_LEASE, 3, token + 60000);
  step(plain, PLAIN_LEASE);
  read_payload(plain, id);
  return id;
}

void plain_acknowledge(struct plain *plain, int64_t id, int64_t token) {
  bind(plain, PLAIN_UNLEASE, 1, id);
  bind(plain, PLAIN_UNLEASE, 2, token);
  step(plain, PLAIN_UNLEASE);
  bind(plain, PLAIN_DONE, 1, id);
  step(plain, PLAIN_DONE);
}

void plain_row(struct plain *plain, const char *payload) {
  if (!plain_begin(plain)) give_up("plain SQLite: busy");
  sqlite3_bind_text(plain->steps[PLAIN_ROW], 1, payload, -1, SQLITE_STATIC);
  step(plain, PLAIN_ROW);
  plain_commit(plain);
}

double plain_rate(const char *path, int synchronous, double length) {
  struct plain plain;
  int64_t count = 0;
  double began, ended;
  char *payload = json_of(100);
  plain_open(&plain, path, synchronous);
  began = seconds();
  do {
    plain_row(&plain, payload);
    count++;
    ended = seconds();
  } while (ended < began + length);
  plain_close(&plain);
  free(payload);
  database_remove(path);
  return (double)count / (ended - began);
}
