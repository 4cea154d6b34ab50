/* SPDX-License-Identifier: MIT */
/*
** extension.c: what the SQL functions cost a host.
**
**     bench/run extension [--folder F] [--jobs N] [--payload BYTES]
**                         [--rounds N]
**
** First, in the host's transaction, a call beside plain SQL that writes or
** removes the same rows, by prepared statements too, and, for an enqueue, beside
** the inbox and dibs_enqueue_many(). In each round every way has a transaction of
** so many jobs; the ways take turns, each on a file of its own. Ratios are to
** plain SQL, of the same round.
**
** Then connections: opened, asked for one row and closed, without the functions,
** with them, with one call of them, and with the extension loaded. Each round is
** a process of its own, which did the same once before; but the first load of a
** process is one of them, too.
*/
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "measure.h"

#define ROUNDS_MAX 1000

static const char HELP[] =
    "bench/run extension: what the SQL functions cost a host\n"
    "  --folder F              where, default .\n"
    "  --jobs N                in a transaction, default 5000, at most 10000\n"
    "  --payload BYTES         default 100\n"
    "  --rounds N              default 21\n";

static int64_t jobs;
static char *payload;

/* ------------------------------------------------------------------------ */
/* SQL                                                                      */
/* ------------------------------------------------------------------------ */

static void check(sqlite3 *sqlite, int good) {
  if (!good) give_up("%s", sqlite3_errmsg(sqlite));
}

static void run(sqlite3 *sqlite, const char *sql) {
  check(sqlite, sqlite3_exec(sqlite, sql, NULL, NULL, NULL) == SQLITE_OK);
}

static sqlite3_stmt *prepare(sqlite3 *sqlite, const char *sql) {
  sqlite3_stmt *statement;
  check(sqlite,
        sqlite3_prepare_v2(sqlite, sql, -1, &statement, NULL) == SQLITE_OK);
  return statement;
}

/* Run a statement to its end. */
static void step(sqlite3_stmt *statement) {
  int code;
  do code = sqlite3_step(statement);
  while (code == SQLITE_ROW);
  check(sqlite3_db_handle(statement), code == SQLITE_DONE);
  sqlite3_reset(statement);
}

static void text(sqlite3_stmt *statement, int at, const char *value) {
  sqlite3_bind_text(statement, at, value, -1, SQLITE_STATIC);
}

static int64_t number(sqlite3 *sqlite, const char *sql) {
  sqlite3_stmt *statement = prepare(sqlite, sql);
  check(sqlite, sqlite3_step(statement) == SQLITE_ROW);
  int64_t value = sqlite3_column_int64(statement, 0);
  sqlite3_finalize(statement);
  return value;
}

typedef int entry_point(sqlite3 *, char **, const sqlite3_api_routines *);

/* Have connections that are opened from now on get the functions, or not. */
static void functions(int on) {
  union {
    entry_point *typed;
    void (*plain)(void);
  } entry = {dibs_extension_init};
  if (on)
    sqlite3_auto_extension(entry.plain);
  else
    sqlite3_cancel_auto_extension(entry.plain);
}

static sqlite3 *file_open(const char *name) {
  sqlite3 *sqlite;
  if (sqlite3_open(scratch_path(name), &sqlite) != SQLITE_OK)
    give_up("cannot open %s", name);
  return sqlite;
}

/* ------------------------------------------------------------------------ */
/* Calls                                                                    */
/* ------------------------------------------------------------------------ */

enum way { PLAIN, INBOX, FUNCTION, MANY, PLAIN_ACK, ACK, WAYS };

static const struct {
  const char *name;
  enum way beside;
} WAY[WAYS] = {
    {"enqueue: plain INSERTs of the same rows", PLAIN},
    {"enqueue: INSERT INTO dibs_inbox", PLAIN},
    {"enqueue: SELECT dibs_enqueue(...)", PLAIN},
    {"enqueue: SELECT dibs_enqueue_many(...)", PLAIN},
    {"ack: plain DELETEs of the same rows", PLAIN_ACK},
    {"ack: SELECT dibs_ack(...)", PLAIN_ACK},
};

/* Microseconds a job. */
static double costs[WAYS][ROUNDS_MAX];

static void enqueue_plain(sqlite3 *sqlite) {
  sqlite3_stmt *job = prepare(sqlite, "INSERT INTO dibs_job(id, queue_id,"
                                      " created_at, payload)"
                                      " VALUES (?1, 1, ?2, ?3)");
  sqlite3_stmt *ready = prepare(sqlite, "INSERT INTO dibs_ready(queue_id,"
                                        " priority, id) VALUES (1, 0, ?1)");
  int64_t id = number(sqlite, "SELECT coalesce(max(id), 0) FROM dibs_job");
  for (int64_t i = 0; i < jobs; i++) {
    sqlite3_bind_int64(job, 1, ++id);
    sqlite3_bind_int64(job, 2, 1700000000000 + i);
    text(job, 3, payload);
    step(job);
    sqlite3_bind_int64(ready, 1, id);
    step(ready);
  }
  sqlite3_finalize(job);
  sqlite3_finalize(ready);
}

static void enqueue_each(sqlite3 *sqlite, const char *sql) {
  sqlite3_stmt *statement = prepare(sqlite, sql);
  for (int64_t i = 0; i < jobs; i++) {
    text(statement, 1, payload);
    step(statement);
  }
  sqlite3_finalize(statement);
}

static void enqueue_many(sqlite3 *sqlite) {
  sqlite3_stmt *statement =
      prepare(sqlite, "SELECT dibs_enqueue_many('bench', ?1)");
  size_t size = strlen(payload) + 1;
  char *array = malloc(size * (size_t)jobs + 3), *at = array;
  if (!array) give_up("no memory");
  for (int64_t i = 0; i < jobs; i++, at += size) {
    *at = i ? ',' : '[';
    memcpy(at + 1, payload, size - 1);
  }
  strcpy(at, "]");
  text(statement, 1, array);
  step(statement);
  sqlite3_finalize(statement);
  free(array);
}

static void ack_plain(sqlite3 *sqlite) {
  sqlite3_stmt *held = prepare(sqlite, "SELECT id, token FROM held");
  sqlite3_stmt *lease = prepare(sqlite, "DELETE FROM dibs_leased"
                                        " WHERE id = ?1 AND token = ?2");
  sqlite3_stmt *job = prepare(sqlite, "DELETE FROM dibs_job WHERE id = ?1");
  while (sqlite3_step(held) == SQLITE_ROW) {
    sqlite3_bind_int64(lease, 1, sqlite3_column_int64(held, 0));
    sqlite3_bind_int64(lease, 2, sqlite3_column_int64(held, 1));
    step(lease);
    sqlite3_bind_int64(job, 1, sqlite3_column_int64(held, 0));
    step(job);
  }
  sqlite3_finalize(held);
  sqlite3_finalize(lease);
  sqlite3_finalize(job);
}

static void ack_each(sqlite3 *sqlite) {
  sqlite3_stmt *held = prepare(sqlite, "SELECT receipt FROM held");
  sqlite3_stmt *ack = prepare(sqlite, "SELECT dibs_ack(?1)");
  while (sqlite3_step(held) == SQLITE_ROW) {
    sqlite3_bind_value(ack, 1, sqlite3_column_value(held, 0));
    step(ack);
  }
  sqlite3_finalize(held);
  sqlite3_finalize(ack);
}

/* Jobs to acknowledge, their ids and tokens known. */
static void hold(sqlite3 *sqlite) {
  char sql[256];
  enqueue_many(sqlite);
  run(sqlite, "DELETE FROM held");
  snprintf(sql, sizeof sql,
           "INSERT INTO held(id, receipt) SELECT id, receipt"
           " FROM dibs_claim('bench', '{\"n\":%lld,\"lease\":\"1d\"}')",
           (long long)jobs);
  run(sqlite, sql);
  run(sqlite, "UPDATE held SET token = (SELECT token FROM dibs_leased l"
              " WHERE l.id = held.id)");
}

static void way_run(sqlite3 *sqlite, enum way way) {
  switch (way) {
  case PLAIN: enqueue_plain(sqlite); return;
  case INBOX:
    enqueue_each(sqlite, "INSERT INTO dibs_inbox(queue, payload)"
                         " VALUES ('bench', ?1)");
    return;
  case FUNCTION:
    enqueue_each(sqlite, "SELECT dibs_enqueue('bench', ?1)");
    return;
  case MANY: enqueue_many(sqlite); return;
  case PLAIN_ACK: ack_plain(sqlite); return;
  default: ack_each(sqlite); return;
  }
}

static void measure(sqlite3 *sqlite, enum way way, size_t round) {
  if (way >= PLAIN_ACK) hold(sqlite);
  run(sqlite, "BEGIN IMMEDIATE");
  double began = seconds();
  way_run(sqlite, way);
  costs[way][round] = (seconds() - began) * 1e6 / (double)jobs;
  run(sqlite, "COMMIT");
}

static sqlite3 *way_open(enum way way) {
  char name[16];
  snprintf(name, sizeof name, "way%d.db", way);
  functions(1);
  sqlite3 *sqlite = file_open(name);
  functions(0);
  run(sqlite, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
              "SELECT dibs_init(); SELECT dibs_enqueue('bench', '1');"
              "SELECT dibs_clear('bench');"
              "CREATE TABLE held(id INTEGER PRIMARY KEY, receipt, token)");
  return sqlite;
}

static void print_calls(size_t rounds) {
  struct spread ratio[WAYS];
  for (int way = 0; way < WAYS; way++) {
    double ratios[ROUNDS_MAX];
    for (size_t i = 0; i < rounds; i++)
      ratios[i] = costs[way][i] / costs[WAY[way].beside][i];
    ratio[way] = spread_of(ratios, rounds);
  }
  printf("%-42s  %8s  %7s\n", "in a transaction", "µs a job",
         "ratio (least to most)");
  for (int way = 0; way < WAYS; way++) {
    printf("%-42s  %8.2f", WAY[way].name, median(costs[way], rounds));
    print_ratio(ratio[way]);
    printf("\n");
  }
}

static void measure_calls(size_t rounds) {
  sqlite3 *files[WAYS];
  for (int way = 0; way < WAYS; way++) files[way] = way_open(way);
  for (size_t round = 0; round < rounds; round++)
    for (size_t i = 0; i < WAYS; i++) {
      size_t way = (round + i) % WAYS;
      measure(files[way], (enum way)way, round);
    }
  print_calls(rounds);
  for (int way = 0; way < WAYS; way++) sqlite3_close(files[way]);
}

/* ------------------------------------------------------------------------ */
/* Connections                                                              */
/* ------------------------------------------------------------------------ */

enum use { BARE, REGISTERED, CALLED, LOADED, FIRST, USES };

static const char *const USE[USES] = {
    "connection: opened, asked, closed", "  with the functions registered",
    "  with one call of them", "  with the extension loaded",
    "  the same, the first of its process"};

static double connects[USES][ROUNDS_MAX];

#define CONNECTS 50 /* a round */

static void load(sqlite3 *sqlite) {
  const char *path = getenv("DIBS_EXTENSION");
  if (!path) give_up("DIBS_EXTENSION does not name the extension");
  sqlite3_enable_load_extension(sqlite, 1);
  check(sqlite, sqlite3_load_extension(sqlite, path, NULL, NULL) == SQLITE_OK);
}

static void connect_once(enum use use) {
  sqlite3 *sqlite = file_open("connect.db");
  if (use == LOADED || use == FIRST) load(sqlite);
  if (number(sqlite, "SELECT count(*) FROM t") != 1) give_up("no row");
  if (use == CALLED) number(sqlite, "SELECT dibs_cancel(1)");
  sqlite3_close(sqlite);
}

/* Microseconds a connection, in a new process; its very first, or later ones. */
static double time_connects(enum use use) {
  double *told = shared_memory(sizeof *told);
  int count = use == FIRST ? 1 : CONNECTS;
  if (child_start() == 0) {
    functions(use == REGISTERED || use == CALLED);
    if (use != FIRST) connect_once(use);
    double began = seconds();
    for (int i = 0; i < count; i++) connect_once(use);
    *told = (seconds() - began) * 1e6 / count;
    _exit(0);
  }
  children_end(1);
  double result = *told;
  shared_free(told, sizeof *told);
  return result;
}

static void measure_connections(size_t rounds) {
  functions(1);
  sqlite3 *sqlite = file_open("connect.db");
  functions(0);
  run(sqlite, "PRAGMA journal_mode = WAL; SELECT dibs_init();"
              "CREATE TABLE t(x); INSERT INTO t VALUES (1)");
  for (size_t round = 0; round < rounds; round++)
    for (size_t i = 0; i < USES; i++) {
      enum use use = (enum use)((round + i) % USES);
      connects[use][round] = time_connects(use);
    }
  sqlite3_close(sqlite);
  printf("\n%-42s  %8s  %8s\n", "connections", "µs each", "more");
  double bare = median(connects[BARE], rounds);
  for (int use = 0; use < USES; use++) {
    double each = median(connects[use], rounds);
    printf("%-42s  %8.1f  %8.1f\n", USE[use], each, each - bare);
  }
}

int main(int argc, char **argv) {
  options_check(argc, argv, HELP);
  size_t rounds = (size_t)option_number(argc, argv, "rounds", 21);
  int64_t bytes = option_number(argc, argv, "payload", 100);
  jobs = option_number(argc, argv, "jobs", 5000);
  if (rounds > ROUNDS_MAX || jobs > 10000)
    give_up("at most 1000 rounds of 10000 jobs");
  payload = json_of((size_t)bytes);
  scratch_folder(option_text(argc, argv, "folder", "."));
  print_machine();
  printf("Medians of %zu rounds of %lld jobs of %lld bytes.\n\n", rounds,
         (long long)jobs, (long long)bytes);
  measure_calls(rounds);
  measure_connections(rounds);
  free(payload);
  return 0;
}
