"""Who tells a user of a closure: the worker that settled it, else the sweep; both in the same words, once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import redis
from django.db import transaction
from market import Market, messages
from redis.exceptions import RedisError
from sweeping import swept

from deals.models import Account, Notification
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
    return list(Notification.objects.filter(published_at=None).order_by("pk").values_list("pk", flat=True))


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
        Notification.objects.update(published_at=None)  # a crash of PostgreSQL lost the mark
        assert swept(clock).published == 2
        by_sweep = messages(pubsub)
    assert [message["closeReason"] for message in by_worker] == ["take_profit", "stop_loss"]
    assert [message["closePrice"] for message in by_worker] == ["110.5", "110.5"]
    assert by_worker == by_sweep


def test_a_worker_leaves_out_what_was_told_already(
    market: Market, trader: Account, clock: TapeClock, redis_client: redis.Redis
) -> None:
    closed = just_closed(market, trader, deals=3)
    assert announce.publish_notifications([closed[1].deal_id]) == 1
    with redis_client.pubsub() as pubsub:
        pubsub.subscribe(keys.notifications(trader.user_id))
        assert [announce.publish_settled(closed), announce.publish_settled(closed)] == [2, 0]
        heard = messages(pubsub)
    assert [message["id"] for message in heard] == numbers([closed[0], closed[2]])
    assert swept(clock).published == 0


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
