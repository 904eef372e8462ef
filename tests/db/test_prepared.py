"""Statements for a few deals are planned once a connection; what they do and how they fail is as for many."""

from __future__ import annotations

import psycopg
import pytest
from django.db import DataError, NotSupportedError, connection, transaction
from domain import due, new_account, opened

from deals.models import Status
from deals.prepared import FEW, execute_planned, execute_prepared
from deals.settlement import settle

pytestmark = pytest.mark.django_db


def prepared(text: str) -> list[tuple[int, int]]:
    """Of the prepared statements that hold a text: uses of a plan for any values, uses of plans for certain values."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE strpos(statement, %s) > 0", [text]
        )
        return list(cursor.fetchall())


@pytest.fixture(autouse=True)
def none_prepared() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")


def close(count: int) -> None:
    account = new_account()
    deals = [opened(account, amount="1", take_profit="110") for _ in range(count)]
    settle([due(deal, "110") for deal in deals])
    for deal in deals:
        deal.refresh_from_db()
        assert deal.status == Status.CLOSED


def test_what_closes_a_few_deals_is_planned_once() -> None:
    for count in (1, 2, FEW):
        close(count)
    assert prepared("UPDATE deals") == [(3, 0)]
    assert prepared("FOR NO KEY UPDATE") == [(3, 0)]
    assert prepared("INSERT INTO deals") == [(3 + FEW, 0)]


def test_what_closes_many_gets_a_plan_of_its_own() -> None:
    close(FEW + 1)
    assert prepared("UPDATE deals") == []


@pytest.mark.parametrize("rows", [1, FEW + 1])
def test_an_error_is_djangos_and_what_was_prepared_is_of_use_afterwards(rows: int) -> None:
    query, half = "SELECT 1 / %(by)s::integer", {"by": 2}
    assert execute_planned(query, half, rows=rows) == [(0,)]
    for _ in range(2):
        with pytest.raises(DataError), transaction.atomic():
            execute_planned(query, {"by": 0}, rows=rows)
        assert execute_planned(query, half, rows=rows) == [(0,)]


@pytest.mark.django_db(transaction=True)
def test_a_column_that_another_session_gave_another_type_is_an_error_once() -> None:
    """A migration beside running processes: one transaction fails, and the next try plans anew."""
    with psycopg.connect(connection.connection.info.dsn, autocommit=True) as other:
        other.execute("CREATE TABLE things AS SELECT 1 AS size")
        try:
            assert execute_prepared("SELECT size FROM things", {}) == [(1,)]
            other.execute("ALTER TABLE things ALTER size TYPE bigint")
            with pytest.raises(NotSupportedError, match="cached plan"), transaction.atomic():
                execute_prepared("SELECT size FROM things", {})
            assert execute_prepared("SELECT size FROM things", {}) == [(1,)]
        finally:
            other.execute("DROP TABLE things")
