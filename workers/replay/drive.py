"""Drives a replay inside its scratch database: feeds the tape, opens deals on the way, reads the result."""

from __future__ import annotations

import asyncio
import sys
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
from workers import book, keys, queues, sweep, system
from workers.book_writer import FLUSH_LIMIT
from workers.clock import TapeClock
from workers.dispatch import send_closures
from workers.drivers import next_token
from workers.engine import PriceEngine
from workers.models import DeadLetter
from workers.prices import RedisQuoteBoard
from workers.redis_client import connect
from workers.replay.errors import ReplayError
from workers.replay.plan import PlannedDeal, Tape
from workers.sources.base import Tick
from workers.sources.tape import TapeSource

T = TypeVar("T")

STALL_S: Final = 5.0
GIVE_UP_S: Final = 120.0
ACCOUNTS: Final = 50
FUNDS_LIMIT: Final = Decimal(10**11)
"""What one account may come to hold at most, if that is more than one deal: a tenth of what money fields hold."""
REDRAW_S: Final = 10.0
"""How often the progress bar is drawn where it goes to a file."""
OPEN_AT_THE_END: Final = {Monitoring.NONE, Monitoring.ARMED, Monitoring.EXPIRED}


class Result(NamedTuple):
    """What a replay did: the deals in the plan's order, the time it took, how often lost messages were sent again."""

    deals: list[Deal]
    seconds: float
    resent: int


class Replay:
    """One run. Everything it opens and closes lies in the scratch database that the settings name."""

    def __init__(self, tape: Tape, plan: list[PlannedDeal], symbol: str, source: TapeSource, *, paced: bool) -> None:
        self._tape = tape
        self._symbol = symbol
        self._source = source
        self._batch = 1 if paced else FLUSH_LIMIT
        self._clock = TapeClock()
        self._quotes = RedisQuoteBoard(self._clock)
        self._openings: dict[int, list[PlannedDeal]] = defaultdict(list)
        for planned in plan:
            self._openings[planned.trade.trade_id].append(planned)
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
        self._users = _fund_accounts(self._plan, self._tape)
        asyncio.run(self._feed())
        self._domain.submit(connections.close_all).result()
        self._domain.shutdown()
        self._wait_until_settled()
        found = sweep.sweep(clock=self._clock).found_ids
        if found:
            raise ReplayError(f"the sweep found {len(found)} deals that no tick had fired: {found[:10]}")
        self._wait_until_settled()
        return Result(self._read_deals(), time.monotonic() - started, self._resent)

    async def _feed(self) -> None:
        token = await self._in_domain(next_token)
        engine = PriceEngine([self._symbol], token=token, clock=self._clock, publish=False)
        await engine.hold_leases()
        redraw_s = 0.1 if sys.stderr.isatty() else REDRAW_S
        bar = tqdm(total=self._tape.trades, unit=" trades", desc="replay", dynamic_ncols=True, mininterval=redraw_s)
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
        openings = [] if tick.trade_id is None else self._openings.get(tick.trade_id, [])
        if openings or len(engine.backlog) >= self._batch:
            await self._flush(engine)
        if openings:
            await self._in_domain(lambda: self._open(openings))

    async def _flush(self, engine: PriceEngine) -> None:
        await engine.writer.flush()
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
        for row, _trade in openings:
            quote = self._quotes.quote(self._symbol)
            take_profit, stop_loss = row.levels
            deal = services.open_deal(
                user_id=self._users[row.ref], symbol=self._symbol, direction=row.direction, amount=row.amount,
                multiplier=row.multiplier, quote=quote, take_profit=take_profit, stop_loss=stop_loss, now=quote.at,
            )  # fmt: skip
            ids.append(deal.pk)
            self._ids[row.ref] = deal.pk
        waiting = Deal.objects.filter(pk__in=ids, monitoring=Monitoring.PENDING).count()
        if waiting:
            raise ReplayError(f"{waiting} deals were not armed before the next trade")
        if self._next_expiry_ms is None:
            self._next_expiry_ms = self._clock.now_ms() + settings.MAX_MONITORING_H * 3_600_000

    def _expire_now(self) -> int | None:
        self._wait_until_settled()  # what has fired keeps its place among the expiring until it is closed
        while sweep.end_expired(clock=self._clock):
            pass  # one call ends a limited number
        nearest = Deal.objects.filter(monitoring=Monitoring.ARMED).aggregate(at=Min("watch_expires_at"))["at"]
        return None if nearest is None else round(nearest.timestamp() * 1000)

    def _read_deals(self) -> list[Deal]:
        deals = Deal.objects.in_bulk(self._ids.values())
        for row, _trade in self._plan:
            deal = deals[self._ids[row.ref]]
            if deal.close_reason is None and deal.monitoring not in OPEN_AT_THE_END:
                letter = DeadLetter.objects.filter(deal=deal).first()
                why = "" if letter is None else f": {letter.error.splitlines()[0]}"
                raise ReplayError(f"deal {row.ref} of line {row.line} is {deal.monitoring}{why}")
        return [deals[self._ids[row.ref]] for row, _trade in self._plan]

    def _wait_until_settled(self) -> None:
        """Wait until `fired` is empty. What stands still with nothing queued is sent again: its message is lost."""
        client = connect()
        left, moved_at = -1, time.monotonic()
        sent_at = moved_at
        while waiting := int(client.hlen(keys.fired())):
            now = time.monotonic()
            if waiting != left:
                left, moved_at, sent_at = waiting, now, now
            elif now - moved_at > GIVE_UP_S:
                raise ReplayError(f"{waiting} deals have fired and are not settled")
            elif now - sent_at > STALL_S and not queues.depth("closures"):
                send_closures(list(book.all_fired().values()))
                self._resent += 1
                sent_at = now
            time.sleep(0.02)


def _fund_accounts(plan: list[PlannedDeal], tape: Tape) -> dict[str, int]:
    """Users for the deals; returns user ids by ref.

    Some fifty are shared, as the deals of one account are settled under one lock; more where the money that an account
    could come to hold, if every deal won the most that the tape allows, would not fit its fields.
    """
    owners: dict[tuple[int, int], list[PlannedDeal]] = defaultdict(list)
    latest = [0] * ACCOUNTS
    funds = [Decimal(0)] * ACCOUNTS
    for number, planned in enumerate(plan):
        share = number % ACCOUNTS
        most = planned.row.amount * (1 + planned.row.multiplier * max(Decimal(1), tape.high / tape.low))
        if funds[share] and funds[share] + most > FUNDS_LIMIT:
            latest[share] += 1
            funds[share] = Decimal(0)
        funds[share] += most
        owners[share, latest[share]].append(planned)
    names = [f"trader-{share}-{number}" for share, number in owners]
    users = get_user_model().objects.bulk_create([get_user_model()(username=name) for name in names])
    by_ref = {}
    for user, deals in zip(users, owners.values(), strict=True):
        services.create_account(user.pk, balance=sum((row.amount for row, _trade in deals), Decimal(0)))
        by_ref.update({row.ref: user.pk for row, _trade in deals})
    return by_ref
