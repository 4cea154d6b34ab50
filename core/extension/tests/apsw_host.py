# SPDX-License-Identifier: MIT
"""APSW as a host, run by test_hosts.py with an interpreter that has it:

    apsw_host.py FOLDER EXTENSION

Python's sqlite3 module may use the same SQLite library (Debian's packages) or
another one (a wheel of APSW brings its own). Ends with exit code 0, having printed
as JSON whether it is another one, and the versions of both; or with an error.
"""

import gc
import json
import os
import sqlite3
import sys
import threading

import apsw


def value(connection, sql, *values):
    ((found,),) = connection.cursor().execute(sql, values).fetchall()
    return found


def connect(path, extension):
    connection = apsw.Connection(path)
    connection.setbusytimeout(20_000)
    connection.enableloadextension(True)
    connection.loadextension(extension)
    connection.enableloadextension(False)
    return connection


def refused(connection, status, sql):
    try:
        value(connection, sql)
    except apsw.Error as error:
        assert str(error).split("Error: ")[-1].startswith(status), error
        return
    raise AssertionError(f"{sql} succeeded")


def transactions(connection):
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE t(x)")
    with connection:  # a savepoint
        cursor.execute("INSERT INTO t VALUES (1)")
        value(connection, "SELECT dibs_enqueue('q', '\"kept\"')")
    try:
        with connection:
            value(connection, "SELECT dibs_enqueue('q', '\"lost\"')")
            raise KeyError
    except KeyError:
        pass
    assert value(connection, "SELECT payload FROM dibs_jobs") == '"kept"'
    receipt = value(connection, "SELECT receipt FROM dibs_claim('q')")
    assert value(connection, "SELECT dibs_ack(?)", receipt) == 1
    refused(connection, "DIBS_LOST: ", f"SELECT dibs_ack('{receipt}')")


def triggers(connection):
    cursor = connection.cursor()
    cursor.execute(
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN"
        " SELECT dibs_enqueue('t', json_array(new.x)); END"
    )
    cursor.execute("INSERT INTO t VALUES (5), (6)")
    claim = "SELECT payload FROM dibs_claim('t', '{\"n\":5}')"
    assert cursor.execute(claim).fetchall() == [("[5]",), ("[6]",)]


def hooks(connection):
    commits, changes, asked = [], [], []
    connection.setcommithook(lambda: commits.append(1) or False)
    connection.setupdatehook(lambda *change: changes.append(change))
    connection.setauthorizer(lambda *what: asked.append(what) or apsw.SQLITE_OK)
    value(connection, "SELECT dibs_enqueue('q', '1')")
    assert commits and changes and asked
    connection.setcommithook(lambda: True)
    refused(connection, "DIBS_", "SELECT dibs_enqueue('q', '2')")
    connection.setcommithook(None)
    connection.setupdatehook(None)
    connection.setauthorizer(None)
    assert value(connection, "SELECT dibs_clear('q')") == 1


def defended(connection):
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    value(connection, "SELECT dibs_enqueue('q', '1')")
    assert value(connection, "SELECT dibs_clear('q')") == 1


def backed_up(connection, path, extension):
    value(connection, "SELECT dibs_enqueue('q', '\"copied\"')")
    copy = connect(path, extension)
    with copy.backup("main", connection, "main") as backup:
        backup.step()
    assert value(copy, "SELECT payload FROM dibs_claim('q')") == '"copied"'
    copy.close()
    assert value(connection, "SELECT dibs_clear('q')") == 1


def in_another_thread(connection, sql):
    """What a statement gives there."""
    given = []
    thread = threading.Thread(
        target=lambda: given.append(value(connection, sql))
    )
    thread.start()
    thread.join()
    return given[0]


def threads(connection):
    """Another thread may use it, after the one that loaded it and before."""
    sql = "SELECT dibs_enqueue('threads', '1')"
    first = in_another_thread(connection, sql)
    assert value(connection, sql) == first + 1
    assert in_another_thread(connection, sql) == first + 2
    assert value(connection, "SELECT dibs_clear('threads')") == 3


def plain_connect(path, extension):
    """By Python's own module."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.enable_load_extension(True)
    connection.load_extension(extension)
    return connection


def beside_the_other_library(folder, extension):
    """In turns, on different files."""
    other = plain_connect(os.path.join(folder, "other.db"), extension)
    one = connect(os.path.join(folder, "one.db"), extension)
    other.execute("SELECT dibs_init()").fetchall()
    value(one, "SELECT dibs_init()")
    for number in range(1, 4):
        assert value(one, "SELECT dibs_enqueue('q', '1')") == number
        got = other.execute("SELECT dibs_enqueue('q', '1')").fetchone()
        assert got == (number,)
    versions = other.execute("SELECT dibs_version() ->> 'sqlite'").fetchone()
    assert versions == (sqlite3.sqlite_version,)
    other.close()
    one.close()


def on_one_file(folder, extension):
    """Allowed with one library; refused with two, which would lose rows."""
    path = os.path.join(folder, "both.db")
    one = connect(path, extension)
    value(one, "PRAGMA journal_mode = WAL")
    value(one, "SELECT dibs_init()")
    other = plain_connect(path, extension)
    for name in ("dibs_enqueue('q', '1')", "dibs_init()", "dibs_stats()"):
        try:
            other.execute(f"SELECT {name}").fetchall()
            assert not apsw.using_amalgamation, f"{name} was not refused"
        except sqlite3.OperationalError as error:
            assert apsw.using_amalgamation, error
            assert str(error).startswith("DIBS_LIBRARY: this process has")
            assert "two_libraries" in str(error)
    value(one, "SELECT dibs_enqueue('q', '1')")
    one.close()
    other.close()


def main(folder, extension):
    path = os.path.join(folder, "app.db")
    connection = connect(path, extension)
    library = apsw.sqlitelibversion()
    assert value(connection, "SELECT dibs_version() ->> 'sqlite'") == library
    connection.cursor().execute("PRAGMA journal_mode = WAL").fetchall()
    assert value(connection, "SELECT dibs_init()") == 1
    transactions(connection)
    triggers(connection)
    hooks(connection)
    defended(connection)
    threads(connection)
    backed_up(connection, os.path.join(folder, "copy.db"), extension)
    connection.close()
    beside_the_other_library(folder, extension)
    on_one_file(folder, extension)
    gc.collect()
    left = [name for name in os.listdir(folder) if name.endswith("-wal")]
    assert not left, left
    print(json.dumps([apsw.using_amalgamation, library, sqlite3.sqlite_version]))


main(*sys.argv[1:])
