"""The tests' own way to clear the database leaves what Django's `flush` leaves."""

from __future__ import annotations

from typing import Any

import database
import pytest
from django.apps import apps
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import connection
from domain import new_account, opened

from deals.models import DealEvent, LedgerEntry

pytestmark = pytest.mark.django_db(transaction=True)


def rows() -> dict[str, Any]:
    """Every table with its rows; of the permissions their names."""
    found: dict[str, Any] = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names():
            cursor.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - our own tables
            found[table] = cursor.fetchall()
    found["auth_permission"] = set(Permission.objects.values_list("codename", flat=True))
    found["django_content_type"] = len(found["django_content_type"])
    del found["django_migrations"]
    return found


def test_clearing_leaves_what_flush_leaves() -> None:
    opened(new_account(), take_profit="110")
    assert DealEvent.objects.exists()
    assert LedgerEntry.objects.exists()
    database.clear()
    cleared = rows()
    new_account()
    call_command("flush", verbosity=0, interactive=False, reset_sequences=False)
    assert cleared == rows()
    assert {table for table, found in cleared.items() if found} == {"auth_permission", "django_content_type"}


def test_large_tables_are_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    opened(new_account())
    monkeypatch.setattr(database, "MUCH", 0)
    database.clear()
    with connection.cursor() as cursor:
        sizes = [f"pg_relation_size('{model._meta.db_table}')" for model in apps.get_app_config("deals").get_models()]
        cursor.execute(f"SELECT {' + '.join(sizes)}")
        assert cursor.fetchone() == (0,)
