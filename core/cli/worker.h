/* SPDX-License-Identifier: MIT */
/*
** worker.h: `dibs worker`, which runs a command for each job.
*/
#ifndef DIBS_CLI_WORKER_H
#define DIBS_CLI_WORKER_H

#include "dibs.h"

/* What `dibs worker` was asked to do. Everything is borrowed. */
struct worker_options {
  const char *db_path;           /* the database; never NULL */
  const dibs_open_options *open; /* how to open it */
  const char *const *queues;     /* patterns; none: "default" */
  size_t queue_count;            /* how many patterns */
  int64_t slots;                 /* -j: commands at a time; default 1 */
  int64_t lease;                 /* ms; DIBS_UNSET: 15 s */
  int64_t timeout;               /* ms for jobs that name none; DIBS_UNSET:
                                 ** as long as they like */
  int64_t grace;                 /* ms between asking and killing;
                                 ** DIBS_UNSET: 30 s */
  const char *worker;            /* name to record; NULL: HOST:PID */
  int result;                    /* keep stdout, JSON, as the job's result */
  int once;                      /* stop after one job */
  int drain;                     /* stop when there is nothing to do */
  int json;                      /* log lines as JSON */
  int64_t max_jobs;              /* stop after so many; DIBS_UNSET: never */
  char *const *command;          /* CMD ARG..., ends with NULL */
};

/*
** Work until told to stop. Returns the exit code of the program: 0 when
** everything it held was settled or released, 2 when the command cannot be
** run, else that of a status. Errors are printed through cli_error().
*/
int worker_run(const struct worker_options *options);

#endif
