# SPDX-License-Identifier: MIT
"""What can be done with a database, whether it is dibs's own connection or the
application's."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from . import _dibs
from ._codec import Codec, dumps_json
from ._errors import BY_STATUS, Error
from ._job import (
    ACK,
    DISCARD,
    EXTEND,
    FAIL,
    RELEASE,
    RETRY,
    SNOOZE,
    Job,
)
from ._options import ABSENT, JobOptions, core_options, encode
from ._queue import Queue
from ._time import UNSET, Duration, Moment, milliseconds, moment, to_datetime

if TYPE_CHECKING:
    from typing_extensions import Unpack

_T = TypeVar("_T")

_LEVELS = ("ok", "warning", "error")

#: All queues, where queues are named.
ALL = "*"


class JobId(int):
    """The id of a job, as enqueueing gives it: an ``int``.

    Attributes:
        existing: whether it is a unique job that was there already.
    """

    existing: bool = False


class QueueStats(NamedTuple):
    """How many jobs a queue has in each state."""

    queue: str
    ready: int
    scheduled: int
    blocked: int
    staged: int
    running: int
    done: int
    dead: int
    #: Since when its oldest ready job could have started.
    oldest_ready_at: datetime | None
    paused: bool
    #: Jobs that expired before they started, ever.
    expired: int

    @property
    def unfinished(self) -> int:
        """All but the done and the dead."""
        return self.ready + self.scheduled + self.blocked + self.staged + self.running


class Reason(NamedTuple):
    """Why something is not running."""

    reason: str
    text: str
    #: When that will be over.
    at: datetime | None
    #: Of the job that it waits behind.
    id: int | None


class Finding(NamedTuple):
    """What ``doctor()`` has seen: ``level`` is ok, warning or error."""

    check: str
    level: str
    message: str
    advice: str | None


class Outcome(NamedTuple):
    """What became of one of several jobs."""

    id: int
    #: The state that it is in now; ``None``: it is gone.
    state: str | None
    #: ``None``: it went well.
    error: Error | None


class Redriven(NamedTuple):
    """What ``redrive()`` did."""

    moved: int
    #: Those whose unique key is in use by another job.
    skipped: list[int]


def _stats(counts: tuple[Any, ...]) -> QueueStats:
    queue, ready, scheduled, blocked, staged, running, done, dead = counts[:8]
    oldest, paused, expired = counts[8:]
    return QueueStats(
        queue,
        ready,
        scheduled,
        blocked,
        staged,
        running,
        done,
        dead,
        to_datetime(oldest),
        bool(paused),
        expired,
    )


def _outcome(id: int, status: int, state: str | None, message: str) -> Outcome:
    error = BY_STATUS[status](message) if status else None
    if error is not None:
        error.id = id
    return Outcome(id, state, error)


class Operations:
    """The operations of ``Database`` and of ``Attached``.

    Each is one transaction: it happens whole, or not at all. All raise what
    SQLite's file can bring about (``BusyError``, ``FullError``, ``IoError``,
    ``ReadonlyError``, ``CorruptError``, ``NomemError``), and ``ClosedError`` and
    ``ForkedError``; what else they raise is said with each.
    """

    codec: Codec

    def _call(self, operation: Callable[..., _T], *arguments: Any) -> _T:
        """Call a method of a handle that nobody else is using."""
        raise NotImplementedError

    def _write(self, operation: Callable[..., _T], *arguments: Any) -> _T:
        """The same, of one that writes."""
        return self._call(operation, *arguments)

    def _enqueue(
        self, jobs: builtins.list[tuple[Any, ...]]
    ) -> builtins.list[tuple[int, bool]]:
        results = self._write(_dibs.Handle.enqueue, jobs)
        assert results is not None, "nobody else uses the handle"
        return results

    def _jobs(self, fields: builtins.list[tuple[Any, ...]]) -> builtins.list[Job]:
        return [Job(self, each) for each in fields]

    def _keep(self, receipt: str, lease: int) -> int:
        """Extend a lease from now on; a number, 0 where that is not done."""
        return 0

    def _keep_no_more(self, number: int) -> None:
        """Undo ``_keep()``."""

    # ---- Queues and enqueueing

    def queue(self, name: str = "default") -> Queue:
        """A queue, which need not have been used. ``"thumbs/*"`` is all queues
        below ``thumbs``, ``"*"`` is all: for claiming, listing and counting."""
        return Queue(self, name)

    def enqueue(
        self,
        queue: str,
        payload: Any = ABSENT,
        **options: Unpack[JobOptions],
    ) -> JobId:
        """Enqueue a job: see ``Queue.enqueue()``."""
        return self._enqueue_all(queue, [payload], options)[0]

    def _enqueue_all(
        self, queue: str, payloads: Iterable[Any], options: Any
    ) -> builtins.list[JobId]:
        given = core_options(options) if options else None
        codec = self.codec
        results = self._enqueue(
            [(queue, *encode(codec, each, given)) for each in payloads]
        )
        ids: builtins.list[JobId] = []
        for number, existing in results:
            id = JobId(number)
            if existing:
                id.existing = True
            ids.append(id)
        return ids

    def commit(self, id: int) -> None:
        """Commit a staged job: it takes its place as if enqueued now.

        Raises:
            NotFoundError: there is none.
            StateError: it is not staged.
            LateError: its time ran out, and it is gone.
        """
        self._write(_dibs.Handle.commit, id, False)

    def abort(self, id: int) -> None:
        """Remove a staged job. Raises what ``commit()`` does."""
        self._write(_dibs.Handle.commit, id, True)

    # ---- Claiming

    def _claim_jobs(
        self,
        queues: tuple[str, ...],
        n: int,
        wait: Duration | bool,
        lease: Duration | None,
        worker: str | None,
        in_order: bool,
        detached: bool,
    ) -> builtins.list[Job]:
        raise NotImplementedError

    def _join(self, queues: tuple[str, ...], timeout: Duration | None) -> bool:
        raise NotImplementedError

    def claim(
        self,
        *queues: str,
        n: int = 1,
        wait: Duration | bool = 0,
        lease: Duration | None = None,
        worker: str | None = None,
        in_order: bool = False,
        detached: bool = False,
    ) -> builtins.list[Job]:
        """Claim up to ``n`` jobs of several queues [default], which take turns.

        Args:
            queues: names or patterns.
            n: at most so many, 1 to 10,000.
            in_order: exhaust the queues in the order given instead.
            wait, lease, worker, detached: see ``Queue.claim()``.
        """
        return self._claim_jobs(queues, n, wait, lease, worker, in_order, detached)

    def peek(self, *queues: str, n: int = 1) -> builtins.list[Job]:
        """The jobs that a claim would give next, without claiming them."""
        return self._jobs(self._call(_dibs.Handle.peek, queues, n))

    # ---- Settling

    def _settle(
        self,
        job: Job | str,
        action: int,
        delay: Duration | None = None,
        lease: Duration | None = None,
        error: str | None = None,
        result: Any = None,
    ) -> tuple[str, int | None]:
        receipt = job._held() if isinstance(job, Job) else job
        outcome = self._write(
            _dibs.Handle.settle_one,
            receipt,
            action,
            milliseconds(delay, "delay"),
            milliseconds(lease, "lease"),
            clean(error),
            None if result is None else dumps_json(result),
        )
        if isinstance(job, Job) and action != EXTEND:
            job._settled = self
        return outcome

    def ack(self, job: Job | str, result: Any = None) -> None:
        """A job is done: see ``Job.ack()``. ``job`` is the job or its receipt,
        in this and the following methods; it may have been claimed by another
        handle: so a job is acked in the application's own transaction."""
        self._settle(job, ACK, result=result)

    def retry(
        self,
        job: Job | str,
        delay: Duration | None = None,
        error: str | None = None,
    ) -> str:
        """See ``Job.retry()``."""
        return self._settle(job, RETRY, delay=delay, error=error)[0]

    def fail(self, job: Job | str, error: str | None = None) -> None:
        """See ``Job.fail()``."""
        self._settle(job, FAIL, error=error)

    def release(self, job: Job | str) -> None:
        """See ``Job.release()``."""
        self._settle(job, RELEASE)

    def snooze(self, job: Job | str, delay: Duration) -> None:
        """See ``Job.snooze()``."""
        self._settle(job, SNOOZE, delay=delay)

    def discard(self, job: Job | str, error: str | None = None) -> None:
        """See ``Job.discard()``."""
        self._settle(job, DISCARD, error=error)

    def extend(self, job: Job | str, lease: Duration | None = None) -> datetime:
        """See ``Job.extend()``."""
        if lease is None:
            lease = (job.lease if isinstance(job, Job) else None) or 60
        until = self._settle(job, EXTEND, lease=lease)[1]
        return to_datetime(until)  # type: ignore[return-value]

    def ack_many(self, jobs: Iterable[Job | str]) -> builtins.list[Outcome]:
        """Ack several in one transaction. Each has an outcome of its own: every
        good one is acked, whatever becomes of the others."""
        given = list(jobs)
        results = self._write(
            _dibs.Handle.settle,
            [
                (
                    each._held() if isinstance(each, Job) else each,
                    ACK,
                    UNSET,
                    UNSET,
                    None,
                    None,
                )
                for each in given
            ],
        )
        for job, result in zip(given, results):
            if isinstance(job, Job) and not result[0]:
                job._settled = self
        return [
            _outcome(id, status, state, message)
            for status, state, id, _, message in results
        ]

    def checkpoint(
        self, job: Job | str, data: Any, *, lease: Duration | None = None
    ) -> None:
        """See ``Job.checkpoint()``."""
        receipt = job._held() if isinstance(job, Job) else job
        kind, payload, _ = encode(self.codec, data, None)
        self._write(
            _dibs.Handle.checkpoint,
            receipt,
            kind,
            payload,
            milliseconds(lease, "lease"),
        )

    def progress(self, job: Job | str, done: float, text: str | None = None) -> None:
        """See ``Job.progress()``."""
        receipt = job._held() if isinstance(job, Job) else job
        self._write(_dibs.Handle.progress, receipt, done, text)

    # ---- Looking

    def get(self, id: int) -> Job:
        """The job of that id, in whatever state, with its errors.

        Raises:
            NotFoundError: there is none: it never was, or it is done and was
                not kept.
        """
        return Job(self, self._call(_dibs.Handle.get, id)[0])

    def list(
        self,
        *queues: str,
        state: str | None = None,
        name: str | None = None,
        after: int = 0,
        limit: int = 100,
        payloads: bool = True,
    ) -> builtins.list[Job]:
        """Jobs by id, of these queues [all].

        Args:
            queues: names or patterns.
            state: only those in this state.
            name: only those of this name.
            after: only ids above; the last id of a page gives the next one.
            limit: at most so many.
            payloads: whether to read them.
        """
        return self._jobs(
            self._call(
                _dibs.Handle.list,
                queues,
                state,
                name,
                after,
                limit,
                not payloads,
            )
        )

    def stats(self, *queues: str) -> builtins.list[QueueStats]:
        """Counts of these queues [all], by name. One that is named is there
        even if nobody ever used it."""
        return [_stats(each) for each in self._call(_dibs.Handle.stats, queues)]

    def explain(self, what: int | str) -> builtins.list[Reason]:
        """Why a job, by its id, or what waits in a queue, by its name, is not
        running. The first reason is the one to see to.

        Raises:
            NotFoundError: there is no such job.
        """
        return [
            Reason(reason, text, to_datetime(at), id or None)
            for reason, text, at, id in self._call(_dibs.Handle.explain, what)
        ]

    def next_event(self) -> datetime | None:
        """When something will next become claimable or need attention without
        anybody doing anything: a due time, the end of a lease, an expiry."""
        return to_datetime(self._call(_dibs.Handle.next_event))

    def doctor(self, *, thorough: bool = False) -> builtins.list[Finding]:
        """Check library, file, settings, tables and queues.

        Args:
            thorough: SQLite's integrity check too, which reads the whole file.
        """
        return [
            Finding(check, _LEVELS[level], message, advice)
            for check, level, message, advice in self._call(
                _dibs.Handle.doctor, thorough
            )
        ]

    # ---- Changing

    def cancel(self, *ids: int) -> builtins.list[Outcome]:
        """Cancel jobs: waiting, running or dead ones become done, cancelled. The
        holder of a running one is told, and gets ``LostError``.

        Returns:
            An outcome for each: ``NotFoundError``, or ``StateError`` when it is
            done already.
        """
        results = self._write(_dibs.Handle.cancel, ids)
        return [_outcome(id, *each) for id, each in zip(ids, results)]

    def change(
        self,
        id: int,
        *,
        priority: int | None = None,
        delay: Duration | None = None,
        at: Moment | None = None,
    ) -> None:
        """Change a job that has not begun.

        Raises:
            NotFoundError: there is none.
            StateError: it is running, done or dead.
        """
        self._write(
            _dibs.Handle.change,
            id,
            UNSET if priority is None else priority,
            milliseconds(delay, "delay"),
            moment(at, "at"),
        )

    def pause(self, *queues: str) -> int:
        """Pause queues: their waiting jobs stay as they are, running ones go on.
        Returns how many were changed."""
        return self._write(_dibs.Handle.pause, queues)

    def resume(self, *queues: str) -> int:
        """Undo ``pause()``."""
        return self._write(_dibs.Handle.resume, queues)

    def clear(self, *queues: str, dead: bool = False) -> int:
        """Remove all waiting jobs of these queues, and with ``dead`` the dead
        letters too. Running and kept jobs stay. ``"*"`` is all queues.

        Returns:
            How many were removed.
        """
        return self._write(_dibs.Handle.clear, queues, dead)

    def prune(self) -> int:
        """Remove finished jobs whose time of keeping is over. Workers do that
        by the way. Returns how many."""
        return self._write(_dibs.Handle.prune)

    @property
    def dead(self) -> DeadLetters:
        """The dead letters."""
        return DeadLetters(self)

    # ---- About it

    def now(self) -> datetime:
        """The time by its clock."""
        return to_datetime(  # type: ignore[return-value]
            self._call(_dibs.Handle.facts)[0]
        )

    @property
    def schema_version(self) -> int:
        """Of the tables."""
        return self._call(_dibs.Handle.facts)[1]

    @property
    def sqlite_version(self) -> str:
        """Of the library in use, ``"3.40.1"``."""
        return self._call(_dibs.Handle.facts)[2]


class DeadLetters:
    """The jobs that failed for good: ``db.dead``."""

    __slots__ = ("_database",)

    def __init__(self, database: Operations) -> None:
        self._database = database

    def __repr__(self) -> str:
        return f"<dibs.DeadLetters of {self._database!r}>"

    def list(
        self, *queues: str, after: int = 0, limit: int = 100
    ) -> builtins.list[Job]:
        """The dead jobs of these queues [all], by id."""
        return self._database.list(*queues, state="dead", after=after, limit=limit)

    def requeue(self, *ids: int) -> builtins.list[Outcome]:
        """Chosen ones back to work, with their id, age and errors, and their
        attempts at 0.

        Returns:
            An outcome for each: ``NotFoundError``, ``StateError`` for one that
            is not dead, ``ExistsError`` when its unique key is in use.
        """
        results = self._database._write(_dibs.Handle.requeue, ids)
        return [_outcome(id, *each) for id, each in zip(ids, results)]

    def redrive(self, *queues: str) -> Redriven:
        """All of these queues back to work. ``"*"`` is all queues."""
        return Redriven(*self._database._write(_dibs.Handle.redrive, queues))

    def purge(self, *queues: str) -> int:
        """Remove all of these queues. ``"*"`` is all queues. Returns how
        many."""
        return self._database._write(_dibs.Handle.purge, queues)


def clean(error: str | None) -> str | None:
    """The text of an error, whatever is in it."""
    if error is None:
        return None
    if not isinstance(error, str):
        raise TypeError(f"error: a str is wanted, not {type(error).__name__}")
    return error.replace("\0", "\\0").encode("utf-8", "replace").decode()


def add_stats(name: str, stats: Iterable[QueueStats]) -> QueueStats:
    """The sum of several queues' counts."""
    all = list(stats)
    if len(all) == 1:
        return all[0]
    oldest = [each.oldest_ready_at for each in all if each.oldest_ready_at]
    return QueueStats(
        name,
        sum(each.ready for each in all),
        sum(each.scheduled for each in all),
        sum(each.blocked for each in all),
        sum(each.staged for each in all),
        sum(each.running for each in all),
        sum(each.done for each in all),
        sum(each.dead for each in all),
        min(oldest, default=None),
        bool(all) and min(each.paused for each in all),
        sum(each.expired for each in all),
    )
