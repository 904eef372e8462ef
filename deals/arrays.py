"""Arrays as PostgreSQL reads them, for statements that take many rows at once; each needs a cast: `%(ids)s::bigint[]`.

psycopg writes lists too, but looks at every element several times: a third of what a settlement cost its worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from functools import lru_cache


def array(values: Iterable[int | Decimal | None]) -> str:
    """Numbers, None as NULL."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def instant_array(values: Iterable[datetime | None]) -> str:
    """Instants, None as NULL. Their texts are remembered: most of a batch share them."""
    return "{" + ",".join(["NULL" if value is None else _text(value) for value in values]) + "}"


def text_array(values: Iterable[str]) -> str:
    """Texts, whatever they hold; what PostgreSQL refuses in a text it refuses here."""
    return "{" + ",".join([_quoted(value) for value in values]) + "}"


_text = lru_cache(maxsize=1024)(str)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
