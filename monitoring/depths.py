"""How deep the queues were: sampled every 2 s by one of the web processes, kept in Redis for an hour, losable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import structlog
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from workers import keys, queues
from workers.clock import WALL_CLOCK, to_datetime
from workers.redis_client import connect
from workers.repeating import RepeatingThread

log = structlog.get_logger(__name__)

EVERY_S: Final = 2.0
TURN_MS: Final = 1_800
"""Who samples takes the turn of all web processes for a little less than the interval."""

KEEP_MS: Final = 65 * 60_000
BROKER_LIMIT_S: Final = 1.0

Depths = dict[str, int]


def sample() -> bool:
    """Write down how deep each queue is now, unless another process has just done so. Whether it was written.

    Raises redis.RedisError, kombu's OperationalError.
    """
    client: Any = connect()
    if not client.set(keys.depths_turn(), "1", nx=True, px=TURN_MS):
        return False
    found = {row.queue: row.depth for row in queues.waiting(BROKER_LIMIT_S)}
    now_ms = WALL_CLOCK.now_ms()
    client.xadd(keys.depths(), found, minid=now_ms - KEEP_MS, approximate=True)
    return True


def by_minute(since: datetime) -> dict[datetime, Depths]:
    """The deepest each queue was in each minute; a minute without a sample is missing. Raises redis.RedisError."""
    client: Any = connect()
    minutes: dict[datetime, Depths] = defaultdict(dict)
    for name, depths in client.xrange(keys.depths(), min=round(since.timestamp() * 1000)):
        at = to_datetime(int(name.split("-")[0]))
        deepest = minutes[at.replace(second=0, microsecond=0)]
        for queue, depth in depths.items():
            deepest[queue] = max(int(depth), deepest.get(queue, 0))
    return dict(minutes)


class DepthThread(RepeatingThread):
    """Samples until it is stopped; `alive()` says that the process's real work goes on."""

    def __init__(self, alive: Callable[[], bool]) -> None:
        super().__init__(
            sample,
            name="queue-depths",
            every_s=EVERY_S,
            alive=alive,
            away=(RedisError, BrokerError, OSError),
            missed=lambda error: log.warning("depths.not_sampled", error=str(error)),
            at_once=False,
        )
