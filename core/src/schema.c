/* SPDX-License-Identifier: MIT */
/*
** schema.c: making, checking and migrating the tables. The SQL of each version
** stands in schema/; the build embeds it. schema/README.md has the rules.
**
** dibs_meta holds two numbers: the version of the tables, and the oldest
** version that may still write to them. A file whose tables are newer than
** this program is used as long as this program may write to them, and left
** alone otherwise.
*/
#include "internal.h"

#include "dibs_schema_1.h"

enum found {
  FOUND_NOTHING, /* no table at all */
  FOUND_OTHERS,  /* tables, none of ours */
  FOUND_FOREIGN, /* tables of our names that are not ours */
  FOUND_OURS
};

static enum found tables_find(dibs_db *db) {
  sqlite3_stmt *row = sql_first(db, SQL_TABLES, SQL_NONE);
  if (!row) return FOUND_NOTHING;
  int64_t all = sql_column_int(db, row, 0);
  int64_t prefixed = sql_column_int(db, row, 1);
  int64_t meta = sql_column_int(db, row, 2);
  sql_reset(db, row);
  if (meta) return FOUND_OURS;
  if (prefixed) return FOUND_FOREIGN;
  return all ? FOUND_OTHERS : FOUND_NOTHING;
}

static int64_t meta_get(dibs_db *db, const char *key) {
  return sql_get(db, SQL_META, SQL_ARGS(sql_text(key)), 0);
}

static void version_check(dibs_db *db) {
  int64_t schema = meta_get(db, "schema");
  int64_t writer = meta_get(db, "oldest_writer");
  if (db->status) return;
  if (schema < 1)
    handle_fail(db, DIBS_SCHEMA,
                "%s has a table dibs_meta without a schema "
                "version: it is no dibs database",
                db->path);
  else if (writer > DIBS_SCHEMA_VERSION)
    handle_fail(db, DIBS_SCHEMA,
                "%s has tables of version %lld, and this dibs (%s) knows "
                "version %d: upgrade dibs",
                db->path, (long long)schema, DIBS_VERSION, DIBS_SCHEMA_VERSION);
  else
    db->schema = (int)schema;
}

void schema_look(dibs_db *db, int create) {
  enum found found = tables_find(db);
  if (db->status) return;
  if (found == FOUND_OURS)
    version_check(db);
  else if (found == FOUND_FOREIGN)
    handle_fail(db, DIBS_SCHEMA,
                "%s has tables named dibs_ that are not those "
                "of dibs: use another file",
                db->path);
  else if (create == DIBS_CREATE_NONE ||
           (create == DIBS_CREATE_FILE && found == FOUND_OTHERS))
    handle_fail(db, DIBS_SCHEMA,
                "%s has no dibs tables: make them with dibs "
                "init",
                db->path);
}

/* Another process may have made them since we looked. */
void schema_make(dibs_db *db) {
  if (db->schema) return;
  sql_begin_write(db);
  if (tables_find(db) != FOUND_OURS) {
    sql_script(db, dibs_schema_1);
    db->created = !db->status;
    log_job(db, DIBS_LEVEL_OK, "created", 0, 0, "made the tables in %s",
            db->path);
  }
  sql_end(db);
  version_check(db);
}
