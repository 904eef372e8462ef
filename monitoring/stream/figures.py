"""What the stream says of the present: health with the figures of a live page, and prices. Kept nowhere else."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any, Final, NamedTuple

import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from redis.asyncio import Redis
from rest_framework import serializers

from deals.money import plain
from monitoring import closures, health, stats
from monitoring.api import serializers as wire
from monitoring.stream.wire import as_the_api, compact
from workers import keys
from workers.clock import WALL_CLOCK, to_datetime

log = structlog.get_logger(__name__)

FIGURES_EVERY_S: Final = 10.0
FIGURES_SHARE: Final = 20
"""Figures that took a second are read again after twenty at the earliest."""

FIGURES_LIMIT_MS: Final = 1_000
CLOSURES_MINUTES: Final = 1
LATENCY_MINUTES: Final = 5


class Look(NamedTuple):
    """Health as it was found. `verdict` is what makes it another one; `health` and `state` are JSON."""

    verdict: tuple[Any, ...]
    health: str
    state: str
    figures: str
    at_s: float


class HealthWatch:
    """Looks at health, and every 10 s or more at the figures. Blocks: for one thread at a time."""

    def __init__(self) -> None:
        self.figures = "null"
        self._figures_due_s = 0.0

    def look(self) -> Look:
        """Look now: within a second or two, whoever is away, and a second for each of the figures that are due."""
        report = health.report()
        if report.facts.database is None:
            self.figures = "null"
        elif time.monotonic() >= self._figures_due_s:
            self._read_figures()
        said = as_the_api(wire.HealthSerializer(report).data)
        since = None if report.state_since is None else report.state_since.isoformat()
        return Look(
            verdict=(
                report.state,
                *((check.name, check.is_healthy) for component in report.components for check in component.checks),
            ),
            health=f'{said[:-1]},"figures":{self.figures}}}',
            state=compact({"state": report.state, "since": since, "reason": report.state_reason}),
            figures=self.figures,
            at_s=time.monotonic(),
        )

    def _read_figures(self) -> None:
        began = time.monotonic()
        try:
            self.figures = _figures()
        except (OperationalError, InterfaceError) as error:
            self.figures = "null"
            log.warning("stream.no_figures", error=str(error))
        finally:
            connection.close()  # this thread's: no connection is kept for a stream
        took = time.monotonic() - began
        self._figures_due_s = time.monotonic() + max(FIGURES_EVERY_S, FIGURES_SHARE * took)


def _figures() -> str:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {FIGURES_LIMIT_MS}")  # health waits for them
        return _read_now()


def _read_now() -> str:
    figures = {
        "at": to_datetime(WALL_CLOCK.now_ms()),
        "open_deals": stats.open_deals(),
        "closed_last_minute": closures.counts(CLOSURES_MINUTES),
        "latencies": closures.latencies(LATENCY_MINUTES),
    }
    return as_the_api(FiguresSerializer(figures).data)


class FiguresSerializer(serializers.Serializer[Any]):
    """The figures beside health."""

    at = serializers.DateTimeField(help_text="When they were read.")
    open_deals = wire.DealCountSerializer(many=True, help_text="Open deals by monitoring state.")
    closed_last_minute = wire.ClosureCountSerializer(many=True, help_text="By reason and detector.")
    latencies = wire.LatenciesSerializer(help_text="Of the last 5 minutes.")


class PriceWatch:
    """Finds out which prices have changed since it was last asked, and once a second what the trigger book holds."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {symbol: {"symbol": symbol} for symbol in settings.SYMBOLS}
        self._asked = 0

    async def changes(self, redis: Redis, *, book_every: int) -> str | None:
        """JSON of what has changed, or None. The book is read every so many calls. Raises redis.RedisError."""
        found = await _read(redis, with_book=self._asked % book_every == 0)
        self._asked += 1
        changed = []
        for symbol, fields in found.items():
            known = self._rows[symbol]
            news = {name: value for name, value in fields.items() if name not in known or known[name] != value}
            if news:
                known.update(news)
                changed.append({"symbol": symbol, **news})
        return _as_prices(changed) if changed else None

    @property
    def are_known(self) -> bool:
        """Whether Redis has answered once."""
        return self._asked > 0

    @property
    def whole(self) -> str:
        """JSON of everything that is known."""
        return _as_prices(list(self._rows.values()))


def _as_prices(rows: list[dict[str, Any]]) -> str:
    return compact({"staleAfterMs": settings.PRICE_STALE_AFTER_S * 1000, "symbols": rows})


async def _read(redis: Redis, *, with_book: bool) -> dict[str, dict[str, Any]]:
    pipe: Any = redis.pipeline(transaction=False)
    for symbol in settings.SYMBOLS:
        pipe.hmget(keys.price(symbol), ["price", "at", "received"])
        if with_book:
            pipe.hlen(keys.versions(symbol))
            pipe.zrange(keys.upper(symbol), 0, 0, withscores=True)
            pipe.zrange(keys.lower(symbol), 0, 0, desc=True, withscores=True)
    answers = await pipe.execute()
    width = 4 if with_book else 1
    rows = {}
    for number, symbol in enumerate(settings.SYMBOLS):
        (price, at, received), *book = answers[width * number : width * (number + 1)]
        row: dict[str, Any] = {"price": price, "at": _time(at), "receivedAt": _time(received)}
        if book:
            armed, upper, lower = book
            row |= {"armed": armed, "nearestUpper": _nearest(upper), "nearestLower": _nearest(lower)}
        rows[symbol] = row
    return rows


def _time(at_ms: str | None) -> str | None:
    return None if at_ms is None else to_datetime(int(at_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _nearest(found: list[Any]) -> dict[str, Any] | None:
    if not found:
        return None
    [(deal_id, score)] = found
    return {"dealId": int(deal_id), "price": plain(Decimal(repr(score)))}
