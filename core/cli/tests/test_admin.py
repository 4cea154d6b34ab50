# SPDX-License-Identifier: MIT
"""init, cancel, change, dead, clear, prune, version."""

import sqlite3

import pytest

from harness import Database, Terminal, run


def test_init_is_harmless_when_done_before(tmp_path):
    db = Database(tmp_path, init=False)
    assert db.ok("init") == [{"db": db.path, "schema": 1, "created": True}]
    db.enqueue("1")
    assert db.ok("init") == [{"db": db.path, "schema": 1, "created": False}]
    assert db.get(1)["state"] == "ready"
    assert "schema 1" in db.run("init").out


def test_init_warns_of_a_library_with_a_bug(tmp_path):
    """As the doctor does; a program reads that from the doctor."""
    db = Database(tmp_path)
    (library,) = [row for row in db.json("doctor").rows if row["check"] == "library"]
    warned = "WAL-reset bug" in db.run("init").err
    assert warned == (library["level"] == "warning")
    assert db.json("init").err == ""


def test_init_leaves_the_application_alone(tmp_path):
    app = sqlite3.connect(tmp_path / "jobs.db")
    app.execute("CREATE TABLE t(x)")
    app.execute("INSERT INTO t VALUES (42)")
    app.commit()
    Database(tmp_path).enqueue("1")
    assert app.execute("SELECT x FROM t").fetchall() == [(42,)]
    names = app.execute("SELECT name FROM sqlite_schema WHERE name <> 't'")
    for (name,) in names:
        assert name.startswith(("dibs_", "sqlite_")), name
    app.close()


def test_cancel_counts(db):
    for _ in range(3):
        db.enqueue("1")
    assert db.ok("cancel", 1, 2) == [{"count": 2}]
    result = db.run("cancel", 3)
    assert (result.code, result.out) == (0, "1 job cancelled\n")
    assert db.ok("list") == []


def test_cancel_does_every_good_one(db):
    db.enqueue("1")
    db.enqueue("1", "--keep", "1h")
    db.ok("cancel", 2)
    result = db.json("cancel", "x", 1, 2, 99)
    assert result.row == {"count": 1}
    assert [(e["status"], e["id"]) for e in result.errors] == [
        ("DIBS_INVALID", "x"),
        ("DIBS_STATE", 2),
        ("DIBS_NOT_FOUND", 99),
    ]
    assert result.code == 4


def test_cancel_takes_a_running_job_away(db):
    db.enqueue("1", "--keep", "1h")
    receipt = db.claim()["receipt"]
    assert db.ok("cancel", 1) == [{"count": 1}]
    assert (db.get(1)["state"], db.get(1)["outcome"]) == ("done", "cancelled")
    assert db.json("ack", receipt).error["status"] == "DIBS_LOST"


def test_cancel_of_a_dead_job(db):
    db.kill(db.enqueue("1", "--keep", "1h"))
    assert db.ok("cancel", 1) == [{"count": 1}]
    assert db.get(1)["outcome"] == "cancelled"


def test_change_moves_a_waiting_job(db):
    db.enqueue("1")
    db.enqueue("2")
    assert db.ok("change", 2, "--priority", -1) == [{"id": 2, "state": "ready"}]
    assert db.get(2)["priority"] == -1
    assert db.ok("change", 1, "--delay", "1h") == [
        {"id": 1, "state": "scheduled"}
    ]
    assert db.run("change", 1, "--delay", 0).out == "1  ready\n"
    db.ok("change", 1, "--at", "2099-01-01T00:00:00Z")
    assert db.get(1)["due_at"] == "2099-01-01T00:00:00.000Z"


def test_change_refuses_what_does_not_wait(db):
    db.enqueue("1")
    db.claim()
    result = db.json("change", 1, "--priority", 1)
    assert result.code == 4
    assert (result.error["status"], result.error["id"]) == ("DIBS_STATE", 1)
    assert "running" in result.error["message"]
    assert db.json("change", 99, "--priority", 1).code == 3
    assert db.json("change", "x", "--priority", 1).code == 2
    both = ("--delay", "1", "--at", "2099-01-01T00:00:00Z")
    db.enqueue("1")
    assert db.json("change", 2, *both).code == 2


def dead_letters(db):
    for queue in ("a", "a", "b"):
        db.kill(db.enqueue("1", "-q", queue))


def test_dead_lists_the_dead(db):
    dead_letters(db)
    db.enqueue("1", "-q", "a")
    rows = db.ok("dead")
    assert [(j["id"], j["state"]) for j in rows] == [
        (1, "dead"),
        (2, "dead"),
        (3, "dead"),
    ]
    assert rows[0]["last_error"] == "broken"
    assert rows[0]["finished_at"]
    assert db.ok("dead", "list") == rows
    assert [j["id"] for j in db.ok("dead", "-q", "a", "--after", 1)] == [2]
    assert "broken" in db.run("dead").out


def test_requeue_chosen_ones(db):
    dead_letters(db)
    db.enqueue("1", "-q", "a")
    result = db.json("dead", "requeue", 1, 4, 99, 3)
    assert result.row == {"count": 2}
    assert [(e["status"], e["id"]) for e in result.errors] == [
        ("DIBS_STATE", 4),
        ("DIBS_NOT_FOUND", 99),
    ]
    assert result.code == 4
    job = db.get(1)
    assert (job["state"], job["attempt"]) == ("ready", 0)
    assert [e["text"] for e in job["errors"]] == ["broken"]
    assert db.run("dead", "requeue", 2).out == "1 job requeued\n"


def test_redrive_a_queue(db):
    dead_letters(db)
    assert db.ok("dead", "redrive", "-q", "a") == [{"count": 2}]
    assert [j["id"] for j in db.ok("dead")] == [3]
    assert db.run("dead", "redrive", "--all").out == "1 job requeued\n"
    assert db.ok("dead", "redrive", "-q", "nobody") == [{"count": 0}]


def test_redrive_leaves_what_would_be_double(db):
    for number in (1, 2):
        db.kill(db.enqueue("1", "--unique", f"k{number}"))
    db.enqueue("1", "--unique", "k1")
    result = db.json("dead", "redrive", "--all")
    assert (result.code, result.row) == (0, {"count": 1, "skipped": [1]})
    people = db.run("dead", "redrive", "--all")
    assert "1  stays dead" in people.out


def test_purge_removes_the_dead(db):
    dead_letters(db)
    db.enqueue("1", "-q", "a")
    assert db.ok("dead", "purge", "-q", "a") == [{"count": 2}]
    assert [j["id"] for j in db.ok("list")] == [3, 4]
    assert db.run("dead", "purge", "--all").out == "1 job removed\n"


def waiting_jobs(db):
    """1 dead, 2 running, 3 ready, 4 scheduled, 5 in another queue."""
    db.kill(db.enqueue("1", "-q", "a"))
    db.enqueue("2", "-q", "a")
    db.claim("-q", "a")
    db.enqueue("3", "-q", "a")
    db.enqueue("4", "-q", "a", "--delay", "1h")
    db.enqueue("5", "-q", "b")


def test_clear_leaves_running_and_dead_jobs(db):
    waiting_jobs(db)
    assert db.ok("clear", "-q", "a") == [{"count": 2}]
    assert [j["id"] for j in db.ok("list")] == [1, 2, 5]
    assert db.ok("clear", "-q", "a", "--dead") == [{"count": 1}]
    assert db.run("clear", "--all").out == "1 job removed\n"
    assert [j["id"] for j in db.ok("list")] == [2]
    assert db.ok("clear", "-q", "nobody") == [{"count": 0}]


def test_clear_asks_on_a_terminal(db):
    waiting_jobs(db)
    terminal = Terminal("--db", db.path, "clear", "-q", "a", "--dead")
    terminal.expect("Remove 3 jobs? [y/N] ")
    terminal.send("n\n")
    assert terminal.finish() == 130
    assert "nothing was removed" in terminal.text
    assert len(db.ok("list")) == 5
    terminal = Terminal("--db", db.path, "clear", "-q", "a", "--dead")
    terminal.expect("? [y/N] ")
    terminal.send("y\n")
    assert terminal.finish() == 0
    assert "3 jobs removed" in terminal.text


def test_clear_does_not_ask_with_yes(db):
    waiting_jobs(db)
    terminal = Terminal("--db", db.path, "clear", "--all", "--yes")
    assert terminal.finish() == 0
    assert "3 jobs removed" in terminal.text and "[y/N]" not in terminal.text


def test_prune_counts(db):
    db.enqueue("1", "--keep", "1h")
    db.ok("ack", db.claim()["receipt"])
    assert db.ok("prune") == [{"count": 0}]
    assert db.run("prune").out == "0 jobs removed\n"
    db.enqueue("1", "--keep", "1ms")
    db.ok("ack", db.claim()["receipt"])
    # The next commands come later than a millisecond; whichever of them
    # notices, the job is gone.
    db.ok("prune")
    assert [j["id"] for j in db.ok("list")] == [1]


def test_version_names_all_three():
    result = run("version", "--json")
    assert set(result.row) == {"dibs", "schema", "sqlite"}
    assert result.row["schema"] == 1
    people = run("version").out
    assert people.split()[::2] == ["dibs", "schema", "sqlite"]
    assert run("--version").out == people


@pytest.mark.parametrize("command", ["cancel", "dead requeue", "get", "commit"])
def test_ids_are_whole_numbers(db, command):
    result = db.json(*command.split(), "1.5")
    assert result.code == 2, result
    assert result.error["id"] == "1.5"
