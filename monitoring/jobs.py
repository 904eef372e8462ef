"""One deal's monitoring, explained: what is watched, what happened, and why an open deal has not closed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.utils import timezone
from redis.exceptions import RedisError

from deals.errors import NotFound
from deals.history import history as history_of
from deals.models import Deal, DealEvent, Monitoring, Status, SystemState
from deals.money import plain
from deals.triggers import Triggers, close_reason
from monitoring.prices import LAST_PRICE, LastPrice, distance_percent, last_price
from workers import book, keys
from workers.book import Fired
from workers.clock import WALL_CLOCK, to_datetime
from workers.models import DeadLetter
from workers.redis_client import connect

LARGEST_ID: Final = 2**63 - 1
FIRED: Final = "fired"
"""The state of a deal that has fired and is not closed yet; the others are those of `Monitoring`."""


class TriggerView(NamedTuple):
    """A trigger and how far the price still has to go; None while there is no price. Not positive: reached."""

    side: str
    level: str
    price: Decimal
    distance: Decimal | None
    distance_percent: Decimal | None


class InRedis(NamedTuple):
    """What Redis holds of a deal."""

    price: LastPrice | None
    book_version: int | None
    fired: Fired | None


class FiredView(NamedTuple):
    """The tick that a deal has fired at."""

    version: int
    price: Decimal
    trade_id: int | None
    detector: str
    tick_at: datetime
    received_at: datetime
    fired_at: datetime


class Job(NamedTuple):
    """A deal's monitoring at a moment. `redis_answers` False: what Redis holds could not be looked at and is None."""

    deal: Deal
    state: str
    system_state: str
    redis_answers: bool
    triggers: list[TriggerView]
    last_price: LastPrice | None
    book_version: int | None
    fired: FiredView | None
    attempts: int
    last_error: str | None
    why_open: list[str]
    history: list[DealEvent]
    dead_letters: list[DeadLetter]
    read_at: datetime


def explain(deal_id: int) -> Job:
    """Everything about a deal's monitoring, in whatever state it is. Raises NotFound."""
    read_at = timezone.now()
    deal = found_deal(deal_id)
    history = list(history_of(DealEvent.objects.filter(deal=deal)))
    held = _in_redis(deal)
    fired = None if held is None else held.fired
    price = None if held is None else held.price
    system_state = SystemState.objects.values_list("state", flat=True).get(pk=1)
    attempts = [event for event in history if event.kind == DealEvent.Kind.ATTEMPT]
    return Job(
        deal=deal,
        state=FIRED if fired is not None and deal.status == Status.OPEN else deal.monitoring,
        system_state=system_state,
        redis_answers=held is not None,
        triggers=_triggers(deal, price),
        last_price=price,
        book_version=None if held is None else held.book_version,
        fired=None if fired is None else _fired_view(fired),
        attempts=len(attempts),
        last_error=next((event.error for event in reversed(history) if event.error), None),
        why_open=why_open(deal, system_state, held) if deal.status == Status.OPEN else [],
        history=history,
        dead_letters=list(DeadLetter.objects.filter(deal=deal).order_by("pk")),
        read_at=read_at,
    )


def found_deal(deal_id: int) -> Deal:
    """The deal, whoever's it is. Raises NotFound."""
    deal = Deal.objects.filter(pk=deal_id).first() if deal_id <= LARGEST_ID else None
    if deal is None:
        raise NotFound
    return deal


def _in_redis(deal: Deal) -> InRedis | None:
    client: Any = connect()
    try:
        fired = book.fired_among([deal.pk]).get(deal.pk)
        version = client.hget(keys.versions(deal.symbol), str(deal.pk))
        fields = client.hmget(keys.price(deal.symbol), LAST_PRICE)
    except RedisError:
        return None
    last = last_price(fields, WALL_CLOCK.now_ms())
    return InRedis(last, None if version is None else int(version), fired)


def _fired_view(fired: Fired) -> FiredView:
    return FiredView(
        version=fired.version,
        price=Decimal(fired.price),
        trade_id=fired.trade_id,
        detector=fired.detector,
        tick_at=to_datetime(fired.at_ms),
        received_at=to_datetime(fired.received_ms),
        fired_at=to_datetime(fired.fired_ms),
    )


def _triggers(deal: Deal, last: LastPrice | None) -> list[TriggerView]:
    price = None if last is None else last.price
    sides: Sequence[tuple[str, Decimal | None, int]] = (
        ("upper", deal.upper_trigger, 1),
        ("lower", deal.lower_trigger, -1),
    )
    views = []
    for side, trigger, sign in sides:
        if trigger is None:
            continue
        distance = None if price is None else sign * (trigger - price)
        share = None
        if price is not None and distance is not None:
            share = distance_percent(trigger, price).copy_sign(distance)
        level = "take_profit" if (side == "upper") == (deal.direction == "up") else "stop_loss"
        views.append(TriggerView(side, level, trigger, distance, share))
    return views


def why_open(deal: Deal, system_state: str, held: InRedis | None) -> list[str]:
    """Why an open deal has not closed, in sentences, the most telling one first. Pure."""
    if deal.monitoring not in {Monitoring.PENDING, Monitoring.ARMED}:
        return [_UNWATCHED[deal.monitoring]]
    reasons = []
    if settings.STATIC_ONLY:
        reasons.append("STATIC_ONLY is on: deals are not watched.")
    if system_state != SystemState.State.RUNNING:
        reasons.append(f"The system is {system_state}: nothing fires.")
    if held is None:
        return [*reasons, "Redis does not answer: what the trigger book holds cannot be seen."]
    if held.fired is not None:
        return [*reasons, _why_fired_is_open(deal, held.fired)]
    if deal.monitoring == Monitoring.PENDING:
        reasons.append("It waits to be armed; the sweep does it within 2 s.")
    elif held.book_version is None:
        reasons.append("It is armed but missing from the trigger book: only the sweep protects it now.")
    return reasons + _why_price_did_not_fire(deal, held.price)


def _why_fired_is_open(deal: Deal, fired: Fired) -> str:
    if fired.version != deal.watch_version:
        return (
            f"It fired at {fired.price} with version {fired.version}, but its levels changed since (version "
            f"{deal.watch_version}): that closes nothing, and it is armed as it stands."
        )
    return f"It fired at {fired.price} and waits to be settled."


def _why_price_did_not_fire(deal: Deal, last: LastPrice | None) -> list[str]:
    if last is None:
        return [f"There is no price of {deal.symbol}."]
    if not last.is_fresh:
        return [f"The price of {deal.symbol} is stale ({last.age_ms / 1000:.0f} s old): nothing fires on it."]
    triggers = Triggers(deal.upper_trigger, deal.lower_trigger)
    direction: Any = deal.direction
    if close_reason(direction, triggers, last.price) is None:
        return [f"The price, {plain(last.price)}, has not reached a trigger."]
    return [f"The price, {plain(last.price)}, lies beyond a trigger: the next tick or the sweep fires it."]


_UNWATCHED: Final[dict[str, str]] = {
    Monitoring.NONE: "It has neither Take Profit nor Stop Loss.",
    Monitoring.REMOVED: "An operator took it out of monitoring.",
    Monitoring.EXPIRED: "Its monitoring time has run out.",
    Monitoring.DEAD: "It could not be settled: see its dead letter.",
    Monitoring.ENDED: "It is closed.",
}
