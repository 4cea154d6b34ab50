# SPDX-License-Identifier: MIT
"""What the tests of the extension share."""

import pytest

from hosts import Database, Shell


@pytest.fixture(name="db")
def fixture_db(tmp_path):
    """A database with tables, in WAL mode, with a connection open."""
    database = Database(tmp_path)
    yield database
    database.sql.close()


@pytest.fixture(name="shell")
def fixture_shell(tmp_path):
    """The stock shell on a new database, with the extension loaded."""
    shell = Shell(tmp_path / "app.db", tmp_path)
    yield shell
    shell.close()
