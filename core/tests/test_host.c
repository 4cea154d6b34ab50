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

/* ---- Whatever the host has set ---------------------------------------------- */

static const char *const settings[] = {
    "PRAGMA trusted_schema=OFF",
    "PRAGMA foreign_keys=ON",
    "PRAGMA recursive_triggers=ON",
    "PRAGMA reverse_unordered_selects=ON",
    "PRAGMA case_sensitive_like=ON",
    "PRAGMA cell_size_check=ON",
    "PRAGMA automatic_index=OFF",
    "PRAGMA secure_delete=ON",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA mmap_size=1000000",
    "PRAGMA cache_size=1; PRAGMA cache_spill=1",
    "PRAGMA count_changes=ON",
    "PRAGMA read_uncommitted=ON",
    "PRAGMA locking_mode=EXCLUSIVE",
    "PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=1",
};

static const struct {
  int option, value;
} configurations[] = {
    {SQLITE_DBCONFIG_DEFENSIVE, 1},   {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0},
    {SQLITE_DBCONFIG_DQS_DML, 0},     {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
    {SQLITE_DBCONFIG_TRIGGER_EQP, 1},
};

#define SETTINGS (COUNT(settings) + COUNT(configurations))

/* Its words for the host's SQL; what a trigger may call is a setting, too. */
static void set(host *h, size_t at, char name[80]) {
  if (at < COUNT(settings)) {
    host_run(h, settings[at]);
    snprintf(name, 80, "%s", settings[at]);
    return;
  }
  at -= COUNT(settings);
  expect_int(sqlite3_db_config(h->sqlite, configurations[at].option,
                               configurations[at].value, NULL),
             SQLITE_OK);
  snprintf(name, 80, "configuration %d", configurations[at].option);
}

static const place *place_without_trigger(void) {
  static size_t at;
  do at = (at + 1) % place_count;
  while (strstr(places[at].name, "trigger"));
  return &places[at];
}

static void settings_check(stage *s, const operation *op, size_t at) {
  char name[80];
  place where = *place_without_trigger();
  host h = host_open(s->f);
  set(&h, at, name);
  char when[160];
  snprintf(when, sizeof when, "%s, %s", where.name, name);
  where.name = when;
  expect_done(&h, host_do(&h, &where, op, 0), op, &where);
  if (where.commit) host_run(&h, where.commit);
  host_close(&h);
  stage_expect(s, op, s->after, when);
}

static void whatever_the_host_has_set(void **state) {
  stage s;
  host_stage(&s, *state, 0);
  for (size_t i = 0; i < operation_count; i += (size_t)slowness()) {
    if (!host_tries(&operations[i])) continue;
    stage_rehearse(&s, &operations[i]);
    for (size_t at = 0; at < SETTINGS; at++) {
      stage_restore(&s, &operations[i]);
      settings_check(&s, &operations[i], at);
    }
  }
  stage_end(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(what_the_host_commits_is_done),
      TEST_CLOSED(so_it_is_with_a_rollback_journal),
      TEST_CLOSED(what_the_host_takes_back_is_not),
      TEST_CLOSED(whatever_the_host_has_set),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
