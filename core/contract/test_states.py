# SPDX-License-Identifier: MIT
"""Each operation, in each state that a job can be in, by each face that offers
it: the status is the contract's, and so is what becomes of the job. And each
status that an operation is said to give, it gives."""

import ctypes
import json
import threading

import pytest

import faces
from contract import Contract, milliseconds
from faces import HOUR, LIBRARY, UNSET, array, options, status_name

CONTRACT = Contract()
EXIT_CODES = {s["name"]: s["exit_code"] for s in CONTRACT["statuses"]}
STATES = [*CONTRACT["states"], "absent"]


class Job:
    """A job that was brought to a state, alone in its queue but for what that
    takes."""

    def __init__(self, face, queue, state):
        self.queue, self.state = queue, state
        self.q = queue.encode()
        self.queues = array(self.q)
        getattr(self, f"make_{state}")(face)
        if not hasattr(self, "receipt"):
            self.receipt = f"{self.id}:0123456789abcdef"
        self.r = self.receipt.encode()
        assert face.state(self.id) == state, "the test could not make the job"

    def claimed(self, face, **given):
        given.setdefault("keep", HOUR)
        self.id = face.enqueue(self.queue, **given)
        self.receipt = face.claim(self.queue)

    def make_ready(self, face):
        self.claimed(face)
        face.settle("release", self.receipt)

    def make_scheduled(self, face):
        self.claimed(face)
        face.settle("snooze", self.receipt, HOUR)

    def make_blocked(self, face):
        """By a job of its key that is running."""
        face.enqueue(self.queue, key=b"k")
        self.id = face.enqueue(self.queue, key=b"k", keep=HOUR)
        face.claim(self.queue)

    def make_staged(self, face):
        self.id = face.enqueue(self.queue, stage=HOUR, keep=HOUR)

    def make_running(self, face):
        self.claimed(face)

    def make_done(self, face):
        self.claimed(face)
        face.settle("ack", self.receipt, None)

    def make_dead(self, face):
        self.claimed(face)
        face.settle("fail", self.receipt, b"broken")

    def make_absent(self, face):
        self.claimed(face, keep=0)
        face.settle("ack", self.receipt, None)


@pytest.fixture(name="path", scope="module")
def fixture_path(tmp_path_factory):
    """One database for all: each job has a queue of its own."""
    return str(tmp_path_factory.mktemp("states") / "jobs.db")


@pytest.fixture(name="c", scope="module")
def fixture_c(path):
    face = faces.C(path)
    yield face
    face.close()


@pytest.fixture(name="all_faces", scope="module")
def fixture_all_faces(path, c):
    found = {"c": c, "sql": faces.Sql(path), "program": faces.Program(path)}
    yield found
    found["sql"].close()


def driven():
    """Each operation that is about a job or a queue, by each face."""
    return [
        (operation["name"], face)
        for operation in CONTRACT["operations"]
        for face in ("c", "sql", "program")
        if operation["states"] and operation[face]
    ]


SEEN = set()  # each operation with each status that it gave


@pytest.mark.parametrize("name, face_name", driven())
def test_every_state(name, face_name, c, all_faces):
    face = all_faces[face_name]
    wrong = []
    for state in STATES:
        promised = CONTRACT.operations[name]["states"][state]
        expected = promised.get(face_name, promised["status"])
        job = Job(c, f"{name}-{face_name}-{state}", state)
        status, count = face.do(name, job)
        SEEN.add((name, status))
        seen = {"status": status, "state": c.state(job.id)}
        wanted = {"status": expected, "state": promised.get("becomes", state)}
        if expected != promised["status"]:
            promised = {**promised, "count": 0}
        if count is not None and "count" in promised:
            seen["count"], wanted["count"] = count, promised["count"]
        if face_name == "program":
            seen["exit_code"] = face.exit_code
            wanted["exit_code"] = promised.get(
                "exit_code", EXIT_CODES[expected]
            )
        if seen != wanted:
            wrong.append(f"{state}: {seen}, the contract says {wanted}")
    assert not wrong, "\n".join([f"{name} by {face_name}:", *wrong])


# ---- What is given -----------------------------------------------------------


def claim_as(c, queue, worker):
    """Claim one job by a name; gives its receipt."""
    chosen = options(faces.ClaimOptions, worker=worker)
    with c.jobs("claim", array(queue), 1, ctypes.byref(chosen)) as (_, jobs):
        return jobs[0].receipt.decode()


def rows(path, *words):
    done = faces.run(path, *words)
    assert done.returncode in (0, 1), done
    return [json.loads(row) for row in done.stdout.splitlines()]


def keys(objects):
    return set().union(*objects)


def test_a_job_in_json(c, path):
    """No other field than those of the contract, and each of them."""
    number = c.enqueue(
        "fields", name=b"n", headers=b'{"a":"b"}', key=b"k", keep=HOUR
    )
    c.settle("retry", claim_as(c, b"fields", b"w"), 0, b"first", None)
    receipt = claim_as(c, b"fields", b"w")
    c.settle("progress", receipt, 0.5, b"half")
    found = rows(path, "get", str(number))
    c.settle("ack", receipt, b"{}")
    found += rows(path, "get", str(number))
    assert keys(found[0]["errors"]) == CONTRACT.fields("error", "json")
    rows(path, "enqueue", "-q", "bytes", "--bytes", "x")
    found += rows(path, "claim", "-q", "bytes")
    assert "payload_base64" in found[2] and "payload" not in found[2]
    fields = keys(found) - {"payload_base64"}
    assert fields == CONTRACT.fields("job", "json")


def test_a_queue_a_reason_and_a_finding_in_json(c, path, all_faces):
    """By the program and by SQL the same."""
    value = all_faces["sql"].sqlite.rows
    head = c.enqueue("given", key=b"k")
    behind = c.enqueue("given", key=b"k")
    scheduled = c.enqueue("given", delay=HOUR)
    (stats,) = rows(path, "stats", "-q", "given")
    promised = CONTRACT.fields("queue", "json")
    assert set(stats) == promised
    given = json.loads(value("SELECT dibs_stats()")[0][0])
    assert keys(given) == promised
    found = rows(path, "explain", str(behind), str(scheduled))
    reasons = [reason for row in found for reason in row["reasons"]]
    promised = CONTRACT.fields("reason", "json")
    assert keys(reasons) == promised
    assert reasons[0]["id"] == head
    by_sql = [
        reason
        for number in (behind, scheduled)
        for reason in json.loads(value("SELECT dibs_explain(?)", number)[0][0])
    ]
    assert keys(by_sql) == promised
    assert [r["text"] for r in by_sql[:1]] == [r["text"] for r in reasons[:1]]
    findings = rows(path, "doctor") + rows(path + "-none", "doctor")
    assert keys(findings) == CONTRACT.fields("finding", "json")


# ---- A database with a clock -------------------------------------------------


class Clock:
    """A time that the test sets."""

    def __init__(self):
        self.now = 1_800_000_000_000

    def __call__(self, _):
        return self.now


class Bench:
    """A database of its own, with a clock."""

    def __init__(self, folder):
        self.clock = Clock()
        self.path = str(folder / "jobs.db")
        self.c = faces.C(self.path, clock=self.clock, max_payload=100)


@pytest.fixture(name="bench")
def fixture_bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.c.close()


# ---- Defaults ----------------------------------------------------------------


def default(operation, name):
    """A default of the contract, a duration in milliseconds."""
    arguments = CONTRACT.operations[operation]["arguments"]
    (argument,) = [a for a in arguments if a["name"] == name]
    value = argument["default"]
    if argument["type"] == "duration":
        return milliseconds(value.rpartition(" ")[2])
    return value


def take(bench, queue):
    """Claim one job with no options: a copy of its times, and its receipt."""
    with bench.c.jobs("claim", array(queue), 1, None) as (status, jobs):
        assert status == 0, bench.c.error()
        job = jobs[0]
        return job.lease_until - job.claimed_at, job.receipt


def test_the_defaults_of_retries(bench):
    """Backoff, its factor, cap and jitter, and the number of attempts."""
    wait = default("enqueue", "backoff")
    number = bench.c.enqueue("q")
    for attempt in range(1, default("enqueue", "max_attempts")):
        _, receipt = take(bench, b"q")
        bench.c.must("retry", receipt, UNSET, None, None)
        assert bench.c.state(number) == "scheduled", attempt
        at = ctypes.c_int64()
        bench.c.must("next_event", ctypes.byref(at))
        delay = at.value - bench.clock.now
        most = wait * (1 + default("enqueue", "backoff_jitter"))
        assert wait <= delay <= most, f"attempt {attempt}"
        bench.clock.now = at.value
        wait *= default("enqueue", "backoff_factor")
        wait = min(wait, default("enqueue", "backoff_cap"))
    assert wait == default("enqueue", "backoff_cap"), "the cap was not reached"
    _, receipt = take(bench, b"q")
    bench.c.must("retry", receipt, UNSET, None, None)
    assert bench.c.state(number) == "dead"


def test_the_defaults_of_a_claim(bench):
    number = bench.c.enqueue(default("enqueue", "queue"))
    assert enqueue_many(bench, LIBRARY.dibs_none(), queue=None) == 0
    with bench.c.jobs("claim", None, 0, None) as (_, jobs):
        assert [job.id for job in jobs] == [number]
        assert len(jobs) == default("claim", "n")
        lease = jobs[0].lease_until - jobs[0].claimed_at
        assert lease == default("claim", "lease")
        bench.c.must("ack", jobs[0].receipt, None)
    assert bench.c.state(number) == "absent", "it is not kept"
    with bench.c.jobs("claim", None, 0, None) as (status, _):
        assert status == 0, "the job of no queue went elsewhere"


def test_the_default_of_a_list(bench):
    for _ in range(default("list", "limit") + 1):
        bench.c.enqueue("q")
    with bench.c.jobs("list", None, 0, None) as (_, jobs):
        assert len(jobs) == default("list", "limit")


# ---- Statuses beside the states ----------------------------------------------


BAD = array(b"a\nb")
LONG = b'"' + b"x" * 200 + b'"'


def invalid_receipt(action):
    def show(bench):
        arguments = {
            "ack": [None],
            "retry": [UNSET, None, None],
            "fail": [None],
            "release": [],
            "snooze": [0],
            "discard": [None],
            "extend": [HOUR, None],
            "checkpoint": [LIBRARY.dibs_json(b"1"), UNSET],
            "progress": [0.5, None],
        }[action]
        return bench.c.call(action, b"nothing", *arguments)

    return show


def invalid_queues(name, *arguments):
    return lambda bench: bench.c.call(name, BAD, 1, *arguments, *outs(name))


def outs(name):
    out = ctypes.byref(ctypes.c_void_p())
    return {"join": [], "redrive": [None, None, None]}.get(name, [out])


def late(name):
    def show(bench):
        number = bench.c.enqueue("q", stage=1000)
        bench.clock.now += 2000
        # Until somebody notices, an abort does what its time's end does.
        with bench.c.jobs("claim", array(b"q"), 1, None) as (status, _):
            assert status_name(status) == "DIBS_EMPTY"
        return bench.c.call(name, number)

    return show


def show_change_late(bench):
    number = bench.c.enqueue("q", stage=1000)
    bench.clock.now += 2000
    return bench.c.call(
        "change", number, ctypes.byref(options(faces.ChangeOptions, stage=1000))
    )


def unique(**given):
    return faces.job_options(unique=b"u", **given)


def show_exists(bench):
    bench.c.enqueue("q", unique=b"u")
    rejecting = unique(
        on_conflict=CONTRACT["enums"]["dibs_on_conflict"][
            "DIBS_CONFLICT_REJECT"
        ]
    )
    return bench.c.call(
        "enqueue", b"q", LIBRARY.dibs_json(b"1"), ctypes.byref(rejecting), None
    )


def enqueue_many(bench, payload, chosen=None, queue=b"q"):
    job = faces.NewJob(
        queue,
        payload,
        ctypes.cast(ctypes.pointer(chosen), ctypes.c_void_p)
        if chosen
        else None,
    )
    return bench.c.call("enqueue_many", ctypes.byref(job), 1, None)


def show_many_exists(bench):
    bench.c.enqueue("q", unique=b"u")
    return enqueue_many(bench, LIBRARY.dibs_json(b"1"), unique(on_conflict=3))


def show_requeue_exists(bench):
    number = bench.c.enqueue("q", unique=b"u")
    bench.c.settle("fail", bench.c.claim("q"), b"broken")
    bench.c.enqueue("q", unique=b"u")
    outcome = faces.IdOutcome()
    bench.c.must(
        "requeue", (ctypes.c_int64 * 1)(number), 1, ctypes.byref(outcome), None
    )
    return outcome.status


def settlement(receipt, action=1):
    def show(bench):
        bench.c.enqueue("q")
        bench.c.claim("q")
        one = faces.Settlement(receipt=receipt, action=action)
        bench.c.must("settle", ctypes.byref(one), 1)
        return one.status

    return show


def interrupted(call):
    def show(bench):
        bench.c.enqueue("q", delay=HOUR)
        LIBRARY.dibs_interrupt(bench.c.db)
        return call(bench)

    return show


def waiting_claim(bench):
    chosen = options(faces.ClaimOptions, wait=HOUR)
    return bench.c.call(
        "claim", array(b"q"), 1, ctypes.byref(chosen), *outs("claim")
    )


class Engine:
    """An engine on the bench's database, until the end of the `with`."""

    def __init__(self, bench, **given):
        self.engine = ctypes.c_void_p()
        self.status = LIBRARY.dibs_engine_open(
            bench.path.encode(),
            None,
            ctypes.byref(options(faces.EngineOptions, **given)),
            ctypes.byref(self.engine),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        LIBRARY.dibs_engine_close(self.engine)

    def next(self):
        run = ctypes.c_void_p()
        return LIBRARY.dibs_engine_next(self.engine, 0, ctypes.byref(run)), run


def show_work_invalid(bench):
    with Engine(bench, slots=0) as engine:
        return engine.status


def show_work_empty(bench):
    with Engine(bench) as engine:
        return engine.next()[0]


def show_work_interrupted(bench):
    """Only a call that waits is interrupted: told until it has heard."""
    given = []

    def wait(engine):
        run = ctypes.c_void_p()
        given.append(LIBRARY.dibs_engine_next(engine, HOUR, ctypes.byref(run)))

    with Engine(bench) as engine:
        thread = threading.Thread(target=wait, args=[engine.engine])
        thread.start()
        while thread.is_alive():
            LIBRARY.dibs_engine_interrupt(engine.engine)
            thread.join(0.01)
    return given[0]


def show_work_lost(bench):
    number = bench.c.enqueue("default")
    with Engine(bench) as engine:
        status, run = engine.next()
        assert status == 0
        bench.c.must("cancel", (ctypes.c_int64 * 1)(number), 1, None, None)
        outcome = faces.Settlement(action=1)
        return LIBRARY.dibs_engine_settle(
            engine.engine, run, ctypes.byref(outcome)
        )


def watched(bench, patterns, use):
    watch = ctypes.c_void_p()
    status = LIBRARY.dibs_watch_open(
        bench.path.encode(), None, patterns, 1, None, ctypes.byref(watch)
    )
    try:
        return status or use(watch)
    finally:
        LIBRARY.dibs_watch_close(watch)


def show_watch_interrupted(bench):
    def use(watch):
        LIBRARY.dibs_watch_interrupt(watch)
        return LIBRARY.dibs_watch_wait(watch, HOUR)

    return watched(bench, array(b"q"), use)


def show_init_invalid(bench):
    """It has options in SQL alone."""
    sqlite = faces.Sqlite(bench.path)
    try:
        sqlite.rows("SELECT dibs_init('{\"two_libraries\":false}')")
        with pytest.raises(faces.SqlError, match="nothing") as raised:
            sqlite.rows("SELECT dibs_init('{\"nothing\":true}')")
    finally:
        sqlite.close()
    return str(raised.value).partition(":")[0]


SHOWN = {
    ("init", "INVALID"): show_init_invalid,
    ("open", "INVALID"): lambda bench: LIBRARY.dibs_open(
        bench.path.encode(),
        ctypes.byref(options(faces.OpenOptions, create=9)),
        ctypes.byref(ctypes.c_void_p()),
    ),
    ("enqueue", "INVALID"): lambda bench: bench.c.call(
        "enqueue", b"a*", LIBRARY.dibs_none(), None, None
    ),
    ("enqueue", "TOO_BIG"): lambda bench: bench.c.call(
        "enqueue", b"q", LIBRARY.dibs_json(LONG), None, None
    ),
    ("enqueue", "EXISTS"): show_exists,
    ("enqueue_many", "INVALID"): lambda bench: enqueue_many(
        bench, LIBRARY.dibs_json(b"{")
    ),
    ("enqueue_many", "TOO_BIG"): lambda bench: enqueue_many(
        bench, LIBRARY.dibs_json(LONG)
    ),
    ("enqueue_many", "EXISTS"): show_many_exists,
    ("commit", "LATE"): late("commit"),
    ("abort", "LATE"): late("abort"),
    ("change", "LATE"): show_change_late,
    ("claim", "INVALID"): invalid_queues("claim", None),
    ("claim", "INTERRUPTED"): interrupted(waiting_claim),
    ("peek", "INVALID"): invalid_queues("peek", 1),
    **{
        (action, "INVALID"): invalid_receipt(action)
        for action in CONTRACT.operations
        if CONTRACT.operations[action]["about"] == "receipt"
        and action != "settle"
    },
    ("checkpoint", "TOO_BIG"): lambda bench: bench.c.call(
        "checkpoint", running(bench), LIBRARY.dibs_json(LONG), UNSET
    ),
    ("settle", "INVALID"): settlement(b"nothing"),
    ("settle", "LOST"): settlement(b"1:0123456789abcdef"),
    ("work", "INVALID"): show_work_invalid,
    ("work", "EMPTY"): show_work_empty,
    ("work", "INTERRUPTED"): show_work_interrupted,
    ("work", "LOST"): show_work_lost,
    ("watch", "INVALID"): lambda bench: watched(bench, BAD, None),
    ("watch", "EMPTY"): lambda bench: watched(
        bench, array(b"q"), lambda watch: LIBRARY.dibs_watch_wait(watch, 0)
    ),
    ("watch", "INTERRUPTED"): show_watch_interrupted,
    ("list", "INVALID"): invalid_queues("list", None),
    ("stats", "INVALID"): invalid_queues("stats"),
    ("join", "INVALID"): invalid_queues("join", 0),
    ("join", "INTERRUPTED"): interrupted(
        lambda bench: bench.c.call("join", array(b"q"), 1, HOUR)
    ),
    ("explain_queue", "INVALID"): lambda bench: bench.c.call(
        "explain_queue", b"a\nb", *outs("")
    ),
    ("await", "INTERRUPTED"): interrupted(
        lambda bench: bench.c.call("await", 1, HOUR, None, None)
    ),
    ("change", "INVALID"): lambda bench: bench.c.call(
        "change",
        bench.c.enqueue("q"),
        ctypes.byref(options(faces.ChangeOptions, priority=2**40)),
    ),
    ("requeue", "EXISTS"): show_requeue_exists,
    ("redrive", "INVALID"): invalid_queues("redrive"),
    ("purge", "INVALID"): invalid_queues("purge"),
    ("clear", "INVALID"): invalid_queues("clear", 0),
    ("pause", "INVALID"): invalid_queues("pause"),
    ("resume", "INVALID"): invalid_queues("resume"),
    ("queue_set", "INVALID"): lambda bench: bench.c.call(
        "queue_set", b"q", array(b"nothing"), array(b"1"), 1
    ),
    ("queue_show", "INVALID"): lambda bench: bench.c.call(
        "queue_show", b"a*", *outs("")
    ),
}


def running(bench):
    bench.c.enqueue("q")
    return bench.c.claim("q").encode()


@pytest.mark.parametrize("name, status", SHOWN)
def test_a_status_is_given(name, status, bench):
    given = SHOWN[name, status](bench)
    if isinstance(given, int):
        given = status_name(given)
    assert given == f"DIBS_{status}", bench.c.error()
    SEEN.add((name, given))


def test_every_status_is_shown():
    """By the tests above; those of the groups are any operation's."""
    promised = {
        (operation["name"], status)
        for operation in CONTRACT["operations"]
        for status in operation["statuses"]
    }
    by_state = {
        (operation["name"], promise["status"])
        for operation in CONTRACT["operations"]
        for promise in (operation["states"] or {}).values()
    }
    shown = by_state | {(name, f"DIBS_{status}") for name, status in SHOWN}
    assert {
        (name, status) for name, status in shown if status != "DIBS_OK"
    } == promised
    for name, status in SEEN:
        assert status in CONTRACT.allowed(CONTRACT.operations[name]), (
            name,
            status,
        )
