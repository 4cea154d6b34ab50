/* SPDX-License-Identifier: MIT */
/*
** test_power.c: the power is cut. A history of operations is recorded, write by
** write; then the power fails after each event of it, and what may be lost is
** lost: nothing, all, single writes, random parts of it (faults_power.h). The
** database must open, be sound, and be as it was after one of the operations:
** with FULL the last one that had returned, or the one under way; with NORMAL
** maybe an earlier one, but none before what the WAL held when it was synced.
** So each job that had been enqueued is there with its payload, each ack, lease
** and retry holds, nothing is there in part, and there is no gap: the schema
** and every row of every table are compared.
**
** By default some of the many cuts are tried; DIBS_TEST_STRIDE=1 tries one
** after each event, with each single write lost and kept, and takes minutes.
** DIBS_TEST_SEED chooses the random ones (the seed is printed).
*/
#include "faults_power.h"
#include "operations.h"

#include <time.h>
#include <unistd.h>

/* ---- What is in a database ---------------------------------------------- */

typedef struct content {
  char *text; /* NULL: it cannot be read */
  size_t size;
} content;

static void row_add(sqlite3_str *out, sqlite3_stmt *row) {
  int columns = sqlite3_column_count(row);
  for (int i = 0; i < columns; i++) {
    int type = sqlite3_column_type(row, i);
    const char *data = sqlite3_column_blob(row, i);
    sqlite3_str_appendf(out, " %d:", type);
    sqlite3_str_append(out, data, sqlite3_column_bytes(row, i));
  }
  sqlite3_str_appendall(out, "\n");
}

/* Each row of a table; SQLite's result code. */
static int table_add(sqlite3_str *out, sqlite3 *db, const char *table) {
  sqlite3_stmt *row = NULL;
  char *sql = sqlite3_mprintf("SELECT * FROM \"%w\"", table);
  int code = sqlite3_prepare_v2(db, sql, -1, &row, NULL);
  sqlite3_free(sql);
  if (code != SQLITE_OK) return code;
  while (sqlite3_step(row) == SQLITE_ROW) {
    sqlite3_str_appendall(out, table);
    row_add(out, row);
  }
  return sqlite3_finalize(row);
}

/* The schema, and every row of every table, tokens and all. */
static content content_of(sqlite3 *db) {
  content c = {NULL, 0};
  sqlite3_stmt *table = NULL;
  sqlite3_str *out = sqlite3_str_new(NULL);
  int code = sqlite3_prepare_v2(db,
                                "SELECT 'sqlite_schema' UNION ALL "
                                "SELECT name FROM sqlite_schema"
                                " WHERE type = 'table'",
                                -1, &table, NULL);
  while (code == SQLITE_OK && sqlite3_step(table) == SQLITE_ROW) {
    code = table_add(out, db, (const char *)sqlite3_column_text(table, 0));
  }
  int finished = sqlite3_finalize(table);
  if (code == SQLITE_OK) code = finished;
  c.size = (size_t)sqlite3_str_length(out);
  c.text = sqlite3_str_finish(out);
  if (code == SQLITE_OK && c.text == NULL) c.text = sqlite3_mprintf("");
  if (code == SQLITE_OK) return c;
  sqlite3_free(c.text);
  return (content){NULL, 0};
}

static content content_at(const char *path) {
  content c = {NULL, 0};
  sqlite3 *db = plain_open(path);
  if (db) c = content_of(db);
  sqlite3_close(db);
  return c;
}

static int content_equals(content a, content b) {
  return a.text && b.text && a.size == b.size &&
         memcmp(a.text, b.text, a.size) == 0;
}

/* ---- A history ---------------------------------------------------------- */

#define MOST_STATES 100

typedef struct history {
  fixture *f;
  int synchronous;
  int keep_journal; /* nonzero: a rollback journal instead of WAL */
  int makes;        /* nonzero: its first operation makes the tables */
  power_record record;
  size_t count; /* of states: before the first operation, and after each */
  content states[MOST_STATES];
  const char *names[MOST_STATES]; /* of the operations that led to them */
} history;

static void state_add(history *h, const char *name, content c) {
  expect_true(h->count < MOST_STATES);
  expect_true(c.text != NULL);
  if (h->count && content_equals(h->states[h->count - 1], c)) {
    fail_msg("%s returned and has changed nothing", name);
  }
  h->names[h->count] = name;
  h->states[h->count++] = c;
}

/* An operation has returned: this is what it has promised. */
static void returned(history *h, const char *name) {
  power_record_returned();
  state_add(h, name, content_at(h->f->path));
}

/* The connection that was opened last. */
static sqlite3 *connection;

static int connection_opened(sqlite3 *db, char **message,
                             const struct sqlite3_api_routines *api) {
  (void)message;
  (void)api;
  connection = db;
  return SQLITE_OK;
}

static void connections_note(int on) {
  union {
    int (*typed)(sqlite3 *, char **, const struct sqlite3_api_routines *);
    void (*plain)(void);
  } entry = {connection_opened};
  if (on) {
    sqlite3_auto_extension(entry.plain);
  } else {
    sqlite3_cancel_auto_extension(entry.plain);
  }
}

/* A handle that checkpoints after 20 pages instead of 1,000. */
static dibs_db *history_open(history *h) {
  dibs_open_options options = fixture_options(h->f);
  dibs_db *db = NULL;
  options.synchronous = h->synchronous;
  options.keep_journal_mode = h->keep_journal;
  connections_note(1);
  expect_ok(db, dibs_open(h->f->path, &options, &db));
  connections_note(0);
  sqlite3_wal_autocheckpoint(connection, 20);
  return db;
}

/* The fixture's file is what it begins with. */
static void history_start(history *h) {
  if (access(h->f->path, F_OK) == 0) {
    state_add(h, "nothing", content_at(h->f->path));
  } else {
    state_add(h, "nothing", (content){sqlite3_mprintf(""), 0});
  }
  power_record_start(&h->record, h->f->path);
  h->f->db = history_open(h);
}

static void history_stop(history *h) {
  expect_int(dibs_close(h->f->db), DIBS_OK);
  h->f->db = NULL;
  power_record_stop();
}

static void history_free(history *h) {
  power_record_free(&h->record);
  for (size_t i = 0; i < h->count; i++) sqlite3_free(h->states[i].text);
  h->count = 0;
}

/* ---- A history of many operations --------------------------------------- */

static void enqueue_some(history *h, int round) {
  fixture *f = h->f;
  dibs_job_options options = no_options();
  char json[64];
  snprintf(json, sizeof json, "{\"round\":%d}", round);
  int64_t id = put(f, "q", json);
  returned(h, "enqueue");
  expect_text(look(f, id).payload, json);
  options.priority = 1;
  options.headers = "{\"a\":\"b\"}";
  options.unique = json;
  id = put_with(f, "q", "[1,2,3]", &options);
  returned(h, "enqueue of a unique job");
  expect_text(look(f, id).headers, "{\"a\":\"b\"}");
}

static void enqueue_large(history *h) {
  char bytes[9000];
  int64_t id = 0;
  memset(bytes, 'x', sizeof bytes);
  expect_ok(h->f->db, dibs_enqueue(h->f->db, "q",
                                   dibs_bytes(bytes, sizeof bytes), NULL, &id));
  returned(h, "enqueue of a large job");
  expect_int(look(h->f, id).payload_size, sizeof bytes);
}

static void enqueue_batch(history *h) {
  dibs_job_options keyed = no_options();
  dibs_new_job jobs[12];
  dibs_enqueued results[COUNT(jobs)];
  memset(jobs, 0, sizeof jobs);
  keyed.key = "k";
  for (size_t i = 0; i < COUNT(jobs); i++) {
    jobs[i].queue = i % 3 ? "q" : "other";
    jobs[i].payload = dibs_json("{\"of\":\"a batch\"}");
    jobs[i].options = i % 4 ? NULL : &keyed;
  }
  expect_ok(h->f->db, dibs_enqueue_many(h->f->db, jobs, COUNT(jobs), results));
  returned(h, "enqueue of a batch");
  for (size_t i = 0; i < COUNT(jobs); i++) {
    expect_text(look(h->f, results[i].id).payload, "{\"of\":\"a batch\"}");
  }
}

static void claim_and_settle(history *h) {
  fixture *f = h->f;
  held jobs[4];
  for (size_t i = 0; i < COUNT(jobs); i++) {
    jobs[i] = take_for(f, "q", HOUR);
    returned(h, "claim");
    expect_int(look(f, jobs[i].id).lease_until, f->now + HOUR);
  }
  expect_ok(f->db, dibs_ack(f->db, jobs[0].receipt, NULL));
  returned(h, "ack");
  expect_gone(f, jobs[0].id);
  expect_ok(f->db, dibs_retry(f->db, jobs[1].receipt, MINUTE, "no", NULL));
  returned(h, "retry");
  expect_state(f, jobs[1].id, DIBS_SCHEDULED);
  expect_ok(f->db, dibs_fail(f->db, jobs[2].receipt, "never"));
  returned(h, "fail");
  expect_state(f, jobs[2].id, DIBS_DEAD);
  expect_ok(f->db, dibs_extend(f->db, jobs[3].receipt, DAY, NULL));
  returned(h, "extend");
  expect_int(look(f, jobs[3].id).lease_until, f->now + DAY);
}

/* What can be worked on, at once. */
static void work_off(history *h) {
  static const char *const queue = "q";
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_settlement settlements[20];
  dibs_job_list *jobs = NULL;
  dibs_db *db = h->f->db;
  h->f->now += HOUR;
  options.n = COUNT(settlements);
  memset(settlements, 0, sizeof settlements);
  expect_ok(db, dibs_claim(db, &queue, 1, &options, &jobs));
  returned(h, "claim of many");
  expect_true(jobs->count > 4);
  for (size_t i = 0; i < jobs->count; i++) {
    settlements[i].receipt = jobs->jobs[i].receipt;
    settlements[i].action = DIBS_ACK;
  }
  expect_ok(db, dibs_settle(db, settlements, jobs->count));
  returned(h, "many acks");
  for (size_t i = 0; i < jobs->count; i++) {
    expect_gone(h->f, settlements[i].id);
  }
  dibs_job_list_free(jobs);
}

/* How often a WAL was begun anew after a checkpoint in the middle. */
static int wal_restarts(const power_record *record) {
  int restarts = 0;
  for (size_t i = 0; i < record->count; i++) {
    const power_event *event = &record->events[i];
    if (event->file != POWER_WAL) continue;
    restarts += event->kind == POWER_WRITE && event->at == 0;
    restarts -= event->kind == POWER_CREATE;
  }
  return restarts;
}

/* Some rounds of everything, each but the last with a close at its end. */
static void live(history *h, int rounds) {
  history_start(h);
  if (h->makes) returned(h, "open");
  for (int round = 0; round < rounds; round++) {
    enqueue_some(h, round);
    enqueue_batch(h);
    enqueue_large(h);
    claim_and_settle(h);
    work_off(h);
    if (round == rounds - 1) break;
    expect_int(dibs_close(h->f->db), DIBS_OK);
    h->f->db = history_open(h);
  }
  history_stop(h);
  expect_true(h->keep_journal || wal_restarts(&h->record) > 0);
}

/* ---- The judge ---------------------------------------------------------- */

#define NO_STATE (-1)

typedef struct known_image {
  uint64_t hash;
  int state;
} known_image;

typedef struct judge {
  const history *h;
  char path[160]; /* where what is left is looked at */
  power_disk disk;
  power_image image;
  known_image *known; /* what was seen of an image, at its hash */
  size_t known_count;
  uint64_t random;
  int64_t stride; /* one event in so many is cut after */
  size_t offset;
  int randoms; /* random cuts at each point */
  char why[1024];
  /* Where in the history the disk is. */
  size_t returned;          /* operations that have returned */
  size_t returned_wal;      /* ... when the WAL was last synced */
  int under_way;            /* something has happened since */
  const power_event *event; /* the last one */
  /* What was seen. */
  int lenient; /* nonzero: losses are counted; else they fail the test */
  int images;  /* different ones */
  int cuts;
  int behind; /* a state before what had returned, which NORMAL allows */
  int lost;   /* a state that is not allowed */
  int broken; /* no state at all */
} judge;

#define KNOWN_ROOM ((size_t)1 << 18)

static void judge_start(judge *j, const history *h, unsigned ignored) {
  memset(j, 0, sizeof *j);
  j->h = h;
  snprintf(j->path, sizeof j->path, "%s/cut.db", h->f->folder);
  power_disk_start(&j->disk, &h->record, ignored);
  j->known = calloc(KNOWN_ROOM, sizeof *j->known);
  expect_true(j->known != NULL);
}

static void judge_end(judge *j) {
  power_disk_free(&j->disk);
  power_image_free(&j->image);
  free(j->known);
  file_remove(j->path);
}

/* Where the hash is, or has its place. */
static known_image *known_find(judge *j, uint64_t hash) {
  size_t at = hash % KNOWN_ROOM;
  while (j->known[at].hash && j->known[at].hash != hash) {
    at = (at + 1) % KNOWN_ROOM;
  }
  return &j->known[at];
}

/* Which of the states this is. */
static int state_find(judge *j, content c) {
  const history *h = j->h;
  for (size_t i = 0; i < h->count; i++) {
    if (content_equals(h->states[i], c)) return (int)i;
  }
  snprintf(j->why, sizeof j->why,
           c.text ? "it is as after none of the operations"
                  : "it cannot be read");
  return NO_STATE;
}

/* Before dibs opens it, and makes its tables when there are none: they are all
** there or not at all. */
static int tables_are_whole(judge *j) {
  content c = content_at(j->path);
  int state = state_find(j, c);
  sqlite3_free(c.text);
  power_image_store(&j->image, j->path);
  return state != NO_STATE;
}

static int state_seen(judge *j) {
  sqlite3 *db = plain_open(j->path);
  content c = content_of(db);
  int state = state_find(j, c);
  if (state != NO_STATE && !database_is_sound(db)) {
    snprintf(j->why, sizeof j->why, "it is not sound");
    state = NO_STATE;
  }
  sqlite3_free(c.text);
  sqlite3_close(db);
  return state;
}

/* Open what is left and say which state it is in. */
static int image_state(judge *j) {
  dibs_open_options options = fixture_options(j->h->f);
  dibs_db *db = NULL;
  int state = NO_STATE;
  options.keep_journal_mode = j->h->keep_journal;
  power_image_store(&j->image, j->path);
  if (j->h->makes && j->returned == 0 && !tables_are_whole(j)) return NO_STATE;
  int status = dibs_open(j->path, &options, &db);
  if (status == DIBS_OK) {
    state = state_seen(j);
  } else {
    snprintf(j->why, sizeof j->why, "it does not open: %s (%s)",
             dibs_status_name(status), dibs_error(db));
  }
  if (dibs_close(db) != DIBS_OK) fail_msg("no close after a cut");
  return state;
}

/* ---- What is allowed ---------------------------------------------------- */

/* Follow the disk by one event. */
static void judge_step(judge *j) {
  const power_event *event = power_disk_step(&j->disk);
  j->event = event;
  j->under_way = event->kind != POWER_RETURNED;
  if (event->kind == POWER_RETURNED) {
    j->returned++;
  } else if (event->kind == POWER_SYNC && event->file == POWER_WAL) {
    j->returned_wal = j->returned;
  }
}

/* The earliest state that may be found. NORMAL promises what was in the WAL
** when it was last synced; without a WAL it is the same as FULL. */
static size_t least(const judge *j) {
  int normal = j->h->synchronous == DIBS_SYNCHRONOUS_NORMAL;
  size_t state = normal && !j->h->keep_journal ? j->returned_wal : j->returned;
  if (state == 0 && j->h->makes) return 1; /* opening it makes the tables */
  return state;
}

/* The latest: with the operation that may be under way. */
static size_t most(const judge *j) {
  size_t state = j->returned + (j->under_way ? 1 : 0);
  return state < j->h->count ? state : j->h->count - 1;
}

static void judge_fails(const judge *j, const power_cut *cut) {
  static const char *const fates[] = {
      "all that may be lost is",
      "all data that may be lost is",
      "nothing is lost",
      "one pending event is there",
      "one pending event is not there",
      "a random part is there",
  };
  const history *h = j->h;
  char event[128];
  char chosen[128] = "";
  size_t pending = j->disk.pending_count ? j->disk.pending[cut->chosen] : 0;
  power_event_describe(j->event, event, sizeof event);
  power_event_describe(&h->record.events[pending], chosen, sizeof chosen);
  print_error("cut after event %zu (%s), %s", j->disk.next, event,
              fates[cut->fate]);
  if (cut->fate == POWER_ONLY || cut->fate == POWER_ALL_BUT) {
    print_error(" (event %zu: %s)", pending + 1, chosen);
  }
  print_error("\nthe last operation that had returned: %zu, %s\n", j->returned,
              h->names[j->returned]);
  fail_msg("%s", j->why);
}

static void judge_state(judge *j, const power_cut *cut, int state) {
  if (state < 0) {
    j->broken++;
  } else if ((size_t)state < least(j) || (size_t)state > most(j)) {
    snprintf(j->why, sizeof j->why, "it is as after operation %d, %s", state,
             j->h->names[state]);
    j->lost++;
  } else {
    j->behind += (size_t)state < j->returned;
    return;
  }
  if (!j->lenient) judge_fails(j, cut);
}

/* ---- Cuts --------------------------------------------------------------- */

static void cut_try(judge *j, const power_cut *cut) {
  power_image_make(&j->image, &j->disk, cut);
  uint64_t hash = power_image_hash(&j->image);
  known_image *known = known_find(j, hash);
  j->cuts++;
  if (known->hash == 0) {
    known->hash = hash;
    known->state = image_state(j);
    j->images++;
    expect_true(++j->known_count < KNOWN_ROOM);
  }
  judge_state(j, cut, known->state);
}

static uint64_t judge_random(judge *j) {
  j->random ^= j->random << 13;
  j->random ^= j->random >> 7;
  j->random ^= j->random << 17;
  return j->random;
}

#define FEW 6 /* pending events, of which each is lost and kept alone */

/* All cuts at the point where the disk is. */
static void cuts_here(judge *j) {
  size_t pending = j->disk.pending_count;
  for (int fate = POWER_NOTHING; fate <= POWER_ALL; fate++) {
    cut_try(j, &(power_cut){.fate = (enum power_fate)fate});
  }
  int each = j->stride == 1 || pending <= FEW;
  for (size_t i = 0; i < (each ? pending : 2); i++) {
    size_t chosen = each ? i : judge_random(j) % pending;
    cut_try(j, &(power_cut){.fate = POWER_ONLY, .chosen = chosen});
    cut_try(j, &(power_cut){.fate = POWER_ALL_BUT, .chosen = chosen});
  }
  for (int i = 0; pending && i < j->randoms; i++) {
    uint64_t seed = judge_random(j);
    cut_try(j, &(power_cut){.fate = POWER_RANDOM, .seed = seed});
  }
}

/* Whether to cut here: always when an operation has just returned, or when much
** is pending because a sync comes next; else one time in so many. */
static int is_cut(const judge *j) {
  const power_record *record = &j->h->record;
  size_t next = j->disk.next;
  size_t stride = (size_t)j->stride;
  if (j->event->kind == POWER_RETURNED) return 1;
  if (next < record->count && record->events[next].kind == POWER_SYNC) return 1;
  return next % stride == j->offset % stride;
}

/* One event further; 0 when there is none. */
static int judge_advance(judge *j) {
  if (j->disk.next == j->h->record.count) return 0;
  judge_step(j);
  if (is_cut(j)) cuts_here(j);
  return 1;
}

static void judge_run(judge *j) {
  while (judge_advance(j)) continue;
}

/* ---- Tests -------------------------------------------------------------- */

static history h; /* its record must outlive a test that fails */

static history *history_of(fixture *f, int synchronous) {
  memset(&h, 0, sizeof h);
  h.f = f;
  h.synchronous = synchronous;
  return &h;
}

static uint64_t choose_seed(void) {
  uint64_t seed = (uint64_t)environment_number("DIBS_TEST_SEED", 0);
  if (!seed) seed = (uint64_t)time(NULL) * 1000 + (uint64_t)getpid() % 1000;
  print_message("DIBS_TEST_SEED=%llu\n", (unsigned long long)seed);
  return seed;
}

/* A judge of the history, who looks after every stride-th event. */
static void judge_prepare(judge *j, unsigned ignored, int64_t stride,
                          uint64_t seed) {
  judge_start(j, &h, ignored);
  j->random = seed * 0x9E3779B97F4A7C15u + 1;
  j->offset = (size_t)seed;
  j->stride = environment_number("DIBS_TEST_STRIDE", stride);
  j->randoms = j->stride > 1 ? 2 : 8;
}

/* Cut the history, with a disk that keeps its word. How many cuts were behind
** what had returned. */
static int history_cut(int64_t stride) {
  judge j;
  judge_prepare(&j, 0, stride * slowness(), choose_seed());
  judge_run(&j);
  print_message("%zu operations, %zu events, %d cuts, %d images, %d behind\n",
                h.count - 1, h.record.count, j.cuts, j.images, j.behind);
  expect_true(j.images > 50 / slowness());
  judge_end(&j);
  return j.behind;
}

static void full_loses_nothing(void **state) {
  history_of(*state, DIBS_SYNCHRONOUS_FULL)->makes = 1;
  live(&h, 3);
  expect_int(history_cut(8), 0);
  history_free(&h);
}

static void normal_loses_only_the_last_operations(void **state) {
  history_of(*state, DIBS_SYNCHRONOUS_NORMAL)->makes = 1;
  live(&h, 3);
  expect_true(history_cut(10) > 0);
  history_free(&h);
}

static void live_with_a_rollback_journal(fixture *f, int synchronous) {
  history_of(f, synchronous)->makes = 1;
  h.keep_journal = 1;
  live(&h, 1);
  expect_int(history_cut(8), 0);
  history_free(&h);
}

static void a_rollback_journal_takes_nothing_back(void **state) {
  fixture *f = *state;
  live_with_a_rollback_journal(f, DIBS_SYNCHRONOUS_FULL);
  file_remove(f->path);
  live_with_a_rollback_journal(f, DIBS_SYNCHRONOUS_NORMAL);
}

/* The tables come into a file that an application has, which leaves its
** rollback journal for a WAL. */
static void open_an_applications(fixture *f, int synchronous) {
  raw_run(f, "PRAGMA journal_mode=DELETE; CREATE TABLE app(x);"
             "INSERT INTO app VALUES(1), ('two'), (randomblob(10000))");
  history_of(f, synchronous)->makes = 1;
  history_start(&h);
  returned(&h, "open");
  put(f, "q", "1");
  returned(&h, "enqueue");
  history_stop(&h);
  history_cut(4);
  history_free(&h);
}

static void an_applications_rows_outlive_the_opening(void **state) {
  fixture *f = *state;
  open_an_applications(f, DIBS_SYNCHRONOUS_FULL);
  file_remove(f->path);
  open_an_applications(f, DIBS_SYNCHRONOUS_NORMAL);
}

/* ---- Every operation ---------------------------------------------------- */

/* Record one operation on the prepared database. Nonzero when it has changed
** something. */
static int operation_record(stage *s, const operation *op) {
  fixture *f = s->f;
  stage_restore(s, op);
  history_of(f, DIBS_SYNCHRONOUS_FULL)->keep_journal = s->delete_mode;
  history_start(&h);
  int status = op->run(f->db);
  if (status != DIBS_OK) {
    fail_msg("%s: %s (%s)", op->name, dibs_status_name(status),
             dibs_error(f->db));
  }
  content now = content_at(f->path);
  int changed = !content_equals(h.states[0], now);
  sqlite3_free(now.text);
  if (changed) returned(&h, op->name);
  history_stop(&h);
  return changed;
}

/* Cut one operation at every stride-th event; how many images there were, 0
** for an operation that only looks. */
static int operation_cut(stage *s, const operation *op, int64_t stride,
                         uint64_t seed) {
  judge j = {.images = 0};
  if (operation_record(s, op)) {
    judge_prepare(&j, 0, stride * slowness(), seed);
    judge_run(&j);
    expect_true(j.images > 1);
    judge_end(&j);
  }
  history_free(&h);
  return j.images;
}

static void cut_every_operation(fixture *f, int delete_mode, int64_t stride) {
  const char *only = getenv("DIBS_TEST_OPERATION");
  uint64_t seed = choose_seed();
  int images = 0;
  int writers = 0;
  stage s;
  stage_prepare(&s, f, delete_mode);
  for (size_t i = 0; i < operation_count; i++) {
    const operation *op = &operations[i];
    if (op->open || op->stepwise) continue;
    if (only && strcmp(only, op->name) != 0) continue;
    int some = operation_cut(&s, op, stride, seed);
    images += some;
    writers += some > 0;
  }
  print_message("%d operations, %d images\n", writers, images);
  expect_true(only || writers > 25);
  stage_end(&s);
}

static void every_operation_is_whole_or_not_at_all(void **state) {
  cut_every_operation(*state, 0, 24);
}

static void so_it_is_with_a_rollback_journal(void **state) {
  cut_every_operation(*state, 1, 24);
}

/* ---- A disk that lies --------------------------------------------------- */

#define LOST   1
#define BROKEN 2

/* With a disk that ignores some syncs, the judge sees jobs lost or a database
** broken, or both. (SQLite's integrity check prints what it finds.) */
static void expect_harm(unsigned ignored, int harm) {
  judge j;
  int seen_harm = 0;
  judge_prepare(&j, ignored, 4, 1);
  j.lenient = 1;
  while ((seen_harm & harm) != harm && judge_advance(&j)) {
    seen_harm = (j.lost ? LOST : 0) | (j.broken ? BROKEN : 0);
  }
  print_message("%d cuts: %d lost, %d broken\n", j.cuts, j.lost, j.broken);
  expect_int(seen_harm & harm, harm);
  judge_end(&j);
}

static void without_syncs_harm_is_seen(void **state) {
  history_of(*state, DIBS_SYNCHRONOUS_FULL)->makes = 1;
  live(&h, 2);
  expect_harm(~0u, LOST | BROKEN);
  expect_harm(1u << POWER_WAL, LOST);
  expect_harm(1u << POWER_DATABASE, LOST | BROKEN);
  expect_harm(1u << POWER_FILES, LOST);
  history_free(&h);
}

static void so_it_is_with_a_rollback_journals_syncs(void **state) {
  history_of(*state, DIBS_SYNCHRONOUS_FULL)->makes = 1;
  h.keep_journal = 1;
  live(&h, 1);
  expect_harm(1u << POWER_JOURNAL, BROKEN);
  expect_harm(1u << POWER_DATABASE, BROKEN);
  expect_harm(1u << POWER_FILES, BROKEN);
  history_free(&h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(full_loses_nothing),
      TEST_CLOSED(normal_loses_only_the_last_operations),
      TEST_CLOSED(a_rollback_journal_takes_nothing_back),
      TEST_CLOSED(an_applications_rows_outlive_the_opening),
      TEST_CLOSED(every_operation_is_whole_or_not_at_all),
      TEST_CLOSED(so_it_is_with_a_rollback_journal),
      TEST_CLOSED(without_syncs_harm_is_seen),
      TEST_CLOSED(so_it_is_with_a_rollback_journals_syncs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
