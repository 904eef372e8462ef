"""scale: more worker processes, more prices processes; what is busy then says what limits."""

from __future__ import annotations

from typing import Final

from bench.figures import Figure
from bench.parts.ingest import flood
from bench.parts.trigger import start, trigger
from bench.stage import Stage

WORKERS: Final = (1, 2, 4)


def run(stage: Stage) -> None:
    """Mass with 1, 2 and 4 worker processes; a flood through one prices process, and through two that share symbols."""
    world = stage.world
    for deals in stage.options.sizes(50_000)[-1:]:
        for workers in WORKERS:
            world.reset()
            with stage.scene():
                world.add_close(world.symbols[0], deals)
                prices = start(stage, workers)
                closed = trigger(stage, prices, world.symbols[0], deals, f"scale {workers} workers")
                note = closed.usage.text(stage.cores)
                stage.figures.append(
                    Figure(
                        "scale", f"mass of {deals:,}, {workers} worker processes", closed.per_s, "closures/s", note=note
                    )
                )
        world.reset()
        with stage.scene():
            world.grow_to(deals)
            _flood_through(stage, 1)
            _flood_through(stage, 2)


def _flood_through(stage: Stage, processes: int) -> None:
    symbols, ticks = stage.world.symbols, stage.options.ticks // 2
    engines = [
        stage.programs.start_prices(symbols[number::processes], name=f"prices {number + 1}")
        for number in range(processes)
    ]
    rate, usage = flood(stage, engines, ticks, f"scale {processes} prices")
    stage.figures.append(
        Figure("scale", f"flood, {processes} prices processes", rate, "ticks/s", note=usage.text(stage.cores))
    )
    stage.programs.stop()
