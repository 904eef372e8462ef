"""Tells the world: closures as one message a settlement, notifications to each user's channel, what has fired."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from django.db import connection, transaction
from django.utils import timezone

from deals.arrays import array
from deals.crash_points import crash_point
from deals.models import Notification, Settlement
from deals.money import plain
from deals.settlement import Closure
from workers import events, keys
from workers.book import Fired
from workers.redis_client import PUBLISH, connect
from workers.sql import statement

PUBLISH_LIMIT = 1000
PUBLISH_FOR_S = 1.0


def publish_closures(closures: Iterable[Closure]) -> None:
    """Publish what one settlement closed, whoever asked for it: all to the channel, one event to the operators' log.

    One round trip. Raises redis.RedisError.
    """
    closed = list(closures)
    rows = [_closure(closure) for closure in closed]
    if not rows:
        return
    kinds = Counter((closure.reason, closure.detector) for closure in closed)
    event = {
        "count": len(rows),
        "counts": [{"reason": reason, "detector": by, "deals": deals} for (reason, by), deals in sorted(kinds.items())],
        "closures": rows[: events.LISTED],
    }
    with connect().pipeline(transaction=False) as pipe:
        pipe.publish(keys.closures(), msgspec.json.encode(rows))
        events.add(pipe, "closure", event)
        pipe.execute()


def publish_triggers(fired: Sequence[Fired]) -> None:
    """Tell the operators what has fired otherwise than by a tick, which the tick script tells itself."""
    if fired:
        deals = [
            {"dealId": item.deal_id, "symbol": item.symbol, "price": item.price, "detector": item.detector}
            for item in fired[: events.LISTED]
        ]
        events.publish("trigger", {"count": len(fired), "deals": deals})


def publish_notifications(deal_ids: Iterable[int] | None = None) -> int:
    """Publish notifications that were not published yet, of some deals or the oldest of all; returns how many.

    Closures go a settlement at a time, whatever else it closed. The rows that say what went out are locked while it
    does, and who finds them locked leaves them: a worker and the sweep never publish the same one. A crash between
    publishing and the commit repeats a message; its `id` tells. Raises redis.RedisError.
    """
    ids = None if deal_ids is None else list(deal_ids)
    return _publish_singly(ids) + _publish_settlements(_untold(ids))


def publish_waiting() -> int:
    """Publish what waits, the oldest first, about a thousand at a time, for about a second; returns how many.

    So that after an outage a hundred thousand are told within seconds. Otherwise as `publish_notifications`.
    """
    published, until_s = 0, time.monotonic() + PUBLISH_FOR_S
    while (told := publish_notifications()) and time.monotonic() < until_s:
        published += told
    return published + told


def publish_settled(closures: Sequence[Closure]) -> int:
    """Publish the notifications of what a settlement has just closed, without reading them; returns how many.

    The same promise as `publish_notifications`: the settlement is marked, and so locked, while they go out, and what
    does not go out is not marked. Must not run inside a transaction. Raises redis.RedisError.
    """
    if not closures:
        return 0
    with transaction.atomic(durable=True):
        claimed = {settlement.id for settlement in _claim({closure.settlement_id for closure in closures})}
        mine = [closure for closure in closures if closure.settlement_id in claimed]
        if mine:
            _publish(_from_closure(closure) for closure in mine)
    return len(mine)


def _publish_singly(deal_ids: list[int] | None) -> int:
    """What no settlement wrote."""
    waiting = Notification.objects.filter(published_at=None, settlement=None)
    if deal_ids is not None:
        waiting = waiting.filter(deal_id__in=deal_ids)
    with transaction.atomic():
        locked = waiting.select_for_update(skip_locked=True, of=("self",), no_key=True)
        rows = list(locked.select_related("deal", "account").order_by("id")[:PUBLISH_LIMIT])
        if not rows:
            return 0
        _publish(_from_row(row) for row in rows)
        return Notification.objects.filter(pk__in=[row.pk for row in rows]).update(published_at=timezone.now())


def _untold(deal_ids: list[int] | None) -> list[int]:
    """Settlements whose users are still to be told: those of some deals, or the oldest."""
    untold = Settlement.objects.filter(told_at=None, first_notification_id__isnull=False).order_by("pk")
    if deal_ids is not None:
        return list(untold.filter(deal__in=deal_ids).distinct().values_list("pk", flat=True))
    ids, deals = [], 0
    for pk, closed_count in untold.values_list("pk", "closed_count")[:PUBLISH_LIMIT]:
        if deals >= PUBLISH_LIMIT:
            break
        ids.append(pk)
        deals += closed_count
    return ids


def _publish_settlements(ids: Collection[int]) -> int:
    if not ids:
        return 0
    with transaction.atomic(), connection.cursor() as cursor:
        claimed = _claim(ids)
        if not claimed:
            return 0
        places = {name: [getattr(settlement, name) for settlement in claimed] for name in _Claimed._fields}
        cursor.execute(statement("told_by_settlements"), places)
        told = [_Told(*row) for row in cursor.fetchall()]
        _publish(told)
    return len(told)


class _Claimed(NamedTuple):
    """A settlement that is ours to tell, and where its notifications are."""

    id: int
    first: int
    last: int


def _claim(ids: Collection[int]) -> list[_Claimed]:
    with connection.cursor() as cursor:
        cursor.execute(statement("claim_settlements"), {"ids": array(ids)})
        return [_Claimed(*row) for row in cursor.fetchall()]


def _closure(closure: Closure) -> dict[str, Any]:
    return {
        "dealId": closure.deal_id,
        "userId": closure.user_id,
        "symbol": closure.symbol,
        "reason": closure.reason,
        "detector": closure.detector,
        "closePrice": plain(closure.price),
        "profit": plain(closure.profit),
        "latencyMs": closure.latency_ms,
    }


class _Told(NamedTuple):
    """What a user is told, wherever it was read."""

    user_id: int
    id: int
    kind: str
    deal_id: int
    symbol: str
    close_reason: str | None
    close_price: Decimal | None
    profit: Decimal | None
    created_at: datetime


def _from_row(row: Notification) -> _Told:
    deal = row.deal
    return _Told(
        user_id=row.account.user_id,
        id=row.pk,
        kind=row.kind,
        deal_id=deal.pk,
        symbol=deal.symbol,
        close_reason=deal.close_reason,
        close_price=deal.close_price,
        profit=deal.profit,
        created_at=row.created_at,
    )


def _from_closure(closure: Closure) -> _Told:
    return _Told(
        user_id=closure.user_id,
        id=closure.notification_id,
        kind=Notification.Kind.DEAL_CLOSED.value,
        deal_id=closure.deal_id,
        symbol=closure.symbol,
        close_reason=closure.reason,
        close_price=closure.price,
        profit=closure.profit,
        created_at=closure.closed_at,
    )


def _publish(told: Iterable[_Told]) -> None:
    """Each to its user's channel, in one round trip, before the transaction that marks them commits."""
    args: list[str | bytes] = []
    for item in told:
        args += [keys.notifications(item.user_id), msgspec.json.encode(_message(item))]
    PUBLISH.run(connect(), [], args)
    crash_point("announce.before_commit")


def _message(told: _Told) -> dict[str, Any]:
    return {
        "id": told.id,
        "kind": told.kind,
        "dealId": told.deal_id,
        "symbol": told.symbol,
        "closeReason": told.close_reason,
        "closePrice": None if told.close_price is None else plain(told.close_price),
        "profit": None if told.profit is None else plain(told.profit),
        "createdAt": told.created_at.isoformat(),
    }
