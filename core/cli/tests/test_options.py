# SPDX-License-Identifier: MIT
"""The command line: where options may stand, and what is said of a bad one."""

import json
import sqlite3

import pytest

from harness import Database, run


def test_no_command_shows_the_usage_on_stderr():
    result = run()
    assert result.code == 2
    assert result.out == ""
    assert "Usage: dibs" in result.err
    assert "enqueue" in result.err


def test_no_command_in_json_is_an_error_object():
    result = run("--json")
    assert result.code == 2
    assert result.error["status"] == "DIBS_INVALID"


@pytest.mark.parametrize(
    "words",
    [
        ["--db", "DB", "--json", "enqueue", "-q", "mail", "[1]"],
        ["enqueue", "[1]", "--db=DB", "-qmail", "--json"],
        ["enqueue", "--queue", "mail", "--json", "[1]", "--db", "DB"],
        ["-q", "mail", "--json", "enqueue", "--db", "DB", "[1]"],
        ["enqueue", "--json", "--queue=mail", "--db", "DB", "--", "[1]"],
    ],
)
def test_options_may_stand_anywhere(db, words):
    words = [word.replace("DB", db.path) for word in words]
    result = run(*words)
    assert result.code == 0, result
    job = db.get(result.row["id"])
    assert (job["queue"], job["payload"]) == ("mail", [1])


def test_an_option_of_two_kinds_before_the_command(db):
    """--result takes a value in ack, and none in worker."""
    db.enqueue("[1]", "--keep", "1h")
    receipt = db.claim()["receipt"]
    result = run("--result", '{"a":1}', "ack", receipt, "--db", db.path)
    assert result.code == 0, result
    assert db.get(1)["result"] == {"a": 1}
    result = run("--result", "worker", "--drain", "--db", db.path, "--", "true")
    assert result.code == 0, result


def test_a_number_is_no_option(db):
    job = db.enqueue("-5", "--priority", "-7")
    assert db.get(job)["payload"] == -5
    assert db.get(job)["priority"] == -7


def test_dashes_end_the_options(db):
    job = db.enqueue("--bytes", "--", "--json")
    assert db.get(job)["payload_base64"] == "LS1qc29u"


def test_letters_may_be_bundled(db):
    db.enqueue("-q", "a", "1")
    assert db.ok("clear", "-yq", "a") == [{"count": 1}]
    db.enqueue("-q", "a", "1")
    assert db.ok("clear", "-yqa") == [{"count": 1}]


def test_the_last_of_two_counts(db):
    job = db.enqueue("1", "--priority", "1", "--priority", "2")
    assert db.get(job)["priority"] == 2


@pytest.mark.parametrize(
    "words, named",
    [
        (["clam"], ['"clam"', "did you mean claim?"]),
        (["xyzzy"], ['"xyzzy"']),
        (["daed"], ["did you mean dead?"]),
        (["dead", "reque", "1"], ["dead reque", "requeue"]),
        (["dead", "foo"], ['"dead foo"', "list, requeue, redrive, purge"]),
        (["claim", "--lese", "1"], ["--lese", "did you mean --lease?"]),
        (["claim", "-z"], ["-z"]),
        (["claim", "--lease"], ["--lease", "D"]),
        (["claim", "--lease", "soon"], ["--lease", '"soon"', "30s"]),
        (["claim", "--lease=-1"], ["--lease", '"-1"']),
        (["claim", "--wait", "never"], ["--wait", '"never"', "inf"]),
        (["claim", "-n", "0"], ["--n", '"0"', "1 or more"]),
        (["claim", "-n", "many"], ['"many"', "whole number"]),
        (["claim", "-n", "99999999999999999999"], ["99999999999999999999"]),
        (["claim", "--json=yes"], ["--json takes no value"]),
        (["claim", "word"], ["claim", '"word"', "-q names a queue"]),
        (["pause", "mail"], ["did you mean queue pause?"]),
        (["requeue", "1"], ["did you mean dead requeue?"]),
        (["claim", "-q", "a", "--all"], ["-q", "--all"]),
        (["claim", "--synchronous", "off"], ['"off"', "full, normal"]),
        (["claim", "--max-payload", "-1"], ["--max-payload", '"-1"']),
        (["enqueue", "1", "2"], ["enqueue takes [PAYLOAD]", '"2"', "quote"]),
        (["wait", "1", "2"], ["wait takes ID", '"2" is too much']),
        (["init", "--db", ":memory:"], [":memory:", "name a file"]),
        (["enqueue", "--file", ""], ['--file "" cannot be opened']),
        (["enqueue", "--at", "noon"], ["--at", '"noon"', "2026-01-31T12:00:00Z"]),
        (["enqueue", "--backoff-factor", "x"], ["--backoff-factor", '"x"']),
        (["enqueue", "--unique-for", "x"], ['"x"', "start, finish"]),
        (["enqueue", "--on-conflict", "x"], ["keep, replace, postpone, reject"]),
        (["ack"], ["ack needs RECEIPT"]),
        (["get"], ["get needs ID"]),
        (["list", "--state", "odd"], ["ready, scheduled, blocked, staged"]),
        (["extend", "1:a"], ["--lease"]),
        (["snooze", "1:a"], ["--delay"]),
        (["change", "1"], ["--priority"]),
        (["explain"], ["explain needs ID... or -q QUEUE"]),
        (["explain", "1", "-q", "a"], ["ID or -q QUEUE, not both"]),
        (["explain", "-q", "a", "--all"], ["-q", "--all"]),
        (["queue", "set"], ["queue set needs QUEUE"]),
        (["queue", "set", "a"], ["needs a setting", "--limit 5"]),
        (["queue", "set", "a", "b", "--limit", "1"], ['"b"']),
        (["queue", "set", "a", "--limit"], ["--limit", "N|none"]),
        (["queue", "set", "a", "--lim", "1"], ["did you mean --limit?"]),
        (["queue", "set", "a/*", "--limit", "1"], ['"a/*"', "one queue"]),
        (["worker", "-q", "a"], ["worker needs"]),
        (["worker", "true"], ["--"]),
        (["worker", "word", "--", "true"], ['"word"']),
        (["clear"], ["clear wants -q QUEUE or --all"]),
        (["dead", "redrive"], ["dead redrive wants -q QUEUE or --all"]),
        (["dead", "purge"], ["dead purge wants -q QUEUE or --all"]),
        (["help", "nothing"], ['"nothing"']),
        (["completion", "fish"], ['"fish"', "bash, zsh"]),
        (["--db", "", "stats"], ["--db"]),
        (["-q"], ["-q"]),
    ],
)
def test_a_bad_command_line_is_named(db, words, named):
    people = run(*words, env={"DIBS_DB": db.path})
    assert people.code == 2, people
    assert people.out == ""
    assert people.err.startswith("dibs: "), people
    machine = run("--json", *words, env={"DIBS_DB": db.path})
    assert machine.code == 2, machine
    assert machine.error["status"] == "DIBS_INVALID"
    for word in named:
        assert word in people.err, people
        assert word in machine.error["message"], machine


def test_json_counts_for_errors_before_it():
    result = run("--nonsense", "claim", "--json")
    assert result.code == 2
    assert "--nonsense" in result.error["message"]


def test_the_database_is_db_then_dibs_db_then_the_default(tmp_path):
    named, given = tmp_path / "named.db", tmp_path / "given.db"
    env = {"DIBS_DB": str(named)}
    assert run("init", cwd=tmp_path).code == 0
    assert run("init", cwd=tmp_path, env=env).code == 0
    assert run("init", "--db", given, cwd=tmp_path, env=env).code == 0
    assert run("init", cwd=tmp_path, env={"DIBS_DB": ""}).code == 0
    for name in ("dibs.db", "named.db", "given.db"):
        assert (tmp_path / name).exists(), name


def test_busy_timeout_from_the_environment(db):
    result = db.json("stats", env={"DIBS_BUSY_TIMEOUT": "soon"})
    assert result.code == 2
    assert "DIBS_BUSY_TIMEOUT" in result.error["message"]
    result = db.json("stats", env={"DIBS_BUSY_TIMEOUT": "1s"})
    assert result.code == 0
    env = {"DIBS_BUSY_TIMEOUT": "soon"}
    assert db.json("stats", "--busy-timeout", "2", env=env).code == 0


@pytest.mark.parametrize(
    "words", [["enqueue", "1"], ["claim"], ["cancel", "1"], ["clear", "--all"]]
)
def test_a_lock_that_is_held_too_long(db, words):
    db.enqueue("1")
    holder = sqlite3.connect(db.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    result = db.json(*words, "--busy-timeout", "1ms")
    assert result.code == 6, result
    assert result.error["status"] == "DIBS_BUSY"
    assert db.json("stats", "--busy-timeout", "1ms").code == 0, "reading goes on"
    holder.close()


def test_max_payload_is_kept_to(db):
    result = db.json("enqueue", json.dumps("x" * 100), "--max-payload", "50")
    assert result.code == 2
    assert result.error["status"] == "DIBS_TOO_BIG"
    assert db.json("enqueue", '"x"', "--max-payload", "50").code == 0


def test_a_database_that_does_not_exist(tmp_path):
    db = Database(tmp_path, init=False)
    for words in (["claim"], ["stats"], ["get", "1"], ["cancel", "1"]):
        result = db.json(*words)
        assert result.code == 8, (words, result)
        assert result.error["status"] == "DIBS_SCHEMA"
        assert "jobs.db" in result.error["message"]
    assert not (tmp_path / "jobs.db").exists()


def test_a_folder_that_does_not_exist(tmp_path):
    for words in (["init"], ["enqueue", "1"], ["claim"]):
        result = run("--db", tmp_path / "no" / "jobs.db", "--json", *words)
        assert result.code == 7, (words, result)
        assert result.error["status"] == "DIBS_IO"
        assert "jobs.db" in result.error["message"]


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "jobs.db").write_bytes(b"no database at all\n" * 200)
    result = run("--db", tmp_path / "jobs.db", "--json", "init")
    assert result.code == 8, result
    assert "jobs.db" in result.error["message"]


def test_stdout_that_cannot_be_written(db):
    db.enqueue("1")
    with open("/dev/full", "wb") as full:
        result = db.json("list", stdout=full)
    assert result.code == 7, result
    assert result.error["status"] == "DIBS_IO"
