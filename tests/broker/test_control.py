"""Shutting down, restarting, resuming and stopping at once: with real workers, on the real book."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from celery import current_app
from django.db import connections
from domain import new_account
from market import Market, in_book, lose_from_book
from servers import Process, Valkey, wait_until

from deals import services, state
from deals.errors import Conflict, Unavailable
from deals.models import Deal, LedgerEntry, Status, SystemState
from deals.queries import current_state
from workers import book, control, in_flight, keys, operations, pools, self_check, sweep, system
from workers.audit import Actor
from workers.clock import WALL_CLOCK
from workers.dispatch import send_closures
from workers.manager import worker_manager
from workers.models import AuditEntry, Operation
from workers.operations import Run, Started
from workers.redis_client import connect

StartWorker = Callable[..., Process]
State = state.State
BOSS = Actor("boss", "10.0.0.1")


def ended(started: Started, timeout_s: float = 60) -> Operation:
    operation = started.wait(timeout_s)
    assert operation.state != Operation.State.RUNNING, operation.steps
    return operation


def step_names(operation: Operation) -> list[str]:
    return [step["name"] for step in operation.steps]


def state_now() -> str:
    return current_state().state


# --- shutdown -----------------------------------------------------------------------------------------------------


def test_a_shutdown_finishes_what_is_in_flight_and_then_nothing_fires(live: Market, celery_worker: StartWorker) -> None:
    trader = new_account()
    live.tick("100")
    deals = [live.open(trader, take_profit="110", amount=Decimal(1)) for _ in range(30)]
    later = live.open(trader, take_profit="120")
    send_closures(live.tick("111"))
    celery_worker()
    operation = ended(control.shutdown("maintenance", BOSS))
    assert (operation.state, operation.error) == ("done", "")
    assert step_names(operation) == ["draining", "drain"]
    assert (state_now(), connect().get(keys.state())) == ("stopped", f"{current_state().version}:stopped")
    assert Deal.objects.filter(status=Status.CLOSED).count() == len(deals)
    assert live.tick("121") == []
    assert sweep.sweep().found == 0
    later.refresh_from_db()
    assert later.status == Status.OPEN
    with pytest.raises(Unavailable):
        live.open(trader)


def test_stopping_twice_answers_the_state(live: Market) -> None:
    ended(control.shutdown("one", BOSS))
    again = ended(control.shutdown("two", BOSS))
    assert (again.state, again.steps[-1]["outcome"]) == ("done", "the system is stopped already")
    assert SystemState.objects.get().reason == "one"


def test_a_shutdown_says_after_its_timeout_what_still_runs(live: Market) -> None:
    live.tick("100")
    live.open(new_account(), take_profit="110")
    send_closures(live.tick("111"))  # and no worker takes it
    started = control.shutdown("maintenance", BOSS, timeout_s=0.5)
    operation = ended(started)
    assert (operation.state, started.timed_out, state_now()) == ("failed", True, "draining")
    assert operation.error == "after 0.5 s: 1 messages in the queue `closures`, 1 fired deals not settled"
    assert AuditEntry.objects.order_by("pk").last().outcome == operation.error  # type: ignore[union-attr]


def test_a_fired_deal_whose_message_was_lost_is_sent_again_while_draining(
    live: Market, celery_worker: StartWorker
) -> None:
    live.tick("100")
    deal = live.open(new_account(), take_profit="110")
    live.tick("111")  # never sent
    connect().zadd(keys.fired_at(), {str(deal.pk): WALL_CLOCK.now_ms() - 10_000})
    celery_worker()
    assert ended(control.shutdown("maintenance", BOSS)).state == "done"
    deal.refresh_from_db()
    assert (deal.status, deal.close_price) == ("closed", Decimal(111))


def test_users_may_close_by_hand_while_the_system_is_stopped(live: Market) -> None:
    live.tick("100")
    deal = live.open(new_account(), take_profit="110")
    worker_manager.shutdown("maintenance")
    services.close_deal(deal_id=deal.pk, quote=system.RedisQuoteBoard().quote("BTCUSDT"))
    assert in_flight.look(deal.opened_at) == (0, 0, 0, 0, "")


# --- resume -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", ["shutdown", "emergency_stop"])
def test_after_resuming_each_deal_closes_as_it_should(live: Market, celery_worker: StartWorker, stop: str) -> None:
    trader = new_account()
    live.tick("100")
    fired, beyond, came_back = (live.open(trader, take_profit=level) for level in ("110", "115", "125"))
    live.tick("111")
    if stop == "shutdown":
        control.shutdown("test", BOSS, timeout_s=0.1).wait(10)
        control.resume("not yet", BOSS).wait(10)
        state.change(State.STOPPED, "test")
        system.refresh_state()
    else:
        worker_manager.emergency_stop("test")
    live.tick("130", "118")
    assert live.sent == [book.all_fired()[fired.pk]]
    worker_manager.resume("over")
    assert live.tick("118") == [book.all_fired()[beyond.pk]]
    celery_worker()
    send_closures(list(book.all_fired().values()))
    wait_until(lambda: Deal.objects.filter(status=Status.CLOSED).count() == 2, 20)
    swept = sweep.sweep()
    assert swept.found == 0
    prices = dict(Deal.objects.values_list("pk", "close_price"))
    assert prices == {fired.pk: Decimal(111), beyond.pk: Decimal(118), came_back.pk: None}


def test_resuming_a_running_system_changes_nothing(live: Market) -> None:
    live.tick("100")
    deal = live.open(new_account(), take_profit="110")
    live.tick("105")
    operation = worker_manager.resume("why not")
    assert operation.steps[-1]["outcome"] == "the system was running already"
    before = deal.watched_from_seq
    deal.refresh_from_db()
    assert deal.watched_from_seq == before


# --- restart ------------------------------------------------------------------------------------------------------


def test_a_restart_replaces_the_pools_mends_the_book_and_proves_it(live: Market, celery_worker: StartWorker) -> None:
    trader = new_account()
    live.tick("100")
    deals = [live.open(trader, take_profit="110", amount=Decimal(1)) for _ in range(5)]
    lose_from_book(deals[0])
    connect().hset(keys.versions("BTCUSDT"), "999999", "1")  # a stranger
    celery_worker(concurrency=2)
    operation = ended(control.restart("new settings", BOSS))
    assert (operation.state, operation.error, state_now()) == ("done", "", "running")
    assert step_names(operation) == ["draining", "drain", "pools", "book", "counts", "resume", "self-check"]
    outcomes = {step["name"]: step["outcome"] for step in operation.steps}
    assert outcomes["counts"] == "5 watched in PostgreSQL = 5 in the book + 0 fired"
    assert in_book(deals[0].pk)[0] == 110.0
    check = Deal.objects.get(symbol=self_check.SYMBOL)
    assert (check.status, check.close_price, check.detector) == ("closed", Decimal("101.5"), "tick")
    assert [fired.deal_id for fired in live.tick("110")] == [deal.pk for deal in deals]
    assert list(AuditEntry.objects.order_by("pk").values_list("who", "source", "action", "reason", "outcome")) == [
        ("boss", "10.0.0.1", "restart", "new settings", "requested"),
        ("boss", "10.0.0.1", "restart", "new settings", "done"),
    ]


def test_beat_answers_pings_and_is_taken_for_no_worker(
    live: Market, celery_worker: StartWorker, start_process: StartWorker
) -> None:
    start_process("celery", "beat")
    wait_until(lambda: "celerybeat@" in str(current_app.control.ping(timeout=1)), what="beat answers")
    assert pools.alive() == []
    celery_worker()
    assert len(pools.alive()) == 1
    operation = ended(control.restart("with beat", BOSS))
    assert (operation.state, operation.error, state_now()) == ("done", "", "running")


def test_a_restart_without_workers_says_so_and_stays_stopped(live: Market) -> None:
    operation = ended(control.restart("test", BOSS))
    assert (operation.state, operation.error, state_now()) == ("failed", "no worker answers: start one", "stopped")
    with pytest.raises(Conflict, match="no worker answers"):
        worker_manager.restart("again")


def test_a_restart_whose_self_check_fails_stays_stopped(
    live: Market, celery_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "SELF_CHECK_TIMEOUT_S", 1.0)
    celery_worker(queues="sweep,default")  # nobody closes deals
    operation = ended(control.restart("test", BOSS))
    assert operation.state == "failed"
    assert "fired, but no worker closed it" in operation.error
    assert (state_now(), connect().get(keys.state())) == ("stopped", f"{current_state().version}:stopped")
    assert live.tick("100") == []
    celery_worker(queues="closures")
    assert ended(control.restart("mended", BOSS)).state == "done"
    checks = Deal.objects.filter(symbol=self_check.SYMBOL)
    assert set(checks.values_list("status", flat=True)) == {"closed"}


def test_a_halted_system_is_not_restarted_by_accident(live: Market) -> None:
    worker_manager.emergency_stop("fire")
    with pytest.raises(Conflict) as refused:
        control.restart("test", BOSS)
    assert refused.value.code == "system_halted"
    assert ended(control.shutdown("test", BOSS)).steps[-1]["outcome"] == "the system is halted already"
    assert state_now() == "halted"


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_workers_whose_pools_have_no_processes_are_restarted_as_they_are(
    live: Market, celery_worker: StartWorker, pool: str
) -> None:
    celery_worker("-P", pool)
    operation = ended(control.restart("test", BOSS))
    assert (operation.state, operation.error) == ("done", "")


def test_a_worker_that_starts_reads_the_state_before_it_consumes(live: Market, celery_worker: StartWorker) -> None:
    live.tick("100")
    deal = live.open(new_account(), take_profit="110")
    send_closures(live.tick("111"))
    worker_manager.emergency_stop("fire")
    connect().delete(keys.state())  # Redis has forgotten it
    worker = celery_worker()
    lines = [json.loads(line) for line in worker.output.splitlines() if line.startswith("{")]
    assert [line["state"] for line in lines if line["event"] == "worker.state"] == ["halted"]
    assert connect().get(keys.state()) == f"{current_state().version}:halted"
    wait_until(lambda: not in_flight.look(deal.opened_at).queued, 20)
    worker.wait_for("closures.refused")
    deal.refresh_from_db()
    assert deal.status == Status.OPEN
    worker_manager.resume("over")
    wait_until(lambda: Deal.objects.get(pk=deal.pk).close_price == Decimal(111), 20)


# --- emergency stop -----------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_an_emergency_stop_does_not_wait_for_a_restart_which_then_ends(live: Market) -> None:
    live.tick("100")
    live.open(new_account(), take_profit="110")
    send_closures(live.tick("111"))  # the restart waits for it
    restarting = control.restart("test", BOSS)
    wait_until(lambda: state_now() == "draining")
    with pytest.raises(Conflict, match="is running"):
        control.resume("test", BOSS)
    began = time.monotonic()
    worker_manager.emergency_stop("fire")
    assert time.monotonic() - began < 1
    celery_consumed = connect().delete(keys.fired())
    assert celery_consumed == 1
    from celery import current_app

    current_app.control.purge()
    operation = ended(restarting)
    assert (operation.state, operation.error) == ("failed", "someone else changed the state: it is halted")
    assert state_now() == "halted"


@pytest.mark.alone
def test_an_emergency_stop_answers_within_a_second_while_redis_hangs(
    live: Market, valkey: Valkey, settings: Any
) -> None:
    import signal

    settings.REDIS_URL = valkey.url
    connect.cache_clear()
    try:
        valkey.process.signal(signal.SIGSTOP)
        began = time.monotonic()
        operation = worker_manager.emergency_stop("fire")
        assert time.monotonic() - began < 1
        assert (operation.state, state_now()) == ("done", "halted")
    finally:
        valkey.process.signal(signal.SIGCONT)
        wait_until(lambda: not [t for t in threading.enumerate() if t.name == "tell-redis"])
        connect().close()
        connect.cache_clear()


@pytest.mark.alone
def test_after_an_emergency_stop_in_a_mass_trigger_the_number_of_closed_deals_never_changes(
    live: Market, celery_worker: StartWorker
) -> None:
    traders = [new_account("1000000") for _ in range(10)]
    live.tick("100")
    deals = [live.open(traders[n % 10], take_profit="110", amount=Decimal(1)) for n in range(600)]
    for _ in range(2):
        celery_worker(queues="closures", concurrency=2)
    fired = live.tick("111")
    for start in range(0, len(fired), 5):
        send_closures(fired[start : start + 5])
    wait_until(lambda: closed_count() >= 20, 30)
    began = time.monotonic()
    worker_manager.emergency_stop("fire")
    assert time.monotonic() - began < 1
    closed = closed_count()
    assert closed < len(deals)
    wait_until(lambda: not in_flight.look(deals[0].opened_at).queued, 30, what="the workers refused the rest")
    assert sweep.sweep().found == 0
    assert closed_count() == closed
    worker_manager.resume("over")
    wait_until(lambda: closed_count() == len(deals), 30)
    assert set(Deal.objects.values_list("close_price", flat=True)) == {Decimal(111)}
    assert LedgerEntry.objects.filter(kind="close").count() == len(deals)


def closed_count() -> int:
    return Deal.objects.filter(status=Status.CLOSED).count()


# --- under load ---------------------------------------------------------------------------------------------------


class Exchange:
    """Another service that publishes prices of one symbol, rising by one each time, in a thread of its own."""

    def __init__(self, client: Any, last: int) -> None:
        self._client = client
        self._last = last
        self._done = threading.Event()
        self.thread = threading.Thread(target=self._publish)

    def _publish(self) -> None:
        price = 1000
        while not self._done.wait(0.02):
            price = min(price + 1, self._last)
            tick = {"symbol": "BTCUSDT", "price": str(price), "timestamp": WALL_CLOCK.now_ms()}
            self._client.publish(keys.price_update("BTCUSDT"), json.dumps(tick))

    def __enter__(self) -> Exchange:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.thread.join()


def sweeping(done: threading.Event) -> None:
    while not done.wait(1):
        sweep.sweep()
    connections.close_all()


def test_a_restart_under_load_loses_and_doubles_no_closure(
    transactional_db: None,
    the_system_runs: None,
    celery_worker: StartWorker,
    start_process: Callable[..., Process],
    redis_client: Any,
) -> None:
    system.refresh_state()
    traders = [new_account("1000000") for _ in range(5)]
    celery_worker(queues="closures,default", concurrency=2)
    engine = start_process("manage.py", "run_prices", "--source", "redis", "--symbols", "BTCUSDT")
    engine.wait_for("prices.leases")
    done = threading.Event()
    sweeper = threading.Thread(target=sweeping, args=(done,))
    with Exchange(redis_client, last=1400):
        wait_until(lambda: connect().hget(keys.price("BTCUSDT"), "price"))
        quote = system.RedisQuoteBoard().quote("BTCUSDT")
        deals = [
            services.open_deal(
                user_id=traders[n % 5].user_id, symbol="BTCUSDT", direction="up", amount=Decimal(1), multiplier=1,
                quote=quote, take_profit=Decimal(1050 + n),
            )
            for n in range(300)
        ]  # fmt: skip
        sweeper.start()
        wait_until(lambda: closed_count() > 5, 30)
        for _ in range(2):
            operation = worker_manager.restart("under load")
            assert step_names(operation)[-1] == "self-check"
        own = Deal.objects.filter(symbol="BTCUSDT")
        wait_until(lambda: not own.filter(status=Status.OPEN).exists(), 40, what="all are closed")
        done.set()
        sweeper.join()
    assert LedgerEntry.objects.filter(kind="close", deal__symbol="BTCUSDT").count() == len(deals)
    assert not own.exclude(close_reason="take_profit").exists()
    below = [deal for deal in own if deal.close_price is None or deal.close_price < (deal.take_profit or 0)]
    assert below == []


# --- the machinery ------------------------------------------------------------------------------------------------


def test_asking_twice_for_the_same_joins_the_one_that_runs(live: Market) -> None:
    gate = threading.Event()

    def work(_run: Run) -> None:
        gate.wait(20)

    first = operations.start(Operation.Kind.SHUTDOWN, "one", BOSS, work)
    second = operations.start(Operation.Kind.SHUTDOWN, "two", BOSS, work)
    assert second.operation_id == first.operation_id
    assert second.wait(0.1).state == "running"
    gate.set()
    assert second.wait(10).state == "done"
    assert first.wait(10).state == "done"


def test_an_operation_whose_process_was_killed_is_abandoned_until_a_resume(
    live: Market, start_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    live.tick("100")
    live.open(new_account(), take_profit="110")
    send_closures(live.tick("111"))
    code = (
        "from workers import control; from workers.audit import SYSTEM; "
        "control.shutdown('test', SYSTEM, timeout_s=60).wait(60)"
    )
    process = start_process("manage.py", "shell", "-v", "0", "-c", code)
    wait_until(lambda: state_now() == "draining", 30)
    assert operations.running() is not None
    process.kill()
    assert operations.abandoned() == []
    monkeypatch.setattr(operations, "ABANDONED_AFTER", operations.ABANDONED_AFTER / 10)
    wait_until(lambda: len(operations.abandoned()) == 1, 10)
    worker_manager.resume("it died")
    assert operations.abandoned() == []
    assert list(Operation.objects.order_by("pk").values_list("kind", "state")) == [
        ("shutdown", "abandoned"),
        ("resume", "done"),
    ]
    assert state_now() == "running"


def test_a_crash_in_the_work_is_said_and_the_lock_is_free_again(live: Market) -> None:
    def work(_run: Run) -> None:
        raise ZeroDivisionError("oops")

    operation = ended(operations.start(Operation.Kind.RESTART, "test", BOSS, work))
    assert (operation.state, operation.error) == ("failed", "ZeroDivisionError: oops")
    assert ended(control.resume("test", BOSS)).state == "done"


def test_an_interrupted_operation_fails_and_says_so(live: Market) -> None:
    live.tick("100")
    live.open(new_account(), take_profit="110")
    send_closures(live.tick("111"))
    started = control.shutdown("test", BOSS)
    wait_until(lambda: state_now() == "draining")
    started.cancel()
    assert (started.now().state, started.now().error, state_now()) == ("failed", "interrupted", "draining")
