/* SPDX-License-Identifier: MIT */
/*
** admin.c: commands that look after a database and its jobs: init, cancel,
** change, dead, clear, prune, commit, abort, version.
*/
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

/* ------------------------------------------------------------------------ */
/* init, version                                                            */
/* ------------------------------------------------------------------------ */

/* What the library has to say of itself while it opens the database. */
static void note_warning(void *context, const dibs_log_event *event) {
  (void)context;
  if (event->level != DIBS_LEVEL_OK) cli_note("warning: %s", event->message);
}

int run_init(struct cli *cli) {
  dibs_db *db;
  cli->open.log = note_warning;
  int code = cli_open(cli, DIBS_CREATE, &db);
  if (code) return code;
  int created = dibs_created(db);
  int schema = dibs_schema_version(db);
  if (output_json()) {
    printf("{\"db\":");
    print_json_string(stdout, cli->db_path);
    printf(",\"schema\":%d,\"created\":%s}\n", schema,
           created ? "true" : "false");
  } else {
    (void)print_escaped(stdout, cli->db_path, strlen(cli->db_path), 0);
    printf(": %s, schema %d\n", created ? "tables made" : "tables are there",
           schema);
  }
  (void)dibs_close(db);
  return 0;
}

int run_version(struct cli *cli) {
  dibs_db *db;
  int code;
  cli->db_path = ":memory:";
  code = cli_open(cli, DIBS_CREATE, &db);
  if (code) return code;
  printf(output_json() ? "{\"dibs\":\"%s\",\"schema\":%d,\"sqlite\":\"%s\"}\n"
                       : "dibs    %s\nschema  %d\nsqlite  %s\n",
         dibs_version(), dibs_schema_version(db), dibs_sqlite_version(db));
  (void)dibs_close(db);
  return 0;
}

/* ------------------------------------------------------------------------ */
/* Several ids                                                              */
/* ------------------------------------------------------------------------ */

/* The ids of a command line: those that are some, and what became of them. */
struct ids {
  int64_t *ids;
  dibs_id_outcome *outcomes;
  size_t count;
  int worst; /* exit code of those that are none */
};

static void free_ids(struct ids *ids) {
  free(ids->ids);
  free(ids->outcomes);
}

/* Read the ids, and say which words are none. Returns 0 or an exit code; to be
** freed in either case. */
static int read_ids(const struct cli *cli, struct ids *ids) {
  memset(ids, 0, sizeof *ids);
  ids->ids = calloc(cli->argument_count, sizeof *ids->ids);
  ids->outcomes = calloc(cli->argument_count, sizeof *ids->outcomes);
  if (ids->ids == NULL || ids->outcomes == NULL)
    return cli_error(DIBS_NOMEM, "out of memory");
  for (size_t i = 0; i < cli->argument_count; i++) {
    int64_t id = cli_id(cli->arguments[i]);
    if (id > 0) ids->ids[ids->count++] = id;
    if (id == 0) ids->worst = cli_bad_id(cli->arguments[i]);
  }
  return 0;
}

/* Say what went wrong with which id; returns the highest exit code. */
static int show_outcomes(const struct ids *ids) {
  int worst = ids->worst;
  for (size_t i = 0; i < ids->count; i++) {
    struct cli_about about = CLI_ABOUT_INIT;
    if (ids->outcomes[i].status == DIBS_OK) continue;
    about.id = ids->ids[i];
    int code = cli_error_about(ids->outcomes[i].status, &about, "%s",
                               ids->outcomes[i].message);
    if (code > worst) worst = code;
  }
  return worst;
}

/* Do something to each id, and print how many it was done to. */
static int for_ids(struct cli *cli, const char *done,
                   int (*call)(dibs_db *, const int64_t *, size_t,
                               dibs_id_outcome *, int64_t *)) {
  struct ids ids;
  dibs_db *db;
  int64_t count = 0;
  int code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  code = read_ids(cli, &ids);
  if (code == 0) {
    if (call(db, ids.ids, ids.count, ids.outcomes, &count) != DIBS_OK) {
      code = cli_db_error(db);
    } else {
      show_count(count, done);
      code = show_outcomes(&ids);
    }
  }
  free_ids(&ids);
  (void)dibs_close(db);
  return code;
}

int run_cancel(struct cli *cli) {
  return for_ids(cli, "cancelled", dibs_cancel);
}

int run_dead_requeue(struct cli *cli) {
  return for_ids(cli, "requeued", dibs_requeue);
}

/* ------------------------------------------------------------------------ */
/* change, commit, abort                                                    */
/* ------------------------------------------------------------------------ */

/* Print the state that a job is in now. */
static void show_current(dibs_db *db, int64_t id) {
  dibs_job_list *job = NULL;
  const char *state = NULL;
  if (dibs_get(db, id, &job) == DIBS_OK)
    state = dibs_state_name(job->jobs[0].state);
  show_state(id, state);
  dibs_job_list_free(job);
}

static int id_error(const dibs_db *db, int64_t id) {
  struct cli_about about = CLI_ABOUT_INIT;
  about.id = id;
  return cli_error_about(dibs_error_status(db), &about, "%s", dibs_error(db));
}

int run_change(struct cli *cli) {
  dibs_change_options options = DIBS_CHANGE_OPTIONS_INIT;
  int64_t id = cli_id(cli->arguments[0]);
  dibs_db *db;
  options.priority = cli_number(cli, OPTION_PRIORITY);
  options.delay = cli_number(cli, OPTION_DELAY);
  options.at = cli_number(cli, OPTION_AT);
  options.stage = cli_number(cli, OPTION_STAGE);
  if (id == 0) return cli_bad_id(cli->arguments[0]);
  if (!cli_has(cli, OPTION_PRIORITY) && !cli_has(cli, OPTION_DELAY) &&
      !cli_has(cli, OPTION_AT) && !cli_has(cli, OPTION_STAGE))
    return cli_usage(cli, "change needs --priority, --at, --delay or --stage");
  int code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  if (dibs_change(db, id, &options) == DIBS_OK) {
    show_current(db, id);
  } else {
    code = id_error(db, id);
  }
  (void)dibs_close(db);
  return code;
}

/* Commit or abort the job of one word. Returns 0 or an exit code. */
static int settle_staged(dibs_db *db, const char *word, int commit) {
  int64_t id = cli_id(word);
  if (id == 0) return cli_bad_id(word);
  int status = commit ? dibs_commit(db, id) : dibs_abort(db, id);
  if (status != DIBS_OK) return id_error(db, id);
  if (commit) {
    show_current(db, id);
  } else if (output_json()) {
    show_state(id, NULL);
  } else {
    printf("%" PRId64 "  removed\n", id);
  }
  return 0;
}

static int settle_all_staged(struct cli *cli, int commit) {
  dibs_db *db;
  int worst = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (worst) return worst;
  for (size_t i = 0; i < cli->argument_count; i++) {
    int code = settle_staged(db, cli->arguments[i], commit);
    if (code > worst) worst = code;
  }
  (void)dibs_close(db);
  return worst;
}

int run_commit(struct cli *cli) {
  return settle_all_staged(cli, 1);
}

int run_abort(struct cli *cli) {
  return settle_all_staged(cli, 0);
}

/* ------------------------------------------------------------------------ */
/* Whole queues                                                             */
/* ------------------------------------------------------------------------ */

/* The queues that a command is for, and the database that they are in. */
struct target {
  dibs_db *db;
  const char *const *queues;
  size_t count;
};

static int open_target(struct cli *cli, int must, struct target *target) {
  int code = cli_queues(cli, must, &target->queues, &target->count);
  return code ? code : cli_open(cli, DIBS_CREATE_NONE, &target->db);
}

/* Print {"count":N,"skipped":[ID]}, the latter when there are any. */
static void show_redriven(int64_t moved, const int64_t *skipped,
                          size_t skipped_count) {
  if (!output_json()) {
    show_count(moved, "requeued");
    for (size_t i = 0; i < skipped_count; i++)
      printf("%" PRId64 "  stays dead: its unique key is in use\n", skipped[i]);
    return;
  }
  printf("{\"count\":%" PRId64, moved);
  for (size_t i = 0; i < skipped_count; i++)
    printf("%s%" PRId64, i ? "," : ",\"skipped\":[", skipped[i]);
  printf("%s}\n", skipped_count ? "]" : "");
}

int run_dead_redrive(struct cli *cli) {
  struct target target;
  int64_t moved = 0;
  int64_t *skipped = NULL;
  size_t skipped_count = 0;
  int code = open_target(cli, 1, &target);
  if (code) return code;
  if (dibs_redrive(target.db, target.queues, target.count, &moved, &skipped,
                   &skipped_count) == DIBS_OK) {
    show_redriven(moved, skipped, skipped_count);
  } else {
    code = cli_db_error(target.db);
  }
  dibs_free(skipped);
  (void)dibs_close(target.db);
  return code;
}

int run_dead_purge(struct cli *cli) {
  struct target target;
  int64_t removed = 0;
  int code = open_target(cli, 1, &target);
  if (code) return code;
  if (dibs_purge(target.db, target.queues, target.count, &removed) == DIBS_OK) {
    show_count(removed, "removed");
  } else {
    code = cli_db_error(target.db);
  }
  (void)dibs_close(target.db);
  return code;
}

/* How many jobs a clear would remove. Returns 0 or an exit code. */
static int count_waiting(const struct target *target, int dead,
                         int64_t *count) {
  dibs_stats_list *stats = NULL;
  *count = 0;
  if (dibs_stats(target->db, target->queues, target->count, &stats) != DIBS_OK)
    return cli_db_error(target->db);
  for (size_t i = 0; i < stats->count; i++) {
    const dibs_queue_stats *queue = &stats->queues[i];
    *count += queue->ready + queue->scheduled + queue->blocked + queue->staged;
    if (dead) *count += queue->dead;
  }
  dibs_stats_list_free(stats);
  return 0;
}

/* Ask on a terminal. Returns 0 to go on, or an exit code. */
static int ask_to_clear(const struct cli *cli, const struct target *target) {
  char answer[16] = "";
  int64_t count;
  if (cli_has(cli, OPTION_YES) || !isatty(STDIN_FILENO)) return 0;
  int code = count_waiting(target, cli_has(cli, OPTION_DEAD), &count);
  if (code || count == 0) return code;
  (void)fprintf(stderr, "Remove ");
  print_count(stderr, count, "job");
  (void)fprintf(stderr, "? [y/N] ");
  (void)fflush(stderr);
  if (fgets(answer, sizeof answer, stdin) && strchr("yY", answer[0]) &&
      answer[0])
    return 0;
  return cli_error(DIBS_INTERRUPTED, "nothing was removed");
}

int run_clear(struct cli *cli) {
  struct target target;
  int64_t removed = 0;
  int code = open_target(cli, 1, &target);
  if (code) return code;
  code = ask_to_clear(cli, &target);
  if (code == 0) {
    if (dibs_clear(target.db, target.queues, target.count,
                   cli_has(cli, OPTION_DEAD), &removed) == DIBS_OK) {
      show_count(removed, "removed");
    } else {
      code = cli_db_error(target.db);
    }
  }
  (void)dibs_close(target.db);
  return code;
}

int run_prune(struct cli *cli) {
  dibs_db *db;
  int64_t removed = 0;
  int code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  if (dibs_prune(db, &removed) == DIBS_OK) {
    show_count(removed, "removed");
  } else {
    code = cli_db_error(db);
  }
  (void)dibs_close(db);
  return code;
}
