/* SPDX-License-Identifier: MIT */
/*
** monitor.c: a thread that waits for what does not wake by itself: other
** processes that die, and writers that have no dibs. It looks at no database
** and settles nothing; it sets board->duty and wakes one waiter, of whatever
** process, who sees to it.
**
** Two processes at a time have a monitor, so that the death of one is seen by
** the other; the parts are locks of the sidecar, which the kernel gives back.
** Whoever waits tries to get one, at first and after each fallback interval.
**
** A pidfd of each process that has a slot becomes readable when it dies
** (pidfd_open(2)); that takes the same pid namespace. A process that takes a slot
** sets the sidecar's times, which inotify tells (IN_ATTRIB), so that the newcomer
** is watched at once. An inotify watch on the -wal file, for one event at a time,
** tells of a writer. The frames are there before the commit is, and the commit
** itself is a store into a map that nobody can watch; so it lets a waiter look
** COMMIT_TIME after the event and again after LOOK_LATE. The watch is set anew
** COMMIT_TIME before that second look, so that it sees the commits of all frames
** that had no event. A file that is written without pause costs some twenty-five
** looks a second, one that is idle none.
*/
#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROLES       2
#define COMMIT_TIME 10   /* ms: from frames to their commit */
#define LOOK_LATE   90   /* ms after something was written */
#define RETRY       1000 /* ms: without inotify, or without a -wal file */

/* A process that is watched. */
struct watched {
  uint64_t holder;
  int fd;
};

struct monitor {
  struct sidecar *sidecar;
  pthread_t thread;
  int role;
  int control;         /* eventfd: it is to end */
  int inotify;         /* -1: there is none */
  bool armed;          /* the -wal file is watched */
  int board_watch;     /* of the sidecar; -1: none */
  struct board *board; /* to which the watches belong */
  int64_t watch_at;    /* ms since boot: to set the watch anew; 0: not to be */
  int64_t looks[2];    /* ms since boot: to let a waiter look; 0: not to be */
  size_t count;
  struct watched watched[SLOT_COUNT];
  struct pollfd polled[SLOT_COUNT + 2];
};

/* ----------------------------------------------------------------- watches */

static int pid_open(pid_t pid) {
  return (int)syscall(SYS_pidfd_open, pid, 0);
}

static bool is_watched(const struct monitor *monitor, uint64_t holder) {
  for (size_t i = 0; i < monitor->count; i++)
    if (monitor->watched[i].holder == holder) return true;
  return false;
}

/* The number may have gone to another process: its start time tells. */
static void slot_watch(struct monitor *monitor, const struct slot *slot) {
  uint64_t holder = atomic_load(&slot->holder);
  pid_t pid = (pid_t)atomic_load(&slot->pid);
  if (!holder || pid <= 0 || pid == getpid() ||
      atomic_load(&slot->namespace) != monitor->sidecar->namespace ||
      is_watched(monitor, holder))
    return;
  int fd = pid_open(pid);
  if (fd < 0) return;
  if (process_started(pid) != (int64_t)atomic_load(&slot->started)) {
    close(fd);
    return;
  }
  monitor->watched[monitor->count++] = (struct watched){holder, fd};
}

static void watched_drop(struct monitor *monitor, size_t i) {
  close(monitor->watched[i].fd);
  monitor->watched[i] = monitor->watched[--monitor->count];
}

static bool board_has(const struct board *board, uint64_t holder) {
  for (int i = 0; i < SLOT_COUNT; i++)
    if (atomic_load(&board->slots[i].holder) == holder) return true;
  return false;
}

static void slots_watch(struct monitor *monitor) {
  struct board *board = monitor->board;
  for (size_t i = monitor->count; i-- > 0;)
    if (!board_has(board, monitor->watched[i].holder)) watched_drop(monitor, i);
  for (int i = 0; i < SLOT_COUNT && monitor->count < SLOT_COUNT; i++)
    slot_watch(monitor, &board->slots[i]);
}

static void board_watch(struct monitor *monitor) {
  struct sidecar *sidecar = monitor->sidecar;
  struct board *board = atomic_load(&sidecar->board);
  if (monitor->board == board) return;
  monitor->board = board;
  if (monitor->inotify < 0) return;
  if (monitor->board_watch >= 0)
    inotify_rm_watch(monitor->inotify, monitor->board_watch);
  monitor->board_watch =
      inotify_add_watch(monitor->inotify, sidecar->name, IN_ATTRIB);
}

/* Without a -wal file the journal is another, and the database is written. */
static void writes_watch(struct monitor *monitor) {
  char name[4096];
  uint32_t mask = IN_MODIFY | IN_ONESHOT;
  if (monitor->armed || monitor->inotify < 0) return;
  snprintf(name, sizeof name, "%s-wal", monitor->sidecar->database);
  monitor->armed = inotify_add_watch(monitor->inotify, name, mask) >= 0;
  if (monitor->armed) return;
  name[strlen(name) - 4] = 0;
  monitor->armed = inotify_add_watch(monitor->inotify, name, mask) >= 0;
}

/* ------------------------------------------------------------------ events */

static void duty_add(struct monitor *monitor, enum duty duty) {
  struct wakes wakes = {.mask = 0};
  atomic_fetch_or(&monitor->board->duty, (uint32_t)duty);
  wake_note(&wakes, CHANNEL_DUTY, 1);
  wake_send(monitor->sidecar, &wakes);
}

/* It was the only event of its watch. */
static void write_take(struct monitor *monitor) {
  int64_t now = time_since_boot();
  monitor->armed = false;
  monitor->looks[0] = now + COMMIT_TIME;
  monitor->looks[1] = 0; /* that look comes after the one before */
  monitor->watch_at = now + LOOK_LATE - COMMIT_TIME;
}

/* All that inotify has to say: both kinds of events lead to a look that costs
** next to nothing. */
static void inotify_take(struct monitor *monitor) {
  _Alignas(struct inotify_event) char events[4096];
  ssize_t size;
  while ((size = read(monitor->inotify, events, sizeof events)) > 0) {
    for (char *at = events; at < events + size;) {
      const struct inotify_event *event = (const struct inotify_event *)at;
      if (event->mask & IN_MODIFY) write_take(monitor);
      at += sizeof *event + event->len;
    }
  }
}

static void deaths_take(struct monitor *monitor) {
  for (size_t i = monitor->count; i-- > 0;) {
    if (!monitor->polled[2 + i].revents) continue;
    watched_drop(monitor, i);
    duty_add(monitor, DUTY_DEAD);
  }
}

/* Let a waiter look, if there is one. */
static void writes_look(struct monitor *monitor) {
  if (atomic_load(&monitor->board->waiters)) duty_add(monitor, DUTY_FOREIGN);
}

static bool take_due(int64_t *at, int64_t now) {
  bool due = *at && now >= *at;
  if (due) *at = 0;
  return due;
}

static int64_t sooner(int64_t one, int64_t other) {
  return !one || (other && other < one) ? other : one;
}

/* What is due after somebody wrote. Gives how long to wait, ms. */
static int writes_follow(struct monitor *monitor) {
  int64_t now = time_since_boot();
  if (take_due(&monitor->watch_at, now)) {
    writes_watch(monitor);
    monitor->looks[1] = now + COMMIT_TIME;
  }
  bool early = take_due(&monitor->looks[0], now);
  if (take_due(&monitor->looks[1], now) || early) writes_look(monitor);
  int64_t next = sooner(monitor->looks[0], monitor->looks[1]);
  next = sooner(next, monitor->watch_at);
  if (next) return (int)(next - now);
  writes_watch(monitor);
  return monitor->armed ? -1 : RETRY;
}

static void monitor_turn(struct monitor *monitor) {
  board_watch(monitor);
  slots_watch(monitor);
  int timeout = writes_follow(monitor);
  if (timeout < 0 && monitor->board_watch < 0) timeout = RETRY;
  monitor->polled[0] = (struct pollfd){monitor->control, POLLIN, 0};
  monitor->polled[1] = (struct pollfd){monitor->inotify, POLLIN, 0};
  for (size_t i = 0; i < monitor->count; i++)
    monitor->polled[2 + i] = (struct pollfd){monitor->watched[i].fd, POLLIN, 0};
  if (poll(monitor->polled, 2 + monitor->count, timeout) <= 0) return;
  deaths_take(monitor);
  if (monitor->polled[1].revents) inotify_take(monitor);
}

static void *monitor_main(void *context) {
  struct monitor *monitor = context;
  do monitor_turn(monitor);
  while (!monitor->polled[0].revents);
  return NULL;
}

/* ------------------------------------------------------------- start, stop */

static void monitor_free(struct monitor *monitor) {
  while (monitor->count) watched_drop(monitor, monitor->count - 1);
  if (monitor->inotify >= 0) close(monitor->inotify);
  if (monitor->control >= 0) close(monitor->control);
  sidecar_role_drop(monitor->sidecar, monitor->role);
  free(monitor);
}

static struct monitor *monitor_new(struct sidecar *sidecar, int role) {
  struct monitor *monitor = calloc(1, sizeof *monitor);
  if (!monitor) {
    sidecar_role_drop(sidecar, role);
    return NULL;
  }
  monitor->sidecar = sidecar;
  monitor->role = role;
  monitor->board_watch = -1;
  monitor->control = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  monitor->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (monitor->control >= 0 &&
      thread_start(&monitor->thread, monitor_main, monitor))
    return monitor;
  monitor_free(monitor);
  return NULL;
}

void monitor_start(struct sidecar *sidecar) {
  if (!sidecar || sidecar->fd < 0) return;
  pthread_mutex_lock(&sidecar->mutex);
  for (int role = 0; !sidecar->monitor && role < ROLES; role++)
    if (sidecar_role_take(sidecar, role))
      sidecar->monitor = monitor_new(sidecar, role);
  pthread_mutex_unlock(&sidecar->mutex);
}

void monitor_stop(struct sidecar *sidecar) {
  struct monitor *monitor = sidecar->monitor;
  if (!monitor) return;
  eventfd_write(monitor->control, 1);
  pthread_join(monitor->thread, NULL);
  monitor_free(monitor);
  sidecar->monitor = NULL;
}

void monitor_forked(struct sidecar *sidecar) {
  if (!sidecar->monitor) return;
  close(sidecar->monitor->control);
  close(sidecar->monitor->inotify);
}
