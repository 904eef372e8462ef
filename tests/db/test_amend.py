"""Changing the levels of an open deal."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

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


@pytest.fixture
def deal(account: Account) -> Deal:
    return opened(account, take_profit="110", stop_loss="90")


def amend(deal: Deal, price: str = "100", seq: int = 5, **levels: Any) -> Deal:
    amended = services.amend_levels(
        user_id=deal.account.user_id,
        deal_id=deal.pk,
        quote=quote(price, seq=seq, at=NOON + timedelta(seconds=seq)),
        now=NOON + timedelta(seconds=seq),
        **levels,
    )
    amended.refresh_from_db()
    return amended


def facts(deal: Deal) -> dict[str, Any]:
    return Deal.objects.filter(pk=deal.pk).values().get()


def test_new_levels_are_watched_from_the_new_price_on_at_a_new_version(deal: Deal) -> None:
    amended = amend(deal, price="105", take_profit=D(120), stop_loss=D(95))
    assert (amended.take_profit, amended.stop_loss) == (D(120), D(95))
    assert (amended.upper_trigger, amended.lower_trigger) == (D(120), D(95))
    assert (amended.monitoring, amended.watch_version, amended.watched_from_seq) == ("pending", 2, 5)
    assert amended.watched_from_at == NOON + timedelta(seconds=5)
    assert amended.watch_expires_at == NOON + timedelta(hours=24, seconds=5)
    assert [(event.kind, event.version, event.price) for event in deal.events.order_by("pk")] == [
        ("opened", 1, D(100)),
        ("amended", 2, D(105)),
    ]


def test_a_level_that_is_not_named_stays(deal: Deal) -> None:
    assert amend(deal, take_profit=D(120)).stop_loss == D(90)
    assert amend(deal, stop_loss=D(80)).take_profit == D(120)


def test_none_takes_a_level_away_and_without_levels_nothing_is_monitored(deal: Deal) -> None:
    assert amend(deal, take_profit=None).monitoring == "pending"
    amended = amend(deal, stop_loss=None)
    assert (amended.monitoring, amended.watch_version, amended.watch_expires_at) == ("none", 3, None)
    assert (amended.upper_trigger, amended.lower_trigger) == (None, None)
    assert amend(deal, take_profit=D(101)).monitoring == "pending"


def test_money_and_terms_stay_as_they_are(account: Account, deal: Deal) -> None:
    before = facts(deal)
    amend(deal, take_profit=D(120))
    kept = ("amount", "multiplier", "direction", "open_price", "opened_at", "symbol", "account_id", "status")
    assert {name: facts(deal)[name] for name in kept} == {name: before[name] for name in kept}
    account.refresh_from_db()
    assert (account.balance, account.margin) == (D(9900), D(100))
    assert deal.ledger.count() == 1


@pytest.mark.parametrize(
    ("price", "levels", "code", "field"),
    [
        ("100", {"take_profit": D(100)}, "level_on_wrong_side", "take_profit"),
        ("100", {"take_profit": D(99)}, "level_on_wrong_side", "take_profit"),
        ("100", {"stop_loss": D(100)}, "level_on_wrong_side", "stop_loss"),
        (
            "111",
            {"stop_loss": D(95)},
            "level_on_wrong_side",
            "take_profit",
        ),  # the kept level has been reached meanwhile
        ("100", {"take_profit": D(90)}, "levels_equal", "stop_loss"),
        ("100", {"take_profit": D("NaN")}, "invalid_level", "take_profit"),
        ("100", {"stop_loss": D("1.0000000000001")}, "invalid_level", "stop_loss"),
    ],
)
def test_bad_levels_are_refused_and_change_nothing(
    deal: Deal, price: str, levels: dict[str, Any], code: str, field: str
) -> None:
    before = facts(deal)
    with pytest.raises(DealError) as refused:
        amend(deal, price=price, **levels)
    assert (refused.value.code, refused.value.field) == (code, field)
    assert facts(deal) == before
    assert deal.events.count() == 1


def test_a_closed_deal_cannot_be_amended(deal: Deal) -> None:
    settle([due(deal, "110")])
    before = facts(deal)
    with pytest.raises(Conflict) as refused:
        amend(deal, take_profit=D(120))
    assert refused.value.code == "deal_closed"
    assert facts(deal) == before


def test_someone_elses_deal_is_not_found(deal: Deal) -> None:
    for stranger, deal_id in ((new_account().user_id, deal.pk), (deal.account.user_id, 0)):
        with pytest.raises(NotFound):
            services.amend_levels(user_id=stranger, deal_id=deal_id, quote=quote(), take_profit=D(120))


def test_a_quote_of_another_symbol_is_refused(deal: Deal) -> None:
    with pytest.raises(DealError) as refused:
        services.amend_levels(
            user_id=deal.account.user_id, deal_id=deal.pk, quote=quote(symbol="ETHUSDT"), take_profit=D(120)
        )
    assert refused.value.code == "unknown_symbol"


def test_what_fired_at_the_old_levels_does_not_close_the_deal_any_more(deal: Deal) -> None:
    fired = due(deal, "110")
    amended = amend(deal, take_profit=D(120))
    report = settle([fired])
    assert (report.closed, report.changed) == ([], [deal.pk])
    assert settle([due(amended, "120")]).closed[0].price == D(120)


def test_monitoring_that_an_operator_ended_stays_ended(deal: Deal) -> None:
    services.remove_from_monitoring(deal_id=deal.pk)
    amended = amend(deal, take_profit=D(120))
    assert (amended.monitoring, amended.upper_trigger) == ("removed", D(120))
    assert settle([due(amended, "120")]).changed == [deal.pk]


@pytest.mark.parametrize("ended", ["expired", "dead"])
def test_new_levels_begin_monitoring_again_after_it_ended_by_itself(deal: Deal, ended: str) -> None:
    Deal.objects.filter(pk=deal.pk).update(monitoring=ended)
    assert amend(deal, take_profit=D(120)).monitoring == "pending"


def test_levels_that_are_what_they_were_change_nothing_and_what_fired_still_closes(deal: Deal) -> None:
    fired, before = due(deal, "111"), facts(deal)
    amend(deal, price="105", take_profit=D(110), stop_loss=D(90))
    assert facts(deal) == before
    assert [closure.deal_id for closure in settle([fired]).closed] == [deal.pk]


def test_a_deal_that_an_operator_took_out_stays_out_without_levels_and_with_new_ones(deal: Deal) -> None:
    services.remove_from_monitoring(deal_id=deal.pk)
    assert amend(deal, take_profit=None, stop_loss=None).monitoring == "removed"
    assert amend(deal, take_profit=D(130)).monitoring == "removed"
    assert services.add_to_monitoring(deal_id=deal.pk, quote=quote("100", seq=9)).monitoring == "pending"
