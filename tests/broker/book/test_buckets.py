"""The price buckets: what of the last minute can still be told apart."""

from __future__ import annotations

from typing import Any

from held import NOW
from market import BTC, Market

from workers import keys
from workers.clock import TapeClock
from workers.prices import RedisQuoteBoard
from workers.redis_client import connect


def buckets() -> list[tuple[str, str]]:
    """Low and high of each closed bucket and of the one that is growing, oldest first."""
    client: Any = connect()
    closed = [(fields["low"], fields["high"]) for _id, fields in client.xrange(keys.window(BTC))]
    return [*closed, tuple(client.hmget(keys.price(BTC), ["b_low", "b_high"]))]


def test_prices_of_250_ms_share_a_bucket(market: Market, clock: TapeClock) -> None:
    market.tick("100", "103", "99")
    clock.set(NOW + 249)
    market.tick("104")
    assert buckets() == [("99", "104")]
    clock.set(NOW + 250)
    market.tick("101")
    assert buckets() == [("99", "104"), ("101", "101")]


def test_a_quote_ends_the_bucket_so_that_what_follows_is_told_apart(market: Market, clock: TapeClock) -> None:
    market.tick("100", "120")
    quote = RedisQuoteBoard(clock).quote(BTC)
    RedisQuoteBoard(clock).quote(BTC)
    market.tick("105", "106")
    assert buckets() == [("100", "120"), ("105", "106")]
    client: Any = connect()
    assert int(client.hget(keys.price(BTC), "b_seq")) > quote.seq


def test_buckets_are_kept_for_a_minute(market: Market, clock: TapeClock) -> None:
    for second in range(100):
        clock.set(NOW + 1_000 * second)
        market.tick(str(100 + second))
    lows = [int(low) for low, _high in buckets()]
    assert lows[-1] == 199
    assert lows == list(range(lows[0], 200))
    assert 60 <= len(lows) <= 62
