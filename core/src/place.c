/* SPDX-License-Identifier: MIT */
/*
** place.c: where jobs are. It alone writes to dibs_queue, to the placement
** tables, to dibs_lane, dibs_unique and dibs_error, but for these: enqueue adds
** runs of ready rows, claim takes ready rows and adds leases, settle extends
** them, tidy drops rows that have no job.
**
** A job that leaves its placement goes on by one of five ways: place_waiting,
** place_blocked, job_finish, job_die, job_remove. The last three end it: it
** leaves its lane, which lets the next member go, and lets its unique key go. A
** queue may be set to have a dead head hold its lane: then it stays in it.
*/
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PRUNED_AT_ONCE 64

/* ------------------------------------------------------------------ queues */

void queue_find(dibs_db *db, const char *name, struct queue *queue) {
  struct queue *cached = &db->cache.queue;
  if (db->writing && cached->id && !strcmp(cached->name, name)) {
    *queue = *cached;
    return;
  }
  *queue = (struct queue){.id = 0};
  sqlite3_stmt *row = sql_first(db, SQL_QUEUE, SQL_ARGS(sql_text(name)));
  if (!row) return;
  queue->id = sql_column_int(db, row, 0);
  queue->claimable = sql_column_int(db, row, 1) != 0;
  queue->paused = sql_column_int(db, row, 2) != 0;
  queue->limited = sql_column_int(db, row, 3) != 0;
  queue->defaults = sql_column_int(db, row, 4) != 0;
  queue->keeping = sql_column_int(db, row, 5) != 0;
  strcpy(queue->name, name);
  sql_reset(db, row);
  if (db->writing) *cached = *queue;
}

void queue_need(dibs_db *db, const char *name, struct queue *queue) {
  queue_find(db, name, queue);
  if (queue->id || db->status) return;
  sql_run(db, SQL_QUEUE_ADD, SQL_ARGS(sql_text(name)));
  queue_find(db, name, queue);
}

/* The channel on which its waiters sleep. */
static int queue_channel(dibs_db *db, int64_t queue_id) {
  char name[KEY_SIZE] = "";
  if (db->cache.queue.id == queue_id) return wake_channel(db->cache.queue.name);
  sqlite3_stmt *row =
      sql_first(db, SQL_QUEUE_NAME, SQL_ARGS(sql_int(queue_id)));
  if (!row) return 0;
  sql_column_key(db, row, 0, name);
  sql_reset(db, row);
  return wake_channel(name);
}

void queue_claimable(dibs_db *db, int64_t queue_id, int64_t count) {
  struct queue *cached = &db->cache.queue;
  bool known = cached->id == queue_id;
  if (known && cached->paused) return;
  if (count)
    wake_note(&db->wakes, queue_channel(db, queue_id),
              count < SLOT_COUNT ? (int)count : SLOT_COUNT);
  if (known && cached->claimable) return;
  sql_run(db, SQL_QUEUE_CLAIMABLE, SQL_ARGS(sql_int(queue_id)));
  if (known) cached->claimable = true;
}

void queue_taken(dibs_db *db, const struct queue *queue, int64_t count) {
  if (db->wakes.mask) wake_unnote(&db->wakes, wake_channel(queue->name), count);
}

/* Who waits looks at the times anew at each fallback interval. */
void queue_due(dibs_db *db, int64_t queue_id, int64_t at) {
  if (at - db->now <= FALLBACK + FALLBACK / 10)
    wake_note_all(&db->wakes, queue_channel(db, queue_id));
}

void queue_empty(dibs_db *db, int64_t queue_id) {
  sql_run(db, SQL_QUEUE_EMPTY, SQL_ARGS(sql_int(queue_id)));
  db->cache.queue.id = 0;
}

void event_note(dibs_db *db, int64_t at) {
  if (at != DIBS_UNSET && at < db->cache.next_event) db->cache.next_event = at;
}

/* Append the ids of the queues of one pattern, each with a comma. */
static void ids_append(dibs_db *db, struct text *ids, const char *pattern) {
  char low[PATTERN_SIZE], high[PATTERN_SIZE];
  sqlite3_stmt *row;
  if (pattern_is_name(pattern)) {
    row = sql_first(db, SQL_QUEUE, SQL_ARGS(sql_text(pattern)));
  } else {
    pattern_range(pattern, low, high);
    row = sql_first(db, SQL_QUEUES_BETWEEN,
                    SQL_ARGS(sql_text(low), sql_text(high)));
  }
  if (!row) return;
  do text_format(ids, "%lld,", (long long)sql_column_int(db, row, 0));
  while (sql_next(db, row));
}

void queue_ids(dibs_db *db, struct patterns patterns, struct text *ids) {
  if (!patterns.count) return;
  for (size_t i = 0; i < patterns.count; i++)
    if (!strcmp(patterns.items[i], DIBS_ALL)) return;
  text_string(ids, "[");
  for (size_t i = 0; i < patterns.count; i++)
    ids_append(db, ids, patterns.items[i]);
  if (!ids->failed && ids->size > 1) ids->size--; /* the last comma */
  text_string(ids, "]");
  if (ids->failed) handle_nomem(db);
}

/* -------------------------------------------------------------- placements */

void history_read(dibs_db *db, sqlite3_stmt *row, int column,
                  struct history *history) {
  history->due_at = sql_column_time(db, row, column);
  history->attempt = sql_column_count(db, row, column + 1);
  history->crashes = sql_column_count(db, row, column + 2);
  history->lapses = sql_column_count(db, row, column + 3);
  history->errors = sql_column_count(db, row, column + 4);
}

/* A copy of a column's text; NULL for NULL. */
static char *column_copy(dibs_db *db, sqlite3_stmt *row, int column) {
  const char *text = sql_column_text(db, row, column);
  char *copy = text ? strdup(text) : NULL;
  if (text && !copy) handle_nomem(db);
  return copy;
}

/* The columns until, claimed_at, worker, progress, progress_text. */
static void details_read(dibs_db *db, sqlite3_stmt *row, int column,
                         struct placement *placement) {
  placement->until = sql_column_time(db, row, column);
  placement->claimed_at = sql_column_time(db, row, column + 1);
  placement->worker = column_copy(db, row, column + 2);
  placement->progress = sql_column_real(db, row, column + 3);
  placement->progress_text = column_copy(db, row, column + 4);
}

void placement_find(dibs_db *db, const struct job *job,
                    struct placement *placement) {
  *placement = (struct placement){.progress = (double)NAN};
  sqlite3_stmt *row =
      sql_first(db, SQL_PLACEMENT,
                SQL_ARGS(sql_int(job->id), sql_int(job->queue_id),
                         sql_int(job->priority)));
  if (!row) return;
  placement->state = (int)sql_column_int(db, row, 0);
  history_read(db, row, 1, &placement->history);
  placement->token = sql_column_int(db, row, 6);
  details_read(db, row, 7, placement);
  placement->holder = sql_column_int(db, row, 12);
  sql_reset(db, row);
}

void placement_free(struct placement *placement) {
  free(placement->worker);
  free(placement->progress_text);
}

void placement_leave(dibs_db *db, const struct job *job,
                     const struct placement *placement) {
  static const enum sql statements[] = {
      [DIBS_SCHEDULED] = SQL_SCHEDULED_REMOVE,
      [DIBS_BLOCKED] = SQL_BLOCKED_REMOVE,
      [DIBS_STAGED] = SQL_STAGED_REMOVE,
      [DIBS_RUNNING] = SQL_LEASED_REMOVE,
      [DIBS_DONE] = SQL_DONE_REMOVE,
      [DIBS_DEAD] = SQL_DEAD_REMOVE,
  };
  if (placement->state == DIBS_READY)
    sql_run(db, SQL_READY_REMOVE,
            SQL_ARGS(sql_int(job->queue_id), sql_int(job->priority),
                     sql_int(job->id)));
  else if (placement->state)
    sql_run(db, statements[placement->state], SQL_ARGS(sql_int(job->id)));
}

static int ready_add(dibs_db *db, const struct job *job,
                     const struct history *history) {
  sql_run(db, SQL_READY_ADD,
          SQL_ARGS(sql_int(job->queue_id), sql_int(job->priority),
                   sql_int(job->id), sql_int(history->due_at),
                   sql_int(history->attempt), sql_int(history->crashes),
                   sql_int(history->lapses), sql_int(history->errors)));
  queue_claimable(db, job->queue_id, 1);
  return DIBS_READY;
}

int place_waiting(dibs_db *db, const struct job *job,
                  const struct history *history) {
  if (history->due_at == DIBS_UNSET || history->due_at <= db->now)
    return ready_add(db, job, history);
  sql_run(db, SQL_SCHEDULED_ADD,
          SQL_ARGS(sql_int(job->id), sql_int(job->queue_id),
                   sql_int(history->due_at), sql_int(history->attempt),
                   sql_int(history->crashes), sql_int(history->lapses),
                   sql_int(history->errors)));
  sql_run(db, SQL_QUEUE_DUE,
          SQL_ARGS(sql_int(job->queue_id), sql_int(history->due_at)));
  event_note(db, history->due_at);
  queue_due(db, job->queue_id, history->due_at);
  return DIBS_SCHEDULED;
}

void place_blocked(dibs_db *db, const struct job *job,
                   const struct history *history) {
  sql_run(db, SQL_BLOCKED_ADD,
          SQL_ARGS(sql_int(job->id), sql_int(job->queue_id),
                   sql_int(history->due_at), sql_int(history->attempt),
                   sql_int(history->crashes), sql_int(history->lapses),
                   sql_int(history->errors)));
}

void place_staged(dibs_db *db, const struct job *job, int64_t until,
                  int64_t due_at) {
  sql_run(db, SQL_STAGED_ADD,
          SQL_ARGS(sql_int(job->id), sql_int(job->queue_id), sql_int(until),
                   sql_int(due_at)));
  event_note(db, until);
}

void job_move(dibs_db *db, const struct job *job, struct placement *placement,
              int64_t priority) {
  struct job moved = *job;
  placement_leave(db, job, placement);
  moved.priority = priority;
  if (priority != job->priority)
    sql_run(db, SQL_JOB_PRIORITY,
            SQL_ARGS(sql_int(job->id), sql_int(priority)));
  if (placement->state == DIBS_STAGED)
    place_staged(db, job, placement->until, placement->history.due_at);
  else if (placement->state == DIBS_BLOCKED && !lane_is_head(db, job))
    place_blocked(db, &moved, &placement->history);
  else
    placement->state = place_waiting(db, &moved, &placement->history);
}

int place_again(dibs_db *db, const struct job *job,
                const struct placement *placement) {
  if (job->expires_at == DIBS_UNSET || job->expires_at > db->now)
    return place_waiting(db, job, &placement->history);
  job_expire(db, job, placement);
  return DIBS_DONE;
}

void queue_promote(dibs_db *db, int64_t queue_id, int64_t limit) {
  const struct sql_value *values =
      SQL_ARGS(sql_int(queue_id), sql_int(db->now), sql_int(limit));
  sql_run(db, SQL_PROMOTE_ADD, values);
  int64_t count = sql_changes(db);
  sql_run(db, SQL_PROMOTE_REMOVE, values);
  sql_run(db, SQL_PROMOTE_NEXT, SQL_ARGS(sql_int(queue_id), sql_int(db->now)));
  queue_claimable(db, queue_id, count);
}

/* -------------------------------------------------------------------- jobs */

/* The columns JOB_COLUMNS from `column` on. */
static void job_fill(dibs_db *db, sqlite3_stmt *row, int column,
                     struct job *job) {
  job->queue_id = sql_column_int(db, row, column++);
  job->created_at = sql_column_int(db, row, column++);
  job->priority = sql_column_int(db, row, column++);
  job->expires_at = sql_column_int(db, row, column++);
  job->max_attempts = sql_column_int(db, row, column++);
  job->max_crashes = sql_column_int(db, row, column++);
  job->backoff = sql_column_int(db, row, column++);
  job->backoff_factor = sql_column_real(db, row, column++);
  job->backoff_cap = sql_column_int(db, row, column++);
  job->backoff_jitter = sql_column_real(db, row, column++);
  job->keep = sql_column_int(db, row, column++);
  job->unique_scope = sql_column_int(db, row, column++);
  job->unique_for = sql_column_int(db, row, column++);
  sql_column_key(db, row, column++, job->key);
  sql_column_key(db, row, column++, job->unique_key);
  sql_column_key(db, row, column++, job->limit_key);
}

bool job_read(dibs_db *db, int64_t id, struct job *job) {
  sqlite3_stmt *row = sql_first(db, SQL_JOB, SQL_ARGS(sql_int(id)));
  if (!row) return false;
  job->id = id;
  job_fill(db, row, 0, job);
  sql_reset(db, row);
  return !db->status;
}

bool lease_read(dibs_db *db, int64_t id, int64_t token, int64_t time,
                struct job *job, struct placement *placement) {
  *placement = (struct placement){.state = DIBS_RUNNING, .token = token};
  sqlite3_stmt *row = sql_first(
      db, SQL_LEASED, SQL_ARGS(sql_int(id), sql_int(token), sql_int(time)));
  if (!row) return false;
  history_read(db, row, 0, &placement->history);
  details_read(db, row, 5, placement);
  job->id = id;
  job_fill(db, row, 10, job);
  sql_reset(db, row);
  return !db->status;
}

bool job_is_final(const struct job *job, int64_t attempt) {
  int64_t most = job->max_attempts == DIBS_UNSET ? DIBS_DEFAULT_MAX_ATTEMPTS
                                                 : job->max_attempts;
  return most > 0 && attempt >= most;
}

int64_t job_backoff(dibs_db *db, const struct job *job, int64_t attempt) {
  int64_t first = job->backoff, cap = job->backoff_cap;
  double factor = job->backoff_factor, jitter = job->backoff_jitter;
  if (first == DIBS_UNSET) first = DIBS_DEFAULT_BACKOFF;
  if (cap == DIBS_UNSET) cap = DIBS_DEFAULT_BACKOFF_CAP;
  if (isnan(factor)) factor = DIBS_DEFAULT_BACKOFF_FACTOR;
  if (isnan(jitter)) jitter = DIBS_DEFAULT_BACKOFF_JITTER;
  double delay = (double)first * pow(factor, (double)(attempt - 1));
  if (delay > (double)cap) delay = (double)cap;
  double part = (double)(random_next(db) >> 11) * 0x1p-53; /* 0 to 1 */
  delay *= 1 + jitter * part;
  /* Also false for what a damaged row may make of it. */
  if (!(delay > 0)) return 0;
  return delay < (double)TIME_MAX ? (int64_t)delay : TIME_MAX;
}

void error_add(dibs_db *db, const struct job *job, struct placement *placement,
               const char *text) {
  size_t size = strlen(text);
  if (size > DIBS_ERROR_MAX) size = utf8_floor(text, DIBS_ERROR_MAX);
  int64_t number = ++placement->history.errors;
  int64_t ms = time_between(placement->claimed_at, db->now);
  sql_run(db, SQL_ERROR_ADD,
          SQL_ARGS(sql_int(job->id), sql_int(number),
                   sql_int(placement->history.attempt), sql_int(db->now),
                   sql_int(ms), sql_text(placement->worker),
                   sql_sized(text, size)));
  if (number > DIBS_ERRORS_KEPT)
    sql_run(db, SQL_ERROR_TRIM,
            SQL_ARGS(sql_int(job->id), sql_int(number - DIBS_ERRORS_KEPT)));
}

/* ------------------------------------------------------------------- lanes */

bool lane_is_head(dibs_db *db, const struct job *job) {
  if (!*job->key) return true;
  return sql_get(db, SQL_LANE_HEAD,
                 SQL_ARGS(sql_int(job->queue_id), sql_text(job->key)),
                 0) == job->id;
}

static void lane_set_head(dibs_db *db, const struct job *job, int64_t id,
                          int head) {
  sql_run(db, SQL_LANE_SET_HEAD,
          SQL_ARGS(sql_int(job->queue_id), sql_text(job->key), sql_int(id),
                   sql_int(head)));
}

bool lane_join(dibs_db *db, const struct job *job) {
  if (!*job->key) return true;
  int64_t head =
      sql_get(db, SQL_LANE_HEAD,
              SQL_ARGS(sql_int(job->queue_id), sql_text(job->key)), 0);
  if (head == job->id) { /* it died as the head, and held the lane */
    lane_set_head(db, job, head, LANE_HEAD);
    return true;
  }
  sql_run(db, SQL_LANE_ADD,
          SQL_ARGS(sql_int(job->queue_id), sql_text(job->key), sql_int(job->id),
                   sql_int(!head)));
  return !head;
}

/* The first of the lane becomes its head, and waits no longer if it was
** blocked; a staged one stays staged, and the lane waits for it. */
static void lane_advance(dibs_db *db, const struct job *left) {
  struct job job;
  struct placement placement;
  int64_t id =
      sql_get(db, SQL_LANE_FIRST,
              SQL_ARGS(sql_int(left->queue_id), sql_text(left->key)), 0);
  if (!id || !job_read(db, id, &job)) return;
  lane_set_head(db, left, id, LANE_HEAD);
  placement_find(db, &job, &placement);
  if (placement.state == DIBS_BLOCKED) {
    placement_leave(db, &job, &placement);
    place_waiting(db, &job, &placement.history);
  }
  placement_free(&placement);
}

static void lane_leave(dibs_db *db, const struct job *job) {
  if (!*job->key) return;
  bool head = lane_is_head(db, job);
  sql_run(
      db, SQL_LANE_REMOVE,
      SQL_ARGS(sql_int(job->queue_id), sql_text(job->key), sql_int(job->id)));
  if (head) lane_advance(db, job);
}

/* The head died: the next may go, unless the queue says otherwise. */
static void lane_dead(dibs_db *db, const struct job *job) {
  if (!*job->key) return;
  const struct sql_value *setting =
      SQL_ARGS(sql_int(job->queue_id), sql_text("dead_head"));
  if (sql_get(db, SQL_SETTING, setting, DEAD_HEAD_SKIP) == DEAD_HEAD_BLOCK)
    lane_set_head(db, job, job->id, LANE_DEAD);
  else
    lane_leave(db, job);
}

void lanes_apply(dibs_db *db, int64_t queue_id) {
  struct job job;
  int64_t id, before = 0;
  const struct sql_value *first = SQL_ARGS(sql_int(queue_id), sql_int(1));
  const struct sql_value *setting =
      SQL_ARGS(sql_int(queue_id), sql_text("dead_head"));
  if (sql_get(db, SQL_SETTING, setting, DEAD_HEAD_SKIP) == DEAD_HEAD_BLOCK)
    return;
  while ((id = sql_get(db, SQL_LANES_DEAD, first, 0)) && !db->status) {
    if (id != before && job_read(db, id, &job))
      lane_leave(db, &job);
    else
      handle_fail(db, DIBS_CORRUPT, "job %lld holds a lane that is not its own",
                  (long long)id);
    before = id;
  }
}

/* ------------------------------------------------------------- unique keys */

int64_t unique_holder(dibs_db *db, const struct job *job) {
  if (job->unique_scope == DIBS_UNSET) return 0;
  return sql_get(db, SQL_UNIQUE_HOLDER,
                 SQL_ARGS(sql_text(job->unique_key), sql_int(job->unique_scope),
                          sql_int(db->now)),
                 0);
}

void unique_acquire(dibs_db *db, const struct job *job) {
  if (job->unique_scope == DIBS_UNSET) return;
  int64_t until = job->unique_for < 0 ? DIBS_UNSET : job->unique_for;
  sql_run(db, SQL_UNIQUE_ADD,
          SQL_ARGS(sql_text(job->unique_key), sql_int(job->unique_scope),
                   sql_int(job->id), sql_int(until)));
}

static void unique_remove(dibs_db *db, const struct job *job) {
  if (job->unique_scope == DIBS_UNSET) return;
  sql_run(db, SQL_UNIQUE_REMOVE,
          SQL_ARGS(sql_text(job->unique_key), sql_int(job->unique_scope),
                   sql_int(job->id)));
}

void unique_start(dibs_db *db, const struct job *job) {
  if (job->unique_for == DIBS_UNIQUE_UNTIL_START) unique_remove(db, job);
}

/* A key that is held for a time outlives its job. */
static void unique_finish(dibs_db *db, const struct job *job) {
  if (job->unique_scope == DIBS_UNSET) return;
  if (job->unique_for < 0 || job->unique_for <= db->now)
    unique_remove(db, job);
  else
    sql_run(db, SQL_UNIQUE_FINISH,
            SQL_ARGS(sql_text(job->unique_key), sql_int(job->unique_scope),
                     sql_int(job->id)));
  event_note(db, job->unique_for);
}

/* -------------------------------------------------------------------- ends */

/* Let go of the expiry of an unfinished job. Harmless when it has done so already,
** as a dead one has. */
static void expiry_leave(dibs_db *db, const struct job *job) {
  if (job->expires_at != DIBS_UNSET)
    sql_run(db, SQL_EXPIRY_REMOVE,
            SQL_ARGS(sql_int(job->expires_at), sql_int(job->id)));
}

/* Let go of the lane, too. */
static void job_let_go(dibs_db *db, const struct job *job) {
  wake_note_all(&db->wakes, CHANNEL_ENDED);
  lane_leave(db, job);
  expiry_leave(db, job);
}

int64_t id_next(dibs_db *db) {
  int64_t *next = &db->cache.next_id;
  if (!*next) *next = sql_get(db, SQL_NEXT_ID, SQL_NONE, 0);
  return *next;
}

/* The highest id is remembered when its job goes, lest it be used again. */
void job_forget(dibs_db *db, int64_t id, int64_t errors) {
  if (id >= id_next(db) - 1) sql_run(db, SQL_LAST_ID, SQL_ARGS(sql_int(id)));
  if (errors) sql_run(db, SQL_ERRORS_REMOVE, SQL_ARGS(sql_int(id)));
  sql_run(db, SQL_JOB_REMOVE, SQL_ARGS(sql_int(id)));
}

/* As if it had never been: its unique key is free, whatever its time. */
void job_remove(dibs_db *db, const struct job *job,
                const struct placement *placement) {
  job_let_go(db, job);
  unique_remove(db, job);
  job_forget(db, job->id, placement->history.errors);
}

/* ----------------------------------------------------------------- keeping */

void done_remove(dibs_db *db, int64_t id, int64_t queue_id) {
  sql_run(db, SQL_DONE_REMOVE, SQL_ARGS(sql_int(id)));
  sql_run(db, SQL_KEPT_ADD, SQL_ARGS(sql_int(queue_id), sql_int(-1)));
  job_forget(db, id, 1);
}

int64_t queue_prune(dibs_db *db, int64_t queue_id, int64_t limit) {
  int64_t ids[PRUNED_AT_ONCE];
  int count = 0;
  if (limit > PRUNED_AT_ONCE) limit = PRUNED_AT_ONCE;
  sqlite3_stmt *row = sql_first(db, SQL_KEPT_SURPLUS,
                                SQL_ARGS(sql_int(queue_id), sql_int(limit)));
  if (!row) return 0;
  do ids[count++] = sql_column_int(db, row, 0);
  while (sql_next(db, row));
  for (int i = 0; i < count && !db->status; i++)
    done_remove(db, ids[i], queue_id);
  return count;
}

/* What is kept by the count alone goes with it. */
void keeping_apply(dibs_db *db, int64_t queue_id) {
  const struct sql_value *setting =
      SQL_ARGS(sql_int(queue_id), sql_text("keep_count"));
  const struct sql_value *queue = SQL_ARGS(sql_int(queue_id));
  int64_t most = sql_get(db, SQL_SETTING, setting, DIBS_UNSET);
  if (most != DIBS_UNSET) {
    sql_run(db, SQL_KEPT_SET, SQL_ARGS(sql_int(queue_id), sql_int(most)));
  } else {
    sql_run(db, SQL_KEPT_FORGET, queue);
    if (sql_changes(db))
      sql_run(db, SQL_KEPT_LEAVE,
              SQL_ARGS(sql_int(queue_id), sql_int(db->now)));
  }
  sql_run(db, SQL_QUEUE_KEEPING, queue);
  event_note(db, db->now);
}

/* Whether a finished job is kept at all, its queue keeping `most`. */
static bool job_is_kept(const struct job *job, int64_t most) {
  return job->keep == DIBS_UNSET ? most != DIBS_UNSET : job->keep > 0;
}

static void done_add(dibs_db *db, const struct job *job,
                     const struct placement *placement, int outcome,
                     const dibs_payload *result) {
  static const dibs_payload none = {.kind = DIBS_PAYLOAD_NONE};
  const struct history *history = &placement->history;
  bool by_age = job->keep != DIBS_UNSET && job->keep != DIBS_FOREVER;
  int64_t prune_at = by_age ? time_add(db->now, job->keep) : DIBS_UNSET;
  sql_run(db, SQL_DONE_ADD,
          SQL_ARGS(sql_int(job->id), sql_int(job->queue_id), sql_int(outcome),
                   sql_int(db->now), sql_int(prune_at),
                   sql_int(placement->claimed_at), sql_int(history->due_at),
                   sql_int(history->attempt), sql_int(history->crashes),
                   sql_int(history->lapses), sql_int(history->errors),
                   sql_text(placement->worker), sql_real(placement->progress),
                   sql_text(placement->progress_text),
                   sql_payload(result ? result : &none)));
  event_note(db, prune_at);
}

int job_finish(dibs_db *db, const struct job *job,
               const struct placement *placement, int outcome,
               const dibs_payload *result) {
  job_let_go(db, job);
  unique_finish(db, job);
  int64_t most =
      sql_get(db, SQL_KEPT_MOST, SQL_ARGS(sql_int(job->queue_id)), DIBS_UNSET);
  if (!job_is_kept(job, most)) {
    job_forget(db, job->id, placement->history.errors);
    return DIBS_DONE;
  }
  done_add(db, job, placement, outcome, result);
  if (most == DIBS_UNSET) return DIBS_DONE;
  /* One more than there were: so a surplus shrinks with each that comes. */
  sql_run(db, SQL_KEPT_ADD, SQL_ARGS(sql_int(job->queue_id), sql_int(1)));
  queue_prune(db, job->queue_id, 2);
  return DIBS_DONE;
}

void job_expire(dibs_db *db, const struct job *job,
                const struct placement *placement) {
  sql_run(db, SQL_QUEUE_EXPIRED, SQL_ARGS(sql_int(job->queue_id)));
  job_finish(db, job, placement, DIBS_EXPIRED, NULL);
  log_job(db, DIBS_LEVEL_WARNING, "expired", job->id, job->queue_id,
          "job %lld expired before it was started", (long long)job->id);
}

int job_die(dibs_db *db, const struct job *job,
            const struct placement *placement) {
  const struct history *history = &placement->history;
  wake_note_all(&db->wakes, CHANNEL_ENDED);
  lane_dead(db, job);
  expiry_leave(db, job);
  unique_remove(db, job);
  sql_run(db, SQL_DEAD_ADD,
          SQL_ARGS(sql_int(job->id), sql_int(job->queue_id), sql_int(db->now),
                   sql_int(placement->claimed_at), sql_int(history->due_at),
                   sql_int(history->attempt), sql_int(history->crashes),
                   sql_int(history->lapses), sql_int(history->errors),
                   sql_text(placement->worker), sql_real(placement->progress),
                   sql_text(placement->progress_text)));
  log_job(db, DIBS_LEVEL_ERROR, "dead", job->id, job->queue_id,
          "job %lld is dead after attempt %lld", (long long)job->id,
          (long long)history->attempt);
  return DIBS_DEAD;
}
