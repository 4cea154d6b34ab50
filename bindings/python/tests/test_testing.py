# SPDX-License-Identifier: MIT
"""``dibs.testing``: a test of an application needs no worker, file or sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import dibs
from dibs.testing import Testing

pytest_plugins = ["pytester"]

PACKAGES = Path(dibs.__file__).parents[1]


class Mail:
    """An application: one task, and a second one that enqueues the first."""

    def __init__(self) -> None:
        self.app = app = dibs.App("/nowhere/at/all.db", keep=None)
        self.sent: list[str] = []

        @app.task(queue="emails", max_attempts=2, backoff=60, backoff_jitter=0)
        def send(to: str, copies: int = 1) -> int:
            if "@" not in to:
                raise ValueError(f"{to} is no address")
            self.sent.append(to)
            return copies

        @app.task
        async def newsletter(*to: str) -> None:
            for each in to:
                await send.aenqueue(each)

        self.send, self.newsletter = send, newsletter


@pytest.fixture
def mail() -> Mail:
    return Mail()


@pytest.fixture
def jobs(mail: Mail) -> Iterator[Testing]:
    with Testing(mail.app) as testing:
        yield testing


def test_nothing_runs_until_drained(mail: Mail, jobs: Testing) -> None:
    mail.newsletter.enqueue("a@x", "b@x")
    assert mail.sent == []
    ran = jobs.drain()
    assert mail.sent == ["a@x", "b@x"]
    assert [(each.job.name, each.ending) for each in ran] == [
        ("newsletter", "done"),
        ("send", "done"),
        ("send", "done"),
    ]
    assert jobs.drain() == []


def test_a_drain_of_one_queue_leaves_the_others(mail: Mail, jobs: Testing) -> None:
    mail.newsletter.enqueue("a@x")
    jobs.drain("default")
    assert mail.sent == []
    assert jobs.run_one("emails") is not None
    assert mail.sent == ["a@x"]
    assert jobs.run_one() is None


def test_what_a_task_raises_comes_out_of_drain(mail: Mail, jobs: Testing) -> None:
    handle = mail.send.enqueue("nobody")
    with pytest.raises(ValueError, match="nobody is no address"):
        jobs.drain()
    assert handle.job().state == "scheduled", "settled as by a worker"
    assert jobs.drain() == [], "its backoff is not over"
    jobs.advance(timedelta(seconds=60))
    [ran] = jobs.drain(raise_errors=False)
    assert (ran.ending, str(ran.error)) == ("dead", "nobody is no address")


def test_time_is_the_tests(mail: Mail) -> None:
    with Testing(mail.app, now=1_700_000_000) as jobs:
        handle = mail.send.options(delay=3600).enqueue("a@x")
        assert handle.job().created_at.timestamp() == 1_700_000_000
        jobs.advance(3599)
        assert jobs.drain() == []
        jobs.advance(1)
        assert len(jobs.drain()) == 1


def test_inline_runs_at_once_and_raises_at_once(mail: Mail) -> None:
    with Testing(mail.app, inline=True) as jobs:
        mail.newsletter.enqueue("a@x", "b@x")
        assert mail.sent == ["a@x", "b@x"]
        with pytest.raises(ValueError, match="no address"):
            mail.send.enqueue("nobody")
        mail.send.options(delay=5).enqueue("late@x")
        assert "late@x" not in mail.sent
        jobs.advance(5)
        assert "late@x" in mail.sent


def test_inline_on_an_event_loop(mail: Mail) -> None:
    async def main() -> None:
        await mail.newsletter.aenqueue("a@x")
        mail.newsletter.enqueue("b@x")

    with Testing(mail.app, inline=True):
        asyncio.run(main())
    assert mail.sent == ["a@x", "b@x"]


def test_a_result_is_there_without_waiting(mail: Mail, jobs: Testing) -> None:
    handle = mail.send.options(keep=60).enqueue("a@x", copies=3)
    assert handle.result() == 3
    bad = mail.send.options(max_attempts=1).enqueue("nobody")
    with pytest.raises(dibs.JobFailedError, match="no address"):
        bad.result()
    late = mail.send.options(delay=60).enqueue("a@x")
    with pytest.raises(TimeoutError):
        late.result(timeout=1000)


def test_assert_enqueued_finds_calls_by_their_arguments(
    mail: Mail, jobs: Testing
) -> None:
    mail.send.options(priority=5).enqueue("a@x")
    job = jobs.assert_enqueued(mail.send, "a@x")
    assert (job.queue, job.priority, job.state) == ("emails", 5, "ready")
    jobs.assert_enqueued(mail.send)
    jobs.assert_enqueued("send", to="a@x")
    jobs.assert_not_enqueued(mail.send, "b@x")
    jobs.assert_not_enqueued(mail.newsletter)
    with pytest.raises(
        AssertionError,
        match=r"send\('b@x'\) was not enqueued; .*: send\({'to': 'a@x'}\)",
    ):
        jobs.assert_enqueued(mail.send, "b@x")
    with pytest.raises(AssertionError, match=r"newsletter\(\) was not enqueued"):
        jobs.assert_enqueued(mail.newsletter)
    with pytest.raises(AssertionError, match=r"send\(to='a@x'\) was enqueued"):
        jobs.assert_not_enqueued(mail.send, to="a@x")


def test_what_has_run_was_enqueued_all_the_same(mail: Mail, jobs: Testing) -> None:
    mail.newsletter.enqueue("a@x")
    jobs.drain()
    jobs.assert_enqueued(mail.newsletter, "a@x")
    jobs.assert_enqueued(mail.send, "a@x")
    assert [each.name for each in jobs.enqueued()] == ["newsletter", "send"]
    assert len(jobs.enqueued(mail.send)) == 1


def test_a_rolled_back_call_is_not_run(mail: Mail, jobs: Testing, path: str) -> None:
    connection = dibs.connect(path)
    with connection:
        mail.send.within(connection).enqueue("a@x")
    with pytest.raises(ZeroDivisionError), connection:
        mail.send.within(connection).enqueue("b@x")
        raise ZeroDivisionError
    jobs.drain(within=connection)
    assert mail.sent == ["a@x"]
    connection.close()


def test_the_app_is_as_it_was_afterwards(path: str) -> None:
    app = dibs.App(path)

    @app.task
    def work() -> None: ...

    before = work.enqueue()
    with Testing(app) as jobs:
        work.enqueue()
        assert app.database is jobs.database
        with pytest.raises(dibs.MisuseError, match="under test already"):
            Testing(app).__enter__()
    assert app.database.queue().stats().ready == 1
    assert before.job().state == "ready"
    with pytest.raises(dibs.MisuseError, match="within the block"):
        jobs.drain()
    app.close()


def test_the_fixtures(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PACKAGES))
    pytester.makepyfile(
        jobs_of_mine="""
        import dibs
        app = dibs.App("never-made.db")

        @app.task
        def double(x):
            return 2 * x
        """,
        test_mine="""
        from jobs_of_mine import app, double

        def test_factory(dibs_testing):
            jobs = dibs_testing(app, inline=True)
            assert double.enqueue(2).result() == 4

        def test_configured(dibs_jobs):
            assert dibs_jobs.app is app
            double.enqueue(3)
            dibs_jobs.assert_enqueued(double, 3)

        def test_undone():
            assert app._enqueued is None
        """,
    )
    pytester.makeini("[pytest]\ndibs_app = jobs_of_mine:app\npythonpath = .\n")
    result = pytester.runpytest_subprocess(
        "-p", "dibs.testing", "-p", "no:cacheprovider"
    )
    result.assert_outcomes(passed=3)
    assert not Path(pytester.path, "never-made.db").exists()


def test_the_plugin_makes_an_app_where_none_is_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PACKAGES))
    pytester.makepyfile(
        """
        def test_new(dibs_jobs):
            @dibs_jobs.app.task
            def double(x):
                return 2 * x

            assert double.enqueue(2).result() == 4
        """
    )
    result = pytester.runpytest_subprocess(
        "-p", "dibs.testing", "-p", "no:cacheprovider"
    )
    result.assert_outcomes(passed=1)
