# SPDX-License-Identifier: MIT
"""dibs for asyncio: the same nouns, awaited.

    db = await dibs.aio.open("app.db")
    q = db.queue("emails")
    await q.enqueue({"to": "alice@example.com"})

    async for job in q.jobs():
        async with job:
            await send(job.data)

The event loop never waits for the disk: what touches it is done by a few threads
that all tasks share. Tasks that wait for jobs need none; they wait for a
descriptor, one for each set of queues. Enqueues and acks of several tasks share
commits.

A database belongs to the event loop in which it was opened.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from . import _database, _dibs
from ._codec import JSON_CODEC, Codec, dumps_json
from ._errors import (
    BY_STATUS,
    ClosedError,
    EmptyError,
    Error,
    LostError,
    NotFoundError,
)
from ._job import (
    ACK,
    DISCARD,
    FAIL,
    RELEASE,
    RETRY,
    SNOOZE,
    Job,
    JobFields,
    log,
    log_extra,
)
from ._operations import (
    Finding,
    JobId,
    Outcome,
    QueueStats,
    Reason,
    Redriven,
    clean,
)
from ._options import ABSENT, JobOptions, core_options, encode
from ._queue import Queue
from ._time import FOREVER, Duration, Moment, milliseconds

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_T = TypeVar("_T")

#: Threads for what touches the disk; SQLite has one writer at a time.
_THREADS = 4

#: Between looks for the end of a job, in seconds.
_LOOK_SHORTEST, _LOOK_LONGEST = 0.005, 0.25


class AsyncJob(JobFields):
    """A job: see ``dibs.Job``. What settles it is awaited, and it is an
    asynchronous context manager: ack at the end; on an exception retry, and the
    exception goes on (but for a loop over ``jobs()``, where it is logged); when
    the task is cancelled, it is given back without an attempt being counted."""

    __slots__ = ("_database", "_job")

    def __init__(self, database: AsyncDatabase, job: Job) -> None:
        super().__init__(job._codec, job._fields)
        self._database = database
        self._job = job

    @property
    def database(self) -> AsyncDatabase:
        return self._database

    @property
    def sync(self) -> Job:
        """The same as a ``dibs.Job``: to ack it in a transaction of the
        application's, by ``dibs.attach(connection).ack(job.sync)``."""
        return self._job

    @property
    def settled(self) -> bool:
        """Whether this object has settled it."""
        return self._job.settled

    async def _end(
        self,
        action: int,
        delay: Duration | None = None,
        error: str | None = None,
        result: Any = None,
    ) -> str:
        state = await self._database._settle(
            (
                self._job._held(),
                action,
                milliseconds(delay, "delay"),
                _dibs.UNSET,
                clean(error),
                None if result is None else dumps_json(result),
            )
        )
        self._job._settled = self._job.database
        return state

    async def ack(self, result: Any = None) -> None:
        """It is done. ``result``, JSON, is kept with it if it is kept.

        Raises:
            LostError: it is somebody else's by now; nothing was changed.
        """
        await self._end(ACK, result=result)

    async def retry(
        self, delay: Duration | None = None, error: str | None = None
    ) -> str:
        """Again, after ``delay`` or its backoff; dead behind the last attempt.
        Returns the state that it is in now."""
        return await self._end(RETRY, delay, error)

    async def fail(self, error: str | None = None) -> None:
        """To the dead letters."""
        await self._end(FAIL, error=error)

    async def release(self) -> None:
        """Give it back at once; no attempt is counted."""
        await self._end(RELEASE)

    async def snooze(self, delay: Duration) -> None:
        """Again after ``delay``; no attempt is counted."""
        await self._end(SNOOZE, delay)

    async def discard(self, error: str | None = None) -> None:
        """Done, with the outcome discarded."""
        await self._end(DISCARD, error=error)

    async def extend(self, lease: Duration | None = None) -> datetime:
        """Hold it for ``lease`` from now [that of the claim]."""
        return await self._database._run(self._job.extend, lease)

    async def checkpoint(self, data: Any, *, lease: Duration | None = None) -> None:
        """Put another payload in its place, which the next attempt will get."""
        await self._database._run(lambda: self._job.checkpoint(data, lease=lease))

    async def progress(self, done: float, text: str | None = None) -> None:
        """Note for others how far it is: 0 to 1, and a text."""
        await self._database._run(self._job.progress, done, text)

    async def __aenter__(self) -> Self:
        self._job._keep()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        job = self._job
        job._keep_no_more()
        if error is None:
            if not job.settled:
                try:
                    await self.ack()
                except LostError as lost:
                    if not job._swallow:
                        raise
                    log.warning("%s", lost, extra=log_extra(job))
            return False
        # Not to be left undone should the task be cancelled (again).
        swallowed = await asyncio.shield(self._database._run(job._exit, error))
        # Annotated so for type checkers: they take a bool for "swallows".
        return cast(Literal[False], swallowed)


class AsyncQueue:
    """A queue: see ``dibs.Queue``."""

    __slots__ = ("_database", "_name")

    def __init__(self, database: AsyncDatabase, name: str) -> None:
        self._database = database
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def database(self) -> AsyncDatabase:
        return self._database

    @property
    def sync(self) -> Queue:
        """The same, blocking."""
        return self._database.sync.queue(self._name)

    def __repr__(self) -> str:
        return f"<dibs.aio.AsyncQueue {self._name!r} of {self._database!r}>"

    async def enqueue(
        self, payload: Any = ABSENT, **options: Unpack[JobOptions]
    ) -> JobId:
        """Enqueue a job: see ``dibs.Queue.enqueue()``."""
        ids = await self._database._enqueue(self._name, (payload,), options)
        return ids[0]

    async def enqueue_many(
        self, payloads: Iterable[Any], **options: Unpack[JobOptions]
    ) -> list[JobId]:
        """Enqueue a job for each payload, in one transaction."""
        return await self._database._enqueue(self._name, payloads, options)

    async def claim(
        self,
        *,
        wait: Duration | bool = 0,
        lease: Duration | None = None,
        worker: str | None = None,
    ) -> AsyncJob | None:
        """Claim the next job, waiting up to ``wait`` for one [not at all]."""
        jobs = await self._database.claim(
            self._name, wait=wait, lease=lease, worker=worker
        )
        return jobs[0] if jobs else None

    async def claim_many(
        self,
        n: int,
        *,
        wait: Duration | bool = 0,
        lease: Duration | None = None,
        worker: str | None = None,
    ) -> list[AsyncJob]:
        """Claim up to ``n`` jobs: as many as there are, once there is one."""
        return await self._database.claim(
            self._name, n=n, wait=wait, lease=lease, worker=worker
        )

    async def jobs(
        self,
        *,
        wait: Duration | bool = FOREVER,
        lease: Duration | None = None,
        worker: str | None = None,
    ) -> AsyncIterator[AsyncJob]:
        """The jobs of the queue, one after the other, as they come; several
        tasks may iterate. See ``dibs.Queue.jobs()``."""
        while True:
            job = await self.claim(wait=wait, lease=lease, worker=worker)
            if job is None:
                return
            job._job._swallow = True
            yield job

    async def peek(self, n: int = 1) -> list[Job]:
        """The jobs that a claim would give next, without claiming them."""
        return await self._database._run(self.sync.peek, n)

    async def list(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> builtins.list[Job]:
        """Its jobs by id: see ``dibs.Database.list()``."""
        return await self._database.list(
            self._name, state=state, name=name, after=after, limit=limit
        )

    async def stats(self) -> QueueStats:
        """How many jobs it has in each state."""
        return await self._database._run(self.sync.stats)

    async def explain(self) -> builtins.list[Reason]:
        """Why what waits in it is not running."""
        return await self._database._run(self.sync.explain)

    async def pause(self) -> int:
        """Its waiting jobs stay as they are; running ones go on."""
        return await self._database._run(self.sync.pause)

    async def resume(self) -> int:
        """Undo ``pause()``."""
        return await self._database._run(self.sync.resume)

    async def clear(self, *, dead: bool = False) -> int:
        """Remove its waiting jobs. Returns how many."""
        return await self._database._run(lambda: self.sync.clear(dead=dead))

    async def redrive(self) -> Redriven:
        """Its dead letters back to work."""
        return await self._database._run(self.sync.redrive)

    async def set(self, **settings: Any) -> None:
        """Set it: see ``dibs.Queue.set()``."""
        await self._database._run(lambda: self.sync.set(**settings))

    async def settings(self) -> dict[str, Any]:
        """What it is set to."""
        return await self._database._run(self.sync.settings)


class _Watcher:
    """What tasks that wait for jobs of some queues share. One of them, the one
    that holds the lock, waits for the descriptor and claims; the others wait for
    the lock, in the order in which they came."""

    def __init__(self, native: _dibs.Watch) -> None:
        self.lock = asyncio.Lock()
        self._native = native
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._closed = False

    def _readable(self) -> None:
        # It stays readable until it is armed.
        self._stop_reading()
        self._told.set()

    def _stop_reading(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._native.fileno())
            self._reading = False

    async def wait(self) -> None:
        """Until there may be something, from now on."""
        if self._closed:
            return
        self._told.clear()
        self._native.arm()
        if not self._reading:
            self._loop.add_reader(self._native.fileno(), self._readable)
            self._reading = True
        await self._told.wait()

    def close(self) -> None:
        self._closed = True
        self._stop_reading()
        self._told.set()


class AsyncDatabase:
    """A database with queues, for the tasks of an event loop: see
    ``dibs.Database``. From ``await dibs.aio.open()``; an asynchronous context
    manager, which closes it."""

    def __init__(self, sync: _database.Database) -> None:
        self._sync = sync
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(_THREADS, "dibs")
        self._watchers: dict[tuple[str, ...], asyncio.Future[_Watcher]] = {}
        self._settling = _Batch(self, self._settle_all)
        self._enqueuing = _Batch(self, self._enqueue_all)
        self._ended = asyncio.Event()
        self._closing = False

    @property
    def sync(self) -> _database.Database:
        """The same, blocking: for threads."""
        return self._sync

    @property
    def closed(self) -> bool:
        return self._closing or self._sync.closed

    @property
    def path(self) -> str:
        return self._sync.path

    def __repr__(self) -> str:
        closed = " closed" if self.closed else ""
        return f"<dibs.aio.AsyncDatabase {self.path!r}{closed}>"

    def _run(self, call: Callable[..., _T], *arguments: Any) -> asyncio.Future[_T]:
        """Call something in a thread."""
        self._check()
        return self._loop.run_in_executor(self._threads, call, *arguments)

    def _check(self) -> None:
        if self.closed:
            raise ClosedError(f"{self.path} is closed")

    # ---- Queues and enqueueing

    def queue(self, name: str = "default") -> AsyncQueue:
        """A queue: see ``dibs.Database.queue()``."""
        return AsyncQueue(self, name)

    async def enqueue(
        self, queue: str, payload: Any = ABSENT, **options: Unpack[JobOptions]
    ) -> JobId:
        """Enqueue a job: see ``dibs.Queue.enqueue()``."""
        return (await self._enqueue(queue, (payload,), options))[0]

    async def _enqueue(
        self, queue: str, payloads: Iterable[Any], options: Any
    ) -> list[JobId]:
        given = core_options(options) if options else None
        codec = self._sync.codec
        jobs = [(queue, *encode(codec, each, given)) for each in payloads]
        ids: list[JobId] = []
        for number, existing in await self._enqueuing.add(jobs):
            id = JobId(number)
            if existing:
                id.existing = True
            ids.append(id)
        return ids

    def _enqueue_all(self, requests: list[Any]) -> list[Any]:
        """In one transaction; if that cannot be, each in one of its own, so that
        one's error is not another's."""
        try:
            results = self._sync._enqueue([job for jobs in requests for job in jobs])
        except Exception as error:
            if len(requests) == 1:
                return [error]
            return [result for each in requests for result in self._enqueue_all([each])]
        at = 0
        answers: list[Any] = []
        for jobs in requests:
            answers.append(results[at : at + len(jobs)])
            at += len(jobs)
        return answers

    # ---- Claiming and settling

    async def claim(
        self,
        *queues: str,
        n: int = 1,
        wait: Duration | bool = 0,
        lease: Duration | None = None,
        worker: str | None = None,
        in_order: bool = False,
    ) -> list[AsyncJob]:
        """Claim up to ``n`` jobs of several queues: see
        ``dibs.Database.claim()``."""

        def claim() -> list[Job]:
            return self._sync.claim(
                *queues, n=n, lease=lease, worker=worker, in_order=in_order
            )

        jobs = await self._claim(claim)
        seconds = _seconds(wait)
        if not jobs and seconds:
            with contextlib.suppress(asyncio.TimeoutError):
                jobs = await asyncio.wait_for(
                    self._claim_waiting(queues, claim),
                    None if seconds == FOREVER else seconds,
                )
        return [AsyncJob(self, each) for each in jobs]

    async def _claim(self, claim: Callable[[], list[Job]]) -> list[Job]:
        """Who is cancelled in the midst of a claim gives back what it gives."""
        claiming = self._run(claim)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claiming.add_done_callback(self._give_back)
            raise

    def _give_back(self, claimed: asyncio.Future[list[Job]]) -> None:
        if claimed.cancelled() or claimed.exception() or self.closed:
            return
        for each in claimed.result():
            self._run(_release, each)

    async def _claim_waiting(
        self, queues: tuple[str, ...], claim: Callable[[], list[Job]]
    ) -> list[Job]:
        watcher = await self._watcher(queues)
        async with watcher.lock:
            while True:
                # Armed before the look, so that nothing slips through between.
                waiting = asyncio.ensure_future(watcher.wait())
                try:
                    await asyncio.sleep(0)
                    jobs = await self._claim(claim)
                    if jobs:
                        return jobs
                    await waiting
                finally:
                    waiting.cancel()

    async def _watcher(self, queues: tuple[str, ...]) -> _Watcher:
        opening = self._watchers.get(queues)
        if opening is None:
            opening = asyncio.ensure_future(self._watcher_open(queues))
            self._watchers[queues] = opening
        try:
            return await asyncio.shield(opening)
        except Error:
            self._watchers.pop(queues, None)
            raise

    async def _watcher_open(self, queues: tuple[str, ...]) -> _Watcher:
        sync = self._sync
        native = await self._run(
            _dibs.Watch,
            sync._file,
            {**sync._settings, "create": 2},
            sync._library,
            queues,
        )
        return _Watcher(native)

    async def _settle(self, settlement: tuple[Any, ...]) -> str:
        status, state, id, _, message = await self._settling.add(settlement)
        self._ended.set()
        if status:
            error = BY_STATUS[status](message)
            error.id = id
            raise error
        return str(state)

    def _settle_all(self, settlements: list[Any]) -> list[Any]:
        try:
            return self._sync._call(_dibs.Handle.settle, settlements)
        except Exception as error:
            return [error] * len(settlements)

    async def ack_many(self, jobs: Iterable[AsyncJob]) -> list[Outcome]:
        """Ack several in one transaction: see ``dibs.Database.ack_many()``."""
        given = [each._job for each in jobs]
        outcomes = await self._run(self._sync.ack_many, given)
        self._ended.set()
        return outcomes

    # ---- Waiting for the end

    async def wait(self, id: int, timeout: Duration | None = None) -> Job | None:
        """Wait until a job has ended: see ``dibs.Database.wait()``. It looks
        whether it has, at once when this database has settled something, else
        at growing intervals up to a quarter of a second."""
        seconds = FOREVER if timeout is None else _seconds(timeout)
        deadline = self._loop.time() + seconds
        pause = _LOOK_SHORTEST
        seen = False
        while True:
            self._ended.clear()
            try:
                job = await self._run(self._sync.get, id)
            except NotFoundError:
                if not seen:
                    raise
                return None
            if job.state in ("done", "dead"):
                return job
            seen = True
            left = deadline - self._loop.time()
            if left <= 0:
                error = EmptyError(f"job {id} has not ended within {timeout} s")
                error.id = id
                raise error
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ended.wait(), min(pause, left))
            pause = min(pause * 2, _LOOK_LONGEST)

    async def result(self, id: int, timeout: Duration | None = None) -> Any:
        """What a job was acked with: see ``dibs.Database.result()``."""
        return _database.job_result(id, await self.wait(id, timeout))

    # ---- Looking and changing

    async def get(self, id: int) -> Job:
        """See ``dibs.Database.get()``."""
        return await self._run(self._sync.get, id)

    async def list(
        self,
        *queues: str,
        state: str | None = None,
        name: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> builtins.list[Job]:
        """See ``dibs.Database.list()``."""
        return await self._run(
            lambda: self._sync.list(
                *queues, state=state, name=name, after=after, limit=limit
            )
        )

    async def stats(self, *queues: str) -> builtins.list[QueueStats]:
        """See ``dibs.Database.stats()``."""
        return await self._run(self._sync.stats, *queues)

    async def explain(self, what: int | str) -> builtins.list[Reason]:
        """See ``dibs.Database.explain()``."""
        return await self._run(self._sync.explain, what)

    async def doctor(self, *, thorough: bool = False) -> builtins.list[Finding]:
        """See ``dibs.Database.doctor()``."""
        return await self._run(lambda: self._sync.doctor(thorough=thorough))

    async def cancel(self, *ids: int) -> builtins.list[Outcome]:
        """See ``dibs.Database.cancel()``."""
        return await self._run(self._sync.cancel, *ids)

    async def change(
        self,
        id: int,
        *,
        priority: int | None = None,
        delay: Duration | None = None,
        at: Moment | None = None,
    ) -> None:
        """See ``dibs.Database.change()``."""
        await self._run(
            lambda: self._sync.change(id, priority=priority, delay=delay, at=at)
        )

    async def commit(self, id: int) -> None:
        """See ``dibs.Database.commit()``."""
        await self._run(self._sync.commit, id)

    async def abort(self, id: int) -> None:
        """See ``dibs.Database.abort()``."""
        await self._run(self._sync.abort, id)

    async def requeue(self, *ids: int) -> builtins.list[Outcome]:
        """See ``dibs.DeadLetters.requeue()``."""
        return await self._run(self._sync.dead.requeue, *ids)

    async def redrive(self, *queues: str) -> Redriven:
        """See ``dibs.DeadLetters.redrive()``."""
        return await self._run(self._sync.dead.redrive, *queues)

    async def purge(self, *queues: str) -> int:
        """See ``dibs.DeadLetters.purge()``."""
        return await self._run(self._sync.dead.purge, *queues)

    async def prune(self) -> int:
        """See ``dibs.Database.prune()``."""
        return await self._run(self._sync.prune)

    # ---- Closing

    async def close(self) -> None:
        """Close it; harmless when it is. Tasks that wait for jobs get
        ``ClosedError``."""
        if self.closed:
            return
        self._closing = True
        natives: list[_dibs.Watch] = []
        for opening in list(self._watchers.values()):
            with contextlib.suppress(Error):
                watcher = await opening
                watcher.close()
                natives.append(watcher._native)
        self._watchers.clear()
        await self._loop.run_in_executor(self._threads, self._close, natives)
        self._threads.shutdown(wait=False)

    def _close(self, natives: Sequence[_dibs.Watch]) -> None:
        self._sync.close()
        for each in natives:
            each.close()

    async def __aenter__(self) -> Self:
        self._check()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class _Batch:
    """Requests of several tasks that share a transaction: those that come while
    one is under way are done in the next."""

    def __init__(
        self,
        database: AsyncDatabase,
        run: Callable[[list[Any]], list[Any]],
    ) -> None:
        self._database = database
        self._run = run
        self._pending: list[tuple[Any, asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None

    async def add(self, request: Any) -> Any:
        self._database._check()
        answer = self._database._loop.create_future()
        self._pending.append((request, answer))
        if self._task is None:
            self._task = asyncio.ensure_future(self._work())
        # What was begun is done, also when the task is cancelled.
        return await asyncio.shield(answer)

    async def _work(self) -> None:
        while self._pending:
            pending, self._pending = self._pending, []
            try:
                results = await self._database._run(
                    self._run, [request for request, _ in pending]
                )
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError):
                    error = ClosedError("the event loop is closing")
                results = [error] * len(pending)
            for (_, answer), result in zip(pending, results):
                if answer.done():
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)
        self._task = None


def _release(job: Job) -> None:
    with contextlib.suppress(Error):
        job.release()


def _seconds(wait: Duration | bool) -> float:
    if wait is True:
        return FOREVER
    ms = milliseconds(float(wait) if wait is False else wait, "wait")
    return FOREVER if ms == _dibs.FOREVER else max(ms, 0) / 1000


async def open(
    path: str | os.PathLike[str] = ":memory:",
    *,
    codec: Codec = JSON_CODEC,
    **options: Any,
) -> AsyncDatabase:
    """Open a database: see ``dibs.open()``, whose options these are."""
    loop = asyncio.get_running_loop()
    sync = await loop.run_in_executor(
        None, lambda: _database.open(path, codec=codec, **options)
    )
    return AsyncDatabase(sync)


__all__ = ["AsyncDatabase", "AsyncJob", "AsyncQueue", "open"]
