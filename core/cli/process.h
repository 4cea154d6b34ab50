/* SPDX-License-Identifier: MIT */
/*
** process.h: commands of a worker: start them, read what they say, end them,
** and see that none outlives its worker. Knows nothing of jobs.
*/
#ifndef DIBS_CLI_PROCESS_H
#define DIBS_CLI_PROCESS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#define PROCESS_TAIL 4096 /* bytes kept of the end of stderr */

/* What all commands of a worker share. */
struct process_host {
  pid_t guard;         /* the process that ends the groups of a dead worker */
  int guard_fd;        /* tells it of groups; its end tells of our death */
  int failure_fds[2];  /* a child that cannot run its command says why */
  struct rlimit files; /* the limit that commands get back */
};

/* Where a command's stdout goes. */
enum process_output {
  PROCESS_INHERIT, /* to the worker's stdout */
  PROCESS_RELAY,   /* to the sink of process_read() */
  PROCESS_COLLECT  /* into memory */
};

/* What to run. Everything is borrowed for the call. */
struct process_plan {
  char *const *command;       /* CMD ARG..., ends with NULL */
  char *const *environment;   /* ends with NULL */
  const void *input;          /* stdin; NULL: an empty one */
  size_t input_size;          /* bytes of it */
  enum process_output output; /* where stdout goes */
  size_t output_limit;        /* bytes collected at most */
};

/* One command; process_init() before the first process_start(). */
struct process {
  pid_t pid;                   /* its process and its group; 0: none */
  int error_fd;                /* reads its stderr; -1: closed */
  int output_fd;               /* reads its stdout; -1: not, or closed */
  int collect;                 /* stdout is collected, not relayed */
  size_t tail_size;            /* bytes in `tail` */
  int tail_cut;                /* something stood before them */
  char tail[2 * PROCESS_TAIL]; /* the end of its stderr */
  char *output;                /* stdout as collected; owned */
  size_t output_size;          /* bytes of it */
  size_t output_room;          /* bytes allocated */
  size_t output_limit;         /* bytes at most */
  int output_over;             /* there was more than that, or no memory */
};

/* How a command ended. */
struct process_end {
  pid_t pid;   /* which */
  int status;  /* as of waitpid() */
  int failure; /* errno when it could not be run at all, else 0 */
};

/* Takes what a command wrote. */
typedef void (*process_sink)(void *context, const char *data, size_t size);

/*
** Start the guard. Call it before anything is open that a forked process had
** better not have, as a database. Returns 0 or errno.
*/
int process_host_open(struct process_host *host);

/* End the guard. No command may be left. */
void process_host_close(struct process_host *host);

/*
** Whether a command can be run, looked for as a shell would: 0, or ENOENT,
** EACCES.
*/
int process_find(const char *command);

/* Nothing runs, nothing is held. */
void process_init(struct process *process);

/* Start a command in a process group of its own. Returns 0 or errno. That the
** command itself cannot be run is told by process_reap(). */
int process_start(struct process_host *host, struct process *process,
                  const struct process_plan *plan);

/* Read what is there to be read, some 64 KiB of stderr and of stdout at most,
** without waiting. What is not collected goes to the sink. */
void process_read(struct process *process, process_sink sink, void *context);

/* Read all that is left, once the command has ended. What it left running may
** hold the pipes and write on: nobody waits for that. */
void process_read_rest(struct process *process, process_sink sink,
                       void *context);

/* Send a signal to the command's group. */
void process_signal(const struct process *process, int signal);

/*
** Look whether a child has ended. Returns 1 and sets *end; it stays a zombie,
** and its number its own, until process_bury(). 0: none has.
*/
int process_reap(struct process_host *host, struct process_end *end);

/* Start the guard anew when it is the child that has ended. Nonzero when it
** was; it must then be told of the live commands with process_guard(). */
int process_guard_ended(struct process_host *host,
                        const struct process_end *end);
void process_guard(struct process_host *host, const struct process *process);

/*
** Forget a command that has ended. What it left running in its group goes on
** by itself when `spare` is nonzero, and is killed otherwise. What it said can
** still be looked at.
*/
void process_bury(struct process_host *host, struct process *process,
                  int spare);

/* Free what a buried command leaves. */
void process_clear(struct process *process);

/* The end of stderr, cut between characters. Borrowed until the next read. */
const char *process_tail(const struct process *process, size_t *size);

#endif
