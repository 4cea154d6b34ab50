/* SPDX-License-Identifier: MIT */
/*
** json.c: what is done with JSON outside of SQLite: checking it, and walking
** through its members so that they can be kept exactly as they were given,
** which SQLite's functions do not: they normalise. The check is our own
** because SQLite's costs a third of an enqueue (measured); a test holds it
** against json_valid().
*/
#include "internal.h"

#include <ctype.h>
#include <string.h>

static bool json_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void space_skip(struct json_walk *walk) {
  while (walk->at < walk->end && json_space(*walk->at)) walk->at++;
}

/* ------------------------------------------------------------------- check */

/* SQLite refuses what is nested deeper than 1,000 (3.43 and newer). */
#define JSON_DEPTH 1000

static bool char_is(struct json_walk *walk, char c) {
  if (walk->at >= walk->end || *walk->at != c) return false;
  walk->at++;
  return true;
}

static bool digits_check(struct json_walk *walk) {
  const char *from = walk->at;
  while (walk->at < walk->end && *walk->at >= '0' && *walk->at <= '9')
    walk->at++;
  return walk->at > from;
}

static bool number_check(struct json_walk *walk) {
  char_is(walk, '-');
  if (!char_is(walk, '0') && !digits_check(walk)) return false;
  if (char_is(walk, '.') && !digits_check(walk)) return false;
  if (!char_is(walk, 'e') && !char_is(walk, 'E')) return true;
  if (!char_is(walk, '+')) char_is(walk, '-');
  return digits_check(walk);
}

static bool word_check(struct json_walk *walk, const char *word) {
  size_t size = strlen(word);
  if ((size_t)(walk->end - walk->at) < size) return false;
  if (memcmp(walk->at, word, size)) return false;
  walk->at += size;
  return true;
}

/* What follows a backslash. */
static bool escape_check(struct json_walk *walk) {
  if (walk->at >= walk->end) return false;
  char c = *walk->at++;
  if (c != 'u') return c && strchr("\"\\/bfnrt", c);
  for (int i = 0; i < 4; i++, walk->at++)
    if (walk->at >= walk->end || !isxdigit((unsigned char)*walk->at))
      return false;
  return true;
}

/* Whether one of eight bytes is below 0x20, a quote or a backslash: a byte that
** is below `n`, or equal once it is turned to 0, sets its highest bit. (Bit
** Twiddling Hacks, "Determine if a word has a byte less than n".) */
static bool word_ends(const char *data) {
  const uint64_t ones = 0x0101010101010101u;
  uint64_t word, quote, backslash;
  memcpy(&word, data, sizeof word);
  quote = word ^ ones * '"';
  backslash = word ^ ones * '\\';
  uint64_t found = ((word - ones * 0x20) & ~word) | ((quote - ones) & ~quote) |
                   ((backslash - ones) & ~backslash);
  return found & ones * 0x80;
}

/* To the byte that ends a plain part of a string. */
static const char *plain_skip(const char *at, const char *end) {
  while (end - at >= 8 && !word_ends(at)) at += 8;
  while (at < end && *at != '"' && *at != '\\' && (unsigned char)*at >= 0x20)
    at++;
  return at;
}

static bool string_check(struct json_walk *walk) {
  if (!char_is(walk, '"')) return false;
  while (walk->at < walk->end) {
    walk->at = plain_skip(walk->at, walk->end);
    if (char_is(walk, '"')) return true;
    if (!char_is(walk, '\\') || !escape_check(walk)) return false;
  }
  return false;
}

static bool value_check(struct json_walk *walk, int depth);

/* The members of an object, or the elements of an array, behind its bracket. */
static bool elements_check(struct json_walk *walk, char close, int depth) {
  space_skip(walk);
  if (char_is(walk, close)) return true;
  do {
    if (close == '}') {
      space_skip(walk);
      if (!string_check(walk)) return false;
      space_skip(walk);
      if (!char_is(walk, ':')) return false;
    }
    if (!value_check(walk, depth)) return false;
  } while (char_is(walk, ','));
  return char_is(walk, close);
}

/* A value with the white space on both sides of it. */
static bool value_check(struct json_walk *walk, int depth) {
  bool good;
  space_skip(walk);
  if (walk->at >= walk->end || depth > JSON_DEPTH) return false;
  switch (*walk->at) {
  case '{': walk->at++, good = elements_check(walk, '}', depth + 1); break;
  case '[': walk->at++, good = elements_check(walk, ']', depth + 1); break;
  case '"': good = string_check(walk); break;
  case 't': good = word_check(walk, "true"); break;
  case 'f': good = word_check(walk, "false"); break;
  case 'n': good = word_check(walk, "null"); break;
  default: good = number_check(walk);
  }
  if (good) space_skip(walk);
  return good;
}

bool json_valid(const char *data, size_t size) {
  struct json_walk walk = {data, data + size};
  return utf8_valid(data, size) && value_check(&walk, 0) && walk.at == walk.end;
}

/* -------------------------------------------------------------------- walk */

/* Skip a string that begins at the walk, quotes included. */
static void string_skip(struct json_walk *walk) {
  for (walk->at++; walk->at < walk->end && *walk->at != '"'; walk->at++)
    if (*walk->at == '\\') walk->at++;
  if (walk->at < walk->end) walk->at++;
}

/* Skip a value: to the comma or bracket that ends it. */
static void value_skip(struct json_walk *walk) {
  int depth = 0;
  while (walk->at < walk->end) {
    char c = *walk->at;
    if (c == '"') {
      string_skip(walk);
      continue;
    }
    if (!depth && (c == ',' || c == '}' || c == ']')) return;
    if (c == '{' || c == '[') depth++;
    if (c == '}' || c == ']') depth--;
    walk->at++;
  }
}

/* A value without the white space on both sides of it. */
static void value_take(struct json_walk *walk, struct json_slice *value) {
  space_skip(walk);
  value->data = walk->at;
  value_skip(walk);
  const char *end = walk->at;
  while (end > value->data && json_space(end[-1])) end--;
  value->size = (size_t)(end - value->data);
}

/* To what follows the bracket that opens, or a comma. */
static void next_skip(struct json_walk *walk, char open) {
  space_skip(walk);
  if (walk->at < walk->end && (*walk->at == open || *walk->at == ','))
    walk->at++;
  space_skip(walk);
}

bool json_next_element(struct json_walk *walk, struct json_slice *value) {
  const char *from = walk->at;
  next_skip(walk, '[');
  if (walk->at == from || walk->at >= walk->end || *walk->at == ']')
    return false;
  value_take(walk, value);
  return true;
}

bool json_next(struct json_walk *walk, struct json_slice *key,
               struct json_slice *value) {
  next_skip(walk, '{');
  if (walk->at >= walk->end || *walk->at != '"') return false;
  key->data = walk->at + 1;
  string_skip(walk);
  key->size = (size_t)(walk->at - key->data - 1);
  space_skip(walk);
  walk->at++; /* the colon */
  value_take(walk, value);
  return true;
}

char json_kind(const char *data, size_t size) {
  struct json_walk walk = {data, data + size};
  space_skip(&walk);
  return walk.at < walk.end ? *walk.at : 0;
}

void json_minify(struct text *text, const char *data, size_t size) {
  struct json_walk walk = {data, data + size};
  while (walk.at < walk.end) {
    space_skip(&walk);
    const char *from = walk.at;
    while (walk.at < walk.end && !json_space(*walk.at)) {
      if (*walk.at == '"')
        string_skip(&walk);
      else
        walk.at++;
    }
    utf8_append(text, from, (size_t)(walk.at - from));
  }
}

/* Append the character at `data`, which must be escaped in a string. */
static void escape_append(struct text *text, unsigned char c) {
  static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
  const char *found = c ? strchr(plain, c) : NULL;
  if (found)
    text_format(text, "\\%c", letters[found - plain]);
  else
    text_format(text, "\\u%04x", c);
}

/* How many bytes from `data` on need no escape and are UTF-8. */
static size_t plain_size(const char *data, size_t size) {
  size_t plain = 0;
  while (plain < size) {
    unsigned char c = (unsigned char)data[plain];
    if (c < 0x20 || c == '"' || c == '\\' || c == 0x7F) break;
    size_t length = c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    if (length > size - plain || !utf8_valid(data + plain, length)) break;
    plain += length;
  }
  return plain;
}

void json_quote(struct text *text, const char *data, size_t size) {
  text_append(text, "\"", 1);
  for (size_t i = 0; i < size;) {
    size_t plain = plain_size(data + i, size - i);
    text_append(text, data + i, plain);
    i += plain;
    if (i >= size) break;
    if ((unsigned char)data[i] < 0x80)
      escape_append(text, (unsigned char)data[i]);
    else
      utf8_append(text, data + i, 1);
    i++;
  }
  text_append(text, "\"", 1);
}
