# SPDX-License-Identifier: MIT
"""A job as it is read, and as it is held."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from . import _dibs
from ._codec import BYTES, JSON, Codec
from ._errors import LostError, MisuseError
from ._time import Duration, to_datetime, to_timedelta

if TYPE_CHECKING:
    from ._operations import Operations

log = logging.getLogger("dibs")

#: What an engine tells of a job that runs.
LOST, CANCELLED, TIMED_OUT, STOPPING = 1, 2, 4, 8

#: What can become of a job, as the core numbers it.
ACK, RETRY, FAIL, RELEASE, SNOOZE, DISCARD, EXTEND = range(1, 8)

(
    _ID,
    _QUEUE,
    _NAME,
    _STATE,
    _OUTCOME,
    _PRIORITY,
    _KIND,
    _PAYLOAD,
    _HEADERS,
    _KEY,
    _ATTEMPT,
    _MAX_ATTEMPTS,
    _CRASHES,
    _CREATED_AT,
    _DUE_AT,
    _CLAIMED_AT,
    _LEASE_UNTIL,
    _FINISHED_AT,
    _WORKER,
    _RECEIPT,
    _LAST_ERROR,
    _PROGRESS,
    _PROGRESS_TEXT,
    _RESULT,
    _TIMEOUT,
    _LEASE,
    _EXPIRES_AT,
    _ERRORS,
) = range(len(_dibs.JOB_FIELDS))

_NOT_DECODED = object()

#: The longest text of an exception that is kept with a job, in characters.
_ERROR_LENGTH = 4000


class AttemptError(NamedTuple):
    """One failed attempt of a job."""

    attempt: int
    at: datetime
    duration: timedelta
    worker: str | None
    text: str | None


class JobFields:
    """A job as it was read. Fields that it does not have are ``None``; times are
    in UTC."""

    __slots__ = ("_codec", "_data", "_fields")

    def __init__(self, codec: Codec, fields: tuple[Any, ...]) -> None:
        self._codec = codec
        self._fields = fields
        self._data: Any = _NOT_DECODED

    @property
    def id(self) -> int:
        """Increasing, and never used again."""
        return self._fields[_ID]  # type: ignore[no-any-return]

    @property
    def queue(self) -> str:
        return self._fields[_QUEUE]  # type: ignore[no-any-return]

    @property
    def name(self) -> str | None:
        """Which handler is meant."""
        return self._fields[_NAME]  # type: ignore[no-any-return]

    @property
    def state(self) -> str:
        """When it was read: ready, scheduled, blocked, staged, running, done or
        dead."""
        return self._fields[_STATE]  # type: ignore[no-any-return]

    @property
    def outcome(self) -> str | None:
        """Of a done job: acked, cancelled, expired or discarded."""
        return self._fields[_OUTCOME]  # type: ignore[no-any-return]

    @property
    def priority(self) -> int:
        return self._fields[_PRIORITY]  # type: ignore[no-any-return]

    @property
    def data(self) -> Any:
        """The payload, decoded; ``None`` when there is none.

        Raises:
            Exception: what the codec raises for a payload that it cannot read.
        """
        if self._data is _NOT_DECODED:
            self._data = self._decode()
        return self._data

    def _decode(self) -> Any:
        kind, payload = self._fields[_KIND], self._fields[_PAYLOAD]
        content_type = self._codec.content_type
        if kind == JSON:
            return json.loads(payload) if content_type else self._codec.loads(payload)
        if (
            kind == BYTES
            and content_type
            and self.headers.get("content-type") == content_type
        ):
            return self._codec.loads(payload)
        return payload

    @property
    def raw(self) -> str | bytes | None:
        """The payload as it is kept: ``str`` is JSON."""
        return self._fields[_PAYLOAD]  # type: ignore[no-any-return]

    @property
    def headers(self) -> Mapping[str, str]:
        text = self._fields[_HEADERS]
        return json.loads(text) if text else {}

    @property
    def key(self) -> str | None:
        """Jobs of one key run one behind the other."""
        return self._fields[_KEY]  # type: ignore[no-any-return]

    @property
    def attempt(self) -> int:
        """1 from the first claim on."""
        return self._fields[_ATTEMPT]  # type: ignore[no-any-return]

    @property
    def max_attempts(self) -> int:
        """0 is without limit."""
        return self._fields[_MAX_ATTEMPTS]  # type: ignore[no-any-return]

    @property
    def final(self) -> bool:
        """Whether it is dead should this attempt fail."""
        return 0 < self.max_attempts <= self.attempt

    @property
    def crashes(self) -> int:
        """How many attempts ended with their process."""
        return self._fields[_CRASHES]  # type: ignore[no-any-return]

    @property
    def created_at(self) -> datetime:
        return to_datetime(self._fields[_CREATED_AT])  # type: ignore[return-value]

    @property
    def due_at(self) -> datetime | None:
        """When it could first start."""
        return to_datetime(self._fields[_DUE_AT])

    @property
    def claimed_at(self) -> datetime | None:
        return to_datetime(self._fields[_CLAIMED_AT])

    @property
    def lease_until(self) -> datetime | None:
        """When the lease ended, or would, as it was read."""
        return to_datetime(self._fields[_LEASE_UNTIL])

    @property
    def finished_at(self) -> datetime | None:
        """When it was done, or died."""
        return to_datetime(self._fields[_FINISHED_AT])

    @property
    def expires_at(self) -> datetime | None:
        return to_datetime(self._fields[_EXPIRES_AT])

    @property
    def worker(self) -> str | None:
        """Who holds it, or held it last."""
        return self._fields[_WORKER]  # type: ignore[no-any-return]

    @property
    def receipt(self) -> str | None:
        """What a claim gives, and settling takes."""
        return self._fields[_RECEIPT]  # type: ignore[no-any-return]

    @property
    def last_error(self) -> str | None:
        return self._fields[_LAST_ERROR]  # type: ignore[no-any-return]

    @property
    def progress_done(self) -> float | None:
        """How far it was when it was read: 0 to 1."""
        return self._fields[_PROGRESS]  # type: ignore[no-any-return]

    @property
    def progress_text(self) -> str | None:
        return self._fields[_PROGRESS_TEXT]  # type: ignore[no-any-return]

    @property
    def result(self) -> Any:
        """What it was acked with, of a job that is kept."""
        text = self._fields[_RESULT]
        return None if text is None else json.loads(text)

    @property
    def timeout(self) -> timedelta | None:
        """How long a worker lets it run."""
        return to_timedelta(self._fields[_TIMEOUT])

    @property
    def lease(self) -> timedelta | None:
        """Of this claim, or wanted by the job."""
        return to_timedelta(self._fields[_LEASE])

    @property
    def errors(self) -> list[AttemptError]:
        """The last failed attempts, oldest first; only of ``Database.get()``."""
        return [
            AttemptError(
                attempt,
                to_datetime(at),  # type: ignore[arg-type]
                to_timedelta(ms),  # type: ignore[arg-type]
                worker,
                text,
            )
            for attempt, at, ms, worker, text in self._fields[_ERRORS]
        ]

    def as_dict(self) -> dict[str, Any]:
        """The fields that it has, as ``dibs get --json`` names them: a JSON
        payload as a value, bytes as bytes, times as ``datetime``."""
        result: dict[str, Any] = {}
        for name, value in zip(_dibs.JOB_FIELDS, self._fields):
            if name in ("kind", "errors", "progress_text") or value is None:
                continue
            result[name] = (
                getattr(self, name)
                if name != "progress"
                else {
                    "done": value,
                    "text": self.progress_text,
                }
            )
        if self._fields[_KIND]:
            result["payload"] = self.data
        if self._fields[_ERRORS]:
            result["errors"] = [each._asdict() for each in self.errors]
        return result

    @property
    def payload(self) -> Any:
        """The same as ``data``."""
        return self.data

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        attempt = f" attempt {self.attempt}" if self.attempt else ""
        kind = type(self).__name__
        return f"<dibs.{kind} {self.id}{name} in {self.queue!r} {self.state}{attempt}>"


class Job(JobFields):
    """A job. Who claimed it holds it until it is settled: by one of ``ack()``,
    ``retry()``, ``fail()``, ``release()``, ``snooze()`` and ``discard()``, or as
    a context manager::

        with job:               # ack when the block ends
            send(job.data)      # on an exception retry, with the error kept

    While the block runs, the lease is extended, whatever holds the GIL. The
    exception goes on behind the block. In a loop over ``Queue.jobs()`` it
    does not: it is logged, and the loop goes on with the next job. What is no
    ``Exception`` (``KeyboardInterrupt``) gives the job back without an attempt
    being counted, and goes on in any case.

    See ``JobFields`` for what it is.
    """

    __slots__ = ("_database", "_kept", "_settled", "_swallow")

    def __init__(
        self,
        database: Operations,
        fields: tuple[Any, ...],
        *,
        swallow: bool = False,
    ) -> None:
        super().__init__(database.codec, fields)
        self._database = database
        self._kept = 0
        self._settled: Operations | None = None
        self._swallow = swallow

    @property
    def lost(self) -> bool:
        """Whether a worker has noticed that it is not its any more: stop, the
        ack will be refused. Always ``False`` of a job that was claimed by hand,
        as the following are."""
        return bool(self._flags() & LOST)

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled while it ran."""
        return bool(self._flags() & CANCELLED)

    @property
    def timed_out(self) -> bool:
        """Whether it has run for longer than its timeout."""
        return bool(self._flags() & TIMED_OUT)

    @property
    def stopping(self) -> bool:
        """Whether the worker is to stop."""
        return bool(self._flags() & STOPPING)

    def _flags(self) -> int:
        return 0

    # ---- Settling it

    @property
    def database(self) -> Operations:
        return self._database

    @property
    def settled(self) -> bool:
        """Whether this object has settled it."""
        return self._settled is not None

    def _held(self) -> str:
        if self.receipt is None:
            raise MisuseError(
                f"job {self.id} was read, not claimed: only its holder may settle it"
            )
        return self.receipt

    def _end(
        self,
        action: int,
        *,
        delay: Duration | None = None,
        error: str | None = None,
        result: Any = None,
    ) -> str:
        """Settle it, and give the state that it is in then."""
        return self._database._settle(
            self, action, delay=delay, error=error, result=result
        )[0]

    def ack(self, result: Any = None) -> None:
        """It is done. ``result``, JSON, is kept with it if it is kept.

        Raises:
            LostError: it is somebody else's by now; nothing was changed.
        """
        self._end(ACK, result=result)

    def retry(self, delay: Duration | None = None, error: str | None = None) -> str:
        """Again, after ``delay`` or its backoff; dead behind the last attempt.

        Returns:
            The state that it is in now: ``"ready"``, ``"scheduled"``,
            ``"blocked"`` or ``"dead"``.
        """
        return self._end(RETRY, delay=delay, error=error)

    def fail(self, error: str | None = None) -> None:
        """To the dead letters."""
        self._end(FAIL, error=error)

    def release(self) -> None:
        """Give it back at once; no attempt is counted."""
        self._end(RELEASE)

    def snooze(self, delay: Duration) -> None:
        """Again after ``delay``; no attempt is counted."""
        self._end(SNOOZE, delay=delay)

    def discard(self, error: str | None = None) -> None:
        """Done, with the outcome discarded."""
        self._end(DISCARD, error=error)

    def extend(self, lease: Duration | None = None) -> datetime:
        """Hold it for ``lease`` from now [that of the claim]. Never shortens.

        Returns:
            When the lease ends now.
        """
        return self._database.extend(self, lease)

    def checkpoint(self, data: Any, *, lease: Duration | None = None) -> None:
        """Put another payload in its place, which the next attempt will get,
        and extend the lease, if ``lease`` is given."""
        self._database.checkpoint(self, data, lease=lease)

    def progress(self, done: float, text: str | None = None) -> None:
        """Note for others how far it is: 0 to 1, and a text."""
        self._database.progress(self, done, text)

    # ---- As a context manager

    def __enter__(self) -> Job:
        self._keep()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        # Annotated so for type checkers: they take a bool for "swallows". Only
        # in a loop over jobs() does it return True.
        self._keep_no_more()
        return self._exit(error)  # type: ignore[return-value]

    def _keep(self) -> None:
        """Have the lease extended, by a thread that needs no GIL."""
        receipt = self._held()
        lease = self._fields[_LEASE]
        if lease and not self._kept:
            self._kept = self._database._keep(receipt, lease)

    def _keep_no_more(self) -> None:
        if self._kept:
            self._database._keep_no_more(self._kept)
            self._kept = 0

    def _exit(self, error: BaseException | None) -> bool:
        if error is None:
            return self._exit_well()
        if not isinstance(error, Exception):
            self._after_error(self.release)
            return False
        self._after_error(lambda: self.retry(error=error_text(error)))
        if self._swallow:
            log.error(
                "job %d failed: %s",
                self.id,
                error,
                exc_info=error,
                extra=log_extra(self),
            )
        return self._swallow

    def _exit_well(self) -> bool:
        if self._settled is None:
            try:
                self.ack()
            except LostError as error:
                if not self._swallow:
                    raise
                log.warning("%s", error, extra=log_extra(self))
        return False

    def _after_error(self, settle: Any) -> None:
        """What was settled within a transaction of the application's is as it
        was, if that has been rolled back for the error; else it is lost."""
        if self._settled is self._database:
            return
        try:
            settle()
        except LostError as error:
            log.warning("%s", error, extra=log_extra(self))


def error_text(error: BaseException) -> str:
    """What is kept of an exception: its traceback, the end of it if it is
    long, with the exception itself in the first line."""
    first = "".join(traceback.format_exception_only(error)).strip()
    full = "".join(traceback.format_exception(error)).strip()
    if len(full) > _ERROR_LENGTH:
        full = "... " + full[-_ERROR_LENGTH:]
    return f"{first[:_ERROR_LENGTH]}\n\n{full}"


def log_extra(job: JobFields) -> dict[str, Any]:
    """What a log record about a job has besides its text."""
    return {
        "dibs_id": job.id,
        "dibs_queue": job.queue,
        "dibs_name": job.name,
        "dibs_attempt": job.attempt,
    }
