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
**
** To see that we must have opened the file, and to close it would be the very
** harm. So a connection that is refused is kept open, and so is one that is to be
** closed after another library has come. One for each file and library is
** enough, a remnant: while it is there, its library closes no descriptor of that file, and
** knows that no other connection is the last. It does nothing any more, so its map
** does not count as a conflict for others. When its library is to open the file
** again, and no other has it, it is closed first: the other may have removed WAL
** and -shm beneath it, and its library would go on with what was removed.
*/
#include "internal.h"

#include <limits.h>
#include <sqlite3ext.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* -------------------------------------------------------------------- maps */

/* The -shm file of a database. */
struct shm {
  char name[PATH_MAX]; /* without symbolic links */
  struct stat status;
};

static bool shm_find(const char *file, struct shm *shm) {
  char name[PATH_MAX];
  int length = snprintf(name, sizeof name, "%s-shm", file);
  return length > 0 && (size_t)length < sizeof name &&
         realpath(name, shm->name) && !stat(shm->name, &shm->status);
}

/* Whether a line of proc(5) maps is one of the file's beginning. On some file
** systems the device is not that of stat(2), and a name may have changed. */
static bool line_maps(char *line, const struct shm *shm) {
  line[strcspn(line, "\n")] = 0;
  char *at = strchr(line, ' ');
  if (at) at = strchr(at + 1, ' ');
  if (!at || strtoull(at, &at, 16)) return false;
  unsigned major_number = (unsigned)strtoul(at, &at, 16);
  if (*at++ != ':') return false;
  unsigned minor_number = (unsigned)strtoul(at, &at, 16);
  if (strtoull(at, &at, 10) != (unsigned long long)shm->status.st_ino)
    return false;
  return !strcmp(at + strspn(at, " "), shm->name) ||
         makedev(major_number, minor_number) == shm->status.st_dev;
}

static int maps_count(const struct shm *shm) {
  int count = 0;
  char *line = NULL;
  size_t room = 0;
  FILE *maps = fopen("/proc/self/maps", "re");
  if (!maps) return 0;
  while (getline(&line, &room, maps) > 0) count += line_maps(line, shm);
  free(line);
  fclose(maps);
  return count;
}

/* ----------------------------------------------------------------- keeping */

struct remnant {
  struct remnant *next;
  const struct sqlite3_api_routines *api;
  sqlite3 *sqlite;
  struct stat file;
  struct stat shm;
};

static pthread_mutex_t remnants_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct remnant *remnants; /* for what follows, with the mutex */

static bool is_same(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Where that of the handle's library on that file stands in the list; where the
** list ends when there is none. */
static struct remnant **remnant_find(const dibs_db *db, const char *file) {
  struct stat status;
  struct remnant **at = &remnants;
  bool there = !stat(file, &status);
  while (*at &&
         !(there && (*at)->api == db->api && is_same(&(*at)->file, &status)))
    at = &(*at)->next;
  return at;
}

/* Without memory the connection stays open all the same, but nobody knows. */
static void remnant_add(const dibs_db *db, const char *file,
                        const struct shm *shm) {
  struct remnant *remnant = malloc(sizeof *remnant);
  if (!remnant || stat(file, &remnant->file)) {
    free(remnant);
    return;
  }
  remnant->api = db->api;
  remnant->sqlite = db->sqlite;
  remnant->shm = shm->status;
  remnant->next = remnants;
  remnants = remnant;
}

/* Without a checkpoint: whatever it knows of the WAL may be long over. */
static void remnant_close(struct remnant **at) {
  struct remnant *remnant = *at;
  SQLITE_LIBRARY(remnant);
  *at = remnant->next;
  sqlite3_db_config(remnant->sqlite, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
  sqlite3_close_v2(remnant->sqlite);
  free(remnant);
}

/* ---------------------------------------------------------------- checking */

/* How many libraries use the -shm file, by its maps: remnants of others do not. */
static int libraries_count(const dibs_db *db, const struct shm *shm) {
  int count = maps_count(shm);
  for (struct remnant *remnant = remnants; remnant; remnant = remnant->next)
    count -= remnant->api != db->api && is_same(&remnant->shm, &shm->status);
  return count;
}

/* Before the file is opened, our library may have it open or not. */
static bool is_taken(const dibs_db *db, const char *file) {
  struct shm shm = {.name = ""};
  struct remnant **remnant = remnant_find(db, file);
  int count = shm_find(file, &shm) ? libraries_count(db, &shm) : 0;
  if (!*remnant) return count > 1;
  if (is_same(&(*remnant)->shm, &shm.status)) count--;
  if (count > 0) return true;
  remnant_close(remnant);
  return false;
}

/* Once it has been read, ours has. */
static bool is_shared(const dibs_db *db, const char *file, struct shm *shm) {
  return shm_find(file, shm) && libraries_count(db, shm) > 1;
}

void conflict_check(dibs_db *db, const char *file) {
  struct shm shm;
  if (db->status || db->two_libraries || !file) return;
  pthread_mutex_lock(&remnants_mutex);
  bool conflict = db->sqlite ? is_shared(db, file, &shm) : is_taken(db, file);
  pthread_mutex_unlock(&remnants_mutex);
  if (!conflict) return;
  handle_fail(db, DIBS_LIBRARY,
              "this process has %s open through another SQLite library, too, "
              "and closing one would drop the locks of the other and lose "
              "rows: %s with two_libraries if you are sure",
              db->path,
              db->attached ? "use one of them only, or attach (dibs_init())"
                           : "hand that library over to dibs "
                             "(dibs_provider_get()), or open");
}

bool conflict_keeps(const dibs_db *db, const char *file) {
  struct shm shm;
  if (db->two_libraries || db->in_memory || !file) return false;
  pthread_mutex_lock(&remnants_mutex);
  bool keeps = is_shared(db, file, &shm) && !*remnant_find(db, file);
  if (keeps) remnant_add(db, file, &shm);
  pthread_mutex_unlock(&remnants_mutex);
  return keeps;
}
