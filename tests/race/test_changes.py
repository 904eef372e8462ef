"""Amending, taking out of monitoring, expiring and opening against settlement and against themselves."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.db import connection
from domain import NOON, at_once, due, errors_of, new_account, opened, quote

from deals import services
from deals.errors import Conflict, DealError
from deals.models import Account, Deal, LedgerEntry, Notification
from deals.settlement import Report, settle
from deals.sql import statement

D = Decimal
ROUNDS = 25
pytestmark = pytest.mark.django_db(transaction=True)


def outcomes_against_settlement(change: Any) -> list[tuple[Deal, Report, Any]]:
    """In each round a new deal is settled at its Take Profit and changed at the same moment."""
    account = new_account("100000")
    rounds = []
    for _ in range(ROUNDS):
        deal = opened(account, take_profit="110", stop_loss="90")
        report, changed = at_once([partial(settle, [due(deal, "110")]), partial(change, deal)])
        assert isinstance(report, Report), report
        deal.refresh_from_db()
        rounds.append((deal, report, changed))
    return rounds


def require_closed_whole(deal: Deal, report: Report, refused: Any) -> None:
    """The closure won: as if nobody had tried to change the deal."""
    assert isinstance(refused, Conflict)
    assert refused.code == "deal_closed"
    assert [closure.deal_id for closure in report.closed] == [deal.pk]
    assert (deal.close_price, deal.profit, deal.close_reason) == (D(110), D("99.5"), "take_profit")
    assert (deal.watch_version, deal.take_profit, deal.monitoring) == (1, D(110), "ended")


def test_either_the_amended_level_wins_or_the_closure() -> None:
    def amend(deal: Deal) -> Deal:
        return services.amend_levels(
            user_id=deal.account.user_id, deal_id=deal.pk, quote=quote("105", seq=2), take_profit=D(120)
        )

    for deal, report, amended in outcomes_against_settlement(amend):
        if deal.status == "closed":
            require_closed_whole(deal, report, amended)
        else:
            assert report == Report(changed=[deal.pk])
            assert (deal.take_profit, deal.upper_trigger, deal.watch_version) == (D(120), D(120), 2)
            assert not LedgerEntry.objects.filter(deal=deal, kind="close").exists()


def test_either_the_deal_is_taken_out_of_monitoring_or_closed() -> None:
    def remove(deal: Deal) -> Deal:
        return services.remove_from_monitoring(deal_id=deal.pk)

    for deal, report, removed in outcomes_against_settlement(remove):
        kinds = set(Notification.objects.filter(deal=deal).values_list("kind", flat=True))
        if deal.status == "closed":
            require_closed_whole(deal, report, removed)
            assert kinds == {"deal_closed"}
        else:
            assert report == Report(changed=[deal.pk])
            assert (deal.monitoring, deal.watch_version) == ("removed", 2)
            assert kinds == {"monitoring_removed"}


def test_either_monitoring_expires_or_the_deal_closes() -> None:
    def expire(deal: Deal) -> list[int]:
        with connection.cursor() as cursor:
            now = deal.opened_at + timedelta(hours=24)
            cursor.execute(statement("expire_monitoring"), {"ids": [deal.pk], "now": now})
            return [row[0] for row in cursor.fetchall()]

    for deal, report, expired in outcomes_against_settlement(expire):
        kinds = set(Notification.objects.filter(deal=deal).values_list("kind", flat=True))
        if deal.status == "closed":
            assert (expired, kinds) == ([], {"deal_closed"})
        else:
            assert report == Report(changed=[deal.pk])
            assert (expired, kinds, deal.monitoring) == ([deal.pk], {"monitoring_expired"}, "expired")


def test_of_many_amendments_the_last_one_counts_and_none_is_half_written() -> None:
    deal = opened(new_account(), take_profit="110", stop_loss="90")
    levels = [(D(111 + n), D(89 - n)) for n in range(20)]
    outcomes = at_once([
        partial(
            services.amend_levels,
            user_id=deal.account.user_id, deal_id=deal.pk, quote=quote(seq=2), take_profit=take, stop_loss=stop,
        )
        for take, stop in levels
    ])  # fmt: skip
    assert errors_of(outcomes) == []
    deal.refresh_from_db()
    assert (deal.take_profit, deal.stop_loss) in levels
    assert (deal.upper_trigger, deal.lower_trigger) == (deal.take_profit, deal.stop_loss)
    assert deal.watch_version == 21
    assert sorted(amended.watch_version for amended in outcomes) == list(range(2, 22))


def test_many_removals_tell_the_user_once() -> None:
    deal = opened(new_account(), take_profit="110")
    outcomes = at_once([partial(services.remove_from_monitoring, deal_id=deal.pk)] * 20)
    assert errors_of(outcomes) == []
    assert Notification.objects.filter(deal=deal).count() == 1


def test_the_same_client_id_from_twenty_threads_opens_one_deal() -> None:
    account = new_account()
    outcomes = at_once([partial(opened, account, client_id="a", take_profit="110")] * 20)
    assert errors_of(outcomes) == []
    assert len({deal.pk for deal in outcomes}) == 1
    assert Deal.objects.count() == LedgerEntry.objects.filter(kind="open").count() == 1
    account.refresh_from_db()
    assert (account.balance, account.margin) == (D(9900), D(100))


def test_opening_from_many_threads_never_spends_more_than_there_is() -> None:
    account = new_account("1000")
    outcomes = at_once([partial(opened, account, amount="90", take_profit="110")] * 40)
    refused = errors_of(outcomes)
    assert all(isinstance(error, DealError) and error.code == "insufficient_balance" for error in refused)
    assert len(outcomes) - len(refused) == 11  # 11 × 90 = 990
    account.refresh_from_db()
    assert (account.balance, account.margin) == (D(10), D(990))


def test_opening_while_deals_close_keeps_every_balance() -> None:
    accounts = [new_account() for _ in range(3)]
    closing = [opened(account, take_profit="110", amount="10") for account in accounts for _ in range(10)]
    outcomes = at_once(
        [
            *(partial(settle, [due(deal, "110") for deal in closing[n::4]]) for n in range(4)),
            *(partial(opened, account, amount="10") for account in accounts for _ in range(10)),
        ]
    )
    assert errors_of(outcomes) == []
    for account in Account.objects.all():
        # ten open at 10, ten closed with 9.95 each
        assert (account.balance, account.margin) == (D(10_000) - 100 + D("99.5"), D(100))


def test_the_same_user_from_many_threads_gets_one_account(django_user_model: Any) -> None:
    user = django_user_model.objects.create(username="new")
    outcomes = at_once([partial(services.create_account, user.pk, now=NOON)] * 20)
    assert errors_of(outcomes) == []
    assert Account.objects.get(user=user).ledger.count() == 1
