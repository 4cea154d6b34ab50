# SPDX-License-Identifier: MIT
# pyright: basic, reportMissingTypeStubs=false
"""``INSTALLED_APPS = [..., "dibs.django"]``."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import Error, register
from django.core.exceptions import ImproperlyConfigured
from django.db.models.signals import post_migrate


class DibsConfig(AppConfig):
    name = "dibs.django"
    label = "dibs"
    verbose_name = "dibs"

    def ready(self) -> None:
        register(_check)
        # For whatever app: this one has no models, and so no signal of its own.
        post_migrate.connect(_make_tables)


def _check(**_: Any) -> list[Any]:
    """What ``manage.py check`` has to say."""
    from ._app import alias

    try:
        alias()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="dibs.E001")]
    return []


def _make_tables(using: str, **_: Any) -> None:
    """``manage.py migrate``, and each test database."""
    from ._app import alias, attached

    if using == alias():
        attached()
