/* SPDX-License-Identifier: MIT */
/*
** test_claim.c: claiming: order, batches, several queues in turn or in order,
** leases and receipts, peeking, waiting, and what a claim must not do: take the
** write lock for nothing, or stall because a million jobs fall due.
*/
#include "harness.h"

#include <pthread.h>
#include <time.h>

/* Claim from one pattern with options; the status. */
static int claim(fixture *f, const char *queue,
                 const dibs_claim_options *options, dibs_job_list **jobs) {
  return dibs_claim(f->db, &queue, 1, options, jobs);
}

static dibs_claim_options claim_options(int64_t n) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  options.n = n;
  return options;
}

static int64_t put_priority(fixture *f, const char *queue, int64_t priority) {
  dibs_job_options options = no_options();
  options.priority = priority;
  return put_with(f, queue, "1", &options);
}

/* ---- One queue ----------------------------------------------------------- */

static void order_is_priority_then_age(void **state) {
  fixture *f = *state;
  int64_t low = put_priority(f, "q", -1);
  int64_t first = put(f, "q", "1");
  int64_t high = put_priority(f, "q", INT32_MAX);
  int64_t second = put_priority(f, "q", 0);
  int64_t lowest = put_priority(f, "q", INT32_MIN);
  expect_int(try_take(f, "q"), high);
  expect_int(try_take(f, "q"), first);
  expect_int(try_take(f, "q"), second);
  expect_int(try_take(f, "q"), low);
  expect_int(try_take(f, "q"), lowest);
  expect_nothing(f, "q");
}

static void an_empty_queue_is_empty(void **state) {
  fixture *f = *state;
  dibs_job_list *jobs = (dibs_job_list *)f;
  expect_status(f->db, claim(f, "never/used", NULL, &jobs), DIBS_EMPTY);
  expect_true(jobs == NULL);
  put(f, "q", "1");
  take(f, "q");
  expect_nothing(f, "q");
  expect_int(counts(f, "never/used").ready, 0);
}

static void no_patterns_are_the_default_queue(void **state) {
  fixture *f = *state;
  dibs_job_list *jobs = NULL;
  put(f, "other", "1");
  int64_t id = put(f, NULL, "1");
  expect_ok(f->db, dibs_claim(f->db, NULL, 0, NULL, &jobs));
  expect_int(jobs->jobs[0].id, id);
  dibs_job_list_free(jobs);
  expect_status(f->db, dibs_claim(f->db, NULL, 0, NULL, &jobs), DIBS_EMPTY);
}

static void queues_are_apart(void **state) {
  fixture *f = *state;
  int64_t a = put(f, "a", "1");
  int64_t b = put(f, "b", "1");
  expect_int(try_take(f, "b"), b);
  expect_nothing(f, "b");
  expect_int(try_take(f, "a"), a);
}

static void a_batch_claims_up_to_n(void **state) {
  fixture *f = *state;
  dibs_claim_options options = claim_options(3);
  dibs_job_list *jobs = NULL;
  for (int i = 0; i < 5; i++) put(f, "q", "1");
  expect_ok(f->db, claim(f, "q", &options, &jobs));
  expect_int(jobs->count, 3);
  for (int i = 0; i < 3; i++) expect_int(jobs->jobs[i].id, i + 1);
  dibs_job_list_free(jobs);
  expect_ok(f->db, claim(f, "q", &options, &jobs));
  expect_int(jobs->count, 2);
  dibs_job_list_free(jobs);
}

static void ten_thousand_at_once(void **state) {
  enum { MANY = 10000 };
  fixture *f = *state;
  dibs_claim_options options = claim_options(DIBS_CLAIM_MAX);
  dibs_job_list *jobs = NULL;
  dibs_new_job *all = calloc(MANY, sizeof *all);
  dibs_settlement *acks = calloc(MANY, sizeof *acks);
  expect_true(all != NULL && acks != NULL);
  for (int i = 0; i < MANY; i++) all[i].queue = i % 2 ? "a" : "b";
  expect_ok(f->db, dibs_enqueue_many(f->db, all, MANY, NULL));
  expect_ok(f->db, claim(f, DIBS_ALL, &options, &jobs));
  expect_int(jobs->count, MANY);
  for (int i = 0; i < MANY; i++) {
    acks[i].receipt = jobs->jobs[i].receipt;
    acks[i].action = DIBS_ACK;
  }
  expect_ok(f->db, dibs_settle(f->db, acks, MANY));
  for (int i = 0; i < MANY; i++) {
    if (acks[i].status != DIBS_OK) fail_msg("%d: %s", i, acks[i].message);
  }
  dibs_job_list_free(jobs);
  expect_int(raw_int(f, "SELECT count(*) FROM dibs_job"), 0);
  free(all);
  free(acks);
}

static void a_claim_has_every_field(void **state) {
  fixture *f = *state;
  dibs_claim_options options = claim_options(1);
  dibs_job_options wanted = no_options();
  dibs_job_list *jobs = NULL;
  wanted.name = "send";
  wanted.headers = "{\"h\":\"1\"}";
  wanted.key = "k";
  wanted.priority = 5;
  wanted.max_attempts = 3;
  wanted.timeout = 7000;
  wanted.expires = DAY;
  options.worker = "anna";
  options.lease = 9000;
  int64_t id = put_with(f, "q", "{\"a\":1}", &wanted);
  f->now += 50;
  expect_ok(f->db, claim(f, "q", &options, &jobs));
  const dibs_job *job = &jobs->jobs[0];
  expect_int(job->id, id);
  expect_text(job->queue, "q");
  expect_text(job->name, "send");
  expect_int(job->state, DIBS_RUNNING);
  expect_int(job->outcome, 0);
  expect_int(job->priority, 5);
  expect_text(job->payload.data, "{\"a\":1}");
  expect_int(job->payload.kind, DIBS_PAYLOAD_JSON);
  expect_text(job->headers, "{\"h\":\"1\"}");
  expect_text(job->key, "k");
  expect_int(job->attempt, 1);
  expect_int(job->max_attempts, 3);
  expect_int(job->crashes, 0);
  expect_int(job->created_at, START);
  expect_int(job->due_at, START);
  expect_int(job->claimed_at, START + 50);
  expect_int(job->lease_until, START + 9050);
  expect_int(job->finished_at, DIBS_UNSET);
  expect_text(job->worker, "anna");
  expect_true(job->receipt != NULL && *job->receipt);
  expect_text(job->last_error, NULL);
  expect_true(isnan(job->progress));
  expect_int(job->timeout, 7000);
  expect_int(job->lease, 9000);
  expect_int(job->expires_at, START + DAY);
  dibs_job_list_free(jobs);
  seen kept = look(f, id);
  expect_text(kept.worker, "anna");
  expect_int(kept.lease_until, START + 9050);
  expect_int(kept.claimed_at, START + 50);
}

static void a_retried_job_shows_its_last_error(void **state) {
  fixture *f = *state;
  dibs_job_list *jobs = NULL;
  put(f, "q", "1");
  held job = take(f, "q");
  expect_ok(f->db, dibs_retry(f->db, job.receipt, 0, "no route", NULL));
  expect_ok(f->db, claim(f, "q", NULL, &jobs));
  expect_int(jobs->jobs[0].attempt, 2);
  expect_text(jobs->jobs[0].last_error, "no route");
  dibs_job_list_free(jobs);
}

static void leases_come_from_claim_then_job_then_default(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  put(f, "q", "1");
  expect_int(take(f, "q").lease_until, START + DIBS_DEFAULT_LEASE);
  options.lease = 5000;
  put_with(f, "q", "1", &options);
  expect_int(take(f, "q").lease_until, START + 5000);
  put_with(f, "q", "1", &options);
  expect_int(take_for(f, "q", 700).lease_until, START + 700);
}

static void every_claim_has_a_fresh_receipt(void **state) {
  fixture *f = *state;
  char receipts[50][64];
  char prefix[16];
  put(f, "q", "1");
  for (size_t i = 0; i < COUNT(receipts); i++) {
    held job = take(f, "q");
    snprintf(prefix, sizeof prefix, "%lld:", (long long)job.id);
    expect_int(strncmp(job.receipt, prefix, strlen(prefix)), 0);
    for (size_t k = 0; k < i; k++) {
      expect_true(strcmp(receipts[k], job.receipt) != 0);
    }
    snprintf(receipts[i], sizeof receipts[i], "%s", job.receipt);
    expect_ok(f->db, dibs_release(f->db, job.receipt));
  }
}

static void wrong_claims_are_refused(void **state) {
  fixture *f = *state;
  static const char *const patterns[] = {"",      "a*",  "*a",   "**", "a/*/b",
                                         "a\x01", "/*x", "\xFF", "*/*"};
  dibs_job_list *jobs = NULL;
  dibs_claim_options options = claim_options(0);
  put(f, "q", "1");
  expect_status(f->db, claim(f, "q", &options, &jobs), DIBS_INVALID);
  options = claim_options(DIBS_CLAIM_MAX + 1);
  expect_status(f->db, claim(f, "q", &options, &jobs), DIBS_INVALID);
  options = claim_options(1);
  options.lease = 0;
  expect_status(f->db, claim(f, "q", &options, &jobs), DIBS_INVALID);
  expect_says(dibs_error(f->db), "lease");
  options.lease = -5;
  expect_status(f->db, claim(f, "q", &options, &jobs), DIBS_INVALID);
  options = claim_options(1);
  options.wait = -1;
  expect_status(f->db, claim(f, "q", &options, &jobs), DIBS_INVALID);
  expect_says(dibs_error(f->db), "wait");
  options = claim_options(1);
  options.worker = "two\nlines";
  expect_status(f->db, claim(f, "q", &options, &jobs), DIBS_INVALID);
  expect_says(dibs_error(f->db), "worker");
  options = claim_options(1);
  options.size = 3;
  expect_true(claim(f, "q", &options, &jobs) != DIBS_OK);
  for (size_t i = 0; i < COUNT(patterns); i++) {
    int status = claim(f, patterns[i], NULL, &jobs);
    if (status != DIBS_INVALID) {
      fail_msg("\"%s\": %s", patterns[i], dibs_status_name(status));
    }
    expect_says(dibs_error(f->db), "queue");
  }
  expect_true(jobs == NULL);
  expect_int(counts(f, "q").ready, 1);
}

static void a_claim_stops_at_the_payload_limit(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  dibs_claim_options many = claim_options(10);
  dibs_job_list *jobs = NULL;
  char bytes[40] = {0};
  for (int i = 0; i < 4; i++) {
    expect_ok(f->db,
              dibs_enqueue(f->db, "q", dibs_bytes(bytes, 40), NULL, NULL));
  }
  expect_int(dibs_close(f->db), DIBS_OK);
  options.max_payload = 100;
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  expect_ok(f->db, claim(f, "q", &many, &jobs));
  expect_int(jobs->count, 2);
  dibs_job_list_free(jobs);
  expect_int(dibs_close(f->db), DIBS_OK);
  options.max_payload = 10;
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  expect_ok(f->db, claim(f, "q", &many, &jobs));
  expect_int(jobs->count, 1);
  dibs_job_list_free(jobs);
}

/* ---- Several queues ------------------------------------------------------ */

static void several_queues_take_turns(void **state) {
  fixture *f = *state;
  static const char *const names[] = {"a", "b", "c"};
  char order[16] = "";
  dibs_job_list *jobs = NULL;
  for (int i = 0; i < 3; i++) {
    for (size_t k = 0; k < COUNT(names); k++) put(f, names[k], "1");
  }
  for (int i = 0; i < 9; i++) {
    expect_ok(f->db, dibs_claim(f->db, names, 3, NULL, &jobs));
    strcat(order, jobs->jobs[0].queue);
    dibs_job_list_free(jobs);
  }
  expect_text(order, "abcabcabc");
}

static void turns_go_on_in_another_handle(void **state) {
  fixture *f = *state;
  dibs_db *other = open_another(f);
  char order[16] = "";
  const char *all = DIBS_ALL;
  for (int i = 0; i < 3; i++) {
    put(f, "a", "1");
    put(f, "b", "1");
    put(f, "c", "1");
  }
  for (int i = 0; i < 9; i++) {
    dibs_job_list *jobs = NULL;
    dibs_db *db = i % 2 ? other : f->db;
    expect_ok(db, dibs_claim(db, &all, 1, NULL, &jobs));
    strcat(order, jobs->jobs[0].queue);
    dibs_job_list_free(jobs);
  }
  expect_text(order, "abcabcabc");
  dibs_close(other);
}

static void a_batch_over_queues_takes_turns(void **state) {
  fixture *f = *state;
  dibs_claim_options options = claim_options(7);
  dibs_job_list *jobs = NULL;
  char order[16] = "";
  for (int i = 0; i < 5; i++) put(f, "a", "1");
  put(f, "b", "1");
  for (int i = 0; i < 2; i++) put(f, "c", "1");
  expect_ok(f->db, claim(f, DIBS_ALL, &options, &jobs));
  for (size_t i = 0; i < jobs->count; i++) strcat(order, jobs->jobs[i].queue);
  dibs_job_list_free(jobs);
  expect_text(order, "abcacaa");
}

static void in_order_exhausts_the_first_queue_first(void **state) {
  fixture *f = *state;
  static const char *const names[] = {"c", "a/*", "b"};
  dibs_claim_options options = claim_options(1);
  char order[32] = "";
  options.in_order = 1;
  for (int i = 0; i < 2; i++) {
    put(f, "b", "1");
    put(f, "a/2", "1");
    put(f, "a/1", "1");
    put(f, "c", "1");
  }
  for (int i = 0; i < 8; i++) {
    dibs_job_list *jobs = NULL;
    expect_ok(f->db, dibs_claim(f->db, names, 3, &options, &jobs));
    strcat(order, jobs->jobs[0].queue);
    dibs_job_list_free(jobs);
  }
  expect_text(order, "cca/1a/1a/2a/2bb");
}

static void a_prefix_means_all_beneath(void **state) {
  fixture *f = *state;
  put(f, "thumbs", "1");
  put(f, "thumbsup", "1");
  put(f, "thumbs0", "1");
  put(f, "thumbs-/x", "1");
  int64_t first = put(f, "thumbs/a", "1");
  int64_t second = put(f, "thumbs/b/c", "1");
  int64_t third = put(f, "thumbs/\xF0\x9F\x98\x80", "1");
  expect_int(try_take(f, "thumbs/*"), first);
  expect_int(try_take(f, "thumbs/*"), second);
  expect_int(try_take(f, "thumbs/*"), third);
  expect_nothing(f, "thumbs/*");
  expect_int(try_take(f, "thumbs/b/*"), 0);
  expect_int(counts(f, "thumbs").ready, 1);
}

static void all_means_every_queue(void **state) {
  fixture *f = *state;
  put(f, "a", "1");
  put(f, "\xF4\x8F\xBF\xBF", "1");
  put(f, " ", "1");
  int64_t taken = 0;
  while (try_take(f, DIBS_ALL)) taken++;
  expect_int(taken, 3);
}

static void overlapping_patterns_claim_a_job_once(void **state) {
  fixture *f = *state;
  static const char *const patterns[] = {"a/*", "a/b", DIBS_ALL, "a/b"};
  dibs_claim_options options = claim_options(10);
  dibs_job_list *jobs = NULL;
  put(f, "a/b", "1");
  put(f, "a/c", "1");
  expect_ok(f->db, dibs_claim(f->db, patterns, 4, &options, &jobs));
  expect_int(jobs->count, 2);
  expect_true(jobs->jobs[0].id != jobs->jobs[1].id);
  dibs_job_list_free(jobs);
  put(f, "a/b", "1");
  put(f, "a/c", "1");
  options.in_order = 1;
  expect_ok(f->db, dibs_claim(f->db, patterns, 4, &options, &jobs));
  expect_int(jobs->count, 2);
  dibs_job_list_free(jobs);
}

/* A queue with one job is served within as many claims as there are queues. */
static void a_small_queue_is_served_beside_a_large_one(void **state) {
  fixture *f = *state;
  static const char *const names[] = {"large", "also-large", "small"};
  dibs_new_job jobs[1000];
  memset(jobs, 0, sizeof jobs);
  for (size_t i = 0; i < COUNT(jobs); i++) jobs[i].queue = names[i % 2];
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, COUNT(jobs), NULL));
  for (int i = 0; i < 10; i++) try_take(f, DIBS_ALL);
  int64_t small = put(f, "small", "1");
  int found = 0;
  for (size_t i = 0; i < COUNT(names) && !found; i++) {
    found = try_take(f, DIBS_ALL) == small;
  }
  expect_true(found);
}

/* Beside a lane with all those jobs, each of 999 others gets its one served within
** as many claims as there are lanes, wherever the last claim left off. */
static void a_thousand_lanes_are_served_in_turn(void **state) {
  enum { LANES = 1000, MANY = 5000 };
  fixture *f = *state;
  static const char *const beneath[] = {"lanes/*"};
  char name[32];
  dibs_new_job *jobs = calloc(MANY, sizeof *jobs);
  expect_true(jobs != NULL);
  for (int i = 0; i < MANY; i++)
    jobs[i] = (dibs_new_job){"lanes/0500", dibs_json("1"), NULL};
  expect_ok(f->db, dibs_enqueue_many(f->db, jobs, MANY, NULL));
  free(jobs);
  for (int i = 0; i < 10; i++) try_take(f, beneath[0]);
  for (int i = 0; i < LANES; i++) {
    snprintf(name, sizeof name, "lanes/%04d", i);
    if (i != 500) put(f, name, "1");
  }
  int served = 0;
  for (int i = 0; i < LANES; i++) {
    held job = take(f, beneath[0]);
    served += strcmp(job.queue, "lanes/0500") != 0;
  }
  expect_int(served, LANES - 1);
}

/* Jobs of great priority in one queue do not keep another one waiting. */
static void priority_is_within_a_queue(void **state) {
  fixture *f = *state;
  for (int i = 0; i < 10; i++) put_priority(f, "loud", 1000);
  int64_t quiet = put_priority(f, "quiet", -1000);
  int64_t first = try_take(f, DIBS_ALL);
  int64_t second = try_take(f, DIBS_ALL);
  expect_true(first == quiet || second == quiet);
}

/* ---- Peeking ------------------------------------------------------------- */

static void peek_shows_what_claim_gives(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  dibs_claim_options three = claim_options(3);
  dibs_job_list *peeked = NULL;
  dibs_job_list *claimed = NULL;
  put(f, "q", "1");
  put_priority(f, "q", 5);
  put(f, "q", "2");
  put(f, "q", "3");
  expect_ok(f->db, dibs_peek(f->db, &queue, 1, 3, &peeked));
  expect_int(peeked->count, 3);
  expect_int(peeked->jobs[0].state, DIBS_READY);
  expect_text(peeked->jobs[0].receipt, NULL);
  expect_int(counts(f, "q").ready, 4);
  expect_ok(f->db, claim(f, "q", &three, &claimed));
  for (int i = 0; i < 3; i++) {
    expect_int(peeked->jobs[i].id, claimed->jobs[i].id);
  }
  dibs_job_list_free(peeked);
  dibs_job_list_free(claimed);
}

static void peek_takes_turns_as_claim_does(void **state) {
  fixture *f = *state;
  const char *all = DIBS_ALL;
  for (int i = 0; i < 3; i++) {
    put(f, "a", "1");
    put(f, "b", "1");
  }
  put(f, "c", "1");
  for (int i = 0; i < 7; i++) {
    dibs_job_list *peeked = NULL;
    expect_ok(f->db, dibs_peek(f->db, &all, 1, 1, &peeked));
    int64_t id = peeked->jobs[0].id;
    dibs_job_list_free(peeked);
    expect_int(try_take(f, DIBS_ALL), id);
  }
}

static void peek_sees_jobs_that_are_due(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  dibs_job_options options = no_options();
  dibs_job_list *peeked = NULL;
  options.delay = 1000;
  int64_t id = put_with(f, "q", "1", &options);
  expect_status(f->db, dibs_peek(f->db, &queue, 1, 1, &peeked), DIBS_EMPTY);
  f->now += 1000;
  expect_ok(f->db, dibs_peek(f->db, &queue, 1, 1, &peeked));
  expect_int(peeked->jobs[0].id, id);
  dibs_job_list_free(peeked);
  expect_int(try_take(f, "q"), id);
}

static void wrong_peeks_are_refused(void **state) {
  fixture *f = *state;
  const char *queue = "q";
  dibs_job_list *jobs = NULL;
  expect_status(f->db, dibs_peek(f->db, &queue, 1, 0, &jobs), DIBS_INVALID);
  queue = "a*";
  expect_status(f->db, dibs_peek(f->db, &queue, 1, 1, &jobs), DIBS_INVALID);
  expect_true(jobs == NULL);
}

/* ---- Waiting ------------------------------------------------------------- */

static int64_t monotonic(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void a_wait_runs_out(void **state) {
  fixture *f = *state;
  dibs_claim_options options = claim_options(1);
  dibs_job_list *jobs = NULL;
  options.wait = 30;
  int64_t before = monotonic();
  expect_status(f->db, claim(f, "q", &options, &jobs), DIBS_EMPTY);
  expect_true(monotonic() - before >= 29);
}

/* A claim that waits, on a thread of its own. */
struct waiter {
  fixture *f;
  dibs_db *db;
  int64_t wait;
  int status;
  int64_t id;
};

static void *wait_for_job(void *context) {
  struct waiter *waiter = context;
  dibs_claim_options options = claim_options(1);
  dibs_job_list *jobs = NULL;
  const char *queue = "q";
  options.wait = waiter->wait;
  waiter->status = dibs_claim(waiter->db, &queue, 1, &options, &jobs);
  if (jobs) waiter->id = jobs->jobs[0].id;
  dibs_job_list_free(jobs);
  return NULL;
}

static void interrupt_ends_a_wait(void **state) {
  fixture *f = *state;
  struct waiter waiter = {f, f->db, DIBS_FOREVER, -1, 0};
  pthread_t thread;
  expect_int(pthread_create(&thread, NULL, wait_for_job, &waiter), 0);
  dibs_interrupt(f->db);
  pthread_join(thread, NULL);
  expect_int(waiter.status, DIBS_INTERRUPTED);
  /* It is spent. */
  dibs_claim_options options = claim_options(1);
  dibs_job_list *jobs = NULL;
  options.wait = 1;
  expect_status(f->db, claim(f, "q", &options, &jobs), DIBS_EMPTY);
}

/* A call that does not wait leaves the interrupt for one that does. */
static void an_interrupt_waits_for_a_wait(void **state) {
  fixture *f = *state;
  dibs_claim_options options = claim_options(1);
  dibs_job_list *jobs = NULL;
  dibs_interrupt(f->db);
  expect_nothing(f, "q");
  options.wait = DIBS_FOREVER;
  expect_status(f->db, claim(f, "q", &options, &jobs), DIBS_INTERRUPTED);
}

static void a_waiting_claim_gets_a_new_job(void **state) {
  fixture *f = *state;
  struct waiter waiter = {f, f->db, 30 * SECOND, -1, 0};
  dibs_db *other = open_another(f);
  pthread_t thread;
  int64_t id = 0;
  expect_int(pthread_create(&thread, NULL, wait_for_job, &waiter), 0);
  expect_ok(other, dibs_enqueue(other, "q", dibs_none(), NULL, &id));
  pthread_join(thread, NULL);
  expect_int(waiter.status, DIBS_OK);
  expect_int(waiter.id, id);
  dibs_close(other);
}

/* A claim that waits lets other threads use its handle. */
static void a_waiting_claim_shares_its_handle(void **state) {
  fixture *f = *state;
  struct waiter waiter = {f, f->db, 30 * SECOND, -1, 0};
  pthread_t thread;
  int64_t id = 0;
  expect_int(pthread_create(&thread, NULL, wait_for_job, &waiter), 0);
  expect_int(dibs_enqueue(f->db, "q", dibs_none(), NULL, &id), DIBS_OK);
  pthread_join(thread, NULL);
  expect_int(waiter.status, DIBS_OK);
  expect_int(waiter.id, id);
}

static void a_waiting_claim_gets_a_job_that_falls_due(void **state) {
  fixture *f = *state;
  struct waiter waiter = {f, f->db, 30 * SECOND, -1, 0};
  dibs_job_options options = no_options();
  pthread_t thread;
  options.delay = HOUR;
  int64_t id = put_with(f, "q", "1", &options);
  expect_int(pthread_create(&thread, NULL, wait_for_job, &waiter), 0);
  f->now += HOUR;
  pthread_join(thread, NULL);
  expect_int(waiter.status, DIBS_OK);
  expect_int(waiter.id, id);
}

/* ---- What a claim must not do --------------------------------------------- */

/* Hold the write lock from a plain connection. */
static sqlite3 *lock_writes(fixture *f) {
  sqlite3 *db = plain_open(f->path);
  expect_int(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
  return db;
}

static void an_idle_claim_takes_no_write_lock(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  dibs_job_options later = no_options();
  put(f, "q", "1");
  later.delay = HOUR;
  put_with(f, "q", "1", &later);
  take_for(f, "q", DAY);
  expect_nothing(f, "q");
  expect_int(dibs_close(f->db), DIBS_OK);
  options.busy_timeout = 0;
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  sqlite3 *locker = lock_writes(f);
  expect_nothing(f, "q");
  expect_nothing(f, DIBS_ALL);
  expect_nothing(f, "nobody/*");
  sqlite3_close(locker);
}

static void a_locked_database_is_busy_not_empty(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  dibs_job_list *jobs = NULL;
  put(f, "q", "1");
  expect_int(dibs_close(f->db), DIBS_OK);
  options.busy_timeout = 20;
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
  sqlite3 *locker = lock_writes(f);
  expect_status(f->db, claim(f, "q", NULL, &jobs), DIBS_BUSY);
  expect_says(dibs_error(f->db), "20ms");
  expect_status(f->db, dibs_enqueue(f->db, "q", dibs_none(), NULL, NULL),
                DIBS_BUSY);
  sqlite3_close(locker);
  expect_int(try_take(f, "q"), 1);
}

/* Enqueue `count` jobs into a queue by SQL, which is quicker. */
static void fill_scheduled(fixture *f, const char *queue, int count,
                           int64_t due_at) {
  raw_run(f,
          "INSERT OR IGNORE INTO dibs_queue(name) VALUES ('%s');"
          "CREATE TEMP TABLE first AS SELECT coalesce(max(id), 0) AS id,"
          " (SELECT id FROM dibs_queue WHERE name = '%s') AS q FROM dibs_job;"
          "INSERT INTO dibs_job(id, queue_id, created_at)"
          " WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c"
          " WHERE x < %d) SELECT first.id + x, q, %lld FROM c, first;"
          "INSERT INTO dibs_scheduled(id, queue_id, due_at)"
          " SELECT j.id, q, %lld FROM dibs_job j, first WHERE j.id > first.id;"
          "UPDATE dibs_queue SET next_due = %lld WHERE name = '%s'",
          queue, queue, count, (long long)START, (long long)due_at,
          (long long)due_at, queue);
}

/* Milliseconds of work of this thread, whoever else is busy. */
static int64_t work_done(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void many_due_jobs_stall_nobody(void **state) {
  fixture *f = *state;
  int many = 100000 / slowness();
  dibs_job_options options = no_options();
  fill_scheduled(f, "a", many, START + HOUR);
  options.delay = HOUR;
  int64_t one = put_with(f, "b", "1", &options);
  f->now += HOUR;
  int64_t before = work_done();
  int64_t got = try_take(f, "b");
  if (got == 0) got = try_take(f, "b");
  int64_t work = work_done() - before;
  expect_int(got, one);
  /* Nothing near what moving them all would take. */
  expect_true(work < 100 * slowness());
  expect_true(raw_int(f, "SELECT count(*) FROM dibs_ready") < 5000);
  expect_true(try_take(f, "a") > 0);
}

/* However many there are, each of them is claimed in the end. */
static void due_jobs_are_all_claimed(void **state) {
  fixture *f = *state;
  int many = 2000;
  dibs_claim_options options = claim_options(100);
  fill_scheduled(f, "a", many, START + HOUR);
  f->now += HOUR;
  int64_t total = 0;
  for (int i = 0; i < 2 * many && total < many; i++) {
    dibs_job_list *jobs = NULL;
    int status = claim(f, "a", &options, &jobs);
    if (status == DIBS_EMPTY) fail_msg("empty after %d", (int)total);
    expect_status(f->db, status, DIBS_OK);
    total += (int64_t)jobs->count;
    dibs_job_list_free(jobs);
  }
  expect_int(total, many);
  expect_nothing(f, "a");
}

/* Jobs that fell due are claimed in the order of priority and age, not of
** their time, as far as they have been moved. */
static void due_jobs_keep_their_order(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  options.delay = 2000;
  int64_t first = put_with(f, "q", "1", &options);
  options.delay = 1000;
  int64_t second = put_with(f, "q", "1", &options);
  options.priority = 1;
  int64_t third = put_with(f, "q", "1", &options);
  f->now += 5000;
  expect_int(try_take(f, "q"), third);
  expect_int(try_take(f, "q"), first);
  expect_int(try_take(f, "q"), second);
}

static void a_paused_queue_gives_nothing(void **state) {
  fixture *f = *state;
  put(f, "q", "1");
  raw_run(f, "UPDATE dibs_queue SET paused = 1, claimable = 0");
  expect_nothing(f, "q");
  expect_nothing(f, DIBS_ALL);
  put(f, "q", "1");
  expect_nothing(f, "q");
  expect_nothing(f, DIBS_ALL);
  expect_int(counts(f, "q").ready, 2);
  expect_int(counts(f, "q").paused, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(order_is_priority_then_age),
      TEST(an_empty_queue_is_empty),
      TEST(no_patterns_are_the_default_queue),
      TEST(queues_are_apart),
      TEST(a_batch_claims_up_to_n),
      TEST(ten_thousand_at_once),
      TEST(a_claim_has_every_field),
      TEST(a_retried_job_shows_its_last_error),
      TEST(leases_come_from_claim_then_job_then_default),
      TEST(every_claim_has_a_fresh_receipt),
      TEST(wrong_claims_are_refused),
      TEST(a_claim_stops_at_the_payload_limit),
      TEST(several_queues_take_turns),
      TEST(turns_go_on_in_another_handle),
      TEST(a_batch_over_queues_takes_turns),
      TEST(in_order_exhausts_the_first_queue_first),
      TEST(a_prefix_means_all_beneath),
      TEST(all_means_every_queue),
      TEST(overlapping_patterns_claim_a_job_once),
      TEST(a_small_queue_is_served_beside_a_large_one),
      TEST(a_thousand_lanes_are_served_in_turn),
      TEST(priority_is_within_a_queue),
      TEST(peek_shows_what_claim_gives),
      TEST(peek_takes_turns_as_claim_does),
      TEST(peek_sees_jobs_that_are_due),
      TEST(wrong_peeks_are_refused),
      TEST(a_wait_runs_out),
      TEST(interrupt_ends_a_wait),
      TEST(an_interrupt_waits_for_a_wait),
      TEST(a_waiting_claim_gets_a_new_job),
      TEST(a_waiting_claim_shares_its_handle),
      TEST(a_waiting_claim_gets_a_job_that_falls_due),
      TEST(an_idle_claim_takes_no_write_lock),
      TEST(a_locked_database_is_busy_not_empty),
      TEST(many_due_jobs_stall_nobody),
      TEST(due_jobs_are_all_claimed),
      TEST(due_jobs_keep_their_order),
      TEST(a_paused_queue_gives_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
