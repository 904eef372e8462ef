"""The sweep on real servers: it finds what the book has lost and nothing else, re-sends, arms, ends monitoring."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import psycopg
import pytest
import redis
from django.conf import settings as django_settings
from django.db import connection
from domain import new_account
from market import BTC, ETH, NOT_IN_BOOK, Market, in_book, lose_from_book, messages, say_state

from deals import services
from deals.models import Account, Deal, Monitoring, Notification
from deals.settlement import settle
from workers import book, keys, queues, sweep, system, windows
from workers.clock import TapeClock, to_datetime
from workers.dispatch import send_closures
from workers.models import SweepPosition
from workers.redis_client import connect
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


@contextlib.contextmanager
def other_session() -> Iterator[psycopg.Connection[Any]]:
    facts = connection.get_connection_params()
    with psycopg.connect(
        **{name: facts[name] for name in ("dbname", "user", "password", "host", "port") if facts.get(name)}
    ) as other:
        yield other


# --- finding ----------------------------------------------------------------------------------------------------


def test_a_healthy_system_has_nothing_to_find(market: Market, trader: Account, clock: TapeClock) -> None:
    market.tick("100")
    deals = [market.open(trader, take_profit="110", stop_loss="90") for _ in range(3)]
    for step, price in enumerate(["105", "95", "111", "100", "89"]):
        clock.set(clock.now_ms() + 300 * step)
        market.tick(price)
        assert swept(clock).found == 0
    assert sorted(close_what_fired()) == [deal.pk for deal in deals]
    assert swept(clock).found == 0
    assert {deal.close_price for deal in Deal.objects.all()} == {Decimal(111)}


def test_a_lost_deal_closes_at_the_last_price_if_it_still_lies_beyond(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    lose_from_book(deal)
    assert market.tick("115", "112.50", trade_id=7) == []
    report = swept(clock)
    assert (report.found, report.found_ids) == (1, [deal.pk])
    fired = book.all_fired()[deal.pk]
    assert (fired.price, fired.trade_id, fired.detector, fired.version) == ("112.50", 8, "sweep", 1)
    assert queues.depth("closures") == 1
    assert close_what_fired() == [deal.pk]
    deal.refresh_from_db()
    assert (deal.close_price, deal.close_reason, deal.detector) == (Decimal("112.5"), "take_profit", "sweep")


@pytest.mark.parametrize(("direction", "level"), [("up", "stop_loss"), ("down", "take_profit")])
def test_a_lost_deal_closes_at_its_trigger_when_the_price_has_come_back(
    market: Market, trader: Account, clock: TapeClock, direction: str, level: str
) -> None:
    market.tick("100")
    terms: dict[str, Any] = {"direction": direction, level: "90"}
    deal = market.open(trader, **terms)
    lose_from_book(deal)
    market.tick("85", "101", trade_id=7)
    assert swept(clock).found == 1
    assert book.all_fired()[deal.pk].trade_id is None
    close_what_fired()
    deal.refresh_from_db()
    assert (deal.close_price, deal.close_reason, deal.close_trade_id) == (Decimal(90), level, None)


def test_stop_loss_wins_when_a_lost_deal_was_crossed_on_both_sides(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110", stop_loss="90")
    lose_from_book(deal)
    market.tick("111", "89", "100")
    assert swept(clock).found == 1
    assert book.all_fired()[deal.pk].price == "90"


def test_what_has_fired_or_was_closed_is_not_found(market: Market, trader: Account, clock: TapeClock) -> None:
    market.tick("100")
    waiting, closed, by_hand = (market.open(trader, take_profit="110") for _ in range(3))
    market.tick("111", "120")
    settle([book.all_fired()[closed.pk].due()])
    book.clear_fired([(closed.pk, 1)])
    services.close_deal(deal_id=by_hand.pk, quote=_quote(market))
    report = swept(clock)
    assert (report.found, report.resent) == (0, 0)
    assert book.all_fired()[waiting.pk].price == "111"
    assert queues.depth("closures") == 0


def _quote(market: Market, symbol: str = BTC) -> Any:
    from workers.prices import RedisQuoteBoard

    return RedisQuoteBoard(market.clock).quote(symbol)


def test_what_is_settled_while_the_sweep_looks_is_not_found(market: Market, trader: Account, clock: TapeClock) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    [fired] = market.tick("111")
    settle([fired.due()])
    book.clear_fired([(deal.pk, 1)])
    # The sweep had read the row while it was open; its other half comes now.
    found = book.fire_found([fired._replace(detector="sweep")], now_ms=clock.now_ms())
    assert found is not None
    assert sweep._without_settled(found) == []
    assert book.all_fired() == {}


def test_only_prices_after_the_watch_began_count(market: Market, trader: Account, clock: TapeClock) -> None:
    market.tick("100", "120")
    market.tick("105")
    deal = market.open(trader, take_profit="110")
    lose_from_book(deal)
    market.tick("106")
    assert swept(clock).found == 0
    market.tick("109")
    amended = market.amend(deal, take_profit="109.5")
    lose_from_book(amended)
    market.tick("109.4")
    assert swept(clock).found == 0
    market.tick("109.5")
    assert swept(clock).found_ids == [deal.pk]


def test_a_sweep_that_was_away_finds_what_happened_in_closed_buckets(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    lose_from_book(deal)
    swept(clock)
    for price in ("101", "150", "102", "103"):
        clock.set(clock.now_ms() + 5_000)
        market.tick(price)
    assert swept(clock).found_ids == [deal.pk]
    assert book.all_fired()[deal.pk].price == "110"


def test_the_position_moves_on_only_with_what_was_found_in_fired(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    swept(clock)
    before = position()
    lose_from_book(deal)
    market.tick("111", "101")
    client: Any = connect()
    client.delete(keys.state())
    # Redis has forgotten the state after the sweep looked at it: nothing can fire.
    assert sweep._find(clock, SweepReport()) == []
    assert (position(), book.all_fired()) == (before, {})
    assert swept(clock).found_ids == [deal.pk]
    assert position() == market.seq() > before
    assert swept(clock).found == 0


def test_more_than_fit_one_page_are_found_behind_a_backlog_of_fired_ones(
    market: Market, trader: Account, clock: TapeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "FOUND_LIMIT", 3)
    market.tick("100")
    deals = [market.open(trader, take_profit="110") for _ in range(10)]
    for lost in deals[7:]:
        lose_from_book(lost)
    assert len(market.tick("111")) == 7
    assert swept(clock).found_ids == [deal.pk for deal in deals[7:]]
    assert position() == market.seq()


def test_a_stale_symbol_waits_and_others_do_not(market: Market, clock: TapeClock) -> None:
    market.tick("100")
    market.tick("50", symbol=ETH)
    deals = [market.open(new_account(), take_profit="110", symbol=symbol) for symbol in (BTC, ETH)]
    swept(clock)
    for deal in deals:
        lose_from_book(deal)
    market.tick("111", "101")
    clock.set(clock.now_ms() + 10_000)
    market.tick("111", symbol=ETH)
    before = position()
    assert swept(clock).found_ids == [deals[1].pk]
    assert position() == before
    market.tick("102")
    assert swept(clock).found_ids == [deals[0].pk]
    assert book.all_fired()[deals[0].pk].price == "110"


@pytest.mark.parametrize("state", ["stopped", "draining", "halted"])
def test_a_system_that_does_not_run_is_not_swept(
    market: Market, trader: Account, clock: TapeClock, settings: Any, state: str
) -> None:
    from deals import state as system_state

    market.tick("100")
    lost, pending = market.open(trader, take_profit="110"), pending_deal(market, trader, settings, take_profit="120")
    lose_from_book(lost)
    market.tick("111")
    system_state.change(system_state.State(state), "test")
    report = swept(clock)
    assert (report.found, report.armed, book.all_fired()) == (0, 0, {})
    pending.refresh_from_db()
    assert pending.monitoring == Monitoring.PENDING
    client: Any = connect()
    assert client.get(keys.state()).endswith(f":{state}")


def test_two_sweeps_at_once_are_one(market: Market, trader: Account, clock: TapeClock) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    lose_from_book(deal)
    market.tick("111")
    with other_session() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [sweep.SWEEP_LOCK])
        report = sweep.sweep(clock=clock)
        assert report.skipped
        assert (report.found, report.armed, report.resent) == (0, 0, 0)
        assert book.all_fired() == {}
    assert swept(clock).found == 1


def test_a_sweep_that_fails_leaves_no_lock_behind(market: Market, clock: TapeClock, settings: Any) -> None:
    client: Any = connect()
    client.set(keys.fired_at(), "not a sorted set")
    with pytest.raises(redis.ResponseError):
        sweep.sweep(clock=clock)
    client.delete(keys.fired_at())
    with other_session() as other:
        row = other.execute("SELECT pg_try_advisory_lock(%s)", [sweep.SWEEP_LOCK]).fetchone()
    assert row == (True,)


# --- arming what is pending -------------------------------------------------------------------------------------


def test_a_pending_deal_is_armed(market: Market, trader: Account, clock: TapeClock, settings: Any) -> None:
    market.tick("100")
    deal = pending_deal(market, trader, settings, take_profit="110", stop_loss="90")
    report = swept(clock)
    assert (report.armed, report.found) == (1, 0)
    deal.refresh_from_db()
    assert deal.monitoring == Monitoring.ARMED
    assert in_book(deal.pk) == (110.0, 90.0, "1")
    assert list(deal.events.values_list("kind", flat=True)) == ["opened", "armed"]
    assert swept(clock).armed == 0


def test_a_pending_deal_that_was_crossed_is_found_and_closes_at_its_trigger(
    market: Market, trader: Account, clock: TapeClock, settings: Any
) -> None:
    market.tick("100")
    deal = pending_deal(market, trader, settings, take_profit="110")
    market.tick("115", "101")
    assert swept(clock).found == 0  # no alarm: the book never had it
    assert close_what_fired() == [deal.pk]
    deal.refresh_from_db()
    assert deal.close_price == Decimal(110)


def test_a_crossing_that_the_sweep_passed_before_the_deal_was_committed_is_not_lost(
    market: Market, trader: Account, clock: TapeClock, settings: Any
) -> None:
    market.tick("100")
    quote = _quote(market)
    market.tick("115", "101")
    swept(clock)  # passes these prices before the row exists
    settings.STATIC_ONLY = True
    deal = services.open_deal(
        user_id=trader.user_id, symbol=BTC, direction="up", amount=Decimal(10), multiplier=1, quote=quote,
        take_profit=Decimal(110),
    )  # fmt: skip
    settings.STATIC_ONLY = False
    clock.set(clock.now_ms() + 10_000)
    swept(clock)  # and may not judge them now: the price is stale
    deal.refresh_from_db()
    assert deal.monitoring == Monitoring.PENDING
    market.tick("102")
    swept(clock)
    assert close_what_fired() == [deal.pk]
    deal.refresh_from_db()
    assert (deal.close_price, deal.detector) == (Decimal(110), "arm")


# --- sending again ----------------------------------------------------------------------------------------------


def test_a_fired_deal_that_waits_is_sent_again_with_growing_intervals(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    market.tick("100")
    market.open(trader, take_profit="110")
    market.tick("111")
    start = clock.now_ms()
    sent_at = []
    for second in range(0, 200, 2):
        clock.set(start + second * 1_000)
        if swept(clock).resent:
            sent_at.append(second)
        purge()  # the message is lost
    gaps = [later - earlier for earlier, later in pairwise(sent_at)]
    assert sent_at[0] in {6, 8}  # after five seconds
    assert gaps == sorted(gaps)
    assert gaps[-1] > 50
    assert len(sent_at) <= 7


def purge() -> None:
    from celery import current_app

    with current_app.connection_for_write() as broker, broker.channel() as channel:
        channel.queue_purge("closures")


def test_nothing_is_sent_again_while_the_queue_still_holds_messages(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    send_closures(market.tick("111"))
    clock.set(clock.now_ms() + 59_000)
    assert swept(clock).resent == 0
    assert queues.depth("closures") == 1
    purge()
    assert swept(clock).resent == 1
    assert queues.depth("closures") == 1
    assert book.all_fired()[deal.pk].price == "111"


def test_what_has_waited_a_minute_is_sent_again_behind_any_backlog(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    market.tick("100")
    market.open(trader, take_profit="110")
    send_closures(market.tick("111"))
    clock.set(clock.now_ms() + 60_000)
    assert swept(clock).resent == 1
    assert queues.depth("closures") == 2


# --- the end of monitoring --------------------------------------------------------------------------------------


def test_monitoring_ends_after_its_time_and_the_user_is_told(
    market: Market, trader: Account, clock: TapeClock, redis_client: redis.Redis
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    assert swept(clock).expired == 0
    clock.set(clock.now_ms() + 24 * 3_600_000 + 1_000)
    with redis_client.pubsub() as pubsub:
        pubsub.subscribe(keys.notifications(trader.user_id))
        assert swept(clock).expired == 1
        heard = messages(pubsub)
    assert [(message["kind"], message["dealId"]) for message in heard] == [("monitoring_expired", deal.pk)]
    deal.refresh_from_db()
    assert (deal.status, deal.monitoring, deal.watch_version) == ("open", Monitoring.EXPIRED, 2)
    assert in_book(deal.pk) == NOT_IN_BOOK
    assert market.tick("200") == []
    report = swept(clock)
    assert (report.expired, report.found, report.published) == (0, 0, 0)
    assert Notification.objects.filter(deal=deal).count() == 1


def test_a_deal_that_fired_just_before_its_time_ran_out_closes(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    market.tick("100")
    fired, lost, quiet = (market.open(trader, take_profit=level) for level in ("110", "111", "150"))
    lose_from_book(lost)
    market.tick("112")
    Deal.objects.update(watch_expires_at=to_datetime(clock.now_ms() - 1))
    assert swept(clock).expired == 1
    assert sorted(close_what_fired()) == [fired.pk, lost.pk]
    quiet.refresh_from_db()
    assert quiet.monitoring == Monitoring.EXPIRED


def test_an_expired_deal_is_watched_again_when_it_is_armed_again(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    Deal.objects.update(watch_expires_at=to_datetime(clock.now_ms() - 1))
    swept(clock)
    market.tick("120", "100")
    services.add_to_monitoring(deal_id=deal.pk, quote=_quote(market))
    deal.refresh_from_db()
    assert (deal.monitoring, deal.watch_version) == (Monitoring.ARMED, 3)
    assert deal.watch_expires_at is not None
    lifetime = deal.watch_expires_at - to_datetime(clock.now_ms())
    assert lifetime > timedelta(hours=django_settings.MAX_MONITORING_H) - timedelta(minutes=5)
    assert swept(clock).found == 0
    assert [item.version for item in market.tick("110")] == [3]


# --- the rest ---------------------------------------------------------------------------------------------------


def test_what_was_not_published_is_published_once(
    market: Market, trader: Account, clock: TapeClock, redis_client: redis.Redis
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    settle([fired.due() for fired in market.tick("111")])  # the worker died after its commit
    with redis_client.pubsub() as pubsub:
        pubsub.subscribe(keys.notifications(trader.user_id))
        with other_session() as other:  # someone is publishing it at this moment
            other.execute("SELECT 1 FROM notifications FOR NO KEY UPDATE")
            assert swept(clock).published == 0
        assert swept(clock).published == 1
        assert swept(clock).published == 0
        heard = messages(pubsub)
    assert [(message["kind"], message["dealId"], message["closePrice"]) for message in heard] == [
        ("deal_closed", deal.pk, "111")
    ]


def test_a_book_of_another_run_of_redis_is_reported(market: Market, clock: TapeClock) -> None:
    assert swept(clock).book_lost
    connect().set(keys.book_epoch(), system.server_run_id())
    assert not swept(clock).book_lost
    say_state("running", version=1)
