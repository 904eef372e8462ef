"""Prices that another service publishes on `price_update:SYMBOL` as JSON {symbol, price, timestamp}.

Only for a Redis or a key prefix on which this system doesn't publish prices itself: it would read its own.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from workers.sentinel import async_client
from workers.sources import events
from workers.sources.backoff import Backoff
from workers.sources.base import Heartbeat, Tick
from workers.sources.errors import SourceError
from workers.sources.garbage import GarbageCounter

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CHANNEL = "price_update:"
_SCHEMES = ("redis://", "rediss://", "unix://", "sentinel://")


@dataclass(frozen=True, kw_only=True)
class RedisTiming:
    """Time limits in seconds.

    After `ping_after_s` of silence the server is asked for a sign of life; without one for `lost_after_s` the
    connection counts as lost.
    """

    connect_timeout_s: float = 3.0
    ping_after_s: float = 1.0
    lost_after_s: float = 5.0
    backoff_base_s: float = 0.25
    backoff_cap_s: float = 5.0
    healthy_after_s: float = 10.0


class _Update(msgspec.Struct):
    symbol: str
    price: msgspec.Raw
    timestamp: int | float | str


_update = msgspec.json.Decoder(_Update)


def decode_update(symbol: str, payload: bytes) -> Tick | None:
    """Read one message of the symbol's channel; None when it isn't one.

    price       string or number; a number keeps the digits it was written with
    timestamp   milliseconds as number or digits, or ISO 8601; without an offset it is UTC
    """
    try:
        update = _update.decode(payload)
        price = _literal(update.price)
        at_ms = _milliseconds(update.timestamp)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError):
        return None
    return Tick(symbol, price, at_ms) if update.symbol.upper() == symbol else None


def _literal(raw: msgspec.Raw) -> str:
    text = bytes(raw).decode()
    if text.startswith('"'):
        return msgspec.json.decode(text, type=str)
    if text[0] == "-" or text[0].isdecimal():
        return text
    raise ValueError("neither a string nor a number")


def _milliseconds(timestamp: float | str) -> int:
    if not isinstance(timestamp, str):
        return int(timestamp)
    if timestamp.isdecimal():
        return int(timestamp)
    moment = datetime.fromisoformat(timestamp)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


class RedisPubSubSource:
    """The published prices of `symbols`. Reconnects and subscribes again by itself; has no trade ids.

    What is published while it is away is lost: Redis keeps no pub/sub messages.
    Raises SourceError for a wrong address.
    """

    name = "redis"

    def __init__(
        self,
        url: str,
        symbols: Sequence[str],
        *,
        key_prefix: str = "",
        timing: RedisTiming | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not symbols:
            raise SourceError("no symbols to watch")
        if not url.startswith(_SCHEMES):
            raise SourceError("the Redis address must look like redis://127.0.0.1:6379/0")  # it may hold a password
        self.heartbeat = Heartbeat()
        self.garbage = GarbageCounter(self.name)
        self._url = url
        self._symbols = {f"{key_prefix}{CHANNEL}{symbol}".encode(): symbol for symbol in symbols}
        self._timing = timing or RedisTiming()
        self._backoff = Backoff(
            base_s=self._timing.backoff_base_s,
            cap_s=self._timing.backoff_cap_s,
            healthy_after_s=self._timing.healthy_after_s,
            rng=rng,
        )

    async def ticks(self) -> AsyncGenerator[Tick, None]:
        """Yield updates as received."""
        while True:
            await asyncio.sleep(self._backoff.delay_s())
            started_s = time.monotonic()
            try:
                async with self._client() as client, client.pubsub() as pubsub:
                    await pubsub.subscribe(*self._symbols)
                    log.info(events.FEED_CONNECTED, feed=self.name, channels=len(self._symbols))
                    while True:
                        message = await self._next_message(pubsub)
                        if message["type"] == "message" and (tick := self._read(message)):
                            yield tick
            except (RedisError, OSError) as error:
                reason = str(error) or type(error).__name__
                log.warning(events.FEED_DISCONNECTED, feed=self.name, reason=reason)
                self.heartbeat.fail(reason)
                self._backoff.ended(time.monotonic() - started_s)

    def _client(self) -> Redis:
        return async_client(
            self._url,
            socket_connect_timeout=self._timing.connect_timeout_s,
            socket_timeout=self._timing.lost_after_s,
            retry=Retry(NoBackoff(), 0),  # this class reconnects, with jitter, and says so
        )

    async def _next_message(self, pubsub: PubSub) -> dict[str, Any]:
        """The next message, pongs included. Raises ConnectionError when the server gives no sign of life."""
        pings = 0
        while True:
            message: dict[str, Any] | None = await pubsub.get_message(timeout=self._timing.ping_after_s)
            if message is not None:
                return message
            if pings * self._timing.ping_after_s >= self._timing.lost_after_s:
                raise ConnectionError(f"no answer in {self._timing.lost_after_s:g} s")
            await pubsub.ping()
            pings += 1

    def _read(self, message: dict[str, Any]) -> Tick | None:
        self.heartbeat.beat()
        payload = message["data"]
        tick = decode_update(self._symbols[message["channel"]], payload)
        if tick is None:
            self.garbage.add(payload)
        return tick
