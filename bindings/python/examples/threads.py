# SPDX-License-Identifier: MIT
"""Tasks in threads of the program that enqueues them.

python examples/threads.py [DATABASE]
"""

import sys
import threading

import dibs

app = dibs.App(sys.argv[1] if len(sys.argv) > 1 else "example.db")


@app.task(queue="sums")
def add(a: int, b: int) -> list[object]:
    return [a + b, threading.current_thread().name]


def main() -> None:
    with app.worker(jobs=4):
        handles = [add.enqueue(n, n) for n in range(8)]
        for handle in handles:
            total, thread = handle.result(timeout=30)
            print(f"job {handle.id}: {total} from {thread}")


if __name__ == "__main__":
    main()
