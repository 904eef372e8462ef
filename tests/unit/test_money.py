"""Parsing, limits, rounding and plain text of money and prices."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deals.money import NotADecimal, check_amount, check_price, parse_plain, parse_price, plain, round_money


@st.composite
def prices(draw: st.DrawFn) -> Decimal:
    """Every price that is allowed: 1 to 15 significant digits, at most 12 of them behind the point, less than 10^12."""
    digits = draw(st.integers(1, 10**15 - 1))
    exponent = draw(st.integers(-12, 11))
    price = Decimal(digits).scaleb(exponent)
    return price if price < Decimal(10) ** 12 else Decimal(digits).scaleb(-12)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "1 ", " 1", "+1", "-1", "-0", ".5", "5.", "1,5", "1_000", "1e3", "1E-3", "0x10", "1.2.3", "1\n"),
        *("NaN", "nan", "sNaN", "Infinity", "-inf", "١٢", "１", "null", "1\x00", "1" * 65),
    ],
)
def test_whatever_is_not_plain_digits_with_at_most_one_point_is_refused(text: str) -> None:
    with pytest.raises(NotADecimal):
        parse_plain(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", "0"), ("007", "7"), ("1.50", "1.5"), ("0.000000000001", "1E-12"), ("1" * 64, "1" * 64)],
)
def test_plain_digits_are_read_exactly(text: str, value: str) -> None:
    assert parse_plain(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        "0.000000000001",  # the smallest one, 12 decimals
        "999999999999",  # 12 digits before the point
        "123456789.012345",  # 15 significant digits
        "123456789.0123450000000000000",  # zeros at the end don't count
        "000000000000000123.4",  # nor do zeros before
        "999999999999.000",
        "100000000000",
    ],
)
def test_prices_up_to_the_limits_are_accepted(text: str) -> None:
    assert parse_price(text) == Decimal(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0", "greater than zero"),
        ("0.000", "greater than zero"),
        ("0.0000000000001", "at most 12 decimals"),
        ("1.0000000000001", "at most 12 decimals"),
        ("1234567890.123456", "at most 15 significant digits"),
        ("1000000000000", r"less than 10\^12"),
        ("9999999999999999", "significant digits"),
    ],
)
def test_prices_beyond_the_limits_are_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(NotADecimal, match=reason):
        parse_price(text)


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity", "-1", "-0"])
def test_no_special_value_is_a_price_or_an_amount(value: str) -> None:
    for check in (check_price, check_amount):
        with pytest.raises(NotADecimal, match="greater than zero"):
            check(Decimal(value))


@pytest.mark.parametrize("value", ["0.00000001", "999999999999.99999999", "1E+11", "5.000000000000"])
def test_amounts_up_to_the_limits_are_accepted(value: str) -> None:
    check_amount(Decimal(value))


@pytest.mark.parametrize(
    ("value", "reason"),
    [("0.000000001", "at most 8 decimals"), ("1.123456789", "at most 8 decimals"), ("1E+12", r"less than 10\^12")],
)
def test_amounts_beyond_the_limits_are_refused_with_the_reason(value: str, reason: str) -> None:
    with pytest.raises(NotADecimal, match=reason):
        check_amount(Decimal(value))


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        ("1.000000005", "1.00000000"),  # a tie goes to the even neighbour: …00
        ("1.000000015", "1.00000002"),  # a tie goes to the even neighbour: …02
        ("1.0000000050000000000000000000000000000001", "1.00000001"),  # beyond the tie
        ("-1.000000005", "-1.00000000"),
        ("-1.000000015", "-1.00000002"),
        ("0.000000004999", "0.00000000"),
        ("123456789012.345678915", "123456789012.34567892"),
    ],
)
def test_money_is_rounded_half_to_even_at_8_places(value: str, rounded: str) -> None:
    assert f"{round_money(Decimal(value)):f}" == rounded


@pytest.mark.parametrize("value", ["-0.000000004", "-0", "-0.000000005"])
def test_nothing_rounds_to_negative_zero(value: str) -> None:
    assert not round_money(Decimal(value)).is_signed()
    assert plain(round_money(Decimal(value))) == "0"


@given(st.integers(-(10**30), 10**30), st.integers(8, 20))
def test_rounding_equals_that_of_exact_fractions(digits: int, places: int) -> None:
    # Python rounds a Fraction half to even, exactly.
    value = Decimal(digits).scaleb(-places)
    assert Fraction(round_money(value)) * 10**8 == round(Fraction(value) * 10**8)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1E+3", "1000"),
        ("100", "100"),
        ("1.500", "1.5"),
        ("1.000", "1"),
        ("1E-12", "0.000000000001"),
        ("-2.50", "-2.5"),
    ],
)
def test_plain_text_has_no_exponent_and_no_zeros_at_the_end(value: str, text: str) -> None:
    assert plain(Decimal(value)) == text


@given(prices())
def test_plain_text_is_read_back_as_the_same_price(price: Decimal) -> None:
    check_price(price)
    assert parse_price(plain(price)) == price


@given(prices(), st.integers(0, 10))
def test_zeros_at_the_end_change_neither_the_price_nor_its_text(price: Decimal, zeros: int) -> None:
    padded = Decimal(f"{price:f}{'' if '.' in f'{price:f}' else '.0'}{'0' * zeros}")
    check_price(padded)
    assert plain(padded) == plain(price)


@given(prices(), st.integers(1, 3))
def test_neighbouring_prices_are_different_doubles_in_the_same_order(price: Decimal, steps: int) -> None:
    # The closest other prices of 15 significant digits: one unit in the 15th place.
    unit = Decimal(1).scaleb(max(price.adjusted() - 14, -12))
    other = price + steps * unit
    assert float(price) < float(other)


@given(prices(), prices())
def test_doubles_order_prices_as_decimals_do(one: Decimal, other: Decimal) -> None:
    assert (float(one) < float(other)) == (one < other)
    assert (float(one) == float(other)) == (one == other)
