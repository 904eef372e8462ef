"""Named SQL statements of the workers, one a file beside this one; the first line of each says what it is for."""

from pathlib import Path

from deals.sql import statements

statement = statements(Path(__file__).parent)
