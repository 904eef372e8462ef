"""The CCXT source on a fake exchange: symbol names, prices as text, errors, and CCXT not being there."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys

import pytest
from fakes import FakeCcxtExchange, take
from structlog.testing import capture_logs

from workers.sources import SourceError, build_source
from workers.sources.base import Tick
from workers.sources.ccxt_pro import CcxtSource

MARKETS = [("BTC", "USDT"), ("1000SHIB", "USDT"), ("ETH", "BTC")]


def a_trade(price: object, at_ms: object = 1_700_000_000_000) -> dict[str, object]:
    return {"symbol": "BTC/USDT", "price": price, "timestamp": at_ms, "id": "abc"}


def read(exchange: FakeCcxtExchange, symbols: list[str], count: int) -> tuple[CcxtSource, list[Tick]]:
    source = CcxtSource(exchange, symbols, backoff_base_s=0.01, backoff_cap_s=0.05, rng=random.Random(1))

    async def scenario() -> list[Tick]:
        async with contextlib.aclosing(source.ticks()) as ticks:
            return await take(ticks, count)

    return source, asyncio.run(scenario())


def test_trades_of_the_spot_markets_arrive_with_our_symbols_and_the_exchange_is_closed() -> None:
    exchange = FakeCcxtExchange(
        MARKETS,
        {
            "BTC/USDT": [[a_trade("67000.10"), a_trade("67000.20")]],
            "1000SHIB/USDT": [[a_trade("0.0100")]],
            "BTC/USDT:USDT": [[a_trade("1")]],
        },
    )
    source, ticks = read(exchange, ["BTCUSDT", "1000SHIBUSDT"], 3)
    assert sorted((tick.symbol, tick.price, tick.trade_id) for tick in ticks) == [
        ("1000SHIBUSDT", "0.0100", None),
        ("BTCUSDT", "67000.10", None),
        ("BTCUSDT", "67000.20", None),
    ]
    assert exchange.closed
    assert source.heartbeat.age_s() is not None


def test_small_numbers_are_written_plainly() -> None:
    prices = [1.2e-05, "0.10000000", 0.00001, "NaN", 67000.1]
    exchange = FakeCcxtExchange(MARKETS, {"BTC/USDT": [[a_trade(price) for price in prices]]})
    _source, ticks = read(exchange, ["BTCUSDT"], 5)
    assert [tick.price for tick in ticks] == ["0.000012", "0.10000000", "0.00001", "NaN", "67000.1"]


def test_after_errors_it_asks_again_and_incomplete_trades_are_counted() -> None:
    exchange = FakeCcxtExchange(
        MARKETS,
        {
            "BTC/USDT": [
                [a_trade("1.0")],
                ConnectionError("reset"),
                [a_trade(None), a_trade("2.0", None), a_trade("3.0")],
            ]
        },
        failing_loads=2,
    )
    with capture_logs() as logs:
        source, ticks = read(exchange, ["BTCUSDT"], 2)
    assert [tick.price for tick in ticks] == ["1.0", "3.0"]
    assert source.garbage.total == 2
    assert exchange.loads == 3
    reasons = [entry["reason"] for entry in logs if entry["event"] == "feed.disconnected"]
    assert reasons == ["ConnectionError: exchange not reachable"] * 2 + ["ConnectionError: reset"]
    assert source.heartbeat.trouble is None


def test_symbols_the_exchange_does_not_list_are_reported_and_none_at_all_is_an_error() -> None:
    exchange = FakeCcxtExchange(MARKETS, {"BTC/USDT": [[a_trade("1.0")]]})
    with capture_logs() as logs:
        read(exchange, ["BTCUSDT", "XYZUSDT"], 1)
    assert [entry["symbols"] for entry in logs if entry["event"] == "feed.symbols_unknown"] == [["XYZUSDT"]]
    exchange = FakeCcxtExchange(MARKETS, {})
    with pytest.raises(SourceError, match="the exchange lists none of XYZUSDT"):
        read(exchange, ["XYZUSDT"], 1)
    assert exchange.closed


def test_without_ccxt_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ccxt", None)  # what Python does when a package is not there
    with pytest.raises(SourceError, match=r"pip install --require-hashes -r requirements-ccxt\.txt"):
        build_source("ccxt", ["BTCUSDT"])
