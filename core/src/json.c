/* SPDX-License-Identifier: MIT */
/*
** json.c: what is done with JSON outside of SQLite. Whether a text is JSON,
** SQLite decides (json_valid); what stands here walks through text that is
** known to be valid, so that members can be kept exactly as they were given,
** which SQLite's functions do not: they normalise.
*/
#include "internal.h"

#include <string.h>

static bool json_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void space_skip(struct json_walk *walk) {
  while (walk->at < walk->end && json_space(*walk->at)) walk->at++;
}

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

bool json_next(struct json_walk *walk, struct json_slice *key,
               struct json_slice *value) {
  space_skip(walk);
  if (walk->at < walk->end && (*walk->at == '{' || *walk->at == ','))
    walk->at++;
  space_skip(walk);
  if (walk->at >= walk->end || *walk->at != '"') return false;
  key->data = walk->at + 1;
  string_skip(walk);
  key->size = (size_t)(walk->at - key->data - 1);
  space_skip(walk);
  walk->at++; /* the colon */
  space_skip(walk);
  value->data = walk->at;
  value_skip(walk);
  const char *end = walk->at;
  while (end > value->data && json_space(end[-1])) end--;
  value->size = (size_t)(end - value->data);
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
    text_append(text, from, (size_t)(walk.at - from));
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
      text_string(text, "\xEF\xBF\xBD"); /* U+FFFD */
    i++;
  }
  text_append(text, "\"", 1);
}
