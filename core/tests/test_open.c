/* SPDX-License-Identifier: MIT */
/*
** test_open.c: opening and closing: what is made, what is refused, and what a
** handle survives: files that are no database, tables of others, tables from
** the future, damage, a missing folder, a file that cannot be written, a fork.
*/
#include "harness.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Open the fixture's file with options changed by `change`; the status. The
** handle is left in f->db, open or not. */
static int open_as(fixture *f, int create) {
  dibs_open_options options = fixture_options(f);
  options.create = create;
  return dibs_open(f->path, &options, &f->db);
}

static void close_handle(fixture *f) {
  expect_int(dibs_close(f->db), DIBS_OK);
  f->db = NULL;
}

static void write_file(const char *path, const void *data, size_t size) {
  FILE *file = fopen(path, "wb");
  if (file == NULL) fail_msg("cannot write %s", path);
  if (size) expect_int(fwrite(data, 1, size, file), size);
  fclose(file);
}

static int64_t file_size(const char *path) {
  struct stat status;
  return stat(path, &status) == 0 ? (int64_t)status.st_size : -1;
}

/* The whole of a file; free it. */
static char *file_read(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  char *data;
  if (file == NULL) fail_msg("cannot read %s", path);
  *size = (size_t)file_size(path);
  data = malloc(*size + 1);
  if (data == NULL) fail_msg("no memory");
  expect_int(fread(data, 1, *size, file), *size);
  fclose(file);
  return data;
}

/* ---- Making -------------------------------------------------------------- */

static void open_makes_file_and_tables(void **state) {
  fixture *f = *state;
  expect_ok(f->db, open_as(f, DIBS_CREATE));
  expect_true(dibs_created(f->db));
  expect_int(dibs_schema_version(f->db), DIBS_SCHEMA_VERSION);
  expect_text(raw_text(f, "PRAGMA journal_mode"), "wal");
  put(f, "q", "1");
  close_handle(f);
  expect_ok(f->db, open_as(f, DIBS_CREATE));
  expect_true(!dibs_created(f->db));
  expect_int(counts(f, "q").ready, 1);
}

static void create_file_makes_tables_only_in_a_new_file(void **state) {
  fixture *f = *state;
  expect_ok(f->db, open_as(f, DIBS_CREATE_FILE));
  expect_true(dibs_created(f->db));
  close_handle(f);
  expect_ok(f->db, open_as(f, DIBS_CREATE_FILE));
  close_handle(f);
  file_remove(f->path);
  raw_run(f, "CREATE TABLE users(name)");
  expect_status(f->db, open_as(f, DIBS_CREATE_FILE), DIBS_SCHEMA);
  expect_says(dibs_error(f->db), "init");
  close_handle(f);
  expect_int(raw_int(f, "SELECT count(*) FROM sqlite_schema"), 1);
}

static void create_none_makes_nothing(void **state) {
  fixture *f = *state;
  expect_status(f->db, open_as(f, DIBS_CREATE_NONE), DIBS_SCHEMA);
  expect_says(dibs_error(f->db), f->path);
  close_handle(f);
  expect_int(file_size(f->path), -1);
  write_file(f->path, "", 0);
  expect_status(f->db, open_as(f, DIBS_CREATE_NONE), DIBS_SCHEMA);
  close_handle(f);
  expect_int(raw_int(f, "SELECT count(*) FROM sqlite_schema"), 0);
}

static void an_empty_file_is_a_new_one(void **state) {
  fixture *f = *state;
  write_file(f->path, "", 0);
  expect_ok(f->db, open_as(f, DIBS_CREATE_FILE));
  expect_true(dibs_created(f->db));
}

static void tables_stand_beside_those_of_the_application(void **state) {
  fixture *f = *state;
  raw_run(f, "CREATE TABLE users(name); INSERT INTO users VALUES('ann');"
             "CREATE TABLE jobs(id); CREATE VIEW dibs2 AS SELECT 1");
  expect_ok(f->db, open_as(f, DIBS_CREATE));
  put(f, "q", "1");
  expect_text(raw_text(f, "SELECT name FROM users"), "ann");
  expect_int(raw_int(f, "SELECT count(*) FROM sqlite_schema WHERE name NOT"
                        " LIKE 'dibs\\_%%' ESCAPE '\\' AND name NOT LIKE"
                        " 'sqlite\\_%%' ESCAPE '\\'"),
             3);
}

static void memory_database_ends_with_the_handle(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  static const char *const paths[] = {":memory:", NULL};
  for (size_t i = 0; i < COUNT(paths); i++) {
    expect_ok(f->db, dibs_open(paths[i], &options, &f->db));
    put(f, "q", "1");
    expect_int(try_take(f, "q"), 1);
    close_handle(f);
    expect_ok(f->db, dibs_open(paths[i], &options, &f->db));
    expect_nothing(f, "q");
    close_handle(f);
  }
}

static void a_uri_is_understood(void **state) {
  fixture *f = *state;
  char uri[160];
  dibs_open_options options = fixture_options(f);
  snprintf(uri, sizeof uri, "file:%s?cache=private", f->path);
  expect_ok(f->db, dibs_open(uri, &options, &f->db));
  put(f, "q", "1");
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 1);
}

static void defaults_are_used_without_options(void **state) {
  fixture *f = *state;
  int64_t id = 0;
  expect_ok(f->db, dibs_open(f->path, NULL, &f->db));
  expect_ok(f->db, dibs_enqueue(f->db, "q", dibs_none(), NULL, &id));
  int64_t now = dibs_now(f->db);
  expect_true(now > START);
  expect_true(look(f, id).created_at <= now);
  expect_true(look(f, id).created_at > now - MINUTE);
  expect_says(dibs_sqlite_version(f->db), ".");
  expect_text(dibs_sqlite_version(f->db), sqlite3_libversion());
}

static void journal_mode_can_be_kept(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  options.keep_journal_mode = 1;
  raw_run(f, "PRAGMA journal_mode=DELETE; CREATE TABLE users(name)");
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  put(f, "q", "1");
  expect_int(try_take(f, "q"), 1);
  expect_text(raw_text(f, "PRAGMA journal_mode"), "delete");
  close_handle(f);
  expect_ok(f->db, open_as(f, DIBS_CREATE));
  expect_text(raw_text(f, "PRAGMA journal_mode"), "wal");
}

static void close_leaves_one_file(void **state) {
  fixture *f = *state;
  char name[160];
  expect_ok(f->db, open_as(f, DIBS_CREATE));
  put(f, "q", "1");
  close_handle(f);
  snprintf(name, sizeof name, "%s-wal", f->path);
  expect_int(file_size(name), -1);
  snprintf(name, sizeof name, "%s-shm", f->path);
  expect_int(file_size(name), -1);
}

static void close_of_null_is_harmless(void **state) {
  (void)state;
  expect_int(dibs_close(NULL), DIBS_OK);
}

/* ---- Wrong calls --------------------------------------------------------- */

static void wrong_options_are_refused(void **state) {
  fixture *f = *state;
  dibs_open_options good = fixture_options(f);
  dibs_open_options options = good;
  options.size = 0;
  expect_true(dibs_open(f->path, &options, &f->db) != DIBS_OK);
  close_handle(f);
  options = good;
  options.create = 3;
  expect_status(f->db, dibs_open(f->path, &options, &f->db), DIBS_INVALID);
  expect_says(dibs_error(f->db), "create");
  close_handle(f);
  options = good;
  options.synchronous = -1;
  expect_status(f->db, dibs_open(f->path, &options, &f->db), DIBS_INVALID);
  expect_says(dibs_error(f->db), "synchronous");
  close_handle(f);
  options = good;
  options.busy_timeout = -1;
  expect_status(f->db, dibs_open(f->path, &options, &f->db), DIBS_INVALID);
  expect_says(dibs_error(f->db), "busy_timeout");
  close_handle(f);
  options = good;
  options.max_payload = -1;
  expect_status(f->db, dibs_open(f->path, &options, &f->db), DIBS_INVALID);
  expect_says(dibs_error(f->db), "max_payload");
  close_handle(f);
  expect_status(f->db, dibs_open("", &good, &f->db), DIBS_INVALID);
  close_handle(f);
  expect_int(file_size(f->path), -1);
}

static void null_arguments_are_misuse(void **state) {
  fixture *f = *state;
  dibs_job_list *jobs = NULL;
  expect_int(dibs_open(f->path, NULL, NULL), DIBS_MISUSE);
  expect_int(dibs_enqueue(NULL, "q", dibs_none(), NULL, NULL), DIBS_MISUSE);
  expect_int(dibs_claim(NULL, NULL, 0, NULL, &jobs), DIBS_MISUSE);
  expect_int(dibs_ack(NULL, "1:1", NULL), DIBS_MISUSE);
  expect_true(*dibs_error(NULL) != '\0');
  expect_int(dibs_error_status(NULL), DIBS_NOMEM);
  expect_int(dibs_error_id(NULL), 0);
  expect_int(dibs_error_index(NULL), -1);
  dibs_interrupt(NULL);
  dibs_free(NULL);
  dibs_job_list_free(NULL);
  dibs_stats_list_free(NULL);
  dibs_finding_list_free(NULL);
  dibs_parsed_job_free(NULL);
}

/* Every call on a handle that did not open. */
static void a_handle_that_failed_to_open_is_closed(void **state) {
  fixture *f = *state;
  dibs_job_list *jobs = NULL;
  dibs_stats_list *stats = NULL;
  dibs_finding_list *findings = NULL;
  dibs_settlement settlement = {.receipt = "1:1", .action = DIBS_ACK};
  dibs_new_job job = {"q", {0, 0, NULL, 0}, NULL};
  const char *queue = "q";
  int64_t id = 1;
  expect_status(f->db, open_as(f, DIBS_CREATE_NONE), DIBS_SCHEMA);
  dibs_db *db = f->db;
  expect_int(dibs_enqueue(db, "q", dibs_none(), NULL, &id), DIBS_CLOSED);
  expect_int(dibs_enqueue_many(db, &job, 1, NULL), DIBS_CLOSED);
  expect_int(dibs_commit(db, 1), DIBS_CLOSED);
  expect_int(dibs_abort(db, 1), DIBS_CLOSED);
  expect_int(dibs_claim(db, &queue, 1, NULL, &jobs), DIBS_CLOSED);
  expect_int(dibs_peek(db, &queue, 1, 1, &jobs), DIBS_CLOSED);
  expect_int(dibs_settle(db, &settlement, 1), DIBS_CLOSED);
  expect_int(dibs_ack(db, "1:1", NULL), DIBS_CLOSED);
  expect_int(dibs_get(db, 1, &jobs), DIBS_CLOSED);
  expect_int(dibs_list(db, NULL, 0, NULL, &jobs), DIBS_CLOSED);
  expect_int(dibs_stats(db, NULL, 0, &stats), DIBS_CLOSED);
  expect_int(dibs_next_event(db, &id), DIBS_CLOSED);
  expect_int(dibs_cancel(db, &id, 1, NULL, NULL), DIBS_CLOSED);
  expect_int(dibs_change(db, 1, NULL), DIBS_CLOSED);
  expect_int(dibs_requeue(db, &id, 1, NULL, NULL), DIBS_CLOSED);
  expect_int(dibs_redrive(db, &queue, 1, NULL, NULL, NULL), DIBS_CLOSED);
  expect_int(dibs_purge(db, &queue, 1, NULL), DIBS_CLOSED);
  expect_int(dibs_clear(db, &queue, 1, 0, NULL), DIBS_CLOSED);
  expect_int(dibs_prune(db, NULL), DIBS_CLOSED);
  expect_int(dibs_doctor(db, 0, &findings), DIBS_CLOSED);
  expect_true(jobs == NULL && stats == NULL && findings == NULL);
}

static void the_error_is_of_the_last_call(void **state) {
  fixture *f = *state;
  expect_ok(f->db, open_as(f, DIBS_CREATE));
  expect_text(dibs_error(f->db), "");
  expect_status(f->db, dibs_enqueue(f->db, "*", dibs_none(), NULL, NULL),
                DIBS_INVALID);
  expect_int(dibs_error_status(f->db), DIBS_INVALID);
  expect_true(*dibs_error(f->db) != '\0');
  put(f, "q", "1");
  expect_int(dibs_error_status(f->db), DIBS_OK);
  expect_text(dibs_error(f->db), "");
}

/* ---- Files that are not ours --------------------------------------------- */

static void another_kind_of_file_is_refused_and_untouched(void **state) {
  fixture *f = *state;
  char text[3000];
  size_t size;
  memset(text, 'x', sizeof text);
  write_file(f->path, text, sizeof text);
  expect_status(f->db, open_as(f, DIBS_CREATE), DIBS_SCHEMA);
  expect_says(dibs_error(f->db), f->path);
  close_handle(f);
  char *after = file_read(f->path, &size);
  expect_int(size, sizeof text);
  expect_int(memcmp(after, text, size), 0);
  free(after);
  file_remove(f->path);
}

static void a_missing_folder_is_an_io_error(void **state) {
  fixture *f = *state;
  char path[192];
  dibs_open_options options = fixture_options(f);
  snprintf(path, sizeof path, "%s/missing/app.db", f->folder);
  for (int create = DIBS_CREATE; create <= DIBS_CREATE_NONE; create++) {
    options.create = create;
    expect_status(f->db, dibs_open(path, &options, &f->db), DIBS_IO);
    expect_says(dibs_error(f->db), path);
    close_handle(f);
  }
}

static void a_folder_is_an_io_error(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  expect_status(f->db, dibs_open(f->folder, &options, &f->db), DIBS_IO);
  expect_says(dibs_error(f->db), f->folder);
}

static void foreign_tables_of_our_names_are_left_alone(void **state) {
  fixture *f = *state;
  raw_run(f, "CREATE TABLE dibs_job(a, b)");
  expect_status(f->db, open_as(f, DIBS_CREATE), DIBS_SCHEMA);
  expect_says(dibs_error(f->db), "dibs_");
  close_handle(f);
  expect_text(raw_text(f, "SELECT group_concat(sql) FROM sqlite_schema"),
              "CREATE TABLE dibs_job(a, b)");
}

static void tables_from_the_future_are_left_alone(void **state) {
  fixture *f = *state;
  expect_ok(f->db, open_as(f, DIBS_CREATE));
  close_handle(f);
  raw_run(f, "UPDATE dibs_meta SET value = 2 WHERE key IN"
             " ('schema', 'oldest_writer')");
  char *before = database_dump(f->path);
  for (int create = DIBS_CREATE; create <= DIBS_CREATE_NONE; create++) {
    expect_status(f->db, open_as(f, create), DIBS_SCHEMA);
    expect_says(dibs_error(f->db), "2");
    close_handle(f);
  }
  char *after = database_dump(f->path);
  expect_text(after, before);
  free(before);
  free(after);
}

/* Newer tables say which older programs may still write to them. */
static void newer_tables_that_allow_it_are_used(void **state) {
  fixture *f = *state;
  expect_ok(f->db, open_as(f, DIBS_CREATE));
  close_handle(f);
  raw_run(f, "UPDATE dibs_meta SET value = 2 WHERE key = 'schema'");
  expect_ok(f->db, open_as(f, DIBS_CREATE));
  expect_int(dibs_schema_version(f->db), 2);
  put(f, "q", "1");
  expect_int(raw_int(f, "SELECT value FROM dibs_meta WHERE key = 'schema'"), 2);
}

static void a_meta_table_without_versions_is_refused(void **state) {
  fixture *f = *state;
  raw_run(f, "CREATE TABLE dibs_meta(key TEXT PRIMARY KEY, value INTEGER)");
  expect_status(f->db, open_as(f, DIBS_CREATE), DIBS_SCHEMA);
  close_handle(f);
  expect_int(raw_int(f, "SELECT count(*) FROM sqlite_schema WHERE"
                        " type = 'table'"),
             1);
}

/* A foreign table that has the name but not the columns. */
static void a_foreign_meta_table_is_refused(void **state) {
  fixture *f = *state;
  raw_run(f, "CREATE TABLE dibs_meta(a, b)");
  expect_status(f->db, open_as(f, DIBS_CREATE), DIBS_SCHEMA);
}

/* ---- Files that are damaged or cannot be written -------------------------- */

/* What may be said of a damaged file. */
static int is_damage_status(int status) {
  return status == DIBS_CORRUPT || status == DIBS_SCHEMA || status == DIBS_IO ||
         status == DIBS_TOO_BIG || status == DIBS_NOMEM;
}

static const char *const every_queue[] = {DIBS_ALL};

/* Do a bit of everything; true when each call worked or spoke of damage. */
static int uses_end_well(dibs_db *db) {
  dibs_job_list *jobs = NULL;
  dibs_stats_list *stats = NULL;
  dibs_finding_list *findings = NULL;
  int statuses[8];
  int well = 1;
  memset(statuses, 0, sizeof statuses);
  statuses[0] = dibs_enqueue(db, "q", dibs_json("[1]"), NULL, NULL);
  statuses[1] = dibs_claim(db, every_queue, 1, NULL, &jobs);
  if (jobs) statuses[2] = dibs_ack(db, jobs->jobs[0].receipt, NULL);
  dibs_job_list_free(jobs);
  jobs = NULL;
  statuses[3] = dibs_list(db, NULL, 0, NULL, &jobs);
  statuses[4] = dibs_stats(db, NULL, 0, &stats);
  statuses[5] = dibs_clear(db, every_queue, 1, 1, NULL);
  statuses[6] = dibs_prune(db, NULL);
  statuses[7] = dibs_doctor(db, 1, &findings);
  dibs_job_list_free(jobs);
  dibs_stats_list_free(stats);
  dibs_finding_list_free(findings);
  for (size_t i = 0; i < COUNT(statuses); i++) {
    int fine = statuses[i] == DIBS_OK || is_damage_status(statuses[i]) ||
               (i == 1 && statuses[i] == DIBS_EMPTY) ||
               (i == 2 && statuses[i] == DIBS_LOST);
    if (!fine) print_error("call %zu: %s\n", i, dibs_error(db));
    well = well && fine;
  }
  return well;
}

/* A database with jobs in several states, its file left at f->path. */
static void fill(fixture *f) {
  dibs_job_options options = no_options();
  expect_ok(f->db, open_as(f, DIBS_CREATE));
  for (int i = 0; i < 50; i++) {
    options.delay = i % 2 ? HOUR : DIBS_UNSET;
    options.key = i % 3 ? NULL : "k";
    put_with(f, i % 2 ? "a" : "b", "{\"some\":\"payload of a job\"}", &options);
  }
  for (int i = 0; i < 5; i++) {
    held job = take(f, "b");
    if (i % 2) expect_ok(f->db, dibs_fail(f->db, job.receipt, "broken"));
  }
  close_handle(f);
}

static void a_truncated_file_is_reported(void **state) {
  fixture *f = *state;
  fill(f);
  int64_t size = file_size(f->path);
  for (int64_t keep = size - 512; keep > 0; keep -= size / 40) {
    char copy[160];
    snprintf(copy, sizeof copy, "%s-cut", f->path);
    file_copy(f->path, copy);
    expect_int(truncate(copy, keep), 0);
    dibs_db *db = NULL;
    dibs_open_options options = fixture_options(f);
    int status = dibs_open(copy, &options, &db);
    if (status == DIBS_OK) {
      expect_true(uses_end_well(db));
    } else if (!is_damage_status(status)) {
      expect_status(db, status, DIBS_CORRUPT);
    }
    expect_int(dibs_close(db), DIBS_OK);
    file_remove(copy);
  }
}

/* Overwrite a few bytes of the file, by a fixed pseudo-random sequence. */
static void spoil(const char *path, uint64_t seed) {
  FILE *file = fopen(path, "r+b");
  int64_t size = file_size(path);
  uint64_t x = seed * 0x9E3779B97F4A7C15u + 1;
  expect_true(file != NULL);
  for (uint64_t i = 0; i < 1 + seed % 16; i++) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    /* Leave the header whole: its damage is another test. */
    int64_t at = 100 + (int64_t)(x >> 1) % (size - 100);
    fseek(file, (long)at, SEEK_SET);
    fputc((int)(x & 0xFF), file);
  }
  fclose(file);
}

static void a_corrupted_file_is_reported(void **state) {
  fixture *f = *state;
  int refused = 0;
  int rounds = 200 / slowness();
  fill(f);
  for (int seed = 1; seed <= rounds; seed++) {
    char copy[160];
    snprintf(copy, sizeof copy, "%s-spoilt", f->path);
    file_copy(f->path, copy);
    spoil(copy, (uint64_t)seed);
    dibs_db *db = NULL;
    dibs_open_options options = fixture_options(f);
    int status = dibs_open(copy, &options, &db);
    if (status == DIBS_OK) {
      if (!uses_end_well(db)) fail_msg("spoilt with seed %d", seed);
    } else {
      refused++;
      if (!is_damage_status(status)) expect_status(db, status, DIBS_CORRUPT);
    }
    expect_int(dibs_close(db), DIBS_OK);
    file_remove(copy);
  }
  expect_true(refused < rounds);
}

static void a_damaged_page_is_corrupt(void **state) {
  fixture *f = *state;
  fill(f);
  int64_t root = raw_int(f, "SELECT rootpage FROM sqlite_schema"
                            " WHERE name = 'dibs_job'");
  FILE *file = fopen(f->path, "r+b");
  expect_true(file != NULL);
  fseek(file, (long)((root - 1) * 4096), SEEK_SET);
  for (int i = 0; i < 200; i++) fputc(0xA5, file);
  fclose(file);
  expect_ok(f->db, open_as(f, DIBS_CREATE));
  expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), NULL, NULL),
                DIBS_CORRUPT);
  expect_says(dibs_error(f->db), "damaged");
  close_handle(f);
  file_remove(f->path);
}

/* Root may write to any file, so "read-only" is asked for by URI. */
static void a_read_only_file_can_be_read_but_not_written(void **state) {
  fixture *f = *state;
  char uri[192];
  dibs_job_list *jobs = NULL;
  dibs_open_options options = fixture_options(f);
  fill(f);
  options.create = DIBS_CREATE_NONE;
  snprintf(uri, sizeof uri, "file:%s?mode=ro", f->path);
  expect_ok(f->db, dibs_open(uri, &options, &f->db));
  expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), NULL, NULL),
                DIBS_READONLY);
  expect_true(*dibs_error(f->db) != '\0');
  expect_ok(f->db, dibs_list(f->db, NULL, 0, NULL, &jobs));
  expect_int(jobs->count, 50);
  dibs_job_list_free(jobs);
  jobs = NULL;
  expect_ok(f->db, dibs_peek(f->db, every_queue, 1, 1, &jobs));
  dibs_job_list_free(jobs);
  jobs = NULL;
  expect_status(f->db, dibs_claim(f->db, every_queue, 1, NULL, &jobs),
                DIBS_READONLY);
  expect_status(f->db, dibs_clear(f->db, every_queue, 1, 0, NULL),
                DIBS_READONLY);
  expect_true(jobs == NULL);
}

static void a_read_only_file_without_tables_is_read_only(void **state) {
  fixture *f = *state;
  char uri[192];
  dibs_open_options options = fixture_options(f);
  raw_run(f, "CREATE TABLE users(name)");
  snprintf(uri, sizeof uri, "file:%s?mode=ro", f->path);
  expect_status(f->db, dibs_open(uri, &options, &f->db), DIBS_READONLY);
}

/* ---- Fork ---------------------------------------------------------------- */

static int child_finds_itself_forked(dibs_db *db) {
  dibs_job_list *jobs = NULL;
  const char *queue = "q";
  int64_t at;
  if (dibs_enqueue(db, "q", dibs_none(), NULL, NULL) != DIBS_FORKED) return 1;
  if (dibs_claim(db, &queue, 1, NULL, &jobs) != DIBS_FORKED) return 2;
  if (dibs_next_event(db, &at) != DIBS_FORKED) return 3;
  if (dibs_ack(db, "1:1", NULL) != DIBS_FORKED) return 4;
  if (dibs_close(db) != DIBS_FORKED) return 5;
  return 0;
}

static void a_forked_child_is_refused(void **state) {
  fixture *f = *state;
  int status = -1;
  expect_ok(f->db, open_as(f, DIBS_CREATE));
  put(f, "q", "1");
  pid_t child = fork();
  if (child == 0) _exit(child_finds_itself_forked(f->db));
  expect_int(waitpid(child, &status, 0), child);
  expect_true(WIFEXITED(status));
  expect_int(WEXITSTATUS(status), 0);
  /* The parent's handle is none the worse. */
  expect_int(try_take(f, "q"), 1);
}

/* A second opener waits for the first to make the tables. */
static void two_openers_make_the_tables_once(void **state) {
  fixture *f = *state;
  pid_t children[4];
  int created = 0;
  for (size_t i = 0; i < COUNT(children); i++) {
    children[i] = fork();
    if (children[i] != 0) continue;
    dibs_db *db = NULL;
    int result =
        dibs_open(f->path, NULL, &db) == DIBS_OK ? dibs_created(db) : 100;
    if (result == 100) fprintf(stderr, "open: %s\n", dibs_error(db));
    dibs_close(db);
    _exit(result);
  }
  for (size_t i = 0; i < COUNT(children); i++) {
    int status = -1;
    waitpid(children[i], &status, 0);
    expect_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
    created += WEXITSTATUS(status);
  }
  expect_int(created, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(open_makes_file_and_tables),
      TEST_CLOSED(create_file_makes_tables_only_in_a_new_file),
      TEST_CLOSED(create_none_makes_nothing),
      TEST_CLOSED(an_empty_file_is_a_new_one),
      TEST_CLOSED(tables_stand_beside_those_of_the_application),
      TEST_CLOSED(memory_database_ends_with_the_handle),
      TEST_CLOSED(a_uri_is_understood),
      TEST_CLOSED(defaults_are_used_without_options),
      TEST_CLOSED(journal_mode_can_be_kept),
      TEST_CLOSED(close_leaves_one_file),
      TEST_CLOSED(close_of_null_is_harmless),
      TEST_CLOSED(wrong_options_are_refused),
      TEST_CLOSED(null_arguments_are_misuse),
      TEST_CLOSED(a_handle_that_failed_to_open_is_closed),
      TEST_CLOSED(the_error_is_of_the_last_call),
      TEST_CLOSED(another_kind_of_file_is_refused_and_untouched),
      TEST_CLOSED(a_missing_folder_is_an_io_error),
      TEST_CLOSED(a_folder_is_an_io_error),
      TEST_CLOSED(foreign_tables_of_our_names_are_left_alone),
      TEST_CLOSED(tables_from_the_future_are_left_alone),
      TEST_CLOSED(newer_tables_that_allow_it_are_used),
      TEST_CLOSED(a_meta_table_without_versions_is_refused),
      TEST_CLOSED(a_foreign_meta_table_is_refused),
      TEST_CLOSED(a_truncated_file_is_reported),
      TEST_CLOSED(a_corrupted_file_is_reported),
      TEST_CLOSED(a_damaged_page_is_corrupt),
      TEST_CLOSED(a_read_only_file_can_be_read_but_not_written),
      TEST_CLOSED(a_read_only_file_without_tables_is_read_only),
      TEST_CLOSED(a_forked_child_is_refused),
      TEST_CLOSED(two_openers_make_the_tables_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
