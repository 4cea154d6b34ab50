/* SPDX-License-Identifier: MIT */
/*
** complete.c: completion scripts, made of the table in commands.c.
**
** Both scripts walk over the words before the cursor as options.c does: they
** skip options and their values, so that the command is found wherever it
** stands. Then they offer the option's values, the command's options, its
** words, or the commands. Tables of the C side become functions with a "case":
** _dibs_valued tells whether an option of a command takes a value, _dibs_values
** what that may be (@file, @folder, and @queue, which asks the database),
** _dibs_options the options of
** a command, _dibs_words what may follow it.
*/
#include <ctype.h>
#include <string.h>

#include "cli.h"

/* ------------------------------------------------------------------------ */
/* What both shells share                                                   */
/* ------------------------------------------------------------------------ */

/* Print the words of "a|b|D", with those left out that stand for any value:
** they are in capitals. */
static void print_choices(const char *argument) {
  while (*argument) {
    size_t size = strcspn(argument, "|");
    if (islower((unsigned char)*argument)) printf(" %.*s", (int)size, argument);
    argument += size + (argument[size] == '|');
  }
}

/* Print an option's letter, if it has one, and name, each between a prefix and
** an end. */
static void print_option_names(const struct option *option, const char *between,
                               const char *prefix, const char *end) {
  if (option->letter) printf("%s-%c%s%s", prefix, option->letter, end, between);
  printf("%s--%s%s", prefix, option->name, end);
}

/* What may be the value of an option, when it is no fixed word. */
static const char *value_marker(enum option_id id) {
  if (id == OPTION_QUEUE) return " @queue";
  if (options_table[id].kind == KIND_FILE) return " @file";
  if (options_table[id].kind == KIND_FOLDER) return " @folder";
  return "";
}

/* Nonzero when an option before has the same name, and takes a value too. */
static int is_named_before(size_t place) {
  for (size_t i = 0; i < place; i++) {
    if (options_table[i].argument &&
        strcmp(options_table[i].name, options_table[place].name) == 0)
      return 1;
  }
  return 0;
}

/* Nonzero when another option has the same name, and takes a value too. */
static int is_ambiguous(enum option_id id) {
  if (is_named_before(id)) return 1;
  for (size_t i = (size_t)id + 1; i < OPTIONS_END; i++) {
    if (options_table[i].argument &&
        strcmp(options_table[i].name, options_table[id].name) == 0)
      return 1;
  }
  return 0;
}

/* The values of an option, as the rest of a row of _dibs_values. */
static void print_values_row(enum option_id id) {
  const struct option *option = &options_table[id];
  printf(") found=\"%s", value_marker(id));
  if (option->kind == KIND_CHOICE || option->kind == KIND_UNTIL ||
      option->kind == KIND_SETTING)
    print_choices(option->argument);
  if (option->kind == KIND_ENDLESS) printf(" inf");
  printf("\" ;;\n");
}

/* The same for an option that shares its name with another of other values. */
static void print_values_of(const struct command *command) {
  const struct command_option *own = command->options;
  for (; own->id != OPTIONS_END; own++) {
    if (options_table[own->id].argument == NULL || !is_ambiguous(own->id))
      continue;
    printf("    \"%s --%s\"", command->name, options_table[own->id].name);
    print_values_row(own->id);
  }
}

/* _dibs_values COMMAND OPTION: sets `found` to the values of it. */
static void print_values(void) {
  printf("_dibs_values() {\n  case \"$1 $2\" in\n");
  for (size_t i = 0; i < commands_count; i++)
    print_values_of(&commands_table[i]);
  for (size_t i = 0; i < OPTIONS_END; i++) {
    const struct option *option = &options_table[i];
    if (option->argument == NULL || is_named_before(i)) continue;
    printf("    ");
    print_option_names(option, "|", "*\" ", "\"");
    print_values_row((enum option_id)i);
  }
  printf("    *) found= ;;\n  esac\n}\n\n");
}

static void print_valued_list(const struct command_option *options,
                              const char *command) {
  for (; options->id != OPTIONS_END; options++) {
    const struct option *option = &options_table[options->id];
    if (option->argument == NULL) continue;
    if (option->letter)
      printf("    \"%s -%c\") return 0 ;;\n", command, option->letter);
    printf("    \"%s --%s\") return 0 ;;\n", command, option->name);
  }
}

/* _dibs_valued COMMAND OPTION: succeeds if it takes a value. Before the
** command is known, any command's option may be meant. */
static void print_valued(void) {
  printf("_dibs_valued() {\n  case \"$1 $2\" in\n");
  for (size_t i = 0; i < commands_count; i++)
    print_valued_list(commands_table[i].options, commands_table[i].name);
  for (size_t i = 0; i < OPTIONS_END; i++) {
    const struct option *option = &options_table[i];
    if (option->argument == NULL || is_named_before(i)) continue;
    if (option->letter) printf("    \" -%c\") return 0 ;;\n", option->letter);
    printf("    \" --%s\") return 0 ;;\n", option->name);
  }
  for (size_t i = 0; everywhere_table[i].id != OPTIONS_END; i++) {
    const struct option *option = &options_table[everywhere_table[i].id];
    if (option->argument) printf("    *\" --%s\") return 0 ;;\n", option->name);
  }
  printf("  esac\n  return 1\n}\n\n");
}

/* Nonzero for the first command of its group, or one of none. */
static int is_first_of_group(size_t place) {
  const char *name = commands_table[place].name;
  size_t length = strcspn(name, " ");
  return name[length] == '\0' || place == 0 ||
         strncmp(commands_table[place - 1].name, name, length + 1) != 0;
}

/* Print what follows a group's name, "list requeue". */
static void print_subcommands(const char *group, size_t length) {
  for (size_t i = 0; i < commands_count; i++) {
    const char *name = commands_table[i].name;
    if (strncmp(name, group, length) == 0 && name[length] == ' ')
      printf(" %s", name + length + 1);
  }
}

static void print_command_names(void) {
  for (size_t i = 0; i < commands_count; i++) {
    const char *name = commands_table[i].name;
    if (is_first_of_group(i)) printf(" %.*s", (int)strcspn(name, " "), name);
  }
}

/* _dibs_words COMMAND: sets `found` to the words that may follow it. */
static void print_words(void) {
  printf("_dibs_words() {\n  case $1 in\n    '') found=\"");
  print_command_names();
  printf("\" ;;\n    help) found=\"");
  print_command_names();
  printf("\" ;;\n");
  for (size_t i = 0; i < commands_count; i++) {
    const struct command *command = &commands_table[i];
    size_t length = strcspn(command->name, " ");
    if (command->name[length] && is_first_of_group(i)) {
      printf("    %.*s) found=\"", (int)length, command->name);
      print_subcommands(command->name, length);
      printf("\" ;;\n");
    }
    if (command->words) {
      printf("    \"%s\") found=\"", command->name);
      if (*command->words == '@')
        printf(" %s", command->words);
      else
        print_choices(command->words);
      printf("\" ;;\n");
    }
  }
  printf("    *) found= ;;\n  esac\n}\n\n");
}

static void print_group_case(void) {
  for (size_t i = 0, count = 0; i < commands_count; i++) {
    const char *name = commands_table[i].name;
    size_t length = strcspn(name, " ");
    if (name[length] == '\0' || !is_first_of_group(i)) continue;
    printf("%s%.*s", count++ ? "|" : "", (int)length, name);
  }
}

/* _dibs_queues: sets `found` to the queues that there are, as far as a shell
** takes their names without quotes. */
static void print_queues(void) {
  printf("_dibs_queues() {\n"
         "  found=$(dibs ${database:+--db \"$database\"} --busy-timeout 0 "
         "--json \\\n"
         "    queue list 2>/dev/null |\n"
         "    sed -n 's/^{\"queue\":\"\\([A-Za-z0-9_.@%%+,\\/-]*\\)\".*/"
         "\\1/p')\n"
         "}\n\n");
}

/* _dibs_walk WORD...: the walk over the words before the cursor. Sets
** `command`, `option` to one that waits for its value, `dashes` after a "--",
** and `database` to what --db names. */
static void print_walk(void) {
  printf("_dibs_walk() {\n"
         "  local word\n"
         "  command='' option='' dashes='' database=''\n"
         "  for word in \"$@\"; do\n"
         "    if [[ -n $option ]]; then\n"
         "      if [[ $option == --db ]]; then database=$word; fi\n"
         "      option=\n"
         "    elif [[ -n $dashes ]]; then\n"
         "      continue\n"
         "    elif [[ $word == -- ]]; then\n"
         "      dashes=1\n"
         "    elif [[ $word == --db=* ]]; then\n"
         "      database=${word#*=}\n"
         "    elif [[ $word == -?* ]]; then\n"
         "      if _dibs_valued \"$command\" \"$word\"; then\n"
         "        option=$word\n"
         "      fi\n"
         "    elif [[ -z $command ]]; then\n"
         "      command=$word\n"
         "    else\n"
         "      case $command in\n        ");
  print_group_case();
  printf(") command=\"$command $word\" ;;\n"
         "      esac\n"
         "    fi\n"
         "  done\n"
         "}\n\n");
}

/* The words of a case that mean a command: "dead list" is "dead" too. */
static void print_case_words(const char *name) {
  const char *space = strchr(name, ' ');
  printf("    \"%s\"", name);
  if (space && strcmp(space, " list") == 0)
    printf(" | %.*s", (int)(space - name), name);
}

/* ------------------------------------------------------------------------ */
/* bash                                                                     */
/* ------------------------------------------------------------------------ */

static void bash_option_list(const struct command_option *options) {
  for (; options->id != OPTIONS_END; options++)
    print_option_names(&options_table[options->id], "", " ", "");
}

static void bash_options(void) {
  printf("_dibs_options() {\n  case $1 in\n");
  for (size_t i = 0; i < commands_count; i++) {
    const struct command *command = &commands_table[i];
    print_case_words(command->name);
    printf(") found=\"");
    bash_option_list(command->options);
    printf("\" ;;\n");
  }
  printf("    *) found= ;;\n  esac\n  found=\"$found");
  bash_option_list(everywhere_table);
  printf("\"\n}\n\n");
}

static void print_bash(void) {
  printf(
      "# Completion of dibs for bash, made by \"dibs completion bash\".\n\n");
  print_values();
  print_valued();
  bash_options();
  print_words();
  print_queues();
  print_walk();
  /* The line is read anew, because COMP_WORDS is broken at = and : too. */
  printf("_dibs() {\n"
         "  local found command option dashes database current\n"
         "  local line=${COMP_LINE:0:COMP_POINT}\n"
         "  local -a list\n"
         "  read -ra list <<<\"$line\"\n"
         "  if [[ $line == *[[:space:]] ]]; then list+=(''); fi\n"
         "  current=${list[${#list[@]} - 1]}\n"
         "  COMPREPLY=()\n"
         "  _dibs_walk \"${list[@]:1:${#list[@]} - 2}\"\n"
         "  if [[ -n $dashes ]]; then\n"
         "    found=' @file'\n"
         "  elif [[ -z $option && $current == --*=* ]]; then\n"
         "    option=${current%%%%=*} current=${current#*=}\n"
         "    _dibs_values \"$command\" \"$option\"\n"
         "  elif [[ -n $option ]]; then\n"
         "    _dibs_values \"$command\" \"$option\"\n"
         "  elif [[ $current == -* ]]; then\n"
         "    _dibs_options \"$command\"\n"
         "  else\n"
         "    _dibs_words \"$command\"\n"
         "  fi\n"
         "  if [[ $found == ' @queue' ]]; then _dibs_queues; fi\n"
         "  case $found in\n"
         "    ' @file') compopt -o filenames 2>/dev/null\n"
         "      mapfile -t COMPREPLY < <(compgen -f -- \"$current\") ;;\n"
         "    ' @folder') compopt -o filenames 2>/dev/null\n"
         "      mapfile -t COMPREPLY < <(compgen -d -- \"$current\") ;;\n"
         "    *) mapfile -t COMPREPLY < <(compgen -W \"$found\" -- "
         "\"$current\") ;;\n"
         "  esac\n"
         "}\n\n"
         "complete -F _dibs dibs\n");
}

/* ------------------------------------------------------------------------ */
/* zsh                                                                      */
/* ------------------------------------------------------------------------ */

/* Print text for single quotes, with the colons that _describe splits at
** escaped. */
static void zsh_quoted(const char *text) {
  for (; *text; text++) {
    if (*text == '\'') {
      printf("'\\''");
    } else if (*text == ':') {
      printf("\\:");
    } else {
      putchar(*text);
    }
  }
}

static void zsh_option_list(const struct command_option *options) {
  for (; options->id != OPTIONS_END; options++) {
    const struct option *option = &options_table[options->id];
    if (option->letter) {
      printf(" '-%c:", option->letter);
      zsh_quoted(command_option_help(options));
      printf("'");
    }
    printf(" '--%s:", option->name);
    zsh_quoted(command_option_help(options));
    printf("'");
  }
}

static void zsh_options(void) {
  printf("_dibs_options() {\n  case $1 in\n");
  for (size_t i = 0; i < commands_count; i++) {
    const struct command *command = &commands_table[i];
    print_case_words(command->name);
    printf(") described=(");
    zsh_option_list(command->options);
    printf(") ;;\n");
  }
  printf("    *) described=() ;;\n  esac\n  described+=(");
  zsh_option_list(everywhere_table);
  printf(")\n}\n\n");
}

/* The commands with their summaries, for the first word. */
static void zsh_commands(void) {
  printf("_dibs_commands() {\n  described=(");
  for (size_t i = 0; i < commands_count; i++) {
    const struct command *command = &commands_table[i];
    if (!is_first_of_group(i)) continue;
    printf(" '%.*s:", (int)strcspn(command->name, " "), command->name);
    zsh_quoted(command->summary);
    printf("'");
  }
  printf(")\n}\n\n");
}

static void print_zsh(void) {
  printf("#compdef dibs\n"
         "# Completion of dibs for zsh, made by \"dibs completion zsh\".\n\n");
  print_values();
  print_valued();
  zsh_options();
  zsh_commands();
  print_words();
  print_queues();
  print_walk();
  printf("_dibs() {\n"
         "  local found command option dashes database\n"
         "  local -a described\n"
         "  _dibs_walk \"${(@)words[2,CURRENT-1]}\"\n"
         "  if [[ -n $dashes ]]; then\n"
         "    _files\n"
         "    return\n"
         "  fi\n"
         "  if [[ -z $option && $PREFIX == --*=* ]]; then\n"
         "    option=${PREFIX%%%%=*}\n"
         "    compset -P '*='\n"
         "  fi\n"
         "  if [[ -n $option ]]; then\n"
         "    _dibs_values \"$command\" \"$option\"\n"
         "  elif [[ $PREFIX == -* ]]; then\n"
         "    _dibs_options \"$command\"\n"
         "    _describe -o option described\n"
         "    return\n"
         "  elif [[ -z $command ]]; then\n"
         "    _dibs_commands\n"
         "    _describe command described\n"
         "    return\n"
         "  else\n"
         "    _dibs_words \"$command\"\n"
         "  fi\n"
         "  if [[ $found == ' @queue' ]]; then _dibs_queues; fi\n"
         "  case $found in\n"
         "    ' @file') _files ;;\n"
         "    ' @folder') _files -/ ;;\n"
         "    *) compadd -- ${=found} ;;\n"
         "  esac\n"
         "}\n\n"
         "if [[ ${funcstack[1]} == _dibs ]]; then\n"
         "  _dibs \"$@\"\n"
         "else\n"
         "  compdef _dibs dibs\n"
         "fi\n");
}

int run_completion(struct cli *cli) {
  const char *shell = cli->arguments[0];
  if (strcmp(shell, "bash") == 0) return print_bash(), 0;
  if (strcmp(shell, "zsh") == 0) return print_zsh(), 0;
  return cli_usage(cli,
                   "there is no completion for \"%s\"; allowed is bash, "
                   "zsh",
                   shell);
}
