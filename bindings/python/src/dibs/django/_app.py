# SPDX-License-Identifier: MIT
# pyright: basic, reportMissingTypeStubs=false
"""The app of a Django project: it enqueues through Django's connection, and a
worker opens the same file."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Literal

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections, connections, reset_queries

from .._app import App, Settlement
from .._database import Attached, Database, open
from .._job import Job
from .._operations import Operations
from .._time import Duration

#: The header that says which backend of ``django.tasks`` a job is of.
BACKEND_HEADER = "django-task-backend"


def setting(name: str, default: Any) -> Any:
    """Of ``settings.DIBS``."""
    return getattr(settings, "DIBS", {}).get(name, default)


def alias() -> str:
    """Which of ``DATABASES`` has the jobs."""
    name: str = setting("DATABASE", "default")
    if name not in connections:
        raise ImproperlyConfigured(
            f"DIBS['DATABASE'] is {name!r}, which is none of DATABASES"
        )
    if connections[name].vendor != "sqlite":
        raise ImproperlyConfigured(
            f"the database {name!r} is no SQLite database: let DIBS['DATABASE'] "
            "name one that is"
        )
    return name


class DjangoApp(App):
    """``dibs.django.app``: see ``dibs.App``. What is enqueued becomes part of
    Django's transaction, where one is open."""

    def __init__(self, *, context: dict[str, ContextVar[str]] | None = None) -> None:
        super().__init__("django", context=context)
        self.before(_clean)
        self.after(lambda job, error: _clean(job))

    def __repr__(self) -> str:
        return f"<dibs.django.DjangoApp of {len(self._tasks)} tasks>"

    # What the settings say is asked for when it is needed: this module is
    # imported before they are complete.

    @property
    def queue_name(self) -> str:
        return setting("QUEUE", "default")  # type: ignore[no-any-return]

    @queue_name.setter
    def queue_name(self, name: str) -> None:
        """Settings decide."""

    @property
    def keep(self) -> Duration | None:
        return setting("KEEP", 600)  # type: ignore[no-any-return]

    @keep.setter
    def keep(self, keep: Duration | None) -> None:
        """Settings decide."""

    @property
    def queues(self) -> list[str]:
        """The queues of its tasks, and of the backends of ``django.tasks``."""
        names = {each.queue for each in self._tasks.values()}
        for backend in getattr(settings, "TASKS", {}).values():
            if "dibs.django" in backend.get("BACKEND", ""):
                names.update(backend.get("QUEUES", ["default"]))
        return sorted(names or {self.queue_name})

    # ---- Its database

    @property
    def database(self) -> Database:
        """The same file as Django's, open by dibs: for workers and for waiting,
        never part of Django's transaction."""
        with self._lock:
            if self._opened is None or self._pid != os.getpid():
                self._opened = self._open()
                self._pid = os.getpid()
            return self._opened  # type: ignore[return-value]

    def _open(self) -> Database:
        name = str(connections[alias()].settings_dict["NAME"])
        synchronous: Literal["full", "normal"] = setting("SYNCHRONOUS", "full")
        return open(name, synchronous=synchronous)

    def _operations(self) -> Operations:
        return attached()

    # ---- Tasks of django.tasks

    def find(self, job: Job) -> Callable[[], Any] | Settlement:
        if BACKEND_HEADER in job.headers:
            from .backend import run

            return lambda: run(job)
        return super().find(job)

    def _is_async(self, job: Job) -> bool:
        if BACKEND_HEADER in job.headers:
            from .backend import load

            return inspect.iscoroutinefunction(load(job).func)
        return super()._is_async(job)


def attached() -> Attached:
    """dibs on Django's connection of this thread, for what the app does not do:
    acking a job within the transaction of its work::

        with transaction.atomic():
            Order.objects.filter(pk=order).update(paid=True)
            attached().ack(dibs.current_job())
    """
    return app._attached(connections[alias()])  # type: ignore[return-value]


def _clean(job: Job) -> None:
    """As Django does around a request."""
    reset_queries()
    close_old_connections()


#: The app of the project.
app = DjangoApp()
