"""A deal's own page: figures, why it is open or how it closed, and every event of its history in its timeline."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from html import unescape

import pytest
from django.contrib.staticfiles import finders
from django.test import Client
from django.utils import timezone
from factories import close_deal, make_deal, set_price
from redis.exceptions import RedisError

from deals import services, settlement
from deals.models import Deal, DealEvent, Settlement
from monitoring.deal_page import deal_page, length
from workers import keys, system
from workers.book import Fired
from workers.models import DeadLetter
from workers.redis_client import connect

D = Decimal


@pytest.fixture
def running(db: None, the_system_runs: None) -> None:
    """A system whose state is cached, so that ticks fire."""
    system.refresh_state()


def page_of(client: Client, deal: Deal) -> str:
    """The page's own part as text, tags and runs of blanks taken out."""
    answer = client.get(f"/admin/deals/deal/{deal.pk}/change/")
    assert answer.status_code == 200
    html = answer.content.decode()
    [part] = re.findall(r'<div id="deal".*?<form', html, re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", part)).split())


def armed_deal(**levels: str) -> Deal:
    """A deal that the book holds."""
    deal = make_deal(**levels)
    Deal.objects.filter(pk=deal.pk).update(monitoring="armed")
    deal.refresh_from_db()
    connect().hset(keys.versions(deal.symbol), str(deal.pk), deal.watch_version)
    return deal


def closed_by_tick(deal: Deal, price: str, **before_ms: int) -> Deal:
    """Closed by a tick that came, fired and was taken so long before now."""
    now = timezone.now()
    at = {name: now - timedelta(milliseconds=ms) for name, ms in before_ms.items()}
    due = settlement.Due(
        deal.pk, deal.watch_version, D(price), "tick", 7, at["tick_at"], at["received_at"], at["fired_at"]
    )
    report = settlement.settle([due], started_at=at["started_at"])
    assert [closure.deal_id for closure in report.closed] == [deal.pk]
    deal.refresh_from_db()
    return deal


# --- open deals --------------------------------------------------------------------------------------------------


def test_an_open_deal_shows_its_levels_the_way_to_them_and_why_it_is_open(operator: Client, running: None) -> None:
    text = page_of(operator, armed_deal(take_profit="110", stop_loss="80"))

    assert "BTCUSDT ▲ up Armed" in text
    assert "Entry 100" in text
    assert "Take Profit 110 10 % away" in text
    assert "Stop Loss 80 20 % away" in text
    assert "Price now 100" in text
    assert "Amount, USDT 100 × 10" in text
    assert "Why it is open The price, 100, has not reached a trigger." in text


def test_a_price_beyond_the_level_and_a_stale_one_are_said(operator: Client, running: None) -> None:
    deal = armed_deal(take_profit="110")
    system_says = page_of(operator, deal)
    assert "stale" not in system_says
    set_price(price="111", age_s=30)

    text = page_of(operator, deal)

    assert "Take Profit 110 reached" in text
    assert "old: stale" in text
    assert "is stale (30 s old): nothing fires on it." in text


def test_a_fired_deal_that_waits_says_so(operator: Client, running: None) -> None:
    deal = armed_deal(take_profit="110")
    fired = Fired(deal.pk, deal.watch_version, deal.symbol, "111", 7, 1, 1, 1, "tick")
    connect().hset(keys.fired(), str(deal.pk), fired.entry)

    text = page_of(operator, deal)

    assert "up Fired" in text
    assert "It fired at 111 and waits to be settled." in text


def test_a_deal_without_levels_says_that_nothing_watches_it(operator: Client, running: None) -> None:
    text = page_of(operator, make_deal())

    assert "up None" in text
    assert "Take Profit –" in text
    assert "It has neither Take Profit nor Stop Loss." in text


def test_without_a_price_or_redis_the_page_opens_and_says_so(
    operator: Client, running: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal = armed_deal(take_profit="110")
    connect().delete(keys.price(deal.symbol))
    assert "Price now – none yet" in page_of(operator, deal)

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise RedisError("away")

    monkeypatch.setattr(connect().connection_pool, "get_connection", refuse)
    text = page_of(operator, deal)
    assert "Price now – Redis does not answer" in text
    assert "Redis does not answer: what the trigger book holds cannot be seen." in text


# --- closed deals ------------------------------------------------------------------------------------------------


def test_a_deal_closed_by_a_tick_shows_where_the_time_went(operator: Client, running: None) -> None:
    deal = make_deal(take_profit="110")
    closed_by_tick(deal, "111", tick_at=9_000, received_at=8_950, fired_at=8_900, started_at=900)
    assert deal.started_at is not None
    Settlement.objects.update(committed_at=deal.started_at + timedelta(milliseconds=20))

    text = page_of(operator, deal)

    assert "Closed: Take Profit" in text
    assert "Take Profit 110 reached" in text
    assert "Close 111" in text
    assert "Profit, USDT +109.5 commission 0.5" in text
    assert "From the tick to the commit: 8.1 s" in text
    assert "exchange to us 50 ms received to fired 50 ms fired to a worker 8.0 s worker to commit 20 ms" in text
    assert "Why it is open" not in text


def test_a_closure_whose_commit_is_not_recorded_shows_the_way_until_then(operator: Client, running: None) -> None:
    deal = make_deal(take_profit="110")
    closed_by_tick(deal, "111", tick_at=9_000, received_at=8_950, fired_at=8_900, started_at=900)

    text = page_of(operator, deal)

    assert "From the tick to the commit exchange to us" in text
    assert "fired to a worker 8.0 s The total" in text


def test_a_deal_closed_by_hand_says_that_no_tick_did_it(operator: Client, running: None) -> None:
    text = page_of(operator, close_deal(make_deal(), price="99"))

    assert "Closed: by hand" in text
    assert "Profit, USDT -10.5" in text
    assert "It was closed by hand: no tick fired it." in text


# --- the timeline ------------------------------------------------------------------------------------------------


def test_the_timeline_tells_every_event_with_its_price_trade_and_error(operator: Client, running: None) -> None:
    deal = armed_deal(take_profit="110")
    opened = DealEvent.objects.get(deal=deal, kind="opened").at
    kinds = ("armed", "amended", "fired", "removed", "expired", "dead")
    for number, kind in enumerate(kinds, start=1):
        facts = {"price": D(111), "trade_id": 77, "detector": "tick", "gap_ms": 12_000} if kind == "fired" else {}
        at = opened + timedelta(seconds=90 * number)
        DealEvent.objects.create(deal=deal, kind=kind, version=number, at=at, **facts)
    services.record_attempt(deal_id=deal.pk, version=1, price=D(111), error="ValueError: broken <b>")

    text = page_of(operator, deal)
    shown = [step.title for step in deal_page(deal.pk).steps]

    assert shown == [
        "Opened at 100", "Armed", "Levels amended", "Fired at 111", "Taken out of monitoring",
        "Monitoring time ran out", "Given up: a dead letter", "Settling failed at 111",
    ]  # fmt: skip
    assert "Armed after +1 min 30 s" in text
    assert "seen by a tick · trade 77 · first price after 12.0 s without any · version 3" in text
    assert "ValueError: broken <b>" in text
    assert "<b>" not in operator.get(f"/admin/deals/deal/{deal.pk}/change/").content.decode()


def test_a_dead_letter_is_named_and_linked(operator: Client, running: None) -> None:
    deal = make_deal(take_profit="110")
    now = timezone.now()
    letter = DeadLetter.objects.create(
        deal=deal, version=1, task="workers.close_deals", price=D(111), fired="1|BTCUSDT", error_class="ValueError",
        error="broken", attempts=3, first_failed_at=now, last_failed_at=now,
    )  # fmt: skip

    assert f"Dead letter {letter.pk} , failed, after 3 attempts: ValueError: broken" in page_of(operator, deal)
    page = operator.get(f"/admin/deals/deal/{deal.pk}/change/").content.decode()
    assert f'href="/admin/workers/deadletter/{letter.pk}/change/"' in page


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0.0 ms"), (3.21, "3.2 ms"), (45, "45 ms"), (1_300, "1.3 s"), (125_000, "2 min 5 s"),
        (11_520_000, "3 h 12 min"), (352_800_000, "4 d 2 h"),
    ],
)  # fmt: skip
def test_durations_are_read_at_a_glance(ms: float, text: str) -> None:
    assert length(timedelta(milliseconds=ms)) == text


# --- the page itself ---------------------------------------------------------------------------------------------


def test_the_page_runs_no_script_but_files_of_ours_and_loads_them_from_here(operator: Client, running: None) -> None:
    deal = make_deal()
    answer = operator.get(f"/admin/deals/deal/{deal.pk}/change/")
    html = answer.content.decode()
    part = html[html.index('<div id="deal"') : html.index("<form", html.index('<div id="deal"'))]

    assert "<script" not in part
    assert " style=" not in part
    assert not re.search(r"\son\w+=", part)
    assert 'type="module" src="/static/monitoring/deal.js"' in html
    for name in ("deal.js", "deal.css", "charts.js", "format.js", "theme.css"):
        assert finders.find(f"monitoring/{name}"), name


def test_its_chart_is_where_the_page_says(operator: Client, running: None) -> None:
    deal = make_deal(take_profit="110")
    html = operator.get(f"/admin/deals/deal/{deal.pk}/change/").content.decode()
    [path] = re.findall(r'data-chart="([^"]+)"', html)

    assert operator.get(path).json()["takeProfit"] == "110"


def test_other_pages_of_the_admin_site_are_as_they_were(operator: Client, running: None) -> None:
    deal = make_deal()
    for path in ("/admin/deals/deal/", f"/admin/deals/account/{deal.account_id}/change/"):
        assert 'id="deal"' not in operator.get(path).content.decode()
