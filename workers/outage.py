"""Which of Redis and the broker do not answer, as the prices process finds them. Says each change once. Does no I/O."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

log = structlog.get_logger(__name__)

REDIS_TRIES: Final = 2
"""How many failures in a row it takes: a connection that was cut is no outage."""


class Outage:
    """Belongs to one engine. `began` is set while either is away."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.redis_away = False
        self.broker_away = False
        self.why = ""
        self._failures = 0
        self._errors: dict[str, str] = {}

    def redis_failed(self, error: Exception, *, tries: int = REDIS_TRIES) -> None:
        """A call to Redis has failed, which is an outage when it was the last of so many in a row."""
        self._failures += 1
        if self._failures >= tries and not self.redis_away:
            self.redis_away = True
            self._change("redis", str(error))

    def redis_answered(self) -> None:
        """A call to Redis has not failed."""
        self._failures = 0

    def redis_restored(self) -> None:
        """Redis answers again, and knows everything again."""
        self._failures = 0
        if self.redis_away:
            self.redis_away = False
            self._change("redis", None)

    def broker_failed(self, error: Exception | str) -> None:
        """A message could not be sent."""
        if not self.broker_away:
            self.broker_away = True
            self._change("broker", str(error))

    def broker_answers(self) -> None:
        """The broker takes messages."""
        if self.broker_away:
            self.broker_away = False
            self._change("broker", None)

    def _change(self, server: str, error: str | None) -> None:
        if error is None:
            self._errors.pop(server, None)
            log.warning("prices.server_back", server=server)
        else:
            self._errors[server] = error
            log.warning("prices.server_away", server=server, error=error)
        self.why = "; ".join(f"{name}: {text}" for name, text in self._errors.items())
        if self._errors:
            self.began.set()
        else:
            self.began.clear()
