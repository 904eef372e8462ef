"""kill -9 at every step of opening, arming, firing, handing over and settling: nothing is lost, nothing done twice."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from crashing import Crasher
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from domain import new_account
from market import BTC, ETH, NOT_IN_BOOK, Market, in_book, lose_from_book
from servers import PROJECT, Process, wait_until

from deals import crash_points, services
from deals.models import Account, Deal, LedgerEntry, Monitoring, Notification, Settlement
from deals.queries import notifications
from deals.quotes import Quote
from workers import book, dead_letters, keys, queues, reconcile, sweep, system
from workers.audit import SYSTEM
from workers.book import read_fired
from workers.clock import TapeClock, to_datetime
from workers.closing import Closer
from workers.dispatch import send_closures
from workers.drivers import next_token
from workers.models import AuditEntry, DeadLetter
from workers.prices import RedisQuoteBoard
from workers.redis_client import connect
from workers.retry import MAX_RETRIES
from workers.tasks import close_deals, housekeeping

pytestmark = pytest.mark.faults

OPENING = ["open.before_write", "open.before_commit", "change.before_signal", "arm.before_book", "arm.before_row"]
NOT_COMMITTED = {"open.before_write", "open.before_commit"}
ARMING_FIRED = ["arm.before_sending", "hand_over.before_message", "hand_over.after_message"]
FIRING = ["fire.before_script", "fire.after_script", "fire.before_sending"]
SETTLING = [
    "settle.before_locks", "settle.after_locks", "settle.before_commit", "settle.after_commit",
    "settle.before_clearing", "settle.before_announcing", "announce.before_commit", "settle.before_end",
]  # fmt: skip
ALONE = ["alone.before_clearing", "alone.before_announcing", "alone.before_resolving"]
BURYING_ALONE = ["alone.before_burying", "alone.before_clearing_buried"]
SWEEPING = ["sweep.before_advancing", "sweep.before_sending"]
BURYING = ["bury.before_commit", "bury.before_clearing"]
REQUEUEING = ["requeue.before_commit", "requeue.before_sending"]
SINGLE = ["resend.before_sending", "expire.before_rows", "rebuild.between_ranges"]
WAITED_MS = 6_000
"""After five seconds the sweep sends again what has fired."""


@pytest.fixture(scope="module")
def crasher(django_db_setup: None) -> Iterator[Crasher]:
    """Processes that crash, on the tests' own database."""
    url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}")
    crasher = Crasher({**os.environ, "DATABASE_URL": urlunsplit(url)})
    yield crasher
    crasher.end()


def quote(market: Market) -> Quote:
    return RedisQuoteBoard(market.clock).quote(BTC)


def as_json(given: Quote) -> list[Any]:
    return [given.symbol, str(given.price), given.seq, round(given.at.timestamp() * 1000)]


def message() -> list[list[Any]]:
    return [[deal_id, item.entry] for deal_id, item in sorted(book.all_fired().items())]


def later(clock: TapeClock) -> TapeClock:
    clock.set(clock.now_ms() + WAITED_MS)
    return clock


def require_closed_once(deals: list[Deal], price: str) -> None:
    """Closed, paid, told and published once each, at that price; nothing is left in Redis."""
    ids = [deal.pk for deal in deals]
    facts = set(Deal.objects.filter(pk__in=ids).values_list("status", "close_price"))
    assert facts == {("closed", Decimal(price))}
    assert sorted(LedgerEntry.objects.filter(kind="close").values_list("deal_id", flat=True)) == ids
    told = notifications().filter(kind="deal_closed")
    assert sorted(told.values_list("deal_id", flat=True)) == ids
    assert not told.filter(told_at=None).exists()
    assert (book.all_fired(), connect().zcard(keys.fired_at())) == ({}, 0)
    assert {in_book(deal_id) for deal_id in ids} == {NOT_IN_BOOK}


# --- the list -------------------------------------------------------------------------------------------------


def test_every_point_of_the_code_is_on_the_list_and_every_point_of_the_list_is_tested() -> None:
    calls = [
        node.args[0].value
        for folder in ("deals", "workers", "monitoring", "cryptocraze")
        for path in (PROJECT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "crash_point"
        if isinstance(node.args[0], ast.Constant)
    ]
    assert sorted(calls) == sorted(crash_points.POINTS)
    tested = [*OPENING, *ARMING_FIRED, *FIRING, *SETTLING, *ALONE, *BURYING_ALONE, *SWEEPING, *BURYING, *REQUEUEING]
    assert sorted([*tested, *SINGLE]) == sorted(crash_points.POINTS)


def test_a_crash_point_outside_of_tests_is_refused(settings: Any) -> None:
    settings.TESTING = False
    with pytest.raises(ImproperlyConfigured, match="for tests"):
        crash_points.arm("settle.before_commit")
    settings.TESTING = True
    for unknown in ("settle.nowhere", "settle.before_commit:soon"):
        with pytest.raises(ImproperlyConfigured, match="no such crash point"):
            crash_points.arm(unknown)
    crash_points.arm("")
    for name in crash_points.POINTS:
        crash_points.crash_point(name)  # and this process still lives


# --- opening, amending, closing by hand -----------------------------------------------------------------------


@pytest.mark.parametrize("point", OPENING)
def test_an_opening_that_is_killed_leaves_one_protected_deal_when_the_client_asks_again(
    market: Market, trader: Account, clock: TapeClock, crasher: Crasher, point: str
) -> None:
    market.tick("100")
    crasher.dies(point, "open_deal", trader.user_id, as_json(quote(market)), "110", "mine")
    assert Deal.objects.count() == (0 if point in NOT_COMMITTED else 1)
    if point not in NOT_COMMITTED:
        assert Deal.objects.get().monitoring == Monitoring.PENDING
        assert sweep.sweep(clock=clock).armed == 1
    deal = market.open(trader, take_profit="110", client_id="mine")
    assert Deal.objects.get().monitoring == Monitoring.ARMED
    trader.refresh_from_db()
    assert (trader.balance, trader.margin) == (9_900, 100)
    market.tick("111")
    close_deals(message())
    require_closed_once([deal], "111")


@pytest.mark.parametrize("point", ARMING_FIRED)
def test_a_deal_that_fires_while_it_is_armed_closes_although_its_opener_dies(
    market: Market, trader: Account, clock: TapeClock, crasher: Crasher, point: str
) -> None:
    market.tick("100")
    opened_at = quote(market)
    market.tick("111")
    crasher.dies(point, "open_deal", trader.user_id, as_json(opened_at), "110", "mine")
    assert queues.depth("closures") == (1 if point == "hand_over.after_message" else 0)
    sweep.sweep(clock=later(clock))
    assert queues.depth("closures") == 1, "sent again, but not behind a message that waits"
    close_deals(message())
    sweep.sweep(clock=clock)
    require_closed_once([Deal.objects.get()], "111")


def test_what_fires_at_a_level_that_was_amended_by_someone_who_died_closes_nothing(
    market: Market, trader: Account, crasher: Crasher
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    crasher.dies("change.before_signal", "amend", trader.user_id, deal.pk, as_json(quote(market)), "150")
    assert [item.version for item in market.tick("111")] == [1]
    assert close_deals(message()) == 0
    assert in_book(deal.pk) == (150.0, None, "2")
    market.tick("151")
    close_deals(message())
    require_closed_once([deal], "151")


def test_a_closure_by_hand_that_dies_after_its_commit_stands_and_is_told(
    market: Market, trader: Account, clock: TapeClock, crasher: Crasher
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    market.tick("101")
    crasher.dies("change.before_signal", "close_by_hand", deal.pk, as_json(quote(market)))
    assert len(market.tick("111")) == 1, "the book was never told"
    assert close_deals(message()) == 0
    sweep.sweep(clock=clock)
    require_closed_once([deal], "101")


# --- firing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", FIRING)
def test_a_prices_process_that_dies_while_it_fires_loses_nothing_to_the_one_that_stands_by(
    market: Market, trader: Account, clock: TapeClock, crasher: Crasher, point: str
) -> None:
    market.tick("100", trade_id=1)
    deals = [market.open(trader, take_profit="110") for _ in range(3)]
    market.close()
    standby = Market(clock=clock, token=next_token())
    standby.stand_by()
    clock.set(clock.now_ms() + 10)
    assert standby.tick("111", trade_id=2) == []
    crasher.dies(point, "tick", "111", clock.now_ms(), 2)
    assert len(book.all_fired()) == (0 if point == "fire.before_script" else 3)
    connect().delete(keys.lease(BTC), keys.lease(ETH))  # three seconds later
    assert standby.hold() == {BTC, ETH}
    clock.set(clock.now_ms() + 10)
    standby.tick("100", trade_id=3)
    sweep.sweep(clock=later(clock))
    assert {item.price for item in book.all_fired().values()} == {"111"}
    close_deals(message())
    require_closed_once(deals, "111")
    standby.close()


# --- settling -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", SETTLING)
def test_a_worker_that_dies_while_it_settles_has_closed_all_or_nothing_and_the_next_one_ends_it(
    market: Market, clock: TapeClock, crasher: Crasher, point: str
) -> None:
    market.tick("100")
    traders = [new_account() for _ in range(2)]
    deals = [market.open(traders[n % 2], take_profit="110") for n in range(6)]
    market.tick("111")
    batch = message()
    crasher.dies(point, "settle", batch)
    committed = SETTLING.index(point) >= SETTLING.index("settle.after_commit")
    assert Deal.objects.filter(status="closed").count() == (6 if committed else 0)
    assert close_deals(batch) == (0 if committed else 6), "the message is delivered again"
    assert close_deals(list(reversed(batch))) == 0
    assert sweep.sweep(clock=later(clock)).found == 0
    require_closed_once(deals, "111")


# --- settling without workers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ALONE)
def test_a_prices_process_that_dies_while_it_closes_by_itself_has_closed_and_the_next_one_tells(
    market: Market, clock: TapeClock, crasher: Crasher, point: str
) -> None:
    market.tick("100")
    traders = [new_account() for _ in range(2)]
    deals = [market.open(traders[n % 2], take_profit="110") for n in range(4)]
    market.tick("111")
    batch = message()
    crasher.dies(point, "close_here", batch, True, 1)
    assert Deal.objects.filter(status="closed").count() == 4
    assert len(book.all_fired()) == (4 if point == "alone.before_clearing" else 0)
    successor = Closer()
    assert len(successor.close(read_fired((deal_id, entry) for deal_id, entry in batch))) == 4
    assert successor.closed == 0
    assert sweep.sweep(clock=later(clock)).found == 0
    require_closed_once(deals, "111")


def test_a_prices_process_that_dies_without_redis_has_closed_what_the_next_one_takes_out_of_fired(
    market: Market, clock: TapeClock, crasher: Crasher
) -> None:
    market.tick("100")
    deal = market.open(new_account(), take_profit="110")
    market.tick("111")
    batch = message()
    crasher.dies("alone.before_clearing", "close_here", batch, False, 1)
    assert Deal.objects.get().status == "closed"
    assert close_deals(batch) == 0, "a worker has the message when Redis is back"
    sweep.sweep(clock=later(clock))
    require_closed_once([deal], "111")


@pytest.mark.parametrize("redis_answers", [True, False], ids=["broker away", "redis away"])
@pytest.mark.parametrize("point", BURYING_ALONE)
def test_a_prices_process_that_dies_while_it_buries_a_deal_leaves_one_letter(
    market: Market, clock: TapeClock, crasher: Crasher, point: str, redis_answers: bool
) -> None:
    trader = new_account()
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    Account.objects.filter(pk=trader.pk).update(total_volume=Decimal("9" * 22))  # its statistics overflow
    market.tick("111")
    batch = message()
    crasher.dies(point, "close_here", batch, redis_answers, MAX_RETRIES + 1)
    left = 1 if point == "alone.before_burying" else 0  # burying has told the book itself
    assert (DeadLetter.objects.count(), len(book.all_fired())) == (1 - left, left)
    assert crasher.do("", "close_here", batch, True, MAX_RETRIES + 1) == 0
    letter = DeadLetter.objects.get()
    assert (letter.deal, letter.price, letter.version, letter.attempts) == (deal, Decimal(111), 1, MAX_RETRIES + 1)
    assert Deal.objects.get().monitoring == Monitoring.DEAD
    assert Notification.objects.filter(kind="monitoring_failed").count() == 1
    assert book.all_fired() == {}
    Account.objects.filter(pk=trader.pk).update(total_volume=0)


def test_a_worker_whose_children_die_in_every_attempt_keeps_the_deals_for_a_healthy_one(
    market: Market, trader: Account, clock: TapeClock, celery_worker: Callable[..., Process]
) -> None:
    market.tick("100")
    deals = [market.open(trader, take_profit="110") for _ in range(3)]
    worker = celery_worker(queues="closures", env={"CRASH_AT": "settle.before_commit"})
    send_closures(market.tick("111"))
    worker.wait_for("signal 9", timeout_s=60)
    worker.stop(timeout_s=1)
    assert Deal.objects.filter(status="closed").count() == 0
    assert len(book.all_fired()) == 3
    celery_worker(queues="closures")

    def closed() -> bool:
        sweep.sweep(clock=later(clock))
        return not Deal.objects.filter(status="open").exists() and not book.all_fired()

    wait_until(closed, 30, "the healthy one closes them")
    require_closed_once(deals, "111")


def test_the_commit_time_that_a_dying_worker_did_not_write_down_is_found_by_housekeeping(
    market: Market, trader: Account, crasher: Crasher
) -> None:
    market.tick("100")
    market.open(trader, take_profit="110")
    market.tick("111")
    crasher.dies("settle.after_commit", "settle", message())
    settlement = Settlement.objects.get()
    assert settlement.committed_at is None
    housekeeping()
    settlement.refresh_from_db()
    assert settlement.committed_at is None, "its own process may still be about to"
    with connection.cursor() as cursor:
        cursor.execute("UPDATE settlements SET started_at = started_at - interval '1 hour' RETURNING clock_timestamp()")
        before = cursor.fetchone()[0]
    housekeeping()
    settlement.refresh_from_db()
    assert settlement.committed_at is not None
    assert abs((settlement.committed_at - before).total_seconds()) < 5


# --- the sweep and the rebuilding -----------------------------------------------------------------------------


@pytest.mark.parametrize("point", SWEEPING)
def test_a_sweep_that_dies_with_what_it_found_is_ended_by_the_next_one(
    market: Market, trader: Account, clock: TapeClock, crasher: Crasher, point: str
) -> None:
    market.tick("100")
    deals = [market.open(trader, take_profit="110") for _ in range(3)]
    for deal in deals:
        lose_from_book(deal)
    market.tick("112")
    crasher.dies(point, "sweep", clock.now_ms())
    assert {(item.price, item.detector) for item in book.all_fired().values()} == {("112", "sweep")}
    report = sweep.sweep(clock=later(clock))
    assert (report.found, report.resent, queues.depth("closures")) == (0, 3, 1)
    close_deals(message())
    require_closed_once(deals, "112")


def test_a_sweep_that_dies_before_it_sends_again_only_delays(
    market: Market, trader: Account, clock: TapeClock, crasher: Crasher
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    market.tick("111")
    crasher.dies("resend.before_sending", "sweep", later(clock).now_ms())
    assert queues.depth("closures") == 0
    assert sweep.sweep(clock=clock).resent == 0, "it was put off, as if it had been sent"
    for _ in range(3):
        sweep.sweep(clock=later(clock))
    assert queues.depth("closures") == 1
    close_deals(message())
    require_closed_once([deal], "111")


def test_monitoring_that_ends_while_the_sweep_dies_ends_once(
    market: Market, trader: Account, clock: TapeClock, crasher: Crasher
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    Deal.objects.update(watch_expires_at=to_datetime(clock.now_ms() - 1))
    crasher.dies("expire.before_rows", "sweep", clock.now_ms())
    assert in_book(deal.pk) == NOT_IN_BOOK
    assert Deal.objects.get().monitoring == Monitoring.ARMED
    assert sweep.sweep(clock=clock).expired == 1
    assert sweep.sweep(clock=clock).expired == 0
    assert Deal.objects.get().monitoring == Monitoring.EXPIRED
    assert Notification.objects.filter(kind="monitoring_expired").count() == 1


def test_a_rebuild_that_dies_goes_on_where_it_was(market: Market, trader: Account, crasher: Crasher) -> None:
    market.tick("100")
    deals = [market.open(trader, take_profit="110") for _ in range(3)]
    for deal in deals:
        lose_from_book(deal)
    connect().delete(keys.book_epoch())
    crasher.dies("rebuild.between_ranges:2", "rebuild")
    assert [in_book(deal.pk) == NOT_IN_BOOK for deal in deals] == [False, False, True]
    assert reconcile.reconcile() == 1
    assert connect().get(keys.book_epoch()) == system.server_run_id()
    assert {in_book(deal.pk) for deal in deals} == {(110.0, None, "1")}


# --- dead letters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", BURYING)
def test_a_worker_that_dies_while_it_buries_a_deal_leaves_one_letter(
    market: Market, trader: Account, crasher: Crasher, point: str
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    market.tick("111")
    [[deal_id, entry]] = message()
    crasher.dies(point, "bury", deal_id, entry)
    assert DeadLetter.objects.count() == (0 if point == "bury.before_commit" else 1)
    assert crasher.do("", "bury", deal_id, entry) == 0, "the message is delivered again"
    letter = DeadLetter.objects.get()
    assert (letter.deal, letter.price, letter.version, letter.state) == (deal, Decimal(111), 1, "failed")
    assert Deal.objects.get().monitoring == Monitoring.DEAD
    assert Notification.objects.filter(kind="monitoring_failed").count() == 1
    assert book.all_fired() == {}


@pytest.mark.parametrize("point", REQUEUEING)
def test_a_requeueing_that_dies_closes_the_deal_once_or_can_be_asked_for_again(
    market: Market, trader: Account, clock: TapeClock, crasher: Crasher, point: str
) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    market.tick("111")
    assert crasher.do("", "bury", *message()[0]) == 0
    letter = DeadLetter.objects.get()
    crasher.dies(point, "requeue", letter.pk)
    if point == "requeue.before_commit":
        assert close_deals(message()) == 0, "the entry of a transaction that was lost closes nothing"
        assert Deal.objects.get().monitoring == Monitoring.DEAD
    dead_letters.requeue(letter.pk, SYSTEM, "again")
    assert AuditEntry.objects.count() == 1
    sweep.sweep(clock=later(clock))
    close_deals(message())
    require_closed_once([deal], "111")
    letter.refresh_from_db()
    assert letter.state == "resolved"


def test_services_are_what_they_were_without_a_crash(market: Market, trader: Account) -> None:
    """The points are in the way of nothing: a deal's whole life in this process."""
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    market.amend(deal, take_profit="120")
    services.remove_from_monitoring(deal_id=deal.pk)
    services.add_to_monitoring(deal_id=deal.pk, quote=quote(market))
    market.tick("121")
    close_deals(message())
    sweep.sweep(clock=market.clock)
    require_closed_once([deal], "121")
