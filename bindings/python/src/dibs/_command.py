# SPDX-License-Identifier: MIT
"""The command line of a worker.

One process works by itself. With ``--processes`` or ``--reload`` this process is
a supervisor: its children are this same command with ``--control``, a socket to
it. By that a child tells its counts, a line of JSON each; and when the socket
closes, because its supervisor is gone, it stops by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

from ._app import App, load
from ._errors import Error
from ._worker import Worker

log = logging.getLogger("dibs")

_STATUS_INTERVAL = 0.5  # s
_RELOAD_INTERVAL = 0.5
_RESTART_PAUSE = 1.0
_USAGE = 2
_RELOAD = 3  # what a child exits with that has seen a file change


# ---- The line of a terminal ---------------------------------------------------


class Terminal:
    """A status line below what is logged; nothing, where there is no terminal."""

    def __init__(self, stream: IO[str]) -> None:
        self.live = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._stream = stream
        self._text = ""
        self._lock = threading.Lock()

    def show(self, text: str) -> None:
        """Replace the line."""
        if not self.live:
            return
        width = os.get_terminal_size(self._stream.fileno()).columns or 80
        with self._lock:
            self._text = text[: width - 1]
            self._stream.write(f"\r\x1b[K{self._text}")
            self._stream.flush()

    def write(self, text: str) -> None:
        """Write lines above it."""
        with self._lock:
            clear, again = ("\r\x1b[K", self._text) if self.live else ("", "")
            self._stream.write(f"{clear}{text}\n{again}")
            self._stream.flush()

    def close(self) -> None:
        if self.live and self._text:
            self.show("")


class _Handler(logging.Handler):
    """Logs above the status line."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._terminal.write(self.format(record))
        except Exception:
            self.handleError(record)


def status_line(counts: Mapping[str, int], running: int, rate: float) -> str:
    """What the terminal shows: what is there, and how fast."""
    parts = [f"{running} running", f"{counts.get('done', 0)} done", f"{rate:.0f}/s"]
    for ending in ("retried", "dead", "released", "snoozed", "discarded", "lost"):
        if counts.get(ending):
            parts.append(f"{counts[ending]} {ending}")
    return "dibs: " + ", ".join(parts)


class _Rate:
    """Jobs done a second, of the last few seconds."""

    def __init__(self) -> None:
        self._seen = [(time.monotonic(), 0)]

    def of(self, done: int) -> float:
        now = time.monotonic()
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[0][0] < now - 3:
            self._seen.pop(0)
        began, before = self._seen[0]
        return (done - before) / max(now - began, 0.001)


# ---- Arguments ----------------------------------------------------------------


def arguments(parser: argparse.ArgumentParser) -> None:
    """What a worker takes, here and in ``manage.py dibs_worker``."""
    parser.add_argument(
        "-j",
        "--jobs",
        type=_positive,
        default=1,
        metavar="N",
        help="how many jobs at a time [1]",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--threads",
        dest="mode",
        action="store_const",
        const="threads",
        default="threads",
        help="a thread for each job at a time (default)",
    )
    mode.add_argument(
        "--processes",
        dest="mode",
        action="store_const",
        const="processes",
        help="a process for each",
    )
    mode.add_argument(
        "--asyncio",
        dest="mode",
        action="store_const",
        const="asyncio",
        help="all on one event loop",
    )
    parser.add_argument(
        "-q",
        "--queue",
        action="append",
        default=[],
        dest="queues",
        metavar="QUEUE",
        help="a queue or a pattern, a/*; may repeat [those of the tasks]",
    )
    parser.add_argument(
        "--grace",
        type=_duration,
        default=30.0,
        metavar="D",
        help="how long a stop waits for running jobs [30s]",
    )
    parser.add_argument(
        "--lease",
        type=_duration,
        metavar="D",
        help="how long a job is held without a sign of life [15s]",
    )
    parser.add_argument("--worker", metavar="NAME", help="a name to record")
    parser.add_argument(
        "--drain", action="store_true", help="end once there is nothing to do"
    )
    parser.add_argument(
        "--max-jobs",
        type=_positive,
        metavar="N",
        help="end behind so many jobs; of --processes, each",
    )
    parser.add_argument(
        "--reload",
        action="store_true",
        help="start again when a source file changes, for development",
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="[info]",
    )
    parser.add_argument("--control", type=int, help=argparse.SUPPRESS)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _duration(text: str) -> float:
    """``250ms`` ``30s`` ``5m``, or seconds."""
    number = text.rstrip("smhd")
    unit = text[len(number) :] or "s"
    try:
        seconds = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no duration: write 250ms, 30s, 5m, 2h or 7d"
        )
    return seconds


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description="Run the jobs of an app's tasks."
    )
    parser.add_argument("app", metavar="MODULE:APP", help="the dibs.App")
    arguments(parser)
    return parser


def main(given: Sequence[str] | None = None) -> int:
    """``python -m dibs``."""
    words = list(sys.argv[1:] if given is None else given)
    if words[:1] != ["worker"]:
        print(
            "usage: python -m dibs worker MODULE:APP [-j N] ...\n"
            "       python -m dibs worker --help",
            file=sys.stderr,
        )
        return 0 if words[:1] in (["-h"], ["--help"]) else _USAGE
    return _command("python -m dibs worker", words[1:], ["-m", "dibs", "worker"])


def worker() -> int:
    """``dibs-worker``."""
    return _command("dibs-worker", sys.argv[1:], ["-m", "dibs", "worker"])


def _command(program: str, words: Sequence[str], again: Sequence[str]) -> int:
    options = _parser(program).parse_args(words)
    # As python -m does: the app is found from where the command is given.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())

    def find() -> App:
        return load(options.app)

    return run(options, find, [sys.executable, *again, *words])


def run(
    options: argparse.Namespace, find: Callable[[], App], again: Sequence[str]
) -> int:
    """Work as the options say.

    Args:
        find: gives the app; called in the process that works.
        again: the command that this process is, for children.
    """
    terminal = Terminal(sys.stderr)
    _log_to(terminal, options.log_level)
    if options.control is not None:
        return _Single(options, terminal).run(find)
    if options.reload or (options.mode == "processes" and options.jobs > 1):
        return _Supervisor(options, terminal, again).run()
    return _Single(options, terminal).run(find)


def _log_to(terminal: Terminal, level: str) -> None:
    root = logging.getLogger()
    if not root.handlers:
        handler = _Handler(terminal)
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(process)d %(message)s")
        )
        root.addHandler(handler)
        root.setLevel(level.upper())


class _Signals:
    """TERM and Ctrl-C: the first asks to stop, the second not to wait."""

    def __init__(self) -> None:
        self.count = 0
        self.told, self._tell = socket.socketpair()
        self.told.setblocking(False)
        self._tell.setblocking(False)

    def catch(self) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._caught)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.wake()

    def wake(self) -> None:
        with contextlib.suppress(OSError):
            self._tell.send(b"!")

    def wait(self, seconds: float | None) -> None:
        """Until a signal, a wake, or the time is over."""
        import select

        select.select([self.told], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            self.told.recv(64)


# ---- One process --------------------------------------------------------------


class _Single:
    """Works in this process."""

    def __init__(self, options: argparse.Namespace, terminal: Terminal) -> None:
        self._options = options
        self._terminal = terminal
        self._signals = _Signals()
        self._began = time.time_ns()
        self._reload = False
        self._rate = _Rate()
        self._control: socket.socket | None = None
        if options.control is not None:
            self._control = socket.socket(fileno=options.control)

    def run(self, find: Callable[[], App]) -> int:
        self._signals.catch()
        try:
            app = find()
            worker = self._worker(app).start()
        except (Error, ImportError, AttributeError) as error:
            if self._options.reload:
                log.exception("the app cannot be loaded")
            else:
                log.error("%s", error)
            return _USAGE
        except Exception:
            log.exception("the app cannot be loaded")
            return _USAGE
        log.info("working on %s", ", ".join(worker.queues))
        self._helpers()
        return self._work(worker)

    def _worker(self, app: App) -> Worker:
        options = self._options
        single = options.mode == "processes"
        return Worker(
            app,
            jobs=1 if single else options.jobs,
            queues=options.queues,
            mode="threads" if single else options.mode,
            lease=options.lease,
            grace=options.grace,
            name=options.worker,
            drain=options.drain,
            max_jobs=options.max_jobs,
        )

    def _helpers(self) -> None:
        if self._control is not None:
            threading.Thread(target=self._follow, daemon=True).start()
        if self._options.reload:
            threading.Thread(target=self._watch, daemon=True).start()

    def _follow(self) -> None:
        """Until the supervisor is gone."""
        assert self._control is not None
        with contextlib.suppress(OSError):
            while self._control.recv(64):
                pass
        self._signals.count += 1
        self._signals.wake()

    def _watch(self) -> None:
        """Until a module's file changes, also one that did while it was being
        loaded."""
        seen: dict[str, int] = {}
        while True:
            now = _times(_modules())
            changed = [
                name
                for name, at in now.items()
                if seen.get(name, at) != at or at > self._began
            ]
            if changed:
                log.info("%s changed: starting again", changed[0])
                self._reload = True
                self._signals.wake()
                return
            seen.update(now)
            time.sleep(_RELOAD_INTERVAL)

    def _work(self, worker: Worker) -> int:
        tells = self._terminal.live or self._control is not None
        ended: list[BaseException | None] = []

        def wait() -> None:
            try:
                worker.wait()
                ended.append(None)
            except Exception as error:
                ended.append(error)
            self._signals.wake()

        threading.Thread(target=wait, daemon=True).start()
        while not ended and not self._signals.count and not self._reload:
            self._signals.wait(_STATUS_INTERVAL if tells else None)
            self._tell(worker)
        if not ended:
            log.info("stopping: %d running", worker.running)
        stuck = self._stop(worker)
        self._tell(worker)
        self._terminal.close()
        if ended and ended[0] is not None:
            log.error("%s", ended[0])
            return 7
        code = _RELOAD if self._reload else 0
        if stuck:
            # Threads that do not end must not keep the program from it.
            logging.shutdown()
            os._exit(code)
        return code

    def _stop(self, worker: Worker) -> bool:
        """Stop with the grace, or without, when asked once more. Whether a task
        is still running."""
        already = self._signals.count
        deadline = time.monotonic() + self._options.grace
        engine = worker._engine
        assert engine is not None
        engine.stop_begin()
        worker._poke()
        while worker.running and time.monotonic() < deadline:
            if self._signals.count > max(already, 1):
                break
            self._signals.wait(min(0.1, max(deadline - time.monotonic(), 0)))
            self._tell(worker)
        released = worker.stop(0 if worker.running else None)
        if released:
            log.info("%d given back", released)
        return released > 0

    def _tell(self, worker: Worker) -> None:
        counts = dict(worker.counts)
        if self._control is not None:
            line = json.dumps({**counts, "running": worker.running}) + "\n"
            with contextlib.suppress(OSError):
                self._control.send(line.encode())
            return
        if self._terminal.live:
            rate = self._rate.of(counts.get("done", 0))
            self._terminal.show(status_line(counts, worker.running, rate))


# ---- Several ------------------------------------------------------------------


class _Child:
    """A process that works."""

    def __init__(self, command: Sequence[str], sources: dict[str, int]) -> None:
        self.control, theirs = socket.socketpair()
        self.began = time.monotonic()
        self.sources = sources
        self.counts: dict[str, int] = {}
        self._read = b""
        with theirs:
            self.process = subprocess.Popen(
                [*command, "--control", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                # Ctrl-C is for the supervisor, which tells its children.
                start_new_session=True,
            )

    def read(self) -> bool:
        """What it tells. False: it has ended."""
        try:
            data = self.control.recv(65536)
        except OSError:
            data = b""
        *lines, self._read = (self._read + data).split(b"\n")
        if lines:
            self.counts = json.loads(lines[-1])
        return bool(data)


class _Supervisor:
    """Keeps so many children at work."""

    def __init__(
        self, options: argparse.Namespace, terminal: Terminal, again: Sequence[str]
    ) -> None:
        self._options = options
        self._terminal = terminal
        self._again = again
        self._signals = _Signals()
        self._selector = selectors.DefaultSelector()
        self._children: list[_Child] = []
        self._past: Counter[str] = Counter()
        self._rate = _Rate()
        self._code = 0

    def run(self) -> int:
        self._signals.catch()
        self._selector.register(self._signals.told, selectors.EVENT_READ)
        for _ in range(self._wanted()):
            self._start()
        stopping = 0
        deadline = float("inf")
        while self._children:
            self._turn()
            if self._signals.count > stopping:
                stopping = self._signals.count
                deadline = time.monotonic() + self._options.grace + 5
                self._send(signal.SIGTERM)
            if time.monotonic() > deadline:
                self._send(signal.SIGKILL)
            self._show()
        self._terminal.close()
        return self._code

    def _wanted(self) -> int:
        return self._options.jobs if self._options.mode == "processes" else 1

    def _start(self) -> None:
        child = _Child(self._again, _sources() if self._options.reload else {})
        self._children.append(child)
        self._selector.register(child.control, selectors.EVENT_READ, child)

    def _send(self, number: int) -> None:
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(number)

    def _turn(self) -> None:
        for key, _ in self._selector.select(_STATUS_INTERVAL):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._signals.told.recv(64)
            elif not key.data.read():
                self._ended(key.data)

    def _ended(self, child: _Child) -> None:
        self._selector.unregister(child.control)
        child.control.close()
        code = child.process.wait()
        self._children.remove(child)
        child.counts.pop("running", None)
        self._past.update(child.counts)
        if self._signals.count or code == 0:
            return
        if self._options.reload:
            if code != _RELOAD:
                self._wait_for_change(child.sources)
        elif code == _USAGE:
            # What the first cannot load, the next cannot load either.
            self._code = _USAGE
            self._send(signal.SIGTERM)
            return
        else:
            log.error("process %d ended with %d", child.process.pid, code)
            if time.monotonic() - child.began < 10 * _RESTART_PAUSE:
                self._signals.wait(_RESTART_PAUSE)
        if not self._signals.count and not self._code:
            self._start()

    def _wait_for_change(self, seen: dict[str, int]) -> None:
        """Until a source file below this folder is another than when the child
        began: the app could not be loaded, so nobody knows its modules."""
        log.info("waiting for a change")
        while not self._signals.count and _sources() == seen:
            self._signals.wait(_RELOAD_INTERVAL)

    def _show(self) -> None:
        if not self._terminal.live:
            return
        counts = Counter(self._past)
        for child in self._children:
            counts.update(child.counts)
        running = counts.pop("running", 0)
        text = status_line(counts, running, self._rate.of(counts["done"]))
        if self._wanted() > 1:
            text += f", {len(self._children)} processes"
        self._terminal.show(text)


# ---- Source files -------------------------------------------------------------


def _modules() -> list[str]:
    """The files of the loaded modules, but for what is installed."""
    files: list[str] = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if (
            file
            and "site-packages" not in file
            and not file.startswith(sys.base_prefix)
        ):
            files.append(file)
    return files


def _sources() -> dict[str, int]:
    """The source files below this folder, and when they were changed."""
    here = Path.cwd()
    return _times(
        str(path)
        for path in here.rglob("*.py")
        if not any(part.startswith(".") for part in path.relative_to(here).parts)
    )


def _times(files: Iterable[str]) -> dict[str, int]:
    times: dict[str, int] = {}
    for file in files:
        with contextlib.suppress(OSError):
            times[file] = os.stat(file).st_mtime_ns
    return times


__all__: list[Any] = ["arguments", "main", "run", "worker"]
