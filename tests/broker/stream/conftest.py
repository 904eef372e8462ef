"""The operators' stream and who listens to it. No Django at the top: this is read before the servers run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from servers import Valkey, wait_until

if TYPE_CHECKING:
    from listening import Listening, Server


@pytest.fixture
def server(transactional_db: None, the_system_runs: None) -> Iterator[Server]:
    """uvicorn in this process."""
    from listening import Server

    from monitoring.stream import hub

    server = Server()
    yield server
    server.stop()
    assert hub._sessions == {}


@pytest.fixture
def token(transactional_db: None) -> str:
    """Of someone on the staff."""
    from factories import make_user
    from rest_framework.authtoken.models import Token

    return Token.objects.create(user=make_user(is_staff=True)).key


@pytest.fixture
def listen(server: Server, token: str) -> Iterator[Callable[..., Listening]]:
    """listen() opens a stream and waits until it is live; listen(last_id="1-0") resumes."""
    from listening import Listening

    from monitoring.stream import hub

    opened: list[Listening] = []

    def listen(**how: Any) -> Listening:
        client = Listening(server.port, token, **how)
        assert client.answer.status == 200
        opened.append(client)
        client.start()
        if not how:
            client.wait_for("state")
        return client

    yield listen
    for client in opened:
        client.close()
    wait_until(lambda: hub._sessions == {} and not hub._closing, what="everything is freed")


@pytest.fixture
def own_redis(valkey: Valkey, settings: Any) -> Iterator[Valkey]:
    """The application on a Valkey that the test may kill."""
    from workers.redis_client import connect

    settings.REDIS_URL = valkey.url
    connect.cache_clear()
    yield valkey
    connect.cache_clear()
