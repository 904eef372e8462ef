"""The Binance source against a WebSocket server on this machine that replays streams and misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from fakes import (
    SHUTDOWN_MESSAGE,
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
from workers.sources.binance_link import BinanceTiming

FAST = BinanceTiming(
    open_timeout_s=1.0,
    close_timeout_s=0.2,
    silence_s=5.0,
    subscribe_pace_s=0.02,
    answer_timeout_s=0.2,
    backoff_base_s=0.02,
    backoff_cap_s=0.1,
)


def a_source(exchange: FakeExchange, timing: BinanceTiming = FAST, **options: Any) -> BinanceSource:
    symbols = options.pop("symbols", ["BTCUSDT"])
    return BinanceSource(exchange.url, symbols, timing=timing, rng=random.Random(1), **options)


@contextlib.asynccontextmanager
async def ticks_of(source: BinanceSource) -> AsyncIterator[AsyncIterator[Tick]]:
    async with contextlib.aclosing(source.ticks()) as ticks:
        yield ticks


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


def prices(ticks: list[Tick]) -> list[str]:
    return [tick.price for tick in ticks]


def trades(*numbers: int) -> list[str]:
    return [trade_message(number, f"{number}.50", 1_700_000_000_000 + number) for number in numbers]


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
        assert [entry["total"] for entry in logs if entry["event"] == "feed.garbage"] == [
            1
        ]  # said once, not 13 times

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


# --- connections that end -----------------------------------------------------------------------------------


async def dropped(connection: FakeConnection) -> None:
    connection.drop()


async def half_frame(connection: FakeConnection) -> None:
    await connection.send_half_frame()


async def going_away(connection: FakeConnection) -> None:
    await connection.close(1001, "going away")


async def policy(connection: FakeConnection) -> None:
    await connection.close(1008, "too many requests")


async def too_large(connection: FakeConnection) -> None:
    await connection.send("x" * 300_000)
    await connection.until_closed()


@pytest.mark.parametrize("ending", [dropped, half_frame, going_away, policy, too_large])
def test_after_any_end_it_connects_again_with_the_same_streams(ending: Any) -> None:
    async def first(connection: FakeConnection) -> None:
        await connection.send(*trades(1))
        await ending(connection)

    async def scenario() -> None:
        async with FakeExchange(first, sending(*trades(2))) as exchange:
            source = a_source(exchange)
            with capture_logs() as logs:
                async with ticks_of(source) as ticks:
                    received = await take(ticks, 2)
            assert len(exchange.connections) == 2
            assert exchange.connections[0].path == exchange.connections[1].path
        assert [tick.trade_id for tick in received] == [1, 2]
        assert source.garbage.total == 0
        assert source.heartbeat.trouble is None  # it spoke again
        assert [e["event"] for e in logs] == ["feed.connected", "feed.disconnected", "feed.connected"]

    run(scenario)


def test_while_the_exchange_refuses_it_says_why_and_keeps_trying() -> None:
    async def scenario() -> None:
        async with FakeExchange(sending(*trades(1)), refuse_handshakes=4) as exchange:
            source = a_source(exchange)
            with capture_logs() as logs:
                async with ticks_of(source) as ticks:
                    waiting = asyncio.create_task(take(ticks, 1))
                    await until(lambda: exchange.handshakes >= 2)
                    assert source.heartbeat.trouble is not None
                    assert "503" in source.heartbeat.trouble
                    assert source.heartbeat.last_s is None
                    assert prices(await waiting) == ["1.50"]
        assert exchange.handshakes == 5
        assert [e["attempt"] for e in logs if e["event"] == "feed.unreachable"] == [1, 2, 3, 4]
        assert source.heartbeat.trouble is None

    run(scenario)


def test_it_connects_when_the_exchange_comes_up_later() -> None:
    async def scenario() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        source = BinanceSource(f"ws://127.0.0.1:{port}", ["BTCUSDT"], timing=FAST)
        async with ticks_of(source) as ticks:
            waiting = asyncio.create_task(take(ticks, 1))
            await until(lambda: source.heartbeat.trouble)
            async with FakeExchange(sending(*trades(1)), port=port):
                assert prices(await waiting) == ["1.50"]

    run(scenario)


def test_it_stays_away_as_long_as_the_exchange_asks() -> None:
    async def scenario() -> None:
        refusing = FakeExchange(
            sending(*trades(1)),
            refuse_handshakes=1,
            status=http.HTTPStatus.TOO_MANY_REQUESTS,
            retry_after_s=1,
        )
        async with refusing as exchange, ticks_of(a_source(exchange)) as ticks:
            started = asyncio.get_running_loop().time()
            await take(ticks, 1)
            assert asyncio.get_running_loop().time() - started >= 1.0
        assert exchange.handshakes == 2

    run(scenario)


def test_an_exchange_that_accepts_and_drops_is_not_stormed() -> None:
    async def scenario() -> None:
        timing = replace(FAST, backoff_base_s=0.05, backoff_cap_s=60.0)
        async with FakeExchange(dropped) as exchange, ticks_of(a_source(exchange, timing)) as ticks:
            with pytest.raises(TimeoutError):
                await take(ticks, 1, timeout_s=2.0)
        assert 3 <= len(exchange.connections) <= 12

    run(scenario)


# --- connections that are replaced --------------------------------------------------------------------------


def test_silence_opens_a_new_connection_and_is_reported() -> None:
    async def scenario() -> None:
        async with FakeExchange(sending(*trades(1)), sending(*trades(2))) as exchange:
            source = a_source(exchange, replace(FAST, silence_s=0.3))
            with capture_logs() as logs:
                async with ticks_of(source) as ticks:
                    await take(ticks, 1)
                    waiting = asyncio.create_task(take(ticks, 1))
                    await until(lambda: source.heartbeat.trouble)
                    assert source.heartbeat.trouble == "silent for 0.3 s"
                    assert prices(await waiting) == ["2.50"]
                assert await exchange.connections[0].until_closed() == 1000
        assert len(exchange.connections) == 2
        names = ["feed.connected", "feed.silent", "feed.retiring", "feed.connected", "feed.replaced"]
        assert [entry["event"] for entry in logs] == names

    run(scenario)


def test_pings_of_the_exchange_are_answered_also_while_no_trade_comes() -> None:
    round_trips: list[float] = []

    async def pinging(connection: FakeConnection) -> None:
        for _ in range(3):
            round_trips.append(await connection.ping())  # noqa: PERF401 - one after the other
        await connection.send(*trades(1))
        await connection.until_closed()

    async def scenario() -> None:
        async with FakeExchange(pinging) as exchange, ticks_of(a_source(exchange)) as ticks:
            await take(ticks, 1)
        assert len(round_trips) == 3
        assert max(round_trips) < 1.0

    run(scenario)


def test_an_exchange_that_answers_no_ping_is_left() -> None:
    async def frozen(connection: FakeConnection) -> None:
        connection._socket.transport.pause_reading()
        await connection.send(*trades(1))
        await asyncio.sleep(1.5)
        connection.drop()

    async def scenario() -> None:
        timing = replace(FAST, ping_interval_s=0.1, ping_timeout_s=0.2)
        frozen_first = FakeExchange(frozen, sending(*trades(2)))
        async with frozen_first as exchange, ticks_of(a_source(exchange, timing)) as ticks:
            received = await take(ticks, 2, timeout_s=1.2)
        assert [tick.trade_id for tick in received] == [1, 2]

    run(scenario)


def test_an_announced_shutdown_and_the_daily_limit_lose_no_trade() -> None:
    """The old connection goes on delivering until the new one is open."""

    async def shutting_down(connection: FakeConnection) -> None:
        await connection.send(*trades(1), SHUTDOWN_MESSAGE)
        number = 1
        while True:
            number += 1
            await connection.send(*trades(number))
            await asyncio.sleep(0.005)

    async def scenario() -> None:
        async with FakeExchange(shutting_down, sending(*trades(1_000_000))) as exchange:
            source = a_source(exchange)
            received: list[Tick] = []
            with capture_logs() as logs:
                async with ticks_of(source) as ticks, asyncio.timeout(5):
                    async for tick in ticks:
                        received.append(tick)
                        if tick.trade_id == 1_000_000:
                            break
            assert len(exchange.connections) == 2
        numbers = [tick.trade_id for tick in received]
        assert numbers[:-1] == list(range(1, len(numbers)))
        events = [entry["event"] for entry in logs]
        assert "feed.disconnected" not in events
        assert events.count("feed.replaced") == 1
        assert source.ignored == 0

    run(scenario)


def test_a_connection_is_replaced_before_it_gets_too_old() -> None:
    async def chatty(connection: FakeConnection) -> None:
        number = 0
        while True:
            number += 1
            await connection.send(*trades(number))
            await asyncio.sleep(0.01)

    async def scenario() -> None:
        async with FakeExchange(chatty) as exchange:
            source = a_source(exchange, replace(FAST, replace_after_s=0.2))
            async with ticks_of(source) as ticks:
                await take(ticks, 60)
                assert len(exchange.connections) >= 2
                await until(lambda: exchange.connections[0]._socket.close_code == 1000)
            assert source.heartbeat.trouble is None

    run(scenario)


def test_the_old_connection_serves_on_while_no_new_one_can_be_opened() -> None:
    async def scenario() -> None:
        async def first(connection: FakeConnection) -> None:
            exchange._refusals_left = 5
            await connection.send(SHUTDOWN_MESSAGE)
            await until(lambda: exchange.handshakes >= 4)
            await connection.send(*trades(1))
            await connection.until_closed()

        async with (
            FakeExchange(first, sending(*trades(2))) as exchange,
            ticks_of(a_source(exchange)) as ticks,
        ):
            received = await take(ticks, 2)
        assert [tick.trade_id for tick in received] == [1, 2]
        assert len(exchange.connections) == 2

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
