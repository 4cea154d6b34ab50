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
  dibs_open_options options = fixture_options(f);
  host h = {.sqlite = plain_open(f->path)};
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
