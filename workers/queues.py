"""What the broker knows of its queues, asked through kombu, and the time stamp that our messages carry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from celery import current_app
from celery.signals import before_task_publish
from django.conf import settings
from kombu.exceptions import OperationalError as BrokerError

from workers.clock import WALL_CLOCK

SENT_HEADER: Final = "sent_ms"
TIMEOUTS: Final = frozenset({"socket_timeout", "socket_connect_timeout", "read_timeout", "write_timeout"})
"""The transport options of Redis and RabbitMQ that bound how long is waited."""


class Waiting(NamedTuple):
    """The messages that wait in a queue; those being worked on do not count.

    `oldest_sent_ms` (ms since 1970) is None when none waits, and where a broker shows no message without taking it.
    """

    queue: str
    depth: int
    oldest_sent_ms: int | None


def connect_signals() -> None:
    """Called once when the application starts."""
    before_task_publish.connect(stamp, dispatch_uid="workers.queues.stamp")


def stamp(headers: dict[str, Any], **_signal: Any) -> None:
    """Receives `before_task_publish`: a message carries no time of its own."""
    headers[SENT_HEADER] = WALL_CLOCK.now_ms()


def names() -> list[str]:
    """Every queue of ours."""
    return [queue.name for queue in settings.CELERY_TASK_QUEUES]


def depth(queue: str) -> int:
    """How many messages wait in a queue; those being worked on do not count. Raises kombu's OperationalError."""
    with _channel() as channel:
        return _depth(channel, queue)


def waiting(timeout_s: float) -> list[Waiting]:
    """What waits in each of our queues. Raises kombu's OperationalError."""
    hurried = dict.fromkeys(TIMEOUTS & settings.CELERY_BROKER_TRANSPORT_OPTIONS.keys(), timeout_s)
    with _channel(connect_timeout=timeout_s, transport_options=hurried) as channel:
        return [_waiting(channel, queue) for queue in names()]


@contextmanager
def _channel(**options: Any) -> Iterator[Any]:
    """A channel of a connection of its own. Raises kombu's OperationalError, whatever the broker's library raises."""
    link: Any = current_app.connection_for_read(**options)
    try:
        with link as connection, connection.channel() as channel:
            yield channel
    except (*link.connection_errors, *link.channel_errors) as error:
        raise BrokerError(str(error)) from error


def _waiting(channel: Any, queue: str) -> Waiting:
    count = _depth(channel, queue)
    return Waiting(queue, count, _oldest_sent_ms(channel, queue) if count else None)


def _depth(channel: Any, queue: str) -> int:
    """Declares the queue as a worker does instead of asking passively: kombu's Redis transport forgets the key prefix
    when it looks whether a queue exists (5.7: EXISTS is not among its prefixed commands) and finds none. With the
    queue's own arguments: RabbitMQ refuses others.
    """
    declared: Any = current_app.amqp.queues[queue].bind(channel).queue_declare()
    return int(declared.message_count)


def _oldest_sent_ms(channel: Any, queue: str) -> int | None:
    """Redis keeps a list a priority, its oldest message last; AMQP would have to take the message to show it."""
    if not hasattr(channel, "_q_for_pri"):
        return None
    sent = []
    for priority in channel.priority_steps:
        # LINDEX is not among the commands that kombu gives its key prefix.
        key = f"{channel.global_keyprefix}{channel._q_for_pri(queue, priority)}"  # noqa: SLF001 - its name for the list
        text = channel.client.execute_command("LINDEX", key, -1)
        if text is not None:
            sent.append(json.loads(text)["headers"].get(SENT_HEADER))
    return min((at for at in sent if at is not None), default=None)
