"""What an account's counters say about its closed deals. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Final, NamedTuple

from deals.models import Account
from deals.money import ARITHMETIC, round_money

SHARE_QUANTUM: Final = Decimal("0.0001")


class Statistics(NamedTuple):
    """Figures of an account's closed deals; money in USDT.

    winning_share   deals with a profit above zero ÷ all, 0–1, rounded to 4 decimals; None without closed deals
    average_amount  Σ amount ÷ number, rounded to 8 decimals; None without closed deals
    largest_profit  ≥ 0, and largest_loss ≤ 0: zero when there was none
    """

    closed_deals: int
    winning_deals: int
    winning_share: Decimal | None
    total_volume: Decimal
    average_amount: Decimal | None
    largest_profit: Decimal
    largest_loss: Decimal


def statistics_of(account: Account) -> Statistics:
    """The statistics of an account as its row says."""
    number = Decimal(account.closed_deals)
    share = average = None
    if number:
        share = ARITHMETIC.divide(Decimal(account.winning_deals), number).quantize(SHARE_QUANTUM, context=ARITHMETIC)
        average = round_money(ARITHMETIC.divide(account.total_amount, number))
    return Statistics(
        closed_deals=account.closed_deals,
        winning_deals=account.winning_deals,
        winning_share=share,
        total_volume=account.total_volume,
        average_amount=average,
        largest_profit=account.largest_profit,
        largest_loss=account.largest_loss,
    )
