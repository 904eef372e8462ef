"""The Celery workers that are alive, seen from outside: who they are, and their pools replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from celery import current_app
from kombu.exceptions import OperationalError as BrokerError

from workers.operations import Failed, Run

T = TypeVar("T")

PING_S: Final = 1.0
ANSWER_S: Final = 5.0
REPLACED_S: Final = 20.0


def alive() -> list[str]:
    """The names of the workers that answer within a second. Raises kombu's OperationalError.

    Asked for their queues: a ping is answered by beat as well, which has neither queues nor a pool.
    """
    answers = _once_more(lambda: current_app.control.inspect(timeout=PING_S).active_queues())
    return sorted(name for name, queues in (answers or {}).items() if isinstance(queues, list))


def end_workers(names: list[str]) -> None:
    """Ask these workers to end when they have finished what they hold. Raises kombu's OperationalError."""
    _once_more(lambda: current_app.control.shutdown(destination=names))


def replace(run: Run) -> str:
    """Give every living worker a new pool and wait until no old process is left; says what was done. Raises Failed."""
    names = alive()
    if not names:
        raise Failed("no worker answers: start one")
    before = _children(names)
    answers = current_app.control.pool_restart(destination=names, reply=True, timeout=ANSWER_S, limit=len(names))
    refused = [f"{name}: {said}" for answer in answers or [] for name, said in answer.items() if "ok" not in said]
    if refused or len(answers or []) < len(names):
        raise Failed(f"{len(answers or [])} of {len(names)} workers replaced their pools {'; '.join(refused)}".strip())

    def old_ones() -> str:
        current_app.control.broadcast("wake_pool", destination=names)
        left = {name: pids & before.get(name, set()) for name, pids in _children(names).items()}
        silent = sorted(set(names) - left.keys())
        still = [f"{name} still runs {sorted(pids)}" for name, pids in left.items() if pids]
        return "; ".join(still + [f"{name} does not answer" for name in silent])

    run.wait(old_ones, REPLACED_S, every_s=0.3)
    return f"{len(names)} workers: {', '.join(names)}"


def _children(names: list[str]) -> dict[str, set[int]]:
    """The process ids of each worker's pool; empty for pools that have no processes of their own."""
    inspect = current_app.control.inspect(destination=names, timeout=ANSWER_S, limit=len(names))
    stats: dict[str, Any] = inspect.stats() or {}
    return {name: set(said.get("pool", {}).get("processes") or ()) - {said.get("pid")} for name, said in stats.items()}


def _once_more(ask: Callable[[], T]) -> T:
    """The first control call after the broker was restarted fails on the old connection."""
    try:
        return ask()
    except (BrokerError, ConnectionError):
        return ask()
