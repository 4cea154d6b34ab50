/* SPDX-License-Identifier: MIT */
/*
** table.c: aligned tables for people.
**
** Cells are escaped when they are added, and kept with the columns that they
** take; printing then needs only padding. The last column is clipped, so that
** a long payload does not break the lines of a terminal.
*/
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "output.h"

#define CELL_LIMIT 1000 /* characters that are kept of a cell at most */
#define COLUMN_GAP 2
#define LAST_LEAST 20 /* columns that the last one has at least */

struct cell {
  char *text; /* escaped; owned */
  size_t columns;
  enum colour colour;
};

struct table {
  const char *const *heads;
  size_t head_count;
  struct cell *cells;
  size_t count;
  size_t room;
  int failed; /* memory ran out: what is there is printed */
};

struct table *table_new(const char *const *heads, size_t count) {
  struct table *table = calloc(1, sizeof *table);
  if (table == NULL) return NULL;
  table->heads = heads;
  table->head_count = count;
  return table;
}

/* A new empty cell, or NULL. */
static struct cell *table_add(struct table *table) {
  if (table == NULL || table->failed) return NULL;
  if (table->count == table->room) {
    size_t room = table->room ? table->room * 2 : 64;
    struct cell *cells = realloc(table->cells, room * sizeof *cells);
    if (cells == NULL) return table->failed = 1, NULL;
    table->cells = cells;
    table->room = room;
  }
  return memset(&table->cells[table->count++], 0, sizeof *table->cells);
}

void table_bytes(struct table *table, const void *data, size_t size,
                 enum colour colour) {
  struct cell *cell = table_add(table);
  size_t written = 0;
  FILE *memory = cell ? open_memstream(&cell->text, &written) : NULL;
  if (memory == NULL) return;
  cell->columns = print_escaped(memory, data, size, CELL_LIMIT);
  cell->colour = colour;
  (void)fclose(memory);
}

void table_text(struct table *table, const char *text, enum colour colour) {
  if (text == NULL) text = "";
  table_bytes(table, text, strlen(text), colour);
}

void table_number(struct table *table, int64_t number, enum colour colour) {
  char text[24];
  (void)snprintf(text, sizeof text, "%" PRId64, number);
  table_text(table, text, colour);
}

static int head_is_right(const struct table *table, size_t column) {
  return table->heads[column][0] == '>';
}

static const char *head_text(const struct table *table, size_t column) {
  return table->heads[column] + head_is_right(table, column);
}

/* The columns that a column takes. */
static size_t column_width(const struct table *table, size_t column) {
  size_t width = strlen(head_text(table, column));
  for (size_t i = column; i < table->count; i += table->head_count) {
    if (table->cells[i].columns > width) width = table->cells[i].columns;
  }
  return width;
}

static void print_spaces(FILE *file, size_t count) {
  while (count-- > 0) (void)fputc(' ', file);
}

/* Write the first `limit` characters of an escaped text, "..." included. */
static void print_clipped(FILE *file, const char *text, size_t columns,
                          size_t limit) {
  if (columns <= limit) {
    (void)fputs(text, file);
    return;
  }
  (void)print_escaped(file, text, strlen(text), limit > 3 ? limit - 3 : 1);
}

/* Print one cell; the last column is clipped to `room`. */
static void print_cell(FILE *file, const struct cell *cell, int right,
                       size_t width, size_t room) {
  size_t padding = width > cell->columns ? width - cell->columns : 0;
  if (right) print_spaces(file, padding);
  (void)fputs(colour_begin(file, cell->colour), file);
  print_clipped(file, cell->text ? cell->text : "", cell->columns, room);
  if (cell->colour != COLOUR_NONE) (void)fputs(colour_end(file), file);
}

/* The width of the terminal; without one, as good as endless. */
static size_t file_width(FILE *file) {
  struct winsize size;
  if (isatty(fileno(file)) && ioctl(fileno(file), TIOCGWINSZ, &size) == 0 &&
      size.ws_col > 0)
    return size.ws_col;
  return SIZE_MAX;
}

/* How many cells of a row there are up to the last that holds something: no
** line ends in spaces. */
static size_t row_length(const struct cell *cells, size_t count) {
  while (count > 1 && cells[count - 1].columns == 0) count--;
  return count;
}

static void print_row(const struct table *table, FILE *file,
                      const struct cell *cells, const size_t *widths,
                      size_t room) {
  size_t length = row_length(cells, table->head_count);
  for (size_t column = 0; column < length; column++) {
    const struct cell *cell = &cells[column];
    int right = head_is_right(table, column);
    int last = column + 1 == table->head_count;
    print_cell(file, cell, right, widths[column], last ? room : SIZE_MAX);
    if (column + 1 == length) break;
    size_t padding = right ? 0 : widths[column] - cell->columns;
    print_spaces(file, padding + COLUMN_GAP);
  }
  (void)fputc('\n', file);
}

static void print_heads(const struct table *table, FILE *file,
                        struct cell *cells, const size_t *widths) {
  for (size_t column = 0; column < table->head_count; column++) {
    cells[column].text = (char *)(uintptr_t)head_text(table, column);
    cells[column].columns = strlen(cells[column].text);
    cells[column].colour = COLOUR_BOLD;
  }
  print_row(table, file, cells, widths, SIZE_MAX);
}

static void table_free(struct table *table) {
  for (size_t i = 0; i < table->count; i++) free(table->cells[i].text);
  free(table->cells);
  free(table);
}

void table_print(struct table *table, FILE *file, size_t width) {
  if (table == NULL) return;
  size_t count = table->head_count;
  size_t *widths = calloc(count, sizeof *widths);
  struct cell *heads = calloc(count, sizeof *heads);
  if (widths && heads && table->count > 0) {
    size_t before = 0;
    for (size_t i = 0; i < count; i++) {
      widths[i] = column_width(table, i);
      if (i + 1 < count) before += widths[i] + COLUMN_GAP;
    }
    if (width == 0) width = file_width(file);
    size_t room = width > before + LAST_LEAST ? width - before : LAST_LEAST;
    print_heads(table, file, heads, widths);
    for (size_t i = 0; i + count <= table->count; i += count)
      print_row(table, file, &table->cells[i], widths, room);
  }
  free(widths);
  free(heads);
  table_free(table);
}
