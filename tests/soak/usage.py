"""What the processes and servers of a running system hold: proportional memory, keys, connections, open files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import redis
from django.db import connection


class Usage(NamedTuple):
    """At one moment: PSS in KiB by process, what Redis uses, PostgreSQL's sessions in this database."""

    pss_kib: dict[str, int]
    files: dict[str, int]
    redis_kib: int
    redis_keys: int
    sessions: int


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    members = [pid]
    for member in members:
        members += sorted(child for child, parent in parents.items() if parent == member)
    return members


def usage(programs: Mapping[str, int], client: redis.Redis) -> Usage:
    """Of these programs (name → process id) with all their children."""
    members = {
        f"{name} {number}" if number else name: pid
        for name, parent in programs.items()
        for number, pid in enumerate(family(parent))
    }
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        row = cursor.fetchone()
        assert row is not None
    return Usage(
        pss_kib={name: pss_kib(pid) for name, pid in members.items()},
        files={name: len(list(Path(f"/proc/{pid}/fd").iterdir())) for name, pid in members.items()},
        redis_kib=int(client.info("memory")["used_memory"]) // 1024,
        redis_keys=key_count(client),
        sessions=int(row[0]),
    )


def key_count(client: redis.Redis) -> int:
    """How many keys there are, without the candles: one comes every 15 s and every minute, and ends by itself."""
    return client.dbsize() - sum(1 for _ in client.scan_iter("candles:*", count=1_000))


def pss_kib(pid: int) -> int:
    """Resident memory, shared pages divided among those who share them: what a process adds."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def table(began: Usage, ended: Usage) -> str:
    """Both beside each other."""
    rows = [("", "after warm-up", "at the end", "difference")]
    rows += [row(f"{name}, KiB", kib, ended.pss_kib[name]) for name, kib in began.pss_kib.items()]
    rows += [row(f"{name}, open files", count, ended.files[name]) for name, count in began.files.items()]
    for figure in ("redis_kib", "redis_keys", "sessions"):
        rows.append(
            row(figure.replace("_kib", ", KiB").replace("_", " "), getattr(began, figure), getattr(ended, figure))
        )
    return "\n".join(f"{name:<24}{first:>15}{last:>15}{change:>15}" for name, first, last, change in rows)


def row(name: str, first: int, last: int) -> tuple[str, str, str, str]:
    return name, f"{first:,}", f"{last:,}", f"{last - first:+,}"
