"""The one place where profit and commission are computed. Pure; amounts in USDT, prices in USDT a unit."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from deals.money import ARITHMETIC, round_money
from deals.triggers import Direction


class Outcome(NamedTuple):
    """What closing a deal yields, rounded once to 8 decimals, half to even.

    volume      notional: amount × multiplier
    commission  volume × commission rate
    profit      gross − commission, never below −amount: the most a user can lose is what the deal locked
    payout      what returns to the free balance: amount + profit, never negative
    """

    volume: Decimal
    commission: Decimal
    profit: Decimal
    payout: Decimal


def close_outcome(
    *,
    direction: Direction,
    amount: Decimal,
    multiplier: int,
    open_price: Decimal,
    close_price: Decimal,
    commission_rate: Decimal,
) -> Outcome:
    """Compute a closure: gross = volume × (close − open) / open, negated for `down`; multiplied before divided."""
    context = ARITHMETIC
    volume = context.multiply(amount, Decimal(multiplier))
    move = context.subtract(close_price, open_price)
    if direction == "down":
        move = context.minus(move)
    gross = context.divide(context.multiply(volume, move), open_price)
    commission = context.multiply(volume, commission_rate)
    profit = max(round_money(context.subtract(gross, commission)), context.minus(amount))
    return Outcome(
        volume=round_money(volume),
        commission=round_money(commission),
        profit=round_money(profit),
        payout=round_money(context.add(amount, profit)),
    )
