# SPDX-License-Identifier: MIT
from __future__ import annotations

import select
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

import dibs
from dibs._job import ACK, RETRY

Program = Callable[[str], "subprocess.Popen[str]"]


def test_threads_share_an_engine(db: dibs.Database, q: dibs.Queue) -> None:
    q.enqueue_many(range(200))
    seen: list[int] = []

    def work(engine: dibs.Engine) -> None:
        try:
            while True:
                job = engine.next()
                assert job is not None
                with job:
                    seen.append(job.data)
        except dibs.ClosedError:
            pass

    with db.engine("emails", slots=4, drain=True) as engine:
        threads = [threading.Thread(target=work, args=(engine,)) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)

    assert sorted(seen) == list(range(200))
    assert q.stats().unfinished == 0


def test_a_job_that_is_acked_is_on_disk(db: dibs.Database, q: dibs.Queue) -> None:
    id = q.enqueue(1, keep=60)
    with db.engine("emails") as engine:
        job = engine.next(60)
        assert job is not None
        job.ack("done")

        assert db.get(id).result == "done"
        with pytest.raises(dibs.LostError):
            job.ack()


def test_a_block_that_raises_retries(db: dibs.Database, q: dibs.Queue) -> None:
    id = q.enqueue(1)
    with db.engine("emails") as engine:
        job = engine.next(60)
        assert job is not None
        with pytest.raises(ZeroDivisionError), job:
            1 / 0  # noqa: B018

    assert "ZeroDivisionError" in str(db.get(id).last_error)


def test_the_last_attempt_is_final(db: dibs.Database, q: dibs.Queue) -> None:
    q.enqueue(1, max_attempts=1)
    q.enqueue(1)
    with db.engine("emails", slots=2) as engine:
        first, second = engine.next(60), engine.next(60)
        assert first is not None
        assert second is not None
        assert (first.final, second.final) == (True, False)


def test_all_slots_taken_gives_none(db: dibs.Database, q: dibs.Queue) -> None:
    q.enqueue_many(range(2))
    with db.engine("emails", slots=1) as engine:
        job = engine.next(60)
        assert engine.next(0.01) is None
        assert job is not None
        job.ack()
        assert engine.next(60) is not None


def test_the_gil_held_for_long_keeps_the_lease(
    db: dibs.Database, q: dibs.Queue, program: Program
) -> None:
    """A regular expression that backtracks lets go of the GIL for nobody."""
    q.enqueue(1)
    other = program(
        """
        import dibs, re, sys, time
        db = dibs.open(sys.argv[1])
        with db.engine("emails", lease=0.5) as engine:
            job = engine.next()
            print("began", flush=True)
            begin = time.monotonic()
            while time.monotonic() - begin < 1.2:
                re.match(r"(a*)*b", "a" * 22)
            job.ack()
            print("acked", job.attempt, job.lost, flush=True)
        """
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "began\n"

    assert q.claim(wait=1) is None, "the lease was kept"

    output, errors = other.communicate(timeout=60)
    assert output == "acked 1 False\n", errors
    assert q.stats().unfinished == 0


def test_ctrl_c_ends_next_at_once(q: dibs.Queue, program: Program) -> None:
    other = program(
        """
        import dibs, sys, threading
        db = dibs.open(sys.argv[1])
        engine = db.engine("emails", slots=2)
        others = []
        def work():
            try:
                others.append(engine.next())
            except dibs.ClosedError:
                others.append("stopped")
        thread = threading.Thread(target=work)
        thread.start()
        print("open", flush=True)
        try:
            engine.next()
        except KeyboardInterrupt:
            engine.stop(1)
            thread.join()
            engine.close()
            print("interrupted", others, flush=True)
        """
    )
    assert other.stdout is not None
    other.stdout.readline()
    time.sleep(0.2)

    other.send_signal(signal.SIGINT)
    output, errors = other.communicate(timeout=60)

    assert output == "interrupted ['stopped']\n", errors
    assert other.returncode == 0


def test_a_cancelled_job_is_told(db: dibs.Database, q: dibs.Queue) -> None:
    id = q.enqueue(1)
    with db.engine("emails") as engine:
        job = engine.next(60)
        assert job is not None
        assert not job.lost
        db.cancel(id)
        end = time.monotonic() + 60
        while not job.cancelled and time.monotonic() < end:
            time.sleep(0.001)

        assert (job.cancelled, job.lost, job.timed_out) == (True, True, False)
        with pytest.raises(dibs.LostError):
            job.ack()


def test_a_job_out_of_time_is_told(db: dibs.Database, q: dibs.Queue) -> None:
    q.enqueue(1, timeout=0.02)
    with db.engine("emails") as engine:
        job = engine.next(60)
        assert job is not None
        end = time.monotonic() + 60
        while not job.timed_out and time.monotonic() < end:
            time.sleep(0.001)
        assert job.timed_out
        job.ack()


def test_stop_gives_back_what_is_not_finished(db: dibs.Database, q: dibs.Queue) -> None:
    id = q.enqueue(1)
    engine = db.engine("emails")
    job = engine.next(60)
    assert job is not None

    assert engine.stop(0.01) == 1

    assert job.stopping
    assert db.get(id).state == "ready"
    with pytest.raises(dibs.ClosedError):
        engine.next()
    engine.close()
    with pytest.raises(dibs.ClosedError):
        engine.next()


def test_close_in_a_call_is_refused(db: dibs.Database) -> None:
    engine = db.engine("emails")
    ends: list[object] = []

    def wait() -> None:
        try:
            engine.next()
        except dibs.InterruptedError as error:
            ends.append(error.status)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)  # until it is in the call; that does not show

    with pytest.raises(dibs.MisuseError, match="in a call"):
        engine.close()

    engine.interrupt()
    thread.join(60)
    engine.close()
    assert ends == ["DIBS_INTERRUPTED"]


def test_an_event_loop_is_told(db: dibs.Database, q: dibs.Queue) -> None:
    engine = dibs.Engine(db, ["emails"], slots=2, events=True)
    poll = select.poll()
    poll.register(engine.fileno(), select.POLLIN)
    assert engine.next(0) is None
    good, bad = q.enqueue(1), q.enqueue(2)
    settled: list[dibs.Settled] = []
    deadline = time.monotonic() + 60

    while len(settled) < 2 and time.monotonic() < deadline:
        poll.poll(60_000)
        settled += engine.settled()
        while (job := engine.next(0)) is not None:
            if job.id == good:
                engine.finish(job, ACK)
            else:
                engine.finish(job, RETRY, delay=60, error=ValueError("oh"))
    engine.close()

    assert {(each.job.id, each.state, each.error) for each in settled} == {
        (good, "done", None),
        (bad, "scheduled", None),
    }
    assert str(db.get(bad).last_error).startswith("ValueError: oh")


def test_a_lost_job_is_told_to_the_loop(db: dibs.Database, q: dibs.Queue) -> None:
    id = q.enqueue(1)
    engine = dibs.Engine(db, ["emails"], events=True)
    job = engine.next(60)
    assert job is not None
    db.cancel(id)
    engine.finish(job)
    poll = select.poll()
    poll.register(engine.fileno(), select.POLLIN)
    settled: list[dibs.Settled] = []
    deadline = time.monotonic() + 60
    while not settled and time.monotonic() < deadline:
        poll.poll(1000)
        settled = engine.settled()
    engine.close()

    assert [type(each.error) for each in settled] == [dibs.LostError]


def test_a_job_is_acked_in_the_applications_transaction(
    db: dibs.Database, q: dibs.Queue, path: str
) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders(what)")
    q.enqueue_many(["tea", "coffee", "milk"])
    with db.engine("emails", drain=True) as engine, pytest.raises(dibs.ClosedError):
        while True:
            job = engine.next(60)
            assert job is not None
            with job, connection:
                connection.execute("INSERT INTO orders VALUES (?)", (job.data,))
                dibs.attach(connection).ack(job)

    assert connection.execute("SELECT count(*) FROM orders").fetchone() == (3,)
    assert q.stats().unfinished == 0
    connection.close()


def test_an_engine_in_memory() -> None:
    with dibs.open() as db:
        db.queue().enqueue("here")
        with db.engine() as engine:
            job = engine.next(60)
            assert job is not None
            with job:
                assert job.data == "here"
        assert db.queue().stats().unfinished == 0


def test_a_bad_engine_is_told(db: dibs.Database) -> None:
    with pytest.raises(dibs.InvalidError, match="slots"):
        db.engine("emails", slots=0)
    with pytest.raises(dibs.InvalidError):
        db.engine("a\nb")
