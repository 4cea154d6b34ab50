# SPDX-License-Identifier: MIT
"""What the core has to tell, for ``logging``: the logger is ``dibs.events``, which
is quiet where an application has not set up logging."""

from __future__ import annotations

import logging

log = logging.getLogger("dibs.events")
log.addHandler(logging.NullHandler())

_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR)


def tell(event: tuple[int, str, int, str | None, str | None]) -> None:
    """Log an event: a lease that ran out, a job that died, the tables made."""
    level, name, id, queue, message = event
    log.log(
        _LEVELS[level],
        "%s",
        message,
        extra={
            "dibs_event": name,
            "dibs_id": id or None,
            "dibs_queue": queue,
        },
    )
