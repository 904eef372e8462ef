"""Reads that more than one place needs. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from django.db import connection
from django.db.models import Max, QuerySet
from django.db.models.functions import Coalesce

from deals.arrays import text_array
from deals.models import WATCHED, Deal, Monitoring, Notification, Status, SystemState
from deals.sql import statement


class WatchRow(NamedTuple):
    """What the trigger book needs to know of a deal. `watched` is False for what must leave the book."""

    id: int
    symbol: str
    direction: str
    upper_trigger: Decimal | None
    lower_trigger: Decimal | None
    watch_version: int
    watched_from_seq: int
    monitoring: str


class WatchedRange(NamedTuple):
    """The deals of one symbol in a range of ids, as armed_after.sql gives them: `words` are six of each armed deal."""

    symbol: str
    last_id: int
    watched: int
    words: list[str]
    pending: list[int]


class Bucket(NamedTuple):
    """The lowest and highest price of a symbol between two moments; `first_seq` is its first price's number."""

    symbol: str
    first_seq: int
    low: Decimal
    high: Decimal


class DueRow(NamedTuple):
    """A watched deal whose trigger a price window has reached; [low, high] is what counts for it."""

    id: int
    symbol: str
    direction: str
    upper_trigger: Decimal | None
    lower_trigger: Decimal | None
    watch_version: int
    low: Decimal
    high: Decimal
    monitoring: str
    watched_from_seq: int
    watched_from_at: datetime


class CurrentState(NamedTuple):
    """The system state, the version that orders its changes, and when and why it last changed."""

    state: str
    version: int
    since: datetime
    reason: str


def watch_rows(ids: Iterable[int]) -> list[WatchRow]:
    """What the book must hold for these deals, in key order."""
    with connection.cursor() as cursor:
        cursor.execute(statement("watch_rows"), {"ids": list(ids)})
        return [WatchRow(*row) for row in cursor.fetchall()]


def watch_row(deal: Deal) -> WatchRow:
    """The same of one deal, as its writer has it."""
    return WatchRow(*(getattr(deal, field) for field in WatchRow._fields))


def pending_rows(limit: int) -> list[WatchRow]:
    """The oldest deals that are to be armed."""
    return _read(_watched().filter(monitoring=Monitoring.PENDING), limit)


def watched_after(deal_id: int, limit: int) -> list[WatchRow]:
    """The next watched deals by id: how the book is rebuilt, range by range."""
    return _read(_watched().filter(pk__gt=deal_id), limit)


def armed_after(deal_id: int, limit: int) -> list[WatchedRange]:
    """The same by symbol, in the words of the arming script: PostgreSQL writes them in a tenth of our time."""
    with connection.cursor() as cursor:
        cursor.execute(statement("armed_after"), {"after": deal_id, "limit": limit})
        return [
            WatchedRange(symbol, last_id, watched, words.split(" ") if words else [], pending)
            for symbol, last_id, watched, words, pending in cursor.fetchall()
        ]


def newest_watch(symbols: Iterable[str]) -> dict[str, datetime]:
    """The time of the newest price that a watched deal of each symbol was checked against. Reads all of them."""
    watched = _watched().filter(symbol__in=list(symbols)).values("symbol")
    return dict(watched.annotate(newest=Max("watched_from_at")).values_list("symbol", "newest"))


def expiring_ids(now: datetime, limit: int) -> list[int]:
    """Watched deals whose monitoring time has run."""
    expiring = _watched().filter(watch_expires_at__lte=now).order_by("watch_expires_at")
    return list(expiring.values_list("pk", flat=True)[:limit])


def _watched() -> QuerySet[Deal]:
    return Deal.objects.filter(status=Status.OPEN, monitoring__in=WATCHED)


def _read(deals: QuerySet[Deal], limit: int) -> list[WatchRow]:
    rows = deals.order_by("pk").values_list(*WatchRow._fields)
    return [WatchRow(*row) for row in rows[:limit]]


def due_rows(buckets: Sequence[Bucket], *, limit: int, after: int = 0, but: Sequence[str] = ()) -> list[DueRow]:
    """Watched deals beyond an id whose trigger lies inside the given price buckets, in key order; see due.sql.

    `but` leaves deals out, each at the version it names only: `id|version`.
    """
    spans: dict[str, tuple[Decimal, Decimal]] = {}
    for bucket in buckets:
        low, high = spans.get(bucket.symbol, (bucket.low, bucket.high))
        spans[bucket.symbol] = (min(low, bucket.low), max(high, bucket.high))
    with connection.cursor() as cursor:
        cursor.execute(
            statement("due"),
            {
                "symbols": list(spans),
                "lows": [low for low, _high in spans.values()],
                "highs": [high for _low, high in spans.values()],
                "bucket_symbols": [bucket.symbol for bucket in buckets],
                "bucket_seqs": [bucket.first_seq for bucket in buckets],
                "bucket_lows": [bucket.low for bucket in buckets],
                "bucket_highs": [bucket.high for bucket in buckets],
                "limit": limit,
                "after": after,
                "but": text_array(but),
            },
        )
        return [DueRow(*row) for row in cursor.fetchall()]


def notifications() -> QuerySet[Notification]:
    """All notifications, with `told_at`: when each went out, wherever that is written; None: not yet."""
    return Notification.objects.annotate(told_at=Coalesce("published_at", "settlement__told_at"))


def current_state() -> CurrentState:
    """The system state, read now."""
    row = SystemState.objects.get(pk=1)
    return CurrentState(row.state, row.version, row.changed_at, row.reason)


def ledger_violations() -> list[str]:
    """What contradicts the ledger's invariants; an empty list when money is conserved. Reads every account."""
    with connection.cursor() as cursor:
        cursor.execute(statement("ledger_violations"))
        return [str(row[0]) for row in cursor.fetchall()]
