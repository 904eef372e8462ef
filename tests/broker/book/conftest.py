"""A prices process over the book alone: no database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from market import Market

    from workers.clock import TapeClock


@pytest.fixture
def clock() -> TapeClock:
    from held import NOW

    from workers.clock import TapeClock

    return TapeClock(NOW)


@pytest.fixture
def market(clock: TapeClock) -> Iterator[Market]:
    """A prices process while the system runs."""
    from market import Market, say_state

    say_state("running")
    market = Market(clock=clock)
    yield market
    market.close()
