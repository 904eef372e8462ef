"""`manage.py sweep`: what is due is closed without workers, beat or broker; what it cannot do it says."""

from __future__ import annotations

import signal
from collections.abc import Callable
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from domain import new_account
from market import BTC, Market, in_book, lose_from_book
from servers import Process, Valkey, wait_until

from deals import state
from deals.models import Deal, LedgerEntry, Status
from workers import book, keys, queues, reconcile, system
from workers.clock import WALL_CLOCK
from workers.drivers import next_token
from workers.management.commands import sweep as command
from workers.redis_client import connect
from workers.sweep import SWEEP_LOCK


@pytest.fixture
def market(transactional_db: None, the_system_runs: None) -> Any:
    """A prices process on the wall clock that has written a price and then says no more."""
    system.refresh_state()
    reconcile.reconcile()
    market = Market(clock=WALL_CLOCK, token=next_token())
    market.tick("100")
    yield market
    market.close()


def swept() -> str:
    out = StringIO()
    call_command("sweep", stdout=out)
    return out.getvalue()


def test_what_fired_and_what_the_book_lost_closes_here_and_nothing_is_queued(market: Market) -> None:
    fired, lost, still = (market.open(new_account(), take_profit=level) for level in ("110", "111", "150"))
    lose_from_book(lost)
    market.tick("112", "105")
    said = swept()
    assert "closed 2 (had fired 1, found 1)" in said
    fired.refresh_from_db()
    lost.refresh_from_db()
    assert (fired.close_price, fired.detector) == (Decimal(112), "tick")
    assert (lost.close_price, lost.detector) == (Decimal(111), "sweep")
    assert queues.depth("closures") == 0
    assert book.all_fired() == {}
    assert "closed 0 (had fired 0, found 0)" in swept()
    assert Deal.objects.get(pk=still.pk).status == Status.OPEN
    assert LedgerEntry.objects.filter(kind="close").count() == 2


def test_a_lost_book_is_armed_again(market: Market) -> None:
    deal = market.open(new_account(), take_profit="110")
    lose_from_book(deal)
    connect().delete(keys.book_epoch())
    assert "the trigger book was lost: 1 deals armed again" in swept()
    assert in_book(deal.pk) == (110.0, None, "1")


def test_without_redis_it_says_what_it_cannot_do(market: Market, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    connect.cache_clear()
    try:
        with pytest.raises(CommandError, match="without prices nothing can be found") as refused:
            swept()
    finally:
        connect.cache_clear()
    assert refused.value.returncode == 1
    assert "run_prices" in str(refused.value)


def test_without_fresh_prices_it_says_where_nothing_closes(market: Market) -> None:
    market.open(new_account(), take_profit="110")
    connect().hset(keys.price(BTC), "received", WALL_CLOCK.now_ms() - 60_000)
    with pytest.raises(CommandError, match=f"no fresh price of {BTC}: nothing closes there"):
        swept()


def test_a_stopped_system_is_not_swept(market: Market) -> None:
    deal = market.open(new_account(), take_profit="110")
    market.tick("111")
    state.change(state.State.STOPPED, "test")
    with pytest.raises(CommandError, match="the system is stopped"):
        swept()
    assert Deal.objects.get(pk=deal.pk).status == Status.OPEN


def test_another_sweep_is_waited_for_and_then_it_gives_up(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    monkeypatch.setattr(command, "PATIENCE_S", 0.5)
    facts = connection.get_connection_params()
    keep = ("dbname", "user", "password", "host", "port")
    with psycopg.connect(**{name: facts[name] for name in keep if facts.get(name)}) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [SWEEP_LOCK])
        with pytest.raises(CommandError, match="another sweep is at work") as refused:
            swept()
    assert refused.value.returncode == 3


def test_the_loop_goes_on_through_a_redis_outage_and_ends_in_order(
    transactional_db: None, the_system_runs: None, valkey: Valkey, settings: Any,
    start_process: Callable[..., Process],
) -> None:  # fmt: skip
    settings.REDIS_URL = valkey.url
    connect.cache_clear()
    try:
        system.refresh_state()
        reconcile.reconcile()
        market = Market(clock=WALL_CLOCK, token=next_token())
        market.tick("100")
        deal = market.open(new_account(), take_profit="110")
        dead_broker = {"REDIS_URL": valkey.url, "CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}
        loop = start_process("manage.py", "sweep", "--loop", env=dead_broker)
        loop.wait_for("sweeping every 2 s")
        valkey.process.signal(signal.SIGSTOP)
        loop.wait_for("without prices nothing can be found")
        valkey.process.signal(signal.SIGCONT)
        market.hold()
        market.tick("111")
        wait_until(lambda: Deal.objects.get(pk=deal.pk).status == Status.CLOSED, 20, what="the loop closes it")
        loop.wait_for(r"closed 1 \(had fired 1")
        assert loop.stop() == 0
        assert loop.output.count("without prices nothing can be found") == 1
        assert loop.output.rstrip().endswith("ended")
        market.close()
    finally:
        valkey.process.signal(signal.SIGCONT)
        connect().close()
        connect.cache_clear()
