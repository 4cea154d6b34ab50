# SPDX-License-Identifier: MIT
"""An application's tasks: their registry, hooks, and how a job becomes a call.

``App.attempt()`` is one attempt of a job, from the claimed job to the
``Settlement`` that says what is to become of it; workers and tests settle it. A
settlement of ``None``: the task has settled its job by itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    ParamSpec,
    TypeVar,
    overload,
)

from ._database import Database, attach, open
from ._errors import MisuseError
from ._job import (
    ACK,
    DISCARD,
    FAIL,
    RELEASE,
    RETRY,
    SNOOZE,
    Job,
    error_text,
    log_extra,
)
from ._operations import Operations
from ._options import encode
from ._task import (
    AsyncTask,
    Call,
    Definition,
    Discard,
    Fail,
    Handle,
    Release,
    Retry,
    Snooze,
    Task,
    TaskCancelled,
    Verdict,
    missing,
)
from ._time import Duration

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from typing_extensions import Unpack

    from ._codec import Codec
    from ._task import TaskOptions
    from ._worker import Worker
    from .aio import AsyncDatabase

P = ParamSpec("P")
R = TypeVar("R")
_T = TypeVar("_T")
_Hook = TypeVar("_Hook", bound=Callable[..., Any])

log = logging.getLogger("dibs")

_current: ContextVar[Job] = ContextVar("dibs_job")

#: How an attempt ended, as workers count and logs say.
Ending = Literal["done", "retried", "dead", "released", "snoozed", "discarded", "lost"]


class Settlement(NamedTuple):
    """What is to become of a job."""

    action: int
    ending: Ending
    delay: Duration | None = None
    error: str | None = None
    result: Any = None
    #: What the task raised.
    cause: BaseException | None = None

    def settle(self, job: Job) -> None:
        """Do it, and return when it is committed."""
        self.apply(job, job._end)

    def apply(self, job: Job, end: Callable[..., Any]) -> None:
        """Do it by a function that takes all but the job."""
        try:
            end(self.action, delay=self.delay, error=self.error, result=self.result)
        except (TypeError, ValueError) as error:
            if self.result is None:
                raise
            # The work is done: to do it again would not help.
            log.error(
                "the result of job %d is not kept: %s",
                job.id,
                error,
                extra=log_extra(job),
            )
            end(self.action)


def current_job() -> Job:
    """The job that is being run here.

    Raises:
        MisuseError: none is.
    """
    try:
        return _current.get()
    except LookupError:
        raise MisuseError("no job is being run here") from None


class App:
    """Tasks, and the database of their jobs::

        app = dibs.App("app.db")

        @app.task(queue="emails", max_attempts=5)
        def send_email(to: str, *, job: dibs.Job = dibs.INJECTED) -> None: ...

        send_email.enqueue("alice@example.com")

    ``python -m dibs worker module:app`` runs them. The database is opened when
    it is first needed, and once more in a forked child.

    Args:
        path: as of ``dibs.open()`` [the environment's ``DIBS_DB``, else
            ``dibs.db``]; or a ``Database``.
        queue: where jobs go of tasks that name none.
        keep: how long results of tasks are kept that do not say; ``None``: as
            the queue says.
        unknown: after what time a job whose name no task has is given back
            again, no attempt being counted; ``"fail"``: it goes to the dead
            letters.
        context: context variables of text to carry from where a job is enqueued
            to where it runs, by the header that holds them.
        settings: for ``dibs.open()``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Database | None = None,
        *,
        queue: str = "default",
        keep: Duration | None = 600,
        unknown: Duration | Literal["fail"] = 5,
        context: Mapping[str, ContextVar[str]] | None = None,
        **settings: Any,
    ) -> None:
        self._opened: Operations | None = None
        self._path: str | os.PathLike[str] = "dibs.db"
        if isinstance(path, Database):
            self._opened = path
            self._path = path.path
        else:
            self._path = path or os.environ.get("DIBS_DB") or "dibs.db"
        self._asynchronous: AsyncDatabase | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._settings = settings
        self.queue_name = queue
        self.keep = keep
        self._unknown = unknown
        self._context = dict(context or {})
        self._tasks: dict[str, Definition[Any, Any]] = {}
        self._fallback: Callable[[Job], Any] | None = None
        self._provided: dict[Any, Callable[[Job], Any]] = {Job: lambda job: job}
        self._before: list[Callable[[Job], Any]] = []
        self._after: list[Callable[[Job, BaseException | None], Any]] = []
        self._on_retry: list[Callable[[Job, BaseException], Any]] = []
        self._on_death: list[Callable[[Job, BaseException], Any]] = []
        self._on_error: Callable[..., Verdict | None] | None = None
        self._strangers: set[str | None] = set()
        #: Of dibs.testing: what to do behind an enqueue, and before waiting.
        self._enqueued: Callable[[Operations, list[int]], object] | None = None
        self._drain: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<dibs.App {str(self._path)!r} of {len(self._tasks)} tasks>"

    # ---- Its database

    @property
    def database(self) -> Database:
        """Its database, open."""
        with self._lock:
            if self._opened is None or self._pid != os.getpid():
                self._opened = open(self._path, **self._settings)
                self._pid = os.getpid()
            return self._opened  # type: ignore[return-value]

    def _operations(self) -> Operations:
        """What is enqueued through where nothing else is said."""
        return self.database

    def _attached(self, connection: Any) -> Operations:
        if isinstance(connection, Operations):
            return connection
        chosen = {
            key: self._settings[key]
            for key in ("codec", "clock", "max_payload")
            if key in self._settings
        }
        return attach(connection, **chosen)

    def close(self) -> None:
        """Close its database, which the next use opens again."""
        with self._lock:
            opened, self._opened = self._opened, None
        if isinstance(opened, Database) and self._pid == os.getpid():
            opened.close()

    # ---- Tasks

    @property
    def tasks(self) -> Mapping[str, Definition[Any, Any]]:
        """Its tasks by name."""
        return dict(self._tasks)

    @property
    def queues(self) -> list[str]:
        """The queues of its tasks."""
        names = {each.queue for each in self._tasks.values()}
        if self._fallback is not None or not names:
            names.add(self.queue_name)
        return sorted(names)

    @overload
    def task(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...

    @overload
    def task(
        self, /, *, raw: bool = False, **options: Unpack[TaskOptions]
    ) -> _Decorator: ...

    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        raw: bool = False,
        **options: Any,
    ) -> Any:
        """Make a function a task::

            @app.task
            def a(x: int) -> int: ...

            @app.task(queue="emails", max_attempts=5, timeout=30)
            async def b(to: str) -> None: ...

        What the function returns, JSON, is the result. An exception is a failed
        attempt; ``Retry``, ``Fail``, ``Snooze``, ``Discard`` and ``Release`` may
        be raised to say more.

        A parameter whose default is ``dibs.INJECTED`` is given by the worker: by
        its annotation the ``Job``, or what ``provide()`` names. A keyword-only
        parameter ``job`` without a default is the job, too.

        Args:
            raw: the payload is the only argument as it is, whatever it is: for
                jobs that other programs enqueue.
            options: see ``dibs.TaskOptions``; ``name`` is that of the function
                unless it is given.

        Raises:
            MisuseError: there is a task of that name.
        """
        if function is not None:
            return self._register(function, raw, options)
        return _Decorator(self, raw, options)

    def _register(
        self, function: Callable[..., Any], raw: bool, options: Mapping[str, Any]
    ) -> Definition[Any, Any]:
        made: Definition[..., Any]
        if inspect.iscoroutinefunction(function):
            made = AsyncTask[..., Any](self, function, options, raw)
        else:
            made = Task[..., Any](self, function, options, raw)
        if made.name in self._tasks:
            raise MisuseError(
                f"there is a task {made.name!r} already: give one of them another "
                "name with @app.task(name=...)"
            )
        self._tasks[made.name] = made
        return made

    def fallback(self, function: Callable[[Job], _T]) -> Callable[[Job], _T]:
        """A function that gets the jobs whose name no task has, and those
        without a name: ``f(job)``, plain or async."""
        self._fallback = function
        return function

    def provide(
        self, kind: type[_T], value: _T | None = None, *, of: Any = None
    ) -> None:
        """Say what a parameter of a type gets, whose default is
        ``dibs.INJECTED``.

        Args:
            kind: the type, as the parameter's annotation names it.
            value: it; or
            of: a function of the job that gives it, called for each attempt.
        """
        self._provided[kind] = of if of is not None else (lambda job: value)

    def check(self) -> None:
        """See that each task's injected parameters are provided; workers do
        that as they start.

        Raises:
            MisuseError: one is not.
        """
        for task in self._tasks.values():
            for name, kind in task._arguments.kinds().items():
                if kind not in self._provided:
                    raise missing(task, name, kind)

    # ---- Enqueueing

    def enqueue_many(
        self, calls: Iterable[Call], *, within: Any = None
    ) -> list[Handle[Any]]:
        """Enqueue calls of several tasks in one transaction, all or none::

            app.enqueue_many([send_email.call("a@example.com"), tidy.call()])

        Args:
            within: a connection: see ``Task.within()``.
        """
        operations = None if within is None else self._attached(within)
        return self._enqueue(calls, operations)

    def _enqueue(
        self, calls: Iterable[Call], operations: Operations | None
    ) -> list[Handle[Any]]:
        operations = operations or self._operations()
        results = operations._enqueue([_job(operations.codec, each) for each in calls])
        handles: list[Handle[Any]] = [Handle(self, *each) for each in results]
        if self._enqueued is not None:
            self._enqueued(operations, [each.id for each in handles])
        return handles

    async def _enqueue_async(
        self, call: Call, operations: Operations | None
    ) -> Handle[Any]:
        if operations is not None:
            # A connection of the application's is for its thread.
            return self._enqueue([call], operations)[0]
        database = await self._async_database()
        job = _job(database.sync.codec, call)
        id, existing = (await database._enqueuing.add([job]))[0]
        if self._enqueued is not None:
            await asyncio.to_thread(self._enqueued, database.sync, [id])
        return Handle(self, id, existing)

    async def _async_database(self) -> AsyncDatabase:
        """Its database, for the event loop that runs here."""
        from .aio import AsyncDatabase

        found = self._asynchronous
        loop = asyncio.get_running_loop()
        if found is None or found._loop is not loop or found.closed:
            database = await loop.run_in_executor(None, lambda: self.database)
            found = self._asynchronous = AsyncDatabase(database)
        return found

    def _headers(self) -> dict[str, str]:
        """The context variables that have a value."""
        found: dict[str, str] = {}
        for header, variable in self._context.items():
            value = variable.get(None)
            if value is not None:
                found[header] = value
        return found

    # ---- Hooks

    def before(self, hook: _Hook) -> _Hook:
        """Call ``hook(job)`` before each attempt. What it raises fails the
        attempt."""
        self._before.append(_plain(hook))
        return hook

    def after(self, hook: _Hook) -> _Hook:
        """Call ``hook(job, error)`` after each attempt; ``error`` is ``None``
        when it went well. What it raises is logged, as of the other hooks."""
        self._after.append(_plain(hook))
        return hook

    def on_retry(self, hook: _Hook) -> _Hook:
        """Call ``hook(job, error)`` when an attempt has failed and another one
        follows."""
        self._on_retry.append(_plain(hook))
        return hook

    def on_death(self, hook: _Hook) -> _Hook:
        """Call ``hook(job, error)`` when a job goes to the dead letters because
        an attempt failed. One that dies with its process has nobody to call."""
        self._on_death.append(_plain(hook))
        return hook

    def on_error(self, hook: _Hook) -> _Hook:
        """Ask ``hook(error, job, attempt, is_final)`` what is to become of a
        job whose task has raised: ``None`` (the usual), or a ``Retry``,
        ``Fail``, ``Snooze``, ``Discard`` or ``Release``."""
        self._on_error = _plain(hook)
        return hook

    # ---- Running

    def worker(self, **options: Any) -> Worker:
        """A worker of its tasks: see ``dibs.Worker``."""
        from ._worker import Worker

        return Worker(self, **options)

    def find(self, job: Job) -> Callable[[], Any] | Settlement:
        """The call that a job means; a settlement, if it means none."""
        task = self._tasks.get(job.name) if job.name is not None else None
        if task is not None:
            return lambda: self._call(task, job)
        if self._fallback is not None:
            fallback = self._fallback
            return lambda: fallback(job)
        return self._stranger(job)

    def _call(self, task: Definition[Any, Any], job: Job) -> Any:
        places, names = task._arguments.decode(job)
        for name, kind in task._arguments.kinds().items():
            if kind not in self._provided:
                raise missing(task, name, kind)
            names[name] = self._provided[kind](job)
        return task._function(*places, **names)

    def _stranger(self, job: Job) -> Settlement:
        """A job of an unknown name. It is put off a little, or this worker would
        get it again and again, before one that knows it."""
        if job.name not in self._strangers:
            self._strangers.add(job.name)
            log.warning(
                "no task is named %r: its jobs in %r are given back",
                job.name,
                job.queue,
                extra=log_extra(job),
            )
        if isinstance(self._unknown, str):
            return Settlement(FAIL, "dead", error=f"no task is named {job.name!r}")
        return Settlement(SNOOZE, "released", self._unknown)

    def attempt(
        self, job: Job, wait: Callable[[Awaitable[Any]], Any] | None = None
    ) -> Settlement | None:
        """One attempt, in a copy of this context.

        Args:
            wait: waits for what an async task gives [an event loop for it].
        """
        found = self.find(job)
        if isinstance(found, Settlement):
            return found
        return contextvars.copy_context().run(self._attempt, job, found, wait or _run)

    def _attempt(
        self,
        job: Job,
        call: Callable[[], Any],
        wait: Callable[[Awaitable[Any]], Any],
    ) -> Settlement | None:
        attempt = Attempt(self, job)
        with attempt:
            attempt.begin()
            result = call()
            attempt.result = wait(result) if inspect.isawaitable(result) else result
        return attempt.settlement

    async def attempt_async(
        self,
        job: Job,
        why: Callable[[], BaseException | None],
        executor: Executor,
    ) -> Settlement | None:
        """The same on an event loop, in the context that the caller made: a
        plain function runs in a thread.

        Args:
            why: for what reason the caller has cancelled it.
            executor: has the threads.
        """
        found = self.find(job)
        if isinstance(found, Settlement):
            return found
        attempt = Attempt(self, job)
        with attempt:
            attempt.begin()
            try:
                if self._is_async(job):
                    attempt.result = await found()
                else:
                    context = contextvars.copy_context()
                    attempt.result = await asyncio.get_running_loop().run_in_executor(
                        executor, context.run, found
                    )
            except asyncio.CancelledError as error:
                raise why() or error from None
        return attempt.settlement

    def _is_async(self, job: Job) -> bool:
        task = self._tasks.get(job.name) if job.name is not None else None
        function = task._function if task is not None else self._fallback
        return inspect.iscoroutinefunction(function)


class _Decorator:
    """``app.task(...)``, which then gets the function."""

    def __init__(self, app: App, raw: bool, options: Mapping[str, Any]) -> None:
        self._app = app
        self._raw = raw
        self._options = options

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...

    def __call__(self, function: Callable[..., Any], /) -> Any:
        return self._app._register(function, self._raw, self._options)


class Attempt:
    """The block in which a task runs: hooks around it, and what comes of it in
    ``settlement``. Swallows what the task raises."""

    def __init__(self, app: App, job: Job) -> None:
        self._app = app
        self._job = job
        self._began = time.monotonic()
        self.result: Any = None
        self.settlement: Settlement | None = None

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def begin(self) -> None:
        """To be called first in the block: what it raises fails the attempt."""
        _current.set(self._job)
        for header, variable in self._app._context.items():
            value = self._job.headers.get(header)
            if value is not None:
                variable.set(value)
        for hook in self._app._before:
            hook(self._job)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[True]:
        if error is None:
            self._succeeded()
        else:
            self._failed(error)
        return True

    def _succeeded(self) -> None:
        self._hooks(self._app._after, None)
        if self._job.settled:
            self._tell(logging.INFO, "settled by its task")
            return
        self._tell(logging.INFO, "done")
        self.settlement = Settlement(ACK, "done", result=self.result)

    def _failed(self, error: BaseException) -> None:
        job = self._job
        if job.settled and job._settled is job.database:
            # It has said itself what is to become of the job.
            self._hooks(self._app._after, error)
            self._tell(logging.ERROR, "raised after it was settled", error)
            return
        verdict = self._verdict(error)
        made = self._settlement(verdict, error)._replace(cause=error)
        self.settlement = made
        self._hooks(self._app._after, error)
        if made.ending == "retried":
            self._hooks(self._app._on_retry, error)
            self._tell(logging.WARNING, f"failed: {_line(error)}", error)
        elif made.ending == "dead":
            self._hooks(self._app._on_death, error)
            self._tell(logging.ERROR, f"failed for good: {_line(error)}", error)
        else:
            self._tell(logging.INFO, made.ending)

    def _verdict(self, error: BaseException) -> Verdict:
        if isinstance(error, Verdict):
            return error
        if isinstance(error, TaskCancelled):
            # It is nobody's or another's by now: giving it back says so.
            return Release()
        handler = self._app._on_error
        if handler is not None:
            job = self._job
            try:
                answer = handler(error, job, job.attempt, job.final)
            except Exception:
                log.exception("the error handler raised", extra=log_extra(job))
            else:
                if isinstance(answer, Verdict):
                    return answer
        return Retry()

    def _settlement(self, verdict: Verdict, error: BaseException) -> Settlement:
        text = verdict.error
        if text is None:
            text = error_text(error)
        if isinstance(verdict, Fail):
            return Settlement(FAIL, "dead", error=text)
        if isinstance(verdict, Discard):
            return Settlement(DISCARD, "discarded", error=verdict.error)
        if isinstance(verdict, Release):
            return Settlement(RELEASE, "released")
        if isinstance(verdict, Snooze):
            return Settlement(SNOOZE, "snoozed", verdict.delay)
        ending: Ending = "dead" if self._job.final else "retried"
        return Settlement(RETRY, ending, getattr(verdict, "delay", None), text)

    def _hooks(self, hooks: Iterable[Callable[..., Any]], error: Any) -> None:
        for hook in hooks:
            try:
                hook(self._job, error)
            except Exception:
                log.exception(
                    "a hook raised for job %d",
                    self._job.id,
                    extra=log_extra(self._job),
                )

    def _tell(self, level: int, text: str, error: BaseException | None = None) -> None:
        if not log.isEnabledFor(level):
            return
        job = self._job
        seconds = time.monotonic() - self._began
        extra = log_extra(job)
        extra["dibs_ms"] = round(seconds * 1000, 3)
        extra["dibs_ending"] = self.settlement.ending if self.settlement else "done"
        log.log(
            level,
            "job %d %s %s (attempt %d, %.3f s)",
            job.id,
            job.name or job.queue,
            text,
            job.attempt,
            seconds,
            exc_info=error,
            extra=extra,
        )


def _job(codec: Codec, call: Call) -> tuple[Any, ...]:
    """A call as the core takes a job."""
    task, payload = call
    return (task.queue, *encode(codec, payload, task._job_options()))


def _line(error: BaseException) -> str:
    """An exception on one line."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text.partition("\n")[0]


def _run(awaitable: Awaitable[_T]) -> _T:
    """Wait for it, where no event loop runs."""

    async def main() -> _T:
        return await awaitable

    return asyncio.run(main())


def _plain(hook: _Hook) -> _Hook:
    if inspect.iscoroutinefunction(hook):
        raise TypeError("a hook is a plain function, not an async one")
    return hook


def load(place: str) -> App:
    """The app of ``module:attribute``, or the only one of a module.

    Raises:
        ImportError, MisuseError: there is none.
    """
    name, _, attribute = place.partition(":")
    module = importlib.import_module(name)
    if attribute:
        found: Any = module
        for part in attribute.split("."):
            found = getattr(found, part, None)
        apps = [found] if isinstance(found, App) else []
    else:
        apps = [each for each in vars(module).values() if isinstance(each, App)]
    if len(apps) != 1:
        what = f"{attribute!r} is none" if attribute else f"it has {len(apps)}"
        raise MisuseError(f"module {name!r}: name a dibs.App as module:app; {what}")
    return apps[0]
