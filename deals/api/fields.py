"""What is read and written at the edge: exact decimals without a float on the way, and text that is text."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NoReturn

from django.core.validators import MinLengthValidator, RegexValidator
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from deals import money
from deals.api.parsers import NumberText

PLAIN = r"^[0-9]+(\.[0-9]+)?$"
ABOVE_ZERO = r"^(0*[1-9][0-9]*(\.[0-9]+)?|0+\.[0-9]*[1-9][0-9]*)$"
WITHOUT_NUL = r"\A[^\x00]+\Z"
WITH_SOMETHING_VISIBLE = r"\A[^\x00]*[^\s\x00-\x1f\x7f-\x9f][^\x00]*\Z"


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
            {"type": "string", "pattern": ABOVE_ZERO, "maxLength": 64},
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


@extend_schema_field(
    {
        "oneOf": [
            {"type": "integer", "minimum": 1, "maximum": 100},
            {"type": "string", "pattern": "^(0{0,2}[1-9]|0?[1-9][0-9]|100)$"},
        ],
        "example": 10,
    }
)
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


class WholeNumber(serializers.IntegerField):
    """A whole JSON number in a request; digits as text are refused, as the OpenAPI document says."""

    def to_internal_value(self, data: Any) -> int:
        """Raises ValidationError."""
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        return int(super().to_internal_value(data))


class ExactText(serializers.CharField):
    """JSON text in a request, of at most `max_length` characters as they are sent; no number is taken for text."""

    pattern = WITHOUT_NUL

    def __init__(self, *, max_length: int, **kwargs: Any) -> None:
        super().__init__(max_length=max_length, **kwargs)
        self.validators += [MinLengthValidator(1), RegexValidator(self.pattern, "There is nothing to be read in it.")]

    def run_validation(self, data: Any = serializers.empty) -> str | None:
        """The text. Raises ValidationError."""
        if isinstance(data, str) and self.max_length is not None and len(data) > self.max_length:
            self.fail("max_length", max_length=self.max_length)
        text: str | None = super().run_validation(data)
        return text

    def to_internal_value(self, data: Any) -> str:
        """Raises ValidationError unless it is text."""
        if not isinstance(data, str):
            self.fail("invalid")
        return str(super().to_internal_value(data))


class Words(ExactText):
    """Text for people to read: something in it is visible. Blanks around it are dropped."""

    pattern = WITH_SOMETHING_VISIBLE
