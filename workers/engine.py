"""The prices process: from a tick to fired deals in the queue. One asyncio loop; what may block runs off it.

pump: source → board (memory) → backlog        write: backlog → Lua script (Redis) → fired (workers/book_writer.py)
send: fired → Celery                           lease: who drives which symbol
While Redis or the broker does not answer, workers/degraded.py closes what is due in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from typing import Final

import structlog
from django.conf import settings
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from deals.crash_points import crash_point
from deals.queries import newest_watch
from workers import drivers, keys, system
from workers.backlog import Backlog
from workers.book import Fired
from workers.book_writer import BookWriter
from workers.cancellation import end
from workers.candles import Candles
from workers.clock import WALL_CLOCK, Clock, to_ms
from workers.degraded import Degraded
from workers.dispatch import reach_broker, send_closures
from workers.heartbeats import EVERY_S, Facts, Sign
from workers.memory import KEEP_MS, Memory
from workers.off_loop import in_thread
from workers.outage import Outage
from workers.prices import Price, PriceBoard
from workers.recovery import Recovery
from workers.redis_client import HOLD_LEASES, RELEASE_LEASES
from workers.redis_link import Forgotten, RedisLink
from workers.retry import DATABASE_ERRORS
from workers.sources.base import PriceSource

log = structlog.get_logger(__name__)

LEASE_MS: Final = 3_000
LEASE_RENEWAL_S: Final = 1.0
REACH_S: Final = 2.0
RECORD_S: Final = 2.0
SEND_AT_ONCE: Final = 5_000
SEND_LIMIT_S: Final = 1.5
"""How long sending so many may take before the broker counts as away."""
REPORT_S: Final = 10.0
TOKEN_RESERVE: Final = 1_000_000


def _say_late(sending: asyncio.Future[None]) -> None:
    """What became of messages that took too long: they count as not sent, and are closed here."""
    if not sending.cancelled() and (error := sending.exception()) is not None:
        log.warning("prices.sending_failed", error=str(error))


class PriceEngine:
    """Drives its symbols while it holds their leases; stays warm beside another one that does.

    Ticks update its own memory first. Redis or broker trouble never stops the tick loop: ticks wait in order, and what
    is due is closed in this process meanwhile.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        *,
        token: int,
        clock: Clock = WALL_CLOCK,
        publish: bool = True,
        send: Callable[[Sequence[Fired]], None] = send_closures,
        reach: Callable[[], None] = reach_broker,
    ) -> None:
        self.symbols = list(symbols)
        self.board = PriceBoard(self.symbols, token=token, clock=clock)
        self.held: set[str] = set()
        self.owner = secrets.token_hex(8)
        self.token = token
        self.clock = clock
        self.flushing = asyncio.Lock()
        self.backlog = Backlog()
        self.memory = Memory()
        self.outage = Outage()
        self.publish = publish
        self._send = send
        self._reach = reach
        self.link = RedisLink()
        self._fired: list[Fired] = []
        self._fired_wake = asyncio.Event()
        self._sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="send")
        self._reported: Counter[str] = Counter()
        self._sign = Sign("prices", self.owner)
        self._source = ""
        self._gaps: dict[str, dict[str, int]] = {}
        self._stopping = asyncio.Event()
        self.is_recorded = False
        self._recorded_s = 0.0
        self.writer = BookWriter(self)
        self.recovery = Recovery(self)
        self.degraded = Degraded(self)
        self.candles = Candles(self)
        self._newest_token = token

    def stop(self) -> None:
        """Let `run` end in order. Rather than cancelling it: a cancellation may get lost on the way (see `end`)."""
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called, or `run` ends for another reason."""
        return self._stopping.is_set()

    async def run(self, source: PriceSource) -> None:
        """Read the source until it ends or `stop` is called; then flush, send and give the leases up."""
        log.info("prices.started", source=source.name, symbols=len(self.symbols), owner=self.owner, token=self.token)
        self._source = source.name
        try:
            await self.hold_leases()
            await in_thread(system.refresh_state)
        except (RedisError, *DATABASE_ERRORS) as error:  # its loops try again
            log.warning("prices.started_in_trouble", error=str(error))
            if isinstance(error, RedisError):  # at once, so that no price is taken for one that another process writes
                self.outage.redis_failed(error, tries=1)
        work = (self.writer.run, self._send_loop, self._lease_loop, self._report_loop, self._sign_loop)
        beside = (self._reach_loop, self.degraded.run, self.candles.run)
        loops = [asyncio.create_task(loop()) for loop in (*work, *beside)]
        pump = asyncio.create_task(self._pump(source))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([pump, *loops, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._stopping.set()  # a loop that lost its cancellation ends too
            await end(pump, *loops, stopping)
            await self.candles.save()
            await self.recovery.end()
            await self.close()

    async def close(self) -> None:
        """Write what is pending, send what fired, give up the leases. Trouble is logged: the sweep is the promise."""
        if self.degraded.at_work:
            await self.degraded.round()
        for step in (self.writer.flush, self.send_fired, self._report, self._release, self._end_sign):
            try:
                await step()
            except (RedisError, BrokerError, *DATABASE_ERRORS, TimeoutError) as error:
                log.warning("prices.closing_trouble", step=step.__name__, error=str(error))
        await self.link.client.aclose()
        self._sender.shutdown()
        log.info("prices.stopped", owner=self.owner)

    async def _release(self) -> None:
        if self.is_recorded:
            await in_thread(lambda: drivers.release(self.owner))
        await RELEASE_LEASES.run_async(self.link.client, [keys.lease(symbol) for symbol in self.symbols], [self.owner])

    async def _pump(self, source: PriceSource) -> None:
        async with contextlib.aclosing(source.ticks()) as ticks:
            async for tick in ticks:
                before = self.board.last.get(tick.symbol)
                price = self.board.accept(tick)
                if price is not None:
                    self._note_gap(before, price)
                    self.enqueue(price)

    def _note_gap(self, before: Price | None, price: Price) -> None:
        """Report a time without prices that made the last one stale. After more than 60 s the buckets hold none of what
        came before."""
        gap_ms = 0 if before is None else price.received_ms - before.received_ms
        if gap_ms >= settings.PRICE_STALE_AFTER_S * 1000:
            log.warning("feed.gap", symbol=price.symbol, gap_ms=gap_ms, beyond_buckets=gap_ms > KEEP_MS)
            self._gaps[price.symbol] = {"ms": gap_ms, "endedAt": price.received_ms}

    def enqueue(self, price: Price) -> None:
        """Queue an accepted price for the book. While Redis is away the oldest beyond 200,000 are dropped and
        counted."""
        self.candles.fold(price)
        if self.backlog.add(price, at_once=self.writer.reaches_trigger(price)):
            self.board.dropped["backlog"] += 1

    def take(self, fired: Sequence[Fired]) -> None:
        """Remember what has fired until it is settled, and have it sent."""
        self.memory.hold(fired)
        self.queue_fired(fired)

    def queue_fired(self, fired: Sequence[Fired]) -> None:
        """Have these sent to the workers."""
        if fired:
            self._fired += fired
            self._fired_wake.set()

    async def send_fired(self) -> None:
        """Hand everything that has fired to Celery. Raises kombu's OperationalError, TimeoutError when it takes long:
        what fired may be sent all the same.
        """
        while self._fired:
            # By number, as batches are made: what one of them touches lies together.
            waiting = sorted(self._fired, key=attrgetter("deal_id"))
            fired, self._fired = waiting[:SEND_AT_ONCE], waiting[SEND_AT_ONCE:]
            crash_point("fire.before_sending")
            sending = asyncio.get_running_loop().run_in_executor(self._sender, self._send, fired)
            done, _ = await asyncio.wait([sending], timeout=SEND_LIMIT_S)
            if not done:
                sending.add_done_callback(_say_late)
                raise TimeoutError(f"sending takes longer than {SEND_LIMIT_S} s")
            sending.result()

    async def hold_leases(self) -> None:
        """Take or renew the leases; a free symbol that wants a newer token gets one. Raises RedisError."""
        held, renewed, fenced = await self._ask_for_leases()
        if fenced or self.board.numbers_left < TOKEN_RESERVE or self._newest_token > self.token:
            await self.writer.flush()
            await self.renew_token()
            held, renewed, _ = await self._ask_for_leases()
        if self.held & held - renewed:  # ran out, or was forgotten: it was ours a second ago
            self.link.forgotten = True
        if held - self.held:
            await self._take_over(held - self.held)
        if held != self.held:
            log.info("prices.leases", held=len(held), of=len(self.symbols), owner=self.owner, token=self.token)
        self.held = held

    async def _ask_for_leases(self) -> tuple[set[str], set[str], set[str]]:
        """The symbols held now, those of them that were held before, and those that want a newer token."""
        pairs = [name for symbol in self.symbols for name in (keys.lease(symbol), keys.price(symbol))]
        answer = await HOLD_LEASES.run_async(self.link.client, pairs, [self.owner, self.token, LEASE_MS])
        held, renewed, fenced = ({self.symbols[number - 1] for number in numbers} for numbers in answer)
        return held, renewed, fenced

    async def renew_token(self) -> None:
        """Number prices under a newer fencing token from now on."""
        self.token = self._newest_token = await in_thread(drivers.next_token)
        self.board.restart(self.token)

    async def _take_over(self, symbols: set[str]) -> None:
        """Queue what was seen beside the process that drove these symbols before, from its last written price on.

        Of a Redis that came back with older data that price may be older than quotes that were given since: nothing
        from before the newest one that a deal was checked against may fire it.
        """
        if not self.backlog.kept(symbols):
            return
        newest = await self._newest_watch(symbols)
        async with self.flushing:
            kept = self.backlog.kept(symbols)
            written: dict[str, tuple[int, int]] = {}
            for symbol in {price.symbol for price in kept}:
                at_ms, trade_id = await self.link.client.hmget(keys.price(symbol), ["at", "trade_id"])
                written[symbol] = (int(at_ms or 0), int(trade_id or 0))
            missed = [
                price
                for price in kept
                if (price.at_ms, price.trade_id or 0) > written[price.symbol]
                and price.at_ms > newest.get(price.symbol, 0)
            ]
            self.backlog.forget_kept(symbols)
            if missed:
                self.backlog.put_first(missed, self.board.renumber)

    async def _newest_watch(self, symbols: set[str]) -> dict[str, int]:
        try:
            return {symbol: to_ms(at) for symbol, at in (await in_thread(lambda: newest_watch(symbols))).items()}
        except DATABASE_ERRORS as error:  # no deal is opened without PostgreSQL
            log.warning("prices.newest_watch_unknown", error=str(error))
            return {}

    async def _send_loop(self) -> None:
        while not self._stopping.is_set():
            await self._fired_wake.wait()
            self._fired_wake.clear()
            if self.outage.broker_away:
                self._fired.clear()  # they are in memory, and in `fired`
                self.degraded.hurry()
                continue
            try:
                await self.send_fired()
            except (BrokerError, TimeoutError) as error:
                self.outage.broker_failed(error)

    async def _lease_loop(self) -> None:
        while not self._stopping.is_set():
            await asyncio.sleep(LEASE_RENEWAL_S)
            try:
                await self.recovery.run()
                await self.hold_leases()
                self.outage.redis_answered()
                await self.recovery.run()  # the leases may show that Redis was emptied
                await self.recovery.see_to_book()
                for symbol in sorted(self.held)[:1]:
                    await self.memory.forget_settled(self.link.client, keys.lease(symbol), self.owner)
                if not self.degraded.at_work and time.monotonic() - self._recorded_s >= RECORD_S:
                    await self.record()
            except (RedisError, *DATABASE_ERRORS) as error:
                self.failed(error)

    async def record(self) -> None:
        """Say in PostgreSQL which symbols this process drives. Raises DATABASE_ERRORS."""
        held = frozenset(self.held)
        self.is_recorded = True
        self._recorded_s = time.monotonic()
        tokens = await in_thread(lambda: drivers.record(held, owner=self.owner, token=self.token))
        self._newest_token = max([self._newest_token, *tokens.values()])

    def failed(self, error: Exception) -> None:
        """Take note of an error of PostgreSQL's or of Redis'."""
        if isinstance(error, DATABASE_ERRORS):
            log.warning("prices.database_away", error=str(error))
        elif not isinstance(error, Forgotten):
            self.outage.redis_failed(error)

    async def _reach_loop(self) -> None:
        """Whether the broker can be reached, even while nothing fires: without it nobody sweeps."""
        while not self._stopping.is_set():
            await asyncio.sleep(REACH_S)
            try:
                await asyncio.to_thread(self._reach)
            except (BrokerError, OSError) as error:
                self.outage.broker_failed(error)
            else:
                self.outage.broker_answers()

    async def _report_loop(self) -> None:
        while not self._stopping.is_set():
            await asyncio.sleep(REPORT_S)
            try:
                await self._report()
            except RedisError as error:
                log.debug("prices.report_failed", error=str(error))

    async def _sign_loop(self) -> None:
        """From the loop that moves the ticks: when it hangs, the sign of life runs out."""
        while not self._stopping.is_set():
            try:
                await self._sign.write_async(self.facts(), self.link.client)
            except RedisError as error:
                log.debug("prices.sign_failed", error=str(error))
            await asyncio.sleep(EVERY_S)

    async def _end_sign(self) -> None:
        await self._sign.erase_async(self.link.client)

    def facts(self) -> Facts:
        """What the sign of life says of this process; `feedAgeMs` is None before the first good tick; `gaps` are
        each symbol's last time without prices."""
        newest = max((price.received_ms for price in self.board.last.values()), default=None)
        return {
            "source": self._source,
            "feedAgeMs": None if newest is None else self.clock.now_ms() - newest,
            "symbols": len(self.symbols),
            "held": sorted(self.held),
            "accepted": self.board.accepted,
            "dropped": dict(self.board.dropped),
            "pending": len(self.backlog),
            "gaps": self._gaps,
        }

    async def _report(self) -> None:
        """Count in Redis, and say, which ticks were dropped since the last report. Raises RedisError."""
        for reason, count in (self.board.dropped - self._reported).items():
            await self.link.client.hincrby(keys.dropped_ticks(), reason, count)
            self._reported[reason] += count
            log.warning("ticks.dropped", reason=reason, ticks=count)
