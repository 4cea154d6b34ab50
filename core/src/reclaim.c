/* SPDX-License-Identifier: MIT */
/*
** reclaim.c: attempts that end without their holder saying so: a lease that ran
** out, a process that died. And what else waiters do for each other: to tell of
** what was written without dibs.
**
** A job whose holder died is ready again at once the first time, so that one
** killed worker costs no time; with its backoff the next time; and dead after
** max_crashes, so that a job that kills its worker does not kill every worker.
** A lease that ran out goes the same way, but counts as an attempt only.
**
** The leases of a dead holder are found by going through all leases, which
** costs no index to whoever claims and settles, and happens once in the life of
** a process.
*/
#include "internal.h"

#include <stdio.h>

#define DEAD_AT_ONCE 16
#define ROWS_AT_ONCE 64 /* per transaction */

/* ---------------------------------------------------------------- attempts */

static void lapse_note(dibs_db *db, const struct job *job,
                       struct placement *placement, bool crashed) {
  char text[128], time[DURATION_SIZE];
  int64_t end = crashed ? db->now : placement->until;
  duration_format(time_between(placement->claimed_at, end), time);
  snprintf(text, sizeof text,
           crashed ? "the worker's process died, %s after the claim"
                   : "the lease ran out %s after the claim",
           time);
  error_add(db, job, placement, text);
  log_job(db, DIBS_LEVEL_WARNING, crashed ? "crashed" : "lapsed", job->id,
          job->queue_id, "job %lld, attempt %lld: %s", (long long)job->id,
          (long long)placement->history.attempt, text);
}

static bool crashes_are_final(const struct job *job, int64_t crashes) {
  int64_t most = job->max_crashes == DIBS_UNSET ? DIBS_DEFAULT_MAX_CRASHES
                                                : job->max_crashes;
  return most > 0 && crashes >= most;
}

void attempt_lapse(dibs_db *db, const struct job *job,
                   struct placement *placement, bool crashed) {
  struct history *history = &placement->history;
  int64_t *count = crashed ? &history->crashes : &history->lapses;
  placement_leave(db, job, placement);
  limit_left(db, job);
  lapse_note(db, job, placement, crashed);
  ++*count;
  if (job_is_final(job, history->attempt) ||
      (crashed && crashes_are_final(job, *count))) {
    job_die(db, job, placement);
    return;
  }
  history->due_at = db->now;
  if (*count > 1)
    history->due_at = time_add(db->now, job_backoff(db, job, history->attempt));
  place_again(db, job, placement);
}

/* ---------------------------------------------------------------- the dead */

static void held_reclaim(dibs_db *db, int64_t id) {
  struct job job;
  struct placement placement;
  if (!job_read(db, id, &job)) {
    sql_run(db, SQL_LEASED_REMOVE, SQL_ARGS(sql_int(id)));
    return;
  }
  placement_find(db, &job, &placement);
  attempt_lapse(db, &job, &placement, true);
  placement_free(&placement);
}

/* Some of its leases, in one transaction. */
static void holder_step(dibs_db *db, int64_t holder) {
  int64_t ids[ROWS_AT_ONCE];
  int count = 0;
  sql_begin_write(db);
  sqlite3_stmt *row = sql_first(
      db, SQL_LEASED_HELD, SQL_ARGS(sql_int(holder), sql_int(ROWS_AT_ONCE)));
  if (row) {
    do ids[count++] = sql_column_int(db, row, 0);
    while (sql_next(db, row));
  }
  for (int i = 0; i < count && !db->status; i++) held_reclaim(db, ids[i]);
  sql_end(db);
}

/* Nobody claims for it any more, so a look without the write lock that finds
** nothing is the last. */
static void holder_reclaim(dibs_db *db, const struct dead_holder *dead) {
  const struct sql_value *values = SQL_ARGS(sql_int(dead->holder), sql_int(1));
  while (sql_get(db, SQL_LEASED_HELD, values, 0) && !db->status)
    holder_step(db, dead->holder);
  if (!db->status) sidecar_bury(db->sidecar, dead);
}

static void dead_reclaim(dibs_db *db) {
  struct dead_holder dead[DEAD_AT_ONCE];
  int count = sidecar_dead(db->sidecar, dead, DEAD_AT_ONCE);
  for (int i = 0; i < count && !db->status; i++) holder_reclaim(db, &dead[i]);
}

/* ----------------------------------------------------------- foreign writes */

/* Tell those who wait for queues that have something ready. */
static void queues_tell(dibs_db *db) {
  struct wakes wakes = {.mask = 0};
  char name[KEY_SIZE];
  sqlite3_stmt *row = sql_first(db, SQL_QUEUES_READY, SQL_NONE);
  if (!row) return;
  do {
    sql_column_key(db, row, 0, name);
    wake_note(&wakes, wake_channel(name), (int)sql_column_count(db, row, 1));
  } while (!db->status && sql_next(db, row));
  if (db->status) sql_reset(db, row);
  wake_send(db->sidecar, &wakes);
}

/* Not in a transaction of the host's: who was given back and buried in it would be
** neither dead nor alive when that is rolled back. */
void duties(dibs_db *db) {
  if (db->status || !db->sidecar) return;
  if (db->attached && !attached_is_free(db)) return;
  if (sidecar_probe_due(db->sidecar)) dead_reclaim(db);
  if (sidecar_duty_take(db->sidecar, DUTY_FOREIGN)) queues_tell(db);
}
