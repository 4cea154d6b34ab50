# SPDX-License-Identifier: MIT
"""APSW as a host, run by test_hosts.py with an interpreter that has it:

    apsw_host.py FOLDER EXTENSION

Its sqlite3 module may use the same SQLite library (Debian's) or another one (a
wheel brings its own). Ends with exit code 0, having printed the versions, or with
an error.
"""

import gc
import os
import sqlite3
import sys

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


def beside_the_other_library(folder, extension):
    """In turns, on different files."""
    other = sqlite3.connect(
        os.path.join(folder, "other.db"), isolation_level=None
    )
    if not hasattr(other, "enable_load_extension"):
        return
    other.enable_load_extension(True)
    other.load_extension(extension)
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
    backed_up(connection, os.path.join(folder, "copy.db"), extension)
    connection.close()
    beside_the_other_library(folder, extension)
    gc.collect()
    left = [name for name in os.listdir(folder) if name.endswith("-wal")]
    assert not left, left
    print(f"apsw {apsw.apswversion()}, SQLite {library};"
          f" sqlite3 with SQLite {sqlite3.sqlite_version}")


main(*sys.argv[1:])
