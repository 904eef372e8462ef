"""A command that other processes can give to a running worker, beside Celery's own. Imported by workers only."""

from __future__ import annotations

from typing import Any

from celery.concurrency.prefork import TaskPool
from celery.worker.control import control_command


def nothing() -> None:
    """An empty job."""


@control_command(name="wake_pool")
def wake_pool(state: Any) -> dict[str, str]:
    """Give every process of the pool an empty job.

    After `pool_restart` a process ends only when it has read its next message, and Celery sends one to one of them: the
    other idle ones would stay as they are.
    """
    pool = state.consumer.pool
    if not isinstance(pool, TaskPool):
        return {"ok": "a pool without processes"}
    for _ in range(pool.num_processes):
        pool.apply_async(nothing)
    return {"ok": "woken"}
