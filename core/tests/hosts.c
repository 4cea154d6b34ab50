/* SPDX-License-Identifier: MIT */
/*
** hosts.c: see hosts.h.
*/
#include "hosts.h"

const place places[] = {
    {"alone", NULL, NULL, NULL, NULL, NULL},
    {"in a transaction", "BEGIN", NULL, NULL, "COMMIT", "ROLLBACK"},
    {"in a transaction that has written",
     "BEGIN IMMEDIATE; INSERT INTO host VALUES (0)", NULL, NULL, "COMMIT",
     "ROLLBACK"},
    {"in a savepoint", "SAVEPOINT s", NULL, NULL, "RELEASE s",
     "ROLLBACK TO s; RELEASE s"},
    {"in a nested savepoint", "BEGIN; SAVEPOINT s", NULL, NULL, "COMMIT",
     "ROLLBACK TO s; COMMIT"},
    {"in a query", NULL, "SELECT operate()", NULL, NULL, NULL},
    {"in a query in a transaction", "BEGIN", "SELECT operate()", NULL, "COMMIT",
     "ROLLBACK"},
    {"in an insert", NULL, "INSERT INTO host SELECT operate()",
     "INSERT INTO host SELECT operate() + abs(-9223372036854775807 - 1)", NULL,
     NULL},
    {"in an insert of a row", NULL, "INSERT INTO host VALUES (operate())",
     "INSERT INTO host VALUES (operate() + abs(-9223372036854775807 - 1))",
     NULL, NULL},
    {"in a trigger", NULL, "INSERT INTO hosted VALUES (1)", NULL, NULL, NULL},
    {"in an insert in a transaction", "BEGIN",
     "INSERT INTO host SELECT operate()", NULL, "COMMIT", "ROLLBACK"},
    {"in an insert of a row in a transaction", "BEGIN",
     "INSERT INTO host VALUES (operate())", NULL, "COMMIT", "ROLLBACK"},
    {"in a trigger in a savepoint", "BEGIN; SAVEPOINT s",
     "INSERT INTO hosted VALUES (1)", NULL, "COMMIT", "ROLLBACK TO s; COMMIT"},
};
const size_t place_count = COUNT(places);

int place_is_quiet(const place *where) {
  static const char *const names[] = {"in a transaction", "in an insert",
                                      "in an insert of a row in a transaction",
                                      "in a trigger in a savepoint",
                                      "in a query in a transaction"};
  for (size_t i = 0; i < COUNT(names); i++)
    if (strcmp(where->name, names[i]) == 0) return 1;
  return 0;
}

void host_stage(stage *s, fixture *f, int delete_mode) {
  stage_prepare(s, f, delete_mode);
  sqlite3 *template = plain_open(s->template);
  expect_int(sqlite3_exec(template, HOST_TABLES, NULL, NULL, NULL), SQLITE_OK);
  sqlite3_close(template);
}

int host_tries(const operation *op) {
  const char *only = getenv("DIBS_TEST_OPERATION");
  return !op->open && (!only || strcmp(only, op->name) == 0);
}

static void operate(sqlite3_context *context, int count,
                    sqlite3_value **values) {
  host *h = sqlite3_user_data(context);
  (void)count;
  (void)values;
  h->status = h->op->run(h->db);
  if (h->status == DIBS_OK)
    sqlite3_result_int(context, 0);
  else if (h->status == DIBS_NOMEM)
    sqlite3_result_error_nomem(context);
  else
    sqlite3_result_error(context, dibs_error(h->db), -1);
}

void host_run(host *h, const char *sql) {
  char *message = NULL;
  if (sqlite3_exec(h->sqlite, sql, NULL, NULL, &message) != SQLITE_OK)
    fail_msg("%s: %s", sql, message);
}

host host_open(fixture *f) {
  return host_open_by(f, "unix");
}

host host_open_by(fixture *f, const char *vfs) {
  dibs_open_options options = fixture_options(f);
  char uri[192];
  snprintf(uri, sizeof uri, "file:%s?vfs=%s", f->path, vfs);
  host h = {.sqlite =
                plain_open_as(uri, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE |
                                       SQLITE_OPEN_URI)};
  if (!h.sqlite) fail_msg("no connection");
  options.create = DIBS_CREATE_NONE;
  expect_ok(h.db, dibs_attach(h.sqlite, NULL, &options, &h.db));
  return h;
}

void host_close(host *h) {
  expect_int(sqlite3_close(h->sqlite), SQLITE_OK);
  expect_int(dibs_close(h->db), DIBS_OK);
}

void host_prepare(host *h, const operation *op) {
  h->op = op;
  h->status = -1;
  expect_int(sqlite3_create_function(h->sqlite, "operate", 0, SQLITE_UTF8, h,
                                     operate, NULL, NULL),
             SQLITE_OK);
}

int host_do(host *h, const place *where, const operation *op, int broken) {
  if (where->begin) host_run(h, where->begin);
  if (!where->statement) return op->run(h->db);
  host_prepare(h, op);
  sqlite3_exec(h->sqlite, broken ? where->broken : where->statement, NULL, NULL,
               NULL);
  return h->status;
}

void host_begin(host *h, const place *where, const operation *op) {
  if (where->begin) host_run(h, where->begin);
  host_prepare(h, op);
  h->part = NULL;
  if (where->statement)
    expect_int(
        sqlite3_prepare_v2(h->sqlite, where->statement, -1, &h->part, NULL),
        SQLITE_OK);
}

int host_run_part(host *h) {
  int code = SQLITE_ROW;
  if (!h->part) {
    h->status = h->op->run(h->db);
    return h->status == DIBS_OK;
  }
  while (code == SQLITE_ROW) code = sqlite3_step(h->part);
  return h->status == DIBS_OK && code == SQLITE_DONE;
}

void host_end_part(host *h) {
  sqlite3_finalize(h->part);
  h->part = NULL;
}
