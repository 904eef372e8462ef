"""Profit, commission and payout: examples computed by hand, and what holds for every deal."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deals.pnl import Outcome, close_outcome
from deals.triggers import Direction

RATE = Decimal("0.0005")


def outcome(
    direction: Direction, amount: str, multiplier: int, open_price: str, close_price: str, *, rate: Decimal = RATE
) -> Outcome:
    return close_outcome(
        direction=direction,
        amount=Decimal(amount),
        multiplier=multiplier,
        open_price=Decimal(open_price),
        close_price=Decimal(close_price),
        commission_rate=rate,
    )


@pytest.mark.parametrize(
    ("terms", "volume", "commission", "profit", "payout"),
    [
        # volume 100 × 10 = 1000; gross 1000 × (110 − 100) / 100 = 100; commission 1000 × 0.0005 = 0.5;
        # profit 100 − 0.5 = 99.5; payout 100 + 99.5 = 199.5
        (("up", "100", 10, "100", "110"), "1000", "0.5", "99.5", "199.5"),
        # the same move against the deal: gross −100; −100 − 0.5 = −100.5, but no more than the amount is lost
        (("down", "100", 10, "100", "110"), "1000", "0.5", "-100", "0"),
        # gross −(1000 × (91 − 100) / 100) = 90; profit 89.5
        (("down", "100", 10, "100", "91"), "1000", "0.5", "89.5", "189.5"),
        # nothing moved: only the commission, 250 × 4 × 0.0005 = 0.5
        (("up", "250", 4, "31337.5", "31337.5"), "1000", "0.5", "-0.5", "249.5"),
        # volume 1; gross 1 × (3.1 − 3) / 3 = 0.0333…; commission 0.0005; 0.033333333… − 0.0005 = 0.032833333…
        (("up", "1", 1, "3", "3.1"), "1", "0.0005", "0.03283333", "1.03283333"),
        # volume 50; gross 50 × (0.07 − 0.06) / 0.06 = 8.333…; commission 0.025; 8.308333333…
        (("up", "10", 5, "0.06", "0.07"), "50", "0.025", "8.30833333", "18.30833333"),
        # the BTC tape's scale: volume 5,000; gross 5000 × (40000.01 − 39999.99) / 39999.99 = 100 / 39999.99
        # = 0.00250000062500015…; commission 2.5; profit −2.49749999937499984… → −2.49750000
        (("up", "50", 100, "39999.99", "40000.01"), "5000", "2.5", "-2.49750000", "47.5025"),
        # exactly the whole amount lost: gross −99.5, commission 0.5, profit −100
        (("up", "100", 10, "100", "90.05"), "1000", "0.5", "-100", "0"),
        # one tick less than that: gross 1000 × (90.06 − 100) / 100 = −99.4; profit −99.9
        (("up", "100", 10, "100", "90.06"), "1000", "0.5", "-99.9", "0.1"),
        # the smallest deal: volume 0.00000001; commission 5E-12 → 0; gross 1E-8 × 1 = 1E-8; 0.999500E-8 → 1E-8
        (("up", "0.00000001", 1, "1", "2"), "0.00000001", "0", "0.00000001", "0.00000002"),
        # its commission alone: −5E-12 rounds to zero, and not to negative zero
        (("up", "0.00000001", 1, "1", "1"), "0.00000001", "0", "0", "0.00000001"),
    ],
)
def test_examples_computed_by_hand(terms: Any, volume: str, commission: str, profit: str, payout: str) -> None:
    assert outcome(*terms) == tuple(map(Decimal, (volume, commission, profit, payout)))


def test_a_tie_at_the_ninth_place_goes_to_the_even_neighbour() -> None:
    # Without commission profit = 1 × (1.000000005 − 1) / 1 = 0.000000005 → 0.00000000, and 0.000000015 → 0.00000002.
    assert outcome("up", "1", 1, "1", "1.000000005", rate=Decimal(0)).profit == Decimal(0)
    assert outcome("up", "1", 1, "1", "1.000000015", rate=Decimal(0)).profit == Decimal("0.00000002")
    assert outcome("down", "1", 1, "1", "1.000000015", rate=Decimal(0)).profit == Decimal("-0.00000002")


def test_profit_is_rounded_once_and_not_its_parts() -> None:
    # volume 0.00000003: gross 0.00000003 × 0.5 = 1.5E-8; commission 1.5E-11; 1.49850E-8 → 1E-8.
    # Rounded before subtracting, gross would be 2E-8, commission 0, profit 2E-8.
    assert outcome("up", "0.00000003", 1, "1", "1.5").profit == Decimal("0.00000001")


def test_every_figure_has_8_decimals_and_no_negative_zero() -> None:
    for figure in outcome("up", "0.00000001", 1, "1", "1"):
        assert figure.as_tuple().exponent == -8
        assert not figure.is_signed()


amounts = st.integers(1, 10**15).map(lambda units: Decimal(units).scaleb(-8))
multipliers = st.integers(1, 100)
DIRECTIONS: list[Direction] = ["up", "down"]
directions = st.sampled_from(DIRECTIONS)
market_prices = st.builds(
    lambda digits, exponent: Decimal(digits).scaleb(exponent), st.integers(1, 10**10), st.integers(-8, 1)
)


def exact(direction: Direction, amount: Decimal, multiplier: int, open_price: Decimal, close: Decimal) -> Decimal:
    """DESIGN's formula in fractions, rounded once, half to even."""
    volume = Fraction(amount) * multiplier
    gross = volume * (Fraction(close) - Fraction(open_price)) / Fraction(open_price)
    profit = (gross if direction == "up" else -gross) - volume * Fraction(5, 10_000)
    units = max(round(profit * 10**8), round(-Fraction(amount) * 10**8))
    return Decimal(units).scaleb(-8)


@given(directions, amounts, multipliers, market_prices, market_prices)
@example("up", Decimal("0.00000001"), 1, Decimal("99999999.9"), Decimal("0.00000001"))
def test_the_profit_equals_exact_fractions_rounded_once(
    direction: Direction, amount: Decimal, multiplier: int, open_price: Decimal, close_price: Decimal
) -> None:
    found = outcome(direction, str(amount), multiplier, str(open_price), str(close_price))
    assert found.profit == exact(direction, amount, multiplier, open_price, close_price)


@given(directions, amounts, multipliers, market_prices, market_prices)
def test_nobody_loses_more_than_the_amount_and_nobody_is_paid_less_than_nothing(
    direction: Direction, amount: Decimal, multiplier: int, open_price: Decimal, close_price: Decimal
) -> None:
    found = outcome(direction, str(amount), multiplier, str(open_price), str(close_price))
    assert found.profit >= -amount
    assert found.payout >= 0
    assert found.payout == amount + found.profit
    assert found.commission >= 0
    assert found.volume == amount * multiplier


@given(amounts, multipliers, market_prices, market_prices)
def test_without_commission_up_and_down_mirror_each_other(
    amount: Decimal, multiplier: int, open_price: Decimal, close_price: Decimal
) -> None:
    terms = (str(amount), multiplier, str(open_price), str(close_price))
    up, down = (outcome(direction, *terms, rate=Decimal(0)).profit for direction in DIRECTIONS)
    assert max(up, -amount) == up
    # The winner's profit is the loser's loss, as far as the loser can lose.
    assert min(up, down) == max(-max(up, down), -amount)


@given(directions, amounts, multipliers, market_prices, st.tuples(market_prices, market_prices))
def test_a_better_price_never_pays_less(
    direction: Direction, amount: Decimal, multiplier: int, open_price: Decimal, closes: tuple[Decimal, Decimal]
) -> None:
    worse, better = sorted(closes, reverse=direction == "down")
    terms = (str(amount), multiplier, str(open_price))
    assert outcome(direction, *terms, str(better)).payout >= outcome(direction, *terms, str(worse)).payout
