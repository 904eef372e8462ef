"""The baseline in another language writes with our statements: it must know their parameters."""

from __future__ import annotations

import re

import pytest

from cryptocraze.env import BASE_DIR
from deals.sql import statement

pytestmark = pytest.mark.unit


def test_the_old_designs_baseline_gives_every_parameter_of_our_settlement() -> None:
    source = (BASE_DIR / "bench" / "peers" / "bullmq" / "baseline.mjs").read_text()
    [settlement] = re.findall(r"function settlement\(.*?\n  return \{(.*?)\n  \};", source, re.DOTALL)
    given = set(re.findall(r"^    (\w+):", settlement, re.MULTILINE))
    assert given == set(re.findall(r"%\((\w+)\)s", statement("write_settlement")))
