"""The redis source on a real Valkey: what another service publishes, outages, and what it must not take."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable

import redis.asyncio
from fakes import take, until
from servers import Valkey
from structlog.testing import capture_logs

from workers.sources.base import Tick
from workers.sources.redis_pubsub import RedisPubSubSource, RedisTiming

FAST = RedisTiming(ping_after_s=0.1, lost_after_s=0.5, backoff_base_s=0.02, backoff_cap_s=0.1)


def a_source(url: str, *symbols: str, key_prefix: str = "") -> RedisPubSubSource:
    return RedisPubSubSource(url, symbols, key_prefix=key_prefix, timing=FAST, rng=random.Random(1))


async def publish(client: redis.asyncio.Redis, channel: str, payload: str | bytes) -> None:
    """Publish once somebody listens: Redis keeps nothing for those who come later."""
    async with asyncio.timeout(10):
        while await client.publish(channel, payload) == 0:  # noqa: ASYNC110 - subscribers set no event
            await asyncio.sleep(0.01)


def update(price: str, at_ms: int = 1_700_000_000_000, symbol: str = "BTCUSDT") -> str:
    return json.dumps({"symbol": symbol, "price": price, "timestamp": at_ms})


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_published_prices_arrive_in_order_and_other_channels_do_not(valkey: Valkey) -> None:
    async def scenario() -> None:
        source = a_source(valkey.url, "BTCUSDT", "ETHUSDT", key_prefix="feed:")
        async with contextlib.aclosing(source.ticks()) as ticks, redis.asyncio.from_url(valkey.url) as client:
            reading = asyncio.create_task(take(ticks, 3))
            await publish(client, "feed:price_update:BTCUSDT", update("67000.10"))
            assert await client.publish("price_update:BTCUSDT", update("1")) == 0
            assert await client.publish("feed:price_update:XRPUSDT", update("1", symbol="XRPUSDT")) == 0
            await publish(client, "feed:price_update:ETHUSDT", '{"symbol":"ETHUSDT","price":3480.50,"timestamp":5}')
            await publish(client, "feed:price_update:BTCUSDT", update("67000.10"))
            received = await reading
        assert received == [
            Tick("BTCUSDT", "67000.10", 1_700_000_000_000),
            Tick("ETHUSDT", "3480.50", 5),
            Tick("BTCUSDT", "67000.10", 1_700_000_000_000),
        ]
        assert source.heartbeat.last_s is not None

    run(scenario)


def test_malformed_messages_are_counted_and_dropped(valkey: Valkey) -> None:
    async def scenario() -> None:
        source = a_source(valkey.url, "BTCUSDT")
        async with contextlib.aclosing(source.ticks()) as ticks, redis.asyncio.from_url(valkey.url) as client:
            reading = asyncio.create_task(take(ticks, 1))
            for payload in (b"\xff\x00", "", "{", "[]", update("1", symbol="ETHUSDT")):
                await publish(client, "price_update:BTCUSDT", payload)
            await publish(client, "price_update:BTCUSDT", update("2.5"))
            assert [tick.price for tick in await reading] == ["2.5"]
        assert source.garbage.total == 5

    run(scenario)


def test_after_a_server_restart_it_listens_again(valkey: Valkey) -> None:
    async def scenario() -> None:
        source = a_source(valkey.url, "BTCUSDT")
        with capture_logs() as logs:
            async with contextlib.aclosing(source.ticks()) as ticks:
                for price in ("1.0", "2.0"):
                    reading = asyncio.create_task(take(ticks, 1, timeout_s=20))
                    if price == "2.0":
                        valkey.kill()
                        await until(lambda: source.heartbeat.trouble)
                        await asyncio.to_thread(valkey.start)
                    async with redis.asyncio.from_url(valkey.url) as client:
                        await publish(client, "price_update:BTCUSDT", update(price))
                    assert [tick.price for tick in await reading] == [price]
        assert source.heartbeat.trouble is None
        events = [entry["event"] for entry in logs]
        assert events[0] == events[-1] == "feed.connected"
        assert "feed.disconnected" in events

    run(scenario)


def test_a_publisher_that_is_silent_is_not_a_lost_connection(valkey: Valkey) -> None:
    async def scenario() -> None:
        source = a_source(valkey.url, "BTCUSDT")
        with capture_logs() as logs:
            async with (
                contextlib.aclosing(source.ticks()) as ticks,
                redis.asyncio.from_url(valkey.url) as client,
            ):
                reading = asyncio.create_task(take(ticks, 1))
                await asyncio.sleep(3 * FAST.lost_after_s)
                assert source.heartbeat.last_s is None  # Redis is alive, the feed has not spoken
                assert source.heartbeat.trouble is None
                await publish(client, "price_update:BTCUSDT", update("1.0"))
                await reading
        assert [entry["event"] for entry in logs] == ["feed.connected"]

    run(scenario)


def test_a_server_that_hangs_is_noticed() -> None:
    """A connection that is open and answers nothing (a half-open network) counts as lost."""
    connections = 0

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                pass
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            source = a_source(f"redis://127.0.0.1:{port}/0?protocol=2", "BTCUSDT")
            async with contextlib.aclosing(source.ticks()) as ticks:
                reading = asyncio.create_task(take(ticks, 1))
                await until(lambda: connections >= 2)
                assert source.heartbeat.trouble is not None
                reading.cancel()
                await asyncio.wait({reading})

    run(scenario)
