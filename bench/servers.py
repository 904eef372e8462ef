"""The bench's own PostgreSQL and Valkey: durable, in a temporary folder, with a fresh database for each scene."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from bench import proc
from bench.errors import NoRoom
from bench.options import Options
from cryptocraze import embedded_home
from cryptocraze.embedded import DATABASE, EmbeddedServers, running
from workers.interrupt import undisturbed

PRISTINE: Final = "pristine"
"""The migrated, empty database that every scene is copied from."""
BYTES_A_DEAL: Final = 6_000
"""Room on the disk for a deal with its postings, events and indexes, the log of their loading, and Redis' file."""
SPARE_BYTES: Final = 2 * 2**30
SAID_BY_US: Final = (
    "DATABASE_POOL",
    "DEBUG",
    "KEY_PREFIX",
    "PRICE_SOURCE",
    "STATIC_ONLY",
    "CELERY_BROKER_URL",
    "FLOWER_EVENTS",
)
"""Settings of a developer's shell that must not change what is measured."""
PROFILE_SETTINGS: Final = {
    "shared_preload_libraries": "pg_stat_statements",
    "track_io_timing": "on",
    "track_wal_io_timing": "on",
}


class Servers:
    """Where they are, which processes they are, and the database made new."""

    def __init__(self, servers: EmbeddedServers) -> None:
        self.folder = servers.data_dir
        self.database_url = servers.database_url
        children = [pid for pid in proc.family(os.getpid()) if pid != os.getpid()]
        self.pids = {
            name: next(pid for pid in children if program in proc.command(pid).split(" ")[0])
            for name, program in (("postgres", "postgres"), ("valkey", "valkey-server"))
        }

    def keep_pristine(self) -> None:
        """Take what the database is now, migrated and empty, as what `fresh_database` gives."""
        self._admin(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(PRISTINE), sql.Identifier(DATABASE))
        )

    def fresh_database(self) -> None:
        """Replace the database by the pristine one. Ends every connection to it."""
        self._admin(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(DATABASE)))
        self._admin(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(DATABASE), sql.Identifier(PRISTINE))
        )

    def _admin(self, command: sql.Composed) -> None:
        url = urlunsplit(urlsplit(self.database_url)._replace(path="/postgres"))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(command)


@contextmanager
def durable_servers(options: Options) -> Iterator[Servers]:
    """Start the servers and set this process's environment for Django; stop and remove everything afterwards.

    fsync, synchronous_commit and AOF everysec as in `make run`. Raises NoRoom, SettingError.
    """
    shared = embedded_home.shared_temporary_folder()
    _check_room(shared, options)
    folder = Path(tempfile.mkdtemp(prefix="cryptocraze-bench-", dir=shared))
    folder.chmod(0o711)  # as root the servers run as another user and must reach their own folders below
    try:
        extra = PROFILE_SETTINGS if options.profile else {}
        with running(EmbeddedServers(folder / "data", durable=True, postgres_settings=extra)) as servers:
            _set_environment(servers, options)
            yield Servers(servers)
    finally:
        with undisturbed():
            shutil.rmtree(folder, ignore_errors=True)


def _check_room(folder: Path, options: Options) -> None:
    largest = max(options.open, 2 * max(options.sizes(100_000)))
    needed = SPARE_BYTES + BYTES_A_DEAL * largest
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoRoom(f"{folder} has {free / 2**30:.1f} GiB free, {needed / 2**30:.1f} are needed: set TMPDIR or --open")


def _set_environment(servers: EmbeddedServers, options: Options) -> None:
    for name in SAID_BY_US:
        os.environ.pop(name, None)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "cryptocraze.settings",
        "DATABASE_URL": servers.database_url,
        "REDIS_URL": servers.redis_url,
        "SECRET_KEY": secrets.token_urlsafe(48),
        "SYMBOLS": ",".join(options.symbol_names),
        "WORKER_SOFT_SHUTDOWN_S": "1",
        "LOG_JSON": "true",
        "LOG_LEVEL": options.log_level,
        "PYTHONUNBUFFERED": "1",
        "PROCESS_NAME": "bench",
    }
