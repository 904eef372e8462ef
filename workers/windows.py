"""What prices did since the last sweep, from Redis or from a process's memory, and which deals that makes due.

Both sweeps ask the same: the one of the workers (workers/sweep.py) and the one of degraded mode (workers/direct.py).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from operator import attrgetter
from typing import Any, Final, NamedTuple

import structlog
from django.conf import settings

from deals.models import Detector
from deals.money import plain
from deals.queries import Bucket, DueRow, due_rows
from deals.triggers import Direction, Triggers, sweep_price
from workers import keys
from workers.book import Fired
from workers.clock import to_datetime, to_ms
from workers.models import SweepPosition
from workers.prices import Price, is_fresh
from workers.redis_client import connect

log = structlog.get_logger(__name__)

FOUND_LIMIT: Final = 5_000


class Range(NamedTuple):
    """The lowest and the highest price that count for a deal."""

    low: Decimal
    high: Decimal


@dataclass(frozen=True)
class SymbolWindow:
    """What a symbol's prices did since the last sweep: its buckets and its last price.

    `gap_ms` is how long there had been no price before the one numbered `gap_seq`; 0 when none was missing.
    `oldest_seq` and `oldest_ms` are the number and the time of the oldest price that is still known, swept or not.
    """

    symbol: str
    price: str
    at_ms: int
    received_ms: int
    trade_id: int | None
    seq: int
    buckets: list[Bucket]
    oldest_seq: int
    oldest_ms: int
    gap_ms: int = 0
    gap_seq: int = 0

    def reached_for(self, row: DueRow) -> Range | None:
        """The prices that count for a deal, or None: PostgreSQL has looked at the buckets."""
        return Range(row.low, row.high)

    def unseen_since(self, swept: SweepPosition) -> bool:
        """Whether prices between that position and the oldest known one are lost: no sweep ran for longer than the 60 s
        that they are kept. A time without prices is none, nor is what may lie between two of a quiet market's.
        """
        if swept.received_at is None or swept.seq >= self.oldest_seq:
            return False
        silent_ms = self.gap_ms if swept.seq < self.gap_seq <= self.oldest_seq else 0
        return self.oldest_ms - to_ms(swept.received_at) - silent_ms > settings.PRICE_STALE_AFTER_S * 1000

    def is_fresh(self, now_ms: int) -> bool:
        """Whether anything may fire on its last price."""
        return is_fresh(now_ms - min(self.at_ms, self.received_ms))


@dataclass(frozen=True)
class PriceWindow(SymbolWindow):
    """The same from single prices, oldest first, so that exactly those after a deal's own beginning count.

    By number and by time: the numbers of a process that drove the symbol before may be lower than those that another
    one gave to older prices.
    """

    prices: Sequence[Price] = ()
    ranges: Sequence[Range] = ()
    """For each price what it and all after it reached."""

    @classmethod
    def of(cls, prices: Sequence[Price], before: Price | None = None) -> PriceWindow:
        """A window over some prices, at least one. The price before them shows whether they came after a gap."""
        last = prices[-1]
        ranges: list[Range] = []
        low = high = last.value
        for price in reversed(prices):
            low, high = min(low, price.value), max(high, price.value)
            ranges.append(Range(low, high))
        gap_ms, gap_seq = _longest_gap(prices if before is None else (before, *prices))
        oldest = before or prices[0]
        return cls(
            symbol=last.symbol,
            price=last.price,
            at_ms=last.at_ms,
            received_ms=last.received_ms,
            trade_id=last.trade_id,
            seq=last.seq,
            buckets=[Bucket(last.symbol, last.seq, low, high)],
            oldest_seq=oldest.seq,
            oldest_ms=oldest.received_ms,
            gap_ms=gap_ms,
            gap_seq=gap_seq,
            prices=prices,
            ranges=ranges[::-1],
        )

    def reached_for(self, row: DueRow) -> Range | None:
        """What the prices after the deal's own beginning reached; None when there are none."""
        first = bisect_right(self.prices, row.watched_from_seq, key=attrgetter("seq"))
        first = bisect_left(self.prices, to_ms(row.watched_from_at), lo=first, key=attrgetter("at_ms"))
        return self.ranges[first] if first < len(self.ranges) else None


def _longest_gap(prices: Sequence[Price]) -> tuple[int, int]:
    """The longest time without a price that was long enough to make the last one stale, and the number of the price
    that ended it; zeros when there was none.
    """
    gaps = ((after.received_ms - before.received_ms, after.seq) for before, after in pairwise(prices))
    gap_ms, seq = max(gaps, default=(0, 0))
    return (gap_ms, seq) if gap_ms >= settings.PRICE_STALE_AFTER_S * 1000 else (0, 0)


def positions() -> dict[str, int]:
    """Up to which price sequence each symbol was swept."""
    return dict(SweepPosition.objects.values_list("symbol", "seq"))


def advance(windows: Iterable[SymbolWindow]) -> None:
    """Write down that these windows are swept, and which span before them no sweep has seen.

    What crossed in such a span and came back stays open, unless a tick had fired it: nobody knows these prices any
    more. It is never passed over in silence: the log and health name symbol and span.
    """
    before = SweepPosition.objects.in_bulk()
    SweepPosition.objects.bulk_create(
        [_advanced(window, before.get(window.symbol)) for window in windows],
        update_conflicts=True,
        update_fields=["seq", "received_at", "unseen_from", "unseen_until"],
        unique_fields=["symbol"],
    )


def _advanced(window: SymbolWindow, before: SweepPosition | None) -> SweepPosition:
    position = SweepPosition(symbol=window.symbol, seq=window.seq, received_at=to_datetime(window.received_ms))
    if before is None:
        return position
    position.unseen_from, position.unseen_until = before.unseen_from, before.unseen_until
    if window.unseen_since(before):
        position.unseen_from, position.unseen_until = before.received_at, to_datetime(window.oldest_ms)
        log.error(
            "sweep.span_not_seen", symbol=window.symbol, since=str(position.unseen_from),
            until=str(position.unseen_until),
        )  # fmt: skip
    return position


def from_redis(symbols: Iterable[str], swept: Mapping[str, int]) -> list[SymbolWindow]:
    """The buckets of each symbol that reach beyond its position, oldest first, and its last price.

    Raises redis.RedisError.
    """
    since = {symbol: swept.get(symbol, 0) for symbol in symbols}
    with connect().pipeline(transaction=True) as pipe:
        for symbol, position in since.items():
            pipe.hgetall(keys.price(symbol))
            pipe.xrange(keys.window(symbol), count=1)
            # From the bucket that holds the position on: it may have grown. What was seen of it before is found again
            # only if Redis has lost it since: what was settled is not watched, and what has fired stays.
            pipe.xrevrange(keys.window(symbol), max=f"{position}-0", count=1)
            pipe.xrange(keys.window(symbol), min=f"({position}-0")
        answers = pipe.execute()
    windows = []
    for number, (symbol, position) in enumerate(since.items()):
        price, oldest, held, after = answers[4 * number : 4 * number + 4]
        if "price" in price and int(price["seq"]) > position:
            windows.append(_window(symbol, price, oldest, held + after, position))
    return windows


def _window(
    symbol: str, price: dict[str, str], oldest: Sequence[Any], closed: Sequence[Any], position: int
) -> SymbolWindow:
    """From the price, the oldest closed bucket that is kept, and those that reach beyond the position."""
    open_seq = int(price["b_seq"])
    buckets = [Bucket(symbol, _seq(entry), Decimal(entry[1]["low"]), Decimal(entry[1]["high"])) for entry in closed]
    if open_seq <= position:
        buckets.clear()  # nothing that is closed reaches so far
    buckets.append(Bucket(symbol, open_seq, Decimal(price["b_low"]), Decimal(price["b_high"])))
    gap_seq = int(price.get("gap_seq", 0))
    return SymbolWindow(
        symbol=symbol,
        price=price["price"],
        at_ms=int(price["at"]),
        received_ms=int(price["received"]),
        trade_id=int(price["trade_id"]) if price["trade_id"] else None,
        seq=int(price["seq"]),
        buckets=buckets,
        oldest_seq=_seq(oldest[0]) if oldest else open_seq,
        oldest_ms=int(oldest[0][1]["at"]) if oldest else int(price["b_at"]),
        gap_ms=int(price["gap"]) if gap_seq > position else 0,
        gap_seq=gap_seq,
    )


def _seq(entry: Any) -> int:
    """The number of a closed bucket's first price: its id in the stream."""
    return int(entry[0].split("-")[0])


def from_prices(prices: Mapping[str, Sequence[Price]], swept: Mapping[str, int]) -> list[SymbolWindow]:
    """The same from a process's own prices, oldest first by symbol."""
    windows: list[SymbolWindow] = []
    for symbol, seen in prices.items():
        first = bisect_right(seen, swept.get(symbol, 0), key=attrgetter("seq"))
        if first < len(seen):
            windows.append(PriceWindow.of(seen[first:], seen[first - 1] if first else None))
    return windows


class Found(NamedTuple):
    """A deal that a window reached, as PostgreSQL says it and as it fires."""

    row: DueRow
    fired: Fired


def due_pages(windows: Sequence[SymbolWindow], now_ms: int, but: Sequence[str] = ()) -> Iterator[list[Found]]:
    """The watched deals that the windows reached, in key order, at most 5,000 at a time, without those of `but`
    (`id|version`).
    """
    by_symbol = {window.symbol: window for window in windows}
    buckets = [bucket for window in windows for bucket in window.buckets]
    after, more = 0, bool(buckets)
    while more:
        due = due_rows(buckets, limit=FOUND_LIMIT, after=after, but=but)
        fired = ((row, _as_fired(row, by_symbol[row.symbol], now_ms)) for row in due)
        yield [Found(row, item) for row, item in fired if item is not None]
        more = len(due) == FOUND_LIMIT
        after = due[-1].id if due else after


def _as_fired(row: DueRow, window: SymbolWindow, now_ms: int) -> Fired | None:
    """The deal with the price at which it closes: the last one if it lies beyond a trigger, else the trigger itself."""
    last = Decimal(window.price)
    reached = window.reached_for(row)
    direction: Direction = row.direction  # type: ignore[assignment]  # checked by the database
    triggers = Triggers(row.upper_trigger, row.lower_trigger)
    price = None if reached is None else sweep_price(triggers, reached.low, reached.high, last, direction)
    if price is None:
        return None
    return Fired(
        deal_id=row.id,
        version=row.watch_version,
        symbol=row.symbol,
        price=window.price if price == last else plain(price),
        trade_id=window.trade_id if price == last else None,
        at_ms=window.at_ms,
        received_ms=window.received_ms,
        fired_ms=now_ms,
        detector=Detector.SWEEP.value,
        gap_ms=window.gap_ms if row.watched_from_seq < window.gap_seq else 0,
    )
