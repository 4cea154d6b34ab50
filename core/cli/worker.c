/* SPDX-License-Identifier: MIT */
/*
** worker.c: `dibs worker`, which runs a command for each job.
**
** The engine (dibs.h) claims, keeps leases, notices what is lost and settles,
** in threads of its own. What stands here is one thread, one loop. Each turn of
** it
**
**     tells     what has become of jobs that were handed to the engine
**     starts    a command for each job that the engine has
**     ends      commands that are out of time, whose job is lost, or that a stop
**               does not wait for
**     hands     over to the engine what is to become of jobs whose command has
**               ended
**     waits     until a command says something or ends, a signal comes, the
**               engine rings the bell, or the next of all these is due
**
** A slot is one job, from when the engine gives it until the engine has told
** what became of it. Waiting: no command can be started just now. Running: a
** command is at work, or being ended, and `ending` tells why. Over: the command
** has ended, and the job is about to be handed over. Handed: it is the engine's;
** the slot only remembers what is to be said of it.
**
** The bell is what the engine's threads may touch: a list of news, flags, and
** an eventfd that the loop polls.
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

#include "bell.h"
#include "environment.h"
#include "journal.h"
#include "output.h"
#include "process.h"
#include "verdict.h"

#define DEFAULT_LEASE 15000 /* ms */
#define DEFAULT_GRACE 30000 /* ms */
#define SLOTS_MAX     DIBS_CLAIM_MAX
#define PAUSE_FIRST   100  /* ms before trying to start a command again */
#define PAUSE_LAST    5000 /* ms, at most */
#define RELEASE_PAUSE 100  /* ms from a start to giving the job back */
#define STOP_KILL     2000 /* ms from TERM to KILL when stopping */
#define STOP_SETTLE   5000 /* ms that a stop waits for the database */
#define NEVER         INT64_MAX
#define LONGEST       315360000000 /* ms: ten years; more is the same */
#define START_MOST    100          /* commands started in one turn */
#define STATUS_WAIT   250          /* ms to the next status line */

enum slot_state { WAITING, RUNNING, OVER, HANDED };

struct slot {
  struct slot *next; /* in the list of all */
  struct slot *previous;
  struct news news; /* what became of the job */
  enum slot_state state;
  enum ending ending;
  dibs_run *run;          /* the engine's; gone once handed over */
  struct journal_job job; /* its strings are these: */
  char queue[DIBS_NAME_MAX + 1];
  char name[DIBS_NAME_MAX + 1];
  int64_t started;  /* steady ms; 0: not yet */
  int64_t ended;    /* steady ms; of a slot that is over */
  int64_t deadline; /* steady ms; NEVER: no timeout */
  int64_t timeout;  /* ms */
  int64_t kill_at;  /* steady ms; NEVER: not to be killed, or killed */
  int64_t hand_at;  /* steady ms; of a slot that is over */
  int action;       /* of a slot that is over: enum dibs_action */
  char *error;      /* owned; why, or NULL */
  struct process process;
};

struct worker {
  const struct worker_options *options;
  dibs_engine *engine;
  struct bell bell;
  struct process_host host;
  struct journal journal;
  struct tally tally;
  int signal_fd;
  sigset_t old_mask;
  int relay; /* commands' stdout shares our status line's screen */
  char name[DIBS_NAME_MAX + 1]; /* recorded as the holder of jobs */
  struct environment environment;
  int64_t grace;       /* ms */
  size_t result_limit; /* bytes */
  size_t slot_count;
  struct slot *slots; /* all, doubly linked */
  size_t held;        /* how many were not handed over yet */
  size_t handed;      /* how many were */
  struct pollfd *polled;
  struct slot **polled_slots; /* whose they are; NULL: our own */
  int taking;                 /* the engine may have more jobs */
  int closed;                 /* the engine gives no more */
  int stops;                  /* signals to stop that have come */
  int64_t stop_at;            /* steady ms: end what is still running */
  int exit_code;
  int troubled;     /* it was said that the database cannot be used */
  size_t waiting;   /* slots whose command could not be started */
  int64_t start_at; /* steady ms: try that again */
  int64_t pause;    /* ms to the try after that */
};

static int64_t earlier(int64_t a, int64_t b) {
  return a < b ? a : b;
}

/* ------------------------------------------------------------------------ */
/* Slots                                                                    */
/* ------------------------------------------------------------------------ */

static struct slot *slot_new(void) {
  struct slot *slot = calloc(1, sizeof *slot);
  if (!slot) return NULL;
  slot->news.slot = slot;
  process_init(&slot->process);
  return slot;
}

static void slot_free(struct slot *slot) {
  process_clear(&slot->process);
  free(slot->error);
  free(slot);
}

static void slot_add(struct worker *worker, struct slot *slot) {
  slot->next = worker->slots;
  if (slot->next) slot->next->previous = slot;
  worker->slots = slot;
  worker->held++;
}

/* A slot whose job is not the worker's any more. */
static void slot_end(struct worker *worker, struct slot *slot) {
  if (slot->state == HANDED)
    worker->handed--;
  else
    worker->held--;
  if (slot->previous)
    slot->previous->next = slot->next;
  else
    worker->slots = slot->next;
  if (slot->next) slot->next->previous = slot->previous;
  slot_free(slot);
}

/* It is to end as soon as it can. */
static int is_stopping(const struct worker *worker) {
  return worker->stops || worker->exit_code;
}

/* When the job is to be handed over. What a command gives back is not for now:
** at once, it might be claimed at once by this same worker. */
static int64_t hand_time(const struct worker *worker, const struct slot *slot) {
  if (slot->action != DIBS_RELEASE || worker->closed || is_stopping(worker))
    return slot->ended;
  return slot->started + RELEASE_PAUSE;
}

/* The job waits for being handed over. `error` is taken over. */
static void slot_over(struct worker *worker, struct slot *slot, int action,
                      char *error) {
  if (slot->state == RUNNING) worker->tally.running--;
  if (slot->state == WAITING) worker->waiting--;
  slot->state = OVER;
  slot->ended = steady_ms();
  slot->action = action;
  slot->hand_at = hand_time(worker, slot);
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

static char *text_of(const char *format, const char *argument) {
  char *text;
  return asprintf(&text, format, argument) < 0 ? NULL : text;
}

/* ------------------------------------------------------------------------ */
/* Stopping                                                                 */
/* ------------------------------------------------------------------------ */

/* Stop, with so much time for what is running. */
static void stop_in(struct worker *worker, int64_t grace) {
  worker->stop_at = steady_ms() + grace;
  dibs_engine_stop_begin(worker->engine);
}

/* What does not pass ends the worker. */
static void database_lost(struct worker *worker, int status) {
  journal_yield(&worker->journal);
  if (!worker->exit_code)
    worker->exit_code =
        cli_error(status, "%s", dibs_engine_error(worker->engine));
  if (!worker->stops) worker->stops = 1;
  stop_in(worker, 0);
}

/* ------------------------------------------------------------------------ */
/* Tell                                                                     */
/* ------------------------------------------------------------------------ */

static void say_settled(struct worker *worker, const struct slot *slot) {
  struct tally *tally = &worker->tally;
  const dibs_settlement *settlement = &slot->news.settlement;
  int64_t due_at = settlement->state == DIBS_SCHEDULED ? settlement->until : -1;
  if (settlement->action == DIBS_ACK) {
    tally->done++;
    if (worker->options->json) say_job(worker, slot, "done", "", NULL, -1);
  } else if (settlement->action == DIBS_RELEASE) {
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

static void say_recovered(struct worker *worker) {
  if (worker->troubled)
    journal_say(&worker->journal, "recovered", "the database can be used again",
                NULL);
  worker->troubled = 0;
}

/* The engine tells of a recovery only after what was settled by it. */
static void tell_settled(struct worker *worker, struct slot *slot) {
  const dibs_settlement *settlement = &slot->news.settlement;
  say_recovered(worker);
  if (settlement->status == DIBS_OK)
    say_settled(worker, slot);
  else if (settlement->status == DIBS_LOST)
    say_lost(worker, slot);
  else
    say_job(worker, slot, "error", "could not be settled", settlement->message,
            -1);
  slot_end(worker, slot);
}

static void tell_database(struct worker *worker, struct news *news) {
  if (news->level == DIBS_LEVEL_OK) {
    say_recovered(worker);
  } else if (news->level == DIBS_LEVEL_WARNING) {
    journal_say(&worker->journal, "trouble",
                "the database cannot be used, trying again", news->text);
    worker->troubled = 1;
  } else {
    worker->taking = 1; /* which will say why it cannot go on */
  }
  news_free(news);
}

static void tell(struct worker *worker) {
  struct news *news = bell_take(&worker->bell), *next;
  for (; news; news = next) {
    next = news->next;
    if (news->slot)
      tell_settled(worker, news->slot);
    else
      tell_database(worker, news);
  }
}

/* ------------------------------------------------------------------------ */
/* Start                                                                    */
/* ------------------------------------------------------------------------ */

static void slot_fill(struct worker *worker, struct slot *slot, dibs_run *run) {
  const dibs_job *job = run->job;
  slot->timeout = job->timeout;
  if (slot->timeout == DIBS_UNSET) slot->timeout = worker->options->timeout;
  slot->job.id = job->id;
  snprintf(slot->queue, sizeof slot->queue, "%s", job->queue);
  slot->job.queue = slot->queue;
  snprintf(slot->name, sizeof slot->name, "%s", job->name ? job->name : "");
  slot->job.name = job->name ? slot->name : NULL;
  slot->job.attempt = job->attempt;
  slot->job.max_attempts = job->max_attempts;
  slot->deadline = slot->kill_at = NEVER;
  slot->state = WAITING;
  worker->waiting++;
  slot_add(worker, slot);
  slot->run = run;
  run->context = &slot->news;
}

static int start_command(struct worker *worker, struct slot *slot) {
  const struct worker_options *options = worker->options;
  const dibs_job *job = slot->run->job;
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

/* No memory, processes or descriptors: try again a little later. */
static void start_failed(struct worker *worker, int error) {
  if (!worker->pause)
    journal_say(&worker->journal, "trouble",
                "no command can be started, trying again", strerror(error));
  worker->pause = worker->pause ? 2 * worker->pause : PAUSE_FIRST;
  worker->pause = earlier(worker->pause, PAUSE_LAST);
  worker->start_at = steady_ms() + worker->pause;
}

static int start(struct worker *worker, struct slot *slot) {
  int rc = start_command(worker, slot);
  if (rc) {
    start_failed(worker, rc);
    return 0;
  }
  worker->waiting--;
  worker->tally.running++;
  slot->state = RUNNING;
  slot->started = steady_ms();
  if (slot->timeout > 0 && slot->timeout <= LONGEST)
    slot->deadline = slot->started + slot->timeout;
  return 1;
}

static int start_waiting(struct worker *worker) {
  for (struct slot *slot = worker->slots; slot && worker->waiting;
       slot = slot->next)
    if (slot->state == WAITING && !start(worker, slot)) return 0;
  return 1;
}

static void taken_none(struct worker *worker, int status) {
  worker->taking = 0;
  if (status == DIBS_CLOSED)
    worker->closed = 1;
  else if (status != DIBS_EMPTY)
    database_lost(worker, status);
}

/* Start a command for the next job. 0: there is none, or it cannot be. */
static int take_one(struct worker *worker) {
  dibs_run *run;
  int status;
  struct slot *slot = slot_new();
  if (!slot) {
    start_failed(worker, ENOMEM);
    return 0;
  }
  status = dibs_engine_next(worker->engine, 0, &run);
  if (status == DIBS_OK) {
    slot_fill(worker, slot, run);
    return start(worker, slot);
  }
  slot_free(slot);
  taken_none(worker, status);
  return 0;
}

static void start_recovered(struct worker *worker) {
  if (!worker->pause || worker->waiting) return;
  journal_say(&worker->journal, "recovered", "commands can be started again",
              NULL);
  worker->pause = 0;
}

/* Those that wait go first. */
static void take(struct worker *worker, int64_t now) {
  int left = START_MOST;
  if (bell_has_jobs(&worker->bell)) worker->taking = 1;
  if (worker->pause && now < worker->start_at) return;
  if (!start_waiting(worker)) return;
  start_recovered(worker);
  while (worker->taking && left-- > 0 && take_one(worker)) {
  }
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

static int is_lost(const struct slot *slot) {
  return (dibs_run_flags(slot->run) & DIBS_RUN_LOST) != 0;
}

static void end_one(struct worker *worker, struct slot *slot, int64_t now) {
  int stopping = worker->stops && now >= worker->stop_at;
  if (slot->ending == NOT_ENDING && is_lost(slot))
    ask_to_end(slot, LOST, now + worker->grace);
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
  for (struct slot *slot = worker->slots; slot; slot = slot->next) {
    if (slot->state == RUNNING) end_one(worker, slot, now);
    if (slot->state == WAITING && (is_stopping(worker) || is_lost(slot)))
      slot_over(worker, slot, DIBS_RELEASE,
                strdup("no command could be started"));
  }
}

/* ------------------------------------------------------------------------ */
/* A command has ended                                                      */
/* ------------------------------------------------------------------------ */

static void over_by_status(struct worker *worker, struct slot *slot,
                           int status) {
  int action = verdict_action(slot->ending, worker->stops, status);
  char *error = NULL;
  if (action == DIBS_ACK && slot->process.output_over) {
    slot_over(worker, slot, DIBS_RETRY, strdup("the result is too long"));
    return;
  }
  if (action != DIBS_ACK)
    error = verdict_error(&slot->process, slot->ending, slot->timeout, status);
  slot_over(worker, slot, action, error);
}

/* It could be run when the worker began; now it cannot. */
static void command_gone(struct worker *worker, struct slot *slot, int error) {
  const char *command = worker->options->command[0];
  int first = !worker->exit_code;
  if (first) journal_yield(&worker->journal);
  if (first)
    worker->exit_code = cli_error(DIBS_INVALID, "cannot run '%s': %s", command,
                                  strerror(error));
  dibs_engine_stop_begin(worker->engine);
  slot_over(worker, slot, DIBS_RELEASE,
            text_of("the command could not be run: %s", strerror(error)));
}

/* What it used up may be what another one waits for. */
static void command_ended(struct worker *worker, struct slot *slot,
                          const struct process_end *end) {
  int well = end->status == 0;
  process_read_rest(&slot->process, journal_relay, &worker->journal);
  process_bury(&worker->host, &slot->process, well);
  worker->start_at = steady_ms();
  if (end->failure)
    command_gone(worker, slot, end->failure);
  else
    over_by_status(worker, slot, end->status);
}

static struct slot *slot_of(struct worker *worker, pid_t pid) {
  struct slot *slot = worker->slots;
  while (slot && slot->process.pid != pid) slot = slot->next;
  return slot;
}

static void child_ended(struct worker *worker, const struct process_end *end) {
  struct slot *slot = slot_of(worker, end->pid);
  if (slot) {
    command_ended(worker, slot, end);
  } else if (process_guard_ended(&worker->host, end)) {
    for (slot = worker->slots; slot; slot = slot->next)
      process_guard(&worker->host, &slot->process);
  } else {
    waitpid(end->pid, NULL, 0); /* somebody's who became us by exec */
  }
}

static void reap(struct worker *worker) {
  struct process_end end;
  while (process_reap(&worker->host, &end)) child_ended(worker, &end);
}

/* ------------------------------------------------------------------------ */
/* Hand over                                                                */
/* ------------------------------------------------------------------------ */

/* From here on the engine's threads may write to the slot's news and
** settlement. */
static void handed_over(struct worker *worker, struct slot *slot) {
  process_clear(&slot->process);
  slot->state = HANDED;
  worker->held--;
  worker->handed++;
}

/* A result that is refused is a failed attempt, and then there is nothing left
** to refuse. */
static void hand_over(struct worker *worker, struct slot *slot) {
  dibs_settlement outcome = {.action = slot->action,
                             .delay = DIBS_UNSET,
                             .lease = DIBS_UNSET,
                             .error = slot->error};
  if (outcome.action == DIBS_ACK && worker->options->result)
    outcome.result = verdict_result(&slot->process);
  int rc = dibs_engine_finish(worker->engine, slot->run, &outcome);
  if (rc == DIBS_OK) {
    handed_over(worker, slot);
  } else if (rc == DIBS_NOMEM) {
    slot->hand_at = steady_ms() + PAUSE_FIRST;
  } else if (outcome.action == DIBS_ACK) {
    slot_over(worker, slot, DIBS_RETRY,
              strdup("the result was refused: it is not JSON"));
    hand_over(worker, slot);
  } else {
    say_lost(worker, slot);
    slot_end(worker, slot);
  }
}

static void hand_over_all(struct worker *worker, int64_t now) {
  struct slot *slot = worker->slots, *next;
  for (; slot; slot = next) {
    next = slot->next;
    if (slot->state != OVER) continue;
    if (now >= slot->hand_at || is_stopping(worker)) hand_over(worker, slot);
  }
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

static int64_t slot_due(const struct worker *worker, const struct slot *slot) {
  int64_t due = slot->kill_at;
  if (slot->state == WAITING) return worker->start_at;
  if (slot->state == OVER) return slot->hand_at;
  if (slot->state == HANDED) return NEVER;
  if (slot->ending != NOT_ENDING) return due;
  if (worker->stops) due = earlier(due, worker->stop_at);
  return earlier(due, slot->deadline);
}

/* When there will be something to do that nobody announces. */
static int64_t next_due(const struct worker *worker) {
  int64_t due = NEVER;
  if (worker->taking) due = worker->pause ? worker->start_at : 0;
  for (const struct slot *slot = worker->slots; slot; slot = slot->next)
    due = earlier(due, slot_due(worker, slot));
  return due;
}

static int wait_for(const struct worker *worker, int status_moves) {
  int64_t due = next_due(worker);
  int64_t wait = due - steady_ms();
  if (wait < 0) return 0;
  if (status_moves) return (int)earlier(wait, STATUS_WAIT);
  return due == NEVER ? -1 : (int)earlier(wait, INT_MAX);
}

static void gather_fd(struct worker *worker, nfds_t *count, int fd,
                      struct slot *slot, short events) {
  if (fd < 0) return;
  worker->polled[*count] = (struct pollfd){fd, events, 0};
  worker->polled_slots[(*count)++] = slot;
}

/* The commands' come last, so that they can be left out. */
static nfds_t gather_fds(struct worker *worker) {
  nfds_t count = 0;
  gather_fd(worker, &count, worker->signal_fd, NULL, POLLIN);
  gather_fd(worker, &count, worker->bell.fd, NULL, POLLIN);
  if (journal_flush(&worker->journal))
    gather_fd(worker, &count, worker->journal.fd, NULL, POLLOUT);
  if (journal_full(&worker->journal)) return count;
  for (struct slot *slot = worker->slots; slot; slot = slot->next) {
    gather_fd(worker, &count, slot->process.error_fd, slot, POLLIN);
    gather_fd(worker, &count, slot->process.output_fd, slot, POLLIN);
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

static void wait_for_events(struct worker *worker, int status_moves) {
  nfds_t count = gather_fds(worker);
  if (poll(worker->polled, count, wait_for(worker, status_moves)) <= 0) return;
  read_commands(worker, count);
  if (worker->polled[1].revents) bell_silence(&worker->bell);
  if (worker->polled[0].revents) take_signals(worker);
}

/* ------------------------------------------------------------------------ */
/* The loop                                                                 */
/* ------------------------------------------------------------------------ */

static int finished(const struct worker *worker) {
  if (worker->held) return 0;
  return is_stopping(worker) || (worker->closed && !worker->handed);
}

static void turn(struct worker *worker) {
  int64_t now = steady_ms();
  tell(worker);
  end_commands(worker, now);
  take(worker, now);
  hand_over_all(worker, now);
}

static void work(struct worker *worker) {
  for (;;) {
    turn(worker);
    if (finished(worker)) return;
    wait_for_events(worker, journal_status(&worker->journal, &worker->tally));
  }
}

/* After a stop what was handed over may not be settled yet. */
static void settle_rest(struct worker *worker) {
  dibs_engine_stop(worker->engine, STOP_SETTLE, NULL);
  tell(worker);
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
  size_t room = 2 * worker->slot_count + 3; /* two each, and our own */
  worker->polled = calloc(room, sizeof *worker->polled);
  worker->polled_slots = calloc(room, sizeof *worker->polled_slots);
  return worker->polled && worker->polled_slots;
}

static int64_t value_or(int64_t value, int64_t otherwise) {
  return value == DIBS_UNSET ? otherwise : value;
}

static void settings_open(struct worker *worker,
                          const struct worker_options *options) {
  memset(worker, 0, sizeof *worker);
  worker->options = options;
  worker->signal_fd = worker->bell.fd = -1;
  worker->slot_count = options->slots > 0 ? (size_t)options->slots : 1;
  worker->grace = earlier(value_or(options->grace, DEFAULT_GRACE), LONGEST);
  worker->result_limit =
      (size_t)value_or(options->open->max_payload, DIBS_PAYLOAD_MAX);
  name_open(worker);
}

static int engine_open(struct worker *worker) {
  const struct worker_options *asked = worker->options;
  dibs_open_options open = *asked->open;
  dibs_engine_options options = DIBS_ENGINE_OPTIONS_INIT;
  options.queues = asked->queues;
  options.queue_count = asked->queue_count;
  options.slots = (int64_t)worker->slot_count;
  options.lease = earlier(value_or(asked->lease, DEFAULT_LEASE), LONGEST);
  options.worker = worker->name;
  options.drain = asked->drain;
  options.max_jobs = asked->once ? 1 : asked->max_jobs;
  bell_attach(&worker->bell, &open, &options);
  int rc = dibs_engine_open(asked->db_path, &open, &options, &worker->engine);
  return rc ? cli_error(rc, "%s", dibs_engine_error(worker->engine)) : 0;
}

static int cannot_start(int error) {
  return cli_error(DIBS_IO, "the worker cannot start: %s", strerror(error));
}

/* The guard comes first: it must not have the database open. The engine comes
** last: from then on it may call. */
static int worker_open(struct worker *worker) {
  int rc = process_host_open(&worker->host);
  if (!rc) rc = signals_open(worker);
  if (!rc) rc = bell_open(&worker->bell);
  if (rc) return cannot_start(rc);
  if (!slots_open(worker) ||
      environment_open(&worker->environment, worker->options->db_path) != 0)
    return cli_error(DIBS_NOMEM, "%s", dibs_error(NULL));
  rc = engine_open(worker);
  if (rc) return rc;
  journal_open(&worker->journal, worker->options->json);
  worker->relay = shares_screen(&worker->journal);
  return 0;
}

static void worker_close(struct worker *worker) {
  dibs_engine_close(worker->engine);
  for (struct slot *slot = worker->slots, *next; slot; slot = next) {
    next = slot->next;
    slot_free(slot);
  }
  process_host_close(&worker->host);
  if (worker->signal_fd >= 0) {
    close(worker->signal_fd);
    sigprocmask(SIG_SETMASK, &worker->old_mask, NULL);
  }
  bell_close(&worker->bell);
  environment_close(&worker->environment);
  free(worker->polled);
  free(worker->polled_slots);
}

/* Jobs that could not be settled count as those of a worker that died. */
static int left_behind(struct worker *worker) {
  if (!worker->handed || worker->exit_code) return worker->exit_code;
  return cli_error(DIBS_BUSY,
                   "%zu jobs could not be settled before the stop: they run "
                   "again",
                   worker->handed);
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
    settle_rest(&worker);
    journal_sum(&worker.journal, &worker.tally);
    journal_close(&worker.journal);
    rc = left_behind(&worker);
  }
  worker_close(&worker);
  return rc;
}
