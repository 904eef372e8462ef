"""What must hold of a deal's row, as conditions of the table's constraints and indexes."""

from __future__ import annotations

from django.db.models import F, Q


def _same(trigger: str, level: str) -> Q:
    """Equal or both NULL. A bare comparison with NULL is unknown, and a check lets the unknown pass."""
    both_set = Q(**{f"{trigger}__isnull": False, f"{level}__isnull": False, trigger: F(level)})
    return both_set | Q(**{trigger: None, level: None})


UP_TRIGGERS = Q(direction="up") & _same("upper_trigger", "take_profit") & _same("lower_trigger", "stop_loss")
DOWN_TRIGGERS = Q(direction="down") & _same("upper_trigger", "stop_loss") & _same("lower_trigger", "take_profit")
IS_OPEN = Q(
    status="open",
    closed_at=None,
    close_price=None,
    close_reason=None,
    detector=None,
    profit=None,
    commission=None,
    close_trade_id=None,
    close_tick_at=None,
    received_at=None,
    fired_at=None,
    started_at=None,
    settlement=None,
)
IS_CLOSED = Q(
    status="closed",
    monitoring="ended",
    closed_at__isnull=False,
    close_price__isnull=False,
    close_reason__isnull=False,
    detector__isnull=False,
    profit__isnull=False,
    commission__isnull=False,
    started_at__isnull=False,
    settlement__isnull=False,
)
WATCHED_ROW = Q(status="open", monitoring__in=("pending", "armed"))
