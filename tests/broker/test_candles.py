"""The candles of the operators' charts: folded from every tick, written by who drives the symbol, bounded, losable."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest
import redis
from live import LiveEngine
from market import BTC, ETH, Market, say_state
from servers import wait_until

from workers import candles, keys
from workers.candles import COARSE_MS, FINE_MS, Candle
from workers.clock import WALL_CLOCK, TapeClock

D = Decimal
MINUTE_MS = 60_000


@pytest.fixture
def start_ms(clock: TapeClock) -> int:
    """The clock at the beginning of a minute."""
    clock.set(clock.now_ms() // MINUTE_MS * MINUTE_MS + MINUTE_MS)
    return clock.now_ms()


@pytest.fixture
def alone(clock: TapeClock, start_ms: int) -> Iterator[Market]:
    """An engine without a database."""
    say_state()
    market = Market(clock=clock)
    yield market
    market.close()


def candle(at_ms: int, *prices: str) -> Candle:
    """Open, high, low, close."""
    return Candle(at_ms, *map(D, prices))


def fine(symbol: str, from_ms: int) -> list[Candle]:
    return candles.read(symbol, from_ms, from_ms + 10 * MINUTE_MS, step_ms=FINE_MS)


def coarse(symbol: str, from_ms: int) -> list[Candle]:
    return candles.read(symbol, from_ms, from_ms + 10 * MINUTE_MS, step_ms=COARSE_MS)


def tick(market: Market, clock: TapeClock, at_ms: int, *prices: str, symbol: str = BTC) -> None:
    clock.set(at_ms)
    market.hold()
    market.tick(*prices, symbol=symbol)


def write(market: Market) -> None:
    market.run(market.engine.candles.write())


def test_ticks_become_candles_of_15_s_and_of_a_minute(alone: Market, clock: TapeClock, start_ms: int) -> None:
    tick(alone, clock, start_ms, "100", "103", "99", "101")
    tick(alone, clock, start_ms + 14_999, "102")
    tick(alone, clock, start_ms + 15_000, "98.5")
    tick(alone, clock, start_ms + 60_000, "97")
    tick(alone, clock, start_ms, "3000", symbol=ETH)
    write(alone)
    assert fine(BTC, start_ms) == [
        candle(start_ms, "100", "103", "99", "102"),
        candle(start_ms + 15_000, "98.5", "98.5", "98.5", "98.5"),
        candle(start_ms + 60_000, "97", "97", "97", "97"),
    ]
    assert coarse(BTC, start_ms) == [
        candle(start_ms, "100", "103", "98.5", "98.5"),
        candle(start_ms + 60_000, "97", "97", "97", "97"),
    ]
    assert [found.close for found in fine(ETH, start_ms)] == [D(3000)]


def test_a_candle_grows_with_each_write(alone: Market, clock: TapeClock, start_ms: int) -> None:
    tick(alone, clock, start_ms, "100")
    write(alone)
    tick(alone, clock, start_ms + 1_000, "104", "96", "97")
    write(alone)
    write(alone)
    assert fine(BTC, start_ms) == coarse(BTC, start_ms) == [candle(start_ms, "100", "104", "96", "97")]


def test_a_restarted_process_goes_on_with_the_candle_of_the_one_before(
    alone: Market, clock: TapeClock, start_ms: int
) -> None:
    tick(alone, clock, start_ms, "100", "110", "90", "95")
    write(alone)
    alone.close()
    again = Market(clock=clock, token=2)
    tick(again, clock, start_ms + 5_000, "96", "97")
    write(again)
    again.close()
    assert fine(BTC, start_ms) == [candle(start_ms, "100", "110", "90", "97")]


@pytest.mark.django_db(transaction=True)
def test_a_standby_writes_nothing_until_it_takes_over_and_then_all_that_the_dead_one_had_not_written(
    alone: Market, clock: TapeClock, start_ms: int, redis_client: redis.Redis
) -> None:
    standby = Market(clock=clock, token=2)
    for step, price in enumerate(["100", "120", "80", "90"]):
        clock.set(start_ms + step * 5_000)
        alone.hold()
        alone.tick(price, trade_id=step + 1)
        standby.tick(price, trade_id=step + 1)
        write(standby)
        if step == 0:
            write(alone)
    assert fine(BTC, start_ms) == [candle(start_ms, "100", "100", "100", "100")]
    redis_client.delete(keys.lease(BTC))
    standby.hold()
    write(standby)
    standby.close()
    assert fine(BTC, start_ms) == [
        candle(start_ms, "100", "120", "80", "80"),
        candle(start_ms + 15_000, "90", "90", "90", "90"),
    ]


def test_a_process_that_lost_its_symbol_without_noticing_writes_it_no_more(
    alone: Market, clock: TapeClock, start_ms: int, redis_client: redis.Redis
) -> None:
    tick(alone, clock, start_ms, "100")
    tick(alone, clock, start_ms, "3000", symbol=ETH)
    redis_client.set(keys.lease(BTC), "another")
    write(alone)
    assert fine(BTC, start_ms) == []
    assert len(fine(ETH, start_ms)) == 1


def test_candles_end_by_themselves(alone: Market, clock: TapeClock, start_ms: int, redis_client: redis.Redis) -> None:
    tick(alone, clock, start_ms, "100")
    write(alone)
    hour_ms = 3_600_000
    assert hour_ms < redis_client.pttl(keys.candles(FINE_MS, start_ms)) <= 65 * MINUTE_MS
    assert 24 * hour_ms < redis_client.pttl(keys.candles(COARSE_MS, start_ms)) <= 25 * hour_ms


def test_the_process_remembers_a_quarter_of_an_hour_of_a_symbol_however_much_comes(
    alone: Market, clock: TapeClock, start_ms: int
) -> None:
    for step in range(100):
        tick(alone, clock, start_ms + step * FINE_MS, "100")
    write(alone)
    found = candles.read(BTC, start_ms, start_ms + 100 * FINE_MS, step_ms=FINE_MS)
    assert [one.at_ms for one in found] == [start_ms + step * FINE_MS for step in range(40, 100)]


def test_what_redis_did_not_take_is_written_the_next_time(
    alone: Market, clock: TapeClock, start_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick(alone, clock, start_ms, "100")
    client = alone.engine.link.client
    with monkeypatch.context() as broken:
        broken.setattr(client.connection_pool, "get_connection", _refuse)
        alone.run(alone.engine.candles.save())
    assert fine(BTC, start_ms) == []
    write(alone)
    assert fine(BTC, start_ms) == [candle(start_ms, "100", "100", "100", "100")]


async def _refuse(*_args: object, **_kwargs: object) -> None:
    raise redis.exceptions.ConnectionError("away")


def test_longer_steps_are_put_together_from_shorter_ones() -> None:
    minutes = [
        candle(0, "10", "12", "9", "11"),
        candle(60_000, "11", "15", "11", "14"),
        candle(300_000, "14", "14", "8", "8"),
    ]
    assert list(candles.coarser(minutes, 300_000)) == [
        candle(0, "10", "15", "9", "14"),
        candle(300_000, "14", "14", "8", "8"),
    ]


@pytest.mark.django_db(transaction=True)
def test_the_running_process_writes_by_itself_when_it_ends_and_after_redis_was_emptied(
    the_system_runs: None, redis_client: redis.Redis
) -> None:
    live = LiveEngine()

    def newest() -> list[str]:
        return [close for _at_ms, close in candles.closes(*_around()).get(BTC, [])][-1:]

    try:
        live.tick("100", "101")
        wait_until(lambda: newest() == ["101"], 10, what="the candles are written")
        redis_client.flushall()
        live.tick("102", symbol=ETH)
        wait_until(lambda: newest() == ["101"], 20, what="the candles are back")
        live.tick("103")
    finally:
        live.stop()
    assert newest() == ["103"]


def _around() -> tuple[int, int]:
    now_ms = WALL_CLOCK.now_ms()
    return now_ms - 15 * MINUTE_MS, now_ms + MINUTE_MS
