"""Tells the world: closures as one message a settlement, notifications to each user's channel, what has fired."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone

from deals.models import Notification
from deals.money import plain
from deals.settlement import Closure
from workers import events, keys
from workers.book import Fired
from workers.redis_client import connect

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
        pipe.publish(keys.closures(), json.dumps(rows, separators=(",", ":")))
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
        with connect().pipeline(transaction=False) as pipe:
            for row in rows:
                pipe.publish(keys.notifications(row.account.user_id), json.dumps(_notification(row)))
            pipe.execute()
        return Notification.objects.filter(pk__in=[row.pk for row in rows]).update(published_at=timezone.now())


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


def _notification(row: Notification) -> dict[str, Any]:
    deal = row.deal
    return {
        "id": row.pk,
        "kind": row.kind,
        "dealId": deal.pk,
        "symbol": deal.symbol,
        "closeReason": deal.close_reason,
        "closePrice": None if deal.close_price is None else plain(deal.close_price),
        "profit": None if deal.profit is None else plain(deal.profit),
        "createdAt": row.created_at.isoformat(),
    }
