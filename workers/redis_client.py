"""Connections to Redis or Valkey, and the Lua scripts. Every call ends within REDIS_TIMEOUT_S."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
from django.conf import settings
from redis.asyncio.connection import Connection
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from workers import sentinel

OnConnect = Callable[[Connection], Awaitable[None]]
"""Called with each new connection, in place of its own `on_connect`, before anything is sent on it."""

SCRIPTS = Path(__file__).parent / "scripts"


@cache
def connect() -> redis.Redis:
    """This process's client for synchronous code; thread-safe, and a broken connection is tried once more."""
    return sentinel.client(settings.REDIS_URL, retry=Retry(NoBackoff(), 1), **_options())


def connect_async(on_connect: OnConnect | None = None) -> redis.asyncio.Redis:
    """A client for one event loop. The caller closes it. Calls are not repeated: the caller knows what may be
    sent twice."""
    return sentinel.async_client(settings.REDIS_URL, retry=None, redis_connect_func=on_connect, **_options())


def _options() -> dict[str, Any]:
    return {
        "decode_responses": True,
        "socket_timeout": settings.REDIS_TIMEOUT_S,
        "socket_connect_timeout": settings.REDIS_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": 5,
    }


class Script:
    """A Lua script beside this file, sent by its digest."""

    def __init__(self, name: str) -> None:
        self.text = (SCRIPTS / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def run(self, client: redis.Redis, keys: list[str], args: list[Any]) -> Any:
        """Run it; a server that does not know it (new, or restarted empty) gets the text."""
        try:
            return client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return client.eval(self.text, len(keys), *keys, *args)

    def queue(self, pipe: redis.client.Pipeline, keys: list[str], args: list[Any]) -> None:
        """Have a pipeline run it on a server that knows it."""
        pipe.evalsha(self.sha, len(keys), *keys, *args)

    async def run_async(self, client: redis.asyncio.Redis, keys: list[str], args: list[Any]) -> Any:
        """The same on an event loop."""
        try:
            return await client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.eval(self.text, len(keys), *keys, *args)


PROCESS_TICKS = Script("process_ticks")
ARM = Script("arm")
FIRE_FOUND = Script("fire_found")
CLEAR_FIRED = Script("clear_fired")
READ_QUOTE = Script("read_quote")
HOLD_LEASES = Script("hold_leases")
RELEASE_LEASES = Script("release_leases")
CACHE_STATE = Script("cache_state")
PUT_BACK = Script("put_back")
BEGIN_EVENTS = Script("begin_events")
PUBLISH = Script("publish")
WRITE_CANDLES = Script("write_candles")
READ_CANDLES = Script("read_candles")
TRIGGER_DENSITY = Script("trigger_density")
