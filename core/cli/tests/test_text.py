# SPDX-License-Identifier: MIT
"""What people read carries no raw control character; JSON is always JSON."""

import base64
import itertools
import json

import pytest

from harness import Terminal

# A terminal would act upon these: C0 (line end and tab apart, which are the
# program's own), DEL, C1 as UTF-8 and as bare bytes.
NASTY = (
    b"\x1b[31mred \x07bell \x00nul \x08back \rreturn \x7fdel "
    b"\xc2\x9b5mcsi \xc2\x85nel \x9bbare \xff\xfe\xed\xa0\x80 \ttab\nline "
    b"overlong \xe0\x82\x9b beyond \xf4\x90\x80\x80"
)


def raw_controls(data):
    """The control characters in what was printed."""
    text = data.decode("utf-8", "surrogateescape")
    return [
        c
        for c in text
        if (c != "\n" and ord(c) < 0x20)
        or 0x7F <= ord(c) < 0xA0
        or 0xDC80 <= ord(c) <= 0xDCFF
    ]


def assert_clean(result):
    assert raw_controls(result.raw_out) == [], result
    assert raw_controls(result.raw_err) == [], result


@pytest.fixture(name="nasty")
def fixture_nasty(db):
    """A dead job whose payload, headers and errors are all nasty."""
    db.enqueue("--bytes", "--file", "-", "--header", "h=\x1b[2J", input=NASTY)
    receipt = db.claim()["receipt"]
    text = NASTY.replace(b"\0", b"").decode("latin-1")
    db.ok("retry", receipt, "--delay", 0, "--error", text)
    receipt = db.claim()["receipt"]
    db.ok("fail", receipt, "--error", text)
    return db


@pytest.mark.parametrize(
    "words", [["get", 1], ["list"], ["dead"], ["stats"], ["queue"]]
)
def test_people_see_no_control_character(nasty, words):
    result = nasty.run(*words)
    assert result.code == 0
    assert_clean(result)


def test_claim_and_peek_are_clean_too(nasty):
    nasty.ok("dead", "requeue", 1)
    assert_clean(nasty.run("peek"))
    result = nasty.run("claim")
    assert_clean(result)
    assert "\\x1b[31mred" in result.out


def test_what_stands_for_a_control_character(nasty):
    text = nasty.run("get", 1).out
    for shown in (
        "\\x1b[31mred",
        "\\x07bell",
        "\\x00nul",
        "\\rreturn",
        "\\x7fdel",
        "\\u009b5mcsi",
        "\\x9bbare",
        "\\xff\\xfe\\xed\\xa0\\x80",
        "\\ttab\\nline",
        "overlong \\xe0\\x82\\x9b",
        "beyond \\xf4\\x90\\x80\\x80",
    ):
        assert shown in text, text


def test_errors_are_clean(db):
    for words in (
        ["ack", "\x1b[31m"],
        ["get", "\x1b[31m"],
        ["\x1b[31m"],
        ["claim", "--\x1b[31m"],
        ["enqueue", "1", "-q", "a\x1bb"],
        ["enqueue", "{\x1b"],
        ["enqueue", "--file", "/no/\x1b\udcff"],
        ["--db", "/no/\x1b\u009b", "stats"],
        ["doctor", "--db", "/no/\x1b\u009b"],
    ):
        result = db.run(*words)
        assert result.code > 0, words
        assert_clean(result)
        machine = db.json(*words)
        assert_clean(machine)
        if words[0] != "doctor":
            assert machine.error["message"]


def test_a_terminal_gets_only_our_own_sequences(nasty):
    terminal = Terminal("--db", nasty.path, "get", 1)
    assert terminal.finish() == 0
    sequences = terminal.text.split("\x1b")[1:]
    assert sequences, "there is colour"
    assert {s.split("m")[0] + "m" for s in sequences} <= {
        "[0m",
        "[1m",
        "[2m",
        "[31m",
    }
    # Each of ours begins or ends a colour; theirs would have come as "[31mred".
    assert "\x1b[31mred" not in terminal.text
    assert "\x9b" not in terminal.text


def test_json_carries_every_byte(nasty):
    job = nasty.get(1)
    assert base64.b64decode(job["payload_base64"]) == NASTY
    assert job["headers"] == {"h": "\x1b[2J"}
    result = nasty.json("get", 1)
    assert result.out.count("\n") == 1, "one object is one line"


def test_a_job_is_one_line_of_json(db):
    db.enqueue('{\n "a":\r\n [1,\t2]\n}')
    result = db.json("list")
    assert result.out.count("\n") == 1
    assert json.loads(result.out)["payload"] == {"a": [1, 2]}


def test_text_in_other_scripts_is_left_alone(db):
    text = "naïve 日本語 🎉 \u2028"
    db.enqueue(json.dumps(text, ensure_ascii=False), "-q", "größe")
    result = db.run("get", 1)
    assert text in result.out and "größe" in result.out
    assert db.ok("queue")[0]["queue"] == "größe"


def test_every_pair_of_bytes_is_printed_as_valid_text(db):
    """A walk through the decoder: any two bytes, between two letters."""
    pairs = itertools.product(range(0, 256, 5), range(0, 256, 3))
    data = b"".join(b"a" + bytes(pair) + b"z" for pair in pairs)
    db.enqueue("--bytes", "--file", "-", input=data)
    result = db.run("get", 1)
    assert_clean(result)
    assert f"({len(data)} bytes) a" in result.out
