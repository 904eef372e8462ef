"""Health's look at operations: one whose process died is named, and stays so until an operator resumes."""

from __future__ import annotations

from typing import Any

from monitoring import health
from monitoring.sql import statement
from monitoring.verdicts import Check, at_most
from workers.operations import ABANDONED_AFTER


def watch() -> None:
    """Make it a check of `orderWorker`."""
    health.register_check("orderWorker", "abandonedOperations", ask=_ask, judge=_judge)


def _ask(cursor: Any) -> list[tuple[int, str]]:
    cursor.execute(statement("abandoned_operations"), {"abandoned_after": ABANDONED_AFTER})
    return list(cursor.fetchall())


def _judge(found: list[tuple[int, str]]) -> Check:
    names = ", ".join(f"{kind} ({number})" for number, kind in found)
    reason = f"The process of an operation has died: {names}. Look at the system, then resume it."
    return at_most("abandonedOperations", len(found), 0, "operations", reason)
