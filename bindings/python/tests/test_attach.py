# SPDX-License-Identifier: MIT
from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import dibs


@pytest.fixture
def connection(path: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE orders(id INTEGER PRIMARY KEY, what)")
    yield connection
    connection.close()


def count(connection: sqlite3.Connection, table: str) -> int:
    (number,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(number)


def test_a_rollback_takes_the_job_back(
    connection: sqlite3.Connection, db: dibs.Database
) -> None:
    q = dibs.attach(connection).queue("mail")
    connection.execute("INSERT INTO orders(what) VALUES ('tea')")
    q.enqueue(1)
    connection.rollback()

    assert db.queue("mail").stats().unfinished == 0
    assert count(connection, "orders") == 0


@pytest.mark.parametrize("level", ["", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"])
def test_enqueueing_begins_a_transaction_as_an_insert_does(
    path: str, level: str, db: dibs.Database
) -> None:
    connection = sqlite3.connect(path, isolation_level=level)  # type: ignore[call-overload]
    q = dibs.attach(connection).queue("mail")

    with pytest.raises(ZeroDivisionError), connection:
        q.enqueue(1)
        assert connection.in_transaction
        1 / 0  # noqa: B018

    assert db.queue("mail").stats().unfinished == 0
    with connection:
        q.enqueue(2)
    assert db.queue("mail").stats().ready == 1
    connection.close()


def test_without_transactions_of_sqlite3_each_is_its_own(
    path: str, db: dibs.Database
) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    q = dibs.attach(connection).queue("mail")

    q.enqueue(1)
    assert not connection.in_transaction
    assert db.queue("mail").stats().ready == 1

    connection.execute("BEGIN IMMEDIATE")
    q.enqueue(2)
    connection.execute("ROLLBACK")
    assert db.queue("mail").stats().ready == 1
    connection.close()


def test_a_job_is_acked_in_the_applications_transaction(
    connection: sqlite3.Connection, db: dibs.Database
) -> None:
    q = db.queue("orders")
    q.enqueue_many(["tea", "coffee"])

    for job in q.jobs(wait=0):
        with job, connection:
            connection.execute("INSERT INTO orders(what) VALUES (?)", (job.data,))
            dibs.attach(connection).ack(job)

    assert count(connection, "orders") == 2
    assert q.stats().unfinished == 0


def test_a_lost_job_undoes_the_transaction(
    connection: sqlite3.Connection, db: dibs.Database
) -> None:
    id = db.queue("orders").enqueue("tea")
    job = db.queue("orders").claim()
    assert job is not None
    db.cancel(id)

    with pytest.raises(dibs.LostError), connection:
        connection.execute("INSERT INTO orders(what) VALUES ('tea')")
        dibs.attach(connection).ack(job)

    assert count(connection, "orders") == 0


def test_an_ack_that_was_rolled_back_is_a_failure(
    connection: sqlite3.Connection, db: dibs.Database
) -> None:
    id = db.queue("orders").enqueue("tea")
    job = db.queue("orders").claim()
    assert job is not None

    with pytest.raises(ZeroDivisionError), job, connection:
        dibs.attach(connection).ack(job)
        1 / 0  # noqa: B018

    assert db.get(id).state == "scheduled"
    assert "ZeroDivisionError" in str(db.get(id).last_error)


def test_a_commit_wakes_who_waits(
    connection: sqlite3.Connection, db: dibs.Database
) -> None:
    claimed: list[dibs.Job | None] = []
    thread = threading.Thread(
        target=lambda: claimed.append(db.queue("mail").claim(wait=60))
    )
    thread.start()
    with connection:
        dibs.attach(connection).queue("mail").enqueue("woken")
    thread.join(60)

    assert [each.data for each in claimed if each] == ["woken"]


def test_reading_begins_no_transaction(connection: sqlite3.Connection) -> None:
    attached = dibs.attach(connection)

    attached.stats()
    attached.list()

    assert not connection.in_transaction


def test_an_old_snapshot_cannot_write(path: str, db: dibs.Database) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    attached = dibs.attach(connection)
    connection.execute("BEGIN")
    attached.stats()
    db.queue().enqueue(1)

    with pytest.raises(dibs.SnapshotError, match="BEGIN IMMEDIATE"):
        attached.queue().enqueue(2)

    connection.rollback()
    connection.close()


def test_last_insert_rowid_is_the_applications(
    connection: sqlite3.Connection,
) -> None:
    attached = dibs.attach(connection)
    connection.execute("INSERT INTO orders(id, what) VALUES (77, 'tea')")
    attached.queue().enqueue_many(range(3))

    row = connection.execute("SELECT last_insert_rowid()").fetchone()

    assert row == (77,)


def test_closing_the_connection_leaves_nothing(
    path: str, connection: sqlite3.Connection
) -> None:
    attached = dibs.attach(connection)
    attached.queue().enqueue(1)
    connection.commit()
    connection.close()

    assert not Path(path + "-wal").exists()
    files = [os.readlink(f"/proc/self/fd/{fd}") for fd in open_descriptors()]
    assert not [each for each in files if each in (path, path + "-wal")]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        attached.queue().enqueue(2)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        dibs.attach(connection)


def open_descriptors() -> list[str]:
    names = []
    for fd in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{fd}"):
            names.append(fd)
    return names


def test_another_thread_is_refused_as_sqlite3_does(
    connection: sqlite3.Connection,
) -> None:
    attached = dibs.attach(connection)
    errors: list[BaseException] = []

    def use() -> None:
        for action in (
            lambda: attached.queue().enqueue(1),
            lambda: dibs.attach(connection),
        ):
            try:
                action()
            except sqlite3.ProgrammingError as error:
                errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()

    assert len(errors) == 2


def test_an_attached_connection_cannot_wait(
    connection: sqlite3.Connection,
) -> None:
    q = dibs.attach(connection).queue()

    with pytest.raises(dibs.MisuseError, match="cannot wait"):
        q.claim(wait=1)
    with pytest.raises(dibs.MisuseError, match="cannot wait"):
        q.join()


def test_tables_are_made_or_not(connection: sqlite3.Connection) -> None:
    with pytest.raises(dibs.SchemaError):
        dibs.attach(connection, create=False).queue().enqueue(1)
    connection.rollback()

    assert dibs.attach(connection).queue().enqueue(1) == 1


@pytest.mark.parametrize("wrong", [None, "app.db", object()])
def test_what_is_no_connection_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match="Connection"):
        dibs.attach(wrong)


def test_a_subclass_of_connection_will_do(path: str) -> None:
    class Connection(sqlite3.Connection):
        pass

    connection = sqlite3.connect(path, factory=Connection)

    assert dibs.attach(connection).queue().enqueue(1) == 1
    connection.close()


# ---- SQL functions


def test_connect_gives_the_sql_functions(path: str) -> None:
    connection = dibs.connect(path, isolation_level=None)

    (id,) = connection.execute(
        "SELECT dibs_enqueue('mail', json_object('a', 1))"
    ).fetchone()

    with dibs.open(path) as db:
        assert db.get(id).data == {"a": 1}
    connection.close()


def test_install_is_for_connections_opened_by_others(path: str) -> None:
    dibs.open(path).close()
    dibs.install()
    dibs.install()
    try:
        connection = sqlite3.connect(path)
        connection.execute("SELECT dibs_enqueue('mail', '1')")
        connection.rollback()
        assert connection.execute("SELECT dibs_version()").fetchone()
        connection.close()
    finally:
        dibs.uninstall()
    later = sqlite3.connect(path)
    with pytest.raises(sqlite3.OperationalError, match="no such function"):
        later.execute("SELECT dibs_version()")
    later.close()
    with pytest.raises(dibs.MisuseError):
        dibs.uninstall()


# ---- APSW


def test_apsw(path: str) -> None:
    apsw = pytest.importorskip("apsw")
    connection = apsw.Connection(path)
    attached = dibs.attach(connection)
    assert attached.sqlite_version == apsw.sqlite_lib_version()

    with pytest.raises(ZeroDivisionError), connection:
        attached.queue().enqueue(1)
        1 / 0  # noqa: B018
    with connection:
        attached.queue().enqueue(2)

    with dibs.open(path, library="apsw") as db:
        assert [each.data for each in db.list()] == [2]
        assert db.sqlite_version == apsw.sqlite_lib_version()
        job = db.queue().claim()
        assert job is not None
        with job, connection:
            attached.ack(job)
    connection.close()
    with pytest.raises(apsw.ConnectionClosedError):
        attached.queue().enqueue(3)
