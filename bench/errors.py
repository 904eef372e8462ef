"""What ends a run early. The text is one line for the person who started it."""

from __future__ import annotations


class NoRoom(Exception):
    """The disk is too full; the text says how much is needed."""


class Trouble(Exception):
    """The system did not do what the scene expects of it; the text says what."""


class Unavailable(Exception):
    """A peer cannot be had here; the text says why."""
