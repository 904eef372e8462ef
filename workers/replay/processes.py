"""The processes of a replay: Celery workers, brought back when they die, and the replay itself inside its scratch."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from django.conf import settings

from workers.replay.errors import ReplayError
from workers.replay.scratch import Scratch

REVIVALS: Final = 10
POLL_S: Final = 0.2
_CHILD = settings.BASE_DIR / "cryptocraze" / "child.py"


class Workers:
    """Celery workers of a scratch. One that dies is started again, ten times in all: then something is wrong."""

    def __init__(self, scratch: Scratch, logs: Path) -> None:
        self._scratch = scratch
        self._logs = logs
        self._left = REVIVALS
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        """Start that many."""
        for number in range(count):
            self._processes.append(self._start(number))

    def revive(self) -> None:
        """Start again what has died since the last call. Raises ReplayError."""
        for number, process in enumerate(self._processes):
            if process.poll() is None:
                continue
            if not self._left:
                raise ReplayError("the workers keep dying")
            self._left -= 1
            _end_group(process)
            self._processes[number] = self._start(number)

    def end(self) -> None:
        """Kill them: all is settled or lost with the scratch database, nothing is worth a soft shutdown's wait."""
        for process in self._processes:
            _end_group(process)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        # Through child.py, so that they end when this process is killed with -9: nobody else would end them.
        command = [
            *(sys.executable, "-I", "-S", str(_CHILD), "SIGKILL", "-"),
            *(sys.executable, "-m", "celery", "-A", "cryptocraze", "worker", "-Q", "closures,default", "-c", "1"),
            *("-n", f"{self._scratch.name}-{number}@localhost"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]
        with (self._logs / f"worker-{number}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                env=self._scratch.env | {"TMPDIR": str(self._logs)},  # a worker that is killed leaves a folder there
                cwd=settings.BASE_DIR,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextlib.contextmanager
def worker_processes(scratch: Scratch, count: int) -> Iterator[Workers]:
    """Run workers until the block ends. When it ends with a ReplayError their logs are kept and named in it."""
    logs = Path(tempfile.mkdtemp(prefix=f"{scratch.name}-"))
    keep = False
    workers = Workers(scratch, logs)
    try:
        workers.start(count)
        yield workers
    except ReplayError as error:
        keep = True
        raise ReplayError(f"{error}; the workers' logs are in {logs}") from error
    finally:
        workers.end()
        if not keep:
            shutil.rmtree(logs, ignore_errors=True)


def run_beside(workers: Workers, arguments: list[str], env: dict[str, str]) -> None:
    """Run `manage.py …` in the foreground while the workers are kept alive. Raises ReplayError when it fails."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", *arguments], env=env, cwd=settings.BASE_DIR, start_new_session=True
    )
    try:
        while process.poll() is None:
            workers.revive()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)
    finally:
        _end_group(process)
    if process.returncode:
        raise ReplayError("the replay failed")  # it has said why itself


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
