"""Pure parts of the live sources: addresses, limits, backoff, published updates, the factory."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.sources import SOURCE_NAMES, SourceError, build_source
from workers.sources.backoff import Backoff
from workers.sources.base import Tick
from workers.sources.binance_protocol import (
    Answer,
    Notice,
    decode,
    stream_names,
    stream_url,
    subscribe_request,
)
from workers.sources.redis_pubsub import decode_update

SPOT = "wss://stream.binance.com:9443"


@pytest.mark.parametrize(
    ("base", "kind", "wanted"),
    [
        (SPOT, "trade", f"{SPOT}/stream?streams=btcusdt@trade"),
        (f"{SPOT}/", "trade", f"{SPOT}/stream?streams=btcusdt@trade"),
        (f"{SPOT}/stream", "trade", f"{SPOT}/stream?streams=btcusdt@trade"),
        (f"{SPOT}/ws", "aggTrade", f"{SPOT}/stream?streams=btcusdt@aggTrade"),
        (
            "wss://fstream.binance.com",
            "aggTrade",
            "wss://fstream.binance.com/market/stream?streams=btcusdt@aggTrade",
        ),
        (
            "wss://fstream.binance.com",
            "trade",
            "wss://fstream.binance.com/public/stream?streams=btcusdt@trade",
        ),
        (
            "wss://fstream.binance.com/other",
            "trade",
            "wss://fstream.binance.com/other/stream?streams=btcusdt@trade",
        ),
        ("ws://127.0.0.1:8765", "trade", "ws://127.0.0.1:8765/stream?streams=btcusdt@trade"),
    ],
)
def test_the_address_names_the_combined_streams_on_the_path_that_serves_them(base: str, kind: str, wanted: str) -> None:
    assert stream_url(base, kind, stream_names(["BTCUSDT"], kind)) == wanted  # type: ignore[arg-type]


def test_symbols_beyond_ascii_are_escaped_and_repeats_asked_for_once() -> None:
    names = stream_names(["币安人生USDT", "BTCUSDT", "BTCUSDT"], "trade")
    assert names == ["币安人生usdt@trade", "btcusdt@trade"]
    assert stream_url(SPOT, "trade", names).isascii()
    assert stream_url(SPOT, "trade", names).endswith("usdt@trade/btcusdt@trade")


@pytest.mark.parametrize("base", ["", "stream.binance.com", "https://x", "wss://", "wss://x:port", "wss://x?a=1"])
def test_a_wrong_address_is_refused(base: str) -> None:
    with pytest.raises(SourceError, match="is not a WebSocket address"):
        stream_url(base, "trade", ["btcusdt@trade"])


def test_more_streams_than_a_connection_carries_are_refused() -> None:
    assert len(stream_names([f"A{n}" for n in range(1024)], "trade")) == 1024
    with pytest.raises(SourceError, match="1025 symbols, but Binance serves at most 1024"):
        stream_names([f"A{n}" for n in range(1025)], "trade")


@pytest.mark.parametrize(
    ("payload", "meaning"),
    [
        (b'{"result":null,"id":1}', Answer(1, None)),
        (b'{"error":{"code":2,"msg":"bad"},"id":1}', Answer(1, "2: bad")),
        (b'{"code":3,"msg":"Invalid JSON"}', Answer(None, "3: Invalid JSON")),
        (b'{"id":1}', Notice.GARBAGE),
        (b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}', Notice.SHUTDOWN),
        (b'{"stream":"a@avgPrice","data":{"e":"avgPrice","s":"A","w":"1"}}', Notice.IGNORED),
        (b'{"stream":"a@bookTicker","data":{"u":1,"s":"A","b":"1"}}', Notice.IGNORED),
        (b'{"stream":"a@trade","data":{"e":"trade","s":"A"}}', Notice.GARBAGE),
        (
            b'{"stream":"a@trade","data":{"e":"trade","s":"A","t":1,"p":"0.10","a":[],"T":9}}',
            Tick("A", "0.10", 9, 1),
        ),
    ],
)
def test_what_a_message_means(payload: bytes, meaning: object) -> None:
    assert decode(payload) == meaning


@given(st.binary(max_size=300))
def test_no_bytes_make_the_decoders_raise(payload: bytes) -> None:
    decode(payload)
    decode_update("BTCUSDT", payload)


def test_a_subscribe_request_is_what_the_server_expects() -> None:
    assert subscribe_request(7, ["a@trade", "b@trade"]) == (
        '{"method":"SUBSCRIBE","params":["a@trade","b@trade"],"id":7}'
    )


# --- backoff ------------------------------------------------------------------------------------------------


class Highest(random.Random):
    """Always draws the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_delays_double_up_to_the_cap_and_begin_again_after_a_healthy_connection() -> None:
    backoff = Backoff(rng=Highest())
    assert backoff.delay_s() == 0
    delays = []
    for _ in range(10):
        backoff.ended(lived_s=59)
        delays.append(backoff.delay_s())
    assert delays == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    backoff.ended(lived_s=60)
    assert backoff.delay_s() == 0.25
    backoff.ended(lived_s=0, at_least_s=120)
    assert backoff.delay_s() == 120


def test_jitter_spreads_over_the_whole_interval_and_the_connection_limit_holds() -> None:
    backoff = Backoff(rng=random.Random(5))
    elapsed_s, attempts, drawn = 0.0, 0, []
    while elapsed_s < 300:
        backoff.ended(lived_s=0)
        drawn.append(backoff.delay_s())
        elapsed_s += drawn[-1]
        attempts += 1
    assert attempts < 100  # Binance allows 300
    assert min(drawn[8:]) < 5
    assert max(drawn) > 25


# --- published updates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "tick"),
    [
        ('{"symbol":"BTCUSDT","price":"67000.10","timestamp":1700000000123}', ("67000.10", 1700000000123)),
        ('{"symbol":"BTCUSDT","price":67000.10,"timestamp":1700000000123}', ("67000.10", 1700000000123)),
        ('{"symbol":"BTCUSDT","price":0.1000000000000000055,"timestamp":1}', ("0.1000000000000000055", 1)),
        ('{"symbol":"btcusdt","price":1e5,"timestamp":1.9}', ("1e5", 1)),
        ('{"symbol":"BTCUSDT","price":-1,"timestamp":"5"}', ("-1", 5)),
        ('{"symbol":"BTCUSDT","price":"NaN","timestamp":5,"volume":9}', ("NaN", 5)),
        (
            '{"symbol":"BTCUSDT","price":"1","timestamp":"2023-11-14T22:13:20.123Z"}',
            ("1", 1700000000123),
        ),
        (
            '{"symbol":"BTCUSDT","price":"1","timestamp":"2023-11-15T00:13:20.123+02:00"}',
            ("1", 1700000000123),
        ),
        ('{"symbol":"BTCUSDT","price":"1","timestamp":"2023-11-14T22:13:20"}', ("1", 1700000000000)),
    ],
)
def test_an_update_keeps_the_digits_of_its_price_and_reads_both_kinds_of_time(
    payload: str, tick: tuple[str, int]
) -> None:
    assert decode_update("BTCUSDT", payload.encode()) == Tick("BTCUSDT", *tick)


@pytest.mark.parametrize(
    "payload",
    [
        '{"symbol":"ETHUSDT","price":"1","timestamp":1}',
        '{"price":"1","timestamp":1}',
        '{"symbol":"BTCUSDT","timestamp":1}',
        '{"symbol":"BTCUSDT","price":"1"}',
        '{"symbol":"BTCUSDT","price":null,"timestamp":1}',
        '{"symbol":"BTCUSDT","price":true,"timestamp":1}',
        '{"symbol":"BTCUSDT","price":[1],"timestamp":1}',
        '{"symbol":"BTCUSDT","price":NaN,"timestamp":1}',
        '{"symbol":"BTCUSDT","price":"1","timestamp":null}',
        '{"symbol":"BTCUSDT","price":"1","timestamp":"yesterday"}',
        '{"symbol":"BTCUSDT","price":"1","timestamp":""}',
        '{"symbol":"BTCUSDT","price":"1","timestamp":1e999}',
        "67000.10",
    ],
)
def test_an_incomplete_or_foreign_update_is_none(payload: str) -> None:
    assert decode_update("BTCUSDT", payload.encode()) is None


# --- the factory --------------------------------------------------------------------------------------------


def test_the_factory_builds_every_source_by_its_name(tmp_path: object) -> None:
    for name in set(SOURCE_NAMES) - {"ccxt"}:
        source = build_source(name, ["BTCUSDT"], redis_url="redis://127.0.0.1:1/0", tape_path="tape.csv")
        assert source.name == name
        assert source.heartbeat.age_s() is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"name": "kraken"}, "no price source 'kraken'; there are binance, redis"),
        ({"name": "simulated", "symbols": []}, "no symbols"),
        ({"name": "binance", "binance_url": "https://x"}, "not a WebSocket address"),
        ({"name": "binance", "binance_stream": "kline"}, "neither trade nor aggTrade"),
        ({"name": "redis", "redis_url": ""}, "Redis address must look like"),
        ({"name": "redis", "redis_url": "http://x"}, "Redis address must look like"),
        ({"name": "tape", "tape_path": "t", "symbols": ["A", "B"]}, "one symbol, not of 2"),
        ({"name": "tape", "tape_path": "t", "tape_speed": "0"}, "neither max nor a positive number"),
        ({"name": "tape"}, "no tape is given"),
    ],
)
def test_the_factory_refuses_wrong_arguments_in_one_line(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(SourceError, match=reason) as caught:
        build_source(**({"symbols": ["BTCUSDT"]} | arguments))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
