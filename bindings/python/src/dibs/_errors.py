# SPDX-License-Identifier: MIT
"""The errors of dibs: one class for each status of the core."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ._job import Job


class Error(Exception):
    """What dibs raises. Its text is one sentence: what was wrong, and what to
    do.

    Attributes:
        status: the name of the status, ``"DIBS_LOST"``.
        id: the job that the error speaks of, or ``None``.
        index: which element of a sequence it speaks of, from 0, or ``None``.
    """

    number: ClassVar[int] = 0
    status: ClassVar[str] = ""
    id: int | None = None
    index: int | None = None


class EmptyError(Error, TimeoutError):
    """The wait ran out."""

    number = 1
    status = "DIBS_EMPTY"


class NotFoundError(Error, LookupError):
    """There is no such job, queue or key."""

    number = 2
    status = "DIBS_NOT_FOUND"


class LostError(Error):
    """The job is no longer the holder's: its lease ran out, or it was
    cancelled, taken over, or settled already. Nothing was changed."""

    number = 3
    status = "DIBS_LOST"


class StateError(Error):
    """The job is not in a state that allows this."""

    number = 4
    status = "DIBS_STATE"


class ExistsError(Error):
    """A unique job exists, and ``on_conflict`` is ``"reject"``; ``id`` is its
    id."""

    number = 5
    status = "DIBS_EXISTS"


class LateError(Error):
    """The staged job was committed after its time, and is gone."""

    number = 6
    status = "DIBS_LATE"


class InvalidError(Error, ValueError):
    """An argument is not valid: which, and what is allowed."""

    number = 7
    status = "DIBS_INVALID"


class TooBigError(Error, ValueError):
    """Something is over a stated limit."""

    number = 8
    status = "DIBS_TOO_BIG"


class BusyError(Error):
    """Another writer held the lock beyond the timeout."""

    number = 9
    status = "DIBS_BUSY"


class SnapshotError(Error):
    """A read transaction cannot become a write transaction: begin it with
    ``BEGIN IMMEDIATE``."""

    number = 10
    status = "DIBS_SNAPSHOT"


class FullError(Error):
    """The disk or the database is full."""

    number = 11
    status = "DIBS_FULL"


class ReadonlyError(Error):
    """The database cannot be written."""

    number = 12
    status = "DIBS_READONLY"


class IoError(Error):
    """Reading or writing the file failed."""

    number = 13
    status = "DIBS_IO"


class CorruptError(Error):
    """The database file is damaged."""

    number = 14
    status = "DIBS_CORRUPT"


class NomemError(Error, MemoryError):
    """Out of memory."""

    number = 15
    status = "DIBS_NOMEM"


class SchemaError(Error):
    """The database is not initialised, too new, too old, or none of dibs."""

    number = 16
    status = "DIBS_SCHEMA"


class LibraryError(Error):
    """This SQLite cannot be used, or another one has the file open in this
    process."""

    number = 17
    status = "DIBS_LIBRARY"


class ClosedError(Error):
    """The database is closed."""

    number = 18
    status = "DIBS_CLOSED"


class ForkedError(Error):
    """The database was opened before a fork: open it again in the child."""

    number = 19
    status = "DIBS_FORKED"


class MisuseError(Error):
    """A wrong call."""

    number = 20
    status = "DIBS_MISUSE"


class InterruptedError(Error):
    """The wait was ended by ``Database.interrupt()``."""

    number = 21
    status = "DIBS_INTERRUPTED"


BY_STATUS: dict[int, type[Error]] = {
    each.number: each for each in Error.__subclasses__()
}


class JobFailedError(Error):
    """The job that was waited for is dead. The text is its last error.

    Attributes:
        job: the job, with its errors.
    """

    job: Job
