"""A connection that is lost at the wrong moment raises InterfaceError, which to Django is no DatabaseError."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import DatabaseError, InterfaceError
from servers import PROJECT

from workers.retry import DATABASE_ERRORS

SOURCES = [
    path for folder in ("deals", "workers", "monitoring", "cryptocraze") for path in (PROJECT / folder).rglob("*.py")
]


def caught(path: Path) -> Iterator[tuple[str, set[str]]]:
    """Every `except` and every tuple of exceptions: where it stands, and the names in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Name):
            yield f"{path.name}:{node.lineno}", {node.type.id}
        elif isinstance(node, ast.Tuple):
            names = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            yield f"{path.name}:{node.lineno}", names


def test_who_catches_what_postgresql_raises_catches_a_lost_connection_too() -> None:
    found = [(place, names) for path in SOURCES for place, names in caught(path)]
    assert [place for place, names in found if "DatabaseError" in names and "InterfaceError" not in names] == []
    assert sum("DATABASE_ERRORS" in names for _place, names in found) > 5, "the search finds nothing any more"


@pytest.mark.parametrize("error", [DatabaseError, InterfaceError])
def test_the_shared_tuple_holds_both(error: type[Exception]) -> None:
    assert issubclass(error, DATABASE_ERRORS)
    assert not issubclass(InterfaceError, DatabaseError), "Django has mended it: one name would do"
