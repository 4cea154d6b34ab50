# SPDX-License-Identifier: MIT
"""Times: what users give and read, and the milliseconds of the core."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from typing import Any

from . import _dibs
from ._errors import InvalidError

UNSET = _dibs.UNSET

#: Without end: as a wait, a timeout, or a time to keep a job.
FOREVER = math.inf

#: A length of time: a ``timedelta``, or a number of seconds.
Duration = timedelta | float

#: A moment: a ``datetime``, or seconds since 1970 as ``time.time()`` gives. A
#: ``datetime`` without a time zone is local time, as everywhere in Python.
Moment = datetime | float

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
_LONGEST = 2**62


def milliseconds(value: Duration | None, name: str) -> int:
    """A duration in milliseconds; None is UNSET.

    A positive one is never rounded to nothing.
    """
    if value is None:
        return UNSET
    if isinstance(value, timedelta):
        return -(-value // _MILLISECOND)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name}: a timedelta or a number of seconds is wanted, "
            f"not {type(value).__name__}"
        )
    if value == math.inf:
        return _dibs.FOREVER
    if math.isnan(value) or abs(value) > _LONGEST / 1000:
        raise InvalidError(f"{name}: {value} is no length of time")
    return math.ceil(round(value * 1000, 3))


def moment(value: Moment | None, name: str) -> int:
    """A moment in milliseconds since 1970; None is UNSET."""
    if value is None:
        return UNSET
    if isinstance(value, datetime):
        return round((value.astimezone(timezone.utc) - _EPOCH) / _MILLISECOND)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name}: a datetime or seconds since 1970 are wanted, "
            f"not {type(value).__name__}"
        )
    if not math.isfinite(value) or abs(value) > _LONGEST / 1000:
        raise InvalidError(f"{name}: {value} is no time")
    return round(value * 1000)


def wait_milliseconds(value: Duration | bool | None, name: str) -> int:
    """How long to wait: None and True are without end."""
    if value is None or value is True:
        return _dibs.FOREVER
    if value is False:
        return 0
    return max(milliseconds(value, name), 0)


def to_datetime(value: Any) -> datetime | None:
    """Of milliseconds since 1970, in UTC."""
    return None if value is None else _EPOCH + value * _MILLISECOND


def to_timedelta(value: Any) -> timedelta | None:
    """Of milliseconds."""
    if value is None:
        return None
    return timedelta.max if value == _dibs.FOREVER else value * _MILLISECOND
