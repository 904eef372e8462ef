"""Arrays as PostgreSQL reads them, for statements that take many rows at once; each needs a cast: `%(ids)s::bigint[]`.

psycopg writes lists too, but looks at every element several times: a third of what a settlement cost its worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal


def array(values: Iterable[int | Decimal | datetime | None]) -> str:
    """Numbers or instants, None as NULL."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def text_array(values: Iterable[str]) -> str:
    """Texts, whatever they hold; what PostgreSQL refuses in a text it refuses here."""
    return "{" + ",".join([_quoted(value) for value in values]) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
