"""A worker that can not go on ends, so that its supervisor starts another one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import PROJECT, Process, wait_until

from cryptocraze.celery import app
from workers import ending

PATH = f"{PROJECT}{os.pathsep}{Path(__file__).parent}"
TIME_LIMIT_S, SOFT_SHUTDOWN_S = 2, 1
LIMIT_S = TIME_LIMIT_S + SOFT_SHUTDOWN_S + ending.SLACK_S


def test_every_worker_of_ours_ends_in_time() -> None:
    assert ending.EndInTime in app.steps["worker"]


@pytest.mark.faults
@pytest.mark.parametrize("how", ["plain", "patched"])
def test_a_worker_that_finds_half_a_message_in_its_pool_ends(start_process: Callable[..., Process], how: str) -> None:
    env = {
        "FAULTS": how, "PYTHONPATH": PATH, "WORKER_SOFT_SHUTDOWN_S": str(SOFT_SHUTDOWN_S),
        "TIME_LIMIT": str(TIME_LIMIT_S),
    }  # fmt: skip
    flags = ["-A", "faults", "worker", "-c", "1", "-Q", "default", "--without-gossip", "--without-mingle"]
    worker = start_process("-m", "celery", *flags, env=env)
    worker.wait_for(r"ready\.")
    send = "from faults import half_a_message\nhalf_a_message.delay()"
    subprocess.run([sys.executable, "-c", send], env={**os.environ, **env}, check=True)
    worker.wait_for("Unrecoverable error")
    if how == "plain":
        with pytest.raises(AssertionError, match="it ends"):
            wait_until(lambda: not worker.alive, LIMIT_S + 2, what="it ends")
        return
    wait_until(lambda: not worker.alive, 4 * LIMIT_S, what="it ends")
    assert "it is ended" in worker.output
