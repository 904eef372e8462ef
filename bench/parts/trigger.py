"""What mass, memory and scale have in common: many deals that one tick closes."""

from __future__ import annotations

from typing import Final, NamedTuple

from bench.programs import Prices, wait_until
from bench.stage import Stage, Usage
from bench.world import ABOVE_THE_LADDER, SETTLE_S

WARM_UP: Final = 200
"""Deals a worker process closes before, so that connections are open and code is loaded as in a running system."""

SPAN: Final = """
    SELECT extract(epoch FROM max(settlements.committed_at) - min(deals.received_at))
    FROM deals JOIN settlements ON settlements.id = deals.settlement_id
    WHERE deals.settlement_id > %s
"""


class Closed(NamedTuple):
    """One mass trigger: how many deals, and the seconds from the tick's receipt to the last commit."""

    deals: int
    seconds: float
    usage: Usage

    @property
    def per_s(self) -> float:
        """Closures a second."""
        return self.deals / self.seconds


def start(stage: Stage, workers: int) -> Prices:
    """The whole system, and its workers warm: deals of the last symbol have closed."""
    world = stage.world
    warm_up = world.symbols[-1]
    world.add_close(warm_up, WARM_UP * workers)
    prices = stage.programs.start_prices(world.symbols)
    stage.programs.start_closers(workers)
    stage.programs.start_sweeping()
    _cross(stage, prices, warm_up, WARM_UP * workers)
    world.wait_closed(WARM_UP * workers, before=0)
    return prices


def trigger(stage: Stage, prices: Prices, symbol: str, deals: int, name: str) -> Closed:
    """Let the symbol's price cross all its deals in one tick, and wait until everything is closed and told."""
    world = stage.world
    stage.say(f"{name}: one tick closes {deals:,} deals")
    before = world.closed()
    last = world.one("SELECT coalesce(max(id), 0) FROM settlements")
    with stage.measured(name) as usage:
        _cross(stage, prices, symbol, before + deals)
    world.wait_closed(deals, before)
    return Closed(deals, world.one(SPAN, last), usage)


def _cross(stage: Stage, prices: Prices, symbol: str, closed: int) -> None:
    prices.ask("tick", symbol=symbol, price=ABOVE_THE_LADDER)
    wait_until(lambda: stage.world.closed() >= closed, SETTLE_S, f"{closed} deals have closed", every_s=0.05)
