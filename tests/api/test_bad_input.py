"""What is refused: the code, the field, and that nothing was changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from factories import everything, make_deal, set_price
from rest_framework.test import APIClient

from deals import state
from deals.models import Account
from workers import keys
from workers.redis_client import connect

TERMS: dict[str, Any] = {"symbol": "BTCUSDT", "direction": "up", "amount": "100", "multiplier": 10}


def refused(answer: Any, status: int, code: str, field: str | None) -> None:
    assert answer.status_code == status, answer.content
    error = answer.json()["error"]
    assert list(answer.json()) == ["error"]
    assert set(error) == {"code", "message", "field"}
    assert (error["code"], error["field"]) == (code, field)
    assert error["message"].endswith(".")


BAD_TERMS = [
    ({"symbol": "NOPEUSDT"}, "unknown_symbol", "symbol"),
    ({"symbol": ""}, "unknown_symbol", "symbol"),
    ({"symbol": None}, "unknown_symbol", "symbol"),
    ({"symbol": ["BTCUSDT"]}, "unknown_symbol", "symbol"),
    ({"symbol": "BTC\x00"}, "unknown_symbol", "symbol"),
    ({"symbol": "\ud800"}, "unknown_symbol", "symbol"),
    ({"direction": "left"}, "invalid_direction", "direction"),
    ({"direction": None}, "invalid_direction", "direction"),
    ({"amount": "0"}, "invalid_amount", "amount"),
    ({"amount": "-1"}, "invalid_amount", "amount"),
    ({"amount": -1}, "invalid_amount", "amount"),
    ({"amount": "0.000000001"}, "invalid_amount", "amount"),
    ({"amount": 0.000000001}, "invalid_amount", "amount"),
    ({"amount": "NaN"}, "invalid_amount", "amount"),
    ({"amount": "Infinity"}, "invalid_amount", "amount"),
    ({"amount": "-Infinity"}, "invalid_amount", "amount"),
    ({"amount": "1e2"}, "invalid_amount", "amount"),
    ({"amount": " 100"}, "invalid_amount", "amount"),
    ({"amount": "1,000"}, "invalid_amount", "amount"),
    ({"amount": "١٠٠"}, "invalid_amount", "amount"),
    ({"amount": ""}, "invalid_amount", "amount"),
    ({"amount": None}, "invalid_amount", "amount"),
    ({"amount": True}, "invalid_amount", "amount"),
    ({"amount": [100]}, "invalid_amount", "amount"),
    ({"amount": "9" * 13}, "invalid_amount", "amount"),
    ({"amount": "9" * 10_000}, "invalid_amount", "amount"),
    ({"amount": "10000.00000001"}, "insufficient_balance", "amount"),
    ({"multiplier": 0}, "invalid_multiplier", "multiplier"),
    ({"multiplier": 101}, "invalid_multiplier", "multiplier"),
    ({"multiplier": -1}, "invalid_multiplier", "multiplier"),
    ({"multiplier": 1.5}, "invalid_multiplier", "multiplier"),
    ({"multiplier": True}, "invalid_multiplier", "multiplier"),
    ({"multiplier": "1_0"}, "invalid_multiplier", "multiplier"),
    ({"multiplier": None}, "invalid_multiplier", "multiplier"),
    ({"takeProfit": "99"}, "level_on_wrong_side", "takeProfit"),
    ({"takeProfit": "100"}, "level_on_wrong_side", "takeProfit"),
    ({"takeProfit": "100.000"}, "level_on_wrong_side", "takeProfit"),
    ({"stopLoss": "101"}, "level_on_wrong_side", "stopLoss"),
    ({"stopLoss": "100"}, "level_on_wrong_side", "stopLoss"),
    ({"direction": "down", "takeProfit": "101"}, "level_on_wrong_side", "takeProfit"),
    ({"direction": "down", "stopLoss": "99"}, "level_on_wrong_side", "stopLoss"),
    ({"takeProfit": "110", "stopLoss": "110"}, "levels_equal", "stopLoss"),
    ({"takeProfit": "0"}, "invalid_level", "takeProfit"),
    ({"stopLoss": "-90"}, "invalid_level", "stopLoss"),
    ({"takeProfit": "NaN"}, "invalid_level", "takeProfit"),
    ({"stopLoss": "Infinity"}, "invalid_level", "stopLoss"),
    ({"takeProfit": "1.1e2"}, "invalid_level", "takeProfit"),
    ({"takeProfit": "110.0000000000001"}, "invalid_level", "takeProfit"),
    ({"takeProfit": "1234567890.123456"}, "invalid_level", "takeProfit"),
    ({"takeProfit": {}}, "invalid_level", "takeProfit"),
    ({"clientId": ""}, "invalid_client_id", "clientId"),
    ({"clientId": "x" * 65}, "invalid_client_id", "clientId"),
    ({"clientId": "a\x00b"}, "invalid_client_id", "clientId"),
    ({"clientId": 7}, "invalid_client_id", "clientId"),
    ({"symbol": 7}, "unknown_symbol", "symbol"),
    ({"takeprofit": "110"}, "unknown_field", "takeprofit"),
    ({"userId": 1}, "unknown_field", "userId"),
]


@pytest.mark.parametrize(("change", "code", "field"), BAD_TERMS, ids=[str(case[0])[:60] for case in BAD_TERMS])
def test_bad_terms_open_nothing(
    api: APIClient, account: Account, change: dict[str, Any], code: str, field: str
) -> None:
    set_price()
    before = everything()

    answer = api.post("/api/deals", json.dumps(TERMS | change), content_type="application/json")

    refused(answer, 400, code, field)
    assert everything() == before


@pytest.mark.parametrize("field", ["symbol", "direction", "amount", "multiplier"])
def test_a_missing_term_is_named(api: APIClient, account: Account, field: str) -> None:
    set_price()
    before = everything()
    body = {name: value for name, value in TERMS.items() if name != field}

    refused(api.post("/api/deals", body, format="json"), 400, "required", field)
    assert everything() == before


BAD_BODIES = [
    ("{", "malformed_json"),
    ("not json", "malformed_json"),
    ('{"amount": NaN}', "malformed_json"),
    ('{"amount": -Infinity}', "malformed_json"),
    ('{"amount": "1", "amount": "2"}', "malformed_json"),
    ('{"takeProfit": "1", "take_profit": "2"}', "malformed_json"),
    ("[" * 20_000, "malformed_json"),
    (f'{{"amount": {"9" * 5000}}}', "malformed_json"),
    (b"\xff\xfe", "malformed_json"),
    ("[]", "invalid_body"),
    ("null", "invalid_body"),
    ('"text"', "invalid_body"),
    ("1.5", "invalid_body"),
]


@pytest.mark.parametrize(("body", "code"), BAD_BODIES, ids=[str(case[0])[:40] for case in BAD_BODIES])
def test_a_body_that_is_no_json_object_is_refused(
    api: APIClient, account: Account, body: str | bytes, code: str
) -> None:
    before = everything()

    refused(api.post("/api/deals", body, content_type="application/json"), 400, code, None)
    assert everything() == before


def test_an_exponent_is_refused_in_a_json_number_too(api: APIClient, account: Account) -> None:
    set_price()
    body = json.dumps(TERMS).replace('"100"', "1e2")

    refused(api.post("/api/deals", body, content_type="application/json"), 400, "invalid_amount", "amount")


def test_a_huge_body_is_refused(api: APIClient, account: Account) -> None:
    body = json.dumps(TERMS | {"clientId": "x" * 70_000})

    refused(api.post("/api/deals", body, content_type="application/json"), 413, "body_too_large", None)


BAD_LEVELS = [
    ({}, "required", None),
    ({"amount": "1"}, "unknown_field", "amount"),
    ({"takeProfit": "99"}, "level_on_wrong_side", "takeProfit"),
    ({"takeProfit": "100"}, "level_on_wrong_side", "takeProfit"),
    ({"stopLoss": "101"}, "level_on_wrong_side", "stopLoss"),
    ({"takeProfit": "NaN"}, "invalid_level", "takeProfit"),
    ({"stopLoss": "1e1"}, "invalid_level", "stopLoss"),
    ({"stopLoss": "0"}, "invalid_level", "stopLoss"),
    ({"takeProfit": "95", "stopLoss": "95"}, "levels_equal", "stopLoss"),
]


@pytest.mark.parametrize(("body", "code", "field"), BAD_LEVELS, ids=[str(case[0]) for case in BAD_LEVELS])
def test_bad_levels_amend_nothing(
    api: APIClient, account: Account, body: dict[str, str], code: str, field: str | None
) -> None:
    deal = make_deal(account, take_profit="110", stop_loss="90")
    before = everything()

    refused(api.patch(f"/api/deals/{deal.pk}", body, format="json"), 400, code, field)
    assert everything() == before


def requests_that_need_a_price(deal_id: int) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        ("post", "/api/deals", TERMS),
        ("patch", f"/api/deals/{deal_id}", {"takeProfit": "110"}),
        ("post", f"/api/deals/{deal_id}/close", {}),
    ]


def test_a_stale_price_opens_amends_and_closes_nothing(api: APIClient, account: Account) -> None:
    deal = make_deal(account)
    before = everything()
    set_price(age_s=11)

    for method, path, body in requests_that_need_a_price(deal.pk):
        refused(getattr(api, method)(path, body, format="json"), 503, "stale_price", "symbol")
    assert everything() == before


def test_without_a_price_nothing_opens_is_amended_or_closes(api: APIClient, account: Account) -> None:
    deal = make_deal(account)
    before = everything()
    connect().delete(keys.price("BTCUSDT"))

    for method, path, body in requests_that_need_a_price(deal.pk):
        refused(getattr(api, method)(path, body, format="json"), 503, "no_price", "symbol")
    assert everything() == before


@pytest.mark.parametrize(("system_state", "may_close"), [("stopped", True), ("halted", False)])
def test_a_system_that_does_not_run_refuses(
    api: APIClient, account: Account, system_state: str, may_close: bool
) -> None:
    deal = make_deal(account)
    state.change(state.State(system_state), "test")
    before = everything()

    opening, amending, closing = ((method, path, body) for method, path, body in requests_that_need_a_price(deal.pk))
    for method, path, body in (opening, amending):
        refused(getattr(api, method)(path, body, format="json"), 503, "system_not_running", None)
    assert everything() == before
    closed = api.post(closing[1], closing[2], format="json")
    assert closed.status_code == (200 if may_close else 503)
    assert (everything() == before) is not may_close


def test_unknown_fields_do_not_close_a_deal(api: APIClient, account: Account) -> None:
    deal = make_deal(account)
    before = everything()

    refused(api.post(f"/api/deals/{deal.pk}/close", {"price": "1"}, format="json"), 400, "unknown_field", "price")
    assert everything() == before


def test_a_deal_number_beyond_all_bounds_is_not_found(api: APIClient) -> None:
    refused(api.get(f"/api/deals/{'9' * 30}"), 404, "not_found", None)
