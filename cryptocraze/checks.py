"""System checks of our settings' values: what cryptocraze/env.py cannot see, because it reads one variable at a time,
and what somebody may have changed in settings.py. They read settings only and connect to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as Caution
from django.core.checks import register as register_check

from workers.retry import MAX_RETRIES, backoff_s
from workers.self_check import SYMBOL as SELF_CHECK_SYMBOL

SYMBOL: Final = re.compile(r"[A-Z0-9][A-Z0-9:/_-]{0,31}")
SHORTEST_AUDIT_DAYS: Final = 30
"""As the trigger of the table says: workers/migrations."""


def register() -> None:
    """Called once when the application starts."""
    for check in (check_domain, check_celery, check_connections, check_retention):
        register_check(check, "cryptocraze")


def check_domain(**_context: Any) -> Iterator[CheckMessage]:
    """Symbols, price age and the length of monitoring."""
    strange = [symbol for symbol in settings.SYMBOLS if SYMBOL.fullmatch(symbol) is None]
    if strange or not settings.SYMBOLS:
        yield Error(
            f"SYMBOLS names no symbol, or one that is none: {', '.join(strange) or 'it is empty'}.",
            hint="List exchange symbols such as BTCUSDT,ETHUSDT, at most 32 letters and digits each.",
            id="cryptocraze.E001",
        )
    if SELF_CHECK_SYMBOL in settings.SYMBOLS:
        yield Error(
            f"SYMBOLS lists {SELF_CHECK_SYMBOL}, which is kept for the self-check of a restart.",
            hint=f"Take {SELF_CHECK_SYMBOL} out of SYMBOLS.",
            id="cryptocraze.E002",
        )
    if settings.PRICE_STALE_AFTER_S <= 0:
        yield Error(
            "PRICE_STALE_AFTER_S is not above zero: every price would be stale and no deal would ever close.",
            hint="Set it to 10 (seconds).",
            id="cryptocraze.E003",
        )
    if not 0 < settings.MAX_MONITORING_H <= 24:  # noqa: PLR2004 - hours of a day
        yield Error(
            "MAX_MONITORING_H is not within 1 to 24 hours.",
            hint="Set it to 24 or less: a deal is watched for at most a day, then its user is told.",
            id="cryptocraze.E004",
        )
    if settings.PRICE_SOURCE == "binance" and urlsplit(settings.BINANCE_WS_URL).scheme not in {"ws", "wss"}:
        yield Error(
            "BINANCE_WS_URL is no address of a WebSocket.",
            hint="Begin it with wss://, as wss://stream.binance.com:9443 does.",
            id="cryptocraze.E005",
        )


def check_celery(**_context: Any) -> Iterator[CheckMessage]:
    """Options of Celery that contradict each other, or that make a worker deaf."""
    limits = _time_limits()
    for task, (soft_s, hard_s) in limits.items():
        if not 0 < soft_s < hard_s:
            yield Error(
                f"The soft time limit of {task} ({soft_s:g} s) is not below its hard one ({hard_s:g} s).",
                hint="A task needs the time between the two to end in order: leave it some seconds.",
                id="cryptocraze.E010",
            )
    options: dict[str, Any] = getattr(settings, "CELERY_BROKER_TRANSPORT_OPTIONS", {})
    if "visibility_timeout" not in options:
        return  # another broker, which knows by itself who holds a message
    longest_s = max(hard_s for _soft_s, hard_s in limits.values()) + backoff_s(MAX_RETRIES - 1)
    if options["visibility_timeout"] <= longest_s:
        yield Error(
            f"visibility_timeout ({options['visibility_timeout']} s) is not above the longest time that a worker may "
            f"hold a message ({longest_s:g} s): work that still runs would be given to a second worker.",
            hint="Raise visibility_timeout in CELERY_BROKER_TRANSPORT_OPTIONS, or lower the tasks' time limits.",
            id="cryptocraze.E011",
        )
    if not options.get("socket_timeout") or not options.get("health_check_interval"):
        yield Error(
            "The broker's connections have no socket_timeout or no health_check_interval: after a half-open "
            "connection a worker would wait for ever for messages.",
            hint="Set both in CELERY_BROKER_TRANSPORT_OPTIONS, to 5 seconds.",
            id="cryptocraze.E012",
        )
    elif options["health_check_interval"] > 2 * options["socket_timeout"]:
        yield Caution(
            "health_check_interval is much longer than socket_timeout: a worker notices a dead connection late.",
            hint="Set both to 5 seconds.",
            id="cryptocraze.W020",
        )


def _time_limits() -> dict[str, tuple[float, float]]:
    """Soft and hard time limit of each of our tasks, seconds."""
    # Not Celery's own discovery: a worker's runs these checks.
    import workers.tasks  # noqa: F401
    from cryptocraze.celery import app

    return {
        name: (
            task.soft_time_limit or settings.CELERY_TASK_SOFT_TIME_LIMIT,
            task.time_limit or settings.CELERY_TASK_TIME_LIMIT,
        )
        for name, task in sorted(app.tasks.items())
        if not name.startswith("celery.")
    }


def check_connections(**_context: Any) -> Iterator[CheckMessage]:
    """How connections to PostgreSQL are kept."""
    database = settings.DATABASES["default"]
    kept = database.get("CONN_MAX_AGE", 0) != 0
    if database.get("OPTIONS", {}).get("pool") and kept:
        yield Error(
            "A connection pool and CONN_MAX_AGE exclude each other.",
            hint="With DATABASE_POOL leave CONN_MAX_AGE at 0: the pool keeps the connections.",
            id="cryptocraze.E020",
        )
    if kept and not database.get("CONN_HEALTH_CHECKS"):
        yield Error(
            "Connections are kept but not checked: after a restart of PostgreSQL each process would fail once.",
            hint="Set CONN_HEALTH_CHECKS.",
            id="cryptocraze.E021",
        )
    missing = [
        name
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        if f"-c {name}=" not in str(database.get("OPTIONS", {}).get("options", ""))
    ]
    if missing:
        yield Error(
            f"Connections to PostgreSQL have no {', '.join(missing)}: one that is stuck could hold up all closures.",
            hint="Keep them in the `options` of DATABASES in cryptocraze/settings.py.",
            id="cryptocraze.E022",
        )
    silent = [name for name in ("tcp_user_timeout", "keepalives_idle") if not database.get("OPTIONS", {}).get(name)]
    if silent:
        yield Error(
            f"Connections to PostgreSQL have no {', '.join(silent)}: when its machine dies without a word, processes "
            "wait for it for a quarter of an hour or more.",
            hint="Keep them in the OPTIONS of DATABASES in cryptocraze/settings.py.",
            id="cryptocraze.E023",
        )


def check_retention(**_context: Any) -> Iterator[CheckMessage]:
    """How long audit rows are kept."""
    if settings.AUDIT_KEEP_DAYS < SHORTEST_AUDIT_DAYS:
        yield Error(
            f"AUDIT_KEEP_DAYS is below {SHORTEST_AUDIT_DAYS}: the database refuses to delete audit rows that young.",
            hint=f"Set it to {SHORTEST_AUDIT_DAYS} or more.",
            id="cryptocraze.E030",
        )
