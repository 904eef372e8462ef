"""The cache that counts requests for the API's throttles. It goes on counting while Redis is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeVar

import redis
import structlog
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from django.utils.functional import cached_property
from redis.exceptions import RedisError

from workers import sentinel

log = structlog.get_logger(__name__)
T = TypeVar("T")

PAUSE_S: Final = 2.0
"""How long Redis is left alone after an error, so that not every request waits for its time-out."""


class _Client(RedisCacheClient):
    """Django's with one client of our own, which also follows a master behind Sentinels."""

    def __init__(self, server: str, **options: Any) -> None:
        super().__init__([server])
        self._follower = sentinel.client(server, **options)

    def get_client(self, key: Any = None, *, write: bool = False) -> redis.Redis:  # noqa: ARG002 Django's signature
        """The same for every key."""
        return self._follower


class SturdyRedisCache(RedisCache):
    """Django's Redis cache whose `get` and `set` use this process's memory while Redis is away.

    Throttles then count per process: the API keeps answering, and guessing passwords stays slow.
    """

    away_until: ClassVar[float] = 0.0
    _clients: ClassVar[dict[str, RedisCacheClient]] = {}

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._server = server
        self._client_options = dict(params.get("OPTIONS", {}))
        self._memory = LocMemCache("sturdy", {**params, "OPTIONS": {}})

    @cached_property
    def _cache(self) -> RedisCacheClient:
        """One client, with its pool of connections, for the process: under ASGI each request makes its own cache."""
        if self._server not in self._clients:
            self._clients[self._server] = _Client(self._server, **self._client_options)
        return self._clients[self._server]

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """The value, or the default."""
        return self._either(
            lambda: super(SturdyRedisCache, self).get(key, default, version),
            lambda: self._memory.get(key, default, version),
        )

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Keep a value for `timeout` seconds."""
        self._either(
            lambda: super(SturdyRedisCache, self).set(key, value, timeout, version),
            lambda: self._memory.set(key, value, timeout, version),
        )

    def _either(self, ask_redis: Callable[[], T], ask_memory: Callable[[], T]) -> T:
        if time.monotonic() >= SturdyRedisCache.away_until:
            try:
                return ask_redis()
            except RedisError as error:
                SturdyRedisCache.away_until = time.monotonic() + PAUSE_S
                log.warning("cache.redis_away", error=str(error))
        return ask_memory()
