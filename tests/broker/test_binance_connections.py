"""Connections of the Binance source that end, are refused, or have to be replaced: no trade is lost."""

from __future__ import annotations

import asyncio
import http
import socket
from dataclasses import replace
from typing import Any

import pytest
from binance_scenario import FAST, a_source, prices, run, ticks_of, trades
from fakes import (
    SHUTDOWN_MESSAGE,
    FakeConnection,
    FakeExchange,
    sending,
    take,
    until,
)
from structlog.testing import capture_logs

from workers.sources.base import Tick
from workers.sources.binance import BinanceSource

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
