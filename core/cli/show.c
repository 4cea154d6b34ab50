/* SPDX-License-Identifier: MIT */
/*
** show.c: jobs, queues and outcomes as the dibs program shows them, in JSON and
** for people.
*/
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "cli.h"

#define SHOW_LIMIT    4000 /* characters of a payload shown to people */
#define SETTING_WIDTH 16   /* columns of a setting's name */

/* ------------------------------------------------------------------------ */
/* A job                                                                    */
/* ------------------------------------------------------------------------ */

int show_job_json(const dibs_job *job) {
  char *json = NULL;
  int status = dibs_job_json(job, &json);
  if (status != DIBS_OK)
    return cli_error(status, "job %" PRId64 " cannot be shown: %s", job->id,
                     dibs_status_meaning(status));
  (void)puts(json);
  dibs_free(json);
  return 0;
}

/* Write how long a time is, in its largest unit: "3 min". */
static void format_span(int64_t ms, char *text, size_t size) {
  static const struct {
    int64_t ms;
    const char *name;
  } units[] = {{86400000, "d"}, {3600000, "h"}, {60000, "min"}, {1000, "s"}};
  for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
    if (ms < units[i].ms) continue;
    (void)snprintf(text, size, "%" PRId64 " %s", ms / units[i].ms,
                   units[i].name);
    return;
  }
  (void)snprintf(text, size, "%" PRId64 " ms", ms);
}

const char *format_relative(int64_t at, int64_t now, char *text, size_t size) {
  char span[40];
  text[0] = '\0';
  if (at == DIBS_UNSET) return text;
  format_span(at > now ? at - now : now - at, span, sizeof span);
  (void)snprintf(text, size, at > now ? "in %s" : "%s ago", span);
  return text;
}

static void show_label(const char *label) {
  printf("  %s%-12s%s", colour_begin(stdout, COLOUR_DIM), label,
         colour_end(stdout));
}

static void show_text(const char *label, const char *text) {
  if (text == NULL) return;
  show_label(label);
  (void)print_escaped(stdout, text, strlen(text), SHOW_LIMIT);
  (void)putchar('\n');
}

static void show_time(const char *label, int64_t at, int64_t now) {
  char text[DIBS_TIME_SIZE];
  char relative[60];
  if (at == DIBS_UNSET) return;
  show_label(label);
  printf("%s (%s)\n", dibs_format_time(at, text),
         format_relative(at, now, relative, sizeof relative));
}

static void show_payload(const dibs_payload *payload) {
  if (payload->kind == DIBS_PAYLOAD_NONE) return;
  show_label("payload");
  if (payload->kind == DIBS_PAYLOAD_BYTES) {
    (void)putchar('(');
    print_count(stdout, (int64_t)payload->size, "byte");
    (void)fputs(") ", stdout);
  }
  (void)print_escaped(stdout, payload->data, payload->size, SHOW_LIMIT);
  (void)putchar('\n');
}

static void show_attempt(const dibs_job *job) {
  show_label("attempt");
  printf("%" PRId64, job->attempt);
  if (job->max_attempts > 0) printf(" of %" PRId64, job->max_attempts);
  if (job->crashes > 0) printf(", %" PRId64 " crashed", job->crashes);
  (void)putchar('\n');
}

static void show_progress(const dibs_job *job) {
  if (isnan(job->progress)) return;
  show_label("progress");
  printf("%.0f %%", job->progress * 100);
  if (job->progress_text) {
    printf("  ");
    (void)print_escaped(stdout, job->progress_text, strlen(job->progress_text),
                        SHOW_LIMIT);
  }
  (void)putchar('\n');
}

static void show_errors(const dibs_job *job, int64_t now) {
  for (size_t i = 0; i < job->error_count; i++) {
    const dibs_job_error *error = &job->errors[i];
    char relative[60];
    char took[40];
    format_span(error->ms, took, sizeof took);
    show_label(i == 0 ? "errors" : "");
    printf("attempt %" PRId64 ", %s, after %s", error->attempt,
           format_relative(error->at, now, relative, sizeof relative), took);
    if (error->worker) {
      printf(", by ");
      (void)print_escaped(stdout, error->worker, strlen(error->worker), 0);
    }
    printf(": ");
    if (error->text)
      (void)print_escaped(stdout, error->text, strlen(error->text), SHOW_LIMIT);
    (void)putchar('\n');
  }
}

/* "job 12  running  mail" */
static void show_job_head(const dibs_job *job) {
  const char *state = dibs_state_name(job->state);
  printf("%sjob %" PRId64 "%s  %s%s%s  ", colour_begin(stdout, COLOUR_BOLD),
         job->id, colour_end(stdout),
         colour_begin(stdout, colour_of_state(job->state)), state ? state : "",
         colour_end(stdout));
  if (job->outcome) printf("%s  ", dibs_outcome_name(job->outcome));
  (void)print_escaped(stdout, job->queue, strlen(job->queue), 0);
  (void)putchar('\n');
}

void show_job(const dibs_job *job, int64_t now) {
  show_job_head(job);
  show_text("receipt", job->receipt);
  show_text("name", job->name);
  show_payload(&job->payload);
  show_text("headers", job->headers);
  show_text("key", job->key);
  if (job->priority != 0) {
    show_label("priority");
    printf("%" PRId64 "\n", job->priority);
  }
  show_attempt(job);
  show_time("created", job->created_at, now);
  show_time("due", job->due_at, now);
  show_time("claimed", job->claimed_at, now);
  show_time("lease until", job->lease_until, now);
  show_time("finished", job->finished_at, now);
  show_text("worker", job->worker);
  show_progress(job);
  show_text("result", job->result);
  if (job->error_count == 0) show_text("last error", job->last_error);
  show_errors(job, now);
}

/* ------------------------------------------------------------------------ */
/* Several jobs                                                             */
/* ------------------------------------------------------------------------ */

static int show_all_json(const dibs_job_list *jobs) {
  int code = 0;
  for (size_t i = 0; i < jobs->count && code == 0; i++)
    code = show_job_json(&jobs->jobs[i]);
  return code;
}

int show_jobs(const dibs_job_list *jobs, int64_t now) {
  if (output_json()) return show_all_json(jobs);
  for (size_t i = 0; i < jobs->count; i++) {
    if (i > 0) (void)putchar('\n');
    show_job(&jobs->jobs[i], now);
  }
  return 0;
}

/* The time by which people place a job: when it is due, or when it ended. */
static int64_t job_when(const dibs_job *job) {
  if (job->finished_at != DIBS_UNSET) return job->finished_at;
  if (job->state == DIBS_RUNNING) return job->claimed_at;
  return job->due_at;
}

static void show_job_row(struct table *table, const dibs_job *job,
                         int64_t now) {
  char relative[60];
  enum colour colour = colour_of_state(job->state);
  table_number(table, job->id, COLOUR_NONE);
  table_text(table, job->queue, COLOUR_NONE);
  table_text(table, dibs_state_name(job->state), colour);
  table_number(table, job->priority, COLOUR_NONE);
  table_number(table, job->attempt, COLOUR_NONE);
  table_text(table,
             format_relative(job_when(job), now, relative, sizeof relative),
             COLOUR_NONE);
  table_text(table, job->name, COLOUR_NONE);
  if (job->state == DIBS_DEAD && job->last_error) {
    table_text(table, job->last_error, COLOUR_RED);
  } else {
    table_bytes(table, job->payload.data, job->payload.size, COLOUR_NONE);
  }
}

struct table *job_table_new(void) {
  static const char *const heads[] = {">ID",      "QUEUE", "STATE", ">PRI",
                                      ">ATTEMPT", "WHEN",  "NAME",  "PAYLOAD"};
  return output_json() ? NULL : table_new(heads, sizeof heads / sizeof *heads);
}

int job_table_add(struct table *table, const dibs_job_list *jobs, int64_t now) {
  if (output_json()) return show_all_json(jobs);
  for (size_t i = 0; i < jobs->count; i++)
    show_job_row(table, &jobs->jobs[i], now);
  return 0;
}

/* ------------------------------------------------------------------------ */
/* A queue                                                                  */
/* ------------------------------------------------------------------------ */

const char *settings_of(const char *json) {
  /* In a name the quotes would be escaped. */
  const char *paused = strstr(json, ",\"paused\":");
  const char *settings = paused ? strchr(paused + 1, ',') : NULL;
  return settings ? settings : "";
}

void show_queue_json(const dibs_queue_stats *queue, const char *settings) {
  char time[DIBS_TIME_SIZE];
  printf("{\"queue\":");
  print_json_string(stdout, queue->queue);
  printf(",\"ready\":%" PRId64 ",\"scheduled\":%" PRId64 ",\"blocked\":%" PRId64
         ",\"staged\":%" PRId64 ",\"running\":%" PRId64 ",\"done\":%" PRId64
         ",\"dead\":%" PRId64,
         queue->ready, queue->scheduled, queue->blocked, queue->staged,
         queue->running, queue->done, queue->dead);
  if (queue->oldest_ready_at != DIBS_UNSET)
    printf(",\"oldest_ready_at\":\"%s\"",
           dibs_format_time(queue->oldest_ready_at, time));
  printf(",\"paused\":%s,\"expired\":%" PRId64 "%s\n",
         queue->paused ? "true" : "false", queue->expired,
         *settings ? settings : "}");
}

/* As show_label(), for names that are longer. */
static void show_setting_label(const char *label, size_t size) {
  printf("  %s%.*s%s", colour_begin(stdout, COLOUR_DIM), (int)size, label,
         colour_end(stdout));
  for (; size < SETTING_WIDTH; size++) (void)putchar(' ');
}

static void show_number(const char *label, int64_t number, enum colour colour) {
  if (number == 0) colour = COLOUR_DIM;
  show_setting_label(label, strlen(label));
  printf("%s%" PRId64 "%s\n", colour_begin(stdout, colour), number,
         colour_end(stdout));
}

static void show_queue_head(const char *queue) {
  printf("%squeue %s", colour_begin(stdout, COLOUR_BOLD), colour_end(stdout));
  (void)print_escaped(stdout, queue, strlen(queue), 0);
}

/* The size of the JSON value that a text begins with. */
static size_t json_value_size(const char *text) {
  size_t depth = 0;
  int quoted = 0;
  const char *at = text;
  for (; *at; at++) {
    if (quoted && *at == '\\' && at[1]) {
      at++;
    } else if (*at == '"') {
      quoted = !quoted;
    } else if (!quoted && *at == '{') {
      depth++;
    } else if (!quoted && (*at == ',' || *at == '}')) {
      if (depth == 0) break;
      depth -= *at == '}';
    }
  }
  return (size_t)(at - text);
}

/* Print a JSON value, a string without its quotes and their escapes. */
static void show_json_value(const char *value, size_t size) {
  const char *end = value + size;
  if (*value != '"') {
    (void)print_escaped(stdout, value, size, 0);
    return;
  }
  for (value++, end--; value < end;) {
    if (*value == '\\' && (value[1] == '"' || value[1] == '\\')) value++;
    size_t plain = 1;
    while (value + plain < end && value[plain] != '\\') plain++;
    (void)print_escaped(stdout, value, plain, 0);
    value += plain;
  }
}

/* Print each member of ",\"limit\":5,\"rate\":\"10/1s\"}" on a line. */
static void show_setting_lines(const char *settings) {
  while (*settings == ',') {
    const char *name = settings + 2;
    size_t size = strcspn(name, "\"");
    show_setting_label(name, size);
    const char *value = name + size + 2;
    size = json_value_size(value);
    show_json_value(value, size);
    (void)putchar('\n');
    settings = value + size;
  }
}

void show_settings(const char *queue, const char *settings) {
  show_queue_head(queue);
  printf("%s\n", *settings ? "" : "  no settings");
  show_setting_lines(settings);
}

void show_queue(const dibs_queue_stats *queue, const char *settings,
                int64_t now) {
  char time[DIBS_TIME_SIZE];
  char relative[60];
  show_queue_head(queue->queue);
  if (queue->paused)
    printf("  %spaused%s", colour_begin(stdout, COLOUR_YELLOW),
           colour_end(stdout));
  (void)putchar('\n');
  show_number("ready", queue->ready, colour_of_state(DIBS_READY));
  show_number("scheduled", queue->scheduled, colour_of_state(DIBS_SCHEDULED));
  show_number("blocked", queue->blocked, colour_of_state(DIBS_BLOCKED));
  show_number("staged", queue->staged, colour_of_state(DIBS_STAGED));
  show_number("running", queue->running, colour_of_state(DIBS_RUNNING));
  show_number("done", queue->done, colour_of_state(DIBS_DONE));
  show_number("dead", queue->dead, colour_of_state(DIBS_DEAD));
  show_number("expired", queue->expired, colour_of_state(DIBS_DONE));
  if (queue->oldest_ready_at != DIBS_UNSET) {
    show_setting_label("oldest", strlen("oldest"));
    printf("%s (%s)\n", dibs_format_time(queue->oldest_ready_at, time),
           format_relative(queue->oldest_ready_at, now, relative,
                           sizeof relative));
  }
  show_setting_lines(settings);
}

/* ------------------------------------------------------------------------ */
/* Reasons                                                                  */
/* ------------------------------------------------------------------------ */

static void show_reason_json(const dibs_reason *reason) {
  char time[DIBS_TIME_SIZE];
  printf("{\"reason\":");
  print_json_string(stdout, reason->reason);
  printf(",\"text\":");
  print_json_string(stdout, reason->text);
  if (reason->at != DIBS_UNSET)
    printf(",\"at\":\"%s\"", dibs_format_time(reason->at, time));
  if (reason->id > 0) printf(",\"id\":%" PRId64, reason->id);
  (void)putchar('}');
}

static void show_reasons_json(int64_t id, const char *queue,
                              const dibs_reason_list *reasons) {
  if (queue) {
    printf("{\"queue\":");
    print_json_string(stdout, queue);
  } else {
    printf("{\"id\":%" PRId64, id);
  }
  printf(",\"reasons\":[");
  for (size_t i = 0; i < reasons->count; i++) {
    if (i > 0) (void)putchar(',');
    show_reason_json(&reasons->reasons[i]);
  }
  printf("]}\n");
}

void show_reasons(int64_t id, const char *queue,
                  const dibs_reason_list *reasons) {
  if (output_json()) {
    show_reasons_json(id, queue, reasons);
    return;
  }
  if (queue) {
    show_queue_head(queue);
  } else {
    printf("%sjob %" PRId64 "%s", colour_begin(stdout, COLOUR_BOLD), id,
           colour_end(stdout));
  }
  (void)putchar('\n');
  for (size_t i = 0; i < reasons->count; i++) {
    const dibs_reason *reason = &reasons->reasons[i];
    show_label(reason->reason);
    (void)print_escaped(stdout, reason->text, strlen(reason->text), 0);
    (void)putchar('\n');
  }
}

/* ------------------------------------------------------------------------ */
/* Outcomes                                                                 */
/* ------------------------------------------------------------------------ */

void show_count_of(int64_t count, const char *noun, const char *done) {
  if (output_json()) {
    printf("{\"count\":%" PRId64 "}\n", count);
    return;
  }
  print_count(stdout, count, noun);
  printf(" %s\n", done);
}

void show_count(int64_t count, const char *done) {
  show_count_of(count, "job", done);
}

void show_state(int64_t id, const char *state) {
  if (output_json()) {
    printf("{\"id\":%" PRId64, id);
    if (state) printf(",\"state\":\"%s\"", state);
    printf("}\n");
    return;
  }
  printf("%" PRId64, id);
  if (state) {
    enum colour colour = colour_of_state(dibs_state_number(state));
    printf("  %s%s%s", colour_begin(stdout, colour), state, colour_end(stdout));
  }
  (void)putchar('\n');
}
