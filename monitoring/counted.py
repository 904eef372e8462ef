"""The counters as metric families: what the processes counted in Redis, and what the tick script counts there.

Every series that can be is given from the beginning, at 0, so that the first event is an increase.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.metrics_core import Metric

from deals.models import CloseReason, Detector
from workers import counters
from workers.counters import field
from workers.sweep import SWEEP_WORK

WATCHING: Final = (Detector.TICK, Detector.ARM, Detector.SWEEP)
WAYS: Final = (
    *((reason, detector) for reason in (CloseReason.TAKE_PROFIT, CloseReason.STOP_LOSS) for detector in WATCHING),
    (CloseReason.MANUAL, Detector.MANUAL),
)
DROPPED: Final = ("bad_price", "unknown_symbol", "future", "stale", "out_of_order", "repeated", "backlog")
STAGES: Final = {
    "tick_to_fired": "From the receipt of the tick until the deal fired.",
    "fired_to_started": "From firing until a worker took the deal.",
    "started_to_committed": "From then until PostgreSQL committed the closure.",
    "tick_to_committed": "From the receipt of the tick until the commit: all of it.",
}


class Counted(NamedTuple):
    """What Redis counts: the shared counters, ticks by symbol, dropped ticks by reason, the last sweep's figures."""

    counters: Mapping[str, int]
    ticks: Mapping[str, int]
    dropped: Mapping[str, int]
    last_sweep: Mapping[str, int]


def families(found: Counted | None) -> Iterator[Metric]:
    """Every counter; without samples while Redis is away."""
    for describe in (_closures, _latencies, _troubles, _ticks, _sweeps):
        yield from describe(found)


def _closures(found: Counted | None) -> Iterator[Metric]:
    closures = _counter("closures", "Deals closed, by reason and by who saw that they were due.", "reason", "detector")
    settlements = _counter("settlements", "Settlement transactions that closed deals.")
    if found is not None:
        for reason, detector in WAYS:
            value = found.counters.get(field(counters.CLOSURES, reason.value, detector.value), 0)
            closures.add_metric([reason.value, detector.value], value)
        settlements.add_metric([], found.counters.get(counters.SETTLEMENTS, 0))
    yield from (closures, settlements)


def _latencies(found: Counted | None) -> Iterator[Metric]:
    for stage in counters.STAGES:
        family = HistogramMetricFamily(f"cryptocraze_{stage}_seconds", STAGES[stage])
        if found is not None:
            bounds = (*counters.BOUNDS_MS, counters.INFINITE)
            names = [*(str(bound / 1000) for bound in counters.BOUNDS_MS), "+Inf"]
            counts = accumulate(found.counters.get(field(stage, bound), 0) for bound in bounds)
            sum_s = found.counters.get(field(stage, counters.SUM_US), 0) / 1e6
            family.add_metric([], buckets=list(zip(names, counts, strict=True)), sum_value=sum_s)
        yield family


def _troubles(found: Counted | None) -> Iterator[Metric]:
    letters = _counter("new_dead_letters", "Deals that could not be settled after their attempts.")
    failures = _counter("closure_failures", "Attempts that failed: with a single deal, or a message for good.", "kind")
    unsent = _counter("publish_errors", "What could not be handed to the queue, or announced.", "target")
    if found is not None:
        letters.add_metric([], found.counters.get(counters.NEW_DEAD_LETTERS, 0))
        for kind in ("deal", "message"):
            failures.add_metric([kind], found.counters.get(field(counters.FAILURES, kind), 0))
        for target in ("queue", "announcement"):
            unsent.add_metric([target], found.counters.get(field(counters.PUBLISH_ERRORS, target), 0))
    yield from (letters, failures, unsent)


def _ticks(found: Counted | None) -> Iterator[Metric]:
    accepted = _counter("ticks_accepted", "Ticks that counted and were written.", "symbol")
    dropped = _counter("ticks_dropped", "Ticks that did not count.", "reason")
    if found is not None:
        for symbol, count in found.ticks.items():
            accepted.add_metric([symbol], count)
        for reason in sorted({*DROPPED, *found.dropped}):
            dropped.add_metric([reason], found.dropped.get(reason, 0))
    yield from (accepted, dropped)


def _sweeps(found: Counted | None) -> Iterator[Metric]:
    took = SummaryMetricFamily("cryptocraze_sweep_duration_seconds", "How long sweeps took.")
    did = _counter("sweep_deals", "What sweeps did; `found` deals were due and nobody else had seen it.", "action")
    last_at = GaugeMetricFamily("cryptocraze_last_sweep_timestamp_seconds", "When the last sweep ended.")
    last_took = GaugeMetricFamily("cryptocraze_last_sweep_duration_seconds", "How long the last sweep took.")
    last_found = GaugeMetricFamily("cryptocraze_last_sweep_found_deals", "Deals that the last sweep found.")
    if found is not None:
        us = found.counters.get(counters.SWEEP_US, 0)
        took.add_metric([], count_value=found.counters.get(counters.SWEEPS, 0), sum_value=us / 1e6)
        for action in SWEEP_WORK:
            did.add_metric([action], found.counters.get(field(counters.SWEEP_DEALS, action), 0))
        if found.last_sweep:
            last_at.add_metric([], found.last_sweep["at"] / 1000)
            last_took.add_metric([], found.last_sweep["duration_ms"] / 1000)
            last_found.add_metric([], found.last_sweep["found"])
    yield from (took, did, last_at, last_took, last_found)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"cryptocraze_{name}", text, labels=labels)
