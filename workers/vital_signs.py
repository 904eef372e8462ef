"""The signs of life of the Celery processes, hooked into their own loops: a worker that hangs or has lost its broker,
and a beat whose scheduler stands still, lose theirs.
"""

from __future__ import annotations

import time
from typing import Any, Final

from celery import Celery, bootsteps
from celery.signals import beat_init

from workers.heartbeats import EVERY_S, Facts, Sign, SignThread, process_name

WORKER_HANGS_AFTER_S: Final = 8.0
BEAT_HANGS_AFTER_S: Final = 15.0
"""Beat's scheduler looks at its schedule every 5 s at the latest."""


def install(app: Celery) -> None:
    """Give the workers and the beat of this application their signs of life."""
    app.steps["consumer"].add(WorkerSign)
    beat_init.connect(start_beat_sign, dispatch_uid="workers.start_beat_sign")


class WorkerSign(bootsteps.StartStopStep):
    """A worker's sign: it begins when the worker consumes and ends when its connection or its loop does."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._thread: SignThread | None = None
        self._timer: Any = None
        self._looped_at = 0.0

    def start(self, consumer: Any) -> None:
        """Called whenever the worker has (again) reached its broker and consumes."""
        self._looped()
        self._timer = consumer.timer.call_repeatedly(EVERY_S / 2, self._looped)
        self._thread = SignThread(
            Sign("worker", consumer.hostname),
            facts=lambda: _worker_facts(consumer),
            alive=lambda: time.monotonic() - self._looped_at < WORKER_HANGS_AFTER_S,
        )
        self._thread.start()

    def stop(self, _consumer: Any) -> None:
        """Called when the worker loses its broker or ends."""
        thread, self._thread = self._thread, None
        if self._timer is not None:
            self._timer.cancel()
        if thread is not None:
            thread.stop()

    def shutdown(self, consumer: Any) -> None:
        """The same, for good."""
        self.stop(consumer)

    def _looped(self) -> None:
        self._looped_at = time.monotonic()


def _worker_facts(consumer: Any) -> Facts:
    from celery.worker import state  # only a worker has it loaded

    return {
        "queues": sorted(queue.name for queue in consumer.task_consumer.queues),
        "concurrency": consumer.pool.num_processes,
        "active": len(state.active_requests),
    }


def start_beat_sign(sender: Any, **_signal: Any) -> None:
    """Receives Celery's `beat_init`: the sign lasts while the scheduler ticks, and ends with the process."""

    def ticks() -> bool:
        last = sender._last_tick  # noqa: SLF001 - what Celery's own check for a standing beat reads
        return last is None or time.monotonic() - last < BEAT_HANGS_AFTER_S

    SignThread(Sign("beat", process_name()), facts=dict, alive=ticks).start()
