"""Races are between transactions of the domain: what follows a commit outside of PostgreSQL is left out."""

from __future__ import annotations

import pytest
from pytest_django.fixtures import SettingsWrapper


@pytest.fixture(autouse=True)
def domain_alone(settings: SettingsWrapper) -> None:
    """No trigger book and no queue."""
    settings.STATIC_ONLY = True
