/* SPDX-License-Identifier: MIT */
/*
** provider.c: which SQLite library is in use. The core calls SQLite through an
** sqlite3_api_routines table only; each handle has a pointer to the one it
** uses. The library hands its table to the entry point of an extension
** (sqlite.org/loadext.html), so the linked library is asked as any other would
** be: by an automatic extension and a connection in memory.
*/
#include "internal.h"

/* In the amalgamation sqlite3ext.h may have come before: here the linked
** functions themselves are meant. */
#undef sqlite3_auto_extension
#undef sqlite3_cancel_auto_extension
#undef sqlite3_open_v2
#undef sqlite3_close

/* sqlite3_auto_extension() passes no argument along. */
static pthread_mutex_t linked_mutex = PTHREAD_MUTEX_INITIALIZER;
static const struct sqlite3_api_routines *linked_api;

static int linked_entry(sqlite3 *sqlite, const char **message,
                        const struct sqlite3_api_routines *api) {
  (void)sqlite;
  (void)message;
  linked_api = api;
  return SQLITE_OK;
}

/* ISO C has no cast from an object pointer to this function type, and
** sqlite3_auto_extension() wants one without arguments. */
static void (*linked_function(void))(void) {
  return (void (*)(void))linked_entry;
}

static void linked_ask(void) {
  sqlite3 *sqlite = NULL;
  if (sqlite3_auto_extension(linked_function()) != SQLITE_OK) return;
  sqlite3_open_v2(":memory:", &sqlite,
                  SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
  sqlite3_close(sqlite);
  sqlite3_cancel_auto_extension(linked_function());
}

const struct sqlite3_api_routines *provider_linked(void) {
  pthread_mutex_lock(&linked_mutex);
  if (!linked_api) linked_ask();
  const struct sqlite3_api_routines *api = linked_api;
  pthread_mutex_unlock(&linked_mutex);
  return api;
}
