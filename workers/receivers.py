"""What happens right after a deal has changed: its triggers go into the book, its user is told. Hints, not promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog
from django.conf import settings
from django.utils import timezone
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from deals.crash_points import crash_point
from deals.models import WATCHED, Detector
from deals.money import plain
from deals.prepared import execute_planned
from deals.queries import WatchRow, watch_rows
from deals.settlement import Report
from deals.sql import statement
from workers import announce, book, dead_letters
from workers.book import Fired
from workers.clock import WALL_CLOCK, Clock
from workers.dispatch import send_closures

log = structlog.get_logger(__name__)


def on_deal_changed(ids: list[int], rows: list[WatchRow] | None = None, **_signal: Any) -> None:
    """Bring the book in line with these deals' rows, publish their notifications, resolve their dead letters.

    When Redis or the broker is away the rows keep saying what is due (`pending`, unpublished) and the sweep does it.
    """
    if settings.STATIC_ONLY:
        return
    try:
        rows = watch_rows(ids) if rows is None else rows
        arm_rows(rows)
        if changed := [row.id for row in rows if row.watch_version > 1 or row.monitoring not in WATCHED]:
            dead_letters.resolve(changed)
        if told := [row.id for row in rows if row.monitoring not in WATCHED]:
            announce.publish_notifications(told)
    except (RedisError, BrokerError) as error:
        log.warning("deal.arming_postponed", deal_ids=ids[:20], error=str(error))


def on_settled(report: Report, **_signal: Any) -> None:
    """Publish a closure by hand. What fired is published by who settled it, once it has left `fired`."""
    by_hand = [closure for closure in report.closed if closure.detector == Detector.MANUAL]
    if settings.STATIC_ONLY or not by_hand:
        return
    try:
        announce.publish_closures(by_hand)
    except RedisError as error:
        log.warning("closures.not_announced", deals=len(by_hand), error=str(error))


def arm_rows(
    rows: list[WatchRow], *, clock: Clock = WALL_CLOCK, hand_over: Callable[[Sequence[Fired]], object] = send_closures
) -> int:
    """Arm what PostgreSQL says, write down that it is armed, hand over what fired at once; returns how many were armed.

    The book first, the row second: a crash in between leaves `pending`, and arming twice changes nothing. A deal that
    turns out to have changed since its row was read is armed, or taken out, as it is now.
    Raises redis.RedisError, kombu OperationalError.
    """
    crash_point("arm.before_book")
    armed = book.arm(rows, clock=clock)
    marked = note_armed(armed, hand_over=hand_over)
    if changed := [row.id for row in armed.pending if row.id not in marked]:
        arm_rows(watch_rows(changed), clock=clock, hand_over=hand_over)
    return len(marked)


def note_armed(armed: book.Armed, *, hand_over: Callable[[Sequence[Fired]], object] = send_closures) -> set[int]:
    """The second half of `arm_rows`; returns the ids of those that were marked. Raises kombu OperationalError."""
    crash_point("arm.before_row")
    pending = armed.pending
    marked = _mark_armed(pending) if pending else set()
    for row in pending:
        if row.id not in marked:
            continue
        log.info(
            "deal.armed", deal_id=row.id, symbol=row.symbol, version=row.watch_version,
            upper=_shown(row.upper_trigger), lower=_shown(row.lower_trigger),
        )  # fmt: skip
    if armed.fired:
        crash_point("arm.before_sending")
        hand_over(armed.fired)
        announce.publish_triggers(armed.fired)
    return marked


def _mark_armed(rows: Sequence[WatchRow]) -> set[int]:
    """The ids of those that are pending at that very version, and were marked."""
    words: dict[str, Any] = {
        "ids": [row.id for row in rows],
        "versions": [row.watch_version for row in rows],
        "now": timezone.now(),
    }
    return {deal_id for (deal_id,) in execute_planned(statement("mark_armed"), words, rows=len(rows))}


def _shown(trigger: Any) -> str | None:
    return None if trigger is None else plain(trigger)
