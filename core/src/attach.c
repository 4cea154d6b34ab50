/* SPDX-License-Identifier: MIT */
/*
** attach.c: living inside a connection of the host.
**
** A connection has one dibs_db, however often it is attached and in however many
** ways (dibs_attach(), the SQL functions); it is found by the connection's
** address and lives until the connection is closed and every handle is. Nothing
** of the host's is replaced: no hook, no handler, no PRAGMA. Two eponymous
** virtual tables of our own do what is needed. Their names bear the address of
** this copy of the library, for there may be several in a process.
**
** The signal table takes part in each of the host's transactions that has
** something to tell, be it to those who wait or to the log: an INSERT into it
** enters it, xCommit runs when the commit is visible to others and tells, and
** xRollback forgets. What was noted behind a
** savepoint that is rolled back is forgotten, too: at each savepoint that SQLite
** tells of, what is pending is remembered.
**
** The keeper table lets the host close the connection although we have prepared
** statements: sqlite3_close() disconnects virtual tables before it looks for
** statements that were not finalized, and disconnecting the keeper, which no
** statement of ours refers to, finalizes them. (The signal table could not do
** that: a prepared INSERT refers to it.)
**
** Calls take the connection's own mutex, so that a function called by SQLite,
** which holds that, cannot wait for one that waits for it. A connection without
** one belongs to one thread at a time, by the host's own promise. Whoever has
** the mutex of the list below may only try a connection's.
**
** A host may have lowered the connection's limits, as SQLite advises those who run
** SQL of strangers. What our statements need is lifted for each operation.
**
** A connection that dibs is never used on costs nothing; a database without our
** tables gets no sidecar.
*/
#include "internal.h"

#include <sqlite3ext.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What was pending when a savepoint was set. */
struct savepoint {
  int level;
  int noted; /* how many log entries */
  struct wakes wakes;
};

/* What our statements need of the connection's limits. */
static const struct {
  int which;
  int least;
} needs[] = {
    {SQLITE_LIMIT_SQL_LENGTH, 100000}, {SQLITE_LIMIT_COLUMN, 100},
    {SQLITE_LIMIT_EXPR_DEPTH, 100},    {SQLITE_LIMIT_COMPOUND_SELECT, 50},
    {SQLITE_LIMIT_VDBE_OP, 25000},     {SQLITE_LIMIT_FUNCTION_ARG, 16},
    {SQLITE_LIMIT_VARIABLE_NUMBER, 64}};
#define NEED_COUNT (sizeof needs / sizeof *needs)

struct attached {
  dibs_db *next;
  int references; /* handles that were given out */
  bool made;      /* the keeper's module is there */
  bool shared;    /* it was seen to that there is a sidecar */
  bool kept;      /* the keeper is connected */
  bool inside;    /* an operation is under way */
  bool missed;    /* without memory: savepoints are not remembered */
  int64_t rowid;  /* the host's last_insert_rowid() */
  /* Others read these two. */
  _Atomic(pthread_t) thread; /* that used it last */
  atomic_bool roams;         /* more than one has used it */
  int limits[NEED_COUNT];    /* the host's, while an operation is under way */
  sqlite3_stmt *signal;
  struct wakes pending;  /* for the host's commit */
  struct log_list noted; /* the same */
  struct savepoint *savepoints;
  int count;
  int capacity;
};

struct attached_table {
  sqlite3_vtab base;
  dibs_db *db;
};

static pthread_mutex_t attached_mutex = PTHREAD_MUTEX_INITIALIZER;
static dibs_db *attached_first;

#define TABLE_NAME_SIZE 64

static void table_name(const char *kind, char name[TABLE_NAME_SIZE]) {
  snprintf(name, TABLE_NAME_SIZE, "dibs_%s_%llx", kind,
           (unsigned long long)(uintptr_t)(void *)&attached_first);
}

/* ------------------------------------------------------------------- tables */

static int table_connect(sqlite3 *sqlite, void *context, int count,
                         const char *const *arguments, sqlite3_vtab **out,
                         char **message) {
  dibs_db *db = context;
  SQLITE_LIBRARY(db);
  (void)count;
  (void)arguments;
  (void)message;
  int code = sqlite3_declare_vtab(sqlite, "CREATE TABLE x(n)");
  if (code) return code;
  sqlite3_vtab_config(sqlite, SQLITE_VTAB_DIRECTONLY);
  struct attached_table *table = calloc(1, sizeof *table);
  if (!table) return SQLITE_NOMEM;
  table->db = db;
  *out = &table->base;
  return SQLITE_OK;
}

static int table_disconnect(sqlite3_vtab *base) {
  free(base);
  return SQLITE_OK;
}

/* They have no rows. */
static int table_best_index(sqlite3_vtab *base, sqlite3_index_info *info) {
  (void)base;
  info->estimatedCost = 1;
  return SQLITE_OK;
}

static int table_open(sqlite3_vtab *base, sqlite3_vtab_cursor **cursor) {
  (void)base;
  *cursor = calloc(1, sizeof **cursor);
  return *cursor ? SQLITE_OK : SQLITE_NOMEM;
}

static int table_close(sqlite3_vtab_cursor *cursor) {
  free(cursor);
  return SQLITE_OK;
}

static int table_filter(sqlite3_vtab_cursor *cursor, int number,
                        const char *text, int count, sqlite3_value **values) {
  (void)cursor;
  (void)number;
  (void)text;
  (void)count;
  (void)values;
  return SQLITE_OK;
}

static int table_next(sqlite3_vtab_cursor *cursor) {
  (void)cursor;
  return SQLITE_OK;
}

static int table_eof(sqlite3_vtab_cursor *cursor) {
  (void)cursor;
  return 1;
}

static int table_column(sqlite3_vtab_cursor *cursor, sqlite3_context *context,
                        int column) {
  (void)cursor;
  (void)context;
  (void)column;
  return SQLITE_OK;
}

static int table_rowid(sqlite3_vtab_cursor *cursor, sqlite3_int64 *rowid) {
  (void)cursor;
  *rowid = 0;
  return SQLITE_OK;
}

/* Why a statement on one of them cannot be had. */
static void table_fail(dibs_db *db, int code) {
  SQLITE_LIBRARY(db);
  if (code == SQLITE_ERROR)
    handle_fail(db, DIBS_MISUSE,
                "the connection refuses a virtual table that dibs needs (%s): "
                "see its authorizer",
                sqlite3_errmsg(db->sqlite));
  else
    sql_fail(db, code);
}

/* ------------------------------------------------------------- signal table */

static struct attached *table_attached(sqlite3_vtab *base) {
  return ((struct attached_table *)(void *)base)->db->attached;
}

/* What the operation has to tell becomes the transaction's. */
static int signal_update(sqlite3_vtab *base, int count, sqlite3_value **values,
                         sqlite3_int64 *rowid) {
  dibs_db *db = ((struct attached_table *)(void *)base)->db;
  (void)count;
  (void)values;
  *rowid = 0;
  wake_merge(&db->attached->pending, &db->wakes);
  log_join(&db->attached->noted, &db->noted);
  return SQLITE_OK;
}

static void pending_forget(struct attached *attached) {
  attached->pending = (struct wakes){.mask = 0};
  log_cut(&attached->noted, 0);
  attached->count = 0;
  attached->missed = false;
}

static int signal_begin(sqlite3_vtab *base) {
  pending_forget(table_attached(base));
  return SQLITE_OK;
}

/* The log callback must not call the handle, which SQLite is in. */
static int signal_commit(sqlite3_vtab *base) {
  dibs_db *db = ((struct attached_table *)(void *)base)->db;
  bool inside = db->attached->inside;
  wake_send(db->sidecar, &db->attached->pending);
  turn_end(db->sidecar);
  db->attached->inside = true;
  log_tell(db, &db->attached->noted);
  db->attached->inside = inside;
  pending_forget(db->attached);
  return SQLITE_OK;
}

static int signal_rollback(sqlite3_vtab *base) {
  pending_forget(table_attached(base));
  return SQLITE_OK;
}

static bool savepoints_grow(struct attached *attached) {
  if (attached->count < attached->capacity) return true;
  int capacity = attached->capacity ? attached->capacity * 2 : 8;
  struct savepoint *grown =
      realloc(attached->savepoints, (size_t)capacity * sizeof *grown);
  if (!grown) return false;
  attached->savepoints = grown;
  attached->capacity = capacity;
  return true;
}

/* One that is not remembered costs a wake for nothing, should it be rolled back,
** and the log what was noted. */
static int signal_savepoint(sqlite3_vtab *base, int level) {
  struct attached *attached = table_attached(base);
  if (!savepoints_grow(attached)) attached->missed = true;
  if (attached->missed) return SQLITE_OK;
  attached->savepoints[attached->count++] =
      (struct savepoint){level, attached->noted.count, attached->pending};
  return SQLITE_OK;
}

static int signal_release(sqlite3_vtab *base, int level) {
  struct attached *attached = table_attached(base);
  while (attached->count &&
         attached->savepoints[attached->count - 1].level >= level)
    attached->count--;
  return SQLITE_OK;
}

/* The savepoint stays. One that is not among those remembered was set before
** this table took part in the transaction: then nothing was pending. */
static int signal_rollback_to(sqlite3_vtab *base, int level) {
  struct attached *attached = table_attached(base);
  int at = attached->count;
  struct savepoint saved = {.level = level};
  if (attached->missed) {
    log_cut(&attached->noted, 0);
    return SQLITE_OK;
  }
  while (at && attached->savepoints[at - 1].level >= level) at--;
  bool known = at < attached->count && attached->savepoints[at].level == level;
  if (known) saved = attached->savepoints[at];
  attached->pending = saved.wakes;
  log_cut(&attached->noted, saved.noted);
  attached->count = known ? at + 1 : at;
  return SQLITE_OK;
}

static const sqlite3_module signal_module = {
    .iVersion = 2,
    .xConnect = table_connect,
    .xBestIndex = table_best_index,
    .xDisconnect = table_disconnect,
    .xOpen = table_open,
    .xClose = table_close,
    .xFilter = table_filter,
    .xNext = table_next,
    .xEof = table_eof,
    .xColumn = table_column,
    .xRowid = table_rowid,
    .xUpdate = signal_update,
    .xBegin = signal_begin,
    .xCommit = signal_commit,
    .xRollback = signal_rollback,
    .xSavepoint = signal_savepoint,
    .xRelease = signal_release,
    .xRollbackTo = signal_rollback_to,
};

void attached_signal(dibs_db *db) {
  SQLITE_LIBRARY(db);
  struct attached *attached = db->attached;
  char name[TABLE_NAME_SIZE], text[TABLE_NAME_SIZE + 64];
  if (db->status || (!db->wakes.mask && !db->wakes.mails && !db->noted.count))
    return;
  if (!attached->signal) {
    table_name("signal", name);
    snprintf(text, sizeof text, "INSERT INTO %s(n) VALUES (1)", name);
    int code =
        sqlite3_prepare_v3(db->sqlite, text, -1, SQLITE_PREPARE_PERSISTENT,
                           &attached->signal, NULL);
    if (code) table_fail(db, code);
  }
  if (db->status) return;
  sqlite3_step(attached->signal);
  int code = sqlite3_reset(attached->signal);
  if (code) sql_fail(db, code);
}

/* ------------------------------------------------------------- keeper table */

static void attached_finalize(dibs_db *db) {
  SQLITE_LIBRARY(db);
  sql_finalize(db);
  sqlite3_finalize(db->attached->signal);
  db->attached->signal = NULL;
}

static int keeper_connected(sqlite3 *sqlite, void *context, int count,
                            const char *const *arguments, sqlite3_vtab **out,
                            char **message) {
  dibs_db *db = context;
  int code = table_connect(sqlite, context, count, arguments, out, message);
  db->attached->kept = !code;
  return code;
}

static int keeper_disconnect(sqlite3_vtab *base) {
  dibs_db *db = ((struct attached_table *)(void *)base)->db;
  attached_finalize(db);
  db->attached->kept = false;
  return table_disconnect(base);
}

static const sqlite3_module keeper_module = {
    .iVersion = 1,
    .xConnect = keeper_connected,
    .xBestIndex = table_best_index,
    .xDisconnect = keeper_disconnect,
    .xOpen = table_open,
    .xClose = table_close,
    .xFilter = table_filter,
    .xNext = table_next,
    .xEof = table_eof,
    .xColumn = table_column,
    .xRowid = table_rowid,
};

static void closed_fail(dibs_db *db) {
  handle_fail(db, DIBS_CLOSED,
              "the application has closed its connection to %s", db->path);
}

/* Connect it: by a statement that refers to it, and is gone again. */
static void keeper_connect(dibs_db *db) {
  SQLITE_LIBRARY(db);
  char name[TABLE_NAME_SIZE], text[TABLE_NAME_SIZE + 64];
  sqlite3_stmt *statement = NULL;
  if (db->attached->kept) return;
  table_name("keeper", name);
  snprintf(text, sizeof text, "SELECT n FROM %s", name);
  int code = sqlite3_prepare_v2(db->sqlite, text, -1, &statement, NULL);
  sqlite3_finalize(statement);
  if (code == SQLITE_MISUSE)
    closed_fail(db); /* and lives until its last statement ends */
  else if (code)
    table_fail(db, code);
  else if (!db->attached->kept)
    handle_fail(db, DIBS_MISUSE,
                "the connection's authorizer ignores statements of dibs, which "
                "needs them");
  if (db->attached->kept) sql_prepare(db);
}

/* ------------------------------------------------------------------ the frame */

/* A library that was built for one thread has none, whatever it says. */
static sqlite3_mutex *
connection_mutex(const struct sqlite3_api_routines *sqlite3_api,
                 sqlite3 *sqlite) {
  return provider_has_threads(sqlite3_api) ? sqlite3_db_mutex(sqlite) : NULL;
}

static void limits_lift(dibs_db *db) {
  SQLITE_LIBRARY(db);
  for (size_t i = 0; i < NEED_COUNT; i++) {
    int *limit = &db->attached->limits[i];
    *limit = sqlite3_limit(db->sqlite, needs[i].which, -1);
    if (*limit < needs[i].least)
      sqlite3_limit(db->sqlite, needs[i].which, needs[i].least);
  }
}

static void limits_restore(dibs_db *db) {
  SQLITE_LIBRARY(db);
  for (size_t i = 0; i < NEED_COUNT; i++)
    if (db->attached->limits[i] < needs[i].least)
      sqlite3_limit(db->sqlite, needs[i].which, db->attached->limits[i]);
}

bool attached_enter(dibs_db *db, int *status) {
  struct attached *attached = db->attached;
  *status = DIBS_CLOSED;
  if (!db->sqlite) return false;
  SQLITE_LIBRARY(db);
  sqlite3_mutex *mutex = connection_mutex(db->api, db->sqlite);
  if (mutex) sqlite3_mutex_enter(mutex);
  if (attached->inside) {
    /* An application's trigger on our tables that calls us. */
    if (mutex) sqlite3_mutex_leave(mutex);
    *status = DIBS_MISUSE;
    return false;
  }
  attached->inside = true;
  if (!pthread_equal(attached->thread, pthread_self())) {
    attached->roams = true;
    attached->thread = pthread_self();
  }
  attached->rowid = sqlite3_last_insert_rowid(db->sqlite);
  handle_clear(db);
  db->now = db->asked = dibs_now(db);
  limits_lift(db);
  keeper_connect(db);
  return true;
}

/* Tables that are gone may have been made in a transaction that the host rolled
** back: look again. */
void attached_leave(dibs_db *db) {
  SQLITE_LIBRARY(db);
  sqlite3_mutex *mutex = connection_mutex(db->api, db->sqlite);
  sqlite3_set_last_insert_rowid(db->sqlite, db->attached->rowid);
  if (db->status == DIBS_SCHEMA) db->schema = 0;
  limits_restore(db);
  db->attached->inside = false;
  if (mutex) sqlite3_mutex_leave(mutex);
}

/* The file has been read. */
void attached_share(dibs_db *db) {
  if (db->attached->shared) return;
  conflict_check(db, db->path);
  if (db->status) return;
  db->attached->shared = true;
  handle_share(db, DIBS_WAKE_AUTO);
}

/* ------------------------------------------------------------------ registry */

/* Another thread may be in it while one forks. */
static void registry_lock(void) {
  pthread_mutex_lock(&attached_mutex);
}

static void registry_unlock(void) {
  pthread_mutex_unlock(&attached_mutex);
}

static void registry_watch(void) {
  pthread_atfork(registry_lock, registry_unlock, registry_unlock);
}

static void attached_free(dibs_db *db) {
  log_forget(db);
  log_cut(&db->attached->noted, 0);
  free(db->attached->savepoints);
  free(db->attached);
  free(db->path);
  free(db);
}

/* The host has closed the connection. Statements are finalized already. */
static void attached_gone(void *context) {
  dibs_db *db = context;
  pthread_mutex_lock(&attached_mutex);
  for (dibs_db **at = &attached_first; *at; at = &(*at)->attached->next) {
    if (*at != db) continue;
    *at = db->attached->next;
    break;
  }
  db->sqlite = NULL;
  db->schema = 0;
  handle_clear(db);
  closed_fail(db);
  bool unused = !db->attached->references;
  pthread_mutex_unlock(&attached_mutex);
  /* A forked child closes nothing of its parent's. */
  if (db->pid == getpid()) sidecar_close(db->sidecar);
  db->sidecar = NULL;
  if (unused) attached_free(db);
}

int attached_close(dibs_db *db) {
  pthread_mutex_lock(&attached_mutex);
  bool unused = !--db->attached->references && !db->sqlite;
  pthread_mutex_unlock(&attached_mutex);
  if (unused) attached_free(db);
  return DIBS_OK;
}

bool attached_is_free(const dibs_db *db) {
  SQLITE_LIBRARY(db);
  return sqlite3_get_autocommit(db->sqlite) &&
         sqlite3_txn_state(db->sqlite, NULL) != SQLITE_TXN_WRITE;
}

/* Not while another thread is in it: then it is not this one's. */
static bool connection_writes(const dibs_db *db) {
  SQLITE_LIBRARY(db);
  sqlite3_mutex *mutex = connection_mutex(db->api, db->sqlite);
  if (mutex && sqlite3_mutex_try(mutex) != SQLITE_OK) return false;
  bool writes = sqlite3_txn_state(db->sqlite, "main") == SQLITE_TXN_WRITE;
  if (mutex) sqlite3_mutex_leave(mutex);
  return writes;
}

/* A connection that goes from thread to thread may be in another's transaction. */
bool attached_blocks(const dibs_db *db) {
  bool blocks = false;
  SQLITE_LIBRARY(db);
  const char *path = sqlite3_db_filename(db->sqlite, "main");
  pthread_mutex_lock(&attached_mutex);
  for (dibs_db *at = attached_first; at && !blocks; at = at->attached->next)
    blocks = at != db && pthread_equal(at->attached->thread, pthread_self()) &&
             !at->attached->roams && at->pid == db->pid && path &&
             !strcmp(at->path, path) && connection_writes(at);
  pthread_mutex_unlock(&attached_mutex);
  return blocks;
}

static dibs_db *attached_find(const sqlite3 *sqlite) {
  dibs_db *db = attached_first;
  while (db && db->sqlite != sqlite) db = db->attached->next;
  return db;
}

/* With the signal table the connection owns the db: when it fails, that is gone
** already. The keeper table may still be missing for want of memory. */
static bool signal_make(dibs_db *db) {
  SQLITE_LIBRARY(db);
  char name[TABLE_NAME_SIZE];
  table_name("signal", name);
  return !sqlite3_create_module_v2(db->sqlite, name, &signal_module, db,
                                   attached_gone);
}

static bool keeper_make(dibs_db *db) {
  SQLITE_LIBRARY(db);
  char name[TABLE_NAME_SIZE];
  struct attached *attached = db->attached;
  table_name("keeper", name);
  if (!attached->made)
    attached->made =
        !sqlite3_create_module_v2(db->sqlite, name, &keeper_module, db, NULL);
  return attached->made;
}

static dibs_db *attached_new(const dibs_provider *provider, sqlite3 *sqlite) {
  dibs_db *db = calloc(1, sizeof *db);
  if (!db) return NULL;
  db->attached = calloc(1, sizeof *db->attached);
  db->api = provider_api(provider);
  SQLITE_LIBRARY(db);
  const char *file = sqlite3_db_filename(sqlite, "main");
  db->in_memory = !file || !*file;
  db->path = strdup(db->in_memory ? ":memory:" : file);
  if (db->attached && db->path) {
    db->pid = getpid();
    db->sqlite = sqlite;
    db->attached->thread = pthread_self();
    db->busy_timeout = DIBS_UNSET;
    db->max_payload = DIBS_PAYLOAD_MAX;
    db->cache.next_event = DIBS_UNSET;
    handle_seed(db);
    handle_clear(db);
    return db;
  }
  free(db->attached);
  free(db->path);
  free(db);
  return NULL;
}

/* With the connection's mutex, so that there is one for all threads. */
static int attached_find_or_make(const dibs_provider *provider, sqlite3 *sqlite,
                                 dibs_db **out) {
  pthread_mutex_lock(&attached_mutex);
  dibs_db *db = attached_find(sqlite);
  pthread_mutex_unlock(&attached_mutex);
  if (!db) {
    db = attached_new(provider, sqlite);
    if (!db) return DIBS_NOMEM;
    pthread_mutex_lock(&attached_mutex);
    db->attached->next = attached_first;
    attached_first = db;
    pthread_mutex_unlock(&attached_mutex);
    if (!signal_make(db)) return DIBS_NOMEM;
  }
  if (!keeper_make(db)) return DIBS_NOMEM;
  pthread_mutex_lock(&attached_mutex);
  db->attached->references++;
  pthread_mutex_unlock(&attached_mutex);
  *out = db;
  return DIBS_OK;
}

int attached_get(const dibs_provider *provider, sqlite3 *sqlite,
                 dibs_db **out) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  const struct sqlite3_api_routines *sqlite3_api = provider_api(provider);
  pthread_once(&once, registry_watch);
  sqlite3_mutex *mutex = connection_mutex(sqlite3_api, sqlite);
  if (mutex) sqlite3_mutex_enter(mutex);
  int status = attached_find_or_make(provider, sqlite, out);
  if (mutex) sqlite3_mutex_leave(mutex);
  return status;
}

/* -------------------------------------------------------------------- attach */

static void attached_take(dibs_db *db, const dibs_open_options *options) {
  if (options->clock) {
    db->clock = options->clock;
    db->clock_context = options->clock_context;
  }
  if (options->log) {
    db->log = options->log;
    db->log_context = options->log_context;
  }
  if (options->max_payload != DIBS_UNSET)
    db->max_payload = options->max_payload;
  if (options->two_libraries) db->two_libraries = true;
}

int dibs_attach(sqlite3 *sqlite, const dibs_provider *provider,
                const dibs_open_options *options, dibs_db **out) {
  int status;
  if (!out) return DIBS_MISUSE;
  *out = NULL;
  if (!sqlite) return DIBS_MISUSE;
  status = provider ? DIBS_OK : dibs_provider_linked(&provider, NULL);
  if (!status) status = attached_get(provider, sqlite, out);
  if (status) return status;
  dibs_db *db = *out;
  if (db->pid != getpid()) {
    *out = NULL;
    return DIBS_FORKED;
  }
  if (!attached_enter(db, &status)) return status;
  if (options) {
    handle_options_check(db, options);
    if (!db->status) attached_take(db, options);
  }
  int create = options ? options->create : DIBS_CREATE_NONE;
  db->schema = 0;
  if (!db->status) schema_look(db, create);
  if (!db->schema) conflict_check(db, db->path);
  if (!db->status && create != DIBS_CREATE_NONE) schema_make(db);
  if (!db->status) attached_share(db);
  if (!db->status) library_warn(db);
  return handle_leave(db);
}
