/* SPDX-License-Identifier: MIT */
/*
** test_provider.c: which SQLite libraries are taken, what is said of those that
** are not, and whose file it is. With two real libraries: test_libraries.c.
*/
#include "faults.h"
#include "harness.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SQLITE_CORE /* the struct of the API table alone, not its macros */
#include <sqlite3ext.h>

/* ---- Tables ---------------------------------------------------------------- */

static const sqlite3_api_routines *real_table;

static int table_entry(sqlite3 *db, char **message,
                       const sqlite3_api_routines *api) {
  (void)db;
  (void)message;
  real_table = api;
  return SQLITE_OK;
}

static const sqlite3_api_routines *table(void) {
  union {
    int (*typed)(sqlite3 *, char **, const sqlite3_api_routines *);
    void (*plain)(void);
  } entry = {table_entry};
  sqlite3 *db = NULL;
  if (real_table) return real_table;
  sqlite3_auto_extension(entry.plain);
  sqlite3_open(":memory:", &db);
  sqlite3_close(db);
  sqlite3_cancel_auto_extension(entry.plain);
  return real_table;
}

static int number_3037(void) {
  return 3037002;
}

static const char *text_3037(void) {
  return "3.37.2";
}

/* ---- Taken ------------------------------------------------------------------ */

/* The first test: once the linked library has told its table, it is known. */
static void without_memory_it_says_so(void **state) {
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  int starved = 0;
  for (int64_t n = 1;; n++) {
    char message[DIBS_MESSAGE_SIZE] = "?";
    const dibs_provider *provider = NULL;
    faults_memory_arm(n, 1);
    int status = dibs_provider_linked(&provider, message);
    faults_memory_disarm(NULL);
    if (status == DIBS_OK) break;
    expect_int(status, DIBS_NOMEM);
    expect_says(message, "memory");
    expect_true(provider == NULL);
    starved++;
  }
  expect_true(starved > 0);
  expect_ok(f->db, dibs_open(f->path, &options, &f->db));
}

static void one_table_gives_one_provider(void **state) {
  const dibs_provider *first = NULL, *second = NULL, *linked = NULL;
  (void)state;
  expect_int(dibs_provider_get(table(), &first, NULL), DIBS_OK);
  expect_int(dibs_provider_get(table(), &second, NULL), DIBS_OK);
  expect_int(dibs_provider_linked(&linked, NULL), DIBS_OK);
  expect_true(first != NULL && first == second && first == linked);
  expect_int(dibs_provider_get(table(), NULL, NULL), DIBS_MISUSE);
  expect_int(dibs_provider_linked(NULL, NULL), DIBS_MISUSE);
}

static const dibs_provider *seen_providers[8];

static void *ask(void *context) {
  dibs_provider_get(real_table, context, NULL);
  return NULL;
}

static void in_any_thread(void **state) {
  pthread_t threads[COUNT(seen_providers)];
  (void)state;
  table();
  for (size_t i = 0; i < COUNT(threads); i++)
    expect_int(pthread_create(&threads[i], NULL, ask, &seen_providers[i]), 0);
  for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
  for (size_t i = 0; i < COUNT(threads); i++)
    expect_true(seen_providers[i] && seen_providers[i] == seen_providers[0]);
}

/* ---- Refused ---------------------------------------------------------------- */

/* What is said of a table, which has to be refused. */
static const char *refusal(const sqlite3_api_routines *api) {
  static char message[DIBS_MESSAGE_SIZE];
  const dibs_provider *provider = (const dibs_provider *)&message;
  message[0] = '\0';
  expect_int(dibs_provider_get(api, &provider, message), DIBS_LIBRARY);
  expect_int(dibs_provider_get(api, &provider, NULL), DIBS_LIBRARY);
  expect_true(provider == NULL);
  return message;
}

static void no_table_is_refused(void **state) {
  static const sqlite3_api_routines empty;
  (void)state;
  expect_says(refusal(NULL), "not the API table");
  expect_says(refusal(&empty), "not the API table");
}

/* An old library's table is shorter: what lies behind it is not looked at. */
static void an_old_library_is_refused(void **state) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t size = offsetof(sqlite3_api_routines, db_name);
  char *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  (void)state;
  expect_true(memory != MAP_FAILED && size < page);
  char *at = memory + page - size;
  sqlite3_api_routines *old = (sqlite3_api_routines *)(void *)at;
  memcpy(old, table(), size);
  old->libversion_number = number_3037;
  old->libversion = text_3037;
  expect_int(mprotect(memory + page, page, PROT_NONE), 0);
  const char *message = refusal(old);
  expect_says(message, "3.37.2");
  expect_says(message, "3.38");
  munmap(memory, 2 * page);
}

/* Entries early and late in the table, and what has the highest demands. */
static void a_missing_entry_is_named(void **state) {
#define ENTRY(name)                                                            \
  { #name, offsetof(sqlite3_api_routines, name) }
  static const struct {
    const char *name;
    size_t offset;
  } entries[] = {
      ENTRY(finalize), ENTRY(column_text), ENTRY(create_module_v2),
      ENTRY(open_v2),  ENTRY(bind_blob64), ENTRY(set_last_insert_rowid),
      ENTRY(wal_hook), ENTRY(prepare_v3),  ENTRY(db_filename),
      ENTRY(db_mutex), ENTRY(vtab_config), ENTRY(txn_state),
  };
  sqlite3_api_routines lacking;
  char name[64];
  (void)state;
  for (size_t i = 0; i < COUNT(entries); i++) {
    lacking = *table();
    memset((char *)&lacking + entries[i].offset, 0, sizeof(void *));
    const char *message = refusal(&lacking);
    snprintf(name, sizeof name, "sqlite3_%s:", entries[i].name);
    expect_says(message, name);
    expect_says(message, sqlite3_libversion());
  }
}

/* It has no mutexes. A host that uses it has one thread to be attached to on;
** our own connections go to any. */
static void one_for_a_single_thread_can_be_attached_to(void **state) {
  static sqlite3_api_routines single;
  fixture *f = *state;
  dibs_open_options options = fixture_options(f);
  sqlite3 *host = plain_open(f->path);
  dibs_db *db = NULL;
  single = *table();
  single.mutex_enter = NULL;
  single.mutex_leave = NULL;
  single.mutex_try = NULL;
  expect_ok(NULL, dibs_provider_get(&single, &options.provider, NULL));
  expect_ok(db, dibs_attach(host, options.provider, &options, &db));
  expect_ok(db, dibs_enqueue(db, "q", dibs_none(), NULL, NULL));
  expect_int(sqlite3_close(host), SQLITE_OK);
  expect_int(dibs_close(db), DIBS_OK);
  expect_status(f->db, dibs_open(f->path, &options, &f->db), DIBS_LIBRARY);
  expect_says(dibs_error(f->db), "SQLITE_THREADSAFE");
  expect_says(dibs_error(f->db), sqlite3_libversion());
  expect_says(dibs_error(f->db), "dibs_attach()");
  expect_int(dibs_close(f->db), DIBS_OK);
  f->db = NULL;
}

/* ---- Whose file it is -------------------------------------------------------- */

static int open_both(const char *folder) {
  static const char *const names[] = {"a", "b"};
  dibs_db *handles[2] = {NULL, NULL};
  ino_t inodes[2];
  char path[160];
  struct stat status;
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    if (mkdir(path, 0700) || mount("tmpfs", path, "tmpfs", 0, NULL))
      return MOUNTS_REFUSED;
    snprintf(path, sizeof path, "%s/%s/x.db", folder, names[i]);
    if (dibs_open(path, NULL, &handles[i]) || dibs_close(handles[i])) return 1;
  }
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s/x.db", folder, names[i]);
    if (dibs_open(path, NULL, &handles[i])) {
      print_error("%s\n", dibs_error(handles[i]));
      return 1;
    }
    snprintf(path, sizeof path, "%s/%s/x.db-shm", folder, names[i]);
    if (stat(path, &status)) return 2;
    inodes[i] = status.st_ino;
  }
  for (int i = 0; i < 2; i++)
    if (dibs_close(handles[i])) return 3;
  return inodes[0] == inodes[1] ? 0 : 4;
}

/* New file systems number their files alike. */
static void files_of_one_number_on_two_file_systems(void **state) {
  run_with_mounts(*state, open_both);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST_CLOSED(without_memory_it_says_so),
      TEST_CLOSED(one_table_gives_one_provider),
      TEST_CLOSED(in_any_thread),
      TEST_CLOSED(no_table_is_refused),
      TEST_CLOSED(an_old_library_is_refused),
      TEST_CLOSED(a_missing_entry_is_named),
      TEST_CLOSED(one_for_a_single_thread_can_be_attached_to),
      TEST_CLOSED(files_of_one_number_on_two_file_systems),
  };
  faults_memory_install();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
