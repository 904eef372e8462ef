"""Prices on their way to Redis: what waits for it, and what another process writes, for taking over."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import Final

from workers.prices import Price

PENDING_LIMIT: Final = 200_000
SPARE_MS: Final = 10_000


class Backlog:
    """Belongs to one engine; not thread-safe. Its prices are in the order in which they came."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        """Prices wait."""
        self.due = asyncio.Event()
        """They need not wait for others any more."""
        self.came = asyncio.Event()
        """Set by each new price, cleared by who waits for the next one."""
        self._pending: deque[Price] = deque()
        self._spare: deque[Price] = deque()

    def __len__(self) -> int:
        """How many prices wait."""
        return len(self._pending)

    def add(self, price: Price, *, at_once: bool = False) -> bool:
        """Let a price wait, or end the waiting with it; True when the oldest one of 200,000 was dropped for it."""
        full = len(self._pending) >= PENDING_LIMIT
        if full:
            self._pending.popleft()
        self._pending.append(price)
        self.wake.set()
        self.came.set()
        if at_once:
            self.due.set()
        return full

    def take(self, most: int) -> list[Price]:
        """The oldest prices, which wait no more."""
        return [self._pending.popleft() for _ in range(min(most, len(self._pending)))]

    def give_back(self, taken: list[Price]) -> None:
        """Let them wait again, before all others."""
        self._pending.extendleft(reversed(taken))

    def keep(self, prices: Iterable[Price]) -> None:
        """Keep for 10 s, for taking over, what another process writes."""
        self._spare.extend(prices)
        while self._spare and self._spare[0].received_ms < self._spare[-1].received_ms - SPARE_MS:
            self._spare.popleft()

    def kept(self, symbols: Collection[str]) -> list[Price]:
        """What is kept of these symbols."""
        return [price for price in self._spare if price.symbol in symbols]

    def forget_kept(self, symbols: Collection[str]) -> None:
        """Keep it no more."""
        self._spare = deque(price for price in self._spare if price.symbol not in symbols)

    def put_first(self, prices: list[Price], renumber: Callable[[Price], Price]) -> None:
        """Let these wait before all others; all get new numbers, which rise in that order."""
        self._pending = deque(renumber(price) for price in (*prices, *self._pending))
        self.wake.set()

    def by_symbol(self, symbols: Collection[str]) -> dict[str, list[Price]]:
        """What waits, of these symbols."""
        waiting: dict[str, list[Price]] = defaultdict(list)
        for price in islice(self._pending, len(self._pending)):
            if price.symbol in symbols:
                waiting[price.symbol].append(price)
        return waiting

    def take_swept(self, swept: Mapping[str, int]) -> list[Price]:
        """What a sweep from memory has looked at, up to a number by symbol: it waits no more."""
        done = [price for price in self._pending if price.seq <= swept.get(price.symbol, 0)]
        self._pending = deque(price for price in self._pending if price.seq > swept.get(price.symbol, 0))
        return done
