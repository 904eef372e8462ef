"""Who drives a symbol, in PostgreSQL: which prices process may sweep from its own memory while Redis is away.

While Redis answers, its leases decide and are only copied here. Without it the process that drove a symbol goes on;
another one begins when that one has not been seen for 5 s.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from django.db import connection

from workers.clock import to_datetime
from workers.models import PriceDriver
from workers.sql import statement


def next_token() -> int:
    """A fencing token: it rises for ever, because PostgreSQL keeps it. Raises django.db.OperationalError."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('price_fencing_token')")
        return int(cursor.fetchone()[0])


def record(
    symbols: Collection[str],
    *,
    owner: str,
    token: int,
    degraded_since: datetime | None = None,
    reason: str = "",
    only_free: bool = False,
) -> dict[str, int]:
    """Say that this process drives these symbols; with `only_free` those that nobody else drives.

    Returns the symbols that it drives now, with the newest fencing token ever used for them: an older one must be
    renewed before prices are numbered with it. Raises django.db.OperationalError.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            statement("drive"),
            {
                "symbols": list(symbols),
                "owner": owner,
                "token": token,
                "degraded_since": degraded_since,
                "reason": reason,
                "only_free": only_free,
            },
        )
        return dict(cursor.fetchall())


def release(owner: str) -> None:
    """Leave the symbols to whoever wants them; their tokens stay. Raises django.db.OperationalError."""
    PriceDriver.objects.filter(owner=owner).update(seen_at=to_datetime(0))
