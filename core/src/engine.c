/* SPDX-License-Identifier: MIT */
/*
** engine.c: the runtime of a worker: all that it needs besides its handlers.
**
** A run is a job that the engine holds. It is ready (claimed, nobody works on
** it), running (given out by next), or finished (to be settled). Ready and
** running ones take slots.
**
** All work on the database is done in turns, one at a time, by whatever thread
** has a reason to: a turn settles what is finished, extends leases if that is
** due, and claims into the free slots, in one transaction. What is finished
** while a turn is under way waits for the next, which settles all of it: many
** short jobs share a commit, and a single one never waits for others.
**
** Who takes the turn:
** - a thread in dibs_engine_next() that finds no ready run. So a single handler
**   settles its last job and claims the next by itself, with no other thread in
**   between;
** - the keeper, a thread of the engine, when something is finished and nobody
**   else is at it, and when leases are to be extended.
** If a claim finds nothing, one of the threads in next (or, where there is a
** `ready` callback, the waiter, a thread of its own) becomes the watcher and
** sleeps on the sidecar; the others sleep on a condition. While there is a
** watcher, only it claims, for it is the one whom signals wake.
**
** The keeper also makes the heart beat, which keeps the leases when the
** database cannot be reached, and raises flags of runs. It sleeps on the mail
** word of the process's slot, so that a cancel in another process wakes it.
**
** Locks: the engine's mutex is never held while the handle is used.
*/
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ENGINE_LEASE  15000 /* ms */
#define BEAT_MOST     5000  /* ms between two beats */
#define CLOCK_DRIVEN  50    /* ms between looks at a clock that a test drives */
#define PAUSE_FIRST   100   /* ms before trying again */
#define PAUSE_LAST    5000  /* ms, at most */
#define STOP_BUSY     5000 /* ms that a stop waits for another writer at least */
#define UNKNOWN_DELAY 5000 /* ms until a job that nobody here knows is back */
#define UNKNOWN_NAMES 1000 /* are remembered; of further ones nothing is told */
#define MESSAGE_SIZE  640
#define RECEIPT_SIZE  48
#define NEVER         INT64_MAX
#define MAIL_LOCAL    0x10000 /* added to the word by ourselves */
#define MAIL_REMOTE   0xFFFF  /* what others add to */

struct run {
  dibs_run public;      /* first: what the caller has */
  struct run *next;     /* in the list that it is in */
  struct run *previous; /* among the running */
  dibs_engine *engine;
  struct job_list *list; /* the job; owned */
  int64_t token;
  int64_t deadline;           /* engine's time: out of time; NEVER */
  unsigned epoch;             /* the engine's when it was claimed */
  _Atomic int flags;          /* enum dibs_run_flag */
  bool given;                 /* a handler has it, or had it */
  bool leaving;               /* a stop is giving it back */
  bool released;              /* a stop has given it back */
  dibs_settlement settlement; /* of a finished one */
  char *error;                /* owned, of the settlement */
  char *result;               /* owned, of the settlement */
  dibs_settlement *answer;    /* who waits for it; NULL: nobody */
  bool *answered;
};

struct run_list {
  struct run *first;
  struct run *last;
};

struct dibs_engine {
  dibs_db *db;
  pid_t pid;
  char **queues; /* owned */
  struct patterns patterns;
  int64_t slots;
  int64_t lease;
  int64_t extend_every;
  int64_t pause_last; /* ms: whoever pauses longer comes too late to extend */
  char *worker;       /* owned; NULL */
  bool in_order;
  bool drain;
  void *context;
  void (*ready_callback)(void *);
  void (*flagged_callback)(void *);
  void (*settled_callback)(void *, const dibs_run *, const dibs_settlement *);
  int64_t holder; /* DIBS_UNSET: leases end by time only */
  pthread_t keeper;
  pthread_t waiter;
  bool keeper_runs;
  bool waiter_runs;
  _Atomic int64_t beat;     /* ms since boot: the last */
  _Atomic unsigned epoch;   /* counts pauses that were longer than the lease */
  _Atomic uint32_t word;    /* in place of a mail word */
  _Atomic int64_t patience; /* monotonic ms: wait for no writer any more */
  pthread_mutex_t telling;  /* held during callbacks; never with the mutex */

  pthread_mutex_t mutex; /* for all that follows */
  pthread_cond_t jobs;   /* there may be something for next() */
  pthread_cond_t news;   /* a turn ended, or a run has a flag */
  struct run_list ready;
  struct run *running; /* doubly linked */
  struct run_list finished;
  int64_t held;  /* ready and running ones */
  int64_t left;  /* jobs that may be claimed yet; NEVER: all */
  int nexts;     /* threads in next() */
  bool turning;  /* a turn is under way */
  bool watching; /* somebody is the watcher */
  bool eager;    /* the last claim or look found something */
  bool asleep;   /* the keeper is, on this word, until then: */
  _Atomic uint32_t *mail;
  uint32_t seen;     /* of its count */
  int64_t wake_at;   /* engine's time */
  int64_t extend_at; /* engine's time */
  bool stopped;
  bool closing;
  unsigned interrupts;   /* calls of dibs_engine_interrupt() */
  int64_t trouble_since; /* engine's time; 0: all is well */
  bool unwritten;        /* the last turn failed */
  int64_t retry_at;
  int64_t pause;
  char **unknown; /* names, owned */
  size_t unknown_count;
  int status; /* why it cannot go on; DIBS_OK: it can */
  char message[MESSAGE_SIZE];
};

/* -------------------------------------------------------------------- time */

/* A test's clock, or one that does not jump. */
static int64_t engine_now(const dibs_engine *engine) {
  return engine->db && engine->db->clock ? dibs_now(engine->db)
                                         : time_monotonic();
}

/* Sleep on a condition until then by the engine's time. */
static void cond_sleep(dibs_engine *engine, pthread_cond_t *cond,
                       int64_t until) {
  struct timespec end;
  int64_t left = until - engine_now(engine);
  if (until == NEVER && !engine->db->clock) {
    pthread_cond_wait(cond, &engine->mutex);
    return;
  }
  if (engine->db->clock && left > CLOCK_DRIVEN) left = CLOCK_DRIVEN;
  if (left <= 0) return;
  clock_gettime(CLOCK_MONOTONIC, &end);
  end.tv_sec += (time_t)(left / 1000);
  end.tv_nsec += (long)(left % 1000) * 1000000;
  if (end.tv_nsec >= 1000000000) {
    end.tv_nsec -= 1000000000;
    end.tv_sec++;
  }
  pthread_cond_timedwait(cond, &engine->mutex, &end);
}

static int64_t deadline_in(const dibs_engine *engine, int64_t timeout) {
  int64_t now = engine_now(engine);
  if (timeout == DIBS_UNSET || timeout < 0) timeout = 0;
  return timeout > NEVER - now ? NEVER : now + timeout;
}

/* A beat that comes later than a lease is long may have come too late: from then
** on only the clock tells whether the leases of before still hold. Where nobody
** sees the heart, a third of the lease may have been over at the last beat. */
static void engine_beat(dibs_engine *engine) {
  int64_t now = time_since_boot();
  int64_t last = atomic_exchange(&engine->beat, now);
  int64_t most = engine->lease;
  if (engine->holder == DIBS_UNSET) most -= engine->extend_every;
  if (now - last >= most) atomic_fetch_add(&engine->epoch, 1);
  if (engine->holder != DIBS_UNSET) sidecar_beat(engine->db->sidecar);
}

bool engine_wait(dibs_engine *engine) {
  int64_t since = time_since_boot() - atomic_load(&engine->beat);
  if (since >= BEAT_MOST / 10 || since >= engine->extend_every / 2)
    engine_beat(engine);
  return time_monotonic() < atomic_load(&engine->patience);
}

/* -------------------------------------------------------------------- runs */

static void run_list_add(struct run_list *list, struct run *run) {
  run->next = NULL;
  if (list->last)
    list->last->next = run;
  else
    list->first = run;
  list->last = run;
}

static struct run *run_list_take(struct run_list *list) {
  struct run *run = list->first;
  if (!run) return NULL;
  list->first = run->next;
  if (!list->first) list->last = NULL;
  run->next = NULL;
  return run;
}

/* Put a list before what another one has. */
static void run_list_put_back(struct run_list *list, struct run_list *before) {
  if (!before->first) return;
  before->last->next = list->first;
  if (!list->first) list->last = before->last;
  list->first = before->first;
}

static void running_add(dibs_engine *engine, struct run *run) {
  run->previous = NULL;
  run->next = engine->running;
  if (run->next) run->next->previous = run;
  engine->running = run;
}

static void running_remove(dibs_engine *engine, struct run *run) {
  if (run->previous)
    run->previous->next = run->next;
  else
    engine->running = run->next;
  if (run->next) run->next->previous = run->previous;
}

static void run_free(struct run *run) {
  if (run->list) dibs_job_list_free(&run->list->list);
  free(run->error);
  free(run->result);
  free(run);
}

static void run_list_free(struct run_list *list) {
  struct run *run;
  while ((run = run_list_take(list))) run_free(run);
}

/* A copy of the job that ends with its run, whatever others were claimed with
** it. */
static bool job_copy(dibs_db *db, struct run *run, const dibs_job *job) {
  struct job_list *list = run->list = job_list_new(db);
  dibs_job *copy = list ? job_list_add(db, list) : NULL;
  if (!copy) return false;
  *copy = *job;
  copy->queue = job_list_copy(db, list, job->queue);
  copy->name = job_list_copy(db, list, job->name);
  copy->headers = job_list_copy(db, list, job->headers);
  copy->key = job_list_copy(db, list, job->key);
  copy->worker = job_list_copy(db, list, job->worker);
  copy->receipt = job_list_copy(db, list, job->receipt);
  copy->last_error = job_list_copy(db, list, job->last_error);
  copy->payload = job_list_payload(db, list, job->payload);
  run->public.job = copy;
  return !db->status;
}

static struct run *run_new(dibs_engine *engine, const dibs_job *job) {
  dibs_db *db = engine->db;
  struct run *run = calloc(1, sizeof *run);
  if (!run) {
    handle_nomem(db);
    return NULL;
  }
  run->engine = engine;
  run->deadline = NEVER;
  run->epoch = atomic_load(&engine->epoch);
  if (!job_copy(db, run, job)) {
    run_free(run);
    return NULL;
  }
  const char *token = strchr(run->public.job->receipt, ':') + 1;
  run->token = (int64_t)strtoull(token, NULL, 16);
  run->public.deadline = DIBS_UNSET;
  if (job->timeout > 0)
    run->public.deadline = time_add(job->claimed_at, job->timeout);
  run->public.final =
      job->max_attempts > 0 && job->attempt >= job->max_attempts;
  return run;
}

static void flags_raise(struct run *run, int flags) {
  atomic_fetch_or(&run->flags, flags);
}

int dibs_run_flags(const dibs_run *run) {
  return run ? atomic_load(&((const struct run *)(const void *)run)->flags) : 0;
}

/* -------------------------------------------------------------------- turn */

/* A run whose lease a turn extends. */
struct kept {
  struct run *run;
  int64_t id;
  int64_t token;
  int lost; /* flags */
};

/* What a turn does, and what came of it. */
struct turn {
  struct run_list finished;
  int64_t free;  /* slots to claim for; 0: no claim */
  int64_t asked; /* when the write lock was asked for, by the handle's clock */
  struct kept *kept;
  size_t kept_count;
  struct run_list claimed;
  int64_t claimed_count;
  char message[MESSAGE_SIZE]; /* why it failed */
};

/* Why a lease is not ours: the job ended, or is another's. */
static int lost_flags(dibs_db *db, int64_t id) {
  bool there = sql_get(db, SQL_JOB_IS_THERE, SQL_ARGS(sql_int(id)), 0);
  return there ? DIBS_RUN_LOST : DIBS_RUN_LOST | DIBS_RUN_CANCELLED;
}

static void kept_extend(dibs_db *db, const dibs_engine *engine,
                        struct turn *turn) {
  int64_t until = time_add(db->now, engine->lease);
  for (size_t i = 0; i < turn->kept_count && !db->status; i++) {
    struct kept *kept = &turn->kept[i];
    sql_run(db, SQL_LEASED_KEEP,
            SQL_ARGS(sql_int(kept->id), sql_int(kept->token), sql_int(until)));
    if (!sql_changes(db) && !db->status) kept->lost = lost_flags(db, kept->id);
  }
}

/* The time by which a lease has to hold: when the write lock was asked for. Nobody
** takes back what a beating heart holds, whatever the clock says. */
static int64_t settle_time(const dibs_engine *engine, unsigned epoch,
                           int64_t asked) {
  bool trusted =
      engine->holder != DIBS_UNSET && epoch == atomic_load(&engine->epoch);
  return trusted ? -1 : asked;
}

static void finished_settle(dibs_db *db, dibs_engine *engine,
                            struct turn *turn) {
  for (struct run *run = turn->finished.first; run && !db->status;
       run = run->next) {
    run->settlement.status = DIBS_OK;
    settlement_run(db, &run->settlement,
                   settle_time(engine, run->epoch, turn->asked));
  }
}

static void turn_claim(dibs_db *db, dibs_engine *engine, struct turn *turn) {
  struct claim claim = {.patterns = engine->patterns,
                        .n = turn->free,
                        .lease = engine->lease,
                        .worker = engine->worker,
                        .holder = engine->holder,
                        .in_order = engine->in_order};
  if (db->status || !turn->free) return;
  claim.list = job_list_new(db);
  if (!claim.list) return;
  claim.worker_copy = engine->worker;
  claim_take(db, &claim);
  for (size_t i = 0; i < claim.list->list.count && !db->status; i++) {
    struct run *run = run_new(engine, &claim.list->jobs[i]);
    if (!run) break;
    run_list_add(&turn->claimed, run);
    turn->claimed_count++;
  }
  dibs_job_list_free(&claim.list->list);
}

/* The turn's part on the database. On failure nothing was done. */
static int turn_write(dibs_engine *engine, struct turn *turn) {
  int status;
  dibs_db *db = engine->db;
  if (!handle_enter(db, &status)) return status;
  duties(db);
  turn->asked = db->now;
  sql_begin_write(db);
  finished_settle(db, engine, turn);
  kept_extend(db, engine, turn);
  tidy(db, engine->patterns);
  turn_claim(db, engine, turn);
  sql_end(db);
  if (db->status) {
    run_list_free(&turn->claimed);
    snprintf(turn->message, sizeof turn->message, "%s", db->message);
  }
  return handle_leave(db);
}

/* Those whose leases are to be extended. Without memory, another time. */
static void turn_keep(dibs_engine *engine, struct turn *turn) {
  if (!engine->held || engine_now(engine) < engine->extend_at) return;
  turn->kept = calloc((size_t)engine->held, sizeof *turn->kept);
  if (!turn->kept) {
    engine->extend_at = engine_now(engine) + PAUSE_FIRST;
    return;
  }
  struct run *lists[] = {engine->running, engine->ready.first};
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
    for (struct run *run = lists[i]; run; run = run->next) {
      if (run->released || atomic_load(&run->flags) & DIBS_RUN_LOST) continue;
      turn->kept[turn->kept_count++] =
          (struct kept){run, run->public.job->id, run->token, 0};
    }
}

/* ----------------------------------------------------------------- trouble */

static bool status_passes(int status) {
  return status == DIBS_BUSY || status == DIBS_SNAPSHOT ||
         status == DIBS_FULL || status == DIBS_IO || status == DIBS_NOMEM;
}

/* Note how a use of the database went. Gives what is to be told of it, or
** NULL: once when trouble begins, once when it is over. */
static const char *trouble_set(dibs_engine *engine, int status,
                               const char *message) {
  int64_t now = engine_now(engine);
  bool before = engine->trouble_since != 0;
  if (!status) {
    engine->trouble_since = engine->pause = engine->retry_at = 0;
    return before ? "recovered" : NULL;
  }
  if (!status_passes(status)) {
    if (engine->status) return NULL;
    snprintf(engine->message, sizeof engine->message, "%s", message);
    engine->status = status;
    return "trouble";
  }
  if (!before) engine->trouble_since = now ? now : 1;
  engine->pause = engine->pause ? 2 * engine->pause : PAUSE_FIRST;
  if (engine->pause > engine->pause_last) engine->pause = engine->pause_last;
  engine->retry_at = now + engine->pause;
  return before ? NULL : "trouble";
}

/* Without the mutex. */
static void engine_log(const dibs_engine *engine, const dibs_log_event *event) {
  pthread_mutex_lock(&engine->db->mutex); /* no two at a time */
  engine->db->log(engine->db->log_context, event);
  pthread_mutex_unlock(&engine->db->mutex);
}

static void trouble_say(const dibs_engine *engine, const char *event,
                        int status, const char *message) {
  dibs_log_event said = {.event = event};
  if (!event || !engine->db->log) return;
  said.level = !status                 ? DIBS_LEVEL_OK
               : status_passes(status) ? DIBS_LEVEL_WARNING
                                       : DIBS_LEVEL_ERROR;
  said.message = status ? message : "the database can be used again";
  engine_log(engine, &said);
}

static bool engine_rests(const dibs_engine *engine) {
  return engine->retry_at && engine_now(engine) < engine->retry_at;
}

/* ----------------------------------------------------------- after a turn */

/* Without the mutex. */
static void settled_tell(dibs_engine *engine, struct turn *turn) {
  if (!engine->settled_callback) return;
  pthread_mutex_lock(&engine->telling);
  for (struct run *run = turn->finished.first; run; run = run->next)
    if (run->given && !run->answer)
      engine->settled_callback(engine->context, &run->public, &run->settlement);
  pthread_mutex_unlock(&engine->telling);
}

/* One of the callbacks that say only that. Without the mutex. */
static void callback_tell(dibs_engine *engine, void (*callback)(void *)) {
  if (!callback) return;
  pthread_mutex_lock(&engine->telling);
  callback(engine->context);
  pthread_mutex_unlock(&engine->telling);
}

/* The settlement's strings go with the run. */
static void run_answer(struct run *run) {
  dibs_settlement *answer = run->answer;
  if (!answer) return;
  answer->status = run->settlement.status;
  answer->state = run->settlement.state;
  answer->id = run->settlement.id;
  answer->until = run->settlement.until;
  memcpy(answer->message, run->settlement.message, sizeof answer->message);
  *run->answered = true;
}

static void finished_end(struct turn *turn) {
  struct run *run;
  while ((run = run_list_take(&turn->finished))) {
    run_answer(run);
    run_free(run);
  }
}

/* A kept run may have been finished meanwhile, but no other turn has freed it. */
static bool kept_flag(struct turn *turn) {
  bool any = false;
  for (size_t i = 0; i < turn->kept_count; i++) {
    if (turn->kept[i].lost) flags_raise(turn->kept[i].run, turn->kept[i].lost);
    any = any || turn->kept[i].lost;
  }
  return any;
}

/* Wake those in next() for whom there is a run, and one more to be the watcher. */
static void jobs_tell(dibs_engine *engine, int64_t count) {
  if (engine->ready_callback || count >= engine->nexts) {
    pthread_cond_broadcast(&engine->jobs);
    return;
  }
  for (int64_t i = 0; i <= count; i++) pthread_cond_signal(&engine->jobs);
}

static void ready_release(dibs_engine *engine);

static void turn_take(dibs_engine *engine, struct turn *turn, bool claim) {
  turn->finished = engine->finished;
  engine->finished = (struct run_list){NULL, NULL};
  turn->free = claim && !engine->stopped ? engine->slots - engine->held : 0;
  if (turn->free > engine->left) turn->free = engine->left;
  turn_keep(engine, turn);
}

static void turn_succeed(dibs_engine *engine, struct turn *turn) {
  if (turn->kept || !engine->held)
    engine->extend_at = engine_now(engine) + engine->extend_every;
  if (turn->free) engine->eager = turn->claimed_count > 0;
  finished_end(turn);
  struct run *run;
  while ((run = run_list_take(&turn->claimed)))
    run_list_add(&engine->ready, run);
  engine->held += turn->claimed_count;
  if (engine->left < NEVER) engine->left -= turn->claimed_count;
  if (engine->stopped) ready_release(engine);
}

/* What the callbacks are to be told. Without the mutex, but nobody else is
** turning. */
static void turn_tell(dibs_engine *engine, struct turn *turn, int status) {
  bool flagged = !status && kept_flag(turn);
  if (!status) settled_tell(engine, turn);
  if (flagged) callback_tell(engine, engine->flagged_callback);
}

/* With the mutex. */
static void turn_end_all(dibs_engine *engine, struct turn *turn, int status) {
  if (status)
    run_list_put_back(&engine->finished, &turn->finished);
  else
    turn_succeed(engine, turn);
  free(turn->kept);
}

/* It has nothing that could become claimable. */
static bool engine_is_empty(const dibs_engine *engine) {
  return !engine->held && !engine->finished.first && !engine->turning;
}

static void keeper_wake(dibs_engine *engine) {
  if (engine->asleep) mail_send(engine->mail, MAIL_LOCAL);
}

/* With the mutex, which is let go of meanwhile; nobody else may be turning. */
static int engine_turn(dibs_engine *engine, bool claim) {
  struct turn turn = {.free = 0};
  turn_take(engine, &turn, claim);
  engine->turning = true;
  pthread_mutex_unlock(&engine->mutex);
  engine_beat(engine);
  int status = turn_write(engine, &turn);
  engine_beat(engine);
  turn_tell(engine, &turn, status);
  pthread_mutex_lock(&engine->mutex);
  bool was_empty = !engine->ready.first;
  const char *event = trouble_set(engine, status, turn.message);
  engine->unwritten = status != 0;
  /* Others may have more luck with what we were woken for. */
  if (status && turn.free) wake_everyone(engine->db->sidecar);
  turn_end_all(engine, &turn, status);
  bool ready = engine->ready_callback && was_empty && engine->ready.first;
  if (ready || event) {
    pthread_mutex_unlock(&engine->mutex);
    trouble_say(engine, event, status, turn.message);
    if (ready) callback_tell(engine, engine->ready_callback);
    pthread_mutex_lock(&engine->mutex);
  }
  engine->turning = false;
  jobs_tell(engine, turn.claimed_count);
  if (engine->finished.first) keeper_wake(engine);
  if (engine->drain && engine->watching && engine_is_empty(engine))
    dibs_interrupt(engine->db); /* for the last look */
  pthread_cond_broadcast(&engine->news);
  return status;
}

/* ------------------------------------------------------------------- watch */

/* Wait until there is something to claim. Without the mutex. False when the wait
** ended otherwise. */
static bool watch_run(dibs_engine *engine, int64_t wait, int *status,
                      char message[MESSAGE_SIZE]) {
  dibs_db *db = engine->db;
  struct handle_wait waiting;
  int64_t due;
  bool found;
  if (!handle_enter(db, status)) return false;
  handle_wait_start(db, &waiting, wait, engine->patterns.items,
                    engine->patterns.count, 0);
  do {
    handle_wait_look(db, &waiting);
    db->now = dibs_now(db);
    duties(db);
    found = claim_look(db, engine->patterns, &due);
  } while (!found && !db->status && handle_wait(db, &waiting, due));
  handle_wait_end(db, &waiting, found);
  if (db->status == DIBS_INTERRUPTED) handle_clear(db);
  if (db->status) snprintf(message, MESSAGE_SIZE, "%s", db->message);
  *status = handle_leave(db);
  return found && !*status;
}

/* A draining engine has found nothing, and has nothing that could change that. */
static void drained(dibs_engine *engine) {
  engine->left = 0;
  pthread_cond_broadcast(&engine->jobs);
  if (!engine->ready_callback) return;
  pthread_mutex_unlock(&engine->mutex);
  callback_tell(engine, engine->ready_callback);
  pthread_mutex_lock(&engine->mutex);
}

/* With the mutex, which is let go of meanwhile; nobody else may be watching. */
static void engine_watch(dibs_engine *engine, int64_t deadline) {
  int status;
  char message[MESSAGE_SIZE];
  bool last = engine->drain && engine_is_empty(engine);
  int64_t wait =
      deadline == NEVER ? DIBS_FOREVER : deadline - engine_now(engine);
  if (wait < 0 || last) wait = 0;
  engine->watching = true;
  pthread_mutex_unlock(&engine->mutex);
  bool found = watch_run(engine, wait, &status, message);
  pthread_mutex_lock(&engine->mutex);
  engine->watching = false;
  if (found) engine->eager = true;
  if (last && !found && !status) drained(engine);
  /* That it can be read does not mean that it can be written. */
  if (!status && engine->unwritten) return;
  const char *event = trouble_set(engine, status, message);
  if (engine->status) pthread_cond_broadcast(&engine->news);
  if (!event) return;
  pthread_mutex_unlock(&engine->mutex);
  trouble_say(engine, event, status, message);
  pthread_mutex_lock(&engine->mutex);
}

/* End the watch, if there is one. If there was, it may have taken a signal that
** no claim will follow: let the other engines look, too. */
static void watch_end(dibs_engine *engine) {
  if (engine->watching)
    dibs_interrupt(engine->db);
  else if (engine->db)
    wake_everyone(engine->db->sidecar);
}

/* Whoever waits may claim: there is a free slot, and nobody else is at it. */
static bool engine_is_idle(const dibs_engine *engine) {
  return !engine->turning && !engine->watching && !engine->stopped &&
         !engine->status && engine->held < engine->slots && engine->left &&
         !engine_rests(engine);
}

static void engine_seek(dibs_engine *engine, int64_t deadline) {
  if (engine->eager || engine->finished.first)
    engine_turn(engine, true);
  else
    engine_watch(engine, deadline);
}

/* -------------------------------------------------------------------- next */

/* Nobody has begun it: give it back. */
static void run_return(dibs_engine *engine, struct run *run) {
  run->settlement = (dibs_settlement){.receipt = run->public.job->receipt,
                                      .action = DIBS_RELEASE};
  engine->held--;
  if (engine->left < NEVER) engine->left++;
  run_list_add(&engine->finished, run);
}

/* What was lost is not begun, nor what may have been lost while the process
** stood still. */
static bool run_is_fresh(const dibs_engine *engine, const struct run *run) {
  return !(atomic_load(&run->flags) & DIBS_RUN_LOST) &&
         run->epoch == atomic_load(&engine->epoch);
}

static struct run *ready_take(dibs_engine *engine) {
  struct run *run;
  while ((run = run_list_take(&engine->ready)) && !run_is_fresh(engine, run)) {
    run_return(engine, run);
    keeper_wake(engine);
  }
  if (!run) return NULL;
  run->given = true;
  running_add(engine, run);
  int64_t timeout = run->public.job->timeout;
  if (timeout == DIBS_UNSET || timeout <= 0) return run;
  run->deadline = deadline_in(engine, timeout);
  if (run->deadline < engine->wake_at) keeper_wake(engine);
  return run;
}

static int next_wait(dibs_engine *engine, int64_t deadline, struct run **run) {
  unsigned interrupts = engine->interrupts;
  bool looked = false;
  while (engine->stopped || !(*run = ready_take(engine))) {
    if (engine->status) return engine->status;
    if (engine->stopped || !engine->left) return DIBS_CLOSED;
    if (engine->interrupts != interrupts) return DIBS_INTERRUPTED;
    bool over = engine_now(engine) >= deadline;
    if (over && (looked || engine->ready_callback)) return DIBS_EMPTY;
    if (!engine->ready_callback && engine_is_idle(engine)) {
      engine_seek(engine, deadline);
      looked = !engine->eager; /* what it found is to be claimed */
    } else if (over) {
      return DIBS_EMPTY;
    } else {
      int64_t until =
          engine->retry_at > engine_now(engine) && engine->retry_at < deadline
              ? engine->retry_at
              : deadline;
      cond_sleep(engine, &engine->jobs, until);
    }
  }
  return DIBS_OK;
}

int dibs_engine_next(dibs_engine *engine, int64_t timeout, dibs_run **out) {
  if (!engine || !out) return DIBS_MISUSE;
  struct run *run = NULL;
  *out = NULL;
  if (engine->pid != getpid()) return DIBS_FORKED;
  engine_wait(engine); /* tells whether the process stood still */
  pthread_mutex_lock(&engine->mutex);
  engine->nexts++;
  int status = next_wait(engine, deadline_in(engine, timeout), &run);
  engine->nexts--;
  /* Another has to watch in our place. */
  bool waiter =
      engine->ready_callback && !engine->ready.first && engine_is_idle(engine);
  if ((engine->nexts && !engine->watching) || waiter)
    pthread_cond_signal(&engine->jobs);
  pthread_mutex_unlock(&engine->mutex);
  if (run) *out = &run->public;
  return status;
}

void dibs_engine_interrupt(dibs_engine *engine) {
  if (!engine || engine->pid != getpid()) return;
  pthread_mutex_lock(&engine->mutex);
  engine->interrupts++;
  watch_end(engine);
  pthread_cond_broadcast(&engine->jobs);
  pthread_mutex_unlock(&engine->mutex);
}

/* ------------------------------------------------------------------ finish */

/* Take copies of what the caller said. */
static int outcome_copy(struct run *run, const dibs_settlement *outcome) {
  dibs_settlement *settlement = &run->settlement;
  *settlement = *outcome;
  settlement->receipt = run->public.job->receipt;
  settlement->status = DIBS_OK;
  settlement->id = run->public.job->id;
  settlement->state = 0;
  settlement->until = DIBS_UNSET;
  settlement->message[0] = 0;
  free(run->error); /* of a call that failed */
  run->error = NULL;
  if (outcome->error) {
    settlement->error = run->error = strdup(outcome->error);
    if (!run->error) return DIBS_NOMEM;
  }
  settlement->result = (dibs_payload){.kind = DIBS_PAYLOAD_NONE};
  if (outcome->action != DIBS_ACK || outcome->result.kind == DIBS_PAYLOAD_NONE)
    return DIBS_OK;
  settlement->result = outcome->result;
  run->result = malloc(outcome->result.size + 1);
  if (!run->result) return DIBS_NOMEM;
  memcpy(run->result, outcome->result.data, outcome->result.size);
  settlement->result.data = run->result;
  return DIBS_OK;
}

/* Check what the caller said, before anything is copied. */
static int outcome_check(dibs_engine *engine, const dibs_settlement *outcome,
                         char message[240]) {
  dibs_settlement checked = *outcome;
  checked.status = DIBS_OK;
  if (checked.action == DIBS_EXTEND) checked.action = 0;
  settlement_check(engine->db, &checked);
  if (message && checked.status) memcpy(message, checked.message, 240);
  return checked.status;
}

/* With the mutex: the run is to be settled. */
static void run_finish(dibs_engine *engine, struct run *run) {
  running_remove(engine, run);
  engine->held--;
  run_list_add(&engine->finished, run);
}

/* The lease was given up by a stop. */
static int finish_released(dibs_engine *engine, struct run *run) {
  running_remove(engine, run);
  pthread_mutex_unlock(&engine->mutex);
  run_free(run);
  return DIBS_LOST;
}

/* Gives DIBS_OK with the mutex held and the run to be settled. */
static int finish_start(dibs_engine *engine, struct run *run,
                        const dibs_settlement *outcome) {
  if (engine->pid != getpid()) return DIBS_FORKED;
  int status = outcome_copy(run, outcome);
  if (status) return status;
  pthread_mutex_lock(&engine->mutex);
  return run->leaving || run->released ? finish_released(engine, run) : DIBS_OK;
}

static void finish_explain(dibs_settlement *outcome, int status) {
  const char *text = dibs_error(NULL);
  if (status == DIBS_LOST)
    text = "the job was given back: its engine was stopped";
  if (status == DIBS_FORKED) text = "the engine was opened before a fork";
  snprintf(outcome->message, sizeof outcome->message, "%s", text);
}

int dibs_engine_finish(dibs_engine *engine, dibs_run *public,
                       const dibs_settlement *outcome) {
  if (!engine || !public || !outcome) return DIBS_MISUSE;
  struct run *run = (struct run *)(void *)public;
  if (run->engine != engine) return DIBS_MISUSE;
  int status = outcome_check(engine, outcome, NULL);
  if (!status) status = finish_start(engine, run, outcome);
  if (status) return status;
  run_finish(engine, run);
  /* Whoever is turning sees to it afterwards. */
  if (!engine->turning) keeper_wake(engine);
  pthread_mutex_unlock(&engine->mutex);
  return DIBS_OK;
}

int dibs_engine_settle(dibs_engine *engine, dibs_run *public,
                       dibs_settlement *outcome) {
  bool answered = false;
  if (!engine || !public || !outcome) return DIBS_MISUSE;
  struct run *run = (struct run *)(void *)public;
  if (run->engine != engine) return DIBS_MISUSE;
  int status = outcome_check(engine, outcome, outcome->message);
  if (!status) {
    status = finish_start(engine, run, outcome);
    if (status) finish_explain(outcome, status);
  }
  outcome->status = status;
  if (status) return status;
  run->answer = outcome;
  run->answered = &answered;
  run_finish(engine, run);
  /* A turn that has the run may answer yet. */
  while (!answered && (engine->turning || !engine->status)) {
    if (!engine->turning && !engine_rests(engine))
      engine_turn(engine, false);
    else
      cond_sleep(engine, &engine->news, NEVER);
  }
  if (!answered) {
    run->answer = NULL;
    outcome->status = engine->status;
    snprintf(outcome->message, sizeof outcome->message, "%.239s",
             engine->message);
  }
  pthread_mutex_unlock(&engine->mutex);
  return outcome->status;
}

/* ---------------------------------------------------------- unknown names */

/* With the mutex: remember a name. False when it was known to be unknown. */
static bool unknown_add(dibs_engine *engine, const char *name) {
  for (size_t i = 0; i < engine->unknown_count; i++)
    if (!strcmp(engine->unknown[i], name)) return false;
  if (engine->unknown_count == UNKNOWN_NAMES) return false;
  size_t size = (engine->unknown_count + 1) * sizeof *engine->unknown;
  char **names = realloc(engine->unknown, size);
  if (!names) return false;
  engine->unknown = names;
  names[engine->unknown_count] = strdup(name);
  return names[engine->unknown_count] && ++engine->unknown_count;
}

/* Without the mutex. */
static void unknown_say(const dibs_engine *engine, int64_t id,
                        const char *queue, const char *name, int64_t delay) {
  char message[MESSAGE_SIZE + 256];
  dibs_log_event said = {DIBS_LEVEL_WARNING, 0, "unknown", id, queue, message};
  if (!engine->db->log) return;
  if (*name)
    snprintf(message, sizeof message,
             "no handler here for jobs named %s: each is given back, and due "
             "again after %lld ms",
             name, (long long)delay);
  else
    snprintf(message, sizeof message,
             "no handler here for jobs without a name: each is given back, and "
             "due again after %lld ms",
             (long long)delay);
  engine_log(engine, &said);
}

/* The names are copied first: another thread may settle the run and free it. */
int dibs_engine_unknown(dibs_engine *engine, dibs_run *public, int64_t delay) {
  char name[KEY_SIZE], queue[KEY_SIZE];
  if (!engine || !public) return DIBS_MISUSE;
  const dibs_job *job = public->job;
  int64_t id = job->id;
  snprintf(name, sizeof name, "%s", job->name ? job->name : "");
  snprintf(queue, sizeof queue, "%s", job->queue);
  if (delay == DIBS_UNSET) delay = UNKNOWN_DELAY;
  dibs_settlement outcome = {.action = DIBS_SNOOZE, .delay = delay};
  int status = dibs_engine_finish(engine, public, &outcome);
  if (status) return status;
  pthread_mutex_lock(&engine->mutex);
  bool fresh = unknown_add(engine, name);
  pthread_mutex_unlock(&engine->mutex);
  if (fresh) unknown_say(engine, id, queue, name, delay);
  return DIBS_OK;
}

/* ----------------------------------------------------------------- waiting */

int dibs_run_wait(dibs_run *public, int known, int64_t timeout) {
  if (!public) return DIBS_MISUSE;
  struct run *run = (struct run *)(void *)public;
  dibs_engine *engine = run->engine;
  if (engine->pid != getpid()) return DIBS_FORKED;
  pthread_mutex_lock(&engine->mutex);
  int64_t deadline = deadline_in(engine, timeout);
  while (!(atomic_load(&run->flags) & ~known) && engine_now(engine) < deadline)
    cond_sleep(engine, &engine->news, deadline);
  int status = atomic_load(&run->flags) & ~known ? DIBS_OK : DIBS_EMPTY;
  pthread_mutex_unlock(&engine->mutex);
  return status;
}

/* ------------------------------------------------------------------ keeper */

/* Raise the flags of runs that are out of time. */
static bool timeouts_flag(dibs_engine *engine) {
  bool any = false;
  int64_t now = engine_now(engine);
  for (struct run *run = engine->running; run; run = run->next) {
    if (now < run->deadline) continue;
    run->deadline = NEVER;
    flags_raise(run, DIBS_RUN_TIMED_OUT);
    any = true;
  }
  return any;
}

/* Somebody cancelled something: look whose lease is not ours any more. As a turn,
** because no run may be freed meanwhile. */
static bool losses_flag(dibs_engine *engine) {
  int status;
  struct turn turn = {.free = 0};
  int64_t extend_at = engine->extend_at;
  engine->extend_at = 0;
  turn_keep(engine, &turn);
  engine->extend_at = extend_at;
  engine->turning = true;
  pthread_mutex_unlock(&engine->mutex);
  dibs_db *db = engine->db;
  if (handle_enter(db, &status)) {
    for (size_t i = 0; i < turn.kept_count && !db->status; i++) {
      struct kept *kept = &turn.kept[i];
      if (!sql_get(db, SQL_LEASED_IS,
                   SQL_ARGS(sql_int(kept->id), sql_int(kept->token)), 0))
        kept->lost = lost_flags(db, kept->id);
    }
    if (db->status) turn.kept_count = 0;
    handle_leave(db);
  }
  bool flagged = kept_flag(&turn);
  pthread_mutex_lock(&engine->mutex);
  free(turn.kept);
  engine->turning = false;
  jobs_tell(engine, 0);
  pthread_cond_broadcast(&engine->news);
  return flagged;
}

static void flagged_tell(dibs_engine *engine) {
  pthread_cond_broadcast(&engine->news);
  if (!engine->flagged_callback) return;
  pthread_mutex_unlock(&engine->mutex);
  callback_tell(engine, engine->flagged_callback);
  pthread_mutex_lock(&engine->mutex);
}

static bool turn_is_due(const dibs_engine *engine) {
  if (engine->turning || engine->status || engine_rests(engine)) return false;
  if (engine->finished.first) return true;
  return engine->held && engine_now(engine) >= engine->extend_at;
}

/* When the keeper has something to do that nobody tells it. */
static int64_t keeper_due(const dibs_engine *engine) {
  int64_t due =
      engine_now(engine) +
      (engine->extend_every < BEAT_MOST ? engine->extend_every : BEAT_MOST);
  if (!engine->turning && !engine->status &&
      (engine->held || engine->finished.first)) {
    int64_t turn_at = engine->finished.first ? 0 : engine->extend_at;
    if (turn_at < engine->retry_at) turn_at = engine->retry_at;
    if (turn_at < due) due = turn_at;
  }
  for (const struct run *run = engine->running; run; run = run->next)
    if (run->deadline < due) due = run->deadline;
  return due;
}

static void keeper_sleep(dibs_engine *engine, uint32_t value) {
  engine->wake_at = keeper_due(engine);
  int64_t length = engine->wake_at - engine_now(engine);
  if (engine->db->clock && length > CLOCK_DRIVEN) length = CLOCK_DRIVEN;
  if (length <= 0) length = 1;
  engine->asleep = true;
  pthread_mutex_unlock(&engine->mutex);
  mail_wait(engine->mail, value, length);
  engine_beat(engine);
  pthread_mutex_lock(&engine->mutex);
  engine->asleep = false;
}

/* The sidecar may have been replaced. */
static void keeper_mail(dibs_engine *engine) {
  _Atomic uint32_t *word = mail_word(engine->db->sidecar);
  engine->mail = word ? word : &engine->word;
}

static void *keeper_main(void *context) {
  dibs_engine *engine = context;
  pthread_mutex_lock(&engine->mutex);
  while (!engine->closing) {
    keeper_mail(engine);
    uint32_t value = atomic_load(engine->mail);
    bool mailed = (value ^ engine->seen) & MAIL_REMOTE;
    if (timeouts_flag(engine)) flagged_tell(engine);
    if (turn_is_due(engine)) {
      bool wanted = engine->nexts || engine->ready_callback;
      engine_turn(engine, wanted && !engine->watching && engine->eager);
    } else if (mailed && !engine->turning) {
      engine->seen = value;
      if (losses_flag(engine)) flagged_tell(engine);
    } else if (engine->turning && (mailed || engine->finished.first)) {
      cond_sleep(engine, &engine->news, keeper_due(engine));
      pthread_mutex_unlock(&engine->mutex);
      engine_wait(engine);
      pthread_mutex_lock(&engine->mutex);
    } else {
      keeper_sleep(engine, value);
    }
  }
  pthread_mutex_unlock(&engine->mutex);
  return NULL;
}

/* In place of threads in next(). */
static void *waiter_main(void *context) {
  dibs_engine *engine = context;
  pthread_mutex_lock(&engine->mutex);
  while (!engine->closing) {
    if (engine_is_idle(engine) && !engine->ready.first)
      engine_seek(engine, NEVER);
    else
      cond_sleep(engine, &engine->jobs,
                 engine_rests(engine) ? engine->retry_at : NEVER);
  }
  pthread_mutex_unlock(&engine->mutex);
  return NULL;
}

/* ---------------------------------------------------------------- stopping */

static void ready_release(dibs_engine *engine) {
  struct run *run;
  while ((run = run_list_take(&engine->ready))) run_return(engine, run);
  keeper_wake(engine);
}

static bool engine_is_done(const dibs_engine *engine) {
  for (const struct run *run = engine->running; run; run = run->next)
    if (!run->released) return engine->status != 0;
  return engine->status || (!engine->finished.first && !engine->turning);
}

/* Settle what is finished, what is being finished meanwhile, and what a turn
** brought yet. */
static int finished_flush(dibs_engine *engine) {
  for (;;) {
    while (engine->turning) cond_sleep(engine, &engine->news, NEVER);
    ready_release(engine);
    if (engine->status || !engine->finished.first) return engine->status;
    int status = engine_turn(engine, false);
    if (status) return status;
  }
}

/* A lease that is given back. It does without the run, which its handler may
** finish at any time. */
struct returned {
  dibs_settlement settlement;
  unsigned epoch;
  char receipt[RECEIPT_SIZE];
};

static size_t running_leave(dibs_engine *engine, struct returned *returned) {
  size_t count = 0;
  for (struct run *run = engine->running; run; run = run->next) {
    if (run->released) continue;
    struct returned *one = &returned[count++];
    snprintf(one->receipt, sizeof one->receipt, "%s", run->public.job->receipt);
    one->settlement.receipt = one->receipt;
    one->settlement.action = DIBS_RELEASE;
    one->epoch = run->epoch;
    run->leaving = true;
  }
  return count;
}

/* Gives in *released how many were still ours. */
static int returned_write(dibs_engine *engine, struct returned *returned,
                          size_t count, size_t *released,
                          char message[MESSAGE_SIZE]) {
  int status;
  dibs_db *db = engine->db;
  engine_beat(engine);
  if (!handle_enter(db, &status)) return status;
  int64_t asked = db->now;
  sql_begin_write(db);
  for (size_t i = 0; i < count && !db->status; i++) {
    settlement_run(db, &returned[i].settlement,
                   settle_time(engine, returned[i].epoch, asked));
    *released += !returned[i].settlement.status;
  }
  sql_end(db);
  snprintf(message, MESSAGE_SIZE, "%s", db->message);
  return handle_leave(db);
}

/* If they could not be given back they are still ours, but for those whose
** handlers have been told otherwise. */
static void running_left(dibs_engine *engine, int status) {
  for (struct run *run = engine->running; run; run = run->next) {
    if (!run->leaving) continue;
    run->leaving = false;
    run->released = !status;
    if (status)
      engine->held++;
    else
      flags_raise(run, DIBS_RUN_LOST);
  }
}

/* Give back what handlers still have: their runs stay until they are
** finished. */
static int running_release(dibs_engine *engine, size_t *released) {
  size_t given = 0;
  char message[MESSAGE_SIZE] = "";
  if (!engine->held) return DIBS_OK;
  struct returned *returned = calloc((size_t)engine->held, sizeof *returned);
  if (!returned) return DIBS_NOMEM;
  size_t count = running_leave(engine, returned);
  engine->held -= (int64_t)count;
  engine->turning = true;
  pthread_mutex_unlock(&engine->mutex);
  int status = returned_write(engine, returned, count, &given, message);
  pthread_mutex_lock(&engine->mutex);
  running_left(engine, status);
  engine->turning = false;
  if (status && !engine->status)
    memcpy(engine->message, message, sizeof engine->message);
  pthread_cond_broadcast(&engine->news);
  if (!status) flagged_tell(engine);
  free(returned);
  if (released && !status) *released = given;
  return status;
}

/* With the mutex, which is let go of meanwhile. */
static void stop_begin(dibs_engine *engine) {
  engine->stopped = true;
  for (struct run *run = engine->running; run; run = run->next)
    flags_raise(run, DIBS_RUN_STOPPING);
  watch_end(engine);
  pthread_cond_broadcast(&engine->jobs);
  ready_release(engine);
  flagged_tell(engine);
}

void dibs_engine_stop_begin(dibs_engine *engine) {
  if (!engine || engine->pid != getpid()) return;
  pthread_mutex_lock(&engine->mutex);
  stop_begin(engine);
  pthread_mutex_unlock(&engine->mutex);
}

/* A stop must not last as long as other writers please, nor leave jobs unsettled
** because one was writing just then. */
static int64_t stop_patience(int64_t grace) {
  int64_t now = time_monotonic();
  if (grace < STOP_BUSY) grace = STOP_BUSY;
  return grace > NEVER - now ? NEVER : now + grace;
}

int dibs_engine_stop(dibs_engine *engine, int64_t grace, size_t *released) {
  if (released) *released = 0;
  if (!engine) return DIBS_MISUSE;
  if (engine->pid != getpid()) return DIBS_FORKED;
  pthread_mutex_lock(&engine->mutex);
  int64_t deadline = deadline_in(engine, grace);
  if (grace > 0 || atomic_load(&engine->patience) == NEVER)
    atomic_store(&engine->patience, stop_patience(grace));
  stop_begin(engine);
  /* A turn may be bringing jobs yet. */
  while (!engine_is_done(engine) && engine_now(engine) < deadline) {
    cond_sleep(engine, &engine->news, deadline);
    ready_release(engine);
  }
  int status = finished_flush(engine);
  if (!status) status = running_release(engine, released);
  pthread_mutex_unlock(&engine->mutex);
  return status;
}

/* ----------------------------------------------------------------- opening */

static int engine_fail(dibs_engine *engine, int status, const char *format, ...)
    DIBS_PRINTF(3, 4);

static int engine_fail(dibs_engine *engine, int status, const char *format,
                       ...) {
  va_list arguments;
  va_start(arguments, format);
  message_format(engine->message, sizeof engine->message, format, arguments);
  va_end(arguments);
  engine->status = status;
  return status;
}

const char *dibs_engine_error(dibs_engine *engine) {
  return engine ? engine->message : dibs_error(NULL);
}

static int options_refuse(dibs_engine *engine,
                          const dibs_engine_options *options) {
  if (options->size != sizeof *options)
    return engine_fail(engine, DIBS_MISUSE,
                       "engine options were not set up with "
                       "DIBS_ENGINE_OPTIONS_INIT");
  if (options->slots != DIBS_UNSET &&
      (options->slots < 1 || options->slots > DIBS_CLAIM_MAX))
    return engine_fail(engine, DIBS_INVALID, "slots is %lld: give 1 to %d",
                       (long long)options->slots, DIBS_CLAIM_MAX);
  if (options->lease != DIBS_UNSET && options->lease <= 0)
    return engine_fail(engine, DIBS_INVALID,
                       "lease is %lld ms: give more than 0",
                       (long long)options->lease);
  if (options->max_jobs != DIBS_UNSET && options->max_jobs < 1)
    return engine_fail(engine, DIBS_INVALID, "max_jobs is %lld: give 1 or more",
                       (long long)options->max_jobs);
  if (options->worker && name_problem(options->worker))
    return engine_fail(engine, DIBS_INVALID, "worker '%s' %s", options->worker,
                       name_problem(options->worker));
  return DIBS_OK;
}

static bool queues_copy(dibs_engine *engine, struct patterns patterns) {
  engine->queues = pattern_copy(patterns);
  if (!engine->queues) return false;
  engine->patterns =
      (struct patterns){(const char *const *)engine->queues, patterns.count};
  return true;
}

static int options_take(dibs_engine *engine,
                        const dibs_engine_options *options) {
  dibs_db *db = engine->db;
  int status;
  engine->slots = options->slots == DIBS_UNSET ? 1 : options->slots;
  engine->lease = options->lease == DIBS_UNSET ? ENGINE_LEASE : options->lease;
  engine->extend_every = engine->lease / 3 ? engine->lease / 3 : 1;
  engine->pause_last =
      engine->extend_every < PAUSE_LAST ? engine->extend_every : PAUSE_LAST;
  engine->in_order = options->in_order != 0;
  engine->drain = options->drain != 0;
  engine->left = options->max_jobs == DIBS_UNSET ? NEVER : options->max_jobs;
  engine->context = options->context;
  engine->ready_callback = options->ready;
  engine->flagged_callback = options->flagged;
  engine->settled_callback = options->settled;
  if (options->worker && !(engine->worker = strdup(options->worker)))
    return engine_fail(engine, DIBS_NOMEM, "%s", dibs_error(NULL));
  if (!handle_enter(db, &status)) return engine->status = status;
  struct patterns patterns =
      pattern_or_default(db, options->queues, options->queue_count);
  if (!db->status && !queues_copy(engine, patterns)) handle_nomem(db);
  if (db->status) engine_fail(engine, db->status, "%s", db->message);
  return handle_leave(db);
}

static int threads_start(dibs_engine *engine) {
  engine->keeper_runs = thread_start(&engine->keeper, keeper_main, engine);
  engine->waiter_runs = engine->keeper_runs && engine->ready_callback &&
                        thread_start(&engine->waiter, waiter_main, engine);
  if (engine->keeper_runs && (engine->waiter_runs || !engine->ready_callback))
    return DIBS_OK;
  return engine_fail(engine, DIBS_NOMEM, "a thread cannot be started");
}

static int engine_start(dibs_engine *engine,
                        const dibs_engine_options *options) {
  if (options_refuse(engine, options)) return engine->status;
  if (options_take(engine, options)) return engine->status;
  struct sidecar *sidecar = engine->db->sidecar;
  int64_t holder = sidecar_hold(sidecar);
  engine->holder = holder ? holder : DIBS_UNSET;
  if (holder) atomic_store(&sidecar->attached, true);
  monitor_start(sidecar);
  atomic_store(&engine->beat, time_since_boot());
  engine_beat(engine);
  engine->db->engine = engine;
  engine->eager = true;
  /* From now on, however late the keeper comes. */
  keeper_mail(engine);
  engine->seen = atomic_load(engine->mail);
  return threads_start(engine);
}

static bool engine_init(dibs_engine *engine) {
  pthread_condattr_t attributes;
  if (pthread_mutex_init(&engine->mutex, NULL)) return false;
  if (pthread_mutex_init(&engine->telling, NULL)) return false;
  if (pthread_condattr_init(&attributes)) return false;
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  bool good = !pthread_cond_init(&engine->jobs, &attributes) &&
              !pthread_cond_init(&engine->news, &attributes);
  pthread_condattr_destroy(&attributes);
  return good;
}

int dibs_engine_open(const char *path, const dibs_open_options *open_options,
                     const dibs_engine_options *options, dibs_engine **out) {
  static const dibs_engine_options defaults = DIBS_ENGINE_OPTIONS_INIT;
  if (!out) return DIBS_MISUSE;
  *out = NULL;
  dibs_engine *engine = calloc(1, sizeof *engine);
  if (!engine) return DIBS_NOMEM;
  if (!engine_init(engine)) {
    free(engine);
    return DIBS_NOMEM;
  }
  engine->pid = getpid();
  engine->holder = DIBS_UNSET;
  atomic_store(&engine->patience, NEVER);
  *out = engine;
  int status = dibs_open(path, open_options, &engine->db);
  if (status) return engine_fail(engine, status, "%s", dibs_error(engine->db));
  return engine_start(engine, options ? options : &defaults);
}

static void threads_end(dibs_engine *engine) {
  pthread_mutex_lock(&engine->mutex);
  engine->closing = true;
  watch_end(engine);
  pthread_cond_broadcast(&engine->jobs);
  pthread_cond_broadcast(&engine->news);
  keeper_wake(engine);
  pthread_mutex_unlock(&engine->mutex);
  if (engine->keeper_runs) pthread_join(engine->keeper, NULL);
  if (engine->waiter_runs) pthread_join(engine->waiter, NULL);
}

int dibs_engine_close(dibs_engine *engine) {
  int status = DIBS_OK;
  if (!engine) return DIBS_OK;
  if (engine->pid != getpid()) return DIBS_FORKED;
  if (engine->keeper_runs && !engine->status)
    status = dibs_engine_stop(engine, 0, NULL);
  threads_end(engine);
  run_list_free(&engine->ready);
  run_list_free(&engine->finished);
  for (struct run *run = engine->running, *next; run; run = next) {
    next = run->next;
    run_free(run);
  }
  dibs_close(engine->db);
  pattern_free(engine->queues, engine->patterns.count);
  pattern_free(engine->unknown, engine->unknown_count);
  free(engine->worker);
  pthread_cond_destroy(&engine->jobs);
  pthread_cond_destroy(&engine->news);
  pthread_mutex_destroy(&engine->telling);
  pthread_mutex_destroy(&engine->mutex);
  free(engine);
  return status;
}
