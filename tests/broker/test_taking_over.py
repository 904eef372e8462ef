"""Two prices processes and a Redis that has lost its memory: the one that drives a symbol has the last word."""

from __future__ import annotations

from typing import Any

import pytest
from market import BTC, ETH, Market, in_book

from deals.models import Account
from workers import keys
from workers.clock import TapeClock
from workers.drivers import next_token
from workers.redis_client import connect


def later(clock: TapeClock) -> None:
    """A hundredth of a second."""
    clock.set(clock.now_ms() + 10)


def give_back(market: Market) -> None:
    """As after a Redis that was restarted with old data, or none."""
    market.engine.link.forgotten = True
    market.run(market.engine.recovery.give_back())


@pytest.mark.parametrize("driver_first", [True, False])
def test_the_prices_of_a_process_that_lost_its_symbols_never_replace_those_of_the_one_that_drives_them(
    market: Market, clock: TapeClock, driver_first: bool
) -> None:
    market.tick("100", trade_id=1)
    connect().delete(keys.lease(BTC), keys.lease(ETH))
    driver = Market(clock=clock, token=next_token())
    later(clock)
    driver.tick("105", trade_id=2)
    market.run(market.engine.renew_token())  # it stands by under a newer token than the driver's
    connect().delete(keys.price(BTC), keys.window(BTC))
    for process in (driver, market) if driver_first else (market, driver):
        give_back(process)
    client: Any = connect()
    assert client.hget(keys.price(BTC), "price") == "105"
    later(clock)
    driver.tick("106", trade_id=3)
    assert client.hget(keys.price(BTC), "price") == "106"
    driver.close()


def test_what_came_before_a_deal_was_opened_does_not_fire_it_when_an_old_redis_is_taken_over(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    standby = Market(clock=clock, token=next_token())
    standby.stand_by()
    market.tick("100", trade_id=1)
    for trade_id, price in enumerate(("120", "100"), start=2):
        later(clock)
        for process in (market, standby):
            process.tick(price, trade_id=trade_id)
    deal = market.open(trader, take_profit="110")
    connect().hset(keys.price(BTC), mapping={"at": clock.now_ms() - 20, "trade_id": 1})  # older data
    market.close()
    connect().delete(keys.lease(BTC), keys.lease(ETH))
    assert standby.hold() == {BTC, ETH}
    later(clock)
    assert standby.tick("101", trade_id=4) == []
    assert in_book(deal.pk) == (110.0, None, "1")
    assert [item.deal_id for item in standby.tick("111", trade_id=5)] == [deal.pk]
    standby.close()
