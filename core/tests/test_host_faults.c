/* SPDX-License-Identifier: MIT */
/*
** test_host_faults.c: operations within a host's transactions and statements
** while memory runs out, and in a process that is killed before one of the
** statements, nested ones included. Afterwards the operation is there whole,
** with what it was part of, or not at all: also when the host commits in spite
** of the error. (One in several steps may be there in part.)
**
** DIBS_TEST_STRIDE=1 tries every allocation, DIBS_TEST_OPERATION one operation.
*/
#include "faults.h"
#include "hosts.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* Every fifth place for an operation, another one for the next; with a rollback
** journal every tenth. */
#define PLACES_STEP ((size_t)(5 * slowness()))

/* ---- Killed -------------------------------------------------------------- */

static int statements_until_death; /* 0: it lives */

static int die_in_time(unsigned what, void *context, void *object, void *text) {
  (void)what;
  (void)context;
  (void)object;
  (void)text;
  if (statements_until_death && --statements_until_death == 0)
    kill(getpid(), SIGKILL);
  return 0;
}

/* In the child: from the beginning of the host's transaction to its end. */
static int child(stage *s, const operation *op, const place *where, int n) {
  host h = host_open(s->f);
  sqlite3_trace_v2(h.sqlite, SQLITE_TRACE_STMT, die_in_time, NULL);
  statements_until_death = n;
  int status = host_do(&h, where, op, 0);
  if (where->commit) host_run(&h, where->commit);
  statements_until_death = 0;
  return status == DIBS_OK ? 0 : 1;
}

/* Nonzero when it was killed. */
static int run_and_kill(stage *s, const operation *op, const place *where,
                        int n) {
  int status = -1;
  pid_t pid = fork();
  if (pid == 0) _exit(child(s, op, where, n));
  if (waitpid(pid, &status, 0) != pid) fail_msg("no child");
  if (WIFSIGNALED(status)) {
    expect_int(WTERMSIG(status), SIGKILL);
    return 1;
  }
  if (WEXITSTATUS(status) != 0)
    fail_msg("%s, %s: failed in the child", op->name, where->name);
  return 0;
}

static int kill_at(stage *s, const operation *op, const place *where) {
  char when[96];
  int kills = 0;
  for (int n = 1;; n += n < 8 ? 1 : slowness()) {
    stage_restore(s, op);
    if (!run_and_kill(s, op, where, n)) break;
    snprintf(when, sizeof when, "%s, killed before statement %d", where->name,
             n);
    if (!op->stepwise || where->begin)
      stage_expect_either(s, op, when);
    else if (!file_is_sound(s->f->path))
      fail_msg("%s, %s", op->name, when);
    kills++;
  }
  stage_expect(s, op, s->after, where->name);
  return kills;
}

static void kill_every_operation(fixture *f, int delete_mode) {
  stage s;
  int kills = 0;
  size_t step = PLACES_STEP << delete_mode;
  host_stage(&s, f, delete_mode);
  for (size_t i = 0; i < operation_count; i++) {
    if (!host_tries(&operations[i])) continue;
    stage_rehearse(&s, &operations[i]);
    for (size_t j = (i + (size_t)delete_mode) % step; j < place_count;
         j += step)
      kills += kill_at(&s, &operations[i], &places[j]);
  }
  print_message("%d kills\n", kills);
  expect_true(kills > (getenv("DIBS_TEST_OPERATION") ? 0 : 300 / slowness()));
  stage_end(&s);
}

static void a_killed_host_leaves_all_or_nothing(void **state) {
  kill_every_operation(*state, 0);
}

static void so_does_one_with_a_rollback_journal(void **state) {
  kill_every_operation(*state, 1);
}

/* ---- Without memory ------------------------------------------------------ */

/* Run with the n-th allocation failing. False when none was left to fail. */
static int run_without_memory(stage *s, const operation *op, const place *where,
                              int64_t n, int forever) {
  char when[128];
  sqlite3 *watch = plain_open(s->f->path);
  int64_t version = data_version(watch);
  host h = host_open(s->f);
  snprintf(when, sizeof when, "%s, %s allocation %lld failing", where->name,
           forever ? "from" : "at", (long long)n);
  host_begin(&h, where, op);
  faults_memory_arm(n, forever);
  int done = host_run_part(&h);
  int failed = faults_memory_disarm(NULL);
  host_end_part(&h);
  if (h.status > DIBS_OK && h.status != DIBS_NOMEM)
    fail_msg("%s, %s: %s (%s)", op->name, when, dibs_status_name(h.status),
             dibs_error(h.db));
  if (!done && !failed)
    fail_msg("%s, %s: failed, and there was memory", op->name, when);
  if (!sqlite3_get_autocommit(h.sqlite)) host_run(&h, where->commit);
  int changed = data_version(watch) != version;
  sqlite3_close(watch);
  host_close(&h);
  if (!done && !changed) return failed;
  if (done || !op->stepwise)
    stage_expect(s, op, done ? s->after : s->before, when);
  else if (!file_is_sound(s->f->path))
    fail_msg("%s, %s", op->name, when);
  stage_restore(s, op);
  return failed;
}

static int64_t starve_at(stage *s, const operation *op, const place *where,
                         int forever) {
  int64_t stride = environment_number("DIBS_TEST_STRIDE", forever ? 97 : 41);
  int64_t runs = 0;
  stage_restore(s, op);
  for (int64_t n = 1; run_without_memory(s, op, where, n, forever);
       n += n < 20 ? 1 : stride * slowness())
    runs++;
  return runs;
}

static void starve_every_operation(fixture *f, int forever) {
  stage s;
  int64_t runs = 0;
  host_stage(&s, f, 0);
  for (size_t i = 0; i < operation_count; i++) {
    if (!host_tries(&operations[i])) continue;
    stage_rehearse(&s, &operations[i]);
    for (size_t j = 0; j < place_count; j++)
      if (place_is_quiet(&places[j]))
        runs += starve_at(&s, &operations[i], &places[j], forever);
  }
  print_message("%lld failures\n", (long long)runs);
  expect_true(runs > (getenv("DIBS_TEST_OPERATION") ? 0 : 1000));
  stage_end(&s);
}

static void one_allocation_fails(void **state) {
  starve_every_operation(*state, 0);
}

static void all_allocations_fail_from_then_on(void **state) {
  starve_every_operation(*state, 1);
}

/* The connection stays what it was, and can be attached to later. */
static void attaching_without_memory(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  int64_t failures = 0;
  f->db = open_another(f);
  for (int forever = 0; forever < 2; forever++) {
    for (int64_t n = 1, failed = 1; failed; n++) {
      dibs_db *db = NULL, *again = NULL;
      sqlite3 *sqlite = plain_open(f->path);
      faults_memory_arm(n, forever);
      int status = dibs_attach(sqlite, NULL, &options, &db);
      failed = faults_memory_disarm(NULL);
      failures += status != DIBS_OK;
      if (status != DIBS_OK) expect_status(db, status, DIBS_NOMEM);
      if (status != DIBS_OK && !failed) fail_msg("there was memory");
      expect_ok(again, dibs_attach(sqlite, NULL, &options, &again));
      if (db) expect_true(db == again);
      expect_ok(again, dibs_enqueue(again, "q", dibs_none(), NULL, NULL));
      expect_int(sqlite3_close(sqlite), SQLITE_OK);
      expect_int(dibs_close(db), DIBS_OK);
      expect_int(dibs_close(again), DIBS_OK);
    }
  }
  expect_true(failures > 20);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(a_killed_host_leaves_all_or_nothing),
      TEST_CLOSED(so_does_one_with_a_rollback_journal),
      TEST_CLOSED(one_allocation_fails),
      TEST_CLOSED(all_allocations_fail_from_then_on),
      TEST_CLOSED(attaching_without_memory),
  };
  faults_memory_install();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
