/* SPDX-License-Identifier: MIT */
/*
** linked.c: the API table of the SQLite library that this program is linked
** with. It is asked for it as any other would be: by an automatic extension and
** a connection in memory. With DIBS_NO_LINKED there is none, and no function of
** SQLite is referred to: an extension, or a language's package, gets the host's.
**
** The only file that calls SQLite's functions themselves: it stands before those
** that include sqlite3ext.h, whose macros would turn them into others.
*/
#include "internal.h"

#ifndef DIBS_NO_LINKED

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

#endif

/* A library that cannot even open a connection in memory has none left. */
int linked_table(const struct sqlite3_api_routines **api) {
  *api = NULL;
#ifdef DIBS_NO_LINKED
  return DIBS_LIBRARY;
#else
  pthread_mutex_lock(&linked_mutex);
  if (!linked_api) linked_ask();
  *api = linked_api;
  pthread_mutex_unlock(&linked_mutex);
  return *api ? DIBS_OK : DIBS_NOMEM;
#endif
}
