# SPDX-License-Identifier: MIT
"""claim, and the commands that settle what was claimed."""

import json
import os
import re
import signal
import subprocess

import pytest

from harness import LIMIT, PROGRAM, environment, run, waits_already


def test_nothing_to_claim_is_exit_3(db):
    result = db.json("claim")
    assert (result.code, result.out) == (3, "")
    assert result.error["status"] == "DIBS_EMPTY"
    assert db.run("claim", "-q", "nobody/ever/used/it").code == 3


def test_a_claim_prints_the_job_with_its_receipt(db):
    db.enqueue('{"a":1}', "--name", "n", "--header", "t=1", "-q", "mail")
    job = db.claim("-q", "mail", "--worker", "me", "--lease", "5m")
    assert re.fullmatch(r"1:\S+", job["receipt"])
    assert (job["id"], job["queue"], job["state"]) == (1, "mail", "running")
    assert (job["name"], job["headers"]) == ("n", {"t": "1"})
    assert (job["attempt"], job["max_attempts"]) == (1, 20)
    assert (job["payload"], job["worker"]) == ({"a": 1}, "me")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z", job["created_at"])
    assert job["lease_until"] > job["claimed_at"]


def test_people_read_the_receipt_too(db):
    db.enqueue('{"a":1}')
    result = db.run("claim")
    assert result.code == 0
    assert re.search(r"^ +receipt +1:\S+$", result.out, re.M), result
    assert '{"a":1}' in result.out and "running" in result.out


def test_only_whoever_claimed_it_sees_the_receipt(db):
    db.enqueue("1")
    db.claim()
    assert "receipt" not in db.get(1)
    assert "receipt" not in db.ok("list")[0]


def test_n_jobs_by_priority_then_age(db):
    for priority in (0, 5, 0, 5):
        db.enqueue("1", "--priority", priority)
    assert [job["id"] for job in db.ok("claim", "-n", 3)] == [2, 4, 1]
    assert [job["id"] for job in db.ok("claim", "-n", "10")] == [3]


def test_several_queues_take_turns(db):
    for queue in ("a", "a", "a", "b/1", "b/2", "b", "default"):
        db.enqueue("1", "-q", queue)
    words = ("claim", "-q", "a", "-q", "b/*", "-n", 1)
    order = [db.ok(*words)[0]["queue"] for _ in range(5)]
    assert sorted(order[:3]) == ["a", "b/1", "b/2"], order
    assert order[3:] == ["a", "a"]
    assert db.json(*words).code == 3, "b and default do not match"


def test_all_queues(db):
    for queue in ("a", "b/1", "default"):
        db.enqueue("1", "-q", queue)
    assert len(db.ok("claim", "--all", "-n", 10)) == 3


def test_queues_in_order(db):
    for queue in ("low", "low", "high", "high"):
        db.enqueue("1", "-q", queue)
    words = ("claim", "-q", "high", "-q", "low", "--in-order")
    assert [db.ok(*words)[0]["queue"] for _ in range(3)] == [
        "high",
        "high",
        "low",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["-q", "a*"],
        ["-q", "*/a"],
        ["-q", ""],
        ["-q", "/*"],
        ["--lease", "0"],
        ["-n", "10001"],
        ["--worker", "a\nb"],
    ],
)
def test_what_may_not_be_claimed_by(db, words):
    result = db.json("claim", *words)
    assert result.code == 2, result
    assert result.error["status"] == "DIBS_INVALID"


def test_a_wait_that_runs_out_is_empty(db):
    assert db.json("claim", "--wait", "1ms").code == 3
    assert db.json("claim", "--wait", "0").code == 3


def test_a_wait_ends_with_a_job(db):
    process = subprocess.Popen(
        [PROGRAM, "--db", db.path, "--json", "claim", "--wait", "inf"],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    db.enqueue("7")
    out, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert json.loads(out)["payload"] == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_wait(db, number):
    process = subprocess.Popen(
        [PROGRAM, "--db", db.path, "--json", "claim", "--wait", "inf"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    waits_already(process)
    process.send_signal(number)
    out, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, errors
    assert out == b""
    assert json.loads(errors)["error"]["status"] == "DIBS_INTERRUPTED"


def test_receipts_that_nobody_read_are_released(db):
    db.enqueue("1")
    reader, writer = os.pipe()
    os.close(reader)
    result = db.json("claim", stdout=writer)
    os.close(writer)
    assert result.code == 7, result
    assert "released" in result.error["message"]
    job = db.get(1)
    assert (job["state"], job["attempt"]) == ("ready", 0)


# ---- settling ----------------------------------------------------------------


def claimed(db, *options):
    db.enqueue("1", *options)
    return db.claim()["receipt"]


@pytest.mark.parametrize(
    "command, options, state",
    [
        ("ack", [], "done"),
        ("retry", ["--error", "e", "--delay", "0"], "ready"),
        ("retry", ["--error", "e"], "scheduled"),
        ("fail", ["--error", "e"], "dead"),
        ("release", [], "ready"),
        ("extend", ["--lease", "1h"], "running"),
        ("snooze", ["--delay", "1h"], "scheduled"),
        ("discard", ["--error", "e"], "done"),
    ],
)
def test_settling_prints_id_and_state(db, command, options, state):
    receipt = claimed(db)
    assert db.ok(command, receipt, *options) == [{"id": 1, "state": state}]
    receipt = db.ok("enqueue", "1", "-q", "b") and db.claim("-q", "b")["receipt"]
    result = db.run(command, receipt, *options)
    assert (result.code, result.out) == (0, f"2  {state}\n"), result


def test_ack_keeps_a_result(db):
    receipt = claimed(db, "--keep", "1h")
    db.ok("ack", receipt, "--result", '{"sum":5}')
    job = db.get(1)
    assert (job["outcome"], job["result"]) == ("acked", {"sum": 5})


def test_a_result_must_be_json(db):
    receipt = claimed(db)
    result = db.json("ack", receipt, "--result", "{oops")
    assert result.code == 2
    assert result.error["receipt"] == receipt
    assert db.get(1)["state"] == "running"


def test_a_job_that_is_not_kept_is_gone(db):
    db.ok("ack", claimed(db))
    assert db.json("get", 1).code == 3


def test_retry_keeps_the_error_and_dies_after_the_last(db):
    db.enqueue("1", "--max-attempts", 2)
    for state in ("ready", "dead"):
        receipt = db.claim()["receipt"]
        rows = db.ok("retry", receipt, "--delay", 0, "--error", f"to {state}")
        assert rows == [{"id": 1, "state": state}]
    job = db.get(1)
    assert job["last_error"] == "to dead"
    assert [e["text"] for e in job["errors"]] == ["to ready", "to dead"]
    assert [e["attempt"] for e in job["errors"]] == [1, 2]


def test_release_and_snooze_count_no_attempt(db):
    db.ok("release", claimed(db))
    job = db.claim()
    assert job["attempt"] == 1
    db.ok("snooze", job["receipt"], "--delay", 0)
    assert db.claim()["attempt"] == 1


def test_discard_is_an_outcome(db):
    db.ok("discard", claimed(db, "--keep", "1h"), "--error", "gone")
    assert db.get(1)["outcome"] == "discarded"


def test_extend_moves_the_end_of_the_lease(db):
    db.enqueue("1")
    job = db.claim("--lease", "1m")
    db.ok("extend", job["receipt"], "--lease", "1h")
    later = db.get(1)["lease_until"]
    assert later > job["lease_until"]
    db.ok("extend", job["receipt"], "--lease", "1s")
    assert db.get(1)["lease_until"] == later, "a lease is never made shorter"


def test_a_lease_of_0_is_refused(db):
    receipt = claimed(db)
    result = db.json("extend", receipt, "--lease", "0")
    assert result.code == 2
    assert result.error["status"] == "DIBS_INVALID"


def test_a_lost_receipt_is_exit_4(db):
    receipt = claimed(db)
    db.ok("ack", receipt)
    for command in ("ack", "fail", "release", "retry", "discard"):
        result = db.json(command, receipt)
        assert result.code == 4, result
        assert result.error["status"] == "DIBS_LOST"
        assert result.error["receipt"] == receipt
    people = db.run("ack", receipt)
    assert people.code == 4
    assert receipt in people.err


def test_a_word_that_is_no_receipt_is_exit_2(db):
    for word in ("nonsense", "1", ":", "1:", "0:abc", "x:y", "1:a:b"):
        result = db.json("ack", word)
        assert result.code in (2, 4), (word, result)
        assert result.error["receipt"] == word
    assert db.json("ack", "nonsense").code == 2


def test_every_good_one_is_settled_and_the_worst_is_told(db):
    for _ in range(3):
        db.enqueue("1")
    one, two, three = (j["receipt"] for j in db.ok("claim", "-n", 3))
    db.ok("ack", two)
    result = db.json("ack", "nonsense", one, two, three)
    assert result.code == 4, "the highest of 2 and 4"
    assert result.rows == [
        {"id": 1, "state": "done"},
        {"id": 3, "state": "done"},
    ]
    assert [(e["status"], e["receipt"]) for e in result.errors] == [
        ("DIBS_INVALID", "nonsense"),
        ("DIBS_LOST", two),
    ]
    assert db.ok("list") == []


def test_settling_needs_a_database(tmp_path):
    result = run("--db", tmp_path / "none.db", "--json", "ack", "1:abc")
    assert result.code == 8
