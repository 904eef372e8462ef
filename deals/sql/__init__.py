"""Named SQL statements, one a file; the first line of each says what it is for."""

from collections.abc import Callable
from functools import cache
from pathlib import Path


def statements(folder: Path) -> Callable[[str], str]:
    """A function that answers the text of the statement `name`.sql of this folder, and reads each file once."""

    @cache
    def statement(name: str) -> str:
        return (folder / f"{name}.sql").read_text()

    return statement


statement = statements(Path(__file__).parent)
"""The statements of the domain, beside this file."""
