"""What `manage.py workers_status` shows: figures of this moment, each source asked for itself and allowed to fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from django.conf import settings
from django.db.models import Count
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from deals.models import Deal, Status, SystemState
from workers import book, keys, operations, pools, queues
from workers.clock import WALL_CLOCK
from workers.manager import worker_manager
from workers.models import DeadLetter, Operation
from workers.redis_client import connect
from workers.retry import DATABASE_ERRORS

T = TypeVar("T")

QUEUES: Final = ("closures", "sweep", "default")
TROUBLE: Final = (*DATABASE_ERRORS, RedisError, BrokerError, ConnectionError)


def snapshot() -> dict[str, Any]:
    """Everything at once. Where a server does not answer its part is {"error": …}."""
    return {
        "system": _asked(_system),
        "health": _health(),
        "operation": _asked(_operation),
        "deals": _asked(_deals),
        "book": _asked(_book),
        "prices": _asked(_prices),
        "queues": _asked(lambda: {name: queues.depth(name) for name in QUEUES}),
        "workers": _asked(pools.alive),
        "deadLetters": _asked(_dead_letters),
    }


def _asked(ask: Callable[[], T]) -> T | dict[str, str]:
    try:
        return ask()
    except TROUBLE as error:
        return {"error": f"{type(error).__name__}: {error}".strip()}


def _system() -> dict[str, Any]:
    row = SystemState.objects.get(pk=1)
    abandoned = [operation.pk for operation in operations.abandoned()]
    return {
        "state": row.state,
        "since": row.changed_at.isoformat(),
        "reason": row.reason,
        "staticOnly": settings.STATIC_ONLY,
        "abandonedOperations": abandoned,
    }


def _health() -> dict[str, Any]:
    """What `GET /health` says, in short: never fails, and is told also while a server is away."""
    health = worker_manager.get_system_health()
    wrong = {name: part["reason"] for name, part in health["components"].items() if not part["isHealthy"]}
    return {"status": health["status"], "wrong": wrong}


def _operation() -> dict[str, Any] | None:
    """The operation that runs, else the last one."""
    operation = operations.running() or Operation.objects.order_by("-pk").first()
    if operation is None:
        return None
    step = operation.steps[-1]["name"] if operation.steps else ""
    return {
        "id": operation.pk,
        "kind": operation.kind,
        "state": operation.state,
        "step": step,
        "requestedBy": operation.requested_by,
        "error": operation.error,
    }


def _deals() -> dict[str, int]:
    """Open deals by monitoring state."""
    rows = Deal.objects.filter(status=Status.OPEN).order_by().values_list("monitoring").annotate(Count("pk"))
    return dict(rows)


def _book() -> dict[str, int]:
    return {"armed": sum(book.armed_count(settings.SYMBOLS).values()), "fired": connect().hlen(keys.fired())}


def _prices() -> dict[str, Any]:
    """How many symbols have a price that counts, and the age of the newest one, ms."""
    with connect().pipeline(transaction=False) as pipe:
        for symbol in settings.SYMBOLS:
            pipe.hget(keys.price(symbol), "received")
        received = [int(at) for at in pipe.execute() if at is not None]
    now_ms = WALL_CLOCK.now_ms()
    fresh = sum(now_ms - at < settings.PRICE_STALE_AFTER_S * 1000 for at in received)
    newest = max(0, now_ms - max(received)) if received else None
    return {"symbols": len(settings.SYMBOLS), "fresh": fresh, "newestAgeMs": newest}


def _dead_letters() -> dict[str, int]:
    """Letters by state."""
    return dict(DeadLetter.objects.order_by().values_list("state").annotate(Count("pk")))
