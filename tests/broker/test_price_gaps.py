"""After a time without prices: what crossed meanwhile closes at the first good price, and the closure says so."""

from __future__ import annotations

from decimal import Decimal

import pytest
from factories import make_user
from market import BTC, Market, lose_from_book
from rest_framework.test import APIClient

from deals.history import history
from deals.models import Account, Deal
from deals.settlement import settle
from workers import book, sweep
from workers.clock import TapeClock


def gaps(deal: Deal) -> dict[str, int | None]:
    return {event.kind: event.gap_ms for event in history(deal.events.filter(kind__in=("fired", "closed")))}


def close_what_fired() -> None:
    report = settle([fired.due() for fired in book.all_fired().values()])
    book.clear_fired((closure.deal_id, 2**30) for closure in report.closed)


def test_the_first_good_price_after_an_outage_closes_and_the_closure_says_so(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    market.tick("100")
    crossed, between, after = (market.open(trader, take_profit=level) for level in ("110", "119", "121"))
    clock.set(clock.now_ms() + 45_000)
    assert [item.gap_ms for item in market.tick("115")] == [45_000]
    assert [item.gap_ms for item in market.tick("120")] == [0]
    clock.set(clock.now_ms() + 9_000)  # not long enough to be stale
    assert [item.gap_ms for item in market.tick("121")] == [0]
    close_what_fired()
    crossed.refresh_from_db()
    assert (crossed.close_price, crossed.detector) == (Decimal(115), "tick")
    assert gaps(crossed) == {"fired": 45_000, "closed": 45_000}
    assert gaps(between) == gaps(after) == {"fired": None, "closed": None}


def test_what_came_back_during_the_outage_stays_open(market: Market, trader: Account, clock: TapeClock) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    clock.set(clock.now_ms() + 45_000)
    assert market.tick("101") == []
    assert sweep.sweep(clock=clock).found == 0
    assert Deal.objects.get(pk=deal.pk).status == "open"


def test_what_the_sweep_finds_after_an_outage_says_so_too(market: Market, trader: Account, clock: TapeClock) -> None:
    market.tick("100")
    lost = market.open(trader, take_profit="110")
    lose_from_book(lost)
    sweep.sweep(clock=clock)
    clock.set(clock.now_ms() + 45_000)
    assert sweep.sweep(clock=clock).found == 0  # stale: nothing is judged
    market.tick("115")
    late = market.open(trader, take_profit="120")
    lose_from_book(late)
    market.tick("121", "116")
    assert sorted(sweep.sweep(clock=clock).found_ids) == [lost.pk, late.pk]
    close_what_fired()
    assert gaps(lost) == {"fired": 45_000, "closed": 45_000}
    assert gaps(late) == {"fired": None, "closed": None}  # opened after it


def test_operators_see_the_gap_in_the_deals_history(market: Market, trader: Account, clock: TapeClock) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    clock.set(clock.now_ms() + 12_345)
    market.tick("115")
    close_what_fired()
    client = APIClient()
    client.force_authenticate(make_user(is_staff=True, is_superuser=True))
    history = client.get(f"/api/admin/workers/jobs/{deal.pk}").json()["history"]
    assert [(event["kind"], event["gapMs"]) for event in history][-2:] == [("fired", 12_345), ("closed", 12_345)]


@pytest.mark.parametrize("silent_ms", [9_999, 10_000])
def test_a_gap_begins_where_prices_are_stale(market: Market, trader: Account, clock: TapeClock, silent_ms: int) -> None:
    market.tick("100")
    market.open(trader, take_profit="110")
    clock.set(clock.now_ms() + silent_ms)
    assert [bool(item.gap_ms) for item in market.tick("115", symbol=BTC)] == [silent_ms >= 10_000]
