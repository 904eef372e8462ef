"""Named SQL statements of health and statistics, one a file beside this one."""

from pathlib import Path

from deals.sql import statements

statement = statements(Path(__file__).parent)
