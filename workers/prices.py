"""Prices: which ticks count (PriceBoard, in one process's memory) and what the current quotes are (from Redis)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec
from django.conf import settings
from redis.exceptions import RedisError

from deals.errors import DealError, Unavailable
from deals.money import NotADecimal, parse_price
from deals.quotes import Quote
from workers import keys
from workers.clock import WALL_CLOCK, Clock, to_datetime
from workers.redis_client import READ_QUOTE, connect
from workers.sources.base import Tick

FUTURE_LIMIT_MS: Final = 2_000
SEQ_BITS: Final = 30
"""A price sequence is token << 30 | n: it rises for ever, also when Redis is lost, and stays an exact double."""


class Price(msgspec.Struct, frozen=True, gc=False):
    """An accepted tick. `price` is the text as received; `value` the same as a number.

    The process remembers hundreds of thousands of them (workers/memory.py). They hold nothing that could lead back to
    them, and the garbage collector need not look: going through them it kept ticks waiting for a second.
    """

    symbol: str
    price: str
    value: Decimal
    at_ms: int
    trade_id: int | None
    seq: int
    received_ms: int


def token_of(seq: int) -> int:
    """The fencing token that a price sequence carries."""
    return seq >> SEQ_BITS


def is_fresh(age_ms: int) -> bool:
    """Whether a price of that age may be traded at. One from the future (> 2 s) may not: a clock has jumped."""
    return -FUTURE_LIMIT_MS < age_ms < settings.PRICE_STALE_AFTER_S * 1000


class PriceBoard:
    """Judges ticks in order and keeps the last good price of each symbol. Does no I/O and is not thread-safe.

    Drops and counts: unknown symbols, prices that are no plain positive decimals within the limits, ticks
    older than the last one (equal times are fine), repeated trade ids, ticks from the future (> 2 s) and ticks
    that are stale already.
    """

    def __init__(self, symbols: Iterable[str], *, token: int, clock: Clock = WALL_CLOCK) -> None:
        self.symbols = frozenset(symbols)
        self.last: dict[str, Price] = {}
        self.dropped: Counter[str] = Counter()
        self.accepted = 0
        self._clock = clock
        self._stale_ms = settings.PRICE_STALE_AFTER_S * 1000
        self._token = token
        self._count = 0

    def accept(self, tick: Tick) -> Price | None:
        """The tick as a numbered price, or None when it was dropped."""
        received_ms = self._clock.now_ms()
        try:
            value = parse_price(tick.price)
        except NotADecimal:
            self.dropped["bad_price"] += 1
            return None
        refusal = self._refusal(tick, received_ms)
        if refusal is not None:
            self.dropped[refusal] += 1
            return None
        price = Price(
            symbol=tick.symbol,
            price=tick.price,
            value=value,
            at_ms=tick.at_ms,
            trade_id=tick.trade_id,
            seq=self._next_seq(),
            received_ms=received_ms,
        )
        self.last[tick.symbol] = price
        self.accepted += 1
        return price

    def renumber(self, price: Price) -> Price:
        """The same price with the next number."""
        return msgspec.structs.replace(price, seq=self._next_seq())

    def restart(self, token: int) -> None:
        """Number afresh under a new fencing token, and forget the order of what was seen before."""
        self._token = token
        self._count = 0
        self.last.clear()

    @property
    def numbers_left(self) -> int:
        """How many prices may still be numbered under this token."""
        return (1 << SEQ_BITS) - 1 - self._count

    def _next_seq(self) -> int:
        self._count += 1
        return self._token << SEQ_BITS | self._count

    def _refusal(self, tick: Tick, received_ms: int) -> str | None:
        """Why a tick does not count, or None."""
        last = self.last.get(tick.symbol)
        if tick.symbol not in self.symbols:
            return "unknown_symbol"
        if tick.at_ms > received_ms + FUTURE_LIMIT_MS:
            return "future"
        if tick.at_ms <= received_ms - self._stale_ms:
            return "stale"
        if last is not None and tick.at_ms < last.at_ms:
            return "out_of_order"
        if last is not None and _repeats(tick.trade_id, last.trade_id):
            return "repeated"
        return None


def _repeats(trade_id: int | None, last_id: int | None) -> bool:
    return trade_id is not None and last_id is not None and trade_id <= last_id


class LastQuote(NamedTuple):
    """A quote and its age by exchange time and by receipt, whichever is older, in ms."""

    quote: Quote
    age_ms: int


class RedisQuoteBoard:
    """The current quotes as the prices process wrote them: what `deals` reads through its QuoteBoard protocol."""

    def __init__(self, clock: Clock = WALL_CLOCK) -> None:
        self._clock = clock

    def quote(self, symbol: str) -> Quote:
        """The price to trade at; ends the symbol's bucket there. Raises as QuoteBoard says, also when Redis is away."""
        last = self.last(symbol)
        if not is_fresh(last.age_ms):
            age_s = last.age_ms / 1000
            raise Unavailable("stale_price", f"The last price of {symbol} is {age_s:.0f} s old.", field="symbol")
        return last.quote

    def last(self, symbol: str) -> LastQuote:
        """The last price, however old; ends the symbol's bucket there. Raises as `quote` does, but for staleness."""
        if symbol not in settings.SYMBOLS:
            raise DealError("unknown_symbol", f"There is no symbol {symbol}.", field="symbol")
        try:
            fields = READ_QUOTE.run(connect(), [keys.price(symbol)], [])
        except RedisError as error:
            raise Unavailable("no_price", "Prices cannot be read at the moment; try again.", field="symbol") from error
        if not fields:
            raise Unavailable("no_price", f"There is no price of {symbol} yet; try again.", field="symbol")
        price, at_ms, seq, received_ms = fields
        age_ms = self._clock.now_ms() - min(int(at_ms), int(received_ms))
        return LastQuote(Quote(symbol, Decimal(price), int(seq), to_datetime(int(at_ms))), age_ms)

    def quotes(self) -> Sequence[Quote]:
        """All current prices of the known symbols, stale ones included. Raises Unavailable when Redis is away."""
        try:
            with connect().pipeline(transaction=False) as pipe:
                for symbol in settings.SYMBOLS:
                    pipe.hmget(keys.price(symbol), ["price", "seq", "at"])
                rows = pipe.execute()
        except RedisError as error:
            raise Unavailable("no_price", "Prices cannot be read at the moment; try again.") from error
        return [
            Quote(symbol, Decimal(price), int(seq), to_datetime(int(at)))
            for symbol, (price, seq, at) in zip(settings.SYMBOLS, rows, strict=True)
            if price is not None
        ]
