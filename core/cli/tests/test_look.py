# SPDX-License-Identifier: MIT
"""Commands that only look: get, peek, list, stats, doctor."""

import json
import os
import re
import signal
import subprocess

import pytest

from harness import LIMIT, PROGRAM, Terminal, environment, read_line, run


def test_get_shows_a_job_with_its_errors(db):
    db.enqueue('{"a":1}', "--name", "n")
    job = db.claim("--worker", "w")
    db.ok("retry", job["receipt"], "--error", "first", "--delay", 0)
    job = db.get(1)
    assert (job["id"], job["state"], job["attempt"]) == (1, "ready", 1)
    (error,) = job["errors"]
    assert (error["attempt"], error["worker"], error["text"]) == (
        1,
        "w",
        "first",
    )
    assert error["ms"] >= 0 and error["at"].endswith("Z")


def test_get_for_people(db):
    db.enqueue('{"a":1}', "--name", "resize", "--priority", 7, "--key", "k")
    job = db.claim("--worker", "w")
    db.ok("fail", job["receipt"], "--error", "no such file")
    text = db.run("get", 1).out
    for part in ("job 1", "dead", "resize", '{"a":1}', "7", "1 of 20", "by w"):
        assert part in text, text
    assert "no such file" in text


def test_get_several(db):
    db.enqueue("1")
    db.enqueue("2")
    result = db.json("get", 2, 99, "x", 1)
    assert [row["id"] for row in result.rows] == [2, 1]
    assert [(e["status"], e["id"]) for e in result.errors] == [
        ("DIBS_NOT_FOUND", 99),
        ("DIBS_INVALID", "x"),
    ]
    assert result.code == 3


@pytest.mark.parametrize("word", ["0", "-1", "x", "1x", "9007199254740992"])
def test_what_is_no_id(db, word):
    result = db.json("get", "--", word)
    assert result.code == 2, result
    assert result.error["id"] == word


def test_peek_claims_nothing(db):
    assert db.json("peek").code == 3
    for number in range(3):
        db.enqueue(str(number), "--priority", number)
    assert [job["id"] for job in db.ok("peek", "-n", 2)] == [3, 2]
    assert [job["state"] for job in db.ok("peek")] == ["ready"]
    assert db.claim()["id"] == 3
    people = db.run("peek")
    assert people.code == 0 and "ready" in people.out


def test_list_filters(db):
    db.enqueue("1", "-q", "a/1", "--name", "x")
    db.enqueue("2", "-q", "a/2", "--delay", "1h")
    db.enqueue("3", "-q", "b", "--name", "x")

    def ids(*words):
        return [job["id"] for job in db.ok("list", *words)]

    assert ids() == ids("--all") == [1, 2, 3]
    assert ids("-q", "a/*") == [1, 2]
    assert ids("-q", "a/1", "-q", "b") == [1, 3]
    assert ids("--state", "scheduled") == [2]
    assert ids("--state=ready", "--name", "x") == [1, 3]
    assert ids("--limit", 2) == [1, 2]
    assert ids("--after", 1) == [2, 3]
    assert ids("--after", 1, "--limit", 1) == [2]
    assert ids("-q", "nobody") == []


def test_list_goes_on_after_the_last(db):
    db.ok("enqueue", "--lines", input="1\n" * 250)
    assert len(db.ok("list")) == 100
    assert len(db.ok("list", "--limit", 249)) == 249
    assert [j["id"] for j in db.ok("list", "--limit", 1000)] == list(
        range(1, 251)
    )
    people = db.run("list")
    assert people.out.count("\n") == 101
    assert "--after 100" in people.err
    assert "--after" not in db.run("list", "--after", 200).err


def test_list_for_people_is_aligned(db):
    db.enqueue('{"a":1}', "-q", "short", "--name", "n")
    db.enqueue("22", "-q", "a-longer-name", "--priority", -10)
    db.enqueue()
    heads, one, two, none = db.run("list").out.splitlines()
    for head, first, second in (
        ("QUEUE", "short", "a-longer-name"),
        ("STATE", "ready", "ready"),
        ("PAYLOAD", '{"a":1}', "22"),
    ):
        place = heads.index(head)
        assert one.index(first) == two.index(second) == place
    assert heads.index("PRI") + 3 == two.index("-10") + 3
    assert all(line == line.rstrip() for line in (heads, one, two, none))


def test_an_empty_list_prints_nothing(db):
    assert db.run("list").out == ""


def test_a_reader_that_goes_away_is_no_error(db):
    db.ok("enqueue", "--lines", input="1\n" * 5000)
    reader, writer = os.pipe()
    os.close(reader)
    result = db.json("list", "--limit", 5000, stdout=writer)
    os.close(writer)
    assert (result.code, result.err) == (0, "")


STATES = ["ready", "scheduled", "blocked", "staged", "running", "done", "dead"]


def test_stats_count_by_state(db):
    db.enqueue("1", "-q", "a")
    db.enqueue("1", "-q", "a", "--delay", "1h")
    db.enqueue("1", "-q", "a", "--stage", "1h")
    db.kill(db.enqueue("1", "-q", "b"))
    rows = {row["queue"]: row for row in db.ok("stats")}
    assert sorted(rows) == ["a", "b"]
    for row in rows.values():
        kept = set(STATES) | {"queue", "paused", "expired"}
        assert set(row) - {"oldest_ready_at"} == kept
        assert row["paused"] is False and row["expired"] == 0
    # kill() claimed what was ready in a, too
    assert rows["a"]["running"] == 1
    assert (rows["a"]["scheduled"], rows["a"]["staged"]) == (1, 1)
    assert rows["b"]["dead"] == 1


def test_oldest_ready_is_there_only_if_one_is(db):
    db.enqueue("1")
    (row,) = db.ok("stats")
    assert row["oldest_ready_at"] == db.get(1)["due_at"]
    db.claim()
    (row,) = db.ok("stats")
    assert "oldest_ready_at" not in row


def test_stats_of_a_queue_nobody_used(db):
    (row,) = db.ok("stats", "-q", "nobody")
    assert row["queue"] == "nobody"
    assert all(row[state] == 0 for state in STATES)
    assert db.ok("stats", "-q", "nobody/*") == []
    assert db.ok("stats") == []


def test_stats_beneath_a_level(db):
    for queue in ("a", "a/1", "a/1/x", "ab"):
        db.enqueue("1", "-q", queue)
    assert [r["queue"] for r in db.ok("stats", "-q", "a/*")] == ["a/1", "a/1/x"]


def test_stats_for_people(db):
    db.enqueue("1", "-q", "mail")
    text = db.run("stats").out
    heads, row = text.splitlines()
    assert [h for h in heads.split() if h.lower() in STATES] == [
        state.upper() for state in STATES
    ]
    assert row.split()[:2] == ["mail", "1"]


def test_watch_goes_on_until_ctrl_c(db):
    db.enqueue("1", "-q", "mail")
    process = subprocess.Popen(
        [PROGRAM, "--db", db.path, "--json", "stats", "--watch"],
        bufsize=0,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    first = json.loads(read_line(process.stdout))
    second = json.loads(read_line(process.stdout))
    assert first["ready"] == second["ready"] == 1
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 0


def test_doctor_finds_nothing_broken(db):
    findings = db.ok("doctor")
    for finding in findings:
        assert set(finding) - {"advice"} == {"check", "level", "message"}
        assert finding["level"] in ("ok", "warning")
        if finding["level"] == "warning":
            assert finding["advice"], finding
    assert len({f["check"] for f in findings}) >= 5
    thorough = db.ok("doctor", "--thorough")
    assert {f["check"] for f in thorough} > {f["check"] for f in findings}


def test_doctor_for_people(db):
    text = db.run("doctor").out
    assert re.search(r"^ok +schema ", text, re.M), text


def test_a_database_that_cannot_be_opened_is_a_finding(tmp_path):
    (tmp_path / "other.db").write_bytes(b"not a database at all" * 100)
    for name in ("none.db", "no/folder.db", "other.db"):
        result = run("--db", tmp_path / name, "--json", "doctor")
        assert result.code == 1, result
        assert (result.row["level"], result.err) == ("error", "")
        assert result.row["message"] and result.row["advice"]
    people = run("--db", tmp_path / "none.db", "doctor")
    assert people.code == 1
    assert people.out.startswith("error")


def damage(path):
    """Write rubbish over pages in the middle of a database."""
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        for place in range(8192, size, 4096):
            file.seek(place + 100)
            file.write(b"\xa5" * 2000)


def test_a_damaged_database_is_broken(db):
    db.ok("enqueue", "--lines", input="[1]\n" * 3000)
    damage(db.path)
    result = db.json("doctor", "--thorough")
    assert result.code == 1, result
    assert "error" in [row["level"] for row in result.rows]


# ---- terminals ---------------------------------------------------------------


def test_colour_on_a_terminal_only(db):
    db.enqueue("1")
    terminal = Terminal("--db", db.path, "list")
    assert terminal.finish() == 0
    assert "\x1b[32mready" in terminal.text, terminal.text
    assert "\x1b" not in db.run("list").out
    assert "\x1b" not in db.json("list").out


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_when_it_is_not_wanted(db, env):
    db.enqueue("1")
    terminal = Terminal("--db", db.path, "list", env=env)
    assert terminal.finish() == 0
    assert "ready" in terminal.text and "\x1b" not in terminal.text


def test_json_has_no_colour_on_a_terminal(db):
    db.enqueue("1")
    terminal = Terminal("--db", db.path, "--json", "list")
    assert terminal.finish() == 0
    assert "\x1b" not in terminal.text
    assert json.loads(terminal.text)["id"] == 1


def test_rows_fit_the_terminal(db):
    db.enqueue(json.dumps("x" * 500))
    terminal = Terminal("--db", db.path, "list", env={"NO_COLOR": "1"})
    assert terminal.finish() == 0
    lines = terminal.text.replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 100, lines
    assert lines[1].endswith("...")
