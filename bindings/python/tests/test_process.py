# SPDX-License-Identifier: MIT
"""What a process does: one library, forks, many processes, closing."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import dibs
from dibs import _dibs, _errors, _library


def test_one_library_serves_both(path: str) -> None:
    """The very code that sqlite3 runs: its version, and no second file of
    SQLite mapped."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t(x)")
    with dibs.open(path) as db:
        db.queue().enqueue(1)
        maps = Path("/proc/self/maps").read_text()
        shm = [
            line
            for line in maps.splitlines()
            if line.endswith(path + "-shm") and line.split()[2] == "00000000"
        ]
        assert len(shm) == 1
        assert db.sqlite_version == sqlite3.sqlite_version
    assert "sqlite3_open_v2" not in exported(_dibs.__file__)
    connection.close()


def exported(file: str) -> str:
    return subprocess.run(
        ["nm", "-D", "--defined-only", file],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_two_symbols_are_exported() -> None:
    names = {line.split()[-1] for line in exported(_dibs.__file__).splitlines()}

    assert names - {"_init", "_fini"} == {"PyInit__dibs", "sqlite3_dibs_init"}


def test_rows_outlive_the_closing_of_either(path: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t(x)")
    connection.commit()
    db = dibs.open(path)
    source = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
    source += "c.executemany('INSERT INTO t VALUES (?)', [(1,)] * 200);"
    source += "c.commit()"
    connection.execute("SELECT count(*) FROM t").fetchone()
    db.close()
    subprocess.run([sys.executable, "-c", source, path], check=True)
    connection.execute("INSERT INTO t VALUES (2)")
    connection.commit()
    connection.close()
    subprocess.run([sys.executable, "-c", source, path], check=True)

    check = sqlite3.connect(path)
    assert check.execute("SELECT count(*) FROM t").fetchone() == (401,)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


def test_another_library_on_the_same_file_is_refused(path: str) -> None:
    apsw = pytest.importorskip("apsw")
    if apsw.sqlite_lib_version() == sqlite3.sqlite_version:
        pytest.skip("APSW has the same library here")
    connection = apsw.Connection(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t(x)")

    with pytest.raises(dibs.LibraryError, match=r"library"):
        dibs.open(path)

    connection.close()


def test_a_provider_is_found_once() -> None:
    assert _library.provider() is _library.provider("sqlite3")
    with pytest.raises(ModuleNotFoundError):
        _library.provider("no_such_sqlite")


def test_each_status_has_its_class() -> None:
    statuses = _dibs.statuses()
    assert set(_errors.BY_STATUS) == set(statuses) - {0}
    for number, each in _errors.BY_STATUS.items():
        name = statuses[number][0]
        assert (each.number, each.status) == (number, name)
        words = name.removeprefix("DIBS_").split("_")
        assert each.__name__ == "".join(map(str.capitalize, words)) + "Error"
        assert getattr(dibs, each.__name__) is each
        assert each.__doc__


def test_a_child_of_a_fork_is_refused(db: dibs.Database, path: str) -> None:
    db.queue().enqueue(1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        seen = []
        for action in (
            lambda: db.queue().enqueue(2),
            lambda: db.queue().claim(),
            lambda: db.queue().claim(wait=1),
            lambda: db.stats(),
            lambda: db.close(),
        ):
            try:
                action()
                seen.append("no error")
            except dibs.ForkedError:
                seen.append("forked")
            except BaseException as error:
                seen.append(repr(error))
        with dibs.open(path) as again:
            seen.append(str(again.queue().enqueue(3)))
        os.write(writer, " ".join(seen).encode())
        os._exit(0)
    os.waitpid(child, 0)

    assert os.read(reader, 1000) == b"forked " * 5 + b"2"
    assert db.queue().stats().ready == 2
    os.close(reader)
    os.close(writer)


def work(path: str, count: int) -> None:
    with dibs.open(path, synchronous="normal") as db:
        q = db.queue("out")
        for job in db.queue("in").jobs(wait=0):
            with job:
                q.enqueue(job.data)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_the_work(db: dibs.Database, path: str, method: str) -> None:
    db.queue("in").enqueue_many(range(200))
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=work, args=(path, 200)) for _ in range(3)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(120)

    assert [each.exitcode for each in processes] == [0, 0, 0]
    done = sorted(each.data for each in db.queue("out").claim_many(1000))
    assert done == list(range(200))


def test_closing_leaves_no_descriptor_and_no_wal(path: str) -> None:
    with dibs.open(path) as db:
        db.queue().enqueue(1)
        db.queue().claim()
    files = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue

    assert not [each for each in files if each.startswith(path)]
    assert not Path(path + "-wal").exists()


def test_a_database_that_is_not_closed_closes_itself(path: str) -> None:
    db = dibs.open(path)
    db.queue().enqueue(1)
    del db

    assert not Path(path + "-wal").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"path": "/nowhere/app.db"}, dibs.IoError),
        ({"path": "/"}, dibs.IoError),
        ({"create": "perhaps"}, dibs.InvalidError),
        ({"synchronous": "off"}, dibs.InvalidError),
        ({"create": False}, dibs.SchemaError),
        ({"clock": 5}, TypeError),
        ({"path": "a\0b"}, dibs.InvalidError),
    ],
)
def test_a_bad_opening_is_told(
    path: str, arguments: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        dibs.open(**{"path": path, **arguments})  # type: ignore[arg-type]


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("some notes, and no database at all\n" * 100)

    with pytest.raises(dibs.SchemaError, match=r"notes\.txt"):
        dibs.open(notes)

    assert notes.read_text().startswith("some notes")


def test_a_busy_database_is_told(path: str) -> None:
    with dibs.open(path, busy_timeout=0.05) as db:
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(dibs.BusyError):
            db.queue().enqueue(1)

        other.rollback()
        other.close()
        assert db.queue().enqueue(1)


@pytest.mark.parametrize("config", ["legacy", "isolated"])
def test_a_subinterpreter_is_refused(config: str) -> None:
    source = f"""
import sys; sys.path[:] = {sys.path!r}
try:
    import dibs
except ImportError as error:
    assert "subinterpreter" in str(error), error
else:
    raise AssertionError("it was imported")
"""
    if sys.version_info >= (3, 13):
        import _interpreters as interpreters

        each = interpreters.create(config)
        failure = interpreters.run_string(each, source)
        assert failure is None, failure
    else:
        import _xxsubinterpreters as interpreters

        each = interpreters.create(isolated=config == "isolated")
        interpreters.run_string(each, source)
    interpreters.destroy(each)
