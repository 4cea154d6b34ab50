/* SPDX-License-Identifier: MIT */
/*
** model.h: what a queue means, without a database: jobs in an array, each with
** its state, and one function for each thing that can happen to them. It is
** written from the documented rules, as plainly as can be, for a handful of
** jobs; test_model.c holds it against the library.
**
** What a limit holds back is ready here: whether the library has put it aside by
** then, as blocked, or not yet met it, is its own affair. What counts is what a
** claim gives: the first in order that may start.
**
** What only time brings about (leases that run out, jobs that fall due,
** expiries, stages, ends of keeping) happens, as in the library, when somebody
** claims: model_tidy().
*/
#ifndef DIBS_MODEL_H
#define DIBS_MODEL_H

#include <dibs.h>
#include <stddef.h>
#include <stdint.h>

#define MODEL_QUEUES 4
#define MODEL_JOBS   256
#define MODEL_LATE   4096
#define MODEL_KEYS   4 /* limit keys; 0 is none, or the queue itself */

typedef struct model_job {
  int64_t id;
  int queue; /* 0 to MODEL_QUEUES - 1 */
  int state; /* enum dibs_state; 0: the slot is free */
  int outcome;
  int payload; /* a number, the job's JSON */
  int64_t priority;
  int64_t created_at;
  int64_t due_at; /* DIBS_UNSET: at once */
  int64_t expires_at;
  int64_t attempt;
  int64_t max_attempts;
  int64_t crashes;
  int64_t max_crashes;
  int64_t lapses;
  int64_t errors;
  int64_t backoff;
  double backoff_factor;
  int64_t backoff_cap;
  int64_t keep;  /* DIBS_UNSET: not given */
  int64_t until; /* of the lease, or the stage, or the keeping */
  int64_t claimed_at;
  int64_t finished_at;
  int key;       /* 0: none */
  int head;      /* it is the head of its lane; a dead one holds it */
  int limit_key; /* 0: none */
  int unique;    /* 0: none */
  int scope_all;
  int64_t unique_for; /* DIBS_UNIQUE_UNTIL_*, or a time */
  char receipt[48];   /* of its last claim */
} model_job;

/* A unique key that is held. */
typedef struct model_hold {
  int key;   /* 0: the slot is free */
  int queue; /* -1: all */
  int64_t id;
  int64_t until; /* once the job is finished; 0: it is not */
} model_hold;

/* So many starts per period. */
typedef struct model_rate {
  int64_t count; /* 0: no rate */
  int64_t period;
} model_rate;

/* What a queue is set to, and how many starts its rates allowed at a time. */
typedef struct model_queue {
  int64_t limit; /* -1: none */
  int64_t limit_per_key;
  model_rate rate;
  model_rate rate_per_key;
  int64_t burst;      /* 0: not given */
  int dead_head;      /* 1: a dead head holds its lane */
  int64_t keep_count; /* -1: none */
  double tokens[MODEL_KEYS];
  int64_t at[MODEL_KEYS];
} model_queue;

typedef struct model {
  int64_t now;
  int64_t next_id;
  model_job jobs[MODEL_JOBS];
  model_hold holds[MODEL_JOBS];
  int64_t expired[MODEL_QUEUES];
  int paused[MODEL_QUEUES];
  model_queue queues[MODEL_QUEUES];
  struct {
    int64_t id;
    int64_t until;
  } late[MODEL_LATE];
  int late_first; /* a ring, in the order of `until` */
  int late_next;
} model;

void model_start(model *m, int64_t now);
size_t model_count(const model *m);

/* The job of that id, or NULL. */
model_job *model_find(model *m, int64_t id);

/* What time has brought about. */
void model_tidy(model *m);

/* Enqueue a job like `wanted` (its id, state and head do not matter); what is
** there already goes by `on_conflict`. Gives the status; *id and *existing. On
** entry *id says which one to take, where several hold the key. */
int model_enqueue(model *m, const model_job *wanted, int64_t stage,
                  int on_conflict, int64_t *id, int *existing);
int model_commit(model *m, int64_t id);
int model_abort(model *m, int64_t id);

/* The next job that a claim on a queue gives, or NULL. */
model_job *model_next(model *m, int queue);
void model_claim(model *m, model_job *job, int64_t lease, const char *receipt);

/* When time alone lets a job of a queue start that only rates hold back;
** DIBS_UNSET: it will not, or there is none. */
int64_t model_token_due(model *m, int queue);

/* Whether a limit, of whatever kind, is set. */
int model_limited(const model *m, int queue);

/* Set a queue: `wanted` has all of its settings. */
void model_set(model *m, int queue, const model_queue *wanted);

/* The process that holds a job died. */
void model_crash(model *m, model_job *job);

/* The running job whose receipt it is and whose lease holds, or NULL. */
model_job *model_holder(model *m, const char *receipt);

/* Settle a job that is held. */
void model_settle(model *m, model_job *job, int action, int64_t delay,
                  int64_t lease, int has_error);

/* The same by its receipt while it runs: another payload, and a longer lease
** unless that is DIBS_UNSET. */
void model_checkpoint(model *m, model_job *job, int payload, int64_t lease);

/* Pause or resume a queue that is there. Gives whether that changed it. */
int model_pause(model *m, int queue, int pause);

int model_cancel(model *m, int64_t id);
int model_change(model *m, int64_t id, int64_t priority, int64_t due_at);
int model_requeue(model *m, int64_t id);
int64_t model_clear(model *m, int queue, int waiting, int dead);
int64_t model_prune(model *m);

#endif
