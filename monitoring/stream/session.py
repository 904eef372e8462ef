"""What all listeners of a web process share: one reader of the log, one look at health, one at prices, one heartbeat.

Lives from the first listener to the last, on one event loop. Nothing here is waited for by anybody's connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import structlog
from redis.exceptions import RedisError

from monitoring.stream import log as events
from monitoring.stream.figures import HealthWatch, Look, PriceWatch
from monitoring.stream.listener import Listener
from monitoring.stream.log import Entry, Gone
from monitoring.stream.wire import HEARTBEAT, Part, Place, event, place_of
from workers import cancellation
from workers.redis_client import connect_async

log = structlog.get_logger(__name__)

HEARTBEAT_S: Final = 10.0
HEALTH_EVERY_S: Final = 5.0
LOOK_EVERY_S: Final = 2.0
LOOK_SHARE: Final = 20
"""A look that took 0.1 s is followed by 1.9 s without one, so that it is a small part of what PostgreSQL does."""

SNAPSHOT_AGE_S: Final = 1.0
PRICES_EVERY_S: Final = 0.25
BOOK_EVERY: Final = 4
WAIT_MS: Final = 500
"""How long the reader waits in one command: less than what a command of ours may take."""

RETRY_S: Final = 0.5
REPLAYS: Final = 4
"""How many connections catch up at a time: each borrows a connection to Redis."""

TELLING: Final = frozenset({"state", "deadLetter", "operation"})
"""Events after which health is likely to be another one."""


class Session:
    """Begins when made, on the running event loop."""

    def __init__(self) -> None:
        self.listeners: set[Listener] = set()
        self._redis = connect_async()
        self._place: Place | None = None
        self._readable: bool | None = None  # not tried yet
        self._health = HealthWatch()
        self._looking = asyncio.Lock()
        self._look_now = asyncio.Event()
        self._look: Look | None = None
        self._prices = PriceWatch()
        self._replays = asyncio.Semaphore(REPLAYS)
        loops = (self._read_log, self._watch_health, self._watch_prices, self._beat)
        self._tasks = [asyncio.create_task(self._for_ever(loop)) for loop in loops]

    async def close(self) -> None:
        """End its tasks and give its connections back."""
        await cancellation.end(*self._tasks)
        await self._redis.aclose()

    def join(self, listener: Listener) -> None:
        """Send it the present, and the log's events from its place on as soon as the log can be read."""
        self.listeners.add(listener)
        if self._look is not None:
            listener.offer(self._health_part(self._look))
        if self._prices.are_known:
            listener.offer(Part(event("prices", self._prices.whole)))
        if self._readable and self._place is not None:
            self._begin(listener, self._place)
        listener.waited = self._readable is False

    def postpone(self, listener: Listener) -> None:
        """It could not catch up: it begins again where it has got to, when the log can be read."""
        listener.begun = False
        listener.waited = True
        listener.forget_log()

    def leave(self, listener: Listener) -> None:
        """Forget it."""
        listener.end()
        self.listeners.discard(listener)

    def _begin(self, listener: Listener, place: Place) -> None:
        listener.begun = True
        listener.offer(Part(b"", begins=place))

    def _send(self, part: Part, *, only_begun: bool = False) -> None:
        for listener in list(self.listeners):
            if (listener.begun or not only_begun) and not listener.offer(part):
                log.warning("stream.listener_dropped", listeners=len(self.listeners) - 1)
                self.leave(listener)
                listener.drop()

    async def _for_ever(self, work: Callable[[], Awaitable[None]]) -> None:
        """A fault of ours ends no stream and is not repeated in a hurry."""
        while True:
            try:
                await work()
            except Exception:
                log.exception("stream.broke", work=work.__name__)
            await asyncio.sleep(RETRY_S)

    # --- the log ---------------------------------------------------------------------------------------------------

    async def _read_log(self) -> None:
        """Follow the log until Redis goes away; `_for_ever` begins again where this ended."""
        try:
            while True:
                await self._follow()
        except RedisError as error:
            if self._readable is not False:
                log.warning("stream.redis_away", error=str(error))
            self._readable = False
            self._look_now.set()

    async def _follow(self) -> None:
        if self._place is None:
            self._place = await events.end(self._redis)
        try:
            entries = await events.after(self._redis, self._place)
        except Gone:
            await self._start_over()
            return
        self._now_readable(self._place)
        self._tell(entries)
        if len(entries) < events.CHUNK:
            await events.wait(self._redis, self._place, WAIT_MS)

    def _tell(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._place = entry.place
            self._send(Part(entry.text, entry.place), only_begun=True)
        if any(entry.kind in TELLING for entry in entries):
            self._look_now.set()

    def _now_readable(self, place: Place) -> None:
        if self._readable is False:
            log.info("stream.redis_back")
            self._look_now.set()
        self._readable = True
        for listener in self.listeners:
            if not listener.begun:
                self._begin(listener, place)

    async def _start_over(self) -> None:
        """The log was emptied or trimmed beyond us: everyone gets a snapshot, and the log from its present end on."""
        place = await events.end(self._redis)
        text = await self.reset(place)
        self._send(Part(text, place, resets=True), only_begun=True)
        self._place = place

    async def catch_up(self, listener: Listener, place: Place) -> AsyncIterator[bytes]:
        """What a listener has missed up to `place` or later, or the reset that stands for it. Raises RedisError."""
        if listener.cursor is None and not listener.waited and listener.seen is None:
            look = await self._fresh_look()
            listener.seen = place
            yield event("state", look.state, place=place)
            return
        seen = listener.seen or place_of(listener.cursor or "")
        try:
            while entries := await self._missed(seen):
                seen = entries[-1].place
                for entry in entries:
                    listener.seen = entry.place
                    yield entry.text
            listener.seen = seen
        except Gone:
            text = await self.reset(place)
            listener.seen = place
            yield text

    async def _missed(self, seen: Place | None) -> list[Entry]:
        """In a task of its own: redis-py may swallow a cancellation (see workers/cancellation.py), and who has hung up
        would be written to for ever.
        """
        if seen is None:
            raise Gone
        async with self._replays:
            return await asyncio.shield(asyncio.ensure_future(events.after(self._redis, seen)))

    # --- the present ---------------------------------------------------------------------------------------------

    async def reset(self, place: Place) -> bytes:
        """The event that stands for everything up to that place."""
        look = await self._fresh_look()
        snapshot = (
            f'{{"health":{look.health},"state":{look.state},"prices":{self._prices.whole},"figures":{look.figures}}}'
        )
        return event("reset", snapshot, place=place)

    async def _fresh_look(self) -> Look:
        """One look for everyone who asks within a second."""
        async with self._looking:
            look = self._look
            if look is None or time.monotonic() - look.at_s > SNAPSHOT_AGE_S:
                look = self._look = await asyncio.to_thread(self._health.look)
        return look

    async def _watch_health(self) -> None:
        sent: Look | None = None
        while True:
            self._look_now.clear()
            began = time.monotonic()
            async with self._looking:
                look = self._look = await asyncio.to_thread(self._health.look)
            if sent is None or look.verdict != sent.verdict or look.at_s - sent.at_s > HEALTH_EVERY_S - LOOK_EVERY_S:
                self._send(self._health_part(look))
                sent = look
            await self._pause(time.monotonic() - began)

    async def _pause(self, took_s: float) -> None:
        """Until it is time to look again; sooner after something that says so, but never at once."""
        longest_s = max(RETRY_S, HEALTH_EVERY_S - took_s)
        await asyncio.sleep(min(max(RETRY_S, (LOOK_SHARE - 1) * took_s), longest_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S - RETRY_S):
                await self._look_now.wait()

    def _health_part(self, look: Look) -> Part:
        return Part(event("health", look.health))

    async def _watch_prices(self) -> None:
        while True:
            began = time.monotonic()
            try:
                changed = await self._prices.changes(self._redis, book_every=BOOK_EVERY)
            except RedisError:  # the reader of the log says so
                changed = None
            if changed is not None:
                self._send(Part(event("prices", changed)))
            await asyncio.sleep(max(PRICES_EVERY_S - (time.monotonic() - began), PRICES_EVERY_S / 2))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self._send(Part(HEARTBEAT))
