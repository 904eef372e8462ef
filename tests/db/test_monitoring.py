"""Monitoring of open deals: armed, removed, put back, expired, dead, none."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from domain import NOON, due, new_account, opened, quote

from deals import services
from deals.errors import Conflict, DealError, NotFound
from deals.models import Account, Deal, Notification
from deals.queries import expiring_ids, pending_rows, watch_rows, watched_after
from deals.settlement import settle
from deals.sql import statement

D = Decimal
DAY = timedelta(hours=24)
pytestmark = pytest.mark.django_db


@pytest.fixture
def account() -> Account:
    return new_account()


@pytest.fixture
def deal(account: Account) -> Deal:
    return opened(account, take_profit="110", now=NOON)


def run(name: str, **arguments: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement(name), arguments)
        return cursor.fetchall() if cursor.description else []


def mark_armed(*deals: Deal, by: int = 0) -> None:
    """As the book confirms it: these deals at these versions."""
    run(
        "mark_armed",
        ids=[deal.pk for deal in deals],
        versions=[deal.watch_version + by for deal in deals],
        now=NOON + timedelta(seconds=1),
    )


def expire(*deals: Deal, now: datetime) -> list[int]:
    return [row[0] for row in run("expire_monitoring", ids=[deal.pk for deal in deals], now=now)]


def state_of(deal: Deal) -> tuple[str, int]:
    deal.refresh_from_db()
    return deal.monitoring, deal.watch_version


def kinds(deal: Deal) -> list[str]:
    return list(deal.events.order_by("pk").values_list("kind", flat=True))


def told(deal: Deal) -> list[tuple[str, int]]:
    return list(Notification.objects.filter(deal=deal).order_by("pk").values_list("kind", "version"))


class TestArming:
    def test_what_the_book_holds_is_armed_and_its_history_says_so(self, deal: Deal) -> None:
        mark_armed(deal)
        assert state_of(deal) == ("armed", 1)
        assert kinds(deal) == ["opened", "armed"]
        assert deal.monitoring_since == NOON + timedelta(seconds=1)

    def test_doing_it_twice_changes_nothing(self, deal: Deal) -> None:
        mark_armed(deal)
        mark_armed(deal)
        assert kinds(deal) == ["opened", "armed"]

    @pytest.mark.parametrize("by", [-1, 1])
    def test_another_version_in_the_book_arms_nothing(self, deal: Deal, by: int) -> None:
        mark_armed(deal, by=by)
        assert state_of(deal) == ("pending", 1)

    def test_what_is_removed_or_closed_meanwhile_stays_so(self, account: Account, deal: Deal) -> None:
        closed = opened(account, take_profit="110")
        settle([due(closed, "110")])
        services.remove_from_monitoring(deal_id=deal.pk)
        deal.refresh_from_db()
        mark_armed(deal, closed)
        assert state_of(deal) == ("removed", 2)
        assert state_of(closed) == ("ended", 1)


class TestRemoving:
    def test_ends_monitoring_for_good_and_tells_the_user(self, deal: Deal) -> None:
        services.remove_from_monitoring(deal_id=deal.pk, now=NOON + timedelta(minutes=1))
        assert state_of(deal) == ("removed", 2)
        assert deal.monitoring_since == NOON + timedelta(minutes=1)
        assert kinds(deal) == ["opened", "removed"]
        assert told(deal) == [("monitoring_removed", 2)]
        assert (deal.take_profit, deal.upper_trigger, deal.status) == (D(110), D(110), "open")

    def test_twice_changes_nothing_and_tells_once(self, deal: Deal) -> None:
        services.remove_from_monitoring(deal_id=deal.pk)
        services.remove_from_monitoring(deal_id=deal.pk)
        assert state_of(deal) == ("removed", 2)
        assert told(deal) == [("monitoring_removed", 2)]

    def test_what_had_fired_does_not_close_any_more(self, deal: Deal) -> None:
        fired = due(deal, "110")
        services.remove_from_monitoring(deal_id=deal.pk)
        assert settle([fired]).changed == [deal.pk]

    @pytest.mark.parametrize("monitoring", ["pending", "armed", "expired", "dead"])
    def test_is_possible_from_every_other_state(self, deal: Deal, monitoring: str) -> None:
        Deal.objects.filter(pk=deal.pk).update(monitoring=monitoring)
        assert services.remove_from_monitoring(deal_id=deal.pk).monitoring == "removed"


class TestPuttingBack:
    @pytest.mark.parametrize("ended", ["removed", "expired", "dead"])
    def test_watches_again_from_the_quote_on_for_another_day(self, deal: Deal, ended: str) -> None:
        Deal.objects.filter(pk=deal.pk).update(monitoring=ended)
        later = NOON + timedelta(hours=30)
        # The price is beyond the trigger already: it is the next tick there that closes it, not this quote.
        services.add_to_monitoring(deal_id=deal.pk, quote=quote("115", seq=500, at=later), now=later)
        assert state_of(deal) == ("pending", 2)
        assert (deal.watched_from_seq, deal.watched_from_at) == (500, later)
        assert deal.watch_expires_at == later + DAY
        assert deal.upper_trigger == D(110)

    @pytest.mark.parametrize("watched", ["pending", "armed"])
    def test_what_is_watched_is_left_as_it_is(self, deal: Deal, watched: str) -> None:
        Deal.objects.filter(pk=deal.pk).update(monitoring=watched)
        services.add_to_monitoring(deal_id=deal.pk, quote=quote(seq=500))
        assert state_of(deal) == (watched, 1)
        assert deal.watched_from_seq == 1

    def test_and_removing_again_tells_the_user_again(self, deal: Deal) -> None:
        services.remove_from_monitoring(deal_id=deal.pk)
        services.add_to_monitoring(deal_id=deal.pk, quote=quote())
        services.remove_from_monitoring(deal_id=deal.pk)
        assert told(deal) == [("monitoring_removed", 2), ("monitoring_removed", 4)]

    def test_needs_the_quote_of_its_symbol(self, deal: Deal) -> None:
        services.remove_from_monitoring(deal_id=deal.pk)
        with pytest.raises(DealError) as refused:
            services.add_to_monitoring(deal_id=deal.pk, quote=quote(symbol="ETHUSDT"))
        assert refused.value.code == "unknown_symbol"


class TestExpiry:
    def test_ends_monitoring_after_24_hours_and_tells_the_user(self, deal: Deal) -> None:
        assert expiring_ids(NOON + DAY, 10) == [deal.pk]
        assert expire(deal, now=NOON + DAY) == [deal.pk]
        assert state_of(deal) == ("expired", 2)
        assert deal.status == "open"
        assert kinds(deal) == ["opened", "expired"]
        assert told(deal) == [("monitoring_expired", 2)]
        assert settle([due(deal, "110", version=1)]).changed == [deal.pk]

    def test_not_a_moment_sooner(self, deal: Deal) -> None:
        early = NOON + DAY - timedelta(microseconds=1)
        assert expiring_ids(early, 10) == []
        assert expire(deal, now=early) == []
        assert state_of(deal) == ("pending", 1)

    def test_twice_tells_once(self, deal: Deal) -> None:
        assert expire(deal, now=NOON + DAY) == [deal.pk]
        assert expire(deal, now=NOON + DAY) == []
        assert told(deal) == [("monitoring_expired", 2)]

    def test_what_was_amended_removed_or_closed_meanwhile_does_not_expire(self, account: Account, deal: Deal) -> None:
        closed, removed = opened(account, take_profit="110", now=NOON), opened(account, take_profit="110", now=NOON)
        settle([due(closed, "110")])
        services.remove_from_monitoring(deal_id=removed.pk)
        later = NOON + timedelta(hours=1)
        services.amend_levels(
            user_id=account.user_id, deal_id=deal.pk, quote=quote(at=later), take_profit=D(120), now=later
        )
        assert expire(deal, closed, removed, now=NOON + DAY) == []
        assert expire(deal, now=later + DAY) == [deal.pk]


class TestGivingUp:
    def test_a_dead_deal_is_not_watched_and_its_user_is_told(self, deal: Deal) -> None:
        assert services.mark_dead(deal_id=deal.pk, version=1, error="numeric field overflow", now=NOON)
        assert state_of(deal) == ("dead", 2)
        assert told(deal) == [("monitoring_failed", 2)]
        assert deal.events.get(kind="dead").error == "numeric field overflow"
        assert settle([due(deal, "110")]).changed == [deal.pk]

    def test_twice_says_that_it_changed_and_tells_once(self, deal: Deal) -> None:
        assert services.mark_dead(deal_id=deal.pk, version=1, error="x")
        assert not services.mark_dead(deal_id=deal.pk, version=1, error="x")
        assert told(deal) == [("monitoring_failed", 2)]

    def test_not_when_the_deal_was_amended_or_closed_meanwhile(self, account: Account, deal: Deal) -> None:
        services.amend_levels(user_id=account.user_id, deal_id=deal.pk, quote=quote(), take_profit=D(120))
        assert not services.mark_dead(deal_id=deal.pk, version=1, error="x")
        settle([due(deal, "120", version=2)])
        assert not services.mark_dead(deal_id=deal.pk, version=2, error="x")
        assert state_of(deal) == ("ended", 2)

    def test_an_attempt_that_failed_is_in_the_history(self, deal: Deal) -> None:
        services.record_attempt(deal_id=deal.pk, version=1, price=D(110), error="numeric field overflow")
        attempt = deal.events.get(kind="attempt")
        assert (attempt.version, attempt.price, attempt.error) == (1, D(110), "numeric field overflow")


def change_monitoring(name: str, deal_id: int) -> Any:
    if name == "add":
        return services.add_to_monitoring(deal_id=deal_id, quote=quote())
    return services.remove_from_monitoring(deal_id=deal_id)


@pytest.mark.parametrize("name", ["add", "remove"])
class TestARefusedChange:
    def test_of_a_closed_deal(self, deal: Deal, name: str) -> None:
        settle([due(deal, "110")])
        with pytest.raises(Conflict) as refused:
            change_monitoring(name, deal.pk)
        assert refused.value.code == "deal_closed"
        assert state_of(deal) == ("ended", 1)

    def test_of_a_deal_without_levels(self, account: Account, name: str) -> None:
        deal = opened(account)
        with pytest.raises(DealError) as refused:
            change_monitoring(name, deal.pk)
        assert refused.value.code == "no_levels"
        assert state_of(deal) == ("none", 1)

    def test_of_an_unknown_deal(self, name: str) -> None:
        with pytest.raises(NotFound):
            change_monitoring(name, 0)


class TestWhatTheBookReads:
    def test_pending_deals_oldest_first_and_no_others(self, account: Account, deal: Deal) -> None:
        second, armed, removed = (opened(account, take_profit="110") for _ in range(3))
        opened(account)  # no levels
        mark_armed(armed)
        services.remove_from_monitoring(deal_id=removed.pk)
        assert [row.id for row in pending_rows(10)] == [deal.pk, second.pk]
        assert [row.id for row in pending_rows(1)] == [deal.pk]

    def test_watched_deals_range_by_range(self, account: Account, deal: Deal) -> None:
        second, third = (opened(account, take_profit="110") for _ in range(2))
        mark_armed(second)
        settle([due(third, "110")])
        assert [row.id for row in watched_after(0, 1)] == [deal.pk]
        assert [row.id for row in watched_after(deal.pk, 10)] == [second.pk]
        assert watched_after(second.pk, 10) == []

    def test_rows_in_key_order_whatever_their_state(self, account: Account, deal: Deal) -> None:
        down = opened(account, direction="down", take_profit="90", stop_loss="110", seq=7)
        settle([due(deal, "110")])
        rows = watch_rows([down.pk, deal.pk])
        assert [(row.id, row.monitoring) for row in rows] == [(deal.pk, "ended"), (down.pk, "pending")]
        assert (rows[1].upper_trigger, rows[1].lower_trigger) == (D(110), D(90))
        assert (rows[1].direction, rows[1].watch_version, rows[1].watched_from_seq) == ("down", 1, 7)


def test_after_a_stop_deals_are_watched_from_the_current_price_on_except_what_had_fired(account: Account) -> None:
    deal, fired, newer, removed = (opened(account, take_profit="110", seq=seq) for seq in (1, 1, 99, 1))
    other = opened(account, take_profit="110", symbol="ETHUSDT")
    services.remove_from_monitoring(deal_id=removed.pk)
    later = NOON + timedelta(hours=1)
    run("watch_from_now", symbols=["BTCUSDT"], seqs=[50], ats=[later], fired=[fired.pk])
    seqs = dict(Deal.objects.values_list("pk", "watched_from_seq"))
    assert seqs == {deal.pk: 50, fired.pk: 1, newer.pk: 99, removed.pk: 1, other.pk: 1}
    deal.refresh_from_db()
    assert deal.watched_from_at == later
