"""Counters for Prometheus that all processes share: one hash in Redis, each field a name and its labels.

They begin anew when Redis is lost: to Prometheus a counter reset like any other. What cannot be written waits in this
process's memory and goes out with a later count. Nothing here may hold up or fail the work that is counted.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from redis import Redis
from redis.exceptions import RedisError

from deals.models import Detector
from deals.settlement import Report
from deals.signals import settled
from workers import keys
from workers.redis_client import connect

log = structlog.get_logger(__name__)

CLOSURES: Final = "closures"
SETTLEMENTS: Final = "settlements"
FAILURES: Final = "failures"
NEW_DEAD_LETTERS: Final = "new_dead_letters"
PUBLISH_ERRORS: Final = "publish_errors"
SWEEPS: Final = "sweeps"
SWEEP_US: Final = "sweep_us"
SWEEP_DEALS: Final = "sweep_deals"

STAGES: Final = ("tick_to_fired", "fired_to_started", "started_to_committed", "tick_to_committed")
BOUNDS_MS: Final = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000)
"""Upper bounds of a latency's buckets; what is slower falls into the last one, `inf`."""
INFINITE: Final = "inf"
SUM_US: Final = "sum"

MICROSECOND: Final = timedelta(microseconds=1)
PAUSE_S: Final = 5.0
"""How long a Redis that failed is left alone, so that not every settlement waits for its time-out."""


def field(*parts: object) -> str:
    """A field of the hash: a name and its labels."""
    return "|".join(str(part) for part in parts)


FIELDS: Final = {stage: [field(stage, name) for name in (*BOUNDS_MS, INFINITE, SUM_US)] for stage in STAGES}
"""The fields of each way: one a bucket, then the sum."""


class _Waiting:
    """What is not written yet. Thread-safe: the prices process counts from its sender's thread."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin with nothing: a forked process must not write what its parent will."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._away_until = 0.0

    def keep(self, counts: Mapping[str, int]) -> None:
        """Count in memory only."""
        with self._lock:
            self._counts.update(counts)

    def write(self, client: Redis | None) -> None:
        """Write all that waits, in one round trip; keep it when Redis does not answer."""
        with self._lock:
            if time.monotonic() < self._away_until:
                return
            counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            with (client or connect()).pipeline(transaction=False) as pipe:
                for name, count in counts.items():
                    pipe.hincrby(keys.counters(), name, count)
                pipe.execute()
        except RedisError as error:
            self._away_until = time.monotonic() + PAUSE_S
            self.keep(counts)
            log.warning("counters.not_written", fields=len(counts), error=str(error))


_waiting = _Waiting()
os.register_at_fork(after_in_child=_waiting.forget)


def count(counts: Mapping[str, int], client: Redis | None = None) -> None:
    """Add to the shared counters, with whatever waits from before. Never raises because Redis is away.

    An answer that is lost on the way may be counted twice.
    """
    _waiting.keep(counts)
    _waiting.write(client)


def note(*parts: object) -> None:
    """Count one trouble in memory: it goes out with the next count of this process, when Redis may answer again."""
    _waiting.keep({field(*parts): 1})


def write_waiting() -> None:
    """Write what was only noted so far, if anything was."""
    _waiting.write(None)


def read(client: Redis) -> dict[str, int]:
    """Every counter. Raises redis.RedisError."""
    found: Any = client.hgetall(keys.counters())
    return {name: int(value) for name, value in found.items()}


def connect_signals() -> None:
    """Called once when the application starts."""
    settled.connect(count_settled, dispatch_uid="workers.counters.count_settled")


def count_settled(report: Report, **_signal: Any) -> None:
    """Receives `settled`: one round trip a settlement, whoever ran it. Closures by hand have no latencies."""
    counts = Counter({SETTLEMENTS: 1})
    for (reason, detector), deals in Counter((item.reason, item.detector) for item in report.closed).items():
        counts[field(CLOSURES, reason, detector)] = deals
    watched = [item for item in report.closed if item.detector != Detector.MANUAL]
    started, committed = report.started_at, report.committed_at
    for (received, fired), deals in Counter((item.received_at, item.fired_at) for item in watched).items():
        _observe(counts, "tick_to_fired", received, fired, deals)
        _observe(counts, "fired_to_started", fired, started, deals)
        _observe(counts, "tick_to_committed", received, committed, deals)
    if watched:
        _observe(counts, "started_to_committed", started, committed, len(watched))
    count(counts)


def _observe(counts: Counter[str], stage: str, start: datetime | None, end: datetime | None, deals: int) -> None:
    """Put a way's duration into its bucket. Clocks of two machines may differ: nothing takes less than no time."""
    if start is None or end is None:
        return
    us = max(0, (end - start) // MICROSECOND)
    bucket, total = FIELDS[stage][bisect_left(BOUNDS_MS, us / 1000)], FIELDS[stage][-1]
    counts[bucket] += deals
    counts[total] += us * deals
