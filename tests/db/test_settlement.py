"""Settlement of a batch: what it writes, what it leaves alone, and one bad deal among many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from domain import NOON, SYMBOL, due, new_account, opened
from structlog.testing import capture_logs

from deals.history import history
from deals.models import Account, Deal, LedgerEntry, Notification, Settlement
from deals.queries import notifications
from deals.settlement import Due, Report, settle

D = Decimal
pytestmark = pytest.mark.django_db


@pytest.fixture
def account() -> Account:
    return new_account()


def closed_ids(report: Report) -> list[int]:
    return [closure.deal_id for closure in report.closed]


def facts(*deals: Deal) -> list[dict[str, Any]]:
    return list(Deal.objects.filter(pk__in=[deal.pk for deal in deals]).order_by("pk").values())


def money_of(account: Account) -> tuple[Decimal, Decimal]:
    account.refresh_from_db()
    return account.balance, account.margin


@contextmanager
def settlements_that_time_out() -> Iterator[None]:
    """Whoever updates a settlement gets what a lock that is not free in time gives."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            CREATE FUNCTION time_out() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'lock timeout' USING ERRCODE = 'lock_not_available'; END $$;
            CREATE TRIGGER times_out BEFORE UPDATE ON settlements EXECUTE FUNCTION time_out()
            """
        )
        yield
        cursor.execute("DROP TRIGGER times_out ON settlements; DROP FUNCTION time_out()")


class TestOneDeal:
    def test_closes_at_the_price_that_fired_with_everything_that_belongs_to_it(self, account: Account) -> None:
        deal = opened(account, take_profit="110", stop_loss="90")
        fired = due(deal, "110.5")._replace(fired_at=NOON + timedelta(milliseconds=3))
        report = settle([fired], started_at=NOON + timedelta(milliseconds=9))

        # volume 1000; gross 1000 × 10.5 / 100 = 105; commission 0.5; profit 104.5; payout 204.5
        deal.refresh_from_db()
        assert (deal.status, deal.monitoring, deal.close_reason, deal.detector) == (
            "closed",
            "ended",
            "take_profit",
            "tick",
        )
        assert (deal.close_price, deal.profit, deal.commission) == (D("110.5"), D("104.5"), D("0.5"))
        assert (deal.close_trade_id, deal.close_tick_at, deal.received_at) == (42, NOON, NOON)
        assert (deal.fired_at, deal.started_at) == (fired.fired_at, NOON + timedelta(milliseconds=9))
        assert money_of(account) == (D("10104.5"), D(0))
        assert LedgerEntry.objects.get(deal=deal, kind="close").amount == D("204.5")
        assert [(event.kind, event.price, event.trade_id, event.detector) for event in history(deal.events.all())] == [
            ("opened", D(100), None, None),
            ("fired", D("110.5"), 42, "tick"),
            ("closed", D("110.5"), 42, "tick"),
        ]
        told = notifications().get(deal=deal)
        assert (told.kind, told.account_id, told.told_at) == ("deal_closed", account.pk, None)
        assert told.settlement_id == deal.settlement_id
        (closure,) = report.closed
        assert (closure.deal_id, closure.user_id, closure.symbol) == (deal.pk, account.user_id, SYMBOL)
        assert (closure.reason, closure.price, closure.profit) == ("take_profit", D("110.5"), D("104.5"))
        assert closure.notification_id == told.pk

    @pytest.mark.parametrize(
        ("direction", "price", "reason"),
        [
            ("up", "110", "take_profit"),
            ("up", "90", "stop_loss"),
            ("down", "90", "take_profit"),
            ("down", "110", "stop_loss"),
        ],
    )
    def test_names_the_level_that_was_reached(self, account: Account, direction: str, price: str, reason: str) -> None:
        levels = ("110", "90") if direction == "up" else ("90", "110")
        deal = opened(account, direction=direction, take_profit=levels[0], stop_loss=levels[1])
        assert settle([due(deal, price)]).closed[0].reason == reason

    def test_a_gap_is_a_gap(self, account: Account) -> None:
        # gross 1000 × −60 / 100 = −600: cut off at −100, nothing comes back
        settle([due(opened(account, stop_loss="90"), "40")])
        assert money_of(account) == (D(9900), D(0))

    @pytest.mark.parametrize("monitoring", ["pending", "armed"])
    def test_closes_whether_it_was_armed_yet_or_not(self, account: Account, monitoring: str) -> None:
        deal = opened(account, take_profit="110")
        Deal.objects.filter(pk=deal.pk).update(monitoring=monitoring)
        assert closed_ids(settle([due(deal, "110")])) == [deal.pk]


class TestWhatIsNotDue:
    def test_a_second_delivery_changes_nothing_and_says_that_the_deal_is_gone(self, account: Account) -> None:
        deal = opened(account, take_profit="110")
        fired = due(deal, "110")
        settle([fired])
        before, money = facts(deal), money_of(account)
        for again in (fired, fired._replace(price=D(500)), fired._replace(version=None)):
            assert settle([again]) == Report(gone=[deal.pk])
        assert (facts(deal), money_of(account)) == (before, money)
        assert deal.ledger.filter(kind="close").count() == deal.notifications.count() == 1

    def test_the_same_deal_twice_in_one_batch_is_paid_once(self, account: Account) -> None:
        deal = opened(account, take_profit="110")
        assert closed_ids(settle([due(deal, "110"), due(deal, "110")])) == [deal.pk]
        assert deal.ledger.filter(kind="close").count() == 1

    @pytest.mark.parametrize("version", [0, 2])
    def test_another_version_closes_nothing(self, account: Account, version: int) -> None:
        deal = opened(account, take_profit="110")
        before = facts(deal)
        assert settle([due(deal, "110", version=version)]) == Report(changed=[deal.pk])
        assert facts(deal) == before

    @pytest.mark.parametrize("price", ["109.999999999999", "90.000000000001", "100"])
    def test_a_price_that_does_not_reach_a_trigger_closes_nothing(self, account: Account, price: str) -> None:
        deal = opened(account, take_profit="110", stop_loss="90")
        before = facts(deal)
        assert settle([due(deal, price)]) == Report(changed=[deal.pk])
        assert facts(deal) == before

    @pytest.mark.parametrize("monitoring", ["removed", "expired", "dead"])
    def test_what_is_not_monitored_any_more_does_not_close(self, account: Account, monitoring: str) -> None:
        deal = opened(account, take_profit="110")
        Deal.objects.filter(pk=deal.pk).update(monitoring=monitoring)
        assert settle([due(deal, "110")]) == Report(changed=[deal.pk])

    def test_a_deal_without_levels_does_not_close(self, account: Account) -> None:
        deal = opened(account)
        assert settle([due(deal, "110")]) == Report(changed=[deal.pk])

    def test_an_unknown_deal_is_gone(self) -> None:
        assert settle([Due(deal_id=0, version=1, price=D(1), detector="tick")]) == Report(gone=[0])

    def test_an_empty_batch_does_nothing(self) -> None:
        assert settle([]) == Report()
        assert not Settlement.objects.exists()


class TestABatch:
    def test_sorts_its_deals_into_closed_gone_and_changed(self, account: Account) -> None:
        gone, closing, changed = (opened(account, take_profit="110") for _ in range(3))
        settle([due(gone, "110")])
        report = settle([due(changed, "105"), due(closing, "110"), due(gone, "110")])
        assert (closed_ids(report), report.gone, report.changed) == ([closing.pk], [gone.pk], [changed.pk])

    def test_is_one_settlement_that_counts_its_deals(self, account: Account) -> None:
        deals = [opened(account, take_profit="110") for _ in range(5)]
        settle([due(deal, "110") for deal in deals], started_at=NOON)
        settlement = Settlement.objects.get()
        assert (settlement.closed_count, settlement.started_at) == (5, NOON)
        told = sorted(Notification.objects.values_list("pk", flat=True))
        assert (settlement.first_notification_id, settlement.last_notification_id) == (told[0], told[-1])
        assert set(Deal.objects.values_list("settlement_id", flat=True)) == {settlement.pk}

    def test_pays_two_deals_of_one_account_and_one_of_another(self, account: Account) -> None:
        other = new_account()
        # 99.5 and −100 for one (1000 × ±0.1, commission 0.5); 2 × 50 / 100 × 10 … for the other: 20 × 0.1 − 0.01 = 1.99
        deals = [
            opened(account, take_profit="110"),
            opened(account, direction="down", stop_loss="110"),
            opened(other, amount="20", multiplier=1, take_profit="110"),
        ]
        settle([due(deal, "110") for deal in deals])
        assert money_of(account) == (D("9999.5"), D(0))
        assert money_of(other) == (D("10001.99"), D(0))

    def test_keeps_the_statistics_of_each_account(self, account: Account) -> None:
        # profits: 1000 × 0.1 − 0.5 = 99.5; 1000 × −0.1 − 0.5 = −100 (cut off); 200 × 0.1 − 0.1 = 19.9
        first = [
            opened(account, take_profit="110"),
            opened(account, direction="down", stop_loss="110"),
            opened(account, amount="50", multiplier=4, take_profit="110"),
        ]
        settle([due(deal, "110") for deal in first])
        account.refresh_from_db()
        assert (account.closed_deals, account.winning_deals) == (3, 2)
        assert (account.total_amount, account.total_volume) == (D(250), D(2200))
        assert (account.largest_profit, account.largest_loss) == (D("99.5"), D(-100))

        # 100 × 3 = 300: 300 × 0.5 − 0.15 = 149.85
        settle([due(opened(account, multiplier=3, take_profit="150"), "150")])
        account.refresh_from_db()
        assert (account.closed_deals, account.winning_deals) == (4, 3)
        assert (account.total_amount, account.total_volume) == (D(350), D(2500))
        assert (account.largest_profit, account.largest_loss) == (D("149.85"), D(-100))

    def test_only_losses_leave_the_largest_profit_at_zero_and_only_profits_the_largest_loss(self) -> None:
        loser, winner = new_account(), new_account()
        settle([due(opened(loser, stop_loss="99"), "99"), due(opened(winner, take_profit="101"), "101")])
        loser.refresh_from_db()
        winner.refresh_from_db()
        # 1000 × ∓0.01 − 0.5
        assert (loser.largest_profit, loser.largest_loss) == (D(0), D("-10.5"))
        assert (winner.largest_profit, winner.largest_loss) == (D("9.5"), D(0))

    def test_other_deals_and_accounts_stay_as_they_are(self, account: Account) -> None:
        bystander = opened(new_account(), take_profit="110")
        sibling = opened(account, take_profit="110")
        before = facts(bystander, sibling)
        settle([due(opened(account, take_profit="110"), "110")])
        assert facts(bystander, sibling) == before


class TestTheLog:
    """Every deal by its number, in as many lines as there are different closings."""

    def test_names_a_single_deal_with_what_it_made(self, account: Account) -> None:
        deal = opened(account, take_profit="110")
        with capture_logs() as lines:
            settle([due(deal, "110.5")])
        # 1000 × 0.105 − 0.5
        assert [(line["event"], line["deal_id"], line["price"], line["profit"]) for line in lines] == [
            ("deal.closed", deal.pk, "110.5", "104.5")
        ]
        assert (lines[0]["symbol"], lines[0]["reason"], lines[0]["detector"]) == (SYMBOL, "take_profit", "tick")

    def test_names_all_that_closed_alike_in_one_line_with_their_sum(self, account: Account) -> None:
        alike = [opened(account, take_profit="110") for _ in range(3)]
        loser = opened(account, direction="down", stop_loss="110")
        with capture_logs() as lines:
            settle([due(deal, "110") for deal in (*alike, loser)])
        # 3 × (1000 × 0.1 − 0.5)
        assert [(line.get("deal_ids"), line["reason"], line["profit"]) for line in lines] == [
            ([deal.pk for deal in alike], "take_profit", "298.5"),
            (None, "stop_loss", "-100"),
        ]
        assert (lines[0]["deals"], lines[1]["deal_id"]) == (3, loser.pk)
        assert lines[0]["latency_ms"] > 0

    def test_names_what_did_not_close_and_why(self, account: Account) -> None:
        gone = [opened(account, take_profit="110") for _ in range(2)]
        changed = opened(account, take_profit="110")
        settle([due(deal, "110") for deal in gone])
        with capture_logs() as lines:
            settle([*(due(deal, "110") for deal in gone), due(changed, "105")])
        assert [(line["event"], line.get("deal_ids"), line.get("deal_id"), line["why"]) for line in lines] == [
            ("deal.skipped", [deal.pk for deal in gone], None, "not open any more"),
            ("deal.skipped", None, changed.pk, "changed since it fired"),
        ]


class TestAPoisonDeal:
    """Data that PostgreSQL refuses: alone it fails; the others of its batch close in the same call."""

    def test_whose_profit_overflows_fails_alone_wherever_it_stands(self, account: Account) -> None:
        rich = new_account("999999999999")
        good = [opened(account, price="0.001", take_profit="0.002", amount="1") for _ in range(10)]
        # 10^9 × 100 × 10^9 = 10^20, more than the 10^12 that numeric(20,8) holds
        poison = opened(rich, price="0.001", take_profit="0.002", amount="1000000000", multiplier=100)
        good += [opened(account, price="0.001", take_profit="0.002", amount="1") for _ in range(10)]
        before = facts(poison)

        report = settle([due(poison, "1000000"), *(due(deal, "0.002") for deal in good)])

        assert sorted(closed_ids(report)) == sorted(deal.pk for deal in good)
        (failure,) = report.failed
        assert failure.due.deal_id == poison.pk
        assert "overflow" in str(failure.error)
        assert facts(poison) == before
        assert poison.ledger.filter(kind="close").count() == poison.notifications.count() == 0
        assert money_of(rich) == (D("998999999999"), D(1_000_000_000))

    def test_beyond_50_digits_fails_alone(self, account: Account) -> None:
        good = opened(account, take_profit="110")
        poison = opened(account, take_profit="110")
        report = settle([due(poison, "1E+60"), due(good, "110")])
        assert closed_ids(report) == [good.pk]
        assert [failure.due.deal_id for failure in report.failed] == [poison.pk]

    @pytest.mark.parametrize("price", ["NaN", "sNaN", "Infinity", "-Infinity", "0", "-1"])
    def test_whose_price_is_none_fails_alone(self, account: Account, price: str) -> None:
        good = opened(account, take_profit="110")
        poison = opened(account, take_profit="110", stop_loss="90")
        report = settle([due(poison, price), due(good, "110")])
        assert closed_ids(report) == [good.pk]
        assert [failure.due.deal_id for failure in report.failed] == [poison.pk]

    @pytest.mark.parametrize(
        "bad", [{"detector": "oracle"}, {"detector": "far too long a name"}, {"detector": "a\0b"}, {"trade_id": 2**63}]
    )
    def test_with_a_fact_the_table_refuses_fails_alone(self, account: Account, bad: dict[str, Any]) -> None:
        good = opened(account, take_profit="110")
        poison = opened(account, take_profit="110")
        report = settle([due(good, "110"), due(poison, "110")._replace(**bad)])
        assert closed_ids(report) == [good.pk]
        assert [failure.due.deal_id for failure in report.failed] == [poison.pk]

    def test_and_another_one_both_fail_and_the_rest_closes(self, account: Account) -> None:
        deals = [opened(account, take_profit="110", amount="10") for _ in range(16)]
        poisoned = {deals[3].pk, deals[4].pk, deals[15].pk}
        report = settle(
            [due(deal, "110")._replace(detector="oracle" if deal.pk in poisoned else "tick") for deal in deals]
        )
        assert {failure.due.deal_id for failure in report.failed} == poisoned
        assert set(closed_ids(report)) == {deal.pk for deal in deals} - poisoned

    def test_that_is_second_to_overflow_an_account_fails_and_the_first_is_paid(self) -> None:
        # 400 × 10^9 free, 100 × 10^9 locked twice; each wins three times as much: 1,200 × 10^9 would be too much.
        rich = new_account("600000000000")
        first, second = (
            opened(rich, amount="100000000000", multiplier=1, take_profit="200", price="100") for _ in range(2)
        )
        report = settle([due(first, "400"), due(second, "400")])
        assert closed_ids(report) == [first.pk]
        assert [failure.due.deal_id for failure in report.failed] == [second.pk]

    def test_leaves_one_settlement_row_for_each_part_that_closed(self, account: Account) -> None:
        deals = [opened(account, take_profit="110") for _ in range(4)]
        settle([due(deal, "110")._replace(detector="oracle" if deal is deals[0] else "tick") for deal in deals])
        counts = sorted(Settlement.objects.values_list("closed_count", flat=True))
        assert counts == [1, 2]


class TestExactlyOnceInTheDatabase:
    def test_a_posting_that_exists_makes_the_closure_fail_and_changes_nothing(self, account: Account) -> None:
        deal = opened(account, take_profit="110")
        before = facts(deal)
        with transaction.atomic():
            LedgerEntry.objects.create(account=account, deal=deal, kind="close", amount=0, created_at=NOON)
            report = settle([due(deal, "110")])
            transaction.set_rollback(True)
        assert report.closed == []
        assert isinstance(report.failed[0].error, IntegrityError)
        assert facts(deal) == before


@pytest.mark.django_db(transaction=True)
class TestTheTimeOfTheCommit:
    def test_is_postgresqls_own(self) -> None:
        account = new_account()
        deals = [opened(account, take_profit="110") for _ in range(3)]
        settle([due(deal, "110") for deal in deals])
        assert self.distances_ms() == [0, 0, 0]
        deal = Deal.objects.select_related("settlement").latest("pk")
        assert deal.settlement is not None
        assert deal.settlement.committed_at is not None
        assert deal.started_at <= deal.closed_at <= deal.settlement.committed_at  # type: ignore[operator]

    def test_is_that_of_the_whole_transaction_when_a_poison_deal_split_the_batch(self) -> None:
        account = new_account()
        deals = [opened(account, take_profit="110") for _ in range(4)]
        settle([due(deal, "110")._replace(detector="oracle" if deal is deals[0] else "tick") for deal in deals])
        assert self.distances_ms() == [0, 0, 0]
        assert Settlement.objects.values("committed_at").distinct().count() == 1

    def test_is_left_open_when_it_cannot_be_written_and_the_closure_counts(self) -> None:
        deal = opened(new_account(), take_profit="110")
        with settlements_that_time_out():
            report = settle([due(deal, "110")])
        assert closed_ids(report) == [deal.pk]
        assert Settlement.objects.get().committed_at is None

    @staticmethod
    def distances_ms() -> list[float]:
        """Of each closed deal: what was written down, less the commit time that PostgreSQL keeps of its row."""
        with connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT abs(extract(epoch FROM committed_at - pg_xact_commit_timestamp(deals.xmin)) * 1000)::float
                FROM deals JOIN settlements ON settlements.id = settlement_id
                """
            )
            return [row[0] for row in cursor.fetchall()]
