"""The whole system as `make run` starts it, on servers of its own, with two of everything that may stand twice."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import redis
from servers import PROJECT, Process

from chaos import family
from cryptocraze.embedded import VALKEY_PORTS, free_port, with_parent

SYMBOLS: Final = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT")
PROGRAMS: Final = ("web", "prices", "prices-b", "worker", "worker-b", "sweeper", "beat", "beat-b")
SIGNING: Final = ("prices", "prices-b", "worker", "worker-b", "sweeper")
TRADERS: Final = 20
PROCFILE: Final = PROJECT / "tests/chaos/Procfile"
ANSWER_S: Final = 10
NO_LIMIT: Final = "1000000/s"
MAKE_TRADERS: Final = f"""
import json
from django.contrib.auth.models import User
from rest_framework.authtoken.models import Token
from deals import services
tokens = []
for number in range({TRADERS}):
    user = User.objects.create_user("trader-%d" % number)
    services.create_account(user.pk)
    tokens.append(Token.objects.create(user=user).key)
print(json.dumps(tokens))
"""


class System:
    """Everything of a Procfile, under the project's own supervisor: what is killed comes back."""

    def __init__(
        self, folder: Path, *, procfile: Path = PROCFILE, programs: Collection[str] = PROGRAMS, **settings: str
    ) -> None:
        self.folder = folder
        self.programs = programs
        self.data = folder / "data"
        self.web_port = free_port(VALKEY_PORTS)
        kept = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
        self._env = kept | {
            "CRYPTOCRAZE_DATA_DIR": str(self.data),
            "WEB_PORT": str(self.web_port),
            "FLOWER_PORT": str(free_port(VALKEY_PORTS)),
            "FLOWER_EVENTS": "false",
            "PRICE_SOURCE": "redis",
            "SYMBOLS": ",".join(SYMBOLS),
            "LOG_LEVEL": "INFO",
            "LOG_JSON": "true",
            "WORKER_SOFT_SHUTDOWN_S": "1",
            **dict.fromkeys(("THROTTLE_USER", "THROTTLE_ANON", "THROTTLE_WRITE"), NO_LIMIT),
            **settings,
        }
        command = [
            sys.executable,
            "-m",
            "cryptocraze.launch",
            "run",
            "--procfile",
            str(procfile),
        ]
        # It stops everything and ends when this process is killed.
        self.launcher = Process(with_parent("SIGTERM", command), folder / "system.log", self._env)
        self.tokens: list[str] = []

    def wait_until_up(self) -> None:
        """Wait for the launcher's table, make the traders, and wait until every program is there."""
        self.launcher.wait_for("Ctrl-C stops everything", timeout_s=300)
        addresses = json.loads((self.data / "servers.json").read_text())
        self.database_url: str = addresses["database_url"]
        self.redis_url: str = addresses["redis_url"]
        self.tokens = self.shell(MAKE_TRADERS)
        self.redis = redis.Redis.from_url(self.redis_url, decode_responses=True, socket_timeout=2)
        wait(lambda: all(self.heads(name) for name in self.programs), 60, "every program runs")

    def stop(self) -> None:
        """End it in order; what does not listen is killed by the launcher itself."""
        for pid in self.pids("postgres", "valkey-server", *self.programs):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.launcher.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.launcher.process.wait(60)
        self.launcher.stop(timeout_s=1)

    # --- its processes ---------------------------------------------------------------------------------------

    def heads(self, *names: str) -> list[int]:
        """What the supervisor started under these names."""
        members = family.family(self.launcher.pid)
        return [pid for name in names for pid in family.heads(members, name)]

    def children(self, *names: str) -> list[int]:
        """The children of those: a worker's pool."""
        members = family.family(self.launcher.pid)
        return [pid for name in names for pid in family.children(members, name)]

    def pids(self, *names: str) -> list[int]:
        """Both."""
        return self.heads(*names) + self.children(*names)

    def is_whole(self, *, without: Collection[str] = ()) -> bool:
        """Whether every program that gives a sign of life has given it, and the web process answers.

        Raises redis.RedisError, OSError.
        """
        names = [str(name) for name in self.redis.zrange("heartbeats", 0, -1)]  # type: ignore[union-attr]
        signs = self.redis.mget([f"heartbeat:{name}" for name in names]) if names else []
        alive = {json.loads(sign)["pid"] for sign in signs if sign}  # type: ignore[union-attr]
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}/livez", timeout=5):
            pass
        return all(alive.intersection(self.heads(name)) for name in SIGNING if name not in without)

    def shell(self, code: str) -> Any:
        """Run this in Django's shell; what it prints last is JSON."""
        command = [sys.executable, "manage.py", "shell", "-v", "0", "-c", code]
        done = subprocess.run(command, env=self._env, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1])

    # --- its doors -------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, token: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON of the answer. Raises OSError when there was none, ValueError when it was cut off."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.web_port}{path}",
            data=json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"Token {token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310 the same
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
            return error.code, json.loads(text) if text.startswith(b"{") else {}

    def sql(self, query: str, *values: Any) -> list[Any]:
        """The rows of a query, on a connection of its own. Raises psycopg.OperationalError."""
        with psycopg.connect(self.database_url, connect_timeout=3, autocommit=True) as connection:
            cursor = connection.execute(query, values or None)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    @property
    def append_only_folder(self) -> Path:
        """Where Valkey keeps its data."""
        folder = self.redis.config_get("dir")
        return Path(folder["dir"]) / "appendonlydir"


def wait(happened: Callable[[], object], timeout_s: float, what: str) -> None:
    """Poll until it is true, whatever server is away meanwhile; AssertionError after the deadline."""
    deadline = time.monotonic() + timeout_s
    last: Exception | None = None
    while True:
        try:
            if happened():
                return
            last = None
        except (psycopg.OperationalError, redis.RedisError, OSError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {timeout_s:.0f} s: {what} ({last or 'all servers answer'})")
        time.sleep(0.05)


@contextlib.contextmanager
def running_system(keep: Path | None = None, **how: Any) -> Iterator[System]:
    """A running system in a temporary folder. Its log is copied to `keep` at the end. `how` is for System."""
    folder = Path(tempfile.mkdtemp(prefix="cryptocraze-chaos-"))
    folder.chmod(0o711)
    system = System(folder, **how)
    try:
        system.wait_until_up()
        yield system
    finally:
        system.stop()
        if keep is not None:
            shutil.copyfile(folder / "system.log", keep)
        shutil.rmtree(folder, ignore_errors=True)
