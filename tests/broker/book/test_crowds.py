"""A tick that very many deals wait for: fired in parts, at its price, and stored with the last of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from held import NOW
from market import BTC, ETH, Market, row
from redis.exceptions import TimeoutError as RedisTimeoutError

from workers import book, engine, keys
from workers.book import Fired
from workers.clock import TapeClock
from workers.redis_client import PROCESS_TICKS, Script, connect
from workers.tick_call import tick_call


@pytest.fixture(autouse=True)
def three_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script with a limit of three deals a call."""
    small = Script("process_ticks")
    text = small.text.replace("250, 60000, 1000, 20000", "250, 60000, 1000, 3")
    assert text != small.text
    monkeypatch.setattr(PROCESS_TICKS, "text", text)
    monkeypatch.setattr(PROCESS_TICKS, "sha", connect().script_load(text))


def crowd(market: Market, clock: TapeClock) -> None:
    """Five deals above and four below the price; one waits at both sides, one far away, and one in another market."""
    market.tick("100")
    rows = [row(number, "110") for number in range(1, 6)] + [row(number, None, "90") for number in range(6, 10)]
    book.arm([*rows, row(10, "110", "90"), row(11, "500"), row(12, "50", symbol=ETH)], clock=clock)


def test_all_that_a_tick_reached_fires_once_at_its_price(market: Market, clock: TapeClock) -> None:
    crowd(market, clock)
    up = market.tick("111", "120", trade_id=7)
    assert sorted(item.deal_id for item in up) == [1, 2, 3, 4, 5, 10]
    assert {(item.price, item.trade_id) for item in up} == {("111", 7)}
    assert sorted(item.deal_id for item in market.tick("89", "80")) == [6, 7, 8, 9]
    assert {item.price for item in book.all_fired().values()} == {"111", "89"}
    assert book.armed_count([BTC]) == {BTC: 1}


def test_ticks_of_others_behind_it_wait_for_it_and_lose_nothing(market: Market, clock: TapeClock) -> None:
    crowd(market, clock)
    for symbol, price in ((BTC, "111"), (ETH, "60"), (BTC, "100"), (BTC, "85")):
        market.enqueue(price, symbol=symbol)
    fired = market.flush()
    assert {item.deal_id: item.price for item in fired} == (
        dict.fromkeys((1, 2, 3, 4, 5, 10), "111") | {12: "60"} | dict.fromkeys((6, 7, 8, 9), "85")
    )
    client: Any = connect()
    assert [client.hget(keys.price(symbol), "ticks") for symbol in (BTC, ETH)] == ["4", "1"]


def test_a_tick_is_stored_only_when_all_of_it_has_fired(market: Market, clock: TapeClock) -> None:
    crowd(market, clock)
    client: Any = connect()
    before = client.hgetall(keys.price(BTC))
    (tick,) = market.accepted("111")
    call = tick_call([tick], token=1, owner=market.engine.owner, now_ms=NOW, publish=False)
    for left in (3, 0):
        _state, _refused, flat, done, _nearest = PROCESS_TICKS.run(client, *call)
        assert (len(flat), done, client.hgetall(keys.price(BTC))) == (6, 0, before)
        assert len(client.zrangebyscore(keys.upper(BTC), "-inf", "111")) == left
    _state, _refused, flat, done, _nearest = PROCESS_TICKS.run(client, *call)
    assert (flat, done, client.hget(keys.price(BTC), "price")) == ([], 1, "111")


def test_what_a_dead_process_left_of_a_tick_fires_by_the_next_one(market: Market, clock: TapeClock) -> None:
    crowd(market, clock)
    (tick,) = market.accepted("111")
    call = tick_call([tick], token=1, owner=market.engine.owner, now_ms=NOW, publish=False)
    PROCESS_TICKS.run(connect(), *call)
    assert len(book.all_fired()) == 3
    assert len(market.tick("112")) == 3
    assert sorted(item.price for item in book.all_fired().values()) == ["111"] * 3 + ["112"] * 3


def test_what_fired_in_a_call_whose_answer_was_lost_is_sent_all_the_same(
    market: Market, clock: TapeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd(market, clock)
    run, lost = PROCESS_TICKS.run_async, iter((False, True))

    async def run_and_lose(*call: Any) -> Any:
        answer = await run(*call)
        if next(lost, False):
            raise RedisTimeoutError("the answer is late")
        return answer

    monkeypatch.setattr(PROCESS_TICKS, "run_async", run_and_lose)
    with pytest.raises(RedisTimeoutError):
        market.tick("111")
    assert len(book.all_fired()) == 6, "three of them unheard of"
    market.flush()
    assert sorted(item.deal_id for item in market.sent) == [1, 2, 3, 4, 5, 10]
    assert set(market.engine.memory.unsettled) == {1, 2, 3, 4, 5, 10}
    assert connect().hget(keys.price(BTC), "price") == "111"


def test_a_broker_that_is_slow_with_many_is_not_away(
    market: Market, clock: TapeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd(market, clock)
    sent: list[list[int]] = []

    def send_slowly(fired: Sequence[Fired]) -> None:
        time.sleep(0.2)
        sent.append([item.deal_id for item in fired])

    monkeypatch.setattr(market.engine, "_send", send_slowly)
    monkeypatch.setattr(engine, "SEND_AT_ONCE", 2)
    monkeypatch.setattr(engine, "SEND_LIMIT_S", 0.5)
    market.tick("111")
    assert sent == [[1, 2], [3, 4], [5, 10]]
