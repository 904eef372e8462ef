"""Named places where a test may have this process killed, at every step from opening a deal to its settlement.

`CRASH_AT=name` or `CRASH_AT=name:3` (the third time) names one; it is honoured only where `TESTING=true`, and refused
at the start anywhere else. Unless a process was started like that, a point is one comparison with None.
"""

from __future__ import annotations

import os
import signal
from typing import Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

POINTS: Final = frozenset({
    # opening, amending
    "open.before_write", "open.before_commit", "change.before_signal",
    # arming
    "arm.before_book", "arm.before_row", "arm.before_sending",
    # firing
    "fire.before_script", "fire.after_script", "fire.before_sending",
    # handing over
    "hand_over.before_message", "hand_over.after_message",
    # settling
    "settle.before_locks", "settle.after_locks", "settle.before_commit", "settle.after_commit",
    "settle.before_clearing", "settle.before_announcing", "announce.before_commit", "settle.before_end",
    # settling in the process that has them in its hands, when no worker can be told
    "alone.before_clearing", "alone.before_announcing", "alone.before_resolving", "alone.before_burying",
    "alone.before_clearing_buried",
    # what is behind: the sweep, rebuilding, dead letters
    "sweep.before_advancing", "sweep.before_sending", "resend.before_sending", "expire.before_rows",
    "rebuild.between_ranges", "bury.before_commit", "bury.before_clearing", "requeue.before_commit",
    "requeue.before_sending",
})  # fmt: skip
"""Every point of the code; a test compares this list with the calls."""

_armed: str | None = None
_left = 0


def crash_point(name: str) -> None:
    """Kill this process with SIGKILL if it was told to crash here."""
    if _armed is not None and name == _armed:
        _reached()


def arm(text: str) -> None:
    """Crash at `name` or `name:nth`; an empty text means nowhere. Raises ImproperlyConfigured outside of tests."""
    global _armed, _left  # noqa: PLW0603 one for the process, like the process's end
    if not text:
        _armed = None
        return
    name, _, nth = text.partition(":")
    if not settings.TESTING:
        raise ImproperlyConfigured("CRASH_AT kills this process on purpose: it is for tests (TESTING=true) only")
    if name not in POINTS or not (nth or "1").isdigit():
        raise ImproperlyConfigured(f"CRASH_AT={text}: there is no such crash point")
    _armed, _left = name, int(nth or 1)


def _reached() -> None:
    global _left  # noqa: PLW0603 as above
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
