/* SPDX-License-Identifier: MIT */
/*
** process.c: owns the processes of `dibs worker`.
**
** A command runs in a process group of its own, so that a signal reaches what
** it started too, and Ctrl-C on a terminal does not. Its stdin is a memory
** file that holds the payload: nothing has to be fed, and a command that does
** not read it disturbs nobody. Its stderr, and its stdout where it is wanted,
** are pipes that the worker reads when there is something to read.
**
** No command outlives its worker, however the worker dies:
**
** - The command itself asks the kernel for SIGKILL at its parent's death. This
**   hangs on the thread that forked it: the worker has only one.
** - What the command started is ended by the guard, a child of the worker that
**   holds the read end of a pipe and is told of each group: a positive number
**   when it begins, written by the command's own process before it becomes the
**   command, and the same number negated before its zombie is reaped. So the
**   guard knows of every group that lives, and never of a number that may mean
**   another group already. When the pipe ends, the worker has ended, and the
**   guard kills all groups it knows of.
**
** decisions/0001-guard.md and 0002-stdin.md say why it is done so.
**
** A child that cannot become the command writes its number and errno to the
** failure pipe before it ends; the worker looks there when it has ended.
*/
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define READ_SIZE   16384 /* bytes of one read */
#define READ_TURNS  4     /* reads before somebody else's turn */
#define FINAL_TURNS 64    /* reads after the end: a pipe holds a MiB at most */

/* What a child says that cannot run its command. */
struct failure {
  pid_t pid;
  int error;
};

/* ------------------------------------------------------------------------ */
/* Descriptors                                                              */
/* ------------------------------------------------------------------------ */

static void fd_close(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static void fd_close_from(int first) {
  struct rlimit limit;
  if (close_range((unsigned)first, ~0U, 0) == 0) return;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  for (rlim_t fd = (rlim_t)first; fd < limit.rlim_cur; fd++) close((int)fd);
}

static int fd_nonblocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? errno : 0;
}

static void fd_to_null(int fd, int flags) {
  int null = open("/dev/null", flags | O_CLOEXEC);
  if (null >= 0) dup2(null, fd);
  if (null >= 0) close(null);
}

/* ------------------------------------------------------------------------ */
/* The guard                                                                */
/* ------------------------------------------------------------------------ */

/* The groups that the guard knows of. */
struct groups {
  pid_t *list;
  size_t count;
  size_t room;
};

static void groups_add(struct groups *groups, pid_t group) {
  if (groups->count == groups->room) {
    size_t room = groups->room ? 2 * groups->room : 64;
    pid_t *list = realloc(groups->list, room * sizeof *list);
    if (!list) return; /* the kernel's signal is left to end the command */
    groups->list = list;
    groups->room = room;
  }
  groups->list[groups->count++] = group;
}

static void groups_remove(struct groups *groups, pid_t group) {
  for (size_t i = 0; i < groups->count; i++) {
    if (groups->list[i] != group) continue;
    groups->list[i] = groups->list[--groups->count];
    return;
  }
}

static void groups_kill(const struct groups *groups) {
  for (size_t i = 0; i < groups->count; i++) kill(-groups->list[i], SIGKILL);
}

/* Nothing that ends the worker politely may end its guard before it. */
static void guard_settle_in(int fd) {
  const int ignored[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGTSTP};
  sigset_t none;
  setpgid(0, 0);
  prctl(PR_SET_NAME, "dibs-guard");
  for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
    signal(ignored[i], SIG_IGN);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  for (int i = 0; i < 3; i++) fd_to_null(i, O_RDWR);
  dup2(fd, 3);
  fd_close_from(4);
  if (chdir("/") != 0) return; /* it then stays where it is: no harm */
}

_Noreturn static void guard_run(int fd) {
  struct groups groups = {NULL, 0, 0};
  pid_t news[256];
  ssize_t size;
  guard_settle_in(fd);
  while ((size = read(3, news, sizeof news)) != 0) {
    if (size < 0 && errno != EINTR) break;
    for (ssize_t i = 0; i < size / (ssize_t)sizeof *news; i++) {
      if (news[i] > 0) groups_add(&groups, news[i]);
      if (news[i] < 0) groups_remove(&groups, -news[i]);
    }
  }
  groups_kill(&groups);
  _exit(0);
}

/* Four bytes go into a pipe whole or not at all. A guard that is dead or does
** not read must not hold up anybody. */
static void guard_tell(const struct process_host *host, pid_t news) {
  while (write(host->guard_fd, &news, sizeof news) < 0 && errno == EINTR) {
  }
}

static int guard_start(struct process_host *host) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return errno;
  host->guard = fork();
  if (host->guard == 0) {
    close(fds[1]);
    guard_run(fds[0]);
  }
  close(fds[0]);
  host->guard_fd = fds[1];
  if (host->guard > 0) return fd_nonblocking(fds[1]);
  host->guard = 0;
  fd_close(&host->guard_fd);
  return errno;
}

/* ------------------------------------------------------------------------ */
/* The host                                                                 */
/* ------------------------------------------------------------------------ */

/* Each command takes a descriptor or two. */
static void raise_file_limit(struct process_host *host) {
  struct rlimit more;
  if (getrlimit(RLIMIT_NOFILE, &host->files) != 0) return;
  more = host->files;
  more.rlim_cur = more.rlim_max;
  setrlimit(RLIMIT_NOFILE, &more);
}

int process_host_open(struct process_host *host) {
  int rc;
  *host = (struct process_host){0, -1, {-1, -1}, {0, 0}};
  for (int i = 0; i < 3; i++)
    if (fcntl(i, F_GETFD) < 0) fd_to_null(i, O_RDWR);
  raise_file_limit(host);
  if (pipe2(host->failure_fds, O_CLOEXEC | O_NONBLOCK) != 0) return errno;
  rc = guard_start(host);
  if (rc) process_host_close(host);
  return rc;
}

void process_host_close(struct process_host *host) {
  fd_close(&host->guard_fd);
  if (host->guard > 0) waitpid(host->guard, NULL, 0);
  host->guard = 0;
  fd_close(&host->failure_fds[0]);
  fd_close(&host->failure_fds[1]);
}

/* ------------------------------------------------------------------------ */
/* Finding a command                                                        */
/* ------------------------------------------------------------------------ */

static int runnable(const char *path) {
  struct stat about;
  if (stat(path, &about) != 0) return errno;
  if (!S_ISREG(about.st_mode)) return EACCES;
  return access(path, X_OK) == 0 ? 0 : errno;
}

static int runnable_in(const char *folder, size_t length, const char *command) {
  char path[4096];
  size_t size = strlen(command);
  if (length + size + 2 > sizeof path) return ENOENT;
  memcpy(path, folder, length);
  path[length] = '/';
  memcpy(path + length + (length > 0), command, size + 1);
  return runnable(path);
}

int process_find(const char *command) {
  const char *folder = getenv("PATH");
  int found = ENOENT;
  if (!*command) return ENOENT;
  if (strchr(command, '/')) return runnable(command);
  if (!folder) folder = "/bin:/usr/bin"; /* as execvp() has it */
  for (;;) {
    size_t length = strcspn(folder, ":");
    int rc = runnable_in(folder, length, command);
    if (rc == 0) return 0;
    if (rc == EACCES) found = EACCES;
    if (!folder[length]) return found;
    folder += length + 1;
  }
}

/* ------------------------------------------------------------------------ */
/* Starting a command                                                       */
/* ------------------------------------------------------------------------ */

/* The descriptors that a command begins with, and their other ends. */
struct ends {
  int input;
  int output[2]; /* read, write; -1: the worker's stdout */
  int error[2];
};

static void ends_close(struct ends *ends) {
  fd_close(&ends->input);
  fd_close(&ends->output[0]);
  fd_close(&ends->output[1]);
  fd_close(&ends->error[0]);
  fd_close(&ends->error[1]);
}

static int write_whole(int fd, const char *data, size_t size) {
  while (size > 0) {
    ssize_t written = write(fd, data, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    data += written;
    size -= (size_t)written;
  }
  return lseek(fd, 0, SEEK_SET) == 0 ? 0 : errno;
}

static int input_open(int *fd, const struct process_plan *plan) {
  if (!plan->input) {
    *fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return *fd < 0 ? errno : 0;
  }
  *fd = memfd_create("dibs-payload", MFD_CLOEXEC);
  if (*fd < 0) return errno;
  return write_whole(*fd, plan->input, plan->input_size);
}

static int pipe_open(int fds[2]) {
  if (pipe2(fds, O_CLOEXEC) != 0) return errno;
  return fd_nonblocking(fds[0]);
}

static int ends_open(struct ends *ends, const struct process_plan *plan) {
  int rc;
  *ends = (struct ends){-1, {-1, -1}, {-1, -1}};
  rc = input_open(&ends->input, plan);
  if (!rc) rc = pipe_open(ends->error);
  if (!rc && plan->output != PROCESS_INHERIT) rc = pipe_open(ends->output);
  if (rc) ends_close(ends);
  return rc;
}

static void signals_to_default(void) {
  sigset_t none;
  for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The child's part. Whatever dies from here on, the guard knows the group. */
_Noreturn static void become_command(const struct process_host *host,
                                     const struct process_plan *plan,
                                     const struct ends *ends, pid_t worker) {
  struct failure failure = {getpid(), 0};
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  guard_tell(host, failure.pid);
  if (getppid() != worker) _exit(127); /* it died before we had asked */
  dup2(ends->input, 0);
  if (ends->output[1] >= 0) dup2(ends->output[1], 1);
  dup2(ends->error[1], 2);
  setrlimit(RLIMIT_NOFILE, &host->files);
  signals_to_default();
  execvpe(plan->command[0], plan->command, plan->environment);
  failure.error = errno;
  /* A pipe takes this whole; when it is full, exit 127 has to say it. */
  if (write(host->failure_fds[1], &failure, sizeof failure) < 0) _exit(127);
  _exit(127);
}

void process_init(struct process *process) {
  memset(process, 0, sizeof *process);
  process->error_fd = process->output_fd = -1;
}

static void process_begin(struct process *process, struct ends *ends,
                          const struct process_plan *plan, pid_t pid) {
  setpgid(pid, pid); /* the child does it too: whoever comes first */
  process->pid = pid;
  process->error_fd = ends->error[0];
  process->output_fd = ends->output[0];
  process->collect = plan->output == PROCESS_COLLECT;
  process->tail_size = 0;
  process->tail_cut = 0;
  process->output_size = 0;
  process->output_limit = plan->output_limit;
  process->output_over = 0;
  ends->error[0] = ends->output[0] = -1;
}

int process_start(struct process_host *host, struct process *process,
                  const struct process_plan *plan) {
  struct ends ends;
  pid_t worker = getpid();
  pid_t pid;
  int rc = ends_open(&ends, plan);
  if (rc) return rc;
  pid = fork();
  if (pid == 0) become_command(host, plan, &ends, worker);
  rc = pid < 0 ? errno : 0;
  if (!rc) process_begin(process, &ends, plan, pid);
  ends_close(&ends);
  return rc;
}

/* ------------------------------------------------------------------------ */
/* Reading                                                                  */
/* ------------------------------------------------------------------------ */

/* Keep at least the last PROCESS_TAIL bytes. */
static void tail_add(struct process *process, const char *data, size_t size) {
  if (size > PROCESS_TAIL) {
    data += size - PROCESS_TAIL;
    size = PROCESS_TAIL;
    process->tail_cut = 1;
  }
  if (process->tail_size + size > sizeof process->tail) {
    size_t kept = PROCESS_TAIL;
    memmove(process->tail, process->tail + process->tail_size - kept, kept);
    process->tail_size = kept;
    process->tail_cut = 1;
  }
  memcpy(process->tail + process->tail_size, data, size);
  process->tail_size += size;
}

const char *process_tail(const struct process *process, size_t *size) {
  size_t from = 0;
  if (process->tail_size > PROCESS_TAIL)
    from = process->tail_size - PROCESS_TAIL;
  while ((from > 0 || process->tail_cut) && from < process->tail_size &&
         ((unsigned char)process->tail[from] & 0xc0) == 0x80)
    from++;
  *size = process->tail_size - from;
  return process->tail + from;
}

static int output_reserve(struct process *process, size_t size) {
  size_t room = process->output_room ? process->output_room : READ_SIZE;
  char *output;
  while (room < size) room *= 2;
  if (room == process->output_room) return 1;
  output = realloc(process->output, room);
  if (!output) return 0;
  process->output = output;
  process->output_room = room;
  return 1;
}

static void output_add(struct process *process, const char *data, size_t size) {
  size_t whole = process->output_size + size;
  if (process->output_over) return;
  if (whole > process->output_limit || !output_reserve(process, whole)) {
    process->output_over = 1;
    return;
  }
  memcpy(process->output + process->output_size, data, size);
  process->output_size = whole;
}

/* One read. 0: nothing there, now or for good. */
static size_t read_some(int *fd, char *data) {
  ssize_t size;
  if (*fd < 0) return 0;
  do size = read(*fd, data, READ_SIZE);
  while (size < 0 && errno == EINTR);
  if (size > 0) return (size_t)size;
  if (size == 0 || errno != EAGAIN) fd_close(fd);
  return 0;
}

static void read_turns(struct process *process, process_sink sink,
                       void *context, int turns) {
  char data[READ_SIZE];
  size_t size;
  for (int i = 0; i < turns; i++) {
    size = read_some(&process->error_fd, data);
    if (!size) break;
    tail_add(process, data, size);
    sink(context, data, size);
  }
  for (int i = 0; i < turns; i++) {
    size = read_some(&process->output_fd, data);
    if (!size) break;
    if (process->collect)
      output_add(process, data, size);
    else
      sink(context, data, size);
  }
}

void process_read(struct process *process, process_sink sink, void *context) {
  read_turns(process, sink, context, READ_TURNS);
}

void process_read_rest(struct process *process, process_sink sink,
                       void *context) {
  read_turns(process, sink, context, FINAL_TURNS);
  fd_close(&process->error_fd);
  fd_close(&process->output_fd);
}

/* ------------------------------------------------------------------------ */
/* Ending                                                                   */
/* ------------------------------------------------------------------------ */

void process_signal(const struct process *process, int signal_number) {
  if (process->pid > 0) kill(-process->pid, signal_number);
}

/* What waitpid() would have said. */
static int status_of(const siginfo_t *info) {
  if (info->si_code == CLD_EXITED) return (info->si_status & 0xff) << 8;
  return info->si_status & 0x7f;
}

/* A child that could not run its command said so before it ended; what others
** say meanwhile is kept for their turn. */
static int failure_of(struct process_host *host, pid_t pid) {
  struct failure failures[64];
  ssize_t size = read(host->failure_fds[0], failures, sizeof failures);
  size_t count = size > 0 ? (size_t)size / sizeof *failures : 0;
  int error = 0;
  for (size_t i = 0; i < count; i++) {
    if (failures[i].pid == pid)
      error = failures[i].error;
    else if (write(host->failure_fds[1], &failures[i], sizeof *failures) < 0)
      continue; /* it came out of there, so there is room */
  }
  return error;
}

int process_reap(struct process_host *host, struct process_end *end) {
  siginfo_t info = {0};
  if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0) return 0;
  if (info.si_pid == 0) return 0;
  end->pid = info.si_pid;
  end->status = status_of(&info);
  end->failure = end->status == 127 << 8 ? failure_of(host, end->pid) : 0;
  return 1;
}

int process_guard_ended(struct process_host *host,
                        const struct process_end *end) {
  if (end->pid != host->guard) return 0;
  waitpid(host->guard, NULL, 0);
  fd_close(&host->guard_fd);
  guard_start(host); /* without one, the kernel's signal is left */
  return 1;
}

void process_guard(struct process_host *host, const struct process *process) {
  if (process->pid > 0) guard_tell(host, process->pid);
}

void process_bury(struct process_host *host, struct process *process,
                  int spare) {
  if (!spare) kill(-process->pid, SIGKILL);
  guard_tell(host, -process->pid);
  waitpid(process->pid, NULL, 0);
  process->pid = 0;
}

void process_clear(struct process *process) {
  fd_close(&process->error_fd);
  fd_close(&process->output_fd);
  free(process->output);
  process->output = NULL;
  process->output_size = process->output_room = 0;
}
