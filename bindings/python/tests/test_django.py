# SPDX-License-Identifier: MIT
"""Django: the project in ``django_project``, its tests, its worker, its checks.
Each in a process of its own, as settings are one to a process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import dibs

django = pytest.importorskip("django", minversion="4.2")

PROJECT = Path(__file__).parent / "django_project"
PACKAGES = Path(dibs.__file__).parents[1]


@pytest.fixture
def manage(path: str) -> Any:
    environment = {
        **os.environ,
        "PYTHONPATH": str(PACKAGES),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SHOP_DB": path,
    }

    def start(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "manage.py", *words],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def test_the_tests_of_a_project(manage: Any) -> None:
    output = ended(manage("test"))
    assert "OK" in output
    assert "Ran 17 tests" in output


def test_migrate_makes_the_tables(manage: Any, path: str) -> None:
    ended(manage("migrate", "--run-syncdb", "-v0"))
    connection = sqlite3.connect(path)
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}
    connection.close()
    assert {"shop_order", "dibs_job"} <= names


@pytest.mark.parametrize("mode", ["--threads", "--processes", "--asyncio"])
def test_dibs_worker_runs_tasks_and_stops(manage: Any, path: str, mode: str) -> None:
    ended(manage("migrate", "--run-syncdb", "-v0"))
    enqueue = (
        "from shop.models import Order\n"
        "from shop.tasks import *\n"
        "for n in range(5):\n"
        "    send_receipt.enqueue(Order.objects.create(what='tea').pk)\n"
        "    send_once.enqueue(Order.objects.latest('pk').pk)\n"
    )
    if django.VERSION >= (6,):
        enqueue += "add.enqueue(1)\nadd_later.enqueue(2)\n"
    ended(manage("shell", "-c", enqueue))
    worker = manage("dibs_worker", mode, "-j", "2")
    with dibs.open(path) as db:
        deadline = time.monotonic() + 30
        while sum(each.unfinished for each in db.stats()):
            assert time.monotonic() < deadline, db.stats()
            time.sleep(0.02)
        assert db.list(state="dead") == []
    worker.send_signal(signal.SIGTERM)
    assert "working on" in ended(worker)
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT receipts FROM shop_order").fetchall()
    connection.close()
    assert rows == [(2,)] * 5


def test_a_database_that_is_not_sqlite_is_told(manage: Any, path: str) -> None:
    source = """
        import django
        from django.conf import settings
        settings.configure(
            INSTALLED_APPS=["dibs.django"],
            DATABASES={"default": {"ENGINE": "django.db.backends.dummy"}},
            DIBS={"DATABASE": "%s"},
        )
        django.setup()
        from django.core.management import call_command
        call_command("check")
    """
    for name, says in (("default", "is no SQLite database"), ("x", "none of")):
        text = "\n".join(line.strip() for line in (source % name).splitlines())
        process = subprocess.run(
            [sys.executable, "-c", text],
            env={**os.environ, "PYTHONPATH": str(PACKAGES)},
            capture_output=True,
            text=True,
        )
        assert process.returncode != 0
        assert says in process.stderr
