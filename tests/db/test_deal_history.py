"""A deal's history: what is stored of a closure, and what is read of it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from domain import NOON, due, new_account, opened

from deals.history import history
from deals.models import Deal, DealEvent
from deals.settlement import settle

pytestmark = pytest.mark.django_db

FACTS = ("version", "price", "trade_id", "detector", "gap_ms", "error")


def kinds(deal: Deal) -> list[str]:
    return [event.kind for event in history(deal.events.all())]


def closed_by_tick() -> Deal:
    deal = opened(new_account(), take_profit="110")
    fired = due(deal, "111")._replace(fired_at=NOON + timedelta(milliseconds=3), gap_ms=45_000)
    assert settle([fired]).closed
    return deal


def test_a_closure_by_a_tick_has_fired_before_it_closed_with_the_same_facts() -> None:
    deal = closed_by_tick()
    _opened, fired, closed = history(deal.events.all())
    assert (fired.kind, fired.at, fired.pk) == ("fired", NOON + timedelta(milliseconds=3), None)
    assert [getattr(fired, name) for name in FACTS] == [getattr(closed, name) for name in FACTS]
    assert (fired.price, fired.trade_id, fired.detector, fired.gap_ms) == (111, 42, "tick", 45_000)


def test_it_is_stored_once() -> None:
    deal = closed_by_tick()
    assert sorted(deal.events.values_list("kind", flat=True)) == ["closed", "opened"]


def test_a_closure_by_hand_never_fired() -> None:
    deal = opened(new_account(), take_profit="110")
    assert settle([due(deal, "105")._replace(version=None, detector="manual", fired_at=None)]).closed
    assert kinds(deal) == ["opened", "closed"]


def test_a_closure_that_has_a_row_for_it_has_no_second_one() -> None:
    deal = closed_by_tick()
    DealEvent.objects.create(deal=deal, kind="fired", version=1, price=111, detector="tick", at=NOON)
    assert kinds(deal) == ["opened", "closed", "fired"]


def test_the_history_of_many_deals_keeps_them_apart() -> None:
    first, second = closed_by_tick(), closed_by_tick()
    DealEvent.objects.create(deal=first, kind="fired", version=1, price=111, detector="tick", at=NOON)
    told = [(event.deal_id, event.kind) for event in history(DealEvent.objects.all()) if event.kind == "fired"]
    assert told == [(second.pk, "fired"), (first.pk, "fired")]
