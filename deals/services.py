"""What can be done with a deal: open, amend, close, take out of monitoring, put back. Each call is one transaction.

Services take the quote as an argument and know no queue. After the commit they send `deal_changed`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from deals import locks, money
from deals.crash_points import crash_point
from deals.errors import Conflict, DealError, NotFound
from deals.models import Account, Deal, DealEvent, LedgerEntry, Monitoring, Notification, Status
from deals.prepared import execute_prepared
from deals.queries import WatchRow, watch_row
from deals.quotes import Quote
from deals.settlement import Due, settle
from deals.signals import deal_changed
from deals.sql import statement
from deals.triggers import Direction, LevelError, Levels, check_levels, triggers_of

log = structlog.get_logger(__name__)

UNCHANGED: Final[Any] = object()
"""Stands for a level that an amendment leaves as it is."""


def create_account(user_id: int, *, balance: Decimal | None = None, now: datetime | None = None) -> Account:
    """The user's account, created and funded on the first call; later calls return it unchanged."""
    funding = settings.INITIAL_BALANCE if balance is None else balance
    at = now or timezone.now()
    with transaction.atomic():
        account, created = Account.objects.get_or_create(user_id=user_id, defaults={"balance": funding})
        if created:
            LedgerEntry.objects.create(account=account, kind="funding", amount=funding, created_at=at)
    return account


def open_deal(
    *,
    user_id: int,
    symbol: str,
    direction: Direction,
    amount: Decimal,
    multiplier: int,
    quote: Quote,
    take_profit: Decimal | None = None,
    stop_loss: Decimal | None = None,
    client_id: str | None = None,
    now: datetime | None = None,
) -> Deal:
    """Open a deal at the quote's price and lock `amount` USDT of the free balance as margin.

    Takes the stop lock (shared), then the account. With a `client_id` that this user has used before, returns the deal
    opened then and changes nothing. Raises DealError (`invalid_amount`, `invalid_multiplier`, `invalid_direction`,
    `invalid_level`, `level_on_wrong_side`, `levels_equal`, `insufficient_balance`), Conflict `client_id_reused`,
    Unavailable `system_not_running`.
    """
    levels = Levels(take_profit, stop_loss)
    _check_terms(symbol, direction, amount, multiplier, quote)
    at = now or timezone.now()
    with transaction.atomic():
        account = locks.hold_stop_lock_and_account(locks.MAY_OPEN, user_id)
        earlier = _opened_before(account.account_id, client_id)
        if earlier is not None:
            # Before the levels are checked: the price may have crossed them since, and a repeat is still a repeat.
            _require_same_terms(earlier, symbol, direction, amount, multiplier)
            return earlier
        _check_levels(direction, levels, quote.price)
        if account.balance < amount:
            raise DealError(
                "insufficient_balance",
                f"The free balance is {money.plain(account.balance)} USDT, less than {money.plain(amount)}.",
                field="amount",
            )
        deal = Deal(
            account_id=account.account_id, client_id=client_id, symbol=symbol, direction=direction, amount=amount,
            multiplier=multiplier, open_price=quote.price, opened_at=at,
        )  # fmt: skip
        _watch(deal, levels, quote, at)
        crash_point("open.before_write")
        _insert(deal)
        _announce(deal, [watch_row(deal)])
        crash_point("open.before_commit")
    log.info("deal.opened", deal_id=deal.pk, symbol=symbol, direction=direction, price=money.plain(quote.price))
    return deal


def opened_earlier(
    *, user_id: int, client_id: str | None, symbol: str, direction: Direction, amount: Decimal, multiplier: int
) -> Deal | None:
    """The deal that this user opened with this `client_id`, or None. Needs no quote: a repeat is a repeat at any price.

    Raises Conflict `client_id_reused` when that deal has other terms.
    """
    earlier = Deal.objects.filter(account__user_id=user_id, client_id=client_id).first() if client_id else None
    if earlier is not None:
        _require_same_terms(earlier, symbol, direction, amount, multiplier)
    return earlier


def amend_levels(
    *,
    user_id: int,
    deal_id: int,
    quote: Quote,
    take_profit: Decimal | None = UNCHANGED,
    stop_loss: Decimal | None = UNCHANGED,
    now: datetime | None = None,
) -> Deal:
    """Change the levels of an open deal; None takes a level away, `UNCHANGED` keeps it. Locks the deal.

    What had fired at the old levels and is not yet settled does not close the deal any more; so levels that are
    what they were change nothing at all. Monitoring that an operator ended stays ended.
    Raises NotFound, Conflict `deal_closed`, DealError as for opening.
    """
    at = now or timezone.now()
    with transaction.atomic():
        locks.hold_stop_lock(locks.MAY_OPEN)
        deal = locks.lock_deal(deal_id, user_id=user_id)
        _require_open(deal)
        _require_same_symbol(deal.symbol, quote)
        levels = Levels(
            deal.take_profit if take_profit is UNCHANGED else take_profit,
            deal.stop_loss if stop_loss is UNCHANGED else stop_loss,
        )
        if levels == Levels(deal.take_profit, deal.stop_loss):
            return deal
        direction: Direction = deal.direction  # type: ignore[assignment]  # checked by the database
        _check_levels(direction, levels, quote.price)
        removed = deal.monitoring == Monitoring.REMOVED
        deal.watch_version += 1
        _watch(deal, levels, quote, at)
        if removed:
            deal.monitoring = Monitoring.REMOVED
        deal.save()
        _record(deal, DealEvent.Kind.AMENDED, at, price=quote.price)
        _announce(deal)
    log.info("deal.amended", deal_id=deal.pk, symbol=deal.symbol, version=deal.watch_version)
    return deal


def close_deal(*, deal_id: int, quote: Quote, user_id: int | None = None, now: datetime | None = None) -> Deal:
    """Close a deal by hand at the quote's price, through the same settlement as every other closure.

    `user_id` None means an operator. Raises NotFound, Conflict `deal_closed` (someone else was first),
    `cannot_be_settled`, Unavailable `system_not_running` after an emergency stop.
    """
    deal = _find(deal_id, user_id)
    _require_open(deal)
    _require_same_symbol(deal.symbol, quote)
    due = Due(deal_id=deal_id, version=None, price=quote.price, detector="manual", tick_at=quote.at)
    report = settle([due], started_at=now)
    for failure in report.failed:
        message = "The deal cannot be closed at this price: its profit is beyond what can be booked."
        raise Conflict("cannot_be_settled", message) from failure.error
    if not report.closed:
        raise Conflict("deal_closed", "The deal is closed already.")
    _announce(deal)
    deal.refresh_from_db()
    return deal


def remove_from_monitoring(*, deal_id: int, now: datetime | None = None) -> Deal:
    """Take an open deal out of monitoring for good and tell its user. Doing it twice changes nothing. Locks the deal.

    Raises NotFound, Conflict `deal_closed`, DealError `no_levels`.
    """
    at = now or timezone.now()
    with transaction.atomic():
        deal = locks.lock_deal(deal_id)
        _require_open(deal)
        _require_levels(deal)
        if deal.monitoring == Monitoring.REMOVED:
            return deal
        _end_watch(deal, Monitoring.REMOVED, at)
        _record(deal, DealEvent.Kind.REMOVED, at)
        _tell(deal, Notification.Kind.MONITORING_REMOVED, at)
        _announce(deal)
    log.info("deal.removed", deal_id=deal.pk, symbol=deal.symbol)
    return deal


def add_to_monitoring(*, deal_id: int, quote: Quote, now: datetime | None = None) -> Deal:
    """Watch an open deal (again), from the quote on: it closes by the first later tick beyond a trigger. Locks
    the deal.

    A deal that is watched already is left as it is. Raises NotFound, Conflict `deal_closed`, DealError `no_levels`,
    Unavailable `system_not_running`.
    """
    at = now or timezone.now()
    with transaction.atomic():
        locks.hold_stop_lock(locks.MAY_OPEN)
        deal = locks.lock_deal(deal_id)
        _require_open(deal)
        _require_levels(deal)
        _require_same_symbol(deal.symbol, quote)
        if deal.monitoring in {Monitoring.PENDING, Monitoring.ARMED}:
            return deal
        deal.watch_version += 1
        _watch(deal, Levels(deal.take_profit, deal.stop_loss), quote, at)
        deal.save()
        _announce(deal)
    log.info("deal.rearmed", deal_id=deal.pk, symbol=deal.symbol, version=deal.watch_version)
    return deal


def mark_dead(*, deal_id: int, version: int, error: str, now: datetime | None = None) -> bool:
    """Give up on a deal that cannot be settled: monitoring `dead`, its user told. False when it changed meanwhile."""
    at = now or timezone.now()
    with transaction.atomic():
        deal = locks.lock_deal(deal_id)
        if deal.status != Status.OPEN or deal.watch_version != version:
            return False
        _end_watch(deal, Monitoring.DEAD, at)
        _record(deal, DealEvent.Kind.DEAD, at, error=error)
        _tell(deal, Notification.Kind.MONITORING_FAILED, at)
        _announce(deal)
    log.error("deal.dead", deal_id=deal.pk, symbol=deal.symbol, error=error)
    return True


def revive(*, deal_id: int, version: int, now: datetime | None = None) -> Deal:
    """Watch a deal again that was given up at this version, as if it had just fired.

    Takes the stop lock, then the deal. For the caller who, before the commit, puts its fired entry back under the new
    `watch_version`. Raises NotFound, Conflict `deal_closed`, Conflict `deal_changed` (not `dead`, or not since that
    version), Unavailable `system_not_running`.
    """
    at = now or timezone.now()
    with transaction.atomic():
        locks.hold_stop_lock(locks.MAY_OPEN)
        deal = locks.lock_deal(deal_id)
        _require_open(deal)
        if deal.monitoring != Monitoring.DEAD or deal.watch_version != version + 1:
            raise Conflict(
                "deal_changed", "The deal has changed since it failed: it is not due at that price any more."
            )
        deal.monitoring = Monitoring.PENDING
        deal.monitoring_since = at
        deal.watch_version += 1
        deal.watch_expires_at = at + timedelta(hours=settings.MAX_MONITORING_H)
        deal.save(update_fields=["monitoring", "monitoring_since", "watch_version", "watch_expires_at"])
    log.info("deal.revived", deal_id=deal.pk, symbol=deal.symbol, version=deal.watch_version)
    return deal


def record_attempt(*, deal_id: int, version: int, price: Decimal, error: str) -> None:
    """Write down that settling a deal failed, so that its history explains why it is open."""
    DealEvent.objects.create(
        deal_id=deal_id, kind=DealEvent.Kind.ATTEMPT, version=version, price=price, at=timezone.now(), error=error
    )


def _check_terms(symbol: str, direction: str, amount: Decimal, multiplier: int, quote: Quote) -> None:
    _require_same_symbol(symbol, quote)
    if direction not in {"up", "down"}:
        raise DealError("invalid_direction", "The direction must be `up` or `down`.", field="direction")
    if not 1 <= multiplier <= 100:  # noqa: PLR2004 - the rule itself
        raise DealError("invalid_multiplier", "The multiplier must be from 1 to 100.", field="multiplier")
    try:
        money.check_amount(amount)
    except money.NotADecimal as error:
        raise DealError("invalid_amount", f"The amount {error}.", field="amount") from None


def _check_levels(direction: Direction, levels: Levels, price: Decimal) -> None:
    for field, level in zip(levels._fields, levels, strict=True):
        if level is None:
            continue
        try:
            money.check_price(level)
        except money.NotADecimal as error:
            raise DealError("invalid_level", f"The level {error}.", field=field) from None
    try:
        check_levels(direction, levels, price)
    except LevelError as error:
        raise DealError(error.code, str(error), field=error.field) from None


def _opened_before(account_id: int, client_id: str | None) -> Deal | None:
    if client_id is None:
        return None
    return Deal.objects.filter(account_id=account_id, client_id=client_id).first()


def _require_same_terms(deal: Deal, symbol: str, direction: str, amount: Decimal, multiplier: int) -> None:
    # Levels may have been amended since; the terms that never change tell whether it is the same request.
    if (deal.symbol, deal.direction, deal.amount, deal.multiplier) != (symbol, direction, amount, multiplier):
        raise Conflict("client_id_reused", "This client_id belongs to a deal with other terms.", field="client_id")


def _watch(deal: Deal, levels: Levels, quote: Quote, at: datetime) -> None:
    """Set levels, triggers and what is watched from when; the caller raises the version and saves."""
    direction: Direction = deal.direction  # type: ignore[assignment]  # checked by the caller
    deal.take_profit, deal.stop_loss = levels
    deal.upper_trigger, deal.lower_trigger = triggers_of(direction, levels)
    deal.monitoring = Monitoring.PENDING if levels.any else Monitoring.NONE
    deal.monitoring_since = at
    deal.watched_from_seq = quote.seq
    deal.watched_from_at = quote.at
    deal.watch_expires_at = at + timedelta(hours=settings.MAX_MONITORING_H) if levels.any else None


def _insert(deal: Deal) -> None:
    """Write the deal with its posting, its event and the account's balances, in one statement."""
    row = {field.attname: getattr(deal, field.attname) for field in Deal._meta.concrete_fields}  # noqa: SLF001 - Django's public _meta
    [(deal.pk,)] = execute_prepared(statement("write_opening"), row)
    deal._state.adding = False  # noqa: SLF001 - as Model.from_db does


def _end_watch(deal: Deal, monitoring: Monitoring, at: datetime) -> None:
    deal.monitoring = monitoring
    deal.monitoring_since = at
    deal.watch_version += 1
    deal.save(update_fields=["monitoring", "monitoring_since", "watch_version"])


def _record(deal: Deal, kind: DealEvent.Kind, at: datetime, *, price: Decimal | None = None, error: str = "") -> None:
    DealEvent.objects.create(deal=deal, kind=kind, version=deal.watch_version, price=price, at=at, error=error)


def _tell(deal: Deal, kind: Notification.Kind, at: datetime) -> None:
    Notification.objects.create(
        account_id=deal.account_id, deal=deal, kind=kind, version=deal.watch_version, created_at=at
    )


def _announce(deal: Deal, rows: list[WatchRow] | None = None) -> None:
    # A failing receiver must not look like a failed transaction: the row says `pending`, the sweep finds it.
    def send() -> None:
        crash_point("change.before_signal")
        deal_changed.send(sender=Deal, ids=[deal.pk], rows=rows)

    transaction.on_commit(send, robust=True)


def _find(deal_id: int, user_id: int | None) -> Deal:
    deals = Deal.objects.filter(pk=deal_id)
    if user_id is not None:
        deals = deals.filter(account__user_id=user_id)
    deal = deals.first()
    if deal is None:
        raise NotFound
    return deal


def _require_open(deal: Deal) -> None:
    if deal.status != Status.OPEN:
        raise Conflict("deal_closed", "The deal is closed already.")


def _require_levels(deal: Deal) -> None:
    if deal.upper_trigger is None and deal.lower_trigger is None:
        raise DealError("no_levels", "The deal has neither Take Profit nor Stop Loss: there is nothing to watch.")


def _require_same_symbol(symbol: str, quote: Quote) -> None:
    if quote.symbol != symbol:
        raise DealError("unknown_symbol", f"The quote is of {quote.symbol}, not of {symbol}.", field="symbol")
