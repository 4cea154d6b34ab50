/* SPDX-License-Identifier: MIT */
/*
** environment.h: the variables that tell a command of its job.
*/
#ifndef DIBS_CLI_ENVIRONMENT_H
#define DIBS_CLI_ENVIRONMENT_H

#include "dibs.h"

struct environment {
  char **list;   /* for execve(): the job's variables, then the worker's own;
                 ** NULL: not open */
  char *db_path; /* DIBS_DB: absolute, for commands may run anywhere */
};

/* Take over the worker's own environment. Returns 0 or ENOMEM. */
int environment_open(struct environment *environment, const char *db_path);

/* Set the variables of a job. Returns 0 or ENOMEM. */
int environment_fill(struct environment *environment, const dibs_job *job);

void environment_close(struct environment *environment);

#endif
