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

static struct log_entry *entry_add(dibs_db *db) {
  struct log_entry *entry = calloc(1, sizeof *entry);
  if (!entry) return NULL;
  if (db->log_last)
    db->log_last->next = entry;
  else
    db->log_first = entry;
  db->log_last = entry;
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
  while (db->log_first) {
    struct log_entry *next = db->log_first->next;
    free(db->log_first);
    db->log_first = next;
  }
  db->log_last = NULL;
}

void log_flush(dibs_db *db) {
  for (struct log_entry *entry = db->log_first; entry; entry = entry->next) {
    const dibs_log_event event = {.level = entry->level,
                                  .event = entry->event,
                                  .id = entry->id,
                                  .queue = *entry->queue ? entry->queue : NULL,
                                  .message = entry->message};
    db->log(db->log_context, &event);
  }
  log_forget(db);
}
