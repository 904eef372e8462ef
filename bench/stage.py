"""What every part is handed: options, world, programs, and the means to measure."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bench import proc
from bench.figures import Figure
from bench.options import Options
from bench.profile import Profiler
from bench.programs import Programs
from bench.servers import Servers
from bench.world import World

LATENCIES = """
    SELECT extract(epoch FROM settlements.committed_at - deals.received_at) * 1000
    FROM deals JOIN settlements ON settlements.id = deals.settlement_id
    WHERE deals.settlement_id > %s AND deals.detector = %s
"""
"""From the tick's receipt (whole ms, rounded down) to the commit time that PostgreSQL recorded, in ms."""


NOTABLE = 0.005
"""Shares of a core below this are not worth a word."""


@dataclass
class Usage:
    """CPU seconds by program over a time, and of the whole machine (which includes strangers)."""

    seconds: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict)
    bench_s: float = 0.0
    """Of the bench itself, which is no part of the system; but in arm and sweep it is what does the work."""
    machine_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Of all our programs and servers."""
        return sum(self.cpu_s.values())

    def share(self, cores: int) -> float:
        """What they used of all cores, in percent."""
        return 100 * self.total_s / self.seconds / cores

    def text(self, cores: int) -> str:
        """Shares of one core, the busiest first, and what the machine did in all."""
        shares = sorted([*self.cpu_s.items(), ("bench", self.bench_s)], key=lambda item: -item[1])
        busy = ", ".join(
            f"{name} {100 * used / self.seconds:.0f} %" for name, used in shares if used / self.seconds >= NOTABLE
        )
        machine = 100 * self.machine_s / self.seconds / cores
        return f"of a core: {busy or 'nothing'}; the machine's {cores} cores were {machine:.0f} % busy"


@dataclass
class Stage:
    """One for a run. `figures` collects what the parts measure."""

    options: Options
    servers: Servers
    programs: Programs
    world: World
    profiler: Profiler
    say: Callable[[str], None]
    cores: int
    figures: list[Figure] = field(default_factory=list)

    @contextlib.contextmanager
    def measured(self, name: str) -> Iterator[Usage]:
        """Measure CPU while the block runs; with --profile, profile the programs meanwhile."""
        usage = Usage()
        with self.profiler.beside(name, self.programs.pids):
            pids = self.servers.pids | self.programs.pids
            before = {program: proc.cpu_s(pid) for program, pid in pids.items()}
            machine, bench, started = proc.machine_busy_s(), time.process_time(), time.monotonic()
            yield usage
            usage.seconds = time.monotonic() - started
            usage.bench_s = time.process_time() - bench
            usage.machine_s = proc.machine_busy_s() - machine
            usage.cpu_s = {program: proc.cpu_s(pid) - before[program] for program, pid in pids.items()}
        self.programs.check()

    @contextlib.contextmanager
    def scene(self) -> Iterator[None]:
        """Whatever programs the block starts are stopped at its end, and the ledger is checked."""
        try:
            yield
        finally:
            self.programs.stop()
        self.say("checking the ledger")
        self.world.check()
