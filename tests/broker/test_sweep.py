"""The sweep on real servers: it finds what the book has lost, and nothing else."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import redis
from domain import new_account
from market import BTC, ETH, Market, lose_from_book
from sweeping import close_what_fired, current_quote, other_session, pending_deal, position, swept

from deals import services, state
from deals.models import Account, Deal, Monitoring
from deals.settlement import settle
from monitoring import health
from monitoring.verdicts import Check
from workers import book, keys, queues, sweep, system, windows
from workers.clock import TapeClock, to_datetime
from workers.closing import Closer
from workers.direct import sweep_memory
from workers.models import SweepPosition
from workers.redis_client import connect
from workers.sweep import SweepReport

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
    services.close_deal(deal_id=by_hand.pk, quote=current_quote(market))
    report = swept(clock)
    assert (report.found, report.resent) == (0, 0)
    assert book.all_fired()[waiting.pk].price == "111"
    assert queues.depth("closures") == 0


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


@pytest.mark.parametrize("other_symbol_ticks", [True, False])
def test_what_the_last_sweep_found_and_redis_has_lost_since_is_found_again(
    market: Market, trader: Account, clock: TapeClock, *, other_symbol_ticks: bool
) -> None:
    """Its bucket holds the position and is looked at again, whoever got the next number."""
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    lose_from_book(deal)
    market.tick("111", "100")
    assert swept(clock).found_ids == [deal.pk]
    book.clear_fired([(deal.pk, 1)])
    assert swept(clock).found == 0  # nothing new has come
    if other_symbol_ticks:
        market.tick("50", symbol=ETH)
    clock.set(clock.now_ms() + 300)
    market.tick("101")
    assert swept(clock).found_ids == [deal.pk]
    assert book.all_fired()[deal.pk].price == "110"
    clock.set(clock.now_ms() + 300)
    market.tick("102")
    assert swept(clock).found == 0


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


def test_what_fired_before_an_amendment_hides_nothing_that_crosses_after_it(
    market: Market, trader: Account, clock: TapeClock, settings: Any
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    market.tick("111")
    settings.STATIC_ONLY = True  # the process that amended it died before it told the book
    market.amend(deal, take_profit="115")
    settings.STATIC_ONLY = False
    assert market.tick("116") == []
    assert book.fired_versions() == [f"{deal.pk}|1"]
    swept(clock)
    assert book.fired_versions() == [f"{deal.pk}|2"]
    assert close_what_fired() == [deal.pk]
    deal.refresh_from_db()
    assert (deal.close_price, deal.detector) == (Decimal(116), "sweep")


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


# --- what no sweep has seen -------------------------------------------------------------------------------------


def drive(market: Market, clock: TapeClock, *prices: str, every_ms: int = 5_000) -> None:
    for price in prices:
        clock.set(clock.now_ms() + every_ms)
        market.tick(price)


def unseen_check() -> Check:
    return next(check for part in health.report().components for check in part.checks if check.name == "sweepReach")


def test_what_happened_while_no_sweep_ran_for_longer_than_prices_are_kept_is_told(
    market: Market, trader: Account, clock: TapeClock
) -> None:
    market.tick("100")
    market.tick("50", symbol=ETH)
    lost, beyond, fired = (market.open(trader, take_profit=level) for level in ("110", "103", "111"))
    lose_from_book(lost)
    lose_from_book(beyond)
    swept(clock)
    began_ms = clock.now_ms()
    drive(market, clock, "101", "112", *["101"] * 15, "104")
    assert unseen_check().is_healthy
    assert swept(clock).found_ids == [beyond.pk], "the price has come back from the other one's level"
    assert sorted(close_what_fired()) == [beyond.pk, fired.pk]
    row = SweepPosition.objects.get(pk=BTC)
    assert row.unseen_from == to_datetime(began_ms)
    assert row.unseen_until is not None
    assert to_datetime(began_ms + 10_000) < row.unseen_until < to_datetime(clock.now_ms() - 50_000)
    assert SweepPosition.objects.get(pk=ETH).unseen_from is None
    check = unseen_check()
    assert (check.is_healthy, check.figure, check.since) == (False, 1, row.unseen_until)
    assert check.reason is not None
    assert f"BTCUSDT {row.unseen_from:%H:%M:%S} to {row.unseen_until:%H:%M:%S} UTC" in check.reason
    drive(market, clock, "101")
    swept(clock)
    assert SweepPosition.objects.get(pk=BTC).unseen_until == row.unseen_until, "it stays where it was written"


def test_a_time_without_prices_or_without_running_is_no_span_that_was_not_seen(
    market: Market, clock: TapeClock
) -> None:
    market.tick("100")
    swept(clock)
    drive(market, clock, "101", every_ms=300_000)
    drive(market, clock, "102", "103", "104", "105")
    swept(clock)
    state.change(state.State.STOPPED, "test")
    drive(market, clock, *["100"] * 20)
    system.resume("test")
    drive(market, clock, "101")
    swept(clock)
    drive(market, clock, *["102"] * 11)
    swept(clock)
    assert list(SweepPosition.objects.exclude(unseen_from=None)) == []


def test_degraded_mode_knows_what_its_memory_does_not_reach(market: Market, clock: TapeClock) -> None:
    market.tick("100")
    swept(clock)
    began_ms = clock.now_ms()
    drive(market, clock, *["101"] * 20)
    sweep_memory(market.engine.memory.prices([BTC]), [], closer=Closer(), clock=clock)
    row = SweepPosition.objects.get(pk=BTC)
    assert row.unseen_from == to_datetime(began_ms)
    assert row.unseen_until is not None
    assert row.unseen_until > to_datetime(began_ms)
    SweepPosition.objects.update(unseen_from=None, unseen_until=None)
    drive(market, clock, "101", every_ms=300_000)
    drive(market, clock, *["101"] * 3)
    sweep_memory(market.engine.memory.prices([BTC]), [], closer=Closer(), clock=clock)
    assert SweepPosition.objects.get(pk=BTC).unseen_from is None
