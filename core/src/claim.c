/* SPDX-License-Identifier: MIT */
/*
** claim.c: taking jobs, and looking at what would be taken.
**
** A claim looks before it writes: an idle worker never takes the write lock.
** (A handle whose last claim found something goes straight to writing, because
** it will most likely find more.) Then, in one transaction, it does its part of
** the tidying and takes the first rows of dibs_ready.
**
** A claim over several queues goes round: each job comes from the next queue by
** name that has one, from where the last claim over the same patterns left
** off, whichever process made it. A queue is skipped by a step in the index of
** claimable queues, so neither the empty ones nor those held back cost
** anything.
*/
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool claim_is_full(const struct claim *claim) {
  return claim->full || (int64_t)claim->list->list.count >= claim->n;
}

/* Whether one exact queue is meant, which needs no turns. */
static bool patterns_are_one(struct patterns patterns) {
  return patterns.count == 1 && pattern_is_name(patterns.items[0]);
}

/* ------------------------------------------------------------------- lanes */

/* The first claimable queue of a pattern whose name is above `after`. */
static bool pattern_next(dibs_db *db, const char *pattern, const char *after,
                         char name[KEY_SIZE]) {
  char low[PATTERN_SIZE], high[PATTERN_SIZE];
  sqlite3_stmt *row;
  if (pattern_is_name(pattern)) {
    if (strcmp(pattern, after) <= 0) return false;
    row = sql_first(db, SQL_CLAIMABLE, SQL_ARGS(sql_text(pattern)));
  } else {
    pattern_range(pattern, low, high);
    const char *from = strcmp(after, low) > 0 ? after : low;
    row = sql_first(db, SQL_CLAIMABLE_NEXT,
                    SQL_ARGS(sql_text(from), sql_text(high)));
  }
  if (!row) return false;
  sql_column_key(db, row, 0, name);
  sql_reset(db, row);
  return !db->status;
}

/* The same over all patterns: the lowest of their names. */
static bool queue_next(dibs_db *db, struct patterns patterns, const char *after,
                       char name[KEY_SIZE]) {
  char found[KEY_SIZE];
  bool any = false;
  for (size_t i = 0; i < patterns.count; i++) {
    if (!pattern_next(db, patterns.items[i], after, found)) continue;
    if (!any || strcmp(found, name) < 0) strcpy(name, found);
    any = true;
  }
  return any && !db->status;
}

/* ------------------------------------------------------------------ taking */

/* A ready row, and what of its job is not in the list. */
struct ready {
  int64_t id;
  int64_t priority;
  struct history history;
  int64_t unique_for;
  bool plain;               /* as in dibs_leased */
  bool orphan;              /* there is no such job: the row is dropped */
  char limit_key[KEY_SIZE]; /* "": none; of a limited queue only */
};

#define READY_AT_ONCE 64
#define SEEN_MOST     2000 /* held back in one transaction */

/* Some rows of a queue, and where their jobs begin in the list. */
struct batch {
  struct ready rows[READY_AT_ONCE];
  int count;
  size_t start;
};

static void ready_read(dibs_db *db, const struct queue *queue,
                       sqlite3_stmt *row, struct ready *ready) {
  ready->id = sql_column_int(db, row, 0);
  ready->priority = sql_column_int(db, row, 1);
  history_read(db, row, 2, &ready->history);
  ready->orphan = sql_column_int(db, row, 7) == DIBS_UNSET;
  ready->unique_for = sql_column_int(db, row, 17);
  ready->plain =
      sql_column_int(db, row, 18) == 1 && !queue->limited && !queue->keeping;
  ready->limit_key[0] = 0;
  if (queue->limited) sql_column_key(db, row, 19, ready->limit_key);
}

/* Append the row's job to the list. False when the list has as many bytes of
** payload as it may. */
static bool job_read_row(dibs_db *db, struct job_list *list, sqlite3_stmt *row,
                         const struct ready *ready) {
  dibs_payload payload = sql_column_payload(db, row, 8);
  if (list->list.count &&
      list->payload + payload.size > (size_t)db->max_payload)
    return false;
  dibs_job *job = job_list_add(db, list);
  if (!job) return false;
  job->id = ready->id;
  job->priority = ready->priority;
  job->payload = job_list_payload(db, list, payload);
  job->name = job_list_copy(db, list, sql_column_text(db, row, 9));
  job->headers = job_list_copy(db, list, sql_column_text(db, row, 10));
  job->key = job_list_copy(db, list, sql_column_text(db, row, 11));
  job->created_at = sql_column_time(db, row, 12);
  job->max_attempts = sql_column_int(db, row, 13);
  job->lease = sql_column_int(db, row, 14);
  job->timeout = sql_column_int(db, row, 15);
  job->expires_at = sql_column_time(db, row, 16);
  return !db->status;
}

/* Read the first rows of the queue, at most `limit`, with their jobs. */
static void batch_read(dibs_db *db, struct claim *claim,
                       const struct queue *queue, int64_t limit,
                       struct batch *batch) {
  batch->count = 0;
  batch->start = claim->list->list.count;
  sqlite3_stmt *row = sql_first(db, SQL_READY_FIRST,
                                SQL_ARGS(sql_int(queue->id), sql_int(limit)));
  if (!row) return;
  do {
    struct ready *ready = &batch->rows[batch->count];
    ready_read(db, queue, row, ready);
    if (!ready->orphan && !job_read_row(db, claim->list, row, ready)) {
      claim->full = true;
      break;
    }
    batch->count++;
  } while (batch->count < limit && sql_next(db, row));
  sql_reset(db, row);
}

/* The rows read are the first of the queue: those of a higher priority than
** the last, and of its priority those up to its id. */
static void batch_remove(dibs_db *db, const struct queue *queue,
                         const struct batch *batch) {
  if (!batch->count) return;
  const struct ready *last = &batch->rows[batch->count - 1];
  if (batch->count == 1) {
    sql_run(db, SQL_READY_REMOVE,
            SQL_ARGS(sql_int(queue->id), sql_int(last->priority),
                     sql_int(last->id)));
    return;
  }
  if (batch->rows[0].priority != last->priority)
    sql_run(db, SQL_READY_REMOVE_ABOVE,
            SQL_ARGS(sql_int(queue->id), sql_int(last->priority)));
  sql_run(
      db, SQL_READY_REMOVE_TO,
      SQL_ARGS(sql_int(queue->id), sql_int(last->priority), sql_int(last->id)));
}

/* ----------------------------------------------------------------- leasing */

static int64_t lease_choose(const struct claim *claim, const dibs_job *job) {
  if (claim->lease != DIBS_UNSET) return claim->lease;
  return job->lease == DIBS_UNSET ? DIBS_DEFAULT_LEASE : job->lease;
}

/* "ID:TOKEN", written from its end: snprintf() would be a seventh of what adding
** a lease costs. */
static const char *receipt_make(dibs_db *db, struct job_list *list, int64_t id,
                                int64_t token) {
  char receipt[48], *at = receipt + sizeof receipt;
  uint64_t bits = (uint64_t)token;
  *--at = 0;
  for (int i = 0; i < 16; i++, bits >>= 4)
    *--at = "0123456789abcdef"[bits & 15];
  *--at = ':';
  for (; id > 0; id /= 10) *--at = (char)('0' + id % 10);
  return job_list_copy(db, list, at);
}

/* Fill in what the claim itself decides. */
static void lease_fill(dibs_db *db, struct claim *claim,
                       const struct history *history, dibs_job *job) {
  if (job->max_attempts == DIBS_UNSET)
    job->max_attempts = DIBS_DEFAULT_MAX_ATTEMPTS;
  job->state = DIBS_RUNNING;
  job->queue = claim->queue;
  job->attempt = history->attempt + 1;
  job->crashes = history->crashes;
  job->due_at =
      history->due_at == DIBS_UNSET ? job->created_at : history->due_at;
  job->claimed_at = db->now;
  job->lease = lease_choose(claim, job);
  job->lease_until = time_add(db->now, job->lease);
  job->worker = claim->worker_copy;
}

static void lease_add(dibs_db *db, struct claim *claim,
                      const struct queue *queue, const struct ready *ready,
                      dibs_job *job) {
  const struct history *history = &ready->history;
  int64_t token = (int64_t)random_next(db);
  lease_fill(db, claim, history, job);
  job->receipt = receipt_make(db, claim->list, job->id, token);
  sql_run(db, SQL_LEASED_ADD,
          SQL_ARGS(sql_int(job->id), sql_int(queue->id), sql_int(token),
                   sql_int(job->lease_until), sql_int(db->now),
                   sql_int(job->lease), sql_int(history->due_at),
                   sql_int(job->attempt), sql_int(history->crashes),
                   sql_int(history->lapses), sql_int(history->errors),
                   sql_text(claim->worker), sql_int(ready->plain),
                   sql_int(claim->holder)));
  event_note(db, job->lease_until);
  queue_due(db, queue->id, job->lease_until);
}

/* What the common case has nothing to do with: a unique key that is held only
** until the start; a last error. */
static void extras_take(dibs_db *db, struct claim *claim,
                        const struct ready *ready, dibs_job *taken) {
  struct job job;
  if (ready->unique_for == DIBS_UNIQUE_UNTIL_START &&
      job_read(db, taken->id, &job))
    unique_start(db, &job);
  if (!ready->history.errors) return;
  sqlite3_stmt *row =
      sql_first(db, SQL_ERROR_LAST, SQL_ARGS(sql_int(taken->id)));
  if (!row) return;
  taken->last_error =
      job_list_copy(db, claim->list, sql_column_text(db, row, 0));
  sql_reset(db, row);
}

/* An expired job that nobody has tidied away yet. */
static void expired_drop(dibs_db *db, const struct ready *ready) {
  struct job job;
  struct placement placement = {.state = DIBS_READY,
                                .history = ready->history,
                                .claimed_at = DIBS_UNSET,
                                .progress = (double)NAN};
  if (!job_read(db, ready->id, &job)) return;
  job_expire(db, &job, &placement);
  limit_passed(db, &job);
}

/* Lease the jobs of the batch; those that expired, or that a limit (NULL: there
** is none) holds back, leave the list. */
static void batch_lease(dibs_db *db, struct claim *claim,
                        const struct queue *queue, const struct limits *limits,
                        struct batch *batch) {
  struct job_list *list = claim->list;
  size_t from = batch->start, to = batch->start;
  claim->queue = job_list_copy(db, list, queue->name);
  for (int i = 0; i < batch->count && !db->status; i++) {
    const struct ready *ready = &batch->rows[i];
    if (ready->orphan) continue;
    dibs_job job = list->jobs[from++];
    if (job.expires_at != DIBS_UNSET && job.expires_at <= db->now) {
      list->payload -= job.payload.size;
      expired_drop(db, ready);
      continue;
    }
    if (limits && !limit_admits(db, queue, limits, ready->limit_key)) {
      list->payload -= job.payload.size;
      limit_block(db, queue, ready->id, ready->priority, ready->limit_key,
                  &ready->history);
      continue;
    }
    lease_add(db, claim, queue, ready, &job);
    if (!ready->plain) extras_take(db, claim, ready, &job);
    list->jobs[to++] = job;
  }
  queue_taken(db, queue, (int64_t)(to - batch->start));
  if (limits) limit_started(db, queue, limits, (int64_t)(to - batch->start));
  list->list.count = to;
}

/* How many rows to read next: none when a limit allows no more. */
static int64_t batch_limit(dibs_db *db, const struct claim *claim,
                           const struct queue *queue,
                           const struct limits *limits, int64_t n) {
  int64_t limit = n - (int64_t)claim->list->list.count;
  if (limit > READY_AT_ONCE) limit = READY_AT_ONCE;
  if (!limits) return limit;
  int64_t allowed = limit_allows(db, queue, limits);
  return allowed < limit ? allowed : limit;
}

/* Take from a queue until there are `n` jobs, or it has none left, or so many
** were held back by their limit keys that others should have their turn. Gives
** how many rows there were. */
static int64_t queue_take(dibs_db *db, struct claim *claim,
                          const struct queue *queue, int64_t n) {
  struct batch batch;
  struct limits read, *limits = queue->limited ? &read : NULL;
  int64_t seen = 0;
  if (limits) limits_read(db, queue->id, limits);
  do {
    int64_t limit = batch_limit(db, claim, queue, limits, n);
    if (!limit) return seen ? seen : 1; /* it may have rows */
    batch_read(db, claim, queue, limit, &batch);
    batch_remove(db, queue, &batch);
    batch_lease(db, claim, queue, limits, &batch);
    seen += batch.count;
  } while (batch.count && !claim->full && !db->status && seen < SEEN_MOST + n &&
           (int64_t)claim->list->list.count < n);
  if (seen >= SEEN_MOST + n) claim->more = true;
  return seen;
}

/* ------------------------------------------------------------------- turns */

/* One round of turns: one job from each queue above `after`. Leaves the name of
** the queue that was served last in `after`. Gives how many jobs were taken. */
static int64_t round_take(dibs_db *db, struct claim *claim,
                          char after[KEY_SIZE], char last[KEY_SIZE]) {
  struct queue queue;
  char name[KEY_SIZE];
  int64_t before = (int64_t)claim->list->list.count;
  while (!claim_is_full(claim) &&
         queue_next(db, claim->patterns, after, name)) {
    int64_t count = (int64_t)claim->list->list.count;
    strcpy(after, name);
    queue_find(db, name, &queue);
    if (!queue_take(db, claim, &queue, count + 1)) queue_empty(db, queue.id);
    if ((int64_t)claim->list->list.count > count) strcpy(last, name);
  }
  return (int64_t)claim->list->list.count - before;
}

static void cursor_name(struct patterns patterns, struct text *name) {
  for (size_t i = 0; i < patterns.count; i++) {
    if (i) text_string(name, "\n");
    text_string(name, patterns.items[i]);
  }
}

static void cursor_load(dibs_db *db, const struct text *name,
                        char after[KEY_SIZE]) {
  after[0] = 0;
  sqlite3_stmt *row =
      sql_first(db, SQL_CURSOR, SQL_ARGS(sql_sized(name->data, name->size)));
  if (!row) return;
  sql_column_key(db, row, 0, after);
  sql_reset(db, row);
}

/* Rounds, until the claim is full or a whole round found nothing. */
static void turns_take(dibs_db *db, struct claim *claim) {
  char after[KEY_SIZE], last[KEY_SIZE];
  struct text name = {.data = NULL};
  cursor_name(claim->patterns, &name);
  if (name.failed) handle_nomem(db);
  cursor_load(db, &name, after);
  strcpy(last, after);
  bool wrapped = !*after;
  while (!claim_is_full(claim) && !db->status) {
    if (!round_take(db, claim, after, last) && wrapped) break;
    wrapped = true;
    after[0] = 0;
  }
  if (claim->list->list.count)
    sql_run(db, SQL_CURSOR_SET,
            SQL_ARGS(sql_sized(name.data, name.size), sql_text(last),
                     sql_int(db->now)));
  text_free(&name);
}

/* The queues in the order given; those of a pattern by name. */
static void order_take(dibs_db *db, struct claim *claim) {
  struct queue queue;
  char name[KEY_SIZE], after[KEY_SIZE];
  for (size_t i = 0; i < claim->patterns.count; i++) {
    after[0] = 0;
    while (!claim_is_full(claim) && !db->status &&
           pattern_next(db, claim->patterns.items[i], after, name)) {
      strcpy(after, name);
      queue_find(db, name, &queue);
      if (!queue_take(db, claim, &queue, claim->n)) queue_empty(db, queue.id);
    }
  }
}

static void one_take(dibs_db *db, struct claim *claim) {
  struct queue queue;
  queue_find(db, claim->patterns.items[0], &queue);
  if (queue.id && !queue.paused) queue_take(db, claim, &queue, claim->n);
}

void claim_take(dibs_db *db, struct claim *claim) {
  if (patterns_are_one(claim->patterns))
    one_take(db, claim);
  else if (claim->in_order)
    order_take(db, claim);
  else
    turns_take(db, claim);
}

/* ----------------------------------------------------------------- looking */

/* Whether a queue has a ready row, without the write lock. */
static bool queue_look(dibs_db *db, const char *name) {
  return sql_get(db, SQL_HAS_READY, SQL_ARGS(sql_text(name)), 0) != 0;
}

bool claim_look(dibs_db *db, struct patterns patterns, int64_t *due) {
  char after[KEY_SIZE] = "", name[KEY_SIZE];
  *due = tidy_next(db);
  if (*due <= db->now) return true;
  if (patterns_are_one(patterns)) return queue_look(db, patterns.items[0]);
  while (queue_next(db, patterns, after, name)) {
    if (queue_look(db, name)) return true;
    strcpy(after, name);
  }
  return false;
}

/* ---------------------------------------------------------------- claiming */

/* What limits hold back is put aside, so much in a transaction; there may be
** something else behind it. */
static void claim_write(dibs_db *db, struct claim *claim) {
  do {
    claim->more = false;
    sql_begin_write(db);
    tidy(db, claim->patterns);
    claim_take(db, claim);
    sql_end(db);
  } while (claim->more && !claim->list->list.count && !db->status);
  db->eager = claim->list->list.count && !db->status;
}

/* A look that promised something may be followed by a claim that finds nothing:
** another was faster, or there was something else to do first. */
static void claim_once(dibs_db *db, struct claim *claim) {
  db->now = dibs_now(db);
  duties(db);
  if (db->eager) claim_write(db, claim);
  if (claim->list->list.count || db->status) return;
  if (!claim_look(db, claim->patterns, &claim->due)) return;
  if (db->status) return;
  claim_write(db, claim);
  claim->due = db->now + 1;
}

static void claim_check(dibs_db *db, const dibs_claim_options *options) {
  if (options->size != sizeof *options)
    handle_fail(db, DIBS_MISUSE,
                "claim options were not set up with "
                "DIBS_CLAIM_OPTIONS_INIT");
  else if (options->n != DIBS_UNSET &&
           (options->n < 1 || options->n > DIBS_CLAIM_MAX))
    handle_fail(db, DIBS_INVALID, "n is %lld: give 1 to %d",
                (long long)options->n, DIBS_CLAIM_MAX);
  else if (options->lease != DIBS_UNSET && options->lease <= 0)
    handle_fail(db, DIBS_INVALID, "lease is %lld ms: give more than 0",
                (long long)options->lease);
  else if (options->wait != DIBS_UNSET && options->wait < 0)
    handle_fail(db, DIBS_INVALID, "wait is negative: give 0 ms or more");
  else if (options->worker && name_problem(options->worker))
    handle_fail(db, DIBS_INVALID, "worker '%s' %s", options->worker,
                name_problem(options->worker));
}

static void claim_wait(dibs_db *db, struct claim *claim, int64_t wait) {
  struct handle_wait waiting;
  handle_wait_start(db, &waiting, wait, claim->patterns.items,
                    claim->patterns.count, 0);
  do {
    handle_wait_look(db, &waiting);
    claim_once(db, claim);
  } while (!db->status && !claim->list->list.count &&
           handle_wait(db, &waiting, claim->due));
  handle_wait_end(db, &waiting, claim->list->list.count > 0);
}

static void claim_run(dibs_db *db, struct claim *claim, int64_t wait) {
  bool waits = wait != DIBS_UNSET && wait;
  if (waits && !handle_may_wait(db)) return;
  claim_once(db, claim);
  if (!claim->list->list.count && !db->status && waits)
    claim_wait(db, claim, wait);
  if (!claim->list->list.count)
    handle_fail(db, DIBS_EMPTY,
                wait == DIBS_UNSET || !wait
                    ? "there is nothing to claim"
                    : "nothing to claim came within the wait");
}

/* The holder of the leases, if they are to end with the process. */
static int64_t holder_of(dibs_db *db, const dibs_claim_options *options) {
  int64_t holder = options->attached ? sidecar_hold(db->sidecar) : 0;
  if (!holder) return DIBS_UNSET;
  atomic_store(&db->sidecar->attached, true);
  return -holder;
}

int dibs_claim(dibs_db *db, const char *const *queues, size_t count,
               const dibs_claim_options *options, dibs_job_list **jobs) {
  static const dibs_claim_options defaults = DIBS_CLAIM_OPTIONS_INIT;
  int status;
  if (!jobs) return DIBS_MISUSE;
  *jobs = NULL;
  if (!handle_enter(db, &status)) return status;
  if (!options) options = &defaults;
  claim_check(db, options);
  struct claim claim = {.patterns = pattern_or_default(db, queues, count)};
  if (!db->status) claim.list = job_list_new(db);
  if (!db->status) {
    claim.n = options->n == DIBS_UNSET ? 1 : options->n;
    claim.lease = options->lease;
    claim.worker = options->worker;
    claim.worker_copy = job_list_copy(db, claim.list, options->worker);
    claim.in_order = options->in_order != 0;
    claim.holder = holder_of(db, options);
    claim_run(db, &claim, options->wait);
  }
  job_list_give(db, claim.list, jobs);
  return handle_leave(db);
}

/* ----------------------------------------------------------------- peeking */

/* Append up to `n` jobs that the queue would give next: its ready ones, and
** those that have fallen due but have not been moved yet. */
static void queue_peek(dibs_db *db, struct job_list *list, int64_t queue_id,
                       int64_t skip, int64_t n) {
  sqlite3_stmt *row =
      sql_first(db, SQL_PEEK,
                SQL_ARGS(sql_int(queue_id), sql_int(db->now), sql_int(n),
                         sql_int(skip), sql_int(TIDY_PROMOTED)));
  if (!row) return;
  do job_list_read(db, list, sql_column_int(db, row, 0), true);
  while (!db->status && sql_next(db, row));
  if (db->status) sql_reset(db, row);
}

/* Rounds of one job from each queue, as turns_take() does it. */
static void turns_peek(dibs_db *db, struct patterns patterns,
                       struct job_list *list, int64_t n) {
  struct text ids = {.data = NULL}, cursor = {.data = NULL};
  char after[KEY_SIZE];
  queue_ids(db, patterns, &ids);
  cursor_name(patterns, &cursor);
  if (cursor.failed) handle_nomem(db);
  cursor_load(db, &cursor, after);
  for (int64_t skip = 0; (int64_t)list->list.count < n; skip++) {
    size_t before = list->list.count;
    sqlite3_stmt *row = sql_first(db, SQL_PEEK_QUEUES,
                                  SQL_ARGS(sql_sized(ids.data, ids.size),
                                           sql_int(db->now), sql_text(after)));
    if (!row) break;
    do queue_peek(db, list, sql_column_int(db, row, 0), skip, 1);
    while (!db->status && (int64_t)list->list.count < n && sql_next(db, row));
    sql_reset(db, row);
    if (list->list.count == before) break;
  }
  text_free(&ids);
  text_free(&cursor);
}

static void peek_run(dibs_db *db, struct patterns patterns,
                     struct job_list *list, int64_t n) {
  struct queue queue;
  if (!patterns_are_one(patterns)) {
    turns_peek(db, patterns, list, n);
    return;
  }
  queue_find(db, patterns.items[0], &queue);
  if (queue.id && !queue.paused) queue_peek(db, list, queue.id, 0, n);
}

int dibs_peek(dibs_db *db, const char *const *queues, size_t count, int64_t n,
              dibs_job_list **jobs) {
  int status;
  struct job_list *list = NULL;
  if (!jobs) return DIBS_MISUSE;
  *jobs = NULL;
  if (!handle_enter(db, &status)) return status;
  struct patterns patterns = pattern_or_default(db, queues, count);
  if (n < 1 || n > DIBS_CLAIM_MAX)
    handle_fail(db, DIBS_INVALID, "n is %lld: give 1 to %d", (long long)n,
                DIBS_CLAIM_MAX);
  if (!db->status) list = job_list_new(db);
  if (!db->status) {
    sql_begin_read(db);
    peek_run(db, patterns, list, n);
    sql_end(db);
    if (!list->list.count)
      handle_fail(db, DIBS_EMPTY, "there is nothing to claim");
  }
  job_list_give(db, list, jobs);
  return handle_leave(db);
}
