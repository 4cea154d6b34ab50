/* SPDX-License-Identifier: MIT */
/*
** test_log.c: what the log callback is told, and waiting for queues to be done
** with (dibs_join).
*/
#include "harness.h"

#include <pthread.h>

#define EVENTS 16

/* What the callback was told. */
struct told {
  int count;
  struct {
    int level;
    char event[16];
    int64_t id;
    char queue[32];
    char message[240];
  } events[EVENTS];
};

/* That the library has a bug is told once in a process: see test_checkpoint.c. */
static void listen_in(void *context, const dibs_log_event *event) {
  struct told *told = context;
  if (told->count == EVENTS || !strcmp(event->event, "library")) return;
  int i = told->count++;
  told->events[i].level = event->level;
  told->events[i].id = event->id;
  snprintf(told->events[i].event, sizeof told->events[i].event, "%s",
           event->event);
  snprintf(told->events[i].queue, sizeof told->events[i].queue, "%s",
           event->queue ? event->queue : "");
  snprintf(told->events[i].message, sizeof told->events[i].message, "%s",
           event->message);
}

/* Open the fixture's handle with the callback. */
static void listen_open(fixture *f, struct told *told) {
  memset(told, 0, sizeof *told);
  dibs_open_options options = fixture_options(f);
  options.log = listen_in;
  options.log_context = told;
  expect_int(dibs_open(f->path, &options, &f->db), DIBS_OK);
}

static void expect_told(const struct told *told, int i, const char *event,
                        int level, int64_t id, const char *queue) {
  if (i >= told->count) fail_msg("event %d (%s) was not told", i, event);
  expect_text(told->events[i].event, event);
  expect_int(told->events[i].level, level);
  expect_int(told->events[i].id, id);
  expect_text(told->events[i].queue, queue);
  expect_true(*told->events[i].message != '\0');
}

static void made_tables_are_told_once(void **state) {
  fixture *f = *state;
  struct told told;
  listen_open(f, &told);
  expect_int(told.count, 1);
  expect_told(&told, 0, "created", DIBS_LEVEL_OK, 0, "");
  expect_int(dibs_close(f->db), DIBS_OK);
  f->db = NULL;
  listen_open(f, &told);
  expect_int(told.count, 0);
}

static void a_lapse_and_the_death_behind_it_are_told(void **state) {
  fixture *f = *state;
  struct told told;
  dibs_job_options options;
  dibs_job_options_init(&options);
  options.max_attempts = 1;
  listen_open(f, &told);
  told.count = 0;
  int64_t id = put_with(f, "mail", "1", &options);
  expect_int(try_take(f, "mail"), id);
  f->now += HOUR;
  expect_nothing(f, "mail");
  expect_int(told.count, 2);
  expect_told(&told, 0, "lapsed", DIBS_LEVEL_WARNING, id, "mail");
  expect_told(&told, 1, "dead", DIBS_LEVEL_ERROR, id, "mail");
}

static void an_expiry_and_a_late_stage_are_told(void **state) {
  fixture *f = *state;
  struct told told;
  dibs_job_options options;
  dibs_job_options_init(&options);
  options.expires = MINUTE;
  listen_open(f, &told);
  told.count = 0;
  int64_t expiring = put_with(f, "q", "1", &options);
  dibs_job_options_init(&options);
  options.stage = MINUTE;
  int64_t staged = put_with(f, "q", "2", &options);
  f->now += HOUR;
  expect_nothing(f, "q");
  expect_int(told.count, 2);
  expect_told(&told, 0, "expired", DIBS_LEVEL_WARNING, expiring, "q");
  expect_told(&told, 1, "late", DIBS_LEVEL_WARNING, staged, "q");
}

/* Two deaths in one transaction, the second of which cannot be written: the
** first is rolled back with it, and neither is told. */
static void what_is_rolled_back_is_not_told(void **state) {
  fixture *f = *state;
  struct told told;
  dibs_settlement deaths[2];
  listen_open(f, &told);
  told.count = 0;
  put(f, "q", "1");
  put(f, "q", "2");
  held first = take(f, "q"), second = take(f, "q");
  memset(deaths, 0, sizeof deaths);
  deaths[0].receipt = first.receipt;
  deaths[1].receipt = second.receipt;
  deaths[0].action = deaths[1].action = DIBS_FAIL;
  raw_run(f,
          "CREATE TRIGGER refuse BEFORE INSERT ON dibs_dead"
          " WHEN new.id = %lld BEGIN SELECT RAISE(ABORT, 'refused'); END",
          (long long)second.id);
  expect_true(dibs_settle(f->db, deaths, 2) != DIBS_OK);
  raw_run(f, "DROP TRIGGER refuse");
  expect_state(f, first.id, DIBS_RUNNING);
  expect_int(told.count, 0);
  expect_ok(f->db, dibs_settle(f->db, deaths, 2));
  expect_int(told.count, 2);
  expect_told(&told, 0, "dead", DIBS_LEVEL_ERROR, first.id, "q");
  expect_told(&told, 1, "dead", DIBS_LEVEL_ERROR, second.id, "q");
}

/* ---- Join ---------------------------------------------------------------- */

static void join_returns_when_nothing_is_unfinished(void **state) {
  fixture *f = *state;
  const char *queue = "q", *all = DIBS_ALL;
  expect_ok(f->db, dibs_join(f->db, &queue, 1, 0));
  put(f, "other", "1");
  expect_ok(f->db, dibs_join(f->db, &queue, 1, 0));
  expect_status(f->db, dibs_join(f->db, &all, 1, 0), DIBS_EMPTY);
  expect_status(f->db, dibs_join(f->db, &all, 1, -5), DIBS_INVALID);
}

static void join_waits_for_every_unfinished_state(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  dibs_job_options options;
  dibs_job_options_init(&options);
  options.delay = HOUR;
  int64_t id = put_with(f, "q", "1", &options);
  expect_status(f->db, dibs_join(f->db, &queue, 1, 0), DIBS_EMPTY);
  f->now += HOUR;
  held job = take(f, "q");
  expect_status(f->db, dibs_join(f->db, &queue, 1, 0), DIBS_EMPTY);
  expect_ok(f->db, dibs_fail(f->db, job.receipt, "x")); /* dead is finished */
  expect_ok(f->db, dibs_join(f->db, &queue, 1, 0));
  dibs_job_options_init(&options);
  options.stage = HOUR;
  id = put_with(f, "q", "2", &options);
  expect_status(f->db, dibs_join(f->db, &queue, 1, 0), DIBS_EMPTY);
  expect_ok(f->db, dibs_abort(f->db, id));
  dibs_job_options_init(&options);
  options.key = "k";
  put_with(f, "q", "3", &options);
  put_with(f, "q", "4", &options);
  expect_ok(f->db, dibs_ack(f->db, take(f, "q").receipt, NULL));
  expect_status(f->db, dibs_join(f->db, &queue, 1, 0), DIBS_EMPTY);
  expect_ok(f->db, dibs_ack(f->db, take(f, "q").receipt, NULL));
  expect_ok(f->db, dibs_join(f->db, &queue, 1, 0));
}

struct joiner {
  dibs_db *db;
  int status;
};

static void *join_queue(void *context) {
  struct joiner *joiner = context;
  const char *queue = "q";
  joiner->status = dibs_join(joiner->db, &queue, 1, DIBS_FOREVER);
  return NULL;
}

static void join_ends_with_the_last_job(void **state) {
  fixture *f = *state;
  struct joiner joiner = {open_another(f), -1};
  pthread_t thread;
  put(f, "q", "1");
  held job = take(f, "q");
  expect_int(pthread_create(&thread, NULL, join_queue, &joiner), 0);
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  pthread_join(thread, NULL);
  expect_int(joiner.status, DIBS_OK);
  dibs_close(joiner.db);
}

static void an_interrupt_ends_a_join(void **state) {
  fixture *f = *state;
  struct joiner joiner = {f->db, -1};
  pthread_t thread;
  put(f, "q", "1");
  expect_int(pthread_create(&thread, NULL, join_queue, &joiner), 0);
  dibs_interrupt(f->db);
  pthread_join(thread, NULL);
  expect_int(joiner.status, DIBS_INTERRUPTED);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(made_tables_are_told_once),
      TEST_CLOSED(a_lapse_and_the_death_behind_it_are_told),
      TEST_CLOSED(an_expiry_and_a_late_stage_are_told),
      TEST_CLOSED(what_is_rolled_back_is_not_told),
      TEST(join_returns_when_nothing_is_unfinished),
      TEST(join_waits_for_every_unfinished_state),
      TEST(join_ends_with_the_last_job),
      TEST(an_interrupt_ends_a_join),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
