/* SPDX-License-Identifier: MIT */
/*
** test_admin.c: looking at jobs and changing them from outside: get, list,
** counts, cancel, change, dead letters, clear, prune, and what doctor finds.
*/
#include "harness.h"

#include <sys/stat.h>

static const char *const all_queues[] = {DIBS_ALL};

static int64_t put_dead(fixture *f, const char *queue) {
  int64_t id = put(f, queue, "[\"dead\"]");
  expect_ok(f->db, dibs_fail(f->db, take(f, queue).receipt, "broken"));
  return id;
}

static int64_t put_kept(fixture *f, const char *queue, int64_t keep) {
  dibs_job_options options = no_options();
  options.keep = keep;
  int64_t id = put_with(f, queue, "1", &options);
  expect_ok(f->db, dibs_ack(f->db, take(f, queue).receipt, NULL));
  return id;
}

/* ---- Get -------------------------------------------------------------------- */

static void get_of_no_job_is_not_found(void **state) {
  fixture *f = *state;
  static const int64_t ids[] = {0, -1, 1, DIBS_ID_MAX, INT64_MAX, INT64_MIN};
  for (size_t i = 0; i < COUNT(ids); i++) {
    dibs_job_list *list = NULL;
    expect_status(f->db, dibs_get(f->db, ids[i], &list), DIBS_NOT_FOUND);
    expect_true(list == NULL);
  }
  expect_int(dibs_get(f->db, 1, NULL), DIBS_MISUSE);
}

static void get_shows_a_dead_job_in_full(void **state) {
  fixture *f = *state;
  f->now += 5;
  seen job = look(f, put_dead(f, "q"));
  expect_int(job.state, DIBS_DEAD);
  expect_text(job.payload, "[\"dead\"]");
  expect_text(job.last_error, "broken");
  expect_int(job.created_at, START + 5);
  expect_int(job.claimed_at, START + 5);
  expect_int(job.finished_at, START + 5);
  expect_int(job.attempt, 1);
  expect_int(job.error_count, 1);
}

/* ---- List ------------------------------------------------------------------- */

static dibs_job_list *list_with(fixture *f, const char *queue,
                                const dibs_list_options *options) {
  dibs_job_list *list = NULL;
  expect_ok(f->db, dibs_list(f->db, queue ? &queue : NULL, queue != NULL,
                             options, &list));
  return list;
}

/* The ids of a list, as text. */
static const char *ids_of(dibs_job_list *list) {
  static char text[4096];
  size_t size = 0;
  text[0] = '\0';
  for (size_t i = 0; i < list->count; i++) {
    size += (size_t)snprintf(text + size, sizeof text - size, "%s%lld",
                             i ? " " : "", (long long)list->jobs[i].id);
  }
  dibs_job_list_free(list);
  return text;
}

static void lists_go_by_id_and_queue(void **state) {
  fixture *f = *state;
  put(f, "b", "1");
  put(f, "a/1", "1");
  put(f, "a/2", "1");
  put(f, "a", "1");
  expect_text(ids_of(list_with(f, NULL, NULL)), "1 2 3 4");
  expect_text(ids_of(list_with(f, "a/*", NULL)), "2 3");
  expect_text(ids_of(list_with(f, "a", NULL)), "4");
  expect_text(ids_of(list_with(f, DIBS_ALL, NULL)), "1 2 3 4");
  expect_text(ids_of(list_with(f, "never/used", NULL)), "");
  const char *both[] = {"b", "a/*"};
  dibs_job_list *list = NULL;
  expect_ok(f->db, dibs_list(f->db, both, 2, NULL, &list));
  expect_text(ids_of(list), "1 2 3");
}

static void lists_go_by_state(void **state) {
  fixture *f = *state;
  dibs_list_options options = DIBS_LIST_OPTIONS_INIT;
  dibs_job_options job = no_options();
  put_dead(f, "q");
  put_kept(f, "q", HOUR);
  put(f, "q", "1");
  take(f, "q");
  job.stage = HOUR;
  put_with(f, "q", "1", &job);
  job.stage = DIBS_UNSET;
  job.key = "k";
  put_with(f, "q", "1", &job);
  put_with(f, "q", "1", &job);
  job.key = NULL;
  job.delay = HOUR;
  put_with(f, "q", "1", &job);
  static const char *const wanted[] = {
      "1 2 3 4 5 6 7", "5", "7", "6", "4", "3", "2", "1"};
  for (int i = 0; i <= DIBS_DEAD; i++) {
    options.state = i;
    expect_text(ids_of(list_with(f, NULL, &options)), wanted[i]);
    expect_text(ids_of(list_with(f, "q", &options)), wanted[i]);
    expect_text(ids_of(list_with(f, "other", &options)), "");
  }
}

static void lists_go_by_name(void **state) {
  fixture *f = *state;
  dibs_list_options options = DIBS_LIST_OPTIONS_INIT;
  dibs_job_options job = no_options();
  put(f, "q", "1");
  job.name = "send";
  put_with(f, "q", "1", &job);
  job.name = "fetch";
  put_with(f, "q", "1", &job);
  options.name = "send";
  expect_text(ids_of(list_with(f, NULL, &options)), "2");
  options.state = DIBS_READY;
  expect_text(ids_of(list_with(f, NULL, &options)), "2");
}

static void lists_come_in_pages(void **state) {
  fixture *f = *state;
  dibs_list_options options = DIBS_LIST_OPTIONS_INIT;
  for (int i = 0; i < 250; i++) put(f, i % 2 ? "a" : "b", "1");
  dibs_job_list *list = list_with(f, NULL, &options);
  expect_int(list->count, 100);
  dibs_job_list_free(list);
  int64_t after = 0;
  int64_t total = 0;
  options.limit = 60;
  options.state = DIBS_READY;
  for (;;) {
    options.after = after;
    list = list_with(f, NULL, &options);
    if (list->count == 0) break;
    expect_int(list->jobs[0].id, after + 1);
    after = list->jobs[list->count - 1].id;
    total += (int64_t)list->count;
    dibs_job_list_free(list);
  }
  dibs_job_list_free(list);
  expect_int(total, 250);
}

static void lists_may_leave_payloads_out(void **state) {
  fixture *f = *state;
  dibs_list_options options = DIBS_LIST_OPTIONS_INIT;
  put(f, "q", "[1]");
  dibs_job_list *list = list_with(f, NULL, &options);
  expect_text(list->jobs[0].payload.data, "[1]");
  dibs_job_list_free(list);
  options.no_payload = 1;
  list = list_with(f, NULL, &options);
  expect_int(list->jobs[0].payload.kind, DIBS_PAYLOAD_NONE);
  expect_text(list->jobs[0].receipt, NULL);
  dibs_job_list_free(list);
}

static void wrong_lists_are_refused(void **state) {
  fixture *f = *state;
  dibs_list_options options = DIBS_LIST_OPTIONS_INIT;
  dibs_job_list *list = NULL;
  options.state = 8;
  expect_status(f->db, dibs_list(f->db, NULL, 0, &options, &list),
                DIBS_INVALID);
  expect_says(dibs_error(f->db), "state");
  options.state = 0;
  options.limit = 0;
  expect_status(f->db, dibs_list(f->db, NULL, 0, &options, &list),
                DIBS_INVALID);
  expect_says(dibs_error(f->db), "limit");
  options.size = 1;
  expect_true(dibs_list(f->db, NULL, 0, &options, &list) != DIBS_OK);
  const char *wrong = "a*";
  expect_status(f->db, dibs_list(f->db, &wrong, 1, NULL, &list), DIBS_INVALID);
  expect_status(f->db, dibs_list(f->db, NULL, 1, NULL, &list), DIBS_MISUSE);
  expect_true(list == NULL);
}

/* ---- Counts ------------------------------------------------------------------ */

static void counts_are_by_queue_and_state(void **state) {
  fixture *f = *state;
  dibs_job_options job = no_options();
  put_dead(f, "q");
  put_kept(f, "q", HOUR);
  put(f, "q", "1");
  take(f, "q");
  job.stage = HOUR;
  put_with(f, "q", "1", &job);
  job.stage = DIBS_UNSET;
  job.key = "k";
  for (int i = 0; i < 3; i++) put_with(f, "q", "1", &job);
  job.key = NULL;
  job.delay = HOUR;
  put_with(f, "q", "1", &job);
  put(f, "other", "1");
  dibs_queue_stats q = counts(f, "q");
  expect_int(q.ready, 1);
  expect_int(q.scheduled, 1);
  expect_int(q.blocked, 2);
  expect_int(q.staged, 1);
  expect_int(q.running, 1);
  expect_int(q.done, 1);
  expect_int(q.dead, 1);
  expect_int(q.paused, 0);
  expect_int(q.expired, 0);
  expect_int(q.oldest_ready_at, START);
}

static void counts_are_of_the_queues_asked_for(void **state) {
  fixture *f = *state;
  static const char *const asked[] = {"z", "a/*", "never/used"};
  dibs_stats_list *stats = NULL;
  put(f, "z", "1");
  put(f, "a/2", "1");
  put(f, "a/1", "1");
  put(f, "b", "1");
  expect_ok(f->db, dibs_stats(f->db, asked, 3, &stats));
  expect_int(stats->count, 4);
  expect_text(stats->queues[0].queue, "a/1");
  expect_text(stats->queues[1].queue, "a/2");
  expect_text(stats->queues[2].queue, "never/used");
  expect_int(stats->queues[2].ready, 0);
  expect_int(stats->queues[2].oldest_ready_at, DIBS_UNSET);
  expect_text(stats->queues[3].queue, "z");
  dibs_stats_list_free(stats);
  expect_ok(f->db, dibs_stats(f->db, NULL, 0, &stats));
  expect_int(stats->count, 4);
  expect_text(stats->queues[2].queue, "b");
  dibs_stats_list_free(stats);
}

static void no_queues_have_no_counts(void **state) {
  fixture *f = *state;
  dibs_stats_list *stats = NULL;
  expect_ok(f->db, dibs_stats(f->db, NULL, 0, &stats));
  expect_int(stats->count, 0);
  dibs_stats_list_free(stats);
  stats = NULL;
  const char *wrong = "a*";
  expect_status(f->db, dibs_stats(f->db, &wrong, 1, &stats), DIBS_INVALID);
  expect_true(stats == NULL);
}

static void the_oldest_ready_job_is_the_one_due_first(void **state) {
  fixture *f = *state;
  dibs_job_options job = no_options();
  job.delay = 1000;
  put_with(f, "q", "1", &job);
  f->now += 5000;
  put(f, "q", "1");
  held first = take(f, "q");
  expect_int(counts(f, "q").oldest_ready_at, START + 5000);
  expect_ok(f->db, dibs_retry(f->db, first.receipt, 0, "x", NULL));
  f->now += 1000;
  put(f, "q", "1");
  expect_int(counts(f, "q").oldest_ready_at, START + 5000);
}

static void the_views_say_the_same(void **state) {
  fixture *f = *state;
  dibs_job_options job = no_options();
  job.name = "send";
  job.expires = DAY;
  job.keep = HOUR;
  put_with(f, "q", "{\"a\":1}", &job);
  held claimed = take_for(f, "q", 5000);
  expect_text(raw_text(f, "SELECT state FROM dibs_jobs"), "running");
  expect_int(raw_int(f, "SELECT lease_until FROM dibs_jobs"), START + 5000);
  expect_int(raw_int(f, "SELECT attempt FROM dibs_jobs"), 1);
  expect_ok(f->db, dibs_ack(f->db, claimed.receipt, "[1]"));
  expect_text(raw_text(f, "SELECT state || outcome || name || payload ||"
                          " result FROM dibs_jobs"),
              "doneackedsend{\"a\":1}[1]");
  put_dead(f, "q");
  expect_text(raw_text(f, "SELECT last_error FROM dibs_jobs WHERE id = 2"),
              "broken");
  expect_text(raw_text(f, "SELECT queue || ready || done || dead FROM"
                          " dibs_queues"),
              "q011");
}

/* ---- The next event ------------------------------------------------------------ */

static int64_t next_event(fixture *f) {
  int64_t at = -1;
  expect_ok(f->db, dibs_next_event(f->db, &at));
  return at;
}

static void the_next_event_is_the_earliest(void **state) {
  fixture *f = *state;
  dibs_job_options job = no_options();
  expect_int(next_event(f), DIBS_UNSET);
  put(f, "q", "1");
  expect_int(next_event(f), DIBS_UNSET);
  job.expires = 5 * HOUR;
  put_with(f, "q", "1", &job);
  expect_int(next_event(f), START + 5 * HOUR);
  job.expires = DIBS_UNSET;
  job.stage = 4 * HOUR;
  put_with(f, "q", "1", &job);
  expect_int(next_event(f), START + 4 * HOUR);
  job.stage = DIBS_UNSET;
  job.delay = 3 * HOUR;
  put_with(f, "q", "1", &job);
  expect_int(next_event(f), START + 3 * HOUR);
  take_for(f, "q", 2 * HOUR);
  expect_int(next_event(f), START + 2 * HOUR);
  expect_int(dibs_next_event(f->db, NULL), DIBS_MISUSE);
}

/* ---- Cancel ---------------------------------------------------------------------- */

static void cancel_from_every_state(void **state) {
  fixture *f = *state;
  dibs_job_options job = no_options();
  int64_t ids[7];
  dibs_id_outcome outcomes[7];
  int64_t cancelled = 0;
  job.keep = HOUR;
  ids[5] = put_with(f, "q", "1", &job);
  expect_ok(f->db, dibs_fail(f->db, take(f, "q").receipt, "x"));
  ids[4] = put_with(f, "q", "1", &job);
  held running = take(f, "q");
  ids[0] = put_with(f, "q", "1", &job);
  job.delay = HOUR;
  ids[1] = put_with(f, "q", "1", &job);
  job.delay = DIBS_UNSET;
  job.key = "k";
  put_with(f, "q", "1", &job);
  ids[2] = put_with(f, "q", "1", &job);
  job.key = NULL;
  job.stage = HOUR;
  ids[3] = put_with(f, "q", "1", &job);
  ids[6] = put_kept(f, "r", HOUR);
  expect_ok(f->db, dibs_cancel(f->db, ids, 7, outcomes, &cancelled));
  expect_int(cancelled, 6);
  for (int i = 0; i < 6; i++) {
    expect_int(outcomes[i].status, DIBS_OK);
    expect_int(outcomes[i].state, DIBS_DONE);
    expect_int(look(f, ids[i]).outcome, DIBS_CANCELLED);
    expect_int(look(f, ids[i]).finished_at, START);
  }
  expect_int(outcomes[6].status, DIBS_STATE);
  expect_int(outcomes[6].state, DIBS_DONE);
  expect_true(*outcomes[6].message != '\0');
  expect_status(f->db, dibs_ack(f->db, running.receipt, NULL), DIBS_LOST);
}

static void cancel_removes_what_is_not_kept(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "1");
  expect_ok(f->db, dibs_cancel(f->db, &id, 1, NULL, NULL));
  expect_gone(f, id);
  expect_nothing(f, "q");
}

static void cancel_of_no_job_is_not_found(void **state) {
  fixture *f = *state;
  int64_t id = 77;
  dibs_id_outcome outcome;
  int64_t cancelled = -1;
  expect_status(f->db, dibs_cancel(f->db, &id, 1, NULL, NULL), DIBS_NOT_FOUND);
  expect_says(dibs_error(f->db), "77");
  expect_ok(f->db, dibs_cancel(f->db, &id, 1, &outcome, &cancelled));
  expect_int(outcome.status, DIBS_NOT_FOUND);
  expect_int(cancelled, 0);
  expect_ok(f->db, dibs_cancel(f->db, NULL, 0, NULL, &cancelled));
  expect_status(f->db, dibs_cancel(f->db, NULL, 1, NULL, NULL), DIBS_MISUSE);
}

static void the_good_ones_are_cancelled_beside_a_bad_one(void **state) {
  fixture *f = *state;
  int64_t ids[] = {put(f, "q", "1"), 99, put(f, "q", "1")};
  int64_t cancelled = 0;
  expect_status(f->db, dibs_cancel(f->db, ids, 3, NULL, &cancelled),
                DIBS_NOT_FOUND);
  expect_int(cancelled, 2);
  expect_gone(f, ids[0]);
  expect_gone(f, ids[2]);
}

/* ---- Change ------------------------------------------------------------------------ */

static void change_moves_a_waiting_job(void **state) {
  fixture *f = *state;
  dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;
  put(f, "q", "1");
  int64_t second = put(f, "q", "1");
  change.priority = 5;
  expect_ok(f->db, dibs_change(f->db, second, &change));
  expect_int(try_take(f, "q"), second);
  change.priority = DIBS_UNSET;
  change.at = START + 1000;
  expect_ok(f->db, dibs_change(f->db, 1, &change));
  expect_state(f, 1, DIBS_SCHEDULED);
  f->now += 999;
  expect_nothing(f, "q");
  change.at = DIBS_UNSET;
  change.delay = 0;
  expect_ok(f->db, dibs_change(f->db, 1, &change));
  expect_int(try_take(f, "q"), 1);
}

static void change_refuses_what_is_not_waiting(void **state) {
  fixture *f = *state;
  dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;
  change.priority = 1;
  int64_t dead = put_dead(f, "q");
  int64_t done = put_kept(f, "q", HOUR);
  int64_t running = put(f, "q", "1");
  take(f, "q");
  expect_status(f->db, dibs_change(f->db, dead, &change), DIBS_STATE);
  expect_says(dibs_error(f->db), "dead");
  expect_status(f->db, dibs_change(f->db, done, &change), DIBS_STATE);
  expect_status(f->db, dibs_change(f->db, running, &change), DIBS_STATE);
  expect_status(f->db, dibs_change(f->db, 99, &change), DIBS_NOT_FOUND);
}

static void wrong_changes_are_refused(void **state) {
  fixture *f = *state;
  dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;
  int64_t id = put(f, "q", "1");
  change.priority = INT64_C(2147483648);
  expect_status(f->db, dibs_change(f->db, id, &change), DIBS_INVALID);
  change.priority = DIBS_UNSET;
  change.delay = -1;
  expect_status(f->db, dibs_change(f->db, id, &change), DIBS_INVALID);
  change.delay = DIBS_UNSET;
  change.at = -1;
  expect_status(f->db, dibs_change(f->db, id, &change), DIBS_INVALID);
  change.at = 1;
  change.delay = 1;
  expect_status(f->db, dibs_change(f->db, id, &change), DIBS_INVALID);
  expect_true(dibs_change(f->db, id, NULL) != DIBS_OK);
  expect_state(f, id, DIBS_READY);
}

/* ---- Dead letters ------------------------------------------------------------------- */

static void requeue_gives_a_dead_job_another_life(void **state) {
  fixture *f = *state;
  dibs_id_outcome outcomes[3];
  int64_t moved = 0;
  int64_t dead = put_dead(f, "q");
  int64_t ready = put(f, "q", "1");
  int64_t ids[] = {dead, ready, 99};
  f->now += HOUR;
  expect_ok(f->db, dibs_requeue(f->db, ids, 3, outcomes, &moved));
  expect_int(moved, 1);
  expect_int(outcomes[0].status, DIBS_OK);
  expect_int(outcomes[0].state, DIBS_READY);
  expect_int(outcomes[1].status, DIBS_STATE);
  expect_int(outcomes[1].state, DIBS_READY);
  expect_int(outcomes[2].status, DIBS_NOT_FOUND);
  seen job = look(f, dead);
  expect_int(job.state, DIBS_READY);
  expect_int(job.attempt, 0);
  expect_int(job.created_at, START);
  expect_int(job.error_count, 1);
  expect_int(job.finished_at, DIBS_UNSET);
  /* It keeps its age. */
  expect_int(take(f, "q").id, dead);
}

static void requeued_jobs_count_their_attempts_anew(void **state) {
  fixture *f = *state;
  dibs_job_options job = no_options();
  job.max_attempts = 1;
  int64_t id = put_with(f, "q", "1", &job);
  for (int i = 0; i < 3; i++) {
    held again = take(f, "q");
    expect_int(again.attempt, 1);
    expect_ok(f->db, dibs_retry(f->db, again.receipt, 0, "again", NULL));
    expect_state(f, id, DIBS_DEAD);
    expect_ok(f->db, dibs_requeue(f->db, &id, 1, NULL, NULL));
  }
  expect_int(look(f, id).error_count, 3);
}

static void redrive_moves_all_of_the_queues(void **state) {
  fixture *f = *state;
  const char *queue = "a/*";
  int64_t moved = 0;
  int64_t *skipped = (int64_t *)f;
  size_t count = 9;
  for (int i = 0; i < 3; i++) put_dead(f, "a/1");
  put_dead(f, "a/2");
  int64_t other = put_dead(f, "b");
  expect_ok(f->db, dibs_redrive(f->db, &queue, 1, &moved, &skipped, &count));
  expect_int(moved, 4);
  expect_int(count, 0);
  dibs_free(skipped);
  expect_int(counts(f, "a/1").ready, 3);
  expect_int(counts(f, "a/2").ready, 1);
  expect_state(f, other, DIBS_DEAD);
}

static void redrive_moves_many(void **state) {
  enum { MANY = 1200 };
  fixture *f = *state;
  int64_t moved = 0;
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_new_job *jobs = calloc(MANY, sizeof *jobs);
  dibs_settlement *fails = calloc(MANY, sizeof *fails);
  dibs_job_list *list = NULL;
  expect_true(jobs != NULL && fails != NULL);
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, MANY, NULL));
  options.n = MANY;
  expect_ok(f->db, dibs_claim(f->db, all_queues, 1, &options, &list));
  for (int i = 0; i < MANY; i++) {
    fails[i].receipt = list->jobs[i].receipt;
    fails[i].action = DIBS_FAIL;
  }
  expect_ok(f->db, dibs_settle(f->db, fails, MANY));
  dibs_job_list_free(list);
  expect_ok(f->db, dibs_redrive(f->db, all_queues, 1, &moved, NULL, NULL));
  expect_int(moved, MANY);
  expect_int(counts(f, "default").ready, MANY);
  free(jobs);
  free(fails);
}

static void purge_removes_dead_letters_only(void **state) {
  fixture *f = *state;
  const char *queue = "a";
  int64_t removed = 0;
  put_dead(f, "a");
  put_dead(f, "a");
  put_dead(f, "b");
  put(f, "a", "1");
  expect_ok(f->db, dibs_purge(f->db, &queue, 1, &removed));
  expect_int(removed, 2);
  expect_int(counts(f, "a").ready, 1);
  expect_int(counts(f, "b").dead, 1);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_error"), 1);
}

/* ---- Clear and prune ------------------------------------------------------------------ */

static void clear_leaves_running_kept_and_dead(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  dibs_job_options job = no_options();
  int64_t removed = 0;
  int64_t dead = put_dead(f, "q");
  int64_t done = put_kept(f, "q", HOUR);
  int64_t running = put(f, "q", "1");
  take(f, "q");
  put(f, "q", "1");
  job.delay = HOUR;
  put_with(f, "q", "1", &job);
  int64_t other = put(f, "r", "1");
  expect_ok(f->db, dibs_clear(f->db, &queue, 1, 0, &removed));
  expect_int(removed, 2);
  expect_state(f, dead, DIBS_DEAD);
  expect_state(f, done, DIBS_DONE);
  expect_state(f, running, DIBS_RUNNING);
  expect_state(f, other, DIBS_READY);
  expect_ok(f->db, dibs_clear(f->db, &queue, 1, 1, &removed));
  expect_int(removed, 1);
  expect_gone(f, dead);
}

static void clear_takes_many_in_steps(void **state) {
  enum { MANY = 3000 };
  fixture *f = *state;
  int64_t removed = 0;
  dibs_new_job *jobs = calloc(MANY, sizeof *jobs);
  expect_true(jobs != NULL);
  for (int i = 0; i < MANY; i++) jobs[i].queue = i % 2 ? "a" : "b";
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, MANY, NULL));
  expect_ok(f->db, dibs_clear(f->db, all_queues, 1, 0, &removed));
  expect_int(removed, MANY);
  expect_nothing(f, DIBS_ALL);
  free(jobs);
}

static void what_destroys_wants_a_queue(void **state) {
  fixture *f = *state;
  put(f, "q", "1");
  put_dead(f, "default");
  expect_status(f->db, dibs_clear(f->db, NULL, 0, 1, NULL), DIBS_INVALID);
  expect_says(dibs_error(f->db), "queue");
  expect_status(f->db, dibs_purge(f->db, NULL, 0, NULL), DIBS_INVALID);
  expect_status(f->db, dibs_redrive(f->db, NULL, 0, NULL, NULL, NULL),
                DIBS_INVALID);
  const char *wrong = "a*";
  expect_status(f->db, dibs_clear(f->db, &wrong, 1, 1, NULL), DIBS_INVALID);
  expect_int(counts(f, "q").ready, 1);
  expect_int(counts(f, "default").dead, 1);
}

static void an_unused_queue_is_cleared_without_complaint(void **state) {
  fixture *f = *state;
  const char *queue = "never/used";
  int64_t count = -1;
  expect_ok(f->db, dibs_clear(f->db, &queue, 1, 1, &count));
  expect_int(count, 0);
  expect_ok(f->db, dibs_purge(f->db, &queue, 1, &count));
  expect_int(count, 0);
  expect_ok(f->db, dibs_redrive(f->db, &queue, 1, &count, NULL, NULL));
  expect_int(count, 0);
  expect_ok(f->db, dibs_prune(f->db, &count));
  expect_int(count, 0);
}

/* Queues appear on first use and disappear when nobody uses them. */
static void prune_lets_unused_queues_go(void **state) {
  fixture *f = *state;
  dibs_stats_list *stats = NULL;
  put(f, "short/lived", "1");
  expect_ok(f->db, dibs_ack(f->db, take(f, "short/*").receipt, NULL));
  put(f, "used", "1");
  expect_ok(f->db, dibs_prune(f->db, NULL));
  expect_ok(f->db, dibs_stats(f->db, NULL, 0, &stats));
  expect_int(stats->count, 1);
  expect_text(stats->queues[0].queue, "used");
  dibs_stats_list_free(stats);
  put(f, "short/lived", "1");
  expect_true(try_take(f, "short/lived") > 0);
}

/* A key that outlives its job is not found in a queue of another name. */
static void a_pruned_queue_leaves_no_unique_keys_to_others(void **state) {
  fixture *f = *state;
  dibs_job_options job = no_options();
  job.unique = "u";
  job.unique_for = HOUR;
  int64_t first = put_with(f, "one", "1", &job);
  expect_ok(f->db, dibs_ack(f->db, take(f, "one").receipt, NULL));
  expect_ok(f->db, dibs_prune(f->db, NULL));
  int64_t second = put_with(f, "two", "1", &job);
  expect_true(second > first);
  expect_int(put_with(f, "one", "1", &job), first);
}

static void prune_forgets_turns_of_a_week_ago(void **state) {
  fixture *f = *state;
  put(f, "a", "1");
  try_take(f, DIBS_ALL);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_cursor"), 1);
  f->now += 30 * DAY;
  expect_ok(f->db, dibs_prune(f->db, NULL));
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_cursor"), 0);
}

/* ---- Doctor ------------------------------------------------------------------------------ */

/* The level of a check, or -1 when it is not there. Its message must be. */
static int level_of(fixture *f, const char *check, int thorough) {
  dibs_finding_list *list = NULL;
  int level = -1;
  expect_ok(f->db, dibs_doctor(f->db, thorough, &list));
  for (size_t i = 0; i < list->count; i++) {
    const dibs_finding *finding = &list->findings[i];
    expect_true(finding->check && *finding->check);
    expect_true(finding->message && *finding->message);
    if (finding->level != DIBS_LEVEL_OK) expect_true(finding->advice != NULL);
    if (strcmp(finding->check, check) == 0 && finding->level > level) {
      level = finding->level;
    }
  }
  dibs_finding_list_free(list);
  return level;
}

static void a_healthy_database_has_no_errors(void **state) {
  fixture *f = *state;
  dibs_finding_list *list = NULL;
  put(f, "q", "1");
  put_dead(f, "q");
  expect_ok(f->db, dibs_doctor(f->db, 1, &list));
  expect_true(list->count >= 5);
  for (size_t i = 0; i < list->count; i++) {
    if (list->findings[i].level == DIBS_LEVEL_ERROR) {
      fail_msg("%s: %s", list->findings[i].check, list->findings[i].message);
    }
  }
  dibs_finding_list_free(list);
  expect_int(dibs_doctor(f->db, 0, NULL), DIBS_MISUSE);
}

static void doctor_sees_another_journal_mode(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  expect_int(level_of(f, "journal_mode", 0), DIBS_LEVEL_OK);
  expect_int(dibs_close(f->db), DIBS_OK);
  raw_run(f, "PRAGMA journal_mode=DELETE");
  options.keep_journal_mode = 1;
  options.synchronous = DIBS_SYNCHRONOUS_FULL;
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  expect_int(level_of(f, "journal_mode", 0), DIBS_LEVEL_WARNING);
  expect_int(level_of(f, "synchronous", 0), DIBS_LEVEL_OK);
}

static void doctor_sees_who_may_write(void **state) {
  fixture *f = *state;
  expect_int(level_of(f, "permissions", 0), DIBS_LEVEL_OK);
  expect_int(chmod(f->path, 0666), 0);
  expect_int(level_of(f, "permissions", 0), DIBS_LEVEL_WARNING);
}

static void doctor_sees_leases_that_ran_out(void **state) {
  fixture *f = *state;
  put(f, "q", "1");
  take_for(f, "q", 1000);
  expect_int(level_of(f, "leases", 0), DIBS_LEVEL_OK);
  f->now += 1000;
  expect_int(level_of(f, "leases", 0), DIBS_LEVEL_WARNING);
}

static void doctor_sees_jobs_that_wait_long(void **state) {
  fixture *f = *state;
  put(f, "q", "1");
  expect_int(level_of(f, "waiting", 0), DIBS_LEVEL_OK);
  f->now += 30 * DAY;
  expect_int(level_of(f, "waiting", 0), DIBS_LEVEL_WARNING);
  raw_run(f, "UPDATE dibs_queue SET paused = 1");
  expect_int(level_of(f, "waiting", 0), DIBS_LEVEL_WARNING);
}

/* A reader that stays keeps the WAL from being checkpointed. */
static void doctor_sees_a_reader_that_holds_the_wal(void **state) {
  fixture *f = *state;
  size_t size = 10000000;
  char *bytes = calloc(1, size);
  expect_true(bytes != NULL);
  put(f, "q", "1");
  sqlite3 *reader = plain_open(f->path);
  expect_int(
      sqlite3_exec(reader, "BEGIN; SELECT * FROM dibs_job", NULL, NULL, NULL),
      SQLITE_OK);
  expect_int(level_of(f, "wal", 0), DIBS_LEVEL_OK);
  for (int i = 0; i < 7; i++) {
    expect_ok(f->db,
              dibs_enqueue(f->db, "q", dibs_bytes(bytes, size), NULL, NULL));
  }
  free(bytes);
  int level = level_of(f, "wal", 0);
  sqlite3_close(reader);
  expect_int(level, DIBS_LEVEL_WARNING);
  expect_int(level_of(f, "wal", 0), DIBS_LEVEL_OK);
}

static void doctor_sees_a_job_in_two_states(void **state) {
  fixture *f = *state;
  put(f, "q", "1");
  expect_int(level_of(f, "integrity", 1), DIBS_LEVEL_OK);
  expect_int(level_of(f, "integrity", 0), -1);
  raw_run(f, "INSERT INTO dibs_scheduled(id, queue_id, due_at)"
             " VALUES (1, 1, 5)");
  int level = level_of(f, "placements", 1);
  raw_run(f, "DELETE FROM dibs_scheduled");
  expect_int(level, DIBS_LEVEL_ERROR);
}

static void doctor_understands_a_uri(void **state) {
  fixture *f = *state;
  char uri[160];
  dibs_open_options options = fixture_options(f);
  expect_int(dibs_close(f->db), DIBS_OK);
  snprintf(uri, sizeof uri, "file:%s?cache=private", f->path);
  expect_ok(f->db, dibs_open(uri, &options, &f->db));
  expect_int(level_of(f, "permissions", 0), DIBS_LEVEL_OK);
  expect_int(level_of(f, "file", 0), -1);
}

static void doctor_looks_at_a_database_in_memory(void **state) {
  fixture *f = *state;
  expect_int(level_of(f, "journal_mode", 1), DIBS_LEVEL_OK);
  expect_int(level_of(f, "permissions", 1), -1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(get_of_no_job_is_not_found),
      TEST(get_shows_a_dead_job_in_full),
      TEST(lists_go_by_id_and_queue),
      TEST(lists_go_by_state),
      TEST(lists_go_by_name),
      TEST(lists_come_in_pages),
      TEST(lists_may_leave_payloads_out),
      TEST(wrong_lists_are_refused),
      TEST(counts_are_by_queue_and_state),
      TEST(counts_are_of_the_queues_asked_for),
      TEST(no_queues_have_no_counts),
      TEST(the_oldest_ready_job_is_the_one_due_first),
      TEST(the_views_say_the_same),
      TEST(the_next_event_is_the_earliest),
      TEST(cancel_from_every_state),
      TEST(cancel_removes_what_is_not_kept),
      TEST(cancel_of_no_job_is_not_found),
      TEST(the_good_ones_are_cancelled_beside_a_bad_one),
      TEST(change_moves_a_waiting_job),
      TEST(change_refuses_what_is_not_waiting),
      TEST(wrong_changes_are_refused),
      TEST(requeue_gives_a_dead_job_another_life),
      TEST(requeued_jobs_count_their_attempts_anew),
      TEST(redrive_moves_all_of_the_queues),
      TEST(redrive_moves_many),
      TEST(purge_removes_dead_letters_only),
      TEST(clear_leaves_running_kept_and_dead),
      TEST(clear_takes_many_in_steps),
      TEST(what_destroys_wants_a_queue),
      TEST(an_unused_queue_is_cleared_without_complaint),
      TEST(prune_lets_unused_queues_go),
      TEST(a_pruned_queue_leaves_no_unique_keys_to_others),
      TEST(prune_forgets_turns_of_a_week_ago),
      TEST(a_healthy_database_has_no_errors),
      TEST(doctor_sees_another_journal_mode),
      TEST(doctor_sees_who_may_write),
      TEST(doctor_sees_leases_that_ran_out),
      TEST(doctor_sees_jobs_that_wait_long),
      TEST(doctor_sees_a_reader_that_holds_the_wal),
      TEST(doctor_sees_a_job_in_two_states),
      TEST(doctor_understands_a_uri),
      TEST_MEMORY(doctor_looks_at_a_database_in_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
