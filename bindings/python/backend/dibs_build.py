# SPDX-License-Identifier: MIT
"""The build backend of this package (PEP 517 and 660).

It needs a C compiler and the standard library, and nothing from an index: who
installs the sdist without a network gets the package all the same.

What is compiled is the core's amalgamation, two files, and native/*.c. In a
checkout of the whole repository CMake makes the amalgamation; an sdist carries
it in core/, with the headers of SQLite that it is compiled against. The library
of SQLite is the host's and no part of a wheel.

    build_sdist     dibs-VERSION.tar.gz
    build_wheel     dibs-VERSION-cp310-abi3-PLATFORM.whl
    build_editable  compiles into src/dibs, and points there
"""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "dibs"
CORE = ROOT / "core"
CHECKOUT = ROOT.parent.parent
EXTENSION = "_dibs.abi3.so"
TAG = "cp310-abi3"

# Readable from every Python that the package supports.
LIMITED_API = "0x030A0000"

# 1980, the first year that a zip file knows.
EPOCH = (1980, 1, 1, 0, 0, 0)

Settings = dict[str, Any] | None


# ---- The core ---------------------------------------------------------------


def in_checkout() -> bool:
    return (CHECKOUT / "core" / "include" / "dibs.h").is_file()


def carry_core() -> None:
    """In a checkout, make core/ what the sources are now."""
    if not in_checkout():
        if not (CORE / "dibs.c").is_file():
            raise SystemExit("core/dibs.c is missing: this sdist is damaged")
        return
    tree = CHECKOUT / "build" / "package"
    cmake = os.environ.get("CMAKE", "cmake")
    options = ["-D", "DIBS_BUILD_TESTS=OFF", "-D", "DIBS_BUILD_CLI=OFF"]
    run(cmake, "-G", "Ninja", "-S", str(CHECKOUT), "-B", str(tree), *options)
    run(cmake, "--build", str(tree), "--target", "amalgamation")
    headers = Path(cached(tree, "SQLite3_INCLUDE_DIR"))
    CORE.mkdir(exist_ok=True)
    for source in (
        tree / "amalgamation" / "dibs.c",
        tree / "amalgamation" / "dibs.h",
        headers / "sqlite3.h",
        headers / "sqlite3ext.h",
        CHECKOUT / "LICENSE",
    ):
        copy_changed(source, CORE / source.name)


def cached(tree: Path, name: str) -> str:
    """A value that CMake has found."""
    text = (tree / "CMakeCache.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{name}:\w+=(.+)$", text, re.MULTILINE)
    if not found:
        raise SystemExit(f"CMake has no {name}: install libsqlite3-dev")
    return found[1]


def copy_changed(source: Path, target: Path) -> None:
    if not target.is_file() or source.read_bytes() != target.read_bytes():
        shutil.copyfile(source, target)


def run(*command: str) -> None:
    print("+", shlex.join(command), flush=True)
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


# ---- Compiling --------------------------------------------------------------


def compile_extension(directory: Path) -> Path:
    """Compile the extension module into a directory."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise SystemExit(
            "dibs does not support free-threaded builds of Python: use one with the GIL"
        )
    carry_core()
    sources = [CORE / "dibs.c", *sorted((ROOT / "native").glob("*.c"))]
    target = directory / EXTENSION
    with tempfile.TemporaryDirectory() as objects:
        compiled = [
            compile_source(source, Path(objects) / f"{source.stem}.o")
            for source in sources
        ]
        run(
            *words("LDSHARED", "cc -shared"),
            *map(str, compiled),
            "-o",
            str(target),
            *shlex.split(os.environ.get("LDFLAGS", "")),
            "-lpthread",
            "-lm",
            *(["-ldl"] if sys.platform == "linux" else []),
        )
    return target


def compile_source(source: Path, target: Path) -> Path:
    run(
        *words("CC", "cc"),
        "-std=c11",
        "-O2",
        "-g",
        "-fPIC",
        "-fvisibility=hidden",
        "-pthread",
        f"-DPy_LIMITED_API={LIMITED_API}",
        "-D_GNU_SOURCE",
        "-DDIBS_NO_LINKED",
        "-DDIBS_API=",
        f"-I{CORE}",
        f"-I{sysconfig.get_path('include')}",
        f"-I{sysconfig.get_path('platinclude')}",
        *shlex.split(os.environ.get("CFLAGS", "")),
        "-c",
        str(source),
        "-o",
        str(target),
    )
    return target


def words(variable: str, default: str) -> list[str]:
    """A command: from the environment, or what Python was built with if that
    is there, or the usual one."""
    given = os.environ.get(variable)
    if given:
        return shlex.split(given)
    built_with = shlex.split(sysconfig.get_config_var(variable) or "")
    if built_with and shutil.which(built_with[0]):
        return built_with
    return shlex.split(default)


# ---- Metadata ---------------------------------------------------------------


def version() -> str:
    for header in (
        CHECKOUT / "core" / "include" / "dibs.h",
        CORE / "dibs.h",
    ):
        if header.is_file():
            found = re.search(
                r'^#define DIBS_VERSION +"([0-9.]+)"$',
                header.read_text(encoding="utf-8"),
                re.MULTILINE,
            )
            if found:
                return found[1]
    raise SystemExit("no dibs.h with a DIBS_VERSION")


def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    try:
        import tomllib
    except ModuleNotFoundError:  # 3.10
        return read_toml(text)
    table: dict[str, Any] = tomllib.loads(text)["project"]
    return table


def read_toml(text: str) -> dict[str, Any]:
    """[project] and the tables below it, for a Python without tomllib: our
    file has only strings and arrays of strings in them."""
    import ast

    result: dict[str, Any] = {}
    table: dict[str, Any] | None = None
    pending = ""
    for line in text.splitlines():
        if not pending and line.startswith("["):
            names = line.strip("[] ").split(".")
            table = result if names[0] == "project" else None
            for name in names[1:] if table is not None else []:
                assert table is not None
                table = table.setdefault(name.strip('"'), {})
        elif table is not None and (pending or "=" in line):
            pending += line
            name, _, value = pending.partition("=")
            if value.count("[") == value.count("]"):
                table[name.strip(' "')] = ast.literal_eval(value.strip())
                pending = ""
    return result


def metadata() -> str:
    table = project()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {table['name']}",
        f"Version: {version()}",
        f"Summary: {table['description']}",
        f"Keywords: {','.join(table['keywords'])}",
        f"License: {table['license']}",
        f"Requires-Python: {table['requires-python']}",
        *(f"Classifier: {each}" for each in table["classifiers"]),
        *(f"Requires-Dist: {each}" for each in table["dependencies"]),
    ]
    for extra, needs in table.get("optional-dependencies", {}).items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {each}; extra == "{extra}"' for each in needs]
    lines.append("Description-Content-Type: text/markdown")
    readme = (ROOT / table["readme"]).read_text(encoding="utf-8")
    return "\n".join(lines) + "\n\n" + readme


def entry_points() -> str:
    table = project()
    groups = dict(table.get("entry-points", {}))
    if table.get("scripts"):
        groups["console_scripts"] = table["scripts"]
    return "\n".join(
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items())
        for group, entries in groups.items()
    )


def platform_tag() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", sysconfig.get_platform())


# ---- The wheel --------------------------------------------------------------


def write_wheel(directory: str, files: dict[str, bytes]) -> str:
    """A wheel of these files, with its dist-info."""
    base = f"dibs-{version()}"
    info = f"{base}.dist-info"
    tag = f"{TAG}-{platform_tag()}"
    files = {
        **files,
        f"{info}/METADATA": metadata().encode(),
        f"{info}/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: dibs_build\n"
            f"Root-Is-Purelib: false\nTag: {tag}\n"
        ).encode(),
        f"{info}/LICENSE": (CORE / "LICENSE").read_bytes(),
    }
    if entry_points():
        files[f"{info}/entry_points.txt"] = entry_points().encode()
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
        rows.writerow([name, f"sha256={digest.decode().rstrip('=')}", len(content)])
    rows.writerow([f"{info}/RECORD", "", ""])
    files[f"{info}/RECORD"] = record.getvalue().encode()

    name = f"{base}-{tag}.whl"
    with zipfile.ZipFile(
        Path(directory) / name, "w", compression=zipfile.ZIP_DEFLATED
    ) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            mode = 0o755 if path.endswith(".so") else 0o644
            entry.external_attr = (0o100000 | mode) << 16
            archive.writestr(entry, content)
    return name


def package_files() -> dict[str, bytes]:
    """What is Python of the package, by its path in the wheel."""
    return {
        path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes()
        for path in sorted(PACKAGE.rglob("*"))
        if path.is_file() and path.suffix != ".so" and "__pycache__" not in path.parts
    }


def build_wheel(
    wheel_directory: str,
    config_settings: Settings = None,
    metadata_directory: str | None = None,
) -> str:
    files = package_files()
    with tempfile.TemporaryDirectory() as directory:
        built = compile_extension(Path(directory))
        files[f"dibs/{EXTENSION}"] = built.read_bytes()
    return write_wheel(wheel_directory, files)


def build_editable(
    wheel_directory: str,
    config_settings: Settings = None,
    metadata_directory: str | None = None,
) -> str:
    compile_extension(PACKAGE)
    return write_wheel(wheel_directory, {"dibs.pth": f"{PACKAGE.parent}\n".encode()})


# ---- The sdist --------------------------------------------------------------


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    carry_core()
    base = f"dibs-{version()}"
    name = f"{base}.tar.gz"
    files = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for pattern in (
            "pyproject.toml",
            "README.md",
            "backend/*.py",
            "core/*",
            "native/*.[ch]",
            "src/dibs/**/*",
            "tests/**/*.py",
            "examples/**/*.py",
        )
        for path in sorted(ROOT.glob(pattern))
        if path.is_file() and path.suffix != ".so" and "__pycache__" not in path.parts
    }
    files["PKG-INFO"] = metadata().encode()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(f"{base}/{path}")
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
    with (
        open(Path(sdist_directory) / name, "wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
    ):
        packed.write(raw.getvalue())
    return name


if __name__ == "__main__":  # python backend/dibs_build.py: for developers
    print(compile_extension(PACKAGE))
