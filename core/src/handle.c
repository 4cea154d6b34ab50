/* SPDX-License-Identifier: MIT */
/*
** handle.c: opening and closing, the frame of every operation, errors.
**
** A handle owns one connection. Its mutex is held for the length of a call,
** and only a wait lets go of it. The process that opened it is remembered,
** because SQLite's file locks do not survive a fork (sqlite.org/howtocorrupt
** .html, section 2.6): in a child every call is refused before anything of the
** handle is touched, the mutex included.
*/
#include "internal.h"

#include <errno.h>
#include <sqlite3ext.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NAP_SHORTEST  30 /* microseconds */
#define NAP_LONGEST   500
#define LOOK_SHORTEST 1   /* ms between looks without a sidecar */
#define LOOK_LONGEST  100 /* ms */
#define DRIVEN        50  /* ms between looks when a test drives the clock */
#define TIMER_GRACE   20  /* ms for the waiter that took on a due time */

/* ------------------------------------------------------------------ errors */

int handle_fail(dibs_db *db, int status, const char *format, ...) {
  if (db->status) return db->status;
  va_list arguments;
  va_start(arguments, format);
  message_format(db->message, sizeof db->message, format, arguments);
  va_end(arguments);
  db->status = status;
  return status;
}

int handle_nomem(dibs_db *db) {
  return handle_fail(db, DIBS_NOMEM,
                     "out of memory: close something and try again");
}

const char *dibs_error(const dibs_db *db) {
  return db ? db->message : "out of memory: close something and try again";
}

int dibs_error_status(const dibs_db *db) {
  return db ? db->status : DIBS_NOMEM;
}

int64_t dibs_error_id(const dibs_db *db) {
  return db ? db->error_id : 0;
}

int64_t dibs_error_index(const dibs_db *db) {
  return db ? db->error_index : -1;
}

/* ------------------------------------------------------------------- frame */

void handle_clear(dibs_db *db) {
  db->status = DIBS_OK;
  db->message[0] = 0;
  db->error_id = 0;
  db->error_index = -1;
}

/* The tables of a host's database may come at any time. */
static bool host_enter(dibs_db *db, int *status) {
  if (!attached_enter(db, status)) return false;
  if (!db->schema && !db->status) schema_look(db, DIBS_CREATE_NONE);
  if (!db->status) attached_share(db);
  if (!db->status) return true;
  *status = handle_leave(db);
  return false;
}

bool handle_enter(dibs_db *db, int *status) {
  *status = DIBS_MISUSE;
  if (!db) return false;
  *status = DIBS_FORKED;
  if (db->pid != getpid()) return false;
  if (db->attached) return host_enter(db, status);
  pthread_mutex_lock(&db->mutex);
  if (!db->schema) {
    /* The text of the failure to open stays. */
    pthread_mutex_unlock(&db->mutex);
    *status = DIBS_CLOSED;
    return false;
  }
  handle_clear(db);
  db->self_blocked = false;
  db->now = db->asked = dibs_now(db);
  return true;
}

int handle_leave(dibs_db *db) {
  if (!db->whole) log_flush(db);
  int status = db->status;
  if (db->attached)
    attached_leave(db);
  else
    pthread_mutex_unlock(&db->mutex);
  return status;
}

bool handle_may_wait(dibs_db *db) {
  if (!db->attached) return true;
  handle_fail(db, DIBS_MISUSE,
              "an attached connection cannot wait, it is the application's: "
              "wait on a handle from dibs_open()");
  return false;
}

int64_t dibs_now(const dibs_db *db) {
  return db && db->clock ? db->clock(db->clock_context) : time_now();
}

int dibs_schema_version(const dibs_db *db) {
  return db ? db->schema : 0;
}

int dibs_created(const dibs_db *db) {
  return db && db->created;
}

const char *dibs_sqlite_version(const dibs_db *db) {
  if (!db || !db->api) return "";
  SQLITE_LIBRARY(db);
  return sqlite3_libversion();
}

/* ----------------------------------------------------------------- waiting */

static int64_t deadline_of(int64_t wait) {
  if (wait == DIBS_UNSET) wait = 0;
  int64_t now = time_monotonic();
  return wait > DIBS_FOREVER - now ? DIBS_FOREVER : now + wait;
}

void handle_wait_start(dibs_db *db, struct handle_wait *waiting, int64_t wait,
                       const char *const *patterns, size_t count,
                       uint32_t mask) {
  *waiting =
      (struct handle_wait){.deadline = deadline_of(wait), .nap = LOOK_SHORTEST};
  wait_start(&waiting->wait, db->sidecar, patterns, count, mask);
  monitor_start(db->sidecar);
}

void handle_wait_end(dibs_db *db, struct handle_wait *waiting, bool found) {
  if (found && waiting->fallback) wait_rescued(&waiting->wait);
  wait_end(&waiting->wait, waiting->unheeded || db->status);
}

void handle_wait_look(dibs_db *db, struct handle_wait *waiting) {
  waiting->unheeded = false;
  wait_look(&waiting->wait);
  if (db->sidecar) return;
  waiting->version = sql_get(db, SQL_DATA_VERSION, SQL_NONE, 0);
  waiting->commits = db->commits;
}

static void nap(int64_t milliseconds) {
  struct timespec pause = {.tv_sec = (time_t)(milliseconds / 1000),
                           .tv_nsec = (long)(milliseconds % 1000) * 1000000};
  nanosleep(&pause, NULL);
}

/* How long to sleep at most, in ms. */
static int64_t sleep_length(dibs_db *db, const struct handle_wait *waiting,
                            int64_t due) {
  int64_t left = waiting->deadline - time_monotonic();
  int64_t ahead = due == DIBS_FOREVER ? FALLBACK : due - dibs_now(db);
  if (db->clock && ahead > DRIVEN) ahead = DRIVEN;
  if (left > FALLBACK) left = FALLBACK;
  if (left > ahead) left = ahead;
  return left > 0 ? left : 0;
}

/* Where nobody wakes: until the file or the handle has changed. Short naps
** behind a change, longer ones when there was none for some time. */
static void sleep_polling(dibs_db *db, struct handle_wait *waiting,
                          int64_t length) {
  int64_t end = time_monotonic() + length;
  bool same = true;
  while (same && !atomic_load(&db->interrupted)) {
    int64_t left = end - time_monotonic();
    if (left <= 0) return;
    pthread_mutex_unlock(&db->mutex);
    nap(left < waiting->nap ? left : waiting->nap);
    pthread_mutex_lock(&db->mutex);
    handle_clear(db);
    waiting->nap *= 2;
    if (waiting->nap > LOOK_LONGEST) waiting->nap = LOOK_LONGEST;
    same = waiting->commits == db->commits &&
           waiting->version == sql_get(db, SQL_DATA_VERSION, SQL_NONE, 0);
  }
  waiting->nap = LOOK_SHORTEST;
}

/* Until somebody wakes. When something falls due, one of those who sleep until
** then takes it on, and the others give it a moment. */
static void sleep_signalled(dibs_db *db, struct handle_wait *waiting,
                            int64_t length, int64_t due) {
  pthread_mutex_unlock(&db->mutex);
  waiting->unheeded = wait_sleep(&waiting->wait, length);
  waiting->fallback = !waiting->unheeded && length == FALLBACK;
  if (!waiting->unheeded && due <= dibs_now(db) &&
      !wake_timer(db->sidecar, due))
    waiting->unheeded = wait_sleep(&waiting->wait, TIMER_GRACE);
  pthread_mutex_lock(&db->mutex);
  handle_clear(db); /* of what another thread's call may have left */
}

bool handle_wait(dibs_db *db, struct handle_wait *waiting, int64_t due) {
  if (waiting->deadline <= time_monotonic()) return false;
  if (!atomic_load(&db->interrupted)) {
    int64_t length = sleep_length(db, waiting, due);
    if (db->sidecar)
      sleep_signalled(db, waiting, length, due);
    else
      sleep_polling(db, waiting, length);
  }
  if (!atomic_exchange(&db->interrupted, false)) return true;
  handle_fail(db, DIBS_INTERRUPTED, "the wait was interrupted");
  return false;
}

void dibs_interrupt(dibs_db *db) {
  if (!db) return;
  atomic_store(&db->interrupted, true);
  wake_everyone(db->sidecar);
}

/* splitmix64 (Steele, Lea, Flood 2014): a bijection of a counter, so that one
** handle never gives the same number twice; its start is the kernel's. */
void handle_seed(dibs_db *db) {
  if (getrandom(&db->random, sizeof db->random, 0) != sizeof db->random)
    db->random = (uint64_t)time_now() ^ (uint64_t)getpid() << 32;
}

uint64_t random_next(dibs_db *db) {
  uint64_t x = db->random += 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

/* ----------------------------------------------------------------- opening */

/* Why the file at the handle's path could not be opened. */
static void path_fail(dibs_db *db, int create) {
  struct stat status;
  if (!stat(db->path, &status)) {
    const char *what =
        S_ISDIR(status.st_mode) ? "it is a folder" : "check its permissions";
    handle_fail(db, DIBS_IO, "%s cannot be opened: %s", db->path, what);
    return;
  }
  if (errno != ENOENT) {
    handle_fail(db, DIBS_IO, "%s cannot be reached: %s", db->path,
                strerror(errno));
    return;
  }
  char *slash = strrchr(db->path, '/');
  char *folder = slash ? strndup(db->path, (size_t)(slash - db->path)) : NULL;
  bool there = !folder || !*folder || !stat(folder, &status);
  if (there && create != DIBS_CREATE_NONE)
    handle_fail(db, DIBS_IO,
                "%s cannot be made: check the permissions of its folder",
                db->path);
  else if (there)
    handle_fail(db, DIBS_SCHEMA,
                "%s does not exist: make it with dibs init, "
                "or name another file",
                db->path);
  else
    handle_fail(db, DIBS_IO, "the folder of %s does not exist: make it first",
                db->path);
  free(folder);
}

/* The name of the file that is open, from the root; "" for none. */
static const char *file_name(dibs_db *db) {
  SQLITE_LIBRARY(db);
  return sqlite3_db_filename(db->sqlite, "main");
}

/* The file that is open may have another name than was given: a URI's. */
static void path_settle(dibs_db *db) {
  const char *file = file_name(db);
  db->in_memory = !file || !*file;
  if (db->in_memory || strncmp(db->path, "file:", 5)) return;
  char *path = strdup(file);
  if (!path) {
    handle_nomem(db);
    return;
  }
  free(db->path);
  db->path = path;
}

static void connection_open(dibs_db *db, int create) {
  SQLITE_LIBRARY(db);
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX |
              SQLITE_OPEN_EXRESCODE;
  if (create != DIBS_CREATE_NONE) flags |= SQLITE_OPEN_CREATE;
  int code = sqlite3_open_v2(db->path, &db->sqlite, flags, NULL);
  if (!code)
    path_settle(db);
  else if (code == SQLITE_NOMEM)
    handle_nomem(db);
  else
    path_fail(db, create);
}

/* What a PRAGMA should answer, and whether it did. */
struct comparison {
  const char *expected;
  bool equal;
};

static int row_compare(void *context, int count, char **values, char **names) {
  struct comparison *comparison = context;
  (void)names;
  comparison->equal =
      count == 1 && values[0] && !strcasecmp(values[0], comparison->expected);
  return 0;
}

/* Whether a PRAGMA answers with that text. */
static bool pragma_is(dibs_db *db, const char *pragma, const char *expected) {
  SQLITE_LIBRARY(db);
  struct comparison comparison = {expected, false};
  if (db->status) return false;
  int code = sqlite3_exec(db->sqlite, pragma, row_compare, &comparison, NULL);
  if (code) sql_fail(db, sqlite3_extended_errcode(db->sqlite));
  return comparison.equal;
}

/* How long to sleep before asking for the lock again, in microseconds. After a
** second the lock is held by something slow, which is asked for less often. */
static int64_t busy_nap(dibs_db *db, int count, int64_t waited) {
  int64_t longest = waited < 1000 ? NAP_LONGEST : NAP_LONGEST * 10;
  int64_t length = count < 4 ? NAP_SHORTEST << count : longest;
  return length / 2 + (int64_t)(random_next(db) % (uint64_t)length);
}

/* Called by SQLite while another connection has the lock. Its own handler sleeps
** by a table of up to 100 ms, and whoever sleeps so long hardly gets a turn
** beside one that writes without pause. Here the end of another's transaction
** ends the sleep, or, without a sidecar, naps are short and random. */
static int busy_wait(void *context, int count) {
  dibs_db *db = context;
  int64_t now = time_monotonic();
  if (!count) db->busy_since = now;
  int64_t waited = now - db->busy_since;
  if (!count) db->self_blocked = attached_blocks(db);
  if (db->self_blocked || waited >= db->busy_timeout) return 0;
  if (db->engine && !engine_wait(db->engine)) return 0;
  int64_t length = busy_nap(db, count, waited);
  if (!db->sidecar) {
    struct timespec pause = {.tv_nsec = (long)length * 1000};
    nanosleep(&pause, NULL);
    return 1;
  }
  if (count) turn_wait(db->sidecar, db->busy_turn, length);
  db->busy_turn = turn_see(db->sidecar);
  return 1;
}

/* EXTRA is FULL with a WAL. With a rollback journal it also syncs the folder that
** the journal is removed from, without which a power cut could bring it back,
** and with it the state before the last commit. */
static void settings_apply(dibs_db *db) {
  SQLITE_LIBRARY(db);
  sqlite3_busy_handler(db->sqlite, busy_wait, db);
  wal_start(db);
  sql_script(db, "PRAGMA synchronous=EXTRA");
}

static bool switch_again(dibs_db *db) {
  handle_clear(db);
  nap(1 + (int64_t)(random_next(db) % 5));
  return true;
}

/* Only once it is known that the file may be used: what is refused is left as
** it was. */
static void journal_apply(dibs_db *db, const dibs_open_options *options) {
  SQLITE_LIBRARY(db);
  if (db->in_memory) return;
  int64_t end = time_monotonic() + db->busy_timeout;
  do {
    db->has_wal = pragma_is(db, "PRAGMA journal_mode", "wal");
    if (db->has_wal || options->keep_journal_mode) return;
    if (db->status || sqlite3_db_readonly(db->sqlite, "main") == 1) return;
    db->has_wal = pragma_is(db, "PRAGMA journal_mode=WAL", "wal");
    /* Two that switch at once would wait for each other, and SQLite refuses one
    ** without asking the busy handler. */
  } while (db->status == DIBS_BUSY && time_monotonic() < end &&
           switch_again(db));
}

/* Only with a WAL: without one, a power cut at NORMAL may damage the file. */
static void synchronous_apply(dibs_db *db, const dibs_open_options *options) {
  if (options->synchronous == DIBS_SYNCHRONOUS_NORMAL && db->has_wal)
    sql_script(db, "PRAGMA synchronous=NORMAL");
}

/* The name under which connections of this process share a database in memory;
** false when it is a file. New versions of SQLite do not tell the name of such a
** database: then all of them have one board, and a wake too many is harmless. */
static bool memory_name(dibs_db *db, char *name, size_t room) {
  SQLITE_LIBRARY(db);
  const char *file = sqlite3_db_filename(db->sqlite, "main");
  char *vfs = NULL;
  sqlite3_file_control(db->sqlite, "main", SQLITE_FCNTL_VFSNAME, &vfs);
  bool shared = vfs && strstr(vfs, "memdb");
  sqlite3_free(vfs);
  if (shared)
    snprintf(name, room, "memdb:%s", file ? file : "");
  else
    snprintf(name, room, ":memory:%p", (void *)db);
  return shared || !file || !*file;
}

/* Without a sidecar waiting polls, which is slower and no less right. */
void handle_share(dibs_db *db, int wake) {
  SQLITE_LIBRARY(db);
  char name[512];
  const char *forced = getenv("DIBS_WAKE");
  if (wake == DIBS_WAKE_PORTABLE || (forced && !strcmp(forced, "portable")))
    return;
  if (memory_name(db, name, sizeof name))
    db->sidecar = sidecar_open(name, true);
  else
    db->sidecar = sidecar_open(sqlite3_db_filename(db->sqlite, "main"), false);
}

static void library_find(dibs_db *db, const dibs_open_options *options) {
  char message[DIBS_MESSAGE_SIZE];
  const dibs_provider *provider = options->provider;
  int status = provider ? DIBS_OK : dibs_provider_linked(&provider, message);
  if (!status) db->api = provider_api(provider);
  if (status)
    handle_fail(db, status, "%s", message);
  else if (!provider_has_threads(db->api))
    handle_fail(db, DIBS_LIBRARY,
                "this build of SQLite %s is for a single thread "
                "(SQLITE_THREADSAFE=0), and handles of dibs_open() are for "
                "several: use dibs_attach(), or another build",
                dibs_sqlite_version(db));
}

void handle_options_check(dibs_db *db, const dibs_open_options *options) {
  if (options->size != sizeof *options)
    handle_fail(db, DIBS_MISUSE,
                "open options were not set up with "
                "DIBS_OPEN_OPTIONS_INIT");
  else if (options->create < DIBS_CREATE || options->create > DIBS_CREATE_NONE)
    handle_fail(db, DIBS_INVALID, "create is %d: give one of enum dibs_create",
                options->create);
  else if (options->synchronous != DIBS_SYNCHRONOUS_FULL &&
           options->synchronous != DIBS_SYNCHRONOUS_NORMAL)
    handle_fail(db, DIBS_INVALID,
                "synchronous is %d: give one of enum "
                "dibs_synchronous",
                options->synchronous);
  else if (options->wake != DIBS_WAKE_AUTO &&
           options->wake != DIBS_WAKE_PORTABLE)
    handle_fail(db, DIBS_INVALID, "wake is %d: give one of enum dibs_wake",
                options->wake);
  else if (options->busy_timeout != DIBS_UNSET && options->busy_timeout < 0)
    handle_fail(db, DIBS_INVALID,
                "busy_timeout is negative: give 0 ms or more");
  else if (options->max_payload != DIBS_UNSET && options->max_payload < 0)
    handle_fail(db, DIBS_INVALID,
                "max_payload is negative: give 0 bytes or "
                "more");
}

static void open_options_take(dibs_db *db, const dibs_open_options *options) {
  db->busy_timeout = options->busy_timeout == DIBS_UNSET
                         ? DIBS_DEFAULT_BUSY_TIMEOUT
                         : options->busy_timeout;
  db->max_payload = options->max_payload == DIBS_UNSET ? DIBS_PAYLOAD_MAX
                                                       : options->max_payload;
  db->clock = options->clock;
  db->clock_context = options->clock_context;
  db->log = options->log;
  db->log_context = options->log_context;
  db->two_libraries = options->two_libraries != 0;
}

/* That cannot be asked for is no reason to fail. */
static bool file_has_wal(dibs_db *db) {
  bool has = pragma_is(db, "PRAGMA main.journal_mode", "wal");
  if (db->status) handle_clear(db);
  return has;
}

/* Once in a process and on each of the two ways, for it does not change. SQL
** functions have nobody to tell but the library's own log. */
void library_warn(dibs_db *db) {
  static _Atomic int told[2]; /* the version that was spoken of */
  static const char format[] =
      "SQLite %s has the WAL-reset bug, which in a rare race can damage a file "
      "when the application runs checkpoints of its own: upgrade to 3.51.3 or "
      "newer";
  SQLITE_LIBRARY(db);
  int version = sqlite3_libversion_number();
  if (db->in_memory || !library_has_reset_bug(db) ||
      (!db->log && !db->attached) || !file_has_wal(db) ||
      atomic_exchange(&told[db->log == NULL], version) == version)
    return;
  if (db->log)
    log_job(db, DIBS_LEVEL_WARNING, "library", 0, 0, format,
            sqlite3_libversion());
  else
    sqlite3_log(SQLITE_WARNING, format, sqlite3_libversion());
}

static void handle_start(dibs_db *db, const dibs_open_options *options) {
  handle_options_check(db, options);
  if (!*db->path)
    handle_fail(db, DIBS_INVALID, "the path is empty: name a file");
  if (!db->status) open_options_take(db, options);
  if (!db->status) library_find(db, options);
  handle_seed(db);
  conflict_check(db, db->path);
  if (!db->status) connection_open(db, options->create);
  if (!db->status) sql_prepare(db);
  if (!db->status) settings_apply(db);
  db->now = dibs_now(db);
  if (!db->status) schema_look(db, options->create);
  if (!db->status) conflict_check(db, file_name(db));
  if (!db->status) journal_apply(db, options);
  if (!db->status) synchronous_apply(db, options);
  if (!db->status) schema_make(db);
  if (!db->status) handle_share(db, options->wake);
  if (!db->status) library_warn(db);
}

static void connection_close(dibs_db *db) {
  if (!db->api || !db->sqlite) return;
  SQLITE_LIBRARY(db);
  sql_finalize(db);
  gather_free(db);
  wal_end(db);
  sqlite3_busy_handler(db->sqlite, NULL, NULL);
  if (!conflict_keeps(db, file_name(db))) sqlite3_close_v2(db->sqlite);
  db->sqlite = NULL;
  sidecar_close(db->sidecar);
  db->sidecar = NULL;
}

int dibs_open(const char *path, const dibs_open_options *options,
              dibs_db **out) {
  static const dibs_open_options defaults = DIBS_OPEN_OPTIONS_INIT;
  if (!out) return DIBS_MISUSE;
  *out = NULL;
  if (!path) path = ":memory:";
  dibs_db *db = calloc(1, sizeof *db);
  if (!db) return DIBS_NOMEM;
  db->path = strdup(path);
  if (!db->path || pthread_mutex_init(&db->mutex, NULL)) {
    free(db->path);
    free(db);
    return DIBS_NOMEM;
  }
  if (!share_open(&db->share)) {
    pthread_mutex_destroy(&db->mutex);
    free(db->path);
    free(db);
    return DIBS_NOMEM;
  }
  db->pid = getpid();
  db->cache.next_event = DIBS_UNSET;
  handle_clear(db);
  handle_start(db, options ? options : &defaults);
  if (db->status) {
    db->schema = 0;
    connection_close(db);
  }
  log_flush(db);
  *out = db;
  return db->status;
}

int dibs_close(dibs_db *db) {
  if (!db) return DIBS_OK;
  if (db->pid != getpid()) return DIBS_FORKED;
  if (db->attached) return attached_close(db);
  share_close(&db->share);
  connection_close(db);
  log_forget(db);
  pthread_mutex_destroy(&db->mutex);
  free(db->path);
  free(db);
  return DIBS_OK;
}
