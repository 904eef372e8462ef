"""Deals that could not be settled: kept with their fired price, time and version, and put back on request."""

from __future__ import annotations

import traceback
from collections.abc import Collection
from typing import Final

import structlog
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from deals import locks, services
from deals.crash_points import crash_point
from deals.errors import Conflict, NotFound, Unavailable
from deals.settlement import Failure
from workers import audit, book, counters, events
from workers.audit import Actor
from workers.book import Fired
from workers.clock import WALL_CLOCK, to_datetime
from workers.dispatch import send_closures
from workers.models import DeadLetter
from workers.sql import statement

log = structlog.get_logger(__name__)

KEEP_FAILED = 200
KEEP_RESOLVED = 500

REQUEUE: Final = "dead_letter.requeue"
DISCARD: Final = "dead_letter.discard"


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
        facts = {
            "task": task,
            "error_class": type(error).__name__,
            "error": str(error),
            "traceback": "".join(traceback.format_exception(error)),
            "last_failed_at": now,
        }
        letter, created = DeadLetter.objects.get_or_create(
            deal_id=fired.deal_id,
            version=fired.version,
            defaults={
                **facts,
                "price": due.price,
                "fired": fired.entry,
                "fired_at": due.fired_at,
                "attempts": attempts,
                "first_failed_at": to_datetime(first_failed_ms),
            },
        )
        if not created:  # it was requeued and has failed again
            DeadLetter.objects.filter(pk=letter.pk, state=DeadLetter.State.REQUEUED).update(
                **facts, state=DeadLetter.State.FAILED, attempts=F("attempts") + attempts
            )
        crash_point("bury.before_commit")
    counters.count({counters.NEW_DEAD_LETTERS: 1})
    _publish(letter.pk)
    log.error("dead_letter.new", deal_id=fired.deal_id, symbol=fired.symbol, error=str(error), attempts=attempts)
    return True


def requeue(letter_id: int, actor: Actor, reason: str = "") -> DeadLetter:
    """Try to close the deal again, at the price that fired. A deal that is closed by now resolves its letter.

    One transaction makes the deal `pending` under a new version and, before the commit, puts the fired entry back under
    that version: without the commit the entry closes nothing, after it the deal is never without its price. Doing it
    twice changes nothing. A refusal is recorded, too. Raises NotFound, Conflict `letter_discarded`, `deal_changed`,
    Unavailable `system_not_running`, `redis_unavailable`.
    """
    letter = find(letter_id)
    with audit.refusals_recorded(actor, REQUEUE, target=_target(letter), reason=reason):
        return _requeue(letter, actor, reason)


def _requeue(letter: DeadLetter, actor: Actor, reason: str) -> DeadLetter:
    resolve([letter.deal_id])
    letter.refresh_from_db()
    if letter.state == DeadLetter.State.DISCARDED:
        raise Conflict("letter_discarded", "The letter was discarded: put the deal back into monitoring instead.")
    if letter.state != DeadLetter.State.FAILED:
        return letter
    try:
        fired = _put_back(letter, actor, reason)
    except RedisError as error:
        raise Unavailable("redis_unavailable", "Redis does not answer; nothing was changed.") from error
    except Conflict:
        letter.refresh_from_db()
        if letter.state != DeadLetter.State.REQUEUED:  # else someone else did the same at this moment
            raise
        return letter
    log.warning("dead_letter.requeued", deal_id=letter.deal_id, letter_id=letter.pk, user_id=actor.user_id)
    _publish(letter.pk)
    crash_point("requeue.before_sending")
    try:
        send_closures([fired])
    except BrokerError as error:  # the sweep sends it
        log.warning("dead_letter.not_sent", deal_id=letter.deal_id, error=str(error))
    return letter


def _put_back(letter: DeadLetter, actor: Actor, reason: str) -> Fired:
    with transaction.atomic():
        deal = services.revive(deal_id=letter.deal_id, version=letter.version)
        fired = Fired.parse(deal.pk, letter.fired)._replace(version=deal.watch_version)
        if book.fire_found([fired], now_ms=WALL_CLOCK.now_ms()) is None:
            raise Unavailable("system_not_running", "Redis does not say that the system runs; try again.")
        letter.state = DeadLetter.State.REQUEUED
        letter.version, letter.fired = deal.watch_version, fired.entry
        letter.save(update_fields=["state", "version", "fired"])
        audit.record(actor, REQUEUE, target=_target(letter), reason=reason)
        crash_point("requeue.before_commit")
    return fired


def discard(letter_id: int, actor: Actor, reason: str = "") -> DeadLetter:
    """Give the deal up for good: it is taken out of monitoring, and its user is told. Doing it twice changes nothing.

    A refusal is recorded, too. Raises NotFound, Conflict `letter_requeued` while the deal is on its way.
    """
    letter = find(letter_id)
    with audit.refusals_recorded(actor, DISCARD, target=_target(letter), reason=reason):
        return _discard(letter, actor, reason)


def _discard(letter: DeadLetter, actor: Actor, reason: str) -> DeadLetter:
    resolve([letter.deal_id])
    with transaction.atomic():
        deal = locks.lock_deal(letter.deal_id)
        letter.refresh_from_db()
        if letter.state == DeadLetter.State.REQUEUED:
            raise Conflict("letter_requeued", "The deal was put back and is on its way: wait for what comes of it.")
        if letter.state != DeadLetter.State.FAILED:
            return letter
        services.remove_from_monitoring(deal_id=deal.pk)
        letter.state = DeadLetter.State.DISCARDED
        letter.save(update_fields=["state"])
        audit.record(actor, DISCARD, target=_target(letter), reason=reason)
    log.warning("dead_letter.discarded", deal_id=deal.pk, letter_id=letter.pk, user_id=actor.user_id)
    _publish(letter.pk)
    return letter


def resolve(deal_ids: Collection[int] | None = None) -> int:
    """Resolve the letters, of some deals or of all, whose deal is closed or watched anew; returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(statement("resolve_letters"), {"ids": None if deal_ids is None else list(deal_ids)})
        resolved = [row[0] for row in cursor.fetchall()]
    if resolved:
        _publish(*resolved)
    return len(resolved)


def find(letter_id: int) -> DeadLetter:
    """One letter with its deal. Raises NotFound."""
    letter = DeadLetter.objects.select_related("deal").filter(pk=letter_id).first()
    if letter is None:
        raise NotFound("There is no such dead letter.")
    return letter


def _publish(*letter_ids: int) -> None:
    """Tell the operators how letters stand, once that is committed."""
    for letter in DeadLetter.objects.filter(pk__in=letter_ids[: events.LISTED]).select_related("deal").order_by("pk"):
        said = {
            "id": letter.pk,
            "dealId": letter.deal_id,
            "symbol": letter.deal.symbol,
            "state": letter.state,
            "error": f"{letter.error_class}: {letter.error}",
            "attempts": letter.attempts,
        }
        events.publish("deadLetter", said)


def _target(letter: DeadLetter) -> str:
    return f"dead letter {letter.pk}, deal {letter.deal_id}"


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
