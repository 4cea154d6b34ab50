/* SPDX-License-Identifier: MIT */
/*
** memory.c: arenas, which make a result one thing to free however many
** strings it holds, and strings that grow.
*/
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first block of an arena is small, so that a list of one job costs one
** small allocation; each further one doubles up to the largest. */
#define ARENA_FIRST   1024
#define ARENA_LARGEST 262144

struct arena_block {
  struct arena_block *older;
  size_t used;
  size_t capacity;
  max_align_t data[];
};

static struct arena_block *arena_grow(struct arena *arena, size_t size) {
  size_t capacity = ARENA_FIRST;
  if (arena->newest) capacity = arena->newest->capacity * 2;
  if (capacity > ARENA_LARGEST) capacity = ARENA_LARGEST;
  if (capacity < size) capacity = size;
  struct arena_block *block = malloc(sizeof *block + capacity);
  if (!block) return NULL;
  block->older = arena->newest;
  block->used = 0;
  block->capacity = capacity;
  arena->newest = block;
  return block;
}

void *arena_take(struct arena *arena, size_t size) {
  size_t unit = sizeof(max_align_t);
  if (size > SIZE_MAX / 2) return NULL;
  size = (size + unit - 1) / unit * unit;
  struct arena_block *block = arena->newest;
  if (!block || block->capacity - block->used < size) {
    block = arena_grow(arena, size);
    if (!block) return NULL;
  }
  void *memory = (char *)block->data + block->used;
  block->used += size;
  return memory;
}

char *arena_copy(struct arena *arena, const void *data, size_t size) {
  char *copy = arena_take(arena, size + 1);
  if (!copy) return NULL;
  if (size) memcpy(copy, data, size);
  copy[size] = 0;
  return copy;
}

void arena_free(struct arena *arena) {
  while (arena->newest) {
    struct arena_block *older = arena->newest->older;
    free(arena->newest);
    arena->newest = older;
  }
}

/* Make room for `size` more bytes and a NUL. */
static bool text_room(struct text *text, size_t size) {
  if (text->failed || size >= SIZE_MAX / 4) return false;
  size_t needed = text->size + size + 1;
  if (needed <= text->capacity) return true;
  size_t capacity = text->capacity ? text->capacity : 64;
  while (capacity < needed) capacity *= 2;
  char *data = realloc(text->data, capacity);
  if (!data) return false;
  text->data = data;
  text->capacity = capacity;
  return true;
}

void text_append(struct text *text, const char *data, size_t size) {
  if (!text_room(text, size)) {
    text->failed = true;
    return;
  }
  if (size) memcpy(text->data + text->size, data, size);
  text->size += size;
  text->data[text->size] = 0;
}

void text_string(struct text *text, const char *string) {
  text_append(text, string, strlen(string));
}

void text_format(struct text *text, const char *format, ...) {
  char buffer[128];
  va_list arguments;
  va_start(arguments, format);
  int size = vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  /* Callers format numbers only: what does not fit is a mistake of ours. */
  if (size < 0 || (size_t)size >= sizeof buffer)
    text->failed = true;
  else
    text_append(text, buffer, (size_t)size);
}

void text_free(struct text *text) {
  free(text->data);
  *text = (struct text){0};
}

void dibs_free(void *memory) {
  free(memory);
}
