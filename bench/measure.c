/* SPDX-License-Identifier: MIT */
/*
** measure.c: what the measuring programs share.
**
** The scratch folder is removed by a child that waits for the program's end: it
** holds the read end of a pipe whose write end only the program and its
** children have; and those are killed when the program ends. So nothing is left
** behind by Ctrl-C, nor by kill -9.
*/
#include "measure.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <math.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char folder[4096];
static pid_t remover;
static int alive;   /* the write end of the pipe: ends with us */
static double load; /* of the machine, when the folder was made */

/* -------------------------------------------------------------------- time */

int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

double seconds(void) {
  return (double)nanoseconds() / 1e9;
}

void sleep_microseconds(double microseconds) {
  struct timespec pause;
  pause.tv_sec = (time_t)(microseconds / 1e6);
  pause.tv_nsec = (long)((microseconds - (double)pause.tv_sec * 1e6) * 1e3);
  nanosleep(&pause, NULL);
}

double random_between(double least, double most) {
  return least + drand48() * (most - least);
}

/* ------------------------------------------------------------------ values */

static int compare(const void *a, const void *b) {
  double x = *(const double *)a;
  double y = *(const double *)b;
  return (x > y) - (x < y);
}

double median(double *values, size_t count) {
  qsort(values, count, sizeof *values, compare);
  return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

void values_sort(double *values, size_t count) {
  qsort(values, count, sizeof *values, compare);
}

double value_at(const double *sorted, size_t count, double share) {
  size_t rank = (size_t)ceil((double)count * share);
  if (!count) return (double)NAN;
  return sorted[rank > 0 ? rank - 1 : 0];
}

struct spread spread_of(double *values, size_t count) {
  struct spread spread = {.median = median(values, count)};
  spread.least = values[0];
  spread.most = values[count - 1];
  return spread;
}

void print_ratio(struct spread spread) {
  char range[64];
  snprintf(range, sizeof range, "(%.2f to %.2f)", spread.least, spread.most);
  printf("  %7.2f %-18s", spread.median, range);
}

/* ----------------------------------------------------------------- options */

_Noreturn void give_up(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

void options_check(int argc, char **argv, const char *help) {
  for (int i = 1; i < argc; i++) {
    char name[64];
    if (strncmp(argv[i], "--", 2) != 0) continue;
    if (strcmp(argv[i], "--help") == 0) {
      fputs(help, stdout);
      exit(0);
    }
    snprintf(name, sizeof name, "%s ", argv[i]);
    if (!strstr(help, name)) give_up("%s: there is no such option", argv[i]);
    if (i + 1 == argc) give_up("%s: its value is missing", argv[i]);
  }
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

size_t option_numbers(int argc, char **argv, const char *name,
                      const char *otherwise, int64_t *numbers, size_t most) {
  const char *text = option_text(argc, argv, name, otherwise);
  size_t count = 0;
  for (const char *at = text; count < most; at++) {
    char *end;
    numbers[count] = strtoll(at, &end, 10);
    if (end == at || numbers[count] <= 0 || (*end && *end != ',')) break;
    count++;
    at = end;
    if (!*at) return count;
  }
  give_up("--%s %s: positive numbers are meant, as 2,4,8, %zu at most", name,
          text, most);
}

int option_synchronous(int argc, char **argv, const char *otherwise) {
  const char *text = option_text(argc, argv, "synchronous", otherwise);
  if (strcmp(text, "full") == 0) return DIBS_SYNCHRONOUS_FULL;
  if (strcmp(text, "normal") != 0)
    give_up("--synchronous %s: normal or full is meant", text);
  return DIBS_SYNCHRONOUS_NORMAL;
}

const char *synchronous_name(int synchronous) {
  return synchronous == DIBS_SYNCHRONOUS_FULL ? "FULL" : "NORMAL";
}

/* ------------------------------------------------------------------- files */

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
  getloadavg(&load, 1);
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

void database_remove(const char *path) {
  static const char *const companions[] = {"", "-wal", "-shm", "-dibs"};
  char name[4200];
  for (size_t i = 0; i < sizeof companions / sizeof *companions; i++) {
    snprintf(name, sizeof name, "%s%s", path, companions[i]);
    if (unlink(name) != 0 && errno != ENOENT) give_up("%s stays", name);
  }
}

/* --------------------------------------------------------------- processes */

void *shared_memory(size_t size) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) give_up("no memory");
  return memory;
}

void shared_free(void *memory, size_t size) {
  munmap(memory, size);
}

pid_t child_start(void) {
  pid_t parent = getpid();
  pid_t pid;
  fflush(NULL);
  pid = fork();
  if (pid < 0) give_up("no further process: %s", strerror(errno));
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* 0: it is in a pid namespace of its own. */
    if (getppid() != parent && getppid() != 0) _exit(1);
  }
  return pid;
}

void children_end(size_t count) {
  for (size_t i = 0; i < count; i++) {
    int status;
    if (wait(&status) < 0 || status != 0) give_up("a process failed");
  }
}

void child_kill(pid_t pid) {
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
}

void futex_wait(_Atomic uint32_t *word, uint32_t value) {
  syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

void futex_wake(_Atomic uint32_t *word) {
  syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void gate_wait(struct gate *gate) {
  atomic_fetch_add(&gate->arrived, 1);
  while (!atomic_load(&gate->open)) futex_wait(&gate->open, 0);
}

void gate_open(struct gate *gate, uint32_t count) {
  while (atomic_load(&gate->arrived) < count) {
    /* The one that removes the folder does not end before we do. */
    siginfo_t ended = {.si_pid = 0};
    if (!waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) && ended.si_pid)
      give_up("a process ended before it began");
    sleep_microseconds(1000);
  }
  atomic_store(&gate->open, 1);
  futex_wake(&gate->open);
}

/* -------------------------------------------------------------------- dibs */

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

/* As documented at the head of core/src/sidecar.c. */
#define BOARD_SIZE    4096
#define BOARD_WAITERS 128
#define BOARD_SIGNALS 256
#define BOARD_WAKES   264
#define BOARD_WRITES  272
#define BOARD_RESCUES 280

const void *board_open(const char *path) {
  char name[4200];
  const char *board;
  int fd;
  snprintf(name, sizeof name, "%s-dibs", path);
  fd = open(name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) give_up("%s: %s", name, strerror(errno));
  board = mmap(NULL, BOARD_SIZE, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (board == MAP_FAILED || memcmp(board, "dibs-map\1\0\0\0", 12) != 0)
    give_up("%s is no sidecar of version 1", name);
  return board;
}

static int64_t board_number(const void *board, size_t at) {
  const char *byte = (const char *)board + at;
  return (int64_t)atomic_load((const _Atomic uint64_t *)(const void *)byte);
}

struct counters board_counters(const void *board) {
  return (struct counters){
      board_number(board, BOARD_SIGNALS), board_number(board, BOARD_WAKES),
      board_number(board, BOARD_WRITES), board_number(board, BOARD_RESCUES)};
}

int64_t board_waiters(const void *board) {
  const char *byte = (const char *)board + BOARD_WAITERS;
  return (int64_t)atomic_load((const _Atomic uint32_t *)(const void *)byte);
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
  printf(", SQLite %s, dibs %s, load %.1f before\n", sqlite3_libversion(),
         dibs_version(), load);
}
