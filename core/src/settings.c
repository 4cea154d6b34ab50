/* SPDX-License-Identifier: MIT */
/*
** settings.c: what a queue is set to, in dibs_setting: limits and rates
** (limit.c), what a dead job does to its lane and how many done ones are kept
** (place.c), and defaults of its jobs' options. A setting is a name and a value
** as people type it. One table says what there is.
**
** Defaults bind when a job is enqueued: the explicit option is first, then the
** queue's, then what is built in. (A time of its own, `at`, comes before any delay
** where it is used.) The trigger of the inbox, in schema/, does the same in SQL.
*/
#include "internal.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum setting_form {
  SETTING_COUNT,      /* 0 or more */
  SETTING_INTEGER,    /* 32 bits */
  SETTING_RATE,       /* "10/1s": two rows, NAME and NAME_period */
  SETTING_DURATION,   /* "5m" */
  SETTING_KEEP,       /* the same, or "forever" */
  SETTING_UNIQUE_FOR, /* the same, or "start" or "finish" */
  SETTING_REAL,
  SETTING_WORD, /* its number among the words */
  SETTING_NAME,
  SETTING_HEADERS
};

#define NO_OPTION ((size_t)-1)

static const char *const dead_heads[] = {
    [DEAD_HEAD_SKIP] = "skip", [DEAD_HEAD_BLOCK] = "block", NULL};
static const char *const unique_scopes[] = {
    [DIBS_UNIQUE_QUEUE] = "queue", [DIBS_UNIQUE_ALL] = "all", NULL};
static const char *const conflict_policies[] = {
    [DIBS_CONFLICT_KEEP] = "keep",
    [DIBS_CONFLICT_REPLACE] = "replace",
    [DIBS_CONFLICT_POSTPONE] = "postpone",
    [DIBS_CONFLICT_REJECT] = "reject",
    NULL};

static const struct setting {
  const char *name;
  enum setting_form form;
  size_t option;            /* of dibs_job_options; NO_OPTION: none */
  int64_t least;            /* of a duration, or a real */
  int64_t most;             /* of a real */
  const char *const *words; /* ends with NULL */
} settings[] = {
#define OPTION(name, form) #name, form, offsetof(dibs_job_options, name)
    {"limit", SETTING_COUNT, NO_OPTION, 0, 0, NULL},
    {"limit_per_key", SETTING_COUNT, NO_OPTION, 0, 0, NULL},
    {"rate", SETTING_RATE, NO_OPTION, 0, 0, NULL},
    {"rate_per_key", SETTING_RATE, NO_OPTION, 0, 0, NULL},
    {"burst", SETTING_COUNT, NO_OPTION, 0, 0, NULL},
    {"dead_head", SETTING_WORD, NO_OPTION, 0, 0, dead_heads},
    {"keep_count", SETTING_COUNT, NO_OPTION, 0, 0, NULL},
    {OPTION(name, SETTING_NAME), 0, 0, NULL},
    {OPTION(headers, SETTING_HEADERS), 0, 0, NULL},
    {OPTION(priority, SETTING_INTEGER), 0, 0, NULL},
    {OPTION(delay, SETTING_DURATION), 0, 0, NULL},
    {OPTION(expires, SETTING_DURATION), 1, 0, NULL},
    {OPTION(max_attempts, SETTING_COUNT), 0, 0, NULL},
    {OPTION(max_crashes, SETTING_COUNT), 0, 0, NULL},
    {OPTION(backoff, SETTING_DURATION), 0, 0, NULL},
    {OPTION(backoff_factor, SETTING_REAL), 1, 1000, NULL},
    {OPTION(backoff_cap, SETTING_DURATION), 0, 0, NULL},
    {OPTION(backoff_jitter, SETTING_REAL), 0, 1, NULL},
    {OPTION(lease, SETTING_DURATION), 1, 0, NULL},
    {OPTION(timeout, SETTING_DURATION), 1, 0, NULL},
    {OPTION(keep, SETTING_KEEP), 0, 0, NULL},
    {OPTION(key, SETTING_NAME), 0, 0, NULL},
    {OPTION(limit_key, SETTING_NAME), 0, 0, NULL},
    {OPTION(unique, SETTING_NAME), 0, 0, NULL},
    {OPTION(unique_for, SETTING_UNIQUE_FOR), 1, 0, NULL},
    {OPTION(unique_scope, SETTING_WORD), 0, 0, unique_scopes},
    {OPTION(on_conflict, SETTING_WORD), 0, 0, conflict_policies},
    {OPTION(stage, SETTING_DURATION), 1, 0, NULL},
#undef OPTION
};
#define SETTINGS (sizeof settings / sizeof *settings)

static const struct setting *setting_find(const char *name) {
  for (size_t i = 0; name && i < SETTINGS; i++)
    if (!strcmp(settings[i].name, name)) return &settings[i];
  return NULL;
}

static bool setting_is_text(const struct setting *setting) {
  return setting->form == SETTING_NAME || setting->form == SETTING_HEADERS;
}

/* ----------------------------------------------------------------- reading */

/* A value as people type it. */
struct typed {
  int64_t integer;
  int64_t period; /* of a rate */
  double real;
};

static bool integer_parse(const char *text, int64_t *value) {
  char *end;
  long long number = strtoll(text, &end, 10);
  *value = number;
  return end != text && !*end && number >= INT32_MIN && number <= INT32_MAX;
}

static bool duration_read_text(const char *text, int64_t least,
                               int64_t *value) {
  return dibs_parse_duration(text, value) == DIBS_OK && *value >= least &&
         *value <= TIME_MAX;
}

static bool rate_parse(const char *text, struct typed *typed) {
  char count[16];
  size_t length = strcspn(text, "/");
  if (!text[length] || length >= sizeof count) return false;
  memcpy(count, text, length);
  count[length] = 0;
  return integer_parse(count, &typed->integer) && typed->integer >= 1 &&
         duration_read_text(text + length + 1, 1, &typed->period);
}

static bool word_parse(const char *const *words, const char *text,
                       int64_t *value) {
  for (*value = 0; words[*value]; ++*value)
    if (!strcmp(words[*value], text)) return true;
  return false;
}

bool headers_are_flat(const char *headers) {
  struct json_slice key, value;
  size_t size = strlen(headers);
  bool flat = json_kind(headers, size) == '{' && json_valid(headers, size);
  struct json_walk walk = {headers, headers + size};
  while (flat && json_next(&walk, &key, &value)) flat = *value.data == '"';
  return flat;
}

static bool typed_parse(const struct setting *setting, const char *text,
                        struct typed *typed) {
  static const char *const moments[] = {"start", "finish", NULL};
  int64_t *integer = &typed->integer;
  switch (setting->form) {
  case SETTING_COUNT: return integer_parse(text, integer) && *integer >= 0;
  case SETTING_INTEGER: return integer_parse(text, integer);
  case SETTING_RATE: return rate_parse(text, typed);
  case SETTING_KEEP:
    *integer = DIBS_FOREVER;
    return !strcmp(text, "forever") || duration_read_text(text, 0, integer);
  case SETTING_UNIQUE_FOR:
    if (!word_parse(moments, text, integer))
      return duration_read_text(text, setting->least, integer);
    *integer = *integer ? DIBS_UNIQUE_UNTIL_FINISH : DIBS_UNIQUE_UNTIL_START;
    return true;
  case SETTING_DURATION:
    return duration_read_text(text, setting->least, integer);
  case SETTING_REAL:
    return real_parse(text, &typed->real) &&
           typed->real >= (double)setting->least &&
           typed->real <= (double)setting->most;
  case SETTING_WORD: return word_parse(setting->words, text, integer);
  case SETTING_NAME: return !name_problem(text);
  case SETTING_HEADERS:
    return strlen(text) <= DIBS_HEADERS_MAX && headers_are_flat(text);
  }
  return false;
}

/* What may be given. */
static void form_words(const struct setting *setting, struct text *text) {
  static const char *const words[] = {
      [SETTING_COUNT] = "a number, 0 or more",
      [SETTING_INTEGER] = "a 32-bit number",
      [SETTING_RATE] = "a number per duration, as 10/1s",
      [SETTING_DURATION] = "a duration, as 5m",
      [SETTING_KEEP] = "a duration, as 7d, or forever",
      [SETTING_UNIQUE_FOR] = "start, finish, or a duration, as 5m",
      [SETTING_NAME] =
          "a name: 1 to 255 bytes, without control characters or *",
      [SETTING_HEADERS] = "a flat JSON object of strings, up to 64 KiB",
  };
  if (setting->form == SETTING_REAL) {
    text_format(text, "a number, %d to %d", (int)setting->least,
                (int)setting->most);
  } else if (setting->form == SETTING_WORD) {
    for (int i = 0; setting->words[i]; i++)
      text_format(text, "%s%s", i ? ", " : "", setting->words[i]);
  } else {
    text_string(text, words[setting->form]);
    if (setting->form == SETTING_DURATION && setting->least)
      text_string(text, " and more than 0");
  }
}

/* ----------------------------------------------------------------- writing */

static void row_set(dibs_db *db, int64_t queue_id, const char *name,
                    const char *suffix, struct sql_value value) {
  char full[64];
  snprintf(full, sizeof full, "%s%s", name, suffix);
  sql_run(db, SQL_SETTING_SET,
          SQL_ARGS(sql_int(queue_id), sql_text(full), value));
}

static void row_remove(dibs_db *db, int64_t queue_id, const char *name,
                       const char *suffix) {
  char full[64];
  snprintf(full, sizeof full, "%s%s", name, suffix);
  sql_run(db, SQL_SETTING_REMOVE, SQL_ARGS(sql_int(queue_id), sql_text(full)));
}

static void setting_write(dibs_db *db, int64_t queue_id,
                          const struct setting *setting, const char *text) {
  struct typed typed = {.period = DIBS_UNSET};
  row_remove(db, queue_id, setting->name, "");
  if (setting->form == SETTING_RATE)
    row_remove(db, queue_id, setting->name, "_period");
  if (!text || !strcmp(text, "none")) return;
  typed_parse(setting, text, &typed);
  struct sql_value value = sql_int(typed.integer);
  if (setting->form == SETTING_REAL) value = sql_real(typed.real);
  if (setting_is_text(setting)) value = sql_text(text);
  row_set(db, queue_id, setting->name, "", value);
  if (setting->form == SETTING_RATE)
    row_set(db, queue_id, setting->name, "_period", sql_int(typed.period));
}

static void setting_refuse(dibs_db *db, const struct setting *setting,
                           const char *value) {
  struct text words = {.data = NULL};
  form_words(setting, &words);
  if (words.failed)
    handle_nomem(db);
  else
    handle_fail(db, DIBS_INVALID, "%s is '%.100s': give %s, or none",
                setting->name, value, words.data);
  text_free(&words);
}

static void settings_check(dibs_db *db, const char *const *names,
                           const char *const *values, size_t count) {
  struct typed typed;
  for (size_t i = 0; i < count && !db->status; i++) {
    const struct setting *setting = setting_find(names[i]);
    if (!setting)
      handle_fail(db, DIBS_INVALID, "there is no setting '%s'",
                  names[i] ? names[i] : "");
    else if (values[i] && strcmp(values[i], "none") &&
             !typed_parse(setting, values[i], &typed))
      setting_refuse(db, setting, values[i]);
    if (db->status) db->error_index = (int64_t)i;
  }
}

static void queue_check(dibs_db *db, const char **name) {
  if (!*name) *name = "";
  const char *problem = name_problem(*name);
  if (problem) handle_fail(db, DIBS_INVALID, "queue '%s' %s", *name, problem);
}

int dibs_queue_set(dibs_db *db, const char *queue_name,
                   const char *const *names, const char *const *values,
                   size_t count) {
  int status;
  struct queue queue;
  if (!handle_enter(db, &status)) return status;
  queue_check(db, &queue_name);
  settings_check(db, names, values, count);
  if (!db->status) {
    sql_begin_write(db);
    queue_need(db, queue_name, &queue);
    limits_before(db, queue.id);
    for (size_t i = 0; i < count && !db->status; i++)
      setting_write(db, queue.id, setting_find(names[i]), values[i]);
    sql_run(db, SQL_QUEUE_DEFAULTS, SQL_ARGS(sql_int(queue.id)));
    limits_apply(db, queue.id);
    lanes_apply(db, queue.id);
    keeping_apply(db, queue.id);
    sql_end(db);
  }
  return handle_leave(db);
}

/* ----------------------------------------------------------------- showing */

static void rate_show(dibs_db *db, struct text *json, int64_t queue_id,
                      const struct setting *setting, int64_t count) {
  char period[DURATION_SIZE], name[64];
  snprintf(name, sizeof name, "%s_period", setting->name);
  int64_t ms =
      sql_get(db, SQL_SETTING, SQL_ARGS(sql_int(queue_id), sql_text(name)), 0);
  text_format(json, "\"%lld/%s\"", (long long)count,
              duration_format(ms, period));
}

static void duration_show(struct text *json, int64_t value) {
  char duration[DURATION_SIZE];
  text_format(json, "\"%s\"", duration_format(value, duration));
}

/* A damaged file may have any number. */
static void word_show(struct text *json, const struct setting *setting,
                      int64_t value) {
  int64_t count = 0;
  while (setting->words[count]) count++;
  text_format(json, "\"%s\"",
              value >= 0 && value < count ? setting->words[value] : "");
}

static void value_show(dibs_db *db, struct text *json, int64_t queue_id,
                       const struct setting *setting, int64_t value) {
  switch (setting->form) {
  case SETTING_RATE: rate_show(db, json, queue_id, setting, value); break;
  case SETTING_WORD: word_show(json, setting, value); break;
  case SETTING_UNIQUE_FOR:
    if (value < 0)
      text_string(json, value == DIBS_UNIQUE_UNTIL_START ? "\"start\""
                                                         : "\"finish\"");
    else
      duration_show(json, value);
    break;
  case SETTING_KEEP:
    if (value == DIBS_FOREVER)
      text_string(json, "\"forever\"");
    else
      duration_show(json, value);
    break;
  case SETTING_DURATION: duration_show(json, value); break;
  default: text_format(json, "%lld", (long long)value);
  }
}

static void text_show(struct text *json, const struct setting *setting,
                      const char *text) {
  if (setting->form == SETTING_HEADERS && headers_are_flat(text))
    json_minify(json, text, strlen(text));
  else
    json_quote(json, text, strlen(text));
}

static void setting_show(dibs_db *db, struct text *json, int64_t queue_id,
                         const struct setting *setting) {
  sqlite3_stmt *row = sql_first(
      db, SQL_SETTING, SQL_ARGS(sql_int(queue_id), sql_text(setting->name)));
  if (!row) return;
  text_format(json, ",\"%s\":", setting->name);
  const char *text =
      setting_is_text(setting) ? sql_column_text(db, row, 0) : "";
  int64_t integer = sql_column_int(db, row, 0);
  double real = sql_column_real(db, row, 0);
  if (setting_is_text(setting)) text_show(json, setting, text ? text : "");
  sql_reset(db, row);
  if (setting->form == SETTING_REAL && isnan(real))
    text_string(json, "null"); /* damage */
  else if (setting->form == SETTING_REAL)
    real_append(json, real, 15);
  else if (!setting_is_text(setting))
    value_show(db, json, queue_id, setting, integer);
}

int dibs_queue_show(dibs_db *db, const char *queue_name, char **out) {
  int status;
  struct queue queue = {.id = 0};
  struct text json = {.data = NULL};
  if (!out) return DIBS_MISUSE;
  *out = NULL;
  if (!handle_enter(db, &status)) return status;
  queue_check(db, &queue_name);
  if (!db->status) {
    sql_begin_read(db);
    queue_find(db, queue_name, &queue);
    text_string(&json, "{\"queue\":");
    json_quote(&json, queue_name, strlen(queue_name));
    bool paused = sql_get(db, SQL_QUEUE_PAUSED, SQL_ARGS(sql_int(queue.id)), 0);
    text_string(&json, paused ? ",\"paused\":true" : ",\"paused\":false");
    for (size_t i = 0; i < SETTINGS; i++)
      setting_show(db, &json, queue.id, &settings[i]);
    text_string(&json, "}");
    sql_end(db);
  }
  if (json.failed) handle_nomem(db);
  if (db->status)
    text_free(&json);
  else
    *out = json.data;
  return handle_leave(db);
}

/* ---------------------------------------------------------------- defaults */

static bool option_is_given(const struct setting *setting, const char *place) {
  union {
    int64_t integer;
    double real;
    int word;
    const char *text;
  } value;
  memcpy(&value, place,
         setting->form == SETTING_WORD ? sizeof value.word : sizeof value);
  if (setting_is_text(setting)) return value.text != NULL;
  if (setting->form == SETTING_WORD) return value.word >= 0;
  if (setting->form == SETTING_REAL) return !isnan(value.real);
  return value.integer != DIBS_UNSET;
}

static size_t option_size(const struct setting *setting) {
  return setting->form == SETTING_WORD ? sizeof(int) : sizeof(int64_t);
}

/* A copy of a name or of headers; NULL when the file has what is none. */
static const char *default_text(dibs_db *db, struct arena *arena,
                                const struct setting *setting,
                                sqlite3_stmt *row) {
  const char *text = sql_column_text(db, row, 1);
  struct typed typed;
  if (!text || !typed_parse(setting, text, &typed)) return NULL;
  const char *copy = arena_copy(arena, text, strlen(text));
  if (!copy) handle_nomem(db);
  return copy;
}

static void default_take(dibs_db *db, struct arena *arena,
                         dibs_job_options *options, sqlite3_stmt *row) {
  const char *name = sql_column_text(db, row, 0);
  const struct setting *setting = setting_find(name);
  if (!setting || setting->option == NO_OPTION) return;
  char *place = (char *)options + setting->option;
  int64_t integer = sql_column_int(db, row, 1);
  double real = sql_column_real(db, row, 1);
  int word = integer >= 0 && integer < 4 ? (int)integer : -1;
  const char *text = NULL;
  if (setting_is_text(setting)) text = default_text(db, arena, setting, row);
  if (setting_is_text(setting))
    memcpy(place, &text, sizeof text);
  else if (setting->form == SETTING_WORD)
    memcpy(place, &word, sizeof word);
  else if (setting->form == SETTING_REAL)
    memcpy(place, &real, sizeof real);
  else
    memcpy(place, &integer, sizeof integer);
}

void defaults_read(dibs_db *db, int64_t queue_id, struct arena *arena,
                   dibs_job_options *options) {
  dibs_job_options_init(options);
  sqlite3_stmt *row = sql_first(db, SQL_SETTINGS, SQL_ARGS(sql_int(queue_id)));
  if (!row) return;
  do default_take(db, arena, options, row);
  while (!db->status && sql_next(db, row));
  if (db->status) sql_reset(db, row);
}

void defaults_merge(dibs_job_options *options,
                    const dibs_job_options *defaults) {
  for (size_t i = 0; i < SETTINGS; i++) {
    const struct setting *setting = &settings[i];
    if (setting->option == NO_OPTION) continue;
    char *place = (char *)options + setting->option;
    if (!option_is_given(setting, place))
      memcpy(place, (const char *)defaults + setting->option,
             option_size(setting));
  }
}
