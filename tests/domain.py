"""Accounts, deals and prices for tests of the domain, made by the services themselves; threads that start together."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.contrib.auth import get_user_model
from django.db import connections

from deals import services
from deals.models import Account, Deal
from deals.quotes import Quote
from deals.settlement import Due

NOON = datetime(2026, 1, 8, 12, tzinfo=UTC)
SYMBOL = "BTCUSDT"
CONNECTIONS = 60
"""How many threads may hold a connection at once; the test server admits 100, and other parts of a run need some."""

_numbers = itertools.count(1)
_may_connect = threading.BoundedSemaphore(CONNECTIONS)


def new_account(balance: str = "10000") -> Account:
    """A new user's account with this free balance."""
    user = get_user_model().objects.create(username=f"trader-{next(_numbers)}")
    return services.create_account(user.pk, balance=Decimal(balance), now=NOON)


def quote(price: str = "100", *, symbol: str = SYMBOL, seq: int = 1, at: datetime = NOON) -> Quote:
    """A checked price."""
    return Quote(symbol, Decimal(price), seq, at)


def opened(
    account: Account,
    *,
    price: str = "100",
    take_profit: str | None = None,
    stop_loss: str | None = None,
    amount: str = "100",
    seq: int = 1,
    symbol: str = SYMBOL,
    **terms: Any,
) -> Deal:
    """An open deal of the account: 100 USDT × 10 `up` on BTCUSDT at 100, unless said otherwise."""
    return services.open_deal(
        user_id=account.user_id,
        symbol=symbol,
        amount=Decimal(amount),
        quote=quote(price, symbol=symbol, seq=seq),
        take_profit=None if take_profit is None else Decimal(take_profit),
        stop_loss=None if stop_loss is None else Decimal(stop_loss),
        **{"direction": "up", "multiplier": 10, **terms},
    )


def due(deal: Deal, price: str, *, version: int | None = None, detector: str = "tick") -> Due:
    """The deal as it fired at this price, at its version unless another one is given."""
    return Due(
        deal_id=deal.pk,
        version=deal.watch_version if version is None else version,
        price=Decimal(price),
        detector=detector,
        trade_id=42,
        tick_at=NOON,
        received_at=NOON,
        fired_at=NOON,
    )


def at_once(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run each in a thread of its own, all let go at the same moment; their results, or errors raised, in order.

    At most `CONNECTIONS` of them are at work at the same time: a thread holds one connection, and closes it.
    """
    gate = threading.Barrier(len(works))
    outcomes: list[Any] = [None] * len(works)

    def run(index: int, work: Callable[[], Any]) -> None:
        gate.wait(timeout=30)
        with _may_connect:
            try:
                outcomes[index] = work()
            except Exception as error:  # noqa: BLE001 - handed to the test, which looks at each of them
                outcomes[index] = error
            finally:
                connections.close_all()

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a thread hangs"
    return outcomes


def errors_of(outcomes: Sequence[Any]) -> list[Exception]:
    """Those of the outcomes that are errors."""
    return [outcome for outcome in outcomes if isinstance(outcome, Exception)]
