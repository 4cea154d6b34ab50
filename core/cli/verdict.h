/* SPDX-License-Identifier: MIT */
/*
** verdict.h: what the end of a command says of its job.
*/
#ifndef DIBS_CLI_VERDICT_H
#define DIBS_CLI_VERDICT_H

#include "dibs.h"
#include "process.h"

/* Why a command is being ended. */
enum ending {
  NOT_ENDING,
  TIMED_OUT,
  LOST,   /* its lease: cancelled, settled or taken over */
  STOPPED /* by the worker's stop, when the grace was over */
};

/*
** What becomes of the job: enum dibs_action. `stopping`: the worker has been
** told to stop. A timeout is a failed attempt, whatever the command makes of
** the signal; a stop is none, unless the command says so.
*/
int verdict_action(enum ending ending, int stopping, int status);

/* Why, in UTF-8: "exit 3: what stderr said last". `timeout` in ms. NULL when
** memory ran out; free it with free(). */
char *verdict_error(const struct process *process, enum ending ending,
                    int64_t timeout, int status);

/* The collected stdout without the white space around it; nothing but white
** space is no result. Borrowed from the process. */
dibs_payload verdict_result(const struct process *process);

#endif
