# SPDX-License-Identifier: MIT
"""Files and connections of all kinds: in memory, read-only, attached, without a
WAL, in UTF-16; vacuumed, backed up, defended."""

import json
import os
import sqlite3

import pytest

from hosts import Database, Failed, Refused, connect


def call(sql, name, *values):
    places = ", ".join("?" * len(values))
    ((value,),) = sql.execute(f"SELECT {name}({places})", values).fetchall()
    return value


def work(sql):
    """Enqueue, claim and ack on a connection."""
    number = call(sql, "dibs_enqueue", "q", '"x"')
    rows = sql.execute("SELECT id, receipt FROM dibs_claim('q')").fetchall()
    assert [row[0] for row in rows] == [number]
    assert call(sql, "dibs_ack", rows[0][1]) == 1


def fails(sql, status, name, *values):
    with pytest.raises(sqlite3.Error) as caught:
        call(sql, name, *values)
    assert str(caught.value).startswith(status + ": "), caught.value
    return str(caught.value)


# ---- in memory ---------------------------------------------------------------


@pytest.mark.parametrize("path", [":memory:", ""])
def test_in_memory(path, tmp_path):
    os.chdir(tmp_path)
    sql = connect(path)
    call(sql, "dibs_init")
    work(sql)
    sql.execute("BEGIN")
    call(sql, "dibs_enqueue", "q", "1")
    sql.execute("ROLLBACK")
    assert sql.execute("SELECT count(*) FROM dibs_jobs").fetchone() == (0,)
    sql.close()
    assert os.listdir(tmp_path) == []


def test_connections_of_a_process_share_a_database_in_memory(tmp_path):
    os.chdir(tmp_path)
    one = connect("file:/shared?vfs=memdb", uri=True)
    call(one, "dibs_init")
    two = connect("file:/shared?vfs=memdb", uri=True)
    assert call(one, "dibs_enqueue", "q", "1") == 1
    rows = two.execute("SELECT receipt FROM dibs_claim('q')").fetchall()
    assert call(one, "dibs_ack", rows[0][0]) == 1
    one.execute("BEGIN IMMEDIATE")
    call(one, "dibs_enqueue", "q", "1")
    two.execute("PRAGMA busy_timeout = 0")
    fails(two, "DIBS_BUSY", "dibs_enqueue", "q", "2")
    one.execute("COMMIT")
    assert call(two, "dibs_clear", "q") == 1
    work(two)
    one.close()
    two.close()
    assert os.listdir(tmp_path) == []


# ---- attached ----------------------------------------------------------------


def test_only_the_main_database_counts(db, tmp_path):
    db.put()
    other = connect(str(tmp_path / "other.db"))
    other.execute("ATTACH ? AS jobs", (db.path,))
    text = fails(other, "DIBS_SCHEMA", "dibs_enqueue", "q", "1")
    assert "other.db" in text
    call(other, "dibs_init")
    assert call(other, "dibs_enqueue", "q", "1") == 1
    work_there = other.execute("SELECT count(*) FROM main.dibs_jobs")
    assert work_there.fetchone() == (1,)
    assert db.count() == 1
    other.close()


def test_an_attached_file_takes_part_in_the_transaction(db, tmp_path):
    db.rows("ATTACH ? AS other", str(tmp_path / "other.db"))
    db.rows("CREATE TABLE other.t(x)")
    db.rows("INSERT INTO other.t VALUES (dibs_enqueue('q', '1'))")
    db.rows("INSERT INTO other.t SELECT id FROM dibs_claim('q')")
    db.rows("BEGIN")
    db.rows("INSERT INTO other.t VALUES (dibs_enqueue('q', '2'))")
    db.rows("ROLLBACK")
    assert db.rows("SELECT x FROM other.t") == [(1,), (1,)]
    assert db.count() == 1


# ---- read-only ---------------------------------------------------------------


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
@pytest.mark.parametrize("way", ["mode=ro", "immutable=1"])
def test_a_connection_that_cannot_write(db, journal, way):
    db.put()
    db.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    db.rows(f"PRAGMA journal_mode = {journal}")
    reader = connect(f"file:{db.path}?{way}", uri=True)
    assert json.loads(call(reader, "dibs_stats"))[0]["ready"] == 1
    assert json.loads(call(reader, "dibs_explain", 1))[0]["reason"]
    assert json.loads(call(reader, "dibs_queue_show", "q"))["queue"] == "q"
    assert reader.execute("SELECT id FROM dibs_jobs").fetchall() == [(1,)]
    fails(reader, "DIBS_READONLY", "dibs_enqueue", "q", "1")
    fails(reader, "DIBS_READONLY", "dibs_clear", "q")
    with pytest.raises(sqlite3.OperationalError, match="^DIBS_READONLY: "):
        reader.execute("SELECT * FROM dibs_claim('q')").fetchall()
    assert call(reader, "dibs_init") == 1  # nothing is to be made
    reader.close()
    assert db.count() == 1


def test_a_connection_that_may_not_write(db):
    db.put()
    db.rows("PRAGMA query_only = ON")
    db.fails("DIBS_READONLY", "dibs_enqueue", "q", "1")
    assert json.loads(db.call("dibs_stats"))[0]["ready"] == 1
    db.rows("PRAGMA query_only = OFF")
    assert db.put() == 2


def test_tables_cannot_be_made_where_nothing_can_be_written(tmp_path):
    path = str(tmp_path / "app.db")
    connect(path, load=False).execute("CREATE TABLE t(x)").connection.close()
    reader = connect(f"file:{path}?mode=ro", uri=True)
    fails(reader, "DIBS_SCHEMA", "dibs_enqueue", "q", "1")
    fails(reader, "DIBS_READONLY", "dibs_init")
    reader.close()


# ---- journal modes and encodings ---------------------------------------------


@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "PERSIST", "MEMORY"])
def test_a_rollback_journal(tmp_path, mode):
    path = str(tmp_path / "app.db")
    sql = connect(path)
    sql.execute(f"PRAGMA journal_mode = {mode}")
    call(sql, "dibs_init")
    work(sql)
    assert sql.execute("PRAGMA journal_mode").fetchone() == (mode.lower(),)
    writer = connect(path, load=False)
    count = "SELECT count(*) FROM dibs_job"
    sql.execute("BEGIN")
    call(sql, "dibs_enqueue", "q", "1")
    assert writer.execute(count).fetchone() == (0,)
    sql.execute("COMMIT")
    assert writer.execute(count).fetchone() == (1,)
    writer.execute("BEGIN IMMEDIATE")
    sql.execute("PRAGMA busy_timeout = 0")
    fails(sql, "DIBS_BUSY", "dibs_enqueue", "q", "1")
    writer.execute("COMMIT")
    writer.close()
    sql.close()


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_utf16(tmp_path, encoding):
    sql = connect(str(tmp_path / "app.db"))
    sql.execute(f"PRAGMA encoding = '{encoding}'")
    call(sql, "dibs_init")
    call(sql, "dibs_enqueue", "日本/é", '{"ü":"\U0001f600"}')
    ((queue, payload, receipt),) = sql.execute(
        "SELECT queue, payload, receipt FROM dibs_claim('日本/*')"
    ).fetchall()
    assert (queue, payload) == ("日本/é", '{"ü":"\U0001f600"}')
    assert call(sql, "dibs_fail", receipt, "fällt aus") == 1
    error = sql.execute("SELECT last_error FROM dibs_jobs").fetchone()
    assert error == ("fällt aus",)
    sql.close()


# ---- copies ------------------------------------------------------------------


def test_vacuum(db):
    db.call("dibs_enqueue_many", "q", "[1,2,3]")
    receipt = db.take()["receipt"]
    db.rows("VACUUM")
    assert db.call("dibs_ack", receipt) == 1
    db.rows("PRAGMA auto_vacuum = FULL")
    db.rows("VACUUM")
    db.put()
    db.rows("PRAGMA writable_schema = RESET")
    db.put()
    assert db.count() == 4
    db.assert_sound()


def test_copies_have_the_jobs(db, tmp_path):
    db.put('"kept"')
    receipt = db.take()["receipt"]
    into, backup = str(tmp_path / "into.db"), str(tmp_path / "backup.db")
    db.rows("VACUUM INTO ?", into)
    target = connect(backup)
    db.sql.backup(target)
    assert call(target, "dibs_ack", receipt) == 1
    target.close()
    copy = connect(into)
    assert call(copy, "dibs_ack", receipt) == 1
    copy.close()
    assert db.call("dibs_ack", receipt) == 1


def test_a_database_that_is_replaced_under_the_connection(db, tmp_path):
    """By the backup API; before and behind it the functions have run."""
    db.put(queue="old")
    source = connect(str(tmp_path / "source.db"))
    call(source, "dibs_init")
    for _ in range(5):
        call(source, "dibs_enqueue", "new", "1")
    source.backup(db.sql)
    source.close()
    assert db.put() == 6
    assert len(db.claim("new", n=10)) == 5
    empty = sqlite3.connect(":memory:")
    empty.backup(db.sql)
    empty.close()
    db.fails("DIBS_SCHEMA", "dibs_enqueue", "q", "1")
    assert db.call("dibs_init") == 1
    assert db.put() == 1


def test_a_dump_is_restored(shell, tmp_path):
    shell.run("SELECT dibs_init();")
    shell.run("SELECT dibs_enqueue('q', '\"kept\"');")
    shell.run(".output dump.sql\n.dump\n.output")
    shell.run(".open other.db")
    shell.run(".read dump.sql")
    shell.run(f".load {os.environ['DIBS_EXTENSION'][:-3]}")
    assert shell.run("SELECT payload FROM dibs_claim('q');") == ['"kept"']


# ---- settings that forbid ----------------------------------------------------


def test_defensive_mode(shell):
    shell.run(".dbconfig defensive on")
    assert shell.run("SELECT dibs_init();") == ["1"]
    assert shell.run("SELECT dibs_enqueue('q', '1');") == ["1"]
    claimed = "SELECT dibs_ack(receipt) FROM dibs_claim('q');"
    assert shell.run(claimed) == ["1"]
    assert shell.run("PRAGMA integrity_check;") == ["ok"]


def test_a_schema_that_is_not_trusted(db):
    """Functions of the host's own statements work, in its triggers none."""
    db.rows("CREATE TABLE t(x)")
    db.rows(
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN"
        " SELECT dibs_enqueue('q', '1'); END"
    )
    db.rows("PRAGMA trusted_schema = OFF")
    assert "unsafe use of dibs_enqueue()" in db.refused(
        "INSERT INTO t VALUES (1)"
    )
    assert db.put() == 1
    receipt = db.take()["receipt"]
    assert db.call("dibs_ack", receipt) == 1
    assert db.call("dibs_clear", "q") == 0
    db.rows("PRAGMA trusted_schema = ON")
    db.rows("INSERT INTO t VALUES (1)")
    assert db.count() == 1


def json_is_innocuous():
    """Whether this SQLite has its JSON functions in views that are not trusted.
    It has not in 3.40."""
    sql = sqlite3.connect(":memory:")
    sql.execute("CREATE VIEW v AS SELECT json_valid('1')")
    sql.execute("PRAGMA trusted_schema = OFF")
    try:
        return sql.execute("SELECT * FROM v").fetchall() == [(1,)]
    except sqlite3.OperationalError as error:
        assert "unsafe use of json_valid()" in str(error)
        return False
    finally:
        sql.close()


def test_plain_sql_of_a_schema_that_is_not_trusted(db):
    """As schema/README.md says."""
    inbox = "INSERT INTO dibs_inbox(queue, payload) VALUES ('q', '1')"
    look = "SELECT queue, payload FROM dibs_jobs"
    db.rows(inbox)
    db.rows("PRAGMA trusted_schema = OFF")
    assert db.rows("SELECT queue, ready FROM dibs_queues") == [("q", 1)]
    if json_is_innocuous():
        db.rows(inbox)
        assert db.rows(look) == [("q", "1")] * 2
    else:
        assert "unsafe use of json_valid()" in db.refused(inbox)
        assert "unsafe use of json_object()" in db.refused(look)
    db.rows("BEGIN IMMEDIATE")
    db.rows("PRAGMA trusted_schema = ON")
    db.rows(inbox)
    db.rows("PRAGMA trusted_schema = OFF")
    db.rows("COMMIT")
    db.rows("PRAGMA trusted_schema = ON")
    assert set(db.rows(look)) == {("q", "1")}


@pytest.mark.parametrize("table", ["dibs_job", "dibs_ready", "dibs_leased"])
def test_an_authorizer_that_denies(db, table):
    def deny(what, first, *_):
        writes = what in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE)
        denied = writes and first == table
        return sqlite3.SQLITE_DENY if denied else sqlite3.SQLITE_OK

    db.put("0")
    db.sql.set_authorizer(deny)
    if table == "dibs_leased":
        text = db.refused("SELECT * FROM dibs_claim('q')")
    else:
        text = db.refused("SELECT dibs_enqueue('q', '1', '{\"key\":\"k\"}')")
    assert text.startswith("DIBS_MISUSE: ") and "authorizer" in text
    db.sql.set_authorizer(None)
    assert db.rows("SELECT state FROM dibs_jobs") == [("ready",)]
    db.put("2")
    assert len(db.claim(n=5)) == 2


# ---- others at the file ------------------------------------------------------


def test_a_writer_is_waited_for_or_not(db):
    writer = connect(db.path, load=False)
    writer.execute("BEGIN IMMEDIATE")
    db.rows("PRAGMA busy_timeout = 0")
    assert "busy timeout" in db.fails("DIBS_BUSY", "dibs_enqueue", "q", "1")
    writer.execute("COMMIT")
    writer.close()
    assert db.put() == 1


def test_a_transaction_that_has_read(db):
    db.rows("CREATE TABLE t(x)")
    db.rows("BEGIN")
    db.rows("SELECT * FROM t")
    db.dibs("enqueue", "-q", "q", "1")
    text = db.fails("DIBS_SNAPSHOT", "dibs_enqueue", "q", "1")
    assert "BEGIN IMMEDIATE" in text
    db.rows("COMMIT")
    assert db.put() == 2


def test_a_sidecar_that_is_gone(db):
    db.put()
    os.unlink(db.path + "-dibs")
    db.put()
    assert len(db.claim(n=5)) == 2


def test_close_leaves_one_database_and_its_sidecar(tmp_path):
    database = Database(tmp_path)
    database.put()
    database.claim()
    database.sql.close()
    assert sorted(os.listdir(tmp_path)) == ["app.db", "app.db-dibs"]
    with pytest.raises(Failed):
        database.dibs("claim", "-q", "q")
    with pytest.raises(Refused):
        database.rows("SELECT 1")
