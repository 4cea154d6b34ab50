# SPDX-License-Identifier: MIT
"""Enqueue, ack and checkpoint in the transactions of SQLAlchemy and Django."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import dibs


class Boom(Exception):
    pass


# ---- SQLAlchemy


@pytest.fixture
def alchemy(path: str) -> Iterator[Any]:
    sqlalchemy = pytest.importorskip("sqlalchemy", minversion="2.0")
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("CREATE TABLE orders(id INTEGER PRIMARY KEY, what)")
    yield engine
    engine.dispose()


def insert(connection: Any) -> None:
    connection.exec_driver_sql("INSERT INTO orders(what) VALUES ('tea')")


def orders(connection: Any) -> int:
    return int(connection.exec_driver_sql("SELECT count(*) FROM orders").scalar_one())


@pytest.mark.parametrize("first", ["row", "job"])
def test_sqlalchemy_commits_and_rolls_back(
    alchemy: Any, db: dibs.Database, first: str
) -> None:
    def both(connection: Any) -> None:
        if first == "row":
            insert(connection)
        dibs.attach(connection).queue("mail").enqueue(1)
        if first == "job":
            insert(connection)

    with pytest.raises(Boom), alchemy.begin() as connection:
        both(connection)
        raise Boom
    with alchemy.connect() as connection:
        assert orders(connection) == 0
    assert db.queue("mail").stats().unfinished == 0

    with alchemy.begin() as connection:
        both(connection)
    with alchemy.connect() as connection:
        assert orders(connection) == 1
    assert db.queue("mail").stats().ready == 1


def test_sqlalchemy_sessions_ack_and_checkpoint(
    alchemy: Any, db: dibs.Database
) -> None:
    from sqlalchemy.orm import Session

    id = db.queue("orders").enqueue({"page": 1})
    job = db.queue("orders").claim()
    assert job is not None

    with pytest.raises(Boom), Session(alchemy) as session, session.begin():
        insert(session.connection())
        dibs.attach(session).checkpoint(job, {"page": 2})
        raise Boom
    assert db.get(id).data == {"page": 1}

    with Session(alchemy) as session, session.begin():
        insert(session.connection())
        dibs.attach(session).ack(job)

    with alchemy.connect() as connection:
        assert orders(connection) == 1
    assert db.queue("orders").stats().unfinished == 0


def test_sqlalchemys_connections_have_the_functions(path: str) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy", minversion="2.0")
    dibs.open(path).close()
    dibs.install()
    try:
        engine = sqlalchemy.create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            id = connection.execute(
                sqlalchemy.text("SELECT dibs_enqueue(:queue, :payload)"),
                {"queue": "mail", "payload": "[1]"},
            ).scalar_one()
        engine.dispose()
    finally:
        dibs.uninstall()

    with dibs.open(path) as db:
        assert db.get(id).data == [1]


# ---- Django


@pytest.fixture
def django_connection(path: str) -> Iterator[Any]:
    django = pytest.importorskip("django")
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ""}},
            USE_TZ=True,
        )
        django.setup()
    from django.db import connections

    connections["default"].settings_dict["NAME"] = path
    connection = connections["default"]
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("CREATE TABLE orders(id INTEGER PRIMARY KEY, what)")
    yield connection
    connection.close()


def test_django_commits_and_rolls_back(
    django_connection: Any, db: dibs.Database
) -> None:
    from django.db import transaction

    def both() -> None:
        dibs.attach(django_connection).queue("mail").enqueue(1)
        with django_connection.cursor() as cursor:
            cursor.execute("INSERT INTO orders(what) VALUES ('tea')")

    with pytest.raises(Boom), transaction.atomic():
        both()
        raise Boom
    assert db.queue("mail").stats().unfinished == 0

    with transaction.atomic():
        both()
        with pytest.raises(Boom), transaction.atomic():  # a savepoint
            both()
            raise Boom
    assert db.queue("mail").stats().ready == 1

    dibs.attach(django_connection).queue("mail").enqueue(2)
    assert db.queue("mail").stats().ready == 2, "without atomic(), at once"


def test_django_acks_and_checkpoints(django_connection: Any, db: dibs.Database) -> None:
    from django.db import transaction

    q = db.queue("orders")
    q.enqueue({"page": 1})
    job = q.claim()
    assert job is not None
    with pytest.raises(Boom), transaction.atomic():
        dibs.attach(django_connection).checkpoint(job, {"page": 2})
        raise Boom
    assert db.get(job.id).data == {"page": 1}

    with job, transaction.atomic():
        with django_connection.cursor() as cursor:
            cursor.execute("INSERT INTO orders(what) VALUES ('tea')")
        dibs.attach(django_connection).ack(job)

    assert q.stats().unfinished == 0
    with pytest.raises(dibs.LostError), transaction.atomic():
        with django_connection.cursor() as cursor:
            cursor.execute("INSERT INTO orders(what) VALUES ('again')")
        dibs.attach(django_connection).ack(job)
    with django_connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM orders")
        assert cursor.fetchone() == (1,)
