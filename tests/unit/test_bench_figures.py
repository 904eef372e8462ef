"""The benchmark's arithmetic: percentiles, verdicts, the table, and which tick was heard when."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.figures import Figure, median, percentile, shown, table
from bench.market import BAND
from bench.options import PARTS, read_options
from bench.parts.ingest import Heard, one_tick_ms
from bench.peers.__main__ import ratios
from bench.peers.plain_loop import tick_us
from bench.report import Results

ABOUT: dict[str, Any] = {
    "at": "2026-01-08T12:00:00+00:00",
    "revision": "abc",
    "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 4, "system": "Linux", "load_before": 0, "sync_8kb_ms": 1},
    "versions": {"python": "3.11"},
    "postgresql": {"server_version": "18.6", "fsync": "on", "synchronous_commit": "on"},
    "valkey": {"version": "9.1", "appendonly": "yes", "appendfsync": "everysec"},
}


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, 1), (0.5, 50), (0.505, 51), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected


def test_the_percentiles_of_one_value_are_that_value_and_of_none_there_is_none() -> None:
    assert percentile([7.5], 0.01) == percentile([7.5], 1.0) == median([7.5]) == 7.5
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="share"):
        percentile([1.0], 0.0)


@pytest.mark.parametrize(
    ("value", "more_is_better", "expected"),
    [
        (40_000, True, "goal"),
        (39_999, True, "must"),
        (15_000, True, "must"),
        (14_999, True, "MISSED"),
        (math.nan, True, "MISSED"),
        (15_000, False, "goal"),
        (40_000, False, "must"),
        (40_001, False, "MISSED"),
        (math.inf, False, "MISSED"),
    ],
)
def test_a_figure_is_judged_by_its_must_and_its_goal(value: float, more_is_better: bool, expected: str) -> None:
    must, goal = (15_000, 40_000) if more_is_better else (40_000, 15_000)
    assert Figure("mass", "x", value, "/s", must, goal, more_is_better=more_is_better).verdict == expected


def test_a_figure_of_which_nothing_is_asked_has_no_verdict() -> None:
    assert Figure("scale", "x", 1, "/s").verdict == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.5, "1.50"), (12.34, "12.3"), (250.4, "250"), (28_999.6, "29,000"), (7.0, "7")],
)
def test_numbers_are_shown_with_three_digits_or_whole(value: float, text: str) -> None:
    assert shown(value) == text


def test_the_table_has_a_line_for_each_figure_with_its_bounds_and_its_note_below() -> None:
    text = table(
        [
            Figure(
                "mass", "5,000 in one tick", 28_000.4, "closures/s", 15_000, 40_000, more_is_better=True, note="busy"
            ),
            Figure("memory", "RSS of prices", 80.25, "MiB"),
        ]
    )
    lines = [line.split() for line in text.splitlines()]
    assert lines[2] == [
        "mass",
        "5,000",
        "in",
        "one",
        "tick",
        "28,000",
        "closures/s",
        "≥",
        "15,000",
        "≥",
        "40,000",
        "must",
    ]
    assert lines[3] == ["busy"]
    assert lines[4] == ["memory", "RSS", "of", "prices", "80.2", "MiB", "–"]
    assert len({line.index("must") for line in text.splitlines()[:1]} | {text.splitlines()[2].index("≥ 15,000")}) == 1


def test_a_tick_counts_as_heard_when_its_price_or_a_later_one_of_its_symbol_is() -> None:
    ms = 1_000_000
    # Two symbols in turn: A, B, A, B, A, B; of A the second price is swallowed by the third.
    noted = [(number, number * ms) for number in range(6)]
    heard = [
        Heard("A", BAND[5], -ms),  # from before the notes, although A will have that price later
        Heard("A", BAND[0], 3 * ms),
        Heard("B", BAND[0], 4 * ms),
        Heard("B", BAND[1], 5 * ms),
        Heard("A", BAND[2], 6 * ms),
        Heard("B", BAND[2], 7 * ms),
    ]
    taken = one_tick_ms(noted, heard, ["A", "B"])
    assert sorted(taken) == sorted([3.0, 3.0, 2.0, 6.0 - 2, 6.0 - 4, 7.0 - 5])


def test_a_tick_that_was_never_heard_takes_for_ever() -> None:
    assert one_tick_ms([(0, 0), (1, 0)], [Heard("A", BAND[0], 1_000_000)], ["A", "B"]) == [1.0, math.inf]


def test_the_prices_of_the_band_are_all_different() -> None:
    assert len(set(BAND)) == len(BAND)


def test_results_are_json_lines_with_the_machine_first_and_no_number_that_json_lacks(tmp_path: Path) -> None:
    results = Results(tmp_path, ABOUT)
    figures = [Figure("ingest", "one tick, p99", math.inf, "ms", 5, 2), Figure("mass", "x", 2, "/s")]
    results.add(figures)
    text = results.finish(figures)
    rows = [json.loads(line) for line in results.base.with_suffix(".jsonl").read_text().splitlines()]
    assert rows[0] == {"about": ABOUT}
    assert [(row["part"], row["value"], row["verdict"]) for row in rows[1:]] == [
        ("ingest", None, "MISSED"),
        ("mass", 2, "–"),
    ]
    assert "a CPU, 2 cores" in text
    assert results.base.with_suffix(".txt").read_text() == text


def test_peers_are_compared_where_both_were_measured_and_only_there() -> None:
    answers = {
        "ours": {"mass": {1_000: 20_000.0}, "ticks": {10_000: 5.0}},
        "bullmq": {"mass": {(1_000, 5): 250.0, (5_000, 5): 250.0}},
        "loop": {"ticks": {10_000: 400.0, 100_000: 4_000.0}},
        "celery": {"batches": {1_000: {500: 20_000.0, 1: 500.0}}},
    }
    assert [(figure.what.split(" (")[0], figure.value) for figure in ratios(answers)] == [
        ("mass of 1,000: ours / bullmq at concurrency 5", 80.0),
        ("a tick at 10,000: loop / ours", 80.0),
        ("1,000 closures: batches of 500 / one task per deal", 40.0),
    ]
    assert ratios({"bullmq": answers["bullmq"]}) == []


def test_the_plain_loop_costs_time_for_every_order() -> None:
    assert 0 < tick_us(10, ["A", "B"], ticks=50) < tick_us(5_000, ["A", "B"], ticks=50)


def test_parts_run_in_their_own_order_and_sizes_come_from_the_command_line() -> None:
    options = read_options(["sweep", "mass", "--deals", "10,20", "--open", "30000"])
    assert options.parts == ("mass", "sweep")
    assert options.sizes(5_000) == (10, 20)
    assert options.open == 30_000
    assert read_options([]).parts == PARTS
    assert read_options([]).sizes(5_000) == (5_000,)


@pytest.mark.parametrize("arguments", [["nothing"], ["--deals", "0"], ["--crossing", "2"], ["detect", "--open", "5"]])
def test_a_wrong_command_line_ends_with_a_message(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options(arguments)
    assert "error: " in capsys.readouterr().err
