/* SPDX-License-Identifier: MIT */
/*
** test_shared.c: a queue in memory that the handles, threads and engines of a
** process share, for tests of programs: file:/NAME?vfs=memdb. With a clock that
** the test drives, and until all is drained.
*/
#include "engines.h"

#define NAME  "file:/shared?vfs=memdb"
#define OTHER "file:/other?vfs=memdb"

/* A handle by the fixture's clock. */
static dibs_db *open_name(fixture *f, const char *name) {
  dibs_open_options options = fixture_options(f);
  dibs_db *db = NULL;
  int status = dibs_open(name, &options, &db);
  check_status(db, status, DIBS_OK, name, __FILE__, __LINE__);
  return db;
}

/* The fixture's handle is on the shared queue. */
static int shared_setup(void **state) {
  if (fixture_setup_closed(state) != 0) return -1;
  fixture *f = *state;
  f->db = open_name(f, NAME);
  return 0;
}

#define SHARED_TEST(name)                                                      \
  cmocka_unit_test_setup_teardown(name, shared_setup, fixture_teardown)

static int64_t try_take_from(dibs_db *db, const char *queue) {
  dibs_job_list *jobs = NULL;
  int status = dibs_claim(db, &queue, 1, NULL, &jobs);
  int64_t id = status == DIBS_OK ? jobs->jobs[0].id : 0;
  if (status != DIBS_EMPTY) expect_ok(db, status);
  dibs_job_list_free(jobs);
  return id;
}

static void handles_of_a_name_share_it(void **state) {
  fixture *f = *state;
  dibs_db *same = open_name(f, NAME), *other = open_name(f, OTHER);
  int64_t id = put(f, "q", "1");
  expect_int(try_take_from(other, "q"), 0);
  expect_int(try_take_from(same, "q"), id);
  expect_state(f, id, DIBS_RUNNING);
  expect_int(dibs_close(same), DIBS_OK);
  expect_int(dibs_close(other), DIBS_OK);
}

static void it_ends_with_its_last_handle(void **state) {
  fixture *f = *state;
  dibs_db *same = open_name(f, NAME);
  int64_t id = put(f, "q", "1");
  expect_int(dibs_close(f->db), DIBS_OK);
  f->db = open_name(f, NAME);
  expect_state(f, id, DIBS_READY);
  expect_int(dibs_close(same), DIBS_OK);
  close_checked(f);
  f->db = open_name(f, NAME);
  expect_gone(f, id);
}

static void it_leaves_no_file(void **state) {
  fixture *f = *state;
  put(f, "q", "1");
  expect_true(access("/shared", F_OK) != 0);
  expect_true(access("shared", F_OK) != 0);
  expect_true(access("/shared-dibs", F_OK) != 0);
}

/* ---- The clock ------------------------------------------------------------- */

/* Who waits looks at it some twenty times a second. */
static void a_clock_that_is_set_brings_what_is_due(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(1);
  dibs_open_options open = fixture_options(f);
  dibs_job_options later = no_options();
  dibs_engine *engine = NULL;
  call next;
  later.delay = DAY;
  int64_t id = put_with(f, "q", "1", &later);
  check_engine(engine, dibs_engine_open(NAME, &open, &options, &engine),
               DIBS_OK, "open", __FILE__, __LINE__);
  expect_no_job(engine);
  call_start(&next, call_next, engine, DIBS_FOREVER);
  usleep(20000);
  expect_true(!next.done);
  f->now += DAY;
  expect_int(call_end(&next), DIBS_OK);
  expect_int(next.run->job->id, id);
  expect_int(next.run->job->claimed_at, START + DAY);
  expect_int(settle(engine, next.run, DIBS_ACK), DIBS_OK);
  stop_and_close(engine);
}

/* ---- Many threads ---------------------------------------------------------- */

enum { THREADS = 4, JOBS = 200 };

static _Atomic int taken[THREADS * JOBS + 1];

static void *enqueue_some(void *context) {
  fixture *f = context;
  dibs_db *db = NULL;
  dibs_open_options options = fixture_options(f);
  int bad = dibs_open(NAME, &options, &db);
  for (int i = 0; i < JOBS && !bad; i++)
    bad = dibs_enqueue(db, "q", dibs_json("1"), NULL, NULL);
  dibs_close(db);
  return bad ? context : NULL;
}

static void *take_some(void *context) {
  fixture *f = context;
  dibs_db *db = NULL;
  const char *queue = "q";
  dibs_open_options options = fixture_options(f);
  dibs_claim_options claim = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  int bad = dibs_open(NAME, &options, &db);
  claim.wait = 300;
  while (!bad && (bad = dibs_claim(db, &queue, 1, &claim, &jobs)) == DIBS_OK) {
    taken[jobs->jobs[0].id]++;
    bad = dibs_ack(db, jobs->jobs[0].receipt, NULL);
    dibs_job_list_free(jobs);
    jobs = NULL;
  }
  dibs_job_list_free(jobs);
  dibs_close(db);
  return bad == DIBS_EMPTY ? NULL : context;
}

static void threads_share_it(void **state) {
  fixture *f = *state;
  pthread_t threads[2 * THREADS];
  void *bad;
  memset(taken, 0, sizeof taken);
  for (int i = 0; i < THREADS; i++) {
    pthread_create(&threads[i], NULL, enqueue_some, f);
    pthread_create(&threads[THREADS + i], NULL, take_some, f);
  }
  for (int i = 0; i < 2 * THREADS; i++) {
    pthread_join(threads[i], &bad);
    expect_true(!bad);
  }
  for (int i = 1; i <= THREADS * JOBS; i++) expect_int(taken[i], 1);
}

/* ---- Draining -------------------------------------------------------------- */

/* An engine that drains works off what there is, and what that makes ready: the
** lanes, and a retry at once. What is due later stays. */
static void an_engine_drains_it(void **state) {
  fixture *f = *state;
  dibs_engine_options options = engine_options(4);
  dibs_open_options open = fixture_options(f);
  dibs_job_options keyed = no_options(), later = no_options();
  dibs_engine *engine = NULL;
  int64_t retries = put(f, "q", "1"), runs = 0;
  keyed.key = "k";
  later.delay = DAY;
  for (int i = 0; i < 50; i++) put_with(f, "q", "1", i % 2 ? &keyed : NULL);
  put_with(f, "q", "1", &later);
  options.drain = 1;
  check_engine(engine, dibs_engine_open(NAME, &open, &options, &engine),
               DIBS_OK, "open", __FILE__, __LINE__);
  for (dibs_run *run; dibs_engine_next(engine, DIBS_FOREVER, &run) == DIBS_OK;
       runs++) {
    dibs_settlement outcome = {.action = DIBS_ACK};
    if (run->job->id == retries && run->job->attempt == 1)
      outcome = (dibs_settlement){.action = DIBS_RETRY, .delay = 0};
    expect_engine(engine, dibs_engine_finish(engine, run, &outcome), DIBS_OK);
  }
  stop_and_close(engine);
  expect_int(runs, 52);
  expect_int(counts(f, "q").scheduled, 1);
  expect_int(counts(f, "q").ready + counts(f, "q").blocked, 0);
}

/* Inline, without an engine: claim until there is nothing. */
static void a_loop_of_claims_drains_it(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  dibs_job_options keyed = no_options();
  keyed.key = "k";
  for (int i = 0; i < 10; i++) put_with(f, "q", "1", &keyed);
  int64_t count = 0;
  while (counts(f, "q").ready) {
    expect_ok(f->db, dibs_ack(f->db, take(f, "q").receipt, NULL));
    count++;
  }
  expect_int(count, 10);
  expect_ok(f->db, dibs_join(f->db, &queue, 1, 0));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      SHARED_TEST(handles_of_a_name_share_it),
      SHARED_TEST(it_ends_with_its_last_handle),
      SHARED_TEST(it_leaves_no_file),
      SHARED_TEST(a_clock_that_is_set_brings_what_is_due),
      SHARED_TEST(threads_share_it),
      SHARED_TEST(an_engine_drains_it),
      SHARED_TEST(a_loop_of_claims_drains_it),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
