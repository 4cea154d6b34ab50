/* SPDX-License-Identifier: MIT */
/*
** test_kill.c: each operation in a process that is killed before one of its
** statements: before the first, then before the second, and so on until it
** lives. Afterwards the operation has happened whole or not at all. (With a
** sanitizer, which makes forking slow, some statements are skipped.)
*/
#include "operations.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static int statements_until_death; /* 0: it lives */

static void die_in_time(const char *sql) {
  (void)sql;
  if (statements_until_death && --statements_until_death == 0) {
    kill(getpid(), SIGKILL);
  }
}

/* In the child: run the operation and be killed before statement `n` of it. */
static int child(stage *s, const operation *op, int n) {
  int opening = op->open != NULL;
  dibs_db *db;
  if (opening) statements_until_death = n;
  on_statement(die_in_time);
  db = stage_open(s, op);
  statements_until_death = n;
  int status = stage_run(s, op, db);
  statements_until_death = 0;
  dibs_close(db);
  return status == DIBS_OK ? 0 : 1;
}

/* Nonzero when it was killed. */
static int run_and_kill(stage *s, const operation *op, int n) {
  int status = -1;
  pid_t pid = fork();
  if (pid == 0) _exit(child(s, op, n));
  if (waitpid(pid, &status, 0) != pid) fail_msg("no child");
  if (WIFSIGNALED(status)) {
    expect_int(WTERMSIG(status), SIGKILL);
    return 1;
  }
  if (WEXITSTATUS(status) != 0) {
    fail_msg("%s failed in the child", op->name);
  }
  return 0;
}

/* After a kill: whole or not at all, and it can be done (again). */
static void look_after(stage *s, const operation *op, int n) {
  char when[64];
  snprintf(when, sizeof when, "killed before statement %d", n);
  if (!op->stepwise && !op->open) {
    stage_expect_either(s, op, when);
    return;
  }
  if (!file_is_sound(s->f->path)) fail_msg("%s, %s", op->name, when);
  dibs_db *db = stage_open(s, op);
  int status = stage_run(s, op, db);
  if (status != DIBS_OK) {
    fail_msg("%s, %s, then %s", op->name, when, dibs_status_name(status));
  }
  expect_int(dibs_close(db), DIBS_OK);
  stage_expect(s, op, s->after, when);
}

static void kill_every_operation(fixture *f, int delete_mode) {
  stage s;
  int kills = 0;
  stage_prepare(&s, f, delete_mode);
  for (size_t i = 0; i < operation_count; i++) {
    const operation *op = &operations[i];
    stage_rehearse(&s, op);
    for (int n = 1;; n += n < 8 ? 1 : slowness()) {
      stage_restore(&s, op);
      if (!run_and_kill(&s, op, n)) break;
      look_after(&s, op, n);
      kills++;
    }
    stage_expect(&s, op, s.after, "unharmed");
  }
  print_message("%d kills\n", kills);
  expect_true(kills > 200 / slowness());
  stage_end(&s);
}

static void a_killed_operation_is_whole_or_not_at_all(void **state) {
  kill_every_operation(*state, 0);
}

static void so_it_is_with_a_rollback_journal(void **state) {
  kill_every_operation(*state, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(a_killed_operation_is_whole_or_not_at_all),
      TEST_CLOSED(so_it_is_with_a_rollback_journal),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
