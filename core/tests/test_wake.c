/* SPDX-License-Identifier: MIT */
/*
** test_wake.c: who waits and what wakes: everything that makes a job claimable,
** from another handle, thread or process, at its time, or by a writer that has
** no dibs; what wakes nobody; and no more than there are jobs. The first part
** runs three times, with signals and in the two ways without; the second part
** is about the signals themselves.
*/
#include "waiting.h"

#include <signal.h>
#include <unistd.h>

/* ---- What makes a job claimable ------------------------------------------- */

static void an_enqueue_by_another_handle(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  expect_woken(&w, put(f, "q", "1"));
}

static void an_enqueue_by_another_thread_of_the_handle(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  w.db = f->db;
  waiter_start(&w);
  expect_woken(&w, put(f, "q", "1"));
}

static void an_enqueue_by_another_process(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  helper h = helper_start();
  helper_do(&h, "DIBS_OK", "open %d %s", is_portable(), f->path);
  waiter_start(&w);
  helper_do(&h, "DIBS_OK", "put q");
  expect_woken(&w, 1);
  helper_end(&h);
}

static void a_waiter_in_another_process(void **state) {
  fixture *f = *state;
  helper h = helper_start();
  helper_do(&h, "DIBS_OK", "open %d %s", is_portable(), f->path);
  helper_tell(&h, "claim q 30000 60000 0");
  helper_await_sleep(&h);
  put(f, "q", "1");
  int sleeps = !h.polls && helper_sleeps(&h);
  expect_int(strtoll(helper_hear(&h), NULL, 10), 1);
  expect_true(!sleeps);
  helper_end(&h);
}

static void a_retry(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  put(f, "q", "1");
  held job = take(f, "q");
  waiter_start(&w);
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "again", NULL));
  expect_woken(&w, job.id);
  expect_int(w.attempt, 2);
}

static void a_release(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  put(f, "q", "1");
  held job = take(f, "q");
  waiter_start(&w);
  expect_ok(f->db, dibs_release(f->db, job.receipt));
  expect_woken(&w, job.id);
  expect_int(w.attempt, 1);
}

static void the_commit_of_a_stage(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  dibs_job_options options = no_options();
  options.stage = HOUR;
  int64_t id = put_with(f, "q", "1", &options);
  waiter_start(&w);
  expect_ok(f->db, dibs_commit(f->db, id));
  expect_woken(&w, id);
}

/* A dead letter. */
static int64_t bury(fixture *f) {
  put(f, "q", "1");
  held job = take(f, "q");
  expect_ok(f->db, dibs_fail(f->db, job.receipt, "broken"));
  return job.id;
}

static void a_requeue(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  int64_t id = bury(f);
  waiter_start(&w);
  expect_ok(f->db, dibs_requeue(f->db, &id, 1, NULL, NULL));
  expect_woken(&w, id);
}

static void a_redrive(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  const char *queue = "q";
  int64_t id = bury(f);
  waiter_start(&w);
  expect_ok(f->db, dibs_redrive(f->db, &queue, 1, NULL, NULL, NULL));
  expect_woken(&w, id);
}

/* A head of a lane that waits for its time, and its blocked successor. */
static void lane_make(fixture *f, int64_t ids[2]) {
  dibs_job_options options = no_options();
  options.key = "k";
  ids[1] = 0;
  options.delay = HOUR;
  ids[0] = put_with(f, "q", "1", &options);
  options.delay = DIBS_UNSET;
  ids[1] = put_with(f, "q", "1", &options);
  expect_state(f, ids[1], DIBS_BLOCKED);
}

static void the_cancel_of_a_lanes_head(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  int64_t ids[2];
  lane_make(f, ids);
  waiter_start(&w);
  expect_ok(f->db, dibs_cancel(f->db, &ids[0], 1, NULL, NULL));
  expect_woken(&w, ids[1]);
}

static void the_ack_of_a_lanes_head(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  dibs_job_options options = no_options();
  options.key = "k";
  put_with(f, "q", "1", &options);
  int64_t next = put_with(f, "q", "1", &options);
  held job = take(f, "q");
  waiter_start(&w);
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_woken(&w, next);
}

static void a_change_to_an_earlier_time(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  dibs_job_options options = no_options();
  dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;
  options.delay = HOUR;
  int64_t id = put_with(f, "q", "1", &options);
  waiter_start(&w);
  change.delay = 0;
  expect_ok(f->db, dibs_change(f->db, id, &change));
  expect_woken(&w, id);
}

static void several_queues_of_one_transaction(void **state) {
  fixture *f = *state;
  static const char *const queues[] = {"a", "b", "c"};
  waiter waiters[COUNT(queues)];
  dibs_new_job jobs[COUNT(queues)];
  dibs_enqueued results[COUNT(queues)];
  memset(jobs, 0, sizeof jobs);
  for (size_t i = 0; i < COUNT(queues); i++) {
    waiters[i] = waiter_for(f, queues[i]);
    waiter_start(&waiters[i]);
    jobs[i].queue = queues[i];
    jobs[i].payload = dibs_json("1");
  }
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, COUNT(jobs), results));
  for (size_t i = 0; i < COUNT(queues); i++) {
    expect_woken(&waiters[i], results[i].id);
    expect_text(waiters[i].queue, queues[i]);
  }
}

static void a_job_beneath_a_prefix(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "a/*");
  waiter_start(&w);
  put(f, "a", "1");
  put(f, "b/c", "1");
  expect_woken(&w, put(f, "a/b/c", "1"));
  expect_text(w.queue, "a/b/c");
}

static void a_job_of_any_queue(void **state) {
  fixture *f = *state;
  static const char *const queues[] = {"a", "b/c", "default", "x-1"};
  for (size_t i = 0; i < COUNT(queues); i++) {
    waiter w = waiter_for(f, DIBS_ALL);
    waiter_start(&w);
    expect_woken(&w, put(f, queues[i], "1"));
    expect_text(w.queue, queues[i]);
  }
}

static void a_job_of_one_of_several_queues(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "a");
  w.patterns[1] = "b/*";
  w.patterns[2] = "c";
  waiter_start(&w);
  expect_woken(&w, put(f, "c", "1"));
}

static void dead_behind_its_commit(fixture *f) {
  waiter w = waiter_for(f, "q");
  helper h = helper_start();
  helper_do(&h, "DIBS_OK", "mortal");
  helper_do(&h, "DIBS_OK", "open %d %s", is_portable(), f->path);
  waiter_start(&w);
  int64_t before = steady_now();
  helper_tell(&h, "put q 2"); /* the second is never begun */
  waiter_join(&w);
  print_message("a commit without a signal was seen after %d ms\n",
                (int)(steady_now() - before));
  expect_int(w.status, DIBS_OK);
  expect_int(w.id, 1);
  helper_signal(&h, SIGKILL);
  expect_int(counts(f, "q").ready, 0);
}

/* The write to the WAL is seen. */
static void a_commit_whose_signal_never_comes(void **state) {
  dead_behind_its_commit(*state);
}

/* Found after the fallback interval. */
static void so_it_is_where_nobody_watches(void **state) {
  fixture *f = *state;
  int monitors = is_portable() ? -1 : monitors_prevent(f->path);
  dead_behind_its_commit(f);
  if (monitors >= 0) close(monitors);
}

/* SQL by a connection that has no dibs. */
static void an_insert_without_dibs(void **state) {
  fixture *f = *state;
  unsigned char *map = map_open(f->path);
  int by_signal = 0;
  for (int i = 1; i <= 10 && !by_signal; i++) {
    waiter w = waiter_for(f, "q");
    waiter_start(&w);
    uint64_t wakes = map ? map_u64(map, MAP_WAKES) : 0;
    int64_t before = steady_now();
    raw_run(f, "INSERT INTO dibs_inbox(queue, payload) VALUES ('q', '{}')");
    waiter_join(&w);
    print_message("an insert was seen after %d ms\n",
                  (int)(steady_now() - before));
    expect_int(w.status, DIBS_OK);
    expect_int(w.id, i);
    by_signal = map == NULL || map_u64(map, MAP_WAKES) > wakes;
  }
  /* A waiter looks by itself once a second, and may happen to at that moment,
  ** but not ten times. */
  expect_true(by_signal);
  map_close(map);
}

/* ---- Its time ------------------------------------------------------------- */

static int64_t put_delayed(fixture *f, int64_t delay) {
  dibs_job_options options = no_options();
  options.delay = delay;
  return put_with(f, "q", "1", &options);
}

/* Not before, and how much later. */
static void expect_in_time(const waiter *w, int64_t due_at) {
  expect_int(w->due_at, due_at);
  print_message("claimed %d ms after it was due\n",
                (int)(w->claimed_at - due_at));
  expect_true(w->claimed_at >= due_at);
}

struct delayed {
  int64_t id;
  int64_t due_at;
};

/* Which of those that are due is the oldest: a claim takes that. */
static size_t oldest_due(const struct delayed *jobs, size_t count,
                         int64_t now) {
  for (size_t i = 0; i < count; i++) {
    if (jobs[i].id && jobs[i].due_at <= now) return i;
  }
  fail_msg("claimed, though nothing was due");
  return 0;
}

static void delayed_jobs(void **state) {
  fixture *f = *state;
  static const int64_t delays[] = {150, 60, 100};
  struct delayed jobs[COUNT(delays)];
  for (size_t i = 0; i < COUNT(delays); i++) {
    jobs[i].id = put_delayed(f, delays[i]);
    jobs[i].due_at = look(f, jobs[i].id).due_at;
  }
  for (size_t i = 0; i < COUNT(delays); i++) {
    waiter w = waiter_for(f, "q");
    waiter_start(&w);
    waiter_join(&w);
    expect_int(w.status, DIBS_OK);
    struct delayed *job = &jobs[oldest_due(jobs, COUNT(delays), w.claimed_at)];
    expect_int(w.id, job->id);
    expect_in_time(&w, job->due_at);
    job->id = 0;
  }
}

static void a_delayed_job_that_comes_while_it_sleeps(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  int64_t id = put_delayed(f, 80);
  int64_t due_at = look(f, id).due_at;
  waiter_join(&w);
  expect_int(w.id, id);
  expect_in_time(&w, due_at);
}

static void a_time_that_is_changed(void **state) {
  fixture *f = *state;
  static const struct change {
    int64_t first;
    int64_t then;
  } changes[] = {{HOUR, 80}, {60, 160}};
  for (size_t i = 0; i < COUNT(changes); i++) {
    waiter w = waiter_for(f, "q");
    dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;
    int64_t id = put_delayed(f, changes[i].first);
    waiter_start(&w);
    change.delay = changes[i].then;
    int status = dibs_change(f->db, id, &change);
    if (status == DIBS_STATE) { /* so slow that it has been claimed */
      waiter_join(&w);
      continue;
    }
    expect_status(f->db, status, DIBS_OK);
    int64_t due_at = raw_int(f, "SELECT due_at FROM dibs_jobs");
    waiter_join(&w);
    expect_int(w.id, id);
    expect_in_time(&w, due_at);
    expect_ok(f->db, dibs_ack(f->db, w.receipt, NULL));
  }
}

static void the_end_of_a_lease(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  int64_t id = put(f, "q", "1");
  held job = take_for(f, "q", 120);
  waiter_start(&w);
  waiter_join(&w);
  expect_int(w.status, DIBS_OK);
  expect_int(w.id, id);
  expect_int(w.attempt, 2);
  expect_true(w.claimed_at >= job.lease_until);
}

/* ---- The end of a wait ------------------------------------------------------ */

static void a_wait_has_an_end(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  w.wait = 80;
  int64_t before = steady_now();
  waiter_start(&w);
  waiter_join(&w);
  expect_int(w.status, DIBS_EMPTY);
  expect_true(steady_now() - before >= 79);
}

/* However often it is woken for nothing. */
static void the_end_of_a_wait_that_is_disturbed(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  w.wait = 80;
  int64_t before = steady_now();
  waiter_start(&w);
  while (!w.over) {
    dibs_interrupt(f->db);
    put(f, "other", "1");
  }
  waiter_join(&w);
  expect_int(w.status, DIBS_EMPTY);
  expect_true(steady_now() - before >= 79);
}

static void an_interrupt(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  w.db = f->db;
  waiter_start(&w);
  dibs_interrupt(f->db);
  int sleeps = !w.polls && waiter_sleeps(&w);
  waiter_join(&w);
  expect_int(w.status, DIBS_INTERRUPTED);
  expect_true(!sleeps);
}

/* It is for one handle. */
static void an_interrupt_of_another(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  waiter_start(&w);
  dibs_interrupt(f->db);
  expect_woken(&w, put(f, "q", "1"));
}

static void a_join_by_the_last_ack(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  w.join = 1;
  put(f, "q", "1");
  put(f, "q", "1");
  put(f, "other", "1");
  held first = take(f, "q");
  held last = take(f, "q");
  waiter_start(&w);
  expect_ok(f->db, dibs_ack(f->db, first.receipt, NULL));
  expect_true(!w.over);
  expect_ok(f->db, dibs_ack(f->db, last.receipt, NULL));
  expect_woken(&w, 0);
}

static void a_join_by_the_last_dead_letter(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  w.join = 1;
  put(f, "q", "1");
  held job = take(f, "q");
  waiter_start(&w);
  expect_ok(f->db, dibs_fail(f->db, job.receipt, "broken"));
  expect_woken(&w, 0);
}

static void there_is_a_sidecar_or_none(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  w.wait = 1;
  waiter_start(&w);
  waiter_join(&w);
  expect_int(access(map_name(f->path), F_OK) == 0, !is_portable());
}

/* ---- What wakes nobody ------------------------------------------------------- */

/* A unique job, and a batch whose last job is refused because of it, so that the
** others are rolled back. */
static dibs_job_options unique_options(void) {
  dibs_job_options options = no_options();
  options.unique = "u";
  options.unique_scope = DIBS_UNIQUE_ALL;
  options.on_conflict = DIBS_CONFLICT_REJECT;
  return options;
}

static void put_unique(fixture *f) {
  dibs_job_options options = unique_options();
  put_with(f, "other", "1", &options);
}

static void enqueue_in_vain(fixture *f) {
  dibs_job_options options = unique_options();
  dibs_new_job jobs[2] = {{"q", dibs_json("1"), NULL},
                          {"q", dibs_json("2"), &options}};
  expect_status(f->db, dibs_enqueue_many(f->db, jobs, 2, NULL), DIBS_EXISTS);
}

static void work_that_is_rolled_back(void **state) {
  fixture *f = *state;
  waiter w = waiter_for(f, "q");
  w.wait = 50;
  put_unique(f);
  waiter_start(&w);
  enqueue_in_vain(f);
  waiter_join(&w);
  expect_int(w.status, DIBS_EMPTY);
  expect_int(counts(f, "q").ready, 0);
}

/* ---- Looking often ------------------------------------------------------------- */

static _Atomic int versions; /* how often somebody looked for a change */

static void count_versions(const char *sql) {
  if (strstr(sql, "data_version")) versions++;
}

/* The first look behind a change sees it, and then the job; it is not found by
** the looks at the jobs that come once a second. */
static void expect_seen_at_once(waiter *w, dibs_db *db) {
  int64_t id = 0;
  waiter_start(w);
  usleep(30000);
  expect_ok(db, dibs_enqueue(db, "q", dibs_json("1"), NULL, &id));
  int before = versions;
  waiter_join(w);
  expect_int(w->id, id);
  expect_true(versions - before <= 2);
}

static void polling_sees_what_another_handle_did(void **state) {
  fixture *f = *state;
  on_statement(count_versions);
  waiter w = waiter_for(f, "q");
  expect_seen_at_once(&w, f->db);
  expect_true(versions > 2);
  on_statement(NULL);
}

static void polling_sees_what_its_own_handle_did(void **state) {
  fixture *f = *state;
  on_statement(count_versions);
  dibs_db *db = waiting_open(f->path);
  waiter w = waiter_for(f, "q");
  w.db = db;
  expect_seen_at_once(&w, db);
  on_statement(NULL);
  dibs_close(db);
}

/* ---- Signals ------------------------------------------------------------------- */

/* Nobody but dibs's own calls signals from now on. */
struct quiet {
  unsigned char *map;
  int monitors;
};

static struct quiet quiet_begin(fixture *f) {
  struct quiet quiet = {map_open(f->path), monitors_prevent(f->path)};
  expect_true(quiet.map != NULL);
  return quiet;
}

static void quiet_end(struct quiet *quiet) {
  map_close(quiet->map);
  close(quiet->monitors);
}

static uint64_t signals(const struct quiet *quiet) {
  return map_u64(quiet->map, MAP_SIGNALS);
}

static void rolled_back_work_signals_nothing(void **state) {
  fixture *f = *state;
  struct quiet quiet = quiet_begin(f);
  waiter w = waiter_for(f, "q");
  put_unique(f);
  waiter_start(&w);
  uint64_t before = signals(&quiet);
  enqueue_in_vain(f);
  /* Nor does it leave anything to be told by the next one. */
  expect_ok(f->db, dibs_prune(f->db, NULL));
  expect_int(signals(&quiet) - before, 0);
  expect_woken(&w, put(f, "q", "1"));
  expect_int(signals(&quiet) - before, 1);
  quiet_end(&quiet);
}

/* What makes nothing claimable, and nothing that is due soon. */
static void neither_does_what_concerns_no_waiter(void **state) {
  fixture *f = *state;
  struct quiet quiet = quiet_begin(f);
  waiter w = waiter_for(f, "q");
  dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;
  dibs_job_options options = no_options();
  put(f, "q", "1");
  put(f, "q", "1");
  held acked = take(f, "q");
  held failed = take(f, "q");
  waiter_start(&w);
  uint64_t before = signals(&quiet);
  expect_ok(f->db, dibs_ack(f->db, acked.receipt, NULL));
  expect_ok(f->db, dibs_fail(f->db, failed.receipt, "broken"));
  options.stage = HOUR;
  put_with(f, "q", "1", &options);
  options.stage = DIBS_UNSET;
  options.delay = HOUR;
  int64_t id = put_with(f, "q", "1", &options);
  change.delay = DAY;
  expect_ok(f->db, dibs_change(f->db, id, &change));
  expect_int(signals(&quiet) - before, 0);
  expect_woken(&w, put(f, "q", "1"));
  quiet_end(&quiet);
}

/* ---- Alarms -------------------------------------------------------------------- */

#define NEAR 100 /* ms between two clocks that are read one after the other */

/* It is going to sleep just until then. */
static int sleeps_until(const waiter *w, dibs_db *db, int64_t time) {
  int64_t length = waiter_sleeps_for(w);
  int64_t wanted = time - dibs_now(db);
  return length >= 0 && length > wanted - NEAR && length < wanted + NEAR;
}

/* A waiter, and a job that comes before it sleeps, or while. Nonzero when it is
** seen to sleep until that is due. */
static int alarm_is_set(fixture *f, int job_first) {
  dibs_db *db = waiting_open(f->path);
  waiter w = waiter_for(f, "q");
  int64_t id = job_first ? put_delayed(f, 700) : 0;
  int right = 0;
  w.db = db;
  waiter_start(&w);
  if (!job_first) id = put_delayed(f, 700);
  int64_t due_at = look(f, id).due_at;
  while (!w.over && !right) right = sleeps_until(&w, f->db, due_at);
  dibs_interrupt(db);
  waiter_join(&w);
  expect_ok(f->db, dibs_cancel(f->db, &id, 1, NULL, NULL));
  dibs_close(db);
  return right;
}

/* On a machine that is very busy the waiter may come too late, but not always. */
static void a_waiter_sleeps_until_a_job_is_due(void **state) {
  fixture *f = *state;
  int right = 0;
  for (int tries = 0; !right && tries < 10; tries++) {
    right = alarm_is_set(f, 1);
  }
  expect_true(right);
}

/* Also until one that comes while it sleeps. */
static void a_waiter_hears_of_a_job_that_is_due_soon(void **state) {
  fixture *f = *state;
  int right = 0;
  for (int tries = 0; !right && tries < 10; tries++) {
    right = alarm_is_set(f, 0);
  }
  expect_true(right);
}

static void a_waiter_sleeps_no_longer_than_it_may(void **state) {
  fixture *f = *state;
  static const int64_t waits[] = {300, 30 * SECOND};
  for (size_t i = 0; i < COUNT(waits); i++) {
    int64_t most = waits[i] < SECOND ? waits[i] : SECOND;
    waiter w = waiter_for(f, "q");
    w.wait = waits[i];
    waiter_start(&w);
    expect_true(waiter_sleeps_for(&w) <= most);
    put(f, "q", "1");
    waiter_join(&w);
  }
}

/* ---- One wake a job -------------------------------------------------------------- */

#define CROWD 16

static size_t sleepers(const waiter *crowd) {
  size_t count = 0;
  for (size_t i = 0; i < CROWD; i++) count += waiter_sleeps(&crowd[i]) != 0;
  return count;
}

static size_t returned(const waiter *crowd) {
  size_t count = 0;
  for (size_t i = 0; i < CROWD; i++) count += crowd[i].over != 0;
  return count;
}

/* Wake all, so that they all begin to sleep anew: then none of them looks by
** itself within a second. Gives the time. */
static int64_t crowd_begin(fixture *f, const waiter *crowd) {
  int64_t begin = steady_now();
  dibs_interrupt(f->db);
  while (sleepers(crowd) < CROWD) usleep(200);
  return begin;
}

/* Enqueue n jobs for the crowd. Gives how many were woken; -1 when it took so
** long that some may have looked by themselves. */
static int crowd_feed(fixture *f, const struct quiet *quiet, waiter *crowd,
                      size_t n) {
  dibs_new_job jobs[CROWD];
  memset(jobs, 0, sizeof jobs);
  for (size_t i = 0; i < CROWD; i++) jobs[i].queue = "q";
  int64_t begin = crowd_begin(f, crowd);
  uint64_t before = map_u64(quiet->map, MAP_WAKES);
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, n, NULL));
  while (returned(crowd) < n) usleep(200);
  usleep(20000); /* time for what should not be to show */
  uint64_t wakes = map_u64(quiet->map, MAP_WAKES) - before;
  return steady_now() - begin < 900 ? (int)wakes : -1;
}

/* The rest of the crowd gets jobs, too. */
static void crowd_end(fixture *f, waiter *crowd) {
  int64_t got[CROWD + 1] = {0};
  for (size_t left = CROWD - returned(crowd); left > 0; left--) {
    put(f, "q", "1");
  }
  for (size_t i = 0; i < CROWD; i++) {
    waiter_join(&crowd[i]);
    expect_int(crowd[i].status, DIBS_OK);
    for (size_t j = 0; j < i; j++) expect_true(got[j] != crowd[i].id);
    got[i] = crowd[i].id;
  }
}

static int crowd_run(fixture *f, const struct quiet *quiet, size_t n) {
  waiter crowd[CROWD];
  for (size_t i = 0; i < CROWD; i++) {
    crowd[i] = waiter_for(f, "q");
    waiter_start(&crowd[i]);
  }
  int wakes = crowd_feed(f, quiet, crowd, n);
  crowd_end(f, crowd);
  return wakes;
}

static void n_jobs_wake_n_of_sixteen(void **state) {
  fixture *f = *state;
  static const size_t numbers[] = {1, 3, 15};
  struct quiet quiet = quiet_begin(f);
  for (size_t i = 0; i < COUNT(numbers); i++) {
    int wakes = -1;
    for (int tries = 0; wakes < 0 && tries < 10; tries++) {
      wakes = crowd_run(f, &quiet, numbers[i]);
    }
    if (wakes < 0) {
      print_message("too slow here to count wakes\n");
      skip();
    }
    expect_int(wakes, numbers[i]);
  }
  quiet_end(&quiet);
}

/* ---- Channels ---------------------------------------------------------------------- */

/* Which channel a wait for the queue announces itself on. */
static size_t channel_find(fixture *f, const unsigned char *map,
                           const char *queue) {
  unsigned char before[MAP_CHANNEL_COUNT * MAP_CHANNEL_SIZE];
  waiter w = waiter_for(f, queue);
  size_t found = MAP_CHANNEL_COUNT;
  memcpy(before, map + MAP_CHANNELS, sizeof before);
  w.wait = 1;
  waiter_start(&w);
  waiter_join(&w);
  for (size_t i = 0; i < MAP_CHANNEL_COUNT; i++) {
    size_t at = i * MAP_CHANNEL_SIZE;
    if (memcmp(before + at, map + MAP_CHANNELS + at, MAP_CHANNEL_SIZE) == 0) {
      continue;
    }
    if (found != MAP_CHANNEL_COUNT) fail_msg("a queue has two channels");
    found = i;
  }
  if (found == MAP_CHANNEL_COUNT) fail_msg("%s has no channel", queue);
  return found;
}

/* Two queues that share a channel. */
static void collision_find(fixture *f, char names[2][16]) {
  unsigned char *map = map_open(f->path);
  int owners[MAP_CHANNEL_COUNT];
  memset(owners, -1, sizeof owners);
  expect_true(map != NULL);
  names[0][0] = 0;
  for (int i = 0; names[0][0] == 0; i++) {
    snprintf(names[1], sizeof names[1], "queue%d", i);
    /* As if nobody had waited before. */
    memset(map + MAP_CHANNELS, 0, MAP_CHANNEL_COUNT * MAP_CHANNEL_SIZE);
    size_t channel = channel_find(f, map, names[1]);
    if (owners[channel] >= 0) {
      snprintf(names[0], sizeof names[0], "queue%d", owners[channel]);
    }
    owners[channel] = i;
  }
  memset(map + MAP_CHANNELS, 0, MAP_CHANNEL_COUNT * MAP_CHANNEL_SIZE);
  map_close(map);
}

static void lanes_share_the_channel_of_their_prefix(void **state) {
  fixture *f = *state;
  static const char *const queues[] = {"a/b", "a/*", "a/b/c", "a/b/*"};
  unsigned char *map = map_open(f->path);
  size_t channel = channel_find(f, map, "a");
  for (size_t i = 0; i < COUNT(queues); i++) {
    memset(map + MAP_CHANNELS, 0, MAP_CHANNEL_COUNT * MAP_CHANNEL_SIZE);
    expect_int(channel_find(f, map, queues[i]), channel);
  }
  map_close(map);
}

/* Waiters for both queues of a channel, those for the first one first in line:
** each gets the jobs of its own queue at once. */
static void waiters_of_a_shared_channel(void **state) {
  fixture *f = *state;
  char names[2][16];
  struct quiet quiet = quiet_begin(f);
  collision_find(f, names);
  for (int round = 0; round < 4; round++) {
    waiter first = waiter_for(f, names[0]);
    waiter second = waiter_for(f, names[1]);
    waiter_start(&first);
    waiter_start(&second);
    expect_woken(&second, put(f, names[1], "1"));
    expect_woken(&first, put(f, names[0], "1"));
  }
  quiet_end(&quiet);
}

/* Others who can take the job, too, and stand before in the line. */
static void waiters_whose_patterns_overlap(void **state) {
  fixture *f = *state;
  static const char *const patterns[] = {DIBS_ALL, "a/*"};
  struct quiet quiet = quiet_begin(f);
  for (size_t i = 0; i < COUNT(patterns); i++) {
    waiter pair[2] = {waiter_for(f, patterns[i]), waiter_for(f, "a/c")};
    waiter_start(&pair[0]);
    waiter_start(&pair[1]);
    int64_t id = put(f, "a/c", "1");
    while (!pair[0].over && !pair[1].over) usleep(100);
    size_t got = pair[0].over ? 0 : 1;
    waiter_join(&pair[got]);
    expect_int(pair[got].id, id);
    expect_woken(&pair[1 - got], put(f, "a/c", "1"));
  }
  quiet_end(&quiet);
}

/* Others of the same channel who cannot take it. */
static void waiters_whose_patterns_do_not_overlap(void **state) {
  fixture *f = *state;
  static const char *const patterns[] = {"a", "a/b", "a/c/*"};
  struct quiet quiet = quiet_begin(f);
  for (size_t i = 0; i < COUNT(patterns); i++) {
    waiter other = waiter_for(f, patterns[i]);
    waiter w = waiter_for(f, "a/c");
    waiter_start(&other);
    waiter_start(&w);
    expect_woken(&w, put(f, "a/c", "1"));
    expect_woken(&other, put(f, i < 2 ? patterns[i] : "a/c/d", "1"));
  }
  quiet_end(&quiet);
}

/* ---- Wakes that are not heeded ------------------------------------------------------- */

/* Let all waiters begin to sleep anew: none of them looks by itself for almost
** a second. Gives the time. */
static int64_t pair_begin(fixture *f, const waiter pair[2]) {
  int64_t begin = steady_now();
  dibs_interrupt(f->db);
  while (!waiter_sleeps(&pair[0]) || !waiter_sleeps(&pair[1])) usleep(100);
  return begin;
}

static int none_looked_by_itself(int64_t begin) {
  return steady_now() - begin < 900;
}

/* A claim that was woken and then meets a lock: another one must see to it. */
static void a_wake_that_ends_in_an_error_goes_on(void **state) {
  fixture *f = *state;
  struct quiet quiet = quiet_begin(f);
  sqlite3 *locker = plain_open(f->path);
  waiter pair[2] = {waiter_for(f, "q"), waiter_for(f, "q")};
  on_statement(at_gate);
  for (size_t i = 0; i < 2; i++) {
    pair[i].hasty = 1;
    waiter_start(&pair[i]);
  }
  int64_t begin = pair_begin(f, pair);
  pair[0].gate = pair[1].gate = GATE_CLOSED;
  put(f, "q", "1");
  size_t woken = gate_wait(pair, 2);
  waiter *other = &pair[1 - woken];
  int slept = waiter_sleeps(other);
  if (none_looked_by_itself(begin)) expect_true(slept);
  expect_int(sqlite3_exec(locker, "BEGIN IMMEDIATE", NULL, NULL, NULL),
             SQLITE_OK);
  pair[woken].gate = GATE_OPEN;
  while (!pair[woken].over) usleep(100);
  int sleeps = waiter_sleeps(other);
  expect_int(sqlite3_exec(locker, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
  other->gate = GATE_OPEN;
  waiter_join(&pair[woken]);
  waiter_join(other);
  expect_int(pair[woken].status, DIBS_BUSY);
  expect_int(other->status, DIBS_OK);
  expect_true(!sleeps);
  on_statement(NULL);
  sqlite3_close(locker);
  quiet_end(&quiet);
}

/* A job wakes the first of two, whose handle another thread is using, and so it
** is interrupted before it has looked. False when it was the second. */
static int interrupt_before_a_look(fixture *f, dibs_db *shared) {
  waiter pair[2] = {waiter_for(f, "q"), waiter_for(f, "q")};
  waiter caller = waiter_for(f, "none");
  pair[0].db = caller.db = shared;
  caller.wait = 0;
  caller.gate = GATE_CLOSED;
  waiter_start(&pair[0]);
  waiter_start(&pair[1]);
  waiter_begin(&caller);
  gate_wait(&caller, 1);
  int64_t id = put(f, "q", "1");
  int done = !waiter_sleeps(&pair[0]) && waiter_sleeps(&pair[1]);
  dibs_interrupt(shared);
  int sleeps = waiter_sleeps(&pair[1]);
  caller.gate = GATE_OPEN;
  waiter_join(&caller);
  waiter_join(&pair[0]);
  waiter_join(&pair[1]);
  expect_int(pair[0].status, DIBS_INTERRUPTED);
  expect_int(pair[1].id, id);
  expect_true(!sleeps);
  return done;
}

static void a_wake_that_is_interrupted_goes_on(void **state) {
  fixture *f = *state;
  struct quiet quiet = quiet_begin(f);
  on_statement(at_gate);
  dibs_db *shared = waiting_open(f->path);
  int done = 0;
  for (int tries = 0; !done && tries < 10; tries++) {
    done = interrupt_before_a_look(f, shared);
  }
  expect_true(done);
  on_statement(NULL);
  dibs_close(shared);
  quiet_end(&quiet);
}

/* ---- All of it --------------------------------------------------------------------------- */

static int begin_with_sidecar(void **state) {
  (void)state;
  go_way(WITH_SIDECAR);
  return 0;
}

static int begin_portable(void **state) {
  (void)state;
  go_way(PORTABLE_BY_OPTION);
  return 0;
}

static int begin_portable_by_environment(void **state) {
  (void)state;
  go_way(PORTABLE_BY_ENVIRONMENT);
  return 0;
}

int main(int count, char **arguments) {
  const struct CMUnitTest wakes[] = {
      WAITING_TEST(there_is_a_sidecar_or_none),
      WAITING_TEST(an_enqueue_by_another_handle),
      WAITING_TEST(an_enqueue_by_another_thread_of_the_handle),
      WAITING_TEST(an_enqueue_by_another_process),
      WAITING_TEST(a_waiter_in_another_process),
      WAITING_TEST(a_retry),
      WAITING_TEST(a_release),
      WAITING_TEST(the_commit_of_a_stage),
      WAITING_TEST(a_requeue),
      WAITING_TEST(a_redrive),
      WAITING_TEST(the_cancel_of_a_lanes_head),
      WAITING_TEST(the_ack_of_a_lanes_head),
      WAITING_TEST(a_change_to_an_earlier_time),
      WAITING_TEST(several_queues_of_one_transaction),
      WAITING_TEST(a_job_beneath_a_prefix),
      WAITING_TEST(a_job_of_any_queue),
      WAITING_TEST(a_job_of_one_of_several_queues),
      WAITING_TEST(a_commit_whose_signal_never_comes),
      WAITING_TEST(so_it_is_where_nobody_watches),
      WAITING_TEST(an_insert_without_dibs),
      WAITING_TEST(delayed_jobs),
      WAITING_TEST(a_delayed_job_that_comes_while_it_sleeps),
      WAITING_TEST(a_time_that_is_changed),
      WAITING_TEST(the_end_of_a_lease),
      WAITING_TEST(a_wait_has_an_end),
      WAITING_TEST(the_end_of_a_wait_that_is_disturbed),
      WAITING_TEST(an_interrupt),
      WAITING_TEST(an_interrupt_of_another),
      WAITING_TEST(a_join_by_the_last_ack),
      WAITING_TEST(a_join_by_the_last_dead_letter),
      WAITING_TEST(work_that_is_rolled_back),
  };
  const struct CMUnitTest polling[] = {
      WAITING_TEST(polling_sees_what_another_handle_did),
      WAITING_TEST(polling_sees_what_its_own_handle_did),
  };
  const struct CMUnitTest signals[] = {
      WAITING_TEST(rolled_back_work_signals_nothing),
      WAITING_TEST(neither_does_what_concerns_no_waiter),
      WAITING_TEST(a_waiter_sleeps_until_a_job_is_due),
      WAITING_TEST(a_waiter_hears_of_a_job_that_is_due_soon),
      WAITING_TEST(a_waiter_sleeps_no_longer_than_it_may),
      WAITING_TEST(n_jobs_wake_n_of_sixteen),
      WAITING_TEST(lanes_share_the_channel_of_their_prefix),
      WAITING_TEST(waiters_of_a_shared_channel),
      WAITING_TEST(waiters_whose_patterns_overlap),
      WAITING_TEST(waiters_whose_patterns_do_not_overlap),
      WAITING_TEST(a_wake_that_ends_in_an_error_goes_on),
      WAITING_TEST(a_wake_that_is_interrupted_goes_on),
  };
  int failed = 0;
  helper_main(count, arguments);
  failed += cmocka_run_group_tests(wakes, begin_with_sidecar, NULL);
  failed += cmocka_run_group_tests(wakes, begin_portable, NULL);
  failed += cmocka_run_group_tests(wakes, begin_portable_by_environment, NULL);
  failed += cmocka_run_group_tests(polling, begin_portable, NULL);
  failed += cmocka_run_group_tests(signals, begin_with_sidecar, NULL);
  return failed;
}
