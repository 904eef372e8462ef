"""One piece of work for all who ask for it at the same moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Who asks while the work is being done for someone else shares its result, if it began at most `young_s` ago.

    Nothing is kept: who asks later has it done anew.
    """

    def __init__(self, work: Callable[[], T], young_s: float) -> None:
        self._work = work
        self._young_s = young_s
        self._lock = threading.Lock()
        self._running: Future[T] | None = None
        self._began_s = 0.0

    def ask(self) -> T:
        """The result, or what the work raised."""
        with self._lock:
            running = self._running
            if running is not None and not running.done() and time.monotonic() - self._began_s <= self._young_s:
                mine = None
            else:
                running = mine = self._running = Future()
                self._began_s = time.monotonic()
        if mine is not None:
            try:
                mine.set_result(self._work())
            except BaseException as error:  # whoever waits must hear of it, whatever it is
                mine.set_exception(error)
                raise
        return running.result()
