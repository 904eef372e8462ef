"""What to do about each check of health: the words of docs/operations.md, so that page and document agree."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
ROW: Final = re.compile(r"^\| ((?:`[a-zA-Z]+`(?:, )?)+) \| (.+?) \| (.+?) \|$", re.MULTILINE)
NAME: Final = re.compile(r"[a-zA-Z]+")
LINK: Final = re.compile(r"\[([^\]]+)\]\([^)]+\)")
CODE: Final = re.compile(r"`([^`]+)`")


class Advice(NamedTuple):
    """What a failing check means, and what to do about it; HTML."""

    check: str
    means: SafeString
    to_do: SafeString


@cache
def advice() -> list[Advice]:
    """A piece of advice for every check, in the document's order."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    return [Advice(name, _html(means), _html(to_do)) for names, means, to_do in rows for name in NAME.findall(names)]


def _html(markdown: str) -> SafeString:
    """The little Markdown of those tables: names are code, a link is its text."""
    text = LINK.sub(r"\1", escape(markdown))
    return mark_safe(CODE.sub(r"<code>\1</code>", text))  # noqa: S308 - escaped above
