"""`make chaos` itself: what it draws from its seed, what its table counts, and which answers it holds the system to."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from typing import NamedTuple

import pytest
from chaos import plan, table
from chaos.answers import Answers
from chaos.faults import FAULTS
from chaos.oracle import Findings
from chaos.table import Life
from chaos.world import Event

KILLS, RESTARTS = 1000, 100
FORGETFUL = {name for name, fault in FAULTS.items() if fault.forgets}


class Kept(NamedTuple):
    id: int
    status: str = "open"
    take_profit: Decimal | None = Decimal("110.5")
    stop_loss: Decimal | None = None


def names(seed: int) -> list[str]:
    rounds = plan.rounds(kills=KILLS, restarts=RESTARTS, rng=random.Random(seed))
    return [fault.name for faults in rounds for fault in faults]


def event(name: str, at_ms: int, recovery_s: float | None = None) -> Event:
    return Event(FAULTS[name], at_ms, recovery_s)


# --- the plan -------------------------------------------------------------------------------------------------


def test_the_seed_decides_which_faults_come_and_in_which_order() -> None:
    assert names(7) == names(7)
    assert names(7) != names(8)


@pytest.mark.parametrize("seed", range(5))
def test_a_run_has_as_many_kills_and_restarts_as_asked_for_and_every_kind(seed: int) -> None:
    drawn = names(seed)
    groups = Counter(FAULTS[name].group for name in drawn)
    assert groups["kill"] >= KILLS
    assert groups["restart"] == RESTARTS
    assert set(drawn) == set(FAULTS)


@pytest.mark.parametrize("seed", range(5))
def test_no_prices_process_is_harmed_near_a_redis_that_forgets(seed: int) -> None:
    drawn = names(seed)
    for index, name in enumerate(drawn):
        if name in FORGETFUL:
            near = drawn[max(0, index - plan.BEFORE) : index + plan.AFTER + 1]
            assert not {"prices killed", "prices stopped for 8 s"}.intersection(near)


def test_the_recovery_of_every_kind_is_measured_and_of_the_long_ones_once() -> None:
    measured = Counter(fault.name for number in range(23) for fault in plan.samples(number, 3))
    assert set(measured) == set(FAULTS)
    assert {measured[name] for name, fault in FAULTS.items() if fault.long} == {1}


# --- the table ------------------------------------------------------------------------------------------------


def test_a_row_counts_the_deals_that_lived_through_such_a_fault_and_what_is_wrong_with_them() -> None:
    events = [
        event("worker killed", 1_000, 2.0),
        event("web killed", 2_000),
        event("worker killed", 4_000, 4.0),
        event("worker killed", 6_000),
    ]
    deals = [Life(1, 500, 1_500), Life(2, 1_500, 3_000), Life(3, 5_000, None), Life(4, 6_001, None)]
    findings = Findings(lost={3: "crossed"}, duplicated={2: "twice"})
    assert table.rows(events, deals, findings) == [
        ["worker killed", "3", "2", "1", "0", "3.0 s", "4.0 s", "2"],
        ["web killed", "1", "1", "0", "1", "–", "–", "0"],
        ["all", "4", "3", "1", "1", "", "", ""],
    ]


def test_it_says_how_much_was_broken_and_how_far_apart_where_nobody_waited() -> None:
    events = [
        event("worker killed", 0, 2.0),
        event("web killed", 10_000),
        event("PostgreSQL killed", 12_000),
        event("connections cut", 16_000),
        event("beat killed", 90_000, 1.0),
        event("web killed", 100_000),
    ]
    said = "4 kills of processes, 1 restarts of servers and 1 other faults, one every 3.0 s in the rounds."
    assert table.how_much(events) == said


def test_the_verdict_names_what_is_wrong() -> None:
    assert Findings().verdict == "Nothing was lost, duplicated or wrong."
    wrong = Findings(lost={1: "a", 2: "b"}, duplicated={3: "c"}, other=["d"])
    assert wrong.verdict == "NOT AS IT MUST BE: 2 lost, 1 duplicated, 0 wrong, 1 besides."


# --- the answers ----------------------------------------------------------------------------------------------


def test_what_was_answered_and_what_is_kept_agree() -> None:
    answers = Answers({"a": 1, "b": 2}, closed=[2], amended={1: {"takeProfit": "110.5000"}})
    assert answers.broken([Kept(1), Kept(2, "closed")]) == []


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (Answers({"a": 1, "b": 2}), ["deal 2 (b) was answered and is gone"]),
        (Answers(), ["deal 1 is there and nobody was told"]),
        (Answers({"a": 1}, closed=[1]), ["deal 1 was closed by hand and is open"]),
        (
            Answers({"a": 1}, amended={1: {"takeProfit": "110.5", "stopLoss": "90"}}),
            ["deal 1 was amended to {'takeProfit': '110.5', 'stopLoss': '90'} and is not"],
        ),
    ],
    ids=["gone", "one too many", "open again", "not amended"],
)
def test_an_answer_that_did_not_last_is_named(answers: Answers, said: list[str]) -> None:
    assert answers.broken([Kept(1)]) == said
