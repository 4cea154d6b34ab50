/* SPDX-License-Identifier: MIT */
/*
** test_concurrency.c: many at once: fifty claimers as threads with handles of
** their own, as threads that share one, and as processes; enqueuers beside
** them; settlers that race for one receipt; a clock that jumps meanwhile. Each
** job is claimed once a lease, and nobody is told that the database is busy.
*/
#include "harness.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLAIMERS 50

static const char *const all_queues[] = {DIBS_ALL};
static const char *const names[] = {"a", "b", "c/1", "c/2"};

/* ---- Claimers ----------------------------------------------------------------- */

/* What the claimers share. In memory that processes share too. */
typedef struct race {
  fixture *f;
  int jobs;
  dibs_db *shared;       /* NULL: each opens its own */
  int64_t batch;         /* jobs a claim */
  _Atomic int64_t acked; /* so far */
  _Atomic int wrong;     /* calls that failed otherwise than they may */
  _Atomic int claims[];  /* how often each job was claimed, by id */
} race;

static race *race_new(fixture *f, int jobs) {
  size_t size = sizeof(race) + (size_t)(jobs + 1) * sizeof(_Atomic int);
  race *r = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                 -1, 0);
  if (r == MAP_FAILED) fail_msg("no shared memory");
  memset(r, 0, size);
  r->f = f;
  r->jobs = jobs;
  r->batch = 1;
  return r;
}

static void race_end(race *r) {
  munmap(r, sizeof(race) + (size_t)(r->jobs + 1) * sizeof(_Atomic int));
}

static int wrong(race *r, dibs_db *db, const char *what, int status) {
  fprintf(stderr, "%s: %s (%s)\n", what, dibs_status_name(status),
          dibs_error(db));
  r->wrong++;
  return 0;
}

/* Claim some and ack them. False when there is nothing left. */
static int claim_and_ack(race *r, dibs_db *db) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_settlement acks[16];
  dibs_job_list *jobs = NULL;
  options.n = r->batch;
  int status = dibs_claim(db, all_queues, 1, &options, &jobs);
  if (status == DIBS_EMPTY) return 0;
  if (status != DIBS_OK) return wrong(r, db, "claim", status);
  memset(acks, 0, sizeof acks);
  for (size_t i = 0; i < jobs->count; i++) {
    int64_t id = jobs->jobs[i].id;
    if (id < 1 || id > r->jobs) return wrong(r, db, "id", DIBS_MISUSE);
    r->claims[id]++;
    acks[i].receipt = jobs->jobs[i].receipt;
    acks[i].action = DIBS_ACK;
  }
  status = dibs_settle(db, acks, jobs->count);
  if (status != DIBS_OK) return wrong(r, db, "settle", status);
  for (size_t i = 0; i < jobs->count; i++) {
    if (acks[i].status != DIBS_OK) r->wrong++;
  }
  r->acked += (int64_t)jobs->count;
  dibs_job_list_free(jobs);
  return 1;
}

static void *claimer(void *context) {
  race *r = context;
  dibs_open_options options = fixture_options(r->f);
  dibs_db *db = r->shared;
  if (!db) {
    int status = dibs_open(r->f->path, &options, &db);
    if (status != DIBS_OK) wrong(r, db, "open", status);
  }
  while (claim_and_ack(r, db)) {
  }
  if (!r->shared) dibs_close(db);
  return NULL;
}

static void fill(fixture *f, int jobs) {
  dibs_new_job *all = calloc((size_t)jobs, sizeof *all);
  expect_true(all != NULL);
  for (int i = 0; i < jobs; i++) {
    all[i].queue = names[(size_t)i % COUNT(names)];
    all[i].payload = dibs_json("1");
  }
  expect_ok(f->db, dibs_enqueue_many(f->db, all, (size_t)jobs, NULL));
  free(all);
}

static void expect_each_once(race *r) {
  expect_int(r->wrong, 0);
  for (int id = 1; id <= r->jobs; id++) {
    if (r->claims[id] != 1) {
      fail_msg("job %d was claimed %d times", id, (int)r->claims[id]);
    }
  }
  expect_int(r->acked, r->jobs);
  expect_int(raw_int(r->f, "SELECT count(*) FROM dibs_job"), 0);
}

static void run_threads(race *r, int count) {
  pthread_t threads[CLAIMERS];
  for (int i = 0; i < count; i++) {
    expect_int(pthread_create(&threads[i], NULL, claimer, r), 0);
  }
  for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
}

static void fifty_threads_claim_each_job_once(void **state) {
  fixture *f = *state;
  race *r = race_new(f, 20000 / slowness());
  fill(f, r->jobs);
  r->batch = 4;
  run_threads(r, CLAIMERS);
  expect_each_once(r);
  race_end(r);
}

static void fifty_threads_share_a_handle(void **state) {
  fixture *f = *state;
  race *r = race_new(f, 20000 / slowness());
  fill(f, r->jobs);
  r->shared = f->db;
  run_threads(r, CLAIMERS);
  expect_each_once(r);
  race_end(r);
}

static void fifty_processes_claim_each_job_once(void **state) {
  fixture *f = *state;
  race *r = race_new(f, 20000 / slowness());
  pid_t children[CLAIMERS];
  fill(f, r->jobs);
  close_checked(f);
  r->batch = 4;
  for (int i = 0; i < CLAIMERS; i++) {
    children[i] = fork();
    if (children[i] == 0) {
      claimer(r);
      _exit(0);
    }
  }
  for (int i = 0; i < CLAIMERS; i++) {
    int status = -1;
    waitpid(children[i], &status, 0);
    expect_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  f->db = open_another(f);
  expect_each_once(r);
  race_end(r);
}

/* ---- Enqueuers beside claimers --------------------------------------------------- */

#define ENQUEUERS 8

struct enqueuer {
  race *race;
  int count;
  int64_t last;
  pthread_t thread;
};

static void *enqueue_some(void *context) {
  struct enqueuer *e = context;
  dibs_open_options options = fixture_options(e->race->f);
  dibs_db *db = NULL;
  int status = dibs_open(e->race->f->path, &options, &db);
  if (status != DIBS_OK) wrong(e->race, db, "open", status);
  for (int i = 0; i < e->count; i++) {
    int64_t id = 0;
    status = dibs_enqueue(db, names[i % 4], dibs_json("1"), NULL, &id);
    if (status != DIBS_OK) wrong(e->race, db, "enqueue", status);
    if (id <= e->last) e->race->wrong++;
    e->last = id;
  }
  dibs_close(db);
  return NULL;
}

static void *claim_until_done(void *context) {
  race *r = context;
  dibs_open_options options = fixture_options(r->f);
  dibs_db *db = NULL;
  int status = dibs_open(r->f->path, &options, &db);
  if (status != DIBS_OK) wrong(r, db, "open", status);
  while (r->acked < r->jobs && r->wrong == 0) {
    if (!claim_and_ack(r, db)) usleep(200);
  }
  dibs_close(db);
  return NULL;
}

static void what_goes_in_comes_out(void **state) {
  fixture *f = *state;
  struct enqueuer enqueuers[ENQUEUERS];
  pthread_t threads[ENQUEUERS];
  int each = 1000 / slowness();
  race *r = race_new(f, each * ENQUEUERS);
  memset(enqueuers, 0, sizeof enqueuers);
  for (int i = 0; i < ENQUEUERS; i++) {
    enqueuers[i].race = r;
    enqueuers[i].count = each;
    pthread_create(&enqueuers[i].thread, NULL, enqueue_some, &enqueuers[i]);
    pthread_create(&threads[i], NULL, claim_until_done, r);
  }
  for (int i = 0; i < ENQUEUERS; i++) {
    pthread_join(enqueuers[i].thread, NULL);
    pthread_join(threads[i], NULL);
  }
  expect_each_once(r);
  race_end(r);
}

/* ---- One receipt, many settlers ----------------------------------------------------- */

struct settler {
  fixture *f;
  const char *receipt;
  int status;
};

static void *settle_once(void *context) {
  struct settler *s = context;
  dibs_open_options options = fixture_options(s->f);
  dibs_db *db = NULL;
  s->status = dibs_open(s->f->path, &options, &db);
  if (s->status == DIBS_OK) s->status = dibs_ack(db, s->receipt, NULL);
  dibs_close(db);
  return NULL;
}

static void of_many_settlers_one_succeeds(void **state) {
  fixture *f = *state;
  for (int round = 0; round < 10; round++) {
    struct settler settlers[8];
    pthread_t threads[8];
    int good = 0;
    put(f, "q", "1");
    held job = take(f, "q");
    for (int i = 0; i < 8; i++) {
      settlers[i] = (struct settler){f, job.receipt, -1};
      pthread_create(&threads[i], NULL, settle_once, &settlers[i]);
    }
    for (int i = 0; i < 8; i++) {
      pthread_join(threads[i], NULL);
      good += settlers[i].status == DIBS_OK;
      expect_true(settlers[i].status == DIBS_OK ||
                  settlers[i].status == DIBS_LOST);
    }
    expect_int(good, 1);
  }
}

/* ---- Unique jobs without a race --------------------------------------------------------- */

struct unique {
  fixture *f;
  int64_t id;
};

static void *enqueue_unique(void *context) {
  struct unique *u = context;
  dibs_open_options options = fixture_options(u->f);
  dibs_job_options job = no_options();
  dibs_db *db = NULL;
  job.unique = "one";
  if (dibs_open(u->f->path, &options, &db) != DIBS_OK ||
      dibs_enqueue(db, "q", dibs_json("1"), &job, &u->id) != DIBS_OK) {
    u->id = -1;
  }
  dibs_close(db);
  return NULL;
}

static void many_enqueuers_of_a_unique_job_get_one(void **state) {
  fixture *f = *state;
  struct unique all[50];
  pthread_t threads[50];
  for (int i = 0; i < 50; i++) {
    all[i] = (struct unique){f, 0};
    pthread_create(&threads[i], NULL, enqueue_unique, &all[i]);
  }
  for (int i = 0; i < 50; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < 50; i++) expect_int(all[i].id, all[0].id);
  expect_int(counts(f, "q").ready, 1);
}

/* The same with batches: each row has its own answer. */
enum { UNIQUE_KEYS = 20 };

struct unique_batch {
  fixture *f;
  int first; /* where in the keys it begins */
  int failed;
  dibs_enqueued results[UNIQUE_KEYS];
};

static void *enqueue_unique_batch(void *context) {
  struct unique_batch *u = context;
  dibs_open_options options = fixture_options(u->f);
  dibs_job_options of_job[UNIQUE_KEYS];
  dibs_new_job jobs[UNIQUE_KEYS];
  char keys[UNIQUE_KEYS][8];
  dibs_db *db = NULL;
  for (int i = 0; i < UNIQUE_KEYS; i++) {
    snprintf(keys[i], sizeof keys[i], "%d", (u->first + i) % UNIQUE_KEYS);
    of_job[i] = no_options();
    of_job[i].unique = keys[i];
    jobs[i] = (dibs_new_job){"q", dibs_json("1"), &of_job[i]};
  }
  u->failed = dibs_open(u->f->path, &options, &db) ||
              dibs_enqueue_many(db, jobs, UNIQUE_KEYS, u->results);
  dibs_close(db);
  return NULL;
}

static void each_row_of_many_batches_is_answered(void **state) {
  fixture *f = *state;
  struct unique_batch all[50];
  pthread_t threads[50];
  int64_t ids[UNIQUE_KEYS] = {0};
  int made[UNIQUE_KEYS] = {0};
  for (int i = 0; i < 50; i++) {
    all[i] = (struct unique_batch){.f = f, .first = i % UNIQUE_KEYS};
    pthread_create(&threads[i], NULL, enqueue_unique_batch, &all[i]);
  }
  for (int i = 0; i < 50; i++) {
    pthread_join(threads[i], NULL);
    expect_true(!all[i].failed);
    for (int j = 0; j < UNIQUE_KEYS; j++) {
      int key = (all[i].first + j) % UNIQUE_KEYS;
      if (!ids[key]) ids[key] = all[i].results[j].id;
      expect_int(all[i].results[j].id, ids[key]);
      made[key] += !all[i].results[j].existing;
    }
  }
  for (int key = 0; key < UNIQUE_KEYS; key++) expect_int(made[key], 1);
  expect_int(counts(f, "q").ready, UNIQUE_KEYS);
}

/* ---- Limits under claimers ---------------------------------------------------------------- */

enum { LIMIT = 5, LIMIT_PER_KEY = 2 };

struct limited {
  race *race;
  _Atomic int running;
  _Atomic int of_key[4];
  _Atomic int over;
};

static void *claim_limited(void *context) {
  struct limited *limited = context;
  race *r = limited->race;
  dibs_open_options options = fixture_options(r->f);
  dibs_db *db = NULL;
  const char *queue = "q";
  int status = dibs_open(r->f->path, &options, &db);
  if (status != DIBS_OK) wrong(r, db, "open", status);
  while (r->acked < r->jobs && r->wrong == 0) {
    dibs_job_list *jobs = NULL;
    status = dibs_claim(db, &queue, 1, NULL, &jobs);
    if (status == DIBS_EMPTY) {
      usleep(100);
      continue;
    }
    if (status != DIBS_OK) {
      wrong(r, db, "claim", status);
      break;
    }
    int key = jobs->jobs[0].name[0] - '0';
    r->claims[jobs->jobs[0].id]++;
    limited->over += ++limited->running > LIMIT;
    limited->over += ++limited->of_key[key] > LIMIT_PER_KEY;
    usleep(1000); /* so that others are at it meanwhile */
    limited->running--;
    limited->of_key[key]--;
    status = dibs_ack(db, jobs->jobs[0].receipt, NULL);
    if (status != DIBS_OK) wrong(r, db, "ack", status);
    r->acked++;
    dibs_job_list_free(jobs);
  }
  dibs_close(db);
  return NULL;
}

/* No more than may run at any moment, and all of them in the end. */
static void limits_hold_under_many_claimers(void **state) {
  fixture *f = *state;
  static const char *const settings[] = {"limit", "limit_per_key"};
  static const char *const values[] = {"5", "2"};
  dibs_job_options options = no_options();
  pthread_t threads[12];
  struct limited limited;
  race *r = race_new(f, 400 / slowness() / 4 * 4);
  memset(&limited, 0, sizeof limited);
  limited.race = r;
  expect_ok(f->db, dibs_queue_set(f->db, "q", settings, values, 2));
  for (int i = 0; i < r->jobs; i++) {
    char key[2] = {(char)('0' + i % 4), '\0'};
    options.name = options.limit_key = key;
    put_with(f, "q", "1", &options);
  }
  for (int i = 0; i < 12; i++) {
    pthread_create(&threads[i], NULL, claim_limited, &limited);
  }
  for (int i = 0; i < 12; i++) pthread_join(threads[i], NULL);
  expect_int(limited.over, 0);
  expect_each_once(r);
  race_end(r);
}

/* While the clock stands still, as many start as the burst, whoever asks. */
static void *claim_all_there_is(void *context) {
  race *r = context;
  dibs_open_options options = fixture_options(r->f);
  dibs_db *db = NULL;
  const char *queue = "q";
  dibs_job_list *jobs = NULL;
  int status = dibs_open(r->f->path, &options, &db);
  for (int tries = 0; tries < 20 && !status; tries++) {
    status = dibs_claim(db, &queue, 1, NULL, &jobs);
    if (status == DIBS_OK) r->claims[jobs->jobs[0].id]++;
    dibs_job_list_free(jobs);
    jobs = NULL;
    if (status == DIBS_EMPTY) status = DIBS_OK;
  }
  if (status) wrong(r, db, "claim", status);
  dibs_close(db);
  return NULL;
}

static void a_rate_holds_under_many_claimers(void **state) {
  fixture *f = *state;
  const char *name = "rate", *value = "7/1m";
  pthread_t threads[12];
  int started = 0;
  race *r = race_new(f, 100);
  expect_ok(f->db, dibs_queue_set(f->db, "q", &name, &value, 1));
  for (int i = 0; i < r->jobs; i++) put(f, "q", "1");
  for (int i = 0; i < 12; i++) {
    pthread_create(&threads[i], NULL, claim_all_there_is, r);
  }
  for (int i = 0; i < 12; i++) pthread_join(threads[i], NULL);
  expect_int(r->wrong, 0);
  for (int i = 1; i <= r->jobs; i++) started += r->claims[i];
  expect_int(started, 7);
  race_end(r);
}

/* ---- Lanes under claimers ----------------------------------------------------------------- */

struct lane {
  race *race;
  _Atomic int running[4];
};

static void *claim_lanes(void *context) {
  struct lane *lane = context;
  race *r = lane->race;
  dibs_open_options options = fixture_options(r->f);
  dibs_db *db = NULL;
  int status = dibs_open(r->f->path, &options, &db);
  if (status != DIBS_OK) wrong(r, db, "open", status);
  while (r->acked < r->jobs && r->wrong == 0) {
    dibs_job_list *jobs = NULL;
    const char *queue = "q";
    status = dibs_claim(db, &queue, 1, NULL, &jobs);
    if (status == DIBS_EMPTY) {
      usleep(100);
      continue;
    }
    if (status != DIBS_OK) {
      wrong(r, db, "claim", status);
      break;
    }
    int key = jobs->jobs[0].key[0] - '0';
    int64_t id = jobs->jobs[0].id;
    if (lane->running[key]++ != 0) r->wrong++;
    r->claims[id]++;
    /* The lane's order is that of ids: the one before must be gone. */
    if (id > 4 && r->claims[id - 4] != 1) r->wrong++;
    lane->running[key]--;
    status = dibs_ack(db, jobs->jobs[0].receipt, NULL);
    if (status != DIBS_OK) wrong(r, db, "ack", status);
    r->acked++;
    dibs_job_list_free(jobs);
  }
  dibs_close(db);
  return NULL;
}

static void lanes_hold_under_many_claimers(void **state) {
  fixture *f = *state;
  dibs_job_options options = no_options();
  pthread_t threads[8];
  struct lane lane;
  race *r = race_new(f, 400 / slowness() / 4 * 4);
  memset(&lane, 0, sizeof lane);
  lane.race = r;
  for (int i = 0; i < r->jobs; i++) {
    char key[2] = {(char)('0' + i % 4), '\0'};
    options.key = key;
    put_with(f, "q", "1", &options);
  }
  for (int i = 0; i < 8; i++) {
    pthread_create(&threads[i], NULL, claim_lanes, &lane);
  }
  for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
  expect_each_once(r);
  race_end(r);
}

/* ---- A clock that jumps ----------------------------------------------------------------------- */

struct jumper {
  fixture *f;
  _Atomic int stop;
  int jumps;
};

static void *jump(void *context) {
  struct jumper *jumper = context;
  while (!jumper->stop) {
    jumper->f->now += HOUR;
    usleep(500);
    jumper->f->now -= HOUR;
    usleep(500);
    jumper->jumps++;
  }
  return NULL;
}

/* Leases longer than the jumps: each job is still claimed once. */
static void *claim_while_jumping(void *context) {
  race *r = context;
  dibs_open_options options = fixture_options(r->f);
  dibs_claim_options claim = DIBS_CLAIM_OPTIONS_INIT;
  dibs_db *db = NULL;
  dibs_job_list *jobs = NULL;
  claim.lease = DAY;
  if (dibs_open(r->f->path, &options, &db) != DIBS_OK) r->wrong++;
  while (dibs_claim(db, all_queues, 1, &claim, &jobs) == DIBS_OK) {
    r->claims[jobs->jobs[0].id]++;
    if (dibs_ack(db, jobs->jobs[0].receipt, NULL) != DIBS_OK) r->wrong++;
    r->acked++;
    dibs_job_list_free(jobs);
    jobs = NULL;
  }
  if (dibs_error_status(db) != DIBS_EMPTY) {
    wrong(r, db, "claim", dibs_error_status(db));
  }
  dibs_close(db);
  return NULL;
}

static void a_jumping_clock_loses_and_doubles_nothing(void **state) {
  fixture *f = *state;
  struct jumper jumper;
  pthread_t jumping;
  pthread_t threads[8];
  race *r = race_new(f, 2000 / slowness());
  memset(&jumper, 0, sizeof jumper);
  jumper.f = f;
  fill(f, r->jobs);
  pthread_create(&jumping, NULL, jump, &jumper);
  for (int i = 0; i < 8; i++) {
    pthread_create(&threads[i], NULL, claim_while_jumping, r);
  }
  for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
  jumper.stop = 1;
  pthread_join(jumping, NULL);
  expect_true(jumper.jumps > 0);
  expect_each_once(r);
  race_end(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(fifty_threads_claim_each_job_once),
      TEST(fifty_threads_share_a_handle),
      TEST(fifty_processes_claim_each_job_once),
      TEST(what_goes_in_comes_out),
      TEST(of_many_settlers_one_succeeds),
      TEST(many_enqueuers_of_a_unique_job_get_one),
      TEST(each_row_of_many_batches_is_answered),
      TEST(limits_hold_under_many_claimers),
      TEST(a_rate_holds_under_many_claimers),
      TEST(lanes_hold_under_many_claimers),
      TEST(a_jumping_clock_loses_and_doubles_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
