"""The README lists what a reader can set."""

from __future__ import annotations

import re

from servers import PROJECT

READ = re.compile(
    r"""(?:text|flag|number|words|choice|rate)\(\s*"([A-Z_]{4,})"|environ(?:\.get\(|\[)\s*"([A-Z_]{4,})\""""
)
OURS_TO_SET = {
    *("DEMO", "DJANGO_SETTINGS_MODULE", "PATH", "PROCESS_NAME", "REMAP_SIGTERM", "FORCE_COLOR"),
    *("CRASH_AT", "TESTING"),
}
"""What the launcher, the Procfile and the tests say to the processes, not what a user says to us."""


def test_every_variable_that_the_code_reads_stands_in_the_readme() -> None:
    code = "".join(path.read_text() for path in (PROJECT / "cryptocraze").glob("*.py"))
    names = {first or second for first, second in READ.findall(code)} - OURS_TO_SET
    assert len(names) > 25, "the pattern no longer finds the settings"
    readme = (PROJECT / "README.md").read_text()
    assert sorted(name for name in names if f"`{name}`" not in readme) == []


def test_every_variable_of_the_readme_is_read() -> None:
    table = re.findall(r"^\| ((?:`[A-Z_]{5,}`(?:, )?)+)", (PROJECT / "README.md").read_text(), re.MULTILINE)
    listed = {name for row in table for name in re.findall(r"`([A-Z_]{5,})`", row)}
    assert len(listed) > 25
    code = "".join(path.read_text() for path in PROJECT.glob("cryptocraze/*.py"))
    assert sorted(name for name in listed if f'"{name}"' not in code) == []
