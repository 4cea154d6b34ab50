/* SPDX-License-Identifier: MIT */
/*
** output.c: what the dibs program says: errors, colours, the status line, and
** whether all of it arrived.
**
** The form is chosen once and kept here. A status line that is on the screen
** is taken away before anything else is written to stderr.
*/
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "output.h"

#define STATUS_EVERY 100 /* ms between two drawings of progress */
#define BAR_WIDTH    30  /* columns of the bar */

static struct {
  int json;         /* --json was given */
  int status_shown; /* a status line is on the screen */
  int lost;         /* errno of the first write to stdout that failed */
  int lost_told;    /* the user has been told of it */
} output;

void output_set_json(int json) {
  output.json = json;
}

int output_json(void) {
  return output.json;
}

/* ------------------------------------------------------------------------ */
/* Whether it arrived                                                       */
/* ------------------------------------------------------------------------ */

/* Why stdout failed some time ago, when errno tells no more: a pipe without a
** reader is in error. */
static int stdout_error(void) {
  struct pollfd out = {STDOUT_FILENO, POLLOUT, 0};
  return poll(&out, 1, 0) == 1 && (out.revents & POLLERR) ? EPIPE : EIO;
}

int output_lost(void) {
  errno = 0;
  int failed = fflush(stdout) != 0 || ferror(stdout);
  if (failed && output.lost == 0) output.lost = errno ? errno : stdout_error();
  return output.lost;
}

int output_tell_lost(void) {
  output.lost_told = 1;
  return output_lost();
}

int output_finish(void) {
  int lost = output_lost();
  if (lost == 0 || lost == EPIPE || output.lost_told) return 0;
  return cli_error(DIBS_IO, "writing to standard output: %s", strerror(lost));
}

/* ------------------------------------------------------------------------ */
/* Colour                                                                   */
/* ------------------------------------------------------------------------ */

static int colour_wanted(FILE *file) {
  const char *none = getenv("NO_COLOR");
  const char *terminal = getenv("TERM");
  if (none && *none) return 0;
  if (terminal && strcmp(terminal, "dumb") == 0) return 0;
  return fileno(file) >= 0 && isatty(fileno(file));
}

const char *colour_begin(FILE *file, enum colour colour) {
  static const char *const sequences[] = {
      "", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[34m"};
  return colour_wanted(file) ? sequences[colour] : "";
}

const char *colour_end(FILE *file) {
  return colour_wanted(file) ? "\x1b[0m" : "";
}

enum colour colour_of_state(int state) {
  switch (state) {
  case DIBS_READY: return COLOUR_GREEN;
  case DIBS_SCHEDULED:
  case DIBS_BLOCKED:
  case DIBS_STAGED: return COLOUR_YELLOW;
  case DIBS_RUNNING: return COLOUR_BLUE;
  case DIBS_DEAD: return COLOUR_RED;
  default: return COLOUR_DIM;
  }
}

/* ------------------------------------------------------------------------ */
/* Errors                                                                   */
/* ------------------------------------------------------------------------ */

static const char *status_name(int status) {
  const char *name = dibs_status_name(status);
  return name ? name : "DIBS_MISUSE";
}

static void print_json_error(int status, const struct cli_about *about,
                             const char *message) {
  (void)fprintf(stderr, "{\"error\":{\"status\":\"%s\",\"message\":",
                status_name(status));
  print_json_string(stderr, message);
  if (about->receipt) {
    (void)fputs(",\"receipt\":", stderr);
    print_json_string(stderr, about->receipt);
  }
  if (about->word) {
    (void)fputs(",\"id\":", stderr);
    print_json_string(stderr, about->word);
  }
  if (about->id > 0) (void)fprintf(stderr, ",\"id\":%" PRId64, about->id);
  if (about->line > 0) (void)fprintf(stderr, ",\"line\":%" PRId64, about->line);
  if (about->taken >= 0)
    (void)fprintf(stderr, ",\"taken\":%" PRId64, about->taken);
  (void)fputs("}}\n", stderr);
}

/* Write the receipt or id in front of a message that does not name it. */
static void print_subject(const struct cli_about *about, const char *message) {
  char number[24] = "";
  const char *subject = about->receipt ? about->receipt : about->word;
  if (subject == NULL && about->id > 0) {
    (void)snprintf(number, sizeof number, "%" PRId64, about->id);
    subject = number;
  }
  if (subject == NULL || strstr(message, subject)) return;
  (void)print_escaped(stderr, subject, strlen(subject), 0);
  (void)fputs(": ", stderr);
}

static void print_error(const struct cli_about *about, const char *message) {
  (void)fprintf(stderr, "%sdibs:%s ", colour_begin(stderr, COLOUR_RED),
                colour_end(stderr));
  print_subject(about, message);
  (void)print_escaped(stderr, message, strlen(message), 0);
  (void)fputc('\n', stderr);
}

static int error_list(int status, const struct cli_about *about,
                      const char *format, va_list arguments) {
  char *message = NULL;
  if (vasprintf(&message, format, arguments) < 0) message = NULL;
  const char *text = message ? message : "out of memory";
  (void)output_lost();
  status_clear();
  if (output.json) {
    print_json_error(status, about, text);
  } else {
    print_error(about, text);
  }
  free(message);
  return dibs_status_exit_code(status);
}

int cli_error(int status, const char *format, ...) {
  static const struct cli_about nothing = CLI_ABOUT_INIT;
  va_list arguments;
  va_start(arguments, format);
  int code = error_list(status, &nothing, format, arguments);
  va_end(arguments);
  return code;
}

int cli_error_about(int status, const struct cli_about *about,
                    const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int code = error_list(status, about, format, arguments);
  va_end(arguments);
  return code;
}

int cli_db_error(const dibs_db *db) {
  struct cli_about about = CLI_ABOUT_INIT;
  int status = db ? dibs_error_status(db) : DIBS_NOMEM;
  about.id = db ? dibs_error_id(db) : 0;
  return cli_error_about(status, &about, "%s", dibs_error(db));
}

void cli_note(const char *format, ...) {
  va_list arguments;
  char *message = NULL;
  if (output.json) return;
  va_start(arguments, format);
  if (vasprintf(&message, format, arguments) < 0) message = NULL;
  va_end(arguments);
  if (message == NULL) return;
  status_clear();
  (void)print_escaped(stderr, message, strlen(message), 0);
  (void)fputc('\n', stderr);
  free(message);
}

/* ------------------------------------------------------------------------ */
/* The status line                                                          */
/* ------------------------------------------------------------------------ */

int64_t monotonic_ms(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int status_possible(void) {
  const char *terminal = getenv("TERM");
  return !output.json && isatty(STDERR_FILENO) &&
         (terminal == NULL || strcmp(terminal, "dumb") != 0);
}

void status_clear(void) {
  if (!output.status_shown) return;
  (void)fputs("\r\x1b[K", stderr);
  (void)fflush(stderr);
  output.status_shown = 0;
}

void status_line(const char *format, ...) {
  va_list arguments;
  char *line = NULL;
  if (!status_possible()) return;
  va_start(arguments, format);
  if (vasprintf(&line, format, arguments) < 0) line = NULL;
  va_end(arguments);
  if (line == NULL) return;
  (void)fputs("\r\x1b[K", stderr);
  (void)print_escaped(stderr, line, strlen(line), 0);
  (void)fflush(stderr);
  output.status_shown = 1;
  free(line);
}

void progress_start(struct progress *progress, const char *noun,
                    int64_t total) {
  progress->total = total;
  progress->noun = noun;
  progress->started = monotonic_ms();
  progress->drawn = 0;
}

/* "######......" for a fraction. */
static void draw_bar(char bar[BAR_WIDTH + 1], double fraction) {
  int full = (int)(fraction * BAR_WIDTH);
  for (int i = 0; i < BAR_WIDTH; i++) bar[i] = i < full ? '#' : '.';
  bar[BAR_WIDTH] = '\0';
}

void progress_update(struct progress *progress, int64_t done, int64_t count) {
  int64_t now = monotonic_ms();
  if (now - progress->drawn < STATUS_EVERY || !status_possible()) return;
  double seconds = (double)(now - progress->started) / 1000;
  double rate = seconds > 0 ? (double)count / seconds : 0;
  progress->drawn = now;
  if (progress->total <= 0) {
    status_line("%" PRId64 " %ss, %.0f/s", count, progress->noun, rate);
    return;
  }
  char bar[BAR_WIDTH + 1];
  double fraction = (double)done / (double)progress->total;
  if (fraction > 1) fraction = 1;
  draw_bar(bar, fraction);
  status_line("[%s] %3.0f %%  %" PRId64 " %ss, %.0f/s", bar, fraction * 100,
              count, progress->noun, rate);
}
