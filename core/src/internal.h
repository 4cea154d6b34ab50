/* SPDX-License-Identifier: MIT */
/*
** internal.h: what the core's files offer each other, a section a file, from
** the lowest to the highest. A file uses the sections above its own only:
**
**     memory    arenas and growing strings
**     text      UTF-8, names, base64
**     time      durations and times
**     json      walking through valid JSON, writing JSON
**     linked    the SQLite library that the program is linked with
**     provider  the SQLite libraries in use
**     sidecar   the file that the processes of a database share
**     monitor   a thread that sees other processes die and write
**     wake      signals and waiting
**     sql       every SQLite call: statements, transactions, error mapping
**     checkpoint  moving the WAL into the file
**     transaction  an operation as a transaction, or a part of one
**     conflict  two SQLite libraries on one file
**     handle    the frame of each public operation
**     log       telling the host what happened
**     pattern   queue patterns
**     schema    making, checking and migrating the tables
**     attach    living inside a host's connection
**     place     where jobs are: queues, placements, lanes, unique keys, ends
**     limit     how many may run and start, of a queue and of a key
**     settings  what a queue is set to
**     reclaim   jobs whose holders died
**     tidy      what time alone brings about, in bounded steps
**     options   options in JSON
**     job       jobs as they are read
**
** above which stand the public operations: enqueue, share, claim, settle, engine, look,
** admin, doctor; and above these the extension, which gives them to SQL. Nothing
** but sql, checkpoint, transaction, conflict, provider, attach, handle and
** extension knows SQLite.
**
** Errors are carried on the handle. A helper that takes a handle does nothing
** once db->status is set, so a sequence of steps needs no test between them;
** whoever loops over rows tests db->status where the loop must end.
*/
#ifndef DIBS_INTERNAL_H
#define DIBS_INTERNAL_H

#include "dibs.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "statements.h"

#if defined(__GNUC__)
#define DIBS_PRINTF(a, b) __attribute__((format(printf, a, b)))
#else
#define DIBS_PRINTF(a, b)
#endif

/* ------------------------------------------------------------------ memory */

/* Memory that is freed all at once. Start with {.newest = NULL}. */
struct arena {
  struct arena_block *newest;
};

/* `size` bytes, aligned for anything; NULL when memory ran out. */
void *arena_take(struct arena *arena, size_t size);

/* A copy with a NUL behind it. NULL when memory ran out. */
char *arena_copy(struct arena *arena, const void *data, size_t size);
void arena_free(struct arena *arena);

/* A string that grows. Start with {.data = NULL}. Once memory ran out, `failed` is
** set and nothing more is appended. */
struct text {
  char *data; /* has a NUL behind it once something was appended */
  size_t size;
  size_t capacity;
  bool failed;
};

void text_append(struct text *text, const char *data, size_t size);
void text_string(struct text *text, const char *string);
void text_format(struct text *text, const char *format, ...) DIBS_PRINTF(2, 3);
void text_free(struct text *text);

/* -------------------------------------------------------------------- text */

#define KEY_SIZE (DIBS_NAME_MAX + 1) /* of a buffer for a name or key */

/* Whether `size` bytes are well-formed UTF-8 (no surrogates, none overlong). */
bool utf8_valid(const char *data, size_t size);

/* Append text; each byte that is no UTF-8 becomes U+FFFD. */
void utf8_append(struct text *text, const char *data, size_t size);

/* Numbers with a point, whatever the locale of the program. real_parse() wants
** the whole string. */
bool real_parse(const char *text, double *value);
void real_append(struct text *text, double value, int digits);

/* Format a message of one line into `room` bytes: cut at a character, and with
** a '?' for each control character and each byte that is no UTF-8. */
void message_format(char *message, size_t room, const char *format,
                    va_list arguments);

/* The largest size <= `size` that does not cut a character in two. */
size_t utf8_floor(const char *data, size_t size);

/* NULL when `name` may name a queue, job, key or worker; else what is wrong
** with it, to be put behind "queue ". */
const char *name_problem(const char *name);

void base64_append(struct text *text, const void *data, size_t size);

/* Decode into `bytes` (room for size / 4 * 3 + 3). False when it is not
** base64; padding may be left out, white space not be there. */
bool base64_decode(const char *text, size_t size, unsigned char *bytes,
                   size_t *count);

/* -------------------------------------------------------------------- time */

/* Milliseconds since 1970 by the system's clock. */
int64_t time_now(void);

/* Milliseconds of a clock that never jumps. */
int64_t time_monotonic(void);

/* The largest time that is accepted: the end of the year 9999. */
#define TIME_MAX 253402300799999

/* time + duration, at most TIME_MAX. */
int64_t time_add(int64_t time, int64_t duration);

/* How long from one time to another: 0 when it goes backwards or one of them is
** DIBS_UNSET. */
int64_t time_between(int64_t from, int64_t to);

/* Write a duration as people type it: "1.5s", "6h". */
#define DURATION_SIZE 32
char *duration_format(int64_t milliseconds, char text[DURATION_SIZE]);

/* ------------------------------------------------------------------ thread */

/* False when it cannot be had. */
bool thread_start(pthread_t *thread, void *(*function)(void *), void *context);

/* -------------------------------------------------------------------- json */

/* A member of an object, or an element: slices of the JSON text. */
struct json_slice {
  const char *data;
  size_t size;
};

/* Whether that is JSON as RFC 8259 has it, in UTF-8, nested at most 1,000
** deep. */
bool json_valid(const char *data, size_t size);

/* Walk through the members of an object in JSON that is known to be valid.
** `at` starts at its text and ends with it. False after the last one. `key`
** comes without its quotes, escapes as they stand. */
struct json_walk {
  const char *at;
  const char *end;
};
bool json_next(struct json_walk *walk, struct json_slice *key,
               struct json_slice *value);

/* The same for the elements of an array. */
bool json_next_element(struct json_walk *walk, struct json_slice *value);

/* The first character of a JSON text that is not white space, or 0. */
char json_kind(const char *data, size_t size);

/* Append JSON text without its insignificant white space. */
void json_minify(struct text *text, const char *data, size_t size);

/* Append a quoted string; bytes that are no UTF-8 become U+FFFD. */
void json_quote(struct text *text, const char *data, size_t size);

/* ---------------------------------------------------------------- provider */

/* The API table of the linked library. DIBS_LIBRARY when there is none,
** DIBS_NOMEM. */
int linked_table(const struct sqlite3_api_routines **api);

const struct sqlite3_api_routines *provider_api(const dibs_provider *provider);

/* Whether the library was built for more than one thread. */
bool provider_has_threads(const struct sqlite3_api_routines *api);

/* ----------------------------------------------------------------- sidecar */

#define SLOT_COUNT    512
#define CHANNEL_COUNT 32
#define FALLBACK      1000 /* ms after which a waiter looks in any case */

/* A process (sidecar.c). Numbers that do not change while the slot is taken
** are written before `holder`. */
struct slot {
  _Atomic uint64_t holder; /* random; 0: the slot is free */
  _Atomic uint32_t pid;
  _Atomic uint32_t waiters;   /* its part of the board's */
  _Atomic uint64_t namespace; /* inode of its pid namespace */
  _Atomic uint64_t started;   /* ticks since boot, as in proc(5) stat */
  _Atomic uint64_t beat;      /* ms since boot; 0: no engine */
  _Atomic uint32_t mail;      /* counts what its engines are to look after */
  _Atomic uint32_t check;     /* over the numbers that do not change */
  _Atomic uint64_t origin;    /* inode of the file in which it was taken */
  uint64_t reserved;
};

/* Who waits on a channel (wake.c). Times are seconds since boot. */
struct channel {
  _Atomic uint32_t sign;     /* of the patterns that are waited for; 0: none */
  _Atomic uint32_t sign_at;  /* when that was last announced */
  _Atomic uint32_t mixed_at; /* when other patterns were last announced */
  uint32_t reserved;
};

enum duty {
  DUTY_DEAD = 1,   /* a process died: probe the slots */
  DUTY_FOREIGN = 2 /* somebody without dibs may have written */
};

/* The map. */
struct board {
  char magic[8];
  uint32_t version;
  uint32_t slot_count;
  char pad_a[48];
  _Atomic uint32_t seq;
  char pad_b[60];
  _Atomic uint32_t waiters;
  _Atomic uint32_t duty; /* of enum duty */
  _Atomic uint64_t timer;
  _Atomic uint64_t probed;
  char pad_c[40];
  _Atomic uint32_t turn;
  _Atomic uint32_t queued;
  char pad_d[56];
  _Atomic uint64_t signals;
  _Atomic uint64_t wakes;
  _Atomic uint64_t writes;
  _Atomic uint64_t rescues;
  char pad_e[224];
  struct channel channels[CHANNEL_COUNT];
  char pad_f[3072];
  struct slot slots[SLOT_COUNT];
};

/* A database's sidecar in this process, shared by its handles. */
struct sidecar {
  struct sidecar *next;
  char *name;     /* of the file */
  char *database; /* its path */
  int references;
  pid_t pid;                /* whose it is */
  uint64_t namespace;       /* our own */
  _Atomic int64_t followed; /* ms since boot: the name was looked at */
  pthread_mutex_t mutex;    /* for what follows */
  _Atomic int fd;           /* -1: in memory */
  dev_t device;
  _Atomic ino_t inode;
  struct board *_Atomic board;
  struct sidecar_old *old; /* maps before this one */
  _Atomic int64_t holder;  /* our number; 0: none yet */
  _Atomic int slot;        /* ours; -1: none */
  atomic_bool attached;    /* leases have been held by it */
  struct monitor *monitor; /* NULL: not running */
};

/* Milliseconds since the machine was started, the same for all processes. */
int64_t time_since_boot(void);

/* When a process was started, in ticks since boot; -1 when that cannot be
** told. */
int64_t process_started(pid_t pid);

/* The sidecar of the database at that path. NULL when there is none to be had.
** Every handle that has it closes it. */
struct sidecar *sidecar_open(const char *database, bool in_memory);
void sidecar_close(struct sidecar *sidecar);

/* Once in a fallback interval: see whether the file's name still leads to it,
** and follow. True when it was time to. */
bool sidecar_follow(struct sidecar *sidecar);

/* Take a slot for this process, unless it has one. Gives the holder's number
** for leases that end with the process; 0 when there is none to be had. */
int64_t sidecar_hold(struct sidecar *sidecar);

/* Our slot, or NULL. */
struct slot *sidecar_slot(struct sidecar *sidecar);

/* The engine's heart beats. */
void sidecar_beat(struct sidecar *sidecar);

/* Whether a holder is alive and its engine's heart has beaten within the
** lease, by a clock that does not jump. */
bool sidecar_holder_beats(struct sidecar *sidecar, int64_t holder,
                          int64_t lease);

/* Take a duty off the board. False when nobody put it there. */
bool sidecar_duty_take(struct sidecar *sidecar, enum duty duty);

/* Whether it is on us to probe the slots for dead holders now. */
bool sidecar_probe_due(struct sidecar *sidecar);

/* Find up to `most` dead holders. Once their leases have been given back, bury
** them. */
struct dead_holder {
  int slot;
  int64_t holder;
};
int sidecar_dead(struct sidecar *sidecar, struct dead_holder *dead, int most);
void sidecar_bury(struct sidecar *sidecar, const struct dead_holder *dead);

/* A part that only one process plays at a time, until it drops it or dies. */
bool sidecar_role_take(struct sidecar *sidecar, int role);
void sidecar_role_drop(struct sidecar *sidecar, int role);

/* ----------------------------------------------------------------- monitor */

/* Start the process's monitor if it has none and one of the parts is free. */
void monitor_start(struct sidecar *sidecar);
void monitor_stop(struct sidecar *sidecar);

/* In a forked child: let go of what the parent's monitor has open. */
void monitor_forked(struct sidecar *sidecar);

/* -------------------------------------------------------------------- wake */

#define MAILS 8 /* in one transaction; engines find out about more in time */

/* What a transaction has to tell once it is committed. Start with all 0. */
struct wakes {
  uint32_t mask; /* channels; 0: nothing */
  uint32_t all;  /* those of them on which everybody is to wake */
  uint16_t counts[CHANNEL_COUNT]; /* how many are to wake on the others */
  int mails;                      /* how many of these there are */
  int64_t mail[MAILS]; /* holders whose engines are to look after their runs */
};

/* Channels besides those of queues. */
#define CHANNEL_QUEUES 28 /* the first so many */
#define CHANNEL_LOOKS  28 /* none: marks who looks and does not claim */
#define CHANNEL_ENDED  29 /* a job ended */
#define CHANNEL_DUTY   30 /* look after board->duty */
#define CHANNEL_STOP   31 /* somebody's wait is interrupted */

/* The channel of a queue. */
int wake_channel(const char *queue);

/* Note that `count` waiters on a channel are to wake, or all. */
void wake_note(struct wakes *wakes, int channel, int count);
void wake_note_all(struct wakes *wakes, int channel);

/* Note that a holder's engines are to look after their runs. */
void wake_note_mail(struct wakes *wakes, int64_t holder);

/* So many fewer need to wake. */
void wake_unnote(struct wakes *wakes, int channel, int64_t count);

/* Add what `from` has to `wakes`; `from` is forgotten. */
void wake_merge(struct wakes *wakes, struct wakes *from);

/* Tell. What was noted is forgotten. */
void wake_send(struct sidecar *sidecar, struct wakes *wakes);

/* Somebody who waits. */
struct wait {
  struct sidecar *sidecar;
  struct board *board;
  struct slot *slot;  /* counts it, too; NULL: none */
  uint32_t mask;      /* channels waited on */
  uint32_t sign;      /* of the patterns */
  uint32_t seen;      /* seq before the last look */
  uint32_t announced; /* when, in seconds since boot */
  bool counted;       /* among the waiters */
};

/* Wait for the queues that match the patterns (`count` 0: none), and for the
** channels of `mask`. Then, again and again: wait_look(), look, wait_sleep(). */
void wait_start(struct wait *wait, struct sidecar *sidecar,
                const char *const *patterns, size_t count, uint32_t mask);
void wait_look(struct wait *wait);

/* Sleep until a signal that came after wait_look(), at most so many ms. True
** when a signal ended it. */
bool wait_sleep(struct wait *wait, int64_t milliseconds);

/* What was found was found by the fallback. */
void wait_rescued(const struct wait *wait);

/* The wait is over. `unheeded`: a signal may have been received, but was not
** followed by a look that succeeded: it is passed on. */
void wait_end(struct wait *wait, bool unheeded);

/* Make everyone who waits look, as an interrupt does. Safe in a signal
** handler. */
void wake_everyone(struct sidecar *sidecar);

/* The word that counts the mail of this process; NULL without a slot. Sleep on
** such a word while it has that value, at most so many ms; end that sleep by
** adding to it, 1 for mail of others. */
_Atomic uint32_t *mail_word(struct sidecar *sidecar);
void mail_wait(_Atomic uint32_t *word, uint32_t value, int64_t milliseconds);
void mail_send(_Atomic uint32_t *word, uint32_t amount);

/* Whether somebody has waited for a queue's channel lately. */
bool wake_is_awaited(struct sidecar *sidecar, const char *queue);

/* Take on a due time: false when another waiter has done so. */
bool wake_timer(struct sidecar *sidecar, int64_t due);

/* Turns of writing: the number to give to turn_wait(); sleep until a
** transaction has ended since; tell that one has. */
uint32_t turn_see(struct sidecar *sidecar);
void turn_wait(struct sidecar *sidecar, uint32_t seen, int64_t microseconds);
void turn_end(struct sidecar *sidecar);

/* --------------------------------------------------------------------- sql */

#define SQL_ENUM(name, text) SQL_##name,
enum sql { DIBS_SQL_MAP(SQL_ENUM) SQL_COUNT };
#undef SQL_ENUM

/* The macros of sqlite3ext.h turn sqlite3_step() into sqlite3_api->step(): each
** function that calls SQLite has a local of that name, so that every handle
** uses its own library. */
#define SQLITE_LIBRARY(db)                                                     \
  const struct sqlite3_api_routines *sqlite3_api = (db)->api

/* A queue's row. */
struct queue {
  int64_t id; /* 0: no such queue */
  bool claimable;
  bool paused;   /* or held: nothing may be claimed */
  bool limited;  /* it has limits or rates */
  bool keeping;  /* it keeps a number of done jobs */
  bool defaults; /* it has defaults for its jobs */
  char name[KEY_SIZE];
};

/* What a handle knows of the file from its last transaction, so that a program
** that writes often need not look it up each time. It is forgotten when another
** connection has written since, or a transaction was rolled back; and it is
** used within a write transaction only. */
struct cache {
  unsigned version;   /* of the file, as SQLITE_FCNTL_DATA_VERSION gives it */
  struct queue queue; /* used last; id 0: none */
  int64_t next_id;    /* 0: unknown */
  int64_t next_event; /* nothing falls due before; DIBS_UNSET: unknown */
};

struct log_entry;

/* What is to be told (log.c), oldest first. */
struct log_list {
  struct log_entry *first;
  struct log_entry *last;
  int count;
};

/* A line of enqueues (share.c). */
struct share {
  pthread_mutex_t mutex; /* for what follows */
  struct enqueue_request *first;
  struct enqueue_request *last;
  bool leading; /* somebody writes, or has been told to */
  bool closing;
  bool writes; /* the writer runs */
  pthread_t writer;
  pthread_cond_t work; /* the writer's */
};

/* How an operation is a transaction: see transaction.c. */
enum mode { MODE_NONE, MODE_OWN, MODE_SAVEPOINT, MODE_BARE };

struct dibs_db {
  const struct sqlite3_api_routines *api;
  sqlite3 *sqlite;
  sqlite3_stmt *statements[SQL_COUNT]; /* prepared on first use */
  pthread_mutex_t mutex;               /* held for the length of a call */
  struct share share;
  pid_t pid;  /* who opened it */
  char *path; /* as given; ":memory:" */
  int schema; /* version; 0: not open */
  bool created;
  bool in_memory;
  bool has_wal;            /* of a connection of our own */
  struct gather *gather;   /* NULL: not needed yet */
  bool two_libraries;      /* the caller takes what comes of it */
  struct sidecar *sidecar; /* NULL: there is none; waiting polls */
  struct wakes wakes;      /* of the transaction under way */
  int64_t commits;         /* write transactions committed */
  dibs_engine *engine;     /* whose handle it is; NULL: nobody's */
  int64_t busy_timeout;
  int64_t busy_since; /* by the monotonic clock: the wait under way */
  uint32_t busy_turn; /* turns of writing that had ended then */
  int64_t max_payload;
  int64_t (*clock)(void *);
  void *clock_context;
  int64_t asked; /* when the operation under way was called */
  int64_t now;   /* its time: once it may write, when it got the lock */
  struct cache cache;
  int wal_pages;             /* of the WAL, at the last commit (checkpoint.c) */
  int wal_tried;             /* when a checkpoint was last tried */
  sqlite3 *mover;            /* runs them; NULL: not needed yet */
  bool writing;              /* within a write transaction */
  enum mode mode;            /* of the transaction under way */
  int changes;               /* total_changes() of SQLite when it began */
  bool whole;                /* it goes on until sql_whole_end() */
  sqlite3_stmt *writer;      /* of a host's: the last that wrote in it */
  struct attached *attached; /* NULL: the connection is our own */
  bool self_blocked; /* the lock is this thread's, by another connection */
  uint64_t random;   /* state of random_next() */
  bool eager;        /* the last claim found something */
  void (*log)(void *, const dibs_log_event *);
  void *log_context;
  struct log_list noted; /* of the operation under way */
  atomic_bool interrupted;
  int status; /* of the operation under way */
  int64_t error_id;
  int64_t error_index;
  char message[640];
};

/* A value to bind. */
struct sql_value {
  enum { SQL_END, SQL_INT, SQL_REAL, SQL_TEXT, SQL_PAYLOAD } type;
  int64_t integer;
  double real;
  const void *data;
  size_t size;
  int kind;
};

/* Values: an integer (DIBS_UNSET: NULL), a real (NaN: NULL), a string (NULL:
** NULL), text with a size, a payload. Bound without a copy: they must live
** until the statement is reset. */
struct sql_value sql_int(int64_t value);
struct sql_value sql_real(double value);
struct sql_value sql_text(const char *value);
struct sql_value sql_sized(const char *data, size_t size);
struct sql_value sql_payload(const dibs_payload *payload);

#define SQL_ARGS(...)                                                          \
  (const struct sql_value[]) {                                                 \
    __VA_ARGS__, {                                                             \
      .type = SQL_END                                                          \
    }                                                                          \
  }
#define SQL_NONE ((const struct sql_value[]){{.type = SQL_END}})

/* Run a statement that gives no rows. */
void sql_run(dibs_db *db, enum sql sql, const struct sql_value *values);

/* Start a statement and step to its first row. NULL when there is none or
** db->status is set. Otherwise step on with sql_next() until it says false, or
** leave it with sql_reset(). */
sqlite3_stmt *sql_first(dibs_db *db, enum sql sql,
                        const struct sql_value *values);
bool sql_next(dibs_db *db, sqlite3_stmt *statement);
void sql_reset(dibs_db *db, sqlite3_stmt *statement);

/* The first column of the first row; `absent` without a row or for NULL. */
int64_t sql_get(dibs_db *db, enum sql sql, const struct sql_value *values,
                int64_t absent);

/* Columns of the current row. Integers that are NULL are DIBS_UNSET, reals
** NaN, strings NULL; strings and payloads live until the next step. */
int64_t sql_column_int(dibs_db *db, sqlite3_stmt *statement, int column);
double sql_column_real(dibs_db *db, sqlite3_stmt *statement, int column);
const char *sql_column_text(dibs_db *db, sqlite3_stmt *statement, int column);
dibs_payload sql_column_payload(dibs_db *db, sqlite3_stmt *statement,
                                int column);

/* Rows changed by the last sql_run(). */
int64_t sql_changes(dibs_db *db);

/* Nothing in a file is trusted. A counter, brought into 0 to INT32_MAX; a time,
** brought into 0 to TIME_MAX (DIBS_UNSET for NULL); a name
** or key ("" for NULL), DIBS_CORRUPT when it is longer than one may be or has a
** NUL in it. */
int64_t sql_column_count(dibs_db *db, sqlite3_stmt *statement, int column);
int64_t sql_column_time(dibs_db *db, sqlite3_stmt *statement, int column);
void sql_column_key(dibs_db *db, sqlite3_stmt *statement, int column,
                    char key[KEY_SIZE]);

/* Run SQL text of several statements. */
void sql_script(dibs_db *db, const char *script);

/* Prepare what must be at hand when memory is not. */
void sql_prepare(dibs_db *db);

/* Reset every statement. */
void sql_reset_all(dibs_db *db);

/* Set the handle's error from an SQLite result code, unless one is set. */
void sql_fail(dibs_db *db, int code);

/* Finalize every cached statement. */
void sql_finalize(dibs_db *db);

/* -------------------------------------------------------------- checkpoint */

/* Whether the library in use may damage a file when a checkpoint of the WAL runs
** beside a writer. */
bool library_has_reset_bug(const dibs_db *db);

/* Say so, if it is so, unless it was said before. */
void library_warn(dibs_db *db);

/* On such a library: have no automatic checkpoints on this connection of our
** own, but wal_committed() behind each commit, when no transaction is open; and
** wal_end() before it is closed. */
void wal_start(dibs_db *db);
void wal_committed(dibs_db *db);
void wal_end(dibs_db *db);

/* Around COMMIT on a connection of our own: what it writes to the WAL goes there
** in one piece. Without memory it goes as SQLite writes it. */
void gather_begin(dibs_db *db);
void gather_end(dibs_db *db);
void gather_free(dibs_db *db);

/* A checkpoint behind an operation that found the disk full, on any library. */
void wal_make_room(dibs_db *db);

/* Try one now. False when it could not be; otherwise how many pages the WAL has,
** and how many of them are in the file. */
bool wal_move(dibs_db *db, int64_t *pages, int64_t *moved);

/* ------------------------------------------------------------- transaction */

/* Begin a transaction that may write, or one that only reads; on a host's
** connection, a part of its transaction. The time of one that may write is when
** it got the lock, however long it waited. */
void sql_begin_write(dibs_db *db);
void sql_begin_read(dibs_db *db);

/* Commit, or roll back when db->status is set (or gets set by committing). */
void sql_end(dibs_db *db);

/* Make the operations between the two calls one, which happens whole or, when it
** is not `good`, not at all. Both give a status; the second must follow if the
** first gave DIBS_OK. Only on a handle that nobody else uses meanwhile. */
int sql_whole_begin(dibs_db *db);
int sql_whole_end(dibs_db *db, bool good);

/* ---------------------------------------------------------------- conflict */

/* Refuse when two SQLite libraries of this process have the file of that name
** open: before it is opened, or once it has been read. */
void conflict_check(dibs_db *db, const char *file);

/* Whether the handle's connection to that file must stay open, because closing it
** would do harm. It is kept for as long as the process lives then. */
bool conflict_keeps(const dibs_db *db, const char *file);

/* ------------------------------------------------------------------ handle */

/* Take part in what the processes of a database share. `wake`: enum dibs_wake. */
void handle_share(dibs_db *db, int wake);

/* Start the handle's random numbers. */
void handle_seed(dibs_db *db);

/* See that the options are valid. */
void handle_options_check(dibs_db *db, const dibs_open_options *options);

/* Enter an operation: take the handle's lock, clear its error, read its
** clock. False when the handle cannot be used: return *status at once. */
bool handle_enter(dibs_db *db, int *status);

/* Leave it: give its status and release the lock. */
int handle_leave(dibs_db *db);

/* Set the handle's error, unless one is set; gives db->status. */
int handle_fail(dibs_db *db, int status, const char *format, ...)
    DIBS_PRINTF(3, 4);
int handle_nomem(dibs_db *db);

/* Whether the handle can wait: a host's connection cannot, which is an error. */
bool handle_may_wait(dibs_db *db);

/* No error. */
void handle_clear(dibs_db *db);

/* 64 random bits. */
uint64_t random_next(dibs_db *db);

/* A call that waits: handle_wait_start(), and then, again and again,
** handle_wait_look(), a look at the database, and handle_wait(), until that
** gives false or the look found something; at last handle_wait_end(). */
struct handle_wait {
  struct wait wait;
  int64_t deadline; /* by the monotonic clock */
  int64_t version;  /* without a sidecar: of the file, at the last look */
  int64_t commits;  /* the same of the handle */
  int64_t nap;      /* ms: without a sidecar, how long to sleep */
  bool unheeded;    /* there was a signal, and no look since */
  bool fallback;    /* the last sleep was as long as one may be */
};

/* For `wait` ms (DIBS_FOREVER), for the queues that match, and for the
** channels of `mask`. */
void handle_wait_start(dibs_db *db, struct handle_wait *waiting, int64_t wait,
                       const char *const *patterns, size_t count,
                       uint32_t mask);
void handle_wait_look(dibs_db *db, struct handle_wait *waiting);

/* Let others use the handle until there may be something new; `due` is when
** something will be by the handle's clock, DIBS_FOREVER for never. False when
** the wait must end: its time is over, or it was interrupted, which sets the
** error. */
bool handle_wait(dibs_db *db, struct handle_wait *waiting, int64_t due);
void handle_wait_end(dibs_db *db, struct handle_wait *waiting, bool found);

/* ------------------------------------------------------------------ attach */

/* The db of a host's connection, made when there is none; one reference more.
** DIBS_NOMEM. */
int attached_get(const dibs_provider *provider, sqlite3 *sqlite, dibs_db **out);

/* Give that reference back. */
int attached_close(dibs_db *db);

/* Enter and leave an operation on it. */
bool attached_enter(dibs_db *db, int *status);
void attached_leave(dibs_db *db);

/* Take part in what the processes of the database share, once it is known that
** it has our tables. */
void attached_share(dibs_db *db);

/* The operation under way has something to tell when the host commits. */
void attached_signal(dibs_db *db);

/* Whether an operation would be a transaction of its own now. */
bool attached_is_free(const dibs_db *db);

/* Whether an attached connection of this thread has the file of this handle
** locked. */
bool attached_blocks(const dibs_db *db);

/* --------------------------------------------------------------------- log */

/* Tell of a job once the transaction is committed. Does nothing without a log
** callback, and nothing more when memory has run out. */
void log_job(dibs_db *db, int level, const char *event, int64_t id,
             int64_t queue_id, const char *format, ...) DIBS_PRINTF(6, 7);

/* Call the callback for what was noted, or forget it. */
void log_flush(dibs_db *db);
void log_forget(dibs_db *db);

/* The same for a list of its own: put at the end of it what `from` has, which is
** empty then; keep its first `count` only; tell all. */
void log_join(struct log_list *list, struct log_list *from);
void log_cut(struct log_list *list, int count);
void log_tell(dibs_db *db, struct log_list *list);

/* ----------------------------------------------------------------- pattern */

/* The queues meant where none given means "default". */
struct patterns pattern_or_default(dibs_db *db, const char *const *items,
                                   size_t count);

/* Which queues are meant. Names and prefixes are borrowed. */
struct patterns {
  const char *const *items;
  size_t count;
};

/* Check `count` patterns of an operation. */
struct patterns pattern_check(dibs_db *db, const char *const *items,
                              size_t count);

/* Copies of patterns that have been checked, to be freed; NULL without memory. */
char **pattern_copy(struct patterns patterns);
void pattern_free(char **copies, size_t count);

bool pattern_is_name(const char *pattern);
bool pattern_matches(const char *pattern, const char *queue);

/* The names that a pattern which is none itself can match lie strictly
** between `low` and `high`. */
#define PATTERN_SIZE (DIBS_NAME_MAX + 3)
void pattern_range(const char *pattern, char low[PATTERN_SIZE],
                   char high[PATTERN_SIZE]);

/* ------------------------------------------------------------------ schema */

/* Look at the tables, and whether `create` (enum dibs_create) allows to make
** them where there are none. Writes nothing. Sets db->schema when they are
** there. */
void schema_look(dibs_db *db, int create);

/* Make them, unless they are there. Sets db->schema and db->created. */
void schema_make(dibs_db *db);

/* ------------------------------------------------------------------- place */

/* What travels with a job from placement to placement. */
struct history {
  int64_t due_at; /* DIBS_UNSET: created_at */
  int64_t attempt;
  int64_t crashes;
  int64_t lapses;
  int64_t errors;
};

/* The columns of a job's row that decide what becomes of it. */
struct job {
  int64_t id;
  int64_t queue_id;
  int64_t created_at;
  int64_t priority;
  int64_t expires_at;
  int64_t max_attempts;
  int64_t max_crashes;
  int64_t backoff;
  int64_t backoff_cap;
  int64_t keep;
  int64_t unique_scope; /* DIBS_UNSET: not unique */
  int64_t unique_for;
  double backoff_factor;
  double backoff_jitter;
  char key[KEY_SIZE];        /* "": none */
  char unique_key[KEY_SIZE]; /* "": none */
  char limit_key[KEY_SIZE];  /* "": none */
};

/* Where a job is. */
struct placement {
  int state; /* enum dibs_state; 0: there is no such job */
  struct history history;
  int64_t token;       /* running */
  int64_t until;       /* running, staged */
  int64_t holder;      /* running: as in dibs_leased; DIBS_UNSET: none */
  int64_t claimed_at;  /* running, done, dead */
  double progress;     /* running, done, dead; NaN: none */
  char *progress_text; /* owned; free with placement_free() */
  char *worker;        /* owned */
};
void placement_free(struct placement *placement);

/* The queue of that name; id 0 when there is none. */
void queue_find(dibs_db *db, const char *name, struct queue *queue);

/* The same, made when there is none. */
void queue_need(dibs_db *db, const char *name, struct queue *queue);

/* The queue has so many new ready rows: mark it, unless it is paused, and tell
** those who wait once this is committed. */
void queue_claimable(dibs_db *db, int64_t queue_id, int64_t count);

/* A claim found none: take the mark away. */
void queue_empty(dibs_db *db, int64_t queue_id);

/* Something falls due at that time. */
void event_note(dibs_db *db, int64_t at);

/* Ids of the queues that match, as a JSON array into *ids (free it), to be
** bound to SQL. NULL patterns or DIBS_ALL among them: *ids stays empty. */
void queue_ids(dibs_db *db, struct patterns patterns, struct text *ids);

/* Read a job's row. False when there is none. */
bool job_read(dibs_db *db, int64_t id, struct job *job);

/* Read what travels from five columns, in the order of HISTORY. */
void history_read(dibs_db *db, sqlite3_stmt *row, int column,
                  struct history *history);

/* Find a job's placement; state 0 when there is no such job. */
void placement_find(dibs_db *db, const struct job *job,
                    struct placement *placement);

/* The running job that the token holds, with a lease that ends after `time`.
** False when it does not. */
bool lease_read(dibs_db *db, int64_t id, int64_t token, int64_t time,
                struct job *job, struct placement *placement);

/* Take a job out of the placement that it is in. */
void placement_leave(dibs_db *db, const struct job *job,
                     const struct placement *placement);

/* Put a job to wait: in ready, or in scheduled when its due time is ahead.
** Gives the state. */
int place_waiting(dibs_db *db, const struct job *job,
                  const struct history *history);
void place_blocked(dibs_db *db, const struct job *job,
                   const struct history *history);

void place_staged(dibs_db *db, const struct job *job, int64_t until,
                  int64_t due_at);

/* Put a waiting job into its place anew: with the due time of its placement and
** another priority. */
void job_move(dibs_db *db, const struct job *job, struct placement *placement,
              int64_t priority);

/* As place_waiting() for a job that ran: one whose expiry is past becomes done. */
int place_again(dibs_db *db, const struct job *job,
                const struct placement *placement);

/* dibs_lane.head, and the setting dead_head. */
enum { LANE_WAITS, LANE_HEAD, LANE_DEAD };
enum { DEAD_HEAD_SKIP, DEAD_HEAD_BLOCK };

/* The queue's settings have changed: let go what a dead head holds no longer. */
void lanes_apply(dibs_db *db, int64_t queue_id);

/* Join the lane of the job's key, if it has one. True when it is the head. */
bool lane_join(dibs_db *db, const struct job *job);

/* Whether the job may be placed by its own time and state. */
bool lane_is_head(dibs_db *db, const struct job *job);

/* Who holds the job's unique key: a job's id, or 0. */
int64_t unique_holder(dibs_db *db, const struct job *job);
void unique_acquire(dibs_db *db, const struct job *job);

/* The job starts: let its key go if that was agreed. */
void unique_start(dibs_db *db, const struct job *job);

/* Note a failed attempt that began at placement->claimed_at. Counts it in the
** placement's history. */
void error_add(dibs_db *db, const struct job *job, struct placement *placement,
               const char *text);

/* The job, out of its placement already, is finished: keep it as done, or
** remove it. Gives DIBS_DONE. */
int job_finish(dibs_db *db, const struct job *job,
               const struct placement *placement, int outcome,
               const dibs_payload *result);

/* The same for one that failed for good. Gives DIBS_DEAD. */
int job_die(dibs_db *db, const struct job *job,
            const struct placement *placement);

/* Remove a job that is done and kept. */
void done_remove(dibs_db *db, int64_t id, int64_t queue_id);

/* Remove up to `limit` of those done jobs, the oldest, that are more than their
** queue keeps. Gives how many. */
int64_t queue_prune(dibs_db *db, int64_t queue_id, int64_t limit);

/* The queue's settings have changed: how many done jobs it keeps. */
void keeping_apply(dibs_db *db, int64_t queue_id);

/* Remove the row of a job that holds nothing else any more, and its errors, of
** which there may be none. */
void job_forget(dibs_db *db, int64_t id, int64_t errors);

/* The id that the next job gets. In a write transaction. */
int64_t id_next(dibs_db *db);

/* Remove a job that is out of its placement, with all that belongs to it. */
void job_remove(dibs_db *db, const struct job *job,
                const struct placement *placement);

/* Something of a queue will happen at that time. Those who wait will see to it
** by themselves if it is far enough; else tell them. */
void queue_due(dibs_db *db, int64_t queue_id, int64_t at);

/* A claim took so many of a queue's ready rows: they need not be told of. */
void queue_taken(dibs_db *db, const struct queue *queue, int64_t count);

/* Move up to `limit` due jobs of a queue from scheduled to ready. */
void queue_promote(dibs_db *db, int64_t queue_id, int64_t limit);

/* The same for one that expired, which its queue counts. */
void job_expire(dibs_db *db, const struct job *job,
                const struct placement *placement);

/* How long to wait after the attempt that just failed. */
int64_t job_backoff(dibs_db *db, const struct job *job, int64_t attempt);

/* Whether that was the last attempt. */
bool job_is_final(const struct job *job, int64_t attempt);

/* ------------------------------------------------------------------- limit */

/* So many starts per period. */
struct rate {
  int64_t count;  /* DIBS_UNSET: no rate */
  int64_t period; /* ms */
  int64_t burst;  /* at once, at most */
};

/* What may start of a queue; DIBS_UNSET: no limit. */
struct limits {
  int64_t limit;
  int64_t limit_per_key;
  int64_t burst; /* as set, for both rates */
  struct rate rate;
  struct rate rate_per_key;
};

void limits_read(dibs_db *db, int64_t queue_id, struct limits *limits);

/* How many jobs of the queue may start now. If none, the queue is held until one
** ends or the time has come. */
int64_t limit_allows(dibs_db *db, const struct queue *queue,
                     const struct limits *limits);

/* So many have started. */
void limit_started(dibs_db *db, const struct queue *queue,
                   const struct limits *limits, int64_t count);

/* Whether a job of that limit key ("": none) may start, and if so, it has. */
bool limit_admits(dibs_db *db, const struct queue *queue,
                  const struct limits *limits, const char *key);

/* Put a job that is not admitted, out of its placement already, to wait. */
void limit_block(dibs_db *db, const struct queue *queue, int64_t id,
                 int64_t priority, const char *key,
                 const struct history *history);

/* A running job has left its lease: what waited for that goes on. */
void limit_left(dibs_db *db, const struct job *job);

/* A job that waits, out of its placement, ends or is put off: what waited behind it
** may go on. */
void limit_passed(dibs_db *db, const struct job *job);

/* What time allows to start. */
void limits_tidy(dibs_db *db);

/* The queue's settings are about to change; and they have changed. */
void limits_before(dibs_db *db, int64_t queue_id);
void limits_apply(dibs_db *db, int64_t queue_id);

/* ---------------------------------------------------------------- settings */

/* Whether a text is a flat JSON object of strings. */
bool headers_are_flat(const char *headers);

/* The queue's defaults of its jobs' options; texts are in the arena. */
void defaults_read(dibs_db *db, int64_t queue_id, struct arena *arena,
                   dibs_job_options *options);

/* Give options that are not given the default. */
void defaults_merge(dibs_job_options *options,
                    const dibs_job_options *defaults);

/* ----------------------------------------------------------------- reclaim */

/* What a claim or a wait looks after besides its own business, if it is on it:
** give back what the dead held; tell those who wait of what was written without
** dibs. Outside of a transaction. */
void duties(dibs_db *db);

/* Within a write transaction: give a running job back whose lease ran out, or,
** with `crashed`, whose holder died. */
void attempt_lapse(dibs_db *db, const struct job *job,
                   struct placement *placement, bool crashed);

/* -------------------------------------------------------------------- tidy */

/* How many due jobs of a queue a claim makes ready before it takes any. */
#define TIDY_PROMOTED 64

/* Do a bounded part of what has fallen due: leases that ran out, jobs whose
** time has come (those of the queues that match `patterns` first), expiries,
** stages, ends of keeping. In a write transaction. */
void tidy(dibs_db *db, struct patterns patterns);

/* When the next of these falls due; DIBS_FOREVER: never. */
int64_t tidy_next(dibs_db *db);

/* Remove up to `limit` jobs whose time of keeping is over, or that are more than
** their queue keeps. Gives how many. */
int64_t tidy_prune(dibs_db *db, int64_t limit);

/* ----------------------------------------------------------------- options */

struct texts {
  const char *const *items;
  size_t count;
};

/* What may be said of a claim in JSON, and of a retry. */
struct claim_words {
  int64_t n;
  int64_t lease;
  const char *worker;
  struct texts queues;
};
struct retry_words {
  int64_t delay;
  const char *error;
};

/* Settings of a queue, as dibs_queue_set() takes them. */
struct setting_words {
  const char **names;
  const char **values;
  size_t count;
};

/* Read options from a JSON object, within an operation. What is not there is left
** as it is, a job's options excepted; strings are in the arena. */
void options_read_job(dibs_db *db, struct arena *arena, struct json_slice json,
                      dibs_job_options *options);
void options_read_claim(dibs_db *db, struct arena *arena,
                        struct json_slice json, struct claim_words *words);
void options_read_retry(dibs_db *db, struct arena *arena,
                        struct json_slice json, struct retry_words *words);
void options_read_change(dibs_db *db, struct arena *arena,
                         struct json_slice json, dibs_change_options *options);
void options_read_settings(dibs_db *db, struct arena *arena,
                           struct json_slice json, struct setting_words *words);

/* --------------------------------------------------------------------- job */

/* A list of jobs under construction; the public list is its first member. */
struct job_list {
  dibs_job_list list;
  dibs_job *jobs;
  size_t capacity;
  size_t payload; /* bytes of all payloads */
  struct arena arena;
};

struct job_list *job_list_new(dibs_db *db);

/* A new job at the end, all members unset; NULL when memory ran out. */
dibs_job *job_list_add(dibs_db *db, struct job_list *list);

/* Copy a string (NULL stays NULL) or a payload into the list. */
const char *job_list_copy(dibs_db *db, struct job_list *list,
                          const char *string);
dibs_payload job_list_payload(dibs_db *db, struct job_list *list,
                              dibs_payload payload);

/* Append the job of that id, as dibs_jobs shows it. False when there is
** none. */
bool job_list_read(dibs_db *db, struct job_list *list, int64_t id,
                   bool payload);

/* Give the list to the caller, or free it when db->status is set. */
void job_list_give(dibs_db *db, struct job_list *list, dibs_job_list **out);

/* ----------------------------------------------------------------- enqueue */

/* See that it is a payload, and not too big. */
void payload_check(dibs_db *db, const dibs_payload *payload);

/* See that jobs can be enqueued. */
void enqueue_check(dibs_db *db, const dibs_new_job *jobs, size_t count);

/* Within a write transaction: enqueue jobs that have been checked. */
void enqueue_write(dibs_db *db, const dibs_new_job *jobs, size_t count,
                   dibs_enqueued *results);

/* Whether a staged job of that id ran out of time, lately. */
bool staged_was(dibs_db *db, int64_t id);

/* ------------------------------------------------------------------- share */

bool share_open(struct share *share);

/* Wait until the line is empty. No thread may be in a call. */
void share_close(struct share *share);

/* Enqueue, sharing a commit with whoever else does so now. */
int share_enqueue(dibs_db *db, const dibs_new_job *jobs, size_t count,
                  dibs_enqueued *results);

/* ------------------------------------------------------------------- claim */

/* A claim under way. */
struct claim {
  struct patterns patterns;
  int64_t n;
  int64_t lease; /* DIBS_UNSET: the job's */
  const char *worker;
  int64_t holder; /* the leases end with it; DIBS_UNSET: by time only */
  bool in_order;
  bool full;   /* no more payload fits */
  bool more;   /* much was held back, and there is more behind it */
  int64_t due; /* when to look again after one that found nothing */
  struct job_list *list;
  const char *worker_copy; /* in the list, as are all jobs' strings */
  const char *queue;       /* of the batch under way */
};

/* Whether there is anything for a claim to do; if not, `due` is when there will
** be, at the latest. */
bool claim_look(dibs_db *db, struct patterns patterns, int64_t *due);

/* Within a write transaction: take jobs into the list. */
void claim_take(dibs_db *db, struct claim *claim);

/* ------------------------------------------------------------------ settle */

/* See that an outcome is one that can be had; its status says why not. */
void settlement_check(dibs_db *db, dibs_settlement *settlement);

/* Within a write transaction: settle one that has been checked, its lease being
** valid if it ends after `time`. */
void settlement_run(dibs_db *db, dibs_settlement *settlement, int64_t time);

/* ------------------------------------------------------------------ engine */

/* Called while the engine's handle waits for another writer. False when it is to
** wait no longer. */
bool engine_wait(dibs_engine *engine);

#endif
