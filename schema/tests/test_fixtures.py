# SPDX-License-Identifier: MIT
"""Databases of every version: today's dibs opens them and works on them.

schema/fixtures/make says what is in them. Each test has a copy of its own.
"""

import json
import shutil
import unittest
from pathlib import Path

import plain

FIXTURES = plain.SCHEMA / "fixtures"
VERSIONS = sorted(int(path.stem) for path in FIXTURES.glob("[0-9]*.db"))
AGAIN = "run schema/fixtures/make again, and look at what it changes"


class FixtureTest(plain.TestCase):
    """Each test is run for the fixture of each version."""

    def each_version(self):
        self.assertTrue(VERSIONS, "no fixture was found")
        for version in VERSIONS:
            with self.subTest(version=version):
                self.version = version
                for path in self.folder.iterdir():
                    path.unlink()
                shutil.copy(FIXTURES / f"{version}.db", self.db)
                yield version
                self.assert_sound()

    def kept(self, name):
        return (FIXTURES / f"{self.version}.{name}").read_text().splitlines()

    def expected(self):
        return [json.loads(line) for line in self.kept("jobs.json")]

    def jobs(self, *arguments):
        return self.dibs("list", "--limit", "1000", *arguments)

    def in_state(self, state, queue=None):
        return [
            job
            for job in self.expected()
            if job["state"] == state and queue in (None, job["queue"])
        ]

    # -- reading -----------------------------------------------------------

    def test_every_job_is_as_it_was(self):
        for _ in self.each_version():
            self.assertEqual(self.jobs(), self.expected())
            self.assertEqual(self.jobs(), self.expected(), "the second time")

    def test_every_state_and_outcome_is_in_it(self):
        for _ in self.each_version():
            self.assertEqual(
                {job["state"] for job in self.expected()},
                set("ready scheduled blocked staged running done dead".split()),
            )
            self.assertEqual(
                {job["outcome"] for job in self.in_state("done")},
                set("acked cancelled expired discarded".split()),
            )

    def test_the_view_agrees_with_the_program(self):
        for _ in self.each_version():
            rows = self.sql(
                "SELECT id, queue, state FROM dibs_jobs ORDER BY id"
            )
            expected = [
                f"{job['id']}|{job['queue']}|{job['state']}"
                for job in self.expected()
            ]
            self.assertEqual(rows, expected)

    def test_payloads_are_kept_to_the_byte(self):
        kept = [
            '{"to":"ann","n":[1,2.50,null,true]}',
            '  [ 1,  "two" ]  ',
            '"caf\\u00e9 \\ud83d\\ude00"',
            "null",
        ]
        for _ in self.each_version():
            rows = self.sql(
                "SELECT typeof(payload), payload FROM dibs_jobs"
                " WHERE queue = 'ready' ORDER BY id LIMIT 4"
            )
            self.assertEqual(rows, [f"text|{text}" for text in kept])
            rows = self.sql(
                "SELECT typeof(payload), hex(payload) FROM dibs_jobs"
                " WHERE queue = 'ready' ORDER BY id LIMIT 3 OFFSET 4"
            )
            self.assertEqual(rows, ["null|", "blob|", "blob|000102FF00"])

    def test_counts_are_those_of_the_jobs(self):
        for _ in self.each_version():
            for stats in self.dibs("stats"):
                for state in ("ready", "scheduled", "blocked", "staged"):
                    jobs = self.in_state(state, stats["queue"])
                    self.assertEqual(stats[state], len(jobs), stats)
                for state in ("running", "done", "dead"):
                    jobs = self.in_state(state, stats["queue"])
                    self.assertEqual(stats[state], len(jobs), stats)

    def test_errors_are_kept(self):
        for _ in self.each_version():
            [job] = self.in_state("ready", "retried")
            [full] = self.dibs("get", job["id"])
            texts = [error["text"] for error in full["errors"]]
            self.assertEqual(texts[0], "first")
            self.assertTrue(texts[1].startswith("second\nline"))
            self.assertEqual(full["last_error"], texts[1])

    def test_nothing_is_written_by_reading(self):
        for version in self.each_version():
            self.jobs()
            self.dibs("stats")
            self.dibs("doctor")
            self.assertEqual(
                self.db.read_bytes(),
                (FIXTURES / f"{version}.db").read_bytes(),
            )

    # -- working -----------------------------------------------------------

    def test_ready_jobs_are_claimed_and_acked(self):
        for _ in self.each_version():
            expected = [job["id"] for job in self.in_state("ready")]
            claimed = self.dibs("claim", "--all", "-n", "1000")
            paused = [job["id"] for job in self.in_state("ready", "paused")]
            self.assertTrue(paused)
            self.assertEqual(
                sorted(job["id"] for job in claimed),
                [id for id in expected if id not in paused],
            )
            settled = self.dibs("ack", *(job["receipt"] for job in claimed))
            self.assertEqual({each["state"] for each in settled}, {"done"})

    def test_priority_goes_first(self):
        for _ in self.each_version():
            jobs = self.in_state("ready", "ready")
            jobs.sort(key=lambda job: (-job["priority"], job["id"]))
            claimed = self.dibs("claim", "-q", "ready", "-n", "1000")
            self.assertEqual(
                [job["id"] for job in claimed], [job["id"] for job in jobs]
            )

    def test_receipts_of_running_jobs_still_settle(self):
        for _ in self.each_version():
            receipts = self.kept("receipts")
            self.assertEqual(len(receipts), len(self.in_state("running")))
            done, dead, ready, limited = receipts
            [one] = self.dibs("ack", done)
            self.assertEqual(one["state"], "done")
            [one] = self.dibs("fail", dead, "--error", "no")
            self.assertEqual(one["state"], "dead")
            [one] = self.dibs("release", ready)
            self.assertEqual(one["state"], "ready")
            [one] = self.dibs("ack", limited)
            self.assertEqual(one["state"], "done")
            with self.assertRaises(plain.Failed) as caught:
                self.dibs("ack", done)
            self.assertEqual(caught.exception.code, 4)
            self.assertIn("DIBS_LOST", caught.exception.stderr)

    def test_a_lane_goes_on(self):
        for _ in self.each_version():
            seen = []
            for _ in range(2):
                claimed = self.dibs("claim", "-q", "lane", "-n", "10")
                seen.append([job["payload"] for job in claimed])
                self.dibs("ack", *(job["receipt"] for job in claimed))
                self.assert_sound()
            self.assertEqual(seen, [[1, 4], [2]])
            states = [job["state"] for job in self.jobs("-q", "lane")]
            self.assertEqual(states, ["scheduled"])

    def test_a_queue_is_as_it_was_set(self):
        for _ in self.each_version():
            running, aside, behind, _, dead, held = self.jobs(
                "-q", "limited", "--limit", "6"
            )
            [settings] = self.dibs("queue", "show", "limited")
            self.assertEqual(settings["limit_per_key"], 1)
            self.assertEqual(settings["dead_head"], "block")
            with self.assertRaises(plain.Failed):
                self.dibs("claim", "-q", "limited")
            self.dibs("ack", self.kept("receipts")[3])
            [job] = self.dibs("claim", "-q", "limited", "-n", "10")
            self.assertEqual(job["id"], aside["id"])
            self.dibs("dead", "requeue", dead["id"])
            [job] = self.dibs("claim", "-q", "limited", "-n", "10")
            self.assertEqual(job["id"], dead["id"])
            self.dibs("ack", job["receipt"])
            [job] = self.dibs("claim", "-q", "limited", "-n", "10")
            self.assertEqual(job["id"], held["id"])
            states = {job["id"]: job["state"] for job in self.jobs()}
            self.assertEqual(states[running["id"]], "done")
            self.assertEqual(states[dead["id"]], "done")
            self.assertEqual(states[behind["id"]], "blocked")
            done = [job["state"] for job in self.jobs("-q", "limited")]
            self.assertEqual(done.count("done"), 2)

    def test_dead_letters_are_redriven(self):
        for _ in self.each_version():
            dead = self.in_state("dead", "dead")
            [moved] = self.dibs("dead", "redrive", "-q", "dead")
            self.assertEqual(moved["count"], len(dead))
            jobs = self.jobs("-q", "dead")
            self.assertEqual({job["state"] for job in jobs}, {"ready"})
            self.assertEqual(
                [job["created_at"] for job in jobs],
                [job["created_at"] for job in dead],
            )

    def test_a_staged_job_is_committed(self):
        for _ in self.each_version():
            job, head = self.in_state("staged")
            self.dibs("commit", job["id"])
            [after] = self.dibs("get", job["id"])
            self.assertEqual(after["state"], "ready")
            self.dibs("abort", head["id"])
            [freed] = self.in_state("blocked", "staged")
            [after] = self.dibs("get", freed["id"])
            self.assertEqual(after["state"], "ready")

    def test_unique_keys_are_still_in_use(self):
        for _ in self.each_version():
            holders = self.in_state("ready", "unique")
            for number, options in enumerate(
                ([], ["--unique-scope", "all"], []), start=1
            ):
                key = f"invoice-{number}"
                [job] = self.dibs(
                    "enqueue", "-q", "unique", "--unique", key, *options, "9"
                )
                self.assertEqual(job["id"], holders[number - 1]["id"], key)
                self.assertTrue(job["existing"], key)

    def test_ids_go_on(self):
        for _ in self.each_version():
            last = int(
                self.value(
                    "SELECT max((SELECT max(id) FROM dibs_job),"
                    " (SELECT value FROM dibs_meta WHERE key = 'last_id'))"
                )
            )
            [job] = self.dibs("enqueue", "-q", "new", "1")
            self.assertEqual(job["id"], last + 1)

    def test_everything_can_be_removed(self):
        for _ in self.each_version():
            self.dibs("clear", "--all", "--dead", "--yes")
            states = {job["state"] for job in self.jobs()}
            self.assertEqual(states, {"running", "done"})


class DriftTest(plain.TestCase):
    """The newest fixture has the tables that a new database has."""

    SCHEMA_SQL = (
        "SELECT type || ' ' || name || ' ' || coalesce(sql, '')"
        " FROM sqlite_schema ORDER BY type, name"
    )

    def objects(self, path):
        return "\n".join(plain.sqlite3(path, self.SCHEMA_SQL))

    def test_the_newest_fixture_has_the_tables_of_a_new_database(self):
        self.dibs("init")
        version = int(
            self.value("SELECT value FROM dibs_meta WHERE key = 'schema'")
        )
        self.assertEqual(version, VERSIONS[-1], AGAIN)
        fixture = self.folder / "fixture.db"
        shutil.copy(FIXTURES / f"{version}.db", fixture)
        self.assertEqual(self.objects(self.db), self.objects(fixture), AGAIN)

    def test_a_new_database_is_what_the_file_says(self):
        self.dibs("init")
        other = self.folder / "other.db"
        newest = plain.SCHEMA / f"{VERSIONS[-1]}.sql"
        plain.sqlite3(other, newest.read_text())
        self.assertEqual(self.objects(self.db), self.objects(other))

    def test_fixtures_are_small(self):
        for version in VERSIONS:
            size = Path(FIXTURES / f"{version}.db").stat().st_size
            self.assertLess(size, 200_000, f"{version}.db")


class CompatibilityTest(plain.TestCase):
    """dibs_meta decides who may open a file."""

    def setUp(self):
        super().setUp()
        self.dibs("enqueue", "1")

    def set_versions(self, schema, oldest_writer):
        self.sql(
            f"UPDATE dibs_meta SET value = {schema} WHERE key = 'schema';"
            f"UPDATE dibs_meta SET value = {oldest_writer}"
            " WHERE key = 'oldest_writer';"
            "PRAGMA wal_checkpoint(TRUNCATE);"
        )

    def test_a_newer_file_that_only_added_is_used(self):
        self.set_versions(VERSIONS[-1] + 1, VERSIONS[-1])
        [job] = self.dibs("claim")
        self.assertEqual(job["payload"], 1)
        [settled] = self.dibs("ack", job["receipt"])
        self.assertEqual(settled["state"], "done")
        self.assertEqual(
            self.value("SELECT value FROM dibs_meta WHERE key = 'schema'"),
            str(VERSIONS[-1] + 1),
        )

    def test_a_file_from_the_future_is_left_untouched(self):
        future = VERSIONS[-1] + 1
        self.set_versions(future, future)
        before = self.db.read_bytes()
        for command in (
            ["claim"],
            ["enqueue", "2"],
            ["list"],
            ["init"],
            ["clear", "--all", "--yes"],
        ):
            with self.assertRaises(plain.Failed, msg=command) as caught:
                self.dibs(*command)
            self.assertEqual(caught.exception.code, 8)
            error = json.loads(caught.exception.stderr)["error"]
            self.assertEqual(error["status"], "DIBS_SCHEMA")
            self.assertIn(str(future), error["message"])
        self.assertEqual(self.db.read_bytes(), before)

    def assert_left_untouched(self, sql, *command):
        """A file with these tables is refused, and is the same afterwards."""
        other = self.folder / "other.db"
        plain.sqlite3(other, sql)
        before = other.read_bytes()
        with self.assertRaises(plain.Failed) as caught:
            plain.dibs(other, *command)
        self.assertEqual(caught.exception.code, 8)
        error = json.loads(caught.exception.stderr)["error"]
        self.assertEqual(error["status"], "DIBS_SCHEMA")
        self.assertEqual(other.read_bytes(), before)

    def test_tables_of_somebody_else_are_left_untouched(self):
        self.assert_left_untouched("CREATE TABLE dibs_of_others(x);", "init")

    def test_an_application_is_left_untouched_before_init(self):
        self.assert_left_untouched("CREATE TABLE users(id);", "list")

    def test_a_future_file_without_wal_is_left_untouched(self):
        schema = (plain.SCHEMA / f"{VERSIONS[-1]}.sql").read_text()
        self.assert_left_untouched(
            schema + "UPDATE dibs_meta SET value = 99;", "list"
        )


if __name__ == "__main__":
    unittest.main()
