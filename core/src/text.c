/* SPDX-License-Identifier: MIT */
/*
** text.c: UTF-8, the rules for names, and base64 (RFC 4648).
*/
#include "internal.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The size of the well-formed character at `data`, 0 if there is none
** (Unicode 15, table 3-7). */
static size_t utf8_size(const unsigned char *data, size_t size) {
  unsigned char first = data[0];
  if (first < 0x80) return 1;
  size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || length > size) return 0;
  unsigned char low = 0x80, high = 0xBF;
  if (first == 0xE0) low = 0xA0;
  if (first == 0xED) high = 0x9F;
  if (first == 0xF0) low = 0x90;
  if (first == 0xF4) high = 0x8F;
  if (data[1] < low || data[1] > high) return 0;
  for (size_t i = 2; i < length; i++)
    if ((data[i] & 0xC0) != 0x80) return 0;
  return length;
}

bool utf8_valid(const char *data, size_t size) {
  const unsigned char *bytes = (const unsigned char *)data;
  for (size_t i = 0; i < size;) {
    uint64_t word;
    if (size - i >= sizeof word) { /* most text is ASCII: eight at once */
      memcpy(&word, bytes + i, sizeof word);
      if (!(word & 0x8080808080808080u)) {
        i += sizeof word;
        continue;
      }
    }
    size_t length = utf8_size(bytes + i, size - i);
    if (!length) return false;
    i += length;
  }
  return true;
}

void utf8_append(struct text *text, const char *data, size_t size) {
  const unsigned char *bytes = (const unsigned char *)data;
  for (size_t i = 0; i < size;) {
    size_t from = i, length;
    while (i < size && (length = utf8_size(bytes + i, size - i))) i += length;
    text_append(text, data + from, i - from);
    if (i++ < size) text_string(text, "\xEF\xBF\xBD"); /* U+FFFD */
  }
}

size_t utf8_floor(const char *data, size_t size) {
  while (size && ((unsigned char)data[size] & 0xC0) == 0x80) size--;
  return size;
}

/* Whether the character of `size` bytes is a control character. */
static bool control_is(const unsigned char *character, size_t size) {
  if (size == 1) return character[0] < 0x20 || character[0] == 0x7F;
  return size == 2 && character[0] == 0xC2 && character[1] < 0xA0;
}

void message_format(char *message, size_t room, const char *format,
                    va_list arguments) {
  int size = vsnprintf(message, room, format, arguments);
  if (size >= (int)room) message[utf8_floor(message, room - 1)] = 0;
  unsigned char *from = (unsigned char *)message, *to = from;
  for (size_t left = strlen(message); left;) {
    size_t taken = utf8_size(from, left);
    if (!taken || control_is(from, taken)) {
      *to++ = '?';
      if (!taken) taken = 1;
    } else {
      memmove(to, from, taken);
      to += taken;
    }
    from += taken;
    left -= taken;
  }
  *to = 0;
}

const char *name_problem(const char *name) {
  size_t size = strlen(name);
  if (!size) return "is empty: give 1 to 255 bytes";
  if (size > DIBS_NAME_MAX) return "is longer than 255 bytes";
  if (!utf8_valid(name, size)) return "is not UTF-8";
  for (const unsigned char *at = (const unsigned char *)name; *at; at++) {
    if (control_is(at, *at == 0xC2 ? 2 : 1)) return "has a control character";
    if (*at == '*') return "has a '*', which stands for any queue beneath";
  }
  return NULL;
}

/* Made once and never freed. */
static locale_t plain_locale;

static void plain_locale_make(void) {
  plain_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

/* Change the thread's locale to one with a decimal point. */
static locale_t plain_locale_use(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, plain_locale_make);
  return plain_locale ? uselocale(plain_locale) : (locale_t)0;
}

bool real_parse(const char *text, double *value) {
  char *end;
  locale_t before = plain_locale_use();
  *value = strtod(text, &end);
  if (before) uselocale(before);
  return end > text && !*end;
}

void real_append(struct text *text, double value, int digits) {
  locale_t before = plain_locale_use();
  text_format(text, "%.*g", digits, value);
  if (before) uselocale(before);
}

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_append(struct text *text, const void *data, size_t size) {
  const unsigned char *bytes = data;
  for (size_t i = 0; i < size; i += 3) {
    size_t left = size - i;
    unsigned group = (unsigned)bytes[i] << 16;
    if (left > 1) group |= (unsigned)bytes[i + 1] << 8;
    if (left > 2) group |= bytes[i + 2];
    char digits[4];
    digits[0] = base64_digits[group >> 18];
    digits[1] = base64_digits[group >> 12 & 63];
    digits[2] = left > 1 ? base64_digits[group >> 6 & 63] : '=';
    digits[3] = left > 2 ? base64_digits[group & 63] : '=';
    text_append(text, digits, 4);
  }
}

bool base64_decode(const char *text, size_t size, unsigned char *bytes,
                   size_t *count) {
  *count = 0;
  if (size % 4 == 0 && size && text[size - 1] == '=') size--;
  if (size % 4 == 3 && text[size - 1] == '=') size--;
  if (size % 4 == 1) return false;
  unsigned group = 0;
  for (size_t i = 0; i < size; i++) {
    const char *digit = text[i] ? strchr(base64_digits, text[i]) : NULL;
    if (!digit) return false;
    group = group << 6 | (unsigned)(digit - base64_digits);
    if (i % 4) bytes[(*count)++] = (unsigned char)(group >> (6 - i % 4 * 2));
  }
  return true;
}
