# SPDX-License-Identifier: MIT
from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

import dibs

Program = Callable[[str], "subprocess.Popen[str]"]


def test_an_empty_queue_gives_none_at_once(q: dibs.Queue) -> None:
    assert q.claim() is None
    assert q.claim_many(5) == []


def test_by_priority_then_age(q: dibs.Queue) -> None:
    low, high, other = (
        q.enqueue("low"),
        q.enqueue("high", priority=9),
        q.enqueue("other"),
    )

    assert [each.id for each in q.claim_many(10)] == [high, low, other]


def test_a_claim_has_a_receipt_and_a_lease(q: dibs.Queue) -> None:
    q.enqueue(1)

    job = q.claim(lease=timedelta(seconds=90), worker="w-1")

    assert job is not None
    assert job.receipt is not None
    assert job.receipt.startswith(f"{job.id}:")
    assert (job.state, job.attempt, job.worker) == ("running", 1, "w-1")
    assert job.claimed_at is not None
    assert job.lease_until == job.claimed_at + timedelta(seconds=90)
    assert not job.final
    assert "1" in repr(job)


def test_a_wait_that_runs_out_gives_none(q: dibs.Queue) -> None:
    began = time.monotonic()

    assert q.claim(wait=0.05) is None

    assert time.monotonic() - began >= 0.05


def test_a_commit_of_another_process_ends_a_wait(
    q: dibs.Queue, program: Program
) -> None:
    other = program(
        """
        import dibs, sys
        db = dibs.open(sys.argv[1])
        print("open", flush=True)
        sys.stdin.readline()
        db.queue("emails").enqueue("woken")
        """
    )
    assert other.stdout is not None
    assert other.stdin is not None
    other.stdout.readline()
    other.stdin.write("\n")
    other.stdin.flush()

    job = q.claim(wait=60)

    assert job is not None
    assert job.data == "woken"


def test_other_threads_work_while_one_waits(q: dibs.Queue) -> None:
    claimed: list[dibs.Job | None] = []
    thread = threading.Thread(target=lambda: claimed.append(q.claim(wait=60)))
    thread.start()

    assert q.stats().unfinished == 0
    id = q.enqueue(1)
    thread.join(60)

    assert [each.id for each in claimed if each] == [id]


def test_interrupt_ends_the_waits_of_all_threads(db: dibs.Database) -> None:
    ends: list[object] = []

    def wait() -> None:
        try:
            ends.append(db.queue().claim(wait=True))
        except dibs.InterruptedError as error:
            ends.append(error.status)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for each in threads:
        each.start()
    while len(db._waiting) < 3:
        time.sleep(0.001)
    db.interrupt()
    for each in threads:
        each.join(60)

    assert ends == ["DIBS_INTERRUPTED"] * 3
    assert db.queue().claim(wait=0.01) is None, "the next wait is not hit"


def test_close_ends_waits(path: str) -> None:
    db = dibs.open(path)
    ends: list[object] = []

    def wait() -> None:
        with pytest.raises(dibs.ClosedError):
            db.queue().claim(wait=True)
        ends.append("closed")

    thread = threading.Thread(target=wait)
    thread.start()
    while not db._waiting:
        time.sleep(0.001)
    db.close()
    thread.join(60)

    assert ends == ["closed"]
    with pytest.raises(dibs.ClosedError):
        db.queue().enqueue(1)
    with pytest.raises(dibs.ClosedError):
        db.queue().claim()


@pytest.mark.parametrize("wait", ["claim(wait=True)", "join()"])
def test_ctrl_c_ends_a_wait_at_once(q: dibs.Queue, program: Program, wait: str) -> None:
    q.enqueue(1, delay=3600)
    other = program(
        f"""
        import dibs, sys
        q = dibs.open(sys.argv[1]).queue("emails")
        print("open", flush=True)
        try:
            q.{wait}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    assert other.stdout is not None
    other.stdout.readline()
    # Whether it waits already does not show; then it is told on its way there.
    time.sleep(0.2)

    other.send_signal(signal.SIGINT)
    output, errors = other.communicate(timeout=60)

    assert output == "interrupted\n", errors
    assert other.returncode == 0


def test_a_handler_that_raises_nothing_lets_the_wait_go_on(
    q: dibs.Queue, program: Program
) -> None:
    other = program(
        """
        import dibs, signal, sys
        q = dibs.open(sys.argv[1]).queue("emails")
        signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
        print("open", flush=True)
        print(q.claim(wait=60).data, flush=True)
        print(signal.getsignal(signal.SIGUSR1) is not None)
        signal.raise_signal(signal.SIGUSR1)
        """
    )
    assert other.stdout is not None
    other.stdout.readline()
    time.sleep(0.2)
    other.send_signal(signal.SIGUSR1)
    assert other.stdout.readline() == "handled\n"
    q.enqueue("after")

    output, errors = other.communicate(timeout=60)

    assert output == "after\nTrue\nhandled\n", errors


def test_a_killed_process_gives_its_job_back(q: dibs.Queue, program: Program) -> None:
    q.enqueue("again")
    other = program(
        """
        import dibs, sys, time
        job = dibs.open(sys.argv[1]).queue("emails").claim(lease=3600)
        print(job.receipt, flush=True)
        time.sleep(3600)
        """
    )
    assert other.stdout is not None
    receipt = other.stdout.readline().strip()
    assert receipt
    assert q.claim() is None
    other.kill()

    job = q.claim(wait=60)

    assert job is not None
    assert (job.data, job.crashes) == ("again", 1)


def test_several_queues_take_turns(db: dibs.Database) -> None:
    db.queue("many").enqueue_many(range(20))
    one = db.queue("one").enqueue(1)

    jobs = db.claim("many", "one", n=4)

    assert one in [each.id for each in jobs]
    assert {each.queue for each in db.claim("many", "none", n=2)} == {"many"}


def test_a_pattern_claims_what_is_beneath(db: dibs.Database) -> None:
    db.queue("thumbs").enqueue("above")
    db.queue("thumbs/user-42").enqueue("below")

    assert [each.data for each in db.queue("thumbs/*").claim_many(9)] == ["below"]


def test_a_fake_clock_drives_time() -> None:
    clock = dibs.Clock(1_700_000_000)
    with dibs.open(clock=clock) as db:
        q = db.queue()
        q.enqueue(1, delay=timedelta(days=30))
        assert q.claim() is None

        clock.advance(timedelta(days=30))

        assert q.claim() is not None
        assert db.now().timestamp() == 1_700_000_000 + 30 * 86400


def test_a_database_in_memory_is_one_for_all_threads() -> None:
    with dibs.open() as db, dibs.open() as other:
        q = db.queue()
        claimed: list[dibs.Job | None] = []
        thread = threading.Thread(target=lambda: claimed.append(q.claim(wait=60)))
        thread.start()
        q.enqueue("here")
        thread.join(60)

        assert [each.data for each in claimed if each] == ["here"]
        assert other.stats() == []
