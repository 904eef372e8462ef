"""The system state: the one row that says whether deals may open, fire and settle. Changed here and nowhere else."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Final

import structlog
from django.db import OperationalError, connection, transaction
from django.db.models import F
from django.utils import timezone
from psycopg import errors as pg

from deals.models import SystemState

log = structlog.get_logger(__name__)
State = SystemState.State

STOP_LOCK: Final = 7305
"""Advisory lock: closers hold it shared (hold_stop_lock.sql), an emergency stop takes it exclusively."""

PATIENCE: Final = timedelta(milliseconds=200)
ATTEMPTS: Final = 4


def change(state: SystemState.State, reason: str, *, only_from: Collection[SystemState.State] = tuple(State)) -> bool:
    """Move to another state; False when the system is in it already, or in none of `only_from`. One guarded update."""
    changed = (
        SystemState.objects.filter(pk=1, state__in=only_from)
        .exclude(state=state)
        .update(state=state, version=F("version") + 1, changed_at=timezone.now(), reason=reason)
    )
    if changed:
        log.warning("system.state", state=str(state))
    return bool(changed)


def halt(reason: str) -> None:
    """Emergency stop: after it returns, no deal opens or closes until the system is resumed.

    1. commit `halted`; 2. take the stop lock exclusively, for a short time; 3. if closers still hold it, end their
    backends and take it again. Whoever comes later reads `halted`. Answers within a second.
    Raises RuntimeError inside a transaction, OperationalError if a closer cannot be ended (the state is `halted` then).
    """
    with transaction.atomic(durable=True):
        change(State.HALTED, reason)
    for _attempt in range(ATTEMPTS):
        if _wait_for_closers():
            return
        _end_closers()
    raise OperationalError("closers still hold the stop lock: stop the workers by hand")


def _wait_for_closers() -> bool:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {PATIENCE // timedelta(milliseconds=1)}")
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [STOP_LOCK])
    except OperationalError as error:
        if isinstance(error.__cause__, pg.LockNotAvailable):
            return False
        raise
    return True


def _end_closers() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(pg_terminate_backend(pid)) FROM pg_locks
            WHERE locktype = 'advisory' AND classid = 0 AND objid = %s AND granted AND pid <> pg_backend_pid()
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            """,
            [STOP_LOCK],
        )
        ended = cursor.fetchone()
    log.warning("system.closers_ended", backends=ended[0] if ended else 0)
