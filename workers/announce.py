"""Tells the world: closures as one message a settlement, notifications to each user's channel, what has fired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from django.db import connection, transaction
from django.utils import timezone

from deals.arrays import array
from deals.crash_points import crash_point
from deals.models import Notification
from deals.money import plain
from deals.settlement import Closure
from workers import events, keys
from workers.book import Fired
from workers.redis_client import PUBLISH, connect
from workers.sql import statement

PUBLISH_LIMIT = 1000


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

    The rows are locked while they go out, and who finds them locked leaves them: a worker and the sweep never publish
    the same one. A crash between publishing and the commit repeats a message; its `id` tells. Raises redis.RedisError.
    """
    waiting = Notification.objects.filter(published_at=None)
    if deal_ids is not None:
        waiting = waiting.filter(deal_id__in=list(deal_ids))
    with transaction.atomic():
        locked = waiting.select_for_update(skip_locked=True, of=("self",), no_key=True)
        rows = list(locked.select_related("deal", "account").order_by("id")[:PUBLISH_LIMIT])
        if not rows:
            return 0
        _publish(_from_row(row) for row in rows)
        return Notification.objects.filter(pk__in=[row.pk for row in rows]).update(published_at=timezone.now())


def publish_settled(closures: Sequence[Closure]) -> int:
    """Publish the notifications of what a settlement has just closed, without reading them; returns how many.

    The same promise as `publish_notifications`: the rows are marked, and so locked, while they go out, and what does
    not go out is not marked. Must not run inside a transaction. Raises redis.RedisError.
    """
    if not closures:
        return 0
    ids = [item.notification_id for item in closures]
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute(statement("claim_notifications"), {"ids": array(ids)})
            mine = {row[0] for row in cursor.fetchall()}
        if mine:
            _publish(_from_closure(item) for item in closures if item.notification_id in mine)
    return len(mine)


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
