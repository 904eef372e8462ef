"""One connection to Binance: opening, receiving, and subscribing to what its address couldn't carry.

It does not reconnect and reads no prices; that is `binance.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from workers.sources import events
from workers.sources.backoff import Backoff
from workers.sources.binance_protocol import Answer, subscribe_request

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MAX_QUEUED_MESSAGES = 1024


@dataclass(frozen=True, kw_only=True)
class BinanceTiming:
    """Every time limit of the source, in seconds. The defaults keep the server's limits.

    It takes 5 messages a second from us (subscriptions, pings and pongs; 10 on futures), pings every 20 s,
    wants the pong within a minute, and ends every connection after 24 hours. An address may open 300
    connections in 5 minutes.
    """

    open_timeout_s: float = 10.0
    close_timeout_s: float = 2.0
    ping_interval_s: float = 20.0
    ping_timeout_s: float = 20.0
    silence_s: float = 10.0
    replace_after_s: float = 23.5 * 3600
    subscribe_pace_s: float = 0.5
    answer_timeout_s: float = 5.0
    backoff_base_s: float = 0.25
    backoff_cap_s: float = 30.0
    healthy_after_s: float = 60.0
    longest_retry_after_s: float = 300.0


class LinkLost(Exception):
    """The connection ended; the text says how."""


class Link:
    """An open connection. Only one task may call `receive`; cancelling that call loses no message."""

    def __init__(self, socket: ClientConnection, subscriber: Subscriber) -> None:
        self._socket = socket
        self._opened_s = time.monotonic()
        self._subscriber = subscriber
        self._subscribing = asyncio.create_task(subscriber.run(socket))

    @classmethod
    async def open(cls, url: str, timing: BinanceTiming, subscriber: Subscriber, max_bytes: int) -> Link:
        """Connect, TLS certificates verified. Raises OSError, TimeoutError or WebSocketException."""
        socket = await connect(
            url,
            open_timeout=timing.open_timeout_s,
            close_timeout=timing.close_timeout_s,
            ping_interval=timing.ping_interval_s,
            ping_timeout=timing.ping_timeout_s,
            max_size=max_bytes,
            max_queue=MAX_QUEUED_MESSAGES,
            compression=None,  # messages of 150 bytes gain nothing from it and would wait for it
        )
        return cls(socket, subscriber)

    def age_s(self) -> float:
        """Seconds since it opened."""
        return time.monotonic() - self._opened_s

    async def receive(self) -> bytes:
        """The next message. Raises LinkLost when there will be none."""
        try:
            return await self._socket.recv(decode=False)
        except ConnectionClosed as closed:
            raise LinkLost(str(closed)) from closed

    def answered(self, answer: Answer) -> None:
        """Hand an answer to the subscription that waits for it."""
        self._subscriber.answered(answer)

    async def close(self) -> None:
        """Close it, waiting for the server at most the close time-out."""
        self._subscribing.cancel()
        await asyncio.wait({self._subscribing})
        await self._socket.close()


class Subscriber:
    """Subscribes in chunks, one request at a time and paced; what is refused or unanswered is asked again."""

    def __init__(self, chunks: Sequence[Sequence[str]], timing: BinanceTiming, backoff: Backoff) -> None:
        self._chunks = deque(chunks)
        self._timing = timing
        self._backoff = backoff
        self._last_id = 0
        self._answer: asyncio.Future[Answer] | None = None

    async def run(self, socket: ClientConnection) -> None:
        """Subscribe to every chunk. Ends when all are accepted, or when the connection is lost."""
        with suppress(ConnectionClosed):
            while self._chunks:
                chunk = self._chunks.popleft()
                error = await self._ask(socket, chunk)
                if error is None:
                    log.info(events.FEED_SUBSCRIBED, streams=len(chunk), chunks_left=len(self._chunks))
                    pause_s = self._timing.subscribe_pace_s
                else:
                    log.warning(events.FEED_SUBSCRIBE_REFUSED, reason=error, first_stream=chunk[0], streams=len(chunk))
                    self._chunks.append(chunk)
                    self._backoff.ended(0.0, at_least_s=self._timing.subscribe_pace_s)
                    pause_s = self._backoff.delay_s()
                await asyncio.sleep(pause_s)

    async def _ask(self, socket: ClientConnection, chunk: Sequence[str]) -> str | None:
        """Send one request; None when it was accepted, else what was wrong."""
        self._last_id += 1
        self._answer = asyncio.get_running_loop().create_future()
        await socket.send(subscribe_request(self._last_id, chunk))
        try:
            answer = await asyncio.wait_for(self._answer, self._timing.answer_timeout_s)
        except TimeoutError:
            return f"no answer in {self._timing.answer_timeout_s:g} s"
        return answer.error

    def answered(self, answer: Answer) -> None:
        """Take an answer. Some errors name no request: only one is ever under way, so they belong to it."""
        waiting = self._answer
        if waiting is not None and not waiting.done() and answer.request_id in {None, self._last_id}:
            waiting.set_result(answer)
