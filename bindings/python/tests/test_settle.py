# SPDX-License-Identifier: MIT
from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from datetime import timedelta

import pytest

import dibs


def claim(q: dibs.Queue, **options: object) -> dibs.Job:
    q.enqueue(1, **options)  # type: ignore[arg-type]
    job = q.claim()
    assert job is not None
    return job


def test_ack_is_done(db: dibs.Database, q: dibs.Queue) -> None:
    job = claim(q)

    job.ack()

    assert job.settled
    with pytest.raises(dibs.NotFoundError):
        db.get(job.id)


def test_a_kept_job_has_its_result(db: dibs.Database, q: dibs.Queue) -> None:
    job = claim(q, keep=3600)

    job.ack({"sent": True})

    kept = db.get(job.id)
    assert (kept.state, kept.outcome) == ("done", "acked")
    assert kept.result == {"sent": True}
    assert kept.finished_at is not None


def test_a_second_ack_is_lost(q: dibs.Queue) -> None:
    job = claim(q)
    job.ack()

    with pytest.raises(dibs.LostError) as caught:
        job.ack()

    assert caught.value.id == job.id


def test_retry_keeps_the_error(db: dibs.Database, q: dibs.Queue) -> None:
    job = claim(q)

    state = job.retry(timedelta(seconds=5), "no route to host")

    assert state == "scheduled"
    again = db.get(job.id)
    assert again.last_error == "no route to host"
    assert [(each.attempt, each.text) for each in again.errors] == [
        (1, "no route to host")
    ]


def test_the_last_attempt_is_final(db: dibs.Database, q: dibs.Queue) -> None:
    job = claim(q, max_attempts=1)
    assert job.final

    assert job.retry(error="why") == "dead"
    assert [each.id for each in db.dead.list("emails")] == [job.id]


@pytest.mark.parametrize(
    ("settle", "state", "outcome"),
    [
        (lambda job: job.fail("why"), "dead", None),
        (lambda job: job.release(), "ready", None),
        (lambda job: job.snooze(60), "scheduled", None),
        (lambda job: job.discard("why"), "done", "discarded"),
    ],
)
def test_the_other_ends(
    db: dibs.Database, q: dibs.Queue, settle, state, outcome
) -> None:
    job = claim(q, keep=60)

    settle(job)

    after = db.get(job.id)
    assert (after.state, after.outcome) == (state, outcome)


def test_extend_holds_it_longer(db: dibs.Database, q: dibs.Queue) -> None:
    job = claim(q)

    until = job.extend(timedelta(hours=1))

    assert until - db.now() > timedelta(minutes=59)
    assert db.get(job.id).lease_until == until
    with pytest.raises(dibs.InvalidError):
        job.extend(0)


def test_a_checkpoint_is_the_next_attempts_payload(
    db: dibs.Database, q: dibs.Queue
) -> None:
    job = claim(q)
    job.checkpoint({"page": 7}, lease=timedelta(hours=1))
    job.progress(0.5, "half")
    seen = db.get(job.id)
    assert (seen.progress_done, seen.progress_text) == (0.5, "half")
    job.release()

    again = q.claim()

    assert again is not None
    assert again.data == {"page": 7}


def test_several_are_acked_at_once(q: dibs.Queue) -> None:
    q.enqueue_many(range(3))
    jobs = q.claim_many(3)
    jobs[1].ack()

    outcomes = q.database.ack_many(jobs)

    assert [type(each.error) for each in outcomes] == [
        type(None),
        dibs.LostError,
        type(None),
    ]
    assert [each.id for each in outcomes] == [each.id for each in jobs]


def test_who_only_read_a_job_cannot_settle_it(q: dibs.Queue) -> None:
    q.enqueue(1)

    with pytest.raises(dibs.MisuseError, match="not claimed"):
        q.peek()[0].ack()


def test_a_receipt_serves_as_well(db: dibs.Database, q: dibs.Queue) -> None:
    job = claim(q)
    assert job.receipt is not None

    db.ack(job.receipt)

    assert q.stats().unfinished == 0
    with pytest.raises(dibs.InvalidError):
        db.ack("no receipt")


# ---- As a context manager


def test_a_block_acks(q: dibs.Queue) -> None:
    with claim(q) as job:
        assert job.data == 1

    assert job.settled
    assert q.stats().unfinished == 0


def test_a_block_that_raises_retries(db: dibs.Database, q: dibs.Queue) -> None:
    job = claim(q)

    with pytest.raises(ZeroDivisionError), job:
        1 / 0  # noqa: B018

    again = db.get(job.id)
    assert again.state == "scheduled"
    assert again.last_error is not None
    assert again.last_error.startswith("ZeroDivisionError: division by zero\n")
    assert "test_settle.py" in again.last_error


def test_a_block_keeps_its_lease(
    db: dibs.Database, q: dibs.Queue, program: Callable[[str], subprocess.Popen[str]]
) -> None:
    """A regular expression that backtracks lets go of the GIL for nobody."""
    q.enqueue(1)
    other = program(
        """
        import dibs, re, sys, time
        q = dibs.open(sys.argv[1]).queue("emails")
        with q.claim(lease=0.4, detached=True) as job:
            print("began", flush=True)
            begin = time.monotonic()
            while time.monotonic() - begin < 1.2:
                re.match(r"(a*)*b", "a" * 22)
        print("acked", flush=True)
        """
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "began\n"

    assert q.claim(wait=1) is None, "the lease was kept"

    output, errors = other.communicate(timeout=60)
    assert output == "acked\n", errors
    assert q.stats().unfinished == 0


def test_a_lease_is_kept_no_longer_than_the_block(
    db: dibs.Database, q: dibs.Queue
) -> None:
    q.enqueue_many(range(2))
    held = q.claim(lease=0.3, detached=True)
    other = q.claim(lease=0.3, detached=True)
    assert held is not None
    assert other is not None
    with pytest.raises(ZeroDivisionError), other:
        assert other._kept
        1 / 0  # noqa: B018
    assert not other._kept

    with held:
        held.snooze(0)
        again = q.claim(lease=0.3, detached=True, wait=60)
        assert again is not None
        assert again.id == held.id, "what is lost is not kept"

    lapsed = q.claim(wait=60)
    assert lapsed is not None
    assert lapsed.id == held.id


def test_a_block_may_settle_it_itself(db: dibs.Database, q: dibs.Queue) -> None:
    with claim(q) as job:
        job.snooze(60)

    assert db.get(job.id).state == "scheduled"


def test_ctrl_c_in_a_block_counts_no_attempt(db: dibs.Database, q: dibs.Queue) -> None:
    job = claim(q)

    with pytest.raises(KeyboardInterrupt), job:
        raise KeyboardInterrupt

    again = q.claim()
    assert again is not None
    assert (again.id, again.attempt) == (job.id, 1)


def test_an_ack_that_comes_too_late_is_told(q: dibs.Queue) -> None:
    job = claim(q)
    q.database.cancel(job.id)

    with pytest.raises(dibs.LostError), job:
        pass


def test_consume_is_a_block_with_or_without_a_job(q: dibs.Queue) -> None:
    q.enqueue(1)

    with q.consume() as job:
        assert job is not None
    with q.consume() as nothing:
        assert nothing is None

    assert job.settled


def test_consume_raises_on(db: dibs.Database, q: dibs.Queue) -> None:
    id = q.enqueue(1)

    with pytest.raises(ValueError, match="oh"), q.consume():
        raise ValueError("oh")

    assert db.get(id).state == "scheduled"


def test_a_loop_goes_on_after_an_error(
    db: dibs.Database, q: dibs.Queue, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = q.enqueue("bad"), q.enqueue("good")
    done = []

    with caplog.at_level(logging.ERROR, logger="dibs"):
        for job in q.jobs(wait=0):
            with job:
                if job.data == "bad":
                    raise ValueError("too bad")
                done.append(job.id)

    assert done == [good]
    assert "too bad" in str(db.get(bad).last_error)
    (record,) = caplog.records
    assert record.dibs_id == bad  # type: ignore[attr-defined]
    assert record.exc_info is not None


def test_an_error_of_any_text_is_kept(db: dibs.Database, q: dibs.Queue) -> None:
    job = claim(q)

    job.retry(error="nul \0, lone \ud800, " + "long " * 9000)

    assert str(db.get(job.id).last_error).startswith("nul \\0, lone ?, long")
