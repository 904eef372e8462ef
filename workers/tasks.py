"""The Celery tasks: thin shells that read a message, call the work, and decide about another attempt.

Every task may run twice, be killed at any instruction, or come too late.
"""

from __future__ import annotations

from typing import Any

import structlog
from celery import Task, shared_task
from django.conf import settings
from django.utils import timezone

from deals.crash_points import crash_point
from deals.errors import Unavailable
from deals.settlement import Failure, record_lost_commits, settle
from workers import audit, book, closing, dead_letters, job_log, operations, reconcile, sweep
from workers.book import Fired
from workers.clock import WALL_CLOCK
from workers.dispatch import describe
from workers.retry import MAX_RETRIES, TRANSIENT, backoff_s

log = structlog.get_logger(__name__)


@shared_task(name="workers.close_deals", bind=True, max_retries=MAX_RETRIES, default_retry_delay=2)
def close_deals(self: Task[Any, Any], batch: list[list[Any]], first_failed_ms: int | None = None) -> int:
    """Settle a batch of fired deals, [deal id, fired entry] each; returns how many it closed.

    A lost connection is tried again after 2 and 4 s; then the task ends and the sweep re-sends what is still
    in `fired`. A deal with bad data is tried again alone, and after its attempts becomes a dead letter.
    """
    fired = {item.deal_id: item for item in book.read_fired((deal_id, entry) for deal_id, entry in batch)}
    crash_point("settle.before_locks")
    try:
        report = settle([item.due() for item in fired.values()], started_at=timezone.now())
    except Unavailable as refused:
        log.warning("closures.refused", deals=len(fired), why=refused.message)
        return 0
    except TRANSIENT as error:
        log.warning("closures.retry", deals=len(fired), attempt=self.request.retries + 1, error=str(error))
        # Celery keeps `argsrepr` for no second attempt.
        shown: dict[str, Any] = {"argsrepr": describe(list(fired.values()))}
        raise self.retry(exc=error, countdown=backoff_s(self.request.retries), **shown) from error
    crash_point("settle.before_clearing")
    # What was closed leaves `fired`; so does what a later read shows is not due any more.
    closing.after_commit(fired, report.finished, report.changed)
    crash_point("settle.before_announcing")
    closing.announce_closures(report.closed)
    dead_letters.resolve(report.finished)
    for failure in report.failed:
        _try_alone_again(self, fired[failure.due.deal_id], failure, first_failed_ms)
    crash_point("settle.before_end")
    return len(report.closed)


def _try_alone_again(task: Task[Any, Any], fired: Fired, failure: Failure, first_failed_ms: int | None) -> None:
    attempt = task.request.retries + 1
    since_ms = first_failed_ms or WALL_CLOCK.now_ms()
    closing.record_attempt(fired, failure, attempt)
    if attempt > MAX_RETRIES:
        dead_letters.bury(fired, failure, attempts=attempt, first_failed_ms=since_ms, task=str(task.name))
        crash_point("bury.before_clearing")
        book.clear_fired([(fired.deal_id, fired.version)])
        return
    delay_s = backoff_s(task.request.retries)
    book.postpone({fired.deal_id: WALL_CLOCK.now_ms() + 2 * delay_s * 1000})
    # Options of Celery's that its stubs do not know.
    options: dict[str, Any] = {"argsrepr": describe([fired]), "retries": attempt}
    message = [[fired.deal_id, fired.entry]]
    task.apply_async(args=(message,), kwargs={"first_failed_ms": since_ms}, countdown=delay_s, **options)


@shared_task(name="workers.sweep", soft_time_limit=10, time_limit=12)
def sweep_task() -> dict[str, int]:
    """Find what the book missed, re-send what waits, arm what is pending, end what has run its time."""
    if settings.STATIC_ONLY:
        return {}
    report = sweep.sweep()
    sweep.remember(report)
    if report.book_lost:
        reconcile_task.apply_async(retry=False)
    return report.counts()


@shared_task(name="workers.reconcile", soft_time_limit=30, time_limit=40)
def reconcile_task() -> int:
    """Rebuild a lost book, or check the next range of a good one; see workers/reconcile.py."""
    return 0 if settings.STATIC_ONLY else reconcile.reconcile()


@shared_task(name="workers.housekeeping")
def housekeeping() -> int:
    """Do what someone died over (letters to resolve, commit times), and trim what is kept only for a while."""
    dead_letters.resolve()
    record_lost_commits()
    return dead_letters.trim() + job_log.trim() + operations.trim() + audit.trim()
