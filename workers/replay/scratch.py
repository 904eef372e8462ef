"""A scratch database, key prefix and worker processes for a replay, removed afterwards."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psycopg
from django.conf import settings
from psycopg import sql

from workers.redis_client import connect

DELETE_CHUNK: Final = 1000


@contextmanager
def scratch(symbol: str, workers: int) -> Iterator[dict[str, str]]:
    """Create everything, yield the environment of processes that use it, and remove everything, also after an error."""
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
        stack.callback(_forget_keys, f"{name}:")
        _create_database(name)
        stack.callback(_drop_database, name)
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity=0"], env=env, cwd=settings.BASE_DIR, check=True
        )
        for number in range(workers):
            stack.enter_context(_worker(name, number, env))
        yield env


def _database_url(name: str) -> str:
    return urlunsplit(urlsplit(settings.ADDRESSES.database_url)._replace(path=f"/{name}"))


def _create_database(name: str) -> None:
    _outside_a_transaction(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _drop_database(name: str) -> None:
    _outside_a_transaction(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _outside_a_transaction(command: sql.Composed) -> None:
    with psycopg.connect(settings.ADDRESSES.database_url, autocommit=True) as server:
        server.execute(command)


def _forget_keys(prefix: str) -> None:
    client = connect()
    for key in client.scan_iter(match=f"{prefix}*", count=DELETE_CHUNK):
        client.unlink(key)


@contextmanager
def _worker(name: str, number: int, env: dict[str, str]) -> Iterator[None]:
    log_path = Path(tempfile.gettempdir()) / f"{name}-worker-{number}.log"
    command = [
        sys.executable, "-m", "celery", "-A", "cryptocraze", "worker", "-Q", "closures,default", "-c", "1",
        "-n", f"{name}-{number}@localhost", "--without-gossip", "--without-mingle", "--without-heartbeat",
    ]  # fmt: skip
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, env=env, cwd=settings.BASE_DIR, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    except BaseException:
        sys.stderr.write(f"the worker's log: {log_path}\n")
        raise
    else:
        log_path.unlink()
    finally:
        # All is settled or lost with the scratch database: nothing is worth a soft shutdown's wait.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
