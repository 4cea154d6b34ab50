/* SPDX-License-Identifier: MIT */
/*
** enqueue.c: one job from the command line. What comes as a stream is read in
** stream.c, with the options that are gathered here as its defaults.
*/
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* ------------------------------------------------------------------------ */
/* Options                                                                  */
/* ------------------------------------------------------------------------ */

/* Nonzero when a header with the same name comes again: the last one counts. */
static int header_comes_again(const struct option_value *headers, size_t place,
                              size_t length) {
  const char *header = headers->list[place];
  for (size_t i = place + 1; i < headers->count; i++) {
    if (strncmp(headers->list[i], header, length + 1) == 0) return 1;
  }
  return 0;
}

static int print_headers(const struct cli *cli, FILE *file) {
  const struct option_value *headers = &cli->values[OPTION_HEADER];
  int written = 0;
  (void)fputc('{', file);
  for (size_t i = 0; i < headers->count; i++) {
    const char *header = headers->list[i];
    size_t length = strcspn(header, "=");
    if (header[length] == '\0' || length == 0)
      return cli_usage(
          cli, "--header \"%s\" is not valid; allowed is KEY=VALUE", header);
    if (utf8_valid_size(header, strlen(header)) < strlen(header))
      return cli_usage(cli, "--header \"%s\" is no UTF-8", header);
    if (header_comes_again(headers, i, length)) continue;
    if (written++) (void)fputc(',', file);
    print_json_string_sized(file, header, length);
    (void)fputc(':', file);
    print_json_string(file, header + length + 1);
  }
  (void)fputc('}', file);
  return 0;
}

/* Make the headers object. Returns 0 or an exit code; *headers is to be
** freed, and NULL when there are none. */
static int make_headers(const struct cli *cli, char **headers) {
  size_t size;
  *headers = NULL;
  if (!cli_has(cli, OPTION_HEADER) && !cli_has(cli, OPTION_HEADERS)) return 0;
  if (cli_has(cli, OPTION_HEADER) && cli_has(cli, OPTION_HEADERS))
    return cli_usage(cli, "give --header or --headers, not both");
  FILE *file = open_memstream(headers, &size);
  if (file == NULL) return cli_error(DIBS_NOMEM, "out of memory");
  int code = 0;
  if (cli_has(cli, OPTION_HEADERS)) {
    (void)fputs(cli_text(cli, OPTION_HEADERS), file);
  } else {
    code = print_headers(cli, file);
  }
  (void)fclose(file);
  return code;
}

/* Read the job options. Those not given stay as they are. */
static void read_job_options(const struct cli *cli, dibs_job_options *options) {
  dibs_job_options_init(options);
  options->name = cli_text(cli, OPTION_NAME);
  options->priority = cli_number(cli, OPTION_PRIORITY);
  options->delay = cli_number(cli, OPTION_DELAY);
  options->at = cli_number(cli, OPTION_AT);
  options->expires = cli_number(cli, OPTION_EXPIRES);
  options->max_attempts = cli_number(cli, OPTION_MAX_ATTEMPTS);
  options->max_crashes = cli_number(cli, OPTION_MAX_CRASHES);
  options->backoff = cli_number(cli, OPTION_BACKOFF);
  options->backoff_factor = cli_real(cli, OPTION_BACKOFF_FACTOR);
  options->backoff_cap = cli_number(cli, OPTION_BACKOFF_CAP);
  options->backoff_jitter = cli_real(cli, OPTION_BACKOFF_JITTER);
  options->lease = cli_number(cli, OPTION_LEASE);
  options->timeout = cli_number(cli, OPTION_TIMEOUT);
  options->keep = cli_number(cli, OPTION_KEEP);
  options->key = cli_text(cli, OPTION_KEY);
  options->limit_key = cli_text(cli, OPTION_LIMIT_KEY);
  options->unique = cli_text(cli, OPTION_UNIQUE);
  options->unique_for = cli_number(cli, OPTION_UNIQUE_FOR);
  options->stage = cli_number(cli, OPTION_STAGE);
  if (cli_has(cli, OPTION_UNIQUE_SCOPE))
    options->unique_scope = (int)cli_number(cli, OPTION_UNIQUE_SCOPE);
  if (cli_has(cli, OPTION_ON_CONFLICT))
    options->on_conflict = (int)cli_number(cli, OPTION_ON_CONFLICT);
}

/* ------------------------------------------------------------------------ */
/* The command                                                              */
/* ------------------------------------------------------------------------ */

void enqueue_show(const dibs_enqueued *enqueued) {
  if (output_json()) {
    printf("{\"id\":%" PRId64 "%s}\n", enqueued->id,
           enqueued->existing ? ",\"existing\":true" : "");
  } else {
    printf("%" PRId64 "\n", enqueued->id);
  }
}

/* Check what may not stand together. */
static int check_sources(const struct cli *cli) {
  int stream = cli_has(cli, OPTION_LINES) + cli_has(cli, OPTION_JOBS);
  int single = (cli->argument_count > 0) + cli_has(cli, OPTION_FILE) +
               cli_has(cli, OPTION_BASE64);
  if (cli->values[OPTION_QUEUE].count > 1)
    return cli_usage(cli, "enqueue takes one queue");
  if (stream > 1) return cli_usage(cli, "give --lines or --jobs, not both");
  if (stream && single)
    return cli_usage(cli, "--lines and --jobs read the payloads from standard "
                          "input: no other payload goes with them");
  if (cli_has(cli, OPTION_JOBS) && cli_has(cli, OPTION_BYTES))
    return cli_usage(cli, "--bytes does not go with --jobs: a line says "
                          "\"payload\" or \"payload_base64\"");
  if (cli_has(cli, OPTION_ATOMIC) && !stream)
    return cli_usage(cli, "--atomic is for --lines and --jobs");
  return cli_payload_check(cli, cli->arguments[0]);
}

static const char *queue_of(const struct cli *cli) {
  const struct option_value *queue = &cli->values[OPTION_QUEUE];
  return queue->count ? queue->list[0] : DIBS_DEFAULT_QUEUE;
}

static int enqueue_one(struct cli *cli, dibs_db *db, struct payload *payload,
                       const dibs_job_options *options) {
  dibs_enqueued enqueued = {0, 0, 0};
  int code = cli_payload_decode(cli, db, payload);
  if (code) return code;
  dibs_new_job job = {queue_of(cli), payload->value, options};
  if (dibs_enqueue_many(db, &job, 1, &enqueued) == DIBS_OK) {
    enqueue_show(&enqueued);
    return 0;
  }
  code = cli_db_error(db);
  cli_payload_hint(cli, db);
  return code;
}

int run_enqueue(struct cli *cli) {
  struct payload payload = PAYLOAD_INIT;
  dibs_job_options options;
  char *headers = NULL;
  dibs_db *db = NULL;
  int code = check_sources(cli);
  if (code == 0) code = make_headers(cli, &headers);
  if (code == 0) code = cli_payload_read(cli, cli->arguments[0], &payload);
  if (code == 0) code = cli_open(cli, DIBS_CREATE_FILE, &db);
  if (code == 0) {
    read_job_options(cli, &options);
    options.headers = headers;
    code = cli_has(cli, OPTION_LINES) || cli_has(cli, OPTION_JOBS)
               ? stream_run(cli, db, queue_of(cli), &options)
               : enqueue_one(cli, db, &payload, &options);
  }
  (void)dibs_close(db);
  cli_payload_free(&payload);
  free(headers);
  return code;
}
