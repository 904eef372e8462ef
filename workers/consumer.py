"""The worker's consumer: it looks for a lost broker every 2 s, however long that is away."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from celery.worker import consumer

RETRY_S: Final = 2.0


class Consumer(consumer.Consumer):
    """As Celery's, whose waits grow to 30 s: a broker that is back would be left alone with its backlog for so long."""

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying again until it succeeds or the worker ends."""
        conn.ensure_connection = partial(
            conn.ensure_connection, interval_start=RETRY_S, interval_step=0, interval_max=RETRY_S
        )
        return super().ensure_connected(conn)
