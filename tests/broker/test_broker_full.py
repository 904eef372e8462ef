"""Redis at its memory limit: it refuses every write, and nothing that fired is lost or closed twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError as BrokerError
from market import Market
from redis.exceptions import RedisError

from deals.models import Account, Deal
from workers import book, queues, sweep
from workers.clock import TapeClock
from workers.dispatch import send_closures
from workers.tasks import close_deals

pytestmark = pytest.mark.faults


@pytest.fixture
def limit(redis_client: redis.Redis) -> Iterator[Callable[[str], Any]]:
    """Sets the limit of the run's Redis; without one afterwards."""
    yield lambda most: redis_client.config_set("maxmemory", most)
    redis_client.config_set("maxmemory", "0")


def test_what_fires_before_the_memory_is_full_closes_and_what_crosses_then_closes_later(
    market: Market, trader: Account, clock: TapeClock, limit: Callable[[str], Any]
) -> None:
    market.tick("100")
    first, second = market.open(trader, take_profit="110"), market.open(trader, take_profit="120")
    fired = market.tick("111")
    limit("1mb")
    with pytest.raises(BrokerError):
        send_closures(fired)
    with pytest.raises(RedisError):
        market.tick("121")
    with pytest.raises(RedisError):
        sweep.sweep(clock=clock)
    assert close_deals([[item.deal_id, item.entry] for item in fired]) == 1, "a message that came through is settled"
    assert book.all_fired() == {}, "to forget needs no memory"
    limit("0")
    assert [item.deal_id for item in market.flush()] == [second.pk], "the price waited in memory"
    clock.set(clock.now_ms() + 6_000)
    assert sweep.sweep(clock=clock).resent == 1
    assert queues.depth("closures") == 1
    close_deals([[deal_id, item.entry] for deal_id, item in book.all_fired().items()])
    closed = dict(Deal.objects.values_list("pk", "close_price"))
    assert closed == {first.pk: 111, second.pk: 121}
