#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The Python package beside other queues on SQLite for Python, and beside C.

    bench/run python [--folder F] [--count N] [--rounds N] [--only NAME...]

Calls a second of enqueue, of enqueue by the hundred, and of claim with ack, and
jobs a second from end to end: enqueued beforehand, then worked off by eight
workers of one process, in threads or on an event loop, with an empty handler.
The payload is {"n": NUMBER}. All with synchronous=NORMAL, which two of them
cannot be talked out of, and a WAL. Each contestant has a process and a database
of its own, and they take turns; a ratio is to the first row in the same round.
The rows of C are from `dibs bench` with the same count and payload.

What one does not offer is left out: none but dibs and honker enqueue many in one
call or transaction; liteq takes jobs in a worker only, and that one task a second,
which is not measured.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

WORKERS = 8
BATCH = 100
FIGURES = {
    "put": "enqueue",
    "many": "enqueue by 100",
    "cycle": "claim + ack",
    "threads": "worker, threads",
    "loop": "worker, asyncio",
}


def rate(count, work):
    """How many a second, when all of it takes as long as `work` does."""
    begin = time.perf_counter()
    work()
    return count / (time.perf_counter() - begin)


def payloads(count):
    return [{"n": n} for n in range(count)]


# ---- The contestants --------------------------------------------------------
#
# Each takes a path and a count, and yields figures by name.


def of_dibs(path, count):
    import dibs

    with dibs.open(path, synchronous="normal") as db:
        queue = db.queue("bench")
        some = payloads(count)

        def put():
            for each in some:
                queue.enqueue(each)

        def many():
            for at in range(0, count, BATCH):
                queue.enqueue_many(some[at : at + BATCH])

        def cycle():
            for _ in range(count):
                queue.claim().ack()

        yield "put", rate(count, put)
        yield "cycle", rate(count, cycle)
        yield "many", rate(count, many)
    for mode in ("threads", "asyncio"):
        app = dibs.App(f"{path}.{mode}", synchronous="normal", keep=None)

        @app.task(name="empty")
        def empty(n):
            pass

        app.database.queue().enqueue_many(some, name="empty")

        def work():
            with app.worker(jobs=WORKERS, mode=mode, drain=True) as worker:
                worker.wait(600)

        figure = rate(count, work)
        assert app.database.queue().stats().ready == 0
        app.close()
        yield "threads" if mode == "threads" else "loop", figure


def of_honker(path, count):
    import honker

    db = honker.open(path)
    queue = db.queue("bench")
    some = payloads(count)

    def put():
        for each in some:
            queue.enqueue(each)

    def many():
        for at in range(0, count, BATCH):
            with db.transaction() as transaction:
                for each in some[at : at + BATCH]:
                    queue.enqueue(each, tx=transaction)

    def cycle():
        for _ in range(count):
            assert queue.claim_one("bench").ack()

    yield "put", rate(count, put)
    yield "cycle", rate(count, cycle)
    yield "many", rate(count, many)
    while queue.ack_batch([job.id for job in queue.claim_batch("bench", 500)], "bench"):
        pass
    done = 0
    ended = asyncio.Event()

    @db.task(queue="work")
    def empty(n):
        nonlocal done
        done += 1
        if done == count:
            loop.call_soon_threadsafe(ended.set)

    for each in some:
        empty(**each)

    async def work():
        nonlocal loop
        loop = asyncio.get_running_loop()
        await db.run_workers(queue="work", concurrency=WORKERS, stop_event=ended)

    loop = None
    yield "loop", rate(count, lambda: asyncio.run(work()))


def of_huey(path, count):
    from huey import Huey
    from huey.consumer import Consumer
    from huey.storage import SqliteStorage

    class Storage(SqliteStorage):
        def _create_connection(self):
            connection = super()._create_connection()
            connection.execute("PRAGMA synchronous=NORMAL")
            return connection

    huey = Huey(storage_class=Storage, filename=path, results=False)
    done = threading.Semaphore(0)

    @huey.task()
    def empty(n):
        done.release()

    def put():
        for n in range(count):
            empty(n)

    def work():
        consumer = Consumer(huey, workers=WORKERS, periodic=False)
        consumer.start()
        for _ in range(count):
            done.acquire()
        ended.append(consumer)

    ended = []
    yield "put", rate(count, put)
    yield "threads", rate(count, work)
    ended[0].stop(graceful=True)


def of_litequeue(path, count):
    from litequeue import LiteQueue

    queue = LiteQueue(path)

    def put():
        for n in range(count):
            queue.put(json.dumps({"n": n}))

    def cycle():
        for _ in range(count):
            message = queue.pop()
            json.loads(message.data)
            queue.done(message.message_id, claim_id=message.claim_id)

    yield "put", rate(count, put)
    yield "cycle", rate(count, cycle)
    queue.close()


def of_liteq(path, count):
    os.environ["LITEQ_DB"] = path
    from liteq import task
    from liteq.db import init_db

    init_db()

    @task()
    def empty(n):
        pass

    def put():
        for n in range(count):
            empty.delay(n)

    yield "put", rate(count, put)


def of_persist_queue(path, count):
    from persistqueue import SQLiteAckQueue

    queue = SQLiteAckQueue(path, auto_commit=True)
    for connection in {queue._conn, queue._getter, queue._putter}:
        connection.execute("PRAGMA synchronous=NORMAL")

    def put():
        for n in range(count):
            queue.put({"n": n})

    def cycle():
        for _ in range(count):
            queue.ack(queue.get())

    yield "put", rate(count, put)
    yield "cycle", rate(count, cycle)


CONTESTANTS = {
    "dibs": of_dibs,
    "honker": of_honker,
    "huey": of_huey,
    "liteq": of_liteq,
    "litequeue": of_litequeue,
    "persist-queue": of_persist_queue,
}


# ---- Rounds -----------------------------------------------------------------


def one(name, folder, count):
    """The figures of one contestant, by a process of its own."""
    with tempfile.TemporaryDirectory(prefix="dibs-bench-", dir=folder) as scratch:
        command = [sys.executable, __file__, "--one", name, "--count", str(count)]
        done = subprocess.run(
            [*command, "--folder", scratch], capture_output=True, text=True
        )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def of_c(folder, count):
    """The same three calls in C."""
    payload = str(len(json.dumps({"n": count})))
    command = [os.environ["DIBS"], "bench", "--json", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--count", str(count), "--payload", payload, "--folder", folder],
        capture_output=True,
        text=True,
        check=True,
    )
    figures = {}
    for line in done.stdout.splitlines():
        row = json.loads(line)
        if row.get("synchronous") != "normal":
            continue
        kind = (row["figure"], row["batch"])
        names = {
            ("enqueue", 1): "put",
            ("enqueue", 100): "many",
            ("claim_ack", 1): "cycle",
        }
        if kind in names:
            figures[names[kind]] = row["per_second"]
    return figures


def report(rounds):
    width = max(map(len, rounds))
    print(f"{'':{width}}" + "".join(f"{text:>24}" for text in FIGURES.values()))
    first = next(iter(rounds.values()))
    for name, found in rounds.items():
        cells = []
        for figure in FIGURES:
            values = [each[figure] for each in found if figure in each]
            base = [each[figure] for each in first if figure in each]
            if not values:
                cells.append(f"{'-':>24}")
                continue
            ratios = [a / b for a, b in zip(values, base)]
            text = f"{statistics.median(values):,.0f}"
            if ratios:
                text += f" ({statistics.median(ratios):.2f})"
            cells.append(f"{text:>24}")
        print(f"{name:{width}}" + "".join(cells))


def main():
    parser = argparse.ArgumentParser(
        prog="bench/run python",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", default=".")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS)
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        path = str(Path(options.folder) / "jobs.db")
        print(json.dumps(dict(CONTESTANTS[options.one](path, options.count))))
        return
    names = options.only or list(CONTESTANTS)
    print(
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {metadata.version(name)}" for name in names)
        + f"; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before"
    )
    print(
        f"A second, medians of {options.rounds} rounds of {options.count}, "
        f"synchronous NORMAL; in brackets: to {names[0]}"
    )
    rounds = {name: [] for name in [*names, "C"]}
    for number in range(options.rounds):
        for name in rounds:
            if sys.stderr.isatty():
                print(f"\r\033[Kround {number + 1}: {name}", end="", file=sys.stderr)
            if name == "C":
                found = of_c(options.folder, options.count)
            else:
                found = one(name, options.folder, options.count)
            rounds[name].append(found)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    report(rounds)


if __name__ == "__main__":
    main()
