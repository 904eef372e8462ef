"""One connection's queue. It is bounded: who reads too slowly is dropped and comes back, nobody waits for him."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from monitoring.stream.wire import Part, Place

MOST_PARTS: Final = 1_000
LONGEST_LAG_S: Final = 15.0


class Listener:
    """Belongs to one event loop. `cursor` is the place after which it wants the log; None: from now on.

    `begun` says that it gets the log's events; before that, the log could not be read. `seen` is the place of the last
    event of the log that was given to the connection.
    """

    def __init__(self, cursor: str | None) -> None:
        self.cursor = cursor
        self.begun = False
        self.waited = False
        self.seen: Place | None = None
        self.ended = False
        self._task = asyncio.current_task()
        self._parts: deque[Part] = deque()
        self._wake = asyncio.Event()
        self._waiting_since = 0.0

    def offer(self, part: Part) -> bool:
        """Queue something; False when the connection is too far behind, and nothing more is to be queued."""
        now = asyncio.get_running_loop().time()
        if not self._parts:
            self._waiting_since = now
        self._parts.append(part)
        self._wake.set()
        return len(self._parts) <= MOST_PARTS and now - self._waiting_since <= LONGEST_LAG_S

    async def take(self) -> list[Part]:
        """Everything that is queued, as soon as there is something; nothing when it has ended."""
        await self._wake.wait()
        self._wake.clear()
        parts = list(self._parts)
        self._parts.clear()
        return [] if self.ended else parts

    def wants(self, part: Part) -> bool:
        """Whether a part is to be sent: what the log does not know always, an event of the log once and in order."""
        if part.place is None:
            return True
        if not self.begun or not (part.resets or self.seen is None or part.place > self.seen):
            return False
        self.seen = part.place
        return True

    def forget_log(self) -> None:
        """Take back what is queued of the log."""
        self._parts = deque(part for part in self._parts if part.place is None and part.begins is None)

    def end(self) -> None:
        """Let the connection end after what was given to it."""
        self.ended = True
        self._parts.clear()
        self._wake.set()

    def drop(self) -> None:
        """End the connection although it may be stuck in sending: its task is cancelled."""
        self.end()
        if self._task is not None:
            self._task.cancel()
