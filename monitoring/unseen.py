"""Health's look at what no sweep has seen: spans of time whose prices were forgotten before one looked at them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

from monitoring import health
from monitoring.sql import statement
from monitoring.verdicts import Check, at_most

NAME: Final = "sweepReach"


class Unseen(NamedTuple):
    """A row of unseen_spans.sql."""

    symbol: str
    since: datetime
    until: datetime


def watch() -> None:
    """Make it a check of `orderWorker`. Called once at start-up."""
    health.register_check("orderWorker", NAME, ask=_ask, judge=_judge)


def _ask(cursor: Any) -> list[Unseen]:
    return [Unseen(*row) for row in cursor.execute(statement("unseen_spans")).fetchall()]


def _judge(spans: list[Unseen]) -> Check:
    said = ", ".join(f"{span.symbol} {span.since:%H:%M:%S} to {span.until:%H:%M:%S} UTC" for span in spans[:10])
    more = f" and {len(spans) - 10} more" if len(spans) > 10 else ""  # noqa: PLR2004 - the ten shown
    reason = f"No sweep ran for longer than prices are kept. Not looked at: {said}{more}."
    return at_most(NAME, len(spans), 0, "symbols", reason, since=min((span.until for span in spans), default=None))
