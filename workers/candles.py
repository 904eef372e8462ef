"""Candles: what each symbol's price did in 15 s and in a minute, for the operators' charts. Nothing depends on them.

The prices process folds every accepted tick into memory (`Candles`), driving the symbol or not, and every 3 s hands
what has changed of the symbols that it drives to a script. So a standby that takes over knows what the dead process had
not written, and an emptied Redis gets the last quarter of an hour back. Readers use `read`, `closes` and `coarser`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog
from redis.exceptions import RedisError

from workers import keys
from workers.prices import Price
from workers.redis_client import READ_CANDLES, WRITE_CANDLES, connect

if TYPE_CHECKING:
    from workers.engine import PriceEngine

log = structlog.get_logger(__name__)

FINE_MS: Final = 15_000
COARSE_MS: Final = 60_000
KEEP_MS: Final = {FINE_MS: 65 * 60_000, COARSE_MS: 25 * 3_600_000}
"""How long candles are kept in Redis, by step: a little longer than anyone asks for."""
IN_MEMORY: Final = 60
"""Fine candles of a symbol that the process remembers: a quarter of an hour."""
WRITE_EVERY_S: Final = 3.0
SYMBOLS_A_CALL: Final = 25
STEPS_A_CALL: Final = 240
"""Scripts stop Redis while they run, and with it the ticks: these are done within about half a millisecond."""


class Candle(NamedTuple):
    """One step of a symbol; a step without a tick has none."""

    at_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal


class _Open:
    """A candle in the making; `is_written` until it changes. Texts as received, and the extremes as numbers."""

    __slots__ = ("at_ms", "close", "end_ms", "first", "high", "highest", "is_written", "low", "lowest")

    def __init__(self, price: Price) -> None:
        self.at_ms = price.at_ms - price.at_ms % FINE_MS
        self.end_ms = self.at_ms + FINE_MS
        self.first = self.high = self.low = self.close = price.price
        self.highest = self.lowest = price.value
        self.is_written = False


class Candles:
    """Belongs to one engine, on its loop."""

    def __init__(self, engine: PriceEngine) -> None:
        self._engine = engine
        self._candles: dict[str, deque[_Open]] = defaultdict(lambda: deque(maxlen=IN_MEMORY))
        self._newest: dict[str, _Open] = {}

    def fold(self, price: Price) -> None:
        """Take a tick in. It runs for every tick: no I/O, and nothing is made but for the first one of a step."""
        candle = self._newest.get(price.symbol)
        if candle is None or price.at_ms >= candle.end_ms:
            candle = self._newest[price.symbol] = _Open(price)
            self._candles[price.symbol].append(candle)
            return
        value = price.value
        if value > candle.highest:
            candle.highest, candle.high = value, price.price
        elif value < candle.lowest:
            candle.lowest, candle.low = value, price.price
        candle.close = price.price
        candle.is_written = False

    async def run(self) -> None:
        """Write every 3 s, for ever. While Redis is away the candles wait."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            if not self._engine.outage.redis_away:
                await self.save()

    async def save(self) -> None:
        """Write now; trouble with Redis is logged only."""
        try:
            await self.write()
        except RedisError as error:
            log.debug("candles.not_written", error=str(error))

    async def write(self) -> None:
        """Write what has changed, oldest first. Raises RedisError: what was not confirmed is written the next time."""
        for _at_ms, step in groupby(self._due(), key=lambda pair: pair[1].at_ms):
            candles = list(step)
            for first in range(0, len(candles), SYMBOLS_A_CALL):
                await self._write(candles[first : first + SYMBOLS_A_CALL])

    async def _write(self, candles: Sequence[tuple[str, _Open]]) -> None:
        """Some symbols' candles of one step."""
        for _symbol, candle in candles:
            candle.is_written = True  # before it is sent: a tick that comes meanwhile makes it due again
        try:
            for step_ms in KEEP_MS:
                await self._send(step_ms, candles)
        except BaseException:
            for _symbol, candle in candles:
                candle.is_written = False
            raise

    def write_again(self) -> None:
        """Redis has forgotten everything: all that is remembered is due."""
        for candles in self._candles.values():
            for candle in candles:
                candle.is_written = False

    def _due(self) -> list[tuple[str, _Open]]:
        """Written ones are never younger than unwritten ones of the same symbol."""
        due = [
            (symbol, candle)
            for symbol in self._engine.held
            for candle in takewhile(lambda candle: not candle.is_written, reversed(self._candles[symbol]))
        ]
        return sorted(due, key=lambda pair: pair[1].at_ms)

    async def _send(self, step_ms: int, candles: Sequence[tuple[str, _Open]]) -> None:
        at_ms = candles[0][1].at_ms
        names = [keys.candles(step_ms, at_ms - at_ms % step_ms), *(keys.lease(symbol) for symbol, _candle in candles)]
        args: list[str | int] = [self._engine.owner, KEEP_MS[step_ms]]
        for symbol, candle in candles:
            args += [symbol, candle.first, candle.high, candle.low, candle.close]
        await WRITE_CANDLES.run_async(self._engine.link.client, names, args)


def read(symbol: str, from_ms: int, until_ms: int, *, step_ms: int) -> list[Candle]:
    """A symbol's candles that begin in [from, until), oldest first. Raises redis.RedisError."""
    starts = _starts(from_ms, until_ms, step_ms)
    names = [keys.candles(step_ms, at_ms) for at_ms in starts]
    texts: list[str | None] = []
    for first in range(0, len(names), STEPS_A_CALL):
        texts += READ_CANDLES.run(connect(), names[first : first + STEPS_A_CALL], [symbol])
    return [Candle(at_ms, *map(Decimal, text.split("|"))) for at_ms, text in zip(starts, texts, strict=True) if text]


def closes(from_ms: int, until_ms: int) -> dict[str, list[tuple[int, str]]]:
    """The closing price of each fine step in [from, until), by symbol, oldest first. Raises redis.RedisError."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    starts = _starts(from_ms, until_ms, FINE_MS)
    client: Any = connect()
    with client.pipeline(transaction=False) as pipe:
        for at_ms in starts:
            pipe.hgetall(keys.candles(FINE_MS, at_ms))
        answers = pipe.execute()
    for at_ms, answer in zip(starts, answers, strict=True):
        for symbol, text in answer.items():
            found[symbol].append((at_ms, text.rpartition("|")[2]))
    return dict(found)


def coarser(candles: Iterable[Candle], step_ms: int) -> Iterator[Candle]:
    """The same in longer steps; a multiple of their own. Pure."""
    for at_ms, group in groupby(candles, key=lambda candle: candle.at_ms - candle.at_ms % step_ms):
        members = list(group)
        yield Candle(
            at_ms,
            members[0].open,
            max(candle.high for candle in members),
            min(candle.low for candle in members),
            members[-1].close,
        )


def _starts(from_ms: int, until_ms: int, step_ms: int) -> range:
    return range(-(-from_ms // step_ms) * step_ms, until_ms, step_ms)
