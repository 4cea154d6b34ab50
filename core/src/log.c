/* SPDX-License-Identifier: MIT */
/*
** log.c: telling the host what happened to jobs without anybody asking, or what
** ended them. Entries are noted within the transaction and told once it is
** committed; those of a transaction that is rolled back are forgotten.
*/
#include "internal.h"

#include <stdlib.h>
#include <string.h>

struct log_entry {
  struct log_entry *next;
  int level;
  const char *event; /* a literal */
  int64_t id;
  char queue[KEY_SIZE];
  char message[240];
};

void log_join(struct log_list *list, struct log_list *from) {
  if (!from->first) return;
  if (list->last)
    list->last->next = from->first;
  else
    list->first = from->first;
  list->last = from->last;
  list->count += from->count;
  *from = (struct log_list){.count = 0};
}

void log_cut(struct log_list *list, int count) {
  struct log_list keep = {.count = 0};
  while (list->first) {
    struct log_entry *entry = list->first;
    struct log_list one = {entry, entry, 1};
    list->first = entry->next;
    entry->next = NULL;
    if (keep.count < count)
      log_join(&keep, &one);
    else
      free(entry);
  }
  *list = keep;
}

static struct log_entry *entry_add(dibs_db *db) {
  struct log_entry *entry = calloc(1, sizeof *entry);
  struct log_list one = {entry, entry, 1};
  if (entry) log_join(&db->noted, &one);
  return entry;
}

static void queue_name(dibs_db *db, int64_t queue_id, char name[KEY_SIZE]) {
  name[0] = 0;
  if (!queue_id) return;
  sqlite3_stmt *row =
      sql_first(db, SQL_QUEUE_NAME, SQL_ARGS(sql_int(queue_id)));
  if (!row) return;
  sql_column_key(db, row, 0, name);
  sql_reset(db, row);
}

void log_job(dibs_db *db, int level, const char *event, int64_t id,
             int64_t queue_id, const char *format, ...) {
  va_list arguments;
  if (!db->log || db->status) return;
  struct log_entry *entry = entry_add(db);
  if (!entry) return;
  entry->level = level;
  entry->event = event;
  entry->id = id;
  queue_name(db, queue_id, entry->queue);
  va_start(arguments, format);
  message_format(entry->message, sizeof entry->message, format, arguments);
  va_end(arguments);
}

void log_forget(dibs_db *db) {
  log_cut(&db->noted, 0);
}

void log_tell(dibs_db *db, struct log_list *list) {
  for (struct log_entry *entry = list->first; entry; entry = entry->next) {
    const dibs_log_event event = {.level = entry->level,
                                  .event = entry->event,
                                  .id = entry->id,
                                  .queue = *entry->queue ? entry->queue : NULL,
                                  .message = entry->message};
    db->log(db->log_context, &event);
  }
  log_cut(list, 0);
}

void log_flush(dibs_db *db) {
  log_tell(db, &db->noted);
}
