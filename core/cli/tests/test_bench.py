# SPDX-License-Identifier: MIT
"""dibs bench: what it prints, and that it leaves nothing behind."""

import json
import os
import signal
import subprocess

import pytest

DIBS = os.environ["DIBS"]
DEADLINE = 120
SMALL = ["bench", "--count", "100", "--rounds", "3", "--payload", "64"]


def bench(folder, *words, code=0):
    done = subprocess.run(
        [DIBS, *SMALL, *words],
        cwd=folder,
        capture_output=True,
        timeout=DEADLINE,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert list(folder.iterdir()) == [], "something was left behind"
    return done.stdout


def test_a_line_a_figure(tmp_path):
    lines = [json.loads(line) for line in bench(tmp_path, "--json").splitlines()]
    named = {(x["figure"], x["batch"], x["synchronous"]): x for x in lines}
    assert len(lines) == len(named) == 12
    for figure in ("raw", "enqueue", "claim_ack"):
        for batch in (1, 100):
            for synchronous in ("normal", "full"):
                line = named[figure, batch, synchronous]
                low, middle, high = (
                    line[f"per_second{ending}"] for ending in ("_min", "", "_max")
                )
                assert 0 < low <= middle <= high
                assert line["ratio_min"] <= line["ratio"] <= line["ratio_max"]
                assert (line["rounds"], line["payload"]) == (3, 64)
    for batch in (1, 100):
        assert named["raw", batch, "full"]["ratio"] == 1
    assert named["claim_ack", 100, "full"]["ratio_to_batch"] == 1


def test_tables_for_people_and_for_markdown(tmp_path):
    text = bench(tmp_path)
    assert text.count("raw SQLite insert ") == 4
    assert "SQLite 3." in text
    table = [line for line in bench(tmp_path, "--markdown").splitlines() if line[:1] == "|"]
    assert len(table) == 2 + 12
    assert {line.count("|") for line in table} == {8}


@pytest.mark.parametrize("size", ["0", "1", "2", "50000"])
def test_payloads_of_any_size(tmp_path, size):
    words = ["--payload", size, "--rounds", "1", "--json"]
    for line in bench(tmp_path, *words).splitlines():
        assert json.loads(line)["payload"] == int(size)


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    words = [DIBS, "bench", "--rounds", "1000", "--json"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        while not list(tmp_path.glob("dibs-bench-*/jobs-*.db")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    done = subprocess.run(
        [DIBS, *SMALL, "--folder", str(tmp_path / "none")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 7
    assert str(tmp_path / "none") in done.stderr
