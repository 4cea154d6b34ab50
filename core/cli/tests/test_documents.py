# SPDX-License-Identifier: MIT
"""--help, the manual page and the completions: complete, and all alike.

The table in commands.c is read here by other means, so that what is printed
is compared with what was written and not with itself.
"""

import pathlib
import re
import shutil
import subprocess

import pytest

from harness import LIMIT, PROGRAM, Terminal, environment, run

SOURCES = pathlib.Path(__file__).resolve().parent.parent
EVERYWHERE = {
    "--db",
    "--json",
    "--busy-timeout",
    "--synchronous",
    "--max-payload",
    "--help",
    "--version",
}


def option_names():
    """The name behind each OPTION_ID."""
    text = (SOURCES / "cli.h").read_text(encoding="utf-8")
    rows = re.findall(r'X\((\w+), "([a-z0-9-]+)", (?:0|\'(\w)\')', text)
    assert len(rows) > 60
    return {name: (f"--{long}", letter) for name, long, letter in rows}


def commands():
    """The options of each command."""
    text = (SOURCES / "commands.c").read_text(encoding="utf-8")
    table = text[text.index("commands_table[] = {") :]
    names = option_names()
    found = {}
    for row in re.split(r"\n    \{\n", table)[1:]:
        name = re.match(r'\s*"([a-z ]+)"', row)[1]
        ids = re.findall(r"\{OPTION_(\w+),", row)
        found[name] = {names[i][0] for i in ids}
    assert len(found) == 39, sorted(found)
    return found


COMMANDS = commands()


def listed(text):
    """The options that a list in --help begins lines with."""
    return set(re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", text, re.M))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option(name):
    result = run(*name.split(), "--help")
    assert (result.code, result.err) == (0, "")
    assert listed(result.out) == COMMANDS[name] | EVERYWHERE
    assert f"Usage: dibs {name}" in result.out
    assert max(map(len, result.out.splitlines())) <= 79
    same = run("help", *name.split())
    if name not in ("dead list", "queue list"):
        assert same.out == result.out
    assert run("--help", *name.split()).out == result.out


def test_help_lists_every_command():
    for words in (["--help"], ["-h"], ["help"], ["--json", "help"]):
        result = run(*words)
        assert result.code == 0
        names = re.findall(r"^  ([a-z]+(?: [a-z]+)?)  ", result.out, re.M)
        assert names == list(COMMANDS)


def test_help_of_a_group():
    for words in (["dead", "--help"], ["help", "dead"]):
        text = run(*words).out
        for name in ("dead list", "dead requeue", "dead redrive", "dead purge"):
            assert name in text


def test_help_tells_the_exit_codes():
    text = run("help").out
    for code, name in ((3, "EMPTY"), (4, "LOST"), (8, "SCHEMA")):
        assert re.search(rf"^  {code} +.*DIBS_{name}", text, re.M), text


# ---- the manual page ---------------------------------------------------------


def test_the_manual_page_lints(tmp_path):
    page = run("help", "--man")
    assert (page.code, page.err) == (0, "")
    (tmp_path / "dibs.1").write_text(page.out)
    lint = subprocess.run(
        ["mandoc", "-T", "lint", str(tmp_path / "dibs.1")],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert (lint.returncode, lint.stdout) == (0, b"")


def test_the_manual_page_has_every_option(tmp_path):
    (tmp_path / "dibs.1").write_text(run("help", "--man").out)
    text = subprocess.run(
        ["mandoc", "-T", "ascii", "-O", "width=200", str(tmp_path / "dibs.1")],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.decode()
    text = re.sub(".\b", "", text)
    sections = re.split(r"\n   dibs ([a-z ]+)\n", text)
    pages = dict(zip(sections[1::2], sections[2::2]))
    assert list(pages) == list(COMMANDS)
    for name, page in pages.items():
        options = set(re.findall(r"^     .*?(--[a-z0-9-]+)", page, re.M))
        assert options >= COMMANDS[name], name
    assert all(option in sections[0] for option in EVERYWHERE)


# ---- bash --------------------------------------------------------------------


def bash(line):
    """What bash offers for a line, with the cursor at its end."""
    script = """
        set -u
        dibs() { command "$PROGRAM" "$@"; }
        PROGRAM=$1
        source <("$1" completion bash)
        complete -p dibs >/dev/null || exit 9
        COMP_LINE=$2 COMP_POINT=${#2} COMPREPLY=()
        _dibs dibs '' ''
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", PROGRAM, line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=SOURCES,
        env=environment(),
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b""), done
    return set(done.stdout.decode().split("\n")) - {""}


def first_words():
    return {name.split()[0] for name in COMMANDS}


def test_bash_offers_the_commands():
    assert bash("dibs ") == first_words()
    assert bash("dibs cl") == {"claim", "clear"}
    assert bash("dibs help ") == first_words()
    assert bash("dibs --db clear cl") == {"claim", "clear"}


def test_bash_offers_what_follows_a_group():
    assert bash("dibs dead ") == {"list", "requeue", "redrive", "purge"}
    assert bash("dibs --json dead re") == {"requeue", "redrive"}
    assert bash("dibs queue ") == {"list", "show", "set", "pause", "resume"}


@pytest.mark.parametrize("name", COMMANDS)
def test_bash_offers_every_option(name):
    assert bash(f"dibs {name} --") == COMMANDS[name] | EVERYWHERE


def test_bash_offers_letters():
    assert {"-q", "-n", "-h"} <= bash("dibs claim -")


def test_bash_offers_values():
    assert bash("dibs list --state re") == {"ready"}
    assert bash("dibs list --state=d") == {"done", "dead"}
    assert bash("dibs enqueue --unique-for ") == {"start", "finish"}
    assert bash("dibs claim --wait ") == {"inf"}
    assert bash("dibs completion ") == {"bash", "zsh"}
    assert bash("dibs --synchronous ") == {"full", "normal"}
    assert bash("dibs claim --worker ") == set()


def test_bash_offers_the_values_of_settings():
    """Options of the same name in other commands take other values."""
    assert bash("dibs queue set q --keep ") == {"inf", "none"}
    assert bash("dibs enqueue --keep ") == {"inf"}
    assert bash("dibs wait 1 --timeout ") == {"inf"}
    assert bash("dibs worker --timeout ") == set()
    assert bash("dibs queue set q --dead-head=") == {"skip", "block", "none"}
    assert bash("dibs queue set q --unique-for ") == {"start", "finish", "none"}
    assert bash("dibs queue set q --limit ") == {"none"}
    assert bash("dibs list --limit ") == set()
    assert bash("dibs --burst 5 queue set --rate n") == {"none"}


def test_bash_offers_the_queues_that_there_are(db):
    for queue in ("mail/1", "mail/2", "thumbs", "a b", "$x"):
        db.enqueue("1", "-q", queue)
    assert bash(f"dibs --db {db.path} claim -q ma") == {"mail/1", "mail/2"}
    assert bash(f"dibs claim --db={db.path} --queue=") == {
        "mail/1",
        "mail/2",
        "thumbs",
    }
    assert bash("dibs --db none.db claim -q ") == set()
    words = f"dibs --db {db.path} queue"
    assert bash(f"{words} pause mail/1 ma") == {"mail/1", "mail/2"}
    assert bash(f"{words} show th") == bash(f"{words} resume t") == {"thumbs"}


def test_bash_knows_that_result_is_two_things():
    assert bash("dibs ack --result dead ") == set()
    assert bash("dibs worker --result -- ") == set(
        path.name for path in SOURCES.iterdir()
    )


def test_bash_offers_files():
    assert bash("dibs --db comm") == {"commands.c"}
    assert bash("dibs bench --folder te") == {"tests"}


def test_the_bash_script_is_clean(tmp_path):
    (tmp_path / "dibs.bash").write_text(run("completion", "bash").out)
    done = subprocess.run(
        ["shellcheck", "-s", "bash", str(tmp_path / "dibs.bash")],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()


# ---- zsh ---------------------------------------------------------------------


@pytest.fixture(name="zsh")
def fixture_zsh(tmp_path):
    """An interactive zsh with the completion loaded from its functions."""
    (tmp_path / "_dibs").write_text(run("completion", "zsh").out)
    (tmp_path / ".zshrc").write_text(
        f"fpath=({tmp_path} $fpath)\n"
        "autoload -Uz compinit && compinit -u -D\n"
        "PS1='ready> '\n"
        "LISTMAX=0\n"
        "bindkey '^I' list-choices\n"
        "unsetopt list_beep\n"
    )
    return tmp_path


def zsh_offers(folder, line, expected):
    """Type a line and a tab in zsh, and wait for all that is expected."""
    program = shutil.which("zsh")
    assert program, "zsh is not installed"
    terminal = Terminal(
        "-i",
        program=program,
        env={"ZDOTDIR": str(folder), "HOME": str(folder)},
        columns=200,
    )
    terminal.expect("ready> ")
    terminal.send(line + "\t")
    for text in expected:
        terminal.expect(text)
    terminal.send("\x15exit\n")
    terminal.finish()
    return terminal.text


def test_zsh_offers_the_commands(zsh):
    zsh_offers(zsh, "dibs cl", ["claim", "take jobs to work on", "clear"])


def test_zsh_offers_options_with_their_texts(zsh):
    text = zsh_offers(
        zsh, "dibs --json claim --w", ["--wait", "wait up to D", "--worker"]
    )
    assert "--watch" not in text


def test_zsh_offers_what_follows_a_group(zsh):
    zsh_offers(zsh, "dibs dead re", ["requeue", "redrive"])


def test_zsh_offers_values(zsh):
    zsh_offers(zsh, "dibs list --state=d", ["dead", "done"])
    zsh_offers(zsh, "dibs queue set q --dead-head ", ["block", "none", "skip"])
    zsh_offers(zsh, "dibs enqueue --on-conflict ", ["postpone", "reject"])


def test_the_zsh_script_may_be_sourced(tmp_path):
    script = """
        autoload -Uz compinit && compinit -u -D
        source <($1 completion zsh) && print -r -- $_comps[dibs]
    """
    done = subprocess.run(
        ["zsh", "-f", "-c", script, "zsh", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(HOME=str(tmp_path)),
        timeout=LIMIT,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"_dibs\n", b"")
