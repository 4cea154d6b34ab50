# SPDX-License-Identifier: MIT
"""A crawler whose pages are in the same database as its jobs.

    python examples/crawler.py URL [DATABASE]

A page, the jobs for its links and the ack of its own job are one transaction: a
crawler that is killed at any moment and started again misses nothing and fetches
no page twice that it has stored.
"""

import contextlib
import re
import sqlite3
import sys
import urllib.parse
import urllib.request

import dibs

DATABASE = sys.argv[2] if len(sys.argv) > 2 else "crawl.db"

app = dibs.App(DATABASE)


@app.task(queue="crawl", max_attempts=3, backoff=1, timeout=30)
def fetch(url: str, *, job: dibs.Job = dibs.INJECTED) -> None:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body = answer.read().decode()
    links = {
        urllib.parse.urljoin(url, each) for each in re.findall('href="(.*?)"', body)
    }
    connection = sqlite3.connect(DATABASE, isolation_level="IMMEDIATE", timeout=30)
    with contextlib.closing(connection), connection:
        connection.execute("INSERT INTO pages VALUES (?, ?)", (url, body))
        for link in sorted(links):
            # The key outlives the job: each page once a day.
            task = fetch.options(unique=link, unique_for=86400).within(connection)
            task.enqueue(link)
        dibs.attach(connection).ack(job)


def main() -> None:
    start = sys.argv[1]
    connection = sqlite3.connect(DATABASE)
    connection.execute("CREATE TABLE IF NOT EXISTS pages(url TEXT PRIMARY KEY, body)")
    fetch.options(unique=start, unique_for=86400).enqueue(start)
    with app.worker(jobs=4, drain=True) as worker:
        worker.wait()
    for url, size in connection.execute(
        "SELECT url, length(body) FROM pages ORDER BY url"
    ):
        print(urllib.parse.urlsplit(url).path, size)
    connection.close()
    for dead in app.database.dead.list("crawl"):
        print("failed:", urllib.parse.urlsplit(dead.data["url"]).path)


if __name__ == "__main__":
    main()
