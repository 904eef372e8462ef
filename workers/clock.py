"""The clock as an argument: the wall clock for the running system, the tape's own for a replay."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """Tells the time in milliseconds since 1970 UTC."""

    def now_ms(self) -> int:
        """The current time."""
        ...


class WallClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """The current time."""
        return time.time_ns() // 1_000_000


class TapeClock:
    """Stands still until it is set: a replay sets it to each tick's exchange time."""

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms

    def set(self, now_ms: int) -> None:
        """Move to a time; it never goes back."""
        self._now_ms = max(self._now_ms, now_ms)

    def now_ms(self) -> int:
        """The time last set."""
        return self._now_ms


WALL_CLOCK = WallClock()


@lru_cache(maxsize=1024)
def to_datetime(at_ms: int) -> datetime:
    """Milliseconds since 1970 as an aware datetime, exact to the millisecond.

    Remembers the last ones: all that one tick fires has its times.
    """
    seconds, ms = divmod(at_ms, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=ms * 1000)


def to_ms(at: datetime) -> int:
    """The other way round."""
    return round(at.timestamp() * 1000)
