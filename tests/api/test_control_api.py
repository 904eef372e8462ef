"""The control calls and the dead letters over REST: rights, every answer, every refusal, what is audited."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import DataError
from domain import new_account
from factories import make_user
from market import Market
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient
from servers import Process, wait_until

from deals import services, state
from deals.models import Deal, Monitoring
from deals.queries import current_state
from deals.settlement import Failure
from monitoring.api import control_views
from workers import book, dead_letters, groups, keys, operations, system
from workers.clock import WALL_CLOCK
from workers.dispatch import send_closures
from workers.drivers import next_token
from workers.models import AuditEntry, DeadLetter, Operation
from workers.prices import RedisQuoteBoard
from workers.redis_client import connect

BASE = "/api/admin/workers"
CONTROL = [("post", "/restart"), ("post", "/shutdown"), ("post", "/emergency-stop"), ("post", "/resume")]
LETTER = [("post", "/dead-letters/1/requeue"), ("post", "/dead-letters/1/discard")]
READ = [("get", "/operations/1"), ("get", "/dead-letters"), ("get", "/dead-letters/1")]
CHANGE = [*CONTROL, *LETTER]
EVERY = [*CHANGE, *READ]
METHODS = ("get", "post", "put", "patch", "delete")


def error_of(answer: Any) -> dict[str, Any]:
    assert list(answer.json()) == ["error"], answer.content
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"code", "message", "field"}
    return error


def client_for(user: User) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {Token.objects.create(user=user).key}")
    return client


@pytest.fixture
def member(transactional_db: None, the_system_runs: None) -> Callable[[str], APIClient]:
    """A client of a member of staff in a group: member("operators")."""
    groups.create_groups(Group, Permission)  # clearing the database after a transactional test takes them away

    def log_in(name: str) -> APIClient:
        user = make_user(f"{name}-member", is_staff=True)
        if name != "none":
            user.groups.add(Group.objects.get(name=name))
        return client_for(user)

    return log_in


@pytest.fixture
def boss(member: Callable[[str], APIClient]) -> APIClient:
    """An operator."""
    return member("operators")


@pytest.fixture
def live(transactional_db: None, the_system_runs: None) -> Iterator[Market]:
    """A prices process on the wall clock."""
    system.refresh_state()
    market = Market(clock=WALL_CLOCK, token=next_token())
    yield market
    market.close()


def call(client: APIClient, path: str, **body: Any) -> Any:
    return client.post(f"{BASE}{path}", {"reason": "test", **body}, format="json", REMOTE_ADDR="10.1.2.3")


def audited(action: str) -> list[Any]:
    """What the audit log says of an action: who, from where, what to, why, what came of it."""
    rows = AuditEntry.objects.filter(action=action).order_by("pk")
    return list(rows.values_list("who", "source", "target", "reason", "outcome"))


# --- rights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_nobody_gets_in_without_a_log_in(db: None, anonymous: APIClient, method: str, path: str) -> None:
    for each in METHODS:
        answer = getattr(anonymous, each)(f"{BASE}{path}")
        assert (answer.status_code, error_of(answer)["code"]) == (401, "not_authenticated")


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_a_trader_is_refused_on_every_method(db: None, method: str, path: str) -> None:
    trader = client_for(make_user("trader"))
    for each in METHODS:
        answer = getattr(trader, each)(f"{BASE}{path}", {"reason": "test"}, format="json")
        assert (answer.status_code, error_of(answer)["code"]) == (403, "permission_denied")


@pytest.mark.parametrize("group", ["none", "support"])
def test_all_staff_may_look_and_without_the_right_nobody_changes_anything(
    member: Callable[[str], APIClient], group: str
) -> None:
    client = member(group)
    for _method, path in CHANGE:
        for each in METHODS:
            answer = getattr(client, each)(f"{BASE}{path}", {"reason": "test"}, format="json")
            assert (answer.status_code, error_of(answer)["code"]) == (403, "permission_denied")
    assert current_state().state == "running"
    assert client.get(f"{BASE}/dead-letters").json() == {"next": None, "previous": None, "results": []}
    for path in ("/operations/1", "/dead-letters/1"):
        assert client.get(f"{BASE}{path}").status_code == 404


def test_someone_of_the_group_who_is_no_staff_is_refused(member: Callable[[str], APIClient]) -> None:
    user = make_user("left the company")
    user.groups.add(Group.objects.get(name="operators"))
    assert call(client_for(user), "/shutdown").status_code == 403


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_a_wrong_method_is_405_with_and_without_the_trailing_slash(boss: APIClient, method: str, path: str) -> None:
    for each in set(METHODS) - {method}:
        for slash in ("", "/"):
            answer = getattr(boss, each)(f"{BASE}{path}{slash}", {}, format="json")
            assert (answer.status_code, error_of(answer)["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "required", "reason"),
        ({"reason": ""}, "invalid_reason", "reason"),
        ({"reason": None}, "invalid_reason", "reason"),
        ({"reason": "x" * 501}, "invalid_reason", "reason"),
        ({"reason": "a\u0000b"}, "invalid_reason", "reason"),
        ({"reason": 0}, "invalid_reason", "reason"),
        ({"reason": "\u0001\t"}, "invalid_reason", "reason"),
        ({"reason": f" {'x' * 500}"}, "invalid_reason", "reason"),
        ({"reason": "test", "force": True}, "unknown_field", "force"),
    ],
)
def test_without_a_good_reason_nothing_is_done(boss: APIClient, body: dict[str, Any], code: str, field: str) -> None:
    for method, path in [*CONTROL, *LETTER]:
        answer = getattr(boss, method)(f"{BASE}{path}", body, format="json")
        assert answer.status_code == 400, path
        assert (error_of(answer)["code"], error_of(answer)["field"]) == (code, field)
    assert not Operation.objects.exists()
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize("timeout", [0, -1, 1.5, 3601, "soon", "30", True, None])
def test_a_bad_timeout_is_refused(boss: APIClient, timeout: Any) -> None:
    for path in ("/restart", "/shutdown"):
        answer = call(boss, path, timeoutS=timeout)
        assert (answer.status_code, error_of(answer)["code"], error_of(answer)["field"]) == (
            400, "invalid_timeout_s", "timeoutS",
        )  # fmt: skip


# --- control ------------------------------------------------------------------------------------------------------


def test_a_shutdown_that_is_quick_answers_200_and_is_audited(live: Market, boss: APIClient) -> None:
    answer = call(boss, "/shutdown", reason="new disk")
    assert answer.status_code == 200
    body = answer.json()
    assert {key: body[key] for key in ("kind", "state", "reason", "requestedBy", "source", "error", "systemState")} == {
        "kind": "shutdown", "state": "done", "reason": "new disk", "requestedBy": "operators-member",
        "source": "10.1.2.3", "error": "", "systemState": "stopped",
    }  # fmt: skip
    assert [step["name"] for step in body["steps"]] == ["draining", "drain"]
    assert boss.get(f"{BASE}/operations/{body['id']}").json() == body
    again = call(boss, "/shutdown").json()
    assert (again["state"], again["steps"][0]["outcome"]) == ("done", "the system is stopped already")
    entries = AuditEntry.objects.order_by("pk").values_list("who", "source", "action", "target", "reason", "outcome")
    target = f"operation {body['id']}"
    assert list(entries)[:2] == [
        ("operators-member", "10.1.2.3", "shutdown", target, "new disk", "requested"),
        ("operators-member", "10.1.2.3", "shutdown", target, "new disk", "done"),
    ]


def test_what_takes_longer_answers_202_and_shows_its_steps_until_it_has_ended(
    live: Market, boss: APIClient, celery_worker: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_views, "ANSWER_WITHIN_S", 0.3)
    live.tick("100")
    live.open(new_account(), take_profit="110")
    send_closures(live.tick("111"))  # in flight until a worker comes
    answer = call(boss, "/shutdown")
    assert answer.status_code == 202
    body = answer.json()
    assert (body["state"], body["systemState"], body["finishedAt"]) == ("running", "draining", None)
    joined = call(boss, "/shutdown", reason="me too")
    assert (joined.status_code, joined.json()["id"]) == (202, body["id"])
    assert ("operators-member", "10.1.2.3", f"operation {body['id']}", "me too", "joined") in audited("shutdown")
    for path in ("/restart", "/resume"):
        refused = call(boss, path)
        assert (refused.status_code, error_of(refused)["code"]) == (409, "operation_in_progress")
        assert audited(path[1:]) == [("operators-member", "10.1.2.3", "", "test", "operation_in_progress")]
    celery_worker()
    path = f"{BASE}/operations/{body['id']}"
    wait_until(lambda: boss.get(path).json()["state"] == "done", 30)
    assert boss.get(path).json()["systemState"] == "stopped"
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "control-lock"])


def test_what_fails_says_what(live: Market, boss: APIClient) -> None:
    live.tick("100")
    live.open(new_account(), take_profit="110")
    send_closures(live.tick("111"))
    answer = call(boss, "/shutdown", timeoutS=1)
    assert (answer.status_code, error_of(answer)["code"]) == (409, "operation_failed")
    assert "1 fired deals not settled" in error_of(answer)["message"]
    assert current_state().state == "draining"


def test_a_restart_proves_that_deals_close(
    live: Market, boss: APIClient, celery_worker: Callable[..., Process]
) -> None:
    celery_worker()
    answer = call(boss, "/restart")
    assert answer.status_code in {200, 202}
    path = f"{BASE}/operations/{answer.json()['id']}"
    wait_until(lambda: boss.get(path).json()["state"] != "running", 30)
    body = boss.get(path).json()
    assert (body["state"], body["systemState"], body["steps"][-1]["name"]) == ("done", "running", "self-check")
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "control-lock"])


def test_an_emergency_stop_and_a_resume(live: Market, boss: APIClient) -> None:
    for outcome in ("halted; was running", "was halted already"):
        answer = call(boss, "/emergency-stop", reason="wrong prices")
        assert answer.status_code == 200
        assert (answer.json()["systemState"], answer.json()["steps"][0]["outcome"]) == ("halted", outcome)
    refused = call(boss, "/restart", reason="too early")
    assert (refused.status_code, error_of(refused)["code"]) == (409, "system_halted")
    assert audited("restart") == [("operators-member", "10.1.2.3", "", "too early", "system_halted")]
    assert call(boss, "/shutdown").json()["systemState"] == "halted"
    for outcome in ("running", "the system was running already"):
        resumed = call(boss, "/resume")
        assert (resumed.status_code, resumed.json()["steps"][0]["outcome"]) == (200, outcome)
    assert current_state().state == "running"


def test_an_emergency_stop_is_answered_while_redis_is_away_and_never_throttled(
    boss: APIClient, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rest_framework.settings import api_settings

    monkeypatch.setitem(api_settings.DEFAULT_THROTTLE_RATES, "write", "1/hour")
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    connect.cache_clear()
    for _ in range(3):
        assert call(boss, "/emergency-stop").status_code == 200
    resumed = call(boss, "/resume")
    assert (resumed.status_code, "Redis does not answer" in error_of(resumed)["message"]) == (409, True)
    throttled = call(boss, "/resume")
    assert (throttled.status_code, error_of(throttled)["code"]) == (429, "throttled")
    connect.cache_clear()
    assert current_state().state == "halted"


def test_a_restart_is_refused_where_the_workers_are_turned_off(boss: APIClient, settings: Any) -> None:
    settings.STATIC_ONLY = True
    answer = call(boss, "/restart")
    assert (answer.status_code, error_of(answer)["code"]) == (503, "static_only")


def test_an_operation_whose_process_died_is_shown_as_abandoned(boss: APIClient) -> None:
    from django.utils import timezone

    now = timezone.now()
    dead = Operation.objects.create(
        kind="restart", reason="test", requested_by="x", source="cli", created_at=now,
        heartbeat_at=now - 2 * operations.ABANDONED_AFTER,
    )  # fmt: skip
    assert boss.get(f"{BASE}/operations/{dead.pk}").json()["state"] == "abandoned"


@pytest.mark.parametrize("number", ["0", "999999", str(10**30), "one", "-1"])
def test_there_is_no_such_operation_or_letter(boss: APIClient, number: str) -> None:
    for path in (f"/operations/{number}", f"/dead-letters/{number}"):
        answer = boss.get(f"{BASE}{path}")
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")
    for action in ("requeue", "discard"):
        assert call(boss, f"/dead-letters/{number}/{action}").status_code == 404


def test_the_audit_log_cannot_be_changed(boss: APIClient) -> None:
    from django.db import IntegrityError

    call(boss, "/emergency-stop")
    for change in (lambda: AuditEntry.objects.update(who="nobody"), lambda: AuditEntry.objects.all().delete()):
        with pytest.raises(IntegrityError, match="append-only"):
            change()


def test_a_call_through_a_socket_without_an_address_is_audited_as_from_somewhere_unknown(boss: APIClient) -> None:
    answer = boss.post(f"{BASE}/emergency-stop", {"reason": "test"}, format="json", REMOTE_ADDR="")
    assert answer.json()["source"] == "unknown"
    assert AuditEntry.objects.get().source == "unknown"


# --- dead letters -------------------------------------------------------------------------------------------------


def bury(live: Market, *symbols: str) -> list[DeadLetter]:
    """One dead letter for each symbol."""
    for symbol in symbols:
        live.tick("100", symbol=symbol)
        deal = live.open(new_account(), take_profit="110", symbol=symbol)
        [fired] = live.tick("111", symbol=symbol)
        failure = Failure(fired.due(), DataError("too large"))
        dead_letters.bury(fired, failure, attempts=3, first_failed_ms=fired.fired_ms, task="workers.close_deals")
        book.clear_fired([(deal.pk, fired.version)])
    return list(DeadLetter.objects.order_by("pk"))


def test_dead_letters_are_listed_newest_first_and_filtered(live: Market, boss: APIClient) -> None:
    first, second = bury(live, "BTCUSDT", "ETHUSDT")
    listed = boss.get(f"{BASE}/dead-letters").json()["results"]
    assert [row["id"] for row in listed] == [second.pk, first.pk]
    assert boss.get(f"{BASE}/dead-letters/{first.pk}").json() == listed[1]
    shown = ("state", "dealId", "symbol", "price", "attempts", "errorClass", "error")
    assert {key: listed[1][key] for key in shown} == {
        "state": "failed", "dealId": first.deal_id, "symbol": "BTCUSDT", "price": "111", "attempts": 3,
        "errorClass": "DataError", "error": "too large",
    }  # fmt: skip
    assert listed[1]["arguments"] == first.fired

    def found(query: str) -> list[int]:
        return [row["id"] for row in boss.get(f"{BASE}/dead-letters?{query}").json()["results"]]

    assert found("symbol=ETHUSDT") == [second.pk]
    assert found(f"dealId={first.deal_id}") == [first.pk]
    assert found("state=failed&limit=1") == [second.pk]
    assert found("state=discarded") == []
    for query, code in (
        ("state=lost", "invalid_state"),
        ("dealId=x", "invalid_deal_id"),
        ("deal=1", "unknown_parameter"),
    ):
        answer = boss.get(f"{BASE}/dead-letters?{query}")
        assert (answer.status_code, error_of(answer)["code"]) == (400, code), answer.content


def test_a_letter_is_requeued_and_discarded(live: Market, boss: APIClient) -> None:
    first, second = bury(live, "BTCUSDT", "ETHUSDT")
    for _ in range(2):
        answer = call(boss, f"/dead-letters/{first.pk}/requeue", reason="mended")
        assert (answer.status_code, answer.json()["state"]) == (200, "requeued")
    on_its_way = call(boss, f"/dead-letters/{first.pk}/discard")
    assert (on_its_way.status_code, error_of(on_its_way)["code"]) == (409, "letter_requeued")
    for _ in range(2):
        answer = call(boss, f"/dead-letters/{second.pk}/discard", reason="hopeless")
        assert (answer.status_code, answer.json()["state"]) == (200, "discarded")
    given_up = call(boss, f"/dead-letters/{second.pk}/requeue")
    assert (given_up.status_code, error_of(given_up)["code"]) == (409, "letter_discarded")
    states = dict(Deal.objects.values_list("pk", "monitoring"))
    assert states == {first.deal_id: Monitoring.PENDING, second.deal_id: Monitoring.REMOVED}
    first_one, second_one = (f"dead letter {letter.pk}, deal {letter.deal_id}" for letter in (first, second))
    who = ("operators-member", "10.1.2.3")
    assert audited("dead_letter.requeue") == [
        (*who, first_one, "mended", "done"), (*who, second_one, "test", "letter_discarded"),
    ]  # fmt: skip
    assert audited("dead_letter.discard") == [
        (*who, first_one, "test", "letter_requeued"), (*who, second_one, "hopeless", "done"),
    ]  # fmt: skip


def test_the_letter_of_a_deal_that_was_closed_is_resolved(live: Market, boss: APIClient) -> None:
    [letter] = bury(live, "BTCUSDT")
    services.close_deal(deal_id=letter.deal_id, quote=RedisQuoteBoard().quote("BTCUSDT"))
    assert call(boss, f"/dead-letters/{letter.pk}/requeue").json()["state"] == "resolved"


def test_nothing_is_requeued_while_the_system_does_not_run(live: Market, boss: APIClient) -> None:
    [letter] = bury(live, "BTCUSDT")
    state.change(state.State.STOPPED, "test")
    answer = call(boss, f"/dead-letters/{letter.pk}/requeue")
    assert (answer.status_code, error_of(answer)["code"]) == (503, "system_not_running")
    assert connect().hlen(keys.fired()) == 0
