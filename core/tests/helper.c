/* SPDX-License-Identifier: MIT */
/*
** helper.c: what a test does in another process. The test's own program,
** started anew, reads commands from its input and answers each with a line on
** its output: a status by its name, or what is said here. At the end of its
** input it goes without closing anything.
**
**     hello
**     open WAY PATH               WAY as in enum way
**     claim QUEUE WAIT LEASE ATTACHED    "ID ATTEMPT CRASHES CLAIMED_AT UNTIL"
**     ack                         what was claimed last
**     put QUEUE COUNT             each job in a transaction of its own
**     work QUEUE COUNT ATTACHED   claim and ack until so many are done:
**                                 "COUNT LOST"
**     mortal                      before open: the next commit is the end, and
**                                 nobody is signalled; no answer to what did it
**     close
**     exit                        an orderly end; no answer
**     fork                        a child that lives on: its pid
**     clone                       the same without pthread_atfork()
**     program                     another program as a child: its pid
**     become                      be that other program
**     thread                      the main thread ends, another goes on
**     split                       a child as by clone goes on: its pid
**     drop                        be nobody in particular, if it is root
*/
#include "waiting.h"

#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LIFE 120 /* seconds that a child of a helper lives at most */

static dibs_db *db;
static char receipt[64];
static int mortal;
static sqlite3 *connection; /* of db, when mortal */

static void answer(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

static void answer(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vprintf(format, arguments);
  va_end(arguments);
  putchar('\n');
  fflush(stdout);
}

static void answer_status(int status) {
  if (status != DIBS_OK && status != DIBS_EMPTY && status != DIBS_LOST) {
    fprintf(stderr, "a helper: %s\n", dibs_error(db));
  }
  answer("%s", dibs_status_name(status));
}

/* ---- Commands ------------------------------------------------------------ */

static int connection_keep(sqlite3 *opened, char **message,
                           const struct sqlite3_api_routines *api) {
  (void)message;
  (void)api;
  connection = opened;
  return SQLITE_OK;
}

static void do_mortal(const char *line) {
  (void)line;
  union {
    int (*typed)(sqlite3 *, char **, const struct sqlite3_api_routines *);
    void (*plain)(void);
  } entry = {connection_keep};
  sqlite3_auto_extension(entry.plain);
  mortal = 1;
  answer("DIBS_OK");
}

/* SQLite calls its WAL hook when the commit is done, and before the call that
** commits returns. */
static int die(void *context, sqlite3 *sqlite, const char *name, int pages) {
  (void)context;
  (void)sqlite;
  (void)name;
  (void)pages;
  return kill(getpid(), SIGKILL);
}

static void do_open(const char *line) {
  char path[256];
  int way = 0;
  sscanf(line, "%d %255s", &way, path);
  go_way((enum way)way);
  dibs_open_options options = waiting_options();
  int status = dibs_open(path, &options, &db);
  if (mortal) sqlite3_wal_hook(connection, die, NULL);
  answer_status(status);
}

/* Claim one job; its receipt into `receipt`. */
static int claim_one(const char *queue, int64_t wait, int64_t lease,
                     int attached, dibs_job *job) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  options.wait = wait;
  options.lease = lease;
  options.attached = attached;
  options.worker = "helper";
  int status = dibs_claim(db, &queue, 1, &options, &jobs);
  if (status == DIBS_OK) {
    *job = jobs->jobs[0];
    snprintf(receipt, sizeof receipt, "%s", job->receipt);
  }
  dibs_job_list_free(jobs);
  return status;
}

static void do_claim(const char *line) {
  char queue[256] = "";
  long long wait = 0, lease = 0;
  int attached = 0;
  dibs_job job;
  sscanf(line, "%255s %lld %lld %d", queue, &wait, &lease, &attached);
  int status = claim_one(queue, wait, lease, attached, &job);
  if (status != DIBS_OK) {
    answer_status(status);
    return;
  }
  answer("%lld %lld %lld %lld %lld", (long long)job.id, (long long)job.attempt,
         (long long)job.crashes, (long long)job.claimed_at,
         (long long)job.lease_until);
}

static void do_put(const char *line) {
  char queue[256] = "";
  int count = 1;
  int status = DIBS_OK;
  sscanf(line, "%255s %d", queue, &count);
  for (; count > 0 && status == DIBS_OK; count--) {
    status = dibs_enqueue(db, queue, dibs_json("1"), NULL, NULL);
  }
  answer_status(status);
}

static void do_work(const char *line) {
  char queue[256] = "";
  int count = 0, lost = 0, done = 0, attached = 0;
  sscanf(line, "%255s %d %d", queue, &count, &attached);
  while (done < count) {
    dibs_job job;
    int status = claim_one(queue, 30 * SECOND, MINUTE, attached, &job);
    if (status == DIBS_OK) status = dibs_ack(db, receipt, NULL);
    if (status == DIBS_OK)
      done++;
    else if (status == DIBS_LOST)
      lost++;
    else {
      answer_status(status);
      return;
    }
  }
  answer("%d %d", done, lost);
}

/* ---- Other processes ------------------------------------------------------ */

/* Whoever reads them waits until the last copy is closed. */
static void pipes_close(void) {
  close(STDIN_FILENO);
  close(STDOUT_FILENO);
  close(STDERR_FILENO);
}

/* Only live, and hold whatever was inherited. */
static void live_on(void) {
  alarm(LIFE);
  pipes_close();
  for (;;) pause();
}

static void do_fork(const char *line) {
  (void)line;
  pid_t pid = fork();
  if (pid == 0) live_on();
  answer("%d", (int)pid);
}

static void do_clone(const char *line) {
  (void)line;
  long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) live_on();
  answer("%ld", pid);
}

static void do_split(const char *line) {
  (void)line;
  long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (pid != 0) live_on();
  answer("%d", (int)getpid());
}

static void do_become(const char *line) {
  (void)line;
  char seconds[16];
  snprintf(seconds, sizeof seconds, "%d", LIFE);
  execlp("sleep", "sleep", seconds, (char *)NULL);
  _exit(127);
}

static void do_program(const char *line) {
  (void)line;
  pid_t pid = fork();
  if (pid == 0) {
    pipes_close();
    do_become(NULL);
  }
  answer("%d", (int)pid);
}

static void do_drop(const char *line) {
  (void)line;
  if (geteuid() == 0 &&
      (setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0)) {
    answer("cannot");
    return;
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  answer("DIBS_OK");
}

static void *commands_run(void *context);

static void do_thread(const char *line) {
  (void)line;
  pthread_t thread;
  if (pthread_create(&thread, NULL, commands_run, "DIBS_OK") != 0) {
    answer("cannot");
    return;
  }
  pthread_exit(NULL);
}

/* ---- The loop -------------------------------------------------------------- */

static void do_hello(const char *line) {
  (void)line;
  answer("hello");
}

static void do_ack(const char *line) {
  (void)line;
  answer_status(dibs_ack(db, receipt, NULL));
}

static void do_close(const char *line) {
  (void)line;
  answer_status(dibs_close(db));
  db = NULL;
}

static void do_exit(const char *line) {
  (void)line;
  exit(0);
}

static const struct command {
  const char *name;
  void (*run)(const char *line); /* what stands behind the name */
} commands[] = {
    {"hello", do_hello},   {"open", do_open},       {"claim", do_claim},
    {"ack", do_ack},       {"put", do_put},         {"work", do_work},
    {"close", do_close},   {"exit", do_exit},       {"fork", do_fork},
    {"clone", do_clone},   {"program", do_program}, {"become", do_become},
    {"thread", do_thread}, {"split", do_split},     {"drop", do_drop},
    {"mortal", do_mortal},
};

static void command_run(const char *line) {
  char name[32] = "";
  int size = 0;
  sscanf(line, "%31s %n", name, &size);
  for (size_t i = 0; i < COUNT(commands); i++) {
    if (strcmp(commands[i].name, name) != 0) continue;
    commands[i].run(line + size);
    return;
  }
  answer("what is %s?", name);
}

static void *commands_run(void *context) {
  char line[512];
  if (context) answer("%s", (const char *)context);
  while (fgets(line, sizeof line, stdin)) command_run(line);
  _exit(0);
}

void helper_main(int count, char **arguments) {
  signal(SIGPIPE, SIG_IGN);
  if (count != 2 || strcmp(arguments[1], "helper") != 0) return;
  commands_run(NULL);
}
