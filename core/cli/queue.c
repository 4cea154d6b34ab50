/* SPDX-License-Identifier: MIT */
/*
** queue.c: the queue commands: list, show, set, pause, resume.
**
** Settings come and go as the core's text: what --max-attempts 3 says is the
** setting max_attempts with the value "3", and which values are good is the
** core's to say.
*/
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define SETTING_NAME 32 /* bytes of a setting's name, with its NUL */

/* ------------------------------------------------------------------------ */
/* queue list                                                               */
/* ------------------------------------------------------------------------ */

static int64_t jobs_of(const dibs_queue_stats *queue) {
  return queue->ready + queue->scheduled + queue->blocked + queue->staged +
         queue->running + queue->done + queue->dead;
}

static void show_queues(const dibs_stats_list *stats) {
  static const char *const heads[] = {"QUEUE", ">JOBS", "PAUSED"};
  struct table *table = NULL;
  if (!output_json()) table = table_new(heads, sizeof heads / sizeof *heads);
  for (size_t i = 0; i < stats->count; i++) {
    const dibs_queue_stats *queue = &stats->queues[i];
    if (output_json()) {
      printf("{\"queue\":");
      print_json_string(stdout, queue->queue);
      printf(",\"jobs\":%" PRId64 ",\"paused\":%s}\n", jobs_of(queue),
             queue->paused ? "true" : "false");
    } else {
      table_text(table, queue->queue, COLOUR_NONE);
      table_number(table, jobs_of(queue), COLOUR_NONE);
      table_text(table, queue->paused ? "paused" : "", COLOUR_YELLOW);
    }
  }
  table_print(table, stdout, 0);
}

int run_queue_list(struct cli *cli) {
  dibs_stats_list *stats = NULL;
  dibs_db *db;
  int code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  if (dibs_stats(db, NULL, 0, &stats) == DIBS_OK) {
    show_queues(stats);
  } else {
    code = cli_db_error(db);
  }
  dibs_stats_list_free(stats);
  (void)dibs_close(db);
  return code;
}

/* ------------------------------------------------------------------------ */
/* queue show                                                               */
/* ------------------------------------------------------------------------ */

/* Show one queue, for people as a block. Returns 0 or an exit code. */
static int show_one(dibs_db *db, const dibs_queue_stats *stats, int first) {
  char *json = NULL;
  if (dibs_queue_show(db, stats->queue, &json) != DIBS_OK)
    return cli_db_error(db);
  if (output_json()) {
    show_queue_json(stats, settings_of(json));
  } else {
    if (!first) (void)putchar('\n');
    show_queue(stats, settings_of(json), dibs_now(db));
  }
  dibs_free(json);
  return 0;
}

int run_queue_show(struct cli *cli) {
  const char *const *queues;
  size_t count;
  dibs_stats_list *stats = NULL;
  dibs_db *db;
  int code = cli_queue_arguments(cli, &queues, &count);
  if (code == 0) code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  if (dibs_stats(db, queues, count, &stats) == DIBS_OK) {
    for (size_t i = 0; i < stats->count && code == 0; i++)
      code = show_one(db, &stats->queues[i], i == 0);
  } else {
    code = cli_db_error(db);
  }
  dibs_stats_list_free(stats);
  (void)dibs_close(db);
  return code;
}

/* ------------------------------------------------------------------------ */
/* queue set                                                                */
/* ------------------------------------------------------------------------ */

/* The settings of a command line. */
struct settings {
  char names[OPTIONS_END][SETTING_NAME];
  const char *name_list[OPTIONS_END];
  const char *values[OPTIONS_END];
  size_t count;
};

/* "max_attempts" for "max-attempts". */
static void name_setting(char name[SETTING_NAME], const char *option) {
  (void)snprintf(name, SETTING_NAME, "%s", option);
  for (; *name; name++) {
    if (*name == '-') *name = '_';
  }
}

static void read_settings(const struct cli *cli, struct settings *settings) {
  const struct command_option *option = cli->command->options;
  settings->count = 0;
  for (; option->id != OPTIONS_END; option++) {
    size_t place = settings->count;
    if (!cli_has(cli, option->id)) continue;
    const char *value = cli_text(cli, option->id);
    name_setting(settings->names[place], options_table[option->id].name);
    settings->name_list[place] = settings->names[place];
    /* As everywhere on the command line; the core's word is another. */
    settings->values[place] =
        option->id == OPTION_SET_KEEP && strcmp(value, "inf") == 0 ? "forever"
                                                                   : value;
    settings->count++;
  }
}

/* Print what the queue is set to. Returns 0 or an exit code. */
static int show_set(dibs_db *db, const char *queue) {
  char *json = NULL;
  if (dibs_queue_show(db, queue, &json) != DIBS_OK) return cli_db_error(db);
  if (output_json()) {
    (void)puts(json);
  } else {
    show_settings(queue, settings_of(json));
  }
  dibs_free(json);
  return 0;
}

int run_queue_set(struct cli *cli) {
  struct settings settings;
  const char *queue = cli->arguments[0];
  dibs_db *db;
  read_settings(cli, &settings);
  if (settings.count == 0)
    return cli_usage(cli, "queue set needs a setting, such as --limit 5");
  if (strchr(queue, '*'))
    return cli_usage(cli,
                     "queue set takes one queue by its name, which \"%s\" is "
                     "not",
                     queue);
  int code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  code = dibs_queue_set(db, queue, settings.name_list, settings.values,
                        settings.count) == DIBS_OK
             ? show_set(db, queue)
             : cli_db_error(db);
  (void)dibs_close(db);
  return code;
}

/* ------------------------------------------------------------------------ */
/* queue pause, queue resume                                                */
/* ------------------------------------------------------------------------ */

static int pause_or_resume(struct cli *cli, const char *done,
                           int (*call)(dibs_db *, const char *const *, size_t,
                                       int64_t *)) {
  const char *const *queues;
  size_t count;
  int64_t changed = 0;
  dibs_db *db;
  int code = cli_queue_arguments(cli, &queues, &count);
  if (code == 0) code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  if (call(db, queues, count, &changed) == DIBS_OK) {
    show_count_of(changed, "queue", done);
  } else {
    code = cli_db_error(db);
  }
  (void)dibs_close(db);
  return code;
}

int run_queue_pause(struct cli *cli) {
  return pause_or_resume(cli, "paused", dibs_pause);
}

int run_queue_resume(struct cli *cli) {
  return pause_or_resume(cli, "resumed", dibs_resume);
}
