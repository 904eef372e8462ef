"""The operators' live stream over a real ASGI server: every type by causing it, resuming, and who is cut off."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.db import DataError, connection
from factories import client_of, make_user
from listening import PATH, Listening, Server, publish_number
from market import BTC, ETH, Market, lose_from_book
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient
from rest_framework.throttling import UserRateThrottle
from servers import Valkey, wait_until

from deals import state
from deals.models import Account
from deals.settlement import Failure
from monitoring.stream import hub, listener, session
from workers import book, control, dead_letters, events, keys, sweep, system
from workers.audit import Actor
from workers.redis_client import connect
from workers.tasks import close_deals

BOSS = Actor("boss", "10.0.0.1", 7)
Listen = Callable[..., Listening]


@pytest.fixture
def server(transactional_db: None, the_system_runs: None) -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()
    assert hub._sessions == {}


@pytest.fixture
def token(transactional_db: None) -> str:
    """Of someone on the staff."""
    return Token.objects.create(user=make_user(is_staff=True)).key


@pytest.fixture
def listen(server: Server, token: str) -> Iterator[Listen]:
    """listen() opens a stream and waits until it is live; listen(last_id="1-0") resumes."""
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


# --- what is sent --------------------------------------------------------------------------------------------------


def test_a_new_listener_gets_health_prices_and_state_whole_and_the_cursor(market: Market, listen: Listen) -> None:
    market.tick("100.5")
    publish_number(1)
    client = listen()
    health = client.wait_for("health")
    assert health["isHealthy"] is False
    assert {component["name"] for component in health["components"]} >= {"orderWorker", "queueManager"}
    assert health["figures"]["openDeals"] == []
    assert health["figures"]["latencies"]["tickToCommitted"]["deals"] == 0
    prices = client.wait_for("prices")
    assert prices["staleAfterMs"] == 10_000
    [btc] = [row for row in prices["symbols"] if row["symbol"] == BTC]
    assert (btc["price"], btc["armed"], btc["nearestUpper"], btc["nearestLower"]) == ("100.5", 0, None, None)
    assert client.wait_for("state")["state"] == "running"
    [(newest, _fields)] = connect().xrevrange(keys.events(), count=1)
    assert client.last_id == newest
    assert [client.ids[number] for number, kind in enumerate(client.kinds) if kind != "state"] == [None] * (
        len(client.kinds) - 1
    )
    assert client.numbered() == []
    headers = client.answer.headers
    assert (headers["Content-Type"], headers["Cache-Control"]) == ("text/event-stream", "no-store")
    assert (headers["X-Accel-Buffering"], headers["Content-Encoding"]) == ("no", None)
    second = listen(path=f"{PATH}/")
    assert second.wait_for("health")["checkedAt"] >= health["checkedAt"]


def test_a_tick_that_fires_and_the_batch_that_settles_are_one_event_each(
    market: Market, trader: Account, listen: Listen
) -> None:
    client = listen()
    market.tick("100")
    deals = [market.open(trader, take_profit=level) for level in ("110", "110", "111")]
    fired = market.tick("111.5")
    told = client.wait_for("trigger")
    assert told["count"] == 3
    assert {"dealId": deals[0].pk, "symbol": BTC, "price": "111.5", "detector": "tick"} in told["deals"]
    assert close_deals([[item.deal_id, item.entry] for item in fired]) == 3
    closure = client.wait_for("closure")
    assert (closure["count"], len(closure["closures"])) == (3, 3)
    assert closure["counts"] == [{"reason": "take_profit", "detector": "tick", "deals": 3}]
    first = next(row for row in closure["closures"] if row["dealId"] == deals[0].pk)
    assert (first["userId"], first["symbol"], first["reason"]) == (trader.user_id, BTC, "take_profit")
    assert (first["closePrice"], first["profit"]) == ("111.5", "114.5")
    publish_number(1)
    client.wait_for("deadLetter")
    assert (len(client.of("trigger")), len(client.of("closure"))) == (1, 1)


def test_a_large_batch_is_counted_whole_and_listed_in_part(
    market: Market, trader: Account, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LISTED", 2)
    market.tick("100")
    for _ in range(3):
        market.open(trader, take_profit="110")
    client = listen()
    fired = market.tick("111")
    close_deals([[item.deal_id, item.entry] for item in fired])
    closure = client.wait_for("closure")
    assert (closure["count"], len(closure["closures"])) == (3, 2)


def test_the_tick_script_lists_fifty_of_what_it_fired(market: Market, listen: Listen) -> None:
    market.tick("100")
    names = {str(number): 110.0 for number in range(1, 151)}
    connect().zadd(keys.upper(BTC), names)  # type: ignore[arg-type]  # stubs want one kind of number
    client = listen()
    assert len(market.tick("111")) == 150
    told = client.wait_for("trigger")
    assert (told["count"], len(told["deals"])) == (150, events.LISTED)


def test_what_arming_and_the_sweep_fire_is_told_too(market: Market, trader: Account, listen: Listen) -> None:
    client = listen()
    market.tick("100")
    with_gap = market.open(trader, take_profit="120")
    lose_from_book(with_gap)
    market.tick("121")
    assert sweep.sweep(clock=market.clock).found == 1
    told = client.wait_for("trigger")
    assert told["deals"] == [{"dealId": with_gap.pk, "symbol": BTC, "price": "121", "detector": "sweep"}]


def test_a_closure_by_hand_is_told_like_every_other(market: Market, trader: Account, listen: Listen) -> None:
    market.tick("100")
    deal = market.open(trader, take_profit="110")
    client = listen()
    market.tick("105")
    assert client_of(trader).post(f"/api/deals/{deal.pk}/close").status_code == 200
    closure = client.wait_for("closure")
    assert closure["counts"] == [{"reason": "manual", "detector": "manual", "deals": 1}]
    assert closure["closures"][0]["dealId"] == deal.pk


def test_a_change_of_state_is_told_once_and_changes_health(market: Market, listen: Listen) -> None:
    client = listen()
    before = client.wait_for("health")
    assert before["state"] == "running"
    state.change(state.State.STOPPED, "for the test")
    system.refresh_state()
    system.refresh_state()
    told = client.wait_for("state", 2)
    assert (told["state"], told["reason"], told["since"] is not None) == ("stopped", "for the test", True)
    wait_until(lambda: client.of("health")[-1]["state"] == "stopped")
    assert len(client.of("state")) == 2


def test_health_is_told_on_change_and_again_and_again(market: Market, listen: Listen) -> None:
    from workers.heartbeats import Sign

    client = listen()
    Sign("beat", "b").write({})

    def beat_is_healthy() -> bool:
        components = client.of("health")[-1]["components"]
        return any(check["name"] == "beat" and check["isHealthy"] for part in components for check in part["checks"])

    wait_until(beat_is_healthy)
    seen = len(client.of("health"))
    client.wait_for("health", seen + 1)  # nothing changes, and it comes every 5 s


def test_dead_letters_are_told_when_new_requeued_resolved_and_discarded(
    market: Market, trader: Account, listen: Listen
) -> None:
    client = listen()
    market.tick("100")
    for level in ("110", "115"):
        market.open(trader, take_profit=level)
    for fired in market.tick("116"):
        failure = Failure(fired.due(), DataError("overflow"))
        assert dead_letters.bury(fired, failure, attempts=3, first_failed_ms=fired.fired_ms, task="t")
        book.clear_fired([(fired.deal_id, fired.version)])
    new = client.wait_for("deadLetter", 2)
    first = client.of("deadLetter")[0]
    assert (new["state"], new["symbol"], new["error"], new["attempts"]) == ("failed", BTC, "DataError: overflow", 3)
    dead_letters.requeue(first["id"], BOSS, "mended")
    dead_letters.discard(new["id"], BOSS, "given up")
    client.wait_for("deadLetter", 4)
    close_deals([[deal_id, item.entry] for deal_id, item in book.all_fired().items()])
    client.wait_for("deadLetter", 5)
    told = [(letter["id"], letter["state"]) for letter in client.of("deadLetter")[2:]]
    assert told == [(first["id"], "requeued"), (new["id"], "discarded"), (first["id"], "resolved")]


def test_the_steps_of_an_operation_are_told(market: Market, listen: Listen) -> None:
    market.tick("100")
    client = listen()
    operation = control.resume("for the test", BOSS).wait(20)
    wait_until(lambda: [told["state"] for told in client.of("operation")][-1:] == ["done"])
    told = client.of("operation")
    assert [(one["id"], one["kind"], one["userId"]) for one in told] == [(operation.pk, "resume", 7)] * 3
    assert [len(one["steps"]) for one in told] == [0, 1, 1]
    assert told[-1]["steps"][0]["outcome"] == "the system was running already"
    stop = control.emergency_stop("for the test", BOSS)
    wait_until(lambda: client.of("operation")[-1]["id"] == stop.pk)
    assert client.wait_for("state", 2)["state"] == "halted"


def test_prices_are_batched_and_only_what_changed_is_sent(market: Market, listen: Listen) -> None:
    market.tick("1")
    market.tick("2000", symbol=ETH)
    client = listen()
    seen, began = len(client.of("prices")), time.monotonic()
    for number in range(2, 302):
        market.tick(str(number))
    wait_until(lambda: client.of("prices")[-1]["symbols"][0].get("price") == "301")
    took = time.monotonic() - began
    sent = client.of("prices")[seen:]
    assert len(sent) <= took * 4 + 2
    assert {row["symbol"] for prices in sent for row in prices["symbols"]} == {BTC}
    assert not any("armed" in row for prices in sent for row in prices["symbols"])


def test_the_books_nearest_triggers_come_with_the_prices(market: Market, trader: Account, listen: Listen) -> None:
    market.tick("100")
    client = listen()
    deal = market.open(trader, take_profit="110", stop_loss="90.5")

    def told() -> dict[str, Any]:
        row: dict[str, Any] = {}
        for prices in client.of("prices"):
            for changed in prices["symbols"]:
                row |= changed if changed["symbol"] == BTC else {}
        return row

    wait_until(lambda: told().get("armed") == 1)
    assert told()["nearestUpper"] == {"dealId": deal.pk, "price": "110"}
    assert told()["nearestLower"] == {"dealId": deal.pk, "price": "90.5"}


def test_heartbeats_come_while_nothing_happens(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "HEARTBEAT_S", 0.1)
    client = listen()
    wait_until(lambda: client.comments >= 3)


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


@pytest.fixture
def own_redis(valkey: Valkey, settings: Any) -> Iterator[Valkey]:
    """The application on a Valkey that the test may kill."""
    settings.REDIS_URL = valkey.url
    connect.cache_clear()
    yield valkey
    connect.cache_clear()


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
