#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The memory of `dibs worker`: idle, and after many jobs.

    bench/run memory [--jobs N] [--slots N] [--folder F] [--command CMD...]

Starts a worker, looks at its resident memory when it has nothing to do, lets
it run a command for each of N jobs (a million, unless told otherwise), and
looks again, at every tenth of the way. Prints what the worker's process holds
for itself alone (anonymous memory) and with what it shares (resident), and the
same of its guard. The worker's own descriptors are counted too.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DIBS = os.environ["DIBS"]
NOTHING = os.environ["NOTHING"]
BATCH = 10_000


def machine(folder):
    """What machine this is, with the file system of the folder."""
    cpu = re.search("model name\\s*: (.*)", Path("/proc/cpuinfo").read_text())
    stat = subprocess.run(
        ["stat", "-f", "-c", "%T", folder], check=True, capture_output=True, text=True
    )
    version = subprocess.run(
        [DIBS, "--version"], check=True, capture_output=True, text=True
    )
    return (
        f"{cpu.group(1) if cpu else platform.machine()}, {os.cpu_count()} cores,"
        f" {platform.system()} {platform.release()}, {stat.stdout.strip()},"
        f" {version.stdout.splitlines()[0]}, load {os.getloadavg()[0]:.1f} before"
    )


def memory_of(pid):
    """{"VmRSS": kB, "RssAnon": kB, ...} of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = (line.split() for line in lines)
    return {f[0].rstrip(":"): int(f[1]) for f in fields if f[-1] == "kB"}


def guard_of(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        if Path(f"/proc/{child}/comm").read_text().strip() == "dibs-guard":
            return int(child)
    raise SystemExit("the worker has no guard")


def show(label, worker, started):
    own, guard = memory_of(worker.pid), memory_of(guard_of(worker.pid))
    descriptors = len(os.listdir(f"/proc/{worker.pid}/fd"))
    print(
        f"{label:>12}  {own['VmRSS']:8}  {own['RssAnon']:8}"
        f"  {guard['VmRSS']:8}  {guard['RssAnon']:8}  {descriptors:11}"
        f"  {time.monotonic() - started:7.0f}",
        flush=True,
    )


def waiting(db):
    """How many jobs are not done."""
    command = [DIBS, "--db", db, "--json", "stats", "-q", "default"]
    line = subprocess.run(command, check=True, capture_output=True).stdout
    counts = json.loads(line.splitlines()[0])
    return sum(counts[state] for state in ("ready", "scheduled", "running"))


def enqueue(db, count):
    lines = b'{"to":"ann@example.org","text":"welcome"}\n' * count
    command = [DIBS, "--db", db, "--synchronous", "normal", "enqueue", "--lines"]
    subprocess.run(command, check=True, input=lines, stdout=subprocess.DEVNULL)


def measure(db, arguments):
    subprocess.run([DIBS, "--db", db, "init"], check=True, stdout=subprocess.DEVNULL)
    command = [DIBS, "--db", db, "--synchronous", "normal", "worker"]
    command += ["-j", str(arguments.slots), "--", *arguments.command]
    print(f"worker -j {arguments.slots}; {arguments.jobs} jobs; memory in kB")
    print("        jobs    worker  its own     guard  its own  descriptors  seconds")
    worker = subprocess.Popen(command)
    try:
        time.sleep(2)  # idle is what it is after a while
        started = time.monotonic()
        show("idle", worker, started)
        step = max(arguments.jobs // 10, 1)
        for done in range(step, arguments.jobs + 1, step):
            for begin in range(0, step, BATCH):
                enqueue(db, min(BATCH, step - begin))
            while waiting(db) > 0:
                if worker.poll() is not None:
                    raise SystemExit("the worker has ended")
                time.sleep(0.1)
            show(done, worker, started)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--command", nargs="+", default=[NOTHING])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print(machine(folder))
        measure(str(Path(folder) / "jobs.db"), arguments)


if __name__ == "__main__":
    sys.exit(main())
