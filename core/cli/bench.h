/* SPDX-License-Identifier: MIT */
/*
** bench.h: `dibs bench`, how fast this machine is at it.
*/
#ifndef DIBS_CLI_BENCH_H
#define DIBS_CLI_BENCH_H

#include "dibs.h"

/* What `dibs bench` was asked to do. Everything is borrowed. */
struct bench_options {
  const char *folder;            /* where to make the temporary databases;
                                 ** NULL: the current one */
  int64_t jobs;                  /* jobs a figure and round; default 20000 */
  int64_t payload;               /* bytes of a payload; default 100 */
  int64_t rounds;                /* figures are medians of so many; default 5 */
  int json;                      /* a line of JSON a figure */
  int markdown;                  /* a Markdown table */
  const dibs_open_options *open; /* busy timeout and payload limit */
};

/*
** Measure and print. Returns the exit code of the program: 0, 130 when
** interrupted, else that of a status. Errors are printed through cli_error().
*/
int bench_run(const struct bench_options *options);

#endif
