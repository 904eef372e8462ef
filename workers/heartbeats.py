"""Signs of life in Redis: every process of the system says every 2 s that it lives and what it does.

A sign is `heartbeat:{role}:{name}`, JSON with a time to live of 15 s, so that it ends with its process. `heartbeats`
lists the names. Nobody decides here what is healthy.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import structlog
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError

from workers import keys
from workers.clock import WALL_CLOCK
from workers.redis_client import connect
from workers.repeating import RepeatingThread

log = structlog.get_logger(__name__)

EVERY_S: Final = 2.0
TTL_MS: Final = 15_000

Facts = Mapping[str, Any]


class Beat(NamedTuple):
    """A sign of life as it was read; times in ms since 1970, `facts` as the role writes them."""

    role: str
    name: str
    pid: int
    started_ms: int
    at_ms: int
    facts: Facts


class Sign:
    """The sign of one process. `role` is `prices`, `worker`, `beat` or `web`; `name` is unique within the role."""

    def __init__(self, role: str, name: str) -> None:
        self.role = role
        self.name = name
        self._started_ms = WALL_CLOCK.now_ms()

    def write(self, facts: Facts, client: Redis | None = None) -> None:
        """Say that the process lives now. Raises redis.RedisError."""
        pipe: Any = (client or connect()).pipeline(transaction=False)
        self._queue(pipe, facts)
        pipe.execute()

    async def write_async(self, facts: Facts, client: AsyncRedis) -> None:
        """The same on an event loop. Raises redis.RedisError."""
        pipe: Any = client.pipeline(transaction=False)
        self._queue(pipe, facts)
        await pipe.execute()

    def _queue(self, pipe: Any, facts: Facts) -> None:
        now_ms = WALL_CLOCK.now_ms()
        sign = {
            "role": self.role, "name": self.name, "pid": os.getpid(), "startedAt": self._started_ms, "at": now_ms,
        }  # fmt: skip
        pipe.set(keys.heartbeat(self.role, self.name), json.dumps(sign | dict(facts)), px=TTL_MS)
        pipe.zadd(keys.heartbeats(), {self._member: now_ms})
        pipe.zremrangebyscore(keys.heartbeats(), "-inf", now_ms - 4 * TTL_MS)

    def erase(self, client: Redis | None = None) -> None:
        """Take the sign away: the process ends in order. Raises redis.RedisError."""
        redis = client or connect()
        redis.delete(keys.heartbeat(self.role, self.name))
        redis.zrem(keys.heartbeats(), self._member)

    async def erase_async(self, client: AsyncRedis) -> None:
        """The same on an event loop. Raises redis.RedisError."""
        await client.delete(keys.heartbeat(self.role, self.name))
        await client.zrem(keys.heartbeats(), self._member)

    @property
    def _member(self) -> str:
        return f"{self.role}:{self.name}"


def process_name() -> str:
    """A name for one of several like processes of a host: the death of one must not hide behind another."""
    return f"{socket.gethostname()}:{os.getpid()}"


class SignThread(RepeatingThread):
    """Writes a sign every 2 s from a thread, for as long as `alive()` says that the process's real work goes on."""

    def __init__(self, sign: Sign, *, facts: Callable[[], Facts], alive: Callable[[], bool]) -> None:
        super().__init__(
            lambda: sign.write(facts()),
            name=f"heartbeat-{sign.role}",
            every_s=EVERY_S,
            alive=alive,
            away=(RedisError,),
            missed=lambda error: log.warning("heartbeat.not_written", role=sign.role, error=str(error)),
        )
        self._sign = sign

    def stop(self) -> None:
        """End and take the sign away; waits at most a few seconds for a write that is under way."""
        super().stop()
        try:
            self._sign.erase()
        except RedisError as error:
            log.warning("heartbeat.not_erased", role=self._sign.role, error=str(error))


def read_beats(client: Redis | None = None) -> list[Beat]:
    """Every sign that has not run out, by role and name. Raises redis.RedisError."""
    redis: Any = client or connect()
    members = redis.zrange(keys.heartbeats(), 0, -1)
    if not members:
        return []
    texts = redis.mget([keys.heartbeat(*member.split(":", 1)) for member in members])
    return sorted(_parse(text) for text in texts if text is not None)


def _parse(text: str) -> Beat:
    facts = json.loads(text)
    role, name, pid = facts.pop("role"), facts.pop("name"), facts.pop("pid")
    return Beat(role, name, pid, facts.pop("startedAt"), facts.pop("at"), facts)
