# SPDX-License-Identifier: MIT
"""Opening a database, and attaching to a connection of the application.

A ``Database`` has a handle of the core for each call that is under way, and
keeps those that are idle: so threads do not wait for each other, an interrupt
reaches the waits that are meant, and an error's text is that of the call that
failed. Enqueues are the exception: they go through one handle, on which those of
several threads share a commit.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from . import _dibs, _library
from ._codec import JSON_CODEC, Codec
from ._engine import Engine
from ._errors import (
    ClosedError,
    EmptyError,
    ForkedError,
    InterruptedError,
    InvalidError,
    JobFailedError,
    MisuseError,
)
from ._job import Job
from ._operations import Operations
from ._time import Duration, milliseconds, wait_milliseconds

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T")

_CREATE = {True: 0, "file": 1, False: 2}
_SYNCHRONOUS = {"full": 0, "normal": 1}
_WAKE = {"auto": 0, "portable": 1}
_memory_numbers = itertools.count(1)


class Clock(_dibs.Clock):
    """A clock that stands until it is set, for tests::

    clock = dibs.Clock(1_700_000_000)
    db = dibs.open(":memory:", clock=clock)
    db.queue().enqueue(delay=60)
    clock.advance(60)
    """

    def __init__(self, seconds: float) -> None:
        self.now = round(seconds * 1000)

    def advance(self, duration: Duration) -> None:
        """Set it forward."""
        self.now += milliseconds(duration, "duration")

    def __repr__(self) -> str:
        return f"<dibs.Clock at {self.now / 1000}>"


def _choice(name: str, value: Any, choices: dict[Any, int]) -> int:
    try:
        return choices[value]
    except (KeyError, TypeError):
        allowed = ", ".join(repr(each) for each in choices)
        raise InvalidError(f"{name}: {value!r} is none of {allowed}") from None


class Database(Operations):
    """A database with queues, from ``dibs.open()``.

    All threads of a process may use it. It does not survive a fork: in the child
    each call raises ``ForkedError``. As a context manager it is closed at the
    end of the block.
    """

    def __init__(
        self,
        path: str,
        settings: dict[str, Any],
        library: _dibs.Provider,
        codec: Codec,
    ) -> None:
        self.codec = codec
        self._path = path
        self._settings = settings
        self._library = library
        self._pid = os.getpid()
        self._closed = False
        self._lock = threading.Lock()
        self._waiting: set[_dibs.Handle] = set()
        self._idle: list[_dibs.Handle] = []
        self._file = path
        if path in (":memory:", ""):
            number = next(_memory_numbers)
            self._file = f"file:/dibs-{self._pid}-{number}?vfs=memdb"
        self._shared = _dibs.Handle(self._file, settings, library)
        self._keeper = _dibs.Keeper(self._file, {**settings, "create": 2}, library)

    # ---- Handles

    def _call(self, operation: Callable[..., _T], *arguments: Any) -> _T:
        try:
            handle = self._idle.pop()
        except IndexError:
            handle = self._open_handle()
        try:
            return operation(handle, *arguments)
        finally:
            self._idle.append(handle)
            if self._closed:
                self._close_idle()

    def _open_handle(self) -> _dibs.Handle:
        self._check()
        return _dibs.Handle(self._file, {**self._settings, "create": 2}, self._library)

    def _check(self) -> None:
        if self._closed:
            raise ClosedError(f"{self._path} is closed")
        if self._pid != os.getpid():
            raise ForkedError(
                f"{self._path} was opened before a fork: open it again in the child"
            )

    def _wait(self, operation: Callable[..., _T], *arguments: Any) -> _T:
        """Call a method that may wait, so that close() and interrupt() reach
        it."""

        def wait(handle: _dibs.Handle) -> _T:
            with self._lock:
                self._check()
                handle.arm()
                self._waiting.add(handle)
            try:
                return operation(handle, *arguments)
            except InterruptedError:
                self._check()
                raise
            finally:
                self._waiting.discard(handle)

        return self._call(wait)

    def _enqueue(self, jobs: list[tuple[Any, ...]]) -> list[tuple[int, bool]]:
        if self._closed:
            self._check()
        try:
            results = self._shared.enqueue(jobs)
        finally:
            if self._closed:
                self._close_shared()
        if results is None:
            # It failed for something about these jobs, and what, another
            # thread's enqueue has overwritten: nothing was done, so once more.
            results = self._call(_dibs.Handle.enqueue, jobs)
            assert results is not None, "nobody else uses the handle"
        return results

    def _close_idle(self) -> None:
        while True:
            try:
                handle = self._idle.pop()
            except IndexError:
                return
            handle.close()

    def _close_shared(self) -> None:
        # While another thread's enqueue is under way: that closes it.
        with contextlib.suppress(MisuseError):
            self._shared.close()

    def _keep(self, receipt: str, lease: int) -> int:
        return self._keeper.add(receipt, lease)

    def _keep_no_more(self, number: int) -> None:
        self._keeper.drop(number)

    # ---- Waiting

    def _claim_jobs(
        self,
        queues: tuple[str, ...],
        n: int,
        wait: Duration | bool,
        lease: Duration | None,
        worker: str | None,
        in_order: bool,
        detached: bool,
    ) -> list[Job]:
        arguments = (
            queues,
            n,
            milliseconds(lease, "lease"),
            wait_milliseconds(wait, "wait"),
            worker,
            in_order,
            not detached,
        )
        call = self._wait if arguments[3] else self._call
        return self._jobs(call(_dibs.Handle.claim, *arguments))

    def _join(self, queues: tuple[str, ...], timeout: Duration | None) -> bool:
        return self._wait(
            _dibs.Handle.join, queues, wait_milliseconds(timeout, "timeout")
        )

    def join(self, *queues: str, timeout: Duration | None = None) -> bool:
        """Wait until these queues have no unfinished job: see
        ``Queue.join()``."""
        return self._join(queues, timeout)

    def wait(self, id: int, timeout: Duration | None = None) -> Job | None:
        """Wait until a job has ended.

        Args:
            id: of the job.
            timeout: how long at most [without end].

        Returns:
            The job, done or dead; ``None`` when it is done and was not kept.

        Raises:
            NotFoundError: it is not there: it never was, or it had ended before
                this call and was not kept.
            EmptyError: the timeout is over; also a ``TimeoutError``.
            InterruptedError: ``interrupt()`` was called.
        """
        found = self._wait(
            _dibs.Handle.await_job, id, wait_milliseconds(timeout, "timeout")
        )
        if found is None:
            error = EmptyError(f"job {id} has not ended within {timeout} s")
            error.id = id
            raise error
        return Job(self, found[1][0]) if found[1] else None

    def result(self, id: int, timeout: Duration | None = None) -> Any:
        """Wait until a job has ended, and give what it was acked with: kept only
        of jobs that are kept (``keep=``), else ``None``.

        Raises:
            JobFailedError: it is dead, or done without being acked.
            Error: what ``wait()`` raises.
        """
        return job_result(id, self.wait(id, timeout))

    def engine(
        self,
        *queues: str,
        slots: int = 1,
        lease: Duration | None = None,
        worker: str | None = None,
        in_order: bool = False,
        drain: bool = False,
        max_jobs: int | None = None,
    ) -> Engine:
        """What a worker runs on: see ``dibs.Engine``."""
        return Engine(
            self,
            queues,
            slots=slots,
            lease=lease,
            worker=worker,
            in_order=in_order,
            drain=drain,
            max_jobs=max_jobs,
        )

    def interrupt(self) -> None:
        """Make the waits that are under way, in all threads, raise
        ``InterruptedError``."""
        with self._lock:
            for handle in self._waiting:
                handle.interrupt()

    # ---- About it

    def close(self) -> None:
        """Close it; harmless when it is. Waits that are under way in other
        threads raise ``ClosedError``.

        Raises:
            ForkedError: it was opened before a fork: its parent closes it.
        """
        if self._closed:
            return
        if self._pid != os.getpid():
            self._check()
        with self._lock:
            self._closed = True
            for handle in self._waiting:
                handle.interrupt()
        self._keeper.close()
        self._close_idle()
        self._close_shared()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def path(self) -> str:
        """As it was opened."""
        return self._path

    @property
    def created(self) -> bool:
        """Whether opening it made the tables."""
        self._check()
        return self._shared.facts()[3]

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        closed = " closed" if self._closed else ""
        return f"<dibs.Database {self._path!r}{closed}>"


class Attached(Operations):
    """A connection of the application, from ``dibs.attach()``: what is done
    through it is a part of the application's transaction.

    Only for the thread that may use the connection. It cannot wait for jobs:
    that is for a database from ``dibs.open()``, as is a worker; such a job can be
    acked here::

        for job in db.queue("orders").jobs():
            with job, connection:
                connection.execute("INSERT INTO orders ...")
                dibs.attach(connection).ack(job)

    ``sqlite3`` begins a transaction before each INSERT, UPDATE and DELETE when
    none is open, unless the connection's ``isolation_level`` is ``None``; so
    does what writes here. ``connection.commit()`` commits both.
    """

    def __init__(self, connection: Any, handle: _dibs.Handle, codec: Codec):
        self.codec = codec
        self._connection = connection
        self._handle = handle
        self._begins = isinstance(connection, sqlite3.Connection)

    @property
    def connection(self) -> Any:
        """The application's."""
        return self._connection

    def _check(self) -> None:
        """Raises what the connection raises when it is closed, or belongs to
        another thread."""
        _library.check(self._connection)

    def _call(self, operation: Callable[..., _T], *arguments: Any) -> _T:
        self._check()
        return operation(self._handle, *arguments)

    def _write(self, operation: Callable[..., _T], *arguments: Any) -> _T:
        self._check()
        if self._begins and not self._connection.in_transaction:
            self._begin()
        return operation(self._handle, *arguments)

    def _begin(self) -> None:
        """As sqlite3 does before a statement that writes."""
        level = self._connection.isolation_level
        if level is not None and getattr(self._connection, "autocommit", -1) in (
            -1,
            False,
        ):
            self._connection.execute(f"BEGIN {level}")

    def _claim_jobs(
        self,
        queues: tuple[str, ...],
        n: int,
        wait: Duration | bool,
        lease: Duration | None,
        worker: str | None,
        in_order: bool,
        detached: bool,
    ) -> list[Job]:
        if wait_milliseconds(wait, "wait"):
            raise _cannot_wait()
        return self._jobs(
            self._write(
                _dibs.Handle.claim,
                queues,
                n,
                milliseconds(lease, "lease"),
                0,
                worker,
                in_order,
                not detached,
            )
        )

    def _join(self, queues: tuple[str, ...], timeout: Duration | None) -> bool:
        raise _cannot_wait()

    def __repr__(self) -> str:
        return f"<dibs.Attached {self._connection!r}>"


def job_result(id: int, job: Job | None) -> Any:
    """What a job that has ended was acked with."""
    if job is None:
        return None
    if job.state == "dead" or job.outcome not in (None, "acked"):
        error = JobFailedError(
            f"job {id} is {job.outcome or job.state}"
            + (f": {job.last_error}" if job.last_error else "")
        )
        error.id = id
        error.job = job
        raise error
    return job.result


def _cannot_wait() -> MisuseError:
    return MisuseError(
        "an attached connection cannot wait, because it is the application's: "
        "wait on a database from dibs.open()"
    )


# ---- Opening ----------------------------------------------------------------


def open(
    path: str | os.PathLike[str] = ":memory:",
    *,
    create: bool | Literal["file"] = True,
    synchronous: Literal["full", "normal"] = "full",
    keep_journal_mode: bool = False,
    wake: Literal["auto", "portable"] = "auto",
    busy_timeout: Duration | None = None,
    max_payload: int | None = None,
    codec: Codec = JSON_CODEC,
    clock: Clock | None = None,
    library: str = "sqlite3",
    two_libraries: bool = False,
) -> Database:
    """Open a database, and make the tables that dibs needs in it.

    Args:
        path: the application's SQLite file, or one of its own; ``":memory:"`` is
            in memory and ends with the ``Database``; an SQLite URI.
        create: make file and tables, or migrate them; ``"file"``: make tables
            only in a file that is new; ``False``: make nothing.
        synchronous: ``"full"``: a power cut loses nothing that returned;
            ``"normal"``: it may lose the last commits. A killed process loses
            nothing in either case.
        keep_journal_mode: do not switch the file to WAL.
        wake: ``"portable"`` looks whether the file has changed, and makes no
            file beside it.
        busy_timeout: how long to wait for another writer [30 s].
        max_payload: bytes [64 MiB].
        codec: what payloads are made of [JSON].
        clock: another clock, for tests.
        library: the module whose SQLite is used, ``"sqlite3"`` or ``"apsw"``:
            the one through which the application opens the same file.
        two_libraries: do not refuse a file that this process has open through
            another SQLite library, which loses data.

    Raises:
        SchemaError: no tables, and none are to be made; no SQLite database;
            tables of a newer version.
        IoError: the path cannot be reached.
        ReadonlyError: tables are missing, and the file cannot be written.
        LibraryError: this SQLite cannot be used, or another one of this process
            has the file open.
        Error: ``BusyError``, ``FullError``, ``CorruptError``, ``NomemError``,
            ``InvalidError``.
    """
    settings: dict[str, Any] = {
        "create": _choice("create", create, _CREATE),
        "synchronous": _choice("synchronous", synchronous, _SYNCHRONOUS),
        "keep_journal_mode": int(keep_journal_mode),
        "wake": _choice("wake", wake, _WAKE),
        "busy_timeout": milliseconds(busy_timeout, "busy_timeout"),
        "max_payload": max_payload,
        "two_libraries": int(two_libraries),
        "clock": clock,
    }
    found = _library.provider(library)
    return Database(os.fspath(path), settings, found, codec)


def attach(
    connection: Any,
    *,
    create: bool = True,
    codec: Codec = JSON_CODEC,
    clock: Clock | None = None,
    max_payload: int | None = None,
) -> Attached:
    """Use dibs on a connection of the application: enqueue, settle and look
    within its transaction, or, when none is open, see ``Attached``.

    The connection's settings, hooks and handlers stay as they are. Attaching
    costs some microseconds, also when done again for the same connection.

    Args:
        connection: a ``sqlite3.Connection``, an ``apsw.Connection``, a
            connection or a session of SQLAlchemy, or ``django.db.connection``.
        create: make the tables if there are none.
        codec: what payloads are made of [JSON].
        clock: another clock, for tests.
        max_payload: bytes [64 MiB].

    Raises:
        TypeError: it is no such connection.
        SchemaError: there are no tables, and none are to be made.
        SnapshotError: its transaction has read an older state: it must begin
            with ``BEGIN IMMEDIATE``.
        LibraryError: its SQLite cannot be used.
    """
    connection = _library.unwrap(connection)
    library, address = _library.locate(connection)
    settings: dict[str, Any] = {
        "create": 0 if create else 2,
        "max_payload": max_payload,
        "clock": clock,
    }
    handle = _dibs.Handle.attach(address, connection, settings, library)
    return Attached(connection, handle, codec)


def connect(
    path: str | os.PathLike[str], *, create: bool = True, **arguments: Any
) -> sqlite3.Connection:
    """A ``sqlite3.Connection`` that has dibs in it: the SQL functions
    ``dibs_enqueue()`` and the others, and the tables.

    Args:
        path: as of ``sqlite3.connect()``.
        create: make the tables if there are none.
        arguments: for ``sqlite3.connect()``.

    Raises:
        Error: what ``attach()`` raises.
    """
    connection: sqlite3.Connection = sqlite3.connect(path, **arguments)
    try:
        _library.extend(connection)
        if create:
            attach(connection)
    except BaseException:
        connection.close()
        raise
    return connection
