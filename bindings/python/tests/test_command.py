# SPDX-License-Identifier: MIT
"""``python -m dibs worker``: starting, stopping, processes, reloading."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dibs
from dibs._command import _duration, status_line

PACKAGES = Path(dibs.__file__).parents[1]

MODULE = """
import asyncio, os, pathlib, time
import dibs

app = dibs.App({path!r}, synchronous="normal")
here = pathlib.Path({folder!r})

@app.task
def pid():
    return os.getpid()

@app.task
async def double(x):
    await asyncio.sleep(0)
    return 2 * x

@app.task
def wait(name):
    (here / name).touch()
    while not (here / "go").exists():
        time.sleep(0.005)
    return "whole"

@app.task
def wait_once(*, job):
    (here / f"once-{{job.attempt}}").write_text(str(os.getpid()))
    while job.attempt == 1:
        time.sleep(0.005)
    return job.attempt

@app.task
def version():
    return 1
"""


@pytest.fixture
def folder(tmp_path: Path, path: str) -> Path:
    text = textwrap.dedent(MODULE).format(path=path, folder=str(tmp_path))
    (tmp_path / "jobs.py").write_text(text)
    return tmp_path


@pytest.fixture
def worker(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, app: str = "jobs:app", **options: Any) -> Any:
        process = subprocess.Popen(
            [sys.executable, "-m", "dibs", "worker", app, *words],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(PACKAGES),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            text=True,
            **{"stderr": subprocess.PIPE, **options},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate()


def until(seen: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 30
    while not (found := seen()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)
    return found


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A zombie whose parent is gone, too, may wait for its reaper.
    return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()


def enqueue(db: dibs.Database, name: str, *args: Any) -> int:
    return db.queue().enqueue(list(args), name=name, keep=600)


@pytest.mark.parametrize("mode", ["--threads", "--asyncio", "--processes"])
def test_a_worker_works_until_it_is_told_to_stop(
    db: dibs.Database, worker: Callable[..., subprocess.Popen[str]], mode: str
) -> None:
    process = worker(mode, "-j", "2")
    ids = [enqueue(db, "double", n) for n in range(10)]
    assert [db.result(id, 30) for id in ids] == [2 * n for n in range(10)]
    pids = {db.result(enqueue(db, "pid"), 30) for _ in range(10)}
    assert (process.pid in pids) == (mode != "--processes")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert all(gone(each) for each in pids)
    assert process.stderr is not None
    log = process.stderr.read()
    assert "working on default" in log
    assert "\x1b" not in log, "no status line where there is no terminal"


@pytest.mark.parametrize("mode", ["--threads", "--processes"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_what_is_running_end(
    db: dibs.Database,
    folder: Path,
    worker: Callable[..., subprocess.Popen[str]],
    mode: str,
    number: int,
) -> None:
    process = worker(mode, "-j", "2")
    running = enqueue(db, "wait", "begun")
    until((folder / "begun").exists, "the job runs")
    process.send_signal(number)
    time.sleep(0.1)
    assert process.poll() is None, "it waits"
    waiting = enqueue(db, "pid")
    (folder / "go").touch()
    assert process.wait(30) == 0
    assert db.result(running, 0) == "whole"
    assert db.get(waiting).state == "ready"


@pytest.mark.parametrize("mode", ["--threads", "--asyncio"])
def test_what_does_not_end_within_the_grace_is_given_back(
    db: dibs.Database,
    folder: Path,
    worker: Callable[..., subprocess.Popen[str]],
    mode: str,
) -> None:
    process = worker(mode, "--grace", "100ms")
    id = enqueue(db, "wait", "begun")
    until((folder / "begun").exists, "the job runs")
    process.terminate()
    assert process.wait(30) == 0
    assert (db.get(id).state, db.get(id).attempt) == ("ready", 0)


def test_a_second_interrupt_does_not_wait(
    db: dibs.Database, folder: Path, worker: Callable[..., subprocess.Popen[str]]
) -> None:
    process = worker("--grace", "1h")
    id = enqueue(db, "wait", "begun")
    until((folder / "begun").exists, "the job runs")
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert (db.get(id).state, db.get(id).attempt) == ("ready", 0)


def test_a_process_that_is_killed_is_replaced(
    db: dibs.Database, folder: Path, worker: Callable[..., subprocess.Popen[str]]
) -> None:
    worker("--processes", "-j", "2")
    id = enqueue(db, "wait_once")
    first = folder / "once-1"
    pid = int(until(lambda: first.exists() and first.read_text(), "the job runs"))
    os.kill(pid, signal.SIGKILL)
    assert db.result(id, 30) == 2, "its job runs once more"
    pids: set[int] = set()

    def both() -> bool:
        pids.add(db.result(enqueue(db, "pid"), 30))
        return len(pids) == 2

    until(both, "two processes work")
    assert pid not in pids


def test_processes_do_not_outlive_their_supervisor(
    db: dibs.Database, worker: Callable[..., subprocess.Popen[str]]
) -> None:
    process = worker("--processes", "-j", "2")
    pid = db.result(enqueue(db, "pid"), 30)
    process.kill()
    process.wait()
    until(lambda: gone(pid), "the process is gone")


def test_drain_ends_when_all_is_done(
    db: dibs.Database, worker: Callable[..., subprocess.Popen[str]]
) -> None:
    ids = [enqueue(db, "double", n) for n in range(5)]
    assert worker("--drain").wait(30) == 0
    assert worker("--drain", "--processes", "-j", "2").wait(30) == 0
    assert [db.result(id, 0) for id in ids] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("nowhere:app", "No module named 'nowhere'"),
        ("jobs:nothing", "name a dibs.App as module:app; 'nothing' is none"),
    ],
)
@pytest.mark.parametrize("mode", ["--threads", "--processes"])
def test_an_app_that_is_not_there_is_said(
    worker: Callable[..., subprocess.Popen[str]], app: str, says: str, mode: str
) -> None:
    process = worker(mode, "-j", "2", app=app)
    _, text = process.communicate(timeout=30)
    assert process.returncode == 2
    assert says in text


def test_a_module_alone_means_its_only_app(
    db: dibs.Database, worker: Callable[..., subprocess.Popen[str]]
) -> None:
    id = enqueue(db, "double", 2)
    assert worker("--drain", app="jobs").wait(30) == 0
    assert db.result(id, 0) == 4


def test_a_change_of_a_file_starts_it_again(
    db: dibs.Database, folder: Path, worker: Callable[..., subprocess.Popen[str]]
) -> None:
    module = folder / "jobs.py"
    text = module.read_text()
    process = worker("--reload")
    assert db.result(enqueue(db, "version"), 30) == 1
    module.write_text(text.replace("return 1", "return 2"))
    until(lambda: db.result(enqueue(db, "version"), 30) == 2, "the new code runs")
    module.write_text("import nothing_at_all\n")
    time.sleep(1.2)
    assert process.poll() is None, "it waits for a file that can be loaded"
    module.write_text(text.replace("return 1", "return 3"))
    until(lambda: db.result(enqueue(db, "version"), 30) == 3, "the newest code runs")
    process.terminate()
    assert process.wait(30) == 0
    assert db.list(state="running") == []


def test_a_terminal_gets_a_status_line(
    db: dibs.Database, worker: Callable[..., subprocess.Popen[str]]
) -> None:
    ours, theirs = pty.openpty()
    process = worker(stderr=theirs)
    os.close(theirs)
    db.result(enqueue(db, "double", 1), 30)
    text = ""

    def read() -> bool:
        nonlocal text
        if select.select([ours], [], [], 0.1)[0]:
            text += os.read(ours, 4096).decode()
        return "dibs: 0 running, 1 done" in text

    until(read, "the line")
    assert "\r\x1b[K" in text
    process.terminate()
    assert process.wait(30) == 0
    os.close(ours)


def test_the_status_line_tells_what_is_there() -> None:
    counts = {"done": 12, "dead": 1, "retried": 0}
    assert status_line(counts, 3, 4.4) == "dibs: 3 running, 12 done, 4/s, 1 dead"


def test_durations_are_those_of_the_program() -> None:
    seen = [_duration(each) for each in ("250ms", "30s", "5m", "2h", "7d", "1.5")]
    assert seen == [0.25, 30, 300, 7200, 604800, 1.5]
    for bad in ("5x", "", "-1s", "inf", "s"):
        with pytest.raises(Exception, match="no duration"):
            _duration(bad)
