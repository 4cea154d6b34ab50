/* SPDX-License-Identifier: MIT */
/*
** look.c: commands that only look: get, peek, list, stats, explain, wait,
** doctor.
*/
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

#define LIST_DEFAULT 100  /* jobs that list shows */
#define LIST_PAGE    100  /* jobs that are in memory at a time */
#define WATCH_EVERY  1000 /* ms */

/* ------------------------------------------------------------------------ */
/* get, peek                                                                */
/* ------------------------------------------------------------------------ */

/* Show the job of one id. Returns 0 or an exit code. */
static int get_one(dibs_db *db, const char *word, int first) {
  struct cli_about about = CLI_ABOUT_INIT;
  dibs_job_list *job = NULL;
  about.id = cli_id(word);
  if (about.id == 0) return cli_bad_id(word);
  int status = dibs_get(db, about.id, &job);
  if (status != DIBS_OK)
    return cli_error_about(status, &about, "%s", dibs_error(db));
  if (!first && !output_json()) (void)putchar('\n');
  int code = show_jobs(job, dibs_now(db));
  dibs_job_list_free(job);
  return code;
}

int run_get(struct cli *cli) {
  dibs_db *db;
  int worst = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (worst) return worst;
  for (size_t i = 0; i < cli->argument_count; i++) {
    int code = get_one(db, cli->arguments[i], i == 0);
    if (code > worst) worst = code;
  }
  (void)dibs_close(db);
  return worst;
}

int run_peek(struct cli *cli) {
  const char *const *queues;
  size_t count;
  dibs_job_list *jobs = NULL;
  dibs_db *db;
  int code = cli_queues(cli, 0, &queues, &count);
  if (code == 0) code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  int64_t n = cli_has(cli, OPTION_N) ? cli_number(cli, OPTION_N) : 1;
  if (dibs_peek(db, queues, count, n, &jobs) == DIBS_OK) {
    struct table *table = job_table_new();
    code = job_table_add(table, jobs, dibs_now(db));
    table_print(table, stdout, 0);
  } else {
    code = cli_db_error(db);
  }
  dibs_job_list_free(jobs);
  (void)dibs_close(db);
  return code;
}

/* ------------------------------------------------------------------------ */
/* list                                                                     */
/* ------------------------------------------------------------------------ */

/* What is to be listed, page by page. */
struct listing {
  const char *const *queues;
  size_t queue_count;
  int64_t left;        /* jobs to show yet */
  struct table *table; /* for people */
  dibs_list_options options;
};

/* Show one page. Returns 0 or an exit code; *more tells whether it was full. */
static int list_page(dibs_db *db, struct listing *listing, int *more) {
  dibs_job_list *jobs = NULL;
  listing->options.limit =
      listing->left < LIST_PAGE ? listing->left : LIST_PAGE;
  if (dibs_list(db, listing->queues, listing->queue_count, &listing->options,
                &jobs) != DIBS_OK)
    return cli_db_error(db);
  int code = job_table_add(listing->table, jobs, dibs_now(db));
  *more = (int64_t)jobs->count == listing->options.limit;
  listing->left -= (int64_t)jobs->count;
  if (jobs->count) listing->options.after = jobs->jobs[jobs->count - 1].id;
  dibs_job_list_free(jobs);
  return code;
}

/* For people, when the limit was the default and there may be more. */
static void say_how_to_go_on(const struct cli *cli,
                             const struct listing *listing, int more) {
  if (more && !cli_has(cli, OPTION_LIMIT))
    cli_note("%d jobs are shown; --after %" PRId64 " shows the next ones",
             LIST_DEFAULT, listing->options.after);
}

/* On a terminal, where an empty answer looks like none. */
static void say_that_there_is_none(const char *what) {
  if (isatty(STDOUT_FILENO)) cli_note("no %s", what);
}

static int list(struct cli *cli, int state) {
  struct listing listing = {NULL, 0, LIST_DEFAULT, NULL,
                            DIBS_LIST_OPTIONS_INIT};
  dibs_db *db;
  int more = 1;
  int code = cli_queues(cli, 0, &listing.queues, &listing.queue_count);
  if (code == 0) code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  listing.options.state = state;
  listing.options.name = cli_text(cli, OPTION_NAME);
  listing.options.after = cli_number(cli, OPTION_AFTER);
  if (cli_has(cli, OPTION_LIMIT)) listing.left = cli_number(cli, OPTION_LIMIT);
  listing.table = job_table_new();
  while (code == 0 && more && listing.left > 0 && !output_lost())
    code = list_page(db, &listing, &more);
  table_print(listing.table, stdout, 0);
  if (code == 0) say_how_to_go_on(cli, &listing, more);
  if (code == 0 && listing.options.after == cli_number(cli, OPTION_AFTER))
    say_that_there_is_none("jobs");
  (void)dibs_close(db);
  return code;
}

int run_list(struct cli *cli) {
  int state = cli_has(cli, OPTION_STATE)
                  ? dibs_state_number(cli_text(cli, OPTION_STATE))
                  : 0;
  return list(cli, state);
}

int run_dead_list(struct cli *cli) {
  return list(cli, DIBS_DEAD);
}

/* ------------------------------------------------------------------------ */
/* stats                                                                    */
/* ------------------------------------------------------------------------ */

static void stats_number(struct table *table, int64_t number, int state) {
  table_number(table, number, number ? colour_of_state(state) : COLOUR_DIM);
}

static void stats_row(struct table *table, const dibs_queue_stats *stats,
                      int64_t now) {
  char age[60];
  table_text(table, stats->queue, COLOUR_NONE);
  stats_number(table, stats->ready, DIBS_READY);
  stats_number(table, stats->scheduled, DIBS_SCHEDULED);
  stats_number(table, stats->blocked, DIBS_BLOCKED);
  stats_number(table, stats->staged, DIBS_STAGED);
  stats_number(table, stats->running, DIBS_RUNNING);
  stats_number(table, stats->done, DIBS_DONE);
  stats_number(table, stats->dead, DIBS_DEAD);
  stats_number(table, stats->expired, DIBS_DONE);
  table_text(table,
             format_relative(stats->oldest_ready_at, now, age, sizeof age),
             COLOUR_NONE);
  table_text(table, stats->paused ? "paused" : "", COLOUR_YELLOW);
}

static void stats_table(const dibs_stats_list *stats, int64_t now) {
  static const char *const heads[] = {
      "QUEUE", ">READY", ">SCHEDULED", ">BLOCKED", ">STAGED", ">RUNNING",
      ">DONE", ">DEAD",  ">EXPIRED",   "OLDEST",   "PAUSED"};
  struct table *table = table_new(heads, sizeof heads / sizeof *heads);
  for (size_t i = 0; i < stats->count; i++)
    stats_row(table, &stats->queues[i], now);
  table_print(table, stdout, 0);
}

static int show_stats(dibs_db *db, const char *const *queues, size_t count) {
  dibs_stats_list *stats = NULL;
  if (dibs_stats(db, queues, count, &stats) != DIBS_OK) return cli_db_error(db);
  if (output_json()) {
    for (size_t i = 0; i < stats->count; i++)
      show_queue_json(&stats->queues[i], "");
  } else {
    stats_table(stats, dibs_now(db));
    if (stats->count == 0) say_that_there_is_none("queues");
  }
  dibs_stats_list_free(stats);
  return 0;
}

/* Wait until it is time to look again; returns zero when it is not to be. */
static int watch_on(void) {
  struct pollfd signals = {cli_signal_fd(), POLLIN, 0};
  if (output_lost()) return 0;
  (void)poll(&signals, 1, WATCH_EVERY);
  return !cli_interrupted();
}

/* Ctrl-C is how a watch ends: no failure. */
static int watch_stats(dibs_db *db, const char *const *queues, size_t count) {
  int code;
  cli_catch_signals(NULL);
  do {
    if (!output_json() && *colour_end(stdout))
      (void)fputs("\x1b[H\x1b[2J", stdout);
    code = show_stats(db, queues, count);
  } while (code == 0 && watch_on());
  return code;
}

int run_stats(struct cli *cli) {
  const char *const *queues;
  size_t count;
  dibs_db *db;
  int code = cli_queues(cli, 0, &queues, &count);
  if (code == 0) code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  code = cli_has(cli, OPTION_WATCH) ? watch_stats(db, queues, count)
                                    : show_stats(db, queues, count);
  (void)dibs_close(db);
  return code;
}

/* ------------------------------------------------------------------------ */
/* explain                                                                  */
/* ------------------------------------------------------------------------ */

/* Explain the job of one id. Returns 0 or an exit code. */
static int explain_job(dibs_db *db, const char *word) {
  struct cli_about about = CLI_ABOUT_INIT;
  dibs_reason_list *reasons = NULL;
  about.id = cli_id(word);
  if (about.id == 0) return cli_bad_id(word);
  int status = dibs_explain(db, about.id, &reasons);
  if (status != DIBS_OK)
    return cli_error_about(status, &about, "%s", dibs_error(db));
  show_reasons(about.id, NULL, reasons);
  dibs_reason_list_free(reasons);
  return 0;
}

static int explain_queue(dibs_db *db, const char *queue) {
  dibs_reason_list *reasons = NULL;
  if (dibs_explain_queue(db, queue, &reasons) != DIBS_OK)
    return cli_db_error(db);
  show_reasons(0, queue, reasons);
  dibs_reason_list_free(reasons);
  return 0;
}

/* Explain each queue that matches. Returns 0 or an exit code. */
static int explain_queues(dibs_db *db, const char *const *queues,
                          size_t count) {
  dibs_stats_list *stats = NULL;
  int code = 0;
  if (dibs_stats(db, queues, count, &stats) != DIBS_OK) return cli_db_error(db);
  for (size_t i = 0; i < stats->count && code == 0; i++)
    code = explain_queue(db, stats->queues[i].queue);
  dibs_stats_list_free(stats);
  return code;
}

int run_explain(struct cli *cli) {
  const char *const *queues;
  size_t count;
  dibs_db *db;
  int code = cli_queues(cli, 0, &queues, &count);
  if (code) return code;
  if (count > 0 && cli->argument_count > 0)
    return cli_usage(cli, "give ID or -q QUEUE, not both");
  if (count == 0 && cli->argument_count == 0)
    return cli_usage(cli, "explain needs ID... or -q QUEUE");
  int worst = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (worst) return worst;
  if (count > 0) worst = explain_queues(db, queues, count);
  for (size_t i = 0; i < cli->argument_count; i++) {
    code = explain_job(db, cli->arguments[i]);
    if (code > worst) worst = code;
  }
  (void)dibs_close(db);
  return worst;
}

/* ------------------------------------------------------------------------ */
/* wait                                                                     */
/* ------------------------------------------------------------------------ */

/* Show how a job ended: itself, or what is known of one that is not kept.
** Returns the exit code. */
static int show_ended(dibs_db *db, int64_t id, int state,
                      const dibs_job_list *job) {
  int code = 0;
  if (job) {
    code = show_jobs(job, dibs_now(db));
  } else {
    show_state(id, dibs_state_name(state));
  }
  if (code) return code;
  return state == DIBS_DEAD ? dibs_status_exit_code(DIBS_STATE) : 0;
}

int run_wait(struct cli *cli) {
  struct cli_about about = CLI_ABOUT_INIT;
  dibs_job_list *job = NULL;
  dibs_db *db;
  int state = 0;
  about.id = cli_id(cli->arguments[0]);
  if (about.id == 0) return cli_bad_id(cli->arguments[0]);
  int64_t timeout = cli_has(cli, OPTION_WAIT_TIMEOUT)
                        ? cli_number(cli, OPTION_WAIT_TIMEOUT)
                        : DIBS_FOREVER;
  int code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  cli_catch_signals(db);
  int status = dibs_await(db, about.id, timeout, &state, &job);
  cli_forget_signals();
  code = status == DIBS_OK
             ? show_ended(db, about.id, state, job)
             : cli_error_about(status, &about, "%s", dibs_error(db));
  dibs_job_list_free(job);
  (void)dibs_close(db);
  return code;
}

/* ------------------------------------------------------------------------ */
/* doctor                                                                   */
/* ------------------------------------------------------------------------ */

static const char *level_name(int level) {
  static const char *const names[] = {"ok", "warning", "error"};
  return level >= DIBS_LEVEL_OK && level <= DIBS_LEVEL_ERROR ? names[level]
                                                             : "error";
}

static enum colour level_colour(int level) {
  if (level == DIBS_LEVEL_OK) return COLOUR_GREEN;
  return level == DIBS_LEVEL_WARNING ? COLOUR_YELLOW : COLOUR_RED;
}

static void finding_json(const dibs_finding *finding) {
  printf("{\"check\":");
  print_json_string(stdout, finding->check);
  printf(",\"level\":\"%s\",\"message\":", level_name(finding->level));
  print_json_string(stdout, finding->message);
  if (finding->advice) {
    printf(",\"advice\":");
    print_json_string(stdout, finding->advice);
  }
  printf("}\n");
}

static void finding_line(const dibs_finding *finding) {
  printf("%s%-8s%s %-16s ", colour_begin(stdout, level_colour(finding->level)),
         level_name(finding->level), colour_end(stdout), finding->check);
  (void)print_escaped(stdout, finding->message, strlen(finding->message), 0);
  (void)putchar('\n');
  if (finding->advice == NULL) return;
  printf("%-25s ", "");
  (void)print_escaped(stdout, finding->advice, strlen(finding->advice), 0);
  (void)putchar('\n');
}

/* Show a finding. Returns 1 when something is broken. */
static int show_finding(const dibs_finding *finding) {
  if (output_json()) {
    finding_json(finding);
  } else {
    finding_line(finding);
  }
  return finding->level == DIBS_LEVEL_ERROR;
}

/* A database that cannot be opened is what the doctor is there for. */
static int show_cannot_open(const dibs_db *db) {
  dibs_finding finding = {"open", DIBS_LEVEL_ERROR, 0, dibs_error(db), NULL};
  int status = db ? dibs_error_status(db) : DIBS_NOMEM;
  if (status == DIBS_SCHEMA)
    finding.advice = "if this is the right file, run dibs init on it";
  if (status == DIBS_IO)
    finding.advice = "look whether the path is right and may be reached";
  if (status == DIBS_CORRUPT)
    finding.advice = "restore a backup, or run .recover in the sqlite3 shell";
  return show_finding(&finding);
}

int run_doctor(struct cli *cli) {
  dibs_finding_list *findings = NULL;
  dibs_db *db = NULL;
  int broken = 0;
  cli->open.create = DIBS_CREATE_NONE;
  if (dibs_open(cli->db_path, &cli->open, &db) != DIBS_OK) {
    broken = show_cannot_open(db);
  } else if (dibs_doctor(db, cli_has(cli, OPTION_THOROUGH), &findings) !=
             DIBS_OK) {
    broken = cli_db_error(db);
  } else {
    for (size_t i = 0; i < findings->count; i++)
      broken |= show_finding(&findings->findings[i]);
  }
  dibs_finding_list_free(findings);
  (void)dibs_close(db);
  return broken;
}
