/* SPDX-License-Identifier: MIT */
/*
** pattern.c: which queues are meant by a name, "prefix/" with a star, or a star
** alone. Names are compared byte by byte, as SQLite's BINARY collation does,
** so all names beneath "a" lie between "a/" and "a0" ('0' follows '/').
*/
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool pattern_is_name(const char *pattern) {
  size_t size = strlen(pattern);
  return !size || pattern[size - 1] != '*';
}

bool pattern_matches(const char *pattern, const char *queue) {
  if (pattern_is_name(pattern)) return !strcmp(pattern, queue);
  size_t prefix = strlen(pattern) - 1; /* with the slash */
  return !strncmp(pattern, queue, prefix) && strlen(queue) > prefix;
}

/* Above every name: the highest character as often as fits. */
static void top_fill(char high[PATTERN_SIZE]) {
  size_t size = 0;
  for (; size + 4 < PATTERN_SIZE; size += 4)
    memcpy(high + size, "\xF4\x8F\xBF\xBF", 4);
  high[size] = 0;
}

void pattern_range(const char *pattern, char low[PATTERN_SIZE],
                   char high[PATTERN_SIZE]) {
  size_t prefix = strlen(pattern) - 1;
  memcpy(low, pattern, prefix);
  low[prefix] = 0;
  memcpy(high, low, prefix + 1);
  if (prefix)
    high[prefix - 1]++; /* the slash becomes a '0' */
  else
    top_fill(high);
}

static void one_check(dibs_db *db, const char *pattern) {
  char name[PATTERN_SIZE];
  if (!pattern) {
    handle_fail(db, DIBS_INVALID, "queue is NULL: give a name");
    return;
  }
  if (!strcmp(pattern, DIBS_ALL)) return;
  size_t size = strlen(pattern);
  if (size > 2 && size < sizeof name && !strcmp(pattern + size - 2, "/*"))
    size -= 2;
  if (size >= sizeof name) size = sizeof name - 1;
  memcpy(name, pattern, size);
  name[size] = 0;
  const char *problem = name_problem(name);
  if (problem) handle_fail(db, DIBS_INVALID, "queue '%s' %s", pattern, problem);
}

struct patterns pattern_or_default(dibs_db *db, const char *const *items,
                                   size_t count) {
  static const char *const defaults[] = {DIBS_DEFAULT_QUEUE};
  if (!count) return (struct patterns){defaults, 1};
  return pattern_check(db, items, count);
}

struct patterns pattern_check(dibs_db *db, const char *const *items,
                              size_t count) {
  if (count && !items)
    handle_fail(db, DIBS_MISUSE, "queues is NULL but their count is not 0");
  for (size_t i = 0; i < count && !db->status; i++) one_check(db, items[i]);
  return (struct patterns){items, db->status ? 0 : count};
}

char **pattern_copy(struct patterns patterns) {
  char **copies = calloc(patterns.count + 1, sizeof *copies);
  for (size_t i = 0; copies && i < patterns.count; i++) {
    copies[i] = strdup(patterns.items[i]);
    if (copies[i]) continue;
    pattern_free(copies, i);
    return NULL;
  }
  return copies;
}

void pattern_free(char **copies, size_t count) {
  for (size_t i = 0; copies && i < count; i++) free(copies[i]);
  free(copies);
}
