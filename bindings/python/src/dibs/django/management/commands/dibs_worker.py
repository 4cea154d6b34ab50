# SPDX-License-Identifier: MIT
# pyright: basic, reportMissingTypeStubs=false
"""``manage.py dibs_worker``: ``python -m dibs worker`` for a Django project."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from django.core.management.base import BaseCommand
from django.utils.module_loading import autodiscover_modules

from ...._app import App
from ...._command import arguments, run
from ..._app import app


class Command(BaseCommand):
    help = "Run the jobs of dibs, and of django.tasks where that is their backend."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        code = run(argparse.Namespace(**options), _find, _again())
        if code:
            sys.exit(code)


def _find() -> App:
    """The app, with the tasks of each app's ``tasks.py``."""
    autodiscover_modules("tasks")
    return app


def _again() -> list[str]:
    """The command that this process is."""
    if os.path.basename(sys.argv[0]) == "__main__.py":
        return [sys.executable, "-m", "django", *sys.argv[1:]]
    return [sys.executable, *sys.argv]
