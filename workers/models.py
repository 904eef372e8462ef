"""What driving the domain must remember: how far the sweep got, what could not be settled, which jobs ran,
who stopped it and why.
"""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q

from deals.fields import PriceField
from deals.models import Deal


class SweepPosition(models.Model):
    """Per symbol the last price sequence whose consequences are settled or in `fired`.

    `unseen_from` and `unseen_until`: the last span that no sweep has looked at, because none ran for longer than prices
    are kept.
    """

    symbol = models.CharField(max_length=32, primary_key=True)
    seq = models.BigIntegerField()
    received_at = models.DateTimeField(null=True, help_text="When that price was received.")
    unseen_from = models.DateTimeField(null=True, help_text="The last span that no sweep has seen: from here")
    unseen_until = models.DateTimeField(null=True, help_text="to here. NULL: there is none.")

    class Meta:
        db_table = "sweep_positions"

    def __str__(self) -> str:
        return f"{self.symbol} {self.seq}"


class PriceDriver(models.Model):
    """Per symbol the prices process that drives it, written every 2 s; see workers/drivers.py."""

    symbol = models.CharField(max_length=32, primary_key=True)
    owner = models.CharField(max_length=32, help_text="The process, as its log names it.")
    token = models.BigIntegerField(help_text="The newest fencing token used for the symbol.")
    seen_at = models.DateTimeField(help_text="When the process last said so.")
    degraded_since = models.DateTimeField(null=True, help_text="Since when it closes deals itself; NULL: workers do.")
    reason = models.TextField(blank=True, help_text="Why it does.")

    class Meta:
        db_table = "price_drivers"

    def __str__(self) -> str:
        return f"{self.symbol} {self.owner}"


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


class Operation(models.Model):
    """Something an operator does to the whole system, step by step; see workers/operations.py."""

    class Kind(models.TextChoices):
        RESTART = "restart"
        SHUTDOWN = "shutdown"
        EMERGENCY_STOP = "emergency_stop"
        RESUME = "resume"

    class State(models.TextChoices):
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"
        ABANDONED = "abandoned"

    kind = models.CharField(max_length=14, choices=Kind.choices)
    state = models.CharField(max_length=9, choices=State.choices, default=State.RUNNING)
    reason = models.TextField(help_text="Why, in the operator's words.")
    requested_by = models.CharField(max_length=150, help_text="User name; of the machine for commands.")
    user_id = models.BigIntegerField(null=True, help_text="The user's number, kept when the name is erased.")
    source = models.CharField(max_length=64, help_text="Network address, or `cli`.")
    steps = models.JSONField(default=list, help_text="List of {name, at, outcome}.")
    heartbeat_at = models.DateTimeField(help_text="Its process was alive then: written every second while it runs.")
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    error = models.TextField(default="", blank=True)

    class Meta:
        db_table = "operations"
        ordering: ClassVar = ["-id"]
        permissions: ClassVar = [("control_system", "Can stop, restart and resume the system")]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(kind__in=("restart", "shutdown", "emergency_stop", "resume")),
                name="operations_kind_known",
            ),
            models.CheckConstraint(
                condition=Q(state__in=("running", "done", "failed", "abandoned")), name="operations_state_known"
            ),
            models.CheckConstraint(
                condition=Q(state="running", finished_at=None) | (~Q(state="running") & Q(finished_at__isnull=False)),
                name="operations_finished_iff_not_running",
            ),
        ]
        indexes: ClassVar = [
            # The one that runs, and those whose process has died: there are never many.
            models.Index(
                fields=["id"], condition=Q(state__in=("running", "abandoned")), name="operations_running_or_dead"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"


class AuditEntry(models.Model):
    """Who asked for what, when, from where, why, and what came of it.

    Append-only: the database refuses changes, but for erasing a person's data (blanks only) and for letting go of rows
    older than 30 days, each in a transaction that says so; see workers/audit.py.
    """

    at = models.DateTimeField()
    who = models.CharField(max_length=150, help_text="User name; of the machine for commands.")
    user_id = models.BigIntegerField(null=True, help_text="The user's number, kept when the name is erased.")
    source = models.CharField(max_length=64, help_text="Network address, or `cli`.")
    action = models.CharField(max_length=40, help_text="For example `restart`, `dead_letter.requeue`.")
    target = models.CharField(max_length=64, blank=True, help_text="What it was done to, for example `operation 7`.")
    reason = models.TextField(blank=True)
    outcome = models.TextField(help_text="`requested`, `done`, or why it failed.")

    class Meta:
        db_table = "audit_entries"
        ordering: ClassVar = ["-id"]
        verbose_name_plural = "audit log"
        indexes: ClassVar = [models.Index(fields=["-at"], name="audit_entries_newest")]

    def __str__(self) -> str:
        return f"{self.action} by {self.who}"
