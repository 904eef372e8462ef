"""What is written as an array arrives as it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from django.db import DataError, connection, transaction

from deals.arrays import array, instant_array, text_array

pytestmark = pytest.mark.django_db


def arrived(text: str, kind: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT %s::{kind}[]", [text])
        return cursor.fetchone()[0]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([], "bigint"),
        ([1, -2, None, 2**63 - 1], "bigint"),
        ([Decimal("0.000000000001"), Decimal("-1E+12"), Decimal("0E-8"), Decimal("123.4500"), None], "numeric"),
    ],
)
def test_numbers(values: list[Any], kind: str) -> None:
    assert arrived(array(values), kind) == values


def test_instants() -> None:
    exact, midnight = datetime(2026, 1, 8, 12, 30, 1, 250_001, tzinfo=UTC), datetime(2026, 1, 8, tzinfo=UTC)
    elsewhere = exact.astimezone(timezone(timedelta(hours=5, minutes=30)))
    values = [exact, midnight, None, exact, elsewhere]
    assert arrived(instant_array(values), "timestamptz") == values


def test_texts_of_every_kind() -> None:
    texts = [
        "tick",
        "",
        "NULL",
        "a,b",
        "{}",
        'say "so"',
        "back\\slash",
        "it's",
        " blank ",
        "100 %s",
        "line\nbreak",
        "é€😀",
    ]
    assert arrived(text_array(texts), "text") == texts


@pytest.mark.parametrize(("text", "kind"), [(array([2**63]), "bigint"), (text_array(["a\0b"]), "text")])
def test_what_postgresql_cannot_hold_is_a_data_error(text: str, kind: str) -> None:
    with pytest.raises(DataError), transaction.atomic():
        arrived(text, kind)
