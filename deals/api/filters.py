"""What lists can be narrowed by. An unknown value or parameter is refused: ignored, it would answer something else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import django_filters
from django.conf import settings
from drf_spectacular.utils import extend_schema_field
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.request import Request

from deals.models import Deal, Status


def _symbols() -> Iterable[tuple[str, str]]:
    return [(symbol, symbol) for symbol in settings.SYMBOLS]


def symbol_filter(field_name: str = "symbol") -> django_filters.ChoiceFilter:
    """Narrows a list to one symbol; the OpenAPI document names them all."""
    narrow = django_filters.ChoiceFilter(
        choices=_symbols, field_name=field_name, label="Only deals on this symbol, for example BTCUSDT."
    )
    return extend_schema_field({"type": "string", "enum": list(settings.SYMBOLS)})(narrow)


class DealFilter(django_filters.FilterSet):  # type: ignore[misc]  # it ships no types
    """`?status=open&symbol=BTCUSDT`."""

    status = django_filters.ChoiceFilter(choices=Status.choices, label="Only deals that are `open` or `closed`.")
    symbol = symbol_filter()

    class Meta:
        model = Deal
        fields: Any = ["status", "symbol"]


def require_known_parameters(request: Request, known: Iterable[str]) -> None:
    """Raise ValidationError `unknown_parameter` when the address has a parameter that this list does not know."""
    allowed = sorted({"limit", "cursor", *known})
    for name in request.query_params:
        if name not in allowed:
            message = f"There is no such parameter; known are {', '.join(allowed)}."
            raise ValidationError({name: [ErrorDetail(message, code="unknown_parameter")]})
