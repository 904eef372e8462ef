"""The operators' live stream of a real web process: what 200 listeners cost, and how it ends."""

from __future__ import annotations

import asyncio
import http.client
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from factories import make_user
from listening import PATH, Listening, publish_number
from rest_framework.authtoken.models import Token
from servers import Process, wait_until

from workers import keys, system
from workers.heartbeats import read_beats
from workers.redis_client import connect

LISTENERS = 200
LIMIT_KB = 50_000


@pytest.fixture
def web(transactional_db: None, the_system_runs: None, start_process: Callable[..., Process]) -> tuple[Process, int]:
    """A web process as the Procfile starts it, and its port."""
    system.refresh_state()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    arguments = ["cryptocraze.asgi:application", "--port", str(port), "--lifespan", "on", "--no-access-log"]
    graceful = ["--timeout-graceful-shutdown", "3"]
    # 200 log-ins at once are one user's here.
    env = {"DATABASE_POOL": "true", "THROTTLE_USER": "10000/min"}
    process = start_process("-m", "uvicorn", *arguments, *graceful, env=env)
    process.wait_for("Uvicorn running")
    return process, port


def resident_kb(process: Process) -> int:
    """Memory of the process that is in RAM."""
    [line] = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmRSS" in line]
    return int(line.split()[1])


def asked(port: int, token: str, path: str = "/api/admin/workers/closures") -> int:
    """The status of another request, which needs PostgreSQL."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"Authorization": f"Token {token}"})
    status = connection.getresponse().status
    connection.close()
    return status


def listeners_said() -> list[int]:
    """How many listen, as the web processes say in their signs of life."""
    return [beat.facts["listeners"] for beat in read_beats() if beat.role == "web"]


class Crowd:
    """Many connections on one loop, each of which counts the numbered events that it gets."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._request = f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Token {token}\r\n\r\n".encode()
        self.live = 0
        self.heard = [0] * LISTENERS
        self.ended = 0

    async def listen(self, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(self._request)
        try:
            while line := await reader.readline():
                if b'"type":"state"' in line:
                    self.live += 1
                self.heard[number] += b'"type":"deadLetter"' in line
        finally:
            writer.close()
        self.ended += 1

    async def until(self, happened: Callable[[], bool], what: str) -> None:
        await asyncio.to_thread(wait_until, happened, 60, what)


def test_two_hundred_listeners_cost_little_hold_no_database_connection_and_end_with_the_process(
    web: tuple[Process, int],
) -> None:
    process, port = web
    token = Token.objects.create(user=make_user(is_staff=True)).key
    assert [asked(port, token) for _ in range(30)] == [200] * 30
    before_kb = resident_kb(process)

    async def scene() -> tuple[int, float]:
        crowd = Crowd(port, token)
        tasks = [asyncio.create_task(crowd.listen(number)) for number in range(LISTENERS)]
        await crowd.until(lambda: crowd.live == LISTENERS, "all listen")
        await crowd.until(lambda: listeners_said() == [LISTENERS], "the process says how many listen")
        # The pool holds 20 connections: were one kept for each stream, this would wait for ever.
        assert await asyncio.to_thread(asked, port, token) == 200
        for number in range(100):
            await asyncio.to_thread(publish_number, number, padding=1_000)
        await crowd.until(lambda: crowd.heard == [100] * LISTENERS, "all have heard everything")
        cost_kb = resident_kb(process) - before_kb
        process.signal(signal.SIGTERM)
        began = time.monotonic()
        await crowd.until(lambda: crowd.ended == LISTENERS, "all have ended")
        took_s = time.monotonic() - began
        await asyncio.gather(*tasks)
        return cost_kb, took_s

    cost_kb, took_s = asyncio.run(scene())
    print(f"200 listeners: {cost_kb} kB; ended after {took_s:.2f} s")  # noqa: T201 - shown when it fails
    assert cost_kb < LIMIT_KB
    assert process.process.wait(20) is not None
    # Its patience is 3 s; then it cancels what still runs and says so.
    assert "graceful shutdown exceeded" not in process.output
    assert listeners_said() == []
    assert "Exception" not in process.output


def test_a_process_forgets_two_hundred_listeners_when_they_have_gone(web: tuple[Process, int]) -> None:
    process, port = web
    token = Token.objects.create(user=make_user(is_staff=True)).key

    async def scene() -> None:
        crowd = Crowd(port, token)
        tasks = [asyncio.create_task(crowd.listen(number)) for number in range(LISTENERS)]
        await crowd.until(lambda: crowd.live == LISTENERS, "all listen")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scene())

    def threads() -> int:
        return len(list(Path(f"/proc/{process.pid}/task").iterdir()))

    wait_until(lambda: threads() < 60, 30, what=f"{threads()} threads")
    client = Listening(port, token).start()
    client.wait_for("state")
    client.close()
    assert connect().xlen(keys.events()) > 0
    assert process.alive
