/* SPDX-License-Identifier: MIT */
/*
** sidecar.c: the file DATABASE-dibs, through which the processes that use a
** database wake each other and see each other die.
**
** It is a map shared by all of them, of native byte order, since they share a
** machine:
**
**     offset  type     what
**     0       char[8]  "dibs-map"
**     8       u32      version, 1
**     12      u32      number of slots, 512
**     64      u32      seq: counts signals; what waiters sleep on (futex)
**     128     u32      waiters: how many are waiting, or more
**     132     u32      duty: what the next waiter that wakes is to look after
**     136     u64      timer: the due time that a waiter has taken on, ms
**     144     u64      probed: when the slots were last probed, ms since boot
**     192     u32      turn: counts ends of write transactions (futex)
**     196     u32      queued: 1 if there may be writers that sleep on it
**     256     u64      signals  \  counters for people and tests: signals sent,
**     264     u64      wakes     | waiters that woke by one, write
**     272     u64      writes    | transactions ended, waits that found
**     280     u64      rescues  /  something by the fallback only
**     512     channel  32 of 16 bytes: who waits on a channel (wake.c)
**     4096    slot     512 of 64 bytes: a process each
**
** A slot: u64 holder, a random number, 0 in a free slot; u32 process id;
** u32 waiters of the process; u64 inode of its pid namespace; u64 its start
** time in clock ticks since boot; u64 beat, ms since boot, of its engines'
** heartbeat, 0 without an engine; u32 mail, on which its engines sleep (futex);
** u32 check, over what does not change; u64 inode of the file in which the
** slot was taken.
**
** The process owns a slot by an open-file-description lock on byte
** LOCK_SLOTS + number, far behind the end of the file. The kernel drops it when
** the process dies, however that happens: a slot with a holder and without a
** lock is a dead process's. Leases name the holder, never the slot, so neither
** a new sidecar nor another one's slot can be taken for the holder's death.
** A slot is free again once the leases of its holder have been given back.
**
** Nothing in the file is trusted. Whatever it says, waiting ends after the
** fallback interval at the latest, and the holder's random number has to match
** that in the database before a lease is taken back. A file that is missing,
** short, foreign or of an older version is replaced by rename, never changed
** in place, for others may have it mapped: they notice within the fallback
** interval that the name leads elsewhere, and follow. The old file stays open,
** with its locks, until the last handle is closed. (To cut the file short in
** place, while it is in use, is as deadly as it is with SQLite's -shm file: a
** SIGBUS.) A copy of the file has slots of the living without locks, so in one a
** free lock is no proof where the process can be seen to live.
**
** A process has one struct sidecar for each database. In a forked child its
** descriptors are closed at once, or the child would hold its parent's locks.
*/
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SIDECAR_MAGIC   "dibs-map"
#define SIDECAR_VERSION 1
#define LOCK_SLOTS      ((off_t)1 << 30)
#define LOCK_ROLES      (((off_t)1 << 30) + 65536)
#define PROBE_INTERVAL  900 /* ms: a little less than the fallback */

_Static_assert(offsetof(struct board, seq) == 64, "as documented");
_Static_assert(offsetof(struct board, waiters) == 128, "as documented");
_Static_assert(offsetof(struct board, timer) == 136, "as documented");
_Static_assert(offsetof(struct board, turn) == 192, "as documented");
_Static_assert(offsetof(struct board, signals) == 256, "as documented");
_Static_assert(offsetof(struct board, channels) == 512, "as documented");
_Static_assert(offsetof(struct board, slots) == 4096, "as documented");
_Static_assert(sizeof(struct slot) == 64, "as documented");
_Static_assert(sizeof(struct channel) == 16, "as documented");

/* A file that was mapped before the present one. */
struct sidecar_old {
  struct sidecar_old *next;
  int fd;
  struct board *board;
};

static pthread_mutex_t sidecars_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct sidecar *sidecars;
static pthread_once_t sidecars_once = PTHREAD_ONCE_INIT;

/* -------------------------------------------------------------------- fork */

static void fork_prepare(void) {
  pthread_mutex_lock(&sidecars_mutex);
}

static void fork_parent(void) {
  pthread_mutex_unlock(&sidecars_mutex);
}

/* Only close() here: other threads of the parent may have been anywhere. What
** was allocated stays, the parent's handles being unusable in the child. */
static void fork_child(void) {
  for (struct sidecar *sidecar = sidecars; sidecar; sidecar = sidecar->next) {
    if (sidecar->fd >= 0) close(sidecar->fd);
    for (struct sidecar_old *old = sidecar->old; old; old = old->next)
      if (old->fd >= 0) close(old->fd);
    monitor_forked(sidecar);
  }
  sidecars = NULL;
  pthread_mutex_unlock(&sidecars_mutex);
}

static void fork_watch(void) {
  pthread_atfork(fork_prepare, fork_parent, fork_child);
}

/* -------------------------------------------------------------------- file */

static bool board_is_valid(const struct board *board) {
  return !memcmp(board->magic, SIDECAR_MAGIC, sizeof board->magic) &&
         board->version == SIDECAR_VERSION && board->slot_count == SLOT_COUNT;
}

/* What is under that name: a usable file, open; or why not. */
enum sidecar_found { SIDECAR_USABLE, SIDECAR_REPLACE, SIDECAR_LEAVE };

static enum sidecar_found file_open(const char *name, int *fd) {
  struct board head;
  struct stat status;
  *fd = open(name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (*fd < 0) return errno == ENOENT ? SIDECAR_REPLACE : SIDECAR_LEAVE;
  enum sidecar_found found = SIDECAR_LEAVE;
  if (!fstat(*fd, &status) && S_ISREG(status.st_mode)) {
    ssize_t size = pread(*fd, &head, offsetof(struct board, seq), 0);
    bool whole = size == (ssize_t)offsetof(struct board, seq) &&
                 status.st_size == (off_t)sizeof(struct board);
    if (whole && board_is_valid(&head)) return SIDECAR_USABLE;
    bool newer = size >= 12 &&
                 !memcmp(head.magic, SIDECAR_MAGIC, sizeof head.magic) &&
                 head.version > SIDECAR_VERSION;
    if (size >= 0 && !newer) found = SIDECAR_REPLACE;
  }
  close(*fd);
  *fd = -1;
  return found;
}

/* Write a new file, its blocks allocated: a store into a map that has none on a
** full disk would be a SIGBUS. */
static bool file_fill(int fd, const char *database) {
  struct board head = {.version = SIDECAR_VERSION, .slot_count = SLOT_COUNT};
  struct stat status;
  memcpy(head.magic, SIDECAR_MAGIC, sizeof head.magic);
  if (posix_fallocate(fd, 0, sizeof(struct board))) return false;
  if (pwrite(fd, &head, offsetof(struct board, seq), 0) !=
      (ssize_t)offsetof(struct board, seq))
    return false;
  /* As SQLite does it for its own companions: whoever may use the database may
  ** use this; the owner can be given by root only. */
  if (stat(database, &status)) return false;
  if (fchmod(fd, status.st_mode & 0777)) return false;
  if (!geteuid() && fchown(fd, status.st_uid, status.st_gid)) return false;
  return true;
}

/* Make the file and give it its name: a missing one only if it is still
** missing. */
static void file_make(const char *name, const char *database) {
  char temporary[4096 + 32];
  uint64_t random = 0;
  if (getrandom(&random, sizeof random, 0) != sizeof random) return;
  int length = snprintf(temporary, sizeof temporary, "%s.%016llx", name,
                        (unsigned long long)random);
  if (length < 0 || (size_t)length >= sizeof temporary) return;
  int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return;
  if (file_fill(fd, database) && link(temporary, name) && errno == EEXIST) {
    int other;
    if (file_open(name, &other) == SIDECAR_REPLACE) rename(temporary, name);
    if (other >= 0) close(other);
  }
  unlink(temporary);
  close(fd);
}

static struct board *board_map(int fd) {
  int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
  void *map =
      mmap(NULL, sizeof(struct board), PROT_READ | PROT_WRITE, flags, fd, 0);
  return map == MAP_FAILED ? NULL : map;
}

/* Open and map the file of that name, making it first when it has to be. False
** when it cannot be had, which costs latency only. */
static bool sidecar_map(struct sidecar *sidecar) {
  int fd = -1;
  struct stat status;
  if (file_open(sidecar->name, &fd) == SIDECAR_REPLACE) {
    file_make(sidecar->name, sidecar->database);
    if (file_open(sidecar->name, &fd) != SIDECAR_USABLE) return false;
  }
  if (fd < 0) return false;
  struct board *board = fstat(fd, &status) ? NULL : board_map(fd);
  if (!board) {
    close(fd);
    return false;
  }
  sidecar->fd = fd;
  sidecar->device = status.st_dev;
  sidecar->inode = status.st_ino;
  atomic_store(&sidecar->board, board);
  return true;
}

/* ------------------------------------------------------------------- locks */

static int lock_ask(int fd, int command, short type, off_t byte) {
  struct flock lock = {
      .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
  if (fcntl(fd, command, &lock)) return -1;
  return lock.l_type;
}

static bool lock_take(int fd, off_t byte) {
  return lock_ask(fd, F_OFD_SETLK, F_WRLCK, byte) >= 0;
}

static void lock_drop(int fd, off_t byte) {
  lock_ask(fd, F_OFD_SETLK, F_UNLCK, byte);
}

/* Whether another one has it. When that cannot be told, it is taken to be. */
static bool lock_is_held(int fd, off_t byte) {
  return lock_ask(fd, F_OFD_GETLK, F_WRLCK, byte) != F_UNLCK;
}

bool sidecar_role_take(struct sidecar *sidecar, int role) {
  return sidecar->fd >= 0 && lock_take(sidecar->fd, LOCK_ROLES + role);
}

void sidecar_role_drop(struct sidecar *sidecar, int role) {
  if (sidecar->fd >= 0) lock_drop(sidecar->fd, LOCK_ROLES + role);
}

/* ---------------------------------------------------------------- identity */

/* The same for all processes of a machine, and never set. While the machine
** sleeps it stands still: so do hearts, and no lease runs out by that. */
int64_t time_since_boot(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

uint64_t process_namespace(void) {
  struct stat status;
  return stat("/proc/self/ns/pid", &status) ? 0 : (uint64_t)status.st_ino;
}

/* The state and the fields 20 and 22, the number of threads and the start, of
** proc(5) stat. The second field, the name, may hold anything, but the last ')'
** ends it. */
static bool process_read_stat(pid_t pid, char *state, int64_t *threads,
                              int64_t *started) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t size = read(fd, text, sizeof text - 1);
  close(fd);
  if (size <= 0) return false;
  text[size] = 0;
  char *at = strrchr(text, ')');
  if (!at || at[1] != ' ' || !at[2]) return false;
  *state = at[2];
  for (int field = 2; at && field < 20; field++) at = strchr(at + 1, ' ');
  if (!at) return false;
  *threads = strtoll(at, &at, 10);
  strtoll(at, &at, 10); /* field 21, of no use */
  char *end;
  *started = strtoll(at, &end, 10);
  return end != at;
}

int64_t process_started(pid_t pid) {
  char state;
  int64_t threads, started;
  return process_read_stat(pid, &state, &threads, &started) ? started : -1;
}

/* A zombie has given up its files; one whose main thread alone has ended has
** other threads. */
static bool process_is_zombie(pid_t pid) {
  char state;
  int64_t threads, started;
  return process_read_stat(pid, &state, &threads, &started) && state == 'Z' &&
         threads <= 1;
}

/* ------------------------------------------------------------------- slots */

/* Of what a slot says of its process, against damage. */
static uint32_t slot_check(const struct slot *slot) {
  uint64_t sum = atomic_load(&slot->holder) ^ atomic_load(&slot->pid) ^
                 atomic_load(&slot->namespace) << 20 ^
                 atomic_load(&slot->origin) << 30 ^
                 atomic_load(&slot->started) << 40;
  return (uint32_t)(sum * 0x9E3779B97F4A7C15u >> 32);
}

static void slot_fill(struct sidecar *sidecar, struct slot *slot) {
  atomic_store(&slot->pid, (uint32_t)getpid());
  atomic_store(&slot->waiters, 0);
  atomic_store(&slot->namespace, sidecar->namespace);
  atomic_store(&slot->started, (uint64_t)process_started(getpid()));
  atomic_store(&slot->beat, 0);
  atomic_store(&slot->origin, (uint64_t)sidecar->inode);
  atomic_store(&slot->holder, (uint64_t)sidecar->holder);
  atomic_store(&slot->check, slot_check(slot));
}

/* The process of a slot, if its number means something to us; or 0. */
static pid_t slot_process(const struct sidecar *sidecar,
                          const struct slot *slot) {
  if (!sidecar->namespace ||
      atomic_load(&slot->namespace) != sidecar->namespace ||
      atomic_load(&slot->check) != slot_check(slot))
    return 0;
  return (pid_t)atomic_load(&slot->pid);
}

/* Proof that it is gone, or that it lives. There is not always one: its number
** may be another's by now, or be hidden from us. */
static bool slot_is_gone(const struct sidecar *sidecar,
                         const struct slot *slot) {
  pid_t pid = slot_process(sidecar, slot);
  if (pid <= 0) return false;
  return (kill(pid, 0) && errno == ESRCH) || process_is_zombie(pid);
}

static bool slot_is_alive(const struct sidecar *sidecar,
                          const struct slot *slot) {
  pid_t pid = slot_process(sidecar, slot);
  return pid > 0 && !process_is_zombie(pid) &&
         process_started(pid) == (int64_t)atomic_load(&slot->started);
}

/* Whether any slot of that holder has its lock. */
static bool holder_is_locked(const struct sidecar *sidecar,
                             const struct board *board, uint64_t holder) {
  for (int i = 0; i < SLOT_COUNT; i++)
    if (atomic_load(&board->slots[i].holder) == holder &&
        lock_is_held(sidecar->fd, LOCK_SLOTS + i))
      return true;
  return false;
}

static int slot_take(struct sidecar *sidecar, struct board *board) {
  for (int i = 0; i < SLOT_COUNT; i++) {
    struct slot *slot = &board->slots[i];
    if (atomic_load(&slot->holder)) continue;
    if (!lock_take(sidecar->fd, LOCK_SLOTS + i)) continue;
    if (!atomic_load(&slot->holder)) {
      slot_fill(sidecar, slot);
      futimens(sidecar->fd, NULL); /* tells monitors (monitor.c) */
      return i;
    }
    lock_drop(sidecar->fd, LOCK_SLOTS + i);
  }
  return -1;
}

int64_t sidecar_hold(struct sidecar *sidecar) {
  if (!sidecar || sidecar->fd < 0) return 0;
  pthread_mutex_lock(&sidecar->mutex);
  if (!sidecar->holder) {
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, 0) == sizeof random)
      sidecar->holder = (int64_t)(random >> 2) | 1;
  }
  if (sidecar->holder && sidecar->slot < 0)
    sidecar->slot = slot_take(sidecar, atomic_load(&sidecar->board));
  int64_t holder = sidecar->slot < 0 ? 0 : sidecar->holder;
  pthread_mutex_unlock(&sidecar->mutex);
  return holder;
}

struct slot *sidecar_slot(struct sidecar *sidecar) {
  int slot = sidecar->slot;
  return slot < 0 ? NULL : &atomic_load(&sidecar->board)->slots[slot];
}

void sidecar_beat(struct sidecar *sidecar) {
  if (!sidecar) return;
  pthread_mutex_lock(&sidecar->mutex);
  struct slot *slot = sidecar_slot(sidecar);
  if (slot) atomic_store(&slot->beat, (uint64_t)time_since_boot());
  pthread_mutex_unlock(&sidecar->mutex);
}

/* Whether the slot was taken in another file, of which this one is a copy. */
static bool slot_is_copy(const struct sidecar *sidecar,
                         const struct slot *slot) {
  return atomic_load(&slot->origin) != (uint64_t)sidecar->inode;
}

/* By a free lock, unless that is so because the file is a copy; or, if a child
** that was forked behind our back keeps the lock, by its number. */
static bool slot_is_dead(struct sidecar *sidecar, struct board *board, int i) {
  const struct slot *slot = &board->slots[i];
  uint64_t holder = atomic_load(&slot->holder);
  if (!holder || holder == (uint64_t)atomic_load(&sidecar->holder))
    return false;
  if (lock_is_held(sidecar->fd, LOCK_SLOTS + i))
    return slot_is_gone(sidecar, slot);
  if (holder_is_locked(sidecar, board, holder)) return false;
  return !slot_is_copy(sidecar, slot) || !slot_is_alive(sidecar, slot);
}

bool sidecar_holder_beats(struct sidecar *sidecar, int64_t holder,
                          int64_t lease) {
  if (!sidecar || sidecar->fd < 0) return false;
  struct board *board = atomic_load(&sidecar->board);
  for (int i = 0; i < SLOT_COUNT; i++) {
    if (atomic_load(&board->slots[i].holder) != (uint64_t)holder) continue;
    if (slot_is_dead(sidecar, board, i)) return false;
    uint64_t beat = atomic_load(&board->slots[i].beat);
    uint64_t now = (uint64_t)time_since_boot();
    return beat && beat <= now && now - beat < (uint64_t)lease;
  }
  return false;
}

bool sidecar_duty_take(struct sidecar *sidecar, enum duty duty) {
  struct board *board = atomic_load(&sidecar->board);
  uint32_t bit = (uint32_t)duty;
  return atomic_load_explicit(&board->duty, memory_order_relaxed) & bit &&
         atomic_fetch_and(&board->duty, ~bit) & bit;
}

bool sidecar_probe_due(struct sidecar *sidecar) {
  if (!sidecar || sidecar->fd < 0) return false;
  struct board *board = atomic_load(&sidecar->board);
  if (sidecar_duty_take(sidecar, DUTY_DEAD)) return true;
  uint64_t now = (uint64_t)time_since_boot();
  uint64_t probed = atomic_load_explicit(&board->probed, memory_order_relaxed);
  /* A time ahead of us is from before a reboot. */
  if (probed <= now && now - probed < PROBE_INTERVAL) return false;
  return atomic_compare_exchange_strong(&board->probed, &probed, now);
}

int sidecar_dead(struct sidecar *sidecar, struct dead_holder *dead, int most) {
  int count = 0;
  struct board *board = atomic_load(&sidecar->board);
  for (int i = 0; i < SLOT_COUNT && count < most; i++) {
    if (!slot_is_dead(sidecar, board, i)) continue;
    dead[count].slot = i;
    dead[count++].holder = (int64_t)atomic_load(&board->slots[i].holder);
  }
  return count;
}

/* Its waiters do not wait any more. */
static void waiters_discount(struct board *board, struct slot *slot) {
  uint32_t gone = atomic_exchange(&slot->waiters, 0);
  uint32_t all = atomic_load(&board->waiters);
  while (!atomic_compare_exchange_weak(&board->waiters, &all,
                                       all > gone ? all - gone : 0)) {
  }
}

/* With the slot's lock, so that it has no new owner meanwhile. If a child of the
** dead one still has that, it has none either. The lock is the process's: the
** mutex keeps its other threads out. */
void sidecar_bury(struct sidecar *sidecar, const struct dead_holder *dead) {
  pthread_mutex_lock(&sidecar->mutex);
  struct board *board = atomic_load(&sidecar->board);
  struct slot *slot = &board->slots[dead->slot];
  uint64_t holder = (uint64_t)dead->holder;
  if (dead->slot != sidecar->slot && atomic_load(&slot->holder) == holder) {
    bool locked = lock_take(sidecar->fd, LOCK_SLOTS + dead->slot);
    if (atomic_load(&slot->holder) == holder &&
        (locked || slot_is_gone(sidecar, slot))) {
      waiters_discount(board, slot);
      atomic_compare_exchange_strong(&slot->holder, &holder, 0);
    }
    if (locked) lock_drop(sidecar->fd, LOCK_SLOTS + dead->slot);
  }
  pthread_mutex_unlock(&sidecar->mutex);
}

/* ---------------------------------------------------------------- registry */

static struct sidecar *sidecar_find(const char *name) {
  struct sidecar *sidecar = sidecars;
  /* A child that was forked behind our back has its parent's. */
  while (sidecar && (sidecar->pid != getpid() || strcmp(sidecar->name, name)))
    sidecar = sidecar->next;
  return sidecar;
}

static void sidecar_free(struct sidecar *sidecar) {
  free(sidecar->name);
  free(sidecar->database);
  free(sidecar);
}

static struct sidecar *sidecar_new(const char *name, const char *database) {
  struct sidecar *sidecar = calloc(1, sizeof *sidecar);
  if (!sidecar) return NULL;
  sidecar->name = strdup(name);
  sidecar->database = strdup(database);
  sidecar->fd = sidecar->slot = -1;
  sidecar->pid = getpid();
  sidecar->namespace = process_namespace();
  if (!sidecar->name || !sidecar->database ||
      pthread_mutex_init(&sidecar->mutex, NULL)) {
    sidecar_free(sidecar);
    return NULL;
  }
  return sidecar;
}

/* The map of a database in memory belongs to the process. */
static bool sidecar_start(struct sidecar *sidecar, bool in_memory) {
  if (!in_memory) return sidecar_map(sidecar);
  struct board *board = board_map(-1);
  atomic_store(&sidecar->board, board);
  return board != NULL;
}

struct sidecar *sidecar_open(const char *database, bool in_memory) {
  char name[4096];
  pthread_once(&sidecars_once, fork_watch);
  int length = snprintf(name, sizeof name, "%s-dibs", database);
  if (length < 0 || (size_t)length >= sizeof name) return NULL;
  pthread_mutex_lock(&sidecars_mutex);
  struct sidecar *sidecar = sidecar_find(name);
  if (!sidecar) {
    sidecar = sidecar_new(name, database);
    if (sidecar && !sidecar_start(sidecar, in_memory)) {
      pthread_mutex_destroy(&sidecar->mutex);
      sidecar_free(sidecar);
      sidecar = NULL;
    }
    if (sidecar) {
      sidecar->next = sidecars;
      sidecars = sidecar;
    }
  }
  if (sidecar) sidecar->references++;
  pthread_mutex_unlock(&sidecars_mutex);
  return sidecar;
}

static void board_unmap(int fd, struct board *board) {
  if (board) munmap(board, sizeof *board);
  if (fd >= 0) close(fd);
}

/* A slot that never held a lease is free at once. Leases that are still held go
** back as those of the dead do, with the next probing, though the process lives:
** nobody works on them. */
static void sidecar_end(struct sidecar *sidecar) {
  struct sidecar_old *next;
  monitor_stop(sidecar);
  struct slot *slot = sidecar_slot(sidecar);
  if (slot) atomic_store(&slot->pid, 0);
  if (slot && !atomic_load(&sidecar->attached)) atomic_store(&slot->holder, 0);
  for (struct sidecar_old *old = sidecar->old; old; old = next) {
    next = old->next;
    board_unmap(old->fd, old->board);
    free(old);
  }
  board_unmap(sidecar->fd, atomic_load(&sidecar->board));
  pthread_mutex_destroy(&sidecar->mutex);
  sidecar_free(sidecar);
}

void sidecar_close(struct sidecar *sidecar) {
  if (!sidecar) return;
  pthread_mutex_lock(&sidecars_mutex);
  bool last = !--sidecar->references;
  for (struct sidecar **at = &sidecars; last && *at; at = &(*at)->next) {
    if (*at != sidecar) continue;
    *at = sidecar->next;
    break;
  }
  pthread_mutex_unlock(&sidecars_mutex);
  if (last) sidecar_end(sidecar);
}

/* Keep the old map, on which others may sleep, and its locks, by which those
** who have not followed yet know that we are alive. */
static void sidecar_move(struct sidecar *sidecar) {
  struct sidecar_old *old = malloc(sizeof *old);
  if (!old) return;
  *old = (struct sidecar_old){sidecar->old, sidecar->fd,
                              atomic_load(&sidecar->board)};
  /* A slot's number means nothing in another map. */
  int slot = atomic_exchange(&sidecar->slot, -1);
  if (!sidecar_map(sidecar)) {
    sidecar->slot = slot;
    free(old);
    return;
  }
  sidecar->old = old;
  if (slot >= 0)
    sidecar->slot = slot_take(sidecar, atomic_load(&sidecar->board));
}

bool sidecar_follow(struct sidecar *sidecar) {
  struct stat status;
  if (sidecar->fd < 0) return false;
  int64_t now = time_since_boot();
  int64_t last = atomic_load_explicit(&sidecar->followed, memory_order_relaxed);
  if (now - last < FALLBACK ||
      !atomic_compare_exchange_strong(&sidecar->followed, &last, now))
    return false;
  pthread_mutex_lock(&sidecar->mutex);
  bool there = !stat(sidecar->name, &status) &&
               status.st_dev == sidecar->device &&
               status.st_ino == sidecar->inode;
  if (!there) sidecar_move(sidecar);
  pthread_mutex_unlock(&sidecar->mutex);
  return true;
}
