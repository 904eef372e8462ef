"""The trigger book in Redis: which deals are armed, which have fired. Everything here can be rebuilt from PostgreSQL.

Two sorted sets a symbol (score = trigger price, member = deal id), so that a tick costs O(log n + crossed).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

import structlog
from django.conf import settings
from redis import Redis

from deals.models import WATCHED, Monitoring
from deals.money import plain
from deals.queries import WatchedRange, WatchRow
from deals.settlement import Due
from workers import keys
from workers.clock import WALL_CLOCK, Clock, to_datetime
from workers.redis_client import ARM, CLEAR_FIRED, FIRE_FOUND, TRIGGER_DENSITY, connect

log = structlog.get_logger(__name__)

ARM_CHUNK = 500
FIRED_CHUNK = 2_000
ARM_AGAIN_WORDS = 6 * ARM_CHUNK


class Fired(NamedTuple):
    """A deal that has fired and is not yet settled: what the book keeps and the queue carries, times in ms."""

    deal_id: int
    version: int
    symbol: str
    price: str
    trade_id: int | None
    at_ms: int
    received_ms: int
    fired_ms: int
    detector: str
    gap_ms: int = 0
    """How long the symbol had had no price before this one, when the last one was stale by then; else 0."""

    @classmethod
    def parse(cls, deal_id: str | int, entry: str) -> Fired:
        """Read an entry as the scripts write it: version|symbol|price|trade id|exchange|received|fired|detector, and
        |gap after a time without prices.
        """
        version, _, tail = entry.partition("|")
        return cls(int(deal_id), int(version), *_read_tail(tail))

    @property
    def entry(self) -> str:
        """The text that `parse` reads."""
        return f"{self.version}|{_write_tail(self[2:])}"

    def due(self) -> Due:
        """The same as settlement takes it."""
        return Due(self.deal_id, self.version, *_facts(self[3:]))


# What one tick fires differs in deal and version only: all else is read and written once, and remembered for a while.


@lru_cache(maxsize=1024)
def _read_tail(tail: str) -> tuple[str, str, int | None, int, int, int, str, int]:
    symbol, price, trade_id, at_ms, received_ms, fired_ms, detector, *after_gap = tail.split("|")
    [gap_ms] = after_gap or ["0"]
    times = int(at_ms), int(received_ms), int(fired_ms)
    return symbol, price, int(trade_id) if trade_id else None, *times, detector, int(gap_ms)


@lru_cache(maxsize=1024)
def _write_tail(fields: tuple[Any, ...]) -> str:
    """Of Fired from `symbol` on."""
    symbol, price, trade_id, at_ms, received_ms, fired_ms, detector, gap_ms = fields
    shown = "" if trade_id is None else trade_id
    gap = f"|{gap_ms}" if gap_ms else ""
    return f"{symbol}|{price}|{shown}|{at_ms}|{received_ms}|{fired_ms}|{detector}{gap}"


@lru_cache(maxsize=1024)
def _facts(fields: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of Due from `price` on, out of Fired from `price` on."""
    price, trade_id, at_ms, received_ms, fired_ms, detector, gap_ms = fields
    times = to_datetime(at_ms), to_datetime(received_ms), to_datetime(fired_ms)
    return Decimal(price), detector, trade_id, *times, gap_ms or None


class Density(NamedTuple):
    """How many deals have a trigger in each step of the price axis, by side of the book."""

    upper: list[int]
    lower: list[int]


class Armed(NamedTuple):
    """What arming did: the rows that the book (or `fired`) now holds, and those that fired at once."""

    held: list[WatchRow]
    fired: list[Fired]

    @property
    def pending(self) -> list[WatchRow]:
        """Those held whose rows do not say so yet."""
        return [row for row in self.held if row.monitoring == Monitoring.PENDING]


def parse_fired(flat: Sequence[str]) -> list[Fired]:
    """Read the scripts' flat list id, entry, id, entry, …"""
    return read_fired((flat[i], flat[i + 1]) for i in range(0, len(flat), 2))


def read_fired(entries: Iterable[tuple[str | int, str]]) -> list[Fired]:
    """Read (deal id, entry) pairs; what cannot be read is reported and left out, so that it blocks nobody else."""
    fired = []
    for deal_id, entry in entries:
        try:
            fired.append(Fired.parse(deal_id, entry))
        except ValueError as error:
            log.error("fired.unreadable", deal_id=deal_id, entry=entry, error=str(error))  # noqa: TRY400 - no trace needed
    return fired


def arm(rows: Iterable[WatchRow], *, clock: Clock = WALL_CLOCK, client: Redis | None = None) -> Armed:
    """Put deals into the book as their rows say, or take them out if they are not watched. Idempotent.

    The rows must have been read from PostgreSQL after their commit. A version older than the one held is refused.
    Raises redis.RedisError; what was not armed stays `pending` in PostgreSQL.
    """
    redis = client or connect()
    chunks = [
        group[start : start + ARM_CHUNK]
        for group in _by_symbol(rows).values()
        for start in range(0, len(group), ARM_CHUNK)
    ]
    armed = Armed([], [])
    if not chunks:
        return armed
    now_ms = clock.now_ms()
    answers = [ARM.run(redis, *_arm_call(chunks[0], now_ms))]  # from here on the server knows the script
    with redis.pipeline(transaction=False) as pipe:
        for chunk in chunks[1:]:
            ARM.queue(pipe, *_arm_call(chunk, now_ms))
        answers += pipe.execute()
    for chunk, (held, fired) in zip(chunks, answers, strict=True):
        by_id = {str(row.id): row for row in chunk}
        armed.held.extend(by_id[deal_id] for deal_id in held)
        armed.fired.extend(parse_fired(fired))
    return armed


def not_held(rows: Iterable[WatchRow], *, client: Redis | None = None) -> list[WatchRow]:
    """Those of some watched deals that the book does not hold at their version and triggers; also what has fired.

    Only looks: unlike arming it reads no prices, and keeps no tick waiting. Raises redis.RedisError.
    """
    by_symbol = _by_symbol(rows)
    with (client or connect()).pipeline(transaction=False) as pipe:
        for symbol, group in by_symbol.items():
            ids = [str(row.id) for row in group]
            pipe.hmget(keys.versions(symbol), ids)
            pipe.zmscore(keys.upper(symbol), ids)
            pipe.zmscore(keys.lower(symbol), ids)
        answers = iter(pipe.execute())
    differing = []
    for group, versions, uppers, lowers in zip(by_symbol.values(), answers, answers, answers, strict=True):
        for row, *held in zip(group, versions, uppers, lowers, strict=True):
            if held != [str(row.watch_version), _score(row.upper_trigger), _score(row.lower_trigger)]:
                differing.append(row)
    return differing


def _by_symbol(rows: Iterable[WatchRow]) -> dict[str, list[WatchRow]]:
    by_symbol: dict[str, list[WatchRow]] = defaultdict(list)
    for row in rows:
        by_symbol[row.symbol].append(row)
    return by_symbol


def _score(trigger: Decimal | None) -> float | None:
    return None if trigger is None else float(trigger)


def arm_again(ranges: Iterable[WatchedRange], *, clock: Clock = WALL_CLOCK, client: Redis | None = None) -> list[Fired]:
    """Put armed deals back into a book that has lost them; returns those that fired at once. Otherwise as `arm`."""
    redis = client or connect()
    head: list[str | int] = [clock.now_ms(), settings.PRICE_STALE_AFTER_S * 1000]
    calls = [
        (_arm_keys(part.symbol), [*head, part.symbol, *part.words[start : start + ARM_AGAIN_WORDS]])
        for part in ranges
        for start in range(0, len(part.words), ARM_AGAIN_WORDS)
    ]
    if not calls:
        return []
    answers = [ARM.run(redis, *calls[0])]  # from here on the server knows the script
    with redis.pipeline(transaction=False) as pipe:
        for call in calls[1:]:
            ARM.queue(pipe, *call)
        answers += pipe.execute()
    return [item for _held, fired in answers for item in parse_fired(fired)]


def _arm_keys(symbol: str) -> list[str]:
    return [*_head(), keys.price(symbol), keys.window(symbol), *_sets(symbol)]


def _arm_call(rows: list[WatchRow], now_ms: int) -> tuple[list[str], list[str | int]]:
    """Keys and arguments of the script for some deals of one symbol."""
    symbol = rows[0].symbol
    args: list[str | int] = [now_ms, settings.PRICE_STALE_AFTER_S * 1000, symbol]
    for row in rows:
        watched = row.monitoring in WATCHED
        upper = plain(row.upper_trigger) if watched and row.upper_trigger is not None else ""
        lower = plain(row.lower_trigger) if watched and row.lower_trigger is not None else ""
        stop = "L" if row.direction == "up" else "U"
        args += [row.id, row.watch_version, row.watched_from_seq, upper, lower, stop]
    return _arm_keys(symbol), args


def fire_found(found: Sequence[Fired], *, now_ms: int, client: Redis | None = None) -> list[Fired] | None:
    """Move deals that the sweep found into `fired`; returns those that were not there.

    None when Redis says that the system does not run, or has forgotten its state: then nothing was moved.
    """
    if not found:
        return []
    names, args = _head(), [str(now_ms)]
    for fired in found:
        names += _sets(fired.symbol)
        args += [str(fired.deal_id), str(fired.version), fired.entry]
    state, flat = FIRE_FOUND.run(client or connect(), names, args)
    return parse_fired(flat) if state == "running" else None


def clear_fired(settled: Iterable[tuple[int, int]], *, client: Redis | None = None) -> int:
    """Remove (deal id, version) pairs from `fired`; a newer version's entry stays. Returns how many were removed."""
    args = [value for pair in settled for value in pair]
    if not args:
        return 0
    return int(CLEAR_FIRED.run(client or connect(), [keys.fired(), keys.fired_at()], args))


def take_out(rows: Iterable[WatchRow], *, clock: Clock = WALL_CLOCK) -> None:
    """Take deals out of the book, whatever their rows say; what has fired stays in `fired`."""
    arm([row._replace(monitoring="none") for row in rows], clock=clock)


def postpone(until_ms: dict[int, int], *, client: Redis | None = None) -> None:
    """Keep the sweep from sending fired entries again before these times."""
    if until_ms:
        scores = {str(deal_id): at_ms for deal_id, at_ms in until_ms.items()}
        (client or connect()).zadd(keys.fired_at(), scores, xx=True)


def fired_among(ids: Sequence[int | str], *, client: Redis | None = None) -> dict[int, Fired]:
    """Those of some deals that have fired and are not settled yet."""
    if not ids:
        return {}
    entries = (client or connect()).hmget(keys.fired(), [str(deal_id) for deal_id in ids])
    found = [(deal_id, str(entry)) for deal_id, entry in zip(ids, entries, strict=True) if entry is not None]
    return {fired.deal_id: fired for fired in read_fired(found)}


def all_fired(*, client: Redis | None = None) -> dict[int, Fired]:
    """Everything that has fired and is not settled yet."""
    entries = (client or connect()).hgetall(keys.fired())
    return {fired.deal_id: fired for fired in read_fired((str(key), str(entry)) for key, entry in entries.items())}


def fired_versions(*, client: Redis | None = None) -> list[str]:
    """What was in `fired` all the while that it took to read it, as `id|version`; of the rest some.

    Read piece by piece: while a hundred thousand wait to be settled, ticks need not wait for all of them to be read.
    """
    entries = (client or connect()).hscan_iter(keys.fired(), count=FIRED_CHUNK)
    return [f"{deal_id}|{entry.partition('|')[0]}" for deal_id, entry in entries]


def armed_count(symbols: Iterable[str], *, client: Redis | None = None) -> dict[str, int]:
    """How many deals the book holds, by symbol."""
    names = list(symbols)
    with (client or connect()).pipeline(transaction=False) as pipe:
        for symbol in names:
            pipe.hlen(keys.versions(symbol))
        return dict(zip(names, pipe.execute(), strict=True))


def density(symbol: str, edges: Sequence[Decimal], *, client: Redis | None = None) -> Density:
    """Counted between rising edges, the upper edge of a step not included. Raises redis.RedisError."""
    names = [keys.upper(symbol), keys.lower(symbol)]
    return Density(*TRIGGER_DENSITY.run(client or connect(), names, [plain(edge) for edge in edges]))


def _head() -> list[str]:
    return [keys.state(), keys.fired(), keys.fired_at()]


def _sets(symbol: str) -> list[str]:
    return [keys.upper(symbol), keys.lower(symbol), keys.versions(symbol)]
