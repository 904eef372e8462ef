"""What a run found, as a table for people, and its place in docs/faults.md."""

from __future__ import annotations

import platform
import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from chaos.faults import FAULTS
from chaos.oracle import Findings
from chaos.system import System
from chaos.world import Event

BEGIN: Final = "<!-- the last run: written by make chaos -->"
END: Final = "<!-- the end of the last run -->"
HEAD: Final = ("fault", "times", "deals", "lost", "duplicated", "recovery p50", "max", "measured")
LIBRARIES: Final = ("celery", "kombu", "redis", "django", "psycopg")


class Life(NamedTuple):
    """When a deal was opened and closed, ms since 1970; None while it is open."""

    id: int
    opened_ms: int
    closed_ms: int | None


def rows(events: Sequence[Event], deals: Sequence[Life], findings: Findings) -> list[list[str]]:
    """A row for each kind of fault; a deal, also a lost or duplicated one, counts where it was open when it struck."""
    table = []
    for name in FAULTS:
        if struck := [event for event in events if event.fault.name == name]:
            measured = [event.recovery_s for event in struck if event.recovery_s is not None]
            p50, most = (f"{figure(measured):.1f} s" if measured else "–" for figure in (statistics.median, max))
            table.append([*_counts(name, struck, deals, findings), p50, most, str(len(measured))])
    return [*table, [*_counts("all", events, deals, findings), "", "", ""]]


def _counts(name: str, events: Sequence[Event], deals: Sequence[Life], findings: Findings) -> list[str]:
    at_ms = [event.at_ms for event in events]
    hit = {deal.id for deal in deals if _hit(deal, at_ms)}
    harmed = (hit.intersection(group) for group in (findings.lost, findings.duplicated))
    return [name, f"{len(events):,}", f"{len(hit):,}", *(f"{len(group):,}" for group in harmed)]


def _hit(deal: Life, at_ms: list[int]) -> bool:
    """Whether one of these moments, in order, lies in the deal's life."""
    after = bisect_left(at_ms, deal.opened_ms)
    return after < len(at_ms) and (deal.closed_ms is None or at_ms[after] <= deal.closed_ms)


def markdown(table: list[list[str]]) -> str:
    """As Markdown, numbers to the right."""
    lines = ["| " + " | ".join(row) + " |" for row in (HEAD, *table)]
    return "\n".join([lines[0], "| --- |" + " ---: |" * (len(HEAD) - 1), *lines[1:]])


def description(system: System, events: Sequence[Event], findings: Findings, *, seed: int, took_s: float) -> str:
    """Where, when and on what it ran, how much was broken and what came of it."""
    postgres = str(system.sql("SHOW server_version")[0][0]).split()[0]
    valkey = system.redis.info("server")
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    found = ", ".join(f"{count:,} by {name}" for name, count in sorted(findings.detectors.items()))
    return (
        f"Run on {datetime.now(UTC):%Y-%m-%d}, seed {seed}, {took_s / 60:.0f} minutes, on {_machine()}; "
        f"Python {platform.python_version()}, PostgreSQL {postgres}, "
        f"Valkey {valkey.get('valkey_version', valkey['redis_version'])}, {libraries}.\n"
        f"{how_much(events)}\n"
        f"{findings.deals:,} deals were opened over REST, {findings.closed:,} closed: {found}; "
        f"{findings.at_first:,} at the price of the very first tick that reached a level. {findings.verdict}"
    )


def how_much(events: Sequence[Event]) -> str:
    """How many faults there were, and how far apart where nobody waited for a recovery."""
    groups = Counter(event.fault.group for event in events)
    gaps_ms = [
        after.at_ms - before.at_ms
        for before, after in pairwise(events)
        if before.recovery_s is None and after.recovery_s is None
    ]
    every = f", one every {statistics.mean(gaps_ms) / 1000:.1f} s in the rounds" if gaps_ms else ""
    kills, restarts, others = (groups[name] for name in ("kill", "restart", "break"))
    return f"{kills:,} kills of processes, {restarts:,} restarts of servers and {others:,} other faults{every}."


def write(path: Path, text: str) -> None:
    """Put the text between the two marks of the file, which stay. Raises ValueError when the marks are missing."""
    page = path.read_text()
    before, after = page.index(BEGIN) + len(BEGIN), page.index(END)
    path.write_text(f"{page[:before]}\n\n{text}\n\n{page[after:]}")


def _machine() -> str:
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpus if line.startswith("model name")]
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    model = f" ({models[0]})" if models else ""
    return f"{len(models) or 'some'} cores{model}, {memory_kb / 1024**2:.0f} GB"
