"""The Binance source against a server on this machine: what arrives, what is subscribed, how it ends."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from binance_scenario import FAST, a_source, prices, run, ticks_of, trades
from fakes import (
    FakeConnection,
    FakeExchange,
    agg_trade_message,
    generated_stream,
    recorded_stream,
    sending,
    take,
    trade_message,
    until,
)
from structlog.testing import capture_logs
from websockets.asyncio.server import serve

from workers.sources.base import Tick
from workers.sources.binance import BinanceSource

# --- what arrives -------------------------------------------------------------------------------------------


def check_replay(messages: list[str]) -> None:
    events = [json.loads(message)["data"] for message in messages]
    wanted = [Tick(e["s"], e["p"], e["T"], e["a"]) for e in events if e["e"] == "aggTrade"]
    assert wanted

    async def scenario() -> None:
        last = agg_trade_message(10**15, "1", 10**12, "LASTUSDT")
        async with FakeExchange(sending(*messages, last)) as exchange:
            source = a_source(exchange, kind="aggTrade")
            async with ticks_of(source) as ticks:
                received = await take(ticks, len(wanted) + 1)
        assert received[:-1] == wanted
        assert received[-1].symbol == "LASTUSDT"
        assert source.garbage.total == 0
        assert source.ignored == len(messages) - len(wanted)
        assert len(exchange.connections) == 1

    run(scenario)


@pytest.mark.tapes
def test_every_trade_of_the_recorded_stream_arrives_in_order_and_nothing_else(tapes_dir: Path) -> None:
    messages = recorded_stream(tapes_dir / "binance-futures-stream-2021-07-22.jsonl")
    assert len(messages) == 1535
    check_replay(messages)


def test_every_trade_of_a_generated_stream_arrives_in_order_and_nothing_else() -> None:
    check_replay(generated_stream(seed=7, count=1500))


def test_it_asks_for_the_combined_streams_of_its_symbols_in_the_address() -> None:
    async def scenario() -> None:
        async with FakeExchange(sending(*trades(1))) as exchange:
            async with ticks_of(a_source(exchange, symbols=["BTCUSDT", "ETHUSDT"])) as ticks:
                await take(ticks, 1)
            [connection] = exchange.connections
        assert connection.path == "/stream?streams=btcusdt@trade/ethusdt@trade"
        assert connection.requests == []

    run(scenario)


def test_repeated_late_and_absurd_trades_are_passed_on_as_received() -> None:
    messages = [
        *trades(5, 5, 4),
        trade_message(6, "NaN", 1),
        trade_message(7, "-0.10", 2),
        trade_message(8, "1E5", 3),
    ]

    async def scenario() -> None:
        async with FakeExchange(sending(*messages)) as exchange, ticks_of(a_source(exchange)) as ticks:
            received = await take(ticks, 6)
        assert [tick.trade_id for tick in received] == [5, 5, 4, 6, 7, 8]
        assert prices(received) == ["5.50", "5.50", "4.50", "NaN", "-0.10", "1E5"]

    run(scenario)


def test_garbage_of_every_kind_is_counted_and_harms_nothing() -> None:
    garbage: list[str | bytes] = [
        "",
        "not json",
        '{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCU',  # half a message
        "null",
        "[]",
        "{}",
        '{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","p":"1.0"}}',  # no id, no time
        '{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","t":"x","p":"1.0","T":1}}',
        '{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","t":1,"p":1.0,"T":1}}',  # a number
        '{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","t":1,"p":"1.0","T":-1}}',
        "[" * 50_000,
        b"\x00\x01\x02\xff",
        b"\xff" * 300,
    ]

    async def scenario() -> None:
        async with FakeExchange(sending(*trades(1), *garbage, *trades(2))) as exchange:
            source = a_source(exchange)
            with capture_logs() as logs:
                async with ticks_of(source) as ticks:
                    received = await take(ticks, 2)
            assert len(exchange.connections) == 1
        assert [tick.trade_id for tick in received] == [1, 2]
        assert source.garbage.total == len(garbage)
        assert [entry["total"] for entry in logs if entry["event"] == "feed.garbage"] == [1]  # said once, not 13 times

    run(scenario)


def test_settlements_that_are_no_market_trades_are_ignored() -> None:
    fund = json.loads(trade_message(2, "0", 1))
    fund["data"]["X"] = "INSURANCE_FUND"
    market = json.loads(trade_message(3, "3.00", 1))
    market["data"]["X"] = "MARKET"

    async def scenario() -> None:
        async with FakeExchange(sending(json.dumps(fund), json.dumps(market))) as exchange:
            source = a_source(exchange)
            async with ticks_of(source) as ticks:
                received = await take(ticks, 1)
        assert prices(received) == ["3.00"]
        assert source.ignored == 1

    run(scenario)


# --- subscriptions ------------------------------------------------------------------------------------------

MANY = [f"COIN{number}USDT" for number in range(10)]


async def last_subscribed(connection: FakeConnection) -> None:
    await connection.until_subscribed(len(MANY))
    await connection.send(trade_message(1, "1.00", 1, MANY[-1]))
    await connection.until_closed()


def test_what_the_address_can_not_carry_is_subscribed_in_paced_chunks_again_after_a_reconnect() -> None:
    async def first(connection: FakeConnection) -> None:
        await connection.until_subscribed(len(MANY))
        await connection.send(*trades(1))
        connection.drop()

    async def scenario() -> None:
        async with FakeExchange(first, last_subscribed) as exchange:
            timing = replace(FAST, subscribe_pace_s=0.1)
            async with ticks_of(a_source(exchange, timing, symbols=MANY, streams_per_request=4)) as ticks:
                await take(ticks, 2)
        for connection in exchange.connections:
            assert connection.streams == [f"coin{number}usdt@trade" for number in range(10)]
            assert [request["method"] for request in connection.requests] == ["SUBSCRIBE", "SUBSCRIBE"]
            assert [len(request["params"]) for request in connection.requests] == [4, 2]
            assert len({request["id"] for request in connection.requests}) == 2
            assert connection.requested_at[1] - connection.requested_at[0] >= 0.09

    run(scenario)


def test_a_refused_subscription_is_reported_and_asked_for_again() -> None:
    async def scenario() -> None:
        async with FakeExchange(last_subscribed, refuse_subscribes=2) as exchange:
            source = a_source(exchange, symbols=MANY, streams_per_request=5)
            with capture_logs() as logs:
                async with ticks_of(source) as ticks:
                    received = await take(ticks, 1)
            [connection] = exchange.connections
        assert received[0].symbol == MANY[-1]
        assert len(connection.requests) == 3
        refused = [entry for entry in logs if entry["event"] == "feed.subscribe_refused"]
        assert [entry["reason"] for entry in refused] == ["2: Invalid request: unknown stream"] * 2
        assert source.garbage.total == 0

    run(scenario)


def test_an_unanswered_subscription_is_asked_for_again() -> None:
    async def scenario() -> None:
        async def deaf(connection: FakeConnection) -> None:
            await until(lambda: len(connection.requests) >= 2)
            await connection.send(*trades(1))
            await connection.until_closed()

        async with FakeExchange(deaf, answers=False) as exchange:
            with capture_logs() as logs:
                async with ticks_of(a_source(exchange, symbols=MANY, streams_per_request=5)) as ticks:
                    await take(ticks, 1)
        reasons = {entry["reason"] for entry in logs if entry["event"] == "feed.subscribe_refused"}
        assert reasons == {"no answer in 0.2 s"}

    run(scenario)


# --- ending, security ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("connected", [True, False])
def test_ending_the_iteration_closes_every_connection_and_task(connected: bool) -> None:
    async def scenario() -> None:
        async with FakeExchange(sending(*trades(1)), refuse_handshakes=0 if connected else 10**6) as exchange:
            source = a_source(exchange)
            before = asyncio.all_tasks()
            reading = asyncio.create_task(drain(source))
            await until(lambda: exchange.connections if connected else exchange.handshakes > 1)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            for connection in exchange.connections:
                assert await connection.until_closed() == 1000
            await until(lambda: not {t for t in asyncio.all_tasks() - before if "BinanceSource" in repr(t)})

    async def drain(source: BinanceSource) -> None:
        async with ticks_of(source) as ticks:
            async for _ in ticks:
                pass

    run(scenario)


def test_a_certificate_nobody_vouches_for_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def scenario() -> None:
        async with serve(lambda _: asyncio.sleep(0), "127.0.0.1", 0, ssl=context) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            source = BinanceSource(f"wss://127.0.0.1:{port}", ["BTCUSDT"], timing=FAST)
            async with ticks_of(source) as ticks:
                with pytest.raises(TimeoutError):
                    await take(ticks, 1, timeout_s=0.5)
            assert source.heartbeat.trouble is not None
            assert "certificate verify failed" in source.heartbeat.trouble

    run(scenario)
