"""idle: what the whole system costs while prices move and nothing crosses."""

from __future__ import annotations

import time
from typing import Final

from bench.errors import Trouble
from bench.figures import Figure
from bench.stage import Stage
from workers.book_writer import FLUSH_EVERY_S

CALM_S: Final = 5.0
FLOOR_S: Final = 15.0
SLACK: Final = 0.95
"""Share of the ticks that must have come, for the figure to be one of this rate."""


def run(stage: Stage) -> None:
    """CPU of prices, worker, sweeper, beat, PostgreSQL and Valkey, as a share of all cores.

    Beside it what a process costs that does nothing but be woken by such ticks.
    """
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
    cores = stage.cores
    stage.figures += [
        Figure(
            "idle", f"CPU of the machine at {world.open:,} open", usage.share(cores), "%", 5, 3, note=usage.text(cores)
        ),
        _floor(stage, "the same ticks, nothing done with them", 0.0),
        _floor(stage, f"and a PING every {1000 * FLUSH_EVERY_S:g} ms beside them", FLUSH_EVERY_S),
    ]


def _floor(stage: Stage, what: str, call_every_s: float) -> Figure:
    options = stage.options
    with stage.scene():
        market = stage.programs.start_floor(stage.world.symbols, call_every_s)
        market.ask("pace", per_s=options.rate)
        stage.say(f"idle: {what}")
        time.sleep(1)
        with stage.measured("idle floor") as usage:
            time.sleep(min(FLOOR_S, options.seconds))
    return Figure("idle", what, usage.share(stage.cores), "%", note=usage.text(stage.cores))
