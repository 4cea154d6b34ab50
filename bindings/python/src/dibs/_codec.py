# SPDX-License-Identifier: MIT
"""What payloads and results are made of: JSON, unless one says otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

#: Kinds of payload, as the core numbers them.
NONE, JSON, BYTES = 0, 1, 2


class Codec:
    """How Python values become payloads, and payloads values.

    The default is the standard library's JSON. Another one that writes JSON::

        dibs.open("app.db", codec=dibs.Codec(orjson.dumps, orjson.loads))

    One that writes something else names it. Its payloads are bytes, which other
    programs see as such, with a header ``content-type``::

        dibs.Codec(msgpack.packb, msgpack.unpackb,
                   content_type="application/msgpack")

    ``bytes`` never go through a codec: they are stored and read as they are.

    Args:
        dumps: a value to ``str`` or ``bytes``.
        loads: back; it gets ``str`` for JSON, else ``bytes``.
        content_type: what it writes; ``None`` is JSON.
    """

    __slots__ = ("content_type", "dumps", "loads")

    def __init__(
        self,
        dumps: Callable[[Any], str | bytes],
        loads: Callable[[Any], Any],
        *,
        content_type: str | None = None,
    ) -> None:
        self.dumps = dumps
        self.loads = loads
        self.content_type = content_type

    def __repr__(self) -> str:
        return f"<dibs.Codec {self.content_type or 'application/json'}>"


_encode = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False
).encode
_encode_ascii = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def dumps_json(value: Any) -> str:
    """JSON on one line. Text that UTF-8 cannot hold (a lone surrogate) is
    escaped."""
    text = _encode(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return _encode_ascii(value)
    return text


#: JSON by the standard library.
JSON_CODEC = Codec(dumps_json, json.loads)
