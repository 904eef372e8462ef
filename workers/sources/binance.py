"""Live trades from Binance, spot or futures, over combined streams; reconnects by itself and never gives up.

A connection that must go (24 hours, announced shutdown, silence) is read on until its successor is open, so
that no trade is missed. Trades may then come twice; whoever judges prices drops repeats by trade id.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence

import structlog
from websockets.exceptions import InvalidStatus, WebSocketException

from workers.sources import events
from workers.sources.backoff import Backoff
from workers.sources.base import Heartbeat, Tick
from workers.sources.binance_link import BinanceTiming, Link, LinkLost, Subscriber
from workers.sources.binance_protocol import Answer, Notice, StreamKind, decode, stream_names, stream_url
from workers.sources.garbage import GarbageCounter

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

STREAMS_PER_REQUEST = 200
MAX_MESSAGE_BYTES = 256 * 1024


class BinanceSource:
    """The trades of `symbols`. The first streams are named in the address, the rest subscribed in chunks.

    kind    "trade": every trade; "aggTrade": trades of one taker order at one price as one
    garbage, ignored   messages that could not be read; that were read and carry no market price
    Raises SourceError for a wrong address or too many symbols. One iteration at a time.
    """

    name = "binance"

    def __init__(
        self,
        base_url: str,
        symbols: Sequence[str],
        *,
        kind: StreamKind = "trade",
        timing: BinanceTiming | None = None,
        streams_per_request: int = STREAMS_PER_REQUEST,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        rng: random.Random | None = None,
    ) -> None:
        self.heartbeat = Heartbeat()
        self.garbage = GarbageCounter(self.name)
        self.ignored = 0
        self._timing = timing or BinanceTiming()
        self._max_message_bytes = max_message_bytes
        self._rng = rng
        names = stream_names(symbols, kind)
        chunks = [names[i : i + streams_per_request] for i in range(0, len(names), streams_per_request)]
        self._url = stream_url(base_url, kind, chunks[0])
        self._later_chunks = chunks[1:]
        self._backoff = self._new_backoff()
        self._live: Link | None = None
        self._successor: asyncio.Task[Link] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def ticks(self) -> AsyncGenerator[Tick, None]:
        """Yield trades as received, also late and repeated ones."""
        try:
            while True:
                tick = self._read(await self._receive())
                if tick is not None:
                    yield tick
        finally:
            await self._close()

    def _read(self, payload: bytes) -> Tick | None:
        self.heartbeat.beat()
        message = decode(payload)
        if isinstance(message, Tick):
            return message
        if isinstance(message, Answer):
            if self._live is not None:
                self._live.answered(message)
        elif message is Notice.SHUTDOWN:
            log.info(events.FEED_SHUTDOWN_ANNOUNCED, feed=self.name)
            self._retire("the server announced a shutdown")
        elif message is Notice.GARBAGE:
            self.garbage.add(payload)
        else:
            self.ignored += 1
        return None

    async def _receive(self) -> bytes:
        """The next message of whichever connection is live."""
        while True:
            link = await self._connected()
            if link.age_s() >= self._timing.replace_after_s:
                self._retire("it is close to the server's limit of 24 hours")
            try:
                if self._successor is not None:
                    payload = await self._receive_or_switch(link, self._successor)
                    if payload is not None:
                        return payload
                    continue
                async with asyncio.timeout(self._timing.silence_s):
                    return await link.receive()
            except TimeoutError:
                reason = f"silent for {self._timing.silence_s:g} s"
                log.warning(events.FEED_SILENT, feed=self.name, silent_s=self._timing.silence_s)
                self.heartbeat.fail(reason)
                self._retire(reason)
            except LinkLost as lost:
                self._lose(link, str(lost))

    async def _connected(self) -> Link:
        if self._live is None:
            self._successor = self._successor or asyncio.create_task(self._open())
            self._live = await self._successor
            self._successor = None
        return self._live

    async def _receive_or_switch(self, link: Link, successor: asyncio.Task[Link]) -> bytes | None:
        """A message of the old connection, or None when its successor, now open, has taken its place."""
        if not successor.done():
            receiving = asyncio.create_task(link.receive())
            try:
                await asyncio.wait({receiving, successor}, return_when=asyncio.FIRST_COMPLETED)
                if receiving.done():
                    return receiving.result()
            finally:
                receiving.cancel()
        self._live, self._successor = successor.result(), None
        self._close_later(link)
        log.info(events.FEED_REPLACED, feed=self.name, age_s=round(link.age_s(), 1))
        return None

    def _retire(self, reason: str) -> None:
        """Begin to open the live connection's successor."""
        if self._live is not None and self._successor is None:
            log.info(events.FEED_RETIRING, feed=self.name, reason=reason)
            self._backoff.ended(self._live.age_s())
            self._successor = asyncio.create_task(self._open())

    def _lose(self, link: Link, reason: str) -> None:
        log.warning(events.FEED_DISCONNECTED, feed=self.name, reason=reason, age_s=round(link.age_s(), 1))
        self.heartbeat.fail(reason)
        self._live = None
        self._close_later(link)
        if self._successor is None:
            self._backoff.ended(link.age_s())

    async def _open(self) -> Link:
        """Connect, however often it takes."""
        attempt = 0
        while True:
            attempt += 1
            await asyncio.sleep(self._backoff.delay_s())
            subscriber = Subscriber(self._later_chunks, self._timing, self._new_backoff())
            try:
                link = await Link.open(self._url, self._timing, subscriber, self._max_message_bytes)
            except (OSError, TimeoutError, WebSocketException) as error:
                reason = str(error) or type(error).__name__
                log.warning(events.FEED_UNREACHABLE, feed=self.name, reason=reason, attempt=attempt)
                self.heartbeat.fail(reason)
                self._backoff.ended(0.0, at_least_s=self._retry_after_s(error))
            else:
                log.info(events.FEED_CONNECTED, feed=self.name, url=self._url, attempt=attempt)
                return link

    def _retry_after_s(self, error: Exception) -> float:
        """How long the server asked us to stay away (429 and 418 carry it), within reason."""
        value = error.response.headers.get("Retry-After", "") if isinstance(error, InvalidStatus) else ""
        return min(float(value), self._timing.longest_retry_after_s) if value.isdecimal() else 0.0

    def _new_backoff(self) -> Backoff:
        return Backoff(
            base_s=self._timing.backoff_base_s,
            cap_s=self._timing.backoff_cap_s,
            healthy_after_s=self._timing.healthy_after_s,
            rng=self._rng,
        )

    def _close_later(self, link: Link) -> None:
        """Close without waiting for the server: ticks of the successor are not held up."""
        task = asyncio.create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self) -> None:
        """Close whatever is open or opening."""
        if self._successor is not None:
            self._successor.cancel()
            await asyncio.wait({self._successor})
            if not self._successor.cancelled() and self._successor.exception() is None:
                self._close_later(self._successor.result())
        if self._live is not None:
            self._close_later(self._live)
        self._live = self._successor = None
        await asyncio.gather(*self._closing)
