/* SPDX-License-Identifier: MIT */
/*
** settings.c: what a queue is set to, in dibs_setting: limits and rates
** (limit.c), what a dead job does to its lane and how many done ones are kept
** (place.c), and defaults of its jobs' options. A setting is a name and a value
** as people type it. One table says what there is.
**
** Defaults bind when a job is enqueued: the explicit option is first, then the
** queue's, then what is built in.
*/
#include "internal.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum setting_form {
  SETTING_COUNT,    /* 0 or more */
  SETTING_INTEGER,  /* 32 bits */
  SETTING_RATE,     /* "10/1s": two rows, NAME and NAME_period */
  SETTING_DURATION, /* "5m" */
  SETTING_KEEP,     /* the same, or "forever" */
  SETTING_DEAD_HEAD,
  SETTING_REAL
};

#define NO_OPTION ((size_t)-1)

static const struct setting {
  const char *name;
  enum setting_form form;
  size_t option; /* of dibs_job_options; NO_OPTION: none */
} settings[] = {
#define OPTION(name, form)                                                     \
  { #name, form, offsetof(dibs_job_options, name) }
    {"limit", SETTING_COUNT, NO_OPTION},
    {"limit_per_key", SETTING_COUNT, NO_OPTION},
    {"rate", SETTING_RATE, NO_OPTION},
    {"rate_per_key", SETTING_RATE, NO_OPTION},
    {"burst", SETTING_COUNT, NO_OPTION},
    {"dead_head", SETTING_DEAD_HEAD, NO_OPTION},
    {"keep_count", SETTING_COUNT, NO_OPTION},
    OPTION(priority, SETTING_INTEGER),
    OPTION(delay, SETTING_DURATION),
    OPTION(expires, SETTING_DURATION),
    OPTION(max_attempts, SETTING_COUNT),
    OPTION(max_crashes, SETTING_COUNT),
    OPTION(backoff, SETTING_DURATION),
    OPTION(backoff_factor, SETTING_REAL),
    OPTION(backoff_cap, SETTING_DURATION),
    OPTION(backoff_jitter, SETTING_REAL),
    OPTION(lease, SETTING_DURATION),
    OPTION(timeout, SETTING_DURATION),
    OPTION(keep, SETTING_KEEP),
#undef OPTION
};
#define SETTINGS (sizeof settings / sizeof *settings)

static const struct setting *setting_find(const char *name) {
  for (size_t i = 0; name && i < SETTINGS; i++)
    if (!strcmp(settings[i].name, name)) return &settings[i];
  return NULL;
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

static bool duration_read_text(const char *text, int64_t *value) {
  return dibs_parse_duration(text, value) == DIBS_OK;
}

static bool rate_parse(const char *text, struct typed *typed) {
  char count[16];
  size_t length = strcspn(text, "/");
  if (!text[length] || length >= sizeof count) return false;
  memcpy(count, text, length);
  count[length] = 0;
  return integer_parse(count, &typed->integer) && typed->integer >= 1 &&
         duration_read_text(text + length + 1, &typed->period) &&
         typed->period >= 1;
}

static const char *const dead_heads[] = {
    [DEAD_HEAD_SKIP] = "skip", [DEAD_HEAD_BLOCK] = "block"};

static bool dead_head_parse(const char *text, int64_t *value) {
  *value = !strcmp(text, dead_heads[DEAD_HEAD_BLOCK]) ? DEAD_HEAD_BLOCK
                                                      : DEAD_HEAD_SKIP;
  return !strcmp(text, dead_heads[*value]);
}

static bool typed_parse(const struct setting *setting, const char *text,
                        struct typed *typed) {
  switch (setting->form) {
  case SETTING_COUNT:
    return integer_parse(text, &typed->integer) && typed->integer >= 0;
  case SETTING_INTEGER: return integer_parse(text, &typed->integer);
  case SETTING_RATE: return rate_parse(text, typed);
  case SETTING_KEEP:
    typed->integer = DIBS_FOREVER;
    return !strcmp(text, "forever") ||
           duration_read_text(text, &typed->integer);
  case SETTING_DURATION: return duration_read_text(text, &typed->integer);
  case SETTING_DEAD_HEAD: return dead_head_parse(text, &typed->integer);
  case SETTING_REAL: return real_parse(text, &typed->real);
  }
  return false;
}

static const char *form_words(enum setting_form form) {
  static const char *const words[] = {
      [SETTING_COUNT] = "a number, 0 or more",
      [SETTING_INTEGER] = "a 32-bit number",
      [SETTING_RATE] = "a number per duration, as 10/1s",
      [SETTING_DURATION] = "a duration, as 5m",
      [SETTING_KEEP] = "a duration, as 7d, or forever",
      [SETTING_DEAD_HEAD] = "skip or block",
      [SETTING_REAL] = "a number",
  };
  return words[form];
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
  row_set(db, queue_id, setting->name, "",
          setting->form == SETTING_REAL ? sql_real(typed.real)
                                        : sql_int(typed.integer));
  if (setting->form == SETTING_RATE)
    row_set(db, queue_id, setting->name, "_period", sql_int(typed.period));
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
      handle_fail(db, DIBS_INVALID, "%s is '%s': give %s, or none", names[i],
                  values[i], form_words(setting->form));
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

static void value_show(dibs_db *db, struct text *json, int64_t queue_id,
                       const struct setting *setting, int64_t value) {
  char duration[DURATION_SIZE];
  if (setting->form == SETTING_RATE)
    rate_show(db, json, queue_id, setting, value);
  else if (setting->form == SETTING_DEAD_HEAD)
    text_format(json, "\"%s\"", dead_heads[value == DEAD_HEAD_BLOCK]);
  else if (setting->form == SETTING_KEEP && value == DIBS_FOREVER)
    text_string(json, "\"forever\"");
  else if (setting->form == SETTING_KEEP || setting->form == SETTING_DURATION)
    text_format(json, "\"%s\"", duration_format(value, duration));
  else
    text_format(json, "%lld", (long long)value);
}

static void setting_show(dibs_db *db, struct text *json, int64_t queue_id,
                         const struct setting *setting) {
  sqlite3_stmt *row = sql_first(
      db, SQL_SETTING, SQL_ARGS(sql_int(queue_id), sql_text(setting->name)));
  if (!row) return;
  int64_t integer = sql_column_int(db, row, 0);
  double real = sql_column_real(db, row, 0);
  sql_reset(db, row);
  text_format(json, ",\"%s\":", setting->name);
  if (setting->form == SETTING_REAL)
    real_append(json, real, 15);
  else
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

static void default_take(dibs_db *db, dibs_job_options *options,
                         sqlite3_stmt *row) {
  const char *name = sql_column_text(db, row, 0);
  const struct setting *setting = setting_find(name);
  if (!setting || setting->option == NO_OPTION) return;
  char *place = (char *)options + setting->option;
  int64_t integer = sql_column_int(db, row, 1);
  double real = sql_column_real(db, row, 1);
  if (setting->form == SETTING_REAL)
    memcpy(place, &real, sizeof real);
  else
    memcpy(place, &integer, sizeof integer);
}

void defaults_read(dibs_db *db, int64_t queue_id, dibs_job_options *options) {
  dibs_job_options_init(options);
  sqlite3_stmt *row = sql_first(db, SQL_SETTINGS, SQL_ARGS(sql_int(queue_id)));
  if (!row) return;
  do default_take(db, options, row);
  while (!db->status && sql_next(db, row));
  if (db->status) sql_reset(db, row);
}

void defaults_merge(dibs_job_options *options,
                    const dibs_job_options *defaults) {
  for (size_t i = 0; i < SETTINGS; i++) {
    const struct setting *setting = &settings[i];
    if (setting->option == NO_OPTION) continue;
    /* A time of its own is a time, whatever the queue's delay. */
    if (!strcmp(setting->name, "delay") && options->at != DIBS_UNSET) continue;
    char *place = (char *)options + setting->option;
    const char *from = (const char *)defaults + setting->option;
    int64_t integer;
    double real;
    memcpy(&integer, place, sizeof integer);
    memcpy(&real, place, sizeof real);
    if (setting->form == SETTING_REAL ? isnan(real) : integer == DIBS_UNSET)
      memcpy(place, from, sizeof integer);
  }
}
