# SPDX-License-Identifier: MIT
"""Loading it: twice, in two copies, in many connections, by APSW."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hosts import EXTENSION, LIMIT, Shell, connect, environment

HERE = Path(__file__).resolve().parent


def exercise(run):
    """Enqueue, claim and ack by a function that runs SQL."""
    assert run("SELECT dibs_enqueue('q', '1') > 0;") == ["1"]
    assert run("SELECT dibs_ack(receipt) FROM dibs_claim('q');") == ["1"]


def copy_of_it(folder):
    """Another file is another copy in memory."""
    folder.mkdir()
    return str(shutil.copy(EXTENSION, folder / "dibs.so"))


# ---- again and again ---------------------------------------------------------


def test_loaded_twice(shell):
    shell.run("SELECT dibs_init();")
    for _ in range(3):
        assert shell.run(f".load {EXTENSION}") == []
        exercise(shell.run)


def test_loaded_by_a_statement(shell):
    """A statement is running: the functions of before stay."""
    assert shell.run(f"SELECT load_extension('{EXTENSION}');") == [""]
    shell.run("SELECT dibs_init();")
    exercise(shell.run)
    shell.run(f"SELECT load_extension('{EXTENSION}');")
    exercise(shell.run)


def test_two_copies_in_a_connection(shell, tmp_path):
    copy = copy_of_it(tmp_path / "copy")
    shell.run("SELECT dibs_init();")
    exercise(shell.run)
    for path in (copy, EXTENSION, copy):
        assert shell.run(f".load {path}") == []
        exercise(shell.run)
    shell.run("BEGIN;")
    exercise(shell.run)
    assert shell.run(f".load {EXTENSION}") == []
    exercise(shell.run)
    shell.run("SELECT dibs_enqueue('q', '\"kept\"');")
    shell.run("COMMIT;")
    assert shell.run(f"SELECT load_extension('{copy}');") == [""]
    assert shell.run("SELECT payload FROM dibs_claim('q');") == ['"kept"']
    assert shell.run("PRAGMA integrity_check;") == ["ok"]


def test_two_copies_in_two_connections(db, tmp_path):
    other = connect(db.path, load=False)
    other.enable_load_extension(True)
    other.load_extension(copy_of_it(tmp_path / "copy"))
    for number in range(10):
        db.put(str(number))
        rows = other.execute(
            "SELECT payload, dibs_ack(receipt) FROM dibs_claim('q')"
        ).fetchall()
        assert rows == [(str(number), 1)]
    other.close()
    assert db.put() > 10


def test_many_connections(db):
    connections = [connect(db.path) for _ in range(60)]
    for connection in connections[::2]:
        connection.execute("SELECT dibs_enqueue('q', '1')").fetchall()
    for connection in connections:
        connection.close()
    assert db.count() == 30


def test_a_connection_that_never_calls_leaves_nothing(tmp_path):
    connection = connect(str(tmp_path / "app.db"))
    connection.execute("CREATE TABLE t(x)")
    connection.close()
    assert os.listdir(tmp_path) == ["app.db"]


def test_the_shell_leaves_nothing_open(tmp_path):
    shell = Shell(tmp_path / "app.db", tmp_path)
    shell.run("PRAGMA journal_mode = WAL;")
    shell.run("SELECT dibs_init();")
    exercise(shell.run)
    shell.run("BEGIN;")
    shell.run("SELECT dibs_enqueue('q', '1');")
    assert shell.close() == 0
    assert sorted(os.listdir(tmp_path)) == ["app.db", "app.db-dibs"]


def test_the_shell_opens_another_file(shell, tmp_path):
    """It tells when a close finds statements that were not finalized."""
    shell.run("PRAGMA journal_mode = WAL;")
    for file in ("two.db", "three.db", "app.db"):
        shell.run("SELECT dibs_init();")
        exercise(shell.run)
        shell.run("BEGIN;")
        shell.run("SELECT dibs_enqueue('q', '1');")
        assert shell.run(f".open {file}") == []
        assert shell.run(f".load {EXTENSION}") == []
    assert shell.run("SELECT count(*) FROM dibs_jobs;") == ["0"]
    shell.run(".open :memory:")
    left = [name for name in os.listdir(tmp_path) if "-dibs" not in name]
    assert sorted(left) == ["app.db", "three.db", "two.db"]


def test_the_shell_is_killed(shell):
    """What was committed is there, what was not is not, and nobody waits."""
    shell.run("PRAGMA journal_mode = WAL;")
    shell.run("SELECT dibs_init();")
    shell.run("SELECT dibs_enqueue('q', '\"kept\"');")
    shell.run("BEGIN IMMEDIATE;")
    shell.run("SELECT dibs_enqueue('q', '\"lost\"');")
    shell.process.kill()
    shell.process.wait(LIMIT)
    other = connect(shell.path, timeout=0)
    rows = other.execute("SELECT payload FROM dibs_claim('q', '{\"n\":9}')")
    assert rows.fetchall() == [('"kept"',)]
    other.close()


def test_close_with_statements_that_were_not_finished(db):
    db.call("dibs_enqueue_many", "q", "[1,2,3]")
    cursor = db.sql.execute("SELECT id FROM dibs_claim('q', '{\"n\":3}')")
    assert cursor.fetchone() == (1,)
    db.sql.close()  # finalizes it
    other = connect(db.path)
    state = "SELECT DISTINCT state FROM dibs_jobs"
    assert other.execute(state).fetchall() == [("running",)]
    other.close()


# ---- threads and forks -------------------------------------------------------


def in_a_thread(function):
    """What a function gives in another thread, or the error that it raises."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(LIMIT)


def test_a_connection_of_one_thread(db):
    """Python refuses others; the functions never get to know."""
    with pytest.raises(sqlite3.ProgrammingError, match="thread"):
        in_a_thread(lambda: db.sql.execute("SELECT dibs_enqueue('q', '1')"))
    assert db.put() == 1


def test_a_connection_of_many_threads(db):
    sql = connect(db.path, check_same_thread=False)
    cached = "SELECT dibs_enqueue('q', '1')"

    def put():
        return sql.execute(cached).fetchone()[0]

    assert put() == 1
    with ThreadPoolExecutor(8) as pool:
        ids = {future.result(LIMIT) for future in
               [pool.submit(put) for _ in range(400)]}
    assert ids == set(range(2, 402))
    in_a_thread(sql.close)
    assert len(db.claim(n=1000)) == 401


def test_a_child_is_refused_its_parents_connection(db):
    db.put()
    sql = connect(db.path)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        told = []
        for connection in (db.sql, sql):
            try:
                connection.execute("SELECT dibs_enqueue('q', '2')").fetchall()
                told.append("it worked")
            except sqlite3.Error as error:
                told.append(str(error))
        own = connect(db.path)
        told.append(own.execute("SELECT dibs_enqueue('q', '3')").fetchone()[0])
        own.close()
        os.write(writer, json.dumps(told).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        told = json.load(answer)
    os.waitpid(child, 0)
    for text in told[:2]:
        assert text.startswith("DIBS_FORKED: this connection was opened before")
    assert told[2] == 2
    assert db.put() == 3
    sql.close()


# ---- other names, other libraries --------------------------------------------


def test_another_name_needs_its_entry_point(tmp_path):
    renamed = shutil.copy(EXTENSION, tmp_path / "queue.so")
    shell = Shell(tmp_path / "app.db", tmp_path, load=False)
    (text,) = shell.run(f".load {renamed}")
    assert "sqlite3_queue_init" in text
    assert shell.run(f".load {renamed} sqlite3_dibs_init") == []
    shell.run("SELECT dibs_init();")
    exercise(shell.run)
    shell.close()


def test_the_library_is_the_one_to_be_tested(db):
    """Where LD_LIBRARY_PATH names one, these tests use it."""
    maps = Path("/proc/self/maps").read_text()
    for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        library = Path(folder, "libsqlite3.so.0")
        assert not (folder and library.exists()) or str(library) in maps
    assert db.dibs("version")[0]["sqlite"] == sqlite3.sqlite_version


APSW = {"the same library": sys.executable, "its own": os.environ["APSW_PYTHON"]}


@pytest.mark.parametrize("which", APSW)
def test_apsw(tmp_path, which):
    """In a process that has Python's sqlite3, too."""
    python = APSW[which]
    assert shutil.which(python), f"{python} is missing: run ci/apsw"
    done = subprocess.run(
        [python, HERE / "apsw_host.py", tmp_path, EXTENSION],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    missing = "No module named 'apsw'" in done.stderr
    assert not missing, "APSW is missing: install python3-apsw"
    assert done.returncode == 0, done.stderr
    two, own, other = json.loads(done.stdout)
    assert two == (which == "its own"), f"SQLite {own} and {other}"
    assert other == sqlite3.sqlite_version
    assert two or own == other
