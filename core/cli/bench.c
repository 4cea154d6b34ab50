/* SPDX-License-Identifier: MIT */
/*
** bench.c: `dibs bench`, how fast this machine is at it.
**
** What a figure of so many per second is worth depends on the machine, so each
** stands beside what SQLite itself does in the same minute: inserts into a
** plain table, of the same payload, in the same journal mode, in the same
** folder, with as many in a transaction. That is 1.0.
**
** All contestants take part in each round, and every other round begins with
** the other one of a pair, so that a machine that slows down meanwhile slows
** them all. A figure is the median of its rounds, a ratio the median of the
** rounds' ratios.
**
** How many jobs a round takes is measured first, so that a disk that needs ten
** milliseconds for a commit is not asked for twenty thousand of them.
*/
#include "bench.h"

#include <errno.h>
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "output.h"

#define DEFAULT_JOBS    20000
#define DEFAULT_PAYLOAD 100
#define DEFAULT_ROUNDS  5
#define ROUNDS_MAX      1000
#define BATCH           100 /* jobs in a transaction, where it is not one */
#define TRIAL           200 /* commits to tell how many a round can take */
#define ROUND_SECONDS   1.5 /* of one contestant at most, in the first guess */

/* What is measured, in the order of printing. */
enum figure {
  RAW_ONE,
  ENQUEUE_ONE,
  CYCLE_ONE,
  RAW_MANY,
  ENQUEUE_MANY,
  CYCLE_MANY,
  FIGURES
};

static const struct {
  const char *name; /* for people */
  const char *word; /* in JSON */
  int64_t batch;    /* jobs in a transaction */
  enum figure one;  /* what counts as 1.0 */
} FIGURE[FIGURES] = {
    [RAW_ONE] = {"raw SQLite insert", "raw", 1, RAW_ONE},
    [ENQUEUE_ONE] = {"enqueue", "enqueue", 1, RAW_ONE},
    [CYCLE_ONE] = {"claim + ack", "claim_ack", 1, RAW_ONE},
    [RAW_MANY] = {"raw SQLite insert", "raw", BATCH, RAW_MANY},
    [ENQUEUE_MANY] = {"enqueue", "enqueue", BATCH, RAW_MANY},
    [CYCLE_MANY] = {"claim + ack", "claim_ack", BATCH, RAW_ONE},
};

static const char *const MODES[] = {
    [DIBS_SYNCHRONOUS_FULL] = "full",
    [DIBS_SYNCHRONOUS_NORMAL] = "normal",
};

struct bench {
  const struct bench_options *options;
  int64_t jobs; /* wanted in a round */
  int64_t rounds;
  char *payload; /* JSON; owned; NULL: none */
  size_t size;   /* bytes of it */
  char *folder;  /* the temporary one; owned; NULL: not made yet */
  char filesystem[32];
  char machine[512];
  int mode;      /* enum dibs_synchronous */
  int64_t most;  /* commits in a round of one contestant, in this mode */
  int64_t count; /* jobs in a round of the figure being measured */
  sqlite3 *raw;
  sqlite3_stmt *insert;
  dibs_db *db;
  double *rates[FIGURES]; /* per second, one a round; owned */
  int exit_code;
};

/* ------------------------------------------------------------------------ */
/* Failing                                                                  */
/* ------------------------------------------------------------------------ */

/* The first failure is said, and everything after it left out. */
static int failed(struct bench *bench) {
  if (!bench->exit_code && cli_interrupted())
    bench->exit_code = dibs_status_exit_code(DIBS_INTERRUPTED);
  return bench->exit_code;
}

static void check_db(struct bench *bench, int status) {
  if (status != DIBS_OK && !bench->exit_code)
    bench->exit_code = cli_db_error(bench->db);
}

static void check_raw(struct bench *bench, int status) {
  if (status == SQLITE_OK || status == SQLITE_DONE || bench->exit_code) return;
  bench->exit_code = cli_error(
      status == SQLITE_FULL ? DIBS_FULL : DIBS_IO, "the plain table in %s: %s",
      bench->folder, bench->raw ? sqlite3_errmsg(bench->raw) : "out of memory");
}

static void check_memory(struct bench *bench, const void *memory) {
  if (!memory && !bench->exit_code)
    bench->exit_code = cli_error(DIBS_NOMEM, "%s", dibs_error(NULL));
}

/* ------------------------------------------------------------------------ */
/* Files                                                                    */
/* ------------------------------------------------------------------------ */

static char *file_path(const struct bench *bench, const char *what,
                       const char *ending) {
  char *path;
  if (asprintf(&path, "%s/%s-%s.db%s", bench->folder, what, MODES[bench->mode],
               ending) < 0)
    return NULL;
  return path;
}

static void file_remove(const struct bench *bench, const char *what) {
  const char *const endings[] = {"", "-wal", "-shm", "-journal", "-dibs"};
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
    char *path = file_path(bench, what, endings[i]);
    if (path) unlink(path);
    free(path);
  }
}

static void folder_make(struct bench *bench) {
  const char *where = bench->options->folder ? bench->options->folder : ".";
  if (asprintf(&bench->folder, "%s/dibs-bench-XXXXXX", where) < 0)
    bench->folder = NULL;
  check_memory(bench, bench->folder);
  if (!bench->folder || mkdtemp(bench->folder)) return;
  bench->exit_code = cli_error(DIBS_IO, "cannot make a folder in %s: %s", where,
                               strerror(errno));
  free(bench->folder);
  bench->folder = NULL;
}

static void folder_remove(struct bench *bench) {
  if (bench->folder) rmdir(bench->folder);
  free(bench->folder);
}

/* ------------------------------------------------------------------------ */
/* The machine                                                              */
/* ------------------------------------------------------------------------ */

static const struct {
  unsigned long type;
  const char *name;
} FILESYSTEMS[] = {
    {0x01021994, "tmpfs"}, {0xef53, "ext4"},        {0x58465342, "xfs"},
    {0x9123683e, "btrfs"}, {0x794c7630, "overlay"}, {0x2fc12fc1, "zfs"},
    {0xf2f52010, "f2fs"},  {0x6969, "nfs"},         {0x65735546, "fuse"},
    {0x01021997, "9p"},    {0x6a656a63, "virtiofs"}};

static void name_filesystem(struct bench *bench) {
  struct statfs about;
  char *name = bench->filesystem;
  size_t size = sizeof bench->filesystem;
  snprintf(name, size, "unknown");
  if (statfs(bench->folder, &about) != 0) return;
  snprintf(name, size, "0x%lx", (unsigned long)about.f_type);
  for (size_t i = 0; i < sizeof FILESYSTEMS / sizeof *FILESYSTEMS; i++)
    if (FILESYSTEMS[i].type == (unsigned long)about.f_type)
      snprintf(name, size, "%s", FILESYSTEMS[i].name);
}

static void name_processor(char *name, size_t size) {
  char line[256];
  FILE *file = fopen("/proc/cpuinfo", "re");
  snprintf(name, size, "unknown processor");
  while (file && fgets(line, sizeof line, file)) {
    const char *value = strchr(line, ':');
    if (strncmp(line, "model name", 10) != 0 || !value) continue;
    snprintf(name, size, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
    break;
  }
  if (file) fclose(file);
}

static void name_machine(struct bench *bench) {
  struct utsname system = {0};
  char processor[200];
  double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)getpagesize();
  uname(&system);
  name_processor(processor, sizeof processor);
  name_filesystem(bench);
  snprintf(bench->machine, sizeof bench->machine,
           "%s, %ld cores, %.0f GiB, %s %.60s, %s, SQLite %s, dibs %s",
           processor, sysconf(_SC_NPROCESSORS_ONLN), memory / (1 << 30),
           system.sysname, system.release, bench->filesystem,
           sqlite3_libversion(), dibs_version());
}

/* ------------------------------------------------------------------------ */
/* Payload                                                                  */
/* ------------------------------------------------------------------------ */

/* JSON of exactly that many bytes: something like a job's, where it fits. */
static void payload_make(struct bench *bench, int64_t size) {
  const char *begin = "{\"to\":\"ann@example.org\",\"user\":42,\"text\":\"";
  const char *end = "\"}";
  size_t whole = (size_t)size;
  if (whole < strlen(begin) + strlen(end)) begin = end = "\"";
  bench->size = whole;
  if (whole == 0) return;
  bench->payload = malloc(whole + 1);
  check_memory(bench, bench->payload);
  if (!bench->payload) return;
  memset(bench->payload, whole == 1 ? '1' : 'x', whole);
  bench->payload[whole] = 0;
  if (whole == 1) return;
  memcpy(bench->payload, begin, strlen(begin));
  memcpy(bench->payload + whole - strlen(end), end, strlen(end));
}

static dibs_payload payload_of(const struct bench *bench) {
  if (!bench->payload) return dibs_none();
  return dibs_json_sized(bench->payload, bench->size);
}

/* ------------------------------------------------------------------------ */
/* The contestants                                                          */
/* ------------------------------------------------------------------------ */

static void raw_do(struct bench *bench, const char *sql) {
  if (bench->exit_code) return;
  check_raw(bench, sqlite3_exec(bench->raw, sql, NULL, NULL, NULL));
}

static void raw_insert(struct bench *bench) {
  if (bench->exit_code) return;
  check_raw(bench, sqlite3_step(bench->insert));
  sqlite3_reset(bench->insert);
}

static void raw_open(struct bench *bench) {
  char *path = file_path(bench, "raw", "");
  check_memory(bench, path);
  if (path) check_raw(bench, sqlite3_open(path, &bench->raw));
  free(path);
  raw_do(bench, "PRAGMA journal_mode=WAL");
  raw_do(bench, bench->mode == DIBS_SYNCHRONOUS_FULL
                    ? "PRAGMA synchronous=FULL"
                    : "PRAGMA synchronous=NORMAL");
  raw_do(bench, "CREATE TABLE raw(id INTEGER PRIMARY KEY,"
                " queue TEXT NOT NULL, payload BLOB)");
  if (bench->exit_code) return;
  check_raw(bench, sqlite3_prepare_v2(
                       bench->raw,
                       "INSERT INTO raw(queue, payload) VALUES ('bench', ?1)",
                       -1, &bench->insert, NULL));
  check_raw(bench, sqlite3_bind_text(bench->insert, 1, bench->payload,
                                     (int)bench->size, SQLITE_STATIC));
}

static void raw_run(struct bench *bench, int64_t batch) {
  for (int64_t i = 0; i < bench->count && !failed(bench); i += batch) {
    raw_do(bench, "BEGIN IMMEDIATE");
    for (int64_t n = 0; n < batch; n++) raw_insert(bench);
    raw_do(bench, "COMMIT");
  }
}

static void raw_close(struct bench *bench) {
  sqlite3_finalize(bench->insert);
  sqlite3_close(bench->raw);
  bench->insert = NULL;
  bench->raw = NULL;
  file_remove(bench, "raw");
}

static void db_open(struct bench *bench) {
  dibs_open_options open = *bench->options->open;
  char *path = file_path(bench, "jobs", "");
  check_memory(bench, path);
  open.create = DIBS_CREATE;
  open.synchronous = bench->mode;
  if (path) check_db(bench, dibs_open(path, &open, &bench->db));
  free(path);
}

static void db_close(struct bench *bench) {
  dibs_close(bench->db);
  bench->db = NULL;
  file_remove(bench, "jobs");
}

static void enqueue_one(struct bench *bench) {
  for (int64_t i = 0; i < bench->count && !failed(bench); i++)
    check_db(bench,
             dibs_enqueue(bench->db, "bench", payload_of(bench), NULL, NULL));
}

static void enqueue_many(struct bench *bench) {
  dibs_new_job jobs[BATCH];
  dibs_enqueued results[BATCH];
  for (int64_t i = 0; i < BATCH; i++) {
    jobs[i].queue = "bench";
    jobs[i].payload = payload_of(bench);
    jobs[i].options = NULL;
  }
  for (int64_t i = 0; i < bench->count && !failed(bench); i += BATCH)
    check_db(bench, dibs_enqueue_many(bench->db, jobs, BATCH, results));
}

static void cycle_one(struct bench *bench) {
  const char *queue = "bench";
  for (int64_t i = 0; i < bench->count && !failed(bench); i++) {
    dibs_job_list *list = NULL;
    check_db(bench, dibs_claim(bench->db, &queue, 1, NULL, &list));
    if (list) check_db(bench, dibs_ack(bench->db, list->jobs[0].receipt, NULL));
    dibs_job_list_free(list);
  }
}

static void acknowledge(struct bench *bench, const dibs_job_list *list) {
  dibs_settlement settlements[BATCH];
  memset(settlements, 0, sizeof settlements);
  for (size_t i = 0; i < list->count; i++) {
    settlements[i].receipt = list->jobs[i].receipt;
    settlements[i].action = DIBS_ACK;
    settlements[i].delay = settlements[i].lease = DIBS_UNSET;
  }
  check_db(bench, dibs_settle(bench->db, settlements, list->count));
  for (size_t i = 0; i < list->count && !bench->exit_code; i++)
    if (settlements[i].status != DIBS_OK)
      bench->exit_code =
          cli_error(settlements[i].status, "%s", settlements[i].message);
}

static void cycle_many(struct bench *bench) {
  const char *queue = "bench";
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  int64_t left = bench->count;
  options.n = BATCH;
  while (left > 0 && !failed(bench)) {
    dibs_job_list *list = NULL;
    check_db(bench, dibs_claim(bench->db, &queue, 1, &options, &list));
    if (list) acknowledge(bench, list);
    if (list) left -= (int64_t)list->count;
    dibs_job_list_free(list);
  }
}

/* ------------------------------------------------------------------------ */
/* Rounds                                                                   */
/* ------------------------------------------------------------------------ */

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void run(struct bench *bench, enum figure figure) {
  switch (figure) {
  case RAW_ONE: raw_run(bench, 1); break;
  case RAW_MANY: raw_run(bench, BATCH); break;
  case ENQUEUE_ONE: enqueue_one(bench); break;
  case ENQUEUE_MANY: enqueue_many(bench); break;
  case CYCLE_ONE: cycle_one(bench); break;
  case CYCLE_MANY: cycle_many(bench); break;
  case FIGURES: break;
  }
}

/* Whole transactions, one at least. */
static int64_t count_of(const struct bench *bench, enum figure figure) {
  int64_t batch = FIGURE[figure].batch;
  int64_t commits = (bench->jobs + batch - 1) / batch;
  if (commits > bench->most) commits = bench->most;
  return (commits > 0 ? commits : 1) * batch;
}

static void measure(struct bench *bench, enum figure figure, int64_t round) {
  double began;
  if (failed(bench)) return;
  status_line("synchronous=%s, round %lld of %lld: %s, %lld in a transaction",
              MODES[bench->mode], (long long)round + 1,
              (long long)bench->rounds, FIGURE[figure].name,
              (long long)FIGURE[figure].batch);
  bench->count = count_of(bench, figure);
  began = seconds();
  run(bench, figure);
  bench->rates[figure][round] = (double)bench->count / (seconds() - began);
}

/* Claims take what the enqueues before them have made. */
static void measure_round(struct bench *bench, int64_t round) {
  const enum figure even[] = {RAW_ONE,  ENQUEUE_ONE,  CYCLE_ONE,
                              RAW_MANY, ENQUEUE_MANY, CYCLE_MANY};
  const enum figure odd[] = {ENQUEUE_ONE,  CYCLE_ONE,  RAW_ONE,
                             ENQUEUE_MANY, CYCLE_MANY, RAW_MANY};
  for (size_t i = 0; i < FIGURES; i++)
    measure(bench, round % 2 ? odd[i] : even[i], round);
}

/* A commit may cost ten microseconds or ten milliseconds. */
static void choose_most(struct bench *bench) {
  double began = seconds();
  status_line("synchronous=%s: measuring how many", MODES[bench->mode]);
  bench->count = TRIAL;
  raw_run(bench, 1);
  bench->most = (int64_t)(ROUND_SECONDS * TRIAL / (seconds() - began));
}

/* ------------------------------------------------------------------------ */
/* Figures                                                                  */
/* ------------------------------------------------------------------------ */

/* Of the rounds: median, least, most. */
struct spread {
  double median;
  double least;
  double most;
};

static int compare(const void *a, const void *b) {
  double x = *(const double *)a;
  double y = *(const double *)b;
  return (x > y) - (x < y);
}

static struct spread spread_of(double *values, int64_t count) {
  size_t n = (size_t)count;
  qsort(values, n, sizeof *values, compare);
  return (struct spread){(values[(n - 1) / 2] + values[n / 2]) / 2, values[0],
                         values[n - 1]};
}

static struct spread rate_of(const struct bench *bench, enum figure figure) {
  double values[ROUNDS_MAX];
  memcpy(values, bench->rates[figure], (size_t)bench->rounds * sizeof *values);
  return spread_of(values, bench->rounds);
}

static struct spread ratio_of(const struct bench *bench, enum figure figure) {
  double values[ROUNDS_MAX];
  const double *one = bench->rates[FIGURE[figure].one];
  for (int64_t i = 0; i < bench->rounds; i++)
    values[i] = bench->rates[figure][i] / one[i];
  return spread_of(values, bench->rounds);
}

static void json_spread(const char *name, const struct spread *spread,
                        int digits) {
  printf(",\"%s\":%.*f,\"%s_min\":%.*f,\"%s_max\":%.*f", name, digits,
         spread->median, name, digits, spread->least, name, digits,
         spread->most);
}

static void print_json(const struct bench *bench, enum figure figure) {
  struct spread rate = rate_of(bench, figure);
  struct spread ratio = ratio_of(bench, figure);
  printf("{\"figure\":\"%s\",\"synchronous\":\"%s\",\"batch\":%lld",
         FIGURE[figure].word, MODES[bench->mode],
         (long long)FIGURE[figure].batch);
  json_spread("per_second", &rate, 0);
  json_spread("ratio", &ratio, 3);
  printf(",\"ratio_to_batch\":%lld,\"jobs\":%lld,\"rounds\":%lld,"
         "\"payload\":%zu",
         (long long)FIGURE[FIGURE[figure].one].batch,
         (long long)count_of(bench, figure), (long long)bench->rounds,
         bench->size);
  printf(",\"filesystem\":\"%s\",\"sqlite\":\"%s\",\"machine\":",
         bench->filesystem, sqlite3_libversion());
  print_json_string(stdout, bench->machine);
  printf("}\n");
}

static void print_markdown(const struct bench *bench, enum figure figure) {
  struct spread rate = rate_of(bench, figure);
  struct spread ratio = ratio_of(bench, figure);
  printf("| %s | %lld | %s | %.0f | %.0f to %.0f | %.2f | %.2f to %.2f |\n",
         FIGURE[figure].name, (long long)FIGURE[figure].batch,
         MODES[bench->mode], rate.median, rate.least, rate.most, ratio.median,
         ratio.least, ratio.most);
}

static void cell(struct table *table, enum colour colour, int digits, double a,
                 double b) {
  char text[64];
  if (isnan(b))
    snprintf(text, sizeof text, "%.*f", digits, a);
  else
    snprintf(text, sizeof text, "%.*f to %.*f", digits, a, digits, b);
  table_text(table, text, colour);
}

static void add_row(const struct bench *bench, enum figure figure,
                    struct table *table) {
  struct spread rate = rate_of(bench, figure);
  struct spread ratio = ratio_of(bench, figure);
  enum colour quiet = FIGURE[figure].one == figure ? COLOUR_DIM : COLOUR_NONE;
  table_text(table, FIGURE[figure].name, quiet);
  table_number(table, FIGURE[figure].batch, quiet);
  table_text(table, MODES[bench->mode], quiet);
  cell(table, quiet, 0, rate.median, NAN);
  cell(table, COLOUR_DIM, 0, rate.least, rate.most);
  cell(table, quiet, 2, ratio.median, NAN);
  cell(table, COLOUR_DIM, 2, ratio.least, ratio.most);
}

static void print_figures(const struct bench *bench, struct table *table) {
  for (int i = 0; i < FIGURES; i++) {
    if (bench->options->json)
      print_json(bench, (enum figure)i);
    else if (bench->options->markdown)
      print_markdown(bench, (enum figure)i);
    else
      add_row(bench, (enum figure)i, table);
  }
  fflush(stdout);
}

/* What holds of all figures. */
static void print_conditions(const struct bench *bench) {
  printf("%s\n", bench->machine);
  printf("Payload %zu bytes; up to %lld jobs a round, medians of %lld rounds "
         "with least and most.\n",
         bench->size, (long long)bench->jobs, (long long)bench->rounds);
  printf("Ratio: to raw SQLite inserts in the same round; of claim + ack, to "
         "single ones.\n\n");
}

static void print_head(const struct bench *bench) {
  if (bench->options->json) return;
  print_conditions(bench);
  if (!bench->options->markdown) return;
  printf("| | in a transaction | synchronous | per second | rounds | ratio | "
         "rounds |\n|---|--:|---|--:|--:|--:|--:|\n");
}

/* ------------------------------------------------------------------------ */
/* Beginning and end                                                        */
/* ------------------------------------------------------------------------ */

static void mode_run(struct bench *bench, int mode, struct table *table) {
  if (failed(bench)) return;
  bench->mode = mode;
  raw_open(bench);
  if (!failed(bench)) db_open(bench);
  if (!failed(bench)) choose_most(bench);
  for (int64_t i = 0; i < bench->rounds; i++) measure_round(bench, i);
  status_clear();
  db_close(bench);
  raw_close(bench);
  if (!failed(bench)) print_figures(bench, table);
}

static int64_t value_or(int64_t value, int64_t otherwise) {
  return value == DIBS_UNSET ? otherwise : value;
}

static void bench_open(struct bench *bench,
                       const struct bench_options *options) {
  memset(bench, 0, sizeof *bench);
  bench->options = options;
  bench->jobs = options->jobs > 0 ? options->jobs : DEFAULT_JOBS;
  bench->rounds = options->rounds > 0 ? options->rounds : DEFAULT_ROUNDS;
  if (bench->rounds > ROUNDS_MAX) bench->rounds = ROUNDS_MAX;
  for (int i = 0; i < FIGURES; i++) {
    bench->rates[i] = calloc((size_t)bench->rounds, sizeof *bench->rates[i]);
    check_memory(bench, bench->rates[i]);
  }
  payload_make(bench, value_or(options->payload, DEFAULT_PAYLOAD));
  if (!failed(bench)) folder_make(bench);
  if (!failed(bench)) name_machine(bench);
}

static void bench_close(struct bench *bench) {
  for (int i = 0; i < FIGURES; i++) free(bench->rates[i]);
  free(bench->payload);
  folder_remove(bench);
}

int bench_run(const struct bench_options *options) {
  static const char *const heads[] = {"",
                                      ">in a transaction",
                                      "synchronous",
                                      ">per second",
                                      ">rounds",
                                      ">ratio",
                                      ">rounds"};
  struct bench bench;
  struct table *table = NULL;
  cli_catch_signals(NULL);
  bench_open(&bench, options);
  if (!options->json && !options->markdown)
    table = table_new(heads, sizeof heads / sizeof *heads);
  if (!failed(&bench)) print_head(&bench);
  mode_run(&bench, DIBS_SYNCHRONOUS_NORMAL, table);
  mode_run(&bench, DIBS_SYNCHRONOUS_FULL, table);
  if (table) table_print(table, stdout, 0);
  bench_close(&bench);
  return bench.exit_code;
}
