/* SPDX-License-Identifier: MIT */
/*
** journal.c: owns what `dibs worker` writes to stderr.
**
** A reader of stderr that stands still, as a pager or a terminal after Ctrl-S,
** must not stop a worker that has leases to extend. So everything is gathered
** in memory and written when stderr takes it; when too much has gathered, the
** commands' stderr is not read until there is room again, and they wait.
**
** stderr is opened a second time, for the flag that makes writing not wait
** belongs to the open file, which others may share. Where that does not go, as
** with a socket, poll() is asked first.
**
** The status line stands below everything else: it is taken away before other
** text, and drawn again when the cursor stands at the beginning of a line.
*/
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "dibs.h"
#include "output.h"

#define ENOUGH        262144 /* bytes gathered before commands wait */
#define STATUS_PERIOD 200    /* ms between two status lines */
#define PATIENCE      1000   /* ms to write the rest */

int64_t steady_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ------------------------------------------------------------------------ */
/* Gathering and writing                                                    */
/* ------------------------------------------------------------------------ */

void journal_open(struct journal *journal, int json) {
  struct stat about;
  int flags = O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
  memset(journal, 0, sizeof *journal);
  journal->json = json;
  journal->terminal = !json && status_possible();
  journal->started = journal->drawn = steady_ms();
  journal->fd = -1;
  if (fstat(2, &about) != 0) return;
  if (S_ISFIFO(about.st_mode) || S_ISCHR(about.st_mode))
    journal->fd = open("/proc/self/fd/2", flags);
  if (journal->fd >= 0) return;
  journal->fd = fcntl(2, F_DUPFD_CLOEXEC, 3);
  journal->polled = !S_ISREG(about.st_mode);
}

static void gather(struct journal *journal, const char *data, size_t size) {
  size_t room = journal->room ? journal->room : 4096;
  if (journal->broken || journal->fd < 0) return;
  while (room < journal->size + size) room *= 2;
  if (room != journal->room) {
    char *grown = realloc(journal->data, room);
    if (!grown) return; /* a lost line is the lesser evil */
    journal->data = grown;
    journal->room = room;
  }
  memcpy(journal->data + journal->size, data, size);
  journal->size += size;
}

static void gather_text(struct journal *journal, const char *text) {
  gather(journal, text, strlen(text));
}

static int takes_more(const struct journal *journal, int wait) {
  struct pollfd ready = {journal->fd, POLLOUT, 0};
  return poll(&ready, 1, wait) > 0 && (ready.revents & POLLOUT);
}

/* A pipe that is ready takes that much without waiting. */
static ssize_t write_some(struct journal *journal, size_t from) {
  size_t size = journal->size - from;
  if (journal->polled && size > 4096) size = 4096;
  if (journal->polled && !takes_more(journal, 0)) return 0;
  return write(journal->fd, journal->data + from, size);
}

int journal_flush(struct journal *journal) {
  size_t done = 0;
  while (done < journal->size) {
    ssize_t size = write_some(journal, done);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno != EAGAIN) journal->broken = 1;
    if (size <= 0) break;
    done += (size_t)size;
  }
  if (journal->broken) done = journal->size;
  if (done > 0)
    memmove(journal->data, journal->data + done, journal->size - done);
  journal->size -= done;
  return journal->size > 0;
}

int journal_full(const struct journal *journal) {
  return journal->size > ENOUGH;
}

static void flush_patiently(struct journal *journal) {
  int64_t until = steady_ms() + PATIENCE;
  while (journal_flush(journal) && steady_ms() < until)
    takes_more(journal, (int)(until - steady_ms()));
}

void journal_close(struct journal *journal) {
  journal_yield(journal);
  if (journal->fd >= 0) close(journal->fd);
  free(journal->data);
  journal->data = NULL;
  journal->fd = -1;
}

/* ------------------------------------------------------------------------ */
/* The status line                                                          */
/* ------------------------------------------------------------------------ */

static void status_away(struct journal *journal) {
  if (journal->shown) gather_text(journal, "\r\033[K");
  journal->shown = 0;
}

void journal_yield(struct journal *journal) {
  status_away(journal);
  flush_patiently(journal);
}

static void measure_rate(struct journal *journal, const struct tally *tally,
                         int64_t now) {
  int64_t done = tally->done + tally->retried + tally->failed;
  double seconds = (double)(now - journal->drawn) / 1000;
  double rate = (double)(done - journal->drawn_done) / seconds;
  double share = seconds > 1 ? 1 : seconds; /* of the newest figure */
  journal->rate += (rate - journal->rate) * share;
  journal->drawn = now;
  journal->drawn_done = done;
}

static void draw(struct journal *journal, const struct tally *tally) {
  char line[128];
  snprintf(line, sizeof line,
           "\rrunning %lld  done %lld  retried %lld  failed %lld  %.0f/s\033[K",
           (long long)tally->running, (long long)tally->done,
           (long long)tally->retried, (long long)tally->failed, journal->rate);
  gather_text(journal, line);
  journal->shown = 1;
  journal->last = *tally;
}

int journal_status(struct journal *journal, const struct tally *tally) {
  int64_t now = steady_ms();
  if (!journal->terminal || journal->line_open) return 0;
  if (journal->shown && journal->rate < 0.5 &&
      memcmp(&journal->last, tally, sizeof *tally) == 0)
    return 0;
  if (journal->size > 0 || now - journal->drawn < STATUS_PERIOD) return 1;
  measure_rate(journal, tally, now);
  draw(journal, tally);
  return 1;
}

/* ------------------------------------------------------------------------ */
/* Lines                                                                    */
/* ------------------------------------------------------------------------ */

void journal_relay(void *context, const char *data, size_t size) {
  struct journal *journal = context;
  status_away(journal);
  gather(journal, data, size);
  if (size > 0) journal->line_open = data[size - 1] != '\n';
}

/* A line in the making. */
struct line {
  FILE *file;
  char *text;
  size_t size;
};

static FILE *line_begin(const struct journal *journal, struct line *line,
                        const char *event) {
  char at[DIBS_TIME_SIZE];
  struct timespec now;
  line->text = NULL;
  line->file = open_memstream(&line->text, &line->size);
  if (!line->file) return NULL;
  clock_gettime(CLOCK_REALTIME, &now);
  dibs_format_time((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000, at);
  if (journal->json)
    fprintf(line->file, "{\"at\":\"%s\",\"event\":\"%s\"", at, event);
  else if (!journal->terminal)
    fprintf(line->file, "%s ", at);
  return line->file;
}

/* A line of our own never continues one of a command. */
static void line_end(struct journal *journal, struct line *line) {
  fputs(journal->json ? "}\n" : "\n", line->file);
  if (fclose(line->file) == 0) {
    status_away(journal);
    if (journal->line_open) gather_text(journal, "\n");
    journal->line_open = 0;
    gather(journal, line->text, line->size);
  }
  free(line->text);
}

static void json_number(FILE *file, const char *name, int64_t number) {
  fprintf(file, ",\"%s\":%lld", name, (long long)number);
}

static void json_text(FILE *file, const char *name, const char *text) {
  if (!text) return;
  fprintf(file, ",\"%s\":", name);
  print_json_string(file, text);
}

static void job_json(FILE *file, const struct journal_job *job) {
  char due[DIBS_TIME_SIZE];
  json_number(file, "id", job->id);
  json_text(file, "queue", job->queue);
  json_text(file, "name", job->name);
  json_number(file, "attempt", job->attempt);
  if (job->ms >= 0) json_number(file, "ms", job->ms);
  if (job->due_at >= 0)
    json_text(file, "due_at", dibs_format_time(job->due_at, due));
  json_text(file, "error", job->error);
}

static void job_plain(FILE *file, const char *text,
                      const struct journal_job *job) {
  char due[DIBS_TIME_SIZE];
  fprintf(file, "job %lld (", (long long)job->id);
  print_escaped(file, job->queue, strlen(job->queue), 0);
  if (job->name) fputs("/", file);
  if (job->name) print_escaped(file, job->name, strlen(job->name), 0);
  fprintf(file, ") attempt %lld", (long long)job->attempt);
  if (job->max_attempts)
    fprintf(file, " of %lld", (long long)job->max_attempts);
  fprintf(file, ": %s", text);
  if (job->due_at >= 0)
    fprintf(file, " at %s", dibs_format_time(job->due_at, due));
  if (job->error) fputs(": ", file);
  if (job->error) print_escaped(file, job->error, strlen(job->error), 0);
}

void journal_job(struct journal *journal, const char *event, const char *text,
                 const struct journal_job *job) {
  struct line line;
  FILE *file = line_begin(journal, &line, event);
  if (!file) return;
  if (journal->json)
    job_json(file, job);
  else
    job_plain(file, text, job);
  line_end(journal, &line);
}

void journal_say(struct journal *journal, const char *event, const char *text,
                 const char *detail) {
  struct line line;
  FILE *file = line_begin(journal, &line, event);
  if (!file) return;
  if (journal->json) {
    json_text(file, "message", text);
    json_text(file, "detail", detail);
  } else {
    fputs(text, file);
    if (detail) fputs(": ", file);
    if (detail) print_escaped(file, detail, strlen(detail), 0);
  }
  line_end(journal, &line);
}

static void sum_json(FILE *file, const struct tally *tally, int64_t ms) {
  json_number(file, "done", tally->done);
  json_number(file, "retried", tally->retried);
  json_number(file, "failed", tally->failed);
  json_number(file, "released", tally->released);
  json_number(file, "lost", tally->lost);
  json_number(file, "ms", ms);
}

static void sum_plain(FILE *file, const struct tally *tally, int64_t ms) {
  fprintf(file, "done %lld, retried %lld, failed %lld, released %lld",
          (long long)tally->done, (long long)tally->retried,
          (long long)tally->failed, (long long)tally->released);
  if (tally->lost) fprintf(file, ", lost %lld", (long long)tally->lost);
  fprintf(file, " in %.1f s", (double)ms / 1000);
}

void journal_sum(struct journal *journal, const struct tally *tally) {
  struct line line;
  FILE *file = line_begin(journal, &line, "stopped");
  if (!file) return;
  if (journal->json)
    sum_json(file, tally, steady_ms() - journal->started);
  else
    sum_plain(file, tally, steady_ms() - journal->started);
  line_end(journal, &line);
}
