"""Who may scrape /metrics, in which formats, and what is said in time while a server is away."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import current_app
from django.db import connection
from factories import make_user
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient
from scrapes import Samples, client_with, names, scrape, value
from servers import Valkey

from monitoring.api.metrics_view import ScrapeThrottle

pytestmark = pytest.mark.django_db(transaction=True)

LIMIT_S = 2.0


# --- rights ------------------------------------------------------------------------------------------------------


def test_nobody_but_the_staff_and_prometheus_may_scrape(
    anonymous: APIClient, api: APIClient, scraper: APIClient
) -> None:
    staff = make_user(is_staff=True)
    session = APIClient()
    session.force_login(staff)
    wrong = client_with("t" * 39 + "x")
    for path in ("/metrics", "/metrics/"):
        for client, status, code in (
            (anonymous, 401, "not_authenticated"),
            (wrong, 401, "authentication_failed"),
            (api, 403, "permission_denied"),
        ):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        for client in (scraper, session, client_with(Token.objects.get_or_create(user=staff)[0].key)):
            assert client.get(path).status_code == 200
    assert scraper.post("/metrics").status_code == 405
    assert scraper.get("/api/admin/workers/stats").status_code == 401


def test_an_empty_token_in_the_settings_lets_nobody_in(settings: Any) -> None:
    settings.METRICS_TOKEN = ""
    assert client_with("").get("/metrics").status_code == 401


def test_scrapes_are_throttled_by_caller_and_even_a_silent_redis_does_not_hold_them_up(
    scraper: APIClient, settings: Any, silent_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScrapeThrottle, "THROTTLE_RATES", {"metrics": "2/min"})
    settings.REDIS_URL = f"redis://127.0.0.1:{silent_server}/0"
    for _ in range(2):
        started = time.monotonic()
        assert value(scrape(scraper), "up", component="redis") == 0
        assert time.monotonic() - started < LIMIT_S
    answer = scraper.get("/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "throttled")
    other = client_with(Token.objects.create(user=make_user(is_staff=True)).key)
    assert other.get("/metrics").status_code == 200


# --- formats -----------------------------------------------------------------------------------------------------


def test_prometheus_gets_the_format_that_it_asks_for(scraper: APIClient) -> None:
    plain = scraper.get("/metrics")
    assert plain["Content-Type"].startswith("text/plain; version=0.0.4")
    assert plain["Cache-Control"] == "no-store"
    asked = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.2"
    answer = scraper.get("/metrics", headers={"accept": asked})
    assert answer["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(answer.content.decode())}
    assert families["cryptocraze_closures"].type == "counter"
    assert families["cryptocraze_tick_to_committed_seconds"].type == "histogram"


# --- servers that are away ---------------------------------------------------------------------------------------


def timed(client: APIClient) -> Samples:
    started = time.monotonic()
    samples = scrape(client)
    assert time.monotonic() - started < LIMIT_S
    return samples


@contextlib.contextmanager
def database_away(monkeypatch: pytest.MonkeyPatch, port: int) -> Iterator[None]:
    """PostgreSQL is looked for at a port where it is not."""
    with monkeypatch.context() as away:
        away.setitem(connection.settings_dict, "HOST", "127.0.0.1")
        away.setitem(connection.settings_dict, "PORT", str(port))
        connection.close()
        yield
    connection.close()


def up(samples: Samples) -> dict[str, float]:
    return {server: value(samples, "up", component=server) for server in ("database", "redis", "broker")}


def test_without_redis_it_answers_in_time_and_gives_no_figure_of_it(
    scraper: APIClient, settings: Any, valkey: Valkey
) -> None:
    settings.REDIS_URL = valkey.url
    whole = names(timed(scraper))
    valkey.kill()
    samples = timed(scraper)
    assert up(samples) == {"database": 1, "redis": 0, "broker": 1}
    gone = {"closures_total", "fired_deals", "book_deals", "ticks_accepted_total", "processes", "queue_workers"}
    assert gone <= whole
    assert not gone & names(samples)
    assert ("unprotected_deals", (("reason", "missing"),)) not in samples
    assert value(samples, "open_deals", monitoring="armed") == 0
    assert value(samples, "system_state", state="running") == 1


@pytest.mark.parametrize("silent", [False, True])
def test_without_postgresql_it_answers_in_time_and_gives_no_figure_of_it(
    scraper: APIClient, monkeypatch: pytest.MonkeyPatch, silent_server: int, silent: bool
) -> None:
    with database_away(monkeypatch, silent_server if silent else 1):
        samples = timed(scraper)
    assert up(samples) == {"database": 0, "redis": 1, "broker": 1}
    assert not {"open_deals", "watched_deals", "dead_letters", "system_state"} & names(samples)
    assert value(samples, "check_healthy", component="orderWorker", check="database") == 0
    assert value(samples, "settlements_total") == 0


def test_without_postgresql_nobody_else_can_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    staff = client_with(Token.objects.create(user=make_user(is_staff=True)).key)
    with database_away(monkeypatch, 1):
        answer = staff.get("/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")


def test_without_the_broker_it_answers_in_time_and_gives_no_figure_of_it(
    scraper: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current_app.conf, "broker_read_url", "redis://127.0.0.1:1/0")
    samples = timed(scraper)
    assert up(samples) == {"database": 1, "redis": 1, "broker": 0}
    assert not {"queue_messages", "queue_oldest_age_seconds"} & names(samples)
    assert "queue_workers" in names(samples)
