# SPDX-License-Identifier: MIT
"""Running the dibs program in tests: each has a database of its own.

DIBS names the program. Nothing here sleeps: what must be waited for is waited
for by reading from a pipe or a terminal, with a time limit.
"""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

PROGRAM = os.environ.get("DIBS", "dibs")
LIMIT = 60  # seconds after which whatever is waited for has failed


class Result:
    """What one run of the program gave."""

    def __init__(self, code, out, err):
        self.code = code
        self.raw_out = out
        self.raw_err = err
        self.out = out.decode("utf-8", "surrogateescape")
        self.err = err.decode("utf-8", "surrogateescape")

    def __repr__(self):
        return f"exit {self.code}\nstdout: {self.out}\nstderr: {self.err}"

    @property
    def rows(self):
        """The objects on stdout, one a line."""
        return [json.loads(line) for line in self.out.split("\n") if line]

    @property
    def row(self):
        rows = self.rows
        assert len(rows) == 1, self
        return rows[0]

    @property
    def errors(self):
        """The error objects on stderr, one a line."""
        objects = [json.loads(line) for line in self.err.split("\n") if line]
        assert all(list(o) == ["error"] for o in objects), self
        return [o["error"] for o in objects]

    @property
    def error(self):
        errors = self.errors
        assert len(errors) == 1, self
        return errors[0]

    @property
    def ids(self):
        """The bare ids on stdout."""
        return [int(line) for line in self.out.split()]


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DIBS")}
    kept.pop("NO_COLOR", None)
    kept["TERM"] = "xterm"
    kept.update(more)
    return kept


def run(*args, input=b"", cwd=None, env=None, stdout=subprocess.PIPE):
    """Run dibs with the arguments as they are."""
    if isinstance(input, str):
        input = input.encode("utf-8", "surrogateescape")
    done = subprocess.run(
        [PROGRAM, *map(os.fsencode, map(str, args))],
        input=input,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=environment(**(env or {})),
        timeout=LIMIT,
        check=False,
    )
    return Result(done.returncode, done.stdout or b"", done.stderr)


def read_line(pipe):
    """Read a line from an unbuffered pipe; fails when none comes."""
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], LIMIT)
        assert ready, f"no line came within {LIMIT} s after {line!r}"
        data = os.read(pipe.fileno(), 1)
        assert data, f"the pipe ended after {line!r}"
        line += data
    return line


def waits_already(process):
    """Wait until a process has caught its signals, as /proc tells."""
    for _ in range(1_000_000):
        with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
            caught = re.search(r"^SigCgt:\s*(\w+)", status.read(), re.M)
        if int(caught[1], 16) & (1 << (signal.SIGINT - 1)):
            return
        os.sched_yield()
    raise AssertionError("SIGINT is not caught")


class Database:
    """A database in a folder of the test."""

    def __init__(self, folder, init=True):
        self.folder = folder
        self.path = str(folder / "jobs.db")
        if init:
            assert self.run("init").code == 0

    def run(self, *args, **more):
        """Run a command for people."""
        return run("--db", self.path, *args, **more)

    def json(self, *args, **more):
        """Run a command with --json."""
        return run("--db", self.path, "--json", *args, **more)

    def ok(self, *args, **more):
        """Run a command with --json that must succeed; gives its rows."""
        result = self.json(*args, **more)
        assert result.code == 0, (args, result)
        return result.rows

    def enqueue(self, *args, **more):
        """Enqueue one job; gives its id."""
        (row,) = self.ok("enqueue", *args, **more)
        return row["id"]

    def claim(self, *args):
        """Claim one job."""
        (row,) = self.ok("claim", *args)
        return row

    def get(self, job):
        (row,) = self.ok("get", job)
        return row

    def kill(self, job):
        """Bring a new job to the dead letters."""
        (claimed,) = [
            row
            for row in self.ok("claim", "--all", "-n", "10000")
            if row["id"] == job
        ]
        self.ok("fail", claimed["receipt"], "--error", "broken")
        return job


class Terminal:
    """dibs on a terminal of its own."""

    def __init__(
        self,
        *args,
        env=None,
        stdin=None,
        stdout=None,
        columns=100,
        program=PROGRAM,
    ):
        self.master, slave = pty.openpty()
        size = struct.pack("HHHH", 40, columns, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        self.process = subprocess.Popen(
            [program, *map(str, args)],
            stdin=slave if stdin is None else stdin,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            env=environment(**(env or {})),
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def read(self):
        """Read once; False at the end."""
        ready, _, _ = select.select([self.master], [], [], LIMIT)
        assert ready, f"nothing came within {LIMIT} s after {self.text!r}"
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the other side is closed
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)

    def expect(self, text):
        """Read until a text has come."""
        until = time.monotonic() + LIMIT
        while text not in self.text:
            assert time.monotonic() < until, self.text
            assert self.read(), f"{text!r} did not come: {self.text!r}"

    def send(self, text):
        os.write(self.master, text.encode())

    def finish(self):
        """Read to the end; gives the exit code."""
        while self.read():
            pass
        os.close(self.master)
        return self.process.wait(LIMIT)
