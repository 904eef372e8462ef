"""A lost, old or damaged book is rebuilt from PostgreSQL: on a Valkey of the test's own that is killed and emptied."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from domain import new_account
from market import BTC, ETH, NOT_IN_BOOK, Market, in_book, lose_from_book, row
from redis.exceptions import RedisError
from servers import Process, Valkey, wait_until
from sweeping import other_session

from deals import services
from deals.models import Account, Deal, Monitoring
from deals.queries import watch_rows
from deals.settlement import settle
from workers import book, keys, reconcile, sweep, system
from workers.clock import TapeClock
from workers.drivers import next_token
from workers.redis_client import connect


@pytest.fixture
def own_valkey(valkey: Valkey, settings: Any) -> Iterator[Valkey]:
    """Prices and book live in the test's own Valkey; the queue stays where it was."""
    settings.REDIS_URL = valkey.url
    connect.cache_clear()
    yield valkey
    connect().close()
    connect.cache_clear()


@pytest.fixture
def market(transactional_db: None, the_system_runs: None, own_valkey: Valkey, clock: TapeClock) -> Iterator[Market]:
    """As elsewhere, on that Valkey, with a book that belongs to its run."""
    system.refresh_state()
    reconcile.reconcile()
    market = Market(clock=clock, token=next_token())
    market.tick("100")
    market.tick("50", symbol=ETH)
    yield market
    market.close()


def reborn(market: Market) -> Market:
    """The prices process after its Redis was restarted, when the lease of the one before has ended."""
    market.close()
    again = Market(clock=market.clock, token=next_token())
    wait_until(lambda: again.hold() == {BTC, ETH}, what="the old lease has ended")
    return again


def epoch_is_current() -> bool:
    return bool(connect().get(keys.book_epoch()) == system.server_run_id())


def test_an_emptied_redis_gets_its_book_back(market: Market, own_valkey: Valkey, clock: TapeClock) -> None:
    trader = new_account()
    up = market.open(trader, take_profit="110", stop_loss="90")
    down = market.open(trader, direction="down", take_profit="40", symbol=ETH)
    removed, closed, free = (market.open(trader, take_profit="120") for _ in range(3))
    services.remove_from_monitoring(deal_id=removed.pk)
    services.close_deal(deal_id=closed.pk, quote=_quote(market))
    services.amend_levels(user_id=trader.user_id, deal_id=free.pk, quote=_quote(market), take_profit=None)
    assert epoch_is_current()

    own_valkey.kill()
    own_valkey.start(empty=True)
    assert in_book(up.pk) == NOT_IN_BOOK
    assert sweep.sweep(clock=clock).book_lost
    assert reconcile.reconcile() == 2
    assert epoch_is_current()
    assert in_book(up.pk) == (110.0, 90.0, "1")
    assert in_book(down.pk, ETH) == (None, 40.0, "1")
    assert book.armed_count([BTC, ETH]) == {BTC: 1, ETH: 1}
    assert set(Deal.objects.filter(pk__in=[up.pk, down.pk]).values_list("monitoring", flat=True)) == {Monitoring.ARMED}
    again = reborn(market)
    assert [item.deal_id for item in again.tick("111")] == [up.pk]
    again.close()


def _quote(market: Market) -> Any:
    from workers.prices import RedisQuoteBoard

    return RedisQuoteBoard(market.clock).quote(BTC)


def test_a_redis_with_old_data_gets_the_new_deals_and_loses_the_ghosts(
    market: Market, own_valkey: Valkey, tmp_path: Path
) -> None:
    trader = new_account()
    kept, amended, closed = (market.open(trader, take_profit="110") for _ in range(3))
    own_valkey.kill()
    shutil.copytree(own_valkey.folder / "appendonlydir", tmp_path / "old")
    own_valkey.start()
    again = reborn(market)
    again.tick("100")
    again.amend(amended, take_profit="130")
    services.close_deal(deal_id=closed.pk, quote=_quote(again))
    new = again.open(trader, take_profit="115")

    own_valkey.kill()
    shutil.rmtree(own_valkey.folder / "appendonlydir")
    shutil.copytree(tmp_path / "old", own_valkey.folder / "appendonlydir")
    own_valkey.start()
    assert in_book(closed.pk) == (110.0, None, "1")
    assert in_book(amended.pk) == (110.0, None, "1")
    assert not epoch_is_current()
    reconcile.reconcile()
    assert epoch_is_current()
    assert in_book(kept.pk) == (110.0, None, "1")
    assert in_book(amended.pk) == (130.0, None, "2")
    assert in_book(closed.pk) == NOT_IN_BOOK
    assert in_book(new.pk) == (115.0, None, "1")
    last = reborn(again)
    assert sorted(item.deal_id for item in last.tick("116")) == [kept.pk, new.pk]
    last.close()


def test_a_ghost_that_fires_before_the_rebuild_closes_nothing(market: Market) -> None:
    from workers.tasks import close_deals

    trader = new_account()
    deal = market.open(trader, take_profit="110")
    services.remove_from_monitoring(deal_id=deal.pk)
    book.arm([row(deal.pk, "110"), row(10**9, "110")], clock=market.clock)  # its old version; one never committed
    fired = market.tick("111")
    assert len(fired) == 2
    assert close_deals([[item.deal_id, item.entry] for item in fired]) == 0
    deal.refresh_from_db()
    assert (deal.status, deal.monitoring) == ("open", Monitoring.REMOVED)
    assert book.all_fired() == {}
    assert in_book(deal.pk) == NOT_IN_BOOK


def test_a_flushed_redis_that_was_not_restarted_is_noticed(market: Market, clock: TapeClock) -> None:
    deal = market.open(new_account(), take_profit="110")
    connect().flushall()
    assert sweep.sweep(clock=clock).book_lost
    reconcile.reconcile()
    assert in_book(deal.pk) == (110.0, None, "1")


def test_a_rebuild_never_takes_out_what_is_right_and_keeps_newer_versions(market: Market) -> None:
    deal = market.open(new_account(), take_profit="110")
    [old_row] = watch_rows([deal.pk])
    market.amend(deal, take_profit="120")
    connect().delete(keys.book_epoch())
    book.arm([old_row], clock=market.clock)  # read before the amendment, written after it
    reconcile.reconcile()
    assert in_book(deal.pk) == (120.0, None, "2")


def test_what_fired_before_the_restart_keeps_its_price(market: Market, own_valkey: Valkey) -> None:
    deal = market.open(new_account(), take_profit="110")
    [fired] = market.tick("111")
    own_valkey.kill()
    own_valkey.start()
    reconcile.reconcile()
    assert book.all_fired() == {deal.pk: fired}
    assert in_book(deal.pk) == NOT_IN_BOOK


def test_a_pending_deal_is_armed_by_the_rebuild(market: Market, settings: Any) -> None:
    settings.STATIC_ONLY = True
    deal = market.open(new_account(), take_profit="110")
    settings.STATIC_ONLY = False
    connect().delete(keys.book_epoch())
    reconcile.reconcile()
    deal.refresh_from_db()
    assert deal.monitoring == Monitoring.ARMED


def test_a_rebuild_that_was_killed_goes_on_where_it_was(
    market: Market, own_valkey: Valkey, start_process: Callable[..., Process]
) -> None:
    traders = [new_account() for _ in range(4)]
    deals = [market.open(traders[n % 4], take_profit="110", amount=Decimal(1)) for n in range(160)]
    own_valkey.kill()
    own_valkey.start(empty=True)
    one_by_one = "from workers import reconcile; reconcile.RANGE = 1; reconcile.reconcile()"
    process = start_process("manage.py", "shell", "-v", "0", "-c", one_by_one, env={"REDIS_URL": own_valkey.url})
    client: Any = connect()
    wait_until(lambda: int(client.hget(keys.book_progress(), "after") or 0) > deals[5].pk, what="it has begun")
    process.kill()
    assert not epoch_is_current(), "it was too fast to be killed"
    reached = int(client.hget(keys.book_progress(), "after"))
    wait_until(lambda: reconcile.reconcile() > 0, what="the killed one's lock is free")
    assert epoch_is_current()
    assert book.armed_count([BTC]) == {BTC: 160}
    assert reached > deals[5].pk


def test_two_rebuilds_at_once_are_one(market: Market, start_process: Callable[..., Process]) -> None:
    import psycopg
    from django.db import connection

    facts = connection.get_connection_params()
    keep = ("dbname", "user", "password", "host", "port")
    market.open(new_account(), take_profit="110")
    with psycopg.connect(**{name: facts[name] for name in keep if facts.get(name)}) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [reconcile.RECONCILE_LOCK])
        assert reconcile.reconcile() == 0
    wait_until(lambda: reconcile.reconcile() == 1, what="the lock of the closed session is free")


def test_the_slow_check_mends_a_good_book_range_by_range(
    market: Market, clock: TapeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "CHECK_RANGE", 2)
    trader: Account = new_account()
    deals = [market.open(trader, take_profit="110") for _ in range(5)]
    lose_from_book(deals[4])
    book.arm([row(10**9, "110")], clock=clock)  # a ghost
    rounds = 0
    while in_book(deals[4].pk) == NOT_IN_BOOK or in_book(10**9) != NOT_IN_BOOK:
        reconcile.reconcile()
        rounds += 1
        assert rounds < 40
    assert {in_book(deal.pk) for deal in deals} == {(110.0, None, "1")}


def restart_empty_and_recover(market: Market, valkey: Valkey) -> None:
    """Redis forgets everything; the prices process that lives on notices before it writes to the new one."""
    valkey.kill()
    valkey.start(empty=True)
    with pytest.raises(RedisError):
        market.tick("100")  # the broken connection
    with pytest.raises(RedisError, match="restarted"):
        market.flush()  # a new one
    assert not connect().exists(keys.price(BTC)), "a restarted Redis was written to before it got back what it forgot"
    market.run(market.engine.recovery.run())
    market.run(market.engine.recovery.end())


@pytest.mark.parametrize("harm", ["version", "upper", "lower", "score"])
def test_the_slow_check_finds_what_the_book_holds_otherwise_than_it_should(market: Market, harm: str) -> None:
    deal = market.open(new_account(), take_profit="110", stop_loss="90")
    client = connect()
    if harm == "version":
        client.hset(keys.versions(BTC), str(deal.pk), "0")
    elif harm == "score":
        client.zadd(keys.upper(BTC), {str(deal.pk): 111.0})
    else:
        client.zrem((keys.upper if harm == "upper" else keys.lower)(BTC), str(deal.pk))
    reconcile.reconcile()
    assert in_book(deal.pk) == (110.0, 90.0, "1")


def test_the_slow_check_arms_nothing_anew_in_a_good_book(market: Market) -> None:
    trader = new_account()
    for terms in (
        {"take_profit": "110.123456789"},
        {"stop_loss": "0.000000000001"},
        {"take_profit": "40", "symbol": ETH},
    ):
        market.open(trader, **({"direction": "down"} if "symbol" in terms else {}), **terms)
    before = calls_of("zadd")
    assert before == 3, "one each"
    assert reconcile.reconcile() == 3
    assert calls_of("zadd") == before


def calls_of(command: str) -> int:
    """How often Redis has run it."""
    return int(connect().info("commandstats")[f"cmdstat_{command}"]["calls"])


def test_what_fired_before_redis_was_emptied_is_put_back_at_its_price(market: Market, own_valkey: Valkey) -> None:
    deal = market.open(new_account(), take_profit="110")
    [fired] = market.tick("111")
    market.tick("100")
    restart_empty_and_recover(market, own_valkey)
    assert book.all_fired() == {deal.pk: fired}
    assert fired in market.flush()
    [closure] = settle([fired.due()]).closed
    assert (closure.price, closure.detector) == (Decimal(111), "tick")


def test_what_crossed_unseen_before_redis_was_emptied_is_found_by_the_prices_put_back(
    market: Market, own_valkey: Valkey, clock: TapeClock
) -> None:
    early = market.open(new_account(), take_profit="110")
    lose_from_book(early)
    market.tick("111", "100")
    late = market.open(new_account(), take_profit="105")
    restart_empty_and_recover(market, own_valkey)
    market.tick("101")
    assert sweep.sweep(clock=clock).found == 0  # rebuilding the book has found it
    assert (book.all_fired()[early.pk].price, book.all_fired()[early.pk].detector) == ("110", "arm")
    assert in_book(late.pk) == (105.0, None, "1")


def test_what_is_settled_is_forgotten_and_not_put_back(market: Market, own_valkey: Valkey) -> None:
    market.open(new_account(), take_profit="110")
    [fired] = market.tick("111")
    settle([fired.due()])
    book.clear_fired([(fired.deal_id, fired.version)])
    market.run(market.engine.memory.forget_settled(market.engine.link.client, keys.lease(BTC), market.engine.owner))
    restart_empty_and_recover(market, own_valkey)
    assert book.all_fired() == {}
    assert market.flush() == []


def test_a_book_rebuilt_before_the_prices_were_put_back_is_rebuilt_again(market: Market, clock: TapeClock) -> None:
    """What the sweep found is in Redis only: without the prices a rebuild arms it like any other deal."""
    deal = market.open(new_account(), take_profit="110")
    lose_from_book(deal)
    market.tick("111", "100")
    assert sweep.sweep(clock=clock).found_ids == [deal.pk]
    connect().flushall()
    assert sweep.sweep(clock=clock).book_lost
    reconcile.reconcile()
    assert in_book(deal.pk) == (110.0, None, "1")
    market.hold()  # the leases show that it was emptied
    market.run(market.engine.recovery.run())
    market.run(market.engine.recovery.end())
    assert book.all_fired()[deal.pk].price == "110"
    assert in_book(deal.pk) == NOT_IN_BOOK


def test_a_rebuild_of_the_prices_process_waits_for_one_that_began_before(market: Market, clock: TapeClock) -> None:
    deal = market.open(new_account(), take_profit="110")
    lose_from_book(deal)
    market.tick("111", "100")
    assert sweep.sweep(clock=clock).found_ids == [deal.pk]
    connect().flushall()
    market.hold()
    recovery = market.engine.recovery
    with other_session() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [reconcile.RECONCILE_LOCK])
        market.run(recovery.run())
        market.run(recovery.end())
        connect().set(keys.book_epoch(), system.server_run_id())  # as the other one ends
    market.run(recovery.see_to_book())
    market.run(recovery.end())
    assert book.all_fired()[deal.pk].price == "110"


@pytest.mark.parametrize("swept_first", [False, True], ids=["at once", "after sweep and rebuild"])
def test_what_fired_before_redis_was_flushed_closes_at_its_price(
    market: Market, clock: TapeClock, *, swept_first: bool
) -> None:
    """Without a restart of Redis, and though the price has come back."""
    deal = market.open(new_account(), take_profit="110")
    [fired] = market.tick("111")
    market.tick("100")
    assert sweep.sweep(clock=clock).found == 0
    connect().flushall()
    if swept_first:
        assert sweep.sweep(clock=clock).book_lost
        reconcile.reconcile()
        market.run(market.engine.memory.forget_settled(market.engine.link.client, keys.lease(BTC), market.engine.owner))
    market.hold()
    market.run(market.engine.recovery.run())
    market.run(market.engine.recovery.end())
    assert book.all_fired() == {deal.pk: fired}
    [closure] = settle([fired.due()]).closed
    assert (closure.price, closure.detector) == (Decimal(111), "tick")
