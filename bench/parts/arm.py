"""arm: the book rebuilt from PostgreSQL, and deals opened one after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from django.contrib.auth import get_user_model

from bench.errors import Trouble
from bench.figures import Figure
from bench.parts.memory import used_bytes
from bench.stage import Stage
from deals import quotes, services
from deals.models import Deal, Monitoring
from workers import book, keys
from workers.reconcile import rebuild

AMOUNT = Decimal(10)
WARM_UP: Final = 100
"""Calls before those that count."""


def run(stage: Stage) -> None:
    """Seconds of a rebuild into an empty book; calls of open_deal a second, quote and arming included, one thread."""
    world = stage.world
    world.share()
    with stage.scene():
        _rebuild(stage)
        prices = stage.programs.start_prices(world.symbols)
        prices.ask("pace", per_s=stage.options.rate)
        time.sleep(1)
        _open(stage, stage.options.calls)


def _rebuild(stage: Stage) -> None:
    world = stage.world
    for symbol in world.symbols:
        world.redis.unlink(keys.upper(symbol), keys.lower(symbol), keys.versions(symbol))
    before = used_bytes(stage)
    stage.say(f"arm: rebuilding the book of {world.open:,} deals")
    with stage.measured("arm rebuild") as usage:
        rebuild()
    armed = sum(book.armed_count(world.symbols).values())
    if armed != world.open:
        raise Trouble(f"the book holds {armed} deals, not {world.open}")
    each = (used_bytes(stage) - before) / armed
    world.rewrite_file()
    stage.figures += [
        Figure("arm", f"rebuild at {armed:,}", usage.seconds, "s", 20, 10, note=usage.text(stage.cores)),
        Figure("arm", "Redis, each armed deal", each, "B", 300, 200),
    ]


def _open(stage: Stage, calls: int) -> None:
    user = get_user_model().objects.create(username="bench-opener")
    services.create_account(user.pk, balance=AMOUNT * (calls + WARM_UP))
    _open_many(user, WARM_UP, stage.world.symbols)
    stage.say(f"arm: opening {calls:,} deals")
    with stage.measured("arm open_deal") as usage:
        ids = _open_many(user, calls, stage.world.symbols)
    pending = Deal.objects.filter(pk__in=ids).exclude(monitoring=Monitoring.ARMED).count()
    if pending:
        raise Trouble(f"{pending} deals were opened and not armed")
    stage.world.open += calls + WARM_UP
    stage.figures.append(
        Figure(
            "arm",
            "open_deal, one thread",
            calls / usage.seconds,
            "calls/s",
            300,
            600,
            more_is_better=True,
            note=usage.text(stage.cores),
        )
    )


def _open_many(user: Any, calls: int, symbols: Sequence[str]) -> list[int]:
    return [_open_one(user, symbols[call % len(symbols)]) for call in range(calls)]


def _open_one(user: Any, symbol: str) -> int:
    deal = services.open_deal(
        user_id=user.pk,
        symbol=symbol,
        direction="up",
        amount=AMOUNT,
        multiplier=10,
        quote=quotes.board().quote(symbol),
        take_profit=Decimal(130),
        stop_loss=Decimal(70),
    )
    return int(deal.pk)
