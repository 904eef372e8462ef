"""A worker that begins to end does end: its supervisor starts another one only when it is gone.

Celery's shutdown may wait for ever: when a process of the pool was interrupted by its time limit or killed while it
wrote its result, the worker finds half a message ("Unrecoverable error") and then waits for the rest of it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any, Final

from celery import Celery, bootsteps

SLACK_S: Final = 5.0


def install(app: Celery) -> None:
    """Have the workers of this application end in time."""
    app.steps["worker"].add(EndInTime)


class EndInTime(bootsteps.StartStopStep):
    """Bounds the shutdown: what runs may end within its time limit, then the process is gone as if it was killed."""

    requires = ("celery.worker.components:Pool",)

    def close(self, worker: Any) -> None:
        """Called before anything is stopped."""
        limit_s = worker.app.conf.task_time_limit + worker.app.conf.worker_soft_shutdown_timeout + SLACK_S
        threading.Thread(target=_end_after, args=(limit_s,), name="end-in-time", daemon=True).start()


def _end_after(limit_s: float) -> None:
    time.sleep(limit_s)
    sys.stderr.write(f"the worker has not ended {limit_s:.0f} s after it began to: it is ended\n")  # logging may hang
    sys.stderr.flush()
    os._exit(1)
