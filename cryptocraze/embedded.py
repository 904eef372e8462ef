"""Embedded PostgreSQL and Valkey: real servers out of wheels, for a machine that has none.

One process owns those of a data folder: it holds the folder's lock, runs them and writes their addresses to
`servers.json`, which everyone else only reads (env.addresses). Stopping is the owner's; nothing here restarts them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

import psycopg
import redis
from psycopg import sql

from cryptocraze import embedded_home
from cryptocraze.env import ADDRESS_FILE, BASE_DIR, LOCK_FILE, SECRET_KEY_FILE, SettingError
from workers.interrupt import undisturbed

POSTGRES, VALKEY = "postgres", "valkey"
DATABASE = "cryptocraze"
RUN_DIR_NOTE = "run_dir"  # so that the next start can remove what kill -9 left
# Below the ports that the kernel hands to outgoing connections (32768 and up): a client that keeps trying to reach a
# restarting Valkey could otherwise be given its very port, and connect to itself.
VALKEY_PORTS = range(20_000, 32_000)
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0

POSTGRES_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "track_commit_timestamp": "on",
    "max_connections": "200",
    "shared_buffers": "512MB",
}
# For throw-away servers of tests only: what was committed may be lost when the machine dies.
NOT_DURABLE_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedServers:
    """The servers of one data folder, as their owner sees them.

    In this order: `prepare`, start the `commands`, `wait`, `publish`, at the end `close`. What `postgres=False` or
    `valkey=False` leaves out is expected from the environment; `postgres_settings` add to ours. Raises SettingError.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        postgres: bool = True,
        valkey: bool = True,
        durable: bool = True,
        postgres_settings: Mapping[str, str] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.data_dir = data_dir
        self.wanted = [name for name, wanted in ((POSTGRES, postgres), (VALKEY, valkey)) if wanted]
        self._durable = durable
        self._postgres_settings = dict(postgres_settings or {})
        self._say = say
        self._lock: TextIO | None = None
        self._home: embedded_home.Home | None = None
        self._programs: embedded_home.Programs | None = None
        self._password = secrets.token_urlsafe(24)
        self._port = 0

    # --- in the order of their use ---------------------------------------------------------------------------

    def lock(self) -> None:
        """Become the data folder's owner; SettingError if another process is."""
        if self._lock is None:
            self.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._lock = lock_data_dir(self.data_dir)

    def prepare(self) -> None:
        """Make what is missing in the data folder, write the start-up files. Starts nothing that stays."""
        self.lock()
        self._remove_leftovers()
        write_secret_key(self.data_dir)
        home = self._home = embedded_home.make_home(self.data_dir)
        write_private(self.data_dir / RUN_DIR_NOTE, str(home.run_dir))
        if not self.wanted:
            return
        if home.storage != self.data_dir:
            self._say(f"{self.data_dir} is private to root: the servers' data is in {home.storage}")
        self._programs = home.programs()
        if POSTGRES in self.wanted:
            self._prepare_postgres(home, self._programs)
        if VALKEY in self.wanted:
            self._prepare_valkey(home)

    @property
    def run_dir(self) -> Path:
        """A short folder, new at every start, for sockets and start-up files."""
        return self._prepared.run_dir

    @property
    def commands(self) -> dict[str, list[str]]:
        """How to run each server in the foreground; each ends with the process that starts it."""
        home, programs = self._prepared, self._programs
        user = "-" if home.user is None else f"{home.user.uid}:{home.user.gid}"
        commands = {}
        if programs and POSTGRES in self.wanted:
            commands[POSTGRES] = with_parent("SIGINT", self._postgres_command(home, programs), user)
        if programs and VALKEY in self.wanted:
            config = home.run_dir / VALKEY / "valkey.conf"
            commands[VALKEY] = with_parent("SIGTERM", [str(programs.valkey_server), str(config)], user)
        return commands

    def wait(self, timeout_s: float = START_TIMEOUT_S, *, alive: Callable[[], bool] = lambda: True) -> None:
        """Wait until both answer and the database exists; SettingError when one does not, or `alive` says no."""
        deadline = time.monotonic() + timeout_s
        if POSTGRES in self.wanted:
            _poll("PostgreSQL", self._try_postgres, deadline, alive)
        if VALKEY in self.wanted:
            _poll("Valkey", self._try_valkey, deadline, alive)

    def publish(self) -> None:
        """Tell every other process where the servers are."""
        urls = {"database_url": self.database_url, "redis_url": self.redis_url}
        kept = {name: url for name, url in urls.items() if url}
        write_private(self.data_dir / ADDRESS_FILE, json.dumps(kept))

    def close(self) -> None:
        """Take the addresses back, remove what lives only while the servers run, and free the folder."""
        if self._lock is None:
            return
        self._remove_leftovers()
        self._lock.close()
        self._lock = self._home = None

    # --- addresses ---------------------------------------------------------------------------------------------

    @property
    def database_url(self) -> str:
        """Where PostgreSQL is, or an empty text when it is not ours."""
        return self._database_url(DATABASE) if POSTGRES in self.wanted else ""

    @property
    def redis_url(self) -> str:
        """Where Valkey is, or an empty text when it is not ours."""
        if VALKEY not in self.wanted:
            return ""
        return f"redis://:{quote(self._password, safe='')}@127.0.0.1:{self._port}/0"

    def _database_url(self, database: str) -> str:
        folder = quote(str(self._prepared.run_dir / "pg"), safe="")
        return f"postgresql://{DATABASE}@{folder}:5432/{database}"

    @property
    def _prepared(self) -> embedded_home.Home:
        if self._home is None:
            raise RuntimeError("prepare() comes first")
        return self._home

    # --- the two servers ---------------------------------------------------------------------------------------

    def _prepare_postgres(self, home: embedded_home.Home, programs: embedded_home.Programs) -> None:
        home.own_folder(home.run_dir / "pg")
        if (home.storage / POSTGRES).exists():
            return
        fresh = home.storage / f"{POSTGRES}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        home.own_folder(fresh)
        command = [
            str(programs.postgres_bin / "initdb"),
            *("-D", str(fresh), "-U", DATABASE, "--auth=trust", "--no-locale", "--encoding=UTF8"),
            *(() if self._durable else ("--no-sync",)),
        ]
        _run_as(home.user, command)
        fresh.rename(home.storage / POSTGRES)  # whole or not at all: an interrupted start leaves no half a database

    def _postgres_command(self, home: embedded_home.Home, programs: embedded_home.Programs) -> list[str]:
        settings = POSTGRES_SETTINGS | {"unix_socket_directories": str(home.run_dir / "pg")}
        if not self._durable:
            settings |= NOT_DURABLE_SETTINGS
        settings |= self._postgres_settings
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(programs.postgres_bin / "postgres"), "-D", str(home.storage / POSTGRES), *flags]

    def _prepare_valkey(self, home: embedded_home.Home) -> None:
        self._port = free_port(VALKEY_PORTS)
        data = home.own_folder(home.storage / VALKEY)
        config = home.own_folder(home.run_dir / VALKEY) / "valkey.conf"
        lines = [
            "bind 127.0.0.1",
            f"port {self._port}",
            f"requirepass {self._password}",
            f"dir {json.dumps(str(data), ensure_ascii=False)}",
            'save ""',
            f"appendonly {'yes' if self._durable else 'no'}",
            "appendfsync everysec",
            "maxmemory-policy noeviction",
            "loglevel warning",
        ]
        write_private(config, "\n".join(lines) + "\n")
        home.give(config)

    def _try_postgres(self) -> None:
        with psycopg.connect(self._database_url("postgres"), connect_timeout=3, autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if found is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    def _try_valkey(self) -> None:
        with contextlib.closing(redis.Redis.from_url(self.redis_url, socket_timeout=3)) as client:
            client.ping()

    def _remove_leftovers(self) -> None:
        """Remove the addresses and the run folder, this start's or one that kill -9 left behind."""
        (self.data_dir / ADDRESS_FILE).unlink(missing_ok=True)
        note = self.data_dir / RUN_DIR_NOTE
        if note.exists():
            run_dir = Path(note.read_text().strip())
            if run_dir.name.startswith("cc-"):
                shutil.rmtree(run_dir, ignore_errors=True)
            note.unlink()


@contextlib.contextmanager
def running(servers: EmbeddedServers) -> Iterator[EmbeddedServers]:
    """Run the servers as children of this process, addresses published, until the block ends."""
    children: list[subprocess.Popen[bytes]] = []
    try:
        servers.prepare()
        with (servers.data_dir / "servers.log").open("ab") as log:
            children += [
                subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
                for command in servers.commands.values()
            ]
        servers.wait(alive=lambda: all(child.poll() is None for child in children))
        servers.publish()
        yield servers
    finally:
        with undisturbed():
            for child in children:
                child.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown; Valkey takes it as SIGTERM
            for child in children:
                try:
                    child.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            servers.close()


@contextlib.contextmanager
def temporary_servers() -> Iterator[dict[str, str]]:
    """Servers with data in a temporary folder, for a command that leaves nothing behind; yields their settings."""
    # Where PostgreSQL can reach it when we are root: all of it lies in this folder, and goes with it.
    folder = Path(tempfile.mkdtemp(prefix="cryptocraze-", dir=embedded_home.shared_temporary_folder()))
    folder.chmod(0o711)
    try:
        with running(EmbeddedServers(folder / "data", durable=False)) as servers:
            yield {
                "DATABASE_URL": servers.database_url,
                "REDIS_URL": servers.redis_url,
                "SECRET_KEY": secrets.token_urlsafe(48),
            }
    finally:
        with undisturbed():
            shutil.rmtree(folder, ignore_errors=True)


def with_parent(ending: str, command: list[str], user: str = "-") -> list[str]:
    """The command wrapped so that it gets the signal `ending` when its parent dies; `user` is `uid:gid` or `-`."""
    return [sys.executable, "-I", "-S", str(BASE_DIR / "cryptocraze" / "child.py"), ending, user, *command]


def lock_data_dir(data_dir: Path) -> TextIO:
    """Make this process the data folder's owner until the answered file is closed; SettingError if another is."""
    lock = (data_dir / LOCK_FILE).open("a+")
    deadline = time.monotonic() + 0.5  # env.addresses holds it for a moment while it looks whether an owner lives
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            lock.seek(0)
            owner = lock.read().strip()
            lock.close()
            raise SettingError(
                f"process {owner} runs the servers of {data_dir} already: "
                "end it, or set another WEB_PORT or CRYPTOCRAZE_DATA_DIR"
            ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def write_secret_key(data_dir: Path) -> None:
    """Make Django's secret key, once for the folder's life."""
    if not (data_dir / SECRET_KEY_FILE).exists():
        write_private(data_dir / SECRET_KEY_FILE, secrets.token_urlsafe(48))


def write_private(path: Path, content: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as draft:
        draft.write(content)  # mkstemp makes it 0600
    Path(draft.name).rename(path)


def free_port(ports: range) -> int:
    """A TCP port of 127.0.0.1 that nobody listens on right now, drawn at random."""
    for _ in range(100):
        port = secrets.choice(ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise SettingError(f"no free port from {ports.start} to {ports.stop - 1}: set REDIS_URL to a server of your own")


def _run_as(user: embedded_home.ServerUser | None, command: list[str]) -> None:
    done = subprocess.run(
        command,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
    )
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split())
        raise SettingError(f"{Path(command[0]).name} failed: {reason}")


def _poll(name: str, attempt: Callable[[], None], deadline: float, alive: Callable[[], bool]) -> None:
    while True:
        try:
            return attempt()
        except (psycopg.OperationalError, redis.RedisError) as error:
            if time.monotonic() > deadline or not alive():
                raise SettingError(f"the embedded {name} did not start: {error}") from error
            time.sleep(0.05)
