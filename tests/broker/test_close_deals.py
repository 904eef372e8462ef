"""Closing by real Celery workers: exactly once, whatever is delivered twice, poisoned, cut off or killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from django.db import connection
from domain import new_account
from market import NOT_IN_BOOK, Market, in_book, messages
from servers import Process, wait_until

from deals import services, state
from deals.history import history
from deals.models import Account, Deal, LedgerEntry, Monitoring, Notification, Settlement, Status
from deals.queries import current_state, notifications
from workers import book, control, keys, sweep
from workers.audit import SYSTEM
from workers.clock import TapeClock
from workers.dispatch import send_closures
from workers.manager import worker_manager
from workers.models import DeadLetter
from workers.redis_client import connect
from workers.tasks import close_deals

StartWorker = Callable[..., Process]


def open_count() -> int:
    return Deal.objects.filter(status=Status.OPEN).count()


def all_closed() -> bool:
    return open_count() == 0 and book.all_fired() == {}


def said(event: str, *workers: Process) -> list[dict[str, Any]]:
    """What the workers logged under this name."""
    lines = [line for worker in workers for line in worker.output.splitlines() if f'"{event}"' in line]
    return [json.loads(line) for line in lines]


def named(event: str, *workers: Process) -> list[int]:
    """The deals that the workers named in lines of this name, each as often as it was named."""
    return sorted(deal_id for line in said(event, *workers) for deal_id in line.get("deal_ids") or [line["deal_id"]])


@contextlib.contextmanager
def locked(deal: Deal) -> Iterator[psycopg.Connection[Any]]:
    """Another session holds the deal's row: whoever settles it waits, in the middle of its work."""
    facts = connection.get_connection_params()
    keep = ("dbname", "user", "password", "host", "port")
    with psycopg.connect(**{name: facts[name] for name in keep if facts.get(name)}) as other:
        other.execute("SELECT 1 FROM deals WHERE id = %s FOR UPDATE", [deal.pk])
        yield other


def waiting_backends() -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return [row[0] for row in cursor.fetchall()]


def children(process: Process) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


# --- once -------------------------------------------------------------------------------------------------------


def test_a_batch_closes_with_money_statistics_history_and_messages(
    market: Market, celery_worker: StartWorker, redis_client: redis.Redis
) -> None:
    worker = celery_worker(concurrency=2)
    market.tick("100")
    traders = [new_account() for _ in range(4)]
    deals = [market.open(traders[n % 4], take_profit="110", stop_loss="90") for n in range(40)]
    with redis_client.pubsub() as pubsub:
        pubsub.subscribe(keys.closures(), *(keys.notifications(trader.user_id) for trader in traders))
        send_closures(market.tick("111", trade_id=77))
        wait_until(all_closed, what="all are closed")
        wait_until(lambda: not notifications().filter(told_at=None).exists(), what="published")
        heard = messages(pubsub)
    # gross = 1000 × 11 / 100 = 110, commission = 1000 × 0.0005 = 0.5
    facts = {(deal.close_price, deal.close_reason, deal.detector, deal.profit) for deal in Deal.objects.all()}
    assert facts == {(Decimal(111), "take_profit", "tick", Decimal("109.5"))}
    for trader in traders:
        trader.refresh_from_db()
        assert (trader.balance, trader.margin) == (Decimal(11_095), 0)
        assert (trader.closed_deals, trader.winning_deals, trader.largest_profit) == (10, 10, Decimal("109.5"))
    deal = Deal.objects.get(pk=deals[0].pk)
    assert [event.kind for event in history(deal.events.all())] == ["opened", "armed", "fired", "closed"]
    assert deal.close_trade_id == 77
    assert deal.received_at is not None
    assert deal.fired_at is not None
    assert deal.started_at is not None
    assert deal.closed_at is not None
    assert deal.received_at <= deal.fired_at <= deal.started_at <= deal.closed_at
    assert Settlement.objects.filter(committed_at=None).count() == 0
    told = [message for message in heard if isinstance(message, dict)]
    assert sorted(message["dealId"] for message in told) == [deal.pk for deal in deals]
    announced = [closure["dealId"] for message in heard if isinstance(message, list) for closure in message]
    assert sorted(announced) == [deal.pk for deal in deals]
    assert named("deal.closed", worker) == [deal.pk for deal in deals]
    [line] = said("deal.closed", worker)
    assert (line["deals"], line["symbol"], line["reason"], line["price"]) == (40, "BTCUSDT", "take_profit", "111")
    assert line["profit"] == "4380"  # 40 × 109.5


def test_a_message_delivered_twice_and_to_two_workers_closes_once(
    market: Market, celery_worker: StartWorker, redis_client: redis.Redis
) -> None:
    market.tick("100")
    traders = [new_account() for _ in range(3)]
    deals = [market.open(traders[n % 3], take_profit="110") for n in range(60)]
    fired = market.tick("111")
    for _ in range(4):
        send_closures(fired)
        send_closures(list(reversed(fired)))
    workers = [celery_worker(concurrency=2), celery_worker(concurrency=2)]
    with redis_client.pubsub() as pubsub:
        pubsub.subscribe(*(keys.notifications(trader.user_id) for trader in traders))
        wait_until(lambda: len(named("deal.skipped", *workers) + named("deal.closed", *workers)) >= 8 * 60)
    assert open_count() == 0
    assert LedgerEntry.objects.filter(kind="close").count() == 60
    assert Notification.objects.filter(kind="deal_closed").count() == 60
    assert named("deal.closed", *workers) == [deal.pk for deal in deals]
    assert named("deal.skipped", *workers) == sorted(7 * [deal.pk for deal in deals])
    assert book.all_fired() == {}
    assert not said("closures.retry", *workers)


def test_what_is_not_due_any_more_is_left_alone(
    market: Market, trader: Account, celery_worker: StartWorker, settings: Any
) -> None:
    market.tick("100")
    amended, by_hand, removed, due = (market.open(trader, take_profit="110") for _ in range(4))
    fired = market.tick("111")
    settings.STATIC_ONLY = True  # the processes that changed them died before they told the book
    market.amend(amended, take_profit="150")
    services.close_deal(deal_id=by_hand.pk, quote=_quote(market))
    services.remove_from_monitoring(deal_id=removed.pk)
    settings.STATIC_ONLY = False
    close_deals.apply_async(args=([[due.pk, "a damaged entry"]],))
    send_closures(fired)
    worker = celery_worker()
    wait_until(lambda: book.all_fired() == {}, what="nothing waits")
    wait_until(lambda: in_book(amended.pk) == (150.0, None, "2"), what="armed as it stands")
    for deal in (amended, by_hand, removed, due):
        deal.refresh_from_db()
    wait_until(lambda: Deal.objects.get(pk=amended.pk).monitoring == Monitoring.ARMED, what="written down")
    assert (amended.status, removed.status, removed.monitoring) == ("open", "open", Monitoring.REMOVED)
    assert (by_hand.close_reason, by_hand.detector) == ("manual", "manual")
    assert (due.close_reason, due.close_price) == ("take_profit", Decimal(111))
    assert in_book(removed.pk) == NOT_IN_BOOK
    assert set(named("deal.skipped", worker)) == {amended.pk, by_hand.pk, removed.pk}
    assert DeadLetter.objects.count() == 0


def _quote(market: Market) -> Any:
    from workers.prices import RedisQuoteBoard

    return RedisQuoteBoard(market.clock).quote("BTCUSDT")


# --- a poison deal ----------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_poison_deal_blocks_no_other_and_ends_as_a_dead_letter(
    market: Market, celery_worker: StartWorker, redis_client: redis.Redis
) -> None:
    market.tick("100")
    poisoned, healthy = new_account(), new_account()
    # Its statistics overflow: settling it is a data error, every time.
    Account.objects.filter(pk=poisoned.pk).update(total_volume=Decimal("9" * 22))
    others = [market.open(healthy, take_profit="110", amount=Decimal(10)) for _ in range(60)]
    poison = market.open(poisoned, take_profit="110")
    others += [market.open(healthy, take_profit="110", amount=Decimal(10)) for _ in range(60)]
    fired = market.tick("111", trade_id=5)
    worker = celery_worker()
    with redis_client.pubsub() as pubsub:
        pubsub.subscribe(keys.notifications(poisoned.user_id))
        send_closures(fired)
        wait_until(lambda: open_count() == 1, timeout_s=1.9, what="the others close before the first retry")
        assert not DeadLetter.objects.exists()
        wait_until(DeadLetter.objects.exists, what="a dead letter")
        wait_until(lambda: book.all_fired() == {}, what="it has left `fired`")
        heard = messages(pubsub)
    poison.refresh_from_db()
    assert (poison.status, poison.monitoring) == ("open", Monitoring.DEAD)
    assert in_book(poison.pk) == NOT_IN_BOOK
    letter = DeadLetter.objects.get()
    item = next(item for item in fired if item.deal_id == poison.pk)
    assert (letter.deal_id, letter.version, letter.price, letter.fired) == (poison.pk, 1, Decimal(111), item.entry)
    assert (letter.attempts, letter.error_class, letter.state) == (3, "DataError", "failed")
    assert "numeric field overflow" in letter.error
    assert (letter.last_failed_at - letter.first_failed_at).total_seconds() == pytest.approx(6, abs=1.5)
    attempts = list(poison.events.filter(kind="attempt").order_by("pk").values_list("at", flat=True))
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(attempts)]
    assert gaps == pytest.approx([2, 4], abs=0.9)
    assert [message["kind"] for message in heard] == ["monitoring_failed"]
    assert named("deal.closed", worker) == sorted(deal.pk for deal in others)
    assert sweep.sweep(clock=market.clock).found == 0
    Account.objects.filter(pk=poisoned.pk).update(total_volume=0)


# --- cut off and killed -----------------------------------------------------------------------------------------


def test_a_lost_database_connection_is_tried_again_and_never_a_dead_letter(
    market: Market, trader: Account, celery_worker: StartWorker
) -> None:
    market.tick("100")
    deals = [market.open(trader, take_profit="110") for _ in range(3)]
    worker = celery_worker()
    with locked(deals[1]):
        send_closures(market.tick("111"))
        wait_until(waiting_backends, what="the worker is in the middle of its settlement")
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [waiting_backends()[0]])
        wait_until(lambda: said("closures.retry", worker), what="it says that it tries again")
    wait_until(all_closed, what="the second attempt closes them")
    assert LedgerEntry.objects.filter(kind="close").count() == 3
    assert not DeadLetter.objects.exists()


def test_a_killed_child_leaves_its_message_to_the_next_one(
    market: Market, trader: Account, celery_worker: StartWorker
) -> None:
    market.tick("100")
    deals = [market.open(trader, take_profit="110") for _ in range(3)]
    worker = celery_worker()
    with locked(deals[1]):
        send_closures(market.tick("111"))
        wait_until(waiting_backends, what="the worker is in the middle of its settlement")
        for pid in children(worker):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not waiting_backends(), what="PostgreSQL has noticed")
        assert open_count() == 3
    wait_until(all_closed, what="redelivered and closed")
    assert LedgerEntry.objects.filter(kind="close").count() == 3


def test_a_killed_worker_loses_nothing_because_the_sweep_sends_again(
    market: Market, trader: Account, celery_worker: StartWorker, clock: TapeClock
) -> None:
    market.tick("100")
    deals = [market.open(trader, take_profit="110") for _ in range(3)]
    worker = celery_worker()
    with locked(deals[1]):
        send_closures(market.tick("111"))
        wait_until(waiting_backends, what="the worker is in the middle of its settlement")
        os.killpg(worker.pid, signal.SIGKILL)
        wait_until(lambda: not waiting_backends(), what="PostgreSQL has noticed")
    assert open_count() == 3
    celery_worker()
    clock.set(clock.now_ms() + 6_000)
    report = sweep.sweep(clock=clock)
    assert (report.resent, report.found) == (3, 0)
    wait_until(all_closed, what="closed by the other worker")
    assert {deal.close_price for deal in Deal.objects.all()} == {Decimal(111)}


def test_a_worker_that_is_told_to_end_finishes_its_batch_first(
    market: Market, trader: Account, celery_worker: StartWorker
) -> None:
    market.tick("100")
    deals = [market.open(trader, take_profit="110") for _ in range(3)]
    worker = celery_worker()
    with locked(deals[1]) as other:
        send_closures(market.tick("111"))
        wait_until(waiting_backends, what="the worker is in the middle of its settlement")
        worker.signal(signal.SIGTERM)
        worker.wait_for("Initiating Soft Shutdown")
        assert open_count() == 3
        other.rollback()
        wait_until(all_closed, timeout_s=4, what="it has closed them")
    assert worker.process.wait(20) == 0
    assert LedgerEntry.objects.filter(kind="close").count() == 3
    assert named("deal.closed", worker) == sorted(deal.pk for deal in deals)
    assert connect().hlen("unacked") == 0  # nothing is left that another worker would be given again


# --- stopped ----------------------------------------------------------------------------------------------------


def test_while_halted_nothing_settles_and_what_fired_closes_at_its_price_after_resuming(
    market: Market, trader: Account, celery_worker: StartWorker, clock: TapeClock
) -> None:
    market.tick("100")
    market.open(trader, take_profit="110")
    fired = market.tick("111")
    state.change(state.State.HALTED, "test")
    send_closures(fired)
    worker = celery_worker()
    wait_until(lambda: said("closures.refused", worker), what="the worker refuses")
    clock.set(clock.now_ms() + 60_000)
    assert sweep.sweep(clock=clock).resent == 0
    assert open_count() == 1
    assert {item.entry for item in book.all_fired().values()} == {fired[0].entry}
    worker_manager.resume("test")  # sends again at once what had fired
    wait_until(all_closed, what="closed after resuming")
    assert Deal.objects.get().close_price == Decimal(111)


def test_a_stopped_system_finishes_what_is_in_flight(
    market: Market, trader: Account, celery_worker: StartWorker
) -> None:
    market.tick("100")
    market.open(trader, take_profit="110")
    market.open(trader, take_profit="120")
    fired = market.tick("111")
    stopping = control.shutdown("test", SYSTEM)
    wait_until(lambda: current_state().state == "draining", what="nothing fires any more")
    wait_until(lambda: connect().get(keys.state()) == f"{current_state().version}:draining", what="Redis knows")
    assert market.tick("125") == []
    send_closures(fired)
    celery_worker()
    assert stopping.wait(30).state == "done"
    wait_until(lambda: open_count() == 1, what="what had fired closes")
