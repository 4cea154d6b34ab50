/* SPDX-License-Identifier: MIT */
/*
** worker.c: `dibs worker`, which runs a command for each job.
**
** One thread, one loop. Each turn of it
**
**     settles   what has ended since the last turn, in one transaction
**     extends   leases of which a third is over, in one transaction
**     ends      commands that are out of time or that a stop does not wait for
**     claims    as many jobs as slots are free, in one transaction
**     starts    a command for each
**     waits     until a command says something or ends, a signal comes, or
**               the next of all these is due
**
** A slot is free, running or over. Running: a command is at work, or being
** ended, and `ending` tells why. Over: the command has ended, and what is to
** become of the job waits in the slot until the database has taken it. Slots
** that are over keep their leases.
**
** The database may be busy, full or unreachable for a while. Whatever was to
** be done stays where it is and is tried again, after a pause that grows from
** 0.1 s to 5 s; this is said once, and once more when it is over. So that a
** signal or a timeout is not kept waiting, the handle waits for other writers
** a second at a time, and only the whole of --busy-timeout counts as trouble.
**
** The first TERM or INT stops claiming and waits for running commands up to
** the grace, the second waits no longer, the third kills.
*/
#include "worker.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "environment.h"
#include "journal.h"
#include "output.h"
#include "process.h"
#include "verdict.h"

#define DEFAULT_LEASE 15000 /* ms */
#define DEFAULT_GRACE 30000 /* ms */
#define SLOTS_MAX     DIBS_CLAIM_MAX
#define BUSY_SLICE    1000 /* ms that one call waits for other writers */
#define BUSY_PAUSE    10   /* ms between two such calls */
#define PAUSE_FIRST   100  /* ms before trying again */
#define PAUSE_LAST    5000 /* ms, at most */
#define IDLE_FIRST    5    /* ms before looking for jobs again */
#define IDLE_LAST     100  /* ms, at most */
#define RELEASE_PAUSE 100  /* ms: what a command gave back is not for now */
#define STOP_KILL     2000 /* ms from TERM to KILL when stopping */
#define STOP_SETTLE   5000 /* ms that a stop waits for the database */
#define NEVER         INT64_MAX
#define LONGEST       315360000000 /* ms: ten years; more is the same */
#define EXTEND_LEAST  10           /* ms between two extensions */
#define CLAIM_MOST    100          /* jobs claimed and started in one turn */

enum slot_state { FREE, RUNNING, OVER };

struct slot {
  enum slot_state state;
  enum ending ending;
  struct journal_job job; /* strings owned, but for `error` */
  char *receipt;          /* owned */
  int64_t started;        /* steady ms */
  int64_t ended;          /* steady ms; of a slot that is over */
  int64_t extend_at;      /* steady ms */
  int64_t deadline;       /* steady ms; NEVER: no timeout */
  int64_t timeout;        /* ms */
  int64_t kill_at;        /* steady ms; NEVER: not asked to end, or killed */
  int action;             /* of a slot that is over: enum dibs_action */
  char *error;            /* owned; why, or NULL */
  struct process process;
};

/* Something that fails for a while, and is tried again. */
struct trouble {
  int64_t since;    /* steady ms; 0: all is well */
  int64_t retry_at; /* steady ms */
  int64_t pause;    /* ms */
  int said;
};

struct worker {
  const struct worker_options *options;
  dibs_db *db;
  struct process_host host;
  struct journal journal;
  struct tally tally;
  int signal_fd;
  sigset_t old_mask;
  int relay; /* commands' stdout shares our status line's screen */
  char name[DIBS_NAME_MAX + 1]; /* recorded as the holder of jobs */
  struct environment environment;
  int64_t lease;        /* ms */
  int64_t extend_every; /* ms */
  int64_t grace;        /* ms */
  int64_t busy_timeout; /* ms */
  size_t result_limit;  /* bytes */
  struct slot *slots;
  size_t slot_count;
  size_t busy;                  /* slots that are not free */
  size_t over;                  /* slots that are over */
  dibs_settlement *settlements; /* room for each slot */
  struct slot **settled;        /* whose they are */
  struct pollfd *polled;
  struct slot **polled_slots; /* whose they are; NULL: our own */
  int64_t claims_left;        /* jobs that may still be claimed */
  int64_t look_at;            /* steady ms: look for jobs then */
  int64_t idle;               /* ms to the look after that */
  int empty;                  /* nothing found, and nothing ended since */
  int stops;                  /* signals to stop that have come */
  int64_t stop_at;            /* steady ms: end what is still running */
  int64_t give_up_at;         /* steady ms: leave, settled or not */
  int exit_code;
  struct trouble database;
  struct trouble spawning;
};

static int64_t earlier(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static int64_t later(int64_t a, int64_t b) {
  return a > b ? a : b;
}

/* ------------------------------------------------------------------------ */
/* Trouble                                                                  */
/* ------------------------------------------------------------------------ */

static int passes(int status) {
  return status == DIBS_BUSY || status == DIBS_SNAPSHOT ||
         status == DIBS_FULL || status == DIBS_IO || status == DIBS_NOMEM;
}

static void trouble_pause(struct trouble *trouble, int64_t now, int64_t most) {
  if (!trouble->since) trouble->since = now;
  trouble->pause = trouble->pause ? 2 * trouble->pause : PAUSE_FIRST;
  if (trouble->pause > most) trouble->pause = most;
  trouble->retry_at = now + trouble->pause;
}

static void trouble_over(struct worker *worker, struct trouble *trouble,
                         const char *text) {
  if (trouble->said) journal_say(&worker->journal, "recovered", text, NULL);
  *trouble = (struct trouble){0};
}

/* Stop, with so much time for what is running. */
static void stop_in(struct worker *worker, int64_t grace) {
  worker->stop_at = steady_ms() + grace;
  worker->give_up_at = worker->stop_at + STOP_KILL + STOP_SETTLE;
}

/* What does not pass ends the worker. */
static void database_lost(struct worker *worker) {
  journal_yield(&worker->journal);
  worker->exit_code = cli_db_error(worker->db);
  if (!worker->stops) worker->stops = 1;
  stop_in(worker, 0);
}

static void database_said(struct worker *worker, int status) {
  if (worker->database.said) return;
  worker->database.said = 1;
  if (passes(status))
    journal_say(&worker->journal, "trouble",
                "the database cannot be used, trying again",
                dibs_error(worker->db));
  else
    database_lost(worker);
}

static void database_failed(struct worker *worker, int status) {
  struct trouble *trouble = &worker->database;
  int64_t now = steady_ms();
  int64_t most = earlier(worker->extend_every, PAUSE_LAST);
  trouble_pause(trouble, now, later(most, PAUSE_FIRST));
  if (status == DIBS_BUSY) {
    trouble->retry_at = now + BUSY_PAUSE;
    if (now - trouble->since < worker->busy_timeout) return;
  }
  database_said(worker, status);
}

/* Nonzero when the call succeeded. */
static int database_did(struct worker *worker, int status) {
  if (status == DIBS_OK || status == DIBS_EMPTY) {
    trouble_over(worker, &worker->database, "the database can be used again");
    return 1;
  }
  database_failed(worker, status);
  return 0;
}

static int database_rests(const struct worker *worker, int64_t now) {
  return worker->database.since && now < worker->database.retry_at;
}

/* ------------------------------------------------------------------------ */
/* Slots                                                                    */
/* ------------------------------------------------------------------------ */

static void slot_free(struct worker *worker, struct slot *slot) {
  if (slot->state == OVER) worker->over--;
  if (slot->state == RUNNING) worker->tally.running--;
  process_clear(&slot->process);
  free((char *)slot->job.queue);
  free((char *)slot->job.name);
  free(slot->receipt);
  free(slot->error);
  slot->job.queue = slot->job.name = NULL;
  slot->receipt = slot->error = NULL;
  slot->state = FREE;
  slot->ending = NOT_ENDING;
  worker->busy--;
}

static struct slot *slot_take(struct worker *worker) {
  struct slot *slot = worker->slots;
  while (slot->state != FREE) slot++; /* there is one: who claims counts them */
  worker->busy++;
  return slot;
}

/* The job waits for being settled. `error` is taken over. */
static void slot_over(struct worker *worker, struct slot *slot, int action,
                      char *error) {
  if (slot->state == RUNNING) worker->tally.running--;
  if (slot->state != OVER) worker->over++;
  slot->state = OVER;
  slot->ended = steady_ms();
  slot->action = action;
  free(slot->error);
  slot->error = error;
}

static void say_job(struct worker *worker, const struct slot *slot,
                    const char *event, const char *text, const char *error,
                    int64_t due_at) {
  struct journal_job job = slot->job;
  job.ms = slot->started ? slot->ended - slot->started : -1;
  job.error = error;
  job.due_at = due_at;
  journal_job(&worker->journal, event, text, &job);
}

/* ------------------------------------------------------------------------ */
/* Settle                                                                   */
/* ------------------------------------------------------------------------ */

static void settlement_of(const struct worker *worker, const struct slot *slot,
                          dibs_settlement *settlement) {
  memset(settlement, 0, sizeof *settlement);
  settlement->receipt = slot->receipt;
  settlement->action = slot->action;
  settlement->delay = DIBS_UNSET;
  settlement->lease = DIBS_UNSET;
  settlement->error = slot->error;
  if (slot->action == DIBS_ACK && worker->options->result)
    settlement->result = verdict_result(&slot->process);
}

static void say_settled(struct worker *worker, const struct slot *slot,
                        const dibs_settlement *settlement) {
  struct tally *tally = &worker->tally;
  int64_t due_at = settlement->state == DIBS_SCHEDULED ? settlement->until : -1;
  if (slot->action == DIBS_ACK) {
    tally->done++;
    if (worker->options->json) say_job(worker, slot, "done", "", NULL, -1);
  } else if (slot->action == DIBS_RELEASE) {
    tally->released++;
    say_job(worker, slot, "released", "released", slot->error, -1);
  } else if (settlement->state == DIBS_DEAD) {
    tally->failed++;
    say_job(worker, slot, "failed", "failed for good", slot->error, -1);
  } else {
    tally->retried++;
    say_job(worker, slot, "retried", "to be retried", slot->error, due_at);
  }
}

static void say_lost(struct worker *worker, const struct slot *slot) {
  worker->tally.lost++;
  say_job(worker, slot, "lost",
          "cancelled, settled or taken over meanwhile; its end is void", NULL,
          -1);
}

static char *text_of(const char *format, const char *argument) {
  char *text;
  return asprintf(&text, format, argument) < 0 ? NULL : text;
}

/* An acknowledgement that is refused is a failed attempt, and then there is
** nothing left to refuse. */
static void settled_one(struct worker *worker, struct slot *slot,
                        const dibs_settlement *settlement) {
  if (settlement->status == DIBS_OK) {
    say_settled(worker, slot, settlement);
  } else if (settlement->status == DIBS_LOST) {
    say_lost(worker, slot);
  } else if (slot->action == DIBS_ACK) {
    slot_over(worker, slot, DIBS_RETRY,
              text_of("the result was refused: %s", settlement->message));
    return;
  } else {
    say_job(worker, slot, "error", "could not be settled", settlement->message,
            -1);
  }
  slot_free(worker, slot);
}

/* All that is over, in one transaction. */
static void settle(struct worker *worker, int64_t now) {
  size_t count = 0;
  if (!worker->over || database_rests(worker, now)) return;
  for (size_t i = 0; i < worker->slot_count; i++) {
    if (worker->slots[i].state != OVER) continue;
    settlement_of(worker, &worker->slots[i], &worker->settlements[count]);
    worker->settled[count++] = &worker->slots[i];
  }
  if (!database_did(worker,
                    dibs_settle(worker->db, worker->settlements, count)))
    return;
  worker->empty = 0;
  for (size_t i = 0; i < count; i++)
    settled_one(worker, worker->settled[i], &worker->settlements[i]);
}

/* ------------------------------------------------------------------------ */
/* End commands                                                             */
/* ------------------------------------------------------------------------ */

/* A stopped command takes the signal only when it goes on. */
static void ask_to_end(struct slot *slot, enum ending why, int64_t kill_at) {
  slot->ending = why;
  slot->kill_at = kill_at;
  process_signal(&slot->process, SIGTERM);
  process_signal(&slot->process, SIGCONT);
}

static void end_one(struct worker *worker, struct slot *slot, int64_t now) {
  int stopping = worker->stops && now >= worker->stop_at;
  if (slot->ending == NOT_ENDING && now >= slot->deadline)
    ask_to_end(slot, TIMED_OUT, now + worker->grace);
  if (slot->ending == NOT_ENDING && stopping)
    ask_to_end(slot, STOPPED, now + STOP_KILL);
  if (stopping && slot->kill_at != NEVER && slot->kill_at > now + STOP_KILL)
    slot->kill_at = now + STOP_KILL;
  if (now < slot->kill_at && worker->stops < 3) return;
  process_signal(&slot->process, SIGKILL);
  slot->kill_at = NEVER;
}

static void end_commands(struct worker *worker, int64_t now) {
  for (size_t i = 0; i < worker->slot_count; i++)
    if (worker->slots[i].state == RUNNING)
      end_one(worker, &worker->slots[i], now);
}

/* ------------------------------------------------------------------------ */
/* Extend                                                                   */
/* ------------------------------------------------------------------------ */

static void lost_one(struct worker *worker, struct slot *slot, int64_t now) {
  if (slot->state == RUNNING) {
    ask_to_end(slot, LOST, now + worker->grace);
    return;
  }
  say_lost(worker, slot);
  slot_free(worker, slot);
}

static void extended_one(struct worker *worker, struct slot *slot,
                         const dibs_settlement *settlement, int64_t now) {
  slot->extend_at = now + worker->extend_every;
  if (settlement->status == DIBS_LOST) lost_one(worker, slot, now);
}

/* Those that are due, and with them those that are nearly due. */
static void extend(struct worker *worker, int64_t now) {
  int due = 0;
  size_t count = 0;
  if (!worker->busy || database_rests(worker, now)) return;
  for (size_t i = 0; i < worker->slot_count; i++) {
    struct slot *slot = &worker->slots[i];
    dibs_settlement *settlement = &worker->settlements[count];
    if (slot->state == FREE || slot->ending == LOST) continue;
    if (now < slot->extend_at - worker->extend_every / 2) continue;
    due |= now >= slot->extend_at;
    memset(settlement, 0, sizeof *settlement);
    settlement->receipt = slot->receipt;
    settlement->action = DIBS_EXTEND;
    settlement->delay = DIBS_UNSET;
    settlement->lease = worker->lease;
    worker->settled[count++] = slot;
  }
  if (!due || !database_did(
                  worker, dibs_settle(worker->db, worker->settlements, count)))
    return;
  for (size_t i = 0; i < count; i++)
    extended_one(worker, worker->settled[i], &worker->settlements[i], now);
}

/* ------------------------------------------------------------------------ */
/* Start                                                                    */
/* ------------------------------------------------------------------------ */

static void slot_fill(struct worker *worker, struct slot *slot,
                      const dibs_job *job, int64_t now) {
  int64_t timeout = job->timeout;
  if (timeout == DIBS_UNSET) timeout = worker->options->timeout;
  slot->job.id = job->id;
  slot->job.queue = strdup(job->queue);
  slot->job.name = job->name ? strdup(job->name) : NULL;
  slot->job.attempt = job->attempt;
  slot->job.max_attempts = job->max_attempts;
  slot->receipt = strdup(job->receipt);
  slot->started = 0;
  slot->ended = now;
  slot->extend_at = now + worker->extend_every;
  slot->timeout = timeout;
  slot->deadline = NEVER;
  if (timeout > 0 && timeout <= LONGEST) slot->deadline = now + timeout;
  slot->kill_at = NEVER;
}

static int start_command(struct worker *worker, struct slot *slot,
                         const dibs_job *job) {
  const struct worker_options *options = worker->options;
  struct process_plan plan = {0};
  int rc = environment_fill(&worker->environment, job);
  if (rc) return rc;
  plan.command = options->command;
  plan.environment = worker->environment.list;
  if (job->payload.kind != DIBS_PAYLOAD_NONE) {
    plan.input = job->payload.data;
    plan.input_size = job->payload.size;
  }
  plan.output = worker->relay ? PROCESS_RELAY : PROCESS_INHERIT;
  if (options->result) plan.output = PROCESS_COLLECT;
  plan.output_limit = worker->result_limit;
  return process_start(&worker->host, &slot->process, &plan);
}

/* The job goes back untouched, and the next one is claimed a little later. */
static void start_failed(struct worker *worker, struct slot *slot, int error) {
  struct trouble *trouble = &worker->spawning;
  trouble_pause(trouble, steady_ms(), PAUSE_LAST);
  worker->look_at = trouble->retry_at;
  if (worker->claims_left < NEVER) worker->claims_left++;
  if (!trouble->said)
    journal_say(&worker->journal, "trouble",
                "no command can be started, trying again", strerror(error));
  trouble->said = 1;
  slot_over(worker, slot, DIBS_RELEASE,
            text_of("no command could be started: %s", strerror(error)));
}

static void start(struct worker *worker, const dibs_job *job, int64_t now) {
  struct slot *slot = slot_take(worker);
  int rc;
  slot_fill(worker, slot, job, now);
  rc = start_command(worker, slot, job);
  if (rc) {
    start_failed(worker, slot, rc);
    return;
  }
  slot->state = RUNNING;
  slot->started = now;
  worker->tally.running++;
  trouble_over(worker, &worker->spawning, "commands can be started again");
}

/* ------------------------------------------------------------------------ */
/* Claim                                                                    */
/* ------------------------------------------------------------------------ */

static int64_t claimable(const struct worker *worker) {
  int64_t free_slots = (int64_t)(worker->slot_count - worker->busy);
  if (worker->stops) return 0;
  return free_slots < worker->claims_left ? free_slots : worker->claims_left;
}

static void claimed(struct worker *worker, dibs_job_list *jobs) {
  int64_t now = steady_ms();
  worker->empty = 0;
  worker->idle = IDLE_FIRST;
  worker->look_at = now;
  if (worker->claims_left < NEVER) worker->claims_left -= (int64_t)jobs->count;
  for (size_t i = 0; i < jobs->count; i++) start(worker, &jobs->jobs[i], now);
  dibs_job_list_free(jobs);
}

/* Look again a little later, and when something falls due. What is due already
** is none of ours, or the claim would have found it. */
static void found_nothing(struct worker *worker) {
  int64_t due = DIBS_UNSET;
  int64_t wait = worker->idle;
  worker->empty = 1;
  if (dibs_next_event(worker->db, &due) == DIBS_OK && due != DIBS_UNSET) {
    int64_t left = due - dibs_now(worker->db);
    if (left > 0 && left < wait) wait = left;
  }
  worker->look_at = steady_ms() + wait;
  worker->idle = 2 * worker->idle < IDLE_LAST ? 2 * worker->idle : IDLE_LAST;
}

static void claim(struct worker *worker, int64_t now) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  const struct worker_options *asked = worker->options;
  dibs_job_list *jobs;
  int rc;
  options.n = earlier(claimable(worker), CLAIM_MOST);
  if (options.n <= 0 || now < worker->look_at || database_rests(worker, now))
    return;
  options.lease = worker->lease;
  options.worker = worker->name;
  rc = dibs_claim(worker->db, asked->queues, asked->queue_count, &options,
                  &jobs);
  if (!database_did(worker, rc)) return;
  if (rc == DIBS_OK)
    claimed(worker, jobs);
  else
    found_nothing(worker);
}

/* ------------------------------------------------------------------------ */
/* A command has ended                                                      */
/* ------------------------------------------------------------------------ */

static void over_by_status(struct worker *worker, struct slot *slot,
                           int status) {
  int action = verdict_action(slot->ending, worker->stops, status);
  char *error = NULL;
  if (action == DIBS_ACK && slot->process.output_over) {
    slot_over(worker, slot, DIBS_RETRY,
              text_of("the result is too long%s", ""));
    return;
  }

  if (action != DIBS_ACK)
    error = verdict_error(&slot->process, slot->ending, slot->timeout, status);
  slot_over(worker, slot, action, error);
  if (action == DIBS_RELEASE) worker->look_at = slot->ended + RELEASE_PAUSE;
}

/* It could be run when the worker began; now it cannot. */
static void command_gone(struct worker *worker, struct slot *slot, int error) {
  const char *command = worker->options->command[0];
  int first = worker->exit_code != dibs_status_exit_code(DIBS_INVALID);
  slot_over(worker, slot, DIBS_RELEASE,
            text_of("the command could not be run: %s", strerror(error)));
  if (!first) return;
  journal_yield(&worker->journal);
  worker->exit_code =
      cli_error(DIBS_INVALID, "cannot run '%s': %s", command, strerror(error));
  worker->claims_left = 0;
}

static void command_ended(struct worker *worker, struct slot *slot,
                          const struct process_end *end) {
  int well = end->status == 0;
  process_read_rest(&slot->process, journal_relay, &worker->journal);
  process_bury(&worker->host, &slot->process, well);
  worker->empty = 0;
  worker->look_at = steady_ms();
  slot->ended = steady_ms();
  if (end->failure) {
    command_gone(worker, slot, end->failure);
  } else if (slot->ending == LOST) {
    say_lost(worker, slot);
    slot_free(worker, slot);
  } else {
    over_by_status(worker, slot, end->status);
  }
}

static struct slot *slot_of(struct worker *worker, pid_t pid) {
  for (size_t i = 0; i < worker->slot_count; i++)
    if (worker->slots[i].process.pid == pid) return &worker->slots[i];
  return NULL;
}

static void child_ended(struct worker *worker, const struct process_end *end) {
  struct slot *slot = slot_of(worker, end->pid);
  if (slot) {
    command_ended(worker, slot, end);
  } else if (process_guard_ended(&worker->host, end)) {
    for (size_t i = 0; i < worker->slot_count; i++)
      process_guard(&worker->host, &worker->slots[i].process);
  } else {
    waitpid(end->pid, NULL, 0); /* somebody's who became us by exec */
  }
}

static void reap(struct worker *worker) {
  struct process_end end;
  while (process_reap(&worker->host, &end)) child_ended(worker, &end);
}

/* ------------------------------------------------------------------------ */
/* Signals                                                                  */
/* ------------------------------------------------------------------------ */

static void stop_signal(struct worker *worker) {
  worker->stops++;
  stop_in(worker, worker->stops == 1 ? worker->grace : 0);
  if (worker->stops == 1 && worker->tally.running)
    journal_say(&worker->journal, "stopping",
                "stopping when the running commands have ended; a second "
                "signal ends them",
                NULL);
}

/* Stops are noted before ends: an end may come from the same stop. */
static void take_signals(struct worker *worker) {
  struct signalfd_siginfo info;
  int children = 0;
  while (read(worker->signal_fd, &info, sizeof info) == sizeof info) {
    if (info.ssi_signo == SIGCHLD)
      children = 1;
    else
      stop_signal(worker);
  }
  if (children) reap(worker);
}

/* Whoever started us with a signal ignored, as nohup does and a shell does in
** the background, wants it ignored: a blocked one would come all the same. */
static void signal_add(sigset_t *set, int number) {
  struct sigaction action;
  if (sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
    return;
  sigaddset(set, number);
}

static int signals_open(struct worker *worker) {
  sigset_t set;
  sigemptyset(&set);
  signal_add(&set, SIGINT);
  signal_add(&set, SIGHUP);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGCHLD);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGCHLD, SIG_DFL); /* ignored, it would leave no zombies to ask */
  sigprocmask(SIG_BLOCK, &set, &worker->old_mask);
  worker->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  return worker->signal_fd < 0 ? errno : 0;
}

/* ------------------------------------------------------------------------ */
/* Wait                                                                     */
/* ------------------------------------------------------------------------ */

static int64_t slot_due(const struct worker *worker, const struct slot *slot,
                        int64_t rest) {
  int64_t due = NEVER;
  if (slot->state == FREE) return NEVER;
  if (slot->state == OVER) due = rest;
  if (slot->state == RUNNING && slot->ending == NOT_ENDING) {
    due = earlier(due, slot->deadline);
    if (worker->stops) due = earlier(due, worker->stop_at);
  }
  if (slot->ending != LOST) due = earlier(due, later(slot->extend_at, rest));
  return earlier(due, slot->kill_at);
}

/* When there will be something to do that nobody announces. */
static int64_t next_due(const struct worker *worker) {
  int64_t rest = worker->database.since ? worker->database.retry_at : 0;
  int64_t due = NEVER;
  if (claimable(worker) > 0) due = later(worker->look_at, rest);
  for (size_t i = 0; i < worker->slot_count; i++)
    due = earlier(due, slot_due(worker, &worker->slots[i], rest));
  if (worker->stops && !worker->tally.running)
    due = earlier(due, worker->give_up_at);
  return due;
}

static int wait_for(const struct worker *worker) {
  int64_t wait = next_due(worker) - steady_ms();
  int64_t most = worker->journal.terminal ? 250 : 60000;
  if (wait < 0) return 0;
  return (int)earlier(wait, most);
}

static void gather_fd(struct worker *worker, nfds_t *count, int fd,
                      struct slot *slot) {
  if (fd < 0) return;
  worker->polled[*count] = (struct pollfd){fd, slot ? POLLIN : POLLOUT, 0};
  worker->polled_slots[(*count)++] = slot;
}

/* The commands' come last, so that they can be left out. */
static nfds_t gather_fds(struct worker *worker) {
  nfds_t count = 1;
  worker->polled[0] = (struct pollfd){worker->signal_fd, POLLIN, 0};
  worker->polled_slots[0] = NULL;
  if (journal_flush(&worker->journal))
    gather_fd(worker, &count, worker->journal.fd, NULL);
  if (journal_full(&worker->journal)) return count;
  for (size_t i = 0; i < worker->slot_count; i++) {
    struct slot *slot = &worker->slots[i];
    gather_fd(worker, &count, slot->process.error_fd, slot);
    gather_fd(worker, &count, slot->process.output_fd, slot);
  }
  return count;
}

static void read_commands(struct worker *worker, nfds_t count) {
  for (nfds_t i = 0; i < count; i++) {
    struct slot *slot = worker->polled_slots[i];
    if (slot && worker->polled[i].revents)
      process_read(&slot->process, journal_relay, &worker->journal);
  }
}

static void wait_for_events(struct worker *worker) {
  nfds_t count = gather_fds(worker);
  if (poll(worker->polled, count, wait_for(worker)) > 0)
    read_commands(worker, count);
  take_signals(worker);
}

/* ------------------------------------------------------------------------ */
/* The loop                                                                 */
/* ------------------------------------------------------------------------ */

static int finished(const struct worker *worker) {
  if (worker->stops && steady_ms() >= worker->give_up_at &&
      !worker->tally.running)
    return 1;
  if (worker->busy) return 0;
  return worker->stops || worker->claims_left <= 0 ||
         (worker->options->drain && worker->empty);
}

static void turn(struct worker *worker) {
  int64_t now = steady_ms();
  settle(worker, now);
  extend(worker, now);
  end_commands(worker, now);
  claim(worker, now);
}

static void work(struct worker *worker) {
  for (;;) {
    turn(worker);
    if (finished(worker)) return;
    journal_status(&worker->journal, &worker->tally);
    wait_for_events(worker);
  }
}

/* ------------------------------------------------------------------------ */
/* Beginning and end                                                        */
/* ------------------------------------------------------------------------ */

static void name_open(struct worker *worker) {
  char host[HOST_NAME_MAX + 1] = "";
  if (gethostname(host, sizeof host) != 0 || !*host) strcpy(host, "localhost");
  host[HOST_NAME_MAX] = 0;
  snprintf(worker->name, sizeof worker->name, "%s:%ld", host, (long)getpid());
  if (worker->options->worker)
    snprintf(worker->name, sizeof worker->name, "%s", worker->options->worker);
}

/* On one screen, commands' stdout has to go through us, or it would write into
** the status line. */
static int shares_screen(const struct journal *journal) {
  struct stat out, error;
  if (!journal->terminal || !isatty(1)) return 0;
  if (fstat(1, &out) != 0 || fstat(2, &error) != 0) return 0;
  return out.st_rdev == error.st_rdev;
}

static int slots_open(struct worker *worker) {
  size_t count = worker->slot_count;
  worker->slots = calloc(count, sizeof *worker->slots);
  worker->settlements = calloc(count, sizeof *worker->settlements);
  worker->settled = calloc(count, sizeof *worker->settled);
  worker->polled = calloc(2 * count + 2, sizeof *worker->polled);
  worker->polled_slots = calloc(2 * count + 2, sizeof *worker->polled_slots);
  if (!worker->slots || !worker->settlements || !worker->settled ||
      !worker->polled || !worker->polled_slots)
    return 0;
  for (size_t i = 0; i < count; i++) process_init(&worker->slots[i].process);
  return 1;
}

static int64_t value_or(int64_t value, int64_t otherwise) {
  return value == DIBS_UNSET ? otherwise : value;
}

static void settings_open(struct worker *worker,
                          const struct worker_options *options) {
  int64_t most = value_or(options->max_jobs, NEVER);
  memset(worker, 0, sizeof *worker);
  worker->options = options;
  worker->signal_fd = -1;
  worker->slot_count = options->slots > 0 ? (size_t)options->slots : 1;
  worker->lease = earlier(value_or(options->lease, DEFAULT_LEASE), LONGEST);
  worker->extend_every = later(worker->lease / 3, EXTEND_LEAST);
  worker->grace = earlier(value_or(options->grace, DEFAULT_GRACE), LONGEST);
  worker->busy_timeout =
      value_or(options->open->busy_timeout, DIBS_DEFAULT_BUSY_TIMEOUT);
  worker->result_limit =
      (size_t)value_or(options->open->max_payload, DIBS_PAYLOAD_MAX);
  worker->claims_left = options->once ? 1 : most;
  worker->idle = IDLE_FIRST;
  name_open(worker);
}

static int db_open(struct worker *worker) {
  dibs_open_options open = *worker->options->open;
  open.busy_timeout = earlier(worker->busy_timeout, BUSY_SLICE);
  if (dibs_open(worker->options->db_path, &open, &worker->db) != DIBS_OK)
    return cli_db_error(worker->db);
  return 0;
}

static int cannot_start(int error) {
  return cli_error(DIBS_IO, "the worker cannot start: %s", strerror(error));
}

/* The guard comes first: it must not have the database open. */
static int worker_open(struct worker *worker) {
  int rc = process_host_open(&worker->host);
  if (rc) return cannot_start(rc);
  rc = signals_open(worker);
  if (rc) return cannot_start(rc);
  rc = db_open(worker);
  if (rc) return rc;
  if (!slots_open(worker) ||
      environment_open(&worker->environment, worker->options->db_path) != 0)
    return cli_error(DIBS_NOMEM, "%s", dibs_error(NULL));
  journal_open(&worker->journal, worker->options->json);
  worker->relay = shares_screen(&worker->journal);
  return 0;
}

static void worker_close(struct worker *worker) {
  for (size_t i = 0; worker->slots && i < worker->slot_count; i++)
    if (worker->slots[i].state != FREE) slot_free(worker, &worker->slots[i]);
  dibs_close(worker->db);
  process_host_close(&worker->host);
  if (worker->signal_fd >= 0) {
    close(worker->signal_fd);
    sigprocmask(SIG_SETMASK, &worker->old_mask, NULL);
  }
  environment_close(&worker->environment);
  free(worker->slots);
  free(worker->settlements);
  free(worker->settled);
  free(worker->polled);
  free(worker->polled_slots);
}

/* Jobs that could not be settled come back when their leases run out. */
static int left_behind(struct worker *worker) {
  if (!worker->busy) return worker->exit_code;
  if (worker->exit_code) return worker->exit_code;
  return cli_error(DIBS_BUSY,
                   "%zu jobs could not be settled before the stop: they run "
                   "again when their leases have run out",
                   worker->busy);
}

static int check_options(const struct worker_options *options) {
  int rc;
  if (options->slots > SLOTS_MAX)
    return cli_error(DIBS_INVALID, "-j is %lld: at most %d is allowed",
                     (long long)options->slots, SLOTS_MAX);
  if (options->lease != DIBS_UNSET && options->lease <= 0)
    return cli_error(DIBS_INVALID, "--lease 0: a lease has to have a length");
  rc = process_find(options->command[0]);
  if (rc)
    return cli_error(DIBS_INVALID, "cannot run '%s': %s", options->command[0],
                     strerror(rc));
  return 0;
}

int worker_run(const struct worker_options *options) {
  struct worker worker;
  int rc = check_options(options);
  if (rc) return rc;
  settings_open(&worker, options);
  rc = worker_open(&worker);
  if (!rc) {
    work(&worker);
    journal_sum(&worker.journal, &worker.tally);
    journal_close(&worker.journal);
    rc = left_behind(&worker);
  }
  worker_close(&worker);
  return rc;
}
