/* SPDX-License-Identifier: MIT */
/*
** operations.c: the table of operations, and the database that they run on.
** Nothing in it is random but the tokens of leases: backoff has no jitter.
*/
#include "operations.h"

#include <unistd.h>

/* ---- The prepared database ------------------------------------------------ */

/* What the operations know of it. */
static struct {
  int64_t ready, scheduled, head, blocked, stage, unique, dead, skipped, done;
  char held[64];     /* a plain lease */
  char kept[64];     /* of a job that is kept */
  char last[64];     /* of a job on its last attempt */
  char lane[64];     /* of the head of a lane with others behind it */
  char other[64];    /* a second plain lease */
  char expired[64];  /* of a job whose expiry will have passed */
  char limited[64];  /* of a limited queue, others waiting for its end */
  int64_t dead_head; /* holds its lane */
} known;

static dibs_job_options plain_options(void) {
  dibs_job_options options = no_options();
  options.backoff_jitter = 0;
  return options;
}

static void hold(fixture *f, const char *queue, int64_t lease,
                 char receipt[64]) {
  held job = take_for(f, queue, lease);
  if (receipt) memcpy(receipt, job.receipt, sizeof job.receipt);
}

static void prepare_waiting(fixture *f) {
  dibs_job_options options = plain_options();
  known.ready = put_with(f, "q", "{\"plain\":1}", &options);
  options.delay = HOUR;
  known.scheduled = put_with(f, "q", "1", &options);
  options.delay = DIBS_UNSET;
  options.key = "k";
  known.head = put_with(f, "q", "1", &options);
  known.blocked = put_with(f, "q", "1", &options);
  put_with(f, "q", "1", &options);
  options.key = NULL;
  options.stage = HOUR;
  known.stage = put_with(f, "q", "1", &options);
  options.stage = DIBS_UNSET;
  options.unique = "u";
  known.unique = put_with(f, "q", "1", &options);
  options.unique = "brief";
  options.unique_for = DIBS_UNIQUE_UNTIL_START;
  put_with(f, "q", "1", &options);
  options.unique = NULL;
  options.unique_for = DIBS_UNSET;
  options.expires = MINUTE;
  put_with(f, "q", "1", &options);
  options.expires = DIBS_UNSET;
  put_with(f, "a/1", "1", &options);
  put_with(f, "a/2", "1", &options);
  put_with(f, "paused", "1", &options);
  put_with(f, "paused/1", "1", &options);
  static const char *const paused[] = {"paused", "paused/*"};
  expect_ok(f->db, dibs_pause(f->db, paused, 2, NULL));
}

static void prepare_large(fixture *f) {
  char bytes[20000];
  memset(bytes, 'x', sizeof bytes);
  expect_ok(f->db, dibs_enqueue(f->db, "large", dibs_bytes(bytes, sizeof bytes),
                                NULL, NULL));
}

static void prepare_leased(fixture *f) {
  dibs_job_options options = plain_options();
  put_with(f, "held", "1", &options);
  hold(f, "held", DAY, known.held);
  put_with(f, "other", "1", &options);
  hold(f, "other", DAY, known.other);
  options.keep = HOUR;
  put_with(f, "kept", "1", &options);
  hold(f, "kept", DAY, known.kept);
  options.keep = DIBS_UNSET;
  options.key = "lane";
  put_with(f, "lane", "1", &options);
  put_with(f, "lane", "1", &options);
  hold(f, "lane", DAY, known.lane);
  options.key = NULL;
  options.max_attempts = 1;
  put_with(f, "last", "1", &options);
  hold(f, "last", DAY, known.last);
  put_with(f, "lapse", "1", &options);
  hold(f, "lapse", SECOND, NULL);
  options.max_attempts = 5;
  put_with(f, "lapse", "1", &options);
  hold(f, "lapse", SECOND, NULL);
  options.expires = MINUTE;
  put_with(f, "expired", "1", &options);
  hold(f, "expired", DAY, known.expired);
}

static int64_t kill_job(fixture *f, const char *queue,
                        const dibs_job_options *options) {
  int64_t id = put_with(f, queue, "1", options);
  held job = take(f, queue);
  expect_ok(f->db, dibs_fail(f->db, job.receipt, "broken"));
  return id;
}

static void prepare_finished(fixture *f) {
  dibs_job_options options = plain_options();
  known.dead = kill_job(f, "d", &options);
  options.unique = "v";
  known.skipped = kill_job(f, "d", &options);
  put_with(f, "d2", "1", &options);
  options.unique_scope = DIBS_UNIQUE_ALL;
  options.unique = "w";
  kill_job(f, "d", &options);
  options = plain_options();
  options.unique = "v";
  put_with(f, "d", "1", &options);
  options.unique = NULL;
  options.keep = MINUTE;
  known.done = put_with(f, "done", "1", &options);
  options.unique = "long";
  options.unique_for = HOUR;
  put_with(f, "done", "1", &options);
  for (int i = 0; i < 2; i++) {
    expect_ok(f->db, dibs_ack(f->db, take(f, "done").receipt, "{\"r\":1}"));
  }
}

/* A queue that is set to all there is: of four jobs of a limit key one runs, one
** is put aside and two have not been met; two are done and kept, and a dead one
** holds its lane. */
static void prepare_limited(fixture *f) {
  static const char *const names[] = {"limit",     "limit_per_key",
                                      "rate",      "rate_per_key",
                                      "dead_head", "keep_count"};
  static const char *const values[] = {"2", "1", "8/1s", "4/1s", "block", "2"};
  dibs_job_options options = plain_options();
  expect_ok(f->db, dibs_queue_set(f->db, "lim", names, values, COUNT(names)));
  for (int i = 0; i < 2; i++) {
    put_with(f, "lim", "1", &options);
    expect_ok(f->db, dibs_ack(f->db, take(f, "lim").receipt, NULL));
  }
  options.key = "lane";
  known.dead_head = kill_job(f, "lim", &options);
  put_with(f, "lim", "1", &options);
  options.key = NULL;
  options.limit_key = "a";
  put_with(f, "lim", "1", &options);
  put_with(f, "lim", "1", &options);
  hold(f, "lim", DAY, known.limited);
  expect_nothing(f, "lim");
  put_with(f, "lim", "1", &options);
  put_with(f, "lim", "1", &options);
  options.limit_key = "b";
  put_with(f, "lim", "1", &options);
}

void stage_prepare(stage *s, fixture *f, int delete_mode) {
  memset(s, 0, sizeof *s);
  s->f = f;
  s->delete_mode = delete_mode;
  f->now = START;
  f->db = open_another(f);
  prepare_waiting(f);
  prepare_large(f);
  prepare_leased(f);
  prepare_finished(f);
  prepare_limited(f);
  close_checked(f);
  raw_run(f, "PRAGMA journal_mode=%s", delete_mode ? "DELETE" : "WAL");
  snprintf(s->template, sizeof s->template, "%s/template.db", f->folder);
  file_copy(f->path, s->template);
}

/* ---- Enqueuing ------------------------------------------------------------- */

static int enqueue_plain(dibs_db *db) {
  return dibs_enqueue(db, "q", dibs_json("[1]"), NULL, NULL);
}

static int enqueue_with_everything(dibs_db *db) {
  dibs_job_options options = plain_options();
  options.name = "send";
  options.headers = "{\"a\":\"b\"}";
  options.priority = 7;
  options.delay = MINUTE;
  options.expires = HOUR;
  options.max_attempts = 3;
  options.max_crashes = 4;
  options.backoff = 1000;
  options.backoff_factor = 1.5;
  options.backoff_cap = HOUR;
  options.lease = MINUTE;
  options.timeout = MINUTE;
  options.keep = DAY;
  options.key = "k";
  options.limit_key = "l";
  options.unique = "new";
  options.unique_for = DAY;
  return dibs_enqueue(db, "brand/new", dibs_bytes("\0\1", 2), &options, NULL);
}

static int enqueue_many(dibs_db *db) {
  dibs_job_options options[4];
  dibs_new_job jobs[12];
  dibs_enqueued results[12];
  memset(jobs, 0, sizeof jobs);
  for (size_t i = 0; i < COUNT(options); i++) options[i] = plain_options();
  options[0].key = "k";
  options[1].unique = "u";
  options[2].stage = HOUR;
  options[3].delay = HOUR;
  for (size_t i = 0; i < COUNT(jobs); i++) {
    jobs[i].queue = i % 3 ? "q" : "many";
    jobs[i].payload = dibs_json("{\"n\":1}");
    jobs[i].options = i < 8 ? &options[i % 4] : NULL;
  }
  return dibs_enqueue_many(db, jobs, COUNT(jobs), results);
}

static int enqueue_conflict(dibs_db *db, int policy) {
  dibs_job_options options = plain_options();
  options.unique = "u";
  options.on_conflict = policy;
  options.delay = 2 * HOUR;
  return dibs_enqueue(db, "q", dibs_json("[\"new\"]"), &options, NULL);
}

static int enqueue_replace(dibs_db *db) {
  return enqueue_conflict(db, DIBS_CONFLICT_REPLACE);
}

static int enqueue_postpone(dibs_db *db) {
  return enqueue_conflict(db, DIBS_CONFLICT_POSTPONE);
}

static int commit_staged(dibs_db *db) {
  return dibs_commit(db, known.stage);
}

static int abort_staged(dibs_db *db) {
  return dibs_abort(db, known.stage);
}

static int parse_job(dibs_db *db) {
  static const char json[] = "{\"queue\":\"a\\u002Fb\",\"payload\":[1],"
                             "\"headers\":{\"a\":\"b\"},\"delay\":\"5m\","
                             "\"name\":\"\\u00e9\"}";
  dibs_parsed_job *parsed = NULL;
  int status = dibs_parse_job(db, json, sizeof json - 1, &parsed);
  dibs_parsed_job_free(parsed);
  return status;
}

/* ---- Claiming ---------------------------------------------------------------- */

static int claim_with(dibs_db *db, const char *const *queues, size_t count,
                      int64_t n, int in_order) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  options.n = n;
  options.in_order = in_order;
  options.worker = "worker";
  int status = dibs_claim(db, queues, count, &options, &jobs);
  dibs_job_list_free(jobs);
  return status;
}

static const char *const one_queue[] = {"q"};
static const char *const all_queues[] = {DIBS_ALL};
static const char *const some_queues[] = {"q", "a/*", "large"};

static int claim_one(dibs_db *db) {
  return claim_with(db, one_queue, 1, 1, 0);
}

static int claim_all(dibs_db *db) {
  return claim_with(db, all_queues, 1, 100, 0);
}

static int claim_in_order(dibs_db *db) {
  return claim_with(db, some_queues, 3, 100, 1);
}

/* ---- Settling ---------------------------------------------------------------- */

static int ack(dibs_db *db) {
  return dibs_ack(db, known.held, NULL);
}

static int ack_kept(dibs_db *db) {
  return dibs_ack(db, known.kept, "{\"result\":[1,2,3]}");
}

static int ack_lane(dibs_db *db) {
  return dibs_ack(db, known.lane, NULL);
}

static int retry(dibs_db *db) {
  int state;
  return dibs_retry(db, known.held, DIBS_UNSET, "try again", &state);
}

static int retry_last(dibs_db *db) {
  return dibs_retry(db, known.last, 0, "that was it", NULL);
}

static int retry_expired(dibs_db *db) {
  return dibs_retry(db, known.expired, 0, "too late", NULL);
}

static int fail_job(dibs_db *db) {
  return dibs_fail(db, known.lane, "no");
}

static int release(dibs_db *db) {
  return dibs_release(db, known.held);
}

static int snooze(dibs_db *db) {
  return dibs_snooze(db, known.held, HOUR);
}

static int discard(dibs_db *db) {
  return dibs_discard(db, known.kept, "not wanted");
}

static int extend(dibs_db *db) {
  return dibs_extend(db, known.held, 2 * DAY, NULL);
}

static int settle(dibs_db *db) {
  dibs_settlement s[6];
  memset(s, 0, sizeof s);
  s[0] = (dibs_settlement){.receipt = known.held, .action = DIBS_ACK};
  s[1] = (dibs_settlement){
      .receipt = known.kept, .action = DIBS_ACK, .result = dibs_json("[2]")};
  s[2] = (dibs_settlement){.receipt = known.lane,
                           .action = DIBS_RETRY,
                           .delay = DIBS_UNSET,
                           .error = "later"};
  s[3] = (dibs_settlement){
      .receipt = known.last, .action = DIBS_FAIL, .error = "no"};
  s[4] = (dibs_settlement){.receipt = known.other, .action = DIBS_RELEASE};
  s[5] = (dibs_settlement){.receipt = "1:00000000000000ff", .action = DIBS_ACK};
  return dibs_settle(db, s, COUNT(s));
}

/* ---- While a job runs ---------------------------------------------------- */

static int checkpoint(dibs_db *db) {
  return dibs_checkpoint(db, known.held, dibs_json("{\"page\":7}"), 2 * DAY);
}

static int checkpoint_large(dibs_db *db) {
  char bytes[20000];
  memset(bytes, 'y', sizeof bytes);
  return dibs_checkpoint(db, known.kept, dibs_bytes(bytes, sizeof bytes),
                         DIBS_UNSET);
}

static int progress(dibs_db *db) {
  return dibs_progress(db, known.held, 0.4, "page 7 of 18");
}

/* ---- Changing ---------------------------------------------------------------- */

static int cancel(dibs_db *db) {
  int64_t ids[] = {known.ready, known.head, known.dead, known.unique,
                   known.stage, known.done, 12345};
  dibs_id_outcome outcomes[COUNT(ids)];
  return dibs_cancel(db, ids, COUNT(ids), outcomes, NULL);
}

static int change_priority(dibs_db *db) {
  dibs_change_options options = DIBS_CHANGE_OPTIONS_INIT;
  options.priority = -3;
  return dibs_change(db, known.ready, &options);
}

static int change_delay(dibs_db *db) {
  dibs_change_options options = DIBS_CHANGE_OPTIONS_INIT;
  options.delay = 0;
  options.priority = 3;
  return dibs_change(db, known.scheduled, &options);
}

static int change_blocked(dibs_db *db) {
  dibs_change_options options = DIBS_CHANGE_OPTIONS_INIT;
  options.delay = HOUR;
  return dibs_change(db, known.blocked, &options);
}

/* ---- Limits, dead heads, retention ------------------------------------------- */

static const char *const limited_queue[] = {"lim"};

static int claim_limited(dibs_db *db) {
  return claim_with(db, limited_queue, 1, 5, 0);
}

static int ack_limited(dibs_db *db) {
  return dibs_ack(db, known.limited, "{\"r\":2}");
}

static int retry_limited(dibs_db *db) {
  return dibs_retry(db, known.limited, HOUR, "later", NULL);
}

static int clear_limited(dibs_db *db) {
  return dibs_clear(db, limited_queue, 1, 0, NULL);
}

static int requeue_head(dibs_db *db) {
  return dibs_requeue(db, &known.dead_head, 1, NULL, NULL);
}

static int cancel_head(dibs_db *db) {
  return dibs_cancel(db, &known.dead_head, 1, NULL, NULL);
}

static int set_queue(dibs_db *db) {
  static const char *const names[] = {"limit",   "rate_per_key", "name",
                                      "headers", "unique",       "keep_count"};
  static const char *const values[] = {"1", "1/1h", "send", "{\"a\":\"b\"}",
                                       "u", "1"};
  return dibs_queue_set(db, "lim", names, values, COUNT(names));
}

static int set_nothing(dibs_db *db) {
  static const char *const names[] = {"limit",     "limit_per_key",
                                      "rate",      "rate_per_key",
                                      "dead_head", "keep_count"};
  static const char *const values[COUNT(names)] = {NULL};
  return dibs_queue_set(db, "lim", names, values, COUNT(names));
}

static int show_queue(dibs_db *db) {
  char *json = NULL;
  int status = dibs_queue_show(db, "lim", &json);
  dibs_free(json);
  return status;
}

static int explain(dibs_db *db) {
  dibs_reason_list *reasons = NULL;
  int status = dibs_explain(db, known.blocked, &reasons);
  dibs_reason_list_free(reasons);
  return status;
}

static int requeue(dibs_db *db) {
  int64_t ids[] = {known.dead, known.skipped, known.ready};
  dibs_id_outcome outcomes[COUNT(ids)];
  return dibs_requeue(db, ids, COUNT(ids), outcomes, NULL);
}

static int redrive(dibs_db *db) {
  int64_t moved = 0;
  int64_t *skipped = NULL;
  size_t count = 0;
  int status = dibs_redrive(db, all_queues, 1, &moved, &skipped, &count);
  dibs_free(skipped);
  return status;
}

static int pause_queues(dibs_db *db) {
  static const char *const queues[] = {"q", "a/*", "never", "paused"};
  return dibs_pause(db, queues, COUNT(queues), NULL);
}

static int pause_all(dibs_db *db) {
  return dibs_pause(db, all_queues, 1, NULL);
}

static int resume_queues(dibs_db *db) {
  static const char *const queues[] = {"paused/*", "paused", "q", "none"};
  return dibs_resume(db, queues, COUNT(queues), NULL);
}

static int purge(dibs_db *db) {
  return dibs_purge(db, all_queues, 1, NULL);
}

static int clear(dibs_db *db) {
  return dibs_clear(db, all_queues, 1, 1, NULL);
}

static int prune(dibs_db *db) {
  return dibs_prune(db, NULL);
}

/* ---- Looking ----------------------------------------------------------------- */

static int peek(dibs_db *db) {
  dibs_job_list *jobs = NULL;
  int status = dibs_peek(db, all_queues, 1, 10, &jobs);
  dibs_job_list_free(jobs);
  return status;
}

static int get(dibs_db *db) {
  dibs_job_list *jobs = NULL;
  char *json = NULL;
  int status = dibs_get(db, known.dead, &jobs);
  if (status == DIBS_OK) status = dibs_job_json(&jobs->jobs[0], &json);
  dibs_free(json);
  dibs_job_list_free(jobs);
  return status;
}

static int list(dibs_db *db) {
  dibs_job_list *jobs = NULL;
  int status = dibs_list(db, some_queues, 3, NULL, &jobs);
  dibs_job_list_free(jobs);
  return status;
}

static int stats(dibs_db *db) {
  dibs_stats_list *queues = NULL;
  int status = dibs_stats(db, some_queues, 3, &queues);
  dibs_stats_list_free(queues);
  return status;
}

static int await_ended(dibs_db *db) {
  dibs_job_list *jobs = NULL;
  int state = 0;
  int status = dibs_await(db, known.dead, 0, &state, &jobs);
  if (status == DIBS_OK && (state != DIBS_DEAD || !jobs)) status = DIBS_MISUSE;
  dibs_job_list_free(jobs);
  return status;
}

static int next_event(dibs_db *db) {
  int64_t at = 0;
  return dibs_next_event(db, &at);
}

static int doctor(dibs_db *db) {
  dibs_finding_list *findings = NULL;
  int status = dibs_doctor(db, 1, &findings);
  dibs_finding_list_free(findings);
  return status;
}

/* ---- Opening ------------------------------------------------------------------ */

static int open_file(fixture *f) {
  dibs_open_options options = fixture_options(f);
  dibs_db *db = NULL;
  int status = dibs_open(f->path, &options, &db);
  dibs_close(db);
  return status;
}

/* ---- The table ------------------------------------------------------------------ */

#define LATER (2 * HOUR)

const operation operations[] = {
    {"open", NULL, open_file, 0, 0, 0},
    {"open_new", NULL, open_file, 0, 1, 0},
    {"enqueue", enqueue_plain, NULL, 0, 0, 0},
    {"enqueue_with_everything", enqueue_with_everything, NULL, 0, 0, 0},
    {"enqueue_many", enqueue_many, NULL, 0, 0, 0},
    {"enqueue_replace", enqueue_replace, NULL, 0, 0, 0},
    {"enqueue_postpone", enqueue_postpone, NULL, 0, 0, 0},
    {"commit", commit_staged, NULL, 0, 0, 0},
    {"abort", abort_staged, NULL, 0, 0, 0},
    {"parse_job", parse_job, NULL, 0, 0, 0},
    {"claim_one", claim_one, NULL, 0, 0, 0},
    {"claim_all", claim_all, NULL, 0, 0, 0},
    {"claim_in_order", claim_in_order, NULL, 0, 0, 0},
    {"claim_later", claim_all, NULL, LATER, 0, 0},
    {"ack", ack, NULL, 0, 0, 0},
    {"ack_kept", ack_kept, NULL, 0, 0, 0},
    {"ack_lane", ack_lane, NULL, 0, 0, 0},
    {"retry", retry, NULL, 0, 0, 0},
    {"retry_last", retry_last, NULL, 0, 0, 0},
    {"retry_expired", retry_expired, NULL, LATER, 0, 0},
    {"fail", fail_job, NULL, 0, 0, 0},
    {"release", release, NULL, 0, 0, 0},
    {"snooze", snooze, NULL, 0, 0, 0},
    {"discard", discard, NULL, 0, 0, 0},
    {"extend", extend, NULL, 0, 0, 0},
    {"settle", settle, NULL, 0, 0, 0},
    {"checkpoint", checkpoint, NULL, 0, 0, 0},
    {"checkpoint_large", checkpoint_large, NULL, 0, 0, 0},
    {"progress", progress, NULL, 0, 0, 0},
    {"cancel", cancel, NULL, 0, 0, 0},
    {"change_priority", change_priority, NULL, 0, 0, 0},
    {"change_delay", change_delay, NULL, 0, 0, 0},
    {"change_blocked", change_blocked, NULL, 0, 0, 0},
    {"claim_limited", claim_limited, NULL, 0, 0, 0},
    {"claim_limited_later", claim_limited, NULL, LATER, 0, 0},
    {"ack_limited", ack_limited, NULL, 0, 0, 0},
    {"retry_limited", retry_limited, NULL, 0, 0, 0},
    {"clear_limited", clear_limited, NULL, 0, 0, 1},
    {"requeue_head", requeue_head, NULL, 0, 0, 0},
    {"cancel_head", cancel_head, NULL, 0, 0, 0},
    {"set_queue", set_queue, NULL, 0, 0, 0},
    {"set_nothing", set_nothing, NULL, 0, 0, 0},
    {"show_queue", show_queue, NULL, 0, 0, 0},
    {"explain", explain, NULL, 0, 0, 0},
    {"requeue", requeue, NULL, 0, 0, 0},
    {"redrive", redrive, NULL, 0, 0, 0},
    {"pause", pause_queues, NULL, 0, 0, 0},
    {"pause_all", pause_all, NULL, 0, 0, 0},
    {"resume", resume_queues, NULL, 0, 0, 0},
    {"purge", purge, NULL, 0, 0, 0},
    {"clear", clear, NULL, 0, 0, 1},
    {"prune", prune, NULL, LATER, 0, 1},
    {"peek", peek, NULL, 0, 0, 0},
    {"get", get, NULL, 0, 0, 0},
    {"list", list, NULL, 0, 0, 0},
    {"stats", stats, NULL, 0, 0, 0},
    {"await", await_ended, NULL, 0, 0, 0},
    {"next_event", next_event, NULL, 0, 0, 0},
    {"doctor", doctor, NULL, 0, 0, 0},
};
const size_t operation_count = COUNT(operations);

int64_t data_version(sqlite3 *watch) {
  sqlite3_stmt *statement = NULL;
  int64_t version = -1;
  sqlite3_prepare_v2(watch, "PRAGMA data_version", -1, &statement, NULL);
  if (statement && sqlite3_step(statement) == SQLITE_ROW) {
    version = sqlite3_column_int64(statement, 0);
  }
  sqlite3_finalize(statement);
  return version;
}

/* ---- Running one ---------------------------------------------------------------- */

void stage_restore(stage *s, const operation *op) {
  file_remove(s->f->path);
  if (!op->fresh) file_copy(s->template, s->f->path);
  s->f->now = START + op->later;
}

dibs_db *stage_open(stage *s, const operation *op) {
  dibs_open_options options = fixture_options(s->f);
  dibs_db *db = NULL;
  if (op->open) return NULL;
  options.keep_journal_mode = s->delete_mode;
  expect_ok(db, dibs_open(s->f->path, &options, &db));
  return db;
}

int stage_run(stage *s, const operation *op, dibs_db *db) {
  return op->open ? op->open(s->f) : op->run(db);
}

void stage_rehearse(stage *s, const operation *op) {
  free(s->before);
  free(s->after);
  stage_restore(s, op);
  s->before = op->fresh ? strdup("") : database_dump(s->f->path);
  dibs_db *db = stage_open(s, op);
  int status = stage_run(s, op, db);
  if (status != DIBS_OK) {
    fail_msg("%s: %s (%s)", op->name, dibs_status_name(status), dibs_error(db));
  }
  expect_int(dibs_close(db), DIBS_OK);
  s->after = database_dump(s->f->path);
  s->expected = 0;
}

void stage_end(stage *s) {
  free(s->before);
  free(s->after);
}

/* Print the first line that differs. */
static void show_difference(const char *is, const char *wanted) {
  while (*is && *is == *wanted) {
    is++;
    wanted++;
  }
  print_error("seen:   ...%.200s\nwanted: ...%.200s\n", is, wanted);
}

void stage_expect(stage *s, const operation *op, const char *wanted,
                  const char *when) {
  char *now = database_dump(s->f->path);
  int same = strcmp(now, wanted) == 0;
  if (!same) show_difference(now, wanted);
  free(now);
  if (!same) fail_msg("%s, %s: not as it should be", op->name, when);
  /* The references are sound, so what equals them mostly is: a sample will
  ** do for the hints that a dump leaves out. */
  if (s->expected++ % 8 == 0 && !file_is_sound(s->f->path)) {
    fail_msg("%s, %s: a rule is broken", op->name, when);
  }
}

void stage_expect_either(stage *s, const operation *op, const char *when) {
  char *now = database_dump(s->f->path);
  int before = strcmp(now, s->before) == 0;
  free(now);
  stage_expect(s, op, before ? s->before : s->after, when);
}
