# SPDX-License-Identifier: MIT
"""Jobs in Django's own SQLite database.

    INSTALLED_APPS = [..., "dibs.django"]

    # shop/tasks.py
    from dibs.django import app

    @app.task(queue="emails", max_attempts=5)
    def send_receipt(order: int) -> None: ...

    # a view
    with transaction.atomic():
        order = Order.objects.create(...)
        send_receipt.enqueue(order.pk)  # there if the order is

``manage.py dibs_worker -j 8`` runs them. With Django 6, ``django.tasks`` does the
same through a backend::

    TASKS = {"default": {"BACKEND": "dibs.django.backend.DibsBackend"}}

The setting ``DIBS`` is a dictionary, all of it optional:

- ``DATABASE``: which of ``DATABASES`` has the jobs ["default"]; an SQLite one.
- ``QUEUE``: where jobs go of tasks that name no queue ["default"].
- ``KEEP``: how long results are kept, seconds [600].
- ``SYNCHRONOUS``: of the worker's own connections, ["full"].

A transaction that has read cannot enqueue once somebody else has written
(``SnapshotError``), unless it begins with ``BEGIN IMMEDIATE``: so let
``DATABASES`` say ``"OPTIONS": {"transaction_mode": "IMMEDIATE"}`` (Django 5.1).

The tables are made by ``manage.py migrate``. SQLite must be in WAL mode for
readers and a writer not to wait for each other: opening the database, a worker
switches it.
"""

from ._app import DjangoApp, app, attached

__all__ = ["DjangoApp", "app", "attached"]
