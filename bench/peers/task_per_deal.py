"""The same closures by the same worker, in batches of 500 as the system sends them and as one Celery task per deal."""

from __future__ import annotations

from bench.figures import Figure
from bench.parts.trigger import SPAN, WARM_UP
from bench.programs import wait_until
from bench.stage import Stage
from bench.world import ABOVE_THE_LADDER, SETTLE_S
from deals.queries import watch_rows
from workers.book import Fired
from workers.clock import WALL_CLOCK
from workers.dispatch import BATCH, send_closures

PEER = "celery"


def run(stage: Stage, sizes: tuple[int, ...]) -> dict[int, dict[int, float]]:
    """Closures a second by size and batch, from before the first message is sent to the last commit."""
    rates: dict[int, dict[int, float]] = {}
    for deals in sizes:
        rates[deals] = {}
        for batch in (BATCH, 1):
            rates[deals][batch] = _closures_per_s(stage, deals, batch)
            what = "one task per deal" if batch == 1 else f"batches of {batch}"
            stage.figures.append(Figure(PEER, f"{deals:,} closures, {what}", rates[deals][batch], "closures/s"))
    return rates


def _closures_per_s(stage: Stage, deals: int, batch: int) -> float:
    world = stage.world
    world.reset()
    with stage.scene():
        warm = world.add_close(world.symbols[1], WARM_UP)
        loaded = world.add_close(world.symbols[0], deals)
        stage.programs.start_closers(stage.options.workers)
        _send(_fired(warm.first, warm.deals), 10)
        wait_until(lambda: world.closed() >= WARM_UP, SETTLE_S, "the warm-up is closed")
        last = world.one("SELECT max(id) FROM settlements")
        stage.say(f"{PEER}: {deals:,} closures in messages of {batch}")
        with stage.measured(f"{PEER} {deals} by {batch}"):
            _send(_fired(loaded.first, loaded.deals), batch)
            wait_until(lambda: world.closed() >= WARM_UP + deals, SETTLE_S, "all are closed", every_s=0.05)
        world.wait_closed(deals, WARM_UP)
        return deals / world.one(SPAN, last)


def _fired(first: int, count: int) -> list[Fired]:
    """What the book would say had fired now."""
    now_ms = WALL_CLOCK.now_ms()
    return [
        Fired(row.id, row.watch_version, row.symbol, ABOVE_THE_LADDER, None, now_ms, now_ms, now_ms, "tick")
        for row in watch_rows(range(first, first + count))
    ]


def _send(fired: list[Fired], batch: int) -> None:
    for start in range(0, len(fired), batch):
        send_closures(fired[start : start + batch])
