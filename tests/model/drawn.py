"""What the random steps are drawn from: prices near 100, levels near the price, few amounts."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from hypothesis import strategies as st
from real import SYMBOLS

symbols = st.sampled_from(SYMBOLS)
prices = st.integers(180, 220).map(lambda half: Decimal(half) / 2)
distances = st.sampled_from(
    [None, None, *map(Decimal, ["0.5", "0.5", "1", "1", "2", "2", "3", "3", "5", "8", "0", "-1"])]
)
amounts = st.sampled_from(
    [Decimal("0.00000001"), Decimal("33.33333333"), Decimal(100), Decimal("249.5"), Decimal(2000)]
)
multipliers = st.sampled_from([1, 3, 10, 100])
picks = st.integers(0, 30)
mostly = st.sampled_from([True, True, True, True, False])


class Opening(NamedTuple):
    """A deal to be opened: by which of the two traders, with levels at these distances from the price."""

    who: int
    symbol: str
    direction: str
    amount: Decimal
    multiplier: int
    distances: tuple[Decimal | None, Decimal | None]


openings = st.builds(
    Opening, st.integers(0, 1), symbols, st.sampled_from(["up", "down"]), amounts, multipliers,
    st.tuples(distances, distances),
)  # fmt: skip
