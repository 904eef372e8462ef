"""One running system for all tests here: what they break it must survive, and the next test finds it whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chaos.world import World, running_world

SEED = 4


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """A world of its own, on servers that keep their data."""
    with running_world(SEED) as world:
        yield world
