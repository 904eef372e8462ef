"""Races are between transactions of the domain: what follows a commit outside of PostgreSQL is left out."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(autouse=True)
def domain_alone(settings: Any) -> None:
    """No trigger book and no queue."""
    settings.STATIC_ONLY = True
