/* SPDX-License-Identifier: MIT */
/*
** test_host.c: each operation at each place in a host's transactions and
** statements: done, or taken back with what it is part of.
*/
#include "hosts.h"

typedef void check(stage *s, const operation *op, const place *where);

/* A file in the fixture's place, as it is before each operation. */
static void for_all(fixture *f, int delete_mode, check *one) {
  stage s;
  host_stage(&s, f, delete_mode);
  for (size_t i = 0; i < operation_count; i += (size_t)slowness()) {
    const operation *op = &operations[i];
    if (!host_tries(op)) continue;
    stage_rehearse(&s, op);
    for (size_t j = 0; j < place_count; j++) {
      stage_restore(&s, op);
      one(&s, op, &places[j]);
    }
  }
  stage_end(&s);
}

static void expect_done(host *h, int status, const operation *op,
                        const place *where) {
  if (status == DIBS_OK) return;
  fail_msg("%s, %s: %s (%s; %s)", op->name, where->name,
           status < 0 ? "not called" : dibs_status_name(status),
           dibs_error(h->db), sqlite3_errmsg(h->sqlite));
}

/* No statement of ours is under way, and no transaction. */
static void expect_idle(host *h, const operation *op, const place *where) {
  sqlite3_stmt *at = NULL;
  while ((at = sqlite3_next_stmt(h->sqlite, at)) != NULL)
    if (sqlite3_stmt_busy(at))
      fail_msg("%s, %s: busy: %s", op->name, where->name, sqlite3_sql(at));
  if (!sqlite3_get_autocommit(h->sqlite))
    fail_msg("%s, %s: a transaction is open", op->name, where->name);
}

static void commit_check(stage *s, const operation *op, const place *where) {
  host h = host_open(s->f);
  expect_done(&h, host_do(&h, where, op, 0), op, where);
  if (where->commit) host_run(&h, where->commit);
  expect_idle(&h, op, where);
  host_close(&h);
  stage_expect(s, op, s->after, where->name);
}

static void rollback_check(stage *s, const operation *op, const place *where) {
  host h = host_open(s->f);
  if (where->rollback) {
    expect_done(&h, host_do(&h, where, op, 0), op, where);
    host_run(&h, where->rollback);
  } else if (where->broken) {
    expect_done(&h, host_do(&h, where, op, 1), op, where);
    expect_says(sqlite3_errmsg(h.sqlite), "overflow");
  }
  expect_idle(&h, op, where);
  host_close(&h);
  stage_expect(s, op, s->before, where->name);
}

static void what_the_host_commits_is_done(void **state) {
  for_all(*state, 0, commit_check);
}

static void so_it_is_with_a_rollback_journal(void **state) {
  for_all(*state, 1, commit_check);
}

static void what_the_host_takes_back_is_not(void **state) {
  for_all(*state, 0, rollback_check);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(what_the_host_commits_is_done),
      TEST_CLOSED(so_it_is_with_a_rollback_journal),
      TEST_CLOSED(what_the_host_takes_back_is_not),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
