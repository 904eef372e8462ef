"""mass: thousands of deals of one symbol cross in one tick."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from bench.figures import Figure
from bench.parts.trigger import start, trigger
from bench.stage import Stage

FEW: Final = 10_000
"""So many are closed in less than a second: which worker takes the last batch tells, and whatever else happens then."""


def run(stage: Stage) -> None:
    """Closures a second from the tick's receipt to the last commit, for each size; of few deals the median of three."""
    for deals in stage.options.sizes(5_000, 100_000):
        stage.world.reset()
        with stage.scene():
            symbols = stage.world.symbols[:-1][: 3 if deals <= FEW else 1]  # the last one warms the workers up
            for symbol in symbols:
                stage.world.add_close(symbol, deals)
            prices = start(stage, stage.options.workers)
            tries = [trigger(stage, prices, symbol, deals, f"mass {deals}") for symbol in symbols]
            closed = sorted(tries, key=attrgetter("per_s"))[len(tries) // 2]
            found = stage.world.one("SELECT count(*) FROM deals WHERE detector = 'sweep'")
            note = closed.usage.text(stage.cores) + (f"; {found:.0f} found by the sweep" if found else "")
            stage.figures += [
                Figure(
                    "mass",
                    f"{deals:,} in one tick",
                    closed.per_s,
                    "closures/s",
                    15_000,
                    40_000,
                    more_is_better=True,
                    note=note,
                ),
                Figure("mass", f"{deals:,}: tick to last commit", closed.seconds * 1000, "ms"),
            ]
