"""Live trades from any exchange that CCXT's WebSocket interface (ccxt.pro) speaks to; an optional extra.

CCXT decodes prices itself; it is told to keep them as text. Only what an exchange sends as JSON numbers has
been a double, exact to the 15 digits that a price may have.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

import structlog

from workers.cancellation import end
from workers.sources import events
from workers.sources.backoff import Backoff
from workers.sources.base import Heartbeat, Tick
from workers.sources.errors import SourceError
from workers.sources.garbage import GarbageCounter

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

INSTALL_COMMAND = "pip install --require-hashes -r requirements-ccxt.txt"
_QUEUED_TRADES = 10_000
_EXPONENT = re.compile(r"[0-9]+(\.[0-9]+)?e-[0-9]{1,2}")  # how Python writes a small double


class CcxtExchange(Protocol):
    """What this source uses of a ccxt.pro exchange."""

    async def load_markets(self) -> Mapping[str, Mapping[str, Any]]:
        """Every market by CCXT's name (`BTC/USDT`)."""
        ...

    async def watch_trades(self, symbol: str) -> Sequence[Mapping[str, Any]]:
        """Wait for new trades of one market; reconnects by itself when called again after an error."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


def open_exchange(exchange_id: str) -> CcxtExchange:
    """Make a ccxt.pro exchange. Raises SourceError when CCXT isn't installed or doesn't know the exchange."""
    try:
        from ccxt import pro
    except ImportError:
        raise SourceError(f"PRICE_SOURCE=ccxt needs the package ccxt: {INSTALL_COMMAND}") from None
    if exchange_id not in pro.exchanges:
        raise SourceError(f"CCXT has no live prices of an exchange {exchange_id!r}")
    exchange = getattr(pro, exchange_id)({"newUpdates": True})
    exchange.number = str  # CCXT's switch for prices as text
    opened: CcxtExchange = exchange
    return opened


def market_names(markets: Mapping[str, Mapping[str, Any]], symbols: Sequence[str]) -> dict[str, str]:
    """CCXT's name of each symbol's spot market (`BTCUSDT` → `BTC/USDT`); unknown symbols are left out."""
    names = {f"{m['base']}{m['quote']}": name for name, m in markets.items() if m.get("spot")}
    return {symbol: names[symbol] for symbol in symbols if symbol in names}


class CcxtSource:
    """The spot trades of `symbols` on one exchange, one waiting task a symbol.

    Ticks have no trade id: not every exchange numbers its trades in rising order.
    Raises SourceError from the iteration when the exchange lists none of the symbols.
    """

    name = "ccxt"

    def __init__(
        self,
        exchange: CcxtExchange,
        symbols: Sequence[str],
        *,
        backoff_base_s: float = 0.5,
        backoff_cap_s: float = 30.0,
        rng: random.Random | None = None,
    ) -> None:
        if not symbols:
            raise SourceError("no symbols to watch")
        self.heartbeat = Heartbeat()
        self.garbage = GarbageCounter(self.name)
        self._exchange = exchange
        self._symbols = symbols
        self._backoff_base_s = backoff_base_s
        self._backoff_cap_s = backoff_cap_s
        self._rng = rng

    async def ticks(self) -> AsyncGenerator[Tick, None]:
        """Yield trades as CCXT hands them over."""
        queue: asyncio.Queue[Tick] = asyncio.Queue(_QUEUED_TRADES)
        watchers: list[asyncio.Task[None]] = []
        try:
            for symbol, market in (await self._markets()).items():
                watchers.append(asyncio.create_task(self._watch(symbol, market, queue)))
            while True:
                yield await queue.get()
        finally:
            await end(*watchers)
            await self._exchange.close()

    async def _markets(self) -> dict[str, str]:
        backoff = self._new_backoff()
        while True:
            await asyncio.sleep(backoff.delay_s())
            try:
                markets = await self._exchange.load_markets()
                break
            except Exception as error:  # noqa: BLE001 - CCXT passes on whatever its exchange classes raise
                self._failed(error, backoff, lived_s=0.0)
        names = market_names(markets, self._symbols)
        unknown = [symbol for symbol in self._symbols if symbol not in names]
        if not names:
            raise SourceError(f"the exchange lists none of {', '.join(unknown)}")
        if unknown:
            log.warning(events.FEED_SYMBOLS_UNKNOWN, feed=self.name, symbols=unknown)
        return names

    async def _watch(self, symbol: str, market: str, queue: asyncio.Queue[Tick]) -> None:
        backoff = self._new_backoff()
        began_s = time.monotonic()
        while True:
            try:
                trades = await self._exchange.watch_trades(market)
            except Exception as error:  # noqa: BLE001 - the same
                self._failed(error, backoff, lived_s=time.monotonic() - began_s)
                await asyncio.sleep(backoff.delay_s())
                began_s = time.monotonic()
                continue
            self.heartbeat.beat()
            for trade in trades:
                tick = _tick(symbol, trade)
                if tick is None:
                    self.garbage.add(repr(trade).encode())
                else:
                    await queue.put(tick)

    def _failed(self, error: Exception, backoff: Backoff, *, lived_s: float) -> None:
        reason = f"{type(error).__name__}: {error}"
        log.warning(events.FEED_DISCONNECTED, feed=self.name, reason=reason)
        self.heartbeat.fail(reason)
        backoff.ended(lived_s)

    def _new_backoff(self) -> Backoff:
        return Backoff(base_s=self._backoff_base_s, cap_s=self._backoff_cap_s, rng=self._rng)


def _tick(symbol: str, trade: Mapping[str, Any]) -> Tick | None:
    price, at_ms = trade.get("price"), trade.get("timestamp")
    if price is None or not isinstance(at_ms, int):
        return None
    text = str(price)
    return Tick(symbol, f"{Decimal(text):f}" if _EXPONENT.fullmatch(text) else text, at_ms)
