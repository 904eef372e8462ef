"""The operators' live stream: who is cut off, what is freed, who is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import redis
from listening import PATH, Listening, Server, publish_number
from rest_framework.test import APIClient
from rest_framework.throttling import UserRateThrottle
from servers import wait_until

from monitoring.stream import hub, listener, session

Listen = Callable[..., Listening]


# --- who is cut off, and what is freed -----------------------------------------------------------------------------


def test_a_listener_that_reads_nothing_is_dropped_and_the_others_go_on(
    server: Server, token: str, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MOST_PARTS", 50)
    good = listen()
    stuck = Listening(server.port, token, receive_buffer=4096)
    wait_until(lambda: hub.listeners() == 2)
    number = 0
    while hub.listeners() == 2:
        publish_number(number, padding=50_000)
        number += 1
        good.wait_for("deadLetter", number)
        assert number < 2_000
    assert hub.listeners() == 1
    publish_number(number)
    good.wait_for("deadLetter", number + 1)
    assert good.numbered() == list(range(number + 1))
    stuck.start()
    wait_until(lambda: stuck.ended, what="its connection is closed")
    heard = stuck.numbered()
    assert heard == list(range(len(heard)))
    back = listen(last_id=stuck.last_id)
    wait_until(lambda: back.numbered()[-1:] == [number])
    assert back.numbered() == list(range(len(heard), number + 1))
    stuck.close()


def test_leaving_frees_tasks_threads_and_connections(
    server: Server, token: str, listen: Listen, redis_client: redis.Redis
) -> None:
    def used() -> tuple[int, int]:
        return len(asyncio.all_tasks(loop)), len(redis_client.client_list())

    first = listen()
    [loop] = hub._sessions
    first.close()
    wait_until(lambda: hub._sessions == {} and not hub._closing)
    idle = used()
    clients = [listen() for _ in range(20)]
    assert hub.listeners() == 20
    busy = used()
    assert busy[0] > idle[0] + 20
    assert busy[1] <= idle[1] + 6  # one reader, one for prices, at most four that catch up: not one for each
    for client in clients:
        client.close()
    wait_until(lambda: used() <= idle and hub.listeners() == 0, what=f"{used()} → {idle}")
    assert hub._sessions == {}


def test_one_session_serves_all_listeners_of_a_process(listen: Listen) -> None:
    listen()
    [before] = hub._sessions.values()
    listen()
    [after] = hub._sessions.values()
    assert before is after
    assert len(after.listeners) == 2


def test_a_stream_that_has_lasted_long_enough_ends_so_that_rights_are_asked_for_again(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "LONGEST_S", 0.5)
    monkeypatch.setattr(session, "HEARTBEAT_S", 0.1)
    client = listen()
    wait_until(lambda: client.ended)


def test_a_head_request_gets_the_headers_and_no_stream(server: Server, token: str) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("HEAD", PATH, headers={"Authorization": f"Token {token}"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Content-Type"), answer.read()) == (200, "text/event-stream", b"")
    connection.close()
    assert hub.listeners() == 0


def test_a_server_that_cannot_stream_says_so(token: str) -> None:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {token}")
    answer = client.get(PATH)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_streaming")


def test_opening_streams_is_throttled(listen: Listen, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UserRateThrottle, "THROTTLE_RATES", {**UserRateThrottle.THROTTLE_RATES, "user": "1/min"})
    listen()
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {token}")
    assert client.get(PATH).status_code == 429
