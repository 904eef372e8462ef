"""Work that only one process may do at a time: PostgreSQL advisory locks of a session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


@contextmanager
def alone(lock: int) -> Iterator[bool]:
    """True while this session holds the lock, False when another one does; never waits.

    A lock of the session, not of a transaction: the work commits as it goes. It ends with the connection, so that a
    killed holder frees it. Raises django.db.OperationalError.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [lock])
        row = cursor.fetchone()
    if not (row and row[0]):
        yield False
        return
    try:
        yield True
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [lock])
