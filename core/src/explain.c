/* SPDX-License-Identifier: MIT */
/*
** explain.c: why a job, or the jobs of a queue, are not running: each reason as
** a word for programs and a sentence for people, the first the one to see to.
*/
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A list under construction; the public list is its first member. */
struct reason_list {
  dibs_reason_list list;
  dibs_reason *reasons;
  size_t capacity;
  struct arena arena;
};

static dibs_reason *reason_add(dibs_db *db, struct reason_list *list,
                               const char *reason, const char *format, ...)
    DIBS_PRINTF(4, 5);

static dibs_reason *reason_add(dibs_db *db, struct reason_list *list,
                               const char *reason, const char *format, ...) {
  static dibs_reason nowhere;
  char text[640];
  va_list arguments;
  if (list->list.count == list->capacity) {
    size_t capacity = list->capacity ? list->capacity * 2 : 4;
    dibs_reason *grown = realloc(list->reasons, capacity * sizeof *grown);
    if (!grown) {
      handle_nomem(db);
      return &nowhere;
    }
    list->reasons = grown;
    list->capacity = capacity;
  }
  va_start(arguments, format);
  message_format(text, sizeof text, format, arguments);
  va_end(arguments);
  dibs_reason *added = &list->reasons[list->list.count++];
  *added = (dibs_reason){.reason = reason,
                         .text = arena_copy(&list->arena, text, strlen(text)),
                         .at = DIBS_UNSET};
  if (!added->text) handle_nomem(db);
  return added;
}

static void reasons_free(struct reason_list *list) {
  if (!list) return;
  arena_free(&list->arena);
  free(list->reasons);
  free(list);
}

void dibs_reason_list_free(dibs_reason_list *list) {
  reasons_free((struct reason_list *)list);
}

/* ------------------------------------------------------------------ queues */

static bool queue_is_paused(dibs_db *db, int64_t queue_id) {
  return sql_get(db, SQL_QUEUE_PAUSED, SQL_ARGS(sql_int(queue_id)), 0) != 0;
}

/* What the queue's bucket says. */
static void held_explain(dibs_db *db, struct reason_list *list,
                         const struct queue *queue) {
  struct limits limits;
  limits_read(db, queue->id, &limits);
  sqlite3_stmt *row = sql_first(db, SQL_LIMIT_STATE,
                                SQL_ARGS(sql_int(queue->id), sql_text("")));
  if (!row) return;
  int64_t running = sql_column_count(db, row, 0);
  int64_t until = sql_column_time(db, row, 1);
  sql_reset(db, row);
  if (limits.limit != DIBS_UNSET && running >= limits.limit)
    reason_add(db, list, "limit",
               "%lld of at most %lld jobs of the queue are running",
               (long long)running, (long long)limits.limit);
  if (until != DIBS_UNSET && until > db->now) {
    char left[DURATION_SIZE];
    reason_add(db, list, "rate",
               "the queue's rate lets the next job start in %s",
               duration_format(until - db->now, left))
        ->at = until;
  }
}

/* What holds back all ready jobs of a queue. */
static void queue_explain(dibs_db *db, struct reason_list *list,
                          const struct queue *queue) {
  if (queue_is_paused(db, queue->id))
    reason_add(db, list, "paused", "the queue is paused: resume it");
  if (queue->limited) held_explain(db, list, queue);
  if (!list->list.count && db->sidecar &&
      !wake_is_awaited(db->sidecar, queue->name))
    reason_add(db, list, "no_worker",
               "nobody is waiting for jobs of this queue: all its workers are "
               "at work, or there is none");
}

/* -------------------------------------------------------------------- jobs */

static void scheduled_explain(dibs_db *db, struct reason_list *list,
                              const struct placement *placement) {
  char left[DURATION_SIZE];
  int64_t due = placement->history.due_at;
  bool again = placement->history.attempt > 0;
  duration_format(due > db->now ? due - db->now : 0, left);
  reason_add(db, list, again ? "retrying" : "scheduled",
             again ? "it is tried again in %s, after attempt %lld"
                   : "it is due in %s",
             left, (long long)placement->history.attempt)
      ->at = due;
}

static void blocked_explain(dibs_db *db, struct reason_list *list,
                            const struct job *job) {
  struct job head;
  struct placement placement;
  if (lane_is_head(db, job)) {
    reason_add(db, list, "limit_key",
               "as many jobs with the limit key '%.100s' as may are running, "
               "or have been started lately",
               job->limit_key);
    return;
  }
  int64_t id = sql_get(db, SQL_LANE_HEAD,
                       SQL_ARGS(sql_int(job->queue_id), sql_text(job->key)), 0);
  if (!id || !job_read(db, id, &head)) return;
  placement_find(db, &head, &placement);
  if (placement.state == DIBS_DEAD)
    reason_add(
        db, list, "dead_head",
        "job %lld of its key '%.100s' is dead and holds back the others: "
        "requeue, cancel or purge it, or set the queue's dead_head to "
        "skip",
        (long long)id, job->key)
        ->id = id;
  else
    reason_add(db, list, "behind",
               "it waits for job %lld of its key '%.100s', which is %s",
               (long long)id, job->key,
               placement.state ? dibs_state_name(placement.state) : "gone")
        ->id = id;
  placement_free(&placement);
}

static void staged_explain(dibs_db *db, struct reason_list *list,
                           const struct placement *placement) {
  char left[DURATION_SIZE];
  int64_t ahead = placement->until > db->now ? placement->until - db->now : 0;
  reason_add(db, list, "staged",
             "it is reserved, and has to be committed within %s",
             duration_format(ahead, left))
      ->at = placement->until;
}

static void running_explain(dibs_db *db, struct reason_list *list,
                            const struct placement *placement) {
  char left[DURATION_SIZE], since[DURATION_SIZE];
  int64_t ahead = placement->until > db->now ? placement->until - db->now : 0;
  duration_format(time_between(placement->claimed_at, db->now), since);
  reason_add(db, list, "running",
             "%.100s has been running it for %s, by a lease of another %s",
             placement->worker ? placement->worker : "somebody", since,
             duration_format(ahead, left))
      ->at = placement->until;
}

static void ready_explain(dibs_db *db, struct reason_list *list,
                          const struct job *job) {
  struct queue queue = {.id = 0};
  char name[KEY_SIZE] = "";
  sqlite3_stmt *row =
      sql_first(db, SQL_QUEUE_NAME, SQL_ARGS(sql_int(job->queue_id)));
  if (row) {
    sql_column_key(db, row, 0, name);
    sql_reset(db, row);
  }
  queue_find(db, name, &queue);
  if (queue.id) queue_explain(db, list, &queue);
  int64_t ahead = sql_get(db, SQL_READY_AHEAD,
                          SQL_ARGS(sql_int(job->queue_id),
                                   sql_int(job->priority), sql_int(job->id)),
                          0);
  if (ahead)
    reason_add(
        db, list, "queued", "%s%lld jobs of the queue come before it",
        ahead > READY_AHEAD_MOST ? "more than " : "",
        (long long)(ahead > READY_AHEAD_MOST ? READY_AHEAD_MOST : ahead));
  if (!list->list.count)
    reason_add(db, list, "next", "it is next: the next claim gets it");
}

static void job_explain(dibs_db *db, struct reason_list *list,
                        const struct job *job,
                        const struct placement *placement) {
  switch (placement->state) {
  case DIBS_READY: ready_explain(db, list, job); break;
  case DIBS_SCHEDULED: scheduled_explain(db, list, placement); break;
  case DIBS_BLOCKED: blocked_explain(db, list, job); break;
  case DIBS_STAGED: staged_explain(db, list, placement); break;
  case DIBS_RUNNING: running_explain(db, list, placement); break;
  case DIBS_DONE: reason_add(db, list, "done", "it is done"); break;
  default:
    reason_add(db, list, "dead",
               "it is dead after attempt %lld: see its errors, and requeue it "
               "when what was wrong is mended%s",
               (long long)placement->history.attempt,
               *job->key && lane_is_head(db, job)
                   ? "; the others of its key wait for that"
                   : "");
  }
}

/* Give the list, or free it when db->status is set. */
static int reasons_give(dibs_db *db, struct reason_list *list,
                        dibs_reason_list **out) {
  if (db->status || !list) {
    reasons_free(list);
  } else {
    list->list.reasons = list->reasons;
    *out = &list->list;
  }
  return handle_leave(db);
}

static struct reason_list *reasons_new(dibs_db *db) {
  struct reason_list *list = calloc(1, sizeof *list);
  if (!list) handle_nomem(db);
  return list;
}

int dibs_explain(dibs_db *db, int64_t id, dibs_reason_list **out) {
  int status;
  struct job job;
  struct placement placement = {.state = 0};
  if (!out) return DIBS_MISUSE;
  *out = NULL;
  if (!handle_enter(db, &status)) return status;
  struct reason_list *list = reasons_new(db);
  if (list) {
    sql_begin_read(db);
    if (job_read(db, id, &job)) placement_find(db, &job, &placement);
    if (placement.state)
      job_explain(db, list, &job, &placement);
    else
      handle_fail(db, DIBS_NOT_FOUND, "there is no job %lld", (long long)id);
    placement_free(&placement);
    sql_end(db);
  }
  return reasons_give(db, list, out);
}

int dibs_explain_queue(dibs_db *db, const char *name, dibs_reason_list **out) {
  int status;
  struct queue queue = {.id = 0};
  if (!out) return DIBS_MISUSE;
  *out = NULL;
  if (!handle_enter(db, &status)) return status;
  if (!name) name = "";
  const char *problem = name_problem(name);
  if (problem) handle_fail(db, DIBS_INVALID, "queue '%s' %s", name, problem);
  struct reason_list *list = db->status ? NULL : reasons_new(db);
  if (list) {
    sql_begin_read(db);
    queue_find(db, name, &queue);
    if (queue.id) queue_explain(db, list, &queue);
    if (!sql_get(db, SQL_HAS_WAITING, SQL_ARGS(sql_int(queue.id)), 0)) {
      list->list.count = 0;
      reason_add(db, list, "empty", "no job of the queue is waiting");
    } else if (!list->list.count) {
      reason_add(db, list, "next", "its jobs are taken as they come");
    }
    sql_end(db);
  }
  return reasons_give(db, list, out);
}
