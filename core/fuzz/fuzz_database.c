/* SPDX-License-Identifier: MIT */
/*
** fuzz_database.c: a damaged database file.
**
** At the start a small database is made that holds jobs in every state. The
** input is a program of damages to a copy of it, each a letter and its
** operands (below: b a byte, ww and oooooo big-endian numbers, taken modulo
** what there is):
**
**     P oooooo n BYTES   put n bytes at an offset of the file
**     X oooooo b         exclusive-or one byte
**     C b b              copy one page over another
**     Z b                fill a page with zeros
**     T oooooo           cut the file off
**     S b b b            run a statement that breaks an invariant: which one,
**                        for which job, with which value
**     D b                let b days pass
**     W REST             the rest of the input is the write-ahead log
**     R REST             the rest of the input is the database file
**
** Then everything that dibs can do is done to it. It may refuse, with a status
** that speaks of the file, and it may find nothing; it must not crash, hang,
** leave a transaction open or, unless the damage put it there, give a job that
** can't be read as JSON.
*/
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuzz.h"

#define FILE_MAX (1 << 20)
#define DAY      INT64_C(86400000)

/* What a call may say of a file that is damaged. */
#define DAMAGE                                                                 \
  (STATUS(OK) | STATUS(FULL) | STATUS(READONLY) | STATUS(IO) |                 \
   STATUS(CORRUPT) | STATUS(NOMEM) | STATUS(SCHEMA))
#define DAMAGE_OR(name) (DAMAGE | STATUS(name))

static char path[4200];     /* of the database */
static char wal_path[4200]; /* beside it */
static char shm_path[4200];
static uint8_t template[FILE_MAX];
static size_t template_size;
static int64_t template_jobs; /* highest id */
static char receipts[4][64];  /* of jobs that are running in it */

/* ------------------------------------------------------------------------ */
/* Files                                                                    */
/* ------------------------------------------------------------------------ */

static void write_file(const char *name, const uint8_t *data, size_t size) {
  int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  REQUIRE(file >= 0);
  REQUIRE(write(file, data, size) == (ssize_t)size);
  REQUIRE(close(file) == 0);
}

static size_t read_file(const char *name, uint8_t *data, size_t room) {
  int file = open(name, O_RDONLY | O_CLOEXEC);
  ssize_t size;
  REQUIRE(file >= 0);
  size = read(file, data, room);
  REQUIRE(size > 0 && (size_t)size < room);
  REQUIRE(close(file) == 0);
  return (size_t)size;
}

static void remove_files(void) {
  unlink(path);
  unlink(wal_path);
  unlink(shm_path);
}

/* ------------------------------------------------------------------------ */
/* The database that is damaged                                             */
/* ------------------------------------------------------------------------ */

static void add(dibs_db *db, const char *queue, const char *job) {
  dibs_parsed_job *parsed = NULL;
  EXPECT(db, STATUS(OK), dibs_parse_job(db, job, strlen(job), &parsed));
  parsed->job.queue = queue;
  EXPECT(db, STATUS(OK), dibs_enqueue_many(db, &parsed->job, 1, NULL));
  dibs_parsed_job_free(parsed);
}

/* Claim the next job of a queue; its receipt into `receipt`. */
static void claim_one(dibs_db *db, const char *queue, char receipt[64]) {
  const char *queues[] = {queue};
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  options.worker = "worker-1";
  EXPECT(db, STATUS(OK), dibs_claim(db, queues, 1, &options, &jobs));
  REQUIRE(strlen(jobs->jobs[0].receipt) < 64);
  memcpy(receipt, jobs->jobs[0].receipt, strlen(jobs->jobs[0].receipt) + 1);
  dibs_job_list_free(jobs);
}

static void add_running(dibs_db *db) {
  size_t i;
  for (i = 0; i < sizeof receipts / sizeof receipts[0]; i++) {
    add(db, "work", "{\"payload\":[1],\"key\":\"k\",\"timeout\":5}");
    add(db, "work", "{\"payload\":{\"n\":1},\"max_attempts\":2}");
    claim_one(db, "work", receipts[i]);
  }
}

static void add_finished(dibs_db *db) {
  char receipt[64];
  add(db, "done", "{\"payload_base64\":\"AAEC\",\"keep\":\"2d\"}");
  claim_one(db, "done", receipt);
  EXPECT(db, STATUS(OK), dibs_ack(db, receipt, "{\"r\":1}"));
  add(db, "dead", "{\"payload\":1,\"headers\":{\"a\":\"b\"}}");
  claim_one(db, "dead", receipt);
  EXPECT(db, STATUS(OK), dibs_fail(db, receipt, "it broke"));
  add(db, "dead", "{\"payload\":2}");
  claim_one(db, "dead", receipt);
  EXPECT(db, STATUS(OK), dibs_retry(db, receipt, 1000, "again", NULL));
}

static void add_waiting(dibs_db *db) {
  add(db, "a/b", "{\"payload\":\"text\",\"priority\":-3,\"name\":\"n\"}");
  add(db, "a/c", "{\"delay\":\"1h\",\"payload\":null}");
  add(db, "a/c", "{\"expires\":\"2h\",\"unique\":\"u\"}");
  add(db, "lane", "{\"key\":\"k\",\"payload\":1}");
  add(db, "lane", "{\"key\":\"k\",\"payload\":2}");
  add(db, "lane", "{\"key\":\"k\",\"payload\":3,\"delay\":60}");
  add(db, "stage", "{\"stage\":\"1d\",\"payload\":true}");
}

static void make_template(void) {
  static char long_job[5100];
  dibs_open_options options = fuzz_open_options();
  dibs_job_list *jobs = NULL;
  dibs_list_options all = DIBS_LIST_OPTIONS_INIT;
  dibs_db *db = NULL;
  REQUIRE(dibs_open(path, &options, &db) == DIBS_OK);
  add_running(db);
  add_finished(db);
  add_waiting(db);
  snprintf(long_job, sizeof long_job, "{\"payload\":\"%05000d\"}", 7);
  add(db, "a/long", long_job);
  EXPECT(db, STATUS(OK), dibs_list(db, NULL, 0, &all, &jobs));
  template_jobs = jobs->jobs[jobs->count - 1].id;
  dibs_job_list_free(jobs);
  REQUIRE(dibs_close(db) == DIBS_OK);
  template_size = read_file(path, template, sizeof template);
  remove_files();
}

int LLVMFuzzerInitialize(int *count, char ***arguments) {
  const char *folder = fuzz_folder();
  (void)count;
  (void)arguments;
  snprintf(path, sizeof path, "%s/fuzz.db", folder);
  snprintf(wal_path, sizeof wal_path, "%s-wal", path);
  snprintf(shm_path, sizeof shm_path, "%s-shm", path);
  make_template();
  return 0;
}

/* ------------------------------------------------------------------------ */
/* Damages                                                                  */
/* ------------------------------------------------------------------------ */

/* The file under damage, and the input that says how. */
struct damage {
  const uint8_t *data;
  size_t left;
  uint8_t *file;
  size_t size;
};

static unsigned next_byte(struct damage *damage) {
  if (!damage->left) return 0;
  damage->left--;
  return *damage->data++;
}

static size_t next_offset(struct damage *damage) {
  size_t offset = next_byte(damage);
  offset = offset << 8 | next_byte(damage);
  offset = offset << 8 | next_byte(damage);
  return damage->size ? offset % damage->size : 0;
}

static size_t page_size(void) {
  size_t size = (size_t) template[16] << 8 | template[17];
  return size == 1 ? 65536 : size;
}

/* A page of the file, by a number modulo how many there are; NULL: none. */
static uint8_t *next_page(struct damage *damage) {
  size_t pages = damage->size / page_size();
  size_t number = next_byte(damage);
  return pages ? damage->file + number % pages * page_size() : NULL;
}

static void put_bytes(struct damage *damage) {
  size_t at = next_offset(damage);
  size_t count = next_byte(damage);
  for (; count && damage->left && at < damage->size; count--) {
    damage->file[at++] = (uint8_t)next_byte(damage);
  }
}

static void flip_bits(struct damage *damage) {
  size_t at = next_offset(damage);
  uint8_t bits = (uint8_t)next_byte(damage);
  if (damage->size) damage->file[at] ^= bits;
}

static void copy_page(struct damage *damage) {
  uint8_t *from = next_page(damage);
  uint8_t *to = next_page(damage);
  if (from && to && from != to) memcpy(to, from, page_size());
}

static void clear_page(struct damage *damage) {
  uint8_t *page = next_page(damage);
  if (page) memset(page, 0, page_size());
}

/* Rows that contradict each other, or hold what dibs would not write; kept
** inputs name them by their place, so new ones come last. ?1 is a
** job's id, ?2 a small number. */
static const char *const contradictions[] = {
    "DELETE FROM dibs_job WHERE id = ?1",
    "DELETE FROM dibs_queue WHERE id = ?2",
    "DELETE FROM dibs_meta",
    "DELETE FROM dibs_lane WHERE id = ?1",
    "DELETE FROM dibs_unique",
    "DELETE FROM dibs_ready WHERE id = ?1",
    "DELETE FROM dibs_leased WHERE id = ?1",
    "UPDATE dibs_job SET queue_id = ?2 WHERE id = ?1",
    "UPDATE dibs_job SET payload = 'no JSON' WHERE id = ?1",
    "UPDATE dibs_job SET payload = ?2 * 1.5 WHERE id = ?1",
    "UPDATE dibs_job SET headers = '{\"a\":' WHERE id = ?1",
    "UPDATE dibs_job SET headers = CAST(x'00ff' AS TEXT) WHERE id = ?1",
    "UPDATE dibs_job SET name = CAST(x'80e200' AS TEXT) WHERE id = ?1",
    "UPDATE dibs_job SET key = hex(zeroblob(400)) WHERE id = ?1",
    "UPDATE dibs_job SET unique_key = hex(zeroblob(4000)) WHERE id = ?1",
    "UPDATE dibs_job SET priority = 9223372036854775807 WHERE id = ?1",
    "UPDATE dibs_job SET backoff = -9223372036854775807, backoff_factor = -1,"
    " backoff_cap = -1, backoff_jitter = 1e300, lease = -1 WHERE id = ?1",
    "UPDATE dibs_job SET backoff = 9223372036854775807, backoff_factor = 1e308,"
    " backoff_cap = NULL, lease = 9223372036854775807 WHERE id = ?1",
    "UPDATE dibs_job SET max_attempts = -?2, keep = -1, timeout = -1,"
    " expires_at = -1 WHERE id = ?1",
    "UPDATE dibs_job SET created_at = 9223372036854775807 WHERE id = ?1",
    "UPDATE dibs_job SET created_at = -9223372036854775807 - 1 WHERE id = ?1",
    "UPDATE dibs_job SET id = 9223372036854775807 WHERE id = ?1",
    "UPDATE dibs_job SET id = -?2 WHERE id = ?1",
    "UPDATE dibs_job SET unique_scope = ?2, unique_key = 'u', unique_for = ?2",
    "UPDATE dibs_queue SET name = CAST(x'0aff00' AS TEXT) WHERE id = ?2",
    "UPDATE dibs_queue SET name = hex(zeroblob(2000)) WHERE id = ?2",
    "UPDATE dibs_queue SET name = '' WHERE id = ?2",
    "UPDATE dibs_queue SET claimable = 1, next_due = -1",
    "UPDATE dibs_queue SET claimable = 0, next_due = 9223372036854775807",
    "UPDATE dibs_queue SET settings = '[', paused = -?2",
    "UPDATE dibs_meta SET value = 9223372036854775807",
    "UPDATE dibs_meta SET value = ?2",
    "UPDATE dibs_meta SET value = -1",
    "UPDATE OR REPLACE dibs_ready SET id = ?1",
    "UPDATE OR REPLACE dibs_ready SET attempt = 9223372036854775807,"
    " errors = 9223372036854775807, lapses = -1, crashes = -1",
    "UPDATE dibs_leased SET attempt = -?2, claimed_at = 9223372036854775807,"
    " errors = -?2, lapses = 9223372036854775807, lease = -1",
    "UPDATE dibs_leased SET until = -1, worker = CAST(x'ff0a' AS TEXT),"
    " progress = 1e999, progress_text = CAST(x'ff0a' AS TEXT)",
    "UPDATE dibs_done SET outcome = ?2, result = '{', attempt = -1",
    "UPDATE dibs_done SET prune_at = 0, finished_at = 9223372036854775807",
    "UPDATE dibs_dead SET errors = 9223372036854775807, attempt = -1",
    "UPDATE dibs_error SET text = CAST(x'0a00ff' AS TEXT), ms = -1, at = -1",
    "UPDATE OR REPLACE dibs_error SET number = -9223372036854775807, job_id ="
    " ?1",
    "UPDATE dibs_staged SET until = -9223372036854775807, due_at = -1",
    "UPDATE dibs_scheduled SET due_at = ?2, attempt = 9223372036854775807",
    "UPDATE OR REPLACE dibs_expiry SET expires_at = 0, id = ?1",
    "INSERT OR REPLACE INTO dibs_expiry VALUES (?2, ?1)",
    "INSERT OR REPLACE INTO dibs_ready(queue_id, priority, id)"
    " VALUES (?2, ?2, ?1)",
    "INSERT OR REPLACE INTO dibs_scheduled(id, queue_id, due_at)"
    " VALUES (?1, ?2, 0)",
    "INSERT OR REPLACE INTO dibs_blocked(id, queue_id) VALUES (?1, ?2)",
    "INSERT OR REPLACE INTO dibs_staged(id, queue_id, until)"
    " VALUES (?1, ?2, 0)",
    "INSERT OR REPLACE INTO dibs_leased(id, queue_id, token, until, claimed_at,"
    " lease, attempt, crashes, lapses, errors)"
    " VALUES (?1, ?2, 0, 0, 0, 0, 0, 0, 0, 0)",
    "INSERT OR REPLACE INTO dibs_done(id, queue_id, outcome, finished_at,"
    " prune_at, attempt, crashes, lapses, errors)"
    " VALUES (?1, ?2, 7, 0, 0, 0, 0, 0, 0)",
    "INSERT OR REPLACE INTO dibs_dead(id, queue_id, finished_at, attempt,"
    " crashes, lapses, errors) VALUES (?1, ?2, 0, 0, 0, 0, 0)",
    "INSERT OR REPLACE INTO dibs_lane VALUES (?2, 'k', ?1)",
    "INSERT OR REPLACE INTO dibs_unique VALUES ('u', ?2, ?1, 0, 1)",
    "INSERT OR REPLACE INTO dibs_cursor"
    " VALUES ('*', CAST(x'00ff' AS TEXT), -1)",
    "UPDATE dibs_cursor SET queue = hex(zeroblob(4000)), at = -1",
    "DROP VIEW dibs_jobs",
    "DROP TABLE dibs_error",
    "DROP TABLE dibs_meta",
    "ALTER TABLE dibs_job DROP COLUMN name",
    "ALTER TABLE dibs_leased RENAME COLUMN token TO tokens",
    "CREATE TRIGGER other AFTER INSERT ON dibs_leased"
    " BEGIN SELECT RAISE(ABORT, 'no'); END",
    "PRAGMA user_version = 7",
    "PRAGMA journal_mode = DELETE",
    "VACUUM",
};

static void run_statement(sqlite3 *db, const char *sql, int64_t id,
                          int64_t value) {
  sqlite3_stmt *statement = NULL;
  if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) == SQLITE_OK) {
    int parameters = sqlite3_bind_parameter_count(statement);
    if (parameters > 0) sqlite3_bind_int64(statement, 1, id);
    if (parameters > 1) sqlite3_bind_int64(statement, 2, value);
    while (sqlite3_step(statement) == SQLITE_ROW) {
    }
  }
  sqlite3_finalize(statement);
}

/* The file goes out to SQLite and comes back. It may be damaged already, and
** SQLite may refuse. */
static void contradict(struct damage *damage) {
  size_t count = sizeof contradictions / sizeof contradictions[0];
  const char *sql = contradictions[next_byte(damage) % count];
  int64_t id = 1 + (int64_t)next_byte(damage) % template_jobs;
  int64_t value = next_byte(damage) % 16;
  sqlite3 *db = NULL;
  if (!damage->size) return;
  write_file(path, damage->file, damage->size);
  if (sqlite3_open(path, &db) == SQLITE_OK) {
    run_statement(db, sql, id, value);
  }
  REQUIRE(sqlite3_close(db) == SQLITE_OK);
  damage->size = read_file(path, damage->file, FILE_MAX);
  remove_files();
}

/* The rest of the input as the write-ahead log. */
static void write_log(struct damage *damage) {
  write_file(wal_path, damage->data, damage->left);
  damage->left = 0;
}

static void replace_file(struct damage *damage) {
  damage->size = damage->left < FILE_MAX ? damage->left : FILE_MAX - 1;
  memcpy(damage->file, damage->data, damage->size);
  damage->left = 0;
}

static void do_damage(const uint8_t *data, size_t size) {
  static uint8_t file[FILE_MAX];
  struct damage damage = {data, size, file, template_size};
  memcpy(file, template, template_size);
  while (damage.left) {
    switch (next_byte(&damage)) {
    case 'P': put_bytes(&damage); break;
    case 'X': flip_bits(&damage); break;
    case 'C': copy_page(&damage); break;
    case 'Z': clear_page(&damage); break;
    case 'T': damage.size = next_offset(&damage); break;
    case 'S': contradict(&damage); break;
    case 'D': fuzz_now += next_byte(&damage) * DAY; break;
    case 'W': write_log(&damage); break;
    case 'R': replace_file(&damage); break;
    default: break;
    }
  }
  write_file(path, file, damage.size);
}

/* ------------------------------------------------------------------------ */
/* Everything that dibs can do                                              */
/* ------------------------------------------------------------------------ */

static int is_json_if_any(const char *text) {
  return !text || fuzz_is_json(text, strlen(text));
}

/* A file that somebody else has written to may hold texts that are no JSON
** where there should be. */
static int holds_only_json(const dibs_job *job) {
  const dibs_payload *payload = &job->payload;
  if (payload->kind == DIBS_PAYLOAD_JSON &&
      !fuzz_is_json(payload->data, payload->size)) {
    return 0;
  }
  return is_json_if_any(job->headers) && is_json_if_any(job->result);
}

static void check_jobs(const dibs_job_list *jobs) {
  size_t i;
  for (i = 0; jobs && i < jobs->count; i++) {
    char *json = NULL;
    if (holds_only_json(&jobs->jobs[i])) {
      fuzz_check_job(&jobs->jobs[i]);
    } else {
      REQUIRE(dibs_job_json(&jobs->jobs[i], &json) == DIBS_OK);
      dibs_free(json);
    }
  }
}

static void look(dibs_db *db) {
  dibs_stats_list *stats = NULL;
  dibs_job_list *jobs = NULL;
  const char *all[] = {DIBS_ALL};
  EXPECT(db, DAMAGE, dibs_stats(db, NULL, 0, &stats));
  dibs_stats_list_free(stats);
  EXPECT(db, DAMAGE, dibs_list(db, NULL, 0, NULL, &jobs));
  check_jobs(jobs);
  dibs_job_list_free(jobs);
  EXPECT(db, DAMAGE_OR(EMPTY), dibs_peek(db, all, 1, 10, &jobs));
  dibs_job_list_free(jobs);
}

/* As list gives them, and with their errors. */
static void look_at_each(dibs_db *db) {
  dibs_job_list *jobs = NULL;
  int64_t id;
  for (id = 1; id <= template_jobs; id++) {
    EXPECT(db, DAMAGE_OR(NOT_FOUND), dibs_get(db, id, &jobs));
    dibs_job_list_free(jobs);
  }
}

static void settle_one(dibs_db *db, const char *receipt, int action) {
  dibs_settlement settlement;
  memset(&settlement, 0, sizeof settlement);
  settlement.receipt = receipt;
  settlement.action = action;
  settlement.delay = DIBS_UNSET;
  settlement.lease = 1000;
  settlement.error = "why";
  if (action == DIBS_SNOOZE) settlement.delay = 5;
  if (EXPECT(db, DAMAGE, dibs_settle(db, &settlement, 1)) == DIBS_OK) {
    REQUIRE((DAMAGE_OR(LOST)) >> settlement.status & 1);
  }
}

/* Claim what there is and settle it, in every way in turn. */
static void work(dibs_db *db) {
  const char *all[] = {DIBS_ALL};
  int round, action = DIBS_ACK;
  for (round = 0; round < 4; round++) {
    dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
    dibs_job_list *jobs = NULL;
    size_t i;
    options.n = 5;
    options.in_order = round & 1;
    EXPECT(db, DAMAGE_OR(EMPTY), dibs_claim(db, all, 1, &options, &jobs));
    check_jobs(jobs);
    for (i = 0; jobs && i < jobs->count; i++) {
      settle_one(db, jobs->jobs[i].receipt, action);
      action = action == DIBS_EXTEND ? DIBS_ACK : action + 1;
    }
    dibs_job_list_free(jobs);
  }
}

static void settle_held(dibs_db *db) {
  size_t i;
  for (i = 0; i < sizeof receipts / sizeof receipts[0]; i++) {
    EXPECT(db, DAMAGE_OR(LOST), dibs_progress(db, receipts[i], 0.5, "half"));
    EXPECT(db, DAMAGE_OR(LOST),
           dibs_checkpoint(db, receipts[i], dibs_json("[2]"), 1000));
    settle_one(db, receipts[i], (int)i + 1);
  }
}

static void change(dibs_db *db) {
  dibs_change_options options = DIBS_CHANGE_OPTIONS_INIT;
  dibs_id_outcome outcome;
  const char *name[] = {"dead"};
  int64_t id, *skipped = NULL;
  size_t skipped_count = 0;
  uint32_t allowed = DAMAGE_OR(NOT_FOUND) | STATUS(STATE);
  uint32_t staged = allowed | STATUS(LATE);
  options.priority = 5;
  options.delay = 10;
  for (id = 1; id <= template_jobs; id++) {
    switch (id % 4) {
    case 0: EXPECT(db, allowed, dibs_change(db, id, &options)); break;
    case 1: EXPECT(db, DAMAGE, dibs_cancel(db, &id, 1, &outcome, NULL)); break;
    case 2: EXPECT(db, staged, dibs_commit(db, id)); break;
    default: EXPECT(db, staged, dibs_abort(db, id)); break;
    }
    EXPECT(db, DAMAGE, dibs_requeue(db, &id, 1, &outcome, NULL));
  }
  EXPECT(db, DAMAGE, dibs_redrive(db, name, 1, NULL, &skipped, &skipped_count));
  dibs_free(skipped);
}

/* What is paused and claimable at once, a claim may give. */
static void pause_all(dibs_db *db) {
  const char *all[] = {DIBS_ALL};
  const char *names[] = {"work", "new", "a/*"};
  dibs_job_list *jobs = NULL;
  EXPECT(db, DAMAGE, dibs_pause(db, names, 3, NULL));
  EXPECT(db, DAMAGE, dibs_pause(db, all, 1, NULL));
  EXPECT(db, DAMAGE_OR(EMPTY), dibs_claim(db, all, 1, NULL, &jobs));
  check_jobs(jobs);
  dibs_job_list_free(jobs);
  EXPECT(db, DAMAGE, dibs_resume(db, all, 1, NULL));
}

/* Each job, without waiting. */
static void await_each(dibs_db *db) {
  uint32_t allowed = DAMAGE_OR(NOT_FOUND) | STATUS(EMPTY);
  int64_t id;
  for (id = 1; id <= template_jobs; id++) {
    dibs_job_list *jobs = NULL;
    int state = 0;
    if (EXPECT(db, allowed, dibs_await(db, id, 0, &state, &jobs)) == DIBS_OK)
      REQUIRE(state == DIBS_DONE || state == DIBS_DEAD);
    check_jobs(jobs);
    dibs_job_list_free(jobs);
  }
}

static void add_more(dibs_db *db) {
  dibs_job_options options;
  dibs_job_options_init(&options);
  options.key = "k";
  options.unique = "u";
  EXPECT(db, DAMAGE, dibs_enqueue(db, "a/b", dibs_json("1"), NULL, NULL));
  EXPECT(db, DAMAGE,
         dibs_enqueue(db, "lane", dibs_bytes("\0", 1), &options, NULL));
}

static void clean(dibs_db *db) {
  const char *all[] = {DIBS_ALL};
  dibs_finding_list *findings = NULL;
  int64_t at = 0;
  EXPECT(db, DAMAGE, dibs_next_event(db, &at));
  EXPECT(db, DAMAGE, dibs_doctor(db, 1, &findings));
  dibs_finding_list_free(findings);
  EXPECT(db, DAMAGE, dibs_prune(db, NULL));
  EXPECT(db, DAMAGE, dibs_purge(db, all, 1, NULL));
  EXPECT(db, DAMAGE, dibs_clear(db, all, 1, 1, NULL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  dibs_open_options options = fuzz_open_options();
  dibs_db *db = NULL;
  fuzz_now = FUZZ_START + 1000;
  do_damage(data, size);
  options.create = size & 1 ? DIBS_CREATE_NONE : DIBS_CREATE;
  dibs_open(path, &options, &db);
  REQUIRE(db);
  if (EXPECT(db, DAMAGE, dibs_error_status(db)) == DIBS_OK) {
    look(db);
    look_at_each(db);
    settle_held(db);
    pause_all(db);
    work(db);
    change(db);
    add_more(db);
    fuzz_now += DAY;
    await_each(db);
    work(db);
    look(db);
    clean(db);
  }
  REQUIRE(dibs_close(db) == DIBS_OK);
  remove_files();
  return 0;
}
