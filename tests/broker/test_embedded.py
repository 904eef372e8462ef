"""The embedded servers: started out of their wheels, private, durable, and ended with their owner."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from servers import PROJECT, Process, wait_until

from cryptocraze import embedded_home
from cryptocraze.embedded import EmbeddedServers, free_port, running
from cryptocraze.env import SettingError

OWNER = """
import sys, time
from pathlib import Path
from cryptocraze.embedded import EmbeddedServers, running
with running(EmbeddedServers(Path(sys.argv[1]), durable=False)):
    print("serving", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach, with a space in its name."""
    with tempfile.TemporaryDirectory(prefix="cc test ") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def start(folder: Path) -> EmbeddedServers:
    return EmbeddedServers(folder / "data", durable=False)


def test_both_servers_answer_and_their_addresses_are_published_to_their_owner_only(folder: Path) -> None:
    with running(start(folder)) as servers:
        published = servers.data_dir / "servers.json"
        assert json.loads(published.read_text()) == {
            "database_url": servers.database_url,
            "redis_url": servers.redis_url,
        }
        assert stat.S_IMODE(published.stat().st_mode) == 0o600
        with psycopg.connect(servers.database_url) as connection:
            assert connection.execute("SHOW track_commit_timestamp").fetchone() == ("on",)
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        with contextlib.closing(redis.Redis.from_url(servers.redis_url)) as client:
            assert client.ping()
    assert not published.exists()


def test_valkey_refuses_a_client_without_its_password(folder: Path) -> None:
    with running(start(folder)) as servers:
        port = int(servers.redis_url.rsplit(":", 1)[1].split("/")[0])
        with (
            contextlib.closing(redis.Redis(port=port)) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()


def test_data_and_secret_key_survive_a_restart(folder: Path) -> None:
    servers = EmbeddedServers(folder / "data")
    with running(servers):
        secret = (servers.data_dir / "secret_key").read_text()
        with psycopg.connect(servers.database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        with contextlib.closing(redis.Redis.from_url(servers.redis_url)) as client:
            client.set("kept", "yes")
    with running(EmbeddedServers(folder / "data")) as again:
        with psycopg.connect(again.database_url) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        with contextlib.closing(redis.Redis.from_url(again.redis_url)) as client:
            assert client.get("kept") == b"yes"
        assert (again.data_dir / "secret_key").read_text() == secret


def test_a_second_owner_of_the_same_folder_is_refused_and_disturbs_nothing(folder: Path) -> None:
    with running(start(folder)) as servers:
        with pytest.raises(SettingError, match=f"process {os.getpid()} runs .* WEB_PORT or CRYPTOCRAZE_DATA_DIR"):
            start(folder).prepare()
        assert (servers.data_dir / "servers.json").exists()
        with psycopg.connect(servers.database_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_two_pairs_run_side_by_side(folder: Path) -> None:
    with (
        running(EmbeddedServers(folder / "one", durable=False)) as one,
        running(EmbeddedServers(folder / "two", durable=False)) as two,
    ):
        assert one.redis_url != two.redis_url
        assert one.database_url != two.database_url


def test_kill_9_of_the_owner_ends_both_servers_and_the_next_start_cleans_up(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(folder / "data")]
    owner = Process(command, tmp_path / "owner.log", {**os.environ, "PYTHONPATH": str(PROJECT)})
    owner.wait_for("serving")
    children = _children(owner.pid)
    assert len(children) == 2
    owner.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), what="servers end")
    left_behind = Path((folder / "data" / "run_dir").read_text())
    assert left_behind.exists()
    with running(start(folder)):
        assert not left_behind.exists()


def test_what_an_interrupted_first_start_left_is_made_anew(folder: Path) -> None:
    (folder / "data" / "postgres.new").mkdir(parents=True)
    (folder / "data" / "postgres.new" / "half").touch()
    (folder / "data").chmod(0o711)
    with running(start(folder)) as servers:
        assert servers.database_url


def test_no_permission_of_the_users_folders_is_changed(folder: Path) -> None:
    private = folder / "private"
    private.mkdir(mode=0o700)
    with running(EmbeddedServers(private / "data", durable=False, say=lambda _line: None)):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.stat().st_mode) == 0o711
    if os.geteuid() == 0:
        shutil.rmtree(embedded_home.temporary_storage(private / "data"))


def test_as_root_data_that_must_leave_a_private_folder_goes_to_the_temporary_one_and_it_says_so(
    folder: Path,
) -> None:
    private = folder / "private"
    private.mkdir(mode=0o700)
    said: list[str] = []
    with (
        running(EmbeddedServers(private / "data", durable=False, say=said.append)) as servers,
        psycopg.connect(servers.database_url) as connection,
    ):
        place = connection.execute("SHOW data_directory").fetchone()
    if os.geteuid() != 0:
        assert place == (str(private / "data" / "postgres"),)
        assert said == []
        return
    storage = embedded_home.temporary_storage(private / "data")
    assert place == (str(storage / "postgres"),)
    assert said == [f"{private / 'data'} is private to root: the servers' data is in {storage}"]
    shutil.rmtree(storage)


def test_a_free_port_is_one_that_nobody_listens_on() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(range(port, port + 2)) == port + 1


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return [int(line) for line in listed.stdout.split()]
