# SPDX-License-Identifier: MIT
"""Two languages, one queue: Python and the ``dibs`` program, which is C.

    python examples/mixed.py [DATABASE]

Python enqueues what ``dibs worker`` runs as a command of the shell; and ``dibs
enqueue`` enqueues what a task in Python does. Nothing is between them but the
file.
"""

import os
import subprocess
import sys

import dibs

DATABASE = sys.argv[1] if len(sys.argv) > 1 else "example.db"
PROGRAM = os.environ.get("DIBS_PROGRAM", "dibs")

app = dibs.App(DATABASE)


@app.task(queue="python")
def shout(text: str) -> str:
    return text.upper()


def program(*words: str) -> str:
    ran = subprocess.run(
        [PROGRAM, "--db", DATABASE, *words],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    return ran.stdout.strip()


def main() -> None:
    # From Python to the shell: the payload is the command's standard input.
    shell = app.database.queue("shell")
    id = shell.enqueue({"text": "made in Python"}, name="count", keep=60)
    program("worker", "-q", "shell", "--drain", "--result", "--", "wc", "-c")
    print("counted by wc:", app.database.get(id).result)

    # From the shell to Python: a task's arguments are an object.
    payload = '{"text": "made in C"}'
    number = program(
        "enqueue", "-q", "python", "--name", "shout", "--keep", "60", payload
    )
    with app.worker(drain=True) as worker:
        worker.wait()
    print("shouted by Python:", app.database.get(int(number)).result)


if __name__ == "__main__":
    main()
