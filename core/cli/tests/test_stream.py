# SPDX-License-Identifier: MIT
"""enqueue --lines and --jobs: streams of any length, and where they stop."""

import base64
import json
import os
import resource
import signal
import subprocess

import pytest

from harness import LIMIT, PROGRAM, Terminal, environment, read_line


def lines(count):
    return "".join(f'{{"n":{n}}}\n' for n in range(1, count + 1))


def total(db):
    return sum(row["jobs"] for row in db.ok("queue"))


def test_each_line_is_a_payload_in_order(db):
    assert db.ok("enqueue", "--lines", input='1\n"a"\n{"b": 2}\n') == [
        {"id": 1},
        {"id": 2},
        {"id": 3},
    ]
    jobs = db.ok("list")
    assert [job["payload"] for job in jobs] == [1, "a", {"b": 2}]


def test_people_get_bare_ids(db):
    result = db.run("enqueue", "--lines", input="1\n2\n")
    assert (result.code, result.out, result.err) == (0, "1\n2\n", "")


def test_no_lines_is_no_jobs(db):
    result = db.json("enqueue", "--lines", input="")
    assert (result.code, result.out) == (0, "")


def test_a_last_line_without_an_end_counts(db):
    assert len(db.ok("enqueue", "--lines", input="1\n2")) == 2


def test_blank_lines_are_skipped(db):
    text = "\n1\n\n \t\n\r\n2\r\n\n"
    assert len(db.ok("enqueue", "--lines", input=text)) == 2
    assert [job["payload"] for job in db.ok("list")] == [1, 2]


def test_blank_lines_of_bytes_are_empty_payloads(db):
    assert len(db.ok("enqueue", "--lines", "--bytes", input="a\n\n\nb")) == 4
    payloads = [job["payload_base64"] for job in db.ok("list")]
    assert list(map(base64.b64decode, payloads)) == [b"a", b"", b"", b"b"]


def test_bytes_survive(db):
    data = [b"a\0b", b"\xff\xfe", b"\r", b" x "]
    db.ok("enqueue", "--lines", "--bytes", input=b"\n".join(data) + b"\n")
    payloads = [job["payload_base64"] for job in db.ok("list")]
    assert list(map(base64.b64decode, payloads)) == data


def test_options_are_for_every_line(db):
    db.ok("enqueue", "--lines", "-q", "a", "--priority", "5", input="1\n2\n")
    jobs = db.ok("list")
    assert [(j["queue"], j["priority"]) for j in jobs] == [("a", 5), ("a", 5)]


def test_a_hundred_thousand_lines(db):
    result = db.json("enqueue", "--lines", input=lines(100_000))
    assert result.code == 0, result.err
    assert [row["id"] for row in result.rows] == list(range(1, 100_001))
    assert db.ok("stats", "-q", "default")[0]["ready"] == 100_000
    assert db.get(77_777)["payload"] == {"n": 77_777}


def is_instrumented():
    """A sanitizer needs all the address space there is."""
    with open(PROGRAM, "rb") as program:
        data = program.read()
    return b"__asan_init" in data or b"__tsan_init" in data


def feed(db, words, pieces):
    """Run enqueue on a pipe, in 64 MB of memory; gives exit code and stderr."""

    def limit():
        if not instrumented:
            resource.setrlimit(resource.RLIMIT_AS, (64_000_000, 64_000_000))

    instrumented = is_instrumented()
    process = subprocess.Popen(
        [PROGRAM, "--db", db.path, "--json", "enqueue", *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=limit,
        env=environment(),
    )
    try:
        for piece in pieces:
            process.stdin.write(piece)
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has stopped reading
    _, errors = process.communicate(timeout=LIMIT)
    return process.returncode, errors


def test_a_long_stream_takes_bounded_memory(db):
    """Of lines of 100 kB a batch of a thousand would be too much."""
    line = json.dumps("x" * 100_000).encode() + b"\n"
    code, errors = feed(db, ["--lines"], [line] * 1500)
    assert (code, errors) == (0, b"")
    assert total(db) == 1500


def test_a_line_as_long_as_the_limit(db):
    limit = 300_000
    line = json.dumps("x" * (limit - 2))
    words = ("enqueue", "--lines", "--max-payload", limit)
    assert len(db.ok(*words, input=f"{line}\n1\n")) == 2
    result = db.json(*words, input=f"1\n{line} \n2\n")
    assert result.code == 2, result
    assert result.error["status"] == "DIBS_TOO_BIG"
    assert (result.error["line"], result.error["taken"]) == (2, 0)


def test_a_line_without_end_is_refused_in_bounded_memory(db):
    words = ("--lines", "--bytes", "--max-payload", 1000)
    code, errors = feed(db, words, [b"x" * 1_000_000] * 100)
    assert code == 2
    error = json.loads(errors)["error"]
    assert (error["status"], error["line"]) == ("DIBS_TOO_BIG", 1)


def test_a_bad_line_stops_the_stream(db):
    text = lines(1500).replace('{"n":1234}', "{oops")
    result = db.json("enqueue", "--lines", input=text)
    assert result.code == 2
    assert result.error["status"] == "DIBS_INVALID"
    assert (result.error["line"], result.error["taken"]) == (1234, 1000)
    assert "line 1234" in result.error["message"]
    assert [row["id"] for row in result.rows] == list(range(1, 1001))
    assert total(db) == 1000


def test_people_read_where_it_stopped(db):
    result = db.run("enqueue", "--lines", input="1\n\n\nx\n")
    assert result.code == 2
    assert "line 4" in result.err
    assert "0 jobs were taken" in result.err
    assert total(db) == 0


def test_blank_lines_count_as_lines(db):
    result = db.json("enqueue", "--lines", input="\n1\n\n\nx\n2\n")
    assert result.error["line"] == 5


def test_atomic_takes_all_or_nothing(db):
    text = lines(2500)
    words = ("enqueue", "--lines", "--atomic")
    result = db.json(*words, input=text.replace('{"n":2400}', "oops"))
    assert result.code == 2
    assert (result.error["line"], result.error["taken"]) == (2400, 0)
    assert result.out == ""
    assert total(db) == 0
    assert len(db.ok(*words, input=text)) == 2500


def test_jobs_say_everything_themselves(db):
    rows = [
        {"queue": "a", "payload": {"x": 1}, "name": "n", "priority": 3},
        {"payload_base64": "AAH/", "headers": {"t": "1"}},
        {"payload": None, "delay": "5m", "max_attempts": 2, "key": "k"},
        {},
        {"at": "2099-01-01T00:00:00Z"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert len(db.ok("enqueue", "--jobs", input=text)) == 5
    one, two, three, four, five = db.ok("list")
    assert (one["queue"], one["name"], one["priority"]) == ("a", "n", 3)
    assert one["payload"] == {"x": 1}
    assert (two["queue"], two["payload_base64"]) == ("default", "AAH/")
    assert two["headers"] == {"t": "1"}
    assert three["payload"] is None
    assert (three["state"], three["key"]) == ("scheduled", "k")
    assert three["max_attempts"] == 2
    assert "payload" not in four
    assert five["due_at"] == "2099-01-01T00:00:00.000Z"


def test_options_stand_in_for_what_a_job_leaves_out(db):
    text = '{"queue":"own","priority":1,"delay":0}\n{"name":"mine"}\n{}\n'
    words = ("-q", "b", "--priority", "9", "--name", "theirs", "--delay", "1h")
    db.ok("enqueue", "--jobs", *words, "--max-attempts", "4", input=text)
    one, two, three = db.ok("list")
    assert (one["queue"], one["priority"], one["state"]) == ("own", 1, "ready")
    assert (one["name"], one["max_attempts"]) == ("theirs", 4)
    assert (two["queue"], two["priority"], two["name"]) == ("b", 9, "mine")
    assert (three["state"], three["name"]) == ("scheduled", "theirs")


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "1",
        "{",
        '{"payload":1,"payload_base64":"AA=="}',
        '{"payload_base64":"%"}',
        '{"queu":"a"}',
        '{"queue":"a*"}',
        '{"queue":1}',
        '{"delay":"soon"}',
        '{"payload":1} x',
    ],
)
def test_a_bad_job_is_named_by_its_line(db, line):
    result = db.json("enqueue", "--jobs", input=f"{{}}\n{line}\n{{}}\n")
    assert result.code == 2, result
    assert (result.error["line"], result.error["taken"]) == (2, 0)
    assert total(db) == 0


def test_an_unknown_member_is_named(db):
    result = db.json("enqueue", "--jobs", input='{"queu":"a"}\n')
    assert "queu" in result.error["message"]


def test_a_unique_job_in_a_stream(db):
    text = '{"unique":"k"}\n{}\n{"unique":"k"}\n'
    assert db.ok("enqueue", "--jobs", input=text) == [
        {"id": 1},
        {"id": 2},
        {"id": 1, "existing": True},
    ]
    text = '{}\n{"unique":"k","on_conflict":"reject"}\n'
    result = db.json("enqueue", "--jobs", input=text)
    assert result.code == 5
    assert (result.error["line"], result.error["taken"]) == (2, 0)


def test_a_reader_that_goes_away_loses_no_job(db):
    """Like `| head -1`: the ids have no reader, the jobs are taken."""
    reader, writer = os.pipe()
    os.close(reader)
    result = db.run("enqueue", "--lines", input=lines(20_000), stdout=writer)
    os.close(writer)
    assert result.code == 0, result
    assert "20000 jobs were taken" in result.err
    assert total(db) == 20_000


def test_ids_that_cannot_be_written_are_an_error(db):
    with open("/dev/full", "wb") as full:
        result = db.run("enqueue", "--lines", input=lines(2000), stdout=full)
    assert result.code == 7, result
    assert "2000 jobs were taken" in result.err


def test_a_pause_ends_a_batch(db):
    """Lines that trickle in are enqueued without waiting for a thousand."""
    process = subprocess.Popen(
        [PROGRAM, "--db", db.path, "enqueue", "--lines"],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    process.stdin.write(b"1\n2\n")
    process.stdin.flush()
    assert read_line(process.stdout) == b"1\n"
    assert read_line(process.stdout) == b"2\n"
    process.stdin.write(b"3\n")
    rest, _ = process.communicate(timeout=LIMIT)
    assert (rest, process.returncode) == (b"3\n", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_between_batches(db, number):
    process = subprocess.Popen(
        [PROGRAM, "--db", db.path, "--json", "enqueue", "--lines"],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    process.stdin.write(lines(1000).encode())
    process.stdin.flush()
    taken = [read_line(process.stdout) for _ in range(1000)]
    process.send_signal(number)
    rest, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, errors
    error = json.loads(errors)["error"]
    assert (error["status"], error["taken"]) == ("DIBS_INTERRUPTED", 1000)
    assert rest == b""
    assert json.loads(taken[-1]) == {"id": 1000}
    assert total(db) == 1000


def test_a_progress_bar_on_a_terminal(db, tmp_path):
    (tmp_path / "in").write_text(lines(3000))
    with open(tmp_path / "in", "rb") as stdin, open(
        tmp_path / "out", "wb"
    ) as stdout:
        terminal = Terminal(
            *("--db", db.path, "enqueue", "--lines"),
            stdin=stdin,
            stdout=stdout,
        )
        code = terminal.finish()
    assert code == 0, terminal.text
    assert "[#" in terminal.text and "%" in terminal.text
    assert terminal.text.endswith("\r\x1b[K"), "the bar is taken away"
    assert len((tmp_path / "out").read_text().split()) == 3000


def test_no_progress_bar_without_a_terminal(db):
    result = db.run("enqueue", "--lines", input=lines(3000))
    assert result.err == ""


def test_a_full_database_stops_with_the_count(db):
    """A file size limit stands in for a full disk."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    done = subprocess.run(
        [PROGRAM, "--db", db.path, "--json", "enqueue", "--lines"],
        input=(json.dumps("x" * 500) + "\n").encode() * 20_000,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=limit,
        env=environment(),
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    error = json.loads(done.stderr)["error"]
    assert error["status"] in ("DIBS_FULL", "DIBS_IO")
    assert error["taken"] == done.stdout.count(b"\n") == total(db)
