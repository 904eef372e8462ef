"""How closing goes: counts, success, latencies, the latest closures and errors. All from PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

from django.db import connection

from deals.models import Deal, DealEvent
from monitoring.sql import statement
from monitoring.verdicts import percent

RECENT: Final = 50
STAGES: Final = ("tick_to_fired", "fired_to_started", "started_to_committed", "tick_to_committed")


class Count(NamedTuple):
    """How many deals a reason and a detector closed."""

    reason: str
    detector: str
    deals: int


class Latency(NamedTuple):
    """Percentiles of one way, ms; None when no deal went it."""

    deals: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None


NO_CLOSURES: Final = Latency(0, None, None, None, None)


class FailedAttempt(NamedTuple):
    """A deal that could not be settled, once."""

    deal_id: int
    at: datetime
    error: str


class Closures(NamedTuple):
    """The closures of the last `minutes`."""

    minutes: int
    closed: int
    errors: int
    success_rate_percent: float | None
    counts: list[Count]
    latencies: dict[str, Latency]
    recent: list[Deal]
    recent_errors: list[FailedAttempt]


def closures(minutes: int) -> Closures:
    """Everything about the closures of the last minutes."""
    counted = counts(minutes)
    [(attempts, jobs)] = _rows("closure_errors", minutes)
    closed = sum(count.deals for count in counted)
    errors = attempts + jobs
    return Closures(
        minutes=minutes,
        closed=closed,
        errors=errors,
        success_rate_percent=percent(closed, closed + errors, nothing=0.0) if closed + errors else None,
        counts=counted,
        latencies=latencies(minutes),
        recent=recent(),
        recent_errors=_recent_errors(),
    )


def counts(minutes: int) -> list[Count]:
    """How many closures there were, by reason and detector."""
    return [Count(*row) for row in _rows("closure_counts", minutes)]


def latencies(minutes: int) -> dict[str, Latency]:
    """The percentiles of each way."""
    known = {stage: Latency(deals, *map(rounded, figures)) for stage, deals, *figures in _rows("latencies", minutes)}
    return {stage: known.get(stage, NO_CLOSURES) for stage in STAGES}


def recent() -> list[Deal]:
    """The latest closures, newest first."""
    closed = Deal.objects.filter(status="closed").select_related("settlement", "account")
    return list(closed.order_by("-closed_at", "-pk")[:RECENT])


def _recent_errors() -> list[FailedAttempt]:
    failed = DealEvent.objects.filter(kind=DealEvent.Kind.ATTEMPT).order_by("-at")
    return [FailedAttempt(*row) for row in failed.values_list("deal_id", "at", "error")[:RECENT]]


def rounded(ms: float | None) -> float | None:
    """To the microsecond."""
    return None if ms is None else round(ms, 3)


def _rows(name: str, minutes: int) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement(name), {"minutes": minutes})
        return list(cursor.fetchall())
