"""What Prometheus scrapes: the figures are those of the servers, and of every process together."""

from __future__ import annotations

import time
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis as redis_py
from celery import current_app
from django.db import DataError
from django.utils import timezone
from factories import close_deal, make_account, make_deal, set_price
from kombu.exceptions import OperationalError as BrokerError
from rest_framework.test import APIClient
from scrapes import names, scrape, value

from deals import services, settlement, state
from deals.models import Account, Deal
from monitoring import probes
from workers import book, counters, dead_letters, dispatch, keys, reconcile, sweep
from workers.heartbeats import Sign
from workers.queues import SENT_HEADER
from workers.redis_client import connect
from workers.sweep import SweepReport
from workers.tasks import close_deals

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("scraper")]

BTC = "BTCUSDT"


def fire(deal: Deal, price: str, *, detector: str = "tick") -> book.Fired:
    [fired] = set_price(deal.symbol, price)
    return fired._replace(detector=detector)


def settle(*batch: book.Fired) -> int:
    return int(close_deals([[fired.deal_id, fired.entry] for fired in batch]))


def test_no_label_holds_an_id(scraper: APIClient) -> None:
    deal = make_deal(take_profit="110")
    settle(fire(deal, "111"))
    Sign("worker", "closures@host-7").write({"queues": ["closures"]})
    labels = {label for _name, labels in scrape(scraper) for label, _value in labels}
    assert labels == {
        *("component", "check", "state", "role", "monitoring", "reason", "detector", "symbol", "queue", "kind"),
        *("target", "action", "le"),
    }


# --- closures and latencies --------------------------------------------------------------------------------------


def test_closures_are_counted_by_reason_and_detector_once_each(scraper: APIClient) -> None:
    account = make_account()
    profit, loss = make_deal(account, take_profit="110"), make_deal(account, stop_loss="90")
    up = fire(profit, "111")
    assert settle(up) == 1
    assert settle(up) == 0  # delivered twice
    assert settle(fire(loss, "89", detector="sweep")) == 1
    close_deal(make_deal(account))
    samples = scrape(scraper)
    counted = {labels: count for (name, labels), count in samples.items() if name == "closures_total"}
    assert {labels: count for labels, count in counted.items() if count} == {
        (("detector", "tick"), ("reason", "take_profit")): 1,
        (("detector", "sweep"), ("reason", "stop_loss")): 1,
        (("detector", "manual"), ("reason", "manual")): 1,
    }
    assert len(counted) == 7
    assert value(samples, "settlements_total") == 3
    assert value(samples, "tick_to_committed_seconds_count") == 2


def test_each_way_of_a_closure_falls_into_its_bucket(scraper: APIClient) -> None:
    now = timezone.now()

    def ago(ms: int) -> Any:
        return now - timedelta(milliseconds=ms)

    deals = [make_deal(take_profit="110") for _ in range(3)]
    batch = [
        settlement.Due(deal.pk, deal.watch_version, Decimal(111), "tick", 7, ago(9_900), ago(9_900), ago(9_880))
        for deal in deals
    ]
    settlement.settle(batch, started_at=ago(2_000))
    samples = scrape(scraper)
    for way, below, above in (
        ("tick_to_fired", "0.01", "0.025"),
        ("fired_to_started", "5.0", "10.0"),
        ("started_to_committed", "1.0", "30.0"),
        ("tick_to_committed", "5.0", "60.0"),
    ):
        assert value(samples, f"{way}_seconds_bucket", le=below) == 0
        assert value(samples, f"{way}_seconds_bucket", le=above) == 3
        assert value(samples, f"{way}_seconds_bucket", le="+Inf") == 3
        assert value(samples, f"{way}_seconds_count") == 3
    assert value(samples, "tick_to_fired_seconds_sum") == pytest.approx(0.06)
    assert value(samples, "fired_to_started_seconds_sum") == pytest.approx(3 * 7.88)
    committed = Deal.objects.select_related("settlement").get(pk=deals[0].pk).settlement.committed_at
    whole = 3 * (committed - ago(9_900)).total_seconds()
    assert value(samples, "tick_to_committed_seconds_sum") == pytest.approx(whole, abs=1e-5)


def test_a_settlement_costs_one_round_trip_to_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    deals = [make_deal(take_profit="110") for _ in range(20)]
    batch = [settlement.Due(deal.pk, deal.watch_version, Decimal(111), "tick") for deal in deals]
    sent: list[int] = []
    execute = redis_py.client.Pipeline.execute

    def counting(pipe: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(len(pipe.command_stack))
        return execute(pipe, *args, **kwargs)

    monkeypatch.setattr(redis_py.client.Pipeline, "execute", counting)
    settlement.settle(batch)
    assert len(sent) == 1
    assert sent[0] < 20


def test_what_is_counted_while_redis_is_away_goes_out_later(scraper: APIClient, settings: Any) -> None:
    first, second = make_deal(take_profit="110"), make_deal(take_profit="110")
    fired = {item.deal_id: item for item in set_price(BTC, "111")}
    url, settings.REDIS_URL = settings.REDIS_URL, "redis://127.0.0.1:1/0"
    connect.cache_clear()
    assert settle(fired[first.pk]) == 1
    settings.REDIS_URL = url
    connect.cache_clear()
    counters._waiting._away_until = 0.0  # its pause is over
    assert value(scrape(scraper), "settlements_total") == 0
    assert settle(fired[second.pk]) == 1
    samples = scrape(scraper)
    assert value(samples, "closures_total", reason="take_profit", detector="tick") == 2
    assert value(samples, "publish_errors_total", target="announcement") == 1


def test_a_redis_that_failed_is_left_alone_for_a_while(settings: Any) -> None:
    url, settings.REDIS_URL = settings.REDIS_URL, "redis://127.0.0.1:1/0"
    connect.cache_clear()
    counters.count({"settlements": 1})
    settings.REDIS_URL = url
    connect.cache_clear()
    counters.count({"settlements": 1})
    assert counters.read(connect()) == {}
    counters._waiting._away_until = 0.0
    counters.write_waiting()
    assert counters.read(connect()) == {"settlements": 2}


def test_a_receiver_that_fails_does_not_hide_that_deals_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    from deals.signals import settled

    def broken(**_signal: Any) -> None:
        raise RuntimeError("broken")

    settled.connect(broken)
    try:
        assert settle(fire(make_deal(take_profit="110"), "111")) == 1
    finally:
        settled.disconnect(broken)
    assert "broken" in caplog.text


# --- trouble -----------------------------------------------------------------------------------------------------


def test_failures_and_new_dead_letters_are_counted(scraper: APIClient) -> None:
    deal = make_deal(take_profit="110")
    fired = fire(deal, "111")
    failure = settlement.Failure(fired.due(), DataError("numeric field overflow"))
    for _ in range(2):  # the same message delivered twice
        dead_letters.bury(fired, failure, attempts=3, first_failed_ms=fired.fired_ms, task="workers.close_deals")
    account = make_account()
    make_deal(account, take_profit="120")
    Account.objects.filter(pk=account.pk).update(total_volume=Decimal("9" * 22))  # its statistics overflow
    assert settle(*set_price(BTC, "121")) == 0
    Account.objects.filter(pk=account.pk).update(total_volume=0)
    samples = scrape(scraper)
    assert value(samples, "new_dead_letters_total") == 1
    assert value(samples, "dead_letters", state="failed") == 1
    assert value(samples, "closure_failures_total", kind="deal") == 1
    assert value(samples, "unprotected_deals", reason="dead") == 1
    assert value(samples, "open_deals", monitoring="dead") == 1


def test_a_message_that_cannot_be_sent_is_counted_and_the_count_goes_out_with_the_next(scraper: APIClient) -> None:
    fired = fire(make_deal(take_profit="110"), "111")
    connect().set("celery:closures", "a key of another type where the queue should be")
    with pytest.raises(BrokerError):
        dispatch.send_closures([fired])
    connect().delete("celery:closures")
    assert value(scrape(scraper), "publish_errors_total", target="queue") == 0
    dispatch.send_closures([fired])
    samples = scrape(scraper)
    assert value(samples, "publish_errors_total", target="queue") == 1
    assert value(samples, "queue_messages", queue="closures") == 1


# --- the state of things -----------------------------------------------------------------------------------------


def test_the_book_and_what_has_fired_are_told(scraper: APIClient) -> None:
    make_deal(take_profit="150")
    make_deal(stop_loss="50", symbol="ETHUSDT")
    make_deal()
    fire(make_deal(take_profit="110"), "111")
    removed = make_deal(take_profit="130")
    services.remove_from_monitoring(deal_id=removed.pk)
    samples = scrape(scraper)
    assert value(samples, "open_deals", monitoring="armed") == 3
    assert value(samples, "open_deals", monitoring="removed") == 1
    assert value(samples, "open_deals", monitoring="pending") == 0
    assert value(samples, "watched_deals", symbol=BTC) == 2
    assert value(samples, "watched_deals", symbol="LTCUSDT") == 0
    assert value(samples, "book_deals", symbol=BTC) == 1
    assert value(samples, "book_deals", symbol="ETHUSDT") == 1
    assert value(samples, "fired_deals") == 1
    assert 0 <= value(samples, "fired_oldest_age_seconds") < 60
    assert value(samples, "unprotected_deals", reason="missing") == 0
    assert value(samples, "book_complete") == 0
    reconcile.reconcile()
    assert value(scrape(scraper), "book_complete") == 1


def test_a_deal_that_the_book_lacks_is_unprotected(scraper: APIClient) -> None:
    from deals.queries import watch_rows

    deal = make_deal(take_profit="110")
    book.take_out(watch_rows([deal.pk]))
    assert value(scrape(scraper), "unprotected_deals", reason="missing") == 1


def test_queues_are_told_with_the_age_of_their_oldest_message(scraper: APIClient) -> None:
    sent_ms = time.time_ns() // 1_000_000 - 40_000
    with current_app.connection_for_write() as link:
        for age_ms in (0, 5_000):
            link.Producer().publish([], routing_key="sweep", headers={SENT_HEADER: sent_ms + age_ms})
    Sign("worker", "a").write({"queues": ["closures", "default"]})
    Sign("worker", "b").write({"queues": ["closures"]})
    samples = scrape(scraper)
    assert value(samples, "queue_messages", queue="sweep") == 2
    assert 40 <= value(samples, "queue_oldest_age_seconds", queue="sweep") < 70
    assert value(samples, "queue_oldest_age_seconds", queue="closures") == 0
    assert [value(samples, "queue_workers", queue=queue) for queue in ("closures", "default", "sweep")] == [2, 1, 0]
    assert value(samples, "processes", role="worker") == 2
    assert value(samples, "process_heartbeat_age_seconds", role="worker") < 30
    assert value(samples, "processes", role="beat") == 0
    assert ("process_heartbeat_age_seconds", (("role", "beat"),)) not in samples


def test_the_feed_is_told_by_symbol(scraper: APIClient) -> None:
    set_price(BTC, "100")
    set_price(BTC, "101")
    set_price("ETHUSDT", "7", age_s=40)
    connect().hset(keys.dropped_ticks(), mapping={"stale": 3, "repeated": 2})
    Sign("prices", "p").write({"pending": 4})
    samples = scrape(scraper)
    assert value(samples, "ticks_accepted_total", symbol=BTC) == 2
    assert value(samples, "ticks_accepted_total", symbol="LTCUSDT") == 0
    assert value(samples, "price_age_seconds", symbol=BTC) < 30
    assert 40 <= value(samples, "price_age_seconds", symbol="ETHUSDT") < 70
    assert ("price_age_seconds", (("symbol", "LTCUSDT"),)) not in samples
    assert value(samples, "price_stale_after_seconds") == 10
    assert value(samples, "ticks_dropped_total", reason="stale") == 3
    assert value(samples, "ticks_dropped_total", reason="bad_price") == 0
    assert value(samples, "prices_waiting_ticks") == 4


def test_sweeps_are_counted_but_not_one_that_stood_aside(scraper: APIClient) -> None:
    assert "last_sweep_timestamp_seconds" not in names(scrape(scraper))
    sweep.remember(SweepReport(found=2, resent=1, duration_ms=120))
    sweep.remember(SweepReport(skipped=True, duration_ms=9))
    sweep.remember(SweepReport(found=1, armed=5, duration_ms=30))
    samples = scrape(scraper)
    done = [value(samples, "sweep_deals_total", action=action) for action in ("found", "resent", "armed", "expired")]
    assert done == [3, 1, 5, 0]
    assert value(samples, "sweep_duration_seconds_count") == 2
    assert value(samples, "sweep_duration_seconds_sum") == pytest.approx(0.15)
    assert value(samples, "last_sweep_found_deals") == 1
    assert value(samples, "last_sweep_duration_seconds") == pytest.approx(0.03)
    assert value(samples, "last_sweep_timestamp_seconds") == pytest.approx(time.time(), abs=30)


def test_the_state_is_told_as_one_of_all_states_and_health_as_its_checks(scraper: APIClient) -> None:
    state.change(state.State.HALTED, "test")
    samples = scrape(scraper)
    states = {name: value(samples, "system_state", state=name) for name in ("running", "draining", "stopped", "halted")}
    assert states == {"running": 0, "draining": 0, "stopped": 0, "halted": 1}
    assert value(samples, "system_state_changed_timestamp_seconds") == pytest.approx(time.time(), abs=30)
    assert value(samples, "check_healthy", component="orderClosure", check="running") == 0
    assert value(samples, "check_healthy", component="orderWorker", check="database") == 1


def test_another_web_process_answers_the_same(scraper: APIClient) -> None:
    """Nothing is kept in a process: what one has counted and forgotten, any other answers."""
    settle(fire(make_deal(take_profit="110"), "111"))
    counted = ("closures_total", "settlements_total", "tick_to_fired_seconds_sum", "ticks_accepted_total")
    first = {key: count for key, count in scrape(scraper).items() if key[0] in counted}
    counters._waiting.forget()
    probes._redis_client.cache_clear()
    connect.cache_clear()
    assert {key: count for key, count in scrape(scraper).items() if key[0] in counted} == first
    assert first["settlements_total", ()] == 1
