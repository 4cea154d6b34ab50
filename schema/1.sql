-- SPDX-License-Identifier: MIT
--
-- Schema 1 of dibs. README.md beside this file describes every table, column,
-- state and transition. In short:
--
-- A row of dibs_job says what was asked for and hardly ever changes. Exactly
-- one row in one of the placement tables says where the job is:
--
--     dibs_ready dibs_scheduled dibs_blocked dibs_staged
--     dibs_leased dibs_done dibs_dead
--
-- Placement rows are narrow, and keyed so that the next one to act on is the
-- first of an index. Times are integers, milliseconds since 1970 UTC;
-- durations are milliseconds. NULL in an option's column means the built-in
-- default. `attempt`, `crashes`, `lapses` and `errors` travel from placement
-- to placement: claims that count, attempts that ended with their process,
-- leases that ran out, error entries ever written.

CREATE TABLE dibs_meta(
  key TEXT PRIMARY KEY NOT NULL,
  value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO dibs_meta(key, value)
VALUES ('schema', 1),        -- version of these tables
       ('oldest_writer', 1), -- oldest version that may still write to them
       ('last_id', 0);       -- highest id that was ever deleted, or less than
                             -- the highest that is there

-- Queues: their names, and what the rest says of them in one word.
CREATE TABLE dibs_queue(
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  claimable INTEGER NOT NULL DEFAULT 0, -- 1 if it has ready rows and is not
                                        -- paused or held; may be 1 without (a
                                        -- claim that meets this clears it),
                                        -- but is never 0 with
  next_due INTEGER,                     -- at or before the earliest due_at of
                                        -- its dibs_scheduled; NULL: none
  paused INTEGER NOT NULL DEFAULT 0,
  expired INTEGER NOT NULL DEFAULT 0,   -- jobs that expired unstarted, ever
  held INTEGER NOT NULL DEFAULT 0,      -- 1: its limit or rate is reached
  limited INTEGER NOT NULL DEFAULT 0,   -- 1: it has limits or rates
  keeping INTEGER NOT NULL DEFAULT 0,   -- 1: it keeps a number of done jobs
  defaults INTEGER NOT NULL DEFAULT 0   -- 1: it has defaults for its jobs
) STRICT;
CREATE INDEX dibs_queue_claimable ON dibs_queue(name) WHERE claimable;
CREATE INDEX dibs_queue_due ON dibs_queue(next_due)
  WHERE next_due IS NOT NULL;

-- What a queue was set to: limits and rates, what it keeps, what a dead job does
-- to its lane, and defaults of its jobs' options.
CREATE TABLE dibs_setting(
  queue_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  value ANY NOT NULL,
  PRIMARY KEY (queue_id, name)
) STRICT, WITHOUT ROWID;

-- Buckets of limited queues: of the queue, key '', and of limit keys in use.
CREATE TABLE dibs_limit(
  queue_id INTEGER NOT NULL,
  key TEXT NOT NULL,
  running INTEGER NOT NULL, -- how many of its jobs are leased
  tokens REAL,              -- starts that its rate allowed, at that time; NULL:
                            -- as many as may be
  at INTEGER NOT NULL,
  until INTEGER,            -- when to look at what it holds back; NULL: when a
                            -- job ends
  PRIMARY KEY (queue_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX dibs_limit_until ON dibs_limit(until) WHERE until IS NOT NULL;

-- Queues that keep a number of done jobs, and how many there are.
CREATE TABLE dibs_kept(
  queue_id INTEGER PRIMARY KEY,
  most INTEGER NOT NULL,
  kept INTEGER NOT NULL -- rows in dibs_done
) STRICT;
CREATE INDEX dibs_kept_over ON dibs_kept(queue_id) WHERE kept > most;

-- What was asked for. The payload stands last, so that reading the other
-- columns never touches its overflow pages.
CREATE TABLE dibs_job(
  id INTEGER PRIMARY KEY,
  queue_id INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  priority INTEGER NOT NULL DEFAULT 0,
  expires_at INTEGER,
  max_attempts INTEGER,    -- 0: unlimited
  max_crashes INTEGER,     -- 0: unlimited
  backoff INTEGER,
  backoff_factor REAL,
  backoff_cap INTEGER,
  backoff_jitter REAL,
  lease INTEGER,
  timeout INTEGER,
  keep INTEGER,            -- 9223372036854775807: for good
  unique_scope INTEGER,    -- id of the queue, 0: all; NULL: not unique
  unique_for INTEGER,      -- -1: until it starts, -2: until it is finished,
                           -- else a time
  name TEXT,
  key TEXT,
  limit_key TEXT,
  unique_key TEXT,
  headers TEXT,
  payload ANY              -- TEXT: JSON; BLOB: bytes; NULL: none
) STRICT;

CREATE TABLE dibs_ready(
  queue_id INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  id INTEGER NOT NULL,
  due_at INTEGER,          -- NULL: created_at of the job
  attempt INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0,
  lapses INTEGER NOT NULL DEFAULT 0,
  errors INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (queue_id, priority DESC, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE dibs_scheduled(
  id INTEGER PRIMARY KEY,
  queue_id INTEGER NOT NULL,
  due_at INTEGER NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0,
  lapses INTEGER NOT NULL DEFAULT 0,
  errors INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX dibs_scheduled_due ON dibs_scheduled(queue_id, due_at);

-- Waits for the job before it in its lane, or for its limit key.
CREATE TABLE dibs_blocked(
  id INTEGER PRIMARY KEY,
  queue_id INTEGER NOT NULL,
  due_at INTEGER,          -- not before, once it is its turn; NULL: at once
  attempt INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0,
  lapses INTEGER NOT NULL DEFAULT 0,
  errors INTEGER NOT NULL DEFAULT 0,
  limit_key TEXT,          -- waits for this; NULL: for its lane
  priority INTEGER         -- with limit_key: of the job
) STRICT;
CREATE INDEX dibs_blocked_limit
  ON dibs_blocked(queue_id, limit_key, priority DESC, id)
  WHERE limit_key IS NOT NULL;

-- Reserved, until committed, aborted or out of time. What ran out of time is
-- remembered for a day, without its job, so that a late commit can be told.
CREATE TABLE dibs_staged(
  id INTEGER PRIMARY KEY,
  queue_id INTEGER NOT NULL,
  until INTEGER NOT NULL,  -- when that time, or that day, is over
  late INTEGER NOT NULL DEFAULT 0, -- 1: out of time, there is no job
  due_at INTEGER
) STRICT;
CREATE INDEX dibs_staged_until ON dibs_staged(until);

CREATE TABLE dibs_leased(
  id INTEGER PRIMARY KEY,
  queue_id INTEGER NOT NULL,
  token INTEGER NOT NULL,  -- fresh for each claim, random
  until INTEGER NOT NULL,
  claimed_at INTEGER NOT NULL,
  lease INTEGER NOT NULL,
  due_at INTEGER,          -- as in dibs_ready
  attempt INTEGER NOT NULL,
  crashes INTEGER NOT NULL,
  lapses INTEGER NOT NULL,
  errors INTEGER NOT NULL,
  plain INTEGER NOT NULL,  -- 1: besides its row the job has nothing to settle:
                           -- no key, unique key, expiry, keeping or errors
  holder INTEGER,          -- of the process it ends with: > 0 an engine's, which
                           -- extends it, < 0 a process's; NULL: by time only
  worker TEXT,
  progress REAL,
  progress_text TEXT
) STRICT;
CREATE INDEX dibs_leased_until ON dibs_leased(until);

CREATE TABLE dibs_done(
  id INTEGER PRIMARY KEY,
  queue_id INTEGER NOT NULL,
  outcome INTEGER NOT NULL, -- 1 acked, 2 cancelled, 3 expired, 4 discarded
  finished_at INTEGER NOT NULL,
  prune_at INTEGER,         -- NULL: never by age
  claimed_at INTEGER,
  due_at INTEGER,
  attempt INTEGER NOT NULL,
  crashes INTEGER NOT NULL,
  lapses INTEGER NOT NULL,
  errors INTEGER NOT NULL,
  worker TEXT,
  progress REAL,
  progress_text TEXT,
  result TEXT
) STRICT;
CREATE INDEX dibs_done_queue ON dibs_done(queue_id, finished_at);
CREATE INDEX dibs_done_prune ON dibs_done(prune_at) WHERE prune_at IS NOT NULL;

CREATE TABLE dibs_dead(
  id INTEGER PRIMARY KEY,
  queue_id INTEGER NOT NULL,
  finished_at INTEGER NOT NULL,
  claimed_at INTEGER,
  due_at INTEGER,
  attempt INTEGER NOT NULL,
  crashes INTEGER NOT NULL,
  lapses INTEGER NOT NULL,
  errors INTEGER NOT NULL,
  worker TEXT,
  progress REAL,
  progress_text TEXT
) STRICT;
CREATE INDEX dibs_dead_queue ON dibs_dead(queue_id, id);

-- The last failed attempts of each job; `number` counts from 1.
CREATE TABLE dibs_error(
  job_id INTEGER NOT NULL,
  number INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  at INTEGER NOT NULL,
  ms INTEGER NOT NULL,
  worker TEXT,
  text TEXT NOT NULL,
  PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;

-- Lanes: every unfinished job that has a key, in order. One member, the head,
-- is placed by its own time and state; the others are in dibs_blocked or
-- dibs_staged. A lane with members has exactly one head. A head that died stays
-- one, and holds its lane, if its queue is set to dead_head = 1.
CREATE TABLE dibs_lane(
  queue_id INTEGER NOT NULL,
  key TEXT NOT NULL,
  id INTEGER NOT NULL,
  head INTEGER NOT NULL,   -- 0: waits, 1: the head, 2: the same, and dead
  PRIMARY KEY (queue_id, key, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX dibs_lane_head ON dibs_lane(queue_id, key) WHERE head;
CREATE INDEX dibs_lane_dead ON dibs_lane(queue_id) WHERE head = 2;

-- Unique keys in use.
CREATE TABLE dibs_unique(
  key TEXT NOT NULL,
  scope INTEGER NOT NULL,  -- id of the queue, 0: all
  job_id INTEGER NOT NULL,
  until INTEGER,           -- NULL: until the job starts or is finished
  finished INTEGER NOT NULL DEFAULT 0, -- 1: the job is; held by `until` alone
  PRIMARY KEY (key, scope)
) STRICT, WITHOUT ROWID;
CREATE INDEX dibs_unique_until ON dibs_unique(until) WHERE finished;

-- Jobs with an expiry, until it has been looked at.
CREATE TABLE dibs_expiry(
  expires_at INTEGER NOT NULL,
  id INTEGER NOT NULL,
  PRIMARY KEY (expires_at, id)
) STRICT, WITHOUT ROWID;

-- Where a claim over several queues goes on, by the patterns it names.
CREATE TABLE dibs_cursor(
  patterns TEXT PRIMARY KEY NOT NULL,
  queue TEXT NOT NULL,     -- served last
  at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Every job with its state, for people and SQL tools.
CREATE VIEW dibs_jobs AS
SELECT j.id AS id,
  q.name AS queue,
  j.name AS name,
  CASE WHEN l.id IS NOT NULL THEN 'running'
       WHEN r.id IS NOT NULL THEN 'ready'
       WHEN s.id IS NOT NULL THEN 'scheduled'
       WHEN b.id IS NOT NULL THEN 'blocked'
       WHEN t.id IS NOT NULL THEN 'staged'
       WHEN d.id IS NOT NULL THEN 'done'
       WHEN x.id IS NOT NULL THEN 'dead' END AS state,
  CASE d.outcome WHEN 1 THEN 'acked' WHEN 2 THEN 'cancelled'
       WHEN 3 THEN 'expired' WHEN 4 THEN 'discarded' END AS outcome,
  j.priority AS priority,
  j.payload AS payload,
  j.headers AS headers,
  j.key AS key,
  coalesce(l.attempt, r.attempt, s.attempt, b.attempt, d.attempt, x.attempt, 0)
    AS attempt,
  coalesce(j.max_attempts, 20) AS max_attempts,
  coalesce(l.crashes, r.crashes, s.crashes, b.crashes, d.crashes, x.crashes, 0)
    AS crashes,
  j.created_at AS created_at,
  coalesce(l.due_at, r.due_at, s.due_at, b.due_at, t.due_at, d.due_at,
           x.due_at, j.created_at) AS due_at,
  coalesce(l.claimed_at, d.claimed_at, x.claimed_at) AS claimed_at,
  l.until AS lease_until,
  coalesce(d.finished_at, x.finished_at) AS finished_at,
  coalesce(l.worker, d.worker, x.worker) AS worker,
  (SELECT e.text FROM dibs_error e WHERE e.job_id = j.id
   ORDER BY e.number DESC LIMIT 1) AS last_error,
  CASE WHEN coalesce(l.progress, d.progress, x.progress) IS NULL THEN NULL
       WHEN coalesce(l.progress_text, d.progress_text, x.progress_text) IS NULL
       THEN json_object('done', coalesce(l.progress, d.progress, x.progress))
       ELSE json_object('done', coalesce(l.progress, d.progress, x.progress),
         'text', coalesce(l.progress_text, d.progress_text, x.progress_text))
       END AS progress,
  d.result AS result,
  j.timeout AS timeout,
  coalesce(l.lease, j.lease) AS lease,
  j.expires_at AS expires_at,
  j.limit_key AS limit_key,
  j.unique_key AS unique_key,
  t.until AS staged_until
FROM dibs_job j
JOIN dibs_queue q ON q.id = j.queue_id
LEFT JOIN dibs_ready r
  ON r.queue_id = j.queue_id AND r.priority = j.priority AND r.id = j.id
LEFT JOIN dibs_scheduled s ON s.id = j.id
LEFT JOIN dibs_blocked b ON b.id = j.id
LEFT JOIN dibs_staged t ON t.id = j.id
LEFT JOIN dibs_leased l ON l.id = j.id
LEFT JOIN dibs_done d ON d.id = j.id
LEFT JOIN dibs_dead x ON x.id = j.id;

-- Every queue with its counts.
CREATE VIEW dibs_queues AS
SELECT q.name AS queue,
  coalesce(r.n, 0) AS ready,
  coalesce(s.n, 0) AS scheduled,
  coalesce(b.n, 0) AS blocked,
  coalesce(t.n, 0) AS staged,
  coalesce(l.n, 0) AS running,
  coalesce(d.n, 0) AS done,
  coalesce(x.n, 0) AS dead,
  CASE WHEN r.fresh IS NULL THEN r.due
       ELSE min((SELECT created_at FROM dibs_job WHERE id = r.fresh),
                coalesce(r.due, 9223372036854775807)) END AS oldest_ready_at,
  q.paused AS paused,
  q.expired AS expired
FROM dibs_queue q
LEFT JOIN (SELECT queue_id, count(*) AS n, min(due_at) AS due,
             min(CASE WHEN due_at IS NULL THEN id END) AS fresh
           FROM dibs_ready GROUP BY queue_id) r ON r.queue_id = q.id
LEFT JOIN (SELECT queue_id, count(*) AS n FROM dibs_scheduled
           GROUP BY queue_id) s ON s.queue_id = q.id
LEFT JOIN (SELECT queue_id, count(*) AS n FROM dibs_blocked
           GROUP BY queue_id) b ON b.queue_id = q.id
LEFT JOIN (SELECT queue_id, count(*) AS n FROM dibs_staged WHERE NOT late
           GROUP BY queue_id) t ON t.queue_id = q.id
LEFT JOIN (SELECT queue_id, count(*) AS n FROM dibs_leased
           GROUP BY queue_id) l ON l.queue_id = q.id
LEFT JOIN (SELECT queue_id, count(*) AS n FROM dibs_done
           GROUP BY queue_id) d ON d.queue_id = q.id
LEFT JOIN (SELECT queue_id, count(*) AS n FROM dibs_dead
           GROUP BY queue_id) x ON x.queue_id = q.id;

-- For writing from a client that has no dibs: INSERT INTO dibs_inbox(...).
-- The trigger is plain SQL. Queue rows are made with WHERE NOT EXISTS because
-- the conflict clause of the outer INSERT would override one of its own.
CREATE VIEW dibs_inbox AS
SELECT q.name AS queue, j.payload AS payload, j.name AS name,
  j.headers AS headers, j.priority AS priority, NULL AS delay_ms,
  NULL AS due_at, j.key AS key
FROM dibs_job j JOIN dibs_queue q ON q.id = j.queue_id WHERE 0;

CREATE TRIGGER dibs_inbox_insert INSTEAD OF INSERT ON dibs_inbox
BEGIN
  SELECT CASE
    WHEN typeof(coalesce(new.queue, 'default')) <> 'text'
      OR length(CAST(coalesce(new.queue, 'default') AS BLOB))
         NOT BETWEEN 1 AND 255
      OR instr(coalesce(new.queue, ''), '*')
      OR instr(coalesce(new.queue, ''), char(0))
      OR coalesce(new.queue, '') GLOB
         '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159)
         || ']*'
    THEN RAISE(ABORT, 'DIBS_INVALID: queue must be 1 to 255 bytes of text without control characters and without *')
    WHEN typeof(coalesce(new.name, 'x')) <> 'text'
      OR length(CAST(coalesce(new.name, 'x') AS BLOB)) NOT BETWEEN 1 AND 255
      OR instr(coalesce(new.name, ''), '*')
      OR instr(coalesce(new.name, ''), char(0))
      OR coalesce(new.name, '') GLOB
         '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159)
         || ']*'
    THEN RAISE(ABORT, 'DIBS_INVALID: name must be 1 to 255 bytes of text without control characters and without *')
    WHEN typeof(coalesce(new.key, 'x')) <> 'text'
      OR length(CAST(coalesce(new.key, 'x') AS BLOB)) NOT BETWEEN 1 AND 255
      OR instr(coalesce(new.key, ''), '*')
      OR instr(coalesce(new.key, ''), char(0))
      OR coalesce(new.key, '') GLOB
         '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159)
         || ']*'
    THEN RAISE(ABORT, 'DIBS_INVALID: key must be 1 to 255 bytes of text without control characters and without *')
    WHEN typeof(new.payload) IN ('integer', 'real')
    THEN RAISE(ABORT, 'DIBS_INVALID: payload is a number: give JSON text, a BLOB or NULL')
    WHEN typeof(new.payload) = 'text'
      AND (instr(new.payload, char(0)) OR NOT json_valid(new.payload))
    THEN RAISE(ABORT, 'DIBS_INVALID: payload is text but not JSON: give JSON, or bytes as a BLOB')
    WHEN length(CAST(new.payload AS BLOB)) > 67108864
    THEN RAISE(ABORT, 'DIBS_TOO_BIG: payload is over 64 MiB')
    WHEN typeof(coalesce(new.headers, '{}')) <> 'text'
      OR instr(coalesce(new.headers, ''), char(0))
      OR NOT json_valid(coalesce(new.headers, '{}'))
    THEN RAISE(ABORT, 'DIBS_INVALID: headers must be a flat JSON object of strings')
    WHEN json_type(coalesce(new.headers, '{}')) <> 'object'
      OR EXISTS (SELECT 1 FROM json_each(coalesce(new.headers, '{}'))
                 WHERE type <> 'text')
    THEN RAISE(ABORT, 'DIBS_INVALID: headers must be a flat JSON object of strings')
    WHEN length(CAST(new.headers AS BLOB)) > 65536
    THEN RAISE(ABORT, 'DIBS_TOO_BIG: headers are over 64 KiB')
    WHEN typeof(coalesce(new.priority, 0)) <> 'integer'
      OR coalesce(new.priority, 0) NOT BETWEEN -2147483648 AND 2147483647
    THEN RAISE(ABORT, 'DIBS_INVALID: priority must be a 32-bit integer')
    WHEN new.delay_ms IS NOT NULL AND new.due_at IS NOT NULL
    THEN RAISE(ABORT, 'DIBS_INVALID: give delay_ms or due_at, not both')
    WHEN typeof(coalesce(new.delay_ms, 0)) <> 'integer'
      OR coalesce(new.delay_ms, 0) NOT BETWEEN 0 AND 253402300799999
    THEN RAISE(ABORT, 'DIBS_INVALID: delay_ms must be milliseconds, 0 or more')
    WHEN typeof(coalesce(new.due_at, 0)) <> 'integer'
      OR coalesce(new.due_at, 0) NOT BETWEEN 0 AND 253402300799999
    THEN RAISE(ABORT, 'DIBS_INVALID: due_at must be milliseconds since 1970')
  END;
  INSERT INTO dibs_queue(name)
  SELECT coalesce(new.queue, 'default')
  WHERE NOT EXISTS (SELECT 1 FROM dibs_queue
                    WHERE name = coalesce(new.queue, 'default'));
  -- What is not given is what the queue is set to; unique keys need dibs.
  INSERT INTO dibs_job(id, queue_id, created_at, priority, expires_at,
                       max_attempts, max_crashes, backoff, backoff_factor,
                       backoff_cap, backoff_jitter, lease, timeout, keep, name,
                       key, limit_key, headers, payload)
  WITH
    t(now) AS (SELECT
      CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)),
    q(id) AS (SELECT id FROM dibs_queue
              WHERE name = coalesce(new.queue, 'default'))
  SELECT 1 + max(coalesce((SELECT max(id) FROM dibs_job), 0),
                 (SELECT value FROM dibs_meta WHERE key = 'last_id')),
    q.id, t.now,
    coalesce(new.priority,
      (SELECT value FROM dibs_setting
       WHERE queue_id = q.id AND name = 'priority'), 0),
    min(t.now +
      (SELECT value FROM dibs_setting
       WHERE queue_id = q.id AND name = 'expires'), 253402300799999),
    (SELECT value FROM dibs_setting
     WHERE queue_id = q.id AND name = 'max_attempts'),
    (SELECT value FROM dibs_setting
     WHERE queue_id = q.id AND name = 'max_crashes'),
    (SELECT value FROM dibs_setting WHERE queue_id = q.id AND name = 'backoff'),
    (SELECT value FROM dibs_setting
     WHERE queue_id = q.id AND name = 'backoff_factor'),
    (SELECT value FROM dibs_setting
     WHERE queue_id = q.id AND name = 'backoff_cap'),
    (SELECT value FROM dibs_setting
     WHERE queue_id = q.id AND name = 'backoff_jitter'),
    (SELECT value FROM dibs_setting WHERE queue_id = q.id AND name = 'lease'),
    (SELECT value FROM dibs_setting WHERE queue_id = q.id AND name = 'timeout'),
    (SELECT value FROM dibs_setting WHERE queue_id = q.id AND name = 'keep'),
    coalesce(new.name,
      (SELECT value FROM dibs_setting
       WHERE queue_id = q.id AND name = 'name')),
    coalesce(new.key,
      (SELECT value FROM dibs_setting
       WHERE queue_id = q.id AND name = 'key')),
    (SELECT value FROM dibs_setting
     WHERE queue_id = q.id AND name = 'limit_key'),
    coalesce(new.headers,
      (SELECT value FROM dibs_setting
       WHERE queue_id = q.id AND name = 'headers')),
    new.payload
  FROM q, t;
  -- The job just made is the one with the highest id.
  INSERT INTO dibs_expiry(expires_at, id)
  SELECT expires_at, id FROM dibs_job
  WHERE id = (SELECT max(id) FROM dibs_job) AND expires_at IS NOT NULL;
  INSERT INTO dibs_staged(id, queue_id, until, due_at)
  SELECT j.id, j.queue_id, min(j.created_at + s.value, 253402300799999),
    coalesce(new.due_at, min(j.created_at + coalesce(new.delay_ms,
      (SELECT value FROM dibs_setting
       WHERE queue_id = j.queue_id AND name = 'delay')), 253402300799999))
  FROM dibs_job j
  JOIN dibs_setting s ON s.queue_id = j.queue_id AND s.name = 'stage'
  WHERE j.id = (SELECT max(id) FROM dibs_job);
  INSERT INTO dibs_blocked(id, queue_id, due_at)
  SELECT j.id, j.queue_id,
    coalesce(new.due_at, min(j.created_at + coalesce(new.delay_ms,
      (SELECT value FROM dibs_setting
       WHERE queue_id = j.queue_id AND name = 'delay')), 253402300799999))
  FROM dibs_job j
  WHERE j.id = (SELECT max(id) FROM dibs_job) AND j.key IS NOT NULL
    AND EXISTS (SELECT 1 FROM dibs_lane l
                WHERE l.queue_id = j.queue_id AND l.key = j.key)
    AND NOT EXISTS (SELECT 1 FROM dibs_staged g WHERE g.id = j.id);
  INSERT INTO dibs_lane(queue_id, key, id, head)
  SELECT j.queue_id, j.key, j.id,
    NOT EXISTS (SELECT 1 FROM dibs_lane l
                WHERE l.queue_id = j.queue_id AND l.key = j.key)
  FROM dibs_job j
  WHERE j.id = (SELECT max(id) FROM dibs_job) AND j.key IS NOT NULL;
  INSERT INTO dibs_scheduled(id, queue_id, due_at)
  SELECT j.id, j.queue_id,
    coalesce(new.due_at, min(j.created_at + coalesce(new.delay_ms,
      (SELECT value FROM dibs_setting
       WHERE queue_id = j.queue_id AND name = 'delay')), 253402300799999))
  FROM dibs_job j
  WHERE j.id = (SELECT max(id) FROM dibs_job)
    AND coalesce(new.due_at, min(j.created_at + coalesce(new.delay_ms,
      (SELECT value FROM dibs_setting
       WHERE queue_id = j.queue_id AND name = 'delay')), 253402300799999))
      > j.created_at
    AND NOT EXISTS (SELECT 1 FROM dibs_blocked b WHERE b.id = j.id)
    AND NOT EXISTS (SELECT 1 FROM dibs_staged g WHERE g.id = j.id);
  UPDATE dibs_queue
  SET next_due = (SELECT due_at FROM dibs_scheduled
                  WHERE id = (SELECT max(id) FROM dibs_job))
  WHERE name = coalesce(new.queue, 'default')
    AND coalesce(next_due, 9223372036854775807) >
        (SELECT due_at FROM dibs_scheduled
         WHERE id = (SELECT max(id) FROM dibs_job));
  INSERT INTO dibs_ready(queue_id, priority, id, due_at)
  SELECT j.queue_id, j.priority, j.id,
    coalesce(new.due_at, min(j.created_at + coalesce(new.delay_ms,
      (SELECT value FROM dibs_setting
       WHERE queue_id = j.queue_id AND name = 'delay')), 253402300799999))
  FROM dibs_job j
  WHERE j.id = (SELECT max(id) FROM dibs_job)
    AND NOT EXISTS (SELECT 1 FROM dibs_staged g WHERE g.id = j.id)
    AND NOT EXISTS (SELECT 1 FROM dibs_blocked b WHERE b.id = j.id)
    AND NOT EXISTS (SELECT 1 FROM dibs_scheduled s WHERE s.id = j.id);
  UPDATE dibs_queue SET claimable = 1
  WHERE name = coalesce(new.queue, 'default')
    AND NOT claimable AND NOT paused AND NOT held
    AND EXISTS (SELECT 1 FROM dibs_ready r, dibs_job j
                WHERE j.id = (SELECT max(id) FROM dibs_job)
                  AND r.queue_id = j.queue_id AND r.priority = j.priority
                  AND r.id = j.id);
END;
