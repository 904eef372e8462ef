"""What still moves after firing and sweeping have stopped. Asked of Redis, the broker and PostgreSQL each time."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from django.db import connection
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from deals.state import STOP_LOCK
from workers import keys, queues
from workers.redis_client import connect
from workers.sweep import SWEEP_LOCK


class InFlight(NamedTuple):
    """How much is under way; `trouble` says who could not be asked."""

    queued: int
    fired: int
    closers: int
    sweeps: int
    trouble: str

    def __str__(self) -> str:
        """What is left, for a person; empty when nothing is."""
        counts = (
            (self.queued, "messages in the queue `closures`"),
            (self.fired, "fired deals not settled"),
            (self.closers, "transactions that open or close deals"),
            (self.sweeps, "sweep at work"),
        )
        left = [f"{count} {what}" for count, what in counts if count]
        return ", ".join([*left, self.trouble] if self.trouble else left)


def look(since: datetime) -> InFlight:
    """Everything that is under way; of the transactions those that began before `since`.

    Later ones belong to users who close by hand. Raises django.db.OperationalError.
    """
    queued = fired = 0
    trouble = ""
    try:
        fired = connect().hlen(keys.fired())
        queued = queues.depth("closures")
    except (RedisError, BrokerError) as error:
        trouble = f"the queue or Redis does not answer ({error})"
    return InFlight(queued, fired, _holders(STOP_LOCK, since), _holders(SWEEP_LOCK, None), trouble)


def _holders(lock: int, since: datetime | None) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*) FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
            WHERE locktype = 'advisory' AND classid = 0 AND objid = %(lock)s AND granted
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND (%(since)s::timestamptz IS NULL OR activity.xact_start < %(since)s)
            """,
            {"lock": lock, "since": since},
        )
        return int(cursor.fetchone()[0])
