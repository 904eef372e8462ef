"""The queues as the broker and the workers tell them, dead letters and finished jobs as PostgreSQL does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from celery import current_app
from django.db.models import Count
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from deals.errors import Unavailable
from monitoring.processes import Process, processes
from workers import job_log, queues
from workers.clock import WALL_CLOCK
from workers.models import DeadLetter, JobLog

BROKER_LIMIT_S: Final = 1.0


class QueueFigures(NamedTuple):
    """One queue. `oldest_age_ms` is None when none waits, or when the broker does not show it (RabbitMQ)."""

    name: str
    depth: int
    oldest_age_ms: int | None
    active: int
    reserved: int
    consumers: int


class LetterCount(NamedTuple):
    """How many dead letters are in a state."""

    state: str
    letters: int


class Queues(NamedTuple):
    """All queues of ours."""

    queues: list[QueueFigures]
    dead_letters: list[LetterCount]
    completed: list[JobLog]
    failed: list[JobLog]


def all_queues() -> Queues:
    """Everything about the queues. Raises Unavailable `broker_unavailable`, redis.RedisError."""
    return Queues(
        queues=queue_figures(processes()),
        dead_letters=dead_letters(),
        completed=job_log.latest(JobLog.State.COMPLETED),
        failed=job_log.latest(JobLog.State.FAILED),
    )


def queue_figures(living: Iterable[Process]) -> list[QueueFigures]:
    """Each queue, with its consumers among the living. Raises Unavailable `broker_unavailable`."""
    workers = [process for process in living if process.role == "worker"]
    try:
        waiting = queues.waiting(BROKER_LIMIT_S)
        active, reserved = _tasks([worker.name for worker in workers])
    except (BrokerError, RedisError, OSError) as error:
        raise Unavailable("broker_unavailable", "The broker does not answer; try again.") from error
    consumers = Counter(queue for worker in workers for queue in worker.queues or [])
    now_ms = WALL_CLOCK.now_ms()
    return [
        QueueFigures(
            name=row.queue,
            depth=row.depth,
            oldest_age_ms=None if row.oldest_sent_ms is None else max(0, now_ms - row.oldest_sent_ms),
            active=active[row.queue],
            reserved=reserved[row.queue],
            consumers=consumers[row.queue],
        )
        for row in waiting
    ]


def _tasks(workers: list[str]) -> tuple[Counter[str], Counter[str]]:
    """How many tasks the workers run, and hold without running them, by queue."""
    if not workers:
        return Counter(), Counter()
    inspect: Any = current_app.control.inspect(destination=workers, timeout=BROKER_LIMIT_S, limit=len(workers))
    return _by_queue(inspect.active()), _by_queue(inspect.reserved())


def _by_queue(answers: Mapping[str, list[dict[str, Any]]] | None) -> Counter[str]:
    tasks = (task for held in (answers or {}).values() for task in held)
    return Counter(task["delivery_info"]["routing_key"] for task in tasks)


def dead_letters() -> list[LetterCount]:
    """How many dead letters there are, by state."""
    counts = DeadLetter.objects.values_list("state").annotate(letters=Count("pk")).order_by()
    found = dict(counts)
    return [LetterCount(state, found.get(state, 0)) for state in DeadLetter.State.values]
