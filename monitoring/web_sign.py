"""The sign of life of a web process, with how many listen to its stream. It lasts while the event loop turns."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import Final

from monitoring.stream import hub
from workers.heartbeats import EVERY_S, Facts, Sign, SignThread

LOOP_HANGS_AFTER_S: Final = 8.0


class WebSign:
    """Begins when made, on the running event loop; ends with the process."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._turn()
        sign = Sign("web", f"{socket.gethostname()}:{os.getpid()}")
        SignThread(sign, facts=_facts, alive=self._turns).start()

    def _turn(self) -> None:
        self._turned_at = time.monotonic()
        self._loop.call_later(EVERY_S / 2, self._turn)

    def _turns(self) -> bool:
        return time.monotonic() - self._turned_at < LOOP_HANGS_AFTER_S


def start() -> None:
    """Give this process its sign, if it serves: a server loads the application on the event loop that will serve it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # only imported
        return
    WebSign()


def _facts() -> Facts:
    return {"listeners": hub.listeners()}
