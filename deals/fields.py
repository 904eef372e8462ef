"""Column types: prices are numeric(24,12), money is numeric(20,8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models

from deals import money

if TYPE_CHECKING:
    DecimalField = models.DecimalField[Any, Any]
else:
    DecimalField = models.DecimalField


class PriceField(DecimalField):
    """A price: numeric(24,12)."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs |= {"max_digits": money.PRICE_DIGITS, "decimal_places": money.PRICE_PLACES}
        super().__init__(**kwargs)


class MoneyField(DecimalField):
    """An amount of money: numeric(20,8)."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs |= {"max_digits": money.MONEY_DIGITS, "decimal_places": money.MONEY_PLACES}
        super().__init__(**kwargs)
