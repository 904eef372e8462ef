"""Four faults of the queue libraries, mended at start-up. Each names the version that it was written for.

When one of these libraries is upgraded: look whether its fault is mended there (tests/broker/test_patches.py shows
each of them), then remove the patch or raise the version.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any


class PatchError(RuntimeError):
    """A library is not the version that its patch was written and tested for."""


def apply() -> None:
    """Apply all four; to apply them twice changes nothing. Raises PatchError."""
    mend_closing_without_connection()
    mend_connection_per_task()
    mend_slow_shutdown()
    mend_late_replacement()


def mend_closing_without_connection() -> None:
    """kombu: a worker that holds messages while Redis goes away ends with AttributeError instead of reconnecting.

    Restoring unacknowledged messages on a channel that lost its connection reads `None.client`. As ConnectionError the
    worker knows what to do: it reconnects, and the visibility timeout restores the messages.
    """
    _require("kombu", "5.7.0")
    from kombu.transport.redis import Channel

    channel: Any = Channel
    original = channel._connparams  # noqa: SLF001 the place of the fault
    if getattr(original, "mended", False):
        return

    def _connparams(self: Any, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 kombu's signature
        if self.connection is None or self.connection.client is None:
            raise ConnectionError("this channel has lost its connection")
        return original(self, asynchronous=asynchronous)

    _connparams.mended = True  # type: ignore[attr-defined]
    channel._connparams = _connparams  # noqa: SLF001


def mend_connection_per_task() -> None:
    """celery: closes the database connection around every task and ignores CONN_MAX_AGE (celery#10554).

    Django's own rule instead: a connection that is broken or too old is closed, any other stays.
    """
    _require("celery", "5.7.0")
    from celery.fixups.django import DjangoWorkerFixup  # type: ignore[attr-defined]
    from django.db import close_old_connections

    def close_database(_self: Any, **_signal: Any) -> None:
        close_old_connections()

    DjangoWorkerFixup.close_database = close_database


def mend_slow_shutdown() -> None:
    """billiard: a child that ends under load waits 30 s for its messages to be read; 2 s are plenty."""
    _require("billiard", "4.3.2")
    from billiard import pool

    pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 20  # times 0.1 s


def mend_late_replacement() -> None:
    """celery: a pool's child that was killed is replaced after up to 5 s; a sweeper has only one.

    The end of a pipe tells the parent, which may look before the kernel says that the child is dead; then only its
    timer looks again.
    """
    _require("celery", "5.7.0")
    from celery.concurrency.asynpool import AsynPool

    pool: Any = AsynPool
    pool.timers = property(lambda self: {self.maintain_pool: 1.0})


def _require(library: str, tested: str) -> None:
    if (found := version(library)) != tested:
        raise PatchError(f"{library} is {found}, but cryptocraze/patches.py mends a fault of {tested}: see there")
