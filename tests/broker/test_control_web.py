"""The control calls as they run in production: a real web process with pooled connections, a real worker."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from factories import make_user
from rest_framework.authtoken.models import Token
from servers import Process, wait_until

from deals.queries import current_state
from workers import operations, system
from workers.models import Operation

Ask = Callable[..., tuple[int, Any]]


@pytest.fixture
def web(transactional_db: None, the_system_runs: None, start_process: Callable[..., Process]) -> tuple[Process, Ask]:
    """A web process, and how a superuser asks it: ask("shutdown", {…}) answers status and body."""
    system.refresh_state()
    token = Token.objects.create(user=make_user(is_staff=True, is_superuser=True)).key
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["cryptocraze.asgi:application", "--port", str(port), "--lifespan", "off"]
    process = start_process("-m", "uvicorn", *arguments, env={"DATABASE_POOL": "true"})
    process.wait_for("Uvicorn running")

    def ask(path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/admin/workers/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Token {token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - the same
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    return process, ask


@pytest.mark.alone
def test_a_web_process_restarts_stops_and_resumes_the_system(
    web: tuple[Process, Ask], celery_worker: Callable[..., Process]
) -> None:
    _process, ask = web
    celery_worker(concurrency=2)
    status, restarted = ask("restart", {"reason": "test"})
    assert status in {200, 202}
    wait_until(lambda: ask(f"operations/{restarted['id']}")[1]["state"] == "done", 30)
    began = time.monotonic()
    status, stopped = ask("emergency-stop", {"reason": "test"})
    assert (status, stopped["systemState"], time.monotonic() - began < 1) == (200, "halted", True)
    assert ask("resume", {"reason": "test"})[0] == 200
    status, drained = ask("shutdown", {"reason": "test"})
    assert (status, drained["state"], current_state().state) == (200, "done", "stopped")
    assert ask("operations/0")[0] == 404


def test_an_operation_dies_with_its_web_process_and_another_one_resumes(
    web: tuple[Process, Ask], monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.redis_client import connect

    process, ask = web
    connect().hset("fired", "1", "1|BTCUSDT|1||1|1|1|tick")  # something that never ends
    assert ask("shutdown", {"reason": "test", "timeoutS": 60})[0] == 202
    process.signal(15)
    assert process.process.wait(20) is not None
    connect().delete("fired")
    monkeypatch.setattr(operations, "ABANDONED_AFTER", operations.ABANDONED_AFTER / 10)
    wait_until(lambda: [operation.kind for operation in operations.abandoned()] == ["shutdown"], 10)
    process.start()
    wait_until(lambda: process.output.count("Uvicorn running") == 2, 30)
    assert ask("resume", {"reason": "it died"})[0] == 200
    assert list(Operation.objects.order_by("pk").values_list("state", flat=True)) == ["abandoned", "done"]
    assert operations.abandoned() == []
