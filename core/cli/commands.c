/* SPDX-License-Identifier: MIT */
/*
** commands.c: the table of the dibs program's commands and their options.
**
** Parsing, --help, the manual page and the completions are all made of what
** stands here, so that nothing can be offered in one place and forgotten in
** another. Texts are plain sentences; whoever prints them wraps them.
*/
#include <string.h>

#include "cli.h"

const struct option options_table[OPTIONS_END] = {
#define OPTION_ROW(id, name, letter, argument, kind, help)                     \
  {name, letter, argument, kind, help},
    OPTION_MAP(OPTION_ROW)
#undef OPTION_ROW
};

/* clang-format off */
#define OPTIONS(...)                                                           \
  (const struct command_option[]) { __VA_ARGS__, {OPTIONS_END, NULL} }
/* clang-format on */

const struct command_option everywhere_table[] = {
    {OPTION_DB, NULL},           {OPTION_JSON, NULL},
    {OPTION_BUSY_TIMEOUT, NULL}, {OPTION_SYNCHRONOUS, NULL},
    {OPTION_MAX_PAYLOAD, NULL},  {OPTION_HELP, NULL},
    {OPTION_VERSION, NULL},      {OPTIONS_END, NULL},
};

/* Wordings that several commands share. */
#define ONE_QUEUE "the queue; default \"default\""
#define WHERE_DEFAULT                                                          \
  "this queue, or with NAME/* all beneath NAME; may be given several times; "  \
  "default \"default\""
#define WHERE_ALL                                                              \
  "only this queue, or with NAME/* all beneath NAME; may be given several "    \
  "times; default all"
#define WHERE_MUST                                                             \
  "this queue, or with NAME/* all beneath NAME; may be given several times; "  \
  "this or --all must be given"
#define QUEUE_ARGUMENTS                                                        \
  "QUEUE may be given several times; NAME/* is all queues beneath NAME that "  \
  "there are."
#define SEVERAL                                                                \
  "Of several, every good one is done; each bad one gives an error line, and " \
  "the exit code is the highest."

const struct command commands_table[] = {
    {
        "init",
        NULL,
        0,
        0,
        NULL,
        "make the tables in a database, or bring them up to date",
        "Makes the file too if there is none. Harmless when it was done "
        "before. An application's own tables are left alone.",
        "dibs --db app.db init\n",
        OPTIONS({OPTIONS_END, NULL}),
        run_init,
    },
    {
        "enqueue",
        "[PAYLOAD]",
        0,
        1,
        NULL,
        "add a job, or a stream of them",
        "Prints the id of each job. When it has been printed the job is "
        "safe.\n\n"
        "PAYLOAD is JSON, unless --bytes is given. It may be left out; --file "
        "and --base64 stand in its place. Only in a file that is not there "
        "yet are the tables made; elsewhere dibs init makes them.\n\n"
        "--lines and --jobs read a stream of any length and add it in "
        "batches of 1,000, a batch being a transaction; a batch ends sooner "
        "when it holds 16 MiB or when the input pauses for a second. At a bad "
        "line it stops: batches before it are taken, nothing of the batch "
        "that the line is in, and the error gives the number of the line and "
        "of the jobs taken. With --atomic all is one transaction, held in "
        "memory until the input ends. Blank lines are skipped, but with "
        "--bytes they are empty payloads. The other options are defaults for "
        "what a line of --jobs leaves out. After Ctrl-C the batch that is "
        "being written is finished, what was read beyond it is not taken, and "
        "the exit code is 130.",
        "dibs enqueue -q mail '{\"to\":\"ann\"}'\n"
        "dibs enqueue -q thumbs --file photo.jpg --bytes --delay 5m\n"
        "find . -type f | dibs enqueue -q files --lines --bytes\n"
        "dibs enqueue --jobs < jobs.ndjson\n",
        OPTIONS({OPTION_QUEUE, ONE_QUEUE}, {OPTION_FILE, NULL},
                {OPTION_BASE64, NULL}, {OPTION_BYTES, NULL},
                {OPTION_LINES, NULL}, {OPTION_JOBS, NULL},
                {OPTION_ATOMIC, NULL}, {OPTION_NAME, NULL},
                {OPTION_HEADER, NULL}, {OPTION_HEADERS, NULL},
                {OPTION_PRIORITY, NULL}, {OPTION_DELAY, NULL},
                {OPTION_AT, NULL}, {OPTION_EXPIRES, NULL},
                {OPTION_MAX_ATTEMPTS, NULL}, {OPTION_MAX_CRASHES, NULL},
                {OPTION_BACKOFF, NULL}, {OPTION_BACKOFF_FACTOR, NULL},
                {OPTION_BACKOFF_CAP, NULL}, {OPTION_BACKOFF_JITTER, NULL},
                {OPTION_LEASE, "how long a claim holds it, unless the claim "
                               "says; default that of the claim: 60s, in "
                               "workers 15s, extended"},
                {OPTION_TIMEOUT, NULL}, {OPTION_KEEP, NULL}, {OPTION_KEY, NULL},
                {OPTION_LIMIT_KEY, NULL}, {OPTION_UNIQUE, NULL},
                {OPTION_UNIQUE_FOR, NULL}, {OPTION_UNIQUE_SCOPE, NULL},
                {OPTION_ON_CONFLICT, NULL}, {OPTION_STAGE, NULL}),
        run_enqueue,
    },
    {
        "claim",
        NULL,
        0,
        0,
        NULL,
        "take jobs to work on",
        "Prints each job with its receipt. Who holds the receipt settles the "
        "job with ack, retry, fail, release, snooze or discard before the "
        "lease runs out, or holds it for longer with extend. Several queues "
        "take turns. Exit code 3 when there is no job.",
        "dibs claim -q mail --json\n"
        "dibs claim -q 'thumbs/*' -n 10 --lease 5m --wait inf\n",
        OPTIONS({OPTION_QUEUE, WHERE_DEFAULT}, {OPTION_ALL, NULL},
                {OPTION_N, NULL}, {OPTION_LEASE, NULL}, {OPTION_WAIT, NULL},
                {OPTION_WORKER, NULL}, {OPTION_IN_ORDER, NULL}),
        run_claim,
    },
    {
        "ack",
        "RECEIPT...",
        1,
        CLI_MANY,
        NULL,
        "say that a job is done",
        SEVERAL,
        "dibs ack 12:6f1c0e5a\n"
        "dibs ack 12:6f1c0e5a --result '{\"sum\":5}'\n",
        OPTIONS({OPTION_RESULT, NULL}),
        run_ack,
    },
    {
        "retry",
        "RECEIPT...",
        1,
        CLI_MANY,
        NULL,
        "say that an attempt failed: again later, or dead after the last",
        SEVERAL,
        "dibs retry 12:6f1c0e5a --error 'no answer' --delay 30s\n",
        OPTIONS({OPTION_DELAY, "again after D; default the job's backoff"},
                {OPTION_ERROR, NULL}),
        run_retry,
    },
    {
        "fail",
        "RECEIPT...",
        1,
        CLI_MANY,
        NULL,
        "say that a job failed for good: to the dead letters",
        SEVERAL,
        "dibs fail 12:6f1c0e5a --error 'no such user'\n",
        OPTIONS({OPTION_ERROR, NULL}),
        run_fail,
    },
    {
        "release",
        "RECEIPT...",
        1,
        CLI_MANY,
        NULL,
        "give a job back at once; no attempt is counted",
        SEVERAL,
        "dibs release 12:6f1c0e5a\n",
        OPTIONS({OPTIONS_END, NULL}),
        run_release,
    },
    {
        "extend",
        "RECEIPT...",
        1,
        CLI_MANY,
        NULL,
        "hold a job for longer",
        "A lease is never made shorter. " SEVERAL,
        "dibs extend 12:6f1c0e5a --lease 10m\n",
        OPTIONS({OPTION_LEASE, "hold it for D from now; must be given"}),
        run_extend,
    },
    {
        "snooze",
        "RECEIPT...",
        1,
        CLI_MANY,
        NULL,
        "give a job back for later; no attempt is counted",
        SEVERAL,
        "dibs snooze 12:6f1c0e5a --delay 1h\n",
        OPTIONS({OPTION_DELAY, "again after D; must be given"}),
        run_snooze,
    },
    {
        "discard",
        "RECEIPT...",
        1,
        CLI_MANY,
        NULL,
        "end a job that need not be done",
        SEVERAL,
        "dibs discard 12:6f1c0e5a --error 'user is gone'\n",
        OPTIONS({OPTION_ERROR, NULL}),
        run_discard,
    },
    {
        "checkpoint",
        "RECEIPT [PAYLOAD]",
        1,
        2,
        NULL,
        "keep what a running job has done for its next attempt",
        "PAYLOAD takes the place of the job's payload: should this attempt "
        "fail, or its worker die, the next one gets it. It is JSON, unless "
        "--bytes is given; --file and --base64 stand in its place. Without "
        "one the payload stays as it is. The job goes on; with --lease it is "
        "held for longer, as by dibs extend.",
        "dibs checkpoint \"$DIBS_RECEIPT\" '{\"page\":7}'\n"
        "dibs checkpoint 12:6f1c0e5a --file state.bin --bytes --lease 5m\n",
        OPTIONS({OPTION_FILE, NULL}, {OPTION_BASE64, NULL},
                {OPTION_BYTES, NULL},
                {OPTION_LEASE, "hold it for D from now; default as it is"}),
        run_checkpoint,
    },
    {
        "progress",
        "RECEIPT DONE [TEXT]",
        2,
        3,
        NULL,
        "say how far a running job is",
        "DONE is a number from 0 to 1. dibs get shows it with TEXT, also of a "
        "job that is dead, or done and kept. Without TEXT an older one goes; "
        "of a long one the first 255 bytes are kept.",
        "dibs progress \"$DIBS_RECEIPT\" 0.4 'page 7 of 18'\n",
        OPTIONS({OPTIONS_END, NULL}),
        run_progress,
    },
    {
        "worker",
        "-- CMD ARG...",
        1,
        CLI_MANY,
        NULL,
        "run a command for each job",
        "CMD gets the payload on standard input, and in its environment "
        "DIBS_JOB_ID, DIBS_QUEUE, DIBS_NAME, DIBS_ATTEMPT, DIBS_MAX_ATTEMPTS, "
        "DIBS_FINAL (1 in the last attempt, else 0), DIBS_HEADERS (JSON), "
        "DIBS_RECEIPT and DIBS_DB. Its exit code settles the job: 0 acks, 75 "
        "retries, 65 fails for good, 69 releases; anything else retries. What "
        "it last wrote to standard error is kept as the error.\n\n"
        "The lease is extended while CMD runs. TERM or Ctrl-C stops the "
        "worker: it claims no more, waits for what runs up to the grace, "
        "releases the rest, and exits with 0. A worker that is killed takes "
        "its running CMD with it. A CMD that cannot be run ends the worker "
        "with exit code 2.",
        "dibs worker -q mail -j 4 -- ./send-mail\n"
        "dibs worker -q files --drain -- sh -c 'gzip -c > \"$DIBS_JOB_ID.gz\"'"
        "\n",
        OPTIONS({OPTION_QUEUE, WHERE_DEFAULT}, {OPTION_ALL, NULL},
                {OPTION_SLOTS, NULL},
                {OPTION_LEASE, "hold a job for D, extended while it runs; "
                               "default 15s"},
                {OPTION_WORKER, "the name that get and list show"},
                {OPTION_TIMEOUT, "end a CMD that has run for D, if its job "
                                 "names no timeout; default none"},
                {OPTION_GRACE, NULL}, {OPTION_KEEP_RESULT, NULL},
                {OPTION_ONCE, NULL}, {OPTION_DRAIN, NULL},
                {OPTION_MAX_JOBS, NULL}),
        run_worker,
    },
    {
        "get",
        "ID...",
        1,
        CLI_MANY,
        NULL,
        "show a job, in whatever state, with its errors",
        "A job that is done is there only if it was enqueued with --keep.",
        "dibs get 12 --json\n",
        OPTIONS({OPTIONS_END, NULL}),
        run_get,
    },
    {
        "peek",
        NULL,
        0,
        0,
        NULL,
        "show what a claim would give next, without claiming it",
        "Exit code 3 when there is no job.",
        "dibs peek -q mail -n 5\n",
        OPTIONS({OPTION_QUEUE, WHERE_DEFAULT}, {OPTION_ALL, NULL},
                {OPTION_N, NULL}),
        run_peek,
    },
    {
        "list",
        NULL,
        0,
        0,
        NULL,
        "list jobs by id",
        "To read on, give the last id that was shown with --after.",
        "dibs list -q mail --state dead --limit 20\n",
        OPTIONS({OPTION_QUEUE, WHERE_ALL}, {OPTION_ALL, NULL},
                {OPTION_STATE, NULL}, {OPTION_NAME, "only jobs of this name"},
                {OPTION_LIMIT, NULL}, {OPTION_AFTER, NULL}),
        run_list,
    },
    {
        "stats",
        NULL,
        0,
        0,
        NULL,
        "count the jobs of each queue by state",
        NULL,
        "dibs stats\n"
        "dibs stats -q 'thumbs/*' --watch\n",
        OPTIONS({OPTION_QUEUE, WHERE_ALL}, {OPTION_ALL, NULL},
                {OPTION_WATCH, NULL}),
        run_stats,
    },
    {
        "explain",
        "[ID...]",
        0,
        CLI_MANY,
        NULL,
        "say why a job, or what waits in a queue, is not running",
        "The first reason is the one to see to. With --json each job or queue "
        "is an object whose \"reasons\" have a word for programs, \"reason\", "
        "a sentence, \"text\", when it will be over, \"at\", and the job that "
        "it waits for, \"id\".",
        "dibs explain 12\n"
        "dibs explain -q mail --json\n",
        OPTIONS({OPTION_QUEUE, "why the jobs of this queue, or of all beneath "
                               "NAME/*, are not running; may be given several "
                               "times"},
                {OPTION_ALL, NULL}),
        run_explain,
    },
    {
        "wait",
        "ID",
        1,
        1,
        NULL,
        "wait until a job has ended",
        "Prints the job. The exit code is 0 when it is done, whatever its "
        "outcome, and 4 when it is dead. A job that is not kept is gone when "
        "it is done: of such a one the id and state are printed. If it ended "
        "before the wait began, or was never there, or if the wait ran out, "
        "the exit code is 3. Whoever must not miss the end enqueues the job "
        "with --keep.",
        "dibs wait 12 --timeout 5m\n",
        OPTIONS({OPTION_WAIT_TIMEOUT, NULL}),
        run_wait,
    },
    {
        "cancel",
        "ID...",
        1,
        CLI_MANY,
        NULL,
        "cancel jobs that wait, run or are dead",
        "Each becomes done with the outcome cancelled, and is gone unless it "
        "is to be kept. Whoever works on it finds its receipt "
        "refused. " SEVERAL,
        "dibs cancel 12 13\n",
        OPTIONS({OPTIONS_END, NULL}),
        run_cancel,
    },
    {
        "change",
        "ID",
        1,
        1,
        NULL,
        "change the priority or the time of a job that waits",
        NULL,
        "dibs change 12 --priority 10 --delay 0\n",
        OPTIONS({OPTION_PRIORITY, "higher first, may be negative"},
                {OPTION_AT, NULL}, {OPTION_DELAY, NULL},
                {OPTION_STAGE, "of a staged job: time to commit from now"}),
        run_change,
    },
    {
        "dead list",
        NULL,
        0,
        0,
        NULL,
        "list the dead letters",
        NULL,
        "dibs dead\n",
        OPTIONS({OPTION_QUEUE, WHERE_ALL}, {OPTION_ALL, NULL},
                {OPTION_NAME, "only jobs of this name"}, {OPTION_LIMIT, NULL},
                {OPTION_AFTER, NULL}),
        run_dead_list,
    },
    {
        "dead requeue",
        "ID...",
        1,
        CLI_MANY,
        NULL,
        "put chosen dead letters back to work",
        "They keep their id, age and errors; their attempts begin "
        "anew. " SEVERAL,
        "dibs dead requeue 12\n",
        OPTIONS({OPTIONS_END, NULL}),
        run_dead_requeue,
    },
    {
        "dead redrive",
        NULL,
        0,
        0,
        NULL,
        "put all dead letters of a queue back to work",
        "One whose unique key another job has by now stays dead, and its id "
        "is shown.",
        "dibs dead redrive -q mail\n",
        OPTIONS({OPTION_QUEUE, WHERE_MUST}, {OPTION_ALL, NULL}),
        run_dead_redrive,
    },
    {
        "dead purge",
        NULL,
        0,
        0,
        NULL,
        "remove all dead letters of a queue",
        NULL,
        "dibs dead purge -q mail\n",
        OPTIONS({OPTION_QUEUE, WHERE_MUST}, {OPTION_ALL, NULL}),
        run_dead_purge,
    },
    {
        "queue list",
        NULL,
        0,
        0,
        NULL,
        "list the queues",
        NULL,
        "dibs queue\n",
        OPTIONS({OPTIONS_END, NULL}),
        run_queue_list,
    },
    {
        "queue show",
        "QUEUE...",
        0,
        CLI_MANY,
        "@queue",
        "show a queue with its counts and settings",
        QUEUE_ARGUMENTS,
        "dibs queue show mail\n",
        OPTIONS({OPTION_ALL, NULL}),
        run_queue_show,
    },
    {
        "queue set",
        "QUEUE",
        1,
        1,
        "@queue",
        "set a queue: limits, rates, and defaults of its jobs",
        "What is set counts for all processes at once, and stays until it is "
        "set anew; none takes a setting back. Limits and rates hold over all "
        "workers. Defaults are of jobs that are added from then on, and whose "
        "own options say nothing. A queue may be set before it has jobs. "
        "Prints what the queue is set to now.",
        "dibs queue set mail --limit 5 --rate 10/1s --max-attempts 3\n"
        "dibs queue set mail --rate none\n",
        OPTIONS({OPTION_SET_LIMIT, NULL}, {OPTION_SET_LIMIT_PER_KEY, NULL},
                {OPTION_SET_RATE, NULL}, {OPTION_SET_BURST, NULL},
                {OPTION_SET_RATE_PER_KEY, NULL}, {OPTION_SET_DEAD_HEAD, NULL},
                {OPTION_SET_KEEP_COUNT, NULL}, {OPTION_SET_NAME, NULL},
                {OPTION_SET_HEADERS, NULL}, {OPTION_SET_PRIORITY, NULL},
                {OPTION_SET_DELAY, NULL}, {OPTION_SET_EXPIRES, NULL},
                {OPTION_SET_MAX_ATTEMPTS, NULL}, {OPTION_SET_MAX_CRASHES, NULL},
                {OPTION_SET_BACKOFF, NULL}, {OPTION_SET_BACKOFF_FACTOR, NULL},
                {OPTION_SET_BACKOFF_CAP, NULL},
                {OPTION_SET_BACKOFF_JITTER, NULL}, {OPTION_SET_LEASE, NULL},
                {OPTION_SET_TIMEOUT, NULL}, {OPTION_SET_KEEP, NULL},
                {OPTION_SET_KEY, NULL}, {OPTION_SET_LIMIT_KEY, NULL},
                {OPTION_SET_UNIQUE, NULL}, {OPTION_SET_UNIQUE_FOR, NULL},
                {OPTION_SET_UNIQUE_SCOPE, NULL}, {OPTION_SET_ON_CONFLICT, NULL},
                {OPTION_SET_STAGE, NULL}),
        run_queue_set,
    },
    {
        "queue pause",
        "QUEUE...",
        0,
        CLI_MANY,
        "@queue",
        "hold a queue back: nothing of it is claimed",
        "Jobs may be added, and stay ready; those that run go on and may be "
        "settled. It lasts until dibs queue resume. A queue may be paused "
        "before it has jobs. " QUEUE_ARGUMENTS,
        "dibs queue pause mail 'thumbs/*'\n",
        OPTIONS({OPTION_ALL, "all queues that there are"}),
        run_queue_pause,
    },
    {
        "queue resume",
        "QUEUE...",
        0,
        CLI_MANY,
        "@queue",
        "let a paused queue go on",
        QUEUE_ARGUMENTS,
        "dibs queue resume --all\n",
        OPTIONS({OPTION_ALL, NULL}),
        run_queue_resume,
    },
    {
        "clear",
        NULL,
        0,
        0,
        NULL,
        "remove all jobs of a queue that wait",
        "Running jobs and finished ones that are kept stay; so do dead "
        "letters, without --dead. On a terminal it asks first.",
        "dibs clear -q mail --yes\n",
        OPTIONS({OPTION_QUEUE, WHERE_MUST}, {OPTION_ALL, NULL},
                {OPTION_DEAD, NULL}, {OPTION_YES, NULL}),
        run_clear,
    },
    {
        "prune",
        NULL,
        0,
        0,
        NULL,
        "remove finished jobs whose time of keeping is over",
        NULL,
        "dibs prune\n",
        OPTIONS({OPTION_ALL, "all queues, as it does without this too"},
                {OPTION_YES, "do not ask, as it does without this too"}),
        run_prune,
    },
    {
        "commit",
        "ID...",
        1,
        CLI_MANY,
        NULL,
        "let a staged job take its place",
        "Of a job that was enqueued with --stage. When its time is over it "
        "is gone, and the exit code is 4. " SEVERAL,
        "dibs commit 12\n",
        OPTIONS({OPTIONS_END, NULL}),
        run_commit,
    },
    {
        "abort",
        "ID...",
        1,
        CLI_MANY,
        NULL,
        "remove a staged job",
        SEVERAL,
        "dibs abort 12\n",
        OPTIONS({OPTIONS_END, NULL}),
        run_abort,
    },
    {
        "doctor",
        NULL,
        0,
        0,
        NULL,
        "look for what is wrong, and say what to do",
        "Looks at the SQLite library, the file and its settings, the tables "
        "and the queues. Exit code 1 if something is broken.",
        "dibs doctor --thorough\n",
        OPTIONS({OPTION_THOROUGH, NULL}),
        run_doctor,
    },
    {
        "bench",
        NULL,
        0,
        0,
        NULL,
        "measure how fast dibs is on this machine",
        "Measures enqueue and claim with ack, singly and in batches of 100, "
        "for synchronous normal and full, beside the raw SQLite insert, which "
        "counts as 1.0. It works on a database of its own, which it removes.",
        "dibs bench --folder /tmp --markdown\n",
        OPTIONS({OPTION_FOLDER, NULL}, {OPTION_COUNT, NULL},
                {OPTION_PAYLOAD, NULL}, {OPTION_ROUNDS, NULL},
                {OPTION_MARKDOWN, NULL}),
        run_bench,
    },
    {
        "version",
        NULL,
        0,
        0,
        NULL,
        "print the versions of dibs, its schema and SQLite",
        NULL,
        "dibs version --json\n",
        OPTIONS({OPTIONS_END, NULL}),
        run_version,
    },
    {
        "completion",
        "bash|zsh",
        1,
        1,
        "bash|zsh",
        "print the completion script of a shell",
        "Put it where the shell looks for such scripts, or source it.",
        "source <(dibs completion bash)\n"
        "dibs completion zsh > ~/.zfunc/_dibs\n",
        OPTIONS({OPTIONS_END, NULL}),
        run_completion,
    },
    {
        "help",
        "[COMMAND]",
        0,
        2,
        NULL,
        "say how dibs or a command is used",
        NULL,
        "dibs help claim\n"
        "dibs help --man | man -l -\n",
        OPTIONS({OPTION_MAN, NULL}),
        run_help,
    },
};

const size_t commands_count = sizeof commands_table / sizeof *commands_table;

const char *command_option_help(const struct command_option *option) {
  return option->help ? option->help : options_table[option->id].help;
}

const struct command *command_find(const char *name) {
  for (size_t i = 0; i < commands_count; i++) {
    if (strcmp(commands_table[i].name, name) == 0) return &commands_table[i];
  }
  return NULL;
}

int command_is_group(const char *name) {
  size_t length = strlen(name);
  for (size_t i = 0; i < commands_count; i++) {
    const char *command = commands_table[i].name;
    if (strncmp(command, name, length) == 0 && command[length] == ' ') return 1;
  }
  return 0;
}
