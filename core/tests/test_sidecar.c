/* SPDX-License-Identifier: MIT */
/*
** test_sidecar.c: the file beside the database: how it is made, what may stand
** in its place, what may become of it while processes wait, and what is left of
** it when they are done. Whatever its state, dibs works; at worst it is slower.
*/
#include "waiting.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- Files ------------------------------------------------------------------ */

static struct stat file_status(const char *name) {
  struct stat status;
  if (lstat(name, &status) != 0) fail_msg("%s: %s", name, strerror(errno));
  return status;
}

static void file_write(const char *name, const void *data, size_t size) {
  int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) fail_msg("%s: %s", name, strerror(errno));
  expect_int(write(fd, data, size), size);
  close(fd);
}

/* Nonzero when the file holds that and nothing else. */
static int file_holds(const char *name, const void *data, size_t size) {
  char *found = malloc(size + 1);
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  ssize_t got = fd < 0 ? -1 : read(fd, found, size + 1);
  int same = got == (ssize_t)size && memcmp(found, data, size) == 0;
  if (fd >= 0) close(fd);
  free(found);
  return same;
}

/* How many files of a folder have that in their name. */
static int count_names(const char *path, const char *part) {
  DIR *folder = opendir(path);
  struct dirent *entry;
  int count = 0;
  if (folder == NULL) fail_msg("%s: %s", path, strerror(errno));
  while ((entry = readdir(folder)) != NULL) {
    count += strstr(entry->d_name, part) != NULL;
  }
  closedir(folder);
  return count;
}

/* The beginning of a sidecar, in a buffer of MAP_SIZE bytes. */
static void header_write(unsigned char *data, const char *magic,
                         uint32_t version, uint32_t slots) {
  memcpy(data, magic, 8);
  memcpy(data + 8, &version, 4);
  memcpy(data + 12, &slots, 4);
}

/* The sidecar is a whole one, and nothing was left beside it. */
static void expect_sidecar(fixture *f) {
  unsigned char header[16];
  unsigned char *map = map_open(f->path);
  header_write(header, "dibs-map", 1, MAP_SLOT_COUNT);
  expect_true(map != NULL);
  expect_true(memcmp(map, header, sizeof header) == 0);
  expect_int(count_names(f->folder, "-dibs"), 1);
  map_close(map);
}

/* ---- What works --------------------------------------------------------------- */

/* Another handle waits, is woken, claims and acks. */
static void expect_work(fixture *f, int polls) {
  waiter w = waiter_for(f, "q");
  w.polls = polls;
  waiter_start(&w);
  expect_woken(&w, put(f, "q", "1"));
  expect_ok(f->db, dibs_ack(f->db, w.receipt, NULL));
}

/* ---- How it is made ------------------------------------------------------------ */

static void it_has_the_databases_mode(void **state) {
  fixture *f = *state;
  static const mode_t modes[] = {0600, 0640, 0664, 0666};
  mode_t old = umask(077);
  for (size_t i = 0; i < COUNT(modes); i++) {
    file_write(f->path, "", 0);
    expect_int(chmod(f->path, modes[i]), 0);
    f->db = waiting_open(f->path);
    expect_int(file_status(map_name(f->path)).st_mode & 0777, modes[i]);
    expect_work(f, 0);
    close_checked(f);
    file_remove(f->path);
  }
  umask(old);
}

static void it_has_the_databases_owner(void **state) {
  fixture *f = *state;
  if (geteuid() != 0) skip();
  file_write(f->path, "", 0);
  expect_int(chown(f->path, 12345, 23456), 0);
  f->db = waiting_open(f->path);
  expect_int(file_status(map_name(f->path)).st_uid, 12345);
  expect_int(file_status(map_name(f->path)).st_gid, 23456);
}

static void its_blocks_are_there(void **state) {
  fixture *f = *state;
  f->db = waiting_open(f->path);
  struct stat status = file_status(map_name(f->path));
  expect_int(status.st_size, MAP_SIZE);
  expect_true(status.st_blocks * 512 >= MAP_SIZE);
}

#define CROWD 8

static void many_processes_make_one(void **state) {
  fixture *f = *state;
  helper crowd[CROWD];
  f->db = waiting_open(f->path);
  for (int i = 0; i < CROWD; i++) {
    crowd[i] = helper_start();
    helper_do(&crowd[i], "hello", "hello");
  }
  expect_int(unlink(map_name(f->path)), 0);
  for (int i = 0; i < CROWD; i++) helper_tell(&crowd[i], "open 0 %s", f->path);
  for (int i = 0; i < CROWD; i++) {
    expect_text(helper_hear(&crowd[i]), "DIBS_OK");
    helper_tell(&crowd[i], "claim q 30000 60000 0");
  }
  for (int i = 0; i < CROWD; i++) helper_await_sleep(&crowd[i]);
  unsigned char *map = map_open(f->path);
  expect_sidecar(f);
  expect_int(map_u32(map, MAP_WAITERS), CROWD);
  map_close(map);
  for (int i = 0; i < CROWD; i++) helper_signal(&crowd[i], SIGKILL);
}

/* Where a slot is being taken, dibs tells others by the times of the file; here
** it can be kept at that. */
static _Atomic int taking; /* 1: keep the next one, 2: it is kept */

int futimens(int fd, const struct timespec times[2]) {
  int one = 1;
  if (atomic_compare_exchange_strong(&taking, &one, 2)) {
    while (taking == 2) usleep(100);
  }
  return (int)syscall(SYS_utimensat, fd, NULL, times, 0);
}

/* Nonzero when somebody has the lock of that slot. */
static int slot_is_locked(fixture *f, int slot) {
  struct flock lock = {.l_type = F_WRLCK,
                       .l_whence = SEEK_SET,
                       .l_start = ((off_t)1 << 30) + slot,
                       .l_len = 1};
  int fd = open(map_name(f->path), O_RDWR | O_CLOEXEC);
  expect_true(fd >= 0);
  expect_int(fcntl(fd, F_OFD_GETLK, &lock), 0);
  close(fd);
  return lock.l_type != F_UNLCK;
}

/* Another thread of the process looks for the dead meanwhile. */
static void a_process_does_not_bury_itself(void **state) {
  fixture *f = *state;
  f->db = waiting_open(f->path);
  unsigned char *map = map_open(f->path);
  waiter w = waiter_for(f, "q");
  taking = 1;
  waiter_begin(&w);
  while (taking != 2) usleep(100);
  uint64_t holder = map_u64(map, MAP_SLOTS);
  expect_true(holder != 0);
  map_set_u64(map, MAP_PROBED, 0);
  expect_nothing(f, "other");
  expect_true(map_u64(map, MAP_PROBED) != 0);
  taking = 0;
  expect_true(map_u64(map, MAP_SLOTS) == holder);
  expect_true(slot_is_locked(f, 0));
  put(f, "q", "1");
  waiter_join(&w);
  expect_int(w.status, DIBS_OK);
  map_close(map);
}

static void a_refused_open_makes_none(void **state) {
  fixture *f = *state;
  dibs_open_options options = waiting_options();
  options.create = DIBS_CREATE_NONE;
  file_write(f->path, "These are notes, and no database.", 33);
  expect_status(NULL, dibs_open(f->path, &options, &f->db), DIBS_SCHEMA);
  dibs_close(f->db);
  file_remove(f->path);
  raw_run(f, "CREATE TABLE t(x)");
  expect_status(NULL, dibs_open(f->path, &options, &f->db), DIBS_SCHEMA);
  expect_int(count_names(f->folder, "-dibs"), 0);
}

static void two_databases_have_two(void **state) {
  fixture *f = *state;
  char path[160];
  snprintf(path, sizeof path, "%s/other.db", f->folder);
  f->db = waiting_open(f->path);
  dibs_db *other = waiting_open(path);
  waiter w = waiter_for(f, "q");
  w.path = path;
  waiter_start(&w);
  unsigned char *map = map_open(path);
  uint64_t signals = map_u64(map, MAP_SIGNALS);
  expect_work(f, 0);
  expect_int(map_u64(map, MAP_SIGNALS), signals);
  expect_true(!w.over);
  int64_t id = 0;
  expect_ok(other, dibs_enqueue(other, "q", dibs_json("1"), NULL, &id));
  expect_woken(&w, id);
  expect_true(map_u64(map, MAP_SIGNALS) > signals);
  map_close(map);
  dibs_close(other);
}

static void a_database_in_memory_has_none(void **state) {
  fixture *f = *state;
  char before[4096];
  int64_t id = 0;
  expect_true(getcwd(before, sizeof before) != NULL);
  expect_int(chdir(f->folder), 0);
  dibs_db *db = waiting_open(":memory:");
  waiter w = waiter_for(f, "q");
  w.db = db;
  waiter_start(&w);
  expect_ok(db, dibs_enqueue(db, "q", dibs_json("1"), NULL, &id));
  expect_woken(&w, id);
  expect_int(count_names(".", "dibs"), 0);
  dibs_close(db);
  expect_int(chdir(before), 0);
}

/* ---- What may stand in its place -------------------------------------------------- */

/* Put it there, and open the database. */
static void open_beside(fixture *f, const void *data, size_t size) {
  file_remove(f->path);
  file_write(map_name(f->path), data, size);
  f->db = waiting_open(f->path);
}

static void one_that_is_of_no_use_is_replaced(void **state) {
  fixture *f = *state;
  static unsigned char data[MAP_SIZE + 1];
  static const struct useless {
    const char *what;
    const char *magic;
    uint32_t version;
    uint32_t slots;
    size_t size;
  } all[] = {
      {"empty", "dibs-map", 1, MAP_SLOT_COUNT, 0},
      {"a beginning", "dibs-map", 1, MAP_SLOT_COUNT, 10},
      {"short", "dibs-map", 1, MAP_SLOT_COUNT, MAP_SIZE - 1},
      {"long", "dibs-map", 1, MAP_SLOT_COUNT, MAP_SIZE + 1},
      {"foreign", "SQLite f", 0x616d726f, 0x00332074, MAP_SIZE},
      {"of another kind", "dibs-mop", 1, MAP_SLOT_COUNT, MAP_SIZE},
      {"of a newer kind, but foreign", "dibs-mop", 2, 7, MAP_SIZE},
      {"of an older version", "dibs-map", 0, MAP_SLOT_COUNT, MAP_SIZE},
      {"of another size", "dibs-map", 1, 511, MAP_SIZE},
  };
  for (size_t i = 0; i < COUNT(all); i++) {
    header_write(data, all[i].magic, all[i].version, all[i].slots);
    open_beside(f, data, all[i].size);
    print_message("%s\n", all[i].what);
    expect_sidecar(f);
    expect_work(f, 0);
    close_checked(f);
  }
}

static void one_that_is_valid_is_used(void **state) {
  fixture *f = *state;
  static unsigned char data[MAP_SIZE];
  header_write(data, "dibs-map", 1, MAP_SLOT_COUNT);
  file_remove(f->path);
  file_write(map_name(f->path), data, sizeof data);
  ino_t inode = file_status(map_name(f->path)).st_ino;
  f->db = waiting_open(f->path);
  expect_work(f, 0);
  expect_true(file_status(map_name(f->path)).st_ino == inode);
}

static void a_newer_one_is_left_alone(void **state) {
  fixture *f = *state;
  static unsigned char data[2 * MAP_SIZE];
  static const size_t sizes[] = {12, MAP_SIZE, 2 * MAP_SIZE};
  for (size_t i = 0; i < COUNT(sizes); i++) {
    header_write(data, "dibs-map", 2, MAP_SLOT_COUNT);
    open_beside(f, data, sizes[i]);
    expect_work(f, 1);
    expect_true(file_holds(map_name(f->path), data, sizes[i]));
    expect_int(count_names(f->folder, "-dibs"), 1);
    close_checked(f);
  }
}

/* A link of that name must lead nobody to write to what it names. */
static void a_link_is_left_alone(void **state) {
  fixture *f = *state;
  char victim[160];
  snprintf(victim, sizeof victim, "%s/victim", f->folder);
  for (int dangling = 0; dangling < 2; dangling++) {
    file_remove(f->path);
    if (!dangling) file_write(victim, "precious", 8);
    expect_int(symlink(victim, map_name(f->path)), 0);
    f->db = waiting_open(f->path);
    expect_work(f, 1);
    close_checked(f);
    expect_true(S_ISLNK(file_status(map_name(f->path)).st_mode));
    if (!dangling) expect_true(file_holds(victim, "precious", 8));
    expect_int(unlink(victim), dangling ? -1 : 0);
  }
}

static void what_is_no_file_is_left_alone(void **state) {
  fixture *f = *state;
  for (int is_fifo = 0; is_fifo < 2; is_fifo++) {
    file_remove(f->path);
    const char *name = map_name(f->path);
    expect_int(is_fifo ? mkfifo(name, 0600) : mkdir(name, 0700), 0);
    mode_t mode = file_status(name).st_mode;
    f->db = waiting_open(f->path);
    expect_work(f, 1);
    close_checked(f);
    expect_true(file_status(name).st_mode == mode);
    expect_int(is_fifo ? unlink(name) : rmdir(name), 0);
  }
}

/* A helper without rights opens the database, waits, and gets a job. */
static void expect_helper_polls(fixture *f) {
  helper h = helper_start();
  h.polls = 1;
  helper_do(&h, "DIBS_OK", "drop");
  if (strcmp(helper_ask(&h, "open 0 %s", f->path), "DIBS_OK") != 0) {
    print_message("others cannot reach %s (%s)\n", f->folder, h.answer);
    helper_end(&h);
    chmod(f->folder, 0700);
    skip();
  }
  helper_tell(&h, "claim q 30000 60000 0");
  helper_await_sleep(&h);
  int64_t id = put(f, "q", "1");
  expect_int(strtoll(helper_hear(&h), NULL, 10), id);
  helper_end(&h);
}

/* The companions that SQLite needs are there. */
static void a_folder_that_cannot_be_written(void **state) {
  fixture *f = *state;
  file_write(f->path, "", 0);
  expect_int(chmod(f->path, 0666), 0);
  go_way(PORTABLE_BY_OPTION);
  f->db = waiting_open(f->path);
  go_way(WITH_SIDECAR);
  expect_int(chmod(f->folder, geteuid() == 0 ? 0755 : 0555), 0);
  expect_helper_polls(f);
  expect_int(access(map_name(f->path), F_OK), -1);
  expect_int(count_names(f->folder, "-dibs"), 0);
  expect_int(chmod(f->folder, 0700), 0);
}

static void one_that_another_user_keeps_to_himself(void **state) {
  fixture *f = *state;
  if (geteuid() != 0) skip();
  file_write(f->path, "", 0);
  expect_int(chmod(f->path, 0666), 0);
  f->db = waiting_open(f->path);
  expect_int(chmod(map_name(f->path), 0600), 0);
  expect_int(chmod(f->folder, 0755), 0);
  expect_helper_polls(f);
  expect_sidecar(f);
}

/* ---- What may become of it ----------------------------------------------------------- */

/* Wait until both are on a new map. */
static unsigned char *map_await(fixture *f, uint32_t waiters) {
  for (int64_t end = steady_now() + MINUTE; steady_now() < end;) {
    unsigned char *map = map_open(f->path);
    if (map && map_u32(map, MAP_WAITERS) == waiters) return map;
    map_close(map);
    usleep(2000);
  }
  fail_msg("not all have followed");
  return NULL;
}

/* It was removed, or something else put there, while this process and another
** wait; they wake each other through the new one. */
static void replace_and_wake(fixture *f, const char *content) {
  waiter w = waiter_for(f, "a");
  helper h = helper_start();
  helper_do(&h, "DIBS_OK", "open 0 %s", f->path);
  helper_tell(&h, "claim b 60000 60000 0");
  helper_await_sleep(&h);
  waiter_start(&w);
  int64_t begin = steady_now();
  expect_int(unlink(map_name(f->path)), 0);
  if (content) file_write(map_name(f->path), content, strlen(content));
  unsigned char *map = map_await(f, 2);
  print_message("both followed within %d ms\n", (int)(steady_now() - begin));
  helper_await_sleep(&h);
  uint64_t signals = map_u64(map, MAP_SIGNALS);
  int64_t id = put(f, "b", "1");
  int sleeps = helper_sleeps(&h);
  expect_int(strtoll(helper_hear(&h), NULL, 10), id);
  expect_true(!sleeps);
  helper_do(&h, "DIBS_OK", "put a");
  expect_woken(&w, id + 1);
  expect_true(map_u64(map, MAP_SIGNALS) >= signals + 2);
  expect_sidecar(f);
  map_close(map);
  helper_end(&h);
}

static void one_that_is_removed_comes_again(void **state) {
  fixture *f = *state;
  f->db = waiting_open(f->path);
  replace_and_wake(f, NULL);
}

static void one_that_is_overwritten_comes_again(void **state) {
  fixture *f = *state;
  f->db = waiting_open(f->path);
  replace_and_wake(f, "not a sidecar at all");
}

/* Somebody makes a new one. */
static void replace(fixture *f) {
  helper h = helper_start();
  expect_int(unlink(map_name(f->path)), 0);
  helper_do(&h, "DIBS_OK", "open 0 %s", f->path);
  helper_end(&h);
}

static void who_only_enqueues_follows(void **state) {
  fixture *f = *state;
  f->db = waiting_open(f->path);
  put(f, "q", "1");
  replace(f);
  unsigned char *map = map_open(f->path);
  for (int64_t end = steady_now() + MINUTE; steady_now() < end;) {
    put(f, "q", "1");
    if (map_u64(map, MAP_SIGNALS) > 0) break;
    usleep(20000);
  }
  expect_true(map_u64(map, MAP_SIGNALS) > 0);
  map_close(map);
}

static void who_waits_in_short_turns_follows(void **state) {
  fixture *f = *state;
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  options.wait = 20;
  f->db = waiting_open(f->path);
  replace(f);
  unsigned char *map = map_open(f->path);
  for (int64_t end = steady_now() + MINUTE; steady_now() < end;) {
    expect_status(f->db, dibs_claim(f->db, NULL, 0, &options, &jobs),
                  DIBS_EMPTY);
    if (map_u64(map, MAP_SLOTS) != 0) break;
  }
  expect_true(map_u64(map, MAP_SLOTS) != 0);
  map_close(map);
}

/* One who is woken all the time, for nothing. */
static void who_never_sleeps_long_follows(void **state) {
  fixture *f = *state;
  f->db = waiting_open(f->path);
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  replace(f);
  unsigned char *map = map_open(f->path);
  for (int64_t end = steady_now() + MINUTE; steady_now() < end;) {
    dibs_interrupt(f->db);
    if (map_u32(map, MAP_WAITERS) == 1) break;
    usleep(20000);
  }
  expect_int(map_u32(map, MAP_WAITERS), 1);
  expect_woken(&w, put(f, "q", "1"));
  map_close(map);
}

/* A process that followed while it waited, and is killed when it does not wait any
** more, takes nobody else's place among the waiters away. */
static void the_waiters_are_counted_right_after_it(void **state) {
  fixture *f = *state;
  f->db = waiting_open(f->path);
  helper h = helper_start();
  helper_do(&h, "DIBS_OK", "open 0 %s", f->path);
  helper_tell(&h, "claim a 60000 60000 1");
  helper_await_sleep(&h);
  expect_int(unlink(map_name(f->path)), 0);
  unsigned char *map = map_await(f, 1);
  int64_t id = put(f, "a", "1");
  expect_int(strtoll(helper_hear(&h), NULL, 10), id);
  waiter first = waiter_for(f, "b");
  waiter_start(&first);
  expect_int(map_u32(map, MAP_WAITERS), 1);
  helper_signal(&h, SIGKILL);
  for (int64_t end = steady_now() + MINUTE; steady_now() < end;) {
    if (look(f, id).state == DIBS_READY) break;
    usleep(1000);
  }
  expect_state(f, id, DIBS_READY);
  while (map_u64(map, MAP_SLOTS) != 0) usleep(1000); /* until it is buried */
  expect_int(map_u32(map, MAP_WAITERS), 1);
  expect_woken(&first, put(f, "b", "1"));
  map_close(map);
}

/* A copy has the slots of the living without their locks. */
static void a_copy_in_its_place_takes_no_lease(void **state) {
  fixture *f = *state;
  char copy[160];
  snprintf(copy, sizeof copy, "%s/copy", f->folder);
  f->db = waiting_open(f->path);
  helper h = helper_start();
  helper_do(&h, "DIBS_OK", "open 0 %s", f->path);
  int64_t id = put(f, "q", "1");
  helper_ask(&h, "claim q 0 3600000 1");
  expect_int(strtoll(h.answer, NULL, 10), id);
  file_copy(map_name(f->path), copy);
  expect_int(rename(copy, map_name(f->path)), 0);
  waiter w = waiter_for(f, "other");
  waiter_start(&w);
  map_close(map_await(f, 1));
  helper_do(&h, "DIBS_EMPTY", "claim other 1500 1000 1");
  expect_state(f, id, DIBS_RUNNING);
  helper_do(&h, "DIBS_OK", "ack");
  put(f, "other", "1");
  waiter_join(&w);
  helper_end(&h);
}

/* Leases that were attached by the old one end with their process still. */
static void a_lease_outlives_its_sidecar(void **state) {
  fixture *f = *state;
  f->db = waiting_open(f->path);
  helper h = helper_start();
  helper_do(&h, "DIBS_OK", "open 0 %s", f->path);
  int64_t id = put(f, "a", "1");
  helper_ask(&h, "claim a 0 3600000 1");
  expect_int(strtoll(h.answer, NULL, 10), id);
  helper_tell(&h, "claim b 60000 60000 0");
  helper_await_sleep(&h);
  waiter w = waiter_for(f, "a");
  waiter_start(&w);
  expect_int(unlink(map_name(f->path)), 0);
  map_close(map_await(f, 2));
  expect_state(f, id, DIBS_RUNNING);
  helper_signal(&h, SIGKILL);
  waiter_join(&w);
  expect_int(w.id, id);
  expect_int(w.crashes, 1);
}

struct scribbler {
  unsigned char *map;
  _Atomic int stop;
  pthread_t thread;
};

/* Every word of the map, over and over. */
static void *scribble(void *context) {
  struct scribbler *s = context;
  uint64_t random = 88172645463325252u;
  while (!s->stop) {
    for (size_t at = 0; at < MAP_SIZE; at += 8) {
      random ^= random << 13;
      random ^= random >> 7;
      random ^= random << 17;
      map_set_u64(s->map, at, random);
      if (at % 1024 == 0) usleep(50);
    }
  }
  return NULL;
}

/* Helpers that work on a and on b, the one with leases that end with it. */
static void workers_start(fixture *f, helper workers[2], int count) {
  for (int i = 0; i < 2; i++) {
    workers[i] = helper_start();
    helper_do(&workers[i], "DIBS_OK", "open 0 %s", f->path);
    helper_tell(&workers[i], "work %c %d %d", "ab"[i], count, i);
    helper_await_sleep(&workers[i]);
  }
}

static void garbage_in_it_harms_nobody(void **state) {
  fixture *f = *state;
  int count = 200 / slowness();
  char wanted[32];
  helper workers[2];
  f->db = waiting_open(f->path);
  struct scribbler s = {.map = map_open(f->path), .stop = 0};
  workers_start(f, workers, count);
  expect_int(pthread_create(&s.thread, NULL, scribble, &s), 0);
  for (int i = 0; i < count; i++) {
    put(f, "a", "1");
    put(f, "b", "1");
    usleep(3000);
  }
  /* All are done, and none of them was lost. */
  snprintf(wanted, sizeof wanted, "%d 0", count);
  for (int i = 0; i < 2; i++) expect_text(helper_hear(&workers[i]), wanted);
  s.stop = 1;
  pthread_join(s.thread, NULL);
  map_close(s.map);
  for (int i = 0; i < 2; i++) helper_end(&workers[i]);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

/* One word of the slot of a process that lives and holds a job. */
static void damage_to_a_slot_takes_no_lease(void **state) {
  fixture *f = *state;
  f->db = waiting_open(f->path);
  unsigned char *map = map_open(f->path);
  helper h = helper_start();
  helper_do(&h, "DIBS_OK", "open 0 %s", f->path);
  int64_t id = put(f, "q", "1");
  helper_ask(&h, "claim q 0 3600000 1");
  expect_int(strtoll(h.answer, NULL, 10), id);
  for (size_t at = MAP_SLOTS; at < MAP_SLOTS + MAP_SLOT_SIZE; at += 8) {
    uint64_t word = map_u64(map, at);
    map_set_u64(map, at, word ^ UINT64_C(0x3a5f00013a5f0001));
    map_set_u64(map, MAP_PROBED, 0);
    expect_nothing(f, "other");
    expect_true(map_u64(map, MAP_PROBED) != 0);
    if (look(f, id).state != DIBS_RUNNING) {
      fail_msg("lost by word %d of the slot", (int)(at - MAP_SLOTS) / 8);
    }
    map_set_u64(map, at, word);
  }
  helper_do(&h, "DIBS_OK", "ack");
  helper_end(&h);
  map_close(map);
}

/* ---- What is left --------------------------------------------------------------------- */

static int threads_count(void) {
  return count_names("/proc/self/task", "") - 2;
}

/* A thread that was joined may still be shown for a moment. */
static int threads_await(int wanted) {
  for (int64_t end = steady_now() + MINUTE; steady_now() < end;) {
    if (threads_count() == wanted) break;
    usleep(1000);
  }
  return threads_count();
}

static void the_last_close_ends_the_monitor(void **state) {
  fixture *f = *state;
  int before = threads_count();
  f->db = waiting_open(f->path);
  dibs_db *other = waiting_open(f->path);
  expect_int(threads_count(), before);
  expect_work(f, 0);
  expect_int(threads_await(before + 1), before + 1);
  expect_int(dibs_close(other), DIBS_OK);
  expect_int(threads_count(), before + 1);
  close_checked(f);
  expect_int(threads_await(before), before);
}

static void nothing_is_left_but_the_file(void **state) {
  fixture *f = *state;
  for (int i = 0; i < 20; i++) {
    f->db = waiting_open(f->path);
    expect_work(f, 0);
    close_checked(f);
    expect_int(count_names(f->folder, "test.db"), 2);
    if (i % 2) expect_int(unlink(map_name(f->path)), 0);
  }
}

/* In a forked child: how many of its descriptors are of a sidecar. */
static int sidecars_open(void) {
  int count = 0;
  for (int fd = 0; fd < 256; fd++) {
    char path[64], target[256];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(path, target, sizeof target - 1);
    target[size < 0 ? 0 : size] = 0;
    count += strstr(target, "-dibs") != NULL;
  }
  return count;
}

static void a_forked_child_has_it_not(void **state) {
  fixture *f = *state;
  int status = -1;
  f->db = waiting_open(f->path);
  expect_work(f, 0);
  expect_true(sidecars_open() > 0);
  pid_t child = fork();
  if (child == 0) _exit(sidecars_open());
  expect_int(waitpid(child, &status, 0), child);
  expect_true(WIFEXITED(status));
  expect_int(WEXITSTATUS(status), 0);
  expect_work(f, 0);
}

int main(int count, char **arguments) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(it_has_the_databases_mode),
      TEST_CLOSED(it_has_the_databases_owner),
      TEST_CLOSED(its_blocks_are_there),
      TEST_CLOSED(many_processes_make_one),
      TEST_CLOSED(a_process_does_not_bury_itself),
      TEST_CLOSED(a_refused_open_makes_none),
      TEST_CLOSED(two_databases_have_two),
      TEST_CLOSED(a_database_in_memory_has_none),
      TEST_CLOSED(one_that_is_of_no_use_is_replaced),
      TEST_CLOSED(one_that_is_valid_is_used),
      TEST_CLOSED(a_newer_one_is_left_alone),
      TEST_CLOSED(a_link_is_left_alone),
      TEST_CLOSED(what_is_no_file_is_left_alone),
      TEST_CLOSED(a_folder_that_cannot_be_written),
      TEST_CLOSED(one_that_another_user_keeps_to_himself),
      TEST_CLOSED(garbage_in_it_harms_nobody),
      TEST_CLOSED(damage_to_a_slot_takes_no_lease),
      TEST_CLOSED(the_last_close_ends_the_monitor),
      TEST_CLOSED(nothing_is_left_but_the_file),
      TEST_CLOSED(a_forked_child_has_it_not),
  };
  /* These take about a second each: so long may a process take to notice. */
  const struct CMUnitTest replaced[] = {
      TEST_CLOSED(one_that_is_removed_comes_again),
      TEST_CLOSED(one_that_is_overwritten_comes_again),
      TEST_CLOSED(who_only_enqueues_follows),
      TEST_CLOSED(who_waits_in_short_turns_follows),
      TEST_CLOSED(who_never_sleeps_long_follows),
      TEST_CLOSED(the_waiters_are_counted_right_after_it),
      TEST_CLOSED(a_copy_in_its_place_takes_no_lease),
      TEST_CLOSED(a_lease_outlives_its_sidecar),
  };
  helper_main(count, arguments);
  go_way(WITH_SIDECAR);
  if (count == 2 && strcmp(arguments[1], "replaced") == 0) {
    return cmocka_run_group_tests(replaced, NULL, NULL);
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
