"""Server-Sent Events as text. Every event is encoded once, for all who listen."""

from __future__ import annotations

import json
import re
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
CURSOR: Final = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})")


class Part(NamedTuple):
    """Something to send. `place` None: the log does not know it. After what `resets`, the log counts from there on.

    `begins` has no text: from there on the listener gets the log's events, and what it has missed before is to be read.
    """

    text: bytes
    place: Place | None = None
    resets: bool = False
    begins: Place | None = None


def place_of(cursor: str) -> Place | None:
    """The place that an event's id names; None for what is no id of ours."""
    found = CURSOR.fullmatch(cursor)
    place = None if found is None else (int(found[1]), int(found[2]))
    return None if place is None or max(place) > LARGEST else place


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
