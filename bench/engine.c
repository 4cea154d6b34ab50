/* SPDX-License-Identifier: MIT */
/*
** engine.c: how many jobs go through engines from one end to the other, and how
** long a single one takes.
**
**     bench/run engine [--folder F] [--processes N,N,...] [--threads N,N,...]
**                      [--milliseconds N] [--rounds N] [--count N]
**                      [--synchronous normal|full]
**
** Throughput. A process enqueues jobs of 100 bytes without pause, but for when
** BACKLOG of them are unfinished; others work them off, with an empty handler.
** A job counts once its acknowledgement is committed. They are enqueued one by
** one by a thread, one by one by SHARING threads with one handle, which share
** commits, or by the hundred. They are worked off
**
** - by engines, each a process with so many threads in dibs_engine_next() and
**   as many slots
** - step by step: each a process with dibs_claim() and dibs_ack(), a
**   transaction each (jobs come by the hundred)
**
** A bare transaction is one row, by SQLite alone, with nobody beside. All take
** turns; ratios are of the same round.
**
** Latency. One job at a time from a process to another, which waits for it:
** from the return of the enqueue until the handler has it, and from the
** handler's end until that is committed, by an engine of one slot and by
** dibs_claim() and dibs_ack().
*/
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "measure.h"
#include "plain.h"
#include "step.h"

#define LIST_MAX   8
#define ROUNDS_MAX 100
#define SHARING    16 /* threads that share commits */
#define BATCH      100
#define BACKLOG    5000
#define WARM_UP    0.2 /* seconds */

static const char HELP[] =
    "bench/run engine: jobs through engines from end to end, and the latency "
    "of one\n"
    "  --folder F              where, default .\n"
    "  --processes N,N,...     that work, default 1,2,4\n"
    "  --threads N,N,...       in each, default 8,32\n"
    "  --milliseconds N        of each measurement in each round, default "
    "1000\n"
    "  --rounds N              default 5\n"
    "  --count N               single jobs for the latency, default 2000\n"
    "  --synchronous S         normal or full, the default here\n";

static const char *const QUEUE[] = {"bench"};

enum source { SINGLY, SHARED, BATCHES, SOURCES };

/* In shared memory. */
struct stage {
  struct gate gate;
  _Atomic int64_t enqueued;
  _Atomic int64_t settled;
  _Atomic int64_t failed; /* settled, but not as they should have been */
};

struct setting {
  const char *path;
  int synchronous;
  double length; /* seconds */
  int64_t processes;
  int64_t threads; /* 0: step by step */
  enum source source;
  struct stage *stage;
  char *payload;
  dibs_db *db;         /* of those who enqueue */
  dibs_engine *engine; /* of a process that works */
};

/* ------------------------------------------------------------------------ */
/* Enqueuing                                                                */
/* ------------------------------------------------------------------------ */

static void enqueue_one(struct setting *setting) {
  dibs_payload payload = dibs_json(setting->payload);
  must(setting->db, dibs_enqueue(setting->db, QUEUE[0], payload, NULL, NULL));
  atomic_fetch_add(&setting->stage->enqueued, 1);
}

static void enqueue_batch(struct setting *setting) {
  dibs_new_job jobs[BATCH];
  for (int i = 0; i < BATCH; i++)
    jobs[i] = (dibs_new_job){QUEUE[0], dibs_json(setting->payload), NULL};
  must(setting->db, dibs_enqueue_many(setting->db, jobs, BATCH, NULL));
  atomic_fetch_add(&setting->stage->enqueued, BATCH);
}

static void *enqueuer_main(void *context) {
  struct setting *setting = context;
  struct stage *stage = setting->stage;
  for (;;) {
    int64_t unfinished =
        atomic_load(&stage->enqueued) - atomic_load(&stage->settled);
    if (unfinished > BACKLOG)
      sleep_microseconds(500);
    else if (setting->source == BATCHES)
      enqueue_batch(setting);
    else
      enqueue_one(setting);
  }
  return NULL;
}

_Noreturn static void enqueuer_run(struct setting *setting) {
  int threads = setting->source == SHARED ? SHARING : 1;
  setting->db = db_open(setting->path, setting->synchronous);
  gate_wait(&setting->stage->gate);
  for (int i = 1; i < threads; i++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, enqueuer_main, setting) != 0)
      give_up("no thread");
  }
  enqueuer_main(setting);
  _exit(0);
}

/* ------------------------------------------------------------------------ */
/* Working                                                                  */
/* ------------------------------------------------------------------------ */

static void on_settled(void *context, const dibs_run *run,
                       const dibs_settlement *outcome) {
  struct setting *setting = context;
  (void)run;
  atomic_fetch_add(&setting->stage->settled, 1);
  if (outcome->status != DIBS_OK) atomic_fetch_add(&setting->stage->failed, 1);
}

static dibs_engine *engine_open(const char *path, int synchronous,
                                dibs_engine_options *options) {
  dibs_open_options open = DIBS_OPEN_OPTIONS_INIT;
  dibs_engine *engine;
  open.synchronous = synchronous;
  options->queues = QUEUE;
  options->queue_count = 1;
  if (dibs_engine_open(path, &open, options, &engine) != DIBS_OK)
    give_up("%s", dibs_engine_error(engine));
  return engine;
}

static void *handler_main(void *context) {
  dibs_engine *engine = context;
  for (;;) {
    dibs_run *run;
    dibs_settlement outcome = {.action = DIBS_ACK};
    if (dibs_engine_next(engine, DIBS_FOREVER, &run) != DIBS_OK ||
        dibs_engine_finish(engine, run, &outcome) != DIBS_OK)
      give_up("%s", dibs_engine_error(engine));
  }
  return NULL;
}

_Noreturn static void engine_run(struct setting *setting) {
  dibs_engine_options options = DIBS_ENGINE_OPTIONS_INIT;
  options.slots = setting->threads;
  options.settled = on_settled;
  options.context = setting;
  setting->engine = engine_open(setting->path, setting->synchronous, &options);
  gate_wait(&setting->stage->gate);
  for (int64_t i = 1; i < setting->threads; i++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, handler_main, setting->engine) != 0)
      give_up("no thread");
  }
  handler_main(setting->engine);
  _exit(0);
}

_Noreturn static void steps_run(struct setting *setting) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_db *db = db_open(setting->path, setting->synchronous);
  options.wait = DIBS_FOREVER;
  options.attached = 1;
  gate_wait(&setting->stage->gate);
  for (;;) {
    dibs_job_list *list;
    must(db, dibs_claim(db, QUEUE, 1, &options, &list));
    must(db, dibs_ack(db, list->jobs[0].receipt, NULL));
    dibs_job_list_free(list);
    atomic_fetch_add(&setting->stage->settled, 1);
  }
}

/* ------------------------------------------------------------------------ */
/* Throughput                                                               */
/* ------------------------------------------------------------------------ */

static double rate_of(struct setting *setting) {
  pid_t pids[LIST_MAX * 64];
  size_t count = 0;
  struct stage *stage = setting->stage;
  memset(stage, 0, sizeof *stage);
  dibs_close(db_open(setting->path, setting->synchronous));
  for (int64_t i = 0; i < setting->processes; i++) {
    pids[count] = child_start();
    if (pids[count++]) continue;
    if (setting->threads) engine_run(setting);
    steps_run(setting);
  }
  pids[count] = child_start();
  if (pids[count++] == 0) enqueuer_run(setting);
  gate_open(&stage->gate, (uint32_t)count);
  sleep_microseconds(WARM_UP * 1e6);
  int64_t before = atomic_load(&stage->settled);
  double began = seconds();
  sleep_microseconds(setting->length * 1e6);
  int64_t settled = atomic_load(&stage->settled) - before;
  double took = seconds() - began;
  for (size_t i = 0; i < count; i++) child_kill(pids[i]);
  if (atomic_load(&stage->failed))
    give_up("%lld jobs were not settled as they should have been",
            (long long)atomic_load(&stage->failed));
  database_remove(setting->path);
  return (double)settled / took;
}

/* One line of the table; rounds of its columns. */
struct row {
  int64_t processes;
  int64_t threads; /* 0: step by step */
  double rates[SOURCES][ROUNDS_MAX];
};

static struct row rows[LIST_MAX * (LIST_MAX + 1)];
static size_t row_count;
static double bare[ROUNDS_MAX];

static void rows_make(const int64_t *processes, size_t process_count,
                      const int64_t *threads, size_t thread_count) {
  for (size_t i = 0; i < process_count; i++) {
    rows[row_count++] = (struct row){.processes = processes[i], .threads = 0};
    for (size_t j = 0; j < thread_count; j++)
      rows[row_count++] =
          (struct row){.processes = processes[i], .threads = threads[j]};
  }
}

static void row_measure(struct row *row, struct setting *setting,
                        size_t round) {
  setting->processes = row->processes;
  setting->threads = row->threads;
  for (int source = 0; source < SOURCES; source++) {
    if (!row->threads && source != BATCHES) continue;
    setting->source = (enum source)source;
    row->rates[source][round] = rate_of(setting);
  }
}

static void print_ratio_to(double *values, const double *to, size_t rounds) {
  double ratios[ROUNDS_MAX];
  for (size_t i = 0; i < rounds; i++) ratios[i] = values[i] / to[i];
  print_ratio(spread_of(ratios, rounds));
}

/* Behind the row that is step by step in as many processes. */
static void row_print(struct row *row, const struct row *steps, size_t rounds) {
  char text[32] = "step by step";
  if (row->threads)
    snprintf(text, sizeof text, "engine of %lld", (long long)row->threads);
  printf("%4lld  %-14s", (long long)row->processes, text);
  for (int source = 0; source < SOURCES; source++) {
    double rates[ROUNDS_MAX];
    memcpy(rates, row->rates[source], rounds * sizeof *rates);
    if (row->threads || source == BATCHES)
      printf(" %8.0f", median(rates, rounds));
    else
      printf(" %8s", "");
  }
  print_ratio_to(row->rates[BATCHES], bare, rounds);
  print_ratio_to(row->rates[BATCHES], steps->rates[BATCHES], rounds);
  printf("\n");
}

static void throughput(struct setting *setting, size_t rounds) {
  for (size_t round = 0; round < rounds; round++) {
    bare[round] = plain_rate(scratch_path("plain.db"), setting->synchronous,
                             setting->length);
    for (size_t i = 0; i < row_count; i++)
      row_measure(&rows[(round + i) % row_count], setting, round);
  }
  double rates[ROUNDS_MAX];
  memcpy(rates, bare, rounds * sizeof *rates);
  struct spread spread = spread_of(rates, rounds);
  printf(
      "Jobs a second; a bare transaction of one row: %.0f a second "
      "(%.0f to %.0f)\n\n"
      "                     enqueued                    ratio of those by 100 "
      "to\n"
      "processes            singly   shared   by 100    bare transactions  "
      "       step by step\n",
      spread.median, spread.least, spread.most);
  const struct row *steps = rows;
  for (size_t i = 0; i < row_count; i++) {
    if (!rows[i].threads) steps = &rows[i];
    row_print(&rows[i], steps, rounds);
  }
}

/* ------------------------------------------------------------------------ */
/* Latency                                                                  */
/* ------------------------------------------------------------------------ */

struct side {
  struct steps *steps;
  const struct setting *setting;
  dibs_db *db;
  _Atomic uint32_t settled; /* by the engine */
  int64_t number;           /* of the job that it has */
};

static void send_one(void *context, int64_t number) {
  struct side *side = context;
  char text[STEP_PAYLOAD];
  dibs_payload payload = dibs_json(step_payload(text, number));
  must(side->db, dibs_enqueue(side->db, QUEUE[0], payload, NULL, NULL));
}

_Noreturn static void sender_run(struct side *side) {
  side->db = db_open(side->setting->path, side->setting->synchronous);
  gate_wait(&side->steps->gate);
  steps_send(side->steps, send_one, side);
  _exit(0);
}

_Noreturn static void claimer_run(struct side *side) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_db *db = db_open(side->setting->path, side->setting->synchronous);
  options.wait = DIBS_FOREVER;
  options.attached = 1;
  gate_wait(&side->steps->gate);
  for (int64_t i = 0; i < side->steps->count; i++) {
    struct step_times *times = &side->steps->times[i];
    dibs_job_list *list;
    step_wait(side->steps);
    must(db, dibs_claim(db, QUEUE, 1, &options, &list));
    times->got = nanoseconds();
    step_expect(&list->jobs[0], i);
    times->finished = nanoseconds();
    must(db, dibs_ack(db, list->jobs[0].receipt, NULL));
    times->settled = nanoseconds();
    dibs_job_list_free(list);
  }
  _exit(0);
}

static void on_step_settled(void *context, const dibs_run *run,
                            const dibs_settlement *outcome) {
  struct side *side = context;
  if (outcome->status != DIBS_OK) give_up("%s", outcome->message);
  step_expect(run->job, side->number);
  side->steps->times[side->number].settled = nanoseconds();
  atomic_fetch_add(&side->settled, 1);
}

/* The thread is in dibs_engine_next() again at once, as that of a worker is;
** the next job is sent when this one is settled. */
static void *settled_main(void *context) {
  struct side *side = context;
  for (int64_t i = 0; i < side->steps->count; i++) {
    while (atomic_load(&side->settled) < i) sleep_microseconds(100);
    step_wait(side->steps);
  }
  return NULL;
}

_Noreturn static void engine_receiver_run(struct side *side) {
  dibs_engine_options options = DIBS_ENGINE_OPTIONS_INIT;
  pthread_t thread;
  options.settled = on_step_settled;
  options.context = side;
  dibs_engine *engine =
      engine_open(side->setting->path, side->setting->synchronous, &options);
  gate_wait(&side->steps->gate);
  if (pthread_create(&thread, NULL, settled_main, side) != 0)
    give_up("no thread");
  for (int64_t i = 0; i < side->steps->count; i++) {
    struct step_times *times = &side->steps->times[i];
    dibs_run *run;
    dibs_settlement outcome = {.action = DIBS_ACK};
    if (dibs_engine_next(engine, DIBS_FOREVER, &run) != DIBS_OK)
      give_up("%s", dibs_engine_error(engine));
    times->got = nanoseconds();
    step_expect(run->job, i);
    side->number = i;
    times->finished = nanoseconds();
    if (dibs_engine_finish(engine, run, &outcome) != DIBS_OK)
      give_up("%s", dibs_engine_error(engine));
  }
  /* The last one is settled by whoever waits for another. */
  dibs_engine_close(engine);
  _exit(0);
}

static void latency_print(const char *name, const struct steps *steps) {
  size_t count = (size_t)steps->count;
  double *times = calloc(count, sizeof *times);
  const size_t parts[][2] = {{STEP_TIME(returned), STEP_TIME(got)},
                             {STEP_TIME(begun), STEP_TIME(got)},
                             {STEP_TIME(finished), STEP_TIME(settled)}};
  if (!times) give_up("no memory");
  printf("%-12s", name);
  for (int i = 0; i < 3; i++) {
    steps_differences(steps, parts[i][0], parts[i][1], times);
    values_sort(times, count);
    printf("  %8.1f %8.1f", value_at(times, count, 0.5),
           value_at(times, count, 0.99));
  }
  printf("\n");
  free(times);
}

static void latency_measure(const char *name, struct setting *setting,
                            int64_t count, int with_engine) {
  struct side side = {.steps = steps_new(count), .setting = setting};
  dibs_close(db_open(setting->path, setting->synchronous));
  if (child_start() == 0) sender_run(&side);
  if (child_start() == 0) {
    if (with_engine) engine_receiver_run(&side);
    claimer_run(&side);
  }
  gate_open(&side.steps->gate, 2);
  children_end(2);
  latency_print(name, side.steps);
  steps_free(side.steps);
  database_remove(setting->path);
}

int main(int argc, char **argv) {
  options_check(argc, argv, HELP);
  int64_t processes[LIST_MAX], threads[LIST_MAX];
  size_t process_count =
      option_numbers(argc, argv, "processes", "1,2,4", processes, LIST_MAX);
  size_t thread_count =
      option_numbers(argc, argv, "threads", "8,32", threads, LIST_MAX);
  size_t rounds = (size_t)option_number(argc, argv, "rounds", 5);
  int64_t count = option_number(argc, argv, "count", 2000);
  struct setting setting = {
      .length = (double)option_number(argc, argv, "milliseconds", 1000) / 1e3,
      .synchronous = option_synchronous(argc, argv, "full"),
      .payload = json_of(100),
      .stage = shared_memory(sizeof(struct stage))};
  if (rounds > ROUNDS_MAX) give_up("at most %d rounds", ROUNDS_MAX);
  for (size_t i = 0; i < process_count; i++)
    if (processes[i] > 64) give_up("at most 64 processes");
  scratch_folder(option_text(argc, argv, "folder", "."));
  setting.path = scratch_path("jobs.db");
  rows_make(processes, process_count, threads, thread_count);
  print_machine();
  printf("synchronous %s, %zu rounds of %.1f s\n\n",
         synchronous_name(setting.synchronous), rounds, setting.length);
  throughput(&setting, rounds);
  printf(
      "\nOne job at a time, %lld of them, microseconds\n\n"
      "              enqueued to handler  the same, from the  handler's end\n"
      "              p50, p99             enqueue's begin     to commit\n",
      (long long)count);
  latency_measure("step by step", &setting, count, 0);
  latency_measure("engine", &setting, count, 1);
  return 0;
}
