"""Decimal numbers at the edge: exact text in, plain text out. No float on the way."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NoReturn

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from deals import money
from deals.api.parsers import NumberText

PLAIN = r"^[0-9]+(\.[0-9]+)?$"


class _DecimalField(serializers.Field[Decimal, Any, str, Any]):
    """Answers the shortest plain text: no exponent, no trailing zeros."""

    def to_internal_value(self, _data: Any) -> NoReturn:
        """Answers only."""
        raise TypeError(f"{self.field_name} is read-only")

    def to_representation(self, value: Decimal) -> str:
        """12.50 is "12.5"."""
        return money.plain(value)


@extend_schema_field({"type": "string", "pattern": PLAIN, "example": "41250.5"})
class PlainDecimal(_DecimalField):
    """A number ≥ 0 in an answer."""


@extend_schema_field({"type": "string", "pattern": PLAIN.replace("^", "^-?"), "example": "-12.5"})
class SignedDecimal(_DecimalField):
    """A number of either sign in an answer."""


@extend_schema_field(
    {
        "oneOf": [
            {"type": "string", "pattern": PLAIN, "maxLength": 64},
            {"type": "number", "minimum": 0, "exclusiveMinimum": True},
        ],
        "example": "41250.5",
    }
)
class DecimalInput(serializers.Field[Decimal, Any, str, Any]):
    """A number in a request: text, or a JSON number that is read digit by digit. `check` raises money.NotADecimal."""

    def __init__(self, check: Callable[[Decimal], None], **kwargs: Any) -> None:
        self.check = check
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> Decimal:
        """The exact number. Raises ValidationError."""
        if isinstance(data, bool) or not isinstance(data, (str, int, NumberText)):
            raise serializers.ValidationError(f"{self.label} must be a decimal number, as text or as a JSON number.")
        try:
            value = Decimal(data) if isinstance(data, int) else money.parse_plain(str(data))
            self.check(value)
        except money.NotADecimal as error:
            raise serializers.ValidationError(f"{self.label} {error}.") from None
        return value

    def to_representation(self, value: Decimal) -> str:
        """The shortest plain text."""
        return money.plain(value)


@extend_schema_field({"type": "integer", "minimum": 1, "maximum": 100})
class Multiplier(serializers.Field[int, Any, int, Any]):
    """The leverage: a whole JSON number, or its digits as text."""

    def to_internal_value(self, data: Any) -> int:
        """1–100. Raises ValidationError."""
        if isinstance(data, str) and data.isascii() and data.isdigit() and len(data) <= len("100"):
            data = int(data)
        if not isinstance(data, int) or isinstance(data, bool) or not 1 <= data <= 100:  # noqa: PLR2004 - the rule itself
            raise serializers.ValidationError("The multiplier must be a whole number from 1 to 100.")
        return data

    def to_representation(self, value: int) -> int:
        """As it is."""
        return value
