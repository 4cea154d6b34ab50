/* SPDX-License-Identifier: MIT */
/*
** faults_memory.c: allocations that fail. The linker's --wrap turns each
** malloc() of the objects in the executable into __wrap_malloc(); SQLite, a
** shared library, is given an allocator of ours instead.
**
** The names that begin with two underscores are the linker's.
*/
#include "faults.h"

#include <sqlite3.h>
#include <stdlib.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
char *__real_strdup(const char *string);
char *__real_strndup(const char *string, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
char *__wrap_strdup(const char *string);
char *__wrap_strndup(const char *string, size_t size);

static struct {
  _Atomic int armed;
  _Atomic int forever;
  _Atomic int failed;
  _Atomic int64_t calls;
  _Atomic int64_t fail_at;
} memory_fault;

/* Whether this allocation is to fail. Any thread asks. */
static int must_fail(void) {
  if (!memory_fault.armed) return 0;
  int64_t call = ++memory_fault.calls;
  if (call < memory_fault.fail_at) return 0;
  if (call > memory_fault.fail_at && !memory_fault.forever) return 0;
  memory_fault.failed = 1;
  return 1;
}

void *__wrap_malloc(size_t size) {
  return must_fail() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size) {
  return must_fail() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size) {
  return must_fail() ? NULL : __real_realloc(memory, size);
}

char *__wrap_strdup(const char *string) {
  return must_fail() ? NULL : __real_strdup(string);
}

char *__wrap_strndup(const char *string, size_t size) {
  return must_fail() ? NULL : __real_strndup(string, size);
}

/* ---- SQLite's ------------------------------------------------------------- */

static sqlite3_mem_methods real_methods;

static void *sqlite_malloc(int size) {
  return must_fail() ? NULL : real_methods.xMalloc(size);
}

static void *sqlite_realloc(void *memory, int size) {
  return must_fail() ? NULL : real_methods.xRealloc(memory, size);
}

void faults_memory_install(void) {
  sqlite3_mem_methods methods;
  sqlite3_config(SQLITE_CONFIG_GETMALLOC, &real_methods);
  methods = real_methods;
  methods.xMalloc = sqlite_malloc;
  methods.xRealloc = sqlite_realloc;
  sqlite3_config(SQLITE_CONFIG_MALLOC, &methods);
  sqlite3_initialize();
}

void faults_memory_arm(int64_t n, int forever) {
  memory_fault.calls = 0;
  memory_fault.failed = 0;
  memory_fault.fail_at = n;
  memory_fault.forever = forever;
  memory_fault.armed = 1;
}

int faults_memory_disarm(int64_t *calls) {
  memory_fault.armed = 0;
  if (calls) *calls = memory_fault.calls;
  return memory_fault.failed;
}
