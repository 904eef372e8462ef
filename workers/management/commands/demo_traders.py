"""`manage.py demo_traders`: traders of the demo who open, amend and sometimes close deals, for ever."""

from __future__ import annotations

import random
import time
from argparse import ArgumentParser
from decimal import Decimal
from typing import Any, Final

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError, close_old_connections

from deals import quotes, services
from deals.errors import DealError
from deals.models import Account, Deal, Status
from deals.quotes import Quote
from deals.triggers import Direction
from workers.management.commands.demo_setup import TRADERS

log = structlog.get_logger(__name__)

MOST_OPEN: Final = 200
AMEND_SHARE: Final = 0.1
CLOSE_SHARE: Final = 0.05


class Command(BaseCommand):
    help = "Trade as the demo's traders do: deals with levels 0.05 to 0.5 % around the price."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--pause", type=float, default=0.5, help="seconds between two actions; default 0.5")

    def handle(self, *_args: Any, **options: Any) -> None:
        accounts = list(Account.objects.filter(user__username__in=TRADERS).order_by("pk"))
        if not accounts:
            raise CommandError("there are no demo traders: `make demo` creates them")
        dice = random.Random()  # noqa: S311 - a simulated market, no secret
        while True:
            try:
                _act(dice, dice.choice(accounts))
            except (DealError, OperationalError, InterfaceError) as error:
                log.info("demo.waiting", why=str(error))
                close_old_connections()  # a broken one: PostgreSQL was restarted
                time.sleep(1)
            time.sleep(options["pause"])


def _act(dice: random.Random, account: Account) -> None:
    """One action of one trader: mostly opening a deal."""
    mine = Deal.objects.filter(account=account, status=Status.OPEN)
    share = dice.random()
    deal = mine.order_by("?").first() if share < AMEND_SHARE else None
    if deal is not None and share < CLOSE_SHARE:
        services.close_deal(deal_id=deal.pk, quote=quotes.board().quote(deal.symbol))
    elif deal is not None:
        direction: Direction = "up" if deal.direction == "up" else "down"
        quote = quotes.board().quote(deal.symbol)
        take_profit, stop_loss = _levels(dice, direction, quote)
        services.amend_levels(
            user_id=account.user_id, deal_id=deal.pk, quote=quote, take_profit=take_profit, stop_loss=stop_loss
        )
    elif mine.count() < MOST_OPEN:
        _open(dice, account)


def _open(dice: random.Random, account: Account) -> None:
    quote = quotes.board().quote(dice.choice(settings.SYMBOLS))
    direction: Direction = "up" if dice.random() < 0.5 else "down"  # noqa: PLR2004 - a fair coin
    take_profit, stop_loss = _levels(dice, direction, quote)
    services.open_deal(
        user_id=account.user_id,
        symbol=quote.symbol,
        direction=direction,
        amount=Decimal(dice.randint(10, 200)),
        multiplier=dice.choice([1, 2, 5, 10, 20, 50, 100]),
        quote=quote,
        take_profit=take_profit,
        stop_loss=stop_loss,
    )


def _levels(dice: random.Random, direction: Direction, quote: Quote) -> tuple[Decimal, Decimal]:
    """Take Profit and Stop Loss 0.05 to 0.5 % away from the price, with nine significant digits."""
    sign = 1 if direction == "up" else -1
    take_profit = quote.price * (1 + sign * Decimal(dice.randint(5, 50)) / 10_000)
    stop_loss = quote.price * (1 - sign * Decimal(dice.randint(5, 50)) / 10_000)
    quantum = Decimal(1).scaleb(quote.price.adjusted() - 8)
    return take_profit.quantize(quantum), stop_loss.quantize(quantum)
