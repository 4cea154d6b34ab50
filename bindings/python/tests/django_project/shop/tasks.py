# SPDX-License-Identifier: MIT
from __future__ import annotations

import django
from django.db import transaction
from django.db.models import F

import dibs
from dibs.django import app, attached
from shop.models import Order


@app.task
def send_receipt(order: int) -> str:
    changed = Order.objects.filter(pk=order).update(receipts=F("receipts") + 1)
    if not changed:
        raise Order.DoesNotExist(f"no order {order}")
    return Order.objects.get(pk=order).what


@app.task
def send_once(order: int) -> None:
    """Its work and its ack are one transaction."""
    with transaction.atomic():
        Order.objects.filter(pk=order).update(receipts=F("receipts") + 1)
        attached().ack(dibs.current_job())


if django.VERSION >= (6,):
    from django.tasks import task

    @task
    def add(a, b=0):
        return a + b

    @task(queue_name="slow", priority=7)
    async def add_later(a, b=0):
        return a + b

    @task(takes_context=True)
    def attempt(context):
        return [context.attempt, context.task_result.id]

    @task
    def bad():
        raise ValueError("no good")

    @task(backend="twice", takes_context=True)
    def second_time(context):
        if context.attempt < 2:
            raise Order.DoesNotExist("not yet")
        return context.attempt
