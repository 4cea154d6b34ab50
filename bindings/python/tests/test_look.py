# SPDX-License-Identifier: MIT
from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

import dibs


def test_stats_count_each_state(db: dibs.Database, q: dibs.Queue) -> None:
    q.enqueue_many(range(3))
    q.enqueue(1, delay=60)
    assert q.claim() is not None

    stats = q.stats()

    assert (stats.ready, stats.scheduled, stats.running) == (2, 1, 1)
    assert stats.unfinished == 4
    assert stats.oldest_ready_at is not None
    assert [each.queue for each in db.stats()] == ["emails"]
    assert db.stats("never") == [
        dibs.QueueStats("never", 0, 0, 0, 0, 0, 0, 0, None, False, 0)
    ]
    db.queue("emails/a").enqueue(1)
    db.queue("emails/b").enqueue(1)
    assert db.queue("emails/*").stats().ready == 2


def test_lists_are_read_in_pages(db: dibs.Database, q: dibs.Queue) -> None:
    ids = q.enqueue_many(range(5), name="n")
    db.queue("other").enqueue(1)

    page = q.list(limit=2)
    rest = q.list(after=page[-1].id)

    assert [each.id for each in page + rest] == ids
    assert q.list(state="dead") == []
    assert len(db.list(name="n", payloads=False)) == 5
    assert db.list(payloads=False)[0].raw is None
    with pytest.raises(dibs.InvalidError, match="lost"):
        db.list(state="lost")


def test_a_job_as_a_dict_has_only_what_it_has(db: dibs.Database, q: dibs.Queue) -> None:
    job = db.get(q.enqueue({"a": 1}, name="n"))

    assert job.as_dict() == {
        "id": job.id,
        "queue": "emails",
        "name": "n",
        "state": "ready",
        "priority": 0,
        "payload": {"a": 1},
        "attempt": 0,
        "max_attempts": 20,
        "crashes": 0,
        "created_at": job.created_at,
        "due_at": job.due_at,
    }


def test_explain_says_why(db: dibs.Database, q: dibs.Queue) -> None:
    id = q.enqueue(1, delay=60)

    (reason, *_) = db.explain(id)

    assert reason.reason == "scheduled"
    assert reason.at is not None
    assert db.next_event() == reason.at
    assert [each.reason for each in db.queue("none").explain()] == ["empty"]
    with pytest.raises(dibs.NotFoundError):
        db.explain(99)


def test_wait_ends_with_the_job(db: dibs.Database, q: dibs.Queue) -> None:
    id = q.enqueue(1, keep=60)

    def work() -> None:
        with q.consume(wait=60) as job:
            assert job is not None
            job.ack({"n": 5})

    thread = threading.Thread(target=work)
    thread.start()

    assert db.result(id, timeout=60) == {"n": 5}
    thread.join()


def test_wait_for_a_job_that_is_not_kept(db: dibs.Database, q: dibs.Queue) -> None:
    id = q.enqueue(1)
    job = q.claim()
    assert job is not None
    waited: list[object] = []
    thread = threading.Thread(target=lambda: waited.append(db.wait(id, 60)))
    thread.start()
    while not db._waiting:
        time.sleep(0.001)
    time.sleep(0.05)
    job.ack("gone")
    thread.join(60)

    assert waited == [None]
    with pytest.raises(dibs.NotFoundError):
        db.wait(id)


def test_the_result_of_a_dead_job_is_its_error(
    db: dibs.Database, q: dibs.Queue
) -> None:
    id = q.enqueue(1)
    job = q.claim()
    assert job is not None
    job.fail("no such user")

    with pytest.raises(dibs.JobFailedError, match="no such user") as caught:
        db.result(id, 60)

    assert caught.value.job.id == id


def test_a_wait_that_runs_out_is_a_timeout(db: dibs.Database, q: dibs.Queue) -> None:
    id = q.enqueue(1)

    with pytest.raises(TimeoutError) as caught:
        db.wait(id, timeout=timedelta(milliseconds=10))

    assert isinstance(caught.value, dibs.EmptyError)
    assert caught.value.id == id


def test_join_waits_for_the_last_job(db: dibs.Database, q: dibs.Queue) -> None:
    q.enqueue(1)
    job = q.claim()
    assert job is not None
    assert q.join(timeout=0.01) is False

    thread = threading.Timer(0.05, job.ack)
    thread.start()

    assert db.join("emails", timeout=60) is True
    thread.join()


def test_doctor_looks(db: dibs.Database) -> None:
    findings = db.doctor(thorough=True)

    assert {each.level for each in findings} <= {"ok", "warning", "error"}
    assert any(each.check == "integrity" for each in findings)
    assert not [each for each in findings if each.level == "error"]


def test_events_are_logged(
    db: dibs.Database, q: dibs.Queue, caplog: pytest.LogCaptureFixture
) -> None:
    id = q.enqueue(1)
    job = q.claim()
    assert job is not None

    with caplog.at_level(logging.INFO):
        job.fail("why")

    (record,) = [each for each in caplog.records if each.name == "dibs.events"]
    assert record.levelno == logging.ERROR
    assert record.dibs_event == "dead"  # type: ignore[attr-defined]
    assert record.dibs_id == id  # type: ignore[attr-defined]
    assert record.dibs_queue == "emails"  # type: ignore[attr-defined]


def test_events_are_quiet_without_logging(
    path: str, program: Callable[[str], subprocess.Popen[str]]
) -> None:
    other = program(
        """
        import dibs, sys
        q = dibs.open(sys.argv[1]).queue()
        q.enqueue(1)
        q.claim().fail("why")
        """
    )

    assert other.communicate(timeout=60) == ("", "")


def test_a_repr_says_what_it_is(db: dibs.Database, q: dibs.Queue) -> None:
    job = db.get(q.enqueue(1, name="send"))

    assert repr(job) == f"<dibs.Job {job.id} 'send' in 'emails' ready>"
    assert "app.db" in repr(db)
    assert "emails" in repr(q)
    assert "closed" not in repr(db)
