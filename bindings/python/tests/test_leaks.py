# SPDX-License-Identifier: MIT
"""Each call thousands of times: neither memory nor references grow or shrink."""

from __future__ import annotations

import gc
import logging
import sqlite3
import sys
from collections.abc import Callable, Iterator

import pytest

import dibs
from dibs import _dibs

pytestmark = pytest.mark.leaks


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """pytest keeps what is logged."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def resident() -> int:
    """Pages of memory in use."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1])


def held(q: dibs.Queue) -> dibs.Job:
    q.enqueue(1)
    job = q.claim()
    assert job is not None
    return job


def refused(error: type[Exception], call: Callable[[], object]) -> None:
    try:
        call()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def settle_all(db: dibs.Database, q: dibs.Queue) -> None:
    q.enqueue_many(["x" * 2000], headers={"a": "b"}, unique="u")
    db.ack_many(q.claim_many(3))


def dead_letters(db: dibs.Database, q: dibs.Queue) -> None:
    first, second = held(q), held(q)
    first.fail("why")
    db.dead.requeue(first.id)
    second.fail("why")
    db.dead.redrive("emails")
    for job in q.claim_many(2):
        job.discard()


def looks(db: dibs.Database, q: dibs.Queue) -> None:
    job = held(q)
    job.retry(60, "an error")
    db.get(job.id).as_dict()
    db.list("emails")
    db.stats("emails")
    db.explain(job.id)
    q.peek(5)
    q.settings()
    db.next_event()
    db.now()
    db.cancel(job.id)


def errors(db: dibs.Database, q: dibs.Queue) -> None:
    refused(dibs.NotFoundError, lambda: db.get(999))
    refused(dibs.InvalidError, lambda: q.enqueue(1, key="a*"))
    refused(TypeError, lambda: q.enqueue(1, name=5))  # type: ignore[arg-type]
    refused(dibs.InvalidError, lambda: db.ack("no receipt"))
    refused(TypeError, lambda: db.stats(5))  # type: ignore[arg-type]
    refused(dibs.InvalidError, lambda: q.set(colour=1))


def waits(db: dibs.Database, q: dibs.Queue) -> None:
    q.claim(wait=0.0001)
    id = q.enqueue(1)
    refused(dibs.EmptyError, lambda: db.wait(id, 0.0001))
    q.clear()
    q.join(1)


CALLS: dict[str, Callable[[dibs.Database, dibs.Queue], object]] = {
    "ack": lambda db, q: held(q).ack({"a": 1}),
    "settle_all": settle_all,
    "dead_letters": dead_letters,
    "looks": looks,
    "errors": errors,
    "waits": waits,
    "checkpoint": lambda db, q: held(q).checkpoint(b"x" * 1000),
    "pause": lambda db, q: (q.pause(), q.resume(), q.clear(), db.prune()),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_leaks(name: str) -> None:
    with dibs.open(wake="portable") as db:
        q = db.queue("emails")
        call = CALLS[name]
        for _ in range(300):
            call(db, q)
        gc.collect()
        constants = [sys.getrefcount(each) for each in (None, True, False)]
        blocks, pages = sys.getallocatedblocks(), resident()
        for _ in range(1500):
            call(db, q)
        gc.collect()

        assert sys.getallocatedblocks() - blocks < 1200, "one for each call"
        assert resident() - pages < 800, "3 MiB"
        for before, each in zip(constants, (None, True, False)):
            assert abs(sys.getrefcount(each) - before) < 200


def test_handles_do_not_leak(path: str) -> None:
    with dibs.open(path, synchronous="normal"):

        def handles() -> None:
            connection = sqlite3.connect(path, isolation_level=None)
            dibs.attach(connection).queue().peek()
            connection.close()
            dibs.open(path, create=False).close()
            refused(dibs.InvalidError, lambda: dibs.open("a\0b"))

        for _ in range(20):
            handles()
        gc.collect()
        blocks, pages = sys.getallocatedblocks(), resident()
        for _ in range(300):
            handles()
        gc.collect()

    assert sys.getallocatedblocks() - blocks < 500
    assert resident() - pages < 800


def test_wrong_calls_of_the_module_raise() -> None:
    provider = dibs._library.provider()
    for call in (
        lambda: _dibs.Provider(),  # type: ignore[misc]
        lambda: _dibs.Handle(),  # type: ignore[call-arg]
        lambda: _dibs.Handle("a", {}, None),  # type: ignore[arg-type]
        lambda: _dibs.install(None),  # type: ignore[arg-type]
        lambda: _dibs.connection(object(), 0, None),  # type: ignore[arg-type]
        lambda: _dibs.Handle.attach(0, None, {}, provider),
        lambda: _dibs.extend(0, provider),
        lambda: _dibs.Handle(":memory:", {}, provider).enqueue([5]),  # type: ignore[list-item]
        lambda: _dibs.Handle(":memory:", {}, provider).enqueue([(1, 1, 5, None)]),
        lambda: _dibs.Handle(":memory:", {}, provider).settle([()]),
        lambda: _dibs.Handle(":memory:", {}, provider).cancel("ab"),  # type: ignore[arg-type]
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
    assert _dibs.connection(object(), object.__basicsize__ - 8, provider) is None
