"""Where the results go: JSON lines, the table as text, and what machine, versions and settings they are of."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection

from bench import proc
from bench.figures import Figure, table
from bench.options import Options
from cryptocraze.env import BASE_DIR
from workers.redis_client import connect

POSTGRES_SETTINGS = (
    *("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers"),
    *("max_wal_size", "track_commit_timestamp", "autovacuum", "jit"),
)
PACKAGES = ("celery", "kombu", "django", "psycopg", "redis", "hiredis")


def facts(options: Options, folder: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """What the figures are of: machine, versions, and the settings that the servers themselves tell."""
    redis: Any = connect()
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(POSTGRES_SETTINGS)])
        postgres = dict(cursor.fetchall())
    info = redis.info("server")
    valkey = {
        "version": info.get("valkey_version") or info["redis_version"],
        **{name: redis.config_get(name)[name] for name in ("appendonly", "appendfsync", "save")},
    }
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _revision(),
        "machine": machine | {"sync_8kb_ms": round(proc.sync_ms(folder), 3)},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "postgresql": postgres,
        "valkey": valkey,
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()},
        "price_stale_after_s": settings.PRICE_STALE_AFTER_S,
    }


def _revision() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=BASE_DIR, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


class Results:
    """The files of one run in its folder: `STAMP.jsonl` grows part by part, `STAMP.txt` is written at the end."""

    def __init__(self, folder: Path, about: dict[str, Any], kind: str = "bench") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self.base = folder / f"{kind}-{stamp}-{os.getpid()}"
        self._about = about
        self._write({"about": about})

    def add(self, figures: Sequence[Figure]) -> None:
        """Write figures, whole lines each."""
        for figure in figures:
            row = figure._asdict() | {"verdict": figure.verdict}
            self._write({name: None if _is_no_number(value) else value for name, value in row.items()})

    def finish(self, figures: Sequence[Figure]) -> str:
        """Write the table with its head, and return it."""
        text = f"{head(self._about)}\n\n{table(figures)}\n"
        self.base.with_suffix(".txt").write_text(text)
        return text

    def keep_logs(self, data: Path) -> Path:
        """Copy the logs of the system's processes beside the results; returns the folder."""
        folder = self.base.with_suffix(".logs")
        folder.mkdir()
        for log in data.glob("*.log"):
            shutil.copy(log, folder)
        return folder

    def _write(self, row: dict[str, Any]) -> None:
        with self.base.with_suffix(".jsonl").open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def head(about: dict[str, Any]) -> str:
    """The facts in a few lines."""
    machine, postgres, valkey = about["machine"], about["postgresql"], about["valkey"]
    computer = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
    before = f"load before {machine['load_before']}, 8 kB to disk {machine['sync_8kb_ms']} ms"
    commits = f"fsync {postgres['fsync']}, synchronous_commit {postgres['synchronous_commit']}"
    file = f"appendonly {valkey['appendonly']}, appendfsync {valkey['appendfsync']}"
    lines = [
        f"{about['at']}, revision {about['revision']}",
        f"{computer}, {before}",
        ", ".join(f"{name} {number}" for name, number in about["versions"].items()),
        f"PostgreSQL {postgres['server_version']}: {commits}; Valkey {valkey['version']}: {file}",
    ]
    return "\n".join(lines)


def _is_no_number(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
