"""Profiles beside a measurement, if asked for: py-spy, pg_stat_statements, Valkey's command statistics and slow log."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from django.db import connection

from workers.redis_client import connect

SLOW_US: Final = 1_000
PY_SPY_END_S: Final = 30.0
STATEMENTS: Final = """
    SELECT round(total_exec_time)::text || ' ms, ' || calls || ' calls, ' || rows || ' rows, wal '
           || pg_size_pretty(wal_bytes) || ': ' || left(regexp_replace(query, '\\s+', ' ', 'g'), 300)
    FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 25
"""


class Profiler:
    """Off, it does nothing. On, it writes one set of files for each measurement into `folder`."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._py_spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def beside(self, name: str, pids: dict[str, int]) -> Iterator[None]:
        """Profile these processes and this one, PostgreSQL and Valkey while the block runs."""
        if self._folder is None:
            yield
            return
        slug = "".join(letter if letter.isalnum() else "-" for letter in name)
        self._reset()
        python = pids | {"bench": os.getpid()} if self._py_spy else {}
        recorders = [self._record(slug, program, pid) for program, pid in python.items()]
        try:
            yield
        finally:
            for recorder in recorders:
                recorder.send_signal(signal.SIGINT)  # it writes its file
            for recorder in recorders:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    recorder.wait(PY_SPY_END_S)
                recorder.kill()
                recorder.wait()
        (self._folder / f"{slug}.servers.txt").write_text(self._servers())

    def _record(self, slug: str, program: str, pid: int) -> subprocess.Popen[bytes]:
        assert self._folder is not None  # noqa: S101 - only called when on
        output = self._folder / f"{slug}.{program}.svg"
        whole = () if pid == os.getpid() else ("--subprocesses",)  # our children are all the others
        command = [
            *(str(self._py_spy), "record", "--pid", str(pid), *whole, "--rate", "200", "--duration", "600"),
            *("--output", str(output)),
        ]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def _reset(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            cursor.execute("SELECT pg_stat_statements_reset()")
        client: Any = connect()
        client.config_set("slowlog-log-slower-than", SLOW_US)
        client.slowlog_reset()
        client.config_resetstat()

    def _servers(self) -> str:
        with connection.cursor() as cursor:
            cursor.execute(STATEMENTS)
            lines = ["PostgreSQL, by total time:", *(row[0] for row in cursor.fetchall())]
            cursor.execute(
                "SELECT backend_type || ' ' || object || ' ' || context || ': writes ' || writes || ' ' || write_time"
                " || ' ms, fsyncs ' || fsyncs || ' ' || fsync_time || ' ms' FROM pg_stat_io WHERE fsyncs > 0"
            )
            lines += ["", "pg_stat_io since the start:", *(row[0] for row in cursor.fetchall())]
        return "\n".join([*lines, "", *_valkey(connect())]) + "\n"


def _valkey(client: Any) -> list[str]:
    commands = client.info("commandstats")
    slow = client.slowlog_get(10)
    return [
        "Valkey, commands:",
        *(f"{name}: {facts}" for name, facts in sorted(commands.items(), key=lambda item: -item[1]["usec"])[:15]),
        "",
        f"Valkey, slower than {SLOW_US} µs:",
        *(f"{entry['duration']} µs: {str(entry['command'])[:100]}" for entry in slow),
    ]
