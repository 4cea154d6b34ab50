/* SPDX-License-Identifier: MIT */
/*
** cli.h: the dibs program's own header, in sections by source file.
**
**     main.c       reads the command line, runs the command
**     commands.c   THE table of options and commands; all below is made of it
**     options.c    parsing
**     help.c       --help, and the manual page
**     complete.c   completion for bash and zsh
**     payload.c    the payload that a command line gives
**     enqueue.c    enqueue; stream.c: its --lines and --jobs
**     claim.c      claim, and what is done by a receipt
**     look.c       get, peek, list, stats, explain, wait, doctor
**     queue.c      queue list, show, set, pause, resume
**     admin.c      init, cancel, change, dead, clear, prune, ...
**     work.c       worker and bench: options only, worker.c and bench.c do it
**     output.c     errors, colours, status line; text.c, table.c, show.c
*/
#ifndef DIBS_CLI_CLI_H
#define DIBS_CLI_CLI_H

#include <stddef.h>
#include <stdint.h>

#include "dibs.h"
#include "output.h"

/* ------------------------------------------------------------------------ */
/* commands.c                                                               */
/* ------------------------------------------------------------------------ */

/* What an option's value is; KIND_FLAG takes none. */
enum option_kind {
  KIND_FLAG,
  KIND_TEXT,
  KIND_FILE,
  KIND_FOLDER,
  KIND_LIST,     /* text; may be given several times */
  KIND_COUNT,    /* an integer, 0 or more */
  KIND_POSITIVE, /* an integer, 1 or more */
  KIND_INTEGER,  /* an integer */
  KIND_REAL,     /* a number */
  KIND_DURATION, /* ms */
  KIND_ENDLESS,  /* a duration, or "inf": DIBS_FOREVER */
  KIND_UNTIL,    /* a duration, "start" or "finish": DIBS_UNIQUE_UNTIL_* */
  KIND_TIME,     /* ms since 1970 */
  KIND_CHOICE,   /* one of the words in `argument`, as its place from 0 */
  KIND_SETTING,  /* of a queue, as text, which the core reads; or "none" */
};

/* What a queue may be set to: the same, in words of their own. A setting's name
** is its option's, with underscores. */
#define SETTING_MAP(X)                                                         \
  X(SET_LIMIT, "limit", 0, "N|none", KIND_SETTING,                             \
    "run at most N of its jobs at a time; 0: none starts")                     \
  X(SET_LIMIT_PER_KEY, "limit-per-key", 0, "N|none", KIND_SETTING,             \
    "the same for each limit key")                                             \
  X(SET_RATE, "rate", 0, "N/D|none", KIND_SETTING,                             \
    "let at most N of its jobs start in D, as in 10/1s")                       \
  X(SET_BURST, "burst", 0, "N|none", KIND_SETTING,                             \
    "let N start at once when the rate was not used up; default the "          \
    "rate's number")                                                           \
  X(SET_RATE_PER_KEY, "rate-per-key", 0, "N/D|none", KIND_SETTING,             \
    "the rate of each limit key")                                              \
  X(SET_DEAD_HEAD, "dead-head", 0, "skip|block|none", KIND_SETTING,            \
    "whether a dead job lets the next of its key go (skip, the default) "      \
    "or holds it back")                                                        \
  X(SET_KEEP_COUNT, "keep-count", 0, "N|none", KIND_SETTING,                   \
    "keep the last N jobs that are done; without --keep whatever their "       \
    "age")                                                                     \
  X(SET_NAME, "name", 0, "NAME|none", KIND_SETTING,                            \
    "which handler jobs are for that name none")                               \
  X(SET_HEADERS, "headers", 0, "JSON|none", KIND_SETTING,                      \
    "headers of jobs that have none, as a flat JSON object of strings")        \
  X(SET_PRIORITY, "priority", 0, "N|none", KIND_SETTING,                       \
    "of jobs that name none; higher first; default 0")                         \
  X(SET_DELAY, "delay", 0, "D|none", KIND_SETTING,                             \
    "start jobs no sooner than D after their enqueue")                         \
  X(SET_EXPIRES, "expires", 0, "D|none", KIND_SETTING,                         \
    "do not start a job any more when D has passed")                           \
  X(SET_MAX_ATTEMPTS, "max-attempts", 0, "N|none", KIND_SETTING,               \
    "dead after N attempts; 0 is unlimited; default 20")                       \
  X(SET_MAX_CRASHES, "max-crashes", 0, "N|none", KIND_SETTING,                 \
    "dead after N attempts whose worker died; 0 is unlimited; default 3")      \
  X(SET_BACKOFF, "backoff", 0, "D|none", KIND_SETTING,                         \
    "wait before the second attempt; default 5s")                              \
  X(SET_BACKOFF_FACTOR, "backoff-factor", 0, "X|none", KIND_SETTING,           \
    "each further wait is X times the one before; default 2")                  \
  X(SET_BACKOFF_CAP, "backoff-cap", 0, "D|none", KIND_SETTING,                 \
    "no wait is longer than D; default 6h")                                    \
  X(SET_BACKOFF_JITTER, "backoff-jitter", 0, "X|none", KIND_SETTING,           \
    "add up to this fraction of the wait at random; default 0.1")              \
  X(SET_LEASE, "lease", 0, "D|none", KIND_SETTING,                             \
    "how long a claim holds a job, unless the claim says; default that "       \
    "of the claim: 60s, in workers 15s, extended")                             \
  X(SET_TIMEOUT, "timeout", 0, "D|none", KIND_SETTING,                         \
    "a worker ends a job when it has run for D; default none")                 \
  X(SET_KEEP, "keep", 0, "D|inf|none", KIND_SETTING,                           \
    "keep jobs for D once they are done, or inf; default not at all")          \
  X(SET_KEY, "key", 0, "KEY|none", KIND_SETTING,                               \
    "jobs that name no key run one at a time, in order, with those of "        \
    "KEY")                                                                     \
  X(SET_LIMIT_KEY, "limit-key", 0, "KEY|none", KIND_SETTING,                   \
    "what limits per key count jobs by that name none")                        \
  X(SET_UNIQUE, "unique", 0, "KEY|none", KIND_SETTING,                         \
    "add no second job that names no unique key or KEY")                       \
  X(SET_UNIQUE_FOR, "unique-for", 0, "start|finish|D|none", KIND_SETTING,      \
    "how long a unique key holds; default finish")                             \
  X(SET_UNIQUE_SCOPE, "unique-scope", 0, "queue|all|none", KIND_SETTING,       \
    "where a unique key holds; default queue")                                 \
  X(SET_ON_CONFLICT, "on-conflict", 0, "keep|replace|postpone|reject|none",    \
    KIND_SETTING,                                                              \
    "when a job of the unique key is there: keep it (default), give it "       \
    "the new payload, postpone it, or reject the new one")                     \
  X(SET_STAGE, "stage", 0, "D|none", KIND_SETTING,                             \
    "only reserve jobs: they are gone unless dibs commit comes within D")

/*
** Every option: id, name, letter (0: none), what its value is called, kind,
** and what it does. A command may word the last for itself.
*/
#define OPTION_MAP(X)                                                          \
  X(DB, "db", 0, "FILE", KIND_FILE,                                            \
    "the database; default $DIBS_DB, then dibs.db")                            \
  X(JSON, "json", 0, NULL, KIND_FLAG,                                          \
    "print one JSON object a line, errors too")                                \
  X(BUSY_TIMEOUT, "busy-timeout", 0, "D", KIND_DURATION,                       \
    "how long to wait for other writers; default $DIBS_BUSY_TIMEOUT, then "    \
    "30s")                                                                     \
  X(SYNCHRONOUS, "synchronous", 0, "full|normal", KIND_CHOICE,                 \
    "full (default): a power cut loses nothing that was confirmed; normal: "   \
    "it may lose the last commits")                                            \
  X(MAX_PAYLOAD, "max-payload", 0, "BYTES", KIND_COUNT,                        \
    "largest payload to take or hand out; default 67108864")                   \
  X(HELP, "help", 'h', NULL, KIND_FLAG, "say how it is used")                  \
  X(VERSION, "version", 0, NULL, KIND_FLAG, "print the versions")              \
  X(QUEUE, "queue", 'q', "QUEUE", KIND_LIST,                                   \
    "this queue, or with NAME/* all beneath NAME; may be given several times") \
  X(ALL, "all", 0, NULL, KIND_FLAG, "all queues")                              \
  X(FILE, "file", 0, "FILE", KIND_FILE,                                        \
    "the payload is what FILE holds; - is standard input")                     \
  X(BASE64, "base64", 0, "TEXT", KIND_TEXT,                                    \
    "the payload is the bytes that TEXT stands for")                           \
  X(BYTES, "bytes", 0, NULL, KIND_FLAG,                                        \
    "take the payload as bytes; without this it must be JSON")                 \
  X(LINES, "lines", 0, NULL, KIND_FLAG,                                        \
    "a job for each line of standard input, which is its payload")             \
  X(JOBS, "jobs", 0, NULL, KIND_FLAG,                                          \
    "a job for each line of standard input, a JSON object with \"queue\", "    \
    "\"payload\" or \"payload_base64\", \"name\" and other job options")       \
  X(ATOMIC, "atomic", 0, NULL, KIND_FLAG,                                      \
    "take the whole of --lines or --jobs in one transaction, or nothing")      \
  X(NAME, "name", 0, "NAME", KIND_TEXT, "which handler the job is for")        \
  X(HEADER, "header", 0, "KEY=VALUE", KIND_LIST,                               \
    "a header of the job; may be given several times")                         \
  X(HEADERS, "headers", 0, "JSON", KIND_TEXT,                                  \
    "all headers, as a flat JSON object of strings")                           \
  X(PRIORITY, "priority", 0, "N", KIND_INTEGER,                                \
    "higher first, may be negative; default 0")                                \
  X(DELAY, "delay", 0, "D", KIND_DURATION, "start no sooner than D from now")  \
  X(AT, "at", 0, "TIME", KIND_TIME, "start no sooner than TIME")               \
  X(EXPIRES, "expires", 0, "D", KIND_DURATION,                                 \
    "do not start it any more when D has passed")                              \
  X(MAX_ATTEMPTS, "max-attempts", 0, "N", KIND_COUNT,                          \
    "dead after N attempts; 0 is unlimited; default 20")                       \
  X(MAX_CRASHES, "max-crashes", 0, "N", KIND_COUNT,                            \
    "dead after N attempts whose worker died; 0 is unlimited; default 3")      \
  X(BACKOFF, "backoff", 0, "D", KIND_DURATION,                                 \
    "wait before the second attempt; default 5s")                              \
  X(BACKOFF_FACTOR, "backoff-factor", 0, "X", KIND_REAL,                       \
    "each further wait is X times the one before; default 2")                  \
  X(BACKOFF_CAP, "backoff-cap", 0, "D", KIND_DURATION,                         \
    "no wait is longer than D; default 6h")                                    \
  X(BACKOFF_JITTER, "backoff-jitter", 0, "X", KIND_REAL,                       \
    "add up to this fraction of the wait at random; default 0.1")              \
  X(LEASE, "lease", 0, "D", KIND_DURATION,                                     \
    "hold a job for D; others get it after that; default the job's, then 60s") \
  X(TIMEOUT, "timeout", 0, "D", KIND_DURATION,                                 \
    "a worker ends the job when it has run for D; default none")               \
  X(KEEP, "keep", 0, "D", KIND_ENDLESS,                                        \
    "keep it for D once it is done, or inf; default not at all")               \
  X(KEY, "key", 0, "KEY", KIND_TEXT,                                           \
    "jobs of one queue and KEY run one at a time, in order")                   \
  X(LIMIT_KEY, "limit-key", 0, "KEY", KIND_TEXT,                               \
    "what the queue's limits per key count the job by")                        \
  X(UNIQUE, "unique", 0, "KEY", KIND_TEXT,                                     \
    "do not add a second job of this KEY")                                     \
  X(UNIQUE_FOR, "unique-for", 0, "start|finish|D", KIND_UNTIL,                 \
    "how long --unique holds; default finish")                                 \
  X(UNIQUE_SCOPE, "unique-scope", 0, "queue|all", KIND_CHOICE,                 \
    "where --unique holds; default queue")                                     \
  X(ON_CONFLICT, "on-conflict", 0, "keep|replace|postpone|reject",             \
    KIND_CHOICE,                                                               \
    "when a job of the unique key is there: keep it (default), give it this "  \
    "payload, postpone it, or reject this one with exit code 5")               \
  X(STAGE, "stage", 0, "D", KIND_DURATION,                                     \
    "only reserve the job: it is gone unless dibs commit comes within D")      \
  X(N, "n", 'n', "N", KIND_POSITIVE, "at most N jobs; default 1")              \
  X(WAIT, "wait", 0, "D", KIND_ENDLESS,                                        \
    "wait up to D for a job, or inf; default not at all")                      \
  X(WAIT_TIMEOUT, "timeout", 0, "D", KIND_ENDLESS,                             \
    "wait no longer than D, or inf; default for ever")                         \
  X(WORKER, "worker", 0, "NAME", KIND_TEXT, "who works on it; shown by get")   \
  X(IN_ORDER, "in-order", 0, NULL, KIND_FLAG,                                  \
    "empty the queues in the order given, instead of taking turns")            \
  X(RESULT, "result", 0, "JSON", KIND_TEXT,                                    \
    "keep this with the job, if the job is kept")                              \
  X(ERROR, "error", 0, "TEXT", KIND_TEXT, "why; kept in the job's errors")     \
  X(SLOTS, "slots", 'j', "N", KIND_POSITIVE,                                   \
    "run up to N commands at a time; default 1")                               \
  X(GRACE, "grace", 0, "D", KIND_DURATION,                                     \
    "how long a command may go on once it was told to stop; default 30s")      \
  X(KEEP_RESULT, "result", 0, NULL, KIND_FLAG,                                 \
    "what CMD prints, JSON, is the job's result")                              \
  X(ONCE, "once", 0, NULL, KIND_FLAG, "stop after one job")                    \
  X(DRAIN, "drain", 0, NULL, KIND_FLAG,                                        \
    "stop when no job is ready and none runs here")                            \
  X(MAX_JOBS, "max-jobs", 0, "N", KIND_POSITIVE, "stop after N jobs")          \
  X(STATE, "state", 0, "ready|scheduled|blocked|staged|running|done|dead",     \
    KIND_CHOICE, "only jobs in this state")                                    \
  X(LIMIT, "limit", 0, "N", KIND_POSITIVE, "at most N jobs; default 100")      \
  X(AFTER, "after", 0, "ID", KIND_COUNT, "only jobs whose id is above ID")     \
  SETTING_MAP(X)                                                               \
  X(WATCH, "watch", 0, NULL, KIND_FLAG,                                        \
    "print it again each second, until Ctrl-C")                                \
  X(DEAD, "dead", 0, NULL, KIND_FLAG, "the dead letters too")                  \
  X(YES, "yes", 'y', NULL, KIND_FLAG, "do not ask")                            \
  X(THOROUGH, "thorough", 0, NULL, KIND_FLAG,                                  \
    "also read the whole file to check that it is sound")                      \
  X(FOLDER, "folder", 0, "FOLDER", KIND_FOLDER,                                \
    "make the database to measure with here; default the current folder")      \
  X(COUNT, "count", 0, "N", KIND_POSITIVE,                                     \
    "jobs for each figure; default "                                           \
    "20000")                                                                   \
  X(PAYLOAD, "payload", 0, "BYTES", KIND_COUNT,                                \
    "how large the payloads are; default 100")                                 \
  X(ROUNDS, "rounds", 0, "N", KIND_POSITIVE,                                   \
    "take the median of N rounds; default 5")                                  \
  X(MARKDOWN, "markdown", 0, NULL, KIND_FLAG, "print a Markdown table")        \
  X(MAN, "man", 0, NULL, KIND_FLAG, "print the whole manual page, in mdoc")

enum option_id {
#define OPTION_ENUM(id, name, letter, argument, kind, help) OPTION_##id,
  OPTION_MAP(OPTION_ENUM)
#undef OPTION_ENUM
      OPTIONS_END /* how many there are; also ends a list */
};

struct option {
  const char *name;
  char letter;          /* 0: none */
  const char *argument; /* what the value is called; NULL for a flag */
  enum option_kind kind;
  const char *help;
};

/* An option as a command takes it. */
struct command_option {
  enum option_id id;
  const char *help; /* NULL: the option's own */
};

struct cli;

struct command {
  const char *name;      /* "ack", "dead requeue" */
  const char *arguments; /* "RECEIPT..."; NULL: none */
  size_t least;          /* how many arguments it takes */
  size_t most;
  const char *words;   /* "bash|zsh": what the argument may be; "@queue": the
                       ** name of a queue; NULL: any */
  const char *summary; /* a line without a full stop */
  const char *details; /* paragraphs of whole sentences, or NULL */
  const char *example; /* lines */
  const struct command_option *options; /* ends with OPTIONS_END */
  int (*run)(struct cli *cli);
};

extern const struct option options_table[OPTIONS_END];
extern const struct command commands_table[];
extern const size_t commands_count;
extern const struct command_option everywhere_table[];

/* What an option does, in the words of a command. */
const char *command_option_help(const struct command_option *option);

/* The command of that name, as in the table; NULL: none. */
const struct command *command_find(const char *name);

/* Nonzero when a name stands in front of others, as "dead" does. */
int command_is_group(const char *name);

/* ------------------------------------------------------------------------ */
/* options.c                                                                */
/* ------------------------------------------------------------------------ */

#define CLI_MANY SIZE_MAX /* `most` of a command that takes any number */

struct option_value {
  size_t count;      /* how many times it was given */
  const char *text;  /* as it was typed last */
  const char **list; /* KIND_LIST: all of them; owned */
  int64_t number;    /* as its kind says */
  double real;
};

/* A command line, read. */
struct cli {
  const struct command *command; /* NULL: none was named */
  const char *group;             /* "dead" when nothing more was named */
  struct option_value values[OPTIONS_END];
  char **arguments; /* what is no option, without the command's name; ends
                    ** with NULL; owned */
  size_t argument_count;
  int dashes;           /* "--" was given, */
  size_t before_dashes; /* after so many arguments */
  const char *db_path;  /* --db, DIBS_DB or dibs.db */
  dibs_open_options open;
};

/* Read a command line. Returns 0, or the exit code after an error was said. */
int cli_parse(struct cli *cli, int argc, char **argv);

/* Check that the command has the arguments that it takes, and set up how the
** database is opened. Returns 0 or an exit code. */
int cli_check(struct cli *cli);
void cli_free(struct cli *cli);

int cli_has(const struct cli *cli, enum option_id id);
const char *cli_text(const struct cli *cli, enum option_id id);
int64_t cli_number(const struct cli *cli,
                   enum option_id id);                     /* or DIBS_UNSET */
double cli_real(const struct cli *cli, enum option_id id); /* or NaN */

/* Say that the command line is wrong; returns exit code 2. */
int cli_usage(const struct cli *cli, const char *format, ...) CLI_PRINTF(2, 3);

/* The queues that -q and --all name. Returns 0 or an exit code. `must` refuses
** a command line that names none, as what destroys does. */
int cli_queues(const struct cli *cli, int must, const char *const **queues,
               size_t *count);

/* The queues that the arguments and --all name; there must be one. Returns 0 or
** an exit code. */
int cli_queue_arguments(const struct cli *cli, const char *const **queues,
                        size_t *count);

/* Open the database. Returns 0 or an exit code; *db is NULL then. */
int cli_open(struct cli *cli, int create, dibs_db **db);

/* Read an id. Returns 0 when it is none. */
int64_t cli_id(const char *word);

/* Say that a word is no id; returns exit code 2. */
int cli_bad_id(const char *word);

/* Read a number. Returns nonzero when the word is one. */
int cli_word_real(const char *word, double *number);

/* ------------------------------------------------------------------------ */
/* main.c                                                                   */
/* ------------------------------------------------------------------------ */

/* From now on TERM and Ctrl-C are noted instead of ending the program, and
** interrupt a call that waits on `db` (NULL: none does). */
void cli_catch_signals(dibs_db *db);

/* To be called before that handle is closed. */
void cli_forget_signals(void);

/* Nonzero when a signal came; the descriptor is readable then. */
int cli_interrupted(void);
int cli_signal_fd(void);

/* ------------------------------------------------------------------------ */
/* payload.c                                                                */
/* ------------------------------------------------------------------------ */

/* A payload and what it stands in. */
struct payload {
  dibs_payload value;
  char *memory;            /* what a file held */
  dibs_parsed_job *parsed; /* what base64 stood for */
};

#define PAYLOAD_INIT                                                           \
  { dibs_none(), NULL, NULL }

/* Check that the payload is given in one way: as an argument (NULL: it is not
** there), by --file or by --base64. Returns 0 or an exit code. */
int cli_payload_check(const struct cli *cli, const char *text);

/* Read it, as far as that needs no database; then the rest. None stays none.
** Return 0 or an exit code. */
int cli_payload_read(struct cli *cli, const char *text,
                     struct payload *payload);
int cli_payload_decode(const struct cli *cli, dibs_db *db,
                       struct payload *payload);
void cli_payload_free(struct payload *payload);

/* Behind an error: say what helps, if it was that the payload is not JSON, as
** newcomers' often are. */
void cli_payload_hint(const struct cli *cli, const dibs_db *db);

/* ------------------------------------------------------------------------ */
/* help.c, complete.c                                                       */
/* ------------------------------------------------------------------------ */

/* How dibs (NULL), a command or a group of them ("dead") is used. */
void help_print(FILE *file, const struct command *command);
void help_print_group(FILE *file, const char *group);
void help_print_man(FILE *file);

/* ------------------------------------------------------------------------ */
/* show.c                                                                   */
/* ------------------------------------------------------------------------ */

/* Write "in 3 min" or "3 min ago", or "" for a time that is not set. Returns
** `text`. */
const char *format_relative(int64_t at, int64_t now, char *text, size_t size);

/* Print a job as JSON on a line. Returns 0 or an exit code. */
int show_job_json(const dibs_job *job);

/* Print a job for people, a line a field. */
void show_job(const dibs_job *job, int64_t now);

/* Print jobs in the form chosen, for people as blocks. Returns 0 or an exit
** code. */
int show_jobs(const dibs_job_list *jobs, int64_t now);

/* Print jobs in the form chosen, for people as a table: make it (NULL in JSON),
** add jobs to it, and table_print() it. */
struct table *job_table_new(void);
int job_table_add(struct table *table, const dibs_job_list *jobs, int64_t now);

/* Print {"count":N}, or "3 jobs cancelled". */
void show_count(int64_t count, const char *done);

/* The same of something else: "2 queues paused". */
void show_count_of(int64_t count, const char *noun, const char *done);

/*
** Print a queue as JSON on a line, or for people, a line a field. `settings` is
** what settings_of() gives of it, or "".
*/
void show_queue_json(const dibs_queue_stats *queue, const char *settings);
void show_queue(const dibs_queue_stats *queue, const char *settings,
                int64_t now);

/* Print the queue with its settings alone, for people. */
void show_settings(const char *queue, const char *settings);

/* The members of the settings in what dibs_queue_show() gives, ",\"limit\":5}",
** or "" when there are none. */
const char *settings_of(const char *json);

/* Print why a job (id above 0) or a queue is not running. */
void show_reasons(int64_t id, const char *queue,
                  const dibs_reason_list *reasons);

/* Print {"id":N,"state":"..."}, or "12  done". `state` may be NULL. */
void show_state(int64_t id, const char *state);

/* ------------------------------------------------------------------------ */
/* The commands                                                             */
/* ------------------------------------------------------------------------ */

int run_init(struct cli *cli);
int run_enqueue(struct cli *cli);
int run_claim(struct cli *cli);
int run_ack(struct cli *cli);
int run_retry(struct cli *cli);
int run_fail(struct cli *cli);
int run_release(struct cli *cli);
int run_extend(struct cli *cli);
int run_snooze(struct cli *cli);
int run_discard(struct cli *cli);
int run_checkpoint(struct cli *cli);
int run_progress(struct cli *cli);
int run_worker(struct cli *cli);
int run_get(struct cli *cli);
int run_peek(struct cli *cli);
int run_list(struct cli *cli);
int run_stats(struct cli *cli);
int run_explain(struct cli *cli);
int run_wait(struct cli *cli);
int run_cancel(struct cli *cli);
int run_change(struct cli *cli);
int run_dead_list(struct cli *cli);
int run_dead_requeue(struct cli *cli);
int run_dead_redrive(struct cli *cli);
int run_dead_purge(struct cli *cli);
int run_queue_list(struct cli *cli);
int run_queue_show(struct cli *cli);
int run_queue_set(struct cli *cli);
int run_queue_pause(struct cli *cli);
int run_queue_resume(struct cli *cli);
int run_clear(struct cli *cli);
int run_prune(struct cli *cli);
int run_commit(struct cli *cli);
int run_abort(struct cli *cli);
int run_doctor(struct cli *cli);
int run_bench(struct cli *cli);
int run_version(struct cli *cli);
int run_completion(struct cli *cli);
int run_help(struct cli *cli);

/* ------------------------------------------------------------------------ */
/* enqueue.c, stream.c                                                      */
/* ------------------------------------------------------------------------ */

/* Print one job that was enqueued. */
void enqueue_show(const dibs_enqueued *enqueued);

/* Enqueue what stdin holds, line by line. `queue` and `options` stand in for
** what a line does not say itself. Returns an exit code. */
int stream_run(struct cli *cli, dibs_db *db, const char *queue,
               const dibs_job_options *options);

#endif
