/* SPDX-License-Identifier: MIT */
/*
** journal.h: what `dibs worker` writes to stderr: what its commands write
** there, a line for each job that did not simply succeed, the status line.
*/
#ifndef DIBS_CLI_JOURNAL_H
#define DIBS_CLI_JOURNAL_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* What became of the jobs of this worker. */
struct tally {
  int64_t running;
  int64_t done;
  int64_t retried;
  int64_t failed; /* to the dead letters */
  int64_t released;
  int64_t lost; /* their lease, while they ran */
};

struct journal {
  int fd;             /* a descriptor of stderr that does not block; -1 */
  int polled;         /* it might: ask before each write */
  int broken;         /* nobody reads any more */
  int json;           /* lines are JSON objects */
  int terminal;       /* stderr is one: there is a status line */
  int line_open;      /* a command's line has no end yet */
  int shown;          /* the status line is on the screen */
  int64_t started;    /* steady ms */
  int64_t drawn;      /* steady ms of the last status line */
  int64_t drawn_done; /* jobs done at the last one */
  double rate;        /* jobs per second as shown */
  struct tally last;  /* what the last status line said */
  char *data;         /* not written yet; owned */
  size_t size;        /* bytes of it */
  size_t room;        /* bytes allocated */
};

/* A job as lines speak of it. Strings may be NULL. */
struct journal_job {
  int64_t id;
  const char *queue;
  const char *name;
  int64_t attempt;
  int64_t max_attempts; /* 0: unlimited */
  int64_t ms;           /* how long it ran; negative: it did not */
  int64_t due_at;       /* when it runs again; negative: not said */
  const char *error;
};

/* Milliseconds of a clock that never jumps and counts a suspended machine's
** time too, as leases do. */
int64_t steady_ms(void);

void journal_open(struct journal *journal, int json);

/* Write what is left, for a second at most, and close. */
void journal_close(struct journal *journal);

/* Pass on what a command wrote: a process_sink, whose context is the
** journal. */
void journal_relay(void *context, const char *data, size_t size);

/* A line about a job: `event` is one word, `text` says it to people. */
void journal_job(struct journal *journal, const char *event, const char *text,
                 const struct journal_job *job);

/* A line about the worker itself; `detail` may be NULL. */
void journal_say(struct journal *journal, const char *event, const char *text,
                 const char *detail);

/* The last line. */
void journal_sum(struct journal *journal, const struct tally *tally);

/* Show the status line, when it is time and something has changed. Nonzero when
** it will have something new to show though nothing happens. */
int journal_status(struct journal *journal, const struct tally *tally);

/* Take the status line away and write everything, before somebody else writes
** to stderr. */
void journal_yield(struct journal *journal);

/* Write what can be written without waiting. Nonzero when something is left:
** then poll for POLLOUT. */
int journal_flush(struct journal *journal);

/* Nonzero when so much is left that commands had better wait. */
int journal_full(const struct journal *journal);

#endif
