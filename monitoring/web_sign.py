"""The sign of life of a web process, with how many listen to its stream, and its turn at sampling the queues.

Both last while the event loop turns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from monitoring.depths import DepthThread
from monitoring.stream import hub
from workers.heartbeats import EVERY_S, Facts, Sign, SignThread, process_name

LOOP_HANGS_AFTER_S: Final = 8.0

Message = dict[str, Any]


class WebSign:
    """Begins when made, on the running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._turn()
        sign = Sign("web", process_name())
        self._thread = SignThread(sign, facts=_facts, alive=self._turns)
        self._depths = DepthThread(alive=self._turns)
        self._thread.start()
        self._depths.start()

    async def end(self) -> None:
        """Take it away: the process ends in order."""
        self._timer.cancel()
        await asyncio.gather(asyncio.to_thread(self._thread.stop), asyncio.to_thread(self._depths.stop))

    def _turn(self) -> None:
        self._turned_at = time.monotonic()
        self._timer = self._loop.call_later(EVERY_S / 2, self._turn)

    def _turns(self) -> bool:
        return time.monotonic() - self._turned_at < LOOP_HANGS_AFTER_S


async def lifespan(receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    """ASGI's lifespan protocol, which Django leaves to others: the sign begins and ends with the server."""
    await receive()
    sign = WebSign()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await sign.end()
    await send({"type": "lifespan.shutdown.complete"})


def _facts() -> Facts:
    return {"listeners": hub.listeners()}
