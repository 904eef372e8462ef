"""The last minutes one by one: closures, latencies and the depths that web processes sample."""

from __future__ import annotations

import time
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from celery import current_app
from django.utils import timezone
from factories import close_deal, make_deal, make_user
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient
from servers import Valkey, wait_until

from deals import settlement
from deals.models import Deal
from monitoring import depths
from monitoring.depths import DepthThread
from workers import keys, system
from workers.redis_client import connect

pytestmark = pytest.mark.django_db(transaction=True)

PLACE = "/api/admin/workers/history"
NOTHING = {"deals": 0, "p50Ms": None, "p95Ms": None, "p99Ms": None, "maxMs": None}


@pytest.fixture
def staff(transactional_db: None, the_system_runs: None) -> APIClient:
    """A client of someone on the staff without further rights, while the system runs."""
    system.refresh_state()
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {Token.objects.create(user=make_user(is_staff=True)).key}")
    return client


def minutes(client: APIClient, query: str = "") -> list[dict[str, Any]]:
    answer = client.get(f"{PLACE}{query}")
    assert answer.status_code == 200, answer.content
    assert list(answer.json()) == ["minutes"]
    return list(answer.json()["minutes"])


def closed_by_tick(took_ms: int) -> Deal:
    """A deal whose tick was received so long before its commit."""
    deal = make_deal(take_profit="110")
    now = timezone.now()
    received_at = now - timedelta(milliseconds=took_ms)
    due = settlement.Due(
        deal.pk, deal.watch_version, Decimal(111), "tick", 7, received_at, received_at=received_at, fired_at=received_at
    )
    assert len(settlement.settle([due], started_at=now).closed) == 1
    return deal


def within_a_minute() -> None:
    """Wait for a minute that has five seconds left."""
    wait_until(lambda: time.time() % 60 < 55, 10, "a minute begins")


def test_every_minute_is_told_the_running_one_last(staff: APIClient) -> None:
    told = minutes(staff)
    assert len(told) == 15
    assert len({minute["at"] for minute in told}) == 15
    assert [minute["at"] for minute in told] == sorted(minute["at"] for minute in told)
    assert told[-1]["at"].endswith(":00Z")
    assert all(minute["closures"] == [] and minute["latency"] == NOTHING for minute in told)
    assert told[0]["queues"] == [{"name": name, "depth": None} for name in ("closures", "sweep", "default")]


def test_closures_and_latencies_stand_in_their_minute(staff: APIClient) -> None:
    within_a_minute()
    closed_by_tick(2_000)
    closed_by_tick(4_000)
    earlier = closed_by_tick(9_000)
    close_deal(make_deal())
    Deal.objects.filter(pk=earlier.pk).update(closed_at=timezone.now() - timedelta(minutes=2))
    told = minutes(staff, "?minutes=3")
    assert [minute["closures"] for minute in told] == [
        [{"reason": "take_profit", "deals": 1}],
        [],
        [{"reason": "manual", "deals": 1}, {"reason": "take_profit", "deals": 2}],
    ]
    assert told[1]["latency"] == NOTHING
    assert told[2]["latency"]["deals"] == 2
    assert told[2]["latency"]["p50Ms"] == pytest.approx(3_000, abs=500)
    assert told[2]["latency"]["maxMs"] == pytest.approx(4_000, abs=500)
    assert [minute["closures"] for minute in minutes(staff, "?minutes=1")] == [told[2]["closures"]]


def test_the_deepest_sample_of_a_minute_counts(staff: APIClient) -> None:
    within_a_minute()
    for _ in range(3):
        current_app.send_task("workers.close_deals", args=[[]], queue="closures")
    assert depths.sample()
    connect().delete(keys.depths_turn())
    current_app.control.purge()
    assert depths.sample()
    [minute] = minutes(staff, "?minutes=1")
    assert minute["queues"] == [
        {"name": "closures", "depth": 3},
        {"name": "sweep", "depth": 0},
        {"name": "default", "depth": 0},
    ]


def test_of_several_web_processes_one_samples(staff: APIClient) -> None:
    assert [depths.sample(), depths.sample()] == [True, False]
    assert connect().xlen(keys.depths()) == 1


def test_samples_are_kept_for_an_hour(staff: APIClient) -> None:
    client: Any = connect()
    with client.pipeline() as pipe:
        for second in range(0, 4 * 3_600, 2):
            pipe.xadd(keys.depths(), {"closures": 1}, id=f"{1_000_000_000_000 + second * 1000}-0")
        pipe.execute()
    assert depths.sample()
    assert client.xlen(keys.depths()) < 500  # trimmed by whole nodes


def test_a_web_process_samples_until_it_ends(staff: APIClient) -> None:
    thread = DepthThread(alive=lambda: True)
    thread.start()
    wait_until(lambda: connect().xlen(keys.depths()), 15, "a sample is there")
    thread.stop()
    assert not thread._thread.is_alive()


def test_without_redis_closures_are_told(staff: APIClient, valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    within_a_minute()
    closed_by_tick(2_000)
    away = valkey.client()
    valkey.kill()
    monkeypatch.setattr("monitoring.depths.connect", lambda: away)
    [minute] = minutes(staff, "?minutes=1")
    assert minute["closures"] == [{"reason": "take_profit", "deals": 1}]
    assert {queue["depth"] for queue in minute["queues"]} == {None}


@pytest.mark.parametrize("wrong", ["0", "61", "x", "1.5", ""])
def test_impossible_minutes_are_refused(staff: APIClient, wrong: str) -> None:
    answer = staff.get(PLACE, {"minutes": wrong})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_minutes")
