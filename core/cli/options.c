/* SPDX-License-Identifier: MIT */
/*
** options.c: reading the command line.
**
** Options may stand anywhere, so the command is found first: a walk over the
** words that skips options and their values. A second walk then reads every
** option by what the command's row in the table says of it. "--opt=value",
** "--opt value", "-oV", "-o V" and bundled flags are all taken; "--" ends the
** options, and so does a word such as -5, which is a number.
*/
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* ------------------------------------------------------------------------ */
/* Saying what is wrong                                                     */
/* ------------------------------------------------------------------------ */

int cli_usage(const struct cli *cli, const char *format, ...) {
  char *message = NULL;
  va_list arguments;
  va_start(arguments, format);
  if (vasprintf(&message, format, arguments) < 0) message = NULL;
  va_end(arguments);
  int code = cli_error(DIBS_INVALID, "%s", message ? message : "out of memory");
  free(message);
  if (cli->command == NULL && cli->group) {
    cli_note("dibs %s --help lists its commands", cli->group);
  } else if (cli->command == NULL) {
    cli_note("dibs --help lists the commands");
  } else {
    cli_note("dibs %s --help says how it is used", cli->command->name);
  }
  return code;
}

/* A word like the one that was typed, the best so far. */
struct suggestion {
  char word[40]; /* "": none yet */
  size_t distance;
};

#define SUGGESTION_INIT                                                        \
  { "", 3 } /* words further away than 2 changes are no help */

/* How many letters must be changed, added or dropped to make `b` of `a`. */
static size_t edit_distance(const char *a, const char *b) {
  size_t row[64];
  size_t length = strlen(b);
  if (length >= 64) return SIZE_MAX;
  for (size_t j = 0; j <= length; j++) row[j] = j;
  for (size_t i = 0; a[i]; i++) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < length; j++) {
      size_t changed = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      if (diagonal + 1 < changed) changed = diagonal + 1;
      row[j + 1] = row[j] + 1 < changed ? row[j] + 1 : changed;
    }
  }
  return row[length];
}

/* Look whether the first `size` letters of a candidate are nearer. */
static void suggest(struct suggestion *best, const char *word,
                    const char *candidate, size_t size) {
  char text[sizeof best->word];
  (void)snprintf(text, sizeof text, "%.*s", (int)size, candidate);
  size_t distance = edit_distance(word, text);
  if (distance >= best->distance || distance >= size) return;
  memcpy(best->word, text, sizeof text);
  best->distance = distance;
}

/* The part of a command's name that follows a group's name; NULL: not of it. */
static const char *subcommand_name(const char *command, const char *group) {
  size_t length = strlen(group);
  if (strncmp(command, group, length) != 0 || command[length] != ' ')
    return NULL;
  return command + length + 1;
}

/* The whole name of a command that a group has under this word; NULL: none. */
static const char *command_of_a_group(const char *word) {
  for (size_t i = 0; i < commands_count; i++) {
    const char *space = strchr(commands_table[i].name, ' ');
    if (space && strcmp(space + 1, word) == 0) return commands_table[i].name;
  }
  return NULL;
}

static int unknown_command(const struct cli *cli, const char *word) {
  struct suggestion best = SUGGESTION_INIT;
  const char *whole = command_of_a_group(word);
  if (whole)
    return cli_usage(cli, "there is no command \"%s\"; did you mean %s?", word,
                     whole);
  for (size_t i = 0; i < commands_count; i++) {
    const char *name = commands_table[i].name;
    suggest(&best, word, name, strcspn(name, " "));
  }
  if (best.word[0])
    return cli_usage(cli, "there is no command \"%s\"; did you mean %s?", word,
                     best.word);
  return cli_usage(cli, "there is no command \"%s\"", word);
}

static int unknown_subcommand(const struct cli *cli, const char *group,
                              const char *word) {
  struct suggestion best = SUGGESTION_INIT;
  char names[200] = "";
  for (size_t i = 0; i < commands_count; i++) {
    const char *name = subcommand_name(commands_table[i].name, group);
    if (name == NULL) continue;
    suggest(&best, word, name, strlen(name));
    size_t used = strlen(names);
    (void)snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "",
                   name);
  }
  if (best.word[0])
    return cli_usage(cli, "there is no command \"%s %s\"; did you mean %s?",
                     group, word, best.word);
  return cli_usage(cli, "there is no command \"%s %s\"; there is %s", group,
                   word, names);
}

static void suggest_options(struct suggestion *best, const char *name,
                            const struct command_option *options) {
  for (; options->id != OPTIONS_END; options++) {
    const char *candidate = options_table[options->id].name;
    suggest(best, name, candidate, strlen(candidate));
  }
}

static int unknown_option(const struct cli *cli, const char *word,
                          size_t length) {
  struct suggestion best = SUGGESTION_INIT;
  char name[64];
  (void)snprintf(name, sizeof name, "%.*s", (int)length, word);
  suggest_options(&best, name, everywhere_table);
  if (cli->command) suggest_options(&best, name, cli->command->options);
  const char *of = cli->command ? cli->command->name : "dibs";
  if (best.word[0])
    return cli_usage(cli, "%s has no option --%s; did you mean --%s?", of, name,
                     best.word);
  return cli_usage(cli, "%s has no option --%s", of, name);
}

/* ------------------------------------------------------------------------ */
/* Values                                                                   */
/* ------------------------------------------------------------------------ */

/* Read a whole number. Returns nonzero when the text is one. */
static int read_integer(const char *text, int64_t *number) {
  char *end;
  const char *digits = text + (*text == '-' || *text == '+');
  if (!isdigit((unsigned char)*digits)) return 0;
  errno = 0;
  *number = strtoll(text, &end, 10);
  return *end == '\0' && errno == 0 &&
         *number<DIBS_FOREVER && * number> DIBS_UNSET;
}

static int read_real(const char *text, double *number) {
  char *end;
  if (!isdigit((unsigned char)*text) && !strchr("-+.", *text)) return 0;
  if (*text == '\0') return 0;
  errno = 0;
  *number = strtod(text, &end);
  return *end == '\0' && errno == 0 && isfinite(*number);
}

/* The place of a word among "a|b|c", or -1. */
static int64_t read_choice(const char *text, const char *choices) {
  size_t length = strlen(text);
  for (int64_t place = 0; choices; place++) {
    size_t size = strcspn(choices, "|");
    if (size == length && strncmp(choices, text, size) == 0) return place;
    choices = choices[size] ? choices + size + 1 : NULL;
  }
  return -1;
}

static int64_t read_until(const char *text) {
  if (strcmp(text, "start") == 0) return DIBS_UNIQUE_UNTIL_START;
  if (strcmp(text, "finish") == 0) return DIBS_UNIQUE_UNTIL_FINISH;
  return 0;
}

/* What may be given for a kind, as an error says it. */
static const char *kind_allowed(enum option_kind kind) {
  switch (kind) {
  case KIND_COUNT: return "a whole number, 0 or more";
  case KIND_POSITIVE: return "a whole number, 1 or more";
  case KIND_INTEGER: return "a whole number";
  case KIND_REAL: return "a number";
  case KIND_DURATION:
    return "a duration: 250ms, 30s, 5m, 2h, 7d, or a number of seconds";
  case KIND_ENDLESS:
    return "a duration: 250ms, 30s, 5m, 2h, 7d, a number of seconds, or inf";
  case KIND_UNTIL:
    return "start, finish, or a duration: 250ms, 30s, 5m, 2h, 7d, or a number "
           "of seconds";
  case KIND_TIME: return "a time: 2026-01-31T12:00:00Z";
  default: return "";
  }
}

/* Read a value. Returns nonzero when it is one of its kind. */
static int read_value(const struct option *option, const char *text,
                      struct option_value *value) {
  int64_t *number = &value->number;
  switch (option->kind) {
  case KIND_COUNT: return read_integer(text, number) && *number >= 0;
  case KIND_POSITIVE: return read_integer(text, number) && *number >= 1;
  case KIND_INTEGER: return read_integer(text, number);
  case KIND_REAL: return read_real(text, &value->real);
  case KIND_TIME: return dibs_parse_time(text, number) == DIBS_OK;
  case KIND_CHOICE: return (*number = read_choice(text, option->argument)) >= 0;
  case KIND_UNTIL:
    if ((*number = read_until(text)) != 0) return 1;
    return dibs_parse_duration(text, number) == DIBS_OK;
  case KIND_ENDLESS:
    if (strcmp(text, "inf") == 0 || strcmp(text, "forever") == 0)
      return *number = DIBS_FOREVER, 1;
    return dibs_parse_duration(text, number) == DIBS_OK;
  case KIND_DURATION: return dibs_parse_duration(text, number) == DIBS_OK;
  default: return 1;
  }
}

static int bad_value(const struct cli *cli, const struct option *option,
                     const char *text) {
  char choices[100];
  const char *allowed = kind_allowed(option->kind);
  if (option->kind == KIND_CHOICE) {
    size_t used = 0;
    for (const char *c = option->argument; *c && used + 3 < sizeof choices; c++)
      used += (size_t)snprintf(choices + used, sizeof choices - used,
                               *c == '|' ? ", " : "%c", *c);
    allowed = choices;
  }
  return cli_usage(cli, "--%s \"%s\" is not valid; allowed is %s", option->name,
                   text, allowed);
}

/* Keep one more value of an option that may be given several times. */
static int add_to_list(struct option_value *value, const char *text) {
  size_t size = (value->count + 1) * sizeof *value->list;
  const char **list = realloc(value->list, size);
  if (list == NULL) return cli_error(DIBS_NOMEM, "out of memory");
  value->list = list;
  list[value->count] = text;
  return 0;
}

/* Take an option with its value (NULL for a flag). */
static int take_option(struct cli *cli, enum option_id id, const char *text) {
  const struct option *option = &options_table[id];
  struct option_value *value = &cli->values[id];
  if (text && !read_value(option, text, value))
    return bad_value(cli, option, text);
  if (option->kind == KIND_LIST) {
    int code = add_to_list(value, text);
    if (code) return code;
  }
  value->text = text;
  value->count++;
  return 0;
}

/* ------------------------------------------------------------------------ */
/* Finding the command                                                      */
/* ------------------------------------------------------------------------ */

/* Nonzero for a word that is an option: not "-", and no number. */
static int word_is_option(const char *word) {
  return word[0] == '-' && word[1] != '\0' &&
         !isdigit((unsigned char)word[1]) && word[1] != '.';
}

static int name_is(const struct option *option, const char *word,
                   size_t length) {
  return strlen(option->name) == length &&
         strncmp(option->name, word, length) == 0;
}

/*
** Nonzero when a long option takes the next word as its value. The command is
** not known yet; where one command has a flag and another a value of the same
** name, the next word decides: the name of a command is no value.
*/
static int long_takes_next(const char *word, const char *next) {
  int flag = 0, value = 0;
  size_t length = strlen(word);
  for (size_t i = 0; i < OPTIONS_END; i++) {
    if (!name_is(&options_table[i], word, length)) continue;
    if (options_table[i].argument) {
      value = 1;
    } else {
      flag = 1;
    }
  }
  if (flag && value)
    return !(next && (command_find(next) || command_is_group(next)));
  return value;
}

/* Nonzero when the last of bundled letters takes the next word as its value. */
static int letters_take_next(const char *letters) {
  for (; *letters; letters++) {
    for (size_t i = 0; i < OPTIONS_END; i++) {
      if (options_table[i].letter == *letters && options_table[i].argument)
        return letters[1] == '\0';
    }
  }
  return 0;
}

static int word_takes_next(const char *word, const char *next) {
  if (word[1] != '-') return letters_take_next(word + 1);
  return !strchr(word, '=') && long_takes_next(word + 2, next);
}

/* The places of the first two words that are no options; 0 where there is
** none. */
static void find_words(int argc, char **argv, int places[2]) {
  int found = 0, dashes = 0;
  places[0] = places[1] = 0;
  for (int i = 1; i < argc && found < 2; i++) {
    if (!dashes && strcmp(argv[i], "--") == 0) {
      dashes = 1;
    } else if (!dashes && word_is_option(argv[i])) {
      i += word_takes_next(argv[i], i + 1 < argc ? argv[i + 1] : NULL);
    } else {
      places[found++] = i;
    }
  }
}

/* Find a command of a group: "dead requeue", or "dead list" for "dead". */
static int find_subcommand(struct cli *cli, const char *group, char **argv,
                           int places[2]) {
  char name[64];
  const char *word = places[1] ? argv[places[1]] : "list";
  (void)snprintf(name, sizeof name, "%s %s", group, word);
  cli->command = command_find(name);
  if (places[1] == 0 || cli->command == NULL) cli->group = group;
  if (cli->command == NULL) return unknown_subcommand(cli, group, word);
  return 0;
}

/* Find the command; leaves in `places` where its words stand. */
static int find_command(struct cli *cli, int argc, char **argv, int places[2]) {
  find_words(argc, argv, places);
  if (places[0] == 0) return 0;
  const char *word = argv[places[0]];
  if (command_is_group(word)) return find_subcommand(cli, word, argv, places);
  places[1] = 0;
  cli->command = strchr(word, ' ') ? NULL : command_find(word);
  return cli->command ? 0 : unknown_command(cli, word);
}

/* ------------------------------------------------------------------------ */
/* Reading the words                                                        */
/* ------------------------------------------------------------------------ */

/* The option of the command with that name, or with that letter (name NULL). */
static enum option_id find_option(const struct cli *cli, const char *name,
                                  size_t length, char letter) {
  const struct command_option *lists[] = {
      cli->command ? cli->command->options : NULL, everywhere_table};
  for (size_t i = 0; i < 2; i++) {
    const struct command_option *option = lists[i];
    for (; option && option->id != OPTIONS_END; option++) {
      const struct option *row = &options_table[option->id];
      if (name ? name_is(row, name, length) : row->letter == letter)
        return option->id;
    }
  }
  return OPTIONS_END;
}

/* The words that are being read. */
struct words {
  int at;
  int count;
  char **list;
};

/* The value of an option: what stands beside it, or the next word. */
static int take_value(struct cli *cli, enum option_id id, const char *beside,
                      struct words *words) {
  const struct option *option = &options_table[id];
  if (beside) return take_option(cli, id, beside);
  if (words->at + 1 >= words->count)
    return cli_usage(cli, "--%s needs a value: %s", option->name,
                     option->argument);
  return take_option(cli, id, words->list[++words->at]);
}

static int read_long(struct cli *cli, struct words *words) {
  const char *name = words->list[words->at] + 2;
  size_t length = strcspn(name, "=");
  const char *beside = name[length] ? name + length + 1 : NULL;
  enum option_id id = find_option(cli, name, length, 0);
  if (id == OPTIONS_END) return unknown_option(cli, name, length);
  if (options_table[id].argument) return take_value(cli, id, beside, words);
  if (beside)
    return cli_usage(cli, "--%s takes no value", options_table[id].name);
  return take_option(cli, id, NULL);
}

static int read_letters(struct cli *cli, struct words *words) {
  const char *letters = words->list[words->at] + 1;
  for (; *letters; letters++) {
    enum option_id id = find_option(cli, NULL, 0, *letters);
    if (id == OPTIONS_END)
      return cli_usage(cli, "%s has no option -%c",
                       cli->command ? cli->command->name : "dibs", *letters);
    if (options_table[id].argument)
      return take_value(cli, id, letters[1] ? letters + 1 : NULL, words);
    int code = take_option(cli, id, NULL);
    if (code) return code;
  }
  return 0;
}

static int read_words(struct cli *cli, struct words *words,
                      const int places[2]) {
  for (words->at = 1; words->at < words->count; words->at++) {
    char *word = words->list[words->at];
    int code = 0;
    if (words->at == places[0] || words->at == places[1]) continue;
    if (!cli->dashes && strcmp(word, "--") == 0) {
      cli->dashes = 1;
      cli->before_dashes = cli->argument_count;
    } else if (cli->dashes || !word_is_option(word)) {
      cli->arguments[cli->argument_count++] = word;
    } else if (word[1] == '-') {
      code = read_long(cli, words);
    } else {
      code = read_letters(cli, words);
    }
    if (code) return code;
  }
  return 0;
}

/* Nonzero when --json stands somewhere: errors in what stands before it are
** to be in that form too. */
static int wants_json(int argc, char **argv) {
  for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
    if (strcmp(argv[i], "--json") == 0) return 1;
  }
  return 0;
}

int cli_parse(struct cli *cli, int argc, char **argv) {
  static const dibs_open_options open = DIBS_OPEN_OPTIONS_INIT;
  struct words words = {1, argc, argv};
  int places[2];
  memset(cli, 0, sizeof *cli);
  cli->open = open;
  output_set_json(wants_json(argc, argv));
  cli->arguments = calloc((size_t)argc + 1, sizeof *cli->arguments);
  if (cli->arguments == NULL) return cli_error(DIBS_NOMEM, "out of memory");
  int code = find_command(cli, argc, argv, places);
  if (code == 0) code = read_words(cli, &words, places);
  if (code == 0) output_set_json(cli_has(cli, OPTION_JSON));
  return code;
}

void cli_free(struct cli *cli) {
  for (size_t i = 0; i < OPTIONS_END; i++) free(cli->values[i].list);
  free(cli->arguments);
}

/* ------------------------------------------------------------------------ */
/* What was read                                                            */
/* ------------------------------------------------------------------------ */

int cli_has(const struct cli *cli, enum option_id id) {
  return cli->values[id].count > 0;
}

const char *cli_text(const struct cli *cli, enum option_id id) {
  return cli->values[id].text;
}

int64_t cli_number(const struct cli *cli, enum option_id id) {
  return cli_has(cli, id) ? cli->values[id].number : DIBS_UNSET;
}

double cli_real(const struct cli *cli, enum option_id id) {
  return cli_has(cli, id) ? cli->values[id].real : (double)NAN;
}

/* Nonzero when the queue that a command is for is named by -q. */
static int takes_queue(const struct command *command) {
  const struct command_option *option = command->options;
  while (option->id != OPTIONS_END && option->id != OPTION_QUEUE) option++;
  return option->id == OPTION_QUEUE;
}

/* Check that the command has as many arguments as it takes. */
static int check_arguments(const struct cli *cli) {
  const struct command *command = cli->command;
  if (cli->argument_count < command->least)
    return cli_usage(cli, "%s needs %s", command->name, command->arguments);
  if (cli->argument_count <= command->most) return 0;
  const char *queue = takes_queue(command) ? "; -q names a queue" : "";
  if (command->arguments == NULL)
    return cli_usage(cli, "%s does not take \"%s\"%s", command->name,
                     cli->arguments[0], queue);
  return cli_usage(cli, "%s takes %s, and \"%s\" is too much%s%s",
                   command->name, command->arguments,
                   cli->arguments[command->most],
                   strstr(command->arguments, "[PAYLOAD]") ||
                           strstr(command->arguments, "[TEXT]")
                       ? ": quote what belongs together"
                       : "",
                   queue);
}

/* The variable, or NULL when it is not set or empty. */
static const char *environment(const char *name) {
  const char *value = getenv(name);
  return value && *value ? value : NULL;
}

static int check_busy_timeout(struct cli *cli) {
  const char *text = environment("DIBS_BUSY_TIMEOUT");
  cli->open.busy_timeout = cli_number(cli, OPTION_BUSY_TIMEOUT);
  if (cli_has(cli, OPTION_BUSY_TIMEOUT) || text == NULL) return 0;
  if (dibs_parse_duration(text, &cli->open.busy_timeout) == DIBS_OK) return 0;
  return cli_usage(cli, "DIBS_BUSY_TIMEOUT \"%s\" is not valid; allowed is %s",
                   text, kind_allowed(KIND_DURATION));
}

int cli_check(struct cli *cli) {
  int code = check_arguments(cli);
  if (code == 0) code = check_busy_timeout(cli);
  if (code) return code;
  cli->open.max_payload = cli_number(cli, OPTION_MAX_PAYLOAD);
  if (cli_has(cli, OPTION_SYNCHRONOUS))
    cli->open.synchronous = (int)cli_number(cli, OPTION_SYNCHRONOUS);
  cli->db_path = cli_text(cli, OPTION_DB);
  if (cli->db_path == NULL) cli->db_path = environment("DIBS_DB");
  if (cli->db_path == NULL) cli->db_path = "dibs.db";
  if (*cli->db_path == '\0') return cli_usage(cli, "--db names no file");
  if (strcmp(cli->db_path, ":memory:") == 0)
    return cli_usage(cli, "--db :memory: would be gone when dibs ends: name a "
                          "file");
  return 0;
}

static const char *const all_queues[] = {DIBS_ALL};

int cli_queues(const struct cli *cli, int must, const char *const **queues,
               size_t *count) {
  const struct option_value *value = &cli->values[OPTION_QUEUE];
  if (cli_has(cli, OPTION_ALL) && value->count)
    return cli_usage(cli, "give -q or --all, not both");
  if (must && !cli_has(cli, OPTION_ALL) && value->count == 0)
    return cli_usage(cli,
                     "%s wants -q QUEUE or --all: it does not guess which "
                     "queue is meant",
                     cli->command->name);
  *queues =
      cli_has(cli, OPTION_ALL) ? all_queues : (const char *const *)value->list;
  *count = cli_has(cli, OPTION_ALL) ? 1 : value->count;
  return 0;
}

int cli_queue_arguments(const struct cli *cli, const char *const **queues,
                        size_t *count) {
  if (cli_has(cli, OPTION_ALL) && cli->argument_count)
    return cli_usage(cli, "give QUEUE or --all, not both");
  if (!cli_has(cli, OPTION_ALL) && cli->argument_count == 0)
    return cli_usage(cli, "%s needs QUEUE... or --all", cli->command->name);
  *queues = cli_has(cli, OPTION_ALL) ? all_queues
                                     : (const char *const *)cli->arguments;
  *count = cli_has(cli, OPTION_ALL) ? 1 : cli->argument_count;
  return 0;
}

int cli_open(struct cli *cli, int create, dibs_db **db) {
  cli->open.create = create;
  if (dibs_open(cli->db_path, &cli->open, db) == DIBS_OK) return 0;
  int code = cli_db_error(*db);
  (void)dibs_close(*db);
  *db = NULL;
  return code;
}

int64_t cli_id(const char *word) {
  int64_t id;
  if (!isdigit((unsigned char)*word) || !read_integer(word, &id)) return 0;
  return id <= DIBS_ID_MAX ? id : 0;
}

int cli_bad_id(const char *word) {
  struct cli_about about = CLI_ABOUT_INIT;
  about.word = word;
  return cli_error_about(DIBS_INVALID, &about, "\"%s\" is no job id", word);
}

int cli_word_real(const char *word, double *number) {
  return read_real(word, number);
}
