"""The made-up market: the same for a seed, lively enough for a demo, and always a valid price."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest
from fakes import take

from deals.money import parse_price
from workers.sources.base import Tick
from workers.sources.simulated import LISTINGS, SimulatedSource


class FakeTime:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def ticks_of(count: int, *symbols: str, seed: int = 1, ticks_per_s: float = 5.0) -> list[Tick]:
    time = FakeTime()
    source = SimulatedSource(symbols, seed=seed, ticks_per_s=ticks_per_s, clock=time, monotonic=time, sleep=time.sleep)
    return asyncio.run(take(source.ticks(), count))


def test_a_seed_gives_the_same_market_and_another_seed_another() -> None:
    assert ticks_of(100, "BTCUSDT", "ETHUSDT") == ticks_of(100, "BTCUSDT", "ETHUSDT")
    assert ticks_of(100, "BTCUSDT", "ETHUSDT") != ticks_of(100, "BTCUSDT", "ETHUSDT", seed=2)


def test_a_symbol_walks_the_same_way_whatever_others_there_are() -> None:
    alone = [tick.price for tick in ticks_of(50, "ETHUSDT")]
    among = [tick.price for tick in ticks_of(150, "BTCUSDT", "ETHUSDT", "XRPUSDT") if tick.symbol == "ETHUSDT"]
    assert alone == among


def test_every_price_is_valid_and_has_the_decimals_of_its_symbol() -> None:
    for tick in ticks_of(3000, *LISTINGS, "SOMETHINGUSDT"):
        parse_price(tick.price)
        start = LISTINGS[tick.symbol].start if tick.symbol in LISTINGS else "1.0000"
        assert len(tick.price.partition(".")[2]) == len(start.partition(".")[2])


def test_ids_rise_and_times_follow_the_clock_in_real_time() -> None:
    ticks = ticks_of(101, "BTCUSDT", ticks_per_s=10.0)
    ids = [tick.trade_id or 0 for tick in ticks]
    assert ids == list(range(ids[0], ids[0] + 101))
    assert ticks[0].at_ms == 1_700_000_000_000
    assert ticks[-1].at_ms == pytest.approx(ticks[0].at_ms + 10_000, abs=2)


def test_levels_half_a_percent_away_are_reached_within_seconds_and_prices_do_not_run_away() -> None:
    by_symbol: dict[str, list[float]] = defaultdict(list)
    for tick in ticks_of(15 * 5 * 1800, *LISTINGS):  # half an hour
        by_symbol[tick.symbol].append(float(tick.price))
    for symbol, prices in by_symbol.items():
        start = float(LISTINGS[symbol].start)
        assert 0.85 * start < min(prices) <= max(prices) < 1.15 * start
        waits = [seconds_to_move(prices[begin:], 0.005) for begin in range(0, 5000, 100)]
        assert sum(waits) / len(waits) < 60
        near = [seconds_to_move(prices[begin:], 0.001) for begin in range(0, 5000, 100)]
        assert sum(near) / len(near) < 5


def seconds_to_move(prices: list[float], share: float) -> float:
    moved = (n for n, price in enumerate(prices) if abs(price / prices[0] - 1) >= share)
    return next(moved, len(prices)) / 5.0


def test_after_a_standstill_it_does_not_chase_the_lost_time() -> None:
    time = FakeTime()
    source = SimulatedSource(["BTCUSDT"], ticks_per_s=10.0, clock=time, monotonic=time, sleep=time.sleep)

    async def scenario() -> list[Tick]:
        ticks = source.ticks()
        first = await take(ticks, 1)
        time.now_s += 600
        return first + await take(ticks, 30)

    ticks = asyncio.run(scenario())
    at_once = [tick for tick in ticks if tick.at_ms == 1_700_000_600_000]
    assert 1 <= len(at_once) <= 12
