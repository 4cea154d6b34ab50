/* SPDX-License-Identifier: MIT */
/*
** lines.h: standard input line by line, in bounded memory.
*/
#ifndef DIBS_CLI_LINES_H
#define DIBS_CLI_LINES_H

#include <stddef.h>
#include <stdint.h>

enum lines_result {
  LINES_LINE,        /* `text` and `size` are the next line */
  LINES_END,         /* there are no more */
  LINES_PAUSE,       /* none came within the time that was given */
  LINES_TOO_LONG,    /* a line is longer than the limit */
  LINES_INTERRUPTED, /* a signal came */
  LINES_FAILED       /* reading failed: errno */
};

struct lines {
  int fd;
  size_t limit;   /* bytes that a line may have */
  char *text;     /* OUT: the line, without its end; borrowed until the next */
  size_t size;    /* OUT: bytes */
  int64_t number; /* OUT: which line of the input it is, from 1 */
  int64_t taken;  /* OUT: bytes of the input that lines have taken up */

  char *buffer; /* what was read; the rest is the reader's own */
  size_t room;
  size_t begin;   /* of what no line has taken up */
  size_t end;     /* of what was read */
  size_t scanned; /* up to here there is no line end */
  int ended;      /* the input has no more */
};

void lines_init(struct lines *lines, int fd, size_t limit);
void lines_free(struct lines *lines);

/* Read the next line; a last one without an end counts. Waits for `timeout` ms,
** or for ever (-1). */
enum lines_result lines_next(struct lines *lines, int timeout);

#endif
