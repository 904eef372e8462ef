"""What the tests of the Binance source share: a source with short time limits, and how a scenario runs."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fakes import (
    FakeExchange,
    trade_message,
)

from workers.sources.base import Tick
from workers.sources.binance import BinanceSource
from workers.sources.binance_link import BinanceTiming

FAST = BinanceTiming(
    open_timeout_s=1.0,
    close_timeout_s=0.2,
    silence_s=5.0,
    subscribe_pace_s=0.02,
    answer_timeout_s=0.2,
    backoff_base_s=0.02,
    backoff_cap_s=0.1,
)


def a_source(exchange: FakeExchange, timing: BinanceTiming = FAST, **options: Any) -> BinanceSource:
    symbols = options.pop("symbols", ["BTCUSDT"])
    return BinanceSource(exchange.url, symbols, timing=timing, rng=random.Random(1), **options)


@contextlib.asynccontextmanager
async def ticks_of(source: BinanceSource) -> AsyncIterator[AsyncIterator[Tick]]:
    async with contextlib.aclosing(source.ticks()) as ticks:
        yield ticks


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


def prices(ticks: list[Tick]) -> list[str]:
    return [tick.price for tick in ticks]


def trades(*numbers: int) -> list[str]:
    return [trade_message(number, f"{number}.50", 1_700_000_000_000 + number) for number in numbers]
