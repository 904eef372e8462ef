"""Asks PostgreSQL, Redis and the broker at once, each on a connection of its own and for a second at most.

What does not answer in time is None; nothing here decides what is healthy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from datetime import datetime
from functools import cache
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
import redis
import structlog
from django.conf import settings
from django.db import connections
from psycopg.errors import QueryCanceled
from psycopg.rows import namedtuple_row
from redis.backoff import NoBackoff
from redis.retry import Retry

from monitoring.sql import statement
from workers import book, keys, queues, sentinel
from workers.clock import WALL_CLOCK
from workers.heartbeats import Beat, read_beats
from workers.queues import Waiting

log = structlog.get_logger(__name__)
T = TypeVar("T")

PROBE_LIMIT_S: Final = 0.8
"""How long one answer may take: two rounds of probes and the rest of a request fit into 2 s."""

COUNT_SPARE_S: Final = 0.15
"""What counting the watched deals leaves of it: everything else of the answer must still come in time."""

FIRED_SAMPLE: Final = 5_000


class WatchedSymbol(NamedTuple):
    """A row of health_watched.sql."""

    symbol: str
    watched: int
    pending: int
    late: int
    late_since: datetime | None


class SystemFigures(NamedTuple):
    """The row of health_system.sql."""

    now: datetime
    state: str
    state_since: datetime
    state_reason: str
    dead: int
    dead_since: datetime | None
    removed: int
    expired: int
    letters: int
    letters_since: datetime | None
    closed_5m: int
    errors_5m: int
    closed_10m: int
    swept_10m: int


class DatabaseFacts(NamedTuple):
    """What PostgreSQL says. `extra` holds the answers of the registered questions, by name.

    `watched` is None when the watched deals could not be counted in time: a million of them on a slow machine are no
    dead database.
    """

    system: SystemFigures
    watched: list[WatchedSymbol] | None
    extra: dict[str, Any]


class PriceTimes(NamedTuple):
    """When a symbol's last price was traded and received, ms since 1970."""

    at_ms: int
    received_ms: int


class RedisFacts(NamedTuple):
    """What Redis says. `oldest_fired_ms` is when the oldest unsettled deal fired; of a large backlog, a sample's."""

    now_ms: int
    beats: list[Beat]
    prices: dict[str, PriceTimes | None]
    book: dict[str, int]
    fired: int
    oldest_fired_ms: int | None
    last_sweep_ms: int | None
    book_is_complete: bool
    bad_since_ms: dict[str, int]


class BrokerFacts(NamedTuple):
    """What the broker says."""

    waiting: list[Waiting]


class Facts(NamedTuple):
    """Everything that was asked; None is what did not answer."""

    now_ms: int
    database: DatabaseFacts | None
    redis: RedisFacts | None
    broker: BrokerFacts | None


Question = Callable[[psycopg.Cursor[Any]], Any]
_questions: dict[str, Question] = {}


def ask_database_too(name: str, question: Question) -> None:
    """Register one more question to PostgreSQL; its answer is `DatabaseFacts.extra[name]`. It shares the second."""
    _questions[name] = question


def ask_all() -> Facts:
    """Ask all three at once; answers within a second, whoever is away."""
    deadline = time.monotonic() + PROBE_LIMIT_S
    database = _start("database", _ask_database)
    redis_ = _start("redis", _ask_redis)
    broker = _start("broker", _ask_broker)
    return Facts(
        now_ms=WALL_CLOCK.now_ms(),
        database=_answer("database", database, deadline),
        redis=_answer("redis", redis_, deadline),
        broker=_answer("broker", broker, deadline),
    )


def ask_redis_meanwhile(question: Callable[[redis.Redis], T]) -> Callable[[], T | None]:
    """Begin to ask Redis something of one's own; call what is returned for the answer, None if it did not come."""
    deadline = time.monotonic() + PROBE_LIMIT_S
    future = _start("redis", lambda: question(_redis_client(settings.REDIS_URL)))
    return lambda: _answer("redis", future, deadline)


@cache
def _threads(name: str) -> ThreadPoolExecutor:
    """A few threads for each of the asked, so that one that hangs holds up no other."""
    return ThreadPoolExecutor(max_workers=4, thread_name_prefix=f"probe-{name}")


def _start(name: str, question: Callable[[], T]) -> Future[T]:
    return _threads(name).submit(question)


def _answer(name: str, future: Future[T], deadline: float) -> T | None:
    try:
        return future.result(timeout=max(0.0, deadline - time.monotonic()))
    except TooLate:
        future.cancel()
        log.warning("probe.too_late", asked=name, limit_s=PROBE_LIMIT_S)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is said: the answer is missing, and why is logged
        log.warning("probe.failed", asked=name, error=f"{type(error).__name__}: {error}")
    return None


def _ask_database() -> DatabaseFacts:
    """On a connection of its own: neither a pool that is used up nor a transaction that hangs is in its way."""
    deadline = time.monotonic() + PROBE_LIMIT_S
    parameters = connections["default"].get_connection_params() | {"cursor_factory": psycopg.Cursor}
    limits = f"-c statement_timeout={round(PROBE_LIMIT_S * 1000)} -c default_transaction_read_only=on"
    # Watched deals are counted from an index alone: PostgreSQL may prefer to read the whole table, with helpers that
    # take processors from settling.
    limits += " -c enable_seqscan=off -c max_parallel_workers_per_gather=0"
    options = f"{parameters.get('options', '')} {limits}"
    known = {name: value for name, value in parameters.items() if name not in {"context", "options", "connect_timeout"}}
    with (
        psycopg.connect(**known, options=options, connect_timeout=2, autocommit=True) as connection,
        connection.cursor(row_factory=namedtuple_row) as cursor,
    ):
        system = SystemFigures(*_only_row(cursor.execute(statement("health_system"))))
        extra = {name: ask(cursor) for name, ask in _questions.items()}
        return DatabaseFacts(system, _count_watched(cursor, deadline - COUNT_SPARE_S), extra)


def _count_watched(cursor: psycopg.Cursor[Any], deadline: float) -> list[WatchedSymbol] | None:
    """The one answer that takes the longer the more deals there are; None when it is not there in time."""
    left_ms = round((deadline - time.monotonic()) * 1000)
    if left_ms <= 0:
        return None
    cursor.execute("SELECT set_config('statement_timeout', %s, false)", [str(left_ms)])
    try:
        return [WatchedSymbol(*row) for row in cursor.execute(statement("health_watched")).fetchall()]
    except QueryCanceled:
        log.warning("probe.not_counted", limit_ms=left_ms)
        return None


def _only_row(cursor: psycopg.Cursor[Any]) -> Any:
    row = cursor.fetchone()
    if row is None:
        raise LookupError("the row of the system state is missing")
    return row


@cache
def _redis_client(url: str) -> redis.Redis:
    return sentinel.client(
        url,
        decode_responses=True,
        socket_timeout=PROBE_LIMIT_S / 2,
        socket_connect_timeout=PROBE_LIMIT_S / 2,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=5,
    )


def _ask_redis() -> RedisFacts:
    client = _redis_client(settings.REDIS_URL)
    beats = read_beats(client)
    with client.pipeline(transaction=False) as pipe:
        pipe.hlen(keys.fired())
        pipe.hget(keys.last_sweep(), "at")
        pipe.hgetall(keys.health_since())
        pipe.get(keys.book_epoch())
        pipe.info("server")
        for symbol in settings.SYMBOLS:
            pipe.hmget(keys.price(symbol), ["at", "received"])
        fired, swept_at, since, epoch, server, *prices = pipe.execute()
    return RedisFacts(
        now_ms=WALL_CLOCK.now_ms(),
        beats=beats,
        prices={symbol: _times(*row) for symbol, row in zip(settings.SYMBOLS, prices, strict=True)},
        book=book.armed_count(settings.SYMBOLS, client=client),
        fired=fired,
        oldest_fired_ms=_oldest_fired_ms(client, fired),
        last_sweep_ms=None if swept_at is None else int(swept_at),
        book_is_complete=epoch == server["run_id"],
        bad_since_ms={name: int(at) for name, at in since.items()},
    )


def _times(at_ms: str | None, received_ms: str | None) -> PriceTimes | None:
    return None if at_ms is None or received_ms is None else PriceTimes(int(at_ms), int(received_ms))


def _oldest_fired_ms(client: redis.Redis, count: int) -> int | None:
    if not count:
        return None
    if count <= FIRED_SAMPLE:
        entries: Any = client.hgetall(keys.fired()).items()
    else:
        flat: Any = client.hrandfield(keys.fired(), FIRED_SAMPLE, withvalues=True)
        entries = zip(flat[::2], flat[1::2], strict=True)
    return min((fired.fired_ms for fired in book.read_fired(entries)), default=None)


def remember_since(since: dict[str, int], good: list[str]) -> None:
    """Write down since when checks are bad (ms), and forget it of the good ones. Raises redis.RedisError."""
    client = _redis_client(settings.REDIS_URL)
    with client.pipeline(transaction=False) as pipe:
        for name, at_ms in since.items():
            pipe.hsetnx(keys.health_since(), name, str(at_ms))
        if good:
            pipe.hdel(keys.health_since(), *good)
        pipe.execute()


def _ask_broker() -> BrokerFacts:
    return BrokerFacts(queues.waiting(PROBE_LIMIT_S / 2))
