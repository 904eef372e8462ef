"""What the charts of prices show: candles and triggers as Redis holds them, closures as PostgreSQL does.

Raises redis.RedisError when it is away. Nothing here is exact to the tick: candles are for looking at.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import pairwise
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.db import connection
from django.utils import timezone

from deals.errors import NotFound
from deals.models import Deal
from monitoring.jobs import found_deal
from monitoring.prices import LAST_PRICE, LastPrice, last_price
from monitoring.sql import statement
from workers import book, candles, keys
from workers.candles import COARSE_MS, FINE_MS, Candle
from workers.clock import WALL_CLOCK, to_datetime, to_ms
from workers.redis_client import connect

STEPS_MS: Final = {15: FINE_MS, 60: FINE_MS, 240: COARSE_MS, 1440: 5 * COARSE_MS}
"""How long a candle is in a chart of so many minutes: 60 to 288 candles."""
HISTORY_MS: Final = 15 * COARSE_MS
MOST_CLOSURES: Final = 200
MOST_CANDLES: Final = 300
MOST_BINS: Final = 60
NEAR: Final = Decimal("0.01")
"""Triggers are shown at least so far from the price, as a share of it."""
KEPT: Final = timedelta(days=1)
AROUND_DEAL: Final = timedelta(minutes=5)


class History(NamedTuple):
    """Closing prices of every symbol that had any: [ms since 1970, price]."""

    from_at: datetime
    to_at: datetime
    step_s: int
    symbols: dict[str, list[tuple[int, str]]]


class Bin(NamedTuple):
    """A step of the price axis, by its middle, and how many deals have a trigger in it."""

    price: Decimal
    deals: int


class NearTriggers(NamedTuple):
    """The steps near the price that hold triggers; `step` is how wide one is, None without a price."""

    step: Decimal | None
    upper: list[Bin]
    lower: list[Bin]


class ClosureMark(NamedTuple):
    """A closed deal in a chart."""

    deal_id: int
    at: datetime
    price: Decimal
    reason: str
    profit: Decimal


class SymbolChart(NamedTuple):
    """A symbol over some minutes. Without a price yet, price and age are None."""

    symbol: str
    price: Decimal | None
    age_ms: int | None
    from_at: datetime
    to_at: datetime
    step_s: int
    candles: list[Candle]
    triggers: NearTriggers
    closures: list[ClosureMark]


class DealChart(NamedTuple):
    """A deal's life and a little around it, as far as candles reach."""

    deal: Deal
    price: Decimal | None
    from_at: datetime
    to_at: datetime
    step_s: int
    candles: list[Candle]


def history() -> History:
    """The last quarter of an hour, for the sparklines."""
    to_ms = WALL_CLOCK.now_ms()
    from_ms = to_ms - HISTORY_MS
    found = candles.closes(from_ms, to_ms)
    known = {symbol: found[symbol] for symbol in settings.SYMBOLS if symbol in found}
    return History(to_datetime(from_ms), to_datetime(to_ms), FINE_MS // 1000, known)


def symbol_chart(symbol: str, minutes: int) -> SymbolChart:
    """One symbol over 15, 60, 240 or 1440 minutes. Raises NotFound."""
    if symbol not in settings.SYMBOLS:
        raise NotFound(f"There is no symbol {symbol}.")
    now_ms = WALL_CLOCK.now_ms()
    from_ms, step_ms = now_ms - minutes * COARSE_MS, STEPS_MS[minutes]
    last = _last(symbol, now_ms)
    price = None if last is None else last.price
    shown = _candles(symbol, from_ms, now_ms, step_ms)
    return SymbolChart(
        symbol=symbol,
        price=price,
        age_ms=None if last is None else last.age_ms,
        from_at=to_datetime(from_ms),
        to_at=to_datetime(now_ms),
        step_s=step_ms // 1000,
        candles=shown,
        triggers=_near_triggers(symbol, price, shown),
        closures=_closures(symbol, to_datetime(from_ms)),
    )


def deal_chart(deal_id: int) -> DealChart:
    """From shortly before a deal was opened until shortly after it was closed. Raises NotFound."""
    deal = found_deal(deal_id)
    now = timezone.now()
    end = min(now, (deal.closed_at or now) + AROUND_DEAL)
    begin = min(max(deal.opened_at - AROUND_DEAL, now - KEPT), end)
    step_ms = _step_for(begin, end, now)
    last = _last(deal.symbol, to_ms(now))
    return DealChart(
        deal=deal,
        price=None if last is None else last.price,
        from_at=begin,
        to_at=end,
        step_s=step_ms // 1000,
        candles=_candles(deal.symbol, to_ms(begin), to_ms(end), step_ms),
    )


def _step_for(begin: datetime, end: datetime, now: datetime) -> int:
    """The shortest step that is kept for so long and gives no more candles than can be seen, ms."""
    if now - begin <= timedelta(hours=1):
        return FINE_MS
    minutes = -(-(end - begin) // timedelta(minutes=MOST_CANDLES))
    return max(1, minutes) * COARSE_MS


def _candles(symbol: str, from_ms: int, until_ms: int, step_ms: int) -> list[Candle]:
    """From the step that `from` lies in, in steps of which some are put together from minutes."""
    kept_ms = FINE_MS if step_ms < COARSE_MS else COARSE_MS
    found = candles.read(symbol, from_ms - from_ms % step_ms, until_ms, step_ms=kept_ms)
    return list(candles.coarser(found, step_ms))


def _last(symbol: str, now_ms: int) -> LastPrice | None:
    client: Any = connect()
    return last_price(client.hmget(keys.price(symbol), LAST_PRICE), now_ms)


def _near_triggers(symbol: str, price: Decimal | None, shown: Iterable[Candle]) -> NearTriggers:
    """As far to both sides of the price as the chart reaches to one of them, and at least 1 %."""
    if price is None:
        return NearTriggers(None, [], [])
    reach = max([price * NEAR, *(max(candle.high - price, price - candle.low) for candle in shown)])
    edges = price_edges(max(Decimal(0), price - reach), price + reach)
    counts = book.density(symbol, edges)
    step = edges[1] - edges[0]
    return NearTriggers(step, _bins(edges, counts.upper), _bins(edges, counts.lower))


def price_edges(low: Decimal, high: Decimal) -> list[Decimal]:
    """The edges of at most 60 steps that cover [low, high], at whole multiples of 1, 2 or 5 × 10ⁿ, so that they stay
    where they are while the price moves. Pure."""
    least = (high - low) / (MOST_BINS - 1)  # the ends are rounded outwards: that may add one
    unit = Decimal(1).scaleb(least.adjusted())
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= least)
    first = (low / step).to_integral_value(ROUND_FLOOR)
    last = (high / step).to_integral_value(ROUND_CEILING)
    return [(first + number) * step for number in range(int(last - first) + 1)]


def _bins(edges: list[Decimal], counts: list[int]) -> list[Bin]:
    return [Bin((low + high) / 2, count) for (low, high), count in zip(pairwise(edges), counts, strict=True) if count]


def _closures(symbol: str, since: datetime) -> list[ClosureMark]:
    with connection.cursor() as cursor:
        cursor.execute(statement("symbol_closures"), {"symbol": symbol, "since": since, "most": MOST_CLOSURES})
        return [ClosureMark(*row) for row in cursor.fetchall()]
