/* SPDX-License-Identifier: MIT */
/*
** measure.h: what the measuring programs share: time, medians, options, files
** and processes that go away, and calls that must succeed.
*/
#ifndef DIBS_BENCH_MEASURE_H
#define DIBS_BENCH_MEASURE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "dibs.h"

/* ------------------------------------------------------------------------ */
/* Time                                                                     */
/* ------------------------------------------------------------------------ */

/* Seconds, and nanoseconds, of a clock that never jumps and is the same for all
** processes. */
double seconds(void);
int64_t nanoseconds(void);

void sleep_microseconds(double microseconds);

/* A random number from `least` to `most`, of a sequence that is the same in
** every run. */
double random_between(double least, double most);

/* ------------------------------------------------------------------------ */
/* Values                                                                   */
/* ------------------------------------------------------------------------ */

/* The value that half of them do not exceed. Sorts them. */
double median(double *values, size_t count);

/* The value that this share of them, 0 to 1, does not exceed; 1 is the
** greatest. They are sorted. */
void values_sort(double *values, size_t count);
double value_at(const double *sorted, size_t count, double share);

/* A median with the least and the most: what came of several rounds. */
struct spread {
  double median;
  double least;
  double most;
};
struct spread spread_of(double *values, size_t count);

/* Print one of ratios, 28 characters wide. */
void print_ratio(struct spread spread);

/* ------------------------------------------------------------------------ */
/* Options                                                                  */
/* ------------------------------------------------------------------------ */

/* When --help is asked for, print the text and end the program. End it, too,
** when there is an option that the text does not name. */
void options_check(int argc, char **argv, const char *help);

/* The value of the option --NAME, or `otherwise`. Ends the program when it is
** no number. */
int64_t option_number(int argc, char **argv, const char *name,
                      int64_t otherwise);
/* The same for text, and for what is no option: the first such word. */
const char *option_text(int argc, char **argv, const char *name,
                        const char *otherwise);

/* The numbers of the option --NAME, as "2,4,8"; `most` at most. Gives how many.
** */
size_t option_numbers(int argc, char **argv, const char *name,
                      const char *otherwise, int64_t *numbers, size_t most);
/* The option --synchronous, "normal" or "full". */
int option_synchronous(int argc, char **argv, const char *otherwise);
const char *synchronous_name(int synchronous);

/* ------------------------------------------------------------------------ */
/* Files                                                                    */
/* ------------------------------------------------------------------------ */

/* A new folder in `where`, removed with all it holds when the program ends,
** by a signal too. */
const char *scratch_folder(const char *where);

/* A path in it. Borrowed; there are few. */
const char *scratch_path(const char *name);

/* Remove a database with its companions. */
void database_remove(const char *path);

/* ------------------------------------------------------------------------ */
/* Processes                                                                */
/* ------------------------------------------------------------------------ */

/* Memory of zeros that children share. */
void *shared_memory(size_t size);
void shared_free(void *memory, size_t size);

/* Fork: 0 in the child, which ends with this process at the latest. A child
** ends by _exit(). */
pid_t child_start(void);

/* Wait until so many children have ended, and end the program if one failed. */
void children_end(size_t count);

/* Kill a child, and wait for its end. */
void child_kill(pid_t pid);

/* Where processes and threads begin together. In shared memory. */
struct gate {
  _Atomic uint32_t arrived;
  _Atomic uint32_t open;
};
/* Arrive, and wait until it is open. */
void gate_wait(struct gate *gate);
/* Open it, once so many have arrived. */
void gate_open(struct gate *gate, uint32_t count);

/* A word that others may have mapped, too: sleep while it has that value; wake
** those who do. */
void futex_wait(_Atomic uint32_t *word, uint32_t value);
void futex_wake(_Atomic uint32_t *word);

/* ------------------------------------------------------------------------ */
/* dibs                                                                     */
/* ------------------------------------------------------------------------ */

/* Open a database, or end the program. */
dibs_db *db_open(const char *path, int synchronous);

/* End the program with the handle's error when a call did not succeed. */
void must(dibs_db *db, int status);

/* End the program with a message. */
_Noreturn void give_up(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

/* The counters on the board of a database's sidecar (the layout is at the head
** of core/src/sidecar.c). Ends the program when there is no such sidecar. */
struct counters {
  int64_t signals; /* sent */
  int64_t wakes;   /* waiters that woke by one */
  int64_t writes;  /* transactions that wrote, or would have */
  int64_t rescues; /* waits that found something by the fallback only */
};
const void *board_open(const char *path);
struct counters board_counters(const void *board);
int64_t board_waiters(const void *board);

/* JSON of that many bytes, 2 at least. Owned by the caller. */
char *json_of(size_t size);

/* Print what machine this is, with the file system of the scratch folder, and
** how busy it was before the program began. */
void print_machine(void);

#endif
