"""A prices process that lives in a thread of the test: the real engine with all its loops, fed by hand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

from django.db import connections
from market import BTC, ETH
from servers import wait_until

from workers.book import Fired
from workers.drivers import next_token
from workers.engine import PriceEngine
from workers.sources.base import Heartbeat, Tick


class HandFed:
    """A price source that yields what a test puts in."""

    name = "hand"

    def __init__(self) -> None:
        self.heartbeat = Heartbeat()
        self._ticks: asyncio.Queue[Tick] = asyncio.Queue()

    def put(self, tick: Tick) -> None:
        self._ticks.put_nowait(tick)

    async def ticks(self) -> AsyncGenerator[Tick, None]:
        while True:
            yield await self._ticks.get()


class LiveEngine:
    """`send` keeps what would go to the workers in `sent`, unless `broker_error` is set: then that is raised."""

    def __init__(self, *, symbols: Iterable[str] = (BTC, ETH)) -> None:
        self.sent: list[Fired] = []
        self.broker_error: Exception | None = None
        self.source = HandFed()
        self.engine = PriceEngine(symbols, token=next_token(), send=self._send, reach=self._reach)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._loop is not None, what="the loop runs")

    def _run(self) -> None:
        async def live() -> None:
            self._loop = asyncio.get_running_loop()
            await self.engine.run(self.source)

        try:
            asyncio.run(live())
        finally:
            connections.close_all()

    def _send(self, fired: Sequence[Fired]) -> None:
        self._reach()
        self.sent += fired

    def _reach(self) -> None:
        if self.broker_error is not None:
            raise self.broker_error

    def tick(self, *prices: str, symbol: str = BTC) -> None:
        """These prices, now; waits until they are accepted."""
        assert self._loop is not None
        before = self.engine.board.accepted
        for price in prices:
            self._loop.call_soon_threadsafe(self.source.put, Tick(symbol, price, time.time_ns() // 1_000_000))
        wait_until(lambda: self.engine.board.accepted >= before + len(prices), 5, what=f"{prices} are accepted")

    def call(self, work: Any) -> Any:
        """Run a coroutine on the engine's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    @property
    def degraded(self) -> bool:
        return self.engine.degraded.at_work

    def stop(self) -> None:
        """End in order; to do it twice changes nothing."""
        assert self._loop is not None
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.engine.stop)
            self._thread.join(timeout=30)
            assert not self._thread.is_alive(), "the engine hangs"
