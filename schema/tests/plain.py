# SPDX-License-Identifier: MIT
"""What the tests of this folder share: the two programs that they call.

`dibs` is the dibs program, named by the environment variable DIBS; `sqlite3`
is SQLite's own shell (SQLITE3, else the one on the PATH), which knows nothing
of dibs. Each test has a folder of its own for its database.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

SCHEMA = Path(__file__).resolve().parent.parent
SQLITE3 = os.environ.get("SQLITE3", "sqlite3")
DIBS = os.environ.get("DIBS", "dibs")

# How the shell begins an error depends on its version and on its input.
SHELL_ERROR = re.compile(
    r"^(?:(?:Parse|Runtime) error|Error)(?: near line \d+)?: (?:stepping, )?"
)


class Refused(Exception):
    """A statement failed; the text is that of the error alone."""


def sqlite3(path, sql):
    """Run SQL in the shell; the rows it prints, columns joined by |."""
    done = subprocess.run(
        [SQLITE3, "-batch", "-bail", "-noheader", "-list", str(path)],
        input=".timeout 10000\n" + sql,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0 or done.stderr:
        raise Refused(SHELL_ERROR.sub("", done.stderr.strip()))
    return done.stdout.splitlines()


class Failed(Exception):
    """The dibs program gave another exit code than 0."""

    def __init__(self, code, stderr):
        super().__init__(f"exit code {code}: {stderr}")
        self.code = code
        self.stderr = stderr


def dibs(path, *arguments):
    """Run the dibs program with --json; the objects it prints."""
    done = subprocess.run(
        [DIBS, "--db", str(path), "--json", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(done.returncode, done.stderr.decode())
    return [json.loads(line) for line in done.stdout.splitlines()]


class TestCase(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="dibs-schema-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.db = self.folder / "app.db"

    def sql(self, sql):
        return sqlite3(self.db, sql)

    def value(self, sql):
        """The only row of a query."""
        rows = self.sql(sql)
        self.assertEqual(len(rows), 1, f"{sql} gave {rows}")
        return rows[0]

    def dibs(self, *arguments):
        return dibs(self.db, *arguments)

    def assert_sound(self):
        """What always holds between the tables; README.md says why."""
        for name, sql in INVARIANTS.items():
            self.assertEqual(self.sql(sql), [], name)
        self.assertEqual(self.sql("PRAGMA integrity_check"), ["ok"])


PLACEMENTS = "ready scheduled blocked staged leased done dead".split()

PLACED = " UNION ALL ".join(
    f"SELECT id, queue_id FROM dibs_{name}"
    + (" WHERE NOT late" if name == "staged" else "")
    for name in PLACEMENTS
)

# Each gives the rows that break its rule.
INVARIANTS = {
    "a job has one placement": f"""
        SELECT j.id, count(p.id) FROM dibs_job j
        LEFT JOIN ({PLACED}) p ON p.id = j.id
        GROUP BY j.id HAVING count(p.id) <> 1""",
    "a placement has its job, in its queue": f"""
        SELECT p.id FROM ({PLACED}) p LEFT JOIN dibs_job j ON j.id = p.id
        WHERE j.queue_id IS NOT p.queue_id""",
    "a ready row has its job's priority": """
        SELECT r.id FROM dibs_ready r JOIN dibs_job j ON j.id = r.id
        WHERE r.priority <> j.priority""",
    "a queue with ready jobs is claimable unless paused or held": """
        SELECT name FROM dibs_queue q WHERE NOT claimable AND NOT paused
        AND NOT held
        AND EXISTS (SELECT 1 FROM dibs_ready WHERE queue_id = q.id)""",
    "next_due is never too late": """
        SELECT q.name FROM dibs_scheduled s
        JOIN dibs_queue q ON q.id = s.queue_id
        WHERE q.next_due IS NULL OR q.next_due > s.due_at""",
    "a lane has one head": """
        SELECT key FROM dibs_lane GROUP BY queue_id, key
        HAVING sum(head <> 0) <> 1""",
    "only the head of a lane is not blocked": """
        SELECT l.id FROM dibs_lane l JOIN dibs_jobs v ON v.id = l.id
        WHERE NOT l.head AND v.state NOT IN ('blocked', 'staged')
           OR l.head = 1 AND v.state NOT IN
              ('ready', 'scheduled', 'running', 'staged')
              AND l.id NOT IN (SELECT id FROM dibs_blocked
                               WHERE limit_key IS NOT NULL)
           OR l.head = 2 AND v.state <> 'dead'""",
    "kept jobs are counted": """
        SELECT queue_id FROM dibs_kept k WHERE kept <>
        (SELECT count(*) FROM dibs_done WHERE queue_id = k.queue_id)""",
    "what runs of a limited queue is counted": """
        SELECT m.queue_id FROM dibs_limit m JOIN dibs_queue q
        ON q.id = m.queue_id WHERE q.limited AND m.key = '' AND m.running <>
        (SELECT count(*) FROM dibs_leased WHERE queue_id = q.id)""",
    "every unfinished job with a key is in its lane": """
        SELECT v.id FROM dibs_jobs v
        WHERE v.key IS NOT NULL AND v.state NOT IN ('done', 'dead')
        AND NOT EXISTS (SELECT 1 FROM dibs_lane WHERE id = v.id)""",
    "a key in use belongs to a job that is not dead": """
        SELECT u.key FROM dibs_unique u
        LEFT JOIN dibs_jobs v ON v.id = u.job_id
        WHERE NOT u.finished AND (v.state IS NULL OR v.state = 'dead')""",
    "an error has its job and its place": """
        SELECT e.job_id FROM dibs_error e
        LEFT JOIN dibs_job j ON j.id = e.job_id WHERE j.id IS NULL""",
    "no id is above the last one": """
        SELECT 1 WHERE (SELECT max(id) FROM dibs_job) > 9007199254740991""",
}
