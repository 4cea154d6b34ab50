/* SPDX-License-Identifier: MIT */
/*
** fuzz_sidecar.c: a sidecar file that holds anything at all.
**
** The input is a program of damages to a valid sidecar, each a letter and its
** operands (b a byte; oo a number of two bytes, big-endian, modulo what there
** is):
**
**     P oo n BYTES   put n bytes there
**     F oo oo b      fill from the one to the other with a byte
**     S oo i BYTES   eight bytes into a slot: its number, and word i of it
**     T oo           cut or lengthen the file
**     W REST         the rest of the input is the file
**     N              go on: what follows is done to it later
**
** What stands before the first N is in the file when the database is opened;
** the rest is written to the file while it is in use, at fixed points of a
** fixed series of operations by two handles: claims, some of them attached to
** the process or waiting, a look for dead processes, a job that falls due, an
** interrupt, a join. A sidecar is never trusted: each operation has to give
** what it gives beside an undamaged one.
*/
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

/* As the head of sidecar.c has it. */
#define MAP_SIZE   (4096 + 512 * 64)
#define MAP_DUTY   132
#define MAP_PROBED 144
#define MAP_SLOTS  4096
#define IMAGE_MAX  (2 * MAP_SIZE)

static char path[4200];    /* of the database */
static char sidecar[4208]; /* beside it */
static uint8_t *template;  /* an empty database */
static size_t template_size;
static char expected[4096]; /* what the operations give */

/* ------------------------------------------------------------------------ */
/* Files                                                                    */
/* ------------------------------------------------------------------------ */

static void write_file(const char *name, const uint8_t *data, size_t size) {
  int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  REQUIRE(file >= 0);
  REQUIRE(write(file, data, size) == (ssize_t)size);
  REQUIRE(close(file) == 0);
}

static void make_template(void) {
  dibs_open_options options = fuzz_open_options();
  dibs_db *db = NULL;
  struct stat status;
  REQUIRE(dibs_open(path, &options, &db) == DIBS_OK);
  REQUIRE(dibs_close(db) == DIBS_OK);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  REQUIRE(file >= 0 && fstat(file, &status) == 0);
  template_size = (size_t)status.st_size;
  template = malloc(template_size);
  REQUIRE(template);
  REQUIRE(read(file, template, template_size) == status.st_size);
  REQUIRE(close(file) == 0);
}

/* The sidecar in use, or NULL when there is none that could be. */
static uint8_t *map_open(void) {
  struct stat status;
  void *map = MAP_FAILED;
  int file = open(sidecar, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (file < 0) return NULL;
  if (fstat(file, &status) == 0 && status.st_size == MAP_SIZE) {
    map = mmap(NULL, MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  }
  close(file);
  return map == MAP_FAILED ? NULL : map;
}

/* ------------------------------------------------------------------------ */
/* Damages                                                                  */
/* ------------------------------------------------------------------------ */

/* The input, and what it damages. */
struct damage {
  const uint8_t *data;
  size_t left;
  uint8_t *at;
  size_t size;
};

static unsigned next_byte(struct damage *damage) {
  if (!damage->left) return 0;
  damage->left--;
  return *damage->data++;
}

static size_t next_number(struct damage *damage, size_t limit) {
  size_t number = next_byte(damage) << 8;
  number |= next_byte(damage);
  return limit ? number % limit : 0;
}

static void put_bytes(struct damage *damage, size_t at, size_t count) {
  for (; count && damage->left; count--, at++) {
    uint8_t byte = (uint8_t)next_byte(damage);
    if (at < damage->size) damage->at[at] = byte;
  }
}

static void fill(struct damage *damage) {
  size_t from = next_number(damage, damage->size);
  size_t to = next_number(damage, damage->size);
  int byte = (int)next_byte(damage);
  if (from < to) memset(damage->at + from, byte, to - from);
}

static void put_slot(struct damage *damage) {
  size_t slot = next_number(damage, 512);
  size_t word = next_byte(damage) % 8;
  put_bytes(damage, MAP_SLOTS + slot * 64 + word * 8, 8);
}

/* Up to the next N, or the end. `whole` is the buffer of a file that is not in
** use; one that is in use keeps its size. */
static void do_damage(struct damage *damage, int whole) {
  while (damage->left) {
    size_t at;
    switch (next_byte(damage)) {
    case 'P':
      at = next_number(damage, damage->size);
      put_bytes(damage, at, next_byte(damage));
      break;
    case 'F': fill(damage); break;
    case 'S': put_slot(damage); break;
    case 'T':
      at = next_number(damage, IMAGE_MAX);
      if (whole) damage->size = at;
      break;
    case 'W':
      if (whole) damage->size = damage->left;
      put_bytes(damage, 0, damage->left);
      break;
    case 'N': return;
    default: break;
    }
  }
}

static int is_newer(const uint8_t *image, size_t size) {
  uint32_t version = 0;
  if (size < 12 || memcmp(image, "dibs-map", 8) != 0) return 0;
  memcpy(&version, image + 8, sizeof version);
  return version > 1;
}

/* Write the file as it is at the opening. Nonzero when it is of a newer
** version, which stays as it is. */
static int damage_file(struct damage *damage) {
  static uint8_t image[IMAGE_MAX];
  static const uint32_t header[2] = {1, 512};
  memset(image, 0, sizeof image);
  memcpy(image, "dibs-map", 8);
  memcpy(image + 8, header, sizeof header);
  damage->at = image;
  damage->size = MAP_SIZE;
  do_damage(damage, 1);
  write_file(sidecar, image, damage->size);
  return is_newer(image, damage->size);
}

/* Once it is open it is valid, having been replaced if it was not. */
static void check_header(void) {
  static const uint32_t header[2] = {1, 512};
  uint8_t *map = map_open();
  REQUIRE(map);
  REQUIRE(memcmp(map, "dibs-map", 8) == 0);
  REQUIRE(memcmp(map + 8, header, sizeof header) == 0);
  munmap(map, MAP_SIZE);
}

/* The next part of the program, to the file in use. */
static void damage_map(struct damage *damage) {
  uint8_t *map = map_open();
  if (!map) return;
  damage->at = map;
  damage->size = MAP_SIZE;
  do_damage(damage, 0);
  munmap(map, MAP_SIZE);
}

/* Let the next claim look for dead processes. */
static void ask_for_probing(void) {
  uint8_t *map = map_open();
  if (!map) return;
  map[MAP_DUTY] |= 3;
  memset(map + MAP_PROBED, 0, 8);
  munmap(map, MAP_SIZE);
}

/* ------------------------------------------------------------------------ */
/* Operations                                                               */
/* ------------------------------------------------------------------------ */

/* What the operations gave. */
struct record {
  char text[sizeof expected];
  size_t size;
};

__attribute__((format(printf, 2, 3))) static void
note(struct record *record, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  record->size +=
      (size_t)vsnprintf(record->text + record->size,
                        sizeof record->text - record->size, format, arguments);
  va_end(arguments);
  REQUIRE(record->size < sizeof record->text);
}

/* Claim one, and note what came; its receipt into `receipt`. */
static void claim(struct record *record, dibs_db *db, const char *queue,
                  int64_t wait, int attached, char receipt[64]) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  options.wait = wait;
  options.attached = attached;
  int status = dibs_claim(db, &queue, 1, &options, &jobs);
  note(record, "claim %s: %s", queue, dibs_status_name(status));
  if (jobs) {
    const dibs_job *job = &jobs->jobs[0];
    note(record, " %lld attempt %lld crashes %lld", (long long)job->id,
         (long long)job->attempt, (long long)job->crashes);
    snprintf(receipt, 64, "%s", job->receipt);
  }
  note(record, "\n");
  dibs_job_list_free(jobs);
}

static void enqueue(struct record *record, dibs_db *db, const char *queue,
                    int64_t delay) {
  dibs_job_options options;
  int64_t id = 0;
  dibs_job_options_init(&options);
  options.delay = delay;
  int status = dibs_enqueue(db, queue, dibs_json("1"), &options, &id);
  note(record, "enqueue: %s %lld\n", dibs_status_name(status), (long long)id);
}

static void note_status(struct record *record, const char *what, int status) {
  note(record, "%s: %s\n", what, dibs_status_name(status));
}

static void note_counts(struct record *record, dibs_db *db) {
  dibs_stats_list *stats = NULL;
  EXPECT(db, STATUS(OK), dibs_stats(db, NULL, 0, &stats));
  for (size_t i = 0; i < stats->count; i++) {
    const dibs_queue_stats *queue = &stats->queues[i];
    note(record, "%s: %lld ready %lld scheduled %lld running %lld dead\n",
         queue->queue, (long long)queue->ready, (long long)queue->scheduled,
         (long long)queue->running, (long long)queue->dead);
  }
  dibs_stats_list_free(stats);
}

/* The series. Between its steps more damage is done. */
static void operate(struct record *record, dibs_db *a, dibs_db *b,
                    struct damage *damage) {
  static const char *const queues[] = {"q", "r/*"};
  char first[64] = "", second[64] = "", third[64] = "";
  enqueue(record, a, "q", DIBS_UNSET);
  claim(record, a, "q", DIBS_UNSET, 1, first);
  damage_map(damage);
  ask_for_probing();
  claim(record, b, "none", 2, 0, second);
  enqueue(record, b, "q", DIBS_UNSET);
  enqueue(record, b, "r/1", 5);
  damage_map(damage);
  claim(record, b, DIBS_ALL, 1000, 0, second);
  fuzz_now += 10;
  claim(record, a, "r/*", 1000, 1, third);
  note_counts(record, a);
  damage_map(damage);
  note_status(record, "join", dibs_join(b, queues, 2, 2));
  note_status(record, "release", dibs_release(b, second));
  dibs_interrupt(a);
  claim(record, a, "none", 1000, 0, second);
  damage_map(damage);
  ask_for_probing();
  claim(record, b, "q", 1000, 1, second);
  note_status(record, "ack", dibs_ack(a, first, NULL));
  note_status(record, "ack", dibs_ack(a, second, NULL));
  note_status(record, "ack", dibs_ack(b, third, NULL));
  note_status(record, "ack again", dibs_ack(b, third, NULL));
  note_status(record, "join", dibs_join(b, queues, 2, 1000));
  note_counts(record, b);
}

static void run(struct record *record, const uint8_t *data, size_t size) {
  dibs_open_options options = fuzz_open_options();
  struct damage damage = {data, size, NULL, 0};
  dibs_db *a = NULL, *b = NULL;
  fuzz_now = FUZZ_START;
  write_file(path, template, template_size);
  int newer = damage_file(&damage);
  REQUIRE(dibs_open(path, &options, &a) == DIBS_OK);
  REQUIRE(dibs_open(path, &options, &b) == DIBS_OK);
  if (!newer) check_header();
  operate(record, a, b, &damage);
  REQUIRE(dibs_close(a) == DIBS_OK);
  REQUIRE(dibs_close(b) == DIBS_OK);
  REQUIRE(unlink(sidecar) == 0);
}

int LLVMFuzzerInitialize(int *count, char ***arguments) {
  struct record record = {.size = 0};
  (void)count;
  (void)arguments;
  snprintf(path, sizeof path, "%s/fuzz.db", fuzz_folder());
  snprintf(sidecar, sizeof sidecar, "%s-dibs", path);
  make_template();
  run(&record, NULL, 0);
  memcpy(expected, record.text, record.size + 1);
  /* The series itself is as it should be. */
  REQUIRE(strstr(expected, "claim none: DIBS_EMPTY\n"));
  REQUIRE(strstr(expected, "claim none: DIBS_INTERRUPTED\n"));
  REQUIRE(strstr(expected, "claim r/*: DIBS_OK 3 attempt 1 crashes 0\n"));
  REQUIRE(strstr(expected, "ack again: DIBS_LOST\njoin: DIBS_OK\n"));
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct record record = {.size = 0};
  run(&record, data, size);
  fuzz_about = record.text;
  REQUIRE(strcmp(record.text, expected) == 0);
  fuzz_about = NULL;
  return 0;
}
