/* SPDX-License-Identifier: MIT */
/*
** text.c: text as the dibs program writes it.
**
** For people, with everything escaped that a terminal would act upon; as a
** JSON string, which is valid whatever bytes it was made of. Both walk the text
** one character at a time with utf8_next().
*/
#include <inttypes.h>
#include <string.h>

#include "output.h"

/* The length of the character that begins with a byte, and the least code
** that may be written at that length; 0 for a byte that begins none. */
static size_t utf8_length(unsigned char first, uint32_t *least) {
  if (first < 0x80) return *least = 0, 1;
  if (first >= 0xc2 && first < 0xe0) return *least = 0x80, 2;
  if (first >= 0xe0 && first < 0xf0) return *least = 0x800, 3;
  if (first >= 0xf0 && first < 0xf5) return *least = 0x10000, 4;
  return 0;
}

/* Read the next character. Returns its length in bytes, or 0 when the text
** does not begin with a valid one. */
static size_t utf8_next(const unsigned char *text, size_t size,
                        uint32_t *code) {
  static const unsigned char masks[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
  uint32_t least;
  size_t length = size ? utf8_length(text[0], &least) : 0;
  if (length == 0 || length > size) return 0;
  *code = text[0] & masks[length];
  for (size_t i = 1; i < length; i++) {
    if ((text[i] & 0xc0) != 0x80) return 0;
    *code = *code << 6 | (text[i] & 0x3f);
  }
  if (*code < least || *code > 0x10ffff) return 0;
  if (*code >= 0xd800 && *code <= 0xdfff) return 0;
  return length;
}

size_t utf8_valid_size(const void *text, size_t size) {
  const unsigned char *bytes = text;
  size_t valid = 0;
  uint32_t code;
  while (valid < size) {
    size_t length = utf8_next(bytes + valid, size - valid, &code);
    if (length == 0) break;
    valid += length;
  }
  return valid;
}

static int is_control(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0);
}

/* ------------------------------------------------------------------------ */
/* For people                                                               */
/* ------------------------------------------------------------------------ */

/* Write one control character; returns its columns. */
static size_t print_control(FILE *file, uint32_t code) {
  const char *format = code < 0x80 ? "\\x%02" PRIx32 : "\\u%04" PRIx32;
  if (code == '\n') return (void)fputs("\\n", file), 2;
  if (code == '\t') return (void)fputs("\\t", file), 2;
  if (code == '\r') return (void)fputs("\\r", file), 2;
  int columns = fprintf(file, format, code);
  return columns > 0 ? (size_t)columns : 0;
}

size_t print_escaped(FILE *file, const void *text, size_t size, size_t limit) {
  const unsigned char *bytes = text;
  size_t columns = 0;
  for (size_t at = 0, count = 0; at < size; count++) {
    uint32_t code;
    size_t length = utf8_next(bytes + at, size - at, &code);
    if (limit && count == limit) {
      (void)fputs("...", file);
      return columns + 3;
    }
    if (length == 0) {
      (void)fprintf(file, "\\x%02x", bytes[at]);
      columns += 4;
    } else if (is_control(code)) {
      columns += print_control(file, code);
    } else {
      (void)fwrite(bytes + at, 1, length, file);
      columns++;
    }
    at += length ? length : 1;
  }
  return columns;
}

void print_count(FILE *file, int64_t count, const char *noun) {
  (void)fprintf(file, "%" PRId64 " %s%s", count, noun, count == 1 ? "" : "s");
}

/* ------------------------------------------------------------------------ */
/* JSON                                                                     */
/* ------------------------------------------------------------------------ */

/* Write one character of a JSON string. */
static void print_json_character(FILE *file, const unsigned char *bytes,
                                 size_t length, uint32_t code) {
  if (length == 0) {
    (void)fputs("\\ufffd", file);
  } else if (code == '"' || code == '\\') {
    (void)fprintf(file, "\\%c", (int)code);
  } else if (code == '\n') {
    (void)fputs("\\n", file);
  } else if (code == '\t') {
    (void)fputs("\\t", file);
  } else if (is_control(code)) {
    (void)fprintf(file, "\\u%04" PRIx32, code);
  } else {
    (void)fwrite(bytes, 1, length, file);
  }
}

void print_json_string_sized(FILE *file, const void *text, size_t size) {
  const unsigned char *bytes = text;
  (void)fputc('"', file);
  for (size_t at = 0; at < size;) {
    uint32_t code = 0;
    size_t length = utf8_next(bytes + at, size - at, &code);
    print_json_character(file, bytes + at, length, code);
    at += length ? length : 1;
  }
  (void)fputc('"', file);
}

void print_json_string(FILE *file, const char *text) {
  print_json_string_sized(file, text, strlen(text));
}
