"""Closing the same deals at the same moment, by hand and by workers: each is closed and paid once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction
from domain import at_once, due, errors_of, new_account, opened, quote
from servers import wait_until

from deals import services
from deals.errors import Conflict
from deals.models import Account, Deal, LedgerEntry, Notification
from deals.settlement import Report, settle

D = Decimal
pytestmark = pytest.mark.django_db(transaction=True)


def paid_once(*deals: Deal) -> None:
    """Each deal is closed, has one payment and one notification."""
    ids = [deal.pk for deal in deals]
    assert Deal.objects.filter(pk__in=ids, status="closed").count() == len(ids)
    assert sorted(LedgerEntry.objects.filter(kind="close").values_list("deal_id", flat=True)) == sorted(ids)
    assert sorted(Notification.objects.filter(kind="deal_closed").values_list("deal_id", flat=True)) == sorted(ids)


def deadlocks() -> int:
    """How many PostgreSQL has counted in this database; sessions report when they end, so wait for those."""

    def only_mine() -> bool:
        return count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == 1

    wait_until(only_mine, what="the threads' sessions end")
    return count("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")


def count(sql: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
        assert row is not None
        return int(row[0])


def test_a_hundred_threads_closing_the_same_deal_by_hand_pay_once() -> None:
    account = new_account()
    deal = opened(account, take_profit="110")
    close = partial(services.close_deal, deal_id=deal.pk, quote=quote("105"), user_id=account.user_id)
    outcomes = at_once([close] * 100)

    winners = [outcome for outcome in outcomes if isinstance(outcome, Deal)]
    losers = errors_of(outcomes)
    assert (len(winners), len(losers)) == (1, 99)
    assert {type(error) for error in losers} == {Conflict}
    assert {error.code for error in losers if isinstance(error, Conflict)} == {"deal_closed"}
    paid_once(deal)
    account.refresh_from_db()
    assert (account.balance, account.margin) == (D("10049.5"), D(0))  # 1000 × 0.05 − 0.5
    assert account.closed_deals == 1


def test_a_hundred_deliveries_of_the_same_closure_pay_once() -> None:
    account = new_account()
    deal = opened(account, take_profit="110")
    outcomes = at_once([partial(settle, [due(deal, "110")])] * 100)
    assert errors_of(outcomes) == []
    assert sorted(len(report.closed) for report in outcomes) == [0] * 99 + [1]
    assert sum(report.gone == [deal.pk] for report in outcomes) == 99
    paid_once(deal)


def test_a_user_who_closes_while_two_workers_settle_the_same_batch_wins_or_loses_whole() -> None:
    accounts = [new_account() for _ in range(5)]
    deals = [opened(account, take_profit="110") for account in accounts for _ in range(8)]
    batch = [due(deal, "110") for deal in deals]
    by_hand = random.Random(7).sample(deals, 10)
    closes: list[Callable[[], Any]] = [
        partial(services.close_deal, deal_id=deal.pk, quote=quote("105"), user_id=deal.account.user_id)
        for deal in by_hand
    ]
    outcomes = at_once([*closes, partial(settle, batch), partial(settle, batch)])

    users = [outcome for outcome in outcomes[:10] if isinstance(outcome, Deal)]
    assert all(isinstance(error, Conflict) for error in errors_of(outcomes[:10]))
    first, second = outcomes[10:]
    assert isinstance(first, Report)
    assert isinstance(second, Report)
    assert not [*first.failed, *second.failed, *first.changed, *second.changed]
    settled = [closure.deal_id for closure in first.closed + second.closed]
    assert sorted([deal.pk for deal in users] + settled) == [deal.pk for deal in deals]
    paid_once(*deals)
    # The price is that of whoever won, never a mixture.
    by_reason = {"manual": (D(105), D("49.5"), "manual"), "take_profit": (D(110), D("99.5"), "tick")}
    for deal in Deal.objects.all():
        assert (deal.close_price, deal.profit, deal.detector) == by_reason[deal.close_reason or ""]
        assert (deal.close_reason == "manual") == (deal in users)


@pytest.mark.parametrize("account_count", [1, 3, 40])
def test_overlapping_batches_in_opposite_orders_on_shared_accounts_never_deadlock(account_count: int) -> None:
    accounts = [new_account() for _ in range(account_count)]
    deals = [opened(accounts[n % account_count], take_profit="110", amount="10") for n in range(120)]
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE accounts, deals")  # small tables get other plans once PostgreSQL knows they are small
    before = deadlocks()
    batch = [due(deal, "110") for deal in deals]
    works: list[Callable[[], Any]] = []
    for start in range(0, 120, 20):
        part = [batch[(start + n) % 120] for n in range(60)]  # each deal in three batches, all in both orders
        works += [partial(settle, part), partial(settle, part[::-1])]
    works += [partial(settle, [item]) for item in batch[::10]]
    works += [partial(opened, account, amount="1") for account in accounts[:10]]
    outcomes = at_once(works)

    assert errors_of(outcomes) == []
    assert deadlocks() == before
    paid_once(*deals)


def test_a_settlement_that_loses_to_a_deadlock_runs_again_in_the_same_call() -> None:
    account = new_account()
    deal = opened(account, take_profit="110")
    holding = threading.Event()

    def lock_in_the_wrong_order() -> None:
        with transaction.atomic():
            Account.objects.select_for_update().get(pk=account.pk)
            holding.set()
            # Who waits longest looks for a deadlock first and is its victim: the settlement.
            wait_until(lambda: count("SELECT count(*) FROM pg_locks WHERE NOT granted") == 1)
            Deal.objects.select_for_update().get(pk=deal.pk)

    def settle_it() -> Report:
        assert holding.wait(10)
        return settle([due(deal, "110")])

    before = deadlocks()
    other, report = at_once([lock_in_the_wrong_order, settle_it])
    assert other is None
    assert [closure.deal_id for closure in report.closed] == [deal.pk]
    assert deadlocks() == before + 1
    paid_once(deal)


def test_two_workers_that_take_different_deals_of_one_account_pay_both() -> None:
    account = new_account()
    deals = [opened(account, take_profit="110", amount="10") for _ in range(40)]
    outcomes = at_once([partial(settle, [due(deal, "110")]) for deal in deals])
    assert errors_of(outcomes) == []
    paid_once(*deals)
    account.refresh_from_db()
    # each: 10 × 10 × 0.1 − 0.05 = 9.95
    assert (account.balance, account.margin) == (D(10_000) + 40 * D("9.95"), D(0))
    assert (account.closed_deals, account.winning_deals, account.total_volume) == (40, 40, D(4000))


def test_a_poison_deal_does_not_keep_others_from_closing_at_the_same_time() -> None:
    account: Account = new_account()
    deals = [opened(account, take_profit="110", amount="10") for _ in range(21)]
    poison, good = deals[10], [*deals[:10], *deals[11:]]
    batch = [due(deal, "110")._replace(detector="oracle" if deal is poison else "tick") for deal in deals]
    outcomes = at_once([partial(settle, batch), partial(settle, batch[::-1]), partial(settle, batch[5:15])])
    assert errors_of(outcomes) == []
    assert [failure.due.deal_id for report in outcomes for failure in report.failed] == [poison.pk] * 3
    paid_once(*good)
    poison.refresh_from_db()
    assert (poison.status, poison.monitoring) == ("open", "pending")
