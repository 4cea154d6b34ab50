/* SPDX-License-Identifier: MIT */
/*
** entry.c: the only symbol of the loadable extension dibs.so. SQLite derives its
** name from that of the file. The library stays in memory when the connection
** that loaded it is closed: others may have its functions, too, and it watches
** forks.
*/
#include "dibs.h"

#include <sqlite3ext.h>

#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
int sqlite3_dibs_init(sqlite3 *connection, char **message,
                      const sqlite3_api_routines *api);

int sqlite3_dibs_init(sqlite3 *connection, char **message,
                      const sqlite3_api_routines *api) {
  int code = dibs_extension_init(connection, message, api);
  return code == SQLITE_OK ? SQLITE_OK_LOAD_PERMANENTLY : code;
}
