#!/usr/bin/env python
"""Django's command line for this project; what it can do: `python manage.py help`."""

import contextlib
import os
import sys
from collections.abc import Iterator

from cryptocraze import env

RUNS_ALONE = {"replay", "makemigrations"}
"""Commands that leave nothing behind: where no server is known they run on temporary embedded ones."""


def main() -> None:
    """Run the command named on the command line; a wrong setting ends it with one line."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cryptocraze.settings")
    from django.core.management import execute_from_command_line

    with _servers_for(sys.argv[1:2]):
        execute_from_command_line(sys.argv)


@contextlib.contextmanager
def _servers_for(command: list[str]) -> Iterator[None]:
    if not RUNS_ALONE.intersection(command) or env.servers_known():
        yield
        return
    from cryptocraze.embedded import temporary_servers
    from workers.interrupt import Interrupted, interruptible

    try:
        with interruptible(), temporary_servers() as addresses:
            os.environ |= addresses
            yield
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.number)


if __name__ == "__main__":
    main()
