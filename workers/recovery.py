"""After Redis was away, restarted or emptied: it gets back what it forgot before anything new is written to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from workers import keys, reconcile, system
from workers.off_loop import in_thread
from workers.redis_client import connect_async
from workers.retry import DATABASE_ERRORS

if TYPE_CHECKING:
    from workers.engine import PriceEngine

log = structlog.get_logger(__name__)


class Recovery:
    """Belongs to one engine, on its loop. The rebuilding of the book runs in a thread."""

    def __init__(self, engine: PriceEngine) -> None:
        self._engine = engine
        self._rebuilding: asyncio.Task[None] | None = None
        self._anew = False

    @property
    def is_due(self) -> bool:
        """Whether Redis may lack something."""
        return self._engine.link.forgotten or self._engine.outage.redis_away

    @property
    def is_rebuilding(self) -> bool:
        """Whether this process is rebuilding the trigger book."""
        return self._rebuilding is not None

    async def run(self) -> None:
        """Give Redis its state, prices and fired entries back, and have its book rebuilt, when that is due.

        Raises RedisError, DATABASE_ERRORS.
        """
        if self.is_due:
            await self.give_back()
            await self.see_to_book()

    async def give_back(self) -> None:
        """The same but for the book."""
        engine = self._engine
        async with connect_async() as redis:
            run_id = str((await redis.info("server"))["run_id"])  # before the lock: sweeps go on until Redis answers
            async with engine.flushing:
                if not self.is_due:  # the other loop did it
                    return
                await in_thread(system.refresh_state)
                fired = await engine.memory.put_back(redis)
                engine.candles.write_again()
                self._anew |= engine.link.forgotten  # a rebuild that has begun does not know what is back now
                engine.link.accept(run_id)
                engine.outage.redis_restored()
        log.warning("prices.redis_restored", run_id=run_id, fired=len(fired))
        engine.queue_fired(fired)

    async def see_to_book(self) -> None:
        """Begin to rebuild a book that is not of this run of Redis: the workers may be back later than this process.

        Also one that was rebuilt before the prices were put back: what only they show, it has armed instead of fired.
        When another process is at it, this is to be called again. Raises RedisError.
        """
        link = self._engine.link
        if self._rebuilding is not None:
            return
        if self._anew or await link.client.get(keys.book_epoch()) != link.run_id:
            self._rebuilding = asyncio.create_task(self._rebuild())

    async def end(self) -> None:
        """Wait for a rebuild that is under way."""
        if self._rebuilding is not None:
            await asyncio.wait([self._rebuilding])

    async def _rebuild(self) -> None:
        anew, self._anew = self._anew, False
        try:
            done = await in_thread(reconcile.rebuild if anew else reconcile.reconcile)
            self._anew |= done is None
        except (RedisError, *DATABASE_ERRORS) as error:
            self._anew |= anew
            log.warning("prices.rebuild_failed", error=str(error))
        finally:
            self._rebuilding = None
