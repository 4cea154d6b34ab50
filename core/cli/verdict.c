/* SPDX-License-Identifier: MIT */
/*
** verdict.c: owns the meaning of exit codes and signals, and the text that is
** kept as a job's error.
*/
#include "verdict.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "output.h"

/* A command's words, besides 0. Any other, as 75, means "again". */
#define EXIT_FAIL    65 /* for good */
#define EXIT_RELEASE 69 /* not now */

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD, for what no text can hold */

static const struct {
  int number;
  const char *name;
} SIGNALS[] = {{SIGHUP, "HUP"},   {SIGINT, "INT"},   {SIGQUIT, "QUIT"},
               {SIGILL, "ILL"},   {SIGTRAP, "TRAP"}, {SIGABRT, "ABRT"},
               {SIGBUS, "BUS"},   {SIGFPE, "FPE"},   {SIGKILL, "KILL"},
               {SIGUSR1, "USR1"}, {SIGSEGV, "SEGV"}, {SIGUSR2, "USR2"},
               {SIGPIPE, "PIPE"}, {SIGALRM, "ALRM"}, {SIGTERM, "TERM"},
               {SIGXCPU, "XCPU"}, {SIGXFSZ, "XFSZ"}, {SIGSYS, "SYS"}};

/* One stop may reach the worker and its commands alike, as systemd's does. */
static int ended_by_stop(enum ending ending, int stopping, int status) {
  if (ending == STOPPED) return 1;
  if (!stopping || !WIFSIGNALED(status)) return 0;
  return WTERMSIG(status) == SIGTERM || WTERMSIG(status) == SIGINT ||
         WTERMSIG(status) == SIGHUP;
}

int verdict_action(enum ending ending, int stopping, int status) {
  int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  if (ending == TIMED_OUT) return DIBS_RETRY;
  if (code == 0) return DIBS_ACK;
  if (code == EXIT_FAIL) return DIBS_FAIL;
  if (code == EXIT_RELEASE) return DIBS_RELEASE;
  if (ended_by_stop(ending, stopping, status)) return DIBS_RELEASE;
  return DIBS_RETRY;
}

static void print_signal(FILE *file, int number) {
  for (size_t i = 0; i < sizeof SIGNALS / sizeof *SIGNALS; i++) {
    if (SIGNALS[i].number != number) continue;
    fprintf(file, "killed by SIG%s", SIGNALS[i].name);
    return;
  }
  fprintf(file, "killed by signal %d", number);
}

static void print_end(FILE *file, enum ending ending, int64_t timeout,
                      int status) {
  if (ending == TIMED_OUT)
    fprintf(file, "timed out after %.10g s", (double)timeout / 1000);
  else if (WIFSIGNALED(status))
    print_signal(file, WTERMSIG(status));
  else
    fprintf(file, "exit %d", WEXITSTATUS(status));
}

/* Bytes that are text, up to the first that are none. */
static size_t text_size(const char *text, size_t size) {
  size_t valid = utf8_valid_size(text, size);
  const char *nul = memchr(text, 0, valid);
  return nul ? (size_t)(nul - text) : valid;
}

static void print_text(FILE *file, const char *text, size_t size) {
  while (size > 0) {
    size_t valid = text_size(text, size);
    fwrite(text, 1, valid, file);
    if (valid == size) return;
    fputs(REPLACEMENT, file);
    text += valid + 1;
    size -= valid + 1;
  }
}

char *verdict_error(const struct process *process, enum ending ending,
                    int64_t timeout, int status) {
  size_t size, length;
  const char *tail = process_tail(process, &size);
  char *text = NULL;
  FILE *file = open_memstream(&text, &length);
  if (!file) return NULL;
  print_end(file, ending, timeout, status);
  while (size > 0 && (tail[size - 1] == '\n' || tail[size - 1] == '\r')) size--;
  if (size > 0) fputs(": ", file);
  print_text(file, tail, size);
  return fclose(file) == 0 ? text : NULL;
}

static int is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

dibs_payload verdict_result(const struct process *process) {
  const char *data = process->output;
  size_t size = process->output_size;
  while (size > 0 && is_space(data[size - 1])) size--;
  while (size > 0 && is_space(*data)) data++, size--;
  return size > 0 ? dibs_json_sized(data, size) : dibs_none();
}
