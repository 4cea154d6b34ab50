# SPDX-License-Identifier: MIT
"""What the README shows is there: its names, and that it can be compiled."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import dibs

TEXT = (Path(__file__).resolve().parent.parent / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs_use_what_there_is(number: int) -> None:
    tree = compile(
        PROGRAMS[number],
        "README.md",
        "exec",
        ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
    )
    for node in ast.walk(tree):
        name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if re.fullmatch(r"dibs(\.\w+)+", name):
            assert resolve(name), name


def test_names_in_the_text_are_there() -> None:
    names = set(re.findall(r"\bdibs\.[A-Za-z]\w*(?:\.[A-Za-z]\w*)*", TEXT))
    # What is below dibs.django wants Django, and has tests of its own.
    names = {each for each in names if not each.startswith(("dibs.db", "dibs.django"))}

    assert "dibs.LostError" in names
    assert [each for each in sorted(names) if not resolve(each)] == []


def resolve(name: str) -> bool:
    found: object = dibs
    for part in name.split(".")[1:]:
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = import_module(name)
            except ModuleNotFoundError:
                return False
    return True


def test_the_first_program_runs(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []

    class Enough(BaseException):
        pass

    def send(data: object) -> None:
        sent.append(data)
        raise Enough

    monkeypatch.chdir(Path(path).parent)
    program = PROGRAMS[0].replace("delay=60", "delay=0")

    with pytest.raises(Enough):
        exec(program, {"send": send})

    assert sent == [{"to": "alice@example.com"}]
