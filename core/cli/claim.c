/* SPDX-License-Identifier: MIT */
/*
** claim.c: claim, the commands that settle what was claimed, and those that
** keep how far it has come.
*/
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* ------------------------------------------------------------------------ */
/* claim                                                                    */
/* ------------------------------------------------------------------------ */

/* Give back jobs whose receipts nobody has read: they would wait for the end
** of their lease. */
static int release_unread(dibs_db *db, const dibs_job_list *jobs) {
  dibs_settlement *settlements = calloc(jobs->count, sizeof *settlements);
  if (settlements == NULL) return cli_error(DIBS_NOMEM, "out of memory");
  for (size_t i = 0; i < jobs->count; i++) {
    settlements[i].receipt = jobs->jobs[i].receipt;
    settlements[i].action = DIBS_RELEASE;
    settlements[i].delay = settlements[i].lease = DIBS_UNSET;
  }
  int status = dibs_settle(db, settlements, jobs->count);
  free(settlements);
  if (status != DIBS_OK) return cli_db_error(db);
  return cli_error(DIBS_IO,
                   "the jobs could not be printed and were released: "
                   "writing to standard output: %s",
                   strerror(output_tell_lost()));
}

static int show_claimed(dibs_db *db, dibs_job_list *jobs) {
  int code = show_jobs(jobs, dibs_now(db));
  if (output_lost()) code = release_unread(db, jobs);
  dibs_job_list_free(jobs);
  return code;
}

int run_claim(struct cli *cli) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  const char *const *queues;
  size_t count;
  dibs_job_list *jobs = NULL;
  dibs_db *db;
  int code = cli_queues(cli, 0, &queues, &count);
  if (code == 0) code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  options.n = cli_number(cli, OPTION_N);
  options.lease = cli_number(cli, OPTION_LEASE);
  options.wait = cli_number(cli, OPTION_WAIT);
  options.worker = cli_text(cli, OPTION_WORKER);
  options.in_order = cli_has(cli, OPTION_IN_ORDER);
  if (cli_has(cli, OPTION_WAIT)) cli_catch_signals(db);
  int status = dibs_claim(db, queues, count, &options, &jobs);
  cli_forget_signals();
  code = status == DIBS_OK ? show_claimed(db, jobs) : cli_db_error(db);
  (void)dibs_close(db);
  return code;
}

/* ------------------------------------------------------------------------ */
/* Settling                                                                 */
/* ------------------------------------------------------------------------ */

/* Say what became of each receipt; returns the highest exit code. */
static int show_settled(const dibs_settlement *settlements, size_t count) {
  int worst = 0;
  for (size_t i = 0; i < count; i++) {
    const dibs_settlement *one = &settlements[i];
    struct cli_about about = CLI_ABOUT_INIT;
    if (one->status == DIBS_OK) {
      show_state(one->id, dibs_state_name(one->state));
      continue;
    }
    about.receipt = one->receipt;
    int code = cli_error_about(one->status, &about, "%s", one->message);
    if (code > worst) worst = code;
  }
  return worst;
}

static void fill_settlements(const struct cli *cli, int action,
                             dibs_settlement *settlements) {
  for (size_t i = 0; i < cli->argument_count; i++) {
    dibs_settlement *one = &settlements[i];
    one->receipt = cli->arguments[i];
    one->action = action;
    one->delay = cli_number(cli, OPTION_DELAY);
    one->lease = cli_number(cli, OPTION_LEASE);
    one->error = cli_text(cli, OPTION_ERROR);
    one->result = dibs_json(cli_text(cli, OPTION_RESULT));
  }
}

/* Settle every receipt of the command line the same way. */
static int settle(struct cli *cli, int action) {
  size_t count = cli->argument_count;
  dibs_db *db;
  int code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  dibs_settlement *settlements = calloc(count, sizeof *settlements);
  if (settlements == NULL) {
    code = cli_error(DIBS_NOMEM, "out of memory");
  } else {
    fill_settlements(cli, action, settlements);
    code = dibs_settle(db, settlements, count) == DIBS_OK
               ? show_settled(settlements, count)
               : cli_db_error(db);
  }
  free(settlements);
  (void)dibs_close(db);
  return code;
}

int run_ack(struct cli *cli) {
  return settle(cli, DIBS_ACK);
}

int run_retry(struct cli *cli) {
  return settle(cli, DIBS_RETRY);
}

int run_fail(struct cli *cli) {
  return settle(cli, DIBS_FAIL);
}

int run_release(struct cli *cli) {
  return settle(cli, DIBS_RELEASE);
}

int run_extend(struct cli *cli) {
  if (!cli_has(cli, OPTION_LEASE))
    return cli_usage(cli, "extend needs --lease D");
  return settle(cli, DIBS_EXTEND);
}

int run_snooze(struct cli *cli) {
  if (!cli_has(cli, OPTION_DELAY))
    return cli_usage(cli, "snooze needs --delay D");
  return settle(cli, DIBS_SNOOZE);
}

int run_discard(struct cli *cli) {
  return settle(cli, DIBS_DISCARD);
}

/* ------------------------------------------------------------------------ */
/* While a job runs                                                         */
/* ------------------------------------------------------------------------ */

/* Say what became of something done in the name of one receipt. Returns 0 or an
** exit code. */
static int show_held(const dibs_db *db, int status, const char *receipt) {
  struct cli_about about = CLI_ABOUT_INIT;
  if (status == DIBS_OK) {
    show_state(strtoll(receipt, NULL, 10), dibs_state_name(DIBS_RUNNING));
    return 0;
  }
  about.receipt = receipt;
  return cli_error_about(status, &about, "%s", dibs_error(db));
}

int run_checkpoint(struct cli *cli) {
  struct payload payload = PAYLOAD_INIT;
  const char *receipt = cli->arguments[0];
  dibs_db *db = NULL;
  int code = cli_payload_check(cli, cli->arguments[1]);
  if (code == 0) code = cli_payload_read(cli, cli->arguments[1], &payload);
  if (code == 0) code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code == 0) code = cli_payload_decode(cli, db, &payload);
  if (code == 0) {
    int status = dibs_checkpoint(db, receipt, payload.value,
                                 cli_number(cli, OPTION_LEASE));
    code = show_held(db, status, receipt);
    cli_payload_hint(cli, db);
  }
  (void)dibs_close(db);
  cli_payload_free(&payload);
  return code;
}

int run_progress(struct cli *cli) {
  const char *receipt = cli->arguments[0];
  double done;
  dibs_db *db;
  if (!cli_word_real(cli->arguments[1], &done))
    return cli_usage(cli,
                     "DONE \"%s\" is not valid; allowed is a number from 0 "
                     "to 1",
                     cli->arguments[1]);
  int code = cli_open(cli, DIBS_CREATE_NONE, &db);
  if (code) return code;
  int status = dibs_progress(db, receipt, done, cli->arguments[2]);
  code = show_held(db, status, receipt);
  (void)dibs_close(db);
  return code;
}
