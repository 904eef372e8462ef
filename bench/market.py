"""A market that does what it is told: a steady pace inside a narrow band, a flood, or one certain price at once.

A price source of the bench's own, because no recorded or simulated one can be told when to cross. It costs about a
microsecond a tick and decodes nothing: what an exchange's client costs on top of the engine is not measured with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final

from workers.sources.base import Heartbeat, Tick

BASE: Final = 100
BAND: Final = tuple(f"{BASE + (step * 37 % 64 - 32) / 400:.4f}" for step in range(64))
"""The prices of every symbol in their order, again and again: 99.92 to 100.0775, all different."""
FLOOD_BACKLOG: Final = 1_000
"""A flood waits while so many prices wait for Redis: it is as fast as the engine, and the engine drops nothing."""
FLOOD_BURST: Final = 50
LAG_LIMIT_S: Final = 1.0
"""A market that was kept from speaking for longer goes on at its pace; it does not catch up."""


class Market:
    """A PriceSource. `commands` are dicts, each answered with one dict, in order; `do` is one of

    pace   `per_s` ticks a second from now on, all symbols together and in turn; 0: none
    tick   one of `symbol` at `price`, now
    flood  `ticks` as fast as the engine takes them; the answer says in how many `seconds` all were in Redis
    note   remember from now on when each tick of the pace was given; `noted` answers it and stops remembering
    """

    name = "bench"

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        answer: Callable[[dict[str, Any]], None],
        backlog: Callable[[], int],
        drained: Callable[[], Any],
    ) -> None:
        self.heartbeat = Heartbeat()
        self.commands: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._symbols = list(symbols)
        self._answer = answer
        self._backlog = backlog
        self._drained = drained
        self._number = 0
        self._trade_id = time.time_ns() // 1_000_000
        self._interval_s = 0.0
        self._due_s = 0.0
        self._noted: list[tuple[int, int]] | None = None

    async def ticks(self) -> AsyncGenerator[Tick, None]:
        """Yield ticks as told, without end."""
        self._answer({"ready": True})
        while True:
            command = await self._next_command()
            if command is None:
                now_s = time.monotonic()
                while self._due_s <= now_s:
                    self._due_s += self._interval_s
                    yield self._next()
            elif command["do"] == "tick":
                yield self._tick(command["symbol"], command["price"])
                self._answer({})
            elif command["do"] == "flood":
                started_s = time.monotonic()
                for count in range(1, command["ticks"] + 1):
                    yield self._next()
                    if count % FLOOD_BURST == 0:
                        await self._breathe()
                await self._drained()
                self._answer({"seconds": time.monotonic() - started_s})
            else:
                self._answer(self._set(command))

    def _set(self, command: dict[str, Any]) -> dict[str, Any]:
        if command["do"] == "pace":
            self._interval_s = 1 / command["per_s"] if command["per_s"] else 0.0
            self._due_s = time.monotonic()
            return {}
        if command["do"] == "note":
            self._noted = []
            return {}
        if command["do"] == "noted":
            noted, self._noted = self._noted, None
            return {"noted": noted}
        raise ValueError(f"no command {command['do']!r}")

    async def _next_command(self) -> dict[str, Any] | None:
        """The next command, or None when it is time for a tick."""
        if not self._interval_s:
            return await self.commands.get()
        wait_s = self._due_s - time.monotonic()
        if wait_s < -LAG_LIMIT_S:
            self._due_s = time.monotonic()
        await asyncio.sleep(max(0.0, wait_s))
        return None if self.commands.empty() else self.commands.get_nowait()

    async def _breathe(self) -> None:
        await asyncio.sleep(0)
        while self._backlog() > FLOOD_BACKLOG:  # noqa: ASYNC110 - the engine tells it by no event
            await asyncio.sleep(0.001)

    def _next(self) -> Tick:
        """The next symbol's next price of the band."""
        turn, symbol = divmod(self._number, len(self._symbols))
        self._number += 1
        if self._noted is not None:
            self._noted.append((self._number - 1, time.monotonic_ns()))
        return self._tick(self._symbols[symbol], BAND[turn % len(BAND)])

    def _tick(self, symbol: str, price: str) -> Tick:
        self._trade_id += 1
        self.heartbeat.beat()
        return Tick(symbol, price, time.time_ns() // 1_000_000, self._trade_id)
