/* SPDX-License-Identifier: MIT */
/*
** dibs.h: the public interface of dibs, a job queue that lives in the SQLite
** file an application already has.
**
** A program in short:
**
**     dibs_db *db;
**     dibs_job_list *jobs;
**     int64_t id;
**     if (dibs_open("app.db", NULL, &db)) { puts(dibs_error(db)); exit(1); }
**     dibs_enqueue(db, "emails", dibs_json("{\"to\":\"ann\"}"), NULL, &id);
**     if (dibs_claim(db, (const char *[]){"emails"}, 1, NULL, &jobs) == DIBS_OK) {
**       ... work on jobs->jobs[0].payload ...
**       dibs_ack(db, jobs->jobs[0].receipt, NULL);
**       dibs_job_list_free(jobs);
**     }
**     dibs_close(db);
**
** Caveats first
**
** - Every function that takes a handle returns a status (enum dibs_status).
**   DIBS_OK is 0. dibs_error() gives one sentence about the last failure of
**   that handle: what was wrong and what to do.
** - Returned means committed. An operation is one transaction: it happens
**   whole, or not at all.
** - A claim is a promise for the length of its lease. When the lease has run
**   out, the job is given to another worker, and settling it with the old
**   receipt gives DIBS_LOST: whatever the old holder did must then be undone
**   or be harmless when done twice.
** - A handle may be used by several threads; its calls take turns. The error
**   text is that of the handle's last call, whichever thread made it: a
**   program that shows error texts gives each thread a handle of its own.
** - A handle does not survive fork(): in the child every call returns
**   DIBS_FORKED, dibs_close() included (it frees nothing there, because
**   closing would drop the parent's file locks).
** - One process must not have two SQLite libraries open the same file
**   (sqlite.org/howtocorrupt.html, section 2.2). This library uses the SQLite
**   that it is linked with or was handed, and carries none of its own.
**
** Conventions
**
** - Times are int64_t milliseconds since 1970-01-01 UTC; durations are int64_t
**   milliseconds. DIBS_UNSET means "not given": the queue's default, then the
**   built-in default applies. DIBS_FOREVER means without end. What counts from
**   a call (a lease, a delay) counts from when it got the write lock, however
**   long it waited; a receipt that held when the call was made still does.
** - Strings are UTF-8 with a terminating NUL unless a size stands beside them.
** - Structs whose first member is `size` begin with their own sizeof, so that
**   later versions can add members at the end; set them up with their _INIT
**   macro. Structs that the library returns grow at the end too: reach them
**   by pointer, never copy arrays of them by your own sizeof.
** - A returned pointer is borrowed. An out-parameter is owned by the caller,
**   is set to NULL (or left alone, for numbers) on failure, and has exactly
**   one function that frees it.
** - Queue names, job names, keys and workers: 1 to 255 bytes of UTF-8 without
**   control characters (U+0000-U+001F, U+007F-U+009F) and without '*'.
** - A queue pattern is a queue's name, or PREFIX followed by a slash and a
**   star for all queues beneath PREFIX (not PREFIX itself), or DIBS_ALL.
*/
#ifndef DIBS_H
#define DIBS_H

#include <stddef.h>
#include <stdint.h>

/* Define it as nothing to export nothing. */
#ifndef DIBS_API
#if defined(__GNUC__)
#define DIBS_API __attribute__((visibility("default")))
#else
#define DIBS_API
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------ */
/* Version and constants                                                    */
/* ------------------------------------------------------------------------ */

#define DIBS_VERSION        "0.1.0"
#define DIBS_VERSION_NUMBER 100 /* major * 10000 + minor * 100 + patch */
#define DIBS_SCHEMA_VERSION 1   /* what dibs_open() creates and migrates to */

#define DIBS_UNSET   INT64_MIN
#define DIBS_FOREVER INT64_MAX
#define DIBS_ALL     "*"

#define DIBS_NAME_MAX    255      /* bytes of a queue, job name, key, worker */
#define DIBS_PAYLOAD_MAX 67108864 /* bytes; default payload limit, 64 MiB */
#define DIBS_HEADERS_MAX 65536    /* bytes of a headers object */
#define DIBS_ERROR_MAX   16384    /* bytes kept of one error text */
#define DIBS_ERRORS_KEPT 20       /* error entries kept of one job */
#define DIBS_CLAIM_MAX   10000    /* jobs in one claim */
#define DIBS_ID_MAX      9007199254740991 /* 2^53 - 1 */

#define DIBS_DEFAULT_QUEUE          "default"
#define DIBS_DEFAULT_MAX_ATTEMPTS   20
#define DIBS_DEFAULT_MAX_CRASHES    3
#define DIBS_DEFAULT_BACKOFF        5000 /* ms */
#define DIBS_DEFAULT_BACKOFF_FACTOR 2.0
#define DIBS_DEFAULT_BACKOFF_CAP    21600000 /* ms: 6 h */
#define DIBS_DEFAULT_BACKOFF_JITTER 0.1
#define DIBS_DEFAULT_LEASE          60000 /* ms, of a claim by hand */
#define DIBS_DEFAULT_BUSY_TIMEOUT   30000 /* ms */

/* The version of the library in use, "0.1.0" and 100: for a program that was
** compiled against one version and runs with another. Never fail. */
DIBS_API const char *dibs_version(void);
DIBS_API int dibs_version_number(void);

/* ------------------------------------------------------------------------ */
/* Statuses                                                                 */
/* ------------------------------------------------------------------------ */

/*
** Every status: number, name, exit code of the dibs program, meaning. The
** numbers are fixed for good. Bindings generate or check their error classes
** from this list.
*/
#define DIBS_STATUS_MAP(X)                                                     \
  X(0, OK, 0, "success")                                                       \
  X(1, EMPTY, 3, "nothing to claim, or the wait ran out")                      \
  X(2, NOT_FOUND, 3, "no such job, queue or key")                              \
  X(3, LOST, 4, "the receipt is no longer the holder")                         \
  X(4, STATE, 4, "the job is not in a state that allows this")                 \
  X(5, EXISTS, 5, "a unique job exists")                                       \
  X(6, LATE, 4, "the staged job was committed after its time")                 \
  X(7, INVALID, 2, "an argument is not valid")                                 \
  X(8, TOO_BIG, 2, "over a stated limit")                                      \
  X(9, BUSY, 6, "another writer held the lock beyond the timeout")             \
  X(10, SNAPSHOT, 6, "a read transaction cannot become a write transaction")   \
  X(11, FULL, 7, "the disk or the database is full")                           \
  X(12, READONLY, 7, "the database cannot be written")                         \
  X(13, IO, 7, "reading or writing the file failed")                           \
  X(14, CORRUPT, 7, "the database file is damaged")                            \
  X(15, NOMEM, 7, "out of memory")                                             \
  X(16, SCHEMA, 8, "not initialised, too new, too old, or no dibs database")   \
  X(17, LIBRARY, 8, "this SQLite library cannot be used")                      \
  X(18, CLOSED, 9, "the handle is closed")                                     \
  X(19, FORKED, 9, "the handle was opened before a fork")                      \
  X(20, MISUSE, 9, "a wrong call")                                             \
  X(21, INTERRUPTED, 130, "the wait was interrupted")

enum dibs_status {
#define DIBS_STATUS_ENUM(number, name, exit_code, meaning)                     \
  DIBS_##name = (number),
  DIBS_STATUS_MAP(DIBS_STATUS_ENUM)
#undef DIBS_STATUS_ENUM
};

/* "DIBS_LOST" for DIBS_LOST; NULL for a number that is no status. */
DIBS_API const char *dibs_status_name(int status);

/* The meaning as in DIBS_STATUS_MAP; NULL for a number that is no status. */
DIBS_API const char *dibs_status_meaning(int status);

/* The exit code of the dibs program for a status; 9 for an unknown one. */
DIBS_API int dibs_status_exit_code(int status);

/* ------------------------------------------------------------------------ */
/* The handle                                                               */
/* ------------------------------------------------------------------------ */

/* One connection to one database. */
typedef struct dibs_db dibs_db;

#define DIBS_MESSAGE_SIZE 256 /* bytes, of texts that are not a handle's */

/* An SQLite library (sqlite3.h, sqlite3ext.h). */
typedef struct dibs_provider dibs_provider;
struct sqlite3;
struct sqlite3_api_routines;

/*
** The provider for a library's API table, which it gives to the entry point of
** an extension: the third argument of sqlite3_extension_init(). One table gives
** one provider, which lives as long as the process. Safe in any thread.
**
** DIBS_LIBRARY  older than 3.38, or an entry that is needed is missing;
**               `message` (may be NULL) names version and entry
** DIBS_NOMEM
*/
DIBS_API int dibs_provider_get(const struct sqlite3_api_routines *api,
                               const dibs_provider **provider,
                               char message[DIBS_MESSAGE_SIZE]);

/* The provider for the library that this one is linked with: what is used where
** none is named. DIBS_LIBRARY when it was compiled with DIBS_NO_LINKED. */
DIBS_API int dibs_provider_linked(const dibs_provider **provider,
                                  char message[DIBS_MESSAGE_SIZE]);

enum dibs_create {
  DIBS_CREATE = 0,      /* make the file and the tables, or migrate them */
  DIBS_CREATE_FILE = 1, /* make the tables only in a file that is new */
  DIBS_CREATE_NONE = 2  /* make nothing: DIBS_SCHEMA when there are none */
};

enum dibs_synchronous {
  DIBS_SYNCHRONOUS_FULL = 0,  /* a power cut loses nothing that returned */
  DIBS_SYNCHRONOUS_NORMAL = 1 /* a power cut may lose the last commits;
                              ** a killed process loses nothing. Without a WAL
                              ** the same as FULL, or the file could be
                              ** damaged */
};

enum dibs_level {
  DIBS_LEVEL_OK = 0,
  DIBS_LEVEL_WARNING = 1,
  DIBS_LEVEL_ERROR = 2
};

enum dibs_wake {
  DIBS_WAKE_AUTO = 0,    /* the best there is: signals through the sidecar file
                         ** DATABASE-dibs, on Linux */
  DIBS_WAKE_PORTABLE = 1 /* look whether the file has changed, often at first
                         ** and ten times a second when idle; no sidecar. So does
                         ** the environment's DIBS_WAKE=portable. */
};

/* Something that happened to a job without its holder asking for it, or that
** ended it. All pointers live for the call. */
typedef struct dibs_log_event {
  int level; /* enum dibs_level */
  int reserved;
  const char *event;   /* "lapsed": its lease ran out; "crashed": its worker's
                       ** process died; "dead"; "expired"; "late": its stage
                       ** ran out; "created": the tables; "library": SQLite's
                       ** version has a bug, told once in a process; of an engine
                       ** "trouble": the database cannot be used, "recovered",
                       ** "unknown": see dibs_engine_unknown() */
  int64_t id;          /* of the job; 0: none */
  const char *queue;   /* NULL: none */
  const char *message; /* one sentence */
} dibs_log_event;

typedef struct dibs_open_options {
  size_t size;           /* sizeof(dibs_open_options) */
  int create;            /* enum dibs_create */
  int synchronous;       /* enum dibs_synchronous */
  int keep_journal_mode; /* nonzero: do not switch the file to WAL */
  int wake;              /* enum dibs_wake */
  int64_t busy_timeout;  /* ms to wait for another writer; DIBS_UNSET: 30 s */
  int64_t max_payload;   /* bytes; DIBS_UNSET: DIBS_PAYLOAD_MAX */
  int64_t (*clock)(void *); /* ms since 1970; NULL: the system's clock.
                            ** Called with clock_context, by whatever thread
                            ** makes a call on the handle. */
  void *clock_context;      /* borrowed until dibs_close() */
  void (*log)(void *, const dibs_log_event *); /* NULL: none. Called with
                            ** log_context once a transaction is committed, by
                            ** the thread that made it; it must not call the
                            ** handle. What is rolled back is not told. */
  void *log_context;                           /* borrowed until dibs_close() */
  const dibs_provider *provider;               /* NULL: the linked library */
  int two_libraries; /* nonzero: do not refuse a file that this process has open
                     ** through another SQLite library */
  int reserved;      /* 0 */
} dibs_open_options;

#define DIBS_OPEN_OPTIONS_INIT                                                 \
  {                                                                            \
    sizeof(dibs_open_options), 0, 0, 0, 0, DIBS_UNSET, DIBS_UNSET, NULL, NULL, \
        NULL, NULL, NULL, 0, 0                                                 \
  }

/*
** Open the database at `path`, making file and tables unless `options` says
** otherwise. `path` NULL or ":memory:" is a database in memory that ends with
** the handle; a path that begins with "file:" is an SQLite URI. `options` NULL
** means DIBS_OPEN_OPTIONS_INIT.
**
** For tests of programs: "file:/NAME?vfs=memdb" is a database in memory that all
** handles, threads and engines of the process share which open that name, and
** that ends with the last of them; whoever waits is woken as elsewhere. With
** `clock` the test drives the time: who waits looks at such a clock every 50 ms.
** An engine with `drain` works off all that there is, then gives DIBS_CLOSED.
**
** On failure *db is still set, unless memory ran out, so that dibs_error() can
** be read; it must be closed then too. Any other call on it returns
** DIBS_CLOSED.
**
** DIBS_SCHEMA    no file or no tables, and not allowed to make them; no SQLite
**                database; tables of a newer version; foreign tables of our
**                names
** DIBS_IO        the path cannot be reached
** DIBS_READONLY  tables are missing or old, and the file cannot be written
** DIBS_LIBRARY   SQLite older than 3.38, or built without what is needed, or
**                for a single thread (SQLITE_THREADSAFE=0); or another
**                SQLite library of this process has the file open, which
**                is seen in WAL mode, on Linux. What was opened to see it stays
**                open, because closing it would do the harm
** DIBS_BUSY, DIBS_FULL, DIBS_CORRUPT, DIBS_NOMEM, DIBS_INVALID
*/
DIBS_API int dibs_open(const char *path, const dibs_open_options *options,
                       dibs_db **db);

/*
** A handle on a connection of the application, whose library the provider is
** (NULL: the linked one): enqueue, claim, settle and look within its transaction,
** or, when none is open, each operation as one of its own. Whoever waits is woken
** when the application commits. The connection's settings, hooks and handlers
** stay as they are, its last_insert_rowid() too. Only for the thread that may use
** the connection. What waits (a claim with `wait`, dibs_join(), dibs_await()) is
** refused: that is for handles from dibs_open().
**
** Handles on the same connection are one and the same, which dibs_close() counts.
** The application may close the connection first: what is called afterwards gives
** DIBS_CLOSED. Of the options (NULL: none) only create, clock, log, max_payload
** and two_libraries count; `create` is DIBS_CREATE_NONE where there are none.
**
** DIBS_SCHEMA    there are no tables, and none are to be made; the handle works
**                as soon as there are
** DIBS_SNAPSHOT  the application's transaction has read an older state and
**                cannot write: it must begin with BEGIN IMMEDIATE
** DIBS_BUSY      another connection writes for longer than this one's busy
**                timeout; at once where that is one that dibs is attached to,
**                too, and this thread's. So it is with dibs_open()'s handles
** DIBS_LIBRARY   as for dibs_open(); it can come from the first operation, too
** DIBS_NOMEM, DIBS_MISUSE, and what making the tables can give
*/
DIBS_API int dibs_attach(struct sqlite3 *connection,
                         const dibs_provider *provider,
                         const dibs_open_options *options, dibs_db **db);

/*
** Close the handle and free it. NULL is harmless. No other thread may be using
** it. In a forked child returns DIBS_FORKED and does nothing else. When another
** SQLite library of this process has opened the file meanwhile, the connection
** stays open, as after DIBS_LIBRARY.
*/
DIBS_API int dibs_close(dibs_db *db);

/*
** One sentence on the last failure of the handle; "" after a success. Borrowed
** until the handle's next call. NULL as a handle gives the text for DIBS_NOMEM.
*/
DIBS_API const char *dibs_error(const dibs_db *db);

/* The status of the handle's last call. */
DIBS_API int dibs_error_status(const dibs_db *db);

/* The job that the last failure speaks of (DIBS_EXISTS: the one that is
** there), or 0. */
DIBS_API int64_t dibs_error_id(const dibs_db *db);

/* Which element of an array argument the last failure speaks of, from 0, or
** -1. */
DIBS_API int64_t dibs_error_index(const dibs_db *db);

/* The handle's time: milliseconds since 1970 by its clock. */
DIBS_API int64_t dibs_now(const dibs_db *db);

/* The schema version of the open database. */
DIBS_API int dibs_schema_version(const dibs_db *db);

/* The version of the SQLite library that the handle uses, "3.40.1". */
DIBS_API const char *dibs_sqlite_version(const dibs_db *db);

/* Nonzero when dibs_open() made the tables. */
DIBS_API int dibs_created(const dibs_db *db);

/*
** Make a call that waits on the handle (a claim with `wait`) return
** DIBS_INTERRUPTED; when none waits, the next one that would. From any thread,
** and from a signal handler.
*/
DIBS_API void dibs_interrupt(dibs_db *db);

/* ------------------------------------------------------------------------ */
/* Values                                                                   */
/* ------------------------------------------------------------------------ */

enum dibs_payload_kind {
  DIBS_PAYLOAD_NONE = 0, /* absent */
  DIBS_PAYLOAD_JSON = 1, /* JSON text (RFC 8259), kept exactly as given */
  DIBS_PAYLOAD_BYTES = 2 /* any bytes, empty and NUL included */
};

typedef struct dibs_payload {
  int kind;         /* enum dibs_payload_kind */
  int reserved;     /* 0 */
  const void *data; /* borrowed; what the library returns has a NUL behind it */
  size_t size;      /* bytes */
} dibs_payload;

/* Payloads from a JSON string (NULL: none), from JSON text with a size, from
** bytes, and none. They copy nothing. */
DIBS_API dibs_payload dibs_json(const char *json);
DIBS_API dibs_payload dibs_json_sized(const char *json, size_t size);
DIBS_API dibs_payload dibs_bytes(const void *data, size_t size);
DIBS_API dibs_payload dibs_none(void);

enum dibs_state {
  DIBS_READY = 1,     /* may be claimed now */
  DIBS_SCHEDULED = 2, /* waits for its time */
  DIBS_BLOCKED = 3,   /* waits for another job of its key */
  DIBS_STAGED = 4,    /* reserved, to be committed or aborted */
  DIBS_RUNNING = 5,   /* claimed; somebody holds its lease */
  DIBS_DONE = 6,      /* finished and kept: see the outcome */
  DIBS_DEAD = 7       /* failed for good; in the dead letters */
};

enum dibs_outcome {
  DIBS_ACKED = 1,
  DIBS_CANCELLED = 2,
  DIBS_EXPIRED = 3,
  DIBS_DISCARDED = 4
};

/* "ready", "acked" and so on; NULL for a number that is none. */
DIBS_API const char *dibs_state_name(int state);
DIBS_API const char *dibs_outcome_name(int outcome);

/* The state of that name; 0 when there is none. */
DIBS_API int dibs_state_number(const char *name);

/*
** Parse a duration as people type it: "250ms" "30s" "5m" "2h" "7d", or a bare
** number of seconds, fractions allowed. Never negative. DIBS_INVALID.
*/
DIBS_API int dibs_parse_duration(const char *text, int64_t *milliseconds);

/*
** Parse a time: RFC 3339 ("2026-01-31T12:00:00.250Z", an offset, or a space in
** place of the T). DIBS_INVALID.
*/
DIBS_API int dibs_parse_time(const char *text, int64_t *milliseconds);

#define DIBS_TIME_SIZE 32 /* bytes for dibs_format_time() */

/* Write a time as "2026-01-31T12:00:00.250Z" into `text`, and return it. Times
** outside of the years 0 to 9999 are shown as the nearest within. */
DIBS_API char *dibs_format_time(int64_t milliseconds,
                                char text[DIBS_TIME_SIZE]);

/* Free what a function of this header says to free with it. NULL is harmless. */
DIBS_API void dibs_free(void *memory);

/* ------------------------------------------------------------------------ */
/* Enqueue                                                                  */
/* ------------------------------------------------------------------------ */

enum dibs_unique_scope {
  DIBS_UNIQUE_DEFAULT = -1, /* not given: the queue's, or DIBS_UNIQUE_QUEUE */
  DIBS_UNIQUE_QUEUE = 0,    /* one job of the key in its queue */
  DIBS_UNIQUE_ALL = 1       /* one job of the key in all queues */
};

enum dibs_on_conflict {
  DIBS_CONFLICT_DEFAULT =
      -1,                    /* not given: the queue's, or DIBS_CONFLICT_KEEP */
  DIBS_CONFLICT_KEEP = 0,    /* give the id of the job that is there */
  DIBS_CONFLICT_REPLACE = 1, /* and give it the new payload and headers */
  DIBS_CONFLICT_POSTPONE = 2, /* and move it to the new due time */
  DIBS_CONFLICT_REJECT = 3    /* DIBS_EXISTS */
};

#define DIBS_UNIQUE_UNTIL_START  (-1) /* values of unique_for */
#define DIBS_UNIQUE_UNTIL_FINISH (-2)

/* What may be said of a job besides its queue and payload. */
typedef struct dibs_job_options {
  size_t size;           /* sizeof(dibs_job_options) */
  const char *name;      /* which handler; NULL: none */
  const char *headers;   /* a flat JSON object of strings; NULL: none */
  int64_t priority;      /* 32-bit; higher first; default 0 */
  int64_t delay;         /* ms from now; not with `at` */
  int64_t at;            /* ms since 1970; not with `delay` */
  int64_t expires;       /* ms from now: not started after that */
  int64_t max_attempts;  /* 0: unlimited; default 20 */
  int64_t max_crashes;   /* 0: unlimited; default 3 */
  int64_t backoff;       /* ms before the second attempt; default 5 s */
  double backoff_factor; /* >= 1; NaN: unset; default 2 */
  int64_t backoff_cap;   /* ms; default 6 h */
  double backoff_jitter; /* 0 to 1; NaN: unset; default 0.1. A random part
                          ** of the delay, up to this, is added */
  int64_t lease;         /* ms; default: that of the claim */
  int64_t timeout;       /* ms a worker lets it run; default: none */
  int64_t keep;          /* ms kept once done; DIBS_FOREVER; default 0 */
  const char *key;       /* strict order within queue and key; NULL: none */
  const char *limit_key; /* what per-key limits count by; NULL: none */
  const char *unique;    /* unique key; NULL: none */
  int64_t unique_for;    /* DIBS_UNIQUE_UNTIL_*, or ms from the enqueue, in
                          ** any case until it is finished; default finish */
  int unique_scope;      /* enum dibs_unique_scope */
  int on_conflict;       /* enum dibs_on_conflict */
  int64_t stage;         /* ms within which dibs_commit() must come; default:
                          ** not staged */
} dibs_job_options;

/* Set every option to "not given". */
DIBS_API void dibs_job_options_init(dibs_job_options *options);

/* One job of dibs_enqueue_many(). */
typedef struct dibs_new_job {
  const char *queue;               /* NULL: "default" */
  dibs_payload payload;            /* borrowed for the call */
  const dibs_job_options *options; /* NULL: none given */
} dibs_new_job;

/* What became of one job of dibs_enqueue_many(). */
typedef struct dibs_enqueued {
  int64_t id;
  int existing; /* nonzero: a unique job that was there already */
  int reserved;
} dibs_enqueued;

/*
** Enqueue one job. *id (may be NULL) is its id, or that of the unique job that
** is there already. When the call returns DIBS_OK the job is committed.
**
** DIBS_INVALID  a name, the payload or an option: the text says which
** DIBS_TOO_BIG  the payload or the headers are over their limit
** DIBS_EXISTS   a unique job is there, and on_conflict is reject
** DIBS_BUSY, DIBS_FULL, DIBS_READONLY, DIBS_IO, DIBS_CORRUPT, DIBS_NOMEM
*/
DIBS_API int dibs_enqueue(dibs_db *db, const char *queue, dibs_payload payload,
                          const dibs_job_options *options, int64_t *id);

/*
** Enqueue `count` jobs in one transaction: all or none. `results` has room for
** `count`, in the order of `jobs`; NULL when nobody asks. On failure
** dibs_error_index() tells which job it was. Ten thousand are fine; a count of
** 0 does nothing.
*/
DIBS_API int dibs_enqueue_many(dibs_db *db, const dibs_new_job *jobs,
                               size_t count, dibs_enqueued *results);

/*
** Enqueues of several threads on one handle share commits: who calls while one
** is under way shares the next, and each call returns when its own jobs are
** committed, with its own outcome. For a caller that must not wait:
** dibs_enqueue_begin() returns at once, and the callback is called, once, when
** the jobs are committed or could not be, by a thread of the handle or one that
** is in another enqueue. It may begin other enqueues, and must call no other
** function of the handle. `jobs`, all that they point to, and `results` must live until then;
** `message` (one sentence, "" on success) lives for the call; `error_id` is as
** of dibs_error_id(). dibs_close() waits for what was begun.
**
** DIBS_MISUSE, DIBS_FORKED, DIBS_NOMEM: nothing was begun, nothing is called.
*/
typedef void dibs_enqueue_done(void *context, int status, const char *message,
                               int64_t error_id);
DIBS_API int dibs_enqueue_begin(dibs_db *db, const dibs_new_job *jobs,
                                size_t count, dibs_enqueued *results,
                                dibs_enqueue_done *callback, void *context);

/* A job read from JSON. `job` points into memory of this struct. */
typedef struct dibs_parsed_job {
  dibs_new_job job;
} dibs_parsed_job;

/*
** Read a job from a JSON object: {"queue": ..., "payload": any JSON or
** "payload_base64": text, and any job option by its name: "delay": "5m"}.
** Durations are text or a number of seconds, `at` is RFC 3339 text or
** milliseconds since 1970. An unknown member is refused by name. Free *parsed
** with dibs_parsed_job_free().
*/
DIBS_API int dibs_parse_job(dibs_db *db, const char *json, size_t size,
                            dibs_parsed_job **parsed);
DIBS_API void dibs_parsed_job_free(dibs_parsed_job *parsed);

/*
** Commit a staged job: it takes its place as if enqueued now, its delay
** counting from its enqueue. DIBS_NOT_FOUND; DIBS_STATE when it is not staged;
** DIBS_LATE when its time ran out and it is gone.
*/
DIBS_API int dibs_commit(dibs_db *db, int64_t id);

/* Remove a staged job. DIBS_NOT_FOUND, DIBS_STATE, and DIBS_LATE as above. */
DIBS_API int dibs_abort(dibs_db *db, int64_t id);

/* ------------------------------------------------------------------------ */
/* Jobs as they are read                                                    */
/* ------------------------------------------------------------------------ */

/* One failed attempt. */
typedef struct dibs_job_error {
  int64_t attempt;    /* which attempt failed */
  int64_t at;         /* when it ended */
  int64_t ms;         /* how long it ran */
  const char *worker; /* whose it was; NULL: unnamed */
  const char *text;   /* why */
} dibs_job_error;

/*
** A job. Numbers that a job does not have are DIBS_UNSET, strings NULL. All
** pointers live as long as the list.
*/
typedef struct dibs_job {
  int64_t id;
  const char *queue;
  const char *name;
  int state;   /* enum dibs_state */
  int outcome; /* enum dibs_outcome of a done job, else 0 */
  int64_t priority;
  dibs_payload payload;
  const char *headers; /* JSON object as given */
  const char *key;
  int64_t attempt;      /* 1 from the first claim on; 0 before */
  int64_t max_attempts; /* 0: unlimited */
  int64_t crashes;      /* how many attempts ended with their process */
  int64_t created_at;
  int64_t due_at;         /* when it could first start, at the earliest */
  int64_t claimed_at;     /* of a running or finished job */
  int64_t lease_until;    /* of a running job */
  int64_t finished_at;    /* done or died */
  const char *worker;     /* who holds it, or held it last */
  const char *receipt;    /* "ID:TOKEN"; only from dibs_claim() */
  const char *last_error; /* text of the newest error entry */
  double progress;        /* 0 to 1; NaN: none */
  const char *progress_text;
  const char *result; /* JSON as given to dibs_ack() */
  int64_t timeout;    /* ms a worker lets it run */
  int64_t lease;      /* ms, of this claim or wanted by the job */
  int64_t expires_at;
  const dibs_job_error *errors; /* oldest first; only from dibs_get() */
  size_t error_count;
} dibs_job;

typedef struct dibs_job_list {
  size_t count;
  const dibs_job *jobs;
} dibs_job_list;

/* Free a list of jobs. NULL is harmless. */
DIBS_API void dibs_job_list_free(dibs_job_list *list);

/*
** Write a job as one line of JSON, without a line end: the members of dibs_job
** that have a value, a JSON payload embedded, bytes as payload_base64, times in
** RFC 3339. Free *json with dibs_free(). DIBS_NOMEM.
*/
DIBS_API int dibs_job_json(const dibs_job *job, char **json);

/* ------------------------------------------------------------------------ */
/* Claim                                                                    */
/* ------------------------------------------------------------------------ */

typedef struct dibs_claim_options {
  size_t size;        /* sizeof(dibs_claim_options) */
  int64_t n;          /* at most so many jobs, 1 to DIBS_CLAIM_MAX; default 1 */
  int64_t lease;      /* ms; default: the job's, then 60 s. 0 is refused */
  int64_t wait;       /* ms to wait for a job, or DIBS_FOREVER; default 0 */
  const char *worker; /* name to record; NULL: none */
  int in_order;       /* nonzero: exhaust the queues in the order given,
                      ** instead of taking turns */
  int attached;       /* nonzero: this process works on the jobs. When it dies,
                      ** they are given back at once; else, or without a
                      ** sidecar, when the lease ends */
} dibs_claim_options;

#define DIBS_CLAIM_OPTIONS_INIT                                                \
  { sizeof(dibs_claim_options), DIBS_UNSET, DIBS_UNSET, DIBS_UNSET, NULL, 0, 0 }

/*
** Claim up to n jobs of the queues that match one of `count` patterns (0:
** "default"). Within a queue by priority, then id; several queues take turns,
** across processes too. Every claim gives a fresh receipt. *jobs is never
** empty on DIBS_OK; free it with dibs_job_list_free(). A claim stops short of
** n when its payloads exceed the handle's payload limit together.
**
** DIBS_EMPTY        nothing to claim within the wait
** DIBS_INTERRUPTED  dibs_interrupt() was called
** DIBS_INVALID, DIBS_BUSY, DIBS_FULL, DIBS_READONLY, DIBS_IO, ...
*/
DIBS_API int dibs_claim(dibs_db *db, const char *const *queues, size_t count,
                        const dibs_claim_options *options,
                        dibs_job_list **jobs);

/* The jobs that a claim would give next, without claiming them. Of a queue with
** limits it may also show jobs that a claim would put aside, because none has met
** them yet: dibs_explain() tells of each. DIBS_EMPTY. */
DIBS_API int dibs_peek(dibs_db *db, const char *const *queues, size_t count,
                       int64_t n, dibs_job_list **jobs);

/* ------------------------------------------------------------------------ */
/* Settle                                                                   */
/* ------------------------------------------------------------------------ */

enum dibs_action {
  DIBS_ACK = 1,     /* done; `result` is kept with the job, if it is kept */
  DIBS_RETRY = 2,   /* again after `delay` (DIBS_UNSET: the job's backoff), or
                    ** to the dead letters after its last attempt */
  DIBS_FAIL = 3,    /* to the dead letters */
  DIBS_RELEASE = 4, /* give back at once; no attempt is counted */
  DIBS_SNOOZE = 5,  /* again after `delay`; no attempt is counted */
  DIBS_DISCARD = 6, /* done with the outcome discarded */
  DIBS_EXTEND = 7   /* hold it for `lease` from now; never shortens */
};

/* One receipt and what to do with it; the last members are the outcome. */
typedef struct dibs_settlement {
  const char *receipt;
  int action;          /* enum dibs_action */
  int reserved;        /* 0 */
  int64_t delay;       /* ms: retry, snooze */
  int64_t lease;       /* ms: extend */
  const char *error;   /* retry, fail, discard: why; NULL: not said */
  dibs_payload result; /* ack: JSON or none */
  int status;          /* OUT: DIBS_OK, DIBS_LOST, DIBS_INVALID, ... */
  int state;           /* OUT: enum dibs_state it is in now */
  int64_t id;          /* OUT: the job, 0 if the receipt has none */
  int64_t until;       /* OUT: extend: end of the lease; else when it is due */
  char message[240];   /* OUT: one sentence when status is not DIBS_OK */
} dibs_settlement;

/*
** Settle `count` receipts in one transaction. Each has an outcome of its own:
** every good one is settled, whatever becomes of the others. Returns DIBS_OK
** when the transaction was committed, even if single ones failed; otherwise
** nothing was settled, and every status says why.
*/
DIBS_API int dibs_settle(dibs_db *db, dibs_settlement *settlements,
                         size_t count);

/*
** One receipt at a time. They return the outcome:
**
** DIBS_LOST     the lease ran out, or the job was cancelled, taken over or
**               settled; nothing was changed
** DIBS_INVALID  not a receipt; a negative delay; a lease of 0; a result that
**               is no JSON
** and what any write can give.
*/
DIBS_API int dibs_ack(dibs_db *db, const char *receipt, const char *result);
/* *state (may be NULL): DIBS_READY, DIBS_SCHEDULED, DIBS_BLOCKED, DIBS_DEAD. */
DIBS_API int dibs_retry(dibs_db *db, const char *receipt, int64_t delay,
                        const char *error, int *state);
DIBS_API int dibs_fail(dibs_db *db, const char *receipt, const char *error);
DIBS_API int dibs_release(dibs_db *db, const char *receipt);
DIBS_API int dibs_snooze(dibs_db *db, const char *receipt, int64_t delay);
DIBS_API int dibs_discard(dibs_db *db, const char *receipt, const char *error);
/* *until (may be NULL): when the lease ends now. */
DIBS_API int dibs_extend(dibs_db *db, const char *receipt, int64_t lease,
                         int64_t *until);

/*
** While a job runs: keep how far it has come. Receipts as above: DIBS_LOST.
**
** dibs_checkpoint() puts another payload in the job's place, which the next
** attempt will get (of kind DIBS_PAYLOAD_NONE: it stays as it is), and, unless
** `lease` is DIBS_UNSET, extends the lease as dibs_extend() does. DIBS_TOO_BIG,
** DIBS_INVALID.
**
** dibs_progress() notes a fraction, 0 to 1, and a text for people (NULL: none,
** and an older one goes; at most DIBS_NAME_MAX bytes are kept). DIBS_INVALID.
*/
DIBS_API int dibs_checkpoint(dibs_db *db, const char *receipt,
                             dibs_payload payload, int64_t lease);
DIBS_API int dibs_progress(dibs_db *db, const char *receipt, double done,
                           const char *text);

/* ------------------------------------------------------------------------ */
/* The engine                                                               */
/* ------------------------------------------------------------------------ */

/*
** What a worker needs besides its handlers: it claims up to as many jobs as
** there are free slots, sleeps when there are none, keeps their leases, notices
** when one is lost, cancelled or out of time, and settles what is finished,
** many in one transaction. A worker in short:
**
**     dibs_engine *engine;
**     dibs_run *run;
**     dibs_engine_open("app.db", NULL, NULL, &engine);
**     while (dibs_engine_next(engine, DIBS_FOREVER, &run) == DIBS_OK) {
**       dibs_settlement outcome = {.action = DIBS_ACK};
**       ... work on run->job->payload ...
**       dibs_engine_finish(engine, run, &outcome);
**     }
**     dibs_engine_close(engine);
**
** An engine has a connection of its own and a thread of its own. Every function
** may be called by any thread at any time, but for dibs_engine_close(). It does
** not survive a fork.
**
** While the database cannot be used (locked, full, unreachable), the engine
** keeps what is to be done and tries again, after a pause that grows from 0.1 s
** to 5 s; the log callback is told once ("trouble"), and once more when that is
** over ("recovered"). Its leases stay its own meanwhile, because its heart
** beats through the sidecar.
*/
typedef struct dibs_engine dibs_engine;

enum dibs_run_flag {
  DIBS_RUN_LOST = 1,      /* the lease is another's, or the job was settled */
  DIBS_RUN_CANCELLED = 2, /* with DIBS_RUN_LOST: nobody else has it; it was
                          ** cancelled, or settled by its receipt */
  DIBS_RUN_TIMED_OUT = 4, /* it has run for longer than the job's timeout */
  DIBS_RUN_STOPPING = 8   /* the engine is being stopped */
};

/* A job that the engine has claimed, until it is finished. */
typedef struct dibs_run {
  const dibs_job *job; /* lives as long as the run */
  void *context;       /* the caller's; NULL at first */
  int final;           /* 1: its last attempt; should it fail, it is dead */
  int reserved;
  int64_t deadline; /* ms since 1970: its timeout is over then; DIBS_UNSET: it
                    ** has none */
} dibs_run;

typedef struct dibs_engine_options {
  size_t size;               /* sizeof(dibs_engine_options) */
  const char *const *queues; /* patterns; borrowed for the call */
  size_t queue_count;        /* 0: "default" */
  int64_t slots;      /* jobs held at a time, 1 to DIBS_CLAIM_MAX; default 1 */
  int64_t lease;      /* ms; default 15 s; extended when a third is over */
  const char *worker; /* name to record; NULL: none */
  int in_order;       /* as in dibs_claim_options */
  int drain;     /* nonzero: claim no more once there is nothing to claim while
                 ** no run is unsettled */
  void *context; /* for the callbacks; borrowed until dibs_engine_close() */
  /* For event loops; NULL: none. They are called by threads of the engine, or by
  ** those that call dibs_engine_next(), dibs_engine_settle() and
  ** dibs_engine_stop(), not two at a time. They hold up the engine, must not
  ** wait for anything, and must call no function of it but dibs_run_flags().
  ** With `ready` the engine has a second thread, which waits
  ** for jobs; it is called when dibs_engine_next() would give a job, and again
  ** only when all have been taken; and once `drain` has come to its end. */
  void (*ready)(void *context);
  void (*flagged)(void *context); /* a run has a new flag */
  void (*settled)(void *context, const dibs_run *run,
                  const dibs_settlement *outcome); /* finished, and on disk, or
                       ** refused; the run ends behind the call. The place for
                       ** an error handler: `outcome` has the action, the error
                       ** and the state, DIBS_DEAD when that was the end;
                       ** run->job->attempt tells which attempt it was. */
  int64_t max_jobs; /* claim no more than so many; DIBS_UNSET: no such end */
} dibs_engine_options;

#define DIBS_ENGINE_OPTIONS_INIT                                               \
  {                                                                            \
    sizeof(dibs_engine_options), NULL, 0, DIBS_UNSET, DIBS_UNSET, NULL, 0, 0,  \
        NULL, NULL, NULL, NULL, DIBS_UNSET                                     \
  }

/*
** Open the database, as dibs_open() does with the same options, and an engine
** on it. NULL options are the defaults. On failure *engine is set all the same,
** unless memory ran out, for dibs_engine_error(), and must be closed.
*/
DIBS_API int dibs_engine_open(const char *path,
                              const dibs_open_options *open_options,
                              const dibs_engine_options *options,
                              dibs_engine **engine);

/* One sentence on why the engine cannot go on; "" when it can. Borrowed until
** dibs_engine_close(). */
DIBS_API const char *dibs_engine_error(dibs_engine *engine);

/*
** The next job, waiting for one up to `timeout` ms (0: not at all; DIBS_FOREVER).
** When it finds one, and another connection is writing, it also waits for that,
** up to the busy timeout.
** *run is given back by dibs_engine_finish() or dibs_engine_settle().
**
** DIBS_EMPTY        none came within the timeout, or all slots are taken
** DIBS_INTERRUPTED  dibs_engine_interrupt() was called
** DIBS_CLOSED       none will come: the engine was stopped, or has come to the
**                   end that `drain` or `max_jobs` sets; runs may be under way
** and what makes the database unusable for good: DIBS_CORRUPT, DIBS_SCHEMA, ...
*/
DIBS_API int dibs_engine_next(dibs_engine *engine, int64_t timeout,
                              dibs_run **run);

/* Make the calls of dibs_engine_next() that wait return DIBS_INTERRUPTED. From
** any thread, not from a signal handler. */
DIBS_API void dibs_engine_interrupt(dibs_engine *engine);

/*
** The job is finished: `outcome` says by its action (not DIBS_EXTEND), delay,
** error and result what is to become of it; its receipt is not looked at. The
** strings are copied. Returns at once; the engine settles it with whatever else
** is finished, and keeps its lease until then. The run must not be used any
** more. DIBS_INVALID when the outcome is not valid, and the run goes on.
*/
DIBS_API int dibs_engine_finish(dibs_engine *engine, dibs_run *run,
                                const dibs_settlement *outcome);

/* The same, returning when it has been committed, with the result in
** `outcome` as of dibs_settle(): DIBS_OK, DIBS_LOST, or why it cannot be. */
DIBS_API int dibs_engine_settle(dibs_engine *engine, dibs_run *run,
                                dibs_settlement *outcome);

/*
** The application knows no handler for a job of this name: give it back for
** others, to be claimed again after `delay` ms (DIBS_UNSET: 5 s) without an
** attempt being counted. The log callback is told ("unknown") once for each name
** that this engine meets. Returns as dibs_engine_finish() does.
*/
DIBS_API int dibs_engine_unknown(dibs_engine *engine, dibs_run *run,
                                 int64_t delay);

/* The flags of a run, enum dibs_run_flag. Takes no lock. */
DIBS_API int dibs_run_flags(const dibs_run *run);

/* Wait until a run has a flag other than `known`. DIBS_OK; DIBS_EMPTY when the
** timeout, in ms, is over. */
DIBS_API int dibs_run_wait(dibs_run *run, int known, int64_t timeout);

/*
** Stop: claim no more, give back what no handler has begun, and wait up to
** `grace` ms until all runs are finished and settled. What is not finished then
** is given back without an attempt being counted; finishing it gives DIBS_LOST.
** *released (may be NULL): how many those are. When the database cannot be used
** they stay with their leases: the status says why. Another writer is waited for
** until the end of the grace, or 5 s if that is less.
*/
DIBS_API int dibs_engine_stop(dibs_engine *engine, int64_t grace,
                              size_t *released);

/* The first part of dibs_engine_stop(), for event loops: claim no more, give back
** what no handler has begun, and return at once. Runs go on. */
DIBS_API void dibs_engine_stop_begin(dibs_engine *engine);

/* Stop without grace, unless stopped before, and free all, runs included. No
** thread may be in a call. In a forked child DIBS_FORKED. */
DIBS_API int dibs_engine_close(dibs_engine *engine);

/* ------------------------------------------------------------------------ */
/* Watch                                                                    */
/* ------------------------------------------------------------------------ */

/*
** Waiting until something can be claimed from some queues, without claiming it:
** for programs that have their own loop. A watch has a handle of its own; it
** does not survive a fork. What it tells is a hint: somebody else may be faster.
**
** Blocking: dibs_watch_wait(). For an event loop: a callback, or a descriptor to
** poll. Both tell once that there is something, and again only after
** dibs_watch_arm(), which is called when a claim has found nothing more.
*/
typedef struct dibs_watch dibs_watch;

typedef struct dibs_watch_options {
  size_t size; /* sizeof(dibs_watch_options) */
  /* Called by a thread of the watch, with DIBS_OK, or with why it cannot go on.
  ** It must not call the watch, dibs_watch_arm() excepted. NULL: none. */
  void (*callback)(void *context, int status);
  void *context;  /* borrowed until dibs_watch_close() */
  int descriptor; /* nonzero: make a descriptor to poll */
  int reserved;
} dibs_watch_options;

#define DIBS_WATCH_OPTIONS_INIT                                                \
  { sizeof(dibs_watch_options), NULL, NULL, 0, 0 }

/* Open the database, as dibs_open() does with the same options, and a watch on
** the queues that match (0 patterns: "default"). On failure *watch is set all
** the same, unless memory ran out, and must be closed. */
DIBS_API int dibs_watch_open(const char *path,
                             const dibs_open_options *open_options,
                             const char *const *queues, size_t count,
                             const dibs_watch_options *options,
                             dibs_watch **watch);

/* As dibs_error(), of the watch's own handle. */
DIBS_API const char *dibs_watch_error(const dibs_watch *watch);

/* Wait up to `timeout` ms (DIBS_FOREVER) until something can be claimed: DIBS_OK,
** at once when there is something already. DIBS_EMPTY, DIBS_INTERRUPTED. Not
** for a watch with a callback or a descriptor. */
DIBS_API int dibs_watch_wait(dibs_watch *watch, int64_t timeout);

/* Make the wait under way, or the next one, return DIBS_INTERRUPTED. From any
** thread and from a signal handler. */
DIBS_API void dibs_watch_interrupt(dibs_watch *watch);

/* The descriptor, which is readable when there is something; -1: none. It
** belongs to the watch. */
DIBS_API int dibs_watch_descriptor(const dibs_watch *watch);

/* Tell again; at once when there is something now. The descriptor is not readable
** any more until then. Gives the status with which the watch ended, if it has:
** see dibs_watch_error(). DIBS_MISUSE without callback and descriptor. */
DIBS_API int dibs_watch_arm(dibs_watch *watch);

/* Close and free it; no thread may be in a call. NULL is harmless. */
DIBS_API int dibs_watch_close(dibs_watch *watch);

/* ------------------------------------------------------------------------ */
/* Look                                                                     */
/* ------------------------------------------------------------------------ */

/* The job of that id, in whatever state, with its errors. DIBS_NOT_FOUND. */
DIBS_API int dibs_get(dibs_db *db, int64_t id, dibs_job_list **job);

typedef struct dibs_list_options {
  size_t size;      /* sizeof(dibs_list_options) */
  int state;        /* enum dibs_state; 0: any */
  int no_payload;   /* nonzero: leave payloads out */
  const char *name; /* job name; NULL: any */
  int64_t after;    /* only ids above; default 0 */
  int64_t limit;    /* at most so many; default 100 */
} dibs_list_options;

#define DIBS_LIST_OPTIONS_INIT                                                 \
  { sizeof(dibs_list_options), 0, 0, NULL, DIBS_UNSET, DIBS_UNSET }

/* Jobs by id, of the queues that match (0 patterns: all). DIBS_OK with a count
** of 0 when there are none. */
DIBS_API int dibs_list(dibs_db *db, const char *const *queues, size_t count,
                       const dibs_list_options *options, dibs_job_list **jobs);

/* How many jobs a queue has in each state. */
typedef struct dibs_queue_stats {
  const char *queue;
  int64_t ready;
  int64_t scheduled;
  int64_t blocked;
  int64_t staged;
  int64_t running;
  int64_t done;
  int64_t dead;
  int64_t oldest_ready_at; /* since when its oldest ready job could have
                           ** started; DIBS_UNSET: none is ready */
  int64_t paused;          /* 0 or 1 */
  int64_t expired;         /* jobs that expired before they started, ever */
} dibs_queue_stats;

typedef struct dibs_stats_list {
  size_t count;
  const dibs_queue_stats *queues;
} dibs_stats_list;

/*
** Counts of the queues that match (0 patterns: all), by name. A queue that was
** asked for by its name is there even if nobody ever used it.
*/
DIBS_API int dibs_stats(dibs_db *db, const char *const *queues, size_t count,
                        dibs_stats_list **stats);
DIBS_API void dibs_stats_list_free(dibs_stats_list *stats);

/*
** Wait until the queues that match (0 patterns: "default") have no unfinished
** job: none that is ready, scheduled, blocked, staged or running. `timeout` in
** ms, or DIBS_FOREVER. DIBS_EMPTY when it ran out before; DIBS_INTERRUPTED by
** dibs_interrupt().
*/
DIBS_API int dibs_join(dibs_db *db, const char *const *queues, size_t count,
                       int64_t timeout);

/* Why something is not running. */
typedef struct dibs_reason {
  const char *reason; /* "paused" "limit" "rate" "no_worker" "queued" "next"
                      ** "scheduled" "retrying" "behind" "dead_head"
                      ** "limit_key" "staged" "running" "done" "dead"
                      ** "empty" */
  const char *text;   /* one sentence */
  int64_t at;         /* when that will be over, or DIBS_UNSET */
  int64_t id;         /* "behind", "dead_head": of the job before it; else 0 */
} dibs_reason;

typedef struct dibs_reason_list {
  size_t count;
  const dibs_reason *reasons; /* never empty; the first is the one to see to */
} dibs_reason_list;

/* Why a job, or what waits in a queue, is not running. DIBS_NOT_FOUND. */
DIBS_API int dibs_explain(dibs_db *db, int64_t id, dibs_reason_list **reasons);
DIBS_API int dibs_explain_queue(dibs_db *db, const char *queue,
                                dibs_reason_list **reasons);
DIBS_API void dibs_reason_list_free(dibs_reason_list *reasons);

/*
** Wait until a job has ended, up to `timeout` ms (DIBS_FOREVER): *state (may be
** NULL) is DIBS_DONE or DIBS_DEAD, and *job (may be NULL), to be freed, is the
** job, or NULL when it is there no more: done and not kept, removed, or put back
** to work by another. A job that ended unkept before the call is not there:
** DIBS_NOT_FOUND. DIBS_EMPTY when the wait ran out; DIBS_INTERRUPTED.
*/
DIBS_API int dibs_await(dibs_db *db, int64_t id, int64_t timeout, int *state,
                        dibs_job_list **job);

/*
** When something will next become claimable or need attention without anybody
** doing anything: a scheduled job, a lease's end, an expiry. *at is DIBS_UNSET
** when nothing will.
*/
DIBS_API int dibs_next_event(dibs_db *db, int64_t *at);

/* ------------------------------------------------------------------------ */
/* Change                                                                   */
/* ------------------------------------------------------------------------ */

/* What became of one id. */
typedef struct dibs_id_outcome {
  int status;        /* DIBS_OK, DIBS_NOT_FOUND, DIBS_STATE, DIBS_EXISTS */
  int state;         /* enum dibs_state it is in now; 0 if it is gone */
  char message[240]; /* one sentence when status is not DIBS_OK */
} dibs_id_outcome;

/*
** Cancel jobs: waiting, running or dead ones become done with the outcome
** cancelled (and are gone unless kept). A running job's holder gets DIBS_LOST.
** DIBS_NOT_FOUND; DIBS_STATE when it is done already. In one transaction;
** `outcomes` (room for `count`, or NULL) as in dibs_settle(). *cancelled (may
** be NULL) is how many were.
*/
DIBS_API int dibs_cancel(dibs_db *db, const int64_t *ids, size_t count,
                         dibs_id_outcome *outcomes, int64_t *cancelled);

typedef struct dibs_change_options {
  size_t size;      /* sizeof(dibs_change_options) */
  int64_t priority; /* 32-bit; DIBS_UNSET: as it is */
  int64_t delay;    /* ms from now; not with `at` */
  int64_t at;       /* ms since 1970; not with `delay` */
  int64_t stage;    /* ms from now within which dibs_commit() must come; of a
                    ** staged job. Never shortens what there is */
} dibs_change_options;

#define DIBS_CHANGE_OPTIONS_INIT                                               \
  {                                                                            \
    sizeof(dibs_change_options), DIBS_UNSET, DIBS_UNSET, DIBS_UNSET,           \
        DIBS_UNSET                                                             \
  }

/* Change a waiting job (ready, scheduled, blocked, staged). DIBS_NOT_FOUND;
** DIBS_STATE when it is running, done or dead, or with `stage` not staged;
** DIBS_LATE when that job's time to commit is over. */
DIBS_API int dibs_change(dibs_db *db, int64_t id,
                         const dibs_change_options *options);

/*
** Dead letters back to work, with their id, age and error history, and their
** attempts at 0. Chosen ones (DIBS_STATE for one that is not dead), or all of
** the queues that match (0 patterns are refused; DIBS_ALL is all). *moved (may
** be NULL) is how many were.
**
** A job whose unique key is in use by another one stays dead: outcome
** DIBS_EXISTS; dibs_redrive() leaves its id in *skipped (may be NULL), an array
** of *skipped_count to free with dibs_free().
*/
DIBS_API int dibs_requeue(dibs_db *db, const int64_t *ids, size_t count,
                          dibs_id_outcome *outcomes, int64_t *moved);
DIBS_API int dibs_redrive(dibs_db *db, const char *const *queues, size_t count,
                          int64_t *moved, int64_t **skipped,
                          size_t *skipped_count);

/* Pause the queues that match (0 patterns are refused): their waiting jobs stay
** as they are and are not given to anybody; running ones go on. A queue that is
** named is paused even if nobody ever used it. And resume them. *changed (may be
** NULL): how many were changed. */
DIBS_API int dibs_pause(dibs_db *db, const char *const *queues, size_t count,
                        int64_t *changed);
DIBS_API int dibs_resume(dibs_db *db, const char *const *queues, size_t count,
                         int64_t *changed);

/*
** Set a queue: `count` names, each with a value as people type it; NULL or "none"
** takes the setting back. The queue need not have been used. At once, for all
** processes, in one transaction. DIBS_INVALID, dibs_error_index() telling which.
**
**     limit          how many of its jobs may run at a time; 0: none starts
**     limit_per_key  the same for each limit_key
**     rate           how many may start in a period: "10/1s"
**     rate_per_key   the same for each limit_key
**     burst          how many at once of a rate that was not used up; the rate's
**                    number unless given
**     dead_head      block: a job that dies keeps holding back the others of its
**                    key, until it is requeued, cancelled or purged, or the
**                    setting is skip again; skip: the next one goes on
**     keep_count     how many finished jobs are kept at most, the newest ones;
**                    those that have no `keep` are kept as long as they are
**                    among them
**
** and any job option but `at`, as the default of jobs enqueued from then on; what
** a job's own options say is heard first.
*/
DIBS_API int dibs_queue_set(dibs_db *db, const char *queue,
                            const char *const *names, const char *const *values,
                            size_t count);

/* What a queue is set to, as a JSON object with "queue", "paused" and the
** settings that it has. Free *json with dibs_free(). */
DIBS_API int dibs_queue_show(dibs_db *db, const char *queue, char **json);

/* Remove all dead letters of the queues that match (0 patterns are refused).
** *removed (may be NULL) is how many were. */
DIBS_API int dibs_purge(dibs_db *db, const char *const *queues, size_t count,
                        int64_t *removed);

/* Remove all waiting jobs of the queues that match (0 patterns are refused),
** and with `dead` nonzero the dead letters too. Running jobs and kept finished
** ones stay. In steps of bounded size, each a transaction. */
DIBS_API int dibs_clear(dibs_db *db, const char *const *queues, size_t count,
                        int dead, int64_t *removed);

/* Remove finished jobs whose time of keeping is over or that are more than their
** queue keeps, and what has been left
** behind by queues that nobody uses any more. *removed: jobs. */
DIBS_API int dibs_prune(dibs_db *db, int64_t *removed);

/* ------------------------------------------------------------------------ */
/* Health                                                                   */
/* ------------------------------------------------------------------------ */

typedef struct dibs_finding {
  const char *check; /* a short name: "wal", "integrity" */
  int level;         /* enum dibs_level */
  int reserved;
  const char *message; /* what was seen */
  const char *advice;  /* what to do; NULL: nothing */
} dibs_finding;

typedef struct dibs_finding_list {
  size_t count;
  const dibs_finding *findings;
} dibs_finding_list;

/* Check library, file, settings, tables and queue. With `thorough` nonzero
** also SQLite's integrity check, which reads the whole file. */
DIBS_API int dibs_doctor(dibs_db *db, int thorough,
                         dibs_finding_list **findings);
DIBS_API void dibs_finding_list_free(dibs_finding_list *findings);

/* ------------------------------------------------------------------------ */
/* SQL functions                                                            */
/* ------------------------------------------------------------------------ */

/*
** Register the SQL functions on a connection: dibs_enqueue() and the others that
** core/extension/README.md describes. It has the form of an extension's entry
** point, to be called by one, or to be given to sqlite3_auto_extension(), `api`
** being the table of the connection's library. Creates no tables and reads none;
** may be called again, and beside other copies of this library: the functions of
** the last one are in effect.
**
** Returns SQLite's codes: 0 on success, else *message (may be NULL) is a text to
** free with sqlite3_free(). SQLITE_ERROR when the library cannot be used.
*/
DIBS_API int dibs_extension_init(struct sqlite3 *connection, char **message,
                                 const struct sqlite3_api_routines *api);

#ifdef __cplusplus
}
#endif
#endif
