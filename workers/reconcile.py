"""Rebuilds the trigger book from PostgreSQL after Redis was lost or restarted, and checks it slowly all the time.

By id ranges, resumable, with the versioned arm script; it never empties the book.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import structlog
from django.conf import settings
from redis import Redis

from deals.crash_points import crash_point
from deals.models import WATCHED, Monitoring
from deals.queries import WatchRow, armed_after, watch_rows, watched_after
from workers import book, keys, system
from workers.book import Armed
from workers.exclusive import alone
from workers.receivers import arm_rows, note_armed
from workers.redis_client import connect

log = structlog.get_logger(__name__)

RECONCILE_LOCK: Final = 7307
RANGE: Final = 50_000
"""Of a rebuild: of a hundred symbols each has as many deals in it as one call of the arming script takes."""
CHECK_RANGE: Final = 5_000
NO_VERSION: Final = 2**31


def reconcile() -> int:
    """Rebuild the book when its epoch is not this run of Redis, else check one range; returns how many deals were seen.

    One at a time, by an advisory lock. Killed in the middle, the next call goes on where this one was.
    Raises redis.RedisError, django.db.OperationalError.
    """
    with alone(RECONCILE_LOCK) as mine:
        return _reconcile(connect()) if mine else 0


def rebuild() -> int | None:
    """Rebuild the book from the first deal on, whatever its epoch says; returns how many deals were put into it.

    None when another process is at it: ask again. Raises redis.RedisError, django.db.OperationalError.
    """
    with alone(RECONCILE_LOCK) as mine:
        if not mine:
            return None
        client = connect()
        client.delete(keys.book_epoch(), keys.book_progress())
        return _rebuild(client, system.server_run_id())


def _reconcile(client: Redis) -> int:
    system.refresh_state()
    run_id = system.server_run_id()
    if client.get(keys.book_epoch()) == run_id:
        return _check_one_range(client)
    return _rebuild(client, run_id)


def _rebuild(client: Redis, run_id: str) -> int:
    """Arm every watched deal; then take out what the book held before and is not watched.

    Of an emptied book that are the few deals that were opened since, or none.
    """
    done, after = 0, 0
    progress = client.hgetall(keys.book_progress())
    if progress.get("run_id") == run_id:
        after = int(progress["after"])
    before = None if after else _few_members(client)
    log.warning("book.rebuild_started", run_id=run_id, after=after)
    ranges = armed_after(after, RANGE)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="arm") as beside:
        while ranges:
            arming = beside.submit(book.arm_again, ranges)
            pending = [deal_id for part in ranges for deal_id in part.pending]
            after, done = max(part.last_id for part in ranges), done + sum(part.watched for part in ranges)
            ranges = armed_after(after, RANGE)  # while the others are armed
            note_armed(Armed([], arming.result()))
            if pending:
                arm_rows(watch_rows(pending))
            client.hset(keys.book_progress(), mapping={"run_id": run_id, "after": after})
            crash_point("rebuild.between_ranges")
    if before is None:
        removed = sum(_remove_strangers(client, symbol) for symbol in settings.SYMBOLS)
    else:
        removed = sum(_take_out_strangers(ids, symbol) for symbol, ids in before.items() if ids)
    client.hset(keys.book_progress(), mapping={"run_id": run_id, "after": 0, "symbol": 0})
    client.set(keys.book_epoch(), run_id)
    log.warning("book.rebuilt", deals=done, removed=removed)
    return done


def _few_members(client: Redis) -> dict[str, list[str]] | None:
    """What the book holds, by symbol; None when that is more than a range."""
    if sum(book.armed_count(settings.SYMBOLS).values()) > RANGE:
        return None
    with client.pipeline(transaction=False) as pipe:
        for symbol in settings.SYMBOLS:
            pipe.hkeys(keys.versions(symbol))
        return dict(zip(settings.SYMBOLS, pipe.execute(), strict=True))


def _check_one_range(client: Redis) -> int:
    """Arm what the book lacks of the next range and clean the next symbol's; the next call takes the ones after."""
    after, turn = (int(value or 0) for value in client.hmget(keys.book_progress(), ["after", "symbol"]))
    rows = watched_after(after, CHECK_RANGE)
    lacking = {row.id for row in book.not_held(rows)}
    arm_rows([row for row in rows if row.id in lacking or row.monitoring == Monitoring.PENDING])
    removed = _remove_strangers(client, settings.SYMBOLS[turn % len(settings.SYMBOLS)])
    next_after = rows[-1].id if len(rows) == CHECK_RANGE else 0
    client.hset(keys.book_progress(), mapping={"after": next_after, "symbol": (turn + 1) % len(settings.SYMBOLS)})
    if removed:
        log.warning("book.strangers_removed", removed=removed)
    return len(rows)


def _remove_strangers(client: Redis, symbol: str) -> int:
    """Take out what the book holds and PostgreSQL does not watch (closed, removed, never committed)."""
    removed, cursor = 0, 0
    while True:
        cursor, found = client.hscan(keys.versions(symbol), cursor, count=1000)
        removed += _take_out_strangers(found, symbol)
        if not cursor:
            return removed


def _take_out_strangers(found: Iterable[Any], symbol: str) -> int:
    """Those of these members of the book that PostgreSQL does not watch; returns how many they were."""
    ids = [int(deal_id) for deal_id in found]
    rows = {row.id: row for row in watch_rows(ids)}
    strangers = [_unwatched(rows.get(number), number, symbol) for number in ids if not _is_watched(rows.get(number))]
    book.arm(strangers)
    return len(strangers)


def _is_watched(row: WatchRow | None) -> bool:
    return row is not None and row.monitoring in WATCHED


def _unwatched(row: WatchRow | None, deal_id: int, symbol: str) -> WatchRow:
    if row is not None:
        return row
    return WatchRow(deal_id, symbol, "up", None, None, NO_VERSION, 0, "none")
