"""Counts what a feed sent that can't be read, and says so in the log without flooding it."""

from __future__ import annotations

import time

import structlog

from workers.sources import events

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_SAMPLE_BYTES = 200


class GarbageCounter:
    """Counts unreadable messages; the first is logged at once, the following at most once per `every_s`."""

    def __init__(self, feed: str, *, every_s: float = 60.0) -> None:
        self.total = 0
        self._feed = feed
        self._every_s = every_s
        self._logged_s: float | None = None

    def add(self, payload: bytes) -> None:
        """Count one message; its beginning may be logged."""
        self.total += 1
        now_s = time.monotonic()
        if self._logged_s is not None and now_s - self._logged_s < self._every_s:
            return
        self._logged_s = now_s
        sample = payload[:_SAMPLE_BYTES].decode(errors="backslashreplace")
        log.warning(events.FEED_GARBAGE, feed=self._feed, total=self.total, size=len(payload), sample=sample)
