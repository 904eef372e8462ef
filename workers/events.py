"""The log of what happens, for the operators' live stream: closures, fired deals, state, dead letters, operations.

One Redis stream of the last 10,000 events (a few more: it is trimmed by nodes), which every web process follows. An
event is news and never a record: it may be missing when Redis was away or a process died at the wrong moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from workers import keys
from workers.redis_client import connect

log = structlog.get_logger(__name__)

KEEP: Final = 10_000
LISTED: Final = 50
"""How many deals an event names; its `count` is of all. Both numbers stand in process_ticks.lua too."""


def add(client: Any, kind: str, data: Mapping[str, Any]) -> None:
    """Append an event, at once or to a pipeline. `data` is camelCase. Raises redis.RedisError."""
    text = json.dumps(data, separators=(",", ":"))
    client.xadd(keys.events(), {"type": kind, "data": text}, maxlen=KEEP, approximate=True)


def publish(kind: str, data: Mapping[str, Any]) -> None:
    """Append an event of something that stands whether it is told or not: trouble is logged."""
    try:
        add(connect(), kind, data)
    except RedisError as error:
        log.warning("event.not_published", kind=kind, error=str(error))
