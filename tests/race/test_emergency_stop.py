"""After an emergency stop has answered no deal opens or closes, whatever was on its way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction
from domain import at_once, due, errors_of, new_account, opened, quote
from servers import wait_until

from deals import services, state
from deals.errors import Unavailable
from deals.models import Deal
from deals.queries import current_state
from deals.settlement import Report, settle

State = state.State
pytestmark = pytest.mark.django_db(transaction=True)

ENOUGH_REFUSALS = 3


@contextmanager
def threads_at_work(works: list[Callable[[threading.Event], Any]]) -> Iterator[list[Future[Any]]]:
    """Each work runs in a thread with a connection of its own, and gets an event that ends it."""
    done = threading.Event()

    def run(work: Callable[[threading.Event], Any]) -> Any:
        try:
            return work(done)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(works)) as pool:
        try:
            yield [pool.submit(run, work) for work in works]
        finally:
            done.set()


def closed_count() -> int:
    return Deal.objects.filter(status="closed").count()


def halted_in() -> float:
    """Stop at once; how many seconds it took."""
    began = time.monotonic()
    state.halt("test")
    return time.monotonic() - began


@pytest.mark.parametrize("stop_after", [1, 12, 30])
def test_no_deal_opens_or_closes_after_the_stop_has_answered_while_threads_keep_trying(stop_after: int) -> None:
    accounts = [new_account("1000000") for _ in range(3)]
    deals = [opened(account, take_profit="110", amount="1") for account in accounts for _ in range(100)]
    refusals = [0] * 7

    def keep_settling(worker: int, done: threading.Event) -> None:
        mine = iter(deals[worker::6])
        while not done.is_set():
            deal = next(mine, deals[0])
            try:
                settle([due(deal, "110")])
            except (Unavailable, OperationalError):
                refusals[worker] += 1

    def keep_opening(done: threading.Event) -> None:
        while not done.is_set():
            try:
                opened(accounts[0], amount="1")
            except (Unavailable, OperationalError):
                refusals[6] += 1

    with threads_at_work([*(partial(keep_settling, n) for n in range(6)), keep_opening]) as running:
        wait_until(lambda: closed_count() >= stop_after)
        took = halted_in()
        closed, all_deals = closed_count(), Deal.objects.count()
        wait_until(lambda: min(refusals) >= ENOUGH_REFUSALS)
        assert (closed_count(), Deal.objects.count()) == (closed, all_deals)
    assert [future.exception() for future in running] == [None] * 7
    assert (closed_count(), Deal.objects.count()) == (closed, all_deals)
    assert stop_after <= closed < len(deals)
    assert took < 1


@pytest.mark.parametrize("hang", ["idle in its transaction", "busy in a statement"])
def test_a_closer_that_hangs_in_its_transaction_is_ended_and_its_deal_stays_open(hang: str) -> None:
    deal = opened(new_account(), take_profit="110")
    settled = threading.Event()

    def close_and_hang(done: threading.Event) -> None:
        with transaction.atomic():
            assert len(settle([due(deal, "110")]).closed) == 1
            settled.set()
            if hang == "busy in a statement":
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_sleep(60)")
            done.wait(30)

    with threads_at_work([close_and_hang]) as (hanging,):
        assert settled.wait(10)
        assert halted_in() < 1
        assert closed_count() == 0
    assert isinstance(hanging.exception(), OperationalError)
    deal.refresh_from_db()
    assert (deal.status, deal.monitoring) == ("open", "pending")
    assert deal.ledger.filter(kind="close").count() == deal.notifications.count() == 0


def test_a_closer_that_waits_for_a_lock_is_ended_too() -> None:
    deal = opened(new_account(), take_profit="110")
    locked = threading.Event()

    def hold_the_row(done: threading.Event) -> None:
        with transaction.atomic():
            Deal.objects.select_for_update().get(pk=deal.pk)
            locked.set()
            done.wait(30)

    def settle_it(_done: threading.Event) -> Report:
        return settle([due(deal, "110")])

    with threads_at_work([hold_the_row]):
        assert locked.wait(10)
        with threads_at_work([settle_it]) as (waiting,):
            wait_until(lambda: lock_waiters() == 1)
            assert halted_in() < 1
            assert isinstance(waiting.exception(), OperationalError)
    assert closed_count() == 0


def lock_waiters() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'
            """
        )
        row = cursor.fetchone()
        assert row is not None
        return int(row[0])


def test_it_waits_for_a_closer_that_is_about_to_commit_and_its_closure_counts() -> None:
    deal = opened(new_account(), take_profit="110")
    settled = threading.Event()

    def close_slowly(_done: threading.Event) -> None:
        with transaction.atomic():
            settle([due(deal, "110")])
            settled.set()
            wait_until(lambda: current_state().state == "halted", what="the stop has begun")

    with threads_at_work([close_slowly]) as (closing,):
        assert settled.wait(10)
        state.halt("test")
        assert closed_count() == 1
        assert closing.exception() is None


@pytest.mark.parametrize("action", ["settle", "open"])
def test_who_has_waited_for_the_stop_reads_the_state_after_the_wait(action: str) -> None:
    account = new_account()
    deal = opened(account, take_profit="110")
    holding, halted = threading.Event(), threading.Event()

    def hold_the_lock(_done: threading.Event) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [state.STOP_LOCK])
            holding.set()
            assert halted.wait(10)

    def act(_done: threading.Event) -> None:
        with pytest.raises(Unavailable):
            settle([due(deal, "110")]) if action == "settle" else opened(account)

    with threads_at_work([hold_the_lock]) as (holder,):
        assert holding.wait(10)
        with threads_at_work([act]) as (acting,):
            wait_until(lambda: lock_waiters() == 1)
            state.change(State.HALTED, "test")  # committed while the other's first statement waits
            halted.set()
    assert [holder.exception(), acting.exception()] == [None, None]
    assert (closed_count(), Deal.objects.count()) == (0, 1)


def test_many_stops_at_once_all_answer() -> None:
    deal = opened(new_account(), take_profit="110")
    outcomes = at_once([partial(state.halt, "test")] * 8)
    assert errors_of(outcomes) == []
    assert current_state().state == "halted"
    with pytest.raises(Unavailable):
        services.close_deal(deal_id=deal.pk, quote=quote())


def test_an_emergency_stop_cannot_be_part_of_a_transaction_that_may_still_fail() -> None:
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        state.halt("test")
    assert current_state().state == "running"
