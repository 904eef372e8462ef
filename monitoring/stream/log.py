"""Reads the log of events. A cursor is good while its entry is still in the log: then nothing after it was trimmed."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from monitoring.stream.wire import Place, cursor_of, event, place_of
from workers import keys
from workers.redis_client import BEGIN_EVENTS

CHUNK: Final = 20
"""How many entries are read at a time: whoever catches up holds as many while they are sent to him."""


class Gone(Exception):
    """The cursor is not in the log: trimmed, made up, or of another Redis."""


class Entry(NamedTuple):
    """An event of the log."""

    place: Place
    kind: str
    data: str

    @property
    def text(self) -> bytes:
        """As it is sent."""
        return event(self.kind, self.data, place=self.place)


async def end(redis: Redis) -> Place:
    """The place of the last entry; an empty log is begun. Raises redis.RedisError."""
    return _place(await BEGIN_EVENTS.run_async(redis, [keys.events()], []))


async def after(redis: Redis, place: Place) -> list[Entry]:
    """At most 20 entries after that place, oldest first. Raises Gone, redis.RedisError.

    The entry at that place is read with them, in one command: as long as it is there, no later one was trimmed.
    """
    cursor = cursor_of(place)
    found: Any = await redis.xrange(keys.events(), min=cursor, count=CHUNK + 1)
    if not found or found[0][0] != cursor:
        raise Gone
    return [Entry(_place(entry_id), fields["type"], fields["data"]) for entry_id, fields in found[1:]]


async def wait(redis: Redis, place: Place, limit_ms: int) -> None:
    """Return when there is something after that place, or the time is over. Raises redis.RedisError."""
    await redis.xread({keys.events(): cursor_of(place)}, count=1, block=limit_ms)


def _place(entry_id: str) -> Place:
    place = place_of(entry_id)
    if place is None:
        raise ValueError(f"Redis answered an entry id that is none: {entry_id}")
    return place
