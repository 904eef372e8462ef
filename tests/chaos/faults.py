"""Everything that is broken on purpose. Each breaks at once; what must be mended by hand answers how."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
import redis

from chaos.system import System

WAITING: Final = """
SELECT application_name FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND application_name LIKE 'cryptocraze-worker%'
"""
"""The workers that wait for a lock, in the middle of a settlement."""

Mend = Callable[[], None]


class Undo(NamedTuple):
    """How to mend what was broken, and after how many seconds."""

    after_s: float
    mend: Mend


Break = Callable[[System, random.Random], Undo | None]


class Fault(NamedTuple):
    """One kind of fault. It raises OSError, psycopg or redis errors when it cannot be done right now.

    weight       its share of its group in a long run
    group        `kill` of a process of ours, `restart` of a server, `break` of anything else
    amid         where it is measured it hits a worker in the middle of a settlement
    forgets      Redis loses what only it knew; not beside a kill of the prices process, which remembers the same
    from_mending its recovery counts from when it is mended: until then nobody can close
    long         it lasts so long that it is measured once only
    """

    name: str
    do: Break
    weight: int
    group: str
    amid: bool = False
    forgets: bool = False
    from_mending: bool = False
    long: bool = False


def send(pids: list[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to all of them. Raises ProcessLookupError when none was there: try again when it is back."""
    hit = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            hit += 1
    if not hit:
        raise ProcessLookupError


def _go_on(pids: list[int]) -> None:
    """SIGCONT; who was killed meanwhile needs none."""
    with contextlib.suppress(ProcessLookupError):
        send(pids, signal.SIGCONT)


def _kill_one_of(*names: str) -> Break:
    def do(system: System, rng: random.Random) -> None:
        send(system.heads(rng.choice(names)))

    return do


def _busy_worker(system: System, rng: random.Random) -> str:
    """The worker that waits in the middle of a settlement, or any."""
    with contextlib.suppress(psycopg.OperationalError):
        if rows := system.sql(WAITING):
            return str(rows[0][0]).removeprefix("cryptocraze-")
    return rng.choice(("worker", "worker-b"))


def kill_worker_child(system: System, rng: random.Random) -> None:
    """One process of a pool."""
    pool = system.children(_busy_worker(system, rng))
    send([rng.choice(pool)] if pool else [])


def kill_worker(system: System, rng: random.Random) -> None:
    """One of the two, without its pool."""
    send(system.heads(_busy_worker(system, rng)))


def kill_every_worker(system: System, _rng: random.Random) -> None:
    """Both at once, without their pools."""
    send(system.heads("worker", "worker-b"))


def _driving_prices(system: System, rng: random.Random) -> list[int]:
    """The prices process that holds the leases; another one when that cannot be told."""
    pids = {name: system.heads(name) for name in ("prices", "prices-b")}
    with contextlib.suppress(redis.RedisError):
        owner = system.redis.get("lease:BTCUSDT")
        sign = json.loads(str(system.redis.get(f"heartbeat:prices:{owner}") or "{}"))
        for found in pids.values():
            if sign.get("pid") in found:
                return found
    return pids[rng.choice(sorted(pids))]


def kill_driving_prices(system: System, rng: random.Random) -> None:
    """The one that holds the leases."""
    send(_driving_prices(system, rng))


def stop_driving_prices(seconds: float) -> Break:
    """SIGSTOP: the other one takes over, and this one wakes up with leases that are not its own any more."""

    def do(system: System, rng: random.Random) -> Undo:
        pids = _driving_prices(system, rng)
        send(pids, signal.SIGSTOP)
        return Undo(seconds, lambda: _go_on(pids))

    return do


def stop_worker(seconds: float) -> Break:
    """SIGSTOP of a worker and its pool: to everyone else it looks alive, and does nothing."""

    def do(system: System, rng: random.Random) -> Undo:
        pids = system.pids(_busy_worker(system, rng))
        send(pids, signal.SIGSTOP)
        return Undo(seconds, lambda: _go_on(pids))

    return do


def cut_connections(system: System, _rng: random.Random) -> None:
    """Every connection to PostgreSQL and to Redis, from the servers' side."""
    system.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    for kind in ("normal", "pubsub"):
        system.redis.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def fill_redis(seconds: float) -> Break:
    """Redis at its memory limit: it refuses every write."""

    def do(system: System, _rng: random.Random) -> Undo:
        system.redis.config_set("maxmemory", "1mb")
        return Undo(seconds, lambda: set_memory(system))

    return do


def set_memory(system: System) -> None:
    """Take the limit away; a restart has done it too."""
    system.redis.config_set("maxmemory", "0")


def fill_disk(seconds: float) -> Break:
    """PostgreSQL answers settlements with the error of a full disk."""

    def do(system: System, _rng: random.Random) -> Undo:
        system.sql(
            "CREATE OR REPLACE FUNCTION chaos_disk_full() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
        )
        system.sql(
            "CREATE OR REPLACE TRIGGER chaos_disk_full BEFORE INSERT ON settlements "
            "FOR EACH ROW EXECUTE FUNCTION chaos_disk_full()"
        )
        return Undo(seconds, lambda: free_disk(system))

    return do


def free_disk(system: System) -> None:
    """There is room again."""
    system.sql("DROP TRIGGER IF EXISTS chaos_disk_full ON settlements")


def restart_redis(system: System, _rng: random.Random) -> None:
    """kill -9; its supervisor starts it with its data."""
    send(system.heads("valkey-server"))


def empty_redis(system: System, _rng: random.Random) -> None:
    """kill -9, and its data is gone."""
    folder = system.append_only_folder
    pids = system.heads("valkey-server")
    send(pids, signal.SIGSTOP)  # it writes no more
    _remove(folder)
    send(pids)


def age_redis(system: System, _rng: random.Random) -> None:
    """kill -9, and it comes back with the data of the last time (the first time, with none)."""
    folder = system.append_only_folder
    old, now = folder.with_name("old"), folder.with_name("now")
    pids = system.heads("valkey-server")
    send(pids, signal.SIGSTOP)
    owner = folder.stat()
    shutil.rmtree(now, ignore_errors=True)
    _copy(folder, now, owner)
    _remove(folder)
    if old.exists():
        for path in old.iterdir():
            path.rename(folder / path.name)
        old.rmdir()
    now.rename(old)
    send(pids)


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _copy(source: Path, target: Path, owner: os.stat_result) -> None:
    shutil.copytree(source, target)
    for path in (target, *target.iterdir()):
        os.chown(path, owner.st_uid, owner.st_gid)


def hang_redis(seconds: float) -> Break:
    """SIGSTOP: connections stay open and nothing answers."""

    def do(system: System, _rng: random.Random) -> Undo:
        pids = system.heads("valkey-server")
        send(pids, signal.SIGSTOP)
        return Undo(seconds, lambda: _go_on(pids))

    return do


def restart_postgres(system: System, _rng: random.Random) -> None:
    """kill -9 of the postmaster: every session ends where it is."""
    send(system.heads("postgres"))


def crash_postgres_backend(system: System, rng: random.Random) -> None:
    """kill -9 of one session: PostgreSQL ends all others and recovers."""
    ours = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'cryptocraze-%' ORDER BY pid"
    pids = [int(row[0]) for row in system.sql(ours)]
    send([rng.choice(pids)] if pids else [])


FAULTS: Final = {
    fault.name: fault
    for fault in (
        Fault("worker child killed", kill_worker_child, 26, "kill", amid=True),
        Fault("worker killed", kill_worker, 20, "kill", amid=True),
        Fault("every worker killed", kill_every_worker, 8, "kill", amid=True),
        Fault("prices killed", kill_driving_prices, 28, "kill"),
        Fault("sweeper killed", _kill_one_of("sweeper"), 8, "kill"),
        Fault("beat killed", _kill_one_of("beat", "beat-b"), 8, "kill"),
        Fault("web killed", _kill_one_of("web"), 10, "kill"),
        Fault("worker stopped for 6 s", stop_worker(6), 3, "break", amid=True),
        Fault("worker stopped for 75 s", stop_worker(75), 1, "break", amid=True, long=True),
        Fault("prices stopped for 8 s", stop_driving_prices(8), 3, "break"),
        Fault("connections cut", cut_connections, 5, "break", amid=True),
        Fault("Redis at its memory limit for 3 s", fill_redis(3), 2, "break", from_mending=True),
        Fault("PostgreSQL's disk full for 4 s", fill_disk(4), 2, "break", from_mending=True),
        Fault("Redis unreachable for 8 s", hang_redis(8), 2, "break", from_mending=True),
        Fault("Redis unreachable for 30 s", hang_redis(30), 1, "break", from_mending=True, long=True),
        Fault("Redis killed, back with its data", restart_redis, 4, "restart"),
        Fault("Redis killed, back with old data", age_redis, 2, "restart", forgets=True),
        Fault("Redis killed, back empty", empty_redis, 3, "restart", forgets=True),
        Fault("PostgreSQL killed", restart_postgres, 4, "restart", amid=True),
        Fault("PostgreSQL's session killed", crash_postgres_backend, 2, "restart", amid=True),
    )
}
