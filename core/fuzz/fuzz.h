/* SPDX-License-Identifier: MIT */
/*
** fuzz.h: what the fuzz targets share.
**
** Each fuzz_NAME.c is one libFuzzer target. It turns its input into calls of
** the public interface and holds what comes back against what the header
** promises; a broken promise aborts, and libFuzzer keeps the input. Random
** input alone only finds crashes, so the promises are the better half: a text
** that is no JSON must not be taken, a receipt that was not given must not
** settle, bytes come back as they went in.
**
** An input must do the same each time. So time stands still in fuzz_now, and a
** database that inputs share is emptied after each.
*/
#ifndef DIBS_FUZZ_H
#define DIBS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "dibs.h"

/* What libFuzzer calls. */
int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ------------------------------------------------------------------------ */
/* Promises                                                                 */
/* ------------------------------------------------------------------------ */

/* Abort, saying where and what, unless the condition holds. */
#define REQUIRE(condition)                                                     \
  do {                                                                         \
    if (!(condition)) fuzz_fail(__FILE__, __LINE__, #condition);               \
  } while (0)

_Noreturn void fuzz_fail(const char *file, int line, const char *what);

/* What fuzz_fail() shows besides; borrowed, NULL: nothing. */
extern const char *fuzz_about;

/* A set of statuses, to be joined with |. */
#define STATUS(name) (UINT32_C(1) << DIBS_##name)

/*
** Abort unless a call's status is one of `allowed` and the handle tells the
** same, with a text that can be shown to people. Returns the status.
*/
#define EXPECT(db, allowed, call)                                              \
  fuzz_expect(__FILE__, __LINE__, #call, (db), (allowed), (call))

int fuzz_expect(const char *file, int line, const char *what, dibs_db *db,
                uint32_t allowed, int status);

/* Abort unless the job's JSON is one line of valid JSON that holds the job's
** id and its payload. */
void fuzz_check_job(const dibs_job *job);

/* fuzz_check_job() for each job of a list. */
void fuzz_check_jobs(const dibs_job_list *jobs);

/* ------------------------------------------------------------------------ */
/* Second opinions                                                          */
/* ------------------------------------------------------------------------ */

/* Nonzero for well-formed UTF-8: no overlong forms, surrogates or more than
** U+10FFFF. */
int fuzz_is_utf8(const char *text, size_t size);

/* Nonzero when SQLite takes the text for JSON, and its keys are strings. */
int fuzz_is_json(const char *text, size_t size);

/* Nonzero when the text nests too deep for SQLite's JSON functions to judge. */
int fuzz_is_deep(const char *text, size_t size);

/* Milliseconds since 1970 of an RFC 3339 text, as SQLite reads it. */
int64_t fuzz_sqlite_time(const char *text);

/* ------------------------------------------------------------------------ */
/* Databases and input                                                      */
/* ------------------------------------------------------------------------ */

#define FUZZ_START INT64_C(1750000000000)

extern int64_t fuzz_now; /* what the clock of every handle shows */

/* Options for dibs_open() with the clock above and a short busy timeout. */
dibs_open_options fuzz_open_options(void);

/* A new database in memory. */
dibs_db *fuzz_open_memory(void);

/* A folder for files, removed at exit: beneath TMPDIR, else /tmp. Borrowed. */
const char *fuzz_folder(void);

/* A copy of bytes with a NUL behind it, exactly as long, so that reading past
** its end is seen. Free it. */
char *fuzz_text(const void *data, size_t size);

#endif
