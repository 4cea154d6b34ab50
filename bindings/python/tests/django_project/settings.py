# SPDX-License-Identifier: MIT
"""A project that keeps its jobs beside its data; its database is SHOP_DB."""

import os

import django

SECRET_KEY = "of a test"
USE_TZ = True
INSTALLED_APPS = ["dibs.django", "shop"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DB", "shop.db"),
        # A transaction that reads first may still enqueue.
        "OPTIONS": {"transaction_mode": "IMMEDIATE"} if django.VERSION > (5, 1) else {},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DIBS = {"QUEUE": "shop", "SYNCHRONOUS": "normal"}
if django.VERSION >= (6,):
    TASKS = {
        "default": {
            "BACKEND": "dibs.django.backend.DibsBackend",
            "QUEUES": ["default", "slow"],
        },
        "twice": {
            "BACKEND": "dibs.django.backend.DibsBackend",
            "OPTIONS": {"max_attempts": 2, "backoff": 0},
        },
    }
