"""Each library fault shows itself without its patch, and is gone with it.

But for the late replacement: it hangs on a race, so that its test fails without the patch only mostly.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from servers import PROJECT, Process, wait_until

from cryptocraze import patches

HERE = Path(__file__).parent
PATH = f"{PROJECT}{os.pathsep}{HERE}"


def provoke(fault: str, how: str, timeout_s: float) -> str:
    command = [sys.executable, str(HERE / "faults.py"), fault, how]
    env = {**os.environ, "PYTHONPATH": PATH}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(("how", "error"), [("plain", "AttributeError"), ("patched", "ConnectionError")])
def test_closing_a_channel_that_lost_its_connection_is_a_lost_connection_and_no_crash(how: str, error: str) -> None:
    assert provoke("closing_without_connection", how, 20) == error


@pytest.mark.parametrize(("how", "connections"), [("plain", 3), ("patched", 1)])
def test_a_worker_keeps_its_database_connection_between_tasks(
    start_process: Callable[..., Process], redis_client: redis.Redis, how: str, connections: int
) -> None:
    env = {"FAULTS": how, "PYTHONPATH": PATH}
    flags = ["-A", "faults", "worker", "-c", "1", "-Q", "default", "--without-gossip", "--without-mingle"]
    worker = start_process("-m", "celery", *flags, env=env)
    worker.wait_for(r"ready\.")
    send = "from faults import backend\nfor _ in range(3): backend.delay()"
    subprocess.run([sys.executable, "-c", send], env={**os.environ, **env}, check=True)
    wait_until(lambda: redis_client.llen("faults:backends") == 3, what="three tasks ran")
    assert len(set(redis_client.lrange("faults:backends", 0, -1))) == connections


def test_a_child_with_an_unread_message_waits_two_seconds_at_its_end_and_not_thirty() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        provoke("slow_shutdown", "plain", 8)
    began = time.monotonic()
    provoke("slow_shutdown", "patched", 8)
    assert time.monotonic() - began < 7


def test_a_killed_child_is_replaced_within_two_seconds(start_process: Callable[..., Process]) -> None:
    flags = ["-A", "faults", "worker", "-c", "1", "-Q", "default", "--without-gossip", "--without-mingle"]
    worker = start_process("-m", "celery", *flags, env={"FAULTS": "patched", "PYTHONPATH": PATH})
    worker.wait_for(r"ready\.")
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
    for _ in range(5):
        [killed] = children.read_text().split()
        os.kill(int(killed), signal.SIGKILL)
        wait_until(lambda old=killed: children.read_text().split() not in ([], [old]), timeout_s=2, what="a new child")


def test_a_patch_refuses_a_version_it_was_not_tested_with() -> None:
    with pytest.raises(patches.PatchError, match=r"celery is 5\.7\.0, but .* mends a fault of 5\.6\.0"):
        patches._require("celery", "5.6.0")


def test_patches_applied_twice_are_the_same() -> None:
    from kombu.transport.redis import Channel

    patches.apply()
    once = Channel._connparams
    patches.apply()
    assert Channel._connparams is once
