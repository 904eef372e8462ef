"""What Prometheus scrapes: the figures of health's probes and the shared counters, as metric families.

Everything is read when Prometheus asks, so any web process gives the same answer. A server that is away has its
`cryptocraze_up` at 0 and leaves its samples out: a figure that is not known is never given as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from django.conf import settings
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from redis import Redis

from deals.models import Monitoring, SystemState
from monitoring import counted, health, probes, verdicts
from monitoring.counted import Counted
from monitoring.health import Report
from monitoring.probes import DatabaseFacts, Facts, RedisFacts
from monitoring.sql import statement
from workers import counters, keys, queues
from workers.models import DeadLetter

ROLES: Final = ("prices", "worker", "beat")
DEAD_LETTERS: Final = "dead_letters_by_state"


class Scrape(NamedTuple):
    """Everything that was read for one answer; None is what did not answer."""

    report: Report
    counted: Counted | None

    @property
    def facts(self) -> Facts:
        """What the probes found."""
        return self.report.facts


class Answer(NamedTuple):
    """A scrape as it goes over the wire."""

    body: bytes
    content_type: str


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def watch() -> None:
    """Have health's question to PostgreSQL ask for the dead letters, too."""
    probes.ask_database_too(DEAD_LETTERS, _ask_dead_letters)


def scrape(accept: str) -> Answer:
    """Every metric, in the format that the `Accept` header asks for. Answers within 2 s, whoever is away."""
    encode, content_type = choose_encoder(accept)
    return Answer(encode(_Families(families())), content_type)


def families() -> Iterator[Metric]:
    """Every metric family, read now; one whose server is away has no samples."""
    answer = probes.ask_redis_meanwhile(_read_counted)
    scrape = Scrape(health.report(), answer())
    for describe in FAMILIES:
        yield from describe(scrape)
    yield from counted.families(scrape.counted)


def _ask_dead_letters(cursor: Any) -> dict[str, int]:
    return {row[0]: row[1] for row in cursor.execute(statement(DEAD_LETTERS)).fetchall()}


def _read_counted(client: Redis) -> Counted:
    with client.pipeline(transaction=False) as pipe:
        pipe.hgetall(keys.dropped_ticks())
        pipe.hgetall(keys.last_sweep())
        for symbol in settings.SYMBOLS:
            pipe.hget(keys.price(symbol), "ticks")
        dropped, last_sweep, *ticks = pipe.execute()
    return Counted(
        counters=counters.read(client),
        ticks={symbol: int(count or 0) for symbol, count in zip(settings.SYMBOLS, ticks, strict=True)},
        dropped={reason: int(count) for reason, count in dropped.items()},
        last_sweep={name: int(value) for name, value in last_sweep.items()},
    )


# --- the system ---------------------------------------------------------------------------------------------------


def _servers(scrape: Scrape) -> Iterator[Metric]:
    up = _gauge("up", "Whether the server answered this scrape in time: 1 or 0.", "component")
    for component in ("database", "redis", "broker"):
        up.add_metric([component], int(getattr(scrape.facts, component) is not None))
    yield up


def _checks(scrape: Scrape) -> Iterator[Metric]:
    healthy = _gauge("check_healthy", "The checks of GET /health: 1 healthy, 0 not.", "component", "check")
    for component in scrape.report.components:
        for check in component.checks:
            healthy.add_metric([component.name, check.name], int(check.is_healthy))
    yield healthy


def _state(scrape: Scrape) -> Iterator[Metric]:
    state = _gauge("system_state", "1 for the state that the system is in, 0 for the others.", "state")
    changed = _gauge("system_state_changed_timestamp_seconds", "When the system state last changed.")
    if scrape.facts.database is not None:
        system = scrape.facts.database.system
        for name in SystemState.State.values:
            state.add_metric([name], int(system.state == name))
        changed.add_metric([], system.state_since.timestamp())
    yield from (state, changed)


def _processes(scrape: Scrape) -> Iterator[Metric]:
    living = _gauge("processes", "Processes that gave a sign of life within 15 s.", "role")
    age = _gauge("process_heartbeat_age_seconds", "Age of the youngest sign of life of a role.", "role")
    waiting = _gauge("prices_waiting_ticks", "Good ticks that wait in prices processes until Redis takes them.")
    redis = scrape.facts.redis
    if redis is not None:
        for role in sorted({*ROLES, *(beat.role for beat in redis.beats)}):
            signs = [beat for beat in redis.beats if beat.role == role]
            living.add_metric([role], len(signs))
            if signs:
                age.add_metric([role], _age_s(scrape.facts, max(beat.at_ms for beat in signs)))
        waiting.add_metric([], sum(beat.facts.get("pending", 0) for beat in redis.beats if beat.role == "prices"))
    yield from (living, age, waiting)


# --- protection ---------------------------------------------------------------------------------------------------


def _open_deals(scrape: Scrape) -> Iterator[Metric]:
    """Deals without levels are left out: nobody watches them, and counting them would read the whole table."""
    deals = _gauge("open_deals", "Open deals with levels, by monitoring state.", "monitoring")
    watched = _gauge("watched_deals", "Deals that PostgreSQL says are watched (pending or armed).", "symbol")
    letters = _gauge("dead_letters", "Dead letters; `failed` ones wait for an operator.", "state")
    database = scrape.facts.database
    if database is not None:
        for monitoring, count in _by_monitoring(database).items():
            deals.add_metric([monitoring], count)
        if database.watched is not None:
            by_symbol = {row.symbol: row.watched for row in database.watched}
            for symbol in sorted({*settings.SYMBOLS, *by_symbol}):
                watched.add_metric([symbol], by_symbol.get(symbol, 0))
        for state in DeadLetter.State.values:
            letters.add_metric([state], database.extra[DEAD_LETTERS].get(state, 0))
    yield from (deals, watched, letters)


def _by_monitoring(database: DatabaseFacts) -> dict[str, int]:
    """Without the watched ones when they could not be counted in time."""
    watched = {}
    if database.watched is not None:
        pending = sum(row.pending for row in database.watched)
        armed = sum(row.watched for row in database.watched) - pending
        watched = {Monitoring.PENDING.value: pending, Monitoring.ARMED.value: armed}
    return watched | {
        Monitoring.REMOVED.value: database.system.removed,
        Monitoring.EXPIRED.value: database.system.expired,
        Monitoring.DEAD.value: database.system.dead,
    }


def _unprotected(scrape: Scrape) -> Iterator[Metric]:
    unprotected = _gauge("unprotected_deals", "Deals that would not close: late to be armed, missing, dead.", "reason")
    database, missing = scrape.facts.database, verdicts.missing_from_book(scrape.facts)
    if database is not None:
        if database.watched is not None:
            unprotected.add_metric(["late"], sum(row.late for row in database.watched))
        unprotected.add_metric(["dead"], database.system.dead)
    if missing is not None:
        unprotected.add_metric(["missing"], missing)
    yield unprotected


def _book(scrape: Scrape) -> Iterator[Metric]:
    book = _gauge("book_deals", "Deals that the trigger book holds.", "symbol")
    complete = _gauge("book_complete", "1, or 0 while a lost book is rebuilt.")
    fired = _gauge("fired_deals", "Deals that have fired and are not settled.")
    age = _gauge("fired_oldest_age_seconds", "How long ago the oldest of them fired; 0 without any.")
    redis = scrape.facts.redis
    if redis is not None:
        for symbol, count in redis.book.items():
            book.add_metric([symbol], count)
        complete.add_metric([], int(redis.book_is_complete))
        fired.add_metric([], redis.fired)
        age.add_metric([], 0 if redis.oldest_fired_ms is None else _age_s(scrape.facts, redis.oldest_fired_ms))
    yield from (book, complete, fired, age)


# --- queues and prices --------------------------------------------------------------------------------------------


def _queues(scrape: Scrape) -> Iterator[Metric]:
    depth = _gauge("queue_messages", "Messages that wait; those that workers hold do not count.", "queue")
    age = _gauge("queue_oldest_age_seconds", "Age of the oldest waiting message; 0 without any.", "queue")
    workers = _gauge("queue_workers", "Workers that serve the queue.", "queue")
    broker, redis = scrape.facts.broker, scrape.facts.redis
    for row in () if broker is None else broker.waiting:
        depth.add_metric([row.queue], row.depth)
        if row.oldest_sent_ms is not None:
            age.add_metric([row.queue], _age_s(scrape.facts, row.oldest_sent_ms))
        elif not row.depth:  # else the broker does not tell: RabbitMQ
            age.add_metric([row.queue], 0)
    if redis is not None:
        for queue in queues.names():
            workers.add_metric([queue], _serving(redis, queue))
    yield from (depth, age, workers)


def _serving(redis: RedisFacts, queue: str) -> int:
    return sum(beat.role == "worker" and queue in beat.facts.get("queues", ()) for beat in redis.beats)


def _prices(scrape: Scrape) -> Iterator[Metric]:
    age = _gauge("price_age_seconds", "Age of the last price by exchange time or receipt, the older.", "symbol")
    limit = _gauge("price_stale_after_seconds", "Age from which nothing fires on a price (PRICE_STALE_AFTER_S).")
    limit.add_metric([], settings.PRICE_STALE_AFTER_S)
    redis = scrape.facts.redis
    for symbol, times in {} if redis is None else redis.prices.items():
        if times is not None:
            age.add_metric([symbol], _age_s(scrape.facts, min(times)))
    yield from (age, limit)


FAMILIES: Final[tuple[Callable[[Scrape], Iterator[Metric]], ...]] = (
    *(_servers, _checks, _state, _processes),
    *(_open_deals, _unprotected, _book),
    *(_queues, _prices),
)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"cryptocraze_{name}", text, labels=labels)


def _age_s(facts: Facts, at_ms: int) -> float:
    return max(0, facts.now_ms - at_ms) / 1000
