"""A real fail-over: the master dies, Sentinel promotes the replica, and every client of ours follows."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from celery import Celery
from django.core.cache import cache
from kombu.exceptions import OperationalError as BrokerError
from servers import Process, wait_until

from cryptocraze import embedded, embedded_home, env
from cryptocraze.cache import SturdyRedisCache
from monitoring import probes
from workers import system
from workers.redis_client import connect, connect_async
from workers.sources import build_source

PASSWORD, SENTINEL_PASSWORD = "of redis", "of/sentinel"
NOT_YET = (redis.RedisError, BrokerError, OSError)


class Trio(NamedTuple):
    """A master, its replica, and the address of their Sentinel, in which a Sentinel stands first that is down."""

    master: Process
    replica_port: int
    url: str


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    master, replica, watcher = (embedded.free_port(embedded.VALKEY_PORTS) for _ in range(3))
    common = "bind 127.0.0.1\nloglevel warning\nsave ''\n"
    login = f'requirepass "{PASSWORD}"\nmasterauth "{PASSWORD}"\nrepl-diskless-sync-delay 0\n'
    watching = (
        f"port {watcher}\nrequirepass {SENTINEL_PASSWORD}\nsentinel monitor ours 127.0.0.1 {master} 1\n"
        f'sentinel auth-pass ours "{PASSWORD}"\nsentinel down-after-milliseconds ours 500\n'
        "sentinel failover-timeout ours 3000\n"
    )
    with contextlib.ExitStack() as cleanup:
        first = start(cleanup, tmp_path / "master", f"{common}{login}port {master}\n")
        start(cleanup, tmp_path / "replica", f"{common}{login}port {replica}\nreplicaof 127.0.0.1 {master}\n")
        wait_until(lambda: linked(replica), timeout_s=30, what="the replica is in step")
        start(cleanup, tmp_path / "sentinel", common + watching, "--sentinel")
        wait_until(lambda: knows_replica(watcher), timeout_s=30, what="Sentinel knows the replica")
        url = f"sentinel://:of%20redis@127.0.0.1:1,127.0.0.1:{watcher}/2?master=ours&sentinel_password=of%2Fsentinel"
        yield Trio(first, replica, url)


def start(cleanup: contextlib.ExitStack, folder: Path, config: str, *flags: str) -> Process:
    folder.mkdir()
    (folder / "valkey.conf").write_text(f"{config}dir {folder}\n")
    server = str(embedded_home.installed_programs().valkey_server)
    process = Process([server, str(folder / "valkey.conf"), *flags], folder / "log", {})
    cleanup.callback(process.stop)
    return process


def asked(port: int, password: str, *question: str) -> Any:
    """What a server answers; None while it does not."""
    client = redis.Redis(port=port, password=password, decode_responses=True)
    with contextlib.suppress(redis.RedisError), contextlib.closing(client):
        return client.execute_command(*question)
    return None


def linked(port: int) -> bool:
    return (asked(port, PASSWORD, "INFO", "replication") or {}).get("master_link_status") == "up"


def knows_replica(port: int) -> bool:
    return len(asked(port, SENTINEL_PASSWORD, "SENTINEL", "REPLICAS", "ours") or []) == 1


def works(act: Callable[[], Any]) -> bool:
    """Whether it can be done now."""
    try:
        act()
    except NOT_YET:
        return False
    return True


@pytest.fixture
def ours(trio: Trio, settings: Any) -> Iterator[Trio]:
    """Our settings point to the Sentinels."""
    settings.REDIS_URL = trio.url
    settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": trio.url}}
    connect.cache_clear()
    yield trio
    connect.cache_clear()
    probes._redis_client.cache_clear()
    SturdyRedisCache._clients.pop(trio.url)


def test_after_a_fail_over_every_client_and_a_real_worker_go_on_with_the_new_master(
    ours: Trio, settings: Any, transactional_db: None, celery_worker: Callable[..., Process]
) -> None:
    options = settings.CELERY_BROKER_TRANSPORT_OPTIONS | env.broker_sentinel_options(ours.url)
    broker = Celery(broker=env.broker_url(ours.url), set_as_current=False)
    broker.conf.update(broker_transport_options=options, task_queues=settings.CELERY_TASK_QUEUES)
    worker = celery_worker(env={"REDIS_URL": ours.url, "LOG_LEVEL": "DEBUG"})
    look_through_every_door()
    sweep_once_more(broker, worker)

    ours.master.kill()

    wait_until(lambda: works(look_through_every_door), timeout_s=30, what="every client follows")
    assert connect().config_get("port")["port"] == str(ours.replica_port)
    assert connect().client_info()["db"] == 2
    sweep_once_more(broker, worker)
    assert worker.alive
    assert not {PASSWORD, SENTINEL_PASSWORD} & set(worker.output.split('"'))


def look_through_every_door() -> None:
    """Write by each of the clients: the workers' two, the cache under its fall-back; read by health's and a feed's."""
    assert connect().set("a", "1")
    asyncio.run(write_on_a_loop())
    cache._cache.set("b", 1, 9)  # type: ignore[attr-defined]
    assert probes._redis_client(connect_address()).get("a") == "1"
    system.refresh_state()


def connect_address() -> str:
    from django.conf import settings

    return str(settings.REDIS_URL)


async def write_on_a_loop() -> None:
    client = connect_async()
    source = build_source("redis", ["BTCUSDT"], redis_url=connect_address())
    feed: Any = source._client()  # type: ignore[attr-defined]
    async with client, feed:
        assert await client.set("c", "1")
        assert await feed.ping()


def sweep_once_more(broker: Celery, worker: Process) -> None:
    """Ask for sweeps until the worker has ended another one."""
    before = worker.output.count('"sweep.done"')

    again_at = 0.0

    def done() -> bool:
        nonlocal again_at
        if time.monotonic() >= again_at:
            works(lambda: broker.send_task("workers.sweep", queue="sweep", retry=False))
            again_at = time.monotonic() + 1
        return worker.output.count('"sweep.done"') > before

    wait_until(done, timeout_s=40, what="a sweep")
