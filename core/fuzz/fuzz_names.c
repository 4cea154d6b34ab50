/* SPDX-License-Identifier: MIT */
/*
** fuzz_names.c: queue names and the patterns that claims name them by.
**
** The input is two lines: a pattern, and a name. The rules of API.md stand
** here once more, as plainly as possible, and dibs must agree: which texts are
** names (of queues, jobs, keys and workers alike), which are patterns, and
** which queues a pattern reaches, in claims, peeks, listings and counts.
** What is refused leaves nothing behind, and what is cancelled neither.
*/
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

/* ------------------------------------------------------------------------ */
/* The rules once more                                                      */
/* ------------------------------------------------------------------------ */

static int holds_control(const char *text, size_t size) {
  size_t i;
  for (i = 0; i < size; i++) {
    unsigned char c = (unsigned char)text[i];
    unsigned char next = (unsigned char)(i + 1 < size ? text[i + 1] : 0);
    if (c < 0x20 || c == 0x7f) return 1;
    if (c == 0xc2 && next >= 0x80 && next <= 0x9f) return 1;
  }
  return 0;
}

static int is_name(const char *text, size_t size) {
  return size >= 1 && size <= DIBS_NAME_MAX && !memchr(text, '*', size) &&
         fuzz_is_utf8(text, size) && !holds_control(text, size);
}

static int is_prefix_pattern(const char *text) {
  size_t size = strlen(text);
  return size > 2 && strcmp(text + size - 2, "/*") == 0 &&
         is_name(text, size - 2);
}

static int is_pattern(const char *text) {
  return strcmp(text, DIBS_ALL) == 0 || is_name(text, strlen(text)) ||
         is_prefix_pattern(text);
}

static int reaches(const char *pattern, const char *name) {
  size_t stem = strlen(pattern) - 1;
  if (strcmp(pattern, DIBS_ALL) == 0) return 1;
  if (!is_prefix_pattern(pattern)) return strcmp(pattern, name) == 0;
  return strncmp(pattern, name, stem) == 0 && strlen(name) > stem;
}

/* ------------------------------------------------------------------------ */
/* Names                                                                    */
/* ------------------------------------------------------------------------ */

/* The same rule for every kind of name. Only a good queue's name is kept. */
static void try_name(dibs_db *db, const char *text) {
  uint32_t expected =
      is_name(text, strlen(text)) ? STATUS(OK) : STATUS(INVALID);
  dibs_job_options options;
  dibs_claim_options claim = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  const char *other[] = {"other"};
  dibs_job_options_init(&options);
  options.name = text;
  EXPECT(db, expected, dibs_enqueue(db, "other", dibs_none(), &options, NULL));
  options.name = NULL;
  options.key = text;
  EXPECT(db, expected, dibs_enqueue(db, "other", dibs_none(), &options, NULL));
  claim.worker = text;
  EXPECT(db, expected & STATUS(OK) ? STATUS(OK) | STATUS(EMPTY) : expected,
         dibs_claim(db, other, 1, &claim, &jobs));
  if (jobs) fuzz_check_jobs(jobs);
  dibs_job_list_free(jobs);
}

/* ------------------------------------------------------------------------ */
/* Patterns                                                                 */
/* ------------------------------------------------------------------------ */

static int64_t count_ready(dibs_db *db, const char *pattern) {
  const char *patterns[] = {pattern};
  dibs_stats_list *stats = NULL;
  int64_t ready = 0;
  size_t i;
  EXPECT(db, STATUS(OK), dibs_stats(db, patterns, 1, &stats));
  for (i = 0; i < stats->count; i++) {
    REQUIRE(reaches(pattern, stats->queues[i].queue));
    ready += stats->queues[i].ready;
  }
  dibs_stats_list_free(stats);
  return ready;
}

static size_t count_listed(dibs_db *db, const char *pattern) {
  const char *patterns[] = {pattern};
  dibs_job_list *jobs = NULL;
  size_t count;
  EXPECT(db, STATUS(OK), dibs_list(db, patterns, 1, NULL, &jobs));
  count = jobs->count;
  fuzz_check_jobs(jobs);
  dibs_job_list_free(jobs);
  return count;
}

/* Claim everything that a pattern reaches. */
static size_t count_claimed(dibs_db *db, const char *pattern) {
  const char *patterns[] = {pattern};
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  size_t i, count = 0;
  options.n = 10;
  if (EXPECT(db, STATUS(OK) | STATUS(EMPTY),
             dibs_claim(db, patterns, 1, &options, &jobs)) == DIBS_OK) {
    count = jobs->count;
    for (i = 0; i < count; i++) REQUIRE(reaches(pattern, jobs->jobs[i].queue));
  }
  dibs_job_list_free(jobs);
  return count;
}

static size_t count_peeked(dibs_db *db, const char *pattern) {
  const char *patterns[] = {pattern};
  dibs_job_list *jobs = NULL;
  size_t count = 0;
  if (EXPECT(db, STATUS(OK) | STATUS(EMPTY),
             dibs_peek(db, patterns, 1, 10, &jobs)) == DIBS_OK) {
    count = jobs->count;
  }
  dibs_job_list_free(jobs);
  return count;
}

static void enqueue_one(dibs_db *db, const char *queue) {
  EXPECT(db, STATUS(OK), dibs_enqueue(db, queue, dibs_json("1"), NULL, NULL));
}

/* One job in a queue of that name, one in its neighbours each. */
static void try_pattern(dibs_db *db, const char *pattern, const char *name) {
  const char *neighbours[] = {"a", "a/b", "a/b/c", "ab", "z"};
  size_t i, expected = (size_t)reaches(pattern, name);
  enqueue_one(db, name);
  for (i = 0; i < sizeof neighbours / sizeof neighbours[0]; i++) {
    enqueue_one(db, neighbours[i]);
    expected += (size_t)reaches(pattern, neighbours[i]);
  }
  REQUIRE(count_ready(db, pattern) == (int64_t)expected);
  REQUIRE(count_listed(db, pattern) == expected);
  REQUIRE(count_peeked(db, pattern) == expected);
  REQUIRE(count_claimed(db, pattern) == expected);
  REQUIRE(count_ready(db, pattern) == 0);
  try_name(db, name);
}

static void remove_all(dibs_db *db) {
  dibs_job_list *jobs = NULL;
  size_t i;
  EXPECT(db, STATUS(OK), dibs_list(db, NULL, 0, NULL, &jobs));
  for (i = 0; i < jobs->count; i++) {
    int64_t cancelled = 0;
    EXPECT(db, STATUS(OK),
           dibs_cancel(db, &jobs->jobs[i].id, 1, NULL, &cancelled));
    REQUIRE(cancelled == 1);
  }
  dibs_job_list_free(jobs);
  EXPECT(db, STATUS(OK), dibs_prune(db, NULL));
  REQUIRE(count_ready(db, DIBS_ALL) == 0 && count_listed(db, DIBS_ALL) == 0);
}

/* ------------------------------------------------------------------------ */
/* Refusals                                                                 */
/* ------------------------------------------------------------------------ */

static dibs_db *empty;  /* everything that is done to it is refused */
static dibs_db *shared; /* without jobs between inputs */

static void refuse_pattern(const char *pattern) {
  const char *patterns[] = {pattern};
  uint32_t refused = STATUS(INVALID);
  dibs_job_list *jobs = NULL;
  dibs_stats_list *stats = NULL;
  int64_t moved = 0;
  EXPECT(empty, refused, dibs_claim(empty, patterns, 1, NULL, &jobs));
  EXPECT(empty, refused, dibs_peek(empty, patterns, 1, 1, &jobs));
  EXPECT(empty, refused, dibs_list(empty, patterns, 1, NULL, &jobs));
  EXPECT(empty, refused, dibs_stats(empty, patterns, 1, &stats));
  EXPECT(empty, refused, dibs_redrive(empty, patterns, 1, &moved, NULL, NULL));
  EXPECT(empty, refused, dibs_purge(empty, patterns, 1, NULL));
  EXPECT(empty, refused, dibs_clear(empty, patterns, 1, 1, NULL));
  REQUIRE(!jobs && !stats);
}

static void refuse_name(const char *name) {
  int64_t id = -5;
  EXPECT(empty, STATUS(INVALID),
         dibs_enqueue(empty, name, dibs_none(), NULL, &id));
  REQUIRE(id == -5);
  try_name(empty, name);
}

static void check_empty(void) {
  dibs_stats_list *stats = NULL;
  EXPECT(empty, STATUS(OK), dibs_stats(empty, NULL, 0, &stats));
  REQUIRE(stats->count == 0);
  dibs_stats_list_free(stats);
}

int LLVMFuzzerInitialize(int *count, char ***arguments) {
  (void)count;
  (void)arguments;
  empty = fuzz_open_memory();
  shared = fuzz_open_memory();
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *end = size ? memchr(data, '\n', size) : NULL;
  size_t length = end ? (size_t)(end - data) : size;
  size_t used = end ? length + 1 : length;
  char *pattern = fuzz_text(data, length);
  char *name = fuzz_text(data + used, size - used);
  int good_name = is_name(name, strlen(name));
  if (!is_pattern(pattern)) refuse_pattern(pattern);
  if (!good_name) refuse_name(name);
  if (is_pattern(pattern) && good_name) {
    try_pattern(shared, pattern, name);
    remove_all(shared);
  }
  check_empty();
  free(pattern);
  free(name);
  return 0;
}
