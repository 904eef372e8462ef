"""The system state as Redis sees it: cached for the scripts, never the truth. `deals.state` owns the row."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from deals import state
from deals.errors import Unavailable
from deals.queries import CurrentState, current_state
from deals.sql import statement
from workers import book, events, keys
from workers.dispatch import send_closures
from workers.models import SweepPosition
from workers.prices import RedisQuoteBoard
from workers.redis_client import CACHE_STATE, connect

log = structlog.get_logger(__name__)

NEWS: Final = 2
"""What cache_state.lua answers when the state was not cached before."""


def refresh_state() -> CurrentState:
    """Read the state from PostgreSQL and cache it in Redis unless a newer one is cached. Raises redis.RedisError."""
    current = current_state()
    cache_state(current)
    return current


def cache_state(current: CurrentState) -> None:
    """Tell Redis the state unless it knows a newer one; to whom it is news, the operators' log too.

    Raises redis.RedisError when the state was not cached.
    """
    if CACHE_STATE.run(connect(), [keys.state()], [current.version, current.state]) == NEWS:
        said = {"state": current.state, "since": current.since.isoformat(), "reason": current.reason}
        events.publish("state", said)


def refresh_state_if_reachable() -> None:
    """The same where Redis may be away: the sweep and the prices process do it again when it is back."""
    try:
        refresh_state()
    except RedisError as error:
        log.warning("system.state_not_cached", error=str(error))


MAY_RESUME: Final = frozenset({state.State.DRAINING, state.State.STOPPED, state.State.HALTED})


def resume(reason: str, *, only_from: Collection[state.State] = MAY_RESUME) -> bool:
    """Run again. Every watched deal is watched from its symbol's current price on, except for what had fired.

    One transaction moves `watched_from` and the state, so that nothing fires on what happened in between; what had
    fired is sent again at its price. False, and nothing is changed, when the system is in none of `only_from`.
    Raises redis.RedisError when the current prices cannot be read.
    """
    current = []
    for symbol in settings.SYMBOLS:
        try:
            current.append(RedisQuoteBoard().last(symbol).quote)
        except Unavailable as error:  # no price was ever seen: there is nothing to forget
            log.warning("system.resumed_without_price", symbol=symbol, why=error.message)
    fired = book.all_fired()
    with transaction.atomic(), connection.cursor() as cursor:
        # The state last: an emergency stop never waits for the deals.
        cursor.execute(
            statement("watch_from_now"),
            {
                "symbols": [quote.symbol for quote in current],
                "seqs": [quote.seq for quote in current],
                "ats": [quote.at for quote in current],
                "fired": list(fired),
                "now": timezone.now(),
            },
        )
        # Nobody swept meanwhile, and nothing of it counts.
        SweepPosition.objects.update(received_at=None)
        if not state.change(state.State.RUNNING, reason, only_from=only_from):
            transaction.set_rollback(True)
            return False
    refresh_state_if_reachable()
    try:
        send_closures(list(fired.values()))
    except BrokerError as error:  # the sweep sends them
        log.warning("system.fired_not_sent", deals=len(fired), error=str(error))
    return True


def server_run_id() -> str:
    """Which run of Redis this is: it changes with every restart. Raises redis.RedisError."""
    info = connect().info("server")
    return str(info["run_id"])
