"""What the sweep does beside finding: it arms, sends again, ends monitoring, publishes, sees a lost book."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import redis
from django.conf import settings as django_settings
from market import BTC, NOT_IN_BOOK, Market, in_book, lose_from_book, messages, say_state
from sweeping import close_what_fired, current_quote, other_session, pending_deal, swept

from deals import services
from deals.models import Account, Deal, Monitoring, Notification
from deals.settlement import settle
from workers import book, keys, queues, system
from workers.clock import TapeClock, to_datetime
from workers.dispatch import send_closures
from workers.redis_client import connect

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
    quote = current_quote(market)
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
    assert (deal.close_price, deal.detector) == (Decimal(110), "sweep")  # it looks at its last bucket once more


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
    services.add_to_monitoring(deal_id=deal.pk, quote=current_quote(market))
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
            other.execute("SELECT 1 FROM settlements FOR NO KEY UPDATE")
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
