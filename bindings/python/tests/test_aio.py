# SPDX-License-Identifier: MIT
from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

import dibs
from dibs import aio

Body = Callable[[aio.AsyncDatabase], Coroutine[Any, Any, None]]


@pytest.fixture
def run(path: str) -> Callable[[Body], None]:
    """Runs a coroutine with a database, and at most for a minute."""

    async def whole(body: Body) -> None:
        async with await aio.open(path, synchronous="normal") as db:
            await asyncio.wait_for(body(db), 60)

    return lambda body: asyncio.run(whole(body))


def test_a_job_goes_through(run: Callable[[Body], None]) -> None:
    async def body(db: aio.AsyncDatabase) -> None:
        q = db.queue("emails")
        id = await q.enqueue({"to": "ann"}, priority=3)

        job = await q.claim()

        assert job is not None
        assert (job.id, job.data, job.priority) == (id, {"to": "ann"}, 3)
        await job.ack()
        assert job.settled
        assert await q.claim() is None
        assert (await q.stats()).unfinished == 0

    run(body)


def test_a_wait_ends_with_an_enqueue(run: Callable[[Body], None]) -> None:
    async def body(db: aio.AsyncDatabase) -> None:
        q = db.queue()
        claiming = asyncio.create_task(q.claim(wait=True))
        await asyncio.sleep(0.05)
        assert not claiming.done()
        id = await q.enqueue(1)

        job = await claiming

        assert job is not None
        assert job.id == id
        assert await q.claim(wait=0.02) is None

    run(body)


def test_many_waiters_need_no_thread_each(run: Callable[[Body], None]) -> None:
    async def body(db: aio.AsyncDatabase) -> None:
        q = db.queue()
        waiters = [asyncio.create_task(q.claim(wait=True)) for _ in range(300)]
        await asyncio.sleep(0.2)
        assert threading.active_count() < 15, "asyncio's, ours, and pytest's"

        await q.enqueue_many(range(300))
        jobs = await asyncio.gather(*waiters)

        assert sorted(each.data for each in jobs if each) == list(range(300))

    run(body)


def test_the_loop_goes_on_while_the_database_is_locked(
    run: Callable[[Body], None], path: str
) -> None:
    import sqlite3

    async def body(db: aio.AsyncDatabase) -> None:
        other = sqlite3.connect(path, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        enqueuing = asyncio.create_task(db.enqueue("q", 1))
        turns = 0
        for _ in range(50):
            await asyncio.sleep(0)
            turns += 1
        assert turns == 50
        assert not enqueuing.done()
        other.rollback()
        other.close()
        assert await enqueuing

    run(body)


def test_a_loop_acks_and_retries(run: Callable[[Body], None]) -> None:
    async def body(db: aio.AsyncDatabase) -> None:
        q = db.queue()
        bad, good = await q.enqueue("bad"), await q.enqueue("good")
        async for job in q.jobs(wait=0):
            async with job:
                if job.data == "bad":
                    raise ValueError("too bad")

        assert (await db.stats("default"))[0].unfinished == 1
        assert "too bad" in str((await db.get(bad)).last_error)
        with pytest.raises(dibs.NotFoundError):
            await db.get(good)

    run(body)


def test_a_block_raises_on(run: Callable[[Body], None]) -> None:
    async def body(db: aio.AsyncDatabase) -> None:
        q = db.queue()
        id = await q.enqueue(1)
        job = await q.claim()
        assert job is not None
        with pytest.raises(ZeroDivisionError):
            async with job:
                1 / 0  # noqa: B018
        assert (await db.get(id)).state == "scheduled"

    run(body)


def test_a_cancelled_task_gives_its_job_back(run: Callable[[Body], None]) -> None:
    async def body(db: aio.AsyncDatabase) -> None:
        q = db.queue()
        id = await q.enqueue(1)
        began = asyncio.Event()

        async def work() -> None:
            async for job in q.jobs():
                async with job:
                    began.set()
                    await asyncio.sleep(3600)

        task = asyncio.create_task(work())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        again = await q.claim()
        assert again is not None
        assert (again.id, again.attempt) == (id, 1)

    run(body)


def test_a_cancelled_claim_keeps_no_job(run: Callable[[Body], None]) -> None:
    async def body(db: aio.AsyncDatabase) -> None:
        q = db.queue()
        await q.enqueue_many(range(20))
        for number in range(20):
            claiming = asyncio.create_task(q.claim(wait=True))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            claiming.cancel()
            await asyncio.gather(claiming, return_exceptions=True)
            if not claiming.cancelled():
                job = claiming.result()
                assert job is not None
                await job.release()
        while (await q.stats()).running:
            await asyncio.sleep(0.005)

        assert (await q.stats()).ready == 20

    run(body)


def test_each_gets_its_own_error(run: Callable[[Body], None]) -> None:
    async def body(db: aio.AsyncDatabase) -> None:
        q = db.queue()
        results = await asyncio.gather(
            *(
                q.enqueue(i, key=f"bad*{i}" if i % 5 == 0 else f"good{i}")
                for i in range(50)
            ),
            return_exceptions=True,
        )
        for i, each in enumerate(results):
            if i % 5 == 0:
                assert isinstance(each, dibs.InvalidError), each
            else:
                assert isinstance(each, int), each
        jobs = await q.claim_many(100)
        await jobs[0].ack()
        ended = await asyncio.gather(
            *(each.ack() for each in jobs), return_exceptions=True
        )
        assert isinstance(ended[0], dibs.LostError)
        assert ended[0].id == jobs[0].id
        assert ended[1:] == [None] * 39

    run(body)


def test_all_ends_of_a_job(run: Callable[[Body], None]) -> None:
    async def body(db: aio.AsyncDatabase) -> None:
        q = db.queue()

        async def end(how: Callable[[aio.AsyncJob], Awaitable[object]]) -> str:
            id = await q.enqueue(1, keep=60)
            job = await q.claim()
            assert job is not None
            assert job.id == id
            await how(job)
            state = (await db.get(id)).state
            await db.cancel(id)
            return state

        assert await end(lambda job: job.ack("r")) == "done"
        assert await end(lambda job: job.retry(60, "why")) == "scheduled"
        assert await end(lambda job: job.fail("why")) == "dead"
        assert await end(lambda job: job.release()) == "ready"
        assert await end(lambda job: job.snooze(60)) == "scheduled"
        assert await end(lambda job: job.discard("why")) == "done"
        assert await end(lambda job: job.extend(90)) == "running"
        assert await end(lambda job: job.checkpoint({"page": 2})) == "running"
        assert await end(lambda job: job.progress(0.5, "half")) == "running"

    run(body)


def test_a_result_is_waited_for(run: Callable[[Body], None], path: str) -> None:
    async def body(db: aio.AsyncDatabase) -> None:
        q = db.queue()
        id = await q.enqueue(1, keep=60)
        waiting = asyncio.create_task(db.result(id, timeout=30))
        await asyncio.sleep(0.02)
        with dibs.open(path) as other:  # as another process would
            job = other.queue().claim()
            assert job is not None
            job.ack({"n": 5})
        assert await waiting == {"n": 5}

        late = await q.enqueue(1)
        with pytest.raises(TimeoutError):
            await db.wait(late, timeout=0.02)
        with pytest.raises(dibs.NotFoundError):
            await db.wait(999)

    run(body)


def test_close_ends_waits(path: str) -> None:
    async def body() -> None:
        db = await aio.open(path)
        claiming = asyncio.create_task(db.queue().claim(wait=True))
        await asyncio.sleep(0.05)
        await db.close()
        with pytest.raises(dibs.ClosedError):
            await asyncio.wait_for(claiming, 60)
        with pytest.raises(dibs.ClosedError):
            await db.enqueue("q", 1)
        await db.close()

    asyncio.run(body())


def test_close_ends_waits_that_are_about_to_begin(path: str) -> None:
    async def body() -> None:
        db = await aio.open(path)
        watcher = await db._watcher(("default",))
        claiming = asyncio.create_task(db.queue().claim(wait=True))
        await db.close()

        await asyncio.wait_for(watcher.wait(), 5)

        with pytest.raises(dibs.ClosedError):
            await asyncio.wait_for(claiming, 20)

    asyncio.run(body())


def test_changes_and_looks(run: Callable[[Body], None]) -> None:
    async def body(db: aio.AsyncDatabase) -> None:
        q = db.queue("emails")
        id = await db.enqueue("emails", 1, delay=60)
        assert [each.id for each in await q.list(state="scheduled")] == [id]
        assert (await db.explain(id))[0].reason == "scheduled"
        await db.change(id, at=0)
        assert [each.id for each in await q.peek()] == [id]
        await q.set(limit=5)
        assert (await q.settings())["limit"] == 5
        assert await q.pause() == 1
        assert await q.claim() is None
        assert await q.resume() == 1
        assert (await db.cancel(id))[0].error is None
        staged = await q.enqueue(2, stage=60)
        await db.commit(staged)
        job = await q.claim()
        assert job is not None
        await job.fail()
        assert await q.redrive() == dibs.Redriven(1, [])
        assert await q.clear() == 1
        assert await db.prune() == 0
        assert [each for each in await db.doctor() if each.level == "error"] == []

    run(body)
