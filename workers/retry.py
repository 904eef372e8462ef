"""Which errors pass by themselves, and when to try again: 3 attempts, exponential backoff from 2 s."""

from __future__ import annotations

from typing import Final

from django.db import DatabaseError, InterfaceError, OperationalError
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

TRANSIENT: Final = (OperationalError, InterfaceError, BrokerError, RedisConnectionError, RedisTimeoutError)
"""Lost connections, deadlocks, serialization failures, time-outs: nothing is wrong with the data."""

DATABASE_ERRORS: Final = (DatabaseError, InterfaceError)
"""Whatever PostgreSQL or the way to it may raise: to Django an InterfaceError is no DatabaseError."""

MAX_RETRIES: Final = 2
"""Retries after the first attempt."""


def backoff_s(retries: int) -> int:
    """Seconds to wait before retry number `retries` + 1: 2, 4, …"""
    return int(2 ** (retries + 1))
