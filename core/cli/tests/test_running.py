# SPDX-License-Identifier: MIT
"""checkpoint, progress, wait, and queue show, pause and resume."""

import base64
import json
import os
import signal
import subprocess
import time

import pytest

from harness import LIMIT, PROGRAM, environment, run, waits_already


def held(db, *options, payload="[0]"):
    """A new job, claimed; gives its receipt."""
    job = db.enqueue(payload, *options)
    claimed = db.claim()
    assert claimed["id"] == job
    return claimed["receipt"]


# ---- checkpoint --------------------------------------------------------------


def test_the_next_attempt_gets_the_checkpoint(db):
    receipt = held(db)
    row = {"id": 1, "state": "running"}
    assert db.ok("checkpoint", receipt, '{"page":7}') == [row]
    assert db.get(1)["payload"] == {"page": 7}
    db.ok("retry", receipt, "--delay", 0)
    again = db.claim()
    assert (again["attempt"], again["payload"]) == (2, {"page": 7})
    result = db.run("checkpoint", again["receipt"], "null")
    assert (result.code, result.out) == (0, "1  running\n")
    assert db.get(1)["payload"] is None


def payload_of(db):
    """What a command gets on its standard input: the payload as it is kept."""
    words = ("worker", "--once", "--", "sh", "-c", "cat >taken; exit 75")
    assert db.run(*words, cwd=db.folder).code == 0
    return (db.folder / "taken").read_bytes()


@pytest.mark.parametrize(
    "words, stdin, expected",
    [
        (['{ "a" :\t[1] }'], b"", b'{ "a" :\t[1] }'),
        (["--file", "-"], b" [1]\n", b" [1]\n"),
        (["--bytes", "not JSON"], b"", b"not JSON"),
        (["--bytes", "--file", "-"], b"\0\xff\n", b"\0\xff\n"),
        (["--bytes", "--file", "-"], b"", b""),
        (["--base64", "AAH/"], b"", b"\0\1\xff"),
        ([], b"", b"[0]"),
    ],
)
def test_payloads_are_given_as_in_enqueue(db, words, stdin, expected):
    receipt = held(db, "--backoff", 0)
    assert db.json("checkpoint", receipt, *words, input=stdin).code == 0
    db.ok("release", receipt)
    assert payload_of(db) == expected


def test_a_checkpoint_from_a_file(db):
    (db.folder / "state").write_bytes(b"\x89PNG")
    receipt = held(db)
    db.ok("checkpoint", receipt, "--bytes", "--file", db.folder / "state")
    assert db.get(1)["payload_base64"] == base64.b64encode(b"\x89PNG").decode()


@pytest.mark.parametrize(
    "words, status",
    [
        (["{oops"], "DIBS_INVALID"),
        ([""], "DIBS_INVALID"),
        (["--base64", "?"], "DIBS_INVALID"),
        (["1", "--base64", "AA=="], "DIBS_INVALID"),
        (["1", "--file", "-"], "DIBS_INVALID"),
        (["--file", "no/such/file"], "DIBS_INVALID"),
        (["1", "2"], "DIBS_INVALID"),
        (["1", "--lease", "0"], "DIBS_INVALID"),
        (["1", "--lease", "soon"], "DIBS_INVALID"),
        (['"12345678"', "--max-payload", "9"], "DIBS_TOO_BIG"),
    ],
)
def test_what_is_no_checkpoint(db, words, status):
    receipt = held(db)
    before = db.get(1)
    result = db.json("checkpoint", receipt, *words)
    assert (result.code, result.out) == (2, ""), result
    assert result.error["status"] == status
    assert db.get(1) == before


def test_a_checkpoint_may_hold_the_job_for_longer(db):
    db.enqueue("[0]")
    job = db.claim("--lease", "1m")
    db.ok("checkpoint", job["receipt"], "[1]")
    assert db.get(1)["lease_until"] == job["lease_until"]
    db.ok("checkpoint", job["receipt"], "[2]", "--lease", "1h")
    later = db.get(1)["lease_until"]
    assert later > job["lease_until"]
    db.ok("checkpoint", job["receipt"], "--lease", "1s")
    assert db.get(1)["lease_until"] == later, "a lease is never made shorter"
    assert db.get(1)["payload"] == [2]


@pytest.mark.parametrize("words", [["checkpoint", "[9]"], ["progress", "0.9"]])
def test_a_lost_receipt_changes_nothing(db, words):
    command, value = words
    receipt = held(db)
    db.ok("release", receipt)
    db.claim()
    before = db.get(1)
    result = db.json(command, receipt, value)
    assert (result.code, result.out) == (4, ""), result
    assert result.error["status"] == "DIBS_LOST"
    assert result.error["receipt"] == receipt
    assert db.get(1) == before
    people = db.run(command, receipt, value)
    assert people.code == 4 and receipt in people.err


@pytest.mark.parametrize("words", [["checkpoint", "[9]"], ["progress", "0.9"]])
def test_what_is_no_receipt(db, words):
    command, value = words
    for word in ("nonsense", "1", "1:", "x:y"):
        result = db.json(command, word, value)
        assert result.code == 2, result
        assert result.error["receipt"] == word
    assert run("--db", db.folder / "none.db", command, "1:a", value).code == 8
    assert db.json(command).code == 2


# ---- progress ----------------------------------------------------------------


def test_progress_is_shown(db):
    receipt = held(db)
    row = {"id": 1, "state": "running"}
    assert db.ok("progress", receipt, "0.4", "page 7 of 18") == [row]
    expected = {"done": 0.4, "text": "page 7 of 18"}
    assert db.get(1)["progress"] == expected
    assert db.ok("list")[0]["progress"] == expected
    assert "40 %  page 7 of 18" in db.run("get", 1).out
    result = db.run("progress", receipt, "0.75")
    assert (result.code, result.out) == (0, "1  running\n")
    assert db.get(1)["progress"] == {"done": 0.75}, "the old text goes"
    for number, done in (("0", 0), ("1", 1), (".5", 0.5), ("1e-3", 0.001)):
        db.ok("progress", receipt, number)
        assert db.get(1)["progress"] == {"done": done}


def test_progress_stays_with_a_job_that_ended(db):
    receipt = held(db, "--keep", "1h")
    db.ok("progress", receipt, "1", "all of it")
    db.ok("ack", receipt)
    assert db.get(1)["progress"] == {"done": 1, "text": "all of it"}
    receipt = held(db)
    db.ok("progress", receipt, "0.1")
    db.ok("fail", receipt)
    assert db.get(2)["progress"] == {"done": 0.1}


@pytest.mark.parametrize(
    "word", ["1.1", "-0.1", "nan", "inf", "", "40%", "half", "0.4x"]
)
def test_what_is_no_progress(db, word):
    receipt = held(db)
    db.ok("progress", receipt, "0.2", "before")
    result = db.json("progress", receipt, word, "after")
    assert (result.code, result.out) == (2, ""), result
    assert result.error["status"] == "DIBS_INVALID"
    assert db.get(1)["progress"] == {"done": 0.2, "text": "before"}


def test_a_long_text_is_cut_between_characters(db):
    receipt = held(db)
    db.ok("progress", receipt, "0.5", "x" + "€" * 300)
    assert db.get(1)["progress"]["text"] == "x" + "€" * 84


def test_control_characters_reach_no_terminal(db):
    receipt = held(db)
    db.ok("progress", receipt, "0.5", "a\x1b[31mb\nc")
    assert db.get(1)["progress"]["text"] == "a\x1b[31mb\nc"
    text = db.run("get", 1).out
    assert "a\\x1b[31mb\\nc" in text and "\x1b" not in text


def test_a_command_of_a_worker_keeps_what_it_has_done(db):
    """Its receipt and its database are in its environment."""
    db.enqueue("[0]", "--backoff", 0)
    script = (
        'if test "$DIBS_ATTEMPT" = 1; then'
        '  "$1" checkpoint "$DIBS_RECEIPT" "[7]" &&'
        '  "$1" progress "$DIBS_RECEIPT" 0.5 half && exit 75;'
        "fi; cat >taken"
    )
    words = ("worker", "--drain", "--", "sh", "-c", script, "sh", PROGRAM)
    result = db.run(*words, cwd=db.folder)
    assert result.code == 0, result
    assert (db.folder / "taken").read_bytes() == b"[7]"
    assert db.ok("list") == []


# ---- wait --------------------------------------------------------------------


def test_wait_for_a_job_that_has_ended(db):
    for end, code, state, outcome in (
        ("ack", 0, "done", "acked"),
        ("discard", 0, "done", "discarded"),
        ("fail", 4, "dead", None),
    ):
        receipt = held(db, "--keep", "1h")
        job = int(receipt.split(":")[0])
        db.ok("progress", receipt, "0.5")
        db.ok(end, receipt)
        result = db.json("wait", job)
        assert (result.code, result.err) == (code, ""), result
        assert (result.row["id"], result.row["state"]) == (job, state)
        assert result.row.get("outcome") == outcome
        assert result.row["payload"] == [0]
        assert result.row["progress"] == {"done": 0.5}
        people = db.run("wait", job)
        assert people.code == code
        assert people.out.startswith(f"job {job}  {state}  "), people


def test_a_wait_that_runs_out(db):
    db.enqueue("1", "--delay", "1h")
    for timeout in ("0", "10ms"):
        result = db.json("wait", 1, "--timeout", timeout)
        assert (result.code, result.out) == (3, ""), result
        assert result.error["status"] == "DIBS_EMPTY"
        assert result.error["id"] == 1
    db.enqueue("1")
    db.claim()
    assert db.run("wait", 2, "--timeout", "1ms").code == 3


def test_a_wait_without_end_may_be_said(db):
    job = db.enqueue("1", "--keep", "1h")
    db.ok("ack", db.claim()["receipt"])
    for timeout in ("inf", "forever", "1h"):
        (row,) = db.ok("wait", job, "--timeout", timeout)
        assert row["state"] == "done"


def test_a_wait_for_what_is_not_there(db):
    result = db.json("wait", 99)
    assert (result.code, result.out) == (3, ""), result
    assert result.error["status"] == "DIBS_NOT_FOUND"
    assert result.error["id"] == 99
    db.ok("ack", held(db))
    assert db.json("wait", 1).error["status"] == "DIBS_NOT_FOUND"
    for words in (["x"], ["0"], [], ["1", "2"], ["1", "--timeout", "soon"]):
        assert db.json("wait", *words).code == 2, words
    assert run("--db", db.folder / "none.db", "wait", "1").code == 8


def waiting(db, *words, form="--json"):
    """A wait that has seen its job: it has a thread besides the first one."""
    process = subprocess.Popen(
        [PROGRAM, "--db", db.path, form, "wait", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    until = time.monotonic() + LIMIT
    while len(os.listdir(f"/proc/{process.pid}/task")) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it does not wait"
        os.sched_yield()
    return process


def end_of(process):
    out, errors = process.communicate(timeout=LIMIT)
    return process.returncode, out, errors


def test_wait_ends_with_the_job(db):
    receipt = held(db, "--keep", "1h")
    process = waiting(db, 1)
    db.ok("ack", receipt, "--result", "[5]")
    code, out, errors = end_of(process)
    assert (code, errors) == (0, b"")
    job = json.loads(out)
    assert (job["state"], job["outcome"]) == ("done", "acked")
    assert job["result"] == [5]


def test_wait_ends_with_a_job_that_is_not_kept(db):
    receipt = held(db)
    process = waiting(db, 1)
    db.ok("ack", receipt)
    code, out, errors = end_of(process)
    assert (code, json.loads(out), errors) == (
        0,
        {"id": 1, "state": "done"},
        b"",
    )
    receipt = held(db)
    process = waiting(db, 2, form="--synchronous=normal")
    db.ok("cancel", 2)
    assert end_of(process) == (0, b"2  done\n", b"")


def test_wait_ends_with_a_death(db):
    receipt = held(db)
    process = waiting(db, 1, "--timeout", "1h")
    db.ok("fail", receipt, "--error", "no such user")
    code, out, errors = end_of(process)
    assert (code, errors) == (4, b"")
    job = json.loads(out)
    assert (job["state"], job["last_error"]) == ("dead", "no such user")


def test_several_wait_for_one_job(db):
    receipt = held(db, "--keep", "1h")
    first = waiting(db, 1)
    # The others may begin before the end or after it: it makes no difference.
    others = [
        subprocess.Popen(
            [PROGRAM, "--db", db.path, "--json", "wait", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        for _ in range(4)
    ]
    db.ok("ack", receipt)
    for process in (first, *others):
        code, out, errors = end_of(process)
        assert (code, errors) == (0, b"")
        assert json.loads(out)["outcome"] == "acked"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_wait_for_a_job(db, number):
    db.enqueue("1")
    process = waiting(db, 1)
    waits_already(process)
    process.send_signal(number)
    code, out, errors = end_of(process)
    assert (code, out) == (130, b""), errors
    (line,) = errors.decode().splitlines()
    assert json.loads(line)["error"]["status"] == "DIBS_INTERRUPTED"
    assert db.claim()["attempt"] == 1, "the job was left alone"


# ---- queues that are paused --------------------------------------------------


def test_a_paused_queue_is_held_back(db):
    db.enqueue("1", "-q", "mail")
    receipt = db.claim("-q", "mail")["receipt"]
    db.enqueue("2", "-q", "mail")
    assert db.ok("queue", "pause", "mail") == [{"count": 1}]
    db.enqueue("3", "-q", "mail")
    for words in (["-q", "mail"], ["--all"], ["--all", "-n", 9, "--in-order"]):
        assert db.json("claim", *words).code == 3, words
    assert db.json("peek", "--all").code == 3
    assert db.ok("ack", receipt) == [{"id": 1, "state": "done"}]
    (stats,) = db.ok("stats")
    assert (stats["ready"], stats["paused"]) == (2, True)
    assert db.ok("queue") == [{"queue": "mail", "jobs": 2, "paused": True}]
    worker = db.run("worker", "--all", "--drain", "--", "false")
    assert worker.code == 0, worker
    assert db.get(2)["attempt"] == 0
    assert db.ok("queue", "resume", "mail") == [{"count": 1}]
    assert [job["id"] for job in db.ok("claim", "--all", "-n", 9)] == [2, 3]


def test_pause_counts_the_queues_that_it_changed(db):
    for queue in ("a", "a/1", "a/2", "ab"):
        db.enqueue("1", "-q", queue)

    def paused():
        return [row["queue"] for row in db.ok("queue") if row["paused"]]

    assert db.ok("queue", "pause", "a/*") == [{"count": 2}]
    assert paused() == ["a/1", "a/2"]
    assert db.ok("queue", "pause", "a/1", "a", "a") == [{"count": 1}]
    assert db.ok("queue", "pause", "--all") == [{"count": 1}]
    assert paused() == ["a", "a/1", "a/2", "ab"]
    result = db.run("queue", "resume", "a/*")
    assert (result.code, result.out) == (0, "2 queues resumed\n")
    assert db.run("queue", "pause", "a/1").out == "1 queue paused\n"
    assert db.run("queue", "pause", "a/1").out == "0 queues paused\n"
    assert db.ok("queue", "resume", "--all") == [{"count": 3}]
    assert paused() == []


def test_pause_a_queue_that_nobody_ever_used(db):
    assert db.ok("queue", "resume", "new") == [{"count": 0}]
    assert db.ok("queue", "pause", "new/*") == [{"count": 0}]
    assert db.ok("queue", "pause", "new") == [{"count": 1}]
    db.ok("prune")
    db.enqueue("1", "-q", "new")
    assert db.json("claim", "-q", "new").code == 3
    db.ok("queue", "resume", "new")
    assert db.claim("-q", "new")["id"] == 1


def test_resume_ends_a_waiting_claim(db):
    db.enqueue("7", "-q", "mail")
    db.ok("queue", "pause", "mail")
    process = subprocess.Popen(
        [PROGRAM, "--db", db.path, "--json", "claim", "--all", "--wait", "1h"],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    waits_already(process)
    db.ok("queue", "resume", "mail")
    out, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert json.loads(out)["payload"] == 7


@pytest.mark.parametrize("command", ["show", "pause", "resume"])
def test_which_queue_is_meant_must_be_said(db, command):
    for words in ([], ["a", "--all"], ["a*"], [""], ["/*"], ["a\nb"]):
        result = db.json("queue", command, *words)
        assert (result.code, result.out) == (2, ""), (words, result)
        assert result.error["status"] == "DIBS_INVALID"
    none = run("--db", db.folder / "none.db", "queue", command, "a")
    assert none.code == 8


def test_queue_show(db):
    db.enqueue("1", "-q", "mail")
    db.enqueue("1", "-q", "mail", "--delay", "1h")
    db.ok("queue", "pause", "mail")
    (row,) = db.ok("queue", "show", "mail")
    assert row == db.ok("stats", "-q", "mail")[0]
    assert (row["queue"], row["paused"]) == ("mail", True)
    assert (row["ready"], row["scheduled"]) == (1, 1)
    heads, *fields = db.run("queue", "show", "mail").out.splitlines()
    assert heads == "queue mail  paused"
    assert fields[0].split() == ["ready", "1"]
    assert [line.split()[0] for line in fields] == (
        "ready scheduled blocked staged running done dead expired oldest"
    ).split()


def test_queue_show_of_several(db):
    for queue in ("a/1", "a/2"):
        db.enqueue("1", "-q", queue)
    rows = db.ok("queue", "show", "nobody", "a/*")
    assert [(row["queue"], row["ready"]) for row in rows] == [
        ("a/1", 1),
        ("a/2", 1),
        ("nobody", 0),
    ]
    blocks = db.run("queue", "show", "--all").out.split("\n\n")
    assert [block.split("\n")[0] for block in blocks] == [
        "queue a/1",
        "queue a/2",
    ]
    assert db.ok("queue", "show", "nobody/*") == []
