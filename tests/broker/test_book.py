"""The trigger book's scripts on the real server: arming, firing, fencing, price buckets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from market import BTC, ETH, NOT_IN_BOOK, Market, in_book, row, say_state

from workers import book, keys
from workers.clock import TapeClock
from workers.prices import RedisQuoteBoard
from workers.redis_client import CACHE_STATE, connect

NOW = 1_767_873_600_000


@pytest.fixture
def clock() -> TapeClock:
    return TapeClock(NOW)


@pytest.fixture
def market(clock: TapeClock) -> Iterator[Market]:
    """A prices process while the system runs; no database."""
    say_state("running")
    market = Market(clock=clock)
    yield market
    market.close()


def fired_now() -> dict[int, tuple[int, str, str]]:
    return {item.deal_id: (item.version, item.price, item.detector) for item in book.all_fired().values()}


def waits() -> set[str]:
    client: Any = connect()
    return set(client.zrange(keys.fired_at(), 0, -1))


# --- arming -----------------------------------------------------------------------------------------------------


def test_arming_puts_both_triggers_into_the_book_at_their_version(market: Market, clock: TapeClock) -> None:
    armed = book.arm([row(1, "110", "90", watch_version=4), row(2, None, "0.000000000001")], clock=clock)
    assert [held.id for held in armed.held] == [1, 2]
    assert armed.fired == []
    assert in_book(1) == (110.0, 90.0, "4")
    assert in_book(2) == (None, 1e-12, "1")


def test_arming_again_at_a_newer_version_replaces_and_takes_away(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110", "90")], clock=clock)
    book.arm([row(1, None, "95", watch_version=2)], clock=clock)
    assert in_book(1) == (None, 95.0, "2")


def test_arming_twice_changes_nothing(market: Market, clock: TapeClock) -> None:
    for _ in range(2):
        assert [held.id for held in book.arm([row(1, "110", "90")], clock=clock).held] == [1]
    assert in_book(1) == (110.0, 90.0, "1")


def test_an_older_version_is_refused(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "120", watch_version=3)], clock=clock)
    armed = book.arm([row(1, "110", watch_version=2)], clock=clock)
    assert armed.held == []
    assert in_book(1) == (120.0, None, "3")


def test_a_deal_that_is_not_watched_leaves_the_book(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110", "90"), row(2, "110")], clock=clock)
    book.arm([row(1, "110", "90", watch_version=2, monitoring="removed")], clock=clock)
    assert in_book(1) == NOT_IN_BOOK
    assert in_book(2) == (110.0, None, "1")
    assert market.tick("200")[0].deal_id == 2
    assert set(fired_now()) == {2}


def test_disarming_at_an_older_version_is_refused(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110", watch_version=3)], clock=clock)
    book.take_out([row(1, "105", watch_version=2)], clock=clock)
    assert in_book(1) == (110.0, None, "3")


def test_more_deals_than_a_call_takes_are_armed_in_chunks(market: Market, clock: TapeClock) -> None:
    rows = [row(n, "110", symbol=BTC if n % 2 else ETH) for n in range(1, 2 * book.ARM_CHUNK + 100)]
    assert len(book.arm(rows, clock=clock).held) == len(rows)
    counts = book.armed_count([BTC, ETH])
    assert sum(counts.values()) == len(rows)


# --- firing -----------------------------------------------------------------------------------------------------


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
    assert [item.price for item in market.run(market.engine._process(prices))] == ["111"]
    client: Any = connect()
    before = (client.hgetall(keys.price(BTC)), client.xrange(keys.window(BTC)))
    book.clear_fired([(1, 1)])
    book.arm([row(1, "104", watch_version=2, watched_from_seq=market.seq())], clock=clock)
    assert market.run(market.engine._process(prices)) == []
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


# --- buckets ----------------------------------------------------------------------------------------------------


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


# --- arming after the price has moved ---------------------------------------------------------------------------


def test_a_crossing_that_came_back_before_arming_fires_at_the_trigger(market: Market, clock: TapeClock) -> None:
    market.tick("100")
    seq = RedisQuoteBoard(clock).quote(BTC).seq
    market.tick("112", "101", trade_id=5)
    armed = book.arm([row(1, "110.5", watched_from_seq=seq), row(2, "113", watched_from_seq=seq)], clock=clock)
    assert [held.id for held in armed.held] == [1, 2]
    assert [(item.deal_id, item.price, item.trade_id, item.detector) for item in armed.fired] == [
        (1, "110.5", None, "arm")
    ]
    assert fired_now() == {1: (1, "110.5", "arm")}
    assert in_book(1) == NOT_IN_BOOK
    assert in_book(2) == (113.0, None, "1")


def test_a_crossing_that_still_holds_when_armed_fires_at_the_current_price(market: Market, clock: TapeClock) -> None:
    market.tick("100")
    seq = RedisQuoteBoard(clock).quote(BTC).seq
    market.tick("115", "112.50", trade_id=5)
    [fired] = book.arm([row(1, "110", watched_from_seq=seq)], clock=clock).fired
    assert (fired.price, fired.trade_id, fired.detector) == ("112.50", 6, "arm")


@pytest.mark.parametrize(("direction", "price"), [("up", "90"), ("down", "110")])
def test_stop_loss_wins_when_both_were_crossed_before_arming(
    market: Market, clock: TapeClock, direction: str, price: str
) -> None:
    market.tick("100")
    seq = RedisQuoteBoard(clock).quote(BTC).seq
    market.tick("111", "89", "100")
    [fired] = book.arm([row(1, "110", "90", watched_from_seq=seq, direction=direction)], clock=clock).fired
    assert fired.price == price


def test_arming_looks_only_at_what_came_after_the_watch_began(market: Market, clock: TapeClock) -> None:
    market.tick("100", "120")
    clock.set(NOW + 100)
    market.tick("105")
    seq = RedisQuoteBoard(clock).quote(BTC).seq
    market.tick("106")
    assert book.arm([row(1, "110", watched_from_seq=seq)], clock=clock).fired == []
    assert in_book(1) == (110.0, None, "1")


def test_arming_looks_back_over_many_closed_buckets(market: Market, clock: TapeClock) -> None:
    seqs = []
    for step, price in enumerate(["100", "101", "150", "102", "103", "104"]):
        clock.set(NOW + 1_000 * step)
        market.tick(price)
        seqs.append(market.seq())
    rows = [row(n, "140", watched_from_seq=seq) for n, seq in enumerate(seqs, start=1)]
    assert [item.deal_id for item in book.arm(rows, clock=clock).fired] == [1, 2]
    assert {item.price for item in book.all_fired().values()} == {"140"}


def test_a_stale_price_fires_nothing_at_arming_and_the_deal_stays_to_be_armed(market: Market, clock: TapeClock) -> None:
    market.tick("100")
    seq = RedisQuoteBoard(clock).quote(BTC).seq
    market.tick("112", "101")
    clock.set(NOW + 10_000)
    crossed, safe = row(1, "110", watched_from_seq=seq), row(2, "120", watched_from_seq=seq)
    armed = book.arm([crossed, safe], clock=clock)
    assert armed.fired == []
    assert [held.id for held in armed.held] == [2]  # the first one's crossing is still to be judged
    assert in_book(1) == (110.0, None, "1")
    market.tick("102")
    assert [item.price for item in book.arm([crossed], clock=clock).fired] == ["110"]


def test_a_deal_that_fired_keeps_its_price_when_armed_again(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110")], clock=clock)
    market.tick("111")
    armed = book.arm([row(1, "110")], clock=clock)
    assert ([held.id for held in armed.held], armed.fired) == ([1], [])
    assert in_book(1) == NOT_IN_BOOK
    assert fired_now() == {1: (1, "111", "tick")}


def test_an_amended_deal_leaves_what_fired_before(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110")], clock=clock)
    market.tick("111")
    seq = market.seq()
    book.arm([row(1, "130", watch_version=2, watched_from_seq=seq)], clock=clock)
    assert book.all_fired() == {}
    assert waits() == set()
    assert in_book(1) == (130.0, None, "2")


# --- after the settlement ---------------------------------------------------------------------------------------


def test_clearing_leaves_what_fired_at_a_newer_version(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110", watch_version=2), row(2, "110")], clock=clock)
    market.tick("111")
    assert book.clear_fired([(1, 1), (2, 1), (3, 1)]) == 1
    assert fired_now() == {1: (2, "111", "tick")}
    assert waits() == {"1"}


def test_what_the_sweep_found_does_not_replace_what_has_fired(market: Market, clock: TapeClock) -> None:
    book.arm([row(1, "110"), row(2, "120")], clock=clock)
    [fired] = market.tick("111")
    late = fired._replace(price="115", detector="sweep")
    found = book.fire_found([late, late._replace(deal_id=2)], now_ms=NOW)
    assert found is not None
    assert [item.deal_id for item in found] == [2]
    assert fired_now() == {1: (1, "111", "tick"), 2: (1, "115", "sweep")}
    assert in_book(2) == NOT_IN_BOOK
    say_state("halted", version=2)
    assert book.fire_found([late._replace(deal_id=3)], now_ms=NOW) is None
    assert 3 not in book.all_fired()


def test_postponing_does_not_bring_back_what_has_left(market: Market, clock: TapeClock) -> None:
    book.postpone({1: NOW})
    assert waits() == set()
