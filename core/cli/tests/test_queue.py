# SPDX-License-Identifier: MIT
"""queue list, show and set, and explain."""

import pytest

from harness import run

# Every setting: its flag, a value as it is typed, the same as it is shown.
SETTINGS = [
    ("limit", "5", 5),
    ("limit_per_key", "2", 2),
    ("rate", "10/1s", "10/1s"),
    ("burst", "20", 20),
    ("rate_per_key", "3/2m", "3/2m"),
    ("dead_head", "block", "block"),
    ("keep_count", "100", 100),
    ("name", 'a",\\}{', 'a",\\}{'),
    ("headers", '{"a":"b,}"}', {"a": "b,}"}),
    ("priority", "-3", -3),
    ("delay", "1.5", "1.500s"),
    ("expires", "1h", "1h"),
    ("max_attempts", "3", 3),
    ("max_crashes", "1", 1),
    ("backoff", "250ms", "250ms"),
    ("backoff_factor", "1.5", 1.5),
    ("backoff_cap", "1h", "1h"),
    ("backoff_jitter", "0", 0),
    ("lease", "5m", "5m"),
    ("timeout", "30s", "30s"),
    ("keep", "7d", "7d"),
    ("key", "user-42", "user-42"),
    ("limit_key", "user-42", "user-42"),
    ("unique", "daily", "daily"),
    ("unique_for", "start", "start"),
    ("unique_scope", "all", "all"),
    ("on_conflict", "reject", "reject"),
    ("stage", "5m", "5m"),
]


def flag(name):
    return "--" + name.replace("_", "-")


def test_queue_list(db):
    db.enqueue("1", "-q", "b")
    db.enqueue("1", "-q", "a")
    expected = [
        {"queue": "a", "jobs": 1, "paused": False},
        {"queue": "b", "jobs": 1, "paused": False},
    ]
    assert db.ok("queue") == db.ok("queue", "list") == expected
    assert db.run("queue").out.split() == "QUEUE JOBS PAUSED a 1 b 1".split()


@pytest.mark.parametrize("name, typed, shown", SETTINGS)
def test_a_setting_is_set_shown_and_taken_back(db, name, typed, shown):
    unset = {"queue": "q", "paused": False}
    (row,) = db.ok("queue", "set", "q", flag(name), typed)
    assert row == {**unset, name: shown}
    assert db.ok("queue", "show", "q")[0][name] == shown
    (row,) = db.ok("queue", "set", "q", flag(name), "none")
    assert row == unset


def test_a_value_that_is_none(db):
    texts = ("name", "key", "limit_key", "unique")
    for name, _, _ in SETTINGS:
        for value in ("", "*") if name in texts else ("", "x", "1x", "nan"):
            result = db.json("queue", "set", "q", "--burst=7", flag(name), value)
            assert result.code == 2, (name, value, result)
            assert result.error["status"] == "DIBS_INVALID"
            assert name in result.error["message"], result
    assert "burst" not in db.ok("queue", "show", "q")[0], "all or nothing"


def test_a_value_out_of_range(db):
    for name, value in (
        ("backoff_factor", "0.5"),
        ("backoff_factor", "1e20"),
        ("backoff_jitter", "2"),
        ("limit", "-1"),
        ("limit", "99999999999999999999"),
        ("rate", "0/1s"),
        ("rate", "1/0"),
        ("lease", "0"),
        ("delay", "99999999999999999999"),
    ):
        result = db.json("queue", "set", "q", flag(name), value)
        assert result.code == 2, (name, value, result)
        assert name in result.error["message"], result


def test_several_settings_at_once(db):
    db.ok("queue", "set", "q", "--limit", "1")
    words = ("--rate", "10/1s", "--limit", "none", "--max-attempts", "3")
    assert db.ok("queue", "set", "q", *words) == [
        {"queue": "q", "paused": False, "rate": "10/1s", "max_attempts": 3}
    ]
    job = db.enqueue("1", "-q", "q")
    assert db.get(job)["max_attempts"] == 3
    job = db.enqueue("1", "-q", "q", "--max-attempts", "9")
    assert db.get(job)["max_attempts"] == 9


def test_keep_for_ever(db):
    (row,) = db.ok("queue", "set", "q", "--keep", "inf")
    assert row["keep"] == "forever"
    assert db.ok("queue", "set", "q", "--keep", row["keep"]) == [row]
    db.enqueue("1", "-q", "q")
    db.enqueue("1", "--keep", "forever")
    db.ok("ack", *(row["receipt"] for row in db.ok("claim", "--all", "-n", 2)))
    assert [db.get(job)["state"] for job in (1, 2)] == ["done", "done"]


def test_settings_for_people(db):
    text = db.run("queue", "set", "q", "--limit", "5", "--rate", "10/1s").out
    assert text.split() == "queue q limit 5 rate 10/1s".split()
    assert db.run("queue", "show", "q").out.endswith(
        "  limit           5\n  rate            10/1s\n"
    )
    text = db.run("queue", "set", "q", "--limit", "none", "--rate", "none").out
    assert text == "queue q  no settings\n"


def test_settings_that_are_any_text_for_people(db):
    words = ("--name", 'a",\\}{', "--headers", '{"a":"b,}\\""}', "--stage", "1h")
    lines = db.run("queue", "set", "q", *words).out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["name", 'a",\\}{'],
        ["headers", '{"a":"b,}\\""}'],
        ["stage", "1h"],
    ]


def test_a_limit_is_kept_to(db):
    db.ok("queue", "set", "q", "--limit", "1")
    for _ in range(2):
        db.enqueue("1", "-q", "q")
    receipt = db.claim("-q", "q")["receipt"]
    assert db.json("claim", "-q", "q").code == 3
    db.ok("ack", receipt)
    assert db.claim("-q", "q")["id"] == 2
    db.ok("queue", "set", "q", "--limit", "0")
    db.enqueue("1", "-q", "q")
    assert db.json("claim", "-q", "q").code == 3


def test_a_dead_head_holds_its_lane(db):
    db.ok("queue", "set", "q", "--dead-head", "block")
    db.kill(db.enqueue("1", "-q", "q", "--key", "k"))
    db.enqueue("2", "-q", "q", "--key", "k")
    assert db.json("claim", "-q", "q").code == 3
    assert reasons(db, 2) == ["dead_head"]
    db.ok("queue", "set", "q", "--dead-head", "skip")
    assert db.claim("-q", "q")["id"] == 2


def test_the_last_ones_are_kept(db):
    db.ok("queue", "set", "q", "--keep-count", "2")
    for number in range(4):
        db.enqueue(str(number), "-q", "q")
        db.ok("ack", db.claim("-q", "q")["receipt"])
    db.ok("prune")
    assert [job["id"] for job in db.ok("list", "-q", "q")] == [3, 4]


def test_show_is_of_all_that_match(db):
    for queue in ("a/1", "a/2", "b"):
        db.enqueue("1", "-q", queue)
    db.ok("queue", "set", "a/2", "--limit", "5")
    rows = db.ok("queue", "show", "a/*")
    assert [(r["queue"], r["ready"], r.get("limit")) for r in rows] == [
        ("a/1", 1, None),
        ("a/2", 1, 5),
    ]
    assert len(db.ok("queue", "show", "--all")) == 3


def test_a_name_with_quotes_is_shown(db):
    name = 'a",\\"paused":'
    (row,) = db.ok("queue", "set", name, "--limit", "5")
    assert row == {"queue": name, "paused": False, "limit": 5}
    (row,) = db.ok("queue", "show", name)
    assert (row["queue"], row["limit"]) == (name, 5)


# ---- explain -----------------------------------------------------------------


def reasons(db, *words):
    """The words for why, first the one to see to."""
    (row,) = db.ok("explain", *words)
    return [reason["reason"] for reason in row["reasons"]]


def test_explain_names_each_state(db):
    db.enqueue("1", "--keep", "1h")
    db.ok("ack", db.claim()["receipt"])
    db.kill(db.enqueue("2"))
    db.enqueue("3")
    db.claim()
    db.enqueue("4", "--delay", "1h")
    db.enqueue("5", "--stage", "1h")
    db.enqueue("6", "--key", "k")
    db.enqueue("7", "--key", "k")
    db.enqueue("8")
    db.ok("queue", "pause", "default")
    found = {job: reasons(db, job) for job in range(1, 9)}
    assert found == {
        1: ["done"],
        2: ["dead"],
        3: ["running"],
        4: ["scheduled"],
        5: ["staged"],
        6: ["paused"],
        7: ["behind"],
        8: ["paused", "queued"],
    }
    (row,) = db.ok("explain", 7)
    assert row["id"] == 7
    assert row["reasons"][0]["id"] == 6
    (row,) = db.ok("explain", 4)
    assert row["reasons"][0]["at"] == db.get(4)["due_at"]
    assert reasons(db, "-q", "default") == ["paused"]
    assert "resume" in db.run("explain", 8).out


def test_explain_several(db):
    db.enqueue("1")
    db.enqueue("2", "--delay", "1h")
    result = db.json("explain", 2, 99, "x", 1)
    assert [row["id"] for row in result.rows] == [2, 1]
    assert [(e["status"], e["id"]) for e in result.errors] == [
        ("DIBS_NOT_FOUND", 99),
        ("DIBS_INVALID", "x"),
    ]
    assert result.code == 3
    text = db.run("explain", 1, 2).out
    assert [line.split()[0] for line in text.splitlines()] == [
        "job",
        "no_worker",
        "job",
        "scheduled",
    ]


def test_explain_queues(db):
    for queue in ("a/1", "a/2"):
        db.enqueue("1", "-q", queue)
    db.ok("queue", "pause", "a/2")
    rows = db.ok("explain", "-q", "a/*", "-q", "nobody")
    assert [(r["queue"], r["reasons"][0]["reason"]) for r in rows] == [
        ("a/1", "no_worker"),
        ("a/2", "paused"),
        ("nobody", "empty"),
    ]
    assert [row["queue"] for row in db.ok("explain", "--all")] == ["a/1", "a/2"]
    assert "queue nobody\n  empty" in db.run("explain", "-q", "nobody").out


def test_explain_tells_what_a_limit_holds_back(db):
    db.ok("queue", "set", "q", "--limit", "1", "--rate", "2/1h")
    for _ in range(3):
        db.enqueue("1", "-q", "q")
    receipt = db.claim("-q", "q")["receipt"]
    assert reasons(db, "-q", "q") == ["limit"]
    db.ok("ack", receipt)
    db.ok("ack", db.claim("-q", "q")["receipt"])
    assert db.json("claim", "-q", "q").code == 3
    (row,) = db.ok("explain", "-q", "q")
    assert row["reasons"][0]["reason"] == "rate"
    assert row["reasons"][0]["at"].endswith("Z")


def test_queue_set_makes_no_database(tmp_path):
    result = run("--db", tmp_path / "x.db", "queue", "set", "q", "--limit", "1")
    assert result.code == 8, result
    assert not (tmp_path / "x.db").exists()
