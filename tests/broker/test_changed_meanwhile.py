"""A deal that changes between the reading of its row and the book: the book ends up with what PostgreSQL says."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from market import BTC, NOT_IN_BOOK, Market, in_book

from deals import services
from deals.models import Account, Deal, DealEvent
from deals.queries import watch_rows
from workers import book
from workers.prices import RedisQuoteBoard
from workers.receivers import arm_rows

arm = book.arm


@pytest.fixture
def then(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], object]], None]:
    """Have something done to the deal that is about to be armed, before that."""

    def before_arming(change: Callable[[int], object]) -> None:
        changes = [change]

        def change_and_arm(rows: Any, **options: Any) -> book.Armed:
            rows = list(rows)
            if changes:
                changes.pop()(rows[0].id)
            return arm(rows, **options)

        monkeypatch.setattr(book, "arm", change_and_arm)

    return before_arming


def quote(market: Market) -> Any:
    return RedisQuoteBoard(market.clock).quote(BTC)


def armed_events(deal: Deal) -> list[int]:
    events = DealEvent.objects.filter(deal=deal, kind=DealEvent.Kind.ARMED).order_by("id")
    return list(events.values_list("version", flat=True))


def test_a_deal_that_was_closed_by_hand_meanwhile_does_not_stay_in_the_book(
    live: Market, trader: Account, then: Callable[[Callable[[int], object]], None]
) -> None:
    live.tick("100")
    then(lambda deal_id: services.close_deal(deal_id=deal_id, quote=quote(live)))
    deal = live.open(trader, take_profit="110")
    deal.refresh_from_db()
    assert (deal.status, deal.monitoring) == ("closed", "ended")
    assert in_book(deal.pk) == NOT_IN_BOOK
    assert armed_events(deal) == []


def test_a_deal_that_was_amended_meanwhile_is_armed_at_its_new_level(
    live: Market, trader: Account, then: Callable[[Callable[[int], object]], None]
) -> None:
    live.tick("100")
    terms = {"user_id": trader.user_id, "quote": quote(live), "take_profit": Decimal(120)}
    then(lambda deal_id: services.amend_levels(deal_id=deal_id, **terms))
    deal = live.open(trader, take_profit="110")
    deal.refresh_from_db()
    assert (deal.monitoring, deal.watch_version) == ("armed", 2)
    assert in_book(deal.pk) == (120.0, None, "2")
    assert armed_events(deal) == [2]


def test_a_deal_that_another_armed_meanwhile_is_armed_once(
    live: Market, trader: Account, then: Callable[[Callable[[int], object]], None]
) -> None:
    live.tick("100")
    then(lambda deal_id: arm_rows(watch_rows([deal_id])))
    deal = live.open(trader, take_profit="110")
    assert in_book(deal.pk) == (110.0, None, "1")
    assert armed_events(deal) == [1]
