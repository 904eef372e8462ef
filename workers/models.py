"""What driving the domain must remember: how far the sweep got, what could not be settled, which jobs ran."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q

from deals.fields import PriceField
from deals.models import Deal


class SweepPosition(models.Model):
    """Per symbol the last price sequence whose consequences are settled or in `fired`."""

    symbol = models.CharField(max_length=32, primary_key=True)
    seq = models.BigIntegerField()

    class Meta:
        db_table = "sweep_positions"

    def __str__(self) -> str:
        return f"{self.symbol} {self.seq}"


class DeadLetter(models.Model):
    """A deal that could not be settled after its attempts, with the price it was due at."""

    class State(models.TextChoices):
        FAILED = "failed"
        REQUEUED = "requeued"
        RESOLVED = "resolved"
        DISCARDED = "discarded"

    deal = models.ForeignKey(Deal, on_delete=models.PROTECT, related_name="dead_letters")
    version = models.PositiveIntegerField(help_text="watch_version of the deal when it fired.")
    task = models.CharField(max_length=100)
    price = PriceField(help_text="The price that fired.")
    fired = models.TextField(help_text="The fired entry, as the book keeps it.")
    fired_at = models.DateTimeField(null=True)
    error_class = models.CharField(max_length=200)
    error = models.TextField()
    traceback = models.TextField(default="", blank=True)
    attempts = models.PositiveSmallIntegerField()
    first_failed_at = models.DateTimeField()
    last_failed_at = models.DateTimeField()
    state = models.CharField(max_length=9, choices=State.choices, default=State.FAILED)

    class Meta:
        db_table = "dead_letters"
        constraints: ClassVar = [
            # A message may fail twice (redelivery, hard time-out): one letter a deal and version.
            models.UniqueConstraint(fields=["deal", "version"], name="dead_letters_one_per_version"),
            models.CheckConstraint(
                condition=Q(state__in=("failed", "requeued", "resolved", "discarded")), name="dead_letters_state_known"
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["state", "-last_failed_at"], name="dead_letters_by_state")]

    def __str__(self) -> str:
        return f"dead letter of deal {self.deal_id}"


class JobLog(models.Model):
    """A finished `workers.close_deals` message, or any task that failed for good. Only the latest are kept."""

    class State(models.TextChoices):
        COMPLETED = "completed"
        FAILED = "failed"

    task_id = models.CharField(max_length=64, unique=True, help_text="The message; run twice, the last run counts.")
    task = models.CharField(max_length=100)
    deals = models.PositiveIntegerField(null=True, help_text="Deals in the message; NULL for other tasks.")
    closed = models.PositiveIntegerField(null=True, help_text="Deals that it closed; NULL when it failed.")
    started_at = models.DateTimeField(null=True, help_text="NULL when the process that ran it was lost.")
    finished_at = models.DateTimeField()
    duration_ms = models.FloatField(null=True)
    state = models.CharField(max_length=9, choices=State.choices)
    error = models.TextField(default="", blank=True)

    class Meta:
        db_table = "job_log"
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(state__in=("completed", "failed")), name="job_log_state_known"),
        ]
        indexes: ClassVar = [
            # The latest of each state: what operators read and what is kept.
            models.Index(fields=["state", "-finished_at", "-id"], name="job_log_by_state"),
        ]

    def __str__(self) -> str:
        return f"{self.task} {self.state}"
