# SPDX-License-Identifier: MIT
"""Options of a job and settings of a queue: as users give them, and as the core
takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, cast

from ._codec import BYTES, JSON, NONE, Codec, dumps_json
from ._errors import InvalidError
from ._time import Duration, Moment, milliseconds, moment


class _Absent:
    """No payload at all, which is not JSON's null."""

    def __repr__(self) -> str:
        return "dibs.ABSENT"

    def __bool__(self) -> bool:
        return False


#: A payload that is not there. ``None`` is JSON's ``null``.
ABSENT: Any = _Absent()


class JobOptions(TypedDict, total=False):
    """What may be said of a job besides its queue and payload. Durations are a
    ``timedelta`` or seconds; what is not given is the queue's default, then
    that in brackets.

    - name: which handler.
    - headers: a flat dict of strings.
    - priority: 32-bit; higher first [0].
    - delay: not before this time from now; or
    - at: not before this moment.
    - expires: not started after this time from now [never].
    - max_attempts: 0 is without limit [20].
    - max_crashes: attempts that may end with their process [3].
    - backoff, backoff_factor, backoff_cap, backoff_jitter: the delay before the
      second attempt [5 s], by what it grows [2], up to [6 h], and a random
      fraction of it that is added [0.1].
    - lease: how long a claim holds it [that of the claim].
    - timeout: how long a worker lets it run [no limit].
    - keep: how long it is kept once done, ``FOREVER`` for good [not at all].
    - key: strict order within queue and key.
    - limit_key: what per-key limits count by.
    - unique: unique key.
    - unique_for: ``"start"``, ``"finish"``, or a duration from now ["finish"].
    - unique_scope: ``"queue"`` or ``"all"`` ["queue"].
    - on_conflict: ``"keep"``, ``"replace"``, ``"postpone"`` or ``"reject"``
      ["keep"].
    - stage: reserved only; ``commit()`` must come within this time.
    """

    name: str | None
    headers: Mapping[str, str] | None
    priority: int | None
    delay: Duration | None
    at: Moment | None
    expires: Duration | None
    max_attempts: int | None
    max_crashes: int | None
    backoff: Duration | None
    backoff_factor: float | None
    backoff_cap: Duration | None
    backoff_jitter: float | None
    lease: Duration | None
    timeout: Duration | None
    keep: Duration | None
    key: str | None
    limit_key: str | None
    unique: str | None
    unique_for: str | Duration | None
    unique_scope: str | None
    on_conflict: str | None
    stage: Duration | None


DURATIONS = frozenset(
    ["delay", "expires", "backoff", "backoff_cap", "lease", "timeout", "keep", "stage"]
)
_CHOICES: dict[str, dict[str, int]] = {
    "unique_scope": {"queue": 0, "all": 1},
    "on_conflict": {"keep": 0, "replace": 1, "postpone": 2, "reject": 3},
}
_UNIQUE_FOR = {"start": -1, "finish": -2}
_KNOWN = frozenset(JobOptions.__annotations__)
_NUMBERS = frozenset(("priority", "max_attempts", "max_crashes"))


def _choose(name: str, value: Any, choices: Mapping[str, int]) -> int:
    if isinstance(value, str) and value in choices:
        return choices[value]
    allowed = ", ".join(f'"{each}"' for each in choices)
    raise InvalidError(f"{name}: {value!r} is none of {allowed}")


def _option(name: str, value: Any) -> Any:
    if name in DURATIONS:
        return milliseconds(value, name)
    if name == "at":
        return moment(value, name)
    if name == "headers":
        return dumps_json(dict(value))
    if name in _CHOICES:
        return _choose(name, value, _CHOICES[name])
    if name == "unique_for":
        if isinstance(value, str):
            return _choose(name, value, _UNIQUE_FOR)
        return milliseconds(value, name)
    if name in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: an int is wanted, not {type(value).__name__}")
        if abs(value) >= 2**62:
            raise InvalidError(f"{name}: {value} is too large a number")
    return value


def core_options(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options as the core takes them; None: none is given."""
    result: dict[str, Any] = {}
    for name, value in options.items():
        if name not in _KNOWN:
            raise TypeError(f"there is no job option {name!r}")
        if value is not None:
            result[name] = _option(name, value)
    return result or None


def encode(
    codec: Codec, payload: Any, options: dict[str, Any] | None
) -> tuple[int, Any, dict[str, Any] | None]:
    """A payload's kind and data; the options with what the codec adds."""
    if payload is ABSENT:
        return NONE, None, options
    if isinstance(payload, bytes):
        return BYTES, payload, options
    if isinstance(payload, (bytearray, memoryview)):
        return BYTES, bytes(cast(bytearray, payload)), options
    data = codec.dumps(payload)
    if codec.content_type is None:
        return JSON, data, options
    return BYTES, data, _with_content_type(codec.content_type, options)


def _with_content_type(
    content_type: str, options: dict[str, Any] | None
) -> dict[str, Any]:
    import json

    options = dict(options or {})
    headers = json.loads(options.get("headers", "{}"))
    headers.setdefault("content-type", content_type)
    options["headers"] = dumps_json(headers)
    return options


def setting(name: str, value: Any) -> str | None:
    """A setting of a queue, as people type it."""
    if value is None:
        return None
    if isinstance(value, str):
        return value
    if name in DURATIONS:
        if value == float("inf"):
            return "forever"
        return f"{milliseconds(value, name)}ms"
    if name in ("rate", "rate_per_key") and isinstance(value, tuple):
        count, period = cast(tuple[int, Duration], value)
        return f"{count}/{milliseconds(period, name)}ms"
    return str(value)
