"""What an operator is told when Redis, PostgreSQL or the broker does not answer."""

from __future__ import annotations

from django.db import InterfaceError, OperationalError
from redis.exceptions import RedisError

from deals.errors import DealError, Unavailable


def as_refusal(error: Exception) -> Exception:
    """The error as the API refuses with it; one that is no refusal stays as it is."""
    match error:
        case DealError():
            return error
        case RedisError():
            return Unavailable("redis_unavailable", "Redis does not answer; try again.")
        case OperationalError() | InterfaceError():
            return Unavailable("database_unavailable", "The database does not answer; try again.")
    return error
