/* SPDX-License-Identifier: MIT */
/*
** lines.c: standard input line by line.
**
** One buffer holds what was read and no line has taken up; it grows as far as
** the longest line allowed needs, and no further. (A line that is a little too
** long may still be found in it: the core refuses its payload.) Before each read it is
** waited for input or a signal, whichever comes first, so that no signal gets
** lost between a look at the flag and a read that blocks.
*/
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "lines.h"

#define READ_SIZE 65536

void lines_init(struct lines *lines, int fd, size_t limit) {
  memset(lines, 0, sizeof *lines);
  lines->fd = fd;
  lines->limit = limit;
}

void lines_free(struct lines *lines) {
  free(lines->buffer);
}

/* Hand out the line that ends at `end`; what follows it begins at `next`. */
static enum lines_result take_line(struct lines *lines, size_t end,
                                   size_t next) {
  lines->number++;
  lines->text = lines->buffer + lines->begin;
  lines->size = end - lines->begin;
  lines->taken += (int64_t)(next - lines->begin);
  lines->begin = lines->scanned = next;
  return LINES_LINE;
}

/* Make room to read READ_SIZE bytes more. Returns nonzero on success. */
static int make_room(struct lines *lines) {
  if (lines->begin > 0) {
    memmove(lines->buffer, lines->buffer + lines->begin,
            lines->end - lines->begin);
    lines->end -= lines->begin;
    lines->scanned -= lines->begin;
    lines->begin = 0;
  }
  if (lines->room - lines->end >= READ_SIZE) return 1;
  size_t room = lines->room ? lines->room * 2 : (size_t)2 * READ_SIZE;
  char *buffer = realloc(lines->buffer, room);
  if (buffer == NULL) return errno = ENOMEM, 0;
  lines->buffer = buffer;
  lines->room = room;
  return 1;
}

/* Wait for input. LINES_LINE: there is some, or its end. */
static enum lines_result await_input(const struct lines *lines, int timeout) {
  struct pollfd fds[2] = {{lines->fd, POLLIN, 0}, {cli_signal_fd(), POLLIN, 0}};
  int ready = poll(fds, 2, timeout);
  if (cli_interrupted()) return LINES_INTERRUPTED;
  if (ready < 0) return errno == EINTR ? LINES_PAUSE : LINES_FAILED;
  return ready ? LINES_LINE : LINES_PAUSE;
}

static enum lines_result read_more(struct lines *lines, int timeout) {
  enum lines_result result = await_input(lines, timeout);
  if (result != LINES_LINE) return result;
  if (!make_room(lines)) return LINES_FAILED;
  ssize_t got = read(lines->fd, lines->buffer + lines->end, READ_SIZE);
  if (got < 0)
    return errno == EINTR || errno == EAGAIN ? LINES_PAUSE : LINES_FAILED;
  lines->end += (size_t)got;
  lines->ended = got == 0;
  return LINES_LINE;
}

enum lines_result lines_next(struct lines *lines, int timeout) {
  for (;;) {
    size_t size = lines->end - lines->scanned;
    char *end = NULL;
    if (size) end = memchr(lines->buffer + lines->scanned, '\n', size);
    if (end) {
      size_t place = (size_t)(end - lines->buffer);
      return take_line(lines, place, place + 1);
    }
    lines->scanned = lines->end;
    if (lines->end - lines->begin > lines->limit)
      return lines->number++, LINES_TOO_LONG;
    if (lines->ended && lines->begin == lines->end) return LINES_END;
    if (lines->ended) return take_line(lines, lines->end, lines->end);
    enum lines_result result = read_more(lines, timeout);
    if (result != LINES_LINE) return result;
  }
}
