/* SPDX-License-Identifier: MIT */
/*
** provider.c: which SQLite library is in use. The core calls SQLite through an
** sqlite3_api_routines table only; each handle has a pointer to the one it
** uses, so that several libraries can be in use in one process, on different
** files. A library hands its table to the entry point of an extension
** (sqlite.org/loadext.html).
**
** Some builds leave entries of the table empty, and old ones have a shorter
** table: what is used is named here, and nothing else may be.
*/
#include "internal.h"

#include <sqlite3ext.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SQLITE_OLDEST 3038000

struct dibs_provider {
  struct dibs_provider *next;
  const struct sqlite3_api_routines *api;
};

/* Entries of the table that the core uses, all of them older than 3.38. */
#define PROVIDER_ENTRIES(X)                                                    \
  X(bind_blob64)                                                               \
  X(bind_double)                                                               \
  X(bind_int64)                                                                \
  X(bind_null)                                                                 \
  X(bind_text64)                                                               \
  X(busy_handler)                                                              \
  X(changes)                                                                   \
  X(clear_bindings)                                                            \
  X(close_v2)                                                                  \
  X(column_blob)                                                               \
  X(column_bytes)                                                              \
  X(column_double)                                                             \
  X(column_int64)                                                              \
  X(column_text)                                                               \
  X(column_type)                                                               \
  X(create_function_v2)                                                        \
  X(create_module_v2)                                                          \
  X(db_config)                                                                 \
  X(db_filename)                                                               \
  X(db_mutex)                                                                  \
  X(db_readonly)                                                               \
  X(declare_vtab)                                                              \
  X(errmsg)                                                                    \
  X(exec)                                                                      \
  X(extended_errcode)                                                          \
  X(file_control)                                                              \
  X(finalize)                                                                  \
  X(free)                                                                      \
  X(get_autocommit)                                                            \
  X(last_insert_rowid)                                                         \
  X(libversion)                                                                \
  X(libversion_number)                                                         \
  X(limit)                                                                     \
  X(log)                                                                       \
  X(mprintf)                                                                   \
  X(open_v2)                                                                   \
  X(prepare_v2)                                                                \
  X(prepare_v3)                                                                \
  X(reset)                                                                     \
  X(result_blob64)                                                             \
  X(result_error)                                                              \
  X(result_error_code)                                                         \
  X(result_int64)                                                              \
  X(result_subtype)                                                            \
  X(result_text64)                                                             \
  X(set_last_insert_rowid)                                                     \
  X(step)                                                                      \
  X(stmt_readonly)                                                             \
  X(system_errno)                                                              \
  X(total_changes)                                                             \
  X(txn_state)                                                                 \
  X(user_data)                                                                 \
  X(value_blob)                                                                \
  X(value_bytes)                                                               \
  X(value_int64)                                                               \
  X(value_double)                                                              \
  X(value_text)                                                                \
  X(value_type)                                                                \
  X(vfs_find)                                                                  \
  X(vtab_config)                                                               \
  X(wal_hook)

/* The same, but empty in a library that was built for one thread. */
#define PROVIDER_THREAD_ENTRIES(X)                                             \
  X(mutex_enter)                                                               \
  X(mutex_leave)                                                               \
  X(mutex_try)

static pthread_mutex_t provider_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct dibs_provider *providers;

static int provider_refuse(char message[DIBS_MESSAGE_SIZE], int status,
                           const char *format, ...) DIBS_PRINTF(3, 4);

static int provider_refuse(char message[DIBS_MESSAGE_SIZE], int status,
                           const char *format, ...) {
  va_list arguments;
  if (!message) return status;
  va_start(arguments, format);
  message_format(message, DIBS_MESSAGE_SIZE, format, arguments);
  va_end(arguments);
  return status;
}

static int provider_nomem(char message[DIBS_MESSAGE_SIZE]) {
  return provider_refuse(message, DIBS_NOMEM,
                         "out of memory: close something and try again");
}

/* Where in the table they are. They are pointers to functions of many types, of
** one size. */
static const struct entry {
  const char *name;
  size_t offset;
} entries[] = {
#define PROVIDER_ENTRY(name)                                                   \
  {"sqlite3_" #name, offsetof(struct sqlite3_api_routines, name)},
    PROVIDER_ENTRIES(PROVIDER_ENTRY)
#undef PROVIDER_ENTRY
};

/* The name of an entry that is missing, or NULL. */
static const char *entry_missing(const struct sqlite3_api_routines *api) {
  for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
    void *entry;
    memcpy(&entry, (const char *)api + entries[i].offset, sizeof entry);
    if (!entry) return entries[i].name;
  }
  return NULL;
}

/* The first entries are as old as extensions are; the version tells whether the
** table reaches to the last. */
static int table_check(const struct sqlite3_api_routines *api,
                       char message[DIBS_MESSAGE_SIZE]) {
  if (!api || !api->libversion_number || !api->libversion)
    return provider_refuse(message, DIBS_LIBRARY,
                           "that is not the API table of an SQLite library: "
                           "give the one that it hands to an extension");
  const char *version = api->libversion();
  if (api->libversion_number() < SQLITE_OLDEST)
    return provider_refuse(message, DIBS_LIBRARY,
                           "SQLite %s is too old: dibs needs 3.38 or newer",
                           version);
  const char *entry = entry_missing(api);
  if (entry)
    return provider_refuse(message, DIBS_LIBRARY,
                           "this build of SQLite %s lacks %s: use one "
                           "that has it",
                           version, entry);
  return DIBS_OK;
}

/* Providers live as long as the process, as the libraries do. */
static int provider_find(const struct sqlite3_api_routines *api,
                         const dibs_provider **out,
                         char message[DIBS_MESSAGE_SIZE]) {
  struct dibs_provider *provider = providers;
  while (provider && provider->api != api) provider = provider->next;
  if (!provider) {
    int status = table_check(api, message);
    if (status) return status;
    provider = calloc(1, sizeof *provider);
    if (!provider) return provider_nomem(message);
    provider->api = api;
    provider->next = providers;
    providers = provider;
  }
  *out = provider;
  return DIBS_OK;
}

int dibs_provider_get(const struct sqlite3_api_routines *api,
                      const dibs_provider **out,
                      char message[DIBS_MESSAGE_SIZE]) {
  if (!out) return DIBS_MISUSE;
  *out = NULL;
  pthread_mutex_lock(&provider_mutex);
  int status = provider_find(api, out, message);
  pthread_mutex_unlock(&provider_mutex);
  return status;
}

const struct sqlite3_api_routines *provider_api(const dibs_provider *provider) {
  return provider->api;
}

bool provider_has_threads(const struct sqlite3_api_routines *api) {
#define PROVIDER_ENTRY_IS_THERE(name) &&api->name
  return true PROVIDER_THREAD_ENTRIES(PROVIDER_ENTRY_IS_THERE);
#undef PROVIDER_ENTRY_IS_THERE
}

int dibs_provider_linked(const dibs_provider **out,
                         char message[DIBS_MESSAGE_SIZE]) {
  const struct sqlite3_api_routines *api;
  if (!out) return DIBS_MISUSE;
  *out = NULL;
  switch (linked_table(&api)) {
  case DIBS_OK: return dibs_provider_get(api, out, message);
  case DIBS_NOMEM: return provider_nomem(message);
  }
  return provider_refuse(message, DIBS_LIBRARY,
                         "no SQLite library has been handed over: see "
                         "dibs_provider_get()");
}
