"""Degraded mode, as health sees it: a prices process closes deals itself, and says so in PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

import psycopg

from monitoring import health
from monitoring.sql import statement
from monitoring.verdicts import Check, at_most

NAME: Final = "degraded"


class Alone(NamedTuple):
    """The row of degraded_drivers.sql. `reason` is for operators: it may hold addresses."""

    processes: int
    since: datetime | None


def watch() -> None:
    """Have health look for it. Called once at start-up."""
    health.register_check("orderClosure", NAME, ask=_ask, judge=_judge)


def _ask(cursor: psycopg.Cursor[Any]) -> Alone:
    row = cursor.execute(statement("degraded_drivers")).fetchone()
    return Alone(*row) if row is not None else Alone(0, None)


def _judge(alone: Alone) -> Check:
    reason = "Redis or the broker is away: the prices process closes deals itself."
    return at_most(NAME, alone.processes, 0, "processes", reason, since=alone.since)
