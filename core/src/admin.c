/* SPDX-License-Identifier: MIT */
/*
** admin.c: changing jobs from outside: cancel, change, dead letters, clear,
** prune. What may concern many jobs goes in steps of bounded size, each a
** transaction of its own, so that nobody waits long for the write lock.
*/
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_ROWS     500
#define CURSOR_MEMORY 604800000 /* ms that an unused cursor is kept: 7 days */

/* ------------------------------------------------------ outcomes of each id */

static void outcome_fail(dibs_id_outcome *outcome, int status,
                         const char *format, ...) DIBS_PRINTF(3, 4);

static void outcome_fail(dibs_id_outcome *outcome, int status,
                         const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  message_format(outcome->message, sizeof outcome->message, format, arguments);
  va_end(arguments);
  outcome->status = status;
}

/* What is done to one job: with its placement, leaving its state. */
typedef void id_action(dibs_db *db, const struct job *job,
                       struct placement *placement, dibs_id_outcome *outcome);

static void id_run(dibs_db *db, int64_t id, id_action *action,
                   dibs_id_outcome *outcome) {
  struct job job;
  struct placement placement = {.state = 0};
  *outcome = (dibs_id_outcome){.status = DIBS_OK};
  if (job_read(db, id, &job)) placement_find(db, &job, &placement);
  if (placement.state)
    action(db, &job, &placement, outcome);
  else
    outcome_fail(outcome, DIBS_NOT_FOUND, "there is no job %lld",
                 (long long)id);
  placement_free(&placement);
}

/* Do it to each id, in one transaction. Without `outcomes` the first failure
** is the handle's. */
static int ids_run(dibs_db *db, const int64_t *ids, size_t count,
                   id_action *action, dibs_id_outcome *outcomes,
                   int64_t *done) {
  int status;
  int64_t good = 0;
  dibs_id_outcome one, first = {.status = DIBS_OK};
  if (!handle_enter(db, &status)) return status;
  if (count && !ids)
    handle_fail(db, DIBS_MISUSE, "ids is NULL but their count is not 0");
  sql_begin_write(db);
  for (size_t i = 0; i < count && !db->status; i++) {
    dibs_id_outcome *outcome = outcomes ? &outcomes[i] : &one;
    id_run(db, ids[i], action, outcome);
    if (!outcome->status) good++;
    if (outcome->status && !first.status) first = *outcome;
  }
  sql_end(db);
  if (done) *done = db->status ? 0 : good;
  for (size_t i = 0; db->status && outcomes && i < count; i++)
    outcome_fail(&outcomes[i], db->status, "%.*s",
                 (int)sizeof outcomes->message - 1, db->message);
  if (first.status && !outcomes)
    handle_fail(db, first.status, "%s", first.message);
  return handle_leave(db);
}

/* ------------------------------------------------------------------ cancel */

static void cancel_action(dibs_db *db, const struct job *job,
                          struct placement *placement,
                          dibs_id_outcome *outcome) {
  if (placement->state == DIBS_DONE) {
    outcome->state = DIBS_DONE;
    outcome_fail(outcome, DIBS_STATE, "job %lld is done already",
                 (long long)job->id);
    return;
  }
  if (placement->state == DIBS_RUNNING && placement->holder > 0)
    wake_note_mail(&db->wakes, placement->holder);
  placement_leave(db, job, placement);
  outcome->state = job_finish(db, job, placement, DIBS_CANCELLED, NULL);
  if (placement->state == DIBS_RUNNING)
    limit_left(db, job);
  else
    limit_passed(db, job);
}

int dibs_cancel(dibs_db *db, const int64_t *ids, size_t count,
                dibs_id_outcome *outcomes, int64_t *cancelled) {
  return ids_run(db, ids, count, cancel_action, outcomes, cancelled);
}

/* ------------------------------------------------------------------ change */

static void change_check(dibs_db *db, const dibs_change_options *options) {
  if (!options || options->size != sizeof *options)
    handle_fail(db, DIBS_MISUSE,
                "change options were not set up with "
                "DIBS_CHANGE_OPTIONS_INIT");
  else if (options->priority != DIBS_UNSET &&
           (options->priority < INT32_MIN || options->priority > INT32_MAX))
    handle_fail(db, DIBS_INVALID, "priority is %lld: give a 32-bit integer",
                (long long)options->priority);
  else if (options->delay != DIBS_UNSET && options->at != DIBS_UNSET)
    handle_fail(db, DIBS_INVALID, "delay and at are both given: give one");
  else if (options->delay != DIBS_UNSET &&
           (options->delay < 0 || options->delay > TIME_MAX))
    handle_fail(db, DIBS_INVALID, "delay is %lld ms: give 0 or more",
                (long long)options->delay);
  else if (options->at != DIBS_UNSET &&
           (options->at < 0 || options->at > TIME_MAX))
    handle_fail(db, DIBS_INVALID, "at is %lld: give milliseconds since 1970",
                (long long)options->at);
  else if (options->stage != DIBS_UNSET &&
           (options->stage < 1 || options->stage > TIME_MAX))
    handle_fail(db, DIBS_INVALID, "stage is %lld ms: give more than 0",
                (long long)options->stage);
}

static void change_run(dibs_db *db, const struct job *job,
                       struct placement *placement,
                       const dibs_change_options *options) {
  struct history *history = &placement->history;
  if (options->delay != DIBS_UNSET)
    history->due_at = time_add(db->now, options->delay);
  if (options->at != DIBS_UNSET) history->due_at = options->at;
  if (options->stage != DIBS_UNSET &&
      placement->until < time_add(db->now, options->stage))
    placement->until = time_add(db->now, options->stage);
  job_move(db, job, placement,
           options->priority == DIBS_UNSET ? job->priority : options->priority);
  limit_passed(db, job);
}

/* Whether the job may be changed so; the handle's error says why not. */
static bool change_may(dibs_db *db, int64_t id,
                       const struct placement *placement, bool staging) {
  bool late = staging && (placement->state ? placement->until <= db->now
                                           : staged_was(db, id));
  if (!placement->state && !late)
    handle_fail(db, DIBS_NOT_FOUND, "there is no job %lld", (long long)id);
  else if (placement->state >= DIBS_RUNNING)
    handle_fail(db, DIBS_STATE,
                "job %lld is %s: only a waiting job can be "
                "changed",
                (long long)id, dibs_state_name(placement->state));
  else if (staging && placement->state && placement->state != DIBS_STAGED)
    handle_fail(db, DIBS_STATE, "job %lld is %s, not staged", (long long)id,
                dibs_state_name(placement->state));
  else if (late)
    handle_fail(db, DIBS_LATE,
                "the time of staged job %lld ran out: enqueue it again",
                (long long)id);
  return !db->status;
}

int dibs_change(dibs_db *db, int64_t id, const dibs_change_options *options) {
  int status;
  struct job job;
  struct placement placement = {.state = 0};
  if (!handle_enter(db, &status)) return status;
  change_check(db, options);
  sql_begin_write(db);
  if (job_read(db, id, &job)) placement_find(db, &job, &placement);
  if (!db->status &&
      change_may(db, id, &placement, options->stage != DIBS_UNSET))
    change_run(db, &job, &placement, options);
  placement_free(&placement);
  sql_end(db);
  return handle_leave(db);
}

/* ------------------------------------------------------------ dead letters */

/* Back to work: attempts at 0, errors kept, age kept. It will be tried even if
** its expiry has passed, for somebody asked for it. */
static void requeue_run(dibs_db *db, struct job *job,
                        struct placement *placement) {
  placement_leave(db, job, placement);
  placement->history =
      (struct history){.due_at = db->now, .errors = placement->history.errors};
  job->expires_at = DIBS_UNSET;
  sql_run(db, SQL_JOB_UNEXPIRE, SQL_ARGS(sql_int(job->id)));
  unique_acquire(db, job);
  if (lane_join(db, job))
    place_waiting(db, job, &placement->history);
  else
    place_blocked(db, job, &placement->history);
}

static void requeue_action(dibs_db *db, const struct job *job,
                           struct placement *placement,
                           dibs_id_outcome *outcome) {
  struct job changed = *job;
  outcome->state = placement->state;
  if (placement->state != DIBS_DEAD) {
    outcome_fail(outcome, DIBS_STATE, "job %lld is %s, not dead",
                 (long long)job->id, dibs_state_name(placement->state));
    return;
  }
  int64_t holder = unique_holder(db, job);
  if (holder) {
    outcome_fail(outcome, DIBS_EXISTS,
                 "job %lld stays dead: job %lld has its "
                 "unique key '%.100s'",
                 (long long)job->id, (long long)holder, job->unique_key);
    return;
  }
  requeue_run(db, &changed, placement);
  outcome->state = lane_is_head(db, &changed) ? DIBS_READY : DIBS_BLOCKED;
}

int dibs_requeue(dibs_db *db, const int64_t *ids, size_t count,
                 dibs_id_outcome *outcomes, int64_t *moved) {
  return ids_run(db, ids, count, requeue_action, outcomes, moved);
}

/* ------------------------------------------------------------------- steps */

/* A walk over many jobs, a step a transaction. */
struct sweep {
  struct text queue_ids; /* as queue_ids() gives them */
  enum sql sql;          /* gives ids above ?1, at most ?2, of queues ?3 */
  int64_t after;
  int64_t count; /* of jobs acted on */
  int64_t *skipped;
  size_t skipped_count;
};

typedef void sweep_action(dibs_db *db, struct sweep *sweep,
                          const struct job *job, struct placement *placement);

static void sweep_one(dibs_db *db, struct sweep *sweep, int64_t id,
                      sweep_action *action) {
  struct job job;
  struct placement placement;
  if (!job_read(db, id, &job)) return;
  placement_find(db, &job, &placement);
  if (placement.state) action(db, sweep, &job, &placement);
  placement_free(&placement);
}

/* One transaction. False when there are none left. */
static bool sweep_step(dibs_db *db, struct sweep *sweep, sweep_action *action) {
  int64_t ids[STEP_ROWS];
  int count = 0;
  int64_t before = sweep->count;
  sql_begin_write(db);
  sqlite3_stmt *row = sql_first(
      db, sweep->sql,
      SQL_ARGS(sql_int(sweep->after), sql_int(STEP_ROWS),
               sql_sized(sweep->queue_ids.data, sweep->queue_ids.size),
               sql_text(NULL)));
  if (row) {
    do ids[count++] = sql_column_int(db, row, 0);
    while (count < STEP_ROWS && sql_next(db, row));
    sql_reset(db, row);
  }
  for (int i = 0; i < count && !db->status; i++)
    sweep_one(db, sweep, ids[i], action);
  sql_end(db);
  if (db->status) sweep->count = before;
  if (count) sweep->after = ids[count - 1];
  /* A step that did nothing though it may not skip would never end. */
  bool stuck = sweep->sql == SQL_SWEEP_READY && sweep->count == before;
  return !db->status && count == STEP_ROWS && !stuck;
}

static void sweep_run(dibs_db *db, struct sweep *sweep, enum sql sql,
                      sweep_action *action) {
  sweep->sql = sql;
  sweep->after = 0;
  if (db->status) return;
  while (sweep_step(db, sweep, action)) {
  }
}

/* Enter an operation that destroys: patterns must be given. */
static bool sweep_enter(dibs_db *db, const char *const *queues, size_t count,
                        struct sweep *sweep, int *status) {
  *sweep = (struct sweep){.count = 0};
  if (!handle_enter(db, status)) return false;
  if (!count)
    handle_fail(db, DIBS_INVALID, "no queue is given: name one, or say all");
  queue_ids(db, pattern_check(db, queues, count), &sweep->queue_ids);
  return true;
}

static int sweep_leave(dibs_db *db, struct sweep *sweep, int64_t *count) {
  text_free(&sweep->queue_ids);
  if (count) *count = sweep->count;
  return handle_leave(db);
}

static void remove_action(dibs_db *db, struct sweep *sweep,
                          const struct job *job, struct placement *placement) {
  placement_leave(db, job, placement);
  job_remove(db, job, placement);
  limit_passed(db, job);
  sweep->count++;
}

int dibs_purge(dibs_db *db, const char *const *queues, size_t count,
               int64_t *removed) {
  int status;
  struct sweep sweep;
  if (!sweep_enter(db, queues, count, &sweep, &status)) return status;
  sweep_run(db, &sweep, SQL_LIST_DEAD, remove_action);
  return sweep_leave(db, &sweep, removed);
}

/* The blocked go before the others, or each head that goes would unblock the
** next. */
int dibs_clear(dibs_db *db, const char *const *queues, size_t count, int dead,
               int64_t *removed) {
  int status;
  struct sweep sweep;
  if (!sweep_enter(db, queues, count, &sweep, &status)) return status;
  sweep_run(db, &sweep, SQL_LIST_BLOCKED, remove_action);
  sweep_run(db, &sweep, SQL_LIST_STAGED, remove_action);
  sweep_run(db, &sweep, SQL_LIST_SCHEDULED, remove_action);
  sweep_run(db, &sweep, SQL_SWEEP_READY, remove_action);
  if (dead) sweep_run(db, &sweep, SQL_LIST_DEAD, remove_action);
  return sweep_leave(db, &sweep, removed);
}

static void skip_add(dibs_db *db, struct sweep *sweep, int64_t id) {
  size_t count = sweep->skipped_count;
  if (!(count & (count - 1))) { /* at every power of 2 */
    size_t capacity = count ? count * 2 : 1;
    int64_t *grown = realloc(sweep->skipped, capacity * sizeof *grown);
    if (!grown) {
      handle_nomem(db);
      return;
    }
    sweep->skipped = grown;
  }
  sweep->skipped[sweep->skipped_count++] = id;
}

static void redrive_action(dibs_db *db, struct sweep *sweep,
                           const struct job *job, struct placement *placement) {
  dibs_id_outcome outcome = {.status = DIBS_OK};
  requeue_action(db, job, placement, &outcome);
  if (outcome.status)
    skip_add(db, sweep, job->id);
  else
    sweep->count++;
}

int dibs_redrive(dibs_db *db, const char *const *queues, size_t count,
                 int64_t *moved, int64_t **skipped, size_t *skipped_count) {
  int status;
  struct sweep sweep;
  if (skipped) *skipped = NULL;
  if (skipped_count) *skipped_count = 0;
  if (!sweep_enter(db, queues, count, &sweep, &status)) return status;
  sweep_run(db, &sweep, SQL_LIST_DEAD, redrive_action);
  if (skipped && skipped_count && !db->status) {
    *skipped = sweep.skipped;
    *skipped_count = sweep.skipped_count;
  } else {
    free(sweep.skipped);
  }
  return sweep_leave(db, &sweep, moved);
}

/* ------------------------------------------------------------------- pausing */

/* Make the queues that are named and that nobody ever used. */
static void queues_make(dibs_db *db, struct patterns patterns) {
  struct queue queue;
  for (size_t i = 0; i < patterns.count && !db->status; i++)
    if (pattern_is_name(patterns.items[i]))
      queue_need(db, patterns.items[i], &queue);
}

/* What waits in them may be claimed again. */
static void resumed_tell(dibs_db *db, const struct sql_value *ids) {
  char name[KEY_SIZE];
  sqlite3_stmt *row = sql_first(db, SQL_RESUMED, ids);
  if (!row) return;
  do {
    sql_column_key(db, row, 0, name);
    wake_note_all(&db->wakes, wake_channel(name));
  } while (!db->status && sql_next(db, row));
  if (db->status) sql_reset(db, row);
}

static int pause_run(dibs_db *db, const char *const *queues, size_t count,
                     bool pause, int64_t *changed) {
  int status;
  int64_t rows = 0;
  struct text text = {.data = NULL};
  if (!handle_enter(db, &status)) return status;
  if (!count)
    handle_fail(db, DIBS_INVALID, "no queue is given: name one, or say all");
  struct patterns patterns = pattern_check(db, queues, count);
  if (!db->status) {
    sql_begin_write(db);
    if (pause) queues_make(db, patterns);
    queue_ids(db, patterns, &text);
    const struct sql_value *ids = SQL_ARGS(sql_sized(text.data, text.size));
    if (!pause) resumed_tell(db, ids);
    sql_run(db, pause ? SQL_PAUSE : SQL_RESUME, ids);
    rows = sql_changes(db);
    db->cache.queue.id = 0;
    sql_end(db);
  }
  text_free(&text);
  if (changed) *changed = db->status ? 0 : rows;
  return handle_leave(db);
}

int dibs_pause(dibs_db *db, const char *const *queues, size_t count,
               int64_t *changed) {
  return pause_run(db, queues, count, true, changed);
}

int dibs_resume(dibs_db *db, const char *const *queues, size_t count,
                int64_t *changed) {
  return pause_run(db, queues, count, false, changed);
}

/* ------------------------------------------------------------------- prune */

int dibs_prune(dibs_db *db, int64_t *removed) {
  int status;
  int64_t count = 0, step;
  if (!handle_enter(db, &status)) return status;
  do {
    sql_begin_write(db);
    step = tidy_prune(db, STEP_ROWS);
    sql_end(db);
    if (!db->status) count += step;
  } while (step && !db->status);
  sql_begin_write(db);
  sql_run(db, SQL_UNIQUE_CLEAN, SQL_ARGS(sql_int(db->now), sql_int(INT32_MAX)));
  sql_run(db, SQL_CURSOR_CLEAN, SQL_ARGS(sql_int(db->now - CURSOR_MEMORY)));
  sql_run(db, SQL_QUEUE_CLEAN, SQL_NONE);
  db->cache.queue.id = 0;
  sql_end(db);
  if (removed) *removed = count;
  return handle_leave(db);
}
