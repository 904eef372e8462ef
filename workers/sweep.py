"""The safety net: every 2 s PostgreSQL is asked which watched deals the price window has reached.

Whatever the book says. In a healthy system it finds nothing to close. It depends on no message having arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import structlog
from django.conf import settings
from django.db import connection

from deals.crash_points import crash_point
from deals.models import WATCHED, Monitoring
from deals.queries import expiring_ids, pending_rows, watch_rows
from deals.sql import statement
from workers import announce, book, counters, keys, queues, system, windows
from workers.book import Fired
from workers.clock import WALL_CLOCK, Clock, to_datetime
from workers.dispatch import send_closures
from workers.exclusive import alone
from workers.receivers import arm_rows
from workers.redis_client import connect

log = structlog.get_logger(__name__)

SWEEP_LOCK: Final = 7306
RESEND_LIMIT: Final = 20_000
ARM_LIMIT: Final = 5_000
EXPIRE_LIMIT: Final = 1_000
RESEND_AFTER_MS: Final = 5_000
LONGEST_WAIT_MS: Final = 60_000
SWEEP_WORK: Final = ("found", "resent", "armed", "expired")

Close = Callable[[Sequence[Fired]], object]
"""Takes what has fired and closes it, or hands it to somebody who does."""


@dataclass
class SweepReport:
    """What one sweep did. `skipped` is True when another sweep was at work."""

    found: int = 0
    resent: int = 0
    armed: int = 0
    expired: int = 0
    published: int = 0
    duration_ms: int = 0
    skipped: bool = False
    book_lost: bool = False
    found_ids: list[int] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """The figures, for logs and statistics."""
        return {name: int(value) for name, value in asdict(self).items() if name != "found_ids"}


def sweep(*, clock: Clock = WALL_CLOCK, close: Close | None = None) -> SweepReport:
    """Run one sweep; returns at once when another one holds the lock.

    What fired and what is found is sent to the workers, or handed to `close` where they cannot be told.
    Raises redis.RedisError and django.db.OperationalError: the next sweep begins where this one did.
    """
    started = time.monotonic()
    report = SweepReport()
    if system.refresh_state().state != "running":
        report.published = announce.publish_waiting()
        return report
    with alone(SWEEP_LOCK) as mine:
        report.skipped = not mine
        if mine:
            _sweep(clock, report, close)
    report.duration_ms = round((time.monotonic() - started) * 1000)
    log.debug("sweep.done", **report.counts())
    return report


def remember(report: SweepReport, *, clock: Clock = WALL_CLOCK) -> None:
    """Say when the last sweep ended and what it did, and count it, unless another one was at work.

    Raises redis.RedisError.
    """
    if not report.skipped:
        figures: dict[Any, Any] = {"at": clock.now_ms(), **report.counts()}
        connect().hset(keys.last_sweep(), mapping=figures)
        done = {counters.field(counters.SWEEP_DEALS, name): getattr(report, name) for name in SWEEP_WORK}
        counters.count({counters.SWEEPS: 1, counters.SWEEP_US: report.duration_ms * 1000, **done})


def _sweep(clock: Clock, report: SweepReport, close: Close | None) -> None:
    if close is not None:  # first what has fired: at its price
        waiting = list(book.all_fired().values())
        close(waiting)
        report.resent = len(waiting)
    found = _find(clock, report)
    if report.found:
        log.warning("sweep.found", deals=report.found, ids=report.found_ids[:20])
    if found:
        announce.publish_triggers(found)
        crash_point("sweep.before_sending")
        (close or send_closures)(found)
    if close is None:
        report.resent = resend(clock=clock, but=[fired.deal_id for fired in found])
    report.expired = end_expired(clock=clock)
    report.armed = arm_rows(pending_rows(ARM_LIMIT), clock=clock, hand_over=close or send_closures)
    report.published = announce.publish_waiting()
    report.book_lost = connect().get(keys.book_epoch()) != system.server_run_id()


def _find(clock: Clock, report: SweepReport) -> list[Fired]:
    """Fire what the windows reached, then move the positions on. Stale symbols wait for their next good price.

    What a stop, or a Redis that has lost its memory, kept from firing is looked for again: the positions stay. The
    report counts what was armed: that the book has lost. What was still pending may be just on its way into the book.
    """
    now_ms = clock.now_ms()
    seen = [window for window in windows.from_redis(settings.SYMBOLS, windows.positions()) if window.is_fresh(now_ms)]
    found: list[Fired] = []
    for page in windows.due_pages(seen, now_ms, but=book.fired_versions() if seen else ()):
        fired_now = book.fire_found([item.fired for item in page], now_ms=now_ms)
        if fired_now is None:
            return found
        fired_now = _without_settled(fired_now)
        found += fired_now
        armed = {item.row.id for item in page if item.row.monitoring == Monitoring.ARMED}
        report.found_ids += [fired.deal_id for fired in fired_now if fired.deal_id in armed]
        report.found = len(report.found_ids)
    crash_point("sweep.before_advancing")
    windows.advance(seen)
    return found


def _without_settled(found: list[Fired]) -> list[Fired]:
    """Leave out what had fired and was settled between the two reads: it is in `fired` no more, and closed."""
    rows = {row.id: row for row in watch_rows(fired.deal_id for fired in found)}
    settled = [fired for fired in found if rows[fired.deal_id].monitoring not in WATCHED]
    book.clear_fired((fired.deal_id, fired.version) for fired in settled)
    return [fired for fired in found if rows[fired.deal_id].monitoring in WATCHED]


def resend(*, clock: Clock = WALL_CLOCK, but: Iterable[int] = ()) -> int:
    """Send again what has waited in `fired`: its message may be lost. Settling it twice changes nothing.

    With growing intervals: an entry of age t waits for t more. While the queue holds messages, theirs may be among
    them: only what has fired a minute ago is sent then. Returns how many were sent. Raises redis.RedisError, kombu
    OperationalError.
    """
    client = connect()
    now_ms = clock.now_ms()
    waiting = _waiting(now_ms)
    # Nothing is put off for so long: such a time was written before the clock was set back.
    ahead = client.zrangebyscore(keys.fired_at(), now_ms + 2 * LONGEST_WAIT_MS, "+inf", start=0, num=RESEND_LIMIT)
    ids = sorted({int(str(deal_id)) for deal_id in (*waiting, *ahead)} - set(but))
    if not ids:
        return 0
    fired = list(book.fired_among(ids).values())
    book.postpone({item.deal_id: now_ms + min(_age_ms(item, now_ms), LONGEST_WAIT_MS) for item in fired})
    crash_point("resend.before_sending")
    send_closures(fired)
    return len(fired)


def _waiting(now_ms: int) -> list[Any]:
    """Whose time has come, a minute later while the queue holds messages."""
    client: Any = connect()
    if not client.zcount(keys.fired_at(), "-inf", now_ms - RESEND_AFTER_MS):
        return []
    least_ms = LONGEST_WAIT_MS if queues.depth("closures") else RESEND_AFTER_MS
    return list(client.zrangebyscore(keys.fired_at(), "-inf", now_ms - least_ms, start=0, num=RESEND_LIMIT))


def _age_ms(fired: Fired, now_ms: int) -> int:
    """How long ago it fired; what fired in the future did so before the clock was set back, nobody knows how long."""
    return now_ms - fired.fired_ms if fired.fired_ms <= now_ms else LONGEST_WAIT_MS


def end_expired(*, clock: Clock = WALL_CLOCK) -> int:
    """End monitoring that has run its time, except for what has fired: that keeps its price and closes.

    Out of the book first: from then on no tick fires it, so that what is not in `fired` has not fired. A crash before
    the rows are written is found by the next sweep. Returns how many deals it ended.
    """
    now = to_datetime(clock.now_ms())
    ids = expiring_ids(now, EXPIRE_LIMIT)
    if not ids:
        return 0
    book.take_out(watch_rows(ids), clock=clock)
    ids = sorted(set(ids) - book.fired_among(ids).keys())
    crash_point("expire.before_rows")
    with connection.cursor() as cursor:
        cursor.execute(statement("expire_monitoring"), {"ids": ids, "now": now})
        expired = [row[0] for row in cursor.fetchall()]
    if expired:
        log.info("deal.expired", deal_ids=expired[:20], deals=len(expired))
    return len(expired)
