"""detect: single deals cross among a million while prices move; how long until each is closed."""

from __future__ import annotations

import time
from typing import Final

from bench.errors import Trouble
from bench.figures import Figure, median, percentile
from bench.programs import Prices
from bench.stage import LATENCIES, Stage

ROUND_S: Final = 6.0
CALM_S: Final = 3.0

STEPS: Final = """
    SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM {end} - {start}) * 1000)
    FROM deals JOIN settlements ON settlements.id = deals.settlement_id
    WHERE deals.settlement_id > %s
"""


def run(stage: Stage) -> None:
    """p50 and p99 from the tick's receipt to the recorded commit, each deal crossed by a tick of its own."""
    options, world = stage.options, stage.world
    world.share()
    rungs = max(1, round(options.watched * options.crossing / len(world.symbols)))
    with stage.scene():
        prices = stage.programs.start_prices(world.symbols)
        stage.programs.start_closers(options.workers)
        stage.programs.start_sweeping()
        prices.ask("pace", per_s=options.rate)
        _round(stage, prices, 1, CALM_S)  # warms the workers up
        last = world.one("SELECT coalesce(max(id), 0) FROM settlements")
        before = world.closed()
        stage.say(f"detect: {options.rounds} rounds of {rungs * len(world.symbols):,} crossings")
        with stage.measured("detect") as usage:
            for _ in range(options.rounds):
                _round(stage, prices, rungs, ROUND_S)
        prices.ask("pace", per_s=0)
        world.wait_closed(0, world.closed())
        latencies = world.column(LATENCIES, last, "tick")
        if len(latencies) != world.closed() - before:
            raise Trouble(f"{world.closed() - before - len(latencies)} deals were not closed by a tick")
        steps = [
            Figure("detect", f"{what}, p50", world.one(STEPS.format(start=start, end=end), last), "ms")
            for what, start, end in (
                ("receipt to fired", "deals.received_at", "deals.fired_at"),
                ("fired to taken by a worker", "deals.fired_at", "deals.started_at"),
                ("taken to committed", "deals.started_at", "settlements.committed_at"),
            )
        ]
    count = f"{len(latencies):,} deals of {world.open:,}"
    stage.figures += [
        Figure("detect", "tick to committed, p50", median(latencies), "ms", 8, 4, note=count),
        Figure(
            "detect", "tick to committed, p99", percentile(latencies, 0.99), "ms", 30, 15, note=usage.text(stage.cores)
        ),
        *steps,
    ]


def _round(stage: Stage, prices: Prices, rungs: int, seconds: float) -> None:
    """Cross the next rungs of every symbol, one deal a tick, evenly over the time; wait until they are closed."""
    world = stage.world
    before = world.closed()
    gap_s = seconds / (rungs * len(world.symbols))
    due_s = time.monotonic()
    for price in world.next_rungs(rungs):
        for symbol in world.symbols:
            due_s += gap_s
            time.sleep(max(0.0, due_s - time.monotonic()))
            prices.ask("tick", symbol=symbol, price=price)
    time.sleep(0.05)
    deadline = time.monotonic() + 30
    while world.closed() - before < rungs * len(world.symbols):
        if time.monotonic() > deadline:
            raise Trouble("deals that crossed are still open")
        time.sleep(0.05)
    world.wait_closed(rungs * len(world.symbols), before)
