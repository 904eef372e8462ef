"""idle: what the whole system costs while prices move and nothing crosses."""

from __future__ import annotations

import time
from typing import Final

from bench.errors import Trouble
from bench.figures import Figure
from bench.stage import Stage

CALM_S: Final = 5.0
SLACK: Final = 0.95
"""Share of the ticks that must have come, for the figure to be one of this rate."""


def run(stage: Stage) -> None:
    """CPU of prices, worker, sweeper, beat, PostgreSQL and Valkey, as a share of all cores."""
    options, world = stage.options, stage.world
    world.share()
    with stage.scene():
        prices = stage.programs.start_prices(world.symbols)
        stage.programs.start_closers(options.workers)
        stage.programs.start_sweeping()
        prices.ask("pace", per_s=options.rate)
        stage.say(f"idle: {options.seconds} s at {world.open:,} open and {options.rate:,} ticks/s")
        time.sleep(min(CALM_S, options.seconds))
        closed, ticks = world.closed(), world.ticks()
        with stage.measured("idle") as usage:
            time.sleep(options.seconds)
            ticks = world.ticks() - ticks
        if world.closed() != closed:
            raise Trouble("deals have closed, although no price crossed")
        if ticks < SLACK * options.rate * options.seconds:
            raise Trouble(f"only {ticks} ticks came in {options.seconds} s")
    share = 100 * usage.total_s / usage.seconds / stage.cores
    stage.figures.append(
        Figure("idle", f"CPU of the machine at {world.open:,} open", share, "%", 5, 3, note=usage.text(stage.cores))
    )
