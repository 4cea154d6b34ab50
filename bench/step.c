/* SPDX-License-Identifier: MIT */
/*
** step.c: one job at a time from one process to another.
*/
#include "step.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GAP_LEAST 300.0 /* microseconds */
#define GAP_MOST  1500.0

static size_t steps_size(int64_t count) {
  return sizeof(struct steps) + (size_t)count * sizeof(struct step_times);
}

struct steps *steps_new(int64_t count) {
  struct steps *steps = shared_memory(steps_size(count));
  steps->count = count;
  steps->gap_least = GAP_LEAST;
  steps->gap_most = GAP_MOST;
  return steps;
}

void steps_free(struct steps *steps) {
  shared_free(steps, steps_size(steps->count));
}

void steps_send(struct steps *steps, void (*send)(void *, int64_t),
                void *context) {
  for (int64_t i = 0; i < steps->count; i++) {
    struct step_times *times = &steps->times[i];
    while (atomic_load(&steps->waiting) <= i) sleep_microseconds(50);
    sleep_microseconds(random_between(steps->gap_least, steps->gap_most));
    times->begun = nanoseconds();
    send(context, i);
    times->returned = nanoseconds();
  }
}

void step_wait(struct steps *steps) {
  atomic_fetch_add(&steps->waiting, 1);
}

const char *step_payload(char text[STEP_PAYLOAD], int64_t number) {
  snprintf(text, STEP_PAYLOAD, "%lld", (long long)number);
  return text;
}

void step_expect(const dibs_job *job, int64_t number) {
  const char *text = job->payload.data;
  if (!text || strtoll(text, NULL, 10) != number)
    give_up("another job came than %lld", (long long)number);
}

void steps_differences(const struct steps *steps, size_t from, size_t to,
                       double *differences) {
  for (int64_t i = 0; i < steps->count; i++) {
    const char *times = (const char *)&steps->times[i];
    int64_t begin, end;
    memcpy(&begin, times + from, sizeof begin);
    memcpy(&end, times + to, sizeof end);
    differences[i] = (double)(end - begin) / 1e3;
  }
}
