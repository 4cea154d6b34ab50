/* SPDX-License-Identifier: MIT */
/*
** test_values.c: what needs no database: statuses, names, payloads, durations,
** times, and jobs to and from JSON.
*/
#include "harness.h"

#include <locale.h>

/* ---- Names of numbers ---------------------------------------------------- */

static void every_status_has_name_and_exit_code(void **state) {
  static const struct {
    int number;
    const char *name;
    int exit_code;
    const char *meaning;
  } all[] = {
#define ROW(number, name, exit_code, meaning)                                  \
  {number, "DIBS_" #name, exit_code, meaning},
    DIBS_STATUS_MAP(ROW)
#undef ROW
  };
  (void)state;
  for (size_t i = 0; i < COUNT(all); i++) {
    expect_int(all[i].number, i);
    expect_text(dibs_status_name(all[i].number), all[i].name);
    expect_text(dibs_status_meaning(all[i].number), all[i].meaning);
    expect_int(dibs_status_exit_code(all[i].number), all[i].exit_code);
  }
  expect_text(dibs_status_name((int)COUNT(all)), NULL);
  expect_text(dibs_status_name(-1), NULL);
  expect_text(dibs_status_meaning(-1), NULL);
  expect_int(dibs_status_exit_code(99), 9);
}

static void statuses_are_fixed_numbers(void **state) {
  (void)state;
  expect_int(DIBS_OK, 0);
  expect_int(DIBS_EMPTY, 1);
  expect_int(DIBS_LOST, 3);
  expect_int(DIBS_INVALID, 7);
  expect_int(DIBS_BUSY, 9);
  expect_int(DIBS_INTERRUPTED, 21);
}

static void states_and_outcomes_have_names(void **state) {
  static const char *const states[] = {
      "ready", "scheduled", "blocked", "staged", "running", "done", "dead"};
  (void)state;
  for (int i = 0; i < (int)COUNT(states); i++) {
    expect_text(dibs_state_name(i + 1), states[i]);
    expect_int(dibs_state_number(states[i]), i + 1);
  }
  expect_text(dibs_state_name(0), NULL);
  expect_text(dibs_state_name(8), NULL);
  expect_int(dibs_state_number("leased"), 0);
  expect_int(dibs_state_number(""), 0);
  expect_text(dibs_outcome_name(DIBS_ACKED), "acked");
  expect_text(dibs_outcome_name(DIBS_CANCELLED), "cancelled");
  expect_text(dibs_outcome_name(DIBS_EXPIRED), "expired");
  expect_text(dibs_outcome_name(DIBS_DISCARDED), "discarded");
  expect_text(dibs_outcome_name(0), NULL);
  expect_text(dibs_outcome_name(5), NULL);
}

static void version_functions_agree_with_macros(void **state) {
  (void)state;
  expect_text(dibs_version(), DIBS_VERSION);
  expect_int(dibs_version_number(), DIBS_VERSION_NUMBER);
}

/* ---- Payloads ------------------------------------------------------------ */

static void payloads_keep_pointer_and_size(void **state) {
  const char *json = "{\"a\":1}";
  (void)state;
  expect_int(dibs_json(json).kind, DIBS_PAYLOAD_JSON);
  expect_true(dibs_json(json).data == json);
  expect_int(dibs_json(json).size, 7);
  expect_int(dibs_json(NULL).kind, DIBS_PAYLOAD_NONE);
  expect_int(dibs_json_sized(json, 3).size, 3);
  expect_int(dibs_json_sized(json, 3).kind, DIBS_PAYLOAD_JSON);
  expect_int(dibs_bytes("\0\1", 2).kind, DIBS_PAYLOAD_BYTES);
  expect_int(dibs_bytes("\0\1", 2).size, 2);
  expect_int(dibs_bytes(NULL, 0).kind, DIBS_PAYLOAD_BYTES);
  expect_int(dibs_none().kind, DIBS_PAYLOAD_NONE);
  expect_int(dibs_none().size, 0);
}

static void options_begin_unset(void **state) {
  dibs_job_options options;
  (void)state;
  memset(&options, 0x5A, sizeof options);
  dibs_job_options_init(&options);
  expect_int(options.size, sizeof options);
  expect_text(options.name, NULL);
  expect_text(options.headers, NULL);
  expect_int(options.priority, DIBS_UNSET);
  expect_int(options.delay, DIBS_UNSET);
  expect_int(options.at, DIBS_UNSET);
  expect_int(options.expires, DIBS_UNSET);
  expect_int(options.max_attempts, DIBS_UNSET);
  expect_int(options.max_crashes, DIBS_UNSET);
  expect_int(options.backoff, DIBS_UNSET);
  expect_true(isnan(options.backoff_factor));
  expect_int(options.backoff_cap, DIBS_UNSET);
  expect_true(isnan(options.backoff_jitter));
  expect_int(options.lease, DIBS_UNSET);
  expect_int(options.timeout, DIBS_UNSET);
  expect_int(options.keep, DIBS_UNSET);
  expect_text(options.key, NULL);
  expect_text(options.limit_key, NULL);
  expect_text(options.unique, NULL);
  expect_int(options.unique_for, DIBS_UNSET);
  expect_int(options.unique_scope, DIBS_UNIQUE_DEFAULT);
  expect_int(options.on_conflict, DIBS_CONFLICT_DEFAULT);
  expect_int(options.stage, DIBS_UNSET);
}

/* ---- Durations ----------------------------------------------------------- */

static void durations_are_read(void **state) {
  static const struct {
    const char *text;
    int64_t ms;
  } good[] = {
      {"250ms", 250},
      {"30s", 30 * SECOND},
      {"5m", 5 * MINUTE},
      {"2h", 2 * HOUR},
      {"7d", 7 * DAY},
      {"1", SECOND},
      {"1.5", 1500},
      {"0", 0},
      {"0.25s", 250},
      {"1.5h", 90 * MINUTE},
      {"0.0004", 0},
      {"0.0005", 1},
      {"100000d", 100000 * DAY},
      {"007s", 7 * SECOND},
      {"0ms", 0},
  };
  (void)state;
  for (size_t i = 0; i < COUNT(good); i++) {
    int64_t ms = -1;
    int status = dibs_parse_duration(good[i].text, &ms);
    if (status != DIBS_OK || ms != good[i].ms) {
      fail_msg("\"%s\": %s, %lld ms, expected %lld", good[i].text,
               dibs_status_name(status), (long long)ms, (long long)good[i].ms);
    }
  }
}

static void wrong_durations_are_refused(void **state) {
  static const char *const wrong[] = {
      "",
      " ",
      "s",
      "-1s",
      "+1s",
      "1 s",
      " 1s",
      "1s ",
      "1S",
      "1w",
      "1y",
      "1e3",
      "0x1",
      "1.5.",
      ".5",
      "5.",
      "1.2.3",
      "inf",
      "nan",
      "1,5",
      "1m30s",
      "1us",
      "99999999999999d",
      "111111111111111111111111111111111111111111",
  };
  (void)state;
  for (size_t i = 0; i < COUNT(wrong); i++) {
    int64_t ms = -1;
    int status = dibs_parse_duration(wrong[i], &ms);
    if (status != DIBS_INVALID || ms != -1) {
      fail_msg("\"%s\": %s, %lld ms, expected DIBS_INVALID", wrong[i],
               dibs_status_name(status), (long long)ms);
    }
  }
  expect_int(dibs_parse_duration(NULL, NULL), DIBS_INVALID);
}

/* A host may have set a locale whose decimal point is a comma. */
static void numbers_do_not_depend_on_the_locale(void **state) {
  fixture *f = *state;
  const char *json = "{\"backoff_factor\":1.5}";
  dibs_parsed_job *parsed = NULL;
  int64_t ms = 0;
  /* CI makes this locale; a test of nothing would look like a passed one. */
  if (!setlocale(LC_NUMERIC, "de_DE.UTF-8"))
    fail_msg("there is no locale de_DE.UTF-8: run ci/test packages");
  int duration = dibs_parse_duration("1.5s", &ms);
  int options = dibs_parse_job(f->db, json, strlen(json), &parsed);
  double factor = parsed ? parsed->job.options->backoff_factor : 0;
  dibs_job job = {.progress = 0.25};
  char *text = NULL;
  int written = dibs_job_json(&job, &text);
  setlocale(LC_NUMERIC, "C");
  dibs_parsed_job_free(parsed);
  expect_int(duration, DIBS_OK);
  expect_int(ms, 1500);
  expect_int(options, DIBS_OK);
  expect_true(factor > 1.49 && factor < 1.51);
  expect_int(written, DIBS_OK);
  expect_true(strstr(text, "{\"done\":0.25}") != NULL);
  dibs_free(text);
}

/* ---- Times --------------------------------------------------------------- */

static void times_are_read(void **state) {
  static const struct {
    const char *text;
    int64_t ms;
  } good[] = {
      {"1970-01-01T00:00:00Z", 0},
      {"1970-01-01T00:00:00.001Z", 1},
      {"2026-01-31T12:00:00.250Z", INT64_C(1769860800250)},
      {"2026-01-31 12:00:00.250Z", INT64_C(1769860800250)},
      {"2026-01-31t12:00:00.25z", INT64_C(1769860800250)},
      {"2026-01-31T14:00:00.250+02:00", INT64_C(1769860800250)},
      {"2026-01-31T06:30:00.2509-05:30", INT64_C(1769860800250)},
      {"2024-02-29T00:00:00Z", INT64_C(1709164800000)},
      {"2000-02-29T23:59:59Z", INT64_C(951868799000)},
      {"1969-12-31T23:59:59.999Z", -1},
      {"2016-12-31T23:59:60Z", INT64_C(1483228800000)},
      {"9999-12-31T23:59:59.999Z", INT64_C(253402300799999)},
  };
  (void)state;
  for (size_t i = 0; i < COUNT(good); i++) {
    int64_t ms = -7;
    int status = dibs_parse_time(good[i].text, &ms);
    if (status != DIBS_OK || ms != good[i].ms) {
      fail_msg("\"%s\": %s, %lld, expected %lld", good[i].text,
               dibs_status_name(status), (long long)ms, (long long)good[i].ms);
    }
  }
}

static void wrong_times_are_refused(void **state) {
  static const char *const wrong[] = {
      "",
      "now",
      "2026-01-31",
      "2026-01-31T12:00Z",
      "2026-01-31T12:00:00",
      "2026-1-31T12:00:00Z",
      "2026-13-01T12:00:00Z",
      "2026-00-01T12:00:00Z",
      "2026-02-29T12:00:00Z",
      "2100-02-29T12:00:00Z",
      "2026-04-31T12:00:00Z",
      "2026-01-00T12:00:00Z",
      "2026-01-31T24:00:00Z",
      "2026-01-31T12:60:00Z",
      "2026-01-31T12:00:61Z",
      "2026-01-31T12:00:00.Z",
      "2026-01-31T12:00:00,5Z",
      "2026-01-31T12:00:00Z ",
      " 2026-01-31T12:00:00Z",
      "2026-01-31T12:00:00+2:00",
      "2026-01-31T12:00:00+0200",
      "2026-01-31T12:00:00+24:00",
      "2026-01-31T12:00:00+02:60",
      "2026-01-31X12:00:00Z",
      "+026-01-31T12:00:00Z",
      "9999-12-31T23:59:59-01:00",
  };
  (void)state;
  for (size_t i = 0; i < COUNT(wrong); i++) {
    int64_t ms = -7;
    int status = dibs_parse_time(wrong[i], &ms);
    if (status != DIBS_INVALID || ms != -7) {
      fail_msg("\"%s\": %s, %lld, expected DIBS_INVALID", wrong[i],
               dibs_status_name(status), (long long)ms);
    }
  }
  expect_int(dibs_parse_time(NULL, NULL), DIBS_INVALID);
}

static void times_are_written(void **state) {
  char text[DIBS_TIME_SIZE];
  (void)state;
  expect_text(dibs_format_time(0, text), "1970-01-01T00:00:00.000Z");
  expect_text(dibs_format_time(-1, text), "1969-12-31T23:59:59.999Z");
  expect_text(dibs_format_time(INT64_C(1769860800250), text),
              "2026-01-31T12:00:00.250Z");
  expect_text(dibs_format_time(INT64_MAX, text), "9999-12-31T23:59:59.999Z");
  expect_text(dibs_format_time(INT64_MIN, text), "0000-01-01T00:00:00.000Z");
  expect_true(dibs_format_time(0, text) == text);
}

/* Every day of eight hundred years, written, read, and one day apart. */
static void times_survive_writing_and_reading(void **state) {
  char text[DIBS_TIME_SIZE];
  (void)state;
  for (int64_t day = -146097; day < 146097; day++) {
    int64_t time = day * DAY + (day & 0xFFFFF) % DAY;
    int64_t read = 0;
    dibs_format_time(time, text);
    if (dibs_parse_time(text, &read) != DIBS_OK || read != time) {
      fail_msg("%lld became %s became %lld", (long long)time, text,
               (long long)read);
    }
  }
}

/* ---- Jobs to JSON -------------------------------------------------------- */

static dibs_job empty_job(void) {
  dibs_job job;
  memset(&job, 0, sizeof job);
  job.id = 7;
  job.queue = "q";
  job.state = DIBS_READY;
  job.priority = 0;
  job.attempt = 0;
  job.max_attempts = 20;
  job.crashes = 0;
  job.created_at = 0;
  job.due_at = 0;
  job.claimed_at = DIBS_UNSET;
  job.lease_until = DIBS_UNSET;
  job.finished_at = DIBS_UNSET;
  job.progress = NAN;
  job.timeout = DIBS_UNSET;
  job.lease = DIBS_UNSET;
  job.expires_at = DIBS_UNSET;
  return job;
}

static void job_json_leaves_out_what_is_absent(void **state) {
  dibs_job job = empty_job();
  char *json = NULL;
  (void)state;
  expect_int(dibs_job_json(&job, &json), DIBS_OK);
  expect_says(json, "\"id\":7");
  expect_says(json, "\"queue\":\"q\"");
  expect_says(json, "\"state\":\"ready\"");
  expect_says(json, "\"created_at\":\"1970-01-01T00:00:00.000Z\"");
  expect_true(strstr(json, "payload") == NULL);
  expect_true(strstr(json, "outcome") == NULL);
  expect_true(strstr(json, "claimed_at") == NULL);
  expect_true(strstr(json, "receipt") == NULL);
  expect_true(strstr(json, "progress") == NULL);
  expect_true(strstr(json, "errors") == NULL);
  expect_true(strchr(json, '\n') == NULL);
  dibs_free(json);
}

static void job_json_embeds_payload_on_one_line(void **state) {
  dibs_job job = empty_job();
  char *json = NULL;
  (void)state;
  job.payload =
      dibs_json("{\n  \"a b\" : [ 1,\t2 ],\r\n \"c\" : \" x\\\" \" }");
  expect_int(dibs_job_json(&job, &json), DIBS_OK);
  expect_says(json, "\"payload\":{\"a b\":[1,2],\"c\":\" x\\\" \"}");
  expect_true(strpbrk(json, "\r\n") == NULL);
  dibs_free(json);
  job.payload = dibs_json("null");
  expect_int(dibs_job_json(&job, &json), DIBS_OK);
  expect_says(json, "\"payload\":null");
  dibs_free(json);
}

static void job_json_shows_bytes_as_base64(void **state) {
  static const struct {
    const char *bytes;
    size_t size;
    const char *base64;
  } cases[] = {
      {"", 0, "\"payload_base64\":\"\""},
      {"\0", 1, "\"payload_base64\":\"AA==\""},
      {"\xFF\xFE", 2, "\"payload_base64\":\"//4=\""},
      {"Man", 3, "\"payload_base64\":\"TWFu\""},
      {"light work.", 11, "\"payload_base64\":\"bGlnaHQgd29yay4=\""},
  };
  (void)state;
  for (size_t i = 0; i < COUNT(cases); i++) {
    dibs_job job = empty_job();
    char *json = NULL;
    job.payload = dibs_bytes(cases[i].bytes, cases[i].size);
    expect_int(dibs_job_json(&job, &json), DIBS_OK);
    expect_says(json, cases[i].base64);
    dibs_free(json);
  }
}

static void job_json_has_every_member(void **state) {
  static const dibs_job_error error = {2, 5000, 17, "w", "it \"broke\"\n"};
  dibs_job job = empty_job();
  char *json = NULL;
  (void)state;
  job.name = "send";
  job.state = DIBS_DONE;
  job.outcome = DIBS_ACKED;
  job.priority = -5;
  job.headers = "{\"trace\":\"1\"}";
  job.key = "user/42";
  job.attempt = 2;
  job.crashes = 1;
  job.claimed_at = 1000;
  job.finished_at = 3000;
  job.lease_until = 4000;
  job.worker = "w\x01";
  job.receipt = "7:9";
  job.last_error = "it broke";
  job.progress = 0.5;
  job.progress_text = "half";
  job.result = "[1, 2]";
  job.timeout = 60000;
  job.errors = &error;
  job.error_count = 1;
  expect_int(dibs_job_json(&job, &json), DIBS_OK);
  expect_says(json, "\"name\":\"send\"");
  expect_says(json, "\"state\":\"done\"");
  expect_says(json, "\"outcome\":\"acked\"");
  expect_says(json, "\"priority\":-5");
  expect_says(json, "\"headers\":{\"trace\":\"1\"}");
  expect_says(json, "\"key\":\"user/42\"");
  expect_says(json, "\"attempt\":2");
  expect_says(json, "\"max_attempts\":20");
  expect_says(json, "\"crashes\":1");
  expect_says(json, "\"claimed_at\":\"1970-01-01T00:00:01.000Z\"");
  expect_says(json, "\"finished_at\":\"1970-01-01T00:00:03.000Z\"");
  expect_says(json, "\"lease_until\":\"1970-01-01T00:00:04.000Z\"");
  expect_says(json, "\"worker\":\"w\\u0001\"");
  expect_says(json, "\"receipt\":\"7:9\"");
  expect_says(json, "\"last_error\":\"it broke\"");
  expect_says(json, "\"progress\":{\"done\":0.5,\"text\":\"half\"}");
  expect_says(json, "\"result\":[1,2]");
  expect_says(json, "\"errors\":[{\"attempt\":2");
  expect_says(json, "\"ms\":17");
  expect_says(json, "\"text\":\"it \\\"broke\\\"\\n\"");
  dibs_free(json);
}

/* ---- Jobs from JSON ------------------------------------------------------ */

static dibs_parsed_job *parse(fixture *f, const char *json) {
  dibs_parsed_job *parsed = NULL;
  expect_ok(f->db, dibs_parse_job(f->db, json, strlen(json), &parsed));
  return parsed;
}

static void job_is_read_from_json(void **state) {
  fixture *f = *state;
  dibs_parsed_job *parsed = parse(
      f, "{\"queue\":\"mail\",\"payload\":{\"a\": [1, 2]},\"name\":\"send\","
         "\"headers\":{\"trace\":\"1\"},\"priority\":-3,\"delay\":\"5m\","
         "\"expires\":\"2h\",\"max_attempts\":3,\"max_crashes\":0,"
         "\"backoff\":1.5,\"backoff_factor\":1,\"backoff_cap\":\"1d\","
         "\"backoff_jitter\":0,\"lease\":\"90s\",\"timeout\":\"250ms\","
         "\"keep\":\"7d\",\"key\":\"k\",\"limit_key\":\"l\",\"unique\":\"u\","
         "\"unique_for\":\"start\",\"unique_scope\":\"all\","
         "\"on_conflict\":\"reject\",\"stage\":10}");
  const dibs_job_options *options = parsed->job.options;
  expect_text(parsed->job.queue, "mail");
  expect_int(parsed->job.payload.kind, DIBS_PAYLOAD_JSON);
  expect_int(parsed->job.payload.size, 13);
  expect_int(memcmp(parsed->job.payload.data, "{\"a\": [1, 2]}", 13), 0);
  expect_text(options->name, "send");
  expect_text(options->headers, "{\"trace\":\"1\"}");
  expect_int(options->priority, -3);
  expect_int(options->delay, 5 * MINUTE);
  expect_int(options->at, DIBS_UNSET);
  expect_int(options->expires, 2 * HOUR);
  expect_int(options->max_attempts, 3);
  expect_int(options->max_crashes, 0);
  expect_int(options->backoff, 1500);
  expect_true(options->backoff_factor == 1);
  expect_int(options->backoff_cap, DAY);
  expect_true(options->backoff_jitter == 0);
  expect_int(options->lease, 90 * SECOND);
  expect_int(options->timeout, 250);
  expect_int(options->keep, 7 * DAY);
  expect_text(options->key, "k");
  expect_text(options->limit_key, "l");
  expect_text(options->unique, "u");
  expect_int(options->unique_for, DIBS_UNIQUE_UNTIL_START);
  expect_int(options->unique_scope, DIBS_UNIQUE_ALL);
  expect_int(options->on_conflict, DIBS_CONFLICT_REJECT);
  expect_int(options->stage, 10 * SECOND);
  dibs_parsed_job_free(parsed);
}

static void job_from_json_may_say_nothing(void **state) {
  fixture *f = *state;
  dibs_parsed_job *parsed = parse(f, "{}");
  expect_text(parsed->job.queue, NULL);
  expect_int(parsed->job.payload.kind, DIBS_PAYLOAD_NONE);
  expect_ok(f->db, dibs_enqueue_many(f->db, &parsed->job, 1, NULL));
  dibs_parsed_job_free(parsed);
  expect_int(counts(f, "default").ready, 1);
}

static void json_times_are_text_or_milliseconds(void **state) {
  fixture *f = *state;
  dibs_parsed_job *parsed = parse(f, "{\"at\":\"2026-01-31T12:00:00.250Z\"}");
  expect_int(parsed->job.options->at, INT64_C(1769860800250));
  dibs_parsed_job_free(parsed);
  parsed = parse(f, "{\"at\":1769860800250}");
  expect_int(parsed->job.options->at, INT64_C(1769860800250));
  dibs_parsed_job_free(parsed);
}

static void json_unique_for_takes_words_and_durations(void **state) {
  fixture *f = *state;
  dibs_parsed_job *parsed = parse(f, "{\"unique_for\":\"finish\"}");
  expect_int(parsed->job.options->unique_for, DIBS_UNIQUE_UNTIL_FINISH);
  dibs_parsed_job_free(parsed);
  parsed = parse(f, "{\"unique_for\":\"1h\",\"unique_scope\":\"queue\"}");
  expect_int(parsed->job.options->unique_for, HOUR);
  expect_int(parsed->job.options->unique_scope, DIBS_UNIQUE_QUEUE);
  dibs_parsed_job_free(parsed);
}

static void json_strings_are_unescaped(void **state) {
  fixture *f = *state;
  dibs_parsed_job *parsed =
      parse(f, "{\"queue\":\"a\\u002Fb\",\"name\":\"\\u00e9\\ud83d\\ude00"
               "\\\"\\\\\\/\"}");
  expect_text(parsed->job.queue, "a/b");
  expect_text(parsed->job.options->name, "\xC3\xA9\xF0\x9F\x98\x80\"\\/");
  dibs_parsed_job_free(parsed);
}

static void json_base64_becomes_bytes(void **state) {
  fixture *f = *state;
  dibs_parsed_job *parsed = parse(f, "{\"payload_base64\":\"AP8=\"}");
  expect_int(parsed->job.payload.kind, DIBS_PAYLOAD_BYTES);
  expect_int(parsed->job.payload.size, 2);
  expect_int(memcmp(parsed->job.payload.data, "\0\xFF", 2), 0);
  dibs_parsed_job_free(parsed);
  parsed = parse(f, "{\"payload_base64\":\"\"}");
  expect_int(parsed->job.payload.kind, DIBS_PAYLOAD_BYTES);
  expect_int(parsed->job.payload.size, 0);
  dibs_parsed_job_free(parsed);
}

static void json_null_payload_is_a_payload(void **state) {
  fixture *f = *state;
  dibs_parsed_job *parsed = parse(f, " { \"payload\" : null } ");
  expect_int(parsed->job.payload.kind, DIBS_PAYLOAD_JSON);
  expect_int(parsed->job.payload.size, 4);
  dibs_parsed_job_free(parsed);
}

static void wrong_json_jobs_are_refused_by_name(void **state) {
  static const struct {
    const char *json;
    const char *says;
  } wrong[] = {
      {"", "JSON"},
      {"[]", "object"},
      {"5", "object"},
      {"{\"queue\":\"q\"", "JSON"},
      {"{\"queue\":5}", "queue"},
      {"{\"colour\":\"red\"}", "colour"},
      {"{\"priority\":\"high\"}", "priority"},
      {"{\"priority\":1.5}", "priority"},
      {"{\"delay\":\"soon\"}", "delay"},
      {"{\"delay\":true}", "delay"},
      {"{\"at\":\"tomorrow\"}", "at"},
      {"{\"payload_base64\":\"*\"}", "payload_base64"},
      {"{\"payload_base64\":5}", "payload_base64"},
      {"{\"payload\":1,\"payload_base64\":\"AA==\"}", "payload"},
      {"{\"unique_scope\":\"world\"}", "unique_scope"},
      {"{\"on_conflict\":\"panic\"}", "on_conflict"},
      {"{\"unique_for\":\"ever\"}", "unique_for"},
      {"{\"max_attempts\":\"3\"}", "max_attempts"},
      {"{\"backoff_factor\":\"2\"}", "backoff_factor"},
      {"{\"name\":\"a\\u0000b\"}", "name"},
  };
  fixture *f = *state;
  for (size_t i = 0; i < COUNT(wrong); i++) {
    dibs_parsed_job *parsed = NULL;
    int status =
        dibs_parse_job(f->db, wrong[i].json, strlen(wrong[i].json), &parsed);
    if (status != DIBS_INVALID || parsed != NULL ||
        strstr(dibs_error(f->db), wrong[i].says) == NULL) {
      fail_msg("%s: %s (%s), expected DIBS_INVALID that says %s", wrong[i].json,
               dibs_status_name(status), dibs_error(f->db), wrong[i].says);
    }
  }
}

static void written_job_payload_reads_back(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "{\"deep\":[[[\"\\\"}\"]],{\"x\":[]}]}");
  dibs_job_list *list = NULL;
  char *json = NULL;
  expect_ok(f->db, dibs_get(f->db, id, &list));
  expect_int(dibs_job_json(&list->jobs[0], &json), DIBS_OK);
  expect_says(json, "\"payload\":{\"deep\":[[[\"\\\"}\"]],{\"x\":[]}]}");
  dibs_free(json);
  dibs_job_list_free(list);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_status_has_name_and_exit_code),
      cmocka_unit_test(statuses_are_fixed_numbers),
      cmocka_unit_test(states_and_outcomes_have_names),
      cmocka_unit_test(version_functions_agree_with_macros),
      cmocka_unit_test(payloads_keep_pointer_and_size),
      cmocka_unit_test(options_begin_unset),
      cmocka_unit_test(durations_are_read),
      cmocka_unit_test(wrong_durations_are_refused),
      TEST(numbers_do_not_depend_on_the_locale),
      cmocka_unit_test(times_are_read),
      cmocka_unit_test(wrong_times_are_refused),
      cmocka_unit_test(times_are_written),
      cmocka_unit_test(times_survive_writing_and_reading),
      cmocka_unit_test(job_json_leaves_out_what_is_absent),
      cmocka_unit_test(job_json_embeds_payload_on_one_line),
      cmocka_unit_test(job_json_shows_bytes_as_base64),
      cmocka_unit_test(job_json_has_every_member),
      TEST(job_is_read_from_json),
      TEST(job_from_json_may_say_nothing),
      TEST(json_times_are_text_or_milliseconds),
      TEST(json_unique_for_takes_words_and_durations),
      TEST(json_strings_are_unescaped),
      TEST(json_base64_becomes_bytes),
      TEST(json_null_payload_is_a_payload),
      TEST(wrong_json_jobs_are_refused_by_name),
      TEST(written_job_payload_reads_back),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
