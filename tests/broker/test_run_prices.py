"""The prices process as a process: fed as another service would, it closes deals; one drives, the other stands by."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
from domain import new_account
from market import BTC, NOT_IN_BOOK, Market, in_book, lose_from_book, messages, row, say_state
from servers import Process, wait_until

from deals import services
from deals.errors import Unavailable
from deals.models import Account, Deal, LedgerEntry, Status
from workers import book, keys
from workers.clock import TapeClock
from workers.prices import RedisQuoteBoard
from workers.redis_client import connect
from workers.sources.base import Tick
from workers.tasks import sweep_task

Start = Callable[..., Process]


def publish(price: Any, symbol: str = BTC, at_ms: int | None = None) -> None:
    """As the other service does."""
    at_ms = time.time_ns() // 1_000_000 if at_ms is None else at_ms
    body = json.dumps({"symbol": symbol, "price": price, "timestamp": at_ms})
    connect().publish(keys.price_update(symbol), body)


def price_now() -> str | None:
    value = connect().hget(keys.price(BTC), "price")
    return None if value is None else str(value)


def feed(price: str) -> None:
    """Publish until it has arrived."""

    def arrived() -> bool:
        publish(price)
        return price_now() == price

    wait_until(arrived, what=f"{price} has arrived")


def open_deal(trader: Account, take_profit: str, **terms: Any) -> Deal:
    given = {"symbol": BTC, "direction": "up", "amount": Decimal(100), "multiplier": 10, **terms}
    return services.open_deal(
        user_id=trader.user_id,
        quote=RedisQuoteBoard().quote(given["symbol"]),
        take_profit=Decimal(take_profit),
        **given,
    )


def driver() -> str | None:
    value = connect().get(keys.lease(BTC))
    return None if value is None else str(value)


def owner(process: Process) -> str:
    process.wait_for('"prices.started"')
    line = next(line for line in process.output.splitlines() if '"prices.started"' in line)
    return str(json.loads(line)["owner"])


@pytest.fixture
def start_prices(start_process: Start) -> Start:
    def start(*arguments: str, **env: str) -> Process:
        process = start_process("manage.py", "run_prices", *(arguments or ("--source", "redis")), env=env)
        process.wait_for('"prices.started"')
        return process

    return start


def test_a_published_price_closes_a_deal_and_bad_prices_never_do(
    trader: Account, start_prices: Start, celery_worker: Start, redis_client: redis.Redis
) -> None:
    prices = start_prices()
    celery_worker(concurrency=2)
    feed("100")
    deal, lost = open_deal(trader, "110.5"), open_deal(trader, "105")
    assert in_book(deal.pk) == (110.5, None, "1")
    with redis_client.pubsub() as pubsub:
        pubsub.subscribe(keys.notifications(trader.user_id))
        now_ms = time.time_ns() // 1_000_000
        for bad in ("0", "-111", "NaN", "Infinity", "1e3", "text", "111.0000000000001"):
            publish(bad)
        publish("111", at_ms=now_ms - 3_600_000)
        publish("111", at_ms=now_ms + 60_000)
        publish("200", at_ms=now_ms - 5_000)
        lose_from_book(lost)
        feed("106")
        sweep_task.apply_async()
        wait_until(lambda: Deal.objects.get(pk=lost.pk).status == Status.CLOSED, what="the sweep closes the lost deal")
        feed("111.25")
        wait_until(lambda: Deal.objects.get(pk=deal.pk).status == Status.CLOSED, what="the tick closes the deal")
        wait_until(lambda: book.all_fired() == {}, what="nothing waits")
        heard: list[Any] = []
        wait_until(lambda: heard.extend(messages(pubsub)) or len(heard) >= 2, what="the user hears of both")
    deal.refresh_from_db()
    lost.refresh_from_db()
    assert (deal.close_price, deal.detector) == (Decimal("111.25"), "tick")
    assert (lost.close_price, lost.detector) == (Decimal(106), "sweep")
    assert [message["dealId"] for message in heard] == [lost.pk, deal.pk]
    assert LedgerEntry.objects.filter(kind="close").count() == 2

    assert prices.stop() == 0
    dropped: Any = connect().hgetall(keys.dropped_ticks())
    assert dropped["bad_price"] == "7"
    assert (dropped["stale"], dropped["future"], dropped["out_of_order"]) == ("1", "1", "1")
    assert driver() is None


@pytest.mark.alone
def test_one_process_drives_and_the_other_takes_over_without_a_gap(
    trader: Account, start_prices: Start, celery_worker: Start
) -> None:
    first = start_prices()
    feed("100")
    second = start_prices()
    celery_worker()
    second.wait_for("feed.connected")
    feed("100.5")  # the first price is stale by now on a slow machine
    deal = open_deal(trader, "110")
    assert driver() == owner(first)
    client: Any = connect()
    tokens = [int(client.hget(keys.price(BTC), "token"))]

    first.kill()
    publish("111")  # only the one that stands by hears it
    publish("101")
    began = time.monotonic()
    wait_until(lambda: driver() == owner(second), timeout_s=6, what="the second drives")
    assert time.monotonic() - began < 5
    wait_until(
        lambda: Deal.objects.get(pk=deal.pk).status == Status.CLOSED, what="what it heard meanwhile closes the deal"
    )
    assert Deal.objects.get(pk=deal.pk).close_price == Decimal(111)
    tokens.append(int(client.hget(keys.price(BTC), "token")))

    third = start_prices()
    third.wait_for("feed.connected")
    feed("102")
    assert driver() == owner(second)
    began = time.monotonic()
    second.signal(signal.SIGTERM)
    wait_until(lambda: driver() == owner(third), timeout_s=6, what="the third drives")
    assert time.monotonic() - began < 2.5
    wait_until(lambda: not second.alive, what="the second has ended")
    assert second.stop() == 0
    feed("103")
    tokens.append(int(client.hget(keys.price(BTC), "token")))
    assert tokens == sorted(set(tokens))


def test_the_simulated_market_closes_deals_by_itself(start_prices: Start, celery_worker: Start) -> None:
    start_prices("--source", "simulated", SIMULATED_TICKS_PER_S="100")
    celery_worker(concurrency=2)
    deals = [_simulated_deal(new_account()) for _ in range(20)]
    wait_until(lambda: not Deal.objects.filter(status=Status.OPEN).exists(), timeout_s=60, what="all have closed")
    for deal in deals:
        deal.refresh_from_db()
        assert deal.close_price is not None
        assert deal.take_profit is not None
        assert deal.stop_loss is not None
        # One that was crossed before it was armed closes exactly at its level.
        assert (deal.close_price >= deal.take_profit) == (deal.close_reason == "take_profit")
        assert (deal.close_price <= deal.stop_loss) == (deal.close_reason == "stop_loss")
        assert deal.detector in {"tick", "arm"}


def test_a_recorded_tape_closes_deals_as_if_it_happened_now(
    start_process: Start, celery_worker: Start, trader: Account, tmp_path: Path
) -> None:
    prices = ["100.00"] * 100 + ["100.50", "101.25", "99.00"]  # five seconds to open a deal in
    rows = (f"{number},{price},1,1,{1_610_064_000_000 + 100 * number},True" for number, price in enumerate(prices, 1))
    tape = tmp_path / "tape.csv"
    tape.write_text("\n".join(rows))
    celery_worker(concurrency=1)
    env = {"TAPE_FILE": str(tape), "TAPE_SPEED": "2"}
    process = start_process("manage.py", "run_prices", "--source", "tape", "--symbols", BTC, env=env)
    wait_until(lambda: price_now() == "100.00", what="the tape's first price")
    deal = open_deal(trader, "101")
    wait_until(lambda: not Deal.objects.filter(status=Status.OPEN).exists(), what="the deal has closed")
    deal.refresh_from_db()
    assert (deal.close_price, deal.close_trade_id, deal.detector) == (Decimal("101.25"), 102, "tick")
    wait_until(lambda: not process.alive, what="the tape has ended")
    assert process.stop() == 0
    assert price_now() == "99.00"


def _simulated_deal(trader: Account) -> Deal:
    """A deal with TP and SL 0.02 % around the price."""
    opened: list[Deal] = []

    def attempt() -> bool:
        try:
            quote = RedisQuoteBoard().quote(BTC)
        except Unavailable:
            return False
        levels = [
            (quote.price * factor).quantize(Decimal("0.0001")) for factor in (Decimal("1.0002"), Decimal("0.9998"))
        ]
        opened.append(
            services.open_deal(
                user_id=trader.user_id,
                symbol=BTC,
                direction="up",
                amount=Decimal(10),
                multiplier=2,
                quote=quote,
                take_profit=levels[0],
                stop_loss=levels[1],
            )
        )
        return True

    wait_until(attempt, what="a price")
    return opened[0]


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        (["--symbols", "BTCUSDT,NOSUCH"], {}, "SYMBOLS does not list NOSUCH"),
        ([], {"STATIC_ONLY": "true"}, "STATIC_ONLY is true"),
        (["--source", "tape", "--symbols", "BTCUSDT"], {}, "no tape is given: set TAPE_FILE"),
    ],
)
def test_what_it_cannot_do_it_says_in_one_line(
    start_process: Start, arguments: list[str], env: dict[str, str], says: str
) -> None:
    process = start_process("manage.py", "run_prices", "--source", "redis", *arguments, env=env)
    wait_until(lambda: not process.alive, what="it ends")
    assert says in process.output
    assert "Traceback" not in process.output
    assert process.stop() == 1


# --- the engine itself ------------------------------------------------------------------------------------------


@pytest.fixture
def alone(clock: TapeClock) -> Iterator[Market]:
    """An engine without a database."""
    say_state()
    market = Market(clock=clock)
    yield market
    market.close()


def test_ending_in_order_writes_what_is_pending_sends_what_fired_and_gives_the_leases_up(
    alone: Market, clock: TapeClock
) -> None:
    alone.tick("100")
    book.arm([row(1, "110")], clock=clock)
    price = alone.engine.board.accept(Tick(BTC, "111", clock.now_ms(), 9))
    assert price is not None
    assert alone.engine.board.accept(Tick(BTC, "0", clock.now_ms(), 10)) is None
    alone.engine.enqueue(price)
    alone.close()
    assert price_now() == "111"
    assert [item.deal_id for item in alone.sent] == [1]
    assert in_book(1) == NOT_IN_BOOK
    assert driver() is None
    assert connect().hgetall(keys.dropped_ticks()) == {"bad_price": "1"}


@pytest.mark.django_db(transaction=True)
def test_taking_over_begins_with_what_the_dead_process_had_not_written(alone: Market, clock: TapeClock) -> None:
    standby = Market(clock=clock, token=2)
    book.arm([row(1, "110"), row(2, "120")], clock=clock)
    for step, price in enumerate(["100", "121", "112", "101"]):
        clock.set(clock.now_ms() + 10)
        assert standby.tick(price, trade_id=step + 1) == []
        if step == 0:
            assert alone.tick(price, trade_id=1) == []
    connect().delete(keys.lease(BTC))  # three seconds after it died
    assert BTC in standby.hold()
    assert {(item.deal_id, item.price, item.trade_id) for item in standby.flush()} == {(1, "121", 2), (2, "121", 2)}
    assert price_now() == "101"
    assert standby.tick("102", trade_id=5) == []
    standby.close()


@pytest.mark.django_db(transaction=True)
def test_taking_over_passes_over_what_was_written_already(alone: Market, clock: TapeClock) -> None:
    standby = Market(clock=clock, token=2)
    for step, price in enumerate(["100", "121", "101"]):
        clock.set(clock.now_ms() + 10)
        standby.tick(price, trade_id=step + 1)
        alone.tick(price, trade_id=step + 1)
    book.arm([row(1, "120", watched_from_seq=alone.seq())], clock=clock)
    connect().delete(keys.lease(BTC))
    standby.hold()
    assert standby.flush() == []
    assert book.all_fired() == {}
    standby.close()
