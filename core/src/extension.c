/* SPDX-License-Identifier: MIT */
/*
** extension.c: the operations as SQL functions, and dibs_claim() as a table.
**
** Registering them is all that a connection pays: what dibs needs to know of it
** (attach.c) is made by the first function that is called. Each function is an
** operation of the core on the host's connection, with its values turned into
** the core's and its status into an error whose text begins with the status.
** What is several transactions to the core is one here: a function happens whole
** or not at all.
**
** A function gets from SQLite a context and nothing else, and can ask that for
** its own data only by the table of the very library that calls it. So each
** library has a C function of its own, which knows the table; there are
** PROVIDERS of them.
**
** A statement of the host's that reads, outside of a transaction, holds a
** snapshot. When another process commits meanwhile, or is about to, SQLite lets
** nobody write from that snapshot, and does not wait. Every SELECT from
** dibs_claim() is such a statement. As it is no part of a transaction of the
** host's, the operation is then done by a spare connection of our own, which
** waits for as long as the host's would. Only in a file in WAL mode: elsewhere the
** host's statement would block it; and only with the library's usual VFS, for
** another one may see another file.
*/
#include "internal.h"

#include <sqlite3ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROVIDERS 8 /* SQLite libraries in a process */

/* Newer than the headers; older libraries ignore it. */
#define FUNCTION_RESULT_SUBTYPE 0x001000000
#define SUBTYPE_JSON            'J'

struct extension;
struct call;

typedef void call_body(struct call *call);

/* An SQL function. */
struct function {
  const char *name;
  int least, most; /* arguments */
  int flags;       /* besides SQLITE_UTF8 */
  call_body *run;
};

/* It in a connection: what SQLite keeps for us. */
struct bound {
  struct extension *extension;
  const struct function *function;
};

/* A call under way: of a function, or of dibs_claim(). */
struct call {
  const struct sqlite3_api_routines *api;
  struct extension *extension;
  sqlite3_context *context; /* NULL: dibs_claim() */
  sqlite3_value **values;
  int count;
  dibs_db *db; /* on which it is done */
  struct arena arena;
  dibs_job_list **jobs; /* what dibs_claim() gave */
  int status;
  char message[640];
};

/* ------------------------------------------------------------------- errors */

static void call_fail(struct call *call, int status, const char *format, ...)
    DIBS_PRINTF(3, 4);

static void call_fail(struct call *call, int status, const char *format, ...) {
  va_list arguments;
  if (call->status) return;
  va_start(arguments, format);
  message_format(call->message, sizeof call->message, format, arguments);
  va_end(arguments);
  call->status = status;
}

/* What the handle cannot say itself: it was not entered. */
static const char *status_text(int status) {
  switch (status) {
  case DIBS_FORKED:
    return "this connection was opened before a fork: open another one here";
  case DIBS_CLOSED: return "this connection is closed";
  case DIBS_NOMEM: return dibs_error(NULL);
  default:
    return "a function of dibs was called while another one is at work, by a "
           "trigger on its tables or by an authorizer: call it elsewhere";
  }
}

/* The outcome of an operation on the handle. */
static void call_take(struct call *call, int status) {
  const char *text = dibs_error(call->db);
  bool entered = status != DIBS_FORKED && status != DIBS_CLOSED && *text;
  if (status)
    call_fail(call, status, "%s", entered ? text : status_text(status));
}

/* The SQLite code for a status. A full disk, an I/O error, a lack of memory and
** damage are plain errors: for their own codes SQLite rolls back the host's whole
** transaction, or lets nobody commit it, though what concerns us is rolled back
** already. */
static int status_code(int status) {
  switch (status) {
  case DIBS_BUSY: return SQLITE_BUSY;
  case DIBS_SNAPSHOT: return SQLITE_BUSY_SNAPSHOT;
  case DIBS_READONLY: return SQLITE_READONLY;
  case DIBS_INTERRUPTED: return SQLITE_INTERRUPT;
  default: return SQLITE_ERROR;
  }
}

/* "DIBS_LOST: ..." */
static void call_text(const struct call *call, struct text *text) {
  text_string(text, dibs_status_name(call->status));
  text_string(text, ": ");
  text_string(text, call->message);
}

/* ---------------------------------------------------------------- arguments */

static int argument_type(const struct call *call, int at) {
  SQLITE_LIBRARY(call);
  if (at >= call->count) return SQLITE_NULL;
  return sqlite3_value_type(call->values[at]);
}

/* Text or a BLOB. The text is asked for before its size, which that may change. */
static struct json_slice argument_bytes(struct call *call, int at) {
  SQLITE_LIBRARY(call);
  struct json_slice slice = {"", 0};
  sqlite3_value *value = call->values[at];
  const char *data = sqlite3_value_type(value) == SQLITE_BLOB
                         ? sqlite3_value_blob(value)
                         : (const char *)sqlite3_value_text(value);
  slice.size = (size_t)sqlite3_value_bytes(value);
  if (data)
    slice.data = data;
  else if (slice.size || sqlite3_value_type(value) != SQLITE_BLOB)
    call_fail(call, DIBS_NOMEM, "%s", status_text(DIBS_NOMEM));
  return slice;
}

static const char *type_name(int type) {
  switch (type) {
  case SQLITE_NULL: return "NULL";
  case SQLITE_TEXT: return "text";
  case SQLITE_BLOB: return "a BLOB";
  default: return "a number";
  }
}

/* A string; NULL when it is absent or NULL. */
static const char *argument_text(struct call *call, int at, const char *what) {
  int type = argument_type(call, at);
  if (type == SQLITE_NULL || call->status) return NULL;
  if (type != SQLITE_TEXT) {
    call_fail(call, DIBS_INVALID, "%s is %s: give text", what, type_name(type));
    return NULL;
  }
  struct json_slice text = argument_bytes(call, at);
  if (memchr(text.data, 0, text.size))
    call_fail(call, DIBS_INVALID, "%s has a NUL in it", what);
  return text.data;
}

static dibs_payload argument_payload(struct call *call, int at) {
  int type = argument_type(call, at);
  if (type == SQLITE_NULL || call->status) return dibs_none();
  if (type != SQLITE_TEXT && type != SQLITE_BLOB) {
    call_fail(call, DIBS_INVALID,
              "payload is a number: give JSON text, a BLOB or NULL; json(5) is "
              "the number as JSON");
    return dibs_none();
  }
  struct json_slice bytes = argument_bytes(call, at);
  return type == SQLITE_BLOB ? dibs_bytes(bytes.data, bytes.size)
                             : dibs_json_sized(bytes.data, bytes.size);
}

/* JSON text; false when it is absent or NULL. */
static bool argument_json(struct call *call, int at, const char *what,
                          struct json_slice *json) {
  int type = argument_type(call, at);
  if (type == SQLITE_NULL || call->status) return false;
  if (type == SQLITE_TEXT)
    *json = argument_bytes(call, at);
  else
    call_fail(call, DIBS_INVALID, "%s is %s: give JSON text", what,
              type_name(type));
  return !call->status;
}

/* "5m", or a number of seconds. */
static int64_t argument_duration(struct call *call, int at, const char *what) {
  SQLITE_LIBRARY(call);
  int64_t milliseconds = 0;
  int type = argument_type(call, at);
  double seconds = sqlite3_value_double(call->values[at]);
  if (type == SQLITE_TEXT) {
    const char *text = argument_text(call, at, what);
    if (!call->status && !dibs_parse_duration(text, &milliseconds))
      return milliseconds;
  } else if ((type == SQLITE_INTEGER || type == SQLITE_FLOAT) && seconds >= 0 &&
             seconds * 1000 <= (double)TIME_MAX) {
    return (int64_t)(seconds * 1000 + 0.5);
  }
  call_fail(call, DIBS_INVALID,
            "%s is no duration: give text such as '5m', or seconds, 0 or more",
            what);
  return 0;
}

static double argument_fraction(struct call *call, int at) {
  SQLITE_LIBRARY(call);
  int type = argument_type(call, at);
  if (type != SQLITE_INTEGER && type != SQLITE_FLOAT)
    call_fail(call, DIBS_INVALID, "done is %s: give a number from 0 to 1",
              type_name(type));
  return sqlite3_value_double(call->values[at]);
}

static int64_t argument_id(struct call *call, int at) {
  SQLITE_LIBRARY(call);
  int type = argument_type(call, at);
  if (type == SQLITE_INTEGER) return sqlite3_value_int64(call->values[at]);
  call_fail(call, DIBS_INVALID, "id is %s: give the integer of a job",
            type_name(type));
  return 0;
}

/* Begin to read an argument of options, if there is one, by a function of
** options.c. */
static bool options_begin(struct call *call, int at, const char *what,
                          struct json_slice *json) {
  int status;
  if (!argument_json(call, at, what, json)) return false;
  if (handle_enter(call->db, &status)) return true;
  call_take(call, status);
  return false;
}

static void options_end(struct call *call) {
  call_take(call, handle_leave(call->db));
}

/* Options of a job; NULL when there are none. */
static const dibs_job_options *argument_job_options(struct call *call, int at,
                                                    dibs_job_options *options) {
  struct json_slice json = {"", 0};
  if (!options_begin(call, at, "options", &json)) return NULL;
  options_read_job(call->db, &call->arena, json, options);
  options_end(call);
  return options;
}

/* ------------------------------------------------------------------ results */

static void result_int(struct call *call, int64_t value) {
  SQLITE_LIBRARY(call);
  if (!call->status) sqlite3_result_int64(call->context, value);
}

/* JSON, which is freed. */
static void result_json(struct call *call, struct text *text) {
  SQLITE_LIBRARY(call);
  if (text->failed) call_fail(call, DIBS_NOMEM, "%s", status_text(DIBS_NOMEM));
  if (!call->status) {
    sqlite3_result_text64(call->context, text->data, text->size,
                          SQLITE_TRANSIENT, SQLITE_UTF8);
    sqlite3_result_subtype(call->context, SUBTYPE_JSON);
  }
  text_free(text);
}

/* ------------------------------------------------------------------ enqueue */

static void enqueue_call(struct call *call) {
  dibs_job_options options;
  dibs_enqueued result = {.id = 0};
  dibs_new_job job = {
      .queue = argument_text(call, 0, "queue"),
      .payload = argument_payload(call, 1),
      .options = argument_job_options(call, 2, &options),
  };
  if (!call->status)
    call_take(call, dibs_enqueue_many(call->db, &job, 1, &result));
  result_int(call, result.id);
}

/* The elements of the array as jobs; NULL when it is none, or empty. */
static dibs_new_job *elements_read(struct call *call, struct json_slice array,
                                   size_t *count) {
  struct json_slice value;
  struct json_walk walk = {array.data, array.data + array.size};
  *count = 0;
  if (json_kind(array.data, array.size) != '[' ||
      !json_valid(array.data, array.size)) {
    call_fail(
        call, DIBS_INVALID,
        "the payloads are not a JSON array such as '[1,{\"to\":\"ann\"}]'");
    return NULL;
  }
  size_t all = 0;
  while (json_next_element(&walk, &value)) all++;
  if (!all) return NULL;
  dibs_new_job *jobs = arena_take(&call->arena, all * sizeof *jobs);
  if (!jobs) {
    call_fail(call, DIBS_NOMEM, "%s", status_text(DIBS_NOMEM));
    return NULL;
  }
  walk.at = array.data;
  while (*count < all && json_next_element(&walk, &value))
    jobs[(*count)++] =
        (dibs_new_job){.payload = dibs_json_sized(value.data, value.size)};
  return jobs;
}

static void ids_result(struct call *call, const dibs_enqueued *results,
                       size_t count) {
  struct text text = {.data = NULL};
  text_string(&text, "[");
  for (size_t i = 0; i < count; i++)
    text_format(&text, i ? ",%lld" : "%lld", (long long)results[i].id);
  text_string(&text, "]");
  result_json(call, &text);
}

static void enqueue_many_call(struct call *call) {
  size_t count = 0;
  dibs_job_options read;
  struct json_slice array = {"", 0};
  const char *queue = argument_text(call, 0, "queue");
  if (!argument_json(call, 1, "payloads", &array))
    call_fail(call, DIBS_INVALID, "there are no payloads: give a JSON array");
  const dibs_job_options *options = argument_job_options(call, 2, &read);
  if (call->status) return;
  dibs_new_job *jobs = elements_read(call, array, &count);
  dibs_enqueued *results =
      arena_take(&call->arena, count * sizeof *results + 1);
  for (size_t i = 0; i < count; i++) {
    jobs[i].queue = queue;
    jobs[i].options = options;
  }
  if (!results) call_fail(call, DIBS_NOMEM, "%s", status_text(DIBS_NOMEM));
  if (!call->status)
    call_take(call, dibs_enqueue_many(call->db, jobs, count, results));
  if (!call->status) ids_result(call, results, count);
}

/* ------------------------------------------------------------------- settle */

static void settle(struct call *call, dibs_settlement *settlement) {
  settlement->receipt = argument_text(call, 0, "receipt");
  if (!call->status) call_take(call, dibs_settle(call->db, settlement, 1));
  if (!call->status && settlement->status)
    call_fail(call, settlement->status, "%s", settlement->message);
  result_int(call, 1);
}

static void ack_call(struct call *call) {
  struct json_slice json = {NULL, 0};
  dibs_settlement settlement = {.action = DIBS_ACK};
  if (argument_json(call, 1, "result", &json))
    settlement.result = dibs_json_sized(json.data, json.size);
  settle(call, &settlement);
}

static void retry_call(struct call *call) {
  struct json_slice json = {"", 0};
  struct retry_words words = {.delay = DIBS_UNSET};
  if (options_begin(call, 1, "options", &json)) {
    options_read_retry(call->db, &call->arena, json, &words);
    options_end(call);
  }
  dibs_settlement settlement = {
      .action = DIBS_RETRY, .delay = words.delay, .error = words.error};
  settle(call, &settlement);
}

static void fail_call(struct call *call) {
  dibs_settlement settlement = {.action = DIBS_FAIL,
                                .error = argument_text(call, 1, "error")};
  settle(call, &settlement);
}

static void release_call(struct call *call) {
  dibs_settlement settlement = {.action = DIBS_RELEASE};
  settle(call, &settlement);
}

static void extend_call(struct call *call) {
  dibs_settlement settlement = {.action = DIBS_EXTEND,
                                .lease = argument_duration(call, 1, "lease")};
  settle(call, &settlement);
}

static void snooze_call(struct call *call) {
  dibs_settlement settlement = {.action = DIBS_SNOOZE,
                                .delay = argument_duration(call, 1, "delay")};
  settle(call, &settlement);
}

static void discard_call(struct call *call) {
  dibs_settlement settlement = {.action = DIBS_DISCARD,
                                .error = argument_text(call, 1, "error")};
  settle(call, &settlement);
}

/* The lease stays as it is: dibs_extend() is for that. */
static void checkpoint_call(struct call *call) {
  const char *receipt = argument_text(call, 0, "receipt");
  dibs_payload payload = argument_payload(call, 1);
  if (!call->status)
    call_take(call, dibs_checkpoint(call->db, receipt, payload, DIBS_UNSET));
  result_int(call, 1);
}

static void progress_call(struct call *call) {
  const char *receipt = argument_text(call, 0, "receipt");
  double done = argument_fraction(call, 1);
  const char *text = argument_text(call, 2, "text");
  if (!call->status)
    call_take(call, dibs_progress(call->db, receipt, done, text));
  result_int(call, 1);
}

/* ------------------------------------------------------------------- staged */

static void commit_call(struct call *call) {
  int64_t id = argument_id(call, 0);
  if (!call->status) call_take(call, dibs_commit(call->db, id));
  result_int(call, 1);
}

static void abort_call(struct call *call) {
  int64_t id = argument_id(call, 0);
  if (!call->status) call_take(call, dibs_abort(call->db, id));
  result_int(call, 1);
}

/* ------------------------------------------------------------------- change */

static void change_call(struct call *call) {
  struct json_slice json = {"", 0};
  dibs_change_options options = DIBS_CHANGE_OPTIONS_INIT;
  int64_t id = argument_id(call, 0);
  if (options_begin(call, 1, "options", &json)) {
    options_read_change(call->db, &call->arena, json, &options);
    options_end(call);
  }
  if (options.priority == DIBS_UNSET && options.delay == DIBS_UNSET &&
      options.at == DIBS_UNSET && options.stage == DIBS_UNSET)
    call_fail(call, DIBS_INVALID,
              "there is nothing to change: give priority, delay, at or stage");
  if (!call->status) call_take(call, dibs_change(call->db, id, &options));
  result_int(call, 1);
}

/* An operation on one id gives how many jobs it concerned: none that is not
** there. */
static void id_result(struct call *call, int status, int64_t done,
                      const dibs_id_outcome *outcome) {
  call_take(call, status);
  if (!call->status && outcome->status && outcome->status != DIBS_NOT_FOUND)
    call_fail(call, outcome->status, "%s", outcome->message);
  result_int(call, done);
}

static void cancel_call(struct call *call) {
  int64_t id = argument_id(call, 0), done = 0;
  dibs_id_outcome outcome = {.status = DIBS_OK};
  if (call->status) return;
  int status = dibs_cancel(call->db, &id, 1, &outcome, &done);
  id_result(call, status, done, &outcome);
}

static void requeue_call(struct call *call) {
  int64_t id = argument_id(call, 0), done = 0;
  dibs_id_outcome outcome = {.status = DIBS_OK};
  if (call->status) return;
  int status = dibs_requeue(call->db, &id, 1, &outcome, &done);
  id_result(call, status, done, &outcome);
}

/* The queue of what destroys or moves: it must be said. */
static const char *argument_queue(struct call *call, int at) {
  const char *queue = argument_text(call, at, "queue");
  if (!queue)
    call_fail(call, DIBS_INVALID,
              "no queue is given: name one, or '*' for all");
  return queue;
}

static const char *argument_one_queue(struct call *call, int at) {
  const char *queue = argument_text(call, at, "queue");
  if (!queue) call_fail(call, DIBS_INVALID, "no queue is given: name one");
  return queue;
}

/* An operation that goes in steps, as one. */
typedef void whole_body(struct call *call, const char *queue, int64_t *count);

static void whole(struct call *call, const char *queue, whole_body *body) {
  int64_t count = 0;
  if (!call->status) call_take(call, sql_whole_begin(call->db));
  if (call->status) return;
  body(call, queue, &count);
  call_take(call, sql_whole_end(call->db, !call->status));
  result_int(call, count);
}

static void redrive_whole(struct call *call, const char *queue,
                          int64_t *count) {
  call_take(call, dibs_redrive(call->db, &queue, 1, count, NULL, NULL));
}

static void clear_whole(struct call *call, const char *queue, int64_t *count) {
  call_take(call, dibs_clear(call->db, &queue, 1, 0, count));
}

static void purge_whole(struct call *call, const char *queue, int64_t *count) {
  call_take(call, dibs_purge(call->db, &queue, 1, count));
}

static void prune_whole(struct call *call, const char *queue, int64_t *count) {
  (void)queue;
  call_take(call, dibs_prune(call->db, count));
}

static void redrive_call(struct call *call) {
  whole(call, argument_queue(call, 0), redrive_whole);
}

static void clear_call(struct call *call) {
  whole(call, argument_queue(call, 0), clear_whole);
}

static void purge_call(struct call *call) {
  whole(call, argument_queue(call, 0), purge_whole);
}

static void prune_call(struct call *call) {
  whole(call, NULL, prune_whole);
}

static void pause_call(struct call *call) {
  int64_t count = 0;
  const char *queue = argument_queue(call, 0);
  if (!call->status) call_take(call, dibs_pause(call->db, &queue, 1, &count));
  result_int(call, count);
}

static void resume_call(struct call *call) {
  int64_t count = 0;
  const char *queue = argument_queue(call, 0);
  if (!call->status) call_take(call, dibs_resume(call->db, &queue, 1, &count));
  result_int(call, count);
}

/* ------------------------------------------------------------------ settings */

static void queue_set_call(struct call *call) {
  struct json_slice json = {"", 0};
  struct setting_words words = {.count = 0};
  const char *queue = argument_one_queue(call, 0);
  if (options_begin(call, 1, "settings", &json)) {
    options_read_settings(call->db, &call->arena, json, &words);
    options_end(call);
  } else {
    call_fail(call, DIBS_INVALID,
              "there are no settings: give a JSON object such as "
              "{\"limit\":5}");
  }
  if (!call->status)
    call_take(call, dibs_queue_set(call->db, queue, words.names, words.values,
                                   words.count));
  result_int(call, 1);
}

static void queue_show_call(struct call *call) {
  char *json = NULL;
  struct text text = {.data = NULL};
  const char *queue = argument_one_queue(call, 0);
  if (!call->status) call_take(call, dibs_queue_show(call->db, queue, &json));
  if (call->status) return;
  text_string(&text, json);
  dibs_free(json);
  result_json(call, &text);
}

/* --------------------------------------------------------------------- look */

/* A member behind others. */
static void number_write(struct text *text, const char *name, int64_t value) {
  if (value != DIBS_UNSET)
    text_format(text, ",\"%s\":%lld", name, (long long)value);
}

static void stats_write(struct text *text, const dibs_queue_stats *stats) {
  text_string(text, "{\"queue\":");
  json_quote(text, stats->queue, strlen(stats->queue));
  number_write(text, "ready", stats->ready);
  number_write(text, "scheduled", stats->scheduled);
  number_write(text, "blocked", stats->blocked);
  number_write(text, "staged", stats->staged);
  number_write(text, "running", stats->running);
  number_write(text, "done", stats->done);
  number_write(text, "dead", stats->dead);
  number_write(text, "oldest_ready_at", stats->oldest_ready_at);
  text_string(text, stats->paused ? ",\"paused\":true" : ",\"paused\":false");
  number_write(text, "expired", stats->expired);
  text_string(text, "}");
}

static void stats_call(struct call *call) {
  dibs_stats_list *list = NULL;
  struct text text = {.data = NULL};
  call_take(call, dibs_stats(call->db, NULL, 0, &list));
  if (call->status) return;
  text_string(&text, "[");
  for (size_t i = 0; i < list->count; i++) {
    if (i) text_string(&text, ",");
    stats_write(&text, &list->queues[i]);
  }
  text_string(&text, "]");
  dibs_stats_list_free(list);
  result_json(call, &text);
}

static void reason_write(struct text *text, const dibs_reason *reason) {
  text_string(text, "{\"reason\":");
  json_quote(text, reason->reason, strlen(reason->reason));
  text_string(text, ",\"text\":");
  json_quote(text, reason->text, strlen(reason->text));
  number_write(text, "at", reason->at);
  if (reason->id) number_write(text, "id", reason->id);
  text_string(text, "}");
}

/* The list, which is freed. */
static void reasons_result(struct call *call, dibs_reason_list *list) {
  struct text text = {.data = NULL};
  if (call->status) return;
  text_string(&text, "[");
  for (size_t i = 0; i < list->count; i++) {
    if (i) text_string(&text, ",");
    reason_write(&text, &list->reasons[i]);
  }
  text_string(&text, "]");
  dibs_reason_list_free(list);
  result_json(call, &text);
}

static void explain_call(struct call *call) {
  dibs_reason_list *list = NULL;
  int64_t id = argument_id(call, 0);
  if (!call->status) call_take(call, dibs_explain(call->db, id, &list));
  reasons_result(call, list);
}

static void explain_queue_call(struct call *call) {
  dibs_reason_list *list = NULL;
  const char *queue = argument_one_queue(call, 0);
  if (!call->status)
    call_take(call, dibs_explain_queue(call->db, queue, &list));
  reasons_result(call, list);
}

/* Of this program, and of the SQLite that it runs in; no file is looked at. */
static void version_call(struct call *call) {
  SQLITE_LIBRARY(call);
  struct text text = {.data = NULL};
  text_format(&text, "{\"dibs\":\"%s\",\"schema\":%d,\"sqlite\":\"%.40s\"}",
              DIBS_VERSION, DIBS_SCHEMA_VERSION, sqlite3_libversion());
  result_json(call, &text);
}

/* ------------------------------------------------------------- the extension */

/* It in a connection, as long as one of its functions is there. */
struct extension {
  const struct sqlite3_api_routines *api;
  const dibs_provider *provider;
  sqlite3 *sqlite;
  pid_t pid;            /* who opened the connection */
  int references;       /* functions, the table, whoever registers them */
  dibs_db *db;          /* the connection's; NULL before the first call */
  sqlite3 *own;         /* the spare connection; NULL: not needed yet */
  dibs_db *spare;       /* its handle */
  struct bound bound[]; /* as many as there are functions */
};

static void extension_release(struct extension *extension) {
  if (--extension->references) return;
  dibs_close(extension->spare);
  dibs_close(extension->db);
  free(extension);
}

static void bound_release(void *data) {
  struct bound *bound = data;
  extension_release(bound->extension);
}

static void module_release(void *data) {
  extension_release(data);
}

/* The connection's handle. A forked child must not use its parent's connection. */
static void call_attach(struct call *call) {
  struct extension *extension = call->extension;
  int status = DIBS_OK;
  if (extension->pid != getpid())
    status = DIBS_FORKED;
  else if (!extension->db)
    status =
        attached_get(extension->provider, extension->sqlite, &extension->db);
  if (status)
    call_fail(call, status, "%s", status_text(status));
  else
    call->db = extension->db;
}

static bool slice_is(struct json_slice slice, const char *text) {
  return slice.size == strlen(text) && !memcmp(slice.data, text, slice.size);
}

/* By hand: what reads options otherwise wants the tables that are to be made. */
static void init_options_read(struct call *call, dibs_open_options *options) {
  struct json_slice json = {"", 0}, key, value;
  if (!argument_json(call, 0, "options", &json)) return;
  struct json_walk walk = {json.data, json.data + json.size};
  if (json_kind(json.data, json.size) != '{' ||
      !json_valid(json.data, json.size))
    call_fail(call, DIBS_INVALID,
              "options must be a JSON object such as {\"two_libraries\":true}");
  while (!call->status && json_next(&walk, &key, &value)) {
    options->two_libraries = slice_is(value, "true");
    if (!slice_is(key, "two_libraries"))
      call_fail(call, DIBS_INVALID, "there is no option '%.*s' of dibs_init()",
                (int)key.size, key.data);
    else if (!options->two_libraries && !slice_is(value, "false"))
      call_fail(call, DIBS_INVALID, "two_libraries is %.*s: give true or false",
                (int)value.size, value.data);
  }
}

static void init_call(struct call *call) {
  dibs_db *db = NULL;
  dibs_open_options options = DIBS_OPEN_OPTIONS_INIT;
  const struct extension *extension = call->extension;
  init_options_read(call, &options);
  if (call->status) return;
  int status =
      dibs_attach(extension->sqlite, extension->provider, &options, &db);
  call_take(call, status);
  result_int(call, dibs_schema_version(db));
  dibs_close(db);
}

/* --------------------------------------------------------- spare connection */

/* The first column of a statement's only row. */
static bool host_ask(const struct call *call, const char *sql, char *answer,
                     size_t room) {
  SQLITE_LIBRARY(call);
  sqlite3_stmt *statement = NULL;
  const char *text = NULL;
  if (!sqlite3_prepare_v2(call->extension->sqlite, sql, -1, &statement, NULL) &&
      sqlite3_step(statement) == SQLITE_ROW)
    text = (const char *)sqlite3_column_text(statement, 0);
  bool good = text && strlen(text) < room;
  if (good) strcpy(answer, text);
  sqlite3_finalize(statement);
  return good;
}

/* Whether the host's file is opened in the usual way. */
static bool vfs_is_usual(const struct call *call) {
  SQLITE_LIBRARY(call);
  char *name = NULL;
  const sqlite3_vfs *usual = sqlite3_vfs_find(NULL);
  sqlite3_file_control(call->extension->sqlite, "main", SQLITE_FCNTL_VFSNAME,
                       &name);
  bool same = name && usual && !strcmp(name, usual->zName);
  sqlite3_free(name);
  return same;
}

/* Whether the failure is due to a statement of the host's that reads, no part of
** a transaction of its. */
static bool spare_helps(const struct call *call) {
  SQLITE_LIBRARY(call);
  char mode[16];
  sqlite3 *sqlite = call->extension->sqlite;
  return call->status == DIBS_SNAPSHOT && sqlite3_get_autocommit(sqlite) &&
         sqlite3_txn_state(sqlite, NULL) == SQLITE_TXN_READ &&
         !call->db->in_memory && vfs_is_usual(call) &&
         host_ask(call, "PRAGMA main.journal_mode", mode, sizeof mode) &&
         !strcmp(mode, "wal");
}

static void spare_open(struct call *call) {
  char synchronous[8];
  struct extension *extension = call->extension;
  dibs_open_options options = DIBS_OPEN_OPTIONS_INIT;
  if (extension->spare) return;
  if (host_ask(call, "PRAGMA main.synchronous", synchronous,
               sizeof synchronous) &&
      *synchronous < '2') /* 2 is FULL */
    options.synchronous = DIBS_SYNCHRONOUS_NORMAL;
  options.create = DIBS_CREATE_NONE;
  options.keep_journal_mode = 1;
  options.provider = extension->provider;
  options.two_libraries = 1; /* looked at no more than the host's connection */
  if (!dibs_open(call->db->path, &options, &extension->spare)) return;
  dibs_close(extension->spare);
  extension->spare = NULL;
}

/* It does as the host's connection does. NULL when it cannot be had. */
static dibs_db *spare_get(struct call *call) {
  char timeout[24] = "0";
  spare_open(call);
  dibs_db *spare = call->extension->spare;
  if (!spare) return NULL;
  host_ask(call, "PRAGMA busy_timeout", timeout, sizeof timeout);
  spare->busy_timeout = strtoll(timeout, NULL, 10);
  spare->max_payload = call->db->max_payload;
  spare->clock = call->db->clock;
  spare->clock_context = call->db->clock_context;
  spare->log = call->db->log;
  spare->log_context = call->db->log_context;
  return spare;
}

/* Do it on the host's connection, or, where that cannot write, on the spare. */
static void call_run(struct call *call, call_body *run) {
  run(call);
  if (!spare_helps(call)) return;
  dibs_db *spare = spare_get(call);
  if (!spare) return;
  call->db = spare;
  call->status = DIBS_OK;
  run(call);
}

/* ------------------------------------------------------------- dibs_claim() */

/* Columns. */
enum column {
  COLUMN_ID,
  COLUMN_RECEIPT,
  COLUMN_QUEUE,
  COLUMN_NAME,
  COLUMN_PAYLOAD,
  COLUMN_HEADERS,
  COLUMN_ATTEMPT,
  COLUMN_MAX_ATTEMPTS,
  COLUMN_CREATED_AT,
  COLUMN_DUE_AT,
  COLUMN_LEASE_UNTIL,
  COLUMN_WANTED, /* hidden: the arguments */
  COLUMN_OPTIONS
};

#define CLAIM_TABLE                                                            \
  "CREATE TABLE dibs_claim(id INTEGER, receipt TEXT, queue TEXT, name TEXT,"   \
  " payload, headers TEXT, attempt INTEGER, max_attempts INTEGER,"             \
  " created_at INTEGER, due_at INTEGER, lease_until INTEGER,"                  \
  " wanted HIDDEN, options HIDDEN)"

struct claim_table {
  sqlite3_vtab base;
  struct extension *extension;
};

struct claim_cursor {
  sqlite3_vtab_cursor base;
  dibs_job_list *jobs; /* NULL: none */
  size_t at;
};

static int claim_connect(sqlite3 *sqlite, void *context, int count,
                         const char *const *arguments, sqlite3_vtab **out,
                         char **message) {
  struct extension *extension = context;
  SQLITE_LIBRARY(extension);
  (void)count;
  (void)arguments;
  (void)message;
  int code = sqlite3_declare_vtab(sqlite, CLAIM_TABLE);
  if (code) return code;
  sqlite3_vtab_config(sqlite, SQLITE_VTAB_DIRECTONLY);
  struct claim_table *table = calloc(1, sizeof *table);
  if (!table) return SQLITE_NOMEM;
  table->extension = extension;
  *out = &table->base;
  return SQLITE_OK;
}

static int claim_disconnect(sqlite3_vtab *base) {
  free(base);
  return SQLITE_OK;
}

#define PLAN_WANTED  1 /* idxNum: which arguments there are */
#define PLAN_OPTIONS 2

/* Dear, so that it is the outermost loop of a join, whose other tables are no
** reason to claim again. A plan that has no use for an argument is none: it would
** claim something else. Without any there is a plan only to say what is
** missing. */
static int claim_best_index(sqlite3_vtab *base, sqlite3_index_info *info) {
  int places[2] = {-1, -1};
  (void)base;
  for (int i = 0; i < info->nConstraint; i++) {
    const struct sqlite3_index_constraint *constraint = &info->aConstraint[i];
    if (constraint->iColumn < COLUMN_WANTED ||
        constraint->op != SQLITE_INDEX_CONSTRAINT_EQ)
      continue;
    if (!constraint->usable) return SQLITE_CONSTRAINT;
    places[constraint->iColumn - COLUMN_WANTED] = i;
  }
  int count = 0;
  info->idxNum = 0;
  for (int i = 0; i < 2; i++) {
    if (places[i] < 0) continue;
    info->aConstraintUsage[places[i]].argvIndex = ++count;
    info->aConstraintUsage[places[i]].omit = 1;
    info->idxNum |= i ? PLAN_OPTIONS : PLAN_WANTED;
  }
  info->estimatedRows = 10;
  info->estimatedCost = info->idxNum & PLAN_WANTED ? 1e12 : 1e90;
  return SQLITE_OK;
}

static int claim_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out) {
  struct claim_cursor *cursor = calloc(1, sizeof *cursor);
  (void)base;
  *out = cursor ? &cursor->base : NULL;
  return cursor ? SQLITE_OK : SQLITE_NOMEM;
}

static struct claim_cursor *claim_cursor(sqlite3_vtab_cursor *base) {
  return (struct claim_cursor *)(void *)base;
}

static int claim_close(sqlite3_vtab_cursor *base) {
  dibs_job_list_free(claim_cursor(base)->jobs);
  free(base);
  return SQLITE_OK;
}

static void claim_call(struct call *call) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  struct json_slice json = {"", 0};
  struct claim_words words = {.n = DIBS_UNSET, .lease = DIBS_UNSET};
  const char *queue = argument_text(call, 0, "queue");
  if (options_begin(call, 1, "options", &json)) {
    options_read_claim(call->db, &call->arena, json, &words);
    options_end(call);
  }
  if (queue && words.queues.count)
    call_fail(call, DIBS_INVALID,
              "the queue and the option queues are both given: give one, and "
              "NULL in place of the queue");
  struct texts queues = queue ? (struct texts){&queue, 1} : words.queues;
  if (call->status) return;
  options.n = words.n;
  options.lease = words.lease;
  options.worker = words.worker;
  int status =
      dibs_claim(call->db, queues.items, queues.count, &options, call->jobs);
  if (status != DIBS_EMPTY) call_take(call, status);
}

/* The values that the plan gives, as they are written: (queue, options). */
static int claim_filter(sqlite3_vtab_cursor *base, int plan, const char *text,
                        int count, sqlite3_value **values) {
  struct claim_cursor *cursor = claim_cursor(base);
  struct claim_table *table = (struct claim_table *)(void *)base->pVtab;
  struct call call = {.api = table->extension->api,
                      .extension = table->extension,
                      .values = values,
                      .count = count,
                      .jobs = &cursor->jobs};
  SQLITE_LIBRARY(&call);
  (void)text;
  dibs_job_list_free(cursor->jobs);
  cursor->jobs = NULL;
  cursor->at = 0;
  if (!(plan & PLAN_WANTED))
    call_fail(&call, DIBS_INVALID,
              "no queue is given: write dibs_claim('mail')");
  if (!call.status) call_attach(&call);
  if (!call.status) call_run(&call, claim_call);
  arena_free(&call.arena);
  if (!call.status) return SQLITE_OK;
  struct text message = {.data = NULL};
  call_text(&call, &message);
  sqlite3_free(base->pVtab->zErrMsg);
  base->pVtab->zErrMsg =
      sqlite3_mprintf("%s", message.failed ? "DIBS_NOMEM" : message.data);
  text_free(&message);
  return status_code(call.status);
}

static int claim_next(sqlite3_vtab_cursor *base) {
  claim_cursor(base)->at++;
  return SQLITE_OK;
}

static int claim_eof(sqlite3_vtab_cursor *base) {
  const struct claim_cursor *cursor = claim_cursor(base);
  return !cursor->jobs || cursor->at >= cursor->jobs->count;
}

static const dibs_job *claim_job(sqlite3_vtab_cursor *base) {
  const struct claim_cursor *cursor = claim_cursor(base);
  return &cursor->jobs->jobs[cursor->at];
}

static const char *column_text(const dibs_job *job, int column) {
  switch (column) {
  case COLUMN_RECEIPT: return job->receipt;
  case COLUMN_QUEUE: return job->queue;
  case COLUMN_NAME: return job->name;
  case COLUMN_HEADERS: return job->headers;
  default: return NULL;
  }
}

static int64_t column_int(const dibs_job *job, int column) {
  switch (column) {
  case COLUMN_ID: return job->id;
  case COLUMN_ATTEMPT: return job->attempt;
  case COLUMN_MAX_ATTEMPTS: return job->max_attempts;
  case COLUMN_CREATED_AT: return job->created_at;
  case COLUMN_DUE_AT: return job->due_at;
  case COLUMN_LEASE_UNTIL: return job->lease_until;
  default: return DIBS_UNSET;
  }
}

static void column_payload(const struct sqlite3_api_routines *sqlite3_api,
                           sqlite3_context *context,
                           const dibs_payload *payload) {
  if (payload->kind == DIBS_PAYLOAD_BYTES)
    sqlite3_result_blob64(context, payload->data, payload->size,
                          SQLITE_TRANSIENT);
  else if (payload->kind == DIBS_PAYLOAD_JSON)
    sqlite3_result_text64(context, payload->data, payload->size,
                          SQLITE_TRANSIENT, SQLITE_UTF8);
}

static int claim_column(sqlite3_vtab_cursor *base, sqlite3_context *context,
                        int column) {
  const struct claim_table *table = (struct claim_table *)(void *)base->pVtab;
  SQLITE_LIBRARY(table->extension);
  const dibs_job *job = claim_job(base);
  const char *text = column_text(job, column);
  int64_t integer = column_int(job, column);
  if (column == COLUMN_PAYLOAD)
    column_payload(sqlite3_api, context, &job->payload);
  else if (text)
    sqlite3_result_text64(context, text, strlen(text), SQLITE_TRANSIENT,
                          SQLITE_UTF8);
  else if (integer != DIBS_UNSET)
    sqlite3_result_int64(context, integer);
  return SQLITE_OK;
}

static int claim_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid) {
  *rowid = claim_job(base)->id;
  return SQLITE_OK;
}

static const sqlite3_module claim_module = {
    .iVersion = 1,
    .xConnect = claim_connect,
    .xBestIndex = claim_best_index,
    .xDisconnect = claim_disconnect,
    .xOpen = claim_open,
    .xClose = claim_close,
    .xFilter = claim_filter,
    .xNext = claim_next,
    .xEof = claim_eof,
    .xColumn = claim_column,
    .xRowid = claim_rowid,
};

/* ----------------------------------------------------------------- functions */

/* What changes state is refused in views, triggers and the like; an enqueue is
** not, for an application's triggers. */
#define STATE SQLITE_DIRECTONLY
#define JSON  FUNCTION_RESULT_SUBTYPE

static const struct function functions[] = {
    {"dibs_init", 0, 1, STATE, init_call},
    {"dibs_enqueue", 2, 3, 0, enqueue_call},
    {"dibs_enqueue_many", 2, 3, STATE | JSON, enqueue_many_call},
    {"dibs_ack", 1, 2, STATE, ack_call},
    {"dibs_retry", 1, 2, STATE, retry_call},
    {"dibs_fail", 1, 2, STATE, fail_call},
    {"dibs_release", 1, 1, STATE, release_call},
    {"dibs_extend", 2, 2, STATE, extend_call},
    {"dibs_checkpoint", 2, 2, STATE, checkpoint_call},
    {"dibs_progress", 2, 3, STATE, progress_call},
    {"dibs_snooze", 2, 2, STATE, snooze_call},
    {"dibs_discard", 1, 2, STATE, discard_call},
    {"dibs_commit", 1, 1, STATE, commit_call},
    {"dibs_abort", 1, 1, STATE, abort_call},
    {"dibs_cancel", 1, 1, STATE, cancel_call},
    {"dibs_change", 2, 2, STATE, change_call},
    {"dibs_requeue", 1, 1, STATE, requeue_call},
    {"dibs_redrive", 1, 1, STATE, redrive_call},
    {"dibs_clear", 1, 1, STATE, clear_call},
    {"dibs_purge", 1, 1, STATE, purge_call},
    {"dibs_prune", 0, 0, STATE, prune_call},
    {"dibs_pause", 1, 1, STATE, pause_call},
    {"dibs_resume", 1, 1, STATE, resume_call},
    {"dibs_queue_set", 2, 2, STATE, queue_set_call},
    {"dibs_queue_show", 1, 1, JSON, queue_show_call},
    {"dibs_explain", 1, 1, JSON, explain_call},
    {"dibs_explain_queue", 1, 1, JSON, explain_queue_call},
    {"dibs_stats", 0, 0, JSON, stats_call},
    {"dibs_version", 0, 0, SQLITE_INNOCUOUS | SQLITE_DETERMINISTIC | JSON,
     version_call},
};
#define FUNCTION_COUNT (sizeof functions / sizeof *functions)

static void function_call(const struct sqlite3_api_routines *sqlite3_api,
                          sqlite3_context *context, int count,
                          sqlite3_value **values) {
  const struct bound *bound = sqlite3_user_data(context);
  struct call call = {.api = sqlite3_api,
                      .extension = bound->extension,
                      .context = context,
                      .values = values,
                      .count = count};
  if (bound->function->run == version_call) {
    version_call(&call);
  } else {
    call_attach(&call);
    if (!call.status) call_run(&call, bound->function->run);
  }
  arena_free(&call.arena);
  if (!call.status) return;
  struct text text = {.data = NULL};
  call_text(&call, &text);
  sqlite3_result_error(context, text.failed ? "DIBS_NOMEM" : text.data, -1);
  text_free(&text);
  int code = status_code(call.status);
  if (code != SQLITE_ERROR) sqlite3_result_error_code(context, code);
}

/* A table for each library, and its function. */
static const struct sqlite3_api_routines *_Atomic tables[PROVIDERS];

typedef void sql_function(sqlite3_context *, int, sqlite3_value **);

#define ENTRY(n)                                                               \
  static void entry_##n(sqlite3_context *context, int count,                   \
                        sqlite3_value **values) {                              \
    function_call(atomic_load_explicit(&tables[n], memory_order_relaxed),      \
                  context, count, values);                                     \
  }
ENTRY(0)
ENTRY(1)
ENTRY(2)
ENTRY(3)
ENTRY(4)
ENTRY(5)
ENTRY(6)
ENTRY(7)
static sql_function *const entry_points[PROVIDERS] = {
    entry_0, entry_1, entry_2, entry_3, entry_4, entry_5, entry_6, entry_7};

/* NULL when all are taken. */
static sql_function *entry_find(const struct sqlite3_api_routines *api) {
  for (int i = 0; i < PROVIDERS; i++) {
    const struct sqlite3_api_routines *found = NULL;
    if (atomic_compare_exchange_strong(&tables[i], &found, api) || found == api)
      return entry_points[i];
  }
  return NULL;
}

/* With each number of arguments that it may have. */
static int function_register(struct extension *extension, size_t at,
                             sql_function *entry) {
  SQLITE_LIBRARY(extension);
  int code = SQLITE_OK;
  const struct function *function = &functions[at];
  struct bound *bound = &extension->bound[at];
  *bound = (struct bound){extension, function};
  for (int count = function->least; count <= function->most && !code; count++) {
    extension->references++; /* released by SQLite, also when that fails */
    code = sqlite3_create_function_v2(extension->sqlite, function->name, count,
                                      SQLITE_UTF8 | function->flags, bound,
                                      entry, NULL, NULL, bound_release);
  }
  return code;
}

/* A function that is there and in use cannot be replaced while a statement is
** under way, such as SELECT load_extension(...): those of before stay. */
static int functions_register(struct extension *extension,
                              sql_function *entry) {
  SQLITE_LIBRARY(extension);
  int code = function_register(extension, 0, entry);
  if (code == SQLITE_BUSY) return SQLITE_OK;
  for (size_t i = 1; i < FUNCTION_COUNT && !code; i++)
    code = function_register(extension, i, entry);
  if (code) return code;
  extension->references++;
  return sqlite3_create_module_v2(extension->sqlite, "dibs_claim",
                                  &claim_module, extension, module_release);
}

int dibs_extension_init(sqlite3 *connection, char **message,
                        const sqlite3_api_routines *sqlite3_api) {
  char text[DIBS_MESSAGE_SIZE] = "";
  const dibs_provider *provider;
  if (dibs_provider_get(sqlite3_api, &provider, text)) {
    if (message && sqlite3_api && sqlite3_api->mprintf)
      *message = sqlite3_mprintf("DIBS_LIBRARY: %s", text);
    return SQLITE_ERROR;
  }
  sql_function *entry = entry_find(sqlite3_api);
  if (!entry) {
    if (message)
      *message = sqlite3_mprintf("DIBS_LIBRARY: more than %d SQLite libraries "
                                 "in one process",
                                 PROVIDERS);
    return SQLITE_ERROR;
  }
  struct extension *extension =
      calloc(1, sizeof *extension + FUNCTION_COUNT * sizeof(struct bound));
  if (!extension) return SQLITE_NOMEM;
  extension->api = sqlite3_api;
  extension->provider = provider;
  extension->sqlite = connection;
  extension->pid = getpid();
  extension->references = 1;
  int code = functions_register(extension, entry);
  extension_release(extension);
  return code;
}
