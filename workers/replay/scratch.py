"""A scratch database and key prefix for a replay, removed afterwards whatever happens."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import psycopg
from django.conf import settings
from psycopg import sql

from workers.redis_client import connect
from workers.replay.errors import ReplayError

FORGET_CHUNK: Final = 1000


class Scratch(NamedTuple):
    """The name of what was created, and the environment of processes that are to use it."""

    name: str
    env: dict[str, str]


@contextmanager
def scratch(symbol: str) -> Iterator[Scratch]:
    """Create database and prefix, yield them, remove them. Raises ReplayError, psycopg.Error, redis.RedisError."""
    name = f"cryptocraze_replay_{secrets.token_hex(4)}"
    env = os.environ | {
        "DATABASE_URL": _database_url(name),
        "REDIS_URL": settings.REDIS_URL,
        "KEY_PREFIX": f"{name}:",
        "SECRET_KEY": settings.SECRET_KEY,
        "SYMBOLS": symbol,
        "STATIC_ONLY": "false",
        "LOG_LEVEL": os.environ.get("LOG_LEVEL", "WARNING"),
        "PROCESS_NAME": "replay",
        "CELERY_BROKER_URL": settings.REDIS_URL,
    }
    with ExitStack() as stack:
        # Each removal is registered before the creation: a signal may arrive in between.
        stack.callback(_forget_keys, f"{name}:")
        stack.callback(_drop_database, name)
        connect().ping()
        _create_database(name)
        _migrate(env)
        yield Scratch(name, env)


def _database_url(name: str) -> str:
    return urlunsplit(urlsplit(settings.ADDRESSES.database_url)._replace(path=f"/{name}"))


def _create_database(name: str) -> None:
    _outside_a_transaction(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _drop_database(name: str) -> None:
    _outside_a_transaction(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _outside_a_transaction(command: sql.Composed) -> None:
    with psycopg.connect(settings.ADDRESSES.database_url, autocommit=True, connect_timeout=3) as server:
        server.execute(command)


def _migrate(env: dict[str, str]) -> None:
    command = [sys.executable, "manage.py", "migrate", "--verbosity=0"]
    # In a session of its own: Ctrl-C in the terminal is ours alone to handle.
    done = subprocess.run(
        command, env=env, cwd=settings.BASE_DIR, capture_output=True, text=True, check=False, start_new_session=True
    )
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ReplayError(f"the scratch database could not be migrated: {last_line}")


def _forget_keys(prefix: str) -> None:
    client = connect()
    for key in client.scan_iter(match=f"{prefix}*", count=FORGET_CHUNK):
        client.unlink(key)
