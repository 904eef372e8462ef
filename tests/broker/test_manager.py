"""The facade for Python callers: every call on real servers, and what resuming forgets and keeps."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from market import BTC, ETH, NOT_IN_BOOK, Market, in_book, lose_from_book

from deals.errors import Conflict, DealError, Unavailable
from deals.models import Account, Deal, Monitoring, Status, SystemState
from deals.settlement import settle
from workers import book, keys, reconcile, sweep
from workers.clock import TapeClock
from workers.manager import WorkerManager, worker_manager
from workers.redis_client import connect


def state_now() -> tuple[str, str]:
    """What PostgreSQL says and what Redis has cached."""
    cached: Any = connect().get(keys.state())
    return SystemState.objects.get(pk=1).state, cached.split(":")[1]


def test_a_deal_is_taken_out_of_monitoring_and_put_back(market: Market, trader: Account) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    removed = worker_manager.remove_order_from_monitoring(deal.pk)
    assert removed.monitoring == Monitoring.REMOVED
    assert in_book(deal.pk) == NOT_IN_BOOK
    assert market.tick("115", "100") == []
    worker_manager.remove_order_from_monitoring(deal.pk)
    worker_manager.add_order_to_monitoring(deal)
    deal.refresh_from_db()
    assert (deal.monitoring, deal.watch_version) == (Monitoring.ARMED, 3)
    worker_manager.add_order_to_monitoring(deal)
    assert in_book(deal.pk) == (110.0, None, "3")
    assert [item.price for item in market.tick("112")] == ["112"]


def test_what_cannot_be_watched_is_refused(market: Market, trader: Account, clock: TapeClock) -> None:
    market.tick("100")
    without, closed = market.open(trader), market.open(trader, take_profit="110")
    settle([item.due() for item in market.tick("111")])
    with pytest.raises(DealError) as no_levels:
        worker_manager.add_order_to_monitoring(without)
    with pytest.raises(Conflict) as over:
        worker_manager.add_order_to_monitoring(closed)
    with pytest.raises(Conflict):
        worker_manager.remove_order_from_monitoring(closed.pk)
    assert (no_levels.value.code, over.value.code) == ("no_levels", "deal_closed")


def test_a_stale_price_is_no_price_to_begin_watching_at(market: Market, trader: Account) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    worker_manager.remove_order_from_monitoring(deal.pk)
    client: Any = connect()
    long_ago = int(client.hget(keys.price(BTC), "received")) - 11_000
    client.hset(keys.price(BTC), mapping={"received": long_ago})
    with pytest.raises(Unavailable) as stale:
        worker_manager.add_order_to_monitoring(deal)
    assert stale.value.code == "stale_price"
    deal.refresh_from_db()
    assert deal.monitoring == Monitoring.REMOVED


@pytest.mark.parametrize(
    ("call", "state"), [("shutdown", "stopped"), ("emergency_stop", "halted")], ids=["shutdown", "emergency stop"]
)
def test_stopping_stops_firing_opening_and_arming_and_resuming_starts_them(
    market: Market, trader: Account, clock: TapeClock, call: str, state: str
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    for _ in range(2):  # twice changes nothing
        getattr(worker_manager, call)("test")
    assert state_now() == (state, state)
    assert market.tick("115") == []
    assert sweep.sweep(clock=clock).found == 0
    with pytest.raises(Unavailable) as refused:
        market.open(trader, take_profit="130")
    assert refused.value.code == "system_not_running"
    worker_manager.resume("test")
    assert state_now() == ("running", "running")
    assert [item.deal_id for item in market.tick("112")] == [deal.pk]


def test_after_resuming_a_crossing_that_came_back_is_forgotten_and_one_that_holds_closes(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    market.tick("100")
    market.tick("50", symbol=ETH)
    fired = market.open(trader, take_profit="105")
    back, holds = market.open(trader, take_profit="120"), market.open(trader, take_profit="110")
    stale = market.open(trader, take_profit="60", symbol=ETH)
    market.tick("105")
    worker_manager.emergency_stop("test")
    market.tick("125", "111")
    market.tick("65", "51", symbol=ETH)
    for lost in (back, holds, stale):
        lose_from_book(lost)
    clock.set(clock.now_ms() + 30_000)  # the prices stop, too
    worker_manager.resume("test")
    market.tick("111.5")
    market.tick("52", symbol=ETH)
    report = sweep.sweep(clock=clock)
    assert report.found_ids == [holds.pk]
    assert {deal_id: item.price for deal_id, item in book.all_fired().items()} == {fired.pk: "105", holds.pk: "111.5"}


def test_restarting_rebuilds_a_lost_book_and_runs_again(market: Market, trader: Account) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    connect().delete(keys.book_epoch(), keys.upper(BTC), keys.lower(BTC), keys.versions(BTC))
    worker_manager.restart("test")
    assert state_now() == ("running", "running")
    assert in_book(deal.pk) == (110.0, None, "1")
    assert len(market.tick("110")) == 1


def test_a_manual_closure_is_possible_while_stopped_and_not_while_halted(market: Market, trader: Account) -> None:
    from deals import services
    from workers.prices import RedisQuoteBoard

    market.tick("100")
    one, two = market.open(trader, take_profit="110"), market.open(trader, take_profit="110")
    quote = RedisQuoteBoard(market.clock).quote(BTC)
    worker_manager.shutdown("test")
    assert services.close_deal(deal_id=one.pk, quote=quote).close_price == Decimal(100)
    assert in_book(one.pk) == NOT_IN_BOOK
    worker_manager.emergency_stop("test")
    with pytest.raises(Unavailable):
        services.close_deal(deal_id=two.pk, quote=quote)
    assert Deal.objects.get(pk=two.pk).status == Status.OPEN


def test_health_names_what_is_wrong(market: Market, trader: Account) -> None:
    for symbol in market.engine.symbols:
        market.tick("100", symbol=symbol)
    health = worker_manager.get_system_health()
    assert set(health["components"]) == {"queueManager", "priceMonitor", "orderClosure", "orderWorker"}
    assert health["components"]["orderClosure"] == {"isHealthy": True}
    worker_manager.shutdown("test")
    stopped = worker_manager.get_system_health()
    assert not stopped["isHealthy"]
    assert "stopped" in stopped["components"]["orderClosure"]["reason"]


def test_a_facade_that_nobody_gave_a_health_says_so(transactional_db: None) -> None:
    with pytest.raises(RuntimeError, match="no health provider is bound"):
        WorkerManager().get_system_health()
    assert reconcile.reconcile() == 0
