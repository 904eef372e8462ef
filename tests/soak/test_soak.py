"""Many deals in a short time through every process; then memory, keys and connections are what they were.

`make soak` drives 3,600 deals: what `make demo`'s traders, with two actions a second, open in half an hour.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from decimal import Decimal
from typing import Final, NamedTuple

import pytest
import redis
from django.apps import apps
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from domain import new_account
from market import BTC
from servers import Process, wait_until
from usage import Usage, key_count, table, usage

from deals import services
from deals.models import Account, Deal
from workers import keys, queues
from workers.prices import RedisQuoteBoard
from workers.redis_client import connect
from workers.system import refresh_state

LONG = os.environ.get("SOAK") == "long"
DEALS = 3_600 if LONG else 240
WAVE = 60
WARM_UP = 600 if LONG else 120
"""Until then every code path has run, and allocators, caches and pools have what they keep."""

PSS_TOLERANCE_KIB: Final = 6 * 1024
"""A process may end so much above where it began. A leak of 2 KiB a deal would exceed it in 3,000 deals; allocators
give back whole arenas or nothing, which is some 2 MiB up or down."""
REDIS_TOLERANCE_KIB: Final = 1024
"""The minute of price buckets, clients' buffers."""

SCHEDULE = importlib.import_module("workers.migrations.0002_tokens_and_schedule")
Start = Callable[..., Process]


class System(NamedTuple):
    """Its processes by name, and where the web process answers."""

    programs: dict[str, Process]
    web: str


@pytest.fixture
def whole(transactional_db: None, the_system_runs: None, start_process: Start, celery_worker: Start) -> System:
    """The whole system: every process of the Procfile but Flower, fed as another service would."""
    PeriodicTask.objects.all().delete()
    IntervalSchedule.objects.all().delete()
    SCHEDULE.create_schedule(apps, None)
    refresh_state()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = {
        "web": start_process("-m", "uvicorn", "cryptocraze.asgi:application", "--port", port, "--lifespan", "off"),
        "prices": start_process("manage.py", "run_prices", "--source", "redis"),
        "beat": start_process("celery", "beat"),
        "sweeper": celery_worker(queues="sweep", concurrency=1),
        "worker": celery_worker(queues="closures,default", concurrency=2),
    }
    started["prices"].wait_for('"prices.started"')
    started["web"].wait_for("Uvicorn running")
    return System(started, f"http://127.0.0.1:{port}")


def feed(price: str) -> None:
    """Publish as the exchange's service does, until it has arrived."""

    def arrived() -> bool:
        body = {"symbol": BTC, "price": price, "timestamp": time.time_ns() // 1_000_000}
        connect().publish(keys.price_update(BTC), json.dumps(body))
        return bool(connect().hget(keys.price(BTC), "price") == price)

    wait_until(arrived, 30, what=f"{price} has arrived")


def wave(system: System, traders: list[Account], number: int) -> None:
    """Open deals at 100, let half of them reach Take Profit and half Stop Loss, wait until all are closed."""
    feed("100")
    for n in range(WAVE):
        services.open_deal(
            user_id=traders[n % len(traders)].user_id,
            symbol=BTC,
            direction="up",
            amount=Decimal(1),
            multiplier=10,
            quote=RedisQuoteBoard().quote(BTC),
            take_profit=Decimal(110 if n % 2 else 120),
            stop_loss=Decimal(80 if n % 2 else 90),
        )
    feed("111")
    feed("89")
    wait_until(lambda: Deal.objects.filter(status="closed").count() == WAVE * number, 60, what="all are closed")
    ask(system.web + "/health")
    ask(system.web + "/metrics")


def ask(url: str) -> None:
    """A visitor; what is answered is not the point, that it is answered is."""
    try:
        urllib.request.urlopen(url, timeout=20).close()  # noqa: S310 - our own
    except urllib.error.HTTPError as answer:
        answer.close()


def quiet(client: redis.Redis, processes: dict[str, int]) -> Usage:
    """What is held when nothing is in flight."""
    wait_until(lambda: queues.depth("closures") == 0 and not client.exists(keys.fired()), 30, what="all is settled")
    wait_until(lambda: not client.exists("celery:unacked"), 30, what="all is acknowledged")
    return usage(processes, client)


@pytest.mark.alone
@pytest.mark.timeout(900 if LONG else 240)
def test_after_many_deals_memory_keys_and_connections_are_what_they_were(
    whole: System, redis_client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    traders = [new_account("100000") for _ in range(6)]
    processes = {name: process.pid for name, process in whole.programs.items()}
    warm_waves, all_waves = WARM_UP // WAVE, (WARM_UP + DEALS) // WAVE
    for number in range(1, warm_waves + 1):
        wave(whole, traders, number)
    began = quiet(redis_client, processes)
    started = time.monotonic()
    for number in range(warm_waves + 1, all_waves + 1):
        wave(whole, traders, number)
    took_s = time.monotonic() - started
    kept = began.redis_keys  # a message that is just being worked on comes and goes
    wait_until(lambda: key_count(redis_client) <= kept, 30, what="there are no more keys than before")
    ended = quiet(redis_client, processes)
    with capsys.disabled():
        print(f"\n{DEALS:,} deals in {took_s:.0f} s\n{table(began, ended)}")  # noqa: T201 what make soak shows

    assert set(Deal.objects.values_list("close_price", "detector")) <= {
        (Decimal(111), "tick"), (Decimal(89), "tick"), (Decimal(111), "arm"), (Decimal(89), "arm"),
    }  # fmt: skip
    assert ended.pss_kib.keys() == began.pss_kib.keys(), "no process was replaced or left behind"
    grown = {name: kib - began.pss_kib[name] for name, kib in ended.pss_kib.items()}
    assert max(grown.values()) < PSS_TOLERANCE_KIB, grown
    assert ended.redis_kib - began.redis_kib < REDIS_TOLERANCE_KIB
    assert ended.sessions <= began.sessions + 1  # a web request's session may linger
    assert all(ended.files[name] <= count + 3 for name, count in began.files.items())
    assert all(process.alive for process in whole.programs.values())
