"""The prices process's own connection to Redis. It notices when Redis has forgotten what it knew."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError

from workers.redis_client import connect_async


class Forgotten(RedisConnectionError):
    """This is another run of Redis than before: it must get back first what it forgot."""


class RedisLink:
    """A client that refuses to talk to another run of Redis than before, until `accept` says that it may.

    `forgotten` is True when Redis was restarted, or emptied (whoever finds that out says so): it must get back what it
    forgot first.
    """

    def __init__(self) -> None:
        self.client: Redis = connect_async(self._refuse_another_run)
        self.run_id: str | None = None
        self.forgotten = False

    def accept(self, run_id: str) -> None:
        """Talk to this run of Redis from now on: it knows everything again."""
        self.run_id = run_id
        self.forgotten = False

    async def _refuse_another_run(self, connection: Connection) -> None:
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        run_id = _run_id(str(await connection.read_response()))
        self.run_id = self.run_id or run_id
        if run_id != self.run_id:
            self.forgotten = True
            raise Forgotten("Redis was restarted")


def _run_id(info: str) -> str:
    """The server's run id in an answer to INFO."""
    return next(line.removeprefix("run_id:") for line in info.splitlines() if line.startswith("run_id:"))
