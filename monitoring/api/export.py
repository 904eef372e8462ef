"""Everything as one file, written part by part: nothing waits until the whole is known."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import structlog
from django.utils import timezone
from djangorestframework_camel_case.render import CamelCaseJSONRenderer

from deals.errors import DealError
from monitoring import closures, health, prices, queues, stats
from monitoring.api import serializers as wire
from monitoring.api.failures import as_refusal

log = structlog.get_logger(__name__)

MINUTES: Final = 60
PARTS: Final[dict[str, Callable[[], Any]]] = {
    "health": lambda: wire.HealthSerializer(health.report()).data,
    "stats": lambda: wire.StatsSerializer(stats.stats()).data,
    "queues": lambda: wire.QueuesSerializer(queues.all_queues()).data,
    "prices": lambda: wire.FeedSerializer(prices.prices()).data,
    "closures": lambda: wire.ClosuresSerializer(closures.closures(MINUTES)).data,
}
FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")


def as_json() -> Iterator[bytes]:
    """One JSON object with a member a part."""
    yield b'{"exportedAt":' + json.dumps(timezone.now().isoformat()).encode()
    for name in PARTS:
        yield f',"{name}":'.encode() + _part(name)
    yield b"}"


def as_csv() -> Iterator[bytes]:
    """One line a figure: part, path, value."""
    yield _lines([("part", "path", "value"), ("export", "exportedAt", timezone.now().isoformat())])
    for name in PARTS:
        yield _lines([(name, path, value) for path, value in _flat(json.loads(_part(name)))])


def _part(name: str) -> bytes:
    """A part as the API answers it; what could not be read says so, and the others follow."""
    try:
        data = PARTS[name]()
    except Exception as error:
        refusal = as_refusal(error)
        if not isinstance(refusal, DealError):
            raise
        log.warning("export.part_missing", part=name, error=str(error))
        data = {"error": {"code": refusal.code, "message": refusal.message}}
    return bytes(CamelCaseJSONRenderer().render(data))


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every figure with its path: components.0.name."""
    if isinstance(value, dict | list):
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for key, member in members:
            yield from _flat(member, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _lines(rows: list[tuple[str, str, Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows((part, path, _cell(value)) for part, path, value in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula is marked as text; numbers stay numbers."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str) or not value.startswith(FORMULA_STARTS):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
