"""Named helpers that lock rows. Order everywhere: deals by id, then accounts by id, before any account is updated."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from django.db import connection
from django.db.backends.utils import CursorWrapper

from deals.errors import NotFound, Unavailable
from deals.models import Deal, SystemState
from deals.sql import statement

State = SystemState.State
MAY_OPEN = frozenset({State.RUNNING})
MAY_SETTLE = frozenset({State.RUNNING, State.DRAINING, State.STOPPED})


class FreeBalance(NamedTuple):
    """What opening a deal needs of an account, locked."""

    account_id: int
    balance: Decimal


def hold_stop_lock(allowed: frozenset[SystemState.State]) -> None:
    """Take the shared stop lock until the transaction ends, and raise unless the state then is an allowed one.

    Must be the first statement of its (READ COMMITTED) transaction. An emergency stop takes the same lock exclusively
    after committing `halted`, so whoever got past here committed before the stop answered.
    Raises Unavailable `system_not_running`.
    """
    with connection.cursor() as cursor:
        cursor.execute(statement("hold_stop_lock"))
        _require_state(cursor, allowed)


def hold_stop_lock_and_account(allowed: frozenset[SystemState.State], user_id: int) -> FreeBalance:
    """As `hold_stop_lock`; then lock a user's account, in the same trip to the server.

    Erasing locks the account too: who waited for it sees here that it came first. Raises Unavailable
    `system_not_running`, NotFound, also when the user was erased.
    """
    with connection.cursor() as cursor:
        cursor.execute(statement("hold_stop_lock") + statement("lock_account"), {"user_id": user_id})
        _require_state(cursor, allowed)
        cursor.nextset()
        account = cursor.fetchone()
    if account is None or account[2] is not None:
        raise NotFound("You have no account.")
    return FreeBalance(account[0], account[1])


def _require_state(cursor: CursorWrapper, allowed: frozenset[SystemState.State]) -> None:
    cursor.nextset()
    row = cursor.fetchone()
    state = row[0] if row else "missing"
    if state not in allowed:
        raise Unavailable("system_not_running", f"The system is {state}: this is refused until an operator resumes it.")


def lock_deal(deal_id: int, *, user_id: int | None = None) -> Deal:
    """Lock and return one deal, of one user if `user_id` is given. Raises NotFound."""
    deals = Deal.objects.select_for_update(no_key=True, of=("self",)).filter(pk=deal_id)
    if user_id is not None:
        deals = deals.filter(account__user_id=user_id)
    deal = deals.first()
    if deal is None:
        raise NotFound
    return deal
