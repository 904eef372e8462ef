"""The current price as services take it. Where it comes from is not this application's business."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, Protocol


class Quote(NamedTuple):
    """A checked price: exchange time `at`, and `seq`, the symbol's rising number of accepted prices."""

    symbol: str
    price: Decimal
    seq: int
    at: datetime


class QuoteBoard(Protocol):
    """Knows the current prices. `workers` implements it and binds it when it starts."""

    def quote(self, symbol: str) -> Quote:
        """The price to open, amend or close a deal at: what is watched from here on begins after it.

        Raises DealError `unknown_symbol`, and Unavailable `no_price` or `stale_price`.
        """
        ...

    def quotes(self) -> Sequence[Quote]:
        """All current prices, stale ones included, for display."""
        ...


_bound: list[QuoteBoard] = []


def bind(board: QuoteBoard) -> None:
    """Bind the process's board; the last one bound counts."""
    _bound[:] = [board]


def board() -> QuoteBoard:
    """The bound board. Raises RuntimeError when start-up bound none."""
    if not _bound:
        raise RuntimeError("no quote board is bound: `workers` binds one when it starts")
    return _bound[0]
