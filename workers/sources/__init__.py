"""Where prices come from. Every source yields `Tick`s; `build_source` makes one from plain arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workers.clock import Clock
from workers.sources.base import Heartbeat, PriceSource, Tick
from workers.sources.errors import SourceError

__all__ = ["SOURCE_NAMES", "Heartbeat", "PriceSource", "SourceError", "Tick", "build_source"]

SOURCE_NAMES = ("binance", "redis", "ccxt", "tape", "simulated")


def build_source(
    name: str,
    symbols: Sequence[str],
    *,
    binance_url: str = "wss://stream.binance.com:9443",
    binance_stream: str = "trade",
    redis_url: str = "",
    redis_key_prefix: str = "",
    ccxt_exchange: str = "binance",
    tape_path: str | Path = "",
    tape_speed: str = "max",
    tape_clock: Clock | None = None,
    seed: int = 1,
    ticks_per_s: float = 5.0,
) -> PriceSource:
    """Make the source called `name`; it uses the arguments and imports the library that are its own.

    ticks_per_s is the simulated market's, a symbol. A tape holds one symbol; with a clock its times are moved to today.
    Raises SourceError, one line.
    """
    if name not in SOURCE_NAMES:
        raise SourceError(f"no price source {name!r}; there are {', '.join(SOURCE_NAMES)}")
    if not symbols:
        raise SourceError("no symbols to watch")
    if name == "binance":
        return _binance(binance_url, symbols, binance_stream)
    if name == "redis":
        from workers.sources.redis_pubsub import RedisPubSubSource

        return RedisPubSubSource(redis_url, symbols, key_prefix=redis_key_prefix)
    if name == "ccxt":
        from workers.sources.ccxt_pro import CcxtSource, open_exchange

        return CcxtSource(open_exchange(ccxt_exchange), symbols)
    if name == "tape":
        return _tape(tape_path, symbols, tape_speed, tape_clock)
    from workers.sources.simulated import SimulatedSource

    return SimulatedSource(symbols, seed=seed, ticks_per_s=ticks_per_s)


def _binance(base_url: str, symbols: Sequence[str], stream: str) -> PriceSource:
    from workers.sources.binance import BinanceSource

    if stream == "trade":
        return BinanceSource(base_url, symbols, kind="trade")
    if stream == "aggTrade":
        return BinanceSource(base_url, symbols, kind="aggTrade")
    raise SourceError(f"Binance stream {stream!r} is neither trade nor aggTrade")


def _tape(path: str | Path, symbols: Sequence[str], speed: str, clock: Clock | None) -> PriceSource:
    from workers.sources.tape import TapeSource, parse_speed

    if len(symbols) != 1:
        raise SourceError(f"a tape holds the trades of one symbol, not of {len(symbols)}")
    if not str(path):
        raise SourceError("no tape is given: set TAPE_FILE")
    return TapeSource(path, symbols[0], parse_speed(speed), clock=clock)
