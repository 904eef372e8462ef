"""The operators' charts: each figure is caused here by ticks, armed deals and closures, and found in the answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from factories import make_account, make_user
from market import BTC, ETH, Market, row
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from deals import services
from deals.models import Account, Deal
from monitoring.charts import price_edges
from workers import book, keys, system
from workers.clock import WALL_CLOCK, TapeClock
from workers.prices import RedisQuoteBoard
from workers.redis_client import connect

pytestmark = pytest.mark.django_db(transaction=True)

BASE = "/api/admin/workers"
D = Decimal
MINUTE_MS = 60_000


@pytest.fixture
def staff(transactional_db: None) -> APIClient:
    """A client of someone on the staff who may only look."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {Token.objects.create(user=make_user(is_staff=True)).key}")
    return client


@pytest.fixture
def past(transactional_db: None, the_system_runs: None) -> Iterator[Past]:
    """Prices of the minutes before now."""
    system.refresh_state()
    past = Past()
    yield past
    past.market.close()


class Past:
    """A prices process whose clock begins in the past: `tick` says how long ago."""

    def __init__(self) -> None:
        self.now_ms = WALL_CLOCK.now_ms()
        self.clock = TapeClock()
        self.market = Market(clock=self.clock)

    def tick(self, ago_s: float, *prices: str, symbol: str = BTC) -> None:
        self.clock.set(self.now_ms - int(ago_s * 1000))
        self.market.hold()
        self.market.tick(*prices, symbol=symbol)
        self.market.run(self.market.engine.candles.write())

    def open(self, price: str, account: Account | None = None, **terms: Any) -> Deal:
        """A deal opened now at a price."""
        self.tick(0, price, symbol=terms.get("symbol", BTC))
        return self.market.open(account or make_account(), **terms)

    def close(self, deal: Deal, price: str) -> Deal:
        """Close it by hand now at a price."""
        self.tick(0, price, symbol=deal.symbol)
        return services.close_deal(deal_id=deal.pk, quote=RedisQuoteBoard(self.clock).quote(deal.symbol))


def read(client: APIClient, place: str) -> Any:
    answer = client.get(f"{BASE}/{place}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def refusal(client: APIClient, place: str) -> tuple[int, str]:
    answer = client.get(f"{BASE}/{place}")
    return answer.status_code, answer.json()["error"]["code"]


def shape(candles: list[Any]) -> list[tuple[str, str, str, str]]:
    return [(one["open"], one["high"], one["low"], one["close"]) for one in candles]


# --- sparklines --------------------------------------------------------------------------------------------------


def test_history_is_one_closing_price_a_step_of_the_last_15_minutes(staff: APIClient, past: Past) -> None:
    past.tick(1_000, "90")
    past.tick(600, "100", "105", "101")
    past.tick(300, "102.50")
    past.tick(300, "3000", symbol=ETH)
    history = read(staff, "prices/history")
    assert history["stepS"] == 15
    assert history["from"] < history["to"]
    times = [(past.now_ms - ago_s * 1000) // 15_000 * 15_000 for ago_s in (600, 300)]
    assert history["symbols"] == {
        BTC: [[times[0], "101"], [times[1], "102.50"]],
        ETH: [[times[1], "3000"]],
    }


def test_history_without_any_tick_is_empty(staff: APIClient) -> None:
    assert read(staff, "prices/history")["symbols"] == {}


# --- one symbol --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("minutes", "step_s"), [(15, 15), (60, 15), (240, 60), (1440, 300)])
def test_a_symbol_has_the_candles_of_its_minutes(staff: APIClient, past: Past, minutes: int, step_s: int) -> None:
    past.tick(minutes * 60 + 600, "1")
    past.tick(minutes * 30, "100", "120", "80", "110")
    past.tick(0, "111")
    chart = read(staff, f"prices/{BTC}?minutes={minutes}")
    assert (chart["symbol"], chart["price"], chart["stepS"]) == (BTC, "111", step_s)
    assert 0 <= chart["ageMs"] < 60_000
    assert shape(chart["candles"]) == [("100", "120", "80", "110"), ("111", "111", "111", "111")]
    assert all(datetime.fromisoformat(one["at"]).timestamp() % step_s == 0 for one in chart["candles"])


def test_candles_of_five_minutes_are_put_together(staff: APIClient, past: Past) -> None:
    begin_s = (past.now_ms // 1000 - 7200) // 300 * 300
    for second, price in ((10, "100"), (70, "130"), (200, "70"), (290, "105")):
        past.tick(past.now_ms / 1000 - begin_s - second, price)
    chart = read(staff, f"prices/{BTC}?minutes=1440")
    assert shape(chart["candles"]) == [("100", "130", "70", "105")]
    assert datetime.fromisoformat(chart["candles"][0]["at"]).timestamp() == begin_s


def test_an_hour_is_shown_unless_said_otherwise(staff: APIClient, past: Past) -> None:
    past.tick(3_700, "90")
    past.tick(3_000, "100")
    assert [one["close"] for one in read(staff, f"prices/{BTC}")["candles"]] == ["100"]


def test_triggers_near_the_price_are_counted_by_steps_of_the_price(staff: APIClient, past: Past) -> None:
    past.tick(0, "100")
    near = [row(number, upper="100.51") for number in range(1, 4)] + [row(4, upper="100.95", lower="99.5")]
    far = [row(5, upper="150", lower="50")]
    book.arm([*near, *far], clock=past.clock)
    triggers = read(staff, f"prices/{BTC}")["triggers"]
    assert triggers == {
        "step": "0.05",
        "upper": [{"price": "100.525", "count": 3}, {"price": "100.975", "count": 1}],
        "lower": [{"price": "99.525", "count": 1}],
    }


def test_triggers_are_shown_as_far_as_the_chart_reaches(staff: APIClient, past: Past) -> None:
    past.tick(600, "150")
    past.tick(0, "100")
    levels = ({"upper": "149"}, {"lower": "55"}, {"upper": "170"})
    seq = past.market.seq()
    book.arm([row(n, **level, watched_from_seq=seq) for n, level in enumerate(levels, start=1)], clock=past.clock)
    triggers = read(staff, f"prices/{BTC}")["triggers"]
    assert (triggers["step"], triggers["upper"], triggers["lower"]) == (
        "2", [{"price": "149", "count": 1}], [{"price": "55", "count": 1}],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high"), [("99", "101"), ("0", "0.000002"), ("59999.99", "64000.01"), ("0.1", "0.1000001")]
)
def test_the_edges_of_the_steps_cover_the_chart_in_at_most_60(low: str, high: str) -> None:
    edges = price_edges(D(low), D(high))
    step = edges[1] - edges[0]
    assert edges[0] <= D(low)
    assert D(high) <= edges[-1]
    assert len(edges) <= 61
    assert {above - below for below, above in pairwise(edges)} == {step}
    assert edges[0] % step == 0


def test_closures_of_the_symbol_in_these_minutes_are_marked_newest_first(staff: APIClient, past: Past) -> None:
    account = make_account()
    deals = [past.close(past.open("100", account), price) for price in ("101", "99")]
    past.close(past.open("100", account, symbol=ETH), "101")
    early = past.close(past.open("100", account), "100")
    Deal.objects.filter(pk=early.pk).update(closed_at=early.opened_at - timedelta(minutes=16))
    marks = read(staff, f"prices/{BTC}?minutes=15")["closures"]
    assert [mark["dealId"] for mark in marks] == [deals[1].pk, deals[0].pk]
    assert (marks[1]["price"], marks[1]["reason"], marks[1]["profit"]) == ("101", "manual", "9.5")
    assert marks[1]["at"] is not None


def test_a_symbol_without_a_price_has_an_empty_chart(staff: APIClient) -> None:
    chart = read(staff, f"prices/{ETH}")
    assert (chart["price"], chart["ageMs"], chart["candles"], chart["closures"]) == (None, None, [], [])
    assert chart["triggers"] == {"step": None, "upper": [], "lower": []}


def test_unknown_symbols_and_impossible_minutes_are_refused(staff: APIClient) -> None:
    assert refusal(staff, "prices/NOSUCH") == (404, "not_found")
    assert refusal(staff, f"prices/{BTC.lower()}") == (404, "not_found")
    for minutes in ("0", "30", "x", "-15", "015", "", "1" * 5_000):
        assert refusal(staff, f"prices/{BTC}?minutes={minutes}") == (400, "invalid_minutes")


def test_looking_at_a_symbol_leaves_its_price_bucket_as_it_is(staff: APIClient, past: Past) -> None:
    past.tick(0, "100")
    before = connect().hgetall(keys.price(BTC))
    read(staff, f"prices/{BTC}")
    assert connect().hgetall(keys.price(BTC)) == before


# --- one deal ----------------------------------------------------------------------------------------------------


def test_a_deals_chart_has_its_levels_and_the_prices_since_its_opening(staff: APIClient, past: Past) -> None:
    past.tick(1_200, "95")
    past.tick(240, "99")
    deal = past.open("100", take_profit="110", stop_loss="90")
    chart = read(staff, f"jobs/{deal.pk}/chart")
    assert (chart["dealId"], chart["symbol"], chart["openPrice"]) == (deal.pk, BTC, "100")
    assert (chart["takeProfit"], chart["stopLoss"], chart["closedAt"], chart["closePrice"]) == ("110", "90", None, None)
    assert chart["stepS"] == 15
    assert [one["close"] for one in chart["candles"]] == ["99", "100"]


def test_a_closed_deals_chart_ends_shortly_after_it_was_closed(staff: APIClient, past: Past) -> None:
    past.tick(7_200, "100")
    past.tick(3_900, "105")
    past.tick(60, "120")
    deal = past.close(past.open("100"), "101")
    assert deal.closed_at is not None
    began = deal.opened_at - timedelta(hours=2)
    Deal.objects.filter(pk=deal.pk).update(opened_at=began, closed_at=deal.closed_at - timedelta(hours=1))
    chart = read(staff, f"jobs/{deal.pk}/chart")
    assert (chart["closePrice"], chart["stepS"]) == ("101", 60)
    assert [one["close"] for one in chart["candles"]] == ["100", "105"]
    assert chart["from"] < chart["openedAt"] < chart["closedAt"] < chart["to"]


def test_a_deal_older_than_the_candles_has_a_chart_without_any(staff: APIClient, past: Past) -> None:
    deal = past.close(past.open("100"), "101")
    assert deal.closed_at is not None
    Deal.objects.filter(pk=deal.pk).update(
        opened_at=deal.opened_at - timedelta(days=9), closed_at=deal.closed_at - timedelta(days=8)
    )
    chart = read(staff, f"jobs/{deal.pk}/chart")
    assert (chart["candles"], chart["closePrice"]) == ([], "101")
    assert chart["from"] <= chart["to"]


def test_a_deal_open_for_days_shows_a_day_in_at_most_300_candles(staff: APIClient, past: Past) -> None:
    past.tick(80_000, "100")
    deal = past.open("101")
    Deal.objects.filter(pk=deal.pk).update(opened_at=deal.opened_at - timedelta(days=5))
    chart = read(staff, f"jobs/{deal.pk}/chart")
    assert chart["stepS"] == 300
    assert [one["close"] for one in chart["candles"]] == ["100", "101"]


def test_unknown_and_malformed_deals_have_no_chart(staff: APIClient) -> None:
    assert refusal(staff, "jobs/12345678/chart") == (404, "not_found")
    assert refusal(staff, f"jobs/{2**63}/chart") == (404, "not_found")
    assert refusal(staff, "jobs/x/chart") == (400, "invalid_deal_id")


# --- cost --------------------------------------------------------------------------------------------------------


def test_a_chart_takes_few_queries_and_reads_no_trigger(staff: APIClient, past: Past) -> None:
    past.tick(0, "100")
    book.arm([row(number, upper="100.5") for number in range(1, 2_001)], clock=past.clock)
    connect().config_resetstat()
    with CaptureQueriesContext(connection) as queries:
        chart = read(staff, f"prices/{BTC}?minutes=1440")
    assert chart["triggers"]["upper"] == [{"price": "100.525", "count": 2_000}]
    commands = connect().info("commandstats")
    assert not {"cmdstat_zrange", "cmdstat_zrangebyscore", "cmdstat_hgetall"} & commands.keys()
    assert len([query for query in queries if "FROM deals" in query["sql"]]) == 1
