"""Fixtures around a market of a test's own. No Django at the top: this is read before the servers run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from market import Market

    from deals.models import Account
    from workers.clock import TapeClock


@pytest.fixture
def clock() -> TapeClock:
    """The time, from now on in the hands of the test."""
    from workers.clock import TapeClock

    return TapeClock(time.time_ns() // 1_000_000)


@pytest.fixture
def market(transactional_db: None, the_system_runs: None, clock: TapeClock) -> Iterator[Market]:
    """A running system's prices process, on the test's clock."""
    from market import Market

    from workers import system
    from workers.drivers import next_token

    system.refresh_state()
    market = Market(clock=clock, token=next_token())
    yield market
    market.close()


@pytest.fixture
def trader(transactional_db: None) -> Account:
    """An account with 10,000 USDT."""
    from domain import new_account

    return new_account()
