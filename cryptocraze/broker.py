"""How Celery uses its broker: Redis or Valkey, or RabbitMQ with classic or with quorum queues. No Django."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from kombu import Exchange, Queue

from cryptocraze import env

QUEUES: Final = ("closures", "sweep", "default")
ANSWER_WITHIN_S: Final = 5
REACH_WITHIN_S: Final = 3


def is_redis(url: str) -> bool:
    """Whether the address is one of Redis or Valkey, Sentinel included."""
    return urlsplit(url).scheme in {"redis", "rediss", "unix", "sentinel"}


def queues(queue_type: str) -> list[Queue]:
    """Our queues. A broker refuses to declare one again with another type: change it on an empty virtual host.

    What waits for its time in a quorum queue, Celery sends through topic exchanges of its own; a queue behind a direct
    exchange would not get it back, and a waiting retry would take a worker's place.
    """
    if queue_type == "quorum":
        arguments = {"x-queue-type": queue_type}
        return [
            Queue(name, Exchange(name, type="topic"), routing_key=name, queue_arguments=arguments) for name in QUEUES
        ]
    return [Queue(name, Exchange(name), routing_key=name) for name in QUEUES]


def transport_options(url: str, key_prefix: str) -> dict[str, Any]:
    """How kombu talks to the broker: nothing is waited for without limit, and nothing taken for sent that is not."""
    if is_redis(url):
        return {
            "global_keyprefix": f"{key_prefix}celery:",
            "visibility_timeout": 60,  # longer than the time limit, the longest retry delay and the prefetch wait
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_timeout": ANSWER_WITHIN_S,
            "socket_connect_timeout": REACH_WITHIN_S,
            "socket_keepalive": True,
            "health_check_interval": 5,
        }
    if env.is_rabbitmq(url):
        return {"confirm_publish": True, "read_timeout": ANSWER_WITHIN_S, "write_timeout": ANSWER_WITHIN_S}
    return {}
