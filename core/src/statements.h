/* SPDX-License-Identifier: MIT */
/*
** statements.h: all SQL of the core, each statement with its name, in the order
** of the files that use it. DIBS_SQL_MAP is expanded into the enum sql and into
** the table of texts. Tables and views are made by schema/.
*/
#ifndef DIBS_STATEMENTS_H
#define DIBS_STATEMENTS_H

/* Travels from placement to placement: struct history. */
#define HISTORY "due_at, attempt, crashes, lapses, errors"

/* Of dibs_job j: struct job. */
#define JOB_COLUMNS                                                            \
  "j.queue_id, j.created_at, j.priority, j.expires_at, j.max_attempts,"        \
  " j.max_crashes, j.backoff, j.backoff_factor, j.backoff_cap, "               \
  "j.backoff_jitter, j.keep,"                                                  \
  " j.unique_scope, j.unique_for, j.key, j.unique_key, j.limit_key"

/* Jobs before another that explain counts; more are not counted. */
#define READY_AHEAD_MOST 1000

/* Ids of a placement table for look.c and admin.c: above ?1, at most ?2, of the
** queues ?3 (a JSON array, or NULL for all), with the job name ?4 (or NULL). */
#define LIST_OF(table)                                                         \
  "SELECT id FROM " table " p WHERE id > ?1"                                   \
  " AND (?3 IS NULL OR queue_id IN (SELECT value FROM json_each(?3)))"         \
  " AND (?4 IS NULL OR"                                                        \
  "      (SELECT name FROM dibs_job j WHERE j.id = p.id) = ?4)"                \
  " ORDER BY id LIMIT ?2"

/* The least of an indexed column, ?1 when there is none. */
#define NEXT_OF(column, rows)                                                  \
  " coalesce((SELECT " column " FROM " rows " ORDER BY " column                \
  "  LIMIT 1), ?1)"

/* What makes something claimable when its time comes. */
#define NEXT_EVENTS                                                             \
  NEXT_OF("until", "dibs_leased")                                               \
  "," NEXT_OF("next_due", "dibs_queue WHERE next_due IS NOT NULL") "," NEXT_OF( \
      "expires_at",                                                             \
      "dibs_expiry") "," NEXT_OF("until",                                       \
                                 "dibs_staged") "," NEXT_OF("until",            \
                                                            "dibs_limit "       \
                                                            "WHERE until IS "   \
                                                            "NOT NULL")

/* clang-format off */
#define DIBS_SQL_MAP(X)                                                        \
  /* sql */                                                                    \
  X(BEGIN, "BEGIN")                                                            \
  X(BEGIN_IMMEDIATE, "BEGIN IMMEDIATE")                                        \
  X(COMMIT, "COMMIT")                                                          \
  X(ROLLBACK, "ROLLBACK")                                                      \
  X(SAVEPOINT, "SAVEPOINT dibs_operation")                                     \
  X(ROLLBACK_TO, "ROLLBACK TO dibs_operation")                                 \
  X(RELEASE, "RELEASE dibs_operation")                                         \
  X(LOCK, "UPDATE dibs_meta SET value = value WHERE 0")                        \
  X(DATA_VERSION, "PRAGMA data_version")                                       \
  /* schema */                                                                 \
  X(TABLES,                                                                    \
    "SELECT count(*), coalesce(sum(name GLOB 'dibs_*'), 0),"                   \
    " coalesce(max(name = 'dibs_meta'), 0)"                                    \
    " FROM sqlite_schema"                                                      \
    " WHERE type IN ('table', 'view') AND name NOT GLOB 'sqlite_*'")           \
  X(META, "SELECT value FROM dibs_meta WHERE key = ?1")                        \
  /* place: queues */                                                          \
  X(QUEUE,                                                                     \
    "SELECT id, claimable, paused OR held, limited, defaults, keeping"         \
    " FROM dibs_queue"                                                         \
    " WHERE name = ?1")                                                        \
  X(QUEUE_NAME, "SELECT name FROM dibs_queue WHERE id = ?1")                   \
  X(QUEUE_ADD, "INSERT INTO dibs_queue(name) VALUES (?1)")                     \
  X(QUEUES_BETWEEN,                                                            \
    "SELECT id"                                                                \
    " FROM dibs_queue"                                                         \
    " WHERE name > ?1 AND name < ?2")                                          \
  X(QUEUE_CLAIMABLE,                                                           \
    "UPDATE dibs_queue"                                                        \
    " SET claimable = 1"                                                       \
    " WHERE id = ?1 AND NOT claimable AND NOT paused AND NOT held")                         \
  X(QUEUE_DUE,                                                                 \
    "UPDATE dibs_queue"                                                        \
    " SET next_due = ?2"                                                       \
    " WHERE id = ?1 AND (next_due IS NULL OR next_due > ?2)")                  \
  X(QUEUE_EXPIRED,                                                             \
    "UPDATE dibs_queue"                                                        \
    " SET expired = expired + 1"                                               \
    " WHERE id = ?1")                                                          \
  /* place: placements */                                                      \
  X(PLACEMENT,                                                                 \
    "SELECT 5, " HISTORY ", token, until, claimed_at, worker, progress,"       \
    " progress_text, holder"                                                   \
    " FROM dibs_leased"                                                        \
    " WHERE id = ?1"                                                           \
    " UNION ALL SELECT 1, " HISTORY ", NULL, NULL, NULL, NULL, NULL, NULL,"    \
    " NULL"                                                                    \
    " FROM dibs_ready"                                                         \
    " WHERE queue_id = ?2 AND priority = ?3 AND id = ?1"                       \
    " UNION ALL SELECT 2, " HISTORY ", NULL, NULL, NULL, NULL, NULL, NULL,"    \
    " NULL"                                                                    \
    " FROM dibs_scheduled"                                                     \
    " WHERE id = ?1"                                                           \
    " UNION ALL SELECT 3, " HISTORY ", NULL, NULL, NULL, NULL, NULL, NULL,"    \
    " NULL"                                                                    \
    " FROM dibs_blocked"                                                       \
    " WHERE id = ?1"                                                           \
    " UNION ALL SELECT 4, due_at, 0, 0, 0, 0, NULL, until, NULL, NULL,"        \
    " NULL, NULL, NULL"                                                        \
    " FROM dibs_staged"                                                        \
    " WHERE id = ?1 AND NOT late"                                              \
    " UNION ALL SELECT 6, " HISTORY ", NULL, NULL, claimed_at, worker,"        \
    " progress, progress_text, NULL"                                           \
    " FROM dibs_done"                                                          \
    " WHERE id = ?1"                                                           \
    " UNION ALL SELECT 7, " HISTORY ", NULL, NULL, claimed_at, worker,"        \
    " progress, progress_text, NULL"                                           \
    " FROM dibs_dead"                                                          \
    " WHERE id = ?1 LIMIT 1")                                                  \
  X(READY_ADD,                                                                 \
    "INSERT INTO dibs_ready(queue_id, priority, id, " HISTORY ")"              \
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")                                \
  X(READY_REMOVE,                                                              \
    "DELETE"                                                                   \
    " FROM dibs_ready"                                                         \
    " WHERE queue_id = ?1 AND priority = ?2 AND id = ?3")                      \
  X(SCHEDULED_ADD,                                                             \
    "INSERT INTO dibs_scheduled(id, queue_id, " HISTORY ")"                    \
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")                                    \
  X(SCHEDULED_REMOVE, "DELETE FROM dibs_scheduled WHERE id = ?1")              \
  X(BLOCKED_ADD,                                                               \
    "INSERT INTO dibs_blocked(id, queue_id, " HISTORY ")"                      \
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")                                    \
  X(BLOCKED_REMOVE, "DELETE FROM dibs_blocked WHERE id = ?1")                  \
  X(DONE_ADD,                                                                  \
    "INSERT INTO dibs_done(id, queue_id, outcome, finished_at, prune_at,"      \
    " claimed_at, " HISTORY ", worker, progress, progress_text, result)"       \
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,"    \
    " ?15)")                                                                   \
  X(DONE_REMOVE, "DELETE FROM dibs_done WHERE id = ?1")                        \
  X(KEPT_MOST, "SELECT most FROM dibs_kept WHERE queue_id = ?1")               \
  X(KEPT_ADD, "UPDATE dibs_kept SET kept = kept + ?2 WHERE queue_id = ?1")     \
  X(KEPT_SURPLUS,                                                              \
    "SELECT id"                                                                \
    " FROM dibs_done"                                                          \
    " WHERE queue_id = ?1"                                                     \
    " ORDER BY finished_at, id LIMIT min(?2, coalesce((SELECT"                 \
    " max(kept - most, 0) FROM dibs_kept WHERE queue_id = ?1), 0))")           \
  X(KEPT_COUNT,                                                                \
    "UPDATE dibs_kept"                                                         \
    " SET kept = (SELECT count(*) FROM dibs_done d WHERE d.queue_id = ?1)"     \
    " WHERE queue_id = ?1")                                                    \
  X(KEPT_SET,                                                                  \
    "INSERT INTO dibs_kept(queue_id, most, kept)"                              \
    " VALUES (?1, ?2, (SELECT count(*) FROM dibs_done d"                       \
    " WHERE d.queue_id = ?1))"                                                 \
    " ON CONFLICT DO UPDATE"                                                   \
    " SET most = ?2")                                                          \
  X(KEPT_FORGET, "DELETE FROM dibs_kept WHERE queue_id = ?1")                  \
  X(KEPT_LEAVE,                                                                \
    "UPDATE dibs_done"                                                         \
    " SET prune_at = ?2"                                                       \
    " WHERE queue_id = ?1 AND prune_at IS NULL AND"                            \
    " (SELECT keep FROM dibs_job j WHERE j.id = dibs_done.id) IS NULL")        \
  X(QUEUE_KEEPING,                                                             \
    "UPDATE dibs_queue"                                                        \
    " SET keeping = EXISTS (SELECT 1 FROM dibs_kept WHERE queue_id = ?1)"      \
    " WHERE id = ?1")                                                          \
  X(DEAD_ADD,                                                                  \
    "INSERT INTO dibs_dead(id, queue_id, finished_at, claimed_at,"             \
    " " HISTORY ", worker, progress, progress_text)"                           \
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)")             \
  X(DEAD_REMOVE, "DELETE FROM dibs_dead WHERE id = ?1")                        \
  X(PROMOTE_ADD,                                                               \
    "INSERT INTO dibs_ready(queue_id, priority, id, " HISTORY ") SELECT"       \
    " s.queue_id, j.priority, s.id, s.due_at, s.attempt, s.crashes,"           \
    " s.lapses, s.errors"                                                      \
    " FROM dibs_scheduled s"                                                   \
    " JOIN dibs_job j ON j.id = s.id"                                          \
    " WHERE s.queue_id = ?1 AND s.due_at <= ?2 AND s.id IN (SELECT id"         \
    " FROM dibs_scheduled"                                                     \
    " WHERE queue_id = ?1 AND due_at <= ?2"                                    \
    " ORDER BY due_at, id LIMIT ?3)")                                          \
  X(PROMOTE_REMOVE,                                                            \
    "DELETE"                                                                   \
    " FROM dibs_scheduled"                                                     \
    " WHERE id IN (SELECT id"                                                  \
    " FROM dibs_scheduled"                                                     \
    " WHERE queue_id = ?1 AND due_at <= ?2"                                    \
    " ORDER BY due_at, id LIMIT ?3)")                                          \
  X(PROMOTE_NEXT,                                                              \
    "UPDATE dibs_queue"                                                        \
    " SET next_due = max((SELECT min(due_at)"                                  \
    " FROM dibs_scheduled"                                                     \
    " WHERE queue_id = ?1), ?2)"                                               \
    " WHERE id = ?1")                                                          \
  /* place: jobs */                                                            \
  X(JOB, "SELECT " JOB_COLUMNS " FROM dibs_job j WHERE id = ?1")               \
  X(JOB_REMOVE, "DELETE FROM dibs_job WHERE id = ?1")                          \
  X(JOB_PRIORITY, "UPDATE dibs_job SET priority = ?2 WHERE id = ?1")           \
  X(JOB_UNEXPIRE,                                                              \
    "UPDATE dibs_job"                                                          \
    " SET expires_at = NULL"                                                   \
    " WHERE id = ?1 AND expires_at IS NOT NULL")                               \
  X(ERROR_ADD,                                                                 \
    "INSERT INTO dibs_error(job_id, number, attempt, at, ms, worker, text)"    \
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")                                    \
  X(ERROR_TRIM, "DELETE FROM dibs_error WHERE job_id = ?1 AND number <= ?2")   \
  X(ERROR_LAST,                                                                \
    "SELECT text"                                                              \
    " FROM dibs_error"                                                         \
    " WHERE job_id = ?1"                                                       \
    " ORDER BY number DESC LIMIT 1")                                           \
  X(NEXT_ID,                                                                   \
    "SELECT 1 + max(coalesce((SELECT max(id)"                                  \
    " FROM dibs_job), 0), (SELECT value"                                       \
    " FROM dibs_meta"                                                          \
    " WHERE key = 'last_id'))")                                                \
  X(LAST_ID,                                                                   \
    "UPDATE dibs_meta"                                                         \
    " SET value = ?1"                                                          \
    " WHERE key = 'last_id' AND value < ?1")                                   \
  X(ERRORS_REMOVE, "DELETE FROM dibs_error WHERE job_id = ?1")                 \
  /* place: lanes */                                                           \
  X(LANE_HEAD,                                                                 \
    "SELECT id"                                                                \
    " FROM dibs_lane"                                                          \
    " WHERE queue_id = ?1 AND key = ?2 AND head")                              \
  X(LANE_FIRST,                                                                \
    "SELECT id"                                                                \
    " FROM dibs_lane"                                                          \
    " WHERE queue_id = ?1 AND key = ?2"                                        \
    " ORDER BY id LIMIT 1")                                                    \
  X(LANE_ADD,                                                                  \
    "INSERT INTO dibs_lane(queue_id, key, id, head)"                           \
    " VALUES (?1, ?2, ?3, ?4)")                                                \
  X(LANE_SET_HEAD,                                                             \
    "UPDATE dibs_lane"                                                         \
    " SET head = ?4"                                                           \
    " WHERE queue_id = ?1 AND key = ?2 AND id = ?3")                           \
  X(LANES_DEAD,                                                                \
    "SELECT id FROM dibs_lane WHERE queue_id = ?1 AND head = 2 LIMIT ?2")      \
  X(LANE_REMOVE,                                                               \
    "DELETE"                                                                   \
    " FROM dibs_lane"                                                          \
    " WHERE queue_id = ?1 AND key = ?2 AND id = ?3")                           \
  /* place: unique keys */                                                     \
  X(UNIQUE_HOLDER,                                                             \
    "SELECT job_id"                                                            \
    " FROM dibs_unique"                                                        \
    " WHERE key = ?1 AND (?2 = 0 OR scope IN (0, ?2)) AND NOT (finished AND"   \
    " until <= ?3)"                                                            \
    " ORDER BY scope LIMIT 1")                                                 \
  X(UNIQUE_ADD,                                                                \
    "INSERT INTO dibs_unique(key, scope, job_id, until)"                       \
    " VALUES (?1, ?2, ?3, ?4)"                                                 \
    " ON CONFLICT DO UPDATE"                                                   \
    " SET job_id = ?3, until = ?4, finished = 0")                              \
  X(UNIQUE_REMOVE,                                                             \
    "DELETE"                                                                   \
    " FROM dibs_unique"                                                        \
    " WHERE key = ?1 AND scope = ?2 AND job_id = ?3")                          \
  X(UNIQUE_FINISH,                                                             \
    "UPDATE dibs_unique"                                                       \
    " SET finished = 1"                                                        \
    " WHERE key = ?1 AND scope = ?2 AND job_id = ?3")                          \
  X(UNIQUE_CLEAN,                                                              \
    "DELETE"                                                                   \
    " FROM dibs_unique"                                                        \
    " WHERE (key, scope) IN (SELECT key, scope"                                \
    " FROM dibs_unique"                                                        \
    " WHERE finished AND until <= ?1 LIMIT ?2)")                               \
  /* expiry */                                                                 \
  X(EXPIRY_ADD, "INSERT INTO dibs_expiry(expires_at, id) VALUES (?1, ?2)")     \
  X(EXPIRY_REMOVE,                                                             \
    "DELETE"                                                                   \
    " FROM dibs_expiry"                                                        \
    " WHERE expires_at = ?1 AND id = ?2")                                      \
  X(EXPIRY_DUE,                                                                \
    "SELECT id"                                                                \
    " FROM dibs_expiry"                                                        \
    " WHERE expires_at <= ?1"                                                  \
    " ORDER BY expires_at, id LIMIT ?2")                                       \
  X(EXPIRY_LOOKED,                                                             \
    "DELETE"                                                                   \
    " FROM dibs_expiry"                                                        \
    " WHERE expires_at <= ?1 AND id = ?2")                                     \
  /* limit */                                                                  \
  X(SETTINGS, "SELECT name, value FROM dibs_setting WHERE queue_id = ?1")      \
  X(SETTING,                                                                   \
    "SELECT value FROM dibs_setting WHERE queue_id = ?1 AND name = ?2")        \
  X(SETTING_SET,                                                               \
    "INSERT INTO dibs_setting(queue_id, name, value)"                          \
    " VALUES (?1, ?2, ?3)")                                                    \
  X(SETTING_REMOVE,                                                            \
    "DELETE FROM dibs_setting WHERE queue_id = ?1 AND name = ?2")              \
  X(QUEUE_PAUSED, "SELECT paused FROM dibs_queue WHERE id = ?1")               \
  X(QUEUE_DEFAULTS,                                                            \
    "UPDATE dibs_queue"                                                        \
    " SET defaults = EXISTS (SELECT 1"                                         \
    " FROM dibs_setting"                                                       \
    " WHERE queue_id = ?1 AND name NOT IN ('limit', 'limit_per_key',"          \
    " 'rate', 'rate_period', 'rate_per_key', 'rate_per_key_period',"           \
    " 'burst', 'dead_head', 'keep_count'))"                                                               \
    " WHERE id = ?1")                                                          \
  X(LIMIT_READ,                                                                \
    "SELECT running, tokens, at"                                               \
    " FROM dibs_limit"                                                         \
    " WHERE queue_id = ?1 AND key = ?2")                                       \
  X(LIMIT_WRITE,                                                               \
    "INSERT INTO dibs_limit(queue_id, key, running, tokens, at, until)"        \
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6)"                                         \
    " ON CONFLICT DO UPDATE"                                                   \
    " SET running = ?3, tokens = ?4, at = ?5, until = ?6")                     \
  X(LIMIT_LEFT,                                                                \
    "UPDATE dibs_limit"                                                        \
    " SET running = running - 1"                                               \
    " WHERE queue_id = ?1 AND key IN ('', ?2) AND running > 0")                \
  X(LIMIT_DUE,                                                                 \
    "SELECT queue_id, key"                                                     \
    " FROM dibs_limit"                                                         \
    " WHERE until <= ?1"                                                       \
    " ORDER BY until LIMIT ?2")                                                \
  X(LIMIT_REMOVE, "DELETE FROM dibs_limit WHERE queue_id = ?1 AND key = ?2")   \
  X(LIMIT_IDLE,                                                                \
    "DELETE"                                                                   \
    " FROM dibs_limit"                                                         \
    " WHERE queue_id = ?1 AND key = ?2 AND running = 0 AND until IS NULL")     \
  X(LIMIT_FILL,                                                                \
    "UPDATE dibs_limit"                                                        \
    " SET at = ?2, tokens = CASE WHEN tokens + max(?2 - at, 0) * ?3 < ?4"      \
    " THEN tokens + max(?2 - at, 0) * ?3 END"                                  \
    " WHERE queue_id = ?1 AND tokens IS NOT NULL AND (key <> '') = ?5")        \
  X(LIMIT_LOOK,                                                                \
    "UPDATE dibs_limit"                                                        \
    " SET running = 0, until = ?2"                                             \
    " WHERE queue_id = ?1")                                                    \
  X(LIMIT_COUNT,                                                               \
    "INSERT INTO dibs_limit(queue_id, key, running, at)"                       \
    " SELECT ?1, '', (SELECT count(*)"                                         \
    " FROM dibs_leased"                                                        \
    " WHERE queue_id = ?1), ?2"                                                \
    " FROM dibs_queue"                                                         \
    " WHERE id = ?1 AND limited"                                               \
    " ON CONFLICT DO UPDATE"                                                   \
    " SET running = excluded.running")                                         \
  X(LIMIT_COUNT_KEYS,                                                          \
    "INSERT INTO dibs_limit(queue_id, key, running, at)"                       \
    " SELECT ?1, j.limit_key, count(*), ?2"                                    \
    " FROM dibs_leased l"                                                      \
    " JOIN dibs_job j ON j.id = l.id"                                          \
    " WHERE l.queue_id = ?1 AND j.limit_key IS NOT NULL AND EXISTS (SELECT 1"      \
    " FROM dibs_setting s"                                                     \
    " WHERE s.queue_id = ?1 AND s.name IN ('limit_per_key', 'rate_per_key'))"                                              \
    " GROUP BY j.limit_key"                                                    \
    " ON CONFLICT DO UPDATE"                                                   \
    " SET running = excluded.running")                                         \
  X(LIMIT_WAKE_KEYS,                                                           \
    "INSERT INTO dibs_limit(queue_id, key, running, at, until)"                \
    " SELECT DISTINCT ?1, limit_key, 0, ?2, ?2"                                \
    " FROM dibs_blocked"                                                       \
    " WHERE queue_id = ?1 AND limit_key IS NOT NULL"                           \
    " ON CONFLICT DO UPDATE"                                                   \
    " SET until = ?2")                                                         \
  X(QUEUE_LIMITED,                                                             \
    "UPDATE dibs_queue"                                                        \
    " SET held = 0, limited = EXISTS (SELECT 1"                                \
    " FROM dibs_setting"                                                       \
    " WHERE queue_id = ?1 AND name IN ('limit', 'limit_per_key', 'rate',"      \
    " 'rate_per_key')), claimable = NOT paused AND EXISTS (SELECT 1"           \
    " FROM dibs_ready"                                                         \
    " WHERE queue_id = ?1)"                                                    \
    " WHERE id = ?1")                                                          \
  X(QUEUE_HOLD,                                                                \
    "UPDATE dibs_queue"                                                        \
    " SET held = 1, claimable = 0"                                             \
    " WHERE id = ?1")                                                          \
  X(QUEUE_UNHOLD,                                                              \
    "UPDATE dibs_queue"                                                        \
    " SET held = 0, claimable = NOT paused AND EXISTS (SELECT 1"               \
    " FROM dibs_ready"                                                         \
    " WHERE queue_id = ?1)"                                                    \
    " WHERE id = ?1 AND held AND NOT EXISTS"                                   \
    " (SELECT 1"                                                               \
    " FROM dibs_limit"                                                         \
    " WHERE queue_id = ?1 AND key = '' AND until > 0)")                        \
  X(LEASED_UNPLAIN,                                                            \
    "UPDATE dibs_leased SET plain = 0 WHERE queue_id = ?1 AND plain")          \
  X(BLOCKED_ADD_LIMIT,                                                         \
    "INSERT INTO dibs_blocked(id, queue_id, " HISTORY ", limit_key, priority)" \
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")                            \
  X(BLOCKED_OF_KEY,                                                            \
    "SELECT id"                                                                \
    " FROM dibs_blocked"                                                       \
    " WHERE queue_id = ?1 AND limit_key = ?2"                                  \
    " ORDER BY priority DESC, id LIMIT ?3")                                    \
  /* reclaim */                                                                \
  X(LEASED_HELD,                                                               \
    "SELECT id FROM dibs_leased WHERE holder IN (?1, -?1) LIMIT ?2")           \
  X(QUEUES_READY,                                                              \
    "SELECT name, (SELECT count(*)"                                            \
    " FROM (SELECT 1"                                                          \
    " FROM dibs_ready"                                                         \
    " WHERE queue_id = q.id LIMIT 16)) AS ready"                               \
    " FROM dibs_queue q"                                                       \
    " WHERE claimable AND ready > 0 LIMIT 64")                                 \
  /* tidy */                                                                   \
  X(TIDY_NEXT,                                                                 \
    "SELECT min(" NEXT_EVENTS ","                                              \
    NEXT_OF("prune_at", "dibs_done WHERE prune_at IS NOT NULL") ","            \
    NEXT_OF("until", "dibs_unique WHERE finished") ","                         \
    " coalesce((SELECT 0 FROM dibs_kept"                                       \
    " WHERE kept > most AND kept > 0 LIMIT 1), ?1))")                          \
  X(LEASED_LAPSED,                                                             \
    "SELECT id, holder, lease"                                                 \
    " FROM dibs_leased"                                                        \
    " WHERE until <= ?1"                                                       \
    " ORDER BY until, id LIMIT ?2")                                            \
  X(LEASED_RESPITE,                                                            \
    "UPDATE dibs_leased SET until = ?2, holder = -holder WHERE id = ?1")       \
  X(STAGED_DUE,                                                                \
    "SELECT id"                                                                \
    " FROM dibs_staged"                                                        \
    " WHERE until <= ?1"                                                       \
    " ORDER BY until, id LIMIT ?2")                                            \
  X(STAGED_LATE, "UPDATE dibs_staged SET late = 1, until = ?2 WHERE id = ?1")  \
  X(QUEUE_DUE_NAMED,                                                           \
    "SELECT id"                                                                \
    " FROM dibs_queue"                                                         \
    " WHERE name = ?2 AND next_due <= ?1")                                     \
  X(QUEUES_DUE,                                                                \
    "SELECT id"                                                                \
    " FROM dibs_queue"                                                         \
    " WHERE next_due <= ?1 AND name > ?2 AND name < ?3"                        \
    " ORDER BY next_due, id")                                                  \
  X(KEPT_OVER,                                                                 \
    "SELECT queue_id"                                                          \
    " FROM dibs_kept"                                                          \
    " WHERE kept > most AND kept > 0 LIMIT 1")                                 \
  X(DONE_DUE,                                                                  \
    "SELECT id, queue_id"                                                      \
    " FROM dibs_done"                                                          \
    " WHERE prune_at <= ?1"                                                    \
    " ORDER BY prune_at, id LIMIT ?2")                                         \
  /* enqueue */                                                                \
  X(JOB_ADD,                                                                   \
    "INSERT INTO dibs_job(id, queue_id, created_at, priority, name,"           \
    " headers, payload, expires_at, max_attempts, max_crashes, backoff,"       \
    " backoff_factor, backoff_cap, backoff_jitter, lease, timeout, keep,"      \
    " unique_scope, unique_for, key, limit_key, unique_key)"                   \
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,"    \
    " ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)")                                \
  X(JOB_ADD_PLAIN,                                                             \
    "INSERT INTO dibs_job(id, queue_id, created_at, payload)"                  \
    " VALUES (?1, ?2, ?3, ?4)")                                                \
  X(JOB_ADD_TEN,                                                               \
    "INSERT INTO dibs_job(id, queue_id, created_at, payload) VALUES"           \
    " (?1, ?2, ?3, ?4), (?1 + 1, ?2, ?3, ?5), (?1 + 2, ?2, ?3, ?6),"           \
    " (?1 + 3, ?2, ?3, ?7), (?1 + 4, ?2, ?3, ?8), (?1 + 5, ?2, ?3, ?9),"       \
    " (?1 + 6, ?2, ?3, ?10), (?1 + 7, ?2, ?3, ?11), (?1 + 8, ?2, ?3, ?12),"    \
    " (?1 + 9, ?2, ?3, ?13)")                                                  \
  X(JOB_ADD_TEN_NEXT,                                                          \
    "INSERT INTO dibs_job(queue_id, created_at, payload) VALUES"               \
    " (?2, ?3, ?4), (?2, ?3, ?5), (?2, ?3, ?6), (?2, ?3, ?7), (?2, ?3, ?8),"   \
    " (?2, ?3, ?9), (?2, ?3, ?10), (?2, ?3, ?11), (?2, ?3, ?12), (?2, ?3, ?13)")\
  X(READY_ADD_FRESH,                                                           \
    "INSERT INTO dibs_ready(queue_id, priority, id)"                           \
    " VALUES (?1, ?2, ?3)")                                                    \
  X(READY_ADD_RUN,                                                             \
    "INSERT INTO dibs_ready(queue_id, priority, id) SELECT queue_id,"          \
    " priority, id"                                                            \
    " FROM dibs_job"                                                           \
    " WHERE id BETWEEN ?1 AND ?2")                                             \
  X(JOB_REPLACE,                                                               \
    "UPDATE dibs_job"                                                          \
    " SET payload = ?2, headers = ?3"                                          \
    " WHERE id = ?1")                                                          \
  X(STAGED_ADD,                                                                \
    "INSERT INTO dibs_staged(id, queue_id, until, due_at)"                     \
    " VALUES (?1, ?2, ?3, ?4)")                                                \
  X(STAGED_REMOVE, "DELETE FROM dibs_staged WHERE id = ?1")                    \
  X(STAGED_WAS, "SELECT 1 FROM dibs_staged WHERE id = ?1 AND late")            \
  /* options */                                                                \
  X(JSON_TEXT, "SELECT json_extract(?1, '$')")                                 \
  /* claim */                                                                  \
  X(HAS_READY,                                                                 \
    "SELECT 1"                                                                 \
    " FROM dibs_queue q"                                                       \
    " JOIN dibs_ready r ON r.queue_id = q.id"                                  \
    " WHERE q.name = ?1 AND NOT q.paused AND NOT q.held LIMIT 1")                             \
  X(CLAIMABLE, "SELECT name FROM dibs_queue WHERE name = ?1 AND claimable")    \
  X(CLAIMABLE_NEXT,                                                            \
    "SELECT name"                                                              \
    " FROM dibs_queue"                                                         \
    " WHERE claimable AND name > ?1 AND name < ?2"                             \
    " ORDER BY name LIMIT 1")                                                  \
  X(QUEUE_EMPTY,                                                               \
    "UPDATE dibs_queue"                                                        \
    " SET claimable = 0"                                                       \
    " WHERE id = ?1 AND claimable AND NOT"                                     \
    " EXISTS (SELECT 1"                                                        \
    " FROM dibs_ready"                                                         \
    " WHERE queue_id = ?1)")                                                   \
  X(READY_FIRST,                                                               \
    "SELECT r.id, r.priority, " HISTORY ", j.id, payload, name, headers,"      \
    " key, created_at, max_attempts, lease, timeout, expires_at,"              \
    " unique_for, coalesce(keep, 0) = 0 AND key IS NULL"                       \
    " AND unique_scope IS NULL AND expires_at IS NULL AND errors = 0,"         \
    " limit_key"                                                               \
    " FROM dibs_ready r"                                                       \
    " LEFT JOIN dibs_job j ON j.id = r.id"                                     \
    " WHERE r.queue_id = ?1"                                                   \
    " ORDER BY r.priority DESC, r.id LIMIT ?2")                                \
  X(READY_REMOVE_ABOVE,                                                        \
    "DELETE"                                                                   \
    " FROM dibs_ready"                                                         \
    " WHERE queue_id = ?1 AND priority > ?2")                                  \
  X(READY_REMOVE_TO,                                                           \
    "DELETE"                                                                   \
    " FROM dibs_ready"                                                         \
    " WHERE queue_id = ?1 AND priority = ?2 AND id <= ?3")                     \
  X(LEASED_ADD,                                                                \
    "INSERT INTO dibs_leased(id, queue_id, token, until, claimed_at, lease,"   \
    " " HISTORY ", worker, plain, holder)"                                     \
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)")   \
  X(CURSOR, "SELECT queue FROM dibs_cursor WHERE patterns = ?1")               \
  X(CURSOR_SET,                                                                \
    "INSERT INTO dibs_cursor(patterns, queue, at)"                             \
    " VALUES (?1, ?2, ?3)"                                                     \
    " ON CONFLICT DO UPDATE"                                                   \
    " SET queue = ?2, at = ?3")                                                \
  X(PEEK,                                                                      \
    "SELECT id"                                                                \
    " FROM (SELECT *"                                                          \
    " FROM (SELECT r.id, r.priority"                                           \
    " FROM dibs_ready r"                                                       \
    " JOIN dibs_job j ON j.id = r.id"                                          \
    " WHERE r.queue_id = ?1 AND (j.expires_at > ?2 OR j.expires_at IS NULL)"   \
    " ORDER BY r.priority DESC, r.id LIMIT ?3 + ?4)"                           \
    " UNION ALL SELECT *"                                                      \
    " FROM (SELECT s.id, j.priority"                                           \
    " FROM dibs_scheduled s"                                                   \
    " JOIN dibs_job j ON j.id = s.id"                                          \
    " WHERE s.queue_id = ?1 AND s.due_at <= ?2 AND (j.expires_at > ?2 OR"      \
    " j.expires_at IS NULL)"                                                   \
    " ORDER BY s.due_at, s.id LIMIT ?5))"                                 \
    " ORDER BY priority DESC, id LIMIT ?3 OFFSET ?4")                          \
  X(PEEK_QUEUES,                                                               \
    "SELECT id"                                                                \
    " FROM dibs_queue"                                                         \
    " WHERE NOT paused AND NOT held AND (claimable OR next_due <= ?2) AND (?1 IS NULL OR"   \
    " id IN (SELECT value"                                                     \
    " FROM json_each(?1)))"                                                    \
    " ORDER BY name <= ?3, name")                                              \
  /* settle */                                                                 \
  X(LEASED,                                                                    \
    "SELECT " HISTORY ", until, claimed_at, worker, progress,"                 \
    " progress_text, " JOB_COLUMNS                                             \
    " FROM dibs_leased l"                                                      \
    " JOIN dibs_job j ON j.id = l.id"                                          \
    " WHERE l.id = ?1 AND token = ?2 AND until > ?3")                          \
  X(LEASED_REMOVE, "DELETE FROM dibs_leased WHERE id = ?1")                    \
  X(LEASED_REMOVE_PLAIN,                                                       \
    "DELETE FROM dibs_leased"                                                  \
    " WHERE id = ?1 AND token = ?2 AND until > ?3 AND plain")                  \
  X(LEASED_EXTEND, "UPDATE dibs_leased SET until = ?2 WHERE id = ?1")          \
  X(CHECKPOINT, "UPDATE dibs_job SET payload = ?2 WHERE id = ?1")              \
  X(PROGRESS,                                                                  \
    "UPDATE dibs_leased"                                                       \
    " SET progress = ?2, progress_text = ?3"                                   \
    " WHERE id = ?1")                                                          \
  /* engine */                                                                 \
  X(LEASED_KEEP,                                                               \
    "UPDATE dibs_leased"                                                       \
    " SET until = ?3, holder = abs(holder)"                                    \
    " WHERE id = ?1 AND token = ?2")                                           \
  X(LEASED_IS, "SELECT 1 FROM dibs_leased WHERE id = ?1 AND token = ?2")       \
  X(JOB_IS_THERE,                                                              \
    "SELECT 1"                                                                 \
    " FROM dibs_job"                                                           \
    " WHERE id = ?1 AND NOT EXISTS"                                            \
    " (SELECT 1 FROM dibs_done d WHERE d.id = ?1)")                            \
  /* look */                                                                   \
  /* As the view dibs_jobs, but without its JSON functions: SQLite 3.40 refuses\
  ** them in views when the host does not trust its schema. */                 \
  X(GET,                                                                       \
    "SELECT j.id, q.name, j.name,"                                             \
    " CASE WHEN l.id IS NOT NULL THEN 'running'"                               \
    " WHEN r.id IS NOT NULL THEN 'ready'"                                      \
    " WHEN s.id IS NOT NULL THEN 'scheduled'"                                  \
    " WHEN b.id IS NOT NULL THEN 'blocked'"                                    \
    " WHEN t.id IS NOT NULL THEN 'staged'"                                     \
    " WHEN d.id IS NOT NULL THEN 'done'"                                       \
    " WHEN x.id IS NOT NULL THEN 'dead' END,"                                  \
    " coalesce(d.outcome, 0), j.priority, j.headers, j.key,"                   \
    " coalesce(l.attempt, r.attempt, s.attempt, b.attempt, d.attempt,"         \
    " x.attempt, 0), coalesce(j.max_attempts, 20),"                            \
    " coalesce(l.crashes, r.crashes, s.crashes, b.crashes, d.crashes,"         \
    " x.crashes, 0), j.created_at,"                                            \
    " coalesce(l.due_at, r.due_at, s.due_at, b.due_at, t.due_at, d.due_at,"    \
    " x.due_at, j.created_at), coalesce(l.claimed_at, d.claimed_at,"           \
    " x.claimed_at), l.until, coalesce(d.finished_at, x.finished_at),"         \
    " coalesce(l.worker, d.worker, x.worker),"                                 \
    " (SELECT text FROM dibs_error WHERE job_id = j.id"                        \
    " ORDER BY number DESC LIMIT 1),"                                          \
    " coalesce(l.progress, d.progress, x.progress),"                           \
    " coalesce(l.progress_text, d.progress_text, x.progress_text), d.result,"  \
    " j.timeout, coalesce(l.lease, j.lease), j.expires_at"                     \
    " FROM dibs_job j"                                                         \
    " JOIN dibs_queue q ON q.id = j.queue_id"                                  \
    " LEFT JOIN dibs_ready r ON r.queue_id = j.queue_id"                       \
    " AND r.priority = j.priority AND r.id = j.id"                             \
    " LEFT JOIN dibs_scheduled s ON s.id = j.id"                               \
    " LEFT JOIN dibs_blocked b ON b.id = j.id"                                 \
    " LEFT JOIN dibs_staged t ON t.id = j.id"                                  \
    " LEFT JOIN dibs_leased l ON l.id = j.id"                                  \
    " LEFT JOIN dibs_done d ON d.id = j.id"                                    \
    " LEFT JOIN dibs_dead x ON x.id = j.id"                                    \
    " WHERE j.id = ?1")                                                        \
  X(PAYLOAD_GET, "SELECT payload FROM dibs_job WHERE id = ?1")                 \
  X(ERRORS,                                                                    \
    "SELECT *"                                                                 \
    " FROM (SELECT attempt, at, ms, worker, text"                              \
    " FROM dibs_error"                                                         \
    " WHERE job_id = ?1"                                                       \
    " ORDER BY number DESC LIMIT ?2)"                                          \
    " ORDER BY at, attempt")                                                   \
  X(LIST_ALL, LIST_OF("dibs_job"))                                             \
  X(LIST_READY, LIST_OF("dibs_ready"))                                         \
  X(LIST_SCHEDULED, LIST_OF("dibs_scheduled"))                                 \
  X(LIST_BLOCKED, LIST_OF("dibs_blocked"))                                     \
  X(LIST_STAGED, LIST_OF("dibs_staged"))                                       \
  X(LIST_RUNNING, LIST_OF("dibs_leased"))                                      \
  X(LIST_DONE, LIST_OF("dibs_done"))                                           \
  X(LIST_DEAD, LIST_OF("dibs_dead"))                                           \
  X(STATS,                                                                     \
    "SELECT queue, ready, scheduled, blocked, staged, running, done, dead,"    \
    " oldest_ready_at, paused, expired"                                        \
    " FROM dibs_queues")                                                       \
  X(UNFINISHED,                                                                \
    "WITH q(id) AS MATERIALIZED (SELECT id FROM dibs_queue"                    \
    " WHERE ?1 IS NULL OR id IN (SELECT value FROM json_each(?1)))"            \
    " SELECT EXISTS (SELECT 1 FROM q CROSS JOIN dibs_ready r"                  \
    " ON r.queue_id = q.id)"                                                   \
    " OR EXISTS (SELECT 1 FROM q CROSS JOIN dibs_scheduled s"                  \
    " ON s.queue_id = q.id)"                                                   \
    " OR EXISTS (SELECT 1 FROM dibs_leased WHERE queue_id IN q)"               \
    " OR EXISTS (SELECT 1 FROM dibs_blocked WHERE queue_id IN q)"              \
    " OR EXISTS (SELECT 1 FROM dibs_staged"                                    \
    " WHERE NOT late AND queue_id IN q)")                                      \
  X(EVENT_NEXT, "SELECT min(" NEXT_EVENTS ")")                                 \
  /* explain */                                                                \
  X(LIMIT_STATE,                                                               \
    "SELECT running, until"                                                    \
    " FROM dibs_limit"                                                         \
    " WHERE queue_id = ?1 AND key = ?2")                                       \
  X(READY_AHEAD,                                                               \
    "SELECT count(*)"                                                          \
    " FROM (SELECT 1"                                                          \
    " FROM dibs_ready"                                                         \
    " WHERE queue_id = ?1 AND (priority > ?2 OR (priority = ?2 AND id < ?3))"  \
    " LIMIT 1001)")                                                            \
  X(HAS_WAITING,                                                               \
    "SELECT EXISTS (SELECT 1 FROM dibs_ready WHERE queue_id = ?1)"             \
    " OR EXISTS (SELECT 1 FROM dibs_scheduled WHERE queue_id = ?1)"            \
    " OR EXISTS (SELECT 1 FROM dibs_blocked WHERE queue_id = ?1)"              \
    " OR EXISTS (SELECT 1 FROM dibs_staged WHERE queue_id = ?1 AND NOT late)") \
  /* admin */                                                                  \
  X(SWEEP_READY,                                                               \
    "SELECT r.id"                                                              \
    " FROM json_each(coalesce(?3, (SELECT json_group_array(id)"                \
    " FROM dibs_queue))) q"                                                    \
    " CROSS"                                                                   \
    " JOIN dibs_ready r ON r.queue_id = q.value"                               \
    " WHERE ?1 IS NOT NULL AND ?4 IS NULL LIMIT ?2")                           \
  X(PAUSE,                                                                     \
    "UPDATE dibs_queue"                                                        \
    " SET paused = 1, claimable = 0"                                           \
    " WHERE NOT paused AND (?1 IS NULL OR"                                     \
    " id IN (SELECT value"                                                     \
    " FROM json_each(?1)))")                                                   \
  X(RESUMED,                                                                   \
    "SELECT name"                                                              \
    " FROM dibs_queue"                                                         \
    " WHERE paused AND (?1 IS NULL OR"                                         \
    " id IN (SELECT value"                                                     \
    " FROM json_each(?1)))")                                                   \
  X(RESUME,                                                                    \
    "UPDATE dibs_queue"                                                        \
    " SET paused = 0, claimable = NOT held AND EXISTS (SELECT 1"               \
    " FROM dibs_ready r"                                                       \
    " WHERE r.queue_id = dibs_queue.id)"                                       \
    " WHERE paused AND (?1 IS NULL OR"                                         \
    " id IN (SELECT value"                                                     \
    " FROM json_each(?1)))")                                                   \
  X(CURSOR_CLEAN, "DELETE FROM dibs_cursor WHERE at < ?1")                     \
  X(QUEUE_CLEAN,                                                               \
    "DELETE FROM dibs_queue"                                                   \
    " WHERE NOT paused AND expired = 0"                                        \
    " AND id NOT IN (SELECT queue_id FROM dibs_setting)"                       \
    " AND NOT EXISTS"                                                          \
    " (SELECT 1 FROM dibs_ready r WHERE r.queue_id = dibs_queue.id)"           \
    " AND id NOT IN (SELECT queue_id FROM dibs_job)"                           \
    " AND id NOT IN (SELECT scope FROM dibs_unique)")                          \
  /* doctor */                                                                 \
  X(DOCTOR_JOURNAL, "PRAGMA journal_mode")                                     \
  X(DOCTOR_SYNCHRONOUS, "PRAGMA synchronous")                                  \
  X(DOCTOR_CHECKPOINT, "PRAGMA wal_checkpoint(PASSIVE)")                       \
  X(DOCTOR_INTEGRITY, "PRAGMA integrity_check(1)")                             \
  X(DOCTOR_LAPSED,                                                             \
    "SELECT count(*)"                                                          \
    " FROM (SELECT 1"                                                          \
    " FROM dibs_leased"                                                        \
    " WHERE until <= ?1 LIMIT 1000)")                                          \
  X(DOCTOR_PLACEMENTS,                                                         \
    "SELECT count(*)"                                                          \
    " FROM dibs_job j"                                                         \
    " WHERE (SELECT count(*)"                                                  \
    " FROM dibs_ready r"                                                       \
    " WHERE r.queue_id = j.queue_id AND r.priority = j.priority AND r.id ="    \
    " j.id) +"                                                                 \
    " EXISTS (SELECT 1"                                                        \
    " FROM dibs_scheduled p"                                                   \
    " WHERE p.id = j.id) +"                                                    \
    " EXISTS (SELECT 1"                                                        \
    " FROM dibs_blocked p"                                                     \
    " WHERE p.id = j.id) +"                                                    \
    " EXISTS (SELECT 1"                                                        \
    " FROM dibs_staged p"                                                      \
    " WHERE p.id = j.id) +"                                                    \
    " EXISTS (SELECT 1"                                                        \
    " FROM dibs_leased p"                                                      \
    " WHERE p.id = j.id) +"                                                    \
    " EXISTS (SELECT 1"                                                        \
    " FROM dibs_done p"                                                        \
    " WHERE p.id = j.id) +"                                                    \
    " EXISTS (SELECT 1"                                                        \
    " FROM dibs_dead p"                                                        \
    " WHERE p.id = j.id) <> 1")
/* clang-format on */

#endif
