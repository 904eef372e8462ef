"""sweep: one sweep among all open deals, with nothing to find and with deals that the book has lost."""

from __future__ import annotations

import time
from typing import Any, Final

from bench.errors import Trouble
from bench.figures import Figure, median
from bench.programs import Prices, wait_until
from bench.stage import Stage
from deals.queries import watch_rows
from workers import book, keys
from workers.clock import WALL_CLOCK
from workers.sweep import sweep

EVERY_S: Final = 2.0
WINDOW_S: Final = 58
"""The tick script keeps 60 s of a symbol's prices; every sweep reads them."""


def run(stage: Stage) -> None:
    """The median time of a sweep of each kind, run here with the code of the sweeper's task, every 2 s."""
    options, world = stage.options, stage.world
    world.share()
    with stage.scene():
        prices = stage.programs.start_prices(world.symbols)
        stage.programs.start_closers(options.workers)
        _fill_windows(stage, prices)
        nothing = sweeps_ms(stage, prices, options.sweeps, "sweep nothing")
        rungs = max(1, options.find // len(world.symbols))
        found = [_find(stage, prices, rungs) for _ in range(options.sweeps)]
        prices.ask("pace", per_s=0)
    count = rungs * len(world.symbols)
    stage.figures += [
        Figure("sweep", f"nothing to find at {world.open:,}", median(nothing), "ms", 100, 50, note=_worst(nothing)),
        Figure("sweep", f"{count:,} to find", median(found), "ms", 300, 150, note=_worst(found)),
    ]


def _fill_windows(stage: Stage, prices: Prices) -> None:
    """Let prices move until the windows reach as far back as in a system that has run for a while."""
    seconds = min(WINDOW_S, stage.options.seconds)
    window = keys.window(stage.world.symbols[0])
    stage.say(f"sweep: {seconds} s of prices in the windows")
    prices.ask("pace", per_s=stage.options.rate)

    def filled() -> bool:
        first: Any = stage.world.redis.xrange(window, count=1)
        return bool(first) and WALL_CLOCK.now_ms() - int(first[0][1]["at"]) >= seconds * 1000

    wait_until(filled, 2 * WINDOW_S, "the windows are filled", every_s=0.2)


def _worst(taken: list[float]) -> str:
    return f"worst of {len(taken)}: {max(taken):.0f} ms"


def sweeps_ms(stage: Stage, prices: Prices, number: int, name: str) -> list[float]:
    """So many sweeps that find nothing, every 2 s while prices move in all symbols."""
    prices.ask("pace", per_s=stage.options.rate)
    stage.say(f"{name}: {number} times")
    taken = []
    with stage.measured(name):
        for turn in range(number + 1):
            time.sleep(EVERY_S)
            spent = _timed_sweep(0)
            if turn:  # the first one has more prices behind it than 2 s
                taken.append(spent)
    return taken


def _find(stage: Stage, prices: Prices, rungs: int) -> float:
    """Let the book lose the next rungs of every symbol, cross them, and time the sweep that finds them."""
    world = stage.world
    price = world.next_rungs(rungs)[-1]
    ids = [
        int(number)
        for number in world.column("SELECT id FROM deals WHERE status = 'open' AND upper_trigger <= %s", price)
    ]
    if len(ids) != rungs * len(world.symbols):
        raise Trouble(f"{len(ids)} deals lie below the next rung")
    before = world.closed()
    book.take_out(watch_rows(ids))
    ticks = world.ticks()
    for symbol in world.symbols:
        prices.ask("tick", symbol=symbol, price=price)
    wait_until(lambda: world.ticks() >= ticks + len(world.symbols), 10, "Redis has taken the crossing prices")
    time.sleep(0.3)  # so that the crossing price is not the last one any more: each deal closes at its own trigger
    spent = _timed_sweep(len(ids))
    world.wait_closed(len(ids), before)
    return spent


def _timed_sweep(expected: int) -> float:
    started = time.perf_counter()
    report = sweep()
    spent = (time.perf_counter() - started) * 1000
    if report.skipped or report.found != expected:
        raise Trouble(f"the sweep found {report.found} deals, not {expected}")
    return spent
