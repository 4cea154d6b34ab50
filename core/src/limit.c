/* SPDX-License-Identifier: MIT */
/*
** limit.c: how many jobs of a queue may run at a time, and how many may start in
** a period; for the queue, and for each limit key of it. It owns dibs_setting,
** dibs_limit and the rows of dibs_blocked that have a limit key.
**
** dibs_limit has a bucket for the queue (key '') and for each limit key in use:
** how many run, and the tokens of its rate at a time (token bucket: so many per
** period, at most `burst` at once). Whatever starts or ends a job changes it in
** the same transaction, so that nothing can leak, whoever is killed when.
**
** What a limit holds back is not looked at by each claim:
** - a queue that may start nothing is held: it is out of the index of claimable
**   queues;
** - a job whose key may start nothing is moved to dibs_blocked when a claim
**   meets it, once, and comes back, the next in order, when one of its key ends
**   or the key's next token is there.
** `until` in a bucket is when its next token is there, for those who sleep: the
** time is tidied as others are (tidy.c). A key's bucket goes when it says nothing
** any more: when nothing of the key runs, and all tokens are there.
**
** When there is something blocked by a key, then something of the key runs, or
** may be claimed, or the bucket has `until`: so it goes on some time.
*/
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FREED_AT_ONCE   64 /* jobs that come back together */
#define BUCKETS_AT_ONCE 16 /* whose time has come, per transaction */

/* ---------------------------------------------------------------- settings */

/* The columns name, value of dibs_setting that say what may start. */
static const struct limit_setting {
  const char *name;
  size_t offset;
} limit_settings[] = {
    {"limit", offsetof(struct limits, limit)},
    {"limit_per_key", offsetof(struct limits, limit_per_key)},
    {"rate", offsetof(struct limits, rate.count)},
    {"rate_period", offsetof(struct limits, rate.period)},
    {"burst", offsetof(struct limits, burst)},
    {"rate_per_key", offsetof(struct limits, rate_per_key.count)},
    {"rate_per_key_period", offsetof(struct limits, rate_per_key.period)},
};
#define LIMIT_SETTINGS (sizeof limit_settings / sizeof *limit_settings)

static void limit_setting_take(struct limits *limits, const char *name,
                               int64_t value) {
  for (size_t i = 0; i < LIMIT_SETTINGS; i++)
    if (!strcmp(name, limit_settings[i].name))
      memcpy((char *)limits + limit_settings[i].offset, &value, sizeof value);
}

/* What a damaged file may say counts as not said. */
static void rate_finish(struct rate *rate, int64_t burst) {
  if (rate->count < 1 || rate->period < 1) rate->count = DIBS_UNSET;
  rate->burst = burst > 0 ? burst : rate->count;
}

void limits_read(dibs_db *db, int64_t queue_id, struct limits *limits) {
  static const struct rate none = {DIBS_UNSET, DIBS_UNSET, DIBS_UNSET};
  *limits = (struct limits){DIBS_UNSET, DIBS_UNSET, DIBS_UNSET, none, none};
  sqlite3_stmt *row = sql_first(db, SQL_SETTINGS, SQL_ARGS(sql_int(queue_id)));
  if (row) {
    do {
      const char *name = sql_column_text(db, row, 0);
      if (name) limit_setting_take(limits, name, sql_column_int(db, row, 1));
    } while (!db->status && sql_next(db, row));
    if (db->status) sql_reset(db, row);
  }
  rate_finish(&limits->rate, limits->burst);
  rate_finish(&limits->rate_per_key, limits->burst);
}

/* ----------------------------------------------------------------- buckets */

/* A bucket at this moment. */
struct bucket {
  int64_t running;
  double tokens;
};

/* A clock that was set back brings no tokens, and one that was set forward the
** burst at most. */
static void bucket_fill(const dibs_db *db, struct bucket *bucket,
                        const struct rate *rate, int64_t at) {
  double passed = at == DIBS_UNSET || db->now < at ? 0 : (double)(db->now - at);
  if (rate->count == DIBS_UNSET) return;
  bucket->tokens += passed * (double)rate->count / (double)rate->period;
  if (!(bucket->tokens < (double)rate->burst))
    bucket->tokens = (double)rate->burst;
}

static void bucket_read(dibs_db *db, int64_t queue_id, const char *key,
                        const struct rate *rate, struct bucket *bucket) {
  *bucket = (struct bucket){.tokens = HUGE_VAL};
  sqlite3_stmt *row =
      sql_first(db, SQL_LIMIT_READ, SQL_ARGS(sql_int(queue_id), sql_text(key)));
  if (row) {
    bucket->running = sql_column_count(db, row, 0);
    double tokens = sql_column_real(db, row, 1);
    if (!isnan(tokens)) bucket->tokens = tokens;
    bucket_fill(db, bucket, rate, sql_column_time(db, row, 2));
    sql_reset(db, row);
  } else {
    bucket_fill(db, bucket, rate, DIBS_UNSET);
  }
}

static bool bucket_is_full(const struct bucket *bucket,
                           const struct rate *rate) {
  return rate->count == DIBS_UNSET || bucket->tokens >= (double)rate->burst;
}

/* When the bucket's next token is there; DIBS_UNSET: one is. */
static int64_t token_due(const dibs_db *db, const struct bucket *bucket,
                         const struct rate *rate) {
  if (rate->count == DIBS_UNSET || bucket->tokens >= 1) return DIBS_UNSET;
  double wait =
      (1 - bucket->tokens) * (double)rate->period / (double)rate->count;
  return time_add(db->now, (int64_t)ceil(wait));
}

static void bucket_write(dibs_db *db, int64_t queue_id, const char *key,
                         const struct bucket *bucket, int64_t until) {
  double tokens = isinf(bucket->tokens) ? (double)NAN : bucket->tokens;
  sql_run(db, SQL_LIMIT_WRITE,
          SQL_ARGS(sql_int(queue_id), sql_text(key), sql_int(bucket->running),
                   sql_real(tokens), sql_int(db->now), sql_int(until)));
  event_note(db, until);
}

/* The same, unless the bucket says nothing any more. */
static void bucket_keep(dibs_db *db, int64_t queue_id, const char *key,
                        const struct bucket *bucket, int64_t until) {
  if (bucket->running || until != DIBS_UNSET)
    bucket_write(db, queue_id, key, bucket, until);
  else
    sql_run(db, SQL_LIMIT_REMOVE, SQL_ARGS(sql_int(queue_id), sql_text(key)));
}

/* How many may start now. */
static int64_t bucket_allows(const struct bucket *bucket, int64_t limit,
                             const struct rate *rate) {
  int64_t allowed = INT32_MAX;
  if (limit != DIBS_UNSET && limit - bucket->running < allowed)
    allowed = limit - bucket->running;
  if (rate->count != DIBS_UNSET && bucket->tokens < (double)allowed)
    allowed = (int64_t)bucket->tokens;
  return allowed > 0 ? allowed : 0;
}

/* When to look at a key's bucket: when those that wait for a token may go on, or
** when it is full, and so as if it were not there. */
static int64_t key_until(const dibs_db *db, const struct bucket *bucket,
                         const struct rate *rate) {
  int64_t due = token_due(db, bucket, rate);
  if (due != DIBS_UNSET || bucket_is_full(bucket, rate)) return due;
  double wait = ((double)rate->burst - bucket->tokens) * (double)rate->period /
                (double)rate->count;
  return time_add(db->now, (int64_t)ceil(wait));
}

static void bucket_start(struct bucket *bucket, const struct rate *rate,
                         int64_t count) {
  bucket->running += count;
  if (rate->count != DIBS_UNSET) bucket->tokens -= (double)count;
}

/* ------------------------------------------------------------------ claims */

int64_t limit_allows(dibs_db *db, const struct queue *queue,
                     const struct limits *limits) {
  struct bucket bucket;
  bucket_read(db, queue->id, "", &limits->rate, &bucket);
  int64_t allowed = bucket_allows(&bucket, limits->limit, &limits->rate);
  if (allowed || db->status) return allowed;
  sql_run(db, SQL_QUEUE_HOLD, SQL_ARGS(sql_int(queue->id)));
  bucket_write(db, queue->id, "", &bucket,
               token_due(db, &bucket, &limits->rate));
  db->cache.queue.id = 0;
  return 0;
}

void limit_started(dibs_db *db, const struct queue *queue,
                   const struct limits *limits, int64_t count) {
  struct bucket bucket;
  if (!count) return;
  bucket_read(db, queue->id, "", &limits->rate, &bucket);
  bucket_start(&bucket, &limits->rate, count);
  bucket_write(db, queue->id, "", &bucket, DIBS_UNSET);
}

static bool limits_are_none(const struct limits *limits) {
  return limits->limit == DIBS_UNSET && limits->limit_per_key == DIBS_UNSET &&
         limits->rate.count == DIBS_UNSET &&
         limits->rate_per_key.count == DIBS_UNSET;
}

static bool keys_are_limited(const struct limits *limits) {
  return limits->limit_per_key != DIBS_UNSET ||
         limits->rate_per_key.count != DIBS_UNSET;
}

bool limit_admits(dibs_db *db, const struct queue *queue,
                  const struct limits *limits, const char *key) {
  struct bucket bucket;
  const struct rate *rate = &limits->rate_per_key;
  if (!*key || !keys_are_limited(limits)) return true;
  bucket_read(db, queue->id, key, rate, &bucket);
  bool admitted = bucket_allows(&bucket, limits->limit_per_key, rate) > 0;
  if (admitted) bucket_start(&bucket, rate, 1);
  bucket_keep(db, queue->id, key, &bucket, key_until(db, &bucket, rate));
  return admitted;
}

void limit_block(dibs_db *db, const struct queue *queue, int64_t id,
                 int64_t priority, const char *key,
                 const struct history *history) {
  sql_run(db, SQL_BLOCKED_ADD_LIMIT,
          SQL_ARGS(sql_int(id), sql_int(queue->id), sql_int(history->due_at),
                   sql_int(history->attempt), sql_int(history->crashes),
                   sql_int(history->lapses), sql_int(history->errors),
                   sql_text(key), sql_int(priority)));
}

/* -------------------------------------------------------------------- ends */

/* Let up to `most` blocked jobs of a key go on, the first in order. */
static int64_t key_free(dibs_db *db, int64_t queue_id, const char *key,
                        int64_t most) {
  int64_t ids[FREED_AT_ONCE];
  int count = 0;
  if (most > FREED_AT_ONCE) most = FREED_AT_ONCE;
  sqlite3_stmt *row =
      sql_first(db, SQL_BLOCKED_OF_KEY,
                SQL_ARGS(sql_int(queue_id), sql_text(key), sql_int(most)));
  if (!row) return 0;
  do ids[count++] = sql_column_int(db, row, 0);
  while (sql_next(db, row));
  for (int i = 0; i < count && !db->status; i++) {
    struct job job;
    struct placement placement;
    if (!job_read(db, ids[i], &job)) continue;
    placement_find(db, &job, &placement);
    placement_leave(db, &job, &placement);
    place_waiting(db, &job, &placement.history);
    placement_free(&placement);
  }
  return count;
}

/* The queue may start something: it can be claimed from again. */
static void queue_unhold(dibs_db *db, int64_t queue_id) {
  sql_run(db, SQL_QUEUE_UNHOLD, SQL_ARGS(sql_int(queue_id)));
  if (!sql_changes(db)) return;
  db->cache.queue.id = 0;
  queue_claimable(db, queue_id, 1);
}

void limit_left(dibs_db *db, const struct job *job) {
  sql_run(db, SQL_LIMIT_LEFT,
          SQL_ARGS(sql_int(job->queue_id), sql_text(job->limit_key)));
  if (!sql_changes(db)) return;
  queue_unhold(db, job->queue_id);
  if (!*job->limit_key) return;
  key_free(db, job->queue_id, job->limit_key, 1);
  sql_run(db, SQL_LIMIT_IDLE,
          SQL_ARGS(sql_int(job->queue_id), sql_text(job->limit_key)));
}

/* -------------------------------------------------------------------- time */

/* The time of a bucket has come: its tokens, or new settings. */
static void bucket_tidy(dibs_db *db, int64_t queue_id, const char *key) {
  struct limits limits;
  struct bucket bucket;
  limits_read(db, queue_id, &limits);
  const struct rate *rate = *key ? &limits.rate_per_key : &limits.rate;
  int64_t limit = *key ? limits.limit_per_key : limits.limit;
  bucket_read(db, queue_id, key, rate, &bucket);
  int64_t allowed = bucket_allows(&bucket, limit, rate);
  int64_t until =
      *key ? key_until(db, &bucket, rate) : token_due(db, &bucket, rate);
  int64_t freed = *key && allowed ? key_free(db, queue_id, key, allowed) : 0;
  bool goes = *key || limits_are_none(&limits);
  /* There are more than fit into this step. */
  if (freed == FREED_AT_ONCE && allowed > freed) until = db->now;
  if (goes)
    bucket_keep(db, queue_id, key, &bucket, until);
  else
    bucket_write(db, queue_id, key, &bucket, until);
  if (!*key && allowed) queue_unhold(db, queue_id);
}

/* One that might have started leaves, or is put off: one that waits behind it may
** go in its place. */
void limit_passed(dibs_db *db, const struct job *job) {
  const struct sql_value *first =
      SQL_ARGS(sql_int(job->queue_id), sql_text(job->limit_key), sql_int(1));
  if (*job->limit_key && sql_get(db, SQL_BLOCKED_OF_KEY, first, 0))
    bucket_tidy(db, job->queue_id, job->limit_key);
}

void limits_tidy(dibs_db *db) {
  struct {
    int64_t queue_id;
    char key[KEY_SIZE];
  } due[BUCKETS_AT_ONCE];
  int count = 0;
  sqlite3_stmt *row = sql_first(
      db, SQL_LIMIT_DUE, SQL_ARGS(sql_int(db->now), sql_int(BUCKETS_AT_ONCE)));
  if (!row) return;
  do {
    due[count].queue_id = sql_column_int(db, row, 0);
    sql_column_key(db, row, 1, due[count++].key);
  } while (!db->status && sql_next(db, row));
  if (db->status) sql_reset(db, row);
  for (int i = 0; i < count && !db->status; i++)
    bucket_tidy(db, due[i].queue_id, due[i].key);
}

/* ------------------------------------------------------------------ setting */

/* Bring one kind of buckets up to date: of the queue, or of its keys. What is full
** is full by any rate, so it is forgotten, and so is what no rate fills. */
static void tokens_fill(dibs_db *db, int64_t queue_id, const struct rate *rate,
                        bool of_keys) {
  double per_ms = rate->count == DIBS_UNSET
                      ? 0
                      : (double)rate->count / (double)rate->period;
  double burst = rate->count == DIBS_UNSET ? 0 : (double)rate->burst;
  sql_run(db, SQL_LIMIT_FILL,
          SQL_ARGS(sql_int(queue_id), sql_int(db->now), sql_real(per_ms),
                   sql_real(burst), sql_int(of_keys)));
}

void limits_before(dibs_db *db, int64_t queue_id) {
  struct limits limits;
  limits_read(db, queue_id, &limits);
  tokens_fill(db, queue_id, &limits.rate, false);
  tokens_fill(db, queue_id, &limits.rate_per_key, true);
}

/* What runs is counted anew. Tokens stay, lest setting a queue again, as programs
** do when they start, let more start than its rate says. */
void limits_apply(dibs_db *db, int64_t queue_id) {
  const struct sql_value *queue = SQL_ARGS(sql_int(queue_id), sql_int(db->now));
  sql_run(db, SQL_QUEUE_LIMITED, SQL_ARGS(sql_int(queue_id)));
  sql_run(db, SQL_LEASED_UNPLAIN, SQL_ARGS(sql_int(queue_id)));
  sql_run(db, SQL_LIMIT_LOOK, queue);
  sql_run(db, SQL_LIMIT_COUNT, queue);
  sql_run(db, SQL_LIMIT_COUNT_KEYS, queue);
  sql_run(db, SQL_LIMIT_WAKE_KEYS, queue);
  event_note(db, db->now);
  db->cache.queue.id = 0;
  queue_claimable(db, queue_id, 1);
  queue_due(db, queue_id, db->now); /* for all who wait: it may be many */
}
