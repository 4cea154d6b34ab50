# SPDX-License-Identifier: MIT
"""Plain SQL: what a program without dibs can do with the tables.

Everything is written by SQLite's own shell, through dibs_inbox, and claimed by
the dibs program.
"""

import re
import unittest

import plain

README = plain.SCHEMA / "README.md"


class InboxTest(plain.TestCase):
    """INSERT INTO dibs_inbox."""

    def setUp(self):
        super().setUp()
        self.dibs("init")

    def insert(self, **columns):
        """Insert a row; the values are SQL expressions."""
        names = ", ".join(columns)
        values = ", ".join(columns.values())
        self.sql(f"INSERT INTO dibs_inbox({names}) VALUES ({values});")

    def assert_refused(self, beginning, **columns):
        with self.assertRaises(plain.Refused, msg=columns) as caught:
            self.insert(**columns)
        text = str(caught.exception)
        self.assertTrue(text.startswith(beginning), f"{columns}: {text}")
        self.assertNotIn("\n", text)
        self.assertEqual(self.value("SELECT count(*) FROM dibs_job"), "0")
        self.assertEqual(self.value("SELECT count(*) FROM dibs_queue"), "0")

    def claim(self, *arguments):
        try:
            return self.dibs("claim", "--all", "-n", "100", *arguments)
        except plain.Failed as failed:
            self.assertEqual(failed.code, 3, failed.stderr)
            return []

    # -- values ------------------------------------------------------------

    def test_every_column_reaches_the_claim(self):
        self.insert(
            queue="'emails/welcome'",
            payload="'{\"to\": \"ann\"}'",
            name="'send'",
            headers="'{\"trace\":\"7f\"}'",
            priority="-5",
            due_at="1000",
            key="'user-42'",
        )
        [job] = self.claim()
        self.assertEqual(job["queue"], "emails/welcome")
        self.assertEqual(job["payload"], {"to": "ann"})
        self.assertEqual(job["name"], "send")
        self.assertEqual(job["headers"], {"trace": "7f"})
        self.assertEqual(job["priority"], -5)
        self.assertEqual(job["due_at"], "1970-01-01T00:00:01.000Z")
        self.assertEqual(job["key"], "user-42")
        self.assertEqual(job["attempt"], 1)
        self.assertEqual(job["max_attempts"], 20)

    def test_nothing_given_is_a_job_of_the_default_queue(self):
        self.insert(queue="NULL")
        [job] = self.claim()
        self.assertEqual(job["queue"], "default")
        self.assertEqual(job["priority"], 0)
        for absent in ("payload", "payload_base64", "name", "headers", "key"):
            self.assertNotIn(absent, job)

    def test_payloads_come_back_as_they_were(self):
        payloads = {
            "'null'": ("payload", None),
            "'\"text\"'": ("payload", "text"),
            "'[1, 2.50,\n true]'": ("payload", [1, 2.5, True]),
            "json_object('a', json('[]'))": ("payload", {"a": []}),
            "x''": ("payload_base64", ""),
            "x'00ff00'": ("payload_base64", "AP8A"),
            "CAST('{}' AS BLOB)": ("payload_base64", "e30="),
        }
        for payload in payloads:
            self.insert(payload=payload)
        jobs = self.claim()
        self.assertEqual(len(jobs), len(payloads))
        for job, (member, value) in zip(jobs, payloads.values()):
            self.assertIn(member, job)
            self.assertEqual(job[member], value)

    def test_created_at_is_now(self):
        self.insert(queue="'a'")
        apart = self.value(
            "SELECT abs(created_at - strftime('%s', 'now') * 1000)"
            " FROM dibs_jobs"
        )
        self.assertLess(int(apart), 60_000)

    # -- order and time ----------------------------------------------------

    def test_claims_go_by_priority_then_age(self):
        for priority in (0, 7, -1, 7):
            self.insert(queue="'a'", priority=str(priority))
        self.assertEqual([job["id"] for job in self.claim()], [2, 4, 1, 3])

    def test_a_delayed_job_is_scheduled(self):
        self.insert(queue="'a'", delay_ms="3600000")
        self.assertEqual(
            self.value(
                "SELECT state, due_at - created_at, next_due = due_at"
                " FROM dibs_jobs, dibs_queue"
            ),
            "scheduled|3600000|1",
        )
        self.assertEqual(self.claim(), [])
        self.assert_sound()

    def test_next_due_is_that_of_the_earliest(self):
        for delay in (3600000, 1800000, 7200000):
            self.insert(queue="'a'", delay_ms=str(delay))
        self.assertEqual(
            self.value(
                "SELECT next_due = (SELECT min(due_at) FROM dibs_scheduled)"
                " FROM dibs_queue"
            ),
            "1",
        )

    def test_a_job_that_falls_due_is_claimed(self):
        self.insert(queue="'a'", delay_ms="1")
        [job] = self.claim("--wait", "20s")
        self.assertEqual(job["id"], 1)
        self.assert_sound()

    def test_a_lane_runs_one_after_the_other(self):
        for payload in "123":
            self.insert(queue="'a'", key="'k'", payload=f"'{payload}'")
        self.insert(queue="'b'", key="'k'", payload="'4'")
        self.assert_sound()
        seen = []
        for _ in range(3):
            jobs = self.claim()
            seen.append([job["payload"] for job in jobs])
            self.dibs("ack", *(job["receipt"] for job in jobs))
            self.assert_sound()
        self.assertEqual(seen, [[1, 4], [2], [3]])

    def test_a_lane_waits_for_a_scheduled_head(self):
        self.insert(queue="'a'", key="'k'", delay_ms="3600000")
        self.insert(queue="'a'", key="'k'")
        self.assertEqual(
            self.sql("SELECT state FROM dibs_jobs ORDER BY id"),
            ["scheduled", "blocked"],
        )
        self.assertEqual(self.claim(), [])

    def test_inbox_and_dibs_share_a_lane(self):
        self.dibs("enqueue", "-q", "a", "--key", "k", "1")
        self.insert(queue="'a'", key="'k'", payload="'2'")
        self.dibs("enqueue", "-q", "a", "--key", "k", "3")
        self.assert_sound()
        seen = []
        for _ in range(3):
            [job] = self.claim()
            seen.append(job["payload"])
            self.dibs("ack", job["receipt"])
        self.assertEqual(seen, [1, 2, 3])

    def test_a_paused_queue_holds_its_jobs(self):
        self.insert(queue="'a'")
        self.sql("UPDATE dibs_queue SET paused = 1, claimable = 0;")
        self.insert(queue="'a'")
        self.assertEqual(self.claim(), [])
        self.assertEqual(
            self.value("SELECT ready, paused FROM dibs_queues"), "2|1"
        )
        self.sql("UPDATE dibs_queue SET paused = 0, claimable = 1;")
        self.assertEqual(len(self.claim()), 2)

    # -- ids ---------------------------------------------------------------

    def test_an_id_is_never_given_twice(self):
        self.insert(queue="'a'")
        self.insert(queue="'a'")
        jobs = self.claim()
        self.dibs("ack", *(job["receipt"] for job in jobs))
        self.assertEqual(self.value("SELECT count(*) FROM dibs_job"), "0")
        self.insert(queue="'a'")
        [job] = self.dibs("enqueue", "-q", "a", "1")
        self.assertEqual(self.sql("SELECT id FROM dibs_jobs"), ["3", "4"])
        self.assertEqual(job["id"], 4)

    def test_last_insert_rowid_is_left_alone(self):
        rows = self.sql(
            "CREATE TABLE t(id INTEGER PRIMARY KEY);"
            "INSERT INTO t VALUES (77);"
            "INSERT INTO dibs_inbox(queue) VALUES ('a');"
            "SELECT last_insert_rowid();"
        )
        self.assertEqual(rows, ["77"])

    # -- transactions ------------------------------------------------------

    def test_a_rollback_leaves_nothing(self):
        self.sql(
            "CREATE TABLE t(x);"
            "BEGIN IMMEDIATE;"
            "INSERT INTO t VALUES (1);"
            "INSERT INTO dibs_inbox(queue, payload) VALUES ('a', '1');"
            "ROLLBACK;"
        )
        self.assertEqual(self.claim(), [])
        self.assertEqual(self.value("SELECT count(*) FROM t"), "0")
        self.assertEqual(self.value("SELECT count(*) FROM dibs_queue"), "0")

    def test_a_savepoint_takes_its_part_back(self):
        self.sql(
            "BEGIN IMMEDIATE;"
            "INSERT INTO dibs_inbox(queue, payload) VALUES ('a', '1');"
            "SAVEPOINT s;"
            "INSERT INTO dibs_inbox(queue, payload) VALUES ('a', '2');"
            "ROLLBACK TO s;"
            "INSERT INTO dibs_inbox(queue, payload) VALUES ('a', '3');"
            "COMMIT;"
        )
        self.assertEqual([job["payload"] for job in self.claim()], [1, 3])

    def test_jobs_are_there_only_after_the_commit(self):
        insert = "INSERT INTO dibs_inbox(queue, payload) VALUES ('a', '1');"
        look = f".shell {plain.SQLITE3} {self.db} "
        look += "'SELECT count(*) FROM dibs_jobs'\n"
        rows = self.sql(f"BEGIN IMMEDIATE;\n{insert}\n{look}COMMIT;\n{look}")
        self.assertEqual(rows, ["0", "1"])
        self.assertEqual(len(self.claim()), 1)

    def test_a_refusal_leaves_the_transaction_open(self):
        self.sql("CREATE TABLE t(x);")
        script = (
            ".bail off\nBEGIN IMMEDIATE;\nINSERT INTO t VALUES (1);\n"
            "INSERT INTO dibs_inbox(payload) VALUES ('{');\n"
            "INSERT INTO dibs_inbox(payload) VALUES ('{}');\nCOMMIT;\n"
        )
        with self.assertRaises(plain.Refused) as caught:
            self.sql(script)
        self.assertTrue(str(caught.exception).startswith("DIBS_INVALID: "))
        self.assertEqual(self.value("SELECT count(*) FROM t"), "1")
        self.assertEqual([job["payload"] for job in self.claim()], [{}])

    def test_a_refused_row_undoes_the_whole_statement(self):
        with self.assertRaises(plain.Refused):
            self.sql(
                "INSERT INTO dibs_inbox(queue, payload)"
                " SELECT 'a', value FROM json_each('[\"1\", \"2\", \"{\"]');"
            )
        self.assertEqual(self.value("SELECT count(*) FROM dibs_job"), "0")
        self.assertEqual(self.value("SELECT count(*) FROM dibs_queue"), "0")

    # -- triggers ----------------------------------------------------------

    def test_a_trigger_of_the_application_enqueues(self):
        self.sql(
            "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT);"
            "CREATE TRIGGER welcome AFTER INSERT ON users BEGIN"
            " INSERT INTO dibs_inbox(queue, payload)"
            " VALUES ('welcome', json_object('user', new.id)); END;"
            "INSERT INTO users(name) VALUES ('ann'), ('bob');"
        )
        payloads = [job["payload"] for job in self.claim()]
        self.assertEqual(payloads, [{"user": 1}, {"user": 2}])

    def test_a_refusal_in_a_trigger_undoes_the_write(self):
        self.sql(
            "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT);"
            "CREATE TRIGGER welcome AFTER INSERT ON users BEGIN"
            " INSERT INTO dibs_inbox(queue, payload)"
            " VALUES (new.name, '{}'); END;"
        )
        with self.assertRaises(plain.Refused) as caught:
            self.sql("INSERT INTO users(name) VALUES ('ann*');")
        self.assertTrue(str(caught.exception).startswith("DIBS_INVALID: "))
        self.assertEqual(self.value("SELECT count(*) FROM users"), "0")

    def test_the_conflict_clause_of_the_writer_changes_nothing(self):
        self.sql("INSERT INTO dibs_inbox(queue, key) VALUES ('a', 'k');")
        for clause in ("REPLACE", "IGNORE", "FAIL", "ABORT", "ROLLBACK"):
            self.sql(
                f"INSERT OR {clause} INTO dibs_inbox(queue, key)"
                " VALUES ('a', 'k'), ('b', NULL);"
            )
            with self.assertRaises(plain.Refused, msg=clause) as caught:
                self.sql(
                    f"INSERT OR {clause} INTO dibs_inbox(queue, payload)"
                    " VALUES ('a', 5);"
                )
            self.assertTrue(str(caught.exception).startswith("DIBS_INVALID"))
        self.assertEqual(self.value("SELECT count(*) FROM dibs_jobs"), "11")
        self.assertEqual(self.value("SELECT count(*) FROM dibs_queue"), "2")
        self.assert_sound()

    # -- refusals ----------------------------------------------------------

    def test_names_are_checked(self):
        wrong = [
            "''",
            "'a*'",
            "'a/*'",
            "'a' || char(7)",
            "'a' || char(10)",
            "'a' || char(127)",
            "'a' || char(128)",
            "'a' || char(159)",
            "'a' || char(0) || 'b'",
            "hex(zeroblob(128))",
            "replace(hex(zeroblob(64)), '0', 'é')",
            "5",
            "x'61'",
        ]
        for column in ("queue", "name", "key"):
            for value in wrong:
                with self.subTest(column=column, value=value):
                    self.assert_refused(
                        f"DIBS_INVALID: {column} must be", **{column: value}
                    )

    def test_names_at_their_limits_are_taken(self):
        right = [
            "substr(hex(zeroblob(128)), 1, 255)",
            "'a' || char(160)",
            "'日本/語'",
            "'a b'",
            "'%[]?'",
        ]
        for value in right:
            self.insert(queue=value, name=value, key=value)
        self.assertEqual(len(self.claim()), len(right))

    def test_payloads_are_checked(self):
        for value in ("5", "1.5", "0"):
            self.assert_refused(
                "DIBS_INVALID: payload is a number", payload=value
            )
        for value in ("''", "'{'", "'text'", "'[1,]'", "'1' || char(0)"):
            self.assert_refused(
                "DIBS_INVALID: payload is text but not JSON", payload=value
            )

    def test_a_payload_over_the_limit_is_refused(self):
        self.assert_refused(
            "DIBS_TOO_BIG: payload", payload="zeroblob(67108865)"
        )
        self.insert(payload="zeroblob(67108864)")
        self.assertEqual(self.value("SELECT count(*) FROM dibs_job"), "1")

    def test_headers_are_checked(self):
        wrong = ["''", "'x'", "'[]'", "'null'", "'\"a\"'", "5", "x'7b7d'"]
        wrong += ["'{\"a\":1}'", "'{\"a\":{}}'", "'{\"a\":null}'"]
        for value in wrong:
            self.assert_refused("DIBS_INVALID: headers", headers=value)
        self.assert_refused(
            "DIBS_TOO_BIG: headers",
            headers="json_object('a', hex(zeroblob(32768)))",
        )
        self.insert(headers="'{}'")

    def test_numbers_are_checked(self):
        wrong = {
            "priority": ["2147483648", "-2147483649", "1.5", "'high'", "x'01'"],
            "delay_ms": ["-1", "1.5", "'5m'", "253402300800000"],
            "due_at": ["-1", "1.5", "'2026-01-31'", "253402300800000"],
        }
        for column, values in wrong.items():
            for value in values:
                self.assert_refused(
                    f"DIBS_INVALID: {column} must be", **{column: value}
                )
        self.assert_refused(
            "DIBS_INVALID: give delay_ms or due_at", delay_ms="1", due_at="1"
        )
        self.insert(priority="2147483647", due_at="0")
        self.insert(priority="-2147483648", delay_ms="0")
        self.assertEqual(len(self.claim()), 2)


class ReadmeTest(plain.TestCase):
    """The SQL in schema/README.md does what it says there."""

    def test_the_statements_do_what_is_said(self):
        self.dibs("init")
        steps = readme_steps(README.read_text())
        self.assertGreater(len(steps), 12, "the README's SQL was not found")
        for sql, gives, refused in steps:
            with self.subTest(sql=sql):
                if refused:
                    with self.assertRaises(plain.Refused) as caught:
                        self.sql(sql)
                    text = str(caught.exception)
                    self.assertTrue(text.startswith(refused), text)
                else:
                    self.assertEqual(self.sql(sql), gives)
        self.assert_sound()


    def test_every_column_is_described(self):
        self.dibs("init")
        sections = readme_sections(README.read_text())
        shared = sections["The columns of every placement"]
        dead_as_done = sections["dibs_done"]
        rows = self.sql(
            "SELECT t.name || ' ' || c.name"
            " FROM sqlite_schema t, pragma_table_info(t.name) c"
            " WHERE t.type = 'table' OR t.name LIKE 'dibs_queues'"
        )
        self.assertGreater(len(rows), 100)
        for table, column in (row.split() for row in rows):
            text = sections[table]
            if table[5:] in plain.PLACEMENTS:
                text += shared
            if table == "dibs_dead":
                text += dead_as_done
            with self.subTest(table=table, column=column):
                described = is_described(column, text, table)
                self.assertTrue(described, "not in README.md")

    def test_every_index_is_described(self):
        self.dibs("init")
        text = README.read_text()
        names = self.sql(
            "SELECT name FROM sqlite_schema WHERE type IN ('index', 'trigger')"
            " AND name NOT LIKE 'sqlite_%'"
        )
        self.assertGreater(len(names), 5)
        for name in names:
            with self.subTest(name=name):
                self.assertTrue(f"`{name}`" in text, "not in README.md")


def is_described(column, text, table):
    """Whether a table of the text has a row for the column.

    Where there is no such table, or where its rows are not columns, the column
    must be named in the text.
    """
    row = re.compile(rf"^\|[^|]*`{column}`", re.M)
    if "\n| column |" not in text or table == "dibs_ready":
        return f"`{column}`" in text
    return bool(row.search(text))


def readme_sections(text):
    """The text beneath each heading, by the heading."""
    parts = re.split(r"^#+ (.*)\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def readme_steps(text):
    """(SQL, rows it gives, beginning of its error) of each example.

    A step ends where a result is told, or at an empty line outside of a
    transaction and a trigger.
    """
    steps = []
    for block in re.findall(r"^```sql\n(.*?)^```", text, re.M | re.S):
        parts = re.split(r"\n\n(?=INSERT|SELECT|CREATE|BEGIN|UPDATE)", block)
        for part in parts:
            lines = part.splitlines()
            gives = [x[9:] for x in lines if x.startswith("-- gives ")]
            refused = [x[11:] for x in lines if x.startswith("-- refused ")]
            steps.append((part, gives, refused[0] if refused else None))
    return steps


if __name__ == "__main__":
    unittest.main()
