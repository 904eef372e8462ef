"""How the API's paths are spelt: each also answers with a trailing slash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.urls import URLPattern, path


def both_spellings(route: str, view: Callable[..., Any], name: str) -> list[URLPattern]:
    """The path without the slash, which has the name, and with it."""
    return [path(route, view, name=name), path(f"{route}/", view)]
