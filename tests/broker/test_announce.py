"""Who tells a user of a closure: the worker that settled it, else the sweep; both in the same words, once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import redis
from django.db import connection, transaction
from django.db.models import F
from market import Market, messages
from redis.exceptions import RedisError
from sweeping import other_session, swept

from deals.models import Account, Notification, Settlement
from deals.queries import notifications
from deals.settlement import Closure, settle
from workers import announce, keys
from workers.clock import TapeClock
from workers.redis_client import connect
from workers.tasks import close_deals


def just_closed(market: Market, trader: Account, deals: int) -> list[Closure]:
    """Deals that were settled and not announced yet."""
    market.tick("100")
    for _ in range(deals):
        market.open(trader, take_profit="110")
    return settle([fired.due() for fired in market.tick("111")]).closed


def waiting() -> list[int]:
    """The notifications that are still to be told."""
    return list(notifications().filter(told_at=None).order_by("pk").values_list("pk", flat=True))


def numbers(closures: Sequence[Closure]) -> list[int]:
    return [closure.notification_id for closure in closures]


def test_a_worker_and_the_sweep_tell_a_closure_in_the_same_words(
    market: Market, trader: Account, clock: TapeClock, redis_client: redis.Redis
) -> None:
    market.tick("100")
    market.open(trader, take_profit="110")
    market.open(trader, direction="down", stop_loss="110.5")
    fired = market.tick("110.50")
    with redis_client.pubsub() as pubsub:
        pubsub.subscribe(keys.notifications(trader.user_id))
        assert close_deals([[item.deal_id, item.entry] for item in fired]) == 2
        by_worker = messages(pubsub)
        assert swept(clock).published == 0
        Settlement.objects.update(told_at=None)  # a crash of PostgreSQL lost the mark
        assert swept(clock).published == 2
        by_sweep = messages(pubsub)
    assert [message["closeReason"] for message in by_worker] == ["take_profit", "stop_loss"]
    assert [message["closePrice"] for message in by_worker] == ["110.5", "110.5"]
    assert by_worker == by_sweep


def test_a_worker_leaves_out_what_was_told_already(
    market: Market, trader: Account, clock: TapeClock, redis_client: redis.Redis
) -> None:
    first, second = just_closed(market, trader, deals=3), just_closed(market, trader, deals=2)
    assert announce.publish_notifications([first[1].deal_id]) == 3, "the whole settlement"
    with redis_client.pubsub() as pubsub:
        pubsub.subscribe(keys.notifications(trader.user_id))
        both = [*first, *second]
        assert [announce.publish_settled(both), announce.publish_settled(both)] == [2, 0]
        heard = messages(pubsub)
    assert [message["id"] for message in heard] == numbers(second)
    assert swept(clock).published == 0


def test_a_worker_leaves_a_settlement_that_is_being_told_to_who_tells_it(
    market: Market, trader: Account, redis_client: redis.Redis
) -> None:
    closed = just_closed(market, trader, deals=2)
    with other_session() as other:
        other.execute("SELECT 1 FROM settlements FOR NO KEY UPDATE")
        assert announce.publish_settled(closed) == 0
    assert waiting() == numbers(closed)


def test_the_sweep_tells_settlements_whose_notifications_have_mixed_numbers(
    market: Market, trader: Account, clock: TapeClock, redis_client: redis.Redis
) -> None:
    first, second = just_closed(market, trader, deals=3), just_closed(market, trader, deals=3)
    own = [*numbers(first), *numbers(second)]
    mixed = dict(zip(own, [own[0], own[2], own[4], own[1], own[3], own[5]], strict=True))
    with transaction.atomic():  # as two settlements that ran side by side take them
        for old, new in mixed.items():
            Notification.objects.filter(pk=old).update(id=-new)
        Notification.objects.update(id=-F("id"))
        for closed in (first, second):
            ids = [mixed[number] for number in numbers(closed)]
            ends = {"first_notification_id": min(ids), "last_notification_id": max(ids)}
            Settlement.objects.filter(pk=closed[0].settlement_id).update(**ends)
    with redis_client.pubsub() as pubsub:
        pubsub.subscribe(keys.notifications(trader.user_id))
        assert announce.publish_settled(second) == 3
        messages(pubsub)
        assert swept(clock).published == 3
        heard = messages(pubsub)
    assert [message["dealId"] for message in heard] == [closure.deal_id for closure in first]


def test_the_sweep_tells_the_oldest_settlements_first_and_not_too_many_at_once(
    market: Market, trader: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = [closure for _ in range(4) for closure in just_closed(market, trader, deals=2)]
    monkeypatch.setattr(announce, "PUBLISH_LIMIT", 3)
    assert announce.publish_notifications() == 4
    assert waiting() == numbers(closed[4:])
    assert [announce.publish_notifications(), announce.publish_notifications()] == [4, 0]


def eight_wait(market: Market, trader: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four settlements of two; published three at a time, which takes whole settlements: four."""
    for _ in range(4):
        just_closed(market, trader, deals=2)
    monkeypatch.setattr(announce, "PUBLISH_LIMIT", 3)


def test_one_sweep_tells_all_that_waits_after_an_outage(
    market: Market, trader: Account, clock: TapeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight_wait(market, trader, monkeypatch)
    assert swept(clock).published == 8
    assert waiting() == []


def test_a_sweep_tells_no_longer_than_it_may(
    market: Market, trader: Account, clock: TapeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight_wait(market, trader, monkeypatch)
    monkeypatch.setattr(announce, "PUBLISH_FOR_S", 0.0)
    assert [swept(clock).published, swept(clock).published, swept(clock).published] == [4, 4, 0]


def test_what_was_written_before_settlements_told_is_told_by_itself(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    just_closed(market, trader, deals=2)
    Notification.objects.update(settlement=None)
    Settlement.objects.update(first_notification_id=None, last_notification_id=None)
    assert [swept(clock).published, swept(clock).published] == [2, 0]
    assert waiting() == []


def test_telling_before_the_commit_time_is_written_keeps_it(market: Market, trader: Account) -> None:
    closed = just_closed(market, trader, deals=1)
    known = Settlement.objects.get().committed_at
    Settlement.objects.update(committed_at=None)  # whose process died before it could
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_xact_commit_timestamp(xmin) FROM settlements")
        (before,) = cursor.fetchone()
    announce.publish_settled(closed)
    assert known is not None
    assert Settlement.objects.get().committed_at == before


def test_what_a_worker_could_not_tell_is_told_by_the_sweep(
    market: Market, trader: Account, clock: TapeClock, settings: Any
) -> None:
    closed = just_closed(market, trader, deals=2)
    right, settings.REDIS_URL = settings.REDIS_URL, "redis://127.0.0.1:1/0"
    connect.cache_clear()
    try:
        with pytest.raises(RedisError):
            announce.publish_settled(closed)
    finally:
        settings.REDIS_URL = right
        connect.cache_clear()
    assert waiting() == numbers(closed)
    assert swept(clock).published == 2
    assert waiting() == []


def test_announcing_inside_a_transaction_is_refused_because_its_commit_may_be_lost(
    market: Market, trader: Account
) -> None:
    closed = just_closed(market, trader, deals=1)
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        announce.publish_settled(closed)
    assert waiting() == numbers(closed)
