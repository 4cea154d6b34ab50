# SPDX-License-Identifier: MIT
"""A job queue that lives in the SQLite file your application already has.

    import dibs

    q = dibs.open("app.db").queue("emails")
    q.enqueue({"to": "alice@example.com"}, delay=60, priority=5)

    for job in q.jobs():          # sleeps until a commit wakes it
        with job:                 # ack at the end; on an exception retry
            send(job.data)

``open()`` gives a ``Database``, ``attach()`` the same operations within the
transaction of a connection of the application. ``Queue`` enqueues and claims,
``Job`` is what a claim gives. All errors are ``Error``.

Durations are a ``timedelta`` or seconds, moments a ``datetime`` or seconds since
1970; what dibs gives are ``timedelta`` and ``datetime`` in UTC.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _dibs
from ._app import App, current_job
from ._codec import Codec
from ._database import Attached, Clock, Database, attach, connect, open
from ._engine import Engine, EngineJob, Settled
from ._errors import (
    BusyError,
    ClosedError,
    CorruptError,
    EmptyError,
    Error,
    ExistsError,
    ForkedError,
    FullError,
    InterruptedError,
    InvalidError,
    IoError,
    JobFailedError,
    LateError,
    LibraryError,
    LostError,
    MisuseError,
    NomemError,
    NotFoundError,
    ReadonlyError,
    SchemaError,
    SnapshotError,
    StateError,
    TooBigError,
)
from ._job import AttemptError, Job, JobFields
from ._library import install, uninstall
from ._log import tell as _tell
from ._operations import (
    ALL,
    DeadLetters,
    Finding,
    JobId,
    Outcome,
    QueueStats,
    Reason,
    Redriven,
)
from ._options import ABSENT, JobOptions
from ._queue import Queue
from ._task import (
    INJECTED,
    AsyncTask,
    Call,
    Discard,
    Fail,
    Handle,
    Release,
    Retry,
    Snooze,
    Task,
    TaskCancelled,
    TaskOptions,
    TaskTimeout,
    Verdict,
)
from ._time import FOREVER, Duration, Moment
from ._worker import Worker

__version__ = _dibs.VERSION

if TYPE_CHECKING:
    from . import aio as aio


def __getattr__(name: str) -> Any:
    # asyncio is large: for those who use it.
    if name == "aio":
        return import_module("dibs.aio")
    raise AttributeError(f"module 'dibs' has no attribute {name!r}")


_dibs.set_event_receiver(_tell)

__all__ = [
    "ABSENT",
    "ALL",
    "FOREVER",
    "INJECTED",
    "App",
    "AsyncTask",
    "Attached",
    "AttemptError",
    "BusyError",
    "Call",
    "Clock",
    "ClosedError",
    "Codec",
    "CorruptError",
    "Database",
    "DeadLetters",
    "Discard",
    "Duration",
    "EmptyError",
    "Engine",
    "EngineJob",
    "Error",
    "ExistsError",
    "Fail",
    "Finding",
    "ForkedError",
    "FullError",
    "Handle",
    "InterruptedError",
    "InvalidError",
    "IoError",
    "Job",
    "JobFailedError",
    "JobFields",
    "JobId",
    "JobOptions",
    "LateError",
    "LibraryError",
    "LostError",
    "MisuseError",
    "Moment",
    "NomemError",
    "NotFoundError",
    "Outcome",
    "Queue",
    "QueueStats",
    "ReadonlyError",
    "Reason",
    "Redriven",
    "Release",
    "Retry",
    "SchemaError",
    "Settled",
    "SnapshotError",
    "Snooze",
    "StateError",
    "Task",
    "TaskCancelled",
    "TaskOptions",
    "TaskTimeout",
    "TooBigError",
    "Verdict",
    "Worker",
    "attach",
    "connect",
    "current_job",
    "install",
    "open",
    "uninstall",
]
