# SPDX-License-Identifier: MIT
"""What C, SQL and the program offer is what the contract says: all of it, and
nothing besides."""

import re

import pytest

import contract as reading
import faces
from contract import Contract, Flag, Header, program_flags, program_words

CONTRACT = Contract()
HEADER = Header()
COMMANDS = reading.program_commands()
BINDINGS = ["python", "node", "go", "ruby"]

# Parameters and members that carry the arguments instead of being some.
CARRIERS = set(
    "db engine watch run path options open_options count queue_count known "
    "size reserved".split()
)
NOTHING = {"none", "0", "not at all", "not staged", "no such end", "for ever"}


def test_the_file_has_its_one_form():
    """python3 core/contract/contract.py writes it so."""
    assert CONTRACT.text == reading.form(CONTRACT.data) + "\n"


def test_names_are_there_once():
    names = [operation["name"] for operation in CONTRACT["operations"]]
    assert len(names) == len(set(names))
    for operation in CONTRACT["operations"]:
        arguments = [argument["name"] for argument in operation["arguments"]]
        assert len(arguments) == len(set(arguments)), operation["name"]
        assert list(operation["bindings"]) == BINDINGS, operation["name"]
        for argument in operation["arguments"]:
            assert argument["type"] in CONTRACT.types, argument


def test_statuses():
    assert CONTRACT["statuses"] == HEADER.statuses()
    known = {status["name"] for status in CONTRACT["statuses"]}
    for operation in CONTRACT["operations"]:
        assert CONTRACT.allowed(operation) <= known, operation["name"]


def test_states_and_outcomes():
    enums = HEADER.enums()
    assert CONTRACT["states"] == [
        name[5:].lower() for name in enums["dibs_state"]
    ]
    assert CONTRACT["outcomes"] == [
        name[5:].lower() for name in enums["dibs_outcome"]
    ]
    for operation in CONTRACT["operations"]:
        if operation["states"]:
            assert list(operation["states"]) == [*CONTRACT["states"], "absent"]


def test_constants_and_enums():
    assert CONTRACT["constants"] == HEADER.constants()
    assert CONTRACT["enums"] == HEADER.enums()


# ---- C -----------------------------------------------------------------------


def test_every_function_has_its_place():
    supporting = [
        name for names in CONTRACT["support"].values() for name in names
    ]
    placed = [*CONTRACT.c_functions(), *supporting]
    assert len(placed) == len(set(placed)), "a function is named twice"
    assert set(placed) == set(HEADER.functions)


@pytest.mark.parametrize("name", CONTRACT.c_functions())
def test_parameters(name):
    operation, parameters = CONTRACT.c_functions()[name]
    declared = HEADER.functions[name]
    assert parameters == " ".join(map(str, declared))
    types = c_arguments(operation)
    for parameter in declared:
        if parameter.is_out or parameter.name in CARRIERS:
            continue
        assert parameter.name in types, f"{parameter.name} is no argument"
        check_type(types[parameter.name], parameter.name, parameter.type)


def c_arguments(operation):
    """Each parameter or "options.member" of an operation: its argument."""
    return {
        word: argument
        for argument in operation["arguments"]
        for word in argument.get("c", "").split()
    }


def check_type(argument, name, kind):
    if argument["type"] == "callback":
        return
    allowed = CONTRACT.types[argument["type"]]["c"]
    assert kind in allowed, (
        f"{name} is {kind}, {argument['type']} wants {allowed}"
    )


def option_structs():
    """Each struct of options: the operations that take it."""
    found = {}
    for name, (operation, _) in CONTRACT.c_functions().items():
        for parameter in HEADER.functions[name]:
            if parameter.name == "options":
                kind = parameter.type.split()[1]
                found.setdefault(kind, []).append(operation)
    return found


def test_arguments_are_parameters_or_members():
    for operation in CONTRACT["operations"]:
        there = set()
        for name in operation["c"]:
            for parameter in HEADER.functions[name]:
                there.add(parameter.name)
                if parameter.name == "options":
                    members = HEADER.struct(parameter.type.split()[1])
                    there |= {f"options.{member}" for member in members}
        if operation["name"] == "work":
            there.add("timeout")  # of the job
        assert set(c_arguments(operation)) <= there, operation["name"]


@pytest.mark.parametrize("kind", option_structs())
def test_members_of_options(kind):
    members = HEADER.struct(kind)
    named = {}
    for operation in option_structs()[kind]:
        named.update(c_arguments(operation))
    for member, (c_type, comment) in members.items():
        if member in CARRIERS:
            continue
        argument = named.get(f"options.{member}")
        assert argument, f"{kind}.{member} is not in the contract"
        check_type(argument, member, c_type)
        check_c_default(argument, member, comment)


def short(text):
    """ "5 s" as "5s"; without quotes."""
    return re.sub(r"(\d) (ms|s|m|h|d)\b", r"\1\2", text).strip().strip('"')


def default_of(argument):
    """The default as a text; None: there is none."""
    default = argument.get("default")
    return None if default in (None, False) else str(default)


def check_c_default(argument, member, comment):
    told = re.search(r"(?:default|DIBS_UNSET):? ([^;.]*(?:\.\d+)?)", comment)
    if told is None:
        return
    text = short(told[1])
    text = str(CONTRACT["constants"].get(text, text))
    if text not in NOTHING:
        assert text == default_of(argument), member
    else:
        assert default_of(argument) in (None, "0"), member


def test_constants_of_defaults():
    """DIBS_DEFAULT_BACKOFF is the default of backoff, and so on."""
    used = set()
    for operation in CONTRACT["operations"]:
        for argument in operation["arguments"]:
            name = argument.get("constant")
            if name is None:
                continue
            used.add(name)
            value = CONTRACT["constants"][name]
            default = str(argument["default"])
            if argument["type"] == "duration":
                default = reading.milliseconds(re.search(r"\S+$", default)[0])
            assert str(default) == str(value) or float(default) == value, name
    there = {name for name in CONTRACT["constants"] if "_DEFAULT_" in name}
    assert used == there


def test_choices_are_enums():
    for operation in CONTRACT["operations"]:
        for argument in operation["arguments"]:
            if argument["type"] != "choice":
                continue
            numbers = CONTRACT["enums"][argument["enum"]]
            words = [name.rsplit("_", 1)[1].lower() for name in numbers]
            assert argument["choices"] == words, argument["name"]
            if 0 in numbers.values():
                assert argument["default"] == words[0], argument["name"]


# What a comment says of other functions' outcomes.
MENTIONS = {
    "dibs_close": {"DIBS_LIBRARY"},
    "dibs_interrupt": {"DIBS_INTERRUPTED"},
    "dibs_cancel": {"DIBS_LOST"},
}


@pytest.mark.parametrize("name", CONTRACT.c_functions())
def test_the_header_tells_of_no_other_status(name):
    """A comment may stand above several functions."""
    comment = HEADER.comment(name)
    allowed = set(MENTIONS.get(name, ()))
    for other, (operation, _) in CONTRACT.c_functions().items():
        if HEADER.comment(other) == comment:
            allowed |= CONTRACT.allowed(operation)
    known = {status["name"] for status in CONTRACT["statuses"]}
    assert set(re.findall(r"\bDIBS_[A-Z_]+\b", comment)) & known <= allowed


@pytest.mark.parametrize("name", CONTRACT["records"])
def test_the_fields_of_a_record(name):
    struct = CONTRACT["records"][name]["c"]
    members = set(HEADER.struct(struct)) - {"error_count", "reserved"}
    assert CONTRACT.fields(name, "c") == members
    for field in CONTRACT["records"][name]["fields"]:
        assert field["type"] in CONTRACT.types, field["name"]


# ---- SQL ---------------------------------------------------------------------


@pytest.fixture(name="sqlite")
def fixture_sqlite(tmp_path):
    path = tmp_path / "jobs.db"
    faces.C(path).close()
    sqlite = faces.Sqlite(path)
    yield sqlite
    sqlite.close()


def test_sql_functions(sqlite):
    offered = {}
    for name, arguments in sqlite.rows(
        "SELECT name, narg FROM pragma_function_list WHERE name GLOB 'dibs_*'"
    ):
        offered.setdefault(name, set()).add(int(arguments))
    promised = {}
    for name, (_, words) in CONTRACT.sql_functions().items():
        words = words.split()
        least = len([word for word in words if word[0] != "["])
        promised[name] = set(range(least, len(words) + 1))
    hidden = columns(sqlite, "dibs_claim", hidden=True)
    assert len(hidden) == 2
    offered["dibs_claim"] = {1, 2}
    assert offered == promised


def columns(sqlite, table, hidden=False):
    rows = sqlite.rows(
        f"SELECT name, hidden FROM pragma_table_xinfo('{table}')"
    )
    return {name for name, is_hidden in rows if (is_hidden == "1") == hidden}


def test_sql_modules(sqlite):
    """Nothing else of ours can be selected from."""
    rows = sqlite.rows(
        "SELECT name FROM pragma_module_list WHERE name GLOB 'dibs*'"
    )
    assert [name for (name,) in rows] == ["dibs_claim"]


def test_sql_arguments():
    for name, (operation, words) in CONTRACT.sql_functions().items():
        given = set()
        for argument in operation["arguments"]:
            for word in argument.get("sql", "").split():
                given.add(word.partition(".")[0])
        taken = set(words.replace("[", "").replace("]", "").split())
        assert given == taken, name


@pytest.mark.parametrize(
    "table, operation",
    [("job_option", "enqueue"), ("claim", "claim"), ("retry", "retry")],
)
def test_options_in_json(table, operation):
    promised = {
        word[8:]
        for argument in CONTRACT.operations[operation]["arguments"]
        for word in argument.get("sql", "").split()
        if word.startswith("options.")
    }
    assert reading.json_options()[table] == promised


def test_columns(sqlite):
    for name, record in CONTRACT["records"].items():
        if "view" in record:
            view = columns(sqlite, record["view"])
            assert view == CONTRACT.fields(name, "view"), name
    assert columns(sqlite, "dibs_claim") == CONTRACT.fields("job", "claim")


def test_the_inbox(sqlite):
    """What plain SQL can say of a job."""
    arguments = CONTRACT.operations["enqueue"]["arguments"]
    promised = {argument.get("inbox") for argument in arguments} - {None}
    assert columns(sqlite, "dibs_inbox") == promised


# ---- The program -------------------------------------------------------------


def test_commands():
    promised = set(CONTRACT.commands()) - {"*"} | set(CONTRACT["program"])
    assert set(COMMANDS) == promised


@pytest.mark.parametrize("name", set(CONTRACT.commands()) - {"*"})
def test_arguments_and_flags_of_a_command(name):
    command = COMMANDS[name]
    operations, arguments = CONTRACT.commands()[name]
    assert command.arguments == arguments
    promised = CONTRACT.flags(name)
    if name == "queue set":
        promised = {
            f.name: f.value for f in map(setting_flag, CONTRACT["settings"])
        }
    offered = {flag: value for flag, (value, _) in command.flags.items()}
    assert offered == promised
    words = {
        word
        for o in operations
        for a in o["arguments"]
        for word in program_words(a, name)
    }
    taken = set(arguments.replace("[", "").replace("]", "").split())
    if name != "worker":
        positional = {word for word in words if not word.startswith("-")} - {
            "settings"
        }
        assert positional == taken


def setting_flag(setting):
    return Flag(setting["program"])


def test_flags_of_every_command():
    promised = {
        flag.name: flag.value
        for argument in CONTRACT.operations["open"]["arguments"]
        for flag in program_flags(argument)
    }
    promised.update({"--json": None, "--help": None, "--version": None})
    for command in COMMANDS.values():
        offered = {
            flag: value for flag, (value, _) in command.everywhere.items()
        }
        assert offered == promised, command.name


def value_words(thing):
    """What the value of a flag may be called."""
    words = CONTRACT.types[thing["type"]].get("program", [])
    if thing["type"] == "choice":
        words = ["|".join(thing["choices"])]
    return words


def test_values_of_flags():
    for operation in CONTRACT["operations"]:
        for argument in operation["arguments"]:
            for flag in program_flags(
                argument, next(iter(operation["program"]), None)
            ):
                if flag.value:
                    assert flag.value in value_words(argument), (
                        operation["name"],
                        flag.name,
                    )
    for setting in CONTRACT["settings"]:
        value, _, none = setting_flag(setting).value.rpartition("|")
        assert none == "none", setting["name"]
        assert value.replace("|inf", "") in value_words(setting), setting[
            "name"
        ]


def told_default(text):
    """What a help text says of the default; None: nothing."""
    before = re.search(r"(\w+)(?: it)? \((?:the )?default\)", text)
    if before:
        return before[1]
    after = re.search(r"\bdefault (.*?)(?:;|:|$)", text)
    return short(after[1]) if after else None


def check_help(thing, text):
    default = default_of(thing)
    told = told_default(
        re.sub(r"\(skip, the default\)", "skip (default)", text)
    )
    if told is None or told in NOTHING:
        assert default is None or " " in default, (
            f"{thing['name']}: the default is not told"
        )
    else:
        last = re.search(r"(?:.*, then )?(.*)", told)[1]
        assert default is not None, f"{thing['name']}: {told} is no default"
        assert default in (told, last), thing["name"]


@pytest.mark.parametrize("name", CONTRACT.commands())
def test_help_tells_the_defaults(name):
    for operation in CONTRACT.commands()[name][0]:
        for argument in operation["arguments"]:
            if argument.get("required") or argument["type"] in (
                "flag",
                "payload",
            ):
                continue
            for flag in program_flags(argument, name):
                texts = (
                    COMMANDS["init"].everywhere
                    if name == "*"
                    else COMMANDS[name].flags
                )
                if flag.name in ("--all", "--once"):
                    continue
                check_help(argument, texts[flag.name][1])


WORDS = {
    "endless": ["inf"],
    "unique_for": ["start", "finish"],
    "patterns": ["@queue"],
    "queue": ["@queue"],
    "path": ["@file"],
}


def words_of(thing, flag):
    """What a completion is to offer as the value of a flag."""
    if flag.value == "FILE":
        return ["@file"]
    return thing.get("choices") or WORDS.get(thing["type"], [])


def test_the_completion_offers_the_values():
    offered = reading.completion()
    wanted, found = {}, {}
    for name in CONTRACT.commands():
        for operation in CONTRACT.commands()[name][0]:
            for argument in operation["arguments"]:
                for flag in program_flags(argument, name):
                    if flag.value is None:
                        continue
                    key = f"{name} {flag.name}"
                    wanted[key] = words_of(argument, flag)
                    found[key] = offered.get(key, offered[flag.name])
    for setting in CONTRACT["settings"]:
        key = f"queue set {setting_flag(setting).name}"
        wanted[key] = [*words_of(setting, setting_flag(setting)), "none"]
        found[key] = offered.get(key, offered[setting_flag(setting).name])
    assert found == wanted


# ---- Settings ----------------------------------------------------------------


def test_settings():
    assert reading.settings_table() == {s["name"] for s in CONTRACT["settings"]}
    defaults = {
        a["name"]: a.get("default")
        for a in CONTRACT.operations["enqueue"]["arguments"]
    }
    for setting in CONTRACT["settings"]:
        assert setting_flag(setting).name == "--" + setting["name"].replace(
            "_", "-"
        )
        assert setting["job_option"] == (setting["name"] in defaults)
        if setting["job_option"]:
            assert setting.get("default") == defaults[setting["name"]], setting[
                "name"
            ]
        check_help(
            setting, COMMANDS["queue set"].flags[setting_flag(setting).name][1]
        )


def test_the_header_lists_the_settings():
    text = HEADER.comment("dibs_queue_set")
    listed = set(re.findall(r"^\*\* {5}(\w+)", text, re.M))
    own = {s["name"] for s in CONTRACT["settings"] if not s["job_option"]}
    assert listed == own
    assert "any job option but `at`" in text
    options = set(HEADER.struct("dibs_job_options")) - {"size", "at"}
    assert {s["name"] for s in CONTRACT["settings"]} == own | options
