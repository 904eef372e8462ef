"""What keeps the system fast, as ratios within one run: a regression shows on any machine, however slow or busy.

Each figure is the best of several tries; limits leave twice the room of what was measured.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Final

import pytest
from django.db import connection
from market import BTC, ETH, Market, row
from psycopg.conninfo import make_conninfo

from bench.load import close_deals, far_deals, load
from deals.settlement import Due, settle
from workers import book, sweep
from workers.clock import TapeClock

pytestmark = [pytest.mark.load, pytest.mark.alone, pytest.mark.timeout(180)]

TRIES: Final = 5
PRICES: Final = [f"{100 + step * 37 % 64 / 400:.4f}" for step in range(400)]


def timed_s(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def best_s(work: Callable[[], object]) -> float:
    """The shortest time of some tries."""
    return min(timed_s(work) for _ in range(TRIES))


def loaded(count: int, symbols: Sequence[str]) -> None:
    """So many more deals, open and armed in PostgreSQL, far from the price."""
    load(database(), count, far_deals(list(symbols)), per_account=10)


def database() -> str:
    """Where the test's tables are."""
    facts = connection.get_connection_params()
    return make_conninfo(**{name: facts[name] for name in ("host", "port", "user", "dbname") if facts.get(name)})


def armed(ids: range) -> None:
    """Deals far from the price, in the book only."""
    book.arm([row(number, f"{200 + number / 1000:.3f}", f"{50 - number / 10000:.4f}") for number in ids])


def test_ticks_that_come_together_cost_a_fraction_each(market: Market) -> None:
    armed(range(1, 5_001))
    together = best_s(lambda: market.tick(*PRICES)) / len(PRICES)
    singly = best_s(lambda: [market.tick(price) for price in PRICES[:50]]) / 50
    assert singly > 4 * together


def test_a_tick_costs_the_same_with_fifty_times_as_many_deals(market: Market) -> None:
    armed(range(1, 1_001))
    few = best_s(lambda: market.tick(*PRICES))
    armed(range(1_001, 50_001))
    many = best_s(lambda: market.tick(*PRICES))
    assert many < 2 * few


def test_a_sweep_costs_the_same_with_fifty_times_as_many_deals(market: Market, clock: TapeClock) -> None:
    prices = itertools.cycle(PRICES)

    def sweep_finds_nothing() -> None:
        report = sweep.sweep(clock=clock)
        assert (report.skipped, report.found, report.armed) == (False, 0, 0)

    def swept() -> float:
        market.tick(next(prices))
        market.tick(next(prices), symbol=ETH)
        return timed_s(sweep_finds_nothing)

    loaded(1_000, [BTC, ETH])
    few = min(swept() for _ in range(TRIES))
    loaded(49_000, [BTC, ETH])
    many = min(swept() for _ in range(TRIES))
    assert many < 2 * few


def test_closing_together_costs_a_fraction_each_and_no_more_in_a_large_batch(market: Market) -> None:
    first, count = load(database(), 4_000, close_deals(BTC), per_account=10)
    ids = iter(range(first, first + count))

    def close(size: int) -> Callable[[], None]:
        def work() -> None:
            batch = [Due(deal_id, 1, Decimal("100.95"), "tick") for deal_id in itertools.islice(ids, size)]
            assert len(settle(batch).closed) == size

        return work

    singly = best_s(lambda: [close(1)() for _ in range(20)]) / 20
    hundred, all_of_a_message = best_s(close(100)) / 100, best_s(close(500)) / 500
    assert singly > 5 * all_of_a_message
    assert all_of_a_message < 1.1 * hundred
