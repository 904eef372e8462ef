"""What `fired` holds, and the moment at which the tests of the book begin."""

from __future__ import annotations

from typing import Any

from workers import book, keys
from workers.redis_client import connect

NOW = 1_767_873_600_000


def fired_now() -> dict[int, tuple[int, str, str]]:
    return {item.deal_id: (item.version, item.price, item.detector) for item in book.all_fired().values()}


def waits() -> set[str]:
    client: Any = connect()
    return set(client.zrange(keys.fired_at(), 0, -1))
