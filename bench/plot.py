"""One picture of a run: every figure against what must be, as a factor. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figure, shown

COLOURS = {"goal": "#2e7d32", "must": "#f9a825", "MISSED": "#c62828", "–": "#90a4ae"}


def draw(figures: Sequence[Figure], path: Path, title: str) -> bool:
    """Write a PNG: a bar to the right of 1 is better than the must. False when there is nothing to draw.

    Raises ModuleNotFoundError without matplotlib.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    rows = [figure for figure in figures if figure.must and figure.value > 0]
    if not rows:
        return False
    factors = [
        figure.value / figure.must if figure.more_is_better else figure.must / figure.value
        for figure in rows
        if figure.must
    ]
    canvas, axes = plt.subplots(figsize=(10, 1.2 + 0.42 * len(rows)), layout="constrained")
    bars = axes.barh(range(len(rows)), factors, color=[COLOURS[figure.verdict] for figure in rows])
    axes.bar_label(bars, [f"{shown(figure.value)} {figure.unit}" for figure in rows], padding=4, fontsize=9)
    axes.set_yticks(range(len(rows)), [f"{figure.part}: {figure.what}" for figure in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(max(0.01, min(0.5, 0.8 * min(factors))), 2.5 * max(1.0, *factors))  # what never ended is at 0
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=20))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(1, color="black", linewidth=1)
    for number, figure in enumerate(rows):
        if figure.goal and figure.must:
            goal = figure.goal / figure.must if figure.more_is_better else figure.must / figure.goal
            axes.plot([goal, goal], [number - 0.4, number + 0.4], color="black", linewidth=1, linestyle="dotted")
    axes.set_xlabel("times better than the must (line); dotted: the goal")
    axes.set_title(title, fontsize=10)
    canvas.savefig(path, dpi=110)
    plt.close(canvas)
    return True
