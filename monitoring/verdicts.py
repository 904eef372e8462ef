"""What is healthy: pure functions from what was found to checks with figure and limit. Asks nobody.

What could not be asked is never taken for healthy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from monitoring.probes import DatabaseFacts, Facts, RedisFacts
from workers.clock import to_datetime
from workers.heartbeats import Beat

QUEUE_AGE_LIMIT_S: Final = 10
FIRED_AGE_LIMIT_S: Final = 10
SWEEP_AGE_LIMIT_S: Final = 6
SIGN_AGE_LIMIT_S: Final = 10
SUCCESS_LIMIT_PERCENT: Final = 95
ERRORS_LIMIT: Final = 9
SWEEP_SHARE_LIMIT_PERCENT: Final = 0.1

COMPONENTS: Final = ("queueManager", "priceMonitor", "orderClosure", "orderWorker")
DATABASE_AWAY: Final = "PostgreSQL does not answer."
NOT_COUNTED: Final = "PostgreSQL could not count the watched deals in time."
REDIS_AWAY: Final = "Redis does not answer."
BROKER_AWAY: Final = "The broker does not answer."


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `figure` None: it could not be asked. `since` only when it is bad."""

    name: str
    is_healthy: bool
    figure: float | None
    limit: float | None
    unit: str
    since: datetime | None = None
    reason: str | None = None


class Rules(NamedTuple):
    """What the settings say."""

    stale_after_s: int
    static_only: bool
    queues: tuple[str, ...]


Extra = Callable[[Any], Check]
"""Judges the answer to a question that was registered with `probes.ask_database_too`."""


def at_most(
    name: str, figure: float | None, limit: float, unit: str, reason: str, *, since: datetime | None = None
) -> Check:
    """Healthy while the figure is not above the limit."""
    good = figure is not None and figure <= limit
    return Check(
        name, is_healthy=good, figure=figure, limit=limit, unit=unit,
        since=None if good else since, reason=None if good else reason,
    )  # fmt: skip


def at_least(name: str, figure: float | None, limit: float, unit: str, reason: str) -> Check:
    """Healthy while the figure is not below the limit."""
    good = figure is not None and figure >= limit
    return Check(name, is_healthy=good, figure=figure, limit=limit, unit=unit, reason=None if good else reason)


def judge(facts: Facts, rules: Rules) -> dict[str, list[Check]]:
    """Every check, by component."""
    return {
        "queueManager": _queue_manager(facts),
        "priceMonitor": _price_monitor(facts, rules),
        "orderClosure": _order_closure(facts, rules),
        "orderWorker": _order_worker(facts, rules),
    }


# --- queueManager ------------------------------------------------------------------------------------------------


def _queue_manager(facts: Facts) -> list[Check]:
    redis, broker, database = facts.redis, facts.broker, facts.database
    book = None if redis is None else int(not redis.book_is_complete)
    return [
        at_least("redis", int(redis is not None), 1, "servers", REDIS_AWAY),
        at_least("broker", int(broker is not None), 1, "servers", BROKER_AWAY),
        _queue_age(facts),
        at_most("bookToRebuild", book, 0, "books", _or_away(redis, REDIS_AWAY, "Redis was lost: the book is rebuilt.")),
        _dead_letters(database),
    ]


def _queue_age(facts: Facts) -> Check:
    if facts.broker is None:
        return at_most("oldestMessage", None, QUEUE_AGE_LIMIT_S, "s", BROKER_AWAY)
    ages = {
        row.queue: _seconds(facts.now_ms - row.oldest_sent_ms)
        for row in facts.broker.waiting
        if row.oldest_sent_ms is not None
    }
    slowest = max(ages, key=lambda queue: ages[queue], default=None)
    age = 0.0 if slowest is None else ages[slowest]
    return at_most("oldestMessage", age, QUEUE_AGE_LIMIT_S, "s", f"A message waits in the queue {slowest} for {age} s.")


def _dead_letters(database: DatabaseFacts | None) -> Check:
    if database is None:
        return at_most("deadLetters", None, 0, "letters", DATABASE_AWAY)
    system = database.system
    reason = f"{system.letters} dead letters wait for an operator."
    return at_most("deadLetters", system.letters, 0, "letters", reason, since=system.letters_since)


# --- priceMonitor ------------------------------------------------------------------------------------------------


def _price_monitor(facts: Facts, rules: Rules) -> list[Check]:
    return [_sign(facts, "pricesProcess", "prices"), _stale_prices(facts, rules)]


def _stale_prices(facts: Facts, rules: Rules) -> Check:
    """Only symbols that have watched deals: PostgreSQL says which, or the book when it cannot."""
    redis = facts.redis
    if redis is None:
        return at_most("staleSymbols", None, 0, "symbols", REDIS_AWAY)
    if facts.database is not None and facts.database.watched is not None:
        watched = {row.symbol for row in facts.database.watched if row.watched}
    else:
        watched = {symbol for symbol, deals in redis.book.items() if deals}
    stale = sorted(symbol for symbol in watched if is_stale(redis, symbol, rules.stale_after_s))
    reason = f"No fresh price of {', '.join(stale)}, which have watched deals."
    return at_most("staleSymbols", len(stale), 0, "symbols", reason, since=_oldest_price(redis, stale))


def is_stale(redis: RedisFacts, symbol: str, stale_after_s: int) -> bool:
    """Whether nothing may fire on the symbol's last price: too old by exchange time or by receipt, or none."""
    times = redis.prices.get(symbol)
    return times is None or redis.now_ms - min(times) >= stale_after_s * 1000


def _oldest_price(redis: RedisFacts, symbols: Iterable[str]) -> datetime | None:
    times = [min(known) for symbol in symbols if (known := redis.prices.get(symbol)) is not None]
    return to_datetime(min(times)) if times else None


# --- orderClosure ------------------------------------------------------------------------------------------------


def _order_closure(facts: Facts, rules: Rules) -> list[Check]:
    return [_running(facts.database, rules), _fired_age(facts), *_settling(facts.database)]


def _running(database: DatabaseFacts | None, rules: Rules) -> Check:
    if rules.static_only:
        return _bad_system(0, "STATIC_ONLY is on: deals are not watched.")
    if database is None:
        return _bad_system(None, DATABASE_AWAY)
    system = database.system
    if system.state == "running":
        return at_least("running", 1, 1, "systems", "")
    return _bad_system(0, f"The system is {system.state}.", since=system.state_since)


def _bad_system(figure: float | None, reason: str, since: datetime | None = None) -> Check:
    return Check("running", is_healthy=False, figure=figure, limit=1, unit="systems", since=since, reason=reason)


def _fired_age(facts: Facts) -> Check:
    redis = facts.redis
    if redis is None:
        return at_most("oldestFired", None, FIRED_AGE_LIMIT_S, "s", REDIS_AWAY)
    since = None if redis.oldest_fired_ms is None else to_datetime(redis.oldest_fired_ms)
    age = 0.0 if redis.oldest_fired_ms is None else _seconds(facts.now_ms - redis.oldest_fired_ms)
    reason = f"{redis.fired} deals have fired and are not closed, the oldest for {age} s."
    return at_most("oldestFired", age, FIRED_AGE_LIMIT_S, "s", reason, since=since)


def _settling(database: DatabaseFacts | None) -> list[Check]:
    if database is None:
        return [
            at_least("successRate", None, SUCCESS_LIMIT_PERCENT, "percent of 5 minutes", DATABASE_AWAY),
            at_most("errors", None, ERRORS_LIMIT, "errors in 5 minutes", DATABASE_AWAY),
            at_most("sweepShare", None, SWEEP_SHARE_LIMIT_PERCENT, "percent of 10 minutes", DATABASE_AWAY),
        ]
    now = database.system
    rate = percent(now.closed_5m, now.closed_5m + now.errors_5m, nothing=100.0)
    swept = percent(now.swept_10m, now.closed_10m, nothing=0.0)
    return [
        at_least(
            "successRate", rate, SUCCESS_LIMIT_PERCENT, "percent of 5 minutes",
            f"Only {rate} % of the closures tried in 5 minutes succeeded.",
        ),
        at_most("errors", now.errors_5m, ERRORS_LIMIT, "errors in 5 minutes", f"{now.errors_5m} closures failed."),
        at_most(
            "sweepShare", swept, SWEEP_SHARE_LIMIT_PERCENT, "percent of 10 minutes",
            f"The sweep had to find {now.swept_10m} of {now.closed_10m} closures: ticks or the book miss deals.",
        ),
    ]  # fmt: skip


# --- orderWorker -------------------------------------------------------------------------------------------------


def _order_worker(facts: Facts, rules: Rules) -> list[Check]:
    return [
        at_least("database", int(facts.database is not None), 1, "servers", DATABASE_AWAY),
        _sign(facts, "workers", "worker"),
        _served_queues(facts, rules),
        _sign(facts, "beat", "beat"),
        _last_sweep(facts),
        _unprotected(facts),
    ]


def _served_queues(facts: Facts, rules: Rules) -> Check:
    if facts.redis is None:
        return at_most("unservedQueues", None, 0, "queues", REDIS_AWAY)
    served = {queue for beat in facts.redis.beats if beat.role == "worker" for queue in beat.facts.get("queues", ())}
    missing = [queue for queue in rules.queues if queue not in served]
    return at_most("unservedQueues", len(missing), 0, "queues", f"No worker serves {', '.join(missing)}.")


def _last_sweep(facts: Facts) -> Check:
    """Not judged while the system is stopped, when there is nothing to sweep; `running` says so."""
    redis, database = facts.redis, facts.database
    if redis is None:
        return at_most("lastSweep", None, SWEEP_AGE_LIMIT_S, "s", REDIS_AWAY)
    age = None if redis.last_sweep_ms is None else _seconds(facts.now_ms - redis.last_sweep_ms)
    if database is not None and database.system.state != "running":
        return Check("lastSweep", is_healthy=True, figure=age, limit=SWEEP_AGE_LIMIT_S, unit="s")
    said = "No sweep has run yet." if age is None else f"The last sweep ended {age} s ago."
    since = None if redis.last_sweep_ms is None else to_datetime(redis.last_sweep_ms)
    return at_most("lastSweep", age, SWEEP_AGE_LIMIT_S, "s", said, since=since)


def _unprotected(facts: Facts) -> Check:
    """Deals that would not close: late `pending`, `dead`, and armed ones that the book does not hold."""
    database, missing = facts.database, missing_from_book(facts)
    if database is None:
        return at_most("unprotectedDeals", None, 0, "deals", DATABASE_AWAY)
    if database.watched is None:
        return at_most("unprotectedDeals", None, 0, "deals", NOT_COUNTED)
    late = sum(row.late for row in database.watched)
    if missing is None:
        return at_most("unprotectedDeals", None, 0, "deals", "Whether the book holds every deal cannot be seen.")
    parts = [
        f"{count} {what}"
        for count, what in (
            (late, "wait to be armed for more than 5 s"),
            (missing, "are armed but missing from the book"),
            (database.system.dead, "could not be settled"),
        )
        if count
    ]
    times = [row.late_since for row in database.watched] + [database.system.dead_since]
    since = min((at for at in times if at is not None), default=None)
    figure = late + missing + database.system.dead
    return at_most("unprotectedDeals", figure, 0, "deals", f"Of the deals {', '.join(parts)}.", since=since)


def missing_from_book(facts: Facts) -> int | None:
    """How many deals that PostgreSQL calls armed neither the book nor `fired` can hold; None when it cannot be told.

    A comparison of counts. Every armed deal is in the book until it is in `fired`, and there until it is closed.
    """
    if facts.database is None or facts.database.watched is None or facts.redis is None:
        return None
    short = sum(
        max(0, row.watched - row.pending - facts.redis.book.get(row.symbol, 0)) for row in facts.database.watched
    )
    return max(0, short - facts.redis.fired)


# --- common ------------------------------------------------------------------------------------------------------


def _sign(facts: Facts, name: str, role: str) -> Check:
    """The youngest sign of life of a role."""
    if facts.redis is None:
        return at_most(name, None, SIGN_AGE_LIMIT_S, "s since the last sign of life", REDIS_AWAY)
    signs: list[Beat] = [beat for beat in facts.redis.beats if beat.role == role]
    age = _seconds(facts.now_ms - max(beat.at_ms for beat in signs)) if signs else None
    said = "gives no sign of life" if age is None else f"gave its last sign of life {age} s ago"
    reason = f"The {'prices process' if role == 'prices' else role} {said}."
    return at_most(name, age, SIGN_AGE_LIMIT_S, "s since the last sign of life", reason)


def percent(part: int, whole: int, *, nothing: float) -> float:
    """A share in percent, rounded to four places; `nothing` when there is no whole."""
    return nothing if whole == 0 else round(100 * part / whole, 4)


def _seconds(age_ms: int) -> float:
    return max(0.0, round(age_ms / 1000, 1))


def _or_away(asked: object | None, away: str, reason: str) -> str:
    return away if asked is None else reason
