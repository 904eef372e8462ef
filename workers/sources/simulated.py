"""A made-up market for the demo: one seeded, mean-reverting random walk a symbol. It needs no network.

A symbol moves by about 0.1 % in a second (volatility grows with the square root of time), so that levels 0.1
to 0.5 % away are reached within seconds, and it is pulled back to its starting price with a half-life of
10 minutes, so that it stays within some 10 % of it however long it runs.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

from workers.sources.base import Heartbeat, Tick

VOLATILITY_PER_SQRT_S = 0.001
HALF_LIFE_S = 600.0

_MAX_LAG_S = 1.0  # a consumer that stood still this long is not chased with a burst


class Listing(NamedTuple):
    """Where a symbol starts, written with the number of decimals the exchange uses for it."""

    start: str

    @property
    def decimals(self) -> int:
        """Digits after the point in every price of the symbol."""
        return len(self.start.partition(".")[2])


LISTINGS = {
    "BTCUSDT": Listing("67250.00"),
    "ETHUSDT": Listing("3480.00"),
    "BNBUSDT": Listing("585.00"),
    "SOLUSDT": Listing("172.00"),
    "XRPUSDT": Listing("0.6200"),
    "ADAUSDT": Listing("0.4500"),
    "DOGEUSDT": Listing("0.15200"),
    "AVAXUSDT": Listing("36.200"),
    "DOTUSDT": Listing("7.100"),
    "LINKUSDT": Listing("17.400"),
    "LTCUSDT": Listing("83.50"),
    "TRXUSDT": Listing("0.12150"),
    "UNIUSDT": Listing("9.800"),
    "ATOMUSDT": Listing("8.400"),
    "NEARUSDT": Listing("7.200"),
}


def _listing(symbol: str) -> Listing:
    """The symbol's listing; an unknown one gets a price between 1 and 100 that depends on its name only."""
    known = LISTINGS.get(symbol)
    return known or Listing(f"{1 + zlib.crc32(symbol.encode()) % 99}.0000")


class _Walk:
    """One symbol's price: a whole number of its smallest steps, moved by exp of a mean-reverting state."""

    def __init__(self, symbol: str, seed: int, ticks_per_s: float) -> None:
        listing = _listing(symbol)
        self.symbol = symbol
        self._decimals = listing.decimals
        self._start_steps = int(Decimal(listing.start).scaleb(listing.decimals))
        self._state = 0.0
        self._keep = 0.5 ** (1.0 / (HALF_LIFE_S * ticks_per_s))
        self._shock = VOLATILITY_PER_SQRT_S / math.sqrt(ticks_per_s)
        # Seeded by name as well: a symbol walks the same way whatever other symbols there are.
        self._rng = random.Random(f"{seed}:{symbol}")  # noqa: S311 - a demo's market, no secret

    def next_price(self) -> str:
        """Move once and return the new price, always positive."""
        self._state = self._state * self._keep + self._rng.gauss(0.0, self._shock)
        steps = max(1, round(self._start_steps * math.exp(self._state)))
        return f"{Decimal(steps).scaleb(-self._decimals):f}"


class SimulatedSource:
    """An endless market for `symbols`, in turn, each `ticks_per_s` times a second.

    The prices depend on the seed alone. Exchange time is the wall clock `clock` (seconds); trade ids rise by
    one from the starting time in milliseconds, so that they rise over restarts too. `monotonic` and `sleep`
    pace it.
    """

    name = "simulated"

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        seed: int = 1,
        ticks_per_s: float = 5.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.heartbeat = Heartbeat()
        self._walks = [_Walk(symbol, seed, ticks_per_s) for symbol in symbols]
        self._interval_s = 1.0 / (ticks_per_s * len(symbols))
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep

    async def ticks(self) -> AsyncGenerator[Tick, None]:
        """Yield ticks without end."""
        trade_id = int(self._clock() * 1000)
        due_s = self._monotonic()
        while True:
            trade_id += 1
            for walk in self._walks:
                now_s = self._monotonic()
                due_s = max(due_s, now_s - _MAX_LAG_S)
                await self._sleep(max(0.0, due_s - now_s))
                due_s += self._interval_s
                self.heartbeat.beat()
                yield Tick(walk.symbol, walk.next_price(), int(self._clock() * 1000), trade_id)
