"""From fired to closed: what follows a settlement, and closing in the process that has the fired deals in its hands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog
from django.utils import timezone
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from deals import services
from deals.crash_points import crash_point
from deals.queries import watch_rows
from deals.settlement import Closure, Failure, settle
from workers import announce, book, counters, dead_letters
from workers.book import Fired
from workers.clock import WALL_CLOCK
from workers.dispatch import batches
from workers.receivers import arm_rows
from workers.retry import MAX_RETRIES

log = structlog.get_logger(__name__)


def after_commit(fired: Mapping[int, Fired], finished: list[int], changed: list[int]) -> None:
    """Take out of `fired` what PostgreSQL has decided, and arm what had changed. A Redis that is away is told later, by
    the sweep.
    """
    try:
        book.clear_fired((deal_id, fired[deal_id].version) for deal_id in finished)
        if changed:
            arm_rows(watch_rows(changed))
    except (RedisError, BrokerError) as error:
        log.warning("closures.fired_not_cleared", deals=len(finished), error=str(error))


def announce_closures(closed: list[Closure]) -> None:
    """Publish closures and notifications; what does not go out is published by the sweep."""
    try:
        announce.publish_closures(closed)
        announce.publish_settled(closed)
    except RedisError as error:
        counters.note(counters.PUBLISH_ERRORS, "announcement")
        log.warning("closures.not_announced", deals=len(closed), error=str(error))


def record_attempt(fired: Fired, failure: Failure, attempt: int) -> None:
    """Write into the deal's history, log and count that it could not be settled."""
    error = f"{type(failure.error).__name__}: {failure.error}"
    log.warning("deal.attempt_failed", deal_id=fired.deal_id, attempt=attempt, error=error)
    services.record_attempt(deal_id=fired.deal_id, version=fired.version, price=failure.due.price, error=error)
    counters.count({counters.field(counters.FAILURES, "deal"): 1})


class Closer:
    """Closes what has fired in this very process, when no worker can be told: by the same settlement.

    A deal that cannot be settled is tried again when it is handed in again (every 2 s); after three attempts it becomes
    a dead letter. `redis_answers` False: nobody is told, and the caller takes what is finished out of `fired` later.
    Not thread-safe.
    """

    def __init__(self) -> None:
        self.redis_answers = True
        self.closed = 0
        self._failed: dict[tuple[int, int], tuple[int, int]] = {}  # (deal, version): attempts, first failed (ms)

    def close(self, fired: Sequence[Fired]) -> list[Fired]:
        """Settle them, 500 in a transaction; returns those that need no more: closed, gone, changed, or buried.

        Raises Unavailable `system_not_running`, django.db.OperationalError and InterfaceError: hand them in again.
        """
        if not self.redis_answers:
            counters.pause()
        return [item for batch in batches(fired) for item in self._close(batch)]

    def _close(self, batch: Sequence[Fired]) -> list[Fired]:
        by_id = {item.deal_id: item for item in batch}
        report = settle([item.due() for item in by_id.values()], started_at=timezone.now())
        self.closed += len(report.closed)
        crash_point("alone.before_clearing")
        finished = report.finished
        if self.redis_answers:
            after_commit(by_id, finished, report.changed)
            crash_point("alone.before_announcing")
            announce_closures(report.closed)
        crash_point("alone.before_resolving")
        dead_letters.resolve(finished)
        buried = [failure.due.deal_id for failure in report.failed if self._bury(by_id[failure.due.deal_id], failure)]
        if buried:
            crash_point("alone.before_clearing_buried")
        if self.redis_answers and buried:
            after_commit(by_id, buried, [])
        return [by_id[deal_id] for deal_id in finished + buried]

    def _bury(self, fired: Fired, failure: Failure) -> bool:
        """Record a failed attempt; True when it was the last one, and the deal is a dead letter now."""
        key = (fired.deal_id, fired.version)
        before, first_failed_ms = self._failed.get(key, (0, WALL_CLOCK.now_ms()))
        attempt = before + 1
        record_attempt(fired, failure, attempt)
        self._failed[key] = (attempt, first_failed_ms)
        if attempt <= MAX_RETRIES:
            return False
        crash_point("alone.before_burying")
        dead_letters.bury(fired, failure, attempts=attempt, first_failed_ms=first_failed_ms, task="workers.closing")
        del self._failed[key]
        return True
