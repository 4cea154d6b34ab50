/* SPDX-License-Identifier: MIT */
/*
** job.c: jobs as they are read: lists of them, each list one allocation to the
** caller, and their form in JSON.
*/
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* -------------------------------------------------------------------- list */

struct job_list *job_list_new(dibs_db *db) {
  struct job_list *list = calloc(1, sizeof *list);
  if (!list) handle_nomem(db);
  return list;
}

static const dibs_job job_unset = {
    .attempt = 0,
    .max_attempts = DIBS_UNSET,
    .created_at = DIBS_UNSET,
    .due_at = DIBS_UNSET,
    .claimed_at = DIBS_UNSET,
    .lease_until = DIBS_UNSET,
    .finished_at = DIBS_UNSET,
    .timeout = DIBS_UNSET,
    .lease = DIBS_UNSET,
    .expires_at = DIBS_UNSET,
};

dibs_job *job_list_add(dibs_db *db, struct job_list *list) {
  if (list->list.count == list->capacity) {
    size_t capacity = list->capacity ? list->capacity * 2 : 1;
    dibs_job *jobs = realloc(list->jobs, capacity * sizeof *jobs);
    if (!jobs) {
      handle_nomem(db);
      return NULL;
    }
    list->jobs = jobs;
    list->capacity = capacity;
  }
  dibs_job *job = &list->jobs[list->list.count++];
  *job = job_unset;
  job->progress = (double)NAN;
  return job;
}

const char *job_list_copy(dibs_db *db, struct job_list *list,
                          const char *string) {
  if (!string || db->status) return NULL;
  const char *copy = arena_copy(&list->arena, string, strlen(string));
  if (!copy) handle_nomem(db);
  return copy;
}

dibs_payload job_list_payload(dibs_db *db, struct job_list *list,
                              dibs_payload payload) {
  dibs_payload copy = payload;
  if (payload.kind == DIBS_PAYLOAD_NONE || db->status)
    return (dibs_payload){.kind = DIBS_PAYLOAD_NONE};
  copy.data = arena_copy(&list->arena, payload.data, payload.size);
  if (!copy.data) handle_nomem(db);
  list->payload += payload.size;
  return copy;
}

static void list_free(struct job_list *list) {
  if (!list) return;
  arena_free(&list->arena);
  free(list->jobs);
  free(list);
}

void dibs_job_list_free(dibs_job_list *list) {
  list_free((struct job_list *)list);
}

void job_list_give(dibs_db *db, struct job_list *list, dibs_job_list **out) {
  if (db->status || !list) {
    list_free(list);
    return;
  }
  list->list.jobs = list->jobs;
  *out = &list->list;
}

/* ----------------------------------------------------------------- reading */

/* The columns of SQL_GET, in their order. */
static void row_read(dibs_db *db, struct job_list *list, sqlite3_stmt *row,
                     dibs_job *job) {
  int column = 0;
#define TEXT job_list_copy(db, list, sql_column_text(db, row, column++))
#define INT  sql_column_int(db, row, column++)
  job->id = INT;
  job->queue = TEXT;
  job->name = TEXT;
  job->state = dibs_state_number(sql_column_text(db, row, column++));
  job->outcome = (int)sql_column_count(db, row, column++);
  job->priority = INT;
  job->headers = TEXT;
  job->key = TEXT;
  job->attempt = INT;
  job->max_attempts = INT;
  job->crashes = INT;
  job->created_at = INT;
  job->due_at = INT;
  job->claimed_at = INT;
  job->lease_until = INT;
  job->finished_at = INT;
  job->worker = TEXT;
  job->last_error = TEXT;
  job->progress = sql_column_real(db, row, column++);
  job->progress_text = TEXT;
  job->result = TEXT;
  job->timeout = INT;
  job->lease = INT;
  job->expires_at = INT;
#undef TEXT
#undef INT
}

bool job_list_read(dibs_db *db, struct job_list *list, int64_t id,
                   bool payload) {
  sqlite3_stmt *row = sql_first(db, SQL_GET, SQL_ARGS(sql_int(id)));
  if (!row) return false;
  dibs_job *job = job_list_add(db, list);
  if (job) row_read(db, list, row, job);
  sql_reset(db, row);
  if (!job || !payload) return job != NULL;
  row = sql_first(db, SQL_PAYLOAD_GET, SQL_ARGS(sql_int(id)));
  if (!row) return false;
  job->payload = job_list_payload(db, list, sql_column_payload(db, row, 0));
  sql_reset(db, row);
  return !db->status;
}

/* -------------------------------------------------------------------- JSON */

static void member_name(struct text *text, const char *name) {
  text_string(text, text->size > 1 ? ",\"" : "\"");
  text_string(text, name);
  text_string(text, "\":");
}

static void member_int(struct text *text, const char *name, int64_t value) {
  if (value == DIBS_UNSET) return;
  member_name(text, name);
  text_format(text, "%lld", (long long)value);
}

static void member_text(struct text *text, const char *name,
                        const char *value) {
  if (!value) return;
  member_name(text, name);
  json_quote(text, value, strlen(value));
}

static void member_json(struct text *text, const char *name, const char *value,
                        size_t size) {
  if (!value) return;
  member_name(text, name);
  json_minify(text, value, size);
}

static void member_time(struct text *text, const char *name, int64_t value) {
  char time[DIBS_TIME_SIZE];
  if (value != DIBS_UNSET)
    member_text(text, name, dibs_format_time(value, time));
}

static void member_payload(struct text *text, const dibs_payload *payload) {
  if (payload->kind == DIBS_PAYLOAD_JSON)
    member_json(text, "payload", payload->data, payload->size);
  if (payload->kind != DIBS_PAYLOAD_BYTES) return;
  member_name(text, "payload_base64");
  text_string(text, "\"");
  base64_append(text, payload->data, payload->size);
  text_string(text, "\"");
}

static void member_progress(struct text *text, const dibs_job *job) {
  if (isnan(job->progress)) return;
  member_name(text, "progress");
  text_string(text, "{\"done\":");
  real_append(text, job->progress, 15);
  if (job->progress_text) {
    text_string(text, ",\"text\":");
    json_quote(text, job->progress_text, strlen(job->progress_text));
  }
  text_string(text, "}");
}

static void error_json(struct text *text, const dibs_job_error *error) {
  struct text object = {.data = NULL};
  text_string(&object, "{");
  member_int(&object, "attempt", error->attempt);
  member_time(&object, "at", error->at);
  member_text(&object, "worker", error->worker);
  member_int(&object, "ms", error->ms);
  member_text(&object, "text", error->text);
  text_string(&object, "}");
  if (object.failed)
    text->failed = true;
  else
    text_append(text, object.data, object.size);
  text_free(&object);
}

static void member_errors(struct text *text, const dibs_job *job) {
  if (!job->errors) return;
  member_name(text, "errors");
  for (size_t i = 0; i < job->error_count; i++) {
    text_string(text, i ? "," : "[");
    error_json(text, &job->errors[i]);
  }
  text_string(text, job->error_count ? "]" : "[]");
}

static void job_write(struct text *text, const dibs_job *job) {
  text_string(text, "{");
  member_int(text, "id", job->id);
  member_text(text, "queue", job->queue);
  member_text(text, "name", job->name);
  member_text(text, "state", dibs_state_name(job->state));
  member_text(text, "outcome", dibs_outcome_name(job->outcome));
  member_int(text, "priority", job->priority);
  member_payload(text, &job->payload);
  if (job->headers)
    member_json(text, "headers", job->headers, strlen(job->headers));
  member_text(text, "key", job->key);
  member_int(text, "attempt", job->attempt);
  member_int(text, "max_attempts", job->max_attempts);
  member_int(text, "crashes", job->crashes);
  member_time(text, "created_at", job->created_at);
  member_time(text, "due_at", job->due_at);
  member_time(text, "claimed_at", job->claimed_at);
  member_time(text, "lease_until", job->lease_until);
  member_time(text, "finished_at", job->finished_at);
  member_text(text, "worker", job->worker);
  member_text(text, "receipt", job->receipt);
  member_text(text, "last_error", job->last_error);
  member_progress(text, job);
  if (job->result)
    member_json(text, "result", job->result, strlen(job->result));
  member_errors(text, job);
  text_string(text, "}");
}

int dibs_job_json(const dibs_job *job, char **json) {
  struct text text = {.data = NULL};
  if (!json) return DIBS_MISUSE;
  *json = NULL;
  if (!job) return DIBS_MISUSE;
  job_write(&text, job);
  if (text.failed) {
    text_free(&text);
    return DIBS_NOMEM;
  }
  *json = text.data;
  return DIBS_OK;
}
