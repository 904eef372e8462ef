"""Account, ledger, notifications and prices over REST."""

from __future__ import annotations

from django.conf import settings
from factories import close_deal, make_deal, make_user, set_price
from rest_framework.test import APIClient

from deals import services
from deals.models import Account, LedgerEntry, Monitoring
from workers import keys
from workers.redis_client import connect

ALL_NONE = {
    "closedDeals": 0,
    "winningDeals": 0,
    "winningShare": None,
    "totalVolume": "0",
    "averageAmount": None,
    "largestProfit": "0",
    "largestLoss": "0",
}


def test_the_account_is_created_and_funded_once_on_first_use(db: None) -> None:
    api = APIClient()
    api.force_authenticate(make_user())

    answers = [api.get("/api/account").json() for _ in range(2)]

    assert answers[0] == answers[1]
    assert answers[0].pop("createdAt")
    assert answers[0] == {"balance": "10000", "margin": "0", "statistics": ALL_NONE}
    assert LedgerEntry.objects.count() == 1


def test_statistics_are_those_of_the_closed_deals(api: APIClient, account: Account) -> None:
    close_deal(make_deal(account, amount="100"), price="110")  # 1000 × 0.1 − 0.5 = 99.5
    close_deal(make_deal(account, amount="50"), price="110")  # 500 × 0.1 − 0.25 = 49.75
    close_deal(make_deal(account, amount="25.5"), price="99")  # 255 × −0.01 − 0.1275 = −2.6775
    make_deal(account, amount="7")

    told = api.get("/api/account").json()

    assert told["balance"] == "10139.5725"  # 10000 + 99.5 + 49.75 − 2.6775 − 7
    assert told["margin"] == "7"
    assert told["statistics"] == {
        "closedDeals": 3,
        "winningDeals": 2,
        "winningShare": "0.6667",
        "totalVolume": "1755",
        "averageAmount": "58.5",
        "largestProfit": "99.5",
        "largestLoss": "-2.6775",
    }


def test_the_ledger_lists_every_posting_newest_first(api: APIClient, account: Account) -> None:
    deal = close_deal(make_deal(account), price="110")
    make_deal()  # someone else's

    entries = api.get("/api/account/ledger").json()["results"]

    assert [(entry["kind"], entry["amount"], entry["dealId"]) for entry in entries] == [
        ("close", "199.5", deal.pk),
        ("open", "-100", deal.pk),
        ("funding", "10000", None),
    ]
    assert set(entries[0]) == {"id", "kind", "amount", "dealId", "createdAt"}


def test_notifications_tell_what_happened_newest_first(api: APIClient, account: Account) -> None:
    closed = close_deal(make_deal(account), price="110")
    removed = make_deal(account, take_profit="110")
    services.remove_from_monitoring(deal_id=removed.pk)
    close_deal(make_deal())  # someone else's

    told = api.get("/api/notifications").json()["results"]

    assert [note.pop("createdAt") for note in told]
    assert [note.pop("id") for note in told]
    assert told == [
        {
            "kind": "monitoring_removed",
            "dealId": removed.pk,
            "symbol": "BTCUSDT",
            "closeReason": None,
            "closePrice": None,
            "profit": None,
        },
        {
            "kind": "deal_closed",
            "dealId": closed.pk,
            "symbol": "BTCUSDT",
            "closeReason": "manual",
            "closePrice": "110",
            "profit": "99.5",
        },
    ]
    assert api.get(f"/api/deals/{removed.pk}").json()["monitoring"] == Monitoring.REMOVED


def test_prices_name_every_symbol_and_whether_its_price_is_fresh(api: APIClient) -> None:
    set_price("BTCUSDT", "41250.50")
    set_price("ETHUSDT", "0.00000100", age_s=60)

    rows = {row.pop("symbol"): row for row in api.get("/api/prices").json()["results"]}

    assert list(rows) == settings.SYMBOLS
    assert (rows["BTCUSDT"]["price"], rows["BTCUSDT"]["isFresh"]) == ("41250.5", True)
    assert (rows["ETHUSDT"]["price"], rows["ETHUSDT"]["isFresh"]) == ("0.000001", False)
    assert rows["BNBUSDT"] == {"price": None, "at": None, "isFresh": False}


def test_looking_at_prices_does_not_end_a_price_bucket(api: APIClient) -> None:
    set_price()
    before = connect().hgetall(keys.price("BTCUSDT"))

    api.get("/api/prices")

    assert connect().hgetall(keys.price("BTCUSDT")) == before
