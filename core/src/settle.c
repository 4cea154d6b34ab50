/* SPDX-License-Identifier: MIT */
/*
** settle.c: what becomes of a claimed job, by its receipt.
**
** A receipt holds while its lease does: the row of dibs_leased has its token,
** and the lease's end is ahead. Anything else is DIBS_LOST, and changes
** nothing. A batch is one transaction in which each receipt has its own
** outcome; only what concerns the file ends it as a whole.
*/
#include "internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- outcomes */

static void settlement_fail(dibs_settlement *settlement, int status,
                            const char *format, ...) DIBS_PRINTF(3, 4);

static void settlement_fail(dibs_settlement *settlement, int status,
                            const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  message_format(settlement->message, sizeof settlement->message, format,
                 arguments);
  va_end(arguments);
  settlement->status = status;
}

/* ---------------------------------------------------------------- receipts */

/* Digits of a number up to `most`; moves *at. -1 when there are none. */
static int64_t id_read(const char **at) {
  int64_t id = 0;
  if (**at < '1' || **at > '9') return -1;
  for (; **at >= '0' && **at <= '9'; (*at)++) {
    id = id * 10 + (**at - '0');
    if (id > DIBS_ID_MAX) return -1;
  }
  return id;
}

static bool token_read(const char *at, int64_t *token) {
  uint64_t value = 0;
  for (int i = 0; i < 16; i++) {
    const char *digits = "0123456789abcdef";
    const char *digit = at[i] ? strchr(digits, at[i]) : NULL;
    if (!digit) return false;
    value = value << 4 | (uint64_t)(digit - digits);
  }
  *token = (int64_t)value;
  return !at[16];
}

static bool receipt_read(dibs_settlement *settlement, int64_t *token) {
  const char *at = settlement->receipt;
  int64_t id = at ? id_read(&at) : -1;
  if (id > 0 && *at == ':' && token_read(at + 1, token)) {
    settlement->id = id;
    return true;
  }
  settlement_fail(settlement, DIBS_INVALID,
                  "'%.60s' is not a receipt: give "
                  "the ID:TOKEN that the claim gave",
                  settlement->receipt ? settlement->receipt : "");
  return false;
}

/* ---------------------------------------------------------------- checking */

static void result_check(dibs_db *db, dibs_settlement *settlement) {
  const dibs_payload *result = &settlement->result;
  if (result->kind == DIBS_PAYLOAD_NONE) return;
  if (result->size > (size_t)db->max_payload)
    settlement_fail(settlement, DIBS_TOO_BIG,
                    "result is %zu bytes, over the "
                    "limit of %lld",
                    result->size, (long long)db->max_payload);
  else if (result->kind != DIBS_PAYLOAD_JSON || !result->data ||
           !json_valid(result->data, result->size))
    settlement_fail(settlement, DIBS_INVALID,
                    "result is not JSON: give JSON "
                    "text");
}

static void delay_check(dibs_settlement *settlement) {
  int64_t delay = settlement->delay;
  bool needed = settlement->action == DIBS_SNOOZE;
  if (settlement->action != DIBS_RETRY && !needed) return;
  if (delay == DIBS_UNSET ? needed : delay < 0 || delay > TIME_MAX)
    settlement_fail(settlement, DIBS_INVALID,
                    "delay must be given, 0 ms or "
                    "more");
}

void settlement_check(dibs_db *db, dibs_settlement *settlement) {
  if (settlement->action < DIBS_ACK || settlement->action > DIBS_EXTEND)
    settlement_fail(settlement, DIBS_INVALID,
                    "action is %d: give one of enum "
                    "dibs_action",
                    settlement->action);
  else if (settlement->error &&
           !utf8_valid(settlement->error, strlen(settlement->error)))
    settlement_fail(settlement, DIBS_INVALID, "error is not UTF-8");
  else if (settlement->action == DIBS_EXTEND &&
           (settlement->lease <= 0 || settlement->lease > TIME_MAX))
    settlement_fail(settlement, DIBS_INVALID,
                    "lease is %lld ms: give more "
                    "than 0",
                    (long long)settlement->lease);
  else if (settlement->action == DIBS_ACK)
    result_check(db, settlement);
  else
    delay_check(settlement);
}

/* ----------------------------------------------------------------- holding */

/* Why the receipt does not hold. */
static void lost_explain(dibs_db *db, dibs_settlement *settlement,
                         int64_t token) {
  struct job job;
  struct placement placement = {.state = 0};
  long long id = settlement->id;
  if (job_read(db, settlement->id, &job)) placement_find(db, &job, &placement);
  if (!placement.state)
    settlement_fail(settlement, DIBS_LOST,
                    "job %lld is gone: it was settled, "
                    "cancelled or removed",
                    id);
  else if (placement.state != DIBS_RUNNING)
    settlement_fail(settlement, DIBS_LOST,
                    "job %lld is %s: it was settled "
                    "already, or its lease ran out",
                    id, dibs_state_name(placement.state));
  else if (placement.token == token)
    settlement_fail(settlement, DIBS_LOST, "the lease of job %lld ran out", id);
  else
    settlement_fail(settlement, DIBS_LOST,
                    "job %lld was claimed again%s%.100s"
                    ": the lease of this receipt ran out, or it was settled",
                    id, placement.worker ? " by " : "",
                    placement.worker ? placement.worker : "");
  placement_free(&placement);
}

/* Read the lease that the receipt names. False when it does not hold. */
static bool lease_hold(dibs_db *db, dibs_settlement *settlement, int64_t token,
                       int64_t time, struct job *job,
                       struct placement *placement) {
  if (lease_read(db, settlement->id, token, time, job, placement)) return true;
  if (!db->status) lost_explain(db, settlement, token);
  return false;
}

/* ----------------------------------------------------------------- actions */

/* The attempt does not count. */
static void attempt_undo(struct placement *placement) {
  if (placement->history.attempt > 0) placement->history.attempt--;
}

static int retry_run(dibs_db *db, dibs_settlement *settlement,
                     const struct job *job, struct placement *placement) {
  struct history *history = &placement->history;
  error_add(db, job, placement,
            settlement->error ? settlement->error : "retried");
  if (job_is_final(job, history->attempt)) return job_die(db, job, placement);
  int64_t delay = settlement->delay;
  if (delay == DIBS_UNSET) delay = job_backoff(db, job, history->attempt);
  history->due_at = time_add(db->now, delay);
  return place_again(db, job, placement);
}

static int snooze_run(dibs_db *db, dibs_settlement *settlement,
                      const struct job *job, struct placement *placement) {
  attempt_undo(placement);
  placement->history.due_at = time_add(db->now, settlement->delay);
  return place_again(db, job, placement);
}

static int release_run(dibs_db *db, const struct job *job,
                       struct placement *placement) {
  attempt_undo(placement);
  return place_again(db, job, placement);
}

static int fail_run(dibs_db *db, dibs_settlement *settlement,
                    const struct job *job, struct placement *placement) {
  error_add(db, job, placement,
            settlement->error ? settlement->error : "failed");
  return job_die(db, job, placement);
}

static int discard_run(dibs_db *db, dibs_settlement *settlement,
                       const struct job *job, struct placement *placement) {
  if (settlement->error) error_add(db, job, placement, settlement->error);
  return job_finish(db, job, placement, DIBS_DISCARDED, NULL);
}

/* Never shortens. */
static void extend_run(dibs_db *db, dibs_settlement *settlement,
                       const struct placement *placement) {
  int64_t until = time_add(db->now, settlement->lease);
  settlement->state = DIBS_RUNNING;
  settlement->until = placement->until;
  if (until <= placement->until) return;
  settlement->until = until;
  sql_run(db, SQL_LEASED_EXTEND,
          SQL_ARGS(sql_int(settlement->id), sql_int(until)));
}

/* The job leaves its lease and goes on. */
static int action_run(dibs_db *db, dibs_settlement *settlement,
                      const struct job *job, struct placement *placement) {
  placement_leave(db, job, placement);
  limit_left(db, job);
  switch (settlement->action) {
  case DIBS_ACK:
    return job_finish(db, job, placement, DIBS_ACKED, &settlement->result);
  case DIBS_RETRY: return retry_run(db, settlement, job, placement);
  case DIBS_FAIL: return fail_run(db, settlement, job, placement);
  case DIBS_RELEASE: return release_run(db, job, placement);
  case DIBS_SNOOZE: return snooze_run(db, settlement, job, placement);
  default: return discard_run(db, settlement, job, placement);
  }
}

/* The common case: a job that has nothing but its row. False when it is not
** that, or the receipt does not hold. */
static bool ack_plain(dibs_db *db, dibs_settlement *settlement, int64_t token,
                      int64_t time) {
  if (settlement->action != DIBS_ACK) return false;
  sql_run(db, SQL_LEASED_REMOVE_PLAIN,
          SQL_ARGS(sql_int(settlement->id), sql_int(token), sql_int(time)));
  if (sql_changes(db) != 1) return false;
  job_forget(db, settlement->id, 0);
  wake_note_all(&db->wakes, CHANNEL_ENDED);
  settlement->state = DIBS_DONE;
  return true;
}

void settlement_run(dibs_db *db, dibs_settlement *settlement, int64_t time) {
  int64_t token;
  struct job job;
  struct placement placement;
  if (settlement->status || !receipt_read(settlement, &token)) return;
  if (ack_plain(db, settlement, token, time)) return;
  if (lease_hold(db, settlement, token, time, &job, &placement)) {
    if (settlement->action == DIBS_EXTEND) {
      extend_run(db, settlement, &placement);
    } else {
      settlement->state = action_run(db, settlement, &job, &placement);
      settlement->until = placement.history.due_at;
    }
  }
  placement_free(&placement);
}

/* ------------------------------------------------------------------- batch */

static void settlement_start(dibs_settlement *settlement) {
  settlement->status = DIBS_OK;
  settlement->state = 0;
  settlement->id = 0;
  settlement->until = DIBS_UNSET;
  settlement->message[0] = 0;
}

/* The whole batch failed: nothing was settled. */
static void batch_fail(const dibs_db *db, dibs_settlement *settlements,
                       size_t count) {
  for (size_t i = 0; i < count; i++) {
    settlements[i].state = 0;
    settlement_fail(&settlements[i], db->status, "%.*s",
                    (int)sizeof settlements->message - 1, db->message);
  }
}

static void batch_run(dibs_db *db, dibs_settlement *settlements, size_t count) {
  bool any = false;
  for (size_t i = 0; i < count; i++) {
    settlement_start(&settlements[i]);
    settlement_check(db, &settlements[i]);
    any = any || !settlements[i].status;
  }
  if (!any || db->status) return;
  sql_begin_write(db);
  for (size_t i = 0; i < count && !db->status; i++)
    settlement_run(db, &settlements[i], db->asked);
  sql_end(db);
}

int dibs_settle(dibs_db *db, dibs_settlement *settlements, size_t count) {
  int status;
  if (!handle_enter(db, &status)) return status;
  if (count && !settlements)
    handle_fail(db, DIBS_MISUSE,
                "settlements is NULL but their count is not "
                "0");
  else
    batch_run(db, settlements, count);
  if (db->status && settlements) batch_fail(db, settlements, count);
  return handle_leave(db);
}

/* ------------------------------------------------------------------ single */

/* Settle one, its outcome being that of the call. */
static int settle_one(dibs_db *db, dibs_settlement *settlement) {
  int status;
  if (!handle_enter(db, &status)) return status;
  batch_run(db, settlement, 1);
  if (settlement->status)
    handle_fail(db, settlement->status, "%s", settlement->message);
  return handle_leave(db);
}

int dibs_ack(dibs_db *db, const char *receipt, const char *result) {
  dibs_settlement settlement = {
      .receipt = receipt, .action = DIBS_ACK, .result = dibs_json(result)};
  return settle_one(db, &settlement);
}

int dibs_retry(dibs_db *db, const char *receipt, int64_t delay,
               const char *error, int *state) {
  dibs_settlement settlement = {
      .receipt = receipt, .action = DIBS_RETRY, .delay = delay, .error = error};
  int status = settle_one(db, &settlement);
  if (!status && state) *state = settlement.state;
  return status;
}

int dibs_fail(dibs_db *db, const char *receipt, const char *error) {
  dibs_settlement settlement = {
      .receipt = receipt, .action = DIBS_FAIL, .error = error};
  return settle_one(db, &settlement);
}

int dibs_release(dibs_db *db, const char *receipt) {
  dibs_settlement settlement = {.receipt = receipt, .action = DIBS_RELEASE};
  return settle_one(db, &settlement);
}

int dibs_snooze(dibs_db *db, const char *receipt, int64_t delay) {
  dibs_settlement settlement = {
      .receipt = receipt, .action = DIBS_SNOOZE, .delay = delay};
  return settle_one(db, &settlement);
}

int dibs_discard(dibs_db *db, const char *receipt, const char *error) {
  dibs_settlement settlement = {
      .receipt = receipt, .action = DIBS_DISCARD, .error = error};
  return settle_one(db, &settlement);
}

int dibs_extend(dibs_db *db, const char *receipt, int64_t lease,
                int64_t *until) {
  dibs_settlement settlement = {
      .receipt = receipt, .action = DIBS_EXTEND, .lease = lease};
  int status = settle_one(db, &settlement);
  if (!status && until) *until = settlement.until;
  return status;
}

/* --------------------------------------------------------- while a job runs */

/* What is done to a running job in the name of its receipt. */
struct running_change {
  const dibs_payload *payload; /* checkpoint; NULL: progress */
  int64_t lease;
  double done;
  const char *text;
};

static void checkpoint_run(dibs_db *db, dibs_settlement *settlement,
                           const struct placement *placement,
                           const struct running_change *change) {
  if (change->payload->kind != DIBS_PAYLOAD_NONE)
    sql_run(db, SQL_CHECKPOINT,
            SQL_ARGS(sql_int(settlement->id), sql_payload(change->payload)));
  if (change->lease == DIBS_UNSET) return;
  settlement->lease = change->lease;
  extend_run(db, settlement, placement);
}

static void running_change(dibs_db *db, dibs_settlement *settlement,
                           const struct running_change *change) {
  int64_t token;
  struct job job;
  struct placement placement;
  if (!receipt_read(settlement, &token)) return;
  if (lease_hold(db, settlement, token, db->asked, &job, &placement)) {
    if (change->payload)
      checkpoint_run(db, settlement, &placement, change);
    else
      sql_run(db, SQL_PROGRESS,
              SQL_ARGS(sql_int(settlement->id), sql_real(change->done),
                       sql_text(change->text)));
  }
  placement_free(&placement);
}

/* In an operation whose arguments have been checked. */
static int change_leave(dibs_db *db, const char *receipt,
                        const struct running_change *change) {
  dibs_settlement settlement = {.receipt = receipt};
  settlement_start(&settlement);
  if (!db->status) {
    sql_begin_write(db);
    running_change(db, &settlement, change);
    sql_end(db);
  }
  if (settlement.status)
    handle_fail(db, settlement.status, "%s", settlement.message);
  return handle_leave(db);
}

int dibs_checkpoint(dibs_db *db, const char *receipt, dibs_payload payload,
                    int64_t lease) {
  int status;
  struct running_change change = {.payload = &payload, .lease = lease};
  if (!handle_enter(db, &status)) return status;
  payload_check(db, &payload);
  if (lease != DIBS_UNSET && (lease <= 0 || lease > TIME_MAX))
    handle_fail(db, DIBS_INVALID, "lease is %lld ms: give more than 0",
                (long long)lease);
  return change_leave(db, receipt, &change);
}

int dibs_progress(dibs_db *db, const char *receipt, double done,
                  const char *text) {
  int status;
  char kept[KEY_SIZE];
  struct running_change change = {.done = done, .text = text ? kept : NULL};
  if (!handle_enter(db, &status)) return status;
  if (!(done >= 0 && done <= 1))
    handle_fail(db, DIBS_INVALID, "progress is %g: give 0 to 1", done);
  if (text && !utf8_valid(text, strlen(text)))
    handle_fail(db, DIBS_INVALID, "the text of the progress is not UTF-8");
  if (text) {
    size_t size = strlen(text);
    if (size > DIBS_NAME_MAX) size = utf8_floor(text, DIBS_NAME_MAX);
    memcpy(kept, text, size);
    kept[size] = 0;
  }
  return change_leave(db, receipt, &change);
}
