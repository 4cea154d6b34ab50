# SPDX-License-Identifier: MIT
"""Hosts of the extension: SQLite's own shell and Python's sqlite3, and beside
them the dibs program.

DIBS names that program, DIBS_EXTENSION the extension, SQLITE3 the shell.
Nothing here sleeps: what must be waited for is waited for with a time limit.
"""

import json
import os
import pty
import re
import select
import sqlite3
import struct
import subprocess
import time
import tty

import pytest

PROGRAM = os.environ.get("DIBS", "dibs")
EXTENSION = os.environ["DIBS_EXTENSION"]
SQLITE3 = os.environ.get("SQLITE3", "sqlite3")
LIMIT = 60  # seconds after which whatever is waited for has failed

# How the shell begins an error depends on its version and on its input.
SHELL_ERROR = re.compile(
    r"^(?:(?:Parse|Runtime) error|Error)(?: near line \d+)?: (?:stepping, )?"
)


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DIBS")}
    kept.update(more)
    return kept


class Failed(Exception):
    """The dibs program gave another exit code than 0."""

    def __init__(self, code, stderr):
        super().__init__(f"exit code {code}: {stderr}")
        self.code = code


def dibs(path, *arguments):
    """Run the dibs program with --json; the objects it prints."""
    done = subprocess.run(
        [PROGRAM, "--db", str(path), "--json", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=LIMIT,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(done.returncode, done.stderr.decode())
    return [json.loads(line) for line in done.stdout.splitlines()]


class Shell:
    """The stock shell, which runs with its own library only: lines go in by a
    pipe, and what it prints, errors too, comes by a terminal, so that it comes in
    order."""

    def __init__(self, path, folder, load=True):
        self.path = str(path)
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self.process = subprocess.Popen(
            [SQLITE3, "-batch", str(path)],
            stdin=subprocess.PIPE,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env=environment(HOME=str(folder), LD_LIBRARY_PATH=""),
        )
        os.close(slave)
        self.count = 0
        if load:
            assert self.run(f".load {os.path.splitext(EXTENSION)[0]}") == []

    def read_until(self, end):
        text = b""
        until = time.monotonic() + LIMIT
        while not text.endswith(end):
            left = max(until - time.monotonic(), 0)
            ready, _, _ = select.select([self.master], [], [], left)
            assert ready, f"{end!r} did not come within {LIMIT} s: {text!r}"
            text += os.read(self.master, 65536)
        return text[: -len(end)].decode()

    def run(self, sql):
        """Run SQL or a command of the shell's; the lines that it prints."""
        self.count += 1
        mark = f"--mark {self.count}--"
        self.process.stdin.write(f"{sql}\n.print {mark}\n".encode())
        self.process.stdin.flush()
        return self.read_until((mark + "\n").encode()).splitlines()

    def close(self):
        self.process.stdin.close()
        code = self.process.wait(LIMIT)
        os.close(self.master)
        return code


def connect(path=":memory:", timeout=20.0, load=True, **options):
    """A connection of Python's sqlite3, without transactions of its own."""
    options = {"isolation_level": None, **options}
    connection = sqlite3.connect(path, timeout=timeout, **options)
    if load:
        connection.enable_load_extension(True)
        connection.load_extension(EXTENSION)
        connection.enable_load_extension(False)
    return connection


class Refused(Exception):
    """An SQL statement failed; the text is that of the error."""

    @property
    def status(self):
        return str(self).split(":", 1)[0]


class Database:
    """A database with tables, a connection to it, and the dibs program."""

    def __init__(self, folder):
        self.folder = folder
        self.path = str(folder / "app.db")
        self.sql = connect(self.path)
        self.sql.execute("PRAGMA journal_mode = WAL")
        self.sql.execute("PRAGMA synchronous = OFF")  # nobody cuts the power
        self.value("SELECT dibs_init()")

    def rows(self, sql, *values):
        try:
            return self.sql.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise Refused(str(error)) from error

    def value(self, sql, *values):
        """The only value of a query."""
        ((value,),) = self.rows(sql, *values)
        return value

    def refused(self, sql, *values):
        """The SQL fails; the text of its error."""
        with pytest.raises(Refused) as caught:
            self.rows(sql, *values)
        return str(caught.value)

    def call(self, name, *values):
        """Call a function; its value."""
        places = ", ".join("?" * len(values))
        return self.value(f"SELECT {name}({places})", *values)

    def fails(self, status, name, *values):
        """A call fails with that status; the sentence behind it."""
        with pytest.raises(Refused) as caught:
            self.call(name, *values)
        assert caught.value.status == status, caught.value
        return str(caught.value).split(": ", 1)[1]

    def claim(self, queue="q", **options):
        """Claim by SQL; the rows as dicts."""
        cursor = self.sql.execute(
            "SELECT * FROM dibs_claim(?, ?)",
            (queue, json.dumps(options) if options else None),
        )
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor.fetchall()]

    def take(self, queue="q", **options):
        """Claim one job, which must be there."""
        (job,) = self.claim(queue, **options)
        return job

    def put(self, payload="1", queue="q", **options):
        """Enqueue by SQL; the id."""
        options = json.dumps(options) if options else None
        return self.call("dibs_enqueue", queue, payload, options)

    def count(self):
        return self.value("SELECT count(*) FROM dibs_jobs")

    def dibs(self, *arguments):
        return dibs(self.path, *arguments)

    def job(self, number):
        (job,) = self.dibs("get", number)
        return job

    def signals(self):
        """How many signals were sent through the sidecar, ever."""
        with open(self.path + "-dibs", "rb") as file:
            file.seek(256)
            return struct.unpack("=Q", file.read(8))[0]

    def assert_sound(self):
        assert self.value("PRAGMA integrity_check") == "ok"
        findings = self.dibs("doctor")
        assert not [f for f in findings if f["level"] == "error"], findings
