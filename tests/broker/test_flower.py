"""Flower as the Procfile starts it: behind a login, read-only, with tasks that a person can read."""

from __future__ import annotations

import base64
import json
import shlex
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from domain import new_account
from honcho.environ import parse_procfile
from market import Market
from servers import PROJECT, Process, wait_until

from cryptocraze.embedded import free_port
from deals.models import Deal
from workers.dispatch import send_closures

LOGIN = "operator:correct-horse"
LINE: str = parse_procfile((PROJECT / "Procfile").read_text()).processes["flower"]


class Flower(NamedTuple):
    """A running Flower."""

    process: Process
    port: int

    def ask(self, path: str, *, login: str | None = LOGIN, body: bytes | None = None) -> tuple[int, str]:
        """Status and text of an answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body)
        if login is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()


def arguments(port: int) -> list[str]:
    """What the Procfile says to `celery -A cryptocraze`, with a port of the test's own and events on."""
    words = shlex.split(LINE.split("cryptocraze ", 1)[1])
    filled = {"--port=${FLOWER_PORT:-5555}": f"--port={port}", "--enable_events=${FLOWER_EVENTS:-false}": "--enable_events=true"}
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
    deals = sorted(market.open(account, take_profit="110", amount="10").pk for _ in range(12))
    celery_worker("-E", env={"FLOWER_EVENTS": "true"})
    fired = sorted(market.tick("111"))
    assert [item.deal_id for item in fired] == deals
    send_closures(fired)
    wait_until(lambda: Deal.objects.filter(status="closed").count() == 12, 30)

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

    for path, body in (("/api/task/async-apply/workers.housekeeping", b"{}"), ("/api/worker/shutdown/x", b"")):
        status, text = flower.ask(path, body=body)
        assert status in {401, 403, 404, 405}, (path, status, text)
