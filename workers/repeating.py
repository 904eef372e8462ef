"""A piece of work done again and again in a thread beside a process's real work."""

from __future__ import annotations

import threading
from collections.abc import Callable


class RepeatingThread:
    """Does `work` every `every_s` seconds, at once for the first time or not, while `alive()` says that the process's
    real work goes on.

    So a process whose main loop hangs stops doing it although its threads still run. The errors of `away` say that a
    server cannot be reached: `missed` hears of the first one in a row, not of each.
    """

    def __init__(
        self,
        work: Callable[[], object],
        *,
        name: str,
        every_s: float,
        alive: Callable[[], bool],
        away: tuple[type[Exception], ...],
        missed: Callable[[Exception], None],
        at_once: bool = True,
    ) -> None:
        self._work = work
        self._every_s = every_s
        self._alive = alive
        self._away = away
        self._missed = missed
        self._first_after_s = 0.0 if at_once else every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; waits at most as long as between two turns for one that is under way."""
        self._ended.set()
        self._thread.join(timeout=self._every_s)

    def _run(self) -> None:
        done, pause_s = True, self._first_after_s
        while not self._ended.wait(pause_s):
            pause_s = self._every_s
            if not self._alive():
                continue
            try:
                self._work()
                done = True
            except self._away as error:
                if done:
                    self._missed(error)
                done = False
