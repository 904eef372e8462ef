"""What Linux tells in /proc: CPU time and memory of processes, and what machine this is. Reads only."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

PROC: Final = Path("/proc")
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Stat(NamedTuple):
    """Of /proc/PID/stat: parent, and CPU seconds used by the process and by its children that have ended."""

    parent: int
    cpu_s: float


def read_stat(pid: int) -> Stat:
    """Raises OSError when there is no such process."""
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return Stat(int(fields[1]), sum(map(int, fields[11:15])) / TICKS_PER_S)


def family(pid: int) -> list[int]:
    """The process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for path in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended since
            children.setdefault(read_stat(int(path.name)).parent, []).append(int(path.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and all its descendants, ended ones included."""
    total = 0.0
    for member in family(pid):
        with contextlib.suppress(OSError):
            total += read_stat(member).cpu_s
    return total


def rss_bytes(pid: int) -> int:
    """Resident memory of one process, shared pages included; 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def command(pid: int) -> str:
    """The command line of a process; empty when it has ended."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def machine_busy_s() -> float:
    """CPU seconds that the whole machine has worked since it started, on all cores."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, (PROC / "stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def machine() -> dict[str, Any]:
    """CPU, cores, memory, kernel; and the load when asked, which should be near zero before a measurement."""
    info = (PROC / "cpuinfo").read_text()
    models = {line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")}
    memory_kb = int((PROC / "meminfo").read_text().split()[1])
    return {
        "cpu": ", ".join(sorted(models)) or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kb / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def sync_ms(folder: Path, times: int = 50) -> float:
    """The median time to write 8 kB to a file in the folder and have the disk confirm it, in ms."""
    path = folder / "sync-probe"
    taken = []
    with path.open("wb") as file:
        for _ in range(times):
            file.write(b"\0" * 8192)
            file.flush()
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - started) * 1000)
    path.unlink()
    return statistics.median(taken)
