"""Named SQL statements, one a file beside this one; the first line of each says what it is for."""

from functools import cache
from pathlib import Path


@cache
def statement(name: str) -> str:
    """The text of `name`.sql."""
    return (Path(__file__).parent / f"{name}.sql").read_text()
