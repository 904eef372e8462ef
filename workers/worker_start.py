"""What a starting Celery worker does before it consumes. Registered when the application is ready."""

from __future__ import annotations

from typing import Any

import structlog
from celery.signals import worker_init, worker_process_init
from django.db import connection
from redis.exceptions import RedisError

from workers import system
from workers.garbage import collect_rarely
from workers.retry import DATABASE_ERRORS

log = structlog.get_logger(__name__)


@worker_init.connect(weak=False)
def before_consuming(**_signal: Any) -> None:
    """Read the system state, say it, and tell Redis, which may have lost it. Settlement itself asks PostgreSQL again.

    A worker that cannot read it starts all the same: without PostgreSQL its tasks do nothing either.
    """
    from workers import remote_control  # noqa: F401 - registers its command, which only a worker can run

    try:
        current = system.refresh_state()
        log.info("worker.state", state=current.state, version=current.version)
    except (*DATABASE_ERRORS, RedisError) as error:
        log.warning("worker.state_unknown", error=str(error))
    finally:
        connection.close()  # the pool's processes must not share it


@worker_process_init.connect(weak=False)
def before_working(**_signal: Any) -> None:
    """Keep the garbage collector from going through a batch while it is settled."""
    collect_rarely()
