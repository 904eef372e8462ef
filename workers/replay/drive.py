"""Drives a replay inside its scratch database: feeds the tape, opens deals on the way, reads the result."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Final, NamedTuple, TypeVar

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import connections
from django.db.models import Min
from tqdm import tqdm

from deals import services
from deals.models import Deal, Monitoring
from workers import book, keys, sweep, system
from workers.clock import TapeClock
from workers.dispatch import send_closures
from workers.engine import FLUSH_LIMIT, PriceEngine, next_token
from workers.prices import RedisQuoteBoard
from workers.redis_client import connect
from workers.replay.plan import PlannedDeal, Tape
from workers.sources.base import Tick
from workers.sources.tape import TapeSource

T = TypeVar("T")

STALL_S: Final = 5.0
GIVE_UP_S: Final = 120.0
ACCOUNTS: Final = 50
LARGE_AMOUNT: Final = Decimal(1_000_000)


class ReplayError(Exception):
    """The replay did not do what it must; the text says what."""


class Result(NamedTuple):
    """What a replay did: the deals by ref, the time it took, and what was sent again because its message was lost."""

    deals: dict[str, Deal]
    seconds: float
    resent: int


class Replay:
    """One run. Everything it opens and closes lies in the scratch database that the settings name."""

    def __init__(self, tape: Tape, plan: list[PlannedDeal], symbol: str, source: TapeSource) -> None:
        self._tape = tape
        self._symbol = symbol
        self._source = source
        self._clock = TapeClock()
        self._quotes = RedisQuoteBoard(self._clock)
        self._openings: dict[int, list[PlannedDeal]] = defaultdict(list)
        for deal in plan:
            self._openings[deal.trade.trade_id].append(deal)
        self._plan = plan
        self._ids: dict[str, int] = {}
        self._next_expiry_ms: int | None = None
        self._resent = 0
        self._domain = ThreadPoolExecutor(max_workers=1, thread_name_prefix="domain")

    def run(self) -> Result:
        """Feed the tape to its end, wait until everything that fired is settled, sweep once, read the closures."""
        started = time.monotonic()
        system.refresh_state()
        connect().set(keys.book_epoch(), system.server_run_id())
        self._users = _fund_accounts(self._plan)
        asyncio.run(self._feed())
        self._domain.submit(connections.close_all).result()
        self._domain.shutdown()
        self._wait_until_settled()
        found = sweep.sweep(clock=self._clock).found_ids
        if found:
            raise ReplayError(f"the sweep found {len(found)} deals that no tick had fired: {found[:10]}")
        self._wait_until_settled()
        deals = Deal.objects.in_bulk(self._ids.values())
        return Result({ref: deals[pk] for ref, pk in self._ids.items()}, time.monotonic() - started, self._resent)

    async def _feed(self) -> None:
        token = await self._in_domain(next_token)
        engine = PriceEngine([self._symbol], token=token, clock=self._clock, publish=False)
        await engine.hold_leases()
        bar = tqdm(total=self._tape.trades, unit=" trades", desc="replay", dynamic_ncols=True)
        try:
            async for tick in self._source.ticks():
                bar.update()
                await self._take(engine, tick)
            await self._flush(engine)
        finally:
            bar.close()
            await engine.close()

    async def _take(self, engine: PriceEngine, tick: Tick) -> None:
        self._clock.set(tick.at_ms)
        await self._expire(engine)
        price = engine.board.accept(tick)
        if price is None:
            return
        engine.enqueue(price)
        openings = self._openings.get(tick.trade_id or 0, [])
        if openings or engine.backlog >= FLUSH_LIMIT:
            await self._flush(engine)
        if openings:
            await self._in_domain(lambda: self._open(openings))

    async def _flush(self, engine: PriceEngine) -> None:
        await engine.flush()
        await engine.send_fired()

    async def _in_domain(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._domain, work)

    async def _expire(self, engine: PriceEngine) -> None:
        """End what has run its time by the tape's clock, before the trade that comes after it."""
        if self._next_expiry_ms is not None and self._clock.now_ms() >= self._next_expiry_ms:
            await self._flush(engine)
            self._next_expiry_ms = await self._in_domain(self._expire_now)

    def _open(self, openings: list[PlannedDeal]) -> None:
        """Open deals at the last trade's price and make sure that the book holds them before the next one."""
        ids = []
        for planned in openings:
            quote = self._quotes.quote(self._symbol)
            take_profit, stop_loss = planned.levels
            deal = services.open_deal(
                user_id=self._users[planned.ref], symbol=self._symbol, direction=planned.direction,
                amount=planned.amount, multiplier=planned.multiplier, quote=quote, take_profit=take_profit,
                stop_loss=stop_loss, client_id=planned.ref, now=quote.at,
            )  # fmt: skip
            ids.append(deal.pk)
            self._ids[planned.ref] = deal.pk
        waiting = Deal.objects.filter(pk__in=ids, monitoring=Monitoring.PENDING).count()
        if waiting:
            raise ReplayError(f"{waiting} deals were not armed before the next trade")
        if self._next_expiry_ms is None:
            self._next_expiry_ms = self._clock.now_ms() + settings.MAX_MONITORING_H * 3_600_000

    def _expire_now(self) -> int | None:
        sweep.end_expired(clock=self._clock)
        nearest = Deal.objects.filter(monitoring=Monitoring.ARMED).aggregate(at=Min("watch_expires_at"))["at"]
        return None if nearest is None else round(nearest.timestamp() * 1000)

    def _wait_until_settled(self) -> None:
        """Wait until `fired` is empty; what does not move for a while is sent again, as its message may be lost."""
        client = connect()
        left, moved_at = -1, time.monotonic()
        while waiting := int(client.hlen(keys.fired())):
            now = time.monotonic()
            if waiting != left:
                left, moved_at = waiting, now
            elif now - moved_at > GIVE_UP_S:
                raise ReplayError(f"{waiting} deals have fired and are not settled; see the workers' logs")
            elif now - moved_at > STALL_S * (self._resent + 1):
                send_closures(list(book.all_fired().values()))
                self._resent += 1
            time.sleep(0.02)


def _fund_accounts(plan: list[PlannedDeal]) -> dict[str, int]:
    """Users for the deals: a few shared ones, and one each for very large amounts; returns user ids by ref."""
    owners: dict[str, list[PlannedDeal]] = defaultdict(list)
    for number, deal in enumerate(plan):
        name = f"own-{number}" if deal.amount > LARGE_AMOUNT else f"shared-{number % ACCOUNTS}"
        owners[name].append(deal)
    users = get_user_model().objects.bulk_create([get_user_model()(username=name) for name in owners])
    by_ref = {}
    for user, deals in zip(users, owners.values(), strict=True):
        services.create_account(user.pk, balance=sum((deal.amount for deal in deals), Decimal(0)))
        by_ref.update({deal.ref: user.pk for deal in deals})
    return by_ref
