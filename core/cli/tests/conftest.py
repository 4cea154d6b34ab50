# SPDX-License-Identifier: MIT
"""What the tests of the dibs program share."""

import pytest

from harness import Database


@pytest.fixture(name="db")
def fixture_db(tmp_path):
    """A database that dibs init has made."""
    return Database(tmp_path)
