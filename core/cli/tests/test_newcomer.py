# SPDX-License-Identifier: MIT
"""What newcomers and odd surroundings do: each is told what helps, and nothing
is lost or hangs."""

import os
import subprocess

import pytest

from harness import LIMIT, PROGRAM, Terminal, environment, run


@pytest.mark.parametrize("words", [["enqueue", "hello"], ["enqueue", "{to:ann}"]])
def test_a_payload_that_is_not_json(db, words):
    result = db.run(*words)
    assert result.code == 2
    error, hint = result.err.splitlines()
    assert error.startswith("dibs: payload is not JSON"), result
    assert "single quotes" in hint and "--bytes" in hint
    assert db.json(*words).error["status"] == "DIBS_INVALID", "no hint in JSON"


def test_lines_that_are_not_json(db):
    result = db.run("enqueue", "--lines", input="1\nhello\n")
    assert "line 2: payload is not JSON" in result.err
    assert result.err.endswith("\n--bytes takes each line as it is\n")
    result = db.run("enqueue", "--lines", "--max-payload", "3", input="12345\n")
    assert result.code == 2 and "--bytes" not in result.err


def test_a_checkpoint_that_is_not_json(db):
    db.enqueue("1")
    receipt = db.claim()["receipt"]
    assert "--bytes" in db.run("checkpoint", receipt, "hello").err
    assert "--bytes" not in db.run("checkpoint", receipt, "1", "--lease", "0").err


def test_a_wrong_subcommand_names_its_group():
    assert "dibs dead --help lists its commands" in run("dead", "nothing").err
    assert "dibs --help lists the commands" in run("nothing").err


def test_reading_from_a_terminal_is_said(db):
    terminal = Terminal("--db", db.path, "enqueue", "--lines")
    terminal.expect("Ctrl-D ends them")
    terminal.send("[1]\n\x04")
    assert terminal.finish() == 0
    assert db.get(1)["payload"] == [1]


def test_an_empty_answer_is_said_on_a_terminal(db):
    for words, said in (
        (["list"], "no jobs"),
        (["dead", "-q", "mial"], "no jobs"),
        (["stats"], "no queues"),
    ):
        terminal = Terminal("--db", db.path, *words)
        assert terminal.finish() == 0
        assert said in terminal.text, words
        result = db.run(*words)
        assert (result.code, result.out, result.err) == (0, "", ""), words
    db.enqueue("1")
    terminal = Terminal("--db", db.path, "list")
    assert terminal.finish() == 0
    assert "no jobs" not in terminal.text


# ---- Pipes -------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "list --limit 3000",
        "list --limit 3000 --json",
        "peek -n 3000 --json",
        "stats --watch",
        "help --man",
        "completion zsh",
    ],
)
def test_a_reader_that_goes_away(db, words):
    """As in `dibs list | head -1`: quiet, and no failure."""
    db.ok("enqueue", "--lines", input="1\n" * 3000)
    process = subprocess.Popen(
        [PROGRAM, "--db", db.path, *words.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(LIMIT), errors) == (0, b"")
    process.stderr.close()


def test_a_claim_that_nobody_reads(db):
    """Told once; the job is there for the next one."""
    db.enqueue("1")
    with open("/dev/full", "wb") as full:
        result = db.json("claim", stdout=full)
    assert result.code == 7
    assert "released" in result.error["message"]
    assert db.get(1)["state"] == "ready"


def closed(db, *words, fds, **more):
    """Run dibs with standard descriptors closed."""

    def close():
        for fd in fds:
            os.close(fd)

    return subprocess.run(
        [PROGRAM, "--db", db.path, *words],
        env=environment(),
        preexec_fn=close,
        timeout=LIMIT,
        check=False,
        **more,
    )


def test_standard_input_that_is_closed(db):
    """It is not taken for an empty one, nor is a file opened in its place."""
    for words in (["enqueue", "--lines"], ["enqueue", "--file", "-"]):
        done = closed(db, *words, fds=[0], stderr=subprocess.PIPE)
        assert done.returncode == 7, done
        assert b"standard input: Bad file descriptor" in done.stderr
    assert db.ok("list") == []


def test_standard_output_that_is_closed(db):
    done = closed(db, "enqueue", "1", fds=[1], stderr=subprocess.PIPE)
    assert done.returncode == 7
    assert b"standard output: Bad file descriptor" in done.stderr
    assert db.get(1)["state"] == "ready"


def test_all_of_them_closed(db):
    for words in (["enqueue", "1"], ["list"], ["get", "99"], ["nonsense"]):
        done = closed(db, *words, fds=[0, 1, 2])
        assert done.returncode in (2, 3, 7), (words, done)
    result = db.json("doctor", "--thorough")
    assert result.code == 0, result


# ---- Values from elsewhere ---------------------------------------------------

ESCAPE = "\x1b[31m"


@pytest.mark.parametrize(
    "words",
    [
        [ESCAPE],
        [f"--{ESCAPE}"],
        ["get", ESCAPE],
        ["list", "--state", ESCAPE],
        ["list", "-q", ESCAPE],
        ["enqueue", "--name", ESCAPE],
        ["enqueue", "--delay", ESCAPE],
        ["enqueue", "--file", ESCAPE],
        ["enqueue", "--header", ESCAPE],
        ["queue", "set", ESCAPE, "--limit", "1"],
        ["queue", "set", "q", "--limit", ESCAPE],
        ["ack", ESCAPE],
        ["--db", f"/nowhere/{ESCAPE}", "list"],
        ["dead", ESCAPE],
        ["worker", "--", f"./{ESCAPE}"],
    ],
)
def test_control_characters_do_not_reach_the_terminal(db, words):
    result = run(*words, env={"DIBS_DB": db.path})
    assert result.code in (2, 7), result
    assert "\x1b" not in result.err + result.out, result
    assert result.err.startswith("dibs: ")


@pytest.mark.parametrize(
    "duration",
    "5x 5M 1h30m -5m 1e9 999999999999d inf . 5. .5 0x5s +5s 5us 1w".split(),
)
def test_a_duration_that_is_none(db, duration):
    result = db.json("enqueue", "1", f"--delay={duration}")
    assert result.code == 2
    assert f'"{duration}"' in result.error["message"]
    assert "250ms" in result.error["message"]


@pytest.mark.parametrize(
    "words",
    [
        ["enqueue", "1", "--priority", "2147483648"],
        ["enqueue", "1", "--max-attempts", "2147483648"],
        ["enqueue", "1", "--max-attempts", "9223372036854775808"],
        ["enqueue", "1", "--max-payload", "9223372036854775808"],
        ["enqueue", "1", "--backoff-factor", "1e400"],
        ["claim", "-n", "10001"],
        ["peek", "-n", "10001"],
        ["list", "--limit", "9223372036854775808"],
        ["list", "--after", "9223372036854775808"],
        ["get", "9007199254740992"],
        ["change", "1", "--priority", "-2147483649"],
        ["worker", "-j", "10001", "--", "true"],
    ],
)
def test_a_number_that_is_too_large(db, words):
    db.enqueue("1")
    result = db.json(*words)
    assert result.code == 2, result
    assert words[-1] in result.error["message"] or "-j" in words
