/* SPDX-License-Identifier: MIT */
/*
** conflict.c: whether two SQLite libraries of this process have the same file
** open. POSIX locks belong to the process: when one library closes the file, the
** locks of the other are gone, and the WAL is removed beneath it
** (sqlite.org/howtocorrupt.html, section 2.2). Acknowledged rows are lost then,
** without an error.
**
** In WAL mode each library maps the beginning of the -shm file once for the
** process, however many connections it has. So once we have read, a second map
** of that file's beginning is another library's.
*/
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* One line of proc(5) maps. */
static bool line_maps(const char *line, const struct stat *file) {
  unsigned long long offset, inode;
  size_t length = strcspn(line, "\n");
  if (sscanf(line, "%*s %*s %llx %*s %llu", &offset, &inode) != 2) return false;
  return !offset && inode == (unsigned long long)file->st_ino && length > 4 &&
         !strncmp(line + length - 4, "-shm", 4);
}

static int maps_count(const struct stat *file) {
  int count = 0;
  char *line = NULL;
  size_t room = 0;
  FILE *maps = fopen("/proc/self/maps", "re");
  if (!maps) return 0;
  while (getline(&line, &room, maps) > 0) count += line_maps(line, file);
  free(line);
  fclose(maps);
  return count;
}

void conflict_check(dibs_db *db) {
  char name[4096];
  struct stat file;
  if (db->status || db->in_memory) return;
  int length = snprintf(name, sizeof name, "%s-shm", db->path);
  if (length < 0 || (size_t)length >= sizeof name || stat(name, &file)) return;
  if (maps_count(&file) < 2) return;
  handle_fail(db, DIBS_LIBRARY,
              "this process has %s open through another SQLite library, too, "
              "and closing one would drop the locks of the other and lose "
              "rows: hand that library over to dibs (dibs_provider_get()), or "
              "open with two_libraries if you are sure",
              db->path);
}
