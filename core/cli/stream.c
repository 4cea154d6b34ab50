/* SPDX-License-Identifier: MIT */
/*
** stream.c: `enqueue --lines` and `enqueue --jobs`.
**
** Lines gather in a batch; a full batch is one transaction, and its ids are
** printed once it is committed. What stops the stream (a bad line, a signal,
** the database) leaves the batches before it taken and nothing of the one that
** was gathered; the error says where and how many. With --atomic the whole
** input is one batch.
*/
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "lines.h"

#define BATCH_JOBS  1000
#define BATCH_BYTES 16777216 /* a batch of large payloads ends sooner */
#define PAUSE       1000     /* ms of silence that end a batch */

/* What a line of --jobs holds beside the payload, at most: headers and keys,
** each character written as an escape. */
#define JOB_LINE_EXTRA (6 * DIBS_HEADERS_MAX + 65536)

/* A job of the batch, and what its parts stand in. */
struct entry {
  char *text;              /* of --lines; owned */
  dibs_parsed_job *parsed; /* of --jobs; owned */
  dibs_job_options options;
  int64_t line;
};

struct stream {
  struct cli *cli;
  dibs_db *db;
  const char *queue;
  const dibs_job_options *defaults;
  struct lines lines;
  struct progress progress;
  struct entry *entries; /* `count` of them, room for `room` */
  dibs_new_job *jobs;    /* the same, as the core wants them */
  size_t count;
  size_t room;
  size_t bytes;  /* of the batch's lines */
  int64_t taken; /* jobs committed */
};

/* ------------------------------------------------------------------------ */
/* Stopping                                                                 */
/* ------------------------------------------------------------------------ */

/* Say why the stream stopped, at which line, and what was taken before. */
static int stop(const struct stream *stream, int status, int64_t line,
                const char *why) {
  struct cli_about about = CLI_ABOUT_INIT;
  char where[40] = "";
  about.line = line;
  about.taken = stream->taken;
  if (line > 0) (void)snprintf(where, sizeof where, "line %" PRId64 ": ", line);
  int code = cli_error_about(status, &about, "%s%s; %" PRId64 " job%s taken",
                             where, why, stream->taken,
                             stream->taken == 1 ? " was" : "s were");
  cli_payload_hint(stream->cli, stream->db);
  return code;
}

/* ------------------------------------------------------------------------ */
/* The batch                                                                */
/* ------------------------------------------------------------------------ */

static void empty_batch(struct stream *stream) {
  for (size_t i = 0; i < stream->count; i++) {
    free(stream->entries[i].text);
    dibs_parsed_job_free(stream->entries[i].parsed);
  }
  stream->count = 0;
  stream->bytes = 0;
}

/* A new entry at the end of the batch, or NULL. */
static struct entry *add_entry(struct stream *stream) {
  if (stream->count == stream->room) {
    size_t room = stream->room ? stream->room * 2 : BATCH_JOBS;
    struct entry *entries =
        realloc(stream->entries, room * sizeof *stream->entries);
    if (entries) stream->entries = entries;
    dibs_new_job *jobs = realloc(stream->jobs, room * sizeof *stream->jobs);
    if (jobs) stream->jobs = jobs;
    if (entries == NULL || jobs == NULL) return NULL;
    stream->room = room;
  }
  struct entry *entry = &stream->entries[stream->count];
  memset(entry, 0, sizeof *entry);
  memset(&stream->jobs[stream->count], 0, sizeof *stream->jobs);
  entry->line = stream->lines.number;
  stream->bytes += stream->lines.size;
  stream->count++;
  return entry;
}

static void show_batch(struct stream *stream, const dibs_enqueued *results) {
  if (output_lost()) return;
  status_clear();
  for (size_t i = 0; i < stream->count; i++) enqueue_show(&results[i]);
  (void)output_lost();
}

static int commit_failed(struct stream *stream) {
  int64_t place = dibs_error_index(stream->db);
  int64_t line = 0;
  if (place >= 0 && place < (int64_t)stream->count)
    line = stream->entries[place].line;
  return stop(stream, dibs_error_status(stream->db), line,
              dibs_error(stream->db));
}

/* Commit the batch. Returns 0 or an exit code. */
static int commit_batch(struct stream *stream) {
  int code = 0;
  if (stream->count == 0) return 0;
  for (size_t i = 0; i < stream->count; i++) {
    if (stream->entries[i].parsed)
      stream->jobs[i].options = &stream->entries[i].options;
  }
  dibs_enqueued *results = calloc(stream->count, sizeof *results);
  if (results == NULL) return stop(stream, DIBS_NOMEM, 0, "out of memory");
  if (dibs_enqueue_many(stream->db, stream->jobs, stream->count, results) !=
      DIBS_OK) {
    code = commit_failed(stream);
  } else {
    stream->taken += (int64_t)stream->count;
    show_batch(stream, results);
  }
  free(results);
  empty_batch(stream);
  progress_update(&stream->progress, stream->lines.taken, stream->taken);
  return code;
}

/* ------------------------------------------------------------------------ */
/* Lines                                                                    */
/* ------------------------------------------------------------------------ */

/* Nonzero for a line that is skipped. */
static int is_blank(const struct stream *stream) {
  if (cli_has(stream->cli, OPTION_BYTES)) return 0;
  for (size_t i = 0; i < stream->lines.size; i++) {
    if (!strchr(" \t\r", stream->lines.text[i]) || !stream->lines.text[i])
      return 0;
  }
  return 1;
}

/* Add a line of --lines. JSON may come with CR LF line ends. */
static int add_payload(struct stream *stream) {
  struct entry *entry = add_entry(stream);
  const char *text = stream->lines.text;
  size_t size = stream->lines.size;
  int bytes = cli_has(stream->cli, OPTION_BYTES);
  if (entry) entry->text = malloc(size + 1);
  if (entry == NULL || entry->text == NULL)
    return stop(stream, DIBS_NOMEM, stream->lines.number, "out of memory");
  if (!bytes && size && text[size - 1] == '\r') size--;
  memcpy(entry->text, text, size);
  dibs_new_job *job = &stream->jobs[stream->count - 1];
  job->queue = stream->queue;
  job->payload = bytes ? dibs_bytes(entry->text, size)
                       : dibs_json_sized(entry->text, size);
  job->options = stream->defaults;
  return 0;
}

static void default_number(int64_t *number, int64_t otherwise) {
  if (*number == DIBS_UNSET) *number = otherwise;
}

static void default_text(const char **text, const char *otherwise) {
  if (*text == NULL) *text = otherwise;
}

static void default_real(double *real, double otherwise) {
  if (isnan(*real)) *real = otherwise;
}

/* Fill in what a line of --jobs left out. */
static void apply_defaults(dibs_job_options *options,
                           const dibs_job_options *defaults) {
  dibs_job_options unset;
  dibs_job_options_init(&unset);
  if (options->delay == DIBS_UNSET && options->at == DIBS_UNSET) {
    options->delay = defaults->delay;
    options->at = defaults->at;
  }
  default_text(&options->name, defaults->name);
  default_text(&options->headers, defaults->headers);
  default_text(&options->key, defaults->key);
  default_text(&options->limit_key, defaults->limit_key);
  default_text(&options->unique, defaults->unique);
  default_number(&options->priority, defaults->priority);
  default_number(&options->expires, defaults->expires);
  default_number(&options->max_attempts, defaults->max_attempts);
  default_number(&options->max_crashes, defaults->max_crashes);
  default_number(&options->backoff, defaults->backoff);
  default_real(&options->backoff_factor, defaults->backoff_factor);
  default_number(&options->backoff_cap, defaults->backoff_cap);
  default_real(&options->backoff_jitter, defaults->backoff_jitter);
  default_number(&options->lease, defaults->lease);
  default_number(&options->timeout, defaults->timeout);
  default_number(&options->keep, defaults->keep);
  default_number(&options->unique_for, defaults->unique_for);
  default_number(&options->stage, defaults->stage);
  if (options->unique_scope == unset.unique_scope)
    options->unique_scope = defaults->unique_scope;
  if (options->on_conflict == unset.on_conflict)
    options->on_conflict = defaults->on_conflict;
}

/* Add a line of --jobs. */
static int add_job(struct stream *stream) {
  struct entry *entry = add_entry(stream);
  const struct lines *lines = &stream->lines;
  if (entry == NULL)
    return stop(stream, DIBS_NOMEM, lines->number, "out of memory");
  int status =
      dibs_parse_job(stream->db, lines->text, lines->size, &entry->parsed);
  if (status != DIBS_OK)
    return stop(stream, status, lines->number, dibs_error(stream->db));
  dibs_new_job *job = &stream->jobs[stream->count - 1];
  *job = entry->parsed->job;
  if (job->queue == NULL) job->queue = stream->queue;
  if (job->options) {
    entry->options = *job->options;
  } else {
    dibs_job_options_init(&entry->options);
  }
  apply_defaults(&entry->options, stream->defaults);
  return 0;
}

static int add_line(struct stream *stream) {
  if (is_blank(stream)) return 0;
  return cli_has(stream->cli, OPTION_JOBS) ? add_job(stream)
                                           : add_payload(stream);
}

/* ------------------------------------------------------------------------ */
/* The stream                                                               */
/* ------------------------------------------------------------------------ */

static int batch_is_full(const struct stream *stream) {
  return !cli_has(stream->cli, OPTION_ATOMIC) &&
         (stream->count >= BATCH_JOBS || stream->bytes >= BATCH_BYTES);
}

/* How long to wait for a line: while a batch is gathering, not for ever. */
static int patience(const struct stream *stream) {
  return stream->count && !cli_has(stream->cli, OPTION_ATOMIC) ? PAUSE : -1;
}

static int line_too_long(const struct stream *stream) {
  char why[120];
  (void)snprintf(why, sizeof why,
                 "it is longer than the payload limit of %" PRId64
                 " bytes allows; --max-payload changes it",
                 cli_has(stream->cli, OPTION_MAX_PAYLOAD)
                     ? cli_number(stream->cli, OPTION_MAX_PAYLOAD)
                     : (int64_t)DIBS_PAYLOAD_MAX);
  return stop(stream, DIBS_TOO_BIG, stream->lines.number, why);
}

static int read_failed(const struct stream *stream) {
  char why[120];
  (void)snprintf(why, sizeof why, "reading standard input: %s",
                 strerror(errno));
  return stop(stream, DIBS_IO, 0, why);
}

/* Take one line, or what comes in its place. Sets *end at the end. Returns 0
** or an exit code. */
static int step(struct stream *stream, int *end) {
  int code = 0;
  if (cli_interrupted())
    return stop(stream, DIBS_INTERRUPTED, 0, "interrupted");
  switch (lines_next(&stream->lines, patience(stream))) {
  case LINES_LINE: code = add_line(stream); break;
  case LINES_PAUSE:
    return cli_has(stream->cli, OPTION_ATOMIC) ? 0 : commit_batch(stream);
  case LINES_END: return *end = 1, commit_batch(stream);
  case LINES_TOO_LONG: return line_too_long(stream);
  case LINES_INTERRUPTED:
    return stop(stream, DIBS_INTERRUPTED, 0, "interrupted");
  case LINES_FAILED: return read_failed(stream);
  }
  if (code == 0 && batch_is_full(stream)) code = commit_batch(stream);
  return code;
}

/* How long a line may be. */
static size_t line_limit(const struct cli *cli) {
  int64_t limit = cli_has(cli, OPTION_MAX_PAYLOAD)
                      ? cli_number(cli, OPTION_MAX_PAYLOAD)
                      : DIBS_PAYLOAD_MAX;
  if (cli_has(cli, OPTION_JOBS)) limit += limit / 3 + JOB_LINE_EXTRA;
  return (size_t)limit;
}

/* How many bytes standard input has, when it is a file. */
static int64_t input_size(void) {
  struct stat status;
  if (fstat(STDIN_FILENO, &status) != 0 || !S_ISREG(status.st_mode)) return 0;
  off_t at = lseek(STDIN_FILENO, 0, SEEK_CUR);
  return status.st_size - (at > 0 ? at : 0);
}

/* The jobs are safe, but nobody may have read their ids. */
static void say_what_was_lost(const struct stream *stream) {
  if (output_lost())
    cli_note("dibs: standard output was lost on the way; %" PRId64
             " jobs were taken",
             stream->taken);
}

int stream_run(struct cli *cli, dibs_db *db, const char *queue,
               const dibs_job_options *options) {
  struct stream stream;
  int code = 0, end = 0;
  memset(&stream, 0, sizeof stream);
  stream.cli = cli;
  stream.db = db;
  stream.queue = queue;
  stream.defaults = options;
  lines_init(&stream.lines, STDIN_FILENO, line_limit(cli));
  cli_catch_signals(NULL);
  if (isatty(STDIN_FILENO))
    cli_note("reading lines from the terminal; Ctrl-D ends them");
  progress_start(&stream.progress, "job", input_size());
  while (code == 0 && !end) code = step(&stream, &end);
  status_clear();
  say_what_was_lost(&stream);
  empty_batch(&stream);
  lines_free(&stream.lines);
  free(stream.entries);
  free(stream.jobs);
  return code;
}
