# SPDX-License-Identifier: MIT
"""The examples run, and print what they say."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import dibs

EXAMPLES = Path(__file__).parents[1] / "examples"
PACKAGES = Path(dibs.__file__).parents[1]
BUILT = Path(__file__).parents[3] / "build" / "dev" / "core" / "cli" / "dibs"


def run(path: str, *words: str, **variables: str) -> str:
    """What an example, or with ``-c`` a program, prints."""
    ran = subprocess.run(
        [sys.executable, *words],
        cwd=EXAMPLES,
        env={
            **os.environ,
            "PYTHONPATH": str(PACKAGES),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DIBS_DB": path,
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_threads(path: str) -> None:
    lines = run(path, "threads.py", path).splitlines()
    assert [int(each.split()[2]) for each in lines] == [2 * n for n in range(8)]


def test_processes(path: str) -> None:
    assert run(path, "processes.py") == (
        "4203 primes below 40000\nby other processes: True\n"
    )


def test_event_loop(path: str) -> None:
    output = run(path, "event_loop.py", path)
    assert output.startswith("100 naps, 20 s of sleep, in ")


PAGES = {
    "/": '<a href="/a"></a><a href="/b"></a>',
    "/a": '<a href="/b"></a><a href="/">home</a>',
    "/b": '<a href="/c/d"></a>',
    "/c/d": "the end",
}


@pytest.fixture
def site() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path in PAGES:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(PAGES[self.path].encode())
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_crawler(path: str, site: tuple[str, list[str]]) -> None:
    url, asked = site
    output = run(path, "crawler.py", url, path)
    expected = [f"{page} {len(body)}" for page, body in sorted(PAGES.items())]
    assert output.splitlines() == expected
    assert sorted(asked) == sorted(PAGES), "each page was fetched once"
    assert run(path, "crawler.py", url, path) == output
    assert len(asked) == len(PAGES), "and not again"


def test_mixed(path: str) -> None:
    program = os.environ.get("DIBS_PROGRAM") or shutil.which("dibs") or str(BUILT)
    if not Path(program).exists():
        pytest.skip("the dibs program is not built")
    output = run(path, "mixed.py", path, DIBS_PROGRAM=program)
    payload = '{"text":"made in Python"}'
    assert output.splitlines() == [
        f"counted by wc: {len(payload)}",
        "shouted by Python: MADE IN C",
    ]


def test_fastapi(path: str) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    source = """
        from fastapi.testclient import TestClient
        from fastapi_app import api

        with TestClient(api) as client:
            job = client.post("/emails", params={"to": "a@x"}).json()["job"]
            print(client.get(f"/emails/{job}").json()["result"])
            print(client.get("/emails/999").status_code)
    """
    assert run(path, "-c", textwrap.dedent(source)) == "sent to a@x\n404\n"


def test_starlette(path: str) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("httpx")
    source = """
        from starlette.testclient import TestClient
        from starlette_app import api

        with TestClient(api) as client:
            print(client.put("/images/cat").json()["thumbnail"])
    """
    assert run(path, "-c", textwrap.dedent(source)) == "cat.small.jpg\n"


def test_every_example_is_tested() -> None:
    tested = re.findall(
        r'"(\w+)\.py"|(?:import|from) (\w+_app) ', Path(__file__).read_text()
    )
    names = {one or other for one, other in tested}
    assert {each.stem for each in EXAMPLES.glob("*.py")} <= names
