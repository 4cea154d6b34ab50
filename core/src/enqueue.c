/* SPDX-License-Identifier: MIT */
/*
** enqueue.c: new jobs: checking what is asked for, writing it, and the second
** phase of staged ones. Options in JSON are read by options.c.
**
** Everything is checked before the transaction begins, so that a mistake never
** takes the write lock. Ids are counted on within the transaction from the
** highest that is there or was ever deleted.
*/
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const dibs_job_options options_unset = {
    .size = sizeof(dibs_job_options),
    .priority = DIBS_UNSET,
    .delay = DIBS_UNSET,
    .at = DIBS_UNSET,
    .expires = DIBS_UNSET,
    .max_attempts = DIBS_UNSET,
    .max_crashes = DIBS_UNSET,
    .backoff = DIBS_UNSET,
    .backoff_cap = DIBS_UNSET,
    .lease = DIBS_UNSET,
    .timeout = DIBS_UNSET,
    .keep = DIBS_UNSET,
    .unique_for = DIBS_UNSET,
    .unique_scope = DIBS_UNIQUE_DEFAULT,
    .on_conflict = DIBS_CONFLICT_DEFAULT,
    .stage = DIBS_UNSET,
};

void dibs_job_options_init(dibs_job_options *options) {
  *options = options_unset;
  options->backoff_factor = (double)NAN;
  options->backoff_jitter = (double)NAN;
}

dibs_payload dibs_none(void) {
  return (dibs_payload){.kind = DIBS_PAYLOAD_NONE};
}

dibs_payload dibs_json_sized(const char *json, size_t size) {
  return (dibs_payload){.kind = DIBS_PAYLOAD_JSON, .data = json, .size = size};
}

dibs_payload dibs_json(const char *json) {
  return json ? dibs_json_sized(json, strlen(json)) : dibs_none();
}

dibs_payload dibs_bytes(const void *data, size_t size) {
  return (dibs_payload){.kind = DIBS_PAYLOAD_BYTES, .data = data, .size = size};
}

/* ---------------------------------------------------------------- checking */

static void name_check(dibs_db *db, const char *what, const char *name) {
  const char *problem = name ? name_problem(name) : NULL;
  if (problem) handle_fail(db, DIBS_INVALID, "%s '%s' %s", what, name, problem);
}

static void range_check(dibs_db *db, const char *what, int64_t value,
                        int64_t least, int64_t most) {
  if (value == DIBS_UNSET || (value >= least && value <= most)) return;
  handle_fail(db, DIBS_INVALID, "%s is %lld: give %lld to %lld", what,
              (long long)value, (long long)least, (long long)most);
}

/* A duration in ms. DIBS_FOREVER is for those that may be endless. */
static void duration_check(dibs_db *db, const char *what, int64_t value,
                           int64_t least) {
  if (value == DIBS_UNSET || (value >= least && value <= TIME_MAX)) return;
  handle_fail(db, DIBS_INVALID, "%s is %lld ms: give %s", what,
              (long long)value, least ? "more than 0" : "0 or more");
}

static void real_check(dibs_db *db, const char *what, double value,
                       double least, double most) {
  if (isnan(value) || (value >= least && value <= most)) return;
  handle_fail(db, DIBS_INVALID, "%s is %g: give %g to %g", what, value, least,
              most);
}

void payload_check(dibs_db *db, const dibs_payload *payload) {
  if (payload->kind == DIBS_PAYLOAD_NONE) return;
  if (payload->kind != DIBS_PAYLOAD_JSON && payload->kind != DIBS_PAYLOAD_BYTES)
    handle_fail(db, DIBS_INVALID,
                "payload kind is %d: give one of enum "
                "dibs_payload_kind",
                payload->kind);
  else if (!payload->data && payload->size)
    handle_fail(db, DIBS_MISUSE, "payload data is NULL but its size is not 0");
  else if (payload->size > (size_t)db->max_payload)
    handle_fail(db, DIBS_TOO_BIG,
                "payload is %zu bytes, over the limit of "
                "%lld: store it elsewhere and enqueue where, or raise "
                "max_payload",
                payload->size, (long long)db->max_payload);
  else if (payload->kind == DIBS_PAYLOAD_JSON &&
           (!payload->data || !json_valid(payload->data, payload->size)))
    handle_fail(db, DIBS_INVALID,
                "payload is not JSON: give JSON text, or "
                "say that it is bytes");
}

static void headers_check(dibs_db *db, const char *headers) {
  if (!headers) return;
  size_t size = strlen(headers);
  if (size > DIBS_HEADERS_MAX) {
    handle_fail(db, DIBS_TOO_BIG, "headers are %zu bytes, over the limit of %d",
                size, DIBS_HEADERS_MAX);
    return;
  }
  if (!headers_are_flat(headers))
    handle_fail(db, DIBS_INVALID,
                "headers are not a flat JSON object of "
                "strings, such as {\"trace\":\"1\"}");
}

static void numbers_check(dibs_db *db, const dibs_job_options *options) {
  range_check(db, "priority", options->priority, INT32_MIN, INT32_MAX);
  range_check(db, "max_attempts", options->max_attempts, 0, INT32_MAX);
  range_check(db, "max_crashes", options->max_crashes, 0, INT32_MAX);
  range_check(db, "at", options->at, 0, TIME_MAX);
  duration_check(db, "delay", options->delay, 0);
  duration_check(db, "expires", options->expires, 1);
  duration_check(db, "backoff", options->backoff, 0);
  duration_check(db, "backoff_cap", options->backoff_cap, 0);
  duration_check(db, "lease", options->lease, 1);
  duration_check(db, "timeout", options->timeout, 1);
  duration_check(db, "stage", options->stage, 1);
  if (options->keep != DIBS_FOREVER)
    duration_check(db, "keep", options->keep, 0);
  real_check(db, "backoff_factor", options->backoff_factor, 1, 1000);
  real_check(db, "backoff_jitter", options->backoff_jitter, 0, 1);
  if (options->delay != DIBS_UNSET && options->at != DIBS_UNSET)
    handle_fail(db, DIBS_INVALID, "delay and at are both given: give one");
}

static void unique_check(dibs_db *db, const dibs_job_options *options) {
  if (options->unique_for != DIBS_UNIQUE_UNTIL_START &&
      options->unique_for != DIBS_UNIQUE_UNTIL_FINISH)
    duration_check(db, "unique_for", options->unique_for, 1);
  range_check(db, "unique_scope", options->unique_scope, DIBS_UNIQUE_DEFAULT,
              DIBS_UNIQUE_ALL);
  range_check(db, "on_conflict", options->on_conflict, DIBS_CONFLICT_DEFAULT,
              DIBS_CONFLICT_REJECT);
  if (options->unique) return;
  if (options->unique_for != DIBS_UNSET || options->unique_scope > 0 ||
      options->on_conflict > 0)
    handle_fail(db, DIBS_INVALID,
                "unique_for, unique_scope and on_conflict "
                "say nothing without unique: give the unique key");
}

static void job_options_check(dibs_db *db, const dibs_job_options *options) {
  if (options->size != sizeof *options) {
    handle_fail(db, DIBS_MISUSE,
                "job options were not set up with "
                "dibs_job_options_init()");
    return;
  }
  name_check(db, "name", options->name);
  name_check(db, "key", options->key);
  name_check(db, "limit_key", options->limit_key);
  name_check(db, "unique", options->unique);
  numbers_check(db, options);
  unique_check(db, options);
  headers_check(db, options->headers);
}

void enqueue_check(dibs_db *db, const dibs_new_job *jobs, size_t count) {
  if (count && !jobs)
    handle_fail(db, DIBS_MISUSE, "jobs is NULL but their count is not 0");
  for (size_t i = 0; i < count && !db->status; i++) {
    name_check(db, "queue", jobs[i].queue);
    payload_check(db, &jobs[i].payload);
    if (jobs[i].options) job_options_check(db, jobs[i].options);
    if (db->status) db->error_index = (int64_t)i;
  }
}

/* ----------------------------------------------------------------- writing */

/* The columns that decide, from the options. */
static void job_start(dibs_db *db, const struct queue *queue,
                      const dibs_job_options *options, struct job *job) {
  *job = (struct job){
      .queue_id = queue->id,
      .created_at = db->now,
      .priority = options->priority == DIBS_UNSET ? 0 : options->priority,
      .expires_at = options->expires == DIBS_UNSET
                        ? DIBS_UNSET
                        : time_add(db->now, options->expires),
      .unique_scope = DIBS_UNSET,
      .unique_for = DIBS_UNSET,
  };
  if (options->key) strcpy(job->key, options->key);
  if (!options->unique) return;
  strcpy(job->unique_key, options->unique);
  job->unique_scope = options->unique_scope == DIBS_UNIQUE_ALL ? 0 : queue->id;
  job->unique_for = options->unique_for;
  if (job->unique_for == DIBS_UNSET) job->unique_for = DIBS_UNIQUE_UNTIL_FINISH;
  if (job->unique_for > 0) job->unique_for = time_add(db->now, job->unique_for);
}

static void job_insert(dibs_db *db, const struct job *job,
                       const dibs_job_options *options,
                       const dibs_payload *payload) {
  sql_run(
      db, SQL_JOB_ADD,
      SQL_ARGS(sql_int(job->id), sql_int(job->queue_id),
               sql_int(job->created_at), sql_int(job->priority),
               sql_text(options->name), sql_text(options->headers),
               sql_payload(payload), sql_int(job->expires_at),
               sql_int(options->max_attempts), sql_int(options->max_crashes),
               sql_int(options->backoff), sql_real(options->backoff_factor),
               sql_int(options->backoff_cap), sql_real(options->backoff_jitter),
               sql_int(options->lease), sql_int(options->timeout),
               sql_int(options->keep), sql_int(job->unique_scope),
               sql_int(job->unique_for), sql_text(options->key),
               sql_text(options->limit_key), sql_text(options->unique)));
}

/* When it is to start: DIBS_UNSET for at once. */
static int64_t options_due(const dibs_db *db, const dibs_job_options *options) {
  if (options->at != DIBS_UNSET) return options->at;
  if (options->delay == DIBS_UNSET || !options->delay) return DIBS_UNSET;
  return time_add(db->now, options->delay);
}

static void job_place(dibs_db *db, const struct job *job,
                      const dibs_job_options *options) {
  struct history history = {.due_at = options_due(db, options)};
  bool head = lane_join(db, job);
  if (options->stage != DIBS_UNSET)
    place_staged(db, job, time_add(db->now, options->stage), history.due_at);
  else if (head)
    place_waiting(db, job, &history);
  else
    place_blocked(db, job, &history);
}

/* ------------------------------------------------------------ unique keys */

/* Give the waiting job `id` what this new one would have had. */
static void conflict_replace(dibs_db *db, int64_t id,
                             const dibs_new_job *new_job) {
  const dibs_job_options *options = new_job->options;
  sql_run(db, SQL_JOB_REPLACE,
          SQL_ARGS(sql_int(id), sql_payload(&new_job->payload),
                   sql_text(options->headers)));
}

static void conflict_postpone(dibs_db *db, const struct job *job,
                              struct placement *placement,
                              const dibs_job_options *options) {
  int64_t due_at = options_due(db, options);
  placement->history.due_at = due_at == DIBS_UNSET ? db->now : due_at;
  job_move(db, job, placement, job->priority);
  limit_passed(db, job);
}

/* A unique job is there. Running and finished ones are never changed. */
static void conflict_meet(dibs_db *db, int64_t id,
                          const dibs_new_job *new_job) {
  struct job job;
  struct placement placement;
  int policy = new_job->options->on_conflict;
  if (policy == DIBS_CONFLICT_REJECT) {
    db->error_id = id;
    handle_fail(db, DIBS_EXISTS, "job %lld has the unique key '%s' already",
                (long long)id, new_job->options->unique);
  }
  if (policy <= DIBS_CONFLICT_KEEP || db->status || !job_read(db, id, &job))
    return;
  placement_find(db, &job, &placement);
  if (placement.state && placement.state < DIBS_RUNNING) {
    if (policy == DIBS_CONFLICT_REPLACE)
      conflict_replace(db, id, new_job);
    else
      conflict_postpone(db, &job, &placement, new_job->options);
  }
  placement_free(&placement);
}

/* ---------------------------------------------------------------- enqueue */

/* The first of `count` new ids. */
static int64_t id_take(dibs_db *db, int64_t count) {
  int64_t id = id_next(db);
  if (id > DIBS_ID_MAX - count + 1)
    handle_fail(db, DIBS_FULL, "all %lld job ids have been used",
                (long long)DIBS_ID_MAX);
  if (!db->status) db->cache.next_id += count;
  return id;
}

/* An enqueue under way. Jobs that may start at once are placed by the run: one
** statement for all whose ids follow each other. */
struct enqueue {
  struct queue queue;
  int64_t defaults_of; /* the queue whose defaults these are; 0: none */
  dibs_job_options defaults;
  struct arena texts; /* of theirs */
  struct job first;   /* of the run; id 0: there is none */
  int64_t last;       /* of the run */
  int64_t newest;     /* added last in this transaction: the highest id */
};

static void run_place(dibs_db *db, struct enqueue *enqueue) {
  const struct job *first = &enqueue->first;
  if (first->id && first->id == enqueue->last)
    sql_run(db, SQL_READY_ADD_FRESH,
            SQL_ARGS(sql_int(first->queue_id), sql_int(first->priority),
                     sql_int(first->id)));
  else if (first->id)
    sql_run(db, SQL_READY_ADD_RUN,
            SQL_ARGS(sql_int(first->id), sql_int(enqueue->last)));
  enqueue->first.id = 0;
}

static void run_add(dibs_db *db, struct enqueue *enqueue, int64_t from,
                    int64_t to, int64_t priority) {
  struct job *first = &enqueue->first;
  if (!first->id) {
    first->id = from;
    first->queue_id = enqueue->queue.id;
    first->priority = priority;
  }
  enqueue->last = to;
  enqueue->newest = to;
  queue_claimable(db, enqueue->queue.id, to - from + 1);
}

/* A job of which nothing was said but its queue and payload. */
static int64_t plain_add(dibs_db *db, struct enqueue *enqueue,
                         const dibs_payload *payload) {
  int64_t id = id_take(db, 1);
  sql_run(db, SQL_JOB_ADD_PLAIN,
          SQL_ARGS(sql_int(id), sql_int(enqueue->queue.id), sql_int(db->now),
                   sql_payload(payload)));
  run_add(db, enqueue, id, id, 0);
  return id;
}

#define TEN 10 /* rows of SQL_JOB_ADD_TEN */

/* How many of the first jobs are plain and of one queue: TEN or 0. Ten rows in
** a statement cost a third less than ten statements (instructions counted). */
static size_t ten_count(const dibs_new_job *jobs, size_t count) {
  if (count < TEN) return 0;
  for (size_t i = 0; i < TEN; i++) {
    const char *name = jobs[i].queue, *first = jobs[0].queue;
    if (jobs[i].options || !name != !first) return 0;
    if (name && strcmp(name, first)) return 0;
  }
  return TEN;
}

static int64_t ten_add(dibs_db *db, struct enqueue *enqueue,
                       const dibs_new_job *jobs) {
  struct sql_value values[3 + TEN + 1];
  int64_t id = id_take(db, TEN);
  values[0] = sql_int(id);
  values[1] = sql_int(enqueue->queue.id);
  values[2] = sql_int(db->now);
  for (int i = 0; i < TEN; i++) values[3 + i] = sql_payload(&jobs[i].payload);
  values[3 + TEN] = (struct sql_value){.type = SQL_END};
  /* Behind the highest id SQLite finds the next ones by itself, and faster. */
  sql_run(db,
          enqueue->newest == id - 1 ? SQL_JOB_ADD_TEN_NEXT : SQL_JOB_ADD_TEN,
          values);
  run_add(db, enqueue, id, id + TEN - 1, 0);
  return id;
}

static int64_t job_add(dibs_db *db, struct enqueue *enqueue, struct job *job,
                       const dibs_new_job *new_job) {
  const dibs_job_options *options = new_job->options;
  job->id = id_take(db, 1);
  job_insert(db, job, options, &new_job->payload);
  unique_acquire(db, job);
  if (job->expires_at != DIBS_UNSET) {
    sql_run(db, SQL_EXPIRY_ADD,
            SQL_ARGS(sql_int(job->expires_at), sql_int(job->id)));
    event_note(db, job->expires_at);
  }
  bool at_once = !options->key && options->stage == DIBS_UNSET &&
                 options_due(db, options) == DIBS_UNSET;
  if (at_once) {
    run_add(db, enqueue, job->id, job->id, job->priority);
  } else {
    run_place(db, enqueue);
    job_place(db, job, options);
  }
  return job->id;
}

/* The queue of the job, looked up unless it is that of the job before. */
static void queue_choose(dibs_db *db, struct enqueue *enqueue,
                         const char *name) {
  struct queue *queue = &enqueue->queue;
  if (!name) name = DIBS_DEFAULT_QUEUE;
  if (!queue->id || strcmp(queue->name, name)) queue_need(db, name, queue);
}

/* What the job asks for, and for the rest what its queue is set to. */
static void options_merge(dibs_db *db, struct enqueue *enqueue,
                          const dibs_job_options *options,
                          dibs_job_options *merged) {
  if (enqueue->defaults_of != enqueue->queue.id) {
    defaults_read(db, enqueue->queue.id, &enqueue->texts, &enqueue->defaults);
    enqueue->defaults_of = enqueue->queue.id;
  }
  *merged = options ? *options : options_unset;
  if (!options) dibs_job_options_init(merged);
  defaults_merge(merged, &enqueue->defaults);
}

static dibs_enqueued enqueue_one(dibs_db *db, struct enqueue *enqueue,
                                 const dibs_new_job *new_job) {
  struct job job;
  dibs_enqueued result = {.id = 0};
  dibs_job_options merged;
  dibs_new_job with_defaults = *new_job;
  if (enqueue->queue.defaults) {
    options_merge(db, enqueue, new_job->options, &merged);
    with_defaults.options = &merged;
    new_job = &with_defaults;
  }
  if (!new_job->options) {
    result.id = plain_add(db, enqueue, &new_job->payload);
    return result;
  }
  job_start(db, &enqueue->queue, new_job->options, &job);
  int64_t holder = unique_holder(db, &job);
  if (!holder) {
    result.id = job_add(db, enqueue, &job, new_job);
    return result;
  }
  run_place(db, enqueue); /* the holder may be of this run */
  conflict_meet(db, holder, new_job);
  return (dibs_enqueued){.id = holder, .existing = 1};
}

void enqueue_write(dibs_db *db, const dibs_new_job *jobs, size_t count,
                   dibs_enqueued *results) {
  struct enqueue enqueue = {.last = 0};
  dibs_enqueued result = {.id = 0};
  for (size_t i = 0, step; i < count && !db->status; i += step) {
    queue_choose(db, &enqueue, jobs[i].queue);
    step = enqueue.queue.defaults ? 0 : ten_count(jobs + i, count - i);
    if (step) {
      result = (dibs_enqueued){.id = ten_add(db, &enqueue, jobs + i)};
    } else {
      result = enqueue_one(db, &enqueue, &jobs[i]);
      step = 1;
    }
    for (size_t j = 0; results && j < step; j++) {
      results[i + j] = result;
      results[i + j].id += (int64_t)j;
    }
    if (db->status) db->error_index = (int64_t)i;
  }
  run_place(db, &enqueue);
  arena_free(&enqueue.texts);
}

int dibs_enqueue_many(dibs_db *db, const dibs_new_job *jobs, size_t count,
                      dibs_enqueued *results) {
  int status;
  if (!db) return DIBS_MISUSE;
  if (db->pid != getpid()) return DIBS_FORKED;
  if (!db->attached) return share_enqueue(db, jobs, count, results);
  if (!handle_enter(db, &status)) return status;
  enqueue_check(db, jobs, count);
  if (!db->status && count) {
    sql_begin_write(db);
    enqueue_write(db, jobs, count, results);
    sql_end(db);
  }
  return handle_leave(db);
}

int dibs_enqueue(dibs_db *db, const char *queue, dibs_payload payload,
                 const dibs_job_options *options, int64_t *id) {
  dibs_new_job job = {queue, payload, options};
  dibs_enqueued result = {.id = 0};
  int status = dibs_enqueue_many(db, &job, 1, &result);
  if (!status && id) *id = result.id;
  return status;
}

/* ----------------------------------------------------------------- staging */

bool staged_was(dibs_db *db, int64_t id) {
  return sql_get(db, SQL_STAGED_WAS, SQL_ARGS(sql_int(id)), 0) != 0;
}

/* Read a staged job. False when there is none; the handle's error says why. */
static bool staged_read(dibs_db *db, int64_t id, struct job *job,
                        struct placement *placement) {
  *placement = (struct placement){.state = 0};
  if (job_read(db, id, job)) placement_find(db, job, placement);
  if (db->status || placement->state == DIBS_STAGED) return !db->status;
  if (placement->state)
    handle_fail(db, DIBS_STATE, "job %lld is %s, not staged", (long long)id,
                dibs_state_name(placement->state));
  else if (staged_was(db, id))
    handle_fail(db, DIBS_LATE,
                "the time of staged job %lld ran out and it is "
                "gone: enqueue it again",
                (long long)id);
  else
    handle_fail(db, DIBS_NOT_FOUND, "there is no job %lld", (long long)id);
  return false;
}

static void staged_commit(dibs_db *db, const struct job *job,
                          const struct placement *placement) {
  if (placement->until <= db->asked) {
    handle_fail(db, DIBS_LATE,
                "the time of staged job %lld ran out: enqueue "
                "it again",
                (long long)job->id);
    return;
  }
  placement_leave(db, job, placement);
  if (lane_is_head(db, job))
    place_waiting(db, job, &placement->history);
  else
    place_blocked(db, job, &placement->history);
}

int dibs_commit(dibs_db *db, int64_t id) {
  int status;
  struct job job;
  struct placement placement;
  if (!handle_enter(db, &status)) return status;
  sql_begin_write(db);
  if (staged_read(db, id, &job, &placement))
    staged_commit(db, &job, &placement);
  placement_free(&placement);
  sql_end(db);
  return handle_leave(db);
}

int dibs_abort(dibs_db *db, int64_t id) {
  int status;
  struct job job;
  struct placement placement;
  if (!handle_enter(db, &status)) return status;
  sql_begin_write(db);
  if (staged_read(db, id, &job, &placement)) {
    placement_leave(db, &job, &placement);
    job_remove(db, &job, &placement);
  }
  placement_free(&placement);
  sql_end(db);
  return handle_leave(db);
}
