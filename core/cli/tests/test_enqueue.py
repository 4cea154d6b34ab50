# SPDX-License-Identifier: MIT
"""enqueue: payloads, job options, unique and staged jobs."""

import base64
import sqlite3

import pytest

from harness import Database, run


def test_people_get_the_bare_id(db):
    result = db.run("enqueue", '{"a":1}')
    assert (result.code, result.out, result.err) == (0, "1\n", "")


def test_json_gives_the_id(db):
    assert db.ok("enqueue", '{"a":1}') == [{"id": 1}]


def test_only_a_new_file_gets_its_tables(tmp_path):
    db = Database(tmp_path, init=False)
    assert db.enqueue("1") == 1
    sqlite3.connect(tmp_path / "app.db").execute("CREATE TABLE t(x)").close()
    result = run("--db", tmp_path / "app.db", "--json", "enqueue", "1")
    assert result.code == 8, result
    assert result.error["status"] == "DIBS_SCHEMA"
    assert "init" in result.error["message"]


@pytest.mark.parametrize(
    "text, value",
    [
        ('{"to":"ann"}', {"to": "ann"}),
        ("[1,2]", [1, 2]),
        ('"text"', "text"),
        ("null", None),
        ("1.50", 1.5),
        ("true", True),
    ],
)
def test_a_payload_is_json(db, text, value):
    job = db.get(db.enqueue(text))
    assert job["payload"] == value
    assert "payload_base64" not in job


def test_no_payload_is_left_out(db):
    job = db.get(db.enqueue())
    assert "payload" not in job and "payload_base64" not in job


@pytest.mark.parametrize("text", ["", "{", "{'a':1}", "nul", "1 2", "\udcff"])
def test_what_is_no_json_is_refused(db, text):
    result = db.json("enqueue", text)
    assert result.code == 2, result
    assert result.error["status"] == "DIBS_INVALID"
    assert db.ok("list") == []


def payload_bytes(job):
    return base64.b64decode(job["payload_base64"])


def test_bytes_are_kept(db):
    assert payload_bytes(db.get(db.enqueue("--bytes", "{x"))) == b"{x"
    assert payload_bytes(db.get(db.enqueue("--bytes", ""))) == b""
    assert payload_bytes(db.get(db.enqueue("--bytes", "\udcff"))) == b"\xff"


def test_a_file_is_the_payload(db, tmp_path):
    everything = bytes(range(256)) * 300
    (tmp_path / "f").write_bytes(everything)
    job = db.get(db.enqueue("--bytes", "--file", tmp_path / "f"))
    assert payload_bytes(job) == everything
    (tmp_path / "j").write_text('{"a":\n 1}\n')
    assert db.get(db.enqueue("--file", tmp_path / "j"))["payload"] == {"a": 1}


def test_stdin_is_the_payload(db):
    job = db.enqueue("--bytes", "--file", "-", input=b"a\0b\n")
    assert payload_bytes(db.get(job)) == b"a\0b\n"
    job = db.enqueue("--bytes", "--file", "-", input=b"")
    assert payload_bytes(db.get(job)) == b""


def test_a_file_that_is_not_there(tmp_path):
    db = Database(tmp_path, init=False)
    result = db.json("enqueue", "--file", tmp_path / "missing")
    assert result.code == 2, result
    assert "missing" in result.error["message"]
    assert not (tmp_path / "jobs.db").exists()


def test_a_file_over_the_limit(db, tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 1001)
    words = ("enqueue", "--bytes", "--file", tmp_path / "f", "--max-payload")
    result = db.json(*words, 1000)
    assert result.code == 2, result
    assert result.error["status"] == "DIBS_TOO_BIG"
    assert db.json(*words, 1001).code == 0
    endless = ("enqueue", "--bytes", "--file", "/dev/zero", "--max-payload")
    assert db.json(*endless, 1000).error["status"] == "DIBS_TOO_BIG"


def test_base64_stands_for_bytes(db):
    assert payload_bytes(db.get(db.enqueue("--base64", "AAEC/w=="))) == (
        b"\0\1\2\xff"
    )
    assert payload_bytes(db.get(db.enqueue("--base64", ""))) == b""
    result = db.json("enqueue", "--base64", "%%%")
    assert result.code == 2
    assert "--base64" in result.error["message"]


@pytest.mark.parametrize(
    "words",
    [
        ["1", "--file", "f"],
        ["1", "--base64", "AA=="],
        ["--file", "f", "--base64", "AA=="],
        ["--lines", "1"],
        ["--lines", "--jobs"],
        ["--jobs", "--bytes"],
        ["--jobs", "--file", "-"],
        ["--atomic", "1"],
        ["1", "-q", "a", "-q", "b"],
        ["1", "--header", "a=1", "--headers", "{}"],
        ["1", "--header", "noequals"],
        ["1", "--header", "=x"],
        ["1", "--header", "a=\udcff"],
        ["1", "--headers", "[]"],
        ["1", "--headers", '{"a":1}'],
        ["1", "--delay", "1", "--at", "2030-01-01T00:00:00Z"],
        ["1", "-q", "a*"],
        ["1", "-q", ""],
        ["1", "-q", "x" * 256],
        ["1", "-q", "a\tb"],
        ["1", "--name", "\u009b"],
        ["1", "--priority", "2147483648"],
        ["1", "--backoff-factor", "0.5"],
        ["1", "--backoff-jitter", "2"],
        ["1", "--lease", "0"],
    ],
)
def test_what_does_not_go_together_is_refused(db, words):
    result = db.json("enqueue", *words)
    assert result.code == 2, result
    assert result.error["status"] == "DIBS_INVALID"
    assert db.ok("list") == []


def test_every_job_option_arrives(db, tmp_path):
    job = db.enqueue(
        *("1", "-q", "a/b", "--name", "resize", "--priority", "-3"),
        *("--header", "trace=1", "--header", "say=a=b", "--max-attempts", "7"),
        *("--at", "2099-01-02T03:04:05.678+01:00", "--expires", "40000d"),
        *("--max-crashes", "4", "--backoff", "2s", "--backoff-factor", "1.5"),
        *("--backoff-cap", "1m", "--backoff-jitter", "0.25", "--lease", "90"),
        *("--timeout", "250ms", "--keep", "inf", "--key", "user-42"),
        *("--limit-key", "lk", "--unique", "uk", "--unique-for", "start"),
        *("--unique-scope", "all", "--on-conflict", "replace"),
    )
    shown = db.get(job)
    assert shown["queue"] == "a/b"
    assert shown["name"] == "resize"
    assert shown["priority"] == -3
    assert shown["headers"] == {"trace": "1", "say": "a=b"}
    assert shown["max_attempts"] == 7
    assert shown["due_at"] == "2099-01-02T02:04:05.678Z"
    assert shown["key"] == "user-42"
    assert shown["state"] == "scheduled"
    row = sqlite3.connect(tmp_path / "jobs.db").execute(
        "SELECT * FROM dibs_job WHERE id = ?", (job,)
    )
    columns = dict(zip([c[0] for c in row.description], row.fetchone()))
    values = list(map(str, columns.values()))
    for value in ("4", "2000", "1.5", "60000", "0.25", "90000", "250"):
        assert value in values, (value, columns)
    assert "lk" in values, columns


def test_headers_as_an_object(db):
    job = db.enqueue("1", "--headers", '{"a":"\\u0007","b":"2"}')
    assert db.get(job)["headers"] == {"a": "\x07", "b": "2"}


def test_the_last_header_of_a_name_counts(db):
    words = ("--header", "a=1", "--header", "ab=2")
    assert db.get(db.enqueue("1", *words))["headers"] == {"a": "1", "ab": "2"}
    job = db.enqueue("1", *words, "--header", "a=3")
    assert '"headers":{"ab":"2","a":"3"}' in db.json("get", job).out


def test_a_header_may_hold_anything(db):
    text = 'q"b\\s\nn\x01\u00e9'
    job = db.enqueue("1", "--header", f"k={text}", "--header", "empty=")
    assert db.get(job)["headers"] == {"k": text, "empty": ""}


def test_a_delay_schedules(db):
    assert db.get(db.enqueue("1", "--delay", "5m"))["state"] == "scheduled"
    assert db.get(db.enqueue("1", "--delay", "0"))["state"] == "ready"


def test_a_unique_job_that_is_there_is_given(db):
    words = ("enqueue", "1", "--unique", "k")
    assert db.ok(*words) == [{"id": 1}]
    assert db.ok(*words) == [{"id": 1, "existing": True}]
    assert db.run(*words).out == "1\n"
    assert db.ok(*words, "--on-conflict", "replace") == [
        {"id": 1, "existing": True}
    ]


def test_a_unique_job_may_be_rejected(db):
    db.enqueue("1", "--unique", "k")
    words = ("enqueue", "2", "--unique", "k", "--on-conflict", "reject")
    result = db.json(*words)
    assert result.code == 5, result
    assert result.error["status"] == "DIBS_EXISTS"
    assert result.error["id"] == 1
    assert db.run(*words).code == 5


def test_a_staged_job_waits_for_its_commit(db):
    job = db.enqueue("1", "--stage", "5m")
    assert db.get(job)["state"] == "staged"
    assert db.json("claim").code == 3
    assert db.ok("commit", job) == [{"id": job, "state": "ready"}]
    assert db.claim()["id"] == job


def test_abort_removes_a_staged_job(db):
    first, second = (db.enqueue("1", "--stage", "5m") for _ in range(2))
    assert db.ok("abort", first) == [{"id": first}]
    assert db.run("abort", second).out == f"{second}  removed\n"
    assert db.json("get", first).code == 3


def test_commit_and_abort_want_a_staged_job(db):
    job = db.enqueue("1")
    for command in ("commit", "abort"):
        result = db.json(command, job, 99)
        assert result.code == 4, result
        assert [e["status"] for e in result.errors] == [
            "DIBS_STATE",
            "DIBS_NOT_FOUND",
        ]
        assert [e["id"] for e in result.errors] == [job, 99]


def test_a_commit_that_comes_too_late(db):
    """A millisecond is over before another process can commit."""
    job = db.enqueue("1", "--stage", "1ms")
    result = db.json("commit", job)
    assert result.code == 4, result
    assert (result.error["status"], result.error["id"]) == ("DIBS_LATE", job)
