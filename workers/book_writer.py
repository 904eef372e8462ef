"""Runs waiting prices through the book: when, in which calls of the tick script, and what becomes of its answers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import structlog
from redis.exceptions import RedisError

from deals.crash_points import crash_point
from workers import keys
from workers.book import FIRED_CHUNK, Fired, parse_fired, read_fired
from workers.redis_client import PROCESS_TICKS
from workers.retry import DATABASE_ERRORS
from workers.tick_call import tick_call

if TYPE_CHECKING:
    from workers.engine import PriceEngine
    from workers.prices import Price

log = structlog.get_logger(__name__)

FLUSH_LIMIT: Final = 500
FLUSH_EVERY_S: Final = 0.003
"""While ticks come faster than this they wait for each other: a call to Redis costs as much as twenty ticks in it. One
that comes alone, or that reaches a trigger, goes at once."""
RETRY_S: Final = 0.2


class BookWriter:
    """Belongs to one engine, on its loop."""

    def __init__(self, engine: PriceEngine) -> None:
        self._engine = engine
        self._nearest: dict[str, tuple[float, float]] = {}
        self._answer_lost = False

    def reaches_trigger(self, price: Price) -> bool:
        """Whether a price reaches a trigger of its symbol, by what the book held at the symbol's last call.

        Decides only how long a price waits: what has been armed since then is found by the script all the same.
        """
        lower, upper = self._nearest.get(price.symbol, (-math.inf, math.inf))
        return not lower < float(price.price) < upper

    async def run(self) -> None:
        """Flush whenever prices wait, without end. While Redis is away they go on waiting."""
        engine, next_s = self._engine, 0.0
        backlog, loop = engine.backlog, asyncio.get_running_loop()
        while not engine.is_stopping:
            await backlog.wake.wait()
            timer = loop.call_at(next_s, backlog.due.set)
            await backlog.due.wait()
            timer.cancel()
            next_s = loop.time() + FLUSH_EVERY_S
            backlog.wake.clear()
            backlog.due.clear()
            try:
                await engine.recovery.run()
                await self.flush()
                if engine.link.forgotten:
                    await engine.recovery.run()
            except (RedisError, *DATABASE_ERRORS) as error:
                engine.failed(error)
                await asyncio.sleep(RETRY_S)
                backlog.wake.set()

    async def flush(self) -> None:
        """Run all waiting prices through the book, in order. Raises RedisError; what was not confirmed goes on
        waiting."""
        engine = self._engine
        while engine.backlog:
            async with engine.flushing:  # for one batch: in a flood others must get their turn, or the leases run out
                await self._flush_batch(engine.backlog.take(FLUSH_LIMIT))

    async def _flush_batch(self, batch: list[Price]) -> None:
        engine = self._engine
        held = [price for price in batch if price.symbol in engine.held]
        try:
            await self.process(held)
            if self._answer_lost:
                engine.take(await self._fired_unheard())
        except BaseException:
            engine.backlog.give_back(batch)
            self._answer_lost |= bool(held)
            raise
        self._answer_lost = False
        engine.memory.written(price for price in held if price.symbol in engine.held)
        engine.backlog.keep(price for price in batch if price.symbol not in engine.held)

    async def _fired_unheard(self) -> list[Fired]:
        """What fired in a call whose answer was lost: ticks that come again are passed over. Raises RedisError."""
        engine = self._engine
        entries = [pair async for pair in engine.link.client.hscan_iter(keys.fired(), count=FIRED_CHUNK)]
        fired = [item for item in read_fired(entries) if item.symbol in engine.held and not engine.memory.holds(item)]
        log.warning("prices.answer_lost", deals=len(fired))
        return fired

    async def process(self, prices: Sequence[Price]) -> None:
        """Run prices through the tick script, and take what fires. What is sent twice does nothing the second time."""
        while prices:
            done = await self._call(prices)
            prices = prices[done:]

    async def _call(self, prices: Sequence[Price]) -> int:
        """One call of it; returns how many of the prices are done. One that very many deals wait for takes several."""
        engine = self._engine
        call = tick_call(
            prices, token=engine.token, owner=engine.owner, now_ms=engine.clock.now_ms(), publish=engine.publish
        )
        crash_point("fire.before_script")
        state, refused, flat, done, nearest = await PROCESS_TICKS.run_async(engine.link.client, *call)
        crash_point("fire.after_script")
        engine.outage.redis_answered()
        if not state:
            engine.link.forgotten = True
        if refused:
            log.warning("prices.refused", symbols=refused, owner=engine.owner)
            engine.held.difference_update(refused)
        self._note_nearest(nearest)
        fired = parse_fired(flat)
        engine.take(fired)
        for item in fired[:20]:
            log.info("deal.fired", deal_id=item.deal_id, symbol=item.symbol, price=item.price, deals=len(fired))
        return int(done)

    def _note_nearest(self, flat: Sequence[str]) -> None:
        for symbol, lower, upper in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            self._nearest[symbol] = (float(lower or -math.inf), float(upper or math.inf))
