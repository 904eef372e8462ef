"""The figures of the whole system on one page. Reads what the other pages read; keeps nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

from django.db import connection
from django.utils import timezone

from monitoring import closures, queues
from monitoring.closures import Latency
from monitoring.prices import Dropped, prices
from monitoring.processes import Process, processes
from monitoring.queues import LetterCount, QueueFigures
from monitoring.sql import statement
from workers import keys
from workers.clock import to_datetime
from workers.redis_client import connect

MINUTES: Final = 5


class DealCount(NamedTuple):
    """How many open deals are in a monitoring state."""

    monitoring: str
    deals: int


class LastSweep(NamedTuple):
    """What the last sweep did."""

    at: datetime
    duration_ms: int
    found: int
    resent: int
    armed: int
    expired: int


class PriceTotals(NamedTuple):
    """The feed in a few figures; ticks and dropped ticks since Redis began."""

    symbols: int
    fresh: int
    ticks: int
    dropped: list[Dropped]


class ClosureTotals(NamedTuple):
    """The last minutes in a few figures."""

    minutes: int
    closed: int
    errors: int
    success_rate_percent: float | None
    latencies: dict[str, Latency]


class Stats(NamedTuple):
    """Everything, read now."""

    at: datetime
    open_deals: list[DealCount]
    fired: int
    queues: list[QueueFigures]
    dead_letters: list[LetterCount]
    prices: PriceTotals
    closures: ClosureTotals
    processes: list[Process]
    last_sweep: LastSweep | None


def stats() -> Stats:
    """The whole system. Raises Unavailable `broker_unavailable`, redis.RedisError."""
    living = processes()
    feed = prices()
    recent = closures.closures(MINUTES)
    return Stats(
        at=timezone.now(),
        open_deals=open_deals(),
        fired=connect().hlen(keys.fired()),
        queues=queues.queue_figures(living),
        dead_letters=queues.dead_letters(),
        prices=PriceTotals(
            symbols=len(feed.symbols),
            fresh=sum(symbol.is_fresh for symbol in feed.symbols),
            ticks=sum(symbol.ticks for symbol in feed.symbols),
            dropped=feed.dropped,
        ),
        closures=ClosureTotals(MINUTES, recent.closed, recent.errors, recent.success_rate_percent, recent.latencies),
        processes=living,
        last_sweep=_last_sweep(),
    )


def open_deals() -> list[DealCount]:
    with connection.cursor() as cursor:
        cursor.execute(statement("open_deals"))
        return [DealCount(*row) for row in cursor.fetchall()]


def _last_sweep() -> LastSweep | None:
    said: Any = connect().hgetall(keys.last_sweep())
    if not said:
        return None
    figures = {name: int(said[name]) for name in LastSweep._fields if name != "at"}
    return LastSweep(at=to_datetime(int(said["at"])), **figures)
