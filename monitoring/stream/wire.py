"""Server-Sent Events as text. Every event is encoded once, for all who listen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from djangorestframework_camel_case.render import CamelCaseJSONRenderer

from workers.clock import WALL_CLOCK, to_datetime

HELLO: Final = b"retry: 2000\n\n"
"""The first bytes: a client that is cut off comes back after 2 s."""

HEARTBEAT: Final = b": heartbeat\n\n"

Place = tuple[int, int]
"""Where an event stands in the log: its entry's id as numbers. Places rise."""

LARGEST: Final = 2**64 - 1


class Part(NamedTuple):
    """Something to send. `place` None: the log does not know it. After a `reset` the log counts from that place on."""

    text: bytes
    place: Place | None = None
    resets: bool = False


def place_of(cursor: str) -> Place | None:
    """The place that an event's id names; None for what is no id of ours."""
    ms, dash, number = cursor.partition("-")
    if not all(text.isascii() and text.isdigit() and str(int(text)) == text for text in (ms, number)) or not dash:
        return None
    place = int(ms), int(number)
    return place if max(place) <= LARGEST else None


def cursor_of(place: Place) -> str:
    """The id of an event at that place."""
    return f"{place[0]}-{place[1]}"


def event(kind: str, data: str, *, place: Place | None = None, at: datetime | None = None) -> bytes:
    """One unnamed event. `data` is JSON on one line; the time is the log's, or now."""
    moment = at or to_datetime(WALL_CLOCK.now_ms() if place is None else place[0])
    head = "" if place is None else f"id: {cursor_of(place)}\n"
    stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f'{head}data: {{"type":"{kind}","data":{data},"timestamp":"{stamp}"}}\n\n'.encode()


def compact(data: Mapping[str, Any]) -> str:
    """Plain values as JSON on one line."""
    return json.dumps(data, separators=(",", ":"))


def as_the_api(data: Any) -> str:
    """What a serializer made of something, as the REST API writes it."""
    return bytes(CamelCaseJSONRenderer().render(data)).decode()
