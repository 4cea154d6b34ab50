/* SPDX-License-Identifier: MIT */
/*
** fuzz_receipts.c: receipts, durations and times as people hand them in.
**
** The input is a line for the receipt and a line for a duration or a time. In
** the receipt line @ stands for the receipt of a job that is running, # for
** its id and $ for its token, so that the near misses are in reach. Whatever
** the action, no other text than that receipt itself may settle the job. What
** is taken for a duration or a time must mean the same when it is written out
** and read again, and when SQLite or plain arithmetic reads it.
*/
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

#define TEXT_MAX 512

static dibs_db *db;
static char held[128]; /* the receipt of the job that is running */

/* ------------------------------------------------------------------------ */
/* The job that is running                                                  */
/* ------------------------------------------------------------------------ */

static void hold_job(void) {
  dibs_job_list *jobs = NULL;
  const char *queues[] = {"q"};
  EXPECT(db, STATUS(OK), dibs_enqueue(db, "q", dibs_none(), NULL, NULL));
  EXPECT(db, STATUS(OK), dibs_claim(db, queues, 1, NULL, &jobs));
  REQUIRE(jobs->count == 1 && strlen(jobs->jobs[0].receipt) < sizeof held);
  memcpy(held, jobs->jobs[0].receipt, strlen(jobs->jobs[0].receipt) + 1);
  dibs_job_list_free(jobs);
}

static int64_t count_running(void) {
  const char *queues[] = {"q"};
  dibs_stats_list *stats = NULL;
  int64_t running;
  EXPECT(db, STATUS(OK), dibs_stats(db, queues, 1, &stats));
  REQUIRE(stats->count == 1);
  running = stats->queues[0].running;
  dibs_stats_list_free(stats);
  return running;
}

int LLVMFuzzerInitialize(int *count, char ***arguments) {
  (void)count;
  (void)arguments;
  db = fuzz_open_memory();
  hold_job();
  return 0;
}

/* ------------------------------------------------------------------------ */
/* Receipts                                                                 */
/* ------------------------------------------------------------------------ */

/* Append `size` bytes to a text of TEXT_MAX bytes; what is too much is lost. */
static void append(char *text, const char *more, size_t size) {
  size_t used = strlen(text);
  if (size > TEXT_MAX - 1 - used) size = TEXT_MAX - 1 - used;
  memcpy(text + used, more, size);
  text[used + size] = 0;
}

/* The receipt line with its stand-ins filled in. */
static void fill_in(const char *line, char text[TEXT_MAX]) {
  const char *colon = strchr(held, ':');
  REQUIRE(colon);
  text[0] = 0;
  for (; *line; line++) {
    switch (*line) {
    case '@': append(text, held, strlen(held)); break;
    case '#': append(text, held, (size_t)(colon - held)); break;
    case '$': append(text, colon + 1, strlen(colon + 1)); break;
    default: append(text, line, 1); break;
    }
  }
}

static void check_outcome(const dibs_settlement *settlement, int good) {
  const char *end = memchr(settlement->message, 0, sizeof settlement->message);
  REQUIRE(end);
  REQUIRE(
      fuzz_is_utf8(settlement->message, (size_t)(end - settlement->message)));
  REQUIRE((settlement->status == DIBS_OK) == good);
  REQUIRE(good || settlement->message[0]);
  REQUIRE(good || settlement->status == DIBS_LOST ||
          settlement->status == DIBS_INVALID);
  REQUIRE(settlement->id >= 0 && settlement->id <= DIBS_ID_MAX);
}

/* All actions at once. The real receipt extends first, then acks, and is lost
** to the others. */
static void settle_together(const char *receipt, int real) {
  static const int actions[] = {DIBS_EXTEND, DIBS_ACK,    DIBS_RETRY,
                                DIBS_FAIL,   DIBS_SNOOZE, DIBS_RELEASE,
                                DIBS_DISCARD};
  dibs_settlement settlements[7];
  size_t i;
  memset(settlements, 0, sizeof settlements);
  for (i = 0; i < 7; i++) {
    settlements[i].receipt = receipt;
    settlements[i].action = actions[i];
    settlements[i].delay = actions[i] == DIBS_RETRY ? DIBS_UNSET : 1000;
    settlements[i].lease = 60000;
  }
  EXPECT(db, STATUS(OK), dibs_settle(db, settlements, 7));
  for (i = 0; i < 7; i++) check_outcome(&settlements[i], real && i < 2);
  REQUIRE(count_running() == !real);
}

static void settle_singly(const char *receipt) {
  uint32_t refused = STATUS(LOST) | STATUS(INVALID);
  int64_t until = 7;
  int state = 7;
  EXPECT(db, refused, dibs_ack(db, receipt, "1"));
  EXPECT(db, refused, dibs_retry(db, receipt, 0, "why", &state));
  EXPECT(db, refused, dibs_fail(db, receipt, "why"));
  EXPECT(db, refused, dibs_release(db, receipt));
  EXPECT(db, refused, dibs_snooze(db, receipt, 1));
  EXPECT(db, refused, dibs_discard(db, receipt, NULL));
  EXPECT(db, refused, dibs_extend(db, receipt, 60000, &until));
  EXPECT(db, refused, dibs_checkpoint(db, receipt, dibs_json("1"), 60000));
  EXPECT(db, refused, dibs_progress(db, receipt, 0.5, "half"));
  REQUIRE(count_running() == 1);
}

static void try_receipt(const char *line) {
  char receipt[TEXT_MAX];
  int real;
  fill_in(line, receipt);
  real = strcmp(receipt, held) == 0;
  if (!real) settle_singly(receipt);
  settle_together(receipt, real);
  if (real) hold_job();
}

/* ------------------------------------------------------------------------ */
/* Durations                                                                */
/* ------------------------------------------------------------------------ */

/* A whole number with a unit, by plain arithmetic; -1: some other text. */
static int64_t plain_duration(const char *text) {
  static const struct {
    const char *name;
    int64_t ms;
  } units[] = {{"ms", 1},    {"s", 1000},    {"", 1000},
               {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
  size_t digits = strspn(text, "0123456789");
  size_t i;
  if (digits < 1 || digits > 6) return -1;
  for (i = 0; i < sizeof units / sizeof units[0]; i++) {
    if (strcmp(text + digits, units[i].name) == 0) {
      return strtoll(text, NULL, 10) * units[i].ms;
    }
  }
  return -1;
}

static void try_duration(const char *text) {
  int64_t plain = plain_duration(text);
  int64_t ms = -5, again = -5;
  char written[40];
  int status = dibs_parse_duration(text, &ms);
  REQUIRE(status == DIBS_OK || status == DIBS_INVALID);
  REQUIRE(plain < 0 || (status == DIBS_OK && ms == plain));
  if (status != DIBS_OK) {
    REQUIRE(ms == -5);
    return;
  }
  REQUIRE(ms >= 0);
  snprintf(written, sizeof written, "%" PRId64 "ms", ms);
  REQUIRE(dibs_parse_duration(written, &again) == DIBS_OK && again == ms);
}

/* ------------------------------------------------------------------------ */
/* Times                                                                    */
/* ------------------------------------------------------------------------ */

static void check_written(int64_t ms, const char *written) {
  int64_t again = 0;
  REQUIRE(dibs_parse_time(written, &again) == DIBS_OK && again == ms);
  REQUIRE(fuzz_sqlite_time(written) == ms);
}

/* Every number can be written. It reads back as itself, or as the nearest
** whose year has four digits. */
static void try_number(int64_t ms) {
  const int64_t first = INT64_C(-62167219200000);
  const int64_t last = INT64_C(253402300799999);
  char written[DIBS_TIME_SIZE];
  REQUIRE(dibs_format_time(ms, written) == written);
  check_written(ms < first ? first : ms > last ? last : ms, written);
}

static void try_time(const char *text) {
  int64_t ms = -5;
  int status = dibs_parse_time(text, &ms);
  REQUIRE(status == DIBS_OK || status == DIBS_INVALID);
  REQUIRE(status == DIBS_OK || ms == -5);
  if (status == DIBS_OK) try_number(ms);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *end = size ? memchr(data, '\n', size) : NULL;
  size_t length = end ? (size_t)(end - data) : size;
  size_t used = end ? length + 1 : length;
  char *receipt = fuzz_text(data, length);
  char *text = fuzz_text(data + used, size - used);
  try_receipt(receipt);
  try_duration(text);
  try_time(text);
  try_number(strtoll(text, NULL, 10));
  free(receipt);
  free(text);
  return 0;
}
