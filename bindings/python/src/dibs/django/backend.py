# SPDX-License-Identifier: MIT
# pyright: basic, reportMissingTypeStubs=false
"""A backend of ``django.tasks`` (Django 6).

A task becomes a job that is named by its path and has ``{"args", "kwargs"}`` as
its payload. Of what Django's results say, a job knows all: its attempts are the
``worker_ids``, its kept errors the ``errors``.

``OPTIONS`` are options of the jobs. As in Django's own backends a task has one
attempt unless ``max_attempts`` says more, and its result is kept: a day, unless
``keep`` says for how long.
"""

from __future__ import annotations

import inspect
from datetime import datetime
from typing import Any

from django.conf import settings
from django.tasks import TaskResult, TaskResultStatus
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import Task, TaskContext, TaskError
from django.tasks.exceptions import TaskResultDoesNotExist
from django.tasks.signals import task_enqueued, task_finished, task_started
from django.utils import timezone
from django.utils.json import normalize_json
from django.utils.module_loading import import_string

from .. import _task
from .._errors import NotFoundError
from .._job import Job
from ._app import BACKEND_HEADER, app

_STATUS = {
    "done": TaskResultStatus.SUCCESSFUL,
    "dead": TaskResultStatus.FAILED,
    "running": TaskResultStatus.RUNNING,
}
_LARGEST_ID = 2**53


class DibsBackend(BaseTaskBackend):
    """``TASKS = {"default": {"BACKEND": "dibs.django.backend.DibsBackend"}}``"""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self._job_options = {"max_attempts": 1, "keep": 86400, **self.options}
        _task._check_options(self._job_options)

    def enqueue(self, task: Task, args: Any, kwargs: Any) -> TaskResult:
        """In Django's transaction, where one is open."""
        self.validate_task(task)
        operations = app._operations()
        payload = {"args": normalize_json(list(args)), "kwargs": normalize_json(kwargs)}
        options = dict(self._job_options)
        options["headers"] = {
            **options.get("headers", {}),
            BACKEND_HEADER: self.alias,
        }
        if task.run_after is not None:
            options["at"] = task.run_after
        id = operations.enqueue(
            task.queue_name,
            payload,
            name=task.module_path,
            priority=task.priority,
            **options,
        )
        result = _result(operations.get(id), task)
        task_enqueued.send(type(self), task_result=result)
        if app._enqueued is not None:
            app._enqueued(operations, [id])
        return result

    def get_result(self, result_id: str) -> TaskResult:
        if not (result_id.isascii() and result_id.isdigit()):
            raise TaskResultDoesNotExist(result_id)
        id = int(result_id)
        try:
            job = app._operations().get(id) if 0 < id < _LARGEST_ID else None
        except NotFoundError:
            job = None
        if job is None or job.headers.get(BACKEND_HEADER) != self.alias:
            raise TaskResultDoesNotExist(result_id)
        return _result(job, load(job))


def load(job: Job) -> Task:
    """The task of a job.

    Raises:
        ImportError: there is none.
    """
    task = import_string(job.name)
    if not isinstance(task, Task):
        raise ImportError(f"{job.name} is no task of django.tasks")
    return task.using(
        priority=job.priority,
        queue_name=job.queue,
        backend=job.headers[BACKEND_HEADER],
    )


def _result(job: Job, task: Task) -> TaskResult:
    status = _STATUS.get(job.state, TaskResultStatus.READY)
    if job.state == "done" and job.outcome != "acked":
        status = TaskResultStatus.FAILED
    began = _django_time(job.claimed_at)
    result = TaskResult(
        task=task,
        id=str(job.id),
        status=status,
        enqueued_at=_django_time(job.created_at),
        started_at=began,
        last_attempted_at=began,
        finished_at=_django_time(job.finished_at),
        args=job.data["args"],
        kwargs=job.data["kwargs"],
        backend=job.headers[BACKEND_HEADER],
        errors=[_error(each.text or "") for each in job.errors],
        worker_ids=_workers(job),
    )
    object.__setattr__(result, "_return_value", job.result)
    return result


def _workers(job: Job) -> list[str]:
    """One for each attempt: the last errors that are kept know theirs."""
    known = [each.worker or "dibs" for each in job.errors][: job.attempt]
    if len(known) < job.attempt:
        known.append(job.worker or "dibs")
    return ["dibs"] * (job.attempt - len(known)) + known


def _error(text: str) -> TaskError:
    """Of what is kept of an exception: on the first line its class, which is
    without a module when it is one of Python's own."""
    path = text.partition("\n")[0].partition(":")[0].strip()
    if "." not in path:
        path = f"builtins.{path}"
    return TaskError(exception_class_path=path, traceback=text)


def _django_time(at: datetime | None) -> datetime | None:
    if at is None or settings.USE_TZ:
        return at
    naive: datetime = timezone.make_naive(at)
    return naive


# ---- Running ------------------------------------------------------------------


def run(job: Job) -> Any:
    """Run a task; of an async one, what is to be awaited."""
    task = load(job)
    result = _result(job, task)
    object.__setattr__(result, "status", TaskResultStatus.RUNNING)
    backend = type(task.get_backend())
    task_started.send(sender=backend, task_result=result)
    args = list(job.data["args"])
    if task.takes_context:
        args.insert(0, TaskContext(task_result=result))
    if inspect.iscoroutinefunction(task.func):
        return _run_async(task, args, job, result)
    try:
        value = normalize_json(task.func(*args, **job.data["kwargs"]))
    except BaseException as error:
        _finished(task, result, job, error)
        raise
    _finished(task, result, job, None, value)
    return value


async def _run_async(task: Task, args: list[Any], job: Job, result: TaskResult) -> Any:
    try:
        value = normalize_json(await task.func(*args, **job.data["kwargs"]))
    except BaseException as error:
        _finished(task, result, job, error)
        raise
    _finished(task, result, job, None, value)
    return value


def _finished(
    task: Task,
    result: TaskResult,
    job: Job,
    error: BaseException | None,
    value: Any = None,
) -> None:
    """Tell Django; an attempt that others follow is no end."""
    if error is not None and not job.final:
        return
    status = TaskResultStatus.SUCCESSFUL if error is None else TaskResultStatus.FAILED
    object.__setattr__(result, "status", status)
    object.__setattr__(result, "finished_at", timezone.now())
    object.__setattr__(result, "_return_value", value)
    if error is not None:
        from .._job import error_text

        result.errors.append(_error(error_text(error)))
    task_finished.send(sender=type(task.get_backend()), task_result=result)
