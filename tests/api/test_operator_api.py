"""The operators' API: who may ask, what is answered and refused, and that the figures are those of the servers."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from celery import current_app
from django.contrib.auth.models import Permission
from django.db import connections
from django.test import AsyncClient
from django.utils import timezone
from factories import close_deal, make_account, make_deal, make_user, set_price
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient
from servers import Valkey

from deals import services, settlement, state
from deals.models import Account, Deal, DealEvent, Monitoring, Notification
from workers import book, keys, reconcile, sweep, system
from workers.heartbeats import Sign
from workers.models import AuditEntry, DeadLetter, JobLog
from workers.redis_client import connect
from workers.sweep import SweepReport

pytestmark = pytest.mark.django_db(transaction=True)

BASE = "/api/admin/workers"
PLACES = [
    *("health", "stats", "queues", "prices", "prices/history", "prices/BTCUSDT", "closures", "jobs/1", "jobs/1/chart"),
    *("history", "metrics/export", "monitor/stream"),
]


def staff_client(*rights: str) -> APIClient:
    client = APIClient()
    user = make_user(is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    token = Token.objects.create(user=user)
    client.credentials(HTTP_AUTHORIZATION=f"Token {token.key}")
    return client


@pytest.fixture
def staff(transactional_db: None) -> APIClient:
    """A client of someone on the staff who may change deals."""
    return staff_client("change_deal")


@pytest.fixture
def running(transactional_db: None, the_system_runs: None) -> None:
    """A system whose state is cached, so that ticks fire."""
    system.refresh_state()


def read(client: APIClient, place: str) -> Any:
    answer = client.get(f"{BASE}/{place}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def error_code(answer: Any) -> str:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "field"}
    return str(body["error"]["code"])


def closed_by_tick(account: Account | None = None, *, detector: str = "tick", **ms: int) -> Deal:
    """A deal whose tick came, fired and was taken at the given distances before now (ms)."""
    deal = make_deal(account, take_profit="110")
    now = timezone.now()
    at = {name: now - timedelta(milliseconds=ms.get(name, 0)) for name in ("received_at", "fired_at")}
    due = settlement.Due(deal.pk, deal.watch_version, Decimal(111), detector, 7, at["received_at"], **at)
    report = settlement.settle([due], started_at=now - timedelta(milliseconds=ms.get("started_at", 0)))
    assert [closure.deal_id for closure in report.closed] == [deal.pk]
    return deal


# --- rights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
@pytest.mark.parametrize("place", PLACES)
def test_nobody_but_the_staff_may_ask(place: str, method: str, anonymous: APIClient, api: APIClient) -> None:
    for slash in ("", "/"):
        answer = getattr(anonymous, method)(f"{BASE}/{place}{slash}")
        assert (answer.status_code, error_code(answer)) == (401, "not_authenticated")
        answer = getattr(api, method)(f"{BASE}/{place}{slash}")
        assert (answer.status_code, error_code(answer)) == (403, "permission_denied")


@pytest.mark.parametrize("place", PLACES)
def test_a_wrong_method_is_405(place: str, staff: APIClient) -> None:
    wrong = ["put", "patch"] if place == "jobs/1" else ["post", "put", "patch", "delete"]
    for method in wrong:
        answer = getattr(staff, method)(f"{BASE}/{place}")
        assert (answer.status_code, error_code(answer)) == (405, "method_not_allowed")


@pytest.mark.parametrize("place", sorted(set(PLACES) - {"metrics/export"}))
def test_an_unknown_parameter_is_refused(place: str, staff: APIClient) -> None:
    answer = staff.get(f"{BASE}/{place}?nonsense=1")
    assert (answer.status_code, error_code(answer)) == (400, "unknown_parameter")


def test_every_path_answers_with_a_slash_too(staff: APIClient, running: None) -> None:
    for place in (
        *("stats", "queues", "prices", "prices/history", "prices/BTCUSDT", "closures", "history", "metrics/export"),
    ):
        assert staff.get(f"{BASE}/{place}/").status_code == 200
    assert staff.get(f"{BASE}/jobs/{make_deal().pk}/").status_code == 200


def test_what_does_not_exist_is_404(staff: APIClient) -> None:
    assert staff.get(f"{BASE}/nonsense").status_code == 404


# --- health ------------------------------------------------------------------------------------------------------


def test_health_says_what_was_checked_and_what_is_wrong(staff: APIClient, running: None) -> None:
    Sign("prices", "p").write({})
    Sign("beat", "b").write({})
    Sign("worker", "w").write({"queues": ["closures", "sweep", "default"]})
    sweep.remember(SweepReport())
    reconcile.reconcile()
    make_deal(take_profit="110")
    healthy = read(staff, "health")
    assert (healthy["isHealthy"], healthy["status"], healthy["state"]) == (True, "healthy", "running")
    assert healthy["uptime"] > 0
    assert healthy["overall"] == {
        "checks": sum(len(component["checks"]) for component in healthy["components"]),
        "failingChecks": 0,
        "watchedDeals": 1,
        "removedDeals": 0,
        "expiredDeals": 0,
        "firedDeals": 0,
    }
    Sign("beat", "b").erase()
    answer = staff.get(f"{BASE}/health")
    assert answer.status_code == 503
    [component] = [component for component in answer.json()["components"] if not component["isHealthy"]]
    [check] = [check for check in component["checks"] if not check["isHealthy"]]
    assert (component["name"], check["name"], check["figure"], check["limit"]) == ("orderWorker", "beat", None, 10)
    assert check["reason"] == "The beat gives no sign of life."
    assert check["since"] is not None


# --- prices ------------------------------------------------------------------------------------------------------


def test_prices_shows_ticks_ages_armed_deals_and_the_nearest_triggers(staff: APIClient, running: None) -> None:
    Sign("prices", "p").write({"source": "tape", "feedAgeMs": 5, "held": ["BTCUSDT"], "accepted": 9, "pending": 0})
    Sign("beat", "b").write({})
    near = make_deal(take_profit="110", stop_loss="80")
    make_deal(take_profit="120.5", stop_loss="70")
    connect().hincrby(keys.dropped_ticks(), "stale", 3)
    set_price("ETHUSDT", "2000", age_s=11)
    feed = read(staff, "prices")
    assert feed["staleAfterMs"] == 10_000
    assert feed["isFresh"] is False
    assert feed["dropped"] == [{"reason": "stale", "ticks": 3}]
    [process] = feed["processes"]
    assert (process["name"], process["source"], process["feedAgeMs"], process["held"]) == ("p", "tape", 5, ["BTCUSDT"])
    symbols = {symbol["symbol"]: symbol for symbol in feed["symbols"]}
    btc = symbols["BTCUSDT"]
    assert (btc["price"], btc["ticks"], btc["armed"], btc["isFresh"]) == ("100", 2, 2, True)
    assert btc["nearestUpper"] == {"dealId": near.pk, "price": "110", "distancePercent": "10"}
    assert btc["nearestLower"] == {"dealId": near.pk, "price": "80", "distancePercent": "20"}
    assert (symbols["ETHUSDT"]["isFresh"], symbols["ETHUSDT"]["ageMs"] >= 11_000) == (False, True)
    assert (symbols["XRPUSDT"]["price"], symbols["XRPUSDT"]["ageMs"], symbols["XRPUSDT"]["ticks"]) == (None, None, 0)


# --- closures ----------------------------------------------------------------------------------------------------


def test_closures_counts_by_reason_and_detector_within_its_minutes(staff: APIClient, running: None) -> None:
    closed_by_tick()
    closed_by_tick(detector="sweep")
    by_hand = close_deal(make_deal())
    told = read(staff, "closures")
    assert (told["minutes"], told["closed"], told["errors"], told["successRatePercent"]) == (60, 3, 0, 100)
    assert told["counts"] == [
        {"reason": "manual", "detector": "manual", "deals": 1},
        {"reason": "take_profit", "detector": "sweep", "deals": 1},
        {"reason": "take_profit", "detector": "tick", "deals": 1},
    ]
    assert (told["recent"][0]["dealId"], told["recent"][0]["userId"]) == (by_hand.pk, by_hand.account.user_id)
    Deal.objects.filter(status="closed").update(closed_at=timezone.now() - timedelta(minutes=3))
    assert read(staff, "closures?minutes=2")["closed"] == 0
    assert read(staff, "closures?minutes=2")["successRatePercent"] is None
    assert len(read(staff, "closures?minutes=2")["recent"]) == 3


def test_latencies_are_percentiles_of_the_times_that_a_closure_keeps(staff: APIClient, running: None) -> None:
    for _ in range(2):
        closed_by_tick(received_at=500, fired_at=400, started_at=100)
    slow = closed_by_tick(received_at=3_000, fired_at=400, started_at=100)
    close_deal(make_deal())
    latencies = read(staff, "closures")["latencies"]
    assert latencies["tickToFired"] == {
        "deals": 3, "p50Ms": 100, "p95Ms": pytest.approx(2350), "p99Ms": pytest.approx(2550), "maxMs": 2600,
    }  # fmt: skip
    assert latencies["firedToStarted"]["p50Ms"] == 300
    slow.refresh_from_db()
    assert slow.settlement is not None
    assert slow.settlement.committed_at is not None
    assert slow.received_at is not None
    took = (slow.settlement.committed_at - slow.received_at) / timedelta(milliseconds=1)
    assert latencies["tickToCommitted"]["maxMs"] == pytest.approx(took, abs=0.01)
    assert latencies["startedToCommitted"]["p50Ms"] > 100


def test_latencies_without_closures_are_null(staff: APIClient, running: None) -> None:
    nothing = {"deals": 0, "p50Ms": None, "p95Ms": None, "p99Ms": None, "maxMs": None}
    assert set(map(str, read(staff, "closures")["latencies"].values())) == {str(nothing)}


def test_failed_attempts_lower_the_success_rate(staff: APIClient, running: None) -> None:
    deal = make_deal(take_profit="110")
    closed_by_tick()
    services.record_attempt(deal_id=deal.pk, version=1, price=Decimal(111), error="ValueError: broken")
    told = read(staff, "closures")
    assert (told["errors"], told["successRatePercent"]) == (1, 50)
    [error] = told["recentErrors"]
    assert (error["dealId"], error["error"]) == (deal.pk, "ValueError: broken")


@pytest.mark.parametrize("minutes", ["0", "1441", "-1", "x", "", "1.5", "²"])
def test_impossible_minutes_are_refused(staff: APIClient, minutes: str) -> None:
    answer = staff.get(f"{BASE}/closures", {"minutes": minutes})
    assert (answer.status_code, error_code(answer)) == (400, "invalid_minutes")


# --- queues and stats --------------------------------------------------------------------------------------------


def test_queues_shows_depth_age_consumers_letters_and_jobs(staff: APIClient, running: None) -> None:
    Sign("worker", "w").write({"queues": ["closures"], "concurrency": 2})
    sent_ms = time.time_ns() // 1_000_000 - 4_000
    with current_app.connection_for_write() as connection:
        for late_ms in (0, 3_000):
            connection.Producer().publish([], routing_key="closures", headers={"sent_ms": sent_ms + late_ms})
    now = timezone.now()
    for number in range(60):
        JobLog.objects.create(task_id=f"f{number}", task="t", state="failed", finished_at=now, error="E: e")
    JobLog.objects.create(
        task_id="c", task="workers.close_deals", deals=3, closed=2, state="completed", started_at=now, finished_at=now,
        duration_ms=12.5,
    )  # fmt: skip
    DeadLetter.objects.create(
        deal=make_deal(), version=1, task="t", price=1, fired="", error_class="E", error="e", attempts=3,
        first_failed_at=now, last_failed_at=now,
    )  # fmt: skip
    told = read(staff, "queues")
    by_name = {queue["name"]: queue for queue in told["queues"]}
    assert set(by_name) == {"closures", "sweep", "default"}
    assert (by_name["closures"]["depth"], by_name["closures"]["consumers"]) == (2, 1)
    assert 4_000 <= by_name["closures"]["oldestAgeMs"] < 20_000
    assert by_name["sweep"] == {
        "name": "sweep", "depth": 0, "oldestAgeMs": None, "active": 0, "reserved": 0, "consumers": 0,
    }  # fmt: skip
    assert {row["state"]: row["letters"] for row in told["deadLetters"]} == {
        "failed": 1, "requeued": 0, "resolved": 0, "discarded": 0,
    }  # fmt: skip
    assert len(told["failed"]) == 50
    [job] = told["completed"]
    assert (job["taskId"], job["deals"], job["closed"], job["durationMs"], job["error"]) == ("c", 3, 2, 12.5, "")


def test_queues_counts_the_tasks_that_workers_run_and_hold(staff: APIClient, celery_worker: Any, running: None) -> None:
    from django.db import connection, transaction
    from servers import wait_until

    from workers.tasks import housekeeping

    celery_worker(queues="default")
    wait_until(lambda: connect().zcard(keys.heartbeats()), 20)

    def figures() -> dict[str, Any]:
        return next(queue for queue in read(staff, "queues")["queues"] if queue["name"] == "default")

    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE job_log IN ACCESS EXCLUSIVE MODE")  # housekeeping waits for it
        for _ in range(3):
            housekeeping.apply_async(retry=False)
        wait_until(lambda: figures()["active"] == 1, 4, what="one task runs")
        busy = figures()
        assert (busy["consumers"], busy["active"]) == (1, 1)
        assert busy["reserved"] + busy["depth"] == 2
    wait_until(lambda: [figures()[name] for name in ("depth", "active", "reserved")] == [0, 0, 0], 30)


def test_without_the_broker_queues_says_so(staff: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current_app.conf, "broker_read_url", "redis://127.0.0.1:1/0")
    for place in ("queues", "stats"):
        answer = staff.get(f"{BASE}/{place}")
        assert (answer.status_code, error_code(answer)) == (503, "broker_unavailable")


@pytest.fixture
def redis_away(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's Redis is gone."""
    away = valkey.client()
    valkey.kill()
    ours = ("monitoring.charts", "monitoring.jobs", "monitoring.prices", "monitoring.stats")
    for place in (*ours, "workers.candles", "workers.heartbeats"):
        monkeypatch.setattr(f"{place}.connect", lambda: away)


@pytest.mark.parametrize("place", ["prices", "prices/history", "prices/BTCUSDT", "queues", "stats"])
def test_without_redis_what_needs_it_says_so(staff: APIClient, redis_away: None, place: str) -> None:
    answer = staff.get(f"{BASE}/{place}")
    assert (answer.status_code, error_code(answer)) == (503, "redis_unavailable")


def test_without_redis_closures_are_told(staff: APIClient, running: None, redis_away: None) -> None:
    assert read(staff, "closures")["closed"] == 0


def test_stats_puts_the_whole_system_on_one_page(staff: APIClient, running: None) -> None:
    Sign("worker", "w").write({"queues": ["closures"], "concurrency": 2})
    sweep.remember(SweepReport(found=1, armed=2, duration_ms=3))
    make_deal(take_profit="110")
    make_deal()
    closed_by_tick()
    told = read(staff, "stats")
    assert {row["monitoring"]: row["deals"] for row in told["openDeals"]} == {"armed": 1, "none": 1}
    assert (told["prices"]["symbols"], told["prices"]["fresh"], told["prices"]["ticks"]) == (15, 1, 3)
    assert (told["closures"]["minutes"], told["closures"]["closed"]) == (5, 1)
    assert told["closures"]["latencies"]["tickToCommitted"]["deals"] == 1
    assert [(row["role"], row["name"], row["concurrency"]) for row in told["processes"]] == [("worker", "w", 2)]
    assert (told["lastSweep"]["found"], told["lastSweep"]["armed"], told["lastSweep"]["durationMs"]) == (1, 2, 3)
    assert told["fired"] == 0


# --- jobs --------------------------------------------------------------------------------------------------------


def job(client: APIClient, deal: Deal) -> Any:
    return read(client, f"jobs/{deal.pk}")


def test_an_armed_deal_is_explained_with_the_way_to_its_triggers(staff: APIClient, running: None) -> None:
    deal = make_deal(take_profit="110", stop_loss="75")
    told = job(staff, deal)
    assert (told["state"], told["systemState"], told["redisAnswers"]) == ("armed", "running", True)
    assert (told["version"], told["bookVersion"]) == (1, 1)
    assert told["triggers"] == [
        {"side": "upper", "level": "take_profit", "price": "110", "distance": "10", "distancePercent": "10"},
        {"side": "lower", "level": "stop_loss", "price": "75", "distance": "25", "distancePercent": "25"},
    ]
    assert told["lastPrice"]["price"] == "100"
    assert told["whyOpen"] == ["The price, 100, has not reached a trigger."]
    assert [event["kind"] for event in told["history"]] == ["opened", "armed"]
    assert (told["fired"], told["attempts"], told["lastError"], told["deadLetters"]) == (None, 0, None, [])
    assert told["deal"]["id"] == deal.pk


def test_a_fired_deal_shows_the_tick_that_fired_it(staff: APIClient, running: None) -> None:
    deal = make_deal(take_profit="110")
    set_price("BTCUSDT", "112")
    told = job(staff, deal)
    assert (told["state"], told["fired"]["price"], told["fired"]["detector"]) == ("fired", "112", "tick")
    assert told["whyOpen"] == ["It fired at 112 and waits to be settled."]
    assert told["triggers"][0]["distance"] == "-2"


def test_a_closed_deal_has_its_whole_history_and_no_excuse(staff: APIClient, running: None) -> None:
    told = job(staff, closed_by_tick())
    assert (told["state"], told["whyOpen"]) == ("ended", [])
    assert [event["kind"] for event in told["history"]] == ["opened", "armed", "fired", "closed"]
    assert told["history"][2]["tradeId"] == 7


def test_a_deal_is_found_in_every_state(staff: APIClient, running: None, settings: Any) -> None:
    settings.STATIC_ONLY = True
    pending = make_deal(take_profit="110")
    settings.STATIC_ONLY = False
    assert (job(staff, pending)["state"], job(staff, pending)["bookVersion"]) == ("pending", None)
    assert job(staff, pending)["whyOpen"][0] == "It waits to be armed; the sweep does it within 2 s."
    assert job(staff, make_deal())["whyOpen"] == ["It has neither Take Profit nor Stop Loss."]
    dead = make_deal(take_profit="110")
    services.record_attempt(deal_id=dead.pk, version=1, price=Decimal(111), error="E: e")
    services.mark_dead(deal_id=dead.pk, version=1, error="E: e")
    told = job(staff, dead)
    assert (told["state"], told["attempts"], told["lastError"]) == ("dead", 1, "E: e")
    expired = make_deal(take_profit="110")
    Deal.objects.filter(pk=expired.pk).update(watch_expires_at=timezone.now() - timedelta(seconds=1))
    sweep.end_expired()
    assert job(staff, expired)["whyOpen"] == ["Its monitoring time has run out."]


def test_it_says_why_a_watched_deal_beyond_its_trigger_is_open(staff: APIClient, running: None) -> None:
    deal = make_deal(take_profit="110")
    book.take_out(book_rows(deal))
    assert "missing from the trigger book" in job(staff, deal)["whyOpen"][0]
    state.change(state.State.STOPPED, "test")
    assert job(staff, deal)["whyOpen"][0] == "The system is stopped: nothing fires."
    set_price("BTCUSDT", "111", age_s=11)
    assert "is stale" in job(staff, deal)["whyOpen"][-1]


def book_rows(deal: Deal) -> Any:
    from deals.queries import watch_rows

    return watch_rows([deal.pk])


def test_without_redis_a_deal_is_explained_from_postgresql(
    staff: APIClient, running: None, request: pytest.FixtureRequest
) -> None:
    deal = make_deal(take_profit="110")
    request.getfixturevalue("redis_away")
    told = job(staff, deal)
    assert (told["redisAnswers"], told["lastPrice"], told["state"]) == (False, None, "armed")
    assert told["whyOpen"] == ["Redis does not answer: what the trigger book holds cannot be seen."]


@pytest.mark.parametrize("method", ["get", "delete", "post"])
@pytest.mark.parametrize(
    ("deal_id", "status", "code"),
    [
        ("999999", 404, "not_found"),
        ("9223372036854775808", 404, "not_found"),
        ("x", 400, "invalid_deal_id"),
        ("-1", 400, "invalid_deal_id"),
        ("1.5", 400, "invalid_deal_id"),
        ("99999999999999999999", 400, "invalid_deal_id"),
    ],
)
def test_unknown_and_malformed_deals_are_refused(
    staff: APIClient, method: str, deal_id: str, status: int, code: str
) -> None:
    body = {} if method == "get" else {"data": {"reason": "r"}, "format": "json"}
    answer = getattr(staff, method)(f"{BASE}/jobs/{deal_id}", **body)
    assert (answer.status_code, error_code(answer)) == (status, code)


def test_delete_takes_a_deal_out_for_good_and_tells_its_user_once(staff: APIClient, running: None) -> None:
    deal = make_deal(take_profit="110")
    for _ in range(2):
        answer = staff.delete(f"{BASE}/jobs/{deal.pk}", {"reason": "a mistake"}, format="json")
        assert answer.status_code == 200
        assert (answer.json()["state"], answer.json()["bookVersion"]) == ("removed", None)
    assert Notification.objects.filter(deal=deal, kind="monitoring_removed").count() == 1
    assert DealEvent.objects.filter(deal=deal, kind="removed").count() == 1
    set_price("BTCUSDT", "120")
    assert sweep.sweep().found == 0
    assert book.all_fired() == {}
    assert Deal.objects.get(pk=deal.pk).status == "open"


def test_a_reason_may_come_in_the_address_of_a_delete(staff: APIClient, running: None) -> None:
    deal = make_deal(take_profit="110")
    assert staff.delete(f"{BASE}/jobs/{deal.pk}?reason=no+body").status_code == 200


def test_post_puts_a_deal_back_from_the_current_price_on(staff: APIClient, running: None) -> None:
    deal = make_deal(take_profit="110")
    services.remove_from_monitoring(deal_id=deal.pk)
    set_price("BTCUSDT", "120")
    set_price("BTCUSDT", "105")
    for _ in range(2):
        answer = staff.post(f"{BASE}/jobs/{deal.pk}", {"reason": "it was right"}, format="json")
        assert answer.status_code == 200
        assert answer.json()["state"] == "armed"
    assert sweep.sweep().found == 0
    assert [fired.deal_id for fired in set_price("BTCUSDT", "110")] == [deal.pk]


@pytest.mark.parametrize("method", ["delete", "post"])
@pytest.mark.parametrize(
    "body", [{}, {"reason": ""}, {"reason": " "}, {"reason": "x" * 501}, {"reason": None}, {"x": 1}]
)
def test_nothing_is_changed_without_a_reason(
    staff: APIClient, running: None, method: str, body: dict[str, Any]
) -> None:
    deal = make_deal(take_profit="110")
    answer = getattr(staff, method)(f"{BASE}/jobs/{deal.pk}", body, format="json")
    assert answer.status_code == 400
    assert error_code(answer) in {"required", "invalid_reason", "unknown_field"}
    assert Deal.objects.get(pk=deal.pk).monitoring == Monitoring.ARMED


@pytest.mark.parametrize("method", ["delete", "post"])
def test_staff_without_the_right_to_change_deals_may_only_look(running: None, method: str) -> None:
    deal, support = make_deal(take_profit="110"), staff_client()
    assert support.get(f"{BASE}/jobs/{deal.pk}").status_code == 200
    answer = getattr(support, method)(f"{BASE}/jobs/{deal.pk}", {"reason": "r"}, format="json")
    assert (answer.status_code, error_code(answer)) == (403, "permission_denied")
    assert Deal.objects.get(pk=deal.pk).monitoring == Monitoring.ARMED


def test_interventions_are_in_the_audit_log_refused_ones_too(staff: APIClient, running: None) -> None:
    deal, closed = make_deal(take_profit="110"), closed_by_tick()
    staff.delete(f"{BASE}/jobs/{deal.pk}", {"reason": "a mistake"}, format="json")
    staff.post(f"{BASE}/jobs/{closed.pk}", {"reason": "try it"}, format="json")
    rows = AuditEntry.objects.order_by("pk").values_list("action", "target", "reason", "outcome")
    assert list(rows) == [
        ("remove_from_monitoring", f"deal {deal.pk}", "a mistake", "done"),
        ("put_back_into_monitoring", f"deal {closed.pk}", "try it", "deal_closed"),
    ]


@pytest.mark.parametrize("method", ["delete", "post"])
def test_a_closed_deal_is_neither_taken_out_nor_put_back(staff: APIClient, running: None, method: str) -> None:
    deal = closed_by_tick()
    answer = getattr(staff, method)(f"{BASE}/jobs/{deal.pk}", {"reason": "r"}, format="json")
    assert (answer.status_code, error_code(answer)) == (409, "deal_closed")


def test_a_deal_is_not_put_back_at_a_stale_price(staff: APIClient, running: None) -> None:
    deal = make_deal(take_profit="110")
    services.remove_from_monitoring(deal_id=deal.pk)
    set_price("BTCUSDT", "100", age_s=11)
    answer = staff.post(f"{BASE}/jobs/{deal.pk}", {"reason": "r"}, format="json")
    assert (answer.status_code, error_code(answer)) == (503, "stale_price")


# --- export ------------------------------------------------------------------------------------------------------


def exported(answer: Any) -> bytes:
    assert answer.status_code == 200
    return b"".join(answer.streaming_content)


def test_everything_is_one_json_file(staff: APIClient, running: None) -> None:
    closed_by_tick()
    answer = staff.get(f"{BASE}/metrics/export")
    assert answer["Content-Type"] == "application/json"
    assert answer["Content-Disposition"].startswith('attachment; filename="cryptocraze-')
    file = json.loads(exported(answer))
    assert set(file) == {"exportedAt", "health", "stats", "queues", "prices", "closures"}
    assert file["closures"]["closed"] == 1
    assert file["health"]["state"] == "running"


def test_everything_is_one_csv_file(staff: APIClient, running: None) -> None:
    closed_by_tick()
    deal = make_deal(take_profit="110")
    services.record_attempt(deal_id=deal.pk, version=1, price=Decimal(1), error='=cmd("x"), "quoted"')
    answer = staff.get(f"{BASE}/metrics/export?format=csv")
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.reader(io.StringIO(exported(answer).decode())))
    assert rows[0] == ["part", "path", "value"]
    assert {len(row) for row in rows} == {3}
    figures = {(part, path): value for part, path, value in rows[1:]}
    assert figures["closures", "closed"] == "1"
    assert figures["closures", "recentErrors.0.error"] == '\'=cmd("x"), "quoted"'
    assert {part for part, _path in figures} == {"export", "health", "stats", "queues", "prices", "closures"}


def test_a_part_that_cannot_be_read_says_so_and_the_others_follow(
    staff: APIClient, running: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current_app.conf, "broker_read_url", "redis://127.0.0.1:1/0")
    file = json.loads(exported(staff.get(f"{BASE}/metrics/export")))
    assert file["queues"]["error"]["code"] == "broker_unavailable"
    assert file["closures"]["closed"] == 0


def test_an_unknown_format_is_refused(staff: APIClient) -> None:
    answer = staff.get(f"{BASE}/metrics/export?format=xml")
    assert (answer.status_code, error_code(answer)) == (400, "invalid_format")


def test_the_event_loop_streams_it_too(staff: APIClient, running: None) -> None:
    token = Token.objects.get().key

    async def download() -> bytes:
        answer: Any = await AsyncClient().get(f"{BASE}/metrics/export", headers={"authorization": f"Token {token}"})
        assert answer.status_code == 200
        parts = [part async for part in answer.streaming_content]
        await sync_to_async(connections.close_all)()  # of the thread that read the parts
        return b"".join(parts)

    assert json.loads(asyncio.run(download()))["prices"]["staleAfterMs"] == 10_000


# --- OpenAPI -----------------------------------------------------------------------------------------------------


def described(schema: Any, name: str) -> Iterator[str]:
    for field, facts in schema["components"]["schemas"][name].get("properties", {}).items():
        if not facts.get("description"):
            yield f"{name}.{field}"


def test_the_document_describes_every_path_and_field(client: Any) -> None:
    schema = json.loads(client.get("/api/schema", headers={"accept": "application/json"}).content)
    named = (place.replace("jobs/1", "jobs/{dealId}").replace("BTCUSDT", "{symbol}") for place in PLACES)
    ours = {f"{BASE}/{place}" for place in named}
    assert ours <= schema["paths"].keys()
    for path, methods in ((path, schema["paths"][path]) for path in ours):
        for method, facts in methods.items():
            assert {"401", "403", "429", "503"} <= set(facts["responses"]), (path, method)
    assert [field for name in schema["components"]["schemas"] for field in described(schema, name)] == []


def test_operators_are_throttled_by_user(staff: APIClient, running: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from rest_framework.throttling import UserRateThrottle

    monkeypatch.setattr(UserRateThrottle, "THROTTLE_RATES", {"user": "2/min", "anon": "9/min", "write": "9/min"})
    other = staff_client()
    statuses = [staff.get(f"{BASE}/prices").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert other.get(f"{BASE}/prices").status_code == 200
    assert make_account() is not None
