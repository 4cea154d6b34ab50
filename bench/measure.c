/* SPDX-License-Identifier: MIT */
/*
** measure.c: what the measuring programs share.
**
** The scratch folder is removed by a child that waits for the program's end: it
** holds the read end of a pipe whose write end only the program has. So nothing
** is left behind by Ctrl-C, nor by kill -9.
*/
#include "measure.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char folder[4096];
static pid_t remover;
static int alive; /* the write end of the pipe: ends with us */

double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a;
  double y = *(const double *)b;
  return (x > y) - (x < y);
}

double median(double *values, size_t count) {
  qsort(values, count, sizeof *values, compare);
  return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

_Noreturn void give_up(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

const char *option_text(int argc, char **argv, const char *name,
                        const char *otherwise) {
  for (int i = 1; i + 1 < argc; i++)
    if (strncmp(argv[i], "--", 2) == 0 && strcmp(argv[i] + 2, name) == 0)
      return argv[i + 1];
  return otherwise;
}

int64_t option_number(int argc, char **argv, const char *name,
                      int64_t otherwise) {
  const char *text = option_text(argc, argv, name, NULL);
  char *end;
  long long number;
  if (!text) return otherwise;
  errno = 0;
  number = strtoll(text, &end, 10);
  if (errno || *end || end == text || number <= 0)
    give_up("--%s %s: a positive number is meant", name, text);
  return number;
}

_Noreturn static void remove_when_over(int fd) {
  char nothing;
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  while (read(fd, &nothing, 1) < 0 && errno == EINTR) {
  }
  execlp("rm", "rm", "-rf", "--", folder, (char *)NULL);
  _exit(1);
}

/* At a proper end, wait until the folder is gone. */
static void remove_now(void) {
  close(alive);
  waitpid(remover, NULL, 0);
}

const char *scratch_folder(const char *where) {
  int fds[2];
  snprintf(folder, sizeof folder, "%s/dibs-measure-XXXXXX", where);
  if (!mkdtemp(folder)) give_up("%s: %s", where, strerror(errno));
  if (pipe2(fds, O_CLOEXEC) != 0) give_up("no pipe");
  alive = fds[1];
  remover = fork();
  if (remover < 0) give_up("no second process");
  if (remover == 0) {
    close(fds[1]);
    remove_when_over(fds[0]);
  }
  close(fds[0]);
  atexit(remove_now);
  return folder;
}

const char *scratch_path(const char *name) {
  char *path;
  if (asprintf(&path, "%s/%s", folder, name) < 0) give_up("no memory");
  return path;
}

void must(dibs_db *db, int status) {
  if (status != DIBS_OK) give_up("%s", dibs_error(db));
}

dibs_db *db_open(const char *path, int synchronous) {
  dibs_open_options options = DIBS_OPEN_OPTIONS_INIT;
  dibs_db *db;
  options.synchronous = synchronous;
  must(db, dibs_open(path, &options, &db));
  return db;
}

char *json_of(size_t size) {
  char *json = malloc(size + 1);
  if (!json || size < 2) give_up("no payload of %zu bytes", size);
  memset(json, 'x', size);
  json[0] = json[size - 1] = '"';
  json[size] = 0;
  return json;
}

static void print_first_line(const char *command) {
  char line[256];
  FILE *pipe = popen(command, "r");
  if (pipe && fgets(line, sizeof line, pipe))
    printf("%.*s", (int)strcspn(line, "\n"), line);
  if (pipe) pclose(pipe);
}

void print_machine(void) {
  char command[4200];
  struct utsname system = {0};
  uname(&system);
  print_first_line("sed -n 's/^model name[^:]*: //p' /proc/cpuinfo");
  printf(", %ld cores, %s %s, ", sysconf(_SC_NPROCESSORS_ONLN), system.sysname,
         system.release);
  snprintf(command, sizeof command, "stat -f -c %%T '%s'", folder);
  print_first_line(command);
  printf(", SQLite %s, dibs %s\n", sqlite3_libversion(), dibs_version());
}
