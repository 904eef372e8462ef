"""Deals that could not be settled: kept with their fired price, time and version, and put back on request."""

from __future__ import annotations

import traceback

import structlog
from django.db import transaction
from django.utils import timezone

from deals import services
from deals.settlement import Failure
from workers.book import Fired
from workers.clock import to_datetime
from workers.models import DeadLetter

log = structlog.get_logger(__name__)

KEEP_FAILED = 200
KEEP_RESOLVED = 500


def bury(fired: Fired, failure: Failure, *, attempts: int, first_failed_ms: int, task: str) -> bool:
    """Record a deal that failed for good and mark it `dead`, in one transaction; then it leaves `fired`.

    False when the deal was closed or changed meanwhile. Doing it twice changes nothing.
    """
    error = failure.error
    now = timezone.now()
    due = fired.due()
    with transaction.atomic():
        if not services.mark_dead(deal_id=fired.deal_id, version=fired.version, error=str(error), now=now):
            return False
        DeadLetter.objects.get_or_create(
            deal_id=fired.deal_id,
            version=fired.version,
            defaults={
                "task": task,
                "price": due.price,
                "fired": fired.entry,
                "fired_at": due.fired_at,
                "error_class": type(error).__name__,
                "error": str(error),
                "traceback": "".join(traceback.format_exception(error)),
                "attempts": attempts,
                "first_failed_at": to_datetime(first_failed_ms),
                "last_failed_at": now,
            },
        )
    log.error("dead_letter.new", deal_id=fired.deal_id, symbol=fired.symbol, error=str(error), attempts=attempts)
    return True


def trim() -> int:
    """Delete the oldest letters beyond 200 failed and 500 resolved ones; returns how many."""
    deleted = 0
    for states, keep in (
        ((DeadLetter.State.FAILED, DeadLetter.State.REQUEUED), KEEP_FAILED),
        ((DeadLetter.State.RESOLVED, DeadLetter.State.DISCARDED), KEEP_RESOLVED),
    ):
        letters = DeadLetter.objects.filter(state__in=states).order_by("-last_failed_at", "-pk")
        old = list(letters.values_list("pk", flat=True)[keep:])
        deleted += DeadLetter.objects.filter(pk__in=old).delete()[0]
    return deleted
