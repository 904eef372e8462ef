"""A deal's own page in words: its figures, why it is open or how it closed, and its history as a timeline.

All of it from `monitoring.jobs`; prices in USDT a unit. Raises deals.errors.NotFound.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Final, NamedTuple

from deals.admin_base import NOTHING, utc_text
from deals.models import CloseReason, Deal, DealEvent, Status
from deals.money import plain
from monitoring import jobs
from monitoring.jobs import Job, TriggerView

SEEN_BY: Final = {
    "tick": "seen by a tick",
    "arm": "seen when it was armed",
    "sweep": "seen by the sweep",
    "manual": "by hand",
}
TONES: Final = {
    "fired": "line", "attempt": "warn", "removed": "warn", "expired": "warn", "dead": "bad",
}  # fmt: skip
TITLES: Final = {
    "opened": "Opened",
    "armed": "Armed",
    "amended": "Levels amended",
    "fired": "Fired",
    "attempt": "Settling failed",
    "closed": "Closed",
    "removed": "Taken out of monitoring",
    "expired": "Monitoring time ran out",
    "dead": "Given up: a dead letter",
}

UNITS: Final = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))
"""Seconds of a unit and of the next smaller one."""


class Moment(NamedTuple):
    """A time as it is shown, and as a browser reads it."""

    text: str
    iso: str


class Figure(NamedTuple):
    """A number with its name and what stands below it; `tone` colours it: good, warn, bad, line or none."""

    name: str
    value: str
    note: str = ""
    tone: str = ""
    moment: Moment | None = None


class Step(NamedTuple):
    """An event of the timeline; `after` is how long after the one before it came."""

    title: str
    tone: str
    moment: Moment
    after: str
    facts: list[str]
    error: str


class Way(NamedTuple):
    """A part of the way from the tick to the commit, and its share of it in tenths, for a bar."""

    name: str
    took: str
    tenths: int


class DealPage(NamedTuple):
    """Everything that the page shows besides the chart."""

    job: Job
    deal: Deal
    badge: Figure
    figures: list[Figure]
    steps: list[Step]
    ways: list[Way]
    total: str
    read_at: Moment


def deal_page(deal_id: int) -> DealPage:
    """Read now."""
    job = jobs.explain(deal_id)
    deal = job.deal
    received, committed = deal.received_at, None if deal.settlement is None else deal.settlement.committed_at
    return DealPage(
        job=job,
        deal=deal,
        badge=_badge(job),
        figures=list(_figures(job)),
        steps=_timeline(job.history, deal),
        ways=list(_ways(deal, committed)),
        total="" if received is None or committed is None else length(committed - received),
        read_at=moment(job.read_at),
    )


def moment(at: datetime) -> Moment:
    """To the millisecond, in UTC."""
    return Moment(utc_text(at, "milliseconds"), at.isoformat(timespec="milliseconds"))


def length(took: timedelta) -> str:
    """3.2 ms, 45 ms, 1.3 s, 2 min 5 s, 3 h 12 min, 4 d 2 h."""
    ms = took / timedelta(milliseconds=1)
    for limit_ms, text in ((10, f"{ms:.1f} ms"), (1_000, f"{ms:.0f} ms"), (60_000, f"{ms / 1_000:.1f} s")):
        if ms < limit_ms:
            return text
    seconds = int(took.total_seconds())
    size, unit, part, small = next(row for row in UNITS if seconds >= row[0])
    return f"{seconds // size} {unit} {seconds % size // part} {small}"


def _badge(job: Job) -> Figure:
    """What state the deal is in, in a word."""
    if job.deal.status == Status.CLOSED:
        reason = CloseReason(job.deal.close_reason or "").label
        return Figure("State", "Closed", reason, _outcome(job.deal))
    tones = {"armed": "good", "none": "", "fired": "line", "dead": "bad"}
    return Figure("State", job.state.capitalize(), "", tones.get(job.state, "warn"))


def _figures(job: Job) -> Iterator[Figure]:
    deal = job.deal
    yield Figure("Entry", plain(deal.open_price), moment=moment(deal.opened_at))
    for reason, level in ((CloseReason.TAKE_PROFIT, deal.take_profit), (CloseReason.STOP_LOSS, deal.stop_loss)):
        yield Figure(str(reason.label), _or_nothing(level), _way_to(job, reason))
    if deal.closed_at is not None:
        yield Figure("Close", _or_nothing(deal.close_price), moment=moment(deal.closed_at))
        profit = deal.profit or Decimal(0)
        sign = "+" if profit > 0 else ""
        note = f"commission {_or_nothing(deal.commission)}"
        yield Figure("Profit, USDT", f"{sign}{plain(profit)}", note, _outcome(deal))
    else:
        yield _price_now(job)
        yield Figure("Amount, USDT", plain(deal.amount), f"× {deal.multiplier}")


def _price_now(job: Job) -> Figure:
    if not job.redis_answers:
        return Figure("Price now", NOTHING, "Redis does not answer", "bad")
    if job.last_price is None:
        return Figure("Price now", NOTHING, "none yet", "warn")
    age, fresh = timedelta(milliseconds=job.last_price.age_ms), job.last_price.is_fresh
    note = f"{length(age)} old{'' if fresh else ': stale'}"
    return Figure("Price now", plain(job.last_price.price), note, "" if fresh else "bad")


def _outcome(deal: Deal) -> str:
    """The tone of a closed deal."""
    profit = deal.profit or Decimal(0)
    return "good" if profit > 0 else "bad" if profit < 0 else ""


def _way_to(job: Job, level: str) -> str:
    if job.deal.status == Status.CLOSED:
        return "reached" if job.deal.close_reason == level else ""
    found: list[TriggerView] = [trigger for trigger in job.triggers if trigger.level == level]
    if not found or found[0].distance_percent is None:
        return ""
    share = found[0].distance_percent
    return "reached" if share <= 0 else f"{plain(share)} % away"


def _or_nothing(value: Decimal | None) -> str:
    return NOTHING if value is None else plain(value)


def _timeline(events: list[DealEvent], deal: Deal) -> list[Step]:
    """Every event, oldest first."""
    steps = []
    before: datetime | None = None
    for event in events:
        steps.append(
            Step(
                title=_title(event, deal),
                tone=_tone(event, deal),
                moment=moment(event.at),
                after="" if before is None or event.at < before else f"+{length(event.at - before)}",
                facts=list(_facts(event)),
                error=event.error,
            )
        )
        before = event.at
    return steps


def _title(event: DealEvent, deal: Deal) -> str:
    title = TITLES[event.kind]
    if event.price is not None:
        title += f" at {plain(event.price)}"
    if event.kind == DealEvent.Kind.CLOSED and deal.close_reason:
        title += f" · {CloseReason(deal.close_reason).label}"
    return title


def _tone(event: DealEvent, deal: Deal) -> str:
    if event.kind == DealEvent.Kind.CLOSED:
        return _outcome(deal)
    return TONES.get(event.kind, "")


def _facts(event: DealEvent) -> Iterator[str]:
    if event.detector and event.kind != DealEvent.Kind.CLOSED:
        yield SEEN_BY[event.detector]
    if event.trade_id is not None:
        yield f"trade {event.trade_id}"
    if event.gap_ms:
        yield f"first price after {length(timedelta(milliseconds=event.gap_ms))} without any"
    yield f"version {event.version}"


def _ways(deal: Deal, committed: datetime | None) -> Iterator[Way]:
    """From the exchange to the commit, of a deal that its trigger closed."""
    names = ("exchange to us", "received to fired", "fired to a worker", "worker to commit")
    times = (deal.close_tick_at, deal.received_at, deal.fired_at, deal.started_at, committed)
    known = [at for at in times if at is not None]
    if deal.received_at is None or len(known) < len(times) - 1:  # closed by hand
        return
    took = [max(timedelta(0), later - at) for at, later in pairwise(known)]
    longest = max(took) or timedelta(milliseconds=1)
    for name, part in zip(names, took, strict=False):  # the commit's time may not be recorded
        yield Way(name, length(part), max(1, round(part / longest * 10)))
