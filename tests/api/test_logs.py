"""Logs hold numbers only: whatever people do, no name, address, password or token of theirs is written."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from factories import client_of, make_account, make_deal, make_user, set_price
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient
from structlog.stdlib import ProcessorFormatter

from deals import services
from deals.models import Account, Deal
from workers import system
from workers.audit import Actor
from workers.erasure import erase_user
from workers.models import DeadLetter
from workers.tasks import close_deals

pytestmark = pytest.mark.django_db(transaction=True)

NAME, EMAIL, PASSWORD, WRONG = "zoe.maiden", "zoe@example.org", "zoes pass word", "zoes wrong guess"
ADDRESS = "203.0.113.77"
REASON = "Zoe Maiden rang from 203.0.113.77"


@pytest.fixture
def written(settings: Any) -> Iterator[io.StringIO]:
    """Everything that is logged, down to DEBUG, as the project's own formatter writes it."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    options = {key: value for key, value in settings.LOGGING["formatters"]["structured"].items() if key != "()"}
    handler.setFormatter(ProcessorFormatter(**options))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield out
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def zoe(settings: Any) -> User:
    """A trader who is an operator too."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick
    system.refresh_state()
    return make_user(NAME, email=EMAIL, password=PASSWORD, is_staff=True, is_superuser=True)


def test_no_log_line_names_anybody(zoe: User, written: io.StringIO) -> None:
    account = make_account(user=zoe)
    client = client_of(account)
    client.defaults["REMOTE_ADDR"] = ADDRESS
    trade(client)
    a_tick_closes_a_deal(account)
    log_in_and_fail()
    control(client, account)
    erase_user(make_user("zoe.maiden.too", email=EMAIL).pk, Actor(NAME, ADDRESS, zoe.pk), REASON)

    lines = written.getvalue()
    for event in (
        *("deal.opened", "deal.amended", "deal.closed", "deal.removed", "operator.intervention"),
        *("system.state", "operation.started", "operation.ended", "dead_letter.discarded", "user.erased"),
        *("Unauthorized: /api/account", "Not Found: /nowhere"),
    ):
        assert event in lines, f"the paths must be gone: {event} is missing"
    token = Token.objects.get(user=zoe).key
    named = (NAME, EMAIL, "zoe", "Zoe", "Maiden", PASSWORD, WRONG, ADDRESS, token)
    assert [line for line in lines.splitlines() if any(name in line for name in named)] == []
    assert f'"user_id": {zoe.pk}' in lines


def trade(client: APIClient) -> None:
    set_price("BTCUSDT", "100")
    terms = {"symbol": "BTCUSDT", "direction": "up", "amount": "100", "multiplier": 10, "clientId": "zoes-order"}
    opened = client.post("/api/deals", terms, format="json")
    assert opened.status_code == 201
    number = opened.json()["id"]
    assert client.patch(f"/api/deals/{number}", {"takeProfit": "120"}, format="json").status_code == 200
    assert client.post("/api/deals", terms | {"amount": "1e99"}, format="json").status_code == 400
    assert client.post(f"/api/deals/{number}/close").status_code == 200


def a_tick_closes_a_deal(account: Account) -> None:
    deal = make_deal(account, take_profit="110")
    [fired] = set_price("BTCUSDT", "111")
    close_deals([[fired.deal_id, fired.entry]])
    deal.refresh_from_db()
    assert deal.status == "closed"


def log_in_and_fail() -> None:
    api = APIClient(REMOTE_ADDR=ADDRESS)
    assert api.post("/api/token", {"username": NAME, "password": WRONG}, format="json").status_code in {400, 401}
    assert api.post("/api/session", {"username": NAME, "password": WRONG}, format="json").status_code in {400, 401}
    assert api.post("/api/token", {"username": NAME, "password": PASSWORD}, format="json").status_code == 200
    assert api.get(f"/api/account?user={NAME}", HTTP_AUTHORIZATION="Token zoes-made-up").status_code == 401
    browser = Client(REMOTE_ADDR=ADDRESS)
    assert browser.post("/admin/login/", {"username": NAME, "password": WRONG}).status_code == 200
    assert browser.post("/admin/login/", {"username": NAME, "password": PASSWORD}).status_code == 302
    assert browser.get("/admin/auth/user/", {"q": NAME}).status_code == 200
    assert browser.get("/nowhere", {"q": NAME}).status_code == 404


def control(client: APIClient, account: Account) -> None:
    root = "/api/admin/workers"
    reason = {"reason": REASON}
    deal = make_deal(account, take_profit="120")
    assert client.delete(f"{root}/jobs/{deal.pk}", reason, format="json").status_code == 200
    letter = f"{root}/dead-letters/{_dead_letter(account)}"
    assert client.post(f"{letter}/discard", reason, format="json").status_code == 200
    assert client.post(f"{root}/emergency-stop", reason, format="json").status_code == 200
    assert client.post(f"{root}/resume", reason, format="json").status_code == 200


def _dead_letter(account: Account) -> int:
    deal: Deal = make_deal(account, take_profit="120")
    now = timezone.now()
    assert services.mark_dead(deal_id=deal.pk, version=deal.watch_version, error="bad data", now=now)
    return DeadLetter.objects.create(
        deal=deal, version=deal.watch_version, task="workers.close_deals", price="121", fired="{}", error_class="E",
        error="bad data", attempts=3, first_failed_at=now, last_failed_at=now,
    ).pk  # fmt: skip
