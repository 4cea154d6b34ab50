# SPDX-License-Identifier: MIT
"""Workers: threads and event loops, what ends a task, and stopping."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Literal

import pytest

import dibs

Mode = Literal["threads", "asyncio"]
trace: ContextVar[str] = ContextVar("trace", default="none")

modes = pytest.mark.parametrize("mode", ["threads", "asyncio"])


@pytest.fixture
def app(path: str) -> Iterator[dibs.App]:
    app = dibs.App(path, synchronous="normal")
    yield app
    app.close()


def until(seen: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.005)


@modes
def test_a_worker_runs_plain_and_async_tasks(app: dibs.App, mode: Mode) -> None:
    @app.task(queue="a")
    def plain(x: int) -> list[object]:
        return [x, dibs.current_job().id]

    @app.task(queue="b")
    async def slow(x: int) -> list[object]:
        await asyncio.sleep(0.001)
        return [x, dibs.current_job().id]

    with app.worker(jobs=4, mode=mode) as worker:
        assert worker.queues == ["a", "b"]
        handles = [task.enqueue(n) for n in range(20) for task in (plain, slow)]
        for number, handle in enumerate(handles):
            assert handle.result(timeout=20) == [number // 2, handle.id]
    assert worker.counts["done"] == 40
    assert worker.running == 0


@modes
def test_as_many_run_at_a_time_as_it_has_slots(app: dibs.App, mode: Mode) -> None:
    barrier = threading.Barrier(3)
    most = [0, 0]
    lock = threading.Lock()

    @app.task
    def meet() -> None:
        with lock:
            most[0] += 1
            most[1] = max(most)
        barrier.wait(20)
        with lock:
            most[0] -= 1

    handles = [meet.enqueue() for _ in range(6)]
    with app.worker(jobs=3, mode=mode):
        for handle in handles:
            handle.result(timeout=20)
    assert most[1] == 3


@modes
def test_a_task_that_is_out_of_time_is_ended(app: dibs.App, mode: Mode) -> None:
    ended = []

    @app.task(timeout=0.05, max_attempts=1)
    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("async")

    @app.task(timeout=0.05, max_attempts=1)
    def spin() -> None:
        try:
            while mode == "threads" or not ended:
                time.sleep(0.001)
        finally:
            ended.append("plain")

    with app.worker(jobs=2, mode=mode):
        for task in (wait, spin) if mode == "threads" else (wait,):
            with pytest.raises(dibs.JobFailedError, match=r"dibs\.TaskTimeout"):
                task.enqueue().result(timeout=20)
    assert ended == (["async", "plain"] if mode == "threads" else ["async"])


def test_a_task_that_does_not_end_gives_its_place_to_another(app: dibs.App) -> None:
    go_on = threading.Event()

    @app.task(timeout=0.05, max_attempts=1)
    def stuck() -> None:
        go_on.wait(60)  # a call that no exception ends

    @app.task
    def fine() -> int:
        return 1

    with app.worker(jobs=1, grace=0.1) as worker:
        with pytest.raises(dibs.JobFailedError, match="not ended"):
            stuck.enqueue().result(timeout=20)
        assert fine.enqueue().result(timeout=20) == 1
        go_on.set()
    assert worker.counts["dead"] == 1


@modes
def test_a_cancelled_job_ends_its_task(app: dibs.App, mode: Mode) -> None:
    began, ended = threading.Event(), threading.Event()

    @app.task
    async def wait() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with app.worker(mode=mode) as worker:
        handle = wait.enqueue()
        assert began.wait(20)
        handle.cancel()
        assert ended.wait(20), "the task heard of it"
        until(lambda: worker.running == 0, "the slot is free")
        assert handle.job().outcome == "cancelled"


@modes
def test_a_stop_waits_for_what_is_running(app: dibs.App, mode: Mode) -> None:
    began, go_on = threading.Event(), threading.Event()

    @app.task
    def work() -> str:
        began.set()
        assert go_on.wait(20)
        return "whole"

    worker = app.worker(mode=mode).start()
    handle, later = work.enqueue(), work.enqueue()
    assert began.wait(20)
    stop = threading.Thread(target=worker.stop)
    stop.start()
    until(lambda: worker._stopping, "it is stopping")
    go_on.set()
    stop.join()
    assert handle.result(0) == "whole"
    assert (later.job().state, later.job().attempt) == ("ready", 0)
    assert worker.stop() == 0, "harmless once more"


@modes
def test_what_does_not_end_within_the_grace_is_given_back(
    app: dibs.App, mode: Mode
) -> None:
    began, go_on = threading.Event(), threading.Event()

    @app.task
    async def wait() -> None:
        began.set()
        while not go_on.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue  # it will not hear

    worker = app.worker(mode=mode, grace=0.05).start()
    handle = wait.enqueue()
    assert began.wait(20)
    assert worker.stop() == 1
    assert (handle.job().state, handle.job().attempt) == ("ready", 0)
    go_on.set()


def test_a_task_on_a_loop_is_cancelled_at_the_end_of_the_grace(app: dibs.App) -> None:
    began, ended = threading.Event(), threading.Event()

    @app.task
    async def wait() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    worker = app.worker(mode="asyncio", grace=0.05).start()
    handle = wait.enqueue()
    assert began.wait(20)
    worker.stop()
    assert ended.is_set(), "it could clean up"
    assert (handle.job().state, handle.job().attempt) == ("ready", 0)


def test_drain_ends_with_the_last_job(app: dibs.App) -> None:
    @app.task
    def work(n: int) -> None:
        if n:
            work.enqueue(n - 1)

    work.enqueue(5)
    with app.worker(jobs=2, drain=True) as worker:
        assert worker.wait(20)
    assert worker.counts["done"] == 6


def test_max_jobs_ends_it(app: dibs.App) -> None:
    @app.task
    def work() -> None: ...

    for _ in range(5):
        work.enqueue()
    with app.worker(max_jobs=3) as worker:
        assert worker.wait(20)
    assert worker.counts["done"] == 3
    assert app.database.queue().stats().ready == 2


def test_an_unknown_name_does_not_keep_a_worker_busy(
    app: dibs.App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    def known() -> int:
        return 1

    id = app.database.queue().enqueue(None, name="stranger")
    with app.worker() as worker:
        assert known.enqueue().result(20) == 1
        until(lambda: worker.counts.get("released"), "the stranger is given back")
        assert app.database.get(id).state == "scheduled"
        assert app.database.get(id).attempt == 0
    assert worker.counts["released"] == 1
    assert caplog.text.count("no task is named") == 1


def test_an_ack_in_the_applications_transaction_frees_the_slot(
    app: dibs.App, path: str
) -> None:
    import sqlite3

    @app.task
    def work(*, job: dibs.Job = dibs.INJECTED) -> None:
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("CREATE TABLE IF NOT EXISTS done(id)")
            connection.execute("INSERT INTO done VALUES (?)", (job.id,))
            dibs.attach(connection).ack(job)
        connection.close()

    handles = [work.enqueue() for _ in range(3)]
    with app.worker(drain=True) as worker:
        assert worker.wait(20)
        until(lambda: worker.counts.get("done") == 3, "three done")
    connection = sqlite3.connect(path)
    rows = [row[0] for row in connection.execute("SELECT id FROM done ORDER BY id")]
    connection.close()
    assert rows == [each.id for each in handles]
    assert worker.counts.get("lost", 0) == 0


def test_a_worker_on_the_applications_event_loop(path: str) -> None:
    app = dibs.App(path, synchronous="normal")
    loops = set()

    @app.task
    async def work(x: int) -> int:
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return x + 1

    async def main() -> None:
        async with app.worker(jobs=3, mode="asyncio"):
            handles = await asyncio.gather(*(work.aenqueue(n) for n in range(10)))
            results = [await each.aresult(timeout=20) for each in handles]
            assert results == list(range(1, 11))
        assert loops == {asyncio.get_running_loop()}

    asyncio.run(main())
    app.close()


def test_the_context_of_who_starts_a_task_is_kept_apart(app: dibs.App) -> None:
    @app.task
    async def change(name: str) -> str:
        before = trace.get()
        trace.set(name)
        await asyncio.sleep(0)
        return f"{before} {trace.get()}"

    with app.worker(jobs=2, mode="asyncio"):
        handles = [change.enqueue(name) for name in "abcd"]
        results = [each.result(20) for each in handles]
    assert results == ["none a", "none b", "none c", "none d"]


def test_a_second_start_is_refused(app: dibs.App) -> None:
    worker = app.worker()
    with worker, pytest.raises(dibs.MisuseError, match="started before"):
        worker.start()
