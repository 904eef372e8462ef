"""The broker away from real processes: the prices process closes meanwhile, and the workers go on soon after."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal

from market import BTC
from servers import Process, Valkey, wait_until

from deals import services
from deals.models import Account, Deal, LedgerEntry, Status
from workers import book, keys
from workers.prices import RedisQuoteBoard
from workers.redis_client import connect

Start = Callable[..., Process]


def feed(price: str) -> None:
    """Publish as another service does, until it has arrived."""

    def arrived() -> bool:
        body = json.dumps({"symbol": BTC, "price": price, "timestamp": time.time_ns() // 1_000_000})
        connect().publish(keys.price_update(BTC), body)
        return bool(connect().hget(keys.price(BTC), "price") == price)

    wait_until(arrived, what=f"{price} has arrived")


def open_deal(trader: Account, take_profit: str) -> Deal:
    return services.open_deal(
        user_id=trader.user_id, symbol=BTC, direction="up", amount=Decimal(100), multiplier=10,
        quote=RedisQuoteBoard().quote(BTC), take_profit=Decimal(take_profit),
    )  # fmt: skip


def closed(deal: Deal) -> Deal:
    wait_until(lambda: Deal.objects.get(pk=deal.pk).status == Status.CLOSED, 20, what="the deal closes")
    deal.refresh_from_db()
    return deal


def test_deals_close_without_the_broker_and_the_workers_go_on_when_it_is_back(
    the_system_runs: None, start_process: Start, celery_worker: Start, valkey: Valkey, trader: Account
) -> None:
    env = {"CELERY_BROKER_URL": valkey.url}
    prices = start_process("manage.py", "run_prices", "--source", "redis", env=env)
    worker = celery_worker(env=env)
    prices.wait_for("feed.connected")
    feed("100")
    deals = [open_deal(trader, level) for level in ("110", "120", "130")]
    valkey.kill()
    feed("111")
    crossed = time.monotonic()
    assert (closed(deals[0]).close_price, deals[0].detector) == (Decimal(111), "tick")
    assert time.monotonic() - crossed < 8  # 4 s on a machine that has nothing else to do
    prices.wait_for('"prices.degraded"')
    worker.wait_for(r"Trying again in 2\.00 seconds\.\.\. \(3/")
    assert "Trying again in 4" not in worker.output
    valkey.start()
    began = time.monotonic()
    wait_until(lambda: worker.output.count("Connected to redis") > 1, 20, what="the worker consumes again")
    prices.wait_for('"prices.degraded_ended"')
    assert time.monotonic() - began < 12  # 5 s; both look every 2 s
    settled = worker.output.count('"deal.closed"')
    feed("121")
    assert closed(deals[1]).close_price == Decimal(121)
    wait_until(lambda: worker.output.count('"deal.closed"') == settled + 1, what="a worker closed it")
    wait_until(lambda: book.all_fired() == {}, what="nothing waits")
    assert Deal.objects.get(pk=deals[2].pk).status == Status.OPEN
    assert LedgerEntry.objects.filter(kind="close").count() == 2
    assert prices.output.count('"prices.degraded"') == 1
