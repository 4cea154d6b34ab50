/* SPDX-License-Identifier: MIT */
/*
** options.c: options in JSON: of a job, a claim, a retry and so on; settings; and
** whole jobs. Tables name every member, its form and its place in the struct that
** is filled.
*/
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum form {
  FORM_TEXT,
  FORM_TEXTS, /* an array of them */
  FORM_INTEGER,
  FORM_REAL,
  FORM_DURATION, /* "5m", or a number of seconds */
  FORM_KEEP,     /* the same, or "forever" */
  FORM_TIME,     /* RFC 3339, or milliseconds since 1970 */
  FORM_OBJECT,
  FORM_UNIQUE_FOR,
  FORM_UNIQUE_SCOPE,
  FORM_ON_CONFLICT,
  FORM_PAYLOAD,
  FORM_BASE64
};

struct member {
  const char *name;
  enum form form;
  size_t offset;
};

/* What an object may have. */
struct grammar {
  const char *what;    /* what has such options */
  const char *subject; /* what must be an object */
  const char *example;
  const struct member *members;
  size_t count;
};

#define GRAMMAR(what, subject, example, members)                               \
  { what, subject, example, members, sizeof(members) / sizeof *(members) }

static const struct member job_option_members[] = {
#define MEMBER(name, form)                                                     \
  { #name, form, offsetof(dibs_job_options, name) }
    MEMBER(name, FORM_TEXT),
    MEMBER(headers, FORM_OBJECT),
    MEMBER(priority, FORM_INTEGER),
    MEMBER(delay, FORM_DURATION),
    MEMBER(at, FORM_TIME),
    MEMBER(expires, FORM_DURATION),
    MEMBER(max_attempts, FORM_INTEGER),
    MEMBER(max_crashes, FORM_INTEGER),
    MEMBER(backoff, FORM_DURATION),
    MEMBER(backoff_factor, FORM_REAL),
    MEMBER(backoff_cap, FORM_DURATION),
    MEMBER(backoff_jitter, FORM_REAL),
    MEMBER(lease, FORM_DURATION),
    MEMBER(timeout, FORM_DURATION),
    MEMBER(keep, FORM_KEEP),
    MEMBER(key, FORM_TEXT),
    MEMBER(limit_key, FORM_TEXT),
    MEMBER(unique, FORM_TEXT),
    MEMBER(unique_for, FORM_UNIQUE_FOR),
    MEMBER(unique_scope, FORM_UNIQUE_SCOPE),
    MEMBER(on_conflict, FORM_ON_CONFLICT),
    MEMBER(stage, FORM_DURATION),
#undef MEMBER
};

static const struct member job_members[] = {
    {"queue", FORM_TEXT, offsetof(dibs_new_job, queue)},
    {"payload", FORM_PAYLOAD, offsetof(dibs_new_job, payload)},
    {"payload_base64", FORM_BASE64, offsetof(dibs_new_job, payload)},
};

static const struct member claim_members[] = {
    {"n", FORM_INTEGER, offsetof(struct claim_words, n)},
    {"lease", FORM_DURATION, offsetof(struct claim_words, lease)},
    {"worker", FORM_TEXT, offsetof(struct claim_words, worker)},
    {"queues", FORM_TEXTS, offsetof(struct claim_words, queues)},
};

static const struct member retry_members[] = {
    {"delay", FORM_DURATION, offsetof(struct retry_words, delay)},
    {"error", FORM_TEXT, offsetof(struct retry_words, error)},
};

static const struct member change_members[] = {
    {"priority", FORM_INTEGER, offsetof(dibs_change_options, priority)},
    {"delay", FORM_DURATION, offsetof(dibs_change_options, delay)},
    {"at", FORM_TIME, offsetof(dibs_change_options, at)},
    {"stage", FORM_DURATION, offsetof(dibs_change_options, stage)},
};

static const struct grammar job_option_grammar =
    GRAMMAR("a job", "options", "{\"delay\":\"5m\"}", job_option_members);
static const struct grammar job_grammar =
    GRAMMAR("a job", "a job",
            "{\"queue\":\"mail\",\"payload\":{\"to\":\"ann\"}}", job_members);
static const struct grammar claim_grammar =
    GRAMMAR("a claim", "options", "{\"n\":10,\"lease\":\"5m\"}", claim_members);
static const struct grammar retry_grammar =
    GRAMMAR("a retry", "options", "{\"delay\":\"5m\"}", retry_members);
static const struct grammar change_grammar =
    GRAMMAR("a change", "options", "{\"priority\":5}", change_members);

/* A grammar and the struct that its members are in. */
struct part {
  const struct grammar *grammar;
  void *place;
};

/* A member under way. */
struct reading {
  dibs_db *db;
  struct arena *arena;
  const char *name;
  struct json_slice value;
};

/* ------------------------------------------------------------------ values */

static void value_fail(struct reading *reading, const char *allowed) {
  size_t shown = reading->value.size;
  bool cut = shown > 60;
  if (cut) shown = utf8_floor(reading->value.data, 60);
  handle_fail(reading->db, DIBS_INVALID, "%s is %.*s%s: give %s", reading->name,
              (int)shown, reading->value.data, cut ? "..." : "", allowed);
}

static char *slice_copy(struct reading *reading, const char *data,
                        size_t size) {
  char *copy = arena_copy(reading->arena, data, size);
  if (!copy) handle_nomem(reading->db);
  return copy;
}

/* Whether a string has the escape of U+0000, which no C string can hold, and
** at which SQLite would cut it. */
static bool nul_escaped(const struct json_slice *value) {
  for (size_t i = 1; i + 5 < value->size; i++) {
    if (value->data[i] != '\\') continue;
    if (!memcmp(value->data + i + 1, "u0000", 5)) return true;
    i++;
  }
  return false;
}

/* A string without its quotes and escapes; NULL when it is none. */
static char *text_read(struct reading *reading) {
  const struct json_slice *value = &reading->value;
  if (*value->data != '"' || nul_escaped(value)) return NULL;
  if (!memchr(value->data, '\\', value->size))
    return slice_copy(reading, value->data + 1, value->size - 2);
  dibs_db *db = reading->db;
  sqlite3_stmt *row = sql_first(db, SQL_JSON_TEXT,
                                SQL_ARGS(sql_sized(value->data, value->size)));
  if (!row) return NULL;
  dibs_payload text = sql_column_payload(db, row, 0);
  char *copy = slice_copy(reading, text.data, text.size);
  sql_reset(db, row);
  return copy;
}

/* A number, copied because what follows it in the text is not ours. */
static bool number_read(struct reading *reading, double *number) {
  char digits[64];
  const struct json_slice *value = &reading->value;
  bool starts =
      *value->data == '-' || (*value->data >= '0' && *value->data <= '9');
  if (!starts || value->size >= sizeof digits) return false;
  memcpy(digits, value->data, value->size);
  digits[value->size] = 0;
  return real_parse(digits, number);
}

static bool integer_read(struct reading *reading, int64_t *integer) {
  double number;
  if (!number_read(reading, &number) || number != floor(number) ||
      fabs(number) > (double)DIBS_ID_MAX)
    return false;
  *integer = (int64_t)number;
  return true;
}

/* "5m", or a number of seconds, not negative. */
static bool duration_read(struct reading *reading, int64_t *milliseconds) {
  double seconds;
  if (number_read(reading, &seconds)) {
    if (!(seconds >= 0 && seconds * 1000 <= (double)TIME_MAX)) return false;
    *milliseconds = (int64_t)(seconds * 1000 + 0.5);
    return true;
  }
  char *text = text_read(reading);
  return text && dibs_parse_duration(text, milliseconds) == DIBS_OK;
}

static bool time_read(struct reading *reading, int64_t *milliseconds) {
  if (integer_read(reading, milliseconds)) return true;
  char *text = text_read(reading);
  return text && dibs_parse_time(text, milliseconds) == DIBS_OK;
}

/* One of `count` words into their number. */
static bool word_read(struct reading *reading, const char *const *words,
                      int count, int *number) {
  char *text = text_read(reading);
  for (int i = 0; text && i < count; i++) {
    if (strcmp(text, words[i])) continue;
    *number = i;
    return true;
  }
  return false;
}

static bool unique_for_read(struct reading *reading, int64_t *unique_for) {
  static const char *const words[] = {"start", "finish"};
  int word;
  if (!word_read(reading, words, 2, &word))
    return duration_read(reading, unique_for) && *unique_for > 0;
  *unique_for = word ? DIBS_UNIQUE_UNTIL_FINISH : DIBS_UNIQUE_UNTIL_START;
  return true;
}

static bool keep_read(struct reading *reading, int64_t *keep) {
  static const char *const words[] = {"forever"};
  int word;
  if (!word_read(reading, words, 1, &word)) return duration_read(reading, keep);
  *keep = DIBS_FOREVER;
  return true;
}

static void text_set(struct reading *reading, const char **text) {
  *text = text_read(reading);
  if (!*text) value_fail(reading, "a string");
}

static size_t elements_count(const struct json_slice *array) {
  size_t count = 0;
  struct json_slice value;
  struct json_walk walk = {array->data, array->data + array->size};
  while (json_next_element(&walk, &value)) count++;
  return count;
}

static void texts_set(struct reading *reading, struct texts *texts) {
  struct reading element = *reading;
  const struct json_slice *array = &reading->value;
  struct json_walk walk = {array->data, array->data + array->size};
  size_t count = *array->data == '[' ? elements_count(array) : 0, found = 0;
  const char **items = arena_take(reading->arena, (count + 1) * sizeof *items);
  if (!items) handle_nomem(reading->db);
  while (found < count && items && json_next_element(&walk, &element.value)) {
    items[found] = text_read(&element);
    if (!items[found]) break;
    found++;
  }
  if (!count || found < count)
    value_fail(reading, "an array of strings, one at least");
  *texts = (struct texts){items, found};
}

static void object_set(struct reading *reading, const char **text) {
  *text = slice_copy(reading, reading->value.data, reading->value.size);
}

static void payload_once(struct reading *reading, const dibs_payload *payload) {
  if (payload->kind != DIBS_PAYLOAD_NONE)
    handle_fail(reading->db, DIBS_INVALID,
                "payload is given twice: give payload or payload_base64");
}

static void payload_set(struct reading *reading, dibs_payload *payload) {
  payload_once(reading, payload);
  const char *copy =
      slice_copy(reading, reading->value.data, reading->value.size);
  *payload = dibs_json_sized(copy, reading->value.size);
}

static void base64_set(struct reading *reading, dibs_payload *payload) {
  size_t count = 0;
  payload_once(reading, payload);
  char *text = text_read(reading);
  size_t size = text ? strlen(text) : 0;
  unsigned char *bytes = arena_take(reading->arena, size / 4 * 3 + 3);
  if (!bytes)
    handle_nomem(reading->db);
  else if (!text || !base64_decode(text, size, bytes, &count))
    value_fail(reading, "a string in base64");
  *payload = dibs_bytes(bytes, count);
}

static void form_read(struct reading *reading, enum form form, void *place) {
  static const char *const scopes[] = {"queue", "all"};
  static const char *const policies[] = {"keep", "replace", "postpone",
                                         "reject"};
  switch (form) {
  case FORM_TEXT: text_set(reading, place); return;
  case FORM_TEXTS: texts_set(reading, place); return;
  case FORM_OBJECT: object_set(reading, place); return;
  case FORM_PAYLOAD: payload_set(reading, place); return;
  case FORM_BASE64: base64_set(reading, place); return;
  case FORM_INTEGER:
    if (!integer_read(reading, place)) value_fail(reading, "an integer");
    return;
  case FORM_REAL:
    if (!number_read(reading, place)) value_fail(reading, "a number");
    return;
  case FORM_DURATION:
    if (!duration_read(reading, place))
      value_fail(reading, "a duration such as \"5m\", or seconds");
    return;
  case FORM_KEEP:
    if (!keep_read(reading, place))
      value_fail(reading, "a duration such as \"7d\", seconds, or \"forever\"");
    return;
  case FORM_TIME:
    if (!time_read(reading, place))
      value_fail(reading, "a time such as \"2026-01-31T12:00:00Z\", or "
                          "milliseconds since 1970");
    return;
  case FORM_UNIQUE_FOR:
    if (!unique_for_read(reading, place))
      value_fail(reading, "\"start\", \"finish\" or a duration");
    return;
  case FORM_UNIQUE_SCOPE:
    if (!word_read(reading, scopes, 2, place))
      value_fail(reading, "\"queue\" or \"all\"");
    return;
  case FORM_ON_CONFLICT:
    if (!word_read(reading, policies, 4, place))
      value_fail(reading, "\"keep\", \"replace\", \"postpone\" or \"reject\"");
    return;
  }
}

/* ----------------------------------------------------------------- objects */

static bool member_read(struct reading *reading, const struct part *part) {
  for (size_t i = 0; i < part->grammar->count; i++) {
    const struct member *member = &part->grammar->members[i];
    if (strcmp(reading->name, member->name)) continue;
    form_read(reading, member->form, (char *)part->place + member->offset);
    return true;
  }
  return false;
}

/* The name of a member without its escapes. */
static const char *name_read(struct reading *reading,
                             const struct json_slice *key) {
  struct reading name = *reading;
  name.name = "a member's name";
  name.value = (struct json_slice){key->data - 1, key->size + 2};
  const char *text = text_read(&name);
  if (!text) value_fail(&name, "the name of an option");
  return text;
}

/* Read an object whose members are those of the parts. */
static void object_read(dibs_db *db, struct arena *arena,
                        struct json_slice json, const struct part *parts,
                        size_t count) {
  struct json_slice key;
  struct reading reading = {.db = db, .arena = arena};
  struct json_walk walk = {json.data, json.data + json.size};
  const struct grammar *first = parts[0].grammar;
  if (json_kind(json.data, json.size) != '{' ||
      !json_valid(json.data, json.size))
    handle_fail(db, DIBS_INVALID, "%s must be a JSON object such as %s",
                first->subject, first->example);
  while (!db->status && json_next(&walk, &key, &reading.value)) {
    bool found = false;
    reading.name = name_read(&reading, &key);
    for (size_t i = 0; i < count && reading.name && !found; i++)
      found = member_read(&reading, &parts[i]);
    if (!found)
      handle_fail(db, DIBS_INVALID, "there is no option '%s' of %s",
                  reading.name, first->what);
  }
}

void options_read_job(dibs_db *db, struct arena *arena, struct json_slice json,
                      dibs_job_options *options) {
  dibs_job_options_init(options);
  object_read(db, arena, json, &(struct part){&job_option_grammar, options}, 1);
}

void options_read_claim(dibs_db *db, struct arena *arena,
                        struct json_slice json, struct claim_words *words) {
  object_read(db, arena, json, &(struct part){&claim_grammar, words}, 1);
}

void options_read_retry(dibs_db *db, struct arena *arena,
                        struct json_slice json, struct retry_words *words) {
  object_read(db, arena, json, &(struct part){&retry_grammar, words}, 1);
}

void options_read_change(dibs_db *db, struct arena *arena,
                         struct json_slice json, dibs_change_options *options) {
  object_read(db, arena, json, &(struct part){&change_grammar, options}, 1);
}

/* ---------------------------------------------------------------- settings */

/* A string without its quotes, or the JSON of another value, as people type it. */
static const char *setting_read(struct reading *reading) {
  const struct json_slice *value = &reading->value;
  if (*value->data == '"') {
    const char *text = text_read(reading);
    if (!text) value_fail(reading, "text without NUL");
    return text;
  }
  bool null = value->size == 4 && !memcmp(value->data, "null", 4);
  return null ? NULL : slice_copy(reading, value->data, value->size);
}

void options_read_settings(dibs_db *db, struct arena *arena,
                           struct json_slice json,
                           struct setting_words *words) {
  struct json_slice key;
  struct reading reading = {.db = db, .arena = arena};
  struct json_walk walk = {json.data, json.data + json.size};
  size_t room = json.size / 4 + 1; /* "a":1 and so on */
  words->names = arena_take(arena, room * sizeof *words->names);
  words->values = arena_take(arena, room * sizeof *words->values);
  words->count = 0;
  if (!words->names || !words->values) handle_nomem(db);
  if (json_kind(json.data, json.size) != '{' ||
      !json_valid(json.data, json.size))
    handle_fail(db, DIBS_INVALID,
                "settings must be a JSON object such as {\"limit\":5}");
  while (!db->status && json_next(&walk, &key, &reading.value)) {
    size_t at = words->count++;
    reading.name = words->names[at] = name_read(&reading, &key);
    if (!db->status) words->values[at] = setting_read(&reading);
  }
}

/* -------------------------------------------------------------------- jobs */

/* What is read, with the memory behind it. */
struct parsed {
  dibs_parsed_job parsed;
  dibs_job_options options;
  struct arena arena;
};

int dibs_parse_job(dibs_db *db, const char *json, size_t size,
                   dibs_parsed_job **out) {
  int status;
  if (!out || !json) return DIBS_MISUSE;
  *out = NULL;
  if (!handle_enter(db, &status)) return status;
  struct parsed *parsed = calloc(1, sizeof *parsed);
  if (parsed) {
    const struct part parts[] = {{&job_grammar, &parsed->parsed.job},
                                 {&job_option_grammar, &parsed->options}};
    dibs_job_options_init(&parsed->options);
    parsed->parsed.job.options = &parsed->options;
    object_read(db, &parsed->arena, (struct json_slice){json, size}, parts, 2);
  } else {
    handle_nomem(db);
  }
  if (db->status)
    dibs_parsed_job_free((dibs_parsed_job *)parsed);
  else
    *out = &parsed->parsed;
  return handle_leave(db);
}

void dibs_parsed_job_free(dibs_parsed_job *job) {
  struct parsed *parsed = (struct parsed *)job;
  if (!parsed) return;
  arena_free(&parsed->arena);
  free(parsed);
}
