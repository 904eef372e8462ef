"""Opening, reading, amending and closing deals over REST."""

from __future__ import annotations

from typing import Any

import pytest
from factories import client_of, close_deal, everything, make_account, make_deal, make_user, set_price
from rest_framework.test import APIClient

from deals.models import Account, Deal, LedgerEntry, Monitoring

TERMS = {"symbol": "BTCUSDT", "direction": "up", "amount": "100", "multiplier": 10}


def post(api: APIClient, path: str, body: Any = None) -> Any:
    return api.post(path, body, format="json")


def test_opening_answers_the_deal_and_locks_its_amount(api: APIClient, account: Account) -> None:
    set_price("BTCUSDT", "41250.50")
    body = TERMS | {"takeProfit": "42000.10", "stopLoss": "41000", "clientId": "first"}

    answer = post(api, "/api/deals", body)

    assert answer.status_code == 201
    deal = Deal.objects.get()
    assert answer["Location"] == f"/api/deals/{deal.pk}"
    told = answer.json()
    times = {name: told.pop(name) for name in ("openedAt", "monitoringSince", "watchExpiresAt")}
    assert all(time.endswith("Z") for time in times.values())
    assert told == {
        "id": deal.pk,
        "clientId": "first",
        "symbol": "BTCUSDT",
        "direction": "up",
        "amount": "100",
        "multiplier": 10,
        "volume": "1000",
        "openPrice": "41250.5",
        "takeProfit": "42000.1",
        "stopLoss": "41000",
        "status": "open",
        "monitoring": "pending",
        "closedAt": None,
        "closePrice": None,
        "closeReason": None,
        "profit": None,
        "commission": None,
    }
    account.refresh_from_db()
    assert (account.balance, account.margin) == (9900, 100)


@pytest.mark.django_db(transaction=True)
def test_an_opened_deal_is_armed_in_the_answer() -> None:
    set_price()

    answer = post(client_of(make_account()), "/api/deals", TERMS | {"takeProfit": "110"})

    assert answer.json()["monitoring"] == "armed"


@pytest.mark.parametrize(("number", "exact"), [("0.12345678", "0.12345678"), ("7", "7"), ("7.50", "7.5")])
def test_a_json_number_is_read_digit_by_digit(api: APIClient, number: str, exact: str) -> None:
    set_price(price="0.1")
    body = (
        f'{{"symbol": "BTCUSDT", "direction": "up", "amount": {number}, "multiplier": 1, "takeProfit": 0.123456789012}}'
    )

    answer = api.post("/api/deals", body, content_type="application/json")

    assert (answer.json()["amount"], answer.json()["takeProfit"]) == (exact, "0.123456789012")


def test_a_tiny_price_is_answered_without_an_exponent(api: APIClient) -> None:
    set_price(price="0.000000012300")

    answer = post(api, "/api/deals", TERMS | {"takeProfit": "0.000000020000"})

    assert (answer.json()["openPrice"], answer.json()["takeProfit"]) == ("0.0000000123", "0.00000002")


def test_the_first_request_of_a_user_funds_the_account(db: None) -> None:
    api = APIClient()
    api.force_authenticate(make_user())
    set_price()

    assert post(api, "/api/deals", TERMS).status_code == 201
    assert [(entry.kind, entry.amount) for entry in LedgerEntry.objects.order_by("pk")] == [
        ("funding", 10_000),
        ("open", -100),
    ]


def test_the_same_client_id_and_terms_find_the_deal_again(api: APIClient) -> None:
    set_price()
    body = TERMS | {"clientId": "once", "takeProfit": "110"}
    first = post(api, "/api/deals", body)
    before = everything()
    # The price is stale and has crossed the level since: a repeated request is answered all the same.
    set_price(price="120", age_s=3600)

    again = post(api, "/api/deals", body)

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert everything() == before


def test_the_same_client_id_with_other_terms_is_refused(api: APIClient) -> None:
    set_price()
    post(api, "/api/deals", TERMS | {"clientId": "once"})
    before = everything()

    answer = post(api, "/api/deals", TERMS | {"clientId": "once", "amount": "101"})

    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "client_id_reused"
    assert answer.json()["error"]["field"] == "clientId"
    assert everything() == before


def test_two_users_may_use_the_same_client_id(api: APIClient, other_api: APIClient) -> None:
    set_price()

    answers = [post(client, "/api/deals", TERMS | {"clientId": "once"}) for client in (api, other_api)]

    assert [answer.status_code for answer in answers] == [201, 201]


def test_a_deal_is_read_by_its_number(api: APIClient, account: Account) -> None:
    deal = make_deal(account)

    assert api.get(f"/api/deals/{deal.pk}").json()["id"] == deal.pk


@pytest.mark.parametrize("body", [{"takeProfit": "120"}, {"stopLoss": None}, {"takeProfit": None, "stopLoss": "80"}])
def test_amending_changes_what_is_given_and_keeps_the_rest(
    api: APIClient, account: Account, body: dict[str, str | None]
) -> None:
    deal = make_deal(account, take_profit="110", stop_loss="90")

    answer = api.patch(f"/api/deals/{deal.pk}", body, format="json")

    assert answer.status_code == 200
    levels = {name: answer.json()[name] for name in ("takeProfit", "stopLoss")}
    assert levels == {"takeProfit": "110", "stopLoss": "90"} | body


def test_taking_both_levels_away_ends_monitoring(api: APIClient, account: Account) -> None:
    deal = make_deal(account, take_profit="110")

    answer = api.patch(f"/api/deals/{deal.pk}", {"takeProfit": None}, format="json")

    assert answer.json()["monitoring"] == Monitoring.NONE


@pytest.mark.parametrize("body", [None, {}])
def test_closing_pays_the_profit_once(api: APIClient, account: Account, body: dict[str, str] | None) -> None:
    deal = make_deal(account)
    set_price(price="110")

    answer = post(api, f"/api/deals/{deal.pk}/close", body)

    # 100 × 10 × 10/100 = 100, less 1000 × 0.0005
    assert answer.status_code == 200
    told = answer.json()
    assert (told["status"], told["closeReason"], told["closePrice"]) == ("closed", "manual", "110")
    assert (told["profit"], told["commission"]) == ("99.5", "0.5")
    account.refresh_from_db()
    assert str(account.balance) == "10099.50000000"


def test_closing_a_closed_deal_is_refused_and_pays_nothing(api: APIClient, account: Account) -> None:
    deal = close_deal(make_deal(account))
    before = everything()
    set_price(age_s=3600)  # that the deal is closed counts more than that there is no price

    answer = post(api, f"/api/deals/{deal.pk}/close")

    assert answer.status_code == 409
    assert answer.json() == {"error": {"code": "deal_closed", "message": "The deal is closed already.", "field": None}}
    assert everything() == before


def test_amending_a_closed_deal_is_refused(api: APIClient, account: Account) -> None:
    deal = close_deal(make_deal(account))
    before = everything()

    answer = api.patch(f"/api/deals/{deal.pk}", {"takeProfit": "110"}, format="json")

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "deal_closed")
    assert everything() == before


@pytest.mark.parametrize(
    ("method", "suffix", "body"), [("get", "", None), ("patch", "", {"takeProfit": "110"}), ("post", "/close", None)]
)
def test_someone_elses_deal_does_not_exist(
    account: Account, other_api: APIClient, method: str, suffix: str, body: dict[str, str] | None
) -> None:
    deal = make_deal(account)
    before = everything()

    answer = getattr(other_api, method)(f"/api/deals/{deal.pk}{suffix}", body, format="json")

    assert answer.status_code == 404
    assert answer.json() == {"error": {"code": "not_found", "message": "There is no such deal.", "field": None}}
    assert everything() == before


def test_a_list_holds_only_the_users_own_deals(api: APIClient, account: Account) -> None:
    mine = make_deal(account)
    make_deal()

    assert [deal["id"] for deal in api.get("/api/deals").json()["results"]] == [mine.pk]


def test_pages_are_newest_first_and_do_not_shift_when_a_deal_is_opened(api: APIClient, account: Account) -> None:
    ids = [make_deal(account).pk for _ in range(5)]

    first = api.get("/api/deals?limit=2").json()
    make_deal(account)
    second = api.get(first["next"]).json()
    third = api.get(second["next"]).json()

    pages = [[deal["id"] for deal in page["results"]] for page in (first, second, third)]
    assert pages == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]
    assert (first["previous"], third["next"]) == (None, None)
    assert [deal["id"] for deal in api.get(third["previous"]).json()["results"]] == pages[1]


def test_deals_are_filtered_by_status_and_symbol(api: APIClient, account: Account) -> None:
    closed = close_deal(make_deal(account))
    bitcoin = make_deal(account)
    ether = make_deal(account, symbol="ETHUSDT")

    def ids(query: str) -> list[int]:
        return [deal["id"] for deal in api.get(f"/api/deals?{query}").json()["results"]]

    assert ids("status=open") == [ether.pk, bitcoin.pk]
    assert ids("status=closed") == [closed.pk]
    assert ids("symbol=BTCUSDT") == [bitcoin.pk, closed.pk]
    assert ids("symbol=BTCUSDT&status=open") == [bitcoin.pk]


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("status=opened", "invalid_status", "status"),
        ("symbol=NOPE", "unknown_symbol", "symbol"),
        ("symbol=BTCUSDT%00", "unknown_symbol", "symbol"),
        ("limit=0", "invalid_limit", "limit"),
        ("limit=201", "invalid_limit", "limit"),
        ("limit=many", "invalid_limit", "limit"),
        ("cursor=nonsense", "invalid_cursor", "cursor"),
        ("cursor=cD1hYmM%3D", "invalid_cursor", "cursor"),  # p=abc
        ("page=2", "unknown_parameter", "page"),
    ],
)
def test_an_unknown_value_in_the_address_is_a_clear_400(api: APIClient, query: str, code: str, field: str) -> None:
    answer = api.get(f"/api/deals?{query}")

    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["field"]) == (code, field)
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["deals", "account", "account/ledger", "notifications", "prices"])
def test_every_path_answers_with_and_without_a_trailing_slash(api: APIClient, path: str) -> None:
    assert [api.get(f"/api/{path}{end}").status_code for end in ("", "/")] == [200, 200]


@pytest.mark.parametrize("path", ["deals", "account/ledger", "notifications"])
def test_lists_ask_the_database_as_often_for_ten_rows_as_for_one(
    api: APIClient, account: Account, path: str, django_assert_max_num_queries: Any
) -> None:
    for _ in range(10):
        close_deal(make_deal(account))

    with django_assert_max_num_queries(3):  # token, account, rows
        assert len(api.get(f"/api/{path}").json()["results"]) >= 10
