"""One sweep in the hands of a test, and what a worker would make of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
from django.db import connection
from market import BTC, NOT_IN_BOOK, Market, in_book

from deals.models import Account, Deal, Monitoring
from deals.quotes import Quote
from deals.settlement import settle
from workers import book, sweep
from workers.clock import TapeClock
from workers.models import SweepPosition
from workers.prices import RedisQuoteBoard
from workers.sweep import SweepReport


def pending_deal(market: Market, trader: Account, settings: Any, **levels: str) -> Deal:
    """A deal whose process died between the commit and the arming."""
    settings.STATIC_ONLY = True
    deal = market.open(trader, **levels)
    settings.STATIC_ONLY = False
    assert deal.monitoring == Monitoring.PENDING
    assert in_book(deal.pk) == NOT_IN_BOOK
    return deal


def swept(clock: TapeClock) -> SweepReport:
    report = sweep.sweep(clock=clock)
    assert not report.skipped
    return report


def close_what_fired() -> list[int]:
    """What a worker would do, without the queue."""
    report = settle([fired.due() for fired in book.all_fired().values()])
    book.clear_fired((closure.deal_id, 2**30) for closure in report.closed)
    return [closure.deal_id for closure in report.closed]


def position(symbol: str = BTC) -> int:
    return SweepPosition.objects.get(pk=symbol).seq


def current_quote(market: Market, symbol: str = BTC) -> Quote:
    """The price that a deal would be opened or amended at now."""
    return RedisQuoteBoard(market.clock).quote(symbol)


@contextlib.contextmanager
def other_session() -> Iterator[psycopg.Connection[Any]]:
    facts = connection.get_connection_params()
    with psycopg.connect(
        **{name: facts[name] for name in ("dbname", "user", "password", "host", "port") if facts.get(name)}
    ) as other:
        yield other
