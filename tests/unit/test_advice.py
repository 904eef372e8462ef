"""What the live page says of a failing check is what docs/operations.md says."""

from __future__ import annotations

import fnmatch

from servers import PROJECT

from monitoring.advice import PAGE, advice
from monitoring.probes import Facts
from monitoring.verdicts import Rules, judge


def test_there_is_advice_for_every_check() -> None:
    nobody_answers = Facts(now_ms=0, database=None, redis=None, broker=None)
    judged = judge(nobody_answers, Rules(stale_after_s=10, static_only=False, queues=("closures",)))
    checks = {check.name for component in judged.values() for check in component}
    assert {one.check for one in advice()} == checks | {"abandonedOperations", "degraded", "sweepReach"}


def test_advice_is_html_without_markdown() -> None:
    [letters] = [one for one in advice() if one.check == "deadLetters"]
    assert "<code>manage.py dead_letters list</code>: the error says" in letters.to_do
    [successes, errors] = [one for one in advice() if one.check in {"successRate", "errors"}]
    assert successes[1:] == errors[1:]
    assert not any(mark in one.means + one.to_do for one in advice() for mark in ("`", "](", "|"))


def test_the_image_holds_the_page_with_the_advice() -> None:
    lines = (PROJECT / ".dockerignore").read_text().split("\n")
    last = [line for line in lines if fnmatch.fnmatch(str(PAGE.relative_to(PROJECT)), line.removeprefix("!"))][-1]
    assert last == "!docs/operations.md"
