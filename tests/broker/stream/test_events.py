"""The operators' live stream: every type of event, by causing it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import DataError
from factories import client_of
from listening import PATH, Listening, publish_number
from market import BTC, ETH, Market, lose_from_book
from servers import wait_until

from deals import state
from deals.models import Account
from deals.settlement import Failure
from monitoring.stream import session
from workers import book, control, dead_letters, events, keys, sweep, system
from workers.audit import Actor
from workers.redis_client import connect
from workers.tasks import close_deals

BOSS = Actor("boss", "10.0.0.1", 7)
Listen = Callable[..., Listening]


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
