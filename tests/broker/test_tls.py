"""TLS to Debian's Redis and PostgreSQL: every client of ours checks the certificate and the host name."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from servers import PROJECT, Process

from cryptocraze.embedded import VALKEY_PORTS, free_port
from cryptocraze.embedded_home import server_user

pytestmark = pytest.mark.debian

POSTGRES_BIN = Path("/usr/lib/postgresql/15/bin")
# One look through every door: the workers' client, the cache under its fallback, Celery's broker, the database.
LOOK = """
import django; django.setup()
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from cryptocraze.celery import app
from workers.redis_client import connect
def database():
    with connection.cursor() as cursor:
        cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert cursor.fetchone() == (True,)
def broker():
    with app.connection() as opened:
        opened.ensure_connection(max_retries=1, timeout=3)
        opened.default_channel.client.ping()
doors = {"redis": lambda: connect().ping(), "cache": lambda: cache._cache.set("a", 1, 9)}
doors |= {"broker": broker, "database": database}
for name, look in doors.items():
    try:
        look()
        print(name, "ok")
    except Exception as error:
        print(name, "refused" if "certificate verify failed" in str(error).lower() else repr(error))
"""


class Secure(NamedTuple):
    """A Redis and a PostgreSQL that speak TLS with a certificate for `localhost`, and their CA."""

    redis_port: int
    postgres_port: int
    ca_file: Path
    other_ca_file: Path


@pytest.fixture(scope="module")
def secure() -> Iterator[Secure]:
    """Both servers, as another user when we are root."""
    with tempfile.TemporaryDirectory(prefix="cc-tls-") as name, contextlib.ExitStack() as cleanup:
        folder = Path(name)
        folder.chmod(0o755)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
        certificate = authority.issue_cert("localhost")
        redis_port = free_port(VALKEY_PORTS)
        postgres_port = free_port(VALKEY_PORTS)
        cleanup.callback(start_redis(folder, certificate, redis_port).stop)
        cleanup.callback(start_postgres(folder, certificate, postgres_port).stop)
        yield Secure(redis_port, postgres_port, folder / "ca.pem", folder / "other.pem")


def write_certificate(folder: Path, certificate: trustme.LeafCert) -> None:
    certificate.private_key_pem.write_to_path(str(folder / "server.key"))
    with (folder / "server.pem").open("wb") as chain:
        chain.writelines(blob.bytes() for blob in certificate.cert_chain_pems)
    (folder / "server.key").chmod(0o600)


def start_redis(folder: Path, certificate: trustme.LeafCert, port: int) -> Process:
    home = folder / "redis"
    home.mkdir()
    write_certificate(home, certificate)
    command = [
        "/usr/bin/redis-server",
        "--port",
        "0",
        "--tls-port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(home),
    ]
    command += ["--tls-cert-file", str(home / "server.pem"), "--tls-key-file", str(home / "server.key")]
    command += ["--tls-ca-cert-file", str(folder / "ca.pem"), "--tls-auth-clients", "no", "--save", ""]
    redis = Process(command, folder / "redis.log", {})
    redis.wait_for("Ready to accept connections")
    return redis


def start_postgres(folder: Path, certificate: trustme.LeafCert, port: int) -> Process:
    home = folder / "postgres"
    home.mkdir(mode=0o700)
    user = server_user()
    identity = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}
    if user is not None:
        os.chown(home, user.uid, user.gid)
    initdb = [str(POSTGRES_BIN / "initdb"), "-D", str(home), "-U", "tester", "--auth=trust", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, cwd="/", **identity)
    write_certificate(home, certificate)
    if user is not None:
        for path in (home / "server.key", home / "server.pem"):
            os.chown(path, user.uid, user.gid)
    settings = {"listen_addresses": "localhost", "port": port, "unix_socket_directories": "", "ssl": "on"}
    settings |= {"ssl_cert_file": "server.pem", "ssl_key_file": "server.key", "fsync": "off"}
    flags = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    drop = [] if user is None else [shutil.which("setpriv") or "setpriv", f"--reuid={user.uid}", f"--regid={user.gid}"]
    drop += [] if user is None else ["--clear-groups"]
    server = Process([*drop, str(POSTGRES_BIN / "postgres"), "-D", str(home), *flags], folder / "postgres.log", {})
    server.wait_for("database system is ready")
    return server


def look(secure: Secure, *, ca_file: Path, host: str = "localhost") -> dict[str, str]:
    """Go through every door in a process of its own; answers what happened at each."""
    database = f"postgresql://tester@{host}:{secure.postgres_port}/postgres?sslmode=verify-full&sslrootcert={ca_file}"
    env = {
        **os.environ,
        "DATABASE_URL": database,
        "REDIS_URL": f"rediss://{host}:{secure.redis_port}/0",
        "REDIS_CA_FILE": str(ca_file),
        "PYTHONPATH": str(PROJECT),
    }
    done = subprocess.run([sys.executable, "-c", LOOK], env=env, capture_output=True, text=True, timeout=60, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_every_client_connects_with_the_right_authority(secure: Secure) -> None:
    assert look(secure, ca_file=secure.ca_file) == dict.fromkeys(("redis", "cache", "broker", "database"), "ok")


def test_every_client_refuses_a_server_of_another_authority(secure: Secure) -> None:
    found = look(secure, ca_file=secure.other_ca_file)
    assert found == dict.fromkeys(("redis", "cache", "broker", "database"), "refused")


def test_every_client_refuses_a_certificate_for_another_host_name(secure: Secure) -> None:
    found = look(secure, ca_file=secure.ca_file, host="127.0.0.1")
    assert {found.pop(name) for name in ("redis", "cache", "broker")} == {"refused"}
    assert 'server certificate for "localhost" does not match host name "127.0.0.1"' in found["database"]


def test_a_celery_worker_runs_on_a_tls_broker(secure: Secure, tmp_path: Path) -> None:
    env = {
        **os.environ,
        "REDIS_URL": f"rediss://localhost:{secure.redis_port}/0",
        "REDIS_CA_FILE": str(secure.ca_file),
        "LOG_LEVEL": "INFO",
    }
    command = [sys.executable, "-m", "celery", "-A", "cryptocraze", "worker", "-c", "1", "--without-mingle"]
    worker = Process(command, tmp_path / "worker.log", env)
    try:
        worker.wait_for(r"ready\.")
    finally:
        worker.stop(timeout_s=1)
