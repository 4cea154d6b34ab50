/* SPDX-License-Identifier: MIT */
/*
** look.c: reading: one job, lists of jobs, counts, what comes next. Each is one
** read transaction, so that what is shown was true at one moment.
*/
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* --------------------------------------------------------------------- get */

static void errors_read(dibs_db *db, struct job_list *list, int64_t id) {
  dibs_job *job = &list->jobs[0];
  dibs_job_error *errors =
      arena_take(&list->arena, DIBS_ERRORS_KEPT * sizeof *errors);
  job->errors = errors;
  if (!errors) {
    handle_nomem(db);
    return;
  }
  sqlite3_stmt *row = sql_first(
      db, SQL_ERRORS, SQL_ARGS(sql_int(id), sql_int(DIBS_ERRORS_KEPT)));
  if (!row) return;
  do {
    dibs_job_error *error = &errors[job->error_count++];
    error->attempt = sql_column_int(db, row, 0);
    error->at = sql_column_int(db, row, 1);
    error->ms = sql_column_int(db, row, 2);
    error->worker = job_list_copy(db, list, sql_column_text(db, row, 3));
    error->text = job_list_copy(db, list, sql_column_text(db, row, 4));
  } while (sql_next(db, row));
}

int dibs_get(dibs_db *db, int64_t id, dibs_job_list **out) {
  int status;
  if (!out) return DIBS_MISUSE;
  *out = NULL;
  if (!handle_enter(db, &status)) return status;
  struct job_list *list = job_list_new(db);
  sql_begin_read(db);
  if (!db->status && job_list_read(db, list, id, true))
    errors_read(db, list, id);
  else
    handle_fail(db, DIBS_NOT_FOUND, "there is no job %lld", (long long)id);
  sql_end(db);
  job_list_give(db, list, out);
  return handle_leave(db);
}

/* -------------------------------------------------------------------- list */

/* Ids read before their jobs are: the page of a list. */
struct page {
  int64_t *ids;
  size_t count;
  size_t capacity;
};

static void page_add(dibs_db *db, struct page *page, int64_t id) {
  if (page->count == page->capacity) {
    size_t capacity = page->capacity ? page->capacity * 2 : 64;
    int64_t *ids = realloc(page->ids, capacity * sizeof *ids);
    if (!ids) {
      handle_nomem(db);
      return;
    }
    page->ids = ids;
    page->capacity = capacity;
  }
  page->ids[page->count++] = id;
}

static void page_read(dibs_db *db, const dibs_list_options *options,
                      const struct text *queue_ids, struct page *page) {
  static const enum sql statements[] = {
      SQL_LIST_ALL,    SQL_LIST_READY,   SQL_LIST_SCHEDULED, SQL_LIST_BLOCKED,
      SQL_LIST_STAGED, SQL_LIST_RUNNING, SQL_LIST_DONE,      SQL_LIST_DEAD};
  int64_t after = options->after == DIBS_UNSET ? 0 : options->after;
  int64_t limit = options->limit == DIBS_UNSET ? 100 : options->limit;
  sqlite3_stmt *row =
      sql_first(db, statements[options->state],
                SQL_ARGS(sql_int(after), sql_int(limit),
                         sql_sized(queue_ids->data, queue_ids->size),
                         sql_text(options->name)));
  if (!row) return;
  do page_add(db, page, sql_column_int(db, row, 0));
  while (!db->status && sql_next(db, row));
  if (db->status) sql_reset(db, row);
}

static void list_check(dibs_db *db, const dibs_list_options *options) {
  if (options->size != sizeof *options)
    handle_fail(db, DIBS_MISUSE,
                "list options were not set up with "
                "DIBS_LIST_OPTIONS_INIT");
  else if (options->state < 0 || options->state > DIBS_DEAD)
    handle_fail(db, DIBS_INVALID, "state is %d: give one of enum dibs_state",
                options->state);
  else if (options->limit != DIBS_UNSET && options->limit < 1)
    handle_fail(db, DIBS_INVALID, "limit is %lld: give 1 or more",
                (long long)options->limit);
}

static void list_run(dibs_db *db, struct patterns patterns,
                     const dibs_list_options *options, struct job_list *list) {
  struct text ids = {.data = NULL};
  struct page page = {.ids = NULL};
  sql_begin_read(db);
  queue_ids(db, patterns, &ids);
  page_read(db, options, &ids, &page);
  for (size_t i = 0; i < page.count && !db->status; i++)
    job_list_read(db, list, page.ids[i], !options->no_payload);
  sql_end(db);
  free(page.ids);
  text_free(&ids);
}

int dibs_list(dibs_db *db, const char *const *queues, size_t count,
              const dibs_list_options *options, dibs_job_list **out) {
  static const dibs_list_options defaults = DIBS_LIST_OPTIONS_INIT;
  int status;
  struct job_list *list = NULL;
  if (!out) return DIBS_MISUSE;
  *out = NULL;
  if (!handle_enter(db, &status)) return status;
  if (!options) options = &defaults;
  list_check(db, options);
  struct patterns patterns = pattern_check(db, queues, count);
  if (!db->status) list = job_list_new(db);
  if (!db->status) list_run(db, patterns, options, list);
  job_list_give(db, list, out);
  return handle_leave(db);
}

/* ------------------------------------------------------------------- stats */

struct stats {
  dibs_stats_list list;
  dibs_queue_stats *queues;
  size_t capacity;
  struct arena arena;
};

static dibs_queue_stats *stats_add(dibs_db *db, struct stats *stats,
                                   const char *queue) {
  size_t count = stats->list.count;
  if (count == stats->capacity) {
    size_t capacity = count ? count * 2 : 8;
    dibs_queue_stats *queues =
        realloc(stats->queues, capacity * sizeof *queues);
    if (!queues) {
      handle_nomem(db);
      return NULL;
    }
    stats->queues = queues;
    stats->capacity = capacity;
  }
  dibs_queue_stats *added = &stats->queues[count];
  *added = (dibs_queue_stats){.oldest_ready_at = DIBS_UNSET};
  added->queue = arena_copy(&stats->arena, queue, strlen(queue));
  if (!added->queue)
    handle_nomem(db);
  else
    stats->list.count++;
  return added->queue ? added : NULL;
}

static bool stats_wanted(struct patterns patterns, const char *queue) {
  if (!patterns.count) return true;
  for (size_t i = 0; i < patterns.count; i++)
    if (pattern_matches(patterns.items[i], queue)) return true;
  return false;
}

static void stats_row(dibs_db *db, struct stats *stats,
                      struct patterns patterns, sqlite3_stmt *row) {
  const char *name = sql_column_text(db, row, 0);
  if (!name || !stats_wanted(patterns, name)) return;
  dibs_queue_stats *queue = stats_add(db, stats, name);
  if (!queue) return;
  queue->ready = sql_column_int(db, row, 1);
  queue->scheduled = sql_column_int(db, row, 2);
  queue->blocked = sql_column_int(db, row, 3);
  queue->staged = sql_column_int(db, row, 4);
  queue->running = sql_column_int(db, row, 5);
  queue->done = sql_column_int(db, row, 6);
  queue->dead = sql_column_int(db, row, 7);
  queue->oldest_ready_at = sql_column_int(db, row, 8);
  queue->paused = sql_column_int(db, row, 9);
  queue->expired = sql_column_int(db, row, 10);
}

static void stats_read(dibs_db *db, struct stats *stats,
                       struct patterns patterns) {
  sqlite3_stmt *row = sql_first(db, SQL_STATS, SQL_NONE);
  if (!row) return;
  do stats_row(db, stats, patterns, row);
  while (!db->status && sql_next(db, row));
  if (db->status) sql_reset(db, row);
}

static int stats_compare(const void *a, const void *b) {
  const dibs_queue_stats *left = a, *right = b;
  return strcmp(left->queue, right->queue);
}

/* Those asked for by name that nobody ever used. */
static void stats_fill(dibs_db *db, struct stats *stats,
                       struct patterns patterns) {
  for (size_t i = 0; i < patterns.count && !db->status; i++) {
    bool there = !pattern_is_name(patterns.items[i]);
    for (size_t j = 0; j < stats->list.count && !there; j++)
      there = !strcmp(stats->queues[j].queue, patterns.items[i]);
    if (!there) stats_add(db, stats, patterns.items[i]);
  }
  if (stats->list.count)
    qsort(stats->queues, stats->list.count, sizeof *stats->queues,
          stats_compare);
}

static void stats_free(struct stats *stats) {
  if (!stats) return;
  arena_free(&stats->arena);
  free(stats->queues);
  free(stats);
}

int dibs_stats(dibs_db *db, const char *const *queues, size_t count,
               dibs_stats_list **out) {
  int status;
  if (!out) return DIBS_MISUSE;
  *out = NULL;
  if (!handle_enter(db, &status)) return status;
  struct patterns patterns = pattern_check(db, queues, count);
  struct stats *stats = calloc(1, sizeof *stats);
  if (!stats) handle_nomem(db);
  if (!db->status) stats_read(db, stats, patterns);
  if (!db->status) stats_fill(db, stats, patterns);
  if (db->status) {
    stats_free(stats);
  } else {
    stats->list.queues = stats->queues;
    *out = &stats->list;
  }
  return handle_leave(db);
}

void dibs_stats_list_free(dibs_stats_list *stats) {
  stats_free((struct stats *)stats);
}

/* -------------------------------------------------------------------- join */

static bool unfinished_look(dibs_db *db, struct patterns patterns) {
  struct text ids = {.data = NULL};
  sql_begin_read(db);
  queue_ids(db, patterns, &ids);
  bool found = sql_get(db, SQL_UNFINISHED,
                       SQL_ARGS(sql_sized(ids.data, ids.size)), 0) != 0;
  sql_end(db);
  text_free(&ids);
  return found && !db->status;
}

/* Do what a claim would do first, if it is time: there may be nobody who claims.
** Gives when it will be time again. */
static int64_t time_tidy(dibs_db *db) {
  if (tidy_next(db) <= db->now) {
    sql_begin_write(db);
    tidy(db, (struct patterns){NULL, 0});
    sql_end(db);
  }
  int64_t next = tidy_next(db);
  return next > db->now ? next : db->now + 1;
}

int dibs_join(dibs_db *db, const char *const *queues, size_t count,
              int64_t timeout) {
  int status;
  int64_t due = DIBS_FOREVER;
  bool found = false;
  if (!handle_enter(db, &status)) return status;
  struct patterns patterns = pattern_or_default(db, queues, count);
  if (timeout < 0 && timeout != DIBS_UNSET)
    handle_fail(db, DIBS_INVALID, "timeout is negative: give 0 ms or more");
  if (!db->status && handle_may_wait(db)) {
    struct handle_wait waiting;
    handle_wait_start(db, &waiting, timeout, NULL, 0, 1u << CHANNEL_ENDED);
    do {
      handle_wait_look(db, &waiting);
      db->now = dibs_now(db);
      duties(db);
      due = time_tidy(db);
      found = unfinished_look(db, patterns);
    } while (found && !db->status && handle_wait(db, &waiting, due));
    handle_wait_end(db, &waiting, false);
  }
  if (found)
    handle_fail(db, DIBS_EMPTY,
                "the wait ran out: there still are unfinished "
                "jobs");
  return handle_leave(db);
}

/* ------------------------------------------------------------------- await */

/* The job's state; 0 when it is gone. *due is when time alone may change it:
** its expiry, the end of its stage or its lease. */
static int state_look(dibs_db *db, int64_t id, int64_t *due) {
  struct job job = {.expires_at = DIBS_UNSET};
  struct placement placement = {.state = 0};
  sql_begin_read(db);
  if (job_read(db, id, &job)) placement_find(db, &job, &placement);
  sql_end(db);
  bool bounded =
      placement.state == DIBS_STAGED || placement.state == DIBS_RUNNING;
  *due = bounded ? placement.until : job.expires_at;
  if (*due == DIBS_UNSET) *due = DIBS_FOREVER;
  placement_free(&placement);
  return db->status ? 0 : placement.state;
}

static bool state_is_end(int state) {
  return !state || state == DIBS_DONE || state == DIBS_DEAD;
}

/* Look, and when the job's time has come, do what a claim would do first. There
** may be nobody who claims. */
static int ended_look(dibs_db *db, int64_t id, int64_t *due) {
  int state = state_look(db, id, due);
  if (state_is_end(state) || *due > db->now) return state;
  sql_begin_write(db);
  tidy(db, (struct patterns){NULL, 0});
  sql_end(db);
  return state_look(db, id, due);
}

/* Wait for a job that was there at the first look. Gives how it ended. */
static int ended_wait(dibs_db *db, int64_t id, int64_t timeout) {
  int state;
  int64_t due;
  struct handle_wait waiting;
  handle_wait_start(db, &waiting, timeout, NULL, 0, 1u << CHANNEL_ENDED);
  do {
    handle_wait_look(db, &waiting);
    db->now = dibs_now(db);
    duties(db);
    state = ended_look(db, id, &due);
  } while (!state_is_end(state) && !db->status &&
           handle_wait(db, &waiting, due));
  handle_wait_end(db, &waiting, state_is_end(state));
  if (!state_is_end(state))
    handle_fail(db, DIBS_EMPTY, "the wait ran out: job %lld has not ended",
                (long long)id);
  return state ? state : DIBS_DONE;
}

/* Give the job, if it still is as it ended: another may have put a dead one back
** to work since. */
static void ended_give(dibs_db *db, int64_t id, int state,
                       dibs_job_list **job) {
  struct job_list *list = db->status ? NULL : job_list_new(db);
  dibs_job_list *given = NULL;
  if (!list) return;
  sql_begin_read(db);
  job_list_read(db, list, id, true);
  sql_end(db);
  job_list_give(db, list, &given);
  if (given && given->count && given->jobs[0].state == state)
    *job = given;
  else
    dibs_job_list_free(given);
}

int dibs_await(dibs_db *db, int64_t id, int64_t timeout, int *state,
               dibs_job_list **job) {
  int status;
  int64_t due;
  if (job) *job = NULL;
  if (!handle_enter(db, &status)) return status;
  if (timeout < 0 && timeout != DIBS_UNSET)
    handle_fail(db, DIBS_INVALID, "timeout is negative: give 0 ms or more");
  int seen = db->status ? 0 : state_look(db, id, &due);
  if (!seen)
    handle_fail(db, DIBS_NOT_FOUND,
                "there is no job %lld: it never was, or it has ended and is "
                "not kept",
                (long long)id);
  else if (!state_is_end(seen) && handle_may_wait(db))
    seen = ended_wait(db, id, timeout);
  if (state && !db->status) *state = seen;
  if (job) ended_give(db, id, seen, job);
  return handle_leave(db);
}

/* -------------------------------------------------------------- next event */

int dibs_next_event(dibs_db *db, int64_t *at) {
  int status;
  if (!at) return DIBS_MISUSE;
  if (!handle_enter(db, &status)) return status;
  int64_t next = sql_get(db, SQL_EVENT_NEXT, SQL_ARGS(sql_int(DIBS_FOREVER)),
                         DIBS_FOREVER);
  if (!db->status) *at = next == DIBS_FOREVER ? DIBS_UNSET : next;
  return handle_leave(db);
}
