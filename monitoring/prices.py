"""The feed and every symbol's price, as Redis holds them. Raises redis.RedisError when it is away."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from django.conf import settings

from monitoring.processes import Process, processes
from workers import keys
from workers.clock import WALL_CLOCK, to_datetime
from workers.redis_client import connect

LAST_PRICE: Final = ("price", "at", "received")
"""The fields of a symbol's price that `last_price` reads."""


class LastPrice(NamedTuple):
    """The symbol's last price."""

    price: Decimal
    at: datetime
    age_ms: int
    is_fresh: bool


class NearTrigger(NamedTuple):
    """The trigger of the book that the price reaches first on its side; the distance is never negative."""

    deal_id: int
    price: Decimal
    distance_percent: Decimal | None


class SymbolPrice(NamedTuple):
    """A symbol. What depends on a price is None before the first one."""

    symbol: str
    price: Decimal | None
    at: datetime | None
    received_at: datetime | None
    age_ms: int | None
    is_fresh: bool
    ticks: int
    armed: int
    nearest_upper: NearTrigger | None
    nearest_lower: NearTrigger | None


class Dropped(NamedTuple):
    """How many ticks were dropped for a reason since Redis began."""

    reason: str
    ticks: int


class Prices(NamedTuple):
    """The feed as a whole."""

    is_fresh: bool
    stale_after_ms: int
    processes: list[Process]
    dropped: list[Dropped]
    symbols: list[SymbolPrice]


def prices() -> Prices:
    """Every symbol, read now."""
    client: Any = connect()
    with client.pipeline(transaction=False) as pipe:
        for symbol in settings.SYMBOLS:
            pipe.hmget(keys.price(symbol), [*LAST_PRICE, "ticks"])
            pipe.hlen(keys.versions(symbol))
            pipe.zrange(keys.upper(symbol), 0, 0, withscores=True)
            pipe.zrange(keys.lower(symbol), 0, 0, desc=True, withscores=True)
        pipe.hgetall(keys.dropped_ticks())
        *answers, dropped = pipe.execute()
    now_ms = WALL_CLOCK.now_ms()
    symbols = [
        _symbol(symbol, now_ms, answers[4 * place : 4 * place + 4]) for place, symbol in enumerate(settings.SYMBOLS)
    ]
    return Prices(
        is_fresh=all(symbol.is_fresh for symbol in symbols),
        stale_after_ms=settings.PRICE_STALE_AFTER_S * 1000,
        processes=[process for process in processes() if process.role == "prices"],
        dropped=[Dropped(reason, int(ticks)) for reason, ticks in sorted(dropped.items())],
        symbols=symbols,
    )


def last_price(fields: Sequence[Any], now_ms: int) -> LastPrice | None:
    """A symbol's `price`, `at` and `received` as Redis holds them, or None when there is no price. Pure."""
    text, at, received = fields
    if text is None:
        return None
    age_ms = now_ms - min(int(at), int(received))
    fresh = age_ms < settings.PRICE_STALE_AFTER_S * 1000
    return LastPrice(Decimal(text), to_datetime(int(at)), max(0, age_ms), fresh)


def _symbol(symbol: str, now_ms: int, answers: list[Any]) -> SymbolPrice:
    (*fields, ticks), armed, upper, lower = answers
    last = last_price(fields, now_ms)
    price = None if last is None else last.price
    return SymbolPrice(
        symbol=symbol,
        price=price,
        at=None if last is None else last.at,
        received_at=None if last is None else to_datetime(int(fields[2])),
        age_ms=None if last is None else last.age_ms,
        is_fresh=last is not None and last.is_fresh,
        ticks=int(ticks or 0),
        armed=armed,
        nearest_upper=_near(upper, price),
        nearest_lower=_near(lower, price),
    )


def _near(found: list[Any], price: Decimal | None) -> NearTrigger | None:
    if not found:
        return None
    [(deal_id, score)] = found
    trigger = Decimal(repr(score))  # at most 15 digits: the double's shortest text is the price itself
    return NearTrigger(int(deal_id), trigger, None if price is None else distance_percent(trigger, price))


def distance_percent(trigger: Decimal, price: Decimal) -> Decimal:
    """How far a trigger lies from the price, in percent of the price, to four places."""
    return (abs(trigger - price) / price * 100).quantize(Decimal("0.0001"))
