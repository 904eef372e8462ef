"""What a run found, as a table for people, and its place in docs/faults.md."""

from __future__ import annotations

import platform
import statistics
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from chaos.faults import FAULTS
from chaos.system import System
from chaos.world import Event

BEGIN: Final = "<!-- the last run: written by make chaos -->"
END: Final = "<!-- the end of the last run -->"
HEAD: Final = ("fault", "times", "deals closed", "lost", "duplicated", "recovery p50", "max", "measured")
LIBRARIES: Final = ("celery", "kombu", "redis", "django", "psycopg")


def rows(events: Sequence[Event], closed_ms: Sequence[int]) -> list[list[str]]:
    """A row for each kind of fault. A closure counts for the fault before it. Only for a run that has found nothing."""
    times = Counter(event.fault.name for event in events)
    starts = [event.at_ms for event in events]
    closed = Counter(events[place - 1].fault.name for at_ms in closed_ms if (place := bisect_right(starts, at_ms)) > 0)
    table = []
    for name in (name for name in FAULTS if times[name]):
        measured = [event.recovery_s for event in events if event.fault.name == name and event.recovery_s is not None]
        p50, most = (f"{figure(measured):.1f} s" if measured else "–" for figure in (statistics.median, max))
        table.append([name, f"{times[name]:,}", f"{closed[name]:,}", "0", "0", p50, most, str(len(measured))])
    total = ["all", f"{len(events):,}", f"{sum(closed.values()):,}", "0", "0", "", "", ""]
    return [*table, total]


def markdown(table: list[list[str]]) -> str:
    """As Markdown, numbers to the right."""
    lines = ["| " + " | ".join(row) + " |" for row in (HEAD, *table)]
    return "\n".join([lines[0], "| --- |" + " ---: |" * (len(HEAD) - 1), *lines[1:]])


def description(system: System, *, seed: int, took_s: float, deals: int, detectors: Counter[str]) -> str:
    """Where, when and on what it ran."""
    postgres = str(system.sql("SHOW server_version")[0][0]).split()[0]
    valkey = system.redis.info("server")
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    found = ", ".join(f"{count:,} by {name}" for name, count in sorted(detectors.items()))
    where = (
        f"Run on {datetime.now(UTC):%Y-%m-%d}, seed {seed}, {took_s / 60:.0f} minutes, on {_machine()}; "
        f"Python {platform.python_version()}, PostgreSQL {postgres}, "
        f"Valkey {valkey.get('valkey_version', valkey['redis_version'])}, {libraries}."
    )
    return f"{where}\n{deals:,} deals were opened over REST; of those that closed, {found}."


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
