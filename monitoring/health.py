"""Whether deals are protected, told from PostgreSQL and Redis at the time of asking."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone
from redis.exceptions import RedisError

from deals.models import Deal, Monitoring, Status, SystemState
from workers import keys
from workers.redis_client import connect

UNPROTECTED_AFTER_S = 5


def workers_health() -> dict[str, Any]:
    """The workers' part of `GET /health`: each component with what is wrong with it, if anything is."""
    components = {
        "queueManager": _component(_redis_trouble()),
        "priceMonitor": _component(_price_trouble()),
        "orderClosure": _component(_state_trouble()),
        "orderWorker": _component(_protection_trouble()),
    }
    healthy = all(component["isHealthy"] for component in components.values())
    return {"isHealthy": healthy, "status": "healthy" if healthy else "unhealthy", "components": components}


def _component(trouble: str | None) -> dict[str, Any]:
    return {"isHealthy": True} if trouble is None else {"isHealthy": False, "reason": trouble}


def _redis_trouble() -> str | None:
    try:
        connect().ping()
    except RedisError as error:
        return f"Redis does not answer: {error}"
    return None


def _price_trouble() -> str | None:
    now_ms = timezone.now().timestamp() * 1000
    try:
        with connect().pipeline(transaction=False) as pipe:
            for symbol in settings.SYMBOLS:
                pipe.hget(keys.price(symbol), "received")
            received = pipe.execute()
    except RedisError as error:
        return f"prices cannot be read: {error}"
    limit_ms = settings.PRICE_STALE_AFTER_S * 1000
    stale = [
        symbol
        for symbol, at in zip(settings.SYMBOLS, received, strict=True)
        if at is None or now_ms - int(at) >= limit_ms
    ]
    return f"no fresh price of {', '.join(stale)}" if stale else None


def _state_trouble() -> str | None:
    if settings.STATIC_ONLY:
        return "STATIC_ONLY is on: deals are not watched"
    try:
        state = SystemState.objects.get(pk=1).state
    except DatabaseError as error:
        return f"PostgreSQL does not answer: {error}"
    return None if state == SystemState.State.RUNNING else f"the system is {state}"


def _protection_trouble() -> str | None:
    now = timezone.now()
    late = now - timedelta(seconds=UNPROTECTED_AFTER_S)
    unprotected = Deal.objects.filter(status=Status.OPEN)
    try:
        pending = unprotected.filter(monitoring=Monitoring.PENDING, monitoring_since__lt=late).count()
        dead = unprotected.filter(monitoring=Monitoring.DEAD).count()
    except DatabaseError as error:
        return f"PostgreSQL does not answer: {error}"
    if pending or dead:
        return f"{pending} deals wait to be armed, {dead} could not be settled"
    return None
