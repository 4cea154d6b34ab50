# SPDX-License-Identifier: MIT
"""The operation contract, and what is offered in each place, as they are read.

`contract.json` is the contract; README.md says what its members mean. What is
offered is read here by other means than those that make it: the C header by its
text, the program by its help, tables of the core by their source. The tests
compare the two, in both directions.

    python3 core/contract/contract.py    writes contract.json in its one form
"""

import json
import os
import pathlib
import re
import subprocess

FOLDER = pathlib.Path(__file__).resolve().parent
CORE = FOLDER.parent
FILE = FOLDER / "contract.json"
HEADER = CORE / "include" / "dibs.h"
PROGRAM = os.environ.get("DIBS", "dibs")
WIDTH = 96  # of a line of the file


def form(data, indent=0):
    """JSON with each object and array on one line where that is short."""
    line = json.dumps(data, ensure_ascii=False)
    if not isinstance(data, (dict, list)) or len(line) + indent <= WIDTH:
        return line
    inner = " " * (indent + 2)
    if isinstance(data, dict):
        ends = "{}"
        parts = [
            f"{json.dumps(k)}: {form(v, indent + 2)}" for k, v in data.items()
        ]
    else:
        ends = "[]"
        parts = [form(value, indent + 2) for value in data]
    middle = ",\n".join(inner + part for part in parts)
    return f"{ends[0]}\n{middle}\n{' ' * indent}{ends[1]}"


# ---- The contract ------------------------------------------------------------


class Contract:
    def __init__(self):
        self.text = FILE.read_text(encoding="utf-8")
        self.data = json.loads(self.text)
        self.operations = {o["name"]: o for o in self.data["operations"]}
        self.types = self.data["types"]

    def __getitem__(self, name):
        return self.data[name]

    def allowed(self, operation):
        """The statuses that an operation can give."""
        found = {"DIBS_OK", *operation["statuses"]}
        groups = [operation["group"]]
        while groups:
            for name in self.data["groups"][groups.pop()]:
                if name.startswith("DIBS_"):
                    found.add(name)
                else:
                    groups.append(name)
        return found

    def fields(self, record, place):
        """The fields of a record that are there in a place: c, json, view."""
        fields = self.data["records"][record]["fields"]
        return {field["name"] for field in fields if field.get(place)}

    def c_functions(self):
        """Each C function of an operation: the operation and its parameters."""
        return {
            name: (operation, parameters)
            for operation in self.operations.values()
            for name, parameters in operation["c"].items()
        }

    def sql_functions(self):
        return {
            name: (operation, parameters)
            for operation in self.operations.values()
            for name, parameters in operation["sql"].items()
        }

    def commands(self):
        """Each command: its operations, and what stands behind its name."""
        found = {}
        for operation in self.operations.values():
            for name, arguments in operation["program"].items():
                operations, _ = found.setdefault(name, ([], arguments))
                operations.append(operation)
        return found

    def flags(self, command):
        """The flags that the contract gives a command: name and value."""
        found = {}
        for operation in self.commands()[command][0]:
            for argument in operation["arguments"]:
                for flag in program_flags(argument, command):
                    found[flag.name] = flag.value
        return found


class Flag:
    """ "-q, --queue QUEUE" as one."""

    def __init__(self, text):
        parts = re.fullmatch(r"(?:-(\w), )?(--[a-z0-9-]+)(?: (\S+))?", text)
        assert parts, f"not a flag: {text!r}"
        self.letter, self.name, self.value = parts.groups()


def milliseconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text).groups()
    units = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
    return int(number) * units[unit]


def program_words(argument, command=None):
    """How the program takes an argument; an object tells it by command."""
    words = argument.get("program", "")
    if isinstance(words, dict):
        words = words.get(command, "")
    return [word for word in words.split("; ") if word]


def program_flags(argument, command=None):
    words = program_words(argument, command)
    return [Flag(word) for word in words if word.startswith("-")]


# ---- The C header ------------------------------------------------------------


class Parameter:
    def __init__(self, text):
        text = re.sub(r"\[\w*\]", "", text).strip()
        name = re.search(r"(\w+)$", text)[1]
        self.name = name
        self.type = " ".join(text[: -len(name)].replace("*", " * ").split())
        self.type = re.sub(r" ?\* ?", " *", self.type).replace("* *", "**")
        handles = ("dibs_db *", "dibs_engine *", "dibs_watch *", "dibs_run *")
        pointee = self.type.rpartition("*")[0]
        self.is_out = (
            "*" in self.type
            and not pointee.strip().startswith("const")
            and self.type.strip()
            not in (*(h.strip() for h in handles), "void *")
            and "sqlite3 *" not in self.type
            and not self.type.endswith("_done *")
        ) or "[" in text
        if (
            re.search(r"\bmessage$", name)
            or name == "text"
            and "char *" == self.type
        ):
            self.is_out = True

    def __str__(self):
        return ("*" if self.is_out else "") + self.name


class Header:
    """dibs.h, taken apart."""

    def __init__(self):
        self.text = HEADER.read_text(encoding="utf-8")
        self.plain = re.sub(r"/\*.*?\*/", "", self.text, flags=re.S)
        self.functions = {}
        for name, inner in re.findall(
            r"^DIBS_API [^;(]*?\b(dibs_\w+)\(([^;]*)\);", self.plain, re.M
        ):
            parts = [] if inner.strip() == "void" else inner.split(",")
            self.functions[name] = [Parameter(part) for part in parts]

    def statuses(self):
        rows = re.findall(r'X\((\d+), (\w+), (\d+), "([^"]+)"\)', self.text)
        return [
            {
                "number": int(n),
                "name": f"DIBS_{name}",
                "exit_code": int(c),
                "meaning": m,
            }
            for n, name, c, m in rows
        ]

    def constants(self):
        """Every constant but the versions."""
        found = {}
        for name, value in re.findall(
            r"^#define (DIBS_[A-Z_]+)[ \t]+([^\s\\].*)$", self.plain, re.M
        ):
            value = value.strip()
            special = {"INT64_MIN": -(2**63), "INT64_MAX": 2**63 - 1}
            if name in ("DIBS_API", "DIBS_VERSION", "DIBS_VERSION_NUMBER"):
                continue
            if value in special:
                found[name] = special[value]
            else:
                found[name] = json.loads(value.strip("()"))
        return found

    def enums(self):
        found = {}
        for name, body in re.findall(r"enum (\w+) \{([^}#]*)\}", self.plain):
            members = re.findall(r"(DIBS_\w+) = (\d+)", body)
            found[name] = {member: int(number) for member, number in members}
        return found

    def struct(self, name):
        """The members of a struct: name, type and comment of each."""
        body = re.search(
            r"typedef struct %s \{(.*?)\n\} %s;" % (name, name), self.text, re.S
        )
        assert body, f"dibs.h has no struct {name}"
        found = {}
        pattern = r"^  (\w[^;/]*?);[ \t]*(/\*.*?\*/)?"
        inside = body[1]
        # A comment above a member is no part of it.
        inside = re.sub(r"^  /\*.*?\*/\n", "", inside, flags=re.M | re.S)
        for declaration, comment in re.findall(pattern, inside, re.M | re.S):
            declaration = " ".join(declaration.split())
            callback = re.search(r"\(\*(\w+)\)", declaration)
            if callback:
                member, kind = callback[1], "callback"
            else:
                parameter = Parameter(declaration)
                member, kind = parameter.name, parameter.type
            words = re.sub(r"\s+(\*\*)?\s*", " ", comment.strip("/* "))
            found[member] = (kind, words)
        return found

    def comment(self, function):
        """The comment above a function, or above the ones right before it."""
        place = re.search(
            r"^DIBS_API [^;(]*?\b%s\(" % function, self.text, re.M
        ).start()
        above = self.text[:place]
        start = above.rfind("/*")
        between = re.sub(r"/\*.*?\*/", "", above[start:], flags=re.S)
        only = re.fullmatch(
            r"(\s|DIBS_API [^;]*;|typedef void [^;]*;)*", between
        )
        return above[start : above.index("*/", start)] if only else ""


# ---- Tables of the core ------------------------------------------------------


def json_options():
    """The options that JSON takes, by what has them: job, claim, retry."""
    text = (CORE / "src" / "options.c").read_text(encoding="utf-8")
    found = {}
    for what, body in re.findall(
        r"struct member (\w+)_members\[\] = \{(.*?)\n\};", text, re.S
    ):
        names = re.findall(r"MEMBER\((\w+), FORM|\{\"(\w+)\", FORM", body)
        found[what] = {a or b for a, b in names}
    assert found["retry"], "options.c is written in another way now"
    return found


def settings_table():
    """The settings of a queue that the core knows."""
    text = (CORE / "src" / "settings.c").read_text(encoding="utf-8")
    body = re.search(r"settings\[\] = \{(.*?)\n\};", text, re.S)[1]
    names = re.findall(r'"(\w+)", SETTING|OPTION\((\w+), SETTING', body)
    assert len(names) > 10, "settings.c is written in another way now"
    return {a or b for a, b in names}


# ---- The program -------------------------------------------------------------


def dibs_text(*words):
    done = subprocess.run(
        [PROGRAM, *words], stdout=subprocess.PIPE, check=True, timeout=60
    )
    return done.stdout.decode()


class Command:
    """A command as its help tells of it."""

    def __init__(self, name):
        text = dibs_text(*name.split(), "--help")
        self.name = name
        usage = re.search(
            r"^Usage: dibs [a-z ]+ \[OPTION\]\.\.\.(.*)$", text, re.M
        )
        self.arguments = usage[1].strip()
        own, _, everywhere = text.partition("\nOptions of every command:\n")
        self.flags = self.read(own)
        self.everywhere = self.read(everywhere.partition("\nExamples:")[0])

    @staticmethod
    def read(text):
        """Each flag: what its value is called, and what is said of it."""
        found = {}
        for head, rest in re.findall(
            r"^  ((?:-\w, )?--\S+(?: \S+)?)(?:  +|\n +)"
            r"((?:\S.*\n(?:    +\S.*\n)*))",
            text + "\n",
            re.M,
        ):
            flag = Flag(head)
            found[flag.name] = (flag.value, " ".join(rest.split()))
        return found


def program_commands():
    text = dibs_text("help").partition("\nOptions of every")[0]
    names = re.findall(r"^  ([a-z]+(?: [a-z]+)?)  ", text, re.M)
    return {name: Command(name) for name in names}


def completion():
    """What the completion offers as values: by command and flag, and by flag."""
    body = dibs_text("completion", "bash").partition("_dibs_values() {")[2]
    found = {}
    for names, words in re.findall(
        r"^    (.*)\) found=\"(.*)\" ;;$", body.partition("\n}")[0], re.M
    ):
        for name in names.split("|"):
            found[name.replace('*"', "").strip('"').strip()] = words.split()
    assert found["--db"] == ["@file"], (
        "the completion is written in another way"
    )
    return found


if __name__ == "__main__":
    FILE.write_text(form(Contract().data) + "\n", encoding="utf-8")
