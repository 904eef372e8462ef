"""Measured figures and what is asked of them. Pure arithmetic: percentiles, verdicts, the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

Verdict = Literal["goal", "must", "MISSED", "–"]
"""The goal is met, only the must is met, the must is missed, nothing is asked."""

HEADER: Final = ("part", "what", "measured", "must", "goal", "verdict")


class Figure(NamedTuple):
    """One measured number. `must` and `goal` bound it, from below where `more_is_better`; None: nothing is asked."""

    part: str
    what: str
    value: float
    unit: str
    must: float | None = None
    goal: float | None = None
    more_is_better: bool = False
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """What the number is worth."""
        if self.goal is not None and self._holds(self.goal):
            return "goal"
        if self.must is not None:
            return "must" if self._holds(self.must) else "MISSED"
        return "–" if self.goal is None else "MISSED"

    def _holds(self, bound: float) -> bool:
        if math.isnan(self.value):
            return False
        return self.value >= bound if self.more_is_better else self.value <= bound


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 < share ≤ 1) of the values do not exceed (nearest rank).

    Raises ValueError for no values.
    """
    if not values:
        raise ValueError("no values")
    if not 0 < share <= 1:
        raise ValueError("a share is above 0 and at most 1")
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


def median(values: Sequence[float]) -> float:
    """The lower median: a value that was measured. Raises ValueError for no values."""
    return percentile(values, 0.5)


def shown(value: float) -> str:
    """A number with three significant digits, or whole with separators from 1,000 on."""
    if math.isnan(value):
        return "none"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def table(figures: Sequence[Figure]) -> str:
    """The figures as aligned text, notes below their line."""
    rows = [HEADER, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = []
    for number, row in enumerate(rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
        elif figures[number - 1].note:
            lines.append(f"{'':{widths[0]}}    {figures[number - 1].note}")
    return "\n".join(lines)


def _row(figure: Figure) -> tuple[str, ...]:
    sign = "≥" if figure.more_is_better else "≤"
    bounds = ["" if bound is None else f"{sign} {shown(bound)}" for bound in (figure.must, figure.goal)]
    return (figure.part, figure.what, f"{shown(figure.value)} {figure.unit}".strip(), *bounds, figure.verdict)
