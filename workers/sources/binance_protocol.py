"""Binance's market streams as text: addresses, subscribe requests, and what a message means. No I/O.

Sources, on developers.binance.com: "WebSocket Streams for Binance" (spot), "Websocket Market Streams" and its
"Important WebSocket Change Notice" (USDⓈ-M futures).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from workers.sources.base import Tick
from workers.sources.errors import SourceError

StreamKind = Literal["trade", "aggTrade"]
MAX_STREAMS = 1024  # a connection

# Since April 2026 the futures host serves each kind of stream on a path of its own. On any other path it
# accepts the subscription and then sends nothing.
_FUTURES_HOST = "fstream.binance.com"
_FUTURES_PATHS: dict[StreamKind, str] = {"trade": "/public", "aggTrade": "/market"}

_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Answer(NamedTuple):
    """The server's answer to a request; `error` is None if it was accepted, `request_id` None if not said."""

    request_id: int | None
    error: str | None


class Notice(enum.Enum):
    """A message that is neither a price nor an answer."""

    SHUTDOWN = "the server announced that it will shut down"
    IGNORED = "an event that carries no market price"
    GARBAGE = "not a message of this protocol"


class _Trade(msgspec.Struct, tag_field="e", tag="trade"):
    symbol: str = msgspec.field(name="s")
    trade_id: _Natural = msgspec.field(name="t")
    price: str = msgspec.field(name="p")
    at_ms: _Natural = msgspec.field(name="T")
    # Futures only: insurance fund and auto-deleveraging settlements come as trades too at no market price.
    kind: str = msgspec.field(name="X", default="MARKET")


class _AggTrade(msgspec.Struct, tag_field="e", tag="aggTrade"):
    symbol: str = msgspec.field(name="s")
    trade_id: _Natural = msgspec.field(name="a")
    price: str = msgspec.field(name="p")
    at_ms: _Natural = msgspec.field(name="T")


class _Shutdown(msgspec.Struct, tag_field="e", tag="serverShutdown"):
    pass


class _Error(msgspec.Struct):
    code: int = 0
    msg: str = ""


class _Envelope(msgspec.Struct):
    """A combined-stream event, or an answer: {"result": null, "id": 1} or one of two error shapes."""

    data: _Trade | _AggTrade | _Shutdown | None = None
    result: Any = msgspec.UNSET
    id: int | str | None = None
    error: _Error | None = None
    code: int | None = None
    msg: str = ""


class _AnyEvent(msgspec.Struct):
    e: str = ""


class _AnyEnvelope(msgspec.Struct):
    stream: str
    data: _AnyEvent


_envelope = msgspec.json.Decoder(_Envelope)
_any_envelope = msgspec.json.Decoder(_AnyEnvelope)
_READ_EVENTS = frozenset({"trade", "aggTrade", "serverShutdown"})


def decode(payload: bytes) -> Tick | Answer | Notice:
    """What one message means. Never raises; the price is the text received."""
    try:
        envelope = _envelope.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _unread(payload)
    event = envelope.data
    if isinstance(event, _Trade) and event.kind != "MARKET":
        return Notice.IGNORED
    if isinstance(event, _Trade | _AggTrade):
        return Tick(event.symbol, event.price, event.at_ms, event.trade_id)
    if isinstance(event, _Shutdown):
        return Notice.SHUTDOWN
    return _answer(envelope)


def _unread(payload: bytes) -> Notice:
    """Tell an event that we have no use for from one that is broken. Rare: we subscribe to trades only."""
    try:
        event = _any_envelope.decode(payload).data.e
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Notice.GARBAGE
    return Notice.GARBAGE if event in _READ_EVENTS else Notice.IGNORED


def _answer(envelope: _Envelope) -> Answer | Notice:
    request_id = envelope.id if isinstance(envelope.id, int) else None
    if envelope.error is not None:
        return Answer(request_id, f"{envelope.error.code}: {envelope.error.msg}")
    if envelope.code is not None:
        return Answer(request_id, f"{envelope.code}: {envelope.msg}")
    if envelope.result is not msgspec.UNSET and request_id is not None:
        return Answer(request_id, None)
    return Notice.GARBAGE


def stream_names(symbols: Sequence[str], kind: StreamKind) -> list[str]:
    """The symbols' streams, in order and without repeats. Raises SourceError past the server's limit."""
    names = [f"{symbol.lower()}@{kind}" for symbol in dict.fromkeys(symbols)]
    if not names:
        raise SourceError("no symbols to watch")
    if len(names) > MAX_STREAMS:
        raise SourceError(f"{len(names)} symbols, but Binance serves at most {MAX_STREAMS} streams a connection")
    return names


def stream_url(base_url: str, kind: StreamKind, names: Sequence[str]) -> str:
    """The combined-stream address for the names. Raises SourceError when `base_url` is no WebSocket address.

    The base is scheme, host and port; the futures host gets the path its kind of stream needs unless one is
    given.
    """
    base = base_url.rstrip("/").removesuffix("/stream").removesuffix("/ws")
    try:
        parts = urlsplit(base)
        valid = parts.scheme in {"ws", "wss"} and parts.hostname and (parts.port or True)
    except ValueError:  # a port that is no number
        valid = False
    if not valid or parts.query or parts.fragment:
        raise SourceError(f"{base_url!r} is not a WebSocket address like wss://stream.binance.com:9443")
    if parts.hostname == _FUTURES_HOST and not parts.path:
        base += _FUTURES_PATHS[kind]
    return f"{base}/stream?streams=" + "/".join(quote(name, safe="@") for name in names)


def subscribe_request(request_id: int, names: Sequence[str]) -> str:
    """The message that subscribes to more streams on an open connection."""
    return msgspec.json.encode({"method": "SUBSCRIBE", "params": list(names), "id": request_id}).decode()
