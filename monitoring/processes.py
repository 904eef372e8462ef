"""The processes that give signs of life, and what they say of themselves."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from workers.clock import WALL_CLOCK, to_datetime
from workers.heartbeats import Beat, read_beats


class Process(NamedTuple):
    """A process with its last sign; what a role does not know is None."""

    role: str
    name: str
    pid: int
    started_at: datetime
    seen_at: datetime
    age_ms: int
    queues: list[str] | None
    concurrency: int | None
    active: int | None
    source: str | None
    feed_age_ms: int | None
    held: list[str] | None
    accepted: int | None
    pending: int | None
    listeners: int | None


def processes() -> list[Process]:
    """Every process, by role and name. Raises redis.RedisError."""
    now_ms = WALL_CLOCK.now_ms()
    return [_process(beat, now_ms) for beat in read_beats()]


def _process(beat: Beat, now_ms: int) -> Process:
    facts: Any = beat.facts
    return Process(
        role=beat.role,
        name=beat.name,
        pid=beat.pid,
        started_at=to_datetime(beat.started_ms),
        seen_at=to_datetime(beat.at_ms),
        age_ms=max(0, now_ms - beat.at_ms),
        queues=facts.get("queues"),
        concurrency=facts.get("concurrency"),
        active=facts.get("active"),
        source=facts.get("source"),
        feed_age_ms=facts.get("feedAgeMs"),
        held=facts.get("held"),
        accepted=facts.get("accepted"),
        pending=facts.get("pending"),
        listeners=facts.get("listeners"),
    )
