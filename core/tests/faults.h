/* SPDX-License-Identifier: MIT */
/*
** faults.h: making memory run out and disks fail, at a chosen call.
**
** A fault is armed for the n-th call from now, once or from then on. Calls are
** counted only while it is armed. What is counted: allocations of the library
** (the executable must be linked with faults_memory's --wrap options) and of
** SQLite; calls of SQLite's VFS, which reach the real one otherwise.
*/
#ifndef DIBS_FAULTS_H
#define DIBS_FAULTS_H

#include <stdint.h>

/* Must be called before anything else of SQLite is. */
void faults_memory_install(void);
void faults_disk_install(void);

/* Let the n-th allocation fail, counted from 1, and with `forever` all after
** it. */
void faults_memory_arm(int64_t n, int forever);

/* Stop; nonzero when an allocation failed. *calls (may be NULL) is how many
** were counted. */
int faults_memory_disarm(int64_t *calls);

enum disk_fault {
  DISK_ERROR,   /* any call fails with an I/O error */
  DISK_FULL,    /* a write finds no space */
  DISK_NO_READ, /* a read fails */
  DISK_NO_SYNC  /* a sync fails */
};

void faults_disk_arm(enum disk_fault fault, int64_t n, int forever);
int faults_disk_disarm(void);

/* How many calls that the fault concerns were made while it was armed. */
int64_t faults_disk_calls(void);

/* How many bytes the files opened from now on may hold together beyond what
** they hold; negative: no limit. */
void faults_disk_quota(int64_t bytes);

#endif
