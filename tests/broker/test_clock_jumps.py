"""A machine whose clock jumps: nothing fires on a price of another time, and nothing that fired is forgotten."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal

import pytest
from market import BTC, Market, lose_from_book

from deals.errors import Unavailable
from deals.models import Account, Deal, Monitoring, Status
from workers import book, keys, queues, sweep, system
from workers.drivers import next_token
from workers.prices import RedisQuoteBoard
from workers.redis_client import connect
from workers.sources.base import Tick
from workers.tasks import close_deals

pytestmark = pytest.mark.faults

HOUR_MS = 3_600_000


class JumpingClock:
    """Stands where it is put, also in the past."""

    def __init__(self) -> None:
        self.at_ms = time.time_ns() // 1_000_000

    def now_ms(self) -> int:
        return self.at_ms


@pytest.fixture
def jumping() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
def market(transactional_db: None, the_system_runs: None, jumping: JumpingClock) -> Iterator[Market]:
    system.refresh_state()
    market = Market(clock=jumping, token=next_token())
    market.tick("100")
    yield market
    market.close()


def accepts(market: Market, price: str, at_ms: int) -> bool:
    """Whether the board takes a price of this time."""
    accepted = market.engine.board.accept(Tick(BTC, price, at_ms, None))
    if accepted is not None:
        market.engine.enqueue(accepted)
        market.flush()
    return accepted is not None


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS, 60_000, -60_000])
def test_while_the_clock_is_wrong_nothing_fires_and_when_it_is_right_again_everything_does(
    market: Market, trader: Account, jumping: JumpingClock, jump_ms: int
) -> None:
    armed, lost = market.open(trader, take_profit="110"), market.open(trader, take_profit="110")
    lose_from_book(lost)
    market.tick("109")
    true_ms = jumping.at_ms
    jumping.at_ms = true_ms + jump_ms
    assert not accepts(market, "111", true_ms + 100), "the exchange's clock is right"
    with pytest.raises(Unavailable):
        RedisQuoteBoard(jumping).quote(BTC)
    report = sweep.sweep(clock=jumping)
    assert (report.found, book.all_fired()) == (0, {})
    assert set(Deal.objects.values_list("status", "monitoring")) == {(Status.OPEN, Monitoring.ARMED)}
    jumping.at_ms = true_ms + 1_000
    assert accepts(market, "112", true_ms + 1_000)
    assert sweep.sweep(clock=jumping).found_ids == [lost.pk]
    close_deals([[deal_id, item.entry] for deal_id, item in book.all_fired().items()])
    closed = Deal.objects.filter(pk__in=[armed.pk, lost.pk])
    assert set(closed.values_list("status", "close_price")) == {("closed", Decimal(112))}


def test_what_fired_before_the_clock_was_set_back_is_sent_again_all_the_same(
    market: Market, trader: Account, jumping: JumpingClock
) -> None:
    deal = market.open(trader, take_profit="110")
    market.tick("111")
    jumping.at_ms -= HOUR_MS
    assert sweep.sweep(clock=jumping).resent == 1, "its message may be lost, and nobody waits an hour"
    assert queues.depth("closures") == 1
    assert sweep.sweep(clock=jumping).resent == 0, "but not with every sweep"
    [waits_until] = [score for _, score in connect().zrange(keys.fired_at(), 0, -1, withscores=True)]
    assert 0 < waits_until - jumping.at_ms <= sweep.LONGEST_WAIT_MS
    close_deals([[deal_id, item.entry] for deal_id, item in book.all_fired().items()])
    deal.refresh_from_db()
    assert (deal.status, deal.close_price) == ("closed", Decimal(111))


def test_what_fired_before_the_clock_was_set_ahead_keeps_its_price(
    market: Market, trader: Account, jumping: JumpingClock
) -> None:
    deal = market.open(trader, take_profit="110")
    market.tick("111")
    jumping.at_ms += HOUR_MS
    assert sweep.sweep(clock=jumping).resent == 1
    close_deals([[deal_id, item.entry] for deal_id, item in book.all_fired().items()])
    deal.refresh_from_db()
    assert (deal.status, deal.close_price, deal.detector) == ("closed", Decimal(111), "tick")
