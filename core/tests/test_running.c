/* SPDX-License-Identifier: MIT */
/*
** test_running.c: what is done while jobs run and wait: checkpoints, progress,
** queues that are paused and resumed, and waiting for a job to end.
**
** Processes that crash or settle are children, forked while no handle is open.
** Who waits is a thread; it has begun to wait when it has looked twice.
*/
#include "harness.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *const all_queues[] = {DIBS_ALL};
static const char *const one_queue[] = {"q"};

/* A job of queue "q", claimed. */
static held claimed(fixture *f, const dibs_job_options *options) {
  put_with(f, "q", "[1]", options);
  return take(f, "q");
}

static dibs_job_options kept(void) {
  dibs_job_options options = no_options();
  options.keep = DIBS_FOREVER;
  return options;
}

static int checkpoint(fixture *f, const char *receipt, const char *json) {
  return dibs_checkpoint(f->db, receipt, dibs_json(json), DIBS_UNSET);
}

/* The payload that the next claim on "q" gives must be this. The job is given
** back. */
static void expect_next_payload(fixture *f, dibs_payload wanted) {
  dibs_job_list *jobs = NULL;
  expect_ok(f->db, dibs_claim(f->db, one_queue, 1, NULL, &jobs));
  const dibs_payload *payload = &jobs->jobs[0].payload;
  expect_int(payload->kind, wanted.kind);
  expect_int(payload->size, wanted.size);
  expect_true(!wanted.size || !memcmp(payload->data, wanted.data, wanted.size));
  expect_ok(f->db, dibs_release(f->db, jobs->jobs[0].receipt));
  dibs_job_list_free(jobs);
}

/* ---- Checkpoint ------------------------------------------------------------ */

static void a_retry_gets_the_checkpoint(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_ok(f->db, checkpoint(f, job.receipt, "{\"page\" : 7}"));
  expect_text(look(f, job.id).payload, "{\"page\" : 7}");
  expect_ok(f->db, checkpoint(f, job.receipt, "{\"page\" : 8}"));
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "x", NULL));
  expect_next_payload(f, dibs_json("{\"page\" : 8}"));
}

static void whoever_comes_next_gets_the_checkpoint(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_ok(f->db, checkpoint(f, job.receipt, "\"released\""));
  expect_ok(f->db, dibs_release(f->db, job.receipt));
  expect_next_payload(f, dibs_json("\"released\""));
  job = take_for(f, "q", SECOND);
  expect_ok(f->db, checkpoint(f, job.receipt, "\"lapsed\""));
  f->now += SECOND;
  expect_next_payload(f, dibs_json("\"lapsed\""));
}

static void a_dead_job_keeps_its_checkpoint(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_ok(f->db, checkpoint(f, job.receipt, "[2]"));
  expect_ok(f->db, dibs_fail(f->db, job.receipt, "x"));
  expect_text(look(f, job.id).payload, "[2]");
  expect_ok(f->db, dibs_requeue(f->db, &job.id, 1, NULL, NULL));
  expect_next_payload(f, dibs_json("[2]"));
}

/* An ack of such a job does not read it: see LEASED_REMOVE_PLAIN. */
static void an_ack_behind_a_checkpoint_ends_the_job(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_ok(f->db, checkpoint(f, job.receipt, "[2]"));
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  expect_gone(f, job.id);
}

static void payloads_are_kept_exactly(void **state) {
  fixture *f = *state;
  char large[20001];
  memset(large, 'x', sizeof large - 1);
  large[0] = large[sizeof large - 2] = '"';
  large[sizeof large - 1] = '\0';
  const dibs_payload payloads[] = {
      dibs_json(" { \"b\" : 1,\n\t\"a\" : [ ] } "),
      dibs_json("null"),
      dibs_json(large),
      dibs_bytes("\0\xff{", 3),
      dibs_bytes("", 0),
      dibs_json("\"\\u00e9 \xC3\xA9 \xF0\x9F\x98\x80\""),
  };
  put(f, "q", "[1]");
  for (size_t i = 0; i < COUNT(payloads); i++) {
    held job = take(f, "q");
    expect_ok(f->db,
              dibs_checkpoint(f->db, job.receipt, payloads[i], DIBS_UNSET));
    expect_ok(f->db, dibs_release(f->db, job.receipt));
    expect_next_payload(f, payloads[i]);
  }
}

static void no_payload_leaves_it_as_it_is(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_ok(f->db,
            dibs_checkpoint(f->db, job.receipt, dibs_none(), DIBS_UNSET));
  expect_text(look(f, job.id).payload, "[1]");
  expect_int(look(f, job.id).lease_until, job.lease_until);
  expect_ok(f->db, dibs_checkpoint(f->db, job.receipt, dibs_none(), HOUR));
  expect_text(look(f, job.id).payload, "[1]");
  expect_int(look(f, job.id).lease_until, START + HOUR);
  expect_ok(f->db, dibs_enqueue(f->db, "empty", dibs_none(), NULL, NULL));
  job = take(f, "empty");
  expect_ok(f->db,
            dibs_checkpoint(f->db, job.receipt, dibs_none(), DIBS_UNSET));
  expect_int(look(f, job.id).payload_kind, DIBS_PAYLOAD_NONE);
}

static void nothing_else_of_the_job_changes(void **state) {
  fixture *f = *state;
  dibs_job_options options = kept();
  options.name = "n";
  options.headers = "{\"a\":\"b\"}";
  options.key = "k";
  options.unique = "u";
  options.priority = 5;
  options.expires = HOUR;
  held job = claimed(f, &options);
  seen before = look(f, job.id);
  expect_ok(f->db, checkpoint(f, job.receipt, "[2]"));
  seen after = look(f, job.id);
  expect_text(after.payload, "[2]");
  memcpy(after.payload, before.payload, sizeof after.payload);
  expect_true(isnan(before.progress) && isnan(after.progress));
  before.progress = after.progress = 0;
  expect_true(!memcmp(&before, &after, sizeof before));
}

static void what_is_no_payload_is_refused(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  options.max_payload = 10;
  expect_int(dibs_close(f->db), DIBS_OK);
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  held job = claimed(f, NULL);
  expect_ok(f->db, checkpoint(f, job.receipt, "\"23456789\""));
  expect_status(f->db, checkpoint(f, job.receipt, "\"234567890\""),
                DIBS_TOO_BIG);
  dibs_payload wrong[] = {
      dibs_json("{"),
      dibs_json(""),
      dibs_json("\"\xFF\""),
      dibs_json_sized("1\0", 2),
      {.kind = 7, .data = "1", .size = 1},
  };
  for (size_t i = 0; i < COUNT(wrong); i++) {
    /* With a lease, which must not be taken either. */
    int status = dibs_checkpoint(f->db, job.receipt, wrong[i], HOUR);
    if (status != DIBS_INVALID) {
      fail_msg("payload %zu: %s", i, dibs_status_name(status));
    }
    expect_says(dibs_error(f->db), "payload");
  }
  expect_text(look(f, job.id).payload, "\"23456789\"");
  expect_int(look(f, job.id).lease_until, job.lease_until);
}

static void a_checkpoint_never_shortens_the_lease(void **state) {
  fixture *f = *state;
  put(f, "q", "[1]");
  held job = take_for(f, "q", 10000);
  f->now += 5000;
  expect_ok(f->db,
            dibs_checkpoint(f->db, job.receipt, dibs_json("[2]"), 10000));
  expect_int(look(f, job.id).lease_until, START + 15000);
  expect_ok(f->db, dibs_checkpoint(f->db, job.receipt, dibs_json("[3]"), 1));
  expect_int(look(f, job.id).lease_until, START + 15000);
  expect_text(look(f, job.id).payload, "[3]");
  static const int64_t wrong[] = {0, -1, INT64_MAX};
  for (size_t i = 0; i < COUNT(wrong); i++) {
    expect_status(
        f->db, dibs_checkpoint(f->db, job.receipt, dibs_json("[4]"), wrong[i]),
        DIBS_INVALID);
    expect_says(dibs_error(f->db), "lease");
  }
  expect_text(look(f, job.id).payload, "[3]");
  f->now = START + 14999;
  expect_nothing(f, "q");
  f->now = START + 15000;
  expect_int(try_take(f, "q"), job.id);
}

/* What is tried with a receipt that holds no more must be LOST and leave the
** job as it was. */
static void expect_untouched(fixture *f, int64_t id, const char *receipt) {
  dibs_job_list *list = NULL;
  char *before = NULL, *after = NULL;
  expect_ok(f->db, dibs_get(f->db, id, &list));
  expect_int(dibs_job_json(&list->jobs[0], &before), DIBS_OK);
  dibs_job_list_free(list);
  expect_status(f->db,
                dibs_checkpoint(f->db, receipt, dibs_json("[\"stale\"]"), HOUR),
                DIBS_LOST);
  expect_status(f->db, dibs_checkpoint(f->db, receipt, dibs_none(), HOUR),
                DIBS_LOST);
  expect_status(f->db, dibs_progress(f->db, receipt, 0.9, "stale"), DIBS_LOST);
  expect_true(*dibs_error(f->db) != '\0');
  expect_ok(f->db, dibs_get(f->db, id, &list));
  expect_int(dibs_job_json(&list->jobs[0], &after), DIBS_OK);
  dibs_job_list_free(list);
  expect_text(after, before);
  dibs_free(before);
  dibs_free(after);
}

static void a_stale_receipt_changes_nothing(void **state) {
  fixture *f = *state;
  dibs_job_options options = kept();
  held job = claimed(f, &options);
  expect_ok(f->db, dibs_release(f->db, job.receipt));
  expect_untouched(f, job.id, job.receipt);
  held again = take_for(f, "q", SECOND);
  expect_untouched(f, job.id, job.receipt); /* somebody else's now */
  f->now += SECOND;
  expect_untouched(f, job.id, again.receipt); /* its lease is over */
  again = take(f, "q");
  expect_ok(f->db, dibs_fail(f->db, again.receipt, "x"));
  expect_untouched(f, job.id, again.receipt);
  expect_ok(f->db, dibs_cancel(f->db, &job.id, 1, NULL, NULL));
  expect_untouched(f, job.id, again.receipt);
  held acked = claimed(f, &options);
  expect_ok(f->db, dibs_ack(f->db, acked.receipt, NULL));
  expect_untouched(f, acked.id, acked.receipt);
  held gone_by = claimed(f, NULL);
  expect_ok(f->db, dibs_ack(f->db, gone_by.receipt, NULL));
  expect_status(f->db, checkpoint(f, gone_by.receipt, "[2]"), DIBS_LOST);
  expect_status(f->db, dibs_progress(f->db, gone_by.receipt, 1, NULL),
                DIBS_LOST);
}

static void what_is_no_receipt_is_invalid(void **state) {
  fixture *f = *state;
  static const char *const wrong[] = {NULL, "", "x", "1", "1:", "1:zz", ":1"};
  held job = claimed(f, NULL);
  for (size_t i = 0; i < COUNT(wrong); i++) {
    expect_status(f->db, checkpoint(f, wrong[i], "[2]"), DIBS_INVALID);
    expect_says(dibs_error(f->db), "receipt");
    expect_status(f->db, dibs_progress(f->db, wrong[i], 0.5, NULL),
                  DIBS_INVALID);
    expect_says(dibs_error(f->db), "receipt");
  }
  expect_text(look(f, job.id).payload, "[1]");
}

static void a_checkpoint_leaves_the_others_of_its_batch(void **state) {
  fixture *f = *state;
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_settlement s[3];
  dibs_job_list *jobs = NULL;
  for (int i = 0; i < 3; i++) put(f, "q", "[1]");
  options.n = 3;
  expect_ok(f->db, dibs_claim(f->db, one_queue, 1, &options, &jobs));
  expect_int(jobs->count, 3);
  expect_ok(f->db, checkpoint(f, jobs->jobs[1].receipt, "[2]"));
  expect_text(look(f, jobs->jobs[0].id).payload, "[1]");
  expect_text(look(f, jobs->jobs[1].id).payload, "[2]");
  expect_text(look(f, jobs->jobs[2].id).payload, "[1]");
  memset(s, 0, sizeof s);
  for (size_t i = 0; i < 3; i++) {
    s[i].receipt = jobs->jobs[i].receipt;
    s[i].action = i == 1 ? DIBS_RELEASE : DIBS_ACK;
  }
  expect_ok(f->db, dibs_settle(f->db, s, 3));
  for (size_t i = 0; i < 3; i++) expect_int(s[i].status, DIBS_OK);
  expect_next_payload(f, dibs_json("[2]"));
  dibs_job_list_free(jobs);
}

/* Within the application's transaction it comes and goes with that. */
static void a_checkpoint_is_part_of_the_transaction(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  dibs_db *attached = NULL;
  held job = claimed(f, NULL);
  sqlite3 *host = plain_open(f->path);
  expect_ok(attached, dibs_attach(host, NULL, &options, &attached));
  for (int commit = 0; commit <= 1; commit++) {
    expect_int(sqlite3_exec(host, "BEGIN IMMEDIATE", NULL, NULL, NULL), 0);
    expect_ok(attached,
              dibs_checkpoint(attached, job.receipt, dibs_json("[2]"), HOUR));
    expect_ok(attached, dibs_progress(attached, job.receipt, 0.5, "half"));
    expect_int(
        sqlite3_exec(host, commit ? "COMMIT" : "ROLLBACK", NULL, NULL, NULL),
        0);
    seen now = look(f, job.id);
    expect_text(now.payload, commit ? "[2]" : "[1]");
    expect_int(isnan(now.progress), !commit);
    expect_int(now.lease_until, commit ? START + HOUR : job.lease_until);
  }
  expect_int(dibs_close(attached), DIBS_OK);
  expect_int(sqlite3_close(host), SQLITE_OK);
}

/* ---- Progress ---------------------------------------------------------------- */

/* What get, list and the view say of a job's progress. */
static void expect_progress(fixture *f, int64_t id, double done,
                            const char *text, const char *json) {
  dibs_job_list *list = NULL;
  for (int listed = 0; listed <= 1; listed++) {
    expect_ok(f->db, listed ? dibs_list(f->db, NULL, 0, NULL, &list)
                            : dibs_get(f->db, id, &list));
    expect_int(list->count, 1);
    expect_true(list->jobs[0].progress == done);
    expect_text(list->jobs[0].progress_text, text);
    char *whole = NULL, part[400];
    expect_int(dibs_job_json(&list->jobs[0], &whole), DIBS_OK);
    snprintf(part, sizeof part, "\"progress\":%s", json);
    expect_says(whole, part);
    dibs_free(whole);
    dibs_job_list_free(list);
  }
  expect_text(raw_text(f, "SELECT progress FROM dibs_jobs WHERE id = %lld",
                       (long long)id),
              json);
}

static void progress_is_shown_everywhere(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_true(isnan(look(f, job.id).progress));
  expect_text(raw_text(f, "SELECT progress FROM dibs_jobs"), "");
  expect_ok(f->db, dibs_progress(f->db, job.receipt, 0.4, "page 7 of 18"));
  expect_progress(f, job.id, 0.4, "page 7 of 18",
                  "{\"done\":0.4,\"text\":\"page 7 of 18\"}");
  expect_int(look(f, job.id).lease_until, job.lease_until);
  expect_text(look(f, job.id).payload, "[1]");
}

static void progress_without_a_text_takes_the_old_one_away(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_ok(f->db, dibs_progress(f->db, job.receipt, 0.25, "a quarter"));
  expect_ok(f->db, dibs_progress(f->db, job.receipt, 0.5, NULL));
  expect_progress(f, job.id, 0.5, NULL, "{\"done\":0.5}");
  expect_ok(f->db, dibs_progress(f->db, job.receipt, 0.5, "\"\n\x01"));
  expect_progress(f, job.id, 0.5, "\"\n\x01",
                  "{\"done\":0.5,\"text\":\"\\\"\\n\\u0001\"}");
}

static void progress_is_from_0_to_1(void **state) {
  fixture *f = *state;
  static const double good[] = {0, 1, -0.0, 1e-9, 0x1p-1074, 1 - 0x1p-53};
  const double bad[] = {-0.001,      1 + 0x1p-52,      -1e300,           100,
                        (double)NAN, (double)INFINITY, -(double)INFINITY};
  held job = claimed(f, NULL);
  for (size_t i = 0; i < COUNT(good); i++) {
    expect_ok(f->db, dibs_progress(f->db, job.receipt, good[i], NULL));
    double seen_now = look(f, job.id).progress;
    expect_true(seen_now >= 0 && fabs(seen_now - good[i]) < 1e-15);
  }
  expect_ok(f->db, dibs_progress(f->db, job.receipt, 0.5, "before"));
  for (size_t i = 0; i < COUNT(bad); i++) {
    expect_status(f->db, dibs_progress(f->db, job.receipt, bad[i], "after"),
                  DIBS_INVALID);
    expect_says(dibs_error(f->db), "progress");
  }
  expect_status(f->db, dibs_progress(f->db, job.receipt, 0.6, "caf\xE9"),
                DIBS_INVALID);
  expect_progress(f, job.id, 0.5, "before",
                  "{\"done\":0.5,\"text\":\"before\"}");
}

static void a_long_text_is_cut_between_characters(void **state) {
  fixture *f = *state;
  char text[DIBS_NAME_MAX + 50];
  held job = claimed(f, NULL);
  /* With 0 to 2 letters in front, each place of a three-byte character falls
  ** on the limit. */
  for (int letters = 0; letters <= 2; letters++) {
    memset(text, 'x', sizeof text);
    for (size_t i = (size_t)letters; i < sizeof text; i++)
      text[i] = "\xE2\x82\xAC"[(i - (size_t)letters) % 3];
    text[letters + 3 * 97] = '\0';
    expect_ok(f->db, dibs_progress(f->db, job.receipt, 0.5, text));
    text[letters + (DIBS_NAME_MAX - letters) / 3 * 3] = '\0';
    expect_text(raw_text(f, "SELECT progress_text FROM dibs_leased"), text);
  }
  memset(text, 'x', sizeof text);
  text[DIBS_NAME_MAX] = '\0';
  expect_ok(f->db, dibs_progress(f->db, job.receipt, 0.5, text));
  expect_text(raw_text(f, "SELECT progress_text FROM dibs_leased"), text);
  expect_ok(f->db, dibs_progress(f->db, job.receipt, 0.5, ""));
  expect_int(raw_int(f, "SELECT progress_text IS '' FROM dibs_leased"), 1);
}

static void progress_stays_with_what_has_ended(void **state) {
  fixture *f = *state;
  static const char json[] = "{\"done\":0.5,\"text\":\"half\"}";
  dibs_job_options options = kept();
  for (int way = 0; way < 4; way++) {
    held job = claimed(f, &options);
    expect_ok(f->db, dibs_progress(f->db, job.receipt, 0.5, "half"));
    if (way == 0) expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
    if (way == 1) expect_ok(f->db, dibs_fail(f->db, job.receipt, "x"));
    if (way == 2) expect_ok(f->db, dibs_discard(f->db, job.receipt, NULL));
    if (way == 3) {
      expect_ok(f->db, dibs_cancel(f->db, &job.id, 1, NULL, NULL));
    }
    expect_progress(f, job.id, 0.5, "half", json);
    raw_run(f, "DELETE FROM dibs_job; DELETE FROM dibs_done;"
               "DELETE FROM dibs_dead; DELETE FROM dibs_error");
  }
}

static void the_next_attempt_begins_without_progress(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  expect_ok(f->db, dibs_progress(f->db, job.receipt, 0.5, "half"));
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "x", NULL));
  expect_true(isnan(look(f, job.id).progress));
  job = take(f, "q");
  expect_true(isnan(look(f, job.id).progress));
  expect_int(raw_int(f, "SELECT progress_text IS NULL FROM dibs_leased"), 1);
}

/* ---- Pause -------------------------------------------------------------------- */

/* Pause or resume one queue or pattern; how many were changed. */
static int64_t pause_one(fixture *f, const char *queue) {
  int64_t changed = -1;
  expect_ok(f->db, dibs_pause(f->db, &queue, 1, &changed));
  return changed;
}

static int64_t resume_one(fixture *f, const char *queue) {
  int64_t changed = -1;
  expect_ok(f->db, dibs_resume(f->db, &queue, 1, &changed));
  return changed;
}

/* The ids that a claim of up to 10 gives, as text. */
static const char *claim_ids(fixture *f, const char *const *queues,
                             size_t count, int in_order) {
  static char text[256];
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  size_t size = 0;
  text[0] = '\0';
  options.n = 10;
  options.in_order = in_order;
  int status = dibs_claim(f->db, queues, count, &options, &jobs);
  if (status == DIBS_EMPTY) return text;
  expect_status(f->db, status, DIBS_OK);
  for (size_t i = 0; i < jobs->count; i++) {
    size += (size_t)snprintf(text + size, sizeof text - size, "%s%lld",
                             i ? " " : "", (long long)jobs->jobs[i].id);
  }
  dibs_job_list_free(jobs);
  return text;
}

static void a_paused_queue_gives_its_jobs_to_nobody(void **state) {
  fixture *f = *state;
  static const char *const patterns[] = {"a/*", "b", "a/1"};
  dibs_job_list *jobs = NULL;
  put(f, "a/1", "1");
  put(f, "a/2", "2");
  put(f, "b", "3");
  expect_int(pause_one(f, "a/1"), 1);
  put(f, "a/1", "4");
  expect_nothing(f, "a/1");
  expect_text(claim_ids(f, patterns, 3, 1), "2 3");
  put(f, "a/2", "5");
  expect_text(claim_ids(f, patterns, 1, 0), "5");
  put(f, "b", "6");
  expect_text(claim_ids(f, all_queues, 1, 0), "6");
  expect_nothing(f, DIBS_ALL);
  expect_status(f->db, dibs_peek(f->db, all_queues, 1, 10, &jobs), DIBS_EMPTY);
  expect_status(f->db, dibs_peek(f->db, patterns + 2, 1, 10, &jobs),
                DIBS_EMPTY);
  expect_int(counts(f, "a/1").ready, 2);
  expect_int(counts(f, "a/1").paused, 1);
  expect_int(counts(f, "a/2").paused, 0);
  expect_state(f, 1, DIBS_READY);
  expect_int(resume_one(f, "a/1"), 1);
  expect_int(counts(f, "a/1").paused, 0);
  expect_text(claim_ids(f, all_queues, 1, 0), "1 4");
}

static void running_jobs_of_a_paused_queue_are_settled(void **state) {
  fixture *f = *state;
  dibs_job_options options = kept();
  static const int actions[] = {DIBS_ACK, DIBS_FAIL, DIBS_DISCARD};
  for (size_t i = 0; i < COUNT(actions) + 2; i++)
    put_with(f, "q", "1", &options);
  held jobs[5];
  for (size_t i = 0; i < COUNT(jobs); i++) jobs[i] = take(f, "q");
  expect_int(pause_one(f, "q"), 1);
  expect_ok(f->db, checkpoint(f, jobs[3].receipt, "[2]"));
  expect_ok(f->db, dibs_progress(f->db, jobs[3].receipt, 0.5, NULL));
  expect_ok(f->db, dibs_extend(f->db, jobs[3].receipt, HOUR, NULL));
  for (size_t i = 0; i < COUNT(actions); i++) {
    dibs_settlement s = {.receipt = jobs[i].receipt, .action = actions[i]};
    expect_ok(f->db, dibs_settle(f->db, &s, 1));
    expect_int(s.status, DIBS_OK);
    expect_int(s.state, actions[i] == DIBS_FAIL ? DIBS_DEAD : DIBS_DONE);
  }
  int where = 0;
  expect_ok(f->db, dibs_retry(f->db, jobs[3].receipt, 0, "x", &where));
  expect_int(where, DIBS_READY);
  expect_ok(f->db, dibs_release(f->db, jobs[4].receipt));
  /* The last claim found something, so this one does not look before it tries
  ** to take. */
  expect_nothing(f, DIBS_ALL);
  expect_nothing(f, "q");
  expect_int(counts(f, "q").ready, 2);
  resume_one(f, "q");
  expect_int(take(f, "q").id, jobs[3].id);
  expect_int(take(f, DIBS_ALL).id, jobs[4].id);
}

static void jobs_fall_due_in_a_paused_queue(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.delay = HOUR;
  int64_t delayed = put_with(f, "q", "1", &options);
  options.delay = DIBS_UNSET;
  options.backoff_jitter = 0;
  options.backoff = HOUR;
  held job = claimed(f, &options);
  expect_ok(f->db, dibs_retry(f->db, job.receipt, DIBS_UNSET, "x", NULL));
  put(f, "q", "1");
  held lapsing = take_for(f, "q", MINUTE);
  expect_int(pause_one(f, "q"), 1);
  f->now += HOUR;
  expect_nothing(f, "q");
  expect_nothing(f, DIBS_ALL);
  expect_state(f, delayed, DIBS_READY);
  expect_state(f, job.id, DIBS_READY);
  expect_state(f, lapsing.id, DIBS_READY);
  expect_nothing(f, DIBS_ALL);
  expect_int(resume_one(f, "q"), 1);
  expect_text(claim_ids(f, all_queues, 1, 0), "1 2 3");
}

/* An idle claim on a paused queue with jobs takes no write lock: a worker that
** waits for it costs nothing. */
static void a_claim_on_a_paused_queue_only_looks(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  put(f, "q", "1");
  pause_one(f, "q");
  expect_int(dibs_close(f->db), DIBS_OK);
  options.busy_timeout = 0;
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  sqlite3 *locker = plain_open(f->path);
  expect_int(sqlite3_exec(locker, "BEGIN IMMEDIATE", NULL, NULL, NULL), 0);
  expect_nothing(f, "q");
  expect_nothing(f, DIBS_ALL);
  sqlite3_close(locker);
}

static void lanes_go_on_in_a_paused_queue(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.key = "k";
  held head = claimed(f, &options);
  int64_t next = put_with(f, "q", "2", &options);
  int64_t last = put_with(f, "q", "3", &options);
  pause_one(f, "q");
  expect_ok(f->db, dibs_ack(f->db, head.receipt, NULL));
  expect_state(f, next, DIBS_READY);
  expect_state(f, last, DIBS_BLOCKED);
  expect_nothing(f, "q");
  resume_one(f, "q");
  expect_int(try_take(f, "q"), next);
  expect_nothing(f, "q");
}

/* Whatever puts a job into a paused queue. */
static void nothing_gets_a_paused_queue_going(void **state) {
  fixture *f = *state;
  dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;
  dibs_job_options options = no_options();
  dibs_new_job many[3] = {{"q", dibs_json("1"), NULL},
                          {"q", dibs_json("2"), NULL},
                          {"q", dibs_json("3"), NULL}};
  held dead = claimed(f, NULL);
  expect_ok(f->db, dibs_fail(f->db, dead.receipt, "x"));
  options.stage = HOUR;
  int64_t staged = put_with(f, "q", "1", &options);
  options.stage = DIBS_UNSET;
  options.delay = HOUR;
  int64_t delayed = put_with(f, "q", "1", &options);
  pause_one(f, "q");
  expect_ok(f->db, dibs_enqueue_many(f->db, many, 3, NULL));
  expect_ok(f->db, dibs_commit(f->db, staged));
  expect_ok(f->db, dibs_requeue(f->db, &dead.id, 1, NULL, NULL));
  change.delay = 0;
  change.priority = 5;
  expect_ok(f->db, dibs_change(f->db, delayed, &change));
  raw_run(f, "INSERT INTO dibs_inbox(queue, payload) VALUES ('q', '1')");
  expect_int(counts(f, "q").ready, 7);
  expect_nothing(f, "q");
  expect_nothing(f, DIBS_ALL);
  int64_t removed = 0;
  expect_ok(f->db, dibs_clear(f->db, one_queue, 1, 0, &removed));
  expect_int(removed, 7);
  expect_int(counts(f, "q").paused, 1);
  resume_one(f, "q");
  expect_nothing(f, DIBS_ALL);
}

static void a_queue_that_nobody_used_can_be_paused(void **state) {
  fixture *f = *state;
  expect_int(resume_one(f, "new"), 0);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_queue"), 0);
  expect_int(pause_one(f, "new/*"), 0);
  expect_int(pause_one(f, DIBS_ALL), 0);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_queue"), 0);
  expect_int(pause_one(f, "new"), 1);
  expect_int(counts(f, "new").paused, 1);
  expect_ok(f->db, dibs_prune(f->db, NULL));
  int64_t id = put(f, "new", "1");
  put(f, "new/1", "1");
  expect_nothing(f, "new");
  expect_int(try_take(f, "new/*"), id + 1);
  expect_int(resume_one(f, "new"), 1);
  expect_int(try_take(f, "new"), id);
  expect_ok(f->db, dibs_ack(f->db, claimed(f, NULL).receipt, NULL));
  expect_ok(f->db, dibs_prune(f->db, NULL));
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_queue WHERE name = 'q'"), 0);
}

static void pause_and_resume_count_what_they_change(void **state) {
  fixture *f = *state;
  static const char *const names[] = {"a", "a/1", "a/2", "a/2/x", "ab"};
  static const char *const several[] = {"a/1", "a", "a/1", "none", "a/*"};
  int64_t changed = -1;
  for (size_t i = 0; i < COUNT(names); i++) put(f, names[i], "1");
  expect_int(pause_one(f, "a/*"), 3);
  expect_int(pause_one(f, "a/*"), 0);
  expect_int(resume_one(f, "a/2/*"), 1);
  expect_ok(f->db, dibs_pause(f->db, several, COUNT(several), &changed));
  expect_int(changed, 3); /* a, a/2/x and the new one */
  expect_int(counts(f, "ab").paused, 0);
  expect_int(pause_one(f, DIBS_ALL), 1);
  expect_ok(f->db, dibs_resume(f->db, several, COUNT(several), NULL));
  expect_text(claim_ids(f, all_queues, 1, 0), "1 2 3 4");
  expect_int(counts(f, "ab").paused, 1);
  expect_int(resume_one(f, DIBS_ALL), 1);
  expect_text(claim_ids(f, all_queues, 1, 0), "5");
}

static void wrong_patterns_pause_nothing(void **state) {
  fixture *f = *state;
  static const char *const wrong[] = {"a*", "", "/*", "a/**", "a\nb", NULL};
  int64_t changed;
  put(f, "q", "1");
  for (size_t i = 0; i < COUNT(wrong); i++) {
    const char *const patterns[] = {"q", wrong[i]};
    changed = -1;
    expect_status(f->db, dibs_pause(f->db, patterns, 2, &changed),
                  DIBS_INVALID);
    expect_int(changed, 0);
  }
  expect_status(f->db, dibs_pause(f->db, NULL, 0, &changed), DIBS_INVALID);
  expect_status(f->db, dibs_pause(f->db, NULL, 1, &changed), DIBS_MISUSE);
  expect_int(counts(f, "q").paused, 0);
  pause_one(f, "q");
  expect_status(f->db, dibs_resume(f->db, NULL, 0, NULL), DIBS_INVALID);
  expect_status(f->db, dibs_resume(f->db, wrong, 1, NULL), DIBS_INVALID);
  expect_int(counts(f, "q").paused, 1);
}

/* What a handle remembers of a queue, another one has changed. */
static void a_pause_is_seen_by_every_handle(void **state) {
  fixture *f = *state;
  dibs_db *mine = f->db, *other = open_another(f);
  for (int round = 0; round < 3; round++) {
    int64_t id = put(f, "q", "1");
    expect_int(try_take(f, "q"), id);
    f->db = other;
    expect_int(pause_one(f, "q"), 1);
    f->db = mine;
    id = put(f, "q", "1");
    expect_nothing(f, "q");
    f->db = other;
    expect_nothing(f, DIBS_ALL);
    expect_int(resume_one(f, "q"), 1);
    f->db = mine;
    expect_int(try_take(f, round % 2 ? "q" : DIBS_ALL), id);
  }
  dibs_close(other);
}

/* ---- Who waits ------------------------------------------------------------------ */

#define PATIENCE (60 * SECOND) /* after which what does not end has failed */

/* A call that waits, on a thread of its own. */
struct waiter {
  pthread_t thread;
  _Atomic int looks; /* at its job, or for one: how many it has begun */
  dibs_db *db;
  int64_t id; /* to wait for; of a claim: what it gave */
  int64_t timeout;
  int status;
  int state; /* as dibs_await() gave them */
  int outcome;
  int given; /* nonzero: there was a job */
  char payload[32];
};

static _Thread_local struct waiter *self;

static void count_look(const char *sql) {
  if (self && (strstr(sql, "FROM dibs_job j WHERE id") ||
               strstr(sql, "AND NOT q.paused") || strstr(sql, "WITH q(id)"))) {
    self->looks++;
  }
}

static void *await_job(void *context) {
  struct waiter *w = self = context;
  dibs_job_list *job = NULL;
  w->status = dibs_await(w->db, w->id, w->timeout, &w->state, &job);
  w->given = job != NULL;
  if (job && job->count == 1) {
    w->outcome = job->jobs[0].outcome;
    snprintf(w->payload, sizeof w->payload, "%s",
             (const char *)job->jobs[0].payload.data);
  }
  dibs_job_list_free(job);
  return NULL;
}

static void *claim_job(void *context) {
  struct waiter *w = self = context;
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  options.wait = w->timeout;
  w->status = dibs_claim(w->db, one_queue, 1, &options, &jobs);
  w->id = jobs ? jobs->jobs[0].id : 0;
  dibs_job_list_free(jobs);
  return NULL;
}

static void wait_for_looks(const struct waiter *w, int count) {
  struct timespec pause = {.tv_nsec = 100000};
  for (int i = 0; w->looks < count; i++) {
    if (i == 600000) fail_msg("nobody looked for a minute");
    nanosleep(&pause, NULL);
  }
}

/* Begin to wait. At the second look the first one is over. */
static void waiter_start(struct waiter *w, void *(*run)(void *)) {
  expect_int(pthread_create(&w->thread, NULL, run, w), 0);
  wait_for_looks(w, 2);
}

/* Two looks, of which the second one sees what is there now. */
static void wait_for_look(const struct waiter *w) {
  wait_for_looks(w, w->looks + 2);
}

static void waiter_open(struct waiter *w, fixture *f, int64_t id) {
  *w = (struct waiter){.db = open_another(f), .id = id, .timeout = PATIENCE};
}

/* Wait for the end. The status must be as wanted. */
static void waiter_end(struct waiter *w, int wanted) {
  pthread_join(w->thread, NULL);
  expect_status(w->db, w->status, wanted);
  expect_int(dibs_close(w->db), DIBS_OK);
}

/* ---- Resume and who waits ---------------------------------------------------------- */

static void a_resume_ends_a_waiting_claim(void **state) {
  fixture *f = *state;
  struct waiter w;
  int64_t id = put(f, "q", "1");
  pause_one(f, "q");
  waiter_open(&w, f, 0);
  waiter_start(&w, claim_job);
  resume_one(f, "q");
  waiter_end(&w, DIBS_OK);
  expect_int(w.id, id);
}

/* The handles of the next two tests have the machine's clock: with the
** fixture's a waiter looks by itself all the time. */
static dibs_open_options real_options(fixture *f) {
  dibs_open_options options = fixture_options(f);
  options.clock = NULL;
  return options;
}

static void a_resume_wakes(void **state) {
  fixture *f = *state;
  dibs_open_options options = real_options(f);
  expect_int(dibs_close(f->db), DIBS_OK);
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  int locks = monitors_stop(f);
  for (int i = 0; i < 20; i++) {
    struct waiter w = {.timeout = PATIENCE};
    int64_t id = put(f, "q", "1");
    expect_ok(w.db, dibs_open(f->path, &options, &w.db));
    pause_one(f, "q");
    waiter_start(&w, claim_job);
    resume_one(f, i % 2 ? "q" : DIBS_ALL);
    waiter_end(&w, DIBS_OK);
    expect_int(w.id, id);
  }
  expect_int(sidecar_counter(f, RESCUES), 0);
  close(locks);
}

/* ---- Await ------------------------------------------------------------------------- */

static void a_job_that_has_ended_is_given_at_once(void **state) {
  fixture *f = *state;
  dibs_job_options options = kept();
  dibs_job_list *job = NULL;
  int how = 0;
  held acked = claimed(f, &options);
  expect_ok(f->db, dibs_ack(f->db, acked.receipt, "[5]"));
  expect_ok(f->db, dibs_await(f->db, acked.id, 0, &how, &job));
  expect_int(how, DIBS_DONE);
  expect_int(job->count, 1);
  expect_int(job->jobs[0].id, acked.id);
  expect_int(job->jobs[0].outcome, DIBS_ACKED);
  expect_text(job->jobs[0].result, "[5]");
  expect_text(job->jobs[0].payload.data, "[1]");
  dibs_job_list_free(job);
  held failed = claimed(f, NULL);
  expect_ok(f->db, dibs_fail(f->db, failed.receipt, "broken"));
  expect_ok(f->db, dibs_await(f->db, failed.id, DIBS_FOREVER, &how, &job));
  expect_int(how, DIBS_DEAD);
  expect_text(job->jobs[0].last_error, "broken");
  dibs_job_list_free(job);
  expect_ok(f->db, dibs_await(f->db, failed.id, DIBS_UNSET, NULL, NULL));
}

static void what_is_not_there_is_not_waited_for(void **state) {
  fixture *f = *state;
  static const int64_t ids[] = {0, -1, 99, DIBS_ID_MAX, INT64_MIN};
  dibs_job_list *job = NULL;
  int how = 7;
  for (size_t i = 0; i < COUNT(ids); i++) {
    expect_status(f->db, dibs_await(f->db, ids[i], DIBS_FOREVER, &how, &job),
                  DIBS_NOT_FOUND);
    expect_true(job == NULL);
  }
  held acked = claimed(f, NULL);
  expect_ok(f->db, dibs_ack(f->db, acked.receipt, NULL));
  expect_status(f->db, dibs_await(f->db, acked.id, DIBS_FOREVER, &how, &job),
                DIBS_NOT_FOUND);
  expect_int(how, 7);
  int64_t id = put(f, "q", "1");
  expect_status(f->db, dibs_await(f->db, id, -1, &how, &job), DIBS_INVALID);
}

static void an_await_runs_out(void **state) {
  fixture *f = *state;
  dibs_job_list *job = NULL;
  struct timespec before, after;
  int how = 7;
  int64_t id = put(f, "q", "1");
  expect_status(f->db, dibs_await(f->db, id, 0, &how, &job), DIBS_EMPTY);
  expect_status(f->db, dibs_await(f->db, id, DIBS_UNSET, &how, &job),
                DIBS_EMPTY);
  clock_gettime(CLOCK_MONOTONIC, &before);
  expect_status(f->db, dibs_await(f->db, id, 30, &how, &job), DIBS_EMPTY);
  clock_gettime(CLOCK_MONOTONIC, &after);
  expect_true((after.tv_sec - before.tv_sec) * 1000 +
                  (after.tv_nsec - before.tv_nsec) / 1000000 >=
              29);
  expect_says(dibs_error(f->db), "wait ran out");
  expect_int(how, 7);
  expect_true(job == NULL);
  expect_state(f, id, DIBS_READY);
}

/* A host's connection cannot wait, but it can look. */
static void an_attached_handle_waits_for_nothing(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  dibs_db *attached = NULL;
  int how = 0;
  held failed = claimed(f, NULL);
  int64_t id = put(f, "q", "1");
  expect_ok(f->db, dibs_fail(f->db, failed.receipt, "x"));
  sqlite3 *host = plain_open(f->path);
  expect_ok(attached, dibs_attach(host, NULL, &options, &attached));
  expect_ok(attached, dibs_await(attached, failed.id, 0, &how, NULL));
  expect_int(how, DIBS_DEAD);
  expect_status(attached, dibs_await(attached, id, PATIENCE, &how, NULL),
                DIBS_MISUSE);
  expect_int(dibs_close(attached), DIBS_OK);
  expect_int(sqlite3_close(host), SQLITE_OK);
}

/* Wait for a job, end it in some way, and see how that is told. */
static void expect_end(fixture *f, const dibs_job_options *options, int action,
                       int wanted, int outcome) {
  struct waiter w;
  held job = claimed(f, options);
  expect_ok(f->db, checkpoint(f, job.receipt, "[\"end\"]"));
  waiter_open(&w, f, job.id);
  waiter_start(&w, await_job);
  if (action) {
    dibs_settlement s = {.receipt = job.receipt, .action = action};
    expect_ok(f->db, dibs_settle(f->db, &s, 1));
    expect_int(s.status, DIBS_OK);
  } else {
    expect_ok(f->db, dibs_cancel(f->db, &job.id, 1, NULL, NULL));
  }
  waiter_end(&w, DIBS_OK);
  expect_int(w.state, wanted);
  expect_int(w.outcome, outcome);
  expect_int(w.given, outcome || wanted == DIBS_DEAD);
  if (w.given) expect_text(w.payload, "[\"end\"]");
}

static void an_await_ends_with_the_job(void **state) {
  fixture *f = *state;
  dibs_job_options options = kept();
  expect_end(f, &options, DIBS_ACK, DIBS_DONE, DIBS_ACKED);
  expect_end(f, &options, DIBS_DISCARD, DIBS_DONE, DIBS_DISCARDED);
  expect_end(f, &options, 0, DIBS_DONE, DIBS_CANCELLED);
  expect_end(f, &options, DIBS_FAIL, DIBS_DEAD, 0);
  expect_end(f, NULL, DIBS_FAIL, DIBS_DEAD, 0);
  expect_end(f, NULL, DIBS_ACK, DIBS_DONE, 0);
  expect_end(f, NULL, DIBS_DISCARD, DIBS_DONE, 0);
  expect_end(f, NULL, 0, DIBS_DONE, 0);
}

static void an_await_follows_the_job_through_its_states(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  struct waiter w;
  options.key = "k";
  held head = claimed(f, &options);
  int64_t id = put_with(f, "q", "1", &options);
  waiter_open(&w, f, id); /* blocked */
  waiter_start(&w, await_job);
  expect_ok(f->db, dibs_ack(f->db, head.receipt, NULL));
  wait_for_look(&w); /* ready */
  held job = take(f, "q");
  expect_ok(f->db, dibs_snooze(f->db, job.receipt, HOUR));
  wait_for_look(&w); /* scheduled */
  f->now += HOUR;
  job = take(f, "q");
  wait_for_look(&w); /* running */
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "x", NULL));
  expect_ok(f->db, dibs_ack(f->db, take(f, "q").receipt, NULL));
  waiter_end(&w, DIBS_OK);
  expect_int(w.state, DIBS_DONE);
}

/* There is nobody who claims, and so lets time go on. */
static void an_await_lets_time_go_on(void **state) {
  fixture *f = *state;
  dibs_job_options options = kept();
  struct waiter w;
  options.expires = HOUR;
  int64_t id = put_with(f, "q", "1", &options);
  waiter_open(&w, f, id);
  waiter_start(&w, await_job);
  f->now += HOUR;
  waiter_end(&w, DIBS_OK);
  expect_int(w.state, DIBS_DONE);
  expect_int(w.outcome, DIBS_EXPIRED);
  options = no_options();
  options.stage = HOUR;
  id = put_with(f, "q", "1", &options);
  waiter_open(&w, f, id);
  waiter_start(&w, await_job);
  f->now += HOUR;
  waiter_end(&w, DIBS_OK);
  expect_int(w.given, 0);
  expect_status(f->db, dibs_commit(f->db, id), DIBS_LATE);
  options = no_options();
  options.max_attempts = 1;
  put_with(f, "q", "1", &options);
  held job = take_for(f, "q", MINUTE);
  waiter_open(&w, f, job.id);
  waiter_start(&w, await_job);
  expect_ok(f->db, dibs_extend(f->db, job.receipt, HOUR, NULL));
  f->now += HOUR - 1;
  wait_for_look(&w);
  expect_state(f, job.id, DIBS_RUNNING);
  f->now += 1;
  waiter_end(&w, DIBS_OK);
  expect_int(w.state, DIBS_DEAD);
  expect_says(look(f, job.id).last_error, "lease");
}

/* A look after a bounded number of expired ones, which are as many steps. */
static void an_await_gets_past_a_backlog(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  struct waiter w;
  int64_t id = 0;
  options.expires = HOUR;
  for (int i = 0; i < 500; i++) id = put_with(f, "q", "1", &options);
  waiter_open(&w, f, id);
  waiter_start(&w, await_job);
  f->now += HOUR;
  waiter_end(&w, DIBS_OK);
  expect_int(w.state, DIBS_DONE);
  expect_int(counts(f, "q").expired, 500);
}

/* Who waits for a job that has time takes no write lock. */
static void an_idle_await_only_looks(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  dibs_job_options job = no_options();
  job.expires = HOUR;
  int64_t id = put_with(f, "q", "1", &job);
  take_for(f, "q", HOUR);
  expect_int(dibs_close(f->db), DIBS_OK);
  options.busy_timeout = 0;
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  sqlite3 *locker = plain_open(f->path);
  expect_int(sqlite3_exec(locker, "BEGIN IMMEDIATE", NULL, NULL, NULL), 0);
  expect_status(f->db, dibs_await(f->db, id, 20, NULL, NULL), DIBS_EMPTY);
  f->now += HOUR;
  expect_status(f->db, dibs_await(f->db, id, 20, NULL, NULL), DIBS_BUSY);
  sqlite3_close(locker);
}

static void the_end_of_a_job_wakes_those_who_wait(void **state) {
  fixture *f = *state;
  dibs_open_options options = real_options(f);
  expect_int(dibs_close(f->db), DIBS_OK);
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  int locks = monitors_stop(f);
  for (int i = 0; i < 10; i++) {
    struct waiter all[3] = {{.db = NULL}};
    held job = claimed(f, NULL);
    for (size_t j = 0; j < COUNT(all); j++) {
      all[j].id = job.id;
      all[j].timeout = PATIENCE;
      expect_ok(f->db, dibs_open(f->path, &options, &all[j].db));
      waiter_start(&all[j], await_job);
    }
    if (i % 2) expect_ok(f->db, dibs_fail(f->db, job.receipt, "x"));
    if (i % 2 == 0) expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
    for (size_t j = 0; j < COUNT(all); j++) {
      waiter_end(&all[j], DIBS_OK);
      expect_int(all[j].state, i % 2 ? DIBS_DEAD : DIBS_DONE);
    }
  }
  expect_int(sidecar_counter(f, RESCUES), 0);
  close(locks);
}

static void many_wait_for_one_job(void **state) {
  fixture *f = *state;
  struct waiter all[12];
  dibs_job_options options = kept();
  held job = claimed(f, &options);
  int64_t other = put(f, "q", "1");
  for (size_t i = 0; i < COUNT(all); i++) {
    waiter_open(&all[i], f, i ? job.id : other);
    waiter_start(&all[i], await_job);
  }
  expect_ok(f->db, dibs_ack(f->db, job.receipt, NULL));
  for (size_t i = 1; i < COUNT(all); i++) {
    waiter_end(&all[i], DIBS_OK);
    expect_int(all[i].state, DIBS_DONE);
    expect_int(all[i].outcome, DIBS_ACKED);
  }
  expect_ok(f->db, dibs_cancel(f->db, &other, 1, NULL, NULL));
  waiter_end(&all[0], DIBS_OK);
  expect_int(all[0].state, DIBS_DONE);
  expect_int(all[0].given, 0);
}

/* What another does between the end of a job and the reading of it, just before
** the waiter's statement with these words. */
static struct {
  const char *before;
  int (*run)(dibs_db *db, int64_t id);
  dibs_db *db;
  int64_t id;
  int status;
} meanwhile;

static void do_meanwhile(const char *sql) {
  if (!meanwhile.before || !strstr(sql, meanwhile.before)) return;
  meanwhile.before = NULL;
  meanwhile.status = meanwhile.run(meanwhile.db, meanwhile.id);
}

static int requeue(dibs_db *db, int64_t id) {
  return dibs_requeue(db, &id, 1, NULL, NULL);
}

static int purge(dibs_db *db, int64_t id) {
  (void)id;
  return dibs_purge(db, all_queues, 1, NULL);
}

static void a_job_is_given_as_it_ended_or_not_at_all(void **state) {
  fixture *f = *state;
  static const struct {
    const char *before;
    int (*run)(dibs_db *db, int64_t id);
    int given;
  } cases[] = {
      {"FROM dibs_job j JOIN", requeue, 0},
      {"FROM dibs_job j JOIN", purge, 0},
      {"SELECT payload FROM dibs_job", purge, 1},
  };
  for (size_t i = 0; i < COUNT(cases); i++) {
    dibs_job_list *job = NULL;
    int how = 0;
    held failed = claimed(f, NULL);
    expect_ok(f->db, dibs_fail(f->db, failed.receipt, "x"));
    on_statement(do_meanwhile);
    dibs_db *waiting = open_another(f);
    meanwhile.db = f->db;
    meanwhile.id = failed.id;
    meanwhile.run = cases[i].run;
    meanwhile.status = -1;
    meanwhile.before = cases[i].before;
    int status = dibs_await(waiting, failed.id, 0, &how, &job);
    on_statement(count_look);
    expect_status(waiting, status, DIBS_OK);
    expect_int(meanwhile.status, DIBS_OK);
    expect_int(how, DIBS_DEAD);
    expect_int(job != NULL, cases[i].given);
    if (job) expect_int(job->jobs[0].state, DIBS_DEAD);
    if (job) expect_text(job->jobs[0].payload.data, "[1]");
    dibs_job_list_free(job);
    expect_int(dibs_close(waiting), DIBS_OK);
    expect_ok(f->db, dibs_clear(f->db, all_queues, 1, 1, NULL));
  }
}

/* Who waits lets other threads use its handle. */
static void an_await_shares_its_handle(void **state) {
  fixture *f = *state;
  held job = claimed(f, NULL);
  struct waiter w = {.db = f->db, .id = job.id, .timeout = PATIENCE};
  waiter_start(&w, await_job);
  expect_int(dibs_ack(f->db, job.receipt, NULL), DIBS_OK);
  pthread_join(w.thread, NULL);
  expect_status(f->db, w.status, DIBS_OK);
  expect_int(w.state, DIBS_DONE);
}

static void an_interrupt_ends_an_await(void **state) {
  fixture *f = *state;
  struct waiter w;
  int64_t id = put(f, "q", "1");
  waiter_open(&w, f, id);
  w.timeout = DIBS_FOREVER;
  w.state = 7;
  waiter_start(&w, await_job);
  dibs_interrupt(w.db);
  waiter_end(&w, DIBS_INTERRUPTED);
  expect_int(w.state, 7);
  expect_int(w.given, 0);
  /* One that comes before the wait is not lost. */
  dibs_interrupt(f->db);
  expect_status(f->db, dibs_await(f->db, id, DIBS_FOREVER, NULL, NULL),
                DIBS_INTERRUPTED);
  expect_state(f, id, DIBS_READY);
}

/* ---- Other processes ------------------------------------------------------------------ */

struct child {
  pid_t pid;
  int to;   /* a byte written here lets it go on */
  int from; /* a byte read here says that it holds its job */
};

/* In the child: hold the next job of "q", and have come some way with it; ack
** it when told to. */
static void child_run(fixture *f, int in, int out) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_open_options open = fixture_options(f);
  dibs_job_list *jobs = NULL;
  dibs_db *db = NULL;
  char byte = 1;
  options.attached = 1;
  options.lease = DAY;
  if (dibs_open(f->path, &open, &db) ||
      dibs_claim(db, one_queue, 1, &options, &jobs) ||
      dibs_checkpoint(db, jobs->jobs[0].receipt, dibs_json("[\"half\"]"),
                      DIBS_UNSET) ||
      write(out, &byte, 1) != 1 || read(in, &byte, 1) != 1 ||
      dibs_ack(db, jobs->jobs[0].receipt, NULL)) {
    fprintf(stderr, "child: %s\n", dibs_error(db));
    _exit(1);
  }
  dibs_job_list_free(jobs);
  dibs_close(db);
  _exit(0);
}

/* Fork while no handle is open. Returns when the child holds its job; the
** fixture's handle is open again. */
static struct child child_start(fixture *f) {
  int to[2], from[2];
  char byte;
  struct child c;
  close_checked(f);
  expect_int(pipe(to), 0);
  expect_int(pipe(from), 0);
  fflush(stdout);
  c.pid = fork();
  if (!c.pid) child_run(f, to[0], from[1]);
  close(to[0]);
  close(from[1]);
  c.to = to[1];
  c.from = from[0];
  expect_int(read(c.from, &byte, 1), 1);
  f->db = open_another(f);
  return c;
}

static void child_end(struct child *c, bool kill_it) {
  int status = -1;
  if (kill_it) expect_int(kill(c->pid, SIGKILL), 0);
  if (!kill_it) expect_int(write(c->to, "", 1), 1);
  expect_int(waitpid(c->pid, &status, 0), c->pid);
  expect_int(kill_it ? WTERMSIG(status) : status, kill_it ? SIGKILL : 0);
  close(c->to);
  close(c->from);
}

static void a_crash_leaves_the_checkpoint_to_the_next(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "[1]");
  struct child c = child_start(f);
  struct waiter w;
  expect_text(look(f, id).payload, "[\"half\"]");
  waiter_open(&w, f, 0);
  waiter_start(&w, claim_job);
  child_end(&c, true);
  waiter_end(&w, DIBS_OK);
  expect_int(w.id, id);
  expect_int(look(f, id).crashes, 1);
  expect_text(look(f, id).payload, "[\"half\"]");
}

/* Until somebody has noted that an attempt failed. */
static void wait_for_error(fixture *f) {
  struct timespec pause = {.tv_nsec = 1000000};
  for (int i = 0; raw_int(f, "SELECT count(*) FROM dibs_error") == 0; i++) {
    if (i == 60000) fail_msg("nobody took the job back");
    nanosleep(&pause, NULL);
  }
}

/* Who waits also takes back what a dead process held: by the clock of then,
** not of when the wait began. */
static void a_crash_during_an_await_has_its_time(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "[1]");
  struct child c = child_start(f);
  struct waiter w;
  waiter_open(&w, f, id);
  waiter_start(&w, await_job);
  f->now += HOUR;
  child_end(&c, true);
  wait_for_error(f);
  expect_int(look(f, id).errors[0].at, START + HOUR);
  expect_int(look(f, id).due_at, START + HOUR);
  expect_ok(f->db, dibs_ack(f->db, take(f, "q").receipt, NULL));
  waiter_end(&w, DIBS_OK);
}

static void *join_queue(void *context) {
  struct waiter *w = self = context;
  w->status = dibs_join(w->db, one_queue, 1, w->timeout);
  return NULL;
}

static void so_it_has_during_a_join(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "[1]");
  struct child c = child_start(f);
  struct waiter w;
  waiter_open(&w, f, id);
  waiter_start(&w, join_queue);
  f->now += HOUR;
  child_end(&c, true);
  wait_for_error(f);
  expect_int(look(f, id).errors[0].at, START + HOUR);
  expect_ok(f->db, dibs_ack(f->db, take(f, "q").receipt, NULL));
  waiter_end(&w, DIBS_OK);
}

static void an_ack_in_another_process_ends_an_await(void **state) {
  fixture *f = *state;
  int64_t id = put(f, "q", "[1]");
  struct child c = child_start(f);
  struct waiter w;
  waiter_open(&w, f, id);
  waiter_start(&w, await_job);
  child_end(&c, false);
  waiter_end(&w, DIBS_OK);
  expect_int(w.state, DIBS_DONE);
  expect_int(w.given, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_retry_gets_the_checkpoint),
      TEST(whoever_comes_next_gets_the_checkpoint),
      TEST(a_dead_job_keeps_its_checkpoint),
      TEST(an_ack_behind_a_checkpoint_ends_the_job),
      TEST(payloads_are_kept_exactly),
      TEST(no_payload_leaves_it_as_it_is),
      TEST(nothing_else_of_the_job_changes),
      TEST(what_is_no_payload_is_refused),
      TEST(a_checkpoint_never_shortens_the_lease),
      TEST(a_stale_receipt_changes_nothing),
      TEST(what_is_no_receipt_is_invalid),
      TEST(a_checkpoint_leaves_the_others_of_its_batch),
      TEST(a_checkpoint_is_part_of_the_transaction),
      TEST(progress_is_shown_everywhere),
      TEST(progress_without_a_text_takes_the_old_one_away),
      TEST(progress_is_from_0_to_1),
      TEST(a_long_text_is_cut_between_characters),
      TEST(progress_stays_with_what_has_ended),
      TEST(the_next_attempt_begins_without_progress),
      TEST(a_paused_queue_gives_its_jobs_to_nobody),
      TEST(running_jobs_of_a_paused_queue_are_settled),
      TEST(jobs_fall_due_in_a_paused_queue),
      TEST(a_claim_on_a_paused_queue_only_looks),
      TEST(lanes_go_on_in_a_paused_queue),
      TEST(nothing_gets_a_paused_queue_going),
      TEST(a_queue_that_nobody_used_can_be_paused),
      TEST(pause_and_resume_count_what_they_change),
      TEST(wrong_patterns_pause_nothing),
      TEST(a_pause_is_seen_by_every_handle),
      TEST(a_resume_ends_a_waiting_claim),
      TEST(a_resume_wakes),
      TEST(a_job_that_has_ended_is_given_at_once),
      TEST(what_is_not_there_is_not_waited_for),
      TEST(an_await_runs_out),
      TEST(an_attached_handle_waits_for_nothing),
      TEST(an_await_ends_with_the_job),
      TEST(an_await_follows_the_job_through_its_states),
      TEST(an_await_lets_time_go_on),
      TEST(an_await_gets_past_a_backlog),
      TEST(an_idle_await_only_looks),
      TEST(the_end_of_a_job_wakes_those_who_wait),
      TEST(many_wait_for_one_job),
      TEST(a_job_is_given_as_it_ended_or_not_at_all),
      TEST(an_await_shares_its_handle),
      TEST(an_interrupt_ends_an_await),
      TEST(a_crash_leaves_the_checkpoint_to_the_next),
      TEST(a_crash_during_an_await_has_its_time),
      TEST(so_it_has_during_a_join),
      TEST(an_ack_in_another_process_ends_an_await),
  };
  on_statement(count_look);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
