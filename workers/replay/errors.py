"""What a replay refuses or gives up on. The text is one line for the person who started it."""

from __future__ import annotations

from pathlib import Path


class PlanError(Exception):
    """The deals file can't be used; the text names file, line (from 1; None: all of it) and reason."""

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        where = str(path) if line is None else f"{path}: line {line}"
        super().__init__(f"{where}: {reason}")


class ReplayError(Exception):
    """The replay did not do what it must; the text says what."""
