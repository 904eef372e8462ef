"""The tables of the domain: fields, constraints, indexes. No behaviour, no side effects in save()."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from deals.fields import MoneyField, PriceField
from deals.row_rules import DOWN_TRIGGERS, IS_CLOSED, IS_OPEN, UP_TRIGGERS, WATCHED_ROW


class Direction(models.TextChoices):
    UP = "up"
    DOWN = "down"


class Status(models.TextChoices):
    OPEN = "open"
    CLOSED = "closed"


class Monitoring(models.TextChoices):
    """Whether an open deal is watched. `pending` (to be armed) and `armed` are; `ended` belongs to closed deals."""

    NONE = "none", "none: no levels"
    PENDING = "pending", "pending: to be armed"
    ARMED = "armed", "armed"
    REMOVED = "removed", "removed by an operator"
    EXPIRED = "expired", "expired after its time"
    DEAD = "dead", "dead: could not be settled"
    ENDED = "ended", "ended: the deal is closed"


class CloseReason(models.TextChoices):
    TAKE_PROFIT = "take_profit", "Take Profit"
    STOP_LOSS = "stop_loss", "Stop Loss"
    MANUAL = "manual", "by hand"


class Detector(models.TextChoices):
    """Who saw that a deal was due: a tick, the arming of the deal, the sweep, or its user."""

    TICK = "tick"
    ARM = "arm"
    SWEEP = "sweep"
    MANUAL = "manual"


class Account(models.Model):
    """A user's money and statistics. balance = Σ ledger entries; margin = Σ amounts of open deals."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="account")
    balance = MoneyField(default=0, help_text="Free balance, USDT.")
    margin = MoneyField(default=0, help_text="Locked by open deals, USDT.")
    closed_deals = models.PositiveIntegerField(default=0, help_text="Number of closed deals.")
    winning_deals = models.PositiveIntegerField(default=0, help_text="Closed deals with a profit above zero.")
    total_volume = models.DecimalField(
        max_digits=30, decimal_places=8, default=0, help_text="Σ volume of closed deals."
    )
    total_amount = models.DecimalField(
        max_digits=30, decimal_places=8, default=0, help_text="Σ amount of closed deals."
    )
    largest_profit = MoneyField(default=0, help_text="The largest profit of a closed deal, ≥ 0.")
    largest_loss = MoneyField(default=0, help_text="The lowest profit of a closed deal, ≤ 0.")
    created_at = models.DateTimeField(auto_now_add=True)
    erased_at = models.DateTimeField(
        null=True, blank=True, help_text="When its user's personal data were erased: it opens no deals any more."
    )

    class Meta:
        db_table = "accounts"
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(balance__gte=0), name="accounts_balance_not_negative"),
            models.CheckConstraint(condition=Q(margin__gte=0), name="accounts_margin_not_negative"),
            models.CheckConstraint(
                condition=Q(winning_deals__lte=F("closed_deals")), name="accounts_winning_within_closed"
            ),
            models.CheckConstraint(
                condition=Q(largest_profit__gte=0, largest_loss__lte=0), name="accounts_extremes_have_their_sign"
            ),
        ]

    def __str__(self) -> str:
        return f"account {self.pk}"


WATCHED = (Monitoring.PENDING, Monitoring.ARMED)


class Settlement(models.Model):
    """One settlement transaction: when its work started, when PostgreSQL committed it, when its users were told.

    Its notifications are those between the first and the last that name it: transactions that ran beside it may have
    taken numbers in between.
    """

    started_at = models.DateTimeField(help_text="When a worker took the batch.")
    committed_at = models.DateTimeField(null=True, help_text="Commit time; written after the commit.")
    closed_count = models.PositiveIntegerField(help_text="Deals closed by it.")
    first_notification_id = models.BigIntegerField(null=True, help_text="NULL: its notifications speak for themselves.")
    last_notification_id = models.BigIntegerField(null=True)
    told_at = models.DateTimeField(null=True, help_text="When its notifications were published.")

    class Meta:
        db_table = "settlements"
        indexes: ClassVar = [
            # The sweep: settlements whose users are still to be told.
            models.Index(
                fields=["id"],
                condition=Q(told_at=None, first_notification_id__isnull=False),
                name="settlements_untold",
            ),
        ]

    def __str__(self) -> str:
        return f"settlement {self.pk}"


class Deal(models.Model):
    """A leveraged position. Open deals with levels are watched; its states stand in docs/architecture.md."""

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="deals", db_index=False)
    client_id = models.CharField(max_length=64, null=True, blank=True)  # noqa: DJ001 - NULL is "none given" and not unique
    symbol = models.CharField(max_length=32)
    direction = models.CharField(max_length=4, choices=Direction.choices)
    amount = MoneyField(help_text="Locked margin, USDT.")
    multiplier = models.PositiveSmallIntegerField(help_text="Leverage, 1–100.")
    open_price = PriceField()
    take_profit = PriceField(null=True, blank=True, help_text="A price.")
    stop_loss = PriceField(null=True, blank=True, help_text="A price.")
    upper_trigger = PriceField(null=True, blank=True, help_text="Price ≥ this closes the deal.")
    lower_trigger = PriceField(null=True, blank=True, help_text="Price ≤ this closes the deal.")
    status = models.CharField(max_length=6, choices=Status.choices, default=Status.OPEN)
    opened_at = models.DateTimeField()

    monitoring = models.CharField(max_length=7, choices=Monitoring.choices, default=Monitoring.NONE)
    monitoring_since = models.DateTimeField(help_text="When the monitoring state last changed.")
    watch_version = models.PositiveIntegerField(default=1, help_text="Rises with every change of what is watched.")
    watched_from_seq = models.BigIntegerField(default=0, help_text="Price sequence the levels were checked against.")
    watched_from_at = models.DateTimeField(help_text="Time of that price.")
    watch_expires_at = models.DateTimeField(null=True, help_text="When monitoring ends by itself.")

    closed_at = models.DateTimeField(null=True, blank=True)
    close_price = PriceField(null=True, blank=True)
    close_reason = models.CharField(max_length=16, choices=CloseReason.choices, null=True, blank=True)  # noqa: DJ001 - NULL while open
    detector = models.CharField(max_length=8, choices=Detector.choices, null=True, blank=True)  # noqa: DJ001 - NULL while open
    profit = MoneyField(null=True, blank=True, help_text="Net of commission, ≥ −amount.")
    commission = MoneyField(null=True, blank=True)
    close_trade_id = models.BigIntegerField(null=True, blank=True, help_text="The exchange's trade that fired it.")
    close_tick_at = models.DateTimeField(null=True, blank=True, help_text="Exchange time of the price.")
    received_at = models.DateTimeField(null=True, blank=True, help_text="When the price reached us.")
    fired_at = models.DateTimeField(null=True, blank=True, help_text="When the book fired it.")
    started_at = models.DateTimeField(null=True, blank=True, help_text="When a worker took it.")
    settlement = models.ForeignKey(Settlement, null=True, blank=True, on_delete=models.PROTECT, db_index=False)

    class Meta:
        db_table = "deals"
        constraints: ClassVar = [
            # Only where there is one: a closure is a new version of its row, and each index holds every version.
            models.UniqueConstraint(
                fields=["account", "client_id"],
                condition=Q(client_id__isnull=False),
                name="deals_one_per_client_id",
            ),
            models.CheckConstraint(condition=Q(amount__gt=0), name="deals_amount_positive"),
            models.CheckConstraint(condition=Q(multiplier__range=(1, 100)), name="deals_multiplier_1_to_100"),
            models.CheckConstraint(condition=Q(direction__in=Direction.values), name="deals_direction_known"),
            models.CheckConstraint(condition=Q(open_price__gt=0), name="deals_open_price_positive"),
            models.CheckConstraint(
                condition=(Q(take_profit=None) | Q(take_profit__gt=0)) & (Q(stop_loss=None) | Q(stop_loss__gt=0)),
                name="deals_levels_positive",
            ),
            models.CheckConstraint(condition=UP_TRIGGERS | DOWN_TRIGGERS, name="deals_triggers_match_levels"),
            models.CheckConstraint(
                condition=Q(upper_trigger=None) | Q(lower_trigger=None) | Q(upper_trigger__gt=F("lower_trigger")),
                name="deals_upper_above_lower",
            ),
            models.CheckConstraint(condition=IS_OPEN | IS_CLOSED, name="deals_closed_iff_close_fields"),
            models.CheckConstraint(
                condition=Q(status="closed")
                | Q(monitoring="removed")  # with or without levels: it stays so until an operator puts it back
                | Q(monitoring="none", upper_trigger=None, lower_trigger=None)
                | (
                    Q(monitoring__in=("pending", "armed", "expired", "dead"))
                    & (Q(upper_trigger__isnull=False) | Q(lower_trigger__isnull=False))
                ),
                name="deals_monitoring_matches_triggers",
            ),
            models.CheckConstraint(
                condition=~Q(monitoring__in=("pending", "armed")) | Q(watch_expires_at__isnull=False),
                name="deals_watched_has_expiry",
            ),
            models.CheckConstraint(
                condition=Q(status="open")
                | (Q(close_price__gt=0) & Q(profit__gte=-F("amount")) & Q(commission__gte=0)),
                name="deals_closure_in_bounds",
            ),
            models.CheckConstraint(
                condition=Q(close_reason=None) | Q(close_reason__in=CloseReason.values), name="deals_close_reason_known"
            ),
            models.CheckConstraint(
                condition=Q(detector=None) | Q(detector__in=Detector.values), name="deals_detector_known"
            ),
        ]
        indexes: ClassVar = [
            # The sweep: watched deals whose trigger lies inside a symbol's price window (workers/sql/due.sql).
            models.Index(fields=["symbol", "upper_trigger"], condition=WATCHED_ROW, name="deals_watched_upper"),
            models.Index(fields=["symbol", "lower_trigger"], condition=WATCHED_ROW, name="deals_watched_lower"),
            # The sweep: deals to be armed, deals whose monitoring has run its time.
            models.Index(fields=["id"], condition=Q(status="open", monitoring="pending"), name="deals_pending"),
            models.Index(fields=["watch_expires_at"], condition=WATCHED_ROW, name="deals_watch_expiry"),
            # Rebuilding the book, by id ranges.
            models.Index(fields=["id"], condition=WATCHED_ROW, name="deals_watched"),
            # A user's list, newest first, by status; and the ledger's check of margin.
            models.Index(fields=["account", "status", "-id"], name="deals_by_account"),
            # Health: open deals that are watched no more.
            models.Index(
                fields=["monitoring", "monitoring_since"],
                condition=Q(status="open", monitoring__in=("removed", "expired", "dead")),
                name="deals_unwatched",
            ),
            # Statistics of recent closures.
            models.Index(fields=["-closed_at"], condition=Q(status="closed"), name="deals_recently_closed"),
        ]

    def __str__(self) -> str:
        return f"deal {self.pk}"


class LedgerEntry(models.Model):
    """A posting to an account's free balance. Append-only: the database refuses UPDATE and DELETE.

    Here as below a trigger checks keys for all rows of a statement (migration 0009), not a constraint row by row.
    """

    class Kind(models.TextChoices):
        FUNDING = "funding", "funding of the account"
        OPEN = "open", "amount locked by a deal"
        CLOSE = "close", "amount and profit returned by a deal"

    account = models.ForeignKey(
        Account, on_delete=models.PROTECT, related_name="ledger", db_index=False, db_constraint=False
    )
    deal = models.ForeignKey(
        Deal, null=True, on_delete=models.PROTECT, related_name="ledger", db_index=False, db_constraint=False
    )
    kind = models.CharField(max_length=8, choices=Kind.choices)
    amount = MoneyField(help_text="Signed change of the free balance, USDT.")
    created_at = models.DateTimeField()

    class Meta:
        db_table = "ledger_entries"
        verbose_name_plural = "ledger entries"
        constraints: ClassVar = [
            # Exactly once: a second payment of the same kind for a deal is an error.
            models.UniqueConstraint(fields=["deal", "kind"], name="ledger_one_per_deal_and_kind"),
            models.CheckConstraint(
                condition=(Q(kind="funding", deal=None))
                | (Q(kind="open", deal__isnull=False, amount__lt=0))
                | (Q(kind="close", deal__isnull=False, amount__gte=0)),
                name="ledger_kind_and_sign",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["account", "-id"], name="ledger_by_account")]

    def __str__(self) -> str:
        return f"{self.kind} {self.amount}"


class DealEvent(models.Model):
    """The history of a deal, append-only, written in the transaction that causes it. Read it by deals/history.py."""

    class Kind(models.TextChoices):
        OPENED = "opened"
        ARMED = "armed"
        AMENDED = "amended"
        FIRED = "fired"
        ATTEMPT = "attempt"
        CLOSED = "closed"
        REMOVED = "removed"
        EXPIRED = "expired"
        DEAD = "dead"

    deal = models.ForeignKey(Deal, on_delete=models.PROTECT, related_name="events", db_index=False, db_constraint=False)
    kind = models.CharField(max_length=8, choices=Kind.choices)
    version = models.PositiveIntegerField(help_text="watch_version of the deal then.")
    price = PriceField(null=True)
    trade_id = models.BigIntegerField(null=True)
    detector = models.CharField(max_length=8, choices=Detector.choices, null=True)  # noqa: DJ001 - NULL where nothing fired
    at = models.DateTimeField()
    error = models.TextField(default="", blank=True)
    gap_ms = models.PositiveBigIntegerField(
        null=True, help_text="After an outage: how long the symbol had had no price before this one; NULL: no outage."
    )

    class Meta:
        db_table = "deal_events"
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(
                    kind__in=("opened", "armed", "amended", "fired", "attempt", "closed", "removed", "expired", "dead")
                ),
                name="deal_events_kind_known",
            ),
            models.CheckConstraint(
                condition=Q(detector=None) | Q(detector__in=Detector.values), name="deal_events_detector_known"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["deal", "id"], name="deal_events_by_deal"),
            # Health: how many settlements failed in the last minutes.
            models.Index(fields=["-at"], condition=Q(kind="attempt"), name="deal_events_attempts"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} v{self.version}"


class Notification(models.Model):
    """What a user is told. A row first; published to the user's channel after the commit, again until it went out.

    When it went out is written on the settlement that wrote it, once for all of them, else in `published_at`.
    """

    class Kind(models.TextChoices):
        DEAL_CLOSED = "deal_closed"
        MONITORING_EXPIRED = "monitoring_expired"
        MONITORING_REMOVED = "monitoring_removed"
        MONITORING_FAILED = "monitoring_failed"

    account = models.ForeignKey(
        Account, on_delete=models.PROTECT, related_name="notifications", db_index=False, db_constraint=False
    )
    deal = models.ForeignKey(
        Deal, on_delete=models.PROTECT, related_name="notifications", db_index=False, db_constraint=False
    )
    kind = models.CharField(max_length=20, choices=Kind.choices)
    version = models.PositiveIntegerField(default=0, help_text="watch_version it speaks of; 0 for a closure.")
    created_at = models.DateTimeField()
    # Always the deal's own settlement, which the database checks there: a check here too would cost each closure 5 µs.
    settlement = models.ForeignKey(
        Settlement, null=True, on_delete=models.PROTECT, db_index=False, db_constraint=False, related_name="+"
    )
    published_at = models.DateTimeField(null=True, help_text="NULL for what a settlement wrote: see its `told_at`.")

    class Meta:
        db_table = "notifications"
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(kind__in=("deal_closed", "monitoring_expired", "monitoring_removed", "monitoring_failed")),
                name="notifications_kind_known",
            ),
            # Told once: a closure has one notification, so has each end of monitoring.
            models.UniqueConstraint(fields=["deal", "kind", "version"], name="notifications_told_once"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["account", "-id"], name="notifications_by_account"),
            models.Index(
                fields=["id"], condition=Q(published_at=None, settlement=None), name="notifications_unpublished"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of deal {self.deal_id}"


class SystemState(models.Model):
    """The one row that says whether the system runs. Nothing resumes by itself."""

    class State(models.TextChoices):
        RUNNING = "running"
        DRAINING = "draining"
        STOPPED = "stopped"
        HALTED = "halted"

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    state = models.CharField(max_length=8, choices=State.choices, default=State.RUNNING)
    version = models.PositiveBigIntegerField(default=1, help_text="Rises with every change.")
    changed_at = models.DateTimeField()
    reason = models.TextField(default="", blank=True)

    class Meta:
        db_table = "system_state"
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(id=1), name="system_state_is_one_row"),
            models.CheckConstraint(
                condition=Q(state__in=("running", "draining", "stopped", "halted")), name="system_state_known"
            ),
        ]

    def __str__(self) -> str:
        return self.state
