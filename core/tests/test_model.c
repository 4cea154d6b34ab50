/* SPDX-License-Identifier: MIT */
/*
** test_model.c: random sequences of operations, done to the library and to the
** model side by side: enqueues, claims, settlements, lanes, unique keys, stages,
** expiries, limits and rates, what is kept, pauses, cancels, requeues, clears, and
** processes that are killed. Every status, id and count is compared as it comes,
** and every job in full, in short runs after each step, else at short intervals.
**
** DIBS_TEST_SEED chooses the sequence (the seed is printed), DIBS_TEST_STEPS
** its length; DIBS_TEST_TRACE=1 prints each step.
*/
#include "harness.h"
#include "model.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_JOBS 50 /* so that what falls due at once is tidied at once */
#define RECEIPTS  64

static const char *const names[MODEL_QUEUES] = {"a", "b/1", "b/2", "c"};
static const char *const keys[] = {NULL, "k1", "k2"};
static const char *const uniques[] = {NULL, "u1", "u2", "u3"};
static const char *const limit_keys[MODEL_KEYS] = {NULL, "l1", "l2", "l3"};

typedef struct run {
  fixture *f;
  dibs_db *other; /* a second handle on the file, or NULL */
  model model;
  uint64_t random;
  int64_t step;
  int trace;
  int payload;
  char receipts[RECEIPTS][48]; /* the last ones given, good or stale */
  int next_receipt;
  char cursors[8][8]; /* queue served last, by set of patterns */
  int64_t crashed;    /* jobs whose process was killed */
  int64_t done[20];   /* how often each kind of step was taken */
} run;

/* ---- Chance ----------------------------------------------------------------- */

static uint64_t chance(run *r) {
  r->random ^= r->random << 13;
  r->random ^= r->random >> 7;
  r->random ^= r->random << 17;
  return r->random >> 11;
}

static int below(run *r, int most) {
  return (int)(chance(r) % (uint64_t)most);
}

/* True once in `n` times. */
static int once_in(run *r, int n) {
  return below(r, n) == 0;
}

static int64_t some_delay(run *r) {
  static const int64_t delays[] = {0, 1, 500, 1000, 5000, 60000};
  return delays[below(r, (int)COUNT(delays))];
}

/* An id that is there, most of the time. */
static int64_t some_id(run *r) {
  if (once_in(r, 16)) return 1 + below(r, (int)(r->model.next_id % 1000000));
  for (int tries = 0; tries < 20; tries++) {
    const model_job *job = &r->model.jobs[below(r, MOST_JOBS + 10)];
    if (job->state) return job->id;
  }
  return r->model.next_id;
}

/* ---- Comparing ---------------------------------------------------------------- */

/* What the model holds, for whoever looks for the reason. */
static void show_model(const run *r) {
  print_error("now %lld\n", (long long)(r->model.now - START));
  for (int i = 0; i < MODEL_JOBS; i++) {
    const model_job *job = &r->model.jobs[i];
    if (!job->state) continue;
    print_error(
        "job %lld %s %s%s key %d limit key %d unique %d, due %lld until %lld "
        "expires %lld attempt %lld of %lld\n",
        (long long)job->id, names[job->queue], dibs_state_name(job->state),
        job->head ? " head" : "", job->key, job->limit_key, job->unique,
        job->due_at == DIBS_UNSET ? -1 : (long long)(job->due_at - START),
        (long long)(job->until - START),
        job->expires_at == DIBS_UNSET ? -1
                                      : (long long)(job->expires_at - START),
        (long long)job->attempt, (long long)job->max_attempts);
  }
  for (int i = 0; i < MODEL_QUEUES; i++) {
    const model_queue *q = &r->model.queues[i];
    print_error("queue %s limit %lld, %lld, rate %lld/%lld, %lld/%lld burst"
                " %lld dead_head %d keep_count %lld tokens %g %g %g %g\n",
                names[i], (long long)q->limit, (long long)q->limit_per_key,
                (long long)q->rate.count, (long long)q->rate.period,
                (long long)q->rate_per_key.count,
                (long long)q->rate_per_key.period, (long long)q->burst,
                q->dead_head, (long long)q->keep_count, q->tokens[0],
                q->tokens[1], q->tokens[2], q->tokens[3]);
  }
  for (int i = 0; i < MODEL_JOBS; i++) {
    const model_hold *hold = &r->model.holds[i];
    if (!hold->key) continue;
    print_error("unique %d of %s held by job %lld, then until %lld\n",
                hold->key, hold->queue < 0 ? "all" : names[hold->queue],
                (long long)hold->id,
                hold->until ? (long long)(hold->until - START) : 0);
  }
}

__attribute__((format(printf, 2, 3))) static void
differs(run *r, const char *format, ...) {
  char text[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  show_model(r);
  if (access(r->f->path, F_OK) == 0) {
    char *dump = database_dump(r->f->path);
    print_error("%s\n", dump);
    free(dump);
  }
  fail_msg("step %lld: %s", (long long)r->step, text);
}

static void same_status(run *r, const char *what, int status, int wanted) {
  if (r->trace) {
    print_message("%lld %s: %s\n", (long long)r->step, what,
                  dibs_status_name(wanted));
  }
  if (status == wanted) return;
  differs(r, "%s: %s (%s), the model says %s", what, dibs_status_name(status),
          dibs_error(r->f->db), dibs_status_name(wanted));
}

static void same(run *r, const char *what, int64_t id, int64_t value,
                 int64_t wanted) {
  if (value == wanted) return;
  differs(r, "%s of job %lld: %lld, the model says %lld", what, (long long)id,
          (long long)value, (long long)wanted);
}

/* The state, as the model has it: what a limit holds back is ready there. */
static int state_of(const dibs_job *job, const model_job *m) {
  int aside = job->state == DIBS_BLOCKED && m->state == DIBS_READY;
  return aside && m->limit_key ? DIBS_READY : job->state;
}

static void compare_job(run *r, const dibs_job *job) {
  model_job *m = model_find(&r->model, job->id);
  char payload[16];
  if (!m) {
    differs(r, "job %lld is %s, the model has none", (long long)job->id,
            dibs_state_name(job->state));
    return;
  }
  snprintf(payload, sizeof payload, "%d", m->payload);
  same(r, "state", job->id, state_of(job, m), m->state);
  same(r, "outcome", job->id, job->outcome,
       m->state == DIBS_DONE ? m->outcome : 0);
  same(r, "priority", job->id, job->priority, m->priority);
  same(r, "attempt", job->id, job->attempt, m->attempt);
  same(r, "crashes", job->id, job->crashes, m->crashes);
  same(r, "max_attempts", job->id, job->max_attempts, m->max_attempts);
  same(r, "created_at", job->id, job->created_at, m->created_at);
  same(r, "due_at", job->id, job->due_at,
       m->due_at == DIBS_UNSET ? m->created_at : m->due_at);
  same(r, "expires_at", job->id, job->expires_at, m->expires_at);
  same(r, "lease_until", job->id, job->lease_until,
       m->state == DIBS_RUNNING ? m->until : DIBS_UNSET);
  same(r, "finished_at", job->id, job->finished_at,
       m->state >= DIBS_DONE ? m->finished_at : DIBS_UNSET);
  if (m->state >= DIBS_RUNNING) {
    same(r, "claimed_at", job->id, job->claimed_at, m->claimed_at);
  }
  if (strcmp(job->queue, names[m->queue]) != 0) {
    differs(r, "job %lld is in queue %s", (long long)job->id, job->queue);
  }
  if (strcmp(job->payload.data, payload) != 0) {
    differs(r, "payload of job %lld", (long long)job->id);
  }
  if ((job->last_error != NULL) != (m->errors > 0)) {
    differs(r, "errors of job %lld", (long long)job->id);
  }
}

static void compare_jobs(run *r) {
  dibs_list_options options = DIBS_LIST_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  options.limit = 1000;
  int status = dibs_list(r->f->db, NULL, 0, &options, &jobs);
  same_status(r, "list", status, DIBS_OK);
  if (jobs->count != model_count(&r->model)) {
    differs(r, "%zu jobs, the model has %zu", jobs->count,
            model_count(&r->model));
  }
  for (size_t i = 0; i < jobs->count; i++) compare_job(r, &jobs->jobs[i]);
  dibs_job_list_free(jobs);
}

static void compare_counts(run *r) {
  dibs_stats_list *stats = NULL;
  int64_t states[MODEL_QUEUES][DIBS_DEAD + 1];
  memset(states, 0, sizeof states);
  for (int i = 0; i < MODEL_JOBS; i++) {
    const model_job *job = &r->model.jobs[i];
    states[job->queue][job->state]++;
  }
  same_status(r, "stats", dibs_stats(r->f->db, names, MODEL_QUEUES, &stats),
              DIBS_OK);
  for (int i = 0; i < MODEL_QUEUES; i++) {
    const dibs_queue_stats *queue = &stats->queues[i];
    same(r, "ready or blocked", i, queue->ready + queue->blocked,
         states[i][DIBS_READY] + states[i][DIBS_BLOCKED]);
    same(r, "scheduled", i, queue->scheduled, states[i][DIBS_SCHEDULED]);
    same(r, "staged", i, queue->staged, states[i][DIBS_STAGED]);
    same(r, "running", i, queue->running, states[i][DIBS_RUNNING]);
    same(r, "done", i, queue->done, states[i][DIBS_DONE]);
    same(r, "dead", i, queue->dead, states[i][DIBS_DEAD]);
    same(r, "expired", i, queue->expired, r->model.expired[i]);
    same(r, "paused", i, queue->paused, r->model.paused[i]);
  }
  dibs_stats_list_free(stats);
}

/* ---- Steps --------------------------------------------------------------------- */

static dibs_job_options options_of(const model_job *job, int64_t now) {
  dibs_job_options options = no_options();
  options.priority = job->priority;
  options.max_attempts = job->max_attempts;
  options.backoff = job->backoff;
  options.backoff_factor = job->backoff_factor;
  options.backoff_cap = job->backoff_cap;
  options.backoff_jitter = 0;
  options.keep = job->keep;
  options.max_crashes = job->max_crashes;
  options.limit_key = limit_keys[job->limit_key];
  options.key = keys[job->key];
  options.unique = uniques[job->unique];
  if (job->expires_at != DIBS_UNSET) options.expires = job->expires_at - now;
  if (job->due_at != DIBS_UNSET) options.delay = job->due_at - now;
  if (!job->unique) return options;
  options.unique_scope = job->scope_all;
  options.unique_for = job->unique_for;
  if (job->unique_for > 0) options.unique_for = job->unique_for - now;
  return options;
}

static void choose_unique(run *r, model_job *job) {
  static const int64_t times[] = {DIBS_UNIQUE_UNTIL_START,
                                  DIBS_UNIQUE_UNTIL_FINISH, 1000, 60000};
  job->unique = 1 + below(r, (int)COUNT(uniques) - 1);
  job->scope_all = once_in(r, 4);
  job->unique_for = times[below(r, (int)COUNT(times))];
  if (job->unique_for > 0) job->unique_for += r->model.now;
}

static model_job choose_job(run *r) {
  static const int64_t keeps[] = {DIBS_UNSET, 0, 1000, 60000, DIBS_FOREVER};
  int64_t now = r->model.now;
  model_job job;
  memset(&job, 0, sizeof job);
  job.queue = below(r, MODEL_QUEUES);
  job.payload = ++r->payload % 100000;
  job.priority = once_in(r, 3) ? below(r, 5) - 2 : 0;
  job.due_at = DIBS_UNSET;
  if (once_in(r, 3)) {
    int64_t delay = some_delay(r);
    if (delay > 0) job.due_at = now + delay;
  }
  job.expires_at = DIBS_UNSET;
  if (once_in(r, 5)) job.expires_at = now + 1 + some_delay(r);
  job.max_attempts = below(r, 5);
  job.backoff = some_delay(r);
  job.backoff_factor = 1 + below(r, 5) / 2.0;
  job.backoff_cap = 20000;
  job.keep = keeps[below(r, (int)COUNT(keeps))];
  if (job.keep == DIBS_FOREVER && !once_in(r, 4)) job.keep = DIBS_UNSET;
  job.max_crashes = below(r, 4);
  if (!once_in(r, 3)) job.limit_key = below(r, MODEL_KEYS);
  if (once_in(r, 2)) job.key = below(r, (int)COUNT(keys));
  if (once_in(r, 3)) choose_unique(r, &job);
  return job;
}

static void step_enqueue(run *r) {
  model_job job = choose_job(r);
  dibs_job_options options = options_of(&job, r->model.now);
  char payload[16];
  dibs_enqueued result = {0, 0, 0};
  int64_t stage = once_in(r, 6) ? 1 + some_delay(r) : DIBS_UNSET;
  int64_t id = 0;
  int existing = 0;
  if (job.unique) options.on_conflict = below(r, 4);
  options.stage = stage;
  snprintf(payload, sizeof payload, "%d", job.payload);
  dibs_new_job new_job = {names[job.queue], dibs_json(payload), &options};
  int status = dibs_enqueue_many(r->f->db, &new_job, 1, &result);
  id = status == DIBS_EXISTS ? dibs_error_id(r->f->db) : result.id;
  int wanted = model_enqueue(&r->model, &job, stage, options.on_conflict, &id,
                             &existing);
  same_status(r, "enqueue", status, wanted);
  if (status == DIBS_EXISTS) {
    same(r, "error_id", id, dibs_error_id(r->f->db), id);
    return;
  }
  same(r, "id", id, result.id, id);
  same(r, "existing", id, result.existing, existing);
}

static void step_commit(run *r) {
  int64_t id = some_id(r);
  int abort_it = once_in(r, 3);
  int status = abort_it ? dibs_abort(r->f->db, id) : dibs_commit(r->f->db, id);
  int wanted =
      abort_it ? model_abort(&r->model, id) : model_commit(&r->model, id);
  same_status(r, abort_it ? "abort" : "commit", status, wanted);
}

static void remember(run *r, const char *receipt) {
  snprintf(r->receipts[r->next_receipt], sizeof r->receipts[0], "%s", receipt);
  r->next_receipt = (r->next_receipt + 1) % RECEIPTS;
}

/* Sets of patterns, and the queues that each means, in the order of names. */
static const struct set {
  const char *patterns[2];
  size_t count;
  int queues[MODEL_QUEUES + 1]; /* ends with -1 */
} sets[] = {
    {{"a"}, 1, {0, -1}},         {{"b/1"}, 1, {1, -1}},
    {{"b/2"}, 1, {2, -1}},       {{"c"}, 1, {3, -1}},
    {{"b/*"}, 1, {1, 2, -1}},    {{DIBS_ALL}, 1, {0, 1, 2, 3, -1}},
    {{"c", "a"}, 2, {0, 3, -1}}, {{"a", "b/*"}, 2, {0, 1, 2, -1}},
};

/* The job that is next by turns, after the queue that was served last. */
static model_job *next_by_turns(run *r, const struct set *set, char *last) {
  for (int pass = 0; pass < 2; pass++) {
    for (const int *queue = set->queues; *queue >= 0; queue++) {
      int after = strcmp(names[*queue], last) > 0;
      if (after == pass) continue;
      model_job *job = model_next(&r->model, *queue);
      if (!job) continue;
      snprintf(last, sizeof r->cursors[0], "%s", names[*queue]);
      return job;
    }
  }
  return NULL;
}

static model_job *next_in_order(run *r, const struct set *set) {
  /* The only set whose order is not that of names is {"c", "a"}. */
  static const int swapped[] = {3, 0, -1};
  const int *queue =
      set->count == 2 && set->patterns[0][0] == 'c' ? swapped : set->queues;
  for (; *queue >= 0; queue++) {
    model_job *job = model_next(&r->model, *queue);
    if (job) return job;
  }
  return NULL;
}

static void compare_claim(run *r, size_t at, const dibs_job_list *jobs,
                          int64_t lease, int in_order) {
  const struct set *set = &sets[at];
  for (size_t i = 0; i < jobs->count; i++) {
    const dibs_job *job = &jobs->jobs[i];
    model_job *m = in_order || set->queues[1] < 0
                       ? next_in_order(r, set)
                       : next_by_turns(r, set, r->cursors[at]);
    if (!m) {
      differs(r, "claim gave job %lld", (long long)job->id);
      return;
    }
    same(r, "claimed", (int64_t)i, job->id, m->id);
    model_claim(&r->model, m, lease, job->receipt);
    same(r, "attempt", job->id, job->attempt, m->attempt);
    same(r, "lease_until", job->id, job->lease_until, m->until);
    remember(r, job->receipt);
  }
}

/* Whoever waits after a claim that found nothing wakes in time for the next token
** of a rate. */
static void compare_tokens(run *r, const struct set *set) {
  int64_t at = 0;
  same_status(r, "next_event", dibs_next_event(r->f->db, &at), DIBS_OK);
  for (const int *queue = set->queues; *queue >= 0; queue++) {
    int64_t due = model_token_due(&r->model, *queue);
    if (due != DIBS_UNSET && (at == DIBS_UNSET || at > due)) {
      differs(r, "next event at %lld, but queue %s has a token at %lld",
              (long long)at, names[*queue], (long long)due);
    }
  }
}

static void step_claim(run *r) {
  size_t at = (size_t)below(r, (int)COUNT(sets));
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  options.n = once_in(r, 3) ? 1 + below(r, 5) : 1;
  options.lease = 1 + some_delay(r);
  options.in_order = once_in(r, 4);
  int status =
      dibs_claim(r->f->db, sets[at].patterns, sets[at].count, &options, &jobs);
  model_tidy(&r->model);
  if (r->trace) {
    print_message("claim of %s%s, n %lld, %s\n", sets[at].patterns[0],
                  sets[at].count > 1 ? " and another" : "",
                  (long long)options.n,
                  options.in_order ? "in order" : "by turns");
  }
  if (status == DIBS_OK) {
    compare_claim(r, at, jobs, options.lease, options.in_order);
    if ((int64_t)jobs->count < options.n && next_in_order(r, &sets[at])) {
      differs(r, "claim gave %zu jobs, there were more", jobs->count);
    }
  }
  same_status(r, "claim", status,
              status == DIBS_OK || next_in_order(r, &sets[at]) ? DIBS_OK
                                                               : DIBS_EMPTY);
  if (status == DIBS_EMPTY) compare_tokens(r, &sets[at]);
  dibs_job_list_free(jobs);
}

/* ---- Crashes ---- */

enum { CRASH_MOST = 3 };

/* What a process tells of the jobs it has claimed, before it is killed. */
typedef struct crash_report {
  size_t count;
  struct {
    int64_t id;
    int64_t attempt;
    int64_t lease_until;
    char receipt[48];
  } jobs[CRASH_MOST];
} crash_report;

/* In a process of its own: claim, with leases that end with it, and die. */
__attribute__((noreturn)) static void claim_and_die(fixture *f, size_t at,
                                                    int64_t n, int out) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_open_options open = fixture_options(f);
  dibs_job_list *jobs = NULL;
  dibs_db *db = NULL;
  crash_report report = {.count = 0};
  options.attached = 1;
  options.n = n;
  options.lease = HOUR;
  dibs_open(f->path, &open, &db);
  int status =
      dibs_claim(db, sets[at].patterns, sets[at].count, &options, &jobs);
  report.count = status == DIBS_OK ? jobs->count : 0;
  if (status != DIBS_OK && status != DIBS_EMPTY) _exit(1);
  for (size_t i = 0; i < report.count; i++) {
    report.jobs[i].id = jobs->jobs[i].id;
    report.jobs[i].attempt = jobs->jobs[i].attempt;
    report.jobs[i].lease_until = jobs->jobs[i].lease_until;
    snprintf(report.jobs[i].receipt, sizeof report.jobs[i].receipt, "%s",
             jobs->jobs[i].receipt);
  }
  if (write(out, &report, sizeof report) != sizeof report) _exit(1);
  kill(getpid(), SIGKILL);
  _exit(1);
}

static crash_report crash_run(run *r, size_t at, int64_t n) {
  crash_report report = {.count = 0};
  int ends[2];
  int how = 0;
  expect_int(pipe(ends), 0);
  pid_t child = fork();
  if (child == 0) claim_and_die(r->f, at, n, ends[1]);
  close(ends[1]);
  ssize_t size = read(ends[0], &report, sizeof report);
  close(ends[0]);
  expect_int(waitpid(child, &how, 0), child);
  expect_int(size, sizeof report);
  expect_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
  return report;
}

/* Others find out within a second or two, as they claim. */
static void crash_await(run *r, const crash_report *report) {
  static const char *const unused[] = {"nobody's"};
  for (int tries = 0; tries < 20000; tries++) {
    dibs_job_list *jobs = NULL;
    int64_t held_still = 0;
    int status = dibs_claim(r->f->db, unused, 1, NULL, &jobs);
    same_status(r, "claim", status, DIBS_EMPTY);
    for (size_t i = 0; i < report->count; i++) {
      status = dibs_get(r->f->db, report->jobs[i].id, &jobs);
      held_still += status == DIBS_OK && jobs->jobs[0].state == DIBS_RUNNING;
      dibs_job_list_free(jobs);
    }
    if (!held_still) return;
    usleep(1000);
  }
  differs(r, "what a dead process held is still held");
}

/* A process that claims some jobs is killed. */
static void step_crash(run *r) {
  size_t at = (size_t)below(r, (int)COUNT(sets));
  int64_t n = 1 + below(r, CRASH_MOST);
  dibs_job jobs[CRASH_MOST];
  crash_report report = crash_run(r, at, n);
  model_tidy(&r->model);
  memset(jobs, 0, sizeof jobs);
  for (size_t i = 0; i < report.count; i++) {
    jobs[i].id = report.jobs[i].id;
    jobs[i].attempt = report.jobs[i].attempt;
    jobs[i].lease_until = report.jobs[i].lease_until;
    jobs[i].receipt = report.jobs[i].receipt;
  }
  dibs_job_list list = {report.count, jobs};
  compare_claim(r, at, &list, HOUR, 0);
  crash_await(r, &report);
  for (size_t i = 0; i < report.count; i++) {
    model_crash(&r->model, model_find(&r->model, report.jobs[i].id));
  }
  model_tidy(&r->model);
  r->crashed += (int64_t)report.count;
}

/* ---- The rest ---- */

static void settle_some(run *r, dibs_settlement *s, size_t count) {
  for (size_t i = 0; i < count; i++) {
    memset(&s[i], 0, sizeof s[i]);
    s[i].receipt = r->receipts[below(r, RECEIPTS)];
    s[i].action = 1 + below(r, DIBS_EXTEND);
    s[i].delay = some_delay(r);
    s[i].lease = 1 + some_delay(r);
    if (s[i].action == DIBS_RETRY && once_in(r, 2)) s[i].delay = DIBS_UNSET;
    if (once_in(r, 2)) s[i].error = "because";
  }
}

static void step_settle(run *r) {
  dibs_settlement s[4];
  size_t count = (size_t)(once_in(r, 3) ? 1 + below(r, 4) : 1);
  settle_some(r, s, count);
  same_status(r, "settle", dibs_settle(r->f->db, s, count), DIBS_OK);
  for (size_t i = 0; i < count; i++) {
    model_job *job = model_holder(&r->model, s[i].receipt);
    int wanted = job ? DIBS_OK : s[i].receipt[0] ? DIBS_LOST : DIBS_INVALID;
    same_status(r, "settled", s[i].status, wanted);
    if (!job) continue;
    model_settle(&r->model, job, s[i].action, s[i].delay, s[i].lease,
                 s[i].error != NULL);
    same(r, "settled state", job->id, s[i].state,
         job->state ? job->state : DIBS_DONE);
    same(r, "settled id", job->id, s[i].id, job->id);
  }
}

static void step_checkpoint(run *r) {
  const char *receipt = r->receipts[below(r, RECEIPTS)];
  int64_t lease = once_in(r, 2) ? 1 + some_delay(r) : DIBS_UNSET;
  int payload = ++r->payload % 100000;
  char json[16];
  snprintf(json, sizeof json, "%d", payload);
  model_job *job = model_holder(&r->model, receipt);
  int wanted = job ? DIBS_OK : receipt[0] ? DIBS_LOST : DIBS_INVALID;
  same_status(r, "progress", dibs_progress(r->f->db, receipt, 0.5, json),
              wanted);
  same_status(r, "checkpoint",
              dibs_checkpoint(r->f->db, receipt, dibs_json(json), lease),
              wanted);
  if (job) model_checkpoint(&r->model, job, payload, lease);
}

/* Whether the library has a queue, which need not be told by the model: it may
** have been pruned, or never used. */
static int queue_is_there(run *r, int queue) {
  dibs_stats_list *stats = NULL;
  int there = 0;
  same_status(r, "stats", dibs_stats(r->f->db, NULL, 0, &stats), DIBS_OK);
  for (size_t i = 0; i < stats->count; i++) {
    there = there || strcmp(stats->queues[i].queue, names[queue]) == 0;
  }
  dibs_stats_list_free(stats);
  return there;
}

/* Resumed more often than paused, lest all work stand still. */
static void step_pause(run *r) {
  const struct set *set = &sets[below(r, (int)COUNT(sets))];
  int pause = once_in(r, 3);
  int64_t changed = -1;
  int64_t wanted = 0;
  for (const int *queue = set->queues; *queue >= 0; queue++) {
    int named = 0;
    for (size_t i = 0; i < set->count; i++) {
      named = named || strcmp(set->patterns[i], names[*queue]) == 0;
    }
    /* A name makes the queue, a prefix takes those that are there. */
    if (named || queue_is_there(r, *queue)) {
      wanted += model_pause(&r->model, *queue, pause);
    }
  }
  int status = pause
                   ? dibs_pause(r->f->db, set->patterns, set->count, &changed)
                   : dibs_resume(r->f->db, set->patterns, set->count, &changed);
  same_status(r, pause ? "pause" : "resume", status, DIBS_OK);
  same(r, pause ? "paused" : "resumed", 0, changed, wanted);
}

/* Rates whose tokens are binary fractions, so that it does not matter how often
** they are counted. */
static void choose_rate(run *r, model_rate *rate, char text[32]) {
  *rate = (model_rate){0, 0};
  snprintf(text, 32, "none");
  if (once_in(r, 2)) return;
  rate->count = 1 << below(r, 3);
  rate->period = once_in(r, 2) ? 1024 : 16384;
  snprintf(text, 32, "%d/%dms", (int)rate->count, (int)rate->period);
}

static int64_t choose_count(run *r, int most, char text[32]) {
  int64_t count = once_in(r, 2) ? below(r, most + 1) : -1;
  snprintf(text, 32, count < 0 ? "none" : "%d", (int)count);
  return count;
}

/* Some settings of a queue, at once. */
static void step_set(run *r) {
  int queue = below(r, MODEL_QUEUES);
  model_queue wanted = r->model.queues[queue];
  const char *settings[8];
  const char *values[8];
  char texts[8][32];
  size_t count = 0;
  for (int what = 0; what < 7; what++) {
    static const char *const all[] = {
        "limit", "limit_per_key", "rate",      "rate_per_key",
        "burst", "dead_head",     "keep_count"};
    char *text = texts[count];
    if (!once_in(r, 3)) continue;
    switch (what) {
    case 0: wanted.limit = choose_count(r, 4, text); break;
    case 1: wanted.limit_per_key = choose_count(r, 2, text); break;
    case 2: choose_rate(r, &wanted.rate, text); break;
    case 3: choose_rate(r, &wanted.rate_per_key, text); break;
    case 4:
      wanted.burst = choose_count(r, 8, text);
      if (wanted.burst < 0) wanted.burst = 0;
      break;
    case 5:
      wanted.dead_head = below(r, 2);
      snprintf(text, 32, wanted.dead_head ? "block" : "skip");
      break;
    default: wanted.keep_count = choose_count(r, 4, text);
    }
    settings[count] = all[what];
    values[count++] = text;
  }
  same_status(r, "set",
              dibs_queue_set(r->f->db, names[queue], settings, values, count),
              DIBS_OK);
  model_set(&r->model, queue, &wanted);
}

static void step_cancel(run *r) {
  int64_t ids[3];
  dibs_id_outcome outcomes[3];
  size_t count = (size_t)(once_in(r, 4) ? 3 : 1);
  for (size_t i = 0; i < count; i++) ids[i] = some_id(r);
  same_status(r, "cancel", dibs_cancel(r->f->db, ids, count, outcomes, NULL),
              DIBS_OK);
  for (size_t i = 0; i < count; i++) {
    same_status(r, "cancelled", outcomes[i].status,
                model_cancel(&r->model, ids[i]));
  }
}

static void step_change(run *r) {
  dibs_change_options options = DIBS_CHANGE_OPTIONS_INIT;
  int64_t id = some_id(r);
  int64_t due_at = DIBS_UNSET;
  if (once_in(r, 2)) options.priority = below(r, 5) - 2;
  if (once_in(r, 2)) {
    options.delay = some_delay(r);
    due_at = r->model.now + options.delay;
  }
  same_status(r, "change", dibs_change(r->f->db, id, &options),
              model_change(&r->model, id, options.priority, due_at));
}

static void step_requeue(run *r) {
  int64_t ids[2] = {some_id(r), some_id(r)};
  dibs_id_outcome outcomes[2];
  same_status(r, "requeue", dibs_requeue(r->f->db, ids, 2, outcomes, NULL),
              DIBS_OK);
  for (int i = 0; i < 2; i++) {
    same_status(r, "requeued", outcomes[i].status,
                model_requeue(&r->model, ids[i]));
  }
}

/* Dead jobs are redriven by id. */
static void model_redrive(run *r, const struct set *set, int64_t *moved,
                          int64_t *skipped) {
  for (int64_t id = 0;;) {
    model_job *next = NULL;
    for (const int *queue = set->queues; *queue >= 0; queue++) {
      for (int i = 0; i < MODEL_JOBS; i++) {
        model_job *job = &r->model.jobs[i];
        if (job->state == DIBS_DEAD && job->queue == *queue && job->id > id &&
            (!next || job->id < next->id)) {
          next = job;
        }
      }
    }
    if (!next) return;
    id = next->id;
    if (model_requeue(&r->model, id) == DIBS_OK) {
      ++*moved;
    } else {
      ++*skipped;
    }
  }
}

static void step_redrive(run *r) {
  const struct set *set = &sets[below(r, (int)COUNT(sets))];
  int64_t moved = 0;
  int64_t wanted = 0;
  int64_t skipped = 0;
  int64_t *ids = NULL;
  size_t count = 0;
  same_status(
      r, "redrive",
      dibs_redrive(r->f->db, set->patterns, set->count, &moved, &ids, &count),
      DIBS_OK);
  dibs_free(ids);
  model_redrive(r, set, &wanted, &skipped);
  same(r, "redriven", 0, moved, wanted);
  same(r, "skipped", 0, (int64_t)count, skipped);
}

static void step_clear(run *r) {
  const struct set *set = &sets[below(r, (int)COUNT(sets))];
  int purge = once_in(r, 2);
  int dead = purge || once_in(r, 2);
  int64_t removed = 0;
  int64_t wanted = 0;
  int status =
      purge ? dibs_purge(r->f->db, set->patterns, set->count, &removed)
            : dibs_clear(r->f->db, set->patterns, set->count, dead, &removed);
  for (const int *queue = set->queues; *queue >= 0; queue++) {
    wanted += model_clear(&r->model, *queue, !purge, dead);
  }
  same_status(r, "clear", status, DIBS_OK);
  same(r, "cleared", 0, removed, wanted);
}

static void step_prune(run *r) {
  int64_t removed = 0;
  same_status(r, "prune", dibs_prune(r->f->db, &removed), DIBS_OK);
  same(r, "pruned", 0, removed, model_prune(&r->model));
}

/* Nothing happens by time alone before the time that is said. */
static void step_next_event(run *r) {
  int64_t at = 0;
  same_status(r, "next_event", dibs_next_event(r->f->db, &at), DIBS_OK);
  for (int i = 0; i < MODEL_JOBS; i++) {
    const model_job *job = &r->model.jobs[i];
    int64_t event = DIBS_UNSET;
    if (job->state == DIBS_RUNNING || job->state == DIBS_STAGED) {
      event = job->until;
    }
    if (job->state == DIBS_SCHEDULED) event = job->due_at;
    if (event != DIBS_UNSET && (at == DIBS_UNSET || at > event)) {
      differs(r, "next event at %lld, but job %lld has one at %lld",
              (long long)at, (long long)job->id, (long long)event);
    }
  }
}

/* Whether `job` is one that a peek on its queue shows. */
static int peekable(const run *r, const model_job *job, int queue) {
  int due = job->state == DIBS_SCHEDULED && job->due_at <= r->model.now;
  int expired =
      job->expires_at != DIBS_UNSET && job->expires_at <= r->model.now;
  return job->queue == queue && !r->model.paused[queue] &&
         (job->state == DIBS_READY || due) && !expired;
}

static void step_peek(run *r) {
  int queue = below(r, MODEL_QUEUES);
  dibs_job_list *jobs = NULL;
  const model_job *best = NULL;
  /* What limits hold back it may show, or have put aside. */
  for (int i = 0; i < MODEL_JOBS; i++) {
    const model_job *job = &r->model.jobs[i];
    if (job->state == DIBS_READY && job->queue == queue && job->limit_key)
      return;
  }
  if (model_limited(&r->model, queue)) return;
  int status = dibs_peek(r->f->db, &names[queue], 1, 1, &jobs);
  for (int i = 0; i < MODEL_JOBS; i++) {
    const model_job *job = &r->model.jobs[i];
    if (!peekable(r, job, queue)) continue;
    if (!best || job->priority > best->priority ||
        (job->priority == best->priority && job->id < best->id)) {
      best = job;
    }
  }
  same_status(r, "peek", status, best ? DIBS_OK : DIBS_EMPTY);
  if (best) same(r, "peeked", best->id, jobs->jobs[0].id, best->id);
  dibs_job_list_free(jobs);
}

static void step_clock(run *r) {
  static const int64_t leaps[] = {1, 1, 100, 1000, 5000, 70000};
  r->model.now += leaps[below(r, (int)COUNT(leaps))];
  r->f->now = r->model.now;
}

/* ---- The run ---------------------------------------------------------------------- */

static void step(run *r) {
  static const struct {
    int weight;
    void (*take)(run *);
  } steps[] = {
      {30, step_enqueue}, {24, step_claim},     {30, step_settle},
      {10, step_clock},   {4, step_commit},     {3, step_cancel},
      {3, step_change},   {3, step_requeue},    {1, step_redrive},
      {1, step_clear},    {1, step_prune},      {1, step_next_event},
      {3, step_peek},     {4, step_checkpoint}, {2, step_pause},
      {1, step_set},
  };
  int total = 0;
  for (size_t i = 0; i < COUNT(steps); i++) total += steps[i].weight;
  if (r->other && once_in(r, 4)) {
    dibs_db *db = r->f->db;
    r->f->db = r->other;
    r->other = db;
  }
  int chosen = below(r, total);
  size_t at = 0;
  while (chosen >= steps[at].weight) chosen -= steps[at++].weight;
  if (at == 0 && model_count(&r->model) >= MOST_JOBS) at = 1;
  r->done[at]++;
  steps[at].take(r);
}

static void run_model(fixture *f, dibs_db *other, uint64_t seed,
                      int64_t steps) {
  run *r = calloc(1, sizeof *r);
  expect_true(r != NULL);
  r->f = f;
  r->other = other;
  r->random = seed * 0x9E3779B97F4A7C15u + 1;
  r->trace = (int)environment_number("DIBS_TEST_TRACE", 0);
  model_start(&r->model, START);
  for (r->step = 1; r->step <= steps; r->step++) {
    if (r->other && once_in(r, 2000))
      step_crash(r);
    else
      step(r);
    /* A short run is looked at after each step. */
    if (steps < 1000 || r->step % 32 == 0) compare_jobs(r);
    if (r->step % 256 == 0) compare_counts(r);
    /* Start afresh, so that kept and dead ones do not fill the place. */
    if (model_count(&r->model) >= MOST_JOBS && once_in(r, 50)) {
      const char *all = DIBS_ALL;
      expect_ok(f->db, dibs_clear(f->db, &all, 1, 1, NULL));
      model_clear(&r->model, -1, 1, 1);
    }
  }
  for (size_t i = 0; steps >= 5000 && i < 16; i++) {
    expect_true(r->done[i] > 0);
  }
  if (r->other && steps >= 20000) expect_true(r->crashed > 0);
  dibs_close(r->other);
  free(r);
}

static uint64_t choose_seed(void) {
  int64_t chosen = environment_number("DIBS_TEST_SEED", 0);
  if (chosen) return (uint64_t)chosen;
  return (uint64_t)time(NULL) * 1000 + (uint64_t)getpid() % 1000;
}

static void the_library_follows_the_model(void **state) {
  int64_t steps = environment_number("DIBS_TEST_STEPS", 1000000 / slowness());
  uint64_t seed = choose_seed();
  print_message("DIBS_TEST_SEED=%llu\n", (unsigned long long)seed);
  run_model(*state, NULL, seed, steps);
}

/* A shorter run in a file, whose rules the fixture checks at its end, by two
** handles in turn: what one remembers, the other has changed. */
static void so_it_does_in_a_file(void **state) {
  fixture *f = *state;
  int64_t steps = environment_number("DIBS_TEST_STEPS", 20000 / slowness());
  uint64_t seed = choose_seed() + 1;
  print_message("DIBS_TEST_SEED=%llu\n", (unsigned long long)seed);
  run_model(f, open_another(f), seed, steps);
}

/* The rules of the schema at many moments of short runs. */
static void the_rules_hold_at_any_moment(void **state) {
  fixture *f = *state;
  uint64_t seed = choose_seed() + 2;
  print_message("DIBS_TEST_SEED=%llu\n", (unsigned long long)seed);
  for (int i = 0; i < 60 / slowness(); i++) {
    run_model(f, NULL, seed + (uint64_t)i, 400);
    if (!file_is_sound(f->path)) {
      fail_msg("seed %llu", (unsigned long long)seed + (unsigned)i);
    }
    expect_int(dibs_close(f->db), DIBS_OK);
    file_remove(f->path);
    f->now = START;
    f->db = open_another(f);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_MEMORY(the_library_follows_the_model),
      TEST(so_it_does_in_a_file),
      TEST(the_rules_hold_at_any_moment),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
