"""A deal's history as it is read: a closure by a trigger begins with `fired`, which has no row of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from django.db.models import Case, Exists, OuterRef, Q, QuerySet, When

from deals.models import DealEvent

CHUNK: Final = 2000


def history(events: QuerySet[DealEvent]) -> Iterator[DealEvent]:
    """These events, oldest first, each closure by a trigger preceded by its `fired`, which has no number.

    What fired is what closed: version, price, trade, detector and gap stand on the event `closed`, when on the deal.
    Closures of former times have a row that says so again: there none is added.
    """
    has_a_row = Exists(DealEvent.objects.filter(deal=OuterRef("deal"), kind=DealEvent.Kind.FIRED))
    fired_at = Case(When(Q(kind=DealEvent.Kind.CLOSED) & ~has_a_row, then="deal__fired_at"))
    for event in events.annotate(fired_at=fired_at).order_by("pk").iterator(chunk_size=CHUNK):
        if event.fired_at is not None:
            yield _fired(event, event.fired_at)
        yield event


def _fired(closed: DealEvent, at: datetime) -> DealEvent:
    return DealEvent(
        deal_id=closed.deal_id,
        kind=DealEvent.Kind.FIRED,
        version=closed.version,
        price=closed.price,
        trade_id=closed.trade_id,
        detector=closed.detector,
        at=at,
        gap_ms=closed.gap_ms,
    )
