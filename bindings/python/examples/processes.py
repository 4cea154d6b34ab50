# SPDX-License-Identifier: MIT
"""Work that keeps a processor busy, in processes.

    DIBS_DB=example.db python examples/processes.py

It enqueues, and then does what ``python -m dibs worker processes:app --processes
-j 2 --drain`` does in this folder. Each process imports this module.
"""

import os
import subprocess
import sys

import dibs

app = dibs.App(os.path.abspath(os.environ.get("DIBS_DB", "example.db")))


@app.task(queue="primes")
def count_primes(start: int, end: int) -> list[int]:
    found = sum(
        all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(max(start, 2), end)
    )
    return [found, os.getpid()]


def main() -> None:
    handles = [count_primes.enqueue(n, n + 5000) for n in range(0, 40_000, 5000)]
    command = [sys.executable, "-m", "dibs", "worker", "processes:app"]
    subprocess.run(
        [*command, "--processes", "-j", "2", "--drain", "--log-level", "warning"],
        cwd=os.path.dirname(os.path.abspath(__file__)),
        check=True,
    )
    results = [handle.result(timeout=0) for handle in handles]
    print(f"{sum(found for found, _ in results)} primes below 40000")
    print(f"by other processes: {os.getpid() not in {pid for _, pid in results}}")


if __name__ == "__main__":
    main()
