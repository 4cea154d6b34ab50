/* SPDX-License-Identifier: MIT */
/*
** harness.h: what every test of the core stands on.
**
** A fixture is a fresh folder with a database in it, an open handle, and a
** clock that stands still until the test moves it. When the test is over the
** fixture closes the handle and looks at what is left: a connection that was
** not closed, a statement that was not finalized, a descriptor that leaked, a
** file that fails its integrity check, or a row that breaks a rule of the
** schema makes the test fail.
**
** A test file lists its tests with TEST() and ends with a main() that runs
** them:
**
**     static void a_thing_holds(void **state) {
**       fixture *f = *state;
**       int64_t id = put(f, "q", "1");
**       expect_state(f, id, DIBS_READY);
**     }
**
** The expectations print what was seen. Call them on the main thread only:
** cmocka ends a test by a long jump.
*/
#ifndef DIBS_HARNESS_H
#define DIBS_HARNESS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dibs.h>
#include <sqlite3.h>

/* ---- The fixture -------------------------------------------------------- */

#define START  INT64_C(1700000000000) /* the clock of a new fixture */
#define SECOND INT64_C(1000)
#define MINUTE INT64_C(60000)
#define HOUR   INT64_C(3600000)
#define DAY    INT64_C(86400000)

typedef struct fixture {
  char folder[96];     /* removed with all that is in it at the end */
  char path[128];      /* of the database */
  dibs_db *db;         /* open on it; a test may close it and set it to NULL */
  _Atomic int64_t now; /* what the clock says */
  int descriptors;     /* open before the handle was */
} fixture;

/* Setup and teardown of a test. */
int fixture_setup(void **state);
int fixture_setup_closed(void **state); /* leaves the handle unopened */
int fixture_setup_memory(void **state); /* the database is in memory */
int fixture_teardown(void **state);

#define TEST(name)                                                             \
  cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
#define TEST_CLOSED(name)                                                      \
  cmocka_unit_test_setup_teardown(name, fixture_setup_closed, fixture_teardown)
#define TEST_MEMORY(name)                                                      \
  cmocka_unit_test_setup_teardown(name, fixture_setup_memory, fixture_teardown)

/* The same for code that runs without cmocka: 0, or -1 and a message. */
int fixture_make(fixture *f);
int fixture_end(fixture *f);

/* The options that the fixture opens its handle with: its clock, and less
** waiting for the disk. */
dibs_open_options fixture_options(fixture *f);

/* Another handle on the same file; the test closes it. */
dibs_db *open_another(fixture *f);

/* Close the fixture's handle and open it again. */
void reopen(fixture *f);

/* The fixture's clock; the context is the fixture. */
int64_t fixture_clock(void *context);

/* Close the fixture's handle and check that nothing of it is left. */
void close_checked(fixture *f);

/* How many connections that the library opened are still open. */
int connections_open(void);

/* Called for each statement that a connection of the library begins, with its
** text; NULL: no more. Takes effect for connections opened after. */
void on_statement(void (*callback)(const char *sql));

/* Open the fixture's handle anew, and count what work its statements are from then
** on: how many steps SQLite's machine has taken since it was last asked. That is
** the same on every machine and at every time, and tells what reads rows that it
** does not use. */
void steps_watch(fixture *f);
int64_t steps_taken(void);

/* How many times as long a test may take: sanitizers and valgrind are slow.
** Long tests divide their work by it. */
int slowness(void);

/* The number in the environment's `name`, or `otherwise`. */
int64_t environment_number(const char *name, int64_t otherwise);

/* ---- The sidecar --------------------------------------------------------- */

/* Its counters: signals sent, sleeps that one ended, and waits that found
** something only because they looked by themselves after the fallback. */
enum sidecar_count { SIGNALS, WAKES, RESCUES };
uint64_t sidecar_counter(fixture *f, enum sidecar_count which);

/* Keep monitors from starting, which let a waiter look when the file was
** written, and so would hide a wake that is missing. Before anybody waits.
** Close the descriptor in the end. */
int monitors_stop(fixture *f);

/* ---- The database behind the library's back ------------------------------ */

/* Run SQL on the file with a plain connection. `sql` is a format. */
void raw_run(fixture *f, const char *sql, ...)
    __attribute__((format(printf, 2, 3)));

/* The same, returning SQLite's result code; `message` (512 bytes, may be NULL)
** receives SQLite's words. */
int raw_try(fixture *f, char message[512], const char *sql, ...)
    __attribute__((format(printf, 3, 4)));

/* The first column of the first row: a number, or -1 for NULL or no row. */
int64_t raw_int(fixture *f, const char *sql, ...)
    __attribute__((format(printf, 2, 3)));

/* The same as text, "" for NULL or no row; it lives until the next call. */
const char *raw_text(fixture *f, const char *sql, ...)
    __attribute__((format(printf, 2, 3)));

/* A plain connection that the harness does not count; close it with
** sqlite3_close(). The flags are those of sqlite3_open_v2();
** with a URI the VFS is the one it names. */
sqlite3 *plain_open(const char *path);
sqlite3 *plain_open_as(const char *path, int flags);

/*
** Check the file: SQLite's integrity check, and the rules of the schema. True
** when all hold; else says on stderr which did not.
*/
int file_is_sound(const char *path);

/* The same for a connection. */
int database_is_sound(sqlite3 *db);

/*
** All rows of dibs's tables as text, without what may differ between two runs
** of the same thing: tokens, and columns that are only hints. Free with free().
*/
char *database_dump(const char *path);

/* Copy a database that nobody has open, and remove one with its companions. */
void file_copy(const char *from, const char *to);
void file_remove(const char *path);

/* Run a function with the fixture's folder in a process that may mount file
** systems, which nobody else sees. It gives 0 when all was as it should be, and
** MOUNTS_REFUSED where nothing can be mounted, which skips the test. */
#define MOUNTS_REFUSED 77
void run_with_mounts(fixture *f, int (*function)(const char *folder));

/* ---- Jobs in few words --------------------------------------------------- */

/* Options of a job with nothing set. */
dibs_job_options no_options(void);

/* Enqueue, and fail the test unless that worked. `json` NULL: no payload. */
int64_t put(fixture *f, const char *queue, const char *json);
int64_t put_with(fixture *f, const char *queue, const char *json,
                 const dibs_job_options *options);

/* A claimed job, copied. */
typedef struct held {
  int64_t id;
  int64_t attempt;
  int64_t lease_until;
  char receipt[64];
  char queue[256];
} held;

/* Claim one job of a queue or pattern, and fail the test if there is none. */
held take(fixture *f, const char *queue);
held take_for(fixture *f, const char *queue, int64_t lease);

/* Claim one job of a queue; its id, or 0 if there is none. */
int64_t try_take(fixture *f, const char *queue);

/* Fail the test unless a claim on the queue finds nothing. */
void expect_nothing(fixture *f, const char *queue);

/* What dibs_get() says, copied. */
typedef struct seen {
  int state;
  int outcome;
  int64_t priority;
  int64_t attempt;
  int64_t max_attempts;
  int64_t crashes;
  int64_t created_at;
  int64_t due_at;
  int64_t claimed_at;
  int64_t lease_until;
  int64_t finished_at;
  int64_t expires_at;
  int64_t timeout;
  int64_t lease;
  double progress;
  int payload_kind;
  size_t payload_size;
  char payload[256]; /* its beginning, NUL-terminated */
  char queue[256];
  char name[256];
  char key[256];
  char headers[256];
  char worker[256];
  char result[256];
  char last_error[256];
  size_t error_count;
  dibs_job_error errors[DIBS_ERRORS_KEPT + 1]; /* without the texts */
  char error_texts[DIBS_ERRORS_KEPT + 1][64];
} seen;

/* Look at a job, and fail the test if it is gone. */
seen look(fixture *f, int64_t id);

/* Nonzero when the job is gone. */
int gone(fixture *f, int64_t id);

/* Counts of one queue. The name is not kept. */
dibs_queue_stats counts(fixture *f, const char *queue);

/* ---- Expectations -------------------------------------------------------- */

void check_status(dibs_db *db, int status, int wanted, const char *text,
                  const char *file, int line);
void check_int(int64_t value, int64_t wanted, const char *text,
               const char *file, int line);
void check_text(const char *value, const char *wanted, const char *text,
                const char *file, int line);
void check_says(const char *value, const char *part, const char *text,
                const char *file, int line);
void check_true(int value, const char *text, const char *file, int line);
void check_state(fixture *f, int64_t id, int wanted, const char *file,
                 int line);

/* A call returns this status. The message has the handle's words. */
#define expect_status(db, call, wanted)                                        \
  check_status((db), (call), (wanted), #call, __FILE__, __LINE__)
#define expect_ok(db, call) expect_status(db, call, DIBS_OK)

/* Two numbers or two strings are the same. */
#define expect_int(value, wanted)                                              \
  check_int((int64_t)(value), (int64_t)(wanted), #value, __FILE__, __LINE__)
#define expect_text(value, wanted)                                             \
  check_text((value), (wanted), #value, __FILE__, __LINE__)

/* A text has another in it. */
#define expect_says(value, part)                                               \
  check_says((value), (part), #value, __FILE__, __LINE__)

#define expect_true(value) check_true(!!(value), #value, __FILE__, __LINE__)

/* A job is in this state. */
#define expect_state(f, id, wanted)                                            \
  check_state((f), (id), (wanted), __FILE__, __LINE__)

#define expect_gone(f, id) expect_true(gone((f), (id)))

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
