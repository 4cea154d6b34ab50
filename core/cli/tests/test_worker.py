# SPDX-License-Identifier: MIT
"""dibs worker, as those who run it see it.

DIBS names the program. Nothing here sleeps until something has probably
happened: each test waits for what it is about, with a deadline that only a
failure reaches.
"""

import json
import os
import pty
import re
import resource
import select
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import pytest

DIBS = os.environ["DIBS"]
DEADLINE = 60.0  # seconds; generous, for machines that do much else


# ---- Helpers ----------------------------------------------------------------


def wait_until(condition, what):
    """The first true value of condition(); fails at the deadline."""
    until = time.monotonic() + DEADLINE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"waited in vain: {what}"
        time.sleep(0.005)


def is_alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children_of(pid):
    """{pid: (comm, state)} of the children, zombies too."""
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = path.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent = rest.split()[:2]
        if int(parent) == pid:
            number, _, comm = head.partition(" (")
            children[int(number)] = (comm, state)
    return children


class Queue:
    """A database, and the program to work on it."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "jobs.db"
        self.workers = []
        self.run("init")

    def command(self, *words):
        return [DIBS, "--db", str(self.path), *map(str, words)]

    def run(self, *words, code=0, **options):
        done = subprocess.run(
            self.command(*words), capture_output=True, timeout=DEADLINE, **options
        )
        assert done.returncode == code, (words, done.returncode, done.stderr)
        return done

    def enqueue(self, *words):
        return int(self.run("enqueue", *words).stdout)

    def get(self, id_):
        return json.loads(self.run("--json", "get", id_).stdout)

    def count(self, state):
        lines = self.run("--json", "stats", "-q", "default").stdout.splitlines()
        return json.loads(lines[0])[state]

    def worker(self, *words, **options):
        """Run a worker to its end."""
        return self.run("worker", *words, **options)

    @contextmanager
    def running(self, *words, **options):
        """A worker that runs meanwhile."""
        process = subprocess.Popen(
            self.command("worker", *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def queue(tmp_path):
    return Queue(tmp_path)


def stop(process, number=signal.SIGTERM):
    """Stop a worker; gives its exit code and stderr."""
    process.send_signal(number)
    _, stderr = process.communicate(timeout=DEADLINE)
    return process.returncode, stderr.decode()


def shell(script):
    return ["--", "sh", "-c", script]


def read_numbers(path, count):
    """The numbers that a command has written to a file, once all are there."""

    def numbers():
        words = path.read_text().split() if path.exists() else []
        return [int(word) for word in words] if len(words) == count else None

    return wait_until(numbers, f"{count} numbers in {path}")


# ---- What a command gets ----------------------------------------------------


def test_payload_is_stdin_byte_for_byte(queue):
    text = '{"a": [1,  2]}'
    queue.enqueue(text)
    done = queue.worker("--drain", "--", "cat")
    assert done.stdout.decode() == text


def test_bytes_and_empty_and_absent_payloads(queue):
    data = queue.folder / "data"
    data.write_bytes(bytes(range(256)) * 4096)  # a MiB, NUL bytes included
    queue.enqueue("--bytes", "--file", data)
    assert queue.worker("--drain", "--", "cat").stdout == data.read_bytes()
    data.write_bytes(b"")
    queue.enqueue("--bytes", "--file", data)
    queue.enqueue()
    done = queue.worker("--drain", "--", "wc", "-c")
    assert done.stdout.split() == [b"0", b"0"]


def test_environment(queue):
    words = ["--name", "resize", "--max-attempts", "1", "--header", "trace=1"]
    id_ = queue.enqueue("-q", "thumbs/a", *words, "1")
    stale = {**os.environ, "DIBS_NAME": "stale", "KEPT": "yes"}
    done = queue.worker("-q", "thumbs/*", "--drain", "--", "env", env=stale)
    seen = [line for line in done.stdout.decode().splitlines() if "=" in line]
    names = [line.partition("=")[0] for line in seen]
    values = dict(line.split("=", 1) for line in seen)
    assert len(names) == len(set(names)), "a variable is there twice"
    assert values["DIBS_JOB_ID"] == str(id_)
    assert values["DIBS_QUEUE"] == "thumbs/a"
    assert values["DIBS_NAME"] == "resize"
    assert values["DIBS_ATTEMPT"] == "1"
    assert values["DIBS_MAX_ATTEMPTS"] == "1"
    assert values["DIBS_FINAL"] == "1"
    assert json.loads(values["DIBS_HEADERS"]) == {"trace": "1"}
    assert values["DIBS_RECEIPT"].startswith(f"{id_}:")
    assert values["DIBS_DB"] == str(queue.path)
    assert values["KEPT"] == "yes"


def test_environment_of_a_plain_job(queue):
    queue.enqueue("1")
    done = subprocess.run(
        [DIBS, "worker", "--db", "jobs.db", "--drain", "--", "env"],
        cwd=queue.folder,
        capture_output=True,
        timeout=DEADLINE,
        check=True,
    )
    lines = done.stdout.decode().splitlines()
    assert "DIBS_NAME=" in lines
    assert "DIBS_HEADERS={}" in lines
    assert "DIBS_FINAL=0" in lines
    assert f"DIBS_DB={queue.path}" in lines, "a relative path was handed on"


def test_signals_are_as_at_login(queue):
    queue.enqueue("1")
    script = "grep -E '^Sig(Blk|Ign)' /proc/self/status"
    done = queue.worker("--drain", *shell(script))
    masks = [int(line.split()[1], 16) for line in done.stdout.splitlines()]
    assert masks == [0, 0]


def test_only_the_three_descriptors_are_handed_on(queue):
    queue.enqueue("1")
    script = "import os; print(sorted(os.listdir('/proc/self/fd')))"
    done = queue.worker("--drain", "--", sys.executable, "-c", script)
    # The fourth is that of the folder being read.
    assert done.stdout.decode().strip() == "['0', '1', '2', '3']"


def test_a_command_that_does_not_read_is_fine(queue):
    data = queue.folder / "data"
    data.write_bytes(b"x" * 3_000_000)
    queue.enqueue("--bytes", "--file", data)
    queue.worker("--drain", "--", "true")
    assert queue.count("ready") == queue.count("scheduled") == 0


# ---- How it ends ------------------------------------------------------------


@pytest.mark.parametrize("code", [1, 3, 75, 127, 255])
def test_other_exit_codes_retry(queue, code):
    id_ = queue.enqueue("1")
    queue.worker("--once", *shell(f"echo why >&2; exit {code}"))
    job = queue.get(id_)
    assert job["state"] == "scheduled"
    assert job["attempt"] == 1
    assert job["last_error"] == f"exit {code}: why"


def test_exit_65_fails_for_good(queue):
    id_ = queue.enqueue("1")
    queue.worker("--once", *shell("exit 65"))
    job = queue.get(id_)
    assert (job["state"], job["last_error"]) == ("dead", "exit 65")


def test_exit_69_releases_without_an_attempt(queue):
    id_ = queue.enqueue("1")
    queue.worker("--once", *shell("exit 69"))
    job = queue.get(id_)
    assert job["state"] == "ready"
    assert job.get("attempt", 0) == 0
    assert "last_error" not in job


def test_what_is_given_back_is_not_claimed_again_at_once(queue):
    queue.enqueue("1")
    begin = time.monotonic()
    done = queue.worker("--max-jobs", "4", "--json", *shell("exit 69"))
    took = time.monotonic() - begin
    assert done.stderr.count(b'"released"') == 4 + 1  # and the sum
    assert took >= 3 * 0.1, "at most ten times a second"


def test_a_signal_retries_and_is_named(queue):
    id_ = queue.enqueue("1")
    queue.worker("--once", *shell("kill -SEGV $$"))
    job = queue.get(id_)
    assert job["state"] == "scheduled"
    assert job["last_error"] == "killed by SIGSEGV"


def test_last_attempt_goes_to_the_dead_letters(queue):
    id_ = queue.enqueue("--max-attempts", "1", "1")
    queue.worker("--once", *shell("exit 1"))
    assert queue.get(id_)["state"] == "dead"


def test_error_is_the_end_of_stderr(queue):
    id_ = queue.enqueue("1")
    script = "for i in $(seq 20000); do echo line $i >&2; done; exit 1"
    done = queue.worker("--once", *shell(script))
    error = queue.get(id_)["last_error"]
    assert error.endswith("line 20000")
    assert 3000 < len(error) < 4200
    assert done.stderr.count(b"line ") >= 20000, "stderr was not passed on"


def test_error_is_valid_text_whatever_stderr_holds(queue):
    id_ = queue.enqueue("1")
    script = r"printf 'a\377b\000c\303' >&2; exit 1"
    queue.worker("--once", *shell(script))
    assert queue.get(id_)["last_error"] == "exit 1: a\ufffdb\ufffdc\ufffd"


def test_error_tail_begins_with_a_whole_character(queue):
    id_ = queue.enqueue("1")
    script = "print('€' * 5000, end='', file=__import__('sys').stderr); exit(1)"
    queue.worker("--once", "--", sys.executable, "-X", "utf8", "-c", script)
    error = queue.get(id_)["last_error"]
    assert set(error.removeprefix("exit 1: ")) == {"€"}


def test_log_lines_carry_no_control_characters(queue):
    queue.enqueue("--name", "n", "1")
    done = queue.worker("--once", *shell(r"printf '\033[31mred\a' >&2; exit 1"))
    lines = [line for line in done.stderr.splitlines() if b"to be retried" in line]
    assert len(lines) == 1, done.stderr
    assert not re.search(rb"[\x00-\x1f\x7f]", lines[0])


# ---- Results ----------------------------------------------------------------


def test_result_is_what_it_prints(queue):
    id_ = queue.enqueue("--keep", "1h", "1")
    done = queue.worker("--once", "--result", *shell("echo '{\"n\": 1}'"))
    assert queue.get(id_)["result"] == {"n": 1}
    assert done.stdout == b""


def test_nothing_printed_is_no_result(queue):
    id_ = queue.enqueue("--keep", "1h", "1")
    queue.worker("--once", "--result", "--", "true")
    job = queue.get(id_)
    assert job["state"] == "done"
    assert "result" not in job


@pytest.mark.parametrize("printed", ["oops", "1 2", "1\\000", "\\377"])
def test_a_result_that_is_no_json_retries(queue, printed):
    id_ = queue.enqueue("--keep", "1h", "1")
    queue.worker("--once", "--result", "--", "printf", printed)
    job = queue.get(id_)
    assert job["state"] == "scheduled"
    assert job["last_error"].startswith("the result was refused: ")


def test_a_result_over_the_limit_retries(queue):
    id_ = queue.enqueue("1")
    script = "head -c 5000 /dev/zero | tr '\\0' 1"
    words = ["--once", "--result", "--max-payload", "4000"]
    queue.worker(*words, *shell(script))
    job = queue.get(id_)
    assert job["state"] == "scheduled"
    assert "the result is" in job["last_error"]


# ---- What it leaves behind --------------------------------------------------


def test_what_a_success_leaves_running_goes_on(queue):
    pids = queue.folder / "pids"
    queue.enqueue("1")
    queue.worker("--once", *shell(f"sleep 1000 2>&- >&- & echo $! > {pids}"))
    (pid,) = read_numbers(pids, 1)
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_what_a_failure_leaves_running_is_killed(queue):
    pids = queue.folder / "pids"
    queue.enqueue("1")
    script = f"sleep 1000 2>&- >&- & echo $! > {pids}; exit 1"
    queue.worker("--once", *shell(script))
    (pid,) = read_numbers(pids, 1)
    wait_until(lambda: not is_alive(pid), "end of what was left")


def test_what_is_left_running_does_not_hold_up_the_settling(queue):
    id_ = queue.enqueue("1")
    queue.worker("--once", "--result", *shell("sleep 1000 & exit 65"))
    assert queue.get(id_)["state"] == "dead"


# ---- Time -------------------------------------------------------------------


def test_timeout_terminates(queue):
    id_ = queue.enqueue("1")
    queue.worker("--once", "--timeout", "100ms", "--", "sleep", "1000")
    job = queue.get(id_)
    assert job["state"] == "scheduled"
    assert job["last_error"] == "timed out after 0.1 s"


def test_timeout_of_the_job_goes_first(queue):
    id_ = queue.enqueue("--timeout", "150ms", "1")
    queue.worker("--once", "--timeout", "1h", "--", "sleep", "1000")
    assert queue.get(id_)["last_error"] == "timed out after 0.15 s"


def test_timeout_kills_what_ignores_it_and_what_that_started(queue):
    pids = queue.folder / "pids"
    script = f"trap '' TERM; sleep 1000 & echo $! $$ > {pids}; wait; wait"
    id_ = queue.enqueue("1")
    words = ["--once", "--timeout", "100ms", "--grace", "100ms"]
    queue.worker(*words, *shell(script))
    assert queue.get(id_)["last_error"] == "timed out after 0.1 s"
    for pid in read_numbers(pids, 2):
        wait_until(lambda: not is_alive(pid), f"end of {pid}")


def test_a_timeout_is_a_failed_attempt_whatever_the_command_says(queue):
    id_ = queue.enqueue("1")
    script = "trap 'exit 0' TERM; sleep 1000 & wait"
    queue.worker("--once", "--timeout", "100ms", *shell(script))
    assert queue.get(id_)["last_error"] == "timed out after 0.1 s"


def test_a_lease_is_extended_while_its_command_runs(queue):
    go = queue.folder / "go"
    id_ = queue.enqueue("--keep", "1h", "1")
    script = f"while [ ! -e {go} ]; do sleep 0.02; done"
    with queue.running("--lease", "600ms", "--once", *shell(script)) as worker:
        wait_until(lambda: queue.count("running"), "the claim")
        seen = set()

        def extended():
            seen.add(queue.get(id_)["lease_until"])
            return len(seen) >= 5

        wait_until(extended, "four extensions")
        go.touch()
        assert worker.wait(DEADLINE) == 0
    job = queue.get(id_)
    assert (job["state"], job["attempt"]) == ("done", 1)


# With a lease of an hour, nothing is noticed when the lease is extended.


def test_cancelling_ends_the_command_at_once(queue):
    pids = queue.folder / "pids"
    id_ = queue.enqueue("1")
    script = f"echo $$ > {pids}; exec sleep 1000"
    with queue.running("--lease", "1h", *shell(script)) as worker:
        (pid,) = read_numbers(pids, 1)
        queue.run("cancel", id_)
        wait_until(lambda: not is_alive(pid), "end of the command")
        code, stderr = stop(worker)
    assert code == 0
    assert "void" in stderr
    assert "lost 1" in stderr
    queue.run("get", id_, code=3)


def test_cancelling_kills_what_outlasts_the_grace(queue):
    pids = queue.folder / "pids"
    id_ = queue.enqueue("1")
    asked = queue.folder / "asked"
    script = f"trap 'touch {asked}' TERM; echo $$ > {pids}; while :; do sleep 0.1; done"
    words = ["--lease", "1h", "--grace", "300ms", "--once"]
    with queue.running(*words, *shell(script)) as worker:
        (pid,) = read_numbers(pids, 1)
        queue.run("cancel", id_)
        assert worker.wait(DEADLINE) == 0
    assert asked.exists(), "it was killed without having been asked"
    assert not is_alive(pid)


def test_cancelling_one_leaves_the_others(queue):
    pids, go = queue.folder / "pids", queue.folder / "go"
    ids = [queue.enqueue("--keep", "1h", str(n)) for n in range(3)]
    script = f"echo $DIBS_JOB_ID $$ >> {pids}; until [ -e {go} ]; do sleep 0.02; done"
    with queue.running("-j", "3", "--lease", "1h", *shell(script)) as worker:
        numbers = read_numbers(pids, 6)
        pid_of = dict(zip(numbers[::2], numbers[1::2], strict=True))
        queue.run("cancel", ids[1])
        wait_until(lambda: not is_alive(pid_of[ids[1]]), "end of the command")
        assert is_alive(pid_of[ids[0]]) and is_alive(pid_of[ids[2]])
        go.touch()
        wait_until(lambda: not queue.count("running"), "end of the others")
        assert stop(worker)[0] == 0
    outcomes = [queue.get(id_)["outcome"] for id_ in ids]
    assert outcomes == ["acked", "cancelled", "acked"]


# ---- The worker dies --------------------------------------------------------

FAMILY = "sh -c 'sleep 1000 & echo $! >> {0}; wait' & echo $! $$ >> {0}; wait"


def test_a_killed_worker_takes_its_commands_along(queue):
    pids = queue.folder / "pids"
    queue.enqueue("1")
    with queue.running(*shell(FAMILY.format(pids))) as worker:
        family = read_numbers(pids, 3)
        guard = children_of(worker.pid)
        worker.kill()
        worker.wait()
        for pid in [*family, *guard]:
            wait_until(lambda: not is_alive(pid), f"end of {pid}")


def test_a_guard_that_dies_is_replaced(queue):
    pids = queue.folder / "pids"

    def guards(worker):
        return [
            pid
            for pid, (comm, state) in children_of(worker.pid).items()
            if comm == "dibs-guard" and state != "Z"
        ]

    queue.enqueue("1")
    with queue.running(*shell(FAMILY.format(pids))) as worker:
        family = read_numbers(pids, 3)
        (first,) = guards(worker)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: guards(worker) not in ([], [first]), "a new guard")
        worker.kill()
        worker.wait()
        for pid in family:
            wait_until(lambda: not is_alive(pid), f"end of {pid}")


RERUN = "echo $$ >> {0}; [ $DIBS_ATTEMPT = 2 ] || exec sleep 1000"


def test_a_killed_workers_job_runs_elsewhere_at_once(queue):
    pids = queue.folder / "pids"
    id_ = queue.enqueue("--keep", "1h", "1")
    words = ["--lease", "1h", "--once", *shell(RERUN.format(pids))]
    with queue.running(*words) as one:
        (pid,) = read_numbers(pids, 1)
        with queue.running(*words) as two:
            wait_until(lambda: children_of(two.pid), "the other worker")
            one.kill()
            one.wait()
            assert two.wait(DEADLINE) == 0
    wait_until(lambda: not is_alive(pid), "end of the first command")
    job = queue.get(id_)
    assert (job["state"], job["attempt"], job["crashes"]) == ("done", 2, 1)
    assert "died" in job["errors"][0]["text"]


def test_no_guard_holds_the_database(queue):
    """Or it would hold the jobs of a dead worker. A second one is forked while
    the database is open."""
    pids = queue.folder / "pids"

    def opened(pid):
        files = set()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed just now
                files.add(os.readlink(link))
        return {file for file in files if file.startswith(str(queue.path))}

    def guards():
        found = children_of(worker.pid).items()
        return {pid for pid, (comm, _) in found if comm == "dibs-guard"}

    queue.enqueue("1")
    with queue.running(*shell(f"echo $$ > {pids}; exec sleep 1000")) as worker:
        read_numbers(pids, 1)
        assert f"{queue.path}-dibs" in opened(worker.pid)
        (first,) = guards()
        assert opened(first) == set()
        os.kill(first, signal.SIGKILL)
        (second,) = wait_until(lambda: guards() - {first}, "a new guard")
        wait_until(lambda: not opened(second), "it to let go of what it inherited")


def test_polite_signals_to_the_group_leave_the_guard(queue):
    pids = queue.folder / "pids"
    queue.enqueue("1")
    script = FAMILY.format(pids)
    with queue.running(*shell(script), start_new_session=True) as worker:
        family = read_numbers(pids, 3)
        for number in (signal.SIGHUP, signal.SIGKILL):
            os.killpg(worker.pid, number)
        worker.wait()
        for pid in family:
            wait_until(lambda: not is_alive(pid), f"end of {pid}")


# ---- Stopping ---------------------------------------------------------------


def test_stop_waits_for_what_runs(queue):
    started, go = queue.folder / "started", queue.folder / "go"
    script = f"touch {started}; while [ ! -e {go} ]; do sleep 0.02; done"
    first = queue.enqueue("--keep", "1h", "1")
    second = queue.enqueue("1")
    with queue.running(*shell(script)) as worker:
        wait_until(started.exists, "the command")
        worker.terminate()
        assert b"stopping" in worker.stderr.readline()
        go.touch()
        assert worker.wait(DEADLINE) == 0
    assert queue.get(first)["state"] == "done"
    assert queue.get(second)["state"] == "ready", "it went on claiming"


def test_stop_releases_what_outlasts_the_grace(queue):
    pids = queue.folder / "pids"
    id_ = queue.enqueue("1")
    script = f"echo $$ > {pids}; exec sleep 1000"
    with queue.running("--grace", "100ms", *shell(script)) as worker:
        (pid,) = read_numbers(pids, 1)
        assert stop(worker)[0] == 0
    assert not is_alive(pid)
    job = queue.get(id_)
    assert (job["state"], job.get("attempt", 0)) == ("ready", 0)


def test_what_finishes_when_asked_to_end_is_done(queue):
    pids = queue.folder / "pids"
    id_ = queue.enqueue("--keep", "1h", "1")
    script = f"trap 'exit 0' TERM; echo $$ > {pids}; sleep 1000 & wait"
    with queue.running("--grace", "100ms", *shell(script)) as worker:
        read_numbers(pids, 1)
        assert stop(worker)[0] == 0
    assert queue.get(id_)["state"] == "done"


def test_a_second_signal_waits_no_longer(queue):
    pids = queue.folder / "pids"
    id_ = queue.enqueue("1")
    script = f"trap '' TERM; echo $$ > {pids}; while :; do sleep 0.1; done"
    with queue.running("--grace", "1h", *shell(script)) as worker:
        read_numbers(pids, 1)
        worker.send_signal(signal.SIGINT)
        assert b"stopping" in worker.stderr.readline()
        worker.send_signal(signal.SIGINT)
        assert worker.wait(DEADLINE) == 0
    assert queue.get(id_)["state"] == "ready"


def test_an_idle_worker_stops_at_once(queue):
    ready = queue.folder / "ready"
    queue.enqueue("1")
    with queue.running("--", "touch", str(ready)) as worker:
        wait_until(ready.exists, "the worker")
        code, stderr = stop(worker)
    assert code == 0
    assert "done 1" in stderr


def test_ignored_interrupts_stay_ignored(queue):
    """As with nohup, or in the background of a shell script."""
    ready = queue.folder / "ready"
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    command += queue.command("worker", "--", "touch", str(ready))
    queue.enqueue("1")
    with subprocess.Popen(command, stderr=subprocess.PIPE) as worker:
        wait_until(ready.exists, "the worker")
        worker.send_signal(signal.SIGINT)
        ready.unlink()
        queue.enqueue("2")
        wait_until(ready.exists, "the job after the interrupt")
        worker.terminate()
        assert worker.wait(DEADLINE) == 0


# ---- When to stop by itself -------------------------------------------------


def test_drain_leaves_scheduled_jobs(queue):
    for _ in range(5):
        queue.enqueue("1")
    queue.enqueue("--delay", "1h", "1")
    queue.worker("--drain", "-j", "2", "--", "true")
    assert (queue.count("ready"), queue.count("scheduled")) == (0, 1)


def test_drain_goes_on_with_what_its_jobs_leave(queue):
    """The next of a lane is ready only when the one before it is done."""
    for n in range(5):
        queue.enqueue("--key", "k", str(n))
    done = queue.worker("--drain", "-j", "3", *shell("cat; sleep 0.01"))
    assert done.stdout == b"01234"


def test_drain_waits_for_its_own_jobs_only(queue):
    queue.enqueue("--keep", "1h", "1")
    queue.run("claim")
    mine = queue.enqueue("--keep", "1h", "2")
    queue.worker("--drain", *shell("sleep 0.2"))
    assert queue.get(mine)["state"] == "done"
    assert queue.count("running") == 1


def test_drain_of_nothing(queue):
    queue.worker("--drain", "--", "true")
    queue.worker("--drain", "--once", "--", "true")


def test_once_waits_for_one_and_leaves_the_rest(queue):
    with queue.running("--once", "--", "true") as worker:
        wait_until(lambda: children_of(worker.pid), "the start")
        queue.run("enqueue", "--lines", input=b"1\n2\n3\n")
        assert worker.wait(DEADLINE) == 0
    assert queue.count("ready") == 2


def test_max_jobs(queue):
    queue.run("enqueue", "--lines", input=b"1\n" * 10)
    queue.worker("--max-jobs", "7", "-j", "4", "--", "true")
    assert queue.count("ready") == 3


def test_scheduled_jobs_run_when_they_are_due(queue):
    """And not at the next look, which may be 100 ms later."""

    def milliseconds(time_):
        return datetime.fromisoformat(time_.replace("Z", "+00:00")).timestamp() * 1000

    def median_lateness():
        delays = [f"{300 + 207 * n}ms" for n in range(7)]
        ids = [queue.enqueue("--keep", "1h", "--delay", d, "1") for d in delays]
        queue.worker("--max-jobs", "7", "--", "true")
        jobs = [queue.get(id_) for id_ in ids]
        late = [milliseconds(j["claimed_at"]) - milliseconds(j["due_at"]) for j in jobs]
        assert min(late) >= 0
        return statistics.median(late)

    # A busy machine gets three tries.
    assert any(median_lateness() < 25 for _ in range(3))


# ---- A command that cannot be run -------------------------------------------


@pytest.mark.parametrize("command", ["no-such-program", "/no/such", "/tmp", ""])
def test_missing_command_is_said_before_a_claim(queue, command):
    id_ = queue.enqueue("1")
    done = queue.worker("--drain", "--", command, code=2)
    assert b"cannot run" in done.stderr
    assert queue.get(id_)["state"] == "ready"


def test_a_command_that_vanishes_stops_the_worker(queue):
    program = queue.folder / "program"
    program.write_text("#!/bin/sh\nrm -f $0\n")
    program.chmod(0o755)
    queue.run("enqueue", "--lines", input=b"1\n2\n")
    done = queue.worker("--drain", "--", str(program), code=2)
    assert b"cannot run" in done.stderr
    assert queue.count("ready") == 1
    assert queue.count("running") == 0


def test_an_interpreter_that_is_missing_stops_the_worker(queue):
    program = queue.folder / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    id_ = queue.enqueue("1")
    queue.worker("--drain", "--", str(program), code=2)
    job = queue.get(id_)
    assert (job["state"], job.get("attempt", 0)) == ("ready", 0)


def test_wrong_options(queue):
    queue.worker("--lease", "0", "--", "true", code=2)
    queue.worker("-j", "1000000", "--", "true", code=2)
    queue.worker("-q", "a*b", "--drain", "--", "true", code=2)
    queue.worker("--drain", code=2)


# ---- Trouble ----------------------------------------------------------------


def test_a_locked_database_loses_nothing(queue):
    started, go = queue.folder / "started", queue.folder / "go"
    script = f"touch {started}; while [ ! -e {go} ]; do sleep 0.02; done"
    id_ = queue.enqueue("--keep", "1h", "1")
    words = ["--once", "--busy-timeout", "200ms", "--json"]
    with queue.running(*words, *shell(script)) as worker:
        wait_until(started.exists, "the command")
        other = sqlite3.connect(queue.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        go.touch()
        assert json.loads(worker.stderr.readline())["event"] == "trouble"
        other.execute("ROLLBACK")
        other.close()
        events = [json.loads(line)["event"] for line in worker.stderr]
        assert worker.wait(DEADLINE) == 0
    assert events == ["recovered", "done", "stopped"]
    assert queue.get(id_)["state"] == "done"


def test_a_locked_database_holds_up_no_timeout(queue):
    pids, go = queue.folder / "pids", queue.folder / "go"
    queue.run("enqueue", "--lines", input=b"1\n2\n")
    sleep = f"if [ $n = 1 ]; then echo $$ > {pids}; exec sleep 1000; fi"
    script = f"read n; {sleep}; until [ -e {go} ]; do sleep 0.02; done"
    words = ["-j", "2", "--timeout", "3s", "--busy-timeout", "1h"]
    with queue.running(*words, *shell(script)):
        (sleeper,) = read_numbers(pids, 1)
        wait_until(lambda: queue.count("running") == 2, "both commands")
        other = sqlite3.connect(queue.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        go.touch()
        wait_until(lambda: not is_alive(sleeper), "the timeout")
        other.close()


@pytest.mark.parametrize("patience", ["100ms", "1h"])
def test_a_stop_does_not_wait_for_a_locked_database_for_ever(queue, patience):
    started = queue.folder / "started"
    id_ = queue.enqueue("1")
    words = ["--grace", "100ms", "--busy-timeout", patience]
    script = f"touch {started}; exec sleep 1000"
    with queue.running(*words, *shell(script)) as worker:
        wait_until(started.exists, "the command")
        other = sqlite3.connect(queue.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        code, stderr = stop(worker)
        other.close()
    assert code == 6
    assert "could not be settled" in stderr
    # Nobody holds it any more.
    queue.worker("--once", "--", "true")
    queue.run("get", id_, code=3)


def test_a_database_that_is_lost_ends_the_worker(queue):
    pids = queue.folder / "pids"
    queue.run("enqueue", "--lines", input=b"1\n2\n")
    script = f"read n; echo $$ >> {pids}; [ $n = 1 ] && exec sleep 1000; exit 0"
    with queue.running(*shell(script)) as worker:
        (pid,) = read_numbers(pids, 1)
        other = sqlite3.connect(queue.path, isolation_level=None)
        other.execute("PRAGMA writable_schema=ON")
        other.execute("DROP TABLE dibs_leased")
        other.close()
        os.kill(pid, signal.SIGTERM)
        _, stderr = worker.communicate(timeout=DEADLINE)
    assert worker.returncode in (7, 8)
    assert b"dibs_leased" in stderr
    assert len(pids.read_text().split()) == 1, "it went on"


def test_too_few_descriptors_lose_nothing(queue):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))

    ran = queue.folder / "ran"
    queue.run("enqueue", "--lines", "--max-attempts", "1", input=b"1\n" * 40)
    words = ["--drain", "-j", "40", *shell(f"echo x >> {ran}; sleep 0.05")]
    done = queue.worker(*words, preexec_fn=few)
    assert done.stderr.count(b"no command can be started") >= 1
    assert done.stderr.count(b"commands can be started again") >= 1
    assert len(ran.read_text().split()) == 40
    assert (queue.count("ready"), queue.count("dead")) == (0, 0)


def test_the_soft_limit_of_descriptors_binds_commands_only(queue):
    def low():
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))

    seen = queue.folder / "seen"
    queue.run("enqueue", "--lines", input=b"1\n" * 50)
    # Each waits for the others, so that all run at once.
    script = f"ulimit -n >> {seen}; until [ $(wc -l < {seen}) = 50 ]; do sleep 0.1; done"
    done = queue.worker("--drain", "-j", "50", *shell(script), preexec_fn=low)
    assert b"cannot" not in done.stderr and b"no command" not in done.stderr
    assert seen.read_text().split() == ["40"] * 50


@pytest.fixture
def small_disk(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    size = "size=8m"  # the -wal file takes 4 MiB before it begins anew
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", mount])
    if done.returncode != 0:
        pytest.skip("this user cannot mount a small file system")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


def test_a_full_disk_loses_nothing(small_disk):
    queue = Queue(small_disk)
    ids = queue.folder.parent / "ids"
    go = queue.folder.parent / "go"
    queue.run("enqueue", "--lines", "--keep", "1h", input=b"1\n" * 200)
    script = f"echo x >> {ids}; while [ ! -e {go} ]; do sleep 0.02; done"
    words = ["--drain", "--json", "-j", "20"]
    with queue.running(*words, *shell(script)) as worker:
        wait_until(
            lambda: ids.exists() and len(ids.read_text()) == 40, "20 commands"
        )
        filler = small_disk / "filler"
        with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        go.touch()
        while json.loads(worker.stderr.readline())["event"] != "trouble":
            pass
        filler.unlink()
        events = [json.loads(line)["event"] for line in worker.stderr]
        assert worker.wait(DEADLINE) == 0
    assert "recovered" in events
    assert (queue.count("done"), queue.count("ready")) == (200, 0)
    assert len(ids.read_text()) == 400, "a job ran twice"


# ---- Nothing to do ----------------------------------------------------------


def switches(pid):
    """How often the threads of a process have gone to sleep."""
    count = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        found = re.search(r"\nvoluntary_ctxt_switches:\s*(\d+)", status.read_text())
        count += int(found[1])
    return count


def test_an_idle_worker_sleeps(queue):
    """It wakes once a second to look, in case a signal was lost, and its heart
    beats every five. One that polled would wake ten times as often."""
    ready = queue.folder / "ready"
    queue.enqueue("1")
    with queue.running("-j", "4", "--", "touch", str(ready)) as worker:
        wait_until(ready.exists, "the worker")
        wait_until(lambda: not queue.count("running"), "the end of the job")
        time.sleep(0.5)  # what follows a commit: looks of the monitor
        begin, before = time.monotonic(), switches(worker.pid)
        time.sleep(3)
        took = time.monotonic() - begin
        assert (switches(worker.pid) - before) / took < 5


# ---- Much of it -------------------------------------------------------------


def test_each_of_many_jobs_runs_once(queue):
    ran = queue.folder / "ran"
    numbers = range(1000)
    lines = "".join(f"{n}\n" for n in numbers).encode()
    queue.run("enqueue", "--lines", input=lines)
    script = f'read n; echo "$n" >> {ran}'
    words = ["--drain", "-j", "4", *shell(script)]
    with queue.running(*words) as one, queue.running(*words) as two:
        assert (one.wait(DEADLINE), two.wait(DEADLINE)) == (0, 0)
    assert sorted(map(int, ran.read_text().split())) == list(numbers)
    assert queue.count("running") == 0


def test_nothing_is_left_open_or_unburied(queue):
    ran = queue.folder / "ran"

    def ran_times(count):
        return lambda: ran.exists() and ran.stat().st_size == 2 * count

    def descriptors(worker):
        return len(os.listdir(f"/proc/{worker.pid}/fd"))

    words = ["--result", "-j", "4", *shell(f"echo x >> {ran}; exit 65")]
    with queue.running(*words) as worker:
        queue.run("enqueue", "--lines", input=b"1\n" * 20)
        wait_until(ran_times(20), "20 jobs")
        wait_until(lambda: queue.count("dead") == 20, "20 settled")
        before = descriptors(worker)
        queue.run("enqueue", "--lines", input=b"1\n" * 200)
        wait_until(ran_times(220), "220 jobs")
        wait_until(lambda: queue.count("dead") == 220, "220 settled")
        assert descriptors(worker) == before
        comms = [comm for comm, _ in children_of(worker.pid).values()]
        assert comms == ["dibs-guard"]


def test_a_reader_of_stderr_that_stands_still_stops_no_lease(queue):
    id_ = queue.enqueue("1")
    script = "head -c 3000000 /dev/zero >&2"
    with queue.running("--lease", "300ms", *shell(script)) as worker:
        wait_until(lambda: queue.count("running"), "the claim")
        seen = set()

        def extended():
            seen.add(queue.get(id_)["lease_until"])
            return len(seen) >= 5

        wait_until(extended, "extensions while nobody reads")
        worker.kill()


# ---- What people and programs read ------------------------------------------


def test_json_lines(queue):
    queue.enqueue("-q", "a", "--name", "n", "--keep", "1h", "1")
    queue.enqueue("-q", "a", "2")
    script = "read n; [ $n = 1 ] || { echo no >&2; exit 1; }"
    done = queue.worker("--json", "-q", "a", "--drain", *shell(script))
    lines = [line for line in done.stderr.splitlines() if line != b"no"]
    events = {line["event"]: line for line in map(json.loads, lines)}
    assert list(events) == ["done", "retried", "stopped"]
    assert events["done"]["id"] == 1
    assert events["done"]["name"] == "n"
    assert events["retried"]["error"] == "exit 1: no"
    assert events["retried"]["queue"] == "a"
    assert events["retried"]["due_at"] > events["retried"]["at"]
    assert (events["stopped"]["done"], events["stopped"]["retried"]) == (1, 1)


def on_terminal(queue, *words, keys=()):
    """Run a worker on a terminal. `keys` are pairs of a text to wait for, and
    what is then typed or called."""
    keys = list(keys)
    seen = b""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(DIBS, queue.command("worker", *words))
    until = time.monotonic() + DEADLINE
    while True:
        assert time.monotonic() < until, seen
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        seen += data
        if keys and keys[0][0] in seen:
            _, then = keys.pop(0)
            then() if callable(then) else os.write(terminal, then)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), seen.decode()


def test_ctrl_c_on_a_terminal(queue):
    go = queue.folder / "go"
    id_ = queue.enqueue("--keep", "1h", "1")
    # The command sees no Ctrl-C; it ends by itself, some time after it.
    script = f"trap 'exit 9' INT; echo begun; until [ -e {go} ]; do sleep 0.02; done"
    keys = [(b"begun", b"\x03"), (b"stopping", go.touch)]
    code, seen = on_terminal(queue, *shell(script), keys=keys)
    assert code == 0, seen
    assert "stopping" in seen
    assert queue.get(id_)["state"] == "done"


def test_two_ctrl_c_end_the_command(queue):
    id_ = queue.enqueue("1")
    keys = [(b"begun", b"\x03"), (b"stopping", b"\x03")]
    words = shell("echo begun; exec sleep 1000")
    code, seen = on_terminal(queue, *words, keys=keys)
    assert code == 0, seen
    assert queue.get(id_)["state"] == "ready"


def test_the_status_line_stays_clear_of_the_output(queue):
    for _ in range(3):
        queue.enqueue("1")
    script = "echo out; echo err >&2; sleep 0.3"
    code, seen = on_terminal(queue, "--drain", *shell(script))
    assert code == 0
    assert "running 1" in seen
    # What is left when each line's last drawing counts.
    shown = re.sub(r"[^\n]*\r\x1b\[K", "", seen.replace("\r\n", "\n"))
    lines = shown.splitlines()
    assert lines.count("out") == 3
    assert lines.count("err") == 3
    assert lines[-1].startswith("done 3")
