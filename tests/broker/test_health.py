"""Health: every reason to be unhealthy, caused; and a system without one, healthy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from celery import current_app
from django.test import Client
from django.utils import timezone
from market import BTC, Market, lose_from_book
from servers import Valkey

from deals import services, state
from deals.models import Account, Deal, DealEvent, Monitoring
from deals.settlement import settle
from monitoring import health, probes, verdicts
from monitoring.health import Report
from monitoring.verdicts import Check
from workers import book, keys, reconcile, sweep, system
from workers.clock import TapeClock
from workers.heartbeats import Sign
from workers.models import DeadLetter, JobLog, Operation
from workers.queues import SENT_HEADER
from workers.redis_client import connect
from workers.sweep import SweepReport

LIMIT_S = 2.0


@pytest.fixture
def signs(market: Market) -> None:
    """A system in order: all processes give signs, the book is complete, a sweep has just run."""
    Sign("prices", "test").write({"held": [BTC]})
    Sign("beat", "test").write({})
    Sign("worker", "test").write({"queues": ["closures", "sweep", "default"], "concurrency": 1})
    reconcile.reconcile()
    sweep.remember(SweepReport())
    market.tick("100")


@pytest.fixture(autouse=True)
def forget_clients() -> Iterator[None]:
    """Clients that were made for another server."""
    yield
    probes._redis_client.cache_clear()


def checks(report: Report) -> dict[str, Check]:
    return {f"{c.name}.{check.name}": check for c in report.components for check in c.checks}


def bad(report: Report | None = None) -> dict[str, Check]:
    return {name: check for name, check in checks(report or health.report()).items() if not check.is_healthy}


def only_bad(name: str) -> Check:
    found = bad()
    assert set(found) == {name}
    assert found[name].since is not None
    assert found[name].reason
    return found[name]


def closed_deal(market: Market, trader: Account, detector: str = "tick") -> Deal:
    """A deal that was closed by a settlement just now."""
    deal = market.open(trader, take_profit="110")
    market.tick("111")
    fired = [item.due()._replace(detector=detector) for item in book.all_fired().values()]
    report = settle(fired)
    book.clear_fired((closure.deal_id, 2**30) for closure in report.closed)
    market.tick("100")
    return deal


# --- in order ----------------------------------------------------------------------------------------------------


def test_a_system_in_order_is_healthy(signs: None, market: Market, trader: Account) -> None:
    market.open(trader, take_profit="110")
    closed_deal(market, trader)
    report = health.report()
    assert bad(report) == {}
    assert [component.name for component in report.components] == [
        "queueManager",
        "priceMonitor",
        "orderClosure",
        "orderWorker",
    ]
    assert report.uptime_ms is not None
    assert report.uptime_ms > 0


def test_the_public_address_is_small_and_says_ok(signs: None, client: Client) -> None:
    answer = client.get("/health")
    assert answer.status_code == 200
    for path in ("/health/", "/livez", "/livez/"):
        assert client.get(path).json()["status"] == "ok"
    uptime = answer.json()["workers"]["uptime"]
    assert isinstance(uptime, int)
    assert answer.json() == {
        "status": "ok",
        "workers": {
            "isHealthy": True,
            "status": "healthy",
            "uptime": uptime,
            "components": {
                name: {"isHealthy": True} for name in ("queueManager", "priceMonitor", "orderClosure", "orderWorker")
            },
        },
    }


def test_an_unhealthy_system_answers_503_and_why(signs: None, client: Client) -> None:
    state.change(state.State.STOPPED, "a secret of the house")
    answer = client.get("/health")
    assert answer.status_code == 503
    workers = answer.json()["workers"]
    assert answer.json()["status"] == "unhealthy"
    assert (workers["isHealthy"], workers["status"], workers["uptime"]) == (False, "unhealthy", 0)
    assert workers["components"]["orderClosure"] == {"isHealthy": False, "reason": "The system is stopped."}
    assert workers["components"]["priceMonitor"] == {"isHealthy": True}


# --- processes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("prices", {"priceMonitor.pricesProcess"}),
        ("beat", {"orderWorker.beat"}),
        ("worker", {"orderWorker.workers", "orderWorker.unservedQueues"}),
    ],
)
def test_no_sign_of_life_of_a_process_is_unhealthy(signs: None, role: str, expected: set[str]) -> None:
    Sign(role, "test").erase()
    assert set(bad()) == expected


def test_a_sign_of_life_that_is_too_old_is_none(signs: None) -> None:
    text = connect().get(keys.heartbeat("beat", "test"))
    sign = json.loads(str(text))
    connect().set(keys.heartbeat("beat", "test"), json.dumps(sign | {"at": sign["at"] - 11_000}))
    assert only_bad("orderWorker.beat").figure == pytest.approx(11, abs=1)


def test_a_queue_that_no_worker_serves_is_unhealthy(signs: None) -> None:
    Sign("worker", "test").write({"queues": ["closures", "default"], "concurrency": 1})
    assert only_bad("orderWorker.unservedQueues").reason == "No worker serves sweep."


def test_a_sweep_that_is_late_is_unhealthy_since_it_ran_last(signs: None) -> None:
    at_ms = time.time_ns() // 1_000_000 - 7_000
    connect().hset(keys.last_sweep(), "at", str(at_ms))
    check = only_bad("orderWorker.lastSweep")
    assert check.figure == pytest.approx(7, abs=1)
    assert check.since is not None
    assert round(check.since.timestamp() * 1000) == at_ms


def test_a_sweep_that_stood_aside_for_another_one_does_not_count_as_run(signs: None) -> None:
    before = connect().hget(keys.last_sweep(), "at")
    sweep.remember(SweepReport(skipped=True), clock=TapeClock(5))
    assert connect().hget(keys.last_sweep(), "at") == before


@pytest.mark.parametrize("name", ["DRAINING", "STOPPED", "HALTED"])
def test_a_system_that_does_not_run_is_unhealthy_and_its_sweep_is_not_missed(signs: None, name: str) -> None:
    state.change(state.State[name], "test")
    connect().delete(keys.last_sweep())
    check = only_bad("orderClosure.running")
    assert check.since == health.report().state_since
    assert health.report().uptime_ms == 0


def test_a_system_that_watches_nothing_by_its_settings_says_so(signs: None, settings: Any) -> None:
    settings.STATIC_ONLY = True
    assert "STATIC_ONLY" in str(only_bad("orderClosure.running").reason)


# --- prices ------------------------------------------------------------------------------------------------------


def test_a_stale_symbol_matters_only_if_deals_are_watched_on_it(signs: None, market: Market, trader: Account) -> None:
    market.open(trader, take_profit="110")
    assert bad() == {}  # fourteen symbols have no price at all
    old_ms = time.time_ns() // 1_000_000 - 11_000
    connect().hset(keys.price(BTC), "at", str(old_ms))
    check = only_bad("priceMonitor.staleSymbols")
    assert check.figure == 1
    assert BTC in str(check.reason)


# --- protection --------------------------------------------------------------------------------------------------


def test_a_deal_that_waits_to_be_armed_is_unprotected_after_five_seconds(
    signs: None, market: Market, trader: Account, settings: Any
) -> None:
    settings.STATIC_ONLY = True
    deal = market.open(trader, take_profit="110")
    settings.STATIC_ONLY = False
    assert bad() == {}
    since = timezone.now() - timedelta(seconds=6)
    Deal.objects.filter(pk=deal.pk).update(monitoring_since=since)
    check = only_bad("orderWorker.unprotectedDeals")
    assert (check.figure, check.since) == (1, since)


def test_an_armed_deal_that_the_book_lacks_is_unprotected(signs: None, market: Market, trader: Account) -> None:
    market.open(trader, take_profit="120")
    lost = market.open(trader, take_profit="110")
    lose_from_book(lost)
    check = only_bad("orderWorker.unprotectedDeals")
    assert check.figure == 1
    assert "missing from the book" in str(check.reason)


def test_a_deal_that_has_fired_is_not_missing_from_the_book(signs: None, market: Market, trader: Account) -> None:
    market.open(trader, take_profit="110")
    market.tick("111")
    assert len(book.all_fired()) == 1
    assert bad() == {}


def test_a_dead_deal_is_unprotected(signs: None, market: Market, trader: Account) -> None:
    deal = market.open(trader, take_profit="110")
    services.mark_dead(deal_id=deal.pk, version=deal.watch_version, error="broken")
    assert Deal.objects.get(pk=deal.pk).monitoring == Monitoring.DEAD
    assert only_bad("orderWorker.unprotectedDeals").figure == 1


def test_an_operation_whose_process_died_is_named_until_someone_resumes(signs: None) -> None:
    now = timezone.now()
    facts = {"reason": "maintenance", "requested_by": "op", "source": "cli", "created_at": now}
    Operation.objects.create(kind="shutdown", heartbeat_at=now, **facts)
    assert bad() == {}
    died = Operation.objects.create(kind="restart", heartbeat_at=now - timedelta(seconds=11), **facts)
    check = only_bad("orderWorker.abandonedOperations")
    assert check.figure == 1
    assert f"restart ({died.pk})" in str(check.reason)
    Operation.objects.create(kind="resume", state="done", heartbeat_at=now, finished_at=now, **facts)
    assert bad() == {}


def test_a_book_that_is_not_rebuilt_is_unhealthy(signs: None) -> None:
    connect().set(keys.book_epoch(), "another run")
    only_bad("queueManager.bookToRebuild")


# --- closing -----------------------------------------------------------------------------------------------------


def test_a_deal_that_fired_ten_seconds_ago_and_is_open_is_unhealthy(
    signs: None, market: Market, trader: Account
) -> None:
    deal = market.open(trader, take_profit="110")
    [fired] = market.tick("111")
    old = fired._replace(fired_ms=fired.fired_ms - 11_000)
    connect().hset(keys.fired(), str(deal.pk), old.entry)
    check = only_bad("orderClosure.oldestFired")
    assert check.figure == pytest.approx(11, abs=1)


def test_ten_failed_attempts_in_five_minutes_are_unhealthy(signs: None, market: Market, trader: Account) -> None:
    deal = market.open(trader, take_profit="110")
    for _ in range(10):
        services.record_attempt(deal_id=deal.pk, version=1, price=Decimal(1), error="x")
    found = bad()
    assert set(found) == {"orderClosure.errors", "orderClosure.successRate"}
    assert found["orderClosure.errors"].figure == 10
    assert found["orderClosure.successRate"].figure == 0


def test_a_success_rate_below_95_percent_is_unhealthy(signs: None, market: Market, trader: Account) -> None:
    for _ in range(3):
        closed_deal(market, trader)
    JobLog.objects.create(task_id="1", task="t", state="failed", finished_at=timezone.now())
    assert only_bad("orderClosure.successRate").figure == 75
    JobLog.objects.update(finished_at=timezone.now() - timedelta(minutes=6))
    assert bad() == {}


def test_closures_that_only_the_sweep_found_are_unhealthy(signs: None, market: Market, trader: Account) -> None:
    closed_deal(market, trader)
    closed_deal(market, trader, detector="sweep")
    assert only_bad("orderClosure.sweepShare").figure == 50


# --- queues ------------------------------------------------------------------------------------------------------


def test_a_message_that_waits_for_more_than_ten_seconds_is_unhealthy(signs: None) -> None:
    sent_ms = time.time_ns() // 1_000_000 - 11_000
    with current_app.connection_for_write() as connection:
        producer = connection.Producer()
        for age_ms in (0, 5_000):
            producer.publish([], routing_key="closures", headers={SENT_HEADER: sent_ms + age_ms})
    check = only_bad("queueManager.oldestMessage")
    assert check.figure == pytest.approx(11, abs=1)
    assert "closures" in str(check.reason)


def test_a_message_of_ours_carries_its_time_and_a_fresh_one_is_no_trouble(signs: None) -> None:
    from workers.tasks import housekeeping

    housekeeping.apply_async(retry=False)
    [row] = [row for row in probes._ask_broker().waiting if row.depth]
    assert (row.queue, row.depth) == ("default", 1)
    assert row.oldest_sent_ms == pytest.approx(time.time_ns() // 1_000_000, abs=5_000)
    assert bad() == {}


def test_a_dead_letter_is_unhealthy_until_someone_has_seen_to_it(signs: None, market: Market, trader: Account) -> None:
    at = timezone.now() - timedelta(minutes=3)
    letter = DeadLetter.objects.create(
        deal=market.open(trader, take_profit="110"), version=1, task="t", price=1, fired="", error_class="E",
        error="e", attempts=3, first_failed_at=at, last_failed_at=at,
    )  # fmt: skip
    assert only_bad("queueManager.deadLetters").since == at
    for seen_to in ("requeued", "resolved", "discarded"):
        DeadLetter.objects.filter(pk=letter.pk).update(state=seen_to)
        assert bad() == {}


# --- since, and registered checks --------------------------------------------------------------------------------


def test_it_is_remembered_since_when_a_check_is_bad(signs: None) -> None:
    Sign("beat", "test").erase()
    first = only_bad("orderWorker.beat").since
    assert only_bad("orderWorker.beat").since == first
    Sign("beat", "test").write({})
    assert bad() == {}
    assert connect().hgetall(keys.health_since()) == {}


def test_another_part_may_register_a_check_of_its_own(signs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_extra", {})
    monkeypatch.setattr(probes, "_questions", {})
    health.register_check(
        "orderWorker",
        "events",
        ask=lambda cursor: cursor.execute("SELECT count(*) FROM deal_events").fetchone()[0],
        judge=lambda count: verdicts.at_least("events", count, 1, "events", "There are none."),
    )
    assert DealEvent.objects.count() == 0
    assert only_bad("orderWorker.events").reason == "There are none."


def test_many_who_ask_the_public_address_at_once_do_not_make_it_late(
    signs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look asks PostgreSQL on a connection of its own; probes that wait for each other come too late."""
    monkeypatch.setattr(probes, "_questions", probes._questions.copy())
    looks: list[None] = []
    probes.ask_database_too("looks", lambda _cursor: looks.append(None))
    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(lambda _number: health.workers_health()["isHealthy"], range(500)))
    assert all(answers)
    assert len(looks) < 250


# --- servers that are away ---------------------------------------------------------------------------------------


def timed_report() -> Report:
    started = time.monotonic()
    report = health.report()
    assert time.monotonic() - started < LIMIT_S
    return report


def test_without_redis_it_answers_in_time_and_says_so(signs: None, settings: Any, valkey: Valkey) -> None:
    settings.REDIS_URL = valkey.url
    assert timed_report().facts.redis is not None
    valkey.kill()
    report = timed_report()
    assert "queueManager.redis" in bad(report)
    assert bad(report)["orderWorker.unprotectedDeals"].figure is None
    assert report.state == "running"
    assert "queueManager.broker" not in bad(report)


def test_a_redis_that_takes_connections_and_says_nothing_is_away(
    signs: None, settings: Any, silent_server: int
) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{silent_server}/0"
    assert "queueManager.redis" in bad(timed_report())


def test_without_the_broker_it_answers_in_time_and_says_so(
    signs: None, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current_app.conf, "broker_read_url", valkey.url)
    assert bad(timed_report()) == {}
    valkey.kill()
    assert set(bad(timed_report())) == {"queueManager.broker", "queueManager.oldestMessage"}


@pytest.mark.parametrize("silent", [False, True])
def test_without_postgresql_it_answers_in_time_and_says_so(
    signs: None, client: Client, monkeypatch: pytest.MonkeyPatch, silent_server: int, silent: bool
) -> None:
    from django.db import connection

    monkeypatch.setitem(connection.settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connection.settings_dict, "PORT", str(silent_server if silent else 1))
    report = timed_report()
    assert {"orderWorker.database", "orderWorker.unprotectedDeals", "queueManager.deadLetters"} <= set(bad(report))
    assert report.uptime_ms is None
    answer = client.get("/health")
    assert answer.status_code == 503
    assert "PostgreSQL does not answer." in answer.json()["workers"]["components"]["orderWorker"]["reason"]
    assert str(silent_server) not in answer.content.decode()


def test_a_table_that_is_locked_does_not_hold_it_up(signs: None) -> None:
    import psycopg
    from django.db import connection

    facts = connection.get_connection_params()
    names = ("dbname", "user", "password", "host", "port")
    with psycopg.connect(**{name: facts[name] for name in names if facts.get(name)}) as other:
        other.execute("LOCK TABLE deals IN ACCESS EXCLUSIVE MODE")
        assert "orderWorker.database" in bad(timed_report())


def test_watched_deals_that_cannot_be_counted_in_time_are_not_a_dead_database(
    signs: None, market: Market, trader: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.open(trader, take_profit="110")
    assert bad() == {}
    monkeypatch.setattr(probes, "COUNT_SPARE_S", probes.PROBE_LIMIT_S)  # no time at all is left for it
    check = only_bad("orderWorker.unprotectedDeals")
    assert (check.figure, check.reason) == (None, verdicts.NOT_COUNTED)
    assert health.report().state == "running"


def test_a_count_that_takes_too_long_is_given_up_and_the_connection_goes_on(signs: None) -> None:
    import psycopg
    from django.db import connection

    facts = connection.get_connection_params()
    known = {name: facts[name] for name in ("dbname", "user", "password", "host", "port") if facts.get(name)}
    with psycopg.connect(**known) as other, psycopg.connect(**known, autocommit=True) as own:
        other.execute("LOCK TABLE deals IN ACCESS EXCLUSIVE MODE")
        cursor = own.cursor()
        started = time.monotonic()
        assert probes._count_watched(cursor, started + 0.3) is None
        assert 0.2 < time.monotonic() - started < 10
        other.rollback()
        assert probes._count_watched(cursor, time.monotonic() + 20) == []


def test_the_state_in_the_cache_is_not_believed(signs: None) -> None:
    state.change(state.State.HALTED, "test")
    connect().set(keys.state(), "99:running")
    only_bad("orderClosure.running")
    system.refresh_state()
