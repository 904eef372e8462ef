"""A plain loop over all resting stop orders at every tick, as stop-order engines of trading frameworks have it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.load import far_deals
from bench.market import BAND


@dataclass(slots=True)
class StopOrder:
    """An order that waits in memory."""

    symbol: str
    upper: float
    lower: float


def tick_us(orders: int, symbols: list[str], ticks: int) -> float:
    """Microseconds that a tick takes while so many orders, spread over the symbols, wait and none is reached."""
    plan = far_deals(symbols)
    waiting = {}
    for number in range(orders):
        symbol, upper, lower = plan(number)
        waiting[number] = StopOrder(symbol, float(upper), float(lower))
    prices = [float(price) for price in BAND]
    reached = 0
    started = time.perf_counter()
    for number in range(ticks):
        symbol, price = symbols[number % len(symbols)], prices[number % len(prices)]
        for order in list(waiting.values()):
            if order.symbol != symbol:
                continue
            if price >= order.upper or price <= order.lower:
                reached += 1
    taken = time.perf_counter() - started
    if reached:
        raise AssertionError(f"{reached} orders were reached")
    return taken / ticks * 1e6
