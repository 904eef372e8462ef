"""The last minutes one by one, as the charts show them: closures by reason, latency, depth of the queues."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import structlog
from django.db import connection
from django.utils import timezone
from redis.exceptions import RedisError

from monitoring import depths
from monitoring.closures import NO_CLOSURES, Latency, rounded
from monitoring.sql import statement
from workers import queues

log = structlog.get_logger(__name__)


class ReasonCount(NamedTuple):
    """How many deals a reason closed."""

    reason: str
    deals: int


class QueueDepth(NamedTuple):
    """The deepest that a queue was; None: nobody looked in that minute, or Redis is away."""

    name: str
    depth: int | None


class Minute(NamedTuple):
    """What happened in one minute, from `at` on."""

    at: datetime
    closures: list[ReasonCount]
    latency: Latency
    queues: list[QueueDepth]


class History(NamedTuple):
    """The last minutes, oldest first; the last one is still running."""

    minutes: list[Minute]


def history(minutes: int) -> History:
    """The last minutes. While Redis is away closures are told all the same, and no depths."""
    times = _whole_minutes(timezone.now(), minutes)
    closed = _closed(times[0])
    latencies = _latencies(times[0])
    deepest = _depths(times[0])
    names = queues.names()
    return History(
        [
            Minute(
                at=at,
                closures=closed.get(at, []),
                latency=latencies.get(at, NO_CLOSURES),
                queues=[QueueDepth(name, deepest.get(at, {}).get(name)) for name in names],
            )
            for at in times
        ]
    )


def _whole_minutes(now: datetime, minutes: int) -> list[datetime]:
    """The last minutes' beginnings, the running one included, oldest first."""
    last = now.replace(second=0, microsecond=0)
    return [last - timedelta(minutes=back) for back in range(minutes - 1, -1, -1)]


def _depths(since: datetime) -> dict[datetime, depths.Depths]:
    try:
        return depths.by_minute(since)
    except RedisError as error:
        log.warning("history.no_depths", error=str(error))
        return {}


def _closed(since: datetime) -> dict[datetime, list[ReasonCount]]:
    found: dict[datetime, list[ReasonCount]] = defaultdict(list)
    for at, reason, deals in _rows("history_closures", since):
        found[at].append(ReasonCount(reason, deals))
    return found


def _latencies(since: datetime) -> dict[datetime, Latency]:
    return {at: Latency(deals, *map(rounded, ms)) for at, deals, ms in _rows("history_latencies", since)}


def _rows(name: str, since: datetime) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement(name), {"since": since})
        return list(cursor.fetchall())
