"""Ends asyncio tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any, Final

AGAIN_AFTER_S: Final = 0.5


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended; how they ended is left to who holds them.

    Once is not enough: before Python 3.12 `asyncio.wait_for`, with which redis-py sends, swallows a cancellation that
    arrives together with its result (python/cpython#86296), and the loop it belongs to would go on for ever. A loop
    that does nothing but send can lose many: give it a flag to look at as well.
    A task that cleans up for longer than half a second is cancelled again while it does.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_AFTER_S)
