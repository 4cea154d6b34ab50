/* SPDX-License-Identifier: MIT */
/*
** test_dead.c: processes that hold jobs and are killed, stopped, forked, exec'd
** or ended. What they held for the length of their life comes back when that
** is over, and not before; what they held for a time comes back by time.
*/
#include "waiting.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LONG_LEASE 3600000

/* ---- Holders ----------------------------------------------------------------- */

/* A process that has the database open. */
static helper process_open(fixture *f) {
  helper h = helper_start();
  helper_do(&h, "DIBS_OK", "open 0 %s", f->path);
  return h;
}

/* What it has claimed; id 0: nothing. */
struct claimed {
  long long id;
  long long attempt;
  long long crashes;
  long long claimed_at;
  long long lease_until;
};

static struct claimed claimed_read(const char *answer) {
  struct claimed job = {0, 0, 0, 0, 0};
  sscanf(answer, "%lld %lld %lld %lld %lld", &job.id, &job.attempt,
         &job.crashes, &job.claimed_at, &job.lease_until);
  return job;
}

/* A process that holds the next job of q for its life. */
static helper holder_start(fixture *f) {
  helper h = process_open(f);
  struct claimed job = claimed_read(helper_ask(&h, "claim q 0 3600000 1"));
  if (job.id == 0) fail_msg("a holder says %s", h.answer);
  return h;
}

/* Wait until nobody holds it, while somebody looks after such things. */
static void await_state(fixture *f, int64_t id, int state) {
  for (int64_t end = steady_now() + MINUTE; steady_now() < end;) {
    if (look(f, id).state == state) return;
    usleep(1000);
  }
  expect_state(f, id, state);
}

/* Until the slots have been probed that often, and nobody has got the job. */
static void await_probes(fixture *f, int64_t id, int count) {
  unsigned char *map = map_open(f->path);
  for (int64_t end = steady_now() + MINUTE; count > 0; count--) {
    uint64_t before = map_u64(map, MAP_PROBED);
    while (map_u64(map, MAP_PROBED) == before) {
      if (steady_now() > end) fail_msg("nobody probes");
      expect_int(look(f, id).attempt, 1);
      usleep(20000);
    }
  }
  expect_state(f, id, DIBS_RUNNING);
  expect_int(look(f, id).attempt, 1);
  map_close(map);
}

/* ---- One that is killed -------------------------------------------------------- */

/* Kill it; the waiter gets the job. Gives after how many ms. */
static int kill_and_wait(helper *h, waiter *w, int64_t id) {
  int64_t begin = steady_now();
  helper_signal(h, SIGKILL);
  waiter_join(w);
  int passed = (int)(steady_now() - begin);
  expect_int(w->status, DIBS_OK);
  expect_int(w->id, id);
  return passed;
}

static void a_killed_ones_job_goes_to_the_next(void **state) {
  fixture *f = *state;
  for (int i = 0; i < 5; i++) {
    int64_t id = put(f, "q", "1");
    helper h = holder_start(f);
    waiter w = waiter_for(f, "q");
    waiter_start(&w);
    print_message("a kill was seen after %d ms\n", kill_and_wait(&h, &w, id));
    expect_int(w.attempt, 2);
    expect_int(w.crashes, 1);
    seen job = look(f, id);
    expect_int(job.error_count, 1);
    expect_int(job.errors[0].attempt, 1);
    expect_says(job.error_texts[0], "process died");
    expect_ok(f->db, dibs_ack(f->db, w.receipt, NULL));
  }
}

static void so_it_goes_to_another_process(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "1");
  helper h = holder_start(f);
  helper other = process_open(f);
  helper_tell(&other, "claim q 30000 60000 0");
  helper_await_sleep(&other);
  int64_t begin = steady_now();
  helper_signal(&h, SIGKILL);
  struct claimed job = claimed_read(helper_hear(&other));
  print_message("another process has it after %d ms\n",
                (int)(steady_now() - begin));
  expect_int(job.id, id);
  expect_int(job.attempt, 2);
  expect_int(job.crashes, 1);
  helper_do(&other, "DIBS_OK", "ack");
  helper_end(&other);
}

/* Where nobody watches for deaths, slots are probed about once a second. */
static void without_a_monitor_it_is_noticed_too(void **state) {
  fixture *f = *state;
  int monitors = monitors_prevent(f->path);
  int64_t id = put(f, "q", "1");
  helper h = holder_start(f);
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  print_message("a probe saw it after %d ms\n", kill_and_wait(&h, &w, id));
  expect_int(w.crashes, 1);
  close(monitors);
}

static void all_that_it_held_comes_back(void **state) {
  fixture *f = *state;
  enum { MANY = 150 }; /* more than are given back in one transaction */
  helper h = process_open(f);
  for (int i = 0; i < MANY; i++) {
    put(f, "q", "1");
    helper_ask(&h, "claim q 0 3600000 1");
  }
  expect_int(counts(f, "q").running, MANY);
  waiter w = waiter_for(f, "other");
  waiter_start(&w);
  helper_signal(&h, SIGKILL);
  await_state(f, MANY, DIBS_READY);
  expect_int(counts(f, "q").ready, MANY);
  put(f, "other", "1");
  waiter_join(&w);
}

/* ---- Again and again --------------------------------------------------------------- */

/* A holder of the job is killed, and what becomes of the job. Somebody who waits
** for something else sees to it. */
static seen crash(fixture *f, int64_t id) {
  waiter w = waiter_for(f, "other");
  helper h = holder_start(f);
  waiter_start(&w);
  helper_signal(&h, SIGKILL);
  for (int64_t end = steady_now() + MINUTE; steady_now() < end;) {
    if (look(f, id).state != DIBS_RUNNING) break;
    usleep(1000);
  }
  put(f, "other", "1");
  waiter_join(&w);
  return look(f, id);
}

static void the_second_crash_waits_the_third_is_the_end(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;
  options.backoff = HOUR;
  options.backoff_factor = 2;
  options.backoff_jitter = 0;
  int64_t id = put_with(f, "q", "1", &options);
  seen job = crash(f, id);
  expect_int(job.state, DIBS_READY);
  expect_int(job.crashes, 1);
  job = crash(f, id);
  expect_int(job.state, DIBS_SCHEDULED);
  expect_int(job.crashes, 2);
  expect_int(job.due_at, job.errors[1].at + 2 * HOUR);
  change.delay = 0;
  expect_ok(f->db, dibs_change(f->db, id, &change));
  job = crash(f, id);
  expect_int(job.state, DIBS_DEAD);
  expect_int(job.crashes, 3);
  expect_int(job.attempt, 3);
  expect_int(job.error_count, 3);
  for (int i = 0; i < 3; i++) expect_says(job.error_texts[i], "process died");
}

static void one_crash_may_be_the_end(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.max_crashes = 1;
  int64_t id = put_with(f, "q", "1", &options);
  seen job = crash(f, id);
  expect_int(job.state, DIBS_DEAD);
  expect_int(job.crashes, 1);
}

static void crashes_may_be_unlimited(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.max_crashes = 0;
  options.backoff = 0;
  options.backoff_jitter = 0;
  int64_t id = put_with(f, "q", "1", &options);
  for (int i = 1; i <= 5; i++) {
    seen job = crash(f, id);
    expect_int(job.state, DIBS_READY);
    expect_int(job.crashes, i);
  }
}

/* A crash is an attempt, too. */
static void attempts_count_crashes(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.max_attempts = 1;
  int64_t id = put_with(f, "q", "1", &options);
  expect_int(crash(f, id).state, DIBS_DEAD);
}

/* ---- By time -------------------------------------------------------------------------- */

static void a_detached_lease_stays(void **state) {
  fixture *f = *state;
  int64_t detached = put(f, "d", "1");
  int64_t attached = put(f, "q", "1");
  helper h = process_open(f);
  helper_ask(&h, "claim d 0 %d 0", LONG_LEASE);
  struct claimed job = claimed_read(h.answer);
  expect_int(job.id, detached);
  helper_ask(&h, "claim q 0 %d 1", LONG_LEASE);
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  helper_signal(&h, SIGKILL);
  waiter_join(&w);
  expect_int(w.id, attached);
  expect_state(f, detached, DIBS_RUNNING);
  expect_int(look(f, detached).lease_until, job.lease_until);
}

/* A process that is stopped is not dead. Its lease ends by time, and what it
** does when it goes on is refused. */
static void a_stopped_one_keeps_it_for_its_time(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "1");
  helper h = process_open(f);
  struct claimed first = claimed_read(helper_ask(&h, "claim q 0 1500 1"));
  expect_int(first.id, id);
  helper_signal(&h, SIGSTOP);
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  waiter_join(&w);
  expect_int(w.id, id);
  expect_int(w.attempt, 2);
  expect_int(w.crashes, 0);
  expect_true(w.claimed_at >= first.lease_until);
  expect_says(look(f, id).last_error, "lease ran out");
  helper_tell(&h, "ack");
  helper_signal(&h, SIGCONT);
  expect_text(helper_hear(&h), "DIBS_LOST");
  expect_ok(f->db, dibs_ack(f->db, w.receipt, NULL));
  helper_end(&h);
}

/* A wake that goes to a stopped process is not lost for long. */
static void a_stopped_waiter_keeps_no_job_from_others(void **state) {
  fixture *f = *state;
  helper h = process_open(f);
  helper_tell(&h, "claim q 60000 60000 0");
  helper_await_sleep(&h);
  helper_signal(&h, SIGSTOP);
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  int64_t begin = steady_now();
  int64_t id = put(f, "q", "1");
  waiter_join(&w);
  print_message("got a stopped one's job after %d ms\n",
                (int)(steady_now() - begin));
  expect_int(w.id, id);
  helper_signal(&h, SIGKILL);
}

/* ---- Alive ------------------------------------------------------------------------------ */

/* It lives and works, however often others look. */
static void expect_held(fixture *f, helper *h, int64_t id) {
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  await_probes(f, id, 2);
  helper_do(h, "DIBS_OK", "ack");
  put(f, "q", "1");
  waiter_join(&w);
  expect_int(w.status, DIBS_OK);
  expect_true(w.id != id);
}

static void one_that_lives_keeps_it(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "1");
  helper h = holder_start(f);
  expect_held(f, &h, id);
  helper_end(&h);
}

static void one_that_closes_other_handles_keeps_it(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "1");
  helper h = holder_start(f);
  /* Its first handle stays open. */
  helper_do(&h, "DIBS_OK", "open 0 %s", f->path);
  helper_do(&h, "DIBS_OK", "close");
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  await_probes(f, id, 2);
  print_message("killed after %d ms\n", kill_and_wait(&h, &w, id));
}

/* The kernel shows such a process as a zombie. */
static void one_whose_main_thread_has_ended_keeps_it(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "1");
  helper h = holder_start(f);
  helper_do(&h, "DIBS_OK", "thread");
  expect_held(f, &h, id);
  helper_end(&h);
}

/* ---- Children ------------------------------------------------------------------------------ */

static int process_lives(pid_t pid) {
  char path[64], text[256] = "";
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  FILE *file = fopen(path, "re");
  if (file == NULL) return 0;
  char *line = fgets(text, sizeof text, file);
  fclose(file);
  char *name_end = line ? strrchr(text, ')') : NULL;
  return name_end && name_end[2] != 'Z';
}

/* The holder makes a child, in that way, and is killed; the child lives. */
static void kill_the_parent(fixture *f, const char *way) {
  int64_t id = put(f, "q", "1");
  helper h = holder_start(f);
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  pid_t child = (pid_t)strtoll(helper_ask(&h, "%s", way), NULL, 10);
  expect_true(child > 0);
  print_message("killed, with a child, after %d ms\n",
                kill_and_wait(&h, &w, id));
  expect_int(w.crashes, 1);
  expect_true(process_lives(child));
  kill(child, SIGKILL);
}

static void a_forked_child_does_not_hold_it(void **state) {
  kill_the_parent(*state, "fork");
}

/* It has the locks, and only the death of the process tells. */
static void neither_does_one_that_was_cloned(void **state) {
  kill_the_parent(*state, "clone");
}

static void neither_does_another_program(void **state) {
  kill_the_parent(*state, "program");
}

/* The lock is gone with the program, though the process has its number and its
** age. */
static void a_process_that_becomes_another_program(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "1");
  helper h = holder_start(f);
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  helper_tell(&h, "become");
  waiter_join(&w);
  expect_int(w.id, id);
  expect_true(process_lives(h.pid));
  helper_signal(&h, SIGKILL);
}

/* A child that goes on with a handle of its own holds for itself, however it was
** made. */
static void a_child_holds_for_itself(void **state) {
  fixture *f = *state;
  helper h = process_open(f);
  helper_do(&h, "DIBS_EMPTY", "claim other 1 1000 1");
  int64_t id = put(f, "q", "1");
  pid_t child = (pid_t)strtoll(helper_ask(&h, "split"), NULL, 10);
  expect_true(child > 0 && child != h.pid);
  helper_do(&h, "DIBS_OK", "open 0 %s", f->path);
  helper_ask(&h, "claim q 0 %d 1", LONG_LEASE);
  expect_int(strtoll(h.answer, NULL, 10), id);
  kill(h.pid, SIGKILL);
  expect_held(f, &h, id);
  helper_end(&h);
  kill(child, SIGKILL);
}

/* ---- Orderly ends ------------------------------------------------------------------------------ */

static void an_exit_gives_it_back(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "1");
  helper h = holder_start(f);
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  int64_t begin = steady_now();
  helper_tell(&h, "exit");
  waiter_join(&w);
  print_message("an exit was seen after %d ms\n", (int)(steady_now() - begin));
  expect_int(w.id, id);
  expect_int(w.attempt, 2);
  helper_end(&h);
}

static void a_close_gives_it_back(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "1");
  helper h = holder_start(f);
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  int64_t begin = steady_now();
  helper_do(&h, "DIBS_OK", "close");
  waiter_join(&w);
  print_message("a close was seen after %d ms\n", (int)(steady_now() - begin));
  expect_int(w.id, id);
  expect_int(w.attempt, 2);
  helper_do(&h, "hello", "hello");
  helper_end(&h);
}

/* ---- Namespaces ----------------------------------------------------------------------------------- */

static const char *const aparts[] = {
    "in its own pid namespace", "the same with its own /proc",
    "where others are hidden", "in another time namespace"};

/* Whoever has no rights needs some here. */
static void let_everybody(fixture *f) {
  static const char *const suffixes[] = {"", "-wal", "-shm", "-dibs"};
  expect_int(chmod(f->folder, 0755), 0);
  for (size_t i = 0; i < COUNT(suffixes); i++) {
    char name[160];
    snprintf(name, sizeof name, "%s%s", f->path, suffixes[i]);
    expect_int(chmod(name, 0666), 0);
  }
}

/* One of the two is apart: the holder is not taken for dead while it lives, and
** its death is seen. */
static void across(fixture *f, enum apart apart, int holder_apart) {
  helper far = helper_start_apart(apart);
  if (far.pid == 0) {
    print_message("%s: not permitted here, not run\n", aparts[apart]);
    return;
  }
  helper near = helper_start();
  helper *holder = holder_apart ? &far : &near;
  helper *other = holder_apart ? &near : &far;
  int64_t id = put(f, "q", "1");
  let_everybody(f);
  if (apart == APART_HIDDEN) helper_do(&far, "DIBS_OK", "drop");
  helper_do(&far, "DIBS_OK", "open 0 %s", f->path);
  helper_do(&near, "DIBS_OK", "open 0 %s", f->path);
  helper_ask(holder, "claim q 0 %d 1", LONG_LEASE);
  expect_int(strtoll(holder->answer, NULL, 10), id);
  helper_tell(other, "claim q 30000 60000 0");
  await_probes(f, id, 2);
  int64_t begin = steady_now();
  helper_signal(holder, SIGKILL);
  struct claimed job = claimed_read(helper_hear(other));
  print_message("%s, %s: seen after %d ms\n", aparts[apart],
                holder_apart ? "the holder" : "the waiter",
                (int)(steady_now() - begin));
  expect_int(job.id, id);
  expect_int(job.crashes, 1);
  helper_do(other, "DIBS_OK", "ack");
  helper_end(other);
}

static void a_holder_in_another_pid_namespace(void **state) {
  across(*state, APART_PIDS, 1);
  across(*state, APART_PIDS_PROC, 1);
}

static void a_waiter_in_another_pid_namespace(void **state) {
  across(*state, APART_PIDS, 0);
  across(*state, APART_PIDS_PROC, 0);
}

static void a_holder_whom_the_waiter_cannot_see(void **state) {
  if (geteuid() != 0) skip();
  across(*state, APART_HIDDEN, 0);
}

static void a_waiter_in_another_time_namespace(void **state) {
  across(*state, APART_TIME, 0);
}

/* ---- Slots -------------------------------------------------------------------------------------------- */

/* A sidecar that nobody has locks in, from before a start of the machine: times
** since then are ahead of now. */
static void what_is_left_from_before_a_reboot(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "1");
  helper h = holder_start(f);
  helper_signal(&h, SIGKILL);
  close_checked(f);
  unsigned char *map = map_open(f->path);
  map_set_u64(map, MAP_PROBED, UINT64_C(1) << 50);
  map_close(map);
  f->db = waiting_open(f->path);
  held job = take(f, "q");
  expect_int(job.id, id);
  expect_int(job.attempt, 2);
  expect_int(look(f, id).crashes, 1);
}

/* Somebody holds all slots. */
static int slots_use_up(unsigned char *map, const char *path) {
  struct flock lock = {.l_type = F_WRLCK,
                       .l_whence = SEEK_SET,
                       .l_start = (off_t)1 << 30,
                       .l_len = MAP_SLOT_COUNT};
  int fd = open(map_name(path), O_RDWR | O_CLOEXEC);
  expect_true(fd >= 0);
  expect_int(fcntl(fd, F_OFD_SETLK, &lock), 0);
  for (size_t i = 0; i < MAP_SLOT_COUNT; i++) {
    map_set_u64(map, MAP_SLOTS + i * MAP_SLOT_SIZE, i + 1);
  }
  return fd;
}

static void without_a_free_slot_leases_end_by_time(void **state) {
  fixture *f = *state;
  unsigned char *map = map_open(f->path);
  int slots = slots_use_up(map, f->path);
  int64_t id = put(f, "q", "1");
  helper h = process_open(f);
  struct claimed first = claimed_read(helper_ask(&h, "claim q 0 1500 1"));
  expect_int(first.id, id);
  helper_signal(&h, SIGKILL);
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  waiter_join(&w);
  expect_int(w.id, id);
  expect_int(w.crashes, 0);
  expect_true(w.claimed_at >= first.lease_until);
  expect_ok(f->db, dibs_ack(f->db, w.receipt, NULL));
  expect_int(map_u32(map, MAP_WAITERS), 0);
  close(slots);
  map_close(map);
}

/* Once its leases are back, a dead one's slot is free, and it is not counted
** among the waiters. */
static void a_dead_ones_slot_is_free_again(void **state) {
  fixture *f = *state;
  unsigned char *map = map_open(f->path);
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  for (int i = 0; i < 3; i++) {
    helper h = process_open(f);
    helper_tell(&h, "claim other 30000 60000 1");
    helper_await_sleep(&h);
    expect_int(map_u32(map, MAP_WAITERS), 2);
    helper_signal(&h, SIGKILL);
    for (int64_t end = steady_now() + MINUTE; steady_now() < end;) {
      if (map_u32(map, MAP_WAITERS) == 1) break;
      usleep(1000);
    }
    expect_int(map_u32(map, MAP_WAITERS), 1);
    /* This process has the first. */
    expect_int(map_u64(map, MAP_SLOTS + MAP_SLOT_SIZE), 0);
  }
  expect_woken(&w, put(f, "q", "1"));
  map_close(map);
}

int main(int count, char **arguments) {
  const struct CMUnitTest tests[] = {
      WAITING_TEST(a_killed_ones_job_goes_to_the_next),
      WAITING_TEST(so_it_goes_to_another_process),
      WAITING_TEST(without_a_monitor_it_is_noticed_too),
      WAITING_TEST(all_that_it_held_comes_back),
      WAITING_TEST(the_second_crash_waits_the_third_is_the_end),
      WAITING_TEST(one_crash_may_be_the_end),
      WAITING_TEST(crashes_may_be_unlimited),
      WAITING_TEST(attempts_count_crashes),
      WAITING_TEST(a_detached_lease_stays),
      WAITING_TEST(a_stopped_one_keeps_it_for_its_time),
      WAITING_TEST(a_stopped_waiter_keeps_no_job_from_others),
      WAITING_TEST(one_that_lives_keeps_it),
      WAITING_TEST(one_that_closes_other_handles_keeps_it),
      WAITING_TEST(one_whose_main_thread_has_ended_keeps_it),
      WAITING_TEST(a_forked_child_does_not_hold_it),
      WAITING_TEST(neither_does_one_that_was_cloned),
      WAITING_TEST(neither_does_another_program),
      WAITING_TEST(a_process_that_becomes_another_program),
      WAITING_TEST(a_child_holds_for_itself),
      WAITING_TEST(an_exit_gives_it_back),
      WAITING_TEST(a_close_gives_it_back),
      WAITING_TEST(a_holder_in_another_pid_namespace),
      WAITING_TEST(a_waiter_in_another_pid_namespace),
      WAITING_TEST(a_holder_whom_the_waiter_cannot_see),
      WAITING_TEST(a_waiter_in_another_time_namespace),
      WAITING_TEST(what_is_left_from_before_a_reboot),
      WAITING_TEST(without_a_free_slot_leases_end_by_time),
      WAITING_TEST(a_dead_ones_slot_is_free_again),
  };
  helper_main(count, arguments);
  go_way(WITH_SIDECAR);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
