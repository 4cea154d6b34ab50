# SPDX-License-Identifier: MIT
"""A task: a function whose calls can be enqueued as jobs.

A call becomes a payload that other languages can write, too: an object of the
arguments by name (``{"to": "alice@example.com"}``); an array of them where the
function's arguments have no names, and an object with the array under ``"*"``
where some have; a single argument that is ``bytes`` is the payload itself; no
argument, no payload. Read back, an object gives arguments by name, an array by
place, anything else is one argument.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import typing
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar, cast

from ._database import job_result
from ._errors import EmptyError, InvalidError, MisuseError
from ._job import Job
from ._options import ABSENT, JobOptions, core_options
from ._time import Duration

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ._app import App
    from ._operations import Operations

P = ParamSpec("P")
R = TypeVar("R")
_T = TypeVar("_T")

_PLACES = "*"


class TaskOptions(JobOptions, total=False):
    """``JobOptions`` and the queue [that of the app]."""

    queue: str | None


_KNOWN = frozenset(TaskOptions.__annotations__) | frozenset(JobOptions.__annotations__)


class _Injected:
    """The default of a parameter that the worker gives."""

    def __repr__(self) -> str:
        return "dibs.INJECTED"


#: The default of a parameter that the worker gives and the caller does not: the
#: ``Job``, or what ``App.provide()`` names, by the parameter's annotation.
INJECTED: Any = _Injected()


# ---- What a task may raise ----------------------------------------------------


class Verdict(Exception):
    """What a task raises, or an error handler returns, to say what is to become
    of the job."""

    def __init__(self, error: str | None = None) -> None:
        super().__init__(error or type(self).__name__)
        self.error = error


class Retry(Verdict):
    """Another attempt, after ``delay`` [its backoff]."""

    def __init__(self, delay: Duration | None = None, error: str | None = None) -> None:
        super().__init__(error)
        self.delay = delay


class Fail(Verdict):
    """To the dead letters, whatever attempts are left."""


class Discard(Verdict):
    """Done, with the outcome discarded."""


class Release(Verdict):
    """Back to the queue at once; no attempt is counted."""


class Snooze(Verdict):
    """Again after ``delay``; no attempt is counted."""

    def __init__(self, delay: Duration) -> None:
        super().__init__()
        self.delay = delay


class TaskTimeout(BaseException):
    """Raised within a task that has run for longer than its ``timeout``. No
    ``Exception``, so that the task's own handlers let it pass."""


class TaskCancelled(BaseException):
    """Raised within a task whose job was cancelled, or is another's by now."""


for _each in (
    Verdict,
    Retry,
    Fail,
    Discard,
    Release,
    Snooze,
    TaskTimeout,
    TaskCancelled,
):
    # What a kept traceback calls them.
    _each.__module__ = "dibs"


# ---- Arguments ----------------------------------------------------------------


class Arguments:
    """What a function takes: from the caller, and from the worker."""

    def __init__(self, function: Callable[..., Any], raw: bool) -> None:
        self._function = function
        self._raw = raw
        whole = inspect.signature(function)
        self.injected = [
            name for name, each in whole.parameters.items() if _is_injected(each)
        ]
        self._public = whole.replace(
            parameters=[
                each
                for name, each in whole.parameters.items()
                if name not in self.injected
            ]
        )
        self._kinds: dict[str, Any] | None = None

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The payload of a call. TypeError, as a call of the function would
        raise it, where the arguments do not fit."""
        bound = self._public.bind(*args, **kwargs)
        if self._raw:
            return _single(bound.args, bound.kwargs)
        places, names = self._split(bound)
        values = (*places, *names.values())
        if not values:
            return ABSENT
        if len(values) == 1 and _is_bytes(values[0]):
            return values[0]
        if not places:
            return names
        return {_PLACES: list(places), **names} if names else list(places)

    def _split(self, bound: inspect.BoundArguments) -> tuple[list[Any], dict[str, Any]]:
        """By place what has no name, or stands before what has none."""
        parameters = self._public.parameters
        nameless = [
            each
            for each in bound.arguments
            if parameters[each].kind
            in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
        ]
        if nameless:
            return list(bound.args), dict(bound.kwargs)
        names: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            if parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                names.update(value)
            else:
                names[name] = value
        if _PLACES in names:
            raise InvalidError(f"an argument cannot be named {_PLACES!r}")
        return [], names

    def decode(self, job: Job) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a job's payload."""
        if job.raw is None:
            return [], {}
        data = job.data
        if self._raw:
            return [data], {}
        if isinstance(data, dict):
            names = dict(cast("dict[str, Any]", data))
            places = names.pop(_PLACES, [])
            return list(places), names
        if isinstance(data, list):
            return [*data], {}
        return [data], {}

    def kinds(self) -> dict[str, Any]:
        """The types of the parameters that the worker gives."""
        if self._kinds is None:
            try:
                hints = typing.get_type_hints(self._function)
            except Exception:
                # An annotation that only type checkers can read.
                hints = {}
            self._kinds = {
                name: hints.get(name, Job if name == "job" else None)
                for name in self.injected
            }
        return self._kinds


def _is_injected(parameter: inspect.Parameter) -> bool:
    if parameter.default is INJECTED:
        return True
    return (
        parameter.name == "job"
        and parameter.kind is inspect.Parameter.KEYWORD_ONLY
        and parameter.default is inspect.Parameter.empty
    )


def _is_bytes(value: Any) -> bool:
    return isinstance(value, (bytes, bytearray, memoryview))


def _single(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    values = (*args, *kwargs.values())
    if len(values) > 1:
        raise TypeError(f"a raw task takes one argument, not {len(values)}")
    return values[0] if values else ABSENT


# ---- Tasks --------------------------------------------------------------------


class Call(NamedTuple):
    """A call of a task that is not enqueued yet, from ``task.call()``."""

    task: Definition[Any, Any]
    payload: Any


class Definition(Generic[P, R]):
    """What ``@app.task`` makes of a function: see ``Task`` and ``AsyncTask``."""

    def __init__(
        self,
        app: App,
        function: Callable[..., Any],
        options: Mapping[str, Any],
        raw: bool,
    ) -> None:
        functools.update_wrapper(self, function)  # type: ignore[arg-type]
        self._app = app
        self._function = function
        self._arguments = Arguments(function, raw)
        self._options: dict[str, Any] = dict(options)
        self._operations: Operations | None = None
        name = self._options.pop("name", None)
        self._name: str = name or function.__name__
        _check_options(self._options)

    @property
    def name(self) -> str:
        """What its jobs are named."""
        return self._name

    @property
    def app(self) -> App:
        return self._app

    @property
    def function(self) -> Callable[..., Any]:
        """As it was written."""
        return self._function

    @property
    def queue(self) -> str:
        """Where its jobs go."""
        return self._options.get("queue") or self._app.queue_name

    def __repr__(self) -> str:
        return f"<dibs.{type(self).__name__} {self._name!r} in {self.queue!r}>"

    # ---- Other options

    def options(self, **options: Unpack[TaskOptions]) -> Self:
        """The same task with other options for its jobs: what is given here
        beats what the decorator says, that the queue's defaults::

            send_email.options(delay=60, priority=5).enqueue("alice@example.com")

        ``None`` takes an option back: the queue's default holds.
        """
        _check_options(options)
        if options.get("name") is not None:
            raise TypeError("a task's name is given with @app.task(name=...)")
        other = self._copy()
        if options.get("delay") is not None:
            other._options.pop("at", None)
        if options.get("at") is not None:
            other._options.pop("delay", None)
        other._options.update(options)
        return other

    with_options = options

    def within(self, connection: Any) -> Self:
        """The same task, whose jobs become part of a transaction of the
        application's: what is enqueued is there once that is committed::

            with connection:
                connection.execute("INSERT INTO orders ...")
                send_receipt.within(connection).enqueue(order)

        Args:
            connection: a ``sqlite3.Connection``, an ``apsw.Connection``, or
                what ``dibs.attach()`` gave.
        """
        other = self._copy()
        other._operations = self._app._attached(connection)
        return other

    def _copy(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._options = dict(self._options)
        return other

    # ---- Enqueueing

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Enqueue a call. When this returns, it is committed, or part of the
        transaction, after ``within()``.

        Raises:
            TypeError: the arguments do not fit the function, or are nothing for
                the codec.
            Error: as ``Queue.enqueue()``.
        """
        call = Call(self, self._arguments.encode(args, kwargs))
        return self._app._enqueue([call], self._operations)[0]

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """The same without blocking the event loop; what is enqueued by several
        of its tasks at a time shares a commit."""
        call = Call(self, self._arguments.encode(args, kwargs))
        return await self._app._enqueue_async(call, self._operations)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """A call, for ``App.enqueue_many()``."""
        return Call(self, self._arguments.encode(args, kwargs))

    def enqueue_many(self, calls: Iterable[tuple[Any, ...]]) -> list[Handle[R]]:
        """Enqueue a call for each tuple of arguments, in one transaction: all or
        none."""
        return self._app._enqueue(
            [Call(self, self._arguments.encode(tuple(each), {})) for each in calls],
            self._operations,
        )

    def handle(self, id: int) -> Handle[R]:
        """The handle of a job of this task by its id, which need not be there:
        for results that are asked for elsewhere."""
        return Handle(self._app, id, False)

    def _job_options(self) -> dict[str, Any] | None:
        """As the core takes them."""
        options = {key: value for key, value in self._options.items() if key != "queue"}
        if "keep" not in options:
            options["keep"] = self._app.keep
        headers = self._app._headers()
        if headers:
            options["headers"] = {**headers, **(options.get("headers") or {})}
        options["name"] = self._name
        return core_options(options)


class Task(Definition[P, R]):
    """A function whose calls can be enqueued, from ``@app.task``. Called, it is
    the function: nothing is enqueued."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)  # type: ignore[no-any-return]


class AsyncTask(Definition[P, R]):
    """The same of an ``async def``. A worker runs it on an event loop."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self._function(*args, **kwargs)  # type: ignore[no-any-return]


def _check_options(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in _KNOWN:
            raise TypeError(f"there is no job option {name!r}")


# ---- What enqueueing gives ----------------------------------------------------


class Handle(Generic[R]):
    """A job that was enqueued: ``handle.result(timeout=10)``."""

    __slots__ = ("_app", "existing", "id")

    def __init__(self, app: App, id: int, existing: bool) -> None:
        self._app = app
        #: Of the job.
        self.id = id
        #: Whether it is a unique job that was there already.
        self.existing = existing

    def __repr__(self) -> str:
        return f"<dibs.Handle of job {self.id}>"

    def result(self, timeout: Duration | None = None) -> R:
        """Wait until the job has ended, and give what its function returned, as
        JSON gives it back. Kept for the app's ``keep``.

        Not within the transaction that enqueues it: nobody sees it before that
        is committed.

        Args:
            timeout: how long at most [without end].

        Raises:
            EmptyError: the timeout is over; also a ``TimeoutError``.
            JobFailedError: it is dead, cancelled, expired or discarded; its
                ``job`` tells.
            NotFoundError: it ended and is not kept any more.
        """
        if self._app._drain is not None:
            # In a test no worker is there to wait for.
            return self._drained()
        return self._app.database.result(self.id, timeout)  # type: ignore[no-any-return]

    def _drained(self) -> R:
        assert self._app._drain is not None
        self._app._drain()
        job = self.job()
        if job.state not in ("done", "dead"):
            raise EmptyError(f"job {self.id} is {job.state}, and nothing else is due")
        return job_result(self.id, job)  # type: ignore[no-any-return]

    async def aresult(self, timeout: Duration | None = None) -> R:
        """The same without blocking the event loop."""
        database = await self._app._async_database()
        if self._app._drain is not None:
            return await asyncio.to_thread(self._drained)
        return await database.result(self.id, timeout)  # type: ignore[no-any-return]

    def wait(self, timeout: Duration | None = None) -> Job | None:
        """Wait until it has ended: see ``Database.wait()``."""
        return self._app.database.wait(self.id, timeout)

    def job(self) -> Job:
        """As it is now: see ``Database.get()``."""
        return self._operations().get(self.id)

    def cancel(self) -> None:
        """See ``Database.cancel()``.

        Raises:
            NotFoundError, StateError: it has ended.
        """
        error = self._operations().cancel(self.id)[0].error
        if error is not None:
            raise error

    def _operations(self) -> Operations:
        if self._app._drain is not None:
            # A test's jobs may be in a transaction that is never committed.
            return self._app._operations()
        return self._app.database


def missing(task: Definition[Any, Any], name: str, kind: Any) -> MisuseError:
    """A parameter that nobody gives."""
    what = getattr(kind, "__qualname__", None) or repr(kind)
    if kind is None:
        what = "something without an annotation"
    return MisuseError(
        f"task {task.name!r} wants {name!r}, {what}, which nobody gives: "
        "say app.provide() what it is"
    )
