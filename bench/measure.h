/* SPDX-License-Identifier: MIT */
/*
** measure.h: what the measuring programs share: time, medians, files that go
** away, and calls that must succeed.
*/
#ifndef DIBS_BENCH_MEASURE_H
#define DIBS_BENCH_MEASURE_H

#include <stddef.h>
#include <stdint.h>

#include "dibs.h"

/* Seconds of a clock that never jumps. */
double seconds(void);

/* The value that half of them do not exceed. Sorts them. */
double median(double *values, size_t count);

/* The value of the option --NAME, or `otherwise`. Ends the program when it is
** no number. */
int64_t option_number(int argc, char **argv, const char *name,
                      int64_t otherwise);
/* The same for text, and for what is no option: the first such word. */
const char *option_text(int argc, char **argv, const char *name,
                        const char *otherwise);

/* A new folder in `where`, removed with all it holds when the program ends,
** by a signal too. */
const char *scratch_folder(const char *where);

/* A path in it. Borrowed; there are few. */
const char *scratch_path(const char *name);

/* Open a database, or end the program. */
dibs_db *db_open(const char *path, int synchronous);

/* End the program with the handle's error when a call did not succeed. */
void must(dibs_db *db, int status);

/* End the program with a message. */
_Noreturn void give_up(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

/* JSON of that many bytes, 2 at least. Owned by the caller. */
char *json_of(size_t size);

/* Print what machine this is, with the file system of the scratch folder. */
void print_machine(void);

#endif
