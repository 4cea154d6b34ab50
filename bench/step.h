/* SPDX-License-Identifier: MIT */
/*
** step.h: one job at a time from one process to another, and how long each part
** of its way takes.
**
** The sender waits until the receiver is waiting, and a random while more; then
** it sends. So each time is that of a job that comes when nobody works.
*/
#ifndef DIBS_BENCH_STEP_H
#define DIBS_BENCH_STEP_H

#include "measure.h"

/* Of one job, in nanoseconds. */
struct step_times {
  int64_t begun;    /* its sending */
  int64_t returned; /* the call that sent it */
  int64_t got;      /* by the receiver */
  int64_t finished; /* the receiver had done with it */
  int64_t settled;  /* that is committed */
};

/* In shared memory. */
struct steps {
  struct gate gate;
  _Atomic uint32_t waiting; /* how often the receiver has waited */
  _Atomic uint32_t word;    /* for the bare futex */
  double gap_least; /* microseconds that the sender waits beside the receiver */
  double gap_most;
  int64_t count;
  struct step_times times[];
};

struct steps *steps_new(int64_t count);
void steps_free(struct steps *steps);

/* Send all. `send` sends the job of that number. */
void steps_send(struct steps *steps, void (*send)(void *, int64_t),
                void *context);

/* The receiver begins to wait for the next one. */
void step_wait(struct steps *steps);

/* A payload that has the number, and the number that it has. */
#define STEP_PAYLOAD 32
const char *step_payload(char text[STEP_PAYLOAD], int64_t number);
void step_expect(const dibs_job *job, int64_t number);

/* Microseconds from one member of the times to another, for each job. */
#define STEP_TIME(member) offsetof(struct step_times, member)
void steps_differences(const struct steps *steps, size_t from, size_t to,
                       double *differences);

#endif
