# SPDX-License-Identifier: MIT
"""What a worker needs besides its handlers: it claims ahead, keeps leases from a
thread of its own, whatever the GIL, and settles many jobs in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _dibs
from ._codec import dumps_json
from ._errors import BY_STATUS, Error
from ._job import ACK, Job, error_text
from ._operations import clean
from ._time import Duration, milliseconds, wait_milliseconds

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._database import Database


class Settled(NamedTuple):
    """What became of a job that was given to ``Engine.finish()``."""

    job: EngineJob
    #: The state that it is in now; ``None``: it is gone, or nothing was changed.
    state: str | None
    #: ``None``: it went well.
    error: Error | None


class EngineJob(Job):
    """A job that an engine holds: its lease is extended until it is settled."""

    __slots__ = ("_engine", "_run")

    def __init__(self, database: Database, engine: Engine, run: _dibs.Run) -> None:
        super().__init__(database, run.fields)
        self._engine = engine
        self._run = run

    @property
    def final(self) -> bool:
        return self._run.final

    def _flags(self) -> int:
        return self._run.flags

    def _keep(self) -> None:
        self._held()  # and kept by the engine

    def _end(
        self,
        action: int,
        *,
        delay: Duration | None = None,
        error: str | None = None,
        result: Any = None,
    ) -> str:
        state, _ = self._engine._native.settle(
            self._run,
            action,
            milliseconds(delay, "delay"),
            clean(error),
            None if result is None else dumps_json(result),
        )
        self._settled = self._database
        return state

    def _exit_well(self) -> bool:
        ended = super()._exit_well()
        if not self._run.ended:
            # It was acked by its receipt, in the application's transaction: the
            # engine has to hear that its slot is free.
            self._engine._native.finish(self._run, ACK, _dibs.UNSET, None, None)
        return ended


class Engine:
    """Gives the jobs of some queues to whoever calls ``next()``: any number of
    threads, or an event loop::

        with db.engine("emails", slots=8) as engine:
            while (job := engine.next()) is not None:
                with job:
                    send(job.data)

    An engine has a connection of its own. It does not survive a fork.

    Args:
        database: where the jobs are.
        queues: names or patterns [default].
        slots: how many jobs are held at a time.
        lease: how long a job is held without a sign of life [15 s]; it is
            extended when a third is over.
        worker: a name to record.
        in_order: exhaust the queues in the order given, instead of taking turns.
        drain: end once there is nothing to claim while no job is unsettled.
        max_jobs: end behind so many jobs.
        events: for event loops: ``fileno()`` and ``settled()``.
    """

    def __init__(
        self,
        database: Database,
        queues: Sequence[str] = (),
        *,
        slots: int = 1,
        lease: Duration | None = None,
        worker: str | None = None,
        in_order: bool = False,
        drain: bool = False,
        max_jobs: int | None = None,
        events: bool = False,
    ) -> None:
        database._check()
        self._database = database
        self._finishing: dict[int, EngineJob] = {}
        self._events = events
        self._native = _dibs.Engine(
            database._file,
            {**database._settings, "create": 2},
            database._library,
            {
                "queues": tuple(queues),
                "slots": slots,
                "lease": milliseconds(lease, "lease"),
                "worker": worker,
                "in_order": int(in_order),
                "drain": int(drain),
                "max_jobs": max_jobs,
                "events": int(events),
            },
        )

    def next(self, timeout: Duration | None = None) -> EngineJob | None:
        """The next job, waiting for one.

        Args:
            timeout: how long at most [without end]; 0: not at all.

        Returns:
            The job, or ``None`` when none came, or all slots are taken.

        Raises:
            ClosedError: none will come: the engine was stopped, or has come to
                the end that ``drain`` or ``max_jobs`` sets.
            InterruptedError: ``interrupt()`` was called.
            Exception: what a signal handler raises, in the main thread.
        """
        run = self._native.next(wait_milliseconds(timeout, "timeout"))
        return None if run is None else EngineJob(self._database, self, run)

    def finish(
        self,
        job: EngineJob,
        action: int = ACK,
        *,
        delay: Duration | None = None,
        error: str | BaseException | None = None,
        result: Any = None,
    ) -> None:
        """The job is finished; it is settled with whatever else is, soon, in one
        transaction. ``job.ack()`` and the others wait for that instead.

        Args:
            job: from ``next()``.
            action: what is to become of it: ``ACK``, ``RETRY``, ``FAIL``,
                ``RELEASE``, ``SNOOZE`` or ``DISCARD`` of ``dibs._job``.
            delay: of a retry or a snooze.
            error: why; an exception with its traceback.
            result: of an ack.
        """
        text = error_text(error) if isinstance(error, BaseException) else error
        if self._events:
            self._finishing[job._run.number] = job
        try:
            self._native.finish(
                job._run,
                action,
                milliseconds(delay, "delay"),
                clean(text),
                None if result is None else dumps_json(result),
            )
        except BaseException:
            self._finishing.pop(job._run.number, None)
            raise
        job._settled = self._database

    def fileno(self) -> int:
        """With ``events``: a descriptor that is readable when ``next(0)`` would
        give a job, a running one has been lost, cancelled or is out of time, or
        ``settled()`` has something to tell, which also empties it."""
        return self._native.fileno()

    def settled(self) -> list[Settled]:
        """With ``events``: the jobs given to ``finish()`` that have been settled
        since the last call."""
        told: list[Settled] = []
        for number, status, state, message in self._native.settled():
            job = self._finishing.pop(number, None)
            if job is not None:
                error = BY_STATUS[status](message) if status else None
                if error is not None:
                    error.id = job.id
                told.append(Settled(job, state, error))
        return told

    def interrupt(self) -> None:
        """Make all ``next()`` raise ``InterruptedError``, from now on."""
        self._native.interrupt()

    def stop_begin(self) -> None:
        """Claim no more, give back what nobody has begun, and return at once.
        Jobs go on."""
        self._native.stop_begin()

    def stop(self, grace: Duration = 30) -> int:
        """Claim no more, and wait up to ``grace`` until all jobs are settled.
        What is not settled then is given back, without an attempt being counted;
        settling it raises ``LostError``.

        Returns:
            How many those are.
        """
        return self._native.stop(wait_milliseconds(grace, "grace"))

    def close(self) -> None:
        """Stop without grace, unless stopped before, and free everything. No
        other thread may be in a call."""
        self._native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<dibs.Engine of {self._database!r}>"
