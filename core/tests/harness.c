/* SPDX-License-Identifier: MIT */
/*
** harness.c: fixtures, the library's connections under watch, the rules that
** a database must keep, and expectations. harness.h says what each does.
**
** Connections are watched from within SQLite: an auto extension meets each one
** as it is opened, and a trace callback as it is closed, when no statement of
** it may be left. Those that the harness opens itself are not counted.
*/
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- Connections under watch --------------------------------------------- */

static _Atomic int connections;     /* open now */
static _Atomic int statements_left; /* found at a close, ever */
static _Thread_local int uncounted; /* nonzero: the harness is opening */
static void (*statement_callback)(const char *);
static int steps_wanted;
static _Atomic int64_t steps; /* of SQLite's machine */

static int traced(unsigned what, void *context, void *object, void *text) {
  sqlite3_stmt *statement = NULL;
  (void)context;
  if (what == SQLITE_TRACE_PROFILE) {
    steps += sqlite3_stmt_status(object, SQLITE_STMTSTATUS_VM_STEP, 1);
    return 0;
  }
  if (what == SQLITE_TRACE_STMT) {
    if (statement_callback) statement_callback(text);
    return 0;
  }
  statement = sqlite3_next_stmt(object, NULL);
  if (statement == NULL) {
    connections--;
    return 0;
  }
  for (; statement; statement = sqlite3_next_stmt(object, statement)) {
    print_error("left unfinalized at close: %s\n", sqlite3_sql(statement));
    statements_left++;
  }
  return 0;
}

static int connection_opened(sqlite3 *db, char **message,
                             const struct sqlite3_api_routines *api) {
  unsigned mask = SQLITE_TRACE_CLOSE;
  (void)message;
  (void)api;
  if (uncounted) return SQLITE_OK;
  connections++;
  if (statement_callback) mask |= SQLITE_TRACE_STMT;
  if (steps_wanted) mask |= SQLITE_TRACE_PROFILE;
  return sqlite3_trace_v2(db, mask, traced, NULL);
}

static void watch_connections(void) {
  union {
    int (*typed)(sqlite3 *, char **, const struct sqlite3_api_routines *);
    void (*plain)(void);
  } entry = {connection_opened};
  sqlite3_auto_extension(entry.plain);
}

int connections_open(void) {
  return connections;
}

void on_statement(void (*callback)(const char *sql)) {
  watch_connections();
  statement_callback = callback;
}

void steps_watch(fixture *f) {
  steps_wanted = 1;
  reopen(f);
  steps_wanted = 0;
  steps = 0;
}

int64_t steps_taken(void) {
  return atomic_exchange(&steps, 0);
}

/* ---- Surroundings -------------------------------------------------------- */

int64_t environment_number(const char *name, int64_t otherwise) {
  const char *text = getenv(name);
  return text && *text ? strtoll(text, NULL, 10) : otherwise;
}

int slowness(void) {
  int built = 1;
#if defined(__SANITIZE_ADDRESS__)
  built = 4;
#elif defined(__SANITIZE_THREAD__)
  built = 8;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
  built = 8;
#endif
#endif
  return (int)environment_number("DIBS_TEST_SLOWNESS", built);
}

static int count_descriptors(void) {
  DIR *folder = opendir("/proc/self/fd");
  int count = 0;
  if (folder == NULL) return 0;
  while (readdir(folder)) count++;
  closedir(folder);
  return count;
}

static void remove_folder(const char *path) {
  DIR *folder = opendir(path);
  struct dirent *entry;
  char name[512];
  if (folder == NULL) return;
  while ((entry = readdir(folder)) != NULL) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
      continue;
    }
    snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
    if (unlink(name) != 0) remove_folder(name);
  }
  closedir(folder);
  rmdir(path);
}

/* Where test files go: TMPDIR, else memory, where there is some. */
static const char *scratch(void) {
  const char *chosen = getenv("TMPDIR");
  if (chosen && *chosen) return chosen;
  return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}

/* ---- The fixture --------------------------------------------------------- */

int64_t fixture_clock(void *context) {
  return ((fixture *)context)->now;
}

dibs_open_options fixture_options(fixture *f) {
  dibs_open_options options = DIBS_OPEN_OPTIONS_INIT;
  options.synchronous = DIBS_SYNCHRONOUS_NORMAL;
  options.clock = fixture_clock;
  options.clock_context = f;
  return options;
}

int fixture_make(fixture *f) {
  memset(f, 0, sizeof *f);
  watch_connections();
  connections = 0;
  statements_left = 0;
  f->now = START;
  f->descriptors = count_descriptors();
  snprintf(f->folder, sizeof f->folder, "%.60s/dibs-test-XXXXXX", scratch());
  if (mkdtemp(f->folder) == NULL) {
    print_error("no folder %s: %s\n", f->folder, strerror(errno));
    return -1;
  }
  snprintf(f->path, sizeof f->path, "%s/test.db", f->folder);
  return 0;
}

static int fixture_open(fixture *f, const char *path) {
  dibs_open_options options = fixture_options(f);
  int status = dibs_open(path, &options, &f->db);
  if (status == DIBS_OK) return 0;
  print_error("open: %s: %s\n", dibs_status_name(status), dibs_error(f->db));
  return -1;
}

int fixture_setup_closed(void **state) {
  fixture *f = malloc(sizeof *f);
  if (f == NULL || fixture_make(f) != 0) return -1;
  *state = f;
  return 0;
}

int fixture_setup(void **state) {
  if (fixture_setup_closed(state) != 0) return -1;
  return fixture_open(*state, ((fixture *)*state)->path);
}

int fixture_setup_memory(void **state) {
  if (fixture_setup_closed(state) != 0) return -1;
  return fixture_open(*state, ":memory:");
}

/* Close the handle and say what is left of it: 0, or -1 and a message. */
static int close_and_look(fixture *f) {
  int result = 0;
  int status = dibs_close(f->db);
  int descriptors = count_descriptors();
  f->db = NULL;
  if (status != DIBS_OK) {
    print_error("close gave %s\n", dibs_status_name(status));
    result = -1;
  }
  if (connections != 0) {
    print_error("%d connections left open\n", (int)connections);
    result = -1;
  }
  if (statements_left != 0) result = -1;
  if (descriptors != f->descriptors) {
    print_error("%d descriptors open, were %d\n", descriptors, f->descriptors);
    result = -1;
  }
  return result;
}

void close_checked(fixture *f) {
  if (close_and_look(f) != 0) fail_msg("the close left something behind");
}

int fixture_end(fixture *f) {
  int result = close_and_look(f);
  if (access(f->path, F_OK) == 0 && !file_is_sound(f->path)) result = -1;
  remove_folder(f->folder);
  return result;
}

int fixture_teardown(void **state) {
  fixture *f = *state;
  int result = fixture_end(f);
  free(f);
  *state = NULL;
  return result;
}

dibs_db *open_another(fixture *f) {
  dibs_open_options options = fixture_options(f);
  dibs_db *db = NULL;
  expect_ok(db, dibs_open(f->path, &options, &db));
  return db;
}

void reopen(fixture *f) {
  close_checked(f);
  f->db = open_another(f);
}

/* ---- The sidecar --------------------------------------------------------- */

#define COUNTERS 256                        /* where sidecar.c has them */
#define ROLES    (((off_t)1 << 30) + 65536) /* and the monitors' locks */

static int sidecar_open_file(fixture *f) {
  char name[160];
  snprintf(name, sizeof name, "%s-dibs", f->path);
  int fd = open(name, O_RDWR | O_CLOEXEC);
  if (fd < 0) fail_msg("no sidecar %s: %s", name, strerror(errno));
  return fd;
}

uint64_t sidecar_counter(fixture *f, enum sidecar_count which) {
  static const off_t places[] = {0, 8, 24};
  uint64_t value = 0;
  int fd = sidecar_open_file(f);
  ssize_t got = pread(fd, &value, sizeof value, COUNTERS + places[which]);
  close(fd);
  expect_int(got, sizeof value);
  return value;
}

int monitors_stop(fixture *f) {
  struct flock lock = {
      .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = ROLES, .l_len = 2};
  int fd = sidecar_open_file(f);
  expect_int(fcntl(fd, F_OFD_SETLK, &lock), 0);
  return fd;
}

/* ---- The database behind the library's back ------------------------------ */

sqlite3 *plain_open(const char *path) {
  return plain_open_as(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
}

sqlite3 *plain_open_as(const char *path, int flags) {
  sqlite3 *db = NULL;
  int code;
  uncounted = 1;
  code = sqlite3_open_v2(path, &db, flags,
                         flags & SQLITE_OPEN_URI ? NULL : "unix");
  uncounted = 0;
  if (code != SQLITE_OK) {
    print_error("plain open of %s: %s\n", path, sqlite3_errmsg(db));
    sqlite3_close(db);
    return NULL;
  }
  sqlite3_busy_timeout(db, 10000);
  return db;
}

static int run_formatted(fixture *f, char message[512], const char *sql,
                         va_list arguments) {
  char *text = sqlite3_vmprintf(sql, arguments);
  sqlite3 *db = plain_open(f->path);
  int code = SQLITE_CANTOPEN;
  if (db && text) code = sqlite3_exec(db, text, NULL, NULL, NULL);
  if (message) {
    snprintf(message, 512, "%s", db ? sqlite3_errmsg(db) : "no connection");
  }
  sqlite3_close(db);
  sqlite3_free(text);
  return code;
}

int raw_try(fixture *f, char message[512], const char *sql, ...) {
  va_list arguments;
  int code;
  va_start(arguments, sql);
  code = run_formatted(f, message, sql, arguments);
  va_end(arguments);
  return code;
}

void raw_run(fixture *f, const char *sql, ...) {
  va_list arguments;
  char message[512];
  int code;
  va_start(arguments, sql);
  code = run_formatted(f, message, sql, arguments);
  va_end(arguments);
  if (code != SQLITE_OK) fail_msg("%s: %s", sql, message);
}

/* The first column of the first row of a formatted query, as text into
** `value`; nonzero when there was one that was not NULL. */
static int query(fixture *f, char *value, size_t size, const char *sql,
                 va_list arguments) {
  char *text = sqlite3_vmprintf(sql, arguments);
  sqlite3 *db = plain_open(f->path);
  sqlite3_stmt *statement = NULL;
  int found = 0;
  int code = sqlite3_prepare_v2(db, text, -1, &statement, NULL);
  if (code == SQLITE_OK) code = sqlite3_step(statement);
  if (code == SQLITE_ROW && sqlite3_column_text(statement, 0)) {
    snprintf(value, size, "%s",
             (const char *)sqlite3_column_text(statement, 0));
    found = 1;
  }
  if (code != SQLITE_ROW && code != SQLITE_DONE) {
    print_error("%s: %s\n", text, sqlite3_errmsg(db));
  }
  sqlite3_finalize(statement);
  sqlite3_close(db);
  sqlite3_free(text);
  if (code != SQLITE_ROW && code != SQLITE_DONE) fail_msg("a query failed");
  return found;
}

int64_t raw_int(fixture *f, const char *sql, ...) {
  char value[64];
  va_list arguments;
  int found;
  va_start(arguments, sql);
  found = query(f, value, sizeof value, sql, arguments);
  va_end(arguments);
  return found ? strtoll(value, NULL, 10) : -1;
}

const char *raw_text(fixture *f, const char *sql, ...) {
  static char value[65536];
  va_list arguments;
  va_start(arguments, sql);
  if (!query(f, value, sizeof value, sql, arguments)) value[0] = '\0';
  va_end(arguments);
  return value;
}

/* ---- The rules of the schema --------------------------------------------- */

/* Each gives the number of rows that break a rule. */
static const struct rule {
  const char *name;
  const char *sql;
} rules[] = {
    {"each job has exactly one placement",
     "WITH p(id) AS (SELECT id FROM dibs_ready UNION ALL"
     " SELECT id FROM dibs_scheduled UNION ALL SELECT id FROM dibs_blocked"
     " UNION ALL SELECT id FROM dibs_staged WHERE NOT late UNION ALL"
     " SELECT id FROM dibs_leased UNION ALL SELECT id FROM dibs_done UNION ALL"
     " SELECT id FROM dibs_dead),"
     " c(id, n) AS (SELECT id, count(*) FROM p GROUP BY id)"
     " SELECT (SELECT count(*) FROM c WHERE n <> 1"
     "         OR id NOT IN (SELECT id FROM dibs_job))"
     "      + (SELECT count(*) FROM dibs_job"
     "         WHERE id NOT IN (SELECT id FROM c))"},
    {"a lease that is plain has nothing but the job's row",
     "SELECT count(*) FROM dibs_leased l JOIN dibs_job j ON j.id = l.id"
     " WHERE l.plain AND (l.errors OR coalesce(j.keep, 0) OR j.key IS NOT NULL"
     "  OR j.unique_key IS NOT NULL OR j.expires_at IS NOT NULL OR"
     "  l.queue_id IN (SELECT id FROM dibs_queue WHERE limited OR keeping))"},
    {"kept jobs are counted",
     "SELECT count(*) FROM dibs_kept k WHERE kept <>"
     " (SELECT count(*) FROM dibs_done d WHERE d.queue_id = k.queue_id)"},
    {"a queue that keeps so many is known",
     "SELECT count(*) FROM dibs_queue q WHERE keeping <>"
     " (SELECT count(*) FROM dibs_kept k WHERE k.queue_id = q.id) OR keeping <>"
     " (SELECT count(*) FROM dibs_setting s WHERE s.queue_id = q.id"
     "  AND s.name = 'keep_count')"},
    {"what is kept is pruned some time, by age or by count",
     "SELECT count(*) FROM dibs_done d JOIN dibs_job j USING (id)"
     " WHERE d.prune_at IS NULL AND j.keep IS NULL"
     " AND d.queue_id NOT IN (SELECT queue_id FROM dibs_kept)"},
    {"a stage out of time has no job",
     "SELECT count(*) FROM dibs_staged JOIN dibs_job USING (id) WHERE late"},
    {"a placement names the job's queue",
     "WITH p(id, q) AS (SELECT id, queue_id FROM dibs_ready UNION ALL"
     " SELECT id, queue_id FROM dibs_scheduled UNION ALL"
     " SELECT id, queue_id FROM dibs_blocked UNION ALL"
     " SELECT id, queue_id FROM dibs_staged UNION ALL"
     " SELECT id, queue_id FROM dibs_leased UNION ALL"
     " SELECT id, queue_id FROM dibs_done UNION ALL"
     " SELECT id, queue_id FROM dibs_dead)"
     " SELECT count(*) FROM p JOIN dibs_job j USING (id)"
     " WHERE j.queue_id <> p.q"},
    {"a ready row has the job's priority",
     "SELECT count(*) FROM dibs_ready r JOIN dibs_job j USING (id)"
     " WHERE j.priority <> r.priority"},
    {"every job's queue is there",
     "SELECT count(*) FROM dibs_job"
     " WHERE queue_id NOT IN (SELECT id FROM dibs_queue)"},
    {"a queue with ready jobs is claimable",
     "SELECT count(*) FROM dibs_queue q WHERE NOT claimable AND NOT paused"
     " AND NOT held"
     " AND EXISTS (SELECT 1 FROM dibs_ready r WHERE r.queue_id = q.id)"},
    {"next_due is no later than the first scheduled job",
     "SELECT count(*) FROM dibs_queue q WHERE"
     " coalesce(next_due, 9223372036854775807) >"
     " (SELECT min(due_at) FROM dibs_scheduled s WHERE s.queue_id = q.id)"},
    {"a lane holds the unfinished jobs of its key",
     "WITH u(id) AS (SELECT id FROM dibs_ready UNION ALL"
     " SELECT id FROM dibs_scheduled UNION ALL SELECT id FROM dibs_blocked"
     " UNION ALL SELECT id FROM dibs_staged UNION ALL"
     " SELECT id FROM dibs_leased),"
     " w(queue_id, key, id) AS (SELECT j.queue_id, j.key, j.id FROM u"
     "  JOIN dibs_job j USING (id) WHERE j.key IS NOT NULL"
     "  UNION ALL SELECT l.queue_id, l.key, l.id FROM dibs_lane l"
     "  JOIN dibs_dead d USING (id) WHERE l.head = 2)"
     " SELECT (SELECT count(*) FROM (SELECT * FROM w EXCEPT"
     "         SELECT queue_id, key, id FROM dibs_lane))"
     "      + (SELECT count(*) FROM (SELECT queue_id, key, id FROM dibs_lane"
     "         EXCEPT SELECT * FROM w))"},
    {"a lane has exactly one head",
     "SELECT count(*) FROM (SELECT 1 FROM dibs_lane GROUP BY queue_id, key"
     " HAVING sum(head <> 0) <> 1 OR sum(head NOT IN (0, 1, 2)))"},
    {"a dead job is the head of its lane only where it holds it",
     "SELECT count(*) FROM dibs_lane l WHERE (head = 2) <>"
     " (id IN (SELECT id FROM dibs_dead)) OR head = 2 AND NOT EXISTS"
     " (SELECT 1 FROM dibs_setting s WHERE s.queue_id = l.queue_id"
     "  AND s.name = 'dead_head' AND s.value = 1)"},
    {"the others of a lane wait",
     "SELECT count(*) FROM dibs_lane WHERE NOT head"
     " AND id NOT IN (SELECT id FROM dibs_blocked)"
     " AND id NOT IN (SELECT id FROM dibs_staged)"},
    {"the head of a lane is not blocked, but by its limit key",
     "SELECT count(*) FROM dibs_lane WHERE head"
     " AND id IN (SELECT id FROM dibs_blocked WHERE limit_key IS NULL)"},
    {"only what may be claimed is blocked by its limit key",
     "SELECT count(*) FROM dibs_lane WHERE NOT head"
     " AND id IN (SELECT id FROM dibs_blocked WHERE limit_key IS NOT NULL)"},
    {"what waits for its limit key goes on some time",
     "SELECT count(*) FROM dibs_blocked b WHERE b.limit_key IS NOT NULL"
     " AND NOT EXISTS (SELECT 1 FROM dibs_limit m WHERE"
     "  m.queue_id = b.queue_id AND m.key = b.limit_key AND"
     "  (m.until IS NOT NULL OR m.running > 0))"
     " AND NOT EXISTS (SELECT 1 FROM dibs_ready r JOIN dibs_job j USING (id)"
     "  WHERE r.queue_id = b.queue_id AND j.limit_key = b.limit_key)"
     " AND NOT EXISTS (SELECT 1 FROM dibs_setting s WHERE"
     "  s.queue_id = b.queue_id AND s.name = 'limit_per_key' AND s.value = 0)"},
    {"a key's bucket has something to say",
     "SELECT count(*) FROM dibs_limit WHERE key <> '' AND running = 0"
     " AND until IS NULL"},
    {"a blocked job has a key",
     "SELECT count(*) FROM dibs_blocked b JOIN dibs_job j USING (id)"
     " WHERE j.key IS NULL AND b.limit_key IS NULL"},
    {"a job that waits for its limit key has it",
     "SELECT count(*) FROM dibs_blocked b JOIN dibs_job j USING (id)"
     " WHERE b.limit_key <> j.limit_key OR (b.limit_key IS NOT NULL AND"
     " b.priority <> j.priority)"},
    {"buckets of limited queues count the running jobs",
     "SELECT count(*) FROM dibs_limit m WHERE EXISTS (SELECT 1"
     " FROM dibs_setting s WHERE s.queue_id = m.queue_id AND (s.name IN"
     " ('limit_per_key', 'rate_per_key') OR m.key = '' AND s.name IN"
     " ('limit', 'rate'))) AND running <>"
     " (SELECT count(*) FROM dibs_leased l JOIN dibs_job j USING (id)"
     " WHERE l.queue_id = m.queue_id AND m.key IN ('', j.limit_key))"},
    {"what runs of a limited queue and its keys is counted",
     "SELECT count(*) FROM dibs_leased l JOIN dibs_job j USING (id)"
     " JOIN dibs_queue q ON q.id = l.queue_id WHERE q.limited AND"
     " (NOT EXISTS (SELECT 1 FROM dibs_limit m"
     "  WHERE m.queue_id = q.id AND m.key = '') OR j.limit_key IS NOT NULL AND"
     "  EXISTS (SELECT 1 FROM dibs_setting s WHERE s.queue_id = q.id"
     "   AND s.name IN ('limit_per_key', 'rate_per_key')) AND NOT EXISTS"
     "  (SELECT 1 FROM dibs_limit m"
     "   WHERE m.queue_id = q.id AND m.key = j.limit_key))"},
    {"only a limited queue is held",
     "SELECT count(*) FROM dibs_queue WHERE held AND NOT limited"},
    {"what is held back is looked at some time",
     "SELECT count(*) FROM dibs_limit m JOIN dibs_queue q"
     " ON q.id = m.queue_id WHERE until IS NULL AND running = 0 AND"
     " (m.key = '' AND q.held AND NOT EXISTS (SELECT 1 FROM dibs_setting s"
     " WHERE s.queue_id = q.id AND s.name = 'limit' AND s.value = 0)"
     " OR EXISTS (SELECT 1 FROM dibs_blocked b"
     " WHERE b.queue_id = m.queue_id AND b.limit_key = m.key))"},
    {"errors belong to jobs", "SELECT count(*) FROM dibs_error"
                              " WHERE job_id NOT IN (SELECT id FROM dibs_job)"},
    {"a job keeps at most twenty errors",
     "SELECT count(*) FROM (SELECT 1 FROM dibs_error GROUP BY job_id"
     " HAVING count(*) > 20)"},
    {"a placement counts the errors",
     "WITH p(id, errors) AS (SELECT id, errors FROM dibs_ready UNION ALL"
     " SELECT id, errors FROM dibs_scheduled UNION ALL"
     " SELECT id, errors FROM dibs_blocked UNION ALL"
     " SELECT id, errors FROM dibs_leased UNION ALL"
     " SELECT id, errors FROM dibs_done UNION ALL"
     " SELECT id, errors FROM dibs_dead)"
     " SELECT count(*) FROM p WHERE errors <>"
     " coalesce((SELECT max(number) FROM dibs_error e WHERE e.job_id = p.id),"
     " 0)"},
    {"an expiry belongs to a job and has its time",
     "SELECT count(*) FROM dibs_expiry e LEFT JOIN dibs_job j USING (id)"
     " WHERE j.expires_at IS NOT e.expires_at"},
    {"a unique key is held by an unfinished job, or by its time",
     "SELECT count(*) FROM dibs_unique u WHERE NOT finished AND job_id NOT IN"
     " (SELECT id FROM dibs_ready UNION ALL SELECT id FROM dibs_scheduled"
     "  UNION ALL SELECT id FROM dibs_blocked UNION ALL"
     "  SELECT id FROM dibs_staged UNION ALL SELECT id FROM dibs_leased)"},
    {"an unfinished job holds its unique key",
     "WITH u(id) AS (SELECT id FROM dibs_ready UNION ALL"
     " SELECT id FROM dibs_scheduled UNION ALL SELECT id FROM dibs_blocked"
     " UNION ALL SELECT id FROM dibs_staged UNION ALL"
     " SELECT id FROM dibs_leased)"
     " SELECT count(*) FROM u JOIN dibs_job j USING (id)"
     " WHERE j.unique_key IS NOT NULL AND j.unique_for <> -1"
     " AND NOT EXISTS (SELECT 1 FROM dibs_unique x WHERE x.key = j.unique_key"
     "  AND x.scope = j.unique_scope AND x.job_id = j.id)"},
    {"the highest id ever is known",
     "SELECT count(*) FROM dibs_meta WHERE key = 'last_id' AND value < 0"},
};

/* The first column of the first row; -1 when the query fails. */
static int64_t plain_int(sqlite3 *db, const char *sql) {
  sqlite3_stmt *statement = NULL;
  int64_t value = -1;
  if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) == SQLITE_OK &&
      sqlite3_step(statement) == SQLITE_ROW) {
    value = sqlite3_column_int64(statement, 0);
  } else {
    print_error("%s\n", sqlite3_errmsg(db));
  }
  sqlite3_finalize(statement);
  return value;
}

static int integrity_holds(sqlite3 *db) {
  sqlite3_stmt *statement = NULL;
  int sound = 0;
  sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &statement, NULL);
  if (statement && sqlite3_step(statement) == SQLITE_ROW) {
    const char *text = (const char *)sqlite3_column_text(statement, 0);
    sound = text && strcmp(text, "ok") == 0;
    if (!sound) print_error("integrity check: %s\n", text);
  } else {
    print_error("integrity check: %s\n", sqlite3_errmsg(db));
  }
  sqlite3_finalize(statement);
  return sound;
}

int database_is_sound(sqlite3 *db) {
  int sound = integrity_holds(db);
  size_t i;
  if (!sound) return 0;
  if (plain_int(db, "SELECT count(*) FROM sqlite_schema WHERE type = 'table'"
                    " AND name IN ('dibs_meta', 'dibs_job')") != 2) {
    return 1;
  }
  for (i = 0; i < COUNT(rules); i++) {
    int64_t broken = plain_int(db, rules[i].sql);
    if (broken == 0) continue;
    print_error("rule broken by %lld rows: %s\n", (long long)broken,
                rules[i].name);
    sound = 0;
  }
  return sound;
}

int file_is_sound(const char *path) {
  sqlite3 *db = plain_open(path);
  int sound = db && database_is_sound(db);
  sqlite3_close(db);
  return sound;
}

/* ---- Dumps and copies ---------------------------------------------------- */

static const char *const tables[] = {
    "dibs_meta",      "dibs_queue",   "dibs_job",     "dibs_ready",
    "dibs_scheduled", "dibs_blocked", "dibs_staged",  "dibs_leased",
    "dibs_done",      "dibs_dead",    "dibs_error",   "dibs_lane",
    "dibs_unique",    "dibs_expiry",  "dibs_setting", "dibs_limit",
    "dibs_kept",
};

static int is_hint(const char *column) {
  return strcmp(column, "token") == 0 || strcmp(column, "claimable") == 0 ||
         strcmp(column, "next_due") == 0;
}

static void dump_row(sqlite3_str *out, sqlite3_stmt *row, const char *table) {
  int columns = sqlite3_column_count(row);
  int i;
  sqlite3_str_appendf(out, "%s", table + strlen("dibs_"));
  for (i = 0; i < columns; i++) {
    const char *name = sqlite3_column_name(row, i);
    const char *value = (const char *)sqlite3_column_text(row, i);
    if (is_hint(name) || value == NULL) continue;
    sqlite3_str_appendf(out, " %s=%.200s", name, value);
  }
  sqlite3_str_appendall(out, "\n");
}

char *database_dump(const char *path) {
  sqlite3 *db = plain_open(path);
  sqlite3_str *out = sqlite3_str_new(NULL);
  char *text;
  char *copy;
  size_t i;
  for (i = 0; db && i < COUNT(tables); i++) {
    sqlite3_stmt *row = NULL;
    char sql[96];
    snprintf(sql, sizeof sql, "SELECT * FROM %s ORDER BY 1, 2, 3", tables[i]);
    if (sqlite3_prepare_v2(db, sql, -1, &row, NULL) != SQLITE_OK) {
      /* Too few columns to sort by three of them. */
      snprintf(sql, sizeof sql, "SELECT * FROM %s ORDER BY 1, 2", tables[i]);
      sqlite3_prepare_v2(db, sql, -1, &row, NULL);
    }
    while (row && sqlite3_step(row) == SQLITE_ROW) {
      dump_row(out, row, tables[i]);
    }
    sqlite3_finalize(row);
  }
  sqlite3_close(db);
  text = sqlite3_str_finish(out);
  copy = strdup(text ? text : "");
  sqlite3_free(text);
  return copy;
}

void run_with_mounts(fixture *f, int (*function)(const char *folder)) {
  int status = -1;
  pid_t child = fork();
  if (child == 0) {
    if (unshare(CLONE_NEWNS) && unshare(CLONE_NEWUSER | CLONE_NEWNS))
      _exit(MOUNTS_REFUSED);
    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
    _exit(function(f->folder));
  }
  expect_int(waitpid(child, &status, 0), child);
  expect_true(WIFEXITED(status));
  if (WEXITSTATUS(status) == MOUNTS_REFUSED) {
    print_message("no file system may be mounted here\n");
    skip();
  }
  expect_int(WEXITSTATUS(status), 0);
}

void file_copy(const char *from, const char *to) {
  char buffer[65536];
  int in = open(from, O_RDONLY | O_CLOEXEC);
  int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  ssize_t got = in < 0 || out < 0 ? -1 : 0;
  if (got == 0) {
    while ((got = read(in, buffer, sizeof buffer)) > 0) {
      if (write(out, buffer, (size_t)got) != got) break;
    }
  }
  if (in >= 0) close(in);
  if (out >= 0) close(out);
  if (got != 0) fail_msg("copying %s to %s: %s", from, to, strerror(errno));
}

void file_remove(const char *path) {
  static const char *const suffixes[] = {"", "-wal", "-shm", "-journal",
                                         "-dibs"};
  char name[256];
  size_t i;
  for (i = 0; i < COUNT(suffixes); i++) {
    snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
    unlink(name);
  }
}

/* ---- Jobs in few words --------------------------------------------------- */

dibs_job_options no_options(void) {
  dibs_job_options options;
  dibs_job_options_init(&options);
  return options;
}

int64_t put_with(fixture *f, const char *queue, const char *json,
                 const dibs_job_options *options) {
  int64_t id = 0;
  expect_ok(f->db, dibs_enqueue(f->db, queue, dibs_json(json), options, &id));
  expect_true(id >= 1 && id <= DIBS_ID_MAX);
  return id;
}

int64_t put(fixture *f, const char *queue, const char *json) {
  return put_with(f, queue, json, NULL);
}

/* Claim one job into *job; the status. */
static int claim_one(fixture *f, const char *queue, int64_t lease, held *job) {
  dibs_claim_options options = DIBS_CLAIM_OPTIONS_INIT;
  dibs_job_list *jobs = NULL;
  int status;
  memset(job, 0, sizeof *job);
  options.lease = lease;
  status = dibs_claim(f->db, &queue, 1, &options, &jobs);
  if (status != DIBS_OK) return status;
  if (jobs->count == 1) {
    job->id = jobs->jobs[0].id;
    job->attempt = jobs->jobs[0].attempt;
    job->lease_until = jobs->jobs[0].lease_until;
    snprintf(job->receipt, sizeof job->receipt, "%s", jobs->jobs[0].receipt);
    snprintf(job->queue, sizeof job->queue, "%s", jobs->jobs[0].queue);
  }
  dibs_job_list_free(jobs);
  return DIBS_OK;
}

held take_for(fixture *f, const char *queue, int64_t lease) {
  held job;
  expect_ok(f->db, claim_one(f, queue, lease, &job));
  expect_true(job.id != 0);
  return job;
}

held take(fixture *f, const char *queue) {
  return take_for(f, queue, DIBS_UNSET);
}

int64_t try_take(fixture *f, const char *queue) {
  held job;
  int status = claim_one(f, queue, DIBS_UNSET, &job);
  if (status == DIBS_EMPTY) return 0;
  expect_status(f->db, status, DIBS_OK);
  return job.id;
}

void expect_nothing(fixture *f, const char *queue) {
  int64_t id = try_take(f, queue);
  if (id != 0) fail_msg("a claim on %s gave job %lld", queue, (long long)id);
}

static void copy_text(char *to, size_t size, const char *from) {
  snprintf(to, size, "%s", from ? from : "");
}

static void copy_payload(seen *s, const dibs_payload *payload) {
  size_t size = payload->size;
  s->payload_kind = payload->kind;
  s->payload_size = size;
  if (size >= sizeof s->payload) size = sizeof s->payload - 1;
  if (size) memcpy(s->payload, payload->data, size);
  s->payload[size] = '\0';
}

static void copy_errors(seen *s, const dibs_job *job) {
  size_t i;
  s->error_count = job->error_count;
  for (i = 0; i < job->error_count && i < COUNT(s->errors); i++) {
    s->errors[i] = job->errors[i];
    copy_text(s->error_texts[i], sizeof s->error_texts[i], job->errors[i].text);
    s->errors[i].text = NULL;
    s->errors[i].worker = NULL;
  }
}

seen look(fixture *f, int64_t id) {
  dibs_job_list *list = NULL;
  const dibs_job *job;
  seen s;
  memset(&s, 0, sizeof s);
  expect_ok(f->db, dibs_get(f->db, id, &list));
  job = &list->jobs[0];
  s.state = job->state;
  s.outcome = job->outcome;
  s.priority = job->priority;
  s.attempt = job->attempt;
  s.max_attempts = job->max_attempts;
  s.crashes = job->crashes;
  s.created_at = job->created_at;
  s.due_at = job->due_at;
  s.claimed_at = job->claimed_at;
  s.lease_until = job->lease_until;
  s.finished_at = job->finished_at;
  s.expires_at = job->expires_at;
  s.timeout = job->timeout;
  s.lease = job->lease;
  s.progress = job->progress;
  copy_payload(&s, &job->payload);
  copy_text(s.queue, sizeof s.queue, job->queue);
  copy_text(s.name, sizeof s.name, job->name);
  copy_text(s.key, sizeof s.key, job->key);
  copy_text(s.headers, sizeof s.headers, job->headers);
  copy_text(s.worker, sizeof s.worker, job->worker);
  copy_text(s.result, sizeof s.result, job->result);
  copy_text(s.last_error, sizeof s.last_error, job->last_error);
  copy_errors(&s, job);
  dibs_job_list_free(list);
  return s;
}

int gone(fixture *f, int64_t id) {
  dibs_job_list *list = NULL;
  int status = dibs_get(f->db, id, &list);
  dibs_job_list_free(list);
  if (status != DIBS_OK) expect_status(f->db, status, DIBS_NOT_FOUND);
  return status == DIBS_NOT_FOUND;
}

dibs_queue_stats counts(fixture *f, const char *queue) {
  dibs_stats_list *list = NULL;
  dibs_queue_stats copy;
  expect_ok(f->db, dibs_stats(f->db, &queue, 1, &list));
  expect_int(list->count, 1);
  copy = list->queues[0];
  copy.queue = NULL;
  dibs_stats_list_free(list);
  return copy;
}

/* ---- Expectations -------------------------------------------------------- */

/* Say what is wrong and end the test. */
__attribute__((format(printf, 3, 4))) static void
wrong(const char *file, int line, const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  print_error("%s\n", text);
  _fail(file, line);
}

static const char *status_text(int status) {
  const char *name = dibs_status_name(status);
  return name ? name : "no status";
}

void check_status(dibs_db *db, int status, int wanted, const char *text,
                  const char *file, int line) {
  if (status == wanted) return;
  wrong(file, line, "%s: %s (%s), expected %s", text, status_text(status),
        db && status ? dibs_error(db) : "", status_text(wanted));
}

void check_int(int64_t value, int64_t wanted, const char *text,
               const char *file, int line) {
  if (value == wanted) return;
  wrong(file, line, "%s: saw %lld, expected %lld", text, (long long)value,
        (long long)wanted);
}

void check_text(const char *value, const char *wanted, const char *text,
                const char *file, int line) {
  if (value && wanted && strcmp(value, wanted) == 0) return;
  if (value == wanted) return;
  wrong(file, line, "%s: saw \"%s\", expected \"%s\"", text,
        value ? value : "(NULL)", wanted ? wanted : "(NULL)");
}

void check_says(const char *value, const char *part, const char *text,
                const char *file, int line) {
  if (value && strstr(value, part)) return;
  wrong(file, line, "%s: saw \"%s\", expected \"%s\" in it", text,
        value ? value : "(NULL)", part);
}

void check_true(int value, const char *text, const char *file, int line) {
  if (value) return;
  wrong(file, line, "not so: %s", text);
}

void check_state(fixture *f, int64_t id, int wanted, const char *file,
                 int line) {
  dibs_job_list *list = NULL;
  int status = dibs_get(f->db, id, &list);
  int state = status == DIBS_OK ? list->jobs[0].state : 0;
  dibs_job_list_free(list);
  if (state == wanted) return;
  wrong(file, line, "job %lld is %s, expected %s", (long long)id,
        state ? dibs_state_name(state) : status_text(status),
        dibs_state_name(wanted));
}
