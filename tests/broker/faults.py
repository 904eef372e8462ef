"""Library faults that cryptocraze/patches.py mends, provoked in a process of its own, with and without patch.

`python faults.py NAME patched|plain`; for the second fault it is also a Celery application (`-A faults`).
"""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

from billiard import pool
from celery import Celery
from celery.fixups.django import DjangoWorkerFixup
from kombu import Connection
from kombu.transport.redis import Channel

PLAIN = (Channel._connparams, DjangoWorkerFixup.close_database, pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT)

import cryptocraze.celery  # noqa: E402 after the plain ones were kept: it applies the patches

if "plain" in (*sys.argv, os.environ.get("FAULTS")):
    Channel._connparams, DjangoWorkerFixup.close_database, pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = PLAIN

app = Celery("faults")
app.config_from_object("django.conf:settings", namespace="CELERY")
assert cryptocraze.celery.app is not app


@app.task(name="faults.backend")
def backend() -> None:
    """Note which PostgreSQL backend serves this task."""
    from django.conf import settings
    from django.db import connection
    from redis import Redis

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
    with Redis.from_url(settings.REDIS_URL) as client:
        client.rpush("faults:backends", pid)


def closing_without_connection() -> None:
    """A channel whose connection was given up needs Redis once more, as it does to put unacknowledged messages back."""
    connection = Connection(os.environ["REDIS_URL"])
    channel = connection.channel()
    connection.collect()  # what the worker does first when Redis goes away
    try:
        channel._create_client()
    except Exception as error:  # noqa: BLE001 its kind is the question
        print(type(error).__name__)  # noqa: T201


def slow_shutdown() -> None:
    """A pool child ends while a message of its own was never read."""
    child = SimpleNamespace(on_ready_counter=SimpleNamespace(value=0))
    pool.Worker._ensure_messages_consumed(child, completed=1)


if __name__ == "__main__":
    {"closing_without_connection": closing_without_connection, "slow_shutdown": slow_shutdown}[sys.argv[1]]()
