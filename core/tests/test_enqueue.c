/* SPDX-License-Identifier: MIT */
/*
** test_enqueue.c: enqueuing: payloads kept exactly, every option and its
** bounds, batches, ids, and jobs that plain SQL puts into dibs_inbox.
*/
#include "harness.h"

/* ---- Payloads ------------------------------------------------------------ */

/* Enqueue, get, and compare kind and bytes. */
static void expect_kept(fixture *f, dibs_payload payload) {
  dibs_job_list *list = NULL;
  int64_t id = 0;
  expect_ok(f->db, dibs_enqueue(f->db, "q", payload, NULL, &id));
  expect_ok(f->db, dibs_get(f->db, id, &list));
  const dibs_payload *kept = &list->jobs[0].payload;
  expect_int(kept->kind, payload.kind);
  expect_int(kept->size, payload.size);
  if (payload.kind != DIBS_PAYLOAD_NONE) {
    expect_true(kept->data != NULL);
    expect_int(
        memcmp(kept->data, payload.data ? payload.data : "", payload.size), 0);
    expect_int(((const char *)kept->data)[kept->size], 0);
  }
  dibs_job_list_free(list);
}

static void payloads_are_kept_exactly(void **state) {
  fixture *f = *state;
  static const char *const json[] = {
      "null",
      "true",
      "0",
      "-1.50e+3",
      "\"\"",
      "[]",
      "{}",
      "{\"b\": 1,\n \"a\" :\t[1 , 2],\"a\":3}",
      "  [1]  ",
      "\"\\u0000 \\u00e9 \xC3\xA9\"",
      "123456789012345678901234567890",
  };
  for (size_t i = 0; i < COUNT(json); i++) expect_kept(f, dibs_json(json[i]));
  expect_kept(f, dibs_none());
  expect_kept(f, dibs_bytes("", 0));
  expect_kept(f, dibs_bytes(NULL, 0));
  expect_kept(f, dibs_bytes("\0", 1));
  expect_kept(f, dibs_bytes("a\0b\xFF\0", 5));
  expect_kept(f, dibs_bytes("{\"not\":json", 11));
  expect_kept(f, dibs_json_sized("[1]garbage", 3));
}

static void a_megabyte_is_kept_exactly(void **state) {
  fixture *f = *state;
  size_t size = 1048576;
  unsigned char *bytes = malloc(size);
  expect_true(bytes != NULL);
  for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)(i * 31 >> 3);
  expect_kept(f, dibs_bytes(bytes, size));
  free(bytes);
}

static void payload_types_in_the_table(void **state) {
  fixture *f = *state;
  put(f, "q", "[1]");
  put(f, "q", NULL);
  expect_ok(f->db, dibs_enqueue(f->db, "q", dibs_bytes("x", 1), NULL, NULL));
  expect_text(raw_text(f, "SELECT group_concat(typeof(payload)) FROM"
                          " (SELECT payload FROM dibs_jobs ORDER BY id)"),
              "text,null,blob");
}

static void wrong_payloads_are_refused(void **state) {
  fixture *f = *state;
  static const char *const wrong[] = {"",     "{",      "nul",      "'a'",
                                      "[1,]", "{a:1}",  "\"\xFF\"", "1 2",
                                      "[1]]", "\"\n\"", "NaN"};
  for (size_t i = 0; i < COUNT(wrong); i++) {
    int status = dibs_enqueue(f->db, "q", dibs_json(wrong[i]), NULL, NULL);
    if (status != DIBS_INVALID) {
      fail_msg("payload %s: %s", wrong[i], dibs_status_name(status));
    }
    expect_says(dibs_error(f->db), "payload");
  }
  expect_status(
      f->db, dibs_enqueue(f->db, "q", dibs_json_sized("[1]\0", 4), NULL, NULL),
      DIBS_INVALID);
  dibs_payload unknown = {7, 0, "x", 1};
  expect_status(f->db, dibs_enqueue(f->db, "q", unknown, NULL, NULL),
                DIBS_INVALID);
  expect_int(counts(f, "q").ready, 0);
}

static void payload_limit_is_the_handles(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  options.max_payload = 10;
  expect_int(dibs_close(f->db), DIBS_OK);
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  expect_ok(f->db,
            dibs_enqueue(f->db, "q", dibs_bytes("0123456789", 10), NULL, NULL));
  expect_status(
      f->db,
      dibs_enqueue(f->db, "q", dibs_bytes("0123456789A", 11), NULL, NULL),
      DIBS_TOO_BIG);
  expect_says(dibs_error(f->db), "10");
  expect_status(f->db,
                dibs_enqueue(f->db, "q", dibs_json("[1,2,3,4,5]"), NULL, NULL),
                DIBS_TOO_BIG);
}

static void sixty_four_megabytes_are_the_limit(void **state) {
  fixture *f = *state;
  char *bytes = calloc(1, DIBS_PAYLOAD_MAX + 1);
  expect_true(bytes != NULL);
  expect_status(f->db,
                dibs_enqueue(f->db, "q",
                             dibs_bytes(bytes, DIBS_PAYLOAD_MAX + 1), NULL,
                             NULL),
                DIBS_TOO_BIG);
  expect_ok(f->db, dibs_enqueue(f->db, "q", dibs_bytes(bytes, DIBS_PAYLOAD_MAX),
                                NULL, NULL));
  expect_int(look(f, 1).payload_size, DIBS_PAYLOAD_MAX);
  free(bytes);
}

/* ---- Names --------------------------------------------------------------- */

static void names_have_rules(void **state) {
  fixture *f = *state;
  char longest[256];
  char longer[257];
  memset(longest, 'n', 255);
  longest[255] = '\0';
  memset(longer, 'n', 256);
  longer[256] = '\0';
  const char *const good[] = {
      "a",     "thumbs/user-42",   "/",     "a b", "\xC3\xA9",
      longest, "\xF0\x9F\x98\x80", "'; --", "a//"};
  const char *const wrong[] = {
      "",     longer,     "a*",       "*",    "a/*",   "a\tb",        "\x01",
      "\x7F", "\xC2\x80", "\xC2\x9F", "\xFF", "a\xC3", "\xED\xA0\x80"};
  for (size_t i = 0; i < COUNT(good); i++) {
    dibs_job_options options = no_options();
    options.name = good[i];
    options.key = good[i];
    options.limit_key = good[i];
    options.unique = good[i];
    int64_t id = put_with(f, good[i], "1", &options);
    expect_text(look(f, id).queue, good[i]);
    expect_text(look(f, id).name, good[i]);
    expect_text(look(f, id).key, good[i]);
  }
  for (size_t i = 0; i < COUNT(wrong); i++) {
    dibs_job_options options = no_options();
    expect_status(f->db, dibs_enqueue(f->db, wrong[i], dibs_none(), NULL, NULL),
                  DIBS_INVALID);
    expect_says(dibs_error(f->db), "queue");
    options.name = wrong[i];
    expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), &options, NULL),
                  DIBS_INVALID);
    expect_says(dibs_error(f->db), "name");
    options.name = NULL;
    options.key = wrong[i];
    expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), &options, NULL),
                  DIBS_INVALID);
    expect_says(dibs_error(f->db), "key");
    options.key = NULL;
    options.unique = wrong[i];
    expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), &options, NULL),
                  DIBS_INVALID);
    expect_says(dibs_error(f->db), "unique");
    options.unique = NULL;
    options.limit_key = wrong[i];
    expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), &options, NULL),
                  DIBS_INVALID);
    expect_says(dibs_error(f->db), "limit_key");
  }
  expect_int(counts(f, "q").ready, 0);
}

static void no_queue_is_the_default_queue(void **state) {
  fixture *f = *state;
  int64_t id = put(f, NULL, "1");
  expect_text(look(f, id).queue, DIBS_DEFAULT_QUEUE);
}

/* ---- Options ------------------------------------------------------------- */

/* One whole number among the options: bounds, and just beyond them. */
struct bound {
  const char *name;
  size_t offset;
  int64_t least;
  int64_t most;
};

#define TIME_MAX       INT64_C(253402300799999)
#define OFFSET(member) offsetof(dibs_job_options, member)

static int enqueue_number(fixture *f, const struct bound *bound,
                          int64_t value) {
  dibs_job_options options = no_options();
  memcpy((char *)&options + bound->offset, &value, sizeof value);
  return dibs_enqueue(f->db, "q", dibs_none(), &options, NULL);
}

static void numbers_have_bounds(void **state) {
  fixture *f = *state;
  static const struct bound bounds[] = {
      {"priority", OFFSET(priority), INT32_MIN, INT32_MAX},
      {"delay", OFFSET(delay), 0, INT64_MAX},
      {"at", OFFSET(at), 0, TIME_MAX},
      {"max_attempts", OFFSET(max_attempts), 0, INT64_MAX},
      {"max_crashes", OFFSET(max_crashes), 0, INT64_MAX},
      {"backoff", OFFSET(backoff), 0, INT64_MAX},
      {"backoff_cap", OFFSET(backoff_cap), 0, INT64_MAX},
      {"keep", OFFSET(keep), 0, INT64_MAX},
      {"lease", OFFSET(lease), 1, INT64_MAX},
  };
  for (size_t i = 0; i < COUNT(bounds); i++) {
    const struct bound *bound = &bounds[i];
    expect_ok(f->db, enqueue_number(f, bound, bound->least));
    expect_status(f->db, enqueue_number(f, bound, bound->least - 1),
                  DIBS_INVALID);
    expect_says(dibs_error(f->db), bound->name);
    if (bound->most == INT64_MAX) continue;
    expect_ok(f->db, enqueue_number(f, bound, bound->most));
    expect_status(f->db, enqueue_number(f, bound, bound->most + 1),
                  DIBS_INVALID);
    expect_says(dibs_error(f->db), bound->name);
  }
}

static int enqueue_backoff(fixture *f, double factor, double jitter) {
  dibs_job_options options = no_options();
  options.backoff_factor = factor;
  options.backoff_jitter = jitter;
  return dibs_enqueue(f->db, "q", dibs_none(), &options, NULL);
}

static void fractions_have_bounds(void **state) {
  fixture *f = *state;
  expect_ok(f->db, enqueue_backoff(f, 1, 0));
  expect_ok(f->db, enqueue_backoff(f, 100, 1));
  expect_status(f->db, enqueue_backoff(f, 0.99, 0), DIBS_INVALID);
  expect_says(dibs_error(f->db), "backoff_factor");
  expect_status(f->db, enqueue_backoff(f, INFINITY, 0), DIBS_INVALID);
  expect_status(f->db, enqueue_backoff(f, NAN, -0.01), DIBS_INVALID);
  expect_says(dibs_error(f->db), "backoff_jitter");
  expect_status(f->db, enqueue_backoff(f, NAN, 1.01), DIBS_INVALID);
}

static void choices_have_bounds(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.unique = "u";
  options.unique_scope = 2;
  expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), &options, NULL),
                DIBS_INVALID);
  expect_says(dibs_error(f->db), "unique_scope");
  options.unique_scope = DIBS_UNIQUE_ALL;
  options.on_conflict = 4;
  expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), &options, NULL),
                DIBS_INVALID);
  expect_says(dibs_error(f->db), "on_conflict");
  options.on_conflict = DIBS_CONFLICT_KEEP;
  options.unique_for = -3;
  expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), &options, NULL),
                DIBS_INVALID);
  expect_says(dibs_error(f->db), "unique_for");
  options = no_options();
  options.size = 1;
  expect_true(dibs_enqueue(f->db, "q", dibs_none(), &options, NULL) != DIBS_OK);
  options = no_options();
  options.delay = 1;
  options.at = START;
  expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), &options, NULL),
                DIBS_INVALID);
  expect_int(counts(f, "q").ready, 0);
}

static void headers_are_a_flat_object_of_strings(void **state) {
  fixture *f = *state;
  static const char *const wrong[] = {"",
                                      "x",
                                      "[]",
                                      "null",
                                      "\"a\"",
                                      "{\"a\":1}",
                                      "{\"a\":null}",
                                      "{\"a\":{}}",
                                      "{\"a\":\"b\"",
                                      "{\"a\":[]}"};
  dibs_job_options options = no_options();
  options.headers = "{ \"trace\" : \"1\", \"\":\"\" }";
  expect_text(look(f, put_with(f, "q", "1", &options)).headers,
              "{ \"trace\" : \"1\", \"\":\"\" }");
  options.headers = "{}";
  expect_text(look(f, put_with(f, "q", "1", &options)).headers, "{}");
  for (size_t i = 0; i < COUNT(wrong); i++) {
    options.headers = wrong[i];
    int status = dibs_enqueue(f->db, "q", dibs_none(), &options, NULL);
    if (status != DIBS_INVALID) {
      fail_msg("headers %s: %s", wrong[i], dibs_status_name(status));
    }
    expect_says(dibs_error(f->db), "headers");
  }
}

static void headers_have_a_limit(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  char *headers = malloc(DIBS_HEADERS_MAX + 2);
  expect_true(headers != NULL);
  memset(headers, 'x', DIBS_HEADERS_MAX + 1);
  memcpy(headers, "{\"a\":\"", 6);
  memcpy(headers + DIBS_HEADERS_MAX - 2, "\"}", 3);
  options.headers = headers;
  put_with(f, "q", "1", &options);
  memcpy(headers + DIBS_HEADERS_MAX - 2, "x\"}", 4);
  expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), &options, NULL),
                DIBS_TOO_BIG);
  free(headers);
}

static void options_are_kept_with_the_job(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.name = "send";
  options.priority = -7;
  options.max_attempts = 0;
  options.timeout = 5000;
  options.lease = 7000;
  options.expires = HOUR;
  options.key = "k";
  seen job = look(f, put_with(f, "q", "1", &options));
  expect_text(job.name, "send");
  expect_int(job.priority, -7);
  expect_int(job.max_attempts, 0);
  expect_int(job.timeout, 5000);
  expect_int(job.lease, 7000);
  expect_int(job.expires_at, START + HOUR);
  expect_text(job.key, "k");
  expect_int(job.created_at, START);
  expect_int(job.attempt, 0);
  expect_int(job.state, DIBS_READY);
}

static void unset_options_have_defaults(void **state) {
  fixture *f = *state;
  seen job = look(f, put(f, "q", "1"));
  expect_int(job.max_attempts, DIBS_DEFAULT_MAX_ATTEMPTS);
  expect_int(job.priority, 0);
  expect_int(job.timeout, DIBS_UNSET);
  expect_int(job.lease, DIBS_UNSET);
  expect_int(job.expires_at, DIBS_UNSET);
  expect_int(job.claimed_at, DIBS_UNSET);
  expect_int(job.lease_until, DIBS_UNSET);
  expect_int(job.finished_at, DIBS_UNSET);
  expect_int(job.due_at, START);
  expect_true(isnan(job.progress));
  expect_text(job.name, "");
}

/* ---- Time ---------------------------------------------------------------- */

static void a_delay_counts_from_now(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.delay = 5000;
  int64_t id = put_with(f, "q", "1", &options);
  expect_state(f, id, DIBS_SCHEDULED);
  expect_int(look(f, id).due_at, START + 5000);
  f->now = START + 4999;
  expect_nothing(f, "q");
  f->now = START + 5000;
  expect_int(try_take(f, "q"), id);
}

static void an_absolute_time_is_kept(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.at = START + DAY;
  int64_t later = put_with(f, "q", "1", &options);
  options.at = START - DAY;
  int64_t past = put_with(f, "q", "1", &options);
  options.at = START;
  int64_t now = put_with(f, "q", "1", &options);
  expect_state(f, later, DIBS_SCHEDULED);
  expect_state(f, past, DIBS_READY);
  expect_state(f, now, DIBS_READY);
  expect_int(look(f, past).due_at, START - DAY);
}

static void a_delay_beyond_time_is_the_last_time(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.delay = INT64_MAX;
  int status = dibs_enqueue(f->db, "q", dibs_none(), &options, NULL);
  if (status == DIBS_OK) {
    expect_int(look(f, 1).due_at, TIME_MAX);
  } else {
    expect_status(f->db, status, DIBS_INVALID);
  }
}

/* ---- Ids and batches ----------------------------------------------------- */

static void ids_increase_and_are_never_reused(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  int64_t last = put(f, "q", "1");
  for (int round = 0; round < 3; round++) {
    held job = take(f, "q");
    expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
    int64_t id = put(f, "q", "1");
    expect_true(id > last);
    expect_ok(f->db, dibs_clear(f->db, &queue, 1, 1, NULL));
    reopen(f);
    last = put(f, "q", "1");
    expect_true(last > id);
  }
  expect_ok(f->db, dibs_cancel(f->db, &last, 1, NULL, NULL));
  reopen(f);
  expect_true(put(f, "q", "1") > last);
}

static void a_batch_has_ids_in_order(void **state) {
  enum { BATCH = 10000 };
  fixture *f = *state;
  dibs_new_job *jobs = calloc(BATCH, sizeof *jobs);
  dibs_enqueued *results = calloc(BATCH, sizeof *results);
  expect_true(jobs != NULL && results != NULL);
  for (int i = 0; i < BATCH; i++) {
    jobs[i].queue = i % 2 ? "odd" : "even";
    jobs[i].payload = dibs_json(i % 3 ? "1" : "[2]");
  }
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, BATCH, results));
  for (int i = 0; i < BATCH; i++) {
    if (results[i].id != i + 1 || results[i].existing) {
      fail_msg("result %d: id %lld, existing %d", i, (long long)results[i].id,
               results[i].existing);
    }
  }
  expect_text(look(f, 2).queue, "odd");
  expect_text(look(f, 1).payload, "[2]");
  expect_int(counts(f, "odd").ready, BATCH / 2);
  expect_int(counts(f, "even").ready, BATCH / 2);
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, BATCH, NULL));
  expect_int(counts(f, "odd").ready, BATCH);
  free(jobs);
  free(results);
}

static void a_bad_job_spoils_its_batch(void **state) {
  fixture *f = *state;
  dibs_new_job jobs[5];
  dibs_enqueued results[5];
  memset(jobs, 0, sizeof jobs);
  for (size_t i = 0; i < COUNT(jobs); i++) jobs[i].payload = dibs_json("1");
  jobs[3].payload = dibs_json("{");
  expect_status(f->db, dibs_enqueue_many(f->db, jobs, COUNT(jobs), results),
                DIBS_INVALID);
  expect_int(dibs_error_index(f->db), 3);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
  jobs[3].payload = dibs_json("1");
  jobs[4].queue = "a*";
  expect_status(f->db, dibs_enqueue_many(f->db, jobs, COUNT(jobs), results),
                DIBS_INVALID);
  expect_int(dibs_error_index(f->db), 4);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
  jobs[4].queue = NULL;
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, COUNT(jobs), results));
  expect_int(dibs_error_index(f->db), -1);
  expect_int(results[0].id, 1);
}

static void an_empty_batch_does_nothing(void **state) {
  fixture *f = *state;
  expect_ok(f->db, dibs_enqueue_many(f->db, NULL, 0, NULL));
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
  expect_status(f->db, dibs_enqueue_many(f->db, NULL, 1, NULL), DIBS_MISUSE);
}

static void an_enqueued_job_survives_reopening(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "[1]");
  reopen(f);
  expect_text(look(f, id).payload, "[1]");
  expect_int(try_take(f, "q"), id);
}

/* ---- The inbox ----------------------------------------------------------- */

static void inbox_rows_are_jobs(void **state) {
  fixture *f = *state;
  raw_run(f,
          "INSERT INTO dibs_inbox(queue, payload, name, headers, priority,"
          " key) VALUES ('q', '{\"a\": 1}', 'send', '{\"h\":\"1\"}', 3, 'k');"
          "INSERT INTO dibs_inbox(queue, payload) VALUES ('q', x'00FF');"
          "INSERT INTO dibs_inbox(payload) VALUES (NULL)");
  seen job = look(f, 1);
  expect_int(job.state, DIBS_READY);
  expect_text(job.payload, "{\"a\": 1}");
  expect_int(job.payload_kind, DIBS_PAYLOAD_JSON);
  expect_text(job.name, "send");
  expect_text(job.headers, "{\"h\":\"1\"}");
  expect_text(job.key, "k");
  expect_int(job.priority, 3);
  expect_int(job.max_attempts, DIBS_DEFAULT_MAX_ATTEMPTS);
  expect_int(look(f, 2).payload_kind, DIBS_PAYLOAD_BYTES);
  expect_text(look(f, 3).queue, "default");
  expect_int(look(f, 3).payload_kind, DIBS_PAYLOAD_NONE);
  expect_int(try_take(f, "q"), 1);
  expect_int(try_take(f, "q"), 2);
  expect_int(try_take(f, "default"), 3);
}

static void inbox_rows_roll_back(void **state) {
  fixture *f = *state;
  raw_run(f, "BEGIN; INSERT INTO dibs_inbox(queue, payload) VALUES('q', '1');"
             " ROLLBACK");
  expect_nothing(f, "q");
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

static void inbox_rows_take_many_at_once(void **state) {
  fixture *f = *state;
  put(f, "q", "0");
  raw_run(f, "INSERT INTO dibs_inbox(queue, payload)"
             " WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c"
             " WHERE x < 100) SELECT 'q', json_array(x) FROM c");
  expect_int(counts(f, "q").ready, 101);
  expect_text(look(f, 101).payload, "[100]");
  expect_true(put(f, "q", "1") == 102);
}

static void inbox_rows_wait_for_their_time(void **state) {
  fixture *f = *state;
  int64_t real = raw_int(f, "SELECT CAST(round((julianday('now') - 2440587.5)"
                            " * 86400000) AS INTEGER)");
  raw_run(f,
          "INSERT INTO dibs_inbox(queue, delay_ms) VALUES ('q', 600000);"
          "INSERT INTO dibs_inbox(queue, due_at) VALUES ('q', %lld);"
          "INSERT INTO dibs_inbox(queue, delay_ms) VALUES ('q', 0)",
          (long long)(real + 300000));
  expect_state(f, 1, DIBS_SCHEDULED);
  expect_state(f, 2, DIBS_SCHEDULED);
  expect_state(f, 3, DIBS_READY);
  f->now = real + 1;
  expect_int(try_take(f, "q"), 3);
  expect_nothing(f, "q");
  f->now = real + 300000;
  expect_int(try_take(f, "q"), 2);
  f->now = real + 660000;
  expect_int(try_take(f, "q"), 1);
}

static void inbox_rows_stand_in_their_lane(void **state) {
  fixture *f = *state;
  raw_run(f, "INSERT INTO dibs_inbox(queue, key) VALUES ('q','k'),('q','k')");
  expect_state(f, 1, DIBS_READY);
  expect_state(f, 2, DIBS_BLOCKED);
  dibs_job_options options = no_options();
  options.key = "k";
  int64_t third = put_with(f, "q", "1", &options);
  expect_state(f, third, DIBS_BLOCKED);
  for (int64_t id = 1; id <= third; id++) {
    held job = take(f, "q");
    expect_int(job.id, id);
    expect_nothing(f, "q");
    expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  }
}

static void inbox_ids_are_never_reused(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  put(f, "q", "1");
  put(f, "q", "1");
  expect_ok(f->db, dibs_clear(f->db, &queue, 1, 1, NULL));
  raw_run(f, "INSERT INTO dibs_inbox(queue) VALUES ('q')");
  expect_int(try_take(f, "q"), 3);
}

static void inbox_refuses_what_enqueue_refuses(void **state) {
  static const struct {
    const char *row; /* columns and values */
    const char *says;
  } wrong[] = {
      {"(queue) VALUES ('')", "DIBS_INVALID: queue"},
      {"(queue) VALUES ('a*')", "DIBS_INVALID: queue"},
      {"(queue) VALUES ('a' || char(10))", "DIBS_INVALID: queue"},
      {"(queue) VALUES ('a' || char(133))", "DIBS_INVALID: queue"},
      {"(queue) VALUES ('a' || char(0))", "DIBS_INVALID: queue"},
      {"(queue) VALUES (5)", "DIBS_INVALID: queue"},
      {"(queue) VALUES (printf('%.256c', 'x'))", "DIBS_INVALID: queue"},
      {"(name) VALUES ('')", "DIBS_INVALID: name"},
      {"(name) VALUES ('a' || char(127))", "DIBS_INVALID: name"},
      {"(key) VALUES ('*')", "DIBS_INVALID: key"},
      {"(payload) VALUES (5)", "DIBS_INVALID: payload"},
      {"(payload) VALUES (5.5)", "DIBS_INVALID: payload"},
      {"(payload) VALUES ('{')", "DIBS_INVALID: payload"},
      {"(payload) VALUES ('')", "DIBS_INVALID: payload"},
      {"(payload) VALUES (zeroblob(67108865))", "DIBS_TOO_BIG: payload"},
      {"(headers) VALUES ('[]')", "DIBS_INVALID: headers"},
      {"(headers) VALUES ('{\"a\":1}')", "DIBS_INVALID: headers"},
      {"(headers) VALUES ('x')", "DIBS_INVALID: headers"},
      {"(headers) VALUES (json_object('a', printf('%.65536c', 'x')))",
       "DIBS_TOO_BIG: headers"},
      {"(priority) VALUES ('x')", "DIBS_INVALID: priority"},
      {"(priority) VALUES (2147483648)", "DIBS_INVALID: priority"},
      {"(delay_ms) VALUES (-1)", "DIBS_INVALID: delay_ms"},
      {"(delay_ms) VALUES (1.5)", "DIBS_INVALID: delay_ms"},
      {"(due_at) VALUES (-1)", "DIBS_INVALID: due_at"},
      {"(due_at) VALUES ('2026-01-01')", "DIBS_INVALID: due_at"},
      {"(delay_ms, due_at) VALUES (1, 1)", "DIBS_INVALID: give"},
  };
  fixture *f = *state;
  for (size_t i = 0; i < COUNT(wrong); i++) {
    char message[512];
    int code = raw_try(f, message, "INSERT INTO dibs_inbox%s", wrong[i].row);
    if (code != SQLITE_CONSTRAINT || !strstr(message, wrong[i].says)) {
      fail_msg("%s: %d %s, expected %s", wrong[i].row, code, message,
               wrong[i].says);
    }
  }
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
}

/* The conflict clause of the outer statement overrides those of a trigger. */
static void inbox_or_replace_harms_nothing(void **state) {
  fixture *f = *state;
  put(f, "q", "1");
  raw_run(f, "INSERT OR REPLACE INTO dibs_inbox(queue, payload)"
             " VALUES ('q', '2'), ('r', '3'), ('q', '4')");
  expect_int(counts(f, "q").ready, 3);
  expect_int(counts(f, "r").ready, 1);
  expect_text(look(f, 1).payload, "1");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(payloads_are_kept_exactly),
      TEST(a_megabyte_is_kept_exactly),
      TEST(payload_types_in_the_table),
      TEST(wrong_payloads_are_refused),
      TEST(payload_limit_is_the_handles),
      TEST(sixty_four_megabytes_are_the_limit),
      TEST(names_have_rules),
      TEST(no_queue_is_the_default_queue),
      TEST(numbers_have_bounds),
      TEST(fractions_have_bounds),
      TEST(choices_have_bounds),
      TEST(headers_are_a_flat_object_of_strings),
      TEST(headers_have_a_limit),
      TEST(options_are_kept_with_the_job),
      TEST(unset_options_have_defaults),
      TEST(a_delay_counts_from_now),
      TEST(an_absolute_time_is_kept),
      TEST(a_delay_beyond_time_is_the_last_time),
      TEST(ids_increase_and_are_never_reused),
      TEST(a_batch_has_ids_in_order),
      TEST(a_bad_job_spoils_its_batch),
      TEST(an_empty_batch_does_nothing),
      TEST(an_enqueued_job_survives_reopening),
      TEST(inbox_rows_are_jobs),
      TEST(inbox_rows_roll_back),
      TEST(inbox_rows_take_many_at_once),
      TEST(inbox_rows_wait_for_their_time),
      TEST(inbox_rows_stand_in_their_lane),
      TEST(inbox_ids_are_never_reused),
      TEST(inbox_refuses_what_enqueue_refuses),
      TEST(inbox_or_replace_harms_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
