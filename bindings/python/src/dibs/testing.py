# SPDX-License-Identifier: MIT
"""Testing what enqueues and what runs: no worker, no file, no sleeping.

    from dibs.testing import Testing

    def test_signup():
        with Testing(app) as jobs:
            sign_up("alice@example.com")
            jobs.assert_enqueued(send_email, "alice@example.com")
            jobs.drain()                 # runs it, here and now
            assert outbox == [...]

With pytest, where this module is a plugin, the fixture ``dibs_testing`` does the
same for the length of a test: ``jobs = dibs_testing(app)``; and ``dibs_jobs`` is
a ``Testing`` of the app that the setting ``dibs_app = "module:app"`` names, else
of one that is new.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from ._app import App, Ending, load
from ._database import Clock, Database, open
from ._errors import MisuseError
from ._job import Job
from ._operations import ALL, Operations
from ._options import encode
from ._task import Definition, Verdict
from ._time import Duration

if TYPE_CHECKING:
    from typing_extensions import Self

#: More jobs than a test has: what enqueues itself for ever ends here.
_LIMIT = 10_000


class Ran(NamedTuple):
    """An attempt that ``drain()`` made."""

    job: Job
    #: done, retried, dead, released, snoozed, discarded
    ending: Ending
    #: What the task raised.
    error: BaseException | None


class Testing:
    """An app whose jobs are in memory, under a clock that stands, until the end
    of the block.

    Args:
        app: the app [a new one, in ``app``].
        inline: what is enqueued and due runs before ``enqueue()`` returns, and
            what it raises comes out there.
        now: where the clock stands, seconds since 1970 [now].
    """

    __test__ = False  # nothing for pytest to collect

    def __init__(
        self,
        app: App | None = None,
        *,
        inline: bool = False,
        now: float | None = None,
    ) -> None:
        self._app = app if app is not None else App(":memory:")
        self._inline = inline
        self._clock = Clock(time.time() if now is None else now)
        self._database: Database | None = None
        self._before: tuple[Any, ...] = ()
        self._seen: list[Job] = []
        self._lock = threading.RLock()

    @property
    def app(self) -> App:
        return self._app

    @property
    def clock(self) -> Clock:
        """The clock of its database."""
        return self._clock

    @property
    def database(self) -> Database:
        """In memory, for this block only."""
        if self._database is None:
            raise MisuseError("it is only there within the block: with Testing(...)")
        return self._database

    def __repr__(self) -> str:
        return f"<dibs.testing.Testing of {self._app!r}>"

    # ---- The block

    def __enter__(self) -> Self:
        app = self._app
        if app._enqueued is not None:
            raise MisuseError("the app is under test already")
        settings: dict[str, Any] = {
            **app._settings,
            "clock": self._clock,
            "synchronous": "normal",
        }
        self._database = open(":memory:", **settings)
        with app._lock:
            self._before = (app._opened, app._pid, app._settings)
            app._opened = self._database
            app._settings = {**app._settings, "clock": self._clock}
        app._enqueued = self._enqueued
        app._drain = lambda: self.drain(raise_errors=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        app = self._app
        app._enqueued = app._drain = None
        with app._lock:
            app._opened, app._pid, app._settings = self._before
        assert self._database is not None
        self._database.close()
        self._database = None

    def _enqueued(self, operations: Operations, ids: list[int]) -> None:
        """Note what was enqueued as it is now."""
        with self._lock:
            self._seen += [operations.get(id) for id in ids]
        if self._inline:
            self._work(operations, (ALL,), True)

    # ---- Running

    def drain(
        self, *queues: str, raise_errors: bool = True, within: Any = None
    ) -> list[Ran]:
        """Run all jobs that are due, and those that they enqueue, here and now.

        Args:
            queues: of these queues [all].
            raise_errors: raise what a task raises, once its job is settled as a
                worker would.
            within: a connection of the application: run what was enqueued
                within it, see ``Task.within()``.

        Returns:
            What ran, in order.
        """
        app = self._app
        operations = app._operations() if within is None else app._attached(within)
        return self._work(operations, queues or (ALL,), raise_errors)

    def run_one(self, *queues: str) -> Ran | None:
        """Run the next job that is due; ``None``: there is none. What its task
        raises is in ``error``."""
        return self._run(self._app._operations(), queues or (ALL,))

    def advance(self, duration: Duration) -> None:
        """Set the clock forward; inline, what is due then runs."""
        self._clock.advance(duration)
        if self._inline:
            self.drain()

    def _work(
        self, operations: Operations, queues: tuple[str, ...], raise_errors: bool
    ) -> list[Ran]:
        assert self.database, "within the block"
        ran: list[Ran] = []
        while (one := self._run(operations, queues)) is not None:
            ran.append(one)
            if len(ran) > _LIMIT:
                raise MisuseError(
                    f"{_LIMIT} jobs have run, and there are more: {one.job!r}"
                )
            error = one.error
            if raise_errors and error is not None and not isinstance(error, Verdict):
                raise error
        return ran

    def _run(self, operations: Operations, queues: tuple[str, ...]) -> Ran | None:
        jobs = operations.claim(*queues)
        if not jobs:
            return None
        job = jobs[0]
        settlement = self._app.attempt(job, _wait_in_thread)
        if settlement is None:
            return Ran(job, "done", None)
        if not job.settled:
            settlement.settle(job)
        return Ran(job, settlement.ending, settlement.cause)

    # ---- What was enqueued

    def enqueued(self, task: Definition[Any, Any] | str | None = None) -> list[Job]:
        """The jobs that were enqueued through the app in this block, whether
        they have run or not, each as it was then.

        Args:
            task: only of this task, or of this name.
        """
        name = task.name if isinstance(task, Definition) else task
        with self._lock:
            return [each for each in self._seen if name is None or each.name == name]

    def assert_enqueued(
        self,
        task: Definition[Any, Any] | str,
        *args: Any,
        **kwargs: Any,
    ) -> Job:
        """Assert that a call of a task was enqueued: with these arguments, or,
        when none are given, with whatever arguments.

        Returns:
            The last such job as it was then, for what else is to be asserted:
            ``job.priority``, ``job.queue``, ``job.due_at``.
        """
        found = self._matching(task, args, kwargs)
        if not found:
            raise AssertionError(
                f"{_call(task, args, kwargs)} was not enqueued; "
                f"enqueued was: {self._told()}"
            )
        return found[-1]

    def assert_not_enqueued(
        self,
        task: Definition[Any, Any] | str,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Assert that no such call was enqueued."""
        found = self._matching(task, args, kwargs)
        if found:
            raise AssertionError(
                f"{_call(task, args, kwargs)} was enqueued: {found[-1]!r}"
            )

    def _matching(
        self,
        task: Definition[Any, Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> list[Job]:
        found = self.enqueued(task)
        if not args and not kwargs:
            return found
        if isinstance(task, str):
            task = self._app.tasks[task]
        payload = task._arguments.encode(args, kwargs)
        codec = self.database.codec
        # As it comes back from the database: a tuple as a list.
        kind, data, _ = encode(codec, payload, None)
        raw = data.decode() if isinstance(data, bytes) and kind == 1 else data
        return [
            each
            for each in found
            if each.raw == raw or (kind == 1 and each.data == codec.loads(raw))
        ]

    def _told(self) -> str:
        seen = [f"{each.name}({each.data!r})" for each in self._seen]
        return ", ".join(seen) or "nothing"


def _call(
    task: Definition[Any, Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    name = task if isinstance(task, str) else task.name
    given = [repr(each) for each in args]
    given += [f"{key}={value!r}" for key, value in kwargs.items()]
    return f"{name}({', '.join(given)})"


def _wait_in_thread(awaitable: Any) -> Any:
    """Wait for what an async task gives, also where an event loop runs: in a
    thread, with a loop of its own."""
    import asyncio
    import contextvars

    from ._app import _run

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(awaitable)
    answer: list[Any] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            answer.append((context.run(_run, awaitable), None))
        except BaseException as error:
            answer.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = answer[0]
    if error is not None:
        raise error
    return result


# ---- The plugin ---------------------------------------------------------------

try:
    import pytest
except ImportError:  # pragma: no cover
    pass
else:

    def pytest_addoption(parser: pytest.Parser) -> None:
        parser.addini("dibs_app", "module:app of what dibs_jobs tests", default="")

    @pytest.fixture
    def dibs_testing() -> Iterator[Callable[..., Testing]]:
        """``jobs = dibs_testing(app, inline=False, now=None)``: a ``Testing``
        until the end of the test."""
        with ExitStack() as stack:

            def make(app: App | None = None, **options: Any) -> Testing:
                return stack.enter_context(Testing(app, **options))

            yield make

    @pytest.fixture
    def dibs_jobs(pytestconfig: pytest.Config) -> Iterator[Testing]:
        """A ``Testing`` of the app that the setting ``dibs_app`` names, else of a
        new one."""
        place = pytestconfig.getini("dibs_app")
        with Testing(load(place) if place else None) as testing:
            yield testing
