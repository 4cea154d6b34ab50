# SPDX-License-Identifier: MIT
from __future__ import annotations

import math
import threading
from datetime import datetime, timedelta, timezone

import pytest

import dibs


def test_an_id_is_an_increasing_int(q: dibs.Queue) -> None:
    first, second = q.enqueue(1), q.enqueue(2)

    assert isinstance(first, int)
    assert second == first + 1
    assert not first.existing


@pytest.mark.parametrize(
    "value",
    [
        {"to": "alice@example.com", "cc": []},
        [1, 2.5, True, None],
        "text, ünïcödé, \U0001f600",
        "\ud800 alone",
        "",
        0,
        None,
        False,
        b"",
        b"\0\xff\0",
    ],
)
def test_a_payload_comes_back_as_it_went(q: dibs.Queue, value: object) -> None:
    id = q.enqueue(value)

    job = q.claim()

    assert job is not None
    assert job.id == id
    assert job.data == value
    assert type(job.data) is type(value)


def test_no_payload_is_not_null(q: dibs.Queue) -> None:
    q.enqueue()
    q.enqueue(None)

    absent, null = q.peek(2)

    assert (absent.raw, absent.data) == (None, None)
    assert (null.raw, null.data) == ("null", None)


@pytest.mark.parametrize("data", [bytearray(b"a\0"), memoryview(b"a\0")])
def test_what_is_like_bytes_becomes_bytes(q: dibs.Queue, data: object) -> None:
    q.enqueue(data)

    assert q.peek()[0].data == b"a\0"


@pytest.mark.parametrize(
    ("value", "error"), [(object(), TypeError), (math.nan, ValueError)]
)
def test_what_json_cannot_hold_is_refused(
    q: dibs.Queue, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        q.enqueue(value)
    assert q.stats().unfinished == 0


def test_every_option_reaches_the_job(db: dibs.Database, q: dibs.Queue) -> None:
    id = q.enqueue(
        1,
        name="send",
        headers={"trace": "1"},
        priority=-5,
        expires=timedelta(hours=1),
        max_attempts=3,
        max_crashes=2,
        backoff=1,
        backoff_factor=3,
        backoff_cap=100,
        backoff_jitter=0,
        lease=timedelta(minutes=2),
        timeout=30,
        keep=dibs.FOREVER,
        key="user-42",
        limit_key="tenant",
        unique="once",
        unique_for="start",
        unique_scope="all",
        on_conflict="keep",
    )

    job = db.get(id)

    assert job.name == "send"
    assert job.headers == {"trace": "1"}
    assert job.priority == -5
    assert job.expires_at is not None
    assert job.expires_at - job.created_at == timedelta(hours=1)
    assert job.max_attempts == 3
    assert job.lease == timedelta(minutes=2)
    assert job.timeout == timedelta(seconds=30)
    assert job.key == "user-42"
    claimed = q.claim()
    assert claimed is not None
    assert claimed.retry(error="why") == "scheduled"
    due = db.get(id).due_at
    assert due is not None
    assert timedelta(0) < due - db.now() <= timedelta(seconds=1)


@pytest.mark.parametrize("delay", [60, 60.0, timedelta(minutes=1)])
def test_a_delay_is_seconds_or_a_timedelta(
    db: dibs.Database, q: dibs.Queue, delay: dibs.Duration
) -> None:
    job = db.get(q.enqueue(1, delay=delay))

    assert job.state == "scheduled"
    assert job.due_at == job.created_at + timedelta(minutes=1)


@pytest.mark.parametrize(
    "at",
    [
        datetime(2100, 1, 1, 12, tzinfo=timezone.utc),
        datetime(2100, 1, 1, 14, tzinfo=timezone(timedelta(hours=2))),
        datetime(2100, 1, 1, 12, tzinfo=timezone.utc).timestamp(),
        datetime.fromtimestamp(4102488000),
    ],
)
def test_at_is_a_moment(db: dibs.Database, q: dibs.Queue, at: dibs.Moment) -> None:
    job = db.get(q.enqueue(1, at=at))

    assert job.due_at == datetime(2100, 1, 1, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"priority": 2**40}, dibs.InvalidError, "priority"),
        ({"priority": "high"}, TypeError, "priority"),
        ({"delay": "5m"}, TypeError, "delay"),
        ({"delay": -1}, dibs.InvalidError, "delay"),
        ({"delay": math.nan}, dibs.InvalidError, "delay"),
        ({"at": timedelta(1)}, TypeError, "at"),
        ({"delay": 1, "at": 1}, dibs.InvalidError, "delay"),
        ({"on_conflict": "fight"}, dibs.InvalidError, "on_conflict"),
        ({"unique_for": "ever"}, dibs.InvalidError, "unique_for"),
        ({"key": "a\0b"}, dibs.InvalidError, "key"),
        ({"name": "a*"}, dibs.InvalidError, "name"),
        ({"name": 5}, TypeError, "name"),
        ({"headers": {"a": 1}}, dibs.InvalidError, "header"),
        ({"colour": "red"}, TypeError, "colour"),
    ],
)
def test_a_bad_option_is_named(
    q: dibs.Queue, options: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        q.enqueue(1, **options)  # type: ignore[arg-type]
    assert q.stats().unfinished == 0


def test_many_are_one_transaction(q: dibs.Queue) -> None:
    ids = q.enqueue_many(range(1000), priority=1)

    assert ids == list(range(ids[0], ids[0] + 1000))
    assert [each.data for each in q.peek(1000)] == list(range(1000))
    assert q.enqueue_many([]) == []


def test_one_bad_job_of_many_takes_none(path: str) -> None:
    with dibs.open(path, max_payload=10) as db:
        with pytest.raises(dibs.TooBigError) as caught:
            db.queue().enqueue_many(["short", "far too long", "short"])

        assert caught.value.index == 1
        assert db.queue().stats().unfinished == 0


def test_a_unique_job_is_there_once(q: dibs.Queue) -> None:
    first = q.enqueue(1, unique="u")
    second = q.enqueue(2, unique="u")

    assert second == first
    assert (first.existing, second.existing) == (False, True)
    with pytest.raises(dibs.ExistsError) as caught:
        q.enqueue(3, unique="u", on_conflict="reject")
    assert caught.value.id == first
    assert caught.value.status == "DIBS_EXISTS"


def test_a_staged_job_waits_for_its_commit(db: dibs.Database, q: dibs.Queue) -> None:
    kept, dropped = q.enqueue(1, stage=60), q.enqueue(2, stage=60)
    assert q.claim() is None

    db.commit(kept)
    db.abort(dropped)

    assert [each.id for each in q.claim_many(10)] == [kept]
    with pytest.raises(dibs.StateError):
        db.commit(kept)


def test_threads_get_their_own_errors(db: dibs.Database) -> None:
    q = db.queue("threads")
    wrong: list[object] = []

    def enqueue(name: str) -> None:
        for number in range(50):
            if number % 3:
                q.enqueue(number)
                continue
            try:
                q.enqueue(1, key=f"{name}*{number}")
            except dibs.InvalidError as error:
                if f"{name}*{number}" not in str(error):
                    wrong.append(error)
            else:
                wrong.append("no error")

    threads = [
        threading.Thread(target=enqueue, args=(f"thread-{i}-",)) for i in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert wrong == []
    assert q.stats().ready == 8 * 33


def test_another_codec_of_json(path: str) -> None:
    import json

    codec = dibs.Codec(
        lambda value: json.dumps(value).encode(), lambda text: ("read", text)
    )
    with dibs.open(path, codec=codec) as db:
        db.queue().enqueue({"a": 1})

        assert db.queue().peek()[0].data == ("read", '{"a": 1}')
    with dibs.open(path) as db:
        assert db.queue().peek()[0].data == {"a": 1}


def test_a_codec_that_is_not_json_leaves_bytes_alone(path: str) -> None:
    import pickle

    codec = dibs.Codec(pickle.dumps, pickle.loads, content_type="application/x-pickle")
    with dibs.open(path, codec=codec) as db:
        q = db.queue()
        q.enqueue({1, 2}, headers={"trace": "1"})
        q.enqueue(b"bytes")
        q.enqueue()

        pickled, bytes_, absent = q.peek(3)
        assert pickled.data == {1, 2}
        assert pickled.headers == {
            "trace": "1",
            "content-type": "application/x-pickle",
        }
        assert bytes_.data == b"bytes"
        assert absent.data is None
