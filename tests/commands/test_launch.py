"""`make demo` and `make run` as a person sees them, with small programs in the Procfile's place."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from servers import Process, wait_until

from cryptocraze.embedded import VALKEY_PORTS, free_port

PROCFILE = """
web: exec env PROCESS_NAME=web python -m http.server --bind 127.0.0.1 "$WEB_PORT"
worker: exec sleep 603
prices: echo "source=$PRICE_SOURCE events=$FLOWER_EVENTS"; exec sleep 604
traders: exec sleep 605
"""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a space in its name, that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="cc launch ") as name:
        Path(name).chmod(0o711)
        (Path(name) / "Procfile").write_text(PROCFILE)
        yield Path(name)


@pytest.fixture
def launch(folder: Path) -> Iterator[Callable[..., Process]]:
    """Start the launcher and wait for its table; ended with everything it started after the test."""
    started: list[Process] = []

    def start(mode: str = "run", *, ready: bool = True, **settings: str) -> Process:
        env = {
            name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL", "SECRET_KEY"}
        }
        env |= {
            "WEB_PORT": str(free_port(VALKEY_PORTS)),
            "FLOWER_PORT": str(free_port(VALKEY_PORTS)),
            "CRYPTOCRAZE_DATA_DIR": str(folder / "data"),
        }
        command = [sys.executable, "-m", "cryptocraze.launch", mode, "--procfile", str(folder / "Procfile")]
        process = Process(command, folder / f"launch-{len(started)}.log", env | settings)
        started.append(process)
        if ready:
            process.wait_for("Ctrl-C stops everything", timeout_s=90)
        return process

    yield start
    for process in started:
        process.signal(signal.SIGTERM)
        process.process.wait(60)
        print(process.output)  # noqa: T201 shown when the test fails


def of_launcher(pid: int) -> dict[int, str]:
    """Every process that descends from this one, by id, with its command line."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return {member: commands[member] for member in family - {pid}}


def one(pid: int, part: str) -> int:
    """The one process of the launcher whose command line has this part."""
    [found] = [member for member, command in of_launcher(pid).items() if re.search(part, command)]
    return found


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_run_starts_servers_and_programs_says_where_they_are_and_ctrl_c_ends_them_all(
    launch: Callable[..., Process], folder: Path
) -> None:
    with (folder / "Procfile").open("a") as procfile:
        procfile.write('stubborn: trap "" TERM; exec sleep 601\n')
        procfile.write("parent: sleep 602 & exec sleep 606\n")  # at its end a child of its own is left
        procfile.write("careless: mktemp && exec sleep 607\n")
    launcher = launch("run")
    assert "source=binance events=true" in launcher.output
    assert "admin / " in launcher.output
    wait_until(lambda: re.search(r"^/\S+/tmp\.\w+$", launcher.output, re.MULTILINE), what="a temporary file")
    [left_behind] = re.findall(r"^/\S+/tmp\.\w+$", launcher.output, re.MULTILINE)
    assert Path(left_behind).exists()
    family = of_launcher(launcher.pid)
    assert any("sleep 603" in command for command in family.values())
    assert not any("sleep 605" in command for command in family.values()), "traders are the demo's alone"
    launcher.signal(signal.SIGINT)
    launcher.wait_for("stopping")
    launcher.signal(signal.SIGINT)  # the impatient second Ctrl-C
    assert launcher.process.wait(60) == 0
    assert "nothing is left running" in launcher.output
    assert all(is_gone(pid) for pid in family)
    assert not (folder / "data" / "servers.json").exists()
    assert not Path(left_behind).exists()


@pytest.mark.alone
def test_what_dies_comes_back_within_two_seconds_servers_too_at_the_same_address(
    launch: Callable[..., Process], folder: Path
) -> None:
    launcher = launch("run")
    published = (folder / "data" / "servers.json").read_text()
    for part in (r"http\.server", r"sleep 603", r"bin/postgres -D", "valkey-server"):
        victim = one(launcher.pid, f"^(?!.*supervisor).*{part}")
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        wait_until(
            lambda part=part, victim=victim: any(
                re.search(part, command) and pid != victim and not is_gone(pid)
                for pid, command in of_launcher(launcher.pid).items()
            ),
            what=part,
        )
        assert time.monotonic() - killed < 2
    assert (folder / "data" / "servers.json").read_text() == published
    database, cache = re.findall(r'"(\w+://[^"]+)"', published)
    wait_until(lambda: answers(lambda: psycopg.connect(database).close()), what="PostgreSQL")
    wait_until(lambda: answers(lambda: redis.Redis.from_url(cache).close()), what="Valkey")


def test_supervisord_itself_comes_back(launch: Callable[..., Process]) -> None:
    launcher = launch("run")
    os.kill(one(launcher.pid, "supervisor.supervisord"), signal.SIGKILL)
    launcher.wait_for("supervisord died")
    port = re.search(r"http://127.0.0.1:(\d+)/admin", launcher.output)
    assert port
    wait_until(lambda: answers(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/")), 30, "web")


def test_kill_9_of_the_launcher_leaves_nothing_running(launch: Callable[..., Process], folder: Path) -> None:
    launcher = launch("run")
    family = of_launcher(launcher.pid)
    launcher.kill()
    wait_until(lambda: all(is_gone(pid) for pid in family), 40, "everything ended")
    shutil.rmtree((folder / "data" / "run_dir").read_text())  # the next start would


def test_a_second_start_keeps_the_data_and_the_login(launch: Callable[..., Process], folder: Path) -> None:
    first = launch("run")
    login = (folder / "data" / "flower_login").read_text()
    first.signal(signal.SIGTERM)
    assert first.process.wait(60) == 0
    launch("run")
    assert (folder / "data" / "flower_login").read_text() == login


def test_a_second_launcher_on_the_same_data_ends_with_one_line(launch: Callable[..., Process]) -> None:
    first = launch("run")
    second = launch("run", ready=False)
    assert second.process.wait(30) == 1
    assert second.output.splitlines() == [
        line for line in second.output.splitlines() if f"process {first.pid} runs the servers of" in line
    ]
    assert first.alive


def test_a_taken_port_is_named(launch: Callable[..., Process]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        launcher = launch("run", ready=False, FLOWER_PORT=str(port))
        assert launcher.process.wait(30) == 1
    assert (
        launcher.output == f"cryptocraze: port {port} is not free (Address already in use): set another FLOWER_PORT\n"
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL must be one of DEBUG, INFO, WARNING, ERROR, not 'LOUD'"),
        ({"SYMBOLS": "BTC!USDT"}, "SYMBOLS names no symbol, or one that is none: BTC!USDT. List exchange symbols"),
        ({"DATABASE_URL": "postgresql://cc@127.0.0.1:1/cc"}, "DATABASE_URL: PostgreSQL does not let us in: connection"),
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "REDIS_URL: Redis does not answer: Error 111 connecting"),
        ({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": "1"}, "REDIS_HOST: Redis does not answer: Error 111 connecting"),
        ({"CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}, "CELERY_BROKER_URL: the broker does not answer: Error 111"),
    ],
)
def test_a_wrong_setting_is_one_line_and_nothing_is_started(
    launch: Callable[..., Process], folder: Path, settings: dict[str, str], said: str
) -> None:
    launcher = launch("run", ready=False, **settings)
    assert launcher.process.wait(120) == 1
    [line] = launcher.output.splitlines()
    assert line.startswith(f"cryptocraze: {said}")
    assert not (folder / "data" / "postgres").exists()


def test_static_only_runs_the_web_process_alone(launch: Callable[..., Process]) -> None:
    launcher = launch("run", STATIC_ONLY="true")
    assert "STATIC_ONLY: only web runs" in launcher.output
    assert not any("sleep" in command for command in of_launcher(launcher.pid).values())


def test_servers_of_ones_own_are_used_and_none_is_started(launch: Callable[..., Process], folder: Path) -> None:
    launcher = launch("run", DATABASE_URL=os.environ["DATABASE_URL"], REDIS_URL=os.environ["REDIS_URL"])
    family = " ".join(of_launcher(launcher.pid).values())
    assert "postgres -D" not in family
    assert "valkey-server" not in family
    assert not (folder / "data" / "postgres").exists()


def answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except (OSError, psycopg.OperationalError, redis.RedisError):
        return False
    return True
