# SPDX-License-Identifier: MIT
"""ci/chaos finds what is wrong, and leaves nothing behind. That nothing is
wrong, a longer run of it shows: the step `chaos` of ci/test."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

DIBS = os.environ["DIBS"]
CHAOS = Path(__file__).parents[3] / "ci" / "chaos"
DEADLINE = 240


@pytest.fixture
def scratch(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    yield scratch
    assert not using(scratch), "a process was left behind"


def using(folder):
    """The processes that live and were started with this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if os.fsencode(folder) in path.read_bytes():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return [pid for pid in found if pid != os.getpid()]


def environment(scratch):
    return {**os.environ, "DIBS": DIBS, "TMPDIR": str(scratch)}


def run(scratch, *arguments, code=0):
    done = subprocess.run(
        [CHAOS, *arguments],
        env=environment(scratch),
        capture_output=True,
        timeout=DEADLINE,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def sabotage(scratch, *how):
    """The rows of a run whose promises were broken in these ways."""
    words = [word for name in how for word in ("--sabotage", name)]
    done = run(scratch, "--seconds", "4", "--seed", "1", *words, code=1)
    assert "faults, seed 1; see" in done.stderr, done.stderr
    assert list(scratch.iterdir()), "the database was not kept"
    rows = (re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines())
    return {words[0]: words[1] for words in rows if len(words) == 2}


def test_broken_promises_are_noticed(scratch):
    table = sabotage(scratch, "lose", "steal", "alter", "bury")
    assert int(table["lost (0)"]) > 0
    assert int(table["done twice under a valid lease (0)"]) > 0
    assert int(table["enqueued twice or altered (0)"]) > 0
    assert int(table["done or dead without a reason (0)"]) > 0
    assert table["neither done nor dead (0)"] == "0"
    assert table["held by the dead (0)"] == "0"
    assert table["integrity check"] == table["doctor"] == "ok"


def test_other_broken_promises_are_noticed(scratch):
    table = sabotage(scratch, "undo", "split", "hold", "damage", "end")
    assert table["lost (0)"] == "0"
    assert int(table["done twice under a valid lease (0)"]) > 1
    assert table["neither done nor dead (0)"] == "1"
    assert table["held by the dead (0)"] == "1"
    assert int(table["half a transaction (0)"]) > 0
    assert table["ended by themselves (0)"] == "1"
    assert table["integrity check"] != "ok"
    assert table["doctor"] != "ok"


def test_ctrl_c_leaves_no_mess(scratch):
    process = subprocess.Popen(
        [CHAOS, "--seconds", "60"],
        env=environment(scratch),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until = time.monotonic() + DEADLINE
    while not any(path.stat().st_size for path in scratch.glob("*/results")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert out == b""
    assert list(scratch.iterdir()) == [], "something was left behind"


def test_wrong_arguments(scratch):
    for words in (["--seconds", "0"], ["--sabotage", "nothing"], ["word"]):
        done = run(scratch, *words, code=2)
        assert done.stderr.startswith("usage: ci/chaos"), done.stderr
    full = scratch / "full"
    full.mkdir()
    (full / "file").touch()
    done = run(scratch, "--folder", full, code=1)
    assert done.stderr == f"chaos: {full} is not empty\n"
