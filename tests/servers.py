"""Real servers and real processes for tests: started on free ports, waited for, and always ended by process id."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import redis

from cryptocraze import embedded, embedded_home

PROJECT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CHROMIUM = Path("/usr/bin/chromium")
"""Debian's; other machines may have Playwright's own."""


def wait_until(happened: Callable[[], object], timeout_s: float = 15.0, what: str = "") -> None:
    """Poll until `happened()` is true; AssertionError after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {timeout_s} s: {what or happened}")
        time.sleep(0.02)


class Process:
    """A program with its output in a file. `stop` ends its whole process group, children of a killed parent too."""

    def __init__(self, command: list[str], log: Path, env: Mapping[str, str], cwd: Path = PROJECT) -> None:
        self.command = command
        self.log_path = log
        self._env = dict(env)
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it (again); the log goes on."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, pattern: str, timeout_s: float = 30.0) -> None:
        """Wait until a line of the log matches; fails at once, with the log, when the program ends before."""
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, self.output):
            if not self.alive or time.monotonic() > deadline:
                raise AssertionError(
                    f"{self.command} never said {pattern!r} (exit {self.process.poll()}):\n{self.output}"
                )
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send a signal to the program itself, not to its children."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9 of the program alone: its children are left to themselves, as after a real crash."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 20.0) -> int:
        """Ask it to end, wait, then end whatever is left of its process group. Answers the exit code."""
        if self.alive:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.process.wait()


class Valkey:
    """A Valkey of a test's own, to be killed, restarted and emptied. Keeps its data (AOF) unless `durable` is false."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder
        self.port = embedded.free_port(embedded.VALKEY_PORTS)
        self.password = secrets.token_hex(8)
        self.url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"
        config = folder / "valkey.conf"
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\ndir {folder}\nsave ''\n"
            f"appendonly {'yes' if durable else 'no'}\nappendfsync always\nloglevel warning\n"
        )
        server = str(embedded_home.installed_programs().valkey_server)
        self.process = Process([server, str(config)], folder / "valkey.log", {})
        self.wait()

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=5)

    def wait(self) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            with contextlib.suppress(redis.RedisError), contextlib.closing(self.client()) as client:
                return bool(client.ping())
            return False

        wait_until(answers, what="Valkey answers")

    def kill(self) -> None:
        self.process.kill()

    def start(self, *, empty: bool = False) -> None:
        """Start it again on the same port, with its data or without."""
        if empty:
            for path in sorted(self.folder.glob("appendonlydir/*")):
                path.unlink()
        self.process.start()
        self.wait()

    def stop(self) -> None:
        self.process.stop()


class RabbitMQ:
    """Debian's RabbitMQ, of a test's own: its data in `folder`, every port of it and of its epmd free and local."""

    def __init__(self, folder: Path) -> None:
        self.port, distribution, names = (embedded.free_port(embedded.VALKEY_PORTS) for _ in range(3))
        password = secrets.token_hex(8)
        self.url = f"amqp://test:{password}@127.0.0.1:{self.port}//"
        config = folder / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\ndefault_user = test\ndefault_pass = {password}\n"
            "log.console = true\nlog.console.level = info\nlog.file = false\n"
        )
        (folder / "environment.conf").touch()
        local = {"HOME": str(folder), "PATH": os.environ["PATH"], "ERL_EPMD_PORT": str(names)}
        local["ERL_EPMD_ADDRESS"] = "127.0.0.1"
        # Started before, or the node would start one that outlives it.
        self._names = Process(["epmd"], folder / "epmd.log", local)
        self.process = Process(
            ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
            folder / "rabbitmq.log",
            local
            | {
                "RABBITMQ_NODENAME": f"test-{secrets.token_hex(4)}@localhost",
                "RABBITMQ_DIST_PORT": str(distribution),
                "RABBITMQ_CONFIG_FILE": str(config),
                "RABBITMQ_CONF_ENV_FILE": str(folder / "environment.conf"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
                "RABBITMQ_MNESIA_BASE": str(folder / "data"),
                "RABBITMQ_LOG_BASE": str(folder),
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
            },
        )
        self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        wait_until(lambda: _listens(self.port) or not self.process.alive, 60, what="RabbitMQ answers")
        assert self.process.alive, self.process.output

    def start(self) -> None:
        """Start it again on the same ports, with its data."""
        self.process.start()
        self.wait()

    def stop(self) -> None:
        self.process.stop(timeout_s=10)

    def end(self) -> None:
        """For good, and its epmd with it."""
        self.stop()
        self._names.stop()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
