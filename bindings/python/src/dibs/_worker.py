# SPDX-License-Identifier: MIT
"""A worker: runs the jobs of an app in threads, or on an event loop.

One thread, the dispatcher, listens to the engine: it hands over jobs, tells
tasks that they are out of time or no longer wanted, and counts what was settled.
The engine has as many slots as the worker has threads, so a job that is handed
over never waits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import queue
import select
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from ._app import App, Ending, Settlement
from ._engine import Engine, EngineJob
from ._errors import ClosedError, Error, LostError, MisuseError
from ._job import ACK, RETRY, log_extra
from ._task import Release, TaskCancelled, TaskTimeout
from ._time import Duration, wait_milliseconds

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T")

log = logging.getLogger("dibs")

# enum dibs_run_flag of dibs.h; what a stop means to a job is not told by it.
_LOST, _TIMED_OUT = 1, 4

_ENDED = (TaskTimeout, TaskCancelled)


class Worker:
    """Runs the jobs of an app::

        with app.worker(jobs=8):      # in threads of its own
            ...

        async with app.worker(jobs=100, mode="asyncio"):  # on this event loop
            ...

    Args:
        app: whose tasks.
        jobs: how many at a time.
        queues: names or patterns [those of its tasks].
        mode: ``"threads"``: each job in a thread, async tasks on an event loop
            that all share; ``"asyncio"``: all on one event loop, plain functions
            in threads beside it.
        lease: how long a job is held without a sign of life [15 s].
        grace: how long a stop waits for the jobs that are running, and a task
            that is out of time may take to end.
        name: a name to record with jobs.
        in_order: exhaust the queues in the order given, instead of taking turns.
        drain: end once there is nothing to do.
        max_jobs: end behind so many jobs.
    """

    def __init__(
        self,
        app: App,
        *,
        jobs: int = 1,
        queues: Iterable[str] = (),
        mode: Literal["threads", "asyncio"] = "threads",
        lease: Duration | None = None,
        grace: Duration = 30,
        name: str | None = None,
        in_order: bool = False,
        drain: bool = False,
        max_jobs: int | None = None,
    ) -> None:
        if mode not in ("threads", "asyncio"):
            raise ValueError(f"mode: {mode!r} is none of 'threads', 'asyncio'")
        self._app = app
        self._jobs = jobs
        self._queues = list(queues) or app.queues
        self._mode = mode
        self._grace = grace
        self._options: dict[str, Any] = {
            "lease": lease,
            "worker": name,
            "in_order": in_order,
            "drain": drain,
            "max_jobs": max_jobs,
        }
        self._engine: Engine | None = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._running: dict[int, _Running] = {}
        self._endings: dict[int, str] = {}
        self._counts: Counter[str] = Counter()
        self._handed: queue.SimpleQueue[_InThread | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._own_loop: threading.Thread | None = None
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self._done = threading.Event()
        self._pipe: tuple[int, int] = (-1, -1)

    # ---- What it is doing

    @property
    def queues(self) -> list[str]:
        return list(self._queues)

    @property
    def running(self) -> int:
        """How many jobs are running."""
        return len(self._running)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many attempts ended how, so far: done, retried, dead, released,
        snoozed, discarded, lost."""
        return dict(self._counts)

    def __repr__(self) -> str:
        queues = ", ".join(self._queues)
        return f"<dibs.Worker of {queues}: {self.running} running>"

    # ---- Starting and stopping

    def start(self) -> Self:
        """Start it; it works in threads of its own.

        Raises:
            MisuseError: it was started before; a task wants what nobody
                provides.
            Error: as ``dibs.open()``.
        """
        if self._engine is not None:
            raise MisuseError("the worker was started before: make another one")
        self._app.check()
        self._engine = Engine(
            self._app.database,
            self._queues,
            slots=self._jobs,
            events=True,
            **self._options,
        )
        self._pipe = os.pipe()
        if self._mode == "asyncio":
            self._executor = concurrent.futures.ThreadPoolExecutor(
                self._jobs, thread_name_prefix="dibs-worker"
            )
            self._event_loop()
        else:
            for _ in range(self._jobs):
                self._start_thread(self._serve, "dibs-worker")
        self._dispatcher = self._start_thread(self._dispatch, "dibs-dispatcher")
        return self

    def _start_thread(self, run: Any, name: str) -> threading.Thread:
        # Daemons: a task that does not end must not keep the program from it.
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        if run == self._serve:
            self._threads.append(thread)
        return thread

    def wait(self, timeout: Duration | None = None) -> bool:
        """Wait until it has ended: by ``drain`` or ``max_jobs``, by a stop, or
        because the database cannot be used any more.

        Returns:
            Whether it has.

        Raises:
            Error: why the database cannot be used.
        """
        seconds = wait_milliseconds(timeout, "timeout") / 1000
        ended = self._done.wait(min(seconds, threading.TIMEOUT_MAX))
        if self._error is not None:
            raise self._error
        return ended

    def stop(self, grace: Duration | None = None) -> int:
        """Claim no more, wait for the jobs that are running, give back those
        that do not end within the grace; no attempt is counted for them.
        Harmless when it has been stopped.

        Args:
            grace: how long [the worker's].

        Returns:
            How many were given back.
        """
        engine = self._engine
        if engine is None or self._stopping:
            return 0
        grace = self._grace if grace is None else grace
        seconds = wait_milliseconds(grace, "grace") / 1000
        engine.stop_begin()
        self._stopping = True
        self._poke()
        self._done.wait(min(seconds, threading.TIMEOUT_MAX))
        released = self._release(engine)
        self._end()
        return released

    def _release(self, engine: Engine) -> int:
        with self._lock:
            left = list(self._running.values())
        for each in left:
            log.warning(
                "job %d did not end within the grace: it is given back",
                each.job.id,
                extra=log_extra(each.job),
            )
            if isinstance(each, _OnLoop):
                each.stop(Release())
        deadline = time.monotonic() + 1
        while left and time.monotonic() < deadline:
            if all(each.ended or not isinstance(each, _OnLoop) for each in left):
                break
            time.sleep(0.005)
        engine.stop(5 if not left else 0)
        self._counts["released"] += sum(not each.ended for each in left)
        return len(left)

    def _end(self) -> None:
        assert self._engine is not None
        self._done.set()
        self._poke()
        self._dispatcher.join()
        for _ in self._threads:
            self._handed.put(None)
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        if self._own_loop is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._own_loop.join(1)
        self._told(self._engine)
        self._engine.close()
        for descriptor in self._pipe:
            os.close(descriptor)

    def _poke(self) -> None:
        os.write(self._pipe[1], b"!")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        """Start it on this event loop, if it is of mode ``"asyncio"``."""
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(None, self.start)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.stop)

    # ---- The dispatcher

    def _dispatch(self) -> None:
        engine = self._engine
        assert engine is not None
        poll = select.poll()
        poll.register(engine.fileno(), select.POLLIN)
        poll.register(self._pipe[0], select.POLLIN)
        try:
            while self._turn(engine):
                for descriptor, _ in poll.poll(self._patience()):
                    if descriptor == self._pipe[0]:
                        os.read(descriptor, 64)
        except Exception as error:
            log.exception("the worker cannot go on")
            self._error = error
        finally:
            self._done.set()

    def _turn(self, engine: Engine) -> bool:
        """Do what is to be done now. Whether there will be more."""
        if self._done.is_set():
            return False
        self._told(engine)
        with self._lock:
            running = list(self._running.values())
        for each in running:
            self._look(engine, each)
        try:
            while (job := engine.next(0)) is not None:
                self._hand(job)
        except ClosedError:
            return bool(self._running)
        return True

    def _patience(self) -> int | None:
        """How long to sleep, ms: until a task that is out of time has had its
        grace."""
        with self._lock:
            ends = [each.ends for each in self._running.values() if each.ends]
        if not ends:
            return None
        return max(round((min(ends) - time.monotonic()) * 1000) + 1, 0)

    def _told(self, engine: Engine) -> None:
        for settled in engine.settled():
            ending = self._endings.pop(settled.job.id, "done")
            if settled.error is None:
                self._counts[ending] += 1
            elif ending != "settled":
                self._counts["lost"] += 1
                log.warning("%s", settled.error, extra=log_extra(settled.job))

    def _look(self, engine: Engine, running: _Running) -> None:
        """At the flags of a job that is running."""
        flags = running.job._flags()
        if flags & _LOST and not running.job.settled:
            running.stop(TaskCancelled("the job was cancelled, or is another's"))
        elif flags & _TIMED_OUT and not running.ends:
            seconds = wait_milliseconds(self._grace, "grace") / 1000
            running.ends = time.monotonic() + seconds
            running.stop(TaskTimeout(f"longer than {running.job.timeout}"))
        elif running.ends and running.ends <= time.monotonic():
            self._abandon(engine, running)

    def _abandon(self, engine: Engine, running: _Running) -> None:
        """A task that is out of time and does not end: its job goes on without
        it, and another thread takes its place."""
        if not running.end():
            return
        with self._lock:
            self._running.pop(running.job.id, None)
        log.error(
            "job %d is out of time, and does not end: it is retried",
            running.job.id,
            extra=log_extra(running.job),
        )
        ending: Ending = "dead" if running.job.final else "retried"
        self._finish(
            running.job,
            Settlement(RETRY, ending, error="TaskTimeout: out of time, and not ended"),
        )
        if self._mode == "threads":
            self._start_thread(self._serve, "dibs-worker")

    def _hand(self, job: EngineJob) -> None:
        if self._mode == "threads":
            thread = _InThread(job)
            with self._lock:
                self._running[job.id] = thread
            self._handed.put(thread)
            return
        task = _OnLoop(job)
        with self._lock:
            self._running[job.id] = task
        loop = self._event_loop()
        task.begin(loop, self)

    # ---- Running jobs

    def _serve(self) -> None:
        """What a thread does."""
        while (running := self._handed.get()) is not None:
            settlement = running.run(self)
            if not running.end():
                return  # abandoned: another thread is in its place
            self._finished(running, settlement)

    def _finished(self, running: _Running, settlement: Settlement | None) -> None:
        # Not before the engine knows: what is not running is settled.
        self._finish(running.job, settlement)
        with self._lock:
            self._running.pop(running.job.id, None)
            last = not self._running
        if last:
            with contextlib.suppress(OSError):
                self._poke()

    def _finish(self, job: EngineJob, settlement: Settlement | None) -> None:
        engine = self._engine
        assert engine is not None
        if settlement is None:
            # Settled by its task: by the engine, or by its receipt, in a
            # transaction of the application's, and then the engine must hear.
            if job._run.ended:
                self._counts["done"] += 1
                return
            self._counts["done"] += 1
            self._endings[job.id] = "settled"
            settlement = Settlement(ACK, "done")
        else:
            self._endings[job.id] = settlement.ending
        try:
            settlement.apply(job, lambda *a, **k: engine.finish(job, *a, **k))
        except (LostError, ClosedError):
            # The worker has been stopped meanwhile, and has given it back.
            self._endings.pop(job.id, None)
        except Error as error:
            self._endings.pop(job.id, None)
            log.error("job %d: %s", job.id, error, extra=log_extra(job))

    # ---- Its event loop

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        """The loop it was started on, or one in a thread of its own."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._own_loop = threading.Thread(
                    target=self._loop.run_forever, name="dibs-loop", daemon=True
                )
                self._own_loop.start()
            return self._loop


class _Running:
    """A job that is being run."""

    def __init__(self, job: EngineJob) -> None:
        self.job = job
        #: When a task that is out of time is not waited for any more.
        self.ends: float | None = None
        self.ended = False
        self._lock = threading.Lock()

    def end(self) -> bool:
        """It has ended, or is given up: whether that is new."""
        with self._lock:
            if self.ended:
                return False
            self.ended = True
            return True

    def stop(self, why: BaseException) -> None:
        """Make its task raise."""
        raise NotImplementedError


class _InThread(_Running):
    """In a thread: stopped by an exception that Python raises there, between two
    steps of the task; a call that blocks is not ended."""

    def __init__(self, job: EngineJob) -> None:
        super().__init__(job)
        self._thread: int | None = None
        self._why: BaseException | None = None
        self._future: concurrent.futures.Future[Any] | None = None

    def run(self, worker: Worker) -> Settlement | None:
        self._thread = threading.get_ident()
        settlement: Settlement | None = None
        try:
            settlement = worker._app.attempt(
                self.job, lambda awaitable: self._await(worker, awaitable)
            )
        except _ENDED as error:
            settlement = _late(self.job, error)
        while True:
            # The exception may come until the lock is held.
            try:
                with self._lock:
                    self._thread = None
                break
            except _ENDED:
                continue
        return settlement

    def _await(self, worker: Worker, awaitable: Awaitable[_T]) -> _T:
        """Wait for what an async task gives."""

        async def main() -> _T:
            return await awaitable

        loop = worker._event_loop()
        with self._lock:
            self._future = asyncio.run_coroutine_threadsafe(main(), loop)
        try:
            return cast("_T", self._future.result())
        except concurrent.futures.CancelledError as error:
            raise self._why or error from None
        finally:
            with self._lock:
                self._future = None

    def stop(self, why: BaseException) -> None:
        with self._lock:
            if self._why is not None or self._thread is None:
                return
            self._why = why
            if self._future is not None:
                self._future.cancel()
            else:
                _raise_in(self._thread, type(why))


def _late(job: EngineJob, error: BaseException) -> Settlement | None:
    """What ends a task came when it had just ended."""
    if isinstance(error, TaskCancelled):
        return None
    return Settlement(RETRY, "dead" if job.final else "retried", error="TaskTimeout")


def _raise_in(thread: int, kind: type[BaseException]) -> None:
    try:
        import ctypes
    except ImportError:
        log.warning("a task cannot be ended: this Python has no ctypes")
        return
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(kind)
    )


class _OnLoop(_Running):
    """On an event loop: stopped by cancelling it."""

    def __init__(self, job: EngineJob) -> None:
        super().__init__(job)
        self._why: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, worker: Worker) -> None:
        self._loop = loop

        def start() -> None:
            self._task = loop.create_task(self._main(worker))
            if self._why is not None:
                self._task.cancel()

        loop.call_soon_threadsafe(start)

    async def _main(self, worker: Worker) -> None:
        assert worker._executor is not None
        settlement = await worker._app.attempt_async(
            self.job, lambda: self._why, worker._executor
        )
        if self.end():
            worker._finished(self, settlement)

    def stop(self, why: BaseException) -> None:
        if self._why is not None or self._loop is None:
            return
        self._why = why

        def cancel() -> None:
            if self._task is not None:
                self._task.cancel()

        self._loop.call_soon_threadsafe(cancel)
