"""Degraded mode: while Redis or the broker does not answer, the prices process closes what is due itself, every 2 s.

First what has fired, at its price; then what a sweep of PostgreSQL finds: with the prices in memory while Redis is
away, as usual while only the broker is. All of it runs beside the tick loop. Afterwards one more sweep, and the
workers go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

import structlog
from django.utils import timezone
from redis.exceptions import RedisError

from deals.errors import Unavailable
from workers import drivers, sweep
from workers.closing import Closer
from workers.direct import DirectReport, sweep_memory
from workers.off_loop import in_thread
from workers.retry import DATABASE_ERRORS
from workers.sweep import SweepReport

if TYPE_CHECKING:
    from datetime import datetime

    from workers.engine import PriceEngine
    from workers.prices import Price

log = structlog.get_logger(__name__)

EVERY_S: Final = 2.0
AGAIN_S: Final = 0.3
"""When another sweep was at work."""


class Degraded:
    """Belongs to one engine, on its loop. `at_work` says whether the system is degraded."""

    def __init__(self, engine: PriceEngine) -> None:
        self.at_work = False
        self._engine = engine
        self._closer = Closer()
        self._hurry = asyncio.Event()
        self._led: set[str] = set()
        self._since: datetime | None = None
        self._trouble = ""

    def hurry(self) -> None:
        """Something has fired: do not wait for the next 2 s."""
        self._hurry.set()

    async def run(self) -> None:
        """Stand by for the outages of this process's life."""
        while True:
            await self._engine.outage.began.wait()
            await self._go_on_alone()

    async def _go_on_alone(self) -> None:
        outage, self._since, self._closer.closed = self._engine.outage, timezone.now(), 0
        began = time.monotonic()
        self.at_work = True
        log.warning("prices.degraded", why=outage.why)
        while outage.began.is_set() or self._engine.recovery.is_rebuilding:
            await self._pause(EVERY_S if await self.round() else AGAIN_S)
        await self._next_tick()
        await self.round()
        self.at_work, self._led = False, set()
        log.warning("prices.degraded_ended", seconds=round(time.monotonic() - began, 1), closed=self._closer.closed)
        try:
            await self._engine.record()
        except DATABASE_ERRORS as error:  # it is said again every second
            self._say(str(error))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        self._hurry.clear()

    async def _next_tick(self) -> None:
        """Until the first accepted tick, or the next 2 s."""
        came = self._engine.backlog.came
        came.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EVERY_S):
                await came.wait()

    async def round(self) -> bool:
        """Close what is due, once. False when another sweep was at work: try again soon. Trouble is said once."""
        try:
            if self._engine.outage.redis_away:
                report: DirectReport | SweepReport = await self._without_redis()
            else:
                report = await self._with_redis()
        except Unavailable as refused:  # stopped: nothing closes
            self._say(refused.message)
        except DATABASE_ERRORS as error:
            self._say(str(error))
        except RedisError as error:
            self._engine.failed(error)
        else:
            self._trouble = ""
            return not report.skipped
        return True

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("prices.degraded_trouble", error=trouble)
        self._trouble = trouble

    async def _with_redis(self) -> SweepReport:
        """Only the workers cannot be told. Who holds no lease leaves it to who does."""
        engine = self._engine
        await engine.writer.flush()
        held = frozenset(engine.held)
        if not held:
            return SweepReport()

        def work() -> SweepReport:
            self._record(held)
            self._closer.redis_answers = True
            report = sweep.sweep(clock=engine.clock, close=self._closer.close)
            sweep.remember(report)
            return report

        return await in_thread(work)

    async def _without_redis(self) -> DirectReport:
        engine = self._engine
        async with engine.flushing:
            led = await self._lead()
            prices = self._prices(led)
            fired = list(engine.memory.unsettled.values())

            def work() -> DirectReport:
                self._closer.redis_answers = False
                return sweep_memory(prices, fired, closer=self._closer, clock=engine.clock)

            report = await in_thread(work)
            engine.memory.finish(report.finished)
            engine.memory.written(engine.backlog.take_swept(report.swept))
            engine.memory.hold(report.unsettled)
        return report

    async def _lead(self) -> set[str]:
        """The symbols that this process drives: its own, and those whose process has not been seen for 5 s.

        Those are numbered under a new token, from what has come since Redis is away: all of it is newer than any deal.
        """
        engine = self._engine
        symbols = frozenset(engine.symbols)
        engine.is_recorded = True
        tokens = await in_thread(lambda: self._record(symbols, only_free=True))
        if tokens.keys() - engine.held - self._led or max(tokens.values(), default=0) > engine.token:
            await engine.renew_token()
            engine.backlog.put_first([], engine.board.renumber)
            tokens = await in_thread(lambda: self._record(symbols, only_free=True))
        if tokens.keys() != self._led:
            log.warning("prices.leading", symbols=sorted(tokens), owner=engine.owner, token=engine.token)
        self._led = set(tokens)
        return self._led

    def _record(self, symbols: frozenset[str], *, only_free: bool = False) -> dict[str, int]:
        engine = self._engine
        return drivers.record(
            symbols, owner=engine.owner, token=engine.token, degraded_since=self._since, reason=engine.outage.why,
            only_free=only_free,
        )  # fmt: skip

    def _prices(self, symbols: set[str]) -> dict[str, list[Price]]:
        """What was written to Redis in the last 60 s, and what waits for it."""
        prices = self._engine.memory.prices(symbols)
        for symbol, waiting in self._engine.backlog.by_symbol(symbols).items():
            prices[symbol] = prices.get(symbol, []) + waiting
        return prices
