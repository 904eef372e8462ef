"""Exact decimal arithmetic for money and prices: limits, parsing, rounding. No Django, no float."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final

MONEY_DIGITS: Final = 20
MONEY_PLACES: Final = 8
PRICE_DIGITS: Final = 24
PRICE_PLACES: Final = 12
PRICE_SIGNIFICANT_DIGITS: Final = 15
"""Different prices of at most 15 significant digits are different IEEE 754 doubles (the trigger book's scores)."""

MONEY_QUANTUM: Final = Decimal(1).scaleb(-MONEY_PLACES)
_NOTHING: Final = Decimal(0).quantize(MONEY_QUANTUM)
ARITHMETIC: Final = Context(prec=50, rounding=ROUND_HALF_EVEN)
"""Every product and quotient is taken at 50 digits; only the result is rounded."""

_PLAIN_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
_LONGEST = 64


class NotADecimal(ValueError):
    """The text is not a plain decimal number, or it has too many digits."""


def parse_plain(text: str) -> Decimal:
    """Read digits with at most one point: no sign, exponent, blank, NaN or Infinity. Raises NotADecimal."""
    if len(text) > _LONGEST or _PLAIN_DECIMAL.fullmatch(text) is None:
        raise NotADecimal("must be a plain positive decimal number")
    return Decimal(text)


def parse_price(text: str) -> Decimal:
    """Read a price from text; see `check_price` for its limits. Raises NotADecimal."""
    price = parse_plain(text)
    check_price(price)
    return price


def check_price(price: Decimal) -> None:
    """Raise NotADecimal unless 0 < price, with at most 15 significant digits and 12 decimals (trailing zeros free)."""
    if not price.is_finite() or price <= 0:
        raise NotADecimal("must be greater than zero")
    _sign, digits, exponent = price.as_tuple()
    trailing = _trailing_zeros(digits)
    if int(exponent) + trailing < -PRICE_PLACES:
        raise NotADecimal(f"must have at most {PRICE_PLACES} decimals")
    if len(digits) - trailing > PRICE_SIGNIFICANT_DIGITS:
        raise NotADecimal(f"must have at most {PRICE_SIGNIFICANT_DIGITS} significant digits")
    if price.adjusted() >= PRICE_DIGITS - PRICE_PLACES:
        raise NotADecimal(f"must be less than 10^{PRICE_DIGITS - PRICE_PLACES}")


def check_amount(amount: Decimal) -> None:
    """Raise NotADecimal unless 0 < amount, with at most 8 decimals (trailing zeros free) and 12 digits before them."""
    if not amount.is_finite() or amount <= 0:
        raise NotADecimal("must be greater than zero")
    _sign, digits, exponent = amount.as_tuple()
    if int(exponent) + _trailing_zeros(digits) < -MONEY_PLACES:
        raise NotADecimal(f"must have at most {MONEY_PLACES} decimals")
    if amount.adjusted() >= MONEY_DIGITS - MONEY_PLACES:
        raise NotADecimal(f"must be less than 10^{MONEY_DIGITS - MONEY_PLACES}")


def round_money(value: Decimal) -> Decimal:
    """Round to 8 decimals, half to even; nothing rounds to negative zero."""
    return value.quantize(MONEY_QUANTUM, context=ARITHMETIC) or _NOTHING


def plain(value: Decimal) -> str:
    """The shortest plain text of a number: no exponent, no trailing zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _trailing_zeros(digits: tuple[int, ...]) -> int:
    count = 0
    for digit in reversed(digits):
        if digit:
            break
        count += 1
    return count
