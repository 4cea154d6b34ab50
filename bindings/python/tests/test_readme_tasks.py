# SPDX-License-Identifier: MIT
"""The README's code on tasks, testing and moving works as it stands there."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import dibs

README = Path(__file__).parents[1] / "README.md"


def blocks(section: str) -> list[str]:
    """The Python of a section."""
    text = README.read_text()
    found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found, f"there is a section {section}"
    return re.findall(r"^```python\n(.*?)^```", found[1], re.M | re.S)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the section on tasks makes."""
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {"__name__": "readme"}
    for each in blocks("Tasks"):
        exec(compile(each, "README.md", "exec"), made)
    return made


def test_tasks(names: dict[str, Any]) -> None:
    app = names["app"]
    stats = app.database.queue("emails").stats()
    assert (stats.ready, stats.scheduled) == (1, 1)
    with app.worker() as worker:
        result = names["send_email"].enqueue("carol").result(timeout=20)
    assert result == "Hello, carol (attempt 1)"
    assert worker.counts.get("dead", 0) == 0
    app.close()


def test_testing(names: dict[str, Any]) -> None:
    [code] = blocks("Testing")
    exec(compile(code, "README.md", "exec"), names)
    names["app"].close()


def test_moving_from_liteq(names: dict[str, Any], path: str) -> None:
    app = dibs.App(path)

    @app.task
    def send(to: str, times: int = 1) -> None: ...

    connection = sqlite3.connect(path)
    connection.executescript(
        """
        CREATE TABLE tasks(id INTEGER PRIMARY KEY, name TEXT NOT NULL,
            payload TEXT NOT NULL, queue TEXT NOT NULL, status TEXT);
        INSERT INTO tasks(name, payload, queue, status) VALUES
            ('send', '{"args": ["a"], "kwargs": {}}', 'default', 'pending'),
            ('send', '{"args": ["b"], "kwargs": {"times": 2}}', 'x', 'pending'),
            ('send', '{"args": ["c"], "kwargs": {}}', 'default', 'done');
        """
    )
    [code] = blocks("Coming from elsewhere")
    exec(compile(code, "README.md", "exec"), names)
    assert names["move_from_liteq"](path, app) == 2
    rows = connection.execute("SELECT id FROM tasks").fetchall()
    connection.close()
    assert rows == [(3,)]
    payloads = [job.data for job in app.database.queue().list()]
    assert payloads == [{"to": "a"}, {"to": "b", "times": 2}]
    app.close()
    names["app"].close()
