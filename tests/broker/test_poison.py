"""One deal of 500 that cannot be settled: the others close as fast as ever, and it closes once its cause is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from domain import new_account
from market import Market
from servers import Process, wait_until

from deals.models import Account, Deal, DealEvent, LedgerEntry, Monitoring, Status
from deals.queries import watch_rows
from workers import book, dead_letters
from workers.audit import Actor
from workers.dispatch import send_closures
from workers.models import DeadLetter
from workers.receivers import arm_rows

pytestmark = [pytest.mark.faults, pytest.mark.load]

BATCH = 500
SLACK_S = 2
"""Promised is one second; the machine may have other work."""


def open_many(market: Market, trader: Account, count: int, settings: Any) -> list[Deal]:
    """Deals of one account, armed at once."""
    settings.STATIC_ONLY = True
    deals = [market.open(trader, take_profit="110", amount=Decimal(1)) for _ in range(count)]
    settings.STATIC_ONLY = False
    arm_rows(watch_rows(deal.pk for deal in deals), clock=market.clock)
    return deals


def seconds_until_closed(market: Market, count: int) -> float:
    """Cross the level, hand all over in one batch, and wait until so many are closed in all."""
    fired = market.tick("111", trade_id=7)
    assert len(fired) == BATCH
    began = time.monotonic()
    send_closures(fired)
    wait_until(lambda: Deal.objects.filter(status=Status.CLOSED).count() >= count, 60, f"{count} are closed")
    return time.monotonic() - began


def test_one_poison_deal_of_500_delays_the_others_by_less_than_a_second_and_closes_when_it_is_mended(
    market: Market, celery_worker: Callable[..., Process], settings: Any
) -> None:
    celery_worker()
    healthy, poisoned = new_account(), new_account()
    market.tick("100")
    open_many(market, healthy, BATCH, settings)
    normal_s = seconds_until_closed(market, BATCH)

    market.tick("100")
    Account.objects.filter(pk=poisoned.pk).update(total_volume=Decimal("9" * 22))  # its statistics overflow
    half = BATCH // 2
    open_many(market, healthy, half, settings)
    [poison] = open_many(market, poisoned, 1, settings)
    open_many(market, healthy, BATCH - half - 1, settings)
    poisoned_s = seconds_until_closed(market, 2 * BATCH - 1)
    assert poisoned_s < normal_s + SLACK_S
    assert not DeadLetter.objects.exists(), "the others close before the second attempt"

    wait_until(DeadLetter.objects.exists, 30, "a dead letter after its attempts")
    wait_until(lambda: book.all_fired() == {}, 20, "it has left `fired`")
    letter = DeadLetter.objects.get()
    assert (letter.deal_id, letter.version, letter.price, letter.attempts) == (poison.pk, 1, Decimal(111), 3)
    assert letter.fired_at is not None
    assert "numeric field overflow" in letter.error
    assert DealEvent.objects.filter(deal=poison, kind="attempt").count() == 3
    poison.refresh_from_db()
    assert (poison.status, poison.monitoring) == (Status.OPEN, Monitoring.DEAD)

    Account.objects.filter(pk=poisoned.pk).update(total_volume=0)
    market.tick("90")
    dead_letters.requeue(letter.pk, Actor("boss", ""), "mended")
    wait_until(lambda: not Deal.objects.filter(status=Status.OPEN).exists(), 30, "it closes")
    wait_until(lambda: DeadLetter.objects.get().state == "resolved", 20, "its letter is resolved")
    poison.refresh_from_db()
    assert (poison.close_price, poison.close_trade_id, poison.close_reason) == (Decimal(111), 7, "take_profit")
    assert LedgerEntry.objects.filter(kind="close").count() == 2 * BATCH
