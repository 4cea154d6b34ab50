# SPDX-License-Identifier: MIT
"""The SQLite library that dibs uses: that of the process, never one of its own.

Two SQLite libraries that open the same file in one process lose data
(sqlite.org/howtocorrupt.html, section 2.2). So dibs uses the one that Python's
``sqlite3`` uses, and with ``dibs.open(..., library="apsw")``, or attached to a
connection of APSW, that of APSW.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from importlib import import_module
from typing import Any

from . import _dibs
from ._errors import LibraryError, MisuseError

_lock = threading.RLock()
_providers: dict[str, _dibs.Provider] = {}
_installed: set[str] = set()


def provider(name: str = "sqlite3") -> _dibs.Provider:
    """The library of a Python module: ``"sqlite3"``, ``"apsw"``, or another
    one of the kind of ``sqlite3``."""
    found = _providers.get(name)
    if found is None:
        with _lock:
            found = _providers.get(name)
            if found is None:
                found = _providers[name] = _find(import_module(name))
    return found


def _find(module: Any) -> _dibs.Provider:
    """Ask the library of a module for its API table."""
    file = _shared_object(module)
    _dibs.seen()
    if _dibs.automatic(file, True):
        try:
            _open_in_memory(module).close()
        finally:
            _dibs.automatic(file, False)
        found = _dibs.seen()
        if found:
            return found[0]
    connection = _open_in_memory(module)
    try:
        found = _load(connection)
    finally:
        connection.close()
    if found is None:
        raise LibraryError(
            f"the SQLite of {module.__name__} cannot be reached: its functions "
            "are hidden, and it cannot load extensions; use another build of "
            "Python, or APSW"
        )
    return found[0]


def _shared_object(module: Any) -> str | None:
    """The file that holds the C part of a module; None: the program itself."""
    name = module.__name__
    for candidate in (f"_{name}", f"{name}._sqlite3", name):
        native = sys.modules.get(candidate)
        file = getattr(native, "__file__", None)
        if file and not file.endswith((".py", ".pyc")):
            return str(file)
    return None


def _open_in_memory(module: Any) -> Any:
    open_connection = getattr(module, "connect", None) or module.Connection
    return open_connection(":memory:")


def _load(connection: Any) -> tuple[_dibs.Provider, int] | None:
    """Load this extension into a connection: provider and address, or None
    where that cannot be done."""
    if not hasattr(connection, "enable_load_extension"):
        return None
    _dibs.seen()
    connection.enable_load_extension(True)
    try:
        connection.load_extension(_dibs.__file__)
    finally:
        connection.enable_load_extension(False)
    return _dibs.seen()


def _module_of(connection: Any) -> str:
    """The module whose kind of connection it is, by its classes."""
    for each in type(connection).__mro__:
        if each.__name__ == "Connection" and each.__module__ != __name__:
            root = each.__module__.partition(".")[0].lstrip("_")
            if root in ("sqlite3", "apsw", "pysqlite3"):
                return root
    raise TypeError(
        "a sqlite3.Connection or an apsw.Connection is wanted, not "
        f"{type(connection).__module__}.{type(connection).__qualname__}"
    )


def unwrap(connection: Any) -> Any:
    """The driver's connection within what a framework has made of it: a
    connection or a session of SQLAlchemy, a connection of Django."""
    if hasattr(connection, "ensure_connection"):  # Django
        connection.ensure_connection()
        return connection.connection
    if type(connection).__module__.startswith("sqlalchemy."):
        if callable(getattr(connection, "connection", None)):  # a session
            connection = connection.connection()
        pooled = getattr(connection, "connection", connection)
        return getattr(pooled, "driver_connection", pooled)
    return connection


def check(connection: Any) -> None:
    """Raises what a connection raises when it is closed, or belongs to another
    thread."""
    if isinstance(connection, sqlite3.Connection):
        sqlite3.Connection.cursor(connection).close()
    else:
        connection.cursor().close()


def locate(connection: Any) -> tuple[_dibs.Provider, int]:
    """The library and the address of an open connection.

    Raises what the connection raises when it is closed, or belongs to another
    thread.
    """
    module = _module_of(connection)
    library = provider(module)
    check(connection)
    if module == "apsw":
        point = getattr(connection, "sqlite3_pointer", None)
        address = (point or connection.sqlite3pointer)()
        return library, address
    address = _dibs.connection(connection, object.__basicsize__, library)
    if address is None:
        found = _load(connection)
        if found is None:
            raise LibraryError(
                "the connection is of another SQLite library than that of "
                f"{module}, and cannot load extensions"
            )
        return found
    return library, address


def extend(connection: Any) -> None:
    """Give an open connection the SQL functions of dibs, ``dibs_enqueue()`` and
    the others."""
    library, address = locate(connection)
    _dibs.extend(address, library)


def install(library: str = "sqlite3") -> None:
    """Give the SQL functions of dibs to each connection that is opened from now
    on, by whatever code: for connections that a framework opens.

    Connections that dibs is not used on pay for it with some microseconds when
    they are opened. Harmless when called again.

    Args:
        library: the module whose connections are meant, ``"sqlite3"`` or
            ``"apsw"``.

    Raises:
        LibraryError: the library cannot be used.
    """
    found = provider(library)
    with _lock:
        _dibs.install(found)
        _installed.add(library)


def uninstall(library: str = "sqlite3") -> None:
    """Undo ``install()`` for connections opened from now on."""
    with _lock:
        if library not in _installed:
            raise MisuseError(f"dibs is not installed in {library}")
        _dibs.uninstall(_providers[library])
        _installed.discard(library)
