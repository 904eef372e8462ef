"""Degraded mode, caused: Redis frozen, killed and emptied, the broker away. Deals close all the same, exactly once."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from domain import new_account
from kombu.exceptions import OperationalError as BrokerError
from live import LiveEngine
from market import BTC, NOT_IN_BOOK, in_book, lose_from_book
from servers import Valkey, wait_until
from sweeping import other_session

from deals import services, state
from deals.models import Account, Deal, LedgerEntry, Monitoring, Status
from monitoring import health
from workers import book, keys, reconcile, system
from workers.models import DeadLetter, PriceDriver, SweepPosition
from workers.prices import RedisQuoteBoard
from workers.redis_client import connect

Start = Callable[..., LiveEngine]
SOON_S = 20
"""Closing takes 4 s; a slow machine gets its time."""


@pytest.fixture
def own_valkey(valkey: Valkey, settings: Any) -> Iterator[Valkey]:
    """Prices and book live in the test's own Valkey; the queue stays where it was."""
    settings.REDIS_URL = valkey.url
    connect.cache_clear()
    yield valkey
    valkey.process.signal(signal.SIGCONT)
    connect().close()
    connect.cache_clear()


@pytest.fixture
def start_engine(transactional_db: None, the_system_runs: None, own_valkey: Valkey) -> Iterator[Start]:
    started: list[LiveEngine] = []

    def start(**options: Any) -> LiveEngine:
        started.append(LiveEngine(**options))
        return started[-1]

    system.refresh_state()
    yield start
    for engine in started:
        engine.stop()


@pytest.fixture
def live(start_engine: Start) -> LiveEngine:
    """A prices process that drives its symbols, with a price of 100 in Redis and a book that is complete."""
    engine = start_engine()
    wait_until(lambda: BTC in engine.engine.held and epoch_is_current(), what="it drives, the book is complete")
    price_of(engine, "100")
    wait_until(lambda: PriceDriver.objects.filter(owner=engine.engine.owner).count() == 2, what="it is written down")
    return engine


def epoch_is_current() -> bool:
    return bool(connect().get(keys.book_epoch()) == system.server_run_id())


def price_of(engine: LiveEngine, price: str) -> None:
    engine.tick(price)
    wait_until(lambda: connect().hget(keys.price(BTC), "price") == price, what=f"{price} is in Redis")


def open_deal(trader: Account, **levels: str) -> Deal:
    deal = services.open_deal(
        user_id=trader.user_id, symbol=BTC, direction="up", amount=Decimal(100), multiplier=10,
        quote=RedisQuoteBoard().quote(BTC), **{name: Decimal(level) for name, level in levels.items()},
    )  # fmt: skip
    deal.refresh_from_db()
    assert deal.monitoring == Monitoring.ARMED
    return deal


def closed(deal: Deal) -> Deal:
    wait_until(lambda: Deal.objects.get(pk=deal.pk).status == Status.CLOSED, SOON_S, what="the deal closes")
    deal.refresh_from_db()
    return deal


def is_open(deal: Deal) -> bool:
    return Deal.objects.get(pk=deal.pk).status == Status.OPEN


def settle_sent(live: LiveEngine) -> None:
    """What the workers do with their messages."""
    from workers.tasks import close_deals

    close_deals([[item.deal_id, item.entry] for item in live.sent])


# --- Redis away -------------------------------------------------------------------------------------------------


def test_with_redis_frozen_deals_close_and_health_says_degraded(live: LiveEngine, own_valkey: Valkey) -> None:
    deal, other, back = (open_deal(new_account(), take_profit=level) for level in ("110", "150", "120"))
    own_valkey.process.signal(signal.SIGSTOP)
    began = time.monotonic()
    live.tick("111", "125", "112")
    assert closed(deal).close_price == Decimal(112)
    assert time.monotonic() - began < 8  # 4 s on a machine that has nothing else to do
    assert (deal.detector, deal.close_reason, closed(back).close_price) == ("sweep", "take_profit", Decimal(120))
    assert live.degraded
    report = health.report()
    check = next(check for part in report.components for check in part.checks if check.name == "degraded")
    assert (report.is_healthy, check.is_healthy, check.figure) == (False, False, 1)
    assert check.since is not None
    assert health.workers_health()["status"] == "degraded"

    for price in ("113", "114", "115"):  # the tick loop goes on
        live.tick(price)
    own_valkey.process.signal(signal.SIGCONT)
    wait_until(lambda: not live.degraded, SOON_S, what="it hands back")
    assert is_open(other)
    price_of(live, "116")
    live.tick("151")
    wait_until(lambda: other.pk in {item.deal_id for item in live.sent}, SOON_S, what="the tick fires it")
    settle_sent(live)
    assert closed(other).detector == "tick"
    assert LedgerEntry.objects.filter(kind="close").count() == 3
    assert book.all_fired() == {}
    wait_until(lambda: not PriceDriver.objects.exclude(degraded_since=None).exists(), what="it says so")


def test_what_had_fired_closes_first_and_at_its_price_though_redis_is_killed(
    live: LiveEngine, own_valkey: Valkey
) -> None:
    deal = open_deal(new_account(), take_profit="110")
    live.tick("111")
    wait_until(lambda: live.sent, what="it has fired")
    own_valkey.kill()  # with it, let us say, goes the message
    live.tick("130", "131")
    assert (closed(deal).close_price, deal.detector) == (Decimal(111), "tick")
    own_valkey.start()
    wait_until(lambda: not live.degraded, SOON_S, what="it hands back")
    assert book.all_fired() == {}
    assert live.engine.memory.unsettled == {}


def test_an_emptied_redis_gets_everything_back_and_nothing_closes_twice(live: LiveEngine, own_valkey: Valkey) -> None:
    deals = [open_deal(new_account(), take_profit=level) for level in ("110", "120", "130")]
    own_valkey.kill()
    live.tick("111", "101")
    assert closed(deals[0]).close_price == Decimal(110)  # it came back: the market traded through the trigger
    own_valkey.start(empty=True)
    wait_until(lambda: not live.degraded and epoch_is_current(), SOON_S, what="it hands back")
    assert in_book(deals[0].pk) == NOT_IN_BOOK
    assert in_book(deals[1].pk) == (120.0, None, "1")
    price_of(live, "102")
    live.tick("121")
    wait_until(lambda: [item.deal_id for item in live.sent] == [deals[1].pk], what="the tick fires")
    settle_sent(live)
    assert closed(deals[1]).close_price == Decimal(121)
    assert is_open(deals[2])
    assert LedgerEntry.objects.filter(kind="close").count() == 2


def test_a_redis_with_old_data_closes_nothing_twice(live: LiveEngine, own_valkey: Valkey, tmp_path: Path) -> None:
    done, still = (open_deal(new_account(), take_profit=level) for level in ("110", "130"))
    own_valkey.kill()
    shutil.copytree(own_valkey.folder / "appendonlydir", tmp_path / "old")
    own_valkey.start()
    wait_until(lambda: not live.degraded and epoch_is_current(), SOON_S, what="it is in order")
    late = open_deal_at(live, "101", take_profit="120")
    own_valkey.kill()
    live.tick("112", "102")
    closed(done)
    shutil.rmtree(own_valkey.folder / "appendonlydir")
    shutil.copytree(tmp_path / "old", own_valkey.folder / "appendonlydir")
    own_valkey.start()
    wait_until(lambda: not live.degraded and epoch_is_current(), SOON_S, what="it hands back")
    assert in_book(done.pk) == NOT_IN_BOOK
    price_of(live, "103")
    live.tick("121")
    wait_until(lambda: late.pk in {item.deal_id for item in live.sent}, what="the new deal fires")
    settle_sent(live)
    assert closed(late).close_price == Decimal(121)
    assert is_open(still)
    assert LedgerEntry.objects.filter(kind="close").count() == 2


def open_deal_at(live: LiveEngine, price: str, **levels: str) -> Deal:
    price_of(live, price)
    return open_deal(new_account(), **levels)


def test_a_stopped_system_stays_stopped_without_redis(live: LiveEngine, own_valkey: Valkey) -> None:
    deal = open_deal(new_account(), take_profit="110")
    state.change(state.State.STOPPED, "test")
    own_valkey.kill()
    live.tick("111")
    before = SweepPosition.objects.get(pk=BTC).seq if SweepPosition.objects.filter(pk=BTC).exists() else 0
    wait_until(lambda: live.degraded, SOON_S, what="it is degraded")
    for _ in range(2):
        live.call(live.engine.degraded.round())
    assert is_open(deal)
    assert not SweepPosition.objects.filter(pk=BTC, seq__gt=before).exists()
    state.change(state.State.RUNNING, "test")
    assert closed(deal).close_price == Decimal(111)


def test_a_deal_that_cannot_be_settled_becomes_a_dead_letter_and_blocks_no_other(
    live: LiveEngine, own_valkey: Valkey
) -> None:
    poisoned = new_account()
    Account.objects.filter(pk=poisoned.pk).update(total_volume=Decimal("9" * 22))
    poison, healthy = open_deal(poisoned, take_profit="110"), open_deal(new_account(), take_profit="110")
    own_valkey.kill()
    live.tick("111")
    closed(healthy)
    wait_until(lambda: DeadLetter.objects.filter(deal=poison).exists(), SOON_S, what="three attempts are made")
    letter = DeadLetter.objects.get(deal=poison)
    assert (letter.price, letter.attempts, letter.version) == (Decimal(111), 3, 1)
    assert poison.events.filter(kind="attempt").count() == 3
    own_valkey.start()
    wait_until(lambda: not live.degraded, SOON_S, what="it hands back")
    assert book.all_fired() == {}
    Account.objects.filter(pk=poisoned.pk).update(total_volume=0)


# --- two processes ----------------------------------------------------------------------------------------------


def test_the_one_that_stands_by_closes_nothing_until_the_other_is_gone(
    live: LiveEngine, own_valkey: Valkey, start_engine: Start
) -> None:
    standby = start_engine()
    standby.tick("140")  # a price from before the deal that only this one has heard
    time.sleep(0.01)
    deal, last = open_deal_at(live, "100", take_profit="130"), open_deal(new_account(), take_profit="150")
    own_valkey.kill()
    wait_until(lambda: standby.degraded and live.degraded, SOON_S, what="both have noticed")
    standby.tick("135")  # what it hears counts for nothing while the other one leads
    live.tick("101")
    for _ in range(2):
        standby.call(standby.engine.degraded.round())
        live.call(live.engine.degraded.round())
    assert is_open(deal)
    live.stop()
    standby.tick("102")
    standby.call(standby.engine.degraded.round())
    assert closed(deal).close_price == Decimal(130)  # heard after Redis was away, so after every deal was opened
    standby.tick("151")
    assert closed(last).close_price == Decimal(151)
    own_valkey.start(empty=True)
    wait_until(lambda: not standby.degraded and epoch_is_current(), SOON_S, what="it hands back")
    wait_until(lambda: BTC in standby.engine.held, SOON_S, what="it drives")
    late = open_deal_at(standby, "100", take_profit="110")
    assert is_open(late)
    standby.tick("111")
    wait_until(lambda: late.pk in {item.deal_id for item in standby.sent}, SOON_S, what="the tick fires")
    assert LedgerEntry.objects.filter(kind="close").count() == 2


def test_a_prices_process_that_starts_while_redis_is_away_closes_what_crosses_then(
    live: LiveEngine, own_valkey: Valkey, start_engine: Start
) -> None:
    deal, other = open_deal(new_account(), take_profit="110"), open_deal(new_account(), take_profit="130")
    own_valkey.kill()
    live.stop()
    started = start_engine()
    started.tick("101", "111", "102")
    assert (closed(deal).close_price, deal.detector) == (Decimal(110), "sweep")
    own_valkey.start()
    wait_until(lambda: not started.degraded and epoch_is_current(), SOON_S, what="it hands back")
    wait_until(lambda: BTC in started.engine.held, SOON_S, what="it drives")
    price_of(started, "103")
    started.tick("131")
    wait_until(lambda: [item.deal_id for item in started.sent] == [other.pk], SOON_S, what="the tick fires the other")
    assert LedgerEntry.objects.filter(kind="close").count() == 1


# --- Redis emptied under a living process -----------------------------------------------------------------------


def test_a_flushed_redis_is_noticed_at_once_and_loses_nothing(live: LiveEngine) -> None:
    fired, armed = (open_deal(new_account(), take_profit=level) for level in ("110", "120"))
    live.tick("111")
    wait_until(lambda: live.sent, what="it has fired")
    live.tick("101")
    connect().flushall()
    wait_until(lambda: in_book(armed.pk) != NOT_IN_BOOK and epoch_is_current(), SOON_S, what="it is armed again")
    wait_until(lambda: fired.pk in book.all_fired(), what="what had fired is back")
    assert book.all_fired()[fired.pk].price == "111"
    assert connect().hget(keys.price(BTC), "price") == "101"
    lows = [fields["low"] for _id, fields in connect().xrange(keys.window(BTC))]  # type: ignore[union-attr]
    assert "111" in lows
    live.tick("121")
    wait_until(lambda: armed.pk in {item.deal_id for item in live.sent}, what="the tick fires")


def test_a_deal_that_the_book_lost_with_redis_is_found_by_its_prices(live: LiveEngine, own_valkey: Valkey) -> None:
    deal = open_deal(new_account(), take_profit="110")
    lose_from_book(deal)
    own_valkey.kill()
    live.tick("111", "100")
    assert closed(deal).close_price == Decimal(110)


# --- the broker away --------------------------------------------------------------------------------------------


def test_without_a_broker_the_book_still_fires_and_this_process_closes(live: LiveEngine) -> None:
    deal, lost, later = (open_deal(new_account(), take_profit=level) for level in ("110", "111", "150"))
    lose_from_book(lost)
    live.broker_error = BrokerError("no route")
    live.tick("112")
    assert (closed(deal).close_price, deal.detector) == (Decimal(112), "tick")
    assert (closed(lost).close_price, lost.detector) == (Decimal(112), "sweep")
    assert live.sent == []
    assert book.all_fired() == {}
    assert health.workers_health()["status"] == "degraded"
    live.broker_error = None
    wait_until(lambda: not live.degraded, SOON_S, what="it hands back")
    live.tick("151")
    wait_until(lambda: [item.deal_id for item in live.sent] == [later.pk], what="the workers are told again")
    assert is_open(later)


def test_a_broker_that_takes_too_long_counts_as_away(live: LiveEngine) -> None:
    deal = open_deal(new_account(), take_profit="110")
    slow = live.engine._send

    def hang(fired: Any) -> None:
        time.sleep(4)
        slow(fired)

    live.engine._send = hang
    live.tick("111")
    assert closed(deal).close_price == Decimal(111)
    wait_until(lambda: live.sent, SOON_S, what="the message has gone out after all")
    settle_sent(live)
    assert LedgerEntry.objects.filter(kind="close").count() == 1
    live.engine._send = slow


# --- PostgreSQL away --------------------------------------------------------------------------------------------


@pytest.fixture
def deadly_table(live: LiveEngine) -> Iterator[Callable[[], int]]:
    """Whoever writes down which symbols it drives loses its session in the middle of it; answers how often."""
    with connection.cursor() as cursor:
        cursor.execute("""
            CREATE SEQUENCE sessions_lost;
            CREATE FUNCTION lose_session() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM nextval('sessions_lost'), pg_terminate_backend(pg_backend_pid());
                RETURN NEW;
            END $$;
            CREATE TRIGGER deadly BEFORE INSERT OR UPDATE ON price_drivers
                FOR EACH ROW EXECUTE FUNCTION lose_session()
        """)

    def lost() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT last_value FROM sessions_lost WHERE is_called")
            row = cursor.fetchone()
        return int(row[0]) if row else 0

    yield lost
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER IF EXISTS deadly ON price_drivers")
        cursor.execute("DROP FUNCTION lose_session")
        cursor.execute("DROP SEQUENCE sessions_lost")


def test_a_prices_process_whose_sessions_are_killed_while_it_writes_lives_on_and_fires(
    live: LiveEngine, deadly_table: Callable[[], int]
) -> None:
    deal = open_deal(new_account(), take_profit="110")
    wait_until(lambda: deadly_table() >= 2, SOON_S, what="it has lost two sessions")
    live.broker_error = BrokerError("no route")  # closing by itself begins with the same table
    live.tick("111")
    wait_until(lambda: live.degraded and deadly_table() >= 4, SOON_S, what="it has lost more of them")
    assert is_open(deal)
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER deadly ON price_drivers")
    assert (closed(deal).close_price, deal.detector) == (Decimal(111), "tick")
    live.broker_error = None
    wait_until(lambda: not live.degraded, SOON_S, what="it hands back")


def test_a_rebuild_whose_session_is_killed_is_begun_again(live: LiveEngine) -> None:
    """Between two statements: the lock is gone with the session, and giving it up fails as well."""
    deal = open_deal(new_account(), take_profit="110")
    with other_session() as other:
        other.execute("LOCK TABLE deals IN ACCESS EXCLUSIVE MODE")
        connect().flushall()
        wait_until(lambda: holder_of(reconcile.RECONCILE_LOCK), SOON_S, what="it waits for the deals")
        other.execute("SELECT pg_terminate_backend(%s)", [holder_of(reconcile.RECONCILE_LOCK)])
    wait_until(lambda: in_book(deal.pk) == (110.0, None, "1") and epoch_is_current(), SOON_S, what="it is armed again")
    live.tick("111")
    wait_until(lambda: [item.deal_id for item in live.sent] == [deal.pk], what="the tick fires")


def holder_of(lock: int) -> int:
    """The session that holds an advisory lock; 0 when none does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND granted", [lock])
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def test_a_book_that_is_complete_is_left_alone(live: LiveEngine) -> None:
    assert reconcile.reconcile() == 0
