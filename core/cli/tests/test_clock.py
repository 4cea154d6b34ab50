# SPDX-License-Identifier: MIT
"""The wall clock of a machine is set while a job runs: libfaketime sets it.

The handler ends when it is told to, not after a time, and everything waits for
what the workers have done, not for a time to pass."""

import glob
import json
import os
import subprocess
import time

from harness import LIMIT, PROGRAM, environment

LIBRARY = "/usr/lib/*/faketime/libfaketime.so.1"

COMMAND = """
echo "$DIBS_ATTEMPT" >> started
unset LD_PRELOAD
while [ ! -e go ]; do sleep 0.05; done
"""


def until(condition, what):
    """Wait until it holds."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def clock_set(folder, offset):
    """Set the clock of all that run with the library, at once."""
    (folder / "clock.new").write_text(offset + "\n")
    os.replace(folder / "clock.new", folder / "clock")


def worker(folder, number):
    """A worker whose clock can be set."""
    libraries = glob.glob(LIBRARY)
    assert libraries, "libfaketime is missing: install Debian's libfaketime"
    return subprocess.Popen(
        [PROGRAM, "--db", "jobs.db", "worker", "--json", "--lease", "1", "--", "sh", "-c", COMMAND],
        cwd=folder,
        env=environment(
            LD_PRELOAD=libraries[0],
            FAKETIME_TIMESTAMP_FILE=str(folder / "clock"),
            FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
            # The sanitizer's library wants to be the first that is loaded.
            ASAN_OPTIONS="verify_asan_link_order=0",
        ),
        stderr=open(folder / f"log.{number}", "w"),
        stdin=subprocess.DEVNULL,
    )


def lease_moves(db):
    """Wait until the lease of the running job has been extended."""
    first = db.get(1)["lease_until"]
    until(lambda: db.get(1)["lease_until"] != first, "the lease is not extended")


def test_a_clock_that_is_set_runs_no_job_twice(db, tmp_path):
    folder = tmp_path
    clock_set(folder, "+0")
    db.enqueue("1")
    workers = [worker(folder, 1), worker(folder, 2)]
    try:
        until((folder / "started").exists, "the job does not start")
        for offset in ("+1h", "+0", "-1h", "+0"):
            clock_set(folder, offset)
            lease_moves(db)
        assert (folder / "started").read_text() == "1\n"
        (folder / "go").touch()
        until(lambda: not db.run("--json", "list").rows, "the job is stranded")
    finally:
        for process in workers:
            process.terminate()
        for process in workers:
            process.wait(timeout=LIMIT)
    lines = [
        json.loads(line)
        for number in (1, 2)
        for line in (folder / f"log.{number}").read_text().splitlines()
        if line.startswith("{")
    ]
    events = [line["event"] for line in lines if line.get("id") == 1]
    assert events == ["done"], events
