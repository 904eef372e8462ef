"""Hands fired deals to Celery in batches. A message is a hint: `fired` in Redis and the sweep are the promise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Final

from celery import current_app
from django.conf import settings
from kombu.exceptions import OperationalError

from deals.crash_points import crash_point
from workers import counters
from workers.book import Fired

BATCH: Final = 500
REACH_S: Final = 1.0


def send_closures(fired: Sequence[Fired]) -> None:
    """Publish `workers.close_deals` messages of at most 500 deals. Raises kombu's OperationalError when it cannot,
    whatever the broker's library raises.

    The deals go by number, not by price as the book gives them: then what a batch touches lies together in PostgreSQL.
    """
    for batch in batches(sorted(fired, key=attrgetter("deal_id"))):
        message = [[item.deal_id, item.entry] for item in batch]
        crash_point("hand_over.before_message")
        try:
            with _producer() as producer:
                current_app.send_task(
                    "workers.close_deals", args=(message,), argsrepr=describe(batch), retry=False, producer=producer
                )
        except OperationalError:
            counters.note(counters.PUBLISH_ERRORS, "queue")
            raise
        crash_point("hand_over.after_message")
    counters.write_waiting()


@contextmanager
def _producer() -> Iterator[Any]:
    """A producer of the pool. Raises kombu's OperationalError also for what kombu does not take for one of its own: an
    exchange that was deleted is a channel error that no retry mends.

    The connection is given up then: it would go on believing that what was deleted is declared.
    """
    with current_app.producer_or_acquire() as producer:
        link: Any = producer.connection
        try:
            yield producer
        except OperationalError:
            raise
        except (*link.connection_errors, *link.channel_errors) as error:
            link.collect()
            raise OperationalError(f"{type(error).__name__}: {error}") from error


def reach_broker() -> None:
    """Connect to the broker, anew. Raises kombu's OperationalError, or what the broker's library raises."""
    redis = {"socket_timeout": REACH_S, "socket_connect_timeout": REACH_S}
    options = redis if hasattr(settings, "CELERY_BROKER_TRANSPORT_OPTIONS") else {}
    link: Any = current_app.connection_for_write(connect_timeout=REACH_S, transport_options=options)
    with link as connection:
        connection.ensure_connection(max_retries=0, timeout=REACH_S)


def batches(fired: Sequence[Fired]) -> Iterator[Sequence[Fired]]:
    """Cut into batches of at most 500."""
    for start in range(0, len(fired), BATCH):
        yield fired[start : start + BATCH]


def describe(batch: Sequence[Fired]) -> str:
    """What Flower shows for a message: deal ids, not walls of JSON."""
    shown = ", ".join(str(item.deal_id) for item in batch[:10])
    more = f" and {len(batch) - 10} more" if len(batch) > 10 else ""  # noqa: PLR2004 - the ten shown above
    return f"deals {shown}{more}"
