"""The prices process: from a tick to fired deals in the queue. One asyncio loop; what may block runs off it.

pump: source → board (memory) → pending        flush: pending → Lua script (Redis) → fired
send: fired → Celery                           lease: who drives which symbol
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog
from django.db import DatabaseError, connection
from kombu.exceptions import OperationalError as BrokerError
from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from workers import keys, system
from workers.book import Fired, parse_fired
from workers.cancellation import end
from workers.clock import WALL_CLOCK, Clock
from workers.dispatch import send_closures
from workers.heartbeats import EVERY_S, Facts, Sign
from workers.memory import Memory
from workers.prices import Price, PriceBoard
from workers.redis_client import HOLD_LEASES, PROCESS_TICKS, RELEASE_LEASES, connect_async
from workers.sources.base import PriceSource

log = structlog.get_logger(__name__)
T = TypeVar("T")

FLUSH_LIMIT: Final = 200
PENDING_LIMIT: Final = 200_000
SPARE_MS: Final = 10_000
LEASE_MS: Final = 3_000
LEASE_RENEWAL_S: Final = 1.0
RETRY_S: Final = 0.2
REPORT_S: Final = 10.0
TOKEN_RESERVE: Final = 1_000_000


def next_token() -> int:
    """A fencing token: it rises for ever, because PostgreSQL keeps it. Raises django.db.OperationalError."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('price_fencing_token')")
        return int(cursor.fetchone()[0])


async def _in_thread(work: Callable[[], T]) -> T:
    """Run something that needs PostgreSQL off the loop, and leave no connection behind in that thread."""

    def run() -> T:
        try:
            return work()
        finally:
            connection.close()

    return await asyncio.to_thread(run)


def _run_id(info: str) -> str:
    """The server's run id in an answer to INFO."""
    return next(line.removeprefix("run_id:") for line in info.splitlines() if line.startswith("run_id:"))


class PriceEngine:
    """Drives its symbols while it holds their leases; stays warm beside another one that does.

    Ticks update its own memory first. Redis or broker trouble never stops the tick loop: ticks wait in order, and what
    fired waits in Redis' `fired`, from where the sweep re-sends it.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        *,
        token: int,
        clock: Clock = WALL_CLOCK,
        publish: bool = True,
        send: Callable[[Sequence[Fired]], None] = send_closures,
    ) -> None:
        self.symbols = list(symbols)
        self.board = PriceBoard(self.symbols, token=token, clock=clock)
        self.held: set[str] = set()
        self.owner = secrets.token_hex(8)
        self.token = token
        self._clock = clock
        self._publish = publish
        self._send = send
        self._redis: Redis = connect_async(self._refuse_restarted)
        self._run_id: str | None = None
        self._memory = Memory()
        self._pending: deque[Price] = deque()
        self._spare: deque[Price] = deque()
        self._pending_wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._fired: list[Fired] = []
        self._fired_wake = asyncio.Event()
        self._state = ""
        self._restarted = False
        self._sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="send")
        self._reported: Counter[str] = Counter()
        self._sign = Sign("prices", self.owner)
        self._source = ""
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let `run` end in order. Rather than cancelling it: a cancellation may get lost on the way (see `end`)."""
        self._stopping.set()

    async def run(self, source: PriceSource) -> None:
        """Read the source until it ends or `stop` is called; then flush, send and give the leases up."""
        log.info("prices.started", source=source.name, symbols=len(self.symbols), owner=self.owner, token=self.token)
        self._source = source.name
        await self.hold_leases()
        await _in_thread(system.refresh_state)
        work = (self._flush_loop, self._send_loop, self._lease_loop, self._report_loop, self._sign_loop)
        loops = [asyncio.create_task(loop()) for loop in work]
        pump = asyncio.create_task(self._pump(source))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([pump, *loops, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._stopping.set()  # a loop that lost its cancellation ends too
            await end(pump, *loops, stopping)
            await self.close()

    async def close(self) -> None:
        """Write what is pending, send what fired, give up the leases. Trouble is logged: the sweep is the promise."""
        for step in (self.flush, self.send_fired, self._report, self._release, self._end_sign):
            try:
                await step()
            except (RedisError, BrokerError) as error:
                log.warning("prices.closing_trouble", step=step.__name__, error=str(error))
        await self._redis.aclose()
        self._sender.shutdown()
        log.info("prices.stopped", owner=self.owner)

    async def _release(self) -> None:
        await RELEASE_LEASES.run_async(self._redis, [keys.lease(symbol) for symbol in self.symbols], [self.owner])

    @property
    def backlog(self) -> int:
        """How many accepted prices wait for Redis."""
        return len(self._pending)

    async def _pump(self, source: PriceSource) -> None:
        async with contextlib.aclosing(source.ticks()) as ticks:
            async for tick in ticks:
                price = self.board.accept(tick)
                if price is not None:
                    self.enqueue(price)

    def enqueue(self, price: Price) -> None:
        """Queue an accepted price for the book. While Redis is away the oldest beyond 200,000 are dropped and
        counted."""
        if len(self._pending) >= PENDING_LIMIT:
            self._pending.popleft()
            self.board.dropped["backlog"] += 1
        self._pending.append(price)
        self._pending_wake.set()

    async def flush(self) -> None:
        """Run all pending prices through the book, in order. Raises RedisError; what was not confirmed stays
        pending."""
        async with self._flushing:
            while self._pending:
                batch = [self._pending.popleft() for _ in range(min(FLUSH_LIMIT, len(self._pending)))]
                try:
                    fired = await self._process([price for price in batch if price.symbol in self.held])
                except BaseException:
                    self._pending.extendleft(reversed(batch))
                    raise
                self._memory.written((price for price in batch if price.symbol in self.held), fired)
                self._keep(price for price in batch if price.symbol not in self.held)
                self._queue_fired(fired)

    def _queue_fired(self, fired: Sequence[Fired]) -> None:
        if fired:
            self._fired += fired
            self._fired_wake.set()

    def _keep(self, prices: Iterable[Price]) -> None:
        """Keep for a while, for taking over, what another process writes."""
        self._spare.extend(prices)
        while self._spare and self._spare[0].received_ms < self._spare[-1].received_ms - SPARE_MS:
            self._spare.popleft()

    async def _process(self, prices: list[Price]) -> list[Fired]:
        """One call of the tick script. Sent twice it does nothing the second time."""
        if not prices:
            return []
        numbers = {symbol: i for i, symbol in enumerate(dict.fromkeys(price.symbol for price in prices), start=1)}
        names = [keys.state(), keys.fired(), keys.fired_at()]
        args: list[str | int] = [self.token, self.owner, self._clock.now_ms(), int(self._publish), len(numbers)]
        for symbol in numbers:
            names += [keys.price(symbol), keys.window(symbol), keys.upper(symbol), keys.lower(symbol)]
            names += [keys.versions(symbol), keys.lease(symbol)]
            args += [symbol, keys.price_update(symbol)]
        names.append(keys.events())
        for price in prices:
            trade_id = "" if price.trade_id is None else price.trade_id
            args += [numbers[price.symbol], price.price, price.at_ms, trade_id, price.seq, price.received_ms]
        self._state, refused, flat = await PROCESS_TICKS.run_async(self._redis, names, args)
        if refused:
            log.warning("prices.refused", symbols=refused, owner=self.owner)
            self.held.difference_update(refused)
        fired = parse_fired(flat)
        for item in fired[:20]:
            log.info("deal.fired", deal_id=item.deal_id, symbol=item.symbol, price=item.price, deals=len(fired))
        return fired

    async def send_fired(self) -> None:
        """Hand everything that has fired to Celery. Raises kombu's OperationalError."""
        while self._fired:
            fired, self._fired = self._fired, []
            await asyncio.get_running_loop().run_in_executor(self._sender, self._send, fired)

    async def hold_leases(self) -> None:
        """Take or renew the leases; a free symbol that wants a newer token gets one. Raises RedisError."""
        pairs = [name for symbol in self.symbols for name in (keys.lease(symbol), keys.price(symbol))]
        held, fenced = await HOLD_LEASES.run_async(self._redis, pairs, [self.owner, self.token, LEASE_MS])
        if fenced or self.board.numbers_left < TOKEN_RESERVE:
            await self.flush()
            self.token = await _in_thread(next_token)
            self.board.restart(self.token)
            held, _ = await HOLD_LEASES.run_async(self._redis, pairs, [self.owner, self.token, LEASE_MS])
        now_held = {self.symbols[number - 1] for number in held}
        await self._take_over(now_held - self.held)
        if now_held != self.held:
            log.info("prices.leases", held=len(now_held), of=len(self.symbols), owner=self.owner, token=self.token)
        self.held = now_held

    async def _take_over(self, symbols: set[str]) -> None:
        """Queue what was seen beside the process that drove these symbols before, from its last written price on."""
        async with self._flushing:
            kept = [price for price in self._spare if price.symbol in symbols]
            written: dict[str, tuple[int, int]] = {}
            for symbol in {price.symbol for price in kept}:
                at_ms, trade_id = await self._redis.hmget(keys.price(symbol), ["at", "trade_id"])
                written[symbol] = (int(at_ms or 0), int(trade_id or 0))
            missed = [price for price in kept if (price.at_ms, price.trade_id or 0) > written[price.symbol]]
            if missed:
                # They come before what is pending, and numbers must rise in that order.
                self._pending = deque(self.board.renumber(price) for price in (*missed, *self._pending))
                self._pending_wake.set()
            self._spare = deque(price for price in self._spare if price.symbol not in symbols)

    async def _refuse_restarted(self, connection: Connection) -> None:
        """Let no command through to a Redis that was restarted: it must get back what it forgot first."""
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        run_id = _run_id(str(await connection.read_response()))
        self._run_id = self._run_id or run_id
        if run_id != self._run_id:
            self._restarted = True
            raise RedisConnectionError("Redis was restarted")

    async def _recover(self) -> None:
        """After a restart of Redis: give state, prices and fired entries back. The sweep has the book rebuilt.

        Raises RedisError, django.db.DatabaseError.
        """
        async with self._flushing:
            if not self._restarted:
                return
            async with connect_async() as redis:
                run_id = str((await redis.info("server"))["run_id"])
                await _in_thread(system.refresh_state)
                fired = await self._memory.put_back(redis, self.token)
            self._run_id, self._restarted = run_id, False
        log.warning("prices.redis_restarted", run_id=run_id, fired=len(fired))
        self._queue_fired(fired)

    async def _flush_loop(self) -> None:
        while not self._stopping.is_set():
            await self._pending_wake.wait()
            self._pending_wake.clear()
            try:
                await self._recover()
                await self.flush()
            except (RedisError, DatabaseError) as error:
                log.warning("prices.redis_away", pending=len(self._pending), error=str(error))
                await asyncio.sleep(RETRY_S)
                self._pending_wake.set()

    async def _send_loop(self) -> None:
        while not self._stopping.is_set():
            await self._fired_wake.wait()
            self._fired_wake.clear()
            try:
                await self.send_fired()
            except BrokerError as error:
                log.warning("prices.broker_away", error=str(error))

    async def _lease_loop(self) -> None:
        while not self._stopping.is_set():
            await asyncio.sleep(LEASE_RENEWAL_S)
            try:
                await self._recover()
                await self.hold_leases()
                await self._memory.forget_settled(self._redis)
                if not self._state:
                    await _in_thread(system.refresh_state)
            except (RedisError, DatabaseError) as error:
                log.warning("prices.lease_trouble", error=str(error))

    async def _report_loop(self) -> None:
        while not self._stopping.is_set():
            await asyncio.sleep(REPORT_S)
            try:
                await self._report()
            except RedisError as error:
                log.warning("prices.redis_away", error=str(error))

    async def _sign_loop(self) -> None:
        """From the loop that moves the ticks: when it hangs, the sign of life runs out."""
        while not self._stopping.is_set():
            try:
                await self._sign.write_async(self.facts(), self._redis)
            except RedisError as error:
                log.warning("prices.redis_away", error=str(error))
            await asyncio.sleep(EVERY_S)

    async def _end_sign(self) -> None:
        await self._sign.erase_async(self._redis)

    def facts(self) -> Facts:
        """What the sign of life says of this process; `feedAgeMs` is None before the first good tick."""
        newest = max((price.received_ms for price in self.board.last.values()), default=None)
        return {
            "source": self._source,
            "feedAgeMs": None if newest is None else self._clock.now_ms() - newest,
            "symbols": len(self.symbols),
            "held": sorted(self.held),
            "accepted": self.board.accepted,
            "dropped": dict(self.board.dropped),
            "pending": len(self._pending),
        }

    async def _report(self) -> None:
        """Count in Redis, and say, which ticks were dropped since the last report. Raises RedisError."""
        for reason, count in (self.board.dropped - self._reported).items():
            await self._redis.hincrby(keys.dropped_ticks(), reason, count)
            self._reported[reason] += count
            log.warning("ticks.dropped", reason=reason, ticks=count)
