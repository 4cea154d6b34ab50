/* SPDX-License-Identifier: MIT */
/*
** host.c: connections of a host. host.h says what each does.
*/
#include "host.h"

static const sqlite3_api_routines *kept_api;

void (*host_entry(entry_point *typed))(void) {
  return (void (*)(void))typed;
}

static int api_keep(sqlite3 *sqlite, char **message,
                    const sqlite3_api_routines *api) {
  (void)sqlite;
  (void)message;
  kept_api = api;
  return SQLITE_OK;
}

const sqlite3_api_routines *host_api(void) {
  if (!kept_api) {
    sqlite3_auto_extension(host_entry(api_keep));
    sqlite3_close(plain_open(":memory:"));
    sqlite3_cancel_auto_extension(host_entry(api_keep));
  }
  return kept_api;
}

void run(sqlite3 *sqlite, const char *sql) {
  char *message = NULL;
  if (sqlite3_exec(sqlite, sql, NULL, NULL, &message) != SQLITE_OK) {
    fail_msg("%s: %s", sql, message);
  }
}

sqlite3 *host_bare(fixture *f) {
  sqlite3 *sqlite = plain_open(f->path);
  sqlite3_busy_timeout(sqlite, 0);
  expect_int(dibs_extension_init(sqlite, NULL, host_api()), SQLITE_OK);
  return sqlite;
}

sqlite3 *host_open(fixture *f) {
  sqlite3 *sqlite = host_bare(f);
  sqlite3_busy_timeout(sqlite, 10000);
  run(sqlite, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
              "SELECT dibs_init(); CREATE TABLE IF NOT EXISTS t(x)");
  return sqlite;
}

void host_close(sqlite3 *sqlite) {
  expect_int(sqlite3_close(sqlite), SQLITE_OK);
}
