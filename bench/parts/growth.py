"""growth: whether a tick or a sweep costs more with more open deals."""

from __future__ import annotations

from typing import Final

from bench.figures import Figure, median
from bench.parts.ingest import flood
from bench.parts.sweep import sweeps_ms
from bench.stage import Stage
from workers import keys

SIZES: Final = (1_000, 10_000, 100_000)
FLAT: Final = 1.25


def run(stage: Stage) -> None:
    """A flood and some sweeps at 1,000, 10,000, 100,000 and all deals; the later parts go on with them."""
    options, world = stage.options, stage.world
    last = options.open - options.watched
    world.reset()
    tick_us, sweep_ms = {}, {}
    for size in [size for size in SIZES if size < last] + [last]:
        world.grow_to(size)
        with stage.scene():
            prices = stage.programs.start_prices(world.symbols)
            flood(stage, [prices], max(1, options.ticks // 50), "warm-up")
            rate, _usage = flood(stage, [prices], max(1, options.ticks // 5), f"growth {size}")
            tick_us[size] = 1e6 / rate
            # The floods of all sizes must not lie in the windows of the later ones.
            world.redis.unlink(*(keys.window(symbol) for symbol in world.symbols))
            sweep_ms[size] = median(sweeps_ms(stage, prices, max(2, options.sweeps - 2), f"growth {size} sweep"))
        stage.figures += [
            Figure("growth", f"a tick at {size:,}", tick_us[size], "µs"),
            Figure("growth", f"a sweep at {size:,}", sweep_ms[size], "ms"),
        ]
    world.add_ladders(options.watched)
    world.shared = True
    first = min(tick_us)
    for what, cost in (("a tick", tick_us), ("a sweep", sweep_ms)):
        stage.figures.append(Figure("growth", f"{what}: {last:,} / {first:,}", cost[last] / cost[first], "×", 2, FLAT))
