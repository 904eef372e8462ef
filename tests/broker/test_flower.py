"""Flower as the Procfile starts it: behind a login, read-only, with tasks that a person can read."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shlex
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from celery.exceptions import Retry
from django.db import connection
from domain import new_account
from honcho.environ import parse_procfile
from market import Market
from servers import PROJECT, Process, wait_until

from cryptocraze.embedded import free_port
from deals.models import Deal
from workers import counters, queues
from workers.dispatch import send_closures
from workers.redis_client import connect
from workers.tasks import close_deals

LOGIN = "operator:correct-horse"
LINE: str = parse_procfile((PROJECT / "Procfile").read_text()).processes["flower"]


class Flower(NamedTuple):
    """A running Flower."""

    process: Process
    port: int

    def ask(self, path: str, *, login: str | None = LOGIN, body: bytes | None = None) -> tuple[int, str]:
        """Status and text of an answer."""
        headers = {}
        if login is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as link:
            link.request("GET" if body is None else "POST", path, body, headers)
            answer = link.getresponse()
            return answer.status, answer.read().decode()


def arguments(port: int) -> list[str]:
    """What the Procfile says to `celery -A cryptocraze`, with a port of the test's own and events on."""
    words = shlex.split(LINE.split("cryptocraze ", 1)[1])
    filled = {
        "--port=${FLOWER_PORT:-5555}": f"--port={port}",
        "--enable_events=${FLOWER_EVENTS:-false}": "--enable_events=true",
    }
    assert filled.keys() <= set(words)
    return [filled.get(word, word) for word in words]


@pytest.fixture
def flower(start_process: Callable[..., Process]) -> Flower:
    port = free_port(range(5600, 5700))
    process = start_process("celery", *arguments(port), env={"FLOWER_BASIC_AUTH": LOGIN})
    found = Flower(process, port)

    def answers() -> bool:
        assert process.alive, process.output
        try:
            return found.ask("/healthcheck", login=None)[0] == 200
        except OSError:
            return False

    wait_until(answers, 30, "Flower answers")
    return found


def test_flower_asks_for_a_login_and_shows_tasks_by_deal_ids_and_counts_them(
    market: Market, flower: Flower, celery_worker: Callable[..., Process]
) -> None:
    for path in ("/", "/workers", "/tasks", "/api/tasks", "/api/workers"):
        assert flower.ask(path, login=None)[0] == 401
        assert flower.ask(path, login="operator:wrong")[0] == 401

    market.tick("100")
    account = new_account()
    deals = sorted(market.open(account, take_profit="110").pk for _ in range(12))
    celery_worker(env={"FLOWER_EVENTS": "true"})
    fired = sorted(market.tick("111"))
    assert [item.deal_id for item in fired] == deals
    send_closures(fired)
    wait_until(lambda: Deal.objects.filter(status="closed").count() == 12, 30)

    wait_until(lambda: counters.read(connect()).get("closures|take_profit|tick") == 12, 30, "the worker counts, too")

    def shown() -> list[dict[str, Any]]:
        tasks: dict[str, Any] = json.loads(flower.ask("/api/tasks?taskname=workers.close_deals")[1])
        return [task for task in tasks.values() if task["state"] == "SUCCESS"]

    wait_until(lambda: len(shown()) == 1, 30, "Flower has heard of the task")
    [task] = shown()
    first_ten = ", ".join(str(deal) for deal in deals[:10])
    assert (task["name"], task["args"]) == ("workers.close_deals", f"deals {first_ten} and 2 more")
    status, page = flower.ask(f"/task/{task['uuid']}")
    assert status == 200
    assert f"deals {first_ten} and 2 more" in page
    assert "BTCUSDT" not in page  # the message itself stays out of sight

    status, metrics = flower.ask("/metrics", login=None)  # open by design, so it listens on this machine only
    assert status == 200
    assert 'flower_events_total{task="workers.close_deals",type="task-succeeded"' in metrics
    assert "--address=127.0.0.1" in arguments(flower.port)

    for path in ("/api/task/async-apply/workers.housekeeping", "/api/worker/shutdown/x"):
        assert flower.ask(path, body=b"{}")[0] == 403
    assert queues.depth("default") == 0


def test_a_batch_that_is_tried_again_after_a_lost_connection_is_still_shown_by_deal_ids(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.tick("100")
    deal = market.open(new_account(), take_profit="110")
    batch = [[item.deal_id, item.entry] for item in market.tick("111")]
    close_deals.push_request(id="0" * 32, retries=0, called_directly=False, args=[batch], kwargs={})
    try:
        with monkeypatch.context() as away:
            away.setitem(connection.settings_dict, "HOST", "127.0.0.1")
            away.setitem(connection.settings_dict, "PORT", "1")
            connection.close()
            with pytest.raises(Retry):
                close_deals.run(batch)
    finally:
        close_deals.pop_request()
        connection.close()
    headers = json.loads(str(connect().lindex("celery:closures", 0)))["headers"]
    assert (headers["retries"], headers["argsrepr"]) == (1, f"deals {deal.pk}")
