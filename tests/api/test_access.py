"""Who may ask, how often, and how refusals look on every path."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.conf import settings as configured
from django.core.cache import cache, caches
from factories import PASSWORD, client_of, everything, make_account, make_deal, make_user, set_price
from rest_framework.settings import api_settings
from rest_framework.test import APIClient

from cryptocraze.cache import SturdyRedisCache
from deals.models import Account
from workers import redis_client as workers_redis

PROTECTED = [
    ("get", "/api/deals"),
    ("post", "/api/deals"),
    ("get", "/api/deals/1"),
    ("patch", "/api/deals/1"),
    ("post", "/api/deals/1/close"),
    ("get", "/api/account"),
    ("get", "/api/account/ledger"),
    ("get", "/api/notifications"),
    ("get", "/api/prices"),
    ("delete", "/api/session"),
]


def error_of(answer: Any) -> dict[str, Any]:
    assert list(answer.json()) == ["error"], answer.content
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"code", "message", "field"}
    return error


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set throttle rates: rates(write="2/min")."""

    def change(**values: str) -> None:
        for name, rate in values.items():
            monkeypatch.setitem(api_settings.DEFAULT_THROTTLE_RATES, name, rate)

    return change


@pytest.fixture
def no_redis(settings: Any) -> Any:
    """Redis is away: nothing listens where the cache and the price board look."""
    dead = "redis://127.0.0.1:1/0"
    settings.CACHES = {"default": configured.CACHES["default"] | {"LOCATION": dead}}
    settings.REDIS_URL = dead
    workers_redis.connect.cache_clear()
    SturdyRedisCache.away_until = 0.0
    yield
    cache._memory.clear()
    workers_redis.connect.cache_clear()
    SturdyRedisCache.away_until = 0.0


# --- logging in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_nobody_gets_in_without_a_log_in(db: None, anonymous: APIClient, method: str, path: str) -> None:
    answer = getattr(anonymous, method)(path)

    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == "Token"
    assert error_of(answer)["code"] == "not_authenticated"


def test_a_wrong_token_is_refused(db: None, anonymous: APIClient) -> None:
    answer = anonymous.get("/api/account", HTTP_AUTHORIZATION="Token nonsense")

    assert (answer.status_code, error_of(answer)["code"]) == (401, "authentication_failed")


def test_a_token_logs_in(db: None, anonymous: APIClient) -> None:
    user = make_user(password=PASSWORD)
    login = {"username": user.username, "password": PASSWORD}
    stale = {"HTTP_AUTHORIZATION": "Token forgotten"}

    tokens = [anonymous.post("/api/token", login, format="json", **stale).json()["token"] for _ in range(2)]

    assert tokens[0] == tokens[1]
    assert anonymous.get("/api/account", HTTP_AUTHORIZATION=f"Token {tokens[0]}").status_code == 200


@pytest.mark.parametrize("path", ["/api/token", "/api/session"])
@pytest.mark.parametrize("who", ["wrong password", "unknown name", "inactive user"])
def test_a_wrong_log_in_does_not_say_what_was_wrong(db: None, anonymous: APIClient, path: str, who: str) -> None:
    user = make_user(password=PASSWORD, is_active=who != "inactive user")
    name = "nobody" if who == "unknown name" else user.username
    password = "wrong" if who == "wrong password" else PASSWORD

    answer = anonymous.post(path, {"username": name, "password": password}, format="json")

    assert answer.status_code == 401
    assert error_of(answer) == {
        "code": "invalid_credentials",
        "message": "User name or password is wrong.",
        "field": None,
    }
    assert not answer.cookies


@pytest.mark.parametrize(
    ("body", "field"), [({"username": "x"}, "password"), ({"password": "x"}, "username"), ({}, "username")]
)
def test_a_log_in_needs_name_and_password(db: None, anonymous: APIClient, body: dict[str, str], field: str) -> None:
    answer = anonymous.post("/api/token", body, format="json")

    assert answer.status_code == 400
    assert (error_of(answer)["code"], error_of(answer)["field"]) == ("required", field)


def test_a_session_reads_with_its_cookie_and_writes_with_its_csrf_token(db: None, anonymous: APIClient) -> None:
    account = make_account(user=make_user(password=PASSWORD))
    set_price()
    login = {"username": account.user.username, "password": PASSWORD}
    terms = {"symbol": "BTCUSDT", "direction": "up", "amount": "100", "multiplier": 10}

    csrf = anonymous.post("/api/session", login, format="json").json()["csrfToken"]
    assert anonymous.get("/api/account").json()["balance"] == "10000"

    before = everything()
    refused = anonymous.post("/api/deals", terms, format="json")
    assert (refused.status_code, error_of(refused)["code"]) == (403, "permission_denied")
    assert everything() == before

    assert anonymous.post("/api/deals", terms, format="json", HTTP_X_CSRFTOKEN=csrf).status_code == 201
    assert anonymous.delete("/api/session", HTTP_X_CSRFTOKEN=csrf).status_code == 204
    assert anonymous.get("/api/account").status_code == 401


def test_a_log_in_cannot_be_sent_by_a_form_of_another_site(db: None, anonymous: APIClient) -> None:
    user = make_user()

    answer = anonymous.post(
        "/api/session",
        f"username={user.username}&password={PASSWORD}",
        content_type="application/x-www-form-urlencoded",
    )

    assert (answer.status_code, error_of(answer)["code"]) == (415, "unsupported_media_type")


# --- one shape -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/", "/api/nothing", "/api/deals/abc", "/api/deals/1/open", "/api/deals/-1"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_an_unknown_path_is_a_404_in_the_same_shape(db: None, anonymous: APIClient, path: str, method: str) -> None:
    answer = getattr(anonymous, method)(path)

    assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"), [("put", "/api/deals"), ("delete", "/api/account"), ("options", "/api/deals")]
)
def test_a_method_that_is_not_there_is_a_405(api: APIClient, method: str, path: str) -> None:
    answer = getattr(api, method)(path)

    assert (answer.status_code, error_of(answer)["code"]) == (405, "method_not_allowed")


def test_a_body_that_is_not_json_is_a_415(api: APIClient, account: Account) -> None:
    before = everything()

    answer = api.post("/api/deals", "<deal/>", content_type="text/xml")

    assert (answer.status_code, error_of(answer)["code"]) == (415, "unsupported_media_type")
    assert everything() == before


def test_only_json_can_be_asked_for(api: APIClient) -> None:
    answer = api.get("/api/account", HTTP_ACCEPT="text/html")

    assert (answer.status_code, error_of(answer)["code"]) == (406, "not_acceptable")


def test_a_foreign_host_is_a_400_in_the_same_shape(db: None, anonymous: APIClient, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)

    answer = anonymous.get("/api/account", HTTP_HOST="elsewhere.example")

    assert (answer.status_code, error_of(answer)["code"]) == (400, "bad_request")


def test_a_fault_of_ours_is_a_500_in_the_same_shape(api: APIClient, settings: Any) -> None:
    api.raise_request_exception = False
    settings.SYMBOLS = None  # a broken setting

    answer = api.get("/api/prices")

    assert (answer.status_code, error_of(answer)["code"]) == (500, "server_error")


# --- how often -------------------------------------------------------------------------------------------------


def test_writing_is_limited_more_than_reading(api: APIClient, account: Account, rates: Any) -> None:
    rates(write="2/min")
    deal = make_deal(account)
    path = f"/api/deals/{deal.pk}"
    levels = [{"takeProfit": level} for level in ("110", "111", "112")]

    answers = [api.patch(path, body, format="json") for body in levels]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert error_of(answers[2])["code"] == "throttled"
    assert 1 <= int(answers[2]["Retry-After"]) <= 60
    deal.refresh_from_db()
    assert deal.take_profit == 111
    assert api.get(path).status_code == 200


def test_the_limit_is_each_users_own(api: APIClient, other_api: APIClient, rates: Any) -> None:
    rates(user="1/min")

    assert [client.get("/api/account").status_code for client in (api, api, other_api)] == [200, 429, 200]


@pytest.mark.parametrize("path", ["/api/token", "/api/session"])
def test_guessing_passwords_is_slow(db: None, anonymous: APIClient, rates: Any, path: str) -> None:
    rates(login="3/min")
    user = make_user()
    # A made-up forwarding header does not make a new address.
    tries = [
        anonymous.post(
            path,
            {"username": user.username, "password": f"guess {number}"},
            format="json",
            HTTP_X_FORWARDED_FOR=f"10.0.0.{number}",
        )
        for number in range(4)
    ]

    assert [answer.status_code for answer in tries] == [401, 401, 401, 429]
    assert int(tries[3]["Retry-After"]) >= 1


def test_guessing_one_users_password_from_many_addresses_is_slow(db: None, anonymous: APIClient, rates: Any) -> None:
    rates(login_name="3/min")
    user = make_user()

    def attempt(name: str, address: int) -> int:
        body = {"username": name, "password": "guess"}
        return int(anonymous.post("/api/token", body, format="json", REMOTE_ADDR=f"10.0.0.{address}").status_code)

    assert [attempt(user.username, address) for address in range(4)] == [401, 401, 401, 429]
    assert attempt("someone else", 5) == 401


# --- while servers are away ------------------------------------------------------------------------------------


def test_without_redis_reading_goes_on_and_requests_are_still_counted(
    account: Account, no_redis: None, rates: Any, caplog: Any
) -> None:
    rates(user="3/min")
    api = client_of(account)

    answers = [api.get("/api/account").status_code for _ in range(4)]

    assert answers == [200, 200, 200, 429]
    assert sum("cache.redis_away" in record.getMessage() for record in caplog.records) == 1


def test_every_request_counts_over_the_same_connections(db: None) -> None:
    # Under ASGI each request makes its own cache object; each with a pool of its own would connect every time.
    first, second = (caches.create_connection("default") for _ in range(2))

    assert first is not second
    assert first._cache is second._cache


def test_without_redis_guessing_passwords_stays_slow(
    db: None, anonymous: APIClient, no_redis: None, rates: Any
) -> None:
    rates(login="2/min")
    body = {"username": "someone", "password": "guess"}

    assert [anonymous.post("/api/token", body, format="json").status_code for _ in range(3)] == [401, 401, 429]


def test_without_redis_prices_and_openings_are_unavailable(account: Account, no_redis: None) -> None:
    api = client_of(account)
    terms = {"symbol": "BTCUSDT", "direction": "up", "amount": "100", "multiplier": 10}
    before = everything()

    answers = [api.get("/api/prices"), api.post("/api/deals", terms, format="json")]

    assert [(answer.status_code, error_of(answer)["code"]) for answer in answers] == [(503, "no_price")] * 2
    assert everything() == before
