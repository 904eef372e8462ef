"""Statements that PostgreSQL parses and plans once a connection instead of at each use: those that touch a few rows.

Closing one deal takes PostgreSQL longer to plan than to do. The plan is made for any values (`plan_cache_mode` in
settings.py) and made again whenever the statistics of its tables are; for many rows a plan of their own is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import psycopg
from django.db import connection

FEW: Final = 10
"""How many rows PostgreSQL expects in a list that it does not see."""


def execute_prepared(query: str, params: Mapping[str, Any]) -> list[Any]:
    """Run a statement that is prepared on the server at its first use, and return its rows.

    In the transaction at hand, like Django's own cursors, and with its errors.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        cursor.execute(query, params, prepare=True)
        return cursor.fetchall()


def execute_planned(query: str, params: Mapping[str, Any], *, rows: int) -> list[Any]:
    """Run a statement that is to touch so many rows: prepared for a few, else with a plan of its own."""
    if rows <= FEW:
        return execute_prepared(query, params)
    with connection.cursor() as cursor:
        cursor.execute(query, params)
        found: list[Any] = cursor.fetchall()
    return found
