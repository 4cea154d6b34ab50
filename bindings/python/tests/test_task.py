# SPDX-License-Identifier: MIT
"""Tasks: what a call becomes, what its options are, and what runs."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import dibs

trace: ContextVar[str] = ContextVar("trace")


@pytest.fixture
def app(path: str) -> Iterator[dibs.App]:
    app = dibs.App(path, synchronous="normal", context={"trace": trace})
    yield app
    app.close()


def run_one(app: dibs.App, queue: str = "default") -> dibs.Job:
    """One attempt of the next job, as a worker makes it."""
    job = app.database.queue(queue).claim()
    assert job is not None, "there is a job to run"
    settlement = app.attempt(job)
    if settlement is not None:
        settlement.settle(job)
    return job


# ---- Calls and payloads


def test_a_call_runs_the_function_and_enqueues_nothing(app: dibs.App) -> None:
    @app.task
    def double(x: int) -> int:
        """Twice."""
        return 2 * x

    assert double(4) == 8
    assert double.__doc__ == "Twice."
    assert app.database.stats() == []


@pytest.mark.parametrize(
    ("args", "kwargs", "payload"),
    [
        (("a",), {}, {"to": "a"}),
        (("a", 2), {}, {"to": "a", "times": 2}),
        ((), {"to": "a", "times": 2}, {"to": "a", "times": 2}),
        ((b"\0\xff",), {}, b"\0\xff"),
    ],
)
def test_arguments_are_a_payload_by_name(
    app: dibs.App, args: Any, kwargs: Any, payload: Any
) -> None:
    @app.task
    def send(to: Any, times: int = 1) -> list[Any]:
        return [repr(to), times]

    handle = send.enqueue(*args, **kwargs)
    assert handle.job().data == payload
    run_one(app)
    assert handle.result(0) == send(*args, **kwargs)


def test_arguments_without_names_are_an_array(app: dibs.App) -> None:
    @app.task
    def add(*numbers: int, start: int = 0) -> int:
        return start + sum(numbers)

    handles = [add.enqueue(1, 2), add.enqueue(1, 2, start=5), add.enqueue()]
    assert [each.job().raw for each in handles] == [
        "[1,2]",
        '{"*":[1,2],"start":5}',
        None,
    ]
    for _ in handles:
        run_one(app)
    assert [each.result(0) for each in handles] == [3, 8, 0]


@pytest.mark.parametrize(
    ("payload", "seen"),
    [
        ({"to": "x"}, ("x", 1)),
        (["x", 3], ("x", 3)),
        ("x", ("x", 1)),
        (None, (None, 1)),
    ],
)
def test_what_other_programs_enqueue_is_called(
    app: dibs.App, payload: Any, seen: Any
) -> None:
    calls = []

    @app.task
    def send(to: Any, times: int = 1) -> None:
        calls.append((to, times))

    app.database.queue().enqueue(payload, name="send")
    run_one(app)
    assert calls == [seen]


def test_a_raw_task_gets_the_payload_as_it_is(app: dibs.App) -> None:
    seen = []

    @app.task(raw=True)
    def take(payload: Any) -> None:
        seen.append(payload)

    for payload in ({"a": 1}, [1, 2], "x"):
        take.enqueue(payload)
        run_one(app)
    assert seen == [{"a": 1}, [1, 2], "x"]


def test_arguments_that_do_not_fit_are_refused_at_once(app: dibs.App) -> None:
    @app.task
    def send(to: str) -> None: ...

    with pytest.raises(TypeError, match="missing a required argument: 'to'"):
        send.enqueue()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'too'"):
        send.enqueue(to="a", too="b")  # type: ignore[call-arg]
    assert app.database.stats() == []


def test_a_name_is_the_functions_or_given_and_never_twice(app: dibs.App) -> None:
    @app.task(name="mail/send")
    def send() -> None: ...

    assert send.enqueue().job().name == "mail/send"
    with pytest.raises(dibs.MisuseError, match="task 'mail/send' already"):

        @app.task(name="mail/send")
        def other() -> None: ...


# ---- Options


def test_an_explicit_option_beats_the_tasks_beats_the_queues(app: dibs.App) -> None:
    app.database.queue("emails").set(max_attempts=3, priority=1, timeout=9)

    @app.task(queue="emails", max_attempts=5, priority=2)
    def send() -> None: ...

    job = send.options(priority=7).enqueue().job()
    assert (job.queue, job.priority, job.max_attempts) == ("emails", 7, 5)
    assert job.timeout == timedelta(seconds=9)
    assert send.enqueue().job().priority == 2, "options() leaves the task as it was"
    assert send.options(priority=None).enqueue().job().priority == 1


def test_an_option_that_there_is_not_is_refused(app: dibs.App) -> None:
    with pytest.raises(TypeError, match="no job option 'prio'"):

        @app.task(prio=1)  # type: ignore[call-overload, untyped-decorator]
        def send() -> None: ...


def test_at_replaces_a_tasks_delay(app: dibs.App) -> None:
    @app.task(delay=60)
    def send() -> None: ...

    at = app.database.now() + timedelta(hours=5)
    due = send.options(at=at).enqueue().job().due_at
    assert due is not None
    assert abs(due - at) < timedelta(seconds=1)


def test_many_calls_are_one_transaction(app: dibs.App) -> None:
    @app.task
    def a(x: int) -> None: ...

    @app.task(queue="other")
    def b(x: object) -> None: ...

    handles = app.enqueue_many([a.call(1), b.call(2)])
    assert [each.job().queue for each in handles] == ["default", "other"]
    assert len(a.enqueue_many([(3,), (4,)])) == 2
    with pytest.raises(TypeError):
        app.enqueue_many([a.call(5), b.call(object())])
    assert app.database.queue().stats().ready == 3


def test_a_unique_job_that_is_there_is_told(app: dibs.App) -> None:
    @app.task(unique="once")
    def tidy() -> None: ...

    first, second = tidy.enqueue(), tidy.enqueue()
    assert (first.existing, second.existing) == (False, True)
    assert first.id == second.id


def test_within_a_transaction_that_is_rolled_back_nothing_is_enqueued(
    app: dibs.App, path: str
) -> None:
    @app.task
    def send(to: str) -> None: ...

    connection = dibs.connect(path)
    with pytest.raises(ZeroDivisionError), connection:
        send.within(connection).enqueue("a")
        raise ZeroDivisionError
    assert app.database.queue().stats().ready == 0
    with connection:
        send.within(connection).enqueue("b")
        app.enqueue_many([send.call("c")], within=connection)
    assert app.database.queue().stats().ready == 2
    connection.close()


# ---- What a task is given


def test_the_job_is_given_to_who_wants_it(app: dibs.App) -> None:
    seen: list[Any] = []

    @app.task
    def plain(x: int, *, job):  # type: ignore[no-untyped-def]
        seen.append((x, job.id))

    @app.task
    def typed(x: int, it: dibs.Job = dibs.INJECTED) -> None:
        seen.append((x, it.id))

    first = plain.enqueue(1)
    second = typed.enqueue(2)
    run_one(app)
    run_one(app)
    assert seen == [(1, first.id), (2, second.id)]
    with pytest.raises(TypeError, match="job"):
        plain.enqueue(1, job="forged")


class Mailer:
    pass


def test_what_is_provided_is_given_by_its_type(app: dibs.App) -> None:
    seen: list[Any] = []

    @app.task
    def send(mailer: Mailer = dibs.INJECTED) -> None:
        seen.append(mailer)

    with pytest.raises(dibs.MisuseError, match=r"'send' wants 'mailer', Mailer"):
        app.check()
    with pytest.raises(dibs.MisuseError, match="'send' wants 'mailer'"):
        app.worker().start()
    mailer = Mailer()
    app.provide(Mailer, mailer)
    app.check()
    send.enqueue()
    run_one(app)
    assert seen == [mailer]


def test_the_current_job_is_known_where_a_task_runs(app: dibs.App) -> None:
    @app.task
    def which() -> int:
        return dibs.current_job().id

    handle = which.enqueue()
    run_one(app)
    assert handle.result(0) == handle.id
    with pytest.raises(dibs.MisuseError, match="no job"):
        dibs.current_job()


def test_context_is_carried_and_does_not_leak(app: dibs.App) -> None:
    @app.task
    def read() -> str:
        seen = trace.get("none")
        trace.set("left behind")
        return seen

    token = trace.set("abc")
    carried = read.enqueue()
    trace.reset(token)
    bare = read.enqueue()
    run_one(app)
    run_one(app)
    assert (carried.result(0), bare.result(0)) == ("abc", "none")
    assert trace.get("none") == "none"


def test_an_async_task_runs(app: dibs.App) -> None:
    @app.task
    async def double(x: int) -> int:
        return 2 * x

    handle = double.enqueue(21)
    run_one(app)
    assert handle.result(0) == 42


# ---- What becomes of its job


def test_an_exception_is_a_failed_attempt(app: dibs.App) -> None:
    @app.task(max_attempts=2, backoff=0)
    def bad() -> None:
        raise ValueError("no good")

    handle = bad.enqueue()
    run_one(app)
    assert handle.job().state in ("ready", "scheduled")
    assert "ValueError: no good" in (handle.job().last_error or "")
    run_one(app)
    with pytest.raises(dibs.JobFailedError, match="no good") as caught:
        handle.result(0)
    assert caught.value.job is not None
    assert [each.attempt for each in handle.job().errors] == [1, 2]


@pytest.mark.parametrize(
    ("verdict", "state", "attempt"),
    [
        (dibs.Retry(60), "scheduled", 1),
        (dibs.Fail("no such address"), "dead", 1),
        (dibs.Discard(), "done", 1),
        (dibs.Release(), "ready", 0),
        (dibs.Snooze(60), "scheduled", 0),
    ],
)
def test_a_task_may_say_what_becomes_of_its_job(
    app: dibs.App, verdict: dibs.Verdict, state: str, attempt: int
) -> None:
    @app.task
    def decide() -> None:
        raise verdict

    handle = decide.enqueue()
    run_one(app)
    job = handle.job()
    assert (job.state, job.attempt) == (state, attempt)
    if isinstance(verdict, dibs.Fail):
        assert job.last_error == "no such address"


def test_a_task_may_settle_its_job_itself(app: dibs.App) -> None:
    @app.task
    def later(*, job: dibs.Job = dibs.INJECTED) -> None:
        job.snooze(60)

    handle = later.enqueue()
    run_one(app)
    assert handle.job().state == "scheduled"


def test_an_ack_in_a_transaction_that_fails_is_none(app: dibs.App, path: str) -> None:
    connection = dibs.connect(path, check_same_thread=False)

    @app.task
    def work(*, job: dibs.Job = dibs.INJECTED) -> None:
        with connection:
            dibs.attach(connection).ack(job)
            raise ValueError("not so")

    handle = work.enqueue()
    run_one(app)
    assert handle.job().state == "scheduled", "it is retried"
    assert "not so" in (handle.job().last_error or "")
    connection.close()


def test_a_result_that_is_no_json_is_left_out(
    app: dibs.App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    def make() -> object:
        return object()

    handle = make.enqueue()
    run_one(app)
    assert handle.job().outcome == "acked"
    assert f"result of job {handle.id} is not kept" in caplog.text


def test_results_are_kept_for_as_long_as_the_app_says(path: str) -> None:
    app = dibs.App(path, keep=None)

    @app.task
    def make() -> int:
        return 1

    kept, gone = make.options(keep=60).enqueue(), make.enqueue()
    run_one(app)
    run_one(app)
    assert kept.result(0) == 1
    with pytest.raises(dibs.NotFoundError):
        gone.result(0)
    app.close()


def test_an_unknown_name_is_given_back_and_said_once(
    app: dibs.App, caplog: pytest.LogCaptureFixture
) -> None:
    ids = app.database.queue().enqueue_many([1, 2], name="stranger")
    run_one(app)
    run_one(app)
    for id in ids:
        job = app.database.get(id)
        assert (job.state, job.attempt) == ("scheduled", 0)
    assert caplog.text.count("no task is named 'stranger'") == 1


def test_an_unknown_name_may_be_a_failure(path: str) -> None:
    app = dibs.App(path, unknown="fail")
    id = app.database.queue().enqueue(1, name="stranger")
    run_one(app)
    assert app.database.get(id).state == "dead"
    app.close()


def test_the_fallback_gets_what_no_task_is_for(app: dibs.App) -> None:
    seen = []

    @app.fallback
    def any(job: dibs.Job) -> None:
        seen.append((job.name, job.data))

    app.database.queue().enqueue({"a": 1})
    app.database.queue().enqueue(2, name="x")
    run_one(app)
    run_one(app)
    assert seen == [(None, {"a": 1}), ("x", 2)]


# ---- Hooks


def test_hooks_are_called_before_after_on_retry_and_on_death(app: dibs.App) -> None:
    seen: list[Any] = []
    app.before(lambda job: seen.append("before"))
    app.after(lambda job, error: seen.append(("after", type(error).__name__)))
    app.on_retry(lambda job, error: seen.append(("retry", str(error))))
    app.on_death(lambda job, error: seen.append(("death", str(error))))

    @app.task(max_attempts=2, backoff=0)
    def work(good: bool) -> None:
        if not good:
            raise ValueError("bad")

    work.enqueue(True)
    run_one(app)
    assert seen == ["before", ("after", "NoneType")]
    seen.clear()
    work.enqueue(False)
    run_one(app)
    assert seen == ["before", ("after", "ValueError"), ("retry", "bad")]
    seen.clear()
    run_one(app)
    assert seen == ["before", ("after", "ValueError"), ("death", "bad")]


def test_a_hook_that_raises_before_fails_the_attempt_and_after_does_not(
    app: dibs.App, caplog: pytest.LogCaptureFixture
) -> None:
    refuse = True
    ran = []

    @app.before
    def check(job: dibs.Job) -> None:
        if refuse:
            raise ValueError("not now")

    @app.after
    def boom(job: dibs.Job, error: BaseException | None) -> None:
        raise RuntimeError("hook")

    @app.task(backoff=0)
    def work() -> None:
        ran.append(1)

    handle = work.enqueue()
    run_one(app)
    assert "not now" in (handle.job().last_error or "")
    assert ran == []
    refuse = False
    run_one(app)
    assert handle.job().state == "done"
    assert f"a hook raised for job {handle.id}" in caplog.text


def test_the_error_handler_is_told_and_may_decide(app: dibs.App) -> None:
    seen = []

    @app.on_error
    def decide(
        error: BaseException, job: dibs.Job, attempt: int, is_final: bool
    ) -> dibs.Verdict | None:
        seen.append((str(error), job.id, attempt, is_final))
        return dibs.Fail("hopeless") if isinstance(error, ValueError) else None

    @app.task(max_attempts=1)
    def bad(kind: str) -> None:
        raise ValueError("v") if kind == "v" else SystemExit(3)

    first, second = bad.enqueue("v"), bad.options(max_attempts=2).enqueue("exit")
    run_one(app)
    run_one(app)
    assert seen == [("v", first.id, 1, True), ("3", second.id, 1, False)]
    assert first.job().last_error == "hopeless"
    assert second.job().state == "scheduled", "even what would end a program"


def test_an_async_hook_is_refused(app: dibs.App) -> None:
    async def hook(job: dibs.Job) -> None: ...

    with pytest.raises(TypeError, match="plain function"):
        app.before(hook)


def test_logs_have_the_job_in_their_extras(
    app: dibs.App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(queue="emails", max_attempts=1)
    def bad() -> None:
        raise ValueError("bad")

    handle = bad.enqueue()
    with caplog.at_level(logging.INFO, "dibs"):
        run_one(app, "emails")
    record = next(each for each in caplog.records if "failed for good" in each.message)
    extra = vars(record)
    assert extra["dibs_id"] == handle.id
    assert extra["dibs_queue"] == "emails"
    assert extra["dibs_name"] == "bad"
    assert extra["dibs_attempt"] == 1
    assert extra["dibs_ending"] == "dead"
    assert extra["dibs_ms"] >= 0
    assert record.exc_info is not None


# ---- Types


def test_type_checkers_check_a_tasks_arguments(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    source = tmp_path / "typed.py"
    source.write_text(
        textwrap.dedent(
            """
            import dibs

            app = dibs.App("app.db")

            @app.task(queue="emails", max_attempts=5)
            def send(to: str, *, job: dibs.Job = dibs.INJECTED) -> int:
                return 1

            @app.task
            async def asend(to: str) -> str:
                return to

            good: int = send.enqueue("a").result()
            fine: str = asend.options(delay=5).enqueue(to="a").result()
            send.enqueue(5)
            asend.enqueue()
            wrong: str = send.enqueue("a").result()
            send.options(delai=5)
            """
        )
    )
    packages = Path(dibs.__file__).parents[1]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(source)],
        capture_output=True,
        text=True,
        env={} if packages.name == "site-packages" else {"MYPYPATH": str(packages)},
        cwd=tmp_path,
    )
    lines = [line for line in checked.stdout.splitlines() if " error: " in line]
    assert [line.rsplit("[", 1)[-1].rstrip("]") for line in lines] == [
        "arg-type",
        "call-arg",
        "assignment",
        "call-arg",
    ], checked.stdout + checked.stderr
