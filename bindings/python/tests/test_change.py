# SPDX-License-Identifier: MIT
from __future__ import annotations

from datetime import timedelta

import pytest

import dibs


def test_cancel_ends_it_and_refuses_the_ack(db: dibs.Database, q: dibs.Queue) -> None:
    waiting, running = q.enqueue(1), q.enqueue(2, priority=1)
    job = q.claim()
    assert job is not None

    outcomes = db.cancel(waiting, running, 99)

    assert [type(each.error) for each in outcomes] == [
        type(None),
        type(None),
        dibs.NotFoundError,
    ]
    assert outcomes[2].id == 99
    with pytest.raises(dibs.LostError):
        job.ack()


def test_change_moves_a_waiting_job(db: dibs.Database, q: dibs.Queue) -> None:
    id = q.enqueue(1)

    db.change(id, priority=7, delay=timedelta(minutes=1))

    job = db.get(id)
    assert (job.priority, job.state) == (7, "scheduled")
    db.change(id, at=0)
    assert db.get(id).state == "ready"
    q.claim()
    with pytest.raises(dibs.StateError):
        db.change(id, priority=1)


def test_a_paused_queue_gives_nothing(q: dibs.Queue) -> None:
    q.enqueue(1)

    assert q.pause() == 1
    assert q.claim() is None
    assert q.stats().paused
    assert q.resume() == 1
    assert q.claim() is not None


def test_dead_letters_go_back_to_work(db: dibs.Database, q: dibs.Queue) -> None:
    ids = q.enqueue_many(range(3))
    for job in q.claim_many(3):
        job.fail("why")

    (outcome,) = db.dead.requeue(ids[0])
    assert (outcome.state, outcome.error) == ("ready", None)
    assert db.dead.redrive("emails") == dibs.Redriven(2, [])
    assert db.dead.list() == []
    for job in q.claim_many(3):
        job.fail("again")
    assert db.dead.purge("emails") == 3


def test_a_redrive_skips_what_is_there_again(db: dibs.Database, q: dibs.Queue) -> None:
    id = q.enqueue(1, unique="u")
    job = q.claim()
    assert job is not None
    job.fail()
    q.enqueue(2, unique="u")

    assert q.redrive() == dibs.Redriven(0, [id])
    (outcome,) = db.dead.requeue(id)
    assert isinstance(outcome.error, dibs.ExistsError)


def test_clear_removes_what_waits(db: dibs.Database, q: dibs.Queue) -> None:
    q.enqueue_many(range(5))
    held = q.claim()
    assert held is not None

    assert q.clear() == 4
    held.ack()
    with pytest.raises(dibs.InvalidError):
        db.clear()


def test_prune_removes_what_was_kept_long_enough() -> None:
    clock = dibs.Clock(1_700_000_000)
    with dibs.open(clock=clock) as db:
        db.queue().enqueue(1, keep=60)
        with db.queue().consume():
            pass
        assert db.prune() == 0

        clock.advance(61)

        assert db.prune() == 1


def test_settings_take_effect_at_once(q: dibs.Queue) -> None:
    q.set(limit=1, rate=(10, 1), max_attempts=3, keep=timedelta(days=7))
    q.enqueue_many(range(2))

    settings = q.settings()
    assert settings["queue"] == "emails"
    assert settings["limit"] == 1
    assert settings["max_attempts"] == 3
    assert q.claim() is not None
    assert q.claim() is None
    assert [each.reason for each in q.explain()] == ["limit"]

    q.set(limit=None)

    assert "limit" not in q.settings()
    assert q.claim() is not None


@pytest.mark.parametrize(
    ("settings", "says"), [({"limit": -1}, "limit"), ({"colour": 1}, "colour")]
)
def test_a_bad_setting_is_named(
    q: dibs.Queue, settings: dict[str, object], says: str
) -> None:
    with pytest.raises(dibs.InvalidError, match=says):
        q.set(**settings)
