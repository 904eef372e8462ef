"""Closing a deal by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest
from domain import NOON, due, new_account, opened, quote

from deals import services
from deals.errors import Conflict, DealError, NotFound
from deals.models import Account, Deal
from deals.settlement import settle

D = Decimal
pytestmark = pytest.mark.django_db


@pytest.fixture
def account() -> Account:
    return new_account()


def test_the_user_gets_amount_and_profit_at_the_quoted_price(account: Account) -> None:
    deal = opened(account, take_profit="110")
    # volume 1000; gross 1000 × 5 / 100 = 50; commission 0.5; profit 49.5
    closed = services.close_deal(deal_id=deal.pk, quote=quote("105", seq=9), user_id=account.user_id)
    assert (closed.status, closed.close_reason, closed.detector) == ("closed", "manual", "manual")
    assert (closed.close_price, closed.profit, closed.commission) == (D(105), D("49.5"), D("0.5"))
    assert (closed.monitoring, closed.close_tick_at, closed.close_trade_id) == ("ended", NOON, None)
    account.refresh_from_db()
    assert (account.balance, account.margin) == (D("10049.5"), D(0))
    assert list(closed.events.order_by("pk").values_list("kind", flat=True)) == ["opened", "closed"]
    assert [(entry.kind, entry.amount) for entry in closed.ledger.order_by("pk")] == [
        ("open", D(-100)),
        ("close", D("149.5")),
    ]
    assert list(closed.notifications.values_list("kind", flat=True)) == ["deal_closed"]


@pytest.mark.parametrize("monitoring", ["pending", "armed", "removed", "expired", "dead"])
def test_a_deal_can_be_closed_by_hand_whatever_its_monitoring(account: Account, monitoring: str) -> None:
    deal = opened(account, take_profit="110")
    Deal.objects.filter(pk=deal.pk).update(monitoring=monitoring)
    assert services.close_deal(deal_id=deal.pk, quote=quote()).monitoring == "ended"


def test_a_deal_without_levels_can_be_closed_by_hand(account: Account) -> None:
    assert services.close_deal(deal_id=opened(account).pk, quote=quote()).profit == D("-0.5")


def test_an_operator_may_close_any_deal_and_a_stranger_none(account: Account) -> None:
    deal = opened(account)
    with pytest.raises(NotFound):
        services.close_deal(deal_id=deal.pk, quote=quote(), user_id=new_account().user_id)
    deal.refresh_from_db()
    assert deal.status == "open"
    assert services.close_deal(deal_id=deal.pk, quote=quote()).status == "closed"


def test_an_unknown_deal_is_not_found() -> None:
    with pytest.raises(NotFound):
        services.close_deal(deal_id=0, quote=quote())


def test_a_closed_deal_is_refused_and_pays_nothing(account: Account) -> None:
    deal = opened(account, take_profit="110")
    settle([due(deal, "110")])
    account.refresh_from_db()
    balance = account.balance
    with pytest.raises(Conflict) as refused:
        services.close_deal(deal_id=deal.pk, quote=quote("120"), user_id=account.user_id)
    assert refused.value.code == "deal_closed"
    account.refresh_from_db()
    deal.refresh_from_db()
    assert account.balance == balance
    assert (deal.close_price, deal.close_reason) == (D(110), "take_profit")
    assert deal.ledger.filter(kind="close").count() == deal.notifications.count() == 1


def test_a_quote_of_another_symbol_is_refused(account: Account) -> None:
    deal = opened(account)
    with pytest.raises(DealError) as refused:
        services.close_deal(deal_id=deal.pk, quote=quote(symbol="ETHUSDT"))
    assert refused.value.code == "unknown_symbol"
    deal.refresh_from_db()
    assert deal.status == "open"


def test_nobody_loses_more_than_the_amount(account: Account) -> None:
    deal = opened(account, multiplier=100)
    # volume 10,000; gross 10000 × −50 / 100 = −5000: cut off at −100
    closed = services.close_deal(deal_id=deal.pk, quote=quote("50"))
    assert (closed.profit, closed.commission) == (D(-100), D(5))
    assert closed.ledger.get(kind="close").amount == D(0)
    account.refresh_from_db()
    assert (account.balance, account.margin) == (D(9900), D(0))


def test_a_deal_whose_profit_cannot_be_booked_is_refused_by_name_and_stays_open() -> None:
    rich = opened(new_account("900000000000"), amount="100000000000", multiplier=100, price="0.000001")
    with pytest.raises(Conflict) as refused:
        services.close_deal(deal_id=rich.pk, quote=quote("100000"))
    assert refused.value.code == "cannot_be_settled"
    rich.refresh_from_db()
    assert rich.status == "open"
