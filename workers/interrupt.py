"""Ctrl-C, SIGTERM and a closed terminal as an exception, so that what a command has set up is taken down again."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_AFTER_S: Final = 0.01


class Interrupted(BaseException):
    """A signal asks to end. No Exception, so that no `except Exception` on the way can swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted in the main thread at the first such signal, and ignore the following ones for good.

    The clean-up takes a second or two; a second Ctrl-C in it would leave the half behind. A signal that strikes inside
    a `__del__` or another callback whose exceptions Python drops is raised again after it, by SIGALRM.
    """
    before = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    hook = sys.unraisablehook
    sys.unraisablehook = _raise_again
    interrupted = False
    try:
        yield
    except Interrupted:
        interrupted = True
        raise
    finally:
        sys.unraisablehook = hook
        if not interrupted:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let such a signal wait until the block has ended, which takes something down: half of it would stay behind.

    Does nothing outside the main thread, which alone is signalled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _interrupt(number: int, _frame: FrameType | None) -> None:
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(number)


def _raise_again(dropped: UnraisableHookArgs) -> None:
    if not isinstance(dropped.exc_value, Interrupted):
        sys.__unraisablehook__(dropped)
        return
    number = dropped.exc_value.number
    signal.signal(signal.SIGALRM, lambda _alarm, frame: _interrupt(number, frame))
    signal.setitimer(signal.ITIMER_REAL, AGAIN_AFTER_S)
