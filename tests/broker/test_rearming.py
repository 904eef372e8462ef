"""How soon all deals are armed again when Redis has forgotten everything, with a prices process that lives on.

`REARMED_DEALS=100000` measures what docs/faults.md says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings as project
from live import LiveEngine
from redis.exceptions import RedisError
from servers import Valkey, wait_until

from bench.load import far_deals, load
from workers import book, keys, system
from workers.redis_client import connect

pytestmark = pytest.mark.load

DEALS = int(os.environ.get("REARMED_DEALS", "20000"))
LIMIT_S = 20.0
"""A hundred thousand take less than 4 s on a machine that has nothing else to do."""


@pytest.fixture
def valkey_of_its_own(valkey: Valkey, settings: Any) -> Iterator[Valkey]:
    """Prices and book live in the test's own Valkey; the queue stays where it was."""
    settings.REDIS_URL = valkey.url
    connect.cache_clear()
    yield valkey
    connect().close()
    connect.cache_clear()


@pytest.fixture
def live(process_env: dict[str, str], the_system_runs: None, valkey_of_its_own: Valkey) -> Iterator[LiveEngine]:
    """A prices process that drives every symbol, and a book that holds all deals."""
    load(process_env["DATABASE_URL"], DEALS, far_deals(project.SYMBOLS), per_account=20)
    system.refresh_state()
    engine = LiveEngine(symbols=project.SYMBOLS)
    wait_until(lambda: is_armed(engine), 120, what="the book is complete")
    for symbol in project.SYMBOLS:
        engine.tick("100", symbol=symbol)
    yield engine
    engine.stop()


def armed() -> int:
    try:
        return sum(book.armed_count(project.SYMBOLS).values())
    except RedisError:  # it has just been restarted, or is busy with arming for longer than a call may take
        return -1


def is_armed(engine: LiveEngine) -> bool:
    return bool(engine.engine.held and connect().get(keys.book_epoch()) == system.server_run_id() and armed() == DEALS)


def seconds_until_armed(capsys: pytest.CaptureFixture[str], what: str) -> float:
    began = time.monotonic()
    wait_until(lambda: armed() == DEALS, 60, what=f"{DEALS} deals are armed again")
    took_s = time.monotonic() - began
    with capsys.disabled():
        print(f"\n{what}: {DEALS} deals armed again after {took_s:.2f} s")  # noqa: T201 the measurement
    return took_s


def test_a_flushed_redis_has_all_deals_armed_again_within_seconds(
    live: LiveEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        connect().flushall()
        assert seconds_until_armed(capsys, "flushed") < LIMIT_S
        wait_until(lambda: is_armed(live) and not live.engine.recovery.is_rebuilding, 60, what="it is in order")


def test_a_redis_that_was_restarted_empty_has_all_deals_armed_again_within_seconds(
    live: LiveEngine, valkey_of_its_own: Valkey, capsys: pytest.CaptureFixture[str]
) -> None:
    valkey_of_its_own.kill()
    wait_until(lambda: live.degraded, 20, what="it closes by itself")
    valkey_of_its_own.start(empty=True)
    assert seconds_until_armed(capsys, "restarted empty") < LIMIT_S
    wait_until(lambda: is_armed(live) and not live.degraded, 60, what="it hands back")
