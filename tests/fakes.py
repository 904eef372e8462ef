"""Fakes of the outside: a Binance that can misbehave, a stream made from a seed, a CCXT exchange."""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

Item = TypeVar("Item")

# --- messages -----------------------------------------------------------------------------------------------


def trade_message(trade_id: int, price: str, at_ms: int, symbol: str = "BTCUSDT") -> str:
    """A trade as the spot combined stream sends it."""
    data = {
        "e": "trade",
        "E": at_ms + 1,
        "s": symbol,
        "t": trade_id,
        "p": price,
        "q": "0.01",
        "T": at_ms,
        "m": True,
    }
    return json.dumps({"stream": f"{symbol.lower()}@trade", "data": data})


def agg_trade_message(trade_id: int, price: str, at_ms: int, symbol: str = "BTCUSDT") -> str:
    """Trades of one taker order as the combined stream sends them."""
    data = {"e": "aggTrade", "E": at_ms + 1, "a": trade_id, "s": symbol, "p": price, "q": "1", "f": 1, "l": 2}
    return json.dumps({"stream": f"{symbol.lower()}@aggTrade", "data": {**data, "T": at_ms, "m": False}})


SHUTDOWN_MESSAGE = json.dumps({"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": 1770123456789}})


def generated_stream(seed: int, count: int) -> list[str]:
    """A futures stream made up from a seed: aggregate trades among book tickers, depths and candles."""
    rng = random.Random(seed)
    symbols = ["BTCUSDT", "ETHUSDT", "1000SHIBUSDT"]
    messages = []
    for number in range(count):
        symbol, at_ms = rng.choice(symbols), 1_700_000_000_000 + 10 * number
        price = f"{rng.uniform(0.01, 70_000):.{rng.choice([2, 4, 8])}f}"
        stream = symbol.lower()
        other = {
            "bookTicker": {
                "e": "bookTicker",
                "u": number,
                "s": symbol,
                "b": price,
                "B": "2",
                "a": price,
                "A": "1",
            },
            "depth@100ms": {
                "e": "depthUpdate",
                "s": symbol,
                "T": at_ms,
                "b": [[price, "1"]],
                "a": [[price, "0"]],
            },
            "kline_1m": {
                "e": "kline",
                "s": symbol,
                "k": {"t": at_ms, "T": at_ms + 1, "o": price, "x": False},
            },
        }
        kind = rng.choice(["aggTrade", *other])
        if kind == "aggTrade":
            messages.append(agg_trade_message(number, price, at_ms, symbol))
        else:
            messages.append(json.dumps({"stream": f"{stream}@{kind}", "data": other[kind]}))
    return messages


def recorded_stream(path: Path) -> list[str]:
    """The messages of a recorded combined stream (JSON lines: `received`, `message`), as sent."""
    with path.open(encoding="utf-8") as lines:
        return [json.dumps(json.loads(line)["message"]) for line in lines]


# --- the exchange -------------------------------------------------------------------------------------------


class FakeConnection:
    """One client of the fake exchange, as a script sees it."""

    def __init__(self, socket: ServerConnection, refuse_subscribes: int, *, answers: bool) -> None:
        assert socket.request is not None
        self.path = socket.request.path
        self.streams = parse_qs(urlsplit(self.path).query).get("streams", [""])[0].split("/")
        self.requests: list[dict[str, Any]] = []
        self.requested_at: list[float] = []
        self._socket = socket
        self._refusals_left = refuse_subscribes
        self._answers = answers

    async def send(self, *messages: str | bytes) -> None:
        """Send text frames (str) or binary frames (bytes)."""
        for message in messages:
            await self._socket.send(message)

    async def ping(self) -> float:
        """Ping and wait for the pong; seconds it took."""
        return await (await self._socket.ping())

    async def close(self, code: int, reason: str = "") -> None:
        """Close in an orderly way."""
        await self._socket.close(code, reason)

    def drop(self) -> None:
        """Cut the TCP connection without a word."""
        self._socket.transport.abort()

    async def send_half_frame(self) -> None:
        """Begin a frame of 100 bytes, send 10 of them and cut the connection."""
        self._socket.transport.write(b"\x81\x64" + b'{"stream":')
        await asyncio.sleep(0.05)
        self.drop()

    async def until_closed(self) -> int | None:
        """Stay silent until the client has gone; its close code."""
        await self._socket.wait_closed()
        return self._socket.close_code

    async def until_subscribed(self, count: int) -> None:
        """Wait until so many streams are subscribed."""
        await until(lambda: len(self.streams) >= count)

    async def answer_requests(self) -> None:
        """Answer SUBSCRIBE requests until the client has gone."""
        with contextlib.suppress(ConnectionClosed):
            async for text in self._socket:
                request = json.loads(text)
                self.requests.append(request)
                self.requested_at.append(asyncio.get_running_loop().time())
                if not self._answers:
                    continue
                if self._refusals_left > 0:
                    self._refusals_left -= 1
                    refusal = {
                        "error": {"code": 2, "msg": "Invalid request: unknown stream"},
                        "id": request["id"],
                    }
                    await self._socket.send(json.dumps(refusal))
                    continue
                self.streams += request["params"]
                await self._socket.send(json.dumps({"result": None, "id": request["id"]}))


Script = Callable[[FakeConnection], Awaitable[object]]


class FakeExchange:
    """A Binance on 127.0.0.1. The n-th script serves the n-th connection, the last one all later ones.

    A connection stays open until its script ends. The first `refuse_handshakes` are answered with `status`.
    """

    def __init__(
        self,
        *scripts: Script,
        refuse_handshakes: int = 0,
        status: http.HTTPStatus = http.HTTPStatus.SERVICE_UNAVAILABLE,
        retry_after_s: int | None = None,
        refuse_subscribes: int = 0,
        answers: bool = True,
        port: int = 0,
    ) -> None:
        self.connections: list[FakeConnection] = []
        self.handshakes = 0
        self._scripts = scripts
        self._refusals_left = refuse_handshakes
        self._status = status
        self._retry_after_s = retry_after_s
        self._refuse_subscribes = refuse_subscribes
        self._answers = answers
        self._port = port
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            self._port,
            process_request=self._greet,
            ping_interval=None,
            close_timeout=0.2,
            compression=None,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Its base address."""
        assert self._server is not None
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    def _greet(self, connection: ServerConnection, _request: Request) -> Response | None:
        self.handshakes += 1
        if self._refusals_left == 0:
            return None
        self._refusals_left -= 1
        response = connection.respond(self._status, "not now\n")
        if self._retry_after_s is not None:
            response.headers["Retry-After"] = str(self._retry_after_s)
        return response

    async def _serve(self, socket: ServerConnection) -> None:
        connection = FakeConnection(socket, self._refuse_subscribes, answers=self._answers)
        script = self._scripts[min(len(self.connections), len(self._scripts) - 1)]
        self.connections.append(connection)
        answering = asyncio.create_task(connection.answer_requests())
        try:
            with contextlib.suppress(ConnectionClosed):
                await script(connection)
        finally:
            answering.cancel()
            await asyncio.wait({answering})


def sending(*messages: str | bytes) -> Script:
    """A script that sends the messages and then stays silent until the client goes."""

    async def script(connection: FakeConnection) -> None:
        await connection.send(*messages)
        await connection.until_closed()

    return script


# --- CCXT ---------------------------------------------------------------------------------------------------


class FakeCcxtExchange:
    """What a ccxt.pro exchange does: lists markets and hands out trades, or fails, call by call."""

    def __init__(
        self,
        markets: Sequence[tuple[str, str]],
        trades: Mapping[str, Iterable[Sequence[Mapping[str, Any]] | Exception]],
        *,
        failing_loads: int = 0,
    ) -> None:
        self.closed = False
        self.loads = 0
        self._markets = {f"{base}/{quote}": {"base": base, "quote": quote, "spot": True} for base, quote in markets}
        for base, quote in markets:
            swap = {"base": base, "quote": quote, "spot": False}
            self._markets[f"{base}/{quote}:{quote}"] = swap
        self._trades = {market: iter(calls) for market, calls in trades.items()}
        self._failing_loads = failing_loads

    async def load_markets(self) -> Mapping[str, Mapping[str, Any]]:
        self.loads += 1
        if self.loads <= self._failing_loads:
            raise ConnectionError("exchange not reachable")
        return self._markets

    async def watch_trades(self, symbol: str) -> Sequence[Mapping[str, Any]]:
        outcome = next(self._trades.get(symbol, iter(())), None)
        if outcome is None:
            await asyncio.Event().wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or []

    async def close(self) -> None:
        self.closed = True


# --- reading a source ---------------------------------------------------------------------------------------


async def take(source: AsyncIterator[Item], count: int, timeout_s: float = 10.0) -> list[Item]:
    """The next `count` items. Raises TimeoutError."""
    items: list[Item] = []
    async with asyncio.timeout(timeout_s):
        while len(items) < count:
            items.append(await anext(source))
    return items


async def until(happened: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Poll until `happened()` is true. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not happened():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.005)
