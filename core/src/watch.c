/* SPDX-License-Identifier: MIT */
/*
** watch.c: waiting until something can be claimed, without claiming it.
**
** A watch has a handle of its own. Its wait is that of a claim, but for the
** claim: it returns as soon as a look finds something, and sleeps until a signal
** or the exact time when something falls due. For event loops it has a thread
** that waits in their place; it tells once, by callback or descriptor, and then
** not again until it is armed anew, or a job that nobody claims would make it
** spin.
*/
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct dibs_watch {
  dibs_db *db;
  pid_t pid;
  char **queues; /* owned */
  struct patterns patterns;
  void (*callback)(void *, int);
  void *context;
  int descriptor; /* -1: none */
  bool threaded;
  pthread_t thread;
  pthread_mutex_t mutex; /* for what follows */
  pthread_cond_t changed;
  bool armed;
  bool closing;
  int status; /* why the thread ended; DIBS_OK: it runs */
};

/* Look and sleep; DIBS_OK when there is something. */
static void watch_look(dibs_db *db, struct patterns patterns, int64_t timeout) {
  struct handle_wait waiting;
  int64_t due;
  bool found;
  handle_wait_start(db, &waiting, timeout, patterns.items, patterns.count,
                    1u << CHANNEL_LOOKS);
  do {
    handle_wait_look(db, &waiting);
    db->now = dibs_now(db);
    duties(db);
    found = claim_look(db, patterns, &due);
    /* What has fallen due is claimable for whoever claims. */
  } while (!found && !db->status && handle_wait(db, &waiting, due));
  handle_wait_end(db, &waiting, found);
  if (!found) handle_fail(db, DIBS_EMPTY, "nothing came within the wait");
}

int dibs_watch_wait(dibs_watch *watch, int64_t timeout) {
  int status;
  if (!watch) return DIBS_MISUSE;
  dibs_db *db = watch->db;
  if (!handle_enter(db, &status)) return status;
  if (timeout != DIBS_UNSET && timeout < 0)
    handle_fail(db, DIBS_INVALID, "timeout is negative: give 0 ms or more");
  else
    watch_look(db, watch->patterns, timeout);
  return handle_leave(db);
}

void dibs_watch_interrupt(dibs_watch *watch) {
  if (watch) dibs_interrupt(watch->db);
}

const char *dibs_watch_error(const dibs_watch *watch) {
  return dibs_error(watch ? watch->db : NULL);
}

int dibs_watch_descriptor(const dibs_watch *watch) {
  return watch ? watch->descriptor : -1;
}

/* ------------------------------------------------------------------ thread */

static void watch_tell(dibs_watch *watch, int status) {
  if (watch->descriptor >= 0) eventfd_write(watch->descriptor, 1);
  if (watch->callback) watch->callback(watch->context, status);
}

static void *watch_main(void *context) {
  dibs_watch *watch = context;
  pthread_mutex_lock(&watch->mutex);
  while (!watch->closing && !watch->status) {
    if (!watch->armed) {
      pthread_cond_wait(&watch->changed, &watch->mutex);
      continue;
    }
    pthread_mutex_unlock(&watch->mutex);
    int status = dibs_watch_wait(watch, DIBS_FOREVER);
    pthread_mutex_lock(&watch->mutex);
    if (status == DIBS_INTERRUPTED) continue;
    watch->armed = false;
    watch->status = status;
    pthread_mutex_unlock(&watch->mutex);
    watch_tell(watch, status);
    pthread_mutex_lock(&watch->mutex);
  }
  pthread_mutex_unlock(&watch->mutex);
  return NULL;
}

int dibs_watch_arm(dibs_watch *watch) {
  eventfd_t count;
  if (!watch) return DIBS_MISUSE;
  if (watch->pid != getpid()) return DIBS_FORKED;
  if (!watch->threaded) return DIBS_MISUSE;
  if (watch->descriptor >= 0) eventfd_read(watch->descriptor, &count);
  pthread_mutex_lock(&watch->mutex);
  watch->armed = true;
  int status = watch->status;
  pthread_cond_signal(&watch->changed);
  pthread_mutex_unlock(&watch->mutex);
  return status;
}

/* ------------------------------------------------------------------ opening */

static void watch_queues(dibs_watch *watch, const char *const *queues,
                         size_t count) {
  dibs_db *db = watch->db;
  struct patterns patterns = pattern_or_default(db, queues, count);
  if (db->status) return;
  watch->queues = pattern_copy(patterns);
  if (!watch->queues) {
    handle_nomem(db);
    return;
  }
  watch->patterns =
      (struct patterns){(const char *const *)watch->queues, patterns.count};
}

static void watch_start(dibs_watch *watch, const dibs_watch_options *options) {
  dibs_db *db = watch->db;
  if (options->size != sizeof *options) {
    handle_fail(db, DIBS_MISUSE,
                "watch options were not set up with "
                "DIBS_WATCH_OPTIONS_INIT");
    return;
  }
  watch->callback = options->callback;
  watch->context = options->context;
  if (options->descriptor)
    watch->descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  bool good = !options->descriptor || watch->descriptor >= 0;
  watch->armed = true;
  if (good && (options->callback || options->descriptor))
    good = watch->threaded = thread_start(&watch->thread, watch_main, watch);
  if (!good)
    handle_fail(db, DIBS_NOMEM,
                "a thread or a descriptor cannot be had: raise the limits of "
                "the process");
}

int dibs_watch_open(const char *path, const dibs_open_options *open_options,
                    const char *const *queues, size_t count,
                    const dibs_watch_options *options, dibs_watch **out) {
  static const dibs_watch_options defaults = DIBS_WATCH_OPTIONS_INIT;
  if (!out) return DIBS_MISUSE;
  *out = NULL;
  dibs_watch *watch = calloc(1, sizeof *watch);
  if (!watch) return DIBS_NOMEM;
  watch->pid = getpid();
  watch->descriptor = -1;
  if (pthread_mutex_init(&watch->mutex, NULL) ||
      pthread_cond_init(&watch->changed, NULL)) {
    free(watch);
    return DIBS_NOMEM;
  }
  *out = watch;
  int status = dibs_open(path, open_options, &watch->db);
  if (status || !handle_enter(watch->db, &status)) return status;
  watch_queues(watch, queues, count);
  if (!watch->db->status) watch_start(watch, options ? options : &defaults);
  return handle_leave(watch->db);
}

int dibs_watch_close(dibs_watch *watch) {
  if (!watch) return DIBS_OK;
  if (watch->pid != getpid()) return DIBS_FORKED;
  pthread_mutex_lock(&watch->mutex);
  watch->closing = true;
  pthread_cond_signal(&watch->changed);
  pthread_mutex_unlock(&watch->mutex);
  if (watch->threaded) {
    dibs_interrupt(watch->db);
    pthread_join(watch->thread, NULL);
  }
  if (watch->descriptor >= 0) close(watch->descriptor);
  pattern_free(watch->queues, watch->patterns.count);
  dibs_close(watch->db);
  pthread_cond_destroy(&watch->changed);
  pthread_mutex_destroy(&watch->mutex);
  free(watch);
  return DIBS_OK;
}
