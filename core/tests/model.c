/* SPDX-License-Identifier: MIT */
/*
** model.c: the rules of a queue in plain C. See model.h.
*/
#include "model.h"

#include <math.h>
#include <string.h>

#define DAY INT64_C(86400000)
#define FOR_EACH(job, m)                                                       \
  for (model_job *job = (m)->jobs; job < (m)->jobs + MODEL_JOBS; job++)        \
    if (job->state)

static int is_waiting(const model_job *job) {
  return job->state && job->state < DIBS_RUNNING;
}

static int is_unfinished(const model_job *job) {
  return job->state && job->state <= DIBS_RUNNING;
}

static int is_expired(const model *m, const model_job *job) {
  return job->expires_at != DIBS_UNSET && job->expires_at <= m->now;
}

void model_start(model *m, int64_t now) {
  memset(m, 0, sizeof *m);
  m->now = now;
  m->next_id = 1;
  for (int i = 0; i < MODEL_QUEUES; i++) {
    model_queue *queue = &m->queues[i];
    queue->limit = queue->limit_per_key = queue->keep_count = -1;
    for (int key = 0; key < MODEL_KEYS; key++) queue->tokens[key] = HUGE_VAL;
  }
}

size_t model_count(const model *m) {
  size_t count = 0;
  for (size_t i = 0; i < MODEL_JOBS; i++) count += m->jobs[i].state != 0;
  return count;
}

model_job *model_find(model *m, int64_t id) {
  FOR_EACH(job, m) {
    if (job->id == id) return job;
  }
  return NULL;
}

/* ---- Placing -------------------------------------------------------------- */

/* Who waits has no claim: the time of an earlier one is forgotten. */
static void place_waiting(const model *m, model_job *job) {
  job->claimed_at = DIBS_UNSET;
  int later = job->due_at != DIBS_UNSET && job->due_at > m->now;
  job->state = later ? DIBS_SCHEDULED : DIBS_READY;
}

/* The unfinished ones of its key, and a dead one that holds them. */
static int is_in_lane(const model_job *job) {
  return job->key &&
         (is_unfinished(job) || (job->state == DIBS_DEAD && job->head));
}

/* Whether anybody but `job` is in its lane. */
static int lane_has_others(model *m, const model_job *job) {
  FOR_EACH(other, m) {
    if (other != job && is_in_lane(other) && other->key == job->key &&
        other->queue == job->queue) {
      return 1;
    }
  }
  return 0;
}

static void lane_join(model *m, model_job *job) {
  job->head = !job->key || !lane_has_others(m, job);
}

/* The job has left its lane: the first of the others is the head. */
static void lane_leave(model *m, model_job *job) {
  model_job *first = NULL;
  int was_head = job->head;
  job->head = 0;
  if (!job->key || !was_head) return;
  FOR_EACH(other, m) {
    if (other != job && is_unfinished(other) && other->key == job->key &&
        other->queue == job->queue && (!first || other->id < first->id)) {
      first = other;
    }
  }
  if (!first) return;
  first->head = 1;
  if (first->state == DIBS_BLOCKED) place_waiting(m, first);
}

/* ---- Unique keys ----------------------------------------------------------- */

static int hold_ended(const model *m, const model_hold *hold) {
  return hold->until != 0 && hold->until <= m->now;
}

/* Who holds a job's key: one of its queue, or of all; of all queues, anyone,
** and of several that one whose id is `which`. */
static model_hold *hold_find(model *m, const model_job *job, int64_t which) {
  model_hold *found = NULL;
  for (model_hold *hold = m->holds; hold < m->holds + MODEL_JOBS; hold++) {
    if (hold->key == 0 || hold->key != job->unique || hold_ended(m, hold)) {
      continue;
    }
    if (!job->scope_all && hold->queue != -1 && hold->queue != job->queue) {
      continue;
    }
    if (!found || hold->id == which) found = hold;
  }
  return found;
}

static void hold_add(model *m, const model_job *job) {
  int queue = job->scope_all ? -1 : job->queue;
  model_hold *free_slot = NULL;
  for (model_hold *hold = m->holds; hold < m->holds + MODEL_JOBS; hold++) {
    int same = hold->key == job->unique && hold->queue == queue;
    if (same || (hold->key == 0 && !free_slot)) free_slot = hold;
    if (same) break;
  }
  *free_slot = (model_hold){job->unique, queue, job->id, 0};
}

static model_hold *hold_of(model *m, const model_job *job) {
  for (model_hold *hold = m->holds; hold < m->holds + MODEL_JOBS; hold++) {
    if (hold->key && hold->id == job->id) return hold;
  }
  return NULL;
}

static void hold_drop(model *m, const model_job *job) {
  model_hold *hold = hold_of(m, job);
  if (hold) hold->key = 0;
}

/* The job is finished; a time outlives it. */
static void hold_finish(model *m, const model_job *job) {
  model_hold *hold = hold_of(m, job);
  if (!hold || hold->until) return;
  if (job->unique_for <= m->now) {
    hold->key = 0;
  } else {
    hold->until = job->unique_for;
  }
}

/* ---- Ends ------------------------------------------------------------------- */

/* Of the done jobs that are more than their queue keeps, let up to `limit` go, the
** oldest first. Gives how many. */
static int64_t keep_most(model *m, int queue, int limit) {
  int64_t removed = 0;
  for (; removed < limit; removed++) {
    model_job *oldest = NULL;
    int64_t kept = 0;
    FOR_EACH(job, m) {
      if (job->state != DIBS_DONE || job->queue != queue) continue;
      kept++;
      if (!oldest || job->finished_at < oldest->finished_at ||
          (job->finished_at == oldest->finished_at && job->id < oldest->id)) {
        oldest = job;
      }
    }
    int64_t most = m->queues[queue].keep_count;
    if (most < 0 || kept <= most) break;
    oldest->state = 0;
  }
  return removed;
}

static void finish(model *m, model_job *job, int outcome) {
  lane_leave(m, job);
  hold_finish(m, job);
  job->state = DIBS_DONE;
  job->outcome = outcome;
  job->finished_at = m->now;
  int64_t most = m->queues[job->queue].keep_count;
  int64_t keep = job->keep;
  if (keep == DIBS_UNSET) keep = most >= 0 ? DIBS_FOREVER : 0;
  job->until = keep == DIBS_FOREVER ? keep : keep + m->now;
  if (keep == 0) job->state = 0;
  if (keep != 0 && most >= 0) keep_most(m, job->queue, 2);
}

static void remove_job(model *m, model_job *job) {
  lane_leave(m, job);
  hold_drop(m, job);
  job->state = 0;
}

static void die(model *m, model_job *job) {
  if (!job->key || !m->queues[job->queue].dead_head) lane_leave(m, job);
  hold_drop(m, job);
  job->state = DIBS_DEAD;
  job->finished_at = m->now;
}

static void expire(model *m, model_job *job) {
  m->expired[job->queue]++;
  finish(m, job, DIBS_EXPIRED);
}

/* ---- Time --------------------------------------------------------------------- */

static int64_t backoff(const model_job *job) {
  double delay = (double)job->backoff *
                 pow(job->backoff_factor, (double)(job->attempt - 1));
  if (delay > (double)job->backoff_cap) delay = (double)job->backoff_cap;
  return (int64_t)delay;
}

static int is_final(const model_job *job) {
  return job->max_attempts > 0 && job->attempt >= job->max_attempts;
}

/* Back to wait, unless its time is over. */
static void place_again(model *m, model_job *job) {
  if (is_expired(m, job)) {
    expire(m, job);
  } else {
    place_waiting(m, job);
  }
}

static void lapse(model *m, model_job *job) {
  job->errors++;
  if (is_final(job)) {
    die(m, job);
    return;
  }
  job->due_at = m->now;
  if (++job->lapses > 1) job->due_at += backoff(job);
  place_again(m, job);
}

void model_crash(model *m, model_job *job) {
  job->errors++;
  job->crashes++;
  if (is_final(job) ||
      (job->max_crashes > 0 && job->crashes >= job->max_crashes)) {
    die(m, job);
    return;
  }
  job->due_at = m->now;
  if (job->crashes > 1) job->due_at += backoff(job);
  place_again(m, job);
}

static void stage_ends(model *m, model_job *job) {
  m->late[m->late_next].id = job->id;
  m->late[m->late_next].until = m->now + DAY;
  m->late_next = (m->late_next + 1) % MODEL_LATE;
  remove_job(m, job);
}

/* A stage out of time is remembered for a day. */
static void forget_late(model *m) {
  while (m->late_first != m->late_next &&
         m->late[m->late_first].until <= m->now) {
    m->late_first = (m->late_first + 1) % MODEL_LATE;
  }
}

void model_tidy(model *m) {
  forget_late(m);
  FOR_EACH(job, m) {
    if (job->state == DIBS_RUNNING && job->until <= m->now) lapse(m, job);
  }
  FOR_EACH(job, m) {
    if (is_waiting(job) && is_expired(m, job)) expire(m, job);
  }
  FOR_EACH(job, m) {
    if (job->state == DIBS_STAGED && job->until <= m->now) stage_ends(m, job);
  }
  FOR_EACH(job, m) {
    if (job->state == DIBS_SCHEDULED) place_waiting(m, job);
  }
  model_prune(m);
}

int64_t model_prune(model *m) {
  int64_t removed = 0;
  FOR_EACH(job, m) {
    if (job->state != DIBS_DONE || job->until > m->now) continue;
    job->state = 0;
    removed++;
  }
  for (int queue = 0; queue < MODEL_QUEUES; queue++) {
    removed += keep_most(m, queue, MODEL_JOBS);
  }
  for (model_hold *hold = m->holds; hold < m->holds + MODEL_JOBS; hold++) {
    if (hold->key && hold_ended(m, hold)) hold->key = 0;
  }
  return removed;
}

/* ---- Enqueuing ------------------------------------------------------------------ */

static void conflict(model *m, model_job *there, const model_job *wanted,
                     int on_conflict) {
  if (!there || !is_waiting(there)) return;
  if (on_conflict == DIBS_CONFLICT_REPLACE) there->payload = wanted->payload;
  if (on_conflict != DIBS_CONFLICT_POSTPONE) return;
  there->due_at = wanted->due_at == DIBS_UNSET ? m->now : wanted->due_at;
  if (there->state == DIBS_READY || there->state == DIBS_SCHEDULED) {
    place_waiting(m, there);
  }
}

static model_job *slot_find(model *m) {
  for (model_job *job = m->jobs; job < m->jobs + MODEL_JOBS; job++) {
    if (!job->state) return job;
  }
  return NULL;
}

int model_enqueue(model *m, const model_job *wanted, int64_t stage,
                  int on_conflict, int64_t *id, int *existing) {
  model_hold *hold = wanted->unique ? hold_find(m, wanted, *id) : NULL;
  *existing = hold != NULL;
  if (hold) {
    *id = hold->id;
    if (on_conflict == DIBS_CONFLICT_REJECT) return DIBS_EXISTS;
    conflict(m, model_find(m, hold->id), wanted, on_conflict);
    return DIBS_OK;
  }
  model_job *job = slot_find(m);
  *job = *wanted;
  job->id = *id = m->next_id++;
  job->created_at = m->now;
  job->claimed_at = job->finished_at = DIBS_UNSET;
  job->state = DIBS_STAGED;
  job->until = m->now + stage;
  lane_join(m, job);
  if (job->unique) hold_add(m, job);
  if (stage != DIBS_UNSET) return DIBS_OK;
  job->state = DIBS_BLOCKED;
  if (job->head) place_waiting(m, job);
  return DIBS_OK;
}

static int not_staged(const model *m, const model_job *job, int64_t id) {
  if (job) return DIBS_STATE;
  for (int i = m->late_first; i != m->late_next; i = (i + 1) % MODEL_LATE) {
    if (m->late[i].id == id) return DIBS_LATE;
  }
  return DIBS_NOT_FOUND;
}

int model_commit(model *m, int64_t id) {
  model_job *job = model_find(m, id);
  if (!job || job->state != DIBS_STAGED) return not_staged(m, job, id);
  if (job->until <= m->now) return DIBS_LATE;
  job->state = DIBS_BLOCKED;
  if (job->head) place_waiting(m, job);
  return DIBS_OK;
}

int model_abort(model *m, int64_t id) {
  model_job *job = model_find(m, id);
  if (!job || job->state != DIBS_STAGED) return not_staged(m, job, id);
  remove_job(m, job);
  return DIBS_OK;
}

/* ---- Claiming and settling --------------------------------------------------------- */

/* The bucket of a limit key, 0 that of the queue, as it is now. */
static double tokens_now(model *m, int queue, int key) {
  model_queue *q = &m->queues[queue];
  const model_rate *rate = key ? &q->rate_per_key : &q->rate;
  double burst = (double)(q->burst > 0 ? q->burst : rate->count);
  if (!rate->count) return HUGE_VAL;
  q->tokens[key] += (double)(m->now - q->at[key]) * (double)rate->count /
                    (double)rate->period;
  if (q->tokens[key] > burst) q->tokens[key] = burst;
  q->at[key] = m->now;
  return q->tokens[key];
}

static int64_t running(model *m, int queue, int limit_key) {
  int64_t count = 0;
  FOR_EACH(job, m) {
    count += job->state == DIBS_RUNNING && job->queue == queue &&
             (!limit_key || job->limit_key == limit_key);
  }
  return count;
}

/* Whether its limits, leaving the rates aside, let the job start. */
static int has_place(model *m, const model_job *job) {
  const model_queue *q = &m->queues[job->queue];
  if (q->limit >= 0 && running(m, job->queue, 0) >= q->limit) return 0;
  return !job->limit_key || q->limit_per_key < 0 ||
         running(m, job->queue, job->limit_key) < q->limit_per_key;
}

static int may_start(model *m, const model_job *job) {
  if (!has_place(m, job) || tokens_now(m, job->queue, 0) < 1) return 0;
  return !job->limit_key || tokens_now(m, job->queue, job->limit_key) >= 1;
}

model_job *model_next(model *m, int queue) {
  model_job *best = NULL;
  if (m->paused[queue]) return NULL;
  FOR_EACH(job, m) {
    if (job->state != DIBS_READY || job->queue != queue || !may_start(m, job))
      continue;
    if (!best || job->priority > best->priority ||
        (job->priority == best->priority && job->id < best->id)) {
      best = job;
    }
  }
  return best;
}

static int64_t bucket_due(model *m, int queue, int key) {
  const model_queue *q = &m->queues[queue];
  const model_rate *rate = key ? &q->rate_per_key : &q->rate;
  double tokens = tokens_now(m, queue, key);
  if (tokens >= 1) return m->now;
  return m->now + (int64_t)ceil((1 - tokens) * (double)rate->period /
                                (double)rate->count);
}

int64_t model_token_due(model *m, int queue) {
  int64_t earliest = DIBS_UNSET;
  if (m->paused[queue]) return DIBS_UNSET;
  FOR_EACH(job, m) {
    if (job->state != DIBS_READY || job->queue != queue || !has_place(m, job))
      continue;
    int64_t due = bucket_due(m, queue, 0);
    int64_t of_key =
        job->limit_key ? bucket_due(m, queue, job->limit_key) : due;
    if (of_key > due) due = of_key;
    if (earliest == DIBS_UNSET || due < earliest) earliest = due;
  }
  return earliest;
}

int model_limited(const model *m, int queue) {
  const model_queue *q = &m->queues[queue];
  return q->limit >= 0 || q->limit_per_key >= 0 || q->rate.count ||
         q->rate_per_key.count;
}

void model_claim(model *m, model_job *job, int64_t lease, const char *receipt) {
  model_queue *q = &m->queues[job->queue];
  if (q->rate.count) q->tokens[0] -= 1;
  if (job->limit_key && q->rate_per_key.count) q->tokens[job->limit_key] -= 1;
  job->state = DIBS_RUNNING;
  job->attempt++;
  job->claimed_at = m->now;
  job->until = m->now + lease;
  strncpy(job->receipt, receipt, sizeof job->receipt - 1);
  if (job->unique && job->unique_for == DIBS_UNIQUE_UNTIL_START) {
    hold_drop(m, job);
  }
}

model_job *model_holder(model *m, const char *receipt) {
  FOR_EACH(job, m) {
    if (job->state == DIBS_RUNNING && job->until > m->now &&
        strcmp(job->receipt, receipt) == 0) {
      return job;
    }
  }
  return NULL;
}

static void retry(model *m, model_job *job, int64_t delay) {
  job->errors++;
  if (is_final(job)) {
    die(m, job);
    return;
  }
  job->due_at = m->now + (delay == DIBS_UNSET ? backoff(job) : delay);
  place_again(m, job);
}

static void extend(const model *m, model_job *job, int64_t lease) {
  if (m->now + lease > job->until) job->until = m->now + lease;
}

void model_settle(model *m, model_job *job, int action, int64_t delay,
                  int64_t lease, int has_error) {
  switch (action) {
  case DIBS_ACK: finish(m, job, DIBS_ACKED); break;
  case DIBS_RETRY: retry(m, job, delay); break;
  case DIBS_FAIL:
    job->errors++;
    die(m, job);
    break;
  case DIBS_RELEASE:
    job->attempt--;
    place_again(m, job);
    break;
  case DIBS_SNOOZE:
    job->attempt--;
    job->due_at = m->now + delay;
    place_again(m, job);
    break;
  case DIBS_DISCARD:
    job->errors += has_error;
    finish(m, job, DIBS_DISCARDED);
    break;
  case DIBS_EXTEND: extend(m, job, lease); break;
  default: break;
  }
}

void model_checkpoint(model *m, model_job *job, int payload, int64_t lease) {
  job->payload = payload;
  if (lease != DIBS_UNSET) extend(m, job, lease);
}

/* ---- Changing ------------------------------------------------------------------------ */

int model_cancel(model *m, int64_t id) {
  model_job *job = model_find(m, id);
  if (!job) return DIBS_NOT_FOUND;
  if (job->state == DIBS_DONE) return DIBS_STATE;
  finish(m, job, DIBS_CANCELLED);
  return DIBS_OK;
}

int model_change(model *m, int64_t id, int64_t priority, int64_t due_at) {
  model_job *job = model_find(m, id);
  if (!job) return DIBS_NOT_FOUND;
  if (!is_waiting(job)) return DIBS_STATE;
  if (priority != DIBS_UNSET) job->priority = priority;
  if (due_at != DIBS_UNSET) job->due_at = due_at;
  if (job->state == DIBS_READY || job->state == DIBS_SCHEDULED) {
    place_waiting(m, job);
  }
  return DIBS_OK;
}

int model_requeue(model *m, int64_t id) {
  model_job *job = model_find(m, id);
  if (!job) return DIBS_NOT_FOUND;
  if (job->state != DIBS_DEAD) return DIBS_STATE;
  if (job->unique && hold_find(m, job, 0)) return DIBS_EXISTS;
  job->attempt = 0;
  job->crashes = 0;
  job->lapses = 0;
  job->due_at = m->now;
  job->expires_at = DIBS_UNSET;
  job->claimed_at = job->finished_at = DIBS_UNSET;
  job->state = DIBS_BLOCKED;
  if (!job->head) lane_join(m, job); /* it may have held its lane */
  if (job->unique) hold_add(m, job);
  if (job->head) place_waiting(m, job);
  return DIBS_OK;
}

/* What is full stays full, whatever the burst is from now on; a rate that is new
** begins so. */
static void tokens_keep(model *m, int queue, int key) {
  model_queue *q = &m->queues[queue];
  const model_rate *rate = key ? &q->rate_per_key : &q->rate;
  int64_t burst = q->burst > 0 ? q->burst : rate->count;
  if (!rate->count || tokens_now(m, queue, key) >= (double)burst) {
    q->tokens[key] = HUGE_VAL;
  }
  q->at[key] = m->now;
}

/* What dead heads hold is let go, and what the count alone has kept. */
void model_set(model *m, int queue, const model_queue *wanted) {
  model_queue *q = &m->queues[queue];
  for (int key = 0; key < MODEL_KEYS; key++) tokens_keep(m, queue, key);
  FOR_EACH(job, m) {
    if (job->queue != queue) continue;
    if (!wanted->dead_head && job->state == DIBS_DEAD) lane_leave(m, job);
    if (wanted->keep_count < 0 && job->state == DIBS_DONE &&
        q->keep_count >= 0 && job->keep == DIBS_UNSET) {
      job->until = m->now;
    }
  }
  q->limit = wanted->limit;
  q->limit_per_key = wanted->limit_per_key;
  q->rate = wanted->rate;
  q->rate_per_key = wanted->rate_per_key;
  q->burst = wanted->burst;
  q->dead_head = wanted->dead_head;
  q->keep_count = wanted->keep_count;
}

int model_pause(model *m, int queue, int pause) {
  int changed = m->paused[queue] != pause;
  m->paused[queue] = pause;
  return changed;
}

int64_t model_clear(model *m, int queue, int waiting, int dead) {
  int64_t removed = 0;
  /* The heads go last, so that nothing is unblocked on the way. */
  for (int heads = 0; heads <= 1; heads++) {
    FOR_EACH(job, m) {
      int meant =
          (waiting && is_waiting(job)) || (dead && job->state == DIBS_DEAD);
      if (!meant || (queue >= 0 && job->queue != queue)) continue;
      if (!heads && job->head) continue;
      remove_job(m, job);
      removed++;
    }
  }
  return removed;
}
