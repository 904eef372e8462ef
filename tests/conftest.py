"""Test set-up: embedded PostgreSQL and Valkey for the whole run, markers by folder, real worker processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import django
import pytest
import redis
from servers import BIN, CHROMIUM, PROJECT, Process, Valkey
from sharing import HandingOut, TakingTurns, hands_out

from cryptocraze.embedded import EmbeddedServers, running

if TYPE_CHECKING:
    from market import Market

TAPES_DIR = Path(os.environ.get("TAPES_DIR") or PROJECT.parent / "shared" / "tapes")
DEBIAN_PROGRAMS = (
    *("/usr/bin/redis-server", "/usr/lib/postgresql/15/bin/postgres"),
    *("/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/bin/epmd"),
)
# What a developer's shell may hold and no test may depend on.
FOREIGN_SETTINGS = (
    *(
        "CELERY_BROKER_URL",
        "CELERY_QUEUE_TYPE",
        "CRYPTOCRAZE_DATA_DIR",
        "DATABASE_POOL",
        "DEBUG",
        "KEY_PREFIX",
        "PRICE_SOURCE",
        "SYMBOLS",
    ),
    *("REDIS_CA_FILE", "REDIS_DB", "REDIS_HOST", "REDIS_PASSWORD", "REDIS_PORT", "STATIC_ONLY", "WEB_PORT"),
    *("FLOWER_BASIC_AUTH", "FLOWER_EVENTS", "FLOWER_PORT", "LOG_JSON", "PROCESS_NAME", "WORKER_CONCURRENCY"),
    *("METRICS_TOKEN", "CRASH_AT", "WORKER_SOFT_SHUTDOWN_S", "HTTPS_ONLY", "HSTS_S", "NUM_PROXIES", "SILENCED_CHECKS"),
    *("AUDIT_KEEP_DAYS", "OPERATIONS_KEEP"),
)
NO_SERVER = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}

_cleanup = contextlib.ExitStack()
_left_out: list[str] = []


# --- the run ---------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before Django reads its settings: start the servers, unless only unit tests run, which need none."""
    config.addinivalue_line("markers", "browser: needs Chromium, Debian's or Playwright's own")
    config.addinivalue_line(
        "markers", "debian: needs Debian's redis-server and postgresql-15, for TLS, and its rabbitmq-server"
    )
    if os.environ.get("DEBIAN_TESTS") == "required" and (missing := _missing_programs(*DEBIAN_PROGRAMS, str(CHROMIUM))):
        raise pytest.UsageError(f"DEBIAN_TESTS=required, but there is no {', '.join(missing)}")
    if hands_out(config):
        config.pluginmanager.register(HandingOut(config, _left_out))
        # No server and no Django: it runs no test. The others inherit its environment, and would read the settings
        # that our Celery application names before they have servers.
        os.environ.pop("DJANGO_SETTINGS_MODULE", None)
        return
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(TakingTurns(config, _left_out))
    for name in FOREIGN_SETTINGS:
        os.environ.pop(name, None)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "cryptocraze.settings",
        "SECRET_KEY": "only-for-tests",
        "LOG_LEVEL": "WARNING",
        "PYTHONUNBUFFERED": "1",
        "TESTING": "true",
    }
    os.environ |= NO_SERVER if config.option.markexpr == "unit" else _start_servers()
    django.setup()
    import database

    database.install()


def _start_servers() -> dict[str, str]:
    folder = Path(tempfile.mkdtemp(prefix="cryptocraze-test-"))
    folder.chmod(0o711)
    _cleanup.callback(shutil.rmtree, folder)
    servers = _cleanup.enter_context(running(EmbeddedServers(folder / "data", durable=False)))
    return {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}


def pytest_unconfigure() -> None:
    """Stop the servers and remove their data."""
    _cleanup.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark by folder; leave out, and say so, what this machine lacks: recorded tapes, Chromium, Debian's servers."""
    unit, browser = PROJECT / "tests" / "unit", PROJECT / "tests" / "browser"
    for item in items:
        item.add_marker("unit" if item.path.is_relative_to(unit) else "integration")
        if item.path.is_relative_to(browser):
            item.add_marker("browser")
            item.add_marker("alone")
    if not TAPES_DIR.is_dir():
        _leave_out(config, items, "tapes", f"no folder {TAPES_DIR} (TAPES_DIR)")
    if any(item.get_closest_marker("browser") for item in items) and not _has_chromium():
        _leave_out(config, items, "browser", "no Chromium: `playwright install chromium`")
    if missing := _missing_programs(*DEBIAN_PROGRAMS):
        _leave_out(config, items, "debian", f"no {', '.join(missing)}")


def _has_chromium() -> bool:
    """Debian's, or Playwright's own."""
    if CHROMIUM.exists():
        return True
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return Path(playwright.chromium.executable_path).exists()


def _missing_programs(*paths: str) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def _leave_out(config: pytest.Config, items: list[pytest.Item], marker: str, why: str) -> None:
    gone = [item for item in items if item.get_closest_marker(marker)]
    if gone:
        items[:] = [item for item in items if item not in gone]
        config.hook.pytest_deselected(items=gone)
        _left_out.append(f"left out {len(gone)} `{marker}` tests: {why}")


def pytest_report_collectionfinish() -> list[str]:
    """Say before the tests what was left out."""
    return _left_out


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """And after them again."""
    for line in _left_out:
        terminalreporter.write_line(line, yellow=True)


# --- what every test gets ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def clean_redis(request: pytest.FixtureRequest) -> None:
    """An empty Valkey for every test that may use it."""
    if request.node.get_closest_marker("unit") is None:
        with contextlib.closing(redis.Redis.from_url(os.environ["REDIS_URL"])) as client:
            client.flushall()


def _uses_database(request: pytest.FixtureRequest) -> bool:
    marked = request.node.get_closest_marker("django_db") is not None
    return marked or bool({"db", "transactional_db"} & set(request.fixturenames))


@pytest.fixture(autouse=True)
def the_system_runs(request: pytest.FixtureRequest) -> None:
    """The row of the system state: clearing the database after a transactional test takes it away."""
    if not _uses_database(request):
        return
    request.getfixturevalue("_django_db_helper")
    from django.utils import timezone

    from deals.models import SystemState

    SystemState.objects.get_or_create(pk=1, defaults={"changed_at": timezone.now()})


@pytest.fixture
def live(transactional_db: None, the_system_runs: None) -> Iterator[Market]:
    """A running system's prices process, on the wall clock: for what waits for real time."""
    from market import Market

    from workers import system
    from workers.drivers import next_token

    system.refresh_state()
    market = Market(token=next_token())
    yield market
    market.close()


@pytest.fixture(autouse=True)
def ledger_stays_true(request: pytest.FixtureRequest, the_system_runs: None) -> Iterator[None]:
    """After every test that used the database the ledger's invariants hold."""
    if not _uses_database(request):
        yield
        return
    yield  # `the_system_runs` asked for the database first: this check ends before it is cleared
    from deals.queries import ledger_violations

    assert ledger_violations() == []


# --- what a test asks for ---------------------------------------------------------------------------------------


@pytest.fixture
def redis_client() -> Iterator[redis.Redis]:
    """A client of the run's Valkey, answering text."""
    with contextlib.closing(redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)) as client:
        yield client


@pytest.fixture
def tapes_dir() -> Path:
    """The recorded tapes; only for tests marked `tapes`."""
    return TAPES_DIR


@pytest.fixture
def process_env(transactional_db: None) -> dict[str, str]:
    """The environment for a process of ours: the test's own database, committed rows only, logs from INFO on."""
    from django.db import connection

    parts = urlsplit(os.environ["DATABASE_URL"])
    test_database = urlunsplit(parts._replace(path=f"/{connection.settings_dict['NAME']}"))
    return {**os.environ, "DATABASE_URL": test_database, "LOG_LEVEL": "INFO", "LOG_JSON": "true"}


@pytest.fixture
def start_process(tmp_path: Path, process_env: dict[str, str]) -> Iterator[Callable[..., Process]]:
    """Start a program of ours: `start_process("manage.py", "run_prices", …, env={…})`; it is stopped after the test."""
    started: list[Process] = []

    def start(*arguments: str, env: dict[str, str] | None = None) -> Process:
        program = {"celery": [str(BIN / "celery"), "-A", "cryptocraze"]}.get(
            arguments[0], [str(BIN / "python"), arguments[0]]
        )
        log = tmp_path / f"process-{len(started)}.log"
        process = Process([*program, *arguments[1:]], log, process_env | (env or {}))
        started.append(process)
        return process

    yield start
    for process in reversed(started):
        # A worker's soft shutdown takes its time even when it is idle. What a test asserts of it, it asserts itself.
        process.stop(timeout_s=0 if "worker" in process.command else 1)
        print(f"--- {' '.join(process.command)}\n{process.output}")  # noqa: T201 shown when the test fails


@pytest.fixture
def celery_worker(start_process: Callable[..., Process]) -> Callable[..., Process]:
    """Start a real worker and wait until it consumes: `celery_worker(queues="closures", concurrency=2, env={…})`."""

    def start(
        *extra: str, queues: str = "closures,sweep,default", concurrency: int = 1, env: dict[str, str] | None = None
    ) -> Process:
        name = f"test-{os.urandom(4).hex()}@127.0.0.1"
        flags = ["-Q", queues, "-c", str(concurrency), "-n", name, "--without-gossip", "--without-mingle"]
        worker = start_process("celery", "worker", *flags, *extra, env=env)
        worker.wait_for(rf"{name} ready\.")
        return worker

    return start


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey of the test's own, with data that survives kill -9."""
    folder = tmp_path / "valkey"
    folder.mkdir()
    server = Valkey(folder)
    yield server
    server.stop()


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield int(server.getsockname()[1])
