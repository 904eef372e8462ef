"""The safety net: every 2 s PostgreSQL is asked which watched deals the price window has reached.

Whatever the book says. In a healthy system it finds nothing to close. It depends on no message having arrived.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Final, NamedTuple

import structlog
from django.conf import settings
from django.db import connection

from deals.models import WATCHED, Detector, Monitoring
from deals.money import plain
from deals.queries import Bucket, DueRow, due_rows, expiring_ids, pending_rows, watch_rows
from deals.sql import statement
from deals.triggers import Direction, Triggers, sweep_price
from workers import announce, book, counters, keys, queues, system
from workers.book import Fired
from workers.clock import WALL_CLOCK, Clock, to_datetime
from workers.dispatch import send_closures
from workers.exclusive import alone
from workers.models import SweepPosition
from workers.prices import is_fresh
from workers.receivers import arm_rows
from workers.redis_client import connect

log = structlog.get_logger(__name__)

SWEEP_LOCK: Final = 7306
FOUND_LIMIT: Final = 5_000
ARM_LIMIT: Final = 5_000
EXPIRE_LIMIT: Final = 1_000
RESEND_AFTER_MS: Final = 5_000
LONGEST_WAIT_MS: Final = 60_000
SWEEP_WORK: Final = ("found", "resent", "armed", "expired")


class SymbolWindow(NamedTuple):
    """What a symbol's prices did since the last sweep: its buckets and its last price."""

    symbol: str
    price: str
    at_ms: int
    received_ms: int
    trade_id: int | None
    seq: int
    buckets: list[Bucket]


@dataclass
class SweepReport:
    """What one sweep did. `skipped` is True when another sweep was at work."""

    found: int = 0
    resent: int = 0
    armed: int = 0
    expired: int = 0
    published: int = 0
    duration_ms: int = 0
    skipped: bool = False
    book_lost: bool = False
    found_ids: list[int] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """The figures, for logs and statistics."""
        return {name: int(value) for name, value in asdict(self).items() if name != "found_ids"}


def sweep(*, clock: Clock = WALL_CLOCK) -> SweepReport:
    """Run one sweep; returns at once when another one holds the lock.

    Raises redis.RedisError and django.db.OperationalError: the next sweep begins where this one did.
    """
    started = time.monotonic()
    report = SweepReport()
    if system.refresh_state().state != "running":
        report.published = announce.publish_notifications()
        return report
    with alone(SWEEP_LOCK) as mine:
        report.skipped = not mine
        if mine:
            _sweep(clock, report)
    report.duration_ms = round((time.monotonic() - started) * 1000)
    log.debug("sweep.done", **report.counts())
    return report


def remember(report: SweepReport, *, clock: Clock = WALL_CLOCK) -> None:
    """Say when the last sweep ended and what it did, and count it, unless another one was at work.

    Raises redis.RedisError.
    """
    if not report.skipped:
        figures: dict[Any, Any] = {"at": clock.now_ms(), **report.counts()}
        connect().hset(keys.last_sweep(), mapping=figures)
        done = {counters.field(counters.SWEEP_DEALS, name): getattr(report, name) for name in SWEEP_WORK}
        counters.count({counters.SWEEPS: 1, counters.SWEEP_US: report.duration_ms * 1000, **done})


def _sweep(clock: Clock, report: SweepReport) -> None:
    found = _find(clock, report)
    if report.found:
        log.warning("sweep.found", deals=report.found, ids=report.found_ids[:20])
    if found:
        announce.publish_triggers(found)
        send_closures(found)
    report.resent = resend(clock=clock, but=[fired.deal_id for fired in found])
    report.expired = end_expired(clock=clock)
    report.armed = arm_rows(pending_rows(ARM_LIMIT), clock=clock)
    report.published = announce.publish_notifications()
    report.book_lost = connect().get(keys.book_epoch()) != system.server_run_id()


def _find(clock: Clock, report: SweepReport) -> list[Fired]:
    """Fire what the windows reached, then move the positions on. Stale symbols wait for their next good price.

    What a stop, or a Redis that has lost its memory, kept from firing is looked for again: the positions stay. The
    report counts what was armed: that the book has lost. What was still pending may be just on its way into the book.
    """
    positions = dict(SweepPosition.objects.values_list("symbol", "seq"))
    now_ms = clock.now_ms()
    windows = [window for window in read_windows(settings.SYMBOLS, positions) if _is_fresh(window, now_ms)]
    buckets = [bucket for window in windows for bucket in window.buckets]
    if not buckets:
        return []
    by_symbol = {window.symbol: window for window in windows}
    found: list[Fired] = []
    after, more = 0, True
    while more:
        due = due_rows(buckets, limit=FOUND_LIMIT, after=after)
        candidates = [fired for row in due if (fired := _as_fired(row, by_symbol[row.symbol], now_ms)) is not None]
        fired_now = book.fire_found(candidates, now_ms=now_ms)
        if fired_now is None:
            return found
        fired_now = _without_settled(fired_now)
        found += fired_now
        armed = {row.id for row in due if row.monitoring == Monitoring.ARMED}
        report.found_ids += [fired.deal_id for fired in fired_now if fired.deal_id in armed]
        report.found = len(report.found_ids)
        more = len(due) == FOUND_LIMIT
        after = due[-1].id if due else after
    _advance(windows)
    return found


def _without_settled(found: list[Fired]) -> list[Fired]:
    """Leave out what had fired and was settled between the two reads: it is in `fired` no more, and closed."""
    rows = {row.id: row for row in watch_rows(fired.deal_id for fired in found)}
    settled = [fired for fired in found if rows[fired.deal_id].monitoring not in WATCHED]
    book.clear_fired((fired.deal_id, fired.version) for fired in settled)
    return [fired for fired in found if rows[fired.deal_id].monitoring in WATCHED]


def read_windows(symbols: Iterable[str], positions: dict[str, int]) -> list[SymbolWindow]:
    """The buckets of each symbol that reach beyond its position, oldest first, and its last price."""
    names = list(symbols)
    with connect().pipeline(transaction=True) as pipe:
        for symbol in names:
            pipe.hgetall(keys.price(symbol))
            pipe.xrange(keys.window(symbol))
        answers = pipe.execute()
    windows = []
    for symbol, price, closed in zip(names, answers[::2], answers[1::2], strict=True):
        if "price" not in price or int(price["seq"]) <= positions.get(symbol, 0):
            continue
        windows.append(_window(symbol, price, closed, positions.get(symbol, 0)))
    return windows


def _window(symbol: str, price: dict[str, str], closed: Sequence[Any], position: int) -> SymbolWindow:
    buckets = [
        Bucket(symbol, int(entry_id.split("-")[0]), Decimal(fields["low"]), Decimal(fields["high"]))
        for entry_id, fields in closed
    ]
    buckets.append(Bucket(symbol, int(price["b_seq"]), Decimal(price["b_low"]), Decimal(price["b_high"])))
    # A bucket counts unless the next one begins at or before the position: then all of it was seen.
    following = [bucket.first_seq for bucket in buckets[1:]] + [int(price["seq"]) + 1]
    unseen = [bucket for bucket, end in zip(buckets, following, strict=True) if end > position + 1]
    return SymbolWindow(
        symbol=symbol,
        price=price["price"],
        at_ms=int(price["at"]),
        received_ms=int(price["received"]),
        trade_id=int(price["trade_id"]) if price["trade_id"] else None,
        seq=int(price["seq"]),
        buckets=unseen,
    )


def _is_fresh(window: SymbolWindow, now_ms: int) -> bool:
    return is_fresh(now_ms - min(window.at_ms, window.received_ms))


def _as_fired(row: DueRow, window: SymbolWindow, now_ms: int) -> Fired | None:
    """The deal with the price at which it closes: the last one if it lies beyond a trigger, else the trigger itself."""
    last = Decimal(window.price)
    direction: Direction = row.direction  # type: ignore[assignment]  # checked by the database
    price = sweep_price(Triggers(row.upper_trigger, row.lower_trigger), row.low, row.high, last, direction)
    if price is None:
        return None
    return Fired(
        deal_id=row.id,
        version=row.watch_version,
        symbol=row.symbol,
        price=window.price if price == last else plain(price),
        trade_id=window.trade_id if price == last else None,
        at_ms=window.at_ms,
        received_ms=window.received_ms,
        fired_ms=now_ms,
        detector=Detector.SWEEP.value,
    )


def _advance(windows: list[SymbolWindow]) -> None:
    SweepPosition.objects.bulk_create(
        [SweepPosition(symbol=window.symbol, seq=window.seq) for window in windows],
        update_conflicts=True,
        update_fields=["seq"],
        unique_fields=["symbol"],
    )


def resend(*, clock: Clock = WALL_CLOCK, but: Iterable[int] = ()) -> int:
    """Send again what has waited in `fired`: its message may be lost. Settling it twice changes nothing.

    With growing intervals: an entry of age t waits for t more. While the queue holds messages, theirs may be among
    them: only what has fired a minute ago is sent then. Returns how many were sent. Raises redis.RedisError, kombu
    OperationalError.
    """
    client = connect()
    now_ms = clock.now_ms()
    waiting = client.zrangebyscore(keys.fired_at(), "-inf", now_ms - RESEND_AFTER_MS, start=0, num=FOUND_LIMIT)
    ids = sorted({int(str(deal_id)) for deal_id in waiting} - set(but))
    if not ids:
        return 0
    least_age_ms = LONGEST_WAIT_MS if queues.depth("closures") else 0
    fired = [item for item in book.fired_among(ids).values() if now_ms - item.fired_ms >= least_age_ms]
    book.postpone({item.deal_id: now_ms + min(now_ms - item.fired_ms, LONGEST_WAIT_MS) for item in fired})
    send_closures(fired)
    return len(fired)


def end_expired(*, clock: Clock = WALL_CLOCK) -> int:
    """End monitoring that has run its time, except for what has fired: that keeps its price and closes.

    Out of the book first: from then on no tick fires it, so that what is not in `fired` has not fired. A crash before
    the rows are written is found by the next sweep. Returns how many deals it ended.
    """
    now = to_datetime(clock.now_ms())
    ids = expiring_ids(now, EXPIRE_LIMIT)
    if not ids:
        return 0
    book.take_out(watch_rows(ids), clock=clock)
    ids = sorted(set(ids) - book.fired_among(ids).keys())
    with connection.cursor() as cursor:
        cursor.execute(statement("expire_monitoring"), {"ids": ids, "now": now})
        expired = [row[0] for row in cursor.fetchall()]
    if expired:
        log.info("deal.expired", deal_ids=expired[:20], deals=len(expired))
    return len(expired)
