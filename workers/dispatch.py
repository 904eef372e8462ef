"""Hands fired deals to Celery in batches. A message is a hint: `fired` in Redis and the sweep are the promise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from celery import current_app
from kombu.exceptions import OperationalError

from workers import counters
from workers.book import Fired

BATCH: Final = 500


def send_closures(fired: Sequence[Fired]) -> None:
    """Publish `workers.close_deals` messages of at most 500 deals. Raises kombu's OperationalError when it cannot."""
    for batch in batches(fired):
        message = [[item.deal_id, item.entry] for item in batch]
        try:
            current_app.send_task("workers.close_deals", args=(message,), argsrepr=describe(batch), retry=False)
        except OperationalError:
            counters.note(counters.PUBLISH_ERRORS, "queue")
            raise
    counters.write_waiting()


def batches(fired: Sequence[Fired]) -> Iterator[Sequence[Fired]]:
    """Cut into batches of at most 500."""
    for start in range(0, len(fired), BATCH):
        yield fired[start : start + BATCH]


def describe(batch: Sequence[Fired]) -> str:
    """What Flower shows for a message: deal ids, not walls of JSON."""
    shown = ", ".join(str(item.deal_id) for item in batch[:10])
    more = f" and {len(batch) - 10} more" if len(batch) > 10 else ""  # noqa: PLR2004 - the ten shown above
    return f"deals {shown}{more}"
