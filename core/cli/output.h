/* SPDX-License-Identifier: MIT */
/*
** output.h: everything the dibs program writes goes through here.
**
** Data goes to stdout, all else to stderr. With --json each is one JSON object
** a line; without, it is for people: aligned, coloured on a terminal, and free
** of raw control characters, whatever payloads, names and errors hold.
**
** SIGPIPE is ignored in the whole program, so that a reader that goes away is
** seen as an error of output_finish() instead of ending the program between
** two jobs. Whoever starts another program must set SIGPIPE back first.
*/
#ifndef DIBS_CLI_OUTPUT_H
#define DIBS_CLI_OUTPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "dibs.h"

#if defined(__GNUC__)
#define CLI_PRINTF(string, first) __attribute__((format(printf, string, first)))
#else
#define CLI_PRINTF(string, first)
#endif

/* ------------------------------------------------------------------------ */
/* The form of the output                                                   */
/* ------------------------------------------------------------------------ */

/* Choose the form, once the command line is known. */
void output_set_json(int json);
int output_json(void);

/*
** Flush stdout, and say on stderr when it could not be written. Returns 0, or
** an exit code. A reader that has closed the pipe has what it wanted: that is
** no failure.
*/
int output_finish(void);

/* Flush stdout. Returns the errno of the first write to it that failed: EPIPE
** when its reader went away; 0 when all arrived. */
int output_lost(void);

/* The same, by one who tells the user; output_finish() does not again. */
int output_tell_lost(void);

/* ------------------------------------------------------------------------ */
/* Errors                                                                   */
/* ------------------------------------------------------------------------ */

/* What an error speaks of: members of the error object in JSON. */
struct cli_about {
  const char *receipt; /* NULL: none */
  const char *word;    /* an id as it was typed, when it is no number */
  int64_t id;          /* 0: none */
  int64_t line;        /* of the input, from 1; 0: none */
  int64_t taken;       /* jobs taken before; -1: not said */
};

#define CLI_ABOUT_INIT                                                         \
  { NULL, NULL, 0, 0, -1 }

/*
** Print an error to stderr, for people as "dibs: message", in JSON as
** {"error":{"status","message",...}}. Returns the exit code of the status. The
** message needs no escaping and no line end.
*/
int cli_error(int status, const char *format, ...) CLI_PRINTF(2, 3);
int cli_error_about(int status, const struct cli_about *about,
                    const char *format, ...) CLI_PRINTF(3, 4);

/* The same for the last failure of a handle. */
int cli_db_error(const dibs_db *db);

/* A remark for people on stderr; nothing in JSON. */
void cli_note(const char *format, ...) CLI_PRINTF(1, 2);

/* ------------------------------------------------------------------------ */
/* Text                                                                     */
/* ------------------------------------------------------------------------ */

/* Write text for people: C0, DEL and C1 characters and what is no UTF-8 are
** shown as \n, \x1b, \u009b. At most `limit` characters (0: all), then "...".
** Returns how many columns that took. */
size_t print_escaped(FILE *file, const void *text, size_t size, size_t limit);

/* Write a JSON string with its quotes. What is no UTF-8 becomes U+FFFD. */
void print_json_string(FILE *file, const char *text);
void print_json_string_sized(FILE *file, const void *text, size_t size);

/* How many bytes of valid UTF-8 stand at the beginning of a text. */
size_t utf8_valid_size(const void *text, size_t size);

/* "1 job", "2 jobs": the noun with its number. */
void print_count(FILE *file, int64_t count, const char *noun);

/* ------------------------------------------------------------------------ */
/* Colour                                                                   */
/* ------------------------------------------------------------------------ */

enum colour {
  COLOUR_NONE,
  COLOUR_BOLD,
  COLOUR_DIM,
  COLOUR_RED,
  COLOUR_GREEN,
  COLOUR_YELLOW,
  COLOUR_BLUE
};

/* The sequence that begins a colour on a file, "" when it is no terminal or
** NO_COLOR is set. colour_end() ends any. */
const char *colour_begin(FILE *file, enum colour colour);
const char *colour_end(FILE *file);

/* The colour in which a state is shown. */
enum colour colour_of_state(int state);

/* ------------------------------------------------------------------------ */
/* Tables                                                                   */
/* ------------------------------------------------------------------------ */

/* Rows of cells, aligned when printed. */
struct table;

/* `heads` are the column heads; one that begins with '>' is for a column whose
** cells stand on the right. NULL when memory ran out, which all others take. */
struct table *table_new(const char *const *heads, size_t count);

/* Add the next cell, row by row from the left. It is escaped when printed. */
void table_text(struct table *table, const char *text, enum colour colour);
void table_bytes(struct table *table, const void *data, size_t size,
                 enum colour colour);
void table_number(struct table *table, int64_t number, enum colour colour);

/* Print the table with its heads, the last column clipped to `width` columns
** in all (0: the terminal's width, or not at all), and free it. */
void table_print(struct table *table, FILE *file, size_t width);

/* ------------------------------------------------------------------------ */
/* The status line                                                          */
/* ------------------------------------------------------------------------ */

/* Nonzero when stderr is a terminal that can have a status line. */
int status_possible(void);

/* Show one line on stderr in place of the one shown before; nothing when
** stderr is no terminal. cli_error() and cli_note() take it away first. */
void status_line(const char *format, ...) CLI_PRINTF(1, 2);
void status_clear(void);

/* Progress as a status line, drawn at most ten times a second; status_clear()
** ends it. */
struct progress {
  int64_t total;    /* bytes that there will be; 0: not known */
  int64_t started;  /* ms of the monotonic clock */
  int64_t drawn;    /* ms when last drawn */
  const char *noun; /* "job" */
};

void progress_start(struct progress *progress, const char *noun, int64_t total);
/* `done` of the total, `count` of the noun so far. */
void progress_update(struct progress *progress, int64_t done, int64_t count);

/* Milliseconds of a clock that never jumps. */
int64_t monotonic_ms(void);

#endif
