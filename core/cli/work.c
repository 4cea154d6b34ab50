/* SPDX-License-Identifier: MIT */
/*
** work.c: the command lines of worker and bench; worker.c and bench.c do what
** they ask for.
*/
#include "bench.h"
#include "cli.h"
#include "worker.h"

#define BENCH_JOBS    20000
#define BENCH_PAYLOAD 100
#define BENCH_ROUNDS  5

/* The number of an option, or what it is by default. */
static int64_t number_or(const struct cli *cli, enum option_id id,
                         int64_t otherwise) {
  return cli_has(cli, id) ? cli_number(cli, id) : otherwise;
}

int run_worker(struct cli *cli) {
  struct worker_options options = {0};
  int code = cli_queues(cli, 0, &options.queues, &options.queue_count);
  if (code) return code;
  if (!cli->dashes) return cli_usage(cli, "worker needs -- before its CMD");
  if (cli->before_dashes > 0)
    return cli_usage(cli,
                     "worker does not take \"%s\"; its CMD stands after --",
                     cli->arguments[0]);
  cli->open.create = DIBS_CREATE_NONE;
  options.db_path = cli->db_path;
  options.open = &cli->open;
  options.slots = number_or(cli, OPTION_SLOTS, 1);
  options.lease = cli_number(cli, OPTION_LEASE);
  options.timeout = cli_number(cli, OPTION_TIMEOUT);
  options.grace = cli_number(cli, OPTION_GRACE);
  options.worker = cli_text(cli, OPTION_WORKER);
  options.result = cli_has(cli, OPTION_KEEP_RESULT);
  options.once = cli_has(cli, OPTION_ONCE);
  options.drain = cli_has(cli, OPTION_DRAIN);
  options.json = output_json();
  options.max_jobs = cli_number(cli, OPTION_MAX_JOBS);
  options.command = cli->arguments;
  return worker_run(&options);
}

int run_bench(struct cli *cli) {
  struct bench_options options = {0};
  if (output_json() && cli_has(cli, OPTION_MARKDOWN))
    return cli_usage(cli, "give --json or --markdown, not both");
  options.folder = cli_text(cli, OPTION_FOLDER);
  options.jobs = number_or(cli, OPTION_COUNT, BENCH_JOBS);
  options.payload = number_or(cli, OPTION_PAYLOAD, BENCH_PAYLOAD);
  options.rounds = number_or(cli, OPTION_ROUNDS, BENCH_ROUNDS);
  options.json = output_json();
  options.markdown = cli_has(cli, OPTION_MARKDOWN);
  options.open = &cli->open;
  return bench_run(&options);
}
