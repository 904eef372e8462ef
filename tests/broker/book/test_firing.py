"""The trigger book's scripts on the real server: what a tick fires, and who may write."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
import redis
from held import NOW, waits
from market import BTC, ETH, NOT_IN_BOOK, Market, in_book, row, say_state

from workers import book, keys
from workers.book_writer import FLUSH_LIMIT
from workers.clock import TapeClock
from workers.redis_client import CACHE_STATE, connect
from workers.sources.base import Tick


@pytest.mark.parametrize(
    ("price", "fires"),
    [
        ("109.99999999", False),
        ("110", True),
        ("110.00000001", True),
        ("90", True),
        ("90.0000000001", False),
        ("1", True),
    ],
)
def test_a_price_fires_at_or_beyond_a_trigger(market: Market, clock: TapeClock, price: str, fires: bool) -> None:
    book.arm([row(1, "110.00", "90.0")], clock=clock)
    assert bool(market.tick(price)) is fires
    assert bool(book.all_fired()) is fires
    assert (in_book(1) == NOT_IN_BOOK) is fires


def test_neighbouring_prices_of_fifteen_digits_are_told_apart(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "99999.1234567891"), row(2, "0.000123456789")], clock=clock)
    assert [item.deal_id for item in market.tick("99999.1234567890")] == [2]
    assert [item.deal_id for item in market.tick("99999.1234567891")] == [1]


def test_what_fired_holds_version_price_text_trade_and_times(market: Market, clock: TapeClock) -> None:
    book.arm([row(7, "110", watch_version=3)], clock=clock)
    clock.set(NOW + 500)
    [fired] = market.tick("110.500", at_ms=NOW + 450, trade_id=99)
    assert fired.entry == f"3|{BTC}|110.500|99|{NOW + 450}|{NOW + 500}|{NOW + 500}|tick"
    assert book.all_fired() == {7: fired}
    assert waits() == {"7"}


def test_what_has_fired_keeps_its_price_when_an_older_book_holds_it_again(market: Market, clock: TapeClock) -> None:
    """As after a restart of Redis with older data: `fired` is put back before the book is rebuilt."""
    book.arm([row(1, "110"), row(2, "110")], clock=clock)
    [first, _] = market.tick("111")
    connect().hdel(keys.fired(), "1", "2")
    again = {"watched_from_seq": market.seq()}
    book.arm([row(1, "110", **again), row(2, "110", watch_version=2, **again)], clock=clock)
    connect().hset(keys.fired(), "1", first.entry)
    connect().hset(keys.fired(), "2", first.entry)
    clock.set(NOW + 60_000)
    assert [(item.deal_id, item.version, item.price) for item in market.tick("115")] == [(2, 2, "115")]
    assert book.all_fired()[1] == first
    assert in_book(1) == in_book(2) == NOT_IN_BOOK


def test_arming_what_has_fired_takes_it_out_of_an_older_book(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110")], clock=clock)
    [first] = market.tick("111")
    connect().hdel(keys.fired(), "1")
    market.tick("100")
    book.arm([row(1, "110", watched_from_seq=market.seq())], clock=clock)
    assert in_book(1) == (110.0, None, "1")
    connect().hset(keys.fired(), "1", first.entry)
    assert [held.id for held in book.arm([row(1, "110")], clock=clock).held] == [1]
    assert book.all_fired() == {1: first}
    assert in_book(1) == NOT_IN_BOOK


def test_another_symbols_deals_are_left_alone(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110"), row(2, "110", symbol=ETH)], clock=clock)
    assert [item.deal_id for item in market.tick("500")] == [1]
    assert in_book(2, ETH) == (110.0, None, "1")


def test_the_first_tick_that_crosses_gives_the_price_when_many_come_at_once(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110"), row(2, None, "95"), row(3, "130")], clock=clock)
    fired = market.tick("100", "111", "125", "94", "80", "131", trade_id=50)
    assert [(item.deal_id, item.price, item.trade_id) for item in fired] == [
        (1, "111", 51),
        (2, "94", 53),
        (3, "131", 55),
    ]


def test_twenty_thousand_deals_fire_by_one_tick_and_each_only_once(market: Market, clock: TapeClock) -> None:
    book.arm([row(n, "110", "90") for n in range(1, 20_001)], clock=clock)
    began = time.monotonic()
    fired = market.tick("110")
    took_s = time.monotonic() - began
    assert len({item.deal_id for item in fired}) == len(fired) == 20_000
    client: Any = connect()
    assert (client.hlen(keys.fired()), client.zcard(keys.fired_at())) == (20_000, 20_000)
    left = [client.zcard(keys.upper(BTC)), client.zcard(keys.lower(BTC)), client.hlen(keys.versions(BTC))]
    assert left == [0, 0, 0]
    assert market.tick("110", "80") == []
    assert took_s < 5


@pytest.mark.parametrize("state", ["stopped", "draining", "halted", None])
def test_nothing_fires_while_the_system_does_not_run_but_prices_are_kept(
    market: Market, clock: TapeClock, state: str | None
) -> None:
    book.arm([row(1, "110")], clock=clock)
    client: Any = connect()
    if state is None:
        client.delete(keys.state())
    else:
        say_state(state, version=2)
    assert market.tick("120") == []
    assert book.all_fired() == {}
    assert in_book(1) == (110.0, None, "1")
    assert client.hget(keys.price(BTC), "price") == "120"
    say_state("running", version=3)
    assert [item.price for item in market.tick("121")] == ["121"]


def test_an_older_system_state_does_not_replace_a_newer_one(market: Market, clock: TapeClock) -> None:
    say_state("halted", version=5)
    assert CACHE_STATE.run(connect(), [keys.state()], [4, "running"]) == 0
    book.arm([row(1, "110")], clock=clock)
    assert market.tick("120") == []


def test_the_same_call_sent_twice_does_nothing_the_second_time(market: Market, clock: TapeClock) -> None:
    prices = [market.engine.board.accept(tick) for tick in _ticks("100", "111", "105")]
    book.arm([row(1, "110")], clock=clock)
    market.run(market.engine.writer.process(prices))
    assert [item.price for item in market.flush()] == ["111"]
    client: Any = connect()
    before = (client.hgetall(keys.price(BTC)), client.xrange(keys.window(BTC)))
    book.clear_fired([(1, 1)])
    book.arm([row(1, "104", watch_version=2, watched_from_seq=market.seq())], clock=clock)
    market.run(market.engine.writer.process(prices))
    assert market.flush() == []
    after = client.hgetall(keys.price(BTC))
    assert {**after, "cut": ""} == {**before[0], "cut": ""}
    assert client.xrange(keys.window(BTC)) == before[1]
    assert book.all_fired() == {}


def _ticks(*prices: str) -> list[Any]:
    from workers.sources.base import Tick

    return [Tick(BTC, price, NOW, None) for price in prices]


def test_a_price_is_published_for_others_with_its_text(market: Market, redis_client: redis.Redis) -> None:
    with redis_client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("price_update:BTCUSDT")
        pubsub.get_message(timeout=1)
        market.tick("100.10")
        message = pubsub.get_message(timeout=1) or pubsub.get_message(timeout=1)
    assert message is not None
    assert json.loads(message["data"]) == {"symbol": BTC, "price": "100.10", "timestamp": NOW}


# --- who may write ----------------------------------------------------------------------------------------------


def test_a_symbol_that_another_process_drives_is_refused(market: Market, clock: TapeClock) -> None:
    other = Market(clock=clock, token=2)
    assert other.engine.held == set()
    other.engine.held.add(BTC)  # it believes so, wrongly
    book.arm([row(1, "110")], clock=clock)
    assert other.tick("120") == []
    assert other.engine.held == set()
    assert book.all_fired() == {}
    other.close()
    assert [item.price for item in market.tick("121")] == ["121"]


def test_a_process_that_slept_through_its_lease_is_fenced_off_for_good(market: Market, clock: TapeClock) -> None:
    client: Any = connect()
    market.tick("100")
    client.delete(keys.lease(BTC), keys.lease(ETH))  # as after three seconds
    other = Market(clock=clock, token=2)
    assert other.engine.held == {BTC, ETH}
    client.delete(keys.lease(BTC))  # even when nobody holds the lease now
    book.arm([row(1, "110")], clock=clock)
    assert market.tick("120") == []
    assert market.engine.held == {ETH}
    assert [item.price for item in other.tick("111")] == ["111"]
    other.close()


def test_leases_end_by_themselves_and_are_given_up_only_by_their_owner(market: Market, clock: TapeClock) -> None:
    client: Any = connect()
    assert 2_000 < client.pttl(keys.lease(BTC)) <= 3_000
    other = Market(clock=clock, token=2)
    other.close()
    assert client.get(keys.lease(BTC)) == market.engine.owner
    market.run(market.engine.close())
    assert client.exists(keys.lease(BTC), keys.lease(ETH)) == 0


def test_a_flood_of_prices_lets_others_have_their_turn(market: Market, clock: TapeClock) -> None:
    """Leases are renewed meanwhile, and what needs the flow to stand still waits for one batch only."""
    engine = market.engine
    for number in range(4 * FLUSH_LIMIT):
        price = engine.board.accept(Tick(BTC, "100", clock.now_ms(), number + 1))
        assert price is not None
        engine.enqueue(price)

    async def come_between() -> tuple[set[str], int]:
        flood = asyncio.create_task(engine.writer.flush())
        async with engine.flushing:
            await asyncio.wait_for(engine.hold_leases(), 5)
        waiting = 0
        while not flood.done():
            async with engine.flushing:
                waiting = max(waiting, len(engine.backlog))
        await flood
        return set(engine.held), waiting

    held, waiting = market.run(come_between())
    assert held == {BTC, ETH}
    assert waiting > 0
    assert connect().hget(keys.price(BTC), "ticks") == str(4 * FLUSH_LIMIT)
