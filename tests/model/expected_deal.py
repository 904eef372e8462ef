"""One deal as it was designed, in plain Python: its levels, what crosses them, what it closes at and pays.

Fractions keep money exact; the result is rounded once, to 8 decimals, half to even.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

COMMISSION = Fraction(5, 10_000)
Levels = tuple[Decimal | None, Decimal | None]
"""Take Profit and Stop Loss."""


class Entry(NamedTuple):
    """A fired entry: at which version, which price, who saw it."""

    version: int
    price: Decimal
    detector: str


@dataclass
class ExpectedDeal:
    """A deal as it must be."""

    id: int
    account: int
    symbol: str
    direction: str
    amount: Decimal
    multiplier: int
    open_price: Decimal
    take_profit: Decimal | None
    stop_loss: Decimal | None
    watched_from: int
    expires_ms: int
    status: str = "open"
    monitoring: str = "none"
    version: int = 1
    close_price: Decimal | None = None
    reason: str | None = None
    detector: str | None = None
    profit: Decimal | None = None
    events: list[tuple[str, int]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def upper(self) -> Decimal | None:
        return self.take_profit if self.direction == "up" else self.stop_loss

    @property
    def lower(self) -> Decimal | None:
        return self.stop_loss if self.direction == "up" else self.take_profit

    @property
    def watched(self) -> bool:
        return self.status == "open" and self.monitoring in {"pending", "armed"}

    @property
    def has_levels(self) -> bool:
        return self.take_profit is not None or self.stop_loss is not None

    def record(self, kind: str) -> None:
        self.events.append((kind, self.version))


def crosses(price: Decimal, upper: Decimal | None, lower: Decimal | None) -> bool:
    """Reaching is inclusive."""
    return (upper is not None and price >= upper) or (lower is not None and price <= lower)


def price_found_afterwards(deal: ExpectedDeal, prices: list[Decimal]) -> Decimal | None:
    """The last price if it still lies beyond a trigger, else the trigger itself; Stop Loss first."""
    if not prices:
        return None
    if crosses(prices[-1], deal.upper, deal.lower):
        return prices[-1]
    for level in (deal.stop_loss, deal.take_profit):
        if level is None:
            continue
        if max(prices) >= level if level == deal.upper else min(prices) <= level:
            return level
    return None


def profit_of(deal: ExpectedDeal, close_price: Decimal) -> Decimal:
    """volume × (close − open) / open, negated for `down`, minus commission; never below −amount."""
    volume = Fraction(deal.amount) * deal.multiplier
    gross = volume * (Fraction(close_price) - Fraction(deal.open_price)) / Fraction(deal.open_price)
    exact = (gross if deal.direction == "up" else -gross) - volume * COMMISSION
    return Decimal(round(max(exact, -Fraction(deal.amount)) * 10**8)).scaleb(-8)
