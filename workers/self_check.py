"""Proof that deals close: a deal of a system account on a reserved symbol fires and closes on the real path.

The engine's own code and scripts, the queue, and whichever worker takes the message; only the price is made up.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from decimal import Decimal
from typing import Final

from django.contrib.auth import get_user_model

from deals import services
from deals.errors import DealError
from deals.models import Account, Deal, Monitoring, Status
from deals.quotes import Quote
from workers.clock import WALL_CLOCK, to_datetime
from workers.drivers import next_token
from workers.engine import PriceEngine
from workers.operations import Failed, Run
from workers.prices import Price
from workers.sources.base import Tick

SYMBOL: Final = "SELFCHECK"
"""Reserved: it is in no SYMBOLS, so that nobody else opens deals on it and no prices process drives it."""
USERNAME: Final = "system.selfcheck"
OPEN_PRICE: Final = "100"
FIRE_PRICE: Final = "101.5"
TAKE_PROFIT: Final = Decimal(101)
AMOUNT: Final = Decimal(1)


def check(run: Run, timeout_s: float) -> str:
    """Open, fire and wait for the closure; says how long it took. Raises Failed with what did not happen."""
    account = system_account()
    clean_up()
    with asyncio.Runner() as engine:
        prices = PriceEngine([SYMBOL], token=next_token(), publish=False)
        try:
            deal = _open(account, engine.run(_tick(prices, OPEN_PRICE)))
            if deal.monitoring != Monitoring.ARMED:
                raise Failed(f"self-check: deal {deal.pk} was not armed, it is {deal.monitoring}")
            fired_ms = WALL_CLOCK.now_ms()
            engine.run(_tick(prices, FIRE_PRICE))
            run.wait(lambda: _still_open(deal), timeout_s)
            took_ms = WALL_CLOCK.now_ms() - fired_ms
        finally:
            engine.run(prices.close())
    _require_right(deal)
    return f"deal {deal.pk} fired and closed within {took_ms} ms"


def system_account() -> Account:
    """The account of the user that exists for this only, and cannot log in."""
    user, created = get_user_model().objects.get_or_create(username=USERNAME, defaults={"is_active": False})
    if created:
        user.set_unusable_password()
        user.save(update_fields=["password"])
    return services.create_account(user.pk)


def clean_up() -> None:
    """Close what an earlier check left open, at its opening price."""
    for deal in Deal.objects.filter(account__user__username=USERNAME, status=Status.OPEN):
        quote = Quote(SYMBOL, deal.open_price, 0, to_datetime(WALL_CLOCK.now_ms()))
        with suppress(DealError):  # closed meanwhile, or halted: the next check finds it again
            services.close_deal(deal_id=deal.pk, quote=quote)


async def _tick(prices: PriceEngine, text: str) -> Price:
    """One price through the engine: into the book, and what it fires into the queue."""
    await prices.hold_leases()
    price = prices.board.accept(Tick(SYMBOL, text, WALL_CLOCK.now_ms(), None))
    if price is None or SYMBOL not in prices.held:
        raise Failed(f"self-check: the price was refused ({dict(prices.board.dropped)}, driven: {prices.held})")
    prices.enqueue(price)
    await prices.writer.flush()
    await prices.send_fired()
    return price


def _open(account: Account, price: Price) -> Deal:
    quote = Quote(SYMBOL, price.value, price.seq, to_datetime(price.at_ms))
    deal = services.open_deal(
        user_id=account.user_id, symbol=SYMBOL, direction="up", amount=AMOUNT, multiplier=1, quote=quote,
        take_profit=TAKE_PROFIT,
    )  # fmt: skip
    deal.refresh_from_db()
    return deal


def _still_open(deal: Deal) -> str:
    deal.refresh_from_db()
    return "" if deal.status == Status.CLOSED else f"self-check: deal {deal.pk} fired, but no worker closed it"


def _require_right(deal: Deal) -> None:
    facts = (deal.close_price, deal.close_reason, deal.detector, deal.ledger.filter(kind="close").count())
    if facts != (Decimal(FIRE_PRICE), "take_profit", "tick", 1):
        raise Failed(f"self-check: deal {deal.pk} closed wrongly: {facts}")
