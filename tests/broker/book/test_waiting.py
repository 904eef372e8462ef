"""How long a price waits for others before it goes through the book: not at all when it reaches a trigger."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from market import BTC, ETH, Market, row, say_state

from workers import book, book_writer, keys
from workers.cancellation import end
from workers.clock import TapeClock
from workers.redis_client import connect


def reaches(market: Market, price: str, symbol: str = BTC) -> bool:
    [accepted] = market.accepted(price, symbol=symbol)
    return market.engine.writer.reaches_trigger(accepted)


def test_a_price_reaches_the_triggers_that_wait_on_either_side(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110", "90"), row(2, "120", "80"), row(3, "60", symbol=ETH)], clock=clock)
    market.tick("100")
    assert [reaches(market, price) for price in ("109.99", "110", "111", "90.01", "90", "1")] == [
        False, True, True, False, True, True,
    ]  # fmt: skip
    assert not reaches(market, "70", ETH), "of a symbol that no call has named nothing is known"
    market.tick("111")
    assert [reaches(market, price) for price in ("119.99", "120", "80.01", "80")] == [False, True, False, True]
    market.tick("121")
    assert not reaches(market, "1000000")
    assert not reaches(market, "0.000001")


def test_where_nothing_may_fire_no_price_is_in_a_hurry(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110")], clock=clock)
    market.tick("100")
    assert reaches(market, "111")
    say_state("stopped", version=2)
    market.tick("100")
    assert not reaches(market, "111")


def test_a_price_that_reaches_a_trigger_takes_those_before_it_along_at_once(
    market: Market, clock: TapeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait, here for a minute: it does not."""
    monkeypatch.setattr(book_writer, "FLUSH_EVERY_S", 60.0)
    book.arm([row(1, "110")], clock=clock)
    redis: Any = connect()
    stored: list[str] = []

    async def give_and_look() -> None:
        writing = asyncio.create_task(market.engine.writer.run())
        try:
            for price in ("100", "101", "109.99", "111", "112"):
                market.enqueue(price)
                await asyncio.sleep(0.2)
                stored.append(redis.hget(keys.price(BTC), "price"))
        finally:
            await end(writing)

    market.run(give_and_look())
    assert stored == ["100", "100", "100", "111", "111"]
    assert [(item.deal_id, item.price) for item in market.flush()] == [(1, "111")]
    assert redis.hget(keys.price(BTC), "price") == "112"
