# SPDX-License-Identifier: MIT
"""The wheel and the sdist, each installed where there is nothing and no index.

The two are those that DIBS_DIST names, a folder; without it these tests make
them, which takes a while.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import dibs
db = dibs.open("app.db")
db.queue("emails").enqueue({"to": "ann"})
with db.queue("emails").consume() as job:
    print(job.data["to"], dibs.__version__, dibs.__file__)
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("DIBS_DIST")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("dist")
    for build in ("build_sdist", "build_wheel"):
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"import dibs_build as b; b.{build}({str(folder)!r})",
            ],
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT / "backend")},
            stdout=subprocess.DEVNULL,
        )
    return folder


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_it_installs_where_there_is_nothing(
    dist: Path, tmp_path: Path, pattern: str
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    # No index, no wheels lying about, no CMake: a C compiler is all there is.
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PIP_NO_INDEX": "1",
        "CMAKE": "/nowhere/cmake",
    }
    subprocess.run(
        [str(python), "-m", "pip", "install", "-q", str(one(dist, pattern))],
        check=True,
        env=environment,
        cwd=tmp_path,
    )

    output = subprocess.run(
        [str(python), "-I", "-c", PROGRAM],
        check=True,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    ).stdout.split()

    assert output[0] == "ann"
    assert output[2].startswith(str(tmp_path / "venv"))


def test_the_wheel_is_for_all_versions_and_has_no_sqlite(
    dist: Path, tmp_path: Path
) -> None:
    wheel = one(dist, "*.whl")
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extract("dibs/_dibs.abi3.so", tmp_path)
    assert "dibs/py.typed" in names
    assert "dibs/_dibs.pyi" in names
    assert [each for each in names if each.endswith((".so", ".c", ".h"))] == [
        "dibs/_dibs.abi3.so"
    ]

    library = tmp_path / "dibs" / "_dibs.abi3.so"
    symbols = subprocess.run(
        ["nm", "-D", str(library)], check=True, capture_output=True, text=True
    ).stdout
    wanted = [line.split()[-1] for line in symbols.splitlines() if " U " in line]
    sqlite = [each for each in wanted if each.startswith("sqlite3")]
    assert sqlite == [], "it links to no SQLite"
    assert b"SQLite format 3" not in library.read_bytes(), "and contains none"
    # Functions that came behind 3.10 would be missing there.
    assert "PyObject_GetBuffer" not in symbols


def test_the_sdist_has_all_sources(dist: Path) -> None:
    with tarfile.open(one(dist, "*.tar.gz")) as archive:
        names = {each.name.partition("/")[2] for each in archive.getmembers()}

    for name in (
        "pyproject.toml",
        "PKG-INFO",
        "README.md",
        "backend/dibs_build.py",
        "core/dibs.c",
        "core/dibs.h",
        "core/LICENSE",
        "native/module.c",
        "native/native.h",
        "src/dibs/__init__.py",
        "src/dibs/py.typed",
        "tests/test_package.py",
    ):
        assert name in names
    for path in (ROOT / "src" / "dibs").rglob("*.py"):
        assert path.relative_to(ROOT).as_posix() in names
    assert not [each for each in names if each.endswith((".so", ".pyc"))]
