# SPDX-License-Identifier: MIT
"""ci/quickstart, on a small tree of difficult names."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

DIBS = os.environ["DIBS"]
QUICKSTART = Path(__file__).parents[3] / "ci" / "quickstart"
DEADLINE = 120


@pytest.fixture
def tree(tmp_path):
    """300 files, some of whose names are hard on a shell."""
    tree = tmp_path / "a tree"
    (tree / "sub folder").mkdir(parents=True)
    names = [f"sub folder/plain-{n}".encode() for n in range(290)]
    names += [
        b"with space ", b" leading", b"quote'\"", b"back\\slash\\n", b"$(touch x)",
        b"new\nline", b"ends\n", b"-rf", b"not utf-8 \xff\xfe", "snow ☃".encode(),
    ]  # fmt: skip
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(tree), name)
        with open(path, "wb") as file:
            file.write(os.urandom(16) * number)
    return tree


@pytest.fixture
def scratch(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    yield scratch
    assert list(scratch.iterdir()) == [], "something was left behind"
    assert not using(scratch), "a process was left behind"


def using(folder):
    """The processes that were started with this folder for scratch files."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if os.fsencode(folder) in path.read_bytes() and path.parent.name != str(
                os.getpid()
            ):
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def environment(scratch, program=DIBS):
    return {**os.environ, "DIBS": str(program), "TMPDIR": str(scratch)}


def run(tree, scratch, code=0, program=DIBS):
    done = subprocess.run(
        [QUICKSTART, tree],
        env=environment(scratch, program),
        capture_output=True,
        timeout=DEADLINE,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines())


def test_every_file_has_one_result_although_a_worker_is_killed(tree, scratch):
    table = run(tree, scratch)
    assert table["files"] == table["jobs done"] == "300"
    assert table["dead"] == "0"
    assert table["one result per file"] == "yes"
    held = re.fullmatch(r"worker 3, holding (\d+)", table["killed with kill -9"])
    assert held, table
    assert int(table["redelivered"]) >= int(held[1]) >= 1


def test_a_lost_file_is_noticed(tree, scratch, tmp_path):
    forgetful = tmp_path / "forgetful"
    forgetful.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f'*--lines*) tail -n +2 | "{DIBS}" "$@" ;;\n'
        f'*) exec "{DIBS}" "$@" ;;\n'
        "esac\n"
    )
    forgetful.chmod(0o755)
    table = run(tree, scratch, code=1, program=forgetful)
    assert table["one result per file"] == "no"


def test_ctrl_c_leaves_no_mess(tree, scratch):
    process = subprocess.Popen(
        [QUICKSTART, tree],
        env=environment(scratch),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until = time.monotonic() + DEADLINE
    while not list(scratch.glob("*/results/*")):
        assert process.poll() is None and time.monotonic() < until
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 130


def test_wrong_arguments(tmp_path, scratch):
    for words in (["one", "two"], [str(tmp_path / "none")]):
        done = subprocess.run(
            [QUICKSTART, *words], env=environment(scratch), capture_output=True
        )
        assert done.returncode == 1
        assert b"quickstart: " in done.stderr
