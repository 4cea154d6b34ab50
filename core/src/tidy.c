/* SPDX-License-Identifier: MIT */
/*
** tidy.c: what time alone brings about. There is no process of its own for it:
** whoever claims does a bounded part first, so that a million jobs that fall
** due at one instant cost each claim a little and stall none. Each kind has an
** index whose first rows are the ones to act on.
*/
#include "internal.h"

#define TIDY_ROWS   TIDY_PROMOTED /* of one kind, per transaction */
#define TIDY_QUEUES 8             /* whose due jobs are moved */
#define LATE_MEMORY 86400000 /* ms that a stage out of time is remembered */

/* Ids to act on, read before their tables are changed. */
struct ids {
  int64_t items[TIDY_ROWS];
  int count;
};

static void ids_read(dibs_db *db, enum sql sql, int64_t limit,
                     struct ids *ids) {
  ids->count = 0;
  if (limit > TIDY_ROWS) limit = TIDY_ROWS;
  sqlite3_stmt *row =
      sql_first(db, sql, SQL_ARGS(sql_int(db->now), sql_int(limit)));
  if (!row) return;
  do ids->items[ids->count++] = sql_column_int(db, row, 0);
  while (sql_next(db, row));
}

/* ------------------------------------------------------------------ leases */

/* A lease whose end has passed. */
struct lapsed {
  int64_t id;
  int64_t holder; /* DIBS_UNSET: none */
  int64_t lease;
};

/* An engine extends its leases. If it has not, though its heart beats, the
** clock was set, or it could not get at the file: it gets a respite of one more
** lease. There is none after that unless it has extended the lease meanwhile,
** which makes the holder positive again: what a closed engine could not give
** back must not live on with the heart of another. */
static bool lapsed_lives(dibs_db *db, const struct lapsed *lapsed) {
  if (lapsed->holder <= 0) return false;
  if (!sidecar_holder_beats(db->sidecar, lapsed->holder, lapsed->lease))
    return false;
  int64_t until = time_add(db->now, lapsed->lease);
  sql_run(db, SQL_LEASED_RESPITE,
          SQL_ARGS(sql_int(lapsed->id), sql_int(until)));
  event_note(db, until);
  return true;
}

static void lapsed_tidy(dibs_db *db, const struct lapsed *lapsed) {
  struct job job;
  struct placement placement;
  if (lapsed_lives(db, lapsed)) return;
  if (job_read(db, lapsed->id, &job)) {
    placement_find(db, &job, &placement);
    attempt_lapse(db, &job, &placement, false);
    placement_free(&placement);
  } else {
    sql_run(db, SQL_LEASED_REMOVE, SQL_ARGS(sql_int(lapsed->id)));
  }
}

static void leases_tidy(dibs_db *db) {
  struct lapsed lapsed[TIDY_ROWS];
  int count = 0;
  sqlite3_stmt *row = sql_first(db, SQL_LEASED_LAPSED,
                                SQL_ARGS(sql_int(db->now), sql_int(TIDY_ROWS)));
  if (!row) return;
  do {
    lapsed[count].id = sql_column_int(db, row, 0);
    lapsed[count].holder = sql_column_int(db, row, 1);
    lapsed[count++].lease = sql_column_time(db, row, 2);
  } while (sql_next(db, row));
  for (int i = 0; i < count && !db->status; i++) lapsed_tidy(db, &lapsed[i]);
}

/* ---------------------------------------------------------------- expiries */

static void expire(dibs_db *db, int64_t id) {
  struct job job;
  struct placement placement;
  if (!job_read(db, id, &job)) return;
  placement_find(db, &job, &placement);
  /* A running one is not touched; should it come back, place_again() looks. */
  if (placement.state < DIBS_RUNNING) {
    placement_leave(db, &job, &placement);
    job_expire(db, &job, &placement);
    limit_passed(db, &job);
  }
  placement_free(&placement);
}

static void expiries_tidy(dibs_db *db) {
  struct ids ids;
  ids_read(db, SQL_EXPIRY_DUE, TIDY_ROWS, &ids);
  for (int i = 0; i < ids.count && !db->status; i++) {
    expire(db, ids.items[i]);
    sql_run(db, SQL_EXPIRY_LOOKED,
            SQL_ARGS(sql_int(db->now), sql_int(ids.items[i])));
  }
}

/* ------------------------------------------------------------------ stages */

static void stages_tidy(dibs_db *db) {
  struct ids ids;
  struct job job;
  static const struct placement staged = {.state = DIBS_STAGED};
  ids_read(db, SQL_STAGED_DUE, TIDY_ROWS, &ids);
  for (int i = 0; i < ids.count && !db->status; i++) {
    if (job_read(db, ids.items[i], &job)) {
      sql_run(
          db, SQL_STAGED_LATE,
          SQL_ARGS(sql_int(job.id), sql_int(time_add(db->now, LATE_MEMORY))));
      job_remove(db, &job, &staged);
      log_job(db, DIBS_LEVEL_WARNING, "late", job.id, job.queue_id,
              "staged job %lld was not committed in time and is gone",
              (long long)job.id);
    } else {
      sql_run(db, SQL_STAGED_REMOVE, SQL_ARGS(sql_int(ids.items[i])));
    }
  }
}

/* ---------------------------------------------------------------- due jobs */

static bool ids_have(const struct ids *ids, int64_t id) {
  for (int i = 0; i < ids->count; i++)
    if (ids->items[i] == id) return true;
  return false;
}

/* Move due jobs of the first queues that the statement gives, but for those
** that have had their part, in `served`. */
static void due_promote(dibs_db *db, enum sql sql,
                        const struct sql_value *values, struct ids *served) {
  int first = served->count;
  sqlite3_stmt *row = sql_first(db, sql, values);
  if (!row) return;
  do {
    int64_t id = sql_column_int(db, row, 0);
    if (!ids_have(served, id)) served->items[served->count++] = id;
  } while (sql_next(db, row) && served->count - first < TIDY_QUEUES &&
           served->count < TIDY_ROWS);
  sql_reset(db, row);
  for (int i = first; i < served->count; i++)
    queue_promote(db, served->items[i], TIDY_ROWS);
}

static void pattern_promote(dibs_db *db, const char *pattern,
                            struct ids *served) {
  char low[PATTERN_SIZE], high[PATTERN_SIZE];
  if (served->count == TIDY_ROWS) return;
  if (pattern_is_name(pattern)) {
    due_promote(db, SQL_QUEUE_DUE_NAMED,
                SQL_ARGS(sql_int(db->now), sql_text(pattern)), served);
  } else {
    pattern_range(pattern, low, high);
    due_promote(db, SQL_QUEUES_DUE,
                SQL_ARGS(sql_int(db->now), sql_text(low), sql_text(high)),
                served);
  }
}

/* The queues that are asked for first, then any. */
static void due_tidy(dibs_db *db, struct patterns patterns) {
  struct ids served = {.count = 0};
  for (size_t i = 0; i < patterns.count; i++)
    pattern_promote(db, patterns.items[i], &served);
  pattern_promote(db, DIBS_ALL, &served);
}

/* ----------------------------------------------------------------- keeping */

/* Those whose time is over. */
static int64_t old_prune(dibs_db *db, int64_t limit) {
  struct {
    int64_t id;
    int64_t queue_id;
  } due[TIDY_ROWS];
  int count = 0;
  sqlite3_stmt *row =
      sql_first(db, SQL_DONE_DUE, SQL_ARGS(sql_int(db->now), sql_int(limit)));
  if (!row) return 0;
  do {
    due[count].id = sql_column_int(db, row, 0);
    due[count++].queue_id = sql_column_int(db, row, 1);
  } while (sql_next(db, row));
  for (int i = 0; i < count && !db->status; i++)
    done_remove(db, due[i].id, due[i].queue_id);
  return count;
}

/* Those that are more than their queues keep. */
static int64_t surplus_prune(dibs_db *db, int64_t limit) {
  int64_t queue_id, count = 0;
  while (count < limit && !db->status &&
         (queue_id = sql_get(db, SQL_KEPT_OVER, SQL_NONE, 0))) {
    int64_t pruned = queue_prune(db, queue_id, limit - count);
    /* The file says that there are some, and there are none. */
    if (!pruned) sql_run(db, SQL_KEPT_COUNT, SQL_ARGS(sql_int(queue_id)));
    count += pruned;
  }
  return count;
}

int64_t tidy_prune(dibs_db *db, int64_t limit) {
  if (limit > TIDY_ROWS) limit = TIDY_ROWS;
  int64_t count = old_prune(db, limit);
  return count < limit ? count + surplus_prune(db, limit - count) : count;
}

/* ---------------------------------------------------------------- in all */

int64_t tidy_next(dibs_db *db) {
  return sql_get(db, SQL_TIDY_NEXT, SQL_ARGS(sql_int(DIBS_FOREVER)),
                 DIBS_FOREVER);
}

void tidy(dibs_db *db, struct patterns patterns) {
  int64_t *next = &db->cache.next_event;
  if (*next == DIBS_UNSET) *next = tidy_next(db);
  if (*next > db->now) return;
  *next = DIBS_UNSET;
  leases_tidy(db);
  expiries_tidy(db);
  stages_tidy(db);
  due_tidy(db, patterns);
  limits_tidy(db);
  tidy_prune(db, TIDY_ROWS);
  sql_run(db, SQL_UNIQUE_CLEAN, SQL_ARGS(sql_int(db->now), sql_int(TIDY_ROWS)));
}
