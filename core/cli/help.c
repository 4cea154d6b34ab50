/* SPDX-License-Identifier: MIT */
/*
** help.c: how dibs is used, made of the table in commands.c: --help of each
** command and of the program, and the manual page in mdoc.
*/
#include <string.h>

#include "cli.h"

#define HELP_WIDTH  79 /* columns of a line */
#define HELP_INDENT 26 /* where the texts of a list begin */
#define MAN_WIDTH   72 /* bytes of a line of the manual page's source */

/* What the forms of values are, in both. */
#define VALUES_TEXT                                                            \
  "D is a duration: 250ms, 30s, 5m, 2h, 7d, or a number of seconds. TIME is "  \
  "as in 2026-01-31T12:00:00Z. QUEUE, NAME and KEY are 1 to 255 bytes of "     \
  "UTF-8 without control characters and *; a queue's name may have levels, "   \
  "as in thumbs/user-42, and thumbs/* is all queues beneath thumbs."

#define OUTPUT_TEXT                                                            \
  "Options may stand anywhere; -- ends them. Data is printed to standard "     \
  "output, all else to standard error. With --json both are one JSON object "  \
  "a line, an error being {\"error\":{\"status\",\"message\"}}."

/* ------------------------------------------------------------------------ */
/* Wrapping                                                                 */
/* ------------------------------------------------------------------------ */

static size_t print_indent(FILE *file, size_t indent) {
  for (size_t i = 0; i < indent; i++) (void)fputc(' ', file);
  return indent;
}

/* Print text wrapped at HELP_WIDTH, each line but the first indented, which
** begins at `column`. A newline in the text is one in print. */
static void print_wrapped(FILE *file, const char *text, size_t indent,
                          size_t column) {
  int first = 1; /* no word stands on this line yet */
  while (*text) {
    size_t length = strcspn(text, " \n");
    if (!first && column + 1 + length > HELP_WIDTH) {
      (void)fputc('\n', file);
      column = print_indent(file, indent);
      first = 1;
    }
    if (!first) (void)fputc(' ', file);
    (void)fwrite(text, 1, length, file);
    column += length + !first;
    first = 0;
    text += length;
    for (; *text == '\n'; first = 1) {
      (void)fputc('\n', file);
      if (*++text != '\n') column = print_indent(file, indent);
    }
    while (*text == ' ') text++;
  }
  (void)fputc('\n', file);
}

/* Print "  label   text", the text on lines of its own when the label is
** long. */
static void print_item(FILE *file, const char *label, const char *text) {
  size_t column = 2 + strlen(label);
  (void)fprintf(file, "  %s", label);
  if (column + 2 > HELP_INDENT) {
    (void)fputc('\n', file);
    column = 0;
  }
  print_indent(file, HELP_INDENT - column);
  print_wrapped(file, text, HELP_INDENT, HELP_INDENT);
}

static void print_head(FILE *file, const char *head) {
  (void)fprintf(file, "\n%s%s%s\n", colour_begin(file, COLOUR_BOLD), head,
                colour_end(file));
}

/* ------------------------------------------------------------------------ */
/* --help                                                                   */
/* ------------------------------------------------------------------------ */

static void print_options(FILE *file, const struct command_option *options) {
  for (; options->id != OPTIONS_END; options++) {
    const struct option *option = &options_table[options->id];
    char label[80];
    char letter[5] = "";
    if (option->letter)
      (void)snprintf(letter, sizeof letter, "-%c, ", option->letter);
    (void)snprintf(label, sizeof label, "%s--%s%s%s", letter, option->name,
                   option->argument ? " " : "",
                   option->argument ? option->argument : "");
    print_item(file, label, command_option_help(options));
  }
}

static void print_everywhere(FILE *file) {
  print_head(file, "Options of every command:");
  print_options(file, everywhere_table);
}

static void print_command(FILE *file, const struct command *command) {
  (void)fprintf(file, "dibs %s: %s\n\nUsage: dibs %s [OPTION]...%s%s\n",
                command->name, command->summary, command->name,
                command->arguments ? " " : "",
                command->arguments ? command->arguments : "");
  if (command->details) {
    (void)fputc('\n', file);
    print_wrapped(file, command->details, 0, 0);
  }
  if (command->options->id != OPTIONS_END) {
    print_head(file, "Options:");
    print_options(file, command->options);
  }
  print_everywhere(file);
  print_head(file, "Examples:");
  for (const char *line = command->example; *line;) {
    size_t length = strcspn(line, "\n");
    (void)fprintf(file, "  %.*s\n", (int)length, line);
    line += length + (line[length] == '\n');
  }
}

static void print_commands(FILE *file, const char *group) {
  size_t length = group ? strlen(group) : 0;
  for (size_t i = 0; i < commands_count; i++) {
    const struct command *command = &commands_table[i];
    if (group && (strncmp(command->name, group, length) != 0 ||
                  command->name[length] != ' '))
      continue;
    print_item(file, command->name, command->summary);
  }
}

/* "DIBS_EMPTY, DIBS_NOT_FOUND" for an exit code; "" when none has it. */
static const char *statuses_of(int code, char *text, size_t size) {
  size_t used = 0;
  text[0] = '\0';
#define STATUS_OF(number, name, exit_code, meaning)                            \
  if ((exit_code) == code && used < size)                                      \
    used += (size_t)snprintf(text + used, size - used, "%sDIBS_" #name,        \
                             used ? ", " : "");
  DIBS_STATUS_MAP(STATUS_OF)
#undef STATUS_OF
  return text;
}

/* Call `each` with every exit code and what it means. */
static void exit_codes_each(FILE *file,
                            void (*each)(FILE *, const char *, const char *)) {
  for (int code = 0; code < 256; code++) {
    char number[8];
    char names[200];
    const char *text = statuses_of(code, names, sizeof names);
    if (code == 0) text = "success";
    if (code == 1) text = "doctor found something broken";
    (void)snprintf(number, sizeof number, "%d", code);
    if (*text) each(file, number, text);
  }
}

static void print_program(FILE *file) {
  (void)fputs("dibs: a job queue in your SQLite file\n\n"
              "Usage: dibs [OPTION]... COMMAND [ARGUMENT]...\n",
              file);
  print_head(file, "Commands:");
  print_commands(file, NULL);
  print_everywhere(file);
  (void)fputc('\n', file);
  print_wrapped(file, VALUES_TEXT, 0, 0);
  (void)fputc('\n', file);
  print_wrapped(file, OUTPUT_TEXT, 0, 0);
  print_head(file, "Exit codes:");
  exit_codes_each(file, print_item);
  (void)fputs("\ndibs COMMAND --help says how a command is used.\n", file);
}

void help_print(FILE *file, const struct command *command) {
  if (command) {
    print_command(file, command);
  } else {
    print_program(file);
  }
}

void help_print_group(FILE *file, const char *group) {
  (void)fprintf(file, "Usage: dibs %s COMMAND [OPTION]... [ARGUMENT]...\n",
                group);
  print_head(file, "Commands:");
  print_commands(file, group);
  (void)fprintf(file, "\ndibs %s alone is dibs %s list.\n", group, group);
  (void)fprintf(file, "dibs %s COMMAND --help says how it is used.\n", group);
}

/* ------------------------------------------------------------------------ */
/* The manual page                                                          */
/* ------------------------------------------------------------------------ */

/* Print text with what roff would act upon escaped; returns its bytes. */
static size_t man_escaped(FILE *file, const char *text, size_t length) {
  size_t written = length;
  for (size_t i = 0; i < length; i++) {
    if (text[i] == '\\' || text[i] == '-') {
      (void)fputs(text[i] == '-' ? "\\-" : "\\e", file);
      written++;
    } else {
      (void)fputc(text[i], file);
    }
  }
  return written;
}

/* Print a line as it is. */
static void man_line(FILE *file, const char *text, size_t length) {
  if (length && (*text == '.' || *text == '\'')) (void)fputs("\\&", file);
  (void)man_escaped(file, text, length);
  (void)fputc('\n', file);
}

/* Print a sentence on lines that are not too long for a roff file. */
static void man_sentence(FILE *file, const char *text, size_t length) {
  size_t column = 0;
  for (const char *end = text + length; text < end;) {
    size_t size = strcspn(text, " ");
    if (size > (size_t)(end - text)) size = (size_t)(end - text);
    if (column > 0 && column + 1 + size > MAN_WIDTH) {
      (void)fputc('\n', file);
      column = 0;
    } else if (column > 0) {
      (void)fputc(' ', file);
    }
    if (column == 0 && (*text == '.' || *text == '\''))
      (void)fputs("\\&", file);
    column += man_escaped(file, text, size) + 1;
    text += size;
    while (text < end && *text == ' ') text++;
  }
  (void)fputc('\n', file);
}

/* The length of the sentence that a text begins with. */
static size_t sentence_length(const char *text) {
  size_t length = 0;
  while (text[length] && text[length] != '\n') {
    if (text[length] == '.' && text[length + 1] == ' ') return length + 1;
    length++;
  }
  return length;
}

/* Print paragraphs, each sentence on a line of its own as mdoc wants it. */
static void man_text(FILE *file, const char *text) {
  while (*text) {
    size_t length = sentence_length(text);
    man_sentence(file, text, length);
    text += length;
    if (strncmp(text, "\n\n", 2) == 0) (void)fputs(".Pp\n", file);
    while (*text == ' ' || *text == '\n') text++;
  }
}

static void man_options(FILE *file, const struct command_option *options) {
  (void)fputs(".Bl -tag -width Ds\n", file);
  for (; options->id != OPTIONS_END; options++) {
    const struct option *option = &options_table[options->id];
    (void)fputs(".It ", file);
    if (option->letter) (void)fprintf(file, "Fl %c , ", option->letter);
    (void)fprintf(file, "Fl Fl %s", option->name);
    if (option->argument) (void)fprintf(file, " Ar %s", option->argument);
    (void)fputc('\n', file);
    man_text(file, command_option_help(options));
  }
  (void)fputs(".El\n", file);
}

static void man_example(FILE *file, const char *lines) {
  (void)fputs(".Bd -literal -offset indent\n", file);
  while (*lines) {
    size_t length = strcspn(lines, "\n");
    man_line(file, lines, length);
    lines += length + (lines[length] == '\n');
  }
  (void)fputs(".Ed\n", file);
}

static void man_command(FILE *file, const struct command *command) {
  (void)fprintf(file, ".Ss dibs %s\n", command->name);
  (void)fputs(".Bd -literal -offset indent\n", file);
  (void)fprintf(file, "dibs %s [OPTION]...%s%s\n.Ed\n.Pp\n", command->name,
                command->arguments ? " " : "",
                command->arguments ? command->arguments : "");
  (void)fprintf(file, "To %s.\n", command->summary);
  if (command->details) {
    (void)fputs(".Pp\n", file);
    man_text(file, command->details);
  }
  if (command->options->id != OPTIONS_END) man_options(file, command->options);
  (void)fputs(".Pp\nFor example:\n", file);
  man_example(file, command->example);
}

static void man_item(FILE *file, const char *label, const char *text) {
  (void)fprintf(file, ".It %s\n", label);
  man_text(file, text);
}

static void man_environment(FILE *file) {
  (void)fputs(".Sh ENVIRONMENT\n.Bl -tag -width Ds\n", file);
  man_item(file, "Ev DIBS_DB", "The database, unless --db is given.");
  man_item(file, "Ev DIBS_BUSY_TIMEOUT",
           "How long to wait for other writers, unless --busy-timeout is "
           "given.");
  man_item(file, "Ev NO_COLOR", "If set and not empty, print no colours.");
  (void)fputs(".El\n", file);
}

void help_print_man(FILE *file) {
  (void)fputs(".Dd November 21, 2026\n.Dt DIBS 1\n.Os\n"
              ".Sh NAME\n.Nm dibs\n.Nd a job queue in your SQLite file\n"
              ".Sh SYNOPSIS\n.Nm\n.Op Ar OPTION ...\n.Ar COMMAND\n"
              ".Op Ar ARGUMENT ...\n.Sh DESCRIPTION\n",
              file);
  man_text(file, OUTPUT_TEXT);
  (void)fputs(".Pp\n", file);
  man_text(file, VALUES_TEXT);
  (void)fputs(".Pp\nThese options belong to every command:\n", file);
  man_options(file, everywhere_table);
  (void)fputs(".Sh COMMANDS\n", file);
  for (size_t i = 0; i < commands_count; i++)
    man_command(file, &commands_table[i]);
  man_environment(file);
  (void)fputs(".Sh EXIT STATUS\n.Bl -tag -width Ds\n", file);
  exit_codes_each(file, man_item);
  (void)fputs(".El\n", file);
}

/* ------------------------------------------------------------------------ */
/* The command                                                              */
/* ------------------------------------------------------------------------ */

int run_help(struct cli *cli) {
  char name[64];
  const char *first = cli->arguments[0];
  const char *second = cli->argument_count > 1 ? cli->arguments[1] : NULL;
  if (cli_has(cli, OPTION_MAN)) return help_print_man(stdout), 0;
  if (first == NULL) return help_print(stdout, NULL), 0;
  if (second == NULL && command_is_group(first))
    return help_print_group(stdout, first), 0;
  (void)snprintf(name, sizeof name, "%s%s%s", first, second ? " " : "",
                 second ? second : "");
  const struct command *command = command_find(name);
  if (command == NULL)
    return cli_usage(cli, "there is no command \"%s\"", name);
  return help_print(stdout, command), 0;
}
