# SPDX-License-Identifier: MIT
"""A queue of a database."""

from __future__ import annotations

import builtins
import json
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from . import _dibs
from ._job import Job
from ._options import ABSENT, JobOptions, setting
from ._time import FOREVER, Duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._operations import JobId, Operations, QueueStats, Reason, Redriven


class Queue:
    """A queue by its name, or several by a pattern: ``db.queue("emails")``.

    It holds nothing but the name: make as many as you like.
    """

    __slots__ = ("_database", "_name")

    def __init__(self, database: Operations, name: str) -> None:
        self._database = database
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def database(self) -> Operations:
        return self._database

    def __repr__(self) -> str:
        return f"<dibs.Queue {self._name!r} of {self._database!r}>"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Queue)
            and other._database is self._database
            and other._name == self._name
        )

    def __hash__(self) -> int:
        return hash((id(self._database), self._name))

    # ---- Enqueueing

    def enqueue(self, payload: Any = ABSENT, **options: Unpack[JobOptions]) -> JobId:
        """Enqueue a job. When this returns, it is committed; on an attached
        connection, it is a part of the application's transaction.

        Args:
            payload: what JSON can hold, or ``bytes``, which stay bytes. Not
                given: none.
            options: see ``dibs.JobOptions``.

        Returns:
            Its id, an ``int``; that of the unique job that is there already has
            ``existing`` set.

        Raises:
            TypeError, ValueError: the payload is nothing for the codec.
            InvalidError: a name, the payload or an option.
            TooBigError: the payload or the headers are over their limit.
            ExistsError: a unique job is there, and ``on_conflict`` is
                ``"reject"``.
        """
        return self._database._enqueue_all(self._name, (payload,), options)[0]

    def enqueue_many(
        self, payloads: Iterable[Any], **options: Unpack[JobOptions]
    ) -> builtins.list[JobId]:
        """Enqueue a job for each payload, with the same options, in one
        transaction: all or none. Ten thousand are fine.

        Returns:
            Their ids, in the order of the payloads.

        Raises:
            Error: as ``enqueue()``; ``index`` tells which payload it is.
        """
        return self._database._enqueue_all(self._name, payloads, options)

    # ---- Claiming

    def claim(
        self,
        *,
        wait: Duration | bool = 0,
        lease: Duration | None = None,
        worker: str | None = None,
        detached: bool = False,
    ) -> Job | None:
        """Claim the next job, by priority and age.

        Args:
            wait: how long to wait for one: a ``timedelta`` or seconds; ``True``
                or ``FOREVER``: without end [not at all].
            lease: how long to hold it: settle or extend it before that is over;
                ``with job:`` extends it [what the job says, or 60 s].
            worker: a name to record.
            detached: others work on the job, so it is not given back when this
                process dies, but when the lease is over.

        Returns:
            The job, or ``None`` when there is none.

        Raises:
            InterruptedError: ``Database.interrupt()`` was called.
            Exception: what a signal handler raises: Ctrl-C ends a wait at once.
        """
        jobs = self._database._claim_jobs(
            (self._name,), 1, wait, lease, worker, False, detached
        )
        return jobs[0] if jobs else None

    def claim_many(
        self,
        n: int,
        *,
        wait: Duration | bool = 0,
        lease: Duration | None = None,
        worker: str | None = None,
        detached: bool = False,
    ) -> builtins.list[Job]:
        """Claim up to ``n`` jobs, 1 to 10,000: as many as there are, once there
        is one. Otherwise as ``claim()``."""
        return self._database._claim_jobs(
            (self._name,), n, wait, lease, worker, False, detached
        )

    @contextmanager
    def consume(
        self,
        *,
        wait: Duration | bool = 0,
        lease: Duration | None = None,
        worker: str | None = None,
    ) -> Generator[Job | None, None, None]:
        """Claim a job for the length of a block, ``None`` when there is none::

            with q.consume() as job:
                if job:
                    send(job.data)

        Ack at the end; on an exception retry, and the exception goes on.
        """
        job = self.claim(wait=wait, lease=lease, worker=worker)
        if job is None:
            yield None
            return
        with job:
            yield job

    def jobs(
        self,
        *,
        wait: Duration | bool = FOREVER,
        lease: Duration | None = None,
        worker: str | None = None,
    ) -> Iterator[Job]:
        """The jobs of the queue, one after the other, as they come::

            for job in q.jobs():
                with job:
                    send(job.data)

        It sleeps until a commit, by whatever process, brings a job. A block that
        raises an ``Exception`` does not end the loop: the job is retried, the
        error is kept with it and logged.

        Args:
            wait: end when none comes for so long [never].
            lease: how long to hold each [what the job says, or 60 s].
            worker: a name to record.
        """
        while True:
            jobs = self._database._claim_jobs(
                (self._name,), 1, wait, lease, worker, False, False
            )
            if not jobs:
                return
            jobs[0]._swallow = True
            yield jobs[0]

    def peek(self, n: int = 1) -> builtins.list[Job]:
        """The jobs that a claim would give next, without claiming them."""
        return self._database.peek(self._name, n=n)

    # ---- Looking

    def list(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        after: int = 0,
        limit: int = 100,
        payloads: bool = True,
    ) -> builtins.list[Job]:
        """Its jobs by id: see ``Database.list()``."""
        return self._database.list(
            self._name,
            state=state,
            name=name,
            after=after,
            limit=limit,
            payloads=payloads,
        )

    def stats(self) -> QueueStats:
        """How many jobs it has in each state; of a pattern, the sum."""
        from ._operations import add_stats

        return add_stats(self._name, self._database.stats(self._name))

    def explain(self) -> builtins.list[Reason]:
        """Why what waits in it is not running."""
        return self._database.explain(self._name)

    def join(self, timeout: Duration | None = None) -> bool:
        """Wait until it has no unfinished job: none that is ready, scheduled,
        blocked, staged or running.

        Args:
            timeout: how long at most [without end].

        Returns:
            Whether that is so: ``False`` when the timeout is over.
        """
        return self._database._join((self._name,), timeout)

    # ---- Changing

    def pause(self) -> int:
        """Its waiting jobs stay as they are; running ones go on."""
        return self._database.pause(self._name)

    def resume(self) -> int:
        """Undo ``pause()``."""
        return self._database.resume(self._name)

    def clear(self, *, dead: bool = False) -> int:
        """Remove its waiting jobs, and with ``dead`` its dead letters. Returns
        how many."""
        return self._database.clear(self._name, dead=dead)

    def redrive(self) -> Redriven:
        """Its dead letters back to work."""
        return self._database.dead.redrive(self._name)

    def set(self, **settings: Any) -> None:
        """Set it, at once and for all processes. ``None`` takes a setting back.

        Args:
            settings: ``limit``, ``limit_per_key`` (how many may run at a time),
                ``rate``, ``rate_per_key`` (how many may start in a period:
                ``"10/1s"``, or ``(10, 1.0)``), ``burst``, ``dead_head``,
                ``keep_count``, and job options, as defaults of jobs that are
                enqueued from then on.

        Raises:
            InvalidError: a setting that there is not, or a value.
        """
        self._database._write(
            _dibs.Handle.queue_set,
            self._name,
            {name: setting(name, value) for name, value in settings.items()},
        )

    def settings(self) -> dict[str, Any]:
        """What it is set to: ``queue``, ``paused``, and the settings that it
        has, as ``dibs queue show --json`` shows them."""
        text = self._database._call(_dibs.Handle.queue_show, self._name)
        return json.loads(text)  # type: ignore[no-any-return]
