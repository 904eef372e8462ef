"""Reads from a PromQL expression which series and labels it speaks of. No evaluation: names only."""

from __future__ import annotations

import re
from typing import NamedTuple

# Operators, functions and modifiers that our rules use; what is neither one of them nor a series is a typing error.
OPERATORS = {"and", "or", "unless", "by", "on", "ignoring", "group_left"}
FUNCTIONS = {"absent", "changes", "count", "histogram_quantile", "increase", "rate", "sum", "timestamp", "vector"}
WORDS = OPERATORS | FUNCTIONS
GROUPING = re.compile(r"\b(?:by|on|ignoring|group_left)\s*\(([^)]*)\)")
SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^}]*)\}")
MATCHER = re.compile(r'([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*"([^"]*)"')


class Matcher(NamedTuple):
    """`series{label="value"}`."""

    series: str
    label: str
    value: str


class Expression(NamedTuple):
    """What an expression speaks of."""

    series: set[str]
    grouped_by: set[str]
    matchers: list[Matcher]


def read(expression: str) -> Expression:
    """Raises AssertionError when something in it is neither known nor a name."""
    matchers = []
    for series, inside in SELECTOR.findall(expression):
        found = MATCHER.findall(inside)
        assert len(found) == inside.count('"') // 2, expression
        matchers += [Matcher(series, label, value) for label, _operator, value in found]
    grouped = {label for inside in GROUPING.findall(expression) for label in re.findall(r"\w+", inside)}
    rest = GROUPING.sub(" ", SELECTOR.sub(r"\1", expression))
    rest = re.sub(r"\[(\$__rate_interval|\d+[smh])\]", " ", rest)
    words = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", rest))
    return Expression(words - WORDS, grouped, matchers)
