/* SPDX-License-Identifier: MIT */
/*
** fuzz_jobs.c: lines as `dibs enqueue --jobs` reads them.
**
** Each line of the input goes to dibs_parse_job(). What it takes must be JSON
** to SQLite too, and as a payload the line must be taken exactly if it is. What
** was parsed is enqueued in one transaction, without what enqueue refuses. Then
** the jobs are claimed now and once more after all delays are over: each must
** hold the payload it was given. In the end the counts must be those of the
** jobs that are listed, every job must be readable as JSON, and everything must
** be removable.
*/
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

#define LINES_MAX  32
#define ROUNDS_MAX 8 /* a job may be retried at once, time and again */
#define LATER      (INT64_C(40) * 365 * 86400 * 1000)

static int64_t first_id; /* of this input; decides how jobs are settled */

/* The jobs of one input, in the order of its lines. */
struct batch {
  dibs_parsed_job *parsed[LINES_MAX];
  dibs_enqueued results[LINES_MAX];
  size_t count;
};

/* ------------------------------------------------------------------------ */
/* Lines                                                                    */
/* ------------------------------------------------------------------------ */

/* As a payload, a line is taken if and only if SQLite takes it for JSON and it
** is UTF-8. */
static void try_payload(dibs_db *db, const char *text, size_t size) {
  const char *all[] = {DIBS_ALL};
  int good = fuzz_is_json(text, size) && fuzz_is_utf8(text, size);
  int status =
      EXPECT(db, STATUS(OK) | STATUS(INVALID),
             dibs_enqueue(db, NULL, dibs_json_sized(text, size), NULL, NULL));
  REQUIRE(fuzz_is_deep(text, size) || (status == DIBS_OK) == good);
  if (status == DIBS_OK) {
    EXPECT(db, STATUS(OK), dibs_clear(db, all, 1, 0, NULL));
  }
}

/* Parse one line; NULL when it is refused. */
static dibs_parsed_job *parse_line(dibs_db *db, const uint8_t *line,
                                   size_t size) {
  dibs_parsed_job *parsed = NULL;
  char *text = fuzz_text(line, size);
  int status = EXPECT(db, STATUS(OK) | STATUS(INVALID) | STATUS(TOO_BIG),
                      dibs_parse_job(db, text, size, &parsed));
  REQUIRE((status == DIBS_OK) == (parsed != NULL));
  if (parsed) REQUIRE(fuzz_is_deep(text, size) || fuzz_is_json(text, size));
  try_payload(db, text, size);
  free(text);
  return parsed;
}

static void parse_lines(dibs_db *db, const uint8_t *data, size_t size,
                        struct batch *batch) {
  while (size && batch->count < LINES_MAX) {
    const uint8_t *end = memchr(data, '\n', size);
    size_t length = end ? (size_t)(end - data) : size;
    size_t used = end ? length + 1 : length;
    dibs_parsed_job *parsed = parse_line(db, data, length);
    if (parsed) batch->parsed[batch->count++] = parsed;
    data += used;
    size -= used;
  }
}

static void drop_line(struct batch *batch, size_t index) {
  size_t rest = batch->count - index - 1;
  dibs_parsed_job_free(batch->parsed[index]);
  memmove(&batch->parsed[index], &batch->parsed[index + 1],
          rest * sizeof batch->parsed[0]);
  batch->count--;
}

static void free_lines(struct batch *batch) {
  while (batch->count) drop_line(batch, batch->count - 1);
}

/* ------------------------------------------------------------------------ */
/* Enqueue                                                                  */
/* ------------------------------------------------------------------------ */

static int enqueue_once(dibs_db *db, struct batch *batch) {
  dibs_new_job jobs[LINES_MAX];
  size_t i;
  for (i = 0; i < batch->count; i++) jobs[i] = batch->parsed[i]->job;
  memset(batch->results, 0, sizeof batch->results);
  return EXPECT(db,
                STATUS(OK) | STATUS(INVALID) | STATUS(TOO_BIG) | STATUS(EXISTS),
                dibs_enqueue_many(db, jobs, batch->count, batch->results));
}

/* New jobs have ids of their own, in the order of the batch. */
static void check_ids(const struct batch *batch) {
  int64_t last = 0;
  size_t i;
  if (batch->count) first_id = batch->results[0].id;
  for (i = 0; i < batch->count; i++) {
    const dibs_enqueued *result = &batch->results[i];
    REQUIRE(result->id > 0 && result->id <= DIBS_ID_MAX);
    if (result->existing) continue;
    REQUIRE(result->id > last);
    last = result->id;
  }
}

/* Enqueue what can be, dropping what is refused: all or none each time. */
static void enqueue_batch(dibs_db *db, struct batch *batch) {
  while (batch->count && enqueue_once(db, batch) != DIBS_OK) {
    int64_t index = dibs_error_index(db);
    dibs_job_list *jobs = NULL;
    REQUIRE(index >= 0 && (size_t)index < batch->count);
    EXPECT(db, STATUS(OK), dibs_list(db, NULL, 0, NULL, &jobs));
    REQUIRE(jobs->count == 0);
    dibs_job_list_free(jobs);
    drop_line(batch, (size_t)index);
  }
  check_ids(batch);
}

/* ------------------------------------------------------------------------ */
/* Claim and settle                                                         */
/* ------------------------------------------------------------------------ */

static int same_payload(const dibs_payload *a, const dibs_payload *b) {
  if (a->kind != b->kind) return 0;
  if (a->kind == DIBS_PAYLOAD_NONE) return 1;
  return a->size == b->size &&
         (!a->size || memcmp(a->data, b->data, a->size) == 0);
}

/* The payload that was given last to the job of that id. */
static const dibs_payload *given_payload(const struct batch *batch,
                                         int64_t id) {
  const dibs_payload *payload = NULL;
  size_t i;
  for (i = 0; i < batch->count; i++) {
    const dibs_new_job *job = &batch->parsed[i]->job;
    const dibs_enqueued *result = &batch->results[i];
    int replaces =
        job->options && job->options->on_conflict == DIBS_CONFLICT_REPLACE;
    if (result->id != id) continue;
    if (!result->existing || replaces) payload = &job->payload;
  }
  return payload;
}

static void settle_job(dibs_db *db, const dibs_job *job) {
  const char *receipt = job->receipt;
  uint32_t ok = STATUS(OK);
  switch ((job->id - first_id) % 5) {
  case 0: EXPECT(db, ok, dibs_ack(db, receipt, "{\"ok\":true}")); break;
  case 1:
    EXPECT(db, ok, dibs_retry(db, receipt, DIBS_UNSET, "no", NULL));
    break;
  case 2: EXPECT(db, ok, dibs_fail(db, receipt, NULL)); break;
  case 3: EXPECT(db, ok, dibs_discard(db, receipt, "no")); break;
  default: break; /* stays with its holder */
  }
}

static void claim_jobs(dibs_db *db, const struct batch *batch) {
  const char *all[] = {DIBS_ALL};
  int round;
  for (round = 0; round < ROUNDS_MAX; round++) {
    dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
    dibs_job_list *jobs = NULL;
    size_t i;
    options.n = LINES_MAX;
    if (EXPECT(db, STATUS(OK) | STATUS(EMPTY),
               dibs_claim(db, all, 1, &options, &jobs)) == DIBS_EMPTY) {
      break;
    }
    fuzz_check_jobs(jobs);
    for (i = 0; i < jobs->count; i++) {
      const dibs_payload *given = given_payload(batch, jobs->jobs[i].id);
      REQUIRE(given && same_payload(given, &jobs->jobs[i].payload));
      settle_job(db, &jobs->jobs[i]);
    }
    dibs_job_list_free(jobs);
  }
}

/* ------------------------------------------------------------------------ */
/* What is left                                                             */
/* ------------------------------------------------------------------------ */

static int64_t counted_jobs(dibs_db *db) {
  dibs_stats_list *stats = NULL;
  int64_t count = 0;
  size_t i;
  EXPECT(db, STATUS(OK), dibs_stats(db, NULL, 0, &stats));
  for (i = 0; i < stats->count; i++) {
    const dibs_queue_stats *queue = &stats->queues[i];
    count += queue->ready + queue->scheduled + queue->blocked + queue->staged +
             queue->running + queue->done + queue->dead;
  }
  dibs_stats_list_free(stats);
  return count;
}

static void check_left(dibs_db *db) {
  dibs_list_options options = DIBS_LIST_OPTIONS_INIT;
  dibs_job_list *jobs = NULL, *job = NULL;
  size_t i;
  options.limit = LINES_MAX + 1;
  EXPECT(db, STATUS(OK), dibs_list(db, NULL, 0, &options, &jobs));
  REQUIRE((int64_t)jobs->count == counted_jobs(db));
  for (i = 0; i < jobs->count; i++) {
    EXPECT(db, STATUS(OK), dibs_get(db, jobs->jobs[i].id, &job));
    fuzz_check_jobs(job);
    dibs_job_list_free(job);
  }
  fuzz_check_jobs(jobs);
  dibs_job_list_free(jobs);
}

/* ------------------------------------------------------------------------ */
/* The database                                                             */
/* ------------------------------------------------------------------------ */

static dibs_db *shared; /* empty between inputs; NULL: there is none */

static int64_t count_of(dibs_db *db, int state, int64_t ids[LINES_MAX]) {
  dibs_list_options options = DIBS_LIST_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  int64_t count;
  size_t i;
  options.state = state;
  options.limit = LINES_MAX;
  EXPECT(db, STATUS(OK), dibs_list(db, NULL, 0, &options, &jobs));
  for (i = 0; i < jobs->count; i++) ids[i] = jobs->jobs[i].id;
  count = (int64_t)jobs->count;
  dibs_job_list_free(jobs);
  return count;
}

/* Everything but what is kept can be removed, and then nothing is left. */
static void remove_all(dibs_db *db) {
  const char *all[] = {DIBS_ALL};
  int64_t ids[LINES_MAX], removed = 0, cancelled = 0;
  int64_t running = count_of(db, DIBS_RUNNING, ids);
  EXPECT(db, STATUS(OK),
         dibs_cancel(db, ids, (size_t)running, NULL, &cancelled));
  REQUIRE(cancelled == running);
  EXPECT(db, STATUS(OK), dibs_clear(db, all, 1, 1, &removed));
  EXPECT(db, STATUS(OK), dibs_prune(db, NULL));
  REQUIRE(counted_jobs(db) == count_of(db, DIBS_DONE, ids));
}

/* Whether a job may leave something behind when it is removed. */
static int leaves_traces(const struct batch *batch) {
  size_t i;
  for (i = 0; i < batch->count; i++) {
    const dibs_job_options *options = batch->parsed[i]->job.options;
    if (!options) continue;
    if (options->keep != DIBS_UNSET || options->unique) return 1;
    if (options->stage != DIBS_UNSET) return 1;
  }
  return 0;
}

static void try_jobs(dibs_db *db, struct batch *batch) {
  fuzz_now = FUZZ_START;
  enqueue_batch(db, batch);
  claim_jobs(db, batch);
  check_left(db);
  fuzz_now += LATER;
  claim_jobs(db, batch);
  check_left(db);
  remove_all(db);
}

int LLVMFuzzerInitialize(int *count, char ***arguments) {
  (void)count;
  (void)arguments;
  return 0;
}

/* Making the tables takes longer than all the rest, so inputs share them, but
** for those that leave something behind. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct batch batch = {.count = 0};
  if (!shared) shared = fuzz_open_memory();
  parse_lines(shared, data, size, &batch);
  if (leaves_traces(&batch)) {
    dibs_db *db = fuzz_open_memory();
    try_jobs(db, &batch);
    REQUIRE(dibs_close(db) == DIBS_OK);
  } else if (batch.count) {
    try_jobs(shared, &batch);
  }
  free_lines(&batch);
  return 0;
}
