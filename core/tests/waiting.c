/* SPDX-License-Identifier: MIT */
/*
** waiting.c: calls that wait, on threads and in processes of their own, and
** the sidecar's map. waiting.h says what each does.
**
** Who sleeps is in /proc/PID/stat, and where in /proc/PID/syscall: the number of
** the system call that a task is in, and its arguments. A waiter sleeps on
** the word at MAP_SEQ of a mapped page, by the bitset form of a futex that
** processes share, which nothing else here does; without a sidecar it sleeps
** by the clock.
*/
#include "waiting.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 60000 /* ms for what must come; then the test fails */
#define NAP      200   /* microseconds between two looks of a test */

/* ---- Handles ------------------------------------------------------------- */

static enum way way_now;

void go_way(enum way way) {
  way_now = way;
  if (way == PORTABLE_BY_ENVIRONMENT) {
    setenv("DIBS_WAKE", "portable", 1);
  } else {
    unsetenv("DIBS_WAKE");
  }
}

int is_portable(void) {
  return way_now != WITH_SIDECAR;
}

dibs_open_options waiting_options(void) {
  dibs_open_options options = DIBS_OPEN_OPTIONS_INIT;
  options.synchronous = DIBS_SYNCHRONOUS_NORMAL;
  if (way_now == PORTABLE_BY_OPTION) options.wake = DIBS_WAKE_PORTABLE;
  return options;
}

dibs_db *waiting_open(const char *path) {
  dibs_open_options options = waiting_options();
  dibs_db *db = NULL;
  expect_ok(db, dibs_open(path, &options, &db));
  return db;
}

int waiting_setup(void **state) {
  dibs_open_options options = waiting_options();
  if (fixture_setup_closed(state) != 0) return -1;
  fixture *f = *state;
  if (dibs_open(f->path, &options, &f->db) == DIBS_OK) return 0;
  print_error("open: %s\n", dibs_error(f->db));
  return -1;
}

int64_t steady_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- The sidecar's map --------------------------------------------------- */

const char *map_name(const char *path) {
  static char name[256];
  snprintf(name, sizeof name, "%s-dibs", path);
  return name;
}

unsigned char *map_open(const char *path) {
  struct stat status;
  int fd = open(map_name(path), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  void *map = MAP_FAILED;
  if (fd < 0) return NULL;
  if (fstat(fd, &status) == 0 && status.st_size == MAP_SIZE) {
    map = mmap(NULL, MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  close(fd);
  return map == MAP_FAILED ? NULL : map;
}

void map_close(unsigned char *map) {
  if (map) munmap(map, MAP_SIZE);
}

/* Aligned as a page is. */
uint32_t map_u32(const unsigned char *map, size_t offset) {
  const void *word = map + offset;
  return atomic_load((const _Atomic uint32_t *)word);
}

uint64_t map_u64(const unsigned char *map, size_t offset) {
  const void *word = map + offset;
  return atomic_load((const _Atomic uint64_t *)word);
}

void map_set_u64(unsigned char *map, size_t offset, uint64_t value) {
  void *word = map + offset;
  atomic_store((_Atomic uint64_t *)word, value);
}

int monitors_prevent(const char *path) {
  struct flock lock = {.l_type = F_WRLCK,
                       .l_whence = SEEK_SET,
                       .l_start = ((off_t)1 << 30) + 65536,
                       .l_len = 2};
  int fd = open(map_name(path), O_RDWR | O_CLOEXEC);
  if (fd < 0) fail_msg("no sidecar: %s", strerror(errno));
  if (fcntl(fd, F_OFD_SETLK, &lock) != 0) fail_msg("somebody is a monitor");
  return fd;
}

/* ---- Who sleeps ---------------------------------------------------------- */

/* A file of a task in /proc, as text; its size, or -1. */
static ssize_t task_read(const char *task, const char *file, char text[1024]) {
  char path[128];
  snprintf(path, sizeof path, "/proc/%s/%s", task, file);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? -1 : read(fd, text, 1023);
  int error = errno;
  if (fd >= 0) close(fd);
  text[size < 0 ? 0 : size] = 0;
  errno = error;
  return size;
}

/* Nonzero when the task sleeps, somewhere. One that is about to run is not yet
** out of its system call, but does not sleep any more. */
static int task_is_still(const char *task) {
  char text[1024];
  const char *name_end =
      task_read(task, "stat", text) > 0 ? strrchr(text, ')') : NULL;
  return name_end && name_end[1] && name_end[2] == 'S';
}

/* The system call that a task sleeps in. */
struct sleep {
  long number; /* -1: none */
  unsigned long arguments[4];
};

/* 0, or -1 when that cannot be seen. */
static int task_sleep_read(const char *task, struct sleep *sleep) {
  char text[1024];
  unsigned long *to = sleep->arguments;
  int still = task_is_still(task);
  sleep->number = -1;
  if (task_read(task, "syscall", text) < 0) {
    return errno == ENOENT || errno == ESRCH ? 0 : -1;
  }
  if (!still || sscanf(text, "%ld 0x%lx 0x%lx 0x%lx 0x%lx", &sleep->number,
                       &to[0], &to[1], &to[2], &to[3]) != 5) {
    sleep->number = -1;
  }
  return 0;
}

static int sleeps_on_map(const struct sleep *sleep) {
  return sleep->number == SYS_futex &&
         sleep->arguments[1] == FUTEX_WAIT_BITSET &&
         (sleep->arguments[0] & 4095) == MAP_SEQ;
}

/* Nonzero when the task sleeps in a wait; -1 when that cannot be seen. */
static int task_sleeps(const char *task, int polls) {
  struct sleep sleep;
  if (task_sleep_read(task, &sleep) != 0) return -1;
  if (!polls) return sleeps_on_map(&sleep);
  return sleep.number == SYS_nanosleep || sleep.number == SYS_clock_nanosleep;
}

/* ---- Waiters ------------------------------------------------------------- */

static _Thread_local waiter *here;

waiter waiter_for(fixture *f, const char *pattern) {
  return (waiter){.path = f->path,
                  .patterns = {pattern},
                  .wait = 30 * SECOND,
                  .lease = MINUTE,
                  .polls = is_portable(),
                  .status = -1};
}

static void job_note(waiter *w, const dibs_job *job) {
  w->id = job->id;
  w->attempt = job->attempt;
  w->crashes = job->crashes;
  w->due_at = job->due_at;
  w->claimed_at = job->claimed_at;
  snprintf(w->receipt, sizeof w->receipt, "%s", job->receipt);
  snprintf(w->queue, sizeof w->queue, "%s", job->queue);
}

static size_t patterns_count(const waiter *w) {
  size_t count = 0;
  while (count < COUNT(w->patterns) && w->patterns[count]) count++;
  return count;
}

static void waiter_claim(waiter *w, dibs_db *db) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  options.wait = w->wait;
  options.lease = w->lease;
  w->status = dibs_claim(db, w->patterns, patterns_count(w), &options, &jobs);
  if (w->status == DIBS_OK) job_note(w, &jobs->jobs[0]);
  dibs_job_list_free(jobs);
}

static void *waiter_main(void *context) {
  waiter *w = context;
  dibs_open_options options = waiting_options();
  dibs_db *db = w->db;
  here = w;
  w->tid = (int)gettid();
  if (w->hasty) options.busy_timeout = 0;
  w->status = db ? DIBS_OK : dibs_open(w->path, &options, &db);
  if (w->status != DIBS_OK) {
    fprintf(stderr, "a waiter cannot open: %s\n", dibs_error(db));
  } else if (w->join) {
    w->status = dibs_join(db, w->patterns, patterns_count(w), w->wait);
  } else {
    waiter_claim(w, db);
  }
  w->over = 1;
  if (!w->db) dibs_close(db);
  return NULL;
}

static void waiter_task(const waiter *w, char task[32]) {
  snprintf(task, 32, "self/task/%d", (int)w->tid);
}

int waiter_sleeps(const waiter *w) {
  char task[32];
  if (w->over) return 0;
  waiter_task(w, task);
  return task_sleeps(task, w->polls) == 1;
}

/* The fourth argument is the time, on the waiter's stack: it is good if the waiter
** still sleeps there once it has been copied. */
int64_t waiter_sleeps_for(const waiter *w) {
  char task[32];
  struct sleep sleep, again;
  struct timespec until;
  waiter_task(w, task);
  if (task_sleep_read(task, &sleep) != 0 || !sleeps_on_map(&sleep)) return -1;
  struct iovec to = {&until, sizeof until};
  struct iovec from = {.iov_len = sizeof until};
  memcpy(&from.iov_base, &sleep.arguments[3], sizeof from.iov_base);
  if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != sizeof until) {
    return -1;
  }
  if (task_sleep_read(task, &again) != 0 ||
      memcmp(&sleep, &again, sizeof sleep) != 0) {
    return -1;
  }
  int64_t left = (int64_t)until.tv_sec * 1000 + until.tv_nsec / 1000000;
  return left > steady_now() ? left - steady_now() : 0;
}

static void await_sleep(const waiter *w) {
  int64_t end = steady_now() + PATIENCE;
  while ((!w->tid || !waiter_sleeps(w)) && !w->over) {
    if (steady_now() > end) fail_msg("a waiter does not sleep");
    usleep(NAP);
  }
}

void waiter_begin(waiter *w) {
  expect_int(pthread_create(&w->thread, NULL, waiter_main, w), 0);
}

void waiter_start(waiter *w) {
  waiter_begin(w);
  await_sleep(w);
}

void waiter_join(waiter *w) {
  pthread_join(w->thread, NULL);
}

void expect_woken(waiter *w, int64_t id) {
  int sleeps = !w->polls && waiter_sleeps(w);
  waiter_join(w);
  expect_int(w->status, DIBS_OK);
  expect_int(w->id, id);
  if (sleeps) fail_msg("nobody woke who waits for %s", w->patterns[0]);
}

void at_gate(const char *sql) {
  (void)sql;
  if (here == NULL || here->gate == GATE_OPEN) return;
  here->gate = GATE_REACHED;
  while (here->gate != GATE_OPEN) usleep(NAP);
}

size_t gate_wait(waiter *waiters, size_t count) {
  int64_t end = steady_now() + PATIENCE;
  while (steady_now() < end) {
    for (size_t i = 0; i < count; i++) {
      if (waiters[i].gate == GATE_REACHED) return i;
    }
    usleep(NAP);
  }
  fail_msg("nobody came to the gate");
  return 0;
}

/* ---- Helpers ------------------------------------------------------------- */

/* In the child: become a helper that talks through these pipes. */
static void helper_become(int in, int out) {
  char *arguments[] = {"helper", "helper", NULL};
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  execv("/proc/self/exe", arguments);
  _exit(127);
}

static void pipes_make(int in[2], int out[2]) {
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) {
    fail_msg("no pipe: %s", strerror(errno));
  }
}

static helper helper_of(pid_t pid, pid_t child, int in[2], int out[2]) {
  helper h = {.pid = pid,
              .child = child,
              .in = in[1],
              .out = out[0],
              .polls = is_portable()};
  close(in[0]);
  close(out[1]);
  return h;
}

helper helper_start(void) {
  int in[2], out[2];
  pipes_make(in, out);
  pid_t pid = fork();
  if (pid == 0) helper_become(in[0], out[1]);
  return helper_of(pid, pid, in, out);
}

static int proc_mount(const char *options) {
  return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
         mount("proc", "/proc", "proc", 0, options) == 0;
}

/* For children to come. */
static int clock_shift(void) {
  static const char offset[] = "boottime 1000 0";
  int fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? -1 : write(fd, offset, sizeof offset - 1);
  if (fd >= 0) close(fd);
  return size == (ssize_t)sizeof offset - 1;
}

static int namespace_enter(enum apart apart) {
  static const int flags[] = {CLONE_NEWPID, CLONE_NEWPID | CLONE_NEWNS,
                              CLONE_NEWNS, 0x80 /* CLONE_NEWTIME */};
  int wanted = flags[apart];
  if (unshare(wanted) != 0 && unshare(wanted | CLONE_NEWUSER) != 0) return 0;
  return apart != APART_TIME || clock_shift();
}

static int namespace_arrange(enum apart apart) {
  if (apart == APART_PIDS_PROC) return proc_mount(NULL);
  return apart != APART_HIDDEN || proc_mount("hidepid=2");
}

/* In the child: a namespace, and in that the helper, whose pid as it is seen
** from outside goes into *pid. */
static void apart_main(enum apart apart, const int in[2], const int out[2],
                       _Atomic int *pid) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  close(in[1]);
  close(out[0]);
  if (!namespace_enter(apart)) _exit(1);
  pid_t inner = fork();
  if (inner == 0) {
    if (!namespace_arrange(apart)) _exit(1);
    helper_become(in[0], out[1]);
  }
  *pid = inner;
  close(in[0]);
  close(out[1]);
  waitpid(inner, NULL, 0);
  _exit(0);
}

/* Nonzero when it answers; it may be gone. */
static int helper_greets(helper *h) {
  struct pollfd polled = {h->out, POLLIN, 0};
  helper_tell(h, "hello");
  return poll(&polled, 1, PATIENCE) == 1 &&
         read(h->out, h->answer, sizeof h->answer) > 0;
}

helper helper_start_apart(enum apart apart) {
  int in[2], out[2];
  _Atomic int *inner = mmap(NULL, sizeof *inner, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (inner == MAP_FAILED) fail_msg("no shared memory");
  pipes_make(in, out);
  pid_t child = fork();
  if (child == 0) apart_main(apart, in, out, inner);
  helper h = helper_of(0, child, in, out);
  if (helper_greets(&h))
    h.pid = *inner;
  else
    helper_end(&h);
  munmap(inner, sizeof *inner);
  return h;
}

static void tell(helper *h, const char *format, va_list arguments) {
  char line[512];
  int size = vsnprintf(line, sizeof line - 1, format, arguments);
  line[size++] = '\n';
  /* A helper that is gone says so by its silence. */
  if (write(h->in, line, (size_t)size) != size) h->answer[0] = 0;
}

void helper_tell(helper *h, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  tell(h, format, arguments);
  va_end(arguments);
}

const char *helper_hear(helper *h) {
  size_t size = 0;
  for (;;) {
    struct pollfd polled = {h->out, POLLIN, 0};
    int ready = poll(&polled, 1, PATIENCE * slowness());
    if (ready != 1 || read(h->out, h->answer + size, 1) != 1) break;
    if (h->answer[size] == '\n' || size + 2 == sizeof h->answer) {
      h->answer[size] = 0;
      return h->answer;
    }
    size++;
  }
  fail_msg("a helper does not answer");
  return "";
}

const char *helper_ask(helper *h, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  tell(h, format, arguments);
  va_end(arguments);
  return helper_hear(h);
}

void helper_do(helper *h, const char *wanted, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  tell(h, format, arguments);
  va_end(arguments);
  if (strcmp(helper_hear(h), wanted) != 0) {
    fail_msg("told to %s, a helper says %s, not %s", format, h->answer, wanted);
  }
}

static int helper_state(const helper *h) {
  char task[32];
  snprintf(task, sizeof task, "%d", (int)h->pid);
  return task_sleeps(task, h->polls);
}

int helper_sleeps(const helper *h) {
  return helper_state(h) == 1;
}

int helper_is_visible(const helper *h) {
  return helper_state(h) >= 0;
}

void helper_await_sleep(const helper *h) {
  int64_t end = steady_now() + PATIENCE;
  if (!helper_is_visible(h)) {
    print_message("cannot see whether a helper sleeps\n");
    usleep(300000);
    return;
  }
  while (!helper_sleeps(h)) {
    if (steady_now() > end) fail_msg("a helper does not sleep");
    usleep(NAP);
  }
}

void helper_forget(helper *h) {
  close(h->in);
  close(h->out);
  waitpid(h->child, NULL, 0);
  h->pid = h->child = 0;
}

void helper_signal(helper *h, int number) {
  kill(h->pid, number);
  if (number == SIGKILL) helper_forget(h);
}

void helper_end(helper *h) {
  if (h->child) helper_forget(h);
}
