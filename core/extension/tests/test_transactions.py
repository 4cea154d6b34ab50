# SPDX-License-Identifier: MIT
"""The host's transactions: what they take with them, and who is woken."""

import itertools
import select
import subprocess

import pytest

from hosts import LIMIT, PROGRAM, connect, dibs, environment


# ---- commit and rollback -----------------------------------------------------


def test_a_rollback_leaves_no_job(db):
    db.rows("CREATE TABLE orders(x)")
    db.rows("BEGIN IMMEDIATE")
    db.rows("INSERT INTO orders VALUES (1)")
    db.put()
    db.rows("ROLLBACK")
    assert (db.count(), db.value("SELECT count(*) FROM orders")) == (0, 0)
    assert db.value("SELECT count(*) FROM dibs_queue") == 0


def test_others_see_a_job_at_the_commit(db):
    db.rows("BEGIN IMMEDIATE")
    number = db.put()
    assert db.dibs("list") == []
    db.rows("COMMIT")
    assert [job["id"] for job in db.dibs("list")] == [number]


def test_a_claim_and_its_ack_roll_back(db):
    number = db.put()
    db.rows("BEGIN IMMEDIATE")
    receipt = db.take()["receipt"]
    assert db.call("dibs_ack", receipt) == 1
    db.rows("ROLLBACK")
    job = db.job(number)
    assert (job["state"], job["attempt"]) == ("ready", 0)
    db.fails("DIBS_LOST", "dibs_ack", receipt)


def test_effects_happen_once(db):
    """A lost lease makes the transaction fail that has the effects."""
    db.rows("CREATE TABLE effects(x)")
    number = db.put()
    receipt = db.take()["receipt"]
    db.dibs("cancel", number)
    db.rows("BEGIN IMMEDIATE")
    db.rows("INSERT INTO effects VALUES (1)")
    db.fails("DIBS_LOST", "dibs_ack", receipt)
    assert db.sql.in_transaction
    db.rows("ROLLBACK")
    assert db.value("SELECT count(*) FROM effects") == 0


def test_a_refused_call_leaves_the_transaction_open(db):
    db.rows("CREATE TABLE t(x)")
    db.rows("BEGIN IMMEDIATE")
    db.rows("INSERT INTO t VALUES (1)")
    db.put()
    db.fails("DIBS_INVALID", "dibs_enqueue", "q", "{")
    db.fails("DIBS_INVALID", "dibs_clear", None)
    db.fails("DIBS_LOST", "dibs_ack", "9:0000000000000000")
    db.put()
    db.rows("COMMIT")
    assert (db.count(), db.value("SELECT count(*) FROM t")) == (2, 1)


def test_pythons_own_transactions(db):
    """They begin with an INSERT, not with a SELECT, as the README says."""
    db.rows("CREATE TABLE t(x)")
    sql = connect(db.path, isolation_level="DEFERRED")
    enqueue = "SELECT dibs_enqueue('q', '1')"
    for statements, left in [
        (["INSERT INTO t VALUES (1)", enqueue], 0),
        (["BEGIN IMMEDIATE", enqueue, "INSERT INTO t VALUES (1)"], 0),
        ([enqueue, "INSERT INTO t VALUES (1)"], 1),
    ]:
        with pytest.raises(KeyError), sql:
            for statement in statements:
                sql.execute(statement).fetchall()
            raise KeyError
        assert db.value("SELECT count(*) FROM t") == 0
        assert db.count() == left, statements
    sql.close()


def test_init_within_a_transaction(tmp_path):
    sql = connect(str(tmp_path / "app.db"))
    sql.execute("BEGIN")
    sql.execute("SELECT dibs_init()").fetchall()
    sql.execute("SELECT dibs_enqueue('q', '1')").fetchall()
    sql.execute("ROLLBACK")
    tables = "SELECT count(*) FROM sqlite_schema"
    assert sql.execute(tables).fetchone() == (0,)
    sql.execute("SELECT dibs_init()").fetchall()
    assert sql.execute("SELECT dibs_enqueue('q', '1')").fetchone() == (1,)
    sql.close()


# ---- savepoints --------------------------------------------------------------

# Steps of a transaction; "+" enqueues. What remains is known by playing them.
ORDERS = sorted(
    set(itertools.permutations(["+", "+", "S", "R"], 4))
    | set(itertools.permutations(["+", "+", "S", "B"], 4))
    | set(itertools.permutations(["+", "S", "+", "S", "B"], 5))
    | set(itertools.permutations(["+", "S", "+", "B", "R"], 5))
)


def play(db, steps):
    """Run the steps that are possible; the payloads that should remain."""
    kept, marks = [], []
    for number, step in enumerate(steps):
        if step == "+":
            db.put(str(number))
            kept.append(str(number))
        elif step == "S":
            db.rows(f"SAVEPOINT s{len(marks)}")
            marks.append(len(kept))
        elif step == "R" and marks:
            marks.pop()
            db.rows(f"RELEASE s{len(marks)}")
        elif step == "B" and marks:
            db.rows(f"ROLLBACK TO s{len(marks) - 1}")
            del kept[marks[-1] :]
    return kept


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE", "SAVEPOINT t"])
def test_savepoints_in_all_orders(db, begin):
    db.put(queue="other")
    for steps in ORDERS:
        before = db.signals()
        db.rows(begin)
        kept = play(db, steps)
        db.rows("COMMIT")
        assert db.signals() == before + (1 if kept else 0), steps
        payloads = [job["payload"] for job in db.claim(n=10)]
        assert payloads == kept, steps
        db.rows("DELETE FROM dibs_leased")
    assert len(ORDERS) > 50


# ---- waking ------------------------------------------------------------------


class Waiter:
    """dibs claim --wait, by a process that has begun to wait."""

    def __init__(self, db, queue="q"):
        waiting = self.waiters(db)
        self.process = subprocess.Popen(
            [PROGRAM, "--db", db.path, "claim", "-q", queue, "--wait", "50s"],
            stdout=subprocess.PIPE,
            env=environment(),
        )
        while self.waiters(db) == waiting:
            assert self.process.poll() is None, "it ended before it waited"
            select.select([], [], [], 0.01)

    @staticmethod
    def waiters(db):
        """How many wait, by the sidecar."""
        try:
            with open(db.path + "-dibs", "rb") as file:
                file.seek(128)
                return int.from_bytes(file.read(4), "little")
        except FileNotFoundError:
            return 0

    def line(self):
        """What it prints when it has got a job."""
        out, _ = self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == 0
        return out.decode()


@pytest.mark.parametrize(
    "way",
    [
        ["SELECT dibs_enqueue('q', '\"woken\"')"],
        ["BEGIN", "SELECT dibs_enqueue('q', '\"woken\"')", "COMMIT"],
        ["SAVEPOINT s", "SELECT dibs_enqueue('q', '\"woken\"')", "RELEASE s"],
        ["INSERT INTO t VALUES (dibs_enqueue('q', '\"woken\"'))"],
        ["INSERT INTO u VALUES (1)"],
        ["BEGIN", "INSERT INTO u VALUES (1)", "COMMIT"],
        ["SELECT dibs_enqueue_many('q', '[\"woken\"]')"],
        ["SELECT dibs_release(receipt) FROM dibs_claim('held')"],
    ],
)
def test_a_commit_wakes_a_waiting_claim(db, way):
    db.rows("CREATE TABLE t(x)")
    db.rows("CREATE TABLE u(x)")
    db.rows(
        "CREATE TRIGGER r AFTER INSERT ON u BEGIN"
        " SELECT dibs_enqueue('q', '\"woken\"'); END"
    )
    db.put('"woken"', queue="held")
    queue = "held" if "held" in way[0] else "q"
    if queue == "held":
        receipt = db.take("held")["receipt"]
        way = [f"SELECT dibs_release('{receipt}')"]
    waiter = Waiter(db, queue)
    before = db.signals()
    for sql in way:
        assert db.signals() == before
        db.rows(sql)
    assert db.signals() > before
    assert "woken" in waiter.line()


def test_a_rollback_wakes_nobody(db):
    db.put(queue="other")
    waiter = Waiter(db)
    before = db.signals()
    db.rows("BEGIN")
    db.put()
    db.rows("ROLLBACK")
    db.rows("BEGIN")
    db.rows("SAVEPOINT s")
    db.put()
    db.rows("ROLLBACK TO s")
    db.rows("COMMIT")
    assert db.signals() == before
    assert waiter.process.poll() is None
    db.put('"woken"')
    assert "woken" in waiter.line()


# ---- statements that write ---------------------------------------------------


def test_a_statement_takes_what_it_claims(db):
    db.rows("CREATE TABLE work(id, receipt, payload)")
    db.call("dibs_enqueue_many", "q", "[1,2,3]")
    db.rows(
        "INSERT INTO work SELECT id, receipt, payload"
        " FROM dibs_claim('q', '{\"n\":2}')"
    )
    assert db.rows("SELECT id, payload FROM work") == [(1, "1"), (2, "2")]
    assert db.value("SELECT sum(dibs_ack(receipt)) FROM work") == 2
    assert db.count() == 1


@pytest.mark.parametrize("begin", [None, "BEGIN", "BEGIN IMMEDIATE"])
def test_a_statement_that_fails_claims_nothing(db, begin):
    db.rows("CREATE TABLE work(id UNIQUE, CHECK (id <> 2))")
    db.call("dibs_enqueue_many", "q", "[1,2,3]")
    if begin:
        db.rows(begin)
    db.refused("INSERT INTO work SELECT id FROM dibs_claim('q', '{\"n\":3}')")
    if begin:
        db.rows("COMMIT")
    assert db.value("SELECT count(*) FROM dibs_leased") == 0
    assert db.value("SELECT count(*) FROM work") == 0
    assert [job["id"] for job in db.claim(n=5)] == [1, 2, 3]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET x = dibs_enqueue('q', json(x))",
        "DELETE FROM t RETURNING dibs_enqueue('q', json(x))",
        "INSERT INTO t SELECT dibs_enqueue('q', json(x)) FROM (SELECT 7 AS x)",
        "REPLACE INTO t VALUES (dibs_enqueue('q', '1'))",
        "CREATE TABLE u AS SELECT dibs_enqueue('q', json(x)) FROM t",
        "CREATE TEMP TABLE u AS SELECT id FROM dibs_claim('old')",
        "WITH c AS (SELECT id FROM dibs_claim('old'))"
        " INSERT INTO t SELECT id FROM c",
        "UPDATE t SET x = c.id FROM dibs_claim('old') c",
        "DELETE FROM t WHERE x IN (SELECT id FROM dibs_claim('old'))",
        "INSERT INTO t VALUES (100) ON CONFLICT DO UPDATE"
        " SET x = dibs_enqueue('q', '1')",
    ],
)
def test_every_kind_of_statement(db, sql):
    """Twice: as a transaction of its own, and within one that rolls back."""
    db.rows("CREATE TABLE t(x UNIQUE)")
    db.rows("INSERT INTO t VALUES (100)")
    db.put(queue="old")
    jobs = db.rows("SELECT id, state FROM dibs_jobs")
    db.rows("BEGIN")
    db.rows(sql)
    db.rows("ROLLBACK")
    assert db.rows("SELECT id, state FROM dibs_jobs") == jobs
    db.rows(sql)
    assert not db.sql.in_transaction
    assert db.rows("SELECT id, state FROM dibs_jobs") != jobs
    assert dibs(db.path, "stats")
    db.assert_sound()


# ---- triggers ----------------------------------------------------------------


def test_every_kind_of_trigger(db):
    db.rows("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    db.rows("CREATE VIEW v AS SELECT * FROM t")
    call = "SELECT dibs_enqueue('q', json_array('{0}', {1}.x));"
    for name, when, row in [
        ("a", "BEFORE INSERT ON t", "new"),
        ("b", "AFTER INSERT ON t", "new"),
        ("c", "AFTER UPDATE ON t", "new"),
        ("d", "BEFORE DELETE ON t", "old"),
        ("e", "INSTEAD OF INSERT ON v", "new"),
    ]:
        body = call.format(name, row)
        db.rows(f"CREATE TRIGGER {name} {when} BEGIN {body} END")
    db.rows("INSERT INTO t(x) VALUES (1)")
    db.rows("UPDATE t SET x = 2")
    db.rows("INSERT INTO v(x) VALUES (3)")
    db.rows("DELETE FROM t")
    payloads = [job["payload"] for job in db.claim(n=10)]
    assert payloads == ['["a",1]', '["b",1]', '["c",2]', '["e",3]', '["d",2]']


def test_a_trigger_keeps_the_id_it_got(db):
    db.rows("CREATE TABLE t(id INTEGER PRIMARY KEY, job)")
    db.rows(
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN UPDATE t"
        " SET job = dibs_enqueue('q', '1') WHERE id = new.id; END"
    )
    db.rows("INSERT INTO t(id) VALUES (5), (6)")
    assert db.rows("SELECT id, job FROM t") == [(5, 1), (6, 2)]
    assert db.value("SELECT last_insert_rowid()") == 6


def test_a_refusal_in_a_trigger_undoes_the_statement(db):
    db.rows("CREATE TABLE t(x)")
    db.rows(
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN"
        " SELECT dibs_enqueue('q', new.x); END"
    )
    sql = "INSERT INTO t VALUES ('1'), ('{')"
    assert db.refused(sql).startswith("DIBS_INVALID: ")
    assert (db.count(), db.value("SELECT count(*) FROM t")) == (0, 0)
    db.rows("BEGIN")
    db.rows("INSERT INTO t VALUES ('1')")
    assert db.refused(sql).startswith("DIBS_INVALID: ")
    db.rows("COMMIT")
    assert (db.count(), db.value("SELECT count(*) FROM t")) == (1, 1)


def test_a_default_value_that_enqueues(db):
    db.rows("CREATE TABLE t(x, job DEFAULT (dibs_enqueue('q', '1')))")
    db.rows("INSERT INTO t(x) VALUES (1), (2)")
    assert db.rows("SELECT x, job FROM t") == [(1, 1), (2, 2)]
