# SPDX-License-Identifier: MIT
"""What each SQL function does, seen by the dibs program, which has the same core
behind its own connection."""

import datetime
import itertools
import json
import sqlite3
import time
from base64 import b64decode

import pytest

from hosts import Refused, connect

MINUTE = 60_000
DAY = 86_400_000


# What a job has in the program's JSON, and a column in the view.
FIELDS = set(
    "id queue name state outcome priority payload headers key attempt"
    " max_attempts crashes created_at due_at claimed_at lease_until finished_at"
    " worker last_error progress result".split()
)


def now():
    return int(time.time() * 1000)


# ---- dibs_init ---------------------------------------------------------------


def test_init_makes_the_tables_once(db):
    db.put()
    assert db.call("dibs_init") == 1
    assert db.count() == 1
    assert db.value("PRAGMA journal_mode") == "wal"


@pytest.mark.parametrize(
    "options, text",
    [
        ('{"two":true}', "'two' of dibs_init()"),
        ('{"two_libraries":1}', "two_libraries is 1: give true or false"),
        ("[]", "options must be a JSON object"),
        ("{", "options must be a JSON object"),
        (5, "options is a number"),
    ],
)
def test_options_of_init_that_are_wrong_make_nothing(tmp_path, options, text):
    sql = connect(str(tmp_path / "new.db"))
    with pytest.raises(sqlite3.OperationalError) as caught:
        sql.execute("SELECT dibs_init(?)", (options,)).fetchall()
    assert str(caught.value).startswith("DIBS_INVALID: ")
    assert text in str(caught.value)
    tables = "SELECT count(*) FROM sqlite_schema"
    assert sql.execute(tables).fetchone() == (0,)
    both = "SELECT dibs_init('{\"two_libraries\": false}')"
    assert sql.execute(both).fetchone() == (1,)
    sql.close()


def reopen(db):
    """The same database by a new connection."""
    db.sql.close()
    db.sql = connect(db.path)


def test_tables_from_the_future_are_left_alone(db):
    db.rows("UPDATE dibs_meta SET value = 99")
    reopen(db)
    for name, values in (("dibs_init", ()), ("dibs_enqueue", ("q", "1"))):
        assert "upgrade dibs" in db.fails("DIBS_SCHEMA", name, *values)
    assert db.value("SELECT max(value) FROM dibs_meta") == 99


# ---- dibs_enqueue ------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    ['{"to":"ann"}', "  [1, 2.50 ] ", '"caf\\u00e9"', "null", "5", '"日本"'],
)
def test_json_is_kept_as_given(db, payload):
    db.put(payload)
    kept = db.rows("SELECT typeof(payload), payload FROM dibs_jobs")
    assert kept == [("text", payload)]
    assert db.take()["payload"] == payload


@pytest.mark.parametrize("payload", [b"", b"\0", b"{", bytes(range(256))])
def test_bytes_are_bytes(db, payload):
    db.put(payload)
    assert db.take()["payload"] == payload


def test_null_is_no_payload(db):
    number = db.put(None)
    assert "payload" not in db.job(number)
    assert db.take()["payload"] is None


def test_a_large_payload(db):
    payload = json.dumps("x" * 1_000_000)
    db.put(payload)
    assert db.take()["payload"] == payload


@pytest.mark.parametrize("number", [5, 1.5, 0])
def test_a_number_is_refused(db, number):
    text = db.fails("DIBS_INVALID", "dibs_enqueue", "q", number)
    assert "json(5)" in text
    assert db.value("SELECT dibs_enqueue('q', json(?))", number) == 1


@pytest.mark.parametrize("payload", ["", "{", "text", "[1,]", "1 2", "1\0"])
def test_text_that_is_no_json_is_refused(db, payload):
    text = db.fails("DIBS_INVALID", "dibs_enqueue", "q", payload)
    assert "JSON" in text
    assert db.count() == 0


def test_the_queue(db):
    assert db.job(db.call("dibs_enqueue", None, "1"))["queue"] == "default"
    assert db.job(db.call("dibs_enqueue", "a/b ü", "1"))["queue"] == "a/b ü"
    for queue in ("", "a*", "a/*", "*", "a\x07", "x" * 256, "a\0b"):
        assert "queue" in db.fails("DIBS_INVALID", "dibs_enqueue", queue, "1")
    for queue in (5, 1.5, b"q"):
        text = db.fails("DIBS_INVALID", "dibs_enqueue", queue, "1")
        assert text.endswith("give text")


def test_options_reach_the_job(db):
    before = now()
    number = db.put(
        name="send",
        headers={"trace": "7f"},
        priority=-5,
        delay="5m",
        expires=86400,
        max_attempts=3,
        key="user-42",
        unique="u",
        unique_for="1h",
        keep="7d",
    )
    job = db.job(number)
    assert job["name"] == "send"
    assert job["headers"] == {"trace": "7f"}
    assert job["priority"] == -5
    assert job["max_attempts"] == 3
    assert job["key"] == "user-42"
    due, created, expires, key = db.rows(
        "SELECT due_at, created_at, expires_at, unique_key FROM dibs_jobs"
    )[0]
    assert before <= created <= now()
    assert due == created + 5 * MINUTE
    assert expires == created + DAY
    assert key == "u"


@pytest.mark.parametrize(
    "delay, milliseconds",
    [("250ms", 250), ("30s", 30_000), ("2h", 120 * MINUTE), (1.5, 1500), (0, 0)],
)
def test_durations_are_text_or_seconds(db, delay, milliseconds):
    db.put(delay=delay)
    ((due, created),) = db.rows("SELECT due_at, created_at FROM dibs_jobs")
    assert due - created == milliseconds


@pytest.mark.parametrize("at", [4102466400000, "2100-01-01T06:00:00Z"])
def test_at_is_milliseconds_or_a_time(db, at):
    db.put(at=at)
    assert db.value("SELECT due_at FROM dibs_jobs") == 4102466400000


@pytest.mark.parametrize(
    "options, text",
    [
        ('{"dealy":"5m"}', "'dealy' of a job"),
        ('{"delay":"5 m"}', 'delay is "5 m"'),
        ('{"delay":-1}', "delay is -1"),
        ('{"delay":1,"at":1}', "delay and at"),
        ('{"priority":"high"}', "an integer"),
        ('{"priority":1e10}', "priority is 10000000000"),
        ('{"headers":{"a":1}}', "flat JSON object"),
        ('{"queue":"q"}', "'queue' of a job"),
        ('{"payload":1}', "'payload' of a job"),
        ("[]", "options must be a JSON object"),
        ("", "options must be a JSON object"),
        ("{", "options must be a JSON object"),
        (5, "options is a number"),
        (b"{}", "options is a BLOB"),
    ],
)
def test_options_that_are_wrong_are_refused(db, options, text):
    given = db.fails("DIBS_INVALID", "dibs_enqueue", "q", "1", options)
    assert text in given
    assert db.count() == 0


def test_the_number_of_arguments_is_checked(db):
    for call in ("dibs_enqueue('q')", "dibs_enqueue('q', '1', '{}', 1)"):
        assert "wrong number of arguments" in db.refused(f"SELECT {call}")


def test_unique_jobs(db):
    first = db.put("1", unique="u")
    assert db.put("2", unique="u") == first
    assert db.put("3", unique="u", on_conflict="replace") == first
    assert db.job(first)["payload"] == 3
    text = db.fails(
        "DIBS_EXISTS",
        "dibs_enqueue",
        "q",
        "4",
        '{"unique":"u","on_conflict":"reject"}',
    )
    assert f"job {first} " in text
    assert db.count() == 1


def test_a_staged_job_is_committed_by_the_program(db):
    number = db.put(stage="5m")
    assert db.job(number)["state"] == "staged"
    db.dibs("commit", number)
    assert db.take()["id"] == number


# ---- dibs_enqueue_many -------------------------------------------------------


def test_many_keep_their_order_and_text(db):
    ids = db.call("dibs_enqueue_many", "q", ' [ 1 , {"a": [2, 3]},"x,]" , null]')
    assert ids == "[1,2,3,4]"
    payloads = [job["payload"] for job in db.claim(n=10)]
    assert payloads == ["1", '{"a": [2, 3]}', '"x,]"', "null"]


def test_many_of_none(db):
    assert db.call("dibs_enqueue_many", "q", " [ ] ") == "[]"
    assert db.count() == 0


def test_many_are_many(db):
    payloads = json.dumps(list(range(10_000)))
    ids = json.loads(db.call("dibs_enqueue_many", "q", payloads))
    assert ids == list(range(1, 10_001))
    assert db.count() == 10_000


def test_many_have_the_options(db):
    db.call("dibs_enqueue_many", "q", "[1,2]", '{"priority":3,"name":"n"}')
    jobs = db.claim(n=10)
    assert [job["name"] for job in jobs] == ["n", "n"]


@pytest.mark.parametrize(
    "payloads", ["{}", "1", "", "[1,]", "[1", "[1]]", None, 5, b"[]"]
)
def test_many_of_what_is_no_array(db, payloads):
    db.fails("DIBS_INVALID", "dibs_enqueue_many", "q", payloads)


def test_many_are_all_or_none(db):
    options = '{"unique":"u","on_conflict":"reject"}'
    db.fails("DIBS_EXISTS", "dibs_enqueue_many", "q", "[1,2]", options)
    assert db.count() == 0


def test_json_results_are_json_to_other_functions(db):
    value = db.value("SELECT json_array(dibs_enqueue_many('q', '[1,2]'))")
    assert value == "[[1,2]]"
    assert json.loads(db.value("SELECT json_array(dibs_version())"))[0]["dibs"]


# ---- dibs_claim --------------------------------------------------------------


def test_every_column_of_a_claim(db):
    before = now()
    number = db.put('{"to":"ann"}', name="send", headers={"a": "b"}, max_attempts=7)
    job = db.take(lease="10m", worker="ann")
    assert list(job) == (
        "id receipt queue name payload headers attempt max_attempts"
        " created_at due_at lease_until".split()
    )
    assert job["id"] == number
    assert job["queue"] == "q"
    assert job["name"] == "send"
    assert job["payload"] == '{"to":"ann"}'
    assert json.loads(job["headers"]) == {"a": "b"}
    assert job["attempt"] == 1
    assert job["max_attempts"] == 7
    assert before <= job["created_at"] == job["due_at"] <= now()
    assert before + 10 * MINUTE <= job["lease_until"] <= now() + 10 * MINUTE
    seen = db.job(number)
    assert seen["state"] == "running"
    assert seen["worker"] == "ann"


def test_a_lease_is_sixty_seconds_unless_said(db):
    db.put()
    job = db.take()
    assert 58_000 < job["lease_until"] - now() <= MINUTE


def test_a_lease_of_the_job(db):
    db.put(lease="1h")
    assert db.take()["lease_until"] - now() > 59 * MINUTE


def test_a_claim_is_detached(db):
    """The connection's end is not the lease's."""
    db.put()
    receipt = db.take()["receipt"]
    reopen(db)
    assert db.value("SELECT state FROM dibs_jobs") == "running"
    assert db.value("SELECT holder IS NULL FROM dibs_leased") == 1
    assert db.call("dibs_ack", receipt) == 1


def test_claims_go_by_priority_then_age(db):
    ids = [db.put(priority=priority) for priority in (0, 7, -1, 7)]
    claimed = [job["id"] for job in db.claim(n=10)]
    assert claimed == [ids[1], ids[3], ids[0], ids[2]]


def test_an_empty_queue_gives_no_rows(db):
    assert db.claim() == []
    assert db.claim("never used") == []
    db.put(delay="1h")
    assert db.claim() == []


def test_claims_of_several_queues(db):
    for queue in ("a/1", "a/2", "b", "default"):
        db.put(queue=queue)
    assert [job["queue"] for job in db.claim("a/*", n=10)] == ["a/1", "a/2"]
    assert [job["queue"] for job in db.claim(None)] == ["default"]
    assert [job["queue"] for job in db.claim(None, queues=["c", "b"])] == ["b"]
    db.put(queue="z")
    assert [job["queue"] for job in db.claim("*", n=10)] == ["z"]


@pytest.mark.parametrize(
    "options, text",
    [
        ('{"m":1}', "'m' of a claim"),
        ('{"delay":1}', "'delay' of a claim"),
        ('{"n":0}', "n is 0"),
        ('{"n":10001}', "n is 10001"),
        ('{"n":"x"}', "an integer"),
        ('{"lease":0}', "lease is 0"),
        ('{"worker":""}', "worker"),
        ('{"queues":["a"]}', "both given"),
        ('{"queues":[]}', "array of strings"),
        ('{"queues":"a"}', "array of strings"),
        ('{"queues":["a",5]}', "array of strings"),
        ("[]", "options must be a JSON object"),
        (5, "options is a number"),
    ],
)
def test_claims_that_are_wrong_take_nothing(db, options, text):
    db.put()
    given = db.refused("SELECT * FROM dibs_claim('q', ?)", options)
    assert given.startswith("DIBS_INVALID: ") and text in given
    assert db.value("SELECT state FROM dibs_jobs") == "ready"


@pytest.mark.parametrize("queue", ["", "a*b", 5, b"q", "q\0"])
def test_queues_that_are_wrong_take_nothing(db, queue):
    given = db.refused("SELECT * FROM dibs_claim(?)", queue)
    assert given.startswith("DIBS_INVALID: queue")


def test_a_claim_needs_its_argument(db):
    db.put()
    for sql in (
        "SELECT * FROM dibs_claim",
        "SELECT * FROM dibs_claim WHERE queue = 'q'",
        "SELECT * FROM dibs_claim WHERE options = '{}'",
        "SELECT * FROM dibs_claim WHERE wanted > 'a'",
    ):
        assert db.refused(sql).startswith("DIBS_INVALID: no queue is given")
    assert "too many arguments" in db.refused(
        "SELECT * FROM dibs_claim('q', '{}', 1)"
    )
    assert db.value("SELECT state FROM dibs_jobs") == "ready"


def running(db):
    return db.value("SELECT count(*) FROM dibs_leased")


@pytest.mark.parametrize(
    "sql, claims",
    [
        # once, however the rest of the statement is
        ("SELECT * FROM dibs_claim('q') c, t WHERE t.x > c.id", 1),
        ("SELECT * FROM t, dibs_claim('q') c WHERE t.x > c.id", 1),
        ("SELECT * FROM t JOIN dibs_claim('q') c ON t.x = c.id", 1),
        ("SELECT * FROM dibs_claim('q') WHERE id = 1 OR id = 2", 1),
        ("SELECT * FROM dibs_claim('q') WHERE id IN (1, 2, 3)", 1),
        ("SELECT * FROM dibs_claim('q') ORDER BY id DESC", 1),
        ("SELECT * FROM t WHERE x IN (SELECT id FROM dibs_claim('q'))", 1),
        ("SELECT count(*), max(id) FROM dibs_claim('q')", 1),
        ("SELECT * FROM dibs_claim('q') LEFT JOIN t ON t.x = id", 1),
        (
            "WITH c AS MATERIALIZED (SELECT * FROM dibs_claim('q'))"
            " SELECT * FROM c a, c b",
            1,
        ),
        # once a row of what stands before it
        ("SELECT * FROM t CROSS JOIN dibs_claim('q')", 3),
        ("SELECT * FROM t LEFT JOIN dibs_claim('q')", 3),
        ("SELECT * FROM t, dibs_claim(iif(t.x, 'q', ''))", 3),
        ("SELECT * FROM dibs_claim('q') UNION ALL SELECT * FROM dibs_claim('q')", 2),
        # not at all
        ("SELECT * FROM dibs_claim('q') LIMIT 0", 0),
        ("SELECT * FROM dibs_claim('q') WHERE 0", 0),
    ],
)
def test_how_often_a_statement_claims(db, sql, claims):
    db.rows("CREATE TABLE t(x)")
    db.rows("INSERT INTO t VALUES (1), (2), (3)")
    db.call("dibs_enqueue_many", "q", "[1,2,3,4,5,6,7,8]")
    db.rows(sql)
    assert running(db) == claims


def test_an_argument_from_a_table_that_comes_later(db):
    """How SQLite says that depends on its version."""
    db.put()
    text = db.refused(
        "SELECT * FROM dibs_claim(t.x) c CROSS JOIN (SELECT 'q' AS x) t"
    )
    assert "no query solution" in text or "no queue is given" in text
    assert running(db) == 0


def test_a_statement_can_be_run_again(db):
    db.call("dibs_enqueue_many", "q", "[1,2,3]")
    sql = "SELECT payload FROM dibs_claim(?)"
    assert [db.rows(sql, "q") for _ in range(4)] == [
        [("1",)],
        [("2",)],
        [("3",)],
        [],
    ]


def test_the_rowid_is_the_job(db):
    db.call("dibs_enqueue_many", "q", "[1,2]")
    rows = db.rows("SELECT rowid, id FROM dibs_claim('q', '{\"n\":2}')")
    assert rows == [(1, 1), (2, 2)]


# ---- settle ------------------------------------------------------------------


def test_ack(db):
    db.put()
    assert db.call("dibs_ack", db.take()["receipt"]) == 1
    assert db.count() == 0


def test_ack_keeps_the_result(db):
    number = db.put(keep="1d")
    db.call("dibs_ack", db.take()["receipt"], '{"ok": true}')
    job = db.job(number)
    assert (job["state"], job["outcome"]) == ("done", "acked")
    assert job["result"] == {"ok": True}


@pytest.mark.parametrize("result", ["", "x", 5, b"1"])
def test_ack_refuses_a_result_that_is_no_json(db, result):
    db.put()
    receipt = db.take()["receipt"]
    db.fails("DIBS_INVALID", "dibs_ack", receipt, result)
    assert db.call("dibs_ack", receipt, None) == 1


def test_retry(db):
    number = db.put()
    assert db.call("dibs_retry", db.take()["receipt"]) == 1
    ((state, delay),) = db.rows("SELECT state, due_at - finished FROM ("
                                "SELECT state, due_at, ? AS finished"
                                " FROM dibs_jobs)", now())
    assert state == "scheduled" and 4_000 < delay <= 5_500
    assert db.job(number)["attempt"] == 1


def test_retry_with_options(db):
    number = db.put(max_attempts=2)
    db.call("dibs_retry", db.take()["receipt"], '{"delay":0,"error":"why"}')
    job = db.take()
    assert (job["id"], job["attempt"]) == (number, 2)
    db.call("dibs_retry", job["receipt"], '{"error":"again"}')
    seen = db.job(number)
    assert seen["state"] == "dead"
    assert [error["text"] for error in seen["errors"]] == ["why", "again"]


@pytest.mark.parametrize(
    "options, text",
    [
        ('{"dealy":1}', "'dealy' of a retry"),
        ('{"delay":-1}', "delay is -1"),
        ('{"error":5}', "a string"),
        ("5m", "options must be a JSON object"),
    ],
)
def test_retry_refuses_wrong_options(db, options, text):
    db.put()
    receipt = db.take()["receipt"]
    assert text in db.fails("DIBS_INVALID", "dibs_retry", receipt, options)
    assert db.call("dibs_retry", receipt) == 1


def test_fail(db):
    number = db.put()
    assert db.call("dibs_fail", db.take()["receipt"], "broken") == 1
    job = db.job(number)
    assert (job["state"], job["last_error"]) == ("dead", "broken")
    number = db.put()
    assert db.call("dibs_fail", db.take()["receipt"], None) == 1
    assert db.job(number)["last_error"] == "failed"


def test_release_counts_no_attempt(db):
    db.put()
    assert db.call("dibs_release", db.take()["receipt"]) == 1
    assert db.take()["attempt"] == 1


@pytest.mark.parametrize("delay", ["1h", 3600, 3600.0])
def test_snooze(db, delay):
    number = db.put()
    assert db.call("dibs_snooze", db.take()["receipt"], delay) == 1
    job = db.job(number)
    assert (job["state"], job["attempt"]) == ("scheduled", 0)
    due = db.value("SELECT due_at FROM dibs_jobs")
    assert 59 * MINUTE < due - now() <= 60 * MINUTE


def test_discard(db):
    number = db.put(keep="1d")
    assert db.call("dibs_discard", db.take()["receipt"], "no use") == 1
    job = db.job(number)
    assert (job["state"], job["outcome"]) == ("done", "discarded")
    assert job["last_error"] == "no use"


def test_extend_never_shortens(db):
    db.put()
    job = db.take()
    assert db.call("dibs_extend", job["receipt"], "1h") == 1
    until = db.value("SELECT lease_until FROM dibs_jobs")
    assert until - now() > 59 * MINUTE
    assert db.call("dibs_extend", job["receipt"], 10) == 1
    assert db.value("SELECT lease_until FROM dibs_jobs") == until


@pytest.mark.parametrize(
    "value", ["", "x", "-1s", -1, b"1s", None, float("inf"), 1e300]
)
def test_durations_that_are_wrong_are_refused(db, value):
    db.put()
    receipt = db.take()["receipt"]
    assert "lease" in db.fails("DIBS_INVALID", "dibs_extend", receipt, value)
    assert "delay" in db.fails("DIBS_INVALID", "dibs_snooze", receipt, value)
    db.fails("DIBS_INVALID", "dibs_extend", receipt, 0)
    assert db.call("dibs_ack", receipt) == 1


def test_checkpoint(db):
    db.put('{"step":0}')
    job = db.take()
    until = db.value("SELECT lease_until FROM dibs_jobs")
    assert db.call("dibs_checkpoint", job["receipt"], ' {"step": 1}') == 1
    assert db.value("SELECT lease_until FROM dibs_jobs") == until
    assert db.call("dibs_checkpoint", job["receipt"], None) == 1
    db.fails("DIBS_INVALID", "dibs_checkpoint", job["receipt"], "{")
    db.fails("DIBS_INVALID", "dibs_checkpoint", job["receipt"], 5)
    db.call("dibs_release", job["receipt"])
    again = db.take()
    assert again["payload"] == ' {"step": 1}'
    assert db.call("dibs_checkpoint", again["receipt"], b"\0\1") == 1
    db.call("dibs_release", again["receipt"])
    assert db.take()["payload"] == b"\0\1"


def test_progress(db):
    number = db.put()
    receipt = db.take()["receipt"]
    assert db.call("dibs_progress", receipt, 0.25, 'one "quarter"') == 1
    assert db.job(number)["progress"] == {"done": 0.25, "text": 'one "quarter"'}
    for done in (1, 0, 0.5):
        assert db.call("dibs_progress", receipt, done) == 1
        assert db.job(number)["progress"] == {"done": done}
    for done in (-0.1, 1.5, "0.5", None, b"1"):
        db.fails("DIBS_INVALID", "dibs_progress", receipt, done)
    db.fails("DIBS_INVALID", "dibs_progress", receipt, 1, 5)
    assert db.job(number)["progress"] == {"done": 0.5}


SETTLE = [
    ("dibs_ack", ()),
    ("dibs_retry", ()),
    ("dibs_fail", ()),
    ("dibs_release", ()),
    ("dibs_snooze", (1,)),
    ("dibs_discard", ()),
    ("dibs_extend", (1,)),
    ("dibs_checkpoint", ("1",)),
    ("dibs_progress", (0.5,)),
]


@pytest.mark.parametrize("name, values", SETTLE)
def test_a_receipt_that_does_not_hold(db, name, values):
    number = db.put()
    receipt = db.take()["receipt"]
    db.call("dibs_release", receipt)
    db.fails("DIBS_LOST", name, receipt, *values)
    newer = db.take()["receipt"]
    db.fails("DIBS_LOST", name, receipt, *values)
    db.dibs("cancel", number)
    db.fails("DIBS_LOST", name, newer, *values)


@pytest.mark.parametrize("name, values", SETTLE)
@pytest.mark.parametrize("receipt", ["", "1", "1:", "1:zz", 5, b"1:00", None])
def test_what_is_no_receipt(db, name, values, receipt):
    db.fails("DIBS_INVALID", name, receipt, *values)


def test_receipts_work_across_sql_and_the_program(db):
    db.call("dibs_enqueue_many", "q", "[1,2]")
    by_sql = db.take()["receipt"]
    (claimed,) = db.dibs("claim", "-q", "q")
    db.dibs("ack", by_sql)
    assert db.call("dibs_ack", claimed["receipt"]) == 1
    assert db.count() == 0


# ---- change ------------------------------------------------------------------


def test_cancel(db):
    waiting, running_job = db.put(), db.put()
    dead = db.put(queue="dead")
    db.call("dibs_fail", db.take("dead")["receipt"])
    receipt = db.claim(n=2)[1]["receipt"]
    for number in (waiting, running_job, dead):
        assert db.call("dibs_cancel", number) == 1
    assert db.call("dibs_cancel", waiting) == 0
    assert db.call("dibs_cancel", 999) == 0
    db.fails("DIBS_LOST", "dibs_ack", receipt)


def test_cancel_of_a_job_that_is_done(db):
    number = db.put(keep="1d")
    db.call("dibs_ack", db.take()["receipt"])
    db.fails("DIBS_STATE", "dibs_cancel", number)


@pytest.mark.parametrize(
    "name, values",
    [
        ("dibs_cancel", ()),
        ("dibs_requeue", ()),
        ("dibs_commit", ()),
        ("dibs_abort", ()),
        ("dibs_change", ('{"priority":1}',)),
        ("dibs_explain", ()),
    ],
)
@pytest.mark.parametrize("number", ["1", 1.0, None, b"1"])
def test_an_id_is_an_integer(db, name, values, number):
    db.put()
    db.fails("DIBS_INVALID", name, number, *values)


def test_commit_and_abort(db):
    first, second = db.put(stage="5m"), db.put(stage="5m")
    assert db.claim(n=9) == []
    assert db.call("dibs_commit", first) == 1
    assert db.call("dibs_abort", second) == 1
    for name in ("dibs_commit", "dibs_abort"):
        assert "ready" in db.fails("DIBS_STATE", name, first)
        db.fails("DIBS_NOT_FOUND", name, second)
    assert [job["id"] for job in db.claim(n=9)] == [first]


def test_a_commit_that_is_late(db):
    number = db.put(stage=0.001)
    while db.value("SELECT staged_until > ? FROM dibs_jobs", now()):
        pass
    db.fails("DIBS_LATE", "dibs_commit", number)


def test_a_commit_rolls_back(db):
    number = db.put(stage="5m")
    db.rows("BEGIN")
    db.call("dibs_commit", number)
    db.rows("ROLLBACK")
    assert db.job(number)["state"] == "staged"


def test_change(db):
    number = db.put(priority=1)
    assert db.call("dibs_change", number, '{"priority":-7}') == 1
    assert db.job(number)["priority"] == -7
    assert db.call("dibs_change", number, '{"at":4102466400000}') == 1
    assert db.value("SELECT due_at FROM dibs_jobs") == 4102466400000
    assert db.call("dibs_change", number, '{"delay":0,"priority":2}') == 1
    assert db.take()["id"] == number
    assert "running" in db.fails(
        "DIBS_STATE", "dibs_change", number, '{"priority":1}'
    )
    db.fails("DIBS_NOT_FOUND", "dibs_change", 99, '{"priority":1}')
    db.fails("DIBS_STATE", "dibs_change", db.put(), '{"stage":"1m"}')
    staged = db.put(stage="1m")
    until = f"SELECT staged_until FROM dibs_jobs WHERE id = {staged}"
    before = db.value(until)
    assert db.call("dibs_change", staged, '{"stage":"1h"}') == 1
    assert db.value(until) >= before + 59 * 60_000


@pytest.mark.parametrize(
    "options, text",
    [
        ('{"key":"k"}', "'key' of a change"),
        ('{"priority":"high"}', "an integer"),
        ('{"delay":1,"at":1}', "delay"),
        ('{"delay":-1}', "delay is -1"),
        ("{}", "nothing to change"),
        ("[]", "options must be a JSON object"),
        (None, "nothing to change"),
        (5, "options is a number"),
    ],
)
def test_changes_that_are_wrong_change_nothing(db, options, text):
    number = db.put()
    job = db.job(number)
    assert text in db.fails("DIBS_INVALID", "dibs_change", number, options)
    assert db.job(number) == job


def test_requeue(db):
    number = db.put()
    db.call("dibs_fail", db.take()["receipt"])
    assert db.call("dibs_requeue", number) == 1
    assert db.call("dibs_requeue", 999) == 0
    assert "ready, not dead" in db.fails("DIBS_STATE", "dibs_requeue", number)
    assert db.take()["attempt"] == 1


def test_requeue_with_a_key_in_use(db):
    number = db.put(unique="u")
    db.call("dibs_fail", db.take()["receipt"])
    db.put(unique="u")
    db.fails("DIBS_EXISTS", "dibs_requeue", number)
    assert db.call("dibs_redrive", "q") == 0
    assert db.job(number)["state"] == "dead"


def test_redrive(db):
    for queue in ("a/1", "a/2", "b"):
        db.put(queue=queue)
        db.call("dibs_fail", db.take(queue)["receipt"])
    assert db.call("dibs_redrive", "a/*") == 2
    assert db.call("dibs_redrive", "a/*") == 0
    assert db.call("dibs_redrive", "*") == 1
    assert db.call("dibs_redrive", "never used") == 0


def test_clear(db):
    kept = [db.put(queue="a/1"), db.put(queue="a/1")]
    db.call("dibs_fail", db.take("a/1")["receipt"])
    db.take("a/1")
    db.call("dibs_enqueue_many", "a/2", json.dumps(list(range(1200))))
    db.put(queue="a/2", delay="1h")
    db.put(queue="b")
    assert db.call("dibs_clear", "a/*") == 1201
    assert db.call("dibs_clear", "never used") == 0
    left = db.rows("SELECT id FROM dibs_jobs WHERE queue <> 'b' ORDER BY id")
    assert left == [(number,) for number in kept]


def test_purge(db):
    for queue in ("a/1", "a/2", "b"):
        db.put(queue=queue)
        db.call("dibs_fail", db.take(queue)["receipt"])
    db.put(queue="a/1")
    assert db.call("dibs_purge", "a/*") == 2
    assert db.call("dibs_purge", "a/*") == 0
    states = db.rows("SELECT queue, state FROM dibs_jobs ORDER BY id")
    assert states == [("b", "dead"), ("a/1", "ready")]


def test_prune(db):
    for keep in ("1d", "1ms"):  # a later claim would remove it
        db.put(keep=keep)
        db.call("dibs_ack", db.take()["receipt"])
    over = now() + 1
    while now() <= over:
        pass
    assert db.call("dibs_prune") == 1
    assert db.call("dibs_prune") == 0
    assert db.count() == 1


def test_settings_of_a_queue(db):
    settings = {
        "limit": 5,
        "rate": "10/1s",
        "backoff_factor": 1.5,
        "lease": "5m",
        "timeout": 90,
        "keep": "forever",
    }
    assert db.call("dibs_queue_set", "q", json.dumps(settings)) == 1
    shown = json.loads(db.call("dibs_queue_show", "q"))
    assert shown == {
        "queue": "q", "paused": False, **settings, "timeout": "90s"
    }
    taken_back = '{"limit":null,"rate":"none","keep":null}'
    assert db.call("dibs_queue_set", "q", taken_back) == 1
    shown = json.loads(db.call("dibs_queue_show", "q"))
    assert shown.keys() == {
        "queue", "paused", "backoff_factor", "lease", "timeout"
    }
    assert db.call("dibs_queue_set", "q", "{}") == 1
    assert json.loads(db.call("dibs_queue_show", "q")) == shown
    db.put()
    assert db.take()["lease_until"] - now() > 4 * MINUTE


@pytest.mark.parametrize(
    "settings, text",
    [
        ('{"limits":5}', "no setting 'limits'"),
        ('{"limit":-1}', "limit is '-1'"),
        ('{"limit":true}', "limit is 'true'"),
        ('{"rate":10}', "rate is '10'"),
        ('{"lease":"5m","rate":"x"}', "rate is 'x'"),
        ('{"lease":{}}', "lease is '{}'"),
        ('{"lease":"\\u0000"}', "NUL"),
        ("[]", "settings must be a JSON object"),
        ("", "settings must be a JSON object"),
        (None, "no settings"),
        (5, "settings is a number"),
    ],
)
def test_settings_that_are_wrong_set_nothing(db, settings, text):
    assert text in db.fails("DIBS_INVALID", "dibs_queue_set", "q", settings)
    shown = json.loads(db.call("dibs_queue_show", "q"))
    assert shown == {"queue": "q", "paused": False}


@pytest.mark.parametrize("queue", ["", "a/*", "*", 5, None])
def test_settings_are_of_one_queue(db, queue):
    db.fails("DIBS_INVALID", "dibs_queue_set", queue, '{"limit":5}')
    db.fails("DIBS_INVALID", "dibs_queue_show", queue)
    db.fails("DIBS_INVALID", "dibs_explain_queue", queue)
    assert db.value("SELECT count(*) FROM dibs_queue") == 0


def test_pause_and_resume(db):
    for queue in ("a/1", "a/2", "b"):
        db.put(queue=queue)
    assert db.call("dibs_pause", "a/*") == 2
    assert db.call("dibs_pause", "a/1") == 0
    assert [job["queue"] for job in db.claim("*", n=9)] == ["b"]
    paused = [queue["queue"] for queue in db.dibs("stats") if queue["paused"]]
    assert paused == ["a/1", "a/2"]
    assert db.call("dibs_resume", "a/1") == 1
    assert db.call("dibs_resume", "*") == 1
    assert len(db.claim("a/*", n=9)) == 2
    db.rows("BEGIN")
    db.call("dibs_pause", "b")
    db.rows("ROLLBACK")
    assert not [queue for queue in db.dibs("stats") if queue["paused"]]


@pytest.mark.parametrize(
    "name",
    ["dibs_clear", "dibs_purge", "dibs_redrive", "dibs_pause", "dibs_resume"],
)
@pytest.mark.parametrize("queue", [None, "", "a*", 5])
def test_what_removes_or_moves_wants_a_queue(db, name, queue):
    db.put()
    db.fails("DIBS_INVALID", name, queue)
    assert db.count() == 1


# ---- look --------------------------------------------------------------------


def jobs_in_every_state(db):
    """One of each state, dead and done ones with what they had."""
    db.put(name="n", headers={"a": "b"}, priority=3, key="k")
    db.put(key="k", expires="1d", timeout="5m")  # blocked
    db.put(delay="1h", max_attempts=3)
    db.put(stage="1h")
    for queue in ("running", "dead", "done", "cancelled"):
        db.put(b"\0", queue=queue, keep="1d", lease="1h")
    receipts = [
        db.take(queue, worker="w")["receipt"]
        for queue in ("running", "dead", "done")
    ]
    db.call("dibs_progress", receipts[0], 0.25, 'one "quarter"')
    db.call("dibs_progress", receipts[1], 1)
    db.call("dibs_retry", receipts[1], '{"delay":0,"error":"again"}')
    db.call("dibs_fail", db.take("dead")["receipt"], "no\nmore")
    db.call("dibs_ack", receipts[2], '{"ok":true}')
    db.call("dibs_cancel", 8)


def milliseconds(text):
    moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return round(moment.timestamp() * 1000)


def test_the_view_shows_what_the_program_does(db):
    """They are two statements, for one must do without JSON functions."""
    jobs_in_every_state(db)
    cursor = db.sql.execute("SELECT * FROM dibs_jobs ORDER BY id")
    names = [column[0] for column in cursor.description]
    rows = [dict(zip(names, row)) for row in cursor.fetchall()]
    jobs = db.dibs("list", "--limit", 100)
    states = {job["state"] for job in jobs}
    assert len(jobs) == 8 and len(states) == 7, states
    for job, row in zip(jobs, rows):
        if "payload_base64" in job:
            assert row.pop("payload") == b64decode(job.pop("payload_base64"))
        for name, value in job.items():
            if name.endswith("_at") or name == "lease_until":
                value = milliseconds(value)
            shown = row.pop(name)
            if name in ("payload", "headers", "progress", "result"):
                shown = json.loads(shown)
            assert shown == value, (name, job["state"])
        more = {name for name, shown in row.items() if shown is not None}
        assert not more & FIELDS, job["state"]


def test_stats_are_those_of_the_program(db):
    assert db.call("dibs_stats") == "[]"
    db.call("dibs_enqueue_many", 'q"1', "[1,2,3]")
    db.put(queue="r", delay="1h")
    db.put(queue="r")
    db.call("dibs_fail", db.take("r")["receipt"])
    db.take('q"1')
    stats = json.loads(db.call("dibs_stats"))
    program = db.dibs("stats")
    for queue in program + stats:
        queue.pop("oldest_ready_at", None)
    assert stats == program
    oldest = json.loads(db.call("dibs_stats"))[0]["oldest_ready_at"]
    assert oldest == db.value("SELECT min(created_at) FROM dibs_jobs")


def test_explain(db):
    first, second = db.put(key="k"), db.put(key="k", delay="1h")
    reasons = json.loads(db.call("dibs_explain", second))
    behind = {reason["reason"]: reason for reason in reasons}["behind"]
    assert behind["id"] == first and behind["text"]
    third = db.put(delay="1h")
    (reason,) = json.loads(db.call("dibs_explain", third))
    due = db.value("SELECT due_at FROM dibs_jobs WHERE id = ?", third)
    assert (reason["reason"], reason["at"]) == ("scheduled", due)
    assert "id" not in reason
    db.fails("DIBS_NOT_FOUND", "dibs_explain", 999)
    db.fails("DIBS_INVALID", "dibs_explain", "1")


def test_explain_queue(db):
    def reasons(queue):
        found = json.loads(db.call("dibs_explain_queue", queue))
        return [reason["reason"] for reason in found]

    assert reasons("q") == ["empty"]
    db.put()
    db.call("dibs_queue_set", "q", '{"limit":0}')
    assert "limit" in reasons("q")
    db.call("dibs_pause", "q")
    assert reasons("q")[0] == "paused"


def test_version(db):
    (program,) = db.dibs("version")
    assert json.loads(db.call("dibs_version")) == program


# ---- what the functions are --------------------------------------------------


CHANGING = [
    "dibs_init()",
    "dibs_enqueue_many('q', '[1]')",
    "dibs_ack('1:0')",
    "dibs_retry('1:0')",
    "dibs_fail('1:0')",
    "dibs_release('1:0')",
    "dibs_extend('1:0', 1)",
    "dibs_checkpoint('1:0', '1')",
    "dibs_progress('1:0', 0.5)",
    "dibs_snooze('1:0', 1)",
    "dibs_discard('1:0')",
    "dibs_commit(1)",
    "dibs_abort(1)",
    "dibs_cancel(1)",
    "dibs_change(1, '{\"priority\":1}')",
    "dibs_requeue(1)",
    "dibs_redrive('q')",
    "dibs_clear('q')",
    "dibs_purge('q')",
    "dibs_prune()",
    "dibs_pause('q')",
    "dibs_resume('q')",
    "dibs_queue_set('q', '{}')",
]
OTHERS = [
    "dibs_claim",
    "dibs_enqueue",
    "dibs_explain",
    "dibs_explain_queue",
    "dibs_queue_show",
    "dibs_stats",
    "dibs_version",
]


def test_all_are_there_and_nothing_else(shell):
    names = shell.run(
        "SELECT name FROM pragma_function_list WHERE name LIKE 'dibs%'"
        " UNION SELECT name FROM pragma_module_list WHERE name LIKE 'dibs%';"
    )
    assert names == sorted([call.split("(")[0] for call in CHANGING] + OTHERS)


# Values of all kinds, as SQL, and too much of each.
STRANGE = """NULL; ''; 'q'; '1:00'; '{}'; '[]'; '{"x":1}'; '{"n":1e99}'; x''; x'71';
    CAST(x'6100' AS TEXT); CAST(x'ff22' AS TEXT); 0; 1; -1; 1.5; 1e300; 9e999;
    1 << 53; -9223372036854775807 - 1; hex(zeroblob(200));
    printf('%.*c', 2000, '[')""".split(";")

STATUSES = "EXISTS INVALID LATE LOST NOT_FOUND STATE TOO_BIG".split()


def test_every_error_begins_with_a_status(db):
    """Each function with values of all kinds."""
    rows = db.rows(
        "SELECT name, narg FROM pragma_function_list WHERE name LIKE 'dibs%'"
    )
    assert len(rows) > 30
    failed = set()
    for name, count in rows:
        for values in itertools.product(STRANGE, repeat=min(count, 2)):
            sql = ", ".join([*values, "'{}'"][:count])
            try:
                db.rows(f"SELECT {name}({sql})")
            except Refused as error:
                status, _, text = str(error).partition(": ")
                assert status[:5] == "DIBS_" and status[5:] in STATUSES, sql
                assert text, (name, sql)
                failed.add(name)
    quiet = {"dibs_version", "dibs_stats", "dibs_prune"}
    assert {name for name, _ in rows} - failed == quiet
    db.assert_sound()


@pytest.mark.parametrize("call", CHANGING)
def test_what_changes_state_is_refused_in_views_and_triggers(db, call):
    db.put()
    db.rows("CREATE TABLE t(x)")
    db.rows(f"CREATE VIEW v AS SELECT {call} AS x")
    assert "unsafe use of dibs_" in db.refused("SELECT x FROM v")
    db.rows(f"CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT {call}; END")
    assert "unsafe use of dibs_" in db.refused("INSERT INTO t VALUES (1)")
    assert db.value("SELECT state FROM dibs_jobs") == "ready"


def test_a_claim_is_refused_in_views_and_triggers(db):
    db.put()
    db.rows("CREATE TABLE t(x)")
    db.rows("CREATE VIEW v AS SELECT * FROM dibs_claim('q')")
    assert "unsafe use of virtual table" in db.refused("SELECT * FROM v")
    db.rows(
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN"
        " INSERT INTO t SELECT id FROM dibs_claim('q'); END"
    )
    assert "unsafe use of virtual table" in db.refused("INSERT INTO t VALUES (1)")
    assert running(db) == 0


def test_no_function_is_deterministic_that_must_not_be(db):
    db.refused("CREATE TABLE t(x, y AS (dibs_enqueue('q', '1')))")
    db.rows("CREATE TABLE t(x)")
    db.refused("CREATE INDEX i ON t(dibs_enqueue('q', x))")
    db.rows("SELECT dibs_enqueue('q', '1') FROM json_each('[1,2,3]')")
    assert db.count() == 3
