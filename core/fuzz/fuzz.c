/* SPDX-License-Identifier: MIT */
/*
** fuzz.c: what the fuzz targets share, see fuzz.h.
**
** SQLite gives the second opinion on JSON and times, through a connection of
** its own that no target writes to.
*/
#include "fuzz.h"

#include <ftw.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Nesting that every SQLite version reads: 1000 from 3.43 on, less the level
** that a job's JSON adds. */
#define DEPTH_JUDGED 900

int64_t fuzz_now = FUZZ_START;
const char *fuzz_about;

/* ------------------------------------------------------------------------ */
/* Promises                                                                 */
/* ------------------------------------------------------------------------ */

void fuzz_fail(const char *file, int line, const char *what) {
  fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
  if (fuzz_about) fprintf(stderr, "about: %.4000s\n", fuzz_about);
  abort();
}

static int is_control(const char *text) {
  unsigned char c = (unsigned char)text[0];
  unsigned char next = (unsigned char)text[1];
  return c < 0x20 || c == 0x7f || (c == 0xc2 && next >= 0x80 && next <= 0x9f);
}

/* Error texts go to terminals and logs, whatever the input was. */
static int is_showable(const char *text) {
  const char *at;
  for (at = text; *at; at++) {
    if (is_control(at)) return 0;
  }
  return fuzz_is_utf8(text, strlen(text));
}

int fuzz_expect(const char *file, int line, const char *what, dibs_db *db,
                uint32_t allowed, int status) {
  const char *text = dibs_error(db);
  const char *name = dibs_status_name(status);
  int ok = name && (allowed >> status & 1) && is_showable(text);
  ok = ok && dibs_error_status(db) == status;
  if (status != DIBS_OK && status != DIBS_EMPTY) ok = ok && text[0];
  if (!ok) {
    fprintf(stderr, "status %d (%s), handle's %d, text \"%s\"\n", status,
            name ? name : "none", dibs_error_status(db), text);
    fuzz_fail(file, line, what);
  }
  return status;
}

/* ------------------------------------------------------------------------ */
/* Second opinions                                                          */
/* ------------------------------------------------------------------------ */

/* How many bytes follow this first one; -1 when it can't be a first one. */
static int utf8_following(unsigned char c) {
  if (c < 0x80) return 0;
  if (c >= 0xc2 && c <= 0xdf) return 1;
  if (c >= 0xe0 && c <= 0xef) return 2;
  return c >= 0xf0 && c <= 0xf4 ? 3 : -1;
}

/* Of the second byte: E0, ED, F0 and F4 allow only a part of 80 to BF. */
static int utf8_second_is_good(unsigned char first, unsigned char second) {
  switch (first) {
  case 0xe0: return second >= 0xa0;
  case 0xed: return second <= 0x9f;
  case 0xf0: return second >= 0x90;
  case 0xf4: return second <= 0x8f;
  default: return 1;
  }
}

int fuzz_is_utf8(const char *text, size_t size) {
  const unsigned char *bytes = (const unsigned char *)text;
  size_t at = 0;
  while (at < size) {
    int following = utf8_following(bytes[at]);
    int i;
    if (following < 0 || (size_t)following >= size - at) return 0;
    if (following && !utf8_second_is_good(bytes[at], bytes[at + 1])) return 0;
    for (i = 1; i <= following; i++) {
      if ((bytes[at + (size_t)i] & 0xc0) != 0x80) return 0;
    }
    at += 1 + (size_t)following;
  }
  return 1;
}

/* The statement of that text, ready to be bound; kept for the next time. */
static sqlite3_stmt *judge(const char *sql) {
  static sqlite3 *db;
  static sqlite3_stmt *statements[8];
  size_t i;
  if (!db) REQUIRE(sqlite3_open(":memory:", &db) == SQLITE_OK);
  for (i = 0; i < 8 && statements[i]; i++) {
    if (strcmp(sqlite3_sql(statements[i]), sql) == 0) break;
  }
  REQUIRE(i < 8);
  if (!statements[i]) {
    int status = sqlite3_prepare_v2(db, sql, -1, &statements[i], NULL);
    REQUIRE(status == SQLITE_OK);
  }
  sqlite3_reset(statements[i]);
  return statements[i];
}

static void bind_text(sqlite3_stmt *statement, int index, const void *text,
                      size_t size) {
  int status = sqlite3_bind_text64(statement, index, text, size,
                                   SQLITE_TRANSIENT, SQLITE_UTF8);
  REQUIRE(status == SQLITE_OK);
}

/* A statement's first column as a number; 0 when it fails. */
static int64_t judged_number(sqlite3_stmt *statement) {
  int64_t number = 0;
  if (sqlite3_step(statement) == SQLITE_ROW) {
    number = sqlite3_column_int64(statement, 0);
  }
  sqlite3_reset(statement);
  return number;
}

/* Nonzero when what stands before a colon is a string. The text is JSON but for
** that, and not deep. */
static int has_string_keys(const char *text, size_t size) {
  char within[DEPTH_JUDGED + 1] = {0}, before = 0;
  size_t i, depth = 0;
  for (i = 0; i < size; i++) {
    char c = text[i];
    if (c == '{' || c == '[') {
      if (within[depth] == '{' && before != ':') return 0;
      within[++depth] = c;
    } else if (c == '}' || c == ']') {
      depth--;
    } else if (c == '"') {
      while (text[++i] != '"') i += text[i] == '\\';
    }
    if (!memchr(" \t\n\r", c, 4)) before = c;
  }
  return 1;
}

/* SQLite 3.40 takes {{"a":"b"}:1} and {["a"]:1}, too: its parser only
** asks whether the last string of a key is one. */
int fuzz_is_json(const char *text, size_t size) {
  sqlite3_stmt *statement = judge("SELECT json_valid(?1)");
  bind_text(statement, 1, text, size);
  return !memchr(text, 0, size) && judged_number(statement) == 1 &&
         (fuzz_is_deep(text, size) || has_string_keys(text, size));
}

int fuzz_is_deep(const char *text, size_t size) {
  size_t i, open = 0;
  for (i = 0; i < size; i++) {
    if (text[i] == '[' || text[i] == '{') open++;
  }
  return open > DEPTH_JUDGED;
}

int64_t fuzz_sqlite_time(const char *text) {
  sqlite3_stmt *statement =
      judge("SELECT CAST(round((julianday(?1) - 2440587.5) * 86400000)"
            " AS INTEGER)");
  bind_text(statement, 1, text, strlen(text));
  return judged_number(statement);
}

/* ------------------------------------------------------------------------ */
/* The JSON of a job                                                        */
/* ------------------------------------------------------------------------ */

static char *base64(const void *data, size_t size) {
  static const char digits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const unsigned char *bytes = data;
  char *text = malloc(size / 3 * 4 + 5);
  size_t i, at = 0;
  REQUIRE(text);
  for (i = 0; i < size; i += 3) {
    size_t left = size - i;
    uint32_t group = (uint32_t)bytes[i] << 16;
    if (left > 1) group |= (uint32_t)bytes[i + 1] << 8;
    if (left > 2) group |= bytes[i + 2];
    text[at++] = digits[group >> 18];
    text[at++] = digits[group >> 12 & 63];
    text[at++] = left > 1 ? digits[group >> 6 & 63] : '=';
    text[at++] = left > 2 ? digits[group & 63] : '=';
  }
  text[at] = 0;
  return text;
}

static int holds_bytes(const char *json, const dibs_payload *payload) {
  sqlite3_stmt *statement =
      judge("SELECT json_extract(?1, '$.payload_base64') = ?2");
  char *expected = base64(payload->data, payload->size);
  bind_text(statement, 1, json, strlen(json));
  bind_text(statement, 2, expected, strlen(expected));
  free(expected);
  return judged_number(statement) == 1;
}

/* The payload may lose white space between tokens, and nothing else. */
static int holds_value(const char *json, const dibs_payload *payload) {
  sqlite3_stmt *statement = judge("SELECT (?1 -> '$.payload') = json(?2)");
  bind_text(statement, 1, json, strlen(json));
  bind_text(statement, 2, payload->data, payload->size);
  return judged_number(statement) == 1;
}

static int holds_nothing(const char *json) {
  sqlite3_stmt *statement =
      judge("SELECT json_type(?1, '$.payload') IS NULL"
            " AND json_type(?1, '$.payload_base64') IS NULL");
  bind_text(statement, 1, json, strlen(json));
  return judged_number(statement) == 1;
}

static int holds_payload(const char *json, const dibs_payload *payload) {
  switch (payload->kind) {
  case DIBS_PAYLOAD_BYTES: return holds_bytes(json, payload);
  case DIBS_PAYLOAD_JSON: return holds_value(json, payload);
  default: return holds_nothing(json);
  }
}

static int holds_id(const char *json, int64_t id) {
  sqlite3_stmt *statement = judge("SELECT json_extract(?1, '$.id')");
  bind_text(statement, 1, json, strlen(json));
  return judged_number(statement) == id;
}

void fuzz_check_job(const dibs_job *job) {
  char *json = NULL;
  size_t i, size;
  REQUIRE(dibs_job_json(job, &json) == DIBS_OK && json);
  fuzz_about = json;
  size = strlen(json);
  for (i = 0; i < size; i++) REQUIRE((unsigned char)json[i] >= 0x20);
  REQUIRE(fuzz_is_utf8(json, size));
  if (!fuzz_is_deep(json, size)) {
    REQUIRE(fuzz_is_json(json, size));
    REQUIRE(holds_id(json, job->id));
    REQUIRE(holds_payload(json, &job->payload));
  }
  fuzz_about = NULL;
  dibs_free(json);
}

void fuzz_check_jobs(const dibs_job_list *jobs) {
  size_t i;
  for (i = 0; i < jobs->count; i++) fuzz_check_job(&jobs->jobs[i]);
}

/* ------------------------------------------------------------------------ */
/* Databases and input                                                      */
/* ------------------------------------------------------------------------ */

static int64_t clock_of_fuzz(void *context) {
  (void)context;
  return fuzz_now;
}

dibs_open_options fuzz_open_options(void) {
  dibs_open_options options = DIBS_OPEN_OPTIONS_INIT;
  options.clock = clock_of_fuzz;
  options.busy_timeout = 100;
  options.synchronous = DIBS_SYNCHRONOUS_NORMAL;
  return options;
}

dibs_db *fuzz_open_memory(void) {
  dibs_open_options options = fuzz_open_options();
  dibs_db *db = NULL;
  fuzz_now = FUZZ_START;
  REQUIRE(dibs_open(":memory:", &options, &db) == DIBS_OK);
  return db;
}

static char folder[4096];

static int remove_entry(const char *path, const struct stat *entry, int kind,
                        struct FTW *place) {
  (void)entry;
  (void)kind;
  (void)place;
  return remove(path);
}

static void remove_folder(void) {
  nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

const char *fuzz_folder(void) {
  if (!folder[0]) {
    const char *parent = getenv("TMPDIR");
    int size = snprintf(folder, sizeof folder, "%s/dibs-fuzz-XXXXXX",
                        parent && parent[0] ? parent : "/tmp");
    REQUIRE(size > 0 && (size_t)size < sizeof folder);
    REQUIRE(mkdtemp(folder));
    REQUIRE(atexit(remove_folder) == 0);
  }
  return folder;
}

char *fuzz_text(const void *data, size_t size) {
  char *text = malloc(size + 1);
  REQUIRE(text);
  if (size) memcpy(text, data, size);
  text[size] = 0;
  return text;
}
