"""The system's processes as the bench runs them: started, asked, watched in /proc, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench import proc
from bench.errors import Trouble
from cryptocraze.embedded import with_parent
from cryptocraze.env import BASE_DIR
from cryptocraze.supervision import procfile_commands
from workers.clock import WALL_CLOCK
from workers.heartbeats import read_beats

START_S: Final = 60.0
STOP_S: Final = 15.0


def wait_until(happened: Callable[[], object], timeout_s: float, what: str, every_s: float = 0.02) -> None:
    """Poll until it is true. Raises Trouble after the time."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline:
            raise Trouble(f"not within {timeout_s:g} s: {what}")
        time.sleep(every_s)


class Prices:
    """One prices process and the market inside it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._answer()  # it is ready

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Give a command and wait for its answer."""
        self.tell(do, **arguments)
        return self._answer()

    def tell(self, do: str, **arguments: Any) -> None:
        """Give a command; the answer must be fetched with `answer` before the next `ask`."""
        assert self._process.stdin is not None  # noqa: S101 - it was started with pipes
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the answer to a `tell`."""
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - it was started with pipes
        line = self._process.stdout.readline()
        if not line:
            raise Trouble("the prices process has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Programs:
    """What runs at the moment, by name. Logs go to files of the data folder."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._scratch = logs / "tmp"  # killed workers leave temporary folders behind
        self._scratch.mkdir()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> dict[str, int]:
        """The main process of each program."""
        return {name: process.pid for name, process in self._running.items()}

    def start_prices(self, symbols: list[str], name: str = "prices") -> Prices:
        """Start a prices process for these symbols and wait until it drives them."""
        return self._start_market(name, ["bench.prices", ",".join(symbols)])

    def start_floor(self, symbols: list[str], call_every_s: float, name: str = "floor") -> Prices:
        """Start a process that does nothing with the ticks; see bench/floor.py."""
        return self._start_market(name, ["bench.floor", ",".join(symbols), str(call_every_s)])

    def _start_market(self, name: str, module: list[str]) -> Prices:
        command = [sys.executable, "-m", *module]
        process = self._start(name, with_parent("SIGTERM", command), {"PROCESS_NAME": "prices"}, pipes=True)
        try:
            return Prices(process)
        except Trouble as error:
            raise Trouble(f"{error}: {self._end_of_log(name)}") from None

    def start_closers(self, processes: int) -> None:
        """Start the closing worker with that many pool processes and wait until it consumes."""
        self._start_lines({"worker": {"WORKER_CONCURRENCY": str(processes)}}, {"worker": 1})

    def start_sweeping(self) -> None:
        """Start the sweeper and beat, and wait until both live."""
        self._start_lines({"sweeper": {}, "beat": {}}, {"worker": 1, "beat": 1})

    def stop(self, *names: str) -> None:
        """End these programs, all by default: prices processes in order, the others at once (they hold nothing)."""
        for name in names or tuple(self._running):
            process = self._running.pop(name)
            if process.stdin is not None:
                process.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def check(self) -> None:
        """Raises Trouble when one has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise Trouble(f"{name} ended with {process.returncode}: {self._end_of_log(name)}")

    def rss_bytes(self) -> dict[str, int]:
        """Resident memory of every process of ours, by program and number within it; the program itself is 0."""
        return {
            f"{name} {number}": proc.rss_bytes(pid)
            for name, main in self.pids.items()
            for number, pid in enumerate(sorted(proc.family(main)))
        }

    def _start_lines(self, wanted: dict[str, dict[str, str]], roles: dict[str, int]) -> None:
        since_ms = WALL_CLOCK.now_ms()
        commands = procfile_commands(BASE_DIR / "Procfile", list(wanted))
        for name, command in commands.items():
            self._start(name, command, wanted[name])

        def all_live() -> bool:
            self.check()
            # A killed one's sign lasts a while longer: only those count that began since.
            begun = [beat.role for beat in read_beats() if beat.started_ms >= since_ms]
            return all(begun.count(role) >= number for role, number in roles.items())

        wait_until(all_live, START_S, f"{', '.join(wanted)} give signs of life", every_s=0.1)

    def _start(
        self, name: str, command: list[str], env: dict[str, str], *, pipes: bool = False
    ) -> subprocess.Popen[bytes]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=os.environ | {"PATH": path, "TMPDIR": str(self._scratch)} | env,
                cwd=BASE_DIR,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else log,
                stderr=log,
                start_new_session=True,
            )
        self._running[name] = process
        return process

    def _end_of_log(self, name: str) -> str:
        lines = (self._logs / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "its log is empty"
