"""Every check that can ring has its row on the page that says what to do."""

from __future__ import annotations

import re

from servers import PROJECT

from monitoring.probes import Facts
from monitoring.verdicts import Rules, judge


def test_the_page_has_a_row_for_every_check_and_no_other() -> None:
    nobody_answers = Facts(now_ms=0, database=None, redis=None, broker=None)
    judged = judge(nobody_answers, Rules(stale_after_s=10, static_only=False, queues=("closures",)))
    registered = {"abandonedOperations", "degraded", "sweepReach"}
    checks = {check.name for component in judged.values() for check in component} | registered
    page = (PROJECT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| (`[a-zA-Z]+`(?:, `[a-zA-Z]+`)*) \|", page, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"[a-zA-Z]+", row)} == checks
