"""The operators' live stream: who comes back, a log that is gone, servers that are away."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import redis
from django.db import connection
from listening import PATH, Listening, Server, publish_number
from market import BTC, Market
from servers import Valkey, wait_until

from deals import state
from workers import events, keys, system
from workers.audit import Actor
from workers.redis_client import connect

BOSS = Actor("boss", "10.0.0.1", 7)
Listen = Callable[..., Listening]


# --- resuming ------------------------------------------------------------------------------------------------------


def test_who_comes_back_gets_what_it_missed_and_nothing_twice(listen: Listen) -> None:
    client = listen()
    publish_number(1)
    client.wait_for("deadLetter")
    client.close()
    for number in (2, 3):
        publish_number(number)
    again = listen(last_id=client.last_id)
    again.wait_for("deadLetter", 2)
    publish_number(4)
    again.wait_for("deadLetter", 3)
    assert again.numbered() == [2, 3, 4]
    assert again.of("reset") == []
    by_address = listen(path=f"{PATH}?lastEventId={client.last_id}")
    by_address.wait_for("deadLetter", 3)
    assert by_address.numbered() == [2, 3, 4]


def test_nothing_is_lost_or_repeated_while_listeners_come_and_go_under_load(listen: Listen) -> None:
    first = listen()
    total = 3_000

    def publish() -> None:
        for number in range(total):
            publish_number(number)

    publisher = threading.Thread(target=publish)
    publisher.start()
    cursor, heard = first.last_id, []
    while not heard or heard[-1] != total - 1:
        client = listen(last_id=cursor)
        client.wait_for("deadLetter")
        client.close()
        heard += client.numbered()
        cursor = client.last_id
        assert client.of("reset") == []
    publisher.join()
    assert heard == list(range(total))
    wait_until(lambda: first.numbered()[-1] == total - 1)
    assert first.numbered() == list(range(total))


@pytest.mark.parametrize("cursor", ["trimmed", "nonsense", "1-x", "99999999999999-0", "9" * 30 + "-1", "0-0", "²-1"])
def test_a_cursor_that_is_gone_gets_one_reset_with_a_snapshot_and_a_good_cursor(
    listen: Listen, market: Market, cursor: str
) -> None:
    market.tick("100")
    client = listen()
    for number in range(5):
        publish_number(number)
    client.wait_for("deadLetter", 5)
    if cursor == "trimmed":
        cursor = str(client.ids[client.kinds.index("deadLetter")])
        connect().xtrim(keys.events(), maxlen=2, approximate=False)
    lost = listen(path=f"{PATH}?lastEventId={'%C2%B2-1' if cursor == '²-1' else cursor}")
    snapshot = lost.wait_for("reset")
    assert set(snapshot) == {"health", "state", "prices", "figures"}
    assert snapshot["state"]["state"] == "running"
    assert [row["price"] for row in snapshot["prices"]["symbols"] if row["symbol"] == BTC] == ["100"]
    assert lost.last_id == client.last_id
    publish_number(5)
    lost.wait_for("deadLetter")
    assert (lost.numbered(), len(lost.of("reset"))) == ([5], 1)
    again = listen(last_id=lost.ids[lost.kinds.index("reset")])
    again.wait_for("deadLetter")
    assert (again.numbered(), again.of("reset")) == ([5], [])


def test_a_log_that_is_emptied_resets_everyone_who_listens(
    listen: Listen, redis_client: redis.Redis, market: Market
) -> None:
    clients = [listen(), listen()]
    publish_number(1)
    for client in clients:
        client.wait_for("deadLetter")
    redis_client.delete(keys.events())
    for client in clients:
        client.wait_for("reset")
    publish_number(2)
    for client in clients:
        client.wait_for("deadLetter", 2)
        assert (client.numbered(), len(client.of("reset"))) == ([1, 2], 1)


def test_the_log_keeps_ten_thousand_events_and_not_many_more(redis_client: redis.Redis) -> None:
    with connect().pipeline(transaction=False) as pipe:
        for number in range(10_500):
            events.add(pipe, "deadLetter", {"id": number})
        pipe.execute()
    assert events.KEEP <= redis_client.xlen(keys.events()) < events.KEEP + 200


# --- Redis away ----------------------------------------------------------------------------------------------------


def redis_is_healthy(client: Listening) -> bool:
    components = client.of("health")[-1]["components"]
    return all(check["isHealthy"] for part in components for check in part["checks"] if check["name"] == "redis")


def test_while_redis_is_away_health_says_so_and_after_it_the_stream_goes_on(
    own_redis: Valkey, server: Server, listen: Listen
) -> None:
    client = listen()
    publish_number(1)
    client.wait_for("deadLetter")
    own_redis.kill()
    wait_until(lambda: not redis_is_healthy(client), 20)
    late = listen(last_id=client.last_id)
    newcomer = listen(path=f"{PATH}/")
    assert late.wait_for("health")["isHealthy"] is False
    own_redis.start()
    wait_until(lambda: redis_is_healthy(client), 20)
    publish_number(2)
    for one, numbers in ((client, [1, 2]), (late, [2]), (newcomer, [2])):
        wait_until(lambda one=one, numbers=numbers: one.numbered() == numbers, what=f"{numbers}: {one.kinds}")
    assert (client.of("reset"), late.of("reset")) == ([], [])
    assert len(newcomer.of("reset")) == 1  # it may have missed something, and has no cursor to find out
    own_redis.kill()
    own_redis.start(empty=True)
    client.wait_for("reset", timeout_s=30)
    publish_number(3)
    wait_until(lambda: client.numbered() == [1, 2, 3])
    assert not client.ended


def test_while_postgresql_is_away_health_says_so_without_figures(
    market: Market, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = listen()
    assert client.wait_for("health")["figures"] is not None
    with monkeypatch.context() as away:
        away.setitem(connection.settings_dict, "HOST", "127.0.0.1")
        away.setitem(connection.settings_dict, "PORT", "1")
        wait_until(lambda: client.of("health")[-1]["state"] is None, 20)
        assert client.of("health")[-1]["figures"] is None
        publish_number(1)
        client.wait_for("deadLetter")
    wait_until(lambda: client.of("health")[-1]["state"] == "running", 20)


def test_what_cannot_be_published_is_logged_and_fails_nothing(own_redis: Valkey, market: Market) -> None:
    own_redis.kill()
    publish_number(1)
    assert state.change(state.State.STOPPED, "test")
    system.refresh_state_if_reachable()
