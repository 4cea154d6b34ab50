/* SPDX-License-Identifier: MIT */
/*
** test_defaults.c: options that a queue is set to for its jobs: each of them,
** bound at the enqueue, by dibs and by the inbox alike; a job's own options are
** heard first.
*/
#include "harness.h"

static void set(fixture *f, const char *queue, const char *name,
                const char *value) {
  expect_ok(f->db, dibs_queue_set(f->db, queue, &name, &value, 1));
}

static void defaults_bind_at_the_enqueue(void **state) {
  fixture *f = *state;
  set(f, "q", "max_attempts", "3");
  set(f, "q", "priority", "7");
  set(f, "q", "delay", "1m");
  dibs_job_options options = no_options();
  options.priority = 1;
  options.at = START;
  int64_t plain = put(f, "q", "1");
  int64_t explicit_ones = put_with(f, "q", "1", &options);
  int64_t other = put(f, "other", "1");
  set(f, "q", "max_attempts", "none");
  int64_t later = put(f, "q", "1");
  expect_int(look(f, plain).max_attempts, 3);
  expect_int(look(f, plain).priority, 7);
  expect_state(f, plain, DIBS_SCHEDULED);
  expect_int(look(f, explicit_ones).priority, 1);
  expect_int(look(f, explicit_ones).max_attempts, 3);
  expect_state(f, explicit_ones, DIBS_READY);
  expect_int(look(f, other).max_attempts, DIBS_DEFAULT_MAX_ATTEMPTS);
  expect_int(look(f, later).max_attempts, DIBS_DEFAULT_MAX_ATTEMPTS);
}

/* A value of each, and the column of dibs_job that has it. */
static const struct {
  const char *name;
  const char *value;
  const char *column; /* NULL: it is seen elsewhere */
  const char *stored;
} each[] = {
    {"name", "send", "name", "send"},
    {"headers", "{\"a\": \"b\"}", "headers", "{\"a\": \"b\"}"},
    {"priority", "-7", "priority", "-7"},
    {"delay", "1m", NULL, NULL},
    {"expires", "2h", "expires_at - created_at", "7200000"},
    {"max_attempts", "0", "max_attempts", "0"},
    {"max_crashes", "9", "max_crashes", "9"},
    {"backoff", "250ms", "backoff", "250"},
    {"backoff_factor", "1.5", "backoff_factor", "1.5"},
    {"backoff_cap", "1h", "backoff_cap", "3600000"},
    {"backoff_jitter", "0.25", "backoff_jitter", "0.25"},
    {"lease", "9s", "lease", "9000"},
    {"timeout", "8s", "timeout", "8000"},
    {"keep", "forever", "keep", "9223372036854775807"},
    {"key", "lane", "key", "lane"},
    {"limit_key", "tenant", "limit_key", "tenant"},
    {"stage", "5m", NULL, NULL},
};

static void every_option_has_a_default(void **state) {
  fixture *f = *state;
  for (size_t i = 0; i < COUNT(each); i++) {
    set(f, "q", each[i].name, each[i].value);
    int64_t id = put(f, "q", "1");
    if (each[i].column)
      expect_text(raw_text(f, "SELECT %s FROM dibs_job WHERE id = %lld",
                           each[i].column, (long long)id),
                  each[i].stored);
    set(f, "q", each[i].name, "none");
    id = put(f, "q", "1");
    if (each[i].column && strcmp(each[i].name, "priority") != 0)
      expect_text(raw_text(f, "SELECT %s FROM dibs_job WHERE id = %lld",
                           each[i].column, (long long)id),
                  "");
  }
  set(f, "q", "delay", "1m");
  int64_t id = put(f, "q", "1");
  expect_int(look(f, id).due_at, START + MINUTE);
  set(f, "q", "stage", "5m");
  id = put(f, "q", "1");
  expect_state(f, id, DIBS_STAGED);
  expect_int(raw_int(f, "SELECT until FROM dibs_staged"), START + 5 * MINUTE);
}

/* Another value of each option than in `each`. */
static void a_jobs_own_options_are_heard_first(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  for (size_t i = 0; i < COUNT(each); i++)
    set(f, "q", each[i].name, each[i].value);
  options.name = "own";
  options.headers = "{}";
  options.priority = 0;
  options.delay = 0;
  options.expires = HOUR;
  options.max_attempts = 1;
  options.max_crashes = 0;
  options.backoff = 0;
  options.backoff_factor = 1;
  options.backoff_cap = 1;
  options.backoff_jitter = 0;
  options.lease = 1;
  options.timeout = 1;
  options.keep = 0;
  options.key = "own";
  options.limit_key = "own";
  options.stage = SECOND;
  int64_t id = put_with(f, "q", "1", &options);
  const char *own = raw_text(
      f,
      "SELECT printf('%%s %%s %%d %%d %%d %%d %%d %%g %%d %%g %%d %%d %%d %%s"
      " %%s', name, headers, priority, expires_at - created_at, max_attempts,"
      " max_crashes, backoff, backoff_factor, backoff_cap, backoff_jitter,"
      " lease, timeout, keep, key, limit_key) FROM dibs_job WHERE id = %lld",
      (long long)id);
  expect_text(own, "own {} 0 3600000 1 0 0 1 1 0 1 1 0 own own");
  expect_int(raw_int(f, "SELECT until FROM dibs_staged"), START + SECOND);
}

static void unique_keys_have_defaults(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  dibs_enqueued result;
  dibs_new_job job = {"q", dibs_json("1"), &options};
  set(f, "q", "on_conflict", "reject");
  set(f, "q", "unique_for", "start");
  options.unique = "u";
  int64_t first = put_with(f, "q", "1", &options);
  expect_int(raw_int(f, "SELECT unique_for FROM dibs_job"),
             DIBS_UNIQUE_UNTIL_START);
  expect_status(f->db, dibs_enqueue_many(f->db, &job, 1, &result), DIBS_EXISTS);
  options.on_conflict = DIBS_CONFLICT_KEEP;
  expect_ok(f->db, dibs_enqueue_many(f->db, &job, 1, &result));
  expect_int(result.id, first);
  take(f, "q");
  options.on_conflict = DIBS_CONFLICT_DEFAULT;
  set(f, "q", "unique_scope", "all");
  set(f, "q", "unique_for", "1h");
  put_with(f, "q", "1", &options);
  expect_int(raw_int(f, "SELECT scope FROM dibs_unique"), 0);
  expect_int(raw_int(f, "SELECT until FROM dibs_unique"), START + HOUR);
  options.unique_scope = DIBS_UNIQUE_QUEUE;
  options.unique = "other";
  put_with(f, "q", "1", &options);
  expect_true(raw_int(f, "SELECT scope FROM dibs_unique WHERE key = 'other'") >
              0);
}

/* One key for all: one job at a time. */
static void a_unique_key_may_be_the_queues(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  set(f, "q", "unique", "only");
  int64_t first = put(f, "q", "1");
  expect_int(put(f, "q", "2"), first);
  options.unique = "another";
  expect_true(put_with(f, "q", "1", &options) != first);
}

static void a_batch_over_queues_takes_the_defaults_of_each(void **state) {
  static const char *const queues[] = {"a", "b", "c"};
  static const char *const wanted[] = {"for a", "for b", ""};
  fixture *f = *state;
  dibs_new_job jobs[30];
  dibs_enqueued results[30];
  set(f, "a", "name", "for a");
  set(f, "b", "name", "for b");
  for (size_t i = 0; i < COUNT(jobs); i++)
    jobs[i] = (dibs_new_job){queues[i / 5 % 3], dibs_json("1"), NULL};
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, COUNT(jobs), results));
  for (size_t i = 0; i < COUNT(jobs); i++)
    expect_text(look(f, results[i].id).name, wanted[i / 5 % 3]);
}

/* ---- The inbox ------------------------------------------------------------- */

static const char what[] =
    "SELECT quote(name) || quote(headers) || priority || ' ' ||"
    " quote(expires_at - created_at) || quote(max_attempts) ||"
    " quote(max_crashes) || quote(backoff) || quote(backoff_factor) ||"
    " quote(backoff_cap) || quote(backoff_jitter) || quote(lease) ||"
    " quote(timeout) || quote(keep) || quote(key) || quote(limit_key) || ' '"
    " || (SELECT state || quote(coalesce(due_at, v.created_at) - v.created_at)"
    " || quote(staged_until - v.created_at) FROM dibs_jobs v WHERE v.id = j.id)"
    " FROM dibs_job j WHERE id = %lld";

/* What dibs and the inbox make of a job without options are the same. */
static void expect_the_same(fixture *f, const char *name) {
  char by_dibs[1000];
  int64_t id = put(f, "q", "1");
  snprintf(by_dibs, sizeof by_dibs, "%s", raw_text(f, what, (long long)id));
  expect_ok(f->db, dibs_cancel(f->db, &id, 1, NULL, NULL));
  raw_run(f, "INSERT INTO dibs_inbox(queue, payload) VALUES ('q', '1')");
  id = raw_int(f, "SELECT max(id) FROM dibs_job");
  const char *by_sql = raw_text(f, what, (long long)id);
  if (strcmp(by_dibs, by_sql) != 0)
    fail_msg("%s: %s by dibs, %s by the inbox", name, by_dibs, by_sql);
  expect_true(file_is_sound(f->path));
  expect_ok(f->db, dibs_cancel(f->db, &id, 1, NULL, NULL));
}

static void the_inbox_applies_each_default(void **state) {
  fixture *f = *state;
  expect_the_same(f, "nothing");
  for (size_t i = 0; i < COUNT(each); i++) {
    set(f, "q", each[i].name, each[i].value);
    expect_the_same(f, each[i].name);
    set(f, "q", each[i].name, "none");
  }
  for (size_t i = 0; i < COUNT(each); i++) {
    set(f, "q", each[i].name, each[i].value);
    expect_the_same(f, each[i].name);
  }
}

static void a_column_of_the_inbox_is_heard_first(void **state) {
  fixture *f = *state;
  set(f, "q", "priority", "5");
  set(f, "q", "delay", "1h");
  set(f, "q", "name", "queues");
  set(f, "q", "key", "queues");
  set(f, "q", "headers", "{\"by\":\"queue\"}");
  raw_run(f, "INSERT INTO dibs_inbox(queue, payload, priority, delay_ms, name,"
             " key, headers) VALUES ('q', '1', 0, 0, 'own', 'own', '{}')");
  expect_text(raw_text(f, "SELECT state || priority || name || key || headers"
                          " FROM dibs_jobs"),
              "ready0ownown{}");
  raw_run(f, "INSERT INTO dibs_inbox(queue, due_at) VALUES ('q', 5)");
  expect_text(raw_text(f, "SELECT state || due_at FROM dibs_jobs"
                          " WHERE key = 'queues'"),
              "ready5");
}

/* The lane that the default puts it in, and what expires. */
static void what_the_inbox_makes_lives_on(void **state) {
  fixture *f = *state;
  set(f, "q", "key", "k");
  set(f, "q", "expires", "1h");
  for (int i = 0; i < 3; i++)
    raw_run(f, "INSERT INTO dibs_inbox(queue, payload) VALUES ('q', '%d')", i);
  expect_int(counts(f, "q").blocked, 2);
  f->now = raw_int(f, "SELECT min(created_at) FROM dibs_job");
  held job = take(f, "q");
  expect_nothing(f, "q");
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_int(counts(f, "q").ready, 1);
  f->now += 2 * HOUR;
  expect_nothing(f, "q");
  expect_int(counts(f, "q").expired, 2);
  set(f, "q", "stage", "1m");
  set(f, "q", "expires", "none");
  raw_run(f, "INSERT INTO dibs_inbox(queue, payload) VALUES ('q', '4')");
  int64_t staged = raw_int(f, "SELECT id FROM dibs_staged");
  f->now = raw_int(f, "SELECT created_at FROM dibs_job");
  expect_ok(f->db, dibs_commit(f->db, staged));
  expect_int(try_take(f, "q"), staged);
}

/* It does not open what a limit holds. */
static void the_inbox_leaves_a_held_queue_held(void **state) {
  fixture *f = *state;
  set(f, "q", "limit", "0");
  put(f, "q", "1");
  expect_nothing(f, "q");
  raw_run(f, "INSERT INTO dibs_inbox(queue, payload) VALUES ('q', '1')");
  expect_int(raw_int(f, "SELECT claimable FROM dibs_queue"), 0);
  expect_nothing(f, "q");
}

/* ---- Settings ---------------------------------------------------------------- */

static void each_is_shown_as_it_may_be_typed(void **state) {
  fixture *f = *state;
  char *json;
  for (size_t i = 0; i < COUNT(each); i++)
    set(f, "q", each[i].name, each[i].value);
  set(f, "q", "unique", "u\"");
  set(f, "q", "unique_for", "finish");
  set(f, "q", "unique_scope", "all");
  set(f, "q", "on_conflict", "postpone");
  expect_ok(f->db, dibs_queue_show(f->db, "q", &json));
  expect_text(json,
              "{\"queue\":\"q\",\"paused\":false,\"name\":\"send\","
              "\"headers\":{\"a\":\"b\"},\"priority\":-7,\"delay\":\"1m\","
              "\"expires\":\"2h\",\"max_attempts\":0,\"max_crashes\":9,"
              "\"backoff\":\"250ms\",\"backoff_factor\":1.5,"
              "\"backoff_cap\":\"1h\",\"backoff_jitter\":0.25,"
              "\"lease\":\"9s\",\"timeout\":\"8s\",\"keep\":\"forever\","
              "\"key\":\"lane\",\"limit_key\":\"tenant\",\"unique\":\"u\\\"\","
              "\"unique_for\":\"finish\",\"unique_scope\":\"all\","
              "\"on_conflict\":\"postpone\",\"stage\":\"5m\"}");
  dibs_free(json);
}

/* As the options themselves are. */
static void what_no_job_could_have_is_refused(void **state) {
  fixture *f = *state;
  static const char *const bad[][2] = {{"name", ""},
                                       {"name", "a*"},
                                       {"key", "\n"},
                                       {"headers", "[]"},
                                       {"headers", "{\"a\":1}"},
                                       {"priority", "1.5"},
                                       {"expires", "0"},
                                       {"lease", "0"},
                                       {"timeout", "0s"},
                                       {"stage", "0"},
                                       {"backoff_factor", "0.5"},
                                       {"backoff_jitter", "2"},
                                       {"unique_for", "never"},
                                       {"unique_for", "0"},
                                       {"unique_scope", "both"},
                                       {"on_conflict", "fail"},
                                       {"at", "5"},
                                       {"max_attempts", "-1"}};
  for (size_t i = 0; i < COUNT(bad); i++) {
    expect_status(f->db, dibs_queue_set(f->db, "q", &bad[i][0], &bad[i][1], 1),
                  DIBS_INVALID);
    expect_says(dibs_error(f->db), bad[i][0]);
  }
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_setting"), 0);
}

/* What a damaged file says is no name is none. */
static void a_damaged_default_does_no_harm(void **state) {
  fixture *f = *state;
  set(f, "q", "key", "k");
  set(f, "q", "on_conflict", "reject");
  raw_run(f, "UPDATE dibs_setting SET value = printf('%%.*c', 9000, 'x')"
             " WHERE name = 'key'");
  raw_run(f, "UPDATE dibs_setting SET value = 77 WHERE name = 'on_conflict'");
  int64_t id = put(f, "q", "1");
  expect_text(look(f, id).key, "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(defaults_bind_at_the_enqueue),
      TEST(every_option_has_a_default),
      TEST(a_jobs_own_options_are_heard_first),
      TEST(unique_keys_have_defaults),
      TEST(a_unique_key_may_be_the_queues),
      TEST(a_batch_over_queues_takes_the_defaults_of_each),
      TEST(the_inbox_applies_each_default),
      TEST(a_column_of_the_inbox_is_heard_first),
      TEST(what_the_inbox_makes_lives_on),
      TEST(the_inbox_leaves_a_held_queue_held),
      TEST(each_is_shown_as_it_may_be_typed),
      TEST(what_no_job_could_have_is_refused),
      TEST(a_damaged_default_does_no_harm),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
