"""What can be refused. One class; a stable code, a sentence for people, and the field that is to blame."""

from __future__ import annotations


class DealError(Exception):
    """A request that cannot be done. Nothing was changed.

    code     stable, for programs
    message  one sentence that says what to do
    field    the argument at fault, or None
    """

    def __init__(self, code: str, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


class NotFound(DealError):
    """There is no such deal for this user."""

    def __init__(self, message: str = "There is no such deal.") -> None:
        super().__init__("not_found", message)


class Conflict(DealError):
    """The deal or the system is not in a state that allows it (it is closed, or the state refuses)."""


class Unavailable(DealError):
    """Not now: no price, a stale price, or the system does not run."""
