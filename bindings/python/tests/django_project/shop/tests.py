# SPDX-License-Identifier: MIT
"""Run by ``manage.py test``, as a project's own tests are."""

from __future__ import annotations

import datetime
import unittest

import django
from django.db import transaction
from django.test import TestCase
from django.utils import timezone

from dibs.django import app, attached
from dibs.testing import Testing
from shop.models import Order
from shop.tasks import send_once, send_receipt


def under_test(case):
    testing = Testing(app)
    case.addCleanup(testing.__exit__, None, None, None)
    return testing.__enter__()


class Tasks(TestCase):
    def setUp(self):
        self.jobs = under_test(self)

    def test_a_job_is_there_if_its_order_is(self):
        with transaction.atomic():
            order = Order.objects.create(what="tea")
            send_receipt.enqueue(order.pk)
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            order = Order.objects.create(what="coffee")
            send_receipt.enqueue(order.pk)
            raise ZeroDivisionError
        self.assertEqual(attached().queue("shop").stats().ready, 1)
        self.jobs.drain()
        self.assertEqual(Order.objects.get().receipts, 1)

    def test_a_result_is_given(self):
        handle = send_receipt.enqueue(Order.objects.create(what="tea").pk)
        self.assertEqual(handle.result(), "tea")

    def test_an_error_comes_out_of_drain(self):
        send_receipt.enqueue(99)
        with self.assertRaisesRegex(Order.DoesNotExist, "no order 99"):
            self.jobs.drain()

    def test_an_ack_within_the_transaction_of_the_work(self):
        order = Order.objects.create(what="tea")
        send_once.enqueue(order.pk)
        [ran] = self.jobs.drain()
        self.assertEqual(ran.ending, "done")
        self.assertEqual(Order.objects.get().receipts, 1)
        self.assertEqual(attached().queue("shop").stats().unfinished, 0)

    def test_settings_decide(self):
        job = send_receipt.enqueue(1).job()
        self.assertEqual(job.queue, "shop")
        self.assertIn("shop", app.queues)


@unittest.skipUnless(django.VERSION >= (6,), "django.tasks came with Django 6")
class Backend(TestCase):
    def setUp(self):
        from shop import tasks

        self.tasks = tasks
        self.jobs = under_test(self)

    def test_a_task_is_enqueued_run_and_told(self):
        from django.tasks import TaskResultStatus

        result = self.tasks.add.enqueue(1, b=2)
        self.assertEqual(result.status, TaskResultStatus.READY)
        self.assertIsNotNone(result.enqueued_at)
        self.assertEqual((result.args, result.kwargs), ([1], {"b": 2}))
        self.jobs.drain()
        result.refresh()
        self.assertEqual(result.status, TaskResultStatus.SUCCESSFUL)
        self.assertEqual(result.return_value, 3)
        self.assertEqual(result.attempts, 1)
        self.assertIsNotNone(result.finished_at)
        self.assertEqual(self.tasks.add.get_result(result.id).return_value, 3)

    def test_an_async_task(self):
        result = self.tasks.add_later.enqueue(1, b=2)
        job = attached().get(int(result.id))
        self.assertEqual((job.queue, job.priority), ("slow", 7))
        self.jobs.drain()
        result.refresh()
        self.assertEqual(result.return_value, 3)

    async def test_enqueueing_on_an_event_loop(self):
        result = await self.tasks.add.aenqueue(1)
        await result.arefresh()
        self.assertEqual(result.status, "READY")

    def test_run_after_and_priority(self):
        after = timezone.now() + datetime.timedelta(hours=1)
        task = self.tasks.add.using(run_after=after, priority=-5)
        result = task.enqueue(1)
        self.assertEqual(self.jobs.drain(), [])
        self.assertEqual(attached().get(int(result.id)).priority, -5)
        self.jobs.advance(3601)
        self.assertEqual(len(self.jobs.drain()), 1)

    def test_a_failure_is_told(self):
        from django.tasks import TaskResultStatus

        result = self.tasks.bad.enqueue()
        self.jobs.drain(raise_errors=False)
        result.refresh()
        self.assertEqual(result.status, TaskResultStatus.FAILED)
        self.assertIs(result.errors[0].exception_class, ValueError)
        self.assertIn("no good", result.errors[0].traceback)

    def test_attempts_are_counted(self):
        result = self.tasks.second_time.enqueue()
        self.jobs.drain(raise_errors=False)
        result.refresh()
        self.assertEqual(result.status, "SUCCESSFUL")
        self.assertEqual((result.return_value, result.attempts), (2, 2))
        path = result.errors[0].exception_class_path
        self.assertEqual(path, "shop.models.Order.DoesNotExist")

    def test_the_context_is_given(self):
        result = self.tasks.attempt.enqueue()
        self.jobs.drain()
        result.refresh()
        self.assertEqual(result.return_value, [1, result.id])

    def test_a_rolled_back_task_is_none(self):
        from django.tasks.exceptions import TaskResultDoesNotExist

        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            result = self.tasks.add.enqueue(1)
            raise ZeroDivisionError
        with self.assertRaises(TaskResultDoesNotExist):
            result.refresh()

    def test_what_is_no_result_is_said(self):
        from django.tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch

        for id in ("", "x", "0", "-1", "99999999999999999999", "12345"):
            with self.assertRaises(TaskResultDoesNotExist):
                self.tasks.add.get_result(id)
        other = send_receipt.enqueue(1)
        with self.assertRaises(TaskResultDoesNotExist):
            self.tasks.add.get_result(str(other.id))
        result = self.tasks.bad.enqueue()
        with self.assertRaises(TaskResultMismatch):
            self.tasks.add.get_result(result.id)

    def test_signals_are_sent(self):
        from django.tasks.signals import task_enqueued, task_finished, task_started

        seen = []

        def hear(signal, task_result, **_):
            seen.append((task_result.status, task_result.task.name))

        for signal in (task_enqueued, task_started, task_finished):
            signal.connect(hear)
            self.addCleanup(signal.disconnect, hear)
        self.tasks.add.enqueue(1)
        self.tasks.bad.enqueue()
        self.jobs.drain(raise_errors=False)
        self.assertEqual(
            seen,
            [
                ("READY", "add"),
                ("READY", "bad"),
                ("RUNNING", "add"),
                ("SUCCESSFUL", "add"),
                ("RUNNING", "bad"),
                ("FAILED", "bad"),
            ],
        )

    def test_an_attempt_that_others_follow_is_no_end(self):
        from django.tasks.signals import task_finished

        seen = []

        def hear(task_result, **_):
            seen.append(task_result.status)

        task_finished.connect(hear)
        self.addCleanup(task_finished.disconnect, hear)
        self.tasks.second_time.enqueue()
        self.jobs.drain(raise_errors=False)
        self.assertEqual(seen, ["SUCCESSFUL"])

    def test_wrong_options_are_refused(self):
        from dibs.django.backend import DibsBackend

        with self.assertRaisesRegex(TypeError, "no job option 'max_attemps'"):
            DibsBackend("x", {"OPTIONS": {"max_attemps": 1}})
