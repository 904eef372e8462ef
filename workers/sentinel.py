"""Addresses of a Redis behind Sentinels, and the clients that follow its master. Reads no settings.

sentinel://user:password@host:26379,host:26379,host:26379/DB?master=NAME&sentinel_password=…
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

SCHEME: Final = "sentinel"
PORT: Final = 26379
ASKING_S: Final = 0.3
"""How long one Sentinel may take to answer; then the next one is asked."""


class Address(NamedTuple):
    """What a sentinel:// address says. `username`, `password` and `db` are those of Redis itself."""

    hosts: tuple[tuple[str, int], ...]
    master: str
    db: int
    username: str | None
    password: str | None
    sentinel_password: str | None

    @property
    def sentinel_options(self) -> dict[str, Any]:
        """Options for connections to the Sentinels. Asked once: redis-py would ask one that is down for 4 s."""
        login = {"password": self.sentinel_password} if self.sentinel_password else {}
        retry = Retry(NoBackoff(), 0)
        return {"socket_timeout": ASKING_S, "socket_connect_timeout": ASKING_S, "retry": retry, **login}

    def for_celery(self) -> str:
        """The same as Celery wants it: an address a Sentinel, with semicolons between."""
        login = ""
        if self.password:
            login = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@"
        return ";".join(f"{SCHEME}://{login}{_netloc(host, port)}/{self.db}" for host, port in self.hosts)


def is_sentinel(url: str) -> bool:
    """Whether an address is one of Sentinels."""
    return url.startswith(f"{SCHEME}://")


def parse(url: str) -> Address:
    """Read an address. Raises ValueError that says what is wrong with it."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    unknown = sorted(set(asked) - {"master", "sentinel_password"})
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is no option of a {SCHEME}:// address")
    if not asked.get("master"):
        raise ValueError("it does not say ?master=NAME")
    db = parts.path.strip("/") or "0"
    if not (db.isascii() and db.isdigit()):
        raise ValueError(f"the database must be a number, not {db!r}")
    return Address(
        hosts=tuple(_host(text) for text in hosts.split(",")),
        master=asked["master"],
        db=int(db),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_password=asked.get("sentinel_password"),
    )


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host is missing")
    return parts.hostname, parts.port or PORT


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _AsyncPool(SentinelConnectionPool):
    """redis-py's leaves the connections to the Sentinels open when its client is closed."""

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 redis-py's signature
        """Close both: what comes next opens them again."""
        await super().disconnect(inuse_connections)
        for asked in self.sentinel_manager.sentinels:
            await asked.aclose()


def client(url: str, **options: Any) -> redis.Redis:
    """A client of the Redis at any of our addresses; behind Sentinels it follows the master."""
    if not is_sentinel(url):
        plain: redis.Redis = redis.Redis.from_url(url, **options)
        return plain
    address = parse(url)
    sentinels: Any = Sentinel(address.hosts, sentinel_kwargs=address.sentinel_options)  # type: ignore[no-untyped-call]
    follower: redis.Redis = sentinels.master_for(address.master, **_of_redis(address), **options)
    return follower


def async_client(url: str, **options: Any) -> redis.asyncio.Redis:
    """The same for an event loop."""
    if not is_sentinel(url):
        return redis.asyncio.Redis.from_url(url, **options)
    address = parse(url)
    options_of_sentinels = address.sentinel_options | {"retry": AsyncRetry(NoBackoff(), 0)}
    sentinels: Any = AsyncSentinel(address.hosts, sentinel_kwargs=options_of_sentinels)  # type: ignore[no-untyped-call]
    follower: redis.asyncio.Redis = sentinels.master_for(
        address.master, connection_pool_class=_AsyncPool, **_of_redis(address), **options
    )
    return follower


def _of_redis(address: Address) -> dict[str, Any]:
    return {"db": address.db, "username": address.username, "password": address.password}
