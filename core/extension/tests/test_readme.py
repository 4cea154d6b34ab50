# SPDX-License-Identifier: MIT
"""Every example of the README does what it says there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from hosts import EXTENSION, LIMIT, SHELL_ERROR, Shell, environment

README = Path(__file__).resolve().parent.parent / "README.md"
RECEIPT = re.compile(r"\d+:[0-9a-f]{16}")
PROMPT = "sqlite> "
MORE = "   ...> "


def blocks(language):
    """The code blocks of a language."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, README.read_text(), re.M | re.S)


def is_complete(lines):
    last = "END;" if lines[0].startswith("CREATE TRIGGER") else ";"
    return lines[-1].endswith(last)


def steps():
    """The statements: (sql, lines that it prints, how its error begins)."""
    found = []
    for block in blocks("sql"):
        lines = []
        for line in block.splitlines():
            if line.startswith("-- gives"):
                found[-1][1].append(line[len("-- gives ") :])
            elif line.startswith("-- refused "):
                found[-1][2] = line[len("-- refused ") :]
            elif line:
                lines.append(line)
                if is_complete(lines):
                    found.append(["\n".join(lines), [], None])
                    lines = []
        assert not lines, f"no statement: {lines}"
    return found


def test_the_statements_do_what_is_said(shell):
    found = steps()
    assert len(found) > 50, "the README's SQL was not found"
    for sql, gives, refused in found:
        lines = shell.run(sql)
        if refused is None:
            assert lines == [line for line in gives if line], sql
        else:
            assert len(lines) == 1, (sql, lines)
            text = SHELL_ERROR.sub("", lines[0])
            assert text.startswith(refused), (sql, text)
    assert shell.run("PRAGMA integrity_check;") == ["ok"]


def section_of(name):
    """The text from a function's heading to the next one; None without."""
    pattern = rf"^### (?:.*, )?{name}\(.*\n((?:(?!##).*\n)*)"
    found = re.search(pattern, README.read_text(), re.M)
    return found and found[1]


def test_every_function_has_its_section_and_an_example(shell):
    names = shell.run(
        "SELECT DISTINCT name FROM pragma_function_list"
        " WHERE name LIKE 'dibs%';"
    )
    assert len(names) > 15, names
    contents = README.read_text().split("## Loading")[0]
    for name in [*names, "dibs_claim"]:
        section = section_of(name)
        assert section, f"{name} has no section"
        examples = re.findall(r"^```sql\n(.*?)^```$", section, re.M | re.S)
        assert f"{name}(" in "".join(examples), f"{name} has no example"
        assert f"`{name}`" in contents, name


# ---- the session -------------------------------------------------------------


def session():
    """What is typed, and what comes: (lines typed, lines shown)."""
    (block,) = blocks("console")
    lines = block.splitlines()
    assert lines[0] == "$ sqlite3 app.db"
    found = []
    for line in lines[1:]:
        if line.startswith(PROMPT):
            found.append(([line[len(PROMPT) :]], []))
        elif line.startswith(MORE):
            found[-1][0].append(line[len(MORE) :])
        else:
            found[-1][1].append(line)
    return found


def replaced(text, receipts):
    """With the receipts that were given in place of the README's."""
    for written, given in receipts.items():
        text = text.replace(written, given)
    return text


def test_the_session_went_so(tmp_path):
    os.symlink(EXTENSION, tmp_path / "dibs.so")
    shell = Shell("app.db", tmp_path, load=False)
    receipts = {}
    found = session()
    assert len(found) > 15
    for lines, shown in found:
        seen = shell.run(replaced("\n".join(lines), receipts))
        seen = [re.sub("^Runtime error near line [0-9]+", "Runtime error", s)
                for s in seen]
        for written, given in zip(shown, seen):
            receipts.update(
                zip(RECEIPT.findall(written), RECEIPT.findall(given))
            )
        assert seen == [replaced(line, receipts) for line in shown], lines
    assert len(receipts) == 2
    shell.close()


# ---- Python ------------------------------------------------------------------


def test_the_python_example_runs(tmp_path):
    os.symlink(EXTENSION, tmp_path / "dibs.so")
    (block,) = blocks("python")
    block += (
        "\nimport json\n"
        "rows = connection.execute('SELECT queue, payload FROM dibs_jobs')\n"
        "print(json.dumps(rows.fetchall()), connection.in_transaction)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    rows, in_transaction = done.stdout.decode().rsplit(" ", 1)
    assert json.loads(rows) == [["welcome", '{"user":1}']]
    assert in_transaction.strip() == "False"
