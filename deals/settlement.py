"""Closes deals: the one path by which a deal ends, whoever asks for it. One transaction a batch.

It does not look for prices and decides nothing but whether what fired still holds: version and trigger, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

import structlog
from django.conf import settings
from django.db import DataError, IntegrityError, InterfaceError, OperationalError, connection, transaction
from django.utils import timezone
from psycopg import errors as pg

from deals import locks, money
from deals.arrays import array, instant_array, text_array
from deals.crash_points import crash_point
from deals.pnl import Outcome, close_outcome
from deals.prepared import execute_planned
from deals.signals import settled
from deals.sql import statement
from deals.triggers import Direction, Triggers, close_reason

log = structlog.get_logger(__name__)
T = TypeVar("T")

CONFLICT_RETRIES = 3
"""How often a transaction that lost to a deadlock or a serialization failure runs again before the error is raised."""

LOOK_BACK = 20_000
"""How many of the newest settlements are looked at for one without a commit time."""


class Due(NamedTuple):
    """A deal to be closed, and at what price. For a closure by hand `version` is None: the row counts as it is.

    tick_at      exchange time of the price
    received_at  when the price reached us
    fired_at     when it was found to cross the trigger
    gap_ms       how long the symbol had had no price before this one, when that was an outage; else None
    """

    deal_id: int
    version: int | None
    price: Decimal
    detector: str
    trade_id: int | None = None
    tick_at: datetime | None = None
    received_at: datetime | None = None
    fired_at: datetime | None = None
    gap_ms: int | None = None


class Closure(NamedTuple):
    """A closed deal, as it is announced after the commit."""

    deal_id: int
    user_id: int
    symbol: str
    reason: str
    detector: str
    price: Decimal
    profit: Decimal
    settlement_id: int
    notification_id: int
    closed_at: datetime
    latency_ms: float | None
    received_at: datetime | None
    fired_at: datetime | None


class Failure(NamedTuple):
    """A deal whose data cannot be settled, alone among its batch."""

    due: Due
    error: Exception


@dataclass
class Report:
    """What became of each deal of a batch."""

    closed: list[Closure] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    """Not open any more: someone else was first."""
    changed: list[int] = field(default_factory=list)
    """Open, but at another version or not beyond its trigger: it is to be armed as it stands."""
    failed: list[Failure] = field(default_factory=list)
    started_at: datetime | None = field(default=None, compare=False)
    committed_at: datetime | None = field(default=None, compare=False)
    """As written down; None when nothing closed, inside a caller's transaction, or when it could not be written."""

    @property
    def finished(self) -> list[int]:
        """What needs no more at the version that fired: closed now, not open any more, or to be armed as it stands."""
        return [closure.deal_id for closure in self.closed] + self.gone + self.changed


class _Locked(NamedTuple):
    """A row of lock_for_settlement.sql."""

    id: int
    account_id: int
    symbol: str
    direction: Direction
    amount: Decimal
    multiplier: int
    open_price: Decimal
    upper_trigger: Decimal | None
    lower_trigger: Decimal | None
    monitoring: str
    watch_version: int
    user_id: int


class _Closing(NamedTuple):
    deal: _Locked
    due: Due
    reason: str
    outcome: Outcome


def settle(batch: Sequence[Due], *, started_at: datetime | None = None) -> Report:
    """Close what is due of a batch, in one READ COMMITTED transaction, and say what became of each.

    1. take the stop lock (shared) and read the state in a second statement;
    2. lock the open deals by id, then their accounts by id;
    3. check version and trigger, compute profit and commission;
    4. write deals, ledger, events, notifications and accounts from arrays.

    `started_at` is when the work began, now if not given.

    Safe to run twice: what is closed already is reported as gone. After a data error all of it runs again, and splits
    the batch by savepoints until only the culprit is left, which is reported as failed. Raises Unavailable
    `system_not_running`, and OperationalError or InterfaceError when PostgreSQL cannot be reached or the conflict did
    not go away.
    """
    began_at = started_at or timezone.now()
    by_id = {due.deal_id: due for due in batch}
    try:
        report, settlement_ids = retry_conflicts(lambda: _settle_once(by_id, began_at, _execute_all))
    except (DataError, IntegrityError):
        report, settlement_ids = retry_conflicts(lambda: _settle_once(by_id, began_at, _execute_parts))
    crash_point("settle.after_commit")
    report.started_at, report.committed_at = began_at, _record_commit(settlement_ids)
    _log(report)
    if report.closed:
        # The deals are closed whatever a receiver makes of it; Django logs its error.
        transaction.on_commit(lambda: settled.send_robust(sender=None, report=report))
    return report


def _log(report: Report) -> None:
    """One line for all deals that closed alike, with every deal's number: a line each would cost a mass trigger more
    than its prices do. Of several deals `profit` is the sum and `latency_ms` the longest.
    """
    alike: dict[tuple[str, str, str, Decimal], list[Closure]] = {}
    for closure in report.closed:
        alike.setdefault((closure.symbol, closure.reason, closure.detector, closure.price), []).append(closure)
    for (symbol, reason, detector, price), closures in alike.items():
        profit = sum((closure.profit for closure in closures), Decimal(0))
        latency_ms = max((closure.latency_ms for closure in closures if closure.latency_ms is not None), default=None)
        log.info(
            "deal.closed", **_numbers([closure.deal_id for closure in closures]), symbol=symbol, reason=reason,
            detector=detector, price=money.plain(price), profit=money.plain(profit), latency_ms=latency_ms,
        )  # fmt: skip
    if report.gone:
        log.info("deal.skipped", **_numbers(report.gone), why="not open any more")
    if report.changed:
        log.info("deal.skipped", **_numbers(report.changed), why="changed since it fired")


def _numbers(deal_ids: list[int]) -> dict[str, Any]:
    """The fields that name deals: `deal_id` of one, `deals` and `deal_ids` of more."""
    return {"deal_id": deal_ids[0]} if len(deal_ids) == 1 else {"deals": len(deal_ids), "deal_ids": deal_ids}


def retry_conflicts(work: Callable[[], T]) -> T:
    """Run a transaction again when PostgreSQL chose it as the victim of a deadlock or serialization failure."""
    for attempt in range(1, CONFLICT_RETRIES + 1):
        try:
            return work()
        except OperationalError as error:
            if not isinstance(error.__cause__, (pg.DeadlockDetected, pg.SerializationFailure)):
                raise
            if attempt == CONFLICT_RETRIES:
                raise
            log.warning("settlement.conflict", attempt=attempt, error=str(error))
    raise AssertionError("unreachable: the last attempt returns or raises")


Write = Callable[[list["_Closing"], datetime, "Report"], list[int]]
"""Writes closings, adds them to the report, and returns the ids of their settlements."""


def _settle_once(by_id: dict[int, Due], started_at: datetime, write: Write) -> tuple[Report, list[int]]:
    report = Report()
    with transaction.atomic():
        locks.hold_stop_lock(locks.MAY_SETTLE)
        deals = _lock(sorted(by_id))
        crash_point("settle.after_locks")
        closings = _decide(by_id, deals, report)
        settlement_ids = write(closings, started_at, report) if closings else []
        crash_point("settle.before_commit")
    return report, settlement_ids


def _record_commit(settlement_ids: list[int]) -> datetime | None:
    """Write down when PostgreSQL committed. Failing is only logged: an error would deny that the deals are closed."""
    if not settlement_ids or connection.in_atomic_block:  # inside a caller's transaction nothing is committed yet
        return None
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement("record_commit"), {"ids": settlement_ids})
            return next((row[0] for row in cursor.fetchall()), None)
    except (OperationalError, InterfaceError) as error:
        log.warning("settlement.commit_time_unknown", settlement_ids=settlement_ids, error=str(error))
        return None


def record_lost_commits() -> int:
    """Write down when settlements were committed whose process died before it could; returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(statement("record_lost_commits"), {"newest": LOOK_BACK})
        return int(cursor.rowcount)


def _lock(ids: list[int]) -> list[_Locked]:
    rows = execute_planned(statement("lock_for_settlement"), {"ids": array(ids)}, rows=len(ids))
    return [_Locked._make(row) for row in rows]


def _decide(by_id: dict[int, Due], deals: list[_Locked], report: Report) -> list[_Closing]:
    """Sort the batch into what closes, what is gone and what has changed."""
    closings = []
    rate = settings.COMMISSION_RATE
    report.gone.extend(sorted(by_id.keys() - {deal.id for deal in deals}))
    for deal in deals:
        due = by_id[deal.id]
        try:
            reason = _reason(deal, due)
            if reason is None:
                report.changed.append(deal.id)
            else:
                closings.append(_Closing(deal, due, reason, _outcome(deal, due, rate)))
        except ArithmeticError as error:
            report.failed.append(Failure(due, error))
    return closings


def _reason(deal: _Locked, due: Due) -> str | None:
    if due.version is None:
        return "manual"
    if due.version != deal.watch_version or deal.monitoring not in {"pending", "armed"}:
        return None
    return close_reason(deal.direction, Triggers(deal.upper_trigger, deal.lower_trigger), due.price)


def _outcome(deal: _Locked, due: Due, rate: Decimal) -> Outcome:
    return close_outcome(
        direction=deal.direction,
        amount=deal.amount,
        multiplier=deal.multiplier,
        open_price=deal.open_price,
        close_price=due.price,
        commission_rate=rate,
    )


def _execute_all(closings: list[_Closing], started_at: datetime, report: Report) -> list[int]:
    """All at once: a data error takes the transaction with it. As a rule there is none: no savepoint to wait for."""
    written = _execute(closings, started_at)
    report.closed.extend(_closure(closing, written[closing.deal.id]) for closing in closings)
    return [next(iter(written.values())).settlement_id]


def _execute_parts(closings: list[_Closing], started_at: datetime, report: Report) -> list[int]:
    """In a savepoint; on a data error the halves, down to the single culprit."""
    try:
        with transaction.atomic():
            return _execute_all(closings, started_at, report)
    except (DataError, IntegrityError) as error:
        if len(closings) == 1:
            report.failed.append(Failure(closings[0].due, error))
            return []
    middle = len(closings) // 2
    return [
        settlement_id
        for half in (closings[:middle], closings[middle:])
        for settlement_id in _execute_parts(half, started_at, report)
    ]


OUTCOMES: Final = ("volumes", "commissions", "profits", "payouts")
"""The fields of Outcome as write_settlement.sql names them."""


class _Written(NamedTuple):
    notification_id: int
    settlement_id: int
    closed_at: datetime


def _execute(closings: list[_Closing], started_at: datetime) -> dict[int, _Written]:
    closed_at = timezone.now()
    firings: dict[Any, int] = {}
    """What many deals share, numbered from 1: the reason, and of `Due` all from the price on."""
    deals: dict[str, Any] = {
        "firings": array(
            [firings.setdefault((closing.reason, *closing.due[2:]), len(firings) + 1) for closing in closings]
        ),
        "ids": array([closing.deal.id for closing in closings]),
    }
    outcomes = zip(*[closing.outcome for closing in closings], strict=True)
    deals |= {name: array(values) for name, values in zip(OUTCOMES, outcomes, strict=True)}
    reasons, prices, detectors, trade_ids, tick_ats, received_ats, fired_ats, gaps_ms = zip(*firings, strict=True)
    columns: dict[str, Any] = {
        **deals,
        "reasons": text_array(reasons),
        "close_prices": array(prices),
        "detectors": text_array(detectors),
        "trade_ids": array(trade_ids),
        "tick_ats": instant_array(tick_ats),
        "received_ats": instant_array(received_ats),
        "fired_ats": instant_array(fired_ats),
        "gaps_ms": array(gaps_ms),
        "started_at": started_at,
        "closed_at": closed_at,
    }
    rows = execute_planned(statement("write_settlement"), columns, rows=len(closings))
    return {row[0]: _Written(row[1], row[2], closed_at) for row in rows}


def _closure(closing: _Closing, written: _Written) -> Closure:
    deal, due, reason, outcome = closing
    return Closure(
        deal.id, deal.user_id, deal.symbol, reason, due.detector, due.price, outcome.profit, written.settlement_id,
        written.notification_id, written.closed_at, _latency_ms(due.received_at, written.closed_at), due.received_at,
        due.fired_at,
    )  # fmt: skip


@lru_cache(maxsize=16)
def _latency_ms(received_at: datetime | None, closed_at: datetime) -> float | None:
    return None if received_at is None else round((closed_at - received_at).total_seconds() * 1000, 3)
