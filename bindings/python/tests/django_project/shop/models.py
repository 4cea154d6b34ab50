# SPDX-License-Identifier: MIT
from django.db import models


class Order(models.Model):
    what = models.TextField()
    receipts = models.IntegerField(default=0)
