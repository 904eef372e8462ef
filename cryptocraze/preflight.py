"""What can be wrong with the settings, looked for before `make demo` and `make run` start anything: a line for each.

Run as `python -m cryptocraze.preflight EMBEDDED…`. The settings need an address for every server; those of the embedded
ones (`postgres`, `valkey`) are made up and not asked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from cryptocraze.embedded import POSTGRES, VALKEY

MADE_UP: Final = {POSTGRES: ("DATABASE_URL", "postgresql://embedded/none"), VALKEY: ("REDIS_URL", "redis://embedded/0")}


def environment(embedded: Sequence[str]) -> dict[str, str]:
    """What this module is to be run with: the caller's environment, and what is only known when the servers run."""
    made_up = dict(MADE_UP[name] for name in embedded)
    secret = os.environ.get("SECRET_KEY", "").strip() or "made at the first start"
    return os.environ | made_up | {"SECRET_KEY": secret}


def problems(embedded: Sequence[str]) -> Iterator[str]:
    """What is wrong, each in a sentence or two. Raises SettingError for what cannot even be read."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cryptocraze.settings")
    django.setup()
    from django.core import checks

    wrong = [found for found in checks.run_checks(tags=["cryptocraze"]) if found.level >= checks.ERROR]
    yield from (f"{found.msg} {found.hint}" for found in wrong)
    if not wrong:
        yield from _unreachable(embedded)


def _unreachable(embedded: Sequence[str]) -> Iterator[str]:
    from django.conf import settings
    from django.db import connection
    from redis.exceptions import RedisError

    from workers.dispatch import reach_broker
    from workers.redis_client import connect
    from workers.retry import DATABASE_ERRORS

    if POSTGRES not in embedded:
        try:
            connection.ensure_connection()
        except DATABASE_ERRORS as error:
            yield f"DATABASE_URL: PostgreSQL does not let us in: {_line(error)}"
    if VALKEY not in embedded:
        try:
            connect().ping()
        except RedisError as error:
            name = "REDIS_URL" if os.environ.get("REDIS_URL", "").strip() else "REDIS_HOST"
            yield f"{name}: Redis does not answer: {_line(error)}"
    if settings.CELERY_BROKER_URL != settings.REDIS_URL:
        try:
            reach_broker()
        except Exception as error:  # noqa: BLE001 - whatever the library of that broker raises
            yield f"CELERY_BROKER_URL: the broker does not answer: {_line(error)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def main() -> None:
    """Say what is wrong and end with 1, or say nothing."""
    found = list(problems(sys.argv[1:]))
    sys.exit("\n".join(f"cryptocraze: {problem}" for problem in found) or 0)


if __name__ == "__main__":
    main()
