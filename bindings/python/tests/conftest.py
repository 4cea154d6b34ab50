# SPDX-License-Identifier: MIT
from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dibs


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "app.db")


@pytest.fixture
def db(path: str) -> Iterator[dibs.Database]:
    # A power cut is no matter of these tests.
    with dibs.open(path, synchronous="normal") as database:
        yield database


@pytest.fixture
def q(db: dibs.Database) -> dibs.Queue:
    return db.queue("emails")


@pytest.fixture
def program(path: str) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts Python programs that find the database in sys.argv[1]."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source), path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
